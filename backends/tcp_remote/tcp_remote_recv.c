/* SPDX-License-Identifier: Apache-2.0 */
/* The receiving half of tcp_remote_conn.h. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "tcp_remote_client.h"
#include "tcp_remote_stream.h"

/* A payload nobody wants is read to its end up to here; beyond, a new connection is cheaper. */
#define DROP_MAX ((uint64_t)16 * 1024 * 1024)
/* Keys handed to the host at a time. */
#define KEYS_AT_ONCE 256u

static void recv_count(struct tcp_remote_conn *conn, enum tcp_remote_client_counter counter)
{
    tcp_remote_client_count(conn->client, counter, 1);
}

/* Ends the request at the head of the queue and takes it off. */
static void recv_end(struct tcp_remote_conn *conn, int32_t status, uint64_t bytes)
{
    struct tcp_remote_req *req = conn->awaiting.head;

    conn->sink = TCP_REMOTE_SINK_NONE;
    conn->sealed = false;
    conn->cost -= tcp_remote_client_cost(req);
    tcp_remote_client_end(conn->client, req, status, bytes);
    tcp_remote_client_unlink(conn->client, &conn->awaiting, req);
}

void tcp_remote_conn_drop_body(struct tcp_remote_conn *conn)
{
    conn->sink = TCP_REMOTE_SINK_DROP;
    if (conn->sealed) {
        conn->body_left += TCP_REMOTE_SEAL_BYTES - conn->seal_have;
        conn->sealed = false;
    }
    if (conn->body_left > DROP_MAX) {
        conn->doomed = true;
    }
}

/* ---- the payload of a read ---- */

static int recv_target(struct tcp_remote_conn *conn, struct tcp_remote_req *req,
                       const struct tcp_remote_reply *reply)
{
    const struct kvl_host *host = tcp_remote_client_host(conn->client);
    const struct kvl_chunk found = {.attrs = reply->attrs, .bytes = conn->body_left};
    void *addr = NULL;
    int r;

    if (req->op->has_sg) {
        conn->body_at = (struct tcp_remote_sg_at){.sg = req->op->sg + req->sg_first,
                                                  .end = req->op->sg + req->sg_end};
        return 0;
    }
    r = host->read_target(host, req->op->cookie, req->index, &found, &addr);
    if (r < 0) {
        return r;
    }
    conn->body_sg = (struct kvl_sg){.addr = (uint64_t)(uintptr_t)addr,
                                    .length = conn->body_left,
                                    .count = 1,
                                    .device = KVL_DEVICE_HOST};
    conn->body_at = (struct tcp_remote_sg_at){.sg = &conn->body_sg, .end = &conn->body_sg + 1};
    return 0;
}

static int recv_check_read(struct tcp_remote_conn *conn, const struct tcp_remote_req *req,
                           const struct tcp_remote_reply *reply)
{
    if (req->op->has_sg || req->bytes != 0) {
        if (conn->body_left != req->bytes) {
            return conn->body_left > req->bytes ? -EMSGSIZE : -EBADMSG;
        }
    }
    if ((req->flags & KVL_CHUNK_EXPECT_ATTRS) != 0 &&
        !tcp_remote_attrs_equal(&req->attrs, &reply->attrs)) {
        return -EBADMSG;
    }
    return 0;
}

static int recv_check_hash(struct tcp_remote_conn *conn, const struct tcp_remote_req *req)
{
    uint64_t hash;

    if (!conn->hashes) {
        return 0;
    }
    hash = XXH3_64bits_digest(&conn->body_hash);
    if ((req->flags & KVL_CHUNK_HAS_CHECKSUM) != 0 && hash != req->checksum) {
        return -EBADMSG;
    }
    return conn->sealed ? tcp_remote_seal_check(conn->seal, hash, conn->body_bytes) : 0;
}

static void recv_read_done(struct tcp_remote_conn *conn)
{
    struct tcp_remote_req *req = conn->awaiting.head;
    int r;

    if (conn->sink == TCP_REMOTE_SINK_DROP) {
        recv_end(conn, -ECANCELED, 0); /* takes it off; its status it got when it was dropped */
        return;
    }
    r = recv_check_hash(conn, req);
    if (r < 0) {
        recv_count(conn, TCP_REMOTE_CLIENT_BAD_CHECKS);
        kvl_warn(tcp_remote_client_host(conn->client)->log,
                 "tcp_remote: chunk '%.*s' came with bytes that fail their check, a miss",
                 (int)req->key_length, req->key);
        recv_end(conn, r, 0);
        return;
    }
    recv_count(conn, TCP_REMOTE_CLIENT_HITS);
    recv_end(conn, 0, conn->body_bytes);
}

