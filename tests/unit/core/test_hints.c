/* SPDX-License-Identifier: Apache-2.0 */
#include "cm.h"

#include <pthread.h>

#include "hints.h"

static uint64_t mix(uint64_t x)
{
    x ^= x >> 33;
    x *= 0xff51afd7ed558ccdull;
    x ^= x >> 33;
    x *= 0xc4ceb9fe1a85ec53ull;
    return x ^ x >> 33;
}

static void test_holders_come_and_go(void **state)
{
    struct kvl_hints *hints;

    (void)state;
    assert_int_equal(kvl_hints_create(1000, &hints), 0);
    assert_int_equal(kvl_hints_find(hints, 42), 0);
    kvl_hints_publish(hints, 42, 0);
    kvl_hints_publish(hints, 42, 31);
    kvl_hints_publish(hints, 42, 31);
    assert_int_equal(kvl_hints_find(hints, 42), 0x80000001u);
    assert_int_equal(kvl_hints_count(hints), 1);
    kvl_hints_withdraw(hints, 42, 0);
    assert_int_equal(kvl_hints_find(hints, 42), 0x80000000u);
    kvl_hints_withdraw(hints, 42, 31);
    kvl_hints_withdraw(hints, 42, 31);
    assert_int_equal(kvl_hints_count(hints), 0);
    kvl_hints_destroy(hints);
}

static void test_it_forgets_but_never_lies(void **state)
{
    struct kvl_hints *hints;
    uint64_t known = 0;

    (void)state;
    assert_int_equal(kvl_hints_create(1000, &hints), 0);
    for (uint64_t i = 0; i < 100000; i++) {
        kvl_hints_publish(hints, mix(i), (uint32_t)(i % 32));
    }
    for (uint64_t i = 0; i < 100000; i++) {
        uint32_t mask = kvl_hints_find(hints, mix(i));

        assert_true(mask == 0 || mask == 1u << (i % 32));
        known += mask != 0;
    }
    assert_int_equal(known, kvl_hints_count(hints));
    assert_true(known >= 1000 && known < 2000); /* as many as it was made for */
    kvl_hints_destroy(hints);
}

static void *publish_many(void *arg)
{
    struct kvl_hints *hints = arg;

    for (uint64_t i = 0; i < 20000; i++) {
        kvl_hints_publish(hints, mix(i % 500), (uint32_t)(i % 3));
        kvl_hints_withdraw(hints, mix((i + 7) % 500), (uint32_t)(i % 3));
    }
    return NULL;
}

static void test_threads_keep_the_count(void **state)
{
    struct kvl_hints *hints;
    pthread_t threads[3];
    uint64_t known = 0;

    (void)state;
    assert_int_equal(kvl_hints_create(100000, &hints), 0);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, publish_many, hints), 0);
    }
    for (int i = 0; i < 3; i++) {
        pthread_join(threads[i], NULL);
    }
    for (uint64_t i = 0; i < 500; i++) {
        known += kvl_hints_find(hints, mix(i)) != 0;
    }
    assert_int_equal(known, kvl_hints_count(hints));
    kvl_hints_destroy(hints);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_holders_come_and_go),
        cmocka_unit_test(test_it_forgets_but_never_lies),
        cmocka_unit_test(test_threads_keep_the_count),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
