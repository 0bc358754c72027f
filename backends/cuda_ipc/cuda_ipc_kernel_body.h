/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cuda_ipc_kernel_body.h
 * What one thread of a kernel does. The same text is compiled by nvcc for the device and by the C
 * compiler for tests, so it keeps to what both understand. Whoever includes it defines
 *
 *   CUDA_IPC_DEVICE                            how functions are declared
 *   CUDA_IPC_UNROLLED                          before loops of CUDA_IPC_UNROLL rounds
 *   struct cuda_ipc_vec                        holds 16 bytes
 *   cuda_ipc_kernel_load(addr, width, is)      reads a vector if `is`, else gives one of zeros
 *   cuda_ipc_kernel_store(addr, width, vec)    writes one
 *   cuda_ipc_kernel_u32(addr), .._u64(addr)    read tables
 */
#ifndef KVL_CUDA_IPC_KERNEL_BODY_H
#define KVL_CUDA_IPC_KERNEL_BODY_H

#include <stdbool.h>

#include "cuda_ipc_kernel.h"

CUDA_IPC_DEVICE uint32_t cuda_ipc_kernel_divide(uint32_t n, const struct cuda_ipc_divisor *by)
{
    return ((uint32_t)(((uint64_t)n * by->mul) >> 32) + n) >> by->shift;
}

/* Vectors that lie together on both sides, one tile of them. All loads are under way before the
 * first store. `width` is a constant wherever this is used, as `is_scatter` below. */
CUDA_IPC_DEVICE void cuda_ipc_kernel_stretch(uint64_t dst, uint64_t src, uint32_t count,
                                             uint32_t lane, uint32_t width)
{
    struct cuda_ipc_vec vec[CUDA_IPC_UNROLL];

    dst += lane * width;
    src += lane * width;
    CUDA_IPC_UNROLLED
    for (uint32_t i = 0; i < CUDA_IPC_UNROLL; i++) {
        vec[i] = cuda_ipc_kernel_load(src + i * CUDA_IPC_WARP * width, width,
                                      lane + i * CUDA_IPC_WARP < count);
    }
    CUDA_IPC_UNROLLED
    for (uint32_t i = 0; i < CUDA_IPC_UNROLL; i++) {
        if (lane + i * CUDA_IPC_WARP < count) {
            cuda_ipc_kernel_store(dst + i * CUDA_IPC_WARP * width, width, vec[i]);
        }
    }
}

CUDA_IPC_DEVICE uint32_t cuda_ipc_paged_id(const struct cuda_ipc_paged_args *args,
                                           const struct cuda_ipc_kernel_span *span, uint32_t run)
{
    const uint32_t block = cuda_ipc_kernel_divide(run, &args->block);

    return cuda_ipc_kernel_u32(args->ids + 4ull * (span->id_first + block));
}

/* Where a vector of a slab is, from the start of the slab's cache on. */
CUDA_IPC_DEVICE uint64_t cuda_ipc_paged_offset(const struct cuda_ipc_paged_args *args, uint32_t id,
                                               uint32_t run, uint32_t vec, uint32_t width)
{
    const uint32_t block = cuda_ipc_kernel_divide(run, &args->block);

    return id * args->block_stride + (run - block * args->block.value) * args->run_stride +
           (uint64_t)(vec - run * args->run.value) * width;
}

/* A tile that several runs share: each vector finds its own. Half as many at once, because each
 * needs an address of its own. */
