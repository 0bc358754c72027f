/* SPDX-License-Identifier: Apache-2.0 */
#include "sock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static int sock_parse_port(const char *text, size_t length, uint16_t *port_out)
{
    unsigned value = 0;

    if (length == 0 || length > 5) {
        return -EINVAL;
    }
    for (size_t i = 0; i < length; i++) {
        if (text[i] < '0' || text[i] > '9') {
            return -EINVAL;
        }
        value = value * 10 + (unsigned)(text[i] - '0');
    }
    if (value > UINT16_MAX) {
        return -EINVAL;
    }
    *port_out = (uint16_t)value;
    return 0;
}

static int sock_parse_unix(const char *path, struct kvl_sock_name *name_out)
{
    const struct sockaddr_un *un = NULL;
    size_t length = strlen(path);

    if (path[0] != '/') {
        return -EINVAL;
    }
    if (length >= sizeof(un->sun_path)) {
        return -ENAMETOOLONG;
    }
    memset(name_out, 0, sizeof(*name_out));
    memcpy(name_out->host, path, length);
    name_out->is_unix = 1;
    return 0;
}

int kvl_sock_parse(const char *text, struct kvl_sock_name *name_out)
{
    struct kvl_sock_name name = {0};
    const char *host = text;
    const char *host_end;
    const char *port;
    size_t port_length;
    int is_url = strncmp(text, "lm://", 5) == 0;
    int r;

    if (strncmp(text, "unix:", 5) == 0) {
        return sock_parse_unix(text + 5, name_out);
    }
    if (is_url) {
        host += 5;
    }
    if (*host == '[') {
        host++;
        host_end = strchr(host, ']');
        if (host_end == NULL || host_end[1] != ':') {
            return -EINVAL;
        }
        port = host_end + 2;
    } else {
        host_end = strchr(host, ':');
        if (host_end == NULL) {
            return -EINVAL;
        }
        port = host_end + 1;
    }
    if (host_end == host || (size_t)(host_end - host) >= sizeof(name.host)) {
        return host_end == host ? -EINVAL : -ENAMETOOLONG;
    }
    port_length = strlen(port);
    if (is_url && port_length > 0 && port[port_length - 1] == '/') {
        port_length--;
    }
    r = sock_parse_port(port, port_length, &name.port);
    if (r < 0) {
        return r;
    }
    memcpy(name.host, host, (size_t)(host_end - host));
    *name_out = name;
    return 0;
}

static int sock_gai_errno(int code)
{
    switch (code) {
    case EAI_AGAIN:
        return -EAGAIN;
    case EAI_MEMORY:
        return -ENOMEM;
    default:
        return -EHOSTUNREACH;
    }
}

static void sock_unix_addr(const char *path, struct kvl_sock_addr *addr_out)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};

    memcpy(un.sun_path, path, strnlen(path, sizeof(un.sun_path) - 1));
    memset(addr_out, 0, sizeof(*addr_out));
    memcpy(&addr_out->sa, &un, sizeof(un));
    addr_out->length = (socklen_t)sizeof(un);
}

int kvl_sock_resolve(const struct kvl_sock_name *name, int passive, struct kvl_sock_addr *addrs_out,
                     size_t max, size_t *count_out)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    const int families[] = {AF_INET, AF_INET6};
    struct addrinfo *found = NULL;
    char port[8];
    size_t count = 0;
    int r;

    if (name->is_unix) {
        sock_unix_addr(name->host, &addrs_out[0]);
        *count_out = 1;
        return 0;
    }
    hints.ai_flags = AI_NUMERICSERV | (passive ? AI_PASSIVE : 0);
    snprintf(port, sizeof(port), "%u", (unsigned)name->port);
    r = getaddrinfo(name->host, port, &hints, &found);
    if (r != 0) {
        return sock_gai_errno(r);
    }
    /* IPv4 first: Python's server knows nothing else */
    for (size_t f = 0; f < 2; f++) {
        for (const struct addrinfo *ai = found; ai != NULL && count < max; ai = ai->ai_next) {
            if (ai->ai_family == families[f] && ai->ai_addrlen <= sizeof(addrs_out->sa)) {
                memset(&addrs_out[count], 0, sizeof(addrs_out[count]));
                memcpy(&addrs_out[count].sa, ai->ai_addr, ai->ai_addrlen);
                addrs_out[count].length = ai->ai_addrlen;
                count++;
            }
        }
    }
    freeaddrinfo(found);
    if (count == 0) {
        return -EHOSTUNREACH;
    }
    *count_out = count;
    return 0;
}

int kvl_sock_is_unix(const struct kvl_sock_addr *addr)
{
    return addr->sa.ss_family == AF_UNIX;
}

int kvl_sock_is_loopback(const struct kvl_sock_addr *addr)
{
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;

    switch (addr->sa.ss_family) {
    case AF_UNIX:
        return 1;
    case AF_INET:
        memcpy(&v4, &addr->sa, sizeof(v4));
        return ntohl(v4.sin_addr.s_addr) >> 24 == 127;
    case AF_INET6:
        memcpy(&v6, &addr->sa, sizeof(v6));
        return IN6_IS_ADDR_LOOPBACK(&v6.sin6_addr) ||
               (IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr) && v6.sin6_addr.s6_addr[12] == 127);
    default:
        return 0;
    }
}

uint16_t kvl_sock_port(const struct kvl_sock_addr *addr)
{
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;

    if (addr->sa.ss_family == AF_INET) {
        memcpy(&v4, &addr->sa, sizeof(v4));
        return ntohs(v4.sin_port);
    }
    if (addr->sa.ss_family == AF_INET6) {
        memcpy(&v6, &addr->sa, sizeof(v6));
        return ntohs(v6.sin6_port);
    }
    return 0;
}

