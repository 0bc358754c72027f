/* SPDX-License-Identifier: Apache-2.0 */
#include "tcp_remote_pool.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define EVENTS_PER_TURN 64
/* Headers of one batch that stay together before another connection takes the next ones. */
#define RUN_MAX 64u
/* A connection takes new payload up to here; the rest waits where any connection can take it. */
#define WINDOW_BYTES ((uint64_t)8 * 1024 * 1024)
#define WINDOW_REQUESTS 256u
/* Less to move than this is not worth another connection. */
#define SPREAD_BYTES ((uint64_t)256 * 1024)
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

/* ---- batches in and out ---- */

void tcp_remote_pool_wake(struct tcp_remote_client *client)
{
    const uint64_t one = 1;
    ssize_t n = write(client->wake_fd, &one, sizeof(one));

    (void)n; /* a full counter wakes too */
}

static struct tcp_remote_queue *pool_queue(struct tcp_remote_client *client,
                                           const struct tcp_remote_op *op)
{
    bool moves = op->kind == TCP_REMOTE_READ || op->kind == TCP_REMOTE_WRITE;

    return moves ? &client->bulk : &client->small;
}

static void pool_admit(struct tcp_remote_client *client, struct tcp_remote_op *op)
{
    op->prev = NULL;
    op->next = client->active;
    if (client->active != NULL) {
        client->active->prev = op;
    }
    client->active = op;
    if (op->deadline_ms < client->next_deadline_ms) {
        client->next_deadline_ms = op->deadline_ms;
    }
    if (op->open == 0) { /* all ended at submit, whose caller must not be called back there */
        op->open = 1;
        op->reqs[0].ended = false;
        tcp_remote_client_end(client, &op->reqs[0], op->status[0], 0);
        return;
    }
    for (uint32_t i = 0; i < op->count; i++) {
        if (!op->reqs[i].ended) {
            op->reqs[i].where = TCP_REMOTE_QUEUED;
            tcp_remote_queue_push(pool_queue(client, op), &op->reqs[i]);
        }
    }
}

static void pool_take_inbox(struct tcp_remote_client *client)
{
    struct tcp_remote_op *newest;
    struct tcp_remote_op *oldest = NULL;

    pthread_mutex_lock(&client->lock);
    newest = client->inbox;
    client->inbox = NULL;
    pthread_mutex_unlock(&client->lock);
    while (newest != NULL) {
        struct tcp_remote_op *op = newest;

        newest = op->next;
        op->next = oldest;
        oldest = op;
    }
    while (oldest != NULL) {
        struct tcp_remote_op *op = oldest;

        oldest = op->next;
        pool_admit(client, op);
    }
}

static void pool_forget(struct tcp_remote_client *client, struct tcp_remote_op *op)
{
    if (op->prev != NULL) {
        op->prev->next = op->next;
    } else {
        client->active = op->next;
    }
    if (op->next != NULL) {
        op->next->prev = op->prev;
    }
    pthread_mutex_lock(&client->lock);
    if (op->known_prev != NULL) {
        op->known_prev->known_next = op->known_next;
    } else {
        client->known = op->known_next;
    }
    if (op->known_next != NULL) {
        op->known_next->known_prev = op->known_prev;
    }
    pthread_mutex_unlock(&client->lock);
}

static void pool_complete(struct tcp_remote_client *client, struct tcp_remote_op *op)
{
    bool items = op->kind != TCP_REMOTE_KEYS && op->kind != TCP_REMOTE_PROBE;
    struct kvl_completion done = {
        .size = (uint32_t)sizeof(done),
        .cookie = op->cookie,
        .bytes = op->bytes,
        .item_status = items ? op->status : NULL,
        .item_count = items ? op->count : 0,
    };

    for (uint32_t i = 0; i < op->count && done.status == 0; i++) {
        done.status = op->status[i];
    }
    client->host->complete(client->host, &done);
}

