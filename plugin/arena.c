/* SPDX-License-Identifier: Apache-2.0 */
#include "arena.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

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
    arena->spans[index] =
        (struct kvl_arena_span){.next_free = arena->unused, .kind = KVL_ARENA_USED};
    arena->unused = index;
}

static void put_free(struct kvl_arena *arena, uint32_t index, enum kvl_arena_kind kind)
{
    struct kvl_arena_bins *bins = &arena->bins[kind];
    struct kvl_arena_span *span = &arena->spans[index];
    struct size_class c = class_of(span->grains);
    uint32_t head = bins->classes[c.power][c.step];

    span->kind = kind;
    span->prev_free = KVL_ARENA_NONE;
    span->next_free = head;
    if (head != KVL_ARENA_NONE) {
        arena->spans[head].prev_free = index;
    }
    bins->classes[c.power][c.step] = index;
    bins->steps[c.power] = (uint16_t)(bins->steps[c.power] | (1u << c.step));
    bins->powers |= 1ull << c.power;
    if (kind == KVL_ARENA_STALE) {
        arena->stale += (uint64_t)span->grains * KVL_ARENA_GRAIN;
    }
}

static void take_free(struct kvl_arena *arena, uint32_t index)
{
    struct kvl_arena_span *span = &arena->spans[index];
    struct kvl_arena_bins *bins = &arena->bins[span->kind];
    struct size_class c = class_of(span->grains);

    if (span->kind == KVL_ARENA_STALE) {
        arena->stale -= (uint64_t)span->grains * KVL_ARENA_GRAIN;
    }
    if (span->prev_free != KVL_ARENA_NONE) {
        arena->spans[span->prev_free].next_free = span->next_free;
    } else {
        bins->classes[c.power][c.step] = span->next_free;
    }
    if (span->next_free != KVL_ARENA_NONE) {
        arena->spans[span->next_free].prev_free = span->prev_free;
    }
    span->kind = KVL_ARENA_USED;
    if (bins->classes[c.power][c.step] == KVL_ARENA_NONE) {
        bins->steps[c.power] = (uint16_t)(bins->steps[c.power] & ~(1u << c.step));
        if (bins->steps[c.power] == 0) {
            bins->powers &= ~(1ull << c.power);
        }
    }
}

static uint32_t find_free(const struct kvl_arena_bins *bins, uint32_t grains)
{
    struct size_class c = class_for(grains);
    uint64_t powers;
    uint32_t steps;

    if (c.power >= KVL_ARENA_POWERS) {
        return KVL_ARENA_NONE;
    }
    steps = (uint32_t)bins->steps[c.power] & (~0u << c.step);
    if (steps == 0) {
        powers = bins->powers & (~0ull << c.power << 1);
        if (powers == 0) {
            return KVL_ARENA_NONE;
        }
        c.power = (uint32_t)__builtin_ctzll(powers);
        steps = bins->steps[c.power];
    }
    return bins->classes[c.power][__builtin_ctz(steps)];
}

/* class_for() rounds up, so a span that just fits may lie one class below. Without this look a
 * value of nearly the whole arena would not be taken although the arena is empty. */
static uint32_t find_exact(const struct kvl_arena *arena, enum kvl_arena_kind kind, uint32_t grains)
{
    struct size_class c = class_of(grains);
    uint32_t at = arena->bins[kind].classes[c.power][c.step];

    for (int looks = 0; at != KVL_ARENA_NONE && looks < 8; looks++) {
        if (arena->spans[at].grains >= grains) {
            return at;
        }
        at = arena->spans[at].next_free;
    }
    return KVL_ARENA_NONE;
}

/* Refusals cost speed or memory in a child, never correctness. */
static void advise(struct kvl_arena *arena)
{
    (void)madvise(arena->base, arena->range, MADV_DONTFORK);
    if (arena->bytes >= 16 * (uint64_t)HUGE_PAGE) {
        (void)madvise(arena->base, arena->range, MADV_HUGEPAGE);
    }
}

