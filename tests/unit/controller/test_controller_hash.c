/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "vectors.h"

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))
#define TOKENS 522u

static void test_ints(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(vector_ints); i++) {
        assert_int_equal(controller_hash_int(&vector_ints[i].number), vector_ints[i].hash);
    }
}

static void test_keys_of_seeds(void **state)
{
    uint64_t key[2];

    (void)state;
    for (size_t i = 0; i < COUNT(vector_keys); i++) {
        controller_hash_key(vector_keys[i].seed, key);
        assert_memory_equal(key, vector_keys[i].key, sizeof(key));
    }
}

static void test_texts(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(vector_texts); i++) {
        assert_int_equal(controller_hash_text(vector_texts[i].sip, vector_texts[i].seed,
                                              vector_texts[i].text, strlen(vector_texts[i].text)),
                         vector_texts[i].hash);
    }
}

static void test_tuples(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(vector_tuples); i++) {
        assert_int_equal(controller_hash_ints(vector_tuples[i].numbers, vector_tuples[i].count),
                         vector_tuples[i].hash);
    }
}

static void test_starts_of_chains(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(vector_chains); i++) {
        if (vector_chains[i].has_seed) {
            assert_int_equal(controller_hash_none(vector_chains[i].sip, vector_chains[i].seed),
                             vector_chains[i].none_hash);
        }
    }
}

static void test_chains(void **state)
{
    struct controller_hashing hashing = {.chunk_size = 256};
    struct kvl_chunk_id tokens[TOKENS] = {0};
    struct kvl_chunk_id ids[3];

    (void)state;
    for (uint32_t i = 0; i < TOKENS; i++) {
        tokens[i].bits = i;
    }
    assert_int_equal(controller_hash_chunks(&hashing, TOKENS), COUNT(ids));
    for (size_t i = 0; i < COUNT(vector_chains); i++) {
        hashing.none_hash = vector_chains[i].none_hash;
        hashing.extra = vector_chains[i].extra;
        memset(ids, 0xff, sizeof(ids));
        controller_hash_chain(&hashing, tokens, TOKENS, ids);
        for (size_t j = 0; j < COUNT(ids); j++) {
            assert_int_equal((int64_t)ids[j].bits, vector_chains[i].hashes[j]);
            assert_int_equal(ids[j].negative, vector_chains[i].hashes[j] < 0);
            assert_int_equal(ids[j].reserved, 0);
        }
    }
}

static void test_chunks_are_counted(void **state)
{
    const struct controller_hashing hashing = {.chunk_size = 256};
    struct kvl_chunk_id id = {.bits = 7, .negative = 1, .reserved = 9};

    (void)state;
    assert_int_equal(controller_hash_chunks(&hashing, 0), 0);
    assert_int_equal(controller_hash_chunks(&hashing, 1), 1);
    assert_int_equal(controller_hash_chunks(&hashing, 256), 1);
    assert_int_equal(controller_hash_chunks(&hashing, 257), 2);
    assert_int_equal(controller_hash_chunks(&hashing, UINT32_MAX), 1u << 24);
    controller_hash_chain(&hashing, NULL, 0, &id);
    assert_int_equal(id.bits, 7);
}

/* A chain over the first chunks is the beginning of the chain over all. */
static void test_a_prefix_hashes_alike(void **state)
{
    const struct controller_hashing hashing = {.none_hash = -5, .chunk_size = 4};
    struct kvl_chunk_id tokens[10] = {0};
    struct kvl_chunk_id all[3];
    struct kvl_chunk_id some[2];

    (void)state;
    for (uint32_t i = 0; i < 10; i++) {
        tokens[i] = (struct kvl_chunk_id){.bits = 0 - (uint64_t)i - 1, .negative = i % 2};
    }
    controller_hash_chain(&hashing, tokens, 10, all);
    controller_hash_chain(&hashing, tokens, 8, some);
    assert_memory_equal(all, some, sizeof(some));
    tokens[0].negative = 1; /* 2^64-1 becomes -1 */
    controller_hash_chain(&hashing, tokens, 8, some);
    assert_int_not_equal(all[0].bits, some[0].bits);
    assert_int_not_equal(all[1].bits, some[1].bits);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ints),
        cmocka_unit_test(test_keys_of_seeds),
        cmocka_unit_test(test_texts),
        cmocka_unit_test(test_tuples),
        cmocka_unit_test(test_starts_of_chains),
        cmocka_unit_test(test_chains),
        cmocka_unit_test(test_chunks_are_counted),
        cmocka_unit_test(test_a_prefix_hashes_alike),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
