/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "py_socket_core.h"
#include "py_socket_lease.h"

/* An answer should fit, so that its sender is done with it at once. By themselves Unix streams have
 * 208 KiB, and TCP grows to what it needs only bit by bit. */
#define SEND_BUFFER (4 * 1024 * 1024)

/* ---- frames on their way ---- */

struct py_socket_out *py_socket_out_create(const struct py_socket_frame *frame, uint32_t iovs)
{
    size_t head = (PY_SOCKET_FRAME_BYTES + (size_t)frame->table + 15) / 16 * 16;
    struct py_socket_out *out = malloc(sizeof(*out) + 16 + head + iovs * sizeof(struct iovec));

    if (out == NULL) {
        return NULL;
    }
    memset(out, 0, sizeof(*out));
    out->head_bytes = PY_SOCKET_FRAME_BYTES + frame->table;
    out->payload = frame->payload;
    out->iov = (struct iovec *)(((uintptr_t)out->head + head + 15) & ~(uintptr_t)15);
    py_socket_frame_encode(frame, out->head);
    return out;
}

uint8_t *py_socket_out_table(struct py_socket_out *out)
{
    return out->head + PY_SOCKET_FRAME_BYTES;
}

void py_socket_out_destroy(struct py_socket_out *out)
{
    if (out->end != NULL) {
        out->end(out->ctx);
    }
    free(out);
}

void py_socket_iov_add(struct iovec *iov, uint32_t *count_io, void *base, uint64_t bytes)
{
    if (*count_io > 0) {
        struct iovec *last = &iov[*count_io - 1];

        if ((uint8_t *)last->iov_base + last->iov_len == (uint8_t *)base) {
            last->iov_len += bytes;
            return;
        }
    }
    iov[(*count_io)++] = (struct iovec){.iov_base = base, .iov_len = bytes};
}

void py_socket_iov_advance(struct iovec *iov, uint32_t *at_io, size_t bytes)
{
    while (bytes > 0) {
        struct iovec *first = &iov[*at_io];

        if (bytes < first->iov_len) {
            first->iov_base = (uint8_t *)first->iov_base + bytes;
            first->iov_len -= bytes;
            return;
        }
        bytes -= first->iov_len;
        (*at_io)++;
    }
}

/* ---- life ---- */

/* A host that is gone without a word is noticed in about this time, with something to send or
 * not. */
#define LOST_MS 20000
#define LOST_PROBES 3

static void conn_set_tcp(int fd)
{
    const int lost_ms = LOST_MS;
    const int seconds = LOST_MS / 1000 / (LOST_PROBES + 1);
    const int probes = LOST_PROBES;

    kvl_sock_set_nodelay(fd);
    kvl_sock_set_keepalive(fd);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &lost_ms, sizeof(lost_ms));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &seconds, sizeof(seconds));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &seconds, sizeof(seconds));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
}

static void conn_event(struct py_socket_source *source, uint32_t events);

int py_socket_conn_create(struct kvl_channel *channel, int take_fd, bool is_unix, bool dialed,
                          struct py_socket_conn **conn_out)
{
    struct py_socket_conn *conn = calloc(1, sizeof(*conn));
    const int size = SEND_BUFFER;

