/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cuda_ipc_api.h"

/** What a code is to the callers, and what a person can do about it. */
struct cuda_ipc_code {
    cuda_result code;
    const char *name;
    int error;
    const char *cure; /* NULL: the name says enough */
};

#define CODE(name_, error_, cure_)                                                                 \
    {                                                                                              \
        .code = CUDA_E_##name_, .name = "CUDA_ERROR_" #name_, .error = (error_), .cure = (cure_)   \
    }

static const struct cuda_ipc_code cuda_ipc_codes[] = {
    {CUDA_OK, "CUDA_SUCCESS", 0, NULL},
    CODE(INVALID_VALUE, -EINVAL, NULL),
    CODE(OUT_OF_MEMORY, -ENOMEM, "the GPU's memory is used up"),
    CODE(NOT_INITIALIZED, -ENODEV, NULL),
    CODE(DEINITIALIZED, -ECANCELED, "the process is ending"),
    CODE(STUB_LIBRARY, -ENODEV,
         "this is the stub for linking: take its folder (lib64/stubs) off the library path"),
    CODE(CALL_REQUIRES_NEWER_DRIVER, -ENOTSUP, "a newer driver is needed"),
    CODE(DEVICE_UNAVAILABLE, -ENODEV,
         "the GPU is taken exclusively: look at its compute mode with nvidia-smi"),
    CODE(NO_DEVICE, -ENODEV,
         "no GPU is visible: look at CUDA_VISIBLE_DEVICES and at the devices of the container"),
    CODE(INVALID_DEVICE, -ENODEV, "look at CUDA_VISIBLE_DEVICES"),
    CODE(INVALID_IMAGE, -ENOTSUP, NULL),
    CODE(INVALID_CONTEXT, -EACCES, "no context of the device is current on this thread"),
    CODE(MAP_FAILED, -EIO, NULL),
    CODE(ALREADY_MAPPED, -EBUSY, "an older mapping of that memory is still open"),
    CODE(NO_BINARY_FOR_GPU, -ENOTSUP, "the kernels were not built for this GPU"),
    CODE(PEER_ACCESS_UNSUPPORTED, -ENOTSUP, "the two GPUs cannot reach each other"),
    CODE(INVALID_PTX, -ENOTSUP, NULL),
    CODE(JIT_COMPILER_NOT_FOUND, -ENOTSUP,
         "libnvidia-ptxjitcompiler.so.1 of the driver is missing, often in a container"),
    CODE(UNSUPPORTED_PTX_VERSION, -ENOTSUP, "a newer driver is needed"),
    CODE(INVALID_HANDLE, -ESTALE, NULL),
    CODE(NOT_FOUND, -ENOTSUP, NULL),
    CODE(NOT_READY, -EINPROGRESS, NULL),
    CODE(LAUNCH_OUT_OF_RESOURCES, -ENOTSUP, NULL),
    CODE(TOO_MANY_PEERS, -ENOTSUP,
         "this GPU has its maximum of peers: let fewer GPUs share memory with it"),
    CODE(HOST_MEMORY_ALREADY_REGISTERED, -EBUSY, NULL),
    CODE(HOST_MEMORY_NOT_REGISTERED, -EINVAL, NULL),
    CODE(NOT_PERMITTED, -EACCES, NULL),
    CODE(NOT_SUPPORTED, -ENOTSUP, NULL),
    CODE(SYSTEM_NOT_READY, -ENODEV, "nvidia-fabricmanager or the driver is still starting"),
    CODE(SYSTEM_DRIVER_MISMATCH, -ENODEV,
         "library and kernel module are of different versions: reload the module or reboot"),
    CODE(COMPAT_NOT_SUPPORTED_ON_DEVICE, -ENODEV,
         "this GPU cannot use the forward compatibility package: take cuda-compat off the path"),
    CODE(MPS_CONNECTION_FAILED, -ENOTCONN, "the MPS server is away"),
    CODE(MPS_RPC_FAILURE, -ENOTCONN, "the MPS server is away"),
    CODE(MPS_SERVER_NOT_READY, -ENOTCONN, "the MPS server is still starting"),
    CODE(MPS_MAX_CLIENTS_REACHED, -EAGAIN, "the MPS server takes no more clients"),
    CODE(MPS_MAX_CONNECTIONS_REACHED, -EAGAIN, "the MPS server takes no more clients"),
    CODE(MPS_CLIENT_TERMINATED, -ENOTCONN, "the MPS server ended this client"),
    CODE(STREAM_CAPTURE_UNSUPPORTED, -EBUSY, "another thread is capturing a CUDA graph"),
    CODE(TIMEOUT, -ETIMEDOUT, NULL),
    /* every other code, the sticky ones (700, 719, ..) among them, is -EIO */
};

