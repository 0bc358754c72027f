/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>

#include "registry_index_impl.h"

#define ENTRIES_MAX (INDEX_BUCKETS_MAX * INDEX_SLOTS)

/* A shard's directory may have so many entries per segment. Mixed ids stay far below; who finds ids
 * that mix to the same low bits is refused instead of growing it without end. */
#define DIRECTORY_PER_SEGMENT 16u

static void count_ids(struct index_shard *shard, int64_t ids, int64_t entries)
{
    atomic_store_explicit(&shard->ids,
                          atomic_load_explicit(&shard->ids, memory_order_relaxed) + (uint64_t)ids,
                          memory_order_relaxed);
    atomic_store_explicit(&shard->entries,
                          atomic_load_explicit(&shard->entries, memory_order_relaxed) +
                              (uint64_t)entries,
                          memory_order_relaxed);
}

static uint32_t free_slot(const struct index_line *line)
{
    uint32_t slot;

    for (slot = 0; slot < INDEX_SLOTS && index_line_ref(line, slot) != 0; slot++) {
    }
    return slot;
}

static void line_set(struct index_line *line, uint32_t slot, uint64_t bits, uint32_t ref,
                     uint32_t flags)
{
    index_line_lock(line);
    index_line_put(line, slot, bits, ref);
    index_line_unlock(line, flags);
}

static void line_flag(struct index_line *line, uint32_t flags)
{
    if ((atomic_load_explicit(&line->seq, memory_order_relaxed) & flags) != flags) {
        index_line_lock(line);
        index_line_unlock(line, flags);
    }
}

struct index_line *kvl_index_slot_find(const struct kvl_index *index, uint32_t shard, uint64_t hash,
                                       uint64_t bits, uint32_t sign, uint32_t *slot_out)
{
    const _Atomic uint64_t *entry_at;
    uint64_t entry = index_entry(index, shard, hash, &entry_at);
    uint32_t buckets = index_entry_buckets(entry);
    struct index_line *lines = index_entry_lines(index, entry);
    uint32_t first = index_first(hash, buckets);
    struct index_line *line = lines + first;
    uint32_t slot;

    if (entry == 0) {
        return NULL;
    }
    slot = index_line_find(line, bits, sign);
    if (slot == INDEX_SLOTS &&
        (atomic_load_explicit(&line->seq, memory_order_relaxed) & SEQ_OVERFLOW) != 0) {
        line = lines + index_second(hash, buckets, first);
        slot = index_line_find(line, bits, sign);
    }
    *slot_out = slot;
    return slot == INDEX_SLOTS ? NULL : line;
}

/* ---- putting into one segment ---- */

/* Moves what is in a slot into its other bucket when there is room. A lookup reads the first
 * bucket before and behind the second, so it cannot miss what goes from one to the other. */
static int slot_move(struct index_line *lines, uint32_t buckets, struct index_line *line,
                     uint32_t slot)
{
    uint64_t bits = index_line_id(line, slot);
    uint32_t ref = index_line_ref(line, slot);
    uint64_t hash = index_hash(bits, ref & REF_NEGATIVE);
    uint32_t first = index_first(hash, buckets);
    int is_first = lines + first == line;
    struct index_line *to = lines + (is_first ? index_second(hash, buckets, first) : first);
    uint32_t free = free_slot(to);

    if (free == INDEX_SLOTS) {
        return 0;
    }
    index_line_lock(line);
    line_set(to, free, bits, ref, 0);
    index_line_put(line, slot, bits, 0);
    index_line_unlock(line, is_first ? SEQ_OVERFLOW : 0);
    return 1;
}

/* @return a slot of the bucket that was made free; INDEX_SLOTS when none can be. */
static uint32_t make_slot(struct index_line *lines, uint32_t buckets, struct index_line *line)
{
    uint32_t slot;

    for (slot = 0; slot < INDEX_SLOTS && !slot_move(lines, buckets, line, slot); slot++) {
    }
    return slot;
}

/* @param is_building  try hard: otherwise a nearly full segment is better grown than searched */
static int segment_put(struct index_line *lines, uint32_t buckets, uint64_t hash, uint64_t bits,
                       uint32_t ref, int is_building)
{
    uint32_t at = index_first(hash, buckets);
    struct index_line *first = lines + at;
    struct index_line *second = lines + index_second(hash, buckets, at);
    struct index_line *line = first;
    uint32_t slot = free_slot(first);

    if (slot == INDEX_SLOTS) {
        line = second;
        slot = free_slot(second);
    }
    if (slot == INDEX_SLOTS) {
        line = first;
        slot = make_slot(lines, buckets, first);
    }
    if (slot == INDEX_SLOTS && is_building) {
        line = second;
        slot = make_slot(lines, buckets, second);
    }
    if (slot == INDEX_SLOTS) {
        return -ENOMEM;
    }
    line_set(line, slot, bits, ref, 0);
    if (line == second) {
        line_flag(first, SEQ_OVERFLOW);
    }
    return 0;
}

