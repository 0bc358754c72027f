/* SPDX-License-Identifier: Apache-2.0 */
#include "controller_bind.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <zmq.h>

#include "setting.h"
#include "sock.h"

#define BACKLOG 1024
/* Messages that wait per peer before it is made to wait. */
#define HWM 1000
/* How long an answer may wait for its peer at the end. */
#define LINGER_MS 100
#define KEEPALIVE_S 60

int controller_bind_is_wide(const char *host)
{
    return strcmp(host, "0.0.0.0") == 0 || strcmp(host, "*") == 0 || strcmp(host, "::") == 0 ||
           host[0] == '\0';
}

void controller_bind_print(const char *host, int32_t port, char *text_out, size_t size)
{
    const char *shown = host[0] == '\0' ? "*" : host;

    (void)snprintf(text_out, size, strchr(shown, ':') != NULL ? "[%s]:%d" : "%s:%d", shown, port);
}

/* Nothing is sent: connecting a datagram socket only picks the way out. */
static void bind_own_ip(char *text_out, size_t size)
{
    struct sockaddr_in far = {.sin_family = AF_INET, .sin_port = htons(80)};
    struct sockaddr_in own = {0};
    socklen_t length = sizeof(own);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    (void)snprintf(text_out, size, "127.0.0.1");
    if (fd < 0) {
        return;
    }
    far.sin_addr.s_addr = htonl(0x08080808);
    if (connect(fd, (struct sockaddr *)&far, sizeof(far)) == 0 &&
        getsockname(fd, (struct sockaddr *)&own, &length) == 0) {
        (void)inet_ntop(AF_INET, &own.sin_addr, text_out, (socklen_t)size);
    }
    close(fd);
}

void controller_bind_address_for(const char *host, int32_t port, struct kvl_text worker_ip,
                                 char *text_out, size_t size)
{
    char own[INET_ADDRSTRLEN];

    if (!controller_bind_is_wide(host)) {
        controller_bind_print(host, port, text_out, size);
        return;
    }
    bind_own_ip(own, sizeof(own));
    if (worker_ip.length == strlen(own) && memcmp(worker_ip.text, own, worker_ip.length) == 0) {
        (void)snprintf(own, sizeof(own), "127.0.0.1");
    }
    controller_bind_print(own, port, text_out, size);
}

/* ---- sockets ---- */

static int bind_refuse(int code, const char *host, struct kvl_err *err)
{
    return kvl_fail(err, code,
                    "controller: host '%s' is open to other machines and nobody is asked for "
                    "a password: use a loopback address or set allow_remote = yes",
                    host);
}

int controller_bind_check(const char *host, int allow_remote, struct kvl_err *err)
{
    struct kvl_sock_name name = {.port = 1};
    struct kvl_sock_addr addr;
    struct in6_addr any;
    size_t count = 0;

    if (allow_remote) {
        return 0;
    }
    if (controller_bind_is_wide(host)) {
        return bind_refuse(-EINVAL, host, err);
    }
    if (inet_pton(AF_INET, host, &any) != 1 && inet_pton(AF_INET6, host, &any) != 1) {
        return 0;
    }
    (void)snprintf(name.host, sizeof(name.host), "%s", host);
    if (kvl_sock_resolve(&name, 1, &addr, 1, &count) < 0 || kvl_sock_is_loopback(&addr)) {
        return 0;
    }
    return bind_refuse(-EINVAL, host, err);
}

static int bind_resolve(const struct controller_options *options, int32_t port,
                        struct kvl_sock_addr *addr_out, struct kvl_err *err)
{
    const char *host = options->host;
    struct kvl_sock_name name = {.port = (uint16_t)port};
    size_t count = 0;
    int r;

    if (controller_bind_is_wide(host) && strcmp(host, "::") != 0) {
        host = "0.0.0.0";
    }
    (void)snprintf(name.host, sizeof(name.host), "%s", host);
    r = kvl_sock_resolve(&name, 1, addr_out, 1, &count);
    if (r < 0 || count == 0) {
        return kvl_fail(err, r < 0 ? r : -EHOSTUNREACH, "controller: cannot resolve host '%s'",
                        options->host);
    }
    if (!kvl_sock_is_loopback(addr_out) && !options->allow_remote) {
        return bind_refuse(-EACCES, options->host, err);
    }
    return 0;
}

static int bind_set(void *socket, int option, int value)
{
    return zmq_setsockopt(socket, option, &value, sizeof(value));
}

static int bind_limits(void *socket, const struct controller_options *options, unsigned io_thread)
{
    const int64_t frame = options->limits.frame_bytes;
    const uint64_t affinity = 1ull << io_thread;

    if (zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &frame, sizeof(frame)) != 0 ||
        zmq_setsockopt(socket, ZMQ_AFFINITY, &affinity, sizeof(affinity)) != 0 ||
        bind_set(socket, ZMQ_RCVHWM, HWM) != 0 || bind_set(socket, ZMQ_SNDHWM, HWM) != 0 ||
        bind_set(socket, ZMQ_BACKLOG, BACKLOG) != 0 ||
        bind_set(socket, ZMQ_LINGER, LINGER_MS) != 0 || bind_set(socket, ZMQ_IPV6, 1) != 0 ||
        bind_set(socket, ZMQ_TCP_KEEPALIVE, 1) != 0 ||
        bind_set(socket, ZMQ_TCP_KEEPALIVE_IDLE, KEEPALIVE_S) != 0) {
        return -zmq_errno();
    }
    return 0;
}

/* The port behind the last colon of `tcp://host:port`. */
static int32_t bind_port(void *socket)
{
    char endpoint[300];
    size_t length = sizeof(endpoint);
    const char *colon;
    int port;

    if (zmq_getsockopt(socket, ZMQ_LAST_ENDPOINT, endpoint, &length) != 0) {
        return 0;
    }
    colon = strrchr(endpoint, ':');
    return colon != NULL && sscanf(colon, ":%d", &port) == 1 ? port : 0;
}

int controller_bind(void *zmq, const struct controller_options *options, int type, int32_t port,
                    unsigned io_thread, void **socket_out, int32_t *port_out, struct kvl_err *err)
{
    struct kvl_sock_addr addr;
    char text[KVL_SOCK_TEXT_MAX];
    char endpoint[KVL_SOCK_TEXT_MAX + 8];
    void *socket;
    int r = bind_resolve(options, port, &addr, err);

    if (r < 0) {
        return r;
    }
    kvl_sock_print(&addr, text, sizeof(text));
    (void)snprintf(endpoint, sizeof(endpoint), "tcp://%s", text);
    socket = zmq_socket(zmq, type);
    if (socket == NULL) {
        return kvl_fail(err, -zmq_errno(), "controller: cannot make a socket: %s",
                        zmq_strerror(zmq_errno()));
    }
    r = bind_limits(socket, options, io_thread);
    if (r == 0 && zmq_bind(socket, endpoint) != 0) {
        r = -zmq_errno();
    }
    if (r < 0) {
        (void)kvl_fail(err, r, "controller: cannot listen on '%s': %s", text, zmq_strerror(-r));
        (void)zmq_close(socket);
        return r;
    }
    *socket_out = socket;
    *port_out = bind_port(socket);
    return 0;
}
