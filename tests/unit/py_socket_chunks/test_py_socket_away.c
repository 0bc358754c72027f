/* SPDX-License-Identifier: Apache-2.0 */
/* Chunks of engines that are not there, die, hang, or come later. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "chunks_rig.h"

#define MIB ((size_t)1 << 20)
#define BIG (8 * MIB)
#define MANY 8u
#define HEAD "log_level = error\n[store]\nmax_bytes = 160MiB\n"
#define TIMEOUT_MS 700u /* of a handshake, below */
/* Less than a handshake that is waited for, more than a slow machine. */
#define QUICK_MS (TIMEOUT_MS - 200u)

static void test_a_peer_comes_later(void **state)
{
    const unsigned port = rig_port();
    struct rig_node a;
    struct rig_node b;

    (void)state;
    rig_open(&b, HEAD "[py_socket]\nhandshake_timeout = %ums\npeers = 127.0.0.1:%u\n", TIMEOUT_MS,
             port);
    assert_true(rig_lookup(&b, "k", 5000, NULL) < 0);
    rig_open(&a, HEAD "[py_socket]\nbind = 127.0.0.1:%u\n", port);
    rig_save(&a, "k", 1000);
    rig_await(&b, "k", 0);
    assert_int_equal(rig_expect(&b, "k", 1000), RIG_PEER);
    /* it goes and comes back under the same name, with other chunks */
    rig_close(&a);
    assert_true(rig_lookup(&b, "k", 5000, NULL) < 0);
    rig_open(&a, HEAD "[py_socket]\nbind = 127.0.0.1:%u\n", port);
    rig_save(&a, "k2", 2000);
    rig_await(&b, "k2", 0);
    assert_int_equal(rig_expect(&b, "k2", 2000), RIG_PEER);
    rig_close(&b);
    rig_close(&a);
}

/* Accepts connections into its backlog and never answers. */
static int black_hole(unsigned *port_out)
{
    struct sockaddr_in at = {.sin_family = AF_INET};
    socklen_t length = sizeof(at);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(listen(fd, 64), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &length), 0);
    *port_out = ntohs(at.sin_port);
    return fd;
}

/* One lookup may wait for the dead ones. After that nobody does, whatever the thread tries. */
static void test_dead_peers_hold_up_one_lookup(void **state)
{
    uint32_t slow = 0;
    struct rig_node a;
    struct rig_node b;
    unsigned hole;
    int fd = black_hole(&hole);

    (void)state;
    rig_open(&a, HEAD "[py_socket]\n");
    rig_open(&b,
             HEAD "[py_socket]\nhandshake_timeout = %ums\n"
                  "peers = 127.0.0.1:%u, 127.0.0.1:%u, %s\n",
             TIMEOUT_MS, hole, rig_port(), a.url);
    rig_save(&a, "k", 1000);
    for (uint64_t until = engine_now_ms() + 5 * TIMEOUT_MS; engine_now_ms() < until;) {
        uint64_t took;

        assert_true(rig_lookup(&b, "nobody has it", 5000, &took) < 0);
        slow += took > QUICK_MS;
        assert_true(took < TIMEOUT_MS + 2000);
        (void)poll(NULL, 0, 20);
    }
    assert_true(slow <= 1);
    assert_int_equal(rig_lookup(&b, "k", 5000, NULL), 0);
    assert_int_equal(rig_expect(&b, "k", 1000), RIG_PEER);
    rig_close(&b);
    rig_close(&a);
    close(fd);
}

/* What somebody has is found without waiting for who hangs. */
static void test_a_hit_waits_for_nobody(void **state)
{
    struct rig_node a;
    struct rig_node b;
    uint64_t took;
    unsigned hole;
    int fd = black_hole(&hole);

    (void)state;
    rig_open(&a, HEAD "[py_socket]\n");
    rig_open(&b, HEAD "[py_socket]\nhandshake_timeout = 10s\npeers = 127.0.0.1:%u, %s\n", hole,
             a.url);
    rig_save(&a, "k", 1000);
    assert_int_equal(rig_lookup(&b, "k", 20000, &took), 0);
    assert_true(took < 5000);
    rig_close(&b);
    rig_close(&a);
    close(fd);
}

/* The next holder is asked when the first has died after the lookup. */
static void failover(const char *shm)
{
    struct rig_child first;
    struct rig_child second;
    struct rig_node b;

    rig_spawn(&first, HEAD "[py_socket]\nshm = %s\n", shm);
    rig_spawn(&second, HEAD "[py_socket]\nshm = %s\n", shm);
    rig_open(&b, HEAD "[py_socket]\nshm = %s\nhandshake_timeout = %ums\npeers = %s, %s\n", shm,
             TIMEOUT_MS, first.url, second.url);
    rig_child_save(&first, "k", 5 * MIB);
    rig_await(&b, "k", 0);
    rig_child_save(&second, "k", 5 * MIB);
    rig_signal(&first, SIGKILL);
    assert_int_equal(rig_expect(&b, "k", 5 * MIB), RIG_PEER);
    rig_reap(&first);
    rig_close(&b);
    rig_reap(&second);
}

static void test_the_next_holder_is_asked(void **state)
{
    (void)state;
    failover("yes");
    failover("no");
}

