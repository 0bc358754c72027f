/* SPDX-License-Identifier: Apache-2.0 */
#include "rig.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tcp_remote_resp.h"

#define KEY "meta-llama/Llama-3.1-8B-Instruct@1@0@5d1b8de6da1b6d09@bfloat16"

/* Feeds pieces of `step` bytes and drops values. @return commands parsed, or -EPROTO. */
static int feed(struct tcp_remote_resp *resp, const char *bytes, size_t length, size_t step)
{
    size_t at = 0;
    size_t end = 0;
    int commands = 0;

    while (at < length) {
        size_t used = 0;
        int r;

        end = end <= at ? at + step : end;
        end = end > length ? length : end;
        r = tcp_remote_resp_parse(resp, bytes + at, end - at, &used);
        if (r < 0) {
            return r;
        }
        assert_true(used <= end - at);
        assert_true(used > 0);
        at += used;
        if (r == TCP_REMOTE_RESP_VALUE) {
            assert_true(resp->value <= length - at);
            at += resp->value;
        }
        commands += r == TCP_REMOTE_RESP_COMMAND;
    }
    return commands;
}

static int parse(struct tcp_remote_resp *resp, const char *text)
{
    memset(resp, 0, sizeof(*resp));
    return feed(resp, text, strlen(text), strlen(text));
}

static void expect_arg(const struct tcp_remote_resp *resp, uint32_t index, const char *text)
{
    assert_true(resp->args[index].kept);
    assert_int_equal(resp->args[index].length, strlen(text));
    assert_memory_equal(resp->text + resp->args[index].at, text, strlen(text));
}

static void test_golden_in_pieces_of_any_size(void **state)
{
    struct rig_bytes put = rig_vector("resp_connector_put");
    struct rig_bytes get = rig_vector("resp_connector_get");

    (void)state;
    for (size_t step = 1; step <= put.length; step++) {
        struct tcp_remote_resp resp = {0};

        assert_int_equal(feed(&resp, (const char *)put.data, put.length, step), 1);
        assert_int_equal(resp.count, 3);
        assert_int_equal(resp.value, 256);
        expect_arg(&resp, 0, "SET");
        expect_arg(&resp, 1, KEY);
        assert_int_equal(feed(&resp, (const char *)get.data, get.length, step), 1);
        assert_int_equal(resp.count, 2);
        expect_arg(&resp, 0, "GET");
        expect_arg(&resp, 1, KEY);
        assert_false(tcp_remote_resp_is_inside(&resp));
    }
    free(put.data);
    free(get.data);
}

static void test_stops_behind_each_command(void **state)
{
    const char *text = "*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nQUIT\r\n";
    struct tcp_remote_resp resp = {0};
    size_t used = 0;

    (void)state;
    assert_int_equal(tcp_remote_resp_parse(&resp, text, strlen(text), &used),
                     TCP_REMOTE_RESP_COMMAND);
    assert_int_equal(used, 14);
    assert_true(tcp_remote_resp_is(&resp, 0, "ping"));
    assert_false(tcp_remote_resp_is(&resp, 1, "ping"));
}

static void test_only_a_set_of_three_has_a_value(void **state)
{
    struct tcp_remote_resp resp = {0};
    const char *text = "*3\r\n$3\r\nsEt\r\n$0\r\n\r\n$5\r\n";
    size_t used = 0;

    (void)state;
    assert_int_equal(tcp_remote_resp_parse(&resp, text, strlen(text), &used),
                     TCP_REMOTE_RESP_VALUE);
    assert_int_equal(used, strlen(text));
    assert_int_equal(resp.value, 5);
    assert_int_equal(resp.args[1].length, 0);
    assert_true(tcp_remote_resp_is_inside(&resp));
    assert_int_equal(
        parse(&resp, "*5\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n$2\r\nEX\r\n$2\r\n10\r\n"), 1);
    expect_arg(&resp, 2, "v");
    expect_arg(&resp, 4, "10");
    assert_int_equal(parse(&resp, "*3\r\n$4\r\nAUTH\r\n$1\r\nu\r\n$1\r\np\r\n"), 1);
    expect_arg(&resp, 2, "p");
}

