/* SPDX-License-Identifier: Apache-2.0 */
/* The server role as Redis clients meet it. */
#include "rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define KEY "meta-llama/Llama-3.1-8B-Instruct@1@0@5d1b8de6da1b6d09@bfloat16"
#define PING "*1\r\n$4\r\nPING\r\n"
#define BIG ((size_t)8 << 20)

#define SERVER "role", "server", "listen", "127.0.0.1:0", "resp_listen", "127.0.0.1:0"

static const char *const plain[] = {SERVER, NULL};
static const char *const guarded[] = {SERVER, "resp_password", "open sesame", NULL};

static int resp_connect(const struct rig *rig)
{
    struct kvl_health health = {.size = sizeof(health)};
    struct rig other = *rig;
    const char *at;

    rig->ops->get_health(rig->self, &health);
    at = strstr(health.text, "resp://127.0.0.1:");
    assert_non_null(at);
    other.port = (uint16_t)strtoul(at + strlen("resp://127.0.0.1:"), NULL, 10);
    return rig_connect(&other);
}

static void say(int fd, const char *text)
{
    rig_send(fd, text, strlen(text));
}

static void expect(int fd, const char *text)
{
    char *got = calloc(1, strlen(text) + 1);

    rig_recv(fd, got, strlen(text));
    assert_string_equal(got, text);
    free(got);
}

/* Any error, up to the end of its line. */
static void expect_error(int fd, const char *begin)
{
    char byte = 0;

    expect(fd, begin);
    while (byte != '\n') {
        rig_recv(fd, &byte, 1);
    }
}

static void set(int fd, const char *key, const void *value, size_t length)
{
    char head[1200];
    int n = snprintf(head, sizeof(head), "*3\r\n$3\r\nSET\r\n$%zu\r\n%s\r\n$%zu\r\n", strlen(key),
                     key, length);

    rig_send(fd, head, (size_t)n);
    rig_send(fd, value, length);
    say(fd, "\r\n");
}

static void ask(int fd, const char *command, const char *key)
{
    char text[1400];
    int n = snprintf(text, sizeof(text), "*2\r\n$%zu\r\n%s\r\n$%zu\r\n%s\r\n", strlen(command),
                     command, strlen(key), key);

    rig_send(fd, text, (size_t)n);
}

static void expect_bulk(int fd, const void *value, size_t length)
{
    uint8_t *got = malloc(length + 1);
    char head[32];

    snprintf(head, sizeof(head), "$%zu\r\n", length);
    expect(fd, head);
    rig_recv(fd, got, length);
    assert_memory_equal(got, value, length);
    expect(fd, "\r\n");
    free(got);
}

/* ---- golden ---- */

static void run_golden(size_t step)
{
    struct rig_bytes put = rig_vector("resp_connector_put");
    struct rig_bytes get = rig_vector("resp_connector_get");
    struct rig rig;
    int fd;

    rig_start(&rig, plain);
    fd = resp_connect(&rig);
    rig_send(fd, get.data, get.length);
    expect(fd, "$-1\r\n");
    for (size_t at = 0; at < put.length; at += step) {
        rig_send(fd, put.data + at, put.length - at < step ? put.length - at : step);
    }
    expect(fd, "+OK\r\n");
    for (size_t at = 0; at < get.length; at += step) {
        rig_send(fd, get.data + at, get.length - at < step ? get.length - at : step);
    }
    expect_bulk(fd, put.data + put.length - 258, 256);
    ask(fd, "EXISTS", KEY);
    ask(fd, "exists", "other");
    expect(fd, ":1\r\n:0\r\n");
    assert_int_equal(rig_stat(&rig, "resp_set"), 1);
    assert_int_equal(rig_stat(&rig, "resp_get"), 2);
    assert_int_equal(rig_stat(&rig, "stored"), 1);
    free(put.data);
    free(get.data);
    close(fd);
    rig_stop(&rig);
}

