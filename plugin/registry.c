/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory and threads of the registry.
 *
 *   instance -> worker -> location -> holder -> (registry_index.h) chunk ids
 *
 * Three kinds of locks, taken in this order, each file taking only what stands below what it has:
 *
 * 1. A worker's lock: everything that happens to one worker happens under it, one after the other,
 *    also while thousands of keys go into the index. Nobody holds two of them.
 * 2. The membership lock: who is there, in what order, under what address, and which holder stands
 *    for which location. Read by who looks somebody up or writes names into an answer, written by
 *    who adds or takes away a worker, a location or a holder. Always for short, never while keys
 *    are applied.
 * 3. What the index has inside.
 *
 * Records of workers and holders live in pools: they never move and stay readable when their owner
 * is gone, so nobody counts references. Who remembers a worker across an unlocked moment also
 * remembers its `life`; when that differs under the lock, it is somebody else now.
 *
 * Lookups hold no lock while they read the index. The index calls back for each holder, and what
 * decides there - instance, worker id, order, silence - is read out of the holder's record by
 * atomics. The record may go over to another location in the very moment it is read. So each holder
 * has a birth, a number that only grows: the lookup notes the newest birth when it begins, leaves
 * out who is younger, and believes the rest only if it is still alive and still not younger when
 * names are written, under the membership lock. A holder that passes that was in one life from
 * before the lookup until after it, so all that was read of it belongs together. Who does not pass
 * is dropped from the answer, as he has just left.
 */
#include "registry_tree.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- life ---- */

