/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda_ipc_torch.h"

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_ipc_counter.h"
#include "cuda_ipc_event.h"
#include "cuda_ipc_segment.h"
#include "cuda_ipc_tensor.h"
#include "setting.h"

#define TORCH_UUID_LENGTH 36u

/** A wrapper that was opened: what is given back for it. */
struct torch_layer {
    struct cuda_ipc_ref ref;
    char *counter; /* owned */
    uint64_t slot;
    uint32_t is_open; /* its counter goes down once */
};

struct cuda_ipc_torch {
    const struct kvl_log *log;
    struct cuda_ipc_place place;
    struct cuda_ipc_who who;
    uint32_t generation; /* of forks */
    struct kvl_kv kv;
    uint64_t *bases;
    uint32_t count;
    struct torch_layer layers[];
};

/* ---- the message ---- */

static int torch_decode(const struct cuda_ipc_torch_env *env, const void *kvcache, uint64_t bytes,
                        struct kvl_ipc_value *value, struct kvl_err *err)
{
    int r;

    *value = (struct kvl_ipc_value){.size = sizeof(*value), .kind = KVL_IPC_KV_CACHE};
    r = env->ipc->decode(NULL, kvcache, bytes, value, err);
    if (r == 0) {
        return kvl_fail(err, -EBADMSG, "cuda_ipc: a KV cache without layers");
    }
    if (r != -ENOSPC) {
        return r;
    }
    if (value->count > CUDA_IPC_TORCH_LAYERS_MAX) {
        return kvl_fail(err, -EMSGSIZE, "cuda_ipc: a KV cache of %u layers, at most %u are taken",
                        value->count, CUDA_IPC_TORCH_LAYERS_MAX);
    }
    value->room = value->count;
    value->wrappers = calloc(value->room, sizeof(*value->wrappers));
    if (value->wrappers == NULL) {
        return kvl_fail(err, -ENOMEM, "cuda_ipc: out of memory");
    }
    r = env->ipc->decode(NULL, kvcache, bytes, value, err);
    if (r < 0) {
        free(value->wrappers);
        value->wrappers = NULL;
    }
    return r;
}

static int torch_no_device(const struct kvl_ipc_wrapper *wrapper, struct kvl_err *err)
{
    char text[TORCH_UUID_LENGTH + 1] = "";
    const char *uuid = wrapper->device_uuid.at;
    size_t length = wrapper->device_uuid.length;

    /* it comes from outside: only what can be a UUID is shown */
    if (length == TORCH_UUID_LENGTH) {
        memcpy(text, uuid, length);
    }
    if (strspn(text, "0123456789abcdef-") != TORCH_UUID_LENGTH) {
        return kvl_fail(err, -ENODEV,
                        "cuda_ipc: the KV cache names its device in a way that no "
                        "device is called");
    }
    return kvl_fail(err, -ENODEV,
                    "cuda_ipc: the KV cache is on GPU-%s, which is not used here: look at "
                    "`devices` and at CUDA_VISIBLE_DEVICES",
                    text);
}

static const struct cuda_ipc_place *torch_find_place(const struct cuda_ipc_torch_env *env,
                                                     const struct kvl_ipc_wrapper *wrapper)
{
    char text[CUDA_IPC_UUID_TEXT];

    for (uint32_t i = 0; i < env->place_count; i++) {
        env->ipc->uuid_text((const uint8_t *)env->places[i].uuid.bytes, text);
        if (wrapper->device_uuid.length == TORCH_UUID_LENGTH &&
            memcmp(wrapper->device_uuid.at, text, TORCH_UUID_LENGTH) == 0) {
            return &env->places[i];
        }
    }
    return NULL;
}

static int torch_same_bytes(const struct kvl_ipc_bytes *a, const struct kvl_ipc_bytes *b)
{
    return a->length == b->length && (a->length == 0 || memcmp(a->at, b->at, a->length) == 0);
}

