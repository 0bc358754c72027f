/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file py_socket_peers.h
 * The remote peers of one channel: who has done the handshake, and what they offered.
 *
 * A record stands for one incarnation of a peer and does not change: a peer that comes back as
 * another incarnation gets a new record, and the old one is `gone`. Records are counted; whoever
 * keeps one past a call retains it.
 *
 * Tokens. Each side gives the other one a token in the offer, made for that peer alone. What
 * the peer gave us is for py_socket_peers_token() to say: we show it on data connections that we
 * open. Whoever shows the one we gave is the peer that py_socket_peers_find_token() says. Tokens
 * never get into logs. A peer that we call knows its token a moment before the record is there, so
 * one from its call is not shown where an answer of its gave another: whoever answers has the
 * record.
 *
 * Every function may be called from any thread.
 */
#ifndef KVL_PY_SOCKET_PEERS_H
#define KVL_PY_SOCKET_PEERS_H

#include <stdatomic.h>

#include <kvlane/channel.h>

#include "py_socket_wire.h"

#define PY_SOCKET_TOKENS 4u

struct py_socket_peer {
    /* ---- constant ---- */
    char id[KVL_CHANNEL_URL_ROOM]; /* as connect named it; for those who came to us the url */
    char url[KVL_CHANNEL_URL_ROOM]; /* its peer_init_url */
    struct py_socket_offer offer; /* version 0: a Python peer, handshake only. No token. */
    uint32_t version; /* of the data plane with it; 0: a Python peer */
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
    struct py_socket_peer *next_gone;
    uint8_t tokens[PY_SOCKET_TOKENS][PY_SOCKET_TOKEN]; /* given to it */
    uint32_t token_count;
    uint8_t their_token[PY_SOCKET_TOKEN]; /* of its last answer, else of its first call */
    int has_answered;
    int is_settled; /* nothing has come from it since that answer */
    int has_lookup;
    char lookup_url[KVL_CHANNEL_URL_ROOM];
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

/** The token that the peer at that url was given first. @return 1; 0 it is not known. */
int py_socket_peers_given(struct py_socket_peers *peers, const char *url, uint8_t *token_out);

/**
 * Whether its token is one that it knows by now. A peer that has only called may not have our
 * answer yet, and one that calls again may have forgotten us: a handshake of our own settles both.
 * Peers without a data plane have no token and are settled.
 */
int py_socket_peers_is_settled(struct py_socket_peers *peers, const struct py_socket_peer *peer);

/** What to show to it: PY_SOCKET_TOKEN bytes. Ask for each connection anew. */
void py_socket_peers_token(struct py_socket_peers *peers, struct py_socket_peer *peer,
                           uint8_t *token_out);

/* ---- for the link, which tells the data plane about every change ---- */

struct py_socket_hello {
    const char *id; /* both shorter than KVL_CHANNEL_URL_ROOM */
    const char *url;
    int is_named; /* the id is ours to give, and replaces the one it had */
    const struct py_socket_offer *offer; /* what it said */
    uint32_t version; /* agreed */
    const uint8_t *token; /* given to it already; NULL = make one where it is new */
    uint64_t now_ms;
};

struct py_socket_learned {
    struct py_socket_peer *peer; /* retained */
    int is_new; /* 0 = this very incarnation was known */
    uint8_t token[PY_SOCKET_TOKEN]; /* for it */
    struct py_socket_peer *gone; /* those it replaced or pushed out, by next_gone; to be released */
};

/**
 * Enters a peer that has said hello. @return 0; -EMFILE there are too many, all in use; -ENOMEM;
 * -EIO no random bytes. `gone` is filled in every case.
 */
int py_socket_peers_learn(struct py_socket_peers *peers, const struct py_socket_hello *hello,
                          struct py_socket_learned *learned_out);

/** Takes one out and puts it before the list at *gone_out. @return 1; 0 it was gone already. */
int py_socket_peers_drop(struct py_socket_peers *peers, struct py_socket_peer *peer, int reason,
                         struct py_socket_peer **gone_out);
/** Takes all out. @return a list by next_gone; each to be released. */
struct py_socket_peer *py_socket_peers_drop_all(struct py_socket_peers *peers, int reason);

/** Its peer_lookup_url once it has told. @return 1, and the text; 0 not known. */
int py_socket_peers_get_lookup(struct py_socket_peers *peers, struct py_socket_peer *peer,
                               char *lookup_url_out);
void py_socket_peers_set_lookup(struct py_socket_peers *peers, struct py_socket_peer *peer,
                                const char *lookup_url);

/** @return 0; a code of getrandom. */
int py_socket_random(void *bytes, size_t length);

uint32_t py_socket_peers_count(struct py_socket_peers *peers);

#endif /* KVL_PY_SOCKET_PEERS_H */