/* Reports what ended in this turn, after every connection that could touch its memory has let go. */
static void pool_flush_done(struct tcp_remote_client *client)
{
    while (client->done != NULL) {
        struct tcp_remote_op *op = client->done;
        size_t memory = op->memory;

        client->done = op->done_next;
        pool_forget(client, op);
        pool_complete(client, op);
        if (op->linked == 0) {
            tcp_remote_op_destroy(op);
        } else {
            op->completed = true;
        }
        pthread_mutex_lock(&client->lock);
        client->memory -= memory;
        client->in_flight--;
        if (client->in_flight == 0) {
            pthread_cond_broadcast(&client->changed);
        }
        pthread_mutex_unlock(&client->lock);
    }
}

/* ---- connections that come and go ---- */

static uint64_t pool_random(struct tcp_remote_client *client)
{
    client->random ^= client->random << 13;
    client->random ^= client->random >> 7;
    client->random ^= client->random << 17;
    return client->random;
}

static void pool_end_queue(struct tcp_remote_client *client, struct tcp_remote_queue *queue,
                           int32_t status)
{
    while (queue->head != NULL) {
        struct tcp_remote_req *req = queue->head;

        tcp_remote_client_end(client, req, status, 0);
        tcp_remote_client_unlink(client, queue, req);
    }
}

/* A try to connect failed on every address, or what it gave died before it answered anything. */
static void pool_backoff(struct tcp_remote_client *client, int code)
{
    uint64_t pause = client->backoff_ms;

    tcp_remote_client_count(client, TCP_REMOTE_CLIENT_CONNECT_FAILED, 1);
    /* engines that lost one server together must not come back together */
    client->retry_ms = client->now_ms + 1 + pause / 2 + pool_random(client) % (pause / 2 + 1);
    client->backoff_ms =
        pause * 2 < client->options.backoff_max_ms ? pause * 2 : client->options.backoff_max_ms;
    client->resolve = true;
    if (atomic_load(&client->up) > 0) {
        return;
    }
    if (!atomic_exchange(&client->away, true)) {
        kvl_warn(client->host->log, "tcp_remote: peer '%s' is away: %s, trying again by itself",
                 client->options.url_text, strerror(-code));
    }
    pool_end_queue(client, &client->small, -ENOTCONN);
    pool_end_queue(client, &client->bulk, -ENOTCONN);
}

/* `code` is why the address before failed, 0 when this is the first. */
static void pool_connect(struct tcp_remote_client *client, struct tcp_remote_conn *conn, int code)
{
    int r = tcp_remote_conn_connect(conn);

    if (r < 0) {
        tcp_remote_conn_close(conn);
        conn->addr_next = 0;
        pool_backoff(client, code < 0 ? code : r);
    }
}

/* What becomes of a request whose connection failed: 0 = another try. */
static int32_t pool_verdict(struct tcp_remote_req *req, bool at_head, int code)
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

static void pool_requeue(struct tcp_remote_client *client, struct tcp_remote_conn *conn,
                         struct tcp_remote_queue *queue, struct tcp_remote_req *req)
{
    conn->cost -= tcp_remote_client_cost(req);
    tcp_remote_queue_remove(queue, req);
    req->where = TCP_REMOTE_QUEUED;
    req->conn = NULL;
    tcp_remote_queue_push_front(pool_queue(client, req->op), req);
}

static void pool_return_requests(struct tcp_remote_client *client, struct tcp_remote_conn *conn,
                                 int code)
{
    while (conn->queue.tail != NULL) {
        pool_requeue(client, conn, &conn->queue, conn->queue.tail);
    }
    while (conn->awaiting.tail != NULL) {
        struct tcp_remote_req *req = conn->awaiting.tail;
        int32_t status =
            req->ended ? -ECANCELED : pool_verdict(req, req == conn->awaiting.head, code);

        if (status == 0) {
            tcp_remote_client_count(client, TCP_REMOTE_CLIENT_RETRIES, 1);
            pool_requeue(client, conn, &conn->awaiting, req);
            continue;
        }
        conn->cost -= tcp_remote_client_cost(req);
        tcp_remote_client_end(client, req, status, 0);
        tcp_remote_client_unlink(client, &conn->awaiting, req);
    }
}

