/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file py_socket_options.h
 * The keys of the INI section `py_socket`, and their values as one record.
 */
#ifndef KVL_PY_SOCKET_OPTIONS_H
#define KVL_PY_SOCKET_OPTIONS_H

#include <kvlane/backend.h>

#include "sock.h"

#define PY_SOCKET_CURVE_KEY 40u /* characters of a key, Z85 */
#define PY_SOCKET_CURVE_KEYS_MAX 256u
#define PY_SOCKET_STATIC_PEERS_MAX 256u

/** The public key of a server, for one URL or for all. */
struct py_socket_server_key {
    char url[KVL_CHANNEL_URL_ROOM]; /* host:port; "" = every other one */
    char key[PY_SOCKET_CURVE_KEY + 1];
};

struct py_socket_options {
    /* texts are borrowed from the host and live as long as the instance */
    const char *bind;
    const char *lookup_bind; /* "" = none */
    const char *advertise; /* host told to peers; "" = the bound one */
    const char *fingerprint; /* "" = any */
    int allow_remote;
    uint64_t handshake_timeout_ms;
    uint32_t max_peers;

    char (*peers)[KVL_CHANNEL_URL_ROOM]; /* owned; at start, see py_socket_seek_set_peers() */
    uint32_t peer_count;

    int with_curve;
    const char *curve_secret_key;
    char curve_public_key[PY_SOCKET_CURVE_KEY + 1];
    char (*curve_peer_keys)[PY_SOCKET_CURVE_KEY + 1]; /* owned; who may connect */
    uint32_t curve_peer_count; /* 0 = who knows our public key */
    struct py_socket_server_key *curve_server_keys; /* owned */
    uint32_t curve_server_count;

    /* ---- data plane ---- */
    uint32_t streams; /* data connections per peer */
    uint16_t data_port; /* 0 = the kernel picks */
    int shm;
};

#define PY_SOCKET_OPTION_COUNT 15u
extern const struct kvl_option py_socket_option_table[PY_SOCKET_OPTION_COUNT];

/** Reads and checks the settings. @return 0 and a record to give back; -EINVAL; -ENOMEM. */
int py_socket_options_read(const struct kvl_host *host, struct py_socket_options *options_out,
                           struct kvl_err *err);
void py_socket_options_fini(struct py_socket_options *options);

/**
 * Whether peers may be let in at this address.
 * @param what  key or parameter it came from, for the text
 * @return 0; -EACCES off loopback without allow_remote and CURVE, err->text.
 */
int py_socket_options_may_bind(const struct py_socket_options *options, const char *what,
                               const struct kvl_sock_addr *addr, struct kvl_err *err);

/** Key of the server at `url`; our own public key where none is given for it. */
const char *py_socket_options_server_key(const struct py_socket_options *options, const char *url);

#endif /* KVL_PY_SOCKET_OPTIONS_H */
