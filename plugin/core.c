/* SPDX-License-Identifier: Apache-2.0 */
#include "core.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>

#include "drive.h"
#include "peer.h"
#include "plan.h"

/* Hints for this many keys: 16 bytes each when used. */
#define HINTS_ENTRIES (1u << 20)

static atomic_uint fork_generation;

/* Only counts: a child must not touch a lock that another thread of the parent may hold. */
static void count_fork(void)
{
    atomic_fetch_add_explicit(&fork_generation, 1, memory_order_relaxed);
}

static void watch_forks(void)
{
    (void)pthread_atfork(NULL, NULL, count_fork);
}

uint32_t kvl_core_fork_generation(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, watch_forks);
    return atomic_load_explicit(&fork_generation, memory_order_relaxed);
}

/* ---- open ---- */

static int make_store(struct kvl_instance *instance, const struct kvl_plan *plan,
                      const struct kvl_open_params *params, struct kvl_err *err)
{
    const struct kvl_store_params store = {
        .arena = params->arena,
        .max_bytes = params->arena != NULL
                         ? params->arena_bytes
                         : (uint64_t)kvl_settings_get(&plan->store, "max_bytes")->number,
        .max_chunks = (uint64_t)kvl_settings_get(&plan->store, "max_chunks")->number,
        .eviction = (enum kvl_evict_policy)kvl_settings_get(&plan->store, "eviction")->number,
        .quota = (uint64_t)kvl_settings_get(&plan->store, "quota")->number,
        .quotas = kvl_settings_get(&plan->store, "quotas")->text,
        .checksum = kvl_settings_get(&plan->store, "checksum")->number != 0,
    };
    int r = kvl_store_create(&store, &instance->store);

    if (r < 0) {
        return kvl_err_set(err, r, 0,
                           r == -EINVAL ? "core: the engine's arena must be aligned to 4096 bytes "
                                          "and have 4096 bytes to 256 GiB"
                                        : "core: no memory for a store of %llu bytes",
                           (unsigned long long)store.max_bytes);
    }
    r = kvl_hints_create(HINTS_ENTRIES, &instance->hints);
    if (r == 0) {
        r = kvl_flights_create(instance->store, instance->hints, &instance->log,
                               &instance->flights);
    }
    return r < 0 ? kvl_err_set(err, r, 0, "core: no memory") : 0;
}

/* Backends in file order. A failure of one that is required is the answer, but the other sections
 * are still looked at, so that all errors of the file come at once. */
static int make_backends(struct kvl_instance *instance, struct kvl_plan *plan,
                         const struct kvl_open_params *params, int create, struct kvl_err *err)
{
    const struct kvl_route_context context = {
        .config = &plan->config,
        .module_path = plan->module_path,
        .log = params->log,
        .log_ctx = params->log_ctx,
        .log_level = instance->log.level,
        .store = instance->store,
        .flights = instance->flights,
        .watcher = &instance->watcher,
        .codecs = &instance->codecs,
    };
    struct kvl_err scratch = {.size = sizeof(scratch)};
    int first = 0;

    for (size_t i = 0; i < plan->config.section_count; i++) {
        const struct kvl_config_section *section = &plan->config.sections[i];
        struct kvl_backend *backend;
        int r;

        if (kvl_plan_is_core_section(section->name)) {
            continue;
        }
        if (instance->route.count == KVL_ROUTE_MAX) {
            kvl_config_error(&plan->config, section->line, "[%s]: more than %u backends",
                             section->name, KVL_ROUTE_MAX);
            break;
        }
        r = kvl_backend_create(&context, section, create, &backend, &scratch);
        if (r < 0) {
            const char *near = r == -ENOENT ? kvl_plan_near_section(section->name) : NULL;

            kvl_config_error(&plan->config, section->line, "[%s] %s%s%s%s", section->name,
                             scratch.text, near != NULL ? "; did you mean [" : "",
                             near != NULL ? near : "", near != NULL ? "]?" : "");
            first = first != 0 ? first : r;
        } else if (backend != NULL) {
            backend->index = instance->route.count;
            instance->route.backends[instance->route.count++] = backend;
        }
    }
    kvl_plan_report(plan, &instance->log, err);
    if (first == 0 && create && plan->config.error_count == 0) {
        kvl_peer_share_store(instance,
                             (params->flags & KVL_OPEN_ARENA_FD) != 0 ? params->arena_fd : -1);
    }
    if (first != 0) {
        if (err != NULL) {
            err->code = first;
        }
        return first;
    }
    return plan->config.error_count > 0 ? -EINVAL : 0;
}

