/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>

#include "ipc.h"
#include "ipc_rig.h"

#define KEY_COUNT 3u

static int order(const struct kvl_ipc_key *a, const struct kvl_ipc_key *b)
{
    const int there = kvl_ipc_table.key_compare(a, b);
    const int back = kvl_ipc_table.key_compare(b, a);

    assert_int_equal(back, there == KVL_IPC_INCOMPARABLE ? there : -there);
    return there;
}

static void test_equal_keys_have_one_hash(void **state)
{
    const struct kvl_ipc_key a = ipc_rig_key();
    struct kvl_ipc_key b = ipc_rig_key();

    (void)state;
    b.request_id = (struct kvl_ipc_bytes){"other", 5}; /* not a field of generation A */
    b.start = kvl_ipc_int_of(7);
    assert_int_equal(kvl_ipc_table.key_equal(&a, &b), 1);
    assert_int_equal(kvl_ipc_table.key_hash(&a, 1), kvl_ipc_table.key_hash(&b, 1));
    assert_int_not_equal(kvl_ipc_table.key_hash(&a, 1), kvl_ipc_table.key_hash(&a, 2));
}

/* Each field tells keys apart. */
static void test_fields_order_keys_like_tuples(void **state)
{
    const struct kvl_ipc_key a = ipc_rig_key();
    struct kvl_ipc_key greater[6];

    (void)state;
    for (size_t i = 0; i < 6; i++) {
        greater[i] = ipc_rig_key();
    }
    greater[0].model_name = (struct kvl_ipc_bytes){"m\0", 2};
    greater[1].model_name = (struct kvl_ipc_bytes){"n", 1};
    greater[2].world_size = kvl_ipc_int_of(3);
    greater[3].worker_id = kvl_ipc_int_of(2);
    greater[4].chunk_hash = (struct kvl_ipc_bytes){"\x01\x02\x03\x04\x00", 5};
    greater[5].chunk_hash = (struct kvl_ipc_bytes){"\x01\x02\x03\xff", 4};
    for (size_t i = 0; i < 6; i++) {
        assert_int_equal(order(&a, &greater[i]), KVL_IPC_LESS);
        assert_int_equal(kvl_ipc_table.key_equal(&a, &greater[i]), 0);
        assert_int_not_equal(kvl_ipc_table.key_hash(&a, 0), kvl_ipc_table.key_hash(&greater[i], 0));
    }
    assert_int_equal(order(&greater[2], &greater[1]), KVL_IPC_LESS); /* the model goes first */
}

static void test_ints_are_ordered_over_their_whole_range(void **state)
{
    static const struct kvl_ipc_int rising[] = {
        {(uint64_t)INT64_MIN, 1, 0},
        {(uint64_t)-2, 1, 0},
        {(uint64_t)-1, 1, 0},
        {0, 0, 0},
        {1, 0, 0},
        {(uint64_t)INT64_MIN, 0, 0},
        {UINT64_MAX, 0, 0},
    };

    (void)state;
    for (size_t i = 0; i < 7; i++) {
        for (size_t j = 0; j < 7; j++) {
            struct kvl_ipc_key a = ipc_rig_key();
            struct kvl_ipc_key b = ipc_rig_key();

            a.worker_id = rising[i];
            b.worker_id = rising[j];
            assert_int_equal(order(&a, &b), i < j   ? KVL_IPC_LESS
                                            : i > j ? KVL_IPC_GREATER
                                                    : KVL_IPC_EQUAL);
        }
    }
}

