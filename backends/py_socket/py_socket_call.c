/* SPDX-License-Identifier: Apache-2.0 */
/* The initiator side of a link: handshakes with peers that may be away, slow, or talk nonsense. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <zmq.h>

#include "py_socket_link_parts.h"

#define ATTEMPT_MS 1000u /* for the first answer; each further attempt waits twice as long */
#define ATTEMPT_DOUBLINGS 5u
#define RETRY_MS 50u /* pause before a new socket when the connection was lost */
#define STATUS_ROOM (PY_SOCKET_REASON_ROOM + 2 * KVL_NAME_ROOM)

static void call_close(struct py_socket_link *link, struct link_call *call)
{
    if (call->req != NULL) {
        link_poll_remove(link, call->watch);
        link_poll_remove(link, call->req);
        py_socket_zmq_hang_up(call->req, call->watch);
    }
    call->req = NULL;
    call->watch = NULL;
    call->is_sent = 0;
}

static void call_count(struct py_socket_link *link, int status)
{
    struct py_socket_counters *counters = link->config.counters;

    switch (status) {
    case 0:
        py_socket_count(&counters->handshakes_out);
        break;
    case -ETIMEDOUT:
        py_socket_count(&counters->handshakes_out_timeout);
        break;
    case -ECONNREFUSED:
        py_socket_count(&counters->handshakes_out_refused);
        break;
    case -EPROTO:
        py_socket_count(&counters->handshakes_out_bad);
        break;
    case -EACCES:
        py_socket_count(&counters->handshakes_out_denied);
        break;
    default:
        py_socket_count(&counters->handshakes_out_failed);
        break;
    }
}

/* For a call that is in no list of the driver any more. */
static void call_end(struct py_socket_link *link, struct link_call *call, int status)
{
    call_close(link, call);
    call_count(link, status);
    pthread_mutex_lock(&link->lock);
    *call->all_prev = call->all_next;
    if (call->all_next != NULL) {
        call->all_next->all_prev = call->all_prev;
    }
    link->call_count--;
    pthread_mutex_unlock(&link->lock);
    /* channel.h does not tell a refusal from nonsense; our counters do */
    call->done(call->ctx, status == -ECONNREFUSED ? -EPROTO : status, call->side_reply);
    py_socket_peer_release(call->peer);
    explicit_bzero(call->token, sizeof(call->token));
    call->has_ended = 1;
    call->next = link->ended;
    link->ended = call;
}

static void call_end_active(struct py_socket_link *link, struct link_call *call, int status)
{
    struct link_call **at = &link->active;

    while (*at != call) {
        at = &(*at)->next;
    }
    *at = call->next;
    link->active_count--;
    call_end(link, call, status);
}

/* A new pair of sockets. @return 0; a code. */
static int call_dial(struct py_socket_link *link, struct link_call *call)
{
    int r = py_socket_zmq_dial(link->config.zmq, call->url, PY_SOCKET_INIT_BYTES, &call->req,
                               &call->watch);

    if (r < 0) {
        return r;
    }
    r = link_poll_add(link, call->req, call);
    if (r == 0) {
        r = link_poll_add(link, call->watch, call);
    }
    if (r < 0) {
        call_close(link, call);
        return r;
    }
    if (call->attempts++ > 0) {
        py_socket_count(&link->config.counters->handshakes_retried);
    }
    call->due_ms = call->deadline_ms; /* connecting goes on until then, by itself */
    link_due(link, call->due_ms);
    return 0;
}

static void call_retry_later(struct py_socket_link *link, struct link_call *call)
{
    call_close(link, call);
    call->due_ms = link_now(link) + RETRY_MS;
    if (call->due_ms > call->deadline_ms) {
        call->due_ms = call->deadline_ms;
    }
    link_due(link, call->due_ms);
}

/* @return 0; -EAGAIN try again later. */
static int call_send(struct py_socket_link *link, struct link_call *call)
{
    uint8_t bytes[LINK_ANSWER_ROOM];
    struct py_socket_offer offer = link->offer;
    struct link_told told;
    uint32_t doublings = call->attempts < ATTEMPT_DOUBLINGS ? call->attempts : ATTEMPT_DOUBLINGS;
    struct kvl_pack_out out;
    int n;

    kvl_pack_out_init(&out, bytes, sizeof(bytes));
    if ((call->what & PY_SOCKET_CALL_INIT) != 0) {
        memcpy(offer.token, call->token, sizeof(offer.token));
        link_told_collect(link, &told);
        py_socket_put_init_request(&out, call->self, &offer, &told.notes);
        explicit_bzero(offer.token, sizeof(offer.token));
    } else {
        py_socket_put_side(&out);
    }
    n = zmq_send(call->req, bytes, out.length, ZMQ_DONTWAIT);
    explicit_bzero(bytes, sizeof(bytes));
    if (n < 0) {
        return -EAGAIN;
    }
    call->is_sent = 1;
    call->due_ms = link_now(link) + ((uint64_t)ATTEMPT_MS << (doublings - 1));
    if (call->due_ms > call->deadline_ms) {
        call->due_ms = call->deadline_ms;
    }
    link_due(link, call->due_ms);
    return 0;
}

