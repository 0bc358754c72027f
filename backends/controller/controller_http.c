/* SPDX-License-Identifier: Apache-2.0 */
#include "controller_http.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <microhttpd.h>

#include "controller_calls.h"
#include "controller_page.h"
#include "controller_routes.h"
#include "setting.h"
#include "sock.h"

#define BACKLOG 256
#define CONNECTIONS_MAX 512u
/* Headers of one request. */
#define CONNECTION_MEMORY ((size_t)32 * 1024)
/* A lookup of a million tokens is 7 MB of JSON. */
#define BODY_MAX ((size_t)16 * 1024 * 1024)
#define BODIES_MAX ((size_t)128 * 1024 * 1024) /* of all connections together */
#define LOOK_MS 100u
#define HEADER_MS 10000u
#define BODY_MS 30000u
#define REPLY_MS 60000u
#define IDLE_MS 60000u
#define LIBRARY_TIMEOUT_S 120u /* counts idle seconds only; ours above are what counts */

struct http_conn {
    int fd; /* -1 = free; the library's */
    uint64_t deadline_ms;
};

struct controller_http {
    struct controller_view view;
    struct controller_calls *calls;
    int listen_fd;
    int wake_fd;
    struct MHD_Daemon *daemon; /* the thread's own once that runs */
    uint64_t thread;
    bool running;
    bool loopback_only;
    char address[KVL_SOCK_TEXT_MAX + 8];
    struct http_conn conns[CONNECTIONS_MAX]; /* the thread's own */
    struct controller_arena *arena; /* likewise */
    size_t body_bytes; /* likewise */
    atomic_bool stopping;
    _Atomic uint64_t counts[CONTROLLER_HTTP_COUNTS];
};

struct http_request {
    struct controller_call call; /* first: what the threads for orders see */
    struct controller_http *http;
    struct MHD_Connection *connection;
    const char *allow;
    char *body;
    size_t room;
    bool done; /* the answer is there */
};

int controller_http_create(struct controller_server *server, struct controller_http **http_out)
{
    struct controller_http *http = calloc(1, sizeof(*http));
    int r;

    if (http == NULL) {
        return -ENOMEM;
    }
    http->view = (struct controller_view){
        .server = server,
        .host = controller_server_host(server),
        .options = controller_server_options(server),
        .counts = http->counts,
    };
    http->listen_fd = -1;
    http->wake_fd = -1;
    for (size_t i = 0; i < CONNECTIONS_MAX; i++) {
        http->conns[i].fd = -1;
    }
    r = controller_arena_create(&http->arena);
    if (r < 0) {
        free(http);
        return r;
    }
    *http_out = http;
    return 0;
}

static void http_count(struct controller_http *http, enum controller_http_count which)
{
    atomic_fetch_add_explicit(&http->counts[which], 1, memory_order_relaxed);
}

static uint64_t http_now(const struct controller_http *http)
{
    return http->view.host->now_ms(http->view.host);
}

static void http_set_deadline(struct controller_http *http, struct MHD_Connection *connection,
                              uint64_t wait_ms)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    struct http_conn *conn = info != NULL ? info->socket_context : NULL;

    if (conn != NULL) {
        conn->deadline_ms = wait_ms == UINT64_MAX ? UINT64_MAX : http_now(http) + wait_ms;
    }
}

/* ---- answers ---- */

static struct MHD_Response *http_response(struct controller_answer *answer)
{
    static const char *const types[] = {
        [CONTROLLER_MEDIA_JSON] = "application/json",
        [CONTROLLER_MEDIA_TEXT] = "text/plain; charset=utf-8",
        [CONTROLLER_MEDIA_PAGE] = "text/html; charset=utf-8",
    };
    struct MHD_Response *response;

    if (answer->media == CONTROLLER_MEDIA_PAGE) {
        /* the library takes constants as void */
        union {
            const unsigned char *from;
            void *to;
        } page = {.from = controller_page};

        response =
            MHD_create_response_from_buffer(controller_page_size, page.to, MHD_RESPMEM_PERSISTENT);
    } else {
        response = MHD_create_response_from_buffer(answer->text.used, answer->text.at,
                                                   MHD_RESPMEM_MUST_FREE);
        if (response != NULL) {
            answer->text = (struct controller_text){0};
        }
    }
    if (response == NULL) {
        return NULL;
    }
    (void)MHD_add_response_header(response, "Content-Type", types[answer->media]);
    (void)MHD_add_response_header(response, "Cache-Control", "no-store");
    (void)MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
    (void)MHD_add_response_header(response, "Content-Security-Policy",
                                  answer->media == CONTROLLER_MEDIA_PAGE
                                      ? controller_page_policy
                                      : "default-src 'none'; frame-ancestors 'none'");
    if (answer->media == CONTROLLER_MEDIA_PAGE) {
        (void)MHD_add_response_header(response, "Referrer-Policy", "no-referrer");
    }
    return response;
}