/* All layers must be of one kind, one device and one process. The first one says which. */
static int torch_check_layers(const struct cuda_ipc_torch_env *env,
                              const struct kvl_ipc_value *value, struct cuda_ipc_tensor *tensor_out,
                              uint64_t *pid_out, struct kvl_err *err)
{
    const struct kvl_ipc_wrapper *first = &value->wrappers[0];

    for (uint32_t i = 0; i < value->count; i++) {
        const struct kvl_ipc_wrapper *wrapper = &value->wrappers[i];
        struct cuda_ipc_tensor tensor;
        uint64_t pid;
        int r;

        if ((wrapper->flags & KVL_IPC_NULL_STORAGE) != 0) {
            return kvl_fail(err, -EBADMSG, "cuda_ipc: layer %u has no memory", i);
        }
        r = cuda_ipc_tensor_read(env->ipc, wrapper, &tensor, err);
        if (r < 0) {
            return r;
        }
        if (cuda_ipc_counter_check(wrapper->counter_name.at, wrapper->counter_name.length, &pid) <
            0) {
            return kvl_fail(err, -EBADMSG, "cuda_ipc: layer %u has a counter of no known name", i);
        }
        if (i == 0) {
            *tensor_out = tensor;
            *pid_out = pid;
        } else if (!cuda_ipc_tensor_alike(&tensor, tensor_out) || wrapper->dtype != first->dtype) {
            return kvl_fail(err, -ENOTSUP, "cuda_ipc: layer %u has another layout than layer 0", i);
        } else if (pid != *pid_out ||
                   !torch_same_bytes(&wrapper->device_uuid, &first->device_uuid)) {
            return kvl_fail(err, -ENOTSUP,
                            "cuda_ipc: layer %u is on another device, or of another process, than "
                            "layer 0",
                            i);
        }
    }
    return 0;
}

/* ---- counters ---- */

/* The producer keeps memory that it could use again; nothing else is lost. */
static void torch_probe_counters(const struct cuda_ipc_torch *torch)
{
    static atomic_int told;
    uint32_t used_up = 0;

    for (uint32_t i = 0; i < torch->count; i++) {
        int r = cuda_ipc_counter_probe(torch->layers[i].counter, torch->layers[i].slot);

        if (r == -ERANGE) {
            used_up++;
        } else if (r < 0 && atomic_exchange(&told, 1) == 0) {
            kvl_warn(torch->log,
                     "cuda_ipc: cannot reach the counters '%s' of process %" PRIu64 ": %s; it will "
                     "not use that memory again. Both processes need the same /dev/shm (host IPC)",
                     torch->layers[i].counter, torch->who.pid,
                     r == -EBADMSG ? "not such a file" : strerror(-r));
        }
    }
    if (used_up > 0) {
        kvl_warn(torch->log,
                 "cuda_ipc: process %" PRIu64 " shared %u layers that have been taken before",
                 torch->who.pid, used_up);
    }
}

/* In a child of a fork the layers are the parent's, who goes on using them. */
static void torch_drop_layer(struct cuda_ipc_torch *torch, struct torch_layer *layer)
{
    int r;

    if (!layer->is_open || torch->generation != cuda_ipc_who_generation()) {
        return;
    }
    /* first the mapping: a counter of 0 says that we are done with it */
    cuda_ipc_map_release(&layer->ref);
    layer->is_open = 0;
    r = cuda_ipc_counter_drop(layer->counter, layer->slot);
    if (r < 0) {
        kvl_debug(torch->log, "cuda_ipc: counter %" PRIu64 " of '%s' was not taken down: %s",
                  layer->slot, layer->counter, strerror(-r));
    }
}

/* ---- one layer ---- */

static int torch_wait(const struct cuda_ipc_torch_env *env, const struct cuda_ipc_place *place,
                      const struct kvl_ipc_wrapper *wrapper, struct kvl_err *err)
{
    struct cuda_ipc_event_handle handle;
    cuda_event event;
    int r;

    if ((wrapper->flags & KVL_IPC_EVENT_SYNC) == 0) {
        return 0;
    }
    if (wrapper->event.length != sizeof(handle.bytes)) {
        return kvl_fail(err, -EBADMSG, "cuda_ipc: an event of %llu bytes",
                        (unsigned long long)wrapper->event.length);
    }
    memcpy(handle.bytes, wrapper->event.at, sizeof(handle.bytes));
    r = cuda_ipc_event_open(place, &handle, &event, err);
    if (r < 0) {
        return r;
    }
    r = cuda_ipc_event_wait(place, event, env->deadline_ms, err);
    cuda_ipc_event_close(place, event);
    return r;
}

