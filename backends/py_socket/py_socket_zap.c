/* SPDX-License-Identifier: Apache-2.0 */
#include "py_socket_zap.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <zmq.h>

#define KEY_BYTES 32u
#define ID_MAX 64u

/* Parts of a request, by place. */
enum zap_part {
    ZAP_VERSION,
    ZAP_ID,
    ZAP_DOMAIN,
    ZAP_ADDRESS,
    ZAP_IDENTITY,
    ZAP_MECHANISM,
    ZAP_KEY
};

struct py_socket_zap {
    const struct kvl_host *host;
    const struct py_socket_options *options;
    struct py_socket_counters *counters;
    void *socket;
    uint64_t thread;
};

struct zap_request {
    char id[ID_MAX];
    size_t id_length;
    char address[64];
    int is_curve;
    uint8_t key[KEY_BYTES];
    int has_key;
};

/* The time taken does not tell how much of a key was right. */
static int zap_is_same(const uint8_t *a, const uint8_t *b)
{
    uint8_t differs = 0;

    for (uint32_t i = 0; i < KEY_BYTES; i++) {
        differs |= (uint8_t)(a[i] ^ b[i]);
    }
    return differs == 0;
}

static int zap_is_allowed(const struct py_socket_zap *zap, const struct zap_request *request)
{
    int found = 0;

    if (!request->is_curve || !request->has_key) {
        return 0;
    }
    for (uint32_t i = 0; i < zap->options->curve_peer_count; i++) {
        uint8_t key[KEY_BYTES];

        if (zmq_z85_decode(key, zap->options->curve_peer_keys[i]) != NULL) {
            found |= zap_is_same(key, request->key);
        }
    }
    return found;
}

static void zap_take(struct zap_request *request, int place, const void *data, size_t length)
{
    switch (place) {
    case ZAP_ID:
        request->id_length = length < ID_MAX ? length : ID_MAX;
        memcpy(request->id, data, request->id_length);
        break;
    case ZAP_ADDRESS:
        length = length < sizeof(request->address) - 1 ? length : sizeof(request->address) - 1;
        memcpy(request->address, data, length);
        request->address[length] = '\0';
        break;
    case ZAP_MECHANISM:
        request->is_curve = length == 5 && memcmp(data, "CURVE", 5) == 0;
        break;
    case ZAP_KEY:
        request->has_key = length == KEY_BYTES;
        if (request->has_key) {
            memcpy(request->key, data, KEY_BYTES);
        }
        break;
    default:
        break;
    }
}

/* @return 0; -1 when the context is shut down. */
static int zap_receive(struct py_socket_zap *zap, struct zap_request *request)
{
    int place = 0;
    int more = 1;

    memset(request, 0, sizeof(*request));
    while (more) {
        zmq_msg_t part;

        (void)zmq_msg_init(&part);
        if (zmq_msg_recv(&part, zap->socket, 0) < 0) {
            (void)zmq_msg_close(&part);
            if (errno == EINTR) {
                continue;
            }
            return -1;
        }
        zap_take(request, place++, zmq_msg_data(&part), zmq_msg_size(&part));
        more = zmq_msg_more(&part);
        (void)zmq_msg_close(&part);
    }
    return 0;
}

static void zap_answer(struct py_socket_zap *zap, const struct zap_request *request, int allowed)
{
    const char *code = allowed ? "200" : "400";
    const char *text = allowed ? "" : "key not allowed";
    void *socket = zap->socket;

    (void)zmq_send(socket, "1.0", 3, ZMQ_SNDMORE);
    (void)zmq_send(socket, request->id, request->id_length, ZMQ_SNDMORE);
    (void)zmq_send(socket, code, strlen(code), ZMQ_SNDMORE);
    (void)zmq_send(socket, text, strlen(text), ZMQ_SNDMORE);
    (void)zmq_send(socket, "", 0, ZMQ_SNDMORE);
    (void)zmq_send(socket, "", 0, 0);
}

static void *zap_run(void *arg)
{
    struct py_socket_zap *zap = arg;
    struct zap_request request;

    while (zap_receive(zap, &request) == 0) {
        int allowed = zap_is_allowed(zap, &request);

        if (!allowed) {
            py_socket_count(&zap->counters->curve_denied);
            kvl_warn(zap->host->log, "py_socket: '%s' has no key of curve_peer_keys, refused",
                     request.address);
        }
        zap_answer(zap, &request, allowed);
    }
    (void)zmq_close(zap->socket);
    return NULL;
}

int py_socket_zap_start(const struct kvl_host *host, const struct py_socket_options *options,
                        struct py_socket_counters *counters, void *context,
                        struct py_socket_zap **zap_out)
{
    struct py_socket_zap *zap = calloc(1, sizeof(*zap));
    int r;

    if (zap == NULL) {
        return -ENOMEM;
    }
    zap->host = host;
    zap->options = options;
    zap->counters = counters;
    zap->socket = zmq_socket(context, ZMQ_REP);
    if (zap->socket == NULL || zmq_bind(zap->socket, "inproc://zeromq.zap.01") < 0) {
        r = errno < ZMQ_HAUSNUMERO ? -errno : -EIO;
        goto err_close;
    }
    r = host->thread_create(host, "kvl-ps-zap", zap_run, zap, &zap->thread);
    if (r < 0) {
        goto err_close;
    }
    *zap_out = zap;
    return 0;

err_close:
    if (zap->socket != NULL) {
        (void)zmq_close(zap->socket);
    }
    free(zap);
    return r;
}

void py_socket_zap_stop(struct py_socket_zap *zap)
{
    if (zap != NULL) {
        (void)zap->host->thread_join(zap->host, zap->thread);
        free(zap);
    }
}
