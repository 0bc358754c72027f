/* SPDX-License-Identifier: Apache-2.0 */
/* Paged KV caches in host memory, and what is refused whatever the memory. */
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
static const uint32_t from[] = {3, 7};
static const uint32_t to[] = {9, 8};

static void open_rig(const char *ini)
{
    if (engine_open(&engine, ini) != 0) {
        fail_msg("%s: %s", ini, engine.err.text);
    }
    rig_init(&rig, &engine, KVL_MEM_HOST);
    rig_register(&rig);
}

static void close_rig(void)
{
    assert_int_equal(engine.plugin->unregister_kv(engine.instance, rig.kv), 0);
    assert_int_equal(engine_close(&engine, 5000), 0);
}

/* ---- records ---- */

static void refused(const struct kvl_kv *kv, int code, const char *text)
{
    struct kvl_err err = {.size = sizeof(err)};
    uint64_t handle = 77;

    assert_int_equal(engine.plugin->register_kv(engine.instance, kv, &handle, &err), code);
    assert_int_equal(handle, 77);
    assert_int_equal(err.code, code);
    if (strstr(err.text, text) == NULL) {
        fail_msg("'%s' does not say '%s'", err.text, text);
    }
}

#define REFUSED(change, text)                                                                      \
    do {                                                                                           \
        struct kvl_kv kv = rig.layout;                                                             \
        kv.change;                                                                                 \
        refused(&kv, -EINVAL, text);                                                               \
    } while (0)

static void test_a_record_that_cannot_be_is_named(void **state)
{
    uint64_t bases[RIG_ROWS];

    (void)state;
    open_rig("");
    memcpy(bases, rig.bases, sizeof(bases));
    REFUSED(size = 79, "size is 79");
    REFUSED(reserved = 1, "reserved is 1");
    REFUSED(device = 0, "device is 0, expected -1");
    REFUSED(layers = 0, "layers is 0");
    REFUSED(layers = 65537, "layers is 65537");
    REFUSED(planes = 3, "planes is 3");
    REFUSED(block_tokens = 0, "block_tokens is 0");
    REFUSED(block_count = 0, "block_count is 0");
    REFUSED(token_bytes = 0, "token_bytes is 0");
    REFUSED(token_stride = RIG_TOKEN_BYTES - 1, "token_stride is 15");
    REFUSED(token_stride = UINT64_MAX / 2, "token_stride is ");
    REFUSED(block_stride = RIG_TOKEN_BYTES, "block_stride is 16");
    REFUSED(block_stride = UINT64_MAX / 8, "block_stride is ");
    REFUSED(bases = NULL, "both NULL");
    REFUSED(kvcache = bases, "both set");
    bases[4] = 0;
    REFUSED(bases = bases, "bases[4] is 0x0");
    bases[4] = UINT64_MAX - 100;
    REFUSED(bases = bases, "bases[4] is 0xff");
    close_rig();
}

static void test_a_kvcache_says_everything_itself(void **state)
{
    struct kvl_kv kv = {
        .size = sizeof(kv), .mem = KVL_MEM_CUDA, .kvcache = "x", .kvcache_bytes = 1};

    (void)state;
    open_rig("");
    kv.layers = 2;
    refused(&kv, -EINVAL, "layers is 2, expected 0 beside a kvcache");
    kv.layers = 0;
    kv.kvcache_bytes = 0;
    refused(&kv, -EINVAL, "kvcache_bytes is 0");
    kv.kvcache_bytes = 1;
    kv.mem = KVL_MEM_HOST;
    refused(&kv, -EINVAL, "mem is 0");
    kv.mem = KVL_MEM_CUDA;
    refused(&kv, -ENOTSUP, "no running backend serves memory of CUDA devices");
    close_rig();
}

static void test_memory_nobody_serves_is_named(void **state)
{
    struct kvl_sg sg;
    struct engine_batch save;
    struct kvl_kv kv;

    (void)state;
    open_rig("");
    kv = rig.layout;
    kv.device = 0;
    kv.mem = KVL_MEM_CUDA;
    refused(&kv, -ENOTSUP, "CUDA");
    kv.mem = 63;
    refused(&kv, -ENOTSUP, "kind 63");
    kv.mem = 64;
    refused(&kv, -ENOTSUP, "kind 64");

    engine_batch_init(&save, 5000);
    (void)engine_batch_add(&save, "k", rig.rows, 64);
    sg = save.sg[0];
    save.sg[0].mem = KVL_MEM_CUDA;
    save.sg[0].device = 0;
    assert_int_equal(engine.plugin->save(engine.instance, &save.batch, &save.result, NULL),
                     -ENOTSUP);
    save.sg[0] = sg;
    assert_int_equal(engine.plugin->save(engine.instance, &save.batch, &save.result, NULL), 0);
    close_rig();
}

