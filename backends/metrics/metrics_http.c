/* SPDX-License-Identifier: Apache-2.0 */
#include "metrics_http.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <microhttpd.h>

#include "metrics_page.h"
#include "setting.h"

#define BACKLOG 64
/* Headers of one request. */
#define CONNECTION_MEMORY ((size_t)16 * 1024)
#define LOOK_MS 100u
/* The library's own limit counts idle seconds only; the one that counts is in http_cut_late. */
#define LIBRARY_TIMEOUT_S(ms) ((unsigned)((ms) / 1000 + 2))

enum http_counter { HTTP_REQUESTS, HTTP_SCRAPES, HTTP_REFUSED, HTTP_CUT, HTTP_COUNTERS };

struct http_conn {
    int fd; /* -1 = free; the library's */
    uint64_t since_ms; /* it came, or its last reply was done */
};

struct metrics_http {
    const struct kvl_host *host; /* borrowed */
    struct metrics_options options;
    int listen_fd;
    int wake_fd;
    struct MHD_Daemon *daemon; /* the thread's own once that runs */
    uint64_t thread;
    bool running;
    char address[KVL_SOCK_TEXT_MAX + 8];
    struct http_conn conns[METRICS_CONNECTIONS_MAX]; /* the thread's own */
    atomic_bool stopping;
    atomic_bool quiesced;
    _Atomic uint64_t connections;
    _Atomic uint64_t counters[HTTP_COUNTERS];
};

int metrics_http_create(const struct kvl_host *host, const struct metrics_options *options,
                        struct metrics_http **http_out)
{
    struct metrics_http *http = calloc(1, sizeof(*http));

    if (http == NULL) {
        return -ENOMEM;
    }
    http->host = host;
    http->options = *options;
    http->listen_fd = -1;
    http->wake_fd = -1;
    for (size_t i = 0; i < METRICS_CONNECTIONS_MAX; i++) {
        http->conns[i].fd = -1;
    }
    *http_out = http;
    return 0;
}

/* ---- requests ---- */

static void http_count(struct metrics_http *http, enum http_counter counter)
{
    atomic_fetch_add_explicit(&http->counters[counter], 1, memory_order_relaxed);
}

static enum MHD_Result http_reply(struct MHD_Connection *connection, unsigned status,
                                  const char *type, struct metrics_text *take_text)
{
    struct MHD_Response *response;
    enum MHD_Result r;

    if (status == 500 || take_text->at == NULL) {
        metrics_text_fini(take_text);
        metrics_text_add(take_text, "no memory\n");
        type = "text/plain";
    }
    response =
        MHD_create_response_from_buffer(take_text->used, take_text->at, MHD_RESPMEM_MUST_FREE);
    if (response == NULL) {
        metrics_text_fini(take_text);
        return MHD_NO;
    }
    (void)MHD_add_response_header(response, "Content-Type", type);
    (void)MHD_add_response_header(response, "Cache-Control", "no-store");
    (void)MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
    if (status == MHD_HTTP_METHOD_NOT_ALLOWED) {
        (void)MHD_add_response_header(response, "Allow", "GET, HEAD");
    }
    r = MHD_queue_response(connection, status, response);
    MHD_destroy_response(response);
    return r;
}

static enum MHD_Result http_request(void *cls, struct MHD_Connection *connection, const char *url,
                                    const char *method, const char *version, const char *upload,
                                    size_t *upload_size, void **request_ctx)
{
    struct metrics_http *http = cls;
    const struct metrics_view view = {
        .host = http->host,
        .prefix = http->options.prefix,
        .needs = http->options.needs,
        .stopping = atomic_load(&http->quiesced),
    };
    const bool is_read = strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0;
    const char *type = "text/plain; charset=utf-8";
    struct metrics_text text = {0};
    unsigned status;

    (void)version;
    (void)upload;
    /* Called first when the header is there. An answer at that point ends the connection, which is
     * right for those who want to send us something and for nobody else. */
    if (is_read && (*request_ctx == NULL || *upload_size > 0)) {
        *request_ctx = http;
        *upload_size = 0;
        return MHD_YES;
    }
    http_count(http, HTTP_REQUESTS);
    if (!is_read) {
        http_count(http, HTTP_REFUSED);
        status = MHD_HTTP_METHOD_NOT_ALLOWED;
        metrics_text_add(&text, "only GET and HEAD\n");
    } else if (strcmp(url, "/metrics") == 0) {
        http_count(http, HTTP_SCRAPES);
        type = "text/plain; version=0.0.4; charset=utf-8";
        status = metrics_page_metrics(&view, &text);
    } else if (strcmp(url, "/health") == 0) {
        type = "application/json";
        status = metrics_page_health(&view, &text);
    } else if (strcmp(url, "/") == 0) {
        status = metrics_page_index(&view, &text);
    } else {
        http_count(http, HTTP_REFUSED);
        status = MHD_HTTP_NOT_FOUND;
        metrics_text_add(&text, "there is /metrics and /health\n");
    }
    return http_reply(connection, status, type, &text);
}

