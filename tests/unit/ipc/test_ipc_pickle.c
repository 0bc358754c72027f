/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ipc.h"
#include "ipc_pickle.h"
#include "ipc_rig.h"
#include "ipc_text.h"
#include "ipc_wrapper.h"
#include "vectors.h"

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))
#define ALL_FORMS (~0u)

static struct kvl_pickle_tree tree;

static const char *stage_of(const void *bytes, size_t length, struct kvl_err *err)
{
    const uint32_t forms = KVL_IPC_FORM_BIT(KVL_IPC_FORM_A) | KVL_IPC_FORM_BIT(KVL_IPC_FORM_C);
    struct kvl_ipc_places places;
    struct kvl_ipc_wrapper wrapper;
    int r = kvl_pickle_parse(bytes, length, 0, &tree, err);

    if (r < 0) {
        ipc_rig_told(r, err);
        return "parse";
    }
    r = kvl_ipc_wrapper_take(&tree, forms, 0, &wrapper, &places, err);
    if (r == 0) {
        r = kvl_ipc_wrapper_judge(&wrapper, &places, err);
    }
    if (r < 0) {
        ipc_rig_told(r, err);
        return "check";
    }
    return NULL;
}

static void test_vectors_get_their_verdict(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(vector_pickles); i++) {
        struct kvl_err err = ipc_rig_err();
        struct kvl_ipc_wrapper wrapper;
        const char *stage;
        size_t length;
        uint8_t *bytes = ipc_text_bytes(vector_pickles[i].hex, &length);
        int r;

        stage = stage_of(bytes, length, &err);
        if (vector_pickles[i].stage == NULL
                ? stage != NULL
                : stage == NULL || strcmp(stage, vector_pickles[i].stage) != 0) {
            fail_msg("%s: stage '%s', %s", vector_pickles[i].name, stage, err.text);
        }
        r = kvl_ipc_table.wrapper_unpickle(NULL, bytes, length, &wrapper, &err);
        assert_int_equal(r, stage == NULL ? 0 : err.code);
        if (r == 0) {
            ipc_rig_wrapper_inside(&wrapper, bytes, length);
        }
        free(bytes);
    }
}

/* Below the rules for values, as several vectors break them on purpose. */
static void take(const uint8_t *bytes, size_t length, struct kvl_ipc_wrapper *wrapper)
{
    struct kvl_err err = ipc_rig_err();
    struct kvl_ipc_places places;

    assert_int_equal(kvl_pickle_parse(bytes, length, 0, &tree, &err), 0);
    assert_int_equal(kvl_ipc_wrapper_take(&tree, ALL_FORMS, 0, wrapper, &places, &err), 0);
}

static void test_vectors_hold_what_the_index_says(void **state)
{
    size_t seen = 0;

    (void)state;
    for (size_t i = 0; i < COUNT(vector_pickles); i++) {
        struct kvl_ipc_wrapper wrapper;
        size_t length;
        uint8_t *bytes;
        char *text;

        if (vector_pickles[i].text == NULL) {
            continue;
        }
        bytes = ipc_text_bytes(vector_pickles[i].hex, &length);
        take(bytes, length, &wrapper);
        text = ipc_rig_wrapper_text(&wrapper);
        assert_string_equal(text, vector_pickles[i].text);
        free(text);
        free(bytes);
        seen++;
    }
    assert_true(seen >= 15);
}

