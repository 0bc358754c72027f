/* SPDX-License-Identifier: Apache-2.0 */
#include "rig.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "tcp_remote_access.h"

static struct kvl_sock_addr addr_of(const char *text)
{
    struct kvl_sock_addr addr = {0};
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};

    if (inet_pton(AF_INET, text, &v4.sin_addr) == 1) {
        memcpy(&addr.sa, &v4, sizeof(v4));
        addr.length = sizeof(v4);
    } else {
        assert_int_equal(inet_pton(AF_INET6, text, &v6.sin6_addr), 1);
        memcpy(&addr.sa, &v6, sizeof(v6));
        addr.length = sizeof(v6);
    }
    return addr;
}

static int judge(const char *allow, const char *deny, const char *text)
{
    const struct kvl_sock_addr addr = addr_of(text);
    struct tcp_remote_access access = {0};
    char bad[64];

    assert_int_equal(tcp_remote_nets_parse(allow, &access.allow, bad, sizeof(bad)), 0);
    assert_int_equal(tcp_remote_nets_parse(deny, &access.deny, bad, sizeof(bad)), 0);
    return tcp_remote_access_allows(&access, &addr);
}

static void test_networks(void **state)
{
    (void)state;
    assert_true(judge("10.0.0.0/8", "", "10.255.1.2"));
    assert_false(judge("10.0.0.0/8", "", "11.0.0.0"));
    assert_true(judge("192.168.4.0/22", "", "192.168.7.255"));
    assert_false(judge("192.168.4.0/22", "", "192.168.8.0"));
    assert_true(judge("192.168.1.7", "", "192.168.1.7"));
    assert_false(judge("192.168.1.7", "", "192.168.1.6"));
    assert_true(judge("192.168.1.6/31", "", "192.168.1.7"));
    assert_true(judge("0.0.0.0/0", "", "1.2.3.4"));
    assert_false(judge("0.0.0.0/0", "", "::1"));
    assert_false(judge("::/0", "", "1.2.3.4"));
    assert_true(judge("fd00::/9", "", "fd7f::1"));
    assert_false(judge("fd00::/9", "", "fd80::1"));
    assert_true(judge("::1", "", "::1"));
    assert_false(judge("::1", "", "::2"));
}

static void test_ipv4_in_ipv6_is_ipv4(void **state)
{
    (void)state;
    assert_true(judge("10.0.0.0/8", "", "::ffff:10.1.2.3"));
    assert_false(judge("10.0.0.0/8", "", "::ffff:11.1.2.3"));
    assert_true(judge("::ffff:10.0.0.0/104", "", "10.1.2.3"));
    assert_false(judge("", "10.0.0.0/8", "::ffff:10.1.2.3"));
    assert_false(judge("::/0", "", "::ffff:10.1.2.3"));
}

static void test_deny_wins_and_empty_allows(void **state)
{
    (void)state;
    assert_true(judge("", "", "8.8.8.8"));
    assert_true(judge(" , ", "", "8.8.8.8"));
    assert_false(judge("", "8.8.8.8", "8.8.8.8"));
    assert_true(judge("", "8.8.8.8", "8.8.8.9"));
    assert_false(judge("8.0.0.0/8 , ::1", "8.8.0.0/16", "8.8.8.8"));
    assert_true(judge("8.0.0.0/8 , ::1", "8.8.0.0/16", "8.9.8.8"));
    assert_true(judge("8.0.0.0/8 , ::1", "8.8.0.0/16", "::1"));
}

static void test_other_kinds_pass(void **state)
{
    struct kvl_sock_addr addr = {.sa.ss_family = AF_UNIX};
    struct tcp_remote_access access = {0};
    char bad[64];

    (void)state;
    assert_int_equal(tcp_remote_nets_parse("0.0.0.0/0", &access.deny, bad, sizeof(bad)), 0);
    assert_true(tcp_remote_access_allows(&access, &addr));
}

static void test_mistakes_are_named(void **state)
{
    static const char *const wrong[] = {
        "10.0.0.1/8",
        "10.0.0.0/33",
        "10.0.0.0/",
        "10.0.0.0/-1",
        "10.0.0.0/8x",
        "10.0.0",
        "localhost",
        "fd00::1/8",
        "::/129",
        "1.2.3.4/8/8",
        "0123456789012345678901234567890123456789012345678901234567890123456789",
    };
    struct tcp_remote_nets nets = {.count = 7};
    char text[128];
    char bad[64];

    (void)state;
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        snprintf(text, sizeof(text), "::1, %s , 1.2.3.4", wrong[i]);
        assert_int_equal(tcp_remote_nets_parse(text, &nets, bad, sizeof(bad)), -EINVAL);
        assert_int_equal(strncmp(bad, wrong[i], 63), 0);
        assert_int_equal(nets.count, 7);
    }
}

static void test_too_many(void **state)
{
    struct tcp_remote_nets nets = {.count = 0};
    char text[1024] = "";
    char bad[64];
    size_t length = 0;

    (void)state;
    for (uint32_t i = 0; i < TCP_REMOTE_NETS_MAX; i++) {
        length += (size_t)snprintf(text + length, sizeof(text) - length, "10.0.0.%u,", i);
    }
    assert_int_equal(tcp_remote_nets_parse(text, &nets, bad, sizeof(bad)), 0);
    assert_int_equal(nets.count, TCP_REMOTE_NETS_MAX);
    snprintf(text + length, sizeof(text) - length, "::1");
    assert_int_equal(tcp_remote_nets_parse(text, &nets, bad, sizeof(bad)), -E2BIG);
    assert_string_equal(bad, "::1");
}

