/* SPDX-License-Identifier: Apache-2.0 */
#include "disk_store.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "disk_read.h"
#include "disk_write.h"
#include "setting.h"

int disk_store_create(const struct kvl_host *host, const struct disk_options *options,
                      struct disk_store **store_out)
{
    struct disk_store *store = calloc(1, sizeof(*store));

    if (store == NULL) {
        return -ENOMEM;
    }
    store->host = host;
    store->options = *options;
    disk_log_init(&store->log, host, &store->options);
    disk_queue_init(&store->queue, options->max_in_flight);
    *store_out = store;
    return 0;
}

void disk_store_destroy(struct disk_store *store)
{
    if (store == NULL) {
        return;
    }
    disk_queue_fini(&store->queue);
    disk_log_fini(&store->log);
    free(store);
}

/* ---- threads ---- */

static int store_do(struct disk_store *store, struct disk_op *op, uint32_t item)
{
    uint64_t bytes = 0;
    int r;

    switch (op->kind) {
    case DISK_LOOKUP:
        r = disk_op_code(op);
        if (r == 0) {
            r = disk_log_has(&store->log, &op->items[item].key) ? 0 : -ENOENT;
        }
        return r;
    case DISK_READ:
        r = disk_read_chunk(&store->log, op, item, &bytes);
        break;
    case DISK_LIST:
        return disk_read_list(&store->log, op);
    case DISK_WRITE:
        r = disk_write_chunk(&store->log, op, &op->items[item], &bytes);
        break;
    default:
        r = disk_op_code(op);
        return r < 0 ? r : disk_write_removal(&store->log, &op->items[item]);
    }
    (void)atomic_fetch_add_explicit(&op->bytes, bytes, memory_order_relaxed);
    return r;
}

static void *store_thread(void *arg)
{
    const struct disk_thread *thread = arg;
    struct disk_store *store = thread->store;
    struct disk_op *op;
    uint32_t item;

    while ((op = disk_queue_take(&store->queue, thread->lane, &item)) != NULL) {
        disk_queue_end(&store->queue, op, item, store_do(store, op, item));
    }
    return NULL;
}

static int store_add_thread(struct disk_store *store, enum disk_lane lane, const char *name)
{
    struct disk_thread *thread = &store->threads[store->thread_count];
    int r;

    *thread = (struct disk_thread){.store = store, .lane = lane};
    r = store->host->thread_create(store->host, name, store_thread, thread, &thread->id);
    if (r == 0) {
        store->thread_count++;
    }
    return r;
}

static void store_end_threads(struct disk_store *store)
{
    disk_queue_stop(&store->queue);
    while (store->thread_count > 0) {
        store->thread_count--;
        (void)store->host->thread_join(store->host, store->threads[store->thread_count].id);
    }
}

int disk_store_start(struct disk_store *store, struct kvl_err *err)
{
    int r = disk_log_open(&store->log, err);

    if (r < 0) {
        return r;
    }
    disk_queue_start(&store->queue);
    r = store_add_thread(store, DISK_LANE_WRITE, "kvl-disk-write");
    r = r < 0 ? r : store_add_thread(store, DISK_LANE_LOOKUP, "kvl-disk-find");
    for (uint32_t i = 0; i < store->options.threads && r == 0; i++) {
        r = store_add_thread(store, DISK_LANE_READ, "kvl-disk-read");
    }
    if (r < 0) {
        store_end_threads(store);
        disk_log_close(&store->log);
        return kvl_fail(err, r, "disk: cannot make threads: %s", strerror(-r));
    }
    atomic_store(&store->started, true);
    return 0;
}

void disk_store_stop(struct disk_store *store)
{
    atomic_store(&store->started, false);
    store_end_threads(store);
    disk_log_close(&store->log);
}

/* ---- operations ---- */

static int store_add(struct disk_store *store, struct disk_op *take_op)
{
    int r = disk_queue_add(&store->queue, take_op);

    if (r < 0) {
        disk_op_destroy(take_op);
    }
    return r;
}

int disk_store_submit(struct disk_store *store, enum disk_op_kind kind,
                      const struct kvl_batch *batch)
{
    struct disk_op *op;
    int r = disk_op_create(kind, store->host, batch, store->options.max_bytes, &op);

    return r < 0 ? r : store_add(store, op);
}

int disk_store_list(struct disk_store *store, uint64_t cookie, uint64_t deadline_ms)
{
    struct disk_op *op;
    int r = disk_op_create_list(store->host, cookie, deadline_ms, &op);

    return r < 0 ? r : store_add(store, op);
}

/* ---- watch ---- */

void disk_store_health(struct disk_store *store, struct kvl_health *health_out)
{
    const int code = atomic_load(&store->log.write_code);
    struct disk_log_totals totals;

    (void)snprintf(health_out->address, sizeof(health_out->address), "%s", store->options.path);
    if (!atomic_load(&store->started)) {
        health_out->state = KVL_HEALTH_DOWN;
        (void)snprintf(health_out->text, sizeof(health_out->text), "not running");
        return;
    }
    disk_log_totals(&store->log, &totals);
    health_out->state = code == 0 ? KVL_HEALTH_OK : KVL_HEALTH_DEGRADED;
    (void)snprintf(health_out->text, sizeof(health_out->text),
                   "%llu chunks, %llu of %llu MiB in %u files%s%s",
                   (unsigned long long)totals.chunks, (unsigned long long)totals.total_bytes >> 20,
                   (unsigned long long)store->options.budget >> 20, (unsigned)totals.segments,
                   code == 0 ? "" : "; writing fails: ", code == 0 ? "" : strerror(-code));
}

static const char *const store_counter_names[DISK_COUNTERS] = {
    [DISK_COUNT_HITS] = "hits",
    [DISK_COUNT_MISSES] = "misses",
    [DISK_COUNT_READ_BYTES] = "read_bytes",
    [DISK_COUNT_WRITTEN] = "written",
    [DISK_COUNT_WRITTEN_BYTES] = "written_bytes",
    [DISK_COUNT_UNCHANGED] = "unchanged",
    [DISK_COUNT_REMOVED] = "removed",
    [DISK_COUNT_KEPT] = "kept",
    [DISK_COUNT_EXPIRED] = "expired",
    [DISK_COUNT_EXPIRED_SEGMENTS] = "expired_segments",
    [DISK_COUNT_CORRUPT] = "corrupt",
    [DISK_COUNT_COLLISIONS] = "collisions",
    [DISK_COUNT_READ_ERRORS] = "read_errors",
    [DISK_COUNT_WRITE_ERRORS] = "write_errors",
    [DISK_COUNT_TORN_BYTES] = "torn_bytes",
    [DISK_COUNT_BAD_SEGMENTS] = "bad_segments",
};

void disk_store_stats(struct disk_store *store, kvl_stat_fn fn, void *ctx)
{
    struct disk_log_totals totals;

    disk_log_totals(&store->log, &totals);
    fn(ctx, "chunks", totals.chunks);
    fn(ctx, "live_bytes", totals.live_bytes);
    fn(ctx, "disk_bytes", totals.total_bytes);
    fn(ctx, "budget_bytes", store->options.budget);
    fn(ctx, "segments", totals.segments);
    fn(ctx, "in_flight", disk_queue_in_flight(&store->queue));
    for (int i = 0; i < DISK_COUNTERS; i++) {
        fn(ctx, store_counter_names[i], atomic_load(&store->log.counters[i]));
    }
}
