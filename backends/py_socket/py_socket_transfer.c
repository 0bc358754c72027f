/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "py_socket_channel.h"

/* Offsets of so many objects need no memory of their own. */
#define FEW 64u

/* ---- what is asked for ---- */

static bool transfer_is_own(const struct kvl_channel *channel, const struct kvl_span *span)
{
    uintptr_t at = (uintptr_t)span->addr;
    uintptr_t base = (uintptr_t)channel->buffer;

    return at >= base && py_socket_in_buffer(channel, at - base, span->length);
}

int py_socket_channel_indexes(struct kvl_channel *channel, const struct kvl_span *objects,
                              uint32_t count, uint64_t *indexes_out)
{
    if (py_socket_data_is_child(channel->data)) {
        return -ECHILD;
    }
    for (uint32_t i = 0; i < count; i++) {
        if (!transfer_is_own(channel, &objects[i]) ||
            ((uintptr_t)objects[i].addr - (uintptr_t)channel->buffer) % channel->align_bytes != 0) {
            return -EINVAL;
        }
    }
    for (uint32_t i = 0; i < count; i++) {
        indexes_out[i] =
            ((uintptr_t)objects[i].addr - (uintptr_t)channel->buffer) / channel->align_bytes;
    }
    return 0;
}

static int transfer_check(const struct kvl_channel *channel, const struct kvl_transfer *transfer)
{
    uint32_t need = transfer->kind == KVL_TRANSFER_WRITE || transfer->kind == KVL_TRANSFER_SEND
                        ? KVL_CHANNEL_SENDER
                        : KVL_CHANNEL_RECEIVER;
    bool one_sided = transfer->kind == KVL_TRANSFER_READ || transfer->kind == KVL_TRANSFER_WRITE;

    if (transfer->size < sizeof(*transfer) || transfer->kind < KVL_TRANSFER_READ ||
        transfer->kind > KVL_TRANSFER_RECV || (channel->role & need) == 0 ||
        transfer->peer_id == NULL || transfer->count == 0 || transfer->count > KVL_BATCH_MAX ||
        (one_sided && transfer->remote_indexes == NULL)) {
        return -EINVAL;
    }
    for (uint32_t i = 0; i < transfer->count; i++) {
        if (!transfer_is_own(channel, &transfer->objects[i])) {
            return -EINVAL;
        }
    }
    return 0;
}

/* Where the objects are in the peer's buffer. @return how many lie in it, from the first on. */
static uint32_t transfer_offsets(const struct py_socket_greeting *hello,
                                 const struct kvl_transfer *transfer, uint64_t *offsets_out)
{
    for (uint32_t i = 0; i < transfer->count; i++) {
        uint64_t length = transfer->objects[i].length;
        uint64_t offset;

        if (__builtin_mul_overflow(transfer->remote_indexes[i], hello->align_bytes, &offset) ||
            length > hello->buffer_bytes || offset > hello->buffer_bytes - length) {
            return i;
        }
        offsets_out[i] = offset;
    }
    return transfer->count;
}

/* ---- READ and WRITE ---- */

static int transfer_keep(struct py_socket_op *op, const struct kvl_transfer *transfer)
{
    size_t spans = transfer->count * sizeof(struct kvl_span);

    op->spans = malloc(spans + transfer->count * sizeof(uint64_t));
    if (op->spans == NULL) {
        return -ENOMEM;
    }
    op->offsets = (uint64_t *)(void *)((uint8_t *)op->spans + spans);
    memcpy(op->spans, transfer->objects, spans);
    return 0;
}

static int transfer_by_map(struct py_socket_lane *lane, struct py_socket_op *op,
                           const struct kvl_transfer *transfer)
{
    uint64_t few[FEW];
    uint64_t *offsets = few;

    if (transfer->count > FEW) {
        int r = transfer_keep(op, transfer);

        if (r < 0) {
            return r;
        }
        offsets = op->offsets;
    }
    op->count = transfer_offsets(&lane->hello, transfer, offsets);
    op->end_status = op->count < transfer->count ? -EINVAL : 0;
    py_socket_lane_copy(lane, op, transfer->objects, offsets);
    return 0;
}

static int transfer_one_sided(struct py_socket_lane *lane, struct py_socket_op *op,
                              const struct kvl_transfer *transfer)
{
    uint32_t need = op->kind == KVL_TRANSFER_READ ? PY_SOCKET_READABLE : PY_SOCKET_WRITABLE;
    int r;

    if ((lane->hello.flags & need) == 0) {
        py_socket_op_end(op, -EACCES);
        return 0;
    }
    if (lane->map != NULL) {
        return transfer_by_map(lane, op, transfer);
    }
    r = transfer_keep(op, transfer);
    if (r < 0) {
        return r;
    }
    op->count = transfer_offsets(&lane->hello, transfer, op->offsets);
    op->end_status = op->count < transfer->count ? -EINVAL : 0;
    if (op->count == 0) {
        py_socket_op_end(op, op->end_status);
        return 0;
    }
    py_socket_lane_queue(lane, op);
    py_socket_lane_pump(lane);
    return 0;
}

