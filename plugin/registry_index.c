/* SPDX-License-Identifier: Apache-2.0 */
#include "registry_index.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "registry_index_impl.h"

/* While something is retired, so many updates clear one segment. A segment holds some hundred
 * entries, so the rests are gone when the map has been written through about once. */
#define UPDATES_PER_SWEEP 64u

#define LINES_MAX ((uint64_t)UINT32_MAX * INDEX_LINE)
#define SETS_MAX ((uint64_t)REF_NUMBER * SET_UNIT)

int kvl_index_create(uint64_t max_bytes, struct kvl_index **index_out)
{
    struct kvl_index *index = calloc(1, sizeof(*index));
    int r = -ENOMEM;

    if (index == NULL) {
        return -ENOMEM;
    }
    index->budget.max = max_bytes;
    index->shards = aligned_alloc(sizeof(*index->shards), INDEX_SHARDS * sizeof(*index->shards));
    if (index->shards == NULL) {
        goto err;
    }
    for (uint32_t i = 0; i < INDEX_SHARDS; i++) {
        index->shards[i] = (struct index_shard){.segments = 0};
        (void)pthread_mutex_init(&index->shards[i].lock, NULL);
    }
    if (kvl_index_pool_init(&index->lines, LINES_MAX, INDEX_LINE,
                            offsetof(struct index_line, ids)) < 0 ||
        kvl_index_pool_init(&index->sets, SETS_MAX, SET_UNIT, offsetof(struct index_set, tail)) <
            0 ||
        kvl_index_directory_init(index) < 0 || kvl_index_holders_init(&index->holders) < 0) {
        goto err;
    }
    *index_out = index;
    return 0;

err:
    kvl_index_destroy(index);
    return r;
}

void kvl_index_destroy(struct kvl_index *index)
{
    if (index == NULL) {
        return;
    }
    kvl_index_holders_fini(&index->holders);
    kvl_index_directory_fini(index);
    kvl_index_pool_fini(&index->sets);
    kvl_index_pool_fini(&index->lines);
    for (uint32_t i = 0; index->shards != NULL && i < INDEX_SHARDS; i++) {
        (void)pthread_mutex_destroy(&index->shards[i].lock);
    }
    free(index->shards);
    free(index);
}

void kvl_index_stream_init(struct index_stream *stream, const struct kvl_index *index,
                           const void *ids, size_t stride, uint32_t count, int write)
{
    stream->index = index;
    stream->ids = ids;
    stream->stride = stride;
    stream->count = count;
    stream->write = write;
    for (uint32_t i = 0; i < count && i < INDEX_AHEAD; i++) {
        index_stream_far(stream, i);
    }
    kvl_index_stream_ahead(stream, INDEX_AHEAD);
}

/*
 * In short loops, not one id at a time between other work: a prefetch that misses the TLB holds up
 * what comes behind it, and only those that are close together have their page walks at once.
 */
void kvl_index_stream_ahead(struct index_stream *stream, uint32_t at)
{
    uint32_t end = at + INDEX_AHEAD < stream->count ? at + INDEX_AHEAD : stream->count;

    for (uint32_t i = at; i < end; i++) {
        index_stream_far(stream, i);
    }
    end = at < stream->count ? at : stream->count;
    for (uint32_t i = at - INDEX_AHEAD; i < end; i++) {
        index_stream_near(stream, i);
    }
}

/* ---- one key ---- */

/* A slot whose only holder is retired goes over to the new one. */
static void slot_inherit(struct kvl_index *index, struct index_line *line, uint32_t slot,
                         uint32_t holder)
{
    uint32_t ref = index_line_ref(line, slot);

    index_line_lock(line);
    index_line_put(line, slot, index_line_id(line, slot), index_ref_of(ref & REF_NEGATIVE, holder));
    kvl_index_holder_cleared(index, index_ref_holder(ref), 1);
    index_line_unlock(line, 0);
}

