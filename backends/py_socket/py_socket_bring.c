/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Questions of peers about chunks that the own store has not, but some backend of this process may
 * keep. Such a question waits, with what it needs to be answered, until the last of them was looked
 * for or brought into the store, and is answered then, by the thread that did it. A channel that
 * closes meanwhile lets go of its questions; what still comes for them is dropped.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "py_socket_core.h"

/* Questions that wait, all together. One for which there is no room is answered at once. */
#define BRING_BYTES_MAX (16u << 20)

struct bring_item {
    struct py_socket_bring *bring;
    uint8_t is_there; /* somebody has it; set before its `pending` goes */
};

struct py_socket_bring {
    struct py_socket_bring *next; /* lock of the data plane, as the next four */
    struct py_socket_bring **prev;
    struct kvl_channel *channel; /* NULL once it closes */
    struct py_socket_conn *conn; /* retained; NULL with it */
    bool is_busy; /* being answered: the channel waits */
    struct py_socket_data *data;
    _Atomic uint32_t pending; /* keys that are looked for, and whoever still asks for more */
    uint64_t bytes;
    struct py_socket_frame frame;
    uint8_t *table;
    uint8_t *there; /* per key */
    struct bring_item items[];
};

/* A copy of the question. @return NULL: no room. */
static struct py_socket_bring *bring_create(struct py_socket_conn *conn)
{
    struct py_socket_data *data = conn->channel->data;
    const struct py_socket_frame *frame = &conn->frame;
    const uint64_t bytes = sizeof(struct py_socket_bring) +
                           frame->count * (sizeof(struct bring_item) + 1) + frame->table;
    struct py_socket_bring *bring = NULL;

    pthread_mutex_lock(&data->lock);
    if (data->bring_bytes + bytes <= BRING_BYTES_MAX && (bring = malloc(bytes)) != NULL) {
        *bring = (struct py_socket_bring){
            .next = data->brings,
            .prev = &data->brings,
            .channel = conn->channel,
            .conn = conn,
            .data = data,
            .pending = 1, /* ours, until all are asked for */
            .bytes = bytes,
            .frame = *frame,
        };
        py_socket_conn_retain(conn);
        if (data->brings != NULL) {
            data->brings->prev = &bring->next;
        }
        data->brings = bring;
        data->bring_bytes += bytes;
    }
    pthread_mutex_unlock(&data->lock);
    if (bring != NULL) {
        bring->table = (uint8_t *)&bring->items[frame->count];
        bring->there = bring->table + frame->table;
        memcpy(bring->table, conn->table, frame->table);
        memset(bring->items, 0, frame->count * sizeof(bring->items[0]));
    }
    return bring;
}

/* All that can be found is: answers, unless nobody waits for that any more. */
static void bring_finish(struct py_socket_bring *bring)
{
    struct py_socket_data *data = bring->data;
    struct py_socket_conn *conn;

    pthread_mutex_lock(&data->lock);
    conn = bring->conn;
    bring->is_busy = conn != NULL;
    pthread_mutex_unlock(&data->lock);
    if (conn != NULL) {
        for (uint32_t i = 0; i < bring->frame.count; i++) {
            bring->there[i] = bring->items[i].is_there;
        }
        py_socket_serve_later(conn, &bring->frame, bring->table, bring->there);
        py_socket_conn_release(conn);
    }
    pthread_mutex_lock(&data->lock);
    *bring->prev = bring->next;
    if (bring->next != NULL) {
        bring->next->prev = bring->prev;
    }
    data->bring_bytes -= bring->bytes;
    pthread_cond_broadcast(&data->brought);
    pthread_mutex_unlock(&data->lock);
    free(bring);
}

static void bring_let_go(struct py_socket_bring *bring)
{
    if (atomic_fetch_sub_explicit(&bring->pending, 1, memory_order_acq_rel) == 1) {
        bring_finish(bring);
    }
}

static void bring_done(void *ctx, int32_t status)
{
    struct bring_item *item = ctx;

    item->is_there = status == 0;
    bring_let_go(item->bring);
}

/* The next key of the question. @return 0; -EPROTO it is none. */
static int bring_key(const struct py_socket_conn *conn, size_t *at_io, struct kvl_key *key_out)
{
    struct py_socket_wish wish;
    int r;

    if (conn->frame.type == PY_SOCKET_LOOKUP) {
        return py_socket_key_decode(conn->table, conn->frame.table, at_io, key_out);
    }
    r = py_socket_wish_decode(conn->table, conn->frame.table, at_io, &wish);
    if (r == 0) {
        *key_out = wish.key;
    }
    return r;
}

int py_socket_bring(struct py_socket_conn *conn)
{
    const struct py_socket_serve_ops *serve = conn->channel->data->serve;
    const int is_lookup = conn->frame.type == PY_SOCKET_LOOKUP;
    struct py_socket_bring *bring = NULL;
    struct kvl_key key;
    size_t at = 0;

    for (uint32_t i = 0; serve->bring != NULL && i < conn->frame.count; i++) {
        if (bring_key(conn, &at, &key) < 0) {
            break; /* whoever answers says so */
        }
        if (serve->lookup(serve->ctx, &key) == 0) {
            continue;
        }
        if (bring == NULL && (bring = bring_create(conn)) == NULL) {
            return 0;
        }
        bring->items[i].bring = bring;
        atomic_fetch_add_explicit(&bring->pending, 1, memory_order_relaxed);
        if (serve->bring(serve->ctx, &key, is_lookup, bring_done, &bring->items[i]) < 0) {
            atomic_fetch_sub_explicit(&bring->pending, 1, memory_order_relaxed);
        }
    }
    if (bring == NULL) {
        return 0;
    }
    bring_let_go(bring);
    return 1;
}

void py_socket_brings_drop(struct kvl_channel *channel)
{
    struct py_socket_data *data = channel->data;
    struct py_socket_bring *bring;
    struct py_socket_conn *conn;

    pthread_mutex_lock(&data->lock);
    do {
        bring = data->brings;
        while (bring != NULL && bring->channel != channel) {
            bring = bring->next;
        }
        if (bring != NULL && bring->is_busy) {
            pthread_cond_wait(&data->brought, &data->lock);
        } else if (bring != NULL) {
            conn = bring->conn;
            bring->conn = NULL;
            bring->channel = NULL;
            pthread_mutex_unlock(&data->lock);
            py_socket_conn_release(conn);
            pthread_mutex_lock(&data->lock);
        }
    } while (bring != NULL);
    pthread_mutex_unlock(&data->lock);
}
