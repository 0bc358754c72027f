/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file registry_index_impl.h
 * What the files of the index share; nobody else includes it.
 *
 * Layout. An id is mixed to 64 hash bits. The top ones pick one of 256 shards, the lowest ones an
 * entry of the shard's directory, those between two buckets of the segment that the entry names.
 * A bucket is one cache line with five slots; an id stands in its first bucket, or in its second
 * when the first is flagged as overflowed. A slot refers to the one holder of its id, or to a set
 * of holders in memory of its own. Shards are of uneven size on purpose: so their segments fill up
 * at different times, and blocks that one shard has outgrown are what others just need.
 *
 * Memory is type-stable: what was once a bucket line stays one until the index is destroyed, and a
 * set block keeps its place and size. So a lookup may follow a reference that is out of date: it
 * reads old or foreign content, but never anything else, and then finds out.
 *
 * Order. Every word that lookups read is atomic. A writer holds the lock of the shard and, around
 * its change of a bucket or of a set that hangs there, keeps the bucket's seq odd. It writes with
 * release, lookups read with acquire: who sees any part of a change also sees the odd seq before
 * it. So a lookup that finds the same even seq before and behind its reads saw no part of a change.
 * It ends by reading the directory entry again: when that is unchanged, the segment was in use all
 * the time and was not recycled. Each change of an entry counts its version up.
 * There is no fence anywhere, because thread sanitizers do not follow them.
 *
 * Locks: shard, then pool or holders. Lookups take the shard's lock only after many vain attempts.
 */
#ifndef KVL_PLUGIN_REGISTRY_INDEX_IMPL_H
#define KVL_PLUGIN_REGISTRY_INDEX_IMPL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "registry_index.h"

#define INDEX_SHARDS 256u
#define INDEX_SLOTS 5u
#define INDEX_LINE 64u
#define INDEX_STEP 32u /* segments grow by so many buckets */
#define INDEX_SPLIT 64u /* the halves of a split start with so many */
#define INDEX_GROWN 112u /* then they are split */
#define INDEX_BUCKETS_MAX 160u /* unless one half would get nearly everything */
#define INDEX_DEPTH_MAX 20u
#define INDEX_HOLDERS_MAX (1u << 20)
#define INDEX_CHUNK 1024u /* holder records allocated together */

/* ---- memory ---- */

#define POOL_CLASSES 32u

/** Blocks of a few sizes, in numbered units, that are never unmapped. */
struct index_pool {
    pthread_mutex_t lock;
    uint8_t *base;
    size_t reserved;
    size_t committed;
    size_t used; /* all that was ever given out; what came back waits in `free` */
    uint32_t unit; /* bytes */
    uint32_t link_at; /* a free block has the number of the next one there, as uint32_t */
    uint32_t free[POOL_CLASSES]; /* 0 = none */
};

/** Bytes of all pools, against the bound. */
struct index_budget {
    uint64_t max;
    _Atomic uint64_t used;
};

int kvl_index_budget_take(struct index_budget *budget, uint64_t bytes);

int kvl_index_pool_init(struct index_pool *pool, uint64_t max, uint32_t unit, uint32_t link_at);
void kvl_index_pool_fini(struct index_pool *pool);

/** @return number of the first unit of a block; 0 = no room. */
uint32_t kvl_index_pool_take(struct index_pool *pool, struct index_budget *budget, uint32_t class,
                             uint32_t units);
/** May such a block be had just now? */
int kvl_index_pool_has(struct index_pool *pool, const struct index_budget *budget, uint32_t class,
                       uint32_t units);
void kvl_index_pool_give(struct index_pool *pool, uint32_t class, uint32_t number);

static inline void *index_pool_at(const struct index_pool *pool, uint32_t number)
{
    return pool->base + (size_t)number * pool->unit;
}

/* ---- buckets ---- */

#define SEQ_ODD 1u /* somebody is writing */
#define SEQ_OVERFLOW 2u /* ids of this bucket stand in their second one */
#define SEQ_STEP 4u

#define REF_NEGATIVE (1u << 31) /* sign of the id */
#define REF_SET (1u << 30) /* the number is a set's */
#define REF_NUMBER (REF_SET - 1) /* of a set, or of a holder plus one; 0 = free slot */

