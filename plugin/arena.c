/* SPDX-License-Identifier: Apache-2.0 */
#include "arena.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE 4096u
#define HUGE_PAGE (2u << 20)
#define STEP_BITS 4u

struct size_class {
    uint32_t power;
    uint32_t step;
};

/* The class that holds spans of this many grains. Below 16 grains each size has its own. */
static struct size_class class_of(uint32_t grains)
{
    uint32_t power;

    if (grains < KVL_ARENA_STEPS) {
        return (struct size_class){0, grains};
    }
    power = 31u - (uint32_t)__builtin_clz(grains);
    return (struct size_class){power - STEP_BITS + 1,
                               (grains >> (power - STEP_BITS)) - KVL_ARENA_STEPS};
}

/* The first class all of whose spans are long enough. */
static struct size_class class_for(uint32_t grains)
{
    if (grains >= KVL_ARENA_STEPS) {
        uint32_t power = 31u - (uint32_t)__builtin_clz(grains);
        uint64_t up = (uint64_t)grains + (1u << (power - STEP_BITS)) - 1;

        if (up > UINT32_MAX) {
            return (struct size_class){KVL_ARENA_POWERS, 0};
        }
        grains = (uint32_t)up;
    }
    return class_of(grains);
}

static uint32_t new_record(struct kvl_arena *arena)
{
    uint32_t index = arena->unused;

    if (index != KVL_ARENA_NONE) {
        arena->unused = arena->spans[index].next_free;
        return index;
    }
    if (arena->span_count == arena->span_room) {
        uint32_t room = arena->span_room == 0 ? 256 : arena->span_room * 2;
        struct kvl_arena_span *spans = realloc(arena->spans, room * sizeof(*spans));

        if (spans == NULL) {
            return KVL_ARENA_NONE;
        }
        arena->spans = spans;
        arena->span_room = room;
    }
    return arena->span_count++;
}

static void drop_record(struct kvl_arena *arena, uint32_t index)
{
    arena->spans[index] = (struct kvl_arena_span){.next_free = arena->unused};
    arena->unused = index;
}

static void put_free(struct kvl_arena *arena, uint32_t index)
{
    struct kvl_arena_span *span = &arena->spans[index];
    struct size_class c = class_of(span->grains);
    uint32_t head = arena->classes[c.power][c.step];

    span->is_free = 1;
    span->prev_free = KVL_ARENA_NONE;
    span->next_free = head;
    if (head != KVL_ARENA_NONE) {
        arena->spans[head].prev_free = index;
    }
    arena->classes[c.power][c.step] = index;
    arena->steps[c.power] = (uint16_t)(arena->steps[c.power] | (1u << c.step));
    arena->powers |= 1ull << c.power;
}

static void take_free(struct kvl_arena *arena, uint32_t index)
{
    struct kvl_arena_span *span = &arena->spans[index];
    struct size_class c = class_of(span->grains);

    if (span->prev_free != KVL_ARENA_NONE) {
        arena->spans[span->prev_free].next_free = span->next_free;
    } else {
        arena->classes[c.power][c.step] = span->next_free;
    }
    if (span->next_free != KVL_ARENA_NONE) {
        arena->spans[span->next_free].prev_free = span->prev_free;
    }
    span->is_free = 0;
    if (arena->classes[c.power][c.step] == KVL_ARENA_NONE) {
        arena->steps[c.power] = (uint16_t)(arena->steps[c.power] & ~(1u << c.step));
        if (arena->steps[c.power] == 0) {
            arena->powers &= ~(1ull << c.power);
        }
    }
}

static uint32_t find_free(const struct kvl_arena *arena, uint32_t grains)
{
    struct size_class c = class_for(grains);
    uint64_t powers;
    uint32_t steps;

    if (c.power >= KVL_ARENA_POWERS) {
        return KVL_ARENA_NONE;
    }
    steps = (uint32_t)arena->steps[c.power] & (~0u << c.step);
    if (steps == 0) {
        powers = arena->powers & (~0ull << c.power << 1);
        if (powers == 0) {
            return KVL_ARENA_NONE;
        }
        c.power = (uint32_t)__builtin_ctzll(powers);
        steps = arena->steps[c.power];
    }
    return arena->classes[c.power][__builtin_ctz(steps)];
}

/* class_for() rounds up, so a span that just fits may lie one class below. Without this look a
 * value of nearly the whole arena would not be taken although the arena is empty. */
static uint32_t find_exact(const struct kvl_arena *arena, uint32_t grains)
{
    struct size_class c = class_of(grains);
    uint32_t at = arena->classes[c.power][c.step];

    for (int looks = 0; at != KVL_ARENA_NONE && looks < 8; looks++) {
        if (arena->spans[at].grains >= grains) {
            return at;
        }
        at = arena->spans[at].next_free;
    }
    return KVL_ARENA_NONE;
}