static int call_bad(struct py_socket_link *link, const struct link_call *call, int code,
                    const char *what, const char *why, size_t length)
{
    char quote[LINK_QUOTE_ROOM];

    kvl_warn(link->config.host->log, "py_socket: peer '%s' %s: '%s'", call->url, what,
             link_quote(why, length, quote));
    return code;
}

/* @return 0; -ECONNREFUSED, -ENOMEM. */
static int call_learn(struct py_socket_link *link, struct link_call *call,
                      const struct py_socket_msg *msg)
{
    char why[STATUS_ROOM];
    struct py_socket_hello hello = {
        .id = call->id,
        .url = call->url,
        .is_named = call->is_named,
        .offer = &msg->offer,
        .token = call->token,
        .now_ms = link_now(link),
    };
    struct py_socket_learned learned;
    int r = link_agree(link, &msg->offer, &hello.version, why, sizeof(why));

    if (r < 0) {
        return call_bad(link, call, -ECONNREFUSED, "does not fit", why, strlen(why));
    }
    r = py_socket_peers_learn(link->peers, &hello, &learned);
    link_tell(link, &learned);
    if (r < 0) {
        return call_bad(link, call, r, "is one too many", "max_peers", strlen("max_peers"));
    }
    py_socket_peer_release(call->peer);
    call->peer = learned.peer;
    link_told_give(link, call->url, msg);
    return 0;
}

static int call_take_init(struct py_socket_link *link, struct link_call *call,
                          const struct py_socket_msg *msg)
{
    int r;

    if (msg->type != PY_SOCKET_INIT_RESPONSE) {
        const char *name = py_socket_type_name(msg->type);

        return call_bad(link, call, -EPROTO, "answers the handshake with", name, strlen(name));
    }
    if (msg->text.length != 2 || memcmp(msg->text.text, "ok", 2) != 0) {
        return call_bad(link, call, -ECONNREFUSED, "refuses the handshake", msg->text.text,
                        msg->text.length);
    }
    r = call_learn(link, call, msg);
    if (r == 0) {
        call->what &= ~PY_SOCKET_CALL_INIT;
    }
    return r;
}

static int call_take_side(struct py_socket_link *link, struct link_call *call,
                          const struct py_socket_msg *msg)
{
    if (msg->type != PY_SOCKET_SIDE_RET) {
        const char *name = py_socket_type_name(msg->type);

        return call_bad(link, call, -EPROTO, "answers the side message with", name, strlen(name));
    }
    if (msg->text.length > KVL_CHANNEL_URL_MAX ||
        memchr(msg->text.text, '\0', msg->text.length) != NULL) {
        return call_bad(link, call, -EPROTO, "has a bad peer_lookup_url", msg->text.text,
                        msg->text.length);
    }
    memcpy(call->side_reply, msg->text.text, msg->text.length);
    call->side_reply[msg->text.length] = '\0';
    if (call->peer == NULL) {
        call->peer = py_socket_peers_find(link->peers, call->id);
    }
    if (call->peer != NULL) {
        py_socket_peers_set_lookup(link->peers, call->peer, call->side_reply);
    }
    call->what &= ~PY_SOCKET_CALL_SIDE;
    return 0;
}

/* @return 0; -EAGAIN nothing is there; a code that ends the call. */
static int call_receive(struct py_socket_link *link, struct link_call *call)
{
    char reason[PY_SOCKET_REASON_ROOM];
    struct py_socket_msg msg;
    zmq_msg_t frame;
    int r;

    (void)zmq_msg_init(&frame);
    if (zmq_msg_recv(&frame, call->req, ZMQ_DONTWAIT) < 0) {
        (void)zmq_msg_close(&frame);
        return -EAGAIN;
    }
    call->is_sent = 0;
    if (zmq_msg_more(&frame)) {
        r = call_bad(link, call, -EPROTO, "answers with", "more than one frame", 19);
    } else if (py_socket_decode(zmq_msg_data(&frame), zmq_msg_size(&frame), &msg, reason) < 0) {
        r = call_bad(link, call, -EPROTO, "answers nonsense", reason, strlen(reason));
    } else if ((call->what & PY_SOCKET_CALL_INIT) != 0) {
        r = call_take_init(link, call, &msg);
    } else {
        r = call_take_side(link, call, &msg);
    }
    (void)zmq_msg_close(&frame);
    return r;
}

