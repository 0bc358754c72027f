/* SPDX-License-Identifier: Apache-2.0 */
#include "metrics_options.h"

#include <errno.h>
#include <string.h>

#include "setting.h"

#define PREFIX_MAX 32u

const struct kvl_option metrics_option_table[METRICS_OPTION_COUNT] = {
    {"listen", KVL_OPTION_STRING, 0, "127.0.0.1:9470", NULL, 0, 0,
     "host:port or [v6]:port; port 0 lets the kernel pick"},
    {"allow_remote", KVL_OPTION_BOOL, 0, "no", NULL, 0, 0,
     "listen beyond loopback too; nobody is asked for a password"},
    {"prefix", KVL_OPTION_STRING, 0, "kvlane", NULL, 0, 0, "first word of every metric's name"},
    {"needs", KVL_OPTION_STRING, 0, "", NULL, 0, 0,
     "sections with commas between them that must not be down for /health to answer 200"},
    {"timeout", KVL_OPTION_DURATION, 0, "10s", NULL, 100, 3600 * 1000,
     "longest time from a connection, or the reply before, to the end of a reply"},
    {"max_connections", KVL_OPTION_INT, 0, "32", NULL, 1, METRICS_CONNECTIONS_MAX,
     "more wait in the kernel until one ends"},
};

/* What Prometheus takes as the beginning of a name. */
static int options_prefix_ok(const char *prefix)
{
    size_t length = strlen(prefix);

    return length > 0 && length <= PREFIX_MAX && strchr("0123456789", prefix[0]) == NULL &&
           strspn(prefix, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") ==
               length;
}

int metrics_options_read(const struct kvl_host *host, struct metrics_options *options_out,
                         struct kvl_err *err)
{
    const char *listen = kvl_setting_get(host, "listen").text;
    struct metrics_options options = {
        .allow_remote = kvl_setting_get(host, "allow_remote").number != 0,
        .prefix = kvl_setting_get(host, "prefix").text,
        .needs = kvl_setting_get(host, "needs").text,
        .timeout_ms = (uint64_t)kvl_setting_get(host, "timeout").number,
        .max_connections = (uint32_t)kvl_setting_get(host, "max_connections").number,
    };

    if (kvl_sock_parse(listen, &options.listen) < 0 || options.listen.is_unix) {
        return kvl_fail(err, -EINVAL,
                        "metrics: listen address '%s' is none of host:port, [v6]:port", listen);
    }
    if (!options_prefix_ok(options.prefix)) {
        return kvl_fail(err, -EINVAL,
                        "metrics: prefix '%s' is not 1 to %u letters, digits and '_' that begin "
                        "with no digit",
                        options.prefix, PREFIX_MAX);
    }
    *options_out = options;
    return 0;
}

int metrics_list_has(const char *list, const char *name)
{
    size_t wanted = strlen(name);

    while (*list != '\0') {
        size_t length;

        list += strspn(list, " \t,");
        length = strcspn(list, ",");
        while (length > 0 && strchr(" \t", list[length - 1]) != NULL) {
            length--;
        }
        if (length > 0 && length == wanted && memcmp(list, name, length) == 0) {
            return 1;
        }
        list += strcspn(list, ",");
    }
    return 0;
}
