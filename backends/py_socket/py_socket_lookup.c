/* SPDX-License-Identifier: Apache-2.0 */
/* The answering side, and the life of both. */
#include "py_socket_lookup.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <zmq.h>

#include "py_socket_lookup_parts.h"
#include "setting.h"

#define ANSWER_ROOM 128u
#define COMPLAIN_MS 1000u

static void lookup_complain(struct py_socket_lookup *lookup, const char *what)
{
    const struct kvl_host *host = lookup->config.host;
    uint64_t now = host->now_ms(host);

    py_socket_count(&lookup->config.counters->lookups_in_failed);
    if (lookup->complained_ms == 0 || now >= lookup->complained_ms + COMPLAIN_MS) {
        lookup->complained_ms = now;
        kvl_warn(host->log, "py_socket: lookup at '%s' failed: %s", lookup->url, what);
    }
}

/* Who asks; retained. NULL when it has not done the handshake. */
static struct py_socket_peer *lookup_peer(struct py_socket_lookup *lookup,
                                          const struct kvl_text *name)
{
    char id[KVL_CHANNEL_URL_ROOM];

    if (name->length > KVL_CHANNEL_URL_MAX) {
        return NULL;
    }
    memcpy(id, name->text, name->length);
    id[name->length] = '\0';
    return py_socket_peers_find(lookup->peers, id);
}

/* Lists as arrays, in one piece of memory. @return it, to be freed; NULL. */
static void *lookup_unpack(struct py_socket_msg *msg, struct py_socket_chunks *chunks_out)
{
    uint32_t count = msg->keys.count;
    size_t one = sizeof(struct kvl_text) + 2 * sizeof(uint64_t);
    struct kvl_text *keys = calloc(count + 1u, one);
    uint64_t *indexes;
    uint64_t *offsets;

    if (keys == NULL) {
        return NULL;
    }
    indexes = (uint64_t *)(void *)(keys + count);
    offsets = indexes + count;
    for (uint32_t i = 0; i < count; i++) {
        keys[i] = py_socket_list_text(&msg->keys);
        indexes[i] = py_socket_list_number(&msg->mem_indexes);
        offsets[i] = py_socket_list_number(&msg->offsets);
    }
    *chunks_out = (struct py_socket_chunks){
        .keys = keys,
        .offsets = msg->type == PY_SOCKET_LOOKUP_PUT ? offsets : NULL,
        .mem_indexes = indexes,
        .count = count,
    };
    return keys;
}

/* @return chunks moved; -ENOTCONN, -EINVAL, -ENOMEM; what the owner of the chunks said. */
static int lookup_move(struct py_socket_lookup *lookup, struct py_socket_msg *msg)
{
    int is_put = msg->type == PY_SOCKET_LOOKUP_PUT;
    struct py_socket_chunks chunks;
    struct py_socket_peer *peer;
    void *memory;
    int r;

    if (msg->keys.count != msg->mem_indexes.count ||
        (is_put && msg->keys.count != msg->offsets.count)) {
        return -EINVAL;
    }
    peer = lookup_peer(lookup, &msg->text);
    if (peer == NULL) {
        return -ENOTCONN;
    }
    memory = lookup_unpack(msg, &chunks);
    if (memory == NULL) {
        r = -ENOMEM;
    } else if (is_put) {
        r = lookup->ops->put(lookup->ops->ctx, peer, &chunks);
    } else {
        r = lookup->ops->get(lookup->ops->ctx, peer, &chunks);
    }
    free(memory);
    py_socket_peer_release(peer);
    return r;
}

static const char *lookup_why(int code)
{
    switch (code) {
    case -ENOTCONN:
        return "the peer has not done the handshake";
    case -EINVAL:
        return "lists of different lengths";
    default:
        return strerror(-code);
    }
}

static void lookup_answer(struct py_socket_lookup *lookup, const void *frame, size_t length,
                          struct kvl_pack_out *out)
{
    char reason[PY_SOCKET_REASON_ROOM];
    struct py_socket_msg msg;
    int r = py_socket_decode(frame, length, &msg, reason);

    if (r < 0) {
        py_socket_count(&lookup->config.counters->frames_bad);
        lookup_complain(lookup, reason);
        py_socket_put_error(out, r == -ENOTSUP ? PY_SOCKET_ERROR_UNKNOWN : PY_SOCKET_ERROR_SERVER);
        return;
    }
    if (msg.type != PY_SOCKET_LOOKUP_GET && msg.type != PY_SOCKET_LOOKUP_PUT) {
        lookup_complain(lookup, "a message that is no question");
        py_socket_put_error(out, PY_SOCKET_ERROR_UNKNOWN);
        return;
    }
    r = lookup_move(lookup, &msg);
    if (r < 0) {
        lookup_complain(lookup, lookup_why(r));
    }
    if (msg.type == PY_SOCKET_LOOKUP_PUT) {
        py_socket_put_lookup_put_ret(out, r < 0 ? 0 : r);
    } else if (r < 0) {
        py_socket_put_error(out,
                            r == -ENOTCONN ? PY_SOCKET_ERROR_NO_HANDSHAKE : PY_SOCKET_ERROR_SERVER);
    } else {
        py_socket_put_lookup_get_ret(out, r);
    }
}

