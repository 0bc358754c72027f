/* SPDX-License-Identifier: Apache-2.0 */
#include "controller_worker.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <zmq.h>

#include "controller_events.h"
#include "controller_link.h"
#include "controller_locate.h"
#include "controller_options.h"
#include "controller_service.h"
#include "controller_sync.h"
#include "setting.h"

#define FAREWELL_MS 1000

/* How long after the start questions may wait for a controller that was never heard of. */
#define FIRST_ANSWER_MS 2000u

struct controller_worker {
    const struct kvl_host *host; /* borrowed */
    struct controller_worker_options options;
    struct controller_identity self; /* complete once started */
    const char *locations[CONTROLLER_PLACES]; /* by KVL_WHERE_ */
    pthread_mutex_t address_lock; /* guards the two, which health shows while start sets them */
    char ip[KVL_NAME_ROOM];
    int64_t port;
    void *zmq;
    int stop_fd;
    struct controller_service *service;
    struct controller_events *events;
    struct controller_sync *sync;
    struct controller_link *link;
    struct controller_locate *locate;
};

/* ---- life ---- */

/* The address that packets to the internet would leave from. None is sent. */
static void worker_find_ip(char *ip_out, size_t room)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(80)};
    socklen_t length = sizeof(addr);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    (void)snprintf(ip_out, room, "127.0.0.1");
    addr.sin_addr.s_addr = htonl(0x08080808);
    if (fd < 0) {
        return;
    }
    if (connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) == 0 &&
        getsockname(fd, (struct sockaddr *)&addr, &length) == 0) {
        (void)inet_ntop(AF_INET, &addr.sin_addr, ip_out, (socklen_t)room);
    }
    close(fd);
}

static int worker_make_service(struct controller_worker *worker)
{
    const struct controller_service_desc desc = {
        .host = worker->host,
        .zmq = worker->zmq,
        .stop_fd = &worker->stop_fd,
        .allow_remote = worker->options.allow_remote,
        .port = worker->options.port,
        .location = worker->options.location,
        .pin_ms = worker->options.pin_ms,
        .move_ms = worker->options.recv_ms,
        .pin_bytes = worker->options.pin_bytes,
        .hashing = worker->options.hashing,
        .limits = worker->options.limits,
    };

    return controller_service_create(&desc, &worker->service);
}

static void worker_lost_events(void *ctx)
{
    struct controller_worker *worker = ctx;

    controller_link_kick(worker->link);
}

static int worker_make_events(struct controller_worker *worker)
{
    const struct controller_events_desc desc = {
        .host = worker->host,
        .zmq = worker->zmq,
        .self = &worker->self,
        .url = worker->options.pull_url,
        .locations = worker->locations,
        .batch_size = worker->options.batch_size,
        .batch_timeout_ms = worker->options.batch_timeout_ms,
        .changed = worker_lost_events,
        .ctx = worker,
    };

    return controller_events_create(&desc, &worker->events);
}

static struct controller_req_desc worker_req(struct controller_worker *worker)
{
    return (struct controller_req_desc){
        .host = worker->host,
        .zmq = worker->zmq,
        .url = worker->options.reply_url,
        .stop_fd = &worker->stop_fd,
        .recv_ms = worker->options.recv_ms,
        .send_ms = worker->options.send_ms,
    };
}

static int worker_make_sync(struct controller_worker *worker)
{
    const struct controller_sync_desc desc = {
        .host = worker->host,
        .self = &worker->self,
        .events = worker->events,
        .req = worker_req(worker),
        .locations = worker->locations,
        .batch_size = worker->options.sync_batch_size,
        .startup_delay_ms = worker->options.sync_startup_delay_ms,
    };

    return controller_sync_create(&desc, &worker->sync);
}

static int worker_make_link(struct controller_worker *worker)
{
    const struct controller_link_desc desc = {
        .host = worker->host,
        .self = &worker->self,
        .events = worker->events,
        .sync = worker->sync,
        .req = worker_req(worker),
        .heartbeat_delay_ms = worker->options.heartbeat_delay_ms,
        .heartbeat_ms = worker->options.heartbeat_ms,
    };

    return controller_link_create(&desc, &worker->link);
}

static int worker_make_locate(struct controller_worker *worker)
{
    const struct controller_locate_desc desc = {
        .host = worker->host,
        .self = &worker->self,
        .req = worker_req(worker),
    };

    return controller_locate_create(&desc, &worker->locate);
}

/* The library opens descriptors and threads with the first socket, and that is made at start. */
static int worker_make(struct controller_worker *worker)
{
    int r;

    worker->zmq = zmq_ctx_new();
    if (worker->zmq == NULL) {
        return -ENOMEM;
    }
    r = worker_make_service(worker);
    if (r == 0) {
        r = worker_make_events(worker);
    }
    if (r == 0) {
        r = worker_make_sync(worker);
    }
    if (r == 0) {
        r = worker_make_link(worker);
    }
    return r == 0 ? worker_make_locate(worker) : r;
}

