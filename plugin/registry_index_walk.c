/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "registry_index_impl.h"

#define ENTRIES_MAX (INDEX_BUCKETS_MAX * INDEX_SLOTS)

/*
 * A shard is walked by places: the low bits of the hash, as many as its directory had at the start.
 * A segment is read when the first of its places that is not done comes up, and then all its places
 * are done, so that it does not matter what splits meanwhile. Low places first also is the order
 * in which another index grows evenly.
 */
struct walk {
    const struct kvl_index *index;
    kvl_index_entry_fn fn;
    void *ctx;
    uint32_t shard;
    uint32_t depth; /* of places */
    uint8_t *done; /* one per place, of this shard */
    size_t room; /* of done */
    struct index_list holders;
    uint32_t count;
    uint32_t refs[ENTRIES_MAX];
    uint64_t ids[ENTRIES_MAX];
};

static void copy_segment(struct walk *walk, uint64_t entry)
{
    const struct index_line *lines = index_entry_lines(walk->index, entry);
    uint32_t buckets = index_entry_buckets(entry);
    uint64_t mask = (1ull << walk->depth) - 1;

    walk->count = 0;
    for (uint32_t i = 0; i < buckets * INDEX_SLOTS; i++) {
        /* across the buckets, so that those of a smaller segment fill up evenly */
        uint32_t ref = index_line_ref(&lines[i % buckets], i / buckets);
        uint64_t bits = index_line_id(&lines[i % buckets], i / buckets);

        if (ref == 0 || walk->done[index_hash(bits, ref & REF_NEGATIVE) & mask] != 0 ||
            ((ref & REF_SET) == 0 && !index_alive(walk->index, index_ref_holder(ref)))) {
            continue;
        }
        walk->refs[walk->count] = ref;
        walk->ids[walk->count++] = bits;
    }
}

/*
 * Copies the segment of the ids with these low bits, so many of them, unless it was split and is
 * only a part of them. @return its depth.
 */
static uint32_t copy_place(struct walk *walk, uint64_t low, uint32_t bits)
{
    struct index_shard *shard = &walk->index->shards[walk->shard];
    const _Atomic uint64_t *entry_at;
    uint32_t depth;
    uint64_t entry;

    (void)pthread_mutex_lock(&shard->lock);
    entry = index_entry(walk->index, walk->shard, low, &entry_at);
    depth = index_entry_depth(entry);
    walk->count = 0;
    if (entry != 0 && depth <= bits) {
        copy_segment(walk, entry);
    }
    (void)pthread_mutex_unlock(&shard->lock);
    return depth;
}

/* Sets may be long, so their holders are read one id at a time, without the lock. */
static int tell_set(struct walk *walk, const struct kvl_chunk_id *id)
{
    uint64_t hash = index_hash(id->bits, index_sign(id));
    int r = kvl_index_collect(walk->index, hash, id, &walk->holders);

    for (uint32_t i = 0; r == 0 && i < walk->holders.count; i++) {
        r = walk->fn(walk->ctx, id, walk->holders.items[i]);
    }
    return r;
}

static int tell(struct walk *walk)
{
    int r = 0;

    for (uint32_t i = 0; r == 0 && i < walk->count; i++) {
        struct kvl_chunk_id id = {.bits = walk->ids[i],
                                  .negative = (walk->refs[i] & REF_NEGATIVE) != 0};

        r = (walk->refs[i] & REF_SET) != 0
                ? tell_set(walk, &id)
                : walk->fn(walk->ctx, &id, index_ref_holder(walk->refs[i]));
    }
    return r;
}

static int walk_place(struct walk *walk, uint64_t low, uint32_t bits)
{
    uint32_t depth = copy_place(walk, low, bits);
    int r;

    if (depth > bits) { /* split since the walk of the shard began */
        r = walk_place(walk, low, bits + 1);
        return r != 0 ? r : walk_place(walk, low | 1ull << bits, bits + 1);
    }
    r = tell(walk);
    for (; depth < walk->depth && low < 1ull << walk->depth; low += 1ull << depth) {
        walk->done[low] = 1;
    }
    return r;
}

static int walk_shard(struct walk *walk)
{
    uint64_t size;
    uint8_t *done;
    int r = 0;

    walk->depth = atomic_load_explicit(&walk->index->depths[walk->shard], memory_order_acquire);
    size = 1ull << walk->depth;
    if (size > walk->room) {
        done = realloc(walk->done, size);
        if (done == NULL) {
            return -ENOMEM;
        }
        walk->done = done;
        walk->room = size;
    }
    memset(walk->done, 0, size);
    for (uint64_t place = 0; r == 0 && place < size; place++) {
        r = walk->done[place] != 0 ? 0 : walk_place(walk, place, walk->depth);
    }
    return r;
}

int kvl_index_walk(const struct kvl_index *index, kvl_index_entry_fn fn, void *ctx)
{
    struct walk walk = {.index = index, .fn = fn, .ctx = ctx};
    int r = 0;

    kvl_index_list_init(&walk.holders);
    for (; r == 0 && walk.shard < INDEX_SHARDS; walk.shard++) {
        r = walk_shard(&walk);
    }
    kvl_index_list_fini(&walk.holders);
    free(walk.done);
    return r;
}
