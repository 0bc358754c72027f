/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <sys/mman.h>

#include "registry_index_impl.h"

#define HUGE ((size_t)2 << 20)
#define COMMIT ((size_t)16 << 20)
#define RESERVE_MIN ((size_t)64 << 20)

int kvl_index_budget_take(struct index_budget *budget, uint64_t bytes)
{
    uint64_t used = atomic_fetch_add_explicit(&budget->used, bytes, memory_order_relaxed) + bytes;

    if (budget->max != 0 && used > budget->max) {
        atomic_fetch_sub_explicit(&budget->used, bytes, memory_order_relaxed);
        return -ENOMEM;
    }
    return 0;
}

/* Addresses cost nothing, but a limit on them (RLIMIT_AS) may be set: take what there is. */
static void *reserve(size_t *bytes)
{
    void *base = MAP_FAILED;

    for (; base == MAP_FAILED && *bytes >= RESERVE_MIN; *bytes /= 2) {
        base = mmap(NULL, *bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (base != MAP_FAILED) {
            return base;
        }
    }
    return NULL;
}

/* Makes the bytes below `end` usable. The first ones stay on small pages: most registries are
 * small. */
static int commit(uint8_t *base, size_t reserved, size_t *committed, size_t end)
{
    size_t from = *committed;
    size_t to = (end + COMMIT - 1) / COMMIT * COMMIT;

    if (end <= from) {
        return 0;
    }
    if (to > reserved) {
        to = reserved;
    }
    if (end > to || mprotect(base + from, to - from, PROT_READ | PROT_WRITE) != 0) {
        return -ENOMEM;
    }
    (void)madvise(base + (from == 0 ? HUGE : from), to - (from == 0 ? HUGE : from), MADV_HUGEPAGE);
    *committed = to;
    return 0;
}

int kvl_index_pool_init(struct index_pool *pool, uint64_t max, uint32_t unit, uint32_t link_at)
{
    *pool = (struct index_pool){.reserved = max, .unit = unit, .link_at = link_at, .used = unit};
    pool->base = reserve(&pool->reserved);
    if (pool->base == NULL) {
        return -ENOMEM;
    }
    (void)pthread_mutex_init(&pool->lock, NULL);
    return 0;
}

void kvl_index_pool_fini(struct index_pool *pool)
{
    if (pool->base != NULL) {
        (void)munmap(pool->base, pool->reserved);
        (void)pthread_mutex_destroy(&pool->lock);
    }
}

static _Atomic uint32_t *link_of(const struct index_pool *pool, uint32_t number)
{
    uint8_t *block = index_pool_at(pool, number);

    return (_Atomic uint32_t *)(void *)(block + pool->link_at);
}

/* A block that was never used. */
static uint32_t take_new(struct index_pool *pool, struct index_budget *budget, size_t bytes)
{
    uint32_t number = (uint32_t)(pool->used / pool->unit);

    if (bytes > pool->reserved - pool->used ||
        commit(pool->base, pool->reserved, &pool->committed, pool->used + bytes) < 0 ||
        kvl_index_budget_take(budget, bytes) < 0) {
        return 0;
    }
    pool->used += bytes;
    return number;
}

uint32_t kvl_index_pool_take(struct index_pool *pool, struct index_budget *budget, uint32_t class,
                             uint32_t units)
{
    uint32_t number;

    (void)pthread_mutex_lock(&pool->lock);
    number = pool->free[class];
    if (number != 0) {
        pool->free[class] = atomic_load_explicit(link_of(pool, number), memory_order_relaxed);
    } else {
        number = take_new(pool, budget, (size_t)units * pool->unit);
    }
    (void)pthread_mutex_unlock(&pool->lock);
    return number;
}

int kvl_index_pool_has(struct index_pool *pool, const struct index_budget *budget, uint32_t class,
                       uint32_t units)
{
    size_t bytes = (size_t)units * pool->unit;
    int has;

    (void)pthread_mutex_lock(&pool->lock);
    has = pool->free[class] != 0 ||
          (bytes <= pool->reserved - pool->used &&
           (budget->max == 0 ||
            atomic_load_explicit(&budget->used, memory_order_relaxed) + bytes <= budget->max));
    (void)pthread_mutex_unlock(&pool->lock);
    return has;
}

void kvl_index_pool_give(struct index_pool *pool, uint32_t class, uint32_t number)
{
    (void)pthread_mutex_lock(&pool->lock);
    atomic_store_explicit(link_of(pool, number), pool->free[class], memory_order_release);
    pool->free[class] = number;
    (void)pthread_mutex_unlock(&pool->lock);
}

/* ---- the directory: room for the deepest one is reserved, what is used is committed ---- */

#define DIRECTORY_MAX (sizeof(uint64_t) * INDEX_SHARDS << INDEX_DEPTH_MAX)

int kvl_index_directory_init(struct kvl_index *index)
{
    void *base =
        mmap(NULL, DIRECTORY_MAX, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (base == MAP_FAILED) {
        return -ENOMEM;
    }
    index->directory = base;
    (void)pthread_mutex_init(&index->directory_lock, NULL);
    return kvl_index_directory_commit(index, 0);
}

int kvl_index_directory_commit(struct kvl_index *index, uint32_t depth)
{
    int r;

    (void)pthread_mutex_lock(&index->directory_lock);
    r = commit((uint8_t *)(uintptr_t)index->directory, DIRECTORY_MAX, &index->directory_committed,
               sizeof(uint64_t) * INDEX_SHARDS << depth);
    (void)pthread_mutex_unlock(&index->directory_lock);
    return r;
}

void kvl_index_directory_fini(struct kvl_index *index)
{
    if (index->directory != NULL) {
        (void)munmap((void *)(uintptr_t)index->directory, DIRECTORY_MAX);
        (void)pthread_mutex_destroy(&index->directory_lock);
    }
}
