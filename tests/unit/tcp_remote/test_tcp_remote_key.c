/* SPDX-License-Identifier: Apache-2.0 */
#include "rig.h"

#include <errno.h>
#include <string.h>

#include "tcp_remote_key.h"

static struct tcp_remote_key parse(const char *text)
{
    struct tcp_remote_key key;
    char again[TCP_REMOTE_KEY_BYTES];
    int n;

    assert_int_equal(tcp_remote_key_parse(text, strlen(text), &key), 0);
    n = tcp_remote_key_print(&key, again, sizeof(again));
    assert_int_equal(n, strlen(text));
    assert_memory_equal(again, text, strlen(text));
    return key;
}

static void expect_text(struct tcp_remote_text text, const char *expected)
{
    assert_int_equal(text.length, strlen(expected));
    assert_memory_equal(text.at, expected, text.length);
}

static void test_newest_form(void **state)
{
    struct tcp_remote_key key =
        parse("meta-llama/Llama-3.1-8B-Instruct@4@3@5d1b8de6da1b6d09@bfloat16");
    uint64_t hash = 0;

    (void)state;
    assert_int_equal(key.form, TCP_REMOTE_KEY_NEWEST);
    expect_text(key.model, "meta-llama/Llama-3.1-8B-Instruct");
    assert_int_equal(key.world_size, 4);
    assert_int_equal(key.worker_id, 3);
    expect_text(key.dtype, "bfloat16");
    assert_false(key.has_layer);
    assert_int_equal(tcp_remote_key_hash(&key, 16, &hash), 0);
    assert_true(hash == 0x5d1b8de6da1b6d09ull);
}

static void test_negative_hash(void **state)
{
    struct tcp_remote_key key = parse("Qwen/Qwen3-4B@1@0@-5d1b8de6da1b6d09@bfloat16");

    (void)state;
    assert_true(key.negative);
    expect_text(key.hash, "5d1b8de6da1b6d09");
}

static void test_layer_and_tags(void **state)
{
    struct tcp_remote_key key = parse("Qwen/Qwen3-4B@1@0@aa@bfloat16@7@tenant%acme@tier%a%b");

    (void)state;
    assert_true(key.has_layer);
    assert_int_equal(key.layer, 7);
    assert_int_equal(key.tag_count, 2);
    expect_text(key.tags[0].name, "tenant");
    expect_text(key.tags[1].value, "a%b");
}

static void test_health_key_has_no_model(void **state)
{
    struct tcp_remote_key key = parse("@0@0@0@half");

    (void)state;
    assert_int_equal(key.model.length, 0);
}

static void test_form_1_with_hex_and_decimal_hash(void **state)
{
    struct tcp_remote_key key = parse("vllm@meta-llama/Llama-3.1-8B-Instruct@1@0@9f86d081");
    uint64_t hash = 0;

    (void)state;
    assert_int_equal(key.form, TCP_REMOTE_KEY_PLAIN);
    expect_text(key.fmt, "vllm");
    key = parse("vllm@meta-llama/Llama-3.1-8B-Instruct@1@0@1234567890123456789");
    assert_int_equal(tcp_remote_key_hash(&key, 10, &hash), 0);
    assert_true(hash == 1234567890123456789ull);
}

static void test_form_2_with_tag_layer_and_sign(void **state)
{
    struct tcp_remote_key key = parse("vllm@m@1@0@ab@tenant%acme");

    (void)state;
    assert_int_equal(key.form, TCP_REMOTE_KEY_TAGGED);
    assert_int_equal(key.tag_count, 1);
    key = parse("vllm@m@1@0@ab@12@t%v");
    assert_int_equal(key.layer, 12);
    key = parse("vllm@m@1@0@-ab");
    assert_int_equal(key.form, TCP_REMOTE_KEY_TAGGED);
}

static void test_form_3_has_fmt_and_dtype(void **state)
{
    struct tcp_remote_key key = parse("vllm@Qwen/Qwen3-4B@1@0@-5d1b8de6da1b6d09@bfloat16@0");

    (void)state;
    assert_int_equal(key.form, TCP_REMOTE_KEY_FMT_DTYPE);
    expect_text(key.fmt, "vllm");
    assert_true(key.has_layer);
    assert_int_equal(key.layer, 0);
}