static void test_what_is_not_resp(void **state)
{
    static const char *const bad[] = {
        "\r\n",
        "GET / HTTP/1.1\r\n",
        "POST / HTTP/1.1\r\n",
        "SET k v\r\n",
        "PINGPONG\r\n",
        "PINK\r\n",
        "P\r\n",
        "$4\r\nPING\r\n",
        "*x\r\n",
        "*\r\n",
        "*-1\r\n",
        "*01\r\n",
        "*+1\r\n",
        "* 1\r\n",
        "*1025\r\n",
        "*99999999999999999999\r\n",
        "*1\n$4\r\n",
        "*1\rX",
        "*1\r\n4\r\n",
        "*1\r\n$\r\n",
        "*1\r\n$-1\r\n",
        "*1\r\n$2147483648\r\n",
        "*1\r\n$4\r\nPINGxx",
        "*1\r\n$4\r\nPING\rx",
        "*1\r\n$3\r\nPING\r\n",
        "*1\r\n:1\r\n",
    };
    struct tcp_remote_resp resp;

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        if (parse(&resp, bad[i]) != -EPROTO) {
            fail_msg("taken: %s", bad[i]);
        }
    }
}

static void test_inline_ping(void **state)
{
    struct tcp_remote_resp resp;

    (void)state;
    assert_int_equal(parse(&resp, "PING\r\nping\nPiNg\r\n"), 3);
    assert_true(tcp_remote_resp_is(&resp, 0, "PING"));
    assert_int_equal(resp.count, 1);
}

static void test_empty_arrays_are_passed_over(void **state)
{
    struct tcp_remote_resp resp;

    (void)state;
    assert_int_equal(parse(&resp, "*0\r\n*0\r\n*1\r\n$4\r\nPING\r\n"), 1);
}

static void parse_long(struct tcp_remote_resp *resp, size_t key_length)
{
    char *text = malloc(8192);
    int n = snprintf(text, 8192, "*2\r\n$3\r\nGET\r\n$%zu\r\n", key_length);

    memset(text + n, 'k', key_length);
    memcpy(text + n + key_length, "\r\n", 3);
    assert_int_equal(parse(resp, text), 1);
    free(text);
}

static void test_long_arguments_are_marked(void **state)
{
    struct tcp_remote_resp resp;

    (void)state;
    parse_long(&resp, TCP_REMOTE_RESP_ARG_MAX);
    assert_true(resp.args[1].kept);
    parse_long(&resp, TCP_REMOTE_RESP_ARG_MAX + 1);
    assert_false(resp.args[1].kept);
    assert_true(tcp_remote_resp_is(&resp, 0, "GET"));
    assert_int_equal(parse(&resp, "*1\r\n$33\r\n012345678901234567890123456789012\r\n"), 1);
    assert_false(resp.args[0].kept);
}

static void test_many_arguments_are_skipped(void **state)
{
    struct tcp_remote_resp resp = {0};
    char *text = malloc(65536);
    size_t length = (size_t)snprintf(text, 65536, "*1024\r\n");

    (void)state;
    for (int i = 0; i < 1024; i++) {
        length += (size_t)snprintf(text + length, 65536 - length, "$3\r\ndel\r\n");
    }
    assert_int_equal(feed(&resp, text, length, 7), 1);
    assert_int_equal(resp.count, 1024);
    expect_arg(&resp, TCP_REMOTE_RESP_ARGS_KEPT - 1, "del");
    free(text);
}

/* Together they are longer than what is kept: the later ones are marked, nothing runs over. */
static void test_arguments_that_do_not_fit_together(void **state)
{
    struct tcp_remote_resp resp = {0};
    char *text = malloc(16384);
    size_t length = (size_t)snprintf(text, 16384, "*6\r\n$4\r\nMGET\r\n");

    (void)state;
    for (int i = 0; i < 5; i++) {
        length += (size_t)snprintf(text + length, 16384 - length, "$1000\r\n%1000d\r\n", i);
    }
    assert_int_equal(feed(&resp, text, length, 100), 1);
    assert_true(resp.args[1].kept);
    assert_false(resp.args[2].kept);
    free(text);
}

static void test_bulk_head(void **state)
{
    char text[TCP_REMOTE_RESP_HEAD_MAX + 1] = {0};

    (void)state;
    assert_int_equal(tcp_remote_resp_bulk_head(0, text), 4);
    assert_string_equal(text, "$0\r\n");
    assert_int_equal(tcp_remote_resp_bulk_head(UINT64_MAX, text), 23);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_in_pieces_of_any_size),
        cmocka_unit_test(test_stops_behind_each_command),
        cmocka_unit_test(test_only_a_set_of_three_has_a_value),
        cmocka_unit_test(test_what_is_not_resp),
        cmocka_unit_test(test_inline_ping),
        cmocka_unit_test(test_empty_arrays_are_passed_over),
        cmocka_unit_test(test_long_arguments_are_marked),
        cmocka_unit_test(test_many_arguments_are_skipped),
        cmocka_unit_test(test_arguments_that_do_not_fit_together),
        cmocka_unit_test(test_bulk_head),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
