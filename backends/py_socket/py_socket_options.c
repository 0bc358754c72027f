/* SPDX-License-Identifier: Apache-2.0 */
#include "py_socket_options.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <zmq.h>

#include "py_socket_url.h"
#include "setting.h"

#define HOUR_MS (3600ll * 1000)

const struct kvl_option py_socket_option_table[PY_SOCKET_OPTION_COUNT] = {
    {"bind", KVL_OPTION_STRING, 0, "127.0.0.1:0", NULL, 0, 0,
     "peer_init_url: host:port, [v6]:port or port; port 0 lets the kernel pick"},
    {"lookup_bind", KVL_OPTION_STRING, 0, "", NULL, 0, 0,
     "peer_lookup_url, in the forms of bind; unset = none"},
    {"advertise", KVL_OPTION_STRING, 0, "", NULL, 0, 0,
     "host that peers are told; unset = the one that is bound"},
    {"peers", KVL_OPTION_STRING, KVL_OPTION_RELOADABLE, "", NULL, 0, 0,
     "peer_init_urls with commas between them, of peers that are always there"},
    {"allow_remote", KVL_OPTION_BOOL, 0, "no", NULL, 0, 0,
     "bind beyond loopback without CURVE; the wire has no authentication of its own"},
    {"handshake_timeout", KVL_OPTION_DURATION, 0, "5s", NULL, 10, HOUR_MS,
     "deadline of a handshake, or of a lookup, that has none"},
    {"max_peers", KVL_OPTION_INT, 0, "1024", NULL, 1, 65536,
     "peers remembered; over it the idle one unseen for longest goes"},
    {"fingerprint", KVL_OPTION_STRING, 0, "", NULL, 0, 0,
     "text for model, layout, ..: kvlane peers with another one are refused; unset = any"},
    {"curve_secret_key", KVL_OPTION_SECRET, 0, "", NULL, 0, 0,
     "turns CURVE on: our secret key, 40 characters of Z85"},
    {"curve_public_key", KVL_OPTION_STRING, 0, "", NULL, 0, 0,
     "our public key; unset = worked out from the secret one"},
    {"curve_peer_keys", KVL_OPTION_STRING, 0, "", NULL, 0, 0,
     "public keys that may connect, commas between them; unset = whoever knows ours"},
    {"curve_server_keys", KVL_OPTION_STRING, 0, "", NULL, 0, 0,
     "public keys of those we connect to: host:port=KEY, or KEY for all others; unset = our own"},
    {"streams", KVL_OPTION_INT, 0, "2", NULL, 1, 16, "data connections per peer on another host"},
    {"data_port", KVL_OPTION_INT, 0, "0", NULL, 0, 65535,
     "TCP port of the data plane; 0 lets the kernel pick"},
    {"shm", KVL_OPTION_BOOL, 0, "yes", NULL, 0, 0, "shared memory with peers of the same host"},
};

/* Takes one entry of a list with commas, without the blanks around it. @return 1; 0 at the end. */
static int options_next(const char **list, const char **entry_out, size_t *length_out)
{
    while (**list != '\0') {
        const char *at = *list + strspn(*list, " \t");
        size_t length = strcspn(at, ",");

        *list = at + length + (at[length] == ',');
        while (length > 0 && strchr(" \t", at[length - 1]) != NULL) {
            length--;
        }
        if (length > 0) {
            *entry_out = at;
            *length_out = length;
            return 1;
        }
    }
    return 0;
}

static uint32_t options_entries(const char *list)
{
    const char *entry;
    size_t length;
    uint32_t count = 0;

    while (options_next(&list, &entry, &length)) {
        count++;
    }
    return count;
}

/* Room for the entries of a list. @return how many; -EINVAL too many; -ENOMEM. */
static int options_room(const char *name, const char *list, uint32_t max, size_t size,
                        void **room_out, struct kvl_err *err)
{
    uint32_t count = options_entries(list);

    if (count > max) {
        return kvl_fail(err, -EINVAL, "py_socket: %s has more than %u entries", name, max);
    }
    if (count > 0) {
        *room_out = calloc(count, size);
        if (*room_out == NULL) {
            return kvl_fail(err, -ENOMEM, "py_socket: no memory");
        }
    }
    return (int)count;
}

static int options_read_peers(const char *list, struct py_socket_options *options,
                              struct kvl_err *err)
{
    void *room = NULL;
    int count = options_room("peers", list, PY_SOCKET_STATIC_PEERS_MAX, sizeof(*options->peers),
                             &room, err);
    const char *entry;
    size_t length;

