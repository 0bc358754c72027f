/* SPDX-License-Identifier: Apache-2.0 */
/* What backends tell their like through channels, the chunks they keep, and their codecs. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <kvlane/ipc.h>

#include "engine.h"
#include "mock.h"

static struct engine engine;

static void start(const char *ini)
{
    assert_int_equal(engine_open(&engine, ini), 0);
    assert_int_equal(engine.plugin->start(engine.instance, &engine.err), 0);
}

static void finish(void)
{
    assert_int_equal(engine_close(&engine, 1000), 0);
}

/* Waits for a round of the echo that began after now. */
static void await_round(void)
{
    assert_true(engine_await_stat(&engine, "mock_echo_rounds",
                                  engine_stat(&engine, "mock_echo_rounds") + 2));
}

static void save(const char *key, int is_remove)
{
    static uint8_t data[100];
    struct engine_batch batch;

    engine_batch_init(&batch, 0);
    (void)engine_batch_add(&batch, key, is_remove ? NULL : data, is_remove ? 0 : sizeof(data));
    assert_int_equal((is_remove ? engine.plugin->remove : engine.plugin->save)(
                         engine.instance, &batch.batch, &batch.result, NULL),
                     0);
}

static void test_an_offer_reaches_its_like(void **state)
{
    (void)state;
    /* the channel stands before it: a backend that is told of peers runs first all the same */
    start("[mock_echo]\n[mock_kept]\noffer = here I am\n");
    assert_true(engine_await_stat(&engine, "mock_echo_rounds", 2));
    assert_int_equal(engine_stat(&engine, "mock_echo_offers"), 1);
    assert_true(engine_stat(&engine, "mock_kept_connects") >= 1);
    assert_true(engine_stat(&engine, "mock_kept_same_host") >= 1);
    assert_true(engine_stat(&engine, "mock_kept_offer_sum") == mock_sum("here I am", 9));
    assert_true(engine_stat(&engine, "mock_kept_peer_sum") == mock_sum("echo", 4));
    finish();
}

static void test_instances_of_one_backend_offer_and_are_told_each(void **state)
{
    (void)state;
    start("[mock_kept:a]\noffer = one\n[mock_kept:b]\noffer = two\n[mock_kept:c]\n[mock_echo]\n");
    assert_true(engine_await_stat(&engine, "mock_echo_rounds", 2));
    assert_int_equal(engine_stat(&engine, "mock_echo_offers"), 2);
    assert_true(engine_stat(&engine, "mock_kept_c_connects") >= 2);
    finish();
}

static void test_an_offer_for_nobody_is_passed_over(void **state)
{
    (void)state;
    start("log_level = debug\n[mock_kept]\noffer = x\n[mock_good]\n[mock_echo]\nto = mock_good\n");
    await_round();
    assert_int_equal(engine_stat(&engine, "mock_kept_connects"), 0);
    assert_true(engine_logged(&engine, "peer 'echo' offers something to backend 'mock_good'"));
    finish();
    start("log_level = debug\n[mock_kept]\noffer = x\n[mock_echo]\nto = mock_kep\n");
    await_round();
    assert_int_equal(engine_stat(&engine, "mock_kept_connects"), 0);
    finish();
}

static void test_an_offer_has_a_limit(void **state)
{
    char ini[KVL_OFFER_MAX + 100];
    int at = snprintf(ini, sizeof(ini), "[mock_kept]\noffer = ");

    (void)state;
    memset(ini + at, 'x', KVL_OFFER_MAX);
    (void)snprintf(ini + at + KVL_OFFER_MAX, sizeof(ini) - (size_t)at - KVL_OFFER_MAX, "\n");
    start(ini);
    finish();
    (void)snprintf(ini + at + KVL_OFFER_MAX, sizeof(ini) - (size_t)at - KVL_OFFER_MAX, "x\n");
    assert_int_equal(engine_open(&engine, ini), 0);
    assert_int_equal(engine.plugin->start(engine.instance, &engine.err), -EMSGSIZE);
    finish();
}

static void test_what_is_kept_is_told_and_listed(void **state)
{
    (void)state;
    start("[mock_registry]\n[mock_kept]\nput_to = yes\nshelf = told\n[mock_echo]\n");
    save("m@1@0@1f@half", 0);
    /* in both locations of one worker */
    assert_true(engine_await_stat(&engine, "registry_keys", 2));
    assert_int_equal(engine_stat(&engine, "registry_chunks"), 1);
    await_round();
    assert_int_equal(engine_stat(&engine, "mock_echo_held_host"), 1);
    assert_int_equal(engine_stat(&engine, "mock_echo_held_gpu"), 1);
    save("m@1@0@2f@half", 0);
    assert_true(engine_await_stat(&engine, "registry_keys", 4));
    save("m@1@0@1f@half", 1);
    for (int i = 0; i < 1000 && (engine_stat(&engine, "registry_keys") != 2 ||
                                 engine_stat(&engine, "registry_chunks") != 1);
         i++) {
        await_round();
    }
    await_round(); /* what the one before listed may be older than the registry */
    assert_int_equal(engine_stat(&engine, "registry_keys"), 2);
    assert_int_equal(engine_stat(&engine, "registry_chunks"), 1);
    assert_int_equal(engine_stat(&engine, "registry_gaps"), 0);
    await_round();
    assert_int_equal(engine_stat(&engine, "mock_echo_held_gpu"), 1);
    finish();
}

