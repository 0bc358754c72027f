/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file py_socket_seek.h
 * Chunks of other engines, by key: the backend's lookup and read.
 *
 * Whom to ask, in this order: the peer that said it has the chunk, when somebody looked for it
 * lately; the holders that the fleet's controller names; the peers of the INI file. Peers are asked
 * directly over the data plane, so an answer is the owner's own. What one does not bring is asked
 * from the next. Nothing here blocks: an operation goes on in the callbacks of what it waits for.
 */
#ifndef KVL_PY_SOCKET_SEEK_H
#define KVL_PY_SOCKET_SEEK_H

#include <kvlane/backend.h>

#include "py_socket_options.h"

struct py_socket_seek;

struct py_socket_seek_config {
    const struct kvl_host *host; /* borrowed, as all here */
    const struct py_socket_options *options;
    struct kvl_channel *channel; /* of the instance, open */
};

/** Starts the thread that keeps the peers of the INI file connected. @return 0; -ENOMEM, -EAGAIN. */
int py_socket_seek_start(const struct py_socket_seek_config *config,
                         struct py_socket_seek **seek_out);

/**
 * Takes over another list of peers, while work is under way: what is asked already goes on. A peer
 * that is not in it any more stays connected, and is asked only for what others say it has.
 */
void py_socket_seek_set_peers(struct py_socket_seek *seek, char (*urls)[KVL_CHANNEL_URL_ROOM],
                              uint32_t count);

/** Refuses new work with -ECANCELED. */
void py_socket_seek_quiesce(struct py_socket_seek *seek);

/**
 * Ends what is under way with -ECANCELED and the thread. Then the channel may be closed, and after
 * that destroy be called. Takes NULL.
 */
void py_socket_seek_stop(struct py_socket_seek *seek);
void py_socket_seek_destroy(struct py_socket_seek *seek);

/** The slots of struct kvl_backend_ops. */
int py_socket_seek_lookup(struct py_socket_seek *seek, const struct kvl_batch *batch);
int py_socket_seek_read(struct py_socket_seek *seek, const struct kvl_batch *batch);
void py_socket_seek_cancel(struct py_socket_seek *seek, uint64_t cookie);

void py_socket_seek_stats(struct py_socket_seek *seek, kvl_stat_fn fn, void *ctx);

#endif /* KVL_PY_SOCKET_SEEK_H */
