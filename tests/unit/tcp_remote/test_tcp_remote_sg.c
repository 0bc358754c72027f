/* SPDX-License-Identifier: Apache-2.0 */
#include "rig.h"

#include <errno.h>
#include <string.h>

#include "tcp_remote_sg.h"

static struct kvl_sg sg_of(void *at, uint64_t length, uint64_t stride, uint32_t count)
{
    return (struct kvl_sg){.addr = (uint64_t)(uintptr_t)at,
                           .length = length,
                           .stride = stride,
                           .count = count,
                           .device = KVL_DEVICE_HOST};
}

static void test_sums_up(void **state)
{
    char memory[100];
    struct kvl_sg sg[] = {sg_of(memory, 10, 20, 3), sg_of(memory, 7, 0, 1)};
    uint64_t bytes = 0;

    (void)state;
    assert_int_equal(tcp_remote_sg_total(sg, 2, &bytes), 0);
    assert_int_equal(bytes, 37);
}

static void test_refuses_bad_runs(void **state)
{
    char memory[8];
    struct kvl_sg sg = sg_of(memory, UINT64_MAX, 0, 2);
    uint64_t bytes = 0;

    (void)state;
    assert_int_equal(tcp_remote_sg_total(&sg, 1, &bytes), -EINVAL);
    sg = sg_of(memory, 8, 0, 0);
    assert_int_equal(tcp_remote_sg_total(&sg, 1, &bytes), -EINVAL);
    sg = sg_of(NULL, 8, 0, 1);
    assert_int_equal(tcp_remote_sg_total(&sg, 1, &bytes), -EINVAL);
    sg = sg_of(memory, 8, 0, 1);
    sg.mem = 5;
    assert_int_equal(tcp_remote_sg_total(&sg, 1, &bytes), -ENOTSUP);
}

/* Walks in steps of `step` and collects what the iovecs show. */
static void check_walk(uint64_t step)
{
    char memory[] = "aab.cdd.eef.XYZ";
    struct kvl_sg sg[] = {sg_of(memory, 3, 4, 3), sg_of(memory, 0, 9, 2),
                          sg_of(memory + 12, 1, 1, 3)};
    struct tcp_remote_sg_at at = {.sg = sg, .end = sg + 3};
    struct iovec iov[8];
    char text[32] = "";
    size_t length = 0;
    uint64_t bytes;

    tcp_remote_sg_merge(&sg[1]);
    tcp_remote_sg_merge(&sg[2]);
    for (;;) {
        size_t n = tcp_remote_sg_fill(&at, iov, 8, step, &bytes);

        assert_true(bytes <= step);
        for (size_t i = 0; i < n; i++) {
            memcpy(text + length, iov[i].iov_base, iov[i].iov_len);
            length += iov[i].iov_len;
        }
        if (bytes == 0) {
            break;
        }
        tcp_remote_sg_advance(&at, bytes);
    }
    assert_int_equal(length, 12);
    assert_memory_equal(text, "aabcddeefXYZ", 12);
}

static void test_walks_strided_runs_in_any_steps(void **state)
{
    (void)state;
    for (uint64_t step = 1; step < 14; step++) {
        check_walk(step);
    }
}

static void test_merges_runs_without_gaps(void **state)
{
    char memory[64];
    struct kvl_sg sg = sg_of(memory, 8, 8, 8);

    (void)state;
    tcp_remote_sg_merge(&sg);
    assert_int_equal(sg.count, 1);
    assert_int_equal(sg.length, 64);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sums_up),
        cmocka_unit_test(test_refuses_bad_runs),
        cmocka_unit_test(test_walks_strided_runs_in_any_steps),
        cmocka_unit_test(test_merges_runs_without_gaps),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
