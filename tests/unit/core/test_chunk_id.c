/* SPDX-License-Identifier: Apache-2.0 */
#include "cm.h"

#include <errno.h>
#include <string.h>

#include "chunk_id.h"
#include "hash.h"

static void expect(const char *text, uint64_t bits, uint32_t negative)
{
    const struct kvl_key key = kvl_key_from_text(text);
    struct kvl_chunk_id id = {.bits = 1, .negative = 7, .reserved = 7};

    assert_int_equal(kvl_chunk_id_of(&key, &id), 0);
    assert_int_equal(id.bits, bits);
    assert_int_equal(id.negative, negative);
    assert_int_equal(id.reserved, 0);
}

static void expect_hashed(const char *text)
{
    expect(text, kvl_hash_bytes(text, strlen(text)), 0);
}

/* Texts as LMCache 0.3.13 writes them for CacheEngineKey and LayerCacheEngineKey. */
static void test_keys_of_lmcache_carry_their_hash(void **state)
{
    (void)state;
    expect("meta-llama/Llama-3.1-8B@2@1@1f@half", 0x1f, 0);
    expect("m@1@0@-1f@half", (uint64_t)-0x1f, 1);
    expect("m@1@0@0@bfloat16", 0, 0);
    expect("m@1@0@ffffffffffffffff@half", UINT64_MAX, 0);
    expect("m@1@0@-1@half", UINT64_MAX, 1);
    expect("m@1@0@8000000000000000@half", 1ull << 63, 0);
    expect("m@1@0@-8000000000000000@half", 1ull << 63, 1);
    expect("m@1@0@1f@half@7", 0x1f, 0);
    expect("m@1@0@1f@half@7@user%bob", 0x1f, 0);
    expect("m@1@0@1f@half@user%bob@x%1", 0x1f, 0);
    expect("@1@-1@1f@half", 0x1f, 0);
}

static void test_a_digest_gives_its_first_bytes(void **state)
{
    (void)state;
    expect("m@1@0@0123456789abcdef0000000000000000000000000000000000000000000000ff@half",
           0x0123456789abcdefull, 0);
    expect_hashed("m@1@0@-0123456789abcdef0000000000000000000000000000000000000000000000ff@half");
    expect_hashed("m@1@0@0123456789abcdef000000000000000000000000000000000000000000000gff@half");
}

static void test_others_are_hashed(void **state)
{
    (void)state;
    expect_hashed("k");
    expect_hashed("m@1@0@1f"); /* too few fields */
    expect_hashed("m@1@0@1f@"); /* no type */
    expect_hashed("m@1@0@@half");
    expect_hashed("m@1@0@-@half");
    expect_hashed("m@1@0@0x1f@half");
    expect_hashed("m@1@0@1F@half"); /* never written so */
    expect_hashed("m@1@0@1 @half");
    expect_hashed("m@one@0@1f@half");
    expect_hashed("m@1@@1f@half");
    expect_hashed("m@1@-@1f@half");
    expect_hashed("m@1@0@10000000000000000@half"); /* beyond 64 bits */
    expect_hashed("m@1@0@-8000000000000001@half");
    expect_hashed("@@@@");
    expect_hashed("@@@@@");
}

static void test_what_is_no_key_is_refused(void **state)
{
    char text[KVL_KEY_MAX + 1];
    struct kvl_key key = {.text = text, .length = KVL_KEY_MAX + 1};
    struct kvl_chunk_id id = {.bits = 5};

    (void)state;
    memset(text, 'a', sizeof(text));
    assert_int_equal(kvl_chunk_id_of(&key, &id), -EINVAL);
    key.length = 0;
    assert_int_equal(kvl_chunk_id_of(&key, &id), -EINVAL);
    assert_int_equal(id.bits, 5);
    key.length = KVL_KEY_MAX;
    assert_int_equal(kvl_chunk_id_of(&key, &id), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_keys_of_lmcache_carry_their_hash),
        cmocka_unit_test(test_a_digest_gives_its_first_bytes),
        cmocka_unit_test(test_others_are_hashed),
        cmocka_unit_test(test_what_is_no_key_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
