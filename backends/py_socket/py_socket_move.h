/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file py_socket_move.h
 * Chunks by LMCache's P2P lookup messages: what the lookup socket does when a peer asks us to give
 * or to take chunks, and how we have a peer take ours (Move).
 */
#ifndef KVL_PY_SOCKET_MOVE_H
#define KVL_PY_SOCKET_MOVE_H

#include <kvlane/backend.h>

#include "py_socket_lookup.h"

struct py_socket_move {
    const struct kvl_host *host; /* borrowed, as all here */
    struct kvl_channel *channel; /* of the instance; its buffer is the store's memory, or none */
    struct py_socket_lookup *lookup;
    const void *base; /* of the store's memory; NULL = pages cannot be named */
    uint64_t page; /* bytes */
    uint64_t timeout_ms; /* of what a peer makes us do */
};

/** The callbacks of the lookup socket; `move` is borrowed. */
void py_socket_move_ops(struct py_socket_move *move, struct py_socket_chunks_ops *ops_out);

/** host->push. Blocks. */
int py_socket_move_push(struct py_socket_move *move, const char *peer_url,
                        const struct kvl_key *keys, uint32_t count, uint64_t deadline_ms,
                        uint32_t *pushed_out);

#endif /* KVL_PY_SOCKET_MOVE_H */
