/* SPDX-License-Identifier: Apache-2.0 */
/* Engines that are told by a controller who has what. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "chunks_rig.h"

#define HEAD "log_level = error\n[store]\nmax_bytes = 32MiB\n"
#define BYTES 100000u

/* ---- with a controller that follows a script ---- */

static int folder_set_up(void **state)
{
    static const char *const words[] = {"py_socket", "mock_locate", NULL};

    (void)state;
    rig_gather(words);
    return 0;
}

static int folder_tear_down(void **state)
{
    (void)state;
    rig_scatter();
    return 0;
}

static void test_who_is_named_is_asked(void **state)
{
    struct rig_node a;
    struct rig_node b;
    uint64_t asked;

    (void)state;
    rig_open(&a, HEAD "[py_socket]\n");
    rig_open(&b, HEAD "[py_socket]\n[mock_locate]\nanswer = %s\n", a.url);
    rig_save(&a, "k", BYTES);
    assert_int_equal(rig_lookup(&b, "k", 5000, NULL), 0);
    asked = engine_stat(&b.engine, "mock_locate_asked");
    assert_int_equal(asked, 1);
    assert_int_equal(rig_expect(&b, "k", BYTES), RIG_PEER);
    assert_int_equal(engine_stat(&b.engine, "mock_locate_asked"), asked); /* it is remembered */
    assert_int_equal(rig_lookup(&b, "nobody has it", 5000, NULL), -ENOENT);
    rig_close(&b);
    rig_close(&a);
}

/* What lies behind the run that a peer was named for is asked about anew. */
static void test_a_run_is_asked_for_piece_by_piece(void **state)
{
    struct engine_batch batch;
    char keys[10][8];
    struct rig_node a;
    struct rig_node b;

    (void)state;
    rig_open(&a, HEAD "[py_socket]\n");
    rig_open(&b, HEAD "[py_socket]\n[mock_locate]\nlength = 3\nanswer = %s\n", a.url);
    engine_batch_init(&batch, 5000);
    for (uint32_t i = 0; i < 10; i++) {
        snprintf(keys[i], sizeof(keys[i]), "k%u", i);
        rig_save(&a, keys[i], 1000);
        (void)engine_batch_add(&batch, keys[i], NULL, 0);
    }
    assert_int_equal(b.engine.plugin->lookup(b.engine.instance, &batch.batch, &batch.result, NULL),
                     0);
    assert_int_equal(batch.result.matched, 10);
    assert_int_equal(engine_stat(&b.engine, "mock_locate_asked"), 4);
    rig_close(&b);
    rig_close(&a);
}

static void test_a_controller_that_names_nonsense(void **state)
{
    static const char *const names[] = {"", "here", "127.0.0.1:1", ":::", "999.1.1.1:70000"};
    struct rig_node b;

    (void)state;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        rig_open(&b, HEAD "[py_socket]\nhandshake_timeout = 300ms\n[mock_locate]\nanswer = %s\n",
                 names[i]);
        assert_true(rig_lookup(&b, "k", 5000, NULL) < 0);
        rig_close(&b);
    }
}

/* Deadlines are kept, closing waits for nobody. */
static void test_a_controller_that_hangs(void **state)
{
    struct rig_node b;
    uint64_t start;
    uint64_t took;

    (void)state;
    rig_open(&b, HEAD "[py_socket]\n[mock_locate]\nanswer = never\n");
    assert_true(rig_lookup(&b, "k", 300, &took) < 0);
    assert_true(took < 3000);
    assert_true(engine_await_stat(&b.engine, "mock_locate_asked", 1));
    start = engine_now_ms();
    rig_close(&b);
    assert_true(engine_now_ms() - start < 3000);
}

/* ---- with ours ---- */

struct fleet {
    struct rig_node controller;
    struct rig_node engines[3];
    unsigned pull;
    unsigned reply;
};

static void fleet_engine(struct fleet *fleet, uint32_t number, const char *shm)
{
    const unsigned port = rig_port();

    rig_open(&fleet->engines[number],
             HEAD "[py_socket]\nbind = 127.0.0.1:%u\nshm = %s\nhandshake_timeout = 1s\n"
                  "[controller:worker]\nrole = worker\ninstance_id = engine-%u\n"
                  "controller_pull_url = 127.0.0.1:%u\ncontroller_reply_url = 127.0.0.1:%u\n"
                  "peer_init_url = 127.0.0.1:%u\nrecv_timeout = 2s\nsync_startup_delay = 0\n",
             port, shm, number, fleet->pull, fleet->reply, port);
}

static void fleet_of(const char *shm)
{
    static struct fleet fleet;

    fleet.pull = rig_port();
    fleet.reply = rig_port();
    rig_open(&fleet.controller,
             HEAD "[controller:ctl]\nrole = controller\nhttp = no\npull_port = %u\n"
                  "reply_port = %u\n",
             fleet.pull, fleet.reply);
    for (uint32_t i = 0; i < 3; i++) {
        fleet_engine(&fleet, i, shm);
    }
    rig_save(&fleet.engines[0], "of-0", BYTES);
    rig_save(&fleet.engines[1], "of-1", BYTES);
    for (uint32_t i = 0; i < 3; i++) {
        rig_await(&fleet.engines[i], "of-0", 0);
        rig_await(&fleet.engines[i], "of-1", 0);
        (void)rig_expect(&fleet.engines[i], "of-0", BYTES);
        (void)rig_expect(&fleet.engines[i], "of-1", BYTES);
    }
    assert_int_equal(engine_stat(&fleet.engines[2].engine, "store_chunks"), 0);
    assert_true(engine_stat(&fleet.engines[2].engine, "py_socket_seek_locates") > 0);
    /* one goes: what it had is a miss, what the other one has is not */
    rig_close(&fleet.engines[0]);
    rig_await(&fleet.engines[2], "of-0", -ENOENT);
    assert_int_equal(rig_lookup(&fleet.engines[2], "of-1", 5000, NULL), 0);
    /* the controller goes: what is remembered is found */
    rig_close(&fleet.controller);
    assert_int_equal(rig_expect(&fleet.engines[2], "of-1", BYTES), RIG_PEER);
    rig_close(&fleet.engines[1]);
    rig_close(&fleet.engines[2]);
}

static void test_a_fleet(void **state)
{
    (void)state;
    fleet_of("yes");
    fleet_of("no");
}

int main(void)
{
    const struct CMUnitTest scripted[] = {
        cmocka_unit_test(test_who_is_named_is_asked),
        cmocka_unit_test(test_a_run_is_asked_for_piece_by_piece),
        cmocka_unit_test(test_a_controller_that_names_nonsense),
        cmocka_unit_test(test_a_controller_that_hangs),
    };
    const struct CMUnitTest real[] = {
        cmocka_unit_test(test_a_fleet),
    };
    int failed = cmocka_run_group_tests(scripted, folder_set_up, folder_tear_down);

    return failed + cmocka_run_group_tests(real, NULL, NULL);
}
