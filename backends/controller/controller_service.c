/* SPDX-License-Identifier: Apache-2.0 */
#include "controller_service.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <zmq.h>

#include "controller_move.h"
#include "controller_pins.h"
#include "controller_req.h"

/* Calls that wait at a time, each of up to max_frame bytes. */
#define RECEIVE_HWM 8
#define TEXT_MAX 400u

enum service_counter { SERVICE_CALLS, SERVICE_REFUSED, SERVICE_CLEARED, SERVICE_COUNTERS };

struct controller_service {
    struct controller_service_desc desc;
    void *socket;
    uint64_t thread;
    bool running;
    struct controller_arena *arena;
    struct controller_buf buf;
    struct controller_pins *pins;
    char text[TEXT_MAX]; /* of an ErrorMsg */
    _Atomic uint64_t counters[SERVICE_COUNTERS];
    _Atomic uint64_t pinned;
};

int controller_service_create(const struct controller_service_desc *desc,
                              struct controller_service **service_out)
{
    struct controller_service *service = calloc(1, sizeof(*service));
    int r;

    if (service == NULL) {
        return -ENOMEM;
    }
    service->desc = *desc;
    r = controller_arena_create(&service->arena);
    if (r == 0) {
        r = controller_pins_create(desc->host, desc->pin_ms, desc->pin_bytes, &service->pins);
    }
    if (r < 0) {
        controller_service_destroy(service);
        return r;
    }
    *service_out = service;
    return 0;
}

void controller_service_destroy(struct controller_service *service)
{
    if (service == NULL) {
        return;
    }
    controller_pins_destroy(service->pins);
    controller_buf_fini(&service->buf);
    controller_arena_destroy(service->arena);
    free(service);
}

static void service_count(struct controller_service *service, enum service_counter counter,
                          uint64_t by)
{
    atomic_fetch_add_explicit(&service->counters[counter], by, memory_order_relaxed);
}

KVL_PRINTF(3, 4)
static void service_error(struct controller_service *service, struct controller_msg *reply,
                          const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    if (vsnprintf(service->text, sizeof(service->text), fmt, args) < 0) {
        service->text[0] = '\0';
    }
    va_end(args);
    memset(reply, 0, sizeof(*reply));
    reply->type = CONTROLLER_ERROR;
    reply->error = controller_text(service->text);
}

/* ---- calls ---- */

static bool service_stopping(const struct controller_service *service)
{
    struct pollfd stop = {.fd = *service->desc.stop_fd, .events = POLLIN};

    return poll(&stop, 1, 0) > 0;
}

static bool service_is_ours(struct controller_service *service, struct kvl_text location,
                            struct controller_msg *reply)
{
    const struct kvl_text ours = controller_text(service->desc.location);

    if (location.length == ours.length && memcmp(location.text, ours.text, ours.length) == 0) {
        return true;
    }
    service_error(service, reply, "Worker error: there is no location '%.*s' here, only '%s'",
                  (int)(location.length < 100 ? location.length : 100), location.text,
                  service->desc.location);
    return false;
}

struct service_clear {
    struct controller_service *service;
    int64_t tokens;
};

/* As LMCache: what is pinned stays. */
static int service_clear_one(void *ctx, const struct kvl_key *key, uint64_t bytes)
{
    struct service_clear *clear = ctx;
    struct controller_service *service = clear->service;
    const struct kvl_host *host = service->desc.host;
    struct kvl_view view;
    uint64_t tokens;

    (void)bytes;
    if (service_stopping(service)) {
        return -ECANCELED;
    }
    if (controller_pins_has(service->pins, key) || host->store_get(host, key, &view) < 0) {
        return 0;
    }
    tokens = kvl_attrs_tokens(&view.attrs);
    (void)host->store_release(host, view.lease);
    if (host->store_remove(host, key) == 0) {
        clear->tokens += (int64_t)tokens;
        service_count(service, SERVICE_CLEARED, 1);
    }
    return 0;
}

static void service_clear(struct controller_service *service, const struct controller_msg *call,
                          struct controller_msg *reply)
{
    struct service_clear clear = {.service = service};
    int r;