/* ---- SEND and RECV ---- */

static struct py_socket_conn *transfer_send_conn(struct py_socket_lane *lane)
{
    for (uint32_t i = 0; i < lane->conn_count && lane->send_conn == NULL; i++) {
        if (lane->conns[i]->state == PY_SOCKET_CONN_OPEN && !lane->conns[i]->dead) {
            lane->send_conn = lane->conns[i];
        }
    }
    return lane->send_conn;
}

static int transfer_send(struct py_socket_lane *lane, struct py_socket_op *op,
                         const struct kvl_transfer *transfer)
{
    struct py_socket_frame frame = {.type = PY_SOCKET_SEND,
                                    .count = transfer->count,
                                    .table = transfer->count * PY_SOCKET_RANGE_BYTES};
    struct py_socket_conn *conn = transfer_send_conn(lane);
    struct py_socket_part *part;
    struct py_socket_out *out;
    int r;

    if (conn == NULL || conn->parts == PY_SOCKET_WINDOW) {
        return -EAGAIN;
    }
    r = py_socket_part_create(conn, op, PY_SOCKET_SEND, &part);
    if (r < 0) {
        return r;
    }
    frame.id = part->id;
    out = py_socket_out_create(&frame, 0);
    if (out == NULL) {
        py_socket_part_free(part);
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < transfer->count; i++) {
        const struct kvl_span *span = &transfer->objects[i];
        const struct py_socket_range range = {
            .offset = (uint64_t)((uint8_t *)span->addr - lane->channel->buffer),
            .length = span->length};

        py_socket_range_encode(&range, py_socket_out_table(out) + i * PY_SOCKET_RANGE_BYTES);
    }
    part->objects = transfer->count;
    part->out = out;
    out->part = part;
    py_socket_conn_put(conn, out);
    return 0;
}

static int transfer_receive(struct py_socket_lane *lane, struct py_socket_op *op,
                            const struct kvl_transfer *transfer)
{
    int r = transfer_keep(op, transfer);

    if (r < 0) {
        return r;
    }
    op->count = transfer->count;
    py_socket_pair_receive(lane, op);
    return 0;
}

/* ---- submit ---- */

/* The open lane to a peer. With the lock. */
static int transfer_lane(struct kvl_channel *channel, struct py_socket_peer *peer,
                         struct py_socket_lane **lane_out)
{
    struct py_socket_lane *lane = atomic_load(&peer->data);

    if (peer->version == 0) {
        return -ENOTSUP;
    }
    if (channel->closing) {
        return -ECANCELED;
    }
    if (lane == NULL || lane->state != PY_SOCKET_LANE_OPEN) {
        return -ENOTCONN;
    }
    *lane_out = lane;
    return 0;
}

static int transfer_begin(struct kvl_channel *channel, struct py_socket_lane *lane,
                          const struct kvl_transfer *transfer, uint64_t *op_out)
{
    struct py_socket_op *op;
    uint64_t id;
    int r = py_socket_op_create(channel, transfer->kind, lane, &op);

    if (r < 0) {
        return r;
    }
    id = op->id;
    op->tag = transfer->tag;
    op->deadline_ms = transfer->deadline_ms != 0 ? transfer->deadline_ms : KVL_NEVER;
    r = transfer->kind == KVL_TRANSFER_SEND   ? transfer_send(lane, op, transfer)
        : transfer->kind == KVL_TRANSFER_RECV ? transfer_receive(lane, op, transfer)
                                              : transfer_one_sided(lane, op, transfer);
    if (r < 0) {
        py_socket_op_undo(op);
        return r;
    }
    if (op->id == id && op->state == PY_SOCKET_OP_RUNNING && op->deadline_ms != KVL_NEVER) {
        py_socket_timer_at(&channel->timer, op->deadline_ms);
    }
    *op_out = id;
    return 0;
}

static void transfer_complain(struct kvl_channel *channel, struct py_socket_peer *peer)
{
    kvl_warn(channel->host->log,
             "py_socket: peer '%s' is one in Python without a data plane: transfers to it are not "
             "supported",
             peer->id);
}

int py_socket_channel_submit(struct kvl_channel *channel, const struct kvl_transfer *transfer,
                             uint64_t *op_out)
{
    struct py_socket_lane *lane = NULL;
    struct py_socket_peer *peer;
    int r;

    if (py_socket_data_is_child(channel->data)) {
        return -ECHILD;
    }
    r = transfer_check(channel, transfer);
    if (r < 0) {
        return r;
    }
    peer = py_socket_peers_find(py_socket_link_peers(channel->link), transfer->peer_id);
    if (peer == NULL) {
        return -ENOTCONN;
    }
    pthread_mutex_lock(&channel->lock);
    r = transfer_lane(channel, peer, &lane);
    if (r == 0) {
        r = transfer_begin(channel, lane, transfer, op_out);
    }
    py_socket_unlock(channel);
    if (r == -ENOTSUP) {
        transfer_complain(channel, peer);
    }
    py_socket_peer_release(peer);
    return r;
}
