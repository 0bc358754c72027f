/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cond.h"
#include "py_socket_core.h"

/* An op is its slot in the low bits and how often the slot was used above. */
#define SLOT_BITS 12u
#define SLOT_MASK ((1u << SLOT_BITS) - 1)

KVL_STATIC_ASSERT(PY_SOCKET_OPS_MAX <= 1u << SLOT_BITS, "an op's slot fits its bits");

int py_socket_ops_init(struct kvl_channel *channel)
{
    channel->ops = calloc(PY_SOCKET_OPS_MAX, sizeof(struct py_socket_op *));
    channel->op_free = calloc(PY_SOCKET_OPS_MAX, sizeof(uint32_t));
    return channel->ops == NULL || channel->op_free == NULL ? -ENOMEM : 0;
}

void py_socket_ops_fini(struct kvl_channel *channel)
{
    for (uint32_t i = 0; i < channel->op_count; i++) {
        free(channel->ops[i]->spans);
        pthread_cond_destroy(&channel->ops[i]->ended);
        free(channel->ops[i]);
    }
    free(channel->ops);
    free(channel->op_free);
}

/* One more slot. */
static int op_grow(struct kvl_channel *channel)
{
    struct py_socket_op *op;

    if (channel->op_count == PY_SOCKET_OPS_MAX) {
        return -EAGAIN;
    }
    op = calloc(1, sizeof(*op));
    if (op == NULL) {
        return -ENOMEM;
    }
    (void)kvl_monotonic_cond_init(&op->ended);
    op->id = channel->op_count;
    op->channel = channel;
    channel->ops[channel->op_count] = op;
    channel->op_free[channel->op_free_count++] = channel->op_count++;
    return 0;
}

int py_socket_op_create(struct kvl_channel *channel, uint32_t kind, struct py_socket_lane *lane,
                        struct py_socket_op **op_out)
{
    struct py_socket_op *op;

    if (channel->op_free_count == 0) {
        int r = op_grow(channel);

        if (r < 0) {
            return r;
        }
    }
    op = channel->ops[channel->op_free[--channel->op_free_count]];
    op->id += 1u << SLOT_BITS;
    op->kind = kind;
    op->state = PY_SOCKET_OP_RUNNING;
    op->lane = lane;
    if (lane != NULL) {
        lane->refs++;
    }
    op->tag = 0;
    op->deadline_ms = KVL_NEVER;
    op->status = 0;
    op->moved = 0;
    op->ending = false;
    op->count = 0;
    op->end_status = 0;
    op->at_object = 0;
    op->at_offset = 0;
    op->connected = NULL;
    *op_out = op;
    return 0;
}

struct py_socket_op *py_socket_op_find(struct kvl_channel *channel, uint64_t id)
{
    uint32_t slot = (uint32_t)(id & SLOT_MASK);
    struct py_socket_op *op;

    if (slot >= channel->op_count) {
        return NULL;
    }
    op = channel->ops[slot];
    return op->id == id && op->state != PY_SOCKET_OP_FREE ? op : NULL;
}

static void op_unlink_done(struct py_socket_op *op)
{
    struct kvl_channel *channel = op->channel;

    if (op->done_prev != NULL) {
        op->done_prev->done_next = op->done_next;
    } else {
        channel->done = op->done_next;
    }
    if (op->done_next != NULL) {
        op->done_next->done_prev = op->done_prev;
    } else {
        channel->done_last = op->done_prev;
    }
}

void py_socket_op_undo(struct py_socket_op *op)
{
    struct kvl_channel *channel = op->channel;

    free(op->spans);
    op->spans = NULL;
    if (op->lane != NULL) {
        py_socket_lane_release(op->lane);
        op->lane = NULL;
    }
    op->state = PY_SOCKET_OP_FREE;
    channel->op_free[channel->op_free_count++] = (uint32_t)(op->id & SLOT_MASK);
}

void py_socket_op_call(struct py_socket_op *op)
{
    struct kvl_channel *channel = op->channel;

    if (op->kind == PY_SOCKET_OP_FETCH) {
        py_socket_fetch_ended(op);
        return;
    }
    op->connected(op->connected_ctx, op->status);
    pthread_mutex_lock(&channel->lock);
    py_socket_op_free(op);
    pthread_mutex_unlock(&channel->lock);
}

void py_socket_op_free(struct py_socket_op *op)
{
    if (op->kind != PY_SOCKET_OP_FETCH && op->connected == NULL) {
        op_unlink_done(op);
    }
    py_socket_op_undo(op);
}

/* ---- the end ---- */

static void op_tell(struct py_socket_op *op)
{
    struct kvl_channel *channel = op->channel;
    const uint64_t one = 1;

    op->done_next = NULL;
    op->done_prev = channel->done_last;
    if (channel->done_last != NULL) {
        channel->done_last->done_next = op;
    } else {
        channel->done = op;
    }
    channel->done_last = op;
    if (op->driver != NULL) {
        py_socket_drive_wake(op->driver);
    }
    if (op->waiters > 0) {
        pthread_cond_broadcast(&op->ended);
    } else if (channel->done_fd >= 0) {
        ssize_t n = write(channel->done_fd, &one, sizeof(one));

        (void)n;
    }
}