    if (!service_is_ours(service, call->location, reply)) {
        return;
    }
    r = service->desc.host->store_list(service->desc.host, service_clear_one, &clear);
    if (r < 0) {
        service_error(service, reply, "Worker error: cannot clear: %s", strerror(-r));
        return;
    }
    kvl_info(service->desc.host->log, "controller: cleared '%s' as told, %lld tokens",
             service->desc.location, (long long)clear.tokens);
    reply->type = CONTROLLER_CLEAR_WORKER_RET;
    reply->number = clear.tokens;
}

static void service_pin(struct controller_service *service, const struct controller_msg *call,
                        struct controller_msg *reply)
{
    int64_t tokens = 0;
    int r;

    if (!service_is_ours(service, call->location, reply)) {
        return;
    }
    r = controller_pins_add(service->pins, &service->desc.hashing, call->ids.at, call->ids.count,
                            &tokens);
    if (r < 0) {
        service_error(service, reply, "Worker error: cannot pin: %s", strerror(-r));
        return;
    }
    reply->type = CONTROLLER_PIN_WORKER_RET;
    reply->number = tokens;
}

/* Not copied but moved: what the target has taken leaves us, and only when it has taken all. */
static void service_move(struct controller_service *service, const struct controller_msg *call,
                         struct controller_msg *reply)
{
    const struct controller_move_order order = {
        .target_url = call->new_position.first,
        .hashing = &service->desc.hashing,
        .tokens = &call->ids,
        .keep = call->copy != 0,
        .timeout_ms = service->desc.move_ms,
    };
    char why[TEXT_MAX / 2];
    uint64_t tokens = 0;

    if (!service_is_ours(service, call->old_position.location, reply) ||
        !service_is_ours(service, call->new_position.location, reply)) {
        return;
    }
    if (controller_move(service->desc.host, &order, &tokens, why, sizeof(why)) < 0) {
        service_error(service, reply, "Worker error: cannot move: %s", why);
        return;
    }
    reply->type = CONTROLLER_MOVE_WORKER_RET;
    reply->number = (int64_t)tokens;
}

static void service_handle(struct controller_service *service, const struct controller_msg *call,
                           struct controller_msg *reply)
{
    memset(reply, 0, sizeof(*reply));
    switch (call->type) {
    case CONTROLLER_CLEAR_WORKER:
        service_clear(service, call, reply);
        break;
    case CONTROLLER_PIN_WORKER:
        service_pin(service, call, reply);
        break;
    case CONTROLLER_HEALTH_WORKER:
        reply->type = CONTROLLER_HEALTH_WORKER_RET;
        break;
    case CONTROLLER_COMPRESS_WORKER:
    case CONTROLLER_DECOMPRESS_WORKER:
        service_error(service, reply,
                      "Worker error: this worker neither compresses nor "
                      "decompresses chunks");
        break;
    case CONTROLLER_MOVE_WORKER:
        service_move(service, call, reply);
        break;
    default:
        service_error(service, reply, "Unknown message: %s", controller_type_name(call->type));
        break;
    }
}

/* ---- the socket ---- */

/* One call may be several frames; the first is the message, as LMCache's worker has it. */
static int service_receive(struct controller_service *service, zmq_msg_t *frame)
{
    zmq_msg_t rest;
    int more;

    if (zmq_msg_recv(frame, service->socket, ZMQ_DONTWAIT) < 0) {
        return -EAGAIN;
    }
    more = zmq_msg_more(frame);
    (void)zmq_msg_init(&rest);
    while (more && zmq_msg_recv(&rest, service->socket, ZMQ_DONTWAIT) >= 0) {
        more = zmq_msg_more(&rest);
    }
    (void)zmq_msg_close(&rest);
    return 0;
}

static void service_send(struct controller_service *service, struct controller_msg *reply)
{
    service->buf.length = 0;
    if (reply->type == CONTROLLER_ERROR) {
        service_count(service, SERVICE_REFUSED, 1);
        kvl_warn(service->desc.host->log, "controller: a control call was answered with '%.*s'",
                 (int)reply->error.length, reply->error.text);
    }
    if (controller_encode(reply, &service->buf) < 0) {
        service->buf.length = 0; /* an empty answer, because the socket waits for one */
    }
    /* a peer that has gone: the library drops the answer and the socket is ready again */
    (void)zmq_send(service->socket, service->buf.at, service->buf.length, ZMQ_DONTWAIT);
}

