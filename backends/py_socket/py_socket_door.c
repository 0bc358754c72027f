/* SPDX-License-Identifier: Apache-2.0 */
/* How data connections begin: listening, dialing, HELLO and WELCOME. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "py_socket_core.h"
#include "py_socket_peers.h"
#include "py_socket_url.h"

/* Connections whose peer is not known yet: so many at a time, and for so long. */
#define STRANGERS_MAX 64u
#define GREET_MS 5000u
/* Until a door is tried again that found no descriptor free. */
#define PAUSE_MS 100u
#define BACKLOG 128

/* ---- addresses ---- */

static socklen_t door_unix_addr(const char *name, struct sockaddr_un *addr_out)
{
    size_t length = strnlen(name, sizeof(addr_out->sun_path) - 1);

    memset(addr_out, 0, sizeof(*addr_out));
    addr_out->sun_family = AF_UNIX;
    memcpy(addr_out->sun_path + 1, name, length); /* behind a zero byte: no file */
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + length);
}

static bool door_same_user(int fd)
{
    struct ucred cred;
    socklen_t size = sizeof(cred);

    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &size) == 0 && cred.uid == geteuid();
}

void py_socket_lane_resolve(const struct py_socket_peer *peer, struct kvl_sock_addr *addr_out)
{
    struct kvl_sock_name name;
    size_t count = 0;

    addr_out->length = 0;
    if (peer->offer.tcp[0] != '\0' && kvl_sock_parse(peer->offer.tcp, &name) == 0 &&
        !name.is_unix && kvl_sock_resolve(&name, 0, addr_out, 1, &count) < 0) {
        addr_out->length = 0;
    }
}

/* ---- listening ---- */

static void door_event(struct py_socket_source *source, uint32_t events)
{
    struct py_socket_door *door = (struct py_socket_door *)(void *)source;
    struct kvl_channel *channel = door->channel;
    uint64_t now = channel->host->now_ms(channel->host);
    struct py_socket_conn *conn;
    int fd = accept4(door->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    (void)events;
    if (fd < 0) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            pthread_mutex_lock(&channel->lock);
            door->paused = true;
            pthread_mutex_unlock(&channel->lock);
            py_socket_loop_modify(door->loop, door->fd, 0, &door->source);
            py_socket_timer_at(&channel->timer, now + PAUSE_MS);
        }
        return;
    }
    if (door->is_unix && !door_same_user(fd)) {
        close(fd);
        return;
    }
    pthread_mutex_lock(&channel->lock);
    if (channel->strangers >= STRANGERS_MAX || channel->closing) {
        close(fd);
    } else if (py_socket_conn_create(channel, fd, door->is_unix, false, &conn) == 0) {
        channel->strangers++;
        conn->hello_by_ms = now + GREET_MS;
        conn->events = EPOLLIN;
        py_socket_timer_at(&channel->timer, conn->hello_by_ms);
        if (py_socket_loop_add(conn->loop, fd, EPOLLIN, &conn->source) < 0) {
            py_socket_conn_drop(conn);
        }
    }
    pthread_mutex_unlock(&channel->lock);
}

static int door_open_fd(struct kvl_channel *channel, struct py_socket_door *door, int take_fd,
                        bool is_unix)
{
    int r;

    door->source.event = door_event;
    door->channel = channel;
    door->fd = take_fd;
    door->is_unix = is_unix;
    r = py_socket_loop_add(&channel->data->loops.loop[0], take_fd, EPOLLIN, &door->source);
    if (r < 0) {
        close(take_fd);
        return r;
    }
    door->loop = &channel->data->loops.loop[0];
    return 0;
}

static int door_open_unix(struct kvl_channel *channel)
{
    struct sockaddr_un addr;
    uint64_t random[2];
    socklen_t length;
    int fd;
    int r = py_socket_random(random, sizeof(random));

    if (r < 0) {
        return r;
    }
    snprintf(channel->offer.shm_name, sizeof(channel->offer.shm_name), "kvlane-%016llx%016llx",
             (unsigned long long)random[0], (unsigned long long)random[1]);
    length = door_unix_addr(channel->offer.shm_name, &addr);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return -errno;
    }
    if (bind(fd, (const struct sockaddr *)&addr, length) < 0 || listen(fd, BACKLOG) < 0) {
        r = -errno;
        close(fd);
        return r;
    }
    return door_open_fd(channel, &channel->doors[0], fd, true);
}

static int door_open_tcp(struct kvl_channel *channel, const struct kvl_sock_name *name,
                         struct kvl_err *err)
{
    const struct py_socket_options *options = channel->options;
    struct kvl_sock_addr addr;
    size_t count = 0;
    int fd;
    int r = kvl_sock_resolve(name, 1, &addr, 1, &count);

    if (r < 0) {
        return py_socket_err(err, r, "the host of peer_init_url does not resolve");
    }
    kvl_sock_set_port(&addr, options->data_port);
    r = py_socket_options_may_bind(options, "peer_init_url", &addr, err);
    if (r < 0) {
        return r;
    }
    r = kvl_sock_listen(&addr, BACKLOG, &fd);
    if (r < 0) {
        return py_socket_err(err, r, "cannot listen for data at port %u of '%s': %s",
                             options->data_port, name->host, strerror(-r));
    }
    r = kvl_sock_local(fd, &addr);
    if (r == 0) {
        r = py_socket_url_print(options->advertise[0] != '\0' ? options->advertise : name->host,
                                kvl_sock_port(&addr), channel->offer.tcp);
    }
    if (r < 0) {
        close(fd);
        return py_socket_err(err, r, "cannot say where data is listened for");
    }
    return door_open_fd(channel, &channel->doors[1], fd, false);
}