static bool recv_body_is_done(const struct tcp_remote_conn *conn)
{
    return conn->body_left == 0 && (!conn->sealed || conn->seal_have == TCP_REMOTE_SEAL_BYTES);
}

/* Drops the payload that follows and ends its request with `status`. */
static void recv_refuse(struct tcp_remote_conn *conn, struct tcp_remote_req *req, int32_t status)
{
    tcp_remote_client_end(conn->client, req, status, 0);
    tcp_remote_conn_drop_body(conn);
}

static int recv_reply_read(struct tcp_remote_conn *conn, struct tcp_remote_req *req,
                           const struct tcp_remote_reply *reply)
{
    bool sealed = tcp_remote_client_options(conn->client)->checksum;
    int r = 0;

    if (reply->code == TCP_REMOTE_FAIL) {
        recv_count(conn, TCP_REMOTE_CLIENT_MISSES);
        recv_end(conn, -ENOENT, 0);
        return 0;
    }
    req->answered = true;
    conn->sink = TCP_REMOTE_SINK_SG;
    conn->body_left = (uint64_t)reply->length;
    conn->sealed = sealed && conn->body_left >= TCP_REMOTE_SEAL_BYTES;
    conn->seal_have = 0;
    conn->body_left -= conn->sealed ? TCP_REMOTE_SEAL_BYTES : 0;
    conn->body_bytes = conn->body_left;
    conn->hashes = conn->sealed || (req->flags & KVL_CHUNK_HAS_CHECKSUM) != 0;
    if (conn->hashes) {
        XXH3_64bits_reset(&conn->body_hash);
    }
    if (sealed && !conn->sealed) {
        r = -EBADMSG;
    } else if (!req->ended) {
        r = recv_check_read(conn, req, reply);
    }
    if (r == 0 && !req->ended) {
        r = recv_target(conn, req, reply);
    }
    if (r < 0 || req->ended) {
        recv_refuse(conn, req, r);
    }
    if (recv_body_is_done(conn)) {
        recv_read_done(conn);
    }
    return 0;
}

/* ---- the keys of a list ---- */

static int recv_flush_keys(struct tcp_remote_conn *conn, const struct kvl_key *keys, uint32_t count)
{
    const struct kvl_host *host = tcp_remote_client_host(conn->client);
    struct tcp_remote_req *req = conn->awaiting.head;

    return count == 0 || req->ended ? 0 : host->list_add(host, req->op->cookie, keys, count);
}

/* In the sealed form only sealed chunks are ours; their tag is not part of the key. */
static bool recv_is_ours(const struct tcp_remote_conn *conn, struct kvl_key *key)
{
    uint32_t left = key->length - TCP_REMOTE_SEAL_TAG_BYTES;

    if (!tcp_remote_client_options(conn->client)->checksum) {
        return true;
    }
    if (key->length <= TCP_REMOTE_SEAL_TAG_BYTES ||
        memcmp(key->text + left, TCP_REMOTE_SEAL_TAG, TCP_REMOTE_SEAL_TAG_BYTES) != 0) {
        return false;
    }
    key->length = left;
    return true;
}

/*
 * Cuts keys out of the bytes of a list; a key that is not complete waits in conn->name. Longer
 * lines than a key can be are left out: name_length stands beyond the buffer then.
 */
static int recv_keys(struct tcp_remote_conn *conn, const char *text, size_t bytes, bool last)
{
    struct kvl_key keys[KEYS_AT_ONCE];
    char names[KEYS_AT_ONCE][TCP_REMOTE_KEY_BYTES];
    uint32_t count = 0;
    int r = 0;

    for (size_t i = 0; i <= bytes && r == 0; i++) {
        if (i < bytes && text[i] != '\n') {
            if (conn->name_length < sizeof(conn->name)) {
                conn->name[conn->name_length] = text[i];
            }
            conn->name_length += conn->name_length <= sizeof(conn->name);
            continue;
        }
        if (i == bytes && !last) {
            break;
        }
        if (conn->name_length > 0 && conn->name_length <= sizeof(conn->name)) {
            memcpy(names[count], conn->name, conn->name_length);
            keys[count] =
                (struct kvl_key){.text = names[count], .length = (uint32_t)conn->name_length};
            count += recv_is_ours(conn, &keys[count]) ? 1 : 0;
        }
        conn->name_length = 0;
        if (count == KEYS_AT_ONCE) {
            r = recv_flush_keys(conn, keys, count);
            count = 0;
        }
    }
    return r < 0 ? r : recv_flush_keys(conn, keys, count);
}

