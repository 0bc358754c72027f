/* SPDX-License-Identifier: Apache-2.0 */
#include "controller_worker.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <zmq.h>

#include "controller_events.h"
#include "controller_req.h"
#include "controller_role.h"
#include "controller_service.h"
#include "controller_sync.h"

#define FAREWELL_MS 1000
#define REGISTER_PAUSE_MS 1000u
/* From a broken connection to the heartbeat that asks who is there now. */
#define LOOK_AGAIN_MS 100u
#define LOOK_AGAIN_SPREAD_MS 400u

struct controller_worker {
    const struct kvl_host *host; /* borrowed */
    struct controller_worker_options options;
    struct controller_identity self;
    char ip[KVL_NAME_ROOM];
    void *zmq;
    int stop_fd;
    struct controller_events *events;
    struct controller_sync *sync;
    struct controller_service *service;
    uint64_t thread;
    bool has_thread;

    pthread_mutex_t lock; /* guards the rest of this block */
    pthread_cond_t changed;
    bool stopping;
    bool kicked; /* look after the controller soon */
    bool registered; /* once; from then on heartbeats keep it so */
    bool answered; /* the last question was */
    uint64_t since_ms; /* of `answered`, or of the start */
    uint64_t last_answer_ms; /* 0 = never */
    uint64_t registrations;
    uint64_t heartbeats;
    uint64_t failures; /* questions without a good answer */
    uint64_t commands;
    uint64_t unknown_commands;
    char why[CONTROLLER_WHY_MAX]; /* no good answer came */

    /* The link thread's own. */
    struct controller_req *reply;
    struct controller_req *heart; /* NULL = the controller gave no heartbeat_url */
    bool heart_failed; /* the last heartbeat through it: the next goes to the reply port */
};

static uint64_t worker_now(const struct controller_worker *worker)
{
    return worker->host->now_ms(worker->host);
}

/* ---- what the parts tell each other ---- */

static void worker_kick(void *ctx)
{
    struct controller_worker *worker = ctx;

    pthread_mutex_lock(&worker->lock);
    worker->kicked = true;
    pthread_cond_broadcast(&worker->changed);
    pthread_mutex_unlock(&worker->lock);
}

static void worker_note_start(struct controller_worker *worker)
{
    pthread_mutex_lock(&worker->lock);
    worker->since_ms = worker_now(worker);
    pthread_mutex_unlock(&worker->lock);
}

static void worker_note(struct controller_worker *worker, int r, const char *why)
{
    uint64_t now = worker_now(worker);
    bool turned;

    pthread_mutex_lock(&worker->lock);
    turned = worker->answered != (r == 0) || (r < 0 && worker->why[0] == '\0');
    if (worker->answered != (r == 0)) {
        worker->since_ms = now;
        worker->answered = r == 0;
    }
    if (r == 0) {
        worker->last_answer_ms = now;
        worker->why[0] = '\0';
    } else {
        worker->failures++;
        (void)snprintf(worker->why, sizeof(worker->why), "%s", why);
    }
    pthread_mutex_unlock(&worker->lock);
    if (turned && r < 0) {
        kvl_warn(worker->host->log, "controller: %s, will go on trying", why);
    }
}

/* ---- the link: registration and heartbeats ---- */

static void link_describe(const struct controller_worker *worker, enum controller_type type,
                          struct controller_msg *msg)
{
    memset(msg, 0, sizeof(*msg));
    msg->type = type;
    msg->instance_id = controller_text(worker->self.instance_id);
    msg->worker_id = worker->self.worker_id;
    msg->ip = controller_text(worker->self.ip);
    msg->port = worker->self.port;
    msg->peer_init_url.value = controller_text(worker->self.peer_init_url);
    msg->peer_init_url.is_set = worker->self.peer_init_url[0] != '\0';
}

static int link_req(struct controller_worker *worker, const char *url,
                    struct controller_req **req_out)
{
    const struct controller_req_desc desc = {
        .host = worker->host,
        .zmq = worker->zmq,
        .url = url,
        .stop_fd = &worker->stop_fd,
        .recv_ms = worker->options.recv_ms,
        .send_ms = worker->options.send_ms,
    };

    return controller_req_create(&desc, req_out);
}

