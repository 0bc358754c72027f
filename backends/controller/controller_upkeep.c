/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <inttypes.h>
#include <time.h>

#include "controller_state.h"

/* What a moment of tidying up may take, and the pauses with and without something left to do. */
#define TIDY_US 2000u
#define TIDY_SOON_MS 10u
#define TIDY_LATER_MS 1000u

/* ---- the snapshot ---- */

void controller_upkeep_load(struct controller_server *server)
{
    const char *path = server->options->snapshot;
    struct kvl_registry_stats stats = {.size = sizeof(stats)};
    int r;

    if (path[0] == '\0') {
        return;
    }
    r = server->host->registry_ops->load(server->host->registry, path);
    if (r == 0) {
        server->host->registry_ops->stats(server->host->registry, &stats);
        kvl_info(server->host->log,
                 "controller: snapshot '%s' brought %u workers with %" PRIu64 " keys", path,
                 stats.workers, stats.keys);
    } else if (r == -ENOENT) {
        kvl_info(server->host->log, "controller: no snapshot '%s' yet", path);
    } else {
        kvl_warn(server->host->log, "controller: cannot use snapshot '%s': %s, we start empty",
                 path, r == -EBADMSG ? "damaged, or of another version" : strerror(-r));
    }
}

/* Grows with whatever the registry is told, so an idle one is not written again and again. */
static uint64_t upkeep_changes(const struct controller_server *server)
{
    static const enum controller_count counts[] = {
        CONTROLLER_COUNT_PULL_FRAMES,     CONTROLLER_COUNT_REGISTRATIONS,
        CONTROLLER_COUNT_HEARTBEATS,      CONTROLLER_COUNT_SYNC_STARTS,
        CONTROLLER_COUNT_REAPED,          CONTROLLER_COUNT_STANDBY_BASES,
        CONTROLLER_COUNT_STANDBY_RECORDS,
    };
    uint64_t sum = 0;

    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        sum += controller_count_get(&server->counts, counts[i]);
    }
    return sum;
}

void controller_upkeep_save(struct controller_server *server)
{
    const char *path = server->options->snapshot;
    uint64_t changes = upkeep_changes(server);
    int r;

    if (path[0] == '\0' || changes == server->saved_changes) {
        return;
    }
    r = server->host->registry_ops->save(server->host->registry, path);
    if (r == 0) {
        server->saved_changes = changes;
        controller_count_add(&server->counts, CONTROLLER_COUNT_SNAPSHOTS, 1);
        return;
    }
    controller_count_add(&server->counts, CONTROLLER_COUNT_SNAPSHOT_FAILURES, 1);
    kvl_warn(server->host->log, "controller: cannot write snapshot '%s': %s, will try again", path,
             strerror(-r));
}

/* ---- silent workers ---- */

static int upkeep_reaped(void *ctx, const struct kvl_worker_info *worker)
{
    struct controller_server *server = ctx;
    const struct kvl_text name = {.text = worker->instance,
                                  .length = (uint32_t)strlen(worker->instance)};
    char shown[CONTROLLER_SHOWN_ROOM];

    controller_count_add(&server->counts, CONTROLLER_COUNT_REAPED, 1);
    controller_quiet_text(name, shown);
    kvl_warn(server->host->log,
             "controller: worker '%s' %" PRId64 " taken out, silent for %" PRIu64 " s", shown,
             worker->worker_id, worker->silent_ms / 1000);
    return 0;
}

/* Once per silence: in the round in which it grows beyond the timeout. */
static int upkeep_silent(void *ctx, const struct kvl_worker_info *worker)
{
    struct controller_server *server = ctx;
    const uint64_t timeout = server->options->worker_timeout_ms;
    const struct kvl_text name = {.text = worker->instance,
                                  .length = (uint32_t)strlen(worker->instance)};
    char shown[CONTROLLER_SHOWN_ROOM];

    if (worker->has_heartbeat == 0 && worker->silent_ms > timeout &&
        worker->silent_ms - timeout <= server->options->health_check_interval_ms) {
        controller_quiet_text(name, shown);
        kvl_warn(server->host->log,
                 "controller: worker '%s' %" PRId64 " is silent for %" PRIu64
                 " s; it stays, because it never sent a heartbeat",
                 shown, worker->worker_id, worker->silent_ms / 1000);
    }
    return 0;
}

