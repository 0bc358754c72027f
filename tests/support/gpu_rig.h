/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file gpu_rig.h
 * A device for tests and benchmarks, a real one or that of the fake driver: the driver, a stream,
 * memory with the shape of an 8B model's KV cache, and other processes. What fails ends the
 * program.
 */
#ifndef KVL_TESTS_GPU_RIG_H
#define KVL_TESTS_GPU_RIG_H

#include <sys/types.h>

#include <kvlane/mem.h>

#include "cuda_ipc_place.h"

/** Names another driver than the system's libcuda.so.1. */
#define GPU_RIG_DRIVER_ENV "KVL_TEST_CUDA_DRIVER"
/** Exit code where there is nothing to measure on, as meson takes it. */
#define GPU_RIG_SKIP 77

#define GPU_RIG_PLANES 2u
#define GPU_RIG_LAYERS_MAX 32u
#define GPU_RIG_LAYERS_QUICK 2u
#define GPU_RIG_CHUNK_TOKENS 256u
#define GPU_RIG_TOKEN_BYTES 2048u
/** Chunks a KV cache has room for, and as many that lie in one piece. */
#define GPU_RIG_CHUNKS 16u

struct gpu_rig {
    struct cuda_ipc_api api;
    struct cuda_ipc_place place;
    cuda_stream stream;
    uint64_t *stage; /* one chunk, pinned */
    char name[100];
    const char *driver; /* NULL = the system's */
    uint32_t layers;
};

/** Opens the first device and makes its context current; exits with GPU_RIG_SKIP without one. */
void gpu_rig_open(struct gpu_rig *rig, uint32_t layers);
void gpu_rig_close(struct gpu_rig *rig);

/** Bytes of one chunk, [2][layers][256][2 KiB]. */
uint64_t gpu_rig_chunk_bytes(const struct gpu_rig *rig);

cuda_ptr gpu_rig_alloc(struct gpu_rig *rig, uint64_t bytes);
void gpu_rig_free(struct gpu_rig *rig, cuda_ptr memory);
void gpu_rig_wait(struct gpu_rig *rig);

/** Ends the program unless the code is CUDA_OK. */
void gpu_rig_check(const struct gpu_rig *rig, const char *call, cuda_result code);
/** Ends the program with a sentence. */
void gpu_rig_die(const char *what, int r);

/* ---- paged KV caches ---- */

/** Memory for GPU_RIG_CHUNKS chunks. */
struct gpu_pages {
    cuda_ptr layers[GPU_RIG_LAYERS_MAX]; /* [2][4096 tokens][2 KiB] each */
};

/** That memory as blocks of some tokens, and where each chunk lies in them: anywhere. */
struct gpu_view {
    const struct gpu_pages *pages;
    uint32_t page; /* tokens of a block */
    uint32_t blocks[GPU_RIG_CHUNKS * GPU_RIG_CHUNK_TOKENS];
    uint32_t block_first[GPU_RIG_CHUNKS + 1];
    uint64_t bases[GPU_RIG_PLANES * GPU_RIG_LAYERS_MAX];
    struct kvl_kv kv;
};

void gpu_pages_init(struct gpu_rig *rig, struct gpu_pages *pages);
void gpu_pages_fini(struct gpu_rig *rig, struct gpu_pages *pages);

/** @param pages  borrowed, as is the view by whoever is given its `kv` */
void gpu_view_init(const struct gpu_rig *rig, const struct gpu_pages *pages, uint32_t page,
                   struct gpu_view *view);

/** Fills a chunk: every word says where it belongs, and `salt`. */
void gpu_view_fill(struct gpu_rig *rig, const struct gpu_view *view, uint32_t chunk, uint64_t salt);
/** Compares a chunk with what such a fill made. @return words that differ. */
uint64_t gpu_view_differs(struct gpu_rig *rig, const struct gpu_view *view, uint32_t chunk,
                          uint64_t salt);
/** The same for one layer of it. */
uint64_t gpu_view_layer_differs(struct gpu_rig *rig, const struct gpu_view *view, uint32_t chunk,
                                uint32_t layer, uint64_t salt);

/* ---- other processes ---- */

/** Starts this program anew with `--peer WORD` and its end of a socket as descriptor 3. */
pid_t gpu_rig_spawn(const char *word, int *fd_out);
/** Closes the socket, which ends the process, and waits for it. */
void gpu_rig_reap(pid_t pid, int fd);
/** Whole records; end the program when the other one is gone. */
void gpu_rig_send(int fd, const void *data, size_t size);
void gpu_rig_receive(int fd, void *data, size_t size);

#endif /* KVL_TESTS_GPU_RIG_H */
