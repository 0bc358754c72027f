/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file py_socket_lookup.h
 * LMCache's P2P lookup socket (peer_lookup_url), both roles: a REP socket that answers questions
 * about chunks, and REQ sockets that ask peers, one per peer and one question at a time on each.
 *
 * The chunks themselves move through the channel between the two peers, before the answer is given.
 */
#ifndef KVL_PY_SOCKET_LOOKUP_H
#define KVL_PY_SOCKET_LOOKUP_H

#include "py_socket_peers.h"
#include "py_socket_zmq.h"

/** What a peer asks for, or offers. Borrowed for the call. */
struct py_socket_chunks {
    const struct kvl_text *keys;
    const uint64_t *offsets; /* put: tokens per chunk; get: NULL */
    const uint64_t *mem_indexes; /* pages of the peer */
    uint32_t count; /* of each of the lists */
};

/**
 * Who has the chunks. Called by the thread of the socket, one at a time; the peer waits meanwhile.
 * Must come back soon once the instance is told to stop.
 */
struct py_socket_chunks_ops {
    void *ctx;
    /**
     * Writes the leading run of chunks that are here into the pages of the receiver.
     * @return how many, 0 .. count; a negative errno is told to the peer as a server error.
     */
    int (*get)(void *ctx, struct py_socket_peer *receiver, const struct py_socket_chunks *chunks);
    /**
     * Reads the chunks that are not here from the pages of the sender, and keeps them.
     * @return how many were read, 0 .. count; a negative errno, of which the peer hears 0.
     */
    int (*put)(void *ctx, struct py_socket_peer *sender, const struct py_socket_chunks *chunks);
};

struct py_socket_lookup_config {
    const struct kvl_host *host; /* borrowed, outlives the socket; so do the next three */
    const struct py_socket_options *options;
    struct py_socket_zmq *zmq;
    struct py_socket_counters *counters;
    const char *bind; /* as in the options; NULL or "" = only asks */
};

struct py_socket_lookup;

/** Binds. Who connects waits until start. @return 0; as py_socket_zmq_serve; err->text. */
int py_socket_lookup_create(const struct py_socket_lookup_config *config,
                            struct py_socket_lookup **lookup_out, struct kvl_err *err);

/**
 * Starts to answer, by a thread of its own. For one that only asks there is nothing to do.
 * @param peers  of the link that peers do their handshake with; borrowed, as is `ops`
 * @return 0; -EAGAIN, -ENOMEM.
 */
int py_socket_lookup_start(struct py_socket_lookup *lookup, struct py_socket_peers *peers,
                           const struct py_socket_chunks_ops *ops);

/** Ends the thread and makes questions under way return -ECANCELED. Takes one not started. */
void py_socket_lookup_stop(struct py_socket_lookup *lookup);

/** After stop, when no question is under way. Takes NULL. */
void py_socket_lookup_destroy(struct py_socket_lookup *lookup);

/** The bound host:port, "" without one. */
const char *py_socket_lookup_url(const struct py_socket_lookup *lookup);

/* ---- asking; from any thread, blocks only the caller ---- */

#define PY_SOCKET_LOOKUP_TRIES 3u

struct py_socket_question {
    const char *lookup_url; /* of the peer */
    const char *own_id; /* our peer_init_url, by which the peer knows us */
    const char *lookup_id; /* get: any text for logs of the peer */
    struct py_socket_chunks chunks;
    uint64_t deadline_ms; /* absolute; 0 or KVL_NEVER = handshake_timeout from now */
};

/**
 * Asks a peer to write chunks into our pages. Up to three tries, each on a new connection when the
 * one before did not answer. After -ETIMEDOUT the peer may still write to the pages.
 * @return 0 and how many of the first were written; -ENOTCONN it does not know us: do the handshake
 *         and ask again; -ETIMEDOUT; -EREMOTEIO it has failed; -EPROTO nonsense; -EACCES keys that
 *         do not match; -EMSGSIZE, -EINVAL; -ECANCELED; -EMFILE, -ENOMEM.
 */
int py_socket_lookup_get(struct py_socket_lookup *lookup, const struct py_socket_question *question,
                         uint32_t *hits_out);

/** Asks a peer to read chunks from our pages. @return 0 and how many it read; as above. */
int py_socket_lookup_put(struct py_socket_lookup *lookup, const struct py_socket_question *question,
                         uint32_t *read_out);

#endif /* KVL_PY_SOCKET_LOOKUP_H */
