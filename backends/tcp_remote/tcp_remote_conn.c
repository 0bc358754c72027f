/* SPDX-License-Identifier: Apache-2.0 */
#include "tcp_remote_conn.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "tcp_remote_client.h"
#include "tcp_remote_stream.h"

/* Headers in front of a payload, and what follows it. */
#define IOVS_AROUND 2u

int tcp_remote_conn_watch(struct tcp_remote_conn *conn, bool writable)
{
    uint32_t events = EPOLLIN | (writable ? (uint32_t)EPOLLOUT : 0);
    struct epoll_event event = {.events = events, .data.ptr = conn};
    int op = conn->events == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;

    if (conn->events == events) {
        return 0;
    }
    if (epoll_ctl(tcp_remote_client_epoll(conn->client), op, conn->fd, &event) < 0) {
        return -errno;
    }
    conn->events = events;
    return 0;
}

static void conn_reset(struct tcp_remote_conn *conn)
{
    conn->events = 0;
    conn->more = false;
    conn->answered = false;
    conn->doomed = false;
    conn->out_at = 0;
    conn->out_length = 0;
    conn->put = NULL;
    conn->put_left = 0;
    conn->tail_ready = false;
    conn->tail_at = 0;
    conn->tail_length = 0;
    conn->in_at = 0;
    conn->in_length = 0;
    conn->sink = TCP_REMOTE_SINK_NONE;
    conn->body_left = 0;
    conn->sealed = false;
    conn->seal_have = 0;
    conn->name_length = 0;
}

void tcp_remote_conn_close(struct tcp_remote_conn *conn)
{
    tcp_remote_session_destroy(conn->tls);
    conn->tls = NULL;
    if (conn->events != 0) {
        /* close() alone ends nothing while a child of the engine is between fork() and exec() */
        (void)epoll_ctl(tcp_remote_client_epoll(conn->client), EPOLL_CTL_DEL, conn->fd, NULL);
    }
    if (conn->fd >= 0) {
        close(conn->fd);
    }
    conn->fd = -1;
    conn->state = TCP_REMOTE_DOWN;
    conn_reset(conn);
}

int tcp_remote_conn_connect(struct tcp_remote_conn *conn)
{
    const struct kvl_sock_addr *addrs = NULL;
    size_t count = 0;
    int r = tcp_remote_client_addrs(conn->client, &addrs, &count);

    tcp_remote_conn_close(conn);
    if (r < 0) {
        return r;
    }
    for (r = -ECONNREFUSED; conn->addr_next < count; conn->addr_next++) {
        r = kvl_sock_connect(&addrs[conn->addr_next], &conn->fd);
        if (r == 0) {
            conn->addr_next++;
            break;
        }
    }
    if (r < 0) {
        return r;
    }
    kvl_sock_set_nodelay(conn->fd);
    kvl_sock_set_keepalive(conn->fd);
    conn->state = TCP_REMOTE_CONNECTING;
    conn->connect_until_ms = tcp_remote_client_now(conn->client) +
                             tcp_remote_client_options(conn->client)->connect_timeout_ms;
    return tcp_remote_conn_watch(conn, true);
}

/* ---- sending ---- */

static void conn_encode(int32_t command, int32_t length, const struct kvl_attrs *attrs,
                        const char *key, uint32_t key_length, uint8_t *out)
{
    const struct tcp_remote_request request = {
        .command = command,
        .length = length,
        .attrs = *attrs,
        .key = key,
        .key_length = key_length,
    };

    (void)tcp_remote_request_encode(&request, out); /* the key was checked at submit */
}

static void conn_encode_small(struct tcp_remote_conn *conn, int32_t command, const char *key,
                              uint32_t key_length)
{
    conn_encode(command, 0, &tcp_remote_no_attrs, key, key_length, conn->out + conn->out_length);
    conn->out_length += TCP_REMOTE_REQUEST_BYTES;
}

/* What follows the payload of a PUT: its seal, and the question whether it arrived. */
static void conn_make_tail(struct tcp_remote_conn *conn, uint64_t hash)
{
    const struct tcp_remote_options *options = tcp_remote_client_options(conn->client);
    const struct tcp_remote_req *req = conn->put;

    conn->tail_at = 0;
    conn->tail_length = 0;
    conn->tail_ready = true;
    if (options->checksum) {
        tcp_remote_seal_encode(hash, req->bytes, conn->tail);
        conn->tail_length = TCP_REMOTE_SEAL_BYTES;
    }
    if (options->confirm) {
        conn_encode(TCP_REMOTE_EXIST, 0, &tcp_remote_no_attrs, req->key, req->key_length,
                    conn->tail + conn->tail_length);
        conn->tail_length += TCP_REMOTE_REQUEST_BYTES;
    }
}

