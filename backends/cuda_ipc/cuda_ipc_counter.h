/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cuda_ipc_counter.h
 * torch's reference counters: a POSIX shared memory object with a counter per exported tensor. The
 * exporter keeps a tensor's memory until its counter is 0, so each consumer counts down once.
 *
 * The files belong to another process: they are never created, and nothing in them is trusted.
 */
#ifndef KVL_CUDA_IPC_COUNTER_H
#define KVL_CUDA_IPC_COUNTER_H

#include <stddef.h>

#include <kvlane/abi.h>

#define CUDA_IPC_COUNTER_SLOTS 10000u
/** Bytes of the file: int32 users of the mapping, 60 unused, then int64 per slot. */
#define CUDA_IPC_COUNTER_BYTES (64u + 8u * CUDA_IPC_COUNTER_SLOTS)
/** Longest name, without a terminator. */
#define CUDA_IPC_COUNTER_NAME_MAX 255u

/**
 * Checks a name: "/torch_<pid>_<number>_<number>", which names no path.
 * @return 0 and the pid; -EBADMSG.
 */
int cuda_ipc_counter_check(const void *name, size_t length, uint64_t *pid_out);

/**
 * Is the counter there, and above 0?
 * @param name  checked, terminated
 * @return 0; -ENOENT no such file; -EBADMSG not a counter file, no such slot; -ERANGE it is 0 or
 *         below; -EACCES, ..
 */
int cuda_ipc_counter_probe(const char *name, uint64_t slot);

/** Counts down by one, atomically and never below 0. @return as probe. */
int cuda_ipc_counter_drop(const char *name, uint64_t slot);

#endif /* KVL_CUDA_IPC_COUNTER_H */
