/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cuda_ipc_event.h
 * Events of other processes. A handle to memory implies no order: who wrote it records an event
 * behind its writes and sends its handle, and we wait for it before we read. PyTorch does so. Among
 * ourselves leases give the order: a chunk is leased once it is written and given back once it is
 * read, so nobody has to keep an event alive for others.
 */
#ifndef KVL_CUDA_IPC_EVENT_H
#define KVL_CUDA_IPC_EVENT_H

#include "cuda_ipc_place.h"

/** Opens an event of another process. @return 0; -ESTALE, -EINVAL it is gone; .. of the driver. */
int cuda_ipc_event_open(const struct cuda_ipc_place *place,
                        const struct cuda_ipc_event_handle *handle, cuda_event *event_out,
                        struct kvl_err *err);

/**
 * Blocks until an opened event has happened. For streams use api->stream_wait_event.
 * @param deadline_ms  of CLOCK_MONOTONIC
 * @return 0; -ETIMEDOUT; codes of the driver.
 */
int cuda_ipc_event_wait(const struct cuda_ipc_place *place, cuda_event event, uint64_t deadline_ms,
                        struct kvl_err *err);

/** Ends an opened event, once the waits for it are over. Takes NULL. */
void cuda_ipc_event_close(const struct cuda_ipc_place *place, cuda_event event);

#endif /* KVL_CUDA_IPC_EVENT_H */
