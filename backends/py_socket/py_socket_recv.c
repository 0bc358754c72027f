/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "py_socket_core.h"

/* A table above this is not kept for the next frame. */
#define TABLE_KEEP (64u * 1024)
/* Where payload goes that nobody wants any more. */
#define DROP_BYTES (64u * 1024)

/* @return 1 went on; 0 nothing there; -errno. */
static int recv_result(ssize_t n)
{
    if (n > 0) {
        return 1;
    }
    if (n == 0) {
        return -ECONNRESET;
    }
    if (errno == EINTR) {
        return 1;
    }
    return errno == EAGAIN ? 0 : -errno;
}

/* Descriptors that came along; more than a HELLO has are closed at once. */
static void recv_take_fds(struct py_socket_conn *conn, struct msghdr *msg)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c != NULL; c = CMSG_NXTHDR(msg, c)) {
        size_t bytes = c->cmsg_len - CMSG_LEN(0);

        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        for (size_t at = 0; at + sizeof(int) <= bytes; at += sizeof(int)) {
            int fd;

            memcpy(&fd, CMSG_DATA(c) + at, sizeof(fd));
            if (conn->fd_count < PY_SOCKET_HELLO_FDS) {
                conn->fds[conn->fd_count++] = fd;
            } else {
                close(fd);
            }
        }
    }
}

/* Head and table of any frame; those of a HELLO may come with descriptors. */
static ssize_t recv_bytes(struct py_socket_conn *conn, void *to, size_t bytes)
{
    char control[CMSG_SPACE(sizeof(int) * PY_SOCKET_HELLO_FDS)] __attribute__((aligned(8)));
    struct iovec iov = {.iov_base = to, .iov_len = bytes};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    ssize_t n;

    if (!conn->is_unix || conn->state == PY_SOCKET_CONN_OPEN) {
        return recv(conn->fd, to, bytes, MSG_DONTWAIT);
    }
    msg.msg_control = control;
    msg.msg_controllen = sizeof(control);
    n = recvmsg(conn->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n > 0) {
        recv_take_fds(conn, &msg);
    }
    return n;
}

/* ---- frames ---- */

static void recv_next(struct py_socket_conn *conn)
{
    conn->phase = PY_SOCKET_HEAD;
    if (conn->table_room > TABLE_KEEP) {
        free(conn->table);
        conn->table = NULL;
        conn->table_room = 0;
    }
}

/* @param wanted  what came is in the memory of an operation that goes on */
static void recv_payload_done(struct py_socket_conn *conn, bool wanted)
{
    struct kvl_channel *channel = conn->channel;
    struct py_socket_part *part = conn->part;
    struct py_socket_lane *lane;

    conn->part = NULL;
    if (part == NULL) {
        if (conn->sink != NULL) {
            py_socket_serve_written(conn);
        }
        return;
    }
    if (part->type == PY_SOCKET_GET && wanted) {
        py_socket_fetch_filled(part);
    }
    pthread_mutex_lock(&channel->lock);
    lane = conn->lane;
    py_socket_part_end(part, conn->frame.status);
    if (lane != NULL) {
        py_socket_lane_pump(lane);
    }
    py_socket_unlock(channel);
}

