/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file tcp_remote_peer.h
 * One connection of the server role: its state machine and what it holds meanwhile, a place in the
 * store it fills or a lease it sends from. Belongs to one loop and is touched by its thread only.
 */
#ifndef KVL_TCP_REMOTE_PEER_H
#define KVL_TCP_REMOTE_PEER_H

#include "tcp_remote_loop.h"
#include "tcp_remote_wire.h"

/** Room for pipelined headers, so that several cost one recv. */
#define TCP_REMOTE_PEER_IN (16u * TCP_REMOTE_REQUEST_BYTES)
/** Room for replies that leave together. */
#define TCP_REMOTE_PEER_OUT (16u * TCP_REMOTE_REPLY_BYTES)

enum tcp_remote_phase {
    TCP_REMOTE_PHASE_HEADER, /* wants a request, or the rest of one */
    TCP_REMOTE_PHASE_BODY, /* receives a PUT into the store */
    TCP_REMOTE_PHASE_DROP, /* receives a PUT that was refused */
    TCP_REMOTE_PHASE_FETCH, /* waits for a chunk from below the store */
};

/** What a connection waits for after its turn. */
enum tcp_remote_step {
    TCP_REMOTE_STEP_ON, /* nothing: go on at once */
    TCP_REMOTE_STEP_READ,
    TCP_REMOTE_STEP_WRITE,
    TCP_REMOTE_STEP_PARK, /* until what was fetched is here; nothing is read meanwhile */
    TCP_REMOTE_STEP_YIELD, /* its next turn; epoll would not tell */
    TCP_REMOTE_STEP_CLOSE,
};

struct tcp_remote_resp_peer;
struct tcp_remote_peer;

/** Goes on with a request after its fetch ended with `status`. */
typedef enum tcp_remote_step (*tcp_remote_resume_fn)(struct tcp_remote_peer *peer, int status);

struct tcp_remote_peer {
    enum tcp_remote_source source; /* PEER */
    enum tcp_remote_phase phase;
    struct tcp_remote_loop *loop;
    struct tcp_remote_peer *next;
    struct tcp_remote_peer *prev;
    struct tcp_remote_peer *ready_next;
    struct tcp_remote_peer *ready_prev;
    bool is_ready;
    bool is_tcp;
    bool ack_due; /* bytes came that no reply has acknowledged */
    bool is_dry; /* in this turn the socket gave less than it was asked for */
    int fd;
    struct tcp_remote_session *tls; /* owned; NULL = plain */
    uint32_t events; /* what epoll watches */
    uint64_t moved_ms; /* last byte in or out */
    struct kvl_sock_addr addr;
    struct tcp_remote_resp_peer *resp; /* owned; NULL = speaks lm:// */

    /* fetch under way: another thread will hand the peer back to its loop */
    bool fetching;
    bool abandoned; /* closed meanwhile: freed when it comes back */
    int fetch_status; /* written by that thread, read after it handed over */
    struct tcp_remote_peer *fetched_next;
    tcp_remote_resume_fn resume;

    /* request bytes read ahead */
    size_t request_bytes; /* so many before there is anything to do */
    size_t in_at;
    size_t in_length;

    /* PUT under way */
    size_t body_left;
    uint8_t *body;
    uint64_t slot;
    bool has_slot;
    uint32_t key_length;

    /* replies under way: headers in `out`, then the payload of the last one and what ends it */
    bool flushing; /* nothing is read until all of it left */
    bool closing; /* nothing is read any more */
    size_t out_at;
    size_t out_length;
    const uint8_t *payload;
    size_t payload_left;
    const char *tail; /* static */
    size_t tail_left;
    uint64_t lease;
    bool has_lease;
    char *list; /* owned; payload of a LIST reply */
    size_t list_bytes;

    char key[TCP_REMOTE_KEY_BYTES];
    uint8_t out[TCP_REMOTE_PEER_OUT];
    uint8_t in[TCP_REMOTE_PEER_IN];
};

/** Takes an accepted socket. @return NULL without memory; the socket is then still the caller's. */
struct tcp_remote_peer *tcp_remote_peer_create(int take_fd, const struct kvl_sock_addr *addr);

/** Closes, gives back what it holds, frees. Takes NULL. */
void tcp_remote_peer_destroy(struct tcp_remote_peer *peer);

/** Goes on with the connection for one turn of at most `budget` bytes. Never ON. */
enum tcp_remote_step tcp_remote_peer_run(struct tcp_remote_peer *peer, size_t budget);

/** True in the middle of more bytes than a small turn moves. */
bool tcp_remote_peer_is_bulk(const struct tcp_remote_peer *peer);

/** True when a time limit of the connection has passed; counts which. */
bool tcp_remote_peer_is_late(struct tcp_remote_peer *peer);

/* ---- for the protocols it may speak ---- */

/**
 * Makes room for a chunk whose bytes follow, and takes them. Its key must stand in peer->key.
 * @return 0; -EMSGSIZE, -ENOMEM: the bytes are dropped, an older chunk of that key is gone.
 */
int tcp_remote_peer_receive(struct tcp_remote_peer *peer, const struct kvl_chunk *chunk);

/** Drops `bytes` that follow. */
void tcp_remote_peer_drop(struct tcp_remote_peer *peer, size_t bytes);

/** Makes the chunk visible. @return 0; -EINVAL. */
int tcp_remote_peer_commit(struct tcp_remote_peer *peer);

/**
 * Asks for a chunk that the store has not. The connection then waits; replies stay in order.
 * @return true when it will be resumed; false when the miss is final.
 */
bool tcp_remote_peer_fetch(struct tcp_remote_peer *peer, const struct kvl_key *key, uint32_t flags,
                           tcp_remote_resume_fn resume);

/** Closes the socket of a peer that is still fetching; it is destroyed when it comes back. */
void tcp_remote_peer_abandon(struct tcp_remote_peer *peer);

/** Logs once per peer host. */
void tcp_remote_peer_complain(struct tcp_remote_peer *peer, const char *what);

#endif /* KVL_TCP_REMOTE_PEER_H */
