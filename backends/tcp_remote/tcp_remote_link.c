/* SPDX-License-Identifier: Apache-2.0 */
/* The connections of tcp_remote_pool.h: what they share, how they come and go. */
#include <errno.h>
#include <string.h>

#include "tcp_remote_pool.h"

#define REQUEST_COST ((uint64_t)1024)
#define UNKNOWN_READ_COST ((uint64_t)256 * 1024)
#define TRIES_AT_HEAD 1u
#define TRIES_BEHIND 3u

/* ---- for the connections ---- */

const struct kvl_host *tcp_remote_client_host(const struct tcp_remote_client *client)
{
    return client->host;
}

const struct tcp_remote_options *tcp_remote_client_options(const struct tcp_remote_client *client)
{
    return &client->options;
}

int tcp_remote_client_epoll(const struct tcp_remote_client *client)
{
    return client->epoll_fd;
}

uint64_t tcp_remote_client_now(const struct tcp_remote_client *client)
{
    return client->now_ms;
}

uint8_t *tcp_remote_client_scratch(struct tcp_remote_client *client, size_t *bytes_out)
{
    *bytes_out = TCP_REMOTE_POOL_SCRATCH;
    return client->scratch;
}

struct tcp_remote_tls *tcp_remote_client_tls(const struct tcp_remote_client *client)
{
    return client->tls;
}

void tcp_remote_client_complain(struct tcp_remote_client *client, const char *why)
{
    if (!client->complained) {
        client->complained = true;
        kvl_warn(client->host->log, "tcp_remote: TLS with '%s' failed: %s",
                 client->options.url_text, why);
    }
}

int tcp_remote_client_addrs(struct tcp_remote_client *client,
                            const struct kvl_sock_addr **addrs_out, size_t *count_out)
{
    /* not while others work: a resolver may take seconds, and they share this thread */
    if (client->addr_count == 0 || (client->resolve && atomic_load(&client->up) == 0)) {
        int r = kvl_sock_resolve(&client->options.url, 0, client->addrs, KVL_SOCK_ADDRS_MAX,
                                 &client->addr_count);

        if (r < 0) {
            return r;
        }
        client->resolve = false;
        client->is_near = kvl_sock_is_loopback(&client->addrs[0]) != 0;
    }
    *addrs_out = client->addrs;
    *count_out = client->addr_count;
    return 0;
}

void tcp_remote_client_connected(struct tcp_remote_client *client)
{
    tcp_remote_client_count(client, TCP_REMOTE_CLIENT_CONNECTED, 1);
    if (atomic_fetch_add(&client->up, 1) == 0) {
        atomic_store(&client->away, false);
        kvl_info(client->host->log, "tcp_remote: connected to '%s'", client->options.url_text);
    }
}

void tcp_remote_client_answered(struct tcp_remote_client *client)
{
    client->backoff_ms = client->options.backoff_min_ms;
    client->complained = false;
}

uint64_t tcp_remote_client_cost(const struct tcp_remote_req *req)
{
    if (req->op->kind == TCP_REMOTE_READ && req->bytes == 0 && !req->op->has_sg) {
        return UNKNOWN_READ_COST;
    }
    return req->op->kind == TCP_REMOTE_LOOKUP ? REQUEST_COST : REQUEST_COST + req->bytes;
}

void tcp_remote_client_end(struct tcp_remote_client *client, struct tcp_remote_req *req,
                           int32_t status, uint64_t bytes)
{
    struct tcp_remote_op *op = req->op;

    if (req->ended) {
        return;
    }
    req->ended = true;
    op->status[req->index] = status;
    op->bytes += bytes;
    op->open--;
    if (op->open > 0) {
        return;
    }
    op->done_next = NULL;
    if (client->done == NULL) {
        client->done = op;
    } else {
        client->done_last->done_next = op;
    }
    client->done_last = op;
}

void tcp_remote_client_unlink(struct tcp_remote_client *client, struct tcp_remote_queue *queue,
                              struct tcp_remote_req *req)
{
    struct tcp_remote_op *op = req->op;

    (void)client;
    req->where = TCP_REMOTE_NOWHERE;
    tcp_remote_queue_remove(queue, req);
    if (op->completed && op->linked == 0) {
        tcp_remote_op_destroy(op);
    }
}

struct tcp_remote_queue *tcp_remote_pool_queue(struct tcp_remote_client *client,
                                               const struct tcp_remote_op *op)
{
    bool moves = op->kind == TCP_REMOTE_READ || op->kind == TCP_REMOTE_WRITE;

    return moves ? &client->bulk : &client->small;
}

/* ---- connections that come and go ---- */

static uint64_t link_random(struct tcp_remote_client *client)
{
    client->random ^= client->random << 13;
    client->random ^= client->random >> 7;
    client->random ^= client->random << 17;
    return client->random;
}

void tcp_remote_pool_end_queue(struct tcp_remote_client *client, struct tcp_remote_queue *queue,
                               int32_t status)
{
    while (queue->head != NULL) {
        struct tcp_remote_req *req = queue->head;

        tcp_remote_client_end(client, req, status, 0);
        tcp_remote_client_unlink(client, queue, req);
    }
}

