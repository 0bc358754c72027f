/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "controller_http_json.h"

/* In memory of just that length, so that a sanitizer sees a byte too far. */
static char *copy_of(const char *text, size_t length)
{
    char *copy = malloc(length > 0 ? length : 1);

    memcpy(copy, text, length);
    return copy;
}

static void assert_refused(const char *json, size_t at, const char *why)
{
    size_t length = strlen(json);
    char *copy = copy_of(json, length);
    struct controller_json_error error = {0};
    struct controller_json value;

    assert_int_equal(controller_json_check(copy, length, &value, &error), -EPROTO);
    assert_string_equal(error.text, why);
    assert_int_equal(error.at, at);
    free(copy);
}

static void test_refusals(void **state)
{
    char deep[2 * CONTROLLER_JSON_DEPTH + 3];

    (void)state;
    assert_refused("", 0, "Expecting value");
    assert_refused(" ", 1, "Expecting value");
    assert_refused("nul", 0, "Expecting value");
    assert_refused("[1,]", 3, "Expecting value");
    assert_refused("[1 2]", 3, "Expecting ',' delimiter");
    assert_refused("[01]", 2, "Expecting ',' delimiter");
    assert_refused("[1.]", 2, "Expecting ',' delimiter");
    assert_refused("[1e]", 2, "Expecting ',' delimiter");
    assert_refused("[-]", 1, "Expecting value");
    assert_refused("{\"a\" 1}", 5, "Expecting ':' delimiter");
    assert_refused("{1:2}", 1, "Expecting property name enclosed in double quotes");
    assert_refused("{} {}", 3, "Extra data");
    assert_refused("\"abc", 0, "Unterminated string starting at");
    assert_refused("\"abc\\", 4, "Invalid \\escape");
    assert_refused("\"\\x\"", 1, "Invalid \\escape");
    assert_refused("\"\\u12g4\"", 2, "Invalid \\uXXXX escape");
    assert_refused("\"\\udc00\"", 2, "Invalid \\uXXXX escape");
    assert_refused("\"\\ud800x\"", 7, "Invalid \\uXXXX escape");
    assert_refused("\"\t\"", 1, "Invalid control character at");
    assert_refused("[\"\xc3\xa9\", x]", 6, "Expecting value"); /* characters, not bytes */
    memset(deep, '[', CONTROLLER_JSON_DEPTH + 1);
    memset(deep + CONTROLLER_JSON_DEPTH + 1, ']', CONTROLLER_JSON_DEPTH + 1);
    deep[sizeof(deep) - 1] = '\0';
    assert_refused(deep, CONTROLLER_JSON_DEPTH, "Nested too deeply");
}

static void test_not_utf8(void **state)
{
    struct controller_json_error error;
    struct controller_json value;

    (void)state;
    assert_int_equal(controller_json_check("\"\xc3\"", 3, &value, &error), -EILSEQ);
    assert_int_equal(controller_json_check("\"\xed\xa0\x80\"", 5, &value, &error), -EILSEQ);
}

static struct controller_json root_of(const char *json)
{
    struct controller_json_error error;
    struct controller_json value;

    assert_int_equal(controller_json_check(json, strlen(json), &value, &error), 0);
    return value;
}

static void assert_piece(const struct controller_json *piece, enum controller_json_kind kind,
                         const char *text)
{
    assert_int_equal(piece->kind, kind);
    assert_int_equal(piece->length, strlen(text));
    assert_memory_equal(piece->at, text, piece->length);
}

static void test_walk(void **state)
{
    struct controller_json root =
        root_of(" { \"a\" : [1 , {\"x\":\"]}\"}], \"b\":{} ,\"c\":\"\\\"\",\"d\": -1.5e3 } ");
    struct controller_json_walk walk = controller_json_members(&root);
    struct controller_json key;
    struct controller_json value;

    (void)state;
    assert_true(controller_json_next(&walk, &key, &value));
    assert_piece(&key, CONTROLLER_JSON_STRING, "\"a\"");
    assert_piece(&value, CONTROLLER_JSON_LIST, "[1 , {\"x\":\"]}\"}]");
    assert_true(controller_json_next(&walk, &key, &value));
    assert_piece(&value, CONTROLLER_JSON_OBJECT, "{}");
    assert_true(controller_json_next(&walk, &key, &value));
    assert_piece(&value, CONTROLLER_JSON_STRING, "\"\\\"\"");
    assert_true(controller_json_next(&walk, &key, &value));
    assert_piece(&key, CONTROLLER_JSON_STRING, "\"d\"");
    assert_piece(&value, CONTROLLER_JSON_NUMBER, "-1.5e3");
    assert_false(controller_json_next(&walk, &key, &value));
    root = root_of("[ ]");
    walk = controller_json_members(&root);
    assert_false(controller_json_next(&walk, NULL, &value));
}