static void pool_fail(struct tcp_remote_client *client, struct tcp_remote_conn *conn, int code)
{
    bool answered = conn->answered;

    if (conn->state == TCP_REMOTE_CONNECTING) {
        pool_connect(client, conn, code); /* the next address */
        return;
    }
    if (conn->awaiting.count > 0) {
        kvl_warn(client->host->log, "tcp_remote: lost a connection to '%s': %s, will reconnect",
                 client->options.url_text,
                 code == -EPROTO ? "the peer broke the protocol" : strerror(-code));
    }
    tcp_remote_client_count(client, TCP_REMOTE_CLIENT_LOST, 1);
    if (code == -EPROTO) {
        tcp_remote_client_count(client, TCP_REMOTE_CLIENT_PROTOCOL_ERRORS, 1);
    }
    atomic_fetch_sub(&client->up, 1);
    tcp_remote_conn_close(conn);
    conn->addr_next = 0;
    pool_return_requests(client, conn, code);
    if (!answered) {
        pool_backoff(client, code);
    }
}

static void pool_fail_doomed(struct tcp_remote_client *client)
{
    for (uint32_t i = 0; i < client->options.connections; i++) {
        if (client->conns[i].doomed) {
            pool_fail(client, &client->conns[i], -ECONNRESET);
        }
    }
}

/* ---- who takes what ---- */

static struct tcp_remote_conn *pool_pick(struct tcp_remote_client *client, bool bulk)
{
    struct tcp_remote_conn *best = NULL;

    for (uint32_t i = 0; i < client->options.connections; i++) {
        struct tcp_remote_conn *conn = &client->conns[i];

        if (conn->state != TCP_REMOTE_UP || conn->doomed ||
            conn->queue.count + conn->awaiting.count >= WINDOW_REQUESTS ||
            (bulk && conn->cost >= WINDOW_BYTES)) {
            continue;
        }
        if (best == NULL || conn->cost < best->cost) {
            best = conn;
        }
    }
    return best;
}

static void pool_assign(struct tcp_remote_client *client, struct tcp_remote_queue *from,
                        struct tcp_remote_conn *conn)
{
    struct tcp_remote_req *req = from->head;

    if (conn->queue.count + conn->awaiting.count == 0) {
        conn->moved_ms = client->now_ms;
    }
    tcp_remote_queue_remove(from, req);
    tcp_remote_queue_push(&conn->queue, req);
    req->where = TCP_REMOTE_ASSIGNED;
    req->conn = conn;
    conn->cost += tcp_remote_client_cost(req);
}

static void pool_assign_small(struct tcp_remote_client *client)
{
    while (client->small.head != NULL) {
        struct tcp_remote_conn *conn = client->run_conn;

        if (client->run_left == 0 || conn->state != TCP_REMOTE_UP || conn->doomed ||
            conn->queue.count + conn->awaiting.count >= WINDOW_REQUESTS) {
            conn = pool_pick(client, false);
            client->run_left = RUN_MAX;
        }
        if (conn == NULL) {
            client->run_left = 0;
            break;
        }
        client->run_conn = conn;
        client->run_left--;
        pool_assign(client, &client->small, conn);
    }
    client->run_left = 0;
}

static void pool_assign_bulk(struct tcp_remote_client *client)
{
    while (client->bulk.head != NULL) {
        struct tcp_remote_conn *conn = pool_pick(client, true);

        if (conn == NULL) {
            break;
        }
        pool_assign(client, &client->bulk, conn);
    }
}