static int torch_map_segments(const struct cuda_ipc_torch_env *env,
                              const struct cuda_ipc_torch *torch,
                              const struct kvl_ipc_handle *handle, struct cuda_ipc_ref *ref_out,
                              struct kvl_err *err)
{
    struct cuda_ipc_segment_source source = {
        .ipc = env->ipc, .handle = handle, .who = torch->who, .pidfd = -1};
    const struct cuda_ipc_segments segments = {
        .who = torch->who,
        .segment_bytes = handle->segment_bytes,
        .count = handle->count > UINT32_MAX ? UINT32_MAX : (uint32_t)handle->count,
        .name_bytes = handle->item_bytes,
        .names = handle->items.at,
    };
    int r;

    if (handle->pid < 0 || (uint64_t)handle->pid != torch->who.pid) {
        return kvl_fail(err, -EBADMSG, "cuda_ipc: handle and counter are of different processes");
    }
    r = cuda_ipc_map_acquire_segments(env->map, &torch->place, &segments, cuda_ipc_segment_fetch,
                                      &source, ref_out, err);
    cuda_ipc_segment_done(&source);
    return r;
}

static int torch_map(const struct cuda_ipc_torch_env *env, const struct cuda_ipc_torch *torch,
                     const struct kvl_ipc_wrapper *wrapper, struct cuda_ipc_ref *ref_out,
                     struct kvl_err *err)
{
    struct kvl_ipc_handle handle;
    int r = env->ipc->handle_parse(wrapper, &handle, err);

    if (r < 0) {
        return r;
    }
    switch (handle.kind) {
    case KVL_IPC_HANDLE_RAW:
    case KVL_IPC_HANDLE_MALLOC:
        return cuda_ipc_map_acquire_bare(env->map, &torch->place, &torch->who, handle.items.at,
                                         ref_out, err);
    case KVL_IPC_HANDLE_FDS:
        return torch_map_segments(env, torch, &handle, ref_out, err);
    default:
        return kvl_fail(err, -ENOTSUP,
                        "cuda_ipc: process %" PRIu64 " shares expandable segments by fabric "
                        "handles, which cannot be mapped here: set "
                        "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:False there",
                        torch->who.pid);
    }
}

static int torch_open_layer(const struct cuda_ipc_torch_env *env, struct cuda_ipc_torch *torch,
                            uint32_t index, const struct kvl_ipc_wrapper *wrapper,
                            struct kvl_err *err)
{
    struct torch_layer *layer = &torch->layers[index];
    struct cuda_ipc_tensor tensor;
    uint64_t end;
    int r = torch_wait(env, &torch->place, wrapper, err);

    if (r == 0) {
        r = cuda_ipc_tensor_read(env->ipc, wrapper, &tensor, err);
    }
    if (r == 0) {
        r = torch_map(env, torch, wrapper, &layer->ref, err);
    }
    if (r < 0) {
        return r;
    }
    layer->is_open = 1;
    if (__builtin_add_overflow(wrapper->base_offset, wrapper->storage_bytes, &end) ||
        (layer->ref.bytes != 0 && end > layer->ref.bytes)) {
        return kvl_fail(err, -EBADMSG,
                        "cuda_ipc: layer %u ends at byte %" PRIu64 " of an allocation of %" PRIu64,
                        index, wrapper->base_offset + wrapper->storage_bytes, layer->ref.bytes);
    }
    for (uint32_t p = 0; p < torch->kv.planes; p++) {
        torch->bases[p * torch->count + index] =
            layer->ref.base + wrapper->base_offset + tensor.offset + p * tensor.plane_stride;
    }
    return 0;
}

/* ---- all of them ---- */

static int torch_name_layers(struct cuda_ipc_torch *torch, const struct kvl_ipc_value *value)
{
    for (uint32_t i = 0; i < value->count; i++) {
        const struct kvl_ipc_bytes *name = &value->wrappers[i].counter_name;

        torch->layers[i].slot = value->wrappers[i].counter_slot;
        torch->layers[i].counter = strndup(name->at, name->length);
        if (torch->layers[i].counter == NULL) {
            return -ENOMEM;
        }
    }
    return 0;
}

