/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cuda_ipc_abi.h
 * What this backend uses of the ABI of the CUDA driver (libcuda.so.1): types and numbers, written
 * down once more so that it builds on a machine without a toolkit. The names of the driver stand in
 * the comments; a test compares everything here with a real cuda.h where there is one.
 *
 * Linux on LP64. The numbers are frozen: the driver keeps them for programs built long ago.
 */
#ifndef KVL_CUDA_IPC_ABI_H
#define KVL_CUDA_IPC_ABI_H

#include <stddef.h>
#include <stdint.h>

#include <kvlane/abi.h>

/** CUresult. Its C type is an enum without negative values, so unsigned. */
typedef unsigned int cuda_result;
/** CUdevice: an ordinal among the visible devices. */
typedef int cuda_device;
/** CUdeviceptr: an address on a device, never to be read by the CPU. */
typedef unsigned long long cuda_ptr;
/** CUmemGenericAllocationHandle: physical memory of the VMM functions. */
typedef unsigned long long cuda_mem;

/* Handles of this process. The tags are the driver's, so that the types are the same ones. */
typedef struct CUctx_st *cuda_context; /* CUcontext */
typedef struct CUstream_st *cuda_stream; /* CUstream; NULL is the legacy stream */
typedef struct CUevent_st *cuda_event; /* CUevent */
typedef struct CUmod_st *cuda_module; /* CUmodule */
typedef struct CUfunc_st *cuda_function; /* CUfunction */

/** CUhostFn: runs on a thread of the driver and must not call the driver. */
typedef void (*cuda_host_fn)(void *arg);

/** CUipcMemHandle: stands for a whole allocation. Passed by value. */
struct cuda_ipc_mem_handle {
    char bytes[64];
};

/** CUipcEventHandle. Passed by value. */
struct cuda_ipc_event_handle {
    char bytes[64];
};

/** CUuuid: the raw bytes. */
struct cuda_uuid {
    char bytes[16];
};

/** CUmemFabricHandle. */
struct cuda_fabric_handle {
    unsigned char bytes[64];
};

/** CUmemLocation. */
struct cuda_location {
    unsigned int type; /* enum cuda_location_type */
    int id; /* ordinal of the device */
};

/** CUmemcpyAttributes: how the copies of a batch from one index on are done. */
struct cuda_copy_attrs {
    unsigned int src_access_order; /* enum cuda_access_order */
    struct cuda_location src_hint; /* only for managed memory: CUDA_LOCATION_NONE */
    struct cuda_location dst_hint;
    unsigned int flags; /* CUDA_COPY_PREFER_OVERLAP */
};

/** CUDA_MEMCPY2D: `height` rows of `width` bytes between two pitches. */
struct cuda_copy_2d {
    size_t src_x;
    size_t src_y;
    unsigned int src_type; /* enum cuda_memory_type; says which address below counts */
    const void *src_host;
    cuda_ptr src_device;
    void *src_array;
    size_t src_pitch;
    size_t dst_x;
    size_t dst_y;
    unsigned int dst_type;
    void *dst_host;
    cuda_ptr dst_device;
    void *dst_array;
    size_t dst_pitch;
    size_t width;
    size_t height;
};

/** CUmemAllocationProp. */
struct cuda_mem_prop {
    unsigned int type; /* CUDA_MEM_PINNED */
    unsigned int handle_types; /* enum cuda_handle_type; fixed for the life of the memory */
    struct cuda_location location;
    void *win32;
    unsigned char compression;
    unsigned char rdma;
    unsigned short usage;
    unsigned char reserved[4];
};

/** CUmemAccessDesc. */
struct cuda_access {
    struct cuda_location location;
    unsigned int flags; /* CUDA_ACCESS_READ, CUDA_ACCESS_READ_WRITE */
};

KVL_STATIC_ASSERT(sizeof(struct cuda_copy_attrs) == 24, "CUmemcpyAttributes");
KVL_STATIC_ASSERT(sizeof(struct cuda_copy_2d) == 128, "CUDA_MEMCPY2D");
KVL_STATIC_ASSERT(sizeof(struct cuda_mem_prop) == 32, "CUmemAllocationProp");
KVL_STATIC_ASSERT(sizeof(struct cuda_access) == 12, "CUmemAccessDesc");

