/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file drive.h
 * Brings an op to its end: asks one backend after the other for what is still open, copies what
 * came into the engine's memory, waits, and keeps the deadline. Runs in the thread that waits for
 * the op; nothing else moves it on, except a thread in wait_layers() while nobody waits.
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

/** Bit per backend that may be asked for a lookup or load with these KVL_BATCH_ flags. */
uint32_t kvl_drive_may_ask(const struct kvl_instance *instance, uint32_t flags);

/** Bit per backend with `put_to = evicted`, running or not. */
uint32_t kvl_drive_below(const struct kvl_instance *instance);

/**
 * Leases a chunk of the own store when it is what the reader expects, bytes included.
 * @return 0; -ENOENT; -EBADMSG.
 */
int kvl_drive_lease(struct kvl_instance *instance, const struct kvl_chunk *chunk,
                    struct kvl_view *view_out);

/** Chunks of one batch: as many as the backend takes, and of payload a share per stream. */
uint32_t kvl_drive_share(const struct kvl_op *op, const struct kvl_backend *backend,
                         uint32_t count);

/**
 * Sends the items that `item->want` names to their backends, from item `first` on: from the own
 * store, or with KVL_VERB_WRITE_OUT from the engine's memory; or has them remove them.
 */
void kvl_drive_spread(struct kvl_instance *instance, struct kvl_op *op, enum kvl_verb verb,
                      uint32_t first);

/** The same for some items. */
void kvl_drive_spread_items(struct kvl_instance *instance, struct kvl_op *op, enum kvl_verb verb,
                            const uint32_t *items, uint32_t count);

/** Asks for what is open, never waits. @return flights under way; 0 = the op is done. */
uint32_t kvl_drive_advance(struct kvl_instance *instance, struct kvl_op *op);

/**
 * Until the op is done, its own deadline is over (it is cut: -ETIMEDOUT), it was cancelled (cut:
 * -ECANCELED), or `deadline_ms` is over (-EINPROGRESS, the op goes on). Of an op that is over it
 * says again how it ended.
 */
int kvl_drive(struct kvl_instance *instance, struct kvl_op *op, uint64_t deadline_ms);

/** Moves saves that nobody waits for on to their end, for close(). */
void kvl_drive_saves(struct kvl_instance *instance, uint64_t deadline_ms);

#endif /* KVL_PLUGIN_DRIVE_H */
