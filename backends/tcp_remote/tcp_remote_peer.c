/* SPDX-License-Identifier: Apache-2.0 */
#include "tcp_remote_peer.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "tcp_remote_list.h"
#include "tcp_remote_resp_peer.h"
#include "tcp_remote_server.h"
#include "tcp_remote_stream.h"

/* What answering a request costs of a turn's budget besides its bytes: a lookup is not free. */
#define REQUEST_COST ((size_t)4096)

struct tcp_remote_peer *tcp_remote_peer_create(int take_fd, const struct kvl_sock_addr *addr)
{
    struct tcp_remote_peer *peer = calloc(1, sizeof(*peer));

    if (peer == NULL) {
        return NULL;
    }
    peer->source = TCP_REMOTE_SOURCE_PEER;
    peer->phase = TCP_REMOTE_PHASE_HEADER;
    peer->request_bytes = TCP_REMOTE_REQUEST_BYTES;
    peer->fd = take_fd;
    peer->addr = *addr;
    peer->is_tcp = !kvl_sock_is_unix(addr);
    if (peer->is_tcp) {
        kvl_sock_set_nodelay(take_fd);
        kvl_sock_set_keepalive(take_fd);
    }
    return peer;
}

static void peer_drop_payload(struct tcp_remote_peer *peer)
{
    if (peer->has_lease) {
        peer->has_lease = false;
        (void)peer->loop->host->store_release(peer->loop->host, peer->lease);
    }
    if (peer->list != NULL) {
        free(peer->list);
        peer->list = NULL;
        tcp_remote_server_give_list(peer->loop->server, peer->list_bytes);
    }
    peer->payload = NULL;
    peer->payload_left = 0;
    peer->tail_left = 0;
}

void tcp_remote_peer_destroy(struct tcp_remote_peer *peer)
{
    if (peer == NULL) {
        return;
    }
    if (peer->has_slot) {
        (void)peer->loop->host->store_abort(peer->loop->host, peer->slot);
    }
    peer_drop_payload(peer);
    free(peer->resp);
    tcp_remote_session_destroy(peer->tls);
    if (peer->fd >= 0) {
        close(peer->fd);
    }
    free(peer);
}

static void peer_count(struct tcp_remote_peer *peer, enum tcp_remote_counter counter)
{
    tcp_remote_loop_count(peer->loop, counter, 1);
}

static void peer_moved(struct tcp_remote_peer *peer, enum tcp_remote_counter way, size_t bytes,
                       size_t *budget)
{
    peer->moved_ms = peer->loop->now_ms;
    *budget -= bytes < *budget ? bytes : *budget;
    tcp_remote_loop_count(peer->loop, way, bytes);
}

/*
 * The kernel delays the ACK of bytes that get no answer, a PUT, and Nagle's algorithm at the client
 * then holds the payload's tail or the next header for 40 ms. It leaves this mode by itself, hence
 * again and again; but only before a wait: what has come already was not held, and a reply carries
 * the ACK along.
 */
static void peer_ack(struct tcp_remote_peer *peer)
{
    if (peer->is_tcp && peer->ack_due) {
        kvl_sock_quickack(peer->fd);
    }
    peer->ack_due = false;
}

void tcp_remote_peer_complain(struct tcp_remote_peer *peer, const char *what)
{
    char text[KVL_SOCK_TEXT_MAX];

    if (tcp_remote_server_first(peer->loop->server, &peer->addr)) {
        kvl_sock_print(&peer->addr, text, sizeof(text));
        kvl_warn(peer->loop->host->log,
                 "tcp_remote: peer '%s' %s; counted from now on without a line", text, what);
    }
}

static enum tcp_remote_step peer_protocol_error(struct tcp_remote_peer *peer, const char *what)
{
    peer_count(peer, TCP_REMOTE_COUNT_PROTOCOL_ERRORS);
    tcp_remote_peer_complain(peer, what);
    return TCP_REMOTE_STEP_CLOSE;
}

/* ---- replies ---- */

static void peer_reply(struct tcp_remote_peer *peer, int32_t code, int32_t length,
                       const struct kvl_attrs *attrs)
{
    const struct tcp_remote_reply reply = {.code = code, .length = length, .attrs = *attrs};

    tcp_remote_reply_encode(&reply, peer->out + peer->out_at + peer->out_length);
    peer->out_length += TCP_REMOTE_REPLY_BYTES;
    if (peer->out_length + TCP_REMOTE_REPLY_BYTES > sizeof(peer->out)) {
        peer->flushing = true;
    }
}