static void test_golden_whole(void **state)
{
    (void)state;
    run_golden(4096);
}

static void test_golden_byte_by_byte(void **state)
{
    (void)state;
    run_golden(1);
}

static void test_golden_pipelined(void **state)
{
    struct rig_bytes put = rig_vector("resp_connector_put");
    struct rig_bytes get = rig_vector("resp_connector_get");
    uint8_t *all = malloc(100 * (put.length + get.length));
    size_t length = 0;
    struct rig rig;
    int fd;

    (void)state;
    rig_start(&rig, plain);
    fd = resp_connect(&rig);
    for (int i = 0; i < 100; i++) {
        memcpy(all + length, put.data, put.length);
        length += put.length;
        memcpy(all + length, get.data, get.length);
        length += get.length;
    }
    rig_send(fd, all, length);
    for (int i = 0; i < 100; i++) {
        expect(fd, "+OK\r\n");
        expect_bulk(fd, put.data + put.length - 258, 256);
    }
    free(all);
    free(put.data);
    free(get.data);
    close(fd);
    rig_stop(&rig);
}

/* ---- what it does not know ---- */

static void test_errors_go_on(void **state)
{
    static const char *const wrong[] = {
        "*2\r\n$3\r\nDEL\r\n$1\r\nk\r\n",
        "*1\r\n$3\r\nGET\r\n",
        "*3\r\n$3\r\nGET\r\n$1\r\na\r\n$1\r\nb\r\n",
        "*3\r\n$6\r\nEXISTS\r\n$1\r\na\r\n$1\r\nb\r\n",
        "*5\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n$2\r\nEX\r\n$2\r\n10\r\n",
        "*2\r\n$3\r\nSET\r\n$1\r\nk\r\n",
        "*2\r\n$6\r\nSELECT\r\n$1\r\n1\r\n",
        "*2\r\n$4\r\nAUTH\r\n$1\r\nx\r\n",
        "*2\r\n$6\r\nCLIENT\r\n$4\r\nKILL\r\n",
        "*3\r\n$5\r\nHELLO\r\n$1\r\n2\r\n$4\r\nAUTH\r\n",
        "*1\r\n$0\r\n\r\n",
    };
    struct rig rig;
    int fd;

    (void)state;
    rig_start(&rig, plain);
    fd = resp_connect(&rig);
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        say(fd, wrong[i]);
        say(fd, PING);
        expect_error(fd, "-ERR ");
        expect(fd, "+PONG\r\n");
    }
    assert_int_equal(fake_host_stored(rig.fake), 0);
    close(fd);
    rig_stop(&rig);
}

static void test_what_clients_say_first(void **state)
{
    struct rig rig;
    int fd;

    (void)state;
    rig_start(&rig, plain);
    fd = resp_connect(&rig);
    say(fd, "PING\r\n");
    expect(fd, "+PONG\r\n");
    ask(fd, "ping", "hello");
    expect(fd, "$5\r\nhello\r\n");
    ask(fd, "HELLO", "3");
    expect_error(fd, "-NOPROTO ");
    ask(fd, "HELLO", "2");
    expect(fd, "*14\r\n$6\r\nserver\r\n$6\r\nkvlane\r\n$7\r\nversion\r\n$5\r\n6.0.0\r\n$5\r\nproto"
               "\r\n:2\r\n$2\r\nid\r\n:1\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\n"
               "master\r\n$7\r\nmodules\r\n*0\r\n");
    say(fd, "*4\r\n$6\r\nCLIENT\r\n$7\r\nSETINFO\r\n$8\r\nLIB-NAME\r\n$2\r\nme\r\n");
    expect(fd, "+OK\r\n");
    ask(fd, "COMMAND", "DOCS");
    expect(fd, "*0\r\n");
    ask(fd, "SELECT", "0");
    expect(fd, "+OK\r\n");
    say(fd, "*1\r\n$4\r\nINFO\r\n");
    expect(fd, "$74\r\n# Server\r\n");
    expect(fd, "server_name:kvlane\r\nredis_version:6.0.0\r\nredis_mode:standalone\r\n\r\n");
    say(fd, "*1\r\n$4\r\nQUIT\r\n" PING);
    expect(fd, "+OK\r\n");
    rig_expect_eof(fd);
    close(fd);
    rig_stop(&rig);
}

