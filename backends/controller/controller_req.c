/* SPDX-License-Identifier: Apache-2.0 */
#include "controller_req.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <zmq.h>

#define ENDPOINT_MAX (KVL_NAME_MAX + 8u)
/* Of an answer: it holds at most the numbers of missing batches. */
#define ANSWER_BYTES_MAX ((int64_t)64 << 20)
/* ZMTP's own ping: a host that vanished without a word counts as gone after the second. */
#define PING_MS 5000
#define PING_TIMEOUT_MS 15000

struct controller_req {
    struct controller_req_desc desc;
    char url[KVL_NAME_ROOM];
    void *socket; /* NULL = to be made with the next call */
    struct controller_arena *arena;
    struct controller_buf buf;
    zmq_msg_t frame; /* the last answer, which the texts of the message point into */
};

struct kvl_text controller_text(const char *text)
{
    return (struct kvl_text){.text = text, .length = text == NULL ? 0 : (uint32_t)strlen(text)};
}

void controller_endpoint(const char *url, char *out, size_t room)
{
    const char *bare = strncmp(url, "tcp://", 6) == 0 ? url + 6 : url;

    (void)snprintf(out, room, "tcp://%s", bare);
}

void controller_socket_defaults(void *socket)
{
    const int no_linger = 0;
    const int yes = 1;
    const int ping = PING_MS;
    const int ping_timeout = PING_TIMEOUT_MS;
    const int64_t bytes = ANSWER_BYTES_MAX;

    (void)zmq_setsockopt(socket, ZMQ_LINGER, &no_linger, sizeof(no_linger));
    (void)zmq_setsockopt(socket, ZMQ_IPV6, &yes, sizeof(yes));
    (void)zmq_setsockopt(socket, ZMQ_HEARTBEAT_IVL, &ping, sizeof(ping));
    (void)zmq_setsockopt(socket, ZMQ_HEARTBEAT_TIMEOUT, &ping_timeout, sizeof(ping_timeout));
    (void)zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &bytes, sizeof(bytes));
}

int controller_req_create(const struct controller_req_desc *desc, struct controller_req **req_out)
{
    struct controller_req *req = calloc(1, sizeof(*req));
    int r;

    if (req == NULL) {
        return -ENOMEM;
    }
    r = controller_arena_create(&req->arena);
    if (r < 0) {
        free(req);
        return r;
    }
    req->desc = *desc;
    (void)snprintf(req->url, sizeof(req->url), "%s",
                   strncmp(desc->url, "tcp://", 6) == 0 ? desc->url + 6 : desc->url);
    req->desc.url = req->url;
    (void)zmq_msg_init(&req->frame);
    *req_out = req;
    return 0;
}

void controller_req_close(struct controller_req *req)
{
    if (req->socket != NULL) {
        (void)zmq_close(req->socket);
        req->socket = NULL;
    }
}

void controller_req_destroy(struct controller_req *req)
{
    if (req == NULL) {
        return;
    }
    controller_req_close(req);
    (void)zmq_msg_close(&req->frame);
    controller_buf_fini(&req->buf);
    controller_arena_destroy(req->arena);
    free(req);
}

const char *controller_req_url(const struct controller_req *req)
{
    return req->url;
}

KVL_PRINTF(3, 4) static int req_why(char *why, int code, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    if (vsnprintf(why, CONTROLLER_WHY_MAX, fmt, args) < 0) {
        why[0] = '\0';
    }
    va_end(args);
    return code;
}

static int req_open(struct controller_req *req, char *why)
{
    char endpoint[ENDPOINT_MAX];

    if (req->socket != NULL) {
        return 0;
    }
    req->socket = zmq_socket(req->desc.zmq, ZMQ_DEALER);
    if (req->socket == NULL) {
        return req_why(why, -EIO, "no socket: %s", zmq_strerror(zmq_errno()));
    }
    controller_socket_defaults(req->socket);
    controller_endpoint(req->url, endpoint, sizeof(endpoint));
    if (zmq_connect(req->socket, endpoint) < 0) {
        return req_why(why, -EIO, "cannot connect to '%s': %s", req->url,
                       zmq_strerror(zmq_errno()));
    }
    return 0;
}

static uint64_t req_deadline(const struct controller_req *req, uint64_t ms, uint64_t latest_ms)
{
    uint64_t deadline = req->desc.host->now_ms(req->desc.host) + ms;

    return deadline < latest_ms ? deadline : latest_ms;
}

