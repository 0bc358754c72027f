/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda_ipc_mapping.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_ipc_vmm.h"
#include "ipc.h"
#include "setting.h"

#define MAPPING_TEXT_MAX 96u

/* ---- what it is ---- */

static void mapping_fill_share(struct cuda_ipc_mapping *mapping, const struct cuda_ipc_share *share)
{
    mapping->type = share->type;
    mapping->length = share->length;
    mapping->buffer_id = share->buffer_id;
    mapping->exporter = share->who;
    memcpy(mapping->handle, share->handle, sizeof(mapping->handle));
    mapping->segments = 1;
    mapping->segment_bytes = share->length;
}

static int mapping_fill_segments(struct cuda_ipc_mapping *mapping,
                                 const struct cuda_ipc_segments *segments)
{
    mapping->names = malloc(mapping->name.count);
    if (mapping->names == NULL) {
        return -ENOMEM;
    }
    memcpy(mapping->names, segments->names, mapping->name.count);
    mapping->type = CUDA_IPC_SHARE_FD;
    mapping->exporter = segments->who;
    mapping->segments = segments->count;
    mapping->segment_bytes = segments->segment_bytes;
    mapping->length = segments->segment_bytes * segments->count;
    return 0;
}

struct cuda_ipc_mapping *cuda_ipc_mapping_create(const struct cuda_ipc_api *api,
                                                 const struct cuda_ipc_wish *wish)
{
    struct cuda_ipc_mapping *mapping = calloc(1, sizeof(*mapping));

    if (mapping == NULL) {
        return NULL;
    }
    mapping->name = wish->name;
    mapping->place = *wish->place;
    mapping->place.api = api;
    if (wish->share != NULL) {
        mapping_fill_share(mapping, wish->share);
    } else if (wish->segments != NULL) {
        if (mapping_fill_segments(mapping, wish->segments) < 0) {
            free(mapping);
            return NULL;
        }
    } else {
        mapping->type = CUDA_IPC_SHARE_LEGACY;
        mapping->exporter = *wish->exporter;
        memcpy(mapping->handle, wish->name.handle, sizeof(mapping->handle));
    }
    mapping->charged = mapping->length;
    return mapping;
}

void cuda_ipc_mapping_destroy(struct cuda_ipc_mapping *mapping)
{
    if (mapping != NULL) {
        free(mapping->names);
        free(mapping);
    }
}

int cuda_ipc_mapping_is(const struct cuda_ipc_mapping *mapping, const struct cuda_ipc_wish *wish)
{
    return memcmp(&mapping->name, &wish->name, sizeof(mapping->name)) == 0 &&
           (wish->segments == NULL ||
            memcmp(mapping->names, wish->segments->names, mapping->name.count) == 0);
}

int cuda_ipc_mapping_fits(const struct cuda_ipc_mapping *mapping, const struct cuda_ipc_wish *wish)
{
    const struct cuda_ipc_share *share = wish->share;

    return share == NULL || (mapping->type == share->type && mapping->length == share->length &&
                             mapping->buffer_id == share->buffer_id &&
                             memcmp(mapping->handle, share->handle, sizeof(mapping->handle)) == 0);
}

int cuda_ipc_mapping_overlaps(const struct cuda_ipc_mapping *mapping,
                              const struct cuda_ipc_mapping *other)
{
    if (mapping->name.context != other->name.context) {
        return 0;
    }
    if (mapping->name.kind != CUDA_IPC_MAPPING_SHARE ||
        other->name.kind != CUDA_IPC_MAPPING_SHARE) {
        return 1; /* a bare handle does not say where it lies */
    }
    return cuda_ipc_who_equal(&mapping->name.who, &other->name.who) &&
           mapping->name.base < other->name.base + other->length &&
           other->name.base < mapping->name.base + mapping->length;
}

/* ---- may this device reach it ---- */

static int mapping_no_device(const struct cuda_ipc_share *share, struct kvl_err *err)
{
    char text[CUDA_IPC_UUID_TEXT];

    kvl_ipc_table.uuid_text((const uint8_t *)share->uuid.bytes, text);
    return kvl_fail(err, -ENODEV,
                    "cuda_ipc: the memory of process %" PRIu64 " is on GPU-%s, which is not "
                    "visible here: look at CUDA_VISIBLE_DEVICES and the devices of the container",
                    share->who.pid, text);
}

/* Ordinals differ from process to process: only the UUID says which device it is. */
static int mapping_find_device(const struct cuda_ipc_api *api, const struct cuda_uuid *uuid,
                               cuda_device *device_out)
{
    for (int i = 0; i < api->device_count; i++) {
        struct cuda_uuid found;
        cuda_device device;

        if (api->device_get(&device, i) == CUDA_OK &&
            api->device_get_uuid(&found, device) == CUDA_OK &&
            memcmp(&found, uuid, sizeof(found)) == 0) {
            *device_out = device;
            return 0;
        }
    }
    return -ENODEV;
}

static int mapping_check_device(const struct cuda_ipc_place *place,
                                const struct cuda_ipc_share *share, struct kvl_err *err)
{
    cuda_device device = 0;
    int can = 0;

    if (memcmp(&place->uuid, &share->uuid, sizeof(share->uuid)) == 0) {
        return 0;
    }
    if (mapping_find_device(place->api, &share->uuid, &device) < 0) {
        return mapping_no_device(share, err);
    }
    if (place->api->device_can_access_peer(&can, place->device, device) != CUDA_OK || can == 0) {
        return kvl_fail(err, -ENOTSUP, "cuda_ipc: devices %d and %d cannot reach each other",
                        place->ordinal, device);
    }
    return 0;
}