struct index_line {
    _Atomic uint32_t seq;
    _Atomic uint32_t refs[INDEX_SLOTS];
    _Atomic uint64_t ids[INDEX_SLOTS];
};
_Static_assert(sizeof(struct index_line) == INDEX_LINE, "a bucket is a cache line");

static inline uint32_t index_ref_holder(uint32_t ref)
{
    return (ref & REF_NUMBER) - 1;
}

static inline uint32_t index_ref_of(uint32_t sign, uint32_t holder)
{
    return sign | (holder + 1);
}

static inline uint32_t index_sign(const struct kvl_chunk_id *id)
{
    return id->negative != 0 ? REF_NEGATIVE : 0;
}

static inline void index_line_lock(struct index_line *line)
{
    uint32_t seq = atomic_load_explicit(&line->seq, memory_order_relaxed);

    atomic_store_explicit(&line->seq, seq | SEQ_ODD, memory_order_relaxed);
}

static inline void index_line_unlock(struct index_line *line, uint32_t flags)
{
    uint32_t seq = atomic_load_explicit(&line->seq, memory_order_relaxed);

    seq = (seq & ~SEQ_ODD) + SEQ_STEP;
    atomic_store_explicit(&line->seq, seq | flags, memory_order_release);
}

/** Nothing of it stands in a second bucket any more. Only between lock and unlock. */
static inline void index_line_unflag(struct index_line *line)
{
    uint32_t seq = atomic_load_explicit(&line->seq, memory_order_relaxed);

    atomic_store_explicit(&line->seq, seq & ~SEQ_OVERFLOW, memory_order_relaxed);
}

/** Only between lock and unlock. */
static inline void index_line_put(struct index_line *line, uint32_t slot, uint64_t bits,
                                  uint32_t ref)
{
    atomic_store_explicit(&line->ids[slot], bits, memory_order_release);
    atomic_store_explicit(&line->refs[slot], ref, memory_order_release);
}

static inline uint32_t index_line_ref(const struct index_line *line, uint32_t slot)
{
    return atomic_load_explicit(&line->refs[slot], memory_order_acquire);
}

static inline uint64_t index_line_id(const struct index_line *line, uint32_t slot)
{
    return atomic_load_explicit(&line->ids[slot], memory_order_acquire);
}

/** Slot of an id; INDEX_SLOTS when it is not there. Written without jumps between the slots. */
static inline uint32_t index_line_find(const struct index_line *line, uint64_t bits, uint32_t sign)
{
    uint32_t found = 0;

    for (uint32_t slot = 0; slot < INDEX_SLOTS; slot++) {
        uint32_t ref = index_line_ref(line, slot);
        uint32_t is =
            (index_line_id(line, slot) == bits) & (ref != 0) & (((ref ^ sign) & REF_NEGATIVE) == 0);

        found |= is << slot;
    }
    return found == 0 ? INDEX_SLOTS : (uint32_t)__builtin_ctz(found);
}

/* ---- hash ---- */

/** The same everywhere and for ever: the order of one index suits filling another. */
static inline uint64_t index_hash(uint64_t bits, uint32_t sign)
{
    uint64_t x = sign != 0 ? bits ^ 0xd6e8feb86659fd93u : bits;

    x = (x ^ x >> 32) * 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 29) * 0xbf58476d1ce4e5b9u;
    return x ^ x >> 32;
}

/** About log2(1 + u): the first shard gets half of what the last one gets. */
static inline uint32_t index_shard_of(uint64_t hash)
{
    uint32_t u = (uint32_t)(hash >> 48);
    uint32_t bow = (uint32_t)((uint64_t)u * (65536u - u) >> 16);

    return (u + (bow * 22544u >> 16)) >> 8;
}

static inline uint32_t index_first(uint64_t hash, uint32_t buckets)
{
    return ((uint32_t)(hash >> 20) & 0x3fff) * buckets >> 14;
}

static inline uint32_t index_second(uint64_t hash, uint32_t buckets, uint32_t first)
{
    uint32_t at = first + 1 + (((uint32_t)(hash >> 34) & 0x3fff) * (buckets - 1) >> 14);

    return at < buckets ? at : at - buckets;
}

