/* SPDX-License-Identifier: Apache-2.0 */
/* Life of a channel: open, connect, close. What moves bytes is in py_socket_transfer.c. */
#include "py_socket_channel.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "py_socket_lease.h"
#include "setting.h"

/* ---- what the link tells ---- */

static void channel_peer_up(void *ctx, struct py_socket_peer *peer)
{
    struct kvl_channel *channel = ctx;

    pthread_mutex_lock(&channel->lock);
    (void)py_socket_lane_of(channel, peer); /* without memory connect tries again */
    py_socket_unlock(channel);
}

static void channel_peer_gone(void *ctx, struct py_socket_peer *peer)
{
    struct kvl_channel *channel = ctx;
    struct py_socket_lane *lane;

    pthread_mutex_lock(&channel->lock);
    lane = atomic_load(&peer->data);
    if (lane != NULL) {
        py_socket_lane_lose(lane, -ECONNRESET);
    }
    py_socket_unlock(channel);
}

/* ---- time ---- */

static void channel_tick(struct py_socket_timer *timer, uint64_t now_ms)
{
    struct kvl_channel *channel =
        (struct kvl_channel *)(void *)((char *)timer - offsetof(struct kvl_channel, timer));
    uint64_t next;

    pthread_mutex_lock(&channel->lock);
    next = py_socket_doors_tick(channel, now_ms);
    for (uint32_t i = 0; i < channel->op_count; i++) {
        struct py_socket_op *op = channel->ops[i];

        if (op->state != PY_SOCKET_OP_RUNNING || op->ending) {
            continue;
        }
        if (op->deadline_ms <= now_ms) {
            py_socket_op_stop(op, -ETIMEDOUT);
        } else if (op->deadline_ms < next) {
            next = op->deadline_ms;
        }
    }
    py_socket_unlock(channel);
    if (channel->leases != NULL) {
        uint64_t expires = py_socket_leases_expire(channel->leases, now_ms);

        next = expires < next ? expires : next;
    }
    py_socket_timer_at(timer, next);
}

/* ---- open ---- */

static int channel_check(const struct kvl_channel_params *params, struct kvl_err *err)
{
    if (params->size < sizeof(*params) || params->role == 0 ||
        (params->role & ~KVL_CHANNEL_BOTH) != 0 || (params->flags & ~KVL_CHANNEL_ASYNC) != 0) {
        return kvl_fail(err, -EINVAL, "role or flags are none");
    }
    if (params->align_bytes < 64 || (params->align_bytes & (params->align_bytes - 1)) != 0 ||
        params->buffer_bytes == 0 || params->buffer_bytes % params->align_bytes != 0 ||
        params->buffer_bytes > INT64_MAX) {
        return kvl_fail(err, -EINVAL,
                        "the buffer must be a multiple of align_bytes, a power of two from 64");
    }
    if (params->buffer == NULL && params->buffer_fd >= 0) {
        return kvl_fail(err, -EINVAL, "buffer_fd without a buffer");
    }
    return 0;
}

static void channel_boot_id(char *boot_id_out)
{
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, boot_id_out, PY_SOCKET_BOOT_ID);

    boot_id_out[n < (ssize_t)PY_SOCKET_BOOT_ID ? 0 : n] = '\0';
    if (fd >= 0) {
        close(fd);
    }
}

/* The own buffer, and what peers get of it. */
static int channel_memory(struct kvl_channel *channel, const struct kvl_channel_params *params,
                          struct kvl_err *err)
{
    int peers_write = (params->role & KVL_CHANNEL_RECEIVER) != 0;
    uint64_t end = params->buffer_offset;
    int r;