/* A process that is stopped keeps its connections: only time tells. */
static void hangs(const char *shm)
{
    uint32_t slow = 0;
    struct rig_child a;
    struct rig_node b;
    uint64_t took;
    uint8_t bytes[1000];

    rig_spawn(&a, HEAD "[py_socket]\nshm = %s\n", shm);
    rig_open(&b, HEAD "[py_socket]\nshm = %s\nhandshake_timeout = %ums\npeers = %s\n", shm,
             TIMEOUT_MS, a.url);
    rig_child_save(&a, "k", sizeof(bytes));
    rig_await(&b, "k", 0);
    rig_signal(&a, SIGSTOP);
    for (uint64_t until = engine_now_ms() + 4 * TIMEOUT_MS; engine_now_ms() < until;) {
        assert_true(rig_lookup(&b, "k", 5000, &took) < 0);
        slow += took > QUICK_MS;
        assert_true(rig_load(&b, "k", bytes, sizeof(bytes), 2000) < 0);
        (void)poll(NULL, 0, 20);
    }
    assert_true(slow <= 1);
    rig_signal(&a, SIGCONT);
    rig_await(&b, "k", 0);
    assert_int_equal(rig_expect(&b, "k", sizeof(bytes)), RIG_PEER);
    rig_close(&b);
    rig_reap(&a);
}

static void test_a_peer_that_hangs(void **state)
{
    (void)state;
    hangs("yes");
    hangs("no");
}

/* Closing does not wait for peers. */
static void test_close_while_a_peer_hangs(void **state)
{
    struct engine_batch batch;
    static uint8_t bytes[1000];
    struct rig_child a;
    struct rig_node b;
    uint64_t start;
    uint64_t op;

    (void)state;
    rig_spawn(&a, HEAD "[py_socket]\n");
    rig_open(&b, HEAD "[py_socket]\nhandshake_timeout = 60s\npeers = %s\n", a.url);
    rig_child_save(&a, "k", sizeof(bytes));
    rig_await(&b, "k", 0);
    rig_signal(&a, SIGSTOP);
    engine_batch_init(&batch, 60000);
    (void)engine_batch_add(&batch, "k", bytes, sizeof(bytes));
    assert_int_equal(b.engine.plugin->load(b.engine.instance, &batch.batch, &batch.result, &op),
                     -EINPROGRESS);
    start = engine_now_ms();
    (void)engine_close(&b.engine, 200);
    assert_true(engine_now_ms() - start < 5000);
    rig_signal(&a, SIGCONT);
    rig_reap(&a);
}

/* Killed in the middle of what it sends: a miss or the right bytes. @return chunks lost. */
static uint32_t killed(const char *shm, uint32_t round)
{
    uint8_t *bytes = calloc(MANY, BIG);
    struct engine_batch batch;
    char keys[MANY][8];
    uint32_t lost = 0;
    struct rig_child a;
    struct rig_node b;
    uint64_t op;
    int r;

    rig_spawn(&a, HEAD "[py_socket]\nshm = %s\n", shm);
    rig_open(&b, HEAD "[py_socket]\nshm = %s\nhandshake_timeout = %ums\npeers = %s\n", shm,
             TIMEOUT_MS, a.url);
    engine_batch_init(&batch, 5000);
    for (uint32_t i = 0; i < MANY; i++) {
        snprintf(keys[i], sizeof(keys[i]), "k%u", i);
        rig_child_save(&a, keys[i], BIG);
        (void)engine_batch_add(&batch, keys[i], bytes + i * BIG, BIG);
    }
    rig_await(&b, keys[0], 0);
    r = b.engine.plugin->load(b.engine.instance, &batch.batch, &batch.result, &op);
    (void)poll(NULL, 0, (int)round * 3); /* somewhere on the way */
    rig_signal(&a, SIGKILL);
    if (r == -EINPROGRESS) {
        (void)b.engine.plugin->wait(b.engine.instance, op, engine_now_ms() + 10000, &batch.result);
    }
    for (uint32_t i = 0; i < MANY; i++) {
        assert_true(batch.status[i] <= 0);
        if (batch.status[i] == 0) {
            assert_int_equal(rig_differs(keys[i], bytes + i * BIG, BIG), 0);
        }
        lost += batch.status[i] != 0;
    }
    rig_close(&b);
    rig_reap(&a);
    free(bytes);
    return lost;
}

static void test_killed_in_the_middle(void **state)
{
    uint32_t lost = 0;

    (void)state;
    for (uint32_t round = 0; round < 5; round++) {
        (void)killed("yes", round); /* what it has shown can be copied without it */
        lost += killed("no", round);
    }
    assert_true(lost > 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_peer_comes_later),
        cmocka_unit_test(test_dead_peers_hold_up_one_lookup),
        cmocka_unit_test(test_a_hit_waits_for_nobody),
        cmocka_unit_test(test_the_next_holder_is_asked),
        cmocka_unit_test(test_a_peer_that_hangs),
        cmocka_unit_test(test_close_while_a_peer_hangs),
        cmocka_unit_test(test_killed_in_the_middle),
    };

    rig_be_child(argc, argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
