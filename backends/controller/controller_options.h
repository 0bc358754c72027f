/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file controller_options.h
 * The keys of the INI section `controller`, of both roles, and their values as one record.
 */
#ifndef KVL_CONTROLLER_OPTIONS_H
#define KVL_CONTROLLER_OPTIONS_H

#include <kvlane/backend.h>

#include "controller_hash.h"
#include "controller_wire.h"
#include "controller_worker.h"

enum controller_role_name { CONTROLLER_ROLE_CONTROLLER, CONTROLLER_ROLE_WORKER };

/** Texts are borrowed from the host and live as long as the backend; "" = unset. */
struct controller_options {
    enum controller_role_name role;

    /* ---- role controller ---- */
    const char *host; /* to bind to: name, IPv4, IPv6 without brackets, or `*` */
    int32_t pull_port; /* 0 = the kernel picks */
    int32_t reply_port; /* 0 = the kernel picks */
    int32_t heartbeat_port; /* 0 = none, -1 = the kernel picks */
    int http; /* 1 = serve the HTTP API */
    const char *http_host; /* "" = as host */
    int32_t http_port; /* 0 = the kernel picks */
    int allow_remote;
    uint64_t health_check_interval_ms; /* 0 = off */
    uint64_t worker_timeout_ms;
    uint64_t control_timeout_ms;
    struct controller_hashing hashing;
    const char *snapshot; /* path */
    uint64_t snapshot_interval_ms; /* 0 = only at the end */
    struct controller_limits limits; /* of a frame from outside */
    uint64_t batch_count_max; /* of one full sync */
    const char *announce_host; /* told to workers; "" = host */
    int32_t replica_port; /* 0 = none, -1 = the kernel picks */
    size_t replica_buffer; /* bytes */
    const char *replica_dir;
    const char *standby_of; /* host:port; "" = nobody's */
    uint64_t standby_takeover_ms;

    struct controller_worker_options worker; /* role worker */
};

#define CONTROLLER_OPTION_COUNT 46u
extern const struct kvl_option controller_option_table[CONTROLLER_OPTION_COUNT];

/**
 * Reads and checks the settings. Resolves no names: what needs that is checked at start.
 * @return 0; -EINVAL and err->text.
 */
int controller_options_read(const struct kvl_host *host, struct controller_options *options_out,
                            struct kvl_err *err);

/**
 * The part of role worker, without what it shares with the other role.
 * @return 0; -EINVAL and err->text.
 */
int controller_worker_options_read(const struct kvl_host *host,
                                   struct controller_worker_options *options_out,
                                   struct kvl_err *err);

#endif /* KVL_CONTROLLER_OPTIONS_H */