static void test_users(void **state)
{
    struct tcp_remote_access access = {0};
    char bad[64];

    (void)state;
    assert_int_equal(tcp_remote_uids_parse("1000, 1001", &access, bad, sizeof(bad)), 0);
    assert_true(tcp_remote_access_allows_uid(&access, 5, 1000));
    assert_true(tcp_remote_access_allows_uid(&access, 5, 1001));
    assert_true(tcp_remote_access_allows_uid(&access, 5, 5));
    assert_true(tcp_remote_access_allows_uid(&access, 5, 0));
    assert_false(tcp_remote_access_allows_uid(&access, 5, 1002));
    assert_int_equal(tcp_remote_uids_parse("1000,root", &access, bad, sizeof(bad)), -EINVAL);
    assert_string_equal(bad, "root");
    assert_int_equal(tcp_remote_uids_parse("4294967295", &access, bad, sizeof(bad)), -EINVAL);
    assert_int_equal(access.uid_count, 2);
}

/* ---- at a server ---- */

static void test_denied_peers_are_closed_and_counted(void **state)
{
    static const char *const pairs[] = {"role", "server",      "listen", "127.0.0.1:0",
                                        "deny", "127.0.0.0/8", NULL};
    struct rig rig;

    (void)state;
    rig_start(&rig, pairs);
    for (uint64_t i = 1; i <= 3; i++) {
        int fd = rig_connect(&rig);

        rig_expect_eof(fd);
        close(fd);
        assert_int_equal(rig_stat(&rig, "connections_denied"), i);
    }
    assert_int_equal(rig_stat(&rig, "connections_accepted"), 0);
    rig_stop(&rig);
}

static void test_bad_lists_are_refused(void **state)
{
    static const char *const pairs[][5] = {{"role", "server", "allow", "10.0.0.1/8", NULL},
                                           {"role", "server", "deny", "nowhere", NULL},
                                           {"role", "server", "allow_uid", "-1", NULL}};

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        struct fake_host *fake = fake_host_create(kvlane_backend_v1(), pairs[i]);
        struct kvl_err err = {.size = sizeof(err)};

        assert_int_equal(kvlane_backend_v1()->ops->check(fake_host_table(fake), &err), -EINVAL);
        assert_non_null(strstr(err.text, pairs[i][2]));
        assert_non_null(strstr(err.text, pairs[i][3]));
        fake_host_destroy(fake);
    }
}

/* As another user, in a child. @return 0 served; 1 closed; 2 could not connect; 77 not root. */
static int visit_as(uid_t uid, const char *path)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    uint8_t header[TCP_REMOTE_REQUEST_BYTES];
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ssize_t n;

    if (setresuid(uid, uid, uid) != 0) {
        return 77;
    }
    snprintf(un.sun_path, sizeof(un.sun_path), "%s", path);
    if (connect(fd, (const struct sockaddr *)&un, sizeof(un)) != 0) {
        return 2;
    }
    rig_header(header, TCP_REMOTE_HEALTH, 0, "@0@0@0@half");
    (void)!send(fd, header, sizeof(header), MSG_NOSIGNAL);
    n = recv(fd, header, TCP_REMOTE_REPLY_BYTES, MSG_WAITALL);
    return n == TCP_REMOTE_REPLY_BYTES ? 0 : 1;
}

static int visit(const char *program, uid_t uid, const char *path)
{
    char command[512];
    int status;

    /* a process of its own: threads and setuid() do not go together */
    snprintf(command, sizeof(command), "'%s' visit %u '%s'", program, (unsigned)uid, path);
    status = system(command);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static const char *own_path;

static void test_users_of_a_unix_path(void **state)
{
    char folder[] = "/tmp/kvl-access-XXXXXX";
    char program[256];
    char listen[128];
    const char *closed[] = {"role", "server", "listen", listen, NULL};
    const char *open[] = {"role", "server", "listen", listen, "allow_uid", "1234", NULL};
    struct rig rig;

    (void)state;
    if (geteuid() != 0) {
        skip();
    }
    assert_non_null(mkdtemp(folder));
    assert_int_equal(chmod(folder, 0755), 0);
    snprintf(program, sizeof(program), "%s", own_path);
    snprintf(listen, sizeof(listen), "unix:%s/s", folder);
    rig_start(&rig, closed);
    assert_int_equal(visit(program, 0, listen + 5), 0);
    assert_int_equal(visit(program, 1234, listen + 5), 2);
    assert_int_equal(chmod(listen + 5, 0666), 0); /* the mode is not all that stands there */
    assert_int_equal(visit(program, 1234, listen + 5), 1);
    assert_int_equal(rig_stat(&rig, "connections_denied"), 1);
    rig_stop(&rig);
    rig_start(&rig, open);
    assert_int_equal(visit(program, 0, listen + 5), 0);
    assert_int_equal(visit(program, 1234, listen + 5), 0);
    assert_int_equal(visit(program, 1235, listen + 5), 1);
    rig_stop(&rig);
    assert_int_equal(rmdir(folder), 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_networks),
        cmocka_unit_test(test_ipv4_in_ipv6_is_ipv4),
        cmocka_unit_test(test_deny_wins_and_empty_allows),
        cmocka_unit_test(test_other_kinds_pass),
        cmocka_unit_test(test_mistakes_are_named),
        cmocka_unit_test(test_too_many),
        cmocka_unit_test(test_users),
        cmocka_unit_test(test_denied_peers_are_closed_and_counted),
        cmocka_unit_test(test_bad_lists_are_refused),
        cmocka_unit_test(test_users_of_a_unix_path),
    };

    if (argc == 4) {
        return visit_as((uid_t)strtoul(argv[2], NULL, 10), argv[3]);
    }
    own_path = argv[0];
    return cmocka_run_group_tests(tests, NULL, NULL);
}