static void test_interleaved_layouts_are_taken(void **state)
{
    struct kvl_kv kv;
    uint64_t handle;

    (void)state;
    open_rig("");
    kv = rig.layout;
    /* token-major: the blocks of one token side by side */
    kv.block_stride = RIG_TOKEN_BYTES;
    kv.token_stride = RIG_TOKEN_BYTES * RIG_BLOCKS;
    assert_int_equal(engine.plugin->register_kv(engine.instance, &kv, &handle, NULL), 0);
    assert_int_equal(engine.plugin->unregister_kv(engine.instance, handle), 0);
    assert_int_equal(engine.plugin->unregister_kv(engine.instance, handle), -EINVAL);
    assert_int_equal(engine.plugin->unregister_kv(engine.instance, 0), -EINVAL);
    /* one block may have any stride */
    kv = rig.layout;
    kv.block_count = 1;
    kv.block_stride = 0;
    assert_int_equal(engine.plugin->register_kv(engine.instance, &kv, &handle, NULL), 0);
    assert_int_equal(engine.plugin->unregister_kv(engine.instance, handle), 0);
    close_rig();
}

/* ---- block tables ---- */

static int save_of(struct rig_batch *batch)
{
    return engine.plugin->save(engine.instance, &batch->engine.batch, &batch->engine.result, NULL);
}

static int load_of(struct rig_batch *batch)
{
    return engine.plugin->load(engine.instance, &batch->engine.batch, &batch->engine.result, NULL);
}

static void test_block_tables_that_cannot_be_are_refused(void **state)
{
    const uint32_t beyond[] = {3, RIG_BLOCKS};
    const uint32_t hole[] = {3, KVL_BLOCK_SKIP};
    struct rig_batch batch;
    struct kvl_sg sg;

    (void)state;
    open_rig("");
    rig_batch_init(&batch, &rig, 5000);
    rig_batch_add(&batch, "k", beyond, TOKENS);
    assert_int_equal(save_of(&batch), -EINVAL);
    assert_int_equal(load_of(&batch), -EINVAL);

    rig_batch_init(&batch, &rig, 5000);
    rig_batch_add(&batch, "k", hole, TOKENS);
    assert_int_equal(save_of(&batch), -EINVAL); /* a chunk with a hole is nobody's chunk */

    rig_batch_init(&batch, &rig, 5000);
    rig_batch_add(&batch, "k", from, TOKENS);
    batch.engine.chunks[0].bytes = RIG_BYTES(TOKENS) + 1;
    assert_int_equal(save_of(&batch), -EINVAL);
    batch.engine.chunks[0].bytes = RIG_BYTES(RIG_BLOCK_TOKENS); /* one block would do */
    assert_int_equal(save_of(&batch), -EINVAL);
    batch.engine.chunks[0].bytes = RIG_BYTES(TOKENS + 1); /* two do not */
    assert_int_equal(save_of(&batch), -EINVAL);
    batch.engine.chunks[0].bytes = 0;
    assert_int_equal(load_of(&batch), -EINVAL);

    batch.engine.chunks[0].bytes = RIG_BYTES(TOKENS);
    batch.engine.batch.sg = &sg;
    assert_int_equal(save_of(&batch), -EINVAL);
    batch.engine.batch.sg = NULL;
    batch.engine.batch.kv = rig.kv + 1;
    assert_int_equal(save_of(&batch), -EINVAL);
    batch.engine.batch.kv = 0;
    assert_int_equal(save_of(&batch), -EINVAL);
    batch.engine.batch.kv = rig.kv;
    batch.block_first[1] = 0;
    assert_int_equal(save_of(&batch), -EINVAL);
    batch.block_first[0] = 2;
    assert_int_equal(save_of(&batch), -EINVAL);
    assert_int_equal(engine_stat(&engine, "store_chunks"), 0);
    close_rig();
}

/* ---- moving ---- */

static void test_blocks_are_saved_and_loaded(void **state)
{
    uint8_t location = 9;

    (void)state;
    open_rig("");
    rig_fill(&rig, from, TOKENS, 1);
    assert_int_equal(rig_save(&rig, "k", from, TOKENS), 0);
    rig_wipe(&rig, 0);
    assert_int_equal(rig_load(&rig, "k", to, TOKENS, &location), 0);
    assert_int_equal(location, KVL_LOCATION_LOCAL);
    assert_int_equal(rig_differs(&rig, to, TOKENS, 1, RIG_LAYERS), 0);
    /* and nothing else was touched, the holes behind the tokens included */
    rig_fill(&rig, to, TOKENS, 1);
    for (uint32_t row = 0; row < RIG_ROWS; row++) {
        for (uint32_t t = 0; t < TOKENS; t++) {
            memset(rig_token(&rig, row, to[t / RIG_BLOCK_TOKENS], t % RIG_BLOCK_TOKENS), 0,
                   RIG_TOKEN_BYTES);
        }
    }
    assert_int_equal(rig_not(&rig, 0), 0);
    close_rig();
}

