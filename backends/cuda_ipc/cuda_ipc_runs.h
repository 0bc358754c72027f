/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cuda_ipc_runs.h
 * The room of one device: segments cut into runs, free or taken, linked in the order of their
 * addresses; free ones also by size class. Only numbers: no memory of a device is touched. Giving a
 * run back cannot fail and joins it with free neighbours. Not thread-safe.
 */
#ifndef KVL_CUDA_IPC_RUNS_H
#define KVL_CUDA_IPC_RUNS_H

#include <kvlane/abi.h>

/** Powers of two. */
#define CUDA_IPC_RUNS_CLASSES 64u

struct cuda_ipc_run {
    struct cuda_ipc_run *before; /* neighbours in the segment, NULL at its ends */
    struct cuda_ipc_run *after;
    struct cuda_ipc_run *class_next; /* of free ones */
    struct cuda_ipc_run *class_prev;
    void *owner; /* NULL = free */
    uint64_t offset;
    uint64_t bytes;
    uint32_t segment;
};

/** Fields are private. All zero = no room. */
struct cuda_ipc_runs {
    struct cuda_ipc_run *classes[CUDA_IPC_RUNS_CLASSES]; /* free runs, newest first */
};

/** Adds a segment as one free run. @return its run; NULL without memory. */
struct cuda_ipc_run *cuda_ipc_runs_add(struct cuda_ipc_runs *runs, uint32_t segment,
                                       uint64_t bytes);

/** Frees all runs of a segment. @param first  its first run */
void cuda_ipc_runs_drop(struct cuda_ipc_runs *runs, struct cuda_ipc_run *first);

/** Takes `bytes` for an owner. @return the run; NULL when no free run holds them, or no memory. */
struct cuda_ipc_run *cuda_ipc_runs_take(struct cuda_ipc_runs *runs, uint64_t bytes, void *owner);

/** Gives a run back. It is no longer valid. */
void cuda_ipc_runs_give(struct cuda_ipc_runs *runs, struct cuda_ipc_run *run);

#endif /* KVL_CUDA_IPC_RUNS_H */
