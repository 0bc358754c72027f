/* SPDX-License-Identifier: Apache-2.0 */
/* How a lookup reads: see registry_index_impl.h, "Order". */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "registry_index_impl.h"

#define INLINE static inline __attribute__((always_inline))

/* Then a writer was taken off its core, or writes to this bucket without a pause. */
#define ATTEMPTS 64u

/* What a lookup went by. */
struct sight {
    const _Atomic uint64_t *entry_at;
    uint64_t entry;
    const struct index_line *lines[2];
    uint32_t seqs[2];
    uint32_t count; /* of lines */
    uint32_t ref; /* 0 = not there */
};

/* @return 0 when somebody is writing. */
INLINE int line_read(struct sight *sight, const struct index_line *line, uint64_t bits,
                     uint32_t sign)
{
    uint32_t seq = atomic_load_explicit(&line->seq, memory_order_acquire);
    uint32_t slot = index_line_find(line, bits, sign);

    sight->lines[sight->count] = line;
    sight->seqs[sight->count++] = seq;
    sight->ref = slot < INDEX_SLOTS ? index_line_ref(line, slot) : 0;
    return (seq & SEQ_ODD) == 0;
}

/* @return 0 when it came between a change. */
INLINE int sight_take(struct sight *sight, const struct kvl_index *index, uint64_t hash,
                      uint64_t bits, uint32_t sign)
{
    uint32_t shard = index_shard_of(hash);
    uint32_t depth = atomic_load_explicit(&index->depths[shard], memory_order_acquire);
    const struct index_line *lines;
    uint32_t buckets;
    uint32_t first;

    sight->entry_at = &index->directory[(hash & ((1u << depth) - 1)) * INDEX_SHARDS + shard];
    sight->entry = atomic_load_explicit(sight->entry_at, memory_order_acquire);
    sight->count = 0;
    sight->ref = 0;
    if (index_entry_depth(sight->entry) > depth) {
        return 0; /* split since the depth was read */
    }
    if (sight->entry == 0) {
        return 1;
    }
    buckets = index_entry_buckets(sight->entry);
    first = index_first(hash, buckets);
    lines = index_entry_lines(index, sight->entry);
    if (!line_read(sight, lines + first, bits, sign)) {
        return 0;
    }
    if (sight->ref != 0 || (sight->seqs[0] & SEQ_OVERFLOW) == 0) {
        return 1;
    }
    return line_read(sight, lines + index_second(hash, buckets, first), bits, sign);
}

/* Was everything in place and at rest from taking the sight until now? */
INLINE int sight_holds(const struct sight *sight)
{
    for (uint32_t i = 0; i < sight->count; i++) {
        if (atomic_load_explicit(&sight->lines[i]->seq, memory_order_acquire) != sight->seqs[i]) {
            return 0;
        }
    }
    return atomic_load_explicit(sight->entry_at, memory_order_relaxed) == sight->entry;
}

/* May run several times, on content that is out of date too: the last time counts. */
typedef void (*seen_fn)(void *ctx, const struct kvl_index *index, uint32_t ref);

/* With the writers shut out. The longest that one of them keeps the lock is to grow a segment. */
static __attribute__((noinline)) void look_locked(const struct kvl_index *index, uint64_t hash,
                                                  uint64_t bits, uint32_t sign, seen_fn fn,
                                                  void *ctx)
{
    struct index_shard *shard = &index->shards[index_shard_of(hash)];
    struct sight sight;

    (void)pthread_mutex_lock(&shard->lock);
    (void)sight_take(&sight, index, hash, bits, sign);
    fn(ctx, index, sight.ref);
    (void)pthread_mutex_unlock(&shard->lock);
}

INLINE void look(const struct kvl_index *index, uint64_t hash, uint64_t bits, uint32_t sign,
                 seen_fn fn, void *ctx)
{
    struct sight sight;

    for (uint32_t i = 0; i < ATTEMPTS; i++) {
        if (sight_take(&sight, index, hash, bits, sign)) {
            fn(ctx, index, sight.ref);
            if (sight_holds(&sight)) {
                return;
            }
        }
    }
    look_locked(index, hash, bits, sign, fn, ctx);
}

/* ---- any holder ---- */