static void test_who_keeps_chunks_says_where(void **state)
{
    (void)state;
    assert_int_equal(engine_open(&engine, "[mock_kept]\nwhere = 0\n"), -ELIBBAD);
    assert_non_null(strstr(engine.err.text, "location"));
    start("[mock_kept]\nwhere = 7\npreload = a b\nshelf = other\n[mock_echo]\n");
    await_round();
    assert_int_equal(engine_stat(&engine, "mock_echo_held_gpu"), 0);
    finish();
}

/* A batch that asks only for what this process keeps. */
static int find_held(const char *key, int is_load)
{
    static uint8_t data[4096];
    struct engine_batch batch;

    engine_batch_init(&batch, 0);
    (void)engine_batch_add(&batch, key, is_load ? data : NULL, is_load ? sizeof(data) : 0);
    batch.batch.flags = KVL_BATCH_HELD;
    assert_int_equal((is_load ? engine.plugin->load : engine.plugin->lookup)(
                         engine.instance, &batch.batch, &batch.result, NULL),
                     0);
    return batch.status[0];
}

static void test_others_are_left_out_on_demand(void **state)
{
    (void)state;
    start("[mock_good]\npreload = far\nshelf = far\n[mock_kept]\npreload = near\nshelf = near\n");
    save("own", 0);
    assert_int_equal(find_held("own", 0), 0);
    for (int is_load = 0; is_load < 2; is_load++) {
        assert_int_equal(find_held("near", is_load), 0);
        assert_int_equal(find_held("far", is_load), -ENOENT);
    }
    assert_int_equal(engine_stat(&engine, "mock_good_lookup_items"), 0);
    assert_int_equal(engine_stat(&engine, "mock_good_read_items"), 0);
    finish();
}

static void test_codecs_do_without_a_device(void **state)
{
    const struct kvl_ipc_ops *first = NULL;
    const struct kvl_ipc_ops *ops = NULL;

    (void)state;
    assert_int_equal(engine_open(&engine, "[mock_good]\n[mock_kept]\ndevice = no\n"
                                          "required = auto\n[mock_kept:b]\n"),
                     0);
    assert_int_equal(engine.plugin->ipc(engine.instance, NULL, &first), 0);
    assert_int_equal(first->size, sizeof(*first));
    assert_int_equal(engine.plugin->ipc(engine.instance, "mock_kept", &ops), 0);
    assert_ptr_equal(ops, first);
    assert_int_equal(engine.plugin->ipc(engine.instance, "mock_kept:b", &ops), 0);
    assert_ptr_equal(ops, first);
    ops = NULL;
    assert_int_equal(engine.plugin->ipc(engine.instance, "mock_good", &ops), -ENOTSUP);
    assert_int_equal(engine.plugin->ipc(engine.instance, "mock_kept:c", &ops), -ENOENT);
    assert_int_equal(engine.plugin->ipc(engine.instance, "store", &ops), -ENOENT);
    assert_int_equal(engine.plugin->ipc(NULL, NULL, &ops), -EINVAL);
    assert_int_equal(engine.plugin->ipc(engine.instance, NULL, NULL), -EINVAL);
    assert_null(ops);
    finish();
    assert_int_equal(first->size, sizeof(*first)); /* still there */

    assert_int_equal(engine_open(&engine, "[mock_good]\n[mock_absent]\nrequired = no\n"), 0);
    assert_int_equal(engine.plugin->ipc(engine.instance, NULL, &ops), -ENOTSUP);
    assert_int_equal(engine.plugin->ipc(engine.instance, "mock_absent", &ops), -ENOTSUP);
    assert_null(ops);
    finish();
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
        cmocka_unit_test(test_an_offer_reaches_its_like),
        cmocka_unit_test(test_instances_of_one_backend_offer_and_are_told_each),
        cmocka_unit_test(test_an_offer_for_nobody_is_passed_over),
        cmocka_unit_test(test_an_offer_has_a_limit),
        cmocka_unit_test(test_what_is_kept_is_told_and_listed),
        cmocka_unit_test(test_who_keeps_chunks_says_where),
        cmocka_unit_test(test_others_are_left_out_on_demand),
        cmocka_unit_test(test_codecs_do_without_a_device),
    };

    return cmocka_run_group_tests(tests, group_setup, NULL);
}