/* Those who are told of peers, or asked what they hold, by other backends: they run as long as the
 * others do. Else what a peer offers while we start, or what they offer themselves, would miss. */
static int runs_longer(const struct kvl_backend *backend)
{
    return (backend->caps & (KVL_CAP_CONNECT | KVL_CAP_HELD)) != 0;
}

static void stop_all(struct kvl_instance *instance)
{
    for (int longer = 0; longer < 2; longer++) {
        for (uint32_t i = instance->route.count; i-- > 0;) {
            struct kvl_backend *backend = instance->route.backends[i];

            if (runs_longer(backend) == longer) {
                kvl_backend_stop(backend);
            }
        }
    }
    kvl_flights_stop_hands(instance->flights);
}

static void free_instance(struct kvl_instance *instance)
{
    stop_all(instance);
    for (uint32_t i = instance->route.count; i-- > 0;) {
        kvl_backend_destroy(instance->route.backends[i]);
    }
    kvl_flights_destroy(instance->flights);
    kvl_hints_destroy(instance->hints);
    kvl_registry_destroy(instance->registry);
    kvl_store_destroy(instance->store);
    pthread_mutex_destroy(&instance->life);
    kvl_settings_fini(&instance->kvlane_settings);
    kvl_settings_fini(&instance->store_settings);
    kvl_settings_fini(&instance->registry_settings);
    kvl_codecs_fini(&instance->codecs);
    free(instance->stats_socket);
    free(instance);
}

static void watcher_stats(void *ctx, kvl_stat_fn fn, void *fn_ctx)
{
    kvl_core_stats(ctx, fn, fn_ctx);
}

static int watcher_health(void *ctx, uint32_t location, struct kvl_health *health_out)
{
    return kvl_core_health(ctx, location, health_out);
}

static int watcher_fetch(void *ctx, const struct kvl_key *key, uint32_t flags, kvl_fetch_fn fn,
                         void *fn_ctx)
{
    struct kvl_instance *instance = ctx;

    return kvl_tier_fetch(atomic_load(&instance->tier), key, flags, fn, fn_ctx);
}

static void watcher_removed(void *ctx, const struct kvl_key *key)
{
    struct kvl_instance *instance = ctx;

    kvl_tier_removed(atomic_load(&instance->tier), key);
}

/* Backends are made one after the other, so nobody else does this at the same time. */
static struct kvl_registry *watcher_registry(void *ctx)
{
    struct kvl_instance *instance = ctx;

    if (instance->registry == NULL &&
        kvl_registry_create(&instance->registry_params, &instance->registry) < 0) {
        return NULL;
    }
    return instance->registry;
}

static int build(const struct kvl_open_params *params, int create,
                 struct kvl_instance **instance_out, struct kvl_err *err)
{
    struct kvl_instance *instance = calloc(1, sizeof(*instance));
    struct kvl_plan plan;
    int r;

