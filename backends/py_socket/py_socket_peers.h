/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file py_socket_peers.h
 * The remote peers of one channel: who has done the handshake, and what they offered.
 *
 * A record stands for one incarnation of a peer and does not change: a peer that comes back as
 * another incarnation gets a new record, and the old one is `gone`. Records are counted; whoever
 * keeps one past a call retains it.
 *
 * Tokens. Each side gives the other one a token of its own in the offer. `token` below is the one
 * we gave: who shows it on a data connection is this peer. `offer.token` is the one it gave us: we
 * show it on data connections that we open. Tokens never get into logs.
 *
 * Every function may be called from any thread.
 */
#ifndef KVL_PY_SOCKET_PEERS_H
#define KVL_PY_SOCKET_PEERS_H

#include <stdatomic.h>

#include <kvlane/channel.h>

#include "py_socket_wire.h"

struct py_socket_peer {
    /* ---- constant ---- */
    char id[KVL_CHANNEL_URL_ROOM]; /* as connect named it; for those who came to us the url */
    char url[KVL_CHANNEL_URL_ROOM]; /* its peer_init_url */
    struct py_socket_offer offer; /* version 0: a Python peer, handshake only */
    uint32_t version; /* of the data plane with it; 0: a Python peer */
    uint8_t token[PY_SOCKET_TOKEN]; /* what it has to show to us */
    uint64_t serial; /* counts the records of a channel, from 1 */

    /* ---- changing ---- */
    _Atomic uint64_t seen_ms; /* last sign of life: anybody may set it */
    _Atomic int gone; /* 0; -ESTALE replaced, -ENOTCONN forgotten, -ECANCELED closed */

    /** The data plane's, which alone reads and writes it under its own rules. NULL at first. */
    _Atomic(void *) data;

    /* ---- private ---- */
    _Atomic uint32_t refs;
    struct py_socket_peer *next_by_url;
    struct py_socket_peer *next_by_id;
};

struct py_socket_peers;

struct py_socket_peer *py_socket_peer_retain(struct py_socket_peer *peer);
/** Takes NULL. */
void py_socket_peer_release(struct py_socket_peer *peer);

/** @param max  peers; over it those unseen for longest go that nobody has retained */
int py_socket_peers_create(uint32_t max, struct py_socket_peers **peers_out);
/** Every record is marked -ECANCELED and let go. Takes NULL. */
void py_socket_peers_destroy(struct py_socket_peers *peers);

/** By id, or else by url. @return a retained record that was not gone; NULL. */
struct py_socket_peer *py_socket_peers_find(struct py_socket_peers *peers, const char *id);

/** Whose token that is; the time taken does not tell how much of it was right. Retained; NULL. */
struct py_socket_peer *py_socket_peers_find_token(struct py_socket_peers *peers,
                                                  const uint8_t *token);

uint32_t py_socket_peers_count(struct py_socket_peers *peers);

#endif /* KVL_PY_SOCKET_PEERS_H */
