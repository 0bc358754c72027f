/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Peers of engines: LMCache's PySocketChannel over ZMQ, with a data plane of our own between kvlane
 * peers. Here is the life of an instance; channels are made and closed by the engine.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <kvlane/backend.h>

#include "py_socket_chunks.h"
#include "py_socket_counters.h"
#include "py_socket_data.h"
#include "py_socket_lookup.h"
#include "py_socket_move.h"
#include "py_socket_options.h"
#include "py_socket_seek.h"
#include "py_socket_zmq.h"
#include "setting.h"

#ifndef KVL_BUILD_ID
#define KVL_BUILD_ID "dev"
#endif

/* Chunks begin at multiples of this in the store. */
#define PY_SOCKET_PAGE 64u

struct py_socket {
    const struct kvl_host *host;
    struct py_socket_options options;
    struct py_socket_counters counters;
    struct py_socket_zmq *zmq; /* NULL unless started */
    struct py_socket_data data;
    struct py_socket_serve_ops serve;
    struct kvl_channel *channel; /* our own: chunks by key go over it */
    struct py_socket_seek *seek;
    struct py_socket_lookup *lookup;
    struct py_socket_move move;
    struct py_socket_chunks_ops move_ops;
    _Atomic int is_started;
};

static int py_socket_check(const struct kvl_host *host, struct kvl_err *err)
{
    struct py_socket_options options;
    int r = py_socket_options_read(host, &options, err);

    if (r == 0) {
        py_socket_options_fini(&options);
    }
    return r;
}

static int py_socket_create(const struct kvl_host *host, void **self_out, struct kvl_err *err)
{
    struct py_socket *self = calloc(1, sizeof(*self));
    int r;

    if (self == NULL) {
        return kvl_fail(err, -ENOMEM, "py_socket: no memory");
    }
    self->host = host;
    r = py_socket_options_read(host, &self->options, err);
    if (r < 0) {
        free(self);
        return r;
    }
    *self_out = self;
    return 0;
}

/* The channel behind lookup and read. Peers on this host map the store; its memory is also the
 * channel's buffer, so that chunks can be moved by page. */
static int start_chunks(struct py_socket *self, struct kvl_err *err)
{
    const struct kvl_store_export *store = &self->serve.store;
    struct kvl_channel_params params = {
        .size = sizeof(params),
        .role = KVL_CHANNEL_SENDER,
        .buffer = (void *)(uintptr_t)store->base,
        .buffer_bytes = store->fd >= 0 ? store->bytes : PY_SOCKET_PAGE,
        .align_bytes = PY_SOCKET_PAGE,
        .buffer_fd = store->fd,
        .peer_init_url = self->options.bind,
        .peer_lookup_url = py_socket_lookup_url(self->lookup),
    };
    struct py_socket_seek_config config = {
        .host = self->host,
        .options = &self->options,
    };
    int r = py_socket_channel_ops.open(self, &params, &self->channel, err);

    if (r < 0) {
        return r;
    }
    config.channel = self->channel;
    r = py_socket_seek_start(&config, &self->seek);
    return r < 0 ? kvl_fail(err, r, "cannot start a thread: %s", strerror(-r)) : 0;
}

/* The socket is bound before the channel tells peers where it is, and answers once there are peers
 * to tell apart. */
static int bind_lookup(struct py_socket *self, struct kvl_err *err)
{
    const struct py_socket_lookup_config config = {
        .host = self->host,
        .options = &self->options,
        .zmq = self->zmq,
        .counters = &self->counters,
        .bind = self->options.lookup_bind,
    };

    return py_socket_lookup_create(&config, &self->lookup, err);
}

static int start_lookup(struct py_socket *self, struct kvl_err *err)
{
    int r;

    self->move = (struct py_socket_move){
        .host = self->host,
        .channel = self->channel,
        .lookup = self->lookup,
        .base = self->serve.store.fd >= 0 ? self->serve.store.base : NULL,
        .page = PY_SOCKET_PAGE,
        .timeout_ms = self->options.handshake_timeout_ms,
    };
    py_socket_move_ops(&self->move, &self->move_ops);
    r = py_socket_lookup_start(self->lookup, py_socket_channel_peers(self->channel),
                               &self->move_ops);
    return r < 0 ? kvl_fail(err, r, "cannot start a thread: %s", strerror(-r)) : 0;
}

static int py_socket_start(void *arg, struct kvl_err *err)
{
    struct py_socket *self = arg;
    int r = py_socket_zmq_create(self->host, &self->options, &self->counters, &self->zmq, err);

    if (r < 0) {
        return r;
    }
    self->data.host = self->host;
    self->data.options = &self->options;
    self->data.zmq = self->zmq;
    self->data.counters = &self->counters;
    py_socket_chunks_serve(self->host, &self->serve);
    self->data.serve = &self->serve;
    r = py_socket_data_start(&self->data);
    if (r < 0) {
        return kvl_fail(err, r, "py_socket: cannot start its threads: %s", strerror(-r));
    }
    r = bind_lookup(self, err);
    if (r == 0) {
        r = start_chunks(self, err);
    }
    if (r == 0) {
        r = start_lookup(self, err);
    }
    if (r < 0) {
        return r;
    }
    atomic_store(&self->is_started, 1);
    return 0;
}

struct py_socket_data *py_socket_data_of(void *arg)
{
    struct py_socket *self = arg;

    return &self->data;
}

