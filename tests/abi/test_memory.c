/* SPDX-License-Identifier: Apache-2.0 */
/* Memory that only a backend can reach: saves and loads, ends and faults. */
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
#include <poll.h>

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
    char text[2048];

    memset(&control, 0, sizeof(control));
    (void)snprintf(text, sizeof(text), "[mock_memory]\ncontrol = %p\n%s\n%s", (void *)&control,
                   more, ini);
    if (engine_open(&engine, text) != 0) {
        fail_msg("%s: %s", text, engine.err.text);
    }
    rig_init(&rig, &engine, MOCK_MEM);
    rig_register(&rig);
    assert_int_equal(atomic_load(&control.caches), 1);
}

static void close_rig(void)
{
    assert_int_equal(engine.plugin->unregister_kv(engine.instance, rig.kv), 0);
    assert_int_equal(atomic_load(&control.caches), 0);
    assert_int_equal(engine_stat(&engine, "store_leases"), 0);
    assert_int_equal(engine_stat(&engine, "store_reserved"), 0);
    assert_int_equal(engine_close(&engine, 5000), 0);
}

static int await(atomic_uint *value, unsigned least)
{
    const uint64_t limit = engine_now_ms() + 20000;

    while (atomic_load(value) < least && engine_now_ms() < limit) {
        (void)poll(NULL, 0, 1);
    }
    return atomic_load(value) >= least;
}

static int start(struct rig_batch *batch, int is_save, uint64_t *op)
{
    return (is_save ? engine.plugin->save : engine.plugin->load)(
        engine.instance, &batch->engine.batch, &batch->engine.result, op);
}

static int wait_op(struct rig_batch *batch, uint64_t op)
{
    return engine.plugin->wait(engine.instance, op, engine_now_ms() + 20000, &batch->engine.result);
}

static int lookup(const char *key)
{
    struct engine_batch look;

    engine_batch_init(&look, 5000);
    (void)engine_batch_add(&look, key, NULL, 0);
    assert_int_equal(engine.plugin->lookup(engine.instance, &look.batch, &look.result, NULL), 0);
    return look.status[0];
}

static unsigned count_of(atomic_uint *counters, enum mock_memory_verb verb)
{
    return atomic_load(&counters[verb]);
}

/* ---- what is plain ---- */

static void test_blocks_are_gathered_and_scattered(void **state)
{
    uint8_t location = 9;

    (void)state;
    open_rig("", "");
    rig_fill(&rig, from, TOKENS, 1);
    assert_int_equal(rig_save(&rig, "k", from, TOKENS), 0);
    assert_int_equal(engine_stat(&engine, "store_chunks"), 1);
    assert_int_equal(engine_stat(&engine, "core_save_chunks"), 1);
    assert_int_equal(engine_stat(&engine, "core_save_bytes"), RIG_CHUNK);
    rig_wipe(&rig, 0);
    assert_int_equal(rig_load(&rig, "k", to, TOKENS, &location), 0);
    assert_int_equal(location, KVL_LOCATION_LOCAL);
    assert_int_equal(rig_differs(&rig, to, TOKENS, 1, RIG_LAYERS), 0);
    assert_int_equal(engine_stat(&engine, "core_load_hits_local"), 1);
    assert_int_equal(engine_stat(&engine, "core_load_bytes"), RIG_CHUNK);
    /* what the store has is only touched */
    assert_int_equal(rig_save(&rig, "k", from, TOKENS), 0);
    assert_int_equal(count_of(control.items, MOCK_MEMORY_GATHER), 1);
    close_rig();
}

static void test_the_chunk_is_what_host_engines_see(void **state)
{
    uint8_t bytes[RIG_BYTES(TOKENS)];
    struct engine_batch load;

    (void)state;
    open_rig("", "");
    rig_fill(&rig, from, TOKENS, 5);
    assert_int_equal(rig_save(&rig, "k", from, TOKENS), 0);
    engine_batch_init(&load, 5000);
    (void)engine_batch_add(&load, "k", bytes, sizeof(bytes));
    assert_int_equal(engine.plugin->load(engine.instance, &load.batch, &load.result, NULL), 0);
    for (uint64_t i = 0; i < sizeof(bytes); i++) {
        assert_int_equal(bytes[i], rig_byte(5, i));
    }
    close_rig();
}

