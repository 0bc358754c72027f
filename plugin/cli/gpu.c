/* SPDX-License-Identifier: Apache-2.0 */
#include "gpu.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DRIVER "libcuda.so.1"
#define CODE_OUT_OF_MEMORY 2u
#define STREAM_NON_BLOCKING 1u
#define NAME_ROOM 100

/* Of the driver's ABI what is used here; its names of the types are in the comments. */
struct gpu_calls {
    unsigned (*init)(unsigned flags);
    unsigned (*error_name)(unsigned code, const char **name); /* CUresult */
    unsigned (*device_count)(int *count);
    unsigned (*device_get)(int *device, int ordinal); /* CUdevice */
    unsigned (*device_name)(char *name, int size, int device);
    unsigned (*context_retain)(void **context, int device); /* CUcontext */
    unsigned (*context_release)(int device);
    unsigned (*context_set)(void *context);
    unsigned (*alloc)(unsigned long long *address, size_t bytes); /* CUdeviceptr */
    unsigned (*free)(unsigned long long address);
    unsigned (*pinned_alloc)(void **memory, size_t bytes, unsigned flags);
    unsigned (*pinned_free)(void *memory);
    unsigned (*stream_create)(void **stream, unsigned flags, int priority); /* CUstream */
    unsigned (*stream_destroy)(void *stream);
    unsigned (*stream_wait)(void *stream);
    unsigned (*put)(unsigned long long to, const void *from, size_t bytes, void *stream);
    unsigned (*get)(void *to, unsigned long long from, size_t bytes, void *stream);
};

struct gpu {
    struct gpu_calls calls;
    void *library;
    int device;
    void *context;
    void *stream;
    char error[GPU_TEXT];
};

static const struct {
    const char *symbol;
    size_t slot;
} symbols[] = {
    {"cuInit", offsetof(struct gpu_calls, init)},
    {"cuGetErrorName", offsetof(struct gpu_calls, error_name)},
    {"cuDeviceGetCount", offsetof(struct gpu_calls, device_count)},
    {"cuDeviceGet", offsetof(struct gpu_calls, device_get)},
    {"cuDeviceGetName", offsetof(struct gpu_calls, device_name)},
    {"cuDevicePrimaryCtxRetain", offsetof(struct gpu_calls, context_retain)},
    {"cuDevicePrimaryCtxRelease_v2", offsetof(struct gpu_calls, context_release)},
    {"cuCtxSetCurrent", offsetof(struct gpu_calls, context_set)},
    {"cuMemAlloc_v2", offsetof(struct gpu_calls, alloc)},
    {"cuMemFree_v2", offsetof(struct gpu_calls, free)},
    {"cuMemHostAlloc", offsetof(struct gpu_calls, pinned_alloc)},
    {"cuMemFreeHost", offsetof(struct gpu_calls, pinned_free)},
    {"cuStreamCreateWithPriority", offsetof(struct gpu_calls, stream_create)},
    {"cuStreamDestroy_v2", offsetof(struct gpu_calls, stream_destroy)},
    {"cuStreamSynchronize", offsetof(struct gpu_calls, stream_wait)},
    {"cuMemcpyHtoDAsync_v2", offsetof(struct gpu_calls, put)},
    {"cuMemcpyDtoHAsync_v2", offsetof(struct gpu_calls, get)},
};

/* Keeps what failed. @return 0, or a negative errno for the driver's code. */
static int gpu_check(struct gpu *gpu, const char *what, unsigned code)
{
    const char *name = NULL;

    if (code == 0) {
        return 0;
    }
    if (gpu->calls.error_name(code, &name) != 0 || name == NULL) {
        name = "a code without a name";
    }
    (void)snprintf(gpu->error, sizeof(gpu->error), "%s failed: %s (%u)", what, name, code);
    return code == CODE_OUT_OF_MEMORY ? -ENOMEM : -EIO;
}

static int calls_load(struct gpu *gpu, const char *driver)
{
    const char *path = driver != NULL && driver[0] != '\0' ? driver : DRIVER;

    gpu->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (gpu->library == NULL) {
        (void)snprintf(gpu->error, sizeof(gpu->error), "no CUDA driver: %s", dlerror());
        return -ENODEV;
    }
    for (size_t i = 0; i < sizeof(symbols) / sizeof(symbols[0]); i++) {
        void *symbol = dlsym(gpu->library, symbols[i].symbol);

        if (symbol == NULL) {
            (void)snprintf(gpu->error, sizeof(gpu->error), "'%s' has no %s", path,
                           symbols[i].symbol);
            return -ENODEV;
        }
        /* ISO C has no cast from object to function pointer */
        memcpy((char *)&gpu->calls + symbols[i].slot, &symbol, sizeof(symbol));
    }
    return 0;
}

