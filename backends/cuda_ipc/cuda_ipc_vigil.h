/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cuda_ipc_vigil.h
 * A watch over the lives of processes that are neither children nor peers of ours: by descriptors
 * of them (pidfd) where the kernel gives these, else by a look at /proc once a second.
 *
 * One descriptor becomes readable when there is something to look at, so that any loop can wait for
 * it. Nothing here takes a lock or blocks. In a child of fork() lives may be ended, and the vigil
 * finished; that changes nothing for the parent.
 */
#ifndef KVL_CUDA_IPC_VIGIL_H
#define KVL_CUDA_IPC_VIGIL_H

#include <stdbool.h>

#include "cuda_ipc_who.h"

struct cuda_ipc_vigil {
    int epoll_fd; /* readable: look at all lives */
    int wake_fd;
    int timer_fd;
    uint32_t polled; /* lives that have no descriptor */
    uint32_t generation; /* of forks */
};

/** A process that is watched. */
struct cuda_ipc_life {
    struct cuda_ipc_who who;
    int pidfd; /* -1 = none */
    bool is_polled;
    bool is_over; /* it had ended before the watch began */
};

/** @return 0; -EMFILE, -ENOMEM, .. */
int cuda_ipc_vigil_init(struct cuda_ipc_vigil *vigil);
/** After the end of all lives. */
void cuda_ipc_vigil_fini(struct cuda_ipc_vigil *vigil);

/**
 * Watches a process. Its start time tells it from others that had, or get, the same pid.
 * @return 0; -ESRCH it has ended already; -ENOTSUP it cannot be watched: its start time is not
 *         known, or the pid belongs to another PID namespace. The life is to be ended in any case.
 */
int cuda_ipc_vigil_begin(struct cuda_ipc_vigil *vigil, const struct cuda_ipc_who *who,
                         struct cuda_ipc_life *life_out);
void cuda_ipc_vigil_end(struct cuda_ipc_vigil *vigil, struct cuda_ipc_life *life);

/** Whether the process has ended. Never true of one that cannot be watched. */
bool cuda_ipc_vigil_is_over(const struct cuda_ipc_life *life);

/** Makes the descriptor readable. From any thread, also from a signal handler. */
void cuda_ipc_vigil_wake(const struct cuda_ipc_vigil *vigil);
/** Before a look: the descriptor is not readable any more, but for lives that are over. */
void cuda_ipc_vigil_clear(const struct cuda_ipc_vigil *vigil);

#endif /* KVL_CUDA_IPC_VIGIL_H */
