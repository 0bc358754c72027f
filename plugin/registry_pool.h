/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file registry_pool.h
 * Records of one size that never move and whose memory stays readable until the pool ends, named by
 * small numbers. A record that was given back is used again as it is: what must survive that, such
 * as a lock, stays in it.
 */
#ifndef KVL_PLUGIN_REGISTRY_POOL_H
#define KVL_PLUGIN_REGISTRY_POOL_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define KVL_POOL_NONE UINT32_MAX
#define KVL_POOL_BLOCKS 24u

struct kvl_pool {
    _Atomic(char *) blocks[KVL_POOL_BLOCKS]; /* each twice as large as the one before */
    uint32_t *unused; /* owned; numbers given back */
    uint32_t unused_count;
    uint32_t unused_room;
    uint32_t used; /* numbers from here on were never given out */
    size_t item;
    uint64_t bytes;
};

void kvl_pool_init(struct kvl_pool *pool, size_t item);
void kvl_pool_fini(struct kvl_pool *pool);

/** The record of a number that was given out or reached before. From any thread, no lock. */
void *kvl_pool_at(const struct kvl_pool *pool, uint32_t index);

/** Makes the record of a number that somebody else gives out. The caller locks. 0; -ENOMEM. */
int kvl_pool_reach(struct kvl_pool *pool, uint32_t index);

/** Gives out a number; a record that is new is all zeros. The caller locks. 0; -ENOMEM. */
int kvl_pool_take(struct kvl_pool *pool, uint32_t *index_out);

/** Takes it back. The caller locks. */
void kvl_pool_give(struct kvl_pool *pool, uint32_t index);

#endif /* KVL_PLUGIN_REGISTRY_POOL_H */
