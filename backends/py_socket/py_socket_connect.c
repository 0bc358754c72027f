/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "py_socket_channel.h"

static const char *connect_id(const struct kvl_channel_peer *peer)
{
    return peer->peer_id != NULL ? peer->peer_id : peer->peer_init_url;
}

static int connect_check(const struct kvl_channel_peer *peer)
{
    return peer->size < sizeof(*peer) || peer->peer_init_url == NULL ? -EINVAL : 0;
}

static uint64_t connect_deadline(const struct kvl_channel *channel, uint64_t deadline_ms)
{
    return deadline_ms == 0 || deadline_ms == KVL_NEVER
               ? channel->host->now_ms(channel->host) + channel->options->handshake_timeout_ms
               : deadline_ms;
}

static struct py_socket_call connect_call(const struct kvl_channel_peer *peer, uint64_t deadline_ms)
{
    return (struct py_socket_call){
        .what = PY_SOCKET_CALL_INIT | (peer->with_side_message ? PY_SOCKET_CALL_SIDE : 0),
        .local_id = peer->local_id,
        .peer_id = peer->peer_id,
        .url = peer->peer_init_url,
        .deadline_ms = deadline_ms,
    };
}

/* The handshake is done: opens connections, which end the op. No lock. */
static void connect_data(struct kvl_channel *channel, uint64_t id, const char *peer_id)
{
    struct py_socket_peer *peer =
        py_socket_peers_find(py_socket_link_peers(channel->link), peer_id);
    struct kvl_sock_addr addr = {0};
    struct py_socket_lane *lane = NULL;
    struct py_socket_op *op;
    int r;

    if (peer != NULL && peer->version != 0) {
        py_socket_lane_resolve(peer, &addr);
    }
    pthread_mutex_lock(&channel->lock);
    op = py_socket_op_find(channel, id);
    if (op != NULL && op->state == PY_SOCKET_OP_RUNNING && !op->ending) {
        r = peer == NULL ? -ENOTCONN : 0;
        if (r == 0 && peer->version != 0) {
            lane = py_socket_lane_of(channel, peer);
            r = lane == NULL ? -ENOTCONN : 0;
        }
        if (lane != NULL) {
            lane->tcp = addr;
            r = py_socket_lane_dial(lane);
        }
        if (lane == NULL || r < 0 || lane->state == PY_SOCKET_LANE_OPEN) {
            py_socket_op_end(op, r); /* of a Python peer the handshake is all there is */
        } else {
            op->lane = lane;
            lane->refs++;
        }
    }
    py_socket_unlock(channel);
    py_socket_peer_release(peer);
}

struct py_socket_peers *py_socket_channel_peers(struct kvl_channel *channel)
{
    return py_socket_link_peers(channel->link);
}

/* ---- with an op ---- */

struct connect_ctx {
    struct kvl_channel *channel;
    uint64_t op;
    char peer_id[KVL_CHANNEL_URL_ROOM];
};

static void connect_called(void *arg, int status, const char *side_reply)
{
    struct connect_ctx *ctx = arg;
    struct kvl_channel *channel = ctx->channel;
    struct py_socket_op *op;

    pthread_mutex_lock(&channel->lock);
    op = py_socket_op_find(channel, ctx->op);
    if (op != NULL && op->state == PY_SOCKET_OP_RUNNING) {
        op->call = 0;
        if (status < 0) {
            py_socket_op_end(op, status);
        } else if (op->peer != NULL) {
            snprintf(op->peer->side_reply, sizeof(op->peer->side_reply), "%s", side_reply);
        }
    }
    py_socket_unlock(channel);
    if (status == 0) {
        connect_data(channel, ctx->op, ctx->peer_id);
    }
    free(ctx);
}

static int connect_op(struct kvl_channel *channel, struct kvl_channel_peer *peer,
                      uint64_t deadline_ms, py_socket_connected_fn fn, void *fn_ctx,
                      uint64_t *op_out)
{
    struct py_socket_op *op;
    int r;

    pthread_mutex_lock(&channel->lock);
    r = channel->closing ? -ECANCELED
                         : py_socket_op_create(channel, PY_SOCKET_OP_CONNECT, NULL, &op);
    if (r == 0) {
        op->deadline_ms = deadline_ms;
        op->peer = peer;
        op->connected = fn;
        op->connected_ctx = fn_ctx;
        op->call = 0;
        *op_out = op->id;
        py_socket_timer_at(&channel->timer, deadline_ms);
    }
    pthread_mutex_unlock(&channel->lock);
    return r;
}

static void connect_undo(struct kvl_channel *channel, uint64_t id)
{
    struct py_socket_op *op;

    pthread_mutex_lock(&channel->lock);
    op = py_socket_op_find(channel, id);
    if (op != NULL) {
        py_socket_op_undo(op);
    }
    pthread_mutex_unlock(&channel->lock);
}

