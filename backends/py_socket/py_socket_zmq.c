/* SPDX-License-Identifier: Apache-2.0 */
#include "py_socket_zmq.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <zmq.h>

#include "py_socket_url.h"
#include "py_socket_zap.h"
#include "setting.h"

#define SOCKETS_MAX 65535
#define BACKLOG 1024
#define HANDSHAKE_MS 5000 /* of ZMTP itself */
#define RECONNECT_MS 20
#define FREEING_MS 500
#define FREEING_STEP_MS 2
#define RECONNECT_MAX_MS 500

struct py_socket_zmq {
    const struct kvl_host *host;
    const struct py_socket_options *options;
    struct py_socket_zap *zap; /* NULL when anybody may connect */
    void *context;
    _Atomic uint64_t watches; /* names of their endpoints */
    _Atomic uint64_t freeing_ms; /* until when a port we gave back may still be bound */
};

static int ctx_code(void)
{
    /* libzmq has codes of its own above this */
    return errno > 0 && errno < ZMQ_HAUSNUMERO ? -errno : -EIO;
}

int py_socket_zmq_create(const struct kvl_host *host, const struct py_socket_options *options,
                         struct py_socket_counters *counters, struct py_socket_zmq **zmq_out,
                         struct kvl_err *err)
{
    struct py_socket_zmq *zmq = calloc(1, sizeof(*zmq));
    int r;

    if (zmq == NULL) {
        return kvl_fail(err, -ENOMEM, "py_socket: no memory");
    }
    zmq->host = host;
    zmq->options = options;
    zmq->context = zmq_ctx_new();
    if (zmq->context == NULL) {
        r = kvl_fail(err, ctx_code(), "py_socket: no ZMQ context: %s", zmq_strerror(errno));
        free(zmq);
        return r;
    }
    (void)zmq_ctx_set(zmq->context, ZMQ_MAX_SOCKETS, SOCKETS_MAX);
    (void)zmq_ctx_set(zmq->context, ZMQ_BLOCKY, 0);
    (void)zmq_ctx_set(zmq->context, ZMQ_IPV6, 1);
    if (options->with_curve && options->curve_peer_count > 0) {
        r = py_socket_zap_start(host, options, counters, zmq->context, &zmq->zap);
        if (r < 0) {
            py_socket_zmq_destroy(zmq);
            return kvl_fail(err, r, "py_socket: cannot check the keys of peers: %s", strerror(-r));
        }
    }
    *zmq_out = zmq;
    return 0;
}

void py_socket_zmq_destroy(struct py_socket_zmq *zmq)
{
    if (zmq == NULL) {
        return;
    }
    (void)zmq_ctx_shutdown(zmq->context);
    py_socket_zap_stop(zmq->zap);
    while (zmq_ctx_term(zmq->context) < 0 && errno == EINTR) {
    }
    free(zmq);
}

static int ctx_set_int(void *socket, int option, int value)
{
    return zmq_setsockopt(socket, option, &value, sizeof(value));
}

/* A socket with everything that holds for both kinds. */
static void *ctx_make(struct py_socket_zmq *zmq, int type, int64_t max_bytes)
{
    void *socket = zmq_socket(zmq->context, type);

    if (socket == NULL) {
        return NULL;
    }
    if (ctx_set_int(socket, ZMQ_LINGER, 0) < 0 || ctx_set_int(socket, ZMQ_IPV6, 1) < 0 ||
        ctx_set_int(socket, ZMQ_TCP_KEEPALIVE, 1) < 0 ||
        ctx_set_int(socket, ZMQ_HANDSHAKE_IVL, HANDSHAKE_MS) < 0 ||
        zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &max_bytes, sizeof(max_bytes)) < 0) {
        int saved = errno;

        zmq_close(socket);
        errno = saved;
        return NULL;
    }
    return socket;
}

static int ctx_be_server(struct py_socket_zmq *zmq, void *socket)
{
    static const char domain[] = "kvlane";

    if (!zmq->options->with_curve) {
        return 0;
    }
    if (zmq->zap != NULL && zmq_setsockopt(socket, ZMQ_ZAP_DOMAIN, domain, strlen(domain)) < 0) {
        return -1;
    }
    if (ctx_set_int(socket, ZMQ_CURVE_SERVER, 1) < 0) {
        return -1;
    }
    return zmq_setsockopt(socket, ZMQ_CURVE_SECRETKEY, zmq->options->curve_secret_key,
                          PY_SOCKET_CURVE_KEY + 1);
}

