/* SPDX-License-Identifier: Apache-2.0 */
/* Modules that must not be used: each ends in one clear sentence and the process lives. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <kvlane/backend.h>

#include "engine.h"

static struct engine engine;

struct refusal {
    const char *word;
    int code;
    const char *says[4]; /* up to the first NULL */
};

#define SAYS(...) .says = {__VA_ARGS__, NULL}
static const struct refusal refusals[] = {
    {"mock_no_symbol", -ELIBBAD, SAYS("kvl-mock_no_symbol.so", KVL_BACKEND_ENTRY)},
    {"mock_null_desc", -ELIBBAD, SAYS("kvl-mock_null_desc.so")},
    {"mock_bad_magic", -ELIBBAD, SAYS("kvl-mock_bad_magic.so")},
    {"mock_short_table", -ELIBBAD, SAYS("kvl-mock_short_table.so", "'destroy'")},
    {"mock_newer_abi", -ELIBBAD, SAYS("kvl-mock_newer_abi.so", "2.3", "1.2")},
    {"mock_unknown_need", -ELIBBAD, SAYS("kvl-mock_unknown_need.so", "0x4000000000000000")},
    {"mock_cap_without_op", -ELIBBAD, SAYS("kvl-mock_cap_without_op.so", "'cancel'")},
    {"mock_wrong_name", -ELIBBAD,
     SAYS("kvl-mock_wrong_name.so", "'mock_other'", "mock_wrong_name")},
    {"mock_create_fails", -EINVAL, SAYS("mock_create_fails", "the mock refuses to be created")},
    {"mock_no_device", -ENODEV, SAYS("mock_no_device", "the mock refuses to be created")},
    {"mock_absent", -ENOENT, SAYS("kvl-mock_absent.so")},
    {"mock_god", -ENOENT, SAYS("kvl-mock_god.so", "mock_good")},
};
#define REFUSALS (sizeof(refusals) / sizeof(refusals[0]))

static void assert_says(const char *text, const char *part)
{
    if (strstr(text, part) == NULL) {
        fail_msg("'%s' should say '%s'", text, part);
    }
}

static int open_one(const char *word, const char *more)
{
    char ini[512];

    (void)snprintf(ini, sizeof(ini), "[%s]\n%s\n", word, more);
    return engine_open(&engine, ini);
}

static void test_required_refuses(void **state)
{
    struct kvl_instance *const sentinel = (struct kvl_instance *)&engine;
    const struct refusal *r;
    size_t i;
    size_t k;

    (void)state;
    for (r = refusals; r < refusals + REFUSALS; r++) {
        assert_int_equal(open_one(r->word, ""), r->code);
        assert_int_equal(engine.err.code, r->code);
        for (k = 0; k < 4 && r->says[k] != NULL; k++) {
            assert_says(engine.err.text, r->says[k]);
        }
        /* one sentence, and logged once where it was first seen */
        if (strchr(engine.err.text, '\n') != NULL) {
            fail_msg("%s: more than one line: '%s'", r->word, engine.err.text);
        }
        if (engine_lines(&engine, KVL_LOG_ERROR) != 1 || engine_lines(&engine, KVL_LOG_WARN) != 0) {
            fail_msg("%s: one error line wanted, the log is:\n%s", r->word, engine.log.text);
        }
        assert_null(engine.instance);
    }

    /* outputs are untouched on failure */
    for (i = 0; i < REFUSALS; i++) {
        struct kvl_instance *out = sentinel;
        struct kvl_open_params params = {.size = sizeof(params)};
        char ini[512];

        (void)snprintf(ini, sizeof(ini), "[kvlane]\nmodule_path = %s\n[%s]\n", getenv("KVL_MOCKS"),
                       refusals[i].word);
        engine_init(&engine);
        engine_catch_log(&engine, &params);
        params.config_text = ini;
        assert_int_equal(engine.plugin->open(&params, &out, NULL), refusals[i].code);
        assert_ptr_equal(out, sentinel);
    }
}