static void link_take_heartbeat_url(struct controller_worker *worker,
                                    const struct controller_msg *answer)
{
    static const char name[] = "heartbeat_url";

    for (uint32_t i = 0; i < answer->extra_config.count; i++) {
        const struct controller_pair *pair = &answer->extra_config.at[i];
        char url[KVL_NAME_ROOM];

        if (pair->key.length != sizeof(name) - 1 ||
            memcmp(pair->key.text, name, sizeof(name) - 1) != 0 || pair->value.length == 0 ||
            pair->value.length > KVL_NAME_MAX) {
            continue;
        }
        memcpy(url, pair->value.text, pair->value.length);
        url[pair->value.length] = '\0';
        controller_req_destroy(worker->heart);
        worker->heart = NULL;
        worker->heart_failed = false;
        if (link_req(worker, url, &worker->heart) == 0) {
            kvl_info(worker->host->log, "controller: heartbeats go to '%s'",
                     controller_req_url(worker->heart));
        }
    }
}

static void link_ask_sync(struct controller_worker *worker)
{
    static const char reason[] = "worker_has_news";

    if (controller_events_lost(worker->events)) {
        controller_sync_request(worker->sync, reason, sizeof(reason) - 1);
    }
}

static int link_register(struct controller_worker *worker)
{
    struct controller_msg ask;
    struct controller_msg answer;
    char why[CONTROLLER_WHY_MAX];
    int r;

    link_describe(worker, CONTROLLER_REGISTER, &ask);
    r = controller_req_call(worker->reply, &ask, CONTROLLER_REGISTER_RET, &answer, why);
    if (r == -ECANCELED) {
        return r;
    }
    worker_note(worker, r, why);
    if (r < 0) {
        return r;
    }
    pthread_mutex_lock(&worker->lock);
    worker->registered = true;
    worker->registrations++;
    pthread_mutex_unlock(&worker->lock);
    kvl_info(worker->host->log, "controller: registered with '%s' as '%s' %lld",
             controller_req_url(worker->reply), worker->self.instance_id,
             (long long)worker->self.worker_id);
    link_take_heartbeat_url(worker, &answer);
    link_ask_sync(worker);
    return 0;
}

static void link_obey(struct controller_worker *worker, const struct controller_msg *answer)
{
    static const char full_sync[] = "full_sync";

    for (uint32_t i = 0; i < answer->commands.count; i++) {
        const struct controller_command *command = &answer->commands.at[i];
        bool known = command->command_type.length == sizeof(full_sync) - 1 &&
                     memcmp(command->command_type.text, full_sync, sizeof(full_sync) - 1) == 0;
        bool first;

        pthread_mutex_lock(&worker->lock);
        worker->commands += known;
        first = !known && worker->unknown_commands++ == 0;
        pthread_mutex_unlock(&worker->lock);
        if (known) {
            controller_events_set_lost(worker->events);
            controller_sync_request(worker->sync, command->reason.value.text,
                                    command->reason.is_set ? command->reason.value.length : 0);
        } else if (first) {
            kvl_warn(worker->host->log, "controller: command '%.*s' is not known here, skipped",
                     (int)(command->command_type.length < 64 ? command->command_type.length : 64),
                     command->command_type.text);
        }
    }
}

/* Heartbeats have a port of their own where the controller offers one. They are taken at the reply
 * port too, which is what is left when that port cannot be reached. */
static int link_heartbeat(struct controller_worker *worker)
{
    struct controller_req *req =
        worker->heart != NULL && !worker->heart_failed ? worker->heart : worker->reply;
    struct controller_msg ask;
    struct controller_msg answer;
    char why[CONTROLLER_WHY_MAX];
    int r;

    link_describe(worker, CONTROLLER_HEARTBEAT, &ask);
    r = controller_req_call(req, &ask, CONTROLLER_HEARTBEAT_RET, &answer, why);
    if (r == -ECANCELED) {
        return r;
    }
    worker->heart_failed = req == worker->heart && r < 0;
    worker_note(worker, r, why);
    if (r == 0) {
        pthread_mutex_lock(&worker->lock);
        worker->heartbeats++;
        pthread_mutex_unlock(&worker->lock);
        link_obey(worker, &answer);
        link_ask_sync(worker);
    }
    return r;
}

