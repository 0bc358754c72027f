/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda_ipc_export.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cuda_ipc_vmm.h"
#include "setting.h"

/* Marks buffer ids that are ours, where the driver gives none: its own are far below. */
#define EXPORT_OWN_ID (1ull << 63)

#define EXPORT_TEXT_MAX 512u
#define EXPORT_SPEAKER "cuda_ipc: "

struct cuda_ipc_export {
    struct cuda_ipc_export *next; /* guarded by export_lock, as is refs */
    uint32_t refs; /* 1 until destroyed, and one per mapping of this process */
    uint32_t generation; /* of forks */
    struct cuda_ipc_api api; /* a copy: mappings may outlive the instance */
    struct cuda_ipc_place place;
    struct cuda_ipc_share share;
    uint32_t way; /* CUDA_IPC_EXPORT_ bit */
    int fd;
    char cause[EXPORT_TEXT_MAX];
};

static pthread_mutex_t export_lock = PTHREAD_MUTEX_INITIALIZER;
static struct cuda_ipc_export *export_list;
static _Atomic uint64_t export_next_id = 1;

/* ---- begin and end ---- */

/* The primary context is kept, so that a mapping can outlive the instance that made the place. */
static int export_make(const struct cuda_ipc_place *place, struct cuda_ipc_export **export_out,
                       struct kvl_err *err)
{
    struct cuda_ipc_export *export = calloc(1, sizeof(*export));
    cuda_context context;
    cuda_result code;

    if (export == NULL) {
        return kvl_fail(err, -ENOMEM, "cuda_ipc: out of memory");
    }
    code = place->api->device_primary_ctx_retain(&context, place->device);
    if (code != CUDA_OK) {
        free(export);
        return cuda_ipc_place_fail(place, err, "cannot share memory", "cuDevicePrimaryCtxRetain",
                                   code);
    }
    export->refs = 1;
    export->generation = cuda_ipc_who_generation();
    export->api = *place->api;
    export->place = *place;
    export->place.api = &export->api;
    export->fd = -1;
    export->share.uuid = place->uuid;
    cuda_ipc_who_self(&export->share.who);
    *export_out = export;
    return 0;
}

static void export_free_memory(struct cuda_ipc_export *export)
{
    struct cuda_ipc_stay stay;

    if (export->share.base == 0 || cuda_ipc_place_enter(&export->place, &stay, NULL) < 0) {
        return;
    }
    if (export->way == CUDA_IPC_EXPORT_FD) {
        cuda_ipc_vmm_free(&export->place, export->share.base, 1, export->share.length);
    } else if (export->way != 0) {
        (void)export->api.mem_free(export->share.base);
    }
    cuda_ipc_place_leave(&export->place, &stay);
    export->share.base = 0;
}

static void export_free(struct cuda_ipc_export *export)
{
    export_free_memory(export);
    if (export->fd >= 0) {
        close(export->fd);
    }
    (void)export->api.device_primary_ctx_release(export->place.device);
    free(export);
}

/* Buffer ids tell apart what had the same address one after the other. */
static void export_publish(struct cuda_ipc_export *export)
{
    unsigned long long id = 0;

    if (export->api.pointer_get_attribute(&id, CUDA_POINTER_BUFFER_ID, export->share.base) !=
        CUDA_OK) {
        id = 0;
    }
    export->share.buffer_id = id != 0 ? id : (EXPORT_OWN_ID | atomic_fetch_add(&export_next_id, 1));
    pthread_mutex_lock(&export_lock);
    export->next = export_list;
    export_list = export;
    pthread_mutex_unlock(&export_lock);
}

static void export_unlist(const struct cuda_ipc_export *export)
{
    struct cuda_ipc_export **at = &export_list;

    while (*at != NULL && *at != export) {
        at = &(*at)->next;
    }
    if (*at != NULL) {
        *at = export->next;
    }
}

static void export_unref(struct cuda_ipc_export *export, int unlist)
{
    uint32_t refs;

    if (export == NULL || export->generation != cuda_ipc_who_generation()) {
        return; /* a child's copy is the parent's to free */
    }
    pthread_mutex_lock(&export_lock);
    if (unlist) {
        export_unlist(export);
    }
    refs = --export->refs;
    pthread_mutex_unlock(&export_lock);
    if (refs == 0) {
        export_free(export);
    }
}

void cuda_ipc_export_destroy(struct cuda_ipc_export *export)
{
    export_unref(export, 1);
}

void cuda_ipc_export_return(struct cuda_ipc_export *export)
{
    export_unref(export, 0);
}

/* ---- legacy IPC ---- */

static int export_legacy_handle(struct cuda_ipc_export *export, cuda_ptr base, struct kvl_err *err)
{
    struct cuda_ipc_mem_handle handle;
    cuda_result code = export->api.ipc_get_mem_handle(&handle, base);

    if (code != CUDA_OK) {
        return cuda_ipc_place_fail(&export->place, err, "cannot share memory", "cuIpcGetMemHandle",
                                   code);
    }
    memcpy(export->share.handle, handle.bytes, sizeof(export->share.handle));
    export->share.type = CUDA_IPC_SHARE_LEGACY;
    return 0;
}

/* 1 unless the driver says that it is not: then it is tried. */
static int export_is_legacy_capable(const struct cuda_ipc_api *api, cuda_ptr ptr)
{
    int capable = 1;

    return api->pointer_get_attribute(&capable, CUDA_POINTER_LEGACY_IPC_CAPABLE, ptr) != CUDA_OK ||
           capable != 0;
}