static int recv_reply_keys(struct tcp_remote_conn *conn, struct tcp_remote_req *req,
                           const struct tcp_remote_reply *reply)
{
    if (req->answered) { /* this one answers the question behind the list */
        if (reply->code != TCP_REMOTE_FAIL) {
            return -EPROTO;
        }
        recv_end(conn, 0, 0);
        return 0;
    }
    if (reply->code == TCP_REMOTE_FAIL) {
        recv_end(conn, -ENOTSUP, 0);
        return 0;
    }
    req->answered = true;
    conn->sink = reply->length > 0 ? TCP_REMOTE_SINK_KEYS : TCP_REMOTE_SINK_NONE;
    conn->body_left = (uint64_t)reply->length;
    conn->name_length = 0;
    return 0;
}

/* ---- replies ---- */

static void recv_reply_plain(struct tcp_remote_conn *conn, const struct tcp_remote_req *req,
                             bool success)
{
    enum tcp_remote_kind kind = req->op->kind;

    if (kind == TCP_REMOTE_LOOKUP) {
        recv_count(conn, success ? TCP_REMOTE_CLIENT_HITS : TCP_REMOTE_CLIENT_MISSES);
        recv_end(conn, success ? 0 : -ENOENT, 0);
    } else if (kind == TCP_REMOTE_WRITE) {
        if (!success) {
            recv_count(conn, TCP_REMOTE_CLIENT_UNCONFIRMED);
        }
        recv_end(conn, success ? 0 : -EIO, success ? req->bytes : 0);
    } else {
        recv_end(conn, success ? 0 : -EIO, 0);
    }
}

static int recv_reply(struct tcp_remote_conn *conn, const uint8_t *bytes)
{
    struct tcp_remote_req *req = conn->awaiting.head;
    struct tcp_remote_reply reply;
    int r = tcp_remote_reply_decode(bytes, &reply);

    /* a reply to a PUT whose bytes have not all left would end it under our own hands */
    if (r < 0 || req == NULL || req == conn->put) {
        return -EPROTO;
    }
    if (reply.length > 0 && (reply.code == TCP_REMOTE_FAIL || (req->op->kind != TCP_REMOTE_READ &&
                                                               req->op->kind != TCP_REMOTE_KEYS))) {
        return -EPROTO;
    }
    conn->answered = true;
    tcp_remote_client_answered(conn->client);
    switch (req->op->kind) {
    case TCP_REMOTE_READ:
        return recv_reply_read(conn, req, &reply);
    case TCP_REMOTE_KEYS:
        return recv_reply_keys(conn, req, &reply);
    default:
        recv_reply_plain(conn, req, reply.code == TCP_REMOTE_SUCCESS);
        return 0;
    }
}

/*
 * Bytes of replies to ask for at once, from `req` on: up to the first whose payload must not land
 * in the header buffer.
 */
static size_t recv_want(const struct tcp_remote_req *req)
{
    size_t want = TCP_REMOTE_REPLY_BYTES;

    for (size_t i = 1; i < TCP_REMOTE_CONN_HEADERS && req != NULL && req->next != NULL; i++) {
        if (req->op->kind == TCP_REMOTE_READ || req->op->kind == TCP_REMOTE_KEYS) {
            break;
        }
        want += TCP_REMOTE_REPLY_BYTES;
        req = req->next;
    }
    return want;
}

/* ---- moving bytes ---- */

static void recv_moved(struct tcp_remote_conn *conn, size_t bytes, uint64_t *budget)
{
    conn->moved_ms = tcp_remote_client_now(conn->client);
    tcp_remote_client_count(conn->client, TCP_REMOTE_CLIENT_BYTES_IN, bytes);
    *budget -= bytes < *budget ? bytes : *budget;
}

/* @return 1 went on; 0 nothing there; -errno. */
static int recv_failed(ssize_t n)
{
    if (n == 0) {
        return -ECONNRESET;
    }
    if (errno == EINTR) {
        return 1;
    }
    return errno == EAGAIN ? 0 : -errno;
}

static int recv_headers(struct tcp_remote_conn *conn, uint64_t *budget)
{
    size_t want = recv_want(conn->awaiting.head);
    ssize_t n;

    if (conn->in_length >= TCP_REMOTE_REPLY_BYTES) {
        const uint8_t *bytes = conn->in + conn->in_at;
        int r;

        conn->in_at += TCP_REMOTE_REPLY_BYTES;
        conn->in_length -= TCP_REMOTE_REPLY_BYTES;
        r = recv_reply(conn, bytes);
        return r < 0 ? r : 1;
    }
    memmove(conn->in, conn->in + conn->in_at, conn->in_length);
    conn->in_at = 0;
    n = tcp_remote_stream_recv(conn->fd, conn->tls, conn->in + conn->in_length,
                               want - conn->in_length);
    if (n <= 0) {
        return recv_failed(n);
    }
    conn->in_length += (size_t)n;
    recv_moved(conn, (size_t)n, budget);
    return 1;
}

