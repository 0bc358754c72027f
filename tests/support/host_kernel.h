/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file host_kernel.h
 * The kernels of backends/cuda_ipc as functions of the CPU: the same body, thread after thread.
 * Whoever includes it defines before
 *
 *   void *host_kernel_address(uint64_t addr, size_t bytes)   an address of the device as one of ours
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
        memcpy(vec.bytes, host_kernel_address(addr, width), width);
        if (addr % width != 0) {
            abort(); /* the device would trap */
        }
    }
    return vec;
}

static inline void cuda_ipc_kernel_store(uint64_t addr, uint32_t width, struct cuda_ipc_vec vec)
{
    memcpy(host_kernel_address(addr, width), vec.bytes, width);
    if (addr % width != 0) {
        abort();
    }
}

static inline uint32_t cuda_ipc_kernel_u32(uint64_t addr)
{
    uint32_t value;

    memcpy(&value, host_kernel_address(addr, sizeof(value)), sizeof(value));
    return value;
}

static inline uint64_t cuda_ipc_kernel_u64(uint64_t addr)
{
    uint64_t value;

    memcpy(&value, host_kernel_address(addr, sizeof(value)), sizeof(value));
    return value;
}

#include "cuda_ipc_kernel_body.h"

/* Blocks come in reverse order: a device promises none. */
#define HOST_KERNEL_PAGED(name, width, is_scatter)                                                 \
    static inline void name(const void *args, uint32_t blocks)                                     \
    {                                                                                              \
        for (uint32_t block = blocks; block-- > 0;) {                                              \
            for (uint32_t thread = 0; thread < CUDA_IPC_THREADS; thread++) {                       \
                cuda_ipc_paged_thread(args, block, blocks, thread, width, is_scatter);             \
            }                                                                                      \
        }                                                                                          \
    }
#define HOST_KERNEL_RUNS(name, width)                                                              \
    static inline void name(const void *args, uint32_t blocks)                                     \
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

/** What a driver looks up by name and launches. */
struct host_kernel {
    const char *name;
    size_t args_bytes; /* of the one parameter */
    void (*run)(const void *args, uint32_t blocks);
};

#define HOST_KERNEL_ROWS(width)                                                                    \
    {CUDA_IPC_KERNEL_GATHER #width, sizeof(struct cuda_ipc_paged_args),                            \
     host_kernel_gather_##width},                                                                  \
        {CUDA_IPC_KERNEL_SCATTER #width, sizeof(struct cuda_ipc_paged_args),                       \
         host_kernel_scatter_##width},                                                             \
    {                                                                                              \
        CUDA_IPC_KERNEL_RUNS #width, sizeof(struct cuda_ipc_runs_args), host_kernel_runs_##width   \
    }

static const struct host_kernel host_kernels[] = {HOST_KERNEL_ROWS(16), HOST_KERNEL_ROWS(8),
                                                  HOST_KERNEL_ROWS(4), HOST_KERNEL_ROWS(1)};
#define HOST_KERNEL_COUNT (sizeof(host_kernels) / sizeof(host_kernels[0]))

static inline const struct host_kernel *host_kernel_find(const char *name)
{
    for (size_t i = 0; i < HOST_KERNEL_COUNT; i++) {
        if (strcmp(host_kernels[i].name, name) == 0) {
            return &host_kernels[i];
        }
    }
    return NULL;
}

#endif /* KVL_TEST_HOST_KERNEL_H */
