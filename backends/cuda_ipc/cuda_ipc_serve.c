/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cuda_ipc_net_parts.h"

/* Requests answered before others get their turn. */
#define TURN 32u

/* ---- leases ---- */

static int conn_grow(struct cuda_ipc_conn *conn)
{
    const uint32_t room = conn->held_room == 0 ? 64 : conn->held_room * 2;
    struct cuda_ipc_held *held;

    if (room > CUDA_IPC_LEASES_MAX) {
        return -EAGAIN;
    }
    held = realloc(conn->held, room * sizeof(*held));
    if (held == NULL) {
        return -ENOMEM;
    }
    for (uint32_t i = conn->held_room; i < room; i++) {
        held[i] = (struct cuda_ipc_held){.next_free = i + 1};
    }
    conn->free_held = conn->held_room;
    conn->held = held;
    conn->held_room = room;
    return 0;
}

/* Notes that the peer holds a chunk, whose reference it takes over. */
static int conn_hold(struct cuda_ipc_conn *conn, struct cuda_ipc_chunk *chunk, uint64_t *lease_out)
{
    struct cuda_ipc_held *held;
    uint32_t index;

    if (conn->free_held == conn->held_room) {
        const int r = conn_grow(conn);

        if (r < 0) {
            return r;
        }
    }
    index = conn->free_held;
    held = &conn->held[index];
    conn->free_held = held->next_free;
    held->chunk = chunk;
    held->generation++;
    conn->held_count++;
    cuda_ipc_net_count(conn->net, CUDA_IPC_NET_LEASES, 1);
    cuda_ipc_net_count(conn->net, CUDA_IPC_NET_LEASED, 1);
    *lease_out = (uint64_t)held->generation << 32 | index;
    return 0;
}

/* @return 0; -EPROTO it does not hold that one. */
static int conn_let_go(struct cuda_ipc_conn *conn, uint64_t lease)
{
    const uint32_t index = (uint32_t)lease;
    struct cuda_ipc_held *held = &conn->held[index];

    if (index >= conn->held_room || held->chunk == NULL || held->generation != lease >> 32) {
        return -EPROTO;
    }
    cuda_ipc_pool_put(conn->net->env.pool, held->chunk);
    held->chunk = NULL;
    held->next_free = conn->free_held;
    conn->free_held = index;
    conn->held_count--;
    cuda_ipc_net_count(conn->net, CUDA_IPC_NET_LEASES, -1);
    return 0;
}

/* ---- life ---- */

static void conn_tell_count(struct cuda_ipc_net *net, int by)
{
    cuda_ipc_net_count(net, CUDA_IPC_NET_CONNS, by);
    pthread_mutex_lock(&net->lock);
    net->open_conns += (uint32_t)by;
    pthread_cond_broadcast(&net->changed);
    pthread_mutex_unlock(&net->lock);
}

void cuda_ipc_conn_close(struct cuda_ipc_conn *conn)
{
    if (conn->port.fd < 0) {
        return;
    }
    for (uint32_t i = 0; i < conn->held_room; i++) {
        if (conn->held[i].chunk != NULL) {
            (void)conn_let_go(conn, (uint64_t)conn->held[i].generation << 32 | i);
        }
    }
    free(conn->held);
    conn->held = NULL;
    conn->held_room = 0;
    conn->free_held = 0;
    conn->generation++;
    cuda_ipc_port_close(&conn->port);
    conn_tell_count(conn->net, -1);
}

/* A socket that is told why and closed. */
static void conn_turn_away(struct cuda_ipc_net *net, int fd, int code)
{
    const size_t length = cuda_ipc_wire_put_refused(code, net->out);

    cuda_ipc_net_count(net, CUDA_IPC_NET_REFUSED, 1);
    (void)send(fd, net->out, length, MSG_NOSIGNAL | MSG_DONTWAIT);
    close(fd);
}

static struct cuda_ipc_conn *conn_free_one(struct cuda_ipc_net *net)
{
    for (uint32_t i = 0; i < net->env.max_peers; i++) {
        if (net->conns[i].port.fd < 0) {
            return &net->conns[i];
        }
    }
    return NULL;
}

void cuda_ipc_conn_accept(struct cuda_ipc_net *net, int listen_fd)
{
    const int fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    struct cuda_ipc_conn *conn = conn_free_one(net);
    uint32_t index;
    int r;

    if (fd < 0) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
            cuda_ipc_net_rest(net);
        }
        return;
    }
    /* other users first: they are not to take the room of those who may come in */
    r = cuda_ipc_self_admits(net->env.self, fd);
    if (r == 0 && (conn == NULL || atomic_load(&net->is_leaving))) {
        r = conn == NULL ? -EUSERS : -ECANCELED;
    }
    if (r < 0) {
        conn_turn_away(net, fd, r);
        return;
    }
    index = (uint32_t)(conn - net->conns);
    if (cuda_ipc_port_open(&conn->port, net->epoll_fd, fd,
                           cuda_ipc_net_tag(false, index, conn->generation)) < 0) {
        return;
    }
    conn->is_greeted = false;
    conn->until_ms = cuda_ipc_net_now(net) + net->env.timeout_ms;
    memset(conn->told, 0, sizeof(conn->told));
    conn_tell_count(net, 1);
}

