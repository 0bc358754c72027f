/* SPDX-License-Identifier: Apache-2.0 */
#include "controller_server.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <zmq.h>

#include "cond.h"
#include "controller_http.h"
#include "controller_role.h"
#include "controller_state.h"
#include "setting.h"

#define IO_THREADS 2
#define IO_PULL 0
#define IO_REPLY 1
/* One for each worker of an instance that gets an order, besides our own. */
#define SOCKETS_MAX 16384

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

static void server_destroy(void *self)
{
    struct controller_server *server = self;

    if (server == NULL) {
        return;
    }
    controller_handle_fini(&server->events);
    controller_handle_fini(&server->requests);
    controller_buf_fini(&server->answer);
    controller_asks_fini(&server->asks);
    controller_standby_destroy(server->standby);
    controller_replica_destroy(server->replica);
    controller_http_destroy(server->http);
    pthread_cond_destroy(&server->wake);
    pthread_mutex_destroy(&server->lock);
    free(server);
}

static int server_init(struct controller_server *server)
{
    int r = controller_asks_init(&server->asks);

    if (r < 0) {
        return r;
    }
    (void)kvl_monotonic_cond_init(&server->wake);
    (void)pthread_mutex_init(&server->lock, NULL);
    r = controller_handle_init(&server->events, server->host, server->options, &server->counts);
    if (r == 0) {
        r = controller_handle_init(&server->requests, server->host, server->options,
                                   &server->counts);
    }
    if (r == 0 && server->options->replica_port != 0) {
        r = controller_replica_create(server->host, server->options, &server->counts,
                                      &server->replica);
        server->events.replica = server->replica;
        server->requests.replica = server->replica;
    }
    if (r == 0 && server->options->standby_of[0] != '\0') {
        r = controller_standby_create(server->host, server->options, &server->counts,
                                      server->replica, &server->standby);
    }
    if (r == 0 && server->options->http) {
        r = controller_http_create(server, &server->http);
    }
    if (r < 0) {
        server_destroy(server);
        return r;
    }
    return 0;
}

static int server_create(const struct kvl_host *host, const struct controller_options *options,
                         void **self_out, struct kvl_err *err)
{
    struct controller_server *server = calloc(1, sizeof(*server));
    int r;

    if (server == NULL) {
        return kvl_fail(err, -ENOMEM, "controller: no memory");
    }
    server->host = host;
    server->options = options;
    if ((options->snapshot[0] != '\0' || options->replica_port != 0 ||
         options->standby_of[0] != '\0') &&
        !(KVL_HAS_OP(host->registry_ops, save) && KVL_HAS_OP(host->registry_ops, load))) {
        free(server);
        return kvl_fail(err, -ENODEV, "controller: this libkvlane.so writes no snapshots");
    }
    r = server_init(server);
    if (r < 0) {
        return kvl_fail(err, r, "controller: no memory");
    }
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

    pthread_mutex_lock(&server->lock);
    atomic_store(&server->stopping, 1);
    pthread_cond_broadcast(&server->wake);
    pthread_mutex_unlock(&server->lock);
    controller_asks_stop(&server->asks);
    if (server->zmq == NULL) {
        return;
    }
    (void)zmq_ctx_shutdown(server->zmq); /* ends every wait on a socket */
    if (server->http != NULL) {
        controller_http_stop(server->http);
    }
    for (uint32_t i = 0; i < server->thread_count; i++) {
        (void)server->host->thread_join(server->host, server->threads[i]);
    }
    if (server->standby != NULL) {
        controller_standby_stop(server->standby);
    }
    if (server->replica != NULL) {
        controller_replica_stop(server->replica);
    }
    controller_asks_wait(&server->asks);
    server_close_socket(&server->pull);
    server_close_socket(&server->reply);
    server_close_socket(&server->heartbeat);
    (void)zmq_ctx_term(server->zmq);
    server->zmq = NULL;
    if (server->thread_count == CONTROLLER_THREADS_MAX) { /* it did run */
        controller_upkeep_save(server);
    }
    server->thread_count = 0;
}