/* Connects one more when there is none, or when there is work for it. */
static void pool_grow(struct tcp_remote_client *client)
{
    struct tcp_remote_conn *down = NULL;
    uint64_t cost = 0;
    bool any = false;

    for (uint32_t i = 0; i < client->options.connections; i++) {
        struct tcp_remote_conn *conn = &client->conns[i];

        if (conn->state == TCP_REMOTE_CONNECTING) {
            return;
        }
        cost += conn->cost;
        any = any || conn->state == TCP_REMOTE_UP;
        down = down == NULL && conn->state == TCP_REMOTE_DOWN ? conn : down;
    }
    if (down == NULL || client->now_ms < client->retry_ms) {
        return;
    }
    if (!any || cost > SPREAD_BYTES || client->small.head != NULL || client->bulk.head != NULL) {
        pool_connect(client, down, 0);
    }
}

static void pool_dispatch(struct tcp_remote_client *client)
{
    pool_assign_small(client);
    pool_assign_bulk(client);
    for (uint32_t i = 0; i < client->options.connections; i++) {
        struct tcp_remote_conn *conn = &client->conns[i];
        int r;

        if (conn->state != TCP_REMOTE_UP || conn->queue.head == NULL || conn->out_length > 0 ||
            conn->put != NULL) {
            continue; /* what is half sent goes on when the socket takes more */
        }
        r = tcp_remote_conn_send(conn);
        if (r < 0) {
            pool_fail(client, conn, r);
        }
    }
    pool_grow(client);
}

/* ---- time and cancels ---- */

/* Ends what is left of a batch. Connections that still need its memory, or owe it a reply after a
 * deadline, are doomed: without request ids a late reply would be taken for the next one. */
static void pool_abandon(struct tcp_remote_client *client, struct tcp_remote_op *op, int32_t status)
{
    for (uint32_t i = 0; i < op->count; i++) {
        struct tcp_remote_req *req = &op->reqs[i];
        struct tcp_remote_conn *conn = req->conn;

        if (req->ended) {
            continue;
        }
        tcp_remote_client_end(client, req, status, 0);
        if (req->where == TCP_REMOTE_QUEUED) {
            tcp_remote_client_unlink(client, pool_queue(client, op), req);
        } else if (req->where == TCP_REMOTE_ASSIGNED) {
            conn->cost -= tcp_remote_client_cost(req);
            tcp_remote_client_unlink(client, &conn->queue, req);
        } else if (status == -ETIMEDOUT || conn->put == req) {
            conn->doomed = true;
        } else if (conn->awaiting.head == req && conn->sink == TCP_REMOTE_SINK_SG) {
            tcp_remote_conn_drop_body(conn);
        }
    }
}

static void pool_check_cancels(struct tcp_remote_client *client)
{
    if (!atomic_exchange(&client->cancels, false)) {
        return;
    }
    for (struct tcp_remote_op *op = client->active; op != NULL; op = op->next) {
        if (atomic_load(&op->cancel)) {
            pool_abandon(client, op, -ECANCELED);
        }
    }
}

static void pool_check_deadlines(struct tcp_remote_client *client)
{
    if (client->now_ms < client->next_deadline_ms) {
        return;
    }
    client->next_deadline_ms = KVL_NEVER;
    for (struct tcp_remote_op *op = client->active; op != NULL; op = op->next) {
        if (op->open > 0 && op->deadline_ms <= client->now_ms) {
            tcp_remote_client_count(client, TCP_REMOTE_CLIENT_TIMEOUTS, 1);
            pool_abandon(client, op, -ETIMEDOUT);
        } else if (op->open > 0 && op->deadline_ms < client->next_deadline_ms) {
            client->next_deadline_ms = op->deadline_ms;
        }
    }
}