static void test_garbage_costs_its_connection(void **state)
{
    static const char *const bad[] = {"GET / HTTP/1.1\r\n\r\n", "*1\r\n$-1\r\n", "*2000\r\n",
                                      "\x16\x03\x01\x02",
                                      "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nvXX"};
    struct rig rig;
    int other;

    (void)state;
    rig_start(&rig, plain);
    other = resp_connect(&rig);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        int fd = resp_connect(&rig);

        say(fd, PING);
        say(fd, bad[i]);
        expect(fd, "+PONG\r\n");
        rig_expect_eof(fd);
        close(fd);
        say(other, PING);
        expect(other, "+PONG\r\n");
        assert_int_equal(rig_stat(&rig, "protocol_errors"), i + 1);
    }
    assert_int_equal(fake_host_stored(rig.fake), 0);
    close(other);
    rig_stop(&rig);
}

/* ---- keys ---- */

static void test_key_space_is_its_own(void **state)
{
    struct rig rig;
    int resp;
    int lm;

    (void)state;
    rig_start(&rig, plain);
    resp = resp_connect(&rig);
    lm = rig_connect(&rig);
    set(resp, "of-resp", "value", 5);
    expect(resp, "+OK\r\n");
    rig_send_request(lm, TCP_REMOTE_PUT, 2, "of-lm");
    rig_send(lm, "lm", 2);
    rig_send_request(lm, TCP_REMOTE_EXIST, 0, "of-resp");
    rig_expect_reply(lm, TCP_REMOTE_FAIL, 0);
    rig_send_request(lm, TCP_REMOTE_EXIST, 0, "\nof-resp");
    rig_expect_reply(lm, TCP_REMOTE_FAIL, 0);
    rig_send_request(lm, TCP_REMOTE_LIST, 0, "x");
    rig_expect_reply(lm, TCP_REMOTE_SUCCESS, 5);
    rig_recv(lm, (char[5]){0}, 5);
    ask(resp, "EXISTS", "of-lm");
    expect(resp, ":0\r\n");
    ask(resp, "GET", "of-resp");
    expect_bulk(resp, "value", 5);
    close(resp);
    close(lm);
    rig_stop(&rig);
}

static void test_key_lengths(void **state)
{
    char key[1200];
    struct rig rig;
    int fd;

    (void)state;
    rig_start(&rig, plain);
    fd = resp_connect(&rig);
    set(fd, "", "empty", 5);
    expect(fd, "+OK\r\n");
    ask(fd, "GET", "");
    expect_bulk(fd, "empty", 5);
    memset(key, 'k', sizeof(key));
    key[149] = '\0';
    set(fd, key, "value", 5);
    expect(fd, "+OK\r\n");
    ask(fd, "GET", key);
    expect_bulk(fd, "value", 5);
    for (size_t length = 150; length <= 1100; length += 475) {
        memset(key, 'k', sizeof(key));
        key[length] = '\0';
        set(fd, key, "value", 5);
        expect_error(fd, "-ERR key is longer than 149 bytes");
        ask(fd, "GET", key);
        expect_error(fd, "-ERR key is longer than 149 bytes");
        ask(fd, "EXISTS", key);
        expect_error(fd, "-ERR key is longer than 149 bytes");
    }
    assert_int_equal(fake_host_stored(rig.fake), 2);
    close(fd);
    rig_stop(&rig);
}

/* ---- values ---- */

