/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file tcp_remote_server.h
 * The server role: listeners, the threads behind them, and what they share. Serves the store of the
 * core to unmodified LMCache clients and to our own.
 */
#ifndef KVL_TCP_REMOTE_SERVER_H
#define KVL_TCP_REMOTE_SERVER_H

#include "tcp_remote_peer.h"

struct tcp_remote_server;

/** Makes a server; opens nothing. The options are copied. @return 0; -ENOMEM. */
int tcp_remote_server_create(const struct kvl_host *host, const struct tcp_remote_options *options,
                             struct tcp_remote_server **server_out);

/** Listens and starts the threads. @return 0; -EACCES, -EADDRINUSE, ... and err->text. */
int tcp_remote_server_start(struct tcp_remote_server *server, struct kvl_err *err);

/** Takes over limits and times; connections that are over a new limit stay. @return 0; -EINVAL. */
int tcp_remote_server_reload(struct tcp_remote_server *server, struct kvl_err *err);

/** Stops accepting. Does not block. */
void tcp_remote_server_quiesce(struct tcp_remote_server *server);

/** Ends connections at request boundaries. @return 0; -ETIMEDOUT some are left. */
int tcp_remote_server_drain(struct tcp_remote_server *server, uint64_t deadline_ms);

/** Joins the threads and closes what is left. Again is harmless. */
void tcp_remote_server_stop(struct tcp_remote_server *server);

/** Frees. Takes NULL. */
void tcp_remote_server_destroy(struct tcp_remote_server *server);

void tcp_remote_server_health(struct tcp_remote_server *server, struct kvl_health *health_out);
void tcp_remote_server_stats(struct tcp_remote_server *server, kvl_stat_fn fn, void *ctx);

/* ---- for its loops ---- */

const struct kvl_host *tcp_remote_server_host(const struct tcp_remote_server *server);
const struct tcp_remote_options *tcp_remote_server_options(const struct tcp_remote_server *server);

/**
 * The thread for a connection that turned out to move much, NULL when it is well where it is. A few
 * threads keep the connections that only ask: they answer many of them per wake-up. The others have
 * as few connections each as can be: the kernel then wakes them where the bytes just came in.
 */
struct tcp_remote_loop *tcp_remote_server_bulk_loop(struct tcp_remote_server *server,
                                                    uint32_t index);

/** Accepts what waits at a listener. */
void tcp_remote_server_accept(struct tcp_remote_server *server, void *source);

/** Closes listeners after quiesce, looks at them again after a lack of descriptors. */
void tcp_remote_server_tend(struct tcp_remote_server *server, uint64_t now_ms);

/** ms until tend() has something to do, -1 = nothing. */
int tcp_remote_server_tend_in(const struct tcp_remote_server *server, uint64_t now_ms);

/** A connection has ended. */
void tcp_remote_server_gone(struct tcp_remote_server *server);

bool tcp_remote_server_stopping(const struct tcp_remote_server *server);
bool tcp_remote_server_draining(const struct tcp_remote_server *server);

/** Keeps a chunk from eviction for `resp_hold`; takes the lease. */
void tcp_remote_server_hold(struct tcp_remote_server *server, const struct kvl_key *key,
                            const struct kvl_view *take_view, uint64_t now_ms);
/** Ends that for a chunk that was replaced or removed. */
void tcp_remote_server_forget(struct tcp_remote_server *server, const struct kvl_key *key);
/** Ends that for all of them: memory is short. @return true when there were any. */
bool tcp_remote_server_drop_holds(struct tcp_remote_server *server);

/** True once per peer host, for what is worth one line in the log. */
bool tcp_remote_server_first(struct tcp_remote_server *server, const struct kvl_sock_addr *addr);

/** Reserves memory for a LIST reply; false beyond the bound for all of them together. */
bool tcp_remote_server_take_list(struct tcp_remote_server *server, size_t bytes);
void tcp_remote_server_give_list(struct tcp_remote_server *server, size_t bytes);

#endif /* KVL_TCP_REMOTE_SERVER_H */
