/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Engines in processes of their own on one device, with the real plugin: chunks go from the memory
 * of one into the blocks of another, through the own store in host memory, and nothing wrong comes
 * out when one of them is killed. KVL_TEST_CUDA_DRIVER names another driver than the system's, so
 * the same scenarios run on the fake one.
 */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "gpu_engine.h"

#define LAYERS 2u
#define COUNT 5u
#define POOL (COUNT + 1) /* chunks: whole segments */
#define ALL ((1u << COUNT) - 1)
#define SALT 0x1000000000000000u
#define OTHER 0x2000000000000000u

static struct gpu_engine_setup setup_of(uint32_t page, uint32_t pool, uint32_t store)
{
    return (struct gpu_engine_setup){
        .layers = LAYERS, .page = page, .pool_chunks = pool, .store_chunks = store};
}

static struct gpu_answer order(const struct gpu_remote *remote, enum gpu_order_op op, uint64_t salt)
{
    const struct gpu_order order = {.op = op, .count = COUNT, .chunks = ALL, .salt = salt};
    struct gpu_answer answer = {0};

    assert_int_equal(gpu_remote_order(remote, &order, &answer), 0);
    return answer;
}

static uint64_t stat_of(const struct gpu_remote *remote, const char *name)
{
    struct gpu_order order = {.op = GPU_ORDER_STAT};
    struct gpu_answer answer = {0};

    (void)snprintf(order.name, sizeof(order.name), "%s", name);
    assert_int_equal(gpu_remote_order(remote, &order, &answer), 0);
    return answer.value;
}

static void await(const struct gpu_remote *remote, const char *name, uint64_t value)
{
    struct gpu_order order = {.op = GPU_ORDER_AWAIT, .value = value};
    struct gpu_answer answer = {0};

    (void)snprintf(order.name, sizeof(order.name), "%s", name);
    assert_int_equal(gpu_remote_order(remote, &order, &answer), 0);
    assert_int_equal(answer.r, 0);
}

/* Starts an engine that has saved all chunks. */
static void start_saved(struct gpu_remote *remote, const struct gpu_engine_setup *setup,
                        uint64_t salt, struct gpu_answer *ready_out)
{
    gpu_remote_start(remote, setup, ready_out);
    (void)order(remote, GPU_ORDER_FILL, salt);
    assert_int_equal(order(remote, GPU_ORDER_SAVE, 0).r, COUNT);
}

/* Overwrites the blocks, loads, and looks at every byte. */
static void assert_loads(const struct gpu_remote *remote, uint64_t salt, uint32_t near)
{
    struct gpu_answer answer;

    (void)order(remote, GPU_ORDER_FILL, OTHER);
    answer = order(remote, GPU_ORDER_LOAD, 0);
    assert_int_equal(answer.r, COUNT);
    assert_int_equal(answer.near, near);
    assert_int_equal(order(remote, GPU_ORDER_DIFFERS, salt).value, 0);
}

/* ---- one process: device to host and back ---- */

static void through_the_store(uint32_t page)
{
    const struct gpu_engine_setup setup = setup_of(page, 0, COUNT);
    struct gpu_remote remote;
    struct gpu_answer ready;

    start_saved(&remote, &setup, SALT, &ready);
    assert_loads(&remote, SALT, ALL);
    gpu_remote_end(&remote);
}

static void test_pages_of_16_through_the_store(void **state)
{
    (void)state;
    through_the_store(16);
}

static void test_pages_of_64_through_the_store(void **state)
{
    (void)state;
    through_the_store(64);
}

static void test_pages_of_256_through_the_store(void **state)
{
    (void)state;
    through_the_store(256);
}

static void test_own_pool_comes_before_the_store(void **state)
{
    const struct gpu_engine_setup setup = setup_of(16, POOL, COUNT);
    struct gpu_remote remote;
    struct gpu_answer ready;

    (void)state;
    start_saved(&remote, &setup, SALT, &ready);
    assert_loads(&remote, SALT, 0);
    gpu_remote_end(&remote);
}

/* ---- two processes and more ---- */