static void test_partial_and_skipped_blocks(void **state)
{
    const uint32_t tokens = RIG_BLOCK_TOKENS + 1;
    const uint32_t skip[] = {KVL_BLOCK_SKIP, 4};

    (void)state;
    open_rig("", "");
    rig_fill(&rig, from, tokens, 2);
    assert_int_equal(rig_save(&rig, "k", from, tokens), 0);
    assert_int_equal(rig_save(&rig, "h", skip, tokens), -EINVAL);
    rig_wipe(&rig, 0);
    assert_int_equal(rig_load(&rig, "k", skip, tokens, NULL), 0);
    assert_int_equal(rig_differs(&rig, skip, tokens, 2, RIG_LAYERS), 0);
    assert_int_equal(rig_not(&rig, 0), RIG_ROWS * RIG_TOKEN_BYTES);
    close_rig();
}

static struct engine_batch *runs(struct engine_batch *batch, const char *key, uint8_t *at)
{
    engine_batch_init(batch, 20000);
    (void)engine_batch_add(batch, key, at, 64);
    batch->sg[0] = (struct kvl_sg){.mem = MOCK_MEM,
                                   .addr = (uint64_t)(uintptr_t)at + MOCK_MEM_OFFSET,
                                   .length = 16,
                                   .stride = 32,
                                   .count = 4,
                                   .device = 0};
    return batch;
}

static void test_runs_are_gathered_and_scattered(void **state)
{
    uint8_t memory[128];
    struct engine_batch batch;

    (void)state;
    open_rig("", "");
    for (uint32_t i = 0; i < sizeof(memory); i++) {
        memory[i] = (uint8_t)i;
    }
    runs(&batch, "k", memory)->batch.stream = 0x1234;
    assert_int_equal(engine.plugin->save(engine.instance, &batch.batch, &batch.result, NULL), 0);
    assert_int_equal(batch.status[0], 0);
    assert_int_equal(atomic_load(&control.stream), 0x1234);
    memset(memory, 0xff, sizeof(memory));
    assert_int_equal(engine.plugin->load(engine.instance, &batch.batch, &batch.result, NULL), 0);
    assert_int_equal(batch.status[0], 0);
    for (uint32_t i = 0; i < sizeof(memory); i++) {
        assert_int_equal(memory[i], i % 32 < 16 ? i : 0xff);
    }
    close_rig();
}

static void test_one_kind_of_memory_in_a_batch(void **state)
{
    uint8_t memory[128];
    struct engine_batch batch;

    (void)state;
    open_rig("", "");
    (void)runs(&batch, "k", memory);
    (void)engine_batch_add(&batch, "host", memory, 64);
    assert_int_equal(engine.plugin->save(engine.instance, &batch.batch, &batch.result, NULL),
                     -EINVAL);
    (void)runs(&batch, "k", memory);
    (void)engine_batch_add(&batch, "other", memory, 64);
    batch.sg[1] = batch.sg[0];
    batch.sg[1].device = 1;
    assert_int_equal(engine.plugin->load(engine.instance, &batch.batch, &batch.result, NULL),
                     -EINVAL);
    batch.sg[1].device = -1;
    assert_int_equal(engine.plugin->load(engine.instance, &batch.batch, &batch.result, NULL),
                     -EINVAL);
    batch.sg[1] = batch.sg[0];
    batch.sg[0].mem = batch.sg[1].mem = MOCK_MEM + 1;
    assert_int_equal(engine.plugin->load(engine.instance, &batch.batch, &batch.result, NULL),
                     -ENOTSUP);
    close_rig();
}

static void test_a_chunk_of_no_bytes(void **state)
{
    uint8_t memory[128];
    struct engine_batch batch;

    (void)state;
    open_rig("", "");
    (void)runs(&batch, "k", memory);
    batch.chunks[1] = (struct kvl_chunk){.key = kvl_key_from_text("empty")};
    batch.sg_first[2] = 1;
    batch.batch.count = batch.result.item_count = 2;
    assert_int_equal(engine.plugin->save(engine.instance, &batch.batch, &batch.result, NULL), 0);
    assert_int_equal(batch.status[0], 0);
    assert_int_equal(batch.status[1], 0);
    assert_int_equal(engine_stat(&engine, "store_chunks"), 2);
    assert_int_equal(engine.plugin->load(engine.instance, &batch.batch, &batch.result, NULL), 0);
    assert_int_equal(batch.status[1], 0);
    close_rig();
}