/* ---- growing ---- */

struct content {
    uint32_t count;
    uint32_t refs[ENTRIES_MAX];
    uint64_t ids[ENTRIES_MAX];
    uint64_t hashes[ENTRIES_MAX];
};

static void content_read(const struct kvl_index *index, uint64_t entry, struct content *content)
{
    const struct index_line *lines = index_entry_lines(index, entry);
    uint32_t buckets = index_entry_buckets(entry);
    uint32_t count = 0;

    for (uint32_t i = 0; i < buckets; i++) {
        for (uint32_t slot = 0; slot < INDEX_SLOTS; slot++) {
            uint32_t ref = index_line_ref(&lines[i], slot);
            uint64_t bits = index_line_id(&lines[i], slot);

            content->refs[count] = ref;
            content->ids[count] = bits;
            content->hashes[count] = index_hash(bits, ref & REF_NEGATIVE);
            count += ref != 0;
        }
    }
    content->count = count;
}

/* Writes lines over a block that lookups may still be reading for what it was. */
static void lines_write(struct index_line *to, const struct index_line *from, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        uint32_t flags = atomic_load_explicit(&from[i].seq, memory_order_relaxed) & SEQ_OVERFLOW;

        index_line_lock(&to[i]);
        for (uint32_t slot = 0; slot < INDEX_SLOTS; slot++) {
            index_line_put(&to[i], slot, index_line_id(&from[i], slot),
                           index_line_ref(&from[i], slot));
        }
        index_line_unflag(&to[i]);
        index_line_unlock(&to[i], flags);
    }
}

struct stage {
    struct index_line lines[INDEX_BUCKETS_MAX];
    uint8_t used[INDEX_BUCKETS_MAX]; /* slots of each */
    uint32_t late[ENTRIES_MAX]; /* entries whose first bucket is full */
};

/* Puts entries into new buckets: those that have `side` in bit `depth` of the hash, or all when
 * depth is INDEX_DEPTH_MAX. */
static int stage_fill(struct stage *stage, uint32_t buckets, const struct content *content,
                      uint32_t depth, uint64_t side)
{
    const uint64_t mask = depth == INDEX_DEPTH_MAX ? 0 : 1ull << depth;
    const uint64_t bits = mask == 0 ? 0 : side << depth;
    uint32_t late = 0;

    memset((void *)stage->lines, 0, buckets * sizeof(stage->lines[0]));
    memset(stage->used, 0, buckets);
    for (uint32_t i = 0; i < content->count; i++) {
        uint32_t at = index_first(content->hashes[i], buckets);
        uint32_t slot = stage->used[at];

        if ((content->hashes[i] & mask) != bits) {
            continue;
        }
        if (slot == INDEX_SLOTS) {
            stage->late[late++] = i;
            continue;
        }
        stage->used[at]++;
        index_line_put(&stage->lines[at], slot, content->ids[i], content->refs[i]);
    }
    for (uint32_t k = 0; k < late; k++) {
        uint32_t i = stage->late[k];

        if (segment_put(stage->lines, buckets, content->hashes[i], content->ids[i],
                        content->refs[i], 1) < 0) {
            return -ENOMEM;
        }
    }
    return 0;
}

/* A segment of these entries, with at least that many buckets. @return its number; 0. */
static uint32_t segment_build(struct kvl_index *index, const struct content *content,
                              uint32_t depth, uint64_t side, uint32_t *buckets)
{
    struct stage stage;
    uint32_t n = *buckets;
    uint32_t number;

    while (n <= INDEX_BUCKETS_MAX && stage_fill(&stage, n, content, depth, side) < 0) {
        n += INDEX_STEP;
    }
    if (n > INDEX_BUCKETS_MAX) {
        return 0;
    }
    number = kvl_index_pool_take(&index->lines, &index->budget, n / INDEX_STEP, n);
    if (number != 0) {
        lines_write(index_pool_at(&index->lines, number), stage.lines, n);
        *buckets = n;
    }
    return number;
}

static void segment_free(struct kvl_index *index, uint32_t number, uint32_t buckets)
{
    kvl_index_pool_give(&index->lines, buckets / INDEX_STEP, number);
}

/* Names a segment in all places of the directory whose low `depth` bits are those of the hash. */
static void directory_set(struct kvl_index *index, uint32_t shard, uint64_t hash, uint32_t number,
                          uint32_t buckets, uint32_t depth)
{
    uint64_t size = 1ull << atomic_load_explicit(&index->depths[shard], memory_order_relaxed);
    uint64_t step = 1ull << depth;

    for (uint64_t at = hash & (step - 1); at < size; at += step) {
        _Atomic uint64_t *entry = &index->directory[at * INDEX_SHARDS + shard];
        uint64_t version =
            (atomic_load_explicit(entry, memory_order_relaxed) >> ENTRY_VERSION_SHIFT) + 1;

        atomic_store_explicit(entry, index_entry_of(number, buckets, depth, version),
                              memory_order_release);
    }
}

