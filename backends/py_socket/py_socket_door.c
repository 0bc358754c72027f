/* SPDX-License-Identifier: Apache-2.0 */
/* How data connections begin: listening and dialing. */
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
#include "setting.h"

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

bool py_socket_same_user(int fd)
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
    if (door->is_unix && !py_socket_same_user(fd)) {
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
        return kvl_fail(err, r, "the host of peer_init_url does not resolve");
    }
    kvl_sock_set_port(&addr, options->data_port);
    r = py_socket_options_may_bind(options, "peer_init_url", &addr, err);
    if (r < 0) {
        return r;
    }
    r = kvl_sock_listen(&addr, BACKLOG, &fd);
    if (r < 0) {
        return kvl_fail(err, r, "cannot listen for data at port %u of '%s': %s", options->data_port,
                        name->host, strerror(-r));
    }
    r = kvl_sock_local(fd, &addr);
    if (r == 0) {
        r = py_socket_url_print(options->advertise[0] != '\0' ? options->advertise : name->host,
                                kvl_sock_port(&addr), channel->offer.tcp);
    }
    if (r < 0) {
        close(fd);
        return kvl_fail(err, r, "cannot say where data is listened for");
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
        return kvl_fail(err, r, "peer_init_url '%s' is not host:port", peer_init_url);
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

int py_socket_lane_dial_unix(struct py_socket_lane *lane, uint32_t count)
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
        strcmp(theirs->boot_id, own->boot_id) == 0 && py_socket_lane_dial_unix(lane, 1) == 0) {
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
