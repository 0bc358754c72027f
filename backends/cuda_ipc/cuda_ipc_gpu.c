/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_ipc_core.h"
#include "ipc.h"
#include "setting.h"

/* How long the events of a registered cache's producer may take. */
#define REGISTER_MS 10000u

struct cuda_ipc_place cuda_ipc_gpu_place(const struct cuda_ipc *self, int device)
{
    const struct cuda_ipc_device *from = &self->devices.all[device];

    return (struct cuda_ipc_place){
        .api = &self->api,
        .context = from->context,
        .device = from->handle,
        .ordinal = from->ordinal,
        .uuid = from->uuid,
    };
}

cuda_ptr cuda_ipc_gpu_address(const struct cuda_ipc *self, const struct cuda_ipc_chunk *chunk)
{
    return cuda_ipc_export_base(self->exports[chunk->segment]) + chunk->offset;
}

int cuda_ipc_gpu_segment(void *ctx, uint32_t number, struct cuda_ipc_share *share_out, int *fd_out)
{
    const struct cuda_ipc *self = ctx;
    const struct cuda_ipc_export *export = self->exports[number];

    if (cuda_ipc_export_share(export)->type == CUDA_IPC_SHARE_NONE) {
        return -ENOENT;
    }
    *share_out = *cuda_ipc_export_share(export);
    *fd_out = cuda_ipc_export_fd(export);
    return 0;
}

/* ---- opening ---- */

/* Unpinned memory is slower, but works. */
static void gpu_pin_store(struct cuda_ipc *self)
{
    struct kvl_err err = {.size = sizeof(err)};
    void *base = NULL;
    uint64_t bytes = 0;
    int r = KVL_HAS_OP(self->host, store_range) ? self->host->store_range(self->host, &base, &bytes)
                                                : -ENOTSUP;

    self->has_pinned = true;
    if (r < 0 || bytes == 0 || !self->options.pin_store) {
        return;
    }
    r = cuda_ipc_copy_pin(self->copy, base, bytes, &err);
    self->is_pinned = r == 0 || r == -EEXIST;
    if (!self->is_pinned) {
        kvl_warn(self->host->log,
                 "cuda_ipc: the own store (%llu bytes) cannot be pinned, copies to and from it go "
                 "over small pinned buffers: %s",
                 (unsigned long long)bytes, err.text);
    }
}

static int gpu_add_segment(struct cuda_ipc *self, const struct cuda_ipc_place *place,
                           uint64_t bytes, struct kvl_err *err)
{
    struct cuda_ipc_export *export;
    uint32_t number;
    int r = cuda_ipc_export_create(place, bytes, self->options.ways, &export, err);

    if (r < 0) {
        return r;
    }
    r = cuda_ipc_pool_add_segment(self->pool, place->ordinal, bytes, &number);
    if (r < 0) {
        cuda_ipc_export_destroy(export);
        return kvl_fail(err, r, "too many segments");
    }
    self->exports[number] = export;
    return 0;
}

/* Says once per device how its pool is shared when that is not the first way. */
static void gpu_tell_way(struct cuda_ipc *self, const struct cuda_ipc_export *export)
{
    const struct cuda_ipc_share *share = cuda_ipc_export_share(export);
    const char *cause = cuda_ipc_export_cause(export);

    if (share->type == CUDA_IPC_SHARE_NONE && self->options.ways != CUDA_IPC_EXPORT_PRIVATE) {
        kvl_error(self->host->log,
                  "cuda_ipc: the pool cannot be mapped by peers, they get its chunks over host "
                  "memory: %s",
                  cause);
    } else if (cause[0] != '\0') {
        kvl_warn(self->host->log, "cuda_ipc: the pool is shared by descriptors: %s", cause);
    }
}

