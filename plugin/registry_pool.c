/* SPDX-License-Identifier: Apache-2.0 */
#include "registry_pool.h"

#include <errno.h>
#include <stdlib.h>

#define FIRST_BITS 8u
#define FIRST (1u << FIRST_BITS)

static uint32_t block_of(uint32_t index)
{
    return 63u - (uint32_t)__builtin_clzll((uint64_t)index + FIRST) - FIRST_BITS;
}

void kvl_pool_init(struct kvl_pool *pool, size_t item)
{
    *pool = (struct kvl_pool){.item = item};
}

void kvl_pool_fini(struct kvl_pool *pool)
{
    for (uint32_t i = 0; i < KVL_POOL_BLOCKS; i++) {
        free(atomic_load_explicit(&pool->blocks[i], memory_order_relaxed));
    }
    free(pool->unused);
}

void *kvl_pool_at(const struct kvl_pool *pool, uint32_t index)
{
    const uint32_t block = block_of(index);
    char *base = atomic_load_explicit(&pool->blocks[block], memory_order_acquire);

    return base + ((uint64_t)index + FIRST - ((uint64_t)FIRST << block)) * pool->item;
}

int kvl_pool_reach(struct kvl_pool *pool, uint32_t index)
{
    const uint32_t block = block_of(index);
    char *base;

    if (block >= KVL_POOL_BLOCKS) {
        return -ENOMEM;
    }
    if (atomic_load_explicit(&pool->blocks[block], memory_order_relaxed) != NULL) {
        return 0;
    }
    base = calloc((size_t)FIRST << block, pool->item);
    if (base == NULL) {
        return -ENOMEM;
    }
    pool->bytes += ((uint64_t)FIRST << block) * pool->item;
    atomic_store_explicit(&pool->blocks[block], base, memory_order_release);
    return 0;
}

/* Room to take every number back is made when it is given out, so that giving back cannot fail. */
static int grow_unused(struct kvl_pool *pool)
{
    const uint32_t room = pool->unused_room == 0 ? FIRST : pool->unused_room * 2;
    uint32_t *unused;

    if (pool->used < pool->unused_room) {
        return 0;
    }
    unused = realloc(pool->unused, (size_t)room * sizeof(*unused));
    if (unused == NULL) {
        return -ENOMEM;
    }
    pool->bytes += (uint64_t)(room - pool->unused_room) * sizeof(*unused);
    pool->unused = unused;
    pool->unused_room = room;
    return 0;
}

int kvl_pool_take(struct kvl_pool *pool, uint32_t *index_out)
{
    int r;

    if (pool->unused_count > 0) {
        *index_out = pool->unused[--pool->unused_count];
        return 0;
    }
    r = grow_unused(pool);
    if (r == 0) {
        r = kvl_pool_reach(pool, pool->used);
    }
    if (r == 0) {
        *index_out = pool->used++;
    }
    return r;
}

void kvl_pool_give(struct kvl_pool *pool, uint32_t index)
{
    pool->unused[pool->unused_count++] = index;
}