int controller_worker_create(const struct kvl_host *host,
                             const struct controller_worker_options *options,
                             struct controller_worker **worker_out, struct kvl_err *err)
{
    struct controller_worker *worker;
    int r;

    if (host->size <
            offsetof(struct kvl_host, store_events_wake) + sizeof(host->store_events_wake) ||
        host->store_events == NULL) {
        return kvl_fail(err, -ENODEV,
                        "controller: this libkvlane.so does not tell changes of its store");
    }
    worker = calloc(1, sizeof(*worker));
    if (worker == NULL) {
        return kvl_fail(err, -ENOMEM, "controller: no memory");
    }
    worker->host = host;
    worker->options = *options;
    worker->stop_fd = -1;
    worker->locations[KVL_WHERE_HOST] = worker->options.location;
    worker->locations[KVL_WHERE_GPU] = CONTROLLER_GPU_LOCATION;
    worker->self = (struct controller_identity){
        .instance_id = options->instance_id,
        .worker_id = options->worker_id,
        .ip = worker->ip,
        .peer_init_url = options->peer_init_url,
    };
    pthread_mutex_init(&worker->address_lock, NULL);
    r = worker_make(worker);
    if (r < 0) {
        controller_worker_destroy(worker);
        return kvl_fail(err, r, "controller: %s", strerror(-r));
    }
    *worker_out = worker;
    return 0;
}

static int worker_serve(struct controller_worker *worker, struct kvl_err *err)
{
    char ip[KVL_NAME_ROOM] = "127.0.0.1";
    int32_t port = 0;
    int r;

    worker->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (worker->stop_fd < 0) {
        return kvl_fail(err, -errno, "controller: cannot make an event descriptor");
    }
    r = controller_service_start(worker->service, &port);
    if (r < 0) {
        return kvl_fail(err, r, "controller: cannot serve control calls on port %d: %s",
                        (int)worker->options.port, strerror(-r));
    }
    if (worker->options.ip[0] != '\0') {
        (void)snprintf(ip, sizeof(ip), "%s", worker->options.ip);
    } else if (worker->options.allow_remote) {
        worker_find_ip(ip, sizeof(ip));
    }
    pthread_mutex_lock(&worker->address_lock);
    memcpy(worker->ip, ip, sizeof(ip));
    worker->port = port;
    pthread_mutex_unlock(&worker->address_lock);
    worker->self.port = port;
    return 0;
}

/* The link comes last: what it announces is there already. */
static int worker_run(struct controller_worker *worker)
{
    int r = controller_events_start(worker->events);

    if (r == 0) {
        r = controller_sync_start(worker->sync);
    }
    if (r == 0) {
        r = controller_locate_start(worker->locate);
    }
    return r == 0 ? controller_link_start(worker->link) : r;
}

int controller_worker_start(struct controller_worker *worker, struct kvl_err *err)
{
    int r = worker_serve(worker, err);

    if (r == 0) {
        r = worker_run(worker);
        if (r < 0) {
            (void)kvl_fail(err, r, "controller: cannot start its threads: %s", strerror(-r));
        }
    }
    if (r < 0) {
        controller_worker_stop(worker);
    }
    return r;
}

/* Events last: the other threads may still push. */
static void worker_join(struct controller_worker *worker)
{
    const uint64_t one = 1;
    ssize_t n = write(worker->stop_fd, &one, sizeof(one));

    (void)n;
    controller_link_stop(worker->link);
    controller_locate_stop(worker->locate);
    controller_sync_stop(worker->sync);
    controller_service_stop(worker->service);
    controller_events_stop(worker->events);
}

void controller_worker_stop(struct controller_worker *worker)
{
    struct controller_link_stats stats;
    struct controller_msg farewell;

    if (worker->stop_fd >= 0) {
        worker_join(worker);
        controller_link_stats(worker->link, &stats);
        controller_link_describe(&worker->self, CONTROLLER_DEREGISTER, &farewell);
        if (stats.registered) {
            (void)controller_events_push(worker->events, &farewell);
        }
        controller_events_close(worker->events, FAREWELL_MS);
        close(worker->stop_fd);
        worker->stop_fd = -1;
    }
    if (worker->zmq != NULL) {
        while (zmq_ctx_term(worker->zmq) < 0 && zmq_errno() == EINTR) {
        }
        worker->zmq = NULL;
    }
}

void controller_worker_destroy(struct controller_worker *worker)
{
    if (worker == NULL) {
        return;
    }
    controller_worker_stop(worker);
    controller_locate_destroy(worker->locate);
    controller_link_destroy(worker->link);
    controller_sync_destroy(worker->sync);
    controller_service_destroy(worker->service);
    controller_events_destroy(worker->events);
    pthread_mutex_destroy(&worker->address_lock);
    free(worker);
}