static void test_vectors_are_written_again_byte_for_byte(void **state)
{
    size_t seen = 0;

    (void)state;
    for (size_t i = 0; i < COUNT(vector_pickles); i++) {
        struct kvl_ipc_wrapper wrapper;
        size_t length;
        size_t again_length;
        uint8_t *bytes;
        uint8_t *again;

        if (!vector_pickles[i].again) {
            continue;
        }
        bytes = ipc_text_bytes(vector_pickles[i].hex, &length);
        again = malloc(length);
        assert_non_null(again);
        take(bytes, length, &wrapper);
        assert_int_equal(
            kvl_ipc_wrapper_put(&wrapper, vector_pickles[i].protocol, again, length, &again_length),
            0);
        assert_int_equal(again_length, length);
        assert_memory_equal(again, bytes, length);
        /* the other protocol differs in its number */
        assert_int_equal(kvl_ipc_wrapper_put(&wrapper, 5, again, length, &again_length), 0);
        assert_int_equal(again[1], 5);
        assert_memory_equal(again + 2, bytes + 2, length - 2);
        assert_int_equal(kvl_pickle_parse(again, length, 0, &tree, NULL), 0);
        assert_int_equal(tree.protocol, 5);
        free(again);
        free(bytes);
        seen++;
    }
    assert_true(seen >= 15);
}

static const char *vector_hex(const char *name)
{
    for (size_t i = 0; i < COUNT(vector_pickles); i++) {
        if (strcmp(vector_pickles[i].name, name) == 0) {
            return vector_pickles[i].hex;
        }
    }
    fail_msg("no vector %s", name);
    return NULL;
}

static void test_memo_opcodes_that_nobody_needs_may_be_left_out(void **state)
{
    struct kvl_ipc_wrapper a;
    struct kvl_ipc_wrapper b;
    size_t length;
    uint8_t *first = ipc_text_bytes(vector_hex("p01_mha_fp16_v1"), &length);
    uint8_t *second;

    (void)state;
    assert_int_equal(kvl_ipc_table.wrapper_unpickle(NULL, first, length, &a, NULL), 0);
    second = ipc_text_bytes(vector_hex("t01_optimized"), &length);
    assert_int_equal(kvl_ipc_table.wrapper_unpickle(NULL, second, length, &b, NULL), 0);
    assert_int_equal(kvl_ipc_table.wrapper_equal(&a, &b), 1);
    b.counter_slot++;
    assert_int_equal(kvl_ipc_table.wrapper_equal(&a, &b), 0);
    free(first);
    free(second);
}

static void test_no_stream_may_end_early(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(vector_pickles); i++) {
        size_t length;
        uint8_t *bytes = ipc_text_bytes(vector_pickles[i].hex, &length);

        for (size_t cut = 0; cut < length; cut++) {
            struct kvl_err err = ipc_rig_err();
            uint8_t *exact = malloc(cut > 0 ? cut : 1);

            assert_non_null(exact);
            memcpy(exact, bytes, cut);
            if (vector_pickles[i].stage == NULL) {
                assert_string_equal(stage_of(exact, cut, &err), "parse");
            } else {
                (void)stage_of(exact, cut, &err); /* with trailing bytes less may be more */
            }
            free(exact);
        }
        free(bytes);
    }
}

static void test_no_flipped_bit_leads_out_of_the_input(void **state)
{
    size_t taken = 0;

    (void)state;
    for (size_t i = 0; i < COUNT(vector_pickles); i++) {
        size_t length;
        uint8_t *bytes = ipc_text_bytes(vector_pickles[i].hex, &length);

        for (size_t at = 0; at < length * 8; at++) {
            struct kvl_err err = ipc_rig_err();
            struct kvl_ipc_wrapper wrapper;
            int r;

            bytes[at / 8] ^= (uint8_t)(1u << at % 8);
            r = kvl_ipc_table.wrapper_unpickle(NULL, bytes, length, &wrapper, &err);
            if (r == 0) {
                ipc_rig_wrapper_inside(&wrapper, bytes, length);
                taken++;
            } else {
                ipc_rig_told(r, &err);
            }
            bytes[at / 8] ^= (uint8_t)(1u << at % 8);
        }
        free(bytes);
    }
    assert_true(taken > 1000); /* those of handles and numbers */
}

/* ---- streams made by hand: PROTO 4, the body, STOP ---- */

struct stream {
    size_t length;
    uint8_t bytes[8192];
};

