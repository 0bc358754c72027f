/* SPDX-License-Identifier: Apache-2.0 */
#include "tcp_remote_options.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "setting.h"

#define DAY_MS (24ll * 3600 * 1000)

const struct kvl_option tcp_remote_option_table[TCP_REMOTE_OPTION_COUNT] = {
    {"role", KVL_OPTION_ENUM, 0, "client", "client|server", 0, 0,
     "client: store chunks at a peer; server: serve the local store to peers"},
    {"url", KVL_OPTION_STRING, 0, "", NULL, 0, 0,
     "client: the peer, lm://host:port, host:port, [v6]:port, unix:/path or lms://host:port"},
    {"connections", KVL_OPTION_INT, 0, "2", NULL, 1, 64, "client: connections to the peer"},
    {"client_threads", KVL_OPTION_INT, 0, "1", NULL, 1, 16,
     "client: threads that share the connections"},
    {"connect_timeout", KVL_OPTION_DURATION, KVL_OPTION_RELOADABLE, "5s", NULL, 1, DAY_MS,
     "client: longest wait for one address to connect"},
    {"request_timeout", KVL_OPTION_DURATION, KVL_OPTION_RELOADABLE, "10s", NULL, 1, DAY_MS,
     "client: deadline of a batch that has none, and longest time without a byte moving"},
    {"confirm", KVL_OPTION_BOOL, 0, "yes", NULL, 0, 0,
     "client: ask for each chunk behind its PUT; the wire has no other answer"},
    {"checksum", KVL_OPTION_BOOL, 0, "no", NULL, 0, 0,
     "client: store sealed chunks, under keys of their own"},
    {"backoff_min", KVL_OPTION_DURATION, KVL_OPTION_RELOADABLE, "100ms", NULL, 1, DAY_MS,
     "client: first pause before connecting again"},
    {"backoff_max", KVL_OPTION_DURATION, KVL_OPTION_RELOADABLE, "10s", NULL, 1, DAY_MS,
     "client: longest pause before connecting again"},
    {"max_in_flight", KVL_OPTION_INT, 0, "1024", NULL, 1, 65536,
     "client: batches accepted at a time"},
    {"listen", KVL_OPTION_STRING, 0, "127.0.0.1:65432", NULL, 0, 0,
     "server: addresses with commas between them; port 0 lets the kernel pick"},
    {"allow_remote", KVL_OPTION_BOOL, 0, "no", NULL, 0, 0,
     "server: listen beyond loopback too; the wire has no authentication"},
    {"io_threads", KVL_OPTION_INT, 0, "16", NULL, 1, 64, "server: threads that serve connections"},
    {"max_connections", KVL_OPTION_INT, KVL_OPTION_RELOADABLE, "1024", NULL, 1, 1000000,
     "server: more are accepted and closed at once"},
    {"max_value", KVL_OPTION_SIZE, KVL_OPTION_RELOADABLE, "1GiB", NULL, 1, INT32_MAX,
     "server: largest chunk a peer may store"},
    {"stall_timeout", KVL_OPTION_DURATION, KVL_OPTION_RELOADABLE, "30s", NULL, 1, DAY_MS,
     "server: longest pause inside a header or body"},
    {"send_timeout", KVL_OPTION_DURATION, KVL_OPTION_RELOADABLE, "30s", NULL, 1, DAY_MS,
     "server: longest time a peer takes no byte of its reply"},
    {"idle_timeout", KVL_OPTION_DURATION, KVL_OPTION_RELOADABLE, "0", NULL, 0, DAY_MS,
     "server: longest pause between requests, 0 = no limit; LMCache's client never reconnects"},
    {"resp_listen", KVL_OPTION_STRING, 0, "", NULL, 0, 0,
     "server: addresses for Redis clients, as in listen; empty = off"},
    {"resp_password", KVL_OPTION_SECRET, 0, "", NULL, 0, 0,
     "server: what Redis clients must give with AUTH; empty = nothing"},
    {"resp_hold", KVL_OPTION_DURATION, 0, "10s", NULL, 0, DAY_MS,
     "server: how long a chunk stays for which EXISTS said 1; 0 = no longer than others"},
    {"allow", KVL_OPTION_STRING, 0, "", NULL, 0, 0,
     "server: networks that may connect, as 10.0.0.0/8, ::1; empty = all"},
    {"deny", KVL_OPTION_STRING, 0, "", NULL, 0, 0,
     "server: networks that may not, whatever allow says"},
    {"allow_uid", KVL_OPTION_STRING, 0, "", NULL, 0, 0,
     "server: user numbers that may connect to Unix paths, besides root and our own"},
    {"tls_listen", KVL_OPTION_STRING, 0, "", NULL, 0, 0,
     "server: addresses for clients with url = lms://..., as in listen; empty = off"},
    {"tls_cert", KVL_OPTION_PATH, 0, "", NULL, 0, 0,
     "PEM file: our certificate, then the ones between it and a root"},
    {"tls_key", KVL_OPTION_PATH, 0, "", NULL, 0, 0, "PEM file: its key, without a passphrase"},
    {"tls_ca", KVL_OPTION_PATH, 0, "", NULL, 0, 0,
     "PEM file: who signs certificates of peers; a server then asks for one"},
    {"tls_name", KVL_OPTION_STRING, 0, "", NULL, 0, 0,
     "client: name the peer's certificate must bear; empty = the host in the url"},
};