int controller_worker_locate(struct controller_worker *worker, const struct kvl_chunk_id *ids,
                             uint32_t count, uint64_t deadline_ms, kvl_locate_fn fn, void *ctx)
{
    struct controller_link_stats stats;

    controller_link_stats(worker->link, &stats);
    /* A controller that is away must not hold lookups up; one that is just being asked may. */
    if (!stats.answered &&
        (stats.failures > 0 ||
         worker->host->now_ms(worker->host) - stats.since_ms > FIRST_ANSWER_MS)) {
        return -ENOTCONN;
    }
    return controller_locate_ask(worker->locate, ids, count, deadline_ms, fn, ctx);
}

/* ---- watch ---- */

struct worker_watch {
    struct controller_link_stats link;
    struct controller_events_stats events;
    struct controller_sync_stats sync;
    struct controller_service_stats service;
    struct controller_locate_stats locate;
};

static void worker_watch(struct controller_worker *worker, struct worker_watch *watch_out)
{
    controller_link_stats(worker->link, &watch_out->link);
    controller_events_stats(worker->events, &watch_out->events);
    controller_sync_stats(worker->sync, &watch_out->sync);
    controller_service_stats(worker->service, &watch_out->service);
    controller_locate_stats(worker->locate, &watch_out->locate);
}

static unsigned long long worker_seconds(const struct controller_worker *worker, uint64_t since_ms)
{
    uint64_t now = worker->host->now_ms(worker->host);

    return (unsigned long long)(now > since_ms ? (now - since_ms) / 1000 : 0);
}

/* What the controller knows of us. */
static uint32_t worker_say(const struct controller_worker *worker, const struct worker_watch *watch,
                           char *text, size_t room)
{
    if (watch->events.refused) {
        (void)snprintf(text, room, "another section reads the changes of the store");
        return KVL_HEALTH_DOWN;
    }
    if (!watch->link.registered) {
        (void)snprintf(text, room, "not registered since %llu s: %s",
                       worker_seconds(worker, watch->link.since_ms),
                       watch->link.why[0] != '\0' ? watch->link.why : "no answer yet");
        return KVL_HEALTH_DEGRADED;
    }
    if (!watch->link.answered) {
        (void)snprintf(text, room, "last answer %llu s ago: %s, %llu events dropped",
                       worker_seconds(worker, watch->link.last_answer_ms), watch->link.why,
                       (unsigned long long)watch->events.dropped);
        return KVL_HEALTH_DEGRADED;
    }
    if (watch->sync.why[0] != '\0') {
        (void)snprintf(text, room, "registered, but the last full sync failed: %s",
                       watch->sync.why);
        return KVL_HEALTH_DEGRADED;
    }
    if (!watch->events.connected) {
        (void)snprintf(text, room, "registered, but there is no connection to the pull port");
        return KVL_HEALTH_DEGRADED;
    }
    (void)snprintf(text, room, "registered, last answer %llu s ago, %llu events sent, %s",
                   worker_seconds(worker, watch->link.last_answer_ms),
                   (unsigned long long)watch->events.sent,
                   watch->sync.done == 0 ? "full sync to come" : "store announced");
    return KVL_HEALTH_OK;
}

void controller_worker_health(struct controller_worker *worker, struct kvl_health *health_out)
{
    struct worker_watch watch;

    worker_watch(worker, &watch);
    health_out->state = worker_say(worker, &watch, health_out->text, sizeof(health_out->text));
    pthread_mutex_lock(&worker->address_lock);
    (void)snprintf(health_out->address, sizeof(health_out->address), "%.180s:%lld", worker->ip,
                   (long long)worker->port);
    pthread_mutex_unlock(&worker->address_lock);
}

void controller_worker_stats(struct controller_worker *worker, kvl_stat_fn fn, void *ctx)
{
    struct worker_watch watch;

    worker_watch(worker, &watch);
    fn(ctx, "controller_answers_now", (uint64_t)watch.link.answered);
    fn(ctx, "registrations", watch.link.registrations);
    fn(ctx, "heartbeats", watch.link.heartbeats);
    fn(ctx, "questions_failed", watch.link.failures);
    fn(ctx, "commands", watch.link.commands);
    fn(ctx, "commands_unknown", watch.link.unknown_commands);
    fn(ctx, "events_sent", watch.events.sent);
    fn(ctx, "event_messages", watch.events.messages);
    fn(ctx, "events_dropped", watch.events.dropped);
    fn(ctx, "events_queued_now", watch.events.queued);
    fn(ctx, "connections_lost", watch.events.breaks);
    fn(ctx, "syncs_done", watch.sync.done);
    fn(ctx, "syncs_failed", watch.sync.failed);
    fn(ctx, "syncs_skipped", watch.sync.skipped);
    fn(ctx, "sync_keys_now", watch.sync.keys);
    fn(ctx, "sync_batches_resent", watch.sync.resent);
    fn(ctx, "lookups", watch.locate.asked);
    fn(ctx, "lookups_found", watch.locate.found);
    fn(ctx, "lookups_failed", watch.locate.failed);
    fn(ctx, "control_calls", watch.service.calls);
    fn(ctx, "control_calls_refused", watch.service.refused);
    fn(ctx, "chunks_cleared", watch.service.cleared);
    fn(ctx, "chunks_pinned_now", watch.service.pinned);
}
