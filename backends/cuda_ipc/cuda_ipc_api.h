/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cuda_ipc_api.h
 * The CUDA driver as a table of functions, filled from libcuda.so.1 at run time. Nothing here links
 * to CUDA; the rest of the backend reaches the driver only through this table.
 *
 * The functions are the driver's own and return its codes: cuda_ipc_api_errno() and
 * cuda_ipc_api_explain() turn these into errno and into a sentence. They are thread-safe, but most
 * of them need a context that is current on the calling thread: see cuda_ipc_api_enter(). Nothing
 * of the driver survives a fork: in the child every call fails.
 */
#ifndef KVL_CUDA_IPC_API_H
#define KVL_CUDA_IPC_API_H

#include <kvlane/io.h>

#include "cuda_ipc_abi.h"

/** The library that an installed driver provides. */
#define CUDA_IPC_LIBRARY "libcuda.so.1"
/** Oldest driver taken: 11.4, the first with every function that must be there. */
#define CUDA_IPC_VERSION_MIN 11040
/** Room that cuda_ipc_api_explain() never exceeds, with the terminator. */
#define CUDA_IPC_TEXT_MAX 512u

/**
 * Each slot is the function of the driver that has the slot's name in its own spelling. Slots below
 * "optional" are NULL where the driver has no such function.
 */
struct cuda_ipc_api {
    void *library; /* of dlopen; never closed: the driver does not survive it */
    int version; /* of the driver: 1000 * major + 10 * minor */
    int device_count; /* visible devices, at least 1 */

    /* ---- driver, devices, contexts ---- */
    cuda_result (*init)(unsigned int flags);
    cuda_result (*driver_get_version)(int *version_out);
    cuda_result (*get_error_name)(cuda_result code, const char **name_out);
    cuda_result (*get_error_string)(cuda_result code, const char **text_out);
    cuda_result (*device_get_count)(int *count_out);
    cuda_result (*device_get)(cuda_device *device_out, int ordinal);
    cuda_result (*device_get_name)(char *name_out, int size, cuda_device device);
    cuda_result (*device_get_uuid)(struct cuda_uuid *uuid_out, cuda_device device);
    /** @param attr enum cuda_device_attr */
    cuda_result (*device_get_attribute)(int *value_out, unsigned int attr, cuda_device device);
    cuda_result (*device_can_access_peer)(int *can_out, cuda_device device, cuda_device peer);
    cuda_result (*device_primary_ctx_retain)(cuda_context *context_out, cuda_device device);
    cuda_result (*device_primary_ctx_release)(cuda_device device);
    cuda_result (*ctx_set_current)(cuda_context context);
    cuda_result (*ctx_get_current)(cuda_context *context_out);
    cuda_result (*ctx_push_current)(cuda_context context);
    cuda_result (*ctx_pop_current)(cuda_context *context_out);
    cuda_result (*ctx_get_device)(cuda_device *device_out);
    /** The greatest priority is the smaller number. */
    cuda_result (*ctx_get_stream_priority_range)(int *least_out, int *greatest_out);

    /* ---- memory ---- */
    cuda_result (*mem_alloc)(cuda_ptr *ptr_out, size_t bytes);
    cuda_result (*mem_free)(cuda_ptr ptr);
    cuda_result (*mem_get_address_range)(cuda_ptr *base_out, size_t *bytes_out, cuda_ptr ptr);
    cuda_result (*mem_get_info)(size_t *free_out, size_t *total_out);
    cuda_result (*mem_host_alloc)(void **addr_out, size_t bytes, unsigned int flags);
    cuda_result (*mem_free_host)(void *addr);
    cuda_result (*mem_host_register)(void *addr, size_t bytes, unsigned int flags);
    cuda_result (*mem_host_unregister)(void *addr);
    cuda_result (*mem_host_get_device_pointer)(cuda_ptr *ptr_out, void *addr, unsigned int flags);
    /** @param attr enum cuda_pointer_attr; says what `value_out` points to */
    cuda_result (*pointer_get_attribute)(void *value_out, unsigned int attr, cuda_ptr ptr);
    /** Attributes that do not apply to the pointer are 0; it fails only for a bad request. */
    cuda_result (*pointer_get_attributes)(unsigned int count, unsigned int *attrs,
                                          void **values_out, cuda_ptr ptr);