/* When a connection has to have moved, KVL_NEVER when it has nothing to do. */
static uint64_t pool_conn_limit(const struct tcp_remote_client *client,
                                const struct tcp_remote_conn *conn)
{
    if (conn->state == TCP_REMOTE_CONNECTING) {
        return conn->connect_until_ms;
    }
    if (conn->state == TCP_REMOTE_UP && conn->queue.count + conn->awaiting.count > 0) {
        return conn->moved_ms + client->options.request_timeout_ms;
    }
    return KVL_NEVER;
}

static void pool_check_conns(struct tcp_remote_client *client)
{
    for (uint32_t i = 0; i < client->options.connections; i++) {
        struct tcp_remote_conn *conn = &client->conns[i];

        if (pool_conn_limit(client, conn) <= client->now_ms) {
            pool_fail(client, conn, -ETIMEDOUT);
        }
    }
}

static int pool_timeout(const struct tcp_remote_client *client)
{
    uint64_t next = client->next_deadline_ms;
    bool alone = true;

    for (uint32_t i = 0; i < client->options.connections; i++) {
        uint64_t limit = pool_conn_limit(client, &client->conns[i]);

        alone = alone && client->conns[i].state == TCP_REMOTE_DOWN;
        next = limit < next ? limit : next;
    }
    if ((alone || client->small.head != NULL || client->bulk.head != NULL) &&
        client->retry_ms > client->now_ms && client->retry_ms < next) {
        next = client->retry_ms;
    }
    if (alone && client->retry_ms <= client->now_ms) {
        return 0;
    }
    if (next == KVL_NEVER) {
        return -1;
    }
    if (next <= client->now_ms) {
        return 0;
    }
    return next - client->now_ms < 3600000 ? (int)(next - client->now_ms) : 3600000;
}

/* ---- the thread ---- */

static void pool_event(struct tcp_remote_client *client, const struct epoll_event *event)
{
    struct tcp_remote_conn *conn = event->data.ptr;
    uint64_t ignored;
    int r;

    if (event->data.ptr == client) {
        ssize_t n = read(client->wake_fd, &ignored, sizeof(ignored));

        (void)n;
        return;
    }
    if (conn->state == TCP_REMOTE_DOWN || conn->events == 0) {
        return; /* closed earlier in this turn */
    }
    r = tcp_remote_conn_event(conn, event->events);
    if (r < 0) {
        pool_fail(client, conn, r);
    }
}

static void pool_shut_down(struct tcp_remote_client *client)
{
    for (uint32_t i = 0; i < client->options.connections; i++) {
        struct tcp_remote_conn *conn = &client->conns[i];

        tcp_remote_conn_close(conn);
        pool_end_queue(client, &conn->queue, -ECANCELED);
        pool_end_queue(client, &conn->awaiting, -ECANCELED);
    }
    atomic_store(&client->up, 0);
    pool_take_inbox(client);
    pool_end_queue(client, &client->small, -ECANCELED);
    pool_end_queue(client, &client->bulk, -ECANCELED);
    pool_flush_done(client);
}

void *tcp_remote_pool_main(void *arg)
{
    struct tcp_remote_client *client = arg;
    struct epoll_event events[EVENTS_PER_TURN];

    client->now_ms = client->host->now_ms(client->host);
    client->random = (client->now_ms ^ (uint64_t)(uintptr_t)client) | 1;
    pool_grow(client);
    while (!atomic_load(&client->stopping)) {
        int n = epoll_wait(client->epoll_fd, events, EVENTS_PER_TURN, pool_timeout(client));

        client->now_ms = client->host->now_ms(client->host);
        for (int i = 0; i < n; i++) {
            pool_event(client, &events[i]);
        }
        pool_take_inbox(client);
        pool_check_cancels(client);
        pool_check_deadlines(client);
        pool_fail_doomed(client);
        pool_check_conns(client);
        pool_dispatch(client);
        pool_fail_doomed(client);
        pool_flush_done(client);
    }
    pool_shut_down(client);
    return NULL;
}
