/* SPDX-License-Identifier: Apache-2.0 */
#include "rig.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define KEY "meta-llama/Llama-3.1-8B-Instruct@1@0@5d1b8de6da1b6d09@bfloat16"
#define BIG ((size_t)1 << 20)

static const char *const server_pairs[] = {"role", "server", "listen", "127.0.0.1:0", NULL};

static const char *const bodies[] = {
    "4d_bf16", "layer3d_bf16", "mla4d_bf16", "binbuf_cachegen", "fp16", "fp32",          "fp8_e4m3",
    "uint8",   "empty_value",  "key150",     "neg_hash",        "tags", "snapshot_path",
};
#define BODIES (sizeof(bodies) / sizeof(bodies[0]))

enum pace { WHOLE, BYTES };

static void send_vector(int fd, const char *name, enum pace pace)
{
    struct rig_bytes bytes = rig_vector(name);

    for (size_t i = 0; pace == BYTES && i < bytes.length; i++) {
        rig_send(fd, bytes.data + i, 1);
    }
    if (pace == WHOLE) {
        rig_send(fd, bytes.data, bytes.length);
    }
    free(bytes.data);
}

static void expect_vector(int fd, const char *name)
{
    struct rig_bytes bytes = rig_vector(name);
    uint8_t *got = malloc(bytes.length);

    rig_recv(fd, got, bytes.length);
    assert_memory_equal(got, bytes.data, bytes.length);
    free(got);
    free(bytes.data);
}

static void run_golden(enum pace pace)
{
    struct rig rig;
    char name[64];
    int fd;

    rig_start(&rig, server_pairs);
    fd = rig_connect(&rig);
    send_vector(fd, "exist_miss_req", pace);
    expect_vector(fd, "exist_miss_reply");
    send_vector(fd, "get_miss_req", pace);
    expect_vector(fd, "get_miss_reply");
    for (size_t i = 0; i < BODIES; i++) {
        snprintf(name, sizeof(name), "put_%s_req", bodies[i]);
        send_vector(fd, name, pace);
        snprintf(name, sizeof(name), "get_%s_req", bodies[i]);
        send_vector(fd, name, pace);
        snprintf(name, sizeof(name), "get_%s_reply", bodies[i]);
        expect_vector(fd, name);
        if (i == 0) {
            send_vector(fd, "exist_req", pace);
            expect_vector(fd, "exist_hit_reply");
        }
    }
    send_vector(fd, "opaque_exist_0_req", pace);
    expect_vector(fd, "exist_miss_reply");
    send_vector(fd, "opaque_exist_1_req", pace);
    expect_vector(fd, "exist_miss_reply");
    send_vector(fd, "opaque_exist_3_req", pace);
    expect_vector(fd, "exist_miss_reply");
    send_vector(fd, "health_req", pace);
    expect_vector(fd, "health_reply");
    close(fd);
    rig_stop(&rig);
}

static void test_golden_whole(void **state)
{
    (void)state;
    run_golden(WHOLE);
}

static void test_golden_byte_by_byte(void **state)
{
    (void)state;
    run_golden(BYTES);
}

static void test_golden_pipelined_in_one_write(void **state)
{
    uint8_t *all = malloc(65536);
    size_t length = 0;
    struct rig rig;
    char name[64];
    int fd;

    (void)state;
    rig_start(&rig, server_pairs);
    fd = rig_connect(&rig);
    for (size_t i = 0; i < 2 * BODIES; i++) {
        struct rig_bytes bytes;

        snprintf(name, sizeof(name), i % 2 == 0 ? "put_%s_req" : "get_%s_req", bodies[i / 2]);
        bytes = rig_vector(name);
        memcpy(all + length, bytes.data, bytes.length);
        length += bytes.length;
        free(bytes.data);
    }
    rig_send(fd, all, length);
    for (size_t i = 0; i < BODIES; i++) {
        snprintf(name, sizeof(name), "get_%s_reply", bodies[i]);
        expect_vector(fd, name);
    }
    free(all);
    close(fd);
    rig_stop(&rig);
}

static void test_golden_stream(void **state)
{
    struct rig rig;
    int fd;

    (void)state;
    rig_start(&rig, server_pairs);
    fd = rig_connect(&rig);
    send_vector(fd, "stream_pipelined_req", WHOLE);
    expect_vector(fd, "stream_pipelined_reply");
    send_vector(fd, "stream_pipelined_req", BYTES);
    /* the key is there now, so only the first answer differs */
    rig_expect_reply(fd, TCP_REMOTE_SUCCESS, 0);
    close(fd);
    rig_stop(&rig);
}