CUDA_IPC_DEVICE void cuda_ipc_paged_mixed(const struct cuda_ipc_paged_args *args,
                                          const struct cuda_ipc_kernel_span *span, uint64_t base,
                                          uint64_t chunk, uint32_t first, uint32_t width,
                                          bool is_scatter)
{
    uint32_t ids[CUDA_IPC_UNROLL / 2];
    struct cuda_ipc_vec vec[CUDA_IPC_UNROLL / 2];

    CUDA_IPC_UNROLLED
    for (uint32_t i = 0; i < CUDA_IPC_UNROLL / 2; i++) {
        const uint32_t at = first + i * CUDA_IPC_WARP;

        ids[i] = 0xffffffffu;
        if (at < span->vecs) {
            ids[i] = cuda_ipc_paged_id(args, span,
                                       cuda_ipc_kernel_divide(span->vec_first + at, &args->run));
        }
    }
    CUDA_IPC_UNROLLED
    for (uint32_t i = 0; i < CUDA_IPC_UNROLL / 2; i++) {
        const uint32_t at = first + i * CUDA_IPC_WARP;
        const uint32_t run = cuda_ipc_kernel_divide(span->vec_first + at, &args->run);

        vec[i] = cuda_ipc_kernel_load(
            is_scatter
                ? chunk + (uint64_t)at * width
                : base + cuda_ipc_paged_offset(args, ids[i], run, span->vec_first + at, width),
            width, ids[i] != 0xffffffffu);
    }
    CUDA_IPC_UNROLLED
    for (uint32_t i = 0; i < CUDA_IPC_UNROLL / 2; i++) {
        const uint32_t at = first + i * CUDA_IPC_WARP;
        const uint32_t run = cuda_ipc_kernel_divide(span->vec_first + at, &args->run);

        if (ids[i] != 0xffffffffu) {
            cuda_ipc_kernel_store(
                is_scatter
                    ? base + cuda_ipc_paged_offset(args, ids[i], run, span->vec_first + at, width)
                    : chunk + (uint64_t)at * width,
                width, vec[i]);
        }
    }
}

CUDA_IPC_DEVICE void cuda_ipc_paged_tile(const struct cuda_ipc_paged_args *args,
                                         const struct cuda_ipc_kernel_span *span, uint32_t slab,
                                         uint32_t first, uint32_t lane, uint32_t width,
                                         bool is_scatter)
{
    const uint64_t base = cuda_ipc_kernel_u64(args->bases + 8ull * (span->slab_first + slab));
    const uint64_t chunk = span->addr + (uint64_t)slab * span->vecs * width;
    const uint32_t left = span->vecs - first;
    const uint32_t count = left < CUDA_IPC_TILE ? left : CUDA_IPC_TILE;
    const uint32_t in_slab = span->vec_first + first;
    const uint32_t run = cuda_ipc_kernel_divide(in_slab, &args->run);

    if (run == cuda_ipc_kernel_divide(in_slab + count - 1, &args->run)) {
        const uint32_t id = cuda_ipc_paged_id(args, span, run);
        const uint64_t page = base + cuda_ipc_paged_offset(args, id, run, in_slab, width);
        const uint64_t whole = chunk + (uint64_t)first * width;

        if (id != 0xffffffffu) {
            cuda_ipc_kernel_stretch(is_scatter ? page : whole, is_scatter ? whole : page, count,
                                    lane, width);
        }
        return;
    }
    for (uint32_t half = 0; half < CUDA_IPC_TILE; half += CUDA_IPC_TILE / 2) {
        cuda_ipc_paged_mixed(args, span, base, chunk, first + half + lane, width, is_scatter);
    }
}

/* Tiles in the order slab, span, tile: the slabs of a plane end in their order. */
CUDA_IPC_DEVICE void cuda_ipc_paged_thread(const struct cuda_ipc_paged_args *args, uint32_t block,
                                           uint32_t blocks, uint32_t thread, uint32_t width,
                                           bool is_scatter)
{
    const uint32_t total = args->tiles * args->span_count * args->slab_count;
    const uint32_t lane = thread % CUDA_IPC_WARP;

    for (uint32_t at = block * CUDA_IPC_WARPS + thread / CUDA_IPC_WARP; at < total;
         at += blocks * CUDA_IPC_WARPS) {
        const uint32_t rest = at / args->tiles;
        const uint32_t first = (at - rest * args->tiles) * CUDA_IPC_TILE;
        const uint32_t slab = rest / args->span_count;
        const struct cuda_ipc_kernel_span *span = &args->spans[rest - slab * args->span_count];

        if (slab < span->slab_count && first < span->vecs) {
            cuda_ipc_paged_tile(args, span, slab, first, lane, width, is_scatter);
        }
    }
}

