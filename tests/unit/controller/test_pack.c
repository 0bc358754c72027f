/* SPDX-License-Identifier: Apache-2.0 */
#include "pack.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "frames.h"

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

/* Integers at the edges of each form, and their bytes. */
static const struct {
    uint64_t bits;
    int negative;
    const char *hex;
} ints[] = {
    {0, 0, "00"},
    {127, 0, "7f"},
    {128, 0, "cc80"},
    {255, 0, "ccff"},
    {256, 0, "cd0100"},
    {65535, 0, "cdffff"},
    {65536, 0, "ce00010000"},
    {UINT32_MAX, 0, "ceffffffff"},
    {UINT64_C(1) << 32, 0, "cf0000000100000000"},
    {UINT64_MAX, 0, "cfffffffffffffffff"},
    {(uint64_t)-1, 1, "ff"},
    {(uint64_t)-32, 1, "e0"},
    {(uint64_t)-33, 1, "d0df"},
    {(uint64_t)-128, 1, "d080"},
    {(uint64_t)-129, 1, "d1ff7f"},
    {(uint64_t)-32768, 1, "d18000"},
    {(uint64_t)-32769, 1, "d2ffff7fff"},
    {(uint64_t)INT32_MIN, 1, "d280000000"},
    {(uint64_t)INT32_MIN - 1, 1, "d3ffffffff7fffffff"},
    {(uint64_t)INT64_MIN, 1, "d38000000000000000"},
};

static void expect_hex(const struct kvl_pack_out *out, const char *hex)
{
    struct frame expected = frame_of_hex(hex);

    assert_false(kvl_pack_out_failed(out));
    assert_int_equal(out->length, expected.length);
    assert_memory_equal(out->at, expected.bytes, expected.length);
    free(expected.bytes);
}

static void test_ints_take_the_smallest_form(void **state)
{
    uint8_t bytes[16];
    struct kvl_pack_out out;
    struct kvl_pack in;
    uint64_t bits;
    int negative;

    (void)state;
    for (size_t i = 0; i < COUNT(ints); i++) {
        kvl_pack_out_init(&out, bytes, sizeof(bytes));
        kvl_pack_put_int(&out, ints[i].bits, ints[i].negative);
        expect_hex(&out, ints[i].hex);
        kvl_pack_init(&in, bytes, out.length);
        assert_int_equal(kvl_pack_read_int(&in, &bits, &negative), 0);
        assert_int_equal(bits, ints[i].bits);
        assert_int_equal(negative, ints[i].negative);
        assert_int_equal(kvl_pack_left(&in), 0);
    }
}

static void test_ints_that_do_not_fit_are_not_read(void **state)
{
    struct frame frame = frame_of("9223372036854775808 -1");
    struct kvl_pack in;
    int64_t wide = 5;
    uint64_t whole = 5;

    (void)state;
    kvl_pack_init(&in, frame.bytes, frame.length);
    assert_int_equal(kvl_pack_read_i64(&in, &wide), -ERANGE);
    assert_int_equal(wide, 5);
    assert_int_equal(kvl_pack_offset(&in), 0);
    assert_int_equal(kvl_pack_read_u64(&in, &whole), 0);
    assert_int_equal(whole, UINT64_C(1) << 63);
    assert_int_equal(kvl_pack_read_u64(&in, &whole), -ERANGE);
    assert_int_equal(kvl_pack_read_i64(&in, &wide), 0);
    assert_int_equal(wide, -1);
    free(frame.bytes);
}

static void test_heads_take_the_smallest_form(void **state)
{
    static const struct {
        void (*put)(struct kvl_pack_out *out, uint32_t count);
        uint32_t count;
        const char *hex;
    } heads[] = {
        {kvl_pack_put_array, 15, "9f"},
        {kvl_pack_put_array, 16, "dc0010"},
        {kvl_pack_put_array, 65536, "dd00010000"},
        {kvl_pack_put_map, 15, "8f"},
        {kvl_pack_put_map, 65535, "deffff"},
        {kvl_pack_put_map, UINT32_MAX, "dfffffffff"},
        {kvl_pack_put_text_head, 31, "bf"},
        {kvl_pack_put_text_head, 32, "d920"},
        {kvl_pack_put_text_head, 256, "da0100"},
        {kvl_pack_put_text_head, 65536, "db00010000"},
        {kvl_pack_put_bytes_head, 0, "c400"},
        {kvl_pack_put_bytes_head, 256, "c50100"},
        {kvl_pack_put_bytes_head, UINT32_MAX, "c6ffffffff"},
    };
    uint8_t bytes[16];
    struct kvl_pack_out out;

    (void)state;
    for (size_t i = 0; i < COUNT(heads); i++) {
        kvl_pack_out_init(&out, bytes, sizeof(bytes));
        heads[i].put(&out, heads[i].count);
        expect_hex(&out, heads[i].hex);
    }
}

