/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cuda_ipc_core.h
 * One instance of the backend: what it owns, and the batches under way.
 *
 * A batch is an op. What has to be copied for it goes to the copy engine in parts: one per source
 * of bytes. Finding chunks at peers is done in the thread of the net. An op ends when all parts and
 * the search have ended, with one completion.
 */
#ifndef KVL_CUDA_IPC_CORE_H
#define KVL_CUDA_IPC_CORE_H

#include <pthread.h>
#include <stdatomic.h>

#include "cuda_ipc_export.h"
#include "cuda_ipc_map.h"
#include "cuda_ipc_net.h"
#include "cuda_ipc_options.h"
#include "cuda_ipc_pool.h"
#include "cuda_ipc_reap.h"

enum cuda_ipc_counter {
    CUDA_IPC_COUNT_LOOKUPS, /* chunks asked for */
    CUDA_IPC_COUNT_LOOKUP_OWN, /* found in the own pool */
    CUDA_IPC_COUNT_LOOKUP_PEER, /* found at a peer */
    CUDA_IPC_COUNT_READ_OWN, /* chunks copied from the own pool */
    CUDA_IPC_COUNT_READ_PEER, /* copied from a peer's */
    CUDA_IPC_COUNT_READ_BYTES,
    CUDA_IPC_COUNT_WRITES, /* chunks copied to the own pool */
    CUDA_IPC_COUNT_WRITE_BYTES,
    CUDA_IPC_COUNT_GATHERS, /* chunks copied to host memory for the core */
    CUDA_IPC_COUNT_GATHER_BYTES,
    CUDA_IPC_COUNT_SCATTERS,
    CUDA_IPC_COUNT_SCATTER_BYTES,
    CUDA_IPC_COUNT_STALE, /* copied from a peer that was lost meanwhile: not counted above */
    CUDA_IPC_COUNT_IMPORT_FAILURES, /* peers whose memory could not be mapped */
    CUDA_IPC_COUNT_PRODUCERS_LOST, /* processes that ended with a KV cache registered here */
    CUDA_IPC_COUNTERS,
};

enum cuda_ipc_state { CUDA_IPC_CREATED, CUDA_IPC_RUNNING, CUDA_IPC_LEAVING, CUDA_IPC_STOPPED };

struct cuda_ipc_op;

/** Which peer had a chunk when it was last looked for. */
struct cuda_ipc_hint {
    uint64_t hash;
    uint64_t epoch; /* of the link */
};
#define CUDA_IPC_HINTS 4096u

struct cuda_ipc {
    const struct kvl_host *host; /* borrowed */
    struct cuda_ipc_options options;
    struct cuda_ipc_api api;
    struct cuda_ipc_self self;
    struct cuda_ipc_devices devices;
    struct cuda_ipc_kvs kvs;
    struct cuda_ipc_copy *copy;
    struct cuda_ipc_map *map;
    struct cuda_ipc_pool *pool;
    struct cuda_ipc_net *net;
    struct cuda_ipc_reap *reap;
    bool has_devices; /* they are initialised; until destroy, for who looks at us */
    bool has_memory; /* kvs is, and there may be more to be freed; until stop */
    bool keeps_memory; /* peers still read it: it is never freed */
    uint64_t allowed; /* bit per device that may be used */

    pthread_mutex_t gpu_lock; /* opening devices, and what is below */
    bool has_pinned; /* tried to */
    atomic_bool is_pinned; /* the own store */
    atomic_bool is_short; /* the pool is smaller than asked for */

    _Atomic uint64_t ready; /* bit per device that is open, with its pool */
    _Atomic uint64_t dropped; /* bit per device whose chunks were dropped: it is lost */
    struct cuda_ipc_export *exports[CUDA_IPC_POOL_SEGMENTS_MAX]; /* by segment; set once */

    pthread_mutex_t ops_lock; /* guards what is below */
    pthread_cond_t ended; /* an op has */
    struct cuda_ipc_op *ops;
    uint32_t op_count;
    bool is_sweeping; /* `sweep` is posted */
    struct cuda_ipc_work sweep;

    char address_text[CUDA_IPC_ADDRESS_TEXT]; /* where we listen; set by start */
    _Atomic int state; /* enum cuda_ipc_state */
    _Atomic uint64_t next_part;
    _Atomic uint32_t links; /* peers that can be asked */
    _Atomic uint32_t useless; /* of these, with memory that cannot be used */
    char useless_text[200]; /* why, under ops_lock */
    struct cuda_ipc_hint hints[CUDA_IPC_HINTS]; /* the net's thread alone */
    _Atomic uint64_t counters[CUDA_IPC_COUNTERS];
};

void cuda_ipc_count(struct cuda_ipc *self, enum cuda_ipc_counter counter, uint64_t by);

/* ---- life: cuda_ipc_life.c ---- */

int cuda_ipc_life_create(const struct kvl_host *host, const struct cuda_ipc_options *options,
                         struct cuda_ipc **self_out);
int cuda_ipc_life_start(struct cuda_ipc *self, struct kvl_err *err);
void cuda_ipc_life_quiesce(struct cuda_ipc *self);
int cuda_ipc_life_drain(struct cuda_ipc *self, uint64_t deadline_ms);
void cuda_ipc_life_stop(struct cuda_ipc *self);
void cuda_ipc_life_destroy(struct cuda_ipc *self);

/* ---- devices and memory: cuda_ipc_gpu.c ---- */

/**
 * Makes a device ready: its context, the copy engine, the pool on it; at the first one the own
 * store is pinned. The first call for a device blocks in the driver, others cost a load.
 * @return 0; -ENODEV no such device, or one that may not be used; codes of the driver.
 */
int cuda_ipc_gpu_ready(struct cuda_ipc *self, int device, struct kvl_err *err);

/** The device for chunks that come from host memory: one that is ready, else the first allowed. */
int cuda_ipc_gpu_home(struct cuda_ipc *self);

struct cuda_ipc_place cuda_ipc_gpu_place(const struct cuda_ipc *self, int device);

/** Where a chunk of the own pool lies. */
cuda_ptr cuda_ipc_gpu_address(const struct cuda_ipc *self, const struct cuda_ipc_chunk *chunk);

/** For peers: see struct cuda_ipc_net_env. */
int cuda_ipc_gpu_segment(void *ctx, uint32_t number, struct cuda_ipc_share *share_out, int *fd_out);

/** After a copy on it failed: forgets the chunks of a device that is lost. */
void cuda_ipc_gpu_check(struct cuda_ipc *self, int device);

int cuda_ipc_gpu_register(struct cuda_ipc *self, const struct kvl_kv *kv, uint64_t *kv_out,
                          struct kvl_err *err);
int cuda_ipc_gpu_unregister(struct cuda_ipc *self, uint64_t kv);

/** Frees what was allocated and mapped, but for the pool when it is to be kept. Once. */
void cuda_ipc_gpu_free(struct cuda_ipc *self);

#endif /* KVL_CUDA_IPC_CORE_H */