static enum MHD_Result http_reply(struct http_request *request)
{
    struct controller_http *http = request->http;
    struct controller_answer *answer = &request->call.answer;
    struct MHD_Response *response;
    enum MHD_Result r;

    if (answer->text.failed) {
        controller_answer_detail(answer, MHD_HTTP_INTERNAL_SERVER_ERROR, "no memory");
    }
    response = http_response(answer);
    if (response == NULL) {
        return MHD_NO;
    }
    if (answer->status >= 500) {
        http_count(http, CONTROLLER_HTTP_FAILED);
    } else if (answer->status >= 400) {
        http_count(http, CONTROLLER_HTTP_REFUSED);
    }
    if (answer->status == MHD_HTTP_METHOD_NOT_ALLOWED && request->allow != NULL) {
        (void)MHD_add_response_header(response, "Allow", request->allow);
    }
    http_set_deadline(http, request->connection, REPLY_MS);
    r = MHD_queue_response(request->connection, answer->status, response);
    MHD_destroy_response(response);
    return r;
}

/* ---- who may ask ---- */

/* A page on another site can make a browser send requests here, by a name of its own that it lets
 * resolve to 127.0.0.1. The Host header gives that away. */
static bool http_host_is_local(const char *host)
{
    static const char *const names[] = {"localhost", "[::1]"};
    size_t length = host[0] == '[' ? strcspn(host, "]") + 1 : strcspn(host, ":");

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strlen(names[i]) == length && strncasecmp(host, names[i], length) == 0) {
            return true;
        }
    }
    return strncmp(host, "127.", 4) == 0 && strspn(host, "0123456789.") == length;
}

static bool http_may_ask(struct controller_http *http, struct MHD_Connection *connection,
                         const struct controller_route *route)
{
    const char *host = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Host");
    const char *origin = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Origin");
    const char *authority;

    if (http->loopback_only && host != NULL && !http_host_is_local(host)) {
        return false;
    }
    if (route == NULL || strcmp(route->method, "POST") != 0 || origin == NULL) {
        return true;
    }
    /* Another site's page orders nothing. */
    authority = strstr(origin, "://");
    return authority != NULL && host != NULL && strcasecmp(authority + 3, host) == 0;
}

/* ---- requests ---- */

static const char *http_query(void *ctx, const char *name)
{
    return MHD_lookup_connection_value(ctx, MHD_GET_ARGUMENT_KIND, name);
}

static struct http_request *http_request_create(struct controller_http *http,
                                                struct MHD_Connection *connection, const char *url,
                                                const char *method)
{
    struct http_request *request = calloc(1, sizeof(*request));

    if (request == NULL) {
        return NULL;
    }
    request->http = http;
    request->connection = connection;
    request->call.request = (struct controller_request){
        .view = &http->view,
        .route = controller_route_find(method, url, &request->allow),
        .content_type = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Content-Type"),
        .query = http_query,
        .query_ctx = connection,
    };
    return request;
}

static void http_request_destroy(struct http_request *request)
{
    request->http->body_bytes -= request->room;
    atomic_store_explicit(&request->http->counts[CONTROLLER_HTTP_BODY_BYTES],
                          request->http->body_bytes, memory_order_relaxed);
    controller_text_fini(&request->call.answer.text);
    free(request->body);
    free(request);
}

static void http_refuse(struct http_request *request, unsigned status, const char *text)
{
    controller_answer_detail(&request->call.answer, status, text);
    request->done = true;
}

/* What can be said when no more than the header is there. */
static void http_judge(struct http_request *request)
{
    const struct controller_route *route = request->call.request.route;
    const char *length = MHD_lookup_connection_value(request->connection, MHD_HEADER_KIND,
                                                     MHD_HTTP_HEADER_CONTENT_LENGTH);

    if (!http_may_ask(request->http, request->connection, route)) {
        http_refuse(request, MHD_HTTP_FORBIDDEN,
                    "this Host or Origin may not ask: the controller listens on loopback, or the "
                    "request comes from a page of another site");
    } else if (route == NULL && request->allow != NULL) {
        http_refuse(request, MHD_HTTP_METHOD_NOT_ALLOWED, "Method Not Allowed");
    } else if (route == NULL) {
        http_refuse(request, MHD_HTTP_NOT_FOUND, "Not Found");
    } else if (length != NULL && strtoull(length, NULL, 10) > BODY_MAX) {
        http_refuse(request, MHD_HTTP_CONTENT_TOO_LARGE, "the body is larger than 16 MiB");
    }
}

