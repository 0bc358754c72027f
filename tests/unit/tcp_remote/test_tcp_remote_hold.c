/* SPDX-License-Identifier: Apache-2.0 */
#include "rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tcp_remote_hold.h"

struct bench {
    struct fake_host *fake;
    const struct kvl_host *host;
    struct tcp_remote_hold *hold;
};

static void setup(struct bench *bench, uint32_t count, uint64_t bytes)
{
    bench->fake = fake_host_create(kvlane_backend_v1(), NULL);
    bench->host = fake_host_table(bench->fake);
    assert_int_equal(tcp_remote_hold_create(bench->host, count, bytes, &bench->hold), 0);
}

static void teardown(struct bench *bench)
{
    tcp_remote_hold_destroy(bench->hold);
    assert_int_equal(fake_host_leaks(bench->fake), 0);
    fake_host_destroy(bench->fake);
}

static bool keep(struct bench *bench, const char *name, size_t bytes, uint64_t until_ms)
{
    const struct kvl_key key = kvl_key_from_text(name);
    uint8_t *data = calloc(1, bytes + 1);
    struct kvl_view view;

    if (!fake_host_has(bench->fake, name, strlen(name))) {
        fake_host_put(bench->fake, name, data, bytes, &tcp_remote_no_attrs);
    }
    free(data);
    assert_int_equal(bench->host->store_get(bench->host, &key, &view), 0);
    return tcp_remote_hold_keep(bench->hold, &key, &view, until_ms);
}

static void expect(struct bench *bench, uint32_t count, uint64_t bytes)
{
    uint32_t held = 0;
    uint64_t held_bytes = 0;

    tcp_remote_hold_stats(bench->hold, &held, &held_bytes);
    assert_int_equal(held, count);
    assert_int_equal(held_bytes, bytes);
    assert_int_equal(fake_host_leaks(bench->fake), count);
}

static void test_expires_in_order(void **state)
{
    struct bench bench;

    (void)state;
    setup(&bench, 8, 1000);
    assert_int_equal(tcp_remote_hold_next(bench.hold), KVL_NEVER);
    assert_true(keep(&bench, "a", 10, 100));
    assert_false(keep(&bench, "b", 20, 200));
    assert_int_equal(tcp_remote_hold_next(bench.hold), 100);
    assert_int_equal(tcp_remote_hold_expire(bench.hold, 99), 0);
    assert_int_equal(tcp_remote_hold_expire(bench.hold, 100), 1);
    expect(&bench, 1, 20);
    assert_int_equal(tcp_remote_hold_next(bench.hold), 200);
    teardown(&bench);
}

static void test_again_lasts_longer_and_counts_once(void **state)
{
    struct bench bench;

    (void)state;
    setup(&bench, 8, 1000);
    keep(&bench, "a", 10, 100);
    keep(&bench, "b", 10, 150);
    keep(&bench, "a", 10, 200);
    expect(&bench, 2, 20);
    assert_int_equal(tcp_remote_hold_expire(bench.hold, 150), 1);
    expect(&bench, 1, 10);
    assert_int_equal(tcp_remote_hold_next(bench.hold), 200);
    teardown(&bench);
}

static void test_bounds_give_the_oldest_back(void **state)
{
    struct bench bench;
    char name[16];

    (void)state;
    setup(&bench, 4, 100);
    for (int i = 0; i < 200; i++) {
        snprintf(name, sizeof(name), "key-%d", i);
        keep(&bench, name, 1, (uint64_t)i);
    }
    expect(&bench, 4, 4);
    keep(&bench, "large", 99, 300);
    expect(&bench, 2, 100);
    keep(&bench, "too large", 101, 300);
    expect(&bench, 2, 100);
    teardown(&bench);
}

static void test_more_than_leaves_at_once(void **state)
{
    struct bench bench;
    char name[16];

    (void)state;
    setup(&bench, 200, 1000);
    for (int i = 0; i < 150; i++) {
        snprintf(name, sizeof(name), "key-%d", i);
        keep(&bench, name, 5, 100);
    }
    expect(&bench, 150, 750);
    keep(&bench, "large", 1000, 200);
    expect(&bench, 1, 1000);
    assert_int_equal(tcp_remote_hold_expire(bench.hold, KVL_NEVER), 1);
    expect(&bench, 0, 0);
    teardown(&bench);
}

static void test_forget(void **state)
{
    const struct kvl_key a = kvl_key_from_text("a");
    const struct kvl_key absent = kvl_key_from_text("absent");
    struct bench bench;

    (void)state;
    setup(&bench, 1, 100); /* one bucket: all keys meet in it */
    keep(&bench, "a", 10, 100);
    tcp_remote_hold_forget(bench.hold, &absent);
    expect(&bench, 1, 10);
    tcp_remote_hold_forget(bench.hold, &a);
    expect(&bench, 0, 0);
    keep(&bench, "b", 10, 100);
    teardown(&bench);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_expires_in_order),
        cmocka_unit_test(test_again_lasts_longer_and_counts_once),
        cmocka_unit_test(test_bounds_give_the_oldest_back),
        cmocka_unit_test(test_more_than_leaves_at_once),
        cmocka_unit_test(test_forget),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