static uint32_t set_any(const struct kvl_index *index, uint32_t number)
{
    const struct index_set *set = index_set(index, number);
    uint32_t head = atomic_load_explicit(&set->head, memory_order_acquire);
    uint32_t words = index_set_words(index_set_class(head));

    if ((head & SET_BITMAP) == 0) {
        for (uint32_t i = 0; i < (head & SET_COUNT); i++) {
            uint32_t holder = index_set_member(set, i);

            if (index_alive(index, holder)) {
                return holder;
            }
        }
        return KVL_INDEX_NONE;
    }
    for (uint32_t w = 0; w < words && w < INDEX_HOLDERS_MAX / 64; w++) {
        uint64_t bits = index_set_word(set, w);

        if (bits != 0 && (bits &= index_alive_word(index, w)) != 0) {
            return w * 64 + (uint32_t)__builtin_ctzll(bits);
        }
    }
    return KVL_INDEX_NONE;
}

INLINE void seen_any(void *ctx, const struct kvl_index *index, uint32_t ref)
{
    uint32_t *holder_out = ctx;
    uint32_t holder = index_ref_holder(ref); /* of no reference: not alive */

    if ((ref & REF_SET) != 0) {
        holder = set_any(index, ref & REF_NUMBER);
    } else if (!index_alive(index, holder)) {
        holder = KVL_INDEX_NONE;
    }
    *holder_out = holder;
}

int kvl_index_has(const struct kvl_index *index, const struct kvl_chunk_id *id)
{
    uint32_t sign = index_sign(id);
    uint32_t holder;

    look(index, index_hash(id->bits, sign), id->bits, sign, seen_any, &holder);
    return holder != KVL_INDEX_NONE;
}

/* ---- all holders ---- */

void kvl_index_list_init(struct index_list *list)
{
    list->items = list->fixed;
    list->count = 0;
    list->room = sizeof(list->fixed) / sizeof(list->fixed[0]);
}

void kvl_index_list_fini(struct index_list *list)
{
    if (list->items != list->fixed) {
        free(list->items);
    }
}

/* Counts on when there is no more room. */
static void list_put(struct index_list *list, uint32_t holder)
{
    if (list->count < list->room) {
        list->items[list->count] = holder;
    }
    list->count++;
}

static void list_put_set(struct index_list *list, const struct kvl_index *index, uint32_t number)
{
    const struct index_set *set = index_set(index, number);
    uint32_t head = atomic_load_explicit(&set->head, memory_order_acquire);
    uint32_t words = index_set_words(index_set_class(head));

    if ((head & SET_BITMAP) == 0) {
        for (uint32_t i = 0; i < (head & SET_COUNT); i++) {
            uint32_t holder = index_set_member(set, i);

            if (index_alive(index, holder)) {
                list_put(list, holder);
            }
        }
        return;
    }
    for (uint32_t w = 0; w < words && w < INDEX_HOLDERS_MAX / 64; w++) {
        uint64_t bits = index_set_word(set, w);

        for (bits = bits == 0 ? 0 : bits & index_alive_word(index, w); bits != 0;
             bits &= bits - 1) {
            list_put(list, w * 64 + (uint32_t)__builtin_ctzll(bits));
        }
    }
}

static void seen_all(void *ctx, const struct kvl_index *index, uint32_t ref)
{
    struct index_list *list = ctx;

    list->count = 0;
    if ((ref & REF_SET) != 0) {
        list_put_set(list, index, ref & REF_NUMBER);
    } else if (index_alive(index, index_ref_holder(ref))) {
        list_put(list, index_ref_holder(ref));
    }
}

int kvl_index_collect(const struct kvl_index *index, uint64_t hash, const struct kvl_chunk_id *id,
                      struct index_list *list)
{
    for (;;) {
        uint32_t room;
        uint32_t *items;

        look(index, hash, id->bits, index_sign(id), seen_all, list);
        if (list->count <= list->room) {
            return 0;
        }
        room = list->count + list->count / 4;
        kvl_index_list_fini(list);
        items = malloc(room * sizeof(*items));
        if (items == NULL) {
            kvl_index_list_init(list);
            return -ENOMEM;
        }
        list->items = items;
        list->room = room;
    }
}

/* ---- some holders, as bits ---- */

struct among {
    const struct index_word *words;
    uint32_t count;
    uint64_t *bits_out;
};

