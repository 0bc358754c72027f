/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>

#include "registry_index_impl.h"

/* Blocks give way to smaller ones when they are that much too large, so that a set which swings
 * around one size does not move each time. */
#define SHRINK 3u

static uint32_t head_of(const struct index_set *set)
{
    return atomic_load_explicit(&set->head, memory_order_relaxed);
}

static void set_head(struct index_set *set, uint32_t kind, uint32_t class, uint32_t count)
{
    atomic_store_explicit(&set->head, kind | class << SET_CLASS_SHIFT | count,
                          memory_order_release);
}

static void set_member(struct index_set *set, uint32_t at, uint32_t holder)
{
    atomic_store_explicit(&(&set->first)[at], holder, memory_order_release);
}

static void set_word(struct index_set *set, uint32_t word, uint64_t bits)
{
    atomic_store_explicit(&set->tail.words[word], bits, memory_order_release);
}

static uint32_t class_for(uint32_t units)
{
    uint32_t class = 0;

    while (index_set_units(class) < units) {
        class ++;
    }
    return class;
}

static uint32_t list_class(uint32_t count)
{
    return class_for((count + 1 + 3) / 4);
}

/* For all holder numbers in use. */
static uint32_t bitmap_class(const struct kvl_index *index)
{
    uint32_t limit = atomic_load_explicit(&index->holders.limit, memory_order_acquire);

    return class_for((limit + 63) / 64 / 2 + 1);
}

/* Place of a holder in a list; count when it is not in it. */
static uint32_t list_find(const struct index_set *set, uint32_t count, uint32_t holder)
{
    uint32_t at;

    for (at = 0; at < count && index_set_member(set, at) != holder; at++) {
    }
    return at;
}

int kvl_index_set_has(const struct kvl_index *index, uint32_t number, uint32_t holder)
{
    const struct index_set *set = index_set(index, number);
    uint32_t head = head_of(set);
    uint32_t count = head & SET_COUNT;

    if ((head & SET_BITMAP) == 0) {
        return list_find(set, count, holder) < count;
    }
    return holder / 64 < index_set_words(index_set_class(head)) &&
           (index_set_word(set, holder / 64) >> (holder % 64) & 1) != 0;
}

static uint32_t take(struct kvl_index *index, uint32_t class)
{
    return kvl_index_pool_take(&index->sets, &index->budget, class, index_set_units(class));
}

void kvl_index_set_free(struct kvl_index *index, uint32_t number)
{
    kvl_index_pool_give(&index->sets, index_set_class(head_of(index_set(index, number))), number);
}

uint32_t kvl_index_set_create(struct kvl_index *index, uint32_t a, uint32_t b)
{
    uint32_t number = take(index, 0);
    struct index_set *set;

    if (number != 0) {
        set = index_set(index, number);
        set_head(set, 0, 0, 2);
        set_member(set, 0, a);
        set_member(set, 1, b);
    }
    return number;
}

/* ---- copies into other blocks ---- */

static void list_to_bitmap(const struct index_set *from, uint32_t count, struct index_set *to,
                           uint32_t words)
{
    for (uint32_t w = 0; w < words; w++) {
        set_word(to, w, 0);
    }
    for (uint32_t i = 0; i < count; i++) {
        uint32_t holder = index_set_member(from, i);

        set_word(to, holder / 64, index_set_word(to, holder / 64) | 1ull << (holder % 64));
    }
}

static void bitmap_to_list(const struct index_set *from, uint32_t words, struct index_set *to)
{
    uint32_t at = 0;

    for (uint32_t w = 0; w < words; w++) {
        for (uint64_t bits = index_set_word(from, w); bits != 0; bits &= bits - 1) {
            set_member(to, at++, w * 64 + (uint32_t)__builtin_ctzll(bits));
        }
    }
}

static void bitmap_to_bitmap(const struct index_set *from, uint32_t from_words,
                             struct index_set *to, uint32_t words)
{
    for (uint32_t w = 0; w < words; w++) {
        set_word(to, w, w < from_words ? index_set_word(from, w) : 0);
    }
}

/* Moves a set into a block of another class or kind; frees the old one. */
static int move(struct kvl_index *index, uint32_t *number, uint32_t kind, uint32_t class)
{
    uint32_t fresh = take(index, class);
    const struct index_set *from = index_set(index, *number);
    uint32_t head = head_of(from);
    uint32_t count = head & SET_COUNT;
    struct index_set *to;

    if (fresh == 0) {
        return -ENOMEM;
    }
    to = index_set(index, fresh);
    set_head(to, kind, class, count);
    if (kind == 0 && (head & SET_BITMAP) == 0) {
        for (uint32_t i = 0; i < count; i++) {
            set_member(to, i, index_set_member(from, i));
        }
    } else if (kind == 0) {
        bitmap_to_list(from, index_set_words(index_set_class(head)), to);
    } else if ((head & SET_BITMAP) == 0) {
        list_to_bitmap(from, count, to, index_set_words(class));
    } else {
        bitmap_to_bitmap(from, index_set_words(index_set_class(head)), to, index_set_words(class));
    }
    kvl_index_set_free(index, *number);
    *number = fresh;
    return 0;
}

