/* SPDX-License-Identifier: Apache-2.0 */
/* Who is let in to the data plane, and what a connection may do then: a peer of bare bytes. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "peer_rig.h"
#include "py_socket_core.h"
#include "py_socket_peers.h"

struct pair {
    struct rig_peer a;
    struct rig_peer b;
};

static const struct kvl_channel_ops *ops(void)
{
    return kvlane_backend_v1()->ops->channels;
}

static int setup(void **state)
{
    struct pair *pair = calloc(1, sizeof(*pair));
    const struct rig_setup tcp = {.pairs = rig_tcp};

    rig_start(&pair->a, &tcp);
    rig_start(&pair->b, &tcp);
    rig_fill(pair->b.buffer, RIG_BYTES, 2);
    rig_join(&pair->a, &pair->b);
    *state = pair;
    return 0;
}

static int teardown(void **state)
{
    struct pair *pair = *state;

    rig_stop(&pair->a);
    rig_stop(&pair->b);
    free(pair);
    return 0;
}

/* A connection to the data plane of b. */
static int dial(const struct pair *pair)
{
    const char *tcp = pair->b.channel->offer.tcp;
    struct sockaddr_in addr = {.sin_family = AF_INET,
                               .sin_port = htons((uint16_t)atoi(strrchr(tcp, ':') + 1)),
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const struct timeval limit = {.tv_sec = 20};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)), 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)&addr, sizeof(addr)), 0);
    return fd;
}

static struct py_socket_greeting true_hello(const struct pair *pair)
{
    struct py_socket_peers *peers = py_socket_link_peers(pair->a.channel->link);
    struct py_socket_peer *peer = py_socket_peers_find(peers, pair->b.url);
    struct py_socket_greeting hello = {
        .version = 1,
        .min_version = 1,
        .flags = PY_SOCKET_READABLE | PY_SOCKET_WRITABLE,
        .incarnation = pair->a.channel->incarnation,
        .expected = pair->b.channel->incarnation,
        .buffer_bytes = RIG_BYTES,
        .align_bytes = RIG_PAGE,
    };

    assert_non_null(peer);
    py_socket_peers_token(peers, peer, hello.token);
    py_socket_peer_release(peer);
    return hello;
}

static void put(int fd, const struct py_socket_frame *frame, const void *rest, size_t bytes)
{
    uint8_t out[PY_SOCKET_FRAME_BYTES + 256];

    py_socket_frame_encode(frame, out);
    memcpy(out + PY_SOCKET_FRAME_BYTES, rest, bytes);
    assert_int_equal(send(fd, out, PY_SOCKET_FRAME_BYTES + bytes, MSG_NOSIGNAL),
                     PY_SOCKET_FRAME_BYTES + bytes);
}

static void put_hello(int fd, const struct py_socket_greeting *hello)
{
    const struct py_socket_frame frame = {
        .type = PY_SOCKET_HELLO, .count = 1, .table = PY_SOCKET_HELLO_BYTES};
    uint8_t table[PY_SOCKET_HELLO_BYTES];

    py_socket_greeting_encode(hello, table);
    put(fd, &frame, table, sizeof(table));
}

/* The next frame; its table and payload are skipped. @return 0; -1 the connection has ended. */
static int get(int fd, struct py_socket_frame *frame)
{
    uint8_t head[PY_SOCKET_FRAME_BYTES];
    uint8_t byte;

    if (recv(fd, head, sizeof(head), MSG_WAITALL) != sizeof(head)) {
        return -1;
    }
    assert_int_equal(py_socket_frame_decode(head, frame), 0);
    for (uint64_t i = 0; i < frame->table + frame->payload; i++) {
        assert_int_equal(recv(fd, &byte, 1, MSG_WAITALL), 1);
    }
    return 0;
}

