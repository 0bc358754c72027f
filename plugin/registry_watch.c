/* SPDX-License-Identifier: Apache-2.0 */
/* What people and machines are shown, and upkeep. */
#include "registry_tree.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void kvl_reg_fill_info(const struct kvl_registry *registry, const struct kvl_reg_worker *worker,
                       uint64_t now, struct kvl_worker_info *info_out)
{
    const struct kvl_reg_location *location = atomic_load(&worker->locations);

    *info_out = (struct kvl_worker_info){
        .size = sizeof(*info_out),
        .flags = worker->peer_url != NULL ? KVL_WORKER_HAS_PEER_URL : 0,
        .worker_id = worker->worker_id,
        .port = worker->port,
        .registration_time = worker->registration_time,
        .last_heartbeat_time = atomic_load(&worker->heartbeat_time),
        .silent_ms = kvl_reg_since(now, atomic_load(&worker->last_ms)),
        .incarnation = worker->incarnation,
        .gaps = atomic_load(&worker->gaps),
        .sync_state = kvl_reg_sync_state(registry, worker, now),
        .has_heartbeat = atomic_load(&worker->has_heartbeat),
        .is_silent = kvl_reg_is_silent(registry, worker, now),
    };
    kvl_reg_copy_name(info_out->instance, worker->instance->name);
    kvl_reg_copy_name(info_out->ip, worker->ip);
    kvl_reg_copy_name(info_out->peer_url, worker->peer_url);
    if (info_out->sync_state == KVL_SYNC_SYNCING) {
        info_out->sync_received = atomic_load(&worker->sync_received);
        info_out->sync_expected = atomic_load(&worker->sync_expected);
    }
    for (; location != NULL; location = atomic_load(&location->next)) {
        const uint32_t holder = atomic_load(&location->holder);
        const uint64_t keys =
            holder != KVL_INDEX_NONE ? kvl_index_holder_keys(registry->index, holder) : 0;

        info_out->keys += keys;
        info_out->locations += keys > 0;
    }
}

int kvl_registry_worker(struct kvl_registry *registry, const struct kvl_worker_name *name,
                        struct kvl_worker_info *info_out)
{
    const struct kvl_reg_worker *worker;

    pthread_rwlock_rdlock(&registry->members);
    worker = kvl_reg_find(registry, name);
    if (worker != NULL) {
        kvl_reg_fill_info(registry, worker, kvl_reg_now(registry), info_out);
    }
    pthread_rwlock_unlock(&registry->members);
    return worker != NULL ? 0 : -ENOENT;
}

/* @return false when it has gone since it was seen. */
static bool info_of_seen(struct kvl_registry *registry, const struct kvl_reg_seen *seen,
                         struct kvl_worker_info *info_out)
{
    bool is_there;

    pthread_rwlock_rdlock(&registry->members);
    is_there = seen->worker->life == seen->life;
    if (is_there) {
        kvl_reg_fill_info(registry, seen->worker, kvl_reg_now(registry), info_out);
    }
    pthread_rwlock_unlock(&registry->members);
    return is_there;
}

int kvl_registry_list_workers(struct kvl_registry *registry, struct kvl_text instance,
                              kvl_worker_fn fn, void *ctx)
{
    struct kvl_worker_info info;
    struct kvl_reg_seen *seen;
    uint64_t count;
    int r = kvl_reg_see_all(registry, instance.length > 0 ? &instance : NULL, &seen, &count);

    if (r < 0) {
        return r;
    }
    for (uint64_t i = 0; r == 0 && i < count; i++) {
        if (info_of_seen(registry, &seen[i], &info)) {
            r = fn(ctx, &info);
        }
    }
    free(seen);
    return r;
}

/* Under the membership lock. */
static bool has_ip(const struct kvl_reg_instance *instance, struct kvl_text ip, uint64_t hash)
{
    for (const struct kvl_reg_worker *worker = instance->first; worker != NULL;
         worker = worker->after) {
        if (worker->ip_hash == hash && kvl_reg_text_is(ip, worker->ip)) {
            return true;
        }
    }
    return false;
}

int kvl_registry_instance_by_ip(struct kvl_registry *registry, struct kvl_text ip,
                                char *instance_out)
{
    const uint64_t hash = kvl_reg_hash_text(ip);
    const struct kvl_reg_instance *instance;

    pthread_rwlock_rdlock(&registry->members);
    instance = registry->first;
    while (instance != NULL && !has_ip(instance, ip, hash)) {
        instance = instance->after;
    }
    if (instance != NULL) {
        kvl_reg_copy_name(instance_out, instance->name);
    }
    pthread_rwlock_unlock(&registry->members);
    return instance != NULL ? 0 : -ENOENT;
}

/* Under the membership lock. */
static uint64_t tree_bytes(const struct kvl_registry *registry)
{
    return sizeof(*registry) + kvl_map_bytes(&registry->instances) +
           kvl_map_bytes(&registry->workers) + registry->worker_pool.bytes +
           registry->holder_pool.bytes + registry->instance_numbers.bytes + registry->text_bytes;
}

/* Under the membership lock. */
static void count_workers(const struct kvl_registry *registry, struct kvl_registry_stats *stats)
{
    const uint64_t now = kvl_reg_now(registry);

    for (const struct kvl_reg_instance *instance = registry->first; instance != NULL;
         instance = instance->after) {
        stats->instances++;
        for (const struct kvl_reg_worker *worker = instance->first; worker != NULL;
             worker = worker->after) {
            const uint32_t state = kvl_reg_sync_state(registry, worker, now);
            const uint64_t received = atomic_load(&worker->sync_received);
            const uint64_t expected = atomic_load(&worker->sync_expected);

            stats->workers++;
            stats->syncing += state == KVL_SYNC_SYNCING;
            stats->completed += state == KVL_SYNC_COMPLETED;
            stats->silent += kvl_reg_is_silent(registry, worker, now);
            if (state == KVL_SYNC_SYNCING && expected > received) {
                stats->missing_batches += expected - received;
            }
        }
    }
}

void kvl_registry_stats(struct kvl_registry *registry, struct kvl_registry_stats *stats_out)
{
    struct kvl_registry_stats stats = {.size = sizeof(stats)};
    struct kvl_index_stats index;

    kvl_index_get_stats(registry->index, &index);
    pthread_rwlock_rdlock(&registry->members);
    count_workers(registry, &stats);
    stats.bytes = index.bytes + tree_bytes(registry);
    pthread_rwlock_unlock(&registry->members);
    stats.keys = index.entries;
    stats.chunks = index.ids;
    stats.bytes_max = registry->max_bytes;
    stats.dropped = atomic_load(&registry->dropped);
    stats.gaps = atomic_load(&registry->gaps);
    stats.global_progress =
        stats.workers > 0 ? (double)stats.completed / (double)stats.workers : 0.0;
    stats.size = stats_out->size < sizeof(stats) ? stats_out->size : sizeof(stats);
    memcpy(stats_out, &stats, stats.size);
}

int kvl_registry_tidy(struct kvl_registry *registry, uint64_t budget_us)
{
    kvl_reg_age_all(registry);
    return kvl_index_tidy(registry->index, budget_us);
}
