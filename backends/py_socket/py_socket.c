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

#include "py_socket_counters.h"
#include "py_socket_data.h"
#include "py_socket_options.h"
#include "py_socket_zmq.h"

#ifndef KVL_BUILD_ID
#define KVL_BUILD_ID "dev"
#endif

struct py_socket {
    const struct kvl_host *host;
    struct py_socket_options options;
    struct py_socket_counters counters;
    struct py_socket_zmq *zmq; /* NULL unless started */
    struct py_socket_data data;
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
        return py_socket_err(err, -ENOMEM, "py_socket: no memory");
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
    r = py_socket_data_start(&self->data);
    if (r < 0) {
        return py_socket_err(err, r, "py_socket: cannot start its threads: %s", strerror(-r));
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
    py_socket_data_stop(&self->data);
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
    health_out->state = py_socket_data_health(&self->data, health_out->text + n,
                                              sizeof(health_out->text) - (size_t)n);
}

static void py_socket_get_stats(void *arg, kvl_stat_fn fn, void *ctx)
{
    struct py_socket *self = arg;

    py_socket_counters_tell(&self->counters, fn, ctx);
    if (atomic_load(&self->is_started)) {
        py_socket_data_stats(&self->data, fn, ctx);
    }
}

static const struct kvl_backend_ops py_socket_ops = {
    .size = sizeof(struct kvl_backend_ops),
    .check = py_socket_check,
    .create = py_socket_create,
    .start = py_socket_start,
    .stop = py_socket_stop,
    .destroy = py_socket_destroy,
    .get_health = py_socket_get_health,
    .get_stats = py_socket_get_stats,
    .channels = &py_socket_channel_ops,
};

static const struct kvl_backend_desc py_socket_desc = {
    .magic = KVL_BACKEND_MAGIC,
    .size = sizeof(struct kvl_backend_desc),
    .abi_major = KVL_BACKEND_ABI_MAJOR,
    .abi_minor = KVL_BACKEND_ABI_MINOR,
    .caps = KVL_CAP_CHANNEL,
    .needs = 0,
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