/* ---- directory ---- */

/* An entry: number of the first line (32 bits), buckets / 16 (4), depth (6), version (22). */
#define ENTRY_VERSION_SHIFT 42u

static inline uint32_t index_entry_line(uint64_t entry)
{
    return (uint32_t)entry;
}

static inline uint32_t index_entry_buckets(uint64_t entry)
{
    return (uint32_t)(entry >> 32 & 15) * INDEX_STEP;
}

static inline uint32_t index_entry_depth(uint64_t entry)
{
    return (uint32_t)(entry >> 36 & 63);
}

static inline uint64_t index_entry_of(uint32_t line, uint32_t buckets, uint32_t depth,
                                      uint64_t version)
{
    return line | (uint64_t)(buckets / INDEX_STEP) << 32 | (uint64_t)depth << 36 |
           version << ENTRY_VERSION_SHIFT;
}

struct index_shard {
    pthread_mutex_t lock; /* of those who change anything in it */
    uint32_t segments;
    _Atomic uint64_t ids;
    _Atomic uint64_t entries;
} __attribute__((aligned(128)));

/* ---- holders ---- */

struct index_holder {
    _Atomic uint64_t keys; /* while living */
    _Atomic uint64_t rest; /* entries that it left behind */
    _Atomic uint64_t opened; /* value of `opens` behind its opening */
    uint32_t next_free;
};

struct index_holders {
    pthread_mutex_t lock; /* of numbers: opening and freeing */
    _Atomic(struct index_holder *) chunks[INDEX_HOLDERS_MAX / INDEX_CHUNK];
    _Atomic uint64_t *alive; /* one bit each */
    _Atomic uint32_t limit; /* numbers ever used */
    _Atomic uint64_t opens;
    uint32_t first_free;
    uint32_t last_free;
};

struct kvl_index {
    _Atomic uint8_t depths[INDEX_SHARDS]; /* only ever grow */
    _Atomic uint64_t *directory; /* of all shards, interleaved */
    struct index_pool lines;
    struct index_pool sets;
    struct index_budget budget;
    size_t directory_committed;
    pthread_mutex_t directory_lock; /* of directory_committed */
    struct index_holders holders;
    _Atomic uint64_t retired; /* sum of `rest` of all holders */
    _Atomic uint64_t updates; /* ops seen while something was retired */
    _Atomic uint64_t sweep_at; /* next place to clear: index in the directory, shard */
    struct index_shard *shards;
};

static inline struct index_holder *index_holder(const struct kvl_index *index, uint32_t holder)
{
    return atomic_load_explicit(&index->holders.chunks[holder / INDEX_CHUNK],
                                memory_order_acquire) +
           holder % INDEX_CHUNK;
}

/** Living holders among numbers 64 * word and up. */
static inline uint64_t index_alive_word(const struct kvl_index *index, uint32_t word)
{
    return atomic_load_explicit(&index->holders.alive[word], memory_order_acquire);
}

/** Also for numbers that are not in use. */
static inline int index_alive(const struct kvl_index *index, uint32_t holder)
{
    return holder < INDEX_HOLDERS_MAX &&
           (index_alive_word(index, holder / 64) >> (holder % 64) & 1) != 0;
}

int kvl_index_holders_init(struct index_holders *holders);
void kvl_index_holders_fini(struct index_holders *holders);

/** `count` entries of a retired holder were cleared away. */
void kvl_index_holder_cleared(struct kvl_index *index, uint32_t holder, uint64_t count);

/* ---- sets ---- */

#define SET_COUNT 0xffffffu
#define SET_CLASS_SHIFT 24u
#define SET_BITMAP (1u << 30)
#define SET_UNIT 16u

/** Numbers of holders one behind the other, or from `words` on one bit each. */
struct index_set {
    _Atomic uint32_t head; /* count, class, SET_BITMAP */
    _Atomic uint32_t first;
    union {
        _Atomic uint32_t more[2];
        _Atomic uint64_t words[1];
    } tail;
};
_Static_assert(sizeof(struct index_set) == SET_UNIT, "the smallest set");

