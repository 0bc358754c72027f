/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file fake_cuda_driver.h
 * The functions that the fake exports, each with exactly the type that the backend calls it by.
 */
#ifndef KVL_FAKE_CUDA_DRIVER_H
#define KVL_FAKE_CUDA_DRIVER_H

#include "cuda_ipc_api.h"

#define FAKE_LIKE(symbol, slot)                                                                    \
    extern KVL_EXPORT __typeof__(*((struct cuda_ipc_api *)NULL)->slot) symbol

FAKE_LIKE(cuInit, init);
FAKE_LIKE(cuDriverGetVersion, driver_get_version);
FAKE_LIKE(cuGetErrorName, get_error_name);
FAKE_LIKE(cuGetErrorString, get_error_string);
FAKE_LIKE(cuDeviceGetCount, device_get_count);
FAKE_LIKE(cuDeviceGet, device_get);
FAKE_LIKE(cuDeviceGetName, device_get_name);
FAKE_LIKE(cuDeviceGetUuid_v2, device_get_uuid);
FAKE_LIKE(cuDeviceGetAttribute, device_get_attribute);
FAKE_LIKE(cuDeviceCanAccessPeer, device_can_access_peer);
FAKE_LIKE(cuDevicePrimaryCtxRetain, device_primary_ctx_retain);
FAKE_LIKE(cuDevicePrimaryCtxRelease_v2, device_primary_ctx_release);
FAKE_LIKE(cuCtxSetCurrent, ctx_set_current);
FAKE_LIKE(cuCtxGetCurrent, ctx_get_current);
FAKE_LIKE(cuCtxPushCurrent_v2, ctx_push_current);
FAKE_LIKE(cuCtxPopCurrent_v2, ctx_pop_current);
FAKE_LIKE(cuCtxGetDevice, ctx_get_device);
FAKE_LIKE(cuCtxGetStreamPriorityRange, ctx_get_stream_priority_range);

FAKE_LIKE(cuMemAlloc_v2, mem_alloc);
FAKE_LIKE(cuMemFree_v2, mem_free);
FAKE_LIKE(cuMemGetAddressRange_v2, mem_get_address_range);
FAKE_LIKE(cuMemGetInfo_v2, mem_get_info);
FAKE_LIKE(cuMemHostAlloc, mem_host_alloc);
FAKE_LIKE(cuMemFreeHost, mem_free_host);
FAKE_LIKE(cuMemHostRegister_v2, mem_host_register);
FAKE_LIKE(cuMemHostUnregister, mem_host_unregister);
FAKE_LIKE(cuMemHostGetDevicePointer_v2, mem_host_get_device_pointer);
FAKE_LIKE(cuPointerGetAttribute, pointer_get_attribute);
FAKE_LIKE(cuPointerGetAttributes, pointer_get_attributes);

FAKE_LIKE(cuMemcpyAsync, memcpy_async);
FAKE_LIKE(cuMemcpyDtoDAsync_v2, memcpy_dtod_async);
FAKE_LIKE(cuMemcpyDtoHAsync_v2, memcpy_dtoh_async);
FAKE_LIKE(cuMemcpyHtoDAsync_v2, memcpy_htod_async);
FAKE_LIKE(cuMemcpy2DAsync_v2, memcpy_2d_async);
FAKE_LIKE(cuMemcpyBatchAsync_v2, memcpy_batch_async_13000);
FAKE_LIKE(cuMemcpyBatchAsync, memcpy_batch_async_12080);

FAKE_LIKE(cuStreamCreateWithPriority, stream_create_with_priority);
FAKE_LIKE(cuStreamDestroy_v2, stream_destroy);
FAKE_LIKE(cuStreamSynchronize, stream_synchronize);
FAKE_LIKE(cuStreamQuery, stream_query);
FAKE_LIKE(cuStreamWaitEvent, stream_wait_event);
FAKE_LIKE(cuLaunchHostFunc, launch_host_func);
FAKE_LIKE(cuEventCreate, event_create);
FAKE_LIKE(cuEventDestroy_v2, event_destroy);
FAKE_LIKE(cuEventRecord, event_record);
FAKE_LIKE(cuEventQuery, event_query);
FAKE_LIKE(cuEventSynchronize, event_synchronize);

FAKE_LIKE(cuIpcGetMemHandle, ipc_get_mem_handle);
FAKE_LIKE(cuIpcOpenMemHandle_v2, ipc_open_mem_handle);
FAKE_LIKE(cuIpcCloseMemHandle, ipc_close_mem_handle);
FAKE_LIKE(cuIpcGetEventHandle, ipc_get_event_handle);
FAKE_LIKE(cuIpcOpenEventHandle, ipc_open_event_handle);

FAKE_LIKE(cuModuleLoadData, module_load_data);
FAKE_LIKE(cuModuleUnload, module_unload);
FAKE_LIKE(cuModuleGetFunction, module_get_function);
FAKE_LIKE(cuFuncSetAttribute, func_set_attribute);
FAKE_LIKE(cuLaunchKernel, launch_kernel);

FAKE_LIKE(cuMemCreate, mem_create);
FAKE_LIKE(cuMemRelease, mem_release);
FAKE_LIKE(cuMemAddressReserve, mem_address_reserve);
FAKE_LIKE(cuMemAddressFree, mem_address_free);
FAKE_LIKE(cuMemMap, mem_map);
FAKE_LIKE(cuMemUnmap, mem_unmap);
FAKE_LIKE(cuMemSetAccess, mem_set_access);
FAKE_LIKE(cuMemGetAllocationGranularity, mem_get_allocation_granularity);
FAKE_LIKE(cuMemExportToShareableHandle, mem_export_to_shareable_handle);
FAKE_LIKE(cuMemImportFromShareableHandle, mem_import_from_shareable_handle);
FAKE_LIKE(cuMemRetainAllocationHandle, mem_retain_allocation_handle);
FAKE_LIKE(cuMemGetAllocationPropertiesFromHandle, mem_get_allocation_properties_from_handle);

KVL_EXPORT cuda_result cuThreadExchangeStreamCaptureMode(unsigned int *mode);

KVL_EXPORT cuda_result cuGetProcAddress_v2(const char *name, void **fn_out, int version,
                                           uint64_t flags, unsigned int *status_out);

#endif /* KVL_FAKE_CUDA_DRIVER_H */