static void http_take_body(struct http_request *request, const char *bytes, size_t length)
{
    struct controller_http *http = request->http;
    struct controller_request *asked = &request->call.request;
    size_t room = request->room == 0 ? 4096 : request->room;
    char *body;

    if (request->done) {
        return;
    }
    if (length > BODY_MAX - asked->length) {
        http_refuse(request, MHD_HTTP_CONTENT_TOO_LARGE, "the body is larger than 16 MiB");
        return;
    }
    while (room < asked->length + length) {
        room *= 2;
    }
    if (room != request->room) {
        if (http->body_bytes + room - request->room > BODIES_MAX) {
            http_refuse(request, MHD_HTTP_SERVICE_UNAVAILABLE, "too many large requests at once");
            return;
        }
        body = realloc(request->body, room);
        if (body == NULL) {
            http_refuse(request, MHD_HTTP_SERVICE_UNAVAILABLE, "no memory");
            return;
        }
        http->body_bytes += room - request->room;
        atomic_store_explicit(&http->counts[CONTROLLER_HTTP_BODY_BYTES], http->body_bytes,
                              memory_order_relaxed);
        request->body = body;
        request->room = room;
    }
    memcpy(request->body + asked->length, bytes, length);
    asked->length += length;
    asked->body = request->body;
}

/* From a thread for orders. */
static void http_call_done(struct controller_call *call)
{
    struct http_request *request = (struct http_request *)call;
    struct controller_http *http = request->http;
    const uint64_t one = 1;
    ssize_t n;

    request->done = true;
    MHD_resume_connection(request->connection); /* from here on the request may be gone */
    n = write(http->wake_fd, &one, sizeof(one));
    (void)n;
}

static enum MHD_Result http_execute(struct http_request *request)
{
    struct controller_http *http = request->http;
    struct controller_call *call = &request->call;

    if (!controller_route_waits(call->request.route)) {
        call->request.arena = http->arena;
        controller_arena_reset(http->arena);
        call->request.route->run(&call->request, &call->answer);
        return http_reply(request);
    }
    http_set_deadline(http, request->connection, UINT64_MAX);
    MHD_suspend_connection(request->connection);
    if (controller_calls_add(http->calls, call) < 0) {
        controller_answer_detail(&call->answer, MHD_HTTP_SERVICE_UNAVAILABLE,
                                 "too many orders to workers are under way, or the controller "
                                 "stops");
        http_call_done(call);
    }
    return MHD_YES;
}

static enum MHD_Result http_handle(void *cls, struct MHD_Connection *connection, const char *url,
                                   const char *method, const char *version, const char *upload,
                                   size_t *upload_size, void **request_ctx)
{
    struct controller_http *http = cls;
    struct http_request *request = *request_ctx;

    (void)version;
    if (request == NULL) {
        request = http_request_create(http, connection, url, method);
        if (request == NULL) {
            return MHD_NO;
        }
        *request_ctx = request;
        http_count(http, CONTROLLER_HTTP_REQUESTS);
        http_set_deadline(http, connection, BODY_MS);
        http_judge(request);
        /* An answer at this point ends the connection, which is right for those who are about to
         * send us what we do not want, and for nobody else. */
        return request->done && strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0
                   ? http_reply(request)
                   : MHD_YES;
    }
    if (*upload_size > 0) {
        http_take_body(request, upload, *upload_size);
        *upload_size = 0;
        return MHD_YES;
    }
    return request->done ? http_reply(request) : http_execute(request);
}

static void http_completed(void *cls, struct MHD_Connection *connection, void **request_ctx,
                           enum MHD_RequestTerminationCode code)
{
    struct controller_http *http = cls;

    (void)code;
    http_set_deadline(http, connection, IDLE_MS);
    if (*request_ctx != NULL) {
        http_request_destroy(*request_ctx);
        *request_ctx = NULL;
    }
}

/* ---- connections ---- */

static void http_notify(void *cls, struct MHD_Connection *connection, void **socket_ctx,
                        enum MHD_ConnectionNotificationCode code)
{
    struct controller_http *http = cls;
    const union MHD_ConnectionInfo *info;
    struct http_conn *conn = *socket_ctx;

