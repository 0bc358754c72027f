/* SPDX-License-Identifier: Apache-2.0 */
/* Every operation over every path, two channels in one process. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "peer_rig.h"

struct pair {
    struct rig_peer a;
    struct rig_peer b;
    void *memory; /* of b, when it is not the channel's */
};

static const struct kvl_channel_ops *ops(void)
{
    return kvlane_backend_v1()->ops->channels;
}

static int setup_pair(void **state, const char *const *pairs, int plain)
{
    struct pair *pair = calloc(1, sizeof(*pair));
    struct rig_setup setup = {.pairs = pairs};

    rig_start(&pair->a, &setup);
    if (plain) {
        pair->memory = aligned_alloc(4096, RIG_BYTES);
        setup.buffer = pair->memory;
    }
    rig_start(&pair->b, &setup);
    rig_fill(pair->b.buffer, RIG_BYTES, 2);
    rig_fill(pair->a.buffer, RIG_BYTES, 1);
    rig_join(&pair->a, &pair->b);
    *state = pair;
    return 0;
}

static int setup_shm(void **state)
{
    return setup_pair(state, NULL, 0);
}

static int setup_unix(void **state)
{
    return setup_pair(state, NULL, 1);
}

static int setup_tcp(void **state)
{
    return setup_pair(state, rig_tcp, 0);
}

static int teardown(void **state)
{
    struct pair *pair = *state;

    rig_stop(&pair->a);
    rig_stop(&pair->b);
    free(pair->memory);
    free(pair);
    return 0;
}

/* ---- READ and WRITE ---- */

static const uint64_t sizes[] = {1,      63,     4096,    RIG_PAGE - 1,     RIG_PAGE,
                                 100000, 262144, 1048577, 16u * 1024 * 1024};

static void test_read_sizes(void **state)
{
    struct pair *pair = *state;

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        const struct kvl_span span = {.addr = pair->a.buffer + 3 * RIG_PAGE, .length = sizes[i]};
        uint64_t index = i;
        uint32_t moved = 0;

        rig_fill(pair->a.buffer, RIG_BYTES / 2, 1);
        assert_int_equal(
            rig_move(&pair->a, KVL_TRANSFER_READ, pair->b.url, &span, &index, 1, &moved), 0);
        assert_int_equal(moved, 1);
        assert_memory_equal(span.addr, pair->b.buffer + i * RIG_PAGE, sizes[i]);
        /* nothing beside it */
        rig_fill(pair->b.buffer, 0, 2);
        assert_int_equal(rig_is(pair->a.buffer, 3 * RIG_PAGE, 1), 1);
    }
}

static void test_write_sizes(void **state)
{
    struct pair *pair = *state;

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        const struct kvl_span span = {.addr = pair->a.buffer + 3 * RIG_PAGE, .length = sizes[i]};
        uint64_t index = 5;
        uint8_t after = pair->b.buffer[5 * RIG_PAGE + sizes[i]];

        assert_int_equal(
            rig_move(&pair->a, KVL_TRANSFER_WRITE, pair->b.url, &span, &index, 1, NULL), 0);
        assert_memory_equal(span.addr, pair->b.buffer + 5 * RIG_PAGE, sizes[i]);
        assert_int_equal(pair->b.buffer[5 * RIG_PAGE + sizes[i]], after);
        assert_int_equal(rig_is(pair->b.buffer, 5 * RIG_PAGE, 2), 1);
    }
}

#define SCATTERED 200u

