/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cuda_ipc_event.h
 * Order between two processes. No handle implies any: the exporter records an event behind its
 * writes and sends its handle, the importer waits for it before it reads; and the other way round
 * before the exporter writes again. An event must live until the other side has opened it and that
 * wait is over, which nobody tells: so exported ones are kept in a ring.
 */
#ifndef KVL_CUDA_IPC_EVENT_H
#define KVL_CUDA_IPC_EVENT_H

#include "cuda_ipc_place.h"

/** Events that a peer may be behind: more than it can have requests under way. */
#define CUDA_IPC_RING_EVENTS 256u

struct cuda_ipc_ring;

/**
 * Makes the events for one peer and device; they are created one by one as they are needed.
 * @param place  copied
 * @return 0; -ENOMEM; -ENOTSUP the device has no such events: synchronise before you answer.
 */
int cuda_ipc_ring_create(const struct cuda_ipc_place *place, struct cuda_ipc_ring **ring_out,
                         struct kvl_err *err);

/**
 * Records the oldest event of the ring behind what is queued on `stream` now. Any thread. A peer
 * that has fallen CUDA_IPC_RING_EVENTS behind waits for more than it needs, never for less.
 * @return 0 and the handle to send; codes of the driver.
 */
int cuda_ipc_ring_record(struct cuda_ipc_ring *ring, cuda_stream stream,
                         struct cuda_ipc_event_handle *handle_out, struct kvl_err *err);

/** The peer is gone, or has been told. Takes NULL. */
void cuda_ipc_ring_destroy(struct cuda_ipc_ring *ring);

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
