/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file tcp_remote_pool.h
 * The I/O thread of the client role: which request goes over which connection, when to connect, and
 * how long to wait. struct tcp_remote_client stands here for
 * tcp_remote_client.c, tcp_remote_pool.c and tcp_remote_link.c.
 */
#ifndef KVL_TCP_REMOTE_POOL_H
#define KVL_TCP_REMOTE_POOL_H

#include <pthread.h>

#include "tcp_remote_client.h"

#define TCP_REMOTE_POOL_SCRATCH ((size_t)64 * 1024)

struct tcp_remote_client {
    const struct kvl_host *host; /* borrowed */
    struct tcp_remote_options options;
    int epoll_fd;
    int wake_fd;
    uint64_t thread;
    bool running; /* control calls only */

    atomic_bool started;
    atomic_bool stopping;
    atomic_bool away; /* no connection, and the last try failed */
    atomic_bool long_key_said; /* one line is enough */
    atomic_bool cancels; /* some op has its cancel flag set */
    _Atomic uint32_t up;
    _Atomic uint64_t counters[TCP_REMOTE_CLIENT_COUNTERS];

    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t changed; /* in_flight became 0 */
    struct tcp_remote_op *inbox; /* oldest last */
    struct tcp_remote_op *known; /* accepted and not completed */
    uint32_t in_flight;
    size_t memory; /* of all ops */
    bool closed; /* nothing is accepted any more */

    /* the I/O thread's own */
    struct tcp_remote_conn *conns; /* options.connections of them */
    struct tcp_remote_op *active;
    struct tcp_remote_op *done;
    struct tcp_remote_op *done_last;
    struct tcp_remote_queue small; /* moves no payload: goes first */
    struct tcp_remote_queue bulk;
    uint64_t now_ms; /* of this turn */
    uint64_t next_deadline_ms; /* no later than the first deadline of an active op */
    uint64_t retry_ms; /* no connect before it */
    uint64_t backoff_ms;
    uint64_t random;
    struct kvl_sock_addr addrs[KVL_SOCK_ADDRS_MAX];
    size_t addr_count;
    bool resolve; /* the addresses did not work */
    bool is_near; /* the peer is on this host */
    struct tcp_remote_conn *run_conn; /* takes the next `run_left` small requests */
    uint32_t run_left;
    uint8_t *scratch;
    struct tcp_remote_tls *tls;
    bool complained; /* about TLS, since a connection answered */
};

/** Body of the thread. Completes everything before it ends. */
void *tcp_remote_pool_main(void *arg);

/** Ends the wait of the thread. Any thread. */
void tcp_remote_pool_wake(struct tcp_remote_client *client);

/* ---- in tcp_remote_link.c, on the thread ---- */

/** Where requests of a batch wait for a connection. */
struct tcp_remote_queue *tcp_remote_pool_queue(struct tcp_remote_client *client,
                                               const struct tcp_remote_op *op);

/** Ends every request in a queue that is not bound to a connection's bytes any more. */
void tcp_remote_pool_end_queue(struct tcp_remote_client *client, struct tcp_remote_queue *queue,
                               int32_t status);

/**
 * Begins to connect to the next address; when none is left the peer may be away.
 * @param code  why the address before failed, 0 when this is the first
 */
void tcp_remote_pool_connect(struct tcp_remote_client *client, struct tcp_remote_conn *conn,
                             int code);

/** Closes a connection and decides about each request it had; while connecting: next address. */
void tcp_remote_pool_fail(struct tcp_remote_client *client, struct tcp_remote_conn *conn, int code);

/** Fails the connections that somebody marked. */
void tcp_remote_pool_fail_doomed(struct tcp_remote_client *client);

#endif /* KVL_TCP_REMOTE_POOL_H */