static void test_extensions_come_back(void **state)
{
    static const struct {
        uint32_t length;
        const char *head;
    } sizes[] = {{0, "c700fb"},
                 {1, "d4fb"},
                 {2, "d5fb"},
                 {3, "c703fb"},
                 {4, "d6fb"},
                 {8, "d7fb"},
                 {16, "d8fb"},
                 {17, "c711fb"},
                 {256, "c80100fb"},
                 {32, "c720fb"},
                 {70000, "c900011170fb"}};
    uint8_t *payload = calloc(1, 70000);
    uint8_t *bytes = malloc(70016);
    struct kvl_pack_out out;
    struct frame head;
    struct kvl_pack in;
    const uint8_t *found;
    uint32_t length;
    int8_t type;

    (void)state;
    for (size_t i = 0; i < COUNT(sizes); i++) {
        kvl_pack_out_init(&out, bytes, 70016);
        kvl_pack_put_ext(&out, -5, payload, sizes[i].length);
        head = frame_of_hex(sizes[i].head);
        assert_memory_equal(bytes, head.bytes, head.length);
        assert_int_equal(out.length, head.length + sizes[i].length);
        kvl_pack_init(&in, bytes, out.length);
        assert_int_equal(kvl_pack_read_ext(&in, &type, &found, &length), 0);
        assert_int_equal(type, -5);
        assert_int_equal(length, sizes[i].length);
        assert_ptr_equal(found, bytes + head.length);
        assert_int_equal(kvl_pack_left(&in), 0);
        kvl_pack_init(&in, bytes, out.length - 1);
        assert_int_equal(kvl_pack_read_ext(&in, &type, &found, &length), -ENODATA);
        free(head.bytes);
    }
    free(payload);
    free(bytes);
}

static void test_floats(void **state)
{
    struct frame frame = frame_of("f-0.5 xca3fc00000 -3 18446744073709551615 xcb7ff8000000000000");
    struct kvl_pack in;
    double value = 0;

    (void)state;
    kvl_pack_init(&in, frame.bytes, frame.length);
    assert_int_equal(kvl_pack_read_float(&in, &value), 0);
    assert_true(value == -0.5);
    assert_int_equal(kvl_pack_read_float(&in, &value), 0);
    assert_true(value == 1.5);
    assert_int_equal(kvl_pack_read_float(&in, &value), 0);
    assert_true(value == -3.0);
    assert_int_equal(kvl_pack_read_float(&in, &value), 0);
    assert_true(value == 18446744073709551616.0);
    assert_int_equal(kvl_pack_read_float(&in, &value), 0);
    assert_true(isnan(value));
    assert_int_equal(kvl_pack_read_float(&in, &value), -ENODATA);
    free(frame.bytes);
}

/* Reads a value of this type and says only what came of it. */
static int read_as(struct kvl_pack *in, enum kvl_pack_type type)
{
    const uint8_t *bytes;
    const char *text;
    uint32_t length;
    uint64_t bits;
    int8_t ext;
    int value;

    switch (type) {
    case KVL_PACK_NIL:
        return kvl_pack_read_nil(in);
    case KVL_PACK_BOOL:
        return kvl_pack_read_bool(in, &value);
    case KVL_PACK_INT:
        return kvl_pack_read_int(in, &bits, &value);
    case KVL_PACK_TEXT:
        return kvl_pack_read_text(in, &text, &length);
    case KVL_PACK_BYTES:
        return kvl_pack_read_bytes(in, &bytes, &length);
    case KVL_PACK_ARRAY:
        return kvl_pack_read_array(in, &length);
    case KVL_PACK_MAP:
        return kvl_pack_read_map(in, &length);
    default:
        return kvl_pack_read_ext(in, &ext, &bytes, &length);
    }
}