static void test_a_miss_is_a_miss(void **state)
{
    (void)state;
    open_rig("", "");
    assert_int_equal(rig_load(&rig, "k", to, TOKENS, NULL), -ENOENT);
    assert_int_equal(count_of(control.items, MOCK_MEMORY_SCATTER), 0);
    close_rig();
}

/* ---- many chunks ---- */

static void add_many(struct rig_batch *batch, char keys[][8], uint32_t count, uint32_t number)
{
    rig_batch_init(batch, &rig, 20000);
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t blocks[] = {2 * i % RIG_BLOCKS, (2 * i + 1) % RIG_BLOCKS};

        (void)snprintf(keys[i], sizeof(keys[i]), "k%u", number + i);
        rig_batch_add(batch, keys[i], blocks, TOKENS);
    }
}

static void test_batches_are_cut_as_the_backend_takes_them(void **state)
{
    struct rig_batch batch;
    char keys[16][8];

    (void)state;
    open_rig("max_items = 3\nstreams = 2", "");
    for (uint32_t i = 0; i < 16; i++) {
        const uint32_t blocks[] = {2 * i, 2 * i + 1};

        rig_fill(&rig, blocks, TOKENS, i);
    }
    add_many(&batch, keys, 16, 0);
    assert_int_equal(start(&batch, 1, NULL), 0);
    assert_int_equal(batch.engine.result.matched, 16);
    assert_int_equal(count_of(control.batches, MOCK_MEMORY_GATHER), 6);
    rig_wipe(&rig, 0);
    assert_int_equal(start(&batch, 0, NULL), 0);
    assert_int_equal(batch.engine.result.matched, 16);
    assert_int_equal(count_of(control.batches, MOCK_MEMORY_SCATTER), 6);
    for (uint32_t i = 0; i < 16; i++) {
        assert_int_equal(rig_differs(&rig, &batch.blocks[2 * i], TOKENS, i, RIG_LAYERS), 0);
    }
    close_rig();
}

/* More than fits: the head of the batch stays, as with host memory. */
static void test_a_batch_larger_than_the_store(void **state)
{
    struct rig_batch batch;
    char keys[16][8];

    (void)state;
    open_rig("max_items = 4", "[store]\nmax_bytes = 64KiB\nmax_chunks = 0\n");
    /* 60 tokens each: 16 chunks of 6 KiB do not fit at once */
    rig_batch_init(&batch, &rig, 20000);
    for (uint32_t i = 0; i < 16; i++) {
        uint32_t blocks[15];

        for (uint32_t b = 0; b < 15; b++) {
            blocks[b] = (i + b) % RIG_BLOCKS;
        }
        (void)snprintf(keys[i], sizeof(keys[i]), "k%u", i);
        engine_batch_add(&batch.engine, keys[i], NULL, 0)->bytes = RIG_BYTES(60);
        memcpy(&batch.blocks[batch.block_first[i]], blocks, sizeof(blocks));
        batch.block_first[i + 1] = batch.block_first[i] + 15;
    }
    assert_int_equal(start(&batch, 1, NULL), 0);
    assert_int_equal(batch.engine.result.matched, 16);
    assert_int_equal(lookup("k0"), 0);
    assert_int_equal(lookup("k15"), -ENOENT);
    close_rig();
}

