/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file gpu_ours.h
 * The copy engine of cuda_ipc for tests and benchmarks, without the plugin around it: one engine
 * per method, on the same device. Everything ends the program when it fails.
 */
#ifndef KVL_TESTS_GPU_OURS_H
#define KVL_TESTS_GPU_OURS_H

#include "cuda_ipc_copy.h"
#include "gpu_rig.h"

struct gpu_ours {
    struct gpu_rig *rig; /* borrowed */
    struct cuda_ipc_devices devices;
    struct cuda_ipc_kvs kvs;
    struct cuda_ipc_copy *copies[CUDA_IPC_METHODS];
};

/** A side in contiguous pieces: chunk i at the i-th address of one of the two, of which there are
 * as many as chunks, at most GPU_RIG_CHUNKS. */
struct gpu_flat {
    const cuda_ptr *addrs; /* on the device; or NULL */
    void *const *hosts; /* in pinned memory of the host; or NULL */
};

void gpu_ours_open(struct gpu_ours *ours, struct gpu_rig *rig);
void gpu_ours_close(struct gpu_ours *ours);

/** Registers a cache. @return held until gpu_ours_close(). */
struct cuda_ipc_kv *gpu_ours_kv(struct gpu_ours *ours, const struct gpu_view *view);

/** Pins memory as the backend pins the store. */
void gpu_ours_pin(struct gpu_ours *ours, void *memory, uint64_t bytes);

/**
 * Moves `n` chunks, from pages when `is_gather`, else to them, in jobs of at most GPU_RIG_CHUNKS
 * that are all submitted before the first is waited for.
 */
void gpu_ours_move(struct gpu_ours *ours, enum cuda_ipc_method method, const struct gpu_view *view,
                   struct cuda_ipc_kv *kv, const struct gpu_flat *flat, int is_gather, uint64_t n);

/** What the engine with method auto says of itself. */
void gpu_ours_describe(struct gpu_ours *ours, char *text_out, size_t size);

#endif /* KVL_TESTS_GPU_OURS_H */