void cuda_ipc_conn_bye(struct cuda_ipc_conn *conn)
{
    if (conn->port.fd < 0) {
        return;
    }
    if (!conn->is_greeted || cuda_ipc_port_send(&conn->port, conn->net->out,
                                                cuda_ipc_wire_put_bye(conn->net->out), -1) < 0) {
        cuda_ipc_conn_close(conn);
    }
}

uint64_t cuda_ipc_conn_tick(struct cuda_ipc_conn *conn, uint64_t now_ms)
{
    if (conn->port.fd < 0 || conn->is_greeted) {
        return KVL_NEVER;
    }
    if (now_ms >= conn->until_ms) {
        cuda_ipc_net_count(conn->net, CUDA_IPC_NET_TIMEOUTS, 1);
        cuda_ipc_conn_close(conn);
        return KVL_NEVER;
    }
    return conn->until_ms;
}

/* ---- requests; all return 0 or a code that ends the connection ---- */

static int conn_send(struct cuda_ipc_conn *conn, size_t length)
{
    const int r = cuda_ipc_port_send(&conn->port, conn->net->out, length, -1);

    /* who does not take its answers may not ask on */
    cuda_ipc_port_pause(&conn->port, conn->port.first != NULL);
    return r;
}

static int conn_on_hello(struct cuda_ipc_conn *conn, const struct cuda_ipc_wire_message *message)
{
    struct cuda_ipc_net *net = conn->net;
    struct cuda_ipc_wire_hello hello;
    int pidfd = -1;
    int r;

    cuda_ipc_wire_get_hello(message, &hello);
    r = hello.version == CUDA_IPC_WIRE_VERSION
            ? cuda_ipc_self_check(net->env.self, conn->port.fd, &hello, &pidfd)
            : -ENOTSUP;
    if (r < 0) {
        kvl_warn(net->env.host->log, "cuda_ipc: a peer with pid %llu is turned away: %s",
                 (unsigned long long)hello.peer.who.pid,
                 r == -EACCES    ? "it runs as another user"
                 : r == -ENOTSUP ? "it speaks another version"
                                 : "it is not the process that it says it is");
        cuda_ipc_net_count(net, CUDA_IPC_NET_REFUSED, 1);
        (void)conn_send(conn, cuda_ipc_wire_put_refused(r, net->out));
        return r;
    }
    conn->is_greeted = true;
    conn->who = hello.peer.who;
    cuda_ipc_port_watch(&conn->port, pidfd);
    return conn_send(conn, cuda_ipc_wire_put_hello(&net->env.self->hello, net->out));
}

static int conn_on_lookup(struct cuda_ipc_conn *conn, const struct cuda_ipc_wire_message *message)
{
    struct kvl_key keys[CUDA_IPC_WIRE_KEYS_MAX];
    uint8_t found[CUDA_IPC_WIRE_KEYS_MAX] = {0};

    cuda_ipc_wire_get_keys(message, keys);
    for (uint32_t i = 0; i < message->count; i++) {
        if (!conn->net->has_left && cuda_ipc_pool_has(conn->net->env.pool, &keys[i])) {
            found[i] = 1;
        }
    }
    return conn_send(
        conn, cuda_ipc_wire_put_found(message->request, found, message->count, conn->net->out));
}

/* Describes a segment once. @return 0; -ENOENT it cannot be shared; what ends the connection. */
static int conn_tell_segment(struct cuda_ipc_conn *conn, uint32_t number)
{
    struct cuda_ipc_net *net = conn->net;
    struct cuda_ipc_wire_segment segment = {.number = number};
    uint8_t *told = &conn->told[number / 8];
    int fd = -1;

    if ((*told >> number % 8 & 1) != 0) {
        return 0;
    }
    if (net->env.segment(net->env.ctx, number, &segment.share, &fd) < 0) {
        return -ENOENT;
    }
    *told = (uint8_t)(*told | 1u << number % 8);
    return cuda_ipc_port_send(&conn->port, net->out, cuda_ipc_wire_put_segment(&segment, net->out),
                              fd);
}

/* @return as conn_tell_segment, but a key that is not leased is no failure. */
static int conn_lease(struct cuda_ipc_conn *conn, const struct kvl_key *key,
                      struct cuda_ipc_wire_lease *lease_out)
{
    struct cuda_ipc_pool *pool = conn->net->env.pool;
    struct cuda_ipc_chunk *chunk;
    uint64_t lease;
    int r;

