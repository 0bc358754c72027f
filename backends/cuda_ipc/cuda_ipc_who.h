/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cuda_ipc_who.h
 * Which process on this machine. A pid alone does not tell: it is given again, and each container
 * counts its own.
 */
#ifndef KVL_CUDA_IPC_WHO_H
#define KVL_CUDA_IPC_WHO_H

#include <kvlane/abi.h>

/** A process. All zero is nobody. No padding, so that records can be compared as bytes. */
struct cuda_ipc_who {
    uint64_t pid; /* in its own PID namespace */
    uint64_t pid_namespace; /* inode of /proc/self/ns/pid; 0 where there is no /proc */
    uint64_t start_time; /* clock ticks after boot, field 22 of /proc/self/stat; 0 likewise */
};
KVL_STATIC_ASSERT(sizeof(struct cuda_ipc_who) == 24, "struct cuda_ipc_who has no padding");

/** The calling process. A few system calls; keep the answer, but not across a fork. */
void cuda_ipc_who_self(struct cuda_ipc_who *who_out);

/** 1 when both are the same process, else 0. Nobody is not the same as nobody. */
int cuda_ipc_who_equal(const struct cuda_ipc_who *a, const struct cuda_ipc_who *b);

/**
 * Start time of a process of this PID namespace.
 * @return 0; -ESRCH there is none, or no /proc to ask.
 */
int cuda_ipc_who_start_time(uint64_t pid, uint64_t *start_time_out);

/**
 * Is that process still there? One that has ended is not, even before its parent has taken note:
 * its memory is gone. Asks /proc, by pid and start time, which must be known.
 * @return 1, also when /proc does not answer; 0 it has ended.
 */
int cuda_ipc_who_lives(const struct cuda_ipc_who *who);

/**
 * Changes in the child of a fork. What was made under another generation belongs to the parent:
 * the child touches neither its locks nor the driver's objects. No system call.
 */
uint32_t cuda_ipc_who_generation(void);

#endif /* KVL_CUDA_IPC_WHO_H */