static void between(uint32_t page, uint32_t other_page)
{
    struct gpu_engine_setup setup = setup_of(page, POOL, 0);
    struct gpu_remote a;
    struct gpu_remote b;
    struct gpu_answer ready;
    uint64_t before;

    start_saved(&a, &setup, SALT, &ready);
    setup = setup_of(other_page, 0, 0);
    (void)snprintf(setup.peers, sizeof(setup.peers), "%s", ready.address);
    gpu_remote_start(&b, &setup, &ready);
    await(&b, "cuda_ipc_peer_links", 1);
    before = stat_of(&b, "store_bytes");
    assert_loads(&b, SALT, 0);
    assert_loads(&b, SALT, 0); /* mapped already */
    assert_int_equal(stat_of(&b, "store_bytes"), before); /* nothing went through the host */
    gpu_remote_end(&b);
    gpu_remote_end(&a);
}

static void test_device_to_device(void **state)
{
    (void)state;
    between(16, 16);
}

static void test_pages_may_differ_between_engines(void **state)
{
    (void)state;
    between(16, 256);
    between(64, 16);
}

/* An engine computes with the first layers while the others arrive. */
static void test_layers_are_there_when_they_are_said_to_be(void **state)
{
    struct gpu_engine_setup setup = setup_of(16, POOL, POOL);
    struct gpu_remote a;
    struct gpu_remote b;
    struct gpu_answer ready;
    struct gpu_answer answer;

    (void)state;
    setup.layers = 8;
    start_saved(&a, &setup, SALT, &ready);
    setup.pool_chunks = 0;
    (void)snprintf(setup.peers, sizeof(setup.peers), "%s", ready.address);
    gpu_remote_start(&b, &setup, &ready);
    await(&b, "cuda_ipc_peer_links", 1);
    (void)order(&b, GPU_ORDER_FILL, OTHER);
    answer = order(&b, GPU_ORDER_LAYERS, SALT); /* out of the memory of A */
    assert_int_equal(answer.r, COUNT);
    assert_int_equal(answer.near, 0);
    assert_int_equal(answer.value, 0);
    gpu_remote_end(&a);
    (void)order(&b, GPU_ORDER_FILL, SALT + 1);
    assert_int_equal(order(&b, GPU_ORDER_REMOVE, 0).r, 0);
    assert_int_equal(order(&b, GPU_ORDER_SAVE, 0).r, COUNT);
    (void)order(&b, GPU_ORDER_FILL, OTHER);
    answer = order(&b, GPU_ORDER_LAYERS, SALT + 1); /* out of its own store */
    assert_int_equal(answer.r, COUNT);
    assert_int_equal(answer.near, ALL);
    assert_int_equal(answer.value, 0);
    gpu_remote_end(&b);
}

/* Two have the chunks; one of them goes, and its mappings with it. */
static void test_three_engines(void **state)
{
    struct gpu_engine_setup setup = setup_of(16, POOL, 0);
    struct gpu_remote a;
    struct gpu_remote b;
    struct gpu_remote c;
    struct gpu_answer ready_a;
    struct gpu_answer ready_b;
    struct gpu_answer ready;

    (void)state;
    start_saved(&a, &setup, SALT, &ready_a);
    start_saved(&b, &setup, SALT, &ready_b);
    setup.pool_chunks = 0;
    (void)snprintf(setup.peers, sizeof(setup.peers), "%.120s, %.120s", ready_a.address,
                   ready_b.address);
    gpu_remote_start(&c, &setup, &ready);
    await(&c, "cuda_ipc_peer_links", 2);
    assert_loads(&c, SALT, 0);
    gpu_remote_end(&a);
    assert_loads(&c, SALT, 0);
    gpu_remote_end(&c);
    gpu_remote_end(&b);
}

/* ---- ends ---- */

struct pair {
    char folder[64];
    struct gpu_engine_setup setup_a; /* at an address that stays */
    struct gpu_engine_setup setup_b;
    struct gpu_remote a;
    struct gpu_remote b;
};

static void pair_start(struct pair *pair)
{
    struct gpu_answer ready;

    (void)snprintf(pair->folder, sizeof(pair->folder), "/tmp/kvl-gpu-XXXXXX");
    assert_non_null(mkdtemp(pair->folder));
    pair->setup_a = setup_of(16, POOL, 0);
    pair->setup_b = setup_of(16, 0, 0);
    (void)snprintf(pair->setup_a.listen, sizeof(pair->setup_a.listen), "%s/a.sock", pair->folder);
    start_saved(&pair->a, &pair->setup_a, SALT, &ready);
    (void)snprintf(pair->setup_b.peers, sizeof(pair->setup_b.peers), "%s", ready.address);
    gpu_remote_start(&pair->b, &pair->setup_b, &ready);
    await(&pair->b, "cuda_ipc_peer_links", 1);
}

