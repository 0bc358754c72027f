/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file tcp_remote_loop.h
 * One I/O thread of the server role: an epoll set, the connections it owns, their time limits. Only
 * the thread itself touches its connections; others hand new ones over and wake it.
 */
#ifndef KVL_TCP_REMOTE_LOOP_H
#define KVL_TCP_REMOTE_LOOP_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include <kvlane/host.h>

#include "tcp_remote_options.h"

struct tcp_remote_peer;
struct tcp_remote_server;

enum tcp_remote_counter {
    TCP_REMOTE_COUNT_PUT,
    TCP_REMOTE_COUNT_GET,
    TCP_REMOTE_COUNT_EXIST,
    TCP_REMOTE_COUNT_LIST,
    TCP_REMOTE_COUNT_HEALTH,
    TCP_REMOTE_COUNT_HITS,
    TCP_REMOTE_COUNT_MISSES,
    TCP_REMOTE_COUNT_STORED,
    TCP_REMOTE_COUNT_PUT_REFUSED,
    TCP_REMOTE_COUNT_PUT_TRUNCATED,
    TCP_REMOTE_COUNT_PROTOCOL_ERRORS,
    TCP_REMOTE_COUNT_SLOW_READERS,
    TCP_REMOTE_COUNT_STALLED,
    TCP_REMOTE_COUNT_IDLE_CLOSED,
    TCP_REMOTE_COUNT_BYTES_IN,
    TCP_REMOTE_COUNT_BYTES_OUT,
    TCP_REMOTE_COUNT_RESP_SET,
    TCP_REMOTE_COUNT_RESP_GET,
    TCP_REMOTE_COUNT_RESP_EXISTS,
    TCP_REMOTE_COUNT_RESP_OTHER,
    TCP_REMOTE_COUNT_RESP_ERRORS,
    TCP_REMOTE_COUNT_RESP_AUTH_FAILED,
    TCP_REMOTE_COUNT_TLS_FAILED,
    TCP_REMOTE_COUNTERS
};

/** What an epoll event points at; the first member of it. */
enum tcp_remote_source {
    TCP_REMOTE_SOURCE_WAKE,
    TCP_REMOTE_SOURCE_LISTENER,
    TCP_REMOTE_SOURCE_PEER
};

/**
 * Bytes a connection may move before others get their turn: enough for small requests, and what one
 * connection that moves more may take between two looks at all others. Fewer would cost throughput,
 * because each turn ends in a wait and a window update, more the latency of small requests.
 */
#define TCP_REMOTE_TURN_SMALL ((size_t)128 * 1024)
#define TCP_REMOTE_TURN_BULK ((size_t)2048 * 1024)
#define TCP_REMOTE_SCRATCH_BYTES ((size_t)64 * 1024)

struct tcp_remote_loop {
    enum tcp_remote_source source; /* WAKE */
    struct tcp_remote_server *server; /* borrowed, outlives the loop */
    const struct kvl_host *host; /* borrowed */
    const struct tcp_remote_options *options; /* borrowed */
    uint32_t index;
    int epoll_fd;
    int wake_fd;
    uint64_t thread;
    bool running; /* thread has been made */

    pthread_mutex_t lock; /* guards what other threads hand over */
    struct tcp_remote_peer *handed; /* new connections, linked by `next` */
    struct tcp_remote_peer *fetched; /* back from a fetch, linked by `fetched_next` */

    /* the thread's own */
    struct tcp_remote_peer *peers;
    struct tcp_remote_peer *ready; /* have more to move than a small turn; newest first */
    struct tcp_remote_peer *ready_last;
    uint32_t peer_count;
    bool woken; /* somebody handed something over */
    uint64_t now_ms; /* of this turn */
    uint64_t scan_ms; /* next look at the time limits */
    uint8_t *scratch; /* where refused bodies go */

    _Atomic uint64_t counters[TCP_REMOTE_COUNTERS]; /* written by the thread alone */
};

/** @return 0; -ENOMEM, -EMFILE, ... Opens descriptors, starts nothing. */
int tcp_remote_loop_init(struct tcp_remote_loop *loop, struct tcp_remote_server *server,
                         uint32_t index);

/** Releases everything. The thread must have ended. Takes a zeroed loop. */
void tcp_remote_loop_fini(struct tcp_remote_loop *loop);

/** Body of the thread. */
void *tcp_remote_loop_main(void *arg);

/** Gives a connection to the loop, which owns it from now on. Any thread. */
void tcp_remote_loop_hand_over(struct tcp_remote_loop *loop, struct tcp_remote_peer *take_peer);

/** Hands a connection of this loop back after its fetch. Any thread. */
void tcp_remote_loop_fetched(struct tcp_remote_loop *loop, struct tcp_remote_peer *peer);

/** Ends the wait of the loop. Any thread. */
void tcp_remote_loop_wake(struct tcp_remote_loop *loop);

/** Adds to a counter. The loop's thread only. */
void tcp_remote_loop_count(struct tcp_remote_loop *loop, enum tcp_remote_counter counter,
                           uint64_t amount);

#endif /* KVL_TCP_REMOTE_LOOP_H */