static void test_one_worker_and_all_workers_have_no_order(void **state)
{
    const struct kvl_ipc_key one = ipc_rig_key();
    struct kvl_ipc_key all;
    struct kvl_ipc_key other;

    (void)state;
    kvl_ipc_table.key_without_worker(&one, &all);
    assert_int_equal(all.flags & KVL_IPC_KEY_HAS_WORKER, 0);
    assert_int_equal(order(&one, &all), KVL_IPC_INCOMPARABLE);
    assert_int_equal(kvl_ipc_table.key_equal(&one, &all), 0);
    other = all;
    assert_int_equal(order(&all, &other), KVL_IPC_EQUAL);
    other.chunk_hash.length--;
    assert_int_equal(order(&other, &all), KVL_IPC_LESS); /* nil against nil goes on */
    other = all;
    other.world_size = kvl_ipc_int_of(9);
    assert_int_equal(order(&one, &other), KVL_IPC_LESS); /* decided before the worker */
    kvl_ipc_table.key_without_worker(&all, &all);
    assert_int_equal(order(&all, &all), KVL_IPC_EQUAL);
    other.generation = KVL_IPC_GENERATION_0;
    assert_int_equal(order(&all, &other), KVL_IPC_INCOMPARABLE);
}

/* The same tokens, however they are written; the request is none of it. */
static void test_keys_by_tokens(void **state)
{
    struct kvl_ipc_key a = ipc_rig_key();
    struct kvl_ipc_key b;

    (void)state;
    a.generation = KVL_IPC_GENERATION_C;
    a.flags = KVL_IPC_KEY_HAS_TOKENS | KVL_IPC_KEY_HAS_REQUEST;
    a.token_ids = (struct kvl_ipc_bytes){"\x92\x01\x02", 3};
    a.request_id = (struct kvl_ipc_bytes){"r1", 2};
    b = a;
    b.token_ids = (struct kvl_ipc_bytes){"\xdc\x00\x02\x01\xcd\x00\x02", 7};
    b.request_id = (struct kvl_ipc_bytes){"r2", 2};
    assert_int_equal(order(&a, &b), KVL_IPC_EQUAL);
    assert_int_equal(kvl_ipc_table.key_hash(&a, 3), kvl_ipc_table.key_hash(&b, 3));
    b.token_ids = (struct kvl_ipc_bytes){"\x93\x01\x02\x00", 4};
    assert_int_equal(order(&a, &b), KVL_IPC_LESS);
    b.token_ids = (struct kvl_ipc_bytes){"\x92\x01\xff", 3};
    assert_int_equal(order(&a, &b), KVL_IPC_GREATER);
    b = a;
    b.end = kvl_ipc_int_of(1);
    assert_int_equal(order(&a, &b), KVL_IPC_LESS);
    b = a;
    b.flags |= KVL_IPC_KEY_HAS_HASH;
    assert_int_equal(order(&a, &b), KVL_IPC_INCOMPARABLE);
}

static void test_hashes_of_ints(void **state)
{
    uint8_t bytes[4] = {0};

    (void)state;
    assert_int_equal(kvl_ipc_table.key_hash_of_int(100, bytes), 0);
    assert_memory_equal(bytes, "\x00\x00\x00\x64", 4);
    assert_int_equal(kvl_ipc_table.key_hash_of_int(UINT32_MAX, bytes), 0);
    assert_memory_equal(bytes, "\xff\xff\xff\xff", 4);
    assert_int_equal(kvl_ipc_table.key_hash_of_int((int64_t)UINT32_MAX + 1, bytes), -ERANGE);
    assert_int_equal(kvl_ipc_table.key_hash_of_int(-1, bytes), -ERANGE);
    assert_int_equal(kvl_ipc_table.key_hash_to_int((struct kvl_ipc_bytes){bytes, 4}), UINT32_MAX);
    assert_int_equal(kvl_ipc_table.key_hash_to_int((struct kvl_ipc_bytes){NULL, 0}), 0);
    assert_int_equal(kvl_ipc_table.key_hash_to_int(
                         (struct kvl_ipc_bytes){"\x05\x01\x02\x03\x04\x05\x06\x07\x08", 9}),
                     0x0102030405060708);
}

/* ---- storage keys ---- */

static void make_keys(struct kvl_ipc_key *keys, int64_t world)
{
    for (uint32_t i = 0; i < KEY_COUNT; i++) {
        keys[i] = ipc_rig_key();
        keys[i].chunk_hash.length = i;
        keys[i].world_size = kvl_ipc_int_of(world);
        if (i != 1) {
            kvl_ipc_table.key_without_worker(&keys[i], &keys[i]);
        }
    }
}

