/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file tcp_remote_op.h
 * What the client role keeps of a batch from submit to completion: one record with a request per
 * chunk. Made by the submitting thread, afterwards touched by the I/O thread alone, except where a
 * field says otherwise.
 */
#ifndef KVL_TCP_REMOTE_OP_H
#define KVL_TCP_REMOTE_OP_H

#include <stdatomic.h>
#include <stdbool.h>

#include <kvlane/io.h>

#include "tcp_remote_options.h"
#include "tcp_remote_sg.h"

struct tcp_remote_conn;
struct tcp_remote_op;

enum tcp_remote_kind {
    TCP_REMOTE_LOOKUP,
    TCP_REMOTE_READ,
    TCP_REMOTE_WRITE,
    TCP_REMOTE_KEYS,
    TCP_REMOTE_PROBE,
};

enum tcp_remote_where {
    TCP_REMOTE_NOWHERE,
    TCP_REMOTE_QUEUED, /* no connection yet */
    TCP_REMOTE_ASSIGNED, /* in a connection's queue, no byte of it encoded */
    TCP_REMOTE_SENT, /* at least encoded; a reply, or the end of its payload, is waited for */
};

/** One chunk of a batch on its way. */
struct tcp_remote_req {
    struct tcp_remote_req *next;
    struct tcp_remote_req *prev;
    struct tcp_remote_op *op;
    struct tcp_remote_conn *conn; /* when ASSIGNED or SENT */
    const char *key; /* in the op's own memory, with the tag of the sealed form */
    uint32_t key_length;
    uint32_t index; /* of the chunk */
    enum tcp_remote_where where;
    bool ended; /* has its status; what still comes for it is dropped */
    bool answered; /* a 200 header came */
    uint8_t tries; /* connections that failed under it */
    uint32_t flags; /* KVL_CHUNK_ */
    struct kvl_attrs attrs;
    uint64_t bytes; /* payload to send, or expected; 0 on reads = any */
    uint64_t checksum;
    uint32_t sg_first;
    uint32_t sg_end;
};

struct tcp_remote_queue {
    struct tcp_remote_req *head;
    struct tcp_remote_req *tail;
    uint32_t count;
};

struct tcp_remote_op {
    struct tcp_remote_op *next; /* inbox, then the I/O thread's list */
    struct tcp_remote_op *prev;
    struct tcp_remote_op *done_next; /* waits for its completion */
    struct tcp_remote_op *known_next; /* guarded by the client's lock: for cancel */
    struct tcp_remote_op *known_prev;
    atomic_bool cancel;
    enum tcp_remote_kind kind;
    uint64_t cookie;
    uint64_t deadline_ms;
    size_t memory; /* bytes of this record with all behind it */
    uint32_t count;
    uint32_t open; /* requests without a status */
    uint32_t linked; /* requests in a queue; the record outlives its completion until 0 */
    bool completed;
    bool has_sg;
    uint64_t bytes; /* payload moved */
    int32_t *status; /* one per request */
    struct kvl_sg *sg;
    struct tcp_remote_req *reqs;
};

/**
 * Copies what is needed of a batch. A chunk whose sealed key is too long has its status already.
 * @param now_ms  for the default deadline
 * @return 0; -EINVAL, -EMSGSIZE, -ENOTSUP, -ENOMEM as in backend.h.
 */
int tcp_remote_op_create(enum tcp_remote_kind kind, const struct kvl_batch *batch,
                         const struct tcp_remote_options *options, uint64_t now_ms,
                         struct tcp_remote_op **op_out);

/** A list or probe operation: one request with the key text given. @return 0; -ENOMEM. */
int tcp_remote_op_create_single(enum tcp_remote_kind kind, uint64_t cookie, uint64_t deadline_ms,
                                const char *key, struct tcp_remote_op **op_out);

/** Frees. Takes NULL. */
void tcp_remote_op_destroy(struct tcp_remote_op *op);

/** The queues keep op->linked. */
void tcp_remote_queue_push(struct tcp_remote_queue *queue, struct tcp_remote_req *req);
void tcp_remote_queue_push_front(struct tcp_remote_queue *queue, struct tcp_remote_req *req);
void tcp_remote_queue_remove(struct tcp_remote_queue *queue, struct tcp_remote_req *req);

#endif /* KVL_TCP_REMOTE_OP_H */
