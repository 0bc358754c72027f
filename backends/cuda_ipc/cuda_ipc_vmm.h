/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cuda_ipc_vmm.h
 * Device memory by the driver's virtual memory functions, which share it as file descriptors. For
 * where legacy IPC cannot: its memory, and expandable segments of torch.
 *
 * All functions block while the driver works, and leave the thread's current context as it was.
 */
#ifndef KVL_CUDA_IPC_VMM_H
#define KVL_CUDA_IPC_VMM_H

#include "cuda_ipc_map.h"

/** 0 when driver and device can share memory as descriptors; else -ENOTSUP and why. */
int cuda_ipc_vmm_check(const struct cuda_ipc_place *place, struct kvl_err *err);

/**
 * Allocates memory and maps it.
 * @param bytes_out  a multiple of the device's granularity, at least `bytes`
 * @param fd_out     yours; close-on-exec
 */
int cuda_ipc_vmm_create(const struct cuda_ipc_place *place, uint64_t bytes, cuda_ptr *base_out,
                        uint64_t *bytes_out, int *fd_out, struct kvl_err *err);

/** Maps `count` segments of another process one behind the other. See cuda_ipc_segment_fn. */
int cuda_ipc_vmm_import(const struct cuda_ipc_place *place, uint32_t count, uint64_t segment_bytes,
                        cuda_ipc_segment_fn fetch, void *ctx, cuda_ptr *base_out,
                        struct kvl_err *err);

/** Unmaps `count` segments, of create (one of bytes_out) or import. The memory goes with its last
 *  mapping in any process. */
void cuda_ipc_vmm_free(const struct cuda_ipc_place *place, cuda_ptr base, uint32_t count,
                       uint64_t segment_bytes);

#endif /* KVL_CUDA_IPC_VMM_H */
