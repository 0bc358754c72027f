/* SPDX-License-Identifier: Apache-2.0 */
/* What backends of two engines tell each other through py_socket's handshake. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

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

static int set_up(void **state)
{
    static const char *const words[] = {"py_socket", "mock_kept", NULL};

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
    };

    rig_be_child(argc, argv);
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
