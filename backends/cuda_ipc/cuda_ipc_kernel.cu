/* SPDX-License-Identifier: Apache-2.0 */
/* The entries: the common body for each vector width, with the loads and stores of the device.
 * Nothing that is copied is read again here, so it need not stay in the caches. */
#include <stdint.h>

#define CUDA_IPC_DEVICE static __device__ __forceinline__
#define CUDA_IPC_UNROLLED _Pragma("unroll")

struct cuda_ipc_vec {
    uint4 words;
};

/* Volatile keeps the order of the source: all loads of a tile, then its stores. Left to itself the
 * compiler saves registers by waiting for one load after the other. */
CUDA_IPC_DEVICE struct cuda_ipc_vec cuda_ipc_kernel_load(uint64_t addr, uint32_t width, bool is)
{
    struct cuda_ipc_vec vec;

    vec.words = make_uint4(0, 0, 0, 0); /* else it would be alive from tile to tile */
    if (!is) {
        return vec;
    }
    if (width == 16) {
        asm volatile("ld.global.cs.v4.u32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(vec.words.x), "=r"(vec.words.y), "=r"(vec.words.z), "=r"(vec.words.w)
                     : "l"(addr));
    } else if (width == 8) {
        asm volatile("ld.global.cs.v2.u32 {%0, %1}, [%2];"
                     : "=r"(vec.words.x), "=r"(vec.words.y)
                     : "l"(addr));
    } else if (width == 4) {
        asm volatile("ld.global.cs.u32 %0, [%1];" : "=r"(vec.words.x) : "l"(addr));
    } else {
        asm volatile("ld.global.cs.u8 %0, [%1];" : "=r"(vec.words.x) : "l"(addr));
    }
    return vec;
}

CUDA_IPC_DEVICE void cuda_ipc_kernel_store(uint64_t addr, uint32_t width, struct cuda_ipc_vec vec)
{
    if (width == 16) {
        __stcs((uint4 *)addr, vec.words);
    } else if (width == 8) {
        __stcs((uint2 *)addr, make_uint2(vec.words.x, vec.words.y));
    } else if (width == 4) {
        __stcs((uint32_t *)addr, vec.words.x);
    } else {
        __stcs((uint8_t *)addr, (uint8_t)vec.words.x);
    }
}

CUDA_IPC_DEVICE uint32_t cuda_ipc_kernel_u32(uint64_t addr)
{
    uint32_t value;

    asm volatile("ld.global.nc.u32 %0, [%1];" : "=r"(value) : "l"(addr));
    return value;
}

CUDA_IPC_DEVICE uint64_t cuda_ipc_kernel_u64(uint64_t addr)
{
    return __ldg((const unsigned long long *)addr);
}

#include "cuda_ipc_kernel_body.h"

#define ENTRIES(width)                                                                             \
    extern "C" __global__ void __launch_bounds__(CUDA_IPC_THREADS, 4)                              \
        cuda_ipc_gather_##width(const __grid_constant__ struct cuda_ipc_paged_args args)           \
    {                                                                                              \
        cuda_ipc_paged_thread(&args, blockIdx.x, gridDim.x, threadIdx.x, width, false);            \
    }                                                                                              \
    extern "C" __global__ void __launch_bounds__(CUDA_IPC_THREADS, 4)                              \
        cuda_ipc_scatter_##width(const __grid_constant__ struct cuda_ipc_paged_args args)          \
    {                                                                                              \
        cuda_ipc_paged_thread(&args, blockIdx.x, gridDim.x, threadIdx.x, width, true);             \
    }                                                                                              \
    extern "C" __global__ void __launch_bounds__(CUDA_IPC_THREADS, 4)                              \
        cuda_ipc_runs_##width(const __grid_constant__ struct cuda_ipc_runs_args args)              \
    {                                                                                              \
        cuda_ipc_runs_thread(&args, blockIdx.x, gridDim.x, threadIdx.x, width);                    \
    }

ENTRIES(16)
ENTRIES(8)
ENTRIES(4)
ENTRIES(1)