static void assert_ends(int fd, int status)
{
    struct py_socket_frame frame;
    int r = get(fd, &frame);

    if (r == 0) {
        assert_int_equal(frame.type, PY_SOCKET_ERROR);
        assert_int_equal(frame.status, status);
        r = get(fd, &frame);
    }
    assert_int_equal(r, -1);
    close(fd);
}

/* The connections of the real peer go on. */
static void assert_works(struct pair *pair)
{
    const struct kvl_span span = {.addr = pair->a.buffer, .length = 3 * RIG_PAGE};
    uint64_t index = 11;

    assert_int_equal(rig_move(&pair->a, KVL_TRANSFER_READ, pair->b.url, &span, &index, 1, NULL), 0);
    assert_memory_equal(span.addr, pair->b.buffer + index * RIG_PAGE, span.length);
}

static int dial_in(struct pair *pair)
{
    const struct py_socket_greeting hello = true_hello(pair);
    struct py_socket_frame frame;
    int fd = dial(pair);

    put_hello(fd, &hello);
    assert_int_equal(get(fd, &frame), 0);
    assert_int_equal(frame.type, PY_SOCKET_WELCOME);
    return fd;
}

/* ---- who is let in ---- */

static void test_wrong_token(void **state)
{
    struct pair *pair = *state;
    struct py_socket_greeting hello = true_hello(pair);
    int fd = dial(pair);

    hello.token[3] ^= 1;
    put_hello(fd, &hello);
    assert_ends(fd, -EACCES);
    assert_works(pair);
}

static void test_wrong_incarnations(void **state)
{
    struct pair *pair = *state;
    struct py_socket_greeting hello = true_hello(pair);
    int fd = dial(pair);

    hello.expected++;
    put_hello(fd, &hello);
    assert_ends(fd, -ESTALE);
    hello = true_hello(pair);
    hello.incarnation++;
    fd = dial(pair);
    put_hello(fd, &hello);
    assert_ends(fd, -ESTALE);
    assert_works(pair);
}

static void test_wrong_version(void **state)
{
    struct pair *pair = *state;
    struct py_socket_greeting hello = true_hello(pair);
    int fd = dial(pair);

    hello.version = 9;
    hello.min_version = 8;
    put_hello(fd, &hello);
    assert_ends(fd, -EPROTO);
    assert_works(pair);
}

/* The token of a peer that was replaced opens nothing any more. */
static void test_token_of_an_old_incarnation(void **state)
{
    struct pair *pair = *state;
    const struct py_socket_greeting old = true_hello(pair);
    char url[KVL_CHANNEL_URL_ROOM];
    const struct rig_setup again = {.pairs = rig_tcp, .url = url};
    int fd;

    snprintf(url, sizeof(url), "%s", pair->a.url);
    rig_stop(&pair->a);
    rig_start(&pair->a, &again);
    rig_join(&pair->a, &pair->b);
    fd = dial(pair);
    put_hello(fd, &old);
    assert_ends(fd, -EACCES);
    assert_works(pair);
}

static void test_no_hello(void **state)
{
    struct pair *pair = *state;
    const struct py_socket_frame frame = {.type = PY_SOCKET_READ, .count = 1, .table = 16};
    const uint8_t range[16] = {[8] = 1};
    int fd = dial(pair);

    put(fd, &frame, range, sizeof(range));
    assert_ends(fd, -EPROTO);
    fd = dial(pair);
    assert_int_equal(send(fd, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 35, MSG_NOSIGNAL), 35);
    assert_ends(fd, -EPROTO);
    assert_works(pair);
}

/* More than the door holds: those beyond are turned away, and the peers that are in go on. */
static void test_many_strangers(void **state)
{
    struct pair *pair = *state;
    int fds[100];

    for (int i = 0; i < 100; i++) {
        fds[i] = dial(pair);
    }
    assert_works(pair);
    for (int i = 0; i < 100; i++) {
        close(fds[i]);
    }
    close(dial_in(pair));
}

/* ---- what it may do ---- */

