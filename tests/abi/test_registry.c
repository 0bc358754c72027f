/* SPDX-License-Identifier: Apache-2.0 */
/* The registry and the store's events as backends get them from the core. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "engine.h"

static struct engine engine;

static void save(const char *key)
{
    static uint8_t data[100];
    struct engine_batch batch;

    engine_batch_init(&batch, 0);
    (void)engine_batch_add(&batch, key, data, sizeof(data));
    assert_int_equal(engine.plugin->save(engine.instance, &batch.batch, &batch.result, NULL), 0);
}

static void test_backends_share_one_registry(void **state)
{
    (void)state;
    assert_int_equal(engine_open(&engine, "[mock_registry:a]\n[mock_registry:b]\n"), 0);
    assert_int_equal(engine_stat(&engine, "registry_workers"), 2);
    assert_int_equal(engine_stat(&engine, "registry_instances"), 1);
    assert_int_equal(engine_stat(&engine, "registry_max_bytes"), 8ull << 30);
    assert_int_equal(engine.plugin->start(engine.instance, &engine.err), 0);
    /* the first one reads the events, there is no second reader */
    assert_int_equal(engine_stat(&engine, "mock_registry_a_is_reader"), 1);
    assert_int_equal(engine_stat(&engine, "mock_registry_b_is_reader"), 0);
    save("m@1@0@1f@half");
    save("m@1@0@-1f@half");
    save("other");
    save("other");
    assert_true(engine_await_stat(&engine, "registry_keys", 3));
    assert_int_equal(engine_stat(&engine, "registry_chunks"), 3);
    assert_int_equal(engine_stat(&engine, "registry_gaps"), 0);
    assert_int_equal(engine_close(&engine, 1000), 0);
}

static void test_without_need_there_is_none(void **state)
{
    (void)state;
    assert_int_equal(engine_open(&engine, "[registry]\nmemory = 1M\n[mock_good]\n"), 0);
    assert_int_equal(engine_stat(&engine, "registry_max_bytes"), 0);
    assert_int_equal(engine_close(&engine, 1000), 0);
    assert_int_equal(engine_open(&engine, "[registry]\nmemory = 1M\n[mock_registry]\n"), 0);
    assert_int_equal(engine_stat(&engine, "registry_max_bytes"), 1 << 20);
    assert_int_equal(engine_close(&engine, 1000), 0);
}

static void test_mistakes_in_its_section(void **state)
{
    static const char *const mistakes[] = {
        "memory = much",         "sync_timeout = 0", "sync_threshold = 101",
        "resync_after_gap = 7x", "worker_ttl = -1",  "worker_tll = 1s",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(mistakes) / sizeof(mistakes[0]); i++) {
        char ini[100];

        (void)snprintf(ini, sizeof(ini), "[registry]\n%s\n", mistakes[i]);
        assert_int_equal(engine_open(&engine, ini), -EINVAL);
        assert_non_null(strstr(engine.err.text, "[registry]"));
        assert_non_null(strstr(engine.err.text, ":4:"));
    }
}

static int group_setup(void **state)
{
    (void)state;
    engine_init(&engine);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_backends_share_one_registry),
        cmocka_unit_test(test_without_need_there_is_none),
        cmocka_unit_test(test_mistakes_in_its_section),
    };

    return cmocka_run_group_tests(tests, group_setup, NULL);
}