static int server_open(struct controller_server *server, struct kvl_err *err)
{
    const struct controller_options *options = server->options;
    int r;

    server->zmq = zmq_ctx_new();
    if (server->zmq == NULL || zmq_ctx_set(server->zmq, ZMQ_IO_THREADS, IO_THREADS) != 0 ||
        zmq_ctx_set(server->zmq, ZMQ_MAX_SOCKETS, SOCKETS_MAX) != 0) {
        return kvl_fail(err, -ENOMEM, "controller: cannot make a ZMQ context");
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
    if (r == 0 && server->replica != NULL) {
        r = controller_replica_open(server->replica, server->zmq, &server->replica_port, err);
    }
    server->requests.heartbeat_port = server->heartbeat_port;
    return r;
}

static int server_run(struct controller_server *server, struct kvl_err *err)
{
    static const struct {
        const char *name;
        void *(*run)(void *);
    } threads[CONTROLLER_THREADS_MAX] = {
        {"kvl-ctl-pull", controller_loop_pull},
        {"kvl-ctl-reply", controller_loop_reply},
        {"kvl-ctl-timer", controller_upkeep_run},
    };

    int r = server->replica != NULL ? controller_replica_start(server->replica, err) : 0;

    if (r == 0 && server->standby != NULL) {
        r = controller_standby_start(server->standby, server->zmq, err);
    }
    if (r < 0) {
        return r;
    }
    for (uint32_t i = 0; i < CONTROLLER_THREADS_MAX; i++) {
        r = server->host->thread_create(server->host, threads[i].name, threads[i].run, server,
                                        &server->threads[i]);

        if (r < 0) {
            return kvl_fail(err, r, "controller: cannot start a thread: %s", strerror(-r));
        }
        server->thread_count++;
    }
    return 0;
}

static void server_add_address(struct controller_server *server, const char *name, int32_t port)
{
    const size_t used = strlen(server->address);

    (void)snprintf(server->address + used, sizeof(server->address) - used, " %s %d", name, port);
}

static void server_print_address(struct controller_server *server)
{
    char host[160];

    controller_bind_print(server->options->host, server->pull_port, host, sizeof(host));
    (void)snprintf(server->address, sizeof(server->address), "pull %s", host);
    server_add_address(server, "reply", server->reply_port);
    if (server->heartbeat != NULL) {
        server_add_address(server, "heartbeat", server->heartbeat_port);
    }
    if (server->replica != NULL) {
        server_add_address(server, "replica", server->replica_port);
    }
}

static void server_add_http_address(struct controller_server *server)
{
    size_t used = strlen(server->address);

    if (controller_http_address(server->http)[0] != '\0') {
        (void)snprintf(server->address + used, sizeof(server->address) - used, " http %s",
                       controller_http_address(server->http));
    }
}

static int server_start(void *self, struct kvl_err *err)
{
    struct controller_server *server = self;
    int r = server_open(server, err);

    if (r == 0) {
        controller_upkeep_load(server); /* before the first message is taken off a socket */
        server_print_address(server);
        r = server_run(server, err);
    }
    if (r == 0 && server->http != NULL) {
        r = controller_http_start(server->http, err);
        server_add_http_address(server);
    }
    if (r < 0) {
        server_stop(server);
        return r;
    }
    kvl_info(server->host->log, "controller: listening, %s", server->address);
    return 0;
}

static void server_quiesce(void *self)
{
    (void)self; /* workers are to be answered until the end: they wait for it */
}

/* ---- watch ---- */

static void server_add_text(struct kvl_health *health, const char *text)
{
    const size_t used = strlen(health->text);

    (void)snprintf(health->text + used, sizeof(health->text) - used, "; %s", text);
}

static void server_replica_health(const struct controller_server *server,
                                  struct kvl_health *health_out)
{
    struct controller_replica_view view;
    char text[400];

    if (server->standby != NULL) {
        controller_standby_print(server->standby, text, sizeof(text));
        server_add_text(health_out, text);
    }
    if (server->replica != NULL && !controller_standby_is_passive(server->standby)) {
        controller_replica_look(server->replica, &view);
        (void)snprintf(text, sizeof(text), "%u standbys follow, %u begin, %llu records behind",
                       view.standbys, view.beginning, (unsigned long long)view.behind);
        server_add_text(health_out, text);
    }
}

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
    server_replica_health(server, health_out);
}

static void server_stats(void *self, kvl_stat_fn fn, void *ctx)
{
    const struct controller_server *server = self;

    for (size_t i = 0; i < CONTROLLER_COUNTS; i++) {
        fn(ctx, controller_count_names[i],
           controller_count_get(&server->counts, (enum controller_count)i));
    }
    if (server->http != NULL) {
        controller_http_stats(server->http, fn, ctx);
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
