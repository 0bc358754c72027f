/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file gpu.h
 * A GPU as an engine uses it that keeps its KV cache there: the CUDA driver, opened at run time,
 * its first visible device and one stream. For one thread at a time. What fails leaves its cause in
 * gpu_error().
 */
#ifndef KVL_GPU_H
#define KVL_GPU_H

#include <stddef.h>
#include <stdint.h>

#define GPU_TEXT 200

struct gpu;

/**
 * Asks a driver whether it has a device, and makes nothing on it.
 * @param driver  path of the library; "" or NULL = libcuda.so.1
 * @param text_out  of GPU_TEXT bytes: the name of the device, or why there is none
 * @return 0; -ENODEV.
 */
int gpu_probe(const char *driver, char *text_out);

/**
 * Opens the first device: its primary context becomes that of the calling thread.
 * @param text_out  of GPU_TEXT bytes: the name of the device, or what failed
 * @return 0; -ENODEV no driver, no device; -ENOMEM; -EIO.
 */
int gpu_create(const char *driver, struct gpu **gpu_out, char *text_out);
/** Waits for the stream, then closes. Memory of the GPU must have been given back. Takes NULL. */
void gpu_destroy(struct gpu *gpu);

/** What failed last, for people. */
const char *gpu_error(const struct gpu *gpu);

/** The stream, as struct kvl_batch wants it. */
uint64_t gpu_stream(const struct gpu *gpu);

/** Memory of the device. @return 0; -ENOMEM. */
int gpu_alloc(struct gpu *gpu, uint64_t bytes, uint64_t *address_out);
/** Takes 0. Nothing may be using it. */
void gpu_free(struct gpu *gpu, uint64_t address);

/** Host memory that the device copies from and to by itself. @return 0; -ENOMEM. */
int gpu_pinned_alloc(struct gpu *gpu, uint64_t bytes, void **memory_out);
/** Takes NULL. */
void gpu_pinned_free(struct gpu *gpu, void *memory);

/* Copies between the device and pinned memory, queued on the stream: the memory must rest until
 * gpu_wait() has returned. @return 0; -EIO. */
int gpu_put(struct gpu *gpu, uint64_t to, const void *from, uint64_t bytes);
int gpu_get(struct gpu *gpu, void *to, uint64_t from, uint64_t bytes);

/** Waits for all that was queued. @return 0; -EIO something of it failed. */
int gpu_wait(struct gpu *gpu);

#endif /* KVL_GPU_H */
