/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernels there are. One is for the tests of the fake itself.
 */
#include "fake_cuda_kernels.h"

#include <string.h>

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