static void check_list(int fd, size_t length, const char *a, const char *b)
{
    char text[256] = "";
    const char *cut;

    rig_expect_reply(fd, TCP_REMOTE_SUCCESS, (int32_t)length);
    rig_recv(fd, text, length);
    cut = strchr(text, '\n');
    assert_non_null(cut);
    assert_true(strncmp(text, a, strlen(a)) == 0 || strncmp(text, b, strlen(b)) == 0);
    assert_true(strcmp(cut + 1, a) == 0 || strcmp(cut + 1, b) == 0);
}

static void test_list_joins_keys_with_newlines(void **state)
{
    struct rig_bytes expected = rig_vector("list_reply_extension");
    struct rig rig;
    int fd;

    (void)state;
    rig_start(&rig, server_pairs);
    fd = rig_connect(&rig);
    send_vector(fd, "list_req", WHOLE);
    rig_expect_reply(fd, TCP_REMOTE_SUCCESS, 0);
    send_vector(fd, "put_4d_bf16_req", WHOLE);
    send_vector(fd, "put_neg_hash_req", WHOLE);
    fake_host_put(rig.fake, "left\nout", "x", 1, &tcp_remote_no_attrs);
    send_vector(fd, "list_req", WHOLE);
    check_list(fd, expected.length - TCP_REMOTE_REPLY_BYTES, KEY,
               "Qwen/Qwen3-4B@1@0@-5d1b8de6da1b6d09@bfloat16");
    free(expected.data);
    close(fd);
    rig_stop(&rig);
}

/* A bad request costs its connection, and only that one. */
static void check_bad(const char *name, int closes, int32_t code)
{
    struct rig rig;
    int other;
    int fd;

    rig_start(&rig, server_pairs);
    other = rig_connect(&rig);
    send_vector(other, "put_4d_bf16_req", WHOLE);
    send_vector(other, "exist_req", WHOLE);
    expect_vector(other, "exist_hit_reply");
    fd = rig_connect(&rig);
    send_vector(fd, name, WHOLE);
    if (closes) {
        shutdown(fd, SHUT_WR);
        rig_expect_eof(fd);
    } else {
        rig_expect_reply(fd, code, 0);
    }
    close(fd);
    send_vector(other, "exist_req", WHOLE);
    expect_vector(other, "exist_hit_reply");
    close(other);
    rig_stop(&rig);
}

static void test_bad_requests_cost_their_connection(void **state)
{
    (void)state;
    check_bad("bad_command_0", 1, 0);
    check_bad("bad_command_6", 1, 0);
    check_bad("bad_key_empty", 1, 0);
    check_bad("bad_header_half", 1, 0);
    check_bad("bad_put_truncated", 1, 0);
}

static void test_what_python_refuses_is_opaque(void **state)
{
    (void)state;
    check_bad("bad_dtype_9", 0, TCP_REMOTE_SUCCESS);
    check_bad("bad_fmt_99", 0, TCP_REMOTE_SUCCESS);
    check_bad("bad_location_7", 0, TCP_REMOTE_SUCCESS);
    check_bad("bad_key_v0", 0, TCP_REMOTE_FAIL);
}

static void test_bad_command_closes_without_a_reply(void **state)
{
    struct rig rig;
    int fd;

    (void)state;
    rig_start(&rig, server_pairs);
    fd = rig_connect(&rig);
    send_vector(fd, "bad_command_0", WHOLE);
    rig_expect_eof(fd);
    assert_int_equal(rig_stat(&rig, "protocol_errors"), 1);
    close(fd);
    rig_stop(&rig);
}

static void test_negative_length_closes_and_stores_nothing(void **state)
{
    struct rig rig;
    int fd;

    (void)state;
    rig_start(&rig, server_pairs);
    fd = rig_connect(&rig);
    rig_send_request(fd, TCP_REMOTE_PUT, -1, "k");
    rig_expect_eof(fd);
    assert_int_equal(fake_host_stored(rig.fake), 0);
    close(fd);
    rig_stop(&rig);
}

