/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file py_socket_zmq.h
 * The ZMQ context of an instance and the two kinds of sockets made from it, with CURVE when the
 * options have keys. The context may be used from any thread, a socket by one thread at a time.
 */
#ifndef KVL_PY_SOCKET_ZMQ_H
#define KVL_PY_SOCKET_ZMQ_H

#include "py_socket_counters.h"
#include "py_socket_options.h"

struct py_socket_zmq;

/**
 * Makes the context and, when curve_peer_keys restrict who may connect, the thread that says so to
 * ZMQ. Host, options and counters are borrowed.
 * @return 0; -EMFILE, -ENOMEM, -EAGAIN; err->text.
 */
int py_socket_zmq_create(const struct kvl_host *host, const struct py_socket_options *options,
                         struct py_socket_counters *counters, struct py_socket_zmq **zmq_out,
                         struct kvl_err *err);

/** Every socket must be closed. Bounded in time. Takes NULL. */
void py_socket_zmq_destroy(struct py_socket_zmq *zmq);

/**
 * A REP socket bound at `url`; port 0 lets the kernel pick.
 * @param what  where the URL comes from, for texts
 * @param max_bytes  a larger frame costs its sender the connection
 * @param url_out  KVL_CHANNEL_URL_ROOM bytes: what to tell peers
 * @return 0; -EINVAL no URL, or no host that could be told to peers; -EACCES see
 *         py_socket_options_may_bind; -EADDRINUSE, -EADDRNOTAVAIL, -EMFILE; err->text.
 */
int py_socket_zmq_serve(struct py_socket_zmq *zmq, const char *what, const char *url,
                        int64_t max_bytes, void **socket_out, char *url_out, struct kvl_err *err);

#define PY_SOCKET_LOST (1u << 0) /* the connection is gone: what was sent may be, too */
#define PY_SOCKET_DENIED (1u << 1) /* the peer does not want our key, or speaks no CURVE */
#define PY_SOCKET_CUT (1u << 2) /* it hung up in the middle of the handshake of ZMQ */

/**
 * A REQ socket that connects to `url` in the background. Nothing can be sent before it has.
 * @param watch_out  a second socket, which tells what becomes of its connections; both end by
 *                   py_socket_zmq_hang_up
 * @return 0; -EMFILE, -EINVAL, -ENOMEM.
 */
int py_socket_zmq_dial(struct py_socket_zmq *zmq, const char *url, int64_t max_bytes,
                       void **socket_out, void **watch_out);
void py_socket_zmq_hang_up(void *socket, void *watch);

/** What has happened since the last call: PY_SOCKET_ bits. Never blocks. */
uint32_t py_socket_zmq_watched(void *watch);

/** A descriptor to poll for input; what is ready is then for py_socket_zmq_ready to say. */
int py_socket_zmq_fd(void *socket);
/** ZMQ_POLLIN, ZMQ_POLLOUT. To be asked after each send and receive, until there is nothing. */
int py_socket_zmq_ready(void *socket);

/** For REP sockets. Takes NULL. Drops what was not sent yet. */
void py_socket_zmq_close(struct py_socket_zmq *zmq, void *socket);

#endif /* KVL_PY_SOCKET_ZMQ_H */