static void test_big_values_of_many_connections(void **state)
{
    uint8_t *value = malloc(BIG);
    struct rig rig;
    char key[32];
    int fd[8];

    (void)state;
    rig_start(&rig, plain);
    for (int i = 0; i < 8; i++) {
        fd[i] = resp_connect(&rig);
        memset(value, i + 1, BIG);
        snprintf(key, sizeof(key), "big-%d", i);
        set(fd[i], key, value, BIG);
        ask(fd[i], "GET", key);
    }
    for (int i = 7; i >= 0; i--) {
        memset(value, i + 1, BIG);
        expect(fd[i], "+OK\r\n");
        expect_bulk(fd[i], value, BIG);
        close(fd[i]);
    }
    set(fd[0] = resp_connect(&rig), "none", "", 0);
    expect(fd[0], "+OK\r\n");
    ask(fd[0], "GET", "none");
    expect_bulk(fd[0], "", 0);
    close(fd[0]);
    free(value);
    rig_stop(&rig);
}

static void test_truncated_set_leaves_the_older_value(void **state)
{
    static const char *const cuts[] = {"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nne",
                                       "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nnewer",
                                       "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nnewer\r"};
    struct rig rig;
    int other;

    (void)state;
    rig_start(&rig, plain);
    other = resp_connect(&rig);
    set(other, "k", "old", 3);
    expect(other, "+OK\r\n");
    for (uint32_t i = 0; i < 3; i++) {
        int fd = resp_connect(&rig);

        say(fd, cuts[i]);
        shutdown(fd, SHUT_WR);
        rig_expect_eof(fd);
        close(fd);
        assert_int_equal(fake_host_wait_aborts(rig.fake, i + 1), 0);
        assert_int_equal(rig_stat(&rig, "puts_truncated"), i + 1);
        ask(other, "GET", "k");
        expect_bulk(other, "old", 3);
    }
    close(other);
    rig_stop(&rig);
}

static void test_refused_set_is_drained_and_takes_the_older_value_away(void **state)
{
    static const char *const pairs[] = {SERVER, "max_value", "1000", NULL};
    char *value = calloc(1, 300000);
    struct rig rig;
    int fd;

    (void)state;
    rig_start(&rig, pairs);
    fd = resp_connect(&rig);
    set(fd, "k", "old", 3);
    set(fd, "k", value, 300000);
    say(fd, PING);
    expect(fd, "+OK\r\n");
    expect_error(fd, "-ERR value is over the limit");
    expect(fd, "+PONG\r\n");
    ask(fd, "EXISTS", "k");
    expect(fd, ":0\r\n");
    set(fd, "k", "old", 3);
    expect(fd, "+OK\r\n");
    ask(fd, "EXISTS", "k");
    expect(fd, ":1\r\n");
    assert_int_equal(rig_stat(&rig, "resp_held"), 1);
    fake_host_set_reserve_code(rig.fake, -12 /* ENOMEM */);
    set(fd, "k", "new", 3);
    expect_error(fd, "-ERR no room");
    assert_int_equal(rig_stat(&rig, "resp_held"), 0);
    assert_int_equal(rig_stat(&rig, "puts_refused"), 2);
    ask(fd, "GET", "k");
    expect(fd, "$-1\r\n");
    free(value);
    close(fd);
    rig_stop(&rig);
}

/* ---- EXISTS keeps ---- */

static void test_exists_holds_for_a_while(void **state)
{
    static const char *const pairs[] = {SERVER, "resp_hold", "50", NULL};
    struct rig rig;
    int fd;

    (void)state;
    rig_start(&rig, pairs);
    fd = resp_connect(&rig);
    set(fd, "k", "value", 5);
    ask(fd, "EXISTS", "k");
    expect(fd, "+OK\r\n:1\r\n");
    assert_int_equal(fake_host_wait_releases(rig.fake, 1), 0);
    assert_int_equal(rig_stat(&rig, "resp_held"), 0);
    close(fd);
    rig_stop(&rig);
}