static int ctx_be_client(struct py_socket_zmq *zmq, void *socket, const char *url)
{
    const struct py_socket_options *options = zmq->options;
    size_t size = PY_SOCKET_CURVE_KEY + 1;

    if (!options->with_curve) {
        return 0;
    }
    if (zmq_setsockopt(socket, ZMQ_CURVE_SERVERKEY, py_socket_options_server_key(options, url),
                       size) < 0 ||
        zmq_setsockopt(socket, ZMQ_CURVE_PUBLICKEY, options->curve_public_key, size) < 0) {
        return -1;
    }
    return zmq_setsockopt(socket, ZMQ_CURVE_SECRETKEY, options->curve_secret_key, size);
}

/* Where to bind and what to tell peers, but for the port. */
static int ctx_serve_where(struct py_socket_zmq *zmq, const char *what, const char *url,
                           struct kvl_sock_name *name_out, char *endpoint_out, size_t room,
                           struct kvl_err *err)
{
    struct kvl_sock_addr addr;
    char text[KVL_SOCK_TEXT_MAX];
    size_t count;
    int r = py_socket_url_parse(url, name_out);

    if (r < 0) {
        return kvl_fail(err, -EINVAL, "py_socket: %s '%s' is none of host:port, [v6]:port, port",
                        what, url);
    }
    r = kvl_sock_resolve(name_out, 1, &addr, 1, &count);
    if (r < 0) {
        return kvl_fail(err, r, "py_socket: %s '%s': unknown host", what, url);
    }
    r = py_socket_options_may_bind(zmq->options, what, &addr, err);
    if (r < 0) {
        return r;
    }
    if (zmq->options->advertise[0] != '\0') {
        snprintf(name_out->host, sizeof(name_out->host), "%s", zmq->options->advertise);
    } else if (py_socket_url_is_wildcard(name_out->host)) {
        return kvl_fail(err, -EINVAL,
                        "py_socket: %s '%s' is every address: say in advertise which host "
                        "peers are to be told",
                        what, url);
    }
    kvl_sock_print(&addr, text, sizeof(text));
    snprintf(endpoint_out, room, "tcp://%s", text);
    return 0;
}

static int ctx_bound_port(void *socket, uint16_t *port_out)
{
    char endpoint[KVL_CHANNEL_URL_ROOM];
    size_t size = sizeof(endpoint);
    const char *colon;

    if (zmq_getsockopt(socket, ZMQ_LAST_ENDPOINT, endpoint, &size) < 0) {
        return ctx_code();
    }
    colon = strrchr(endpoint, ':');
    if (colon == NULL) {
        return -EIO;
    }
    *port_out = (uint16_t)strtoul(colon + 1, NULL, 10);
    return 0;
}

/* libzmq lets go of a port in a thread of its own, some time after the socket was closed. */
static int ctx_bind(struct py_socket_zmq *zmq, void *socket, const char *endpoint)
{
    const struct kvl_host *host = zmq->host;

    while (zmq_bind(socket, endpoint) < 0) {
        if (errno != EADDRINUSE || host->now_ms(host) >= atomic_load(&zmq->freeing_ms)) {
            return -1;
        }
        (void)zmq_poll(NULL, 0, FREEING_STEP_MS);
    }
    return 0;
}

int py_socket_zmq_serve(struct py_socket_zmq *zmq, const char *what, const char *url,
                        int64_t max_bytes, void **socket_out, char *url_out, struct kvl_err *err)
{
    char endpoint[KVL_SOCK_TEXT_MAX + 8];
    struct kvl_sock_name name;
    void *socket;
    int r = ctx_serve_where(zmq, what, url, &name, endpoint, sizeof(endpoint), err);

    if (r < 0) {
        return r;
    }
    socket = ctx_make(zmq, ZMQ_REP, max_bytes);
    if (socket == NULL || ctx_set_int(socket, ZMQ_BACKLOG, BACKLOG) < 0 ||
        ctx_be_server(zmq, socket) < 0 || ctx_bind(zmq, socket, endpoint) < 0) {
        r = kvl_fail(err, ctx_code(), "py_socket: cannot bind %s '%s': %s", what, url,
                     zmq_strerror(errno));
        py_socket_zmq_close(zmq, socket);
        return r;
    }
    r = ctx_bound_port(socket, &name.port);
    if (r == 0) {
        r = py_socket_url_print(name.host, name.port, url_out);
    }
    if (r < 0) {
        py_socket_zmq_close(zmq, socket);
        return kvl_fail(err, r, "py_socket: %s '%s': %s", what, url, strerror(-r));
    }
    *socket_out = socket;
    return 0;
}