static void conn_begin_put(struct tcp_remote_conn *conn, struct tcp_remote_req *req)
{
    const struct tcp_remote_options *options = tcp_remote_client_options(conn->client);
    bool hashes = options->checksum && (req->flags & KVL_CHUNK_HAS_CHECKSUM) == 0;
    uint64_t length = req->bytes + (options->checksum ? TCP_REMOTE_SEAL_BYTES : 0);

    conn_encode(TCP_REMOTE_PUT, (int32_t)length, &req->attrs, req->key, req->key_length,
                conn->out + conn->out_length);
    conn->out_length += TCP_REMOTE_REQUEST_BYTES;
    conn->put = req;
    conn->put_left = req->bytes;
    conn->put_at = (struct tcp_remote_sg_at){.sg = req->op->sg + req->sg_first,
                                             .end = req->op->sg + req->sg_end};
    conn->tail_ready = false;
    if (hashes) {
        XXH3_64bits_reset(&conn->put_hash);
    }
    if (!hashes || req->bytes == 0) {
        conn_make_tail(conn, hashes ? XXH3_64bits_digest(&conn->put_hash) : req->checksum);
    }
}

/* A list nobody answers is told from one that is by a question whose answer is known. */
#define CANARY_KEY "kvlane-never-stored@1@0@0@half"

static void conn_encode_req(struct tcp_remote_conn *conn, struct tcp_remote_req *req)
{
    switch (req->op->kind) {
    case TCP_REMOTE_LOOKUP:
        conn_encode_small(conn, TCP_REMOTE_EXIST, req->key, req->key_length);
        break;
    case TCP_REMOTE_READ:
        conn_encode_small(conn, TCP_REMOTE_GET, req->key, req->key_length);
        break;
    case TCP_REMOTE_PROBE:
        conn_encode_small(conn, TCP_REMOTE_HEALTH, req->key, req->key_length);
        break;
    case TCP_REMOTE_KEYS:
        conn_encode_small(conn, TCP_REMOTE_LIST, req->key, req->key_length);
        conn_encode_small(conn, TCP_REMOTE_EXIST, CANARY_KEY, (uint32_t)strlen(CANARY_KEY));
        break;
    default:
        conn_begin_put(conn, req);
        break;
    }
}

/* Encodes requests until the buffer is full or one has a payload. */
static void conn_fill(struct tcp_remote_conn *conn)
{
    conn->out_at = 0;
    while (conn->put == NULL && conn->queue.head != NULL &&
           conn->out_length + 2 * TCP_REMOTE_REQUEST_BYTES <= sizeof(conn->out)) {
        struct tcp_remote_req *req = conn->queue.head;

        tcp_remote_queue_remove(&conn->queue, req);
        tcp_remote_queue_push(&conn->awaiting, req);
        req->where = TCP_REMOTE_SENT;
        conn_encode_req(conn, req);
    }
}

static void conn_put_done(struct tcp_remote_conn *conn)
{
    struct tcp_remote_req *req = conn->put;

    conn->put = NULL;
    if (!tcp_remote_client_options(conn->client)->confirm) {
        conn->cost -= tcp_remote_client_cost(req);
        tcp_remote_client_end(conn->client, req, 0, req->bytes);
        tcp_remote_client_unlink(conn->client, &conn->awaiting, req);
    }
}

static void conn_hash_put(struct tcp_remote_conn *conn, const struct iovec *iov, size_t bytes)
{
    while (bytes > 0) {
        size_t n = iov->iov_len < bytes ? iov->iov_len : bytes;

        (void)XXH3_64bits_update(&conn->put_hash, iov->iov_base, n);
        bytes -= n;
        iov++;
    }
}

/* Accounts for `bytes` that left. `payload` are the iovecs of the payload among them. */
static void conn_sent(struct tcp_remote_conn *conn, size_t bytes, const struct iovec *payload)
{
    size_t n = bytes < conn->out_length ? bytes : conn->out_length;

    conn->out_at += n;
    conn->out_length -= n;
    bytes -= n;
    if (conn->put == NULL) {
        return;
    }
    n = bytes < conn->put_left ? bytes : conn->put_left;
    if (n > 0 && !conn->tail_ready) {
        conn_hash_put(conn, payload, n);
    }
    tcp_remote_sg_advance(&conn->put_at, n);
    conn->put_left -= n;
    bytes -= n;
    if (conn->put_left == 0 && !conn->tail_ready) {
        conn_make_tail(conn, XXH3_64bits_digest(&conn->put_hash));
    }
    conn->tail_at += bytes;
    conn->tail_length -= bytes;
    if (conn->out_length == 0 && conn->put_left == 0 && conn->tail_length == 0) {
        conn_put_done(conn);
    }
}