static void test_a_refusal_waits_for_what_is_under_way(void **state)
{
    struct rig_batch batch;
    char keys[16][8];
    uint64_t op = 0;

    (void)state;
    open_rig("max_items = 8", "");
    add_many(&batch, keys, 16, 0);
    atomic_store(&control.hold[MOCK_MEMORY_GATHER], 1);
    batch.engine.batch.count = batch.engine.result.item_count = 8;
    assert_int_equal(start(&batch, 1, &op), -EINPROGRESS);
    atomic_store(&control.refuse[MOCK_MEMORY_GATHER], -EAGAIN);
    atomic_store(&control.hold[MOCK_MEMORY_GATHER], 0);
    assert_int_equal(wait_op(&batch, op), 0);
    assert_int_equal(batch.engine.result.matched, 8);

    /* with nothing of ours under way nobody would wake us: no room is the answer */
    add_many(&batch, keys, 1, 20);
    assert_int_equal(start(&batch, 1, NULL), 0);
    assert_int_equal(batch.engine.status[0], -EAGAIN);
    assert_int_equal(lookup("k20"), -ENOENT);
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
    assert_int_equal(start(&save, 1, &save_op), -EINPROGRESS);
    atomic_store(&control.refuse[MOCK_MEMORY_SCATTER], -EAGAIN);
    rig_batch_init(&load, &rig, 20000);
    rig_batch_add(&load, "k", to, TOKENS);
    assert_int_equal(start(&load, 0, &load_op), -EINPROGRESS);
    assert_int_equal(
        engine.plugin->wait(engine.instance, load_op, engine_now_ms() + 10, &load.engine.result),
        -EINPROGRESS);
    assert_int_equal(engine.plugin->wait_layers(engine.instance, load_op, 1, engine_now_ms() + 10),
                     -EINPROGRESS);
    atomic_store(&control.refuse[MOCK_MEMORY_SCATTER], 0);
    atomic_store(&control.hold[MOCK_MEMORY_GATHER], 0);
    assert_int_equal(wait_op(&load, load_op), 0);
    assert_int_equal(load.engine.status[0], 0);
    assert_int_equal(rig_differs(&rig, to, TOKENS, 1, RIG_LAYERS), 0);
    assert_int_equal(wait_op(&save, save_op), 0);
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
    rig_batch_init(&batch, &rig, 50);
    rig_batch_add(&batch, "k", from, TOKENS);
    assert_int_equal(start(&batch, 1, NULL), 0);
    assert_int_equal(batch.engine.status[0], 0); /* the own store took it in time */
    assert_true(await(&control.done[MOCK_MEMORY_WRITE], 1)); /* cancelled, still held */
    atomic_store(&control.hold[MOCK_MEMORY_WRITE], 0);
    assert_true(engine_await_stat(&engine, "mock_memory_late_completions", 1));
    close_rig();

    open_rig("shelf = late write", "");
    assert_int_equal(lookup("k"), -ENOENT);
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
    assert_int_equal(start(&batch, 1, &op), -EINPROGRESS);
    assert_int_equal(lookup("k"), -ENOENT);
    assert_int_equal(engine.plugin->wait(engine.instance, op, 0, &batch.engine.result),
                     -EINPROGRESS);
    assert_int_equal(engine.plugin->wait_layers(engine.instance, op, 1, 0), -EINVAL);
    assert_int_equal(engine.plugin->unregister_kv(engine.instance, rig.kv), -EBUSY);
    atomic_store(&control.hold[MOCK_MEMORY_GATHER], 0);
    assert_true(await(&control.done[MOCK_MEMORY_GATHER], 1));
    assert_true(engine_await_stat(&engine, "store_chunks", 1)); /* without anybody waiting */
    assert_int_equal(wait_op(&batch, op), 0);
    assert_int_equal(batch.engine.status[0], 0);
    /* nothing to wait for any more */
    assert_int_equal(start(&batch, 1, &op), 0);
    assert_int_equal(op, 0);
    close_rig();
}

static void test_a_gather_that_fails(void **state)
{
    (void)state;
    open_rig("", "");
    atomic_store(&control.code[MOCK_MEMORY_GATHER], -EIO);
    assert_int_equal(rig_save(&rig, "k", from, TOKENS), -EIO);
    assert_int_equal(lookup("k"), -ENOENT);
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
    assert_int_equal(count_of(control.items, MOCK_MEMORY_SCATTER), 1);
    atomic_store(&control.refuse[MOCK_MEMORY_SCATTER], -EMSGSIZE);
    assert_int_equal(rig_load(&rig, "k", to, TOKENS, NULL), -EMSGSIZE);
    assert_int_equal(count_of(control.items, MOCK_MEMORY_SCATTER), 1);
    close_rig();
}

