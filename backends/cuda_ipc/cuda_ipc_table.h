/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cuda_ipc_table.h
 * Mappings by name, and the unused ones by age. Plain data: the cache holds its lock around it.
 */
#ifndef KVL_CUDA_IPC_TABLE_H
#define KVL_CUDA_IPC_TABLE_H

#include "cuda_ipc_mapping.h"

#define CUDA_IPC_TABLE_BUCKETS 2048u /* power of two */

/** All zero is an empty one. */
struct cuda_ipc_table {
    struct cuda_ipc_mapping *buckets[CUDA_IPC_TABLE_BUCKETS];
    struct cuda_ipc_mapping *oldest; /* of the unused ones */
    struct cuda_ipc_mapping *newest;
};

/** The mapping that has the wish's name; NULL when there is none. */
struct cuda_ipc_mapping *cuda_ipc_table_find(const struct cuda_ipc_table *table,
                                             const struct cuda_ipc_wish *wish);
void cuda_ipc_table_link(struct cuda_ipc_table *table, struct cuda_ipc_mapping *mapping);
/** Takes out one that is in; from then on it is dead. */
void cuda_ipc_table_unlink(struct cuda_ipc_table *table, struct cuda_ipc_mapping *mapping);

/** Nobody uses it any more; the newest of those. */
void cuda_ipc_table_rest(struct cuda_ipc_table *table, struct cuda_ipc_mapping *mapping);
/** Somebody uses one that rested, or it goes. */
void cuda_ipc_table_wake(struct cuda_ipc_table *table, struct cuda_ipc_mapping *mapping);

#endif /* KVL_CUDA_IPC_TABLE_H */