/* ---- changes ---- */

static int list_add(struct kvl_index *index, uint32_t *number, uint32_t holder)
{
    struct index_set *set = index_set(index, *number);
    uint32_t head = head_of(set);
    uint32_t count = head & SET_COUNT;
    uint32_t class = index_set_class(head);
    uint32_t bitmap;

    if (count == index_set_room(class)) {
        class = list_class(count + 1);
        bitmap = bitmap_class(index);
        if (bitmap <= class) {
            return move(index, number, SET_BITMAP, bitmap) < 0
                       ? -ENOMEM
                       : kvl_index_set_add(index, number, holder);
        }
        if (move(index, number, 0, class) < 0) {
            return -ENOMEM;
        }
        set = index_set(index, *number);
    }
    set_member(set, count, holder);
    set_head(set, 0, class, count + 1);
    return 0;
}

int kvl_index_set_add(struct kvl_index *index, uint32_t *number, uint32_t holder)
{
    struct index_set *set = index_set(index, *number);
    uint32_t head = head_of(set);
    uint32_t class = index_set_class(head);

    if ((head & SET_BITMAP) == 0) {
        return list_add(index, number, holder);
    }
    if (holder / 64 >= index_set_words(class)) {
        class = bitmap_class(index);
        if (move(index, number, SET_BITMAP, class) < 0) {
            return -ENOMEM;
        }
        set = index_set(index, *number);
    }
    set_word(set, holder / 64, index_set_word(set, holder / 64) | 1ull << (holder % 64));
    set_head(set, SET_BITMAP, class, (head & SET_COUNT) + 1);
    return 0;
}

/* Finds a smaller home after members went. It is no harm when there is none. */
static void shrink(struct kvl_index *index, uint32_t *number)
{
    uint32_t head = head_of(index_set(index, *number));
    uint32_t count = head & SET_COUNT;
    uint32_t class = list_class(count);

    if (count > 1 && index_set_units(index_set_class(head)) >= SHRINK * index_set_units(class)) {
        (void)move(index, number, 0, class);
    }
}

void kvl_index_set_remove(struct kvl_index *index, uint32_t *number, uint32_t holder)
{
    struct index_set *set = index_set(index, *number);
    uint32_t head = head_of(set);
    uint32_t count = head & SET_COUNT;
    uint32_t kind = head & SET_BITMAP;

    if (kind == 0) {
        set_member(set, list_find(set, count, holder), index_set_member(set, count - 1));
    } else {
        set_word(set, holder / 64, index_set_word(set, holder / 64) & ~(1ull << (holder % 64)));
    }
    set_head(set, kind, index_set_class(head), count - 1);
    shrink(index, number);
}

static uint32_t list_sweep(struct kvl_index *index, struct index_set *set, uint32_t count)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < count; i++) {
        uint32_t holder = index_set_member(set, i);

        if (index_alive(index, holder)) {
            set_member(set, kept++, holder);
        } else {
            kvl_index_holder_cleared(index, holder, 1);
        }
    }
    return count - kept;
}

static uint32_t bitmap_sweep(struct kvl_index *index, struct index_set *set, uint32_t words)
{
    uint32_t gone = 0;

    for (uint32_t w = 0; w < words; w++) {
        uint64_t bits = index_set_word(set, w);
        uint64_t dead;

        if (bits == 0) {
            continue;
        }
        dead = bits & ~index_alive_word(index, w);
        if (dead != 0) {
            set_word(set, w, bits & ~dead);
            gone += (uint32_t)__builtin_popcountll(dead);
        }
        for (; dead != 0; dead &= dead - 1) {
            kvl_index_holder_cleared(index, w * 64 + (uint32_t)__builtin_ctzll(dead), 1);
        }
    }
    return gone;
}

uint32_t kvl_index_set_sweep(struct kvl_index *index, uint32_t *number)
{
    struct index_set *set = index_set(index, *number);
    uint32_t head = head_of(set);
    uint32_t count = head & SET_COUNT;
    uint32_t class = index_set_class(head);
    uint32_t gone = (head & SET_BITMAP) == 0 ? list_sweep(index, set, count)
                                             : bitmap_sweep(index, set, index_set_words(class));

    if (gone != 0) {
        set_head(set, head & SET_BITMAP, class, count - gone);
        shrink(index, number);
    }
    return gone;
}

uint32_t kvl_index_set_count(const struct kvl_index *index, uint32_t number)
{
    return head_of(index_set(index, number)) & SET_COUNT;
}

uint32_t kvl_index_set_any(const struct kvl_index *index, uint32_t number)
{
    const struct index_set *set = index_set(index, number);
    uint32_t head = head_of(set);
    uint32_t word = 0;

    if ((head & SET_BITMAP) == 0) {
        return index_set_member(set, 0);
    }
    while (index_set_word(set, word) == 0) {
        word++;
    }
    return word * 64 + (uint32_t)__builtin_ctzll(index_set_word(set, word));
}
