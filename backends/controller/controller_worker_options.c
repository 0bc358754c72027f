/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>

#include "controller_options.h"
#include "setting.h"
#include "sock.h"

static uint64_t options_number(const struct kvl_host *host, const char *name)
{
    return (uint64_t)kvl_setting_get(host, name).number;
}

static int options_text(const struct kvl_host *host, const char *name, const char **text_out,
                        struct kvl_err *err)
{
    const char *text = kvl_setting_get(host, name).text;

    if (strlen(text) > KVL_NAME_MAX) {
        return kvl_fail(err, -EINVAL, "controller: %s is longer than %u bytes", name, KVL_NAME_MAX);
    }
    *text_out = text;
    return 0;
}

static const char *options_bare(const char *url)
{
    return strncmp(url, "tcp://", 6) == 0 ? url + 6 : url;
}

static int options_is_local(const char *url)
{
    struct kvl_sock_name name;
    struct kvl_sock_addr addr;
    size_t count;

    if (kvl_sock_parse(url, &name) < 0) {
        return 0;
    }
    if (strcmp(name.host, "localhost") == 0) {
        return 1;
    }
    /* no name is looked up: only what is a number can be told here */
    return strspn(name.host, "0123456789abcdefABCDEF.:") == strlen(name.host) &&
           kvl_sock_resolve(&name, 0, &addr, 1, &count) == 0 && kvl_sock_is_loopback(&addr);
}

static int options_url(const struct kvl_host *host, const char *name, const char **url_out,
                       struct kvl_err *err)
{
    struct kvl_sock_name parsed;
    int r = options_text(host, name, url_out, err);

    if (r < 0) {
        return r;
    }
    *url_out = options_bare(*url_out);
    if (kvl_sock_parse(*url_out, &parsed) < 0 || parsed.is_unix || parsed.port == 0) {
        return kvl_fail(err, -EINVAL,
                        "controller: role worker needs %s = host:port of the controller, "
                        "not '%s'",
                        name, *url_out);
    }
    return 0;
}

static int options_texts(const struct kvl_host *host, struct controller_worker_options *options,
                         struct kvl_err *err)
{
    int r = options_text(host, "instance_id", &options->instance_id, err);

    if (r == 0 && options->instance_id[0] == '\0') {
        r = kvl_fail(err, -EINVAL, "controller: role worker needs an instance_id");
    }
    if (r == 0) {
        r = options_url(host, "controller_pull_url", &options->pull_url, err);
    }
    if (r == 0) {
        r = options_url(host, "controller_reply_url", &options->reply_url, err);
    }
    if (r == 0) {
        r = options_text(host, "ip", &options->ip, err);
    }
    if (r == 0) {
        r = options_text(host, "peer_init_url", &options->peer_init_url, err);
    }
    return r == 0 ? options_text(host, "location", &options->location, err) : r;
}

int controller_worker_options_read(const struct kvl_host *host,
                                   struct controller_worker_options *options_out,
                                   struct kvl_err *err)
{
    struct controller_worker_options options = {
        .worker_id = kvl_setting_get(host, "worker_id").number,
        .port = (int32_t)kvl_setting_get(host, "worker_port").number,
        .allow_remote = kvl_setting_get(host, "allow_remote").number != 0,
        .heartbeat_delay_ms = options_number(host, "heartbeat_delay"),
        .heartbeat_ms = options_number(host, "heartbeat_time"),
        .batch_size = (uint32_t)options_number(host, "batch_size"),
        .batch_timeout_ms = options_number(host, "batch_timeout"),
        .recv_ms = options_number(host, "recv_timeout"),
        .send_ms = options_number(host, "send_timeout"),
        .sync_batch_size = (uint32_t)options_number(host, "sync_batch_size"),
        .sync_startup_delay_ms = options_number(host, "sync_startup_delay"),
        .pin_ms = options_number(host, "pin_time"),
        .pin_bytes = options_number(host, "pin_budget"),
    };
    int r = options_texts(host, &options, err);

    if (r < 0) {
        return r;
    }
    options.peer_init_url = options_bare(options.peer_init_url);
    if (!options.allow_remote && options.ip[0] == '\0' &&
        (!options_is_local(options.pull_url) || !options_is_local(options.reply_url))) {
        return kvl_fail(err, -EINVAL,
                        "controller: a controller at '%s' cannot reach our control service "
                        "on 127.0.0.1: set allow_remote = yes, or ip to what it is to be told",
                        options.reply_url);
    }
    *options_out = options;
    return 0;
}