static void py_socket_stop(void *arg)
{
    struct py_socket *self = arg;

    atomic_store(&self->is_started, 0);
    if (self->lookup != NULL) {
        py_socket_lookup_stop(self->lookup);
    }
    py_socket_seek_stop(self->seek);
    py_socket_channel_ops.close(self->channel);
    py_socket_seek_destroy(self->seek);
    self->seek = NULL;
    self->channel = NULL;
    py_socket_data_stop(&self->data);
    py_socket_lookup_destroy(self->lookup);
    self->lookup = NULL;
    py_socket_zmq_destroy(self->zmq);
    self->zmq = NULL;
}

static void py_socket_destroy(void *arg)
{
    struct py_socket *self = arg;

    if (self == NULL) {
        return;
    }
    py_socket_stop(self);
    py_socket_options_fini(&self->options);
    free(self);
}

static int py_socket_reload(void *arg, struct kvl_err *err)
{
    struct py_socket *self = arg;
    struct py_socket_options fresh;
    int r = py_socket_options_read(self->host, &fresh, err);

    if (r == 0) {
        py_socket_seek_set_peers(self->seek, fresh.peers, fresh.peer_count);
        py_socket_options_fini(&fresh);
    }
    return r;
}

static void py_socket_quiesce(void *arg)
{
    struct py_socket *self = arg;

    py_socket_seek_quiesce(self->seek);
}

static int py_socket_lookup(void *arg, const struct kvl_batch *batch)
{
    struct py_socket *self = arg;

    return py_socket_seek_lookup(self->seek, batch);
}

static int py_socket_read(void *arg, const struct kvl_batch *batch)
{
    struct py_socket *self = arg;

    return py_socket_seek_read(self->seek, batch);
}

static int py_socket_push(void *arg, const char *peer_url, const struct kvl_key *keys,
                          uint32_t count, uint64_t deadline_ms, uint32_t *pushed_out)
{
    struct py_socket *self = arg;

    return py_socket_move_push(&self->move, peer_url, keys, count, deadline_ms, pushed_out);
}

static void py_socket_cancel(void *arg, uint64_t cookie)
{
    struct py_socket *self = arg;

    py_socket_seek_cancel(self->seek, cookie);
}

static void py_socket_get_limits(void *arg, struct kvl_limits *limits_out)
{
    (void)arg;
    limits_out->max_items = PY_SOCKET_KEYS_MAX;
    limits_out->latency_us = 100;
}

static void py_socket_get_health(void *arg, struct kvl_health *health_out)
{
    struct py_socket *self = arg;
    int n;

    if (!atomic_load(&self->is_started)) {
        health_out->state = KVL_HEALTH_DOWN;
        snprintf(health_out->text, sizeof(health_out->text), "not running");
        return;
    }
    n = snprintf(health_out->text, sizeof(health_out->text), "%llu channels, %llu peers; ",
                 (unsigned long long)py_socket_counted(&self->counters.channels_now),
                 (unsigned long long)py_socket_counted(&self->counters.peers_now));
    snprintf(health_out->address, sizeof(health_out->address), "%s",
             py_socket_channel_ops.url(self->channel));
    health_out->state = py_socket_data_health(&self->data, health_out->text + n,
                                              sizeof(health_out->text) - (size_t)n);
}

static void py_socket_get_stats(void *arg, kvl_stat_fn fn, void *ctx)
{
    struct py_socket *self = arg;

    py_socket_counters_tell(&self->counters, fn, ctx);
    if (atomic_load(&self->is_started)) {
        py_socket_data_stats(&self->data, fn, ctx);
        py_socket_seek_stats(self->seek, fn, ctx);
    }
}

static const struct kvl_backend_ops py_socket_ops = {
    .size = sizeof(struct kvl_backend_ops),
    .check = py_socket_check,
    .create = py_socket_create,
    .start = py_socket_start,
    .quiesce = py_socket_quiesce,
    .stop = py_socket_stop,
    .destroy = py_socket_destroy,
    .lookup = py_socket_lookup,
    .read = py_socket_read,
    .cancel = py_socket_cancel,
    .get_limits = py_socket_get_limits,
    .get_health = py_socket_get_health,
    .get_stats = py_socket_get_stats,
    .reload = py_socket_reload,
    .push = py_socket_push,
    .channels = &py_socket_channel_ops,
};

static const struct kvl_backend_desc py_socket_desc = {
    .magic = KVL_BACKEND_MAGIC,
    .size = sizeof(struct kvl_backend_desc),
    .abi_major = KVL_BACKEND_ABI_MAJOR,
    .abi_minor = KVL_BACKEND_ABI_MINOR,
    .caps = KVL_CAP_CHANNEL | KVL_CAP_READ | KVL_CAP_LOOKUP | KVL_CAP_CANCEL | KVL_CAP_DIRECT |
            KVL_CAP_SERVE | KVL_CAP_PUSH,
    .needs = KVL_NEED_STORE | KVL_NEED_EXPORT,
    .name = "py_socket",
    .version = "0.1.0",
    .build_id = KVL_BUILD_ID,
    .options = py_socket_option_table,
    .option_count = PY_SOCKET_OPTION_COUNT,
    .option_size = sizeof(struct kvl_option),
    .ops = &py_socket_ops,
};

KVL_EXPORT const struct kvl_backend_desc *kvlane_backend_v1(void)
{
    return &py_socket_desc;
}
