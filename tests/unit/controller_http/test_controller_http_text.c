/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "controller_http_text.h"

static struct controller_text text;

static int tear_down(void **state)
{
    (void)state;
    controller_text_fini(&text);
    return 0;
}

static void assert_real(double number, const char *expected)
{
    controller_text_fini(&text);
    controller_text_real(&text, number);
    assert_string_equal(text.at, expected);
}

static void test_reals(void **state)
{
    (void)state;
    /* where there is one: a locale with a comma must not show */
    (void)setlocale(LC_ALL, "de_DE.UTF-8");
    assert_real(0, "0.0");
    assert_real(-0.5, "-0.5");
    assert_real(1795191573.25, "1795191573.25");
    assert_real(1.0 / 3, "0.333333");
    assert_real(0.9999999, "1.0");
    assert_real(99.9999996, "100.0");
    assert_real(NAN, "0.0");
    assert_real(INFINITY, "0.0");
    assert_real(-1e300, "0.0");
}

static void test_integers(void **state)
{
    const struct kvl_chunk_id largest = {.bits = UINT64_MAX};
    const struct kvl_chunk_id minus_one = {.bits = UINT64_MAX, .negative = 1};

    (void)state;
    controller_text_signed(&text, INT64_MIN);
    controller_text_put(&text, " ");
    controller_text_unsigned(&text, 0);
    controller_text_put(&text, " ");
    controller_text_id(&text, &largest);
    controller_text_put(&text, " ");
    controller_text_id(&text, &minus_one);
    assert_string_equal(text.at, "-9223372036854775808 0 18446744073709551615 -1");
}

static void test_json_strings(void **state)
{
    (void)state;
    controller_text_json(&text, "a\"\\\n\x01\x7f", 6);
    assert_string_equal(text.at, "\"a\\\"\\\\\\u000a\\u0001\\u007f\"");
    controller_text_fini(&text);
    /* a lone byte, an overlong slash, half a surrogate, a cut sequence, a good one */
    controller_text_json0(&text, "\xff|\xc0\xaf|\xed\xa0\x80|\xe4\xb8|\xf0\x9f\x98\x80");
    assert_string_equal(text.at, "\"?|\?\?|\?\?\?|\?\?|\xf0\x9f\x98\x80\"");
    controller_text_fini(&text);
    controller_text_json(&text, "\xe4\xb8\xad", 2); /* what is behind the end is not looked at */
    assert_string_equal(text.at, "\"\?\?\"");
}

static void test_labels(void **state)
{
    (void)state;
    controller_text_label(&text, "a\"\\\n\x01\xff");
    assert_string_equal(text.at, "a\\\"\\\\\\n\?\?");
}

static void test_bound(void **state)
{
    char *block = calloc(1, 1 << 20);
    size_t used;

    (void)state;
    for (int i = 0; i < 63; i++) {
        controller_text_bytes(&text, block, 1 << 20);
    }
    assert_false(text.failed);
    controller_text_bytes(&text, block, 1 << 20);
    assert_true(text.failed);
    used = text.used;
    controller_text_put(&text, "x");
    assert_int_equal(text.used, used);
    free(block);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_reals, tear_down),
        cmocka_unit_test_teardown(test_integers, tear_down),
        cmocka_unit_test_teardown(test_json_strings, tear_down),
        cmocka_unit_test_teardown(test_labels, tear_down),
        cmocka_unit_test_teardown(test_bound, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