static void service_one(struct controller_service *service)
{
    struct controller_msg call;
    struct controller_msg reply;
    char error[TEXT_MAX / 2];
    zmq_msg_t frame;
    int r;

    (void)zmq_msg_init(&frame);
    if (service_receive(service, &frame) == 0) {
        service_count(service, SERVICE_CALLS, 1);
        r = controller_decode(zmq_msg_data(&frame), zmq_msg_size(&frame), &service->desc.limits,
                              service->arena, &call, error, sizeof(error));
        if (r == 0) {
            service_handle(service, &call, &reply);
        } else {
            service_error(service, &reply, "Worker error: %s", r == -ENOMEM ? "no memory" : error);
        }
        service_send(service, &reply);
    }
    (void)zmq_msg_close(&frame);
}

static void *service_main(void *arg)
{
    struct controller_service *service = arg;
    const struct kvl_host *host = service->desc.host;
    zmq_pollitem_t items[2] = {
        {.socket = service->socket, .events = ZMQ_POLLIN},
        {.fd = *service->desc.stop_fd, .events = ZMQ_POLLIN},
    };

    for (;;) {
        uint64_t now = host->now_ms(host);
        uint64_t next = controller_pins_expire(service->pins, now);
        int n;

        atomic_store(&service->pinned, controller_pins_count(service->pins));
        n = zmq_poll(items, 2, next == UINT64_MAX ? -1 : (long)(next - now));

        if ((n > 0 && items[1].revents != 0) || (n < 0 && zmq_errno() != EINTR)) {
            break;
        }
        if (n > 0) {
            service_one(service);
        }
    }
    return NULL;
}

/* ---- life ---- */

static int service_bind(struct controller_service *service, int32_t *port_out)
{
    const int64_t bytes = service->desc.limits.frame_bytes;
    const int hwm = RECEIVE_HWM;
    char endpoint[64];
    size_t size = sizeof(endpoint);
    const char *colon;

    service->socket = zmq_socket(service->desc.zmq, ZMQ_REP);
    if (service->socket == NULL) {
        return -EIO;
    }
    controller_socket_defaults(service->socket);
    (void)zmq_setsockopt(service->socket, ZMQ_MAXMSGSIZE, &bytes, sizeof(bytes));
    (void)zmq_setsockopt(service->socket, ZMQ_RCVHWM, &hwm, sizeof(hwm));
    (void)snprintf(endpoint, sizeof(endpoint), "tcp://%s:%d",
                   service->desc.allow_remote ? "*" : "127.0.0.1", (int)service->desc.port);
    if (zmq_bind(service->socket, endpoint) < 0) {
        return zmq_errno() < 4096 ? -zmq_errno() : -EIO;
    }
    if (zmq_getsockopt(service->socket, ZMQ_LAST_ENDPOINT, endpoint, &size) < 0 ||
        (colon = strrchr(endpoint, ':')) == NULL) {
        return -EIO;
    }
    *port_out = (int32_t)strtol(colon + 1, NULL, 10);
    return 0;
}

int controller_service_start(struct controller_service *service, int32_t *port_out)
{
    const struct kvl_host *host = service->desc.host;
    int32_t port = 0;
    int r = service_bind(service, &port);

    if (r == 0) {
        r = host->thread_create(host, "kvl-ctl-serve", service_main, service, &service->thread);
        service->running = r == 0;
    }
    if (r == 0) {
        *port_out = port;
    }
    return r;
}

void controller_service_stop(struct controller_service *service)
{
    if (service->running) {
        (void)service->desc.host->thread_join(service->desc.host, service->thread);
        service->running = false;
    }
    (void)controller_pins_expire(service->pins, UINT64_MAX);
    if (service->socket != NULL) {
        (void)zmq_close(service->socket);
        service->socket = NULL;
    }
}

void controller_service_stats(struct controller_service *service,
                              struct controller_service_stats *stats_out)
{
    uint64_t values[SERVICE_COUNTERS];

    for (size_t i = 0; i < SERVICE_COUNTERS; i++) {
        values[i] = atomic_load_explicit(&service->counters[i], memory_order_relaxed);
    }
    *stats_out = (struct controller_service_stats){
        .calls = values[SERVICE_CALLS],
        .refused = values[SERVICE_REFUSED],
        .cleared = values[SERVICE_CLEARED],
        .pinned = atomic_load(&service->pinned),
    };
}
