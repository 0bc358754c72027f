/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda_ipc_image.h"

#include <stdio.h>
#include <string.h>

/* Blocks per multiprocessor: enough that the last ones to end do not matter. */
#define BLOCKS_PER_PROCESSOR 32u

static const uint32_t image_widths[CUDA_IPC_WIDTHS] = {16, 8, 4, 1};
static const char *const image_entries[CUDA_IPC_ENTRIES] = {
    CUDA_IPC_KERNEL_GATHER,
    CUDA_IPC_KERNEL_SCATTER,
    CUDA_IPC_KERNEL_RUNS,
};

static cuda_result image_find(struct cuda_ipc_image *image, const struct cuda_ipc_api *api)
{
    for (int entry = 0; entry < CUDA_IPC_ENTRIES; entry++) {
        for (uint32_t i = 0; i < CUDA_IPC_WIDTHS; i++) {
            char name[32];
            cuda_result code;

            (void)snprintf(name, sizeof(name), "%s%u", image_entries[entry],
                           (unsigned int)image_widths[i]);
            code = api->module_get_function(&image->functions[entry][i], image->module, name);
            if (code != CUDA_OK) {
                return code;
            }
        }
    }
    return CUDA_OK;
}

void cuda_ipc_image_load(struct cuda_ipc_image *image, struct cuda_ipc_device *device,
                         const void *bytes)
{
    const struct cuda_ipc_api *api = device->api;
    const char *call = "cuModuleLoadData";
    cuda_result code;

    memset(image, 0, sizeof(*image));
    if (bytes == NULL) {
        bytes = cuda_ipc_image_built();
    }
    if (bytes == NULL) {
        (void)snprintf(image->why, sizeof(image->why), "built without nvcc");
        return;
    }
    code = api->module_load_data(&image->module, bytes);
    if (code == CUDA_OK) {
        call = "cuModuleGetFunction";
        code = image_find(image, api);
        if (code != CUDA_OK) {
            (void)api->module_unload(image->module);
        }
    }
    if (code != CUDA_OK) {
        (void)cuda_ipc_device_fail(device, call, code);
        image->module = NULL;
        cuda_ipc_api_explain(api, call, code, image->why, sizeof(image->why));
        kvl_warn(device->log, "cuda_ipc: device %d goes on without kernels of ours: %s",
                 device->ordinal, image->why);
    }
}

void cuda_ipc_image_unload(struct cuda_ipc_image *image, struct cuda_ipc_device *device)
{
    if (image->module != NULL) {
        (void)device->api->module_unload(image->module);
        image->module = NULL;
    }
}

cuda_result cuda_ipc_image_launch(const struct cuda_ipc_image *image,
                                  const struct cuda_ipc_device *device, enum cuda_ipc_entry entry,
                                  uint32_t width, void *args, uint64_t warps, cuda_stream stream)
{
    const uint64_t most = (uint64_t)device->processors * BLOCKS_PER_PROCESSOR;
    uint64_t blocks = (warps + CUDA_IPC_WARPS - 1) / CUDA_IPC_WARPS;
    uint32_t i = 0;
    void *params[] = {args};

    if (blocks > most && most > 0) {
        blocks = most;
    }
    while (image_widths[i] != width) {
        i++;
    }
    return device->api->launch_kernel(image->functions[entry][i], (unsigned int)blocks, 1, 1,
                                      CUDA_IPC_THREADS, 1, 1, 0, stream, params, NULL);
}
