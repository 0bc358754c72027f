/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>

#include "registry_index_impl.h"

int kvl_index_holders_init(struct index_holders *holders)
{
    holders->first_free = KVL_INDEX_NONE;
    holders->last_free = KVL_INDEX_NONE;
    holders->alive = calloc(INDEX_HOLDERS_MAX / 64, sizeof(uint64_t));
    if (holders->alive == NULL) {
        return -ENOMEM;
    }
    (void)pthread_mutex_init(&holders->lock, NULL);
    return 0;
}

void kvl_index_holders_fini(struct index_holders *holders)
{
    uint32_t i;

    if (holders->alive == NULL) {
        return;
    }
    for (i = 0; i < INDEX_HOLDERS_MAX / INDEX_CHUNK; i++) {
        free(atomic_load_explicit(&holders->chunks[i], memory_order_relaxed));
    }
    free((void *)(uintptr_t)holders->alive);
    (void)pthread_mutex_destroy(&holders->lock);
}

/* A number never used before. */
static int number_new(struct kvl_index *index, uint32_t *number_out)
{
    struct index_holders *holders = &index->holders;
    uint32_t number = atomic_load_explicit(&holders->limit, memory_order_relaxed);
    uint64_t bytes = INDEX_CHUNK * sizeof(struct index_holder);
    struct index_holder *chunk;

    if (number == INDEX_HOLDERS_MAX) {
        return -ENOMEM;
    }
    if (number % INDEX_CHUNK == 0) {
        if (kvl_index_budget_take(&index->budget, bytes) < 0) {
            return -ENOMEM;
        }
        chunk = calloc(INDEX_CHUNK, sizeof(*chunk));
        if (chunk == NULL) {
            atomic_fetch_sub_explicit(&index->budget.used, bytes, memory_order_relaxed);
            return -ENOMEM;
        }
        atomic_store_explicit(&holders->chunks[number / INDEX_CHUNK], chunk, memory_order_release);
    }
    atomic_store_explicit(&holders->limit, number + 1, memory_order_release);
    *number_out = number;
    return 0;
}

int kvl_index_holder_open(struct kvl_index *index, uint32_t *holder_out)
{
    struct index_holders *holders = &index->holders;
    struct index_holder *holder;
    uint32_t number;
    int r = 0;

    (void)pthread_mutex_lock(&holders->lock);
    number = holders->first_free;
    if (number != KVL_INDEX_NONE) {
        holders->first_free = index_holder(index, number)->next_free;
    } else {
        r = number_new(index, &number);
    }
    if (r == 0) {
        holder = index_holder(index, number);
        atomic_store_explicit(&holder->opened,
                              atomic_fetch_add_explicit(&holders->opens, 1, memory_order_acq_rel) +
                                  1,
                              memory_order_release);
        atomic_store_explicit(&holder->keys, 0, memory_order_relaxed);
        atomic_fetch_or_explicit(&holders->alive[number / 64], 1ull << (number % 64),
                                 memory_order_release);
        *holder_out = number;
    }
    (void)pthread_mutex_unlock(&holders->lock);
    return r;
}

/* Numbers are used again in the order in which they became free, so that they rest for a while. */
static void number_free(struct kvl_index *index, uint32_t number)
{
    struct index_holders *holders = &index->holders;

    (void)pthread_mutex_lock(&holders->lock);
    index_holder(index, number)->next_free = KVL_INDEX_NONE;
    if (holders->first_free == KVL_INDEX_NONE) {
        holders->first_free = number;
    } else {
        index_holder(index, holders->last_free)->next_free = number;
    }
    holders->last_free = number;
    (void)pthread_mutex_unlock(&holders->lock);
}

void kvl_index_holder_retire(struct kvl_index *index, uint32_t holder)
{
    struct index_holder *record = index_holder(index, holder);
    uint64_t keys = atomic_load_explicit(&record->keys, memory_order_relaxed);

    /* counted before anybody may see that it is dead and clear the first entry away */
    atomic_store_explicit(&record->rest, keys, memory_order_relaxed);
    atomic_fetch_add_explicit(&index->retired, keys, memory_order_relaxed);
    atomic_store_explicit(&record->keys, 0, memory_order_relaxed);
    atomic_fetch_and_explicit(&index->holders.alive[holder / 64], ~(1ull << (holder % 64)),
                              memory_order_release);
    if (keys == 0) {
        number_free(index, holder);
    }
}

void kvl_index_holder_cleared(struct kvl_index *index, uint32_t holder, uint64_t count)
{
    struct index_holder *record = index_holder(index, holder);

    atomic_fetch_sub_explicit(&index->retired, count, memory_order_relaxed);
    if (atomic_fetch_sub_explicit(&record->rest, count, memory_order_acq_rel) == count) {
        number_free(index, holder);
    }
}

uint64_t kvl_index_holder_keys(const struct kvl_index *index, uint32_t holder)
{
    return atomic_load_explicit(&index_holder(index, holder)->keys, memory_order_relaxed);
}