/* The same code means something of its own where another process's handle is opened. */
static const struct cuda_ipc_code cuda_ipc_open_codes[] = {
    {CUDA_E_INVALID_VALUE, NULL, 0,
     "the other process has freed it or ended, or the handle is damaged"},
    {CUDA_E_INVALID_CONTEXT, NULL, 0,
     "both processes must share a PID namespace (host PID, shareProcessNamespace), the handle "
     "must come from another process, and a context must be current on this thread"},
    {CUDA_E_MAP_FAILED, NULL, 0,
     "look whether both processes see the GPU, are under the same MPS server or none, and "
     "whether the container hands devices out by CDI or DRA"},
    {CUDA_E_INVALID_HANDLE, NULL, 0, "the other process has freed it or ended"},
    {CUDA_E_NOT_SUPPORTED, NULL, 0,
     "this memory or GPU cannot be shared: MIG, memory of an async or expandable-segments "
     "allocator (PYTORCH_CUDA_ALLOC_CONF), or a system without CUDA IPC"},
};

static const struct cuda_ipc_code *cuda_ipc_code_in(const struct cuda_ipc_code *codes, size_t count,
                                                    cuda_result code)
{
    for (size_t i = 0; i < count; i++) {
        if (codes[i].code == code) {
            return &codes[i];
        }
    }
    return NULL;
}

static const struct cuda_ipc_code *cuda_ipc_code_find(cuda_result code)
{
    return cuda_ipc_code_in(cuda_ipc_codes, sizeof(cuda_ipc_codes) / sizeof(cuda_ipc_codes[0]),
                            code);
}

static const char *cuda_ipc_code_cure(const char *call, cuda_result code)
{
    const struct cuda_ipc_code *found = NULL;

    if (strncmp(call, "cuIpc", 5) == 0) {
        found =
            cuda_ipc_code_in(cuda_ipc_open_codes,
                             sizeof(cuda_ipc_open_codes) / sizeof(cuda_ipc_open_codes[0]), code);
    }
    if (found == NULL) {
        found = cuda_ipc_code_find(code);
    }
    return found == NULL ? NULL : found->cure;
}

int cuda_ipc_api_errno(cuda_result code)
{
    const struct cuda_ipc_code *found = cuda_ipc_code_find(code);

    return found == NULL ? -EIO : found->error;
}

/* Many refusals come before there is a table, so the names of the known codes are ours. */
static const char *cuda_ipc_code_name(const struct cuda_ipc_api *api, cuda_result code)
{
    const struct cuda_ipc_code *found = cuda_ipc_code_find(code);
    const char *name = NULL;

    if (found != NULL) {
        return found->name;
    }
    if (api == NULL || api->get_error_name == NULL || api->get_error_name(code, &name) != CUDA_OK ||
        name == NULL) {
        return "code";
    }
    return name;
}

const char *cuda_ipc_api_explain(const struct cuda_ipc_api *api, const char *call, cuda_result code,
                                 char *text_out, size_t size)
{
    const char *cure = cuda_ipc_code_cure(call, code);
    size_t room = size < CUDA_IPC_TEXT_MAX ? size : CUDA_IPC_TEXT_MAX;

    snprintf(text_out, room, "%s failed with %s (%u)%s%s", call, cuda_ipc_code_name(api, code),
             code, cure == NULL ? "" : ": ", cure == NULL ? "" : cure);
    return text_out;
}