/** Codes that somebody here asks for; the driver has more. */
enum cuda_code {
    CUDA_OK = 0, /* CUDA_SUCCESS */
    CUDA_E_INVALID_VALUE = 1, /* CUDA_ERROR_INVALID_VALUE, and so on with the same name */
    CUDA_E_OUT_OF_MEMORY = 2,
    CUDA_E_NOT_INITIALIZED = 3,
    CUDA_E_DEINITIALIZED = 4,
    CUDA_E_STUB_LIBRARY = 34,
    CUDA_E_CALL_REQUIRES_NEWER_DRIVER = 36,
    CUDA_E_DEVICE_UNAVAILABLE = 46,
    CUDA_E_NO_DEVICE = 100,
    CUDA_E_INVALID_DEVICE = 101,
    CUDA_E_INVALID_IMAGE = 200,
    CUDA_E_INVALID_CONTEXT = 201,
    CUDA_E_MAP_FAILED = 205,
    CUDA_E_ALREADY_MAPPED = 208,
    CUDA_E_NO_BINARY_FOR_GPU = 209,
    CUDA_E_ECC_UNCORRECTABLE = 214,
    CUDA_E_PEER_ACCESS_UNSUPPORTED = 217,
    CUDA_E_INVALID_PTX = 218,
    CUDA_E_JIT_COMPILER_NOT_FOUND = 221,
    CUDA_E_UNSUPPORTED_PTX_VERSION = 222,
    CUDA_E_OPERATING_SYSTEM = 304,
    CUDA_E_INVALID_HANDLE = 400,
    CUDA_E_NOT_FOUND = 500,
    CUDA_E_NOT_READY = 600,
    CUDA_E_ILLEGAL_ADDRESS = 700,
    CUDA_E_LAUNCH_OUT_OF_RESOURCES = 701,
    CUDA_E_PEER_ACCESS_ALREADY_ENABLED = 704,
    CUDA_E_CONTEXT_IS_DESTROYED = 709,
    CUDA_E_TOO_MANY_PEERS = 711,
    CUDA_E_HOST_MEMORY_ALREADY_REGISTERED = 712,
    CUDA_E_HOST_MEMORY_NOT_REGISTERED = 713,
    CUDA_E_LAUNCH_FAILED = 719,
    CUDA_E_NOT_PERMITTED = 800,
    CUDA_E_NOT_SUPPORTED = 801,
    CUDA_E_SYSTEM_NOT_READY = 802,
    CUDA_E_SYSTEM_DRIVER_MISMATCH = 803,
    CUDA_E_COMPAT_NOT_SUPPORTED_ON_DEVICE = 804,
    CUDA_E_MPS_CONNECTION_FAILED = 805,
    CUDA_E_MPS_RPC_FAILURE = 806,
    CUDA_E_MPS_SERVER_NOT_READY = 807,
    CUDA_E_MPS_MAX_CLIENTS_REACHED = 808,
    CUDA_E_MPS_MAX_CONNECTIONS_REACHED = 809,
    CUDA_E_MPS_CLIENT_TERMINATED = 810,
    CUDA_E_STREAM_CAPTURE_UNSUPPORTED = 900,
    CUDA_E_TIMEOUT = 909,
    CUDA_E_UNKNOWN = 999,
};

/** CUdevice_attribute. */
enum cuda_device_attr {
    CUDA_DEVICE_MULTIPROCESSORS = 16, /* CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT */
    CUDA_DEVICE_CAN_MAP_HOST = 19, /* CAN_MAP_HOST_MEMORY */
    CUDA_DEVICE_COMPUTE_MODE = 20, /* COMPUTE_MODE; 2 = no process may use it */
    CUDA_DEVICE_UNIFIED_ADDRESSING = 41, /* UNIFIED_ADDRESSING */
    CUDA_DEVICE_CC_MAJOR = 75, /* COMPUTE_CAPABILITY_MAJOR */
    CUDA_DEVICE_CC_MINOR = 76, /* COMPUTE_CAPABILITY_MINOR */
    CUDA_DEVICE_VMM = 102, /* VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED */
    CUDA_DEVICE_POSIX_FD = 103, /* HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED */
    CUDA_DEVICE_IPC_EVENT = 125, /* IPC_EVENT_SUPPORTED */
    CUDA_DEVICE_FABRIC = 128, /* HANDLE_TYPE_FABRIC_SUPPORTED */
};

/** CUpointer_attribute; the type of the answer stands behind it. */
enum cuda_pointer_attr {
    CUDA_POINTER_CONTEXT = 1, /* CU_POINTER_ATTRIBUTE_CONTEXT: cuda_context */
    CUDA_POINTER_MEMORY_TYPE = 2, /* MEMORY_TYPE: unsigned int */
    CUDA_POINTER_DEVICE_POINTER = 3, /* DEVICE_POINTER: cuda_ptr */
    CUDA_POINTER_HOST_POINTER = 4, /* HOST_POINTER: void * */
    CUDA_POINTER_SYNC_MEMOPS = 6, /* SYNC_MEMOPS: int */
    CUDA_POINTER_BUFFER_ID = 7, /* BUFFER_ID: unsigned long long, never reused in a process */
    CUDA_POINTER_DEVICE_ORDINAL = 9, /* DEVICE_ORDINAL: int */
    CUDA_POINTER_LEGACY_IPC_CAPABLE = 10, /* IS_LEGACY_CUDA_IPC_CAPABLE: int */
    CUDA_POINTER_RANGE_START = 11, /* RANGE_START_ADDR: cuda_ptr */
    CUDA_POINTER_RANGE_SIZE = 12, /* RANGE_SIZE: size_t */
    CUDA_POINTER_MAPPED = 13, /* MAPPED: int */
    CUDA_POINTER_HANDLE_TYPES = 14, /* ALLOWED_HANDLE_TYPES: uint64_t */
};

