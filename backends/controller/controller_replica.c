/* SPDX-License-Identifier: Apache-2.0 */
#include "controller_replica.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <zmq.h>

#include "controller_bind.h"
#include "controller_replica_state.h"
#include "setting.h"

#define IO_REPLICA 1

/* ---- what changes the registry ---- */

static pthread_mutex_t *replica_stripe(struct controller_replica *replica,
                                       const struct kvl_worker_name *name)
{
    uint64_t hash = 0xcbf29ce484222325ull ^ (uint64_t)name->worker_id;

    for (uint32_t i = 0; i < name->instance.length; i++) {
        hash = (hash ^ (uint8_t)name->instance.text[i]) * 0x100000001b3ull;
    }
    return &replica->stripes[(hash ^ hash >> 32) % CONTROLLER_REPLICA_STRIPES];
}

void controller_replica_enter(struct controller_replica *replica,
                              const struct kvl_worker_name *name)
{
    if (replica != NULL) {
        pthread_mutex_lock(replica_stripe(replica, name));
    }
}

void controller_replica_leave(struct controller_replica *replica,
                              const struct kvl_worker_name *name)
{
    if (replica != NULL) {
        pthread_mutex_unlock(replica_stripe(replica, name));
    }
}

void controller_replica_tell(struct controller_replica *replica, enum controller_record_kind kind,
                             const void *frame, size_t length)
{
    if (replica != NULL && controller_ring_add(&replica->ring, kind, frame, length)) {
        controller_count_add(replica->counts, CONTROLLER_COUNT_REPLICA_RECORDS, 1);
    }
}

void controller_replica_tell_removed(struct controller_replica *replica,
                                     const struct kvl_worker_name *name)
{
    const struct controller_msg msg = {
        .type = CONTROLLER_DEREGISTER,
        .instance_id = name->instance,
        .worker_id = name->worker_id,
    };
    struct controller_buf frame = {0};

    /* Without memory it stays at the standbys until they reap it themselves. */
    if (replica != NULL && controller_encode(&msg, &frame) == 0) {
        controller_replica_tell(replica, CONTROLLER_RECORD_EVENT, frame.at, frame.length);
    }
    controller_buf_fini(&frame);
}

/* ---- life ---- */

int controller_replica_grow(struct controller_replica *replica, size_t room)
{
    uint8_t *piece = realloc(replica->piece, CONTROLLER_REPLICA_OVERHEAD + room);

    if (piece == NULL) {
        return -ENOMEM;
    }
    replica->piece = piece;
    replica->piece_room = room;
    return 0;
}

int controller_replica_create(const struct kvl_host *host, const struct controller_options *options,
                              struct controller_counts *counts,
                              struct controller_replica **replica_out)
{
    struct controller_replica *replica = calloc(1, sizeof(*replica));

    if (replica == NULL) {
        return -ENOMEM;
    }
    replica->host = host;
    replica->options = options;
    replica->counts = counts;
    replica->saver.fd = -1;
    if (controller_replica_grow(replica, CONTROLLER_PIECE_BYTES) < 0 ||
        controller_ring_init(&replica->ring, options->replica_buffer) < 0) {
        free(replica->piece);
        free(replica);
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < CONTROLLER_REPLICA_STRIPES; i++) {
        (void)pthread_mutex_init(&replica->stripes[i], NULL);
    }
    for (uint32_t i = 0; i < CONTROLLER_STANDBYS_MAX; i++) {
        replica->standbys[i].fd = -1;
    }
    (void)pthread_mutex_init(&replica->saver.lock, NULL);
    (void)pthread_cond_init(&replica->saver.wake, NULL);
    *replica_out = replica;
    return 0;
}

void controller_replica_destroy(struct controller_replica *replica)
{
    if (replica == NULL) {
        return;
    }
    for (uint32_t i = 0; i < CONTROLLER_REPLICA_STRIPES; i++) {
        (void)pthread_mutex_destroy(&replica->stripes[i]);
    }
    (void)pthread_cond_destroy(&replica->saver.wake);
    (void)pthread_mutex_destroy(&replica->saver.lock);
    controller_ring_fini(&replica->ring);
    free(replica->piece);
    free(replica);
}

int controller_replica_open(struct controller_replica *replica, void *zmq, int32_t *port_out,
                            struct kvl_err *err)
{
    const int32_t port = replica->options->replica_port;
    struct controller_options own = *replica->options;
    const int on = 1;
    int r;

    own.limits.frame_bytes = CONTROLLER_REPLICA_ASK_BYTES;
    r = controller_bind(zmq, &own, ZMQ_ROUTER, port < 0 ? 0 : port, IO_REPLICA, &replica->socket,
                        port_out, err);
    if (r == 0 && zmq_setsockopt(replica->socket, ZMQ_ROUTER_MANDATORY, &on, sizeof(on)) != 0) {
        r = kvl_fail(err, -zmq_errno(), "controller: cannot set up the replica socket");
    }
    return r;
}

int controller_replica_start(struct controller_replica *replica, struct kvl_err *err)
{
    static const struct {
        const char *name;
        void *(*run)(void *);
    } threads[2] = {
        {"kvl-ctl-base", controller_replica_save},
        {"kvl-ctl-replica", controller_replica_serve},
    };

    for (uint32_t i = 0; i < 2; i++) {
        int r = replica->host->thread_create(replica->host, threads[i].name, threads[i].run,
                                             replica, &replica->threads[i]);

        if (r < 0) {
            return kvl_fail(err, r, "controller: cannot start a thread: %s", strerror(-r));
        }
        replica->thread_count++;
    }
    return 0;
}

void controller_replica_stop(struct controller_replica *replica)
{
    pthread_mutex_lock(&replica->saver.lock);
    replica->saver.stopping = 1;
    pthread_cond_signal(&replica->saver.wake);
    pthread_mutex_unlock(&replica->saver.lock);
    for (uint32_t i = 0; i < replica->thread_count; i++) {
        (void)replica->host->thread_join(replica->host, replica->threads[i]);
    }
    replica->thread_count = 0;
    if (replica->saver.fd >= 0) {
        close(replica->saver.fd);
        replica->saver.fd = -1;
    }
    if (replica->socket != NULL) {
        (void)zmq_close(replica->socket);
        replica->socket = NULL;
    }
}

void controller_replica_refuse(struct controller_replica *replica, int refuse)
{
    if (replica != NULL) {
        atomic_store(&replica->refuse, refuse);
    }
}

void controller_replica_look(const struct controller_replica *replica,
                             struct controller_replica_view *view_out)
{
    view_out->standbys = atomic_load(&replica->followers);
    view_out->beginning = atomic_load(&replica->beginners);
    view_out->behind = atomic_load(&replica->behind);
}
