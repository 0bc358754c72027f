/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file py_socket_data.h
 * The data plane of an instance: its threads, its channels, and chunks by key between peers.
 */
#ifndef KVL_PY_SOCKET_DATA_H
#define KVL_PY_SOCKET_DATA_H

#include <pthread.h>

#include <kvlane/backend.h>

#include "py_socket_frame.h"
#include "py_socket_loop.h"

struct py_socket_options;
struct py_socket_zmq;
struct py_socket_counters;

/**
 * The serving side of chunks by key. Functions are called by the threads of the data plane, several
 * at once, and must not block on I/O.
 */
struct py_socket_serve_ops {
    void *ctx;
    /** 0 there; -ENOENT. */
    int (*lookup)(void *ctx, const struct kvl_key *key);
    /** Leases a chunk, whose bytes then rest. @return 0; -ENOENT; another code for the peer. */
    int (*lease)(void *ctx, const struct kvl_key *key, struct kvl_view *view_out);
    /**
     * Looks for a chunk that `lookup` does not know where backends of this process keep some, and
     * unless `only_look` brings it to where `lease` finds it. As store_fetch of the host. NULL:
     * there are no such backends.
     */
    int (*bring)(void *ctx, const struct kvl_key *key, int only_look, kvl_fetch_fn fn,
                 void *fn_ctx);
    /** Gives a lease back: sent, given back by the peer, or the peer is gone. Exactly once. */
    void (*release)(void *ctx, uint64_t lease);
    /** Memory in which views lie, for peers on this host. fd -1: all goes through sockets. */
    struct kvl_store_export store;
};

struct py_socket_data {
    const struct kvl_host *host; /* borrowed, as all before `loops` */
    const struct py_socket_options *options;
    struct py_socket_zmq *zmq;
    struct py_socket_counters *counters;
    const struct py_socket_serve_ops *serve; /* NULL = LOOKUP and GET are refused */
    struct py_socket_loops loops;
    uint8_t *parent; /* a page that reads as 1, but as 0 in a forked child */
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t brought; /* one of the brings has ended */
    struct kvl_channel *channels;
    struct py_socket_bring *brings; /* questions that wait for chunks */
    uint64_t bring_bytes;
};

/** The data plane of the instance that py_socket_channel_ops.open gets; from py_socket.c. */
struct py_socket_data *py_socket_data_of(void *self);

/** Starts the threads; the borrowed fields are set. @return 0; -EAGAIN, -EMFILE, -ENOMEM. */
int py_socket_data_start(struct py_socket_data *data);

/** Closes what channels are left, ends the threads. Harmless when not started. */
void py_socket_data_stop(struct py_socket_data *data);

/** Counters of all channels together. */
void py_socket_data_stats(struct py_socket_data *data, kvl_stat_fn fn, void *ctx);

/** One sentence: peers by path, bytes, errors. @return KVL_HEALTH_. */
uint32_t py_socket_data_health(struct py_socket_data *data, char *text_out, size_t room);

extern const struct kvl_channel_ops py_socket_channel_ops;

/** Who has done the handshake with a channel. */
struct py_socket_peers *py_socket_channel_peers(struct kvl_channel *channel);

/** Called by a thread of the channel, or within the call that began it; no lock held. */
typedef void (*py_socket_connected_fn)(void *ctx, int32_t status);

/**
 * As kvl_channel_ops.connect, with a call instead of an op: `fn` is called exactly once when 0 was
 * returned. @return 0; -EINVAL, -EAGAIN, -ECANCELED, -ENOMEM.
 */
int py_socket_connect_call(struct kvl_channel *channel, const char *url, uint64_t deadline_ms,
                           py_socket_connected_fn fn, void *ctx);

/* ---- chunks by key: the asking side ---- */

/**
 * What becomes of a question. Called by a thread of the data plane, or by one that waits for
 * another operation of the channel and receives meanwhile; one at a time per question, no lock
 * held.
 */
struct py_socket_fetch_ops {
    /** LOOKUP: 1 or 0 per key. */
    void (*looked_up)(void *ctx, uint32_t item, int is_there);
    /**
     * GET: a chunk was found. Where do its bytes go? The runs must have found->bytes in all and
     * are borrowed until `item`.
     * @return 0; a negative errno drops the bytes and becomes the status of the item.
     */
    int (*found)(void *ctx, uint32_t item, const struct py_socket_found *found,
                 const struct kvl_sg **sg_out, uint32_t *sg_count_out);
    /** GET: the end of one item: 0 the bytes are there; -ENOENT; -ESTALE the lease was lost. */
    void (*item)(void *ctx, uint32_t item, int32_t status);
    /**
     * The end, exactly once for each question that was accepted; items not reported before share
     * `status`. The op is no more.
     */
    void (*end)(void *ctx, int32_t status);
};

/**
 * Asks which chunks a peer has. It must be connected.
 * @param op_out  for kvl_channel_ops.cancel, until `end`; the other slots do not know it
 * @return 0 accepted; -ENOTCONN; -ENOTSUP it serves no chunks; -EMSGSIZE more than
 *         PY_SOCKET_KEYS_MAX; -EAGAIN; -ENOMEM.
 */
int py_socket_fetch_lookup(struct kvl_channel *channel, const char *peer_id,
                           const struct kvl_key *keys, uint32_t count, uint64_t deadline_ms,
                           const struct py_socket_fetch_ops *ops, void *ctx, uint64_t *op_out);

/**
 * Asks for chunks. Their bytes are received straight into the runs that `found` gives, or copied
 * there out of the peer's store where that is mapped.
 */
int py_socket_fetch_get(struct kvl_channel *channel, const char *peer_id,
                        const struct py_socket_wish *wishes, uint32_t count, uint64_t deadline_ms,
                        const struct py_socket_fetch_ops *ops, void *ctx, uint64_t *op_out);

#endif /* KVL_PY_SOCKET_DATA_H */
