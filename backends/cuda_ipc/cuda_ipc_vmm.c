/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda_ipc_vmm.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "setting.h"

static const char vmm_cannot_make[] = "cannot allocate memory to share as a descriptor";
static const char vmm_cannot_map[] = "cannot map memory from a descriptor";

static struct cuda_mem_prop vmm_prop(const struct cuda_ipc_place *place)
{
    return (struct cuda_mem_prop){
        .type = CUDA_MEM_PINNED,
        .handle_types = CUDA_HANDLE_FD,
        .location = {.type = CUDA_LOCATION_DEVICE, .id = place->device},
    };
}

int cuda_ipc_vmm_check(const struct cuda_ipc_place *place, struct kvl_err *err)
{
    const struct cuda_ipc_api *api = place->api;
    int vmm = 0;
    int fd = 0;

    if (!cuda_ipc_api_has_vmm(api)) {
        return kvl_fail(err, -ENOTSUP, "cuda_ipc: the driver has no virtual memory functions");
    }
    if (api->device_get_attribute(&vmm, CUDA_DEVICE_VMM, place->device) != CUDA_OK || vmm == 0 ||
        api->device_get_attribute(&fd, CUDA_DEVICE_POSIX_FD, place->device) != CUDA_OK || fd == 0) {
        return kvl_fail(err, -ENOTSUP, "cuda_ipc: device %d cannot share memory as descriptors",
                        place->ordinal);
    }
    return 0;
}

static int vmm_export(const struct cuda_ipc_place *place, cuda_mem mem, int *fd_out,
                      struct kvl_err *err)
{
    int fd = -1;
    cuda_result code = place->api->mem_export_to_shareable_handle(&fd, mem, CUDA_HANDLE_FD, 0);

    if (code != CUDA_OK) {
        return cuda_ipc_place_fail(place, err, vmm_cannot_make, "cuMemExportToShareableHandle",
                                   code);
    }
    (void)fcntl(fd, F_SETFD, FD_CLOEXEC);
    *fd_out = fd;
    return 0;
}

/* Takes `mem` in any case: once mapped, the mapping alone keeps it. */
static int vmm_map(const struct cuda_ipc_place *place, cuda_ptr at, uint64_t bytes, cuda_mem mem,
                   const char *what, struct kvl_err *err)
{
    const struct cuda_ipc_api *api = place->api;
    const struct cuda_access access = {
        .location = {.type = CUDA_LOCATION_DEVICE, .id = place->device},
        .flags = CUDA_ACCESS_READ_WRITE,
    };
    cuda_result code = api->mem_map(at, bytes, 0, mem, 0);

    (void)api->mem_release(mem);
    if (code != CUDA_OK) {
        return cuda_ipc_place_fail(place, err, what, "cuMemMap", code);
    }
    code = api->mem_set_access(at, bytes, &access, 1);
    if (code != CUDA_OK) {
        (void)api->mem_unmap(at, bytes);
        return cuda_ipc_place_fail(place, err, what, "cuMemSetAccess", code);
    }
    return 0;
}

/* Takes `mem` in any case. */
static int vmm_place(const struct cuda_ipc_place *place, uint64_t bytes, cuda_mem mem,
                     cuda_ptr *base_out, struct kvl_err *err)
{
    const struct cuda_ipc_api *api = place->api;
    cuda_ptr base = 0;
    cuda_result code = api->mem_address_reserve(&base, bytes, 0, 0, 0);
    int r;

    if (code != CUDA_OK) {
        (void)api->mem_release(mem);
        return cuda_ipc_place_fail(place, err, vmm_cannot_make, "cuMemAddressReserve", code);
    }
    r = vmm_map(place, base, bytes, mem, vmm_cannot_make, err);
    if (r < 0) {
        (void)api->mem_address_free(base, bytes);
        return r;
    }
    *base_out = base;
    return 0;
}

static int vmm_round_up(const struct cuda_ipc_place *place, const struct cuda_mem_prop *prop,
                        uint64_t *bytes, struct kvl_err *err)
{
    size_t unit = 0;
    cuda_result code =
        place->api->mem_get_allocation_granularity(&unit, prop, CUDA_GRANULARITY_MINIMUM);

    if (code != CUDA_OK || unit == 0) {
        return cuda_ipc_place_fail(place, err, vmm_cannot_make, "cuMemGetAllocationGranularity",
                                   code);
    }
    if (__builtin_add_overflow(*bytes, unit - 1, bytes)) {
        return kvl_fail(err, -ENOMEM, "cuda_ipc: no device has that much memory");
    }
    *bytes -= *bytes % unit;
    return 0;
}