static void test_required_no_goes_on(void **state)
{
    const struct refusal *r;

    (void)state;
    for (r = refusals; r < refusals + REFUSALS; r++) {
        uint8_t data[16] = "fifteen bytes..";
        struct engine_batch save;

        assert_int_equal(open_one(r->word, "required = no"), 0);
        if (engine_lines(&engine, KVL_LOG_ERROR) != 0 || engine_lines(&engine, KVL_LOG_WARN) != 1) {
            fail_msg("%s: one warning wanted, the log is:\n%s", r->word, engine.log.text);
        }
        assert_true(engine_logged(&engine, r->says[0]));

        engine_batch_init(&save, 1000);
        (void)engine_batch_add(&save, "k", data, sizeof(data));
        assert_int_equal(engine.plugin->save(engine.instance, &save.batch, &save.result, NULL), 0);
        assert_int_equal(save.status[0], 0);
        assert_int_equal(engine_close(&engine, 1000), 0);
    }
}

static void test_required_auto_is_quiet_about_what_is_not_there(void **state)
{
    const struct refusal *r;
    unsigned warnings;

    (void)state;
    for (r = refusals; r < refusals + REFUSALS; r++) {
        /* a missing device or file is nothing to talk about, a broken one is */
        warnings = r->code == -ENODEV || r->code == -ENOENT ? 0 : 1;
        assert_int_equal(open_one(r->word, "required = auto"), 0);
        assert_int_equal(engine_lines(&engine, KVL_LOG_ERROR), 0);
        assert_int_equal(engine_lines(&engine, KVL_LOG_WARN), warnings);
        assert_int_equal(engine_close(&engine, 1000), 0);
    }
}

static void test_a_refusal_rolls_everything_back(void **state)
{
    int round;

    (void)state;
    for (round = 0; round < 3; round++) {
        assert_int_equal(engine_open(&engine, "[mock_good]\npreload = a\n[mock_create_fails]\n"),
                         -EINVAL);
        assert_null(engine.instance);
    }
    assert_int_equal(engine_open(&engine, "[mock_good]\n"), 0);
    assert_int_equal(engine_close(&engine, 1000), 0);
}

static void test_start_fails(void **state)
{
    uint8_t data[16] = "fifteen bytes..";
    struct engine_batch save;

    (void)state;
    assert_int_equal(engine_open(&engine, "[mock_good]\n[mock_start_fails]\n"), 0);
    assert_int_equal(engine.plugin->start(engine.instance, &engine.err), -EADDRINUSE);
    assert_says(engine.err.text, "the mock refuses to start");
    assert_int_equal(engine_lines(&engine, KVL_LOG_ERROR), 1);
    (void)engine_close(&engine, 1000);

    assert_int_equal(engine_open(&engine, "[mock_start_fails]\nrequired = no\nput_to = yes\n"), 0);
    assert_int_equal(engine.plugin->start(engine.instance, &engine.err), 0);
    assert_int_equal(engine_lines(&engine, KVL_LOG_ERROR), 0);
    assert_int_equal(engine_lines(&engine, KVL_LOG_WARN), 1);
    assert_int_equal(engine.plugin->start(engine.instance, &engine.err), 0);
    engine_batch_init(&save, 1000);
    (void)engine_batch_add(&save, "k", data, sizeof(data));
    assert_int_equal(engine.plugin->save(engine.instance, &save.batch, &save.result, NULL), 0);
    assert_int_equal(save.status[0], 0);
    assert_int_equal(engine_close(&engine, 1000), 0);
}

static void test_check_says_the_same(void **state)
{
    struct kvl_open_params params = {.size = sizeof(params)};
    struct kvl_err err = {.size = sizeof(err)};
    char ini[512];

    (void)state;
    engine_init(&engine);
    engine_catch_log(&engine, &params);
    params.config_text = ini;
    (void)snprintf(ini, sizeof(ini), "[kvlane]\nmodule_path = %s\n[mock_newer_abi]\n",
                   getenv("KVL_MOCKS"));
    assert_int_equal(engine.plugin->check(&params, &err), -ELIBBAD);
    assert_says(err.text, "2.3");
    (void)snprintf(ini, sizeof(ini), "[kvlane]\nmodule_path = %s\n[mock_good]\n",
                   getenv("KVL_MOCKS"));
    assert_int_equal(engine.plugin->check(&params, &err), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_required_refuses),
        cmocka_unit_test(test_required_no_goes_on),
        cmocka_unit_test(test_required_auto_is_quiet_about_what_is_not_there),
        cmocka_unit_test(test_a_refusal_rolls_everything_back),
        cmocka_unit_test(test_start_fails),
        cmocka_unit_test(test_check_says_the_same),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
