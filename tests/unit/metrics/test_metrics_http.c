/* SPDX-License-Identifier: Apache-2.0 */
/* The server over real sockets: what it answers, and that nobody can hold it up. */
#include "exposition.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "fake_host.h"

#define PATIENCE_S 20

struct rig {
    struct fake_host *fake;
    struct kvl_host host;
    const struct kvl_backend_desc *desc;
    void *self;
    uint16_t port;
};

static struct rig *rig; /* of the test at hand */
static char answer[1 << 20];

static int rig_begin(const char *const *pairs, struct kvl_err *err)
{
    rig = calloc(1, sizeof(*rig));
    rig->desc = kvlane_backend_v1();
    rig->fake = fake_host_create(rig->desc, pairs);
    rig->host = *fake_host_table(rig->fake);
    exposition_fake(&rig->host);
    exposition_set_state(KVL_HEALTH_OK);
    assert_int_equal(rig->desc->ops->create(&rig->host, &rig->self, err), 0);
    return rig->desc->ops->start(rig->self, err);
}

static void rig_end(void)
{
    rig->desc->ops->stop(rig->self);
    rig->desc->ops->stop(rig->self); /* again is harmless */
    assert_int_equal(fake_host_leaks(rig->fake), 0);
    rig->desc->ops->destroy(rig->self);
    fake_host_destroy(rig->fake);
    free(rig);
}

static int start_with(const char *const *pairs)
{
    struct kvl_err err = {.size = sizeof(err)};
    struct kvl_health health = {.size = sizeof(health)};

    if (rig_begin(pairs, &err) != 0) {
        fail_msg("start: %s", err.text);
    }
    rig->desc->ops->get_health(rig->self, &health);
    rig->port = (uint16_t)strtoul(strrchr(health.address, ':') + 1, NULL, 10);
    assert_true(rig->port != 0);
    return 0;
}

static int set_up(void **state)
{
    static const char *const pairs[] = {"listen", "127.0.0.1:0", NULL};

    (void)state;
    return start_with(pairs);
}

static int set_up_hasty(void **state)
{
    static const char *const pairs[] = {"listen",          "127.0.0.1:0", "timeout", "300",
                                        "max_connections", "4",           NULL};

    (void)state;
    return start_with(pairs);
}

static int tear_down(void **state)
{
    (void)state;
    rig_end();
    return 0;
}

