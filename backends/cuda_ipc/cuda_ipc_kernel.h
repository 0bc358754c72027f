/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cuda_ipc_kernel.h
 * What the kernels are called and what they take. Read by the C compiler and by nvcc, so it keeps
 * to what C and C++ have in common.
 *
 * A warp copies tiles of CUDA_IPC_TILE vectors; a vector is 16, 8, 4 or 1 byte, which every
 * address, stride and length of a launch is a multiple of. All loads of a tile are issued before
 * its stores. The grid may have any number of blocks: warps go on with the next tiles until none
 * is left.
 */
#ifndef KVL_CUDA_IPC_KERNEL_H
#define KVL_CUDA_IPC_KERNEL_H

#include <stdint.h>

#define CUDA_IPC_WARP 32u
#define CUDA_IPC_UNROLL 8u /* vectors that a thread has in flight */
#define CUDA_IPC_TILE (CUDA_IPC_WARP * CUDA_IPC_UNROLL)
#define CUDA_IPC_THREADS 256u /* of a block */
#define CUDA_IPC_WARPS (CUDA_IPC_THREADS / CUDA_IPC_WARP)

/** Most spans of a launch; the arguments of a kernel are limited to 4 KiB. */
#define CUDA_IPC_KERNEL_SPANS 64u
/** Vectors of a slab, and of a run, are below it. */
#define CUDA_IPC_VECS_MAX (1u << 31)

/** Entries: the width in bytes follows, "cuda_ipc_gather_16". */
#define CUDA_IPC_KERNEL_GATHER "cuda_ipc_gather_" /* struct cuda_ipc_paged_args */
#define CUDA_IPC_KERNEL_SCATTER "cuda_ipc_scatter_" /* struct cuda_ipc_paged_args */
#define CUDA_IPC_KERNEL_RUNS "cuda_ipc_runs_" /* struct cuda_ipc_runs_args */

/** n / divisor for n below 2^31: (mulhi(n, mul) + n) >> shift. */
struct cuda_ipc_divisor {
    uint32_t value;
    uint32_t mul;
    uint32_t shift;
};

/** Slabs of one chunk that lie together at `addr`; or a part of one slab. */
struct cuda_ipc_kernel_span {
    uint64_t addr;
    uint32_t slab_first; /* plane * layers + layer */
    uint32_t slab_count;
    uint32_t vec_first; /* within the slab; 0 when there are several */
    uint32_t vecs; /* of each slab */
    uint32_t id_first; /* where the block table of the chunk begins in `ids` */
    uint32_t reserved;
};

/** Between blocks of a paged KV cache and memory without gaps. */
struct cuda_ipc_paged_args {
    uint64_t bases; /* of uint64_t[]: one address per slab */
    uint64_t ids; /* of uint32_t[]: the block tables; 0xffffffff = skip */
    uint64_t block_stride; /* bytes */
    uint64_t run_stride; /* bytes; from run to run within a block */
    struct cuda_ipc_divisor run; /* vectors that lie together: a block, or a token */
    struct cuda_ipc_divisor block; /* such runs in a block */
    uint32_t span_count;
    uint32_t slab_count; /* the most that a span has */
    uint32_t tiles; /* the most that a slab has */
    uint32_t reserved;
    struct cuda_ipc_kernel_span spans[CUDA_IPC_KERNEL_SPANS];
};

/** Rows of the same length; as struct cuda_ipc_piece. */
struct cuda_ipc_kernel_run {
    uint64_t dst;
    uint64_t src;
    uint64_t dst_pitch; /* bytes */
    uint64_t src_pitch;
    uint32_t vecs; /* of all rows */
    struct cuda_ipc_divisor row; /* vectors of one row */
};

struct cuda_ipc_runs_args {
    uint64_t runs; /* of struct cuda_ipc_kernel_run[] */
    uint32_t count;
    uint32_t split; /* warps that share a run */
};

#endif /* KVL_CUDA_IPC_KERNEL_H */
