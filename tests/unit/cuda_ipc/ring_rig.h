/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file ring_rig.h
 * A process that shares events as PyTorch does. An event must live until the other side has opened
 * it and its wait is over, which nobody tells: so they are kept in a ring.
 */
#ifndef RING_RIG_H
#define RING_RIG_H

#include "cuda_ipc_event.h"

/** Events that a peer may be behind: more than it can have requests under way. */
#define RING_RIG_EVENTS 256u

struct ring_rig;

/**
 * Makes the events for one peer and device; they are created one by one as they are needed.
 * @param place  copied
 * @return 0; -ENOMEM; -ENOTSUP the device has no such events: synchronise before you answer.
 */
int ring_rig_create(const struct cuda_ipc_place *place, struct ring_rig **ring_out,
                    struct kvl_err *err);

/**
 * Records the oldest event of the ring behind what is queued on `stream` now. Any thread. A peer
 * that has fallen RING_RIG_EVENTS behind waits for more than it needs, never for less.
 * @return 0 and the handle to send; codes of the driver.
 */
int ring_rig_record(struct ring_rig *ring, cuda_stream stream,
                    struct cuda_ipc_event_handle *handle_out, struct kvl_err *err);

/** The peer is gone, or has been told. Takes NULL. */
void ring_rig_destroy(struct ring_rig *ring);

#endif /* RING_RIG_H */