static void test_sha256_hash_keeps_its_zeros(void **state)
{
    const uint8_t digest[4] = {0, 0x0a, 0xff, 1};
    char text[16];
    struct tcp_remote_key key =
        parse("m@1@0@000000000000000000000000000000000000000000000000000000000000002a@half");
    uint64_t hash = 0;

    (void)state;
    assert_int_equal(key.hash.length, 64);
    assert_int_equal(tcp_remote_key_hash(&key, 16, &hash), 0);
    assert_int_equal(hash, 42);
    assert_int_equal(tcp_remote_hash_from_bytes(digest, 4, text, sizeof(text)), 8);
    assert_string_equal(text, "000aff01");
    assert_int_equal(tcp_remote_hash_from_bytes(digest, 4, text, 8), -EMSGSIZE);
}

static void test_hash_over_64_bits_is_a_range_error(void **state)
{
    struct tcp_remote_key key = parse("m@1@0@10000000000000000@half");
    uint64_t hash = 0;

    (void)state;
    assert_int_equal(tcp_remote_key_hash(&key, 16, &hash), -ERANGE);
    assert_int_equal(hash, 0);
}

static void test_int_hash_prints_like_python(void **state)
{
    char text[24];

    (void)state;
    assert_int_equal(tcp_remote_hash_from_int(-0x5d1b, text, sizeof(text)), 5);
    assert_string_equal(text, "-5d1b");
    assert_int_equal(tcp_remote_hash_from_int(0, text, sizeof(text)), 1);
    assert_int_equal(tcp_remote_hash_from_int(INT64_MIN, text, sizeof(text)), 17);
    assert_string_equal(text, "-8000000000000000");
    assert_int_equal(tcp_remote_hash_from_int(INT64_MIN, text, 17), -EMSGSIZE);
}

static void test_parse_trims(void **state)
{
    struct tcp_remote_key key;

    (void)state;
    assert_int_equal(tcp_remote_key_parse("  m@1@0@ab@half  ", 17, &key), 0);
    expect_text(key.model, "m");
    expect_text(key.dtype, "half");
}

static void test_refuses_what_is_no_key(void **state)
{
    const char *const texts[] = {
        "m",           "m@1@0@ab",      "m@x@0@ab@half",          "m@1@0@xyz@half",
        "m@1@0@@half", "m@1@0@ab@int4", "m@1@0@ab@half@tag",      "m@-1@0@ab@half",
        "    ",        "m@1@0@-@half",  "m@99999999999@0@a@half", "v@m@1@0@ab@half@x",
    };
    struct tcp_remote_key key;

    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        assert_int_equal(tcp_remote_key_parse(texts[i], strlen(texts[i]), &key), -EINVAL);
    }
}

static void test_print_refuses_at_signs_and_lengths(void **state)
{
    struct tcp_remote_key key;
    char text[TCP_REMOTE_KEY_BYTES];

    (void)state;
    assert_int_equal(tcp_remote_key_parse("m@1@0@ab@half", 13, &key), 0);
    assert_int_equal(tcp_remote_key_print(&key, text, 12), -EMSGSIZE);
    key.model = (struct tcp_remote_text){"a@b", 3};
    assert_int_equal(tcp_remote_key_print(&key, text, sizeof(text)), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_newest_form),
        cmocka_unit_test(test_negative_hash),
        cmocka_unit_test(test_layer_and_tags),
        cmocka_unit_test(test_health_key_has_no_model),
        cmocka_unit_test(test_form_1_with_hex_and_decimal_hash),
        cmocka_unit_test(test_form_2_with_tag_layer_and_sign),
        cmocka_unit_test(test_form_3_has_fmt_and_dtype),
        cmocka_unit_test(test_sha256_hash_keeps_its_zeros),
        cmocka_unit_test(test_hash_over_64_bits_is_a_range_error),
        cmocka_unit_test(test_int_hash_prints_like_python),
        cmocka_unit_test(test_parse_trims),
        cmocka_unit_test(test_refuses_what_is_no_key),
        cmocka_unit_test(test_print_refuses_at_signs_and_lengths),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