void py_socket_op_end(struct py_socket_op *op, int32_t status)
{
    op->state = PY_SOCKET_OP_ENDED;
    op->status = status;
    if (op->queued) {
        py_socket_lane_unqueue(op->lane, op);
    }
    if (status != 0 && op->lane != NULL) {
        op->lane->errors++;
    }
    if (op->kind == KVL_TRANSFER_RECV) {
        py_socket_pair_ended(op);
    }
    if (op->kind == PY_SOCKET_OP_FETCH || op->connected != NULL) {
        pthread_cond_broadcast(&op->ended); /* cancel waits */
        op->done_next = op->channel->called;
        op->channel->called = op;
        if (op->waiters > 0) {
            pthread_cond_broadcast(&op->ended); /* a cancel waits until nobody writes any more */
        }
        return;
    }
    op_tell(op);
}

static void part_unlink(struct py_socket_part *part)
{
    struct py_socket_op *op = part->op;

    if (part->prev != NULL) {
        part->prev->next = part->next;
    } else {
        op->first = part->next;
    }
    if (part->next != NULL) {
        part->next->prev = part->prev;
    } else {
        op->last = part->prev;
    }
    part->op = NULL;
}

/* Takes its frame back, of which nothing has left. */
static void part_unsend(struct py_socket_part *part)
{
    struct py_socket_conn *conn = part->conn;
    struct py_socket_out **at = &conn->out_first;
    struct py_socket_out *before = NULL;

    while (*at != part->out) {
        before = *at;
        at = &before->next;
    }
    *at = part->out->next;
    conn->outs--;
    if (conn->out_last == part->out) {
        conn->out_last = before;
    }
    py_socket_out_destroy(part->out);
    part->out = NULL;
}

/* Its connection forgets it: an answer would be to something else. */
static void part_detach(struct py_socket_part *part)
{
    struct py_socket_conn *conn = part->conn;

    if (part->out != NULL) {
        part->out->part = NULL;
        part->out = NULL;
    }
    conn->slots[part->id % PY_SOCKET_WINDOW] = NULL;
    conn->parts--;
    conn->parts_bytes -= part->bytes;
    part->conn = NULL;
}

void py_socket_part_free(struct py_socket_part *part)
{
    if (part->op != NULL) {
        part_unlink(part);
    }
    if (part->conn != NULL) {
        part_detach(part);
    }
    free(part->iov);
    free(part);
}

/* Nobody waits for it any more; what is still to come for it gets dropped. */
static void part_give_up(struct py_socket_part *part)
{
    const struct py_socket_frame frame = {.type = PY_SOCKET_CANCEL, .id = part->id};
    struct py_socket_conn *conn = part->conn;
    struct py_socket_out *out;

    if (conn != NULL && part->out != NULL && part->type != PY_SOCKET_SEND) {
        part_unsend(part);
        part_detach(part);
    }
    if (part->conn == NULL) {
        py_socket_part_free(part);
        return;
    }
    part_unlink(part);
    if (conn->dead) {
        return;
    }
    out = py_socket_out_create(&frame, 0);
    if (out != NULL) {
        py_socket_conn_put(conn, out);
    }
}

void py_socket_op_stop(struct py_socket_op *op, int32_t status)
{
    struct py_socket_part *next;

    if (op->state != PY_SOCKET_OP_RUNNING) {
        return;
    }
    if (!op->ending) {
        op->ending = true;
        op->status = status;
    }
    if (op->queued) {
        py_socket_lane_unqueue(op->lane, op);
    }
    for (struct py_socket_part *part = op->first; part != NULL; part = next) {
        next = part->next;
        if (!part->busy) {
            part_give_up(part);
        }
    }
    if (op->first == NULL && !op->held) {
        py_socket_op_end(op, op->status);
    }
}

/* ---- parts ---- */

void py_socket_op_advance(struct py_socket_op *op)
{
    struct py_socket_part *part;

    while ((part = op->first) != NULL && part->done) {
        int32_t status = part->status;

        if (status < 0) {
            py_socket_op_stop(op, status);
            return;
        }
        op->moved = part->objects;
        py_socket_part_free(part);
    }
    if (op->first == NULL && !op->queued && !op->held) {
        py_socket_op_end(op, op->ending ? op->status : op->end_status);
    }
}

void py_socket_part_end(struct py_socket_part *part, int32_t status)
{
    struct py_socket_op *op = part->op;

    part->busy = false;
    part_detach(part);
    if (op == NULL) {
        py_socket_part_free(part);
        return;
    }
    part->done = true;
    part->status = status;
    if (op->ending) {
        part_give_up(part);
        if (op->first == NULL && !op->held) {
            py_socket_op_end(op, op->status);
        }
        return;
    }
    py_socket_op_advance(op);
}

void py_socket_part_rest(struct py_socket_part *part)
{
    struct py_socket_op *op = part->op;

    part->busy = false;
    if (op != NULL && op->ending) {
        part_give_up(part);
        if (op->first == NULL && !op->held) {
            py_socket_op_end(op, op->status);
        }
    }
}