static void put_ranges(int fd, uint8_t type, uint64_t id, uint64_t offset, uint64_t length,
                       uint64_t payload)
{
    const struct py_socket_frame frame = {
        .type = type, .id = id, .count = 1, .table = PY_SOCKET_RANGE_BYTES, .payload = payload};
    const struct py_socket_range range = {.offset = offset, .length = length};
    uint8_t table[PY_SOCKET_RANGE_BYTES];

    py_socket_range_encode(&range, table);
    put(fd, &frame, table, sizeof(table));
}

static void test_out_of_range(void **state)
{
    struct pair *pair = *state;
    static const struct py_socket_range bad[] = {{RIG_BYTES, 1},     {RIG_BYTES - 1, 2},
                                                 {0, RIG_BYTES + 1}, {UINT64_MAX, 2},
                                                 {1, UINT64_MAX},    {0, 0}};
    struct py_socket_frame frame;

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        int fd = dial_in(pair);

        put_ranges(fd, PY_SOCKET_READ, 1, 0, 64, 0);
        assert_int_equal(get(fd, &frame), 0);
        assert_int_equal(frame.payload, 64);
        put_ranges(fd, PY_SOCKET_READ, 2, bad[i].offset, bad[i].length, 0);
        assert_ends(fd, -ERANGE);
        fd = dial_in(pair);
        put_ranges(fd, PY_SOCKET_WRITE, 2, bad[i].offset, bad[i].length, 2);
        assert_ends(fd, -ERANGE);
        fd = dial_in(pair);
        put_ranges(fd, PY_SOCKET_SEND, 2, bad[i].offset, bad[i].length, 0);
        assert_ends(fd, -ERANGE);
    }
    assert_works(pair);
    assert_int_equal(rig_is(pair->b.buffer, RIG_BYTES, 2), 1);
}

static void test_answers_to_nothing(void **state)
{
    struct pair *pair = *state;
    const struct py_socket_frame frame = {
        .type = PY_SOCKET_READ, .flags = PY_SOCKET_REPLY, .id = 77, .count = 1, .payload = 5};
    int fd = dial_in(pair);

    put(fd, &frame, "bytes", 5);
    assert_ends(fd, -EPROTO);
    assert_works(pair);
}

/* Asks and asks and takes no answer: its connection ends before our memory is full. */
static void test_never_takes_answers(void **state)
{
    struct pair *pair = *state;
    const struct py_socket_frame frame = {
        .type = PY_SOCKET_READ, .id = 1, .count = 1, .table = PY_SOCKET_RANGE_BYTES};
    const struct py_socket_range range = {.offset = 0, .length = 16u << 20};
    uint8_t out[PY_SOCKET_FRAME_BYTES + PY_SOCKET_RANGE_BYTES];
    int fd = dial_in(pair);
    int sent = 0;

    py_socket_frame_encode(&frame, out);
    py_socket_range_encode(&range, out + PY_SOCKET_FRAME_BYTES);
    while (sent < 100000 && send(fd, out, sizeof(out), MSG_NOSIGNAL) == (ssize_t)sizeof(out)) {
        sent++;
    }
    assert_true(sent < 100000);
    close(fd);
    assert_works(pair);
}

