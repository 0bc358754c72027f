/* SPDX-License-Identifier: Apache-2.0 */
#include "controller_sync.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "cond.h"
#include "keepers.h"

/* As LMCache's sender, except that a status is first asked for at once: nobody is frozen, and
 * events wait for the answer. */
#define START_ATTEMPTS 3u
#define START_PAUSE_MS 1000u
#define BATCH_PAUSE_MS 5u
#define STATUS_FIRST_MS 20u
#define STATUS_PAUSE_MS 5000u
#define STATUS_ATTEMPTS 60u
#define STATUS_SILENT_MAX 3u
#define RESEND_MAX 3u
/* Syncs refused in a row, each after a heartbeat that was answered, until we leave and come
 * back. */
#define REFUSED_MAX 2u
#define REASON_MAX 64u

struct controller_sync {
    struct controller_sync_desc desc;
    uint64_t thread;
    bool has_thread;

    pthread_mutex_t lock; /* guards the rest of this block */
    pthread_cond_t changed;
    bool stopping;
    bool wanted;
    char reason[REASON_MAX];
    struct controller_sync_stats stats;

    /* The thread's own. */
    struct controller_req *req;
    char id[KVL_NAME_ROOM]; /* of the sync under way, or to begin again; "" = none */
    uint32_t refused;
    uint64_t breaks; /* connections lost when the sync began */
    uint32_t where; /* KVL_WHERE_ of the location at hand */
    size_t total; /* keys of the locations before it */
    struct kvl_chunk_id *keys;
    size_t count;
    size_t room;
    char why[CONTROLLER_WHY_MAX];
};

int controller_sync_create(const struct controller_sync_desc *desc,
                           struct controller_sync **sync_out)
{
    struct controller_sync *sync = calloc(1, sizeof(*sync));
    int r;

    if (sync == NULL) {
        return -ENOMEM;
    }
    sync->desc = *desc;
    r = controller_req_create(&desc->req, &sync->req);
    if (r < 0) {
        free(sync);
        return r;
    }
    pthread_mutex_init(&sync->lock, NULL);
    (void)kvl_monotonic_cond_init(&sync->changed);
    *sync_out = sync;
    return 0;
}

void controller_sync_destroy(struct controller_sync *sync)
{
    if (sync == NULL) {
        return;
    }
    controller_req_destroy(sync->req);
    pthread_cond_destroy(&sync->changed);
    pthread_mutex_destroy(&sync->lock);
    free(sync->keys);
    free(sync);
}

/* ---- small steps ---- */

/* @return 0 the time is over; -ECANCELED. */
static int sync_pause(struct controller_sync *sync, uint64_t ms)
{
    uint64_t until = sync->desc.host->now_ms(sync->desc.host) + ms;
    struct timespec at = {.tv_sec = (time_t)(until / 1000),
                          .tv_nsec = (long)(until % 1000) * 1000000};
    int r = 0;
    bool stopping;

    pthread_mutex_lock(&sync->lock);
    while (!sync->stopping && r == 0 && ms > 0) {
        r = pthread_cond_timedwait(&sync->changed, &sync->lock, &at);
    }
    stopping = sync->stopping;
    pthread_mutex_unlock(&sync->lock);
    return stopping ? -ECANCELED : 0;
}

static uint64_t sync_random(void)
{
    uint64_t value = 0;

    if (getrandom(&value, sizeof(value), GRND_NONBLOCK) != (ssize_t)sizeof(value)) {
        struct timespec now;

        clock_gettime(CLOCK_MONOTONIC, &now);
        value = (uint64_t)now.tv_nsec * 2654435761u;
    }
    return value;
}

static int sync_fail(struct controller_sync *sync, int code, const char *why)
{
    (void)snprintf(sync->why, sizeof(sync->why), "%s", why);
    return code;
}

static void sync_describe(const struct controller_sync *sync, enum controller_type type,
                          struct controller_msg *msg)
{
    memset(msg, 0, sizeof(*msg));
    msg->type = type;
    msg->instance_id = controller_text(sync->desc.self->instance_id);
    msg->worker_id = sync->desc.self->worker_id;
    msg->location = controller_text(sync->desc.locations[sync->where]);
    msg->sync_id = controller_text(sync->id);
}

static uint32_t sync_batches(const struct controller_sync *sync)
{
    size_t batches = (sync->count + sync->desc.batch_size - 1) / sync->desc.batch_size;

    return batches == 0 ? 1 : (uint32_t)batches;
}

/* ---- the list ---- */

