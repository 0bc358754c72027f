/* SPDX-License-Identifier: Apache-2.0 */
/* What backends of two engines tell each other through py_socket's handshake. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>

#include "chunks_rig.h"
#include "mock.h"

#define HEAD "log_level = error\n[store]\nmax_bytes = 32MiB\n"
#define WAIT_MS 20000u

static uint64_t sum_of(const char *text)
{
    return mock_sum(text, strlen(text));
}

/* Until the mock of the engine has been told that, for 20 s. */
static void await_sum(struct rig_node *node, const char *name, const char *text)
{
    const uint64_t until = engine_now_ms() + WAIT_MS;

    while (engine_stat(&node->engine, name) != sum_of(text)) {
        assert_true(engine_now_ms() < until);
        (void)poll(NULL, 0, 2);
    }
}

static void await_child_sum(struct rig_child *child, const char *name, const char *text)
{
    const uint64_t until = engine_now_ms() + WAIT_MS;

    while (rig_child_stat(child, name) != sum_of(text)) {
        assert_true(engine_now_ms() < until);
        (void)poll(NULL, 0, 2);
    }
}

/* Nobody looks anything up: peers of the INI file are greeted by themselves, also one that comes
 * back as another process. The channel stands above the backend that offers. */
static void test_both_sides_are_told(void **state)
{
    const unsigned port = rig_port();
    struct rig_child child;
    struct rig_node node;

    (void)state;
    rig_spawn(&child, HEAD "[py_socket]\nbind = 127.0.0.1:%u\n[mock_kept]\noffer = of the child\n",
              port);
    rig_open(&node, HEAD "[py_socket]\npeers = %s\n[mock_kept]\noffer = of the parent\n",
             child.url);
    await_sum(&node, "mock_kept_offer_sum", "of the child");
    await_sum(&node, "mock_kept_peer_sum", child.url);
    assert_int_equal(engine_stat(&node.engine, "mock_kept_same_host"),
                     engine_stat(&node.engine, "mock_kept_connects"));
    await_child_sum(&child, "mock_kept_offer_sum", "of the parent");
    await_child_sum(&child, "mock_kept_peer_sum", node.url);
    assert_true(rig_child_stat(&child, "mock_kept_same_host") > 0);
    rig_signal(&child, SIGKILL);
    rig_reap(&child);
    rig_spawn(&child, HEAD "[py_socket]\nbind = 127.0.0.1:%u\n[mock_kept]\noffer = of its heir\n",
              port);
    await_sum(&node, "mock_kept_offer_sum", "of its heir");
    await_child_sum(&child, "mock_kept_offer_sum", "of the parent");
    rig_close(&node);
    rig_reap(&child);
}

/* Backends with other names, and engines without one, are not disturbed. */
static void test_only_its_like_is_told(void **state)
{
    struct rig_node without;
    struct rig_node node;

    (void)state;
    rig_open(&without, HEAD "[py_socket]\n");
    rig_open(&node, HEAD "[py_socket]\npeers = %s\n[mock_kept]\noffer = to nobody\n", without.url);
    rig_save(&without, "k", 1000);
    rig_await(&node, "k", 0);
    assert_int_equal(engine_stat(&node.engine, "mock_kept_connects"), 0);
    rig_close(&node);
    rig_close(&without);
}

/* ---- chunks that only the memory of a GPU has ---- */

#define KEPT_BYTES 4096u

static void expect_kept(struct rig_node *node, const char *key)
{
    uint8_t bytes[KEPT_BYTES];

    assert_int_equal(rig_load(node, key, bytes, sizeof(bytes), WAIT_MS), 0);
    assert_int_equal(engine_preload_differs(key, bytes, sizeof(bytes)), 0);
}