/* As cuda_ipc_paged_mixed. */
CUDA_IPC_DEVICE void cuda_ipc_runs_mixed(const struct cuda_ipc_kernel_run *run, uint32_t first,
                                         uint32_t width)
{
    struct cuda_ipc_vec vec[CUDA_IPC_UNROLL / 2];

    CUDA_IPC_UNROLLED
    for (uint32_t i = 0; i < CUDA_IPC_UNROLL / 2; i++) {
        const uint32_t at = first + i * CUDA_IPC_WARP;
        const uint32_t row = cuda_ipc_kernel_divide(at, &run->row);

        vec[i] = cuda_ipc_kernel_load(run->src + row * run->src_pitch +
                                          (uint64_t)(at - row * run->row.value) * width,
                                      width, at < run->vecs);
    }
    CUDA_IPC_UNROLLED
    for (uint32_t i = 0; i < CUDA_IPC_UNROLL / 2; i++) {
        const uint32_t at = first + i * CUDA_IPC_WARP;
        const uint32_t row = cuda_ipc_kernel_divide(at, &run->row);

        if (at < run->vecs) {
            cuda_ipc_kernel_store(run->dst + row * run->dst_pitch +
                                      (uint64_t)(at - row * run->row.value) * width,
                                  width, vec[i]);
        }
    }
}

CUDA_IPC_DEVICE void cuda_ipc_runs_tile(const struct cuda_ipc_kernel_run *run, uint32_t first,
                                        uint32_t lane, uint32_t width)
{
    const uint32_t left = run->vecs - first;
    const uint32_t count = left < CUDA_IPC_TILE ? left : CUDA_IPC_TILE;
    const uint32_t row = cuda_ipc_kernel_divide(first, &run->row);
    const uint64_t in_row = (uint64_t)(first - row * run->row.value) * width;

    if (row == cuda_ipc_kernel_divide(first + count - 1, &run->row)) {
        cuda_ipc_kernel_stretch(run->dst + row * run->dst_pitch + in_row,
                                run->src + row * run->src_pitch + in_row, count, lane, width);
        return;
    }
    for (uint32_t half = 0; half < CUDA_IPC_TILE; half += CUDA_IPC_TILE / 2) {
        cuda_ipc_runs_mixed(run, first + half + lane, width);
    }
}

CUDA_IPC_DEVICE struct cuda_ipc_kernel_run cuda_ipc_kernel_run_at(uint64_t addr)
{
    struct cuda_ipc_kernel_run run;

    run.dst = cuda_ipc_kernel_u64(addr);
    run.src = cuda_ipc_kernel_u64(addr + 8);
    run.dst_pitch = cuda_ipc_kernel_u64(addr + 16);
    run.src_pitch = cuda_ipc_kernel_u64(addr + 24);
    run.vecs = cuda_ipc_kernel_u32(addr + 32);
    run.row.value = cuda_ipc_kernel_u32(addr + 36);
    run.row.mul = cuda_ipc_kernel_u32(addr + 40);
    run.row.shift = cuda_ipc_kernel_u32(addr + 44);
    return run;
}

CUDA_IPC_DEVICE void cuda_ipc_runs_thread(const struct cuda_ipc_runs_args *args, uint32_t block,
                                          uint32_t blocks, uint32_t thread, uint32_t width)
{
    const uint32_t total = args->count * args->split;
    const uint32_t lane = thread % CUDA_IPC_WARP;

    for (uint32_t at = block * CUDA_IPC_WARPS + thread / CUDA_IPC_WARP; at < total;
         at += blocks * CUDA_IPC_WARPS) {
        const uint32_t index = at / args->split;
        const struct cuda_ipc_kernel_run run =
            cuda_ipc_kernel_run_at(args->runs + (uint64_t)index * sizeof(run));

        for (uint32_t tile = at - index * args->split; tile < (run.vecs - 1) / CUDA_IPC_TILE + 1;
             tile += args->split) {
            cuda_ipc_runs_tile(&run, tile * CUDA_IPC_TILE, lane, width);
        }
    }
}

#endif /* KVL_CUDA_IPC_KERNEL_BODY_H */