static const char *link_why(int code)
{
    switch (code) {
    case -EPROTO:
        return "the peer broke the protocol";
    case -ECANCELED:
        return "a request on it was late or cancelled";
    default:
        return strerror(-code);
    }
}

/* A try to connect failed on every address, or what it gave died before it answered anything. */
static void link_backoff(struct tcp_remote_client *client, int code)
{
    uint64_t pause = client->backoff_ms;

    tcp_remote_client_count(client, TCP_REMOTE_CLIENT_CONNECT_FAILED, 1);
    /* engines that lost one server together must not come back together */
    client->retry_ms = client->now_ms + 1 + pause / 2 + link_random(client) % (pause / 2 + 1);
    client->backoff_ms =
        pause * 2 < client->options.backoff_max_ms ? pause * 2 : client->options.backoff_max_ms;
    client->resolve = true;
    if (atomic_load(&client->up) > 0) {
        return;
    }
    if (!atomic_exchange(&client->away, true)) {
        kvl_warn(client->host->log, "tcp_remote: peer '%s' is away: %s, trying again by itself",
                 client->options.url_text, link_why(code));
    }
    tcp_remote_pool_end_queue(client, &client->small, -ENOTCONN);
    tcp_remote_pool_end_queue(client, &client->bulk, -ENOTCONN);
}

/* `code` is why the address before failed, 0 when this is the first. */
void tcp_remote_pool_connect(struct tcp_remote_client *client, struct tcp_remote_conn *conn,
                             int code)
{
    int r = tcp_remote_conn_connect(conn);

    if (r < 0) {
        tcp_remote_conn_close(conn);
        conn->addr_next = 0;
        link_backoff(client, code < 0 ? code : r);
    }
}

/* What becomes of a request whose connection failed: 0 = another try. */
static int32_t link_verdict(struct tcp_remote_req *req, bool at_head, int code)
{
    bool final = code == -EPROTO || code == -ETIMEDOUT;
    int32_t status = at_head && final ? code : -ECONNRESET;

    if (req->op->kind == TCP_REMOTE_READ && req->answered) {
        /* a truncated PUT on Python's server: the same GET would kill the next connection too */
        return code == -ETIMEDOUT ? -ETIMEDOUT : -ENOENT;
    }
    if (req->op->kind == TCP_REMOTE_WRITE || req->answered || (at_head && final)) {
        return status;
    }
    /* replies come in order, so the one at the head is what the peer choked on */
    req->tries++;
    return req->tries > (at_head ? TRIES_AT_HEAD : TRIES_BEHIND) ? -ECONNRESET : 0;
}

static void link_requeue(struct tcp_remote_client *client, struct tcp_remote_conn *conn,
                         struct tcp_remote_queue *queue, struct tcp_remote_req *req)
{
    conn->cost -= tcp_remote_client_cost(req);
    tcp_remote_queue_remove(queue, req);
    req->where = TCP_REMOTE_QUEUED;
    req->conn = NULL;
    tcp_remote_queue_push_front(tcp_remote_pool_queue(client, req->op), req);
}

static void link_return_requests(struct tcp_remote_client *client, struct tcp_remote_conn *conn,
                                 int code)
{
    while (conn->queue.tail != NULL) {
        link_requeue(client, conn, &conn->queue, conn->queue.tail);
    }
    while (conn->awaiting.tail != NULL) {
        struct tcp_remote_req *req = conn->awaiting.tail;
        int32_t status =
            req->ended ? -ECANCELED : link_verdict(req, req == conn->awaiting.head, code);

        if (status == 0) {
            tcp_remote_client_count(client, TCP_REMOTE_CLIENT_RETRIES, 1);
            link_requeue(client, conn, &conn->awaiting, req);
            continue;
        }
        conn->cost -= tcp_remote_client_cost(req);
        tcp_remote_client_end(client, req, status, 0);
        tcp_remote_client_unlink(client, &conn->awaiting, req);
    }
}

void tcp_remote_pool_fail(struct tcp_remote_client *client, struct tcp_remote_conn *conn, int code)
{
    bool answered = conn->answered;

    if (conn->state == TCP_REMOTE_CONNECTING) {
        tcp_remote_pool_connect(client, conn, code); /* the next address */
        return;
    }
    if (conn->awaiting.count > 0) {
        kvl_warn(client->host->log, "tcp_remote: lost a connection to '%s': %s, will reconnect",
                 client->options.url_text, link_why(code));
    }
    tcp_remote_client_count(client, TCP_REMOTE_CLIENT_LOST, 1);
    if (code == -EPROTO) {
        tcp_remote_client_count(client, TCP_REMOTE_CLIENT_PROTOCOL_ERRORS, 1);
    }
    atomic_fetch_sub(&client->up, 1);
    tcp_remote_conn_close(conn);
    conn->addr_next = 0;
    link_return_requests(client, conn, code);
    if (!answered) {
        link_backoff(client, code);
    }
}

void tcp_remote_pool_fail_doomed(struct tcp_remote_client *client)
{
    for (uint32_t i = 0; i < client->options.connections; i++) {
        if (client->conns[i].doomed) {
            tcp_remote_pool_fail(client, &client->conns[i], -ECANCELED);
        }
    }
}