/* A pool that is smaller than wanted is no failure: the engine has taken the memory first. */
static void gpu_fill_pool(struct cuda_ipc *self, int device)
{
    const struct cuda_ipc_place place = cuda_ipc_gpu_place(self, device);
    struct kvl_err err = {.size = sizeof(err)};
    uint64_t done = 0;
    int r = 0;

    while (r == 0 && done < self->options.pool) {
        const uint64_t left = self->options.pool - done;
        const uint64_t bytes = left < self->options.segment ? left : self->options.segment;

        r = gpu_add_segment(self, &place, bytes, &err);
        done += r == 0 ? bytes : 0;
    }
    if (r < 0) {
        self->is_short = true;
        kvl_warn(self->host->log,
                 "cuda_ipc: the pool on device %d has %llu bytes in place of %llu: %s", device,
                 (unsigned long long)done, (unsigned long long)self->options.pool, err.text);
    }
    for (uint32_t i = 0; done > 0 && i < CUDA_IPC_POOL_SEGMENTS_MAX; i++) {
        if (self->exports[i] != NULL && memcmp(&cuda_ipc_export_share(self->exports[i])->uuid,
                                               &place.uuid, sizeof(place.uuid)) == 0) {
            gpu_tell_way(self, self->exports[i]);
            break;
        }
    }
}

static int gpu_open(struct cuda_ipc *self, int device, struct kvl_err *err)
{
    int r = cuda_ipc_copy_open(self->copy, device, err);

    if (r < 0) {
        return r;
    }
    if (!self->has_pinned) {
        gpu_pin_store(self);
    }
    gpu_fill_pool(self, device);
    atomic_fetch_or(&self->ready, 1ull << device);
    kvl_info(self->host->log, "cuda_ipc: device %d (%s) is ready, %llu bytes of pool", device,
             self->devices.all[device].name,
             (unsigned long long)cuda_ipc_pool_room(self->pool, device));
    return 0;
}

int cuda_ipc_gpu_ready(struct cuda_ipc *self, int device, struct kvl_err *err)
{
    int r = 0;

    if (device < 0 || (uint32_t)device >= self->devices.count ||
        (self->allowed >> device & 1) == 0) {
        return kvl_fail(err, -ENODEV,
                        "cuda_ipc: device %d is not one of the %u visible ones, or not in the "
                        "option devices",
                        device, self->devices.count);
    }
    if ((atomic_load(&self->ready) >> device & 1) != 0) {
        return 0;
    }
    pthread_mutex_lock(&self->gpu_lock);
    if ((atomic_load(&self->ready) >> device & 1) == 0) {
        r = gpu_open(self, device, err);
    }
    pthread_mutex_unlock(&self->gpu_lock);
    return r;
}

int cuda_ipc_gpu_home(struct cuda_ipc *self)
{
    const uint64_t ready = atomic_load(&self->ready);

    return __builtin_ctzll(ready != 0 ? ready : self->allowed);
}

void cuda_ipc_gpu_check(struct cuda_ipc *self, int device)
{
    const uint64_t bit = 1ull << device;

    if (cuda_ipc_device_state(&self->devices.all[device]) == 0 ||
        (atomic_fetch_or(&self->dropped, bit) & bit) != 0) {
        return;
    }
    cuda_ipc_pool_drop_device(self->pool, device);
}

/* ---- KV caches ---- */

/* Device that a KVCache message names. @return its ordinal; -ENODEV and so on. */
static int gpu_find_device(struct cuda_ipc *self, const struct kvl_kv *kv, struct kvl_err *err)
{
    struct kvl_ipc_value value = {.size = sizeof(value), .kind = KVL_IPC_KV_CACHE};
    char text[CUDA_IPC_UUID_TEXT];
    int device = -ENODEV;
    int r;

    value.room = CUDA_IPC_TORCH_LAYERS_MAX;
    value.wrappers = malloc(value.room * sizeof(*value.wrappers));
    if (value.wrappers == NULL) {
        return kvl_fail(err, -ENOMEM, "cuda_ipc: no memory for a KV cache");
    }
    r = kvl_ipc_table.decode(NULL, kv->kvcache, kv->kvcache_bytes, &value, err);
    if (r == -ENOSPC) {
        r = kvl_fail(err, -EMSGSIZE, "cuda_ipc: a KV cache of %u layers, at most %u are taken",
                     value.count, CUDA_IPC_TORCH_LAYERS_MAX);
    } else if (r == 0 && value.count == 0) {
        r = kvl_fail(err, -EINVAL, "cuda_ipc: a KV cache without layers");
    }
    for (uint32_t i = 0; r == 0 && i < self->devices.count; i++) {
        const struct kvl_ipc_bytes *uuid = &value.wrappers[0].device_uuid;

        kvl_ipc_table.uuid_text((const uint8_t *)self->devices.all[i].uuid.bytes, text);
        if (uuid->length == strlen(text) && memcmp(uuid->at, text, uuid->length) == 0) {
            device = (int)i;
        }
    }
    if (r == 0 && device < 0) {
        r = kvl_fail(err, -ENODEV,
                     "cuda_ipc: the KV cache is on device '%.*s', which is not visible here",
                     (int)value.wrappers[0].device_uuid.length,
                     (const char *)value.wrappers[0].device_uuid.at);
    }
    free(value.wrappers);
    return r < 0 ? r : device;
}