static int connect_to(void)
{
    const struct timeval limit = {.tv_sec = PATIENCE_S};
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(rig->port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_true(fd >= 0);
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    assert_int_equal(connect(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

static void say(int fd, const char *text, size_t length)
{
    /* The server may have had enough of us already. */
    ssize_t n = send(fd, text, length, MSG_NOSIGNAL);

    (void)n;
}

/* Everything until the server closes; fails the test when it does not. */
static size_t hear_all(int fd)
{
    size_t used = 0;
    ssize_t n;

    while ((n = recv(fd, answer + used, sizeof(answer) - 1 - used, 0)) > 0) {
        used += (size_t)n;
    }
    if (n < 0 && errno != ECONNRESET && errno != EPIPE) {
        fail_msg("the server keeps a connection: %s", strerror(errno));
    }
    answer[used] = '\0';
    close(fd);
    return used;
}

/* @return the status; `answer` is the body. */
static int ask(const char *method, const char *path)
{
    char request[256];
    int fd = connect_to();
    int n = snprintf(request, sizeof(request),
                     "%s %s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", method, path);
    char *body;
    int status;

    say(fd, request, (size_t)n);
    hear_all(fd);
    assert_memory_equal(answer, "HTTP/1.1 ", 9);
    status = (int)strtol(answer + 9, NULL, 10);
    body = strstr(answer, "\r\n\r\n");
    assert_non_null(body);
    memmove(answer, body + 4, strlen(body + 4) + 1);
    return status;
}

struct stat_query {
    const char *name;
    uint64_t value;
};

static void take_stat(void *ctx, const char *name, uint64_t value)
{
    struct stat_query *query = ctx;

    if (strcmp(query->name, name) == 0) {
        query->value = value;
    }
}

static uint64_t stat_of(const char *name)
{
    struct stat_query query = {.name = name};

    rig->desc->ops->get_stats(rig->self, take_stat, &query);
    return query.value;
}

static void test_routes(void **state)
{
    (void)state;
    assert_int_equal(ask("GET", "/metrics"), 200);
    assert_true(exposition_check(answer) >= 18);
    assert_int_equal(exposition_value(answer, "kvlane_store_chunks"), 3);
    assert_int_equal(ask("GET", "/metrics?x=1"), 200);
    assert_int_equal(ask("GET", "/health"), 200);
    assert_non_null(strstr(answer, "\"status\": \"degraded\""));
    assert_int_equal(ask("GET", "/"), 200);
    assert_int_equal(ask("HEAD", "/metrics"), 200);
    assert_string_equal(answer, "");
    assert_int_equal(ask("GET", "/metrics/"), 404);
    assert_int_equal(ask("GET", "/%2e%2e/etc/passwd"), 404);
    assert_int_equal(ask("POST", "/metrics"), 405);
    assert_int_equal(ask("DELETE", "/"), 405);
    assert_int_equal(stat_of("scrapes"), 3);
    assert_int_equal(stat_of("requests_refused"), 4);
}

static void test_health_turns_to_503(void **state)
{
    (void)state;
    exposition_set_state(KVL_HEALTH_DOWN);
    assert_int_equal(ask("GET", "/health"), 503);
    exposition_set_state(KVL_HEALTH_OK);
    assert_int_equal(ask("GET", "/health"), 200);
    rig->desc->ops->quiesce(rig->self);
    assert_int_equal(ask("GET", "/health"), 503);
    assert_int_equal(ask("GET", "/metrics"), 200); /* to the end */
}

static void test_garbage(void **state)
{
    static const struct {
        const char *text;
        size_t length;
    } cases[] = {
        {"\r\n\r\n\r\n\r\n", 8},
        {"GET\r\n\r\n", 7},
        {"GET /metrics\r\n\r\n", 16},
        {"\0\0\0\0\xff\xff\xff\xff\r\n\r\n", 12},
        {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 15}, /* TLS */
        {"GET /metrics HTTP/9.9\r\n\r\n", 25},
        {"GET /metrics HTTP/1.1\r\nContent-Length: -5\r\n\r\n", 45},
        {"POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n", 64},
        {"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n", 58},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int fd = connect_to();

        say(fd, cases[i].text, cases[i].length);
        (void)shutdown(fd, SHUT_WR);
        hear_all(fd);
        assert_null(strstr(answer, "kvlane_store")); /* no page for it */
    }
    assert_int_equal(ask("GET", "/metrics"), 200);
}

static void test_long_headers(void **state)
{
    static char header[256 * 1024];
    int fd = connect_to();

    (void)state;
    memset(header, 'a', sizeof(header));
    memcpy(header, "GET /metrics HTTP/1.1\r\nX: ", 26); /* NOLINT: it has no end */
    say(fd, header, sizeof(header));
    hear_all(fd);
    assert_null(strstr(answer, "kvlane_store"));
    assert_int_equal(ask("GET", "/metrics"), 200);
}

/* A header that grows by one byte now and then is cut off all the same. */
static void test_slow_header(void **state)
{
    static const char header[] =
        "GET /metrics HTTP/1.1\r\nX: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    struct pollfd watch = {.fd = connect_to(), .events = POLLIN};
    size_t at = 0;

    (void)state;
    while (at < sizeof(header) - 1 && poll(&watch, 1, 20) == 0) {
        say(watch.fd, header + at++, 1);
    }
    assert_true(at < sizeof(header) - 1);
    hear_all(watch.fd);
    assert_true(stat_of("connections_cut") >= 1);
    assert_int_equal(ask("GET", "/metrics"), 200);
}

/* Four silent ones fill the server; whoever waits is served once they are cut off. */
static void test_many_connections(void **state)
{
    int fds[24];

    (void)state;
    for (size_t i = 0; i < 24; i++) {
        fds[i] = connect_to();
        if (i % 2 == 0) {
            say(fds[i], "GET / HTT", 9);
        }
        assert_true(stat_of("connections") <= 4);
    }
    for (size_t i = 0; i < 24; i++) {
        hear_all(fds[i]);
        assert_true(stat_of("connections") <= 4);
    }
    assert_int_equal(ask("GET", "/metrics"), 200);
}

static void test_keep_alive(void **state)
{
    static const char request[] = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    int fd = connect_to();

    (void)state;
    for (int i = 0; i < 3; i++) {
        ssize_t n;

        say(fd, request, sizeof(request) - 1);
        n = recv(fd, answer, sizeof(answer) - 1, 0);
        assert_true(n > 12);
        assert_memory_equal(answer, "HTTP/1.1 200", 12);
    }
    say(fd, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 46);
    hear_all(fd);
}

static void test_stop_with_open_connections(void **state)
{
    int fd = connect_to();

    (void)state;
    say(fd, "GET /met", 8);
    rig->desc->ops->stop(rig->self);
    hear_all(fd);
}

static void test_refuses_other_hosts(void **state)
{
    static const char *const pairs[] = {"listen", "0.0.0.0:0", NULL};
    struct kvl_err err = {.size = sizeof(err)};

    (void)state;
    assert_int_equal(rig_begin(pairs, &err), -EACCES);
    assert_non_null(strstr(err.text, "allow_remote = yes"));
    rig_end();
}

static void test_takes_other_hosts_when_told(void **state)
{
    static const char *const pairs[] = {"listen", "0.0.0.0:0", "allow_remote", "yes", NULL};
    struct kvl_err err = {.size = sizeof(err)};

    (void)state;
    assert_int_equal(rig_begin(pairs, &err), 0);
    rig_end();
}

static void test_says_what_is_taken(void **state)
{
    char text[64];
    const char *pairs[] = {"listen", text, NULL};
    struct kvl_err err = {.size = sizeof(err)};
    struct rig *first = rig;

    (void)state;
    snprintf(text, sizeof(text), "127.0.0.1:%u", rig->port);
    assert_int_equal(rig_begin(pairs, &err), -EADDRINUSE);
    assert_non_null(strstr(err.text, text));
    rig_end();
    rig = first;
}

static void test_bad_settings(void **state)
{
    static const char *const cases[][2] = {
        {"listen", "nonsense"}, {"listen", "unix:/tmp/x"}, {"listen", "127.0.0.1:99999"},
        {"prefix", "9lives"},   {"prefix", "a-b"},         {"prefix", ""},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const char *pairs[] = {cases[i][0], cases[i][1], NULL};
        struct kvl_err err = {.size = sizeof(err)};
        struct fake_host *fake = fake_host_create(kvlane_backend_v1(), pairs);

        assert_int_equal(kvlane_backend_v1()->ops->check(fake_host_table(fake), &err), -EINVAL);
        assert_non_null(strstr(err.text, cases[i][0]));
        fake_host_destroy(fake);
    }
}

static void test_needs_nobody(void **state)
{
    static const char *const pairs[] = {"listen", "127.0.0.1:0", "needs", "nobody", NULL};
    struct kvl_err err = {.size = sizeof(err)};

    (void)state;
    assert_int_equal(rig_begin(pairs, &err), -EINVAL);
    assert_non_null(strstr(err.text, "nobody"));
    rig_end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_routes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_health_turns_to_503, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_garbage, set_up_hasty, tear_down),
        cmocka_unit_test_setup_teardown(test_long_headers, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_slow_header, set_up_hasty, tear_down),
        cmocka_unit_test_setup_teardown(test_many_connections, set_up_hasty, tear_down),
        cmocka_unit_test_setup_teardown(test_keep_alive, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_stop_with_open_connections, set_up, tear_down),
        cmocka_unit_test(test_refuses_other_hosts),
        cmocka_unit_test(test_takes_other_hosts_when_told),
        cmocka_unit_test_setup_teardown(test_says_what_is_taken, set_up, tear_down),
        cmocka_unit_test(test_bad_settings),
        cmocka_unit_test(test_needs_nobody),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
