/* SPDX-License-Identifier: Apache-2.0 */
#include "cm.h"

#include <errno.h>
#include <string.h>

#include "kv.h"
#include "route.h"
#include "scatter.h"

#define LAYERS 2u
#define BLOCKS 8u
#define BLOCK_TOKENS 4u
#define TOKEN 8u

static uint8_t rows[LAYERS][BLOCKS * BLOCK_TOKENS * TOKEN];
static uint64_t bases[LAYERS];
static struct kvl_route route; /* nobody */

static struct kvl_kv plain(void)
{
    for (uint32_t i = 0; i < LAYERS; i++) {
        bases[i] = (uint64_t)(uintptr_t)rows[i];
    }
    return (struct kvl_kv){
        .size = sizeof(struct kvl_kv),
        .device = KVL_DEVICE_HOST,
        .layers = LAYERS,
        .planes = 1,
        .block_tokens = BLOCK_TOKENS,
        .block_count = BLOCKS,
        .token_bytes = TOKEN,
        .token_stride = TOKEN,
        .block_stride = BLOCK_TOKENS * TOKEN,
        .bases = bases,
    };
}

static struct kvl_kv_cache *add(struct kvl_kv_table *table)
{
    struct kvl_kv kv = plain();
    uint64_t handle;

    assert_int_equal(kvl_kv_register(table, &route, &kv, &handle, NULL), 0);
    memset(bases, 0, sizeof(bases)); /* borrowed for the call */
    return kvl_kv_get(table, handle);
}

static void test_numbers_are_never_used_twice(void **state)
{
    struct kvl_kv_table table;
    struct kvl_kv kv = plain();
    uint64_t first;
    uint64_t second;

    (void)state;
    kvl_kv_init(&table);
    assert_int_equal(kvl_kv_register(&table, &route, &kv, &first, NULL), 0);
    assert_int_equal(kvl_kv_unregister(&table, first), 0);
    assert_int_equal(kvl_kv_register(&table, &route, &kv, &second, NULL), 0);
    assert_true(first != second && first != 0 && second != 0);
    assert_null(kvl_kv_get(&table, first));
    assert_int_equal(kvl_kv_unregister(&table, first), -EINVAL);
    kvl_kv_fini(&table); /* forgets what is still there */
}

static void test_users_keep_it(void **state)
{
    struct kvl_kv_table table;
    struct kvl_kv_cache *cache;
    uint64_t handle;

    (void)state;
    kvl_kv_init(&table);
    cache = add(&table);
    handle = cache->handle;
    assert_ptr_equal(kvl_kv_use(&table, cache), cache);
    kvl_kv_put(&table, cache);
    assert_int_equal(kvl_kv_unregister(&table, handle), -EBUSY);
    kvl_kv_put(&table, cache);
    assert_int_equal(kvl_kv_unregister(&table, handle), 0);
    kvl_kv_put(&table, NULL);
    kvl_kv_fini(&table);
}

static void test_blocks_side_by_side_are_one_run(void **state)
{
    const uint32_t apart[] = {1, 3, 2};
    const uint32_t joined[] = {4, 5, 6};
    struct kvl_kv_table table;
    struct kvl_kv_cache *cache;
    struct kvl_sg sg[LAYERS * 3];
    uint64_t bytes;

    (void)state;
    kvl_kv_init(&table);
    cache = add(&table);
    assert_int_equal(kvl_kv_most_runs(cache, 3), LAYERS * 3);
    assert_int_equal(kvl_kv_runs(cache, apart, 3, LAYERS * 9 * TOKEN, sg), LAYERS * 3);
    assert_int_equal(sg[0].length, BLOCK_TOKENS * TOKEN);
    assert_int_equal(sg[2].length, TOKEN); /* one token of the last block */
    assert_int_equal(sg[3].addr, (uintptr_t)rows[1] + BLOCK_TOKENS * TOKEN);
    assert_int_equal(kvl_sg_check(sg, LAYERS * 3, &bytes), 0);
    assert_int_equal(bytes, LAYERS * 9 * TOKEN);

    assert_int_equal(kvl_kv_runs(cache, joined, 3, LAYERS * 12 * TOKEN, sg), LAYERS);
    assert_int_equal(sg[1].addr, (uintptr_t)rows[1] + 4 * BLOCK_TOKENS * TOKEN);
    assert_int_equal(sg[1].length, 3 * BLOCK_TOKENS * TOKEN);
    kvl_kv_put(&table, cache);
    kvl_kv_fini(&table);
}