/* The engine has its memory back at the deadline; what a late gather reads there is worth nothing. */
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
    assert_int_equal(start(&batch, 1, NULL), -ETIMEDOUT);
    assert_int_equal(batch.engine.status[0], -ETIMEDOUT);
    assert_int_equal(engine_stat(&engine, "store_reserved"), 1); /* in quarantine */
    assert_int_equal(engine.plugin->unregister_kv(engine.instance, rig.kv), -EBUSY);
    rig_fill(&rig, from, TOKENS, 2);
    atomic_store(&control.hold[MOCK_MEMORY_GATHER], 0);
    assert_true(engine_await_stat(&engine, "mock_memory_late_completions", 1));
    assert_int_equal(lookup("k"), -ENOENT);
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
    assert_int_equal(start(&batch, 0, NULL), -ETIMEDOUT);
    assert_int_equal(batch.engine.status[0], -ETIMEDOUT);
    rig_wipe(&rig, 0x55); /* ours again */
    atomic_store(&control.hold[MOCK_MEMORY_SCATTER], 0);
    assert_true(await(&control.done[MOCK_MEMORY_SCATTER], 1));
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
    assert_int_equal(start(&batch, 1, &op), -EINPROGRESS);
    assert_int_equal(engine.plugin->cancel(engine.instance, op), 0);
    assert_int_equal(wait_op(&batch, op), -ECANCELED);
    assert_int_equal(batch.engine.status[0], -ECANCELED);
    atomic_store(&control.hold[MOCK_MEMORY_GATHER], 0);
    assert_true(await(&control.done[MOCK_MEMORY_GATHER], 1));

    assert_int_equal(rig_save(&rig, "k", from, TOKENS), 0);
    rig_wipe(&rig, 0);
    atomic_store(&control.hold[MOCK_MEMORY_SCATTER], 1);
    rig_batch_init(&batch, &rig, 20000);
    rig_batch_add(&batch, "k", to, TOKENS);
    assert_int_equal(start(&batch, 0, &op), -EINPROGRESS);
    assert_int_equal(engine.plugin->cancel(engine.instance, op), 0);
    /* one that waits for layers may be the one that ends it; wait() says how all the same */
    assert_int_equal(engine.plugin->wait_layers(engine.instance, op, 1, engine_now_ms() + 20000),
                     0);
    assert_int_equal(wait_op(&batch, op), -ECANCELED);
    assert_int_equal(batch.engine.status[0], -ECANCELED);
    assert_int_equal(rig_not(&rig, 0), 0);
    assert_true(await(&control.done[MOCK_MEMORY_SCATTER], 1));
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
    assert_int_equal(start(&batch, 1, &op), -EINPROGRESS);
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
    const struct kvl_plugin *plugin = engine.plugin;
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
    assert_int_equal(start(&batch, 0, &op), -EINPROGRESS);
    assert_int_equal(count_of(control.batches, MOCK_MEMORY_SCATTER), 2);
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
    assert_int_equal(wait_op(&batch, op), 0);
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
    assert_int_equal(start(&batch, 0, &op), -EINPROGRESS);
    assert_int_equal(engine.plugin->wait_layers(engine.instance, op, 1, engine_now_ms() + 20000),
                     0);
    assert_int_equal(rig_token(&rig, 0, to[0], 0)[0], mock_byte("a", 0));
    assert_int_equal(engine.plugin->wait_layers(engine.instance, op, 2, 0), -EINPROGRESS);
    atomic_store(&control.hold[MOCK_MEMORY_SCATTER], 0);
    assert_int_equal(wait_op(&batch, op), 0);
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
    assert_int_equal(start(&batch, 0, &op), -EINPROGRESS);
    assert_int_equal(
        engine.plugin->wait_layers(engine.instance, op, RIG_LAYERS, engine_now_ms() + 20000), 0);
    atomic_store(&control.hold[MOCK_MEMORY_SCATTER], 0);
    assert_int_equal(wait_op(&batch, op), 0);
    assert_int_equal(batch.engine.status[0], -EIO);
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
    assert_int_equal(start(&batch, 0, &op), -EINPROGRESS);
    assert_int_equal(engine.plugin->wait_layers(engine.instance, op, 1, KVL_NEVER), 0);
    assert_int_equal(wait_op(&batch, op), -ETIMEDOUT);
    assert_int_equal(batch.engine.status[0], -ETIMEDOUT);
    atomic_store(&control.hold[MOCK_MEMORY_SCATTER], 0);
    assert_true(engine_await_stat(&engine, "mock_memory_late_completions", 1));
    close_rig();
}