/* Nothing may happen on `socket` before the watch is connected: ZMQ's own thread would wait. */
static int ctx_watch(struct py_socket_zmq *zmq, void *socket, void **watch_out)
{
    char endpoint[64];
    void *watch = zmq_socket(zmq->context, ZMQ_PAIR);
    int r;

    if (watch == NULL) {
        return ctx_code();
    }
    snprintf(endpoint, sizeof(endpoint), "inproc://kvl-watch-%llu",
             (unsigned long long)atomic_fetch_add(&zmq->watches, 1));
    /* no limit: at one ZMQ's own thread would wait for whoever is to look at the watch */
    if (ctx_set_int(watch, ZMQ_LINGER, 0) < 0 || ctx_set_int(watch, ZMQ_RCVHWM, 0) < 0 ||
        zmq_socket_monitor(socket, endpoint,
                           ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
                               ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL |
                               ZMQ_EVENT_HANDSHAKE_FAILED_AUTH) < 0 ||
        zmq_connect(watch, endpoint) < 0) {
        r = ctx_code();
        (void)zmq_socket_monitor(socket, NULL, 0);
        (void)zmq_close(watch);
        return r;
    }
    *watch_out = watch;
    return 0;
}

int py_socket_zmq_dial(struct py_socket_zmq *zmq, const char *url, int64_t max_bytes,
                       void **socket_out, void **watch_out)
{
    char endpoint[KVL_CHANNEL_URL_ROOM + 8];
    void *socket = ctx_make(zmq, ZMQ_REQ, max_bytes);
    void *watch;
    int r;

    if (socket == NULL) {
        return ctx_code();
    }
    r = ctx_watch(zmq, socket, &watch);
    if (r < 0) {
        (void)zmq_close(socket);
        return r;
    }
    snprintf(endpoint, sizeof(endpoint), "tcp://%s", url);
    /* IMMEDIATE: sending waits for a connection, so that a message is not lost with an attempt */
    if (ctx_set_int(socket, ZMQ_IMMEDIATE, 1) < 0 ||
        ctx_set_int(socket, ZMQ_RECONNECT_IVL, RECONNECT_MS) < 0 ||
        ctx_set_int(socket, ZMQ_RECONNECT_IVL_MAX, RECONNECT_MAX_MS) < 0 ||
        ctx_be_client(zmq, socket, url) < 0 || zmq_connect(socket, endpoint) < 0) {
        r = ctx_code();
        py_socket_zmq_hang_up(socket, watch);
        return r;
    }
    *socket_out = socket;
    *watch_out = watch;
    return 0;
}

void py_socket_zmq_hang_up(void *socket, void *watch)
{
    /* In this order: ZMQ's own thread waits for ever to tell a watch that is closed, and with it
     * everything else in the context. */
    (void)zmq_socket_monitor(socket, NULL, 0);
    (void)zmq_close(watch);
    (void)zmq_close(socket);
}

static uint32_t ctx_watch_bit(uint16_t event, uint32_t value)
{
    switch (event) {
    case ZMQ_EVENT_HANDSHAKE_FAILED_AUTH:
        return PY_SOCKET_DENIED;
    case ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL:
        return value == ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH ? PY_SOCKET_DENIED
                                                                   : PY_SOCKET_CUT;
    case ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL:
        return PY_SOCKET_CUT;
    case ZMQ_EVENT_DISCONNECTED:
        return PY_SOCKET_LOST;
    default:
        return 0;
    }
}

uint32_t py_socket_zmq_watched(void *watch)
{
    uint32_t bits = 0;

    for (;;) {
        uint8_t head[6]; /* event, value; the address comes as a second part */
        char address[KVL_CHANNEL_URL_ROOM];
        uint16_t event;
        uint32_t value;
        int n = zmq_recv(watch, head, sizeof(head), ZMQ_DONTWAIT);

        if (n < 0) {
            return bits;
        }
        (void)zmq_recv(watch, address, sizeof(address), ZMQ_DONTWAIT);
        if (n >= (int)sizeof(head)) {
            memcpy(&event, head, sizeof(event));
            memcpy(&value, head + sizeof(event), sizeof(value));
            bits |= ctx_watch_bit(event, value);
        }
    }
}

int py_socket_zmq_fd(void *socket)
{
    int fd = -1;
    size_t size = sizeof(fd);

    return zmq_getsockopt(socket, ZMQ_FD, &fd, &size) < 0 ? -1 : fd;
}

int py_socket_zmq_ready(void *socket)
{
    int events = 0;
    size_t size = sizeof(events);

    return zmq_getsockopt(socket, ZMQ_EVENTS, &events, &size) < 0 ? 0 : events;
}

void py_socket_zmq_close(struct py_socket_zmq *zmq, void *socket)
{
    if (socket != NULL) {
        (void)zmq_close(socket);
        atomic_store(&zmq->freeing_ms, zmq->host->now_ms(zmq->host) + FREEING_MS);
    }
}