/** CUmemorytype. */
enum cuda_memory_type {
    CUDA_MEMORY_HOST = 1, /* CU_MEMORYTYPE_HOST */
    CUDA_MEMORY_DEVICE = 2, /* CU_MEMORYTYPE_DEVICE */
    CUDA_MEMORY_UNIFIED = 4, /* CU_MEMORYTYPE_UNIFIED */
};

/** CUmemLocationType. */
enum cuda_location_type {
    CUDA_LOCATION_NONE = 0, /* CU_MEM_LOCATION_TYPE_INVALID, later also _NONE */
    CUDA_LOCATION_DEVICE = 1, /* CU_MEM_LOCATION_TYPE_DEVICE */
    CUDA_LOCATION_HOST = 2, /* CU_MEM_LOCATION_TYPE_HOST */
};

/** CUmemcpySrcAccessOrder. */
enum cuda_access_order {
    CUDA_ORDER_STREAM = 1, /* CU_MEMCPY_SRC_ACCESS_ORDER_STREAM */
    CUDA_ORDER_DURING_CALL = 2, /* CU_MEMCPY_SRC_ACCESS_ORDER_DURING_API_CALL */
    CUDA_ORDER_ANY = 3, /* CU_MEMCPY_SRC_ACCESS_ORDER_ANY */
};

/** CUmemAllocationHandleType. */
enum cuda_handle_type {
    CUDA_HANDLE_NONE = 0, /* CU_MEM_HANDLE_TYPE_NONE */
    CUDA_HANDLE_FD = 1, /* CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR */
    CUDA_HANDLE_FABRIC = 8, /* CU_MEM_HANDLE_TYPE_FABRIC */
};

#define CUDA_COPY_PREFER_OVERLAP 1u /* CU_MEMCPY_FLAG_PREFER_OVERLAP_WITH_COMPUTE */

#define CUDA_MEM_PINNED 1u /* CU_MEM_ALLOCATION_TYPE_PINNED */
#define CUDA_ACCESS_READ 1u /* CU_MEM_ACCESS_FLAGS_PROT_READ */
#define CUDA_ACCESS_READ_WRITE 3u /* CU_MEM_ACCESS_FLAGS_PROT_READWRITE */
#define CUDA_GRANULARITY_MINIMUM 0u /* CU_MEM_ALLOC_GRANULARITY_MINIMUM */
#define CUDA_GRANULARITY_RECOMMENDED 1u /* CU_MEM_ALLOC_GRANULARITY_RECOMMENDED */

#define CUDA_EVENT_BLOCKING_SYNC 1u /* CU_EVENT_BLOCKING_SYNC */
#define CUDA_EVENT_DISABLE_TIMING 2u /* CU_EVENT_DISABLE_TIMING */
#define CUDA_EVENT_INTERPROCESS 4u /* CU_EVENT_INTERPROCESS; only with the one above */

#define CUDA_CAPTURE_RELAXED 2 /* CU_STREAM_CAPTURE_MODE_RELAXED */

#define CUDA_STREAM_NON_BLOCKING 1u /* CU_STREAM_NON_BLOCKING */
#define CUDA_STREAM_LEGACY ((cuda_stream)0x1) /* CU_STREAM_LEGACY, as NULL */
#define CUDA_STREAM_PER_THREAD ((cuda_stream)0x2) /* CU_STREAM_PER_THREAD */

#define CUDA_IPC_LAZY_PEER_ACCESS 1u /* CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS; mandatory */

#define CUDA_HOST_PORTABLE 1u /* CU_MEMHOSTALLOC_PORTABLE, CU_MEMHOSTREGISTER_PORTABLE */
#define CUDA_HOST_DEVICEMAP 2u /* CU_MEMHOSTALLOC_DEVICEMAP, CU_MEMHOSTREGISTER_DEVICEMAP */
#define CUDA_HOST_WRITECOMBINED 4u /* CU_MEMHOSTALLOC_WRITECOMBINED */
#define CUDA_HOST_READ_ONLY 8u /* CU_MEMHOSTREGISTER_READ_ONLY */

#define CUDA_FUNC_MAX_DYNAMIC_SHARED 8u /* CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES */

/* cuGetProcAddress: flags, and how the search went (CUdriverProcAddressQueryResult) */
#define CUDA_PROC_LEGACY_STREAM 1u /* CU_GET_PROC_ADDRESS_LEGACY_STREAM */
#define CUDA_PROC_FOUND 0u /* CU_GET_PROC_ADDRESS_SUCCESS */
#define CUDA_PROC_NOT_FOUND 1u /* CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND */
#define CUDA_PROC_TOO_OLD 2u /* CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT */

#endif /* KVL_CUDA_IPC_ABI_H */