static void add(struct stream *stream, const void *bytes, size_t length)
{
    assert_true(stream->length + length <= sizeof(stream->bytes));
    memcpy(stream->bytes + stream->length, bytes, length);
    stream->length += length;
}

static void add_text(struct stream *stream, const char *text)
{
    const uint8_t head[] = {KVL_PICKLE_OP_SHORT_BINUNICODE, (uint8_t)strlen(text)};

    add(stream, head, sizeof(head));
    add(stream, text, strlen(text));
}

static void add_repeated(struct stream *stream, const char *bytes, size_t length, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        add(stream, bytes, length);
    }
}

#define START                                                                                      \
    {                                                                                              \
        2,                                                                                         \
        {                                                                                          \
            KVL_PICKLE_OP_PROTO, 4                                                                 \
        }                                                                                          \
    }

static int parse(struct stream *stream)
{
    add(stream, ".", 1);
    return kvl_pickle_parse(stream->bytes, stream->length, 0, &tree, NULL);
}

static int parse_body(const char *body, size_t length)
{
    struct stream stream = START;

    add(&stream, body, length);
    return parse(&stream);
}

#define PARSE(body) parse_body(body, sizeof(body) - 1)

static void expect_int(const char *body, size_t length, uint64_t bits, int negative)
{
    const struct kvl_pickle_node *node;

    assert_int_equal(parse_body(body, length), 0);
    node = &tree.nodes[tree.root];
    assert_int_equal(node->kind, KVL_PICKLE_INT);
    assert_int_equal(node->bits, bits);
    assert_int_equal(node->negative, negative);
}

#define INT(body, bits, negative) expect_int(body, sizeof(body) - 1, bits, negative)