/* Doubles the directory of a shard in place: lookups that know the old depth read the lower half,
 * where nothing changes. */
static int directory_double(struct kvl_index *index, uint32_t shard)
{
    uint32_t depth = atomic_load_explicit(&index->depths[shard], memory_order_relaxed);
    uint64_t size = 1ull << depth;

    if (depth == INDEX_DEPTH_MAX ||
        2 * size > (uint64_t)DIRECTORY_PER_SEGMENT * index->shards[shard].segments ||
        kvl_index_directory_commit(index, depth + 1) < 0 ||
        kvl_index_budget_take(&index->budget, size * sizeof(uint64_t)) < 0) {
        return -ENOMEM;
    }
    for (uint64_t at = 0; at < size; at++) {
        atomic_store_explicit(&index->directory[(size + at) * INDEX_SHARDS + shard],
                              atomic_load_explicit(&index->directory[at * INDEX_SHARDS + shard],
                                                   memory_order_relaxed),
                              memory_order_release);
    }
    atomic_store_explicit(&index->depths[shard], (uint8_t)(depth + 1), memory_order_release);
    return 0;
}

static int segment_split(struct kvl_index *index, uint32_t shard, uint64_t hash, uint64_t entry,
                         const struct content *content)
{
    uint32_t depth = index_entry_depth(entry);
    uint32_t numbers[2];
    uint32_t buckets[2] = {INDEX_SPLIT, INDEX_SPLIT};
    uint64_t low = hash & ((1ull << depth) - 1);

    if (depth == atomic_load_explicit(&index->depths[shard], memory_order_relaxed) &&
        directory_double(index, shard) < 0) {
        return -ENOMEM;
    }
    numbers[0] = segment_build(index, content, depth, 0, &buckets[0]);
    if (numbers[0] == 0) {
        return -ENOMEM;
    }
    numbers[1] = segment_build(index, content, depth, 1, &buckets[1]);
    if (numbers[1] == 0) {
        segment_free(index, numbers[0], buckets[0]);
        return -ENOMEM;
    }
    directory_set(index, shard, low, numbers[0], buckets[0], depth + 1);
    directory_set(index, shard, low | 1ull << depth, numbers[1], buckets[1], depth + 1);
    index->shards[shard].segments++;
    return 0;
}

static int segment_first(struct kvl_index *index, uint32_t shard)
{
    uint32_t buckets = INDEX_STEP;
    struct content empty;
    uint32_t number;

    empty.count = 0;
    number = segment_build(index, &empty, INDEX_DEPTH_MAX, 0, &buckets);
    if (number == 0) {
        return -ENOMEM;
    }
    directory_set(index, shard, 0, number, buckets, 0);
    index->shards[shard].segments = 1;
    return 0;
}

/* Would a split leave nearly all on one side? So it is while another index is copied in order. */
static int is_lopsided(const struct content *content, uint32_t depth)
{
    uint32_t ones = 0;

    for (uint32_t i = 0; i < content->count; i++) {
        ones += (uint32_t)(content->hashes[i] >> depth & 1);
    }
    return 8 * ones < content->count || 8 * (content->count - ones) < content->count;
}

static int segment_grow(struct kvl_index *index, uint32_t shard, uint64_t hash, uint64_t entry)
{
    uint32_t old = index_entry_buckets(entry);
    uint32_t buckets = old + INDEX_STEP;
    uint32_t least = buckets <= INDEX_GROWN ? buckets : INDEX_SPLIT;
    struct content content;
    uint32_t number = 0;

    if (!kvl_index_pool_has(&index->lines, &index->budget, least / INDEX_STEP, least)) {
        return -ENOMEM; /* before all the work, since each admit will come here now */
    }
    content_read(index, entry, &content);
    if (buckets <= INDEX_GROWN ||
        (buckets <= INDEX_BUCKETS_MAX && is_lopsided(&content, index_entry_depth(entry)))) {
        number = segment_build(index, &content, INDEX_DEPTH_MAX, 0, &buckets);
    }
    if (number != 0) {
        directory_set(index, shard, hash, number, buckets, index_entry_depth(entry));
    } else if (segment_split(index, shard, hash, entry, &content) < 0) {
        return -ENOMEM;
    }
    segment_free(index, index_entry_line(entry), old);
    return 0;
}

