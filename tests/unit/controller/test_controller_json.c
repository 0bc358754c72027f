/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controller_wire.h"
#include "frames.h"

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

struct rig {
    struct controller_arena *arena;
    struct controller_limits limits;
    struct controller_msg msg;
    char *frame; /* without terminator, so that a sanitizer sees the byte beyond */
    char error[256];
};

static int setup(void **state)
{
    struct rig *rig = calloc(1, sizeof(*rig));

    assert_non_null(rig);
    rig->limits = controller_default_limits;
    assert_int_equal(controller_arena_create(&rig->arena), 0);
    *state = rig;
    return 0;
}

static int teardown(void **state)
{
    struct rig *rig = *state;

    controller_arena_destroy(rig->arena);
    free(rig->frame);
    free(rig);
    return 0;
}

static int decode_bytes(struct rig *rig, const char *json, size_t length)
{
    free(rig->frame);
    rig->frame = malloc(length);
    assert_non_null(rig->frame);
    memcpy(rig->frame, json, length);
    return controller_decode(rig->frame, length, &rig->limits, rig->arena, &rig->msg, rig->error,
                             sizeof(rig->error));
}

static int decode(struct rig *rig, const char *json)
{
    return decode_bytes(rig, json, strlen(json));
}

/* The JSON is the message that these words of msgpack are. */
static void expect_words(struct rig *rig, const char *json, const char *words)
{
    struct frame expected = frame_of(words);
    struct controller_buf buf = {0};

    assert_int_equal(decode(rig, json), 0);
    assert_int_equal(controller_encode(&rig->msg, &buf), 0);
    assert_int_equal(buf.length, expected.length);
    assert_memory_equal(buf.at, expected.bytes, expected.length);
    controller_buf_fini(&buf);
    free(expected.bytes);
}

static void expect_error(struct rig *rig, const char *json, int r, const char *error)
{
    assert_int_equal(decode(rig, json), r);
    assert_string_equal(rig->error, error);
}

static void test_messages_are_read(void **state)
{
    struct rig *rig = *state;

    expect_words(rig,
                 "{ \"type\" :\t\"BatchedKVOperationMsg\",\n\"instance_id\":\"a\",\"worker_id\":0,"
                 "\r\"location\":\"x\",\"operations\":[{\"op_type\":\"admit\",\"key\":-1,"
                 "\"seq_num\":0} , {\"seq_num\":1,\"key\":2,\"op_type\":\"evict\"}]} \n",
                 "{5 'type' 'BatchedKVOperationMsg' 'instance_id' 'a' 'worker_id' 0 'location' 'x' "
                 "'operations' [2 {3 'op_type' 'admit' 'key' -1 'seq_num' 0 "
                 "{3 'op_type' 'evict' 'key' 2 'seq_num' 1");
    expect_words(rig,
                 "{\"sync_id\":\"a\",\"is_complete\":true,\"global_progress\":2.5e-1,"
                 "\"can_exit_freeze\":false,\"type\":\"FullSyncStatusRetMsg\","
                 "\"missing_batches\":[]}",
                 "{6 'type' 'FullSyncStatusRetMsg' 'sync_id' 'a' 'is_complete' true "
                 "'global_progress' f0.25 'can_exit_freeze' false 'missing_batches' [0");
    expect_words(rig,
                 "{\"type\":\"HeartbeatRetMsg\",\"commands\":[{\"command_type\":\"full_sync\","
                 "\"args\":{\"a\":[1,2,null,{}]}}]}",
                 "{2 'type' 'HeartbeatRetMsg' 'commands' [1 {3 'command_type' 'full_sync' "
                 "'reason' nil 'args' {1 'a' [4 1 2 nil {0");
    expect_words(rig, "{\"type\":\"ErrorMsg\",\"error\":\"a\",\"error\":\"b\",\"x\":{\"y\":[[]]}}",
                 "{2 'type' 'ErrorMsg' 'error' 'b'");
}

/* "1e1,1e1" or "0,1,2" of so many entries. */
static void put_list(FILE *out, uint32_t count, int floats)
{
    for (uint32_t i = 0; i < count; i++) {
        if (floats) {
            fprintf(out, "%s1e1", i > 0 ? "," : "");
        } else {
            fprintf(out, "%s%u", i > 0 ? "," : "", i);
        }
    }
}