static void test_set_ends_the_hold_of_what_it_replaces(void **state)
{
    struct rig rig;
    int fd;

    (void)state;
    rig_start(&rig, plain);
    fd = resp_connect(&rig);
    set(fd, "k", "value", 5);
    ask(fd, "EXISTS", "k");
    expect(fd, "+OK\r\n:1\r\n");
    assert_int_equal(rig_stat(&rig, "resp_held"), 1);
    assert_int_equal(rig_stat(&rig, "resp_held_bytes"), 5);
    set(fd, "k", "other", 5);
    expect(fd, "+OK\r\n");
    assert_int_equal(rig_stat(&rig, "resp_held"), 0);
    ask(fd, "EXISTS", "k"); /* held when the server stops */
    expect(fd, ":1\r\n");
    close(fd);
    rig_stop(&rig);
}

static void test_hold_can_be_off(void **state)
{
    static const char *const pairs[] = {SERVER, "resp_hold", "0", NULL};
    struct rig rig;
    int fd;

    (void)state;
    rig_start(&rig, pairs);
    fd = resp_connect(&rig);
    set(fd, "k", "value", 5);
    ask(fd, "EXISTS", "k");
    expect(fd, "+OK\r\n:1\r\n");
    assert_int_equal(rig_stat(&rig, "resp_held"), 0);
    close(fd);
    rig_stop(&rig);
}

/* ---- passwords ---- */

static void test_nothing_without_the_password(void **state)
{
    struct rig rig;
    int fd;

    (void)state;
    rig_start(&rig, guarded);
    fd = resp_connect(&rig);
    set(fd, "k", "value", 5);
    expect_error(fd, "-NOAUTH ");
    ask(fd, "GET", "k");
    expect_error(fd, "-NOAUTH ");
    ask(fd, "EXISTS", "k");
    expect_error(fd, "-NOAUTH ");
    say(fd, PING);
    expect_error(fd, "-NOAUTH ");
    ask(fd, "HELLO", "2");
    expect_error(fd, "-NOAUTH ");
    ask(fd, "NONSENSE", "2");
    expect_error(fd, "-NOAUTH ");
    ask(fd, "AUTH", "open sesam");
    expect_error(fd, "-WRONGPASS ");
    ask(fd, "AUTH", "open sesame");
    expect(fd, "+OK\r\n");
    set(fd, "k", "value", 5);
    expect(fd, "+OK\r\n");
    ask(fd, "AUTH", ""); /* a wrong one ends what the right one began */
    expect_error(fd, "-WRONGPASS ");
    ask(fd, "GET", "k");
    expect_error(fd, "-NOAUTH ");
    assert_int_equal(rig_stat(&rig, "resp_auth_failed"), 2);
    close(fd);
    rig_stop(&rig);
}

static void test_user_and_password(void **state)
{
    struct rig rig;
    int fd;

    (void)state;
    rig_start(&rig, guarded);
    fd = resp_connect(&rig);
    say(fd, "*3\r\n$4\r\nAUTH\r\n$4\r\nuser\r\n$11\r\nopen sesame\r\n" PING);
    expect(fd, "+OK\r\n+PONG\r\n");
    close(fd);
    fd = resp_connect(&rig);
    say(fd, "*7\r\n$5\r\nHELLO\r\n$1\r\n2\r\n$4\r\nAUTH\r\n$7\r\ndefault\r\n$11\r\nopen sesame\r\n"
            "$7\r\nSETNAME\r\n$1\r\nx\r\n");
    expect(fd, "*14\r\n$6\r\nserver\r\n");
    close(fd);
    rig_stop(&rig);
}