static int make_room(struct kvl_index *index, uint32_t shard, uint64_t hash, uint64_t entry)
{
    if (entry == 0) {
        return segment_first(index, shard);
    }
    if (atomic_load_explicit(&index->retired, memory_order_relaxed) != 0 &&
        kvl_index_segment_sweep(index, shard, entry) != 0) {
        return 0;
    }
    return segment_grow(index, shard, hash, entry);
}

int kvl_index_slot_add(struct kvl_index *index, uint32_t shard, uint64_t hash, uint64_t bits,
                       uint32_t ref)
{
    const _Atomic uint64_t *entry_at;

    for (;;) {
        uint64_t entry = index_entry(index, shard, hash, &entry_at);

        if (entry != 0 && segment_put(index_entry_lines(index, entry), index_entry_buckets(entry),
                                      hash, bits, ref, 0) == 0) {
            count_ids(&index->shards[shard], 1, 1);
            return 0;
        }
        if (make_room(index, shard, hash, entry) < 0) {
            return -ENOMEM;
        }
    }
}

void kvl_index_slot_clear(struct kvl_index *index, uint32_t shard, struct index_line *line,
                          uint32_t slot)
{
    line_set(line, slot, index_line_id(line, slot), 0, 0);
    count_ids(&index->shards[shard], -1, -1);
}

/* ---- more than one holder ---- */

/* The bucket is locked. What a set came down to: itself, its last member, or nothing. */
static void set_settle(struct kvl_index *index, struct index_line *line, uint32_t slot,
                       uint32_t set)
{
    uint32_t sign = index_line_ref(line, slot) & REF_NEGATIVE;
    uint32_t count = kvl_index_set_count(index, set);
    uint32_t ref = sign | REF_SET | set;

    if (count < 2) {
        ref = count == 0 ? 0 : index_ref_of(sign, kvl_index_set_any(index, set));
        kvl_index_set_free(index, set);
    }
    index_line_put(line, slot, index_line_id(line, slot), ref);
}

int kvl_index_slot_join(struct kvl_index *index, uint32_t shard, struct index_line *line,
                        uint32_t slot, uint32_t holder)
{
    uint32_t ref = index_line_ref(line, slot);
    uint32_t set = ref & REF_NUMBER;
    int r = 0;

    index_line_lock(line);
    if ((ref & REF_SET) != 0) {
        r = kvl_index_set_add(index, &set, holder);
    } else {
        set = kvl_index_set_create(index, index_ref_holder(ref), holder);
        r = set == 0 ? -ENOMEM : 0;
    }
    if (r == 0) {
        index_line_put(line, slot, index_line_id(line, slot), (ref & REF_NEGATIVE) | REF_SET | set);
        count_ids(&index->shards[shard], 0, 1);
    }
    index_line_unlock(line, 0);
    return r;
}

void kvl_index_slot_leave(struct kvl_index *index, uint32_t shard, struct index_line *line,
                          uint32_t slot, uint32_t holder)
{
    uint32_t set = index_line_ref(line, slot) & REF_NUMBER;

    index_line_lock(line);
    kvl_index_set_remove(index, &set, holder);
    set_settle(index, line, slot, set);
    index_line_unlock(line, 0);
    count_ids(&index->shards[shard], 0, -1);
}

/* @return how many entries went. Seq stays odd until the number of the holder is free, so that a
 * lookup never takes its next life for this one. */
static uint32_t slot_sweep(struct kvl_index *index, uint32_t shard, struct index_line *line,
                           uint32_t slot)
{
    uint32_t ref = index_line_ref(line, slot);
    uint32_t set = ref & REF_NUMBER;
    uint32_t gone = 0;

    if (ref == 0 || ((ref & REF_SET) == 0 && index_alive(index, index_ref_holder(ref)))) {
        return 0;
    }
    index_line_lock(line);
    if ((ref & REF_SET) != 0) {
        gone = kvl_index_set_sweep(index, &set);
        if (gone != 0) {
            set_settle(index, line, slot, set);
        }
    } else {
        index_line_put(line, slot, index_line_id(line, slot), 0);
        kvl_index_holder_cleared(index, index_ref_holder(ref), 1);
        gone = 1;
    }
    index_line_unlock(line, 0);
    count_ids(&index->shards[shard], index_line_ref(line, slot) == 0 ? -1 : 0, -(int64_t)gone);
    return gone;
}

uint64_t kvl_index_segment_sweep(struct kvl_index *index, uint32_t shard, uint64_t entry)
{
    struct index_line *lines = index_entry_lines(index, entry);
    uint32_t buckets = index_entry_buckets(entry);
    uint64_t gone = 0;

    for (uint32_t i = 0; i < buckets; i++) {
        for (uint32_t slot = 0; slot < INDEX_SLOTS; slot++) {
            gone += slot_sweep(index, shard, &lines[i], slot);
        }
    }
    return gone;
}
