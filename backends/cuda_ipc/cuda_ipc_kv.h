/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cuda_ipc_kv.h
 * The paged KV caches that engines have registered. Thread-safe.
 */
#ifndef KVL_CUDA_IPC_KV_H
#define KVL_CUDA_IPC_KV_H

#include <pthread.h>
#include <stdbool.h>

#include "cuda_ipc_device.h"
#include "cuda_ipc_plan.h"

/** Most caches registered at a time. */
#define CUDA_IPC_KV_MAX 256u
/** Most planes * layers of a cache. */
#define CUDA_IPC_KV_BASES_MAX 65536u

/** A registered cache. Constant while somebody holds it. */
struct cuda_ipc_kv {
    struct cuda_ipc_layout layout; /* `bases` is our copy */
    struct cuda_ipc_device *device;
    cuda_ptr device_bases; /* the same bases as the device reads them */
    uint32_t alignment; /* power of two up to 16 that divides bases, strides and token_bytes */
    uint32_t users; /* under the lock of the table, as is */
    uint32_t is_lost; /* its memory is about to go: nobody gets it any more */
    uint64_t bases[]; /* planes * layers */
};

struct cuda_ipc_kvs {
    pthread_mutex_t lock;
    struct cuda_ipc_kv *all[CUDA_IPC_KV_MAX];
    uint32_t generations[CUDA_IPC_KV_MAX];
};

void cuda_ipc_kvs_init(struct cuda_ipc_kvs *kvs);
/** Forgets all; nobody may hold one. Before cuda_ipc_devices_fini(). */
void cuda_ipc_kvs_fini(struct cuda_ipc_kvs *kvs);

/**
 * Takes note of a cache given by its bases; opens the device when that is new. Blocks in the
 * driver.
 * @return 0 and a number above 0, never given twice soon; -EINVAL a field, or a base that is no
 *         memory of that device or too short; -ENODEV; -ENOMEM; -EIO. err->text on failure.
 */
int cuda_ipc_kvs_add(struct cuda_ipc_kvs *kvs, struct cuda_ipc_devices *devices,
                     const struct kvl_kv *kv, uint64_t *number_out, struct kvl_err *err);

/** Forgets a cache. @return 0; -ENOENT no such number; -EBUSY somebody holds it. */
int cuda_ipc_kvs_remove(struct cuda_ipc_kvs *kvs, uint64_t number);

/**
 * Holds a cache. @return NULL for a number that is not out, or a cache that is lost; give back with
 * cuda_ipc_kv_put().
 */
struct cuda_ipc_kv *cuda_ipc_kv_get(struct cuda_ipc_kvs *kvs, uint64_t number);
/** @return whether the cache is lost and this was the last that held it. */
bool cuda_ipc_kv_put(struct cuda_ipc_kvs *kvs, struct cuda_ipc_kv *kv);

/**
 * Its memory is about to go: from now on nobody gets it, but it keeps its number until removed.
 * May be called again.
 * @return 0 nobody holds it; -EBUSY somebody does: the last put will tell; -ENOENT no such number.
 */
int cuda_ipc_kvs_lose(struct cuda_ipc_kvs *kvs, uint64_t number);
bool cuda_ipc_kvs_is_lost(struct cuda_ipc_kvs *kvs, uint64_t number);

#endif /* KVL_CUDA_IPC_KV_H */