static int vmm_create(const struct cuda_ipc_place *place, uint64_t bytes, cuda_ptr *base_out,
                      uint64_t *bytes_out, int *fd_out, struct kvl_err *err)
{
    const struct cuda_mem_prop prop = vmm_prop(place);
    cuda_mem mem = 0;
    cuda_result code;
    int fd = -1;
    int r = vmm_round_up(place, &prop, &bytes, err);

    if (r < 0) {
        return r;
    }
    code = place->api->mem_create(&mem, bytes, &prop, 0);
    if (code != CUDA_OK) {
        return cuda_ipc_place_fail(place, err, vmm_cannot_make, "cuMemCreate", code);
    }
    r = vmm_export(place, mem, &fd, err);
    if (r < 0) {
        (void)place->api->mem_release(mem);
        return r;
    }
    r = vmm_place(place, bytes, mem, base_out, err);
    if (r < 0) {
        close(fd);
        return r;
    }
    *bytes_out = bytes;
    *fd_out = fd;
    return 0;
}

/* Enters when it can be done at all. */
static int vmm_enter(const struct cuda_ipc_place *place, struct cuda_ipc_stay *stay,
                     struct kvl_err *err)
{
    int r = cuda_ipc_vmm_check(place, err);

    return r < 0 ? r : cuda_ipc_place_enter(place, stay, err);
}

int cuda_ipc_vmm_create(const struct cuda_ipc_place *place, uint64_t bytes, cuda_ptr *base_out,
                        uint64_t *bytes_out, int *fd_out, struct kvl_err *err)
{
    struct cuda_ipc_stay stay;
    int r = vmm_enter(place, &stay, err);

    if (r == 0) {
        r = vmm_create(place, bytes, base_out, bytes_out, fd_out, err);
        cuda_ipc_place_leave(place, &stay);
    }
    return r;
}

static int vmm_import_one(const struct cuda_ipc_place *place, cuda_ptr at, uint64_t bytes, int fd,
                          struct kvl_err *err)
{
    cuda_mem mem = 0;
    cuda_result code = place->api->mem_import_from_shareable_handle(
        &mem, (void *)(uintptr_t)(unsigned)fd, CUDA_HANDLE_FD);

    if (code != CUDA_OK) {
        return cuda_ipc_place_fail(place, err, vmm_cannot_map, "cuMemImportFromShareableHandle",
                                   code);
    }
    return vmm_map(place, at, bytes, mem, vmm_cannot_map, err);
}

static void vmm_unmap(const struct cuda_ipc_place *place, cuda_ptr base, uint32_t count,
                      uint64_t segment_bytes)
{
    for (uint32_t i = 0; i < count; i++) {
        (void)place->api->mem_unmap(base + i * segment_bytes, segment_bytes);
    }
}

/* One at a time: a large cache has more segments than a process may have descriptors. */
static int vmm_import_all(const struct cuda_ipc_place *place, cuda_ptr base, uint32_t count,
                          uint64_t segment_bytes, cuda_ipc_segment_fn fetch, void *ctx,
                          struct kvl_err *err)
{
    for (uint32_t i = 0; i < count; i++) {
        int fd = -1;
        int r = fetch(ctx, i, &fd, err);

        if (r == 0) {
            r = vmm_import_one(place, base + i * segment_bytes, segment_bytes, fd, err);
            close(fd);
        }
        if (r < 0) {
            vmm_unmap(place, base, i, segment_bytes);
            return r;
        }
    }
    return 0;
}

int cuda_ipc_vmm_import(const struct cuda_ipc_place *place, uint32_t count, uint64_t segment_bytes,
                        cuda_ipc_segment_fn fetch, void *ctx, cuda_ptr *base_out,
                        struct kvl_err *err)
{
    struct cuda_ipc_stay stay;
    uint64_t bytes;
    cuda_ptr base = 0;
    cuda_result code;
    int r;

    if (__builtin_mul_overflow(segment_bytes, count, &bytes) || bytes == 0) {
        return kvl_fail(err, -EBADMSG, "cuda_ipc: %u segments of %llu bytes cannot be mapped",
                        count, (unsigned long long)segment_bytes);
    }
    r = vmm_enter(place, &stay, err);
    if (r < 0) {
        return r;
    }
    code = place->api->mem_address_reserve(&base, bytes, 0, 0, 0);
    if (code == CUDA_OK) {
        r = vmm_import_all(place, base, count, segment_bytes, fetch, ctx, err);
        if (r < 0) {
            (void)place->api->mem_address_free(base, bytes);
        }
    } else {
        r = cuda_ipc_place_fail(place, err, vmm_cannot_map, "cuMemAddressReserve", code);
    }
    cuda_ipc_place_leave(place, &stay);
    if (r == 0) {
        *base_out = base;
    }
    return r;
}

void cuda_ipc_vmm_free(const struct cuda_ipc_place *place, cuda_ptr base, uint32_t count,
                       uint64_t segment_bytes)
{
    struct cuda_ipc_stay stay;

    if (cuda_ipc_place_enter(place, &stay, NULL) == 0) {
        vmm_unmap(place, base, count, segment_bytes);
        (void)place->api->mem_address_free(base, count * segment_bytes);
        cuda_ipc_place_leave(place, &stay);
    }
}
