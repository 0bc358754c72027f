/* SPDX-License-Identifier: Apache-2.0 */
#include "rig.h"

#include <errno.h>
#include <string.h>

#include "sock.h"

static void test_parses_every_form(void **state)
{
    const struct {
        const char *text;
        const char *host;
        uint16_t port;
        uint8_t is_unix;
    } cases[] = {
        {"lm://host.example:65432", "host.example", 65432, 0},
        {"lm://host:1/", "host", 1, 0},
        {"127.0.0.1:0", "127.0.0.1", 0, 0},
        {"[::1]:80", "::1", 80, 0},
        {"lm://[fe80::1%eth0]:80", "fe80::1%eth0", 80, 0},
        {"unix:/run/kvl.sock", "/run/kvl.sock", 0, 1},
    };
    struct kvl_sock_name name;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_int_equal(kvl_sock_parse(cases[i].text, &name), 0);
        assert_string_equal(name.host, cases[i].host);
        assert_int_equal(name.port, cases[i].port);
        assert_int_equal(name.is_unix, cases[i].is_unix);
    }
}

static void test_refuses_what_is_no_address(void **state)
{
    const char *const texts[] = {"",           "host",     "host:",   ":80",        "lm://",
                                 "host:65536", "host:8x",  "host:-1", "[::1]",      "[::1:80",
                                 "::1:80",     "unix:rel", "host:1/", "lm://h:1/p", "[]:80"};
    struct kvl_sock_name name;

    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        assert_true(kvl_sock_parse(texts[i], &name) < 0);
    }
}

static void check_loopback(const char *text, int expected)
{
    struct kvl_sock_addr addrs[KVL_SOCK_ADDRS_MAX];
    struct kvl_sock_name name;
    size_t count = 0;

    assert_int_equal(kvl_sock_parse(text, &name), 0);
    assert_int_equal(kvl_sock_resolve(&name, 1, addrs, KVL_SOCK_ADDRS_MAX, &count), 0);
    assert_true(count >= 1);
    assert_int_equal(kvl_sock_is_loopback(&addrs[0]), expected);
}

static void test_knows_loopback(void **state)
{
    (void)state;
    check_loopback("127.0.0.1:1", 1);
    check_loopback("127.9.9.9:1", 1);
    check_loopback("[::1]:1", 1);
    check_loopback("[::ffff:127.0.0.1]:1", 1);
    check_loopback("unix:/x", 1);
    check_loopback("0.0.0.0:1", 0);
    check_loopback("[::]:1", 0);
    check_loopback("192.0.2.1:1", 0);
}

static void test_prints_what_it_parses(void **state)
{
    const char *const texts[] = {"127.0.0.1:80", "[::1]:65535", "unix:/a/b"};
    struct kvl_sock_addr addrs[KVL_SOCK_ADDRS_MAX];
    struct kvl_sock_name name;
    char text[KVL_SOCK_TEXT_MAX];
    size_t count = 0;

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(kvl_sock_parse(texts[i], &name), 0);
        assert_int_equal(kvl_sock_resolve(&name, 0, addrs, KVL_SOCK_ADDRS_MAX, &count), 0);
        kvl_sock_print(&addrs[0], text, sizeof(text));
        assert_string_equal(text, texts[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parses_every_form),
        cmocka_unit_test(test_refuses_what_is_no_address),
        cmocka_unit_test(test_knows_loopback),
        cmocka_unit_test(test_prints_what_it_parses),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
