/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file py_socket_link_parts.h
 * The inside of a link: py_socket_link.c has its life and its driver, py_socket_answer.c the target
 * side, py_socket_call.c the initiator side, py_socket_order.c how other threads ask for a call.
 */
#ifndef KVL_PY_SOCKET_LINK_PARTS_H
#define KVL_PY_SOCKET_LINK_PARTS_H

#include <pthread.h>

#include "py_socket_counters.h"
#include "py_socket_link.h"
#include "py_socket_options.h"
#include "py_socket_zmq.h"

#define LINK_CALLS_MAX 4096u /* begun and not ended */
#define LINK_ACTIVE_MAX 128u /* of these with sockets; the others wait */
#define LINK_ANSWER_ROOM 16384u /* of which notes are up to 9 KiB */
#define LINK_QUOTE_ROOM 128u

/* One handshake that we began. The driver's, but for what is said. */
struct link_call {
    struct link_call *next; /* in the one queue or list it is in */
    struct link_call *all_next; /* lock of the link */
    struct link_call **all_prev; /* lock of the link */
    uint64_t number;
    int is_cancelled; /* lock of the link */
    int has_ended;

    uint32_t what; /* PY_SOCKET_CALL_ still to do */
    char id[KVL_CHANNEL_URL_ROOM];
    int is_named;
    char url[KVL_CHANNEL_URL_ROOM];
    char self[KVL_CHANNEL_URL_ROOM]; /* what we call ourselves */
    uint64_t deadline_ms;
    py_socket_call_fn done;
    void *ctx;

    void *req; /* NULL: waits for its turn, or to try again at due_ms */
    void *watch;
    uint64_t due_ms; /* of the attempt, or of the next one */
    uint32_t attempts;
    int is_sent;
    int was_cut; /* a peer hung up in the middle of the handshake of ZMQ */
    uint8_t token[PY_SOCKET_TOKEN];
    struct py_socket_peer *peer; /* retained, once it has answered */
    char side_reply[KVL_CHANNEL_URL_ROOM];
};

struct py_socket_link {
    struct py_socket_link_config config;
    struct py_socket_peers *peers;
    struct py_socket_offer offer; /* ours; without a token */
    char bind[KVL_CHANNEL_URL_ROOM]; /* as asked for; "" = none */
    char url[KVL_CHANNEL_URL_ROOM]; /* as bound */
    char lookup_url[KVL_CHANNEL_URL_ROOM];
    uint64_t thread;
    int has_thread;

    pthread_mutex_t lock; /* guards the next block */
    pthread_cond_t changed; /* a wait has ended, or nobody drives any more */
    int is_driven;
    int is_closing;
    int is_cancelling; /* some call in `all` is */
    uint64_t numbers;
    uint32_t call_count;
    struct link_call *all;
    struct link_call *fresh; /* not yet taken over by the driver */
    struct link_call **fresh_end;
    struct py_socket_peer *forgotten; /* their peer_gone is still to come; by next_gone */

    /* the driver's */
    void *rep;
    int epoll_fd;
    int wake_fd;
    int timer_fd;
    uint64_t due_ms; /* the timer's; KVL_NEVER = off */
    struct link_call *waiting; /* for a socket */
    struct link_call **waiting_end;
    struct link_call *active;
    uint32_t active_count;
    struct link_call *ended; /* freed at the end of a round */
    uint64_t complained_ms; /* last line about a bad frame */
};

/* ---- py_socket_link.c ---- */

uint64_t link_now(const struct py_socket_link *link);
/** Has the driver come by at that time or before. */
void link_due(struct py_socket_link *link, uint64_t due_ms);
void link_wake(struct py_socket_link *link);
/** Polls a socket on behalf of `who`. @return 0; a code of epoll. */
int link_poll_add(struct py_socket_link *link, void *socket, void *who);
void link_poll_remove(struct py_socket_link *link, void *socket);
/** Tells the data plane what py_socket_peers_learn changed, and lets go of all but the peer. */
void link_tell(struct py_socket_link *link, const struct py_socket_learned *learned);
void link_tell_gone(struct py_socket_link *link, struct py_socket_peer *gone);
/**
 * Whether a data plane with that offer is possible.
 * @param why_out  PY_SOCKET_REASON_ROOM + 2 * KVL_NAME_ROOM bytes: why not
 * @return 0 and the version, 0 for a Python peer; -EPROTO.
 */
int link_agree(const struct py_socket_link *link, const struct py_socket_offer *offer,
               uint32_t *version_out, char *why_out, size_t room);
/** One round: waits for `timeout_ms` at most (-1 = for ever) and does all there is to do. */
void link_drive(struct py_socket_link *link, int timeout_ms);
/** With the lock held. @return 1 when this thread is the driver from now on. */
int link_grab(struct py_socket_link *link);
void link_let_go(struct py_socket_link *link);
/** Copies a text of the caller, NULL = "". @return 0; -EINVAL too long, err->text. */
int link_copy_url(const char *what, const char *url, char *url_out, struct kvl_err *err);
/** Foreign text for logs: printable, and cut where it is long. @return `quote_out`. */
const char *link_quote(const char *text, size_t length, char *quote_out);

/* ---- py_socket_told.c ---- */

/* What the own backends want told, copied. */
struct link_told {
    struct py_socket_notes notes;
    uint32_t left_out; /* that did not fit */
    char names[PY_SOCKET_NOTES_MAX][PY_SOCKET_NOTE_NAME];
    uint8_t bytes[PY_SOCKET_NOTES_MAX][KVL_OFFER_MAX];
};

void link_told_collect(const struct py_socket_link *link, struct link_told *told);
/** Gives the notes of a peer that has said hello to the backends they are for. */
void link_told_give(const struct py_socket_link *link, const char *url,
                    const struct py_socket_msg *msg);

/* ---- py_socket_answer.c ---- */

/** Answers what has come in. */
void link_answer(struct py_socket_link *link);

/* ---- py_socket_call.c ---- */

/** Gives waiting calls sockets, as many as may have some. */
void link_calls_begin(struct py_socket_link *link);
/** Something happened on the sockets of the call. */
void link_call_run(struct py_socket_link *link, struct link_call *call);
/** Ends what is late, tries again what is due, sets the timer for the rest. */
void link_calls_check(struct py_socket_link *link);
/** Ends calls that were cancelled, or all. */
void link_calls_cancel(struct py_socket_link *link, int all);

#endif /* KVL_PY_SOCKET_LINK_PARTS_H */