/* ---- open and close ---- */

static int mapping_open_legacy(struct cuda_ipc_mapping *mapping, struct kvl_err *err)
{
    const struct cuda_ipc_api *api = mapping->place.api;
    struct cuda_ipc_mem_handle handle;
    char what[MAPPING_TEXT_MAX];
    cuda_result code;

    memcpy(handle.bytes, mapping->handle, sizeof(handle.bytes));
    code = api->ipc_open_mem_handle(&mapping->base, handle, CUDA_IPC_LAZY_PEER_ACCESS);
    if (code == CUDA_OK) {
        return 0;
    }
    snprintf(what, sizeof(what), "cannot map memory of process %" PRIu64, mapping->exporter.pid);
    return cuda_ipc_place_fail(&mapping->place, err, what, "cuIpcOpenMemHandle", code);
}

/* The descriptor stays the caller's, and the importer closes what it is given. */
static int mapping_lend_fd(void *ctx, uint32_t index, int *fd_out, struct kvl_err *err)
{
    const int *fd = ctx;
    int copy = fcntl(*fd, F_DUPFD_CLOEXEC, 0);

    (void)index;
    if (copy < 0) {
        return kvl_fail(err, -errno, "cuda_ipc: no descriptor left: %s", strerror(errno));
    }
    *fd_out = copy;
    return 0;
}

static int mapping_open_fds(struct cuda_ipc_mapping *mapping, const struct cuda_ipc_wish *wish,
                            struct kvl_err *err)
{
    int fd = wish->fd;

    return cuda_ipc_vmm_import(&mapping->place, mapping->segments, mapping->segment_bytes,
                               wish->segments == NULL ? mapping_lend_fd : wish->fetch,
                               wish->segments == NULL ? &fd : wish->ctx, &mapping->base, err);
}

static void mapping_unmap(struct cuda_ipc_mapping *mapping)
{
    if (mapping->type == CUDA_IPC_SHARE_LEGACY) {
        (void)mapping->place.api->ipc_close_mem_handle(mapping->base);
    } else {
        cuda_ipc_vmm_free(&mapping->place, mapping->base, mapping->segments,
                          mapping->segment_bytes);
    }
}

/* Not every driver tells the length of imported memory; what the exporter told then has to do. */
static int mapping_check_length(struct cuda_ipc_mapping *mapping, struct kvl_err *err)
{
    cuda_ptr base = 0;
    size_t length = 0;

    mapping->bytes = mapping->length;
    if (mapping->type != CUDA_IPC_SHARE_LEGACY ||
        mapping->place.api->mem_get_address_range(&base, &length, mapping->base) != CUDA_OK ||
        length == 0) {
        return 0;
    }
    if (length < mapping->length) {
        return kvl_fail(err, -EBADMSG,
                        "cuda_ipc: process %" PRIu64 " told of %" PRIu64 " bytes of memory, but "
                        "has %zu there",
                        mapping->exporter.pid, mapping->length, length);
    }
    if (mapping->length == 0) {
        mapping->bytes = length;
    }
    return 0;
}

static int mapping_open_here(struct cuda_ipc_mapping *mapping, const struct cuda_ipc_wish *wish,
                             struct kvl_err *err)
{
    int r = mapping->type == CUDA_IPC_SHARE_LEGACY ? mapping_open_legacy(mapping, err)
                                                   : mapping_open_fds(mapping, wish, err);

    if (r < 0) {
        return r;
    }
    r = mapping_check_length(mapping, err);
    if (r < 0) {
        mapping_unmap(mapping);
    }
    return r;
}

int cuda_ipc_mapping_open(struct cuda_ipc_mapping *mapping, const struct cuda_ipc_wish *wish,
                          struct kvl_err *err)
{
    struct cuda_ipc_stay stay;
    const struct cuda_ipc_place *place = &mapping->place;
    cuda_context context;
    cuda_result code;
    int r = wish->share == NULL ? 0 : mapping_check_device(place, wish->share, err);

    if (r < 0) {
        return r;
    }
    code = place->api->device_primary_ctx_retain(&context, place->device);
    if (code != CUDA_OK) {
        return cuda_ipc_place_fail(place, err, "cannot map memory", "cuDevicePrimaryCtxRetain",
                                   code);
    }
    r = cuda_ipc_place_enter(place, &stay, err);
    if (r == 0) {
        r = mapping_open_here(mapping, wish, err);
        cuda_ipc_place_leave(place, &stay);
    }
    if (r < 0) {
        (void)place->api->device_primary_ctx_release(place->device);
    }
    return r;
}

void cuda_ipc_mapping_close(struct cuda_ipc_mapping *mapping)
{
    struct cuda_ipc_stay stay;
    const struct cuda_ipc_place *place = &mapping->place;

    if (cuda_ipc_place_enter(place, &stay, NULL) == 0) {
        mapping_unmap(mapping);
        cuda_ipc_place_leave(place, &stay);
    }
    (void)place->api->device_primary_ctx_release(place->device);
}
