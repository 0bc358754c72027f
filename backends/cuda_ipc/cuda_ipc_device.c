/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda_ipc_device.h"

#include <errno.h>
#include <string.h>

#include "setting.h"

/* Codes after which the context, and with it every later call, is dead. */
static const cuda_result device_deadly[] = {
    CUDA_E_DEINITIALIZED,
    CUDA_E_ECC_UNCORRECTABLE,
    220, /* CUDA_ERROR_NVLINK_UNCORRECTABLE */
    CUDA_E_ILLEGAL_ADDRESS,
    702, /* CUDA_ERROR_LAUNCH_TIMEOUT */
    CUDA_E_CONTEXT_IS_DESTROYED,
    710, /* CUDA_ERROR_ASSERT */
    714, /* CUDA_ERROR_HARDWARE_STACK_ERROR */
    715, /* CUDA_ERROR_ILLEGAL_INSTRUCTION */
    716, /* CUDA_ERROR_MISALIGNED_ADDRESS */
    717, /* CUDA_ERROR_INVALID_ADDRESS_SPACE */
    718, /* CUDA_ERROR_INVALID_PC */
    CUDA_E_LAUNCH_FAILED,
    CUDA_E_MPS_CLIENT_TERMINATED,
};

static int device_describe(struct cuda_ipc_device *device)
{
    const struct cuda_ipc_api *api = device->api;
    int major = 0;
    int minor = 0;
    cuda_result code = api->device_get(&device->handle, device->ordinal);

    if (code == CUDA_OK) {
        code = api->device_get_uuid(&device->uuid, device->handle);
    }
    if (code == CUDA_OK) {
        code = api->device_get_name(device->name, (int)sizeof(device->name), device->handle);
    }
    if (code == CUDA_OK) {
        code = api->device_get_attribute(&device->processors, CUDA_DEVICE_MULTIPROCESSORS,
                                         device->handle);
    }
    if (code == CUDA_OK) {
        code = api->device_get_attribute(&major, CUDA_DEVICE_CC_MAJOR, device->handle);
    }
    if (code == CUDA_OK) {
        code = api->device_get_attribute(&minor, CUDA_DEVICE_CC_MINOR, device->handle);
    }
    device->capability = 10 * major + minor;
    return (int)code;
}

int cuda_ipc_devices_init(struct cuda_ipc_devices *devices, const struct cuda_ipc_api *api,
                          const struct kvl_log *log, struct kvl_err *err)
{
    memset(devices, 0, sizeof(*devices));
    devices->api = api;
    devices->log = log;
    devices->count = (uint32_t)api->device_count;
    if (devices->count > CUDA_IPC_DEVICES_MAX) {
        devices->count = CUDA_IPC_DEVICES_MAX;
    }
    for (uint32_t i = 0; i < devices->count; i++) {
        struct cuda_ipc_device *device = &devices->all[i];
        char text[CUDA_IPC_TEXT_MAX];
        int code;

        device->api = api;
        device->log = log;
        device->ordinal = (int)i;
        code = device_describe(device);
        if (code != CUDA_OK) {
            cuda_ipc_api_explain(api, "cuDeviceGet", (cuda_result)code, text, sizeof(text));
            return kvl_fail(err, cuda_ipc_api_errno((cuda_result)code), "cuda_ipc: device %u: %s",
                            (unsigned int)i, text);
        }
    }
    (void)pthread_mutex_init(&devices->lock, NULL);
    return 0;
}

/* ---- one device, with its context current ---- */

static void device_close_streams(struct cuda_ipc_device *device)
{
    for (int i = 0; i < CUDA_IPC_LANES; i++) {
        if (device->streams[i] != NULL) {
            (void)device->api->stream_destroy(device->streams[i]);
            device->streams[i] = NULL;
        }
    }
}