static int export_alloc(struct cuda_ipc_export *export, uint64_t bytes, struct kvl_err *err)
{
    cuda_ptr base = 0;
    cuda_result code = export->api.mem_alloc(&base, bytes);

    if (code != CUDA_OK) {
        return cuda_ipc_place_fail(&export->place, err, "cannot allocate memory", "cuMemAlloc",
                                   code);
    }
    export->share.base = base;
    export->share.length = bytes;
    return 0;
}

static int export_alloc_legacy(struct cuda_ipc_export *export, uint64_t bytes, struct kvl_err *err)
{
    int r = export_alloc(export, bytes, err);

    if (r < 0) {
        return r;
    }
    export->way = CUDA_IPC_EXPORT_LEGACY;
    if (!export_is_legacy_capable(&export->api, export->share.base)) {
        r = kvl_fail(err, -ENOTSUP,
                     "cuda_ipc: memory of device %d cannot be shared by legacy CUDA IPC: MIG, or a "
                     "system without it",
                     export->place.ordinal);
    } else {
        r = export_legacy_handle(export, export->share.base, err);
    }
    if (r < 0) {
        export_free_memory(export);
    }
    return r;
}

/* ---- ways ---- */

static int export_alloc_fd(struct cuda_ipc_export *export, uint64_t bytes, struct kvl_err *err)
{
    cuda_ptr base = 0;
    int r =
        cuda_ipc_vmm_create(&export->place, bytes, &base, &export->share.length, &export->fd, err);

    if (r < 0) {
        return r;
    }
    export->share.base = base;
    export->share.type = CUDA_IPC_SHARE_FD;
    export->way = CUDA_IPC_EXPORT_FD;
    return 0;
}

static int export_alloc_private(struct cuda_ipc_export *export, uint64_t bytes, struct kvl_err *err)
{
    int r = export_alloc(export, bytes, err);

    if (r == 0) {
        export->way = CUDA_IPC_EXPORT_PRIVATE;
    }
    return r;
}

static const struct {
    uint32_t way;
    int (*alloc)(struct cuda_ipc_export *export, uint64_t bytes, struct kvl_err *err);
} export_ways[] = {
    {CUDA_IPC_EXPORT_LEGACY, export_alloc_legacy},
    {CUDA_IPC_EXPORT_FD, export_alloc_fd},
    {CUDA_IPC_EXPORT_PRIVATE, export_alloc_private},
};

/* Whoever shows the cause says who speaks. */
static void export_add_cause(struct cuda_ipc_export *export, const struct kvl_err *err)
{
    size_t used = strlen(export->cause);
    size_t speaker = strncmp(err->text, EXPORT_SPEAKER, strlen(EXPORT_SPEAKER)) == 0
                         ? strlen(EXPORT_SPEAKER)
                         : 0;

    snprintf(export->cause + used, sizeof(export->cause) - used, "%s%s", used == 0 ? "" : "; ",
             err->text + speaker);
}

/* A device that is full is full by every way. */
static int export_try(struct cuda_ipc_export *export, uint64_t bytes, uint32_t ways,
                      struct kvl_err *err)
{
    int r = -EINVAL;

    for (size_t i = 0; i < sizeof(export_ways) / sizeof(export_ways[0]); i++) {
        struct kvl_err why = {.size = sizeof(why)};

        if ((ways & export_ways[i].way) == 0) {
            continue;
        }
        r = export_ways[i].alloc(export, bytes, &why);
        if (r == 0) {
            return 0;
        }
        export_add_cause(export, &why);
        if (r == -ENOMEM) {
            break;
        }
    }
    return kvl_fail(err, r, EXPORT_SPEAKER "%s", export->cause);
}

int cuda_ipc_export_create(const struct cuda_ipc_place *place, uint64_t bytes, uint32_t ways,
                           struct cuda_ipc_export **export_out, struct kvl_err *err)
{
    struct cuda_ipc_stay stay;
    struct cuda_ipc_export *export = NULL;
    int r;

    if (bytes == 0 || (ways & CUDA_IPC_EXPORT_ALL) == 0) {
        return kvl_fail(err, -EINVAL, "cuda_ipc: nothing to allocate, or no way to");
    }
    r = export_make(place, &export, err);
    if (r < 0) {
        return r;
    }
    r = cuda_ipc_place_enter(&export->place, &stay, err);
    if (r == 0) {
        r = export_try(export, bytes, ways, err);
        if (r == 0) {
            export_publish(export);
        }
        cuda_ipc_place_leave(&export->place, &stay);
    }
    if (r < 0) {
        export_free(export);
        return r;
    }
    *export_out = export;
    return 0;
}

/* ---- what it is ---- */

const struct cuda_ipc_share *cuda_ipc_export_share(const struct cuda_ipc_export *export)
{
    return &export->share;
}

cuda_ptr cuda_ipc_export_base(const struct cuda_ipc_export *export)
{
    return export->share.base;
}

uint64_t cuda_ipc_export_bytes(const struct cuda_ipc_export *export)
{
    return export->share.length;
}

int cuda_ipc_export_fd(const struct cuda_ipc_export *export)
{
    return export->fd;
}

const char *cuda_ipc_export_cause(const struct cuda_ipc_export *export)
{
    return export->cause;
}

int cuda_ipc_export_borrow(const struct cuda_ipc_share *share, struct cuda_ipc_export **export_out)
{
    struct cuda_ipc_export *export;

    pthread_mutex_lock(&export_lock);
    for (export = export_list; export != NULL; export = export->next) {
        if (memcmp(&export->share, share, sizeof(*share)) == 0) {
            export->refs++;
            break;
        }
    }
    pthread_mutex_unlock(&export_lock);
    if (export == NULL) {
        return -ENOENT;
    }
    *export_out = export;
    return 0;
}