/** Units of a block of a class: 1, 2, 3, 4, 6, 8, 12, ... */
static inline uint32_t index_set_units(uint32_t class)
{
    return class == 0 ? 1 : (2 + ((class - 1) & 1)) << ((class - 1) >> 1);
}

static inline struct index_set *index_set(const struct kvl_index *index, uint32_t number)
{
    return index_pool_at(&index->sets, number);
}

static inline uint32_t index_set_class(uint32_t head)
{
    return head >> SET_CLASS_SHIFT & 63;
}

static inline uint32_t index_set_room(uint32_t class)
{
    return index_set_units(class) * (SET_UNIT / 4) - 1;
}

static inline uint32_t index_set_words(uint32_t class)
{
    return index_set_units(class) * (SET_UNIT / 8) - 1;
}

static inline uint32_t index_set_member(const struct index_set *set, uint32_t at)
{
    return atomic_load_explicit(&(&set->first)[at], memory_order_acquire);
}

static inline uint64_t index_set_word(const struct index_set *set, uint32_t word)
{
    return atomic_load_explicit(&set->tail.words[word], memory_order_acquire);
}

/* All of these under the shard's lock; those that change, while the bucket's seq is odd. */

int kvl_index_set_has(const struct kvl_index *index, uint32_t set, uint32_t holder);

/** A set of two. @return 0 = no room. */
uint32_t kvl_index_set_create(struct kvl_index *index, uint32_t a, uint32_t b);

/** Adds one that is not in it; the set may move. @return 0; -ENOMEM. */
int kvl_index_set_add(struct kvl_index *index, uint32_t *set, uint32_t holder);

/** Takes one away that is in it; the set may move. */
void kvl_index_set_remove(struct kvl_index *index, uint32_t *set, uint32_t holder);

/** Takes retired holders out. @return how many. */
uint32_t kvl_index_set_sweep(struct kvl_index *index, uint32_t *set);

uint32_t kvl_index_set_count(const struct kvl_index *index, uint32_t set);

/** Any member of a set that has some. */
uint32_t kvl_index_set_any(const struct kvl_index *index, uint32_t set);

void kvl_index_set_free(struct kvl_index *index, uint32_t set);

/* ---- segments, under the shard's lock ---- */

/** The entry of a hash; 0 = the shard has no segment yet. */
static inline uint64_t index_entry(const struct kvl_index *index, uint32_t shard, uint64_t hash,
                                   const _Atomic uint64_t **at_out)
{
    uint32_t depth = atomic_load_explicit(&index->depths[shard], memory_order_acquire);
    uint64_t low = hash & ((1u << depth) - 1);

    *at_out = &index->directory[low * INDEX_SHARDS + shard];
    return atomic_load_explicit(*at_out, memory_order_acquire);
}

static inline struct index_line *index_entry_lines(const struct kvl_index *index, uint64_t entry)
{
    return index_pool_at(&index->lines, index_entry_line(entry));
}

/** @return the bucket of an id, with its slot; NULL when it is not there. */
struct index_line *kvl_index_slot_find(const struct kvl_index *index, uint32_t shard, uint64_t hash,
                                       uint64_t bits, uint32_t sign, uint32_t *slot_out);

/** Puts in an id that is not there. @return 0; -ENOMEM. */
int kvl_index_slot_add(struct kvl_index *index, uint32_t shard, uint64_t hash, uint64_t bits,
                       uint32_t ref);

/** Frees a slot. */
void kvl_index_slot_clear(struct kvl_index *index, uint32_t shard, struct index_line *line,
                          uint32_t slot);

/** Adds a holder that an id does not have yet. @return 0; -ENOMEM. */
int kvl_index_slot_join(struct kvl_index *index, uint32_t shard, struct index_line *line,
                        uint32_t slot, uint32_t holder);

/** Takes a holder away from an id that has several, this one too. */
void kvl_index_slot_leave(struct kvl_index *index, uint32_t shard, struct index_line *line,
                          uint32_t slot, uint32_t holder);

/** Takes retired holders out of a segment. @return how many entries went. */
uint64_t kvl_index_segment_sweep(struct kvl_index *index, uint32_t shard, uint64_t entry);

