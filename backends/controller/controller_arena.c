/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>

#include "controller_wire.h"

/* Under the address sanitizer memory is out of bounds until it is taken, and after a reset. */
#ifndef __has_feature
#define __has_feature(feature) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(at, bytes) ((void)(at), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(at, bytes) ((void)(at), (void)(bytes))
#endif

#define ARENA_FIRST_BYTES (64u << 10)
#define ARENA_KEPT_BYTES (8u << 20) /* more than this is given back after the message */
#define ARENA_ALIGN (_Alignof(max_align_t))

struct arena_block {
    struct arena_block *next;
    size_t room;
    _Alignas(max_align_t) uint8_t bytes[];
};

struct controller_arena {
    struct arena_block *blocks; /* newest first; only that one has room */
    size_t used; /* of the newest */
    size_t total; /* room of all */
};

int controller_arena_create(struct controller_arena **arena_out)
{
    struct controller_arena *arena = calloc(1, sizeof(*arena));

    if (arena == NULL) {
        return -ENOMEM;
    }
    *arena_out = arena;
    return 0;
}

static void arena_free_blocks(struct controller_arena *arena)
{
    struct arena_block *next;

    for (struct arena_block *block = arena->blocks; block != NULL; block = next) {
        next = block->next;
        free(block);
    }
    arena->blocks = NULL;
}

void controller_arena_destroy(struct controller_arena *arena)
{
    if (arena != NULL) {
        arena_free_blocks(arena);
        free(arena);
    }
}

void controller_arena_reset(struct controller_arena *arena)
{
    arena->used = 0;
    if (arena->total > ARENA_KEPT_BYTES) {
        arena_free_blocks(arena);
        arena->total = 0;
    } else if (arena->blocks != NULL && arena->blocks->next != NULL) {
        /* `total` stays, so the next block is as large as all of them were */
        arena_free_blocks(arena);
    } else if (arena->blocks != NULL) {
        ASAN_POISON_MEMORY_REGION(arena->blocks->bytes, arena->blocks->room);
    }
}

static int arena_grow(struct controller_arena *arena, size_t bytes)
{
    size_t room = arena->total > ARENA_FIRST_BYTES ? arena->total : ARENA_FIRST_BYTES;
    struct arena_block *block;

    room = bytes > room ? bytes : room;
    block = malloc(sizeof(*block) + room);
    if (block == NULL) {
        return -ENOMEM;
    }
    ASAN_POISON_MEMORY_REGION(block->bytes, room);
    arena->total = arena->blocks == NULL ? room : arena->total + room;
    block->next = arena->blocks;
    block->room = room;
    arena->blocks = block;
    arena->used = 0;
    return 0;
}

void *controller_arena_take(struct controller_arena *arena, size_t bytes)
{
    const size_t whole = (bytes + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
    uint8_t *at;

    if (whole < bytes || whole > SIZE_MAX / 2) {
        return NULL;
    }
    if (arena->blocks == NULL || arena->blocks->room - arena->used < whole) {
        if (arena_grow(arena, whole) < 0) {
            return NULL;
        }
    }
    at = arena->blocks->bytes + arena->used;
    ASAN_UNPOISON_MEMORY_REGION(at, bytes);
    arena->used += whole;
    return at;
}
