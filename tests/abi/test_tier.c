/* SPDX-License-Identifier: Apache-2.0 */
/* The tier below the own store: what is evicted goes there and comes back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"

#define BYTES 8192
#define MANY 60 /* eight times what the store of these tests holds */

static struct engine engine;
static uint8_t data[BYTES];

static void fill(uint8_t *out, int i, int version)
{
    for (size_t b = 0; b < BYTES; b++) {
        out[b] = (uint8_t)((size_t)i * 31 + (size_t)version * 7 + b);
    }
}

static int save(int i, int version)
{
    struct engine_batch batch;
    char key[24];

    snprintf(key, sizeof(key), "chunk%d", i);
    fill(data, i, version);
    engine_batch_init(&batch, 5000);
    (void)engine_batch_add(&batch, key, data, BYTES);
    batch.batch.flags = KVL_BATCH_OVERWRITE;
    assert_int_equal(engine.plugin->save(engine.instance, &batch.batch, &batch.result, NULL), 0);
    return batch.status[0];
}

/* @return status; the bytes must be those of `version`. */
static int load(int i, int version, uint8_t *location)
{
    struct engine_batch batch;
    uint8_t expected[BYTES];
    char key[24];

    snprintf(key, sizeof(key), "chunk%d", i);
    memset(data, 0, sizeof(data));
    engine_batch_init(&batch, 5000);
    (void)engine_batch_add(&batch, key, data, BYTES);
    assert_int_equal(engine.plugin->load(engine.instance, &batch.batch, &batch.result, NULL), 0);
    if (batch.status[0] == 0) {
        fill(expected, i, version);
        assert_memory_equal(data, expected, BYTES);
        *location = batch.location[0];
    }
    return batch.status[0];
}

static void open_small(const char *shelf)
{
    char ini[256];

    snprintf(ini, sizeof(ini),
             "log_level = warn\n[store]\nmax_bytes = 64KiB\n[mock_good]\nput_to = evicted\n"
             "shelf = %s\n",
             shelf);
    assert_int_equal(engine_open(&engine, ini), 0);
    assert_int_equal(engine.plugin->start(engine.instance, &engine.err), 0);
}

static void test_what_is_evicted_comes_back(void **state)
{
    uint8_t location = 0;
    int below = 0;

    (void)state;
    open_small("come_back");
    for (int i = 0; i < MANY; i++) {
        assert_int_equal(save(i, 1), 0);
        /* as fast as the tier takes them: what is lost under overload is another test's */
        if (i >= 5) { /* three quarters are used: the two coldest are written */
            assert_true(engine_await_stat(&engine, "tier_written", (uint64_t)(i - 4)));
        }
    }
    for (int i = 0; i < MANY; i++) {
        assert_int_equal(load(i, 1, &location), 0);
        below += location == KVL_LOCATION_BACKEND;
    }
    assert_true(below >= MANY - 8);
    assert_int_equal(engine_stat(&engine, "store_lost"), 0);
    assert_int_equal(engine_close(&engine, 2000), 0);
}

static void test_close_writes_what_is_left(void **state)
{
    uint8_t location = 0;

    (void)state;
    open_small("close_writes");
    assert_int_equal(save(1, 1), 0);
    assert_int_equal(save(2, 1), 0);
    assert_int_equal(engine_stat(&engine, "tier_written"), 0); /* no need so far */
    assert_int_equal(engine_close(&engine, 2000), 0);

    open_small("close_writes");
    assert_int_equal(load(1, 1, &location), 0);
    assert_int_equal(location, KVL_LOCATION_BACKEND);
    assert_int_equal(load(2, 1, &location), 0);
    assert_int_equal(engine_close(&engine, 2000), 0);
}

/* However fast the writer: each key is a miss or has its newest bytes, never older ones. */
static void test_older_bytes_never_come_back(void **state)
{
    uint8_t location;
    int hits = 0;

    (void)state;
    open_small("older");
    for (int version = 1; version <= 5; version++) {
        for (int i = 0; i < 20; i++) {
            assert_int_equal(save(i, version), 0);
        }
    }
    /* a fetch runs after the removes before it */
    for (int i = 0; i < 20; i++) {
        int r = load(i, 5, &location);

        assert_true(r == 0 || r == -ENOENT);
        hits += r == 0;
    }
    assert_true(hits >= 5);
    assert_int_equal(engine_close(&engine, 2000), 0);
}

static void test_a_tier_that_fails_costs_only_what_is_evicted(void **state)
{
    uint8_t location;

    (void)state;
    assert_int_equal(engine_open(&engine, "log_level = error\ndeadline = 100ms\n"
                                          "[store]\nmax_bytes = 64KiB\n"
                                          "[mock_never_completes]\nput_to = evicted\n"),
                     0);
    for (int i = 0; i < 30; i++) {
        (void)save(i, 1); /* -ENOMEM while everything is being written to nowhere */
    }
    assert_int_equal(engine.plugin->start(engine.instance, &engine.err), 0);
    assert_int_equal(save(100, 1) == 0 ? load(100, 1, &location) : 0, 0);
    (void)engine_close(&engine, 300);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_evicted_comes_back),
        cmocka_unit_test(test_close_writes_what_is_left),
        cmocka_unit_test(test_older_bytes_never_come_back),
        cmocka_unit_test(test_a_tier_that_fails_costs_only_what_is_evicted),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