    if (count < 0) {
        return count;
    }
    options->peers = room;
    while (options_next(&list, &entry, &length)) {
        char text[KVL_CHANNEL_URL_ROOM];

        snprintf(text, sizeof(text), "%.*s", (int)length, entry);
        if (length >= sizeof(text) ||
            py_socket_url_normal(text, options->peers[options->peer_count]) < 0) {
            return kvl_fail(err, -EINVAL,
                            "py_socket: peers: '%s' is none of host:port, [v6]:port, port", text);
        }
        options->peer_count++;
    }
    return 0;
}

static int options_is_key(const char *text, size_t length)
{
    char key[PY_SOCKET_CURVE_KEY + 1];
    uint8_t raw[32];

    if (length != PY_SOCKET_CURVE_KEY) {
        return 0;
    }
    memcpy(key, text, length);
    key[length] = '\0';
    return zmq_z85_decode(raw, key) != NULL;
}

static int options_read_peer_keys(const char *list, struct py_socket_options *options,
                                  struct kvl_err *err)
{
    void *room = NULL;
    int count = options_room("curve_peer_keys", list, PY_SOCKET_CURVE_KEYS_MAX,
                             sizeof(*options->curve_peer_keys), &room, err);
    const char *entry;
    size_t length;

    if (count < 0) {
        return count;
    }
    options->curve_peer_keys = room;
    while (options_next(&list, &entry, &length)) {
        if (!options_is_key(entry, length)) {
            return kvl_fail(err, -EINVAL,
                            "py_socket: curve_peer_keys: entry %u is no key of 40 characters",
                            options->curve_peer_count + 1);
        }
        memcpy(options->curve_peer_keys[options->curve_peer_count++], entry, length);
    }
    return 0;
}

/* One `host:port=KEY` or `KEY`. A key may have '=' in it, so it is taken from the end. */
static int options_read_server_key(const char *entry, size_t length,
                                   struct py_socket_server_key *key_out)
{
    char url[KVL_CHANNEL_URL_ROOM];
    size_t head;

    if (length < PY_SOCKET_CURVE_KEY) {
        return -EINVAL;
    }
    head = length - PY_SOCKET_CURVE_KEY;
    if (!options_is_key(entry + head, PY_SOCKET_CURVE_KEY)) {
        return -EINVAL;
    }
    memcpy(key_out->key, entry + head, PY_SOCKET_CURVE_KEY);
    if (head == 0) {
        return 0;
    }
    if (entry[head - 1] != '=' || head - 1 >= sizeof(url)) {
        return -EINVAL;
    }
    memcpy(url, entry, head - 1);
    url[head - 1] = '\0';
    return py_socket_url_normal(url, key_out->url);
}

static int options_read_server_keys(const char *list, struct py_socket_options *options,
                                    struct kvl_err *err)
{
    void *room = NULL;
    int count = options_room("curve_server_keys", list, PY_SOCKET_CURVE_KEYS_MAX,
                             sizeof(*options->curve_server_keys), &room, err);
    const char *entry;
    size_t length;

    if (count < 0) {
        return count;
    }
    options->curve_server_keys = room;
    while (options_next(&list, &entry, &length)) {
        if (options_read_server_key(entry, length,
                                    &options->curve_server_keys[options->curve_server_count]) < 0) {
            return kvl_fail(err, -EINVAL,
                            "py_socket: curve_server_keys: entry %u is neither a key of 40 "
                            "characters nor host:port=KEY",
                            options->curve_server_count + 1);
        }
        options->curve_server_count++;
    }
    return 0;
}

/* Whatever else is wrong, a key is never named in a text. */
static int options_read_curve(const struct kvl_host *host, struct py_socket_options *options,
                              struct kvl_err *err)
{
    const char *public_key = kvl_setting_text(host, "curve_public_key");
    const char *peer_keys = kvl_setting_text(host, "curve_peer_keys");
    const char *server_keys = kvl_setting_text(host, "curve_server_keys");
    int r;

    options->curve_secret_key = kvl_setting_text(host, "curve_secret_key");
    options->with_curve = options->curve_secret_key[0] != '\0';
    if (!options->with_curve) {
        return public_key[0] == '\0' && peer_keys[0] == '\0' && server_keys[0] == '\0'
                   ? 0
                   : kvl_fail(err, -EINVAL,
                              "py_socket: curve_ keys are there without curve_secret_key");
    }
    if (!zmq_has("curve")) {
        return kvl_fail(err, -EINVAL,
                        "py_socket: curve_secret_key: this libzmq was built without CURVE");
    }
    if (!options_is_key(options->curve_secret_key, strlen(options->curve_secret_key)) ||
        zmq_curve_public(options->curve_public_key, options->curve_secret_key) < 0) {
        return kvl_fail(err, -EINVAL,
                        "py_socket: curve_secret_key is no key of 40 characters of Z85");
    }
    if (public_key[0] != '\0' && strcmp(public_key, options->curve_public_key) != 0) {
        return kvl_fail(err, -EINVAL,
                        "py_socket: curve_public_key does not go with curve_secret_key");
    }
    r = options_read_peer_keys(peer_keys, options, err);
    return r < 0 ? r : options_read_server_keys(server_keys, options, err);
}

