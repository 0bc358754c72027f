/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file arena.h
 * One range of memory, handed out in spans of any size. Not thread-safe: the store locks.
 *
 * Two-level segregated fit: a span is found, split and merged in constant time. What is known about
 * a span lies outside the range, so the range can be shared or belong to the engine, holds nothing
 * but payload, and an overrun cannot damage the allocator.
 *
 * A range of our own has more addresses than the budget allows bytes: a large span is then found
 * also where the free memory lies in pieces, and the pieces are given back to the system (purged).
 * Free spans are fresh (no page behind them) or stale (pages still there); only alike ones merge,
 * and what is in use and what is stale never exceed the budget together.
 */
#ifndef KVL_PLUGIN_ARENA_H
#define KVL_PLUGIN_ARENA_H

#include <stddef.h>
#include <stdint.h>

/** Every span begins at a multiple of this and covers a multiple of it. */
#define KVL_ARENA_GRAIN 64u
/** Most size classes: 32 powers of two, each in 16 steps. */
#define KVL_ARENA_POWERS 40
#define KVL_ARENA_STEPS 16

struct kvl_arena_span {
    uint32_t first; /* grains from the base */
    uint32_t grains;
    uint32_t before; /* neighbours in memory; KVL_ARENA_NONE at the ends */
    uint32_t after;
    uint32_t next_free; /* in its class, or in the list of unused records */
    uint32_t prev_free;
    uint32_t kind; /* enum kvl_arena_kind */
};

enum kvl_arena_kind { KVL_ARENA_STALE, KVL_ARENA_FRESH, KVL_ARENA_USED };

/** Free spans of one kind, by size. */
struct kvl_arena_bins {
    uint64_t powers; /* bit set: a class of this power has a free span */
    uint16_t steps[KVL_ARENA_POWERS];
    uint32_t classes[KVL_ARENA_POWERS][KVL_ARENA_STEPS];
};

#define KVL_ARENA_NONE UINT32_MAX

struct kvl_arena {
    unsigned char *base;
    uint64_t range; /* bytes of addresses */
    uint64_t bytes; /* the budget */
    int is_mapped; /* base is ours to unmap */
    int fd; /* memfd behind the range, read-only, for peers on this host; -1 = none */
    struct kvl_arena_span *spans; /* owned */
    uint32_t span_count;
    uint32_t span_room;
    uint32_t unused; /* list of unused records */
    uint64_t used; /* bytes handed out, rounded up to grains */
    uint64_t stale; /* bytes free with pages behind them */
    uint64_t purges;
    struct kvl_arena_bins bins[2]; /* stale and fresh */
};

/**
 * Takes `bytes` at `base`, or maps them when base is NULL (private, zero pages until touched, not
 * inherited by a forked child, huge pages where the system has them).
 * @return 0; -EINVAL base not aligned to 4096, or under 4096 or over 256 GiB; -ENOMEM.
 */
int kvl_arena_init(struct kvl_arena *arena, void *base, uint64_t bytes);
void kvl_arena_fini(struct kvl_arena *arena);

/**
 * Puts a sealed memfd behind the range, at the same addresses, so that other processes can map it.
 * Only while nothing was handed out.
 * @param fd  the memfd that memory of the engine's is the beginning of, borrowed; -1 = none
 * @return 0, also a second time; -ENOTSUP memory of the engine's without a memfd that can be
 *         sealed, or a system without memfd; -EBUSY; -ENOMEM. On failure all is as before.
 */
int kvl_arena_share(struct kvl_arena *arena, int fd);

/**
 * Finds room for `bytes` (at least 1). @return the address and a span to give back; NULL when that
 * would exceed the budget, or no free span is long enough.
 */
void *kvl_arena_alloc(struct kvl_arena *arena, uint64_t bytes, uint32_t *span_out);
void kvl_arena_free(struct kvl_arena *arena, uint32_t span);

/** True when spans cover the range without hole or overlap and every list is sound. For tests. */
int kvl_arena_is_sound(const struct kvl_arena *arena);

#endif /* KVL_PLUGIN_ARENA_H */