    /* ---- copies ---- */
    cuda_result (*memcpy_async)(cuda_ptr dst, cuda_ptr src, size_t bytes, cuda_stream stream);
    cuda_result (*memcpy_dtod_async)(cuda_ptr dst, cuda_ptr src, size_t bytes, cuda_stream stream);
    cuda_result (*memcpy_dtoh_async)(void *dst, cuda_ptr src, size_t bytes, cuda_stream stream);
    cuda_result (*memcpy_htod_async)(cuda_ptr dst, const void *src, size_t bytes,
                                     cuda_stream stream);
    cuda_result (*memcpy_2d_async)(const struct cuda_copy_2d *copy, cuda_stream stream);

    /* ---- streams and events ---- */
    cuda_result (*stream_create_with_priority)(cuda_stream *stream_out, unsigned int flags,
                                               int priority);
    cuda_result (*stream_destroy)(cuda_stream stream);
    cuda_result (*stream_synchronize)(cuda_stream stream);
    cuda_result (*stream_query)(cuda_stream stream);
    cuda_result (*stream_wait_event)(cuda_stream stream, cuda_event event, unsigned int flags);
    cuda_result (*launch_host_func)(cuda_stream stream, cuda_host_fn fn, void *arg);
    cuda_result (*event_create)(cuda_event *event_out, unsigned int flags);
    cuda_result (*event_destroy)(cuda_event event);
    cuda_result (*event_record)(cuda_event event, cuda_stream stream);
    cuda_result (*event_query)(cuda_event event);
    cuda_result (*event_synchronize)(cuda_event event);

    /* ---- legacy IPC ---- */
    cuda_result (*ipc_get_mem_handle)(struct cuda_ipc_mem_handle *handle_out, cuda_ptr ptr);
    /** @param flags CUDA_IPC_LAZY_PEER_ACCESS */
    cuda_result (*ipc_open_mem_handle)(cuda_ptr *base_out, struct cuda_ipc_mem_handle handle,
                                       unsigned int flags);
    cuda_result (*ipc_close_mem_handle)(cuda_ptr base);
    cuda_result (*ipc_get_event_handle)(struct cuda_ipc_event_handle *handle_out, cuda_event event);
    cuda_result (*ipc_open_event_handle)(cuda_event *event_out,
                                         struct cuda_ipc_event_handle handle);

    /* ---- kernels ---- */
    cuda_result (*module_load_data)(cuda_module *module_out, const void *image);
    cuda_result (*module_unload)(cuda_module module);
    cuda_result (*module_get_function)(cuda_function *function_out, cuda_module module,
                                       const char *name);
    cuda_result (*func_set_attribute)(cuda_function function, unsigned int attr, int value);
    cuda_result (*launch_kernel)(cuda_function function, unsigned int grid_x, unsigned int grid_y,
                                 unsigned int grid_z, unsigned int block_x, unsigned int block_y,
                                 unsigned int block_z, unsigned int shared_bytes,
                                 cuda_stream stream, void **params, void **extra);

    /* ---- optional: batched copies. Two ABIs under one name: never call one as the other ---- */

    /** cuMemcpyBatchAsync of 13.0: 8 arguments. Copies of a batch are unordered. */
    cuda_result (*memcpy_batch_async_13000)(cuda_ptr *dsts, cuda_ptr *srcs, size_t *sizes,
                                            size_t count, struct cuda_copy_attrs *attrs,
                                            size_t *attrs_idxs, size_t num_attrs,
                                            cuda_stream stream);
    /** cuMemcpyBatchAsync of 12.8: 9 arguments. */
    cuda_result (*memcpy_batch_async_12080)(cuda_ptr *dsts, cuda_ptr *srcs, size_t *sizes,
                                            size_t count, struct cuda_copy_attrs *attrs,
                                            size_t *attrs_idxs, size_t num_attrs,
                                            size_t *fail_idx_out, cuda_stream stream);

    /** Optional. How this thread's calls go along with a stream capture elsewhere; swaps. */
    cuda_result (*thread_exchange_stream_capture_mode)(unsigned int *mode);