static void test_scattered(void **state)
{
    struct pair *pair = *state;
    struct kvl_span spans[SCATTERED];
    uint64_t indexes[SCATTERED];
    uint32_t moved = 0;

    for (uint32_t i = 0; i < SCATTERED; i++) {
        spans[i] = (struct kvl_span){.addr = pair->a.buffer + (size_t)(i * 37 % 1000) * RIG_PAGE,
                                     .length = i % 3 == 0 ? RIG_PAGE : 1 + i * 101};
        indexes[i] = i * 91 % 1000;
    }
    assert_int_equal(
        rig_move(&pair->a, KVL_TRANSFER_READ, pair->b.url, spans, indexes, SCATTERED, &moved), 0);
    assert_int_equal(moved, SCATTERED);
    for (uint32_t i = 0; i < SCATTERED; i++) {
        assert_memory_equal(spans[i].addr, pair->b.buffer + indexes[i] * RIG_PAGE, spans[i].length);
    }
    rig_fill(pair->a.buffer, RIG_BYTES, 3);
    assert_int_equal(
        rig_move(&pair->a, KVL_TRANSFER_WRITE, pair->b.url, spans, indexes, SCATTERED, &moved), 0);
    for (uint32_t i = 0; i < SCATTERED; i++) {
        assert_memory_equal(spans[i].addr, pair->b.buffer + indexes[i] * RIG_PAGE, spans[i].length);
    }
}

/* The other side came to be known by our handshake, and reads over our connections. */
static void test_both_ways(void **state)
{
    struct pair *pair = *state;
    const struct kvl_span span = {.addr = pair->b.buffer, .length = 3 * RIG_PAGE};
    uint64_t index = 7;

    assert_int_equal(rig_move(&pair->b, KVL_TRANSFER_READ, pair->a.url, &span, &index, 1, NULL), 0);
    assert_memory_equal(pair->b.buffer, pair->a.buffer + 7 * RIG_PAGE, span.length);
}

static void test_prefix_stops(void **state)
{
    struct pair *pair = *state;
    struct kvl_span spans[4];
    uint64_t indexes[4] = {0, 1, RIG_BYTES / RIG_PAGE, 3};
    uint32_t moved = 0;

    for (uint32_t i = 0; i < 4; i++) {
        spans[i] = (struct kvl_span){.addr = pair->a.buffer + 2 * i * RIG_PAGE, .length = RIG_PAGE};
    }
    assert_int_equal(rig_move(&pair->a, KVL_TRANSFER_READ, pair->b.url, spans, indexes, 4, &moved),
                     -EINVAL);
    assert_int_equal(moved, 2);
    assert_memory_equal(spans[1].addr, pair->b.buffer + RIG_PAGE, RIG_PAGE);
    indexes[0] = UINT64_MAX / 2;
    assert_int_equal(rig_move(&pair->a, KVL_TRANSFER_WRITE, pair->b.url, spans, indexes, 4, &moved),
                     -EINVAL);
    assert_int_equal(moved, 0);
    indexes[0] = 0;
    assert_int_equal(rig_move(&pair->a, KVL_TRANSFER_READ, pair->b.url, spans, indexes, 2, NULL),
                     0);
}

/* ---- SEND and RECV ---- */

static void submit_two(struct rig_peer *peer, uint32_t kind, const char *url,
                       const struct kvl_span *spans, uint32_t count, uint64_t *op_out)
{
    assert_int_equal(rig_submit(peer, kind, url, spans, NULL, count, rig_soon(), op_out), 0);
}

static void test_send_before_receive(void **state)
{
    struct pair *pair = *state;
    const struct kvl_span from[2] = {{pair->a.buffer, 5 * RIG_PAGE},
                                     {pair->a.buffer + 9 * RIG_PAGE, 77}};
    const struct kvl_span to[2] = {{pair->b.buffer + 2 * RIG_PAGE, 5 * RIG_PAGE},
                                   {pair->b.buffer + 1, 77}};
    uint64_t send;
    uint64_t receive;
    uint32_t moved = 0;

    for (int turn = 0; turn < 2; turn++) {
        rig_fill(to[0].addr, to[0].length, 30);
        if (turn == 0) {
            submit_two(&pair->a, KVL_TRANSFER_SEND, pair->b.url, from, 2, &send);
            submit_two(&pair->b, KVL_TRANSFER_RECV, pair->a.url, to, 2, &receive);
        } else {
            submit_two(&pair->b, KVL_TRANSFER_RECV, pair->a.url, to, 2, &receive);
            submit_two(&pair->a, KVL_TRANSFER_SEND, pair->b.url, from, 2, &send);
        }
        assert_int_equal(ops()->wait(pair->a.channel, send, rig_soon(), &moved), 0);
        assert_int_equal(moved, 2);
        assert_int_equal(ops()->wait(pair->b.channel, receive, rig_soon(), &moved), 0);
        assert_int_equal(moved, 2);
        assert_memory_equal(from[0].addr, to[0].addr, from[0].length);
        assert_memory_equal(from[1].addr, to[1].addr, from[1].length);
    }
}

