/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cuda_ipc_torch.h
 * The paged KV cache of an engine that runs on PyTorch in another process, from the KVCache message
 * that LMCache's workers send: a list of CudaIPCWrapper, one per layer.
 */
#ifndef KVL_CUDA_IPC_TORCH_H
#define KVL_CUDA_IPC_TORCH_H

#include <kvlane/host.h>
#include <kvlane/ipc.h>

#include "cuda_ipc_map.h"

/** Most layers, that is wrappers, of one KV cache. */
#define CUDA_IPC_TORCH_LAYERS_MAX 1024u

/** What opening needs; borrowed for the call, but for those that say otherwise. */
struct cuda_ipc_torch_env {
    struct cuda_ipc_map *map; /* outlives what is opened */
    const struct cuda_ipc_place *places; /* the devices that may be used */
    uint32_t place_count;
    const struct kvl_ipc_ops *ipc;
    const struct kvl_log *log; /* outlives what is opened */
    uint64_t deadline_ms; /* for the producers' events, of CLOCK_MONOTONIC */
};

struct cuda_ipc_torch;

/**
 * Checks and opens a KV cache: its device by UUID, then the producer's events are waited for, so
 * that the memory is at rest, then its memory is mapped. From any thread; blocks. Either all layers
 * are opened or none.
 *
 * Each wrapper that was opened takes one off its counter in torch's file when closed, so that torch
 * uses the memory again; also after a failure, as a wrapper is opened once. A counter that
 * cannot be reached is logged once per process and never an error: the producer only keeps more
 * memory than it needs.
 * @param kvcache  the message; msgpack
 * @return 0; -EPROTO, -EBADMSG, -EMSGSIZE, -ENOTSUP of the codec or of the layout; -ENODEV no such
 *         device here; -ETIMEDOUT an event did not happen; -EACCES the descriptors of an
 *         expandable segment may not be taken over; -ENOTSUP fabric handles; what
 *         cuda_ipc_map_acquire gives. One sentence in err.
 */
int cuda_ipc_torch_open(const struct cuda_ipc_torch_env *env, const void *kvcache, uint64_t bytes,
                        struct cuda_ipc_torch **torch_out, struct kvl_err *err);

/** The same with addresses of this process: `bases` is set, `kvcache` is not. Lives as long. */
const struct kvl_kv *cuda_ipc_torch_kv(const struct cuda_ipc_torch *torch);

/**
 * The process it came from, as its counter files say; for a watch on its life (cuda_ipc_reap.h).
 */
const struct cuda_ipc_who *cuda_ipc_torch_who(const struct cuda_ipc_torch *torch);

/** Closes. Whatever used the memory has been synchronised with. Takes NULL. */
void cuda_ipc_torch_close(struct cuda_ipc_torch *torch);

#endif /* KVL_CUDA_IPC_TORCH_H */
