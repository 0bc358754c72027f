/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernels there are: those of the backend cuda_ipc, and one for the tests of the fake itself.
 */
#include "fake_cuda_kernels.h"

#include <string.h>

#define PAGE 4096u
#define PAGES 256u

/* What the launch that this thread runs has looked up. */
static _Thread_local struct {
    struct fake_cuda_launch *launch;
    cuda_result code;
    uint64_t keys[PAGES]; /* page of a device address, and the intent; 0 = none */
    uint8_t *pages[PAGES];
    uint8_t nowhere[16];
} running;

/* Whole pages are looked up as far as they are memory, since a lookup costs a lock. Not inline: gcc
 * would look into pages that were not yet looked up, and warn of what it sees. */
__attribute__((noinline)) static void *host_kernel_address(uint64_t addr, size_t bytes,
                                                           int is_write)
{
    const uint64_t in_page = addr % PAGE;
    const uint64_t key = addr - in_page + 1 + (uint64_t)is_write;
    const uint32_t slot = (uint32_t)(addr / PAGE * 2 + (uint64_t)is_write) % PAGES;
    void *at;

    if (in_page + bytes <= PAGE && running.keys[slot] == key) {
        return running.pages[slot] + in_page;
    }
    if (in_page + bytes <= PAGE) {
        at = fake_cuda_at(running.launch, addr - in_page, PAGE, is_write);
        if (at != NULL) {
            running.keys[slot] = key;
            running.pages[slot] = at;
            return running.pages[slot] + in_page;
        }
    }
    at = fake_cuda_at(running.launch, addr, bytes, is_write);
    if (at == NULL) {
        running.code = CUDA_E_ILLEGAL_ADDRESS;
        return running.nowhere;
    }
    return at;
}

#include "host_kernel.h"

static void running_begin(struct fake_cuda_launch *launch)
{
    running.launch = launch;
    running.code = launch->block[0] == CUDA_IPC_THREADS ? CUDA_OK : CUDA_E_LAUNCH_FAILED;
    memset(running.keys, 0, sizeof(running.keys));
}

/* Each entry of the backend under its own name. */
#define KERNEL(entry, width)                                                                       \
    static cuda_result kernel_##entry##_##width(struct fake_cuda_launch *launch)                   \
    {                                                                                              \
        running_begin(launch);                                                                     \
        host_kernel_##entry##_##width(launch->params[0], launch->grid[0]);                         \
        return running.code;                                                                       \
    }
#define KERNELS(width) KERNEL(gather, width) KERNEL(scatter, width) KERNEL(runs, width)

KERNELS(16)
KERNELS(8)
KERNELS(4)
KERNELS(1)

#define ROW(prefix, entry, width, bytes)                                                           \
    {                                                                                              \
        .name = prefix #width, .run = kernel_##entry##_##width, .param_count = 1, .param_bytes = { \
            (bytes)                                                                                \
        }                                                                                          \
    }
#define PAGED_BYTES sizeof(struct cuda_ipc_paged_args)
#define ROWS(width)                                                                                \
    ROW(CUDA_IPC_KERNEL_GATHER, gather, width, PAGED_BYTES),                                       \
        ROW(CUDA_IPC_KERNEL_SCATTER, scatter, width, PAGED_BYTES),                                 \
        ROW(CUDA_IPC_KERNEL_RUNS, runs, width, sizeof(struct cuda_ipc_runs_args))

/* fake_cuda_fill(ptr, bytes, value) */
static cuda_result kernel_fill(struct fake_cuda_launch *launch)
{
    cuda_ptr ptr;
    uint64_t bytes;
    uint32_t value;
    void *at;

    memcpy(&ptr, launch->params[0], sizeof(ptr));
    memcpy(&bytes, launch->params[1], sizeof(bytes));
    memcpy(&value, launch->params[2], sizeof(value));
    at = fake_cuda_at(launch, ptr, bytes, 1);
    if (at == NULL) {
        return CUDA_E_ILLEGAL_ADDRESS;
    }
    memset(at, (int)value, bytes);
    return CUDA_OK;
}

static const struct fake_cuda_kernel fake_cuda_kernels[] = {
    {.name = "fake_cuda_fill", .run = kernel_fill, .param_count = 3, .param_bytes = {8, 8, 4}},
    ROWS(16),
    ROWS(8),
    ROWS(4),
    ROWS(1),
};

const struct fake_cuda_kernel *fake_cuda_kernel_find(const char *name)
{
    for (size_t i = 0; i < sizeof(fake_cuda_kernels) / sizeof(fake_cuda_kernels[0]); i++) {
        if (strcmp(fake_cuda_kernels[i].name, name) == 0) {
            return &fake_cuda_kernels[i];
        }
    }
    return NULL;
}
