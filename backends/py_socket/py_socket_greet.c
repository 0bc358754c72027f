/* SPDX-License-Identifier: Apache-2.0 */
/* The first words on a data connection: HELLO and WELCOME, and the last. */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "py_socket_core.h"
#include "py_socket_peers.h"

static uint32_t greet_fds(const struct py_socket_conn *conn, int *fds, uint32_t *flags_io)
{
    const struct kvl_channel *channel = conn->channel;
    const struct py_socket_serve_ops *serve = channel->data->serve;
    uint32_t count = 0;

    if (!conn->is_unix || channel->control_fd < 0) {
        return 0;
    }
    if (channel->buffer_fd >= 0) {
        fds[count++] = channel->buffer_fd;
        *flags_io |= PY_SOCKET_HAS_BUFFER;
    }
    fds[count++] = channel->control_fd;
    *flags_io |= PY_SOCKET_HAS_CONTROL;
    if (serve != NULL && serve->store.fd >= 0) {
        fds[count++] = serve->store.fd;
        *flags_io |= PY_SOCKET_HAS_STORE;
    }
    return count;
}

static int greet_send(struct py_socket_conn *conn, const uint8_t *bytes, size_t size,
                      const int *fds, uint32_t count)
{
    char control[CMSG_SPACE(sizeof(int) * PY_SOCKET_HELLO_FDS)] __attribute__((aligned(8)));
    struct iovec iov = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = size};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    ssize_t n;

    if (count > 0) {
        struct cmsghdr *c = (struct cmsghdr *)(void *)control;

        memset(control, 0, sizeof(control));
        msg.msg_control = control;
        msg.msg_controllen = CMSG_SPACE(sizeof(int) * count);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * count);
        memcpy(CMSG_DATA(c), fds, sizeof(int) * count);
    }
    n = sendmsg(conn->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
    /* the first bytes on a new connection always fit */
    return n == (ssize_t)size ? 0 : n < 0 ? -errno : -EIO;
}

static int greet(struct py_socket_conn *conn, struct py_socket_lane *lane, uint8_t type,
                 uint32_t version, uint32_t min_version)
{
    struct kvl_channel *channel = conn->channel;
    const struct py_socket_serve_ops *serve = channel->data->serve;
    const struct py_socket_frame frame = {.type = type, .count = 1, .table = PY_SOCKET_HELLO_BYTES};
    struct py_socket_greeting hello = {.version = version, .min_version = min_version};
    uint8_t bytes[PY_SOCKET_FRAME_BYTES + PY_SOCKET_HELLO_BYTES];
    int fds[PY_SOCKET_HELLO_FDS];
    uint32_t count = greet_fds(conn, fds, &hello.flags);

    hello.flags |= (channel->role & KVL_CHANNEL_SENDER) != 0 ? PY_SOCKET_READABLE : 0;
    hello.flags |= (channel->role & KVL_CHANNEL_RECEIVER) != 0 ? PY_SOCKET_WRITABLE : 0;
    hello.flags |= serve != NULL ? PY_SOCKET_CHUNKS : 0;
    hello.lease_slots = (hello.flags & PY_SOCKET_HAS_CONTROL) != 0 ? PY_SOCKET_LEASES : 0;
    hello.incarnation = channel->incarnation;
    hello.expected = lane->peer->offer.incarnation;
    hello.buffer_bytes = channel->buffer_bytes;
    hello.buffer_offset = channel->buffer_offset;
    hello.align_bytes = channel->align_bytes;
    hello.store_bytes = (hello.flags & PY_SOCKET_HAS_STORE) != 0 ? serve->store.bytes : 0;
    py_socket_peers_token(py_socket_link_peers(channel->link), lane->peer, hello.token);
    py_socket_frame_encode(&frame, bytes);
    py_socket_greeting_encode(&hello, bytes + PY_SOCKET_FRAME_BYTES);
    return greet_send(conn, bytes, sizeof(bytes), fds, count);
}

