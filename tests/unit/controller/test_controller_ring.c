/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "controller_ring.h"

#define SIZE 100u
#define HEAD CONTROLLER_RECORD_HEAD_BYTES

static int set_up(void **state)
{
    static struct controller_ring ring;

    assert_int_equal(controller_ring_init(&ring, SIZE), 0);
    *state = &ring;
    return 0;
}

static int tear_down(void **state)
{
    controller_ring_fini(*state);
    return 0;
}

/* A record of `length` bytes that all are `fill`. */
static int add(struct controller_ring *ring, uint8_t fill, size_t length)
{
    uint8_t bytes[4 * SIZE];

    memset(bytes, fill, length);
    return controller_ring_add(ring, CONTROLLER_RECORD_EVENT, bytes, length);
}

static void assert_record(struct kvl_cursor *in, uint8_t fill, size_t length)
{
    struct controller_record record;

    assert_int_equal(controller_record_next(in, &record), 1);
    assert_int_equal(record.kind, CONTROLLER_RECORD_EVENT);
    assert_int_equal(record.length, length);
    for (size_t i = 0; i < length; i++) {
        assert_int_equal(record.bytes[i], fill);
    }
}

static void test_nothing_is_kept_without_a_reader(void **state)
{
    struct controller_ring *ring = *state;
    struct controller_ring_place place;
    uint8_t bytes[SIZE];
    size_t length;

    assert_int_equal(add(ring, 1, 10), 0);
    place = controller_ring_join(ring);
    assert_int_equal(controller_ring_read(ring, &place, bytes, SIZE, &length), 0);
    assert_int_equal(add(ring, 2, 10), 1);
    controller_ring_leave(ring);
    assert_int_equal(add(ring, 3, 10), 0);
    assert_int_equal(controller_ring_has(ring, &place), 1);
    (void)controller_ring_join(ring); /* what was told between the two is missing */
    assert_int_equal(controller_ring_has(ring, &place), 0);
    assert_int_equal(controller_ring_read(ring, &place, bytes, SIZE, &length), -ESTALE);
}

static void test_records_go_around_the_end(void **state)
{
    struct controller_ring *ring = *state;
    struct controller_ring_place place = controller_ring_join(ring);
    uint8_t bytes[SIZE];
    size_t length;

    for (uint8_t i = 0; i < 100; i++) {
        const uint64_t number = place.number;
        struct kvl_cursor in;

        assert_int_equal(add(ring, i, 7 + i % 30), 1);
        assert_int_equal(add(ring, i, 3), 1);
        assert_int_equal(controller_ring_read(ring, &place, bytes, SIZE, &length), 2);
        assert_int_equal(place.number, number + 2);
        kvl_cursor_init(&in, bytes, length);
        assert_record(&in, i, 7 + i % 30);
        assert_record(&in, i, 3);
        assert_int_equal(kvl_cursor_left(&in), 0);
    }
    assert_int_equal(controller_ring_next(ring), place.number);
}

static void test_a_slow_reader_is_told(void **state)
{
    struct controller_ring *ring = *state;
    struct controller_ring_place slow = controller_ring_join(ring);
    struct controller_ring_place quick = controller_ring_join(ring);
    uint8_t bytes[SIZE];
    size_t length;

    for (uint8_t i = 0; i < 3; i++) {
        assert_int_equal(add(ring, i, 33 - HEAD), 1); /* 99 bytes: the next has no room */
    }
    assert_int_equal(controller_ring_has(ring, &slow), 1);
    assert_int_equal(controller_ring_read(ring, &quick, bytes, SIZE, &length), 3);
    assert_int_equal(add(ring, 3, 1), 1);
    assert_int_equal(controller_ring_has(ring, &slow), 0);
    assert_int_equal(controller_ring_read(ring, &slow, bytes, SIZE, &length), -ESTALE);
    assert_int_equal(controller_ring_read(ring, &quick, bytes, SIZE, &length), 1);
}

static void test_a_record_larger_than_the_ring(void **state)
{
    struct controller_ring *ring = *state;
    struct controller_ring_place place = controller_ring_join(ring);
    uint8_t bytes[SIZE];
    size_t length;

    assert_int_equal(add(ring, 1, SIZE - HEAD), 1);
    assert_int_equal(controller_ring_read(ring, &place, bytes, SIZE, &length), 1);
    assert_int_equal(add(ring, 1, SIZE - HEAD + 1), 1);
    assert_int_equal(controller_ring_read(ring, &place, bytes, SIZE, &length), -ESTALE);
    place = controller_ring_join(ring);
    assert_int_equal(add(ring, 2, 5), 1);
    assert_int_equal(controller_ring_read(ring, &place, bytes, SIZE, &length), 1);
}

static void test_room_for_a_part(void **state)
{
    struct controller_ring *ring = *state;
    struct controller_ring_place place = controller_ring_join(ring);
    uint8_t bytes[SIZE];
    size_t length = 0;

    assert_int_equal(add(ring, 1, 20), 1);
    assert_int_equal(add(ring, 2, 20), 1);
    assert_int_equal(controller_ring_read(ring, &place, bytes, 20 + HEAD - 1, &length), -ENOSPC);
    assert_int_equal(length, 20 + HEAD);
    assert_int_equal(controller_ring_read(ring, &place, bytes, 2 * (20 + HEAD) - 1, &length), 1);
    assert_int_equal(controller_ring_read(ring, &place, bytes, SIZE, &length), 1);
    assert_int_equal(length, 20 + HEAD);
}

#define TOLD 20000u

static void *teller(void *ring)
{
    for (uint32_t i = 0; i < TOLD; i++) {
        assert_int_equal(add(ring, (uint8_t)i, i % 20), 1);
    }
    return NULL;
}

/* What is read is whole and in order, whatever was written over meanwhile. */
static void test_threads(void **state)
{
    struct controller_ring *ring = *state;
    struct controller_ring_place place = controller_ring_join(ring);
    const uint64_t first = place.number;
    uint8_t bytes[SIZE];
    pthread_t thread;
    size_t length;

    assert_int_equal(pthread_create(&thread, NULL, teller, ring), 0);
    while (place.number < first + TOLD) {
        uint64_t number = place.number;
        int count = controller_ring_read(ring, &place, bytes, SIZE, &length);
        struct kvl_cursor in;

        if (count == -ESTALE) {
            place = controller_ring_join(ring);
            controller_ring_leave(ring);
            continue;
        }
        assert_true(count >= 0);
        kvl_cursor_init(&in, bytes, length);
        for (; number < place.number; number++) {
            assert_record(&in, (uint8_t)(number - first), (number - first) % 20);
        }
        assert_int_equal(kvl_cursor_left(&in), 0);
    }
    pthread_join(thread, NULL);
}

#define RING_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        RING_TEST(test_nothing_is_kept_without_a_reader),
        RING_TEST(test_records_go_around_the_end),
        RING_TEST(test_a_slow_reader_is_told),
        RING_TEST(test_a_record_larger_than_the_ring),
        RING_TEST(test_room_for_a_part),
        RING_TEST(test_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