/* An answer: finds what it answers. */
static int recv_reply(struct py_socket_conn *conn)
{
    struct kvl_channel *channel = conn->channel;
    const struct py_socket_frame *frame = &conn->frame;
    struct py_socket_part *part;
    bool wanted = false;
    int r = 0;

    pthread_mutex_lock(&channel->lock);
    part = conn->slots[frame->id % PY_SOCKET_WINDOW];
    if (part == NULL || part->id != frame->id || part->type != frame->type || part->out != NULL) {
        r = -EPROTO;
    } else if (frame->type == PY_SOCKET_READ &&
               frame->payload != (frame->status == 0 ? part->bytes : 0)) {
        r = -EPROTO;
    } else if (frame->type == PY_SOCKET_LOOKUP || frame->type == PY_SOCKET_GET) {
        wanted = part->op != NULL;
        part->busy = wanted;
        conn->part = part;
    } else if (frame->payload > 0) {
        conn->part = part;
    } else {
        if (frame->type == PY_SOCKET_SEND && part->op != NULL) {
            part->objects = frame->count < part->objects ? frame->count : part->objects;
            part->op->moved = part->objects;
        }
        py_socket_part_end(part, frame->status);
        if (conn->lane != NULL) {
            py_socket_lane_pump(conn->lane);
        }
    }
    py_socket_unlock(channel);
    if (r < 0 || conn->part == NULL || frame->type == PY_SOCKET_READ) {
        return r;
    }
    if (wanted) {
        r = py_socket_fetch_answer(conn, part);
    } else if (frame->type == PY_SOCKET_GET) {
        py_socket_fetch_release(conn);
    }
    if (r == 0 && conn->payload_left == 0) {
        recv_payload_done(conn, wanted);
    }
    return r;
}

static int recv_hello(struct py_socket_conn *conn)
{
    struct py_socket_greeting hello;
    uint8_t expected = conn->dialed ? PY_SOCKET_WELCOME : PY_SOCKET_HELLO;
    int r;

    if (conn->frame.type != expected) {
        return conn->frame.type == PY_SOCKET_ERROR ? -EACCES : -EPROTO;
    }
    r = py_socket_greeting_decode(conn->table, &hello);
    return r < 0 ? r : py_socket_greeted(conn, &hello);
}

/* Head and table are there. */
static int recv_frame(struct py_socket_conn *conn)
{
    int r;

    conn->payload_left = conn->frame.payload;
    if (conn->state != PY_SOCKET_CONN_OPEN) {
        r = recv_hello(conn);
    } else if ((conn->frame.flags & PY_SOCKET_REPLY) != 0) {
        r = recv_reply(conn);
    } else {
        r = py_socket_serve(conn);
    }
    if (r < 0) {
        return r;
    }
    if (conn->payload_left == 0) {
        recv_next(conn);
    } else {
        conn->phase = PY_SOCKET_PAYLOAD;
    }
    return 0;
}

static int recv_head(struct py_socket_conn *conn)
{
    int r = 1;

    if (conn->head_have < PY_SOCKET_FRAME_BYTES) {
        ssize_t n =
            recv_bytes(conn, conn->head + conn->head_have, PY_SOCKET_FRAME_BYTES - conn->head_have);

        r = recv_result(n);
        if (r <= 0 || n < 0) {
            return r;
        }
        conn->head_have += (uint32_t)n;
        if (conn->head_have < PY_SOCKET_FRAME_BYTES) {
            return 1;
        }
    }
    conn->head_have = 0;
    r = py_socket_frame_decode(conn->head, &conn->frame);
    if (r < 0) {
        return r;
    }
    conn->table_have = 0;
    if (conn->frame.table > conn->table_room) {
        uint8_t *table = realloc(conn->table, conn->frame.table);

        if (table == NULL) {
            return -ENOMEM;
        }
        conn->table = table;
        conn->table_room = conn->frame.table;
    }
    if (conn->frame.table > 0) {
        conn->phase = PY_SOCKET_TABLE;
        return 1;
    }
    r = recv_frame(conn);
    return r < 0 ? r : 1;
}

static int recv_table(struct py_socket_conn *conn)
{
    ssize_t n =
        recv_bytes(conn, conn->table + conn->table_have, conn->frame.table - conn->table_have);
    int r = recv_result(n);

    if (r <= 0 || n < 0) {
        return r;
    }
    conn->table_have += (uint32_t)n;
    if (conn->table_have < conn->frame.table) {
        return 1;
    }
    r = recv_frame(conn);
    return r < 0 ? r : 1;
}

/* ---- payload ---- */

