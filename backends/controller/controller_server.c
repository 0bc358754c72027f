/* SPDX-License-Identifier: Apache-2.0 */
#include "controller_server.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include <zmq.h>

#include "controller_bind.h"
#include "controller_role.h"

#define IO_THREADS 2
#define IO_PULL 0
#define IO_REPLY 1

struct controller_server {
    const struct kvl_host *host; /* borrowed */
    const struct controller_options *options; /* borrowed */
    void *zmq; /* context; sockets below belong to one thread each while it runs */
    void *pull;
    void *reply;
    void *heartbeat; /* NULL = none */
    int32_t pull_port;
    int32_t reply_port;
    int32_t heartbeat_port;
    atomic_int stopping;
    char address[200];
    struct controller_counts counts;
};

const struct kvl_host *controller_server_host(const struct controller_server *server)
{
    return server->host;
}

const struct controller_options *controller_server_options(const struct controller_server *server)
{
    return server->options;
}

int controller_server_stopping(const struct controller_server *server)
{
    return atomic_load(&server->stopping);
}

uint64_t controller_server_count(const struct controller_server *server,
                                 enum controller_count which)
{
    return controller_count_get(&server->counts, which);
}

/* ---- life ---- */

static int server_create(const struct kvl_host *host, const struct controller_options *options,
                         void **self_out, struct kvl_err *err)
{
    struct controller_server *server = calloc(1, sizeof(*server));

    if (server == NULL) {
        return controller_err(err, -ENOMEM, "controller: no memory");
    }
    server->host = host;
    server->options = options;
    *self_out = server;
    return 0;
}

static void server_close_socket(void **socket)
{
    if (*socket != NULL) {
        (void)zmq_close(*socket);
        *socket = NULL;
    }
}

static void server_stop(void *self)
{
    struct controller_server *server = self;

    atomic_store(&server->stopping, 1);
    if (server->zmq == NULL) {
        return;
    }
    (void)zmq_ctx_shutdown(server->zmq);
    server_close_socket(&server->pull);
    server_close_socket(&server->reply);
    server_close_socket(&server->heartbeat);
    (void)zmq_ctx_term(server->zmq);
    server->zmq = NULL;
}

static int server_open(struct controller_server *server, struct kvl_err *err)
{
    const struct controller_options *options = server->options;
    int r;

    server->zmq = zmq_ctx_new();
    if (server->zmq == NULL || zmq_ctx_set(server->zmq, ZMQ_IO_THREADS, IO_THREADS) != 0) {
        return controller_err(err, -ENOMEM, "controller: cannot make a ZMQ context");
    }
    r = controller_bind(server->zmq, options, ZMQ_PULL, options->pull_port, IO_PULL, &server->pull,
                        &server->pull_port, err);
    if (r == 0) {
        r = controller_bind(server->zmq, options, ZMQ_ROUTER, options->reply_port, IO_REPLY,
                            &server->reply, &server->reply_port, err);
    }
    if (r == 0 && options->heartbeat_port != 0) {
        r = controller_bind(server->zmq, options, ZMQ_ROUTER,
                            options->heartbeat_port < 0 ? 0 : options->heartbeat_port, IO_REPLY,
                            &server->heartbeat, &server->heartbeat_port, err);
    }
    return r;
}

static void server_print_address(struct controller_server *server)
{
    char host[160];
    int n;

    controller_bind_print(server->options->host, server->pull_port, host, sizeof(host));
    n = snprintf(server->address, sizeof(server->address), "pull %s reply %d", host,
                 server->reply_port);
    if (server->heartbeat != NULL && n > 0 && (size_t)n < sizeof(server->address)) {
        (void)snprintf(server->address + n, sizeof(server->address) - (size_t)n, " heartbeat %d",
                       server->heartbeat_port);
    }
}

static int server_start(void *self, struct kvl_err *err)
{
    struct controller_server *server = self;
    int r = server_open(server, err);

    if (r < 0) {
        server_stop(server);
        return r;
    }
    server_print_address(server);
    kvl_info(server->host->log, "controller: listening, %s", server->address);
    return 0;
}

static void server_quiesce(void *self)
{
    (void)self; /* workers are to be answered until the end: they wait for it */
}

static void server_destroy(void *self)
{
    free(self);
}

/* ---- watch ---- */

static void server_health(void *self, struct kvl_health *health_out)
{
    const struct controller_server *server = self;
    struct kvl_registry_stats stats = {.size = sizeof(stats)};

    server->host->registry_ops->stats(server->host->registry, &stats);
    health_out->state = KVL_HEALTH_OK; /* the core asks only while we run */
    (void)snprintf(health_out->address, sizeof(health_out->address), "%s", server->address);
    (void)snprintf(health_out->text, sizeof(health_out->text),
                   "%u workers of %u instances, %llu keys", stats.workers, stats.instances,
                   (unsigned long long)stats.keys);
}

static void server_stats(void *self, kvl_stat_fn fn, void *ctx)
{
    const struct controller_server *server = self;

    for (size_t i = 0; i < CONTROLLER_COUNTS; i++) {
        fn(ctx, controller_count_names[i], controller_count_get(&server->counts, i));
    }
}

const struct controller_role controller_role_controller = {
    .create = server_create,
    .start = server_start,
    .quiesce = server_quiesce,
    .stop = server_stop,
    .destroy = server_destroy,
    .get_health = server_health,
    .get_stats = server_stats,
};
