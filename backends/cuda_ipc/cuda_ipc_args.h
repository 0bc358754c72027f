/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cuda_ipc_args.h
 * From spans and pieces to the arguments of kernels. Pure functions.
 */
#ifndef KVL_CUDA_IPC_ARGS_H
#define KVL_CUDA_IPC_ARGS_H

#include "cuda_ipc_kernel.h"
#include "cuda_ipc_plan.h"

/** @param value  1 .. 2^31 */
struct cuda_ipc_divisor cuda_ipc_divisor_make(uint32_t value);

/**
 * Empty arguments for a layout.
 * @param width   of a vector: 16, 8, 4 or 1; divides bases, strides and token_bytes
 * @param bases   address, on the device, of the layout's bases
 * @param ids     address, on the device, of the block tables
 */
void cuda_ipc_paged_init(struct cuda_ipc_paged_args *args, const struct cuda_ipc_layout *layout,
                         uint32_t width, uint64_t bases, uint64_t ids);

/** Whether chunks of these sizes can be given to the kernel at all. */
bool cuda_ipc_paged_fits(const struct cuda_ipc_layout *layout, uint32_t width,
                         const uint64_t *bytes, uint32_t count);

/** A chunk as paged_add wants to know it. */
struct cuda_ipc_paged_chunk {
    uint64_t slab; /* bytes */
    uint32_t id_first; /* where its block table begins in `ids` */
};

/**
 * Adds a span, or its first part.
 * @param whole  address of the chunk where it lies without gaps; plus an offset it may wrap around
 * @param span   shortened by what was added
 * @return true when all of it was added; false: the arguments are full, launch them first.
 */
bool cuda_ipc_paged_add(struct cuda_ipc_paged_args *args, uint32_t width,
                        const struct cuda_ipc_paged_chunk *chunk, uint64_t whole,
                        struct cuda_ipc_span *span);

/** Tiles of a launch, those that turn out empty included. */
uint32_t cuda_ipc_paged_tiles(const struct cuda_ipc_paged_args *args);

/** Takes a run, as large as the kernel can have it, off a piece; 0 rows left = done. */
void cuda_ipc_run_take(struct cuda_ipc_piece *piece, uint32_t width,
                       struct cuda_ipc_kernel_run *run_out);

/** How many warps to put on each run. @param vecs_max  of the longest of them */
uint32_t cuda_ipc_runs_split(uint32_t count, uint32_t vecs_max);

/** The width that a kernel exists for: 16, 8, 4, else 1. */
static inline uint32_t cuda_ipc_width(uint32_t alignment)
{
    return alignment == 2 ? 1 : alignment;
}

#endif /* KVL_CUDA_IPC_ARGS_H */