static int connect_async(struct kvl_channel *channel, struct kvl_channel_peer *peer,
                         uint64_t deadline_ms, uint64_t *op_out)
{
    const struct py_socket_call call = connect_call(peer, deadline_ms);
    struct connect_ctx *ctx = malloc(sizeof(*ctx));
    char reply[KVL_CHANNEL_URL_ROOM];
    struct py_socket_op *op;
    uint64_t number = 0;
    uint64_t id = 0;
    int r;

    if (ctx == NULL) {
        return -ENOMEM;
    }
    r = connect_op(channel, peer, deadline_ms, NULL, NULL, &id);
    if (r < 0) {
        free(ctx);
        return r;
    }
    ctx->channel = channel;
    ctx->op = id;
    snprintf(ctx->peer_id, sizeof(ctx->peer_id), "%s", connect_id(peer));
    r = py_socket_link_call(channel->link, &call, connect_called, ctx, &number, reply);
    if (r == -EALREADY) {
        free(ctx);
        snprintf(peer->side_reply, sizeof(peer->side_reply), "%s", reply);
        connect_data(channel, id, connect_id(peer));
    } else if (r < 0) {
        free(ctx);
        connect_undo(channel, id);
        return r;
    } else {
        pthread_mutex_lock(&channel->lock);
        op = py_socket_op_find(channel, id);
        if (op != NULL && op->state == PY_SOCKET_OP_RUNNING && op->lane == NULL) {
            op->call = number;
        }
        pthread_mutex_unlock(&channel->lock);
    }
    *op_out = id;
    return 0;
}

int py_socket_connect_call(struct kvl_channel *channel, const char *url, uint64_t deadline_ms,
                           py_socket_connected_fn fn, void *fn_ctx)
{
    struct py_socket_call call = {.what = PY_SOCKET_CALL_INIT, .url = url};
    struct connect_ctx *ctx = malloc(sizeof(*ctx));
    int r;

    if (ctx == NULL) {
        return -ENOMEM;
    }
    call.deadline_ms = connect_deadline(channel, deadline_ms);
    ctx->channel = channel;
    snprintf(ctx->peer_id, sizeof(ctx->peer_id), "%s", url);
    r = connect_op(channel, NULL, call.deadline_ms, fn, fn_ctx, &ctx->op);
    if (r < 0) {
        free(ctx);
        return r;
    }
    r = py_socket_link_call(channel->link, &call, connect_called, ctx, NULL, NULL);
    if (r != 0) {
        connect_called(ctx, r == -EALREADY ? 0 : r, "");
    }
    return 0;
}

/* ---- the slots ---- */

int py_socket_channel_connect(struct kvl_channel *channel, struct kvl_channel_peer *peer,
                              uint64_t deadline_ms, uint64_t *op_out)
{
    struct py_socket_call call;
    uint64_t id = 0;
    int r = connect_check(peer);

    if (py_socket_data_is_child(channel->data)) {
        return -ECHILD;
    }
    if (r < 0) {
        return r;
    }
    deadline_ms = connect_deadline(channel, deadline_ms);
    if (op_out != NULL) {
        return connect_async(channel, peer, deadline_ms, op_out);
    }
    call = connect_call(peer, deadline_ms);
    r = py_socket_link_call_wait(channel->link, &call, peer->side_reply);
    if (r < 0) {
        return r;
    }
    r = connect_op(channel, peer, deadline_ms, NULL, NULL, &id);
    if (r < 0) {
        return r;
    }
    connect_data(channel, id, connect_id(peer));
    return py_socket_channel_wait(channel, id, KVL_NEVER, NULL);
}

int py_socket_channel_is_connected(struct kvl_channel *channel, const char *peer_id)
{
    struct py_socket_peer *peer;
    struct py_socket_lane *lane;
    int is_connected;

    if (py_socket_data_is_child(channel->data)) {
        return -ECHILD;
    }
    peer = py_socket_peers_find(py_socket_link_peers(channel->link), peer_id);
    if (peer == NULL) {
        return 0;
    }
    pthread_mutex_lock(&channel->lock);
    lane = atomic_load(&peer->data);
    is_connected = lane != NULL && lane->state == PY_SOCKET_LANE_OPEN;
    pthread_mutex_unlock(&channel->lock);
    py_socket_peer_release(peer);
    return is_connected;
}

int py_socket_channel_side(struct kvl_channel *channel, struct kvl_channel_peer *peer,
                           uint64_t deadline_ms)
{
    struct py_socket_call call;
    int r = connect_check(peer);

    if (py_socket_data_is_child(channel->data)) {
        return -ECHILD;
    }
    if (r < 0) {
        return r;
    }
    call = connect_call(peer, connect_deadline(channel, deadline_ms));
    call.what = PY_SOCKET_CALL_SIDE;
    return py_socket_link_call_wait(channel->link, &call, peer->side_reply);
}