static size_t conn_gather(struct tcp_remote_conn *conn, struct iovec *iov, uint64_t budget,
                          size_t *payload_out)
{
    uint64_t bytes = 0;
    size_t n = 0;

    if (conn->out_length > 0) {
        iov[n].iov_base = conn->out + conn->out_at;
        iov[n++].iov_len = conn->out_length;
    }
    *payload_out = n;
    if (conn->put == NULL) {
        return n;
    }
    n += tcp_remote_sg_fill(&conn->put_at, iov + n, TCP_REMOTE_CONN_IOVS - IOVS_AROUND, budget,
                            &bytes);
    if (bytes == conn->put_left && conn->tail_ready && conn->tail_length > 0) {
        iov[n].iov_base = conn->tail + conn->tail_at;
        iov[n++].iov_len = conn->tail_length;
    }
    return n;
}

int tcp_remote_conn_send(struct tcp_remote_conn *conn)
{
    struct iovec iov[TCP_REMOTE_CONN_IOVS];
    uint64_t budget = TCP_REMOTE_CONN_TURN;
    ssize_t n = 0;

    while (budget > 0) {
        struct msghdr msg = {.msg_iov = iov};
        size_t payload = 0;

        if (conn->out_length == 0 && conn->put == NULL) {
            conn_fill(conn);
        }
        msg.msg_iovlen = conn_gather(conn, iov, budget, &payload);
        if (msg.msg_iovlen == 0) {
            return tcp_remote_conn_watch(conn, false);
        }
        n = tcp_remote_stream_send(conn->fd, conn->tls, &msg);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            break;
        }
        conn->moved_ms = tcp_remote_client_now(conn->client);
        tcp_remote_client_count(conn->client, TCP_REMOTE_CLIENT_BYTES_OUT, (uint64_t)n);
        conn_sent(conn, (size_t)n, iov + payload);
        budget -= (uint64_t)n < budget ? (uint64_t)n : budget;
    }
    if (n < 0 && errno != EAGAIN) {
        return errno == EPIPE ? -ECONNRESET : -errno;
    }
    return tcp_remote_conn_watch(conn, true);
}

/* TLS before the first request. @return 0 done; -EAGAIN it goes on with the next event; -errno. */
static int conn_shake(struct tcp_remote_conn *conn)
{
    struct tcp_remote_tls *tls = tcp_remote_client_tls(conn->client);
    const struct tcp_remote_options *options = tcp_remote_client_options(conn->client);
    int r;

    if (tls == NULL) {
        return 0;
    }
    if (conn->tls == NULL) {
        r = tcp_remote_session_create(
            tls, conn->fd, options->tls_name[0] != '\0' ? options->tls_name : options->url.host,
            &conn->tls);
        if (r < 0) {
            return r;
        }
    }
    r = tcp_remote_session_shake(conn->tls);
    if (r == -EAGAIN) {
        r = tcp_remote_conn_watch(conn,
                                  tcp_remote_session_want(conn->tls) == TCP_REMOTE_WANT_WRITE);
        return r < 0 ? r : -EAGAIN;
    }
    if (r < 0) {
        tcp_remote_client_complain(conn->client, tcp_remote_session_error(conn->tls));
    }
    return r;
}

int tcp_remote_conn_event(struct tcp_remote_conn *conn, uint32_t events)
{
    int r;

    if (conn->state == TCP_REMOTE_CONNECTING) {
        r = conn->tls != NULL ? 0 : kvl_sock_error(conn->fd);
        if (r < 0 || (conn->tls == NULL && (events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) == 0)) {
            return r;
        }
        r = conn_shake(conn);
        if (r != 0) {
            return r == -EAGAIN ? 0 : r;
        }
        conn->state = TCP_REMOTE_UP;
        conn->addr_next = 0;
        conn->moved_ms = tcp_remote_client_now(conn->client);
        tcp_remote_client_connected(conn->client);
        return tcp_remote_conn_watch(conn, false);
    }
    /* reading first: a peer that is blocked on a reply reads nothing from us */
    r = tcp_remote_conn_recv(conn);
    if (r == 0 && (events & EPOLLOUT) != 0) {
        r = tcp_remote_conn_send(conn);
    }
    return r;
}