/* @return 0 the time is over, or a kick came; -ECANCELED. */
static int link_pause(struct controller_worker *worker, uint64_t ms, bool until_kick)
{
    uint64_t until = worker_now(worker) + ms;
    struct timespec at = {.tv_sec = (time_t)(until / 1000),
                          .tv_nsec = (long)(until % 1000) * 1000000};
    int r = 0;

    pthread_mutex_lock(&worker->lock);
    while (!worker->stopping && !(until_kick && worker->kicked) && r == 0) {
        r = pthread_cond_timedwait(&worker->changed, &worker->lock, &at);
    }
    if (until_kick) {
        r = worker->kicked ? EAGAIN : 0;
        worker->kicked = false;
    }
    r = worker->stopping ? -ECANCELED : (until_kick && r == EAGAIN ? 1 : 0);
    pthread_mutex_unlock(&worker->lock);
    return r;
}

static uint64_t link_spread(void)
{
    uint16_t value = 0;

    (void)!getrandom(&value, sizeof(value), GRND_NONBLOCK);
    return LOOK_AGAIN_MS + value % LOOK_AGAIN_SPREAD_MS;
}

static void *link_main(void *arg)
{
    struct controller_worker *worker = arg;
    uint64_t wait = worker->options.heartbeat_delay_ms;
    int r = link_register(worker);

    while (r < 0 && r != -ECANCELED) {
        r = link_pause(worker, REGISTER_PAUSE_MS, false);
        if (r == 0) {
            r = link_register(worker);
        }
    }
    while (r != -ECANCELED) {
        r = link_pause(worker, wait, true);
        if (r == 1) {
            r = link_pause(worker, link_spread(), false);
        }
        if (r == 0) {
            r = link_heartbeat(worker);
        }
        wait = worker->options.heartbeat_ms;
    }
    return NULL;
}

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
        .pin_bytes = worker->options.pin_bytes,
        .hashing = worker->options.hashing,
        .limits = worker->options.limits,
    };

    return controller_service_create(&desc, &worker->service);
}

static int worker_make_events(struct controller_worker *worker)
{
    const struct controller_events_desc desc = {
        .host = worker->host,
        .zmq = worker->zmq,
        .self = &worker->self,
        .url = worker->options.pull_url,
        .location = worker->options.location,
        .batch_size = worker->options.batch_size,
        .batch_timeout_ms = worker->options.batch_timeout_ms,
        .changed = worker_kick,
        .ctx = worker,
    };

    return controller_events_create(&desc, &worker->events);
}

static int worker_make_sync(struct controller_worker *worker)
{
    const struct controller_sync_desc desc = {
        .host = worker->host,
        .self = &worker->self,
        .events = worker->events,
        .req = {.host = worker->host,
                .zmq = worker->zmq,
                .url = worker->options.reply_url,
                .stop_fd = &worker->stop_fd,
                .recv_ms = worker->options.recv_ms,
                .send_ms = worker->options.send_ms},
        .location = worker->options.location,
        .batch_size = worker->options.sync_batch_size,
        .startup_delay_ms = worker->options.sync_startup_delay_ms,
    };

    return controller_sync_create(&desc, &worker->sync);
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
    return r == 0 ? link_req(worker, worker->options.reply_url, &worker->reply) : r;
}

int controller_worker_create(const struct kvl_host *host,
                             const struct controller_worker_options *options,
                             struct controller_worker **worker_out, struct kvl_err *err)
{
    struct controller_worker *worker;
    pthread_condattr_t attr;
    int r;

    if (host->size <
            offsetof(struct kvl_host, store_events_wake) + sizeof(host->store_events_wake) ||
        host->store_events == NULL) {
        return controller_err(err, -ENODEV,
                              "controller: this libkvlane.so does not tell changes of its store");
    }
    worker = calloc(1, sizeof(*worker));
    if (worker == NULL) {
        return controller_err(err, -ENOMEM, "controller: no memory");
    }
    worker->host = host;
    worker->options = *options;
    worker->stop_fd = -1;
    worker->self = (struct controller_identity){
        .instance_id = options->instance_id,
        .worker_id = options->worker_id,
        .ip = worker->ip,
        .peer_init_url = options->peer_init_url,
    };
    pthread_mutex_init(&worker->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&worker->changed, &attr);
    pthread_condattr_destroy(&attr);
    r = worker_make(worker);
    if (r < 0) {
        controller_worker_destroy(worker);
        return controller_err(err, r, "controller: %s", strerror(-r));
    }
    *worker_out = worker;
    return 0;
}

