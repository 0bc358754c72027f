/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file metrics_options.h
 * The keys of the INI section `metrics`, and their values as one record.
 */
#ifndef KVL_METRICS_OPTIONS_H
#define KVL_METRICS_OPTIONS_H

#include <kvlane/backend.h>

#include "sock.h"

#define METRICS_CONNECTIONS_MAX 256u

struct metrics_options {
    struct kvl_sock_name listen;
    int allow_remote;
    const char *prefix; /* borrowed from the host */
    const char *needs; /* borrowed from the host */
    uint64_t timeout_ms;
    uint32_t max_connections;
};

#define METRICS_OPTION_COUNT 6u
extern const struct kvl_option metrics_option_table[METRICS_OPTION_COUNT];

/** Reads and checks the settings. @return 0; -EINVAL and err->text. */
int metrics_options_read(const struct kvl_host *host, struct metrics_options *options_out,
                         struct kvl_err *err);

/** True when `name` is one of the words between the commas of `list`. */
int metrics_list_has(const char *list, const char *name);

#endif /* KVL_METRICS_OPTIONS_H */
