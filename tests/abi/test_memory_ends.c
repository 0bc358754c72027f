/* SPDX-License-Identifier: Apache-2.0 */
/* Memory that only a backend can reach: how copies end, and how far they have come. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "memory_rig.h"
#include "mock.h"

#define TOKENS (2 * RIG_BLOCK_TOKENS)
#define SLACK_MS 3000u

static struct engine engine;
static struct rig rig;
static struct mock_memory_control control;
static const uint32_t from[] = {3, 7};
static const uint32_t to[] = {9, 8};

/* `ini` goes on after the section of the mock, which has `more` among its keys. */
static void open_rig(const char *more, const char *ini)
{
    rig_open(&rig, &engine, &control, more, ini);
}

static void close_rig(void)
{
    rig_close(&rig, &control);
}

/* ---- no room ---- */

static void test_a_refusal_waits_for_what_is_under_way(void **state)
{
    struct rig_batch batch;
    char keys[16][8];
    uint64_t op = 0;

    (void)state;
    open_rig("max_items = 8", "");
    rig_batch_add_many(&batch, &rig, keys, 16, 0);
    atomic_store(&control.hold[MOCK_MEMORY_GATHER], 1);
    batch.engine.batch.count = batch.engine.result.item_count = 8;
    assert_int_equal(rig_start(&rig, &batch, 1, &op), -EINPROGRESS);
    atomic_store(&control.refuse[MOCK_MEMORY_GATHER], -EAGAIN);
    atomic_store(&control.hold[MOCK_MEMORY_GATHER], 0);
    assert_int_equal(rig_wait(&rig, &batch, op), 0);
    assert_int_equal(batch.engine.result.matched, 8);

    /* with nothing of ours under way nobody would wake us: no room is the answer */
    rig_batch_add_many(&batch, &rig, keys, 1, 20);
    assert_int_equal(rig_start(&rig, &batch, 1, NULL), 0);
    assert_int_equal(batch.engine.status[0], -EAGAIN);
    assert_int_equal(rig_lookup(&rig, "k20"), -ENOENT);
    close_rig();
}

static void test_a_load_waits_for_room_that_others_take(void **state)
{
    struct rig_batch save;
    struct rig_batch load;
    uint64_t save_op = 0;
    uint64_t load_op = 0;

    (void)state;
    open_rig("", "");
    rig_fill(&rig, from, TOKENS, 1);
    assert_int_equal(rig_save(&rig, "k", from, TOKENS), 0);
    atomic_store(&control.hold[MOCK_MEMORY_GATHER], 1);
    rig_batch_init(&save, &rig, 20000);
    rig_batch_add(&save, "other", from, TOKENS);
    assert_int_equal(rig_start(&rig, &save, 1, &save_op), -EINPROGRESS);
    atomic_store(&control.refuse[MOCK_MEMORY_SCATTER], -EAGAIN);
    rig_batch_init(&load, &rig, 20000);
    rig_batch_add(&load, "k", to, TOKENS);
    assert_int_equal(rig_start(&rig, &load, 0, &load_op), -EINPROGRESS);
    assert_int_equal(
        engine.plugin->wait(engine.instance, load_op, engine_now_ms() + 10, &load.engine.result),
        -EINPROGRESS);
    assert_int_equal(engine.plugin->wait_layers(engine.instance, load_op, 1, engine_now_ms() + 10),
                     -EINPROGRESS);
    atomic_store(&control.refuse[MOCK_MEMORY_SCATTER], 0);
    atomic_store(&control.hold[MOCK_MEMORY_GATHER], 0);
    assert_int_equal(rig_wait(&rig, &load, load_op), 0);
    assert_int_equal(load.engine.status[0], 0);
    assert_int_equal(rig_differs(&rig, to, TOKENS, 1, RIG_LAYERS), 0);
    assert_int_equal(rig_wait(&rig, &save, save_op), 0);
    close_rig();
}