static void test_truncated_put_keeps_the_older_value(void **state)
{
    uint8_t got[3];
    struct rig rig;
    int fd;

    (void)state;
    rig_start(&rig, server_pairs);
    fake_host_put(rig.fake, "k", "old", 3, &tcp_remote_no_attrs);
    fd = rig_connect(&rig);
    rig_send_request(fd, TCP_REMOTE_PUT, 100, "k");
    rig_send(fd, "new", 3);
    close(fd);
    assert_int_equal(fake_host_wait_aborts(rig.fake, 1), 0);
    fd = rig_connect(&rig);
    rig_send_request(fd, TCP_REMOTE_GET, 0, "k");
    rig_expect_reply(fd, TCP_REMOTE_SUCCESS, 3);
    rig_recv(fd, got, 3);
    assert_memory_equal(got, "old", 3);
    assert_int_equal(rig_stat(&rig, "puts_truncated"), 1);
    close(fd);
    rig_stop(&rig);
}

static void check_refused_put(const char *const *pairs, int code)
{
    uint8_t *body = calloc(1, BIG);
    struct rig rig;
    int fd;

    rig_start(&rig, pairs);
    fake_host_put(rig.fake, "k", "old", 3, &tcp_remote_no_attrs);
    fake_host_set_reserve_code(rig.fake, code);
    fd = rig_connect(&rig);
    rig_send_request(fd, TCP_REMOTE_PUT, (int32_t)BIG, "k");
    rig_send(fd, body, BIG);
    rig_send_request(fd, TCP_REMOTE_EXIST, 0, "k");
    rig_expect_reply(fd, TCP_REMOTE_FAIL, 0);
    assert_int_equal(rig_stat(&rig, "puts_refused"), 1);
    close(fd);
    free(body);
    rig_stop(&rig);
}

static void test_put_without_room_is_drained_and_removes(void **state)
{
    (void)state;
    check_refused_put(server_pairs, -ENOMEM);
}

static void test_put_over_the_limit_is_drained_and_removes(void **state)
{
    const char *const pairs[] = {"role",      "server", "listen", "127.0.0.1:0",
                                 "max_value", "1000",   NULL};

    (void)state;
    check_refused_put(pairs, 0);
}

static void test_answers_do_not_wait_for_a_body(void **state)
{
    uint8_t bytes[2 * TCP_REMOTE_REQUEST_BYTES];
    struct rig rig;
    int fd;

    (void)state;
    rig_start(&rig, server_pairs);
    fd = rig_connect(&rig);
    rig_header(bytes, TCP_REMOTE_EXIST, 0, "k");
    rig_header(bytes + TCP_REMOTE_REQUEST_BYTES, TCP_REMOTE_PUT, 4, "k");
    rig_send(fd, bytes, sizeof(bytes));
    rig_expect_reply(fd, TCP_REMOTE_FAIL, 0);
    rig_send(fd, "body", 4);
    rig_send_request(fd, TCP_REMOTE_EXIST, 0, "k");
    rig_expect_reply(fd, TCP_REMOTE_SUCCESS, 0);
    close(fd);
    rig_stop(&rig);
}

/* Sends GETs without reading until both socket buffers are full: the server has stopped reading. */
static void test_pipelining_without_reading_is_safe(void **state)
{
    uint8_t *value = malloc(BIG);
    uint8_t *got = malloc(BIG);
    uint8_t header[TCP_REMOTE_REQUEST_BYTES];
    size_t sent = 0;
    struct rig rig;
    ssize_t n;
    int small = 65536;
    int fd;

    (void)state;
    memset(value, 0x5a, BIG);
    rig_start(&rig, server_pairs);
    fake_host_put(rig.fake, "k", value, BIG, &tcp_remote_no_attrs);
    fd = rig_connect(&rig);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)), 0);
    rig_header(header, TCP_REMOTE_GET, 0, "k");
    for (; sent < 200; sent++) {
        n = send(fd, header, sizeof(header), MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n != (ssize_t)sizeof(header)) {
            break;
        }
    }
    for (size_t i = 0; i < sent; i++) {
        rig_expect_reply(fd, TCP_REMOTE_SUCCESS, (int32_t)BIG);
        rig_recv(fd, got, BIG);
        assert_memory_equal(got, value, BIG);
    }
    close(fd);
    free(got);
    free(value);
    rig_stop(&rig);
}