static void peer_reply_plain(struct tcp_remote_peer *peer, bool success)
{
    peer_reply(peer, success ? TCP_REMOTE_SUCCESS : TCP_REMOTE_FAIL, 0, &tcp_remote_no_attrs);
}

static void peer_sent(struct tcp_remote_peer *peer, size_t bytes)
{
    size_t head = bytes < peer->out_length ? bytes : peer->out_length;

    peer->out_at += head;
    peer->out_length -= head;
    bytes -= head;
    if (bytes > 0) {
        size_t body = bytes < peer->payload_left ? bytes : peer->payload_left;

        peer->payload += body;
        peer->payload_left -= body;
        peer->tail += bytes - body;
        peer->tail_left -= bytes - body;
    }
}

/* Sends what waits. ON when all of it left. */
static enum tcp_remote_step peer_flush(struct tcp_remote_peer *peer, size_t *budget)
{
    while (peer->out_length > 0 || peer->payload_left > 0 || peer->tail_left > 0) {
        size_t room = *budget > peer->out_length ? *budget - peer->out_length : 0;
        size_t chunk = peer->payload_left < room ? peer->payload_left : room;
        struct iovec iov[3] = {
            {.iov_base = peer->out + peer->out_at, .iov_len = peer->out_length},
            {.iov_base = (void *)(uintptr_t)peer->payload, .iov_len = chunk},
            {.iov_base = (void *)(uintptr_t)peer->tail, .iov_len = peer->tail_left},
        };
        struct msghdr msg = {.msg_iov = iov, .msg_iovlen = chunk > 0 ? 2 : 1};
        ssize_t n;

        if (*budget == 0) {
            return TCP_REMOTE_STEP_YIELD;
        }
        if (peer->tail_left > 0 && chunk == peer->payload_left) {
            msg.msg_iovlen = 3;
        }
        n = tcp_remote_stream_send(peer->fd, peer->tls, &msg);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return errno == EAGAIN ? TCP_REMOTE_STEP_WRITE : TCP_REMOTE_STEP_CLOSE;
        }
        peer->ack_due = false;
        peer_sent(peer, (size_t)n);
        peer_moved(peer, TCP_REMOTE_COUNT_BYTES_OUT, (size_t)n, budget);
    }
    peer_drop_payload(peer);
    peer->out_at = 0;
    peer->flushing = false;
    return TCP_REMOTE_STEP_ON;
}

/* ---- requests ---- */

static void peer_refuse_put(struct tcp_remote_peer *peer, const struct kvl_key *key, int code)
{
    const struct kvl_host *host = peer->loop->host;

    /* a miss is legal, the bytes the client wanted to replace are not */
    (void)host->store_remove(host, key);
    peer_count(peer, TCP_REMOTE_COUNT_PUT_REFUSED);
    tcp_remote_peer_complain(peer, code == -EMSGSIZE
                                       ? "stores chunks over the limit, they are dropped"
                                       : "stores chunks there is no room for, they are dropped");
    peer->phase = peer->body_left > 0 ? TCP_REMOTE_PHASE_DROP : TCP_REMOTE_PHASE_HEADER;
}

int tcp_remote_peer_commit(struct tcp_remote_peer *peer)
{
    const struct kvl_host *host = peer->loop->host;
    int r;

    peer->has_slot = false;
    r = host->store_commit(host, peer->slot);
    peer_count(peer, r == 0 ? TCP_REMOTE_COUNT_STORED : TCP_REMOTE_COUNT_PUT_REFUSED);
    return r;
}

/* Moves body bytes that came with the header. */
static void peer_take_ahead(struct tcp_remote_peer *peer)
{
    size_t n = peer->in_length < peer->body_left ? peer->in_length : peer->body_left;

    if (n > 0 && peer->phase == TCP_REMOTE_PHASE_BODY) {
        memcpy(peer->body, peer->in + peer->in_at, n);
        peer->body += n;
    }
    peer->in_at += n;
    peer->in_length -= n;
    peer->body_left -= n;
}

static void peer_body_done(struct tcp_remote_peer *peer)
{
    /* in RESP two bytes more end the value */
    if (peer->phase == TCP_REMOTE_PHASE_BODY && peer->resp == NULL) {
        (void)tcp_remote_peer_commit(peer);
    }
    peer->phase = TCP_REMOTE_PHASE_HEADER;
}

