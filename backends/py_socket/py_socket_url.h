/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file py_socket_url.h
 * URLs as LMCache writes them: host:port without scheme. Pure functions.
 */
#ifndef KVL_PY_SOCKET_URL_H
#define KVL_PY_SOCKET_URL_H

#include <kvlane/channel.h>

#include "sock.h"

/**
 * Takes `tcp://host:port`, `host:port`, `[v6]:port` and a bare port, which is one of 127.0.0.1; a
 * host `*` becomes 0.0.0.0.
 * @return 0; -EINVAL anything else; -ENAMETOOLONG.
 */
int py_socket_url_parse(const char *text, struct kvl_sock_name *name_out);

/** host:port or [v6]:port into KVL_CHANNEL_URL_ROOM bytes. @return 0; -ENAMETOOLONG. */
int py_socket_url_print(const char *host, uint16_t port, char *url_out);

/** Both: what peers are to be told. @return as above; -EINVAL also for port 0. */
int py_socket_url_normal(const char *text, char *url_out);

/** 1 for an address nobody can connect to: 0.0.0.0 and ::. */
int py_socket_url_is_wildcard(const char *host);

#endif /* KVL_PY_SOCKET_URL_H */