static void test_overwrite_during_a_send_is_safe(void **state)
{
    size_t length = 16 * BIG;
    uint8_t *value = malloc(length);
    uint8_t *got = malloc(length);
    struct rig rig;
    int other;
    int fd;

    (void)state;
    memset(value, 0x11, length);
    rig_start(&rig, server_pairs);
    fake_host_put(rig.fake, "k", value, length, &tcp_remote_no_attrs);
    fd = rig_connect(&rig);
    rig_send_request(fd, TCP_REMOTE_GET, 0, "k");
    rig_expect_reply(fd, TCP_REMOTE_SUCCESS, (int32_t)length);
    other = rig_connect(&rig);
    rig_send_request(other, TCP_REMOTE_PUT, 3, "k");
    rig_send(other, "new", 3);
    assert_int_equal(fake_host_wait_commits(rig.fake, 1), 0);
    rig_recv(fd, got, length);
    assert_memory_equal(got, value, length);
    close(fd);
    close(other);
    free(got);
    free(value);
    rig_stop(&rig);
}

static void test_port_0_is_reported(void **state)
{
    struct kvl_health health = {.size = sizeof(health)};
    struct rig rig;

    (void)state;
    rig_start(&rig, server_pairs);
    rig.ops->get_health(rig.self, &health);
    assert_int_equal(health.state, KVL_HEALTH_OK);
    assert_memory_equal(health.address, "lm://127.0.0.1:", 15);
    assert_true(rig.port > 0);
    rig_stop(&rig);
}

static void test_other_hosts_need_allow_remote(void **state)
{
    const char *const pairs[] = {"role", "server", "listen", "0.0.0.0:0", NULL};
    const struct kvl_backend_desc *desc = kvlane_backend_v1();
    struct fake_host *fake = fake_host_create(desc, pairs);
    struct kvl_err err = {.size = sizeof(err)};
    void *self = NULL;

    (void)state;
    assert_int_equal(desc->ops->create(fake_host_table(fake), &self, &err), 0);
    assert_int_equal(desc->ops->start(self, &err), -EACCES);
    assert_non_null(strstr(err.text, "allow_remote"));
    desc->ops->destroy(self);
    fake_host_destroy(fake);
}

static void test_connections_over_the_limit_are_closed(void **state)
{
    const char *const pairs[] = {"role", "server", "listen", "127.0.0.1:0", "max_connections",
                                 "1",    NULL};
    struct rig rig;
    int other;
    int fd;

    (void)state;
    rig_start(&rig, pairs);
    fd = rig_connect(&rig);
    rig_send_request(fd, TCP_REMOTE_HEALTH, 0, TCP_REMOTE_HEALTH_KEY);
    rig_expect_reply(fd, TCP_REMOTE_SUCCESS, 0);
    other = rig_connect(&rig);
    rig_expect_eof(other);
    close(other);
    rig_send_request(fd, TCP_REMOTE_HEALTH, 0, TCP_REMOTE_HEALTH_KEY);
    rig_expect_reply(fd, TCP_REMOTE_SUCCESS, 0);
    assert_int_equal(rig_stat(&rig, "connections_refused"), 1);
    close(fd);
    rig_stop(&rig);
}

static void test_half_a_header_is_not_waited_for(void **state)
{
    const char *const pairs[] = {"role",          "server", "listen", "127.0.0.1:0",
                                 "stall_timeout", "50",     NULL};
    struct rig rig;
    int fd;

    (void)state;
    rig_start(&rig, pairs);
    fd = rig_connect(&rig);
    rig_send(fd, "half", 4);
    rig_expect_eof(fd);
    assert_int_equal(rig_stat(&rig, "stalled_closed"), 1);
    close(fd);
    rig_stop(&rig);
}

static void test_half_a_body_gives_its_place_back(void **state)
{
    const char *const pairs[] = {"role",          "server", "listen", "127.0.0.1:0",
                                 "stall_timeout", "50",     NULL};
    struct rig rig;
    int fd;

    (void)state;
    rig_start(&rig, pairs);
    fd = rig_connect(&rig);
    rig_send_request(fd, TCP_REMOTE_PUT, 100, "k");
    rig_expect_eof(fd);
    assert_int_equal(fake_host_wait_aborts(rig.fake, 1), 0);
    close(fd);
    rig_stop(&rig);
}

