/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shows the instance to people and machines over HTTP: counters for Prometheus, health for whoever
 * decides whether this process gets work. Moves no chunk.
 */
#include <errno.h>
#include <stddef.h>

#include <kvlane/backend.h>

#include "metrics_http.h"
#include "setting.h"

#ifndef KVL_BUILD_ID
#define KVL_BUILD_ID "dev"
#endif

static int metrics_check(const struct kvl_host *host, struct kvl_err *err)
{
    struct metrics_options options;

    return metrics_options_read(host, &options, err);
}

static int metrics_create(const struct kvl_host *host, void **self_out, struct kvl_err *err)
{
    struct metrics_options options;
    struct metrics_http *http;
    int r = metrics_options_read(host, &options, err);

    if (r < 0) {
        return r;
    }
    if (host->size < offsetof(struct kvl_host, health) + sizeof(host->health)) {
        return kvl_fail(err, -ENODEV, "metrics: this libkvlane.so does not tell its counters");
    }
    r = metrics_http_create(host, &options, &http);
    if (r < 0) {
        return kvl_fail(err, r, "metrics: no memory");
    }
    *self_out = http;
    return 0;
}

static int metrics_start(void *self, struct kvl_err *err)
{
    return metrics_http_start(self, err);
}

static void metrics_quiesce(void *self)
{
    metrics_http_quiesce(self);
}

static void metrics_stop(void *self)
{
    metrics_http_stop(self);
}

static void metrics_destroy(void *self)
{
    metrics_http_destroy(self);
}

static void metrics_get_health(void *self, struct kvl_health *health_out)
{
    metrics_http_health(self, health_out);
}

static void metrics_get_stats(void *self, kvl_stat_fn fn, void *ctx)
{
    metrics_http_stats(self, fn, ctx);
}

static const struct kvl_backend_ops metrics_ops = {
    .size = sizeof(struct kvl_backend_ops),
    .check = metrics_check,
    .create = metrics_create,
    .start = metrics_start,
    .quiesce = metrics_quiesce,
    /* .drain absent: whoever asks while we drain shall see that */
    .stop = metrics_stop,
    .destroy = metrics_destroy,
    .get_health = metrics_get_health,
    .get_stats = metrics_get_stats,
};

static const struct kvl_backend_desc metrics_desc = {
    .magic = KVL_BACKEND_MAGIC,
    .size = sizeof(struct kvl_backend_desc),
    .abi_major = KVL_BACKEND_ABI_MAJOR,
    .abi_minor = KVL_BACKEND_ABI_MINOR,
    .caps = 0,
    .needs = 0,
    .name = "metrics",
    .version = "0.1.0",
    .build_id = KVL_BUILD_ID,
    .options = metrics_option_table,
    .option_count = METRICS_OPTION_COUNT,
    .option_size = sizeof(struct kvl_option),
    .ops = &metrics_ops,
};

KVL_EXPORT const struct kvl_backend_desc *kvlane_backend_v1(void)
{
    return &metrics_desc;
}