    if (code == MHD_CONNECTION_NOTIFY_CLOSED) {
        if (conn != NULL) {
            conn->fd = -1;
            atomic_fetch_sub(&http->counts[CONTROLLER_HTTP_CONNECTIONS], 1);
        }
        *socket_ctx = NULL;
        return;
    }
    info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    for (size_t i = 0; info != NULL && i < CONNECTIONS_MAX; i++) {
        if (http->conns[i].fd < 0) {
            http->conns[i].fd = info->connect_fd;
            http->conns[i].deadline_ms = http_now(http) + HEADER_MS;
            atomic_fetch_add(&http->counts[CONTROLLER_HTTP_CONNECTIONS], 1);
            *socket_ctx = &http->conns[i];
            return;
        }
    }
}

/* A peer that sends a byte now and then is never idle, so that the library would keep it. */
static void http_cut_late(struct controller_http *http)
{
    uint64_t now = http_now(http);

    for (size_t i = 0; i < CONNECTIONS_MAX; i++) {
        struct http_conn *conn = &http->conns[i];

        if (conn->fd >= 0 && now >= conn->deadline_ms) {
            http_count(http, CONTROLLER_HTTP_CUT);
            conn->deadline_ms = UINT64_MAX;
            (void)shutdown(conn->fd, SHUT_RDWR); /* the library meets the end and closes it */
        }
    }
}

/* ---- the thread ---- */

static uint64_t http_connections(struct controller_http *http)
{
    return atomic_load(&http->counts[CONTROLLER_HTTP_CONNECTIONS]);
}

static int http_timeout(struct controller_http *http)
{
    MHD_UNSIGNED_LONG_LONG library;
    uint64_t timeout = http_connections(http) > 0 ? LOOK_MS : UINT64_MAX;

    if (MHD_get_timeout(http->daemon, &library) == MHD_YES && library < timeout) {
        timeout = library;
    }
    return timeout == UINT64_MAX ? -1 : (int)(timeout < 60000 ? timeout : 60000);
}

/* At its limit the library looks away from the listener, and back to it only when it runs again. */
static void http_run(struct controller_http *http)
{
    uint64_t before;

    do {
        before = http_connections(http);
        (void)MHD_run(http->daemon);
    } while (http_connections(http) < before);
}

static void *http_main(void *arg)
{
    struct controller_http *http = arg;
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(http->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    struct pollfd fds[2] = {
        {.fd = info != NULL ? info->epoll_fd : -1, .events = POLLIN},
        {.fd = http->wake_fd, .events = POLLIN},
    };
    uint64_t woken;
    ssize_t n;

    while (!atomic_load(&http->stopping)) {
        if (poll(fds, 2, http_timeout(http)) < 0 && errno != EINTR) {
            break;
        }
        n = read(http->wake_fd, &woken, sizeof(woken));
        (void)n;
        http_run(http);
        http_cut_late(http);
    }
    http_run(http); /* answers that came with the stop */
    return NULL;
}

/* ---- life ---- */

static int http_listen(struct controller_http *http, struct kvl_err *err)
{
    const struct controller_options *options = http->view.options;
    const char *host = options->http_host[0] != '\0' ? options->http_host : options->host;
    struct kvl_sock_name name = {.port = (uint16_t)options->http_port};
    struct kvl_sock_addr addr;
    char text[KVL_SOCK_TEXT_MAX];
    size_t count = 0;
    int r;

    (void)snprintf(name.host, sizeof(name.host), "%s",
                   strcmp(host, "*") == 0 || host[0] == '\0' ? "0.0.0.0" : host);
    r = kvl_sock_resolve(&name, 1, &addr, 1, &count);
    if (r < 0 || count == 0) {
        return kvl_fail(err, r < 0 ? r : -EHOSTUNREACH, "controller: cannot resolve http_host '%s'",
                        name.host);
    }
    kvl_sock_print(&addr, text, sizeof(text));
    http->loopback_only = kvl_sock_is_loopback(&addr);
    if (!http->loopback_only && !options->allow_remote) {
        return kvl_fail(err, -EACCES,
                        "controller: HTTP address '%s' is open to other hosts and nobody is "
                        "asked for a password: use a loopback address or set allow_remote = "
                        "yes",
                        text);
    }
    r = kvl_sock_listen(&addr, BACKLOG, &http->listen_fd);
    if (r < 0) {
        return kvl_fail(err, r, "controller: cannot listen on '%s' for HTTP: %s", text,
                        strerror(-r));
    }
    (void)kvl_sock_local(http->listen_fd, &addr);
    kvl_sock_print(&addr, text, sizeof(text));
    (void)snprintf(http->address, sizeof(http->address), "http://%s", text);
    return 0;
}

/* The library opens no thread of its own: ours has the signals blocked, and is the only one to
 * touch what is behind the daemon. */
static int http_start_daemon(struct controller_http *http, struct kvl_err *err)
{
    http->daemon = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, http_handle, http,
        MHD_OPTION_LISTEN_SOCKET, http->listen_fd, MHD_OPTION_CONNECTION_LIMIT, CONNECTIONS_MAX,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, CONNECTION_MEMORY, MHD_OPTION_CONNECTION_TIMEOUT,
        LIBRARY_TIMEOUT_S, MHD_OPTION_NOTIFY_CONNECTION, http_notify, http,
        MHD_OPTION_NOTIFY_COMPLETED, http_completed, http, MHD_OPTION_STRICT_FOR_CLIENT, 1,
        MHD_OPTION_END);
    if (http->daemon == NULL) {
        return kvl_fail(err, -EIO, "controller: libmicrohttpd %s did not start", MHD_get_version());
    }
    http->listen_fd = -1; /* the daemon closes it */
    return 0;
}