void kvl_sock_set_port(struct kvl_sock_addr *addr, uint16_t port)
{
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;

    if (addr->sa.ss_family == AF_INET) {
        memcpy(&v4, &addr->sa, sizeof(v4));
        v4.sin_port = htons(port);
        memcpy(&addr->sa, &v4, sizeof(v4));
    } else if (addr->sa.ss_family == AF_INET6) {
        memcpy(&v6, &addr->sa, sizeof(v6));
        v6.sin6_port = htons(port);
        memcpy(&addr->sa, &v6, sizeof(v6));
    }
}

void kvl_sock_print(const struct kvl_sock_addr *addr, char *text_out, size_t size)
{
    char host[INET6_ADDRSTRLEN] = "?";
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    struct sockaddr_un un;

    switch (addr->sa.ss_family) {
    case AF_INET:
        memcpy(&v4, &addr->sa, sizeof(v4));
        inet_ntop(AF_INET, &v4.sin_addr, host, sizeof(host));
        snprintf(text_out, size, "%s:%u", host, (unsigned)ntohs(v4.sin_port));
        break;
    case AF_INET6:
        memcpy(&v6, &addr->sa, sizeof(v6));
        inet_ntop(AF_INET6, &v6.sin6_addr, host, sizeof(host));
        snprintf(text_out, size, "[%s]:%u", host, (unsigned)ntohs(v6.sin6_port));
        break;
    case AF_UNIX:
        memcpy(&un, &addr->sa, sizeof(un));
        snprintf(text_out, size, "unix:%.*s", (int)sizeof(un.sun_path), un.sun_path);
        break;
    default:
        snprintf(text_out, size, "?");
        break;
    }
}

static int sock_open(const struct kvl_sock_addr *addr)
{
    int fd = socket(addr->sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    return fd < 0 ? -errno : fd;
}

/* True when a Unix path exists but nobody listens there any more. */
static int sock_path_is_dead(const struct kvl_sock_addr *addr)
{
    int fd = sock_open(addr);
    int dead;

    if (fd < 0) {
        return 0;
    }
    dead =
        connect(fd, (const struct sockaddr *)&addr->sa, addr->length) < 0 && errno == ECONNREFUSED;
    close(fd);
    return dead;
}

static int sock_bind(int fd, const struct kvl_sock_addr *addr)
{
    struct sockaddr_un un;
    int r;

    if (bind(fd, (const struct sockaddr *)&addr->sa, addr->length) == 0) {
        return 0;
    }
    r = -errno;
    if (r != -EADDRINUSE || !kvl_sock_is_unix(addr) || !sock_path_is_dead(addr)) {
        return r;
    }
    memcpy(&un, &addr->sa, sizeof(un));
    if (unlink(un.sun_path) < 0 || bind(fd, (const struct sockaddr *)&addr->sa, addr->length) < 0) {
        return -errno;
    }
    return 0;
}

static void sock_set_int(int fd, int level, int name, int value)
{
    (void)setsockopt(fd, level, name, &value, sizeof(value));
}

static void sock_prepare_listen(int fd, const struct kvl_sock_addr *addr)
{
    struct sockaddr_in6 v6;

    if (kvl_sock_is_unix(addr)) {
        /* the mode of the socket's inode becomes that of the path, without a gap after bind() */
        (void)fchmod(fd, S_IRUSR | S_IWUSR);
        return;
    }
    sock_set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    if (addr->sa.ss_family == AF_INET6) {
        memcpy(&v6, &addr->sa, sizeof(v6));
        sock_set_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, !IN6_IS_ADDR_UNSPECIFIED(&v6.sin6_addr));
    }
}

int kvl_sock_listen(const struct kvl_sock_addr *addr, int backlog, int *fd_out)
{
    int fd = sock_open(addr);
    int r;

    if (fd < 0) {
        return fd;
    }
    sock_prepare_listen(fd, addr);
    r = sock_bind(fd, addr);
    if (r == 0 && listen(fd, backlog) < 0) {
        r = -errno;
    }
    if (r < 0) {
        close(fd);
        return r;
    }
    *fd_out = fd;
    return 0;
}

int kvl_sock_connect(const struct kvl_sock_addr *addr, int *fd_out)
{
    int fd = sock_open(addr);
    int r;

    if (fd < 0) {
        return fd;
    }
    if (connect(fd, (const struct sockaddr *)&addr->sa, addr->length) < 0 && errno != EINPROGRESS) {
        r = -errno;
        close(fd);
        return r;
    }
    *fd_out = fd;
    return 0;
}

int kvl_sock_error(int fd)
{
    int error = 0;
    socklen_t length = (socklen_t)sizeof(error);

    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0) {
        return -errno;
    }
    return -error;
}

int kvl_sock_local(int fd, struct kvl_sock_addr *addr_out)
{
    struct kvl_sock_addr addr = {.length = (socklen_t)sizeof(addr.sa)};

    if (getsockname(fd, (struct sockaddr *)&addr.sa, &addr.length) < 0) {
        return -errno;
    }
    *addr_out = addr;
    return 0;
}

void kvl_sock_set_nodelay(int fd)
{
    sock_set_int(fd, IPPROTO_TCP, TCP_NODELAY, 1);
}

void kvl_sock_set_keepalive(int fd)
{
    sock_set_int(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
}

void kvl_sock_quickack(int fd)
{
    sock_set_int(fd, IPPROTO_TCP, TCP_QUICKACK, 1);
}
