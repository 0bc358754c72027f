/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cuda_ipc_net.h
 * Talking to peers on this host: one thread that listens, serves our pool, and keeps a link to each
 * peer whose pool we may read. It knows keys, leases and descriptions of memory, never the memory.
 *
 * A connection carries requests one way: who connects asks. Leases that a peer holds end with its
 * connection, or with its process where a child still holds the socket.
 *
 * What is "in the thread" runs in that thread; other functions may be called from anywhere.
 */
#ifndef KVL_CUDA_IPC_NET_H
#define KVL_CUDA_IPC_NET_H

#include "cuda_ipc_pool.h"
#include "cuda_ipc_self.h"

/** Most connections each way. */
#define CUDA_IPC_PEERS_MAX 64u
/** Leases that one peer may hold. */
#define CUDA_IPC_LEASES_MAX 8192u
/** Requests that wait for one peer's answer. */
#define CUDA_IPC_ASKS_MAX 256u

struct cuda_ipc_net;
struct cuda_ipc_link;

/** What the net needs of the rest. The functions are called in the thread. */
struct cuda_ipc_net_env {
    const struct kvl_host *host; /* borrowed */
    struct cuda_ipc_pool *pool; /* borrowed; served to peers */
    const struct cuda_ipc_self *self; /* borrowed */
    uint32_t max_peers; /* connections each way, at most CUDA_IPC_PEERS_MAX */
    uint64_t timeout_ms; /* a peer that does not answer for so long is gone */
    uint64_t retry_ms; /* longest pause between two tries to reach a peer */

    /**
     * Describes a segment of our pool to a peer.
     * @param fd_out  descriptor that goes along, borrowed; -1 = none
     * @return 0; -ENOENT it cannot be shared.
     */
    int (*segment)(void *ctx, uint32_t number, struct cuda_ipc_share *share_out, int *fd_out);

    /** A peer can be asked from now on; or, with `is_up` 0, no longer. */
    void (*link_changed)(void *ctx, struct cuda_ipc_link *link, int is_up);

    /** Called whenever `watched_fd`, borrowed, is readable. May be NULL. */
    void (*watched)(void *ctx);
    int watched_fd;
    void *ctx;
};

struct cuda_ipc_net_stats {
    uint64_t links; /* peers that can be asked, now */
    uint64_t conns; /* peers that ask us, now */
    uint64_t leases; /* that peers hold, now */
    uint64_t leased; /* since start, as are those below */
    uint64_t asked; /* requests of peers answered */
    uint64_t lost_links;
    uint64_t timeouts; /* peers that did not answer */
    uint64_t protocol_errors;
    uint64_t refused; /* peers turned away, by either side */
};

/** @return 0; -ENOMEM, -EMFILE, .. Starts nothing. */
int cuda_ipc_net_create(const struct cuda_ipc_net_env *env, struct cuda_ipc_net **net_out);

/**
 * Listens at `address`, unless that is NULL, and starts the thread.
 * @return 0; -EADDRINUSE, -EACCES, .. err->text on failure.
 */
int cuda_ipc_net_start(struct cuda_ipc_net *net, const struct cuda_ipc_address *address,
                       struct kvl_err *err);

/** Accepts no more peers and gives no more leases; tells those that are there. Does not block. */
void cuda_ipc_net_quiesce(struct cuda_ipc_net *net);

/**
 * Waits until no peer is connected to us, after quiesce: they have given their leases back and
 * closed what they had mapped. @return 0; -ETIMEDOUT.
 */
int cuda_ipc_net_drain(struct cuda_ipc_net *net, uint64_t deadline_ms);

/** Ends the thread. Requests end with -ECANCELED, work that was posted is still done. */
void cuda_ipc_net_stop(struct cuda_ipc_net *net);

/** After stop, or directly after create. Takes NULL. */
void cuda_ipc_net_destroy(struct cuda_ipc_net *net);

