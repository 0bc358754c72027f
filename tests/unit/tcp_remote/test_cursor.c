/* SPDX-License-Identifier: Apache-2.0 */
#include "rig.h"

#include "cursor.h"

static void test_reads_little_endian(void **state)
{
    const uint8_t bytes[] = {0xff, 1, 2, 3, 4, 0xfe, 0xff, 0xff, 0xff, 1, 2, 3, 4, 5, 6, 7, 8};
    struct kvl_cursor in;

    (void)state;
    kvl_cursor_init(&in, bytes, sizeof(bytes));
    assert_int_equal(kvl_cursor_get_u8(&in), 0xff);
    assert_int_equal(kvl_cursor_get_u32le(&in), 0x04030201);
    assert_int_equal(kvl_cursor_get_i32le(&in), -2);
    assert_true(kvl_cursor_get_u64le(&in) == 0x0807060504030201ull);
    assert_int_equal(kvl_cursor_left(&in), 0);
    assert_false(kvl_cursor_failed(&in));
}

static void test_read_beyond_the_end_sticks(void **state)
{
    const uint8_t bytes[] = {1, 2, 3};
    struct kvl_cursor in;

    (void)state;
    kvl_cursor_init(&in, bytes, sizeof(bytes));
    assert_int_equal(kvl_cursor_get_u32le(&in), 0);
    assert_true(kvl_cursor_failed(&in));
    assert_int_equal(kvl_cursor_get_u8(&in), 0);
    assert_null(kvl_cursor_get_bytes(&in, 0));
    assert_int_equal(kvl_cursor_left(&in), 0);
}

static void test_takes_an_empty_buffer(void **state)
{
    struct kvl_cursor in;

    (void)state;
    kvl_cursor_init(&in, NULL, 0);
    assert_null(kvl_cursor_get_bytes(&in, 0));
    assert_false(kvl_cursor_failed(&in));
    assert_null(kvl_cursor_get_bytes(&in, 1));
    assert_true(kvl_cursor_failed(&in));
}

static void test_writes_what_it_reads(void **state)
{
    uint8_t bytes[32];
    struct kvl_writer out;
    struct kvl_cursor in;

    (void)state;
    kvl_writer_init(&out, bytes, sizeof(bytes));
    kvl_writer_put_u8(&out, 7);
    kvl_writer_put_i32le(&out, INT32_MIN);
    kvl_writer_put_u64le(&out, UINT64_MAX - 1);
    kvl_writer_put_bytes(&out, "ab", 2);
    kvl_writer_put_fill(&out, ' ', 3);
    assert_int_equal(kvl_writer_written(&out), 18);
    kvl_cursor_init(&in, bytes, 18);
    assert_int_equal(kvl_cursor_get_u8(&in), 7);
    assert_int_equal(kvl_cursor_get_i32le(&in), INT32_MIN);
    assert_true(kvl_cursor_get_u64le(&in) == UINT64_MAX - 1);
    assert_memory_equal(kvl_cursor_get_bytes(&in, 5), "ab   ", 5);
}

static void test_write_beyond_the_end_sticks(void **state)
{
    uint8_t bytes[5] = {0};
    struct kvl_writer out;

    (void)state;
    kvl_writer_init(&out, bytes, sizeof(bytes));
    kvl_writer_put_u32le(&out, 1);
    kvl_writer_put_u32le(&out, 0xffffffff);
    kvl_writer_put_u8(&out, 1);
    assert_true(kvl_writer_failed(&out));
    assert_int_equal(kvl_writer_written(&out), 4);
    assert_int_equal(bytes[4], 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_little_endian),
        cmocka_unit_test(test_read_beyond_the_end_sticks),
        cmocka_unit_test(test_takes_an_empty_buffer),
        cmocka_unit_test(test_writes_what_it_reads),
        cmocka_unit_test(test_write_beyond_the_end_sticks),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
