/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file disk_store.h
 * One instance: its log, its queue and the threads between them.
 */
#ifndef KVL_DISK_STORE_H
#define KVL_DISK_STORE_H

#include "disk_log.h"
#include "disk_queue.h"

/** Readers, the writer, and one that answers lookups. */
#define DISK_THREADS_MAX (64u + 2u)

struct disk_thread {
    struct disk_store *store;
    enum disk_lane lane;
    uint64_t id;
};

struct disk_store {
    const struct kvl_host *host; /* borrowed */
    struct disk_options options;
    struct disk_log log;
    struct disk_queue queue;
    struct disk_thread threads[DISK_THREADS_MAX];
    uint32_t thread_count;
    atomic_bool started;
};

int disk_store_create(const struct kvl_host *host, const struct disk_options *options,
                      struct disk_store **store_out);
/** Takes NULL. */
void disk_store_destroy(struct disk_store *store);

int disk_store_start(struct disk_store *store, struct kvl_err *err);
void disk_store_stop(struct disk_store *store);

int disk_store_submit(struct disk_store *store, enum disk_op_kind kind,
                      const struct kvl_batch *batch);
int disk_store_list(struct disk_store *store, uint64_t cookie, uint64_t deadline_ms);

void disk_store_health(struct disk_store *store, struct kvl_health *health_out);
void disk_store_stats(struct disk_store *store, kvl_stat_fn fn, void *ctx);

#endif /* KVL_DISK_STORE_H */
