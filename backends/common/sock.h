/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file sock.h
 * Stream sockets over IPv4, IPv6 and Unix paths. Every socket made here is non-blocking and
 * close-on-exec. Nothing is logged; functions return 0 or a negative errno.
 */
#ifndef KVL_SOCK_H
#define KVL_SOCK_H

#include <sys/socket.h>

#include <kvlane/abi.h>

/** Most addresses one name resolves to here; more are dropped. */
#define KVL_SOCK_ADDRS_MAX 16u
/** Room for a printed address, with its terminator. */
#define KVL_SOCK_TEXT_MAX 128u

/** An address as a person wrote it. */
struct kvl_sock_name {
    char host[256]; /* without brackets; the path when is_unix */
    uint16_t port;
    uint8_t is_unix;
};

/** A resolved address. */
struct kvl_sock_addr {
    struct sockaddr_storage sa;
    socklen_t length;
};

/**
 * Parses `lm://host:port`, `host:port`, `[v6]:port` and `unix:/path`. A slash may end the first.
 * @return 0; -EINVAL anything else, also a port over 65535; -ENAMETOOLONG.
 */
int kvl_sock_parse(const char *text, struct kvl_sock_name *name_out);

/**
 * Resolves a name into 1 .. max addresses, IPv4 ones first. Blocks in the system's resolver, unless
 * the host is numeric or a path.
 * @param passive  1 when the addresses are for listening
 * @return 0; -EHOSTUNREACH unknown host; -EAGAIN the resolver failed for now; -ENOMEM.
 */
int kvl_sock_resolve(const struct kvl_sock_name *name, int passive, struct kvl_sock_addr *addrs_out,
                     size_t max, size_t *count_out);

/** 1 for 127.0.0.0/8, ::1, ::ffff:127.0.0.0/104 and Unix paths. */
int kvl_sock_is_loopback(const struct kvl_sock_addr *addr);

/** 1 for the address of a Unix path. */
int kvl_sock_is_unix(const struct kvl_sock_addr *addr);

/** Port of an IP address in host order, 0 for a Unix path. */
uint16_t kvl_sock_port(const struct kvl_sock_addr *addr);

/** Changes the port of an IP address. */
void kvl_sock_set_port(struct kvl_sock_addr *addr, uint16_t port);

/** Prints `127.0.0.1:80`, `[::1]:80` or `unix:/path`; cuts what does not fit. */
void kvl_sock_print(const struct kvl_sock_addr *addr, char *text_out, size_t size);

/**
 * Binds and listens. `::` serves both families. A Unix path gets mode 0600; one left behind by a
 * dead listener is replaced.
 * @return 0 and a socket; -EADDRINUSE, -EACCES, ...
 */
int kvl_sock_listen(const struct kvl_sock_addr *addr, int backlog, int *fd_out);

/**
 * Begins to connect.
 * @return 0 and a socket that is connected, or will be writable when it is or has failed: then ask
 *         kvl_sock_error(); -ECONNREFUSED, ...
 */
int kvl_sock_connect(const struct kvl_sock_addr *addr, int *fd_out);

/** The pending error of a socket as a negative errno, 0 when there is none. */
int kvl_sock_error(int fd);

/** The address a socket is bound to. */
int kvl_sock_local(int fd, struct kvl_sock_addr *addr_out);

/** Options of a TCP socket; harmless on others. */
void kvl_sock_set_nodelay(int fd);
void kvl_sock_set_keepalive(int fd);

/** Acknowledges at once. The kernel leaves this mode by itself: call again after each read. */
void kvl_sock_quickack(int fd);

#endif /* KVL_SOCK_H */
