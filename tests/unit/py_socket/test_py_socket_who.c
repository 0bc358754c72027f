/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "py_socket_who.h"

#define URL "127.0.0.1:7000"

static int set_up(void **state)
{
    return py_socket_who_create((struct py_socket_who **)state);
}

static int tear_down(void **state)
{
    py_socket_who_destroy(*state);
    return 0;
}

static void test_one_record_per_url(void **state)
{
    struct py_socket_holder *holder = py_socket_who_holder(*state, URL);
    char url[KVL_CHANNEL_URL_ROOM + 1];

    memset(url, 'x', sizeof(url) - 1);
    url[sizeof(url) - 1] = '\0';
    assert_non_null(holder);
    assert_ptr_equal(py_socket_who_holder(*state, URL), holder);
    assert_ptr_equal(py_socket_who_at(*state, 0), holder);
    assert_null(py_socket_who_at(*state, 1));
    assert_null(py_socket_who_holder(*state, ""));
    assert_null(py_socket_who_holder(*state, url));
}

static void test_the_list_of_static_peers_changes(void **state)
{
    static char urls[2][KVL_CHANNEL_URL_ROOM] = {"a:1", "b:2"};
    uint32_t at = 0;

    py_socket_who_set_static(*state, urls, 2);
    assert_string_equal(py_socket_who_next_static(*state, &at)->url, "a:1");
    assert_string_equal(py_socket_who_next_static(*state, &at)->url, "b:2");
    assert_null(py_socket_who_next_static(*state, &at));
    py_socket_who_set_static(*state, urls + 1, 1);
    at = 0;
    assert_string_equal(py_socket_who_next_static(*state, &at)->url, "b:2");
    assert_null(py_socket_who_next_static(*state, &at));
    assert_false(py_socket_who_is_kept(*state, py_socket_who_at(*state, 0)));
    assert_true(py_socket_who_is_kept(*state, py_socket_who_at(*state, 1)));
}

/* Who failed is asked by nobody until the thread has found it well. */
static void test_only_the_thread_tries_who_failed(void **state)
{
    struct py_socket_holder *holder = py_socket_who_holder(*state, URL);

    assert_true(py_socket_who_may_ask(*state, holder));
    assert_false(py_socket_who_try(*state, holder, 0, 1000)); /* nobody needs that */
    py_socket_who_tried(*state, holder, -ETIMEDOUT, 1000);
    assert_true(py_socket_who_is_kept(*state, holder));
    assert_false(py_socket_who_try(*state, holder, 0, 5000)); /* nor this */
    assert_false(py_socket_who_may_ask(*state, holder)); /* but now somebody would */
    assert_false(py_socket_who_try(*state, holder, 0, 1249));
    assert_true(py_socket_who_try(*state, holder, 0, 1250));
    assert_false(py_socket_who_try(*state, holder, 0, 1250)); /* one at a time */
    assert_false(py_socket_who_may_ask(*state, holder));
    py_socket_who_try_ends(*state, holder, 0, 1300);
    assert_true(py_socket_who_may_ask(*state, holder));
    assert_false(py_socket_who_is_kept(*state, holder));
}

static uint64_t pause_after(struct py_socket_who *who, struct py_socket_holder *holder,
                            uint64_t now_ms)
{
    uint64_t pause = 0;

    py_socket_who_tried(who, holder, -ECONNREFUSED, now_ms);
    (void)py_socket_who_may_ask(who, holder);
    while (!py_socket_who_try(who, holder, 0, now_ms + pause)) {
        pause += 10;
    }
    py_socket_who_try_ends(who, holder, -ECONNREFUSED, now_ms);
    return pause;
}

static void test_pauses_grow_and_have_an_end(void **state)
{
    struct py_socket_holder *holder = py_socket_who_holder(*state, URL);
    uint64_t now = 1000;
    uint64_t before = 0;

    for (int i = 0; i < 12; i++) {
        const uint64_t pause = pause_after(*state, holder, now);

        assert_true(pause >= before && pause <= 30000);
        before = pause;
        now += 100000;
    }
    assert_int_equal(before, 30000);
}

/* Eight threads that wait for the same peer find out together. */
static void test_failures_within_a_pause_count_once(void **state)
{
    struct py_socket_holder *holder = py_socket_who_holder(*state, URL);

    for (int i = 0; i < 8; i++) {
        py_socket_who_tried(*state, holder, -ETIMEDOUT, 1000 + (uint64_t)i);
    }
    (void)py_socket_who_may_ask(*state, holder);
    assert_true(py_socket_who_try(*state, holder, 0, 1260));
}

static void test_who_had_it(void **state)
{
    struct py_socket_holder *a = py_socket_who_holder(*state, "a:1");
    struct py_socket_holder *b = py_socket_who_holder(*state, "b:2");

    assert_null(py_socket_who_had(*state, 42));
    py_socket_who_remember(*state, 42, a);
    assert_ptr_equal(py_socket_who_had(*state, 42), a);
    py_socket_who_forget(*state, 42, b); /* it was not b */
    assert_ptr_equal(py_socket_who_had(*state, 42), a);
    py_socket_who_remember(*state, 42 + (1u << 30), b); /* the same place */
    assert_null(py_socket_who_had(*state, 42));
    py_socket_who_forget(*state, 42 + (1u << 30), b);
    assert_null(py_socket_who_had(*state, 42 + (1u << 30)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_one_record_per_url, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_the_list_of_static_peers_changes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_only_the_thread_tries_who_failed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_pauses_grow_and_have_an_end, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_failures_within_a_pause_count_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_who_had_it, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