static int torch_create(const struct cuda_ipc_torch_env *env, const struct cuda_ipc_place *place,
                        const struct kvl_ipc_value *value, const struct cuda_ipc_tensor *tensor,
                        struct cuda_ipc_torch **torch_out, struct kvl_err *err)
{
    struct cuda_ipc_torch *torch =
        calloc(1, sizeof(*torch) + value->count * sizeof(torch->layers[0]));

    if (torch == NULL) {
        return kvl_fail(err, -ENOMEM, "cuda_ipc: out of memory");
    }
    torch->log = env->log;
    torch->generation = cuda_ipc_who_generation();
    torch->place = *place;
    torch->count = value->count;
    torch->bases = calloc((size_t)tensor->planes * value->count, sizeof(torch->bases[0]));
    if (torch->bases == NULL || torch_name_layers(torch, value) < 0) {
        cuda_ipc_torch_close(torch);
        return kvl_fail(err, -ENOMEM, "cuda_ipc: out of memory");
    }
    torch->kv = (struct kvl_kv){
        .size = sizeof(torch->kv),
        .mem = KVL_MEM_CUDA,
        .device = place->ordinal,
        .layers = value->count,
        .planes = tensor->planes,
        .block_tokens = tensor->block_tokens,
        .block_count = tensor->block_count,
        .token_bytes = tensor->token_bytes,
        .token_stride = tensor->token_stride,
        .block_stride = tensor->block_stride,
        .bases = torch->bases,
    };
    *torch_out = torch;
    return 0;
}

/* Of a process in another PID namespace the start time is not known, or is that of a stranger: it
 * only names the mappings then. */
static void torch_set_who(struct cuda_ipc_torch *torch, uint64_t pid)
{
    struct cuda_ipc_who self;

    cuda_ipc_who_self(&self);
    torch->who.pid = pid;
    torch->who.pid_namespace = self.pid_namespace;
    (void)cuda_ipc_who_start_time(pid, &torch->who.start_time);
}

static int torch_open(const struct cuda_ipc_torch_env *env, const struct kvl_ipc_value *value,
                      struct cuda_ipc_torch **torch_out, struct kvl_err *err)
{
    const struct cuda_ipc_place *place;
    struct cuda_ipc_torch *torch = NULL;
    struct cuda_ipc_tensor tensor;
    uint64_t pid = 0;
    int r = torch_check_layers(env, value, &tensor, &pid, err);

    if (r < 0) {
        return r;
    }
    place = torch_find_place(env, &value->wrappers[0]);
    if (place == NULL) {
        return torch_no_device(&value->wrappers[0], err);
    }
    r = torch_create(env, place, value, &tensor, &torch, err);
    if (r < 0) {
        return r;
    }
    torch_set_who(torch, pid);
    torch_probe_counters(torch);
    for (uint32_t i = 0; i < value->count && r == 0; i++) {
        r = torch_open_layer(env, torch, i, &value->wrappers[i], err);
    }
    if (r < 0) {
        cuda_ipc_torch_close(torch);
        return r;
    }
    *torch_out = torch;
    return 0;
}

int cuda_ipc_torch_open(const struct cuda_ipc_torch_env *env, const void *kvcache, uint64_t bytes,
                        struct cuda_ipc_torch **torch_out, struct kvl_err *err)
{
    struct kvl_ipc_value value;
    int r = torch_decode(env, kvcache, bytes, &value, err);

    if (r == 0) {
        r = torch_open(env, &value, torch_out, err);
        free(value.wrappers);
    }
    return r;
}

const struct kvl_kv *cuda_ipc_torch_kv(const struct cuda_ipc_torch *torch)
{
    return &torch->kv;
}

const struct cuda_ipc_who *cuda_ipc_torch_who(const struct cuda_ipc_torch *torch)
{
    return &torch->who;
}

void cuda_ipc_torch_close(struct cuda_ipc_torch *torch)
{
    if (torch == NULL) {
        return;
    }
    for (uint32_t i = 0; i < torch->count; i++) {
        torch_drop_layer(torch, &torch->layers[i]);
        free(torch->layers[i].counter);
    }
    free(torch->bases);
    free(torch);
}