/* @return 1; 0 when nothing has come in. */
static int lookup_answer_one(struct py_socket_lookup *lookup)
{
    uint8_t bytes[ANSWER_ROOM];
    struct kvl_pack_out out;
    zmq_msg_t frame;
    int more;

    (void)zmq_msg_init(&frame);
    if (zmq_msg_recv(&frame, lookup->rep, ZMQ_DONTWAIT) < 0) {
        (void)zmq_msg_close(&frame);
        return 0;
    }
    py_socket_count(&lookup->config.counters->lookups_in);
    kvl_pack_out_init(&out, bytes, sizeof(bytes));
    more = zmq_msg_more(&frame);
    if (more) {
        lookup_complain(lookup, "more than one frame");
        py_socket_put_error(&out, PY_SOCKET_ERROR_SERVER);
    } else {
        lookup_answer(lookup, zmq_msg_data(&frame), zmq_msg_size(&frame), &out);
    }
    while (more) {
        (void)zmq_msg_recv(&frame, lookup->rep, ZMQ_DONTWAIT);
        more = zmq_msg_more(&frame);
    }
    (void)zmq_msg_close(&frame);
    (void)zmq_send(lookup->rep, bytes, out.length, ZMQ_DONTWAIT);
    return 1;
}

static int lookup_is_stopping(struct py_socket_lookup *lookup)
{
    int is_stopping;

    pthread_mutex_lock(&lookup->lock);
    is_stopping = lookup->is_stopping;
    pthread_mutex_unlock(&lookup->lock);
    return is_stopping;
}

static void *lookup_thread(void *arg)
{
    struct py_socket_lookup *lookup = arg;

    while (!lookup_is_stopping(lookup)) {
        zmq_pollitem_t items[2] = {
            {.socket = lookup->rep, .events = ZMQ_POLLIN},
            {.fd = lookup->stop_fd, .events = ZMQ_POLLIN},
        };

        if (!lookup_answer_one(lookup)) {
            (void)zmq_poll(items, 2, -1);
        }
    }
    return NULL;
}

/* ---- life ---- */

int py_socket_lookup_create(const struct py_socket_lookup_config *config,
                            struct py_socket_lookup **lookup_out, struct kvl_err *err)
{
    struct py_socket_lookup *lookup = calloc(1, sizeof(*lookup));
    int r = 0;

    if (lookup == NULL) {
        return kvl_fail(err, -ENOMEM, "py_socket: no memory");
    }
    lookup->config = *config;
    pthread_mutex_init(&lookup->lock, NULL);
    pthread_cond_init(&lookup->freed, NULL);
    lookup->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (lookup->stop_fd < 0) {
        r = kvl_fail(err, -errno, "py_socket: no eventfd: %s", strerror(errno));
    } else if (config->bind != NULL && config->bind[0] != '\0') {
        r = py_socket_zmq_serve(config->zmq, "lookup_bind", config->bind, PY_SOCKET_LOOKUP_BYTES,
                                &lookup->rep, lookup->url, err);
    }
    if (r < 0) {
        py_socket_lookup_destroy(lookup);
        return r;
    }
    *lookup_out = lookup;
    return 0;
}

int py_socket_lookup_start(struct py_socket_lookup *lookup, struct py_socket_peers *peers,
                           const struct py_socket_chunks_ops *ops)
{
    const struct kvl_host *host = lookup->config.host;
    int r;

    if (lookup->rep == NULL) {
        return 0;
    }
    lookup->peers = peers;
    lookup->ops = ops;
    r = host->thread_create(host, "kvl-ps-lookup", lookup_thread, lookup, &lookup->thread);
    lookup->has_thread = r == 0;
    if (r == 0) {
        kvl_info(host->log, "py_socket: peers may ask for chunks at '%s'", lookup->url);
    }
    return r;
}

void py_socket_lookup_stop(struct py_socket_lookup *lookup)
{
    const struct kvl_host *host = lookup->config.host;
    const uint64_t one = 1;

    pthread_mutex_lock(&lookup->lock);
    lookup->is_stopping = 1;
    pthread_cond_broadcast(&lookup->freed);
    pthread_mutex_unlock(&lookup->lock);
    if (write(lookup->stop_fd, &one, sizeof(one)) < 0) {
        kvl_warn(host->log, "py_socket: cannot wake a thread: %s", strerror(errno));
    }
    if (lookup->has_thread) {
        (void)host->thread_join(host, lookup->thread);
        lookup->has_thread = 0;
    }
}

void py_socket_lookup_destroy(struct py_socket_lookup *lookup)
{
    if (lookup == NULL) {
        return;
    }
    lookup_hang_up(lookup);
    py_socket_zmq_close(lookup->config.zmq, lookup->rep);
    if (lookup->stop_fd >= 0) {
        close(lookup->stop_fd);
    }
    pthread_cond_destroy(&lookup->freed);
    pthread_mutex_destroy(&lookup->lock);
    free(lookup);
}

const char *py_socket_lookup_url(const struct py_socket_lookup *lookup)
{
    return lookup->url;
}