/* @return 1 added, 0 it was there, -ENOMEM. */
static int add_locked(struct kvl_index *index, uint32_t shard, uint64_t hash,
                      const struct kvl_chunk_id *id, uint32_t holder)
{
    uint32_t sign = index_sign(id);
    uint32_t slot;
    struct index_line *line = kvl_index_slot_find(index, shard, hash, id->bits, sign, &slot);
    uint32_t ref;

    if (line == NULL) {
        return kvl_index_slot_add(index, shard, hash, id->bits, index_ref_of(sign, holder)) < 0
                   ? -ENOMEM
                   : 1;
    }
    ref = index_line_ref(line, slot);
    if ((ref & REF_SET) != 0) {
        if (kvl_index_set_has(index, ref & REF_NUMBER, holder)) {
            return 0;
        }
    } else if (index_ref_holder(ref) == holder) {
        return 0;
    } else if (!index_alive(index, index_ref_holder(ref))) {
        slot_inherit(index, line, slot, holder);
        return 1;
    }
    return kvl_index_slot_join(index, shard, line, slot, holder) < 0 ? -ENOMEM : 1;
}

static int add(struct kvl_index *index, uint64_t hash, const struct kvl_chunk_id *id,
               uint32_t holder)
{
    uint32_t shard = index_shard_of(hash);
    int r;

    (void)pthread_mutex_lock(&index->shards[shard].lock);
    r = add_locked(index, shard, hash, id, holder);
    (void)pthread_mutex_unlock(&index->shards[shard].lock);
    return r;
}

/* @return 1 taken away, 0 it was not there. */
static int drop_locked(struct kvl_index *index, uint32_t shard, uint64_t hash,
                       const struct kvl_chunk_id *id, uint32_t holder)
{
    uint32_t slot;
    struct index_line *line =
        kvl_index_slot_find(index, shard, hash, id->bits, index_sign(id), &slot);
    uint32_t ref;

    if (line == NULL) {
        return 0;
    }
    ref = index_line_ref(line, slot);
    if ((ref & REF_SET) != 0) {
        if (!kvl_index_set_has(index, ref & REF_NUMBER, holder)) {
            return 0;
        }
        kvl_index_slot_leave(index, shard, line, slot, holder);
        return 1;
    }
    if (index_ref_holder(ref) != holder) {
        return 0;
    }
    kvl_index_slot_clear(index, shard, line, slot);
    return 1;
}

static int drop(struct kvl_index *index, uint64_t hash, const struct kvl_chunk_id *id,
                uint32_t holder)
{
    uint32_t shard = index_shard_of(hash);
    int r;

    (void)pthread_mutex_lock(&index->shards[shard].lock);
    r = drop_locked(index, shard, hash, id, holder);
    (void)pthread_mutex_unlock(&index->shards[shard].lock);
    return r;
}

/* ---- clearing up ---- */

/* Clears the next segment. A place is an index in the directory of a shard; all shards have their
 * turn at each, and what a shard does not reach is no place of it. */
static void sweep_next(struct kvl_index *index)
{
    uint64_t at = atomic_fetch_add_explicit(&index->sweep_at, 1, memory_order_relaxed);
    uint32_t shard = (uint32_t)(at % INDEX_SHARDS);
    const _Atomic uint64_t *entry_at;
    uint64_t entry;
    uint64_t size;
    uint64_t low;

    (void)pthread_mutex_lock(&index->shards[shard].lock);
    size = 1ull << atomic_load_explicit(&index->depths[shard], memory_order_relaxed);
    low = at / INDEX_SHARDS % size;
    entry = index_entry(index, shard, low, &entry_at);
    if (entry != 0 && low < 1ull << index_entry_depth(entry)) {
        (void)kvl_index_segment_sweep(index, shard, entry);
    }
    (void)pthread_mutex_unlock(&index->shards[shard].lock);
}

