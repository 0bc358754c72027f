/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>

#include <zmq.h>

#include "controller_state.h"

/* Messages of one socket before the other one, or the end, is looked at. */
#define BURST 64

/* Waits for the next frame or part. @return 0; -EAGAIN; another code when the socket is at its
 * end. */
static int loop_receive(void *socket, zmq_msg_t *frame, int flags)
{
    while (zmq_msg_recv(frame, socket, flags) < 0) {
        if (zmq_errno() != EINTR) {
            return -zmq_errno();
        }
    }
    return 0;
}

/* ---- A ---- */

/* Every frame is a message of its own, so nobody asks where a multipart ends. */
void *controller_loop_pull(void *arg)
{
    struct controller_server *server = arg;
    struct controller_counts *counts = &server->counts;
    zmq_msg_t frame;
    int r;

    (void)zmq_msg_init(&frame);
    do {
        r = loop_receive(server->pull, &frame, ZMQ_DONTWAIT);
        if (r == -EAGAIN) {
            controller_count_set(counts, CONTROLLER_COUNT_PULL_PENDING, 0);
            r = loop_receive(server->pull, &frame, 0);
        } else {
            controller_count_set(counts, CONTROLLER_COUNT_PULL_PENDING, 1);
        }
        if (r == 0) {
            controller_count_set(counts, CONTROLLER_COUNT_PULL_ACTIVE, 1);
            controller_handle_event(&server->events, zmq_msg_data(&frame), zmq_msg_size(&frame));
            controller_count_set(counts, CONTROLLER_COUNT_PULL_ACTIVE, 0);
        }
    } while (r == 0);
    (void)zmq_msg_close(&frame);
    return NULL;
}

/* ---- B and C ---- */

struct loop_request {
    zmq_msg_t identity;
    zmq_msg_t part; /* the payload, once three parts have come */
    int parts;
};

/* All parts of a message are there when its first one is. What stands behind the payload is read
 * and thrown away. */
static int loop_take(void *socket, struct loop_request *request)
{
    zmq_msg_t rest;
    int r = loop_receive(socket, &request->identity, ZMQ_DONTWAIT);
    int more = r == 0 && zmq_msg_more(&request->identity);

    request->parts = r == 0;
    (void)zmq_msg_init(&rest);
    while (r == 0 && more) {
        zmq_msg_t *part = request->parts < 3 ? &request->part : &rest;

        r = loop_receive(socket, part, 0);
        more = r == 0 && zmq_msg_more(part);
        request->parts++;
    }
    (void)zmq_msg_close(&rest);
    return r;
}

static void loop_answer(struct controller_server *server, void *socket,
                        struct loop_request *request)
{
    const struct controller_buf *answer = &server->answer;

    /* A ROUTER drops what its peer does not take or no longer waits for, and never blocks. */
    if (zmq_msg_send(&request->identity, socket, ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0 ||
        zmq_send(socket, "", 0, ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0 ||
        zmq_send(socket, answer->at, answer->length, ZMQ_DONTWAIT) < 0) {
        kvl_debug(server->host->log, "controller: an answer was not sent: %s",
                  zmq_strerror(zmq_errno()));
    }
}

/* @return 0 when a message was there; -EAGAIN; another code at the end. */
static int loop_serve_one(struct controller_server *server, void *socket, enum controller_door door)
{
    struct loop_request request;
    int r;

    (void)zmq_msg_init(&request.identity);
    (void)zmq_msg_init(&request.part);
    r = loop_take(socket, &request);
    if (r == 0 && request.parts < 3) {
        controller_handle_short(&server->requests, request.parts);
    } else if (r == 0) {
        controller_count_set(&server->counts, CONTROLLER_COUNT_REPLY_ACTIVE, 1);
        server->answer.length = 0;
        if (controller_handle_request(&server->requests, door, zmq_msg_data(&request.part),
                                      zmq_msg_size(&request.part), &server->answer) == 0) {
            loop_answer(server, socket, &request);
        }
        controller_count_set(&server->counts, CONTROLLER_COUNT_REPLY_ACTIVE, 0);
    }
    (void)zmq_msg_close(&request.identity);
    (void)zmq_msg_close(&request.part);
    return r;
}

/* @return messages served; negative at the end. */
static int loop_serve(struct controller_server *server, void *socket, enum controller_door door)
{
    for (int served = 0; served < BURST; served++) {
        int r = loop_serve_one(server, socket, door);

        if (r < 0) {
            return r == -EAGAIN ? served : r;
        }
    }
    return BURST;
}

/* Heartbeats first: a worker that is late with one is taken for dead. */
void *controller_loop_reply(void *arg)
{
    struct controller_server *server = arg;
    zmq_pollitem_t items[] = {
        {.socket = server->reply, .events = ZMQ_POLLIN},
        {.socket = server->heartbeat, .events = ZMQ_POLLIN},
    };
    const int count = server->heartbeat != NULL ? 2 : 1;
    int beats = 0;
    int served;

    do {
        if (server->heartbeat != NULL) {
            beats = loop_serve(server, server->heartbeat, CONTROLLER_DOOR_HEARTBEAT);
        }
        served = loop_serve(server, server->reply, CONTROLLER_DOOR_REPLY);
        controller_count_set(&server->counts, CONTROLLER_COUNT_REPLY_PENDING,
                             beats == BURST || served == BURST);
        if (beats == 0 && served == 0 && zmq_poll(items, count, -1) < 0 && zmq_errno() != EINTR) {
            break;
        }
    } while (beats >= 0 && served >= 0);
    return NULL;
}
