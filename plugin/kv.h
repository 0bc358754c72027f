/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file kv.h
 * The paged KV caches that an engine registered, and copies between their blocks and chunks.
 *
 * A cache in host memory is served here. One in other memory is made known to the backend that
 * serves its kind, and only that backend copies. Caches are named by an index and a generation.
 * Thread-safe; no lock is held while a backend is called.
 */
#ifndef KVL_PLUGIN_KV_H
#define KVL_PLUGIN_KV_H

#include <kvlane/io.h>

#include <pthread.h>

#include "table.h"

struct kvl_backend;
struct kvl_route;

struct kvl_kv_cache {
    struct kvl_kv
        layout; /* bases: a copy; kvcache: NULL, its layout is known to the backend only */
    struct kvl_backend *backend; /* borrowed; NULL = host memory */
    uint64_t number; /* what the backend calls it */
    uint64_t *bases; /* owned; NULL when it came as a kvcache */
    uint64_t handle;
    uint32_t users; /* guarded by the lock of the table */
    int is_leaving; /* likewise: being unregistered, no new users */
};

struct kvl_kv_table {
    pthread_mutex_t lock;
    struct kvl_table caches;
};

void kvl_kv_init(struct kvl_kv_table *table);

/** Forgets all of them. The backends that served them are gone or stopped. */
void kvl_kv_fini(struct kvl_kv_table *table);

/** As kvl_plugin.register_kv. Errors name the field, its value and what was expected. */
int kvl_kv_register(struct kvl_kv_table *table, const struct kvl_route *route,
                    const struct kvl_kv *kv, uint64_t *kv_out, struct kvl_err *err);

/** As kvl_plugin.unregister_kv. */
int kvl_kv_unregister(struct kvl_kv_table *table, uint64_t handle);

/** The cache of a handle, to be given back with kvl_kv_put; NULL = unknown. */
struct kvl_kv_cache *kvl_kv_get(struct kvl_kv_table *table, uint64_t handle);

/** One more user of a cache that is in use. @return it. */
struct kvl_kv_cache *kvl_kv_use(struct kvl_kv_table *table, struct kvl_kv_cache *cache);

/** Takes NULL. */
void kvl_kv_put(struct kvl_kv_table *table, struct kvl_kv_cache *cache);

/** The running backend that serves a kind of memory; NULL = none. */
struct kvl_backend *kvl_kv_mover(const struct kvl_route *route, uint64_t mem);

/**
 * Is this the block table of a chunk of so many bytes? Of a kvcache only its backend knows.
 * @param may_skip  KVL_BLOCK_SKIP is legal
 * @return 0; -EINVAL.
 */
int kvl_kv_check(const struct kvl_kv_cache *cache, const uint32_t *blocks, uint32_t count,
                 uint64_t bytes, int may_skip);

/** Blocks in host memory -> contiguous bytes; the table was checked. */
void kvl_kv_gather(const struct kvl_kv_cache *cache, const uint32_t *blocks, uint32_t count,
                   uint64_t bytes, void *to);

/** Contiguous bytes -> blocks in host memory. */
void kvl_kv_scatter(const struct kvl_kv_cache *cache, const uint32_t *blocks, uint32_t count,
                    uint64_t bytes, const void *from);

/** True when the blocks can be told as runs: the layout is known and none is left out. */
int kvl_kv_has_runs(const struct kvl_kv_cache *cache, const uint32_t *blocks, uint32_t count);

/** Most runs that kvl_kv_runs writes for so many blocks. */
uint64_t kvl_kv_most_runs(const struct kvl_kv_cache *cache, uint32_t count);

/** The runs of a chunk, in the order of its bytes. @return how many. */
uint32_t kvl_kv_runs(const struct kvl_kv_cache *cache, const uint32_t *blocks, uint32_t count,
                     uint64_t bytes, struct kvl_sg *sg_out);

#endif /* KVL_PLUGIN_KV_H */
