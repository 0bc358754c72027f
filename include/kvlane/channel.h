/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file channel.h
 * A peer channel: objects moved between registered buffers of two processes, as LMCache's transfer
 * channels offer it. Served by backends with KVL_CAP_CHANNEL (py_socket), reached by an engine
 * through kvl_plugin.channels. Independent of keys, store and registry.
 *
 * A channel has one buffer, cut into pages of align_bytes. Peers name pages by index (byte offset /
 * align_bytes). An object begins at a page and may cover several.
 *
 * READ and WRITE are one-sided: only the caller acts. SEND and RECV come in pairs, one on each
 * side, in the order in which they were submitted for that peer. A transfer moves its objects in
 * order and stops at the first that cannot be moved: the number moved is a prefix.
 *
 * The bytes of an object may be changed by its owner while they are copied: the two sides agree by
 * other means when a page is at rest (that is what leases of the chunk path are for).
 *
 * Threads: every slot from any thread, several at once, also for one channel; close once, when
 * no other call is under way. A wait blocks only its caller. In a forked child every slot returns
 * -ECHILD and does nothing.
 */
#ifndef KVL_CHANNEL_H
#define KVL_CHANNEL_H

#include <kvlane/io.h>

KVL_EXTERN_C_BEGIN

#define KVL_CHANNEL_SENDER (1u << 0)
#define KVL_CHANNEL_RECEIVER (1u << 1)
#define KVL_CHANNEL_BOTH (KVL_CHANNEL_SENDER | KVL_CHANNEL_RECEIVER)

/** Do not run a thread for handshakes of peers: event_fd becomes readable, poll does the work. */
#define KVL_CHANNEL_ASYNC (1u << 0)

/** Longest URL or peer id, in bytes. */
#define KVL_CHANNEL_URL_MAX 255u
#define KVL_CHANNEL_URL_ROOM 256u

struct kvl_channel_params {
    uint32_t size; /* sizeof(struct kvl_channel_params) of the caller */
    uint32_t role; /* KVL_CHANNEL_SENDER, .. */
    uint32_t flags; /* KVL_CHANNEL_ASYNC */
    int32_t tp_rank; /* of the caller; for logs and health */
    void *buffer; /* NULL = the channel maps one, see buffer_out */
    uint64_t buffer_bytes; /* multiple of align_bytes */
    uint64_t align_bytes; /* one page; a power of two from 64 */
    /* A memfd behind `buffer`, with its offset in it: peers on this host then copy directly. -1:
     * none, and their bytes go through a socket. A buffer the channel maps always has one. */
    int32_t buffer_fd;
    uint32_t reserved; /* 0 */
    uint64_t buffer_offset;
    const char *peer_init_url; /* host:port to bind, port 0 = kernel picks; NULL = initiate only */
    const char *peer_lookup_url; /* told to peers that ask by a side message; NULL = "" */
    void *buffer_out; /* set by open: the buffer in use */
};
KVL_STATIC_ASSERT(sizeof(struct kvl_channel_params) == 80, "append fields, bump the minor version");

struct kvl_channel_peer {
    uint32_t size; /* sizeof(struct kvl_channel_peer) of the caller */
    uint32_t with_side_message; /* 1 = ask for the peer_lookup_url along with it */
    const char *local_id; /* ours, by convention our peer_init_url; NULL = that */
    const char *peer_id; /* NULL = peer_init_url */
    const char *peer_init_url; /* host:port */
    char side_reply[KVL_CHANNEL_URL_ROOM]; /* out: its peer_lookup_url, "" = none */
};
KVL_STATIC_ASSERT(sizeof(struct kvl_channel_peer) == 288, "append fields, bump the minor version");

#define KVL_TRANSFER_READ 1u
#define KVL_TRANSFER_WRITE 2u
#define KVL_TRANSFER_SEND 3u
#define KVL_TRANSFER_RECV 4u

/** An object in the own buffer. */
struct kvl_span {
    void *addr;
    uint64_t length; /* bytes, at least 1 */
};
KVL_STATIC_ASSERT(sizeof(struct kvl_span) == 16, "struct kvl_span is part of the ABI");