/* A pool that was to take the engine's memory is told to leave it alone. */
static void test_the_deadline_in_the_middle_of_a_write(void **state)
{
    struct rig_batch batch;

    (void)state;
    open_rig("shelf = late write\nput_to = yes", "");
    rig_fill(&rig, from, TOKENS, 1);
    atomic_store(&control.hold[MOCK_MEMORY_WRITE], 1);
    rig_batch_init(&batch, &rig, 500);
    rig_batch_add(&batch, "k", from, TOKENS);
    assert_int_equal(rig_start(&rig, &batch, 1, NULL), 0);
    assert_int_equal(batch.engine.status[0], 0); /* the own store took it in time */
    assert_true(rig_await(&control.done[MOCK_MEMORY_WRITE], 1)); /* cancelled, still held */
    atomic_store(&control.hold[MOCK_MEMORY_WRITE], 0);
    assert_true(engine_await_stat(&engine, "mock_memory_late_completions", 1));
    close_rig();

    open_rig("shelf = late write", "");
    assert_int_equal(rig_lookup(&rig, "k"), -ENOENT);
    close_rig();
}

/* ---- how they end ---- */

static void test_a_save_goes_on_until_it_is_waited_for(void **state)
{
    struct rig_batch batch;
    uint64_t op = 0;

    (void)state;
    open_rig("", "");
    rig_fill(&rig, from, TOKENS, 1);
    atomic_store(&control.hold[MOCK_MEMORY_GATHER], 1);
    rig_batch_init(&batch, &rig, 20000);
    rig_batch_add(&batch, "k", from, TOKENS);
    assert_int_equal(rig_start(&rig, &batch, 1, &op), -EINPROGRESS);
    assert_int_equal(rig_lookup(&rig, "k"), -ENOENT);
    assert_int_equal(engine.plugin->wait(engine.instance, op, 0, &batch.engine.result),
                     -EINPROGRESS);
    assert_int_equal(engine.plugin->wait_layers(engine.instance, op, 1, 0), -EINVAL);
    assert_int_equal(engine.plugin->unregister_kv(engine.instance, rig.kv), -EBUSY);
    atomic_store(&control.hold[MOCK_MEMORY_GATHER], 0);
    assert_true(rig_await(&control.done[MOCK_MEMORY_GATHER], 1));
    assert_true(engine_await_stat(&engine, "store_chunks", 1)); /* without anybody waiting */
    assert_int_equal(rig_wait(&rig, &batch, op), 0);
    assert_int_equal(batch.engine.status[0], 0);
    /* nothing to wait for any more */
    assert_int_equal(rig_start(&rig, &batch, 1, &op), 0);
    assert_int_equal(op, 0);
    close_rig();
}

static void test_a_gather_that_fails(void **state)
{
    (void)state;
    open_rig("", "");
    atomic_store(&control.code[MOCK_MEMORY_GATHER], -EIO);
    assert_int_equal(rig_save(&rig, "k", from, TOKENS), -EIO);
    assert_int_equal(rig_lookup(&rig, "k"), -ENOENT);
    atomic_store(&control.code[MOCK_MEMORY_GATHER], 0);
    atomic_store(&control.refuse[MOCK_MEMORY_GATHER], -EINVAL);
    assert_int_equal(rig_save(&rig, "k", from, TOKENS), -EINVAL);
    close_rig();
}

static void test_a_scatter_that_fails_is_not_tried_again(void **state)
{
    (void)state;
    open_rig("", "");
    assert_int_equal(rig_save(&rig, "k", from, TOKENS), 0);
    atomic_store(&control.code[MOCK_MEMORY_SCATTER], -EIO);
    assert_int_equal(rig_load(&rig, "k", to, TOKENS, NULL), -EIO);
    assert_int_equal(atomic_load(&control.items[MOCK_MEMORY_SCATTER]), 1);
    atomic_store(&control.refuse[MOCK_MEMORY_SCATTER], -EMSGSIZE);
    assert_int_equal(rig_load(&rig, "k", to, TOKENS, NULL), -EMSGSIZE);
    assert_int_equal(atomic_load(&control.items[MOCK_MEMORY_SCATTER]), 1);
    close_rig();
}