/* One step. @return 0 there may be more to do; -EAGAIN not now; a code that ends the call. */
static int call_step(struct py_socket_link *link, struct link_call *call)
{
    int ready = py_socket_zmq_ready(call->req);

    if (call->is_sent) {
        return (ready & ZMQ_POLLIN) != 0 ? call_receive(link, call) : -EAGAIN;
    }
    return (ready & ZMQ_POLLOUT) != 0 ? call_send(link, call) : -EAGAIN;
}

void link_call_run(struct py_socket_link *link, struct link_call *call)
{
    uint32_t seen;
    int r = 0;

    if (call->has_ended || call->req == NULL) {
        return;
    }
    seen = py_socket_zmq_watched(call->watch);
    call->was_cut |= (seen & PY_SOCKET_CUT) != 0;
    while (r == 0 && call->what != 0) {
        r = call_step(link, call);
    }
    if (call->what == 0 || r != -EAGAIN) {
        call_end_active(link, call, r);
    } else if ((seen & PY_SOCKET_DENIED) != 0) {
        kvl_warn(link->config.host->log,
                 "py_socket: peer '%s' does not accept our CURVE key, or only one side uses CURVE",
                 call->url);
        call_end_active(link, call, -EACCES);
    } else if ((seen & PY_SOCKET_LOST) != 0 && call->is_sent) {
        /* what was sent, or its answer, is lost with the connection */
        call_retry_later(link, call);
    }
}

static void call_begin(struct py_socket_link *link, struct link_call *call)
{
    int r = call_dial(link, call);

    if (r < 0) {
        kvl_warn(link->config.host->log, "py_socket: no socket for '%s': %s", call->url,
                 strerror(-r));
        call_end_active(link, call, r);
        return;
    }
    link_call_run(link, call);
}

void link_calls_begin(struct py_socket_link *link)
{
    while (link->active_count < LINK_ACTIVE_MAX && link->waiting != NULL) {
        struct link_call *call = link->waiting;

        link->waiting = call->next;
        if (link->waiting == NULL) {
            link->waiting_end = &link->waiting;
        }
        call->next = link->active;
        link->active = call;
        link->active_count++;
        call_begin(link, call);
    }
}

/* @return what the call ends with. */
static int call_late(struct py_socket_link *link, const struct link_call *call)
{
    if (call->was_cut && link->config.options->with_curve) {
        kvl_warn(link->config.host->log,
                 "py_socket: peer '%s' hangs up on us: it has another key than curve_server_keys "
                 "says",
                 call->url);
        return -EACCES;
    }
    kvl_warn(link->config.host->log, "py_socket: no answer from peer '%s' in time", call->url);
    return -ETIMEDOUT;
}

/* After calls were taken out of the middle. */
static void call_find_end(struct py_socket_link *link)
{
    link->waiting_end = &link->waiting;
    while (*link->waiting_end != NULL) {
        link->waiting_end = &(*link->waiting_end)->next;
    }
}

void link_calls_check(struct py_socket_link *link)
{
    uint64_t now = link_now(link);
    struct link_call *next;

    for (struct link_call *call = link->active; call != NULL; call = next) {
        next = call->next;
        if (now >= call->deadline_ms) {
            call_end_active(link, call, call_late(link, call));
        } else if (now >= call->due_ms) {
            call_close(link, call);
            call_begin(link, call);
        } else {
            link_due(link, call->due_ms);
        }
    }
    for (struct link_call **at = &link->waiting; *at != NULL;) {
        struct link_call *call = *at;

        if (now < call->deadline_ms) {
            link_due(link, call->deadline_ms);
            at = &call->next;
            continue;
        }
        *at = call->next;
        call_end(link, call, call_late(link, call));
    }
    call_find_end(link);
}

static int call_is_cancelled(struct py_socket_link *link, const struct link_call *call)
{
    int is_cancelled;

    pthread_mutex_lock(&link->lock);
    is_cancelled = call->is_cancelled;
    pthread_mutex_unlock(&link->lock);
    return is_cancelled;
}

void link_calls_cancel(struct py_socket_link *link, int all)
{
    struct link_call *next;

    for (struct link_call *call = link->active; call != NULL; call = next) {
        next = call->next;
        if (all || call_is_cancelled(link, call)) {
            call_end_active(link, call, -ECANCELED);
        }
    }
    for (struct link_call **at = &link->waiting; *at != NULL;) {
        struct link_call *call = *at;

        if (!all && !call_is_cancelled(link, call)) {
            at = &call->next;
            continue;
        }
        *at = call->next;
        call_end(link, call, -ECANCELED);
    }
    call_find_end(link);
}