/* Heads are one, three and five bytes; each is only known behind the entries. */
static void test_lists_of_any_length_are_read(void **state)
{
    static const uint32_t counts[] = {0, 1, 15, 16, 17, 65535, 65536, 65537};
    struct rig *rig = *state;
    size_t length = 0;
    char *json = NULL;
    FILE *out;

    for (size_t i = 0; i < COUNT(counts); i++) {
        out = open_memstream(&json, &length);
        assert_non_null(out);
        fputs("{\"x\":[[1e1],[", out);
        put_list(out, counts[i], 1);
        fputs("]],\"type\":\"LookupMsg\",\"event_id\":\"\",\"tokens\":[", out);
        put_list(out, counts[i], 0);
        fputs("]}", out);
        fclose(out);
        assert_int_equal(decode_bytes(rig, json, length), 0);
        free(json);
        assert_int_equal(rig->msg.ids.count, counts[i]);
        for (uint32_t j = 0; j < counts[i]; j++) {
            assert_int_equal(rig->msg.ids.at[j].bits, j);
        }
    }
}

static void test_integers_are_exact(void **state)
{
    struct rig *rig = *state;

    expect_words(rig,
                 "{\"type\":\"LookupMsg\",\"event_id\":\"\",\"tokens\":[18446744073709551615,"
                 "-9223372036854775808,9007199254740993,-0,0,-1,-9007199254740993]}",
                 "{3 'type' 'LookupMsg' 'event_id' '' 'tokens' [7 18446744073709551615 "
                 "-9223372036854775808 9007199254740993 0 0 -1 -9007199254740993");
    expect_error(rig, "{\"tokens\":[18446744073709551616]}", -EPROTO,
                 "Number out of range (byte 11)");
    expect_error(rig, "{\"tokens\":[-9223372036854775809]}", -EPROTO,
                 "Number out of range (byte 11)");
    expect_error(rig, "{\"type\":\"LookupMsg\",\"event_id\":\"\",\"tokens\":[2.0]}", -EPROTO,
                 "Expected `int`, got `float` - at `$.tokens[0]`");
}

static void test_floats_are_read_in_any_locale(void **state)
{
    static const char *const locales[] = {"de_DE.UTF-8", "fr_FR.UTF-8", "C"};
    struct rig *rig = *state;

    for (size_t i = 0; i < COUNT(locales); i++) {
        (void)setlocale(LC_ALL, locales[i]); /* that are installed */
        assert_int_equal(decode(rig, "{\"type\":\"FullSyncStatusRetMsg\",\"sync_id\":\"\","
                                     "\"is_complete\":false,\"global_progress\":-1.25E+2,"
                                     "\"can_exit_freeze\":false}"),
                         0);
        assert_true(rig->msg.global_progress == -125.0);
    }
    expect_error(rig, "{\"x\":1e999}", -EPROTO, "Number out of range (byte 5)");
    assert_int_equal(decode(rig, "{\"type\":\"ErrorMsg\",\"error\":\"\",\"x\":1e-999}"), 0);
}

static void expect_text(struct rig *rig, const char *json, const char *text, size_t length)
{
    char frame[256];

    (void)snprintf(frame, sizeof(frame), "{\"type\":\"ErrorMsg\",\"error\":\"%s\"}", json);
    assert_int_equal(decode(rig, frame), 0);
    assert_int_equal(rig->msg.error.length, length);
    assert_memory_equal(rig->msg.error.text, text, length);
}

static void test_escapes_are_resolved(void **state)
{
    struct rig *rig = *state;

    expect_text(rig, "a\\\"\\\\\\/\\b\\f\\n\\r\\tz", "a\"\\/\b\f\n\r\tz", 10);
    expect_text(rig, "\\u0041\\u00e4\\u20AC\\ud83d\\uDE00.",
                "A\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80.", 11);
    expect_text(rig, "\\u0000", "\0", 1);
    expect_text(rig, "\xc3\xa4\x7f", "\xc3\xa4\x7f", 3);
    expect_text(rig, "\\udbff\\udfff\\ud800\\udc00", "\xf4\x8f\xbf\xbf\xf0\x90\x80\x80", 8);
    /* 31 and 32 characters have heads of one and two bytes */
    expect_text(rig, "123456789012345678901234567890\\n", "123456789012345678901234567890\n", 31);
    expect_text(rig, "1234567890123456789012345678901\\n", "1234567890123456789012345678901\n", 32);
}

