/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SEND and RECV. A SEND only says where its bytes are; the RECV that it meets reads them. So the
 * receiver alone decides when its memory is written to, which is what cancel promises. Both sides
 * pair in the order of submission: one that was given up still takes its counterpart with it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "py_socket_core.h"

static void pair_free(struct py_socket_lane *lane, struct py_socket_offered *offered)
{
    lane->offered_bytes -= sizeof(*offered) + offered->count * sizeof(struct py_socket_range);
    py_socket_conn_release(offered->conn);
    free(offered);
}

static struct py_socket_offered *pair_take_offered(struct py_socket_lane *lane)
{
    struct py_socket_offered *offered = lane->offered;

    lane->offered = offered->next;
    if (lane->offered == NULL) {
        lane->offered_last = NULL;
    }
    return offered;
}

static struct py_socket_op *pair_take_receive(struct py_socket_lane *lane)
{
    struct py_socket_op *op = lane->receives;

    lane->receives = op->next;
    if (lane->receives == NULL) {
        lane->receives_last = NULL;
    }
    op->receiving = false;
    return op;
}

/* ---- RECV ---- */

static void pair_unlink_receive(struct py_socket_lane *lane, struct py_socket_op *op)
{
    if (op->prev != NULL) {
        op->prev->next = op->next;
    } else {
        lane->receives = op->next;
    }
    if (op->next != NULL) {
        op->next->prev = op->prev;
        op->next->dead += op->dead + 1;
    } else {
        lane->receives_last = op->prev;
        lane->dead += op->dead + 1;
    }
    op->receiving = false;
}

void py_socket_pair_ended(struct py_socket_op *op)
{
    if (op->receiving) {
        pair_unlink_receive(op->lane, op);
    }
    if (op->from != NULL) {
        py_socket_conn_answer(op->from, PY_SOCKET_SEND, op->from_id, op->status, op->moved);
        py_socket_conn_release(op->from);
        op->from = NULL;
    }
}

void py_socket_pair_receive(struct py_socket_lane *lane, struct py_socket_op *op)
{
    op->receiving = true;
    op->dead = lane->dead;
    lane->dead = 0;
    op->next = NULL;
    op->prev = lane->receives_last;
    if (lane->receives_last != NULL) {
        lane->receives_last->next = op;
    } else {
        lane->receives = op;
    }
    lane->receives_last = op;
    py_socket_pair_match(lane);
}

/* ---- SEND ---- */

/* Both sides named as many objects, of the same lengths. */
static bool pair_fits(const struct py_socket_op *op, const struct py_socket_offered *offered)
{
    if (op->count != offered->count) {
        return false;
    }
    for (uint32_t i = 0; i < op->count; i++) {
        if (op->spans[i].length != offered->ranges[i].length) {
            return false;
        }
    }
    return true;
}

/* One SEND meets its RECV. Takes `offered`. */
static void pair_meet(struct py_socket_lane *lane, struct py_socket_op *op,
                      struct py_socket_offered *offered)
{
    if (offered->status < 0) {
        pair_free(lane, offered);
        py_socket_op_end(op, -ECANCELED);
        return;
    }
    op->from = offered->conn;
    py_socket_conn_retain(op->from);
    op->from_id = offered->id;
    if (!pair_fits(op, offered)) {
        pair_free(lane, offered);
        py_socket_op_end(op, -EINVAL);
        return;
    }
    for (uint32_t i = 0; i < op->count; i++) {
        op->offsets[i] = offered->ranges[i].offset;
    }
    pair_free(lane, offered);
    if (lane->map != NULL) {
        py_socket_lane_copy(lane, op, op->spans, op->offsets);
    } else {
        py_socket_lane_queue(lane, op);
        py_socket_lane_pump(lane);
    }
}

void py_socket_pair_match(struct py_socket_lane *lane)
{
    lane->refs++;
    while (lane->offered != NULL) {
        uint64_t *dead = lane->receives != NULL ? &lane->receives->dead : &lane->dead;

        if (*dead > 0) {
            struct py_socket_offered *offered = pair_take_offered(lane);

            (*dead)--;
            if (offered->status == 0) {
                py_socket_conn_answer(offered->conn, PY_SOCKET_SEND, offered->id, -ECANCELED, 0);
            }
            pair_free(lane, offered);
        } else if (lane->receives != NULL) {
            struct py_socket_op *op = pair_take_receive(lane);

            pair_meet(lane, op, pair_take_offered(lane));
        } else {
            break;
        }
    }
    py_socket_lane_release(lane);
}

/* The ranges lie in the buffer that the peer told of. */
static bool pair_is_sound(const struct py_socket_lane *lane,
                          const struct py_socket_offered *offered)
{
    for (uint32_t i = 0; i < offered->count; i++) {
        const struct py_socket_range *range = &offered->ranges[i];

        if (range->length == 0 || range->length > lane->hello.buffer_bytes ||
            range->offset > lane->hello.buffer_bytes - range->length) {
            return false;
        }
    }
    return true;
}

int py_socket_pair_offer(struct py_socket_conn *conn, const struct py_socket_frame *frame,
                         const uint8_t *table)
{
    struct py_socket_lane *lane = conn->lane;
    size_t bytes = sizeof(struct py_socket_offered) + frame->count * sizeof(struct py_socket_range);
    struct py_socket_offered *offered;

    conn->carried_sends = true;
    if (lane->offered_bytes + bytes > PY_SOCKET_OFFERED_BYTES) {
        /* pairs are counted on both sides: one that is left out would shift all behind it */
        return -EMSGSIZE;
    }
    offered = malloc(bytes);
    if (offered == NULL) {
        return -ENOMEM;
    }
    *offered = (struct py_socket_offered){
        .conn = conn, .id = frame->id, .status = frame->status, .count = frame->count};
    for (uint32_t i = 0; i < frame->count; i++) {
        py_socket_range_decode(table + (size_t)i * PY_SOCKET_RANGE_BYTES, &offered->ranges[i]);
    }
    if (!pair_is_sound(lane, offered)) {
        free(offered);
        return -ERANGE;
    }
    py_socket_conn_retain(conn);
    lane->offered_bytes += bytes;
    if (lane->offered_last != NULL) {
        lane->offered_last->next = offered;
    } else {
        lane->offered = offered;
    }
    lane->offered_last = offered;
    py_socket_pair_match(lane);
    return 0;
}

void py_socket_pair_cancel(struct py_socket_conn *conn, uint64_t id)
{
    if (conn->lane == NULL) {
        return;
    }
    for (struct py_socket_offered *at = conn->lane->offered; at != NULL; at = at->next) {
        if (at->conn == conn && at->id == id && at->status == 0) {
            at->status = -ECANCELED;
            py_socket_conn_answer(conn, PY_SOCKET_SEND, id, -ECANCELED, 0);
            return;
        }
    }
}

void py_socket_pair_drop(struct py_socket_lane *lane, const struct py_socket_conn *conn)
{
    struct py_socket_offered **at = &lane->offered;

    if (conn != NULL && !conn->carried_sends) {
        return;
    }
    lane->refs++;
    lane->offered_last = NULL;
    while (*at != NULL) {
        struct py_socket_offered *offered = *at;

        if (conn == NULL || offered->conn == conn) {
            *at = offered->next;
            pair_free(lane, offered);
        } else {
            lane->offered_last = offered;
            at = &offered->next;
        }
    }
    while (lane->receives != NULL) {
        py_socket_op_stop(lane->receives, -ECONNRESET);
    }
    lane->dead = 0; /* what is to come begins anew on both sides */
    py_socket_lane_release(lane);
}