    if (instance == NULL) {
        return kvl_err_set(err, -ENOMEM, 0, "core: no memory");
    }
    pthread_mutex_init(&instance->life, NULL);
    instance->watcher = (struct kvl_watcher){
        .ctx = instance,
        .stats = watcher_stats,
        .health = watcher_health,
        .fetch = watcher_fetch,
        .removed = watcher_removed,
        .locate = kvl_peer_locate,
        .push = kvl_peer_push,
        .offers = kvl_peer_offers,
        .offered = kvl_peer_offered,
        .held = kvl_peer_held,
        .registry = watcher_registry,
    };
    instance->fork_generation = kvl_core_fork_generation();
    instance->opened_ms = kvl_now_ms();
    instance->log = kvl_log_make(params->log, params->log_ctx, "core", KVL_LOG_INFO);
    r = kvl_plan_init(&plan, params, err);
    if (r == 0) {
        instance->log.level = (int)kvl_settings_get(&plan.kvlane, "log_level")->number;
        atomic_store(&instance->default_deadline_ms,
                     (uint64_t)kvl_settings_get(&plan.kvlane, "deadline")->number);
        instance->registry_params = (struct kvl_registry_params){
            .max_bytes = (uint64_t)kvl_settings_get(&plan.registry, "memory")->number,
            .settings = kvl_plan_registry_settings(&plan),
        };
        instance->stats_socket = strdup(kvl_settings_get(&plan.kvlane, "stats_socket")->text);
        r = create ? make_store(instance, &plan, params, err) : 0;
    }
    if (r == 0) {
        r = make_backends(instance, &plan, params, create, err);
    }
    kvl_plan_keep(&plan, instance);
    kvl_plan_fini(&plan);
    if (r < 0 || !create) {
        free_instance(instance);
        return r;
    }
    *instance_out = instance;
    return 0;
}

int kvl_core_check(const struct kvl_open_params *params, struct kvl_err *err)
{
    return build(params, 0, NULL, err);
}

int kvl_core_open(const struct kvl_open_params *params, struct kvl_instance **instance_out,
                  struct kvl_err *err)
{
    return build(params, 1, instance_out, err);
}

/* ---- reload ---- */

static void set_level(struct kvl_log *log, int level)
{
    __atomic_store_n(&log->level, level, __ATOMIC_RELAXED);
}

/* What differs from `old` and cannot change while we run. */
static uint32_t core_restarts(const struct kvl_instance *instance, const char *section,
                              const struct kvl_settings *old, const struct kvl_settings *fresh)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < fresh->option_count; i++) {
        if ((fresh->options[i].flags & KVL_OPTION_RELOADABLE) == 0 &&
            strcmp(old->values[i].text, fresh->values[i].text) != 0) {
            kvl_warn(&instance->log,
                     "core: the new value of '%s' in [%s] needs a restart, the old one stays",
                     fresh->options[i].name, section);
            count++;
        }
    }
    return count;
}

static void apply_core(struct kvl_instance *instance, const struct kvl_plan *plan)
{
    const int level = (int)kvl_settings_get(&plan->kvlane, "log_level")->number;

    set_level(&instance->log, level);
    for (uint32_t i = 0; i < instance->route.count; i++) {
        set_level(&instance->route.backends[i]->log, level);
    }
    atomic_store(&instance->default_deadline_ms,
                 (uint64_t)kvl_settings_get(&plan->kvlane, "deadline")->number);
    kvl_store_set_max_chunks(instance->store,
                             (uint64_t)kvl_settings_get(&plan->store, "max_chunks")->number);
    if (instance->registry != NULL) {
        const struct kvl_registry_settings settings = kvl_plan_registry_settings(plan);

        kvl_registry_configure(instance->registry, &settings);
    }
}

/* Looks at every section; with `apply` takes it over. One that went needs a restart. */
static int reload_backends(struct kvl_instance *instance, struct kvl_plan *plan, int apply,
                           uint32_t *restart, struct kvl_err *err)
{
    int first = 0;

    for (uint32_t i = 0; i < instance->route.count; i++) {
        struct kvl_backend *backend = instance->route.backends[i];
        const struct kvl_config_section *section = kvl_config_find(&plan->config, backend->name);
        int r;

        if (section == NULL) {
            *restart += (uint32_t)apply;
            continue;
        }
        r = kvl_backend_reload(backend, &plan->config, section, apply, restart, err);
        first = first == 0 ? r : first;
    }
    return first;
}