static void sweep_on_the_way(struct kvl_index *index, uint32_t count)
{
    uint64_t before;
    uint64_t turns;

    if (atomic_load_explicit(&index->retired, memory_order_relaxed) == 0) {
        return;
    }
    before = atomic_fetch_add_explicit(&index->updates, count, memory_order_relaxed);
    turns = (before + count) / UPDATES_PER_SWEEP - before / UPDATES_PER_SWEEP;
    for (; turns > 0; turns--) {
        sweep_next(index);
    }
}

static uint64_t now_us(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

int kvl_index_tidy(struct kvl_index *index, uint64_t budget_us)
{
    uint64_t start = now_us();

    while (atomic_load_explicit(&index->retired, memory_order_relaxed) != 0) {
        if (now_us() - start >= budget_us) {
            return 1;
        }
        for (uint32_t i = 0; i < 8; i++) {
            sweep_next(index);
        }
    }
    return 0;
}

/* ---- many keys ---- */

static void count_keys(struct kvl_index *index, uint32_t holder, int64_t change)
{
    if (change != 0) {
        atomic_fetch_add_explicit(&index_holder(index, holder)->keys, (uint64_t)change,
                                  memory_order_relaxed);
    }
}

uint32_t kvl_index_apply(struct kvl_index *index, uint32_t holder, const struct kvl_key_op *ops,
                         uint32_t count, uint64_t *dropped_out)
{
    uint64_t keys = kvl_index_holder_keys(index, holder);
    struct index_stream stream;
    int64_t change = 0;
    uint32_t i = 0;
    int is_empty = 0;
    int r;

    kvl_index_stream_init(&stream, index, ops, sizeof(*ops), count, 1);
    while (i < count && !is_empty) {
        uint64_t hash = index_stream_next(&stream, i);

        if (ops[i].kind == KVL_KEY_EVICT) {
            r = drop(index, hash, &ops[i].id, holder);
            change -= r;
            is_empty = r != 0 && keys + (uint64_t)change == 0;
        } else {
            r = add(index, hash, &ops[i].id, holder);
            change += r > 0;
            *dropped_out += r < 0;
        }
        i++;
    }
    count_keys(index, holder, change);
    sweep_on_the_way(index, i);
    return i;
}

uint32_t kvl_index_add(struct kvl_index *index, uint32_t holder, const struct kvl_chunk_id *ids,
                       uint32_t count)
{
    struct index_stream stream;
    uint32_t dropped = 0;
    int64_t change = 0;

    kvl_index_stream_init(&stream, index, ids, sizeof(*ids), count, 1);
    for (uint32_t i = 0; i < count; i++) {
        int r = add(index, index_stream_next(&stream, i), &ids[i], holder);

        change += r > 0;
        dropped += r < 0;
    }
    count_keys(index, holder, change);
    sweep_on_the_way(index, count);
    return dropped;
}

void kvl_index_remove(struct kvl_index *index, uint32_t holder, const struct kvl_chunk_id *ids,
                      uint32_t count)
{
    struct index_stream stream;
    int64_t change = 0;

    kvl_index_stream_init(&stream, index, ids, sizeof(*ids), count, 1);
    for (uint32_t i = 0; i < count; i++) {
        change -= drop(index, index_stream_next(&stream, i), &ids[i], holder);
    }
    count_keys(index, holder, change);
    sweep_on_the_way(index, count);
}

void kvl_index_get_stats(const struct kvl_index *index, struct kvl_index_stats *stats_out)
{
    struct kvl_index_stats stats = {
        .retired = atomic_load_explicit(&index->retired, memory_order_relaxed),
        .bytes = atomic_load_explicit(&index->budget.used, memory_order_relaxed) + sizeof(*index) +
                 INDEX_SHARDS * sizeof(*index->shards),
    };

    for (uint32_t i = 0; i < INDEX_SHARDS; i++) {
        stats.ids += atomic_load_explicit(&index->shards[i].ids, memory_order_relaxed);
        stats.entries += atomic_load_explicit(&index->shards[i].entries, memory_order_relaxed);
    }
    stats.entries = stats.entries > stats.retired ? stats.entries - stats.retired : 0;
    *stats_out = stats;
}
