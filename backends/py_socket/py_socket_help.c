/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who waits for an operation drives the connections of its peer meanwhile: the bytes are then
 * received by the thread that wants them, without a second thread to wake for each answer.
 */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "py_socket_core.h"

struct py_socket_helper {
    struct py_socket_helper *next; /* of those at rest */
    int wake_fd;
    bool polls; /* is in poll(), and so must be woken */
    uint32_t count;
    struct py_socket_conn *conns[PY_SOCKET_LANE_CONNS]; /* retained */
};

void py_socket_helpers_fini(struct kvl_channel *channel)
{
    while (channel->helpers != NULL) {
        struct py_socket_helper *helper = channel->helpers;

        channel->helpers = helper->next;
        close(helper->wake_fd);
        free(helper);
    }
}

static struct py_socket_helper *help_take(struct kvl_channel *channel)
{
    struct py_socket_helper *helper = channel->helpers;

    if (helper != NULL) {
        channel->helpers = helper->next;
        return helper;
    }
    helper = calloc(1, sizeof(*helper));
    if (helper == NULL) {
        return NULL;
    }
    helper->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (helper->wake_fd < 0) {
        free(helper);
        return NULL;
    }
    return helper;
}

void py_socket_help_wake(struct py_socket_helper *helper)
{
    const uint64_t one = 1;

    if (helper->polls) {
        ssize_t n = write(helper->wake_fd, &one, sizeof(one));

        (void)n;
    }
}

/* ---- connections of a helper; with the lock ---- */

static void help_claim(struct py_socket_helper *helper, struct py_socket_lane *lane)
{
    for (uint32_t i = 0; i < lane->conn_count; i++) {
        struct py_socket_conn *conn = lane->conns[i];

        if (conn->state == PY_SOCKET_CONN_OPEN && !conn->dead && !conn->receiving &&
            conn->helper == NULL) {
            conn->helper = helper;
            py_socket_conn_retain(conn);
            py_socket_loop_modify(conn->loop, conn->fd, 0, &conn->source);
            helper->conns[helper->count++] = conn;
        }
    }
}

/* Its loop watches it again. */
static void help_give_back(struct py_socket_helper *helper, uint32_t index)
{
    struct py_socket_conn *conn = helper->conns[index];

    conn->helper = NULL;
    if (conn->unwatched) {
        conn->unwatched = false;
        (void)py_socket_loop_add(conn->loop, conn->fd, conn->events, &conn->source);
    } else {
        py_socket_loop_modify(conn->loop, conn->fd, conn->events, &conn->source);
    }
    py_socket_conn_release(conn);
    helper->conns[index] = helper->conns[--helper->count];
}

/* Called and left with the lock, which it gives back meanwhile. */
static void help_run(struct kvl_channel *channel, struct py_socket_helper *helper, uint32_t index,
                     short events)
{
    struct py_socket_conn *conn = helper->conns[index];
    int r = 0;

    if ((events & POLLOUT) != 0) {
        py_socket_conn_flush(conn);
    }
    if ((events & (POLLIN | POLLHUP | POLLERR)) != 0) {
        pthread_mutex_unlock(&channel->lock);
        r = py_socket_conn_recv(conn);
        pthread_mutex_lock(&channel->lock);
    }
    if (r < 0) {
        py_socket_conn_kill(conn, r);
        help_give_back(helper, index); /* its loop closes it */
    }
}

static void help_poll(struct kvl_channel *channel, struct py_socket_helper *helper, int timeout)
{
    struct pollfd fds[PY_SOCKET_LANE_CONNS + 2];
    uint32_t count = helper->count;
    uint64_t ignored;

    for (uint32_t i = 0; i < count; i++) {
        const struct py_socket_conn *conn = helper->conns[i];

        fds[i] = (struct pollfd){
            .fd = conn->fd,
            .events = (short)(POLLIN | ((conn->events & EPOLLOUT) != 0 ? POLLOUT : 0))};
    }
    fds[count] = (struct pollfd){.fd = helper->wake_fd, .events = POLLIN};
    fds[count + 1] = (struct pollfd){.fd = py_socket_link_fd(channel->link), .events = POLLIN};
    helper->polls = true;
    pthread_mutex_unlock(&channel->lock);
    if (poll(fds, count + 2, timeout) < 0) {
        memset(fds, 0, sizeof(fds));
    }
    if (fds[count + 1].revents != 0) {
        py_socket_link_poll(channel->link);
    }
    pthread_mutex_lock(&channel->lock);
    helper->polls = false;
    if (fds[count].revents != 0) {
        ssize_t n = read(helper->wake_fd, &ignored, sizeof(ignored));

        (void)n;
    }
    for (uint32_t i = count; i-- > 0;) { /* from the end: one that is given back is replaced */
        if (fds[i].revents != 0) {
            help_run(channel, helper, i, fds[i].revents);
        }
    }
}

static int help_timeout(const struct kvl_channel *channel, uint64_t deadline_ms)
{
    uint64_t now = channel->host->now_ms(channel->host);

    if (deadline_ms == KVL_NEVER) {
        return -1;
    }
    return deadline_ms <= now                ? 0
           : deadline_ms - now > INT_MAX / 2 ? INT_MAX / 2
                                             : (int)(deadline_ms - now);
}

void py_socket_help(struct py_socket_op *op, uint64_t deadline_ms)
{
    struct kvl_channel *channel = op->channel;
    struct py_socket_helper *helper;
    /* there nobody else drives handshakes meanwhile */
    bool is_async = (channel->flags & KVL_CHANNEL_ASYNC) != 0;
    uint64_t id = op->id;

    if (op->helper != NULL || op->held) {
        return;
    }
    helper = help_take(channel);
    if (helper == NULL) {
        return;
    }
    helper->count = 0;
    if (op->lane != NULL && op->lane->state == PY_SOCKET_LANE_OPEN) {
        help_claim(helper, op->lane);
    }
    op->helper = helper;
    while ((helper->count > 0 || is_async) && op->id == id && op->state == PY_SOCKET_OP_RUNNING) {
        int timeout = help_timeout(channel, deadline_ms);

        if (timeout == 0) {
            break;
        }
        help_poll(channel, helper, timeout);
    }
    if (op->helper == helper) {
        op->helper = NULL;
    }
    while (helper->count > 0) {
        help_give_back(helper, helper->count - 1);
    }
    helper->next = channel->helpers;
    channel->helpers = helper;
}