static void test_send_keeps_order(void **state)
{
    struct pair *pair = *state;
    uint64_t sends[20];
    uint64_t receives[20];

    for (uint32_t i = 0; i < 20; i++) {
        const struct kvl_span to = {pair->b.buffer + i * RIG_PAGE, 1000 + i};

        submit_two(&pair->b, KVL_TRANSFER_RECV, pair->a.url, &to, 1, &receives[i]);
    }
    for (uint32_t i = 0; i < 20; i++) {
        const struct kvl_span from = {pair->a.buffer + (2 * i + 40) * RIG_PAGE, 1000 + i};

        submit_two(&pair->a, KVL_TRANSFER_SEND, pair->b.url, &from, 1, &sends[i]);
    }
    for (uint32_t i = 0; i < 20; i++) {
        assert_int_equal(ops()->wait(pair->a.channel, sends[i], rig_soon(), NULL), 0);
        assert_int_equal(ops()->wait(pair->b.channel, receives[i], rig_soon(), NULL), 0);
        assert_memory_equal(pair->b.buffer + i * RIG_PAGE, pair->a.buffer + (2 * i + 40) * RIG_PAGE,
                            1000 + i);
    }
}

static void test_send_mismatch(void **state)
{
    struct pair *pair = *state;
    const struct kvl_span from[2] = {{pair->a.buffer, 100}, {pair->a.buffer + 200, 100}};
    const struct kvl_span longer = {pair->b.buffer, 101};
    const struct kvl_span fits = {pair->b.buffer, 100};
    uint64_t send;
    uint64_t receive;

    submit_two(&pair->a, KVL_TRANSFER_SEND, pair->b.url, from, 1, &send);
    submit_two(&pair->b, KVL_TRANSFER_RECV, pair->a.url, &longer, 1, &receive);
    assert_int_equal(ops()->wait(pair->a.channel, send, rig_soon(), NULL), -EINVAL);
    assert_int_equal(ops()->wait(pair->b.channel, receive, rig_soon(), NULL), -EINVAL);
    submit_two(&pair->a, KVL_TRANSFER_SEND, pair->b.url, from, 2, &send);
    submit_two(&pair->b, KVL_TRANSFER_RECV, pair->a.url, &fits, 1, &receive);
    assert_int_equal(ops()->wait(pair->a.channel, send, rig_soon(), NULL), -EINVAL);
    assert_int_equal(ops()->wait(pair->b.channel, receive, rig_soon(), NULL), -EINVAL);
    submit_two(&pair->a, KVL_TRANSFER_SEND, pair->b.url, from, 1, &send);
    submit_two(&pair->b, KVL_TRANSFER_RECV, pair->a.url, &fits, 1, &receive);
    assert_int_equal(ops()->wait(pair->a.channel, send, rig_soon(), NULL), 0);
    assert_int_equal(ops()->wait(pair->b.channel, receive, rig_soon(), NULL), 0);
}