int py_socket_doors_open(struct kvl_channel *channel, const char *peer_init_url,
                         struct kvl_err *err)
{
    struct kvl_sock_name name;
    int r;

    if (peer_init_url == NULL) {
        return 0; /* only initiates, and so dials itself */
    }
    r = py_socket_url_parse(peer_init_url, &name);
    if (r < 0) {
        return py_socket_err(err, r, "peer_init_url '%s' is not host:port", peer_init_url);
    }
    if (channel->options->shm && door_open_unix(channel) < 0) {
        channel->offer.shm_name[0] = '\0'; /* TCP reaches this host too */
    }
    return door_open_tcp(channel, &name, err);
}

void py_socket_doors_close(struct kvl_channel *channel, const struct py_socket_loop *loop)
{
    for (int i = 0; i < 2; i++) {
        struct py_socket_door *door = &channel->doors[i];

        if (door->loop == loop) {
            py_socket_loop_remove(door->loop, door->fd);
            close(door->fd);
            door->loop = NULL;
        }
    }
}

uint64_t py_socket_doors_tick(struct kvl_channel *channel, uint64_t now_ms)
{
    uint64_t next = KVL_NEVER;

    for (int i = 0; i < 2; i++) {
        struct py_socket_door *door = &channel->doors[i];

        if (door->paused && door->loop != NULL) {
            door->paused = false;
            py_socket_loop_modify(door->loop, door->fd, EPOLLIN, &door->source);
        }
    }
    for (struct py_socket_conn *conn = channel->conns; conn != NULL; conn = conn->next) {
        if (conn->opened || conn->dead) {
            continue;
        }
        if (conn->hello_by_ms <= now_ms) {
            py_socket_conn_kill(conn, -ETIMEDOUT);
        } else if (conn->hello_by_ms < next) {
            next = conn->hello_by_ms;
        }
    }
    return next;
}

/* ---- dialing ---- */

static int door_dial_one(struct py_socket_lane *lane, const struct sockaddr *addr, socklen_t length,
                         bool is_unix)
{
    struct kvl_channel *channel = lane->channel;
    struct py_socket_conn *conn;
    int fd = socket(addr->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int r;

    if (fd < 0) {
        return -errno;
    }
    if (connect(fd, addr, length) < 0 && errno != EINPROGRESS) {
        r = -errno;
        close(fd);
        return r;
    }
    r = py_socket_conn_create(channel, fd, is_unix, true, &conn);
    if (r < 0) {
        return r;
    }
    conn->hello_by_ms = channel->host->now_ms(channel->host) + GREET_MS;
    conn->events = EPOLLOUT;
    r = py_socket_loop_add(conn->loop, fd, EPOLLOUT, &conn->source);
    if (r < 0) {
        py_socket_conn_drop(conn);
        return r;
    }
    conn->lane = lane;
    lane->refs++;
    lane->conns[lane->conn_count++] = conn;
    py_socket_timer_at(&channel->timer, conn->hello_by_ms);
    return 0;
}

static int door_dial_unix(struct py_socket_lane *lane, uint32_t count)
{
    struct sockaddr_un addr;
    socklen_t length = door_unix_addr(lane->peer->offer.shm_name, &addr);
    int r = 0;

    for (uint32_t i = 0; i < count && r == 0; i++) {
        r = door_dial_one(lane, (const struct sockaddr *)&addr, length, true);
    }
    return r;
}

static int door_dial_tcp(struct py_socket_lane *lane)
{
    int r = lane->tcp.length == 0 ? -ENOTCONN : 0;

    for (uint32_t i = 0; i < lane->channel->options->streams && r == 0; i++) {
        r = door_dial_one(lane, (const struct sockaddr *)&lane->tcp.sa, lane->tcp.length, false);
    }
    return lane->conn_count > 0 ? 0 : r;
}

int py_socket_lane_dial(struct py_socket_lane *lane)
{
    const struct py_socket_offer *theirs = &lane->peer->offer;
    const struct py_socket_offer *own = &lane->channel->offer;
    int r;

    if (lane->state != PY_SOCKET_LANE_IDLE) {
        return lane->state == PY_SOCKET_LANE_GONE ? -ENOTCONN : 0;
    }
    lane->state = PY_SOCKET_LANE_DIALING;
    if (lane->channel->options->shm && theirs->shm_name[0] != '\0' && own->boot_id[0] != '\0' &&
        strcmp(theirs->boot_id, own->boot_id) == 0 && door_dial_unix(lane, 1) == 0) {
        return 0;
    }
    lane->with_tcp = true;
    r = door_dial_tcp(lane);
    if (r < 0) {
        lane->state = PY_SOCKET_LANE_IDLE;
    }
    return r;
}

void py_socket_lane_dial_failed(struct py_socket_lane *lane, struct py_socket_conn *conn,
                                int32_t status)
{
    if (lane->state != PY_SOCKET_LANE_DIALING || conn->opened || !conn->is_unix || lane->with_tcp ||
        lane->channel->closing) {
        return;
    }
    lane->with_tcp = true;
    kvl_info(lane->channel->host->log,
             "py_socket: the Unix socket of '%s' cannot be used (%s), going on with TCP",
             lane->peer->id, strerror(-status));
    (void)door_dial_tcp(lane);
}

/* ---- HELLO and WELCOME ---- */

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
    if (conn->is_unix && !door_same_user(conn->fd)) {
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
        (void)door_dial_unix(lane, streams - 1);
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