/* Says that bytes are about to be written for the part. False: nobody wants them any more. */
static bool recv_claim(struct py_socket_conn *conn)
{
    bool wanted;

    if (conn->part == NULL) {
        return conn->sink != NULL;
    }
    pthread_mutex_lock(&conn->channel->lock);
    wanted = conn->part->op != NULL;
    conn->part->busy = wanted;
    pthread_mutex_unlock(&conn->channel->lock);
    return wanted;
}

static ssize_t recv_drop(struct py_socket_conn *conn)
{
    uint8_t scratch[DROP_BYTES];

    return recv(conn->fd, scratch,
                conn->payload_left < DROP_BYTES ? conn->payload_left : DROP_BYTES, MSG_DONTWAIT);
}

/* Straight to where it belongs; the last read takes the next head along. */
static ssize_t recv_scatter(struct py_socket_conn *conn, uint64_t budget)
{
    struct py_socket_part *part = conn->part;
    struct iovec *from = part != NULL ? part->iov : conn->sink;
    uint32_t *at = part != NULL ? &part->iov_at : &conn->sink_at;
    uint32_t end = part != NULL ? part->iov_count : conn->sink_count;
    struct iovec iov[PY_SOCKET_IOVS + 1];
    struct msghdr msg = {.msg_iov = iov};
    uint64_t room = 0;
    uint32_t count = 0;
    ssize_t n;

    for (uint32_t i = *at; i < end && count < PY_SOCKET_IOVS && room < budget; i++) {
        uint64_t bytes = from[i].iov_len < budget - room ? from[i].iov_len : budget - room;

        iov[count++] = (struct iovec){.iov_base = from[i].iov_base, .iov_len = bytes};
        room += bytes;
    }
    if (room == conn->payload_left) {
        iov[count++] = (struct iovec){.iov_base = conn->head, .iov_len = PY_SOCKET_FRAME_BYTES};
    }
    msg.msg_iovlen = count;
    n = recvmsg(conn->fd, &msg, MSG_DONTWAIT);
    if (n > 0) {
        if ((uint64_t)n > room) {
            conn->head_have = (uint32_t)((uint64_t)n - room);
            n = (ssize_t)room;
        }
        py_socket_iov_advance(from, at, (size_t)n);
    }
    return n;
}

static int recv_payload(struct py_socket_conn *conn, uint64_t *budget)
{
    bool wanted = recv_claim(conn);
    ssize_t n = wanted ? recv_scatter(conn, *budget) : recv_drop(conn);
    int r = recv_result(n);
    bool done = n > 0 && (uint64_t)n == conn->payload_left;

    if (n > 0) {
        conn->payload_left -= (uint64_t)n;
        *budget -= (uint64_t)n < *budget ? (uint64_t)n : *budget;
    }
    if (done) {
        recv_payload_done(conn, wanted);
        recv_next(conn);
        return 1;
    }
    if (wanted && conn->part != NULL) {
        pthread_mutex_lock(&conn->channel->lock);
        py_socket_part_rest(conn->part);
        py_socket_unlock(conn->channel);
    }
    return r;
}

int py_socket_conn_recv(struct py_socket_conn *conn)
{
    uint64_t budget = PY_SOCKET_TURN_BYTES;
    uint64_t before = budget;
    int r = 1;

    while (r > 0 && budget > 0) {
        switch (conn->phase) {
        case PY_SOCKET_HEAD:
            r = recv_head(conn);
            break;
        case PY_SOCKET_TABLE:
            r = recv_table(conn);
            break;
        default:
            r = recv_payload(conn, &budget);
            break;
        }
    }
    if (budget != before) {
        pthread_mutex_lock(&conn->channel->lock);
        if (conn->lane != NULL) {
            conn->lane->bytes_in += before - budget;
        }
        pthread_mutex_unlock(&conn->channel->lock);
    }
    return r < 0 ? r : 0;
}