/* ---- other holders and targets ---- */

static void test_targets_with_the_memory_get_the_engine_s_own(void **state)
{
    uint8_t location = 9;

    (void)state;
    open_rig("shelf = pool\nput_to = yes", "[mock_good]\nshelf = pool host\nput_to = yes\n");
    rig_fill(&rig, from, TOKENS, 3);
    assert_int_equal(rig_save(&rig, "k", from, TOKENS), 0);
    assert_int_equal(count_of(control.items, MOCK_MEMORY_WRITE), 1);
    assert_int_equal(count_of(control.items, MOCK_MEMORY_GATHER), 1);
    assert_int_equal(engine_stat(&engine, "mock_good_write_items"), 1);
    /* the pool is hinted to have it: from device to device, before the own store */
    rig_wipe(&rig, 0);
    assert_int_equal(rig_load(&rig, "k", to, TOKENS, &location), 0);
    assert_int_equal(location, KVL_LOCATION_BACKEND);
    assert_int_equal(count_of(control.items, MOCK_MEMORY_SCATTER), 0);
    assert_int_equal(rig_differs(&rig, to, TOKENS, 3, RIG_LAYERS), 0);
    /* known to have it: nothing is sent again */
    assert_int_equal(rig_save(&rig, "k", from, TOKENS), 0);
    assert_int_equal(count_of(control.items, MOCK_MEMORY_WRITE), 1);
    close_rig();

    /* another engine: only the pool has it, and it stays out of the store */
    open_rig("shelf = pool", "");
    assert_int_equal(rig_load(&rig, "k", to, TOKENS, &location), 0);
    assert_int_equal(rig_differs(&rig, to, TOKENS, 3, RIG_LAYERS), 0);
    assert_int_equal(engine_stat(&engine, "store_chunks"), 0);
    close_rig();

    /* unless it is to be kept */
    open_rig("shelf = pool\nkeep = yes", "");
    assert_int_equal(rig_load(&rig, "k", to, TOKENS, &location), 0);
    assert_int_equal(location, KVL_LOCATION_BACKEND);
    assert_int_equal(rig_differs(&rig, to, TOKENS, 3, RIG_LAYERS), 0);
    assert_int_equal(engine_stat(&engine, "store_chunks"), 1);
    assert_int_equal(count_of(control.items, MOCK_MEMORY_SCATTER), 1);
    assert_int_equal(rig_load(&rig, "k", to, TOKENS, &location), 0);
    assert_int_equal(location, KVL_LOCATION_LOCAL);
    close_rig();

    /* and what it wrote through the store is the same */
    open_rig("", "[mock_good]\nshelf = pool host\n");
    assert_int_equal(rig_load(&rig, "k", to, TOKENS, &location), 0);
    assert_int_equal(rig_differs(&rig, to, TOKENS, 3, RIG_LAYERS), 0);
    close_rig();
}

static void test_local_only_goes_nowhere_else(void **state)
{
    struct rig_batch batch;

    (void)state;
    open_rig("shelf = lo\nput_to = yes", "[mock_good]\nshelf = lo\nput_to = yes\n");
    rig_batch_init(&batch, &rig, 20000);
    rig_batch_add(&batch, "k", from, TOKENS);
    batch.engine.batch.flags = KVL_BATCH_LOCAL_ONLY;
    assert_int_equal(start(&batch, 1, NULL), 0);
    assert_int_equal(batch.engine.status[0], 0);
    assert_int_equal(count_of(control.items, MOCK_MEMORY_WRITE), 0);
    assert_int_equal(engine_stat(&engine, "mock_good_write_items"), 0);
    close_rig();
}

