/* SPDX-License-Identifier: Apache-2.0 */
/** @file cuda_ipc_map_core.h What the two halves of the cache share; see cuda_ipc_map.h. */
#ifndef KVL_CUDA_IPC_MAP_CORE_H
#define KVL_CUDA_IPC_MAP_CORE_H

#include "cuda_ipc_mapping.h"

/** One taker of part. Lives until closed and until the last mapping that it opened is closed. */
struct cuda_ipc_map {
    struct cuda_ipc_map *next; /* under the cache's lock, as are entries, bytes and refs */
    uint32_t entries;
    uint32_t refs;
    uint64_t bytes; /* 0 = no limit */
    uint32_t generation; /* of forks */
    struct cuda_ipc_who self;
    struct cuda_ipc_api api;
};

/** Finds or opens what is wished for. @return as cuda_ipc_map_acquire. */
int cuda_ipc_map_take(struct cuda_ipc_map *map, const struct cuda_ipc_wish *wish,
                      struct cuda_ipc_ref *ref_out, struct kvl_err *err);

/** Counts a use of memory of this process. */
void cuda_ipc_map_count_own(void);

/** 0; -ECHILD and err in a child of the process that the map belongs to. */
int cuda_ipc_map_check_process(const struct cuda_ipc_map *map, struct kvl_err *err);

#endif /* KVL_CUDA_IPC_MAP_CORE_H */
