/* SPDX-License-Identifier: Apache-2.0 */
#include "py_socket_data.h"

#include <errno.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "py_socket_channel.h"

/* More than two did not move more bytes: a thread copies as fast as a link of 100 Gbit/s. */
#define THREADS 2u

int py_socket_data_start(struct py_socket_data *data)
{
    long page = sysconf(_SC_PAGESIZE);
    uint8_t *parent =
        mmap(NULL, (size_t)page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int r;

    if (parent == MAP_FAILED) {
        return -ENOMEM;
    }
    if (madvise(parent, (size_t)page, MADV_WIPEONFORK) < 0) {
        r = -errno;
        munmap(parent, (size_t)page);
        return r;
    }
    r = py_socket_loops_start(&data->loops, data->host, THREADS);
    if (r < 0) {
        munmap(parent, (size_t)page);
        return r;
    }
    *parent = 1;
    data->parent = parent;
    pthread_mutex_init(&data->lock, NULL);
    pthread_cond_init(&data->brought, NULL);
    return 0;
}

int py_socket_data_is_child(const struct py_socket_data *data)
{
    return *(const volatile uint8_t *)data->parent == 0;
}

static struct kvl_channel *data_first(struct py_socket_data *data)
{
    struct kvl_channel *channel;

    pthread_mutex_lock(&data->lock);
    channel = data->channels;
    pthread_mutex_unlock(&data->lock);
    return channel;
}

void py_socket_data_stop(struct py_socket_data *data)
{
    struct kvl_channel *channel;

    if (data->parent == NULL || py_socket_data_is_child(data)) {
        return;
    }
    while ((channel = data_first(data)) != NULL) {
        py_socket_channel_close(channel);
    }
    py_socket_loops_stop(&data->loops);
    munmap(data->parent, (size_t)sysconf(_SC_PAGESIZE));
    data->parent = NULL;
    pthread_cond_destroy(&data->brought);
    pthread_mutex_destroy(&data->lock);
}

/* ---- watch ---- */

struct data_sum {
    uint64_t peers[PY_SOCKET_PATH_TCP + 1];
    uint64_t bytes_in;
    uint64_t bytes_out;
    uint64_t errors;
    uint64_t operations; /* under way */
    uint64_t connections;
};

static void data_sum_channel(struct kvl_channel *channel, struct data_sum *sum)
{
    pthread_mutex_lock(&channel->lock);
    sum->bytes_in += channel->bytes_in;
    sum->bytes_out += channel->bytes_out;
    sum->errors += channel->errors;
    for (const struct py_socket_lane *lane = channel->lanes; lane != NULL; lane = lane->next) {
        sum->peers[lane->state == PY_SOCKET_LANE_OPEN ? lane->path : PY_SOCKET_PATH_NONE]++;
        sum->bytes_in += lane->bytes_in;
        sum->bytes_out += lane->bytes_out;
        sum->errors += lane->errors;
        sum->connections += lane->conn_count;
    }
    sum->operations += channel->op_count - channel->op_free_count;
    pthread_mutex_unlock(&channel->lock);
}

static void data_sum(struct py_socket_data *data, struct data_sum *sum)
{
    *sum = (struct data_sum){0};
    if (data->parent == NULL) {
        return;
    }
    pthread_mutex_lock(&data->lock);
    for (struct kvl_channel *channel = data->channels; channel != NULL; channel = channel->next) {
        data_sum_channel(channel, sum);
    }
    pthread_mutex_unlock(&data->lock);
}

void py_socket_data_stats(struct py_socket_data *data, kvl_stat_fn fn, void *ctx)
{
    struct data_sum sum;

    data_sum(data, &sum);
    fn(ctx, "data_peers_shm", sum.peers[PY_SOCKET_PATH_SHM]);
    fn(ctx, "data_peers_unix", sum.peers[PY_SOCKET_PATH_UNIX]);
    fn(ctx, "data_peers_tcp", sum.peers[PY_SOCKET_PATH_TCP]);
    fn(ctx, "data_connections", sum.connections);
    fn(ctx, "data_bytes_in", sum.bytes_in);
    fn(ctx, "data_bytes_out", sum.bytes_out);
    fn(ctx, "data_errors", sum.errors);
    fn(ctx, "data_operations", sum.operations);
}

/* One peer: who, by which path, how much. @return characters written. */
static int data_print_lane(const struct py_socket_lane *lane, char *text, size_t room)
{
    int n = snprintf(text, room, "; %.40s %s %llu in %llu out %llu errors", lane->peer->id,
                     py_socket_path_name(lane->path), (unsigned long long)lane->bytes_in,
                     (unsigned long long)lane->bytes_out, (unsigned long long)lane->errors);

    if (n < 0 || (size_t)n >= room) {
        text[0] = '\0'; /* only whole ones */
        return 0;
    }
    return n;
}

uint32_t py_socket_data_health(struct py_socket_data *data, char *text_out, size_t room)
{
    struct data_sum sum;
    int at;

    data_sum(data, &sum);
    at = snprintf(text_out, room, "data peers: %llu shm, %llu unix, %llu tcp, %llu not connected",
                  (unsigned long long)sum.peers[PY_SOCKET_PATH_SHM],
                  (unsigned long long)sum.peers[PY_SOCKET_PATH_UNIX],
                  (unsigned long long)sum.peers[PY_SOCKET_PATH_TCP],
                  (unsigned long long)sum.peers[PY_SOCKET_PATH_NONE]);
    if (data->parent == NULL || at < 0 || (size_t)at >= room) {
        return KVL_HEALTH_DOWN;
    }
    pthread_mutex_lock(&data->lock);
    for (struct kvl_channel *channel = data->channels; channel != NULL; channel = channel->next) {
        pthread_mutex_lock(&channel->lock);
        for (const struct py_socket_lane *lane = channel->lanes; lane != NULL; lane = lane->next) {
            at += data_print_lane(lane, text_out + at, room - (size_t)at);
        }
        pthread_mutex_unlock(&channel->lock);
    }
    pthread_mutex_unlock(&data->lock);
    return KVL_HEALTH_OK;
}

const struct kvl_channel_ops py_socket_channel_ops = {
    .size = sizeof(struct kvl_channel_ops),
    .open = py_socket_channel_open,
    .close = py_socket_channel_close,
    .url = py_socket_channel_url,
    .connect = py_socket_channel_connect,
    .is_connected = py_socket_channel_is_connected,
    .send_side_message = py_socket_channel_side,
    .indexes = py_socket_channel_indexes,
    .submit = py_socket_channel_submit,
    .wait = py_socket_channel_wait,
    .cancel = py_socket_channel_cancel,
    .poll = py_socket_channel_poll,
    .event_fd = py_socket_channel_event_fd,
};
