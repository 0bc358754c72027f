/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cuda_ipc_reap.h
 * Registered KV caches whose memory belongs to another process, the producer. It is mapped until
 * the cache is unregistered or the producer has ended: its caches are lost then. A lost cache takes
 * no batches, copies under way end as they can, and its mappings close as soon as none is left; it
 * keeps its number until it is unregistered. One warning tells of it.
 *
 * Producers are told apart by pid and start time, so another process that gets the pid later is not
 * mistaken for one. Of a producer that cannot be watched (see cuda_ipc_vigil.h) the mappings stay
 * until its caches are unregistered.
 *
 * Thread-safe but for create, close and destroy. The driver is called by close, remove and turn
 * only, and without a lock.
 */
#ifndef KVL_CUDA_IPC_REAP_H
#define KVL_CUDA_IPC_REAP_H

#include <stdatomic.h>

#include "cuda_ipc_kv.h"
#include "cuda_ipc_torch.h"

struct cuda_ipc_reap;

/**
 * @param host           borrowed
 * @param kvs            borrowed: the numbers of the caches
 * @param producers_lost borrowed: counts producers that have ended
 * @return 0; -ENOMEM, -EMFILE, ..
 */
int cuda_ipc_reap_create(const struct kvl_host *host, struct cuda_ipc_kvs *kvs,
                         _Atomic uint64_t *producers_lost, struct cuda_ipc_reap **reap_out);
/** Closes all that is mapped. No more turns come, and nobody copies. Takes NULL. */
void cuda_ipc_reap_close(struct cuda_ipc_reap *reap);
/** After close. Takes NULL. */
void cuda_ipc_reap_destroy(struct cuda_ipc_reap *reap);

/** Readable when a turn is due. Borrowed. */
int cuda_ipc_reap_fd(const struct cuda_ipc_reap *reap);
/** Notices the end of producers, and closes what is lost and not used. In one thread. */
void cuda_ipc_reap_turn(struct cuda_ipc_reap *reap);
/** Has a turn come: somebody was the last that held a lost cache. Calls nobody. */
void cuda_ipc_reap_wake(const struct cuda_ipc_reap *reap);

/**
 * Keeps what a cache is mapped by.
 * @param kv          its number
 * @param take_torch  still the caller's when it fails
 * @return 0, also when the producer has just ended; -ENOMEM.
 */
int cuda_ipc_reap_add(struct cuda_ipc_reap *reap, uint64_t kv, struct cuda_ipc_torch *take_torch);
/** The number was given up: closes its mappings, if it is one of those. Blocks in the driver. */
void cuda_ipc_reap_remove(struct cuda_ipc_reap *reap, uint64_t kv);

/** Caches that are lost and still registered. */
uint32_t cuda_ipc_reap_lost(const struct cuda_ipc_reap *reap);

#endif /* KVL_CUDA_IPC_REAP_H */