/**
 * Keeps a link to a peer at this address.
 * @param peer  whom to expect there; NULL = of the INI file: whoever answers, for ever
 * @return 0, also when there is one; -ENOSPC too many peers; -ENOMEM.
 */
int cuda_ipc_net_connect(struct cuda_ipc_net *net, const struct cuda_ipc_address *address,
                         const struct cuda_ipc_wire_peer *peer);

/** Something to be done in the thread. The caller's, until `fn` is called. */
struct cuda_ipc_work {
    struct cuda_ipc_work *next;
    void (*fn)(struct cuda_ipc_work *work);
};

/** Has work done in the thread, in the order of the calls. @return 0; -ECANCELED it has ended. */
int cuda_ipc_net_post(struct cuda_ipc_net *net, struct cuda_ipc_work *work);

void cuda_ipc_net_get_stats(struct cuda_ipc_net *net, struct cuda_ipc_net_stats *stats_out);

/* ---- in the thread ---- */

/**
 * A request and its answer. The record is the caller's until `fn` is called, exactly once, from the
 * thread, not from inside ask.
 */
struct cuda_ipc_ask {
    uint32_t type; /* CUDA_IPC_LOOKUP or CUDA_IPC_LEASE */
    uint32_t count;
    uint64_t deadline_ms; /* KVL_NEVER = only the peer's time limit */
    /**
     * @param status  0 and the answer, of the right type and count; -ETIMEDOUT the deadline, or the
     *                peer hangs; -ENOTCONN, -EPROTO the link is lost; -ECANCELED stopping
     */
    void (*fn)(struct cuda_ipc_ask *ask, int status, struct cuda_ipc_link *link,
               const struct cuda_ipc_wire_message *answer);

    /* private */
    struct cuda_ipc_ask *next;
    struct cuda_ipc_ask *prev;
    struct cuda_ipc_link *link;
    uint64_t request;
    uint64_t until_ms; /* when the peer counts as hanging */
};

/** Peers that can be asked and are of use. @return how many; at most CUDA_IPC_PEERS_MAX. */
uint32_t cuda_ipc_net_links(struct cuda_ipc_net *net, struct cuda_ipc_link **links_out);

/** @return 0; -EAGAIN too many requests; -ENOTCONN. */
int cuda_ipc_link_ask(struct cuda_ipc_link *link, struct cuda_ipc_ask *ask,
                      const struct kvl_key *keys);

/** Forgets a request: `fn` is not called. Leases that its answer brings are given back. */
void cuda_ipc_link_forget(struct cuda_ipc_ask *ask);

/** Differs from link to link and from connection to connection; 0 while there is none. */
uint64_t cuda_ipc_link_epoch(const struct cuda_ipc_link *link);
const struct cuda_ipc_wire_peer *cuda_ipc_link_peer(const struct cuda_ipc_link *link);
/** How people know the peer: pid and address. */
const char *cuda_ipc_link_name(const struct cuda_ipc_link *link);

/** Memory of the peer. @param fd_out  borrowed; -1 = none. @return NULL for an unknown number. */
const struct cuda_ipc_share *cuda_ipc_link_segment(const struct cuda_ipc_link *link,
                                                   uint32_t number, int *fd_out);

/** Gives a lease back, unless the connection it came by (`epoch`) has ended. */
void cuda_ipc_link_release(struct cuda_ipc_link *link, uint64_t epoch, uint64_t lease);

/**
 * Its memory cannot be used here: it is asked no more until it connects anew. A peer that has no
 * device which is visible here is so from the beginning.
 */
void cuda_ipc_link_give_up(struct cuda_ipc_link *link);
int cuda_ipc_link_is_useless(const struct cuda_ipc_link *link);

/** A number for the link below CUDA_IPC_PEERS_MAX. */
uint32_t cuda_ipc_link_index(const struct cuda_ipc_link *link);

#endif /* KVL_CUDA_IPC_NET_H */
