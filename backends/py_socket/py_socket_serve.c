/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "py_socket_core.h"
#include "py_socket_lease.h"

bool py_socket_in_buffer(const struct kvl_channel *channel, uint64_t offset, uint64_t length)
{
    return length > 0 && length <= channel->buffer_bytes &&
           offset <= channel->buffer_bytes - length;
}

/* Ranges of the own buffer as memory. @return bytes; 0: one of them is none. */
static uint64_t serve_ranges(const struct py_socket_conn *conn, struct iovec *iov,
                             uint32_t *count_out)
{
    const struct kvl_channel *channel = conn->channel;
    uint64_t bytes = 0;
    uint32_t count = 0;

    for (uint32_t i = 0; i < conn->frame.count; i++) {
        struct py_socket_range range;

        py_socket_range_decode(conn->table + (size_t)i * PY_SOCKET_RANGE_BYTES, &range);
        if (!py_socket_in_buffer(channel, range.offset, range.length) ||
            bytes > PY_SOCKET_PAYLOAD_MAX - range.length) {
            return 0;
        }
        py_socket_iov_add(iov, &count, channel->buffer + range.offset, range.length);
        bytes += range.length;
    }
    *count_out = count;
    return bytes;
}

static void serve_put(struct py_socket_conn *conn, struct py_socket_out *take_out)
{
    struct kvl_channel *channel = conn->channel;
    bool is_open;

    pthread_mutex_lock(&channel->lock);
    is_open = !conn->dead && conn->state == PY_SOCKET_CONN_OPEN;
    if (is_open) {
        py_socket_conn_put(conn, take_out);
    }
    py_socket_unlock(channel);
    if (!is_open) { /* what it was given on the way is not asked back by its close */
        py_socket_out_destroy(take_out);
        if (channel->leases != NULL) {
            py_socket_lease_give_all(channel->leases, conn);
        }
    }
}

/* ---- READ and WRITE ---- */

static int serve_read(struct py_socket_conn *conn)
{
    struct py_socket_frame frame = {.type = PY_SOCKET_READ,
                                    .flags = PY_SOCKET_REPLY,
                                    .id = conn->frame.id,
                                    .count = conn->frame.count};
    struct py_socket_out *out;

    if ((conn->channel->role & KVL_CHANNEL_SENDER) == 0) {
        return -EACCES;
    }
    out = py_socket_out_create(&frame, conn->frame.count);
    if (out == NULL) {
        return -ENOMEM;
    }
    frame.payload = serve_ranges(conn, out->iov, &out->iov_count);
    if (frame.payload == 0) {
        py_socket_out_destroy(out);
        return -ERANGE;
    }
    py_socket_frame_encode(&frame, out->head);
    out->payload = frame.payload;
    serve_put(conn, out);
    return 0;
}

static int serve_write(struct py_socket_conn *conn)
{
    if ((conn->channel->role & KVL_CHANNEL_RECEIVER) == 0) {
        return -EACCES;
    }
    conn->sink = malloc(conn->frame.count * sizeof(struct iovec));
    if (conn->sink == NULL) {
        return -ENOMEM;
    }
    conn->sink_at = 0;
    if (serve_ranges(conn, conn->sink, &conn->sink_count) != conn->frame.payload ||
        conn->frame.payload == 0) {
        return -ERANGE;
    }
    return 0;
}

void py_socket_serve_written(struct py_socket_conn *conn)
{
    free(conn->sink);
    conn->sink = NULL;
    pthread_mutex_lock(&conn->channel->lock);
    py_socket_conn_answer(conn, PY_SOCKET_WRITE, conn->frame.id, 0, conn->frame.count);
    py_socket_unlock(conn->channel);
}

/* Only a SEND waits here; the other answers are on their way. */
static void serve_cancel(struct py_socket_conn *conn)
{
    pthread_mutex_lock(&conn->channel->lock);
    py_socket_pair_cancel(conn, conn->frame.id);
    py_socket_unlock(conn->channel);
}

/* ---- chunks ---- */