static void test_overwrite_takes_the_chunk_again(void **state)
{
    struct rig_batch batch;

    (void)state;
    open_rig("shelf = ow\nput_to = yes", "");
    rig_fill(&rig, from, TOKENS, 1);
    assert_int_equal(rig_save(&rig, "k", from, TOKENS), 0);
    rig_fill(&rig, from, TOKENS, 2);
    rig_batch_init(&batch, &rig, 20000);
    rig_batch_add(&batch, "k", from, TOKENS);
    batch.engine.batch.flags = KVL_BATCH_OVERWRITE;
    assert_int_equal(start(&batch, 1, NULL), 0);
    assert_int_equal(count_of(control.items, MOCK_MEMORY_GATHER), 2);
    assert_int_equal(count_of(control.items, MOCK_MEMORY_WRITE), 2);
    assert_int_equal(rig_load(&rig, "k", to, TOKENS, NULL), 0);
    assert_int_equal(rig_differs(&rig, to, TOKENS, 2, RIG_LAYERS), 0);
    close_rig();
}

static void test_a_chunk_too_large_for_the_store(void **state)
{
    uint32_t blocks[RIG_BLOCKS];

    (void)state;
    for (uint32_t i = 0; i < RIG_BLOCKS; i++) {
        blocks[i] = i;
    }
    open_rig("", "[store]\nmax_bytes = 64KiB\nquota = 4KiB\n");
    assert_int_equal(rig_save(&rig, "k", blocks, RIG_BLOCKS * RIG_BLOCK_TOKENS), -EMSGSIZE);
    close_rig();

    /* the pool takes it, and gives it back without the store */
    open_rig("shelf = large\nput_to = yes", "[store]\nmax_bytes = 64KiB\nquota = 4KiB\n");
    rig_fill(&rig, blocks, RIG_BLOCKS * RIG_BLOCK_TOKENS, 4);
    assert_int_equal(rig_save(&rig, "k", blocks, RIG_BLOCKS * RIG_BLOCK_TOKENS), 0);
    assert_int_equal(engine_stat(&engine, "store_chunks"), 0);
    rig_wipe(&rig, 0);
    assert_int_equal(rig_load(&rig, "k", blocks, RIG_BLOCKS * RIG_BLOCK_TOKENS, NULL), 0);
    assert_int_equal(rig_differs(&rig, blocks, RIG_BLOCKS * RIG_BLOCK_TOKENS, 4, RIG_LAYERS), 0);
    close_rig();
}

static void test_a_failing_holder_is_followed_by_the_own_store(void **state)
{
    uint8_t location = 9;

    (void)state;
    open_rig("shelf = fo\nput_to = yes", "");
    rig_fill(&rig, from, TOKENS, 6);
    assert_int_equal(rig_save(&rig, "k", from, TOKENS), 0);
    atomic_store(&control.code[MOCK_MEMORY_READ], -EIO);
    rig_wipe(&rig, 0);
    assert_int_equal(rig_load(&rig, "k", to, TOKENS, &location), 0);
    assert_int_equal(location, KVL_LOCATION_LOCAL);
    assert_int_equal(count_of(control.items, MOCK_MEMORY_READ), 1);
    assert_int_equal(rig_differs(&rig, to, TOKENS, 6, RIG_LAYERS), 0);
    close_rig();
}

/* The second owner of the memory does not know the cache: it is told the runs. */
static void test_two_holders_with_the_memory(void **state)
{
    static struct mock_memory_control second;
    uint8_t location = 9;
    char ini[200];

    (void)state;
    memset(&second, 0, sizeof(second));
    (void)snprintf(ini, sizeof(ini),
                   "[mock_memory:second]\ncontrol = %p\nshelf = second\nput_to = yes\n",
                   (void *)&second);
    open_rig("shelf = first", ini);
    rig_fill(&rig, from, TOKENS, 7);
    assert_int_equal(rig_save(&rig, "k", from, TOKENS), 0);
    assert_int_equal(count_of(second.items, MOCK_MEMORY_WRITE), 1);
    assert_int_equal(count_of(second.items, MOCK_MEMORY_GATHER), 0);
    close_rig();

    memset(&second, 0, sizeof(second));
    open_rig("shelf = first", ini);
    atomic_store(&control.code[MOCK_MEMORY_READ], -ECONNRESET);
    assert_int_equal(rig_load(&rig, "k", to, TOKENS, &location), 0);
    assert_int_equal(location, KVL_LOCATION_BACKEND + 1);
    assert_int_equal(count_of(control.items, MOCK_MEMORY_READ), 1);
    assert_int_equal(rig_differs(&rig, to, TOKENS, 7, RIG_LAYERS), 0);
    assert_int_equal(engine_stat(&engine, "store_chunks"), 0);

    /* with a hole it cannot be told as runs: through the store */
    const uint32_t skip[] = {KVL_BLOCK_SKIP, 4};

    rig_wipe(&rig, 0);
    assert_int_equal(rig_load(&rig, "k", skip, TOKENS, NULL), 0);
    assert_int_equal(rig_differs(&rig, skip, TOKENS, 7, RIG_LAYERS), 0);
    assert_int_equal(engine_stat(&engine, "store_chunks"), 1);
    close_rig();
}