static void peer_begin_body(struct tcp_remote_peer *peer)
{
    peer_take_ahead(peer);
    if (peer->body_left == 0) {
        peer_body_done(peer);
    } else if (peer->out_length > 0) {
        peer->flushing = true; /* answers must not wait for the body */
    }
}

static int peer_reserve(struct tcp_remote_peer *peer, const struct kvl_chunk *chunk,
                        void **addr_out)
{
    const struct kvl_host *host = peer->loop->host;
    int r;

    if (chunk->bytes > peer->loop->options->max_value) {
        return -EMSGSIZE;
    }
    r = host->store_reserve(host, chunk, &peer->slot, addr_out);
    if (r == -ENOMEM && tcp_remote_server_drop_holds(peer->loop->server)) {
        r = host->store_reserve(host, chunk, &peer->slot, addr_out);
    }
    return r;
}

int tcp_remote_peer_receive(struct tcp_remote_peer *peer, const struct kvl_chunk *chunk)
{
    void *addr = NULL;
    int r = peer_reserve(peer, chunk, &addr);

    peer->body_left = (size_t)chunk->bytes;
    if (r < 0) {
        peer_refuse_put(peer, &chunk->key, r);
    } else {
        peer->has_slot = true;
        peer->body = addr;
        peer->phase = TCP_REMOTE_PHASE_BODY;
    }
    peer_begin_body(peer);
    return r;
}

void tcp_remote_peer_drop(struct tcp_remote_peer *peer, size_t bytes)
{
    peer->body_left = bytes;
    peer->phase = TCP_REMOTE_PHASE_DROP;
    peer_begin_body(peer);
}

static enum tcp_remote_step peer_put(struct tcp_remote_peer *peer,
                                     const struct tcp_remote_request *request)
{
    struct kvl_chunk chunk = {.attrs = request->attrs};

    if (request->length < 0) {
        return peer_protocol_error(peer, "sent a PUT of negative length, closed");
    }
    /* the header's bytes are reused while the body comes */
    memcpy(peer->key, request->key, request->key_length);
    chunk.key = (struct kvl_key){.text = peer->key, .length = request->key_length};
    chunk.bytes = (uint64_t)request->length;
    (void)tcp_remote_peer_receive(peer, &chunk);
    return TCP_REMOTE_STEP_ON;
}

static void peer_send_chunk(struct tcp_remote_peer *peer, const struct kvl_view *view)
{
    peer->has_lease = true;
    peer->lease = view->lease;
    if (view->length > INT32_MAX) { /* put there by the engine; the wire cannot say it */
        peer_drop_payload(peer);
        peer_count(peer, TCP_REMOTE_COUNT_MISSES);
        peer_reply_plain(peer, false);
        return;
    }
    peer_count(peer, TCP_REMOTE_COUNT_HITS);
    peer->payload = view->data;
    peer->payload_left = (size_t)view->length;
    peer_reply(peer, TCP_REMOTE_SUCCESS, (int32_t)view->length, &view->attrs);
    peer->flushing = true;
}

static struct kvl_key peer_key(const struct tcp_remote_peer *peer)
{
    return (struct kvl_key){.text = peer->key, .length = peer->key_length};
}

/* The request's bytes are reused while the peer waits. */
static void peer_keep_key(struct tcp_remote_peer *peer, const struct kvl_key *key)
{
    memcpy(peer->key, key->text, key->length);
    peer->key_length = key->length;
}

static enum tcp_remote_step peer_get_again(struct tcp_remote_peer *peer, int status)
{
    const struct kvl_host *host = peer->loop->host;
    const struct kvl_key key = peer_key(peer);
    struct kvl_view view;

    (void)status; /* whatever became of the fetch, a PUT may have brought the chunk meanwhile */
    if (host->store_get(host, &key, &view) == 0) {
        peer_send_chunk(peer, &view);
    } else {
        peer_count(peer, TCP_REMOTE_COUNT_MISSES);
        peer_reply_plain(peer, false);
    }
    return TCP_REMOTE_STEP_ON;
}

static enum tcp_remote_step peer_get(struct tcp_remote_peer *peer, const struct kvl_key *key)
{
    const struct kvl_host *host = peer->loop->host;
    struct kvl_view view;