static int sync_add_key(void *ctx, const struct kvl_key *key, uint64_t bytes)
{
    struct controller_sync *sync = ctx;
    struct kvl_chunk_id id;

    (void)bytes;
    if (sync->desc.host->chunk_id(sync->desc.host, key, &id) < 0) {
        return 0; /* no number, so that no event names it either */
    }
    if (sync->count == sync->room) {
        size_t room = sync->room == 0 ? 4096 : sync->room * 2;
        struct kvl_chunk_id *keys = realloc(sync->keys, room * sizeof(*keys));

        if (keys == NULL) {
            return -ENOMEM;
        }
        sync->keys = keys;
        sync->room = room;
    }
    sync->keys[sync->count++] = id;
    return 0;
}

static int sync_list(struct controller_sync *sync)
{
    const struct kvl_host *host = sync->desc.host;
    int r;

    sync->count = 0;
    r = sync->where == KVL_WHERE_HOST ? host->store_list(host, sync_add_key, sync)
                                      : host->held(host, sync->where, sync_add_key, sync);
    return r < 0 ? sync_fail(sync, r, "no memory to list the store") : 0;
}

/* ---- messages ---- */

/* Waits for a connection, because a controller that came back is reached by one socket sooner than
 * by the other. */
static int sync_push(struct controller_sync *sync, const struct controller_msg *msg)
{
    uint64_t deadline = sync->desc.host->now_ms(sync->desc.host) + sync->desc.req.send_ms;
    int r = controller_events_push(sync->desc.events, msg);

    while (r == -EAGAIN && sync->desc.host->now_ms(sync->desc.host) < deadline) {
        r = sync_pause(sync, BATCH_PAUSE_MS);
        if (r == 0) {
            r = controller_events_push(sync->desc.events, msg);
        }
    }
    return r == 0 || r == -ECANCELED
               ? r
               : sync_fail(sync, r, "the controller's pull port takes no batches");
}

static int sync_send_batch(struct controller_sync *sync, uint32_t batch)
{
    size_t first = (size_t)batch * sync->desc.batch_size;
    size_t left = sync->count - first;
    struct controller_msg msg;

    sync_describe(sync, CONTROLLER_SYNC_BATCH, &msg);
    msg.number = batch;
    msg.ids.at = sync->keys + first;
    msg.ids.count = (uint32_t)(left < sync->desc.batch_size ? left : sync->desc.batch_size);
    msg.ids.is_set = 1;
    return sync_push(sync, &msg);
}

static int sync_send_end(struct controller_sync *sync)
{
    struct controller_msg msg;

    sync_describe(sync, CONTROLLER_SYNC_END, &msg);
    msg.number = (int64_t)sync->count;
    return sync_push(sync, &msg);
}

/* What was in the connection may be lost, and a controller that is new knows nothing of the
 * sync. */
static int sync_check_connection(struct controller_sync *sync)
{
    struct controller_events_stats stats;

    controller_events_stats(sync->desc.events, &stats);
    return stats.breaks == sync->breaks
               ? 0
               : sync_fail(sync, -ECONNRESET, "the connection to the pull port broke");
}

static int sync_send_all(struct controller_sync *sync)
{
    uint32_t batches = sync_batches(sync);
    int r = 0;

    for (uint32_t batch = 0; batch < batches && r == 0; batch++) {
        r = batch == 0 ? 0 : sync_pause(sync, BATCH_PAUSE_MS);
        if (r == 0) {
            r = sync_check_connection(sync);
        }
        if (r == 0) {
            r = sync_send_batch(sync, batch);
        }
    }
    return r == 0 ? sync_send_end(sync) : r;
}

static int sync_resend(struct controller_sync *sync, const struct controller_ids *missing)
{
    uint32_t batches = sync_batches(sync);
    int r = 0;

    for (uint32_t i = 0; i < missing->count && r == 0; i++) {
        if (missing->at[i].negative || missing->at[i].bits >= batches) {
            continue;
        }
        r = sync_send_batch(sync, (uint32_t)missing->at[i].bits);
        pthread_mutex_lock(&sync->lock);
        sync->stats.resent++;
        pthread_mutex_unlock(&sync->lock);
        if (r == 0) {
            r = sync_pause(sync, BATCH_PAUSE_MS);
        }
    }
    return r == 0 ? sync_send_end(sync) : r;
}

/* ---- the steps of a sync ---- */

static void sync_new_id(struct controller_sync *sync)
{
    if (sync->id[0] == '\0') {
        /* an instance id may fill the room for names by itself; the hex digits are what matters */
        (void)snprintf(sync->id, sizeof(sync->id), "%.200s_%lld_%08x", sync->desc.self->instance_id,
                       (long long)sync->desc.self->worker_id, (unsigned)sync_random());
    }
}