static void test_slow_reader_is_closed(void **state)
{
    const char *const pairs[] = {"role",         "server", "listen", "127.0.0.1:0",
                                 "send_timeout", "50",     NULL};
    size_t length = 32 * BIG;
    uint8_t *value = calloc(1, length);
    size_t got = 0;
    struct rig rig;
    ssize_t n = 0;
    int fd;

    (void)state;
    rig_start(&rig, pairs);
    fake_host_put(rig.fake, "k", value, length, &tcp_remote_no_attrs);
    fd = rig_connect(&rig);
    rig_send_request(fd, TCP_REMOTE_GET, 0, "k");
    assert_int_equal(fake_host_wait_releases(rig.fake, 1), 0);
    assert_int_equal(rig_stat(&rig, "slow_readers_closed"), 1);
    while ((n = recv(fd, value, length, 0)) > 0) {
        got += (size_t)n;
    }
    assert_true(got < length);
    close(fd);
    free(value);
    rig_stop(&rig);
}

static void test_idle_connections_stay(void **state)
{
    const char *const pairs[] = {"role", "server",       "listen", "127.0.0.1:0", "stall_timeout",
                                 "20",   "send_timeout", "20",     NULL};
    struct rig rig;
    int other;
    int fd;

    (void)state;
    rig_start(&rig, pairs);
    fd = rig_connect(&rig);
    rig_send_request(fd, TCP_REMOTE_HEALTH, 0, TCP_REMOTE_HEALTH_KEY);
    rig_expect_reply(fd, TCP_REMOTE_SUCCESS, 0);
    other = rig_connect(&rig);
    rig_send(other, "half", 4);
    rig_expect_eof(other); /* the limits have passed */
    rig_send_request(fd, TCP_REMOTE_HEALTH, 0, TCP_REMOTE_HEALTH_KEY);
    rig_expect_reply(fd, TCP_REMOTE_SUCCESS, 0);
    close(fd);
    close(other);
    rig_stop(&rig);
}

static void test_drain_lets_a_request_finish(void **state)
{
    uint64_t now;
    struct rig rig;
    int idle;
    int fd;

    (void)state;
    rig_start(&rig, server_pairs);
    idle = rig_connect(&rig);
    rig_send_request(idle, TCP_REMOTE_HEALTH, 0, TCP_REMOTE_HEALTH_KEY);
    rig_expect_reply(idle, TCP_REMOTE_SUCCESS, 0);
    fd = rig_connect(&rig);
    rig_send_request(fd, TCP_REMOTE_EXIST, 0, "k");
    rig_expect_reply(fd, TCP_REMOTE_FAIL, 0);
    rig_send_request(fd, TCP_REMOTE_PUT, 4, "k");
    rig_send(fd, "bo", 2);
    assert_int_equal(fake_host_wait_reserves(rig.fake, 1), 0);
    now = fake_host_table(rig.fake)->now_ms(fake_host_table(rig.fake));
    rig.ops->quiesce(rig.self);
    assert_int_equal(rig.ops->drain(rig.self, now + 1), -ETIMEDOUT);
    rig_expect_eof(idle);
    rig_send(fd, "dy", 2);
    assert_int_equal(rig.ops->drain(rig.self, now + 20000), 0);
    rig_expect_eof(fd);
    assert_true(fake_host_has(rig.fake, "k", 1));
    close(fd);
    close(idle);
    rig_stop(&rig);
}

static void test_quiesce_stops_accepting(void **state)
{
    struct rig rig;
    struct rig next;
    char listen[64];
    const char *const pairs[] = {"role", "server", "listen", listen, NULL};

    (void)state;
    rig_start(&rig, server_pairs);
    rig.ops->quiesce(rig.self);
    assert_int_equal(rig.ops->drain(rig.self, KVL_NEVER), 0);
    /* the port is free: a successor binds it while this one still lives */
    snprintf(listen, sizeof(listen), "127.0.0.1:%u", (unsigned)rig.port);
    rig_start(&next, pairs);
    rig_stop(&next);
    rig_stop(&rig);
}

static void test_stop_ends_everything_under_way(void **state)
{
    uint8_t *value = calloc(1, 16 * BIG);
    struct rig rig;
    int getter;
    int putter;

    (void)state;
    rig_start(&rig, server_pairs);
    fake_host_put(rig.fake, "k", value, 16 * BIG, &tcp_remote_no_attrs);
    getter = rig_connect(&rig);
    rig_send_request(getter, TCP_REMOTE_GET, 0, "k");
    rig_expect_reply(getter, TCP_REMOTE_SUCCESS, 16 * (int32_t)BIG);
    putter = rig_connect(&rig);
    rig_send_request(putter, TCP_REMOTE_EXIST, 0, "k");
    rig_expect_reply(putter, TCP_REMOTE_SUCCESS, 0);
    rig_send_request(putter, TCP_REMOTE_PUT, 100, "p");
    rig_stop(&rig); /* checks leases and places */
    close(getter);
    close(putter);
    free(value);
}