/* Of another type, and of half a value, nothing is read. */
static void test_typed_reads_are_strict(void **state)
{
    static const enum kvl_pack_type types[] = {
        KVL_PACK_NIL,   KVL_PACK_BOOL,  KVL_PACK_INT, KVL_PACK_TEXT,
        KVL_PACK_BYTES, KVL_PACK_ARRAY, KVL_PACK_MAP, KVL_PACK_EXT,
    };
    static const struct {
        const char *words;
        enum kvl_pack_type type;
        int as_it; /* read as what it is */
        int as_other;
    } values[] = {
        {"nil", KVL_PACK_NIL, 0, -EINVAL},
        {"true", KVL_PACK_BOOL, 0, -EINVAL},
        {"5", KVL_PACK_INT, 0, -EINVAL},
        {"-5", KVL_PACK_INT, 0, -EINVAL},
        {"xcc05", KVL_PACK_INT, 0, -EINVAL},
        {"f1.0", KVL_PACK_FLOAT, 0, -EINVAL},
        {"'a'", KVL_PACK_TEXT, 0, -EINVAL},
        {"xc40161", KVL_PACK_BYTES, 0, -EINVAL},
        {"[0", KVL_PACK_ARRAY, 0, -EINVAL},
        {"xd9", KVL_PACK_TEXT, -ENODATA, -EINVAL},
        {"xdc0000", KVL_PACK_ARRAY, 0, -EINVAL},
        {"{0", KVL_PACK_MAP, 0, -EINVAL},
        {"xde00", KVL_PACK_MAP, -ENODATA, -EINVAL},
        {"xd40561", KVL_PACK_EXT, 0, -EINVAL},
        {"xc1", KVL_PACK_BAD, -EBADMSG, -EBADMSG},
        {"", KVL_PACK_END, -ENODATA, -ENODATA},
    };
    struct frame frame;
    struct kvl_pack in;
    int expected;

    (void)state;
    for (size_t i = 0; i < COUNT(values); i++) {
        frame = frame_of(values[i].words);
        for (size_t j = 0; j < COUNT(types); j++) {
            expected = types[j] == values[i].type ? values[i].as_it : values[i].as_other;
            kvl_pack_init(&in, frame.bytes, frame.length);
            assert_int_equal(kvl_pack_peek(&in), values[i].type);
            assert_int_equal(read_as(&in, types[j]), expected);
            assert_int_equal(kvl_pack_offset(&in), expected == 0 ? frame.length : 0);
        }
        free(frame.bytes);
    }
}

static void test_nothing_beyond_the_end_is_read(void **state)
{
    /* one of each form */
    struct frame all = frame_of(
        "[21 nil true xcc01 xcd0102 xce01020304 xcf0102030405060708 xd001 xd10102 xd201020304 "
        "xd30102030405060708 xca01020304 f1.5 'abc' xd903616263 xda0003616263 xdb00000003616263 "
        "xc403616263 xc70305616263 xd80500112233445566778899aabbccddeeff [2 1 2 {1 'a' {1 1 2");
    struct frame cut;
    struct kvl_pack in;

    (void)state;
    kvl_pack_init(&in, all.bytes, all.length);
    assert_int_equal(kvl_pack_skip(&in, 3), 0);
    assert_int_equal(kvl_pack_left(&in), 0);
    for (size_t length = 0; length < all.length; length++) {
        cut = (struct frame){.bytes = malloc(length > 0 ? length : 1), .length = length};
        memcpy(cut.bytes, all.bytes, length);
        kvl_pack_init(&in, cut.bytes, cut.length);
        assert_int_equal(kvl_pack_skip(&in, 3), -ENODATA);
        free(cut.bytes);
    }
    kvl_pack_init(&in, NULL, 0);
    assert_int_equal(kvl_pack_skip(&in, 3), -ENODATA);
    free(all.bytes);
}