struct kvl_transfer {
    uint32_t size; /* sizeof(struct kvl_transfer) of the caller */
    uint32_t kind; /* KVL_TRANSFER_ */
    const char *peer_id; /* the receiver_id or sender_id */
    const struct kvl_span *objects; /* borrowed for the submit call; their memory until the end */
    const uint64_t *remote_indexes; /* READ, WRITE: one page of the peer per object; else NULL */
    uint32_t count; /* 1 .. KVL_BATCH_MAX */
    uint32_t reserved; /* 0 */
    uint64_t deadline_ms; /* absolute, CLOCK_MONOTONIC; KVL_NEVER = none */
    uint64_t tag; /* given back by poll */
};
KVL_STATIC_ASSERT(sizeof(struct kvl_transfer) == 56, "append fields, bump the minor version");

/** The end of a transfer or of an asynchronous connect. */
struct kvl_channel_done {
    uint64_t op;
    uint64_t tag;
    int32_t status; /* 0 all moved; else why the object at `moved` was not */
    uint32_t moved; /* objects moved, a prefix */
};
KVL_STATIC_ASSERT(sizeof(struct kvl_channel_done) == 24,
                  "struct kvl_channel_done: part of the ABI");

struct kvl_channel; /* opaque */

struct kvl_channel_ops {
    uint32_t size;
    uint32_t reserved;

    /**
     * Makes a channel. @param self  from kvl_plugin.channels
     * @return 0; -EINVAL, -EADDRINUSE, -EACCES (off loopback without allow_remote), -ENOMEM;
     *         err->text.
     */
    int (*open)(void *self, struct kvl_channel_params *params, struct kvl_channel **channel_out,
                struct kvl_err *err);

    /** Ends it, bounded in time: what is under way ends with -ECANCELED. Takes NULL. */
    void (*close)(struct kvl_channel *channel);

    /** The bound peer_init_url, host:port; "" without one. Valid until close. */
    const char *(*url)(struct kvl_channel *channel);

    /**
     * Handshake with a peer, tried again until the deadline. Cheap when it is known.
     * @param op_out  NULL: blocks. Else returns at once, and the end comes through wait or poll;
     *                `peer` must stay until then.
     * @return 0; -ETIMEDOUT, -EPROTO with what the peer answered in the log, -EACCES.
     */
    int (*connect)(struct kvl_channel *channel, struct kvl_channel_peer *peer, uint64_t deadline_ms,
                   uint64_t *op_out);

    /** 1 when transfers to that peer can be submitted (remote_xfer_handler_exists), else 0. */
    int (*is_connected)(struct kvl_channel *channel, const char *peer_id);

    /**
     * Sends a side message alone and waits for the reply.
     * @return 0 and peer->side_reply; as connect.
     */
    int (*send_side_message)(struct kvl_channel *channel, struct kvl_channel_peer *peer,
                             uint64_t deadline_ms);

    /** Pages of objects in the own buffer. @return 0; -EINVAL outside, or not at a page. */
    int (*indexes)(struct kvl_channel *channel, const struct kvl_span *objects, uint32_t count,
                   uint64_t *indexes_out);

    /**
     * Starts a transfer. On one host READ and WRITE are usually done when this returns.
     * @return 0 and an op for wait or poll; -ENOTCONN no handshake; -ENOTSUP a Python peer:
     *         handshake only; -EINVAL; -EAGAIN too many under way; -ENOMEM.
     */
    int (*submit)(struct kvl_channel *channel, const struct kvl_transfer *transfer,
                  uint64_t *op_out);

    /**
     * Waits for the end of an op and forgets it.
     * @return 0; -EINPROGRESS at the deadline (it goes on; call again); why it stopped, with the
     *         objects moved before in *moved_out; -EINVAL unknown op.
     */
    int (*wait)(struct kvl_channel *channel, uint64_t op, uint64_t deadline_ms,
                uint32_t *moved_out);

    /** Asks an op to end early. When this returns no byte of its objects is written any more. */
    void (*cancel)(struct kvl_channel *channel, uint64_t op);

    /** Takes ops that have ended and are not being waited for. Never blocks. @return how many. */
    int (*poll)(struct kvl_channel *channel, struct kvl_channel_done *done_out, uint32_t room);

    /** Readable when poll has something to do. Owned by the channel. */
    int (*event_fd)(struct kvl_channel *channel);
};
KVL_STATIC_ASSERT(sizeof(struct kvl_channel_ops) == 104, "append slots, bump the minor version");

KVL_EXTERN_C_END

#endif /* KVL_CHANNEL_H */
