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
#define WRITE_WINDOW_BYTES ((uint64_t)8 * 1024 * 1024)
/* The same for reads: replies that wait long in the kernel's buffers have left the CPU's cache. */
#define READ_WINDOW_BYTES ((uint64_t)2 * 1024 * 1024)
/* And on one host, where there is no way to fill. */
#define NEAR_WINDOW_BYTES ((uint64_t)512 * 1024)
#define WINDOW_REQUESTS 256u
/* Less to move than this is not worth another connection. */
#define SPREAD_BYTES ((uint64_t)256 * 1024)

/* ---- batches in and out ---- */

void tcp_remote_pool_wake(struct tcp_remote_client *client)
{
    const uint64_t one = 1;
    ssize_t n = write(client->wake_fd, &one, sizeof(one));

    (void)n; /* a full counter wakes too */
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
            tcp_remote_queue_push(tcp_remote_pool_queue(client, op), &op->reqs[i]);
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

/* Reports what ended in this turn; every connection that could touch its memory has let go. */
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

/* ---- who takes what ---- */

/* The connection with the least to do, of those that have less than `window` bytes. */
static struct tcp_remote_conn *pool_pick(struct tcp_remote_client *client, uint64_t window)
{
    struct tcp_remote_conn *best = NULL;

    for (uint32_t i = 0; i < client->options.connections; i++) {
        struct tcp_remote_conn *conn = &client->conns[i];

        if (conn->state != TCP_REMOTE_UP || conn->doomed ||
            conn->queue.count + conn->awaiting.count >= WINDOW_REQUESTS || conn->cost >= window) {
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
            conn = pool_pick(client, UINT64_MAX);
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

static uint64_t pool_window(const struct tcp_remote_client *client,
                            const struct tcp_remote_req *req)
{
    if (req->op->kind != TCP_REMOTE_READ) {
        return WRITE_WINDOW_BYTES;
    }
    return client->is_near ? NEAR_WINDOW_BYTES : READ_WINDOW_BYTES;
}

static void pool_assign_bulk(struct tcp_remote_client *client)
{
    while (client->bulk.head != NULL) {
        struct tcp_remote_conn *conn = pool_pick(client, pool_window(client, client->bulk.head));

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
        tcp_remote_pool_connect(client, down, 0);
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
            tcp_remote_pool_fail(client, conn, r);
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
            tcp_remote_client_unlink(client, tcp_remote_pool_queue(client, op), req);
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
            tcp_remote_pool_fail(client, conn, -ETIMEDOUT);
        }
    }
}

static int pool_timeout(const struct tcp_remote_client *client)
{
    uint64_t next = client->next_deadline_ms;
    bool alone = true;

    for (uint32_t i = 0; i < client->options.connections; i++) {
        uint64_t limit = pool_conn_limit(client, &client->conns[i]);

        if (client->conns[i].more) {
            return 0;
        }
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
        tcp_remote_pool_fail(client, conn, r);
    }
}

/* What TLS has read ahead: epoll tells of the socket alone. */
static void pool_read_more(struct tcp_remote_client *client)
{
    for (uint32_t i = 0; client->tls != NULL && i < client->options.connections; i++) {
        struct tcp_remote_conn *conn = &client->conns[i];
        int r = conn->more ? tcp_remote_conn_event(conn, EPOLLIN) : 0;

        if (r < 0) {
            tcp_remote_pool_fail(client, conn, r);
        }
    }
}

static void pool_shut_down(struct tcp_remote_client *client)
{
    for (uint32_t i = 0; i < client->options.connections; i++) {
        struct tcp_remote_conn *conn = &client->conns[i];

        tcp_remote_conn_close(conn);
        tcp_remote_pool_end_queue(client, &conn->queue, -ECANCELED);
        tcp_remote_pool_end_queue(client, &conn->awaiting, -ECANCELED);
    }
    atomic_store(&client->up, 0);
    pool_take_inbox(client);
    tcp_remote_pool_end_queue(client, &client->small, -ECANCELED);
    tcp_remote_pool_end_queue(client, &client->bulk, -ECANCELED);
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
        pool_read_more(client);
        pool_take_inbox(client);
        pool_check_cancels(client);
        pool_check_deadlines(client);
        tcp_remote_pool_fail_doomed(client);
        pool_check_conns(client);
        pool_dispatch(client);
        tcp_remote_pool_fail_doomed(client);
        pool_flush_done(client);
    }
    pool_shut_down(client);
    return NULL;
}