static void test_skipping_minds_its_depth(void **state)
{
    struct frame frame = frame_of("[2 [1 [0 {1 [0 5 7");
    struct frame bad = frame_of("[2 [1 xc1 5");
    struct kvl_pack in;

    (void)state;
    kvl_pack_init(&in, frame.bytes, frame.length);
    assert_int_equal(kvl_pack_skip(&in, 2), -EMSGSIZE);
    kvl_pack_init(&in, frame.bytes, frame.length);
    assert_int_equal(kvl_pack_skip(&in, 0), -EMSGSIZE);
    kvl_pack_init(&in, frame.bytes, frame.length);
    assert_int_equal(kvl_pack_skip(&in, 3), 0);
    assert_int_equal(kvl_pack_left(&in), 1);
    assert_int_equal(kvl_pack_skip(&in, 0), 0);
    assert_int_equal(kvl_pack_skip(&in, 0), -ENODATA);
    kvl_pack_init(&in, bad.bytes, bad.length);
    assert_int_equal(kvl_pack_skip(&in, 9), -EBADMSG);
    assert_int_equal(kvl_pack_offset(&in), 2);
    free(frame.bytes);
    free(bad.bytes);
}

/* Counts of four billions end with the bytes, not with the counts. */
static void test_skipping_follows_bytes_not_counts(void **state)
{
    uint8_t bytes[5 * KVL_PACK_DEPTH_MAX];
    struct kvl_pack in;

    (void)state;
    memset(bytes, 0xff, sizeof(bytes));
    for (size_t i = 0; i < sizeof(bytes); i += 5) {
        bytes[i] = 0xdf;
    }
    kvl_pack_init(&in, bytes, sizeof(bytes));
    assert_int_equal(kvl_pack_skip(&in, UINT32_MAX), -ENODATA);
}

static void test_a_failed_run_says_what_it_needs(void **state)
{
    uint8_t bytes[4] = {9, 9, 9, 9};
    struct kvl_pack_out out;

    (void)state;
    kvl_pack_out_init(&out, NULL, 0);
    kvl_pack_put_raw(&out, NULL, 0);
    assert_false(kvl_pack_out_failed(&out));
    kvl_pack_out_init(&out, bytes, 3);
    kvl_pack_put_array(&out, 2);
    kvl_pack_put_text(&out, "abc", 3);
    kvl_pack_put_nil(&out);
    assert_true(kvl_pack_out_failed(&out));
    assert_int_equal(out.length, 6);
    assert_int_equal(bytes[3], 9);
}

static void test_utf8_is_what_python_takes(void **state)
{
    static const char *const good[] = {"",
                                       "a",
                                       "\x7f",
                                       "\xc2\x80",
                                       "\xdf\xbf",
                                       "\xe0\xa0\x80",
                                       "\xed\x9f\xbf",
                                       "\xee\x80\x80",
                                       "\xef\xbf\xbf",
                                       "\xf0\x90\x80\x80",
                                       "\xf4\x8f\xbf\xbf",
                                       "1234567\xc3\xa4z"};
    static const char *const wrong[] = {"\x80",
                                        "\xbf",
                                        "\xc0\x80",
                                        "\xc1\xbf",
                                        "\xc2",
                                        "\xc2\x41",
                                        "\xe0\x9f\xbf",
                                        "\xe0\xa0",
                                        "\xed\xa0\x80",
                                        "\xed\xbf\xbf",
                                        "\xf0\x8f\xbf\xbf",
                                        "\xf0\x90\x80",
                                        "\xf4\x90\x80\x80",
                                        "\xf5\x80\x80\x80",
                                        "\xff",
                                        "12345678\xc3",
                                        "1234567\xc3\x28"};

    (void)state;
    for (size_t i = 0; i < COUNT(good); i++) {
        assert_true(kvl_pack_is_utf8(good[i], strlen(good[i])));
    }
    for (size_t i = 0; i < COUNT(wrong); i++) {
        assert_false(kvl_pack_is_utf8(wrong[i], strlen(wrong[i])));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ints_take_the_smallest_form),
        cmocka_unit_test(test_ints_that_do_not_fit_are_not_read),
        cmocka_unit_test(test_heads_take_the_smallest_form),
        cmocka_unit_test(test_extensions_come_back),
        cmocka_unit_test(test_floats),
        cmocka_unit_test(test_typed_reads_are_strict),
        cmocka_unit_test(test_nothing_beyond_the_end_is_read),
        cmocka_unit_test(test_skipping_minds_its_depth),
        cmocka_unit_test(test_skipping_follows_bytes_not_counts),
        cmocka_unit_test(test_a_failed_run_says_what_it_needs),
        cmocka_unit_test(test_utf8_is_what_python_takes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