/* Finds the device. Whatever fails here means that there is none to use. */
static int device_find(struct gpu *gpu, const char *driver, char *name_out)
{
    char name[NAME_ROOM] = "";
    int count = 0;
    int r = calls_load(gpu, driver);

    if (r == 0) {
        r = gpu_check(gpu, "cuInit", gpu->calls.init(0));
    }
    if (r == 0) {
        r = gpu_check(gpu, "cuDeviceGetCount", gpu->calls.device_count(&count));
    }
    if (r == 0 && count < 1) {
        (void)snprintf(gpu->error, sizeof(gpu->error), "the CUDA driver shows no device");
        r = -ENODEV;
    }
    if (r == 0) {
        r = gpu_check(gpu, "cuDeviceGet", gpu->calls.device_get(&gpu->device, 0));
    }
    if (r == 0) {
        r = gpu_check(gpu, "cuDeviceGetName",
                      gpu->calls.device_name(name, (int)sizeof(name), gpu->device));
    }
    (void)snprintf(name_out, GPU_TEXT, "%s", r == 0 ? name : gpu->error);
    return r == 0 ? 0 : -ENODEV;
}

int gpu_probe(const char *driver, char *text_out)
{
    struct gpu gpu = {0};
    int r = device_find(&gpu, driver, text_out);

    /* The library stays: drivers have threads that outlive a dlclose(). */
    return r;
}

int gpu_create(const char *driver, struct gpu **gpu_out, char *text_out)
{
    struct gpu *gpu = calloc(1, sizeof(*gpu));
    int r;

    if (gpu == NULL) {
        (void)snprintf(text_out, GPU_TEXT, "no memory");
        return -ENOMEM;
    }
    r = device_find(gpu, driver, text_out);
    if (r == 0) {
        r = gpu_check(gpu, "cuDevicePrimaryCtxRetain",
                      gpu->calls.context_retain(&gpu->context, gpu->device));
    }
    if (r == 0) {
        r = gpu_check(gpu, "cuCtxSetCurrent", gpu->calls.context_set(gpu->context));
    }
    if (r == 0) {
        r = gpu_check(gpu, "cuStreamCreateWithPriority",
                      gpu->calls.stream_create(&gpu->stream, STREAM_NON_BLOCKING, 0));
    }
    if (r < 0) {
        (void)snprintf(text_out, GPU_TEXT, "%s", gpu->error);
        gpu_destroy(gpu);
        return r;
    }
    *gpu_out = gpu;
    return 0;
}

void gpu_destroy(struct gpu *gpu)
{
    if (gpu == NULL) {
        return;
    }
    if (gpu->stream != NULL) {
        (void)gpu->calls.stream_wait(gpu->stream);
        (void)gpu->calls.stream_destroy(gpu->stream);
    }
    if (gpu->context != NULL) {
        (void)gpu->calls.context_set(NULL);
        (void)gpu->calls.context_release(gpu->device);
    }
    free(gpu);
}

const char *gpu_error(const struct gpu *gpu)
{
    return gpu->error;
}

uint64_t gpu_stream(const struct gpu *gpu)
{
    return (uint64_t)(uintptr_t)gpu->stream;
}

int gpu_alloc(struct gpu *gpu, uint64_t bytes, uint64_t *address_out)
{
    unsigned long long address = 0;
    int r = gpu_check(gpu, "cuMemAlloc", gpu->calls.alloc(&address, bytes));

    if (r == 0) {
        *address_out = address;
    }
    return r;
}

void gpu_free(struct gpu *gpu, uint64_t address)
{
    if (address != 0) {
        (void)gpu->calls.free(address);
    }
}

int gpu_pinned_alloc(struct gpu *gpu, uint64_t bytes, void **memory_out)
{
    return gpu_check(gpu, "cuMemHostAlloc", gpu->calls.pinned_alloc(memory_out, bytes, 0));
}

void gpu_pinned_free(struct gpu *gpu, void *memory)
{
    if (memory != NULL) {
        (void)gpu->calls.pinned_free(memory);
    }
}

int gpu_put(struct gpu *gpu, uint64_t to, const void *from, uint64_t bytes)
{
    return gpu_check(gpu, "cuMemcpyHtoDAsync", gpu->calls.put(to, from, bytes, gpu->stream));
}

int gpu_get(struct gpu *gpu, void *to, uint64_t from, uint64_t bytes)
{
    return gpu_check(gpu, "cuMemcpyDtoHAsync", gpu->calls.get(to, from, bytes, gpu->stream));
}

int gpu_wait(struct gpu *gpu)
{
    return gpu_check(gpu, "cuStreamSynchronize", gpu->calls.stream_wait(gpu->stream));
}
