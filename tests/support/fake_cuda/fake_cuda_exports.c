/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the library exports, how it is found, and the names of codes. Where a name has had several
 * ABIs, those that the backend must not get are traps.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fake_cuda_objects.h"

/* ---- traps ---- */

__attribute__((noreturn)) static void trap(const char *symbol)
{
    fprintf(stderr, "fake_cuda: %s was called, which has another ABI than the caller thinks\n",
            symbol);
    abort();
}

#define TRAP(symbol)                                                                               \
    KVL_EXPORT cuda_result symbol(void);                                                           \
    cuda_result symbol(void)                                                                       \
    {                                                                                              \
        trap(#symbol);                                                                             \
    }

/* what dlsym gives for a name without its suffix */
TRAP(cuDeviceGetUuid)
TRAP(cuDevicePrimaryCtxRelease)
TRAP(cuCtxPushCurrent)
TRAP(cuCtxPopCurrent)
TRAP(cuMemAlloc)
TRAP(cuMemFree)
TRAP(cuMemGetAddressRange)
TRAP(cuMemGetInfo)
TRAP(cuMemHostRegister)
TRAP(cuMemHostGetDevicePointer)
TRAP(cuMemcpyDtoDAsync)
TRAP(cuMemcpyDtoHAsync)
TRAP(cuMemcpyHtoDAsync)
TRAP(cuMemcpy2DAsync)
TRAP(cuStreamDestroy)
TRAP(cuEventDestroy)
TRAP(cuIpcOpenMemHandle)
/* what comes to whoever asks for the newest version */
TRAP(cuCtxGetDevice_v2)

/* ---- the table ---- */

#define EXPORT(name_, since_, fn_)                                                                 \
    {                                                                                              \
        .name = (name_), .since = (since_), .fn = (void (*)(void))(fn_)                            \
    }
#define SAME(name_, since_) EXPORT(#name_, since_, name_)
#define NEWER(name_, since_) EXPORT(#name_, since_, name_##_v2)

const struct fake_export fake_exports[] = {
    SAME(cuInit, 2000),
    SAME(cuDriverGetVersion, 2020),
    SAME(cuGetErrorName, 6000),
    SAME(cuGetErrorString, 6000),
    NEWER(cuGetProcAddress, 12000),
    SAME(cuDeviceGetCount, 2000),
    SAME(cuDeviceGet, 2000),
    SAME(cuDeviceGetName, 2000),
    SAME(cuDeviceGetUuid, 9020),
    NEWER(cuDeviceGetUuid, 11040),
    SAME(cuDeviceGetAttribute, 2000),
    SAME(cuDeviceCanAccessPeer, 4000),
    SAME(cuDevicePrimaryCtxRetain, 7000),
    SAME(cuDevicePrimaryCtxRelease, 7000),
    NEWER(cuDevicePrimaryCtxRelease, 11000),
    SAME(cuCtxSetCurrent, 4000),
    SAME(cuCtxGetCurrent, 4000),
    SAME(cuCtxPushCurrent, 2000),
    NEWER(cuCtxPushCurrent, 4000),
    SAME(cuCtxPopCurrent, 2000),
    NEWER(cuCtxPopCurrent, 4000),
    SAME(cuCtxGetDevice, 2000),
    NEWER(cuCtxGetDevice, 13000),
    SAME(cuCtxGetStreamPriorityRange, 5050),
    SAME(cuMemAlloc, 2000),
    NEWER(cuMemAlloc, 3020),
    SAME(cuMemFree, 2000),
    NEWER(cuMemFree, 3020),
    SAME(cuMemGetAddressRange, 2000),
    NEWER(cuMemGetAddressRange, 3020),
    SAME(cuMemGetInfo, 2000),
    NEWER(cuMemGetInfo, 3020),
    SAME(cuMemHostAlloc, 2020),
    SAME(cuMemFreeHost, 2000),
    SAME(cuMemHostRegister, 4000),
    NEWER(cuMemHostRegister, 6050),
    SAME(cuMemHostUnregister, 4000),
    SAME(cuMemHostGetDevicePointer, 2020),
    NEWER(cuMemHostGetDevicePointer, 3020),
    SAME(cuPointerGetAttribute, 4000),
    SAME(cuPointerGetAttributes, 7000),
    SAME(cuMemcpyAsync, 4000),
    SAME(cuMemcpyDtoDAsync, 3000),
    NEWER(cuMemcpyDtoDAsync, 3020),
    SAME(cuMemcpyDtoHAsync, 2000),
    NEWER(cuMemcpyDtoHAsync, 3020),
    SAME(cuMemcpyHtoDAsync, 2000),
    NEWER(cuMemcpyHtoDAsync, 3020),
    SAME(cuMemcpy2DAsync, 2000),
    NEWER(cuMemcpy2DAsync, 3020),
    SAME(cuMemcpyBatchAsync, 12080),
    NEWER(cuMemcpyBatchAsync, 13000),
    SAME(cuStreamCreateWithPriority, 5050),
    SAME(cuStreamDestroy, 2000),
    NEWER(cuStreamDestroy, 4000),
    SAME(cuStreamSynchronize, 2000),
    SAME(cuStreamQuery, 2000),
    SAME(cuStreamWaitEvent, 3020),
    SAME(cuThreadExchangeStreamCaptureMode, 10010),
    SAME(cuLaunchHostFunc, 10000),
    SAME(cuEventCreate, 2000),
    SAME(cuEventDestroy, 2000),
    NEWER(cuEventDestroy, 4000),
    SAME(cuEventRecord, 2000),
    SAME(cuEventQuery, 2000),
    SAME(cuEventSynchronize, 2000),
    SAME(cuIpcGetMemHandle, 4010),
    SAME(cuIpcOpenMemHandle, 4010),
    NEWER(cuIpcOpenMemHandle, 11000),
    SAME(cuIpcCloseMemHandle, 4010),
    SAME(cuIpcGetEventHandle, 4010),
    SAME(cuIpcOpenEventHandle, 4010),
    SAME(cuModuleLoadData, 2000),
    SAME(cuModuleUnload, 2000),
    SAME(cuModuleGetFunction, 2000),
    SAME(cuFuncSetAttribute, 9000),
    SAME(cuLaunchKernel, 4000),
    SAME(cuMemCreate, 10020),
    SAME(cuMemRelease, 10020),
    SAME(cuMemAddressReserve, 10020),
    SAME(cuMemAddressFree, 10020),
    SAME(cuMemMap, 10020),
    SAME(cuMemUnmap, 10020),
    SAME(cuMemSetAccess, 10020),
    SAME(cuMemGetAllocationGranularity, 10020),
    SAME(cuMemExportToShareableHandle, 10020),
    SAME(cuMemImportFromShareableHandle, 10020),
    SAME(cuMemRetainAllocationHandle, 11000),
    SAME(cuMemGetAllocationPropertiesFromHandle, 10020),
};
const uint32_t fake_export_count = sizeof(fake_exports) / sizeof(fake_exports[0]);

/*
 * The newest ABI that is no newer than what is asked for, and that this driver has: so who asks an
 * old driver for a newer ABI than it has gets its own.
 */
cuda_result cuGetProcAddress_v2(const char *name, void **fn_out, int version, uint64_t flags,
                                unsigned int *status_out)
{
    cuda_result code = fake_enter(__func__, FAKE_NOTHING);
    unsigned int status = CUDA_PROC_NOT_FOUND;
    const struct fake_export *best = NULL;

    (void)flags;
    if (code != CUDA_OK) {
        return code;
    }
    for (uint32_t i = 0; i < fake_export_count; i++) {
        const struct fake_export *export = &fake_exports[i];

        if (strcmp(export->name, name) != 0 || export->since > fake_version() ||
            fake_listed(getenv("KVLANE_FAKE_CUDA_HIDE"), name)) {
            continue;
        }
        if (export->since > version) {
            status = best == NULL ? CUDA_PROC_TOO_OLD : status;
        } else if (best == NULL || export->since > best->since) {
            best = export;
            status = CUDA_PROC_FOUND;
        }
    }
    *fn_out = NULL;
    if (best != NULL) {
        memcpy(fn_out, &best->fn, sizeof(*fn_out));
    }
    if (status_out != NULL) {
        *status_out = status;
    }
    return CUDA_OK;
}

/* ---- names of codes ---- */

static const struct {
    cuda_result code;
    const char *name;
    const char *text;
} export_codes[] = {
    {CUDA_OK, "CUDA_SUCCESS", "no error"},
    {CUDA_E_INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {CUDA_E_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {CUDA_E_INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {CUDA_E_ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS",
     "an illegal memory access was encountered"},
    {CUDA_E_LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {716, "CUDA_ERROR_MISALIGNED_ADDRESS", "misaligned address"},
    {CUDA_E_UNKNOWN, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

static cuda_result export_code_text(const char *call, cuda_result asked, int name,
                                    const char **text_out)
{
    cuda_result code = fake_enter(call, FAKE_NOTHING);

    if (code != CUDA_OK) {
        return code;
    }
    *text_out = NULL;
    for (uint32_t i = 0; i < sizeof(export_codes) / sizeof(export_codes[0]); i++) {
        if (export_codes[i].code == asked) {
            *text_out = name ? export_codes[i].name : export_codes[i].text;
            return CUDA_OK;
        }
    }
    return CUDA_E_INVALID_VALUE;
}

cuda_result cuGetErrorName(cuda_result code, const char **name_out)
{
    return export_code_text(__func__, code, 1, name_out);
}

cuda_result cuGetErrorString(cuda_result code, const char **text_out)
{
    return export_code_text(__func__, code, 0, text_out);
}

/* ---- control ---- */

static void export_count_maps(struct fake_cuda_live *live)
{
    for (const struct fake_map *map = fake.maps; map != NULL; map = map->next) {
        live->allocations += map->kind == FAKE_ALLOC;
        live->imports += map->kind == FAKE_IMPORT ? map->opens : 0;
        live->host_allocations += map->kind == FAKE_HOST_ALLOC;
        live->host_registrations += map->kind == FAKE_HOST_REGISTER;
        live->vmm_maps += map->kind == FAKE_VMM;
    }
}

static void export_live(struct fake_cuda_live *live_out)
{
    struct fake_cuda_live live = {.contexts = 0};

    fake_lock();
    for (int i = 0; i < fake.device_count; i++) {
        live.contexts += fake.devices[i].context.retained;
    }
    export_count_maps(&live);
    fake_event_count(&live.events, &live.imported_events);
    live.streams = fake_stream_count();
    live.modules = fake_module_count();
    live.vmm_handles = fake_memory_count();
    live.vmm_reservations = fake_reservation_count();
    fake_unlock();
    *live_out = live;
}

static void export_hold(cuda_stream stream)
{
    fake_lock();
    fake_stream_hold(stream, 1);
    fake_unlock();
}

static void export_release(cuda_stream stream)
{
    fake_lock();
    fake_stream_hold(stream, 0);
    fake_unlock();
}

static uint32_t export_pending(cuda_stream stream)
{
    uint32_t pending;

    fake_lock();
    pending = fake_stream_pending(stream);
    fake_unlock();
    return pending;
}

static int export_touch(cuda_ptr ptr, void *out, const void *in, size_t bytes)
{
    const struct fake_map *map;
    int r = -EFAULT;

    fake_lock();
    map = fake_map_find(ptr);
    if (map != NULL && map->physical >= 0 && bytes <= map->bytes - (ptr - map->base)) {
        memcpy(out == NULL ? fake_host(ptr) : out, in == NULL ? fake_host(ptr) : in, bytes);
        r = 0;
    }
    fake_unlock();
    return r;
}

static int export_peek(void *dst, cuda_ptr src, size_t bytes)
{
    return export_touch(src, dst, NULL, bytes);
}

static int export_poke(cuda_ptr dst, const void *src, size_t bytes)
{
    return export_touch(dst, NULL, src, bytes);
}

static void export_capture_begin(void)
{
    fake_lock();
    fake.capturing = 1;
    fake.capture_broken = 0;
    fake_unlock();
}

static uint32_t export_capture_end(void)
{
    uint32_t broken;

    fake_lock();
    fake.capturing = 0;
    broken = fake.capture_broken;
    fake_unlock();
    return broken;
}

KVL_EXPORT const struct fake_cuda_control *fake_cuda_control(void);

const struct fake_cuda_control *fake_cuda_control(void)
{
    static const struct fake_cuda_control control = {
        .calls = fake_calls,
        .live = export_live,
        .fail_calls = fake_fail_rules,
        .hold = export_hold,
        .release = export_release,
        .pending = export_pending,
        .peek = export_peek,
        .poke = export_poke,
        .capture_begin = export_capture_begin,
        .capture_end = export_capture_end,
    };

    return &control;
}
