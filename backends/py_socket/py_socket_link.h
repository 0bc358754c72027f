/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file py_socket_link.h
 * The handshake of one channel, both sides of it. The target side answers at peer_init_url; the
 * initiator side drives any number of handshakes at once. Where the control plane and the data
 * plane of py_socket meet.
 *
 * Life: create (makes incarnation, opens nothing) -> the data plane opens its endpoints -> start
 * with what they are called -> calls -> close.
 *
 * One driver does all the work on sockets. In sync mode it is a thread of the link. In async mode
 * it is whoever calls py_socket_link_poll, or waits in py_socket_link_call_wait.
 */
#ifndef KVL_PY_SOCKET_LINK_H
#define KVL_PY_SOCKET_LINK_H

#include <kvlane/backend.h>

#include "py_socket_peers.h"

struct py_socket_zmq;
struct py_socket_options;
struct py_socket_counters;
struct py_socket_link;

/**
 * What the link tells the data plane. Called by the driver, one at a time, with no lock held; must
 * not call py_socket_link_close. Either may be NULL.
 */
struct py_socket_link_events {
    void *ctx;
    /** A handshake is done. Before the answer is sent to a peer that came to us. */
    void (*peer_up)(void *ctx, struct py_socket_peer *peer);
    /** peer->gone says why. For a replaced peer: before peer_up of its new incarnation. */
    void (*peer_gone)(void *ctx, struct py_socket_peer *peer);
};

struct py_socket_link_config {
    const struct kvl_host *host; /* borrowed, outlives the link; so do the next three */
    const struct py_socket_options *options;
    struct py_socket_zmq *zmq;
    struct py_socket_counters *counters;
    struct py_socket_link_events events;
    const char *peer_init_url; /* NULL = initiate only; copied */
    const char *peer_lookup_url; /* NULL = ""; copied */
    int is_async;
};

/** @return 0; -EINVAL a URL that is none, with err->text; -ENOMEM. */
int py_socket_link_create(const struct py_socket_link_config *config,
                          struct py_socket_link **link_out, struct kvl_err *err);

/** Random per link; never 0. */
uint64_t py_socket_link_incarnation(const struct py_socket_link *link);

/**
 * Binds and, in sync mode, starts the thread.
 * @param offer  boot_id, shm_name, tcp, buffer_bytes and align_bytes of the data plane; copied. The
 *               link fills the rest. Without shm_name and tcp it offers no data plane but says who
 *               we are.
 * @return 0; -EADDRINUSE, -EADDRNOTAVAIL, -EACCES off loopback without allow_remote, -ENOMEM;
 *         err->text. After a failure only close follows.
 */
int py_socket_link_start(struct py_socket_link *link, const struct py_socket_offer *offer,
                         struct kvl_err *err);

/**
 * Ends it within a second, whatever the peers do: calls under way end with -ECANCELED (their `done`
 * runs in here), every peer goes (peer_gone runs in here). Frees. Takes NULL and half-made links.
 */
void py_socket_link_close(struct py_socket_link *link);

/** The bound host:port as peers are told; "" without one. Valid from start until close. */
const char *py_socket_link_url(const struct py_socket_link *link);

/** Readable when py_socket_link_poll has something to do; -1 in sync mode. Owned by the link. */
int py_socket_link_fd(const struct py_socket_link *link);

/** Async mode: does what can be done. Never blocks; does nothing while another one drives. */
void py_socket_link_poll(struct py_socket_link *link);

/* ---- handshakes with peers ---- */

#define PY_SOCKET_CALL_INIT (1u << 0) /* the handshake, unless the peer is known */
#define PY_SOCKET_CALL_SIDE (1u << 1) /* ask for its peer_lookup_url, behind it or alone */

/** `side_reply`: its peer_lookup_url, "" without one; borrowed for the call. */
typedef void (*py_socket_call_fn)(void *ctx, int status, const char *side_reply);

struct py_socket_call {
    uint32_t what; /* PY_SOCKET_CALL_ */
    const char *local_id; /* told to the peer when we have no peer_init_url; may be NULL */
    const char *peer_id; /* NULL = url */
    const char *url; /* of the peer */
    uint64_t deadline_ms; /* absolute; 0 or KVL_NEVER = handshake_timeout from now */
};

/**
 * Begins a call. All text is copied. `done` runs exactly once when 0 was returned, by the driver
 * with no lock held, perhaps before this returns:
 *   0; -ETIMEDOUT; -EPROTO it said no or spoke nonsense, and the log has its text; -EACCES keys do
 *   not match; -ECANCELED; -EMFILE too many peers or descriptors; -ENOMEM.
 * @param call_out  for py_socket_link_cancel; may be NULL
 * @return 0 begun; -EALREADY all is known, `done` does not run and side_reply_out (room for a URL;
 *         may be NULL) is filled; -EINVAL; -EAGAIN too many at once; -ECANCELED; -ENOMEM.
 */
int py_socket_link_call(struct py_socket_link *link, const struct py_socket_call *call,
                        py_socket_call_fn done, void *ctx, uint64_t *call_out,
                        char *side_reply_out);

/** Ends it early with -ECANCELED, soon. An unknown or ended one is ignored. */
void py_socket_link_cancel(struct py_socket_link *link, uint64_t call);

/** The same, and waits for the end. Not from within a callback of the link. */
int py_socket_link_call_wait(struct py_socket_link *link, const struct py_socket_call *call,
                             char *side_reply_out);

/* ---- peers ---- */

struct py_socket_peers *py_socket_link_peers(struct py_socket_link *link);

/**
 * The data plane has lost it: the record goes, and the next call does the handshake anew. The
 * peer_gone that follows comes from the driver. Harmless for one that is gone.
 */
void py_socket_link_forget(struct py_socket_link *link, struct py_socket_peer *peer);

#endif /* KVL_PY_SOCKET_LINK_H */
