/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "py_socket_channel.h"

static struct timespec wait_until(uint64_t deadline_ms)
{
    uint64_t seconds = deadline_ms / 1000;

    return (struct timespec){.tv_sec = (time_t)(seconds < INT32_MAX ? seconds : INT32_MAX),
                             .tv_nsec = (long)(deadline_ms % 1000 * 1000000)};
}

int py_socket_channel_wait(struct kvl_channel *channel, uint64_t id, uint64_t deadline_ms,
                           uint32_t *moved_out)
{
    const struct timespec until = wait_until(deadline_ms);
    struct py_socket_op *op;
    int r = -EINVAL;

    if (py_socket_data_is_child(channel->data)) {
        return -ECHILD;
    }
    pthread_mutex_lock(&channel->lock);
    op = py_socket_op_find(channel, id);
    if (op != NULL && op->kind == PY_SOCKET_OP_FETCH) {
        op = NULL;
    }
    if (op != NULL && op->state == PY_SOCKET_OP_RUNNING) {
        op->waiters++;
        py_socket_drive(op, deadline_ms);
        op->waiters--;
    }
    while (op != NULL && op->id == id && op->state == PY_SOCKET_OP_RUNNING) {
        op->waiters++;
        r = pthread_cond_timedwait(&op->ended, &channel->lock, &until);
        op->waiters--;
        if (r == ETIMEDOUT && op->id == id && op->state == PY_SOCKET_OP_RUNNING) {
            pthread_mutex_unlock(&channel->lock);
            return -EINPROGRESS;
        }
        r = -EINVAL; /* unless it is still ours: another one may have taken it */
    }
    if (op != NULL && op->id == id && op->state == PY_SOCKET_OP_ENDED) {
        r = op->status;
        if (moved_out != NULL) {
            *moved_out = op->moved;
        }
        py_socket_op_free(op);
    }
    py_socket_unlock(channel);
    return r;
}

void py_socket_channel_cancel(struct kvl_channel *channel, uint64_t id)
{
    struct py_socket_op *op;
    uint64_t call = 0;

    if (py_socket_data_is_child(channel->data)) {
        return;
    }
    pthread_mutex_lock(&channel->lock);
    op = py_socket_op_find(channel, id);
    if (op != NULL && op->state == PY_SOCKET_OP_RUNNING) {
        call = op->kind == PY_SOCKET_OP_CONNECT ? op->call : 0;
        py_socket_op_stop(op, -ECANCELED);
        op->waiters++;
        while (op->id == id && op->state == PY_SOCKET_OP_RUNNING) {
            pthread_cond_wait(&op->ended, &channel->lock);
        }
        op->waiters--;
    }
    py_socket_unlock(channel);
    if (call != 0) {
        py_socket_link_cancel(channel->link, call);
    }
}

int py_socket_channel_poll(struct kvl_channel *channel, struct kvl_channel_done *done_out,
                           uint32_t room)
{
    struct py_socket_op *next;
    uint64_t ignored;
    uint32_t count = 0;

    if (py_socket_data_is_child(channel->data)) {
        return -ECHILD;
    }
    if ((channel->flags & KVL_CHANNEL_ASYNC) != 0) {
        py_socket_link_poll(channel->link);
    }
    pthread_mutex_lock(&channel->lock);
    for (struct py_socket_op *op = channel->done; op != NULL && count < room; op = next) {
        next = op->done_next;
        if (op->waiters > 0) {
            continue;
        }
        done_out[count++] = (struct kvl_channel_done){
            .op = op->id, .tag = op->tag, .status = op->status, .moved = op->moved};
        py_socket_op_free(op);
    }
    if (channel->done == NULL && channel->done_fd >= 0) {
        ssize_t n = read(channel->done_fd, &ignored, sizeof(ignored));

        (void)n;
    }
    pthread_mutex_unlock(&channel->lock);
    return (int)count;
}

/* With the lock. */
static int wait_open_events(struct kvl_channel *channel)
{
    struct epoll_event event = {.events = EPOLLIN};
    int link_fd = py_socket_link_fd(channel->link);
    int event_fd = epoll_create1(EPOLL_CLOEXEC);
    int done_fd = eventfd(channel->done != NULL, EFD_CLOEXEC | EFD_NONBLOCK);

    if (event_fd < 0 || done_fd < 0 || epoll_ctl(event_fd, EPOLL_CTL_ADD, done_fd, &event) < 0 ||
        (link_fd >= 0 && epoll_ctl(event_fd, EPOLL_CTL_ADD, link_fd, &event) < 0)) {
        int r = -errno;

        if (event_fd >= 0) {
            close(event_fd);
        }
        if (done_fd >= 0) {
            close(done_fd);
        }
        return r;
    }
    channel->event_fd = event_fd;
    channel->done_fd = done_fd;
    return 0;
}

int py_socket_channel_event_fd(struct kvl_channel *channel)
{
    int r = 0;

    if (py_socket_data_is_child(channel->data)) {
        return -ECHILD;
    }
    pthread_mutex_lock(&channel->lock);
    if (channel->event_fd < 0) {
        r = wait_open_events(channel);
    }
    r = r < 0 ? r : channel->event_fd;
    pthread_mutex_unlock(&channel->lock);
    return r;
}
