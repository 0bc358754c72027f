/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The remote store of LMCache, lm://, in two roles: a client that keeps chunks at a peer, and a
 * server that lends the local store to peers. An instance is one of them.
 */
#include <errno.h>
#include <stdlib.h>

#include <kvlane/backend.h>

#include "setting.h"
#include "tcp_remote_lanes.h"
#include "tcp_remote_server.h"

#ifndef KVL_BUILD_ID
#define KVL_BUILD_ID "dev"
#endif

struct kvl_backend {
    struct tcp_remote_lanes *client; /* one of the two, owned */
    struct tcp_remote_server *server;
};

static int tcp_remote_check(const struct kvl_host *host, struct kvl_err *err)
{
    struct tcp_remote_options options;

    return tcp_remote_options_read(host, &options, err);
}

static int tcp_remote_create(const struct kvl_host *host, void **self_out, struct kvl_err *err)
{
    struct tcp_remote_options options;
    struct kvl_backend *self;
    int r = tcp_remote_options_read(host, &options, err);

    if (r < 0) {
        return r;
    }
    self = calloc(1, sizeof(*self));
    r = self == NULL ? -ENOMEM : 0;
    if (r == 0 && options.role == TCP_REMOTE_SERVER) {
        r = tcp_remote_server_create(host, &options, &self->server);
    } else if (r == 0) {
        r = tcp_remote_lanes_create(host, &options, &self->client);
    }
    if (r < 0) {
        free(self);
        return kvl_fail(err, r, "tcp_remote: no memory");
    }
    *self_out = self;
    return 0;
}

static int tcp_remote_start(void *self, struct kvl_err *err)
{
    struct kvl_backend *backend = self;

    return backend->server != NULL ? tcp_remote_server_start(backend->server, err)
                                   : tcp_remote_lanes_start(backend->client, err);
}

static void tcp_remote_quiesce(void *self)
{
    struct kvl_backend *backend = self;

    if (backend->server != NULL) {
        tcp_remote_server_quiesce(backend->server);
    } else {
        tcp_remote_lanes_quiesce(backend->client);
    }
}

static int tcp_remote_drain(void *self, uint64_t deadline_ms)
{
    struct kvl_backend *backend = self;

    return backend->server != NULL ? tcp_remote_server_drain(backend->server, deadline_ms)
                                   : tcp_remote_lanes_drain(backend->client, deadline_ms);
}

static void tcp_remote_stop(void *self)
{
    struct kvl_backend *backend = self;

    if (backend->server != NULL) {
        tcp_remote_server_stop(backend->server);
    } else {
        tcp_remote_lanes_stop(backend->client);
    }
}

static void tcp_remote_destroy(void *self)
{
    struct kvl_backend *backend = self;

    if (backend == NULL) {
        return;
    }
    tcp_remote_server_destroy(backend->server);
    tcp_remote_lanes_destroy(backend->client);
    free(backend);
}

static int tcp_remote_submit(void *self, enum tcp_remote_kind kind, const struct kvl_batch *batch)
{
    struct kvl_backend *backend = self;

    return backend->client == NULL ? -ENOTSUP
                                   : tcp_remote_lanes_submit(backend->client, kind, batch);
}

static int tcp_remote_lookup(void *self, const struct kvl_batch *batch)
{
    return tcp_remote_submit(self, TCP_REMOTE_LOOKUP, batch);
}

static int tcp_remote_read(void *self, const struct kvl_batch *batch)
{
    return tcp_remote_submit(self, TCP_REMOTE_READ, batch);
}

static int tcp_remote_write(void *self, const struct kvl_batch *batch)
{
    return tcp_remote_submit(self, TCP_REMOTE_WRITE, batch);
}

static int tcp_remote_single(void *self, enum tcp_remote_kind kind, uint64_t cookie,
                             uint64_t deadline_ms)
{
    struct kvl_backend *backend = self;

    if (backend->client == NULL) {
        return -ENOTSUP;
    }
    return tcp_remote_lanes_submit_single(backend->client, kind, cookie, deadline_ms);
}