    /* ---- optional: virtual memory (VMM); all or none, see cuda_ipc_api_has_vmm() ---- */
    cuda_result (*mem_create)(cuda_mem *mem_out, size_t bytes, const struct cuda_mem_prop *prop,
                              unsigned long long flags);
    cuda_result (*mem_release)(cuda_mem mem);
    cuda_result (*mem_address_reserve)(cuda_ptr *ptr_out, size_t bytes, size_t alignment,
                                       cuda_ptr wanted, unsigned long long flags);
    cuda_result (*mem_address_free)(cuda_ptr ptr, size_t bytes);
    cuda_result (*mem_map)(cuda_ptr ptr, size_t bytes, size_t offset, cuda_mem mem,
                           unsigned long long flags);
    cuda_result (*mem_unmap)(cuda_ptr ptr, size_t bytes);
    cuda_result (*mem_set_access)(cuda_ptr ptr, size_t bytes, const struct cuda_access *access,
                                  size_t count);
    cuda_result (*mem_get_allocation_granularity)(size_t *bytes_out,
                                                  const struct cuda_mem_prop *prop,
                                                  unsigned int option);
    /** @param handle_out int * for CUDA_HANDLE_FD, struct cuda_fabric_handle * for FABRIC */
    cuda_result (*mem_export_to_shareable_handle)(void *handle_out, cuda_mem mem, unsigned int type,
                                                  unsigned long long flags);
    /** @param handle the fd itself as a pointer for CUDA_HANDLE_FD, else where the handle is */
    cuda_result (*mem_import_from_shareable_handle)(cuda_mem *mem_out, void *handle,
                                                    unsigned int type);
    cuda_result (*mem_retain_allocation_handle)(cuda_mem *mem_out, void *addr);
    cuda_result (*mem_get_allocation_properties_from_handle)(struct cuda_mem_prop *prop_out,
                                                             cuda_mem mem);
};

/**
 * Opens the driver, initialises it and fills the table. Blocks while the driver starts, which may
 * take seconds. Loads the library once per process; calling again is cheap.
 * @param path  file or soname; NULL or "" = CUDA_IPC_LIBRARY
 * @param err   may be NULL; one sentence, and the driver's code where there is one
 * @return 0; -ENODEV no library, a stub library, no usable device, or a driver that is too old.
 */
int cuda_ipc_api_open(const char *path, struct cuda_ipc_api *api_out, struct kvl_err *err);

/** What a thread had before cuda_ipc_api_push(). */
struct cuda_ipc_stay {
    unsigned int capture_mode;
    unsigned int is_relaxed;
    unsigned int is_inside;
};

/**
 * Makes a context current on the calling thread, which may be an engine's: what was current before
 * comes back with pop. Inside, our calls neither disturb nor fail because of a CUDA graph that
 * another thread is capturing. Nests.
 * @return the code of cuCtxPushCurrent; after a failure pop does nothing.
 */
cuda_result cuda_ipc_api_push(const struct cuda_ipc_api *api, cuda_context context,
                              struct cuda_ipc_stay *stay);
void cuda_ipc_api_pop(const struct cuda_ipc_api *api, struct cuda_ipc_stay *stay);

/** 1 when all VMM functions are there, else 0. */
int cuda_ipc_api_has_vmm(const struct cuda_ipc_api *api);

/**
 * Makes a context current on the calling thread. Every thread that calls the driver needs this
 * first; a new thread has none. Cheap when it is current already.
 * @return 0; -EIO and so on, as cuda_ipc_api_errno().
 */
int cuda_ipc_api_enter(const struct cuda_ipc_api *api, cuda_context context);

/** A code of the driver as 0 or a negative errno. The one place where codes are mapped. */
int cuda_ipc_api_errno(cuda_result code);

/**
 * Puts a failed call into a sentence: the call, the code's name and number, and what usually helps.
 * Never longer than CUDA_IPC_TEXT_MAX.
 * @param api   NULL when there is no table yet: the code then has no name
 * @param call  name of the driver's function, such as "cuIpcOpenMemHandle"
 * @return text_out
 */
const char *cuda_ipc_api_explain(const struct cuda_ipc_api *api, const char *call, cuda_result code,
                                 char *text_out, size_t size);

#endif /* KVL_CUDA_IPC_API_H */