int kvl_core_reload(struct kvl_instance *instance, const struct kvl_open_params *params,
                    uint32_t *restart_out, struct kvl_err *err)
{
    struct kvl_err scratch = {.size = sizeof(scratch)};
    uint32_t restart = 0;
    struct kvl_plan plan;
    int r;

    pthread_mutex_lock(&instance->life);
    r = kvl_plan_init(&plan, params, err);
    if (r == 0) {
        r = reload_backends(instance, &plan, 0, &restart, &scratch);
    }
    if (r == 0) {
        r = kvl_plan_report(&plan, &instance->log, err);
    }
    if (r == 0) {
        restart += core_restarts(instance, "kvlane", &instance->kvlane_settings, &plan.kvlane);
        restart += core_restarts(instance, "store", &instance->store_settings, &plan.store);
        restart +=
            core_restarts(instance, "registry", &instance->registry_settings, &plan.registry);
        restart += plan.config.section_count > instance->section_count; /* one came */
        apply_core(instance, &plan);
        r = reload_backends(instance, &plan, 1, &restart, &scratch);
        if (r < 0) {
            kvl_err_set(err, r, 0, "%s", scratch.text);
        }
        kvl_plan_keep(&plan, instance);
        kvl_info(&instance->log, "core: settings reloaded, %u differences need a restart", restart);
    }
    kvl_plan_fini(&plan);
    pthread_mutex_unlock(&instance->life);
    if (r == 0 && restart_out != NULL) {
        *restart_out = restart;
    }
    return r;
}

/* ---- start and close ---- */

static int start_tier(struct kvl_instance *instance, struct kvl_err *err)
{
    struct kvl_tier *tier = NULL;
    int r = atomic_load(&instance->tier) == NULL ? kvl_tier_start(instance, &tier) : 0;

    if (r < 0) {
        return kvl_err_set(err, r, 0, "core: cannot start the threads of the tier below: %s",
                           strerror(-r));
    }
    if (tier != NULL) {
        atomic_store(&instance->tier, tier);
    }
    return 0;
}

static int start_backends(struct kvl_instance *instance, int longer, struct kvl_err *err)
{
    struct kvl_err scratch = {.size = sizeof(scratch)};

    for (uint32_t i = 0; i < instance->route.count; i++) {
        struct kvl_backend *backend = instance->route.backends[i];
        int r;

        if (runs_longer(backend) != longer || atomic_load(&backend->state) != KVL_BACKEND_CREATED) {
            continue;
        }
        r = kvl_backend_start(backend, &scratch);
        if (r < 0) {
            kvl_error(&instance->log, "%s", scratch.text);
            return kvl_err_set(err, r, scratch.os_errno, "%s", scratch.text);
        }
    }
    return 0;
}

/* Only where a backend moves memory that we cannot. */
static void start_hands(struct kvl_instance *instance)
{
    int r = 0;

    for (uint32_t i = 0; i < instance->route.count; i++) {
        const struct kvl_backend *backend = instance->route.backends[i];

        if ((backend->caps & KVL_CAP_MEMORY) != 0 && kvl_backend_is_running(backend) &&
            instance->flights->hand_count == 0 && r == 0) {
            r = kvl_flights_start_hands(instance->flights);
        }
    }
    if (r < 0) {
        kvl_warn(&instance->log,
                 "core: cannot start the threads that check what comes from devices (%s), their "
                 "backends do it",
                 strerror(-r));
    }
}

static int start_all(struct kvl_instance *instance, struct kvl_err *err)
{
    struct kvl_err scratch = {.size = sizeof(scratch)};
    int r = start_backends(instance, 1, err);

    r = r == 0 ? start_backends(instance, 0, err) : r;
    r = r == 0 ? start_tier(instance, err) : r;
    if (r < 0) {
        return r;
    }
    start_hands(instance);
    if (instance->stats_socket != NULL && instance->stats_socket[0] != '\0') {
        r = kvl_watch_start(instance, instance->stats_socket, &instance->watch, &scratch);
        if (r < 0) {
            kvl_error(&instance->log, "%s", scratch.text);
            return kvl_err_set(err, r, scratch.os_errno, "%s", scratch.text);
        }
    }
    return 0;
}

