/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file tcp_remote_options.h
 * The keys of the INI section `tcp_remote`, and their values as one record.
 */
#ifndef KVL_TCP_REMOTE_OPTIONS_H
#define KVL_TCP_REMOTE_OPTIONS_H

#include <kvlane/backend.h>

#include "sock.h"
#include "tcp_remote_access.h"
#include "tcp_remote_tls.h"

#define TCP_REMOTE_LISTENERS_MAX 8u
#define TCP_REMOTE_NO_TLS "this build has no TLS: install libssl-dev and build it again"

enum tcp_remote_role { TCP_REMOTE_CLIENT, TCP_REMOTE_SERVER };

/** What is atomic may change under load, see tcp_remote_options_apply(). */
struct tcp_remote_options {
    enum tcp_remote_role role;
    struct tcp_remote_tls_files tls; /* borrowed from the host */

    /* client */
    struct kvl_sock_name url;
    const char *url_text; /* borrowed from the host */
    int url_is_tls; /* lms:// */
    const char *tls_name; /* borrowed from the host; "" = the host in the url */
    uint32_t connections;
    uint32_t client_threads;
    uint32_t max_in_flight;
    _Atomic uint64_t connect_timeout_ms;
    _Atomic uint64_t request_timeout_ms;
    _Atomic uint64_t backoff_min_ms;
    _Atomic uint64_t backoff_max_ms;
    int confirm;
    int checksum;

    /* server */
    struct kvl_sock_name listen[TCP_REMOTE_LISTENERS_MAX];
    size_t listen_count;
    struct kvl_sock_name resp_listen[TCP_REMOTE_LISTENERS_MAX];
    size_t resp_listen_count; /* 0 = off */
    const char *resp_password; /* borrowed from the host; "" = none */
    uint64_t resp_hold_ms; /* 0 = off */
    struct tcp_remote_access access;
    struct kvl_sock_name tls_listen[TCP_REMOTE_LISTENERS_MAX];
    size_t tls_listen_count; /* 0 = off */
    int allow_remote;
    uint32_t io_threads;
    _Atomic uint32_t max_connections;
    _Atomic uint64_t max_value;
    _Atomic uint64_t stall_timeout_ms;
    _Atomic uint64_t send_timeout_ms;
    _Atomic uint64_t idle_timeout_ms; /* 0 = off */
};

#define TCP_REMOTE_OPTION_COUNT 30u
extern const struct kvl_option tcp_remote_option_table[TCP_REMOTE_OPTION_COUNT];

/** Reads and checks the settings. @return 0; -EINVAL and err->text. */
int tcp_remote_options_read(const struct kvl_host *host, struct tcp_remote_options *options_out,
                            struct kvl_err *err);

/** Takes over what can change while others read: each value for itself. */
void tcp_remote_options_apply(struct tcp_remote_options *options,
                              const struct tcp_remote_options *fresh);

#endif /* KVL_TCP_REMOTE_OPTIONS_H */