/* What another engine with plain buffers sees is [planes][layers][tokens][bytes]. */
static void test_the_chunk_is_contiguous(void **state)
{
    uint8_t bytes[RIG_BYTES(TOKENS)];
    struct engine_batch load;

    (void)state;
    open_rig("");
    rig_fill(&rig, from, TOKENS, 5);
    assert_int_equal(rig_save(&rig, "k", from, TOKENS), 0);
    engine_batch_init(&load, 5000);
    (void)engine_batch_add(&load, "k", bytes, sizeof(bytes));
    assert_int_equal(engine.plugin->load(engine.instance, &load.batch, &load.result, NULL), 0);
    assert_int_equal(load.status[0], 0);
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
    open_rig("");
    rig_fill(&rig, from, tokens, 2);
    assert_int_equal(rig_save(&rig, "k", from, tokens), 0);
    rig_wipe(&rig, 0);
    assert_int_equal(rig_load(&rig, "k", to, tokens, NULL), 0);
    assert_int_equal(rig_differs(&rig, to, tokens, 2, RIG_LAYERS), 0);
    assert_int_equal(rig_token(&rig, 0, to[1], 1)[0], 0);

    rig_wipe(&rig, 0);
    assert_int_equal(rig_load(&rig, "k", skip, tokens, NULL), 0);
    assert_int_equal(rig_differs(&rig, skip, tokens, 2, RIG_LAYERS), 0);
    assert_int_equal(rig_not(&rig, 0), RIG_ROWS * RIG_TOKEN_BYTES);
    close_rig();
}

static void preloaded_into_blocks(const char *word, uint64_t store_chunks)
{
    uint8_t location = 0;
    char ini[256];

    (void)snprintf(ini, sizeof(ini), "[%s]\nshelf = kv\npreload = a\npreload_bytes = %llu\n", word,
                   (unsigned long long)RIG_CHUNK);
    open_rig(ini);
    assert_int_equal(rig_load(&rig, "a", to, TOKENS, &location), 0);
    assert_int_equal(location, KVL_LOCATION_BACKEND);
    assert_int_equal(engine_stat(&engine, "store_chunks"), store_chunks);
    for (uint64_t i = 0; i < RIG_CHUNK; i++) {
        const uint32_t token = (uint32_t)(i / RIG_TOKEN_BYTES);

        assert_int_equal(rig_token(&rig, token / TOKENS, to[token % TOKENS / RIG_BLOCK_TOKENS],
                                   token % RIG_BLOCK_TOKENS)[i % RIG_TOKEN_BYTES],
                         mock_byte("a", i));
    }
    close_rig();
}

static void test_another_engine_s_chunk_goes_into_blocks(void **state)
{
    (void)state;
    preloaded_into_blocks("mock_good", 1);
}

static void test_direct_readers_get_the_blocks_as_runs(void **state)
{
    (void)state;
    preloaded_into_blocks("mock_direct", 0);
}

static void test_a_skipped_block_goes_through_the_store(void **state)
{
    const uint32_t skip[] = {KVL_BLOCK_SKIP, 4};
    char ini[256];

    (void)state;
    (void)snprintf(ini, sizeof(ini),
                   "[mock_direct]\nshelf = kv\npreload = a\npreload_bytes = %llu\n",
                   (unsigned long long)RIG_CHUNK);
    open_rig(ini);
    assert_int_equal(rig_load(&rig, "a", skip, TOKENS, NULL), 0);
    assert_int_equal(engine_stat(&engine, "store_chunks"), 1);
    assert_int_equal(rig_token(&rig, 0, 4, 0)[0], mock_byte("a", 4 * RIG_TOKEN_BYTES));
    close_rig();
}

static void test_contiguous_blocks_are_one_run(void **state)
{
    const uint32_t side_by_side[] = {5, 6};

    (void)state;
    open_rig("[mock_direct]\nshelf = kv run\nput_to = yes\n");
    assert_int_equal(engine.plugin->unregister_kv(engine.instance, rig.kv), 0);
    rig.layout.token_stride = RIG_TOKEN_BYTES;
    rig.layout.block_stride = RIG_TOKEN_BYTES * RIG_BLOCK_TOKENS;
    rig_register(&rig);
    rig_fill(&rig, side_by_side, TOKENS, 8);
    assert_int_equal(rig_save(&rig, "k", side_by_side, TOKENS), 0);
    close_rig();

    open_rig("[mock_direct]\nshelf = kv run\n");
    assert_int_equal(engine.plugin->unregister_kv(engine.instance, rig.kv), 0);
    rig.layout.token_stride = RIG_TOKEN_BYTES;
    rig.layout.block_stride = RIG_TOKEN_BYTES * RIG_BLOCK_TOKENS;
    rig_register(&rig);
    assert_int_equal(rig_load(&rig, "k", side_by_side, TOKENS, NULL), 0);
    assert_int_equal(rig_differs(&rig, side_by_side, TOKENS, 8, RIG_LAYERS), 0);
    assert_int_equal(engine_stat(&engine, "store_chunks"), 0);
    close_rig();
}