/* @return place of a word; count when it is not among them. */
static uint32_t among_find(const struct among *among, uint32_t word)
{
    uint32_t low = 0;
    uint32_t high = among->count;

    while (low < high) {
        uint32_t middle = (low + high) / 2;

        if (among->words[middle].word < word) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < among->count && among->words[low].word == word ? low : among->count;
}

static void among_put(const struct among *among, uint32_t holder)
{
    uint32_t at = among_find(among, holder / 64);

    if (at < among->count) {
        among->bits_out[at] |= 1ull << (holder % 64);
    }
}

static void seen_among(void *ctx, const struct kvl_index *index, uint32_t ref)
{
    const struct among *among = ctx;
    const struct index_set *set = index_set(index, ref & REF_NUMBER);
    uint32_t head;
    uint32_t words;

    memset(among->bits_out, 0, among->count * sizeof(uint64_t));
    if ((ref & REF_SET) == 0) {
        among_put(among, index_ref_holder(ref));
        return;
    }
    head = atomic_load_explicit(&set->head, memory_order_acquire);
    words = index_set_words(index_set_class(head));
    if ((head & SET_BITMAP) == 0) {
        for (uint32_t i = 0; i < (head & SET_COUNT); i++) {
            among_put(among, index_set_member(set, i));
        }
        return;
    }
    for (uint32_t i = 0; i < among->count; i++) {
        uint32_t word = among->words[i].word;

        among->bits_out[i] = word < words ? index_set_word(set, word) : 0;
    }
}

void kvl_index_among(const struct kvl_index *index, uint64_t hash, const struct kvl_chunk_id *id,
                     const struct index_word *words, uint32_t count, uint64_t *bits_out)
{
    struct among among = {.words = words, .count = count, .bits_out = bits_out};

    look(index, hash, id->bits, index_sign(id), seen_among, &among);
}

struct wanted {
    uint64_t *bits_out;
    uint32_t words;
};

static void wanted_put(const struct wanted *wanted, const struct kvl_index *index, uint32_t holder)
{
    if (holder / 64 < wanted->words && index_alive(index, holder)) {
        wanted->bits_out[holder / 64] |= 1ull << (holder % 64);
    }
}

static void seen_wanted(void *ctx, const struct kvl_index *index, uint32_t ref)
{
    const struct wanted *wanted = ctx;
    const struct index_set *set = index_set(index, ref & REF_NUMBER);
    uint32_t head;
    uint32_t words;

    memset(wanted->bits_out, 0, wanted->words * sizeof(uint64_t));
    if ((ref & REF_SET) == 0) {
        wanted_put(wanted, index, index_ref_holder(ref));
        return;
    }
    head = atomic_load_explicit(&set->head, memory_order_acquire);
    words = index_set_words(index_set_class(head));
    if ((head & SET_BITMAP) == 0) {
        for (uint32_t i = 0; i < (head & SET_COUNT); i++) {
            wanted_put(wanted, index, index_set_member(set, i));
        }
        return;
    }
    for (uint32_t w = 0; w < words && w < wanted->words; w++) {
        wanted->bits_out[w] = index_set_word(set, w) & index_alive_word(index, w);
    }
}

void kvl_index_bits(const struct kvl_index *index, uint64_t hash, const struct kvl_chunk_id *id,
                    uint64_t *bits_out, uint32_t words)
{
    struct wanted wanted = {.bits_out = bits_out, .words = words};

    look(index, hash, id->bits, index_sign(id), seen_wanted, &wanted);
}

int kvl_index_holders(const struct kvl_index *index, const struct kvl_chunk_id *id,
                      uint32_t **holders_out)
{
    struct index_list list;
    uint32_t *holders = NULL;
    int r;

    kvl_index_list_init(&list);
    r = kvl_index_collect(index, index_hash(id->bits, index_sign(id)), id, &list);
    if (r == 0 && list.count != 0) {
        holders = malloc(list.count * sizeof(*holders));
        r = holders == NULL ? -ENOMEM : (int)list.count;
    }
    if (r > 0) {
        memcpy(holders, list.items, list.count * sizeof(*holders));
    }
    if (r >= 0) {
        *holders_out = holders;
    }
    kvl_index_list_fini(&list);
    return r;
}
