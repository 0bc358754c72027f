/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda_ipc_kv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "setting.h"

void cuda_ipc_kvs_init(struct cuda_ipc_kvs *kvs)
{
    memset(kvs, 0, sizeof(*kvs));
    (void)pthread_mutex_init(&kvs->lock, NULL);
}

static void kv_destroy(struct cuda_ipc_kv *kv)
{
    struct cuda_ipc_stay visit;

    if (kv->device_bases != 0) {
        if (cuda_ipc_device_enter(kv->device, &visit) == 0) {
            (void)kv->device->api->mem_free(kv->device_bases);
        }
        cuda_ipc_device_leave(kv->device, &visit);
    }
    free(kv);
}

void cuda_ipc_kvs_fini(struct cuda_ipc_kvs *kvs)
{
    for (uint32_t i = 0; i < CUDA_IPC_KV_MAX; i++) {
        if (kvs->all[i] != NULL) {
            kv_destroy(kvs->all[i]);
        }
    }
    (void)pthread_mutex_destroy(&kvs->lock);
}

/* ---- registering ---- */

static int kv_check_record(const struct kvl_kv *kv, struct kvl_err *err)
{
    if (kv->size < sizeof(*kv)) {
        return kvl_fail(err, -EINVAL, "cuda_ipc: size %u of a KV cache's record, it must be %zu",
                        (unsigned int)kv->size, sizeof(*kv));
    }
    if (kv->mem != KVL_MEM_CUDA || kv->reserved != 0) {
        return kvl_fail(err, -EINVAL, "cuda_ipc: %s %u of a KV cache, it must be %u",
                        kv->mem != KVL_MEM_CUDA ? "mem" : "reserved",
                        (unsigned int)(kv->mem != KVL_MEM_CUDA ? kv->mem : kv->reserved),
                        kv->mem != KVL_MEM_CUDA ? KVL_MEM_CUDA : 0u);
    }
    if (kv->bases == NULL) {
        return kvl_fail(err, -EINVAL, "cuda_ipc: a KV cache without bases");
    }
    if ((uint64_t)kv->planes * kv->layers > CUDA_IPC_KV_BASES_MAX) {
        return kvl_fail(err, -EINVAL, "cuda_ipc: %llu layers of a KV cache, at most %u are taken",
                        (unsigned long long)kv->planes * kv->layers, CUDA_IPC_KV_BASES_MAX);
    }
    return 0;
}

static int kv_create(const struct kvl_kv *from, struct cuda_ipc_kv **kv_out, struct kvl_err *err)
{
    const size_t count = (size_t)from->planes * from->layers;
    struct cuda_ipc_kv *kv = calloc(1, sizeof(*kv) + count * sizeof(kv->bases[0]));
    int r;

    if (kv == NULL) {
        return kvl_fail(err, -ENOMEM, "cuda_ipc: no memory for a KV cache of %zu layers", count);
    }
    memcpy(kv->bases, from->bases, count * sizeof(kv->bases[0]));
    kv->layout = (struct cuda_ipc_layout){
        .layers = from->layers,
        .planes = from->planes,
        .block_tokens = from->block_tokens,
        .block_count = from->block_count,
        .token_bytes = from->token_bytes,
        .token_stride = from->token_stride,
        .block_stride = from->block_stride,
        .bases = kv->bases,
    };
    r = cuda_ipc_layout_check(&kv->layout, err);
    if (r < 0) {
        free(kv);
        return r;
    }
    kv->alignment = cuda_ipc_layout_alignment(&kv->layout);
    *kv_out = kv;
    return 0;
}

static int kv_check_bases(const struct cuda_ipc_kv *kv, struct kvl_err *err)
{
    const uint32_t count = kv->layout.planes * kv->layout.layers;
    const uint64_t need = cuda_ipc_layout_extent(&kv->layout);
    struct cuda_ipc_ranges ranges = {0};

    for (uint32_t i = 0; i < count; i++) {
        const uint64_t there = cuda_ipc_device_covers(kv->device, &ranges, kv->bases[i], need);
        int ordinal = -1;

        if (there < need) {
            return kvl_fail(err, -EINVAL,
                            "cuda_ipc: base %u of a KV cache, 0x%llx, has %llu bytes of device "
                            "memory behind it, the layout needs %llu",
                            (unsigned int)i, (unsigned long long)kv->bases[i],
                            (unsigned long long)there, (unsigned long long)need);
        }
        if (kv->device->api->pointer_get_attribute(&ordinal, CUDA_POINTER_DEVICE_ORDINAL,
                                                   kv->bases[i]) == CUDA_OK &&
            ordinal != kv->device->ordinal) {
            return kvl_fail(err, -EINVAL,
                            "cuda_ipc: base %u of a KV cache lies on device %d, not on %d",
                            (unsigned int)i, ordinal, kv->device->ordinal);
        }
    }
    return 0;
}

static int kv_upload(struct cuda_ipc_kv *kv, struct kvl_err *err)
{
    const struct cuda_ipc_api *api = kv->device->api;
    const size_t bytes = (size_t)kv->layout.planes * kv->layout.layers * sizeof(kv->bases[0]);
    cuda_stream stream = kv->device->streams[CUDA_IPC_LANE_IN];
    const char *call = "cuMemAlloc";
    cuda_result code = api->mem_alloc(&kv->device_bases, bytes);
    char text[CUDA_IPC_TEXT_MAX];

    if (code != CUDA_OK) {
        kv->device_bases = 0;
    } else {
        call = "cuMemcpyHtoDAsync";
        code = api->memcpy_htod_async(kv->device_bases, kv->bases, bytes, stream);
        if (code == CUDA_OK) {
            call = "cuStreamSynchronize";
            code = api->stream_synchronize(stream);
            if (code != CUDA_OK) {
                /* the copy may still come, so the memory must stay */
                cuda_ipc_device_lose(kv->device, call, code);
                kv->device_bases = 0;
            }
        }
    }
    if (code == CUDA_OK) {
        return 0;
    }
    cuda_ipc_api_explain(api, call, code, text, sizeof(text));
    return kvl_fail(err, cuda_ipc_device_fail(kv->device, call, code),
                    "cuda_ipc: a KV cache cannot be registered: %s", text);
}