static cuda_result device_open_streams(struct cuda_ipc_device *device)
{
    for (int i = 0; i < CUDA_IPC_LANES; i++) {
        const cuda_result code = device->api->stream_create_with_priority(
            &device->streams[i], CUDA_STREAM_NON_BLOCKING, 0);

        if (code != CUDA_OK) {
            device->streams[i] = NULL;
            return code;
        }
    }
    return CUDA_OK;
}

static void device_close(struct cuda_ipc_device *device)
{
    struct cuda_ipc_stay visit;

    device->is_open = false;
    if (atomic_load(&device->lost) == CUDA_E_TIMEOUT) {
        return; /* it hangs, and so would whoever cleans up */
    }
    if (cuda_ipc_device_enter(device, &visit) == 0) {
        device_close_streams(device);
    }
    cuda_ipc_device_leave(device, &visit);
    (void)device->api->device_primary_ctx_release(device->handle);
}

void cuda_ipc_devices_fini(struct cuda_ipc_devices *devices)
{
    if (devices->api == NULL) {
        return;
    }
    for (uint32_t i = 0; i < devices->count; i++) {
        if (devices->all[i].is_open) {
            device_close(&devices->all[i]);
        }
    }
    (void)pthread_mutex_destroy(&devices->lock);
    devices->api = NULL;
}

int cuda_ipc_devices_find(const struct cuda_ipc_devices *devices, const struct cuda_uuid *uuid)
{
    for (uint32_t i = 0; i < devices->count; i++) {
        if (memcmp(&devices->all[i].uuid, uuid, sizeof(*uuid)) == 0) {
            return (int)i;
        }
    }
    return -ENODEV;
}

static int device_refuse(struct cuda_ipc_device *device, const char *call, cuda_result code,
                         struct kvl_err *err)
{
    char text[CUDA_IPC_TEXT_MAX];

    cuda_ipc_api_explain(device->api, call, code, text, sizeof(text));
    return kvl_fail(err, cuda_ipc_api_errno(code), "cuda_ipc: device %d '%s' cannot be used: %s",
                    device->ordinal, device->name, text);
}

static int device_open(struct cuda_ipc_device *device, struct kvl_err *err)
{
    struct cuda_ipc_stay visit;
    cuda_result code = device->api->device_primary_ctx_retain(&device->context, device->handle);
    int r;

    if (code != CUDA_OK) {
        return device_refuse(device, "cuDevicePrimaryCtxRetain", code, err);
    }
    r = cuda_ipc_device_enter(device, &visit);
    if (r == 0) {
        code = device_open_streams(device);
        if (code != CUDA_OK) {
            r = device_refuse(device, "cuStreamCreateWithPriority", code, err);
            device_close_streams(device);
        }
    } else {
        (void)kvl_fail(err, r, "cuda_ipc: the context of device %d cannot be entered",
                       device->ordinal);
    }
    cuda_ipc_device_leave(device, &visit);
    if (r < 0) {
        (void)device->api->device_primary_ctx_release(device->handle);
        return r;
    }
    device->is_open = true;
    return 0;
}

int cuda_ipc_devices_open(struct cuda_ipc_devices *devices, int ordinal,
                          struct cuda_ipc_device **device_out, struct kvl_err *err)
{
    struct cuda_ipc_device *device;
    int r = 0;

    if (ordinal < 0 || (uint32_t)ordinal >= devices->count) {
        return kvl_fail(err, -ENODEV, "cuda_ipc: there is no device %d, this process sees %u",
                        ordinal, (unsigned int)devices->count);
    }
    device = &devices->all[ordinal];
    (void)pthread_mutex_lock(&devices->lock);
    if (!device->is_open) {
        r = device_open(device, err);
    } else if (cuda_ipc_device_state(device) < 0) {
        r = kvl_fail(err, -EIO, "cuda_ipc: device %d is lost: code %u of the driver", ordinal,
                     atomic_load(&device->lost));
    }
    (void)pthread_mutex_unlock(&devices->lock);
    if (r == 0) {
        *device_out = device;
    }
    return r;
}