static void serve_kept(const char *shm)
{
    struct rig_node has;
    struct rig_node asks;

    rig_open(&has, HEAD "[py_socket]\nshm = %s\n[mock_kept]\npreload = k1 k2\nshelf = serve-%s\n",
             shm, shm);
    rig_open(&asks, HEAD "[py_socket]\nshm = %s\npeers = %s\n", shm, has.url);
    rig_await(&asks, "k1", 0);
    assert_int_equal(rig_lookup(&asks, "k3", WAIT_MS, NULL), -ENOENT);
    assert_int_equal(engine_stat(&has.engine, "store_chunks"), 0); /* so far it was only asked */
    expect_kept(&asks, "k1");
    assert_int_equal(engine_stat(&has.engine, "store_chunks"), 1);
    expect_kept(&asks, "k2"); /* without a lookup */
    expect_kept(&asks, "k2");
    assert_int_equal(engine_stat(&has.engine, "mock_kept_read_items"), 2);
    rig_close(&asks);
    rig_close(&has);
}

static void test_an_owner_serves_what_it_keeps(void **state)
{
    (void)state;
    serve_kept("yes");
    serve_kept("no");
}

/* Two that ask each other: a question goes to one peer and not on from there. */
static void test_questions_do_not_go_in_circles(void **state)
{
    const unsigned ports[2] = {rig_port(), rig_port()};
    struct rig_node nodes[2];

    (void)state;
    for (uint32_t i = 0; i < 2; i++) {
        rig_open(&nodes[i],
                 HEAD "[py_socket]\nbind = 127.0.0.1:%u\npeers = 127.0.0.1:%u\n"
                      "[mock_kept]\nshelf = circle-%u\npreload = of-%u\n",
                 ports[i], ports[1 - i], i, i);
    }
    rig_await(&nodes[0], "of-1", 0);
    rig_await(&nodes[1], "of-0", 0);
    for (uint32_t i = 0; i < 2; i++) {
        const uint64_t before = engine_stat(&nodes[1 - i].engine, "py_socket_seek_lookups");

        assert_int_equal(rig_lookup(&nodes[i], "nobody has it", WAIT_MS, NULL), -ENOENT);
        assert_int_equal(engine_stat(&nodes[1 - i].engine, "py_socket_seek_lookups"), before);
    }
    rig_close(&nodes[0]);
    rig_close(&nodes[1]);
}

/* The controller names an engine for what it has in the memory of a GPU only, and rightly so. */
static void test_a_fleet_finds_what_is_kept(void **state)
{
    static struct rig_node controller;
    static struct rig_node engines[2];
    const unsigned pull = rig_port();
    const unsigned reply = rig_port();

    (void)state;
    rig_open(&controller,
             HEAD "[controller:ctl]\nrole = controller\nhttp = no\npull_port = %u\n"
                  "reply_port = %u\n",
             pull, reply);
    for (uint32_t i = 0; i < 2; i++) {
        const unsigned port = rig_port();

        rig_open(&engines[i],
                 HEAD "[py_socket]\nbind = 127.0.0.1:%u\n"
                      "[mock_kept]\nput_to = yes\nshelf = fleet-%u\npreload = of-%u\n"
                      "[controller:worker]\nrole = worker\ninstance_id = engine-%u\n"
                      "controller_pull_url = 127.0.0.1:%u\ncontroller_reply_url = 127.0.0.1:%u\n"
                      "peer_init_url = 127.0.0.1:%u\nrecv_timeout = 2s\nsync_startup_delay = 0\n",
                 port, i, i, i, pull, reply, port);
    }
    rig_await(&engines[0], "of-1", 0);
    rig_await(&engines[1], "of-0", 0);
    expect_kept(&engines[0], "of-1");
    expect_kept(&engines[1], "of-0");
    assert_true(engine_stat(&engines[0].engine, "py_socket_seek_locates") > 0);
    assert_int_equal(engine_stat(&engines[0].engine, "store_chunks"), 1); /* what it served */
    rig_close(&engines[0]);
    rig_close(&engines[1]);
    rig_close(&controller);
}

static int set_up(void **state)
{
    static const char *const words[] = {"py_socket", "controller", "mock_kept", NULL};

    (void)state;
    rig_gather(words);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    rig_scatter();
    return 0;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_sides_are_told),
        cmocka_unit_test(test_only_its_like_is_told),
        cmocka_unit_test(test_an_owner_serves_what_it_keeps),
        cmocka_unit_test(test_questions_do_not_go_in_circles),
        cmocka_unit_test(test_a_fleet_finds_what_is_kept),
    };

    rig_be_child(argc, argv);
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