/* Takes `bytes` into account that a readv put behind `iov`. */
static void recv_hash(struct tcp_remote_conn *conn, const struct iovec *iov, size_t bytes)
{
    while (bytes > 0) {
        size_t n = iov->iov_len < bytes ? iov->iov_len : bytes;

        (void)XXH3_64bits_update(&conn->body_hash, iov->iov_base, n);
        bytes -= n;
        iov++;
    }
}

static void recv_body_moved(struct tcp_remote_conn *conn, const struct iovec *iov, size_t bytes)
{
    size_t n = bytes < conn->body_left ? bytes : conn->body_left;

    if (conn->hashes) {
        recv_hash(conn, iov, n);
    }
    tcp_remote_sg_advance(&conn->body_at, n);
    conn->body_left -= n;
    bytes -= n;
    n = 0;
    if (conn->sealed) {
        n = TCP_REMOTE_SEAL_BYTES - conn->seal_have;
        n = bytes < n ? bytes : n;
        conn->seal_have += n;
    }
    conn->in_length = bytes - n;
    if (recv_body_is_done(conn)) {
        recv_read_done(conn);
    }
}

/* Straight to the target; the last read takes the seal and the next header along. */
static int recv_body(struct tcp_remote_conn *conn, uint64_t *budget)
{
    struct iovec iov[TCP_REMOTE_CONN_IOVS];
    uint64_t bytes = 0;
    size_t count =
        tcp_remote_sg_fill(&conn->body_at, iov, TCP_REMOTE_CONN_IOVS - 2, *budget, &bytes);
    ssize_t n;

    if (bytes == conn->body_left) {
        if (conn->sealed) {
            iov[count].iov_base = conn->seal + conn->seal_have;
            iov[count++].iov_len = TCP_REMOTE_SEAL_BYTES - conn->seal_have;
        }
        if (conn->awaiting.head->next != NULL) {
            iov[count].iov_base = conn->in;
            iov[count++].iov_len = recv_want(conn->awaiting.head->next);
        }
    }
    n = tcp_remote_stream_readv(conn->fd, conn->tls, iov, count);
    if (n <= 0) {
        return recv_failed(n);
    }
    recv_moved(conn, (size_t)n, budget);
    conn->in_at = 0;
    recv_body_moved(conn, iov, (size_t)n);
    return 1;
}

/* Payload that goes nowhere, or is keys. */
static int recv_aside(struct tcp_remote_conn *conn, uint64_t *budget)
{
    size_t room = 0;
    uint8_t *scratch = tcp_remote_client_scratch(conn->client, &room);
    ssize_t n = tcp_remote_stream_recv(conn->fd, conn->tls, scratch,
                                       conn->body_left < room ? conn->body_left : room);
    int r;

    if (n <= 0) {
        return recv_failed(n);
    }
    recv_moved(conn, (size_t)n, budget);
    conn->body_left -= (uint64_t)n;
    if (conn->sink == TCP_REMOTE_SINK_KEYS) {
        r = recv_keys(conn, (const char *)scratch, (size_t)n, conn->body_left == 0);
        if (r < 0) {
            recv_refuse(conn, conn->awaiting.head, r);
        }
    }
    if (conn->body_left > 0) {
        return 1;
    }
    if (conn->awaiting.head->op->kind == TCP_REMOTE_KEYS) {
        conn->sink = TCP_REMOTE_SINK_NONE; /* one more reply comes for it */
    } else {
        recv_read_done(conn);
    }
    return 1;
}

int tcp_remote_conn_recv(struct tcp_remote_conn *conn)
{
    uint64_t budget = TCP_REMOTE_CONN_TURN;
    int r = 1;

    while (r > 0 && budget > 0 && !conn->doomed) {
        switch (conn->sink) {
        case TCP_REMOTE_SINK_NONE:
            r = recv_headers(conn, &budget);
            break;
        case TCP_REMOTE_SINK_SG:
            r = recv_body(conn, &budget);
            break;
        default:
            r = recv_aside(conn, &budget);
            break;
        }
    }
    if (conn->tls != NULL) {
        conn->more = r >= 0 && tcp_remote_session_has_more(conn->tls);
        if (r == -EPROTO && tcp_remote_session_error(conn->tls)[0] != '\0') {
            tcp_remote_client_complain(conn->client, tcp_remote_session_error(conn->tls));
        }
        if (r >= 0 && tcp_remote_session_want(conn->tls) == TCP_REMOTE_WANT_WRITE) {
            return tcp_remote_conn_watch(conn, true);
        }
    }
    return r < 0 ? r : 0;
}