/* @param there  per key: 1 = somebody here has it; NULL = only the store was looked at */
static int serve_lookup(struct py_socket_conn *conn, const struct py_socket_frame *asked,
                        const uint8_t *table, const uint8_t *there)
{
    const struct py_socket_serve_ops *serve = conn->channel->data->serve;
    const struct py_socket_frame frame = {.type = PY_SOCKET_LOOKUP,
                                          .flags = PY_SOCKET_REPLY,
                                          .id = asked->id,
                                          .count = asked->count,
                                          .table = (asked->count + 7) / 8};
    struct py_socket_out *out = py_socket_out_create(&frame, 0);
    size_t at = 0;
    uint8_t *bits;

    if (out == NULL) {
        return -ENOMEM;
    }
    bits = py_socket_out_table(out);
    memset(bits, 0, frame.table);
    for (uint32_t i = 0; i < frame.count; i++) {
        struct kvl_key key;
        int r = py_socket_key_decode(table, asked->table, &at, &key);
        int is_there;

        if (r < 0) {
            py_socket_out_destroy(out);
            return r;
        }
        is_there = (there != NULL && there[i] != 0) || serve->lookup(serve->ctx, &key) == 0;
        bits[i / 8] |= (uint8_t)((is_there ? 1u : 0u) << i % 8);
    }
    serve_put(conn, out);
    return 0;
}

/* Leases that end when an answer has left. */
struct serve_hold {
    const struct py_socket_serve_ops *serve;
    uint32_t count;
    uint64_t leases[];
};

static void serve_let_go(void *ctx)
{
    struct serve_hold *hold = ctx;

    for (uint32_t i = 0; i < hold->count; i++) {
        hold->serve->release(hold->serve->ctx, hold->leases[i]);
    }
    free(hold);
}

static int serve_expects(const struct py_socket_wish *wish, const struct kvl_view *view)
{
    if (wish->bytes != 0 && wish->bytes != view->length) {
        return -EBADMSG;
    }
    if ((wish->flags & KVL_CHUNK_EXPECT_ATTRS) != 0 &&
        memcmp(&wish->attrs, &view->attrs, sizeof(view->attrs)) != 0) {
        return -EBADMSG;
    }
    if ((wish->flags & KVL_CHUNK_HAS_CHECKSUM) != 0 && view->checksum != 0 &&
        wish->checksum != view->checksum) {
        return -EBADMSG;
    }
    return view->length > PY_SOCKET_PAYLOAD_MAX ? -EMSGSIZE : 0;
}

/* Puts a leased chunk into the answer: where it lies for a peer that maps the store, or its
 * bytes. */
static void serve_found(struct py_socket_conn *conn, const struct kvl_view *view,
                        struct py_socket_found *found, struct py_socket_out *out,
                        struct serve_hold *hold)
{
    struct kvl_channel *channel = conn->channel;
    uint64_t now = channel->host->now_ms(channel->host);
    const struct kvl_store_export *store = &hold->serve->store;
    uint64_t offset = 0;

    found->bytes = view->length;
    found->attrs = view->attrs;
    found->checksum = view->checksum;
    found->flags = view->checksum != 0 ? KVL_CHUNK_HAS_CHECKSUM : 0;
    if (view->length > 0 && conn->maps_store) {
        offset = (uint64_t)((const uint8_t *)view->data - (const uint8_t *)store->base);
        if (offset < store->bytes && view->length <= store->bytes - offset &&
            py_socket_lease_take(channel->leases, conn, view->lease, now, &found->slot,
                                 &found->generation) == 0) {
            py_socket_timer_at(&channel->timer, now + PY_SOCKET_LEASE_MS);
            found->flags |= PY_SOCKET_FOUND_MAPPED;
            found->offset = offset;
            return;
        }
    }
    hold->leases[hold->count++] = view->lease;
    if (view->length > 0) {
        py_socket_iov_add(out->iov, &out->iov_count, (void *)(uintptr_t)view->data, view->length);
        out->payload += view->length;
    }
}

/* One entry of the answer. */
static void serve_wish(struct py_socket_conn *conn, const struct py_socket_wish *wish,
                       uint8_t *entry, struct py_socket_out *out, struct serve_hold *hold)
{
    const struct py_socket_serve_ops *serve = hold->serve;
    struct py_socket_found found = {0};
    struct kvl_view view;

    found.status = serve->lease(serve->ctx, &wish->key, &view);
    if (found.status == 0) {
        found.status = serve_expects(wish, &view);
        if (found.status < 0) {
            serve->release(serve->ctx, view.lease);
        } else {
            serve_found(conn, &view, &found, out, hold);
        }
    }
    py_socket_found_encode(&found, entry);
}