static int worker_serve(struct controller_worker *worker, struct kvl_err *err)
{
    int32_t port = 0;
    int r;

    worker->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (worker->stop_fd < 0) {
        return controller_err(err, -errno, "controller: cannot make an event descriptor");
    }
    if (worker->options.ip[0] != '\0') {
        (void)snprintf(worker->ip, sizeof(worker->ip), "%s", worker->options.ip);
    } else if (worker->options.allow_remote) {
        worker_find_ip(worker->ip, sizeof(worker->ip));
    } else {
        (void)snprintf(worker->ip, sizeof(worker->ip), "127.0.0.1");
    }
    r = controller_service_start(worker->service, &port);
    if (r < 0) {
        return controller_err(err, r, "controller: cannot serve control calls on port %d: %s",
                              (int)worker->options.port, strerror(-r));
    }
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
        r = worker->host->thread_create(worker->host, "kvl-ctl-link", link_main, worker,
                                        &worker->thread);
        worker->has_thread = r == 0;
    }
    return r;
}

int controller_worker_start(struct controller_worker *worker, struct kvl_err *err)
{
    int r;

    worker_note_start(worker);
    r = worker_serve(worker, err);
    if (r == 0) {
        r = worker_run(worker);
        if (r < 0) {
            (void)controller_err(err, r, "controller: cannot start its threads: %s", strerror(-r));
        }
    }
    if (r < 0) {
        controller_worker_stop(worker);
    }
    return r;
}

static void worker_join(struct controller_worker *worker)
{
    const uint64_t one = 1;
    ssize_t n = write(worker->stop_fd, &one, sizeof(one));

    (void)n;
    pthread_mutex_lock(&worker->lock);
    worker->stopping = true;
    pthread_cond_broadcast(&worker->changed);
    pthread_mutex_unlock(&worker->lock);
    if (worker->has_thread) {
        (void)worker->host->thread_join(worker->host, worker->thread);
        worker->has_thread = false;
    }
    controller_sync_stop(worker->sync);
    controller_service_stop(worker->service);
    controller_events_stop(worker->events);
}

