/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "controller_replica_wire.h"

/* Golden bytes: these go over the wire between two versions. */
static const uint8_t golden_end[] = {'K', 'V', 'R', 1, 5, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1,
                                     9,   0,   0,   0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0};
static const uint8_t golden_events[] = {'K', 'V', 'R', 1, 6, 0,   0,   0, 1, 0, 0, 0, 0, 0,
                                        0,   0,   5,   0, 0, 0,   0,   0, 0, 0, 2, 0, 0, 0,
                                        1,   2,   0,   0, 0, 'a', 'b', 2, 0, 0, 0, 0};

static int decode(const void *bytes, size_t length, struct controller_replica_msg *msg_out)
{
    return controller_replica_decode(bytes, length, msg_out);
}

static void test_golden_end(void **state)
{
    struct controller_replica_msg msg;
    uint8_t bytes[CONTROLLER_REPLICA_OVERHEAD];

    (void)state;
    assert_int_equal(decode(golden_end, sizeof(golden_end), &msg), 0);
    assert_int_equal(msg.kind, CONTROLLER_REPLICA_END);
    assert_true(msg.nonce == 0x0102030405060708u);
    assert_int_equal(msg.number, 9);
    assert_int_equal(msg.exact, 256);
    assert_int_equal(controller_replica_encode(&msg, bytes), sizeof(golden_end));
    assert_memory_equal(bytes, golden_end, sizeof(golden_end));
}

static void test_golden_events(void **state)
{
    struct controller_replica_msg msg;
    struct controller_record record;
    uint8_t bytes[CONTROLLER_REPLICA_OVERHEAD];
    struct kvl_cursor in;
    size_t length;

    (void)state;
    assert_int_equal(decode(golden_events, sizeof(golden_events), &msg), 0);
    assert_int_equal(msg.count, 2);
    assert_int_equal(msg.number, 5);
    kvl_cursor_init(&in, msg.bytes, msg.length);
    assert_int_equal(controller_record_next(&in, &record), 1);
    assert_int_equal(record.kind, CONTROLLER_RECORD_EVENT);
    assert_int_equal(record.length, 2);
    assert_memory_equal(record.bytes, "ab", 2);
    assert_int_equal(controller_record_next(&in, &record), 1);
    assert_int_equal(record.kind, CONTROLLER_RECORD_REQUEST);
    assert_int_equal(record.length, 0);
    assert_int_equal(controller_record_next(&in, &record), 0);
    length = controller_replica_encode(&msg, bytes);
    assert_int_equal(length + msg.length, sizeof(golden_events));
    assert_memory_equal(bytes, golden_events, length);
    controller_record_head(CONTROLLER_RECORD_EVENT, 2, bytes);
    assert_memory_equal(bytes, msg.bytes, CONTROLLER_RECORD_HEAD_BYTES);
}

static void test_every_kind_there_and_back(void **state)
{
    (void)state;
    for (int kind = CONTROLLER_REPLICA_HELLO; kind < CONTROLLER_REPLICA_KINDS; kind++) {
        const struct controller_replica_msg msg = {
            .kind = (enum controller_replica_kind)kind, .nonce = UINT64_MAX, .number = 1ull << 40};
        uint8_t bytes[CONTROLLER_REPLICA_OVERHEAD];
        struct controller_replica_msg again;
        size_t length = controller_replica_encode(&msg, bytes);

        assert_int_equal(decode(bytes, length, &again), 0);
        assert_int_equal(again.kind, kind);
        assert_true(again.nonce == msg.nonce && again.number == msg.number);
        for (size_t cut = 0; cut < length; cut++) {
            assert_int_equal(decode(bytes, cut, &again), -EPROTO);
        }
        if (kind != CONTROLLER_REPLICA_PART) {
            assert_int_equal(decode(bytes, length + 1, &again), -EPROTO);
        }
    }
}

static void test_what_is_refused(void **state)
{
    struct controller_replica_msg msg = {.kind = CONTROLLER_REPLICA_ALIVE, .number = 77};
    uint8_t bytes[sizeof(golden_events)];

    (void)state;
    for (size_t at = 0; at < 8; at++) {
        memcpy(bytes, golden_end, sizeof(golden_end));
        bytes[at] ^= 0x80;
        assert_int_equal(decode(bytes, sizeof(golden_end), &msg),
                         at == 3 ? -EPROTONOSUPPORT : -EPROTO);
    }
    assert_int_equal(msg.number, 77); /* untouched */
    memcpy(bytes, golden_events, sizeof(bytes));
    bytes[24] = 3; /* more records than there are */
    assert_int_equal(decode(bytes, sizeof(bytes), &msg), -EPROTO);
    bytes[24] = 1; /* fewer */
    assert_int_equal(decode(bytes, sizeof(bytes), &msg), -EPROTO);
    bytes[24] = 2;
    bytes[28] = 3; /* no such kind of record */
    assert_int_equal(decode(bytes, sizeof(bytes), &msg), -EPROTO);
    bytes[28] = 1;
    bytes[32] = 0x7f; /* a record longer than the message */
    assert_int_equal(decode(bytes, sizeof(bytes), &msg), -EPROTO);
    bytes[32] = 0;
    assert_int_equal(decode(bytes, sizeof(bytes), &msg), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_end),
        cmocka_unit_test(test_golden_events),
        cmocka_unit_test(test_every_kind_there_and_back),
        cmocka_unit_test(test_what_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
