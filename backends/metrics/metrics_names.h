/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file metrics_names.h
 * From counters as the core tells them to series as Prometheus wants them: what the metric is
 * called, of which type it is, what it means. The contract knows no types, so this file does.
 */
#ifndef KVL_METRICS_NAMES_H
#define KVL_METRICS_NAMES_H

#include <stdbool.h>
#include <stddef.h>

#define METRICS_NAME_MAX 160u
#define METRICS_SECTION_MAX 33u

/** Where a counter comes from. */
enum metrics_scope {
    METRICS_STORE, /* store_... */
    METRICS_CORE, /* core_... */
    METRICS_REGISTRY, /* registry_..., where a backend needs the registry */
    METRICS_COMMON, /* what the core counts for every backend */
    METRICS_BACKEND, /* what a backend counts */
};

struct metrics_series {
    char name[METRICS_NAME_MAX]; /* without prefix: "store_hits_total" */
    char section[METRICS_SECTION_MAX]; /* label; "" = none */
    bool is_gauge;
    const char *help; /* static */
};

/**
 * Maps a counter. `sections` are the INI sections of the instance.
 *
 *   store_hits                     store_hits_total
 *   core_operations                core_operations                            (a gauge)
 *   tcp_remote_serve_failures      backend_failures_total{section="tcp_remote:serve"}
 *   tcp_remote_serve_connections   tcp_remote_connections{section="tcp_remote:serve"}
 *   anything else                  anything_else_total
 */
void metrics_names_map(const char *counter, const char (*sections)[METRICS_SECTION_MAX],
                       size_t section_count, struct metrics_series *series_out);

#endif /* KVL_METRICS_NAMES_H */