/* @return 0 accepted; -EBUSY refused; -ECANCELED; other: nobody answered. */
static int sync_begin(struct controller_sync *sync)
{
    struct controller_msg ask;
    struct controller_msg answer;
    int r = 0;

    sync_new_id(sync);
    sync_describe(sync, CONTROLLER_SYNC_START, &ask);
    ask.number = (int64_t)sync->count;
    ask.batch_count = sync_batches(sync);
    for (uint32_t i = 0; i < START_ATTEMPTS; i++) {
        r = i == 0 ? 0 : sync_pause(sync, START_PAUSE_MS);
        if (r == 0) {
            r = controller_req_call(sync->req, &ask, CONTROLLER_SYNC_START_RET, &answer, sync->why);
        }
        if (r == 0 && answer.accepted) {
            sync->refused = 0;
            return 0;
        }
        if (r == 0) {
            (void)snprintf(sync->why, sizeof(sync->why), "refused: %.*s",
                           answer.error_msg.is_set ? (int)answer.error_msg.value.length : 0,
                           answer.error_msg.is_set ? answer.error_msg.value.text : "");
            r = -EBUSY;
        }
        if (r == -ECANCELED || r == -ENOMEM) {
            return r;
        }
    }
    return r;
}

/* What a status says about the one before: nothing new twice in a row means that something is
 * lost. */
struct sync_progress {
    uint32_t missing; /* batches */
    uint32_t stuck; /* statuses without progress */
    uint32_t resends; /* since the last progress */
    uint32_t silent; /* questions without an answer, in a row */
};

/* Missing batches go again; so does an End that did its work without effect. */
static int sync_mend(struct controller_sync *sync, const struct controller_msg *status,
                     struct sync_progress *progress)
{
    progress->silent = 0;
    if (status->ids.count < progress->missing) {
        *progress = (struct sync_progress){.missing = status->ids.count};
        return 0;
    }
    if (++progress->stuck < 2) {
        return 0;
    }
    progress->stuck = 0;
    if (++progress->resends > RESEND_MAX) {
        return sync_fail(sync, -EIO, "it does not complete however often the rest is sent");
    }
    return status->ids.count == 0 ? sync_send_end(sync) : sync_resend(sync, &status->ids);
}

static int sync_finish(struct controller_sync *sync)
{
    struct sync_progress progress = {.missing = UINT32_MAX};
    struct controller_msg ask;
    struct controller_msg status;
    uint64_t pause = STATUS_FIRST_MS;
    int r;

    sync_describe(sync, CONTROLLER_SYNC_STATUS, &ask);
    for (uint32_t i = 0; i < STATUS_ATTEMPTS; i++) {
        r = sync_pause(sync, pause);
        if (r == 0) {
            r = sync_check_connection(sync);
        }
        if (r < 0) {
            return r;
        }
        r = controller_req_call(sync->req, &ask, CONTROLLER_SYNC_STATUS_RET, &status, sync->why);
        if (r == 0 && status.accepted) {
            return 0;
        }
        if (r == 0) {
            r = sync_mend(sync, &status, &progress);
        } else if (r != -ECANCELED && ++progress.silent < STATUS_SILENT_MAX) {
            r = 0;
        }
        if (r < 0) {
            return r;
        }
        pause = pause * 2 < STATUS_PAUSE_MS ? pause * 2 : STATUS_PAUSE_MS;
    }
    return sync_fail(sync, -ETIMEDOUT, "the controller never said that it is complete");
}

/* LMCache's controller keeps a sync of a process that died, and refuses ours for it. */
static void sync_leave(struct controller_sync *sync)
{
    struct controller_msg msg;

    sync->refused = 0;
    memset(&msg, 0, sizeof(msg));
    msg.type = CONTROLLER_DEREGISTER;
    msg.instance_id = controller_text(sync->desc.self->instance_id);
    msg.worker_id = sync->desc.self->worker_id;
    msg.ip = controller_text(sync->desc.self->ip);
    msg.port = sync->desc.self->port;
    if (controller_events_push(sync->desc.events, &msg) == 0) {
        kvl_warn(sync->desc.host->log,
                 "controller: full syncs go on being refused, registering afresh");
    }
}

