/* SPDX-License-Identifier: Apache-2.0 */
#include "sides.h"

#include <assert.h>
#include <string.h>

uint32_t sides_random(uint64_t *seed, uint32_t below)
{
    *seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(*seed >> 33) % below;
}

void sides_fill(uint64_t *seed, void *bytes, size_t length)
{
    uint8_t *at = bytes;

    for (size_t i = 0; i < length; i++) {
        at[i] = (uint8_t)sides_random(seed, 256);
    }
}

static uint64_t arena_take(struct sides_arena *arena, uint64_t bytes, uint32_t align,
                           uint64_t *seed)
{
    const uint64_t gap = (uint64_t)sides_random(seed, 5) * align;
    const uint64_t at = (arena->base + arena->used + gap + align - 1) / align * align;

    arena->used = at + bytes - arena->base;
    assert(arena->used <= arena->size);
    return at;
}

void sides_shape_make(struct sides_shape *shape, uint32_t align, uint64_t *seed)
{
    *shape = (struct sides_shape){
        .count = 1 + sides_random(seed, SIDES_CHUNKS),
        .planes = 1 + sides_random(seed, 2),
        .layers = 1 + sides_random(seed, 5),
        .align = align,
        .token_bytes = (uint64_t)align * (1 + sides_random(seed, 9)),
    };
    for (uint32_t i = 0; i < shape->count; i++) {
        const uint64_t tokens = i > 0 && sides_random(seed, 2) == 0 ? 1 + sides_random(seed, 16)
                                                                    : 4 + sides_random(seed, 9);

        shape->bytes[i] = shape->planes * shape->layers * tokens * shape->token_bytes;
    }
}

/* ---- paged ---- */

static void paged_strides(struct cuda_ipc_layout *layout, uint32_t align, uint64_t *seed)
{
    const uint64_t pad = (uint64_t)align * sides_random(seed, 3);
    uint64_t block;

    layout->token_stride = layout->token_bytes + pad * sides_random(seed, 2);
    block = (layout->block_tokens - 1) * layout->token_stride + layout->token_bytes;
    layout->block_stride = block + (uint64_t)align * sides_random(seed, 4);
    if (sides_random(seed, 6) == 0) {
        /* token 0 of all blocks, then token 1 of all blocks, .. */
        layout->block_stride = layout->token_bytes + pad;
        layout->token_stride =
            layout->block_count * layout->block_stride + (uint64_t)align * sides_random(seed, 2);
    }
}

static void paged_bases(struct sides *sides, struct sides_arena *arena, uint32_t align,
                        uint64_t *seed)
{
    struct cuda_ipc_layout *layout = &sides->layout;
    const uint32_t slabs = layout->planes * layout->layers;
    const uint64_t block = (layout->block_tokens - 1) * layout->token_stride + layout->token_bytes;

    if (layout->block_stride >= block && sides_random(seed, 3) == 0) {
        /* the layers of a block side by side */
        const uint64_t step = layout->block_stride;

        layout->block_stride = step * slabs;
        sides->bases[0] =
            arena_take(arena, layout->block_stride * layout->block_count, align, seed);
        for (uint32_t i = 1; i < slabs; i++) {
            sides->bases[i] = sides->bases[0] + i * step;
        }
        return;
    }
    for (uint32_t i = 0; i < slabs; i++) {
        sides->bases[i] = arena_take(arena, cuda_ipc_layout_extent(layout), align, seed);
    }
}

static void paged_make(struct sides *sides, const struct sides_shape *shape,
                       struct sides_arena *arena, int skips, uint64_t *seed)
{
    struct cuda_ipc_layout *layout = &sides->layout;
    uint32_t used = 0;

    *layout = (struct cuda_ipc_layout){
        .layers = shape->layers,
        .planes = shape->planes,
        .block_tokens = 1 + sides_random(seed, 7),
        .token_bytes = shape->token_bytes,
        .bases = sides->bases,
    };
    for (uint32_t i = 0; i < shape->count; i++) {
        const uint64_t tokens =
            shape->bytes[i] / (shape->planes * shape->layers * shape->token_bytes);

        sides->block_first[i] = used;
        used += (uint32_t)((tokens + layout->block_tokens - 1) / layout->block_tokens);
    }
    sides->block_first[shape->count] = used;
    assert(used <= SIDES_BLOCKS);
    layout->block_count = used + sides_random(seed, 4);
    paged_strides(layout, shape->align, seed);
    paged_bases(sides, arena, shape->align, seed);

    /* a permutation, so that no block is there twice; often neighbours stay neighbours */
    for (uint32_t i = 0; i < used; i++) {
        sides->blocks[i] = i + (layout->block_count - used);
    }
    for (uint32_t n = sides_random(seed, 2) * used; n > 0; n--) {
        const uint32_t a = sides_random(seed, used);
        const uint32_t b = sides_random(seed, used);
        const uint32_t id = sides->blocks[a];

        sides->blocks[a] = sides->blocks[b];
        sides->blocks[b] = id;
    }
    for (uint32_t i = 0; skips && i < used; i++) {
        if (sides_random(seed, 4) == 0) {
            sides->blocks[i] = KVL_BLOCK_SKIP;
        }
    }
    sides->side.layout = layout;
    sides->side.blocks = sides->blocks;
    sides->side.block_first = sides->block_first;
}