    channel->buffer = params->buffer;
    if (params->buffer == NULL) {
        r = py_socket_memfd_create("kvlane-channel", params->buffer_bytes, peers_write,
                                   &channel->own);
        if (r < 0) {
            return kvl_fail(err, r, "no memory for a buffer of %llu bytes",
                            (unsigned long long)params->buffer_bytes);
        }
        channel->buffer = channel->own.base;
        channel->buffer_fd =
            py_socket_memfd_lend(channel->own.fd, params->buffer_bytes, peers_write);
    } else if (params->buffer_fd >= 0) {
        if (__builtin_add_overflow(end, params->buffer_bytes, &end)) {
            return kvl_fail(err, -EINVAL, "buffer_offset is none");
        }
        channel->buffer_offset = params->buffer_offset;
        channel->buffer_fd = py_socket_memfd_lend(params->buffer_fd, end, peers_write);
        if (channel->buffer_fd == -EINVAL) {
            return kvl_fail(err, -EINVAL, "buffer_fd is shorter than the buffer");
        }
        if (channel->buffer_fd < 0) {
            kvl_info(channel->host->log,
                     "py_socket: buffer_fd is no memfd that can be sealed: peers on this host are "
                     "served by a socket");
        }
    }
    return 0;
}

static int channel_control(struct kvl_channel *channel)
{
    int r = py_socket_memfd_create("kvlane-control", sizeof(struct py_socket_control), 0,
                                   &channel->control_memory);

    if (r < 0) {
        return r;
    }
    channel->control = channel->control_memory.base;
    channel->control->magic = PY_SOCKET_CONTROL_MAGIC;
    channel->control->slots = PY_SOCKET_LEASES;
    channel->control->incarnation = channel->incarnation;
    channel->control_fd =
        py_socket_memfd_lend(channel->control_memory.fd, sizeof(struct py_socket_control), 0);
    if (channel->control_fd < 0) {
        return channel->control_fd;
    }
    if (channel->data->serve != NULL && channel->data->serve->store.fd >= 0) {
        return py_socket_leases_create(channel->control, channel->data->serve, &channel->leases);
    }
    return 0;
}

static int channel_link(struct kvl_channel *channel, const struct kvl_channel_params *params,
                        struct kvl_err *err)
{
    const struct py_socket_link_config config = {
        .host = channel->host,
        .options = channel->options,
        .zmq = channel->data->zmq,
        .counters = channel->data->counters,
        .events = {.ctx = channel, .peer_up = channel_peer_up, .peer_gone = channel_peer_gone},
        .peer_init_url = params->peer_init_url,
        .peer_lookup_url = params->peer_lookup_url,
        .is_async = (params->flags & KVL_CHANNEL_ASYNC) != 0,
    };
    int r = py_socket_link_create(&config, &channel->link, err);

    if (r == 0) {
        channel->incarnation = py_socket_link_incarnation(channel->link);
    }
    return r;
}

static int channel_start(struct kvl_channel *channel, const struct kvl_channel_params *params,
                         struct kvl_err *err)
{
    int r = channel_memory(channel, params, err);

    if (r == 0) {
        r = channel_link(channel, params, err);
    }
    if (r < 0) {
        return r;
    }
    py_socket_timer_add(&channel->data->loops.loop[0], &channel->timer, channel_tick);
    r = channel_control(channel);
    if (r < 0) {
        return kvl_fail(err, r, "no control page: %s", strerror(-r));
    }
    r = py_socket_ops_init(channel);
    if (r < 0) {
        return kvl_fail(err, r, "no memory");
    }
    channel_boot_id(channel->offer.boot_id);
    channel->offer.buffer_bytes = channel->buffer_bytes;
    channel->offer.align_bytes = channel->align_bytes;
    r = py_socket_doors_open(channel, params->peer_init_url, err);
    return r < 0 ? r : py_socket_link_start(channel->link, &channel->offer, err);
}

static struct kvl_channel *channel_create(struct py_socket_data *data,
                                          const struct kvl_channel_params *params)
{
    struct kvl_channel *channel = calloc(1, sizeof(*channel));

    if (channel == NULL) {
        return NULL;
    }
    channel->data = data;
    channel->host = data->host;
    channel->options = data->options;
    channel->role = params->role;
    channel->flags = params->flags;
    channel->buffer_bytes = params->buffer_bytes;
    channel->align_bytes = params->align_bytes;
    channel->own.fd = -1;
    channel->buffer_fd = -1;
    channel->control_memory.fd = -1;
    channel->control_fd = -1;
    channel->event_fd = -1;
    channel->done_fd = -1;
    pthread_mutex_init(&channel->lock, NULL);
    return channel;
}