/* @return 0 the socket is ready for `events`; -ETIMEDOUT; -ECANCELED; -EIO. */
static int req_wait(struct controller_req *req, short events, uint64_t deadline_ms)
{
    zmq_pollitem_t items[2] = {
        {.socket = req->socket, .events = events},
        {.fd = *req->desc.stop_fd, .events = ZMQ_POLLIN},
    };

    for (;;) {
        uint64_t now = req->desc.host->now_ms(req->desc.host);
        int n = zmq_poll(items, 2, now < deadline_ms ? (long)(deadline_ms - now) : 0);

        if (n < 0 && zmq_errno() != EINTR) {
            return -EIO;
        }
        if (n > 0 && items[1].revents != 0) {
            return -ECANCELED;
        }
        if (n > 0) {
            return 0;
        }
        if (n == 0 && now >= deadline_ms) {
            return -ETIMEDOUT;
        }
    }
}

/* What came unasked would be taken for the answer to the question that comes next. */
static void req_drop_unasked(struct controller_req *req)
{
    while (zmq_msg_recv(&req->frame, req->socket, ZMQ_DONTWAIT) >= 0) {
    }
}

static int req_send(struct controller_req *req, uint64_t latest_ms, char *why)
{
    uint64_t deadline = req_deadline(req, req->desc.send_ms, latest_ms);
    int r;

    req_drop_unasked(req);
    r = req_wait(req, ZMQ_POLLOUT, deadline);
    if (r < 0) {
        return req_why(why, r, "'%s' takes no question", req->url);
    }
    /* a DEALER that takes the first part takes the rest */
    if (zmq_send(req->socket, "", 0, ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0 ||
        zmq_send(req->socket, req->buf.at, req->buf.length, ZMQ_DONTWAIT) < 0) {
        return req_why(why, -EIO, "cannot send to '%s': %s", req->url, zmq_strerror(zmq_errno()));
    }
    return 0;
}

/* The last frame is the answer, whatever comes before it. */
static int req_receive(struct controller_req *req, uint64_t latest_ms, char *why)
{
    const uint64_t begun = req->desc.host->now_ms(req->desc.host);
    uint64_t deadline = req_deadline(req, req->desc.recv_ms, latest_ms);
    int r = req_wait(req, ZMQ_POLLIN, deadline);

    if (r < 0) {
        return req_why(why, r, "no answer from '%s' in %llu ms", req->url,
                       (unsigned long long)(deadline > begun ? deadline - begun : 0));
    }
    do {
        if (zmq_msg_recv(&req->frame, req->socket, ZMQ_DONTWAIT) < 0) {
            return req_why(why, -EIO, "cannot receive from '%s': %s", req->url,
                           zmq_strerror(zmq_errno()));
        }
    } while (zmq_msg_more(&req->frame));
    return 0;
}

static int req_decode(struct controller_req *req, enum controller_type want,
                      struct controller_msg *answer_out, char *why)
{
    char error[CONTROLLER_WHY_MAX];
    int r =
        controller_decode(zmq_msg_data(&req->frame), zmq_msg_size(&req->frame),
                          &controller_default_limits, req->arena, answer_out, error, sizeof(error));

    if (r == -ENOMEM) {
        return req_why(why, r, "no memory");
    }
    if (r < 0) {
        return req_why(why, -EPROTO, "'%s' answered what is no message: %s", req->url, error);
    }
    if (answer_out->type == CONTROLLER_ERROR) {
        return req_why(why, -EREMOTEIO, "'%s' answered: %.*s", req->url,
                       (int)answer_out->error.length, answer_out->error.text);
    }
    if (answer_out->type != want) {
        return req_why(why, -EPROTO, "'%s' answered %s where %s was due", req->url,
                       controller_type_name(answer_out->type), controller_type_name(want));
    }
    return 0;
}

int controller_req_call(struct controller_req *req, const struct controller_msg *ask,
                        enum controller_type want, struct controller_msg *answer_out, char *why)
{
    return controller_req_call_until(req, ask, want, KVL_NEVER, answer_out, why);
}

int controller_req_call_until(struct controller_req *req, const struct controller_msg *ask,
                              enum controller_type want, uint64_t deadline_ms,
                              struct controller_msg *answer_out, char *why)
{
    int r;

    req->buf.length = 0;
    r = controller_encode(ask, &req->buf);
    if (r < 0) {
        return req_why(why, r, "cannot write %s: %s", controller_type_name(ask->type),
                       strerror(-r));
    }
    r = req_open(req, why);
    if (r == 0) {
        r = req_send(req, deadline_ms, why);
    }
    if (r == 0) {
        r = req_receive(req, deadline_ms, why);
    }
    if (r == 0) {
        r = req_decode(req, want, answer_out, why);
    }
    if (r < 0 && r != -EREMOTEIO) {
        controller_req_close(req);
    }
    return r;
}