static void test_guessing_and_waiting_end(void **state)
{
    static const char *const pairs[] = {SERVER,          "resp_password", "open sesame",
                                        "stall_timeout", "300",           NULL};
    struct rig rig;
    int fd;

    (void)state;
    rig_start(&rig, pairs);
    fd = resp_connect(&rig);
    for (int i = 0; i < 8; i++) {
        ask(fd, "AUTH", "guess");
        expect_error(fd, "-WRONGPASS ");
    }
    rig_expect_eof(fd);
    close(fd);
    fd = resp_connect(&rig); /* says nothing at all */
    rig_expect_eof(fd);
    assert_int_equal(rig_stat(&rig, "stalled_closed"), 1);
    close(fd);
    rig_stop(&rig);
}

/* ---- limits ---- */

static void test_half_a_command_is_closed(void **state)
{
    static const char *const halves[] = {"*", "*1\r\n$4\r\nPI", "PIN",
                                         "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nval",
                                         "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nvalue"};
    static const char *const pairs[] = {SERVER, "stall_timeout", "100", NULL};
    struct rig rig;
    int idle;

    (void)state;
    rig_start(&rig, pairs);
    idle = resp_connect(&rig);
    for (uint32_t i = 0; i < sizeof(halves) / sizeof(halves[0]); i++) {
        int fd = resp_connect(&rig);

        say(fd, halves[i]);
        rig_expect_eof(fd);
        assert_int_equal(rig_stat(&rig, "stalled_closed"), i + 1);
        close(fd);
    }
    say(idle, PING);
    expect(idle, "+PONG\r\n");
    close(idle);
    rig_stop(&rig);
}

static void test_slow_reader_is_closed(void **state)
{
    static const char *const pairs[] = {SERVER, "send_timeout", "200", NULL};
    uint8_t *value = calloc(1, BIG);
    struct rig rig;
    int fd;

    (void)state;
    rig_start(&rig, pairs);
    fd = resp_connect(&rig);
    set(fd, "k", value, BIG);
    expect(fd, "+OK\r\n");
    for (int i = 0; i < 4; i++) {
        ask(fd, "GET", "k");
    }
    assert_int_equal(fake_host_wait_releases(rig.fake, 1), 0);
    while (rig_stat(&rig, "slow_readers_closed") == 0) {
        usleep(1000);
    }
    close(fd);
    free(value);
    rig_stop(&rig);
}

static void test_drain_ends_between_commands(void **state)
{
    struct rig rig;
    int fd;

    (void)state;
    rig_start(&rig, plain);
    fd = resp_connect(&rig);
    say(fd, PING);
    expect(fd, "+PONG\r\n");
    say(fd, "*1\r\n$4\r\nPI");
    usleep(20000);
    rig.ops->quiesce(rig.self);
    say(fd, "NG\r\n");
    expect(fd, "+PONG\r\n");
    assert_int_equal(rig.ops->drain(rig.self, KVL_NEVER), 0);
    rig_expect_eof(fd);
    close(fd);
    rig_stop(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_whole),
        cmocka_unit_test(test_golden_byte_by_byte),
        cmocka_unit_test(test_golden_pipelined),
        cmocka_unit_test(test_errors_go_on),
        cmocka_unit_test(test_what_clients_say_first),
        cmocka_unit_test(test_garbage_costs_its_connection),
        cmocka_unit_test(test_key_space_is_its_own),
        cmocka_unit_test(test_key_lengths),
        cmocka_unit_test(test_big_values_of_many_connections),
        cmocka_unit_test(test_truncated_set_leaves_the_older_value),
        cmocka_unit_test(test_refused_set_is_drained_and_takes_the_older_value_away),
        cmocka_unit_test(test_exists_holds_for_a_while),
        cmocka_unit_test(test_set_ends_the_hold_of_what_it_replaces),
        cmocka_unit_test(test_hold_can_be_off),
        cmocka_unit_test(test_nothing_without_the_password),
        cmocka_unit_test(test_user_and_password),
        cmocka_unit_test(test_guessing_and_waiting_end),
        cmocka_unit_test(test_half_a_command_is_closed),
        cmocka_unit_test(test_slow_reader_is_closed),
        cmocka_unit_test(test_drain_ends_between_commands),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
