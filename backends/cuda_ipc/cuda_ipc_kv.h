/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cuda_ipc_kv.h
 * The paged KV caches that engines have registered. Thread-safe.
 */
#ifndef KVL_CUDA_IPC_KV_H
#define KVL_CUDA_IPC_KV_H

#include <pthread.h>

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
    uint32_t users; /* under the lock of the table */
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

/** Holds a cache. @return NULL for a number that is not out; give back with cuda_ipc_kv_put(). */
struct cuda_ipc_kv *cuda_ipc_kv_get(struct cuda_ipc_kvs *kvs, uint64_t number);
void cuda_ipc_kv_put(struct cuda_ipc_kvs *kvs, struct cuda_ipc_kv *kv);

#endif /* KVL_CUDA_IPC_KV_H */