/* Addresses cost nothing. As many as possible up to four times the budget. */
static int map_range(struct kvl_arena *arena, uint64_t bytes)
{
    const uint64_t most = (uint64_t)UINT32_MAX * KVL_ARENA_GRAIN / PAGE * PAGE;
    const uint64_t wanted = bytes <= most / 4 ? bytes * 4 : most;
    void *base = MAP_FAILED;

    for (uint64_t range = wanted; base == MAP_FAILED && range >= bytes;
         range = range > bytes && range / 2 < bytes ? bytes : range / 2) {
        base = mmap(NULL, range, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        arena->range = range;
    }
    if (base == MAP_FAILED) {
        return -ENOMEM;
    }
    arena->base = base;
    arena->is_mapped = 1;
    advise(arena);
    return 0;
}

int kvl_arena_init(struct kvl_arena *arena, void *base, uint64_t bytes)
{
    uint32_t all;

    *arena = (struct kvl_arena){.unused = KVL_ARENA_NONE, .fd = -1};
    if ((uintptr_t)base % PAGE != 0 || bytes < PAGE || bytes / KVL_ARENA_GRAIN > UINT32_MAX) {
        return -EINVAL;
    }
    memset(arena->bins[0].classes, 0xff, sizeof(arena->bins[0].classes));
    memset(arena->bins[1].classes, 0xff, sizeof(arena->bins[1].classes));
    arena->base = base;
    arena->bytes = bytes;
    arena->range = bytes;
    if (base == NULL && map_range(arena, bytes) < 0) {
        return -ENOMEM;
    }
    all = new_record(arena);
    if (all == KVL_ARENA_NONE) {
        kvl_arena_fini(arena);
        return -ENOMEM;
    }
    arena->spans[all] = (struct kvl_arena_span){
        .grains = (uint32_t)(arena->range / KVL_ARENA_GRAIN),
        .before = KVL_ARENA_NONE,
        .after = KVL_ARENA_NONE,
    };
    /* The engine's memory is there already, whether we use it or not. */
    put_free(arena, all, arena->is_mapped ? KVL_ARENA_FRESH : KVL_ARENA_STALE);
    return 0;
}

void kvl_arena_fini(struct kvl_arena *arena)
{
    if (arena->is_mapped) {
        munmap(arena->base, arena->range);
    }
    if (arena->fd >= 0) {
        close(arena->fd);
    }
    free(arena->spans);
    *arena = (struct kvl_arena){.unused = KVL_ARENA_NONE, .fd = -1};
}

/* A peer gets this second descriptor: it cannot be made writable by mistake, and the size is fixed
 * for ever, so that no reader runs into a hole behind a shortened end. */
static int seal(int fd)
{
    const int seals = F_SEAL_SHRINK | F_SEAL_GROW;
    char path[32];
    int has = fcntl(fd, F_GET_SEALS);

    if (has < 0 || ((has & seals) != seals && fcntl(fd, F_ADD_SEALS, seals) < 0)) {
        return -ENOTSUP;
    }
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    return fd < 0 ? -ENOTSUP : fd;
}

static int share_engine_memory(struct kvl_arena *arena, int fd)
{
    struct stat stat;

    if (fd < 0 || fstat(fd, &stat) < 0 || (uint64_t)stat.st_size < arena->bytes) {
        return -ENOTSUP;
    }
    fd = seal(fd);
    arena->fd = fd < 0 ? -1 : fd;
    return fd < 0 ? fd : 0;
}

static int share_own_memory(struct kvl_arena *arena)
{
    int fd = memfd_create("kvlane-store", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    int reader = -ENOTSUP;

    if (fd >= 0 && ftruncate(fd, (off_t)arena->range) == 0) {
        reader = seal(fd);
    }
    if (reader >= 0 && mmap(arena->base, arena->range, PROT_READ | PROT_WRITE,
                            MAP_SHARED | MAP_FIXED | MAP_NORESERVE, fd, 0) == MAP_FAILED) {
        close(reader);
        reader = -ENOMEM;
    }
    if (fd >= 0) {
        close(fd);
    }
    if (reader < 0) {
        return reader;
    }
    arena->fd = reader;
    advise(arena);
    return 0;
}

int kvl_arena_share(struct kvl_arena *arena, int fd)
{
    if (arena->fd >= 0) {
        return 0;
    }
    if (arena->used > 0 || (arena->is_mapped && arena->stale > 0)) {
        return -EBUSY;
    }
    return arena->is_mapped ? share_own_memory(arena) : share_engine_memory(arena, fd);
}

/* Cuts what is too much off the end of a span and gives it back. */
static void split(struct kvl_arena *arena, uint32_t index, uint32_t grains,
                  enum kvl_arena_kind kind)
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
    put_free(arena, rest, kind);
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

/* Puts a span that is in no list among the free ones, joined with neighbours of its kind. */
static void release(struct kvl_arena *arena, uint32_t index, enum kvl_arena_kind kind)
{
    const struct kvl_arena_span *span = &arena->spans[index];

    if (span->after != KVL_ARENA_NONE && arena->spans[span->after].kind == kind) {
        take_free(arena, span->after);
        merge_after(arena, index);
    }
    if (span->before != KVL_ARENA_NONE && arena->spans[span->before].kind == kind) {
        index = span->before;
        take_free(arena, index);
        merge_after(arena, index);
    }
    put_free(arena, index, kind);
}

/* Gives the pages of a stale span back. The ends that share a page with a neighbour stay. */
static int purge(struct kvl_arena *arena, uint32_t index)
{
    const struct kvl_arena_span span = arena->spans[index];
    const uint64_t from = ((uint64_t)span.first * KVL_ARENA_GRAIN + PAGE - 1) / PAGE * PAGE;
    const uint64_t to = ((uint64_t)span.first + span.grains) * KVL_ARENA_GRAIN / PAGE * PAGE;

    /* Shared pages live in the memfd: only a hole in it gives them back. */
    const int advice = arena->fd >= 0 ? MADV_REMOVE : MADV_DONTNEED;

    if (to <= from || madvise(arena->base + from, to - from, advice) < 0) {
        return -EAGAIN;
    }
    if (arena->purges++ == 0) {
        /* Sizes are mixed: a huge page in a purged hole would bring back what was given up. */
        (void)madvise(arena->base, arena->range, MADV_NOHUGEPAGE);
    }
    take_free(arena, index);
    release(arena, index, KVL_ARENA_FRESH);
    return 0;
}

/* Largest first, until so many bytes of stale memory are left. */
static void purge_down_to(struct kvl_arena *arena, uint64_t left)
{
    struct kvl_arena_bins *stale = &arena->bins[KVL_ARENA_STALE];

    while (arena->is_mapped && arena->stale > left && stale->powers != 0) {
        const uint32_t power = 63u - (uint32_t)__builtin_clzll(stale->powers);
        const uint32_t step = 31u - (uint32_t)__builtin_clz(stale->steps[power]);

        if (purge(arena, stale->classes[power][step]) < 0) {
            return; /* smaller than a page, and so are the others */
        }
    }
}

/* Stale memory first: its pages are there. Else fresh addresses, for which others must go. */
static uint32_t find_span(struct kvl_arena *arena, uint32_t grains)
{
    const uint64_t bytes = (uint64_t)grains * KVL_ARENA_GRAIN;
    uint32_t index = find_free(&arena->bins[KVL_ARENA_STALE], grains);

    if (index == KVL_ARENA_NONE) {
        index = find_exact(arena, KVL_ARENA_STALE, grains);
    }
    if (index != KVL_ARENA_NONE || !arena->is_mapped) {
        return index;
    }
    purge_down_to(arena, arena->bytes - arena->used - bytes);
    index = find_free(&arena->bins[KVL_ARENA_FRESH], grains);
    if (index == KVL_ARENA_NONE) {
        index = find_exact(arena, KVL_ARENA_FRESH, grains);
    }
    if (index == KVL_ARENA_NONE && arena->stale > 0) {
        purge_down_to(arena, 0); /* joins what is free to longer spans */
        index = find_free(&arena->bins[KVL_ARENA_FRESH], grains);
    }
    return index;
}

void *kvl_arena_alloc(struct kvl_arena *arena, uint64_t bytes, uint32_t *span_out)
{
    uint64_t grains = (bytes + KVL_ARENA_GRAIN - 1) / KVL_ARENA_GRAIN;
    enum kvl_arena_kind kind;
    uint32_t index;

    if (bytes == 0 || bytes > arena->bytes || grains > UINT32_MAX ||
        arena->used + grains * KVL_ARENA_GRAIN > arena->bytes) {
        return NULL;
    }
    index = find_span(arena, (uint32_t)grains);
    if (index == KVL_ARENA_NONE) {
        return NULL;
    }
    kind = (enum kvl_arena_kind)arena->spans[index].kind;
    take_free(arena, index);
    split(arena, index, (uint32_t)grains, kind);
    arena->used += (uint64_t)arena->spans[index].grains * KVL_ARENA_GRAIN;
    *span_out = index;
    return arena->base + (uint64_t)arena->spans[index].first * KVL_ARENA_GRAIN;
}

void kvl_arena_free(struct kvl_arena *arena, uint32_t index)
{
    const struct kvl_arena_span *span = &arena->spans[index];

    assert(index < arena->span_count && span->kind == KVL_ARENA_USED && span->grains > 0);
    arena->used -= (uint64_t)span->grains * KVL_ARENA_GRAIN;
    release(arena, index, KVL_ARENA_STALE);
}

static int lists_are_sound(const struct kvl_arena *arena, uint32_t kind, uint32_t *count)
{
    for (uint32_t power = 0; power < KVL_ARENA_POWERS; power++) {
        for (uint32_t step = 0; step < KVL_ARENA_STEPS; step++) {
            uint32_t prev = KVL_ARENA_NONE;

            for (uint32_t at = arena->bins[kind].classes[power][step]; at != KVL_ARENA_NONE;
                 at = arena->spans[at].next_free) {
                struct size_class c = class_of(arena->spans[at].grains);

                if (arena->spans[at].kind != kind || arena->spans[at].prev_free != prev ||
                    c.power != power || c.step != step) {
                    return 0;
                }
                prev = at;
                ++*count;
            }
        }
    }
    return 1;
}

int kvl_arena_is_sound(const struct kvl_arena *arena)
{
    uint64_t bytes[3] = {0};
    uint64_t grains = 0;
    uint32_t free_in_memory = 0;
    uint32_t free_in_lists = 0;
    uint32_t last = KVL_ARENA_USED;
    uint32_t at = 0;

    while (arena->spans[at].before != KVL_ARENA_NONE) {
        at = arena->spans[at].before;
    }
    for (; at != KVL_ARENA_NONE; at = arena->spans[at].after) {
        const struct kvl_arena_span *span = &arena->spans[at];

        if (span->first != grains || span->grains == 0 || span->kind > KVL_ARENA_USED ||
            (span->kind != KVL_ARENA_USED && span->kind == last)) {
            return 0;
        }
        grains += span->grains;
        free_in_memory += span->kind != KVL_ARENA_USED;
        bytes[span->kind] += (uint64_t)span->grains * KVL_ARENA_GRAIN;
        last = span->kind;
    }
    return lists_are_sound(arena, KVL_ARENA_STALE, &free_in_lists) &&
           lists_are_sound(arena, KVL_ARENA_FRESH, &free_in_lists) &&
           grains == arena->range / KVL_ARENA_GRAIN && bytes[KVL_ARENA_USED] == arena->used &&
           bytes[KVL_ARENA_STALE] == arena->stale && free_in_lists == free_in_memory;
}