static int gpu_register_opened(struct cuda_ipc *self, const struct kvl_kv *kv, uint64_t *kv_out,
                               struct kvl_err *err)
{
    const int device = gpu_find_device(self, kv, err);
    int r = device < 0 ? device : cuda_ipc_gpu_ready(self, device, err);
    struct cuda_ipc_torch *torch = NULL;
    struct cuda_ipc_place place;
    uint64_t number = 0;
    const struct cuda_ipc_torch_env env = {
        .map = self->map,
        .places = &place,
        .place_count = 1,
        .ipc = &kvl_ipc_table,
        .log = self->host->log,
        .deadline_ms = self->host->now_ms(self->host) + REGISTER_MS,
    };

    if (r < 0) {
        return r;
    }
    place = cuda_ipc_gpu_place(self, device);
    r = cuda_ipc_torch_open(&env, kv->kvcache, kv->kvcache_bytes, &torch, err);
    if (r < 0) {
        return r;
    }
    r = cuda_ipc_kvs_add(&self->kvs, &self->devices, cuda_ipc_torch_kv(torch), &number, err);
    if (r == 0 && cuda_ipc_reap_add(self->reap, number, torch) < 0) {
        (void)cuda_ipc_kvs_remove(&self->kvs, number);
        r = kvl_fail(err, -ENOMEM, "cuda_ipc: no memory for a KV cache");
    }
    if (r < 0) {
        cuda_ipc_torch_close(torch);
        return r;
    }
    *kv_out = number;
    return 0;
}

int cuda_ipc_gpu_register(struct cuda_ipc *self, const struct kvl_kv *kv, uint64_t *kv_out,
                          struct kvl_err *err)
{
    int r;

    if (atomic_load(&self->state) != CUDA_IPC_RUNNING) {
        return kvl_fail(err, -ECANCELED, "cuda_ipc: stopping");
    }
    if (kv->size < sizeof(*kv)) {
        return kvl_fail(err, -EINVAL, "cuda_ipc: size %u of a KV cache's record, it must be %zu",
                        kv->size, sizeof(*kv));
    }
    if (kv->kvcache != NULL) {
        return gpu_register_opened(self, kv, kv_out, err);
    }
    r = cuda_ipc_gpu_ready(self, kv->device, err);
    return r < 0 ? r : cuda_ipc_kvs_add(&self->kvs, &self->devices, kv, kv_out, err);
}

int cuda_ipc_gpu_unregister(struct cuda_ipc *self, uint64_t kv)
{
    const int r = cuda_ipc_kvs_remove(&self->kvs, kv);

    if (r == 0) {
        cuda_ipc_reap_remove(self->reap, kv);
    }
    return r;
}

/* ---- the end ---- */

void cuda_ipc_gpu_free(struct cuda_ipc *self)
{
    if (!self->has_memory) {
        return;
    }
    self->has_memory = false;
    cuda_ipc_kvs_fini(&self->kvs);
    cuda_ipc_reap_close(self->reap);
    for (uint32_t i = 0; !self->keeps_memory && i < CUDA_IPC_POOL_SEGMENTS_MAX; i++) {
        cuda_ipc_export_destroy(self->exports[i]);
        self->exports[i] = NULL;
    }
    cuda_ipc_map_close(self->map);
    self->map = NULL;
}