static int serve_get(struct py_socket_conn *conn, const struct py_socket_frame *asked,
                     const uint8_t *table)
{
    struct py_socket_frame frame = {.type = PY_SOCKET_GET,
                                    .flags = PY_SOCKET_REPLY,
                                    .id = asked->id,
                                    .count = asked->count,
                                    .table = asked->count * PY_SOCKET_FOUND_BYTES};
    struct serve_hold *hold = malloc(sizeof(*hold) + frame.count * sizeof(uint64_t));
    struct py_socket_out *out = py_socket_out_create(&frame, frame.count);
    size_t at = 0;
    int r = 0;

    if (hold == NULL || out == NULL) {
        free(hold);
        free(out);
        return -ENOMEM;
    }
    hold->serve = conn->channel->data->serve;
    hold->count = 0;
    out->end = serve_let_go;
    out->ctx = hold;
    for (uint32_t i = 0; i < frame.count && r == 0; i++) {
        struct py_socket_wish wish;

        r = py_socket_wish_decode(table, asked->table, &at, &wish);
        if (r == 0) {
            serve_wish(conn, &wish, py_socket_out_table(out) + (size_t)i * PY_SOCKET_FOUND_BYTES,
                       out, hold);
        }
    }
    if (r < 0) {
        py_socket_out_destroy(out);
        return r;
    }
    frame.payload = out->payload;
    py_socket_frame_encode(&frame, out->head);
    serve_put(conn, out);
    return 0;
}

static int serve_release(struct py_socket_conn *conn)
{
    for (uint32_t i = 0; i < conn->frame.count; i++) {
        struct py_socket_slot slot;

        py_socket_slot_decode(conn->table + (size_t)i * PY_SOCKET_SLOT_BYTES, &slot);
        if (conn->channel->leases != NULL) {
            py_socket_lease_give(conn->channel->leases, conn, &slot);
        }
    }
    return 0;
}

/* ---- requests ---- */

static int serve_question(struct py_socket_conn *conn, const struct py_socket_frame *asked,
                          const uint8_t *table, const uint8_t *there)
{
    return asked->type == PY_SOCKET_LOOKUP ? serve_lookup(conn, asked, table, there)
                                           : serve_get(conn, asked, table);
}

void py_socket_serve_later(struct py_socket_conn *conn, const struct py_socket_frame *asked,
                           const uint8_t *table, const uint8_t *there)
{
    int r = serve_question(conn, asked, table, there);

    if (r < 0) {
        pthread_mutex_lock(&conn->channel->lock);
        py_socket_conn_kill(conn, r);
        py_socket_unlock(conn->channel);
    }
}

static int serve_chunks(struct py_socket_conn *conn)
{
    if (conn->channel->data->serve == NULL) {
        return -EPROTO; /* we said so in our HELLO */
    }
    if (conn->frame.type == PY_SOCKET_RELEASE) {
        return serve_release(conn);
    }
    return py_socket_bring(conn) ? 0 : serve_question(conn, &conn->frame, conn->table, NULL);
}

static int serve_send(struct py_socket_conn *conn)
{
    int r;

    pthread_mutex_lock(&conn->channel->lock);
    r = py_socket_pair_offer(conn, &conn->frame, conn->table);
    py_socket_unlock(conn->channel);
    return r;
}

int py_socket_serve(struct py_socket_conn *conn)
{
    /* a peer that asks on without taking the answers must not fill our memory */
    if (conn->outs > PY_SOCKET_OUTS_MAX) {
        return -EPROTO;
    }
    switch (conn->frame.type) {
    case PY_SOCKET_READ:
        return serve_read(conn);
    case PY_SOCKET_WRITE:
        return serve_write(conn);
    case PY_SOCKET_SEND:
        return serve_send(conn);
    case PY_SOCKET_CANCEL:
        serve_cancel(conn);
        return 0;
    case PY_SOCKET_LOOKUP:
    case PY_SOCKET_GET:
    case PY_SOCKET_RELEASE:
        return serve_chunks(conn);
    default: /* GOODBYE, ERROR; a second HELLO */
        return conn->frame.type == PY_SOCKET_GOODBYE || conn->frame.type == PY_SOCKET_ERROR
                   ? -ECONNRESET
                   : -EPROTO;
    }
}
