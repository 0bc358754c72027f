/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda_ipc_args.h"

/* Warps that find nothing to do cost little, but not nothing. */
#define UNITS_MAX (1u << 20)
/* A thread may look at vectors beyond the end, by less than a tile. */
#define VECS_MOST (CUDA_IPC_VECS_MAX - CUDA_IPC_TILE)

struct cuda_ipc_divisor cuda_ipc_divisor_make(uint32_t value)
{
    struct cuda_ipc_divisor divisor = {.value = value};

    while ((1ull << divisor.shift) < value) {
        divisor.shift++;
    }
    divisor.mul = (uint32_t)((((1ull << divisor.shift) - value) << 32) / value + 1);
    return divisor;
}

void cuda_ipc_paged_init(struct cuda_ipc_paged_args *args, const struct cuda_ipc_layout *layout,
                         uint32_t width, uint64_t bases, uint64_t ids)
{
    const bool is_dense = layout->token_stride == layout->token_bytes;
    uint64_t run = layout->token_bytes * (is_dense ? layout->block_tokens : 1) / width;

    if (run > CUDA_IPC_VECS_MAX) {
        run = CUDA_IPC_VECS_MAX; /* no slab is that long */
    }
    args->bases = bases;
    args->ids = ids;
    args->block_stride = layout->block_stride;
    args->run_stride = layout->token_stride;
    args->run = cuda_ipc_divisor_make((uint32_t)run);
    args->block = cuda_ipc_divisor_make(is_dense ? 1 : layout->block_tokens);
    args->span_count = 0;
    args->slab_count = 0;
    args->tiles = 0;
    args->reserved = 0;
}

bool cuda_ipc_paged_fits(const struct cuda_ipc_layout *layout, uint32_t width,
                         const uint64_t *bytes, uint32_t count)
{
    const uint64_t slabs = (uint64_t)layout->planes * layout->layers;

    if (layout->block_tokens > CUDA_IPC_VECS_MAX) {
        return false;
    }
    for (uint32_t i = 0; i < count; i++) {
        if (bytes[i] / slabs / width >= VECS_MOST ||
            bytes[i] / width / CUDA_IPC_TILE >= UINT32_MAX) {
            return false;
        }
    }
    return true;
}

static uint32_t max_of(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

bool cuda_ipc_paged_add(struct cuda_ipc_paged_args *args, uint32_t width,
                        const struct cuda_ipc_paged_chunk *chunk, uint64_t whole,
                        struct cuda_ipc_span *span)
{
    while (span->bytes > 0) {
        const uint64_t in_slab = span->offset % chunk->slab;
        uint64_t bytes = chunk->slab - in_slab;
        uint64_t slabs = 1;
        uint32_t tiles;

        if (bytes > span->bytes) {
            bytes = span->bytes;
        }
        if (bytes == chunk->slab) {
            slabs = span->bytes / chunk->slab;
        }
        tiles = max_of(args->tiles, (uint32_t)((bytes / width - 1) / CUDA_IPC_TILE + 1));
        if (args->span_count == CUDA_IPC_KERNEL_SPANS ||
            (args->span_count > 0 &&
             (uint64_t)tiles * (args->span_count + 1) * max_of(args->slab_count, (uint32_t)slabs) >=
                 CUDA_IPC_VECS_MAX)) {
            return false;
        }
        args->tiles = tiles;
        args->slab_count = max_of(args->slab_count, (uint32_t)slabs);
        args->spans[args->span_count++] = (struct cuda_ipc_kernel_span){
            .addr = whole + span->offset,
            .slab_first = (uint32_t)(span->offset / chunk->slab),
            .slab_count = (uint32_t)slabs,
            .vec_first = (uint32_t)(in_slab / width),
            .vecs = (uint32_t)(bytes / width),
            .id_first = chunk->id_first,
        };
        span->offset += bytes * slabs;
        span->bytes -= bytes * slabs;
    }
    return true;
}

uint32_t cuda_ipc_paged_tiles(const struct cuda_ipc_paged_args *args)
{
    return args->tiles * args->span_count * args->slab_count;
}

void cuda_ipc_run_take(struct cuda_ipc_piece *piece, uint32_t width,
                       struct cuda_ipc_kernel_run *run_out)
{
    uint64_t row = piece->bytes / width;
    uint64_t rows = 1;

    if (row > VECS_MOST) {
        row = VECS_MOST; /* only single rows are that long, see plan_meet() */
    } else {
        rows = piece->rows < VECS_MOST / row ? piece->rows : VECS_MOST / row;
    }
    *run_out = (struct cuda_ipc_kernel_run){
        .dst = piece->dst,
        .src = piece->src,
        .dst_pitch = piece->dst_pitch,
        .src_pitch = piece->src_pitch,
        .vecs = (uint32_t)(row * rows),
        .row = cuda_ipc_divisor_make((uint32_t)row),
    };
    if (row * width < piece->bytes) {
        piece->dst += row * width;
        piece->src += row * width;
        piece->bytes -= row * width;
    } else {
        piece->dst += rows * piece->dst_pitch;
        piece->src += rows * piece->src_pitch;
        piece->rows -= rows;
    }
}

uint32_t cuda_ipc_runs_split(uint32_t count, uint32_t vecs_max)
{
    const uint32_t tiles = (vecs_max - 1) / CUDA_IPC_TILE + 1;
    const uint32_t most = count < UNITS_MAX ? UNITS_MAX / count : 1;

    return tiles < most ? tiles : most;
}