    if (host->store_get(host, key, &view) == 0) {
        peer_send_chunk(peer, &view);
        return TCP_REMOTE_STEP_ON;
    }
    peer_keep_key(peer, key);
    return tcp_remote_peer_fetch(peer, key, 0, peer_get_again) ? TCP_REMOTE_STEP_ON
                                                               : peer_get_again(peer, -ENOENT);
}

static enum tcp_remote_step peer_exist_again(struct tcp_remote_peer *peer, int status)
{
    peer_count(peer, status == 0 ? TCP_REMOTE_COUNT_HITS : TCP_REMOTE_COUNT_MISSES);
    peer_reply_plain(peer, status == 0);
    return TCP_REMOTE_STEP_ON;
}

static enum tcp_remote_step peer_exist(struct tcp_remote_peer *peer, const struct kvl_key *key)
{
    int r = peer->loop->host->store_exists(peer->loop->host, key);

    if (r < 0 && tcp_remote_peer_fetch(peer, key, KVL_FETCH_LOOKUP, peer_exist_again)) {
        return TCP_REMOTE_STEP_ON;
    }
    return peer_exist_again(peer, r);
}

static enum tcp_remote_step peer_list(struct tcp_remote_peer *peer)
{
    size_t bytes = 0;
    int r = tcp_remote_list_make(peer->loop->server, &peer->list, &bytes, &peer->list_bytes);

    if (r < 0) {
        /* 400 would read as "answers the next request": clients tell by it who knows LIST */
        return TCP_REMOTE_STEP_CLOSE;
    }
    peer->payload = (const uint8_t *)peer->list;
    peer->payload_left = bytes;
    peer_reply(peer, TCP_REMOTE_SUCCESS, (int32_t)bytes, &tcp_remote_no_attrs);
    peer->flushing = true;
    return TCP_REMOTE_STEP_ON;
}

static enum tcp_remote_step peer_request(struct tcp_remote_peer *peer)
{
    struct tcp_remote_request request;
    struct kvl_key key;

    tcp_remote_request_decode(peer->in + peer->in_at, &request);
    peer->in_at += TCP_REMOTE_REQUEST_BYTES;
    peer->in_length -= TCP_REMOTE_REQUEST_BYTES;
    if (request.command < TCP_REMOTE_PUT || request.command > TCP_REMOTE_HEALTH) {
        return peer_protocol_error(peer, "sent an unknown command, closed");
    }
    peer_count(peer,
               (enum tcp_remote_counter)(TCP_REMOTE_COUNT_PUT + request.command - TCP_REMOTE_PUT));
    if (request.key_length == 0 && request.command <= TCP_REMOTE_EXIST) {
        return peer_protocol_error(peer, "sent an empty key, closed");
    }
    key = (struct kvl_key){.text = request.key, .length = request.key_length};
    switch (request.command) {
    case TCP_REMOTE_PUT:
        return peer_put(peer, &request);
    case TCP_REMOTE_GET:
        return peer_get(peer, &key);
    case TCP_REMOTE_EXIST:
        return peer_exist(peer, &key);
    case TCP_REMOTE_LIST:
        return peer_list(peer);
    default:
        peer_reply_plain(peer, true);
        break;
    }
    return TCP_REMOTE_STEP_ON;
}

/* ---- fetching ---- */

/* Runs in another thread, which may touch nothing else of the peer. */
static void peer_fetched(void *ctx, int32_t status)
{
    struct tcp_remote_peer *peer = ctx;

    peer->fetch_status = status;
    tcp_remote_loop_fetched(peer->loop, peer);
}

bool tcp_remote_peer_fetch(struct tcp_remote_peer *peer, const struct kvl_key *key, uint32_t flags,
                           tcp_remote_resume_fn resume)
{
    const struct kvl_host *host = peer->loop->host;

    if (!KVL_HAS_OP(host, store_fetch)) {
        return false;
    }
    peer->fetching = true; /* the end may come before the call returns */
    peer->resume = resume;
    if (host->store_fetch(host, key, flags, peer_fetched, peer) < 0) {
        peer->fetching = false;
        return false;
    }
    peer->phase = TCP_REMOTE_PHASE_FETCH;
    peer->flushing = peer->out_length > 0; /* earlier answers need not wait */
    return true;
}

void tcp_remote_peer_abandon(struct tcp_remote_peer *peer)
{
    peer->abandoned = true;
    tcp_remote_session_destroy(peer->tls); /* later the number of its socket is another's */
    peer->tls = NULL;
    close(peer->fd);
    peer->fd = -1;
}