static uint64_t machine_now_ms(void *ctx)
{
    struct timespec now;

    (void)ctx;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static double machine_unix_time(void *ctx)
{
    struct timespec now;

    (void)ctx;
    clock_gettime(CLOCK_REALTIME, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static const struct kvl_registry_clock machine_clock = {
    .now_ms = machine_now_ms,
    .unix_time = machine_unix_time,
};

/* Writers are few and short; under a steady stream of lookups they must get their turn. */
static void init_members(pthread_rwlock_t *members)
{
    pthread_rwlockattr_t attributes;

    pthread_rwlockattr_init(&attributes);
    pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(members, &attributes);
    pthread_rwlockattr_destroy(&attributes);
}

int kvl_registry_create(const struct kvl_registry_params *params,
                        struct kvl_registry **registry_out)
{
    struct kvl_registry *registry = calloc(1, sizeof(*registry));

    if (registry == NULL) {
        return -ENOMEM;
    }
    init_members(&registry->members);
    kvl_pool_init(&registry->worker_pool, sizeof(struct kvl_reg_worker));
    kvl_pool_init(&registry->holder_pool, sizeof(struct kvl_reg_holder));
    kvl_pool_init(&registry->instance_numbers, 1);
    registry->clock = params->clock != NULL ? *params->clock : machine_clock;
    registry->max_bytes = params->max_bytes;
    atomic_store(&registry->need_all, true);
    kvl_registry_configure(registry, &params->settings);
    if (kvl_map_init(&registry->instances) < 0 || kvl_map_init(&registry->workers) < 0 ||
        kvl_index_create(params->max_bytes, &registry->index) < 0) {
        kvl_registry_destroy(registry);
        return -ENOMEM;
    }
    *registry_out = registry;
    return 0;
}

static void free_worker(struct kvl_reg_worker *worker)
{
    struct kvl_reg_location *location = atomic_load(&worker->locations);

    while (location != NULL) {
        struct kvl_reg_location *next = atomic_load(&location->next);

        free(location);
        location = next;
    }
    kvl_reg_free_sync(worker->sync);
    free(worker->ip);
    free(worker->peer_url);
    if (worker->has_lock) {
        pthread_mutex_destroy(&worker->lock);
    }
}

void kvl_registry_destroy(struct kvl_registry *registry)
{
    if (registry == NULL) {
        return;
    }
    for (uint32_t i = 0; i < registry->worker_pool.used; i++) {
        free_worker(kvl_pool_at(&registry->worker_pool, i));
    }
    while (registry->first != NULL) {
        struct kvl_reg_instance *next = registry->first->after;

        free(registry->first);
        registry->first = next;
    }
    kvl_index_destroy(registry->index);
    kvl_map_fini(&registry->instances);
    kvl_map_fini(&registry->workers);
    kvl_pool_fini(&registry->worker_pool);
    kvl_pool_fini(&registry->holder_pool);
    kvl_pool_fini(&registry->instance_numbers);
    pthread_rwlock_destroy(&registry->members);
    free(registry);
}

void kvl_registry_configure(struct kvl_registry *registry,
                            const struct kvl_registry_settings *settings)
{
    atomic_store(&registry->sync_timeout_ms, settings->sync_timeout_ms);
    atomic_store(&registry->worker_ttl_ms, settings->worker_ttl_ms);
    atomic_store(&registry->sync_threshold, settings->sync_threshold);
    atomic_store(&registry->resync_after_gap, settings->resync_after_gap);
}

/* ---- workers ---- */

/* As much of the caller's record as both know. */
static int take_desc(const struct kvl_worker_desc *from, struct kvl_worker_desc *to)
{
    int r;

    if (from->size < offsetof(struct kvl_worker_desc, peer_url)) {
        return -EINVAL;
    }
    *to = (struct kvl_worker_desc){0};
    memcpy(to, from, from->size < sizeof(*to) ? from->size : sizeof(*to));
    r = kvl_reg_check_text(to->name.instance);
    r = r == 0 ? kvl_reg_check_text(to->ip) : r;
    return r == 0 && (to->flags & KVL_WORKER_HAS_PEER_URL) != 0 ? kvl_reg_check_text(to->peer_url)
                                                                : r;
}

/* The worker of that name, locked; added when it is not there. */
static int enter_or_add(struct kvl_registry *registry, const struct kvl_worker_desc *desc,
                        struct kvl_reg_worker **worker_out, bool *added_out)
{
    int r;

    do {
        *added_out = false;
        *worker_out = kvl_reg_enter(registry, &desc->name);
        if (*worker_out != NULL) {
            return 0;
        }
        *added_out = true;
        r = kvl_reg_add(registry, desc, worker_out);
    } while (r == -EEXIST);
    return r;
}

int kvl_registry_register(struct kvl_registry *registry, const struct kvl_worker_desc *desc,
                          uint32_t *known_out)
{
    struct kvl_worker_desc own;
    struct kvl_reg_worker *worker;
    bool added = false;
    int r = take_desc(desc, &own);

    if (r == 0) {
        r = enter_or_add(registry, &own, &worker, &added);
    }
    if (r < 0) {
        return r;
    }
    if (!added) {
        r = kvl_reg_renew(registry, worker, &own);
    }
    kvl_reg_leave(worker);
    if (r == 0 && known_out != NULL) {
        *known_out = !added;
    }
    return r;
}

/* 0 = not known, which tells nothing. */
static bool is_other_process(const struct kvl_reg_worker *worker,
                             const struct kvl_worker_desc *desc)
{
    return worker->incarnation != 0 && desc->incarnation != 0 &&
           worker->incarnation != desc->incarnation;
}

static void note_heartbeat(struct kvl_registry *registry, struct kvl_reg_worker *worker,
                           uint64_t incarnation)
{
    atomic_store(&worker->last_ms, kvl_reg_now(registry));
    atomic_store(&worker->has_heartbeat, 1);
    atomic_store(&worker->heartbeat_time, registry->clock.unix_time(registry->clock.ctx));
    if (worker->incarnation == 0 && incarnation != 0) {
        pthread_rwlock_wrlock(&registry->members);
        worker->incarnation = incarnation;
        pthread_rwlock_unlock(&registry->members);
    }
}

int kvl_registry_heartbeat(struct kvl_registry *registry, const struct kvl_worker_desc *desc,
                           uint32_t *because_out)
{
    struct kvl_worker_desc own;
    struct kvl_reg_worker *worker;
    uint32_t because = KVL_SYNC_BECAUSE_UNKNOWN;
    bool added = false;
    int r = take_desc(desc, &own);

    if (r == 0) {
        r = enter_or_add(registry, &own, &worker, &added);
    }
    if (r < 0) {
        return r;
    }
    if (!added && is_other_process(worker, &own)) {
        r = kvl_reg_renew(registry, worker, &own);
    } else if (!added) {
        kvl_reg_age_sync(registry, worker, kvl_reg_now(registry));
        because = kvl_reg_sync_because(registry, worker);
    }
    if (r == 0) {
        note_heartbeat(registry, worker, own.incarnation);
    }
    kvl_reg_leave(worker);
    if (r == 0) {
        *because_out = because;
    }
    return r;
}

int kvl_registry_remove(struct kvl_registry *registry, const struct kvl_worker_name *name)
{
    struct kvl_reg_worker *worker = kvl_reg_enter(registry, name);

    if (worker == NULL) {
        return -ENOENT;
    }
    kvl_reg_drop(registry, worker);
    kvl_reg_leave(worker);
    return 0;
}

static bool is_overdue(const struct kvl_registry *registry, const struct kvl_reg_worker *worker,
                       uint64_t timeout_ms)
{
    return atomic_load(&worker->has_heartbeat) &&
           kvl_reg_since(kvl_reg_now(registry), atomic_load(&worker->last_ms)) > timeout_ms;
}

int kvl_registry_reap(struct kvl_registry *registry, uint64_t timeout_ms, kvl_worker_fn fn,
                      void *ctx)
{
    struct kvl_worker_info info;
    struct kvl_reg_seen *seen;
    uint64_t count;
    int reaped = 0;

    if (timeout_ms == 0) {
        return -EINVAL;
    }
    if (kvl_reg_see_all(registry, NULL, &seen, &count) < 0) {
        return 0; /* no memory now, a later call will do it */
    }
    for (uint64_t i = 0; i < count; i++) {
        struct kvl_reg_worker *worker = seen[i].worker;

        if (!is_overdue(registry, worker, timeout_ms) || !kvl_reg_enter_seen(&seen[i])) {
            continue;
        }
        if (!is_overdue(registry, worker, timeout_ms)) {
            kvl_reg_leave(worker);
            continue;
        }
        kvl_reg_fill_info(registry, worker, kvl_reg_now(registry), &info);
        kvl_reg_drop(registry, worker);
        kvl_reg_leave(worker);
        reaped++;
        if (fn != NULL) {
            fn(ctx, &info);
        }
    }
    free(seen);
    return reaped;
}

const struct kvl_registry_ops kvl_registry_table = {
    .size = sizeof(struct kvl_registry_ops),
    .register_worker = kvl_registry_register,
    .heartbeat = kvl_registry_heartbeat,
    .remove_worker = kvl_registry_remove,
    .reap = kvl_registry_reap,
    .apply = kvl_registry_apply,
    .withdraw = kvl_registry_withdraw,
    .clear = kvl_registry_clear,
    .list_keys = kvl_registry_list_keys,
    .sync_start = kvl_registry_sync_start,
    .sync_batch = kvl_registry_sync_batch,
    .sync_end = kvl_registry_sync_end,
    .sync_status = kvl_registry_sync_status,
    .has = kvl_registry_has,
    .find = kvl_registry_find,
    .prefix = kvl_registry_prefix,
    .explain = kvl_registry_explain,
    .worker = kvl_registry_worker,
    .list_workers = kvl_registry_list_workers,
    .instance_by_ip = kvl_registry_instance_by_ip,
    .stats = kvl_registry_stats,
    .tidy = kvl_registry_tidy,
    .save = kvl_registry_save,
    .load = kvl_registry_load,
};