/* The engine has its memory back at the deadline: what a late gather reads is worth nothing. */
static void test_the_deadline_in_the_middle_of_a_gather(void **state)
{
    struct rig_batch batch;

    (void)state;
    open_rig("", "");
    rig_fill(&rig, from, TOKENS, 1);
    atomic_store(&control.hold[MOCK_MEMORY_GATHER], 1);
    atomic_store(&control.deaf, 1);
    rig_batch_init(&batch, &rig, 50);
    rig_batch_add(&batch, "k", from, TOKENS);
    assert_int_equal(rig_start(&rig, &batch, 1, NULL), -ETIMEDOUT);
    assert_int_equal(batch.engine.status[0], -ETIMEDOUT);
    assert_int_equal(engine_stat(&engine, "store_reserved"), 1); /* in quarantine */
    assert_int_equal(engine.plugin->unregister_kv(engine.instance, rig.kv), -EBUSY);
    rig_fill(&rig, from, TOKENS, 2);
    atomic_store(&control.hold[MOCK_MEMORY_GATHER], 0);
    assert_true(engine_await_stat(&engine, "mock_memory_late_completions", 1));
    assert_int_equal(rig_lookup(&rig, "k"), -ENOENT);
    assert_int_equal(engine_stat(&engine, "store_chunks"), 0);
    close_rig();
}

static void test_the_deadline_in_the_middle_of_a_scatter(void **state)
{
    struct rig_batch batch;

    (void)state;
    open_rig("", "");
    rig_fill(&rig, from, TOKENS, 1);
    assert_int_equal(rig_save(&rig, "k", from, TOKENS), 0);
    rig_wipe(&rig, 0);
    atomic_store(&control.hold[MOCK_MEMORY_SCATTER], 1);
    atomic_store(&control.layers, 1);
    rig_batch_init(&batch, &rig, 50);
    rig_batch_add(&batch, "k", to, TOKENS);
    assert_int_equal(rig_start(&rig, &batch, 0, NULL), -ETIMEDOUT);
    assert_int_equal(batch.engine.status[0], -ETIMEDOUT);
    rig_wipe(&rig, 0x55); /* ours again */
    atomic_store(&control.hold[MOCK_MEMORY_SCATTER], 0);
    assert_true(rig_await(&control.done[MOCK_MEMORY_SCATTER], 1));
    assert_true(engine_await_stat(&engine, "mock_memory_late_completions", 1));
    assert_int_equal(rig_not(&rig, 0x55), 0);
    close_rig();
}

static void test_cancel(void **state)
{
    struct rig_batch batch;
    uint64_t op = 0;

    (void)state;
    open_rig("", "");
    rig_fill(&rig, from, TOKENS, 1);
    atomic_store(&control.hold[MOCK_MEMORY_GATHER], 1);
    rig_batch_init(&batch, &rig, 20000);
    rig_batch_add(&batch, "k", from, TOKENS);
    assert_int_equal(rig_start(&rig, &batch, 1, &op), -EINPROGRESS);
    assert_int_equal(engine.plugin->cancel(engine.instance, op), 0);
    assert_int_equal(rig_wait(&rig, &batch, op), -ECANCELED);
    assert_int_equal(batch.engine.status[0], -ECANCELED);
    atomic_store(&control.hold[MOCK_MEMORY_GATHER], 0);
    assert_true(rig_await(&control.done[MOCK_MEMORY_GATHER], 1));

    assert_int_equal(rig_save(&rig, "k", from, TOKENS), 0);
    rig_wipe(&rig, 0);
    atomic_store(&control.hold[MOCK_MEMORY_SCATTER], 1);
    rig_batch_init(&batch, &rig, 20000);
    rig_batch_add(&batch, "k", to, TOKENS);
    assert_int_equal(rig_start(&rig, &batch, 0, &op), -EINPROGRESS);
    assert_int_equal(engine.plugin->cancel(engine.instance, op), 0);
    /* one that waits for layers may be the one that ends it; wait() says how all the same */
    assert_int_equal(engine.plugin->wait_layers(engine.instance, op, 1, engine_now_ms() + 20000),
                     0);
    assert_int_equal(rig_wait(&rig, &batch, op), -ECANCELED);
    assert_int_equal(batch.engine.status[0], -ECANCELED);
    assert_int_equal(rig_not(&rig, 0), 0);
    assert_true(rig_await(&control.done[MOCK_MEMORY_SCATTER], 1));
    assert_true(engine_await_stat(&engine, "mock_memory_late_completions", 2));
    close_rig();
}

