/* SPDX-License-Identifier: Apache-2.0 */
/* Memory that only a backend can reach: saves and loads, holders and targets. */
#include <errno.h>
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
    assert_int_equal(atomic_load(&control.items[MOCK_MEMORY_GATHER]), 1);
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
    assert_int_equal(atomic_load(&control.items[MOCK_MEMORY_SCATTER]), 0);
    close_rig();
}

/* ---- many chunks ---- */

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
    rig_batch_add_many(&batch, &rig, keys, 16, 0);
    assert_int_equal(rig_start(&rig, &batch, 1, NULL), 0);
    assert_int_equal(batch.engine.result.matched, 16);
    assert_int_equal(atomic_load(&control.batches[MOCK_MEMORY_GATHER]), 6);
    rig_wipe(&rig, 0);
    assert_int_equal(rig_start(&rig, &batch, 0, NULL), 0);
    assert_int_equal(batch.engine.result.matched, 16);
    assert_int_equal(atomic_load(&control.batches[MOCK_MEMORY_SCATTER]), 6);
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
    assert_int_equal(rig_start(&rig, &batch, 1, NULL), 0);
    assert_int_equal(batch.engine.result.matched, 16);
    assert_int_equal(rig_lookup(&rig, "k0"), 0);
    assert_int_equal(rig_lookup(&rig, "k15"), -ENOENT);
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
    assert_int_equal(atomic_load(&control.items[MOCK_MEMORY_WRITE]), 1);
    assert_int_equal(atomic_load(&control.items[MOCK_MEMORY_GATHER]), 1);
    assert_int_equal(engine_stat(&engine, "mock_good_write_items"), 1);
    /* the pool is hinted to have it: from device to device, before the own store */
    rig_wipe(&rig, 0);
    assert_int_equal(rig_load(&rig, "k", to, TOKENS, &location), 0);
    assert_int_equal(location, KVL_LOCATION_BACKEND);
    assert_int_equal(atomic_load(&control.items[MOCK_MEMORY_SCATTER]), 0);
    assert_int_equal(rig_differs(&rig, to, TOKENS, 3, RIG_LAYERS), 0);
    /* known to have it: nothing is sent again */
    assert_int_equal(rig_save(&rig, "k", from, TOKENS), 0);
    assert_int_equal(atomic_load(&control.items[MOCK_MEMORY_WRITE]), 1);
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
    assert_int_equal(atomic_load(&control.items[MOCK_MEMORY_SCATTER]), 1);
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
    assert_int_equal(rig_start(&rig, &batch, 1, NULL), 0);
    assert_int_equal(batch.engine.status[0], 0);
    assert_int_equal(atomic_load(&control.items[MOCK_MEMORY_WRITE]), 0);
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
    assert_int_equal(rig_start(&rig, &batch, 1, NULL), 0);
    assert_int_equal(atomic_load(&control.items[MOCK_MEMORY_GATHER]), 2);
    assert_int_equal(atomic_load(&control.items[MOCK_MEMORY_WRITE]), 2);
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
    assert_int_equal(atomic_load(&control.items[MOCK_MEMORY_READ]), 1);
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
    assert_int_equal(atomic_load(&second.items[MOCK_MEMORY_WRITE]), 1);
    assert_int_equal(atomic_load(&second.items[MOCK_MEMORY_GATHER]), 0);
    close_rig();

    memset(&second, 0, sizeof(second));
    open_rig("shelf = first", ini);
    atomic_store(&control.code[MOCK_MEMORY_READ], -ECONNRESET);
    assert_int_equal(rig_load(&rig, "k", to, TOKENS, &location), 0);
    assert_int_equal(location, KVL_LOCATION_BACKEND + 1);
    assert_int_equal(atomic_load(&control.items[MOCK_MEMORY_READ]), 1);
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
    atomic_store(&control.hold[MOCK_MEMORY_GATHER], 1);
    rig_batch_init(&batch, &rig, 20000);
    rig_batch_add(&batch, "k", from, TOKENS);
    assert_int_equal(rig_start(&rig, &batch, 1, &op), -EINPROGRESS);
    atomic_store(&control.hold[MOCK_MEMORY_GATHER], 0);
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
    assert_int_equal(atomic_load(&control.items[MOCK_MEMORY_WRITE]), 0);
    close_rig();

    open_rig("shelf = host\nput_to = yes\nhost = yes", "");
    assert_int_equal(engine.plugin->save(engine.instance, &save.batch, &save.result, NULL), 0);
    assert_int_equal(atomic_load(&control.items[MOCK_MEMORY_WRITE]), 1);
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
        cmocka_unit_test(test_targets_with_the_memory_get_the_engine_s_own),
        cmocka_unit_test(test_local_only_goes_nowhere_else),
        cmocka_unit_test(test_overwrite_takes_the_chunk_again),
        cmocka_unit_test(test_a_chunk_too_large_for_the_store),
        cmocka_unit_test(test_a_failing_holder_is_followed_by_the_own_store),
        cmocka_unit_test(test_two_holders_with_the_memory),
        cmocka_unit_test(test_close_sends_on_what_nobody_waited_for),
        cmocka_unit_test(test_host_memory_is_not_given_to_those_that_do_not_take_it),
    };

    (void)unsetenv("KVLANE_CONFIG");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
