/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file core.h
 * One open instance: what belongs to it, and its life. What moves chunks is in move.h.
 */
#ifndef KVL_PLUGIN_CORE_H
#define KVL_PLUGIN_CORE_H

#include <kvlane/plugin.h>

#include <pthread.h>

#include "hints.h"
#include "registry.h"
#include "route.h"
#include "stats.h"
#include "store.h"
#include "tier.h"
#include "watch.h"

struct kvl_instance {
    uint32_t fork_generation; /* of the process that opened it */
    atomic_int closing;
    atomic_int started;
    pthread_mutex_t life; /* one start at a time */
    struct kvl_log log;
    atomic_uint_fast64_t default_deadline_ms; /* relative */
    uint64_t opened_ms;
    char *stats_socket; /* owned; "" = none */
    struct kvl_store *store;
    struct kvl_hints *hints;
    struct kvl_registry *registry; /* NULL until a backend needs it */
    struct kvl_registry_params registry_params;
    struct kvl_flights *flights;
    struct kvl_route route;
    struct kvl_counters counters;
    struct kvl_watch *watch;
    struct kvl_tier *_Atomic tier; /* NULL = none */
    struct kvl_watcher watcher; /* how backends see us */
    struct kvl_codecs codecs;
    /* What the file said last, to tell what a reload changes. */
    struct kvl_settings kvlane_settings;
    struct kvl_settings store_settings;
    struct kvl_settings registry_settings;
    size_t section_count;
};

/** The functions of plugin.h, arguments checked. */
int kvl_core_check(const struct kvl_open_params *params, struct kvl_err *err);
int kvl_core_open(const struct kvl_open_params *params, struct kvl_instance **instance_out,
                  struct kvl_err *err);
int kvl_core_start(struct kvl_instance *instance, struct kvl_err *err);
int kvl_core_reload(struct kvl_instance *instance, const struct kvl_open_params *params,
                    uint32_t *restart_out, struct kvl_err *err);
int kvl_core_close(struct kvl_instance *instance, uint64_t deadline_ms);
int kvl_core_health(struct kvl_instance *instance, uint32_t location,
                    struct kvl_health *health_out);
void kvl_core_stats(struct kvl_instance *instance, kvl_stat_fn fn, void *ctx);

/** Grows by one in a forked child. Registers the fork handler at its first call. */
uint32_t kvl_core_fork_generation(void);

#endif /* KVL_PLUGIN_CORE_H */
