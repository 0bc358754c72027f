/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What backends/cuda_ipc says of the driver, held against a toolkit's own headers. It only needs to
 * compile; cuda_abi.py writes cuda_abi_calls.h from the table in cuda_ipc_api.c.
 */
#include <cuda.h>
#include <cudaTypedefs.h>

#include <stddef.h>

#include "cuda_ipc_abi.h"

#define SAME(ours, theirs) _Static_assert((long)(ours) == (long)(theirs), #ours " is not " #theirs)
#define SAME_TYPE(ours, theirs)                                                                    \
    _Static_assert(__builtin_types_compatible_p(ours, theirs), #ours " is not " #theirs)
#define SAME_SIZE(ours, theirs)                                                                    \
    _Static_assert(sizeof(ours) == sizeof(theirs) && _Alignof(ours) == _Alignof(theirs),           \
                   #ours " is not like " #theirs)
#define SAME_FIELD(ours, our_field, theirs, their_field)                                           \
    _Static_assert(offsetof(ours, our_field) == offsetof(theirs, their_field) &&                   \
                       sizeof(((ours *)0)->our_field) == sizeof(((theirs *)0)->their_field),       \
                   #our_field " is not " #their_field)
#define CODE(name) SAME(CUDA_E_##name, CUDA_ERROR_##name)

SAME_TYPE(cuda_result, CUresult);
SAME_TYPE(cuda_device, CUdevice);
SAME_TYPE(cuda_ptr, CUdeviceptr);
SAME_TYPE(cuda_mem, CUmemGenericAllocationHandle);
SAME_TYPE(cuda_context, CUcontext);
SAME_TYPE(cuda_stream, CUstream);
SAME_TYPE(cuda_event, CUevent);
SAME_TYPE(cuda_module, CUmodule);
SAME_TYPE(cuda_function, CUfunction);
SAME_TYPE(cuda_host_fn, CUhostFn);

SAME_SIZE(struct cuda_ipc_mem_handle, CUipcMemHandle);
SAME_SIZE(struct cuda_ipc_event_handle, CUipcEventHandle);
SAME_SIZE(struct cuda_uuid, CUuuid);
SAME_SIZE(struct cuda_fabric_handle, CUmemFabricHandle);

SAME_SIZE(struct cuda_location, CUmemLocation);
SAME_FIELD(struct cuda_location, type, CUmemLocation, type);
SAME_FIELD(struct cuda_location, id, CUmemLocation, id);

#if CUDA_VERSION >= 12080
SAME_SIZE(struct cuda_copy_attrs, CUmemcpyAttributes);
SAME_FIELD(struct cuda_copy_attrs, src_access_order, CUmemcpyAttributes, srcAccessOrder);
SAME_FIELD(struct cuda_copy_attrs, src_hint, CUmemcpyAttributes, srcLocHint);
SAME_FIELD(struct cuda_copy_attrs, dst_hint, CUmemcpyAttributes, dstLocHint);
SAME_FIELD(struct cuda_copy_attrs, flags, CUmemcpyAttributes, flags);
SAME(CUDA_ORDER_STREAM, CU_MEMCPY_SRC_ACCESS_ORDER_STREAM);
SAME(CUDA_ORDER_DURING_CALL, CU_MEMCPY_SRC_ACCESS_ORDER_DURING_API_CALL);
SAME(CUDA_ORDER_ANY, CU_MEMCPY_SRC_ACCESS_ORDER_ANY);
SAME(CUDA_COPY_PREFER_OVERLAP, CU_MEMCPY_FLAG_PREFER_OVERLAP_WITH_COMPUTE);
#endif

SAME_SIZE(struct cuda_copy_2d, CUDA_MEMCPY2D);
SAME_FIELD(struct cuda_copy_2d, src_x, CUDA_MEMCPY2D, srcXInBytes);
SAME_FIELD(struct cuda_copy_2d, src_y, CUDA_MEMCPY2D, srcY);
SAME_FIELD(struct cuda_copy_2d, src_type, CUDA_MEMCPY2D, srcMemoryType);
SAME_FIELD(struct cuda_copy_2d, src_host, CUDA_MEMCPY2D, srcHost);
SAME_FIELD(struct cuda_copy_2d, src_device, CUDA_MEMCPY2D, srcDevice);
SAME_FIELD(struct cuda_copy_2d, src_array, CUDA_MEMCPY2D, srcArray);
SAME_FIELD(struct cuda_copy_2d, src_pitch, CUDA_MEMCPY2D, srcPitch);
SAME_FIELD(struct cuda_copy_2d, dst_x, CUDA_MEMCPY2D, dstXInBytes);
SAME_FIELD(struct cuda_copy_2d, dst_y, CUDA_MEMCPY2D, dstY);
SAME_FIELD(struct cuda_copy_2d, dst_type, CUDA_MEMCPY2D, dstMemoryType);
SAME_FIELD(struct cuda_copy_2d, dst_host, CUDA_MEMCPY2D, dstHost);
SAME_FIELD(struct cuda_copy_2d, dst_device, CUDA_MEMCPY2D, dstDevice);
SAME_FIELD(struct cuda_copy_2d, dst_array, CUDA_MEMCPY2D, dstArray);
SAME_FIELD(struct cuda_copy_2d, dst_pitch, CUDA_MEMCPY2D, dstPitch);
SAME_FIELD(struct cuda_copy_2d, width, CUDA_MEMCPY2D, WidthInBytes);
SAME_FIELD(struct cuda_copy_2d, height, CUDA_MEMCPY2D, Height);

SAME_SIZE(struct cuda_mem_prop, CUmemAllocationProp);
SAME_FIELD(struct cuda_mem_prop, type, CUmemAllocationProp, type);
SAME_FIELD(struct cuda_mem_prop, handle_types, CUmemAllocationProp, requestedHandleTypes);
SAME_FIELD(struct cuda_mem_prop, location, CUmemAllocationProp, location);
SAME_FIELD(struct cuda_mem_prop, win32, CUmemAllocationProp, win32HandleMetaData);
SAME_FIELD(struct cuda_mem_prop, compression, CUmemAllocationProp, allocFlags.compressionType);
SAME_FIELD(struct cuda_mem_prop, rdma, CUmemAllocationProp, allocFlags.gpuDirectRDMACapable);
SAME_FIELD(struct cuda_mem_prop, usage, CUmemAllocationProp, allocFlags.usage);
SAME_FIELD(struct cuda_mem_prop, reserved, CUmemAllocationProp, allocFlags.reserved);

SAME_SIZE(struct cuda_access, CUmemAccessDesc);
SAME_FIELD(struct cuda_access, location, CUmemAccessDesc, location);
SAME_FIELD(struct cuda_access, flags, CUmemAccessDesc, flags);

SAME(CUDA_OK, CUDA_SUCCESS);
CODE(INVALID_VALUE);
CODE(OUT_OF_MEMORY);
CODE(NOT_INITIALIZED);
CODE(DEINITIALIZED);
CODE(STUB_LIBRARY);
CODE(DEVICE_UNAVAILABLE);
CODE(NO_DEVICE);
CODE(INVALID_DEVICE);
CODE(INVALID_IMAGE);
CODE(INVALID_CONTEXT);
CODE(MAP_FAILED);
CODE(ALREADY_MAPPED);
CODE(NO_BINARY_FOR_GPU);
CODE(ECC_UNCORRECTABLE);
CODE(PEER_ACCESS_UNSUPPORTED);
CODE(INVALID_PTX);
CODE(JIT_COMPILER_NOT_FOUND);
CODE(UNSUPPORTED_PTX_VERSION);
CODE(OPERATING_SYSTEM);
CODE(INVALID_HANDLE);
CODE(NOT_FOUND);
CODE(NOT_READY);
CODE(ILLEGAL_ADDRESS);
CODE(LAUNCH_OUT_OF_RESOURCES);
CODE(PEER_ACCESS_ALREADY_ENABLED);
CODE(CONTEXT_IS_DESTROYED);
CODE(TOO_MANY_PEERS);
CODE(HOST_MEMORY_ALREADY_REGISTERED);
CODE(HOST_MEMORY_NOT_REGISTERED);
CODE(LAUNCH_FAILED);
CODE(NOT_PERMITTED);
CODE(NOT_SUPPORTED);
CODE(SYSTEM_NOT_READY);
CODE(SYSTEM_DRIVER_MISMATCH);
CODE(COMPAT_NOT_SUPPORTED_ON_DEVICE);
CODE(MPS_CONNECTION_FAILED);
CODE(MPS_RPC_FAILURE);
CODE(MPS_SERVER_NOT_READY);
CODE(MPS_MAX_CLIENTS_REACHED);
CODE(MPS_MAX_CONNECTIONS_REACHED);
CODE(STREAM_CAPTURE_UNSUPPORTED);
CODE(UNKNOWN);
#if CUDA_VERSION >= 12040
CODE(MPS_CLIENT_TERMINATED);
CODE(TIMEOUT);
#endif
#if CUDA_VERSION >= 13000
CODE(CALL_REQUIRES_NEWER_DRIVER);
#endif

#define DEVICE(ours, theirs) SAME(CUDA_DEVICE_##ours, CU_DEVICE_ATTRIBUTE_##theirs)
DEVICE(MULTIPROCESSORS, MULTIPROCESSOR_COUNT);
DEVICE(CAN_MAP_HOST, CAN_MAP_HOST_MEMORY);
DEVICE(COMPUTE_MODE, COMPUTE_MODE);
DEVICE(UNIFIED_ADDRESSING, UNIFIED_ADDRESSING);
DEVICE(CC_MAJOR, COMPUTE_CAPABILITY_MAJOR);
DEVICE(CC_MINOR, COMPUTE_CAPABILITY_MINOR);
DEVICE(VMM, VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED);
DEVICE(POSIX_FD, HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED);
DEVICE(IPC_EVENT, IPC_EVENT_SUPPORTED);
#if CUDA_VERSION >= 12040
DEVICE(FABRIC, HANDLE_TYPE_FABRIC_SUPPORTED);
#endif

#define POINTER(ours, theirs) SAME(CUDA_POINTER_##ours, CU_POINTER_ATTRIBUTE_##theirs)
POINTER(CONTEXT, CONTEXT);
POINTER(MEMORY_TYPE, MEMORY_TYPE);
POINTER(DEVICE_POINTER, DEVICE_POINTER);
POINTER(HOST_POINTER, HOST_POINTER);
POINTER(SYNC_MEMOPS, SYNC_MEMOPS);
POINTER(BUFFER_ID, BUFFER_ID);
POINTER(DEVICE_ORDINAL, DEVICE_ORDINAL);
POINTER(LEGACY_IPC_CAPABLE, IS_LEGACY_CUDA_IPC_CAPABLE);
POINTER(RANGE_START, RANGE_START_ADDR);
POINTER(RANGE_SIZE, RANGE_SIZE);
POINTER(MAPPED, MAPPED);
POINTER(HANDLE_TYPES, ALLOWED_HANDLE_TYPES);

SAME(CUDA_MEMORY_HOST, CU_MEMORYTYPE_HOST);
SAME(CUDA_MEMORY_DEVICE, CU_MEMORYTYPE_DEVICE);
SAME(CUDA_MEMORY_UNIFIED, CU_MEMORYTYPE_UNIFIED);
SAME(CUDA_LOCATION_NONE, CU_MEM_LOCATION_TYPE_INVALID);
SAME(CUDA_LOCATION_DEVICE, CU_MEM_LOCATION_TYPE_DEVICE);
SAME(CUDA_LOCATION_HOST, CU_MEM_LOCATION_TYPE_HOST);
SAME(CUDA_HANDLE_NONE, CU_MEM_HANDLE_TYPE_NONE);
SAME(CUDA_HANDLE_FD, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
SAME(CUDA_HANDLE_FABRIC, CU_MEM_HANDLE_TYPE_FABRIC);
SAME(CUDA_MEM_PINNED, CU_MEM_ALLOCATION_TYPE_PINNED);
SAME(CUDA_ACCESS_READ, CU_MEM_ACCESS_FLAGS_PROT_READ);
SAME(CUDA_ACCESS_READ_WRITE, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
SAME(CUDA_GRANULARITY_MINIMUM, CU_MEM_ALLOC_GRANULARITY_MINIMUM);
SAME(CUDA_GRANULARITY_RECOMMENDED, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED);
SAME(CUDA_EVENT_BLOCKING_SYNC, CU_EVENT_BLOCKING_SYNC);
SAME(CUDA_EVENT_DISABLE_TIMING, CU_EVENT_DISABLE_TIMING);
SAME(CUDA_EVENT_INTERPROCESS, CU_EVENT_INTERPROCESS);
SAME(CUDA_STREAM_NON_BLOCKING, CU_STREAM_NON_BLOCKING);
SAME(CUDA_IPC_LAZY_PEER_ACCESS, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS);
SAME(CUDA_HOST_PORTABLE, CU_MEMHOSTALLOC_PORTABLE);
SAME(CUDA_HOST_PORTABLE, CU_MEMHOSTREGISTER_PORTABLE);
SAME(CUDA_HOST_DEVICEMAP, CU_MEMHOSTALLOC_DEVICEMAP);
SAME(CUDA_HOST_DEVICEMAP, CU_MEMHOSTREGISTER_DEVICEMAP);
SAME(CUDA_HOST_WRITECOMBINED, CU_MEMHOSTALLOC_WRITECOMBINED);
SAME(CUDA_HOST_READ_ONLY, CU_MEMHOSTREGISTER_READ_ONLY);
SAME(CUDA_FUNC_MAX_DYNAMIC_SHARED, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES);
SAME(CUDA_PROC_LEGACY_STREAM, CU_GET_PROC_ADDRESS_LEGACY_STREAM);
SAME(CUDA_PROC_FOUND, CU_GET_PROC_ADDRESS_SUCCESS);
SAME(CUDA_PROC_NOT_FOUND, CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND);
SAME(CUDA_PROC_TOO_OLD, CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT);

/*
 * Now the functions. The records have been compared, so the table is read with the toolkit's in
 * their place; then its types must be the very ones of the driver.
 */
#define cuda_ipc_mem_handle CUipcMemHandle_st
#define cuda_ipc_event_handle CUipcEventHandle_st
#define cuda_uuid CUuuid_st
#if CUDA_VERSION >= 12080
#define cuda_copy_attrs CUmemcpyAttributes_st
#endif
#define cuda_copy_2d CUDA_MEMCPY2D_st
#define cuda_mem_prop CUmemAllocationProp_st
#define cuda_access CUmemAccessDesc_st
#include "cuda_ipc_api.h"

#define SAME_CALL(slot, pointer_type)                                                              \
    SAME_TYPE(__typeof__(((struct cuda_ipc_api *)0)->slot), pointer_type)
#include "cuda_abi_calls.h"
