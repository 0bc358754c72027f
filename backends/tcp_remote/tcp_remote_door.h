/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file tcp_remote_door.h
 * The listening sockets of the server role and what is spoken behind each. One thread at a time.
 */
#ifndef KVL_TCP_REMOTE_DOOR_H
#define KVL_TCP_REMOTE_DOOR_H

#include "tcp_remote_loop.h"

enum tcp_remote_protocol {
    TCP_REMOTE_LM,
    TCP_REMOTE_RESP,
    TCP_REMOTE_LMS, /* lm:// in TLS */
    TCP_REMOTE_PROTOCOLS
};

#define TCP_REMOTE_DOORS_MAX (TCP_REMOTE_PROTOCOLS * TCP_REMOTE_LISTENERS_MAX * KVL_SOCK_ADDRS_MAX)

struct tcp_remote_door {
    enum tcp_remote_source source; /* LISTENER */
    enum tcp_remote_protocol protocol;
    int fd; /* -1 = closed */
    struct kvl_sock_addr addr;
};

struct tcp_remote_doors {
    struct tcp_remote_door doors[TCP_REMOTE_DOORS_MAX];
    size_t count;
};

/**
 * Listens at every address of the options. What is open when it fails is closed by close().
 * @return 0; -EACCES, -EADDRINUSE, ... and err->text.
 */
int tcp_remote_doors_open(struct tcp_remote_doors *doors, const struct tcp_remote_options *options,
                          struct kvl_err *err);

/** Stops listening and takes Unix paths away. Again is harmless. */
void tcp_remote_doors_close(struct tcp_remote_doors *doors);

/** Lets epoll watch them, or no longer. @return 0; a negative errno. */
int tcp_remote_doors_watch(struct tcp_remote_doors *doors, int epoll_fd, bool on);

/** Prints the first address of a protocol as a client names it; "" when there is none. */
void tcp_remote_doors_print(const struct tcp_remote_doors *doors, enum tcp_remote_protocol protocol,
                            char *text_out, size_t size);

/** Judges an accepted socket by its address, or by the user behind it. */
bool tcp_remote_door_admits(const struct tcp_remote_door *door,
                            const struct tcp_remote_access *access, int fd,
                            const struct kvl_sock_addr *addr);

#endif /* KVL_TCP_REMOTE_DOOR_H */