int kvl_arena_init(struct kvl_arena *arena, void *base, uint64_t bytes)
{
    uint32_t all;

    *arena = (struct kvl_arena){.unused = KVL_ARENA_NONE};
    if ((uintptr_t)base % PAGE != 0 || bytes < PAGE || bytes / KVL_ARENA_GRAIN > UINT32_MAX) {
        return -EINVAL;
    }
    memset(arena->classes, 0xff, sizeof(arena->classes));
    if (base == NULL) {
        base = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (base == MAP_FAILED) {
            return -ENOMEM;
        }
        arena->is_mapped = 1;
        /* Refusals cost speed or memory in a child, never correctness. */
        (void)madvise(base, bytes, MADV_DONTFORK);
        if (bytes >= 16 * (uint64_t)HUGE_PAGE) {
            (void)madvise(base, bytes, MADV_HUGEPAGE);
        }
    }
    arena->base = base;
    arena->bytes = bytes;
    all = new_record(arena);
    if (all == KVL_ARENA_NONE) {
        kvl_arena_fini(arena);
        return -ENOMEM;
    }
    arena->spans[all] = (struct kvl_arena_span){
        .grains = (uint32_t)(bytes / KVL_ARENA_GRAIN),
        .before = KVL_ARENA_NONE,
        .after = KVL_ARENA_NONE,
    };
    put_free(arena, all);
    return 0;
}

void kvl_arena_fini(struct kvl_arena *arena)
{
    if (arena->is_mapped) {
        munmap(arena->base, arena->bytes);
    }
    free(arena->spans);
    *arena = (struct kvl_arena){.unused = KVL_ARENA_NONE};
}

/* Cuts what is too much off the end of a span and gives it back. */
static void split(struct kvl_arena *arena, uint32_t index, uint32_t grains)
{
    uint32_t rest;
    struct kvl_arena_span *span;

    if (arena->spans[index].grains == grains) {
        return;
    }
    rest = new_record(arena);
    if (rest == KVL_ARENA_NONE) {
        return; /* no memory for the record: the span stays too long, nothing is lost */
    }
    span = &arena->spans[index];
    arena->spans[rest] = (struct kvl_arena_span){
        .first = span->first + grains,
        .grains = span->grains - grains,
        .before = index,
        .after = span->after,
    };
    if (span->after != KVL_ARENA_NONE) {
        arena->spans[span->after].before = rest;
    }
    span->after = rest;
    span->grains = grains;
    put_free(arena, rest);
}

void *kvl_arena_alloc(struct kvl_arena *arena, uint64_t bytes, uint32_t *span_out)
{
    uint64_t grains = (bytes + KVL_ARENA_GRAIN - 1) / KVL_ARENA_GRAIN;
    uint32_t index;

    if (bytes == 0 || bytes > arena->bytes || grains > UINT32_MAX) {
        return NULL;
    }
    index = find_free(arena, (uint32_t)grains);
    if (index == KVL_ARENA_NONE) {
        index = find_exact(arena, (uint32_t)grains);
    }
    if (index == KVL_ARENA_NONE) {
        return NULL;
    }
    take_free(arena, index);
    split(arena, index, (uint32_t)grains);
    arena->used += (uint64_t)arena->spans[index].grains * KVL_ARENA_GRAIN;
    *span_out = index;
    return arena->base + (uint64_t)arena->spans[index].first * KVL_ARENA_GRAIN;
}

/* Appends the span after `index` to it. */
static void merge_after(struct kvl_arena *arena, uint32_t index)
{
    struct kvl_arena_span *span = &arena->spans[index];
    uint32_t gone = span->after;

    span->grains += arena->spans[gone].grains;
    span->after = arena->spans[gone].after;
    if (span->after != KVL_ARENA_NONE) {
        arena->spans[span->after].before = index;
    }
    drop_record(arena, gone);
}

void kvl_arena_free(struct kvl_arena *arena, uint32_t index)
{
    struct kvl_arena_span *span = &arena->spans[index];

    assert(index < arena->span_count && !span->is_free && span->grains > 0);
    arena->used -= (uint64_t)span->grains * KVL_ARENA_GRAIN;
    if (span->after != KVL_ARENA_NONE && arena->spans[span->after].is_free) {
        take_free(arena, span->after);
        merge_after(arena, index);
    }
    if (span->before != KVL_ARENA_NONE && arena->spans[span->before].is_free) {
        index = span->before;
        take_free(arena, index);
        merge_after(arena, index);
    }
    put_free(arena, index);
}

int kvl_arena_is_sound(const struct kvl_arena *arena)
{
    uint64_t grains = 0;
    uint64_t used = 0;
    uint32_t free_in_memory = 0;
    uint32_t free_in_lists = 0;
    uint32_t at = 0;

    while (arena->spans[at].before != KVL_ARENA_NONE) {
        at = arena->spans[at].before;
    }
    for (uint32_t last_free = 0; at != KVL_ARENA_NONE; at = arena->spans[at].after) {
        const struct kvl_arena_span *span = &arena->spans[at];

        if (span->first != grains || span->grains == 0 || (last_free && span->is_free)) {
            return 0;
        }
        grains += span->grains;
        free_in_memory += span->is_free;
        used += span->is_free ? 0 : (uint64_t)span->grains * KVL_ARENA_GRAIN;
        last_free = span->is_free;
    }
    for (uint32_t power = 0; power < KVL_ARENA_POWERS; power++) {
        for (uint32_t step = 0; step < KVL_ARENA_STEPS; step++) {
            uint32_t prev = KVL_ARENA_NONE;

            for (at = arena->classes[power][step]; at != KVL_ARENA_NONE;
                 at = arena->spans[at].next_free) {
                struct size_class c = class_of(arena->spans[at].grains);

                if (!arena->spans[at].is_free || arena->spans[at].prev_free != prev ||
                    c.power != power || c.step != step) {
                    return 0;
                }
                prev = at;
                free_in_lists++;
            }
        }
    }
    return grains == arena->bytes / KVL_ARENA_GRAIN && used == arena->used &&
           free_in_lists == free_in_memory;
}
