/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file drive.h
 * Brings an op to its end: asks one backend after the other for what is still open, waits, and
 * keeps the deadline. Runs in the thread that waits for the op; nothing else moves it on.
 */
#ifndef KVL_PLUGIN_DRIVE_H
#define KVL_PLUGIN_DRIVE_H

#include "core.h"

/** True when the backend takes operations that need these capabilities now. */
static inline int kvl_drive_can(const struct kvl_backend *backend, uint64_t caps)
{
    return (backend->caps & caps) == caps && kvl_backend_is_running(backend);
}

/** True when some backend can. */
int kvl_drive_any(const struct kvl_instance *instance, uint64_t caps);

/** Bit per backend with `put_to = evicted`, running or not. */
uint32_t kvl_drive_below(const struct kvl_instance *instance);

/** Sends the items that `item->want` names to their backends, from item `first` on. */
void kvl_drive_spread(struct kvl_instance *instance, struct kvl_op *op, uint32_t first);

/** Asks for what is open, never waits. @return flights under way; 0 = the op is done. */
uint32_t kvl_drive_advance(struct kvl_instance *instance, struct kvl_op *op);

/**
 * Until the op is done, its own deadline is over (it is cut: -ETIMEDOUT), it was cancelled (cut:
 * -ECANCELED), or `deadline_ms` is over (-EINPROGRESS, the op goes on).
 */
int kvl_drive(struct kvl_instance *instance, struct kvl_op *op, uint64_t deadline_ms);

#endif /* KVL_PLUGIN_DRIVE_H */
