/* SPDX-License-Identifier: Apache-2.0 */
#include "cm.h"

#include <errno.h>
#include <string.h>

#include "option.h"

static int64_t parsed;
static char why[200];

static int parse(uint32_t type, const char *text)
{
    const struct kvl_option option = {.name = "o", .type = type, .choices = "client|server"};

    return kvl_option_parse(&option, text, &parsed, why, sizeof(why));
}

static void test_sizes(void **state)
{
    (void)state;
    assert_int_equal(parse(KVL_OPTION_SIZE, "4096"), 0);
    assert_int_equal(parsed, 4096);
    assert_int_equal(parse(KVL_OPTION_SIZE, "64KiB"), 0);
    assert_int_equal(parsed, 65536);
    assert_int_equal(parse(KVL_OPTION_SIZE, "3 g"), 0);
    assert_int_equal(parsed, 3ll << 30);
    assert_int_equal(parse(KVL_OPTION_SIZE, "1.5G"), -EINVAL);
    assert_int_equal(parse(KVL_OPTION_SIZE, "9999999999T"), -EINVAL); /* overflow */
    assert_int_equal(parse(KVL_OPTION_SIZE, ""), -EINVAL);
}

static void test_durations(void **state)
{
    (void)state;
    assert_int_equal(parse(KVL_OPTION_DURATION, "250"), 0);
    assert_int_equal(parsed, 250);
    assert_int_equal(parse(KVL_OPTION_DURATION, "2m"), 0);
    assert_int_equal(parsed, 120000);
    assert_int_equal(parse(KVL_OPTION_DURATION, "2 weeks"), -EINVAL);
    assert_non_null(strstr(why, "duration"));
}

static void test_bools_and_enums(void **state)
{
    (void)state;
    assert_int_equal(parse(KVL_OPTION_BOOL, "Yes"), 0);
    assert_int_equal(parsed, 1);
    assert_int_equal(parse(KVL_OPTION_BOOL, "off"), 0);
    assert_int_equal(parsed, 0);
    assert_int_equal(parse(KVL_OPTION_BOOL, "maybe"), -EINVAL);
    assert_int_equal(parse(KVL_OPTION_ENUM, "server"), 0);
    assert_int_equal(parsed, 1);
    assert_int_equal(parse(KVL_OPTION_ENUM, "serve"), -EINVAL);
    assert_string_equal(why, "one of client|server");
}

static void test_paths_are_absolute(void **state)
{
    (void)state;
    assert_int_equal(parse(KVL_OPTION_PATH, "/run/x"), 0);
    assert_int_equal(parse(KVL_OPTION_PATH, "run/x"), -EINVAL);
}

static void test_ranges_are_kept_and_named(void **state)
{
    const struct kvl_option option = {.name = "o", .type = KVL_OPTION_INT, .min = 1, .max = 64};

    (void)state;
    assert_int_equal(kvl_option_parse(&option, "64", &parsed, why, sizeof(why)), 0);
    assert_int_equal(kvl_option_parse(&option, "65", &parsed, why, sizeof(why)), -EINVAL);
    assert_string_equal(why, "an integer from 1 to 64");
    assert_int_equal(parsed, 64); /* untouched */
}

static void test_near_names(void **state)
{
    const char *names[] = {"max_bytes", "max_chunks", "checksum"};

    (void)state;
    assert_int_equal(kvl_name_distance("abc", "acb"), 1);
    assert_int_equal(kvl_name_distance("", "abc"), 3);
    assert_string_equal(kvl_name_nearest("max_byte", names, 3), "max_bytes");
    assert_string_equal(kvl_name_nearest("chekcsum", names, 3), "checksum");
    assert_null(kvl_name_nearest("colour", names, 3));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_durations),
        cmocka_unit_test(test_bools_and_enums),
        cmocka_unit_test(test_paths_are_absolute),
        cmocka_unit_test(test_ranges_are_kept_and_named),
        cmocka_unit_test(test_near_names),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
