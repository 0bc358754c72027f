/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file fake_cuda_kernels.h
 * Kernels that the fake can run: C functions under the names that modules know them by. A function
 * does the work of the whole grid.
 */
#ifndef KVL_FAKE_CUDA_KERNELS_H
#define KVL_FAKE_CUDA_KERNELS_H

#include "cuda_ipc_abi.h"

#define FAKE_CUDA_PARAMS_MAX 16u

/** A launch while it runs. */
struct fake_cuda_launch {
    uint32_t grid[3];
    uint32_t block[3];
    uint32_t shared_bytes;
    const void *params[FAKE_CUDA_PARAMS_MAX]; /* copies of the values that were passed */
    void *pins; /* the fake's */
    cuda_context context;
};

struct fake_cuda_kernel {
    const char *name;
    /** @return CUDA_OK, or the code that breaks the context */
    cuda_result (*run)(struct fake_cuda_launch *launch);
    uint32_t param_count;
    uint32_t param_bytes[FAKE_CUDA_PARAMS_MAX];
};

/** @return NULL for a name that no kernel has. */
const struct fake_cuda_kernel *fake_cuda_kernel_find(const char *name);

/**
 * Where a running kernel finds memory of the device, or pinned memory of the host. It stays until
 * the kernel ends.
 * @return NULL when the range is not all there: return CUDA_E_ILLEGAL_ADDRESS then
 */
void *fake_cuda_at(struct fake_cuda_launch *launch, cuda_ptr ptr, size_t bytes, int write);

#endif /* KVL_FAKE_CUDA_KERNELS_H */