/* ---- records of before 1.2 ---- */

static void test_a_batch_of_the_old_size_ends_where_it_says(void **state)
{
    struct {
        struct kvl_batch batch;
        uint8_t bytes[64];
    } old;
    struct engine_batch save;
    uint8_t back[64];

    (void)state;
    open_rig("");
    memset(old.bytes, 0x42, sizeof(old.bytes));
    engine_batch_init(&save, 5000);
    (void)engine_batch_add(&save, "k", old.bytes, sizeof(old.bytes));
    memset(&old.batch, 0xff, sizeof(old.batch)); /* what lies behind an old record is anybody's */
    memcpy(&old.batch, &save.batch, KVL_BATCH_SIZE_1_0);
    old.batch.size = KVL_BATCH_SIZE_1_0;
    assert_int_equal(engine.plugin->save(engine.instance, &old.batch, &save.result, NULL), 0);
    assert_int_equal(save.status[0], 0);
    save.sg[0].addr = (uint64_t)(uintptr_t)back;
    assert_int_equal(engine.plugin->load(engine.instance, &old.batch, &save.result, NULL), 0);
    assert_memory_equal(back, old.bytes, sizeof(back));
    old.batch.size = KVL_BATCH_SIZE_1_0 - 1;
    assert_int_equal(engine.plugin->save(engine.instance, &old.batch, &save.result, NULL), -EINVAL);
    close_rig();
}

static void test_layers_of_a_load_that_is_over(void **state)
{
    struct rig_batch batch;
    uint64_t op = 0;
    char ini[256];
    int r;

    (void)state;
    (void)snprintf(ini, sizeof(ini), "[mock_good]\nshelf = kv\npreload = a\npreload_bytes = %llu\n",
                   (unsigned long long)RIG_CHUNK);
    open_rig(ini);
    rig_batch_init(&batch, &rig, 20000);
    rig_batch_add(&batch, "a", to, TOKENS);
    assert_int_equal(engine.plugin->wait_layers(engine.instance, 1, 1, 0), -EINVAL);
    r = engine.plugin->load(engine.instance, &batch.engine.batch, &batch.engine.result, &op);
    if (r == -EINPROGRESS) { /* else it was there before the call looked for the last time */
        /* nobody waits for it: it is moved on from here, into the engine's memory */
        assert_int_equal(
            engine.plugin->wait_layers(engine.instance, op, RIG_LAYERS, engine_now_ms() + 20000),
            0);
        assert_int_equal(rig_token(&rig, 0, to[0], 0)[0], mock_byte("a", 0));
        assert_int_equal(engine.plugin->unregister_kv(engine.instance, rig.kv), -EBUSY);
        r = engine.plugin->wait(engine.instance, op, 0, &batch.engine.result);
        assert_int_equal(engine.plugin->wait_layers(engine.instance, op, 1, 0), -EINVAL);
    }
    assert_int_equal(r, 0);
    assert_int_equal(batch.engine.status[0], 0);
    assert_int_equal(rig_token(&rig, 0, to[0], 0)[0], mock_byte("a", 0));
    close_rig();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_record_that_cannot_be_is_named),
        cmocka_unit_test(test_a_kvcache_says_everything_itself),
        cmocka_unit_test(test_memory_nobody_serves_is_named),
        cmocka_unit_test(test_interleaved_layouts_are_taken),
        cmocka_unit_test(test_block_tables_that_cannot_be_are_refused),
        cmocka_unit_test(test_blocks_are_saved_and_loaded),
        cmocka_unit_test(test_the_chunk_is_contiguous),
        cmocka_unit_test(test_partial_and_skipped_blocks),
        cmocka_unit_test(test_another_engine_s_chunk_goes_into_blocks),
        cmocka_unit_test(test_direct_readers_get_the_blocks_as_runs),
        cmocka_unit_test(test_a_skipped_block_goes_through_the_store),
        cmocka_unit_test(test_contiguous_blocks_are_one_run),
        cmocka_unit_test(test_a_batch_of_the_old_size_ends_where_it_says),
        cmocka_unit_test(test_layers_of_a_load_that_is_over),
    };

    (void)unsetenv("KVLANE_CONFIG");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
