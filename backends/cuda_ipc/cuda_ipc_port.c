/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda_ipc_port.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

struct cuda_ipc_packet {
    struct cuda_ipc_packet *next;
    int fd; /* a copy; -1 = none */
    size_t length;
    uint8_t bytes[];
};

static int port_arm(const struct cuda_ipc_port *port, int op)
{
    struct epoll_event event = {.data.u64 = port->tag};

    event.events = (port->is_paused ? 0u : (uint32_t)EPOLLIN) |
                   (port->first != NULL ? (uint32_t)EPOLLOUT : 0u) | (uint32_t)EPOLLRDHUP;
    return epoll_ctl(port->epoll_fd, op, port->fd, &event) < 0 ? -errno : 0;
}

int cuda_ipc_port_open(struct cuda_ipc_port *port, int epoll_fd, int take_fd, uint64_t tag)
{
    int r;

    *port = (struct cuda_ipc_port){.epoll_fd = epoll_fd, .fd = take_fd, .pidfd = -1, .tag = tag};
    r = port_arm(port, EPOLL_CTL_ADD);
    if (r < 0) {
        close(take_fd);
        port->fd = -1;
    }
    return r;
}

void cuda_ipc_port_watch(struct cuda_ipc_port *port, int take_pidfd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = port->tag | 1};

    if (take_pidfd < 0) {
        return;
    }
    if (epoll_ctl(port->epoll_fd, EPOLL_CTL_ADD, take_pidfd, &event) < 0) {
        close(take_pidfd);
        return;
    }
    port->pidfd = take_pidfd;
}

static void port_drop_first(struct cuda_ipc_port *port)
{
    struct cuda_ipc_packet *packet = port->first;

    port->first = packet->next;
    port->last = port->first == NULL ? NULL : port->last;
    port->waiting--;
    if (packet->fd >= 0) {
        close(packet->fd);
    }
    free(packet);
}

void cuda_ipc_port_close(struct cuda_ipc_port *port)
{
    while (port->first != NULL) {
        port_drop_first(port);
    }
    /* taken out by name: a child of a fork may keep the file open, and with it the events */
    if (port->pidfd >= 0) {
        (void)epoll_ctl(port->epoll_fd, EPOLL_CTL_DEL, port->pidfd, NULL);
        close(port->pidfd);
    }
    if (port->fd >= 0) {
        (void)epoll_ctl(port->epoll_fd, EPOLL_CTL_DEL, port->fd, NULL);
        (void)shutdown(port->fd, SHUT_RDWR); /* likewise: the other side is to notice */
        close(port->fd);
    }
    port->pidfd = -1;
    port->fd = -1;
}

/* @return 0; -EAGAIN; -ENOTCONN, .. */
static int port_try(const struct cuda_ipc_port *port, const uint8_t *bytes, size_t length, int fd)
{
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec iov = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = length};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};

    if (fd >= 0) {
        memset(&control, 0, sizeof(control));
        control.head.cmsg_level = SOL_SOCKET;
        control.head.cmsg_type = SCM_RIGHTS;
        control.head.cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(&control.head), &fd, sizeof(fd));
        message.msg_control = control.bytes;
        message.msg_controllen = sizeof(control.bytes);
    }
    if (sendmsg(port->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0) {
        return 0;
    }
    return errno == EPIPE ? -ENOTCONN : -errno;
}

static int port_queue(struct cuda_ipc_port *port, const uint8_t *bytes, size_t length, int fd)
{
    struct cuda_ipc_packet *packet;

    if (port->waiting == CUDA_IPC_PORT_QUEUE) {
        return -EMSGSIZE;
    }
    packet = malloc(sizeof(*packet) + length);
    if (packet == NULL) {
        return -ENOMEM;
    }
    *packet = (struct cuda_ipc_packet){.fd = -1, .length = length};
    if (fd >= 0) {
        packet->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
        if (packet->fd < 0) {
            free(packet);
            return -errno;
        }
    }
    memcpy(packet->bytes, bytes, length);
    if (port->last != NULL) {
        port->last->next = packet;
    } else {
        port->first = packet;
    }
    port->last = packet;
    return port->waiting++ == 0 ? port_arm(port, EPOLL_CTL_MOD) : 0;
}

int cuda_ipc_port_send(struct cuda_ipc_port *port, const uint8_t *bytes, size_t length, int fd)
{
    int r = port->fd < 0 ? -ENOTCONN : -EAGAIN;

    if (r == -EAGAIN && port->first == NULL) {
        r = port_try(port, bytes, length, fd);
    }
    return r == -EAGAIN ? port_queue(port, bytes, length, fd) : r;
}

int cuda_ipc_port_flush(struct cuda_ipc_port *port)
{
    int r = 0;

    if (port->first == NULL) {
        return 0;
    }
    while (r == 0 && port->first != NULL) {
        r = port_try(port, port->first->bytes, port->first->length, port->first->fd);
        if (r == 0) {
            port_drop_first(port);
        }
    }
    if (r == -EAGAIN) {
        return 0;
    }
    return r < 0 ? r : port_arm(port, EPOLL_CTL_MOD);
}

void cuda_ipc_port_pause(struct cuda_ipc_port *port, bool is_paused)
{
    if (port->fd >= 0 && port->is_paused != is_paused) {
        port->is_paused = is_paused;
        (void)port_arm(port, EPOLL_CTL_MOD);
    }
}

/* The one descriptor that came along; more than one is a lie. */
static int port_take_fds(struct msghdr *message, int *fd_out)
{
    int r = 0;

    *fd_out = -1;
    for (struct cmsghdr *head = CMSG_FIRSTHDR(message); head != NULL;
         head = CMSG_NXTHDR(message, head)) {
        if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        for (size_t at = CMSG_LEN(0); at + sizeof(int) <= head->cmsg_len; at += sizeof(int)) {
            int fd;

            memcpy(&fd, (const char *)head + at, sizeof(fd));
            if (*fd_out >= 0) {
                close(fd);
                r = -EPROTO;
            } else {
                *fd_out = fd;
            }
        }
    }
    if (r == 0 && (message->msg_flags & MSG_CTRUNC) != 0) {
        r = -EPROTO;
    }
    if (r < 0 && *fd_out >= 0) {
        close(*fd_out);
        *fd_out = -1;
    }
    return r;
}

int cuda_ipc_port_receive(struct cuda_ipc_port *port, uint8_t *bytes_out, size_t *length_out,
                          int *fd_out)
{
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(4 * sizeof(int))];
    } control;
    struct iovec iov = {.iov_base = bytes_out, .iov_len = CUDA_IPC_WIRE_MAX};
    struct msghdr message = {
        .msg_iov = &iov,
        .msg_iovlen = 1,
        .msg_control = control.bytes,
        .msg_controllen = sizeof(control.bytes),
    };
    ssize_t length;
    int fd;
    int r;

    if (port->fd < 0) {
        return -ENOTCONN;
    }
    length = recvmsg(port->fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (length < 0) {
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    }
    r = port_take_fds(&message, &fd);
    if (r == 0 && (message.msg_flags & MSG_TRUNC) != 0) {
        r = -EMSGSIZE;
    } else if (r == 0 && length == 0) {
        r = -ENOTCONN;
    }
    if (r < 0) {
        if (fd >= 0) {
            close(fd);
        }
        return r;
    }
    *length_out = (size_t)length;
    *fd_out = fd;
    return 1;
}
