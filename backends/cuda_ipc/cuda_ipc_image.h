/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cuda_ipc_image.h
 * The compiled kernels on a device.
 */
#ifndef KVL_CUDA_IPC_IMAGE_H
#define KVL_CUDA_IPC_IMAGE_H

#include "cuda_ipc_device.h"
#include "cuda_ipc_kernel.h"

enum cuda_ipc_entry {
    CUDA_IPC_ENTRY_GATHER,
    CUDA_IPC_ENTRY_SCATTER,
    CUDA_IPC_ENTRY_RUNS,
    CUDA_IPC_ENTRIES,
};
#define CUDA_IPC_WIDTHS 4u /* 16, 8, 4, 1 */

struct cuda_ipc_image {
    cuda_module module; /* NULL: there are no kernels */
    cuda_function functions[CUDA_IPC_ENTRIES][CUDA_IPC_WIDTHS];
    char why[CUDA_IPC_TEXT_MAX]; /* there are none; "" when there are */
};

/** The kernels that were built into this backend; NULL when there was no nvcc. */
const void *cuda_ipc_image_built(void);

/**
 * Loads the kernels; the device's context is current. Without them the image is empty and says why,
 * which is no failure: copies then go by the driver's own ways.
 * @param bytes  the kernels; NULL = those built in
 */
void cuda_ipc_image_load(struct cuda_ipc_image *image, struct cuda_ipc_device *device,
                         const void *bytes);
void cuda_ipc_image_unload(struct cuda_ipc_image *image, struct cuda_ipc_device *device);

/**
 * Queues a launch.
 * @param args   copied by the driver
 * @param warps  that have something to do
 */
cuda_result cuda_ipc_image_launch(const struct cuda_ipc_image *image,
                                  const struct cuda_ipc_device *device, enum cuda_ipc_entry entry,
                                  uint32_t width, void *args, uint64_t warps, cuda_stream stream);

#endif /* KVL_CUDA_IPC_IMAGE_H */