/* ---- connections ---- */

static void http_notify(void *cls, struct MHD_Connection *connection, void **socket_ctx,
                        enum MHD_ConnectionNotificationCode code)
{
    struct metrics_http *http = cls;
    const union MHD_ConnectionInfo *info;
    struct http_conn *conn = *socket_ctx;

    if (code == MHD_CONNECTION_NOTIFY_CLOSED) {
        if (conn != NULL) {
            conn->fd = -1;
            atomic_fetch_sub(&http->connections, 1);
        }
        *socket_ctx = NULL;
        return;
    }
    info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    for (size_t i = 0; info != NULL && i < METRICS_CONNECTIONS_MAX; i++) {
        if (http->conns[i].fd < 0) {
            http->conns[i].fd = info->connect_fd;
            http->conns[i].since_ms = http->host->now_ms(http->host);
            atomic_fetch_add(&http->connections, 1);
            *socket_ctx = &http->conns[i];
            return;
        }
    }
}

static void http_completed(void *cls, struct MHD_Connection *connection, void **request_ctx,
                           enum MHD_RequestTerminationCode code)
{
    struct metrics_http *http = cls;
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    struct http_conn *conn = info != NULL ? info->socket_context : NULL;

    (void)request_ctx;
    (void)code;
    if (conn != NULL) {
        conn->since_ms = http->host->now_ms(http->host);
    }
}

/* A peer that sends a byte now and then is never idle, so that the library would keep it. */
static void http_cut_late(struct metrics_http *http)
{
    uint64_t now = http->host->now_ms(http->host);

    for (size_t i = 0; i < METRICS_CONNECTIONS_MAX; i++) {
        struct http_conn *conn = &http->conns[i];

        if (conn->fd >= 0 && now - conn->since_ms >= http->options.timeout_ms) {
            http_count(http, HTTP_CUT);
            conn->since_ms = now;
            (void)shutdown(conn->fd, SHUT_RDWR); /* the library meets the end and closes it */
        }
    }
}

/* ---- the thread ---- */

static int http_timeout(struct metrics_http *http)
{
    MHD_UNSIGNED_LONG_LONG library;
    uint64_t timeout = atomic_load(&http->connections) > 0 ? LOOK_MS : UINT64_MAX;

    if (MHD_get_timeout(http->daemon, &library) == MHD_YES && library < timeout) {
        timeout = library;
    }
    return timeout == UINT64_MAX ? -1 : (int)(timeout < 60000 ? timeout : 60000);
}

/* At its limit the library looks away from the listener, and back to it only when it runs again. */
static void http_run(struct metrics_http *http)
{
    uint64_t before;

    do {
        before = atomic_load(&http->connections);
        (void)MHD_run(http->daemon);
    } while (atomic_load(&http->connections) < before);
}