static void test_ints_of_all_widths(void **state)
{
    (void)state;
    INT("K\xff", 255, 0);
    INT("M\xff\xff", 65535, 0);
    INT("J\xff\xff\xff\x7f", INT32_MAX, 0);
    INT("J\x00\x00\x00\x80", (uint64_t)INT32_MIN, 1);
    INT("\x8a\x00", 0, 0);
    INT("\x8a\x01\xff", (uint64_t)-1, 1);
    INT("\x8a\x05\xff\xff\xff\xff\x00", UINT32_MAX, 0);
    INT("\x8a\x08\x00\x00\x00\x00\x00\x00\x00\x80", (uint64_t)INT64_MIN, 1);
    INT("\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\x00", UINT64_MAX, 0);
    INT("\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x80\xff", (uint64_t)INT64_MIN, 1);
    assert_int_equal(PARSE("\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\x01"), -EMSGSIZE);
    assert_int_equal(PARSE("\x8a\x09\xff\xff\xff\xff\xff\xff\xff\x7f\xff"), -EMSGSIZE);
    assert_int_equal(PARSE("\x8a\x0a\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), -EMSGSIZE);
}

static void test_ints_are_written_in_the_fewest_bytes(void **state)
{
    static const struct {
        int64_t value;
        const char *hex;
    } rows[] = {
        {0, "4b00"},
        {255, "4bff"},
        {256, "4d0001"},
        {65535, "4dffff"},
        {65536, "4a00000100"},
        {INT32_MAX, "4affffff7f"},
        {-1, "4affffffff"},
        {INT32_MIN, "4a00000080"},
        {(int64_t)INT32_MAX + 1, "8a050000008000"},
        {UINT32_MAX, "8a05ffffffff00"},
        {(int64_t)INT32_MIN - 1, "8a05ffffff7fff"},
        {INT64_MAX, "8a08ffffffffffffff7f"},
        {INT64_MIN, "8a080000000000000080"},
    };
    uint8_t bytes[64];
    struct kvl_pickle_out out;

    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        size_t length;
        uint8_t *expected = ipc_text_bytes(rows[i].hex, &length);

        kvl_pickle_begin(&out, bytes, sizeof(bytes), 4);
        kvl_pickle_put_i64(&out, rows[i].value);
        assert_int_equal(out.length, 2 + 9 + length);
        assert_memory_equal(bytes + 11, expected, length);
        free(expected);
    }
    kvl_pickle_begin(&out, bytes, sizeof(bytes), 4);
    kvl_pickle_put_u64(&out, UINT64_MAX);
    assert_memory_equal(bytes + 11, "\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\x00", 11);
}

static void test_opcodes_outside_the_subset_are_refused(void **state)
{
    static const uint8_t allowed[] = "().BCJKMNRXbhjstu}\x81\x85\x86\x87\x88\x89\x8a\x8c\x8e\x93"
                                     "\x94\x95";

    (void)state;
    for (unsigned op = 0; op < 256; op++) {
        struct kvl_err err = ipc_rig_err();
        struct stream stream = START;
        const uint8_t byte = (uint8_t)op;
        const int is_allowed = memchr(allowed, (int)op, sizeof(allowed) - 1) != NULL;

        add(&stream, &byte, 1);
        (void)kvl_pickle_parse(stream.bytes, stream.length, 100, &tree, &err);
        assert_int_equal(strstr(err.text, "is not allowed") == NULL, is_allowed);
        assert_true(is_allowed || strstr(err.text, "at byte 102") != NULL);
    }
}

static void test_the_stack_never_underflows(void **state)
{
    static const char *const bodies[] = {
        "\x85", "K1\x86", "N(\x85", "t",    "(",     "N(",   "NN",    "s",   "}s",
        "}Ns",  "u",      "}u",     "}(Nu", "(u",    "b",    "Nb",    "R",   "NR",
        ")R",   "\x81",   ")\x81",  "\x93", "N\x93", "\x94", "(\x94", "N(0", "}(NN"};

    (void)state;
    for (size_t i = 0; i < COUNT(bodies); i++) {
        assert_int_equal(parse_body(bodies[i], strlen(bodies[i])), -EPROTO);
    }
    assert_int_equal(PARSE("}(u"), 0); /* as CPython has it */
    assert_int_equal(PARSE("(t"), 0);
}

static void test_what_is_called_and_built(void **state)
{
    struct stream size = START;
    struct stream twice = START;
    struct stream late = START;

    (void)state;
    add_text(&size, "torch");
    add_text(&size, "Size");
    add(&size, "\x93K\x01K\x02\x86\x85R", 8);
    assert_int_equal(parse(&size), 0);
    assert_int_equal(tree.nodes[tree.root].kind, KVL_PICKLE_SIZE);
    assert_int_equal(tree.nodes[tree.root].length, 2);

    size.length = 2;
    add_text(&size, "torch");
    add_text(&size, "Size");
    add(&size, "\x93\x88\x85\x85R", 5); /* a bool is no int */
    assert_int_equal(parse(&size), -EPROTO);

    add_text(&twice, "lmcache.v1.multiprocess.custom_types");
    add_text(&twice, "CudaIPCWrapper");
    add(&twice, "\x93)\x81}b}b", 7);
    assert_int_equal(parse(&twice), -EPROTO);

    /* CPython has copied the dict by then: what comes later is not an attribute */
    add_text(&late, "lmcache.v1.multiprocess.custom_types");
    add_text(&late, "CudaIPCWrapper");
    add(&late,
        "\x93)\x81}\x94"
        "b\x85h\x00",
        9);
    add_text(&late, "handle");
    add(&late, "Ns\x86", 3);
    assert_int_equal(parse(&late), -EPROTO);
}

static void test_a_class_of_later_versions_has_its_own_message(void **state)
{
    static const char *const names[][2] = {
        {"lmcache.v1.multiprocess.custom_types", "RawCudaIPCWrapper"},
        {"lmcache.v1.platform.cuda.ipc_wrapper", "CudaIPCWrapper"},
        {"lmcache.v1.platform.base", "DeviceIPCWrapper"},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(names); i++) {
        struct kvl_err err = ipc_rig_err();
        struct stream stream = START;

        add_text(&stream, names[i][0]);
        add_text(&stream, names[i][1]);
        add(&stream, "\x93)\x81.", 4);
        assert_int_equal(kvl_pickle_parse(stream.bytes, stream.length, 0, &tree, &err), -ENOTSUP);
        assert_non_null(strstr(err.text, "known, not supported"));
    }
}

/* ---- limits ---- */

static void test_the_stack_has_its_limit(void **state)
{
    struct stream fits = START;
    struct stream high = START;
    struct stream marks = START;

    (void)state;
    add(&fits, "(", 1);
    add_repeated(&fits, "N", 1, KVL_PICKLE_STACK_MAX - 1);
    add(&fits, "t", 1);
    assert_int_equal(parse(&fits), 0);
    add_repeated(&high, "N", 1, KVL_PICKLE_STACK_MAX + 1);
    assert_int_equal(parse(&high), -EMSGSIZE);
    add_repeated(&marks, "(", 1, KVL_PICKLE_STACK_MAX + 1);
    assert_int_equal(parse(&marks), -EMSGSIZE);
}

static void test_the_memo_has_its_limit(void **state)
{
    struct stream fits = START;
    struct stream large = START;

    (void)state;
    add(&fits, "N", 1);
    add_repeated(&fits, "\x94", 1, KVL_PICKLE_MEMO_MAX);
    add(&fits, "h\xff\x86", 3);
    assert_int_equal(parse(&fits), 0);
    add(&large, "N", 1);
    add_repeated(&large, "\x94", 1, KVL_PICKLE_MEMO_MAX + 1);
    assert_int_equal(parse(&large), -EMSGSIZE);
    assert_int_equal(PARSE("N\x94j\x01\x00\x00\x00\x86"), -EPROTO);
    assert_int_equal(PARSE("N\x94j\x00\x00\x00\x00\x86"), 0);
}

static void test_nesting_has_its_limit(void **state)
{
    struct stream fits = START;
    struct stream deep = START;
    struct stream dicts = START;

    (void)state;
    add(&fits, "N", 1);
    add_repeated(&fits, "\x85", 1, KVL_PICKLE_DEPTH_MAX);
    assert_int_equal(parse(&fits), 0);
    add(&deep, "N", 1);
    add_repeated(&deep, "\x85", 1, KVL_PICKLE_DEPTH_MAX + 1);
    assert_int_equal(parse(&deep), -EMSGSIZE);
    add(&dicts, "}\x94", 2);
    add_repeated(&dicts, "\x8c\x01kh\x00s", 6, KVL_PICKLE_DEPTH_MAX + 1); /* in itself */
    assert_int_equal(parse(&dicts), -EMSGSIZE);
}

/* Each level holds the one below twice: 2^16 leaves, were it walked. */
static void test_shared_objects_cost_nothing(void **state)
{
    struct stream shared = START;

    (void)state;
    add(&shared, "K\x01\x94", 3);
    for (uint8_t i = 0; i < KVL_PICKLE_DEPTH_MAX; i++) {
        const uint8_t level[] = {KVL_PICKLE_OP_BINGET, i, KVL_PICKLE_OP_TUPLE2,
                                 KVL_PICKLE_OP_MEMOIZE};

        add(&shared, level, sizeof(level));
    }
    assert_int_equal(parse(&shared), 0);
    assert_int_equal(tree.node_count, 1 + KVL_PICKLE_DEPTH_MAX);
}

static void expect_too_many(struct stream *stream, const char *what)
{
    struct kvl_err err = ipc_rig_err();

    add(stream, ".", 1);
    assert_int_equal(kvl_pickle_parse(stream->bytes, stream->length, 0, &tree, &err), -EMSGSIZE);
    assert_non_null(strstr(err.text, what));
}

static void test_objects_items_and_entries_have_their_limits(void **state)
{
    struct stream objects = START;
    struct stream items = START;
    struct stream entries = START;

    (void)state;
    for (uint32_t i = 0; i < 5; i++) {
        add(&objects, "(", 1);
        add_repeated(&objects, "N", 1, 200);
        add(&objects, "t", 1);
    }
    add_repeated(&objects, "N", 1, 20);
    expect_too_many(&objects, "too many objects");
    add(&items, "N\x94", 2);
    for (uint32_t i = 0; i < 6; i++) {
        add(&items, "(", 1);
        add_repeated(&items, "h\x00", 2, 200);
        add(&items, "t", 1);
    }
    expect_too_many(&items, "items of tuples");
    add(&entries, "}", 1);
    add_repeated(&entries, "\x8c\x01kNs", 5, KVL_PICKLE_ENTRIES_MAX + 1);
    expect_too_many(&entries, "entries of dicts");
}

static void test_the_input_has_its_limit(void **state)
{
    const size_t length = KVL_IPC_INPUT_MAX + 1;
    const struct kvl_ipc_options small = {.size = sizeof(small), .input_max = 100};
    struct kvl_ipc_wrapper wrapper;
    size_t good_length;
    uint8_t *good = ipc_text_bytes(vector_hex("p01_mha_fp16_v1"), &good_length);
    uint8_t *bytes = calloc(length, 1);

    (void)state;
    assert_non_null(bytes);
    assert_int_equal(kvl_pickle_parse(bytes, length, 0, &tree, NULL), -EMSGSIZE);
    assert_int_equal(kvl_ipc_table.wrapper_unpickle(NULL, bytes, length, &wrapper, NULL),
                     -EMSGSIZE);
    assert_int_equal(kvl_ipc_table.wrapper_unpickle(&small, good, good_length, &wrapper, NULL),
                     -EMSGSIZE);
    free(bytes);
    free(good);
}

static void test_lengths_are_held_against_the_input(void **state)
{
    (void)state;
    assert_int_equal(PARSE("X\xff\xff\xff\xffN"), -EPROTO);
    assert_int_equal(PARSE("B\xff\xff\xff\x7fN"), -EPROTO);
    assert_int_equal(PARSE("\x8e\xff\xff\xff\xff\xff\xff\xff\xffN"), -EPROTO);
    assert_int_equal(PARSE("\x95\x03\x00\x00\x00\x00\x00\x00\x00N"), -EPROTO);
    assert_int_equal(PARSE("\x95\x02\x00\x00\x00\x00\x00\x00\x00N"), 0);
    assert_int_equal(PARSE("\x8c\x02\xc3\x28"), -EPROTO); /* not UTF-8 */
    assert_int_equal(PARSE("\x80\x04N"), -EPROTO); /* PROTO again */
    assert_int_equal(kvl_pickle_parse(NULL, 0, 0, &tree, NULL), -EPROTO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors_get_their_verdict),
        cmocka_unit_test(test_vectors_hold_what_the_index_says),
        cmocka_unit_test(test_vectors_are_written_again_byte_for_byte),
        cmocka_unit_test(test_memo_opcodes_that_nobody_needs_may_be_left_out),
        cmocka_unit_test(test_no_stream_may_end_early),
        cmocka_unit_test(test_no_flipped_bit_leads_out_of_the_input),
        cmocka_unit_test(test_ints_of_all_widths),
        cmocka_unit_test(test_ints_are_written_in_the_fewest_bytes),
        cmocka_unit_test(test_opcodes_outside_the_subset_are_refused),
        cmocka_unit_test(test_the_stack_never_underflows),
        cmocka_unit_test(test_what_is_called_and_built),
        cmocka_unit_test(test_a_class_of_later_versions_has_its_own_message),
        cmocka_unit_test(test_the_stack_has_its_limit),
        cmocka_unit_test(test_the_memo_has_its_limit),
        cmocka_unit_test(test_nesting_has_its_limit),
        cmocka_unit_test(test_shared_objects_cost_nothing),
        cmocka_unit_test(test_objects_items_and_entries_have_their_limits),
        cmocka_unit_test(test_the_input_has_its_limit),
        cmocka_unit_test(test_lengths_are_held_against_the_input),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