int kvl_index_directory_init(struct kvl_index *index);
/** Makes room for directories of this depth. @return 0; -ENOMEM. */
int kvl_index_directory_commit(struct kvl_index *index, uint32_t depth);
void kvl_index_directory_fini(struct kvl_index *index);

/* ---- lookups ---- */

#define INDEX_AHEAD 16u /* a power of two */

/** Ids one after the other, with the cache lines of those to come asked for in time. */
struct index_stream {
    const struct kvl_index *index;
    const uint8_t *ids; /* of the first struct kvl_chunk_id */
    size_t stride;
    uint32_t count;
    int write;
    uint64_t hashes[4 * INDEX_AHEAD];
};

void kvl_index_stream_init(struct index_stream *stream, const struct kvl_index *index,
                           const void *ids, size_t stride, uint32_t count, int write);

static inline const struct kvl_chunk_id *index_stream_id(const struct index_stream *stream,
                                                         uint32_t at)
{
    return (const struct kvl_chunk_id *)(const void *)(stream->ids + at * stream->stride);
}

/** The directory entry of the id at `at`, which is beyond the one in work. */
static inline void index_stream_far(struct index_stream *stream, uint32_t at)
{
    const struct kvl_chunk_id *id = index_stream_id(stream, at);
    uint64_t hash = index_hash(id->bits, index_sign(id));
    uint32_t shard = index_shard_of(hash);
    uint32_t depth = atomic_load_explicit(&stream->index->depths[shard], memory_order_relaxed);

    stream->hashes[at % (4 * INDEX_AHEAD)] = hash;
    __builtin_prefetch((const void *)(uintptr_t)&stream->index
                           ->directory[(hash & ((1u << depth) - 1)) * INDEX_SHARDS + shard]);
}

/** Its bucket. */
static inline void index_stream_near(struct index_stream *stream, uint32_t at)
{
    uint64_t hash = stream->hashes[at % (4 * INDEX_AHEAD)];
    const _Atomic uint64_t *entry_at;
    uint64_t entry = index_entry(stream->index, index_shard_of(hash), hash, &entry_at);
    const struct index_line *line =
        index_entry_lines(stream->index, entry) + index_first(hash, index_entry_buckets(entry));

    if (stream->write) {
        __builtin_prefetch(line, 1);
    } else {
        __builtin_prefetch(line);
    }
}

/** Asks for what the ids from `at` on will need: their directory entries, and the buckets of those
 * before them, whose entries have come by now. */
void kvl_index_stream_ahead(struct index_stream *stream, uint32_t at);

/** To be called for 0, 1, ... in order. @return the hash of that id. */
static inline uint64_t index_stream_next(struct index_stream *stream, uint32_t at)
{
    if (at % INDEX_AHEAD == 0 && at + INDEX_AHEAD < stream->count) {
        kvl_index_stream_ahead(stream, at + 2 * INDEX_AHEAD);
    }
    return stream->hashes[at % (4 * INDEX_AHEAD)];
}

/** Holder numbers, a few without memory of its own. */
struct index_list {
    uint32_t *items; /* `fixed`, or allocated */
    uint32_t count;
    uint32_t room;
    uint32_t fixed[62];
};

void kvl_index_list_init(struct index_list *list);
void kvl_index_list_fini(struct index_list *list);

/** All living holders of an id, instead of what is in the list. @return 0; -ENOMEM. */
int kvl_index_collect(const struct kvl_index *index, uint64_t hash, const struct kvl_chunk_id *id,
                      struct index_list *list);

/** 64 holder numbers: word * 64 and up. */
struct index_word {
    uint32_t word;
    uint64_t bits;
};

/** Which of these have the id: `bits_out` has one word per item of `words`, which ascend. */
void kvl_index_among(const struct kvl_index *index, uint64_t hash, const struct kvl_chunk_id *id,
                     const struct index_word *words, uint32_t count, uint64_t *bits_out);

/** Living holders of an id below 64 * words, one bit each. */
void kvl_index_bits(const struct kvl_index *index, uint64_t hash, const struct kvl_chunk_id *id,
                    uint64_t *bits_out, uint32_t words);

#endif /* KVL_PLUGIN_REGISTRY_INDEX_IMPL_H */