static void assert_string(const char *json, const char *text, size_t length)
{
    struct controller_json value = root_of(json);
    char *room = malloc(value.length);
    struct kvl_text got = controller_json_string(&value, room);

    assert_int_equal(got.length, length);
    assert_memory_equal(got.text, text, length);
    free(room);
}

static void test_strings(void **state)
{
    (void)state;
    assert_string("\"\"", "", 0);
    assert_string("\"plain \xc3\xa9\"", "plain \xc3\xa9", 8);
    assert_string("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\/\b\f\n\r\t", 8);
    assert_string("\"\\u0041\\u00e9\\u4e2d\\ud83d\\ude00\\u0000\"",
                  "A\xc3\xa9\xe4\xb8\xad\xf0\x9f\x98\x80\0", 11);
}

static void assert_number(const char *json, enum controller_json_int expected, uint64_t bits,
                          uint32_t negative)
{
    struct controller_json value = root_of(json);
    struct kvl_chunk_id id = {.bits = 77, .negative = 7};

    assert_int_equal(controller_json_number(&value, &id), expected);
    assert_int_equal(id.bits, expected == CONTROLLER_INT_OK ? bits : 77);
    assert_int_equal(id.negative, expected == CONTROLLER_INT_OK ? negative : 7);
}

static void test_numbers(void **state)
{
    (void)state;
    assert_number("0", CONTROLLER_INT_OK, 0, 0);
    assert_number("-0", CONTROLLER_INT_OK, 0, 0);
    assert_number("-1", CONTROLLER_INT_OK, UINT64_MAX, 1);
    assert_number("18446744073709551615", CONTROLLER_INT_OK, UINT64_MAX, 0);
    assert_number("18446744073709551616", CONTROLLER_INT_SIZE, 0, 0);
    assert_number("-9223372036854775808", CONTROLLER_INT_OK, (uint64_t)1 << 63, 1);
    assert_number("-9223372036854775809", CONTROLLER_INT_SIZE, 0, 0);
    assert_number("1.0", CONTROLLER_INT_OK, 1, 0);
    assert_number("1.50e1", CONTROLLER_INT_OK, 15, 0);
    assert_number("1.8e19", CONTROLLER_INT_OK, 18000000000000000000u, 0);
    assert_number("120e-1", CONTROLLER_INT_OK, 12, 0);
    assert_number("1e-1", CONTROLLER_INT_FRACTION, 0, 0);
    assert_number("0.5", CONTROLLER_INT_FRACTION, 0, 0);
    assert_number("0e999999999999999999", CONTROLLER_INT_OK, 0, 0);
    assert_number("1e999999999999999999", CONTROLLER_INT_SIZE, 0, 0);
    assert_number("1e-999999999999999999", CONTROLLER_INT_FRACTION, 0, 0);
    assert_number("true", CONTROLLER_INT_OK, 1, 0);
    assert_number("null", CONTROLLER_INT_TYPE, 0, 0);
    assert_number("[1]", CONTROLLER_INT_TYPE, 0, 0);
    assert_number("\" -12 \"", CONTROLLER_INT_OK, 0 - (uint64_t)12, 1);
    assert_number("\"+1_000\"", CONTROLLER_INT_OK, 1000, 0);
    assert_number("\"7.00\"", CONTROLLER_INT_OK, 7, 0);
    assert_number("\"7.01\"", CONTROLLER_INT_PARSING, 0, 0);
    assert_number("\"1__0\"", CONTROLLER_INT_PARSING, 0, 0);
    assert_number("\"_1\"", CONTROLLER_INT_PARSING, 0, 0);
    assert_number("\"1_\"", CONTROLLER_INT_PARSING, 0, 0);
    assert_number("\"\"", CONTROLLER_INT_PARSING, 0, 0);
    assert_number("\"-\"", CONTROLLER_INT_PARSING, 0, 0);
}

static void test_copy_drops_blanks(void **state)
{
    struct controller_json root = root_of(" {\"a b\" : [ 1 ,\n2 ] , \"c\":\" \\\" \"} ");
    struct controller_text text = {0};

    (void)state;
    controller_json_copy(&text, &root);
    assert_string_equal(text.at, "{\"a b\":[1,2],\"c\":\" \\\" \"}");
    controller_text_fini(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refusals), cmocka_unit_test(test_not_utf8),
        cmocka_unit_test(test_walk),     cmocka_unit_test(test_strings),
        cmocka_unit_test(test_numbers),  cmocka_unit_test(test_copy_drops_blanks),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
