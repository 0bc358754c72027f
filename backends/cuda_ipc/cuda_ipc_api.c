/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda_ipc_api.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "setting.h"

/** cuGetProcAddress_v2 */
typedef cuda_result (*cuda_ipc_finder)(const char *name, void **fn_out, int version, uint64_t flags,
                                       unsigned int *status_out);

/** One slot of the table and where it comes from. */
struct cuda_ipc_call {
    uint32_t slot; /* offset in struct cuda_ipc_api */
    uint16_t since; /* version whose ABI the slot has; asking for a later one may give another */
    uint16_t optional;
    const char *name; /* for cuGetProcAddress */
    const char *symbol; /* for dlsym, which needs the suffix; NULL: dlsym gives another ABI */
};

#define CALL_FULL(slot_, name_, symbol_, since_, optional_)                                        \
    {                                                                                              \
        .slot = offsetof(struct cuda_ipc_api, slot_), .since = (since_), .optional = (optional_),  \
        .name = (name_), .symbol = (symbol_)                                                       \
    }
#define CALL(slot_, name_, since_) CALL_FULL(slot_, name_, name_, since_, 0)
#define CALL_V2(slot_, name_, since_) CALL_FULL(slot_, name_, name_ "_v2", since_, 0)
#define OPTIONAL(slot_, name_, since_) CALL_FULL(slot_, name_, name_, since_, 1)

static const struct cuda_ipc_call cuda_ipc_calls[] = {
    CALL(init, "cuInit", 2000),
    CALL(device_get_count, "cuDeviceGetCount", 2000),
    CALL(device_get, "cuDeviceGet", 2000),
    CALL(device_get_name, "cuDeviceGetName", 2000),
    CALL_V2(device_get_uuid, "cuDeviceGetUuid", 11040),
    CALL(device_get_attribute, "cuDeviceGetAttribute", 2000),
    CALL(device_can_access_peer, "cuDeviceCanAccessPeer", 4000),
    CALL(device_primary_ctx_retain, "cuDevicePrimaryCtxRetain", 7000),
    CALL_V2(device_primary_ctx_release, "cuDevicePrimaryCtxRelease", 11000),
    CALL(ctx_set_current, "cuCtxSetCurrent", 4000),
    CALL(ctx_get_current, "cuCtxGetCurrent", 4000),
    CALL_V2(ctx_push_current, "cuCtxPushCurrent", 4000),
    CALL_V2(ctx_pop_current, "cuCtxPopCurrent", 4000),
    CALL(ctx_get_device, "cuCtxGetDevice", 2000),
    CALL(ctx_get_stream_priority_range, "cuCtxGetStreamPriorityRange", 5050),
    CALL_V2(mem_alloc, "cuMemAlloc", 3020),
    CALL_V2(mem_free, "cuMemFree", 3020),
    CALL_V2(mem_get_address_range, "cuMemGetAddressRange", 3020),
    CALL_V2(mem_get_info, "cuMemGetInfo", 3020),
    CALL(mem_host_alloc, "cuMemHostAlloc", 2020),
    CALL(mem_free_host, "cuMemFreeHost", 2000),
    CALL_V2(mem_host_register, "cuMemHostRegister", 6050),
    CALL(mem_host_unregister, "cuMemHostUnregister", 4000),
    CALL_V2(mem_host_get_device_pointer, "cuMemHostGetDevicePointer", 3020),
    CALL(pointer_get_attribute, "cuPointerGetAttribute", 4000),
    CALL(pointer_get_attributes, "cuPointerGetAttributes", 7000),
    CALL(memcpy_async, "cuMemcpyAsync", 4000),
    CALL_V2(memcpy_dtod_async, "cuMemcpyDtoDAsync", 3020),
    CALL_V2(memcpy_dtoh_async, "cuMemcpyDtoHAsync", 3020),
    CALL_V2(memcpy_htod_async, "cuMemcpyHtoDAsync", 3020),
    CALL_V2(memcpy_2d_async, "cuMemcpy2DAsync", 3020),
    CALL(stream_create_with_priority, "cuStreamCreateWithPriority", 5050),
    CALL_V2(stream_destroy, "cuStreamDestroy", 4000),
    CALL(stream_synchronize, "cuStreamSynchronize", 2000),
    CALL(stream_query, "cuStreamQuery", 2000),
    CALL(stream_wait_event, "cuStreamWaitEvent", 3020),
    CALL(launch_host_func, "cuLaunchHostFunc", 10000),
    CALL(event_create, "cuEventCreate", 2000),
    CALL_V2(event_destroy, "cuEventDestroy", 4000),
    CALL(event_record, "cuEventRecord", 2000),
    CALL(event_query, "cuEventQuery", 2000),
    CALL(event_synchronize, "cuEventSynchronize", 2000),
    CALL(ipc_get_mem_handle, "cuIpcGetMemHandle", 4010),
    CALL_V2(ipc_open_mem_handle, "cuIpcOpenMemHandle", 11000),
    CALL(ipc_close_mem_handle, "cuIpcCloseMemHandle", 4010),
    CALL(ipc_get_event_handle, "cuIpcGetEventHandle", 4010),
    CALL(ipc_open_event_handle, "cuIpcOpenEventHandle", 4010),
    CALL(module_load_data, "cuModuleLoadData", 2000),
    CALL(module_unload, "cuModuleUnload", 2000),
    CALL(module_get_function, "cuModuleGetFunction", 2000),
    CALL(func_set_attribute, "cuFuncSetAttribute", 9000),
    CALL(launch_kernel, "cuLaunchKernel", 4000),
    /* dlsym knows the first of these as .._v2; but every driver that has it can be asked */
    CALL_FULL(memcpy_batch_async_13000, "cuMemcpyBatchAsync", NULL, 13000, 1),
    CALL_FULL(memcpy_batch_async_12080, "cuMemcpyBatchAsync", NULL, 12080, 1),
    OPTIONAL(thread_exchange_stream_capture_mode, "cuThreadExchangeStreamCaptureMode", 10010),
    OPTIONAL(mem_create, "cuMemCreate", 10020),
    OPTIONAL(mem_release, "cuMemRelease", 10020),
    OPTIONAL(mem_address_reserve, "cuMemAddressReserve", 10020),
    OPTIONAL(mem_address_free, "cuMemAddressFree", 10020),
    OPTIONAL(mem_map, "cuMemMap", 10020),
    OPTIONAL(mem_unmap, "cuMemUnmap", 10020),
    OPTIONAL(mem_set_access, "cuMemSetAccess", 10020),
    OPTIONAL(mem_get_allocation_granularity, "cuMemGetAllocationGranularity", 10020),
    OPTIONAL(mem_export_to_shareable_handle, "cuMemExportToShareableHandle", 10020),
    OPTIONAL(mem_import_from_shareable_handle, "cuMemImportFromShareableHandle", 10020),
    OPTIONAL(mem_retain_allocation_handle, "cuMemRetainAllocationHandle", 11000),
    OPTIONAL(mem_get_allocation_properties_from_handle, "cuMemGetAllocationPropertiesFromHandle",
             10020),
};
#define CALLS (sizeof(cuda_ipc_calls) / sizeof(cuda_ipc_calls[0]))

