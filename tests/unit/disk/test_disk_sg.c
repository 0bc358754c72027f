/* SPDX-License-Identifier: Apache-2.0 */
#include "rig.h"

#include <errno.h>
#include <string.h>

#include "disk_sg.h"

/* What slices of at most `max` runs and `max_bytes` make of the descriptors. */
static size_t gather(const struct kvl_sg *sg, uint32_t count, int max, uint64_t max_bytes,
                     char *text_out)
{
    struct iovec iov[8];
    struct disk_sg at;
    uint64_t bytes;
    size_t total = 0;
    int n;

    disk_sg_init(&at, sg, count);
    while ((n = disk_sg_take(&at, iov, max, max_bytes, &bytes)) > 0) {
        uint64_t sum = 0;

        for (int i = 0; i < n; i++) {
            memcpy(text_out + total, iov[i].iov_base, iov[i].iov_len);
            total += iov[i].iov_len;
            sum += iov[i].iov_len;
        }
        assert_true(sum == bytes && sum <= max_bytes);
    }
    return total;
}

static void test_all_ways_to_slice_give_the_same(void **state)
{
    char memory[] = "abcdefghijklmnopqrstuvwxyz0123456789";
    const uint64_t at = (uint64_t)(uintptr_t)memory;
    const struct kvl_sg sg[] = {
        {.addr = at, .length = 3, .stride = 5, .count = 3}, /* abc fgh klm */
        {.addr = at, .length = 0, .stride = 1, .count = 4},
        {.addr = at + 20, .length = 2, .stride = 2, .count = 3}, /* uvwxyz */
        {.addr = at + 1, .length = 1, .stride = 0, .count = 3}, /* bbb */
        {.addr = at + 26, .length = 10, .count = 1},
    };
    const char *expected = "abcfghklmuvwxyzbbb0123456789";
    char got[64];

    (void)state;
    for (int max = 1; max <= 8; max++) {
        for (uint64_t bytes = 1; bytes < 40; bytes++) {
            assert_int_equal(gather(sg, 5, max, bytes, got), strlen(expected));
            assert_memory_equal(got, expected, strlen(expected));
        }
    }
}

static void test_runs_that_touch_are_one(void **state)
{
    char memory[64];
    const struct kvl_sg sg = {
        .addr = (uint64_t)(uintptr_t)memory, .length = 4, .stride = 4, .count = 16};
    struct iovec iov[4];
    struct disk_sg at;
    uint64_t bytes;

    (void)state;
    disk_sg_init(&at, &sg, 1);
    assert_int_equal(disk_sg_take(&at, iov, 4, 10, &bytes), 1);
    assert_int_equal(bytes, 10);
    assert_int_equal(disk_sg_take(&at, iov, 4, 1000, &bytes), 1);
    assert_int_equal(bytes, 54);
    assert_ptr_equal(iov[0].iov_base, memory + 10);
    assert_int_equal(disk_sg_take(&at, iov, 4, 1000, &bytes), 0);
}

static void test_bad_descriptors_are_refused(void **state)
{
    struct kvl_sg sg = {.addr = 4096, .length = 1, .count = 1};
    uint64_t bytes;

    (void)state;
    assert_int_equal(disk_sg_total(&sg, 1, &bytes), 0);
    assert_int_equal(bytes, 1);
    sg.count = 0;
    assert_int_equal(disk_sg_total(&sg, 1, &bytes), -EINVAL);
    sg.count = 2;
    sg.length = UINT64_MAX;
    assert_int_equal(disk_sg_total(&sg, 1, &bytes), -EINVAL);
    sg.length = 1;
    sg.addr = 0;
    assert_int_equal(disk_sg_total(&sg, 1, &bytes), -EINVAL);
    sg.addr = 4096;
    sg.mem = 7;
    assert_int_equal(disk_sg_total(&sg, 1, &bytes), -ENOTSUP);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_ways_to_slice_give_the_same),
        cmocka_unit_test(test_runs_that_touch_are_one),
        cmocka_unit_test(test_bad_descriptors_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