    if (conn == NULL) {
        close(take_fd);
        return -ENOMEM;
    }
    conn->source.event = conn_event;
    conn->channel = channel;
    conn->loop = py_socket_loops_next(&channel->data->loops);
    conn->refs = 1;
    conn->fd = take_fd;
    conn->is_unix = is_unix;
    conn->dialed = dialed;
    conn->state = dialed ? PY_SOCKET_CONN_DIALING : PY_SOCKET_CONN_GREETED;
    (void)setsockopt(take_fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    if (!is_unix) {
        conn_set_tcp(take_fd);
    }
    conn->next = channel->conns;
    if (conn->next != NULL) {
        conn->next->prev = conn;
    }
    channel->conns = conn;
    *conn_out = conn;
    return 0;
}

static void conn_unlink(struct py_socket_conn *conn)
{
    if (conn->prev != NULL) {
        conn->prev->next = conn->next;
    } else {
        conn->channel->conns = conn->next;
    }
    if (conn->next != NULL) {
        conn->next->prev = conn->prev;
    }
}

void py_socket_conn_drop(struct py_socket_conn *conn)
{
    conn_unlink(conn);
    if (!conn->dialed) {
        conn->channel->strangers--;
    }
    py_socket_conn_release(conn);
}

void py_socket_conn_retain(struct py_socket_conn *conn)
{
    atomic_fetch_add_explicit(&conn->refs, 1, memory_order_relaxed);
}

static void conn_close_fds(struct py_socket_conn *conn)
{
    while (conn->fd_count > 0) {
        close(conn->fds[--conn->fd_count]);
    }
}

void py_socket_conn_release(struct py_socket_conn *conn)
{
    struct py_socket_out *out;

    if (conn == NULL || atomic_fetch_sub_explicit(&conn->refs, 1, memory_order_acq_rel) != 1) {
        return;
    }
    while ((out = conn->out_first) != NULL) {
        conn->out_first = out->next;
        py_socket_out_destroy(out);
    }
    conn_close_fds(conn);
    close(conn->fd);
    free(conn->table);
    free(conn->sink);
    free(conn);
}

void py_socket_conn_kill(struct py_socket_conn *conn, int32_t status)
{
    if (!conn->dead) {
        conn->dead = true;
        conn->status = status;
        /* a child of ours may hold the socket too: the peer hears of it only by this */
        (void)shutdown(conn->fd, SHUT_RDWR);
    }
}

void py_socket_conn_close(struct py_socket_conn *conn, int32_t status)
{
    struct kvl_channel *channel = conn->channel;
    struct py_socket_lane *lane;

    py_socket_loop_remove(conn->loop, conn->fd);
    pthread_mutex_lock(&channel->lock);
    lane = conn->lane; /* whoever dialed may have set it just now */
    if (!conn->dead) {
        py_socket_farewell(conn, status);
    }
    py_socket_conn_kill(conn, status);
    conn->state = PY_SOCKET_CONN_CLOSED;
    conn_unlink(conn);
    for (uint32_t i = 0; i < PY_SOCKET_WINDOW; i++) {
        if (conn->slots[i] != NULL) {
            py_socket_part_end(conn->slots[i], conn->status);
        }
    }
    if (channel->leases != NULL) {
        py_socket_lease_give_all(channel->leases, conn);
    }
    if (lane != NULL) {
        conn->lane = NULL;
        py_socket_lane_remove(lane, conn, conn->status);
        py_socket_lane_release(lane);
    } else if (!conn->dialed) {
        channel->strangers--;
    }
    py_socket_unlock(channel);
    py_socket_conn_release(conn);
}

void py_socket_conn_watch(struct py_socket_conn *conn, uint32_t events)
{
    if (conn->events != events && conn->state != PY_SOCKET_CONN_CLOSED) {
        conn->events = events;
        if (conn->driver != NULL) {
            py_socket_drive_wake(conn->driver);
            return;
        }
        py_socket_loop_modify(conn->loop, conn->fd, events, &conn->source);
    }
}

/* ---- sending ---- */

void py_socket_conn_put(struct py_socket_conn *conn, struct py_socket_out *take_out)
{
    struct kvl_channel *channel = conn->channel;

    take_out->next = NULL;
    if (conn->out_first == NULL) {
        conn->out_first = take_out;
    } else {
        conn->out_last->next = take_out;
    }
    conn->out_last = take_out;
    conn->outs++;
    if (!conn->flush && !conn->sending && (conn->events & EPOLLOUT) == 0) {
        conn->flush = true;
        py_socket_conn_retain(conn);
        conn->flush_next = channel->flush;
        channel->flush = conn;
    }
}

void py_socket_conn_answer(struct py_socket_conn *conn, uint8_t type, uint64_t id, int32_t status,
                           uint32_t count)
{
    const struct py_socket_frame frame = {
        .type = type, .flags = PY_SOCKET_REPLY, .status = status, .id = id, .count = count};
    struct py_socket_out *out;

    if (conn->dead || conn->state != PY_SOCKET_CONN_OPEN) {
        return;
    }
    out = py_socket_out_create(&frame, 0);
    if (out == NULL) { /* the peer would wait for ever */
        py_socket_conn_kill(conn, -ENOMEM);
        return;
    }
    py_socket_conn_put(conn, out);
}

/* What is queued, as far as it fits. */
static uint32_t conn_fill(const struct py_socket_conn *conn, struct iovec *iov)
{
    uint32_t n = 0;
    uint64_t bytes = 0;

    for (struct py_socket_out *out = conn->out_first;
         out != NULL && n + 1 < PY_SOCKET_IOVS && bytes < PY_SOCKET_TURN_BYTES; out = out->next) {
        out->begun = true;
        if (out->part != NULL) {
            out->part->out = NULL;
            out->part = NULL;
        }
        if (out->head_at < out->head_bytes) {
            iov[n++] = (struct iovec){.iov_base = out->head + out->head_at,
                                      .iov_len = out->head_bytes - out->head_at};
        }
        for (uint32_t i = out->iov_at; i < out->iov_count; i++) {
            if (n == PY_SOCKET_IOVS) {
                return n;
            }
            iov[n++] = out->iov[i];
            bytes += out->iov[i].iov_len;
        }
    }
    return n;
}

/* Takes what has left off the queue; finished frames go to *ended. */
static void conn_sent(struct py_socket_conn *conn, size_t bytes, struct py_socket_out **ended)
{
    struct py_socket_out *out;

    if (conn->lane != NULL) {
        conn->lane->bytes_out += bytes;
    }
    while (bytes > 0 && (out = conn->out_first) != NULL) {
        size_t n = out->head_bytes - out->head_at;

        n = n < bytes ? n : bytes;
        out->head_at += (uint32_t)n;
        bytes -= n;
        n = out->payload < bytes ? out->payload : bytes;
        py_socket_iov_advance(out->iov, &out->iov_at, n);
        out->payload -= n;
        bytes -= n;
        if (out->head_at < out->head_bytes || out->payload > 0) {
            return;
        }
        conn->out_first = out->next;
        conn->outs--;
        out->next = *ended;
        *ended = out;
    }
}

static void conn_end_all(struct py_socket_out *ended)
{
    while (ended != NULL) {
        struct py_socket_out *next = ended->next;

        py_socket_out_destroy(ended);
        ended = next;
    }
}

/* One sendmsg, without the lock. @return false: no more for now. */
static bool conn_send_some(struct py_socket_conn *conn, uint64_t *budget)
{
    struct kvl_channel *channel = conn->channel;
    struct iovec iov[PY_SOCKET_IOVS];
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = conn_fill(conn, iov)};
    struct py_socket_out *ended = NULL;
    ssize_t n;
    int code;

