/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Chunks in files of a local folder: the tier below memory, which survives a restart.
 */
#include <errno.h>

#include <kvlane/backend.h>

#include "disk_store.h"
#include "setting.h"

#ifndef KVL_BUILD_ID
#define KVL_BUILD_ID "dev"
#endif

static int disk_check(const struct kvl_host *host, struct kvl_err *err)
{
    struct disk_options options;

    return disk_options_read(host, &options, err);
}

static int disk_create(const struct kvl_host *host, void **self_out, struct kvl_err *err)
{
    struct disk_options options;
    struct disk_store *store;
    int r = disk_options_read(host, &options, err);

    if (r < 0) {
        return r;
    }
    r = disk_store_create(host, &options, &store);
    if (r < 0) {
        return kvl_fail(err, r, "disk: no memory");
    }
    *self_out = store;
    return 0;
}

static int disk_start(void *self, struct kvl_err *err)
{
    return disk_store_start(self, err);
}

static void disk_quiesce(void *self)
{
    struct disk_store *store = self;

    disk_queue_quiesce(&store->queue);
}

static int disk_drain(void *self, uint64_t deadline_ms)
{
    struct disk_store *store = self;

    return disk_queue_drain(&store->queue, deadline_ms);
}

static void disk_stop(void *self)
{
    disk_store_stop(self);
}

static void disk_destroy(void *self)
{
    disk_store_destroy(self);
}

static int disk_lookup(void *self, const struct kvl_batch *batch)
{
    return disk_store_submit(self, DISK_LOOKUP, batch);
}

static int disk_read(void *self, const struct kvl_batch *batch)
{
    return disk_store_submit(self, DISK_READ, batch);
}

static int disk_write(void *self, const struct kvl_batch *batch)
{
    return disk_store_submit(self, DISK_WRITE, batch);
}

static int disk_remove(void *self, const struct kvl_batch *batch)
{
    return disk_store_submit(self, DISK_REMOVE, batch);
}

static int disk_list(void *self, uint64_t cookie, uint64_t deadline_ms)
{
    return disk_store_list(self, cookie, deadline_ms);
}

static void disk_cancel(void *self, uint64_t cookie)
{
    struct disk_store *store = self;

    disk_queue_cancel(&store->queue, cookie);
}

static void disk_get_limits(void *self, struct kvl_limits *limits_out)
{
    const struct disk_store *store = self;

    limits_out->max_items = KVL_BATCH_MAX;
    limits_out->max_bytes = store->options.max_bytes;
    limits_out->max_in_flight = store->options.max_in_flight;
    limits_out->latency_us = 100;
}

static void disk_get_health(void *self, struct kvl_health *health_out)
{
    disk_store_health(self, health_out);
}

static void disk_get_stats(void *self, kvl_stat_fn fn, void *ctx)
{
    disk_store_stats(self, fn, ctx);
}

static const struct kvl_backend_ops disk_ops = {
    .size = sizeof(struct kvl_backend_ops),
    .check = disk_check,
    .create = disk_create,
    .start = disk_start,
    .quiesce = disk_quiesce,
    .drain = disk_drain,
    .stop = disk_stop,
    .destroy = disk_destroy,
    .lookup = disk_lookup,
    .read = disk_read,
    .write = disk_write,
    .remove = disk_remove,
    .list = disk_list,
    /* .probe absent: get_health knows without asking */
    .cancel = disk_cancel,
    .get_limits = disk_get_limits,
    .get_health = disk_get_health,
    .get_stats = disk_get_stats,
};

static const struct kvl_backend_desc disk_desc = {
    .magic = KVL_BACKEND_MAGIC,
    .size = sizeof(struct kvl_backend_desc),
    .abi_major = KVL_BACKEND_ABI_MAJOR,
    .abi_minor = KVL_BACKEND_ABI_MINOR,
    .caps = KVL_CAP_READ | KVL_CAP_WRITE | KVL_CAP_LOOKUP | KVL_CAP_REMOVE | KVL_CAP_LIST |
            KVL_CAP_CANCEL | KVL_CAP_PERSISTENT,
    .name = "disk",
    .version = "0.1.0",
    .build_id = KVL_BUILD_ID,
    .options = disk_option_table,
    .option_count = DISK_OPTION_COUNT,
    .option_size = sizeof(struct kvl_option),
    .ops = &disk_ops,
};

KVL_EXPORT const struct kvl_backend_desc *kvlane_backend_v1(void)
{
    return &disk_desc;
}
