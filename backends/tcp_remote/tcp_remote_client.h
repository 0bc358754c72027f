/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file tcp_remote_client.h
 * The client role: accepts batches from any thread, one I/O thread moves them over a pool of
 * connections to one peer.
 */
#ifndef KVL_TCP_REMOTE_CLIENT_H
#define KVL_TCP_REMOTE_CLIENT_H

#include "tcp_remote_conn.h"

struct tcp_remote_client;

enum tcp_remote_client_counter {
    TCP_REMOTE_CLIENT_LOOKUPS,
    TCP_REMOTE_CLIENT_READS,
    TCP_REMOTE_CLIENT_WRITES,
    TCP_REMOTE_CLIENT_HITS,
    TCP_REMOTE_CLIENT_MISSES,
    TCP_REMOTE_CLIENT_UNCONFIRMED,
    TCP_REMOTE_CLIENT_BAD_CHECKS,
    TCP_REMOTE_CLIENT_CONNECTED,
    TCP_REMOTE_CLIENT_CONNECT_FAILED,
    TCP_REMOTE_CLIENT_LOST,
    TCP_REMOTE_CLIENT_RETRIES,
    TCP_REMOTE_CLIENT_TIMEOUTS,
    TCP_REMOTE_CLIENT_PROTOCOL_ERRORS,
    TCP_REMOTE_CLIENT_BYTES_IN,
    TCP_REMOTE_CLIENT_BYTES_OUT,
    TCP_REMOTE_CLIENT_COUNTERS
};

/** Makes a client; opens nothing. The options are copied. @return 0; -ENOMEM. */
int tcp_remote_client_create(const struct kvl_host *host, const struct tcp_remote_options *options,
                             struct tcp_remote_client **client_out);

/** Starts the I/O thread, which begins to connect. @return 0; -errno and err->text. */
int tcp_remote_client_start(struct tcp_remote_client *client, struct kvl_err *err);

/** Takes over times. @return 0; -EINVAL. */
int tcp_remote_client_reload(struct tcp_remote_client *client, struct kvl_err *err);

void tcp_remote_client_quiesce(struct tcp_remote_client *client);
int tcp_remote_client_drain(struct tcp_remote_client *client, uint64_t deadline_ms);

/** Completes what is left with -ECANCELED and joins the thread. Again is harmless. */
void tcp_remote_client_stop(struct tcp_remote_client *client);

/** Frees. Takes NULL. */
void tcp_remote_client_destroy(struct tcp_remote_client *client);

/** As in backend.h. Any thread, never blocks on I/O. */
int tcp_remote_client_submit(struct tcp_remote_client *client, enum tcp_remote_kind kind,
                             const struct kvl_batch *batch);
int tcp_remote_client_submit_single(struct tcp_remote_client *client, enum tcp_remote_kind kind,
                                    uint64_t cookie, uint64_t deadline_ms);
void tcp_remote_client_cancel(struct tcp_remote_client *client, uint64_t cookie);

void tcp_remote_client_limits(struct tcp_remote_client *client, struct kvl_limits *limits_out);
void tcp_remote_client_health(struct tcp_remote_client *client, struct kvl_health *health_out);
void tcp_remote_client_stats(struct tcp_remote_client *client, kvl_stat_fn fn, void *ctx);

/* ---- for its connections, on the I/O thread ---- */

const struct kvl_host *tcp_remote_client_host(const struct tcp_remote_client *client);
const struct tcp_remote_options *tcp_remote_client_options(const struct tcp_remote_client *client);
int tcp_remote_client_epoll(const struct tcp_remote_client *client);
uint64_t tcp_remote_client_now(const struct tcp_remote_client *client);
uint8_t *tcp_remote_client_scratch(struct tcp_remote_client *client, size_t *bytes_out);
void tcp_remote_client_count(struct tcp_remote_client *client,
                             enum tcp_remote_client_counter counter, uint64_t amount);

/** NULL = the url asks for none. */
struct tcp_remote_tls *tcp_remote_client_tls(const struct tcp_remote_client *client);
/** Says why TLS failed; once until it works again. */
void tcp_remote_client_complain(struct tcp_remote_client *client, const char *why);

/** Addresses of the peer; resolved again when none is connected. @return 0; -errno. */
int tcp_remote_client_addrs(struct tcp_remote_client *client,
                            const struct kvl_sock_addr **addrs_out, size_t *count_out);

/** A connection is up. */
void tcp_remote_client_connected(struct tcp_remote_client *client);

/** A reply came: the peer works. */
void tcp_remote_client_answered(struct tcp_remote_client *client);

/** Gives a request its status; the completion follows when the turn ends. */
void tcp_remote_client_end(struct tcp_remote_client *client, struct tcp_remote_req *req,
                           int32_t status, uint64_t bytes);

/** Takes a request off a connection's queue, and frees its batch when that was the last of it. */
void tcp_remote_client_unlink(struct tcp_remote_client *client, struct tcp_remote_queue *queue,
                              struct tcp_remote_req *req);

/** Bytes a request makes its connection move, as far as known. */
uint64_t tcp_remote_client_cost(const struct tcp_remote_req *req);

#endif /* KVL_TCP_REMOTE_CLIENT_H */