/* The files, and that they are there exactly when something is to use them. */
static int options_read_tls(const struct kvl_host *host, struct tcp_remote_options *options,
                            int is_wanted, const char *wanted_by, struct kvl_err *err)
{
    bool any;

    options->tls.cert = kvl_setting_text(host, "tls_cert");
    options->tls.key = kvl_setting_text(host, "tls_key");
    options->tls.ca = kvl_setting_text(host, "tls_ca");
    any = options->tls.cert[0] != '\0' || options->tls.key[0] != '\0' ||
          options->tls.ca[0] != '\0' || kvl_setting_text(host, "tls_name")[0] != '\0';
    if ((any || is_wanted) && !tcp_remote_tls_is_built()) {
        return kvl_fail(err, -EINVAL, "tcp_remote: " TCP_REMOTE_NO_TLS);
    }
    if (any && !is_wanted) {
        return kvl_fail(err, -EINVAL, "tcp_remote: tls_ keys are there without %s", wanted_by);
    }
    if ((options->tls.cert[0] == '\0') != (options->tls.key[0] == '\0')) {
        return kvl_fail(err, -EINVAL, "tcp_remote: tls_cert and tls_key go together");
    }
    if (is_wanted && options->role == TCP_REMOTE_SERVER && options->tls.cert[0] == '\0') {
        return kvl_fail(err, -EINVAL, "tcp_remote: tls_listen needs tls_cert and tls_key");
    }
    return 0;
}

static int options_read_url(struct tcp_remote_options *options)
{
    char text[300];

    options->url_is_tls = strncmp(options->url_text, "lms://", 6) == 0;
    if (!options->url_is_tls) {
        return kvl_sock_parse(options->url_text, &options->url);
    }
    if ((size_t)snprintf(text, sizeof(text), "lm://%s", options->url_text + 6) >= sizeof(text)) {
        return -ENAMETOOLONG;
    }
    return kvl_sock_parse(text, &options->url);
}

static int options_read_client(const struct kvl_host *host, struct tcp_remote_options *options,
                               struct kvl_err *err)
{
    int r;

    options->url_text = kvl_setting_text(host, "url");
    options->connections = (uint32_t)kvl_setting_number(host, "connections");
    options->client_threads = (uint32_t)kvl_setting_number(host, "client_threads");
    options->max_in_flight = (uint32_t)kvl_setting_number(host, "max_in_flight");
    options->connect_timeout_ms = (uint64_t)kvl_setting_number(host, "connect_timeout");
    options->request_timeout_ms = (uint64_t)kvl_setting_number(host, "request_timeout");
    options->backoff_min_ms = (uint64_t)kvl_setting_number(host, "backoff_min");
    options->backoff_max_ms = (uint64_t)kvl_setting_number(host, "backoff_max");
    options->confirm = kvl_setting_number(host, "confirm") != 0;
    options->checksum = kvl_setting_number(host, "checksum") != 0;
    if (options->backoff_max_ms < options->backoff_min_ms) {
        return kvl_fail(err, -EINVAL, "tcp_remote: backoff_max is below backoff_min");
    }
    if (options->url_text[0] == '\0') {
        return kvl_fail(err, -EINVAL, "tcp_remote: role client needs a url");
    }
    r = options_read_url(options);
    if (r < 0 || (!options->url.is_unix && options->url.port == 0)) {
        return kvl_fail(err, -EINVAL,
                        "tcp_remote: url '%s' is none of lm://host:port, host:port, "
                        "[v6]:port, unix:/path, lms://host:port",
                        options->url_text);
    }
    options->tls_name = kvl_setting_text(host, "tls_name");
    return options_read_tls(host, options, options->url_is_tls, "url = lms://host:port", err);
}

/* One of the lists of addresses; `name` is its key. */
static int options_read_listen(const struct kvl_host *host, const char *name,
                               struct kvl_sock_name *names_out, size_t *count_out,
                               struct kvl_err *err)
{
    const char *text = kvl_setting_text(host, name);
    size_t count = 0;
    char one[300];

