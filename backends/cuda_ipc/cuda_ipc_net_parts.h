/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cuda_ipc_net_parts.h
 * What the files of the net share: its thread, peers that ask us (conns) and peers that we ask
 * (links). All of it belongs to the thread unless said otherwise.
 */
#ifndef KVL_CUDA_IPC_NET_PARTS_H
#define KVL_CUDA_IPC_NET_PARTS_H

#include <pthread.h>
#include <stdatomic.h>

#include "cuda_ipc_net.h"
#include "cuda_ipc_port.h"

enum cuda_ipc_net_counter {
    CUDA_IPC_NET_LINKS,
    CUDA_IPC_NET_CONNS,
    CUDA_IPC_NET_LEASES,
    CUDA_IPC_NET_LEASED,
    CUDA_IPC_NET_ASKED,
    CUDA_IPC_NET_LOST,
    CUDA_IPC_NET_TIMEOUTS,
    CUDA_IPC_NET_PROTOCOL_ERRORS,
    CUDA_IPC_NET_REFUSED,
    CUDA_IPC_NET_COUNTERS,
};

/* ---- a peer that asks us ---- */

struct cuda_ipc_held {
    struct cuda_ipc_chunk *chunk; /* a reference; NULL = free */
    uint32_t generation;
    uint32_t next_free;
};

struct cuda_ipc_conn {
    struct cuda_ipc_net *net;
    struct cuda_ipc_port port; /* closed = free record */
    uint32_t generation;
    bool is_greeted;
    uint64_t until_ms; /* for its HELLO */
    struct cuda_ipc_who who;
    struct cuda_ipc_held *held; /* owned */
    uint32_t held_room;
    uint32_t held_count;
    uint32_t free_held; /* index of the first free entry; held_room = none */
    uint8_t told[CUDA_IPC_POOL_SEGMENTS_MAX / 8]; /* segments it knows */
};

void cuda_ipc_conn_accept(struct cuda_ipc_net *net, int listen_fd);
void cuda_ipc_conn_event(struct cuda_ipc_conn *conn, uint32_t events, bool is_pidfd);
/** @return when it wants to be looked at again. */
uint64_t cuda_ipc_conn_tick(struct cuda_ipc_conn *conn, uint64_t now_ms);
/** Tells that we are closing. */
void cuda_ipc_conn_bye(struct cuda_ipc_conn *conn);
/** Takes its leases back. Of a free one nothing. */
void cuda_ipc_conn_close(struct cuda_ipc_conn *conn);

/* ---- a peer that we ask ---- */

enum cuda_ipc_link_state {
    CUDA_IPC_LINK_FREE,
    CUDA_IPC_LINK_WAITING, /* to try again */
    CUDA_IPC_LINK_GREETING,
    CUDA_IPC_LINK_READY,
    CUDA_IPC_LINK_LEAVING, /* it said BYE: no new requests, what is out is finished */
    CUDA_IPC_LINK_DOUBLE, /* another link leads to the same peer, or it is ourselves */
};

struct cuda_ipc_link_segment {
    struct cuda_ipc_share share; /* type NONE = unknown */
    int fd; /* owned; -1 = none */
};

struct cuda_ipc_link {
    struct cuda_ipc_net *net;
    struct cuda_ipc_port port;
    enum cuda_ipc_link_state state;
    uint32_t generation;
    struct cuda_ipc_address address;
    bool is_static; /* of the INI file */
    bool is_useless; /* its memory cannot be used here */
    bool is_broken; /* a message could not be sent: to be closed at the end of the turn */
    bool has_failed; /* said so already */
    struct cuda_ipc_wire_peer expected; /* unless static */
    struct cuda_ipc_wire_peer peer; /* while connected */
    char name[CUDA_IPC_ADDRESS_TEXT + 32];
    uint64_t epoch;
    uint64_t until_ms; /* WAITING, DOUBLE: next try; GREETING: its HELLO */
    uint64_t backoff_ms;
    uint32_t tries; /* since it last was connected */
    uint64_t next_request;
    uint32_t ask_count;
    uint32_t leases; /* that we hold */
    struct cuda_ipc_ask *first; /* requests without answer, oldest first */
    struct cuda_ipc_ask *last;
    struct cuda_ipc_link_segment *segments; /* owned, by number */
    uint32_t segment_room;
    uint64_t released[CUDA_IPC_WIRE_RELEASE_MAX]; /* to be sent at the end of a turn */
    uint32_t released_count;
};

void cuda_ipc_link_begin(struct cuda_ipc_link *link, const struct cuda_ipc_address *address,
                         const struct cuda_ipc_wire_peer *peer);
void cuda_ipc_link_event(struct cuda_ipc_link *link, uint32_t events, bool is_pidfd);
uint64_t cuda_ipc_link_tick(struct cuda_ipc_link *link, uint64_t now_ms);
/** Sends what was collected in a turn. */
void cuda_ipc_link_flush(struct cuda_ipc_link *link);
/** Ends it for good. Requests end with `status`. */
void cuda_ipc_link_end(struct cuda_ipc_link *link, int status);

/* ---- the thread ---- */

/** A peer to link to, on its way to the thread. */
struct cuda_ipc_lead {
    struct cuda_ipc_lead *next;
    struct cuda_ipc_address address;
    struct cuda_ipc_wire_peer peer;
    bool is_static;
};

struct cuda_ipc_net {
    struct cuda_ipc_net_env env;
    int epoll_fd;
    int wake_fd;
    int listen_fd; /* -1 = none */
    uint64_t deaf_until_ms; /* accepting failed; 0 = it works */
    char path[108]; /* to be unlinked; "" = none */
    uint64_t thread;
    bool has_thread;

    pthread_mutex_t lock; /* guards what others hand over */
    pthread_cond_t changed; /* a conn went, or the thread */
    struct cuda_ipc_work *works; /* oldest first */
    struct cuda_ipc_work **works_end;
    struct cuda_ipc_lead *leads;
    uint32_t lead_count;
    bool is_awake; /* has been woken and has not looked yet */
    bool has_ended; /* takes no work any more */
    uint32_t open_conns; /* as the thread last said */

    atomic_bool is_leaving; /* quiesce */
    atomic_bool is_stopping;
    bool has_left; /* quiesce was noticed */
    uint64_t epochs;
    uint8_t *buffer; /* CUDA_IPC_WIRE_MAX: the message being read */
    uint8_t *out; /* CUDA_IPC_WIRE_MAX: the message being written */
    struct cuda_ipc_wire_lease *leases; /* CUDA_IPC_WIRE_KEYS_MAX: an answer being made */
    struct cuda_ipc_conn *conns; /* max_peers */
    struct cuda_ipc_link *links; /* max_peers */
    _Atomic uint64_t counters[CUDA_IPC_NET_COUNTERS]; /* written by the thread alone */
};

uint64_t cuda_ipc_net_now(const struct cuda_ipc_net *net);
void cuda_ipc_net_count(struct cuda_ipc_net *net, enum cuda_ipc_net_counter counter, int64_t by);

/** No peer is accepted for a moment: there is no room for one. */
void cuda_ipc_net_rest(struct cuda_ipc_net *net);

/** Tag of a record's events. */
uint64_t cuda_ipc_net_tag(bool is_link, uint32_t index, uint32_t generation);

#endif /* KVL_CUDA_IPC_NET_PARTS_H */