int py_socket_dialed(struct py_socket_conn *conn)
{
    int r = kvl_sock_error(conn->fd);

    if (r < 0) {
        return r;
    }
    if (conn->is_unix && !py_socket_same_user(conn->fd)) {
        return -EACCES;
    }
    pthread_mutex_lock(&conn->channel->lock);
    if (conn->dead) {
        r = conn->status;
    } else {
        conn->state = PY_SOCKET_CONN_GREETED;
        py_socket_conn_watch(conn, EPOLLIN);
    }
    pthread_mutex_unlock(&conn->channel->lock);
    return r < 0
               ? r
               : greet(conn, conn->lane, PY_SOCKET_HELLO, PY_SOCKET_VERSION, PY_SOCKET_MIN_VERSION);
}

/* Maps one of the descriptors that came along. */
static struct py_socket_map *greet_map(const struct py_socket_conn *conn, int fd, uint64_t offset,
                                       uint64_t bytes, int writable, const char *what)
{
    struct py_socket_map *map = NULL;
    int r = py_socket_map_create(fd, offset, bytes, writable, &map);

    if (r < 0) {
        kvl_warn(conn->channel->host->log,
                 "py_socket: cannot map the %s of a peer on this host: %s, going on by the socket",
                 what, strerror(-r));
    }
    return map;
}

struct greet_maps {
    struct py_socket_map *buffer;
    struct py_socket_map *control;
    struct py_socket_map *store;
};

static void greet_take_maps(struct py_socket_conn *conn, const struct py_socket_greeting *hello,
                            struct greet_maps *maps)
{
    uint32_t flags = hello->flags;
    uint32_t at = 0;
    int fd[PY_SOCKET_HELLO_FDS] = {-1, -1, -1};

    for (uint32_t i = 0; i < PY_SOCKET_HELLO_FDS; i++) {
        if ((flags & (1u << i)) != 0 && at < conn->fd_count) {
            fd[i] = conn->fds[at++];
        }
    }
    /* without the control page nobody could tell that the peer has gone */
    if (fd[1] < 0) {
        return;
    }
    maps->control = greet_map(conn, fd[1], 0, sizeof(struct py_socket_control), 0, "control page");
    if (maps->control == NULL || py_socket_map_control(maps->control) == NULL) {
        return;
    }
    if (fd[0] >= 0 && hello->buffer_bytes > 0) {
        maps->buffer = greet_map(conn, fd[0], hello->buffer_offset, hello->buffer_bytes,
                                 (flags & PY_SOCKET_WRITABLE) != 0, "buffer");
    }
    if (fd[2] >= 0 && hello->store_bytes > 0) {
        maps->store = greet_map(conn, fd[2], 0, hello->store_bytes, 0, "store");
    }
}

/* The lane keeps what it has; the rest goes. With the lock. */
static void greet_set_maps(struct py_socket_lane *lane, struct greet_maps *maps)
{
    if (lane->control_map == NULL && maps->control != NULL &&
        py_socket_map_control(maps->control) != NULL) {
        lane->control_map = maps->control;
        lane->control = py_socket_map_control(maps->control);
        lane->map = maps->buffer;
        lane->store = maps->store;
        *maps = (struct greet_maps){0};
    }
    py_socket_map_release(maps->buffer);
    py_socket_map_release(maps->control);
    py_socket_map_release(maps->store);
}

/* Who is it? @return 0 and a retained peer; -EACCES; -ESTALE. */
static int greet_who(struct py_socket_conn *conn, const struct py_socket_greeting *hello,
                     struct py_socket_peer **peer_out)
{
    struct kvl_channel *channel = conn->channel;
    struct py_socket_peer *peer =
        py_socket_peers_find_token(py_socket_link_peers(channel->link), hello->token);

    if (peer == NULL) {
        return -EACCES;
    }
    if (hello->expected != channel->incarnation || hello->incarnation != peer->offer.incarnation ||
        atomic_load(&peer->gone) != 0) {
        py_socket_peer_release(peer);
        return -ESTALE;
    }
    *peer_out = peer;
    return 0;
}