/* A peer without that role is asked in vain. */
static void test_roles(void **state)
{
    struct rig_peer sender = {0};
    struct rig_peer receiver = {0};
    const struct rig_setup as_sender = {.pairs = rig_tcp, .role = KVL_CHANNEL_SENDER};
    const struct rig_setup as_receiver = {.role = KVL_CHANNEL_RECEIVER};
    struct kvl_span span = {.length = RIG_PAGE};
    uint64_t index = 1;

    (void)state;
    rig_start(&sender, &as_sender);
    rig_start(&receiver, &as_receiver);
    rig_join(&sender, &receiver);
    span.addr = sender.buffer;
    rig_fill(sender.buffer, RIG_PAGE, 3);
    assert_int_equal(rig_move(&sender, KVL_TRANSFER_READ, receiver.url, &span, &index, 1, NULL),
                     -EINVAL);
    assert_int_equal(rig_move(&sender, KVL_TRANSFER_WRITE, receiver.url, &span, &index, 1, NULL),
                     0);
    assert_int_equal(rig_is(receiver.buffer + RIG_PAGE, RIG_PAGE, 3), 1);
    span.addr = receiver.buffer;
    index = 0;
    assert_int_equal(rig_move(&receiver, KVL_TRANSFER_WRITE, sender.url, &span, &index, 1, NULL),
                     -EINVAL);
    assert_int_equal(rig_move(&receiver, KVL_TRANSFER_READ, sender.url, &span, &index, 1, NULL), 0);
    assert_int_equal(rig_is(receiver.buffer, RIG_PAGE, 3), 1);
    rig_stop(&sender);
    rig_stop(&receiver);
}

/* ---- the slots of a channel ---- */

static void test_indexes(void **state)
{
    struct pair *pair = *state;
    struct kvl_span spans[2] = {{pair->a.buffer, 1}, {pair->a.buffer + 5 * RIG_PAGE, RIG_PAGE * 2}};
    uint64_t indexes[2] = {9, 9};

    assert_int_equal(ops()->indexes(pair->a.channel, spans, 2, indexes), 0);
    assert_int_equal(indexes[0], 0);
    assert_int_equal(indexes[1], 5);
    spans[0].addr = pair->a.buffer + 1;
    indexes[1] = 9;
    assert_int_equal(ops()->indexes(pair->a.channel, spans, 2, indexes), -EINVAL);
    assert_int_equal(indexes[1], 9);
    spans[0] = (struct kvl_span){pair->a.buffer + RIG_BYTES - RIG_PAGE, RIG_PAGE + 1};
    assert_int_equal(ops()->indexes(pair->a.channel, spans, 1, indexes), -EINVAL);
}

static void test_bad_submits(void **state)
{
    struct pair *pair = *state;
    struct kvl_span span = {pair->a.buffer, 10};
    uint8_t elsewhere[16];
    uint64_t index = 0;
    uint64_t op = 5;

    assert_int_equal(
        rig_submit(&pair->a, KVL_TRANSFER_READ, "127.0.0.1:1", &span, &index, 1, KVL_NEVER, &op),
        -ENOTCONN);
    assert_int_equal(
        rig_submit(&pair->a, KVL_TRANSFER_READ, pair->b.url, &span, NULL, 1, KVL_NEVER, &op),
        -EINVAL);
    assert_int_equal(
        rig_submit(&pair->a, KVL_TRANSFER_READ, pair->b.url, &span, &index, 0, KVL_NEVER, &op),
        -EINVAL);
    assert_int_equal(rig_submit(&pair->a, 5, pair->b.url, &span, &index, 1, KVL_NEVER, &op),
                     -EINVAL);
    span = (struct kvl_span){elsewhere, 10};
    assert_int_equal(
        rig_submit(&pair->a, KVL_TRANSFER_READ, pair->b.url, &span, &index, 1, KVL_NEVER, &op),
        -EINVAL);
    assert_int_equal(op, 5);
    assert_int_equal(ops()->wait(pair->a.channel, 12345, rig_soon(), NULL), -EINVAL);
    ops()->cancel(pair->a.channel, 12345);
    assert_works(pair);
}