static void test_close_with_a_gather_that_never_ends(void **state)
{
    struct rig_batch batch;
    uint64_t op = 0;
    uint64_t before;

    (void)state;
    open_rig("", "");
    atomic_store(&control.hold[MOCK_MEMORY_GATHER], 1);
    rig_batch_init(&batch, &rig, 60000);
    rig_batch_add(&batch, "k", from, TOKENS);
    assert_int_equal(rig_start(&rig, &batch, 1, &op), -EINPROGRESS);
    before = engine_now_ms();
    assert_int_equal(engine_close(&engine, 200), -ETIMEDOUT);
    assert_in_range(engine_now_ms() - before, 200, 200 + SLACK_MS);
}

/* ---- layers ---- */

struct layers_wait {
    pthread_t thread;
    uint64_t op;
    uint32_t layers;
    int r;
    atomic_uint over;
};

static void *wait_for_layers(void *arg)
{
    struct layers_wait *wait = arg;

    wait->r = engine.plugin->wait_layers(engine.instance, wait->op, wait->layers,
                                         engine_now_ms() + 20000);
    atomic_store(&wait->over, 1);
    return NULL;
}

static void test_layers_come_in_order(void **state)
{
    const struct kvl_plugin *plugin;
    struct layers_wait two = {.layers = 2};
    struct rig_batch batch;
    uint64_t op = 0;

    (void)state;
    open_rig("streams = 2", "");
    plugin = engine.plugin;
    rig_fill(&rig, from, TOKENS, 1);
    assert_int_equal(rig_save(&rig, "a", from, TOKENS), 0);
    assert_int_equal(rig_save(&rig, "b", from, TOKENS), 0);
    rig_wipe(&rig, 0);
    atomic_store(&control.hold[MOCK_MEMORY_SCATTER], 1);
    atomic_store(&control.layers, 1);
    rig_batch_init(&batch, &rig, 20000);
    rig_batch_add(&batch, "a", from, TOKENS);
    rig_batch_add(&batch, "b", to, TOKENS);
    assert_int_equal(rig_start(&rig, &batch, 0, &op), -EINPROGRESS);
    assert_int_equal(atomic_load(&control.batches[MOCK_MEMORY_SCATTER]), 2);
    assert_int_equal(plugin->wait_layers(engine.instance, op, 1, engine_now_ms() + 20000), 0);
    assert_int_equal(rig_differs(&rig, from, TOKENS, 1, 1), 0);
    assert_int_equal(rig_differs(&rig, to, TOKENS, 1, 1), 0);
    assert_int_equal(plugin->wait_layers(engine.instance, op, 2, 0), -EINPROGRESS);
    assert_int_equal(plugin->wait_layers(engine.instance, op, 2, engine_now_ms() + 20),
                     -EINPROGRESS);
    two.op = op;
    assert_int_equal(pthread_create(&two.thread, NULL, wait_for_layers, &two), 0);
    assert_int_equal(plugin->wait(engine.instance, op, engine_now_ms() + 20, &batch.engine.result),
                     -EINPROGRESS);
    assert_int_equal(atomic_load(&two.over), 0);
    atomic_store(&control.layers, 2);
    assert_int_equal(pthread_join(two.thread, NULL), 0);
    assert_int_equal(two.r, 0);
    assert_int_equal(rig_differs(&rig, to, TOKENS, 1, 2), 0);
    assert_int_equal(plugin->wait_layers(engine.instance, op, 3, 0), -EINPROGRESS);
    atomic_store(&control.hold[MOCK_MEMORY_SCATTER], 0);
    assert_int_equal(plugin->wait_layers(engine.instance, op, 3, engine_now_ms() + 20000), 0);
    assert_int_equal(rig_wait(&rig, &batch, op), 0);
    assert_int_equal(batch.engine.result.matched, 2);
    close_rig();
}