/* As the registry's own reap, but so that the standbys are told in order. */
static int upkeep_reap_told(void *ctx, const struct kvl_worker_info *worker)
{
    struct controller_server *server = ctx;
    const struct kvl_registry_ops *ops = server->host->registry_ops;
    const uint64_t timeout = server->options->worker_timeout_ms;
    const struct kvl_worker_name name = {
        .instance = {.text = worker->instance, .length = (uint32_t)strlen(worker->instance)},
        .worker_id = worker->worker_id,
    };
    struct kvl_worker_info now = {.size = sizeof(now)};
    int removed;

    if (!worker->has_heartbeat || worker->silent_ms <= timeout) {
        return 0;
    }
    controller_replica_enter(server->replica, &name);
    removed = ops->worker(server->host->registry, &name, &now) == 0 && now.has_heartbeat &&
              now.silent_ms > timeout && ops->remove_worker(server->host->registry, &name) == 0;
    if (removed) {
        controller_replica_tell_removed(server->replica, &name);
    }
    controller_replica_leave(server->replica, &name);
    return removed ? upkeep_reaped(server, &now) : 0;
}

static void upkeep_check_health(struct controller_server *server)
{
    const struct kvl_registry_ops *ops = server->host->registry_ops;
    const struct kvl_text everybody = {0};

    if (controller_standby_is_passive(server->standby)) {
        return; /* the primary decides, and we are told */
    }
    if (server->replica != NULL) {
        (void)ops->list_workers(server->host->registry, everybody, upkeep_reap_told, server);
    } else {
        (void)ops->reap(server->host->registry, server->options->worker_timeout_ms, upkeep_reaped,
                        server);
    }
    (void)ops->list_workers(server->host->registry, everybody, upkeep_silent, server);
}

/* ---- the timer ---- */

/* Sleeps until a moment of the host's clock, which is CLOCK_MONOTONIC. */
static void upkeep_wait(struct controller_server *server, uint64_t until_ms)
{
    const struct timespec until = {
        .tv_sec = (time_t)(until_ms / 1000),
        .tv_nsec = (long)(until_ms % 1000) * 1000000,
    };

    pthread_mutex_lock(&server->lock);
    while (!atomic_load(&server->stopping) &&
           pthread_cond_timedwait(&server->wake, &server->lock, &until) == 0) {
    }
    pthread_mutex_unlock(&server->lock);
}

/* When something is due that happens every `every_ms`, counted from now; never for 0. */
static uint64_t upkeep_next(uint64_t now, uint64_t every_ms)
{
    return every_ms == 0 ? UINT64_MAX : now + every_ms;
}

void *controller_upkeep_run(void *arg)
{
    struct controller_server *server = arg;
    const struct kvl_host *host = server->host;
    const struct controller_options *options = server->options;
    uint64_t now = host->now_ms(host);
    uint64_t tidy = now;
    uint64_t check = upkeep_next(now, options->health_check_interval_ms);
    uint64_t save = upkeep_next(now, options->snapshot_interval_ms);

    while (!atomic_load(&server->stopping)) {
        now = host->now_ms(host);
        if (now >= tidy) {
            int left = host->registry_ops->tidy(host->registry, TIDY_US);

            tidy = now + (left ? TIDY_SOON_MS : TIDY_LATER_MS);
        }
        if (now >= check) {
            upkeep_check_health(server);
            check = upkeep_next(now, options->health_check_interval_ms);
        }
        if (now >= save) {
            controller_upkeep_save(server);
            save = upkeep_next(now, options->snapshot_interval_ms);
        }
        upkeep_wait(server,
                    tidy < check ? (tidy < save ? tidy : save) : (check < save ? check : save));
    }
    return NULL;
}
