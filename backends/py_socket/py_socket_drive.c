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

struct py_socket_driver {
    struct py_socket_driver *next; /* of those at rest */
    int wake_fd;
    bool polls; /* is in poll(), and so must be woken */
    uint32_t count;
    struct py_socket_conn *conns[PY_SOCKET_LANE_CONNS]; /* retained */
};

void py_socket_drivers_fini(struct kvl_channel *channel)
{
    while (channel->drivers != NULL) {
        struct py_socket_driver *driver = channel->drivers;

        channel->drivers = driver->next;
        close(driver->wake_fd);
        free(driver);
    }
}

static struct py_socket_driver *drive_take(struct kvl_channel *channel)
{
    struct py_socket_driver *driver = channel->drivers;

    if (driver != NULL) {
        channel->drivers = driver->next;
        return driver;
    }
    driver = calloc(1, sizeof(*driver));
    if (driver == NULL) {
        return NULL;
    }
    driver->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (driver->wake_fd < 0) {
        free(driver);
        return NULL;
    }
    return driver;
}

void py_socket_drive_wake(struct py_socket_driver *driver)
{
    const uint64_t one = 1;

    if (driver->polls) {
        ssize_t n = write(driver->wake_fd, &one, sizeof(one));

        (void)n;
    }
}

/* ---- connections of a driver; with the lock ---- */

/* Those that an answer to the op can come over: where it has none asked for, all. */
static void drive_claim(struct py_socket_driver *driver, const struct py_socket_op *op)
{
    const struct py_socket_lane *lane = op->lane;

    for (uint32_t i = 0; i < lane->conn_count; i++) {
        struct py_socket_conn *conn = lane->conns[i];

        if (conn->state == PY_SOCKET_CONN_OPEN && !conn->dead && !conn->receiving &&
            conn->driver == NULL && (op->first == NULL || conn->parts > 0)) {
            conn->driver = driver;
            py_socket_conn_retain(conn);
            py_socket_loop_modify(conn->loop, conn->fd, 0, &conn->source);
            driver->conns[driver->count++] = conn;
        }
    }
}

/* Its loop watches it again. */
static void drive_give_back(struct py_socket_driver *driver, uint32_t index)
{
    struct py_socket_conn *conn = driver->conns[index];

    conn->driver = NULL;
    if (conn->unwatched) {
        conn->unwatched = false;
        (void)py_socket_loop_add(conn->loop, conn->fd, conn->events, &conn->source);
    } else {
        py_socket_loop_modify(conn->loop, conn->fd, conn->events, &conn->source);
    }
    py_socket_conn_release(conn);
    driver->conns[index] = driver->conns[--driver->count];
}

/* Called and left with the lock, which it gives back meanwhile. */
static void drive_run(struct kvl_channel *channel, struct py_socket_driver *driver, uint32_t index,
                      short events)
{
    struct py_socket_conn *conn = driver->conns[index];
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
        drive_give_back(driver, index); /* its loop closes it */
    }
}

static void drive_poll(struct kvl_channel *channel, struct py_socket_driver *driver, int timeout)
{
    struct pollfd fds[PY_SOCKET_LANE_CONNS + 2];
    uint32_t count = driver->count;
    uint64_t ignored;

    for (uint32_t i = 0; i < count; i++) {
        const struct py_socket_conn *conn = driver->conns[i];

        fds[i] = (struct pollfd){
            .fd = conn->fd,
            .events = (short)(POLLIN | ((conn->events & EPOLLOUT) != 0 ? POLLOUT : 0))};
    }
    fds[count] = (struct pollfd){.fd = driver->wake_fd, .events = POLLIN};
    fds[count + 1] = (struct pollfd){.fd = py_socket_link_fd(channel->link), .events = POLLIN};
    driver->polls = true;
    pthread_mutex_unlock(&channel->lock);
    if (poll(fds, count + 2, timeout) < 0) {
        memset(fds, 0, sizeof(fds));
    }
    if (fds[count + 1].revents != 0) {
        py_socket_link_poll(channel->link);
    }
    pthread_mutex_lock(&channel->lock);
    driver->polls = false;
    if (fds[count].revents != 0) {
        ssize_t n = read(driver->wake_fd, &ignored, sizeof(ignored));

        (void)n;
    }
    for (uint32_t i = count; i-- > 0;) { /* from the end: one that is given back is replaced */
        if (fds[i].revents != 0) {
            drive_run(channel, driver, i, fds[i].revents);
        }
    }
}

static int drive_timeout(const struct kvl_channel *channel, uint64_t deadline_ms)
{
    uint64_t now = channel->host->now_ms(channel->host);

    if (deadline_ms == KVL_NEVER) {
        return -1;
    }
    return deadline_ms <= now                ? 0
           : deadline_ms - now > INT_MAX / 2 ? INT_MAX / 2
                                             : (int)(deadline_ms - now);
}

void py_socket_drive(struct py_socket_op *op, uint64_t deadline_ms)
{
    struct kvl_channel *channel = op->channel;
    struct py_socket_driver *driver;
    /* there nobody else drives handshakes meanwhile */
    bool is_async = (channel->flags & KVL_CHANNEL_ASYNC) != 0;
    uint64_t id = op->id;

    if (op->driver != NULL || op->held) {
        return;
    }
    driver = drive_take(channel);
    if (driver == NULL) {
        return;
    }
    driver->count = 0;
    if (op->lane != NULL && op->lane->state == PY_SOCKET_LANE_OPEN) {
        drive_claim(driver, op);
    }
    op->driver = driver;
    while ((driver->count > 0 || is_async) && op->id == id && op->state == PY_SOCKET_OP_RUNNING) {
        int timeout = drive_timeout(channel, deadline_ms);

        if (timeout == 0) {
            break;
        }
        drive_poll(channel, driver, timeout);
    }
    if (op->driver == driver) {
        op->driver = NULL;
    }
    while (driver->count > 0) {
        drive_give_back(driver, driver->count - 1);
    }
    driver->next = channel->drivers;
    channel->drivers = driver;
}