int kvl_core_start(struct kvl_instance *instance, struct kvl_err *err)
{
    int r = 0;

    if (atomic_load_explicit(&instance->started, memory_order_acquire)) {
        return 0;
    }
    pthread_mutex_lock(&instance->life);
    if (!atomic_load_explicit(&instance->started, memory_order_relaxed)) {
        r = start_all(instance, err);
        if (r == 0) {
            atomic_store_explicit(&instance->started, 1, memory_order_release);
        }
    }
    pthread_mutex_unlock(&instance->life);
    return r;
}

/* Serving backends first (`serve` 1): what their peers still send is to be written below. */
static int drain_backends(struct kvl_instance *instance, uint64_t deadline_ms, int serve)
{
    int r = 0;

    for (uint32_t i = 0; i < instance->route.count; i++) {
        const struct kvl_backend *backend = instance->route.backends[i];

        if (((backend->caps & KVL_CAP_SERVE) != 0) == serve && kvl_backend_is_running(backend) &&
            backend->module.ops.quiesce != NULL) {
            backend->module.ops.quiesce(backend->self);
        }
    }
    if (!serve && kvl_flights_drain(instance->flights, deadline_ms) < 0) {
        kvl_warn(&instance->log, "core: transfers were still under way at the deadline of close, "
                                 "cutting them off");
        r = -ETIMEDOUT;
    }
    for (uint32_t i = 0; i < instance->route.count; i++) {
        const struct kvl_backend *backend = instance->route.backends[i];

        if (((backend->caps & KVL_CAP_SERVE) != 0) == serve && kvl_backend_is_running(backend) &&
            backend->module.ops.drain != NULL &&
            backend->module.ops.drain(backend->self, deadline_ms) < 0) {
            kvl_warn(&instance->log,
                     "core: backend '%s' still had work at the deadline, cutting it off",
                     backend->name);
            r = -ETIMEDOUT;
        }
    }
    return r;
}

static int drain_all(struct kvl_instance *instance, uint64_t deadline_ms)
{
    struct kvl_tier *tier = atomic_load(&instance->tier);
    int served;
    int drained;

    kvl_drive_saves(instance, deadline_ms); /* while backends still take what is to be sent on */
    served = drain_backends(instance, deadline_ms, 1);
    kvl_tier_flush(tier, deadline_ms);
    kvl_tier_stop(tier);
    drained = drain_backends(instance, deadline_ms, 0);
    return served < 0 ? served : drained;
}

int kvl_core_close(struct kvl_instance *instance, uint64_t deadline_ms)
{
    uint64_t lost;
    uint64_t out;
    int r;

    atomic_store(&instance->closing, 1);
    kvl_watch_stop(instance->watch);
    r = drain_all(instance, deadline_ms);
    kvl_flights_cut_all(instance->flights);
    /* All stop before one is freed: a backend that shows counters reads those of the others. */
    stop_all(instance);
    for (uint32_t i = instance->route.count; i-- > 0;) {
        kvl_backend_destroy(instance->route.backends[i]);
    }
    instance->route.count = 0;
    kvl_tier_destroy(atomic_load(&instance->tier));
    lost = kvl_flights_destroy(instance->flights);
    instance->flights = NULL;
    out = kvl_store_destroy(instance->store);
    instance->store = NULL;
    if (lost > 0) {
        kvl_error(&instance->log,
                  "core: %llu transfers were never completed by their backends; the store's memory "
                  "stays mapped",
                  (unsigned long long)lost);
    }
    if (out > 0) {
        kvl_warn(&instance->log,
                 "core: %llu leases or slots were still out; their memory stays "
                 "mapped",
                 (unsigned long long)out);
        r = lost > 0 ? -ETIMEDOUT : -EBUSY;
    }
    free_instance(instance);
    return r;
}