/* Ends of operations by poll, and the descriptor that tells of them. */
static void test_poll(void **state)
{
    struct pair *pair = *state;
    int fd = ops()->event_fd(pair->a.channel);
    struct kvl_channel_done done[8];
    uint64_t seen = 0;
    uint64_t until = rig_soon();

    assert_true(fd >= 0);
    assert_int_equal(ops()->event_fd(pair->a.channel), fd);
    for (uint64_t i = 0; i < 3; i++) {
        const struct kvl_span span = {pair->a.buffer + i * RIG_PAGE, RIG_PAGE};
        const struct kvl_transfer transfer = {.size = sizeof(transfer),
                                              .kind = KVL_TRANSFER_READ,
                                              .peer_id = pair->b.url,
                                              .objects = &span,
                                              .remote_indexes = &i,
                                              .count = 1,
                                              .deadline_ms = KVL_NEVER,
                                              .tag = 100 + i};
        uint64_t op;

        assert_int_equal(ops()->submit(pair->a.channel, &transfer, &op), 0);
    }
    while (seen != 7) {
        struct pollfd pollfd = {.fd = fd, .events = POLLIN};
        int n;

        assert_int_equal(poll(&pollfd, 1, 20000), 1);
        n = ops()->poll(pair->a.channel, done, 8);
        for (int i = 0; i < n; i++) {
            assert_int_equal(done[i].status, 0);
            assert_int_equal(done[i].moved, 1);
            seen |= 1u << (done[i].tag - 100);
            assert_int_equal(ops()->wait(pair->a.channel, done[i].op, 0, NULL), -EINVAL);
        }
        assert_true(rig_in(0) < until);
    }
    {
        struct pollfd pollfd = {.fd = fd, .events = POLLIN};

        assert_int_equal(ops()->poll(pair->a.channel, done, 8), 0);
        assert_int_equal(poll(&pollfd, 1, 0), 0);
    }
}

/* A handshake as an operation, and one that nobody answers. */
static void test_connect_async(void **state)
{
    struct rig_peer c = {0};
    const struct rig_setup async = {.pairs = rig_tcp, .flags = KVL_CHANNEL_ASYNC};
    struct pair *pair = *state;
    struct kvl_channel_peer peer = {
        .size = sizeof(peer), .with_side_message = 1, .peer_init_url = pair->b.url};
    struct kvl_channel_peer nobody = {.size = sizeof(nobody), .peer_init_url = "127.0.0.1:9"};
    struct kvl_channel_done done = {.status = 1};
    uint64_t op;
    uint64_t lost;

    rig_start(&c, &async);
    assert_int_equal(ops()->connect(c.channel, &peer, rig_soon(), &op), 0);
    assert_int_equal(ops()->connect(c.channel, &nobody, rig_in(50), &lost), 0);
    while (ops()->poll(c.channel, &done, 1) == 0) {
        struct pollfd pollfd = {.fd = ops()->event_fd(c.channel), .events = POLLIN};

        assert_int_equal(poll(&pollfd, 1, 20000), 1);
    }
    assert_int_equal(done.op, op);
    assert_int_equal(done.status, 0);
    assert_string_equal(peer.side_reply, "127.0.0.1:1");
    assert_int_equal(ops()->is_connected(c.channel, pair->b.url), 1);
    assert_int_equal(ops()->wait(c.channel, lost, rig_soon(), NULL), -ETIMEDOUT);
    peer.peer_init_url = pair->a.url; /* who waits drives the handshake */
    assert_int_equal(ops()->connect(c.channel, &peer, rig_soon(), &op), 0);
    assert_int_equal(ops()->wait(c.channel, op, rig_soon(), NULL), 0);
    assert_int_equal(ops()->is_connected(c.channel, pair->a.url), 1);
    rig_stop(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_wrong_token, setup, teardown),
        cmocka_unit_test_setup_teardown(test_wrong_incarnations, setup, teardown),
        cmocka_unit_test_setup_teardown(test_wrong_version, setup, teardown),
        cmocka_unit_test_setup_teardown(test_token_of_an_old_incarnation, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_hello, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many_strangers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_out_of_range, setup, teardown),
        cmocka_unit_test_setup_teardown(test_answers_to_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_never_takes_answers, setup, teardown),
        cmocka_unit_test(test_roles),
        cmocka_unit_test_setup_teardown(test_indexes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bad_submits, setup, teardown),
        cmocka_unit_test_setup_teardown(test_poll, setup, teardown),
        cmocka_unit_test_setup_teardown(test_connect_async, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