/* A cancelled one still takes its counterpart: those behind keep their partners. */
static void test_cancel_keeps_pairs(void **state)
{
    struct pair *pair = *state;
    const struct kvl_span from = {pair->a.buffer, 100};
    const struct kvl_span to = {pair->b.buffer, 100};
    uint64_t receives[3];
    uint64_t sends[3];
    int status;

    for (int i = 0; i < 3; i++) {
        submit_two(&pair->b, KVL_TRANSFER_RECV, pair->a.url, &to, 1, &receives[i]);
    }
    ops()->cancel(pair->b.channel, receives[1]);
    assert_int_equal(ops()->wait(pair->b.channel, receives[1], rig_soon(), NULL), -ECANCELED);
    for (int i = 0; i < 3; i++) {
        submit_two(&pair->a, KVL_TRANSFER_SEND, pair->b.url, &from, 1, &sends[i]);
    }
    assert_int_equal(ops()->wait(pair->a.channel, sends[0], rig_soon(), NULL), 0);
    assert_int_equal(ops()->wait(pair->a.channel, sends[1], rig_soon(), NULL), -ECANCELED);
    assert_int_equal(ops()->wait(pair->a.channel, sends[2], rig_soon(), NULL), 0);
    assert_int_equal(ops()->wait(pair->b.channel, receives[0], rig_soon(), NULL), 0);
    assert_int_equal(ops()->wait(pair->b.channel, receives[2], rig_soon(), NULL), 0);

    for (int i = 0; i < 2; i++) {
        submit_two(&pair->a, KVL_TRANSFER_SEND, pair->b.url, &from, 1, &sends[i]);
    }
    ops()->cancel(pair->a.channel, sends[0]);
    assert_int_equal(ops()->wait(pair->a.channel, sends[0], rig_soon(), NULL), -ECANCELED);
    for (int i = 0; i < 2; i++) {
        submit_two(&pair->b, KVL_TRANSFER_RECV, pair->a.url, &to, 1, &receives[i]);
    }
    /* the RECV may have begun before the word of the cancel came */
    status = ops()->wait(pair->b.channel, receives[0], rig_soon(), NULL);
    assert_true(status == -ECANCELED || status == 0);
    assert_int_equal(ops()->wait(pair->b.channel, receives[1], rig_soon(), NULL), 0);
    assert_int_equal(ops()->wait(pair->a.channel, sends[1], rig_soon(), NULL), 0);
}

/* A RECV that nobody answers ends in time, and its memory stays as it is. */
static void test_receive_deadline(void **state)
{
    struct pair *pair = *state;
    const struct kvl_span from = {pair->a.buffer, 3 * RIG_PAGE};
    const struct kvl_span to = {pair->b.buffer, 3 * RIG_PAGE};
    uint64_t receive;
    uint64_t send;

    assert_int_equal(
        rig_submit(&pair->b, KVL_TRANSFER_RECV, pair->a.url, &to, NULL, 1, rig_in(30), &receive),
        0);
    assert_int_equal(ops()->wait(pair->b.channel, receive, rig_soon(), NULL), -ETIMEDOUT);
    submit_two(&pair->a, KVL_TRANSFER_SEND, pair->b.url, &from, 1, &send);
    assert_int_equal(ops()->wait(pair->a.channel, send, rig_soon(), NULL), -ECANCELED);
    assert_int_equal(rig_is(pair->b.buffer, 3 * RIG_PAGE, 2), 1);
}

#define OPERATIONS(setup)                                                                          \
    cmocka_unit_test_setup_teardown(test_read_sizes, setup, teardown),                             \
        cmocka_unit_test_setup_teardown(test_write_sizes, setup, teardown),                        \
        cmocka_unit_test_setup_teardown(test_scattered, setup, teardown),                          \
        cmocka_unit_test_setup_teardown(test_both_ways, setup, teardown),                          \
        cmocka_unit_test_setup_teardown(test_prefix_stops, setup, teardown),                       \
        cmocka_unit_test_setup_teardown(test_send_before_receive, setup, teardown),                \
        cmocka_unit_test_setup_teardown(test_send_keeps_order, setup, teardown),                   \
        cmocka_unit_test_setup_teardown(test_send_mismatch, setup, teardown),                      \
        cmocka_unit_test_setup_teardown(test_cancel_keeps_pairs, setup, teardown),                 \
        cmocka_unit_test_setup_teardown(test_receive_deadline, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        OPERATIONS(setup_shm),
        OPERATIONS(setup_unix),
        OPERATIONS(setup_tcp),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
