/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cuda_ipc_segment.h
 * Descriptors of another process, taken over for torch's expandable segments: their handles hold
 * the numbers that the descriptors have there.
 */
#ifndef KVL_CUDA_IPC_SEGMENT_H
#define KVL_CUDA_IPC_SEGMENT_H

#include <kvlane/ipc.h>

#include "cuda_ipc_map.h"

/** Where the descriptors come from; made for one mapping. */
struct cuda_ipc_segment_source {
    const struct kvl_ipc_ops *ipc;
    const struct kvl_ipc_handle *handle; /* of kind KVL_IPC_HANDLE_FDS; borrowed */
    struct cuda_ipc_who who; /* the exporter */
    int pidfd; /* -1 until the first one is asked for */
};

/**
 * A cuda_ipc_segment_fn; `ctx` is a struct cuda_ipc_segment_source. Makes sure that the exporter is
 * still the process it was.
 * @return 0; -EACCES not permitted, with the usual cures; -ESRCH gone, or in another PID namespace;
 *         -ESTALE it has closed the descriptor; -ENOTSUP a system without pidfd_getfd (Linux 5.6).
 */
int cuda_ipc_segment_fetch(void *ctx, uint32_t index, int *fd_out, struct kvl_err *err);

/** Ends the source. */
void cuda_ipc_segment_done(struct cuda_ipc_segment_source *source);

#endif /* KVL_CUDA_IPC_SEGMENT_H */
