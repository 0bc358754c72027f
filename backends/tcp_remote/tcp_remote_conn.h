/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file tcp_remote_conn.h
 * One connection of the client role. The I/O thread of the client owns it. Replies carry no request
 * id and come in the order of the requests, so each connection keeps what it sent in a queue; one
 * reply that is lost or late costs the connection.
 */
#ifndef KVL_TCP_REMOTE_CONN_H
#define KVL_TCP_REMOTE_CONN_H

#include "tcp_remote_op.h"
#include "tcp_remote_wire.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

/** Headers that leave in one writev, and replies read at once. */
#define TCP_REMOTE_CONN_HEADERS 64u
/** Bytes a connection may move before others get their turn. */
#define TCP_REMOTE_CONN_TURN ((uint64_t)1024 * 1024)
#define TCP_REMOTE_CONN_IOVS 256u

struct tcp_remote_client;

enum tcp_remote_conn_state { TCP_REMOTE_DOWN, TCP_REMOTE_CONNECTING, TCP_REMOTE_UP };

/** Where the payload of the reply at the head goes. */
enum tcp_remote_sink {
    TCP_REMOTE_SINK_NONE,
    TCP_REMOTE_SINK_SG,
    TCP_REMOTE_SINK_DROP,
    TCP_REMOTE_SINK_KEYS
};

struct tcp_remote_conn {
    struct tcp_remote_client *client; /* borrowed */
    enum tcp_remote_conn_state state;
    int fd;
    struct tcp_remote_session *tls; /* owned; NULL = plain */
    bool more; /* bytes to read that epoll does not know of */
    uint32_t events; /* what epoll watches */
    size_t addr_next; /* next address to try */
    uint64_t connect_until_ms;
    uint64_t moved_ms; /* last byte, or when it got work */
    bool answered; /* a reply came since it connected */
    bool doomed; /* to be closed before the turn ends */
    uint64_t cost; /* bytes it has to move, as far as known */

    struct tcp_remote_queue queue; /* assigned */
    struct tcp_remote_queue awaiting; /* sent, in order */

    /* sending: `out`, then the payload of `put`, then `tail` */
    size_t out_at;
    size_t out_length;
    struct tcp_remote_req *put; /* PUT whose bytes have not all left */
    struct tcp_remote_sg_at put_at;
    uint64_t put_left;
    bool tail_ready; /* the hash is known */
    size_t tail_at;
    size_t tail_length;

    /* receiving */
    size_t in_at;
    size_t in_length;
    enum tcp_remote_sink sink; /* of awaiting.head */
    uint64_t body_left; /* payload without the trailer */
    uint64_t body_bytes;
    struct tcp_remote_sg_at body_at;
    struct kvl_sg body_sg; /* when the host named the target */
    bool sealed; /* a trailer follows */
    bool hashes; /* the payload is checked: against the trailer, or what the reader expects */
    size_t seal_have;
    size_t name_length; /* KEYS: bytes of a key not yet complete */

    XXH3_state_t put_hash;
    XXH3_state_t body_hash;
    uint8_t seal[TCP_REMOTE_SEAL_BYTES];
    uint8_t tail[TCP_REMOTE_SEAL_BYTES + TCP_REMOTE_REQUEST_BYTES];
    uint8_t out[TCP_REMOTE_CONN_HEADERS * TCP_REMOTE_REQUEST_BYTES];
    uint8_t in[TCP_REMOTE_CONN_HEADERS * TCP_REMOTE_REPLY_BYTES];
    char name[TCP_REMOTE_KEY_BYTES];
};

/** Begins to connect to the next address. @return 0; a negative errno when none is left. */
int tcp_remote_conn_connect(struct tcp_remote_conn *conn);

/** Goes on after an event. @return 0; a negative errno, and the caller fails the connection. */
int tcp_remote_conn_event(struct tcp_remote_conn *conn, uint32_t events);

/** Sends what its queue holds. @return 0; a negative errno as above. */
int tcp_remote_conn_send(struct tcp_remote_conn *conn);

/** Receives what is there; in tcp_remote_recv.c. @return 0; a negative errno as above. */
int tcp_remote_conn_recv(struct tcp_remote_conn *conn);

/** Forgets half a payload's target: what is left of it goes nowhere. */
void tcp_remote_conn_drop_body(struct tcp_remote_conn *conn);

/** Closes the socket and forgets all half-done work; the queues stay. */
void tcp_remote_conn_close(struct tcp_remote_conn *conn);

/** Tells epoll what the connection waits for. */
int tcp_remote_conn_watch(struct tcp_remote_conn *conn, bool writable);

#endif /* KVL_TCP_REMOTE_CONN_H */