static void test_runs_and_copies_agree(void **state)
{
    const uint32_t blocks[] = {7, 0};
    const uint64_t bytes = LAYERS * 6 * TOKEN;
    struct kvl_kv_table table;
    struct kvl_kv_cache *cache;
    struct kvl_sg sg[LAYERS * 2];
    uint8_t by_blocks[LAYERS * 6 * TOKEN];
    uint8_t by_runs[LAYERS * 6 * TOKEN];
    uint8_t before[sizeof(rows)];

    (void)state;
    kvl_kv_init(&table);
    cache = add(&table);
    for (size_t i = 0; i < sizeof(rows); i++) {
        ((uint8_t *)rows)[i] = (uint8_t)(i * 31 + i / 256);
    }
    memcpy(before, rows, sizeof(rows));
    kvl_kv_gather(cache, blocks, 2, bytes, by_blocks);
    kvl_sg_gather(sg, kvl_kv_runs(cache, blocks, 2, bytes, sg), by_runs);
    assert_memory_equal(by_blocks, by_runs, bytes);
    assert_memory_equal(by_blocks, rows[0] + 7 * BLOCK_TOKENS * TOKEN, BLOCK_TOKENS * TOKEN);
    for (uint32_t i = 0; i < 2; i++) {
        memset(rows[i] + 7 * BLOCK_TOKENS * TOKEN, 0, BLOCK_TOKENS * TOKEN);
        memset(rows[i], 0, 2 * TOKEN);
    }
    kvl_kv_scatter(cache, blocks, 2, bytes, by_blocks);
    assert_memory_equal(rows, before, sizeof(rows));
    kvl_kv_put(&table, cache);
    kvl_kv_fini(&table);
}

static void test_block_tables_are_checked(void **state)
{
    const uint32_t blocks[] = {1, BLOCKS - 1, BLOCKS, KVL_BLOCK_SKIP};
    const struct kvl_kv_cache foreign = {.layout = {.mem = KVL_MEM_CUDA}};
    struct kvl_kv_table table;
    struct kvl_kv_cache *cache;

    (void)state;
    kvl_kv_init(&table);
    cache = add(&table);
    assert_int_equal(kvl_kv_check(cache, blocks, 2, LAYERS * 8 * TOKEN, 0), 0);
    assert_int_equal(kvl_kv_check(cache, blocks, 2, LAYERS * 5 * TOKEN, 0), 0);
    assert_int_equal(kvl_kv_check(cache, blocks, 2, LAYERS * 4 * TOKEN, 0), -EINVAL);
    assert_int_equal(kvl_kv_check(cache, blocks, 2, LAYERS * 9 * TOKEN, 0), -EINVAL);
    assert_int_equal(kvl_kv_check(cache, blocks, 2, LAYERS * 8 * TOKEN - 1, 0), -EINVAL);
    assert_int_equal(kvl_kv_check(cache, blocks, 0, 0, 0), -EINVAL);
    assert_int_equal(kvl_kv_check(cache, blocks + 1, 2, LAYERS * 8 * TOKEN, 1), -EINVAL);
    assert_int_equal(kvl_kv_check(cache, blocks + 3, 1, LAYERS * TOKEN, 0), -EINVAL);
    assert_int_equal(kvl_kv_check(cache, blocks + 3, 1, LAYERS * TOKEN, 1), 0);
    assert_int_equal(kvl_kv_has_runs(cache, blocks, 2), 1);
    assert_int_equal(kvl_kv_has_runs(cache, blocks + 3, 1), 0);
    kvl_kv_put(&table, cache);
    kvl_kv_fini(&table);

    /* of a kvcache only its backend knows the layout */
    assert_int_equal(kvl_kv_check(&foreign, blocks, 3, 12345, 0), 0);
    assert_int_equal(kvl_kv_check(&foreign, blocks, 4, 12345, 0), -EINVAL);
    assert_int_equal(kvl_kv_check(&foreign, blocks, 3, 0, 0), -EINVAL);
    assert_int_equal(kvl_kv_has_runs(&foreign, blocks, 1), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_numbers_are_never_used_twice),
        cmocka_unit_test(test_users_keep_it),
        cmocka_unit_test(test_blocks_side_by_side_are_one_run),
        cmocka_unit_test(test_runs_and_copies_agree),
        cmocka_unit_test(test_block_tables_are_checked),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