static enum tcp_remote_step peer_step_fetch(struct tcp_remote_peer *peer)
{
    if (peer->fetching) {
        return TCP_REMOTE_STEP_PARK;
    }
    peer->phase = TCP_REMOTE_PHASE_HEADER;
    return peer->resume(peer, peer->fetch_status);
}

/* ---- receiving ---- */

/* Some of a request has come, not all. */
static bool peer_is_inside(const struct tcp_remote_peer *peer)
{
    return peer->phase != TCP_REMOTE_PHASE_HEADER || peer->in_length > 0 ||
           (peer->resp != NULL && tcp_remote_resp_peer_is_inside(peer));
}

/* Nothing more is there. */
static enum tcp_remote_step peer_wait(const struct tcp_remote_peer *peer)
{
    return !peer_is_inside(peer) && tcp_remote_server_draining(peer->loop->server)
               ? TCP_REMOTE_STEP_CLOSE
               : TCP_REMOTE_STEP_READ;
}

static enum tcp_remote_step peer_recv_failed(struct tcp_remote_peer *peer, ssize_t n)
{
    if (n < 0 && errno == EINTR) {
        return TCP_REMOTE_STEP_ON;
    }
    if (n < 0 && errno == EAGAIN) {
        return peer_wait(peer);
    }
    if (n < 0 && errno == EPROTO) {
        peer_count(peer, TCP_REMOTE_COUNT_TLS_FAILED);
        tcp_remote_peer_complain(peer, tcp_remote_session_error(peer->tls));
    }
    if (peer->phase != TCP_REMOTE_PHASE_HEADER || peer->has_slot) {
        peer_count(peer, TCP_REMOTE_COUNT_PUT_TRUNCATED);
    }
    return TCP_REMOTE_STEP_CLOSE;
}

static enum tcp_remote_step peer_recv_header(struct tcp_remote_peer *peer, size_t *budget)
{
    size_t room = sizeof(peer->in) - peer->in_length;
    ssize_t n;

    if (peer->is_dry) {
        return peer_wait(peer);
    }
    if (peer->in_at > 0) {
        memmove(peer->in, peer->in + peer->in_at, peer->in_length);
        peer->in_at = 0;
    }
    n = tcp_remote_stream_recv(peer->fd, peer->tls, peer->in + peer->in_length, room);
    if (n <= 0) {
        return peer_recv_failed(peer, n);
    }
    peer->in_length += (size_t)n;
    peer->is_dry = peer->tls == NULL && (size_t)n < room; /* TLS gives a record at a time */
    peer->ack_due = true;
    peer_moved(peer, TCP_REMOTE_COUNT_BYTES_IN, (size_t)n, budget);
    return TCP_REMOTE_STEP_ON;
}

static enum tcp_remote_step peer_step_header(struct tcp_remote_peer *peer, size_t *budget)
{
    if (peer->closing && peer->out_length == 0) {
        return TCP_REMOTE_STEP_CLOSE;
    }
    if (peer->in_length >= peer->request_bytes && !peer->closing) {
        if (*budget == 0) {
            peer->flushing = peer->out_length > 0;
            return peer->flushing ? TCP_REMOTE_STEP_ON : TCP_REMOTE_STEP_YIELD;
        }
        *budget -= REQUEST_COST < *budget ? REQUEST_COST : *budget;
        return peer->resp != NULL ? tcp_remote_resp_peer_request(peer) : peer_request(peer);
    }
    if (peer->out_length > 0) {
        peer->flushing = true;
        return TCP_REMOTE_STEP_ON;
    }
    return *budget == 0 ? TCP_REMOTE_STEP_READ : peer_recv_header(peer, budget);
}

/* Receives straight to where the bytes belong; the last read takes the next header along. */
static enum tcp_remote_step peer_step_body(struct tcp_remote_peer *peer, size_t *budget)
{
    bool drop = peer->phase == TCP_REMOTE_PHASE_DROP;
    size_t most = drop && *budget > TCP_REMOTE_SCRATCH_BYTES ? TCP_REMOTE_SCRATCH_BYTES : *budget;
    size_t want = peer->body_left < most ? peer->body_left : most;
    struct iovec iov[2] = {
        {.iov_base = drop ? peer->loop->scratch : peer->body, .iov_len = want},
        {.iov_base = peer->in, .iov_len = sizeof(peer->in)},
    };
    ssize_t n;