static int kv_prepare(struct cuda_ipc_kv *kv, struct kvl_err *err)
{
    struct cuda_ipc_stay visit;
    int r = cuda_ipc_device_enter(kv->device, &visit);

    if (r < 0) {
        (void)kvl_fail(err, r, "cuda_ipc: the context of device %d cannot be entered",
                       kv->device->ordinal);
    } else {
        r = kv_check_bases(kv, err);
        if (r == 0) {
            r = kv_upload(kv, err);
        }
    }
    cuda_ipc_device_leave(kv->device, &visit);
    return r;
}

static int kvs_put_in(struct cuda_ipc_kvs *kvs, struct cuda_ipc_kv *kv, uint64_t *number_out)
{
    int r = -ENOMEM;

    (void)pthread_mutex_lock(&kvs->lock);
    for (uint32_t i = 0; i < CUDA_IPC_KV_MAX; i++) {
        if (kvs->all[i] == NULL) {
            kvs->all[i] = kv;
            *number_out = (uint64_t)++kvs->generations[i] << 32 | (i + 1);
            r = 0;
            break;
        }
    }
    (void)pthread_mutex_unlock(&kvs->lock);
    return r;
}

int cuda_ipc_kvs_add(struct cuda_ipc_kvs *kvs, struct cuda_ipc_devices *devices,
                     const struct kvl_kv *from, uint64_t *number_out, struct kvl_err *err)
{
    struct cuda_ipc_kv *kv = NULL;
    int r = kv_check_record(from, err);

    if (r < 0) {
        return r;
    }
    r = kv_create(from, &kv, err);
    if (r < 0) {
        return r;
    }
    r = cuda_ipc_devices_open(devices, from->device, &kv->device, err);
    if (r == 0) {
        r = kv_prepare(kv, err);
    }
    if (r == 0) {
        r = kvs_put_in(kvs, kv, number_out);
        if (r < 0) {
            (void)kvl_fail(err, r, "cuda_ipc: %u KV caches are registered, no more are taken",
                           CUDA_IPC_KV_MAX);
        }
    }
    if (r < 0) {
        kv_destroy(kv);
    }
    return r;
}

/* ---- numbers; with the lock held ---- */

static struct cuda_ipc_kv **kvs_find(struct cuda_ipc_kvs *kvs, uint64_t number)
{
    const uint32_t slot = (uint32_t)number - 1;

    if (slot >= CUDA_IPC_KV_MAX || kvs->all[slot] == NULL ||
        kvs->generations[slot] != number >> 32) {
        return NULL;
    }
    return &kvs->all[slot];
}

int cuda_ipc_kvs_remove(struct cuda_ipc_kvs *kvs, uint64_t number)
{
    struct cuda_ipc_kv **at;
    struct cuda_ipc_kv *kv = NULL;
    int r = -ENOENT;

    (void)pthread_mutex_lock(&kvs->lock);
    at = kvs_find(kvs, number);
    if (at != NULL) {
        r = (*at)->users > 0 ? -EBUSY : 0;
        if (r == 0) {
            kv = *at;
            *at = NULL;
        }
    }
    (void)pthread_mutex_unlock(&kvs->lock);
    if (kv != NULL) {
        kv_destroy(kv);
    }
    return r;
}

struct cuda_ipc_kv *cuda_ipc_kv_get(struct cuda_ipc_kvs *kvs, uint64_t number)
{
    struct cuda_ipc_kv **at;
    struct cuda_ipc_kv *kv = NULL;

    (void)pthread_mutex_lock(&kvs->lock);
    at = kvs_find(kvs, number);
    if (at != NULL && !(*at)->is_lost) {
        kv = *at;
        kv->users++;
    }
    (void)pthread_mutex_unlock(&kvs->lock);
    return kv;
}

bool cuda_ipc_kv_put(struct cuda_ipc_kvs *kvs, struct cuda_ipc_kv *kv)
{
    bool is_last;

    (void)pthread_mutex_lock(&kvs->lock);
    kv->users--;
    is_last = kv->is_lost && kv->users == 0;
    (void)pthread_mutex_unlock(&kvs->lock);
    return is_last;
}

int cuda_ipc_kvs_lose(struct cuda_ipc_kvs *kvs, uint64_t number)
{
    struct cuda_ipc_kv **at;
    int r = -ENOENT;

    (void)pthread_mutex_lock(&kvs->lock);
    at = kvs_find(kvs, number);
    if (at != NULL) {
        (*at)->is_lost = 1;
        r = (*at)->users > 0 ? -EBUSY : 0;
    }
    (void)pthread_mutex_unlock(&kvs->lock);
    return r;
}

bool cuda_ipc_kvs_is_lost(struct cuda_ipc_kvs *kvs, uint64_t number)
{
    struct cuda_ipc_kv **at;
    bool is_lost;

    (void)pthread_mutex_lock(&kvs->lock);
    at = kvs_find(kvs, number);
    is_lost = at != NULL && (*at)->is_lost;
    (void)pthread_mutex_unlock(&kvs->lock);
    return is_lost;
}