static int sync_location(struct controller_sync *sync, uint32_t where)
{
    int r;

    sync->where = where;
    r = sync_list(sync);
    if (r == 0) {
        r = sync_begin(sync);
    }
    if (r == -EBUSY) {
        sync->id[0] = '\0';
        sync->refused++;
    }
    if (r == 0) {
        r = sync_send_all(sync);
    }
    if (r == 0) {
        r = sync_finish(sync);
    }
    if (r == 0) {
        sync->id[0] = '\0';
        sync->total += sync->count;
    }
    return r;
}

static int sync_run(struct controller_sync *sync)
{
    struct controller_events_stats stats;
    int r = controller_events_hold(sync->desc.events);

    if (r < 0) {
        return r;
    }
    controller_events_stats(sync->desc.events, &stats);
    sync->breaks = stats.breaks;
    sync->total = 0;
    r = sync_location(sync, KVL_WHERE_HOST);
    /* an empty list too says something: it takes away what a process before us left there */
    if (r == 0 && kvl_has_keepers(sync->desc.host)) {
        r = sync_location(sync, KVL_WHERE_GPU);
    }
    controller_events_release(sync->desc.events, r == 0);
    if (sync->refused >= REFUSED_MAX) {
        sync_leave(sync);
    }
    return r;
}

/* ---- the thread ---- */

/* @return 0 a sync is wanted; -ECANCELED. */
static int sync_wait(struct controller_sync *sync, char *reason)
{
    int r;

    pthread_mutex_lock(&sync->lock);
    sync->stats.running = 0;
    while (!sync->wanted && !sync->stopping) {
        pthread_cond_wait(&sync->changed, &sync->lock);
    }
    r = sync->stopping ? -ECANCELED : 0;
    sync->wanted = false;
    sync->stats.running = r == 0;
    memcpy(reason, sync->reason, REASON_MAX);
    pthread_mutex_unlock(&sync->lock);
    return r;
}

static void sync_note(struct controller_sync *sync, int r)
{
    pthread_mutex_lock(&sync->lock);
    if (r == 0) {
        sync->stats.done++;
        sync->stats.keys = sync->total;
        sync->stats.why[0] = '\0';
    } else if (r != -ECANCELED) {
        sync->stats.failed++;
        memcpy(sync->stats.why, sync->why, sizeof(sync->why));
    }
    pthread_mutex_unlock(&sync->lock);
    if (r == 0) {
        kvl_info(sync->desc.host->log, "controller: full sync of %zu chunks is complete",
                 sync->total);
    } else if (r != -ECANCELED) {
        kvl_warn(sync->desc.host->log, "controller: full sync failed: %s; will try again",
                 sync->why);
    }
}

static void *sync_main(void *arg)
{
    struct controller_sync *sync = arg;
    char reason[REASON_MAX];

    while (sync_wait(sync, reason) == 0) {
        int r;

        kvl_info(sync->desc.host->log, "controller: full sync begins, because of '%s'", reason);
        r = sync_pause(sync, sync->desc.startup_delay_ms == 0
                                 ? 0
                                 : sync_random() % (sync->desc.startup_delay_ms + 1));
        if (r == 0) {
            r = sync_run(sync);
        }
        free(sync->keys);
        sync->keys = NULL;
        sync->room = 0;
        sync_note(sync, r);
    }
    return NULL;
}

int controller_sync_start(struct controller_sync *sync)
{
    const struct kvl_host *host = sync->desc.host;
    int r = host->thread_create(host, "kvl-ctl-sync", sync_main, sync, &sync->thread);

    sync->has_thread = r == 0;
    return r;
}

void controller_sync_stop(struct controller_sync *sync)
{
    pthread_mutex_lock(&sync->lock);
    sync->stopping = true;
    pthread_cond_broadcast(&sync->changed);
    pthread_mutex_unlock(&sync->lock);
    if (sync->has_thread) {
        (void)sync->desc.host->thread_join(sync->desc.host, sync->thread);
        sync->has_thread = false;
    }
    controller_req_close(sync->req);
}

void controller_sync_request(struct controller_sync *sync, const char *reason, size_t length)
{
    pthread_mutex_lock(&sync->lock);
    if (sync->stats.running || sync->wanted) {
        sync->stats.skipped++;
    } else {
        sync->wanted = true;
        (void)snprintf(sync->reason, sizeof(sync->reason), "%.*s", (int)length, reason);
        pthread_cond_broadcast(&sync->changed);
    }
    pthread_mutex_unlock(&sync->lock);
}

void controller_sync_stats(struct controller_sync *sync, struct controller_sync_stats *stats_out)
{
    pthread_mutex_lock(&sync->lock);
    *stats_out = sync->stats;
    pthread_mutex_unlock(&sync->lock);
}