static void test_unix_path_serves_and_goes(void **state)
{
    char path[108];
    char listen[128];
    const char *const pairs[] = {"role", "server", "listen", listen, NULL};
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    struct rig rig;
    int fd;

    (void)state;
    snprintf(path, sizeof(path), "/tmp/kvl-test-%ld.sock", (long)getpid());
    snprintf(listen, sizeof(listen), "unix:%s", path);
    rig_start(&rig, pairs);
    assert_string_equal(rig.url, listen);
    memcpy(addr.sun_path, path, strlen(path));
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)&addr, sizeof(addr)), 0);
    rig_send_request(fd, TCP_REMOTE_HEALTH, 0, TCP_REMOTE_HEALTH_KEY);
    rig_expect_reply(fd, TCP_REMOTE_SUCCESS, 0);
    close(fd);
    rig_stop(&rig);
    assert_int_not_equal(access(path, F_OK), 0);
}

static void test_health_and_list_ignore_the_key(void **state)
{
    uint8_t header[TCP_REMOTE_REQUEST_BYTES];
    struct rig rig;
    int fd;

    (void)state;
    rig_start(&rig, server_pairs);
    fd = rig_connect(&rig);
    rig_header(header, TCP_REMOTE_HEALTH, 0, " "); /* one blank among blanks: no key */
    rig_send(fd, header, sizeof(header));
    rig_expect_reply(fd, TCP_REMOTE_SUCCESS, 0);
    rig_header(header, TCP_REMOTE_LIST, 0, " ");
    rig_send(fd, header, sizeof(header));
    rig_expect_reply(fd, TCP_REMOTE_SUCCESS, 0);
    close(fd);
    rig_stop(&rig);
}

/* Out of descriptors, who waits is closed, not left hanging; later ones are served again. */
static void test_lack_of_descriptors_passes(void **state)
{
    struct rlimit limit;
    struct rlimit low;
    struct rig rig;
    int filler[256];
    size_t fillers = 0;
    int first = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int second = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    (void)state;
    rig_start(&rig, server_pairs);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    low = limit;
    low.rlim_cur = 256;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
    while (fillers < 256 && (filler[fillers] = dup(first)) >= 0) {
        fillers++;
    }
    rig_connect_with(&rig, second);
    rig_expect_eof(second);
    while (fillers > 0) {
        close(filler[--fillers]);
    }
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    rig_connect_with(&rig, first);
    rig_send_request(first, TCP_REMOTE_HEALTH, 0, TCP_REMOTE_HEALTH_KEY);
    rig_expect_reply(first, TCP_REMOTE_SUCCESS, 0);
    close(first);
    close(second);
    rig_stop(&rig);
}

static void test_dead_path_is_taken_over_and_a_live_one_is_not(void **state)
{
    char listen_text[128];
    const char *const pairs[] = {"role", "server", "listen", listen_text, NULL};
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    const struct kvl_backend_desc *desc = kvlane_backend_v1();
    struct kvl_err err = {.size = sizeof(err)};
    struct fake_host *fake;
    void *self = NULL;
    struct rig rig;
    int dead = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    (void)state;
    snprintf(addr.sun_path, sizeof(addr.sun_path), "/tmp/kvl-test-dead-%ld.sock", (long)getpid());
    snprintf(listen_text, sizeof(listen_text), "unix:%s", addr.sun_path);
    assert_int_equal(bind(dead, (const struct sockaddr *)&addr, sizeof(addr)), 0);
    close(dead); /* leaves the path behind */
    rig_start(&rig, pairs);
    fake = fake_host_create(desc, pairs);
    assert_int_equal(desc->ops->create(fake_host_table(fake), &self, &err), 0);
    assert_int_equal(desc->ops->start(self, &err), -EADDRINUSE);
    desc->ops->destroy(self);
    fake_host_destroy(fake);
    assert_int_equal(access(addr.sun_path, F_OK), 0);
    rig_stop(&rig);
}