int cuda_ipc_device_enter(struct cuda_ipc_device *device, struct cuda_ipc_stay *visit)
{
    const cuda_result code = cuda_ipc_api_push(device->api, device->context, visit);

    return code == CUDA_OK ? 0 : cuda_ipc_device_fail(device, "cuCtxPushCurrent", code);
}

void cuda_ipc_device_leave(struct cuda_ipc_device *device, struct cuda_ipc_stay *visit)
{
    cuda_ipc_api_pop(device->api, visit);
}

void cuda_ipc_device_lose(struct cuda_ipc_device *device, const char *call, cuda_result code)
{
    unsigned int none = 0;
    char text[CUDA_IPC_TEXT_MAX];

    if (atomic_compare_exchange_strong(&device->lost, &none, code)) {
        cuda_ipc_api_explain(device->api, call, code, text, sizeof(text));
        kvl_error(device->log, "cuda_ipc: device %d '%s' is lost to this process: %s",
                  device->ordinal, device->name, text);
    }
}

int cuda_ipc_device_fail(struct cuda_ipc_device *device, const char *call, cuda_result code)
{
    for (size_t i = 0; i < sizeof(device_deadly) / sizeof(device_deadly[0]); i++) {
        if (code == device_deadly[i]) {
            cuda_ipc_device_lose(device, call, code);
        }
    }
    return cuda_ipc_api_errno(code);
}

int cuda_ipc_device_state(const struct cuda_ipc_device *device)
{
    return atomic_load(&device->lost) == 0 ? 0 : -EIO;
}

static uint64_t ranges_find(const struct cuda_ipc_ranges *ranges, uint64_t addr)
{
    for (uint32_t i = 0; i < ranges->count; i++) {
        if (addr - ranges->all[i].base < ranges->all[i].bytes) {
            return ranges->all[i].base + ranges->all[i].bytes;
        }
    }
    return addr;
}

/* Memory made of several mappings side by side (expandable segments) has a range for each. What
 * cuMemAlloc gave ends where its range does, also when other memory happens to follow. */
static bool ranges_continue(const struct cuda_ipc_device *device, uint64_t addr)
{
    int is_whole = 0;

    return device->api->pointer_get_attribute(&is_whole, CUDA_POINTER_LEGACY_IPC_CAPABLE, addr) !=
               CUDA_OK ||
           is_whole == 0;
}

/* Where the driver does not tell the extent of memory, as perhaps of imported memory, it still
 * knows which addresses are a device's. */
static bool ranges_known(const struct cuda_ipc_device *device, uint64_t addr, uint64_t bytes)
{
    const uint64_t ends[] = {addr, addr + bytes - 1};

    for (int i = 0; i < 2; i++) {
        unsigned int type = 0;

        if (device->api->pointer_get_attribute(&type, CUDA_POINTER_MEMORY_TYPE, ends[i]) !=
                CUDA_OK ||
            type != CUDA_MEMORY_DEVICE) {
            return false;
        }
    }
    return true;
}

uint64_t cuda_ipc_device_covers(struct cuda_ipc_device *device, struct cuda_ipc_ranges *ranges,
                                uint64_t addr, uint64_t bytes)
{
    uint64_t at = addr;

    while (at - addr < bytes) {
        uint64_t end = ranges_find(ranges, at);
        cuda_ptr base = 0;
        size_t length = 0;

        if (at > addr && !ranges_continue(device, addr)) {
            return at - addr;
        }
        if (end == at) {
            if (device->api->mem_get_address_range(&base, &length, at) != CUDA_OK ||
                at - base >= length) {
                return ranges_known(device, at, bytes - (at - addr)) ? bytes : at - addr;
            }
            ranges->all[ranges->count % 16].base = base;
            ranges->all[ranges->count % 16].bytes = length;
            ranges->count += ranges->count < 16;
            end = base + length;
        }
        at = end;
    }
    return bytes;
}