    pthread_mutex_unlock(&channel->lock);
    n = sendmsg(conn->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
    code = errno;
    pthread_mutex_lock(&channel->lock);
    if (n < 0 && code == EAGAIN) {
        py_socket_conn_watch(conn, EPOLLIN | EPOLLOUT);
        return false;
    }
    if (n < 0) {
        if (code != EINTR) {
            py_socket_conn_kill(conn, -ECONNRESET);
        }
        return true;
    }
    conn_sent(conn, (size_t)n, &ended);
    *budget -= (uint64_t)n < *budget ? (uint64_t)n : *budget;
    if (ended != NULL) {
        pthread_mutex_unlock(&channel->lock);
        conn_end_all(ended);
        pthread_mutex_lock(&channel->lock);
    }
    return true;
}

void py_socket_conn_flush(struct py_socket_conn *conn)
{
    uint64_t budget = PY_SOCKET_TURN_BYTES;

    if (conn->sending) { /* that thread sends this too */
        return;
    }
    conn->sending = true;
    while (conn->out_first != NULL && !conn->dead && budget > 0) {
        if (!conn_send_some(conn, &budget)) {
            break;
        }
    }
    if (conn->out_first == NULL) {
        py_socket_conn_watch(conn, EPOLLIN);
    } else if (budget == 0) {
        py_socket_conn_watch(conn, EPOLLIN | EPOLLOUT);
    }
    conn->sending = false;
}

void py_socket_unlock(struct kvl_channel *channel)
{
    struct py_socket_conn *conn;
    struct py_socket_lane *lane;
    struct py_socket_op *op;

    while ((conn = channel->flush) != NULL) {
        channel->flush = conn->flush_next;
        conn->flush = false;
        py_socket_conn_flush(conn);
        pthread_mutex_unlock(&channel->lock);
        py_socket_conn_release(conn);
        pthread_mutex_lock(&channel->lock);
    }
    while ((op = channel->called) != NULL) {
        channel->called = op->done_next;
        pthread_mutex_unlock(&channel->lock);
        py_socket_op_call(op);
        pthread_mutex_lock(&channel->lock);
    }
    while ((lane = channel->lost) != NULL) {
        channel->lost = lane->next;
        pthread_mutex_unlock(&channel->lock);
        py_socket_link_forget(channel->link, lane->peer);
        pthread_mutex_lock(&channel->lock);
        py_socket_lane_release(lane);
    }
    pthread_mutex_unlock(&channel->lock);
}

/* ---- events ---- */

/* Takes the right to receive. @return false: a driver has it. */
static bool conn_begin(struct py_socket_conn *conn, uint32_t events)
{
    bool mine;

    pthread_mutex_lock(&conn->channel->lock);
    if ((events & EPOLLOUT) != 0 && conn->driver == NULL) {
        py_socket_conn_flush(conn);
    }
    mine = conn->driver == NULL;
    if (mine) {
        conn->receiving = true;
    } else if ((events & (EPOLLHUP | EPOLLERR)) != 0 && !conn->unwatched) {
        /* would be told again and again; the driver sees it too and gives the connection back */
        conn->unwatched = true;
        py_socket_loop_remove(conn->loop, conn->fd);
    }
    pthread_mutex_unlock(&conn->channel->lock);
    return mine;
}

static void conn_event(struct py_socket_source *source, uint32_t events)
{
    struct py_socket_conn *conn = (struct py_socket_conn *)(void *)source;
    int r = 0;

    if (conn->state == PY_SOCKET_CONN_DIALING) {
        r = py_socket_dialed(conn);
    } else if (conn_begin(conn, events)) {
        if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) {
            r = py_socket_conn_recv(conn);
        }
        pthread_mutex_lock(&conn->channel->lock);
        conn->receiving = r < 0; /* nobody receives on one that is about to be closed */
        pthread_mutex_unlock(&conn->channel->lock);
    }
    if (r < 0) {
        py_socket_conn_close(conn, r);
    }
}
