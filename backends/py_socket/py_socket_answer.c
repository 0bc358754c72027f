/* SPDX-License-Identifier: Apache-2.0 */
/* The target side of a link: whatever comes is answered, or the sender would wait for ever. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <zmq.h>

#include "py_socket_link_parts.h"
#include "py_socket_url.h"

#define ROUND 64 /* answers until others get their turn */
#define COMPLAIN_MS 1000
#define STATUS_ROOM (PY_SOCKET_REASON_ROOM + 2 * KVL_NAME_ROOM)

static void answer_bad(struct py_socket_link *link, struct kvl_pack_out *out, const char *reason)
{
    uint64_t now = link_now(link);

    py_socket_count(&link->config.counters->frames_bad);
    if (now >= link->complained_ms + COMPLAIN_MS || link->complained_ms == 0) {
        link->complained_ms = now;
        kvl_warn(link->config.host->log, "py_socket: '%s' refused a message: %s", link->url,
                 reason);
    }
    py_socket_put_init_response(out, reason, NULL, NULL);
}

/* The name as it came, and as others may write it. @return 0; a reason. */
static const char *answer_name(const struct kvl_text *text, char *id_out, char *url_out)
{
    if (text->length == 0) {
        return "peer_init_url: empty";
    }
    if (text->length > KVL_CHANNEL_URL_MAX) {
        return "peer_init_url: too long";
    }
    for (uint32_t i = 0; i < text->length; i++) {
        if ((unsigned char)text->text[i] <= ' ' || text->text[i] == 0x7f) {
            return "peer_init_url: blanks or control characters";
        }
    }
    memcpy(id_out, text->text, text->length);
    id_out[text->length] = '\0';
    if (py_socket_url_normal(id_out, url_out) < 0) {
        /* one that only initiates: its name is no address */
        memcpy(url_out, id_out, (size_t)text->length + 1);
    }
    return NULL;
}

static void answer_refuse(struct py_socket_link *link, struct kvl_pack_out *out, const char *id,
                          const char *why)
{
    char quote[LINK_QUOTE_ROOM];

    py_socket_count(&link->config.counters->handshakes_in_refused);
    kvl_warn(link->config.host->log, "py_socket: handshake of '%s' refused: %s",
             link_quote(id, strlen(id), quote), why);
    py_socket_put_init_response(out, why, NULL, NULL);
}

static void answer_init(struct py_socket_link *link, const struct py_socket_msg *msg,
                        struct kvl_pack_out *out)
{
    char id[KVL_CHANNEL_URL_ROOM];
    char url[KVL_CHANNEL_URL_ROOM];
    char why[STATUS_ROOM];
    struct py_socket_hello hello = {.id = id, .url = url, .offer = &msg->offer};
    struct py_socket_offer offer = link->offer;
    struct py_socket_learned learned;
    struct link_told told;
    const char *reason = answer_name(&msg->text, id, url);
    int r;

    if (reason != NULL) {
        answer_bad(link, out, reason);
        return;
    }
    if (link_agree(link, &msg->offer, &hello.version, why, sizeof(why)) < 0) {
        answer_refuse(link, out, id, why);
        return;
    }
    hello.now_ms = link_now(link);
    r = py_socket_peers_learn(link->peers, &hello, &learned);
    memcpy(offer.token, learned.token, sizeof(offer.token));
    link_tell(link, &learned);
    if (r < 0) {
        answer_refuse(link, out, id, r == -EMFILE ? "too many peers" : "out of memory");
        return;
    }
    py_socket_peer_release(learned.peer);
    py_socket_count(&link->config.counters->handshakes_in);
    link_told_give(link, url, msg);
    link_told_collect(link, &told);
    py_socket_put_init_response(out, "ok", msg->offer.version == 0 ? NULL : &offer, &told.notes);
    explicit_bzero(offer.token, sizeof(offer.token));
}

static void answer_frame(struct py_socket_link *link, const void *frame, size_t length,
                         struct kvl_pack_out *out)
{
    char reason[PY_SOCKET_REASON_ROOM];
    struct py_socket_msg msg;

    if (py_socket_decode(frame, length, &msg, reason) < 0) {
        answer_bad(link, out, reason);
        return;
    }
    switch (msg.type) {
    case PY_SOCKET_INIT_REQUEST:
        answer_init(link, &msg, out);
        break;
    case PY_SOCKET_SIDE:
        py_socket_count(&link->config.counters->side_messages_in);
        py_socket_put_side_ret(out, link->lookup_url);
        break;
    default:
        snprintf(reason, sizeof(reason), "unexpected %s", py_socket_type_name(msg.type));
        answer_bad(link, out, reason);
        break;
    }
}

/* @return 1; 0 when nothing has come in. */
static int answer_one(struct py_socket_link *link)
{
    uint8_t bytes[LINK_ANSWER_ROOM];
    struct kvl_pack_out out;
    zmq_msg_t frame;
    int more;

    (void)zmq_msg_init(&frame);
    if (zmq_msg_recv(&frame, link->rep, ZMQ_DONTWAIT) < 0) {
        (void)zmq_msg_close(&frame);
        return 0;
    }
    kvl_pack_out_init(&out, bytes, sizeof(bytes));
    more = zmq_msg_more(&frame);
    if (more) {
        answer_bad(link, &out, "more than one frame");
    } else {
        answer_frame(link, zmq_msg_data(&frame), zmq_msg_size(&frame), &out);
    }
    while (more) {
        (void)zmq_msg_recv(&frame, link->rep, ZMQ_DONTWAIT);
        more = zmq_msg_more(&frame);
    }
    (void)zmq_msg_close(&frame);
    /* a sender that is gone does not get its answer: that is all that can fail here */
    (void)zmq_send(link->rep, bytes, out.length, ZMQ_DONTWAIT);
    explicit_bzero(bytes, sizeof(bytes));
    return 1;
}

void link_answer(struct py_socket_link *link)
{
    int n = 0;

    if (link->rep == NULL) {
        return;
    }
    while ((py_socket_zmq_ready(link->rep) & ZMQ_POLLIN) != 0 && answer_one(link)) {
        if (++n == ROUND) {
            link_wake(link);
            return;
        }
    }
}
