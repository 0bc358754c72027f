/* SPDX-License-Identifier: Apache-2.0 */
/*
 * /metrics: first LMCache's names, all of them gauges there, so that existing dashboards go on;
 * then what we count beyond, under a prefix of its own.
 */
#include <string.h>

#include "controller_routes.h"

#define LMCACHE "lmcache:cache_controller_"
#define LABEL "{role=\"controller\"} "
#define OURS "kvlane_controller_"

static void metrics_begin(struct controller_text *text, const char *prefix, const char *name,
                          const char *type, const char *help)
{
    controller_text_add(text, "# HELP %s%s %s\n# TYPE %s%s %s\n%s%s", prefix, name, help, prefix,
                        name, type, prefix, name);
}

static void metrics_lmcache(struct controller_text *text, const char *name, uint64_t value,
                            const char *help)
{
    metrics_begin(text, LMCACHE, name, "gauge", help);
    controller_text_add(text, LABEL "%llu\n", (unsigned long long)value);
}

static void metrics_sockets(struct controller_text *text, const struct controller_server *server)
{
    static const struct {
        const char *name;
        const char *help;
        enum controller_count count;
    } series[] = {
        {"pull_socket_message_count", "The total number of messages received on PULL socket",
         CONTROLLER_COUNT_PULL_FRAMES},
        {"reply_socket_message_count", "The total number of messages received on REPLY socket",
         CONTROLLER_COUNT_REPLY_MESSAGES},
        {"pull_socket_has_pending", "Whether PULL socket has pending messages (1=yes, 0=no)",
         CONTROLLER_COUNT_PULL_PENDING},
        {"reply_socket_has_pending", "Whether REPLY socket has pending messages (1=yes, 0=no)",
         CONTROLLER_COUNT_REPLY_PENDING},
        {"pull_socket_active_requests", "Number of requests being processed from PULL socket",
         CONTROLLER_COUNT_PULL_ACTIVE},
        {"reply_socket_active_requests", "Number of requests being processed from REPLY socket",
         CONTROLLER_COUNT_REPLY_ACTIVE},
    };

    for (size_t i = 0; i < sizeof(series) / sizeof(series[0]); i++) {
        metrics_lmcache(text, series[i].name, controller_server_count(server, series[i].count),
                        series[i].help);
    }
}

static void metrics_registry(struct controller_text *text, const struct kvl_registry_stats *stats)
{
    metrics_lmcache(text, "kv_pool_keys_count", stats->keys, "The number of keys in the KV pool");
    metrics_lmcache(text, "registered_workers_count", stats->workers,
                    "The total number of registered workers");
    metrics_lmcache(text, "kv_op_seq_discontinuity_count", stats->gaps,
                    "Total count of KV operation sequence number discontinuities");
    metrics_lmcache(text, "full_sync_workers_syncing", stats->syncing,
                    "Number of workers currently in full sync");
    metrics_lmcache(text, "full_sync_workers_completed", stats->completed,
                    "Number of workers that have completed full sync");
    metrics_begin(text, LMCACHE, "full_sync_global_progress", "gauge",
                  "Global full sync progress (0.0 to 1.0)");
    controller_text_put(text, LABEL);
    controller_text_real(text, stats->global_progress);
    controller_text_put(text, "\n");
    metrics_lmcache(text, "full_sync_missing_batches_total", stats->missing_batches,
                    "Total count of missing batches across all syncing workers");
}

static void metrics_gauge(struct controller_text *text, const char *name, uint64_t value,
                          const char *help)
{
    metrics_begin(text, OURS, name, "gauge", help);
    controller_text_add(text, " %llu\n", (unsigned long long)value);
}

/* The name says it: `key_ops` counts key ops. */
static void metrics_total(struct controller_text *text, const char *name, uint64_t value)
{
    controller_text_put(text, "# HELP " OURS);
    controller_text_add(text, "%s_total ", name);
    for (const char *c = name; *c != '\0'; c++) {
        controller_text_bytes(text, *c == '_' ? " " : c, 1);
    }
    controller_text_add(text, "\n# TYPE " OURS "%s_total counter\n" OURS "%s_total %llu\n", name,
                        name, (unsigned long long)value);
}

static void metrics_ours(struct controller_text *text, const struct kvl_registry_stats *stats)
{
    metrics_gauge(text, "instances", stats->instances, "instances with a worker");
    metrics_gauge(text, "silent_workers", stats->silent, "workers past their time-to-live");
    metrics_gauge(text, "chunks", stats->chunks, "different chunk ids that somebody holds");
    metrics_gauge(text, "registry_bytes", stats->bytes, "memory of the registry");
    metrics_gauge(text, "registry_bytes_max", stats->bytes_max, "its bound, 0 = none");
    metrics_total(text, "registry_dropped", stats->dropped);
}

/* These are above, as LMCache's. */
static bool metrics_is_known(enum controller_count which)
{
    return which >= CONTROLLER_COUNT_PULL_PENDING && which <= CONTROLLER_COUNT_REPLY_ACTIVE;
}

static bool metrics_is_level(enum controller_count which)
{
    return which == CONTROLLER_COUNT_REPLICA_STANDBYS || which == CONTROLLER_COUNT_STANDBY_FOLLOWS;
}

void controller_route_metrics(const struct controller_request *request,
                              struct controller_answer *answer)
{
    const struct controller_view *view = request->view;
    struct kvl_registry_stats stats = {.size = sizeof(stats)};
    struct controller_text *text = &answer->text;

    view->host->registry_ops->stats(view->host->registry, &stats);
    answer->media = CONTROLLER_MEDIA_TEXT;
    answer->status = 200;
    metrics_registry(text, &stats);
    metrics_sockets(text, view->server);
    metrics_ours(text, &stats);
    for (int i = 0; i < CONTROLLER_COUNTS; i++) {
        const uint64_t value = controller_server_count(view->server, (enum controller_count)i);

        if (metrics_is_level((enum controller_count)i)) {
            metrics_gauge(text, controller_count_names[i], value, controller_count_names[i]);
        } else if (!metrics_is_known((enum controller_count)i)) {
            metrics_total(text, controller_count_names[i], value);
        }
    }
    for (int i = 0; i < CONTROLLER_HTTP_CONNECTIONS; i++) {
        metrics_total(text, controller_http_count_names[i],
                      atomic_load_explicit(&view->counts[i], memory_order_relaxed));
    }
    for (int i = CONTROLLER_HTTP_CONNECTIONS; i < CONTROLLER_HTTP_COUNTS; i++) {
        metrics_gauge(text, controller_http_count_names[i],
                      atomic_load_explicit(&view->counts[i], memory_order_relaxed),
                      controller_http_count_names[i]);
    }
}