void controller_worker_stop(struct controller_worker *worker)
{
    struct controller_msg farewell;

    if (worker->stop_fd >= 0) {
        worker_join(worker);
        link_describe(worker, CONTROLLER_DEREGISTER, &farewell);
        if (worker->registered) {
            (void)controller_events_push(worker->events, &farewell);
        }
        close(worker->stop_fd);
        worker->stop_fd = -1;
    }
    controller_req_destroy(worker->heart);
    worker->heart = NULL;
    if (worker->reply != NULL) {
        controller_req_close(worker->reply);
    }
    if (worker->events != NULL) {
        controller_events_close(worker->events, FAREWELL_MS);
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
    controller_req_destroy(worker->reply);
    controller_sync_destroy(worker->sync);
    controller_service_destroy(worker->service);
    controller_events_destroy(worker->events);
    pthread_cond_destroy(&worker->changed);
    pthread_mutex_destroy(&worker->lock);
    free(worker);
}

/* ---- watch ---- */

struct worker_watch {
    struct controller_events_stats events;
    struct controller_sync_stats sync;
    struct controller_service_stats service;
};

static void worker_watch(struct controller_worker *worker, struct worker_watch *watch_out)
{
    controller_events_stats(worker->events, &watch_out->events);
    controller_sync_stats(worker->sync, &watch_out->sync);
    controller_service_stats(worker->service, &watch_out->service);
}

static unsigned long long worker_seconds(const struct controller_worker *worker, uint64_t since_ms)
{
    return (unsigned long long)((worker_now(worker) - since_ms) / 1000);
}

/* What the controller knows of us; under the lock. */
static uint32_t worker_say(const struct controller_worker *worker, const struct worker_watch *watch,
                           char *text, size_t room)
{
    if (watch->events.refused) {
        (void)snprintf(text, room, "another section reads the changes of the store");
        return KVL_HEALTH_DOWN;
    }
    if (!worker->registered) {
        (void)snprintf(text, room, "not registered since %llu s: %s",
                       worker_seconds(worker, worker->since_ms),
                       worker->why[0] != '\0' ? worker->why : "no answer yet");
        return KVL_HEALTH_DEGRADED;
    }
    if (!worker->answered) {
        (void)snprintf(text, room, "last answer %llu s ago: %s, %llu events dropped",
                       worker_seconds(worker, worker->last_answer_ms), worker->why,
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
                   worker_seconds(worker, worker->last_answer_ms),
                   (unsigned long long)watch->events.sent,
                   watch->sync.done == 0 ? "full sync to come" : "store announced");
    return KVL_HEALTH_OK;
}

void controller_worker_health(struct controller_worker *worker, struct kvl_health *health_out)
{
    struct worker_watch watch;

    worker_watch(worker, &watch);
    pthread_mutex_lock(&worker->lock);
    health_out->state = worker_say(worker, &watch, health_out->text, sizeof(health_out->text));
    (void)snprintf(health_out->address, sizeof(health_out->address), "%.180s:%lld", worker->ip,
                   (long long)worker->self.port);
    pthread_mutex_unlock(&worker->lock);
}

void controller_worker_stats(struct controller_worker *worker, kvl_stat_fn fn, void *ctx)
{
    struct worker_watch watch;
    uint64_t own[6];

    worker_watch(worker, &watch);
    pthread_mutex_lock(&worker->lock);
    own[0] = worker->registered && worker->answered;
    own[1] = worker->registrations;
    own[2] = worker->heartbeats;
    own[3] = worker->failures;
    own[4] = worker->commands;
    own[5] = worker->unknown_commands;
    pthread_mutex_unlock(&worker->lock);
    fn(ctx, "controller_answers", own[0]);
    fn(ctx, "registrations", own[1]);
    fn(ctx, "heartbeats", own[2]);
    fn(ctx, "questions_failed", own[3]);
    fn(ctx, "commands", own[4]);
    fn(ctx, "commands_unknown", own[5]);
    fn(ctx, "events_sent", watch.events.sent);
    fn(ctx, "event_messages", watch.events.messages);
    fn(ctx, "events_dropped", watch.events.dropped);
    fn(ctx, "events_queued", watch.events.queued);
    fn(ctx, "connections_lost", watch.events.breaks);
    fn(ctx, "syncs_done", watch.sync.done);
    fn(ctx, "syncs_failed", watch.sync.failed);
    fn(ctx, "syncs_skipped", watch.sync.skipped);
    fn(ctx, "sync_keys", watch.sync.keys);
    fn(ctx, "sync_batches_resent", watch.sync.resent);
    fn(ctx, "control_calls", watch.service.calls);
    fn(ctx, "control_calls_refused", watch.service.refused);
    fn(ctx, "chunks_cleared", watch.service.cleared);
    fn(ctx, "chunks_pinned", watch.service.pinned);
}

/* ---- as a role ---- */

static int role_create(const struct kvl_host *host, const struct controller_options *options,
                       void **self_out, struct kvl_err *err)
{
    struct controller_worker *worker;
    int r = controller_worker_create(host, &options->worker, &worker, err);

    if (r == 0) {
        *self_out = worker;
    }
    return r;
}

static int role_start(void *self, struct kvl_err *err)
{
    return controller_worker_start(self, err);
}

/* Peers of a worker are told nothing before it leaves: control calls end with stop. */
static void role_quiesce(void *self)
{
    (void)self;
}

static void role_stop(void *self)
{
    controller_worker_stop(self);
}

static void role_destroy(void *self)
{
    controller_worker_destroy(self);
}

static void role_get_health(void *self, struct kvl_health *health_out)
{
    controller_worker_health(self, health_out);
}

static void role_get_stats(void *self, kvl_stat_fn fn, void *ctx)
{
    controller_worker_stats(self, fn, ctx);
}

const struct controller_role controller_role_worker = {
    .create = role_create,
    .start = role_start,
    .quiesce = role_quiesce,
    .stop = role_stop,
    .destroy = role_destroy,
    .get_health = role_get_health,
    .get_stats = role_get_stats,
};
