/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda_ipc_report.h"

#include <stdio.h>
#include <string.h>

static uint32_t report_state(struct cuda_ipc *self)
{
    const int state = atomic_load(&self->state);

    if (state != CUDA_IPC_RUNNING) {
        return KVL_HEALTH_DOWN;
    }
    return atomic_load(&self->useless) > 0 || cuda_ipc_reap_lost(self->reap) > 0 ||
                   self->is_short || !cuda_ipc_copy_is_well(self->copy)
               ? KVL_HEALTH_DEGRADED
               : KVL_HEALTH_OK;
}

/* The worst first: the text has room for one sentence. */
void cuda_ipc_report_health(struct cuda_ipc *self, struct kvl_health *health_out)
{
    char copy[200];

    health_out->state = report_state(self);
    (void)snprintf(health_out->address, sizeof(health_out->address), "%s", self->address_text);
    if (atomic_load(&self->state) != CUDA_IPC_RUNNING) {
        (void)snprintf(health_out->text, sizeof(health_out->text), "not running");
    } else if (!cuda_ipc_copy_is_well(self->copy)) {
        (void)snprintf(health_out->text, sizeof(health_out->text),
                       "a device is lost, the log says why");
    } else if (cuda_ipc_reap_lost(self->reap) > 0) {
        (void)snprintf(health_out->text, sizeof(health_out->text),
                       "the processes of %u registered KV caches have ended, these take no batches",
                       cuda_ipc_reap_lost(self->reap));
    } else if (atomic_load(&self->useless) > 0) {
        pthread_mutex_lock(&self->ops_lock);
        (void)snprintf(health_out->text, sizeof(health_out->text),
                       "memory of %u peers cannot be used: %s", atomic_load(&self->useless),
                       self->useless_text);
        pthread_mutex_unlock(&self->ops_lock);
    } else if (self->is_short) {
        (void)snprintf(health_out->text, sizeof(health_out->text),
                       "the pool is smaller than asked for: the device had no more memory");
    } else {
        cuda_ipc_copy_describe(self->copy, copy, sizeof(copy));
        (void)snprintf(health_out->text, sizeof(health_out->text), "%u peers, %s",
                       atomic_load(&self->links), copy[0] != '\0' ? copy : "no device in use yet");
    }
}

static void report_counters(struct cuda_ipc *self, kvl_stat_fn fn, void *ctx)
{
    static const char *const names[CUDA_IPC_COUNTERS] = {
        [CUDA_IPC_COUNT_LOOKUPS] = "lookup_chunks",
        [CUDA_IPC_COUNT_LOOKUP_OWN] = "lookup_own",
        [CUDA_IPC_COUNT_LOOKUP_PEER] = "lookup_peer",
        [CUDA_IPC_COUNT_READ_OWN] = "read_own",
        [CUDA_IPC_COUNT_READ_PEER] = "read_peer",
        [CUDA_IPC_COUNT_READ_BYTES] = "read_bytes",
        [CUDA_IPC_COUNT_WRITES] = "writes",
        [CUDA_IPC_COUNT_WRITE_BYTES] = "write_bytes",
        [CUDA_IPC_COUNT_GATHERS] = "gathers",
        [CUDA_IPC_COUNT_GATHER_BYTES] = "gather_bytes",
        [CUDA_IPC_COUNT_SCATTERS] = "scatters",
        [CUDA_IPC_COUNT_SCATTER_BYTES] = "scatter_bytes",
        [CUDA_IPC_COUNT_STALE] = "read_stale",
        [CUDA_IPC_COUNT_IMPORT_FAILURES] = "import_failures",
        [CUDA_IPC_COUNT_PRODUCERS_LOST] = "kv_producers_lost",
    };

    for (size_t i = 0; i < CUDA_IPC_COUNTERS; i++) {
        fn(ctx, names[i], atomic_load_explicit(&self->counters[i], memory_order_relaxed));
    }
}

static void report_pool(struct cuda_ipc *self, kvl_stat_fn fn, void *ctx)
{
    struct cuda_ipc_pool_stats pool;

    fn(ctx, "store_pinned", atomic_load(&self->is_pinned));
    cuda_ipc_pool_get_stats(self->pool, &pool);
    fn(ctx, "pool_chunks", pool.chunks);
    fn(ctx, "pool_used_bytes", pool.bytes);
    fn(ctx, "pool_room_bytes", pool.room);
    fn(ctx, "pool_stored", pool.stored);
    fn(ctx, "pool_evicted", pool.evicted);
    fn(ctx, "pool_full", pool.full);
}

static void report_net(struct cuda_ipc *self, kvl_stat_fn fn, void *ctx)
{
    struct cuda_ipc_net_stats net;

    cuda_ipc_net_get_stats(self->net, &net);
    fn(ctx, "peer_links", net.links);
    fn(ctx, "peer_useless", atomic_load(&self->useless));
    fn(ctx, "peer_conns", net.conns);
    fn(ctx, "peer_leases", net.leases);
    fn(ctx, "peer_leased", net.leased);
    fn(ctx, "peer_requests", net.asked);
    fn(ctx, "peer_lost", net.lost_links);
    fn(ctx, "peer_timeouts", net.timeouts);
    fn(ctx, "peer_protocol_errors", net.protocol_errors);
    fn(ctx, "peer_refused", net.refused);
}

static void report_map(kvl_stat_fn fn, void *ctx)
{
    struct cuda_ipc_map_stats map;

    cuda_ipc_map_get_stats(&map);
    fn(ctx, "map_hits", map.hits);
    fn(ctx, "map_misses", map.misses);
    fn(ctx, "map_stale", map.stale);
    fn(ctx, "map_evicted", map.evicted);
    fn(ctx, "map_dropped", map.dropped);
    fn(ctx, "map_refused", map.refused);
    fn(ctx, "map_failures", map.failures);
    fn(ctx, "map_own", map.own);
    fn(ctx, "map_entries", map.entries);
    fn(ctx, "map_in_use", map.in_use);
    fn(ctx, "map_bytes", map.bytes);
}

void cuda_ipc_report_stats(struct cuda_ipc *self, kvl_stat_fn fn, void *ctx)
{
    const int state = atomic_load(&self->state);

    report_counters(self, fn, ctx);
    report_pool(self, fn, ctx);
    if (state == CUDA_IPC_RUNNING || state == CUDA_IPC_LEAVING) {
        report_net(self, fn, ctx);
        report_map(fn, ctx);
        cuda_ipc_copy_stats(self->copy, fn, ctx);
    }
}