static void pair_end(struct pair *pair)
{
    gpu_remote_end(&pair->b);
    gpu_remote_end(&pair->a);
    (void)unlink(pair->setup_a.listen);
    assert_int_equal(rmdir(pair->folder), 0);
}

static void test_exporter_killed_is_a_miss(void **state)
{
    struct pair pair;
    struct gpu_answer answer;

    (void)state;
    pair_start(&pair);
    assert_loads(&pair.b, SALT, 0);
    gpu_remote_kill(&pair.a);
    answer = order(&pair.b, GPU_ORDER_LOAD, 0);
    assert_int_equal(answer.r, 0);
    assert_int_equal(answer.chunks, 0);
    start_saved(&pair.a, &pair.setup_a, SALT + 1, &answer); /* the same addresses, other bytes */
    await(&pair.b, "cuda_ipc_peer_links", 1);
    assert_loads(&pair.b, SALT + 1, 0);
    pair_end(&pair);
}

/* Whatever a load says it has is right, at whatever point the owner goes. */
static void test_exporter_killed_while_it_is_read(void **state)
{
    struct pair pair;

    (void)state;
    pair_start(&pair);
    for (uint32_t round = 0; round < 4; round++) {
        const struct gpu_order load = {.op = GPU_ORDER_LOAD, .count = COUNT};
        struct gpu_order look = {.op = GPU_ORDER_DIFFERS, .salt = SALT + round};
        struct gpu_answer answer;

        (void)order(&pair.b, GPU_ORDER_FILL, OTHER);
        assert_int_equal(gpu_remote_send(&pair.b, &load), 0);
        (void)usleep(round * 700); /* each round cuts at another point */
        gpu_remote_kill(&pair.a);
        assert_int_equal(gpu_remote_answer(&pair.b, &answer), 0);
        assert_true(answer.r >= 0);
        look.chunks = answer.chunks;
        assert_int_equal(gpu_remote_order(&pair.b, &look, &answer), 0);
        assert_int_equal(answer.value, 0);
        start_saved(&pair.a, &pair.setup_a, SALT + round + 1, &answer);
        await(&pair.b, "cuda_ipc_peer_links", 1);
    }
    pair_end(&pair);
}

/* What the dead one had leased can be evicted and written again. */
static void test_importer_killed_leaves_nothing_behind(void **state)
{
    const struct gpu_order load = {.op = GPU_ORDER_LOAD, .count = COUNT};
    struct pair pair;
    struct gpu_answer ready;

    (void)state;
    pair_start(&pair);
    for (uint32_t round = 0; round < 3; round++) {
        assert_int_equal(gpu_remote_send(&pair.b, &load), 0);
        (void)usleep(round * 700);
        gpu_remote_kill(&pair.b);
        (void)order(&pair.a, GPU_ORDER_REMOVE, 0);
        (void)order(&pair.a, GPU_ORDER_FILL, SALT + round + 1);
        assert_int_equal(order(&pair.a, GPU_ORDER_SAVE, 0).r, COUNT);
        gpu_remote_start(&pair.b, &pair.setup_b, &ready);
        await(&pair.b, "cuda_ipc_peer_links", 1);
        assert_loads(&pair.b, SALT + round + 1, 0);
    }
    pair_end(&pair);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pages_of_16_through_the_store),
        cmocka_unit_test(test_pages_of_64_through_the_store),
        cmocka_unit_test(test_pages_of_256_through_the_store),
        cmocka_unit_test(test_own_pool_comes_before_the_store),
        cmocka_unit_test(test_device_to_device),
        cmocka_unit_test(test_pages_may_differ_between_engines),
        cmocka_unit_test(test_layers_are_there_when_they_are_said_to_be),
        cmocka_unit_test(test_three_engines),
        cmocka_unit_test(test_exporter_killed_is_a_miss),
        cmocka_unit_test(test_exporter_killed_while_it_is_read),
        cmocka_unit_test(test_importer_killed_leaves_nothing_behind),
    };
    struct gpu_rig rig;

    if (argc == 3 && strcmp(argv[1], "--peer") == 0) {
        return gpu_engine_serve();
    }
    gpu_rig_open(&rig, LAYERS); /* skips where there is no device */
    gpu_rig_close(&rig);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