int py_socket_channel_open(void *self, struct kvl_channel_params *params,
                           struct kvl_channel **channel_out, struct kvl_err *err)
{
    struct py_socket_data *data = py_socket_data_of(self);
    struct kvl_channel *channel;
    int r;

    if (py_socket_data_is_child(data)) {
        return -ECHILD;
    }
    r = channel_check(params, err);
    if (r < 0) {
        return r;
    }
    channel = channel_create(data, params);
    if (channel == NULL) {
        return kvl_fail(err, -ENOMEM, "no memory");
    }
    pthread_mutex_lock(&data->lock);
    channel->next = data->channels;
    data->channels = channel;
    pthread_mutex_unlock(&data->lock);
    r = channel_start(channel, params, err);
    if (r < 0) {
        py_socket_channel_close(channel);
        return r;
    }
    params->buffer_out = channel->buffer;
    *channel_out = channel;
    return 0;
}

/* ---- close ---- */

/* In a loop's thread. */
struct channel_sweep {
    struct kvl_channel *channel;
    struct py_socket_loop *loop;
};

static struct py_socket_conn *channel_conn_of(struct kvl_channel *channel,
                                              const struct py_socket_loop *loop)
{
    struct py_socket_conn *conn;

    pthread_mutex_lock(&channel->lock);
    conn = channel->conns;
    while (conn != NULL && conn->loop != loop) {
        conn = conn->next;
    }
    pthread_mutex_unlock(&channel->lock);
    return conn;
}

static void channel_sweep(void *arg)
{
    const struct channel_sweep *sweep = arg;
    struct py_socket_conn *conn;

    py_socket_doors_close(sweep->channel, sweep->loop);
    while ((conn = channel_conn_of(sweep->channel, sweep->loop)) != NULL) {
        py_socket_conn_close(conn, -ECANCELED);
    }
}

static void channel_end_ops(struct kvl_channel *channel)
{
    pthread_mutex_lock(&channel->lock);
    for (uint32_t i = 0; i < channel->op_count; i++) {
        py_socket_op_stop(channel->ops[i], -ECANCELED);
    }
    while (channel->lanes != NULL) {
        py_socket_lane_lose(channel->lanes, -ECANCELED);
    }
    while (channel->done != NULL) {
        py_socket_op_free(channel->done);
    }
    py_socket_unlock(channel);
}

static void channel_free(struct kvl_channel *channel)
{
    py_socket_ops_fini(channel);
    py_socket_drivers_fini(channel);
    py_socket_leases_destroy(channel->leases);
    py_socket_memfd_destroy(&channel->control_memory);
    py_socket_memfd_destroy(&channel->own);
    for (int i = 0; i < 4; i++) {
        const int fds[] = {channel->buffer_fd, channel->control_fd, channel->event_fd,
                           channel->done_fd};

        if (fds[i] >= 0) {
            close(fds[i]);
        }
    }
    pthread_mutex_destroy(&channel->lock);
    free(channel);
}

void py_socket_channel_close(struct kvl_channel *channel)
{
    struct py_socket_data *data;

    if (channel == NULL || py_socket_data_is_child(channel->data)) {
        return;
    }
    data = channel->data;
    pthread_mutex_lock(&data->lock);
    for (struct kvl_channel **at = &data->channels; *at != NULL; at = &(*at)->next) {
        if (*at == channel) {
            *at = channel->next;
            break;
        }
    }
    pthread_mutex_unlock(&data->lock);
    if (channel->control != NULL) {
        atomic_store(&channel->control->incarnation, 0); /* peers that copy see it afterwards */
    }
    pthread_mutex_lock(&channel->lock);
    channel->closing = true;
    pthread_mutex_unlock(&channel->lock);
    for (uint32_t i = 0; i < data->loops.count; i++) {
        struct channel_sweep sweep = {.channel = channel, .loop = &data->loops.loop[i]};

        py_socket_loop_call(sweep.loop, channel_sweep, &sweep);
    }
    if (channel->timer.loop != NULL) {
        py_socket_timer_remove(&channel->timer);
    }
    py_socket_brings_drop(channel);
    channel_end_ops(channel);
    py_socket_link_close(channel->link);
    channel_free(channel);
}

const char *py_socket_channel_url(struct kvl_channel *channel)
{
    return py_socket_link_url(channel->link);
}