static void test_close_sends_on_what_nobody_waited_for(void **state)
{
    struct rig_batch batch;
    uint64_t op = 0;

    (void)state;
    open_rig("", "[mock_good]\nshelf = closing\nput_to = yes\n");
    rig_fill(&rig, from, TOKENS, 9);
    rig_batch_init(&batch, &rig, 20000);
    rig_batch_add(&batch, "k", from, TOKENS);
    assert_int_equal(start(&batch, 1, &op), -EINPROGRESS);
    assert_int_equal(engine_close(&engine, 5000), 0);

    open_rig("", "[mock_good]\nshelf = closing\n");
    assert_int_equal(rig_load(&rig, "k", to, TOKENS, NULL), 0);
    assert_int_equal(rig_differs(&rig, to, TOKENS, 9, RIG_LAYERS), 0);
    close_rig();
}

/* A pool that knows no host memory is given none. */
static void test_host_memory_is_not_given_to_those_that_do_not_take_it(void **state)
{
    uint8_t bytes[64] = {1};
    struct engine_batch save;

    (void)state;
    open_rig("shelf = nohost\nput_to = yes", "");
    engine_batch_init(&save, 5000);
    (void)engine_batch_add(&save, "h", bytes, sizeof(bytes));
    assert_int_equal(engine.plugin->save(engine.instance, &save.batch, &save.result, NULL), 0);
    assert_int_equal(save.status[0], 0);
    assert_int_equal(count_of(control.items, MOCK_MEMORY_WRITE), 0);
    close_rig();

    open_rig("shelf = host\nput_to = yes\nhost = yes", "");
    assert_int_equal(engine.plugin->save(engine.instance, &save.batch, &save.result, NULL), 0);
    assert_int_equal(count_of(control.items, MOCK_MEMORY_WRITE), 1);
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
        r = r != 0 ? r : start(&batch, 0, &layers.op);
        if (r == -EINPROGRESS) {
            (void)pthread_create(&layers.thread, NULL, wait_for_layers, &layers);
            r = wait_op(&batch, layers.op);
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
        cmocka_unit_test(test_blocks_are_gathered_and_scattered),
        cmocka_unit_test(test_the_chunk_is_what_host_engines_see),
        cmocka_unit_test(test_partial_and_skipped_blocks),
        cmocka_unit_test(test_runs_are_gathered_and_scattered),
        cmocka_unit_test(test_one_kind_of_memory_in_a_batch),
        cmocka_unit_test(test_a_chunk_of_no_bytes),
        cmocka_unit_test(test_a_miss_is_a_miss),
        cmocka_unit_test(test_batches_are_cut_as_the_backend_takes_them),
        cmocka_unit_test(test_a_batch_larger_than_the_store),
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
        cmocka_unit_test(test_the_deadline_ends_a_wait_for_layers),
        cmocka_unit_test(test_targets_with_the_memory_get_the_engine_s_own),
        cmocka_unit_test(test_local_only_goes_nowhere_else),
        cmocka_unit_test(test_overwrite_takes_the_chunk_again),
        cmocka_unit_test(test_a_chunk_too_large_for_the_store),
        cmocka_unit_test(test_a_failing_holder_is_followed_by_the_own_store),
        cmocka_unit_test(test_two_holders_with_the_memory),
        cmocka_unit_test(test_close_sends_on_what_nobody_waited_for),
        cmocka_unit_test(test_host_memory_is_not_given_to_those_that_do_not_take_it),
        cmocka_unit_test(test_threads_at_once),
    };

    (void)unsetenv("KVLANE_CONFIG");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