/* Needed before the rest: they say how old the driver is, and why it cannot be used. */
static const struct cuda_ipc_call cuda_ipc_first[] = {
    CALL(driver_get_version, "cuDriverGetVersion", 2020),
    CALL(get_error_name, "cuGetErrorName", 6000),
    CALL(get_error_string, "cuGetErrorString", 6000),
};
#define FIRST (sizeof(cuda_ipc_first) / sizeof(cuda_ipc_first[0]))

/** Where a table is being filled from. */
struct cuda_ipc_source {
    void *library;
    const char *path;
    cuda_ipc_finder find; /* NULL: the driver is older than 12.0 */
};

static int cuda_ipc_refuse(const struct cuda_ipc_api *api, struct kvl_err *err, const char *path,
                           const char *call, cuda_result code)
{
    char text[CUDA_IPC_TEXT_MAX];

    cuda_ipc_api_explain(api, call, code, text, sizeof(text));
    if (err != NULL && err->size >= sizeof(*err)) {
        err->backend_code = (int32_t)code;
    }
    return kvl_fail(err, -ENODEV, "cuda_ipc: the driver '%s' is of no use: %s", path, text);
}

/* On success *fn_out may still be NULL: the driver has no such function. */
static cuda_result cuda_ipc_find(const struct cuda_ipc_source *source,
                                 const struct cuda_ipc_call *call, void **fn_out)
{
    unsigned int status = CUDA_PROC_NOT_FOUND;
    void *fn = NULL;
    cuda_result code = CUDA_OK;

    if (source->find == NULL) {
        fn = call->symbol == NULL ? NULL : dlsym(source->library, call->symbol);
    } else {
        code = source->find(call->name, &fn, call->since, CUDA_PROC_LEGACY_STREAM, &status);
        /* some drivers say "not found" by a code instead of the status */
        if (code == CUDA_E_NOT_FOUND || (code == CUDA_OK && status != CUDA_PROC_FOUND)) {
            fn = NULL;
            code = CUDA_OK;
        }
    }
    *fn_out = fn;
    return code;
}

/* A driver asked for an ABI newer than itself may hand out its own, so such rows are not asked. */
static int cuda_ipc_fill(const struct cuda_ipc_source *source, const struct cuda_ipc_call *calls,
                         size_t count, int version, struct cuda_ipc_api *api, struct kvl_err *err)
{
    for (size_t i = 0; i < count; i++) {
        void *fn = NULL;
        cuda_result code = CUDA_OK;

        if (calls[i].since <= version) {
            code = cuda_ipc_find(source, &calls[i], &fn);
        }
        if (code != CUDA_OK) {
            return cuda_ipc_refuse(NULL, err, source->path, "cuGetProcAddress", code);
        }
        if (fn == NULL && !calls[i].optional) {
            return kvl_fail(err, -ENODEV, "cuda_ipc: the driver '%s' has no function %s",
                            source->path, calls[i].name);
        }
        memcpy((char *)api + calls[i].slot, &fn, sizeof(fn));
    }
    return 0;
}