/* Enters the connection into the lane of its peer. With the lock. */
static int greet_enter(struct py_socket_conn *conn, struct py_socket_peer *peer)
{
    struct py_socket_lane *lane = py_socket_lane_of(conn->channel, peer);

    if (lane == NULL) {
        return -ESTALE;
    }
    if (lane->conn_count == PY_SOCKET_LANE_CONNS) {
        return -EAGAIN;
    }
    conn->channel->strangers--;
    conn->lane = lane;
    lane->refs++;
    lane->conns[lane->conn_count++] = conn;
    return 0;
}

static enum py_socket_path greet_path(const struct py_socket_lane *lane,
                                      const struct py_socket_conn *conn)
{
    return lane->map != NULL ? PY_SOCKET_PATH_SHM
           : conn->is_unix   ? PY_SOCKET_PATH_UNIX
                             : PY_SOCKET_PATH_TCP;
}

/* With the lock. */
static void greet_open(struct py_socket_conn *conn, const struct py_socket_greeting *hello)
{
    struct py_socket_lane *lane = conn->lane;
    uint32_t streams = conn->channel->options->streams;
    bool first = lane->state != PY_SOCKET_LANE_OPEN;

    conn->state = PY_SOCKET_CONN_OPEN;
    conn->opened = true;
    conn->maps_store = conn->is_unix && conn->channel->leases != NULL;
    lane->hello = *hello;
    lane->path = greet_path(lane, conn);
    if (!first) {
        return;
    }
    if (conn->dialed && lane->path == PY_SOCKET_PATH_UNIX && hello->buffer_bytes > 0 &&
        streams > 1) {
        (void)py_socket_lane_dial_unix(lane, streams - 1);
    }
    kvl_info(conn->channel->host->log, "py_socket: data of peer '%s' goes by %s", lane->peer->id,
             py_socket_path_name(lane->path));
    py_socket_lane_opened(lane);
}

int py_socket_greeted(struct py_socket_conn *conn, const struct py_socket_greeting *hello)
{
    struct kvl_channel *channel = conn->channel;
    uint32_t version = py_socket_version_pick(PY_SOCKET_VERSION, PY_SOCKET_MIN_VERSION,
                                              hello->version, hello->min_version);
    struct greet_maps maps = {0};
    struct py_socket_peer *peer = NULL;
    int r = version == 0 ? -EPROTO : greet_who(conn, hello, &peer);

    if (r < 0) {
        kvl_warn(channel->host->log, "py_socket: a data connection was refused: %s", strerror(-r));
        return r;
    }
    greet_take_maps(conn, hello, &maps);
    pthread_mutex_lock(&channel->lock);
    if (conn->dialed) {
        r = conn->lane == NULL || conn->lane->peer != peer ? -EACCES : 0;
    } else {
        r = greet_enter(conn, peer);
    }
    if (r == 0 && !conn->dialed) {
        r = greet(conn, conn->lane, PY_SOCKET_WELCOME, version, version);
    }
    if (r == 0) {
        greet_set_maps(conn->lane, &maps);
        greet_open(conn, hello);
    } else {
        py_socket_map_release(maps.buffer);
        py_socket_map_release(maps.control);
        py_socket_map_release(maps.store);
    }
    py_socket_unlock(channel);
    py_socket_peer_release(peer);
    while (conn->fd_count > 0) {
        close(conn->fds[--conn->fd_count]);
    }
    return r;
}

void py_socket_farewell(struct py_socket_conn *conn, int32_t status)
{
    const struct py_socket_frame frame = {.type = conn->channel->closing ? PY_SOCKET_GOODBYE
                                                                         : PY_SOCKET_ERROR,
                                          .status = conn->channel->closing ? 0 : status};
    uint8_t bytes[PY_SOCKET_FRAME_BYTES];

    /* not into the middle of another frame, and not to one that has gone */
    if (conn->state == PY_SOCKET_CONN_DIALING || conn->out_first != NULL || conn->sending ||
        status == -ECONNRESET || status == -EPIPE) {
        return;
    }
    py_socket_frame_encode(&frame, bytes);
    (void)!send(conn->fd, bytes, sizeof(bytes), MSG_NOSIGNAL | MSG_DONTWAIT);
}