    *lease_out = (struct cuda_ipc_wire_lease){.status = -ENOENT};
    if (conn->net->has_left || cuda_ipc_pool_get(pool, key, &chunk) < 0) {
        return 0;
    }
    r = conn_tell_segment(conn, chunk->segment);
    if (r < 0) {
        cuda_ipc_pool_put(pool, chunk);
        return r == -ENOENT ? 0 : r;
    }
    r = conn_hold(conn, chunk, &lease);
    if (r < 0) {
        cuda_ipc_pool_put(pool, chunk);
        lease_out->status = -EAGAIN;
        return 0;
    }
    *lease_out = (struct cuda_ipc_wire_lease){
        .segment = chunk->segment,
        .offset = chunk->offset,
        .bytes = chunk->bytes,
        .attrs = chunk->attrs,
        .flags = chunk->flags,
        .checksum = chunk->checksum,
        .lease = lease,
    };
    return 0;
}

static int conn_on_lease(struct cuda_ipc_conn *conn, const struct cuda_ipc_wire_message *message)
{
    struct cuda_ipc_net *net = conn->net;
    struct kvl_key keys[CUDA_IPC_WIRE_KEYS_MAX];
    int r = 0;

    cuda_ipc_wire_get_keys(message, keys);
    for (uint32_t i = 0; r == 0 && i < message->count; i++) {
        r = conn_lease(conn, &keys[i], &net->leases[i]);
    }
    return r < 0 ? r
                 : conn_send(conn, cuda_ipc_wire_put_leased(message->request, net->leases,
                                                            message->count, net->out));
}

static int conn_on_release(struct cuda_ipc_conn *conn, const struct cuda_ipc_wire_message *message)
{
    uint64_t leases[CUDA_IPC_WIRE_RELEASE_MAX];
    int r = 0;

    cuda_ipc_wire_get_released(message, leases);
    for (uint32_t i = 0; r == 0 && i < message->count; i++) {
        r = conn_let_go(conn, leases[i]);
    }
    return r;
}

static int conn_answer(struct cuda_ipc_conn *conn, const struct cuda_ipc_wire_message *message)
{
    if (conn->is_greeted != (message->type != CUDA_IPC_HELLO)) {
        return -EPROTO;
    }
    switch (message->type) {
    case CUDA_IPC_HELLO:
        return conn_on_hello(conn, message);
    case CUDA_IPC_LOOKUP:
        cuda_ipc_net_count(conn->net, CUDA_IPC_NET_ASKED, 1);
        return conn_on_lookup(conn, message);
    case CUDA_IPC_LEASE:
        cuda_ipc_net_count(conn->net, CUDA_IPC_NET_ASKED, 1);
        return conn_on_lease(conn, message);
    case CUDA_IPC_RELEASE:
        return conn_on_release(conn, message);
    default:
        return -EPROTO; /* an asker says nothing else */
    }
}

/* @return 1 went on; 0 there is nothing; a code that ends the connection. */
static int conn_step(struct cuda_ipc_conn *conn)
{
    struct cuda_ipc_net *net = conn->net;
    struct cuda_ipc_wire_message message;
    size_t length;
    int fd;
    int r = cuda_ipc_port_receive(&conn->port, net->buffer, &length, &fd);

    if (r <= 0) {
        return r;
    }
    if (fd >= 0) {
        close(fd);
        return -EPROTO;
    }
    r = cuda_ipc_wire_decode(net->buffer, length, &message);
    if (r == 0) {
        r = conn_answer(conn, &message);
    }
    return r < 0 ? r : 1;
}

void cuda_ipc_conn_event(struct cuda_ipc_conn *conn, uint32_t events, bool is_pidfd)
{
    int r = is_pidfd ? -ENOTCONN : 1;

    if (r > 0 && (events & EPOLLOUT) != 0) {
        r = cuda_ipc_port_flush(&conn->port);
        r = r == 0 ? 1 : r;
        cuda_ipc_port_pause(&conn->port, conn->port.first != NULL);
    }
    if (r > 0 && conn->port.is_paused && (events & (EPOLLHUP | EPOLLERR | EPOLLRDHUP)) != 0) {
        r = -ENOTCONN;
    }
    for (uint32_t i = 0; i < TURN && r > 0 && !conn->port.is_paused; i++) {
        r = conn_step(conn);
    }
    if (r == -EPROTO || r == -EMSGSIZE) {
        cuda_ipc_net_count(conn->net, CUDA_IPC_NET_PROTOCOL_ERRORS, 1);
        kvl_warn(conn->net->env.host->log,
                 "cuda_ipc: the peer with pid %llu broke the protocol, disconnected",
                 (unsigned long long)conn->who.pid);
    }
    if (r < 0) {
        cuda_ipc_conn_close(conn);
    }
}