static int tcp_remote_list(void *self, uint64_t cookie, uint64_t deadline_ms)
{
    return tcp_remote_single(self, TCP_REMOTE_KEYS, cookie, deadline_ms);
}

static int tcp_remote_probe(void *self, uint64_t cookie, uint64_t deadline_ms)
{
    return tcp_remote_single(self, TCP_REMOTE_PROBE, cookie, deadline_ms);
}

static void tcp_remote_cancel(void *self, uint64_t cookie)
{
    struct kvl_backend *backend = self;

    if (backend->client != NULL) {
        tcp_remote_lanes_cancel(backend->client, cookie);
    }
}

static void tcp_remote_get_limits(void *self, struct kvl_limits *limits_out)
{
    struct kvl_backend *backend = self;

    if (backend->client != NULL) {
        tcp_remote_lanes_limits(backend->client, limits_out);
    } else {
        limits_out->caps = KVL_CAP_SERVE;
    }
}

static void tcp_remote_get_health(void *self, struct kvl_health *health_out)
{
    struct kvl_backend *backend = self;

    if (backend->server != NULL) {
        tcp_remote_server_health(backend->server, health_out);
    } else {
        tcp_remote_lanes_health(backend->client, health_out);
    }
}

static void tcp_remote_get_stats(void *self, kvl_stat_fn fn, void *ctx)
{
    struct kvl_backend *backend = self;

    if (backend->server != NULL) {
        tcp_remote_server_stats(backend->server, fn, ctx);
    } else {
        tcp_remote_lanes_stats(backend->client, fn, ctx);
    }
}

static int tcp_remote_reload(void *self, struct kvl_err *err)
{
    struct kvl_backend *backend = self;

    return backend->server != NULL ? tcp_remote_server_reload(backend->server, err)
                                   : tcp_remote_lanes_reload(backend->client, err);
}

static const struct kvl_backend_ops tcp_remote_ops = {
    .size = sizeof(struct kvl_backend_ops),
    .check = tcp_remote_check,
    .create = tcp_remote_create,
    .start = tcp_remote_start,
    .quiesce = tcp_remote_quiesce,
    .drain = tcp_remote_drain,
    .stop = tcp_remote_stop,
    .destroy = tcp_remote_destroy,
    .lookup = tcp_remote_lookup,
    .read = tcp_remote_read,
    .write = tcp_remote_write,
    /* .remove absent: the wire has no such command */
    .list = tcp_remote_list,
    .probe = tcp_remote_probe,
    .cancel = tcp_remote_cancel,
    .get_limits = tcp_remote_get_limits,
    .get_health = tcp_remote_get_health,
    .get_stats = tcp_remote_get_stats,
    .reload = tcp_remote_reload,
};

static const struct kvl_backend_desc tcp_remote_desc = {
    .magic = KVL_BACKEND_MAGIC,
    .size = sizeof(struct kvl_backend_desc),
    .abi_major = KVL_BACKEND_ABI_MAJOR,
    .abi_minor = KVL_BACKEND_ABI_MINOR,
    .caps = KVL_CAP_READ | KVL_CAP_WRITE | KVL_CAP_LOOKUP | KVL_CAP_LIST | KVL_CAP_PROBE |
            KVL_CAP_CANCEL | KVL_CAP_SERVE,
    .needs = KVL_NEED_STORE,
    .name = "tcp_remote",
    .version = "0.1.0",
    .build_id = KVL_BUILD_ID,
    .options = tcp_remote_option_table,
    .option_count = TCP_REMOTE_OPTION_COUNT,
    .option_size = sizeof(struct kvl_option),
    .ops = &tcp_remote_ops,
};

KVL_EXPORT const struct kvl_backend_desc *kvlane_backend_v1(void)
{
    return &tcp_remote_desc;
}