/* A chunk that a peer brings through the store has no layer until its own copy is under way. */
static void test_layers_of_what_comes_from_elsewhere(void **state)
{
    struct rig_batch batch;
    char ini[256];
    uint64_t op = 0;

    (void)state;
    (void)snprintf(ini, sizeof(ini), "[mock_good]\nshelf = m\npreload = a\npreload_bytes = %llu\n",
                   (unsigned long long)RIG_CHUNK);
    open_rig("", ini);
    atomic_store(&control.hold[MOCK_MEMORY_SCATTER], 1);
    atomic_store(&control.layers, 1);
    rig_batch_init(&batch, &rig, 20000);
    rig_batch_add(&batch, "a", to, TOKENS);
    rig_batch_add(&batch, "nobody has it", from, TOKENS);
    assert_int_equal(rig_start(&rig, &batch, 0, &op), -EINPROGRESS);
    assert_int_equal(engine.plugin->wait_layers(engine.instance, op, 1, engine_now_ms() + 20000),
                     0);
    assert_int_equal(rig_token(&rig, 0, to[0], 0)[0], mock_byte("a", 0));
    assert_int_equal(engine.plugin->wait_layers(engine.instance, op, 2, 0), -EINPROGRESS);
    atomic_store(&control.hold[MOCK_MEMORY_SCATTER], 0);
    assert_int_equal(rig_wait(&rig, &batch, op), 0);
    assert_int_equal(batch.engine.status[0], 0);
    assert_int_equal(batch.engine.location[0], KVL_LOCATION_BACKEND + 1);
    assert_int_equal(batch.engine.status[1], -ENOENT);
    close_rig();
}

static void test_the_end_counts_not_what_was_told_before(void **state)
{
    struct rig_batch batch;
    uint64_t op = 0;

    (void)state;
    open_rig("", "");
    assert_int_equal(rig_save(&rig, "a", from, TOKENS), 0);
    atomic_store(&control.hold[MOCK_MEMORY_SCATTER], 1);
    atomic_store(&control.lie, RIG_LAYERS + 7);
    atomic_store(&control.code[MOCK_MEMORY_SCATTER], -EIO);
    rig_batch_init(&batch, &rig, 20000);
    rig_batch_add(&batch, "a", to, TOKENS);
    assert_int_equal(rig_start(&rig, &batch, 0, &op), -EINPROGRESS);
    assert_int_equal(
        engine.plugin->wait_layers(engine.instance, op, RIG_LAYERS, engine_now_ms() + 20000), 0);
    atomic_store(&control.hold[MOCK_MEMORY_SCATTER], 0);
    assert_int_equal(rig_wait(&rig, &batch, op), 0);
    assert_int_equal(batch.engine.status[0], -EIO);
    close_rig();
}

/* An engine that has computed with layers of a chunk is told when the chunk then fails; one that
 * has not gets it from the next holder. */
static void test_a_chunk_relied_on_is_not_asked_for_elsewhere(void **state)
{
    char ini[256];

    (void)state;
    (void)snprintf(ini, sizeof(ini),
                   "[mock_good]\nshelf = r\npreload = a b\npreload_bytes = %llu\n",
                   (unsigned long long)RIG_CHUNK);
    open_rig("", ini);
    atomic_store(&control.code[MOCK_MEMORY_READ], -EBADMSG);
    atomic_store(&control.lie, RIG_LAYERS);
    for (int relies = 0; relies < 2; relies++) {
        struct rig_batch batch;
        uint64_t op = 0;

        atomic_store(&control.hold[MOCK_MEMORY_READ], 1);
        atomic_store(&control.layers, 0);
        rig_batch_init(&batch, &rig, 20000);
        rig_batch_add(&batch, relies ? "a" : "b", to, TOKENS);
        assert_int_equal(rig_start(&rig, &batch, 0, &op), -EINPROGRESS);
        if (relies) {
            /* the lie comes when the first layer may: let it */
            atomic_store(&control.layers, 1);
            assert_int_equal(
                engine.plugin->wait_layers(engine.instance, op, 1, engine_now_ms() + 20000), 0);
        }
        atomic_store(&control.hold[MOCK_MEMORY_READ], 0);
        assert_int_equal(rig_wait(&rig, &batch, op), 0);
        assert_int_equal(batch.engine.status[0], relies ? -EBADMSG : 0);
    }
    close_rig();
}