static void test_what_is_not_json_is_refused(void **state)
{
    static const struct {
        const char *json;
        const char *error;
    } bad[] = {
        {"{", "Input data was truncated"},
        {"{\"a", "Input data was truncated"},
        {"{\"a\"", "Input data was truncated"},
        {"{\"a\":", "Input data was truncated"},
        {"{\"a\":1", "Input data was truncated"},
        {"{\"a\":[1,", "Input data was truncated"},
        {"{\"a\":tru", "Input data was truncated"},
        {"{\"a\":-", "Input data was truncated"},
        {"{\"a\":\"\\", "Input data was truncated"},
        {"{\"a\":\"\\u12", "Input data was truncated"},
        {"{} {}", "JSON is malformed: trailing characters (byte 3)"},
        {"{a:1}", "JSON is malformed: expected '\"' (byte 1)"},
        {"{1:1}", "JSON is malformed: expected '\"' (byte 1)"},
        {"{,}", "JSON is malformed: expected '\"' (byte 1)"},
        {"{\"a\" 1}", "JSON is malformed: expected ':' (byte 5)"},
        {"{\"a\":1,}", "JSON is malformed: expected '\"' (byte 7)"},
        {"{\"a\":1 \"b\":1}", "JSON is malformed: expected ',' or '}' (byte 7)"},
        {"{\"a\":[1 2]}", "JSON is malformed: expected ',' or ']' (byte 8)"},
        {"{\"a\":[1,]}", "JSON is malformed: invalid character (byte 8)"},
        {"{\"a\":[1}}", "JSON is malformed: expected ',' or ']' (byte 7)"},
        {"{\"a\":NaN}", "JSON is malformed: invalid character (byte 5)"},
        {"{\"a\":nulL}", "JSON is malformed: invalid character (byte 8)"},
        {"{\"a\":Infinity}", "JSON is malformed: invalid character (byte 5)"},
        {"{\"a\":'b'}", "JSON is malformed: invalid character (byte 5)"},
        {"{\"a\":+1}", "JSON is malformed: invalid character (byte 5)"},
        {"{\"a\":.5}", "JSON is malformed: invalid character (byte 5)"},
        {"{\"a\":01}", "JSON is malformed: invalid number (byte 7)"},
        {"{\"a\":-x}", "JSON is malformed: invalid number (byte 6)"},
        {"{\"a\":1.}", "JSON is malformed: invalid number (byte 7)"},
        {"{\"a\":1e}", "JSON is malformed: invalid number (byte 7)"},
        {"{\"a\":1e+}", "JSON is malformed: invalid number (byte 8)"},
        {"{\"a\":0x1}", "JSON is malformed: expected ',' or '}' (byte 6)"},
        {"{\"a\":\"\n\"}", "JSON is malformed: invalid character (byte 6)"},
        {"{\"a\":\"\\x\"}", "JSON is malformed: invalid escape character in string (byte 7)"},
        {"{\"a\":\"\\u12g4\"}", "JSON is malformed: invalid character in unicode escape (byte 10)"},
        {"{\"a\":\"\\ud800\"}", "JSON is malformed: half a surrogate pair (byte 12)"},
        {"{\"a\":\"\\ud800\\u0041\"}", "JSON is malformed: half a surrogate pair (byte 18)"},
        {"{\"a\":\"\\udc00\"}", "JSON is malformed: half a surrogate pair (byte 12)"},
        {"{/**/}", "JSON is malformed: expected '\"' (byte 1)"},
        {"{}", "Object missing required field `type`"},
    };
    struct rig *rig = *state;

    for (size_t i = 0; i < COUNT(bad); i++) {
        expect_error(rig, bad[i].json, -EPROTO, bad[i].error);
    }
    assert_int_equal(decode_bytes(rig, "{\"a\":1\0}", 8), -EPROTO);
    expect_error(rig, "{\"a\":\"\xff\"}", -EILSEQ, "JSON is not UTF-8");
}

static void test_limits_hold(void **state)
{
    char number[610];
    struct rig *rig = *state;

    rig->limits.depth = 2;
    assert_int_equal(decode(rig, "{\"type\":\"ErrorMsg\",\"error\":\"\",\"a\":[[1]]}"), 0);
    expect_error(rig, "{\"type\":\"ErrorMsg\",\"error\":\"\",\"a\":[[[]]]}", -EMSGSIZE,
                 "Nested deeper than 2 levels");
    expect_error(rig, "{\"a\":[[[[[[[[[[[[[[[[[[[[[[", -EMSGSIZE, "Nested deeper than 2 levels");
    rig->limits.text_bytes = 10;
    expect_error(rig, "{\"type\":\"ErrorMsg\",\"error\":\"12345678901\"}", -EMSGSIZE,
                 "String of 11 bytes is over the limit of 10 - at `$.error`");
    rig->limits.list_items = 1;
    expect_error(rig, "{\"type\":\"LookupMsg\",\"tokens\":[1,2]}", -EMSGSIZE,
                 "List of 2 is over the limit of 1 - at `$.tokens`");
    (void)snprintf(number, sizeof(number), "{\"a\":%0600d.0}", 7);
    number[5] = '1'; /* a leading zero would be refused for what it is */
    expect_error(rig, number, -EPROTO, "Number out of range (byte 5)");
    rig->limits.frame_bytes = 10;
    assert_int_equal(decode(rig, "{\"type\":\"ErrorMsg\",\"error\":\"\"}"), -EMSGSIZE);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_messages_are_read),    TEST(test_lists_of_any_length_are_read),
        TEST(test_integers_are_exact),   TEST(test_floats_are_read_in_any_locale),
        TEST(test_escapes_are_resolved), TEST(test_what_is_not_json_is_refused),
        TEST(test_limits_hold),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