/* One thread: a peer that moves much, and one that takes nothing, do not hold up a lookup. */
static void test_a_lookup_passes_big_transfers(void **state)
{
    const char *const pairs[] = {"role",       "server", "listen", "127.0.0.1:0",
                                 "io_threads", "1",      NULL};
    uint8_t *value = calloc(1, 64 * BIG);
    struct rig rig;
    int getter;
    int putter;
    int fd;

    (void)state;
    rig_start(&rig, pairs);
    fake_host_put(rig.fake, "k", value, 64 * BIG, &tcp_remote_no_attrs);
    getter = rig_connect(&rig);
    rig_send_request(getter, TCP_REMOTE_GET, 0, "k");
    rig_expect_reply(getter, TCP_REMOTE_SUCCESS, 64 * (int32_t)BIG);
    putter = rig_connect(&rig);
    rig_send_request(putter, TCP_REMOTE_PUT, 64 * (int32_t)BIG, "p");
    rig_send(putter, value, 8 * BIG);
    fd = rig_connect(&rig);
    rig_send_request(fd, TCP_REMOTE_EXIST, 0, "p");
    rig_expect_reply(fd, TCP_REMOTE_FAIL, 0); /* neither transfer is over, nor can it be */
    close(fd);
    close(getter);
    close(putter);
    free(value);
    rig_stop(&rig);
}

/* Between fork() and exec() a child has all descriptors: a close here ends nothing for epoll. */
static void test_descriptors_in_a_child(void **state)
{
    struct rig rig;
    pid_t child;
    int status;
    int gone;
    int fd;

    (void)state;
    rig_start(&rig, server_pairs);
    fd = rig_connect(&rig);
    gone = rig_connect(&rig);
    send_vector(gone, "exist_miss_req", WHOLE);
    expect_vector(gone, "exist_miss_reply");
    child = fork();
    if (child == 0) {
        close(gone);
        alarm(10); /* a test that failed must not leave it behind */
        for (;;) {
            pause();
        }
    }
    assert_true(child > 0);
    close(gone);
    /* the child closes its copy when it gets to run; then the server's end of it goes */
    for (int left = 50, tries = 0; left > 0; left -= rig_stat(&rig, "connections") == 1) {
        send_vector(fd, "exist_miss_req", WHOLE);
        expect_vector(fd, "exist_miss_reply");
        assert_true(tries++ < 200000);
    }
    assert_int_equal(rig_stat(&rig, "connections"), 1);
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    close(fd);
    rig_stop(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_whole),
        cmocka_unit_test(test_golden_byte_by_byte),
        cmocka_unit_test(test_golden_pipelined_in_one_write),
        cmocka_unit_test(test_golden_stream),
        cmocka_unit_test(test_list_joins_keys_with_newlines),
        cmocka_unit_test(test_bad_requests_cost_their_connection),
        cmocka_unit_test(test_what_python_refuses_is_opaque),
        cmocka_unit_test(test_bad_command_closes_without_a_reply),
        cmocka_unit_test(test_negative_length_closes_and_stores_nothing),
        cmocka_unit_test(test_truncated_put_keeps_the_older_value),
        cmocka_unit_test(test_put_without_room_is_drained_and_removes),
        cmocka_unit_test(test_put_over_the_limit_is_drained_and_removes),
        cmocka_unit_test(test_answers_do_not_wait_for_a_body),
        cmocka_unit_test(test_pipelining_without_reading_is_safe),
        cmocka_unit_test(test_overwrite_during_a_send_is_safe),
        cmocka_unit_test(test_port_0_is_reported),
        cmocka_unit_test(test_other_hosts_need_allow_remote),
        cmocka_unit_test(test_connections_over_the_limit_are_closed),
        cmocka_unit_test(test_half_a_header_is_not_waited_for),
        cmocka_unit_test(test_half_a_body_gives_its_place_back),
        cmocka_unit_test(test_slow_reader_is_closed),
        cmocka_unit_test(test_idle_connections_stay),
        cmocka_unit_test(test_drain_lets_a_request_finish),
        cmocka_unit_test(test_quiesce_stops_accepting),
        cmocka_unit_test(test_stop_ends_everything_under_way),
        cmocka_unit_test(test_unix_path_serves_and_goes),
        cmocka_unit_test(test_health_and_list_ignore_the_key),
        cmocka_unit_test(test_lack_of_descriptors_passes),
        cmocka_unit_test(test_dead_path_is_taken_over_and_a_live_one_is_not),
        cmocka_unit_test(test_a_lookup_passes_big_transfers),
        cmocka_unit_test(test_descriptors_in_a_child),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
