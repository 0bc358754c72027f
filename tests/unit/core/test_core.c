/* SPDX-License-Identifier: Apache-2.0 */
#include "cm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core.h"

static struct kvl_err err = {.size = sizeof(err)};
static struct kvl_instance *instance;

static int open_text(const char *text)
{
    const struct kvl_open_params params = {.size = sizeof(params), .config_text = text};

    instance = NULL;
    return kvl_core_open(&params, &instance, &err);
}

static int reload_text(const char *text, uint32_t *restart)
{
    const struct kvl_open_params params = {.size = sizeof(params), .config_text = text};

    return kvl_core_reload(instance, &params, restart, &err);
}

static void test_reload_takes_over_what_may_change(void **state)
{
    uint32_t restart = 77;

    (void)state;
    assert_int_equal(
        open_text("[kvlane]\nlog_level = off\ndeadline = 1s\n[store]\nmax_bytes = 1M\n"), 0);
    assert_int_equal(instance->default_deadline_ms, 1000);
    assert_int_equal(
        reload_text("[kvlane]\nlog_level = error\ndeadline = 2s\n[store]\nmax_bytes = 1M\n",
                    &restart),
        0);
    assert_int_equal(restart, 0);
    assert_int_equal(instance->default_deadline_ms, 2000);
    assert_int_equal(instance->log.level, KVL_LOG_ERROR);
    assert_int_equal(kvl_core_close(instance, 0), 0);
}

static void test_reload_counts_what_needs_a_restart(void **state)
{
    uint32_t restart = 0;
    struct kvl_store_stats stats;

    (void)state;
    assert_int_equal(open_text("[kvlane]\nlog_level = off\n[store]\nmax_bytes = 1M\n"), 0);
    assert_int_equal(reload_text("[kvlane]\nlog_level = off\n[store]\nmax_bytes = 2M\n", &restart),
                     0);
    assert_int_equal(restart, 1);
    kvl_store_get_stats(instance->store, &stats);
    assert_int_equal(stats.max_bytes, 1 << 20);
    assert_int_equal(kvl_core_close(instance, 0), 0);
}

static void test_reload_with_an_error_changes_nothing(void **state)
{
    uint32_t restart = 77;

    (void)state;
    assert_int_equal(open_text("[kvlane]\nlog_level = off\ndeadline = 1s\n"), 0);
    assert_int_equal(reload_text("[kvlane]\nlog_level = off\ndeadline = 2s\ntypo = 1\n", &restart),
                     -EINVAL);
    assert_non_null(strstr(err.text, "config_text:4: [kvlane] typo"));
    assert_int_equal(restart, 77);
    assert_int_equal(instance->default_deadline_ms, 1000);
    assert_int_equal(kvl_core_close(instance, 0), 0);
}

static void test_engine_memory_takes_the_place_of_the_budget(void **state)
{
    void *arena = aligned_alloc(4096, 1 << 20);
    const struct kvl_open_params params = {
        .size = sizeof(params),
        .config_text = "[kvlane]\nlog_level = off\n",
        .arena = arena,
        .arena_bytes = 1 << 20,
    };
    struct kvl_open_params crooked = params;
    struct kvl_chunk chunk = {.key = kvl_key_from_text("k"), .bytes = 100};
    uint64_t slot;
    void *at;

    (void)state;
    assert_int_equal(kvl_core_open(&params, &instance, &err), 0);
    assert_int_equal(kvl_store_reserve(instance->store, &chunk, &slot, &at), 0);
    assert_true((char *)at >= (char *)arena && (char *)at < (char *)arena + (1 << 20));
    kvl_store_abort(instance->store, slot);
    assert_int_equal(kvl_core_close(instance, 0), 0);

    crooked.arena = (char *)arena + 64;
    assert_int_equal(kvl_core_open(&crooked, &instance, &err), -EINVAL);
    assert_non_null(strstr(err.text, "aligned to 4096"));
    free(arena);
}

static void test_leases_keep_their_memory_past_close(void **state)
{
    struct kvl_chunk chunk = {.key = kvl_key_from_text("k"), .bytes = 3};
    struct kvl_view view;
    uint64_t slot;
    void *at;

    (void)state;
    assert_int_equal(open_text("[kvlane]\nlog_level = off\n[store]\nmax_bytes = 1M\n"), 0);
    assert_int_equal(kvl_store_reserve(instance->store, &chunk, &slot, &at), 0);
    memcpy(at, "abc", 3);
    assert_int_equal(kvl_store_commit(instance->store, slot, &view), 0);
    assert_int_equal(kvl_core_close(instance, 0), -EBUSY);
    assert_memory_equal(view.data, "abc", 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reload_takes_over_what_may_change),
        cmocka_unit_test(test_reload_counts_what_needs_a_restart),
        cmocka_unit_test(test_reload_with_an_error_changes_nothing),
        cmocka_unit_test(test_engine_memory_takes_the_place_of_the_budget),
        cmocka_unit_test(test_leases_keep_their_memory_past_close),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
