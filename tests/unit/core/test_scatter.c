/* SPDX-License-Identifier: Apache-2.0 */
#include "cm.h"

#include <errno.h>
#include <string.h>

#include "scatter.h"

static struct kvl_sg run_of(const void *at, uint64_t length, uint64_t stride, uint32_t count)
{
    return (struct kvl_sg){
        .addr = (uint64_t)(uintptr_t)at,
        .length = length,
        .stride = stride,
        .count = count,
        .device = KVL_DEVICE_HOST,
    };
}

static void test_runs_are_gathered_in_order_and_scattered_back(void **state)
{
    char engine[] = "ab..cd..ef..XYZ";
    char chunk[9];
    struct kvl_sg sg[2];
    uint64_t bytes;

    (void)state;
    sg[0] = run_of(engine, 2, 4, 3);
    sg[1] = run_of(engine + 12, 3, 0, 1);
    assert_int_equal(kvl_sg_check(sg, 2, &bytes), 0);
    assert_int_equal(bytes, 9);
    kvl_sg_gather(sg, 2, chunk);
    assert_memory_equal(chunk, "abcdefXYZ", 9);
    kvl_sg_scatter(sg, 2, "123456789");
    assert_string_equal(engine, "12..34..56..789");
}

static void test_runs_that_cannot_be_are_refused(void **state)
{
    char byte;
    uint64_t bytes;
    struct kvl_sg sg;

    (void)state;
    sg = run_of(&byte, 0, 0, 1);
    assert_int_equal(kvl_sg_check(&sg, 1, &bytes), -EINVAL);
    sg = run_of(&byte, 1, 0, 0);
    assert_int_equal(kvl_sg_check(&sg, 1, &bytes), -EINVAL);
    sg = run_of(NULL, 1, 0, 1);
    assert_int_equal(kvl_sg_check(&sg, 1, &bytes), -EINVAL);
    sg = run_of(&byte, UINT64_MAX / 2, 1, 3);
    assert_int_equal(kvl_sg_check(&sg, 1, &bytes), -EINVAL);
    sg = run_of(&byte, 1, UINT64_MAX / 2, 4);
    assert_int_equal(kvl_sg_check(&sg, 1, &bytes), -EINVAL);
    sg = run_of(&byte, 1, 1, 1);
    sg.device = 0;
    assert_int_equal(kvl_sg_check(&sg, 1, &bytes), -ENOTSUP);
    sg.device = KVL_DEVICE_HOST;
    sg.mem = KVL_MEM_CUDA;
    assert_int_equal(kvl_sg_check(&sg, 1, &bytes), -EINVAL);
}

static void test_runs_are_of_one_kind_and_device(void **state)
{
    struct kvl_sg sg[2];
    uint64_t bytes;

    (void)state;
    sg[0] = sg[1] = run_of(sg, 4, 0, 1);
    sg[1].mem = KVL_MEM_CUDA;
    sg[1].device = 0;
    assert_int_equal(kvl_sg_check(sg, 2, &bytes), -EINVAL);
    sg[0] = sg[1];
    assert_int_equal(kvl_sg_check(sg, 2, &bytes), 0);
    assert_int_equal(bytes, 8);
    sg[1].device = 1;
    assert_int_equal(kvl_sg_check(sg, 2, &bytes), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_runs_are_gathered_in_order_and_scattered_back),
        cmocka_unit_test(test_runs_that_cannot_be_are_refused),
        cmocka_unit_test(test_runs_are_of_one_kind_and_device),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