static void *http_main(void *arg)
{
    struct metrics_http *http = arg;
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(http->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    struct pollfd fds[2] = {
        {.fd = info != NULL ? info->epoll_fd : -1, .events = POLLIN},
        {.fd = http->wake_fd, .events = POLLIN},
    };

    while (!atomic_load(&http->stopping)) {
        if (poll(fds, 2, http_timeout(http)) < 0 && errno != EINTR) {
            break;
        }
        http_run(http);
        http_cut_late(http);
    }
    return NULL;
}

/* ---- life ---- */

static int http_listen(struct metrics_http *http, struct kvl_err *err)
{
    struct kvl_sock_addr addr;
    char text[KVL_SOCK_TEXT_MAX];
    size_t count = 0;
    int r = kvl_sock_resolve(&http->options.listen, 1, &addr, 1, &count);

    if (r < 0 || count == 0) {
        return kvl_fail(err, r < 0 ? r : -EHOSTUNREACH, "metrics: cannot resolve listen host '%s'",
                        http->options.listen.host);
    }
    kvl_sock_print(&addr, text, sizeof(text));
    if (!kvl_sock_is_loopback(&addr) && !http->options.allow_remote) {
        return kvl_fail(err, -EACCES,
                        "metrics: listen address '%s' is open to other hosts and nobody is "
                        "asked for a password: use a loopback address or set allow_remote = yes",
                        text);
    }
    r = kvl_sock_listen(&addr, BACKLOG, &http->listen_fd);
    if (r < 0) {
        return kvl_fail(err, r, "metrics: cannot listen on '%s': %s", text, strerror(-r));
    }
    (void)kvl_sock_local(http->listen_fd, &addr);
    kvl_sock_print(&addr, text, sizeof(text));
    (void)snprintf(http->address, sizeof(http->address), "http://%s", text);
    return 0;
}

/* The library opens no thread of its own: ours has the signals blocked, and is the only one to
 * touch what is behind the daemon. */
static int http_start_daemon(struct metrics_http *http, struct kvl_err *err)
{
    http->daemon = MHD_start_daemon(
        MHD_USE_EPOLL, 0, NULL, NULL, http_request, http, MHD_OPTION_LISTEN_SOCKET, http->listen_fd,
        MHD_OPTION_CONNECTION_LIMIT, http->options.max_connections,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, CONNECTION_MEMORY, MHD_OPTION_CONNECTION_TIMEOUT,
        LIBRARY_TIMEOUT_S(http->options.timeout_ms), MHD_OPTION_NOTIFY_CONNECTION, http_notify,
        http, MHD_OPTION_NOTIFY_COMPLETED, http_completed, http, MHD_OPTION_STRICT_FOR_CLIENT, 1,
        MHD_OPTION_END);
    if (http->daemon == NULL) {
        return kvl_fail(err, -EIO, "metrics: libmicrohttpd %s did not start", MHD_get_version());
    }
    http->listen_fd = -1; /* the daemon closes it */
    return 0;
}

int metrics_http_start(struct metrics_http *http, struct kvl_err *err)
{
    const struct metrics_view view = {.host = http->host, .needs = http->options.needs};
    char name[64];
    int r;

    if (metrics_page_unknown_need(&view, name, sizeof(name)) != NULL) {
        return kvl_fail(err, -EINVAL, "metrics: needs names '%s', which is no section", name);
    }
    http->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    r = http->wake_fd < 0 ? kvl_fail(err, -errno, "metrics: cannot make an event descriptor")
                          : http_listen(http, err);
    if (r == 0) {
        r = http_start_daemon(http, err);
    }
    if (r == 0) {
        r = http->host->thread_create(http->host, "kvl-metrics", http_main, http, &http->thread);
        http->running = r == 0;
        if (r < 0) {
            (void)kvl_fail(err, r, "metrics: cannot start its thread: %s", strerror(-r));
        }
    }
    if (r < 0) {
        metrics_http_stop(http);
        return r;
    }
    kvl_info(http->host->log, "metrics: listening on '%s'", http->address);
    return 0;
}

void metrics_http_quiesce(struct metrics_http *http)
{
    atomic_store(&http->quiesced, true);
}

void metrics_http_stop(struct metrics_http *http)
{
    const uint64_t one = 1;
    ssize_t n;

    atomic_store(&http->stopping, true);
    if (http->running) {
        n = write(http->wake_fd, &one, sizeof(one));
        (void)n;
        (void)http->host->thread_join(http->host, http->thread);
        http->running = false;
    }
    if (http->daemon != NULL) {
        MHD_stop_daemon(http->daemon);
        http->daemon = NULL;
    }
    if (http->listen_fd >= 0) {
        close(http->listen_fd);
        http->listen_fd = -1;
    }
    if (http->wake_fd >= 0) {
        close(http->wake_fd);
        http->wake_fd = -1;
    }
}

void metrics_http_destroy(struct metrics_http *http)
{
    free(http);
}

/* ---- watch ---- */

void metrics_http_health(struct metrics_http *http, struct kvl_health *health_out)
{
    health_out->state = KVL_HEALTH_OK; /* the core asks only while we run */
    (void)snprintf(health_out->address, sizeof(health_out->address), "%s", http->address);
    (void)snprintf(health_out->text, sizeof(health_out->text), "%llu scrapes",
                   (unsigned long long)atomic_load(&http->counters[HTTP_SCRAPES]));
}

void metrics_http_stats(struct metrics_http *http, kvl_stat_fn fn, void *ctx)
{
    static const char *const names[HTTP_COUNTERS] = {"requests", "scrapes", "requests_refused",
                                                     "connections_cut"};

    fn(ctx, "connections", atomic_load(&http->connections));
    for (size_t i = 0; i < HTTP_COUNTERS; i++) {
        fn(ctx, names[i], atomic_load_explicit(&http->counters[i], memory_order_relaxed));
    }
}