static int options_check_bind(const struct py_socket_options *options, const char *name,
                              const char *url, struct kvl_err *err)
{
    struct kvl_sock_name parsed;
    struct kvl_sock_addr addr;
    size_t count;

    if (py_socket_url_parse(url, &parsed) < 0) {
        return kvl_fail(err, -EINVAL, "py_socket: %s '%s' is none of host:port, [v6]:port, port",
                        name, url);
    }
    if (options->advertise[0] == '\0' && py_socket_url_is_wildcard(parsed.host)) {
        return kvl_fail(err, -EINVAL,
                        "py_socket: %s '%s' is every address: say in advertise which host "
                        "peers are to be told",
                        name, url);
    }
    /* a name that cannot be resolved now is for start to complain about */
    if (kvl_sock_resolve(&parsed, 1, &addr, 1, &count) < 0) {
        return 0;
    }
    return py_socket_options_may_bind(options, name, &addr, err) < 0 ? -EINVAL : 0;
}

static int options_check(const struct py_socket_options *options, struct kvl_err *err)
{
    char url[KVL_CHANNEL_URL_ROOM];
    int r;

    if (strlen(options->fingerprint) >= KVL_NAME_ROOM) {
        return kvl_fail(err, -EINVAL, "py_socket: fingerprint is longer than %u bytes",
                        KVL_NAME_MAX);
    }
    if (options->advertise[0] != '\0' &&
        (strchr(options->advertise, '/') != NULL || strchr(options->advertise, '[') != NULL ||
         py_socket_url_print(options->advertise, UINT16_MAX, url) < 0 ||
         py_socket_url_normal(url, url) < 0)) {
        return kvl_fail(err, -EINVAL, "py_socket: advertise '%s' is no host", options->advertise);
    }
    r = options_check_bind(options, "bind", options->bind, err);
    if (r == 0 && options->lookup_bind[0] != '\0') {
        r = options_check_bind(options, "lookup_bind", options->lookup_bind, err);
    }
    return r;
}

int py_socket_options_read(const struct kvl_host *host, struct py_socket_options *options_out,
                           struct kvl_err *err)
{
    struct py_socket_options options = {
        .bind = kvl_setting_text(host, "bind"),
        .lookup_bind = kvl_setting_text(host, "lookup_bind"),
        .advertise = kvl_setting_text(host, "advertise"),
        .fingerprint = kvl_setting_text(host, "fingerprint"),
        .allow_remote = kvl_setting_number(host, "allow_remote") != 0,
        .handshake_timeout_ms = (uint64_t)kvl_setting_number(host, "handshake_timeout"),
        .max_peers = (uint32_t)kvl_setting_number(host, "max_peers"),
        .streams = (uint32_t)kvl_setting_number(host, "streams"),
        .data_port = (uint16_t)kvl_setting_number(host, "data_port"),
        .shm = kvl_setting_number(host, "shm") != 0,
    };
    int r = options_read_curve(host, &options, err);

    if (r == 0) {
        r = options_read_peers(kvl_setting_text(host, "peers"), &options, err);
    }
    if (r == 0) {
        r = options_check(&options, err);
    }
    if (r < 0) {
        py_socket_options_fini(&options);
        return r;
    }
    *options_out = options;
    return 0;
}

void py_socket_options_fini(struct py_socket_options *options)
{
    free(options->peers);
    free(options->curve_peer_keys);
    free(options->curve_server_keys);
    options->peers = NULL;
    options->curve_peer_keys = NULL;
    options->curve_server_keys = NULL;
}

int py_socket_options_may_bind(const struct py_socket_options *options, const char *what,
                               const struct kvl_sock_addr *addr, struct kvl_err *err)
{
    char text[KVL_SOCK_TEXT_MAX];

    if (options->allow_remote || options->with_curve || kvl_sock_is_loopback(addr)) {
        return 0;
    }
    kvl_sock_print(addr, text, sizeof(text));
    return kvl_fail(err, -EACCES,
                    "py_socket: %s '%s' is not on loopback: set allow_remote = yes to let "
                    "everybody in who can reach it, or curve_secret_key to ask for keys",
                    what, text);
}

const char *py_socket_options_server_key(const struct py_socket_options *options, const char *url)
{
    const char *key = options->curve_public_key;

    for (uint32_t i = 0; i < options->curve_server_count; i++) {
        const struct py_socket_server_key *entry = &options->curve_server_keys[i];

        if (strcmp(entry->url, url) == 0) {
            return entry->key;
        }
        if (entry->url[0] == '\0') {
            key = entry->key;
        }
    }
    return key;
}