static void test_keys_stand_for_workers_in_their_order(void **state)
{
    static const uint32_t chunks[] = {0, 0, 1, 2, 2};
    static const uint32_t workers[] = {0, 1, 1, 0, 1};
    struct kvl_ipc_key keys[KEY_COUNT];
    struct kvl_ipc_storage_key out[5];
    uint32_t count = 9;

    (void)state;
    make_keys(keys, 2);
    assert_int_equal(kvl_ipc_table.key_expand(keys, KEY_COUNT, NULL, 0, &count, NULL), -ENOSPC);
    assert_int_equal(count, 5);
    assert_int_equal(kvl_ipc_table.key_expand(keys, KEY_COUNT, out, 5, &count, NULL), 0);
    assert_int_equal(count, 5);
    for (uint32_t i = 0; i < 5; i++) {
        assert_int_equal(out[i].chunk_hash.length, chunks[i]);
        assert_int_equal(out[i].worker_id, workers[i]);
        assert_int_equal(out[i].world_size, 2);
        assert_int_equal(out[i].model_name.length, 1);
    }
    assert_int_equal(kvl_ipc_table.key_expand(NULL, 0, NULL, 0, &count, NULL), 0);
    assert_int_equal(count, 0);
}

static void test_what_cannot_be_expanded(void **state)
{
    struct kvl_ipc_key keys[KEY_COUNT];
    struct kvl_ipc_storage_key out[5];
    struct kvl_err err = ipc_rig_err();
    uint32_t count = 9;

    (void)state;
    make_keys(keys, 2);
    keys[2].world_size = kvl_ipc_int_of(3);
    assert_int_equal(kvl_ipc_table.key_expand(keys, KEY_COUNT, out, 5, &count, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "key 2"));
    make_keys(keys, 0);
    assert_int_equal(kvl_ipc_table.key_expand(keys, KEY_COUNT, out, 5, &count, NULL), -ERANGE);
    make_keys(keys, -1);
    assert_int_equal(kvl_ipc_table.key_expand(keys, KEY_COUNT, out, 5, &count, NULL), -ERANGE);
    make_keys(keys, (int64_t)KVL_IPC_WORLD_MAX + 1);
    assert_int_equal(kvl_ipc_table.key_expand(keys, KEY_COUNT, out, 5, &count, NULL), -ERANGE);
    make_keys(keys, 2);
    keys[1].worker_id = kvl_ipc_int_of(-1);
    assert_int_equal(kvl_ipc_table.key_expand(keys, KEY_COUNT, out, 5, &count, NULL), -ERANGE);
    make_keys(keys, 2);
    keys[1].flags = 0;
    assert_int_equal(kvl_ipc_table.key_expand(keys, KEY_COUNT, out, 5, &count, NULL), -EBADMSG);
    assert_int_equal(count, 9);
}

static void test_ranks_of_object_keys(void **state)
{
    struct kvl_ipc_storage_key key = {
        .model_name = {"m", 1}, .chunk_hash = {"h", 1}, .world_size = 255, .worker_id = 7};
    struct kvl_ipc_object_key object;

    (void)state;
    assert_int_equal(kvl_ipc_table.object_key(&key, &object, NULL), 0);
    assert_int_equal(object.kv_rank, 0xff07ff07u);
    key.world_size = 256;
    assert_int_equal(kvl_ipc_table.object_key(&key, &object, NULL), -ERANGE);
    key.world_size = 1;
    key.worker_id = 256;
    assert_int_equal(kvl_ipc_table.object_key(&key, &object, NULL), -ERANGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equal_keys_have_one_hash),
        cmocka_unit_test(test_fields_order_keys_like_tuples),
        cmocka_unit_test(test_ints_are_ordered_over_their_whole_range),
        cmocka_unit_test(test_one_worker_and_all_workers_have_no_order),
        cmocka_unit_test(test_keys_by_tokens),
        cmocka_unit_test(test_hashes_of_ints),
        cmocka_unit_test(test_keys_stand_for_workers_in_their_order),
        cmocka_unit_test(test_what_cannot_be_expanded),
        cmocka_unit_test(test_ranks_of_object_keys),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