    while (*text != '\0') {
        size_t length = strcspn(text, ",");
        size_t skip = strspn(text, " \t");

        if (skip > length) {
            skip = length;
        }
        if (count == TCP_REMOTE_LISTENERS_MAX || length - skip >= sizeof(one)) {
            return kvl_fail(err, -EINVAL, "tcp_remote: %s has too many or too long addresses",
                            name);
        }
        memcpy(one, text + skip, length - skip);
        one[length - skip] = '\0';
        for (size_t n = length - skip; n > 0 && strchr(" \t", one[n - 1]) != NULL; n--) {
            one[n - 1] = '\0';
        }
        if (kvl_sock_parse(one, &names_out[count]) < 0) {
            return kvl_fail(err, -EINVAL,
                            "tcp_remote: %s address '%s' is none of lm://host:port, "
                            "host:port, [v6]:port, unix:/path",
                            name, one);
        }
        count++;
        text += length + (text[length] == ',');
    }
    *count_out = count;
    return 0;
}

static int options_read_access(const struct kvl_host *host, struct tcp_remote_access *access,
                               struct kvl_err *err)
{
    const char *name = "allow";
    char bad[64] = "";
    int r = tcp_remote_nets_parse(kvl_setting_text(host, name), &access->allow, bad, sizeof(bad));

    if (r == 0) {
        name = "deny";
        r = tcp_remote_nets_parse(kvl_setting_text(host, name), &access->deny, bad, sizeof(bad));
    }
    if (r < 0) {
        return kvl_fail(err, -EINVAL,
                        r == -E2BIG ? "tcp_remote: %s names too many networks, from '%s' on"
                                    : "tcp_remote: %s: '%s' is no network such as "
                                      "10.0.0.0/8, 192.168.1.7 or fd00::/8",
                        name, bad);
    }
    r = tcp_remote_uids_parse(kvl_setting_text(host, "allow_uid"), access, bad, sizeof(bad));
    return r == 0 ? 0
                  : kvl_fail(err, -EINVAL, "tcp_remote: allow_uid: '%s' is %s", bad,
                             r == -E2BIG ? "one too many" : "no user number");
}

static int options_read_server(const struct kvl_host *host, struct tcp_remote_options *options,
                               struct kvl_err *err)
{
    int r;

    options->allow_remote = kvl_setting_number(host, "allow_remote") != 0;
    options->io_threads = (uint32_t)kvl_setting_number(host, "io_threads");
    options->max_connections = (uint32_t)kvl_setting_number(host, "max_connections");
    options->max_value = (uint64_t)kvl_setting_number(host, "max_value");
    options->stall_timeout_ms = (uint64_t)kvl_setting_number(host, "stall_timeout");
    options->send_timeout_ms = (uint64_t)kvl_setting_number(host, "send_timeout");
    options->idle_timeout_ms = (uint64_t)kvl_setting_number(host, "idle_timeout");
    options->resp_password = kvl_setting_text(host, "resp_password");
    options->resp_hold_ms = (uint64_t)kvl_setting_number(host, "resp_hold");
    r = options_read_access(host, &options->access, err);
    if (r < 0) {
        return r;
    }
    r = options_read_listen(host, "listen", options->listen, &options->listen_count, err);
    if (r == 0) {
        r = options_read_listen(host, "resp_listen", options->resp_listen,
                                &options->resp_listen_count, err);
    }
    if (r == 0) {
        r = options_read_listen(host, "tls_listen", options->tls_listen, &options->tls_listen_count,
                                err);
    }
    if (r == 0) {
        r = options_read_tls(host, options, options->tls_listen_count > 0, "tls_listen", err);
    }
    if (r == 0 &&
        options->listen_count + options->resp_listen_count + options->tls_listen_count == 0) {
        r = kvl_fail(err, -EINVAL, "tcp_remote: role server needs a listen address");
    }
    return r;
}

int tcp_remote_options_read(const struct kvl_host *host, struct tcp_remote_options *options_out,
                            struct kvl_err *err)
{
    struct tcp_remote_options options = {0};
    int r;

    options.role = kvl_setting_number(host, "role") == 1 ? TCP_REMOTE_SERVER : TCP_REMOTE_CLIENT;
    if (options.role == TCP_REMOTE_SERVER) {
        r = options_read_server(host, &options, err);
    } else {
        r = options_read_client(host, &options, err);
    }
    if (r == 0) {
        *options_out = options;
    }
    return r;
}

void tcp_remote_options_apply(struct tcp_remote_options *options,
                              const struct tcp_remote_options *fresh)
{
    options->connect_timeout_ms = fresh->connect_timeout_ms;
    options->request_timeout_ms = fresh->request_timeout_ms;
    options->backoff_min_ms = fresh->backoff_min_ms;
    options->backoff_max_ms = fresh->backoff_max_ms;
    options->max_connections = fresh->max_connections;
    options->max_value = fresh->max_value;
    options->stall_timeout_ms = fresh->stall_timeout_ms;
    options->send_timeout_ms = fresh->send_timeout_ms;
    options->idle_timeout_ms = fresh->idle_timeout_ms;
}