    if (*budget == 0) {
        return TCP_REMOTE_STEP_READ;
    }
    n = tcp_remote_stream_readv(peer->fd, peer->tls, iov, want == peer->body_left ? 2 : 1);
    if (n <= 0) {
        return peer_recv_failed(peer, n);
    }
    peer_moved(peer, TCP_REMOTE_COUNT_BYTES_IN, (size_t)n, budget);
    if ((size_t)n < peer->body_left) {
        peer->body_left -= (size_t)n;
        if (!drop) {
            peer->body += n;
        }
        return TCP_REMOTE_STEP_ON;
    }
    peer->in_at = 0;
    peer->in_length = (size_t)n - peer->body_left;
    peer->body_left = 0;
    peer->is_dry = peer->tls == NULL && peer->in_length < sizeof(peer->in);
    peer->ack_due = true;
    peer_body_done(peer);
    return TCP_REMOTE_STEP_ON;
}

bool tcp_remote_peer_is_bulk(const struct tcp_remote_peer *peer)
{
    return peer->body_left > TCP_REMOTE_TURN_SMALL || peer->payload_left > TCP_REMOTE_TURN_SMALL;
}

/* TLS may have to read before it can write, and hold bytes that epoll does not know of. */
static enum tcp_remote_step peer_tls_step(const struct tcp_remote_peer *peer,
                                          enum tcp_remote_step step)
{
    if (step != TCP_REMOTE_STEP_READ && step != TCP_REMOTE_STEP_WRITE) {
        return step;
    }
    if (step == TCP_REMOTE_STEP_READ && tcp_remote_session_has_more(peer->tls)) {
        return TCP_REMOTE_STEP_YIELD;
    }
    switch (tcp_remote_session_want(peer->tls)) {
    case TCP_REMOTE_WANT_READ:
        return TCP_REMOTE_STEP_READ;
    case TCP_REMOTE_WANT_WRITE:
        return TCP_REMOTE_STEP_WRITE;
    default:
        return step;
    }
}

enum tcp_remote_step tcp_remote_peer_run(struct tcp_remote_peer *peer, size_t budget)
{
    enum tcp_remote_step step;

    peer->is_dry = false;
    do {
        if (peer->flushing) {
            step = peer_flush(peer, &budget);
        } else if (peer->phase == TCP_REMOTE_PHASE_HEADER) {
            step = peer_step_header(peer, &budget);
        } else if (peer->phase == TCP_REMOTE_PHASE_FETCH) {
            step = peer_step_fetch(peer);
        } else {
            step = peer_step_body(peer, &budget);
        }
    } while (step == TCP_REMOTE_STEP_ON);
    if (peer->tls != NULL) {
        step = peer_tls_step(peer, step);
    }
    if (step == TCP_REMOTE_STEP_READ) {
        peer_ack(peer);
    }
    return step;
}

/* Has not shown yet that it may be here: such a peer must not sit there for ever. */
static bool peer_is_stranger(const struct tcp_remote_peer *peer)
{
    return (peer->resp != NULL && !tcp_remote_resp_peer_is_known(peer)) ||
           (peer->tls != NULL && !tcp_remote_session_is_up(peer->tls));
}

bool tcp_remote_peer_is_late(struct tcp_remote_peer *peer)
{
    const struct tcp_remote_options *options = peer->loop->options;
    enum tcp_remote_counter why;
    uint64_t limit;

    if (peer->flushing) {
        limit = options->send_timeout_ms;
        why = TCP_REMOTE_COUNT_SLOW_READERS;
    } else if (peer_is_inside(peer) || peer_is_stranger(peer)) {
        limit = options->stall_timeout_ms;
        why = TCP_REMOTE_COUNT_STALLED;
    } else {
        limit = options->idle_timeout_ms;
        why = TCP_REMOTE_COUNT_IDLE_CLOSED;
    }
    if (peer->fetching) {
        return false; /* it is us who are late */
    }
    if (limit == 0 || peer->is_ready || peer->loop->now_ms - peer->moved_ms < limit) {
        return false;
    }
    peer_count(peer, why);
    if (why != TCP_REMOTE_COUNT_IDLE_CLOSED) {
        tcp_remote_peer_complain(peer, why == TCP_REMOTE_COUNT_STALLED
                                           ? "stopped in the middle of a request, closed"
                                           : "does not take its reply, closed");
    }
    return true;
}