int controller_http_start(struct controller_http *http, struct kvl_err *err)
{
    const struct kvl_host *host = http->view.host;
    int r;

    http->view.started_ms = http_now(http);
    http->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    r = http->wake_fd < 0 ? kvl_fail(err, -errno, "controller: cannot make a descriptor")
                          : http_listen(http, err);
    if (r == 0) {
        r = controller_calls_create(host, http_call_done, &http->calls);
        if (r < 0) {
            (void)kvl_fail(err, r, "controller: no memory");
        }
    }
    if (r == 0) {
        r = http_start_daemon(http, err);
    }
    if (r == 0) {
        r = host->thread_create(host, "kvl-ctl-http", http_main, http, &http->thread);
        http->running = r == 0;
        if (r < 0) {
            (void)kvl_fail(err, r, "controller: cannot start its HTTP thread: %s", strerror(-r));
        }
    }
    if (r < 0) {
        controller_http_stop(http);
        return r;
    }
    kvl_info(host->log, "controller: HTTP on '%s'", http->address);
    return 0;
}

void controller_http_stop(struct controller_http *http)
{
    const uint64_t one = 1;
    ssize_t n;

    /* First, while the thread runs: it takes no connection that waits for one of these away. */
    controller_calls_stop(http->calls);
    atomic_store(&http->stopping, true);
    if (http->running) {
        n = write(http->wake_fd, &one, sizeof(one));
        (void)n;
        (void)http->view.host->thread_join(http->view.host, http->thread);
        http->running = false;
    }
    if (http->daemon != NULL) {
        MHD_stop_daemon(http->daemon);
        http->daemon = NULL;
    }
    controller_calls_destroy(http->calls);
    http->calls = NULL;
    if (http->listen_fd >= 0) {
        close(http->listen_fd);
        http->listen_fd = -1;
    }
    if (http->wake_fd >= 0) {
        close(http->wake_fd);
        http->wake_fd = -1;
    }
}

void controller_http_destroy(struct controller_http *http)
{
    if (http != NULL) {
        controller_arena_destroy(http->arena);
        free(http);
    }
}

/* ---- watch ---- */

const char *const controller_http_count_names[CONTROLLER_HTTP_COUNTS] = {
    [CONTROLLER_HTTP_REQUESTS] = "http_requests",
    [CONTROLLER_HTTP_REFUSED] = "http_refused",
    [CONTROLLER_HTTP_FAILED] = "http_failed",
    [CONTROLLER_HTTP_LOOKUPS] = "http_lookups",
    [CONTROLLER_HTTP_LOOKUP_HITS] = "http_lookup_hits",
    [CONTROLLER_HTTP_CUT] = "http_cut",
    [CONTROLLER_HTTP_CONNECTIONS] = "http_connections",
    [CONTROLLER_HTTP_BODY_BYTES] = "http_body_bytes",
};

const char *controller_http_address(const struct controller_http *http)
{
    return http->address;
}

void controller_http_stats(struct controller_http *http, kvl_stat_fn fn, void *ctx)
{
    for (size_t i = 0; i < CONTROLLER_HTTP_COUNTS; i++) {
        fn(ctx, controller_http_count_names[i],
           atomic_load_explicit(&http->counts[i], memory_order_relaxed));
    }
}
