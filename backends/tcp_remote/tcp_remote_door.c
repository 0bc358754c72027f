/* SPDX-License-Identifier: Apache-2.0 */
#include "tcp_remote_door.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "setting.h"

#define BACKLOG 1024

static int door_check_addr(const struct tcp_remote_options *options,
                           enum tcp_remote_protocol protocol, const struct kvl_sock_addr *addr,
                           struct kvl_err *err)
{
    char text[KVL_SOCK_TEXT_MAX];

    if (kvl_sock_is_loopback(addr) || options->allow_remote) {
        return 0;
    }
    if (protocol == TCP_REMOTE_LMS && options->tls.ca[0] != '\0') {
        return 0; /* peers show a certificate: that is what the others lack */
    }
    kvl_sock_print(addr, text, sizeof(text));
    return kvl_fail(err, -EACCES,
                    "tcp_remote: listen address '%s' is open to other hosts and the wire has "
                    "no authentication: use a loopback address or set allow_remote = yes",
                    text);
}

/* Users of allow_uid: the file's mode would keep them out before we see them. */
static void door_open_path(const struct kvl_sock_addr *addr)
{
    struct sockaddr_un un;

    memcpy(&un, &addr->sa, sizeof(un));
    (void)chmod(un.sun_path, S_IRUSR | S_IWUSR | S_IRGRP | S_IWGRP | S_IROTH | S_IWOTH);
}

static int door_open_addr(struct tcp_remote_doors *doors, const struct tcp_remote_options *options,
                          enum tcp_remote_protocol protocol, const struct kvl_sock_addr *addr,
                          struct kvl_err *err)
{
    struct tcp_remote_door *door = &doors->doors[doors->count];
    char text[KVL_SOCK_TEXT_MAX];
    int r = door_check_addr(options, protocol, addr, err);

    if (r < 0) {
        return r;
    }
    r = kvl_sock_listen(addr, BACKLOG, &door->fd);
    if (r < 0) {
        kvl_sock_print(addr, text, sizeof(text));
        return kvl_fail(err, r, "tcp_remote: cannot listen on '%s': %s", text, strerror(-r));
    }
    door->source = TCP_REMOTE_SOURCE_LISTENER;
    door->protocol = protocol;
    door->addr = *addr;
    doors->count++;
    (void)kvl_sock_local(door->fd, &door->addr);
    if (kvl_sock_is_unix(addr) && options->access.uid_count > 0) {
        door_open_path(addr);
    }
    return 0;
}

static int door_open_name(struct tcp_remote_doors *doors, const struct tcp_remote_options *options,
                          enum tcp_remote_protocol protocol, const struct kvl_sock_name *name,
                          struct kvl_err *err)
{
    struct kvl_sock_addr addrs[KVL_SOCK_ADDRS_MAX];
    uint16_t port = name->port;
    size_t count = 0;
    int r = kvl_sock_resolve(name, 1, addrs, KVL_SOCK_ADDRS_MAX, &count);

    if (r < 0) {
        return kvl_fail(err, r, "tcp_remote: cannot resolve listen host '%s'", name->host);
    }
    for (size_t i = 0; i < count; i++) {
        /* one port for all families of a name, also when the kernel picked it */
        kvl_sock_set_port(&addrs[i], port);
        r = door_open_addr(doors, options, protocol, &addrs[i], err);
        if (r == -EADDRNOTAVAIL && i > 0) {
            continue; /* a name with an address of a family this machine has not got */
        }
        if (r < 0) {
            return r;
        }
        port = kvl_sock_port(&doors->doors[doors->count - 1].addr);
    }
    return 0;
}

int tcp_remote_doors_open(struct tcp_remote_doors *doors, const struct tcp_remote_options *options,
                          struct kvl_err *err)
{
    const struct {
        enum tcp_remote_protocol protocol;
        const struct kvl_sock_name *names;
        size_t count;
    } lists[] = {
        {TCP_REMOTE_LM, options->listen, options->listen_count},
        {TCP_REMOTE_RESP, options->resp_listen, options->resp_listen_count},
        {TCP_REMOTE_LMS, options->tls_listen, options->tls_listen_count},
    };
    int r = 0;

    for (size_t l = 0; l < sizeof(lists) / sizeof(lists[0]); l++) {
        for (size_t i = 0; i < lists[l].count && r == 0; i++) {
            r = door_open_name(doors, options, lists[l].protocol, &lists[l].names[i], err);
        }
    }
    return r;
}

void tcp_remote_doors_close(struct tcp_remote_doors *doors)
{
    struct sockaddr_un un;

    for (size_t i = 0; i < doors->count; i++) {
        struct tcp_remote_door *door = &doors->doors[i];

        if (door->fd < 0) {
            continue;
        }
        if (kvl_sock_is_unix(&door->addr)) {
            /* before the close: while we listen nobody else takes the path over */
            memcpy(&un, &door->addr.sa, sizeof(un));
            (void)unlink(un.sun_path);
        }
        close(door->fd);
        door->fd = -1;
    }
}

int tcp_remote_doors_watch(struct tcp_remote_doors *doors, int epoll_fd, bool on)
{
    for (size_t i = 0; i < doors->count; i++) {
        struct tcp_remote_door *door = &doors->doors[i];
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = door};

        if (door->fd >= 0 &&
            epoll_ctl(epoll_fd, on ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, door->fd, &event) < 0 && on) {
            return -errno;
        }
    }
    return 0;
}

void tcp_remote_doors_print(const struct tcp_remote_doors *doors, enum tcp_remote_protocol protocol,
                            char *text_out, size_t size)
{
    static const char *const schemes[TCP_REMOTE_PROTOCOLS] = {"lm://", "resp://", "lms://"};
    char text[KVL_SOCK_TEXT_MAX];

    text_out[0] = '\0';
    for (size_t i = 0; i < doors->count; i++) {
        const struct tcp_remote_door *door = &doors->doors[i];

        if (door->protocol == protocol) {
            kvl_sock_print(&door->addr, text, sizeof(text));
            snprintf(text_out, size, "%s%s", kvl_sock_is_unix(&door->addr) ? "" : schemes[protocol],
                     text);
            return;
        }
    }
}

bool tcp_remote_door_admits(const struct tcp_remote_door *door,
                            const struct tcp_remote_access *access, int fd,
                            const struct kvl_sock_addr *addr)
{
    struct ucred user;
    socklen_t length = (socklen_t)sizeof(user);

    if (!kvl_sock_is_unix(&door->addr)) {
        return tcp_remote_access_allows(access, addr);
    }
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &user, &length) == 0 &&
           tcp_remote_access_allows_uid(access, geteuid(), user.uid);
}
