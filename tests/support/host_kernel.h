/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file host_kernel.h
 * The kernels of backends/cuda_ipc as functions of the CPU: the same body, thread after thread.
 * Whoever includes it defines before
 *
 *   void *host_kernel_address(uint64_t addr, size_t bytes, int is_write)
 *
 * which gives an address of the device as one of ours.
 */
#ifndef KVL_TEST_HOST_KERNEL_H
#define KVL_TEST_HOST_KERNEL_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define CUDA_IPC_DEVICE static inline
#define CUDA_IPC_UNROLLED

struct cuda_ipc_vec {
    uint8_t bytes[16];
};

static inline struct cuda_ipc_vec cuda_ipc_kernel_load(uint64_t addr, uint32_t width, int is)
{
    struct cuda_ipc_vec vec = {{0}};

    if (is) {
        memcpy(vec.bytes, host_kernel_address(addr, width, 0), width);
        if (addr % width != 0) {
            abort(); /* the device would trap */
        }
    }
    return vec;
}

static inline void cuda_ipc_kernel_store(uint64_t addr, uint32_t width, struct cuda_ipc_vec vec)
{
    memcpy(host_kernel_address(addr, width, 1), vec.bytes, width);
    if (addr % width != 0) {
        abort();
    }
}

static inline uint32_t cuda_ipc_kernel_u32(uint64_t addr)
{
    uint32_t value;

    memcpy(&value, host_kernel_address(addr, sizeof(value), 0), sizeof(value));
    return value;
}

static inline uint64_t cuda_ipc_kernel_u64(uint64_t addr)
{
    uint64_t value;

    memcpy(&value, host_kernel_address(addr, sizeof(value), 0), sizeof(value));
    return value;
}

#include "cuda_ipc_kernel_body.h"

/* Blocks come in reverse order: a device promises none. */
#define HOST_KERNEL_PAGED(name, width, is_scatter)                                                 \
    static inline void name(const struct cuda_ipc_paged_args *args, uint32_t blocks)               \
    {                                                                                              \
        for (uint32_t block = blocks; block-- > 0;) {                                              \
            for (uint32_t thread = 0; thread < CUDA_IPC_THREADS; thread++) {                       \
                cuda_ipc_paged_thread(args, block, blocks, thread, width, is_scatter);             \
            }                                                                                      \
        }                                                                                          \
    }
#define HOST_KERNEL_RUNS(name, width)                                                              \
    static inline void name(const struct cuda_ipc_runs_args *args, uint32_t blocks)                \
    {                                                                                              \
        for (uint32_t block = blocks; block-- > 0;) {                                              \
            for (uint32_t thread = 0; thread < CUDA_IPC_THREADS; thread++) {                       \
                cuda_ipc_runs_thread(args, block, blocks, thread, width);                          \
            }                                                                                      \
        }                                                                                          \
    }
#define HOST_KERNELS(width)                                                                        \
    HOST_KERNEL_PAGED(host_kernel_gather_##width, width, false)                                    \
    HOST_KERNEL_PAGED(host_kernel_scatter_##width, width, true)                                    \
    HOST_KERNEL_RUNS(host_kernel_runs_##width, width)

HOST_KERNELS(16)
HOST_KERNELS(8)
HOST_KERNELS(4)
HOST_KERNELS(1)

#endif /* KVL_TEST_HOST_KERNEL_H */
