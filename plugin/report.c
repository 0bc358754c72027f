/* SPDX-License-Identifier: Apache-2.0 */
/* Health and counters of an instance. */
#include <errno.h>

#include "core.h"

static void local_health(struct kvl_instance *instance, struct kvl_health *health)
{
    struct kvl_store_stats stats;

    kvl_store_get_stats(instance->store, &stats);
    health->state = KVL_HEALTH_OK;
    snprintf(health->name, sizeof(health->name), "LocalCPUBackend");
    snprintf(health->text, sizeof(health->text), "%llu chunks in %llu of %llu bytes",
             (unsigned long long)stats.chunks, (unsigned long long)stats.used_bytes,
             (unsigned long long)stats.max_bytes);
}

static void backend_health(const struct kvl_backend *backend, struct kvl_health *health)
{
    static const char *const texts[] = {"not started", "running", "start failed", "stopped"};
    const uint64_t overdue = atomic_load(&backend->overdue);

    health->state = kvl_backend_is_running(backend) ? KVL_HEALTH_OK : KVL_HEALTH_DOWN;
    snprintf(health->text, sizeof(health->text), "%s", texts[atomic_load(&backend->state)]);
    if (backend->module.ops.get_health != NULL && kvl_backend_is_running(backend)) {
        backend->module.ops.get_health(backend->self, health);
    }
    snprintf(health->name, sizeof(health->name), "%s", backend->name);
    health->caps = backend->caps;
    if (overdue > 0) {
        health->state = health->state == KVL_HEALTH_OK ? KVL_HEALTH_DEGRADED : health->state;
        snprintf(health->text, sizeof(health->text),
                 "%llu transfers are past their deadline, their memory is held back",
                 (unsigned long long)overdue);
    }
}

int kvl_core_health(struct kvl_instance *instance, uint32_t location, struct kvl_health *health_out)
{
    struct kvl_health health = {.size = sizeof(health)};

    if (location == KVL_LOCATION_LOCAL) {
        local_health(instance, &health);
    } else if (location >= KVL_LOCATION_BACKEND &&
               location - KVL_LOCATION_BACKEND < instance->route.count) {
        backend_health(instance->route.backends[location - KVL_LOCATION_BACKEND], &health);
    } else {
        return -EINVAL;
    }
    health.size = health_out->size < sizeof(health) ? health_out->size : sizeof(health);
    memcpy(health_out, &health, health.size);
    return 0;
}

/* Puts the section before a backend's own names. */
struct prefixed {
    kvl_stat_fn fn;
    void *ctx;
    const char *prefix;
};

static void add_prefixed(void *ctx, const char *name, uint64_t value)
{
    const struct prefixed *prefixed = ctx;
    char full[160];

    snprintf(full, sizeof(full), "%s_%s", prefixed->prefix, name);
    for (char *c = full; *c != '\0'; c++) {
        *c = *c == ':' || *c == '-' ? '_' : *c;
    }
    prefixed->fn(prefixed->ctx, full, value);
}

static void store_stats(struct kvl_instance *instance, struct prefixed *to)
{
    struct kvl_store_stats stats;

    kvl_store_get_stats(instance->store, &stats);
    to->prefix = "store";
    add_prefixed(to, "chunks", stats.chunks);
    add_prefixed(to, "bytes", stats.bytes);
    add_prefixed(to, "used_bytes", stats.used_bytes);
    add_prefixed(to, "max_bytes", stats.max_bytes);
    add_prefixed(to, "hits", stats.hits);
    add_prefixed(to, "misses", stats.misses);
    add_prefixed(to, "evictions", stats.evictions);
    add_prefixed(to, "refused", stats.refused);
    add_prefixed(to, "lost", stats.lost);
    add_prefixed(to, "corrupt", stats.corrupt);
    add_prefixed(to, "leases", stats.leases);
    add_prefixed(to, "reserved", stats.reserved);
}

static void registry_stats(struct kvl_instance *instance, struct prefixed *to)
{
    struct kvl_registry_stats stats = {.size = sizeof(stats)};

    if (instance->registry == NULL) {
        return;
    }
    kvl_registry_stats(instance->registry, &stats);
    to->prefix = "registry";
    add_prefixed(to, "instances", stats.instances);
    add_prefixed(to, "workers", stats.workers);
    add_prefixed(to, "workers_syncing", stats.syncing);
    add_prefixed(to, "workers_completed", stats.completed);
    add_prefixed(to, "workers_silent", stats.silent);
    add_prefixed(to, "keys", stats.keys);
    add_prefixed(to, "chunks", stats.chunks);
    add_prefixed(to, "used_bytes", stats.bytes);
    add_prefixed(to, "max_bytes", stats.bytes_max);
    add_prefixed(to, "dropped", stats.dropped);
    add_prefixed(to, "gaps", stats.gaps);
    add_prefixed(to, "missing_batches", stats.missing_batches);
}

static void core_stats(struct kvl_instance *instance, struct prefixed *to)
{
    struct kvl_counters *counters = &instance->counters;
    struct kvl_flight_stats flights;

    to->prefix = "core";
    add_prefixed(to, "uptime_ms", kvl_now_ms() - instance->opened_ms);
    for (int i = 0; i < KVL_COUNTERS; i++) {
        add_prefixed(to, kvl_counter_names[i],
                     atomic_load_explicit(&counters->values[i], memory_order_relaxed));
    }
    add_prefixed(to, "lookup_p50_ns", kvl_hist_quantile(&counters->lookup_ns, 500));
    add_prefixed(to, "lookup_p99_ns", kvl_hist_quantile(&counters->lookup_ns, 990));
    add_prefixed(to, "load_p50_ns", kvl_hist_quantile(&counters->load_ns, 500));
    add_prefixed(to, "load_p99_ns", kvl_hist_quantile(&counters->load_ns, 990));
    kvl_flights_get_stats(instance->flights, &flights);
    add_prefixed(to, "operations", flights.ops);
    add_prefixed(to, "flights", flights.flights);
    add_prefixed(to, "quarantined", flights.quarantined);
    add_prefixed(to, "hint_keys", kvl_hints_count(instance->hints));
}

void kvl_core_stats(struct kvl_instance *instance, kvl_stat_fn fn, void *ctx)
{
    struct prefixed to = {.fn = fn, .ctx = ctx};

    store_stats(instance, &to);
    core_stats(instance, &to);
    registry_stats(instance, &to);
    kvl_tier_stats(atomic_load(&instance->tier), fn, ctx);
    for (uint32_t i = 0; i < instance->route.count; i++) {
        const struct kvl_backend *backend = instance->route.backends[i];

        to.prefix = backend->name;
        add_prefixed(&to, "in_flight", atomic_load(&backend->in_flight));
        add_prefixed(&to, "overdue", atomic_load(&backend->overdue));
        add_prefixed(&to, "late_completions", atomic_load(&backend->late));
        add_prefixed(&to, "bogus_completions", atomic_load(&backend->bogus));
        add_prefixed(&to, "failures", atomic_load(&backend->failures));
        if (backend->module.ops.get_stats != NULL && kvl_backend_is_running(backend)) {
            backend->module.ops.get_stats(backend->self, add_prefixed, &to);
        }
    }
}