static int cuda_ipc_load(const struct cuda_ipc_source *source, struct cuda_ipc_api *api,
                         struct kvl_err *err)
{
    cuda_result code;
    int r = cuda_ipc_fill(source, cuda_ipc_first, FIRST, CUDA_IPC_VERSION_MIN, api, err);

    if (r < 0) {
        return r;
    }
    code = api->driver_get_version(&api->version);
    if (code != CUDA_OK) {
        return cuda_ipc_refuse(api, err, source->path, "cuDriverGetVersion", code);
    }
    if (api->version < CUDA_IPC_VERSION_MIN) {
        return kvl_fail(err, -ENODEV,
                        "cuda_ipc: the driver '%s' is for CUDA %d.%d, too old: %d.%d is needed",
                        source->path, api->version / 1000, api->version % 1000 / 10,
                        CUDA_IPC_VERSION_MIN / 1000, CUDA_IPC_VERSION_MIN % 1000 / 10);
    }
    return cuda_ipc_fill(source, cuda_ipc_calls, CALLS, api->version, api, err);
}

static int cuda_ipc_init(const char *path, struct cuda_ipc_api *api, struct kvl_err *err)
{
    cuda_result code = api->init(0);

    if (code != CUDA_OK) {
        return cuda_ipc_refuse(api, err, path, "cuInit", code);
    }
    code = api->device_get_count(&api->device_count);
    if (code == CUDA_OK && api->device_count < 1) {
        code = CUDA_E_NO_DEVICE;
    }
    return code == CUDA_OK ? 0 : cuda_ipc_refuse(api, err, path, "cuDeviceGetCount", code);
}

int cuda_ipc_api_open(const char *path, struct cuda_ipc_api *api_out, struct kvl_err *err)
{
    struct cuda_ipc_source source = {.path = path};
    struct cuda_ipc_api api = {.library = NULL};
    void *find;
    int r;

    if (path == NULL || path[0] == '\0') {
        source.path = CUDA_IPC_LIBRARY;
    }
    source.library = dlopen(source.path, RTLD_NOW | RTLD_LOCAL);
    if (source.library == NULL) {
        return kvl_fail(err, -ENODEV, "cuda_ipc: no CUDA driver here: %s", dlerror());
    }
    find = dlsym(source.library, "cuGetProcAddress_v2");
    memcpy(&source.find, &find, sizeof(find));
    r = cuda_ipc_load(&source, &api, err);
    if (r < 0) {
        dlclose(source.library);
        return r;
    }
    /* From here on the library stays: it may have threads, also when it says that it failed. */
    r = cuda_ipc_init(source.path, &api, err);
    if (r < 0) {
        return r;
    }
    api.library = source.library;
    *api_out = api;
    return 0;
}

int cuda_ipc_api_has_vmm(const struct cuda_ipc_api *api)
{
    return api->mem_create != NULL && api->mem_release != NULL &&
           api->mem_address_reserve != NULL && api->mem_address_free != NULL &&
           api->mem_map != NULL && api->mem_unmap != NULL && api->mem_set_access != NULL &&
           api->mem_get_allocation_granularity != NULL &&
           api->mem_export_to_shareable_handle != NULL &&
           api->mem_import_from_shareable_handle != NULL &&
           api->mem_retain_allocation_handle != NULL &&
           api->mem_get_allocation_properties_from_handle != NULL;
}

cuda_result cuda_ipc_api_push(const struct cuda_ipc_api *api, cuda_context context,
                              struct cuda_ipc_stay *stay)
{
    const cuda_result code = api->ctx_push_current(context);

    *stay = (struct cuda_ipc_stay){.capture_mode = CUDA_CAPTURE_RELAXED};
    if (code != CUDA_OK) {
        return code;
    }
    stay->is_inside = 1;
    stay->is_relaxed = api->thread_exchange_stream_capture_mode != NULL &&
                       api->thread_exchange_stream_capture_mode(&stay->capture_mode) == CUDA_OK;
    return CUDA_OK;
}

void cuda_ipc_api_pop(const struct cuda_ipc_api *api, struct cuda_ipc_stay *stay)
{
    cuda_context context;

    if (stay->is_relaxed) {
        (void)api->thread_exchange_stream_capture_mode(&stay->capture_mode);
    }
    if (stay->is_inside) {
        (void)api->ctx_pop_current(&context);
    }
}

int cuda_ipc_api_enter(const struct cuda_ipc_api *api, cuda_context context)
{
    cuda_context current = NULL;
    cuda_result code = api->ctx_get_current(&current);

    if (code == CUDA_OK && current != context) {
        code = api->ctx_set_current(context);
    }
    return cuda_ipc_api_errno(code);
}
