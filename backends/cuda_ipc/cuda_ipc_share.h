/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cuda_ipc_share.h
 * What one process tells another of an allocation in device memory, so that it can be mapped there.
 */
#ifndef KVL_CUDA_IPC_SHARE_H
#define KVL_CUDA_IPC_SHARE_H

#include "cuda_ipc_abi.h"
#include "cuda_ipc_who.h"

#define CUDA_IPC_SHARE_NONE 0u /* cannot be mapped by others */
#define CUDA_IPC_SHARE_LEGACY 1u /* `handle` of cuIpcGetMemHandle */
#define CUDA_IPC_SHARE_FD 2u /* a descriptor of cuMemExportToShareableHandle goes with it */

/**
 * Always a whole allocation: what lies inside is told by its offset from `base`. Fixed width; the
 * descriptor is no part of the record, because it has another number in each process.
 */
struct cuda_ipc_share {
    uint32_t type; /* CUDA_IPC_SHARE_ */
    uint32_t reserved; /* 0 */
    uint64_t base; /* at the exporter; a name here, never an address to use */
    uint64_t length; /* bytes */
    uint64_t buffer_id; /* no other allocation of that process ever has it; not 0 */
    struct cuda_ipc_who who; /* the exporter */
    struct cuda_uuid uuid; /* of the device that has the memory */
    uint8_t handle[64]; /* zeros unless LEGACY */
};
KVL_STATIC_ASSERT(sizeof(struct cuda_ipc_share) == 136, "struct cuda_ipc_share has no padding");

#endif /* KVL_CUDA_IPC_SHARE_H */
