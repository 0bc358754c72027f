/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file tcp_remote_access.h
 * Who may connect: networks that are allowed and denied, users behind Unix sockets. Pure.
 */
#ifndef KVL_TCP_REMOTE_ACCESS_H
#define KVL_TCP_REMOTE_ACCESS_H

#include <stdbool.h>
#include <sys/types.h>

#include "sock.h"

#define TCP_REMOTE_NETS_MAX 64u
#define TCP_REMOTE_UIDS_MAX 32u

struct tcp_remote_net {
    uint8_t address[16]; /* an IPv4 one in the first 4 */
    uint8_t bits;
    bool is_v4;
};

struct tcp_remote_nets {
    struct tcp_remote_net nets[TCP_REMOTE_NETS_MAX];
    size_t count;
};

struct tcp_remote_access {
    struct tcp_remote_nets allow; /* none = every address */
    struct tcp_remote_nets deny; /* wins */
    uid_t uids[TCP_REMOTE_UIDS_MAX]; /* besides root and the running user */
    size_t uid_count;
};

/**
 * Parses `10.0.0.0/8, ::1, fd00::/8`. Without a length an address stands for itself; bits beyond
 * the length must be 0. ::ffff:a.b.c.d is an IPv4 address.
 * @return 0; -EINVAL, and the entry that is wrong in bad_out; -E2BIG too many.
 */
int tcp_remote_nets_parse(const char *text, struct tcp_remote_nets *nets_out, char *bad_out,
                          size_t bad_size);

/** The same for user numbers, `1000, 1001`. */
int tcp_remote_uids_parse(const char *text, struct tcp_remote_access *access_out, char *bad_out,
                          size_t bad_size);

/** Judges an IP address; any other kind passes. */
bool tcp_remote_access_allows(const struct tcp_remote_access *access,
                              const struct kvl_sock_addr *addr);

/** Judges the user behind a Unix socket; `own` is the running one. */
bool tcp_remote_access_allows_uid(const struct tcp_remote_access *access, uid_t own, uid_t uid);

#endif /* KVL_TCP_REMOTE_ACCESS_H */