/* ---- runs ---- */

static struct kvl_sg run_make(uint64_t units, uint32_t align, struct sides_arena *arena,
                              uint64_t *seed)
{
    struct kvl_sg sg = {.mem = KVL_MEM_CUDA, .count = 1 + sides_random(seed, 5)};

    if (units % sg.count != 0) {
        sg.count = 1;
    }
    sg.length = units / sg.count * align;
    sg.stride = sg.count == 1 ? sides_random(seed, 9) : sg.length + align * sides_random(seed, 3);
    sg.addr = arena_take(arena, sg.count == 1 ? sg.length : sg.count * sg.stride, align, seed);
    return sg;
}

static void runs_make(struct sides *sides, const struct sides_shape *shape,
                      struct sides_arena *arena, uint64_t *seed)
{
    uint32_t used = 0;

    for (uint32_t i = 0; i < shape->count; i++) {
        uint64_t units = shape->bytes[i] / shape->align;

        sides->sg_first[i] = used;
        for (uint32_t n = sides_random(seed, 8); units > 0; n--) {
            const uint64_t take = n == 0 ? units : 1 + sides_random(seed, (uint32_t)units);

            if (sides_random(seed, 9) == 0) {
                sides->sg[used++] = (struct kvl_sg){.mem = KVL_MEM_CUDA, .addr = 1, .count = 3};
            }
            sides->sg[used++] = run_make(take, shape->align, arena, seed);
            units -= take;
            if (n == 0) {
                break;
            }
        }
    }
    assert(used <= SIDES_RUNS);
    sides->sg_first[shape->count] = used;
    sides->side.sg = sides->sg;
    sides->side.sg_first = sides->sg_first;
}

void sides_make(struct sides *sides, enum cuda_ipc_side_kind kind, const struct sides_shape *shape,
                struct sides_arena *arena, int skips, uint64_t *seed)
{
    memset(sides, 0, sizeof(*sides));
    sides->side.kind = kind;
    if (kind == CUDA_IPC_SIDE_PAGED) {
        paged_make(sides, shape, arena, skips, seed);
    } else if (kind == CUDA_IPC_SIDE_RUNS) {
        runs_make(sides, shape, arena, seed);
    } else {
        for (uint32_t i = 0; i < shape->count; i++) {
            sides->addrs[i] = arena_take(arena, shape->bytes[i], shape->align, seed);
        }
        sides->side.addrs = sides->addrs;
    }
}

/* ---- the reference ---- */

static uint64_t paged_address(const struct sides *sides, const struct sides_shape *shape,
                              uint32_t chunk, uint64_t offset)
{
    const struct cuda_ipc_layout *l = &sides->layout;
    const uint64_t tokens =
        shape->bytes[chunk] / ((uint64_t)l->planes * l->layers * l->token_bytes);
    const uint64_t byte = offset % l->token_bytes;
    const uint64_t token = offset / l->token_bytes % tokens;
    const uint64_t slab = offset / l->token_bytes / tokens;
    const uint32_t id = sides->blocks[sides->block_first[chunk] + token / l->block_tokens];

    return id == KVL_BLOCK_SKIP ? 0
                                : l->bases[slab] + id * l->block_stride +
                                      token % l->block_tokens * l->token_stride + byte;
}

static uint64_t runs_address(const struct sides *sides, uint32_t chunk, uint64_t offset)
{
    for (uint32_t i = sides->sg_first[chunk]; i < sides->sg_first[chunk + 1]; i++) {
        const struct kvl_sg *sg = &sides->sg[i];

        if (offset < sg->length * sg->count) {
            return sg->addr + offset / sg->length * sg->stride + offset % sg->length;
        }
        offset -= sg->length * sg->count;
    }
    return 0;
}

uint64_t sides_address(const struct sides *sides, const struct sides_shape *shape, uint32_t chunk,
                       uint64_t offset)
{
    switch (sides->side.kind) {
    case CUDA_IPC_SIDE_PAGED:
        return paged_address(sides, shape, chunk, offset);
    case CUDA_IPC_SIDE_RUNS:
        return runs_address(sides, chunk, offset);
    default:
        return sides->addrs[chunk] + offset;
    }
}

void sides_copy(const struct sides_shape *shape, const struct sides *dst, uint8_t *dst_image,
                uint64_t dst_base, const struct sides *src, const uint8_t *src_image,
                uint64_t src_base)
{
    for (uint32_t chunk = 0; chunk < shape->count; chunk++) {
        for (uint64_t i = 0; i < shape->bytes[chunk]; i++) {
            const uint64_t to = sides_address(dst, shape, chunk, i);
            const uint64_t from = sides_address(src, shape, chunk, i);

            if (to != 0 && from != 0) {
                dst_image[to - dst_base] = src_image[from - src_base];
            }
        }
    }
}