static void test_the_deadline_ends_a_wait_for_layers(void **state)
{
    struct rig_batch batch;
    uint64_t op = 0;

    (void)state;
    open_rig("", "");
    assert_int_equal(rig_save(&rig, "a", from, TOKENS), 0);
    atomic_store(&control.hold[MOCK_MEMORY_SCATTER], 1);
    rig_batch_init(&batch, &rig, 100);
    rig_batch_add(&batch, "a", to, TOKENS);
    assert_int_equal(rig_start(&rig, &batch, 0, &op), -EINPROGRESS);
    assert_int_equal(engine.plugin->wait_layers(engine.instance, op, 1, KVL_NEVER), 0);
    assert_int_equal(rig_wait(&rig, &batch, op), -ETIMEDOUT);
    assert_int_equal(batch.engine.status[0], -ETIMEDOUT);
    atomic_store(&control.hold[MOCK_MEMORY_SCATTER], 0);
    assert_true(engine_await_stat(&engine, "mock_memory_late_completions", 1));
    close_rig();
}

/* ---- threads ---- */

struct worker {
    pthread_t thread;
    uint32_t number;
    char wrong[100];
};

static void *work(void *arg)
{
    struct worker *worker = arg;
    const uint32_t mine[] = {2 * worker->number, 2 * worker->number + 1};
    const uint32_t back[] = {16 + 2 * worker->number, 17 + 2 * worker->number};

    for (uint32_t i = 0; i < 60 && worker->wrong[0] == '\0'; i++) {
        const uint32_t pattern = worker->number * 1000 + i;
        struct rig_batch batch;
        struct layers_wait layers = {.layers = 2};
        char key[16];
        int r;

        (void)snprintf(key, sizeof(key), "w%u", pattern);
        rig_fill(&rig, mine, TOKENS, pattern);
        r = rig_save(&rig, key, mine, TOKENS);
        rig_batch_init(&batch, &rig, 20000);
        rig_batch_add(&batch, key, back, TOKENS);
        layers.op = 0;
        r = r != 0 ? r : rig_start(&rig, &batch, 0, &layers.op);
        if (r == -EINPROGRESS) {
            (void)pthread_create(&layers.thread, NULL, wait_for_layers, &layers);
            r = rig_wait(&rig, &batch, layers.op);
            (void)pthread_join(layers.thread, NULL);
        }
        r = r != 0 ? r : batch.engine.status[0];
        if (r != 0 || rig_differs(&rig, back, TOKENS, pattern, RIG_LAYERS) != 0) {
            (void)snprintf(worker->wrong, sizeof(worker->wrong), "%s: %d", key, r);
        }
    }
    return NULL;
}

static void test_threads_at_once(void **state)
{
    static struct worker workers[4];

    (void)state;
    open_rig("shelf = threads\nput_to = yes",
             "[mock_good]\nshelf = threads\nput_to = yes\n[store]\nmax_bytes = 128KiB\n");
    for (uint32_t i = 0; i < 4; i++) {
        workers[i] = (struct worker){.number = i};
        assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    for (uint32_t i = 0; i < 4; i++) {
        assert_int_equal(pthread_join(workers[i].thread, NULL), 0);
    }
    for (uint32_t i = 0; i < 4; i++) {
        assert_string_equal(workers[i].wrong, "");
    }
    close_rig();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_refusal_waits_for_what_is_under_way),
        cmocka_unit_test(test_a_load_waits_for_room_that_others_take),
        cmocka_unit_test(test_the_deadline_in_the_middle_of_a_write),
        cmocka_unit_test(test_a_save_goes_on_until_it_is_waited_for),
        cmocka_unit_test(test_a_gather_that_fails),
        cmocka_unit_test(test_a_scatter_that_fails_is_not_tried_again),
        cmocka_unit_test(test_the_deadline_in_the_middle_of_a_gather),
        cmocka_unit_test(test_the_deadline_in_the_middle_of_a_scatter),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_close_with_a_gather_that_never_ends),
        cmocka_unit_test(test_layers_come_in_order),
        cmocka_unit_test(test_layers_of_what_comes_from_elsewhere),
        cmocka_unit_test(test_the_end_counts_not_what_was_told_before),
        cmocka_unit_test(test_a_chunk_relied_on_is_not_asked_for_elsewhere),
        cmocka_unit_test(test_the_deadline_ends_a_wait_for_layers),
        cmocka_unit_test(test_threads_at_once),
    };

    (void)unsetenv("KVLANE_CONFIG");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
