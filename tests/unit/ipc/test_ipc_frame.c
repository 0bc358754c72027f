/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ipc.h"
#include "ipc_rig.h"
#include "ipc_text.h"
#include "vectors.h"

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

static struct kvl_ipc_options options_of(uint32_t generation)
{
    return (struct kvl_ipc_options){.size = sizeof(struct kvl_ipc_options),
                                    .generation = generation};
}

static void test_vectors_mean_what_the_index_says(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(vector_frames); i++) {
        const struct kvl_ipc_options options = options_of(vector_frames[i].generation);
        struct kvl_err err = ipc_rig_err();
        struct kvl_ipc_value value;
        size_t length;
        uint8_t *bytes = ipc_text_bytes(vector_frames[i].hex, &length);
        char *text;
        int r = ipc_rig_decode(&options, vector_frames[i].kind, bytes, length, &value, &err);

        if (vector_frames[i].text == NULL) {
            ipc_rig_told(r, &err);
        } else if (r < 0) {
            fail_msg("%s: %s", vector_frames[i].name, err.text);
        } else {
            text = ipc_rig_text(&value);
            assert_string_equal(text, vector_frames[i].text);
            ipc_rig_inside(&value, bytes, length);
            free(text);
        }
        ipc_rig_free(&value);
        free(bytes);
    }
}

/* Other spellings than Python's, which it accepts. */
static int is_another_spelling(const char *name)
{
    static const char *const names[] = {"d02_reordered", "d03_unknown_field", "d18_nonmin_int",
                                        "d21_map16"};

    for (size_t i = 0; i < COUNT(names); i++) {
        if (strcmp(name, names[i]) == 0) {
            return 1;
        }
    }
    return 0;
}

static void test_vectors_are_written_again_byte_for_byte(void **state)
{
    size_t seen = 0;

    (void)state;
    for (size_t i = 0; i < COUNT(vector_frames); i++) {
        const struct kvl_ipc_options options = options_of(vector_frames[i].generation);
        struct kvl_ipc_value value;
        size_t length;
        size_t again_length;
        uint8_t *bytes;
        uint8_t *again;

        if (vector_frames[i].text == NULL || is_another_spelling(vector_frames[i].name)) {
            continue;
        }
        bytes = ipc_text_bytes(vector_frames[i].hex, &length);
        assert_int_equal(
            ipc_rig_decode(&options, vector_frames[i].kind, bytes, length, &value, NULL), 0);
        again = ipc_rig_encode(&options, &value, &again_length);
        assert_int_equal(again_length, length);
        assert_memory_equal(again, bytes, length);
        ipc_rig_free(&value);
        free(again);
        free(bytes);
        seen++;
    }
    assert_true(seen > 60);
}

static void test_no_frame_may_end_early(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(vector_frames); i++) {
        const struct kvl_ipc_options options = options_of(vector_frames[i].generation);
        size_t length;
        uint8_t *bytes = ipc_text_bytes(vector_frames[i].hex, &length);

        for (size_t cut = 0; cut < length; cut++) {
            struct kvl_err err = ipc_rig_err();
            struct kvl_ipc_value value;
            uint8_t *exact = malloc(cut > 0 ? cut : 1);
            int r;

            assert_non_null(exact);
            memcpy(exact, bytes, cut);
            r = ipc_rig_decode(&options, vector_frames[i].kind, exact, cut, &value, &err);
            if (vector_frames[i].text != NULL) {
                ipc_rig_told(r, &err);
            }
            ipc_rig_free(&value);
            free(exact);
        }
        free(bytes);
    }
}

static void test_no_flipped_bit_leads_out_of_the_input(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(vector_frames); i++) {
        const struct kvl_ipc_options options = options_of(vector_frames[i].generation);
        size_t length;
        uint8_t *bytes = ipc_text_bytes(vector_frames[i].hex, &length);

        for (size_t at = 0; at < length * 8; at++) {
            struct kvl_err err = ipc_rig_err();
            struct kvl_ipc_value value;
            int r;

            bytes[at / 8] ^= (uint8_t)(1u << at % 8);
            r = ipc_rig_decode(&options, vector_frames[i].kind, bytes, length, &value, &err);
            if (r == 0) {
                ipc_rig_inside(&value, bytes, length);
            } else {
                ipc_rig_told(r, &err);
            }
            ipc_rig_free(&value);
            bytes[at / 8] ^= (uint8_t)(1u << at % 8);
        }
        free(bytes);
    }
}

/* ---- frames made by hand ---- */

static int decode_hex(const struct kvl_ipc_options *options, uint32_t kind, const char *hex)
{
    struct kvl_err err = ipc_rig_err();
    struct kvl_ipc_value value;
    size_t length;
    uint8_t *bytes = ipc_text_bytes(hex, &length);
    int r = ipc_rig_decode(options, kind, bytes, length, &value, &err);

    if (r < 0) {
        assert_int_equal(err.code, r);
    }
    ipc_rig_free(&value);
    free(bytes);
    return r;
}

static void test_a_type_is_a_type(void **state)
{
    (void)state;
    assert_int_equal(decode_hex(NULL, KVL_IPC_INT, "c3"), -EPROTO);
    assert_int_equal(decode_hex(NULL, KVL_IPC_INT, "ca3f800000"), -EPROTO);
    assert_int_equal(decode_hex(NULL, KVL_IPC_INT, "0000"), -EPROTO);
    assert_int_equal(decode_hex(NULL, KVL_IPC_INT, "cfffffffffffffffff"), 0);
    assert_int_equal(decode_hex(NULL, KVL_IPC_INTS, "9201c2"), -EPROTO);
    assert_int_equal(decode_hex(NULL, KVL_IPC_INTS, "9201cb3ff0000000000000"), -EPROTO);
    assert_int_equal(decode_hex(NULL, KVL_IPC_INTS, "91cfffffffffffffffff"), -ERANGE);
    assert_int_equal(decode_hex(NULL, KVL_IPC_INTS, "91d38000000000000000"), 0);
    assert_int_equal(decode_hex(NULL, KVL_IPC_BOOLS, "92c301"), -EPROTO);
    assert_int_equal(decode_hex(NULL, KVL_IPC_TEXT, "c4014f"), -EPROTO);
    assert_int_equal(decode_hex(NULL, KVL_IPC_TEXT, "d9024f4b"), 0);
    assert_int_equal(decode_hex(NULL, KVL_IPC_TEXT, "db000000024f4b"), 0);
    assert_int_equal(decode_hex(NULL, KVL_IPC_BYTES, "a14f"), -EPROTO);
    assert_int_equal(decode_hex(NULL, KVL_IPC_BYTES, "c500014f"), 0);
    assert_int_equal(decode_hex(NULL, KVL_IPC_BYTES_BOOL, "91c400"), -EPROTO);
    assert_int_equal(decode_hex(NULL, KVL_IPC_BYTES_BOOL, "93c400c3c3"), -EPROTO);
    assert_int_equal(decode_hex(NULL, KVL_IPC_BYTES_BOOL, "92c400c0"), -EPROTO);
    assert_int_equal(decode_hex(NULL, KVL_IPC_BYTES_BOOLS, "92c40092c3c2"), 0);
    assert_int_equal(decode_hex(NULL, KVL_IPC_BYTES_BOOLS, "92c400c3"), -EPROTO);
    assert_int_equal(decode_hex(NULL, KVL_IPC_REQUEST, "00"), -EPROTO);
    assert_int_equal(decode_hex(NULL, KVL_IPC_REQUEST, "09"), -EPROTO);
    assert_int_equal(decode_hex(NULL, KVL_IPC_REQUEST, "ff"), -EPROTO);
    assert_int_equal(decode_hex(NULL, KVL_IPC_REQUEST, "a4535445"), -EPROTO);
    assert_int_equal(decode_hex(NULL, KVL_IPC_INT, "c1"), -EPROTO);
}

static void test_pairs_of_bytes_and_bools_come_back(void **state)
{
    uint8_t bools[] = {1, 0, 1};
    struct kvl_ipc_value value = {.size = sizeof(value),
                                  .kind = KVL_IPC_BYTES_BOOLS,
                                  .count = 3,
                                  .bytes = {"abc", 3},
                                  .bools = bools};
    struct kvl_ipc_value again;
    size_t length;
    uint8_t *bytes = ipc_rig_encode(NULL, &value, &length);

    (void)state;
    assert_int_equal(length, 10);
    assert_memory_equal(bytes,
                        "\x92\xc4\x03"
                        "abc\x93\xc3\xc2\xc3",
                        10);
    assert_int_equal(ipc_rig_decode(NULL, KVL_IPC_BYTES_BOOLS, bytes, length, &again, NULL), 0);
    assert_int_equal(again.count, 3);
    assert_memory_equal(again.bools, bools, 3);
    ipc_rig_free(&again);
    free(bytes);
}

/* A count is no reason to ask for memory. */
static void test_counts_are_held_against_the_input(void **state)
{
    (void)state;
    assert_int_equal(decode_hex(NULL, KVL_IPC_INTS, "ddffffffff00"), -EPROTO);
    assert_int_equal(decode_hex(NULL, KVL_IPC_BOOLS, "ddffffffffc2"), -EPROTO);
    assert_int_equal(decode_hex(NULL, KVL_IPC_KEYS, "ddffffffff80"), -EPROTO);
    assert_int_equal(decode_hex(NULL, KVL_IPC_KV_CACHE, "ddffffffffc7"), -EPROTO);
    /* each of them so short that the array would be many times the input */
    assert_int_equal(decode_hex(NULL, KVL_IPC_KEYS, "9780808080808080"), -EPROTO);
    assert_int_equal(decode_hex(NULL, KVL_IPC_KV_CACHE, "92d40180d40180"), -EPROTO);
    assert_int_equal(decode_hex(NULL, KVL_IPC_KEY, "dfffffffffa16dc0"), -EPROTO);
    assert_int_equal(decode_hex(NULL, KVL_IPC_WRAPPER, "c9ffffffff0180"), -EPROTO);
}

#define MODEL "aa6d6f64656c5f6e616d65a16d"
#define WORLD "aa776f726c645f73697a6502"
#define WORKER "a9776f726b65725f6964"
#define HASH "aa6368756e6b5f68617368c40201"
#define KEY_TAIL "02"

static void test_keys_have_fields_and_not_more(void **state)
{
    const struct kvl_ipc_options zero = options_of(KVL_IPC_GENERATION_0);

    (void)state;
    assert_int_equal(decode_hex(NULL, KVL_IPC_KEY, "84" MODEL WORLD WORKER "c0" HASH KEY_TAIL), 0);
    assert_int_equal(decode_hex(&zero, KVL_IPC_KEY, "84" MODEL WORLD WORKER "01" HASH KEY_TAIL), 0);
    /* generation 0 has no keys for all workers */
    assert_int_equal(decode_hex(&zero, KVL_IPC_KEY, "84" MODEL WORLD WORKER "c0" HASH KEY_TAIL),
                     -EPROTO);
    /* the last of several counts, also when that is nil */
    assert_int_equal(
        decode_hex(NULL, KVL_IPC_KEY, "85" MODEL WORLD WORKER "01" HASH KEY_TAIL WORKER "c0"), 0);
    assert_int_equal(
        decode_hex(NULL, KVL_IPC_KEY, "85" MODEL WORLD WORKER "01" HASH KEY_TAIL WORKER "a131"),
        -EPROTO);
    /* names are texts */
    assert_int_equal(
        decode_hex(NULL, KVL_IPC_KEY, "85" MODEL WORLD WORKER "01" HASH KEY_TAIL "c40178c0"),
        -EPROTO);
    assert_int_equal(
        decode_hex(NULL, KVL_IPC_KEY, "85" MODEL WORLD WORKER "01" HASH KEY_TAIL "01c0"), -EPROTO);
    assert_int_equal(decode_hex(NULL, KVL_IPC_KEY, "80"), -EPROTO);
}

static void test_unknown_fields_are_passed_over_to_a_depth(void **state)
{
    char hex[512];
    char nested[128] = "";

    (void)state;
    for (size_t i = 0; i < 30; i++) {
        memcpy(nested + 2 * i, "91", 3);
    }
    (void)snprintf(hex, sizeof(hex), "85" MODEL WORLD WORKER "01" HASH KEY_TAIL "a178%sc0", nested);
    assert_int_equal(decode_hex(NULL, KVL_IPC_KEY, hex), 0);
    (void)snprintf(hex, sizeof(hex), "85" MODEL WORLD WORKER "01" HASH KEY_TAIL "a178%s91c0",
                   nested);
    assert_int_equal(decode_hex(NULL, KVL_IPC_KEY, hex), -EMSGSIZE);
}

static void test_the_last_of_double_fields_counts(void **state)
{
    struct kvl_ipc_value value;
    size_t length;
    uint8_t *bytes =
        ipc_text_bytes("85" MODEL WORLD WORKER "01" HASH KEY_TAIL WORKER "c0", &length);

    (void)state;
    assert_int_equal(ipc_rig_decode(NULL, KVL_IPC_KEY, bytes, length, &value, NULL), 0);
    assert_int_equal(value.keys[0].flags, KVL_IPC_KEY_HAS_HASH);
    ipc_rig_free(&value);
    free(bytes);
}

static void test_room_is_asked_for(void **state)
{
    int64_t ints[3] = {0};
    struct kvl_ipc_value value = {
        .size = sizeof(value), .kind = KVL_IPC_INTS, .room = 2, .ints = ints};

    (void)state;
    assert_int_equal(kvl_ipc_table.decode(NULL, "\x93\x01\x02\x03", 4, &value, NULL), -ENOSPC);
    assert_int_equal(value.count, 3);
    assert_int_equal(ints[0], 0);
    value.room = 3;
    assert_int_equal(kvl_ipc_table.decode(NULL, "\x93\x01\x02\x03", 4, &value, NULL), 0);
    assert_int_equal(ints[2], 3);
    /* after any other failure the value is as before */
    assert_int_equal(kvl_ipc_table.decode(NULL, "\x91\xc0", 2, &value, NULL), -EPROTO);
    assert_int_equal(value.count, 3);
}

static void test_callers_are_held_to_the_contract(void **state)
{
    struct kvl_ipc_key key = ipc_rig_key();
    struct kvl_ipc_options options = options_of(9);
    struct kvl_ipc_value value = {.size = sizeof(value), .kind = KVL_IPC_KEY, .keys = &key};
    uint8_t bytes[256];
    size_t length = 77;

    (void)state;
    assert_int_equal(kvl_ipc_table.encode(&options, &value, bytes, 256, &length, NULL), -EINVAL);
    options = options_of(KVL_IPC_GENERATION_0); /* a key of generation A */
    assert_int_equal(kvl_ipc_table.encode(&options, &value, bytes, 256, &length, NULL), -EINVAL);
    key.generation = KVL_IPC_GENERATION_0;
    assert_int_equal(kvl_ipc_table.encode(&options, &value, bytes, 256, &length, NULL), 0);
    key.flags = KVL_IPC_KEY_HAS_HASH; /* which has no keys without worker */
    length = 77;
    assert_int_equal(kvl_ipc_table.encode(&options, &value, bytes, 256, &length, NULL), -EINVAL);
    key.flags |= KVL_IPC_KEY_HAS_WORKER;
    key.model_name = (struct kvl_ipc_bytes){"\xff", 1};
    assert_int_equal(kvl_ipc_table.encode(&options, &value, bytes, 256, &length, NULL), -EINVAL);
    value.kind = 99;
    assert_int_equal(kvl_ipc_table.encode(NULL, &value, bytes, 256, &length, NULL), -EINVAL);
    assert_int_equal(kvl_ipc_table.decode(NULL, "\x00", 1, &value, NULL), -EINVAL);
    value.kind = KVL_IPC_INT;
    value.size = 8;
    assert_int_equal(kvl_ipc_table.decode(NULL, "\x00", 1, &value, NULL), -EINVAL);
    options = options_of(KVL_IPC_GENERATION_A);
    options.protocol = 3;
    value.size = sizeof(value);
    assert_int_equal(kvl_ipc_table.decode(&options, "\x00", 1, &value, NULL), -EINVAL);
    assert_int_equal(length, 77);
}

/* Request numbers of later generations are not settled. */
static void test_request_numbers_are_those_of_a_generation(void **state)
{
    const struct kvl_ipc_options later = options_of(KVL_IPC_GENERATION_B);
    struct kvl_ipc_value value = {
        .size = sizeof(value), .kind = KVL_IPC_REQUEST, .number = kvl_ipc_int_of(KVL_IPC_LOOKUP)};
    uint8_t bytes[4];
    size_t length;

    (void)state;
    assert_int_equal(kvl_ipc_table.encode(NULL, &value, bytes, sizeof(bytes), &length, NULL), 0);
    assert_int_equal(bytes[0], 5);
    assert_int_equal(kvl_ipc_table.encode(&later, &value, bytes, sizeof(bytes), &length, NULL),
                     -ENOTSUP);
    assert_int_equal(kvl_ipc_table.decode(&later, bytes, 1, &value, NULL), -ENOTSUP);
    value.number = kvl_ipc_int_of(9);
    assert_int_equal(kvl_ipc_table.encode(NULL, &value, bytes, sizeof(bytes), &length, NULL),
                     -EINVAL);
}

/* ---- random keys and lists ---- */

static struct kvl_ipc_int random_int(uint64_t *seed)
{
    const uint64_t bits = ipc_rig_random(seed) >> ipc_rig_random(seed) % 64;

    if (ipc_rig_random(seed) % 2 == 0 && bits <= INT64_MAX) {
        return kvl_ipc_int_of(-(int64_t)bits);
    }
    return (struct kvl_ipc_int){.bits = bits};
}

static struct kvl_ipc_key random_key(uint64_t *seed, uint32_t generation)
{
    static const char text[300] = "meta-llama/Llama-3.1-8B-Instruct, and more than a name has";
    static const uint8_t tokens[] = {0x93, 0x01, 0xcd, 0x01, 0x00, 0xff};

    return (struct kvl_ipc_key){
        .generation = generation,
        .flags = generation <= KVL_IPC_GENERATION_A
                     ? KVL_IPC_KEY_HAS_HASH | KVL_IPC_KEY_HAS_WORKER
                     : KVL_IPC_KEY_HAS_TOKENS | KVL_IPC_KEY_HAS_REQUEST |
                           (uint32_t)(ipc_rig_random(seed) % 4),
        .model_name = {text, ipc_rig_random(seed) % sizeof(text)},
        .world_size = random_int(seed),
        .worker_id = random_int(seed),
        .chunk_hash = {text, ipc_rig_random(seed) % sizeof(text)},
        .token_ids = {tokens, sizeof(tokens)},
        .start = random_int(seed),
        .end = random_int(seed),
        .request_id = {text, ipc_rig_random(seed) % 40},
    };
}

static void test_random_keys_come_back(void **state)
{
    uint64_t seed = 20261120;

    (void)state;
    for (uint32_t run = 0; run < 400; run++) {
        const uint32_t generation = 1 + run % 4;
        const struct kvl_ipc_options options = options_of(generation);
        struct kvl_ipc_key keys[5];
        struct kvl_ipc_value value = {
            .size = sizeof(value), .kind = KVL_IPC_KEYS, .count = run % 5, .keys = keys};
        struct kvl_ipc_value again;
        size_t length;
        uint8_t *bytes;

        for (uint32_t i = 0; i < value.count; i++) {
            keys[i] = random_key(&seed, generation);
        }
        bytes = ipc_rig_encode(&options, &value, &length);
        assert_int_equal(ipc_rig_decode(&options, KVL_IPC_KEYS, bytes, length, &again, NULL), 0);
        assert_int_equal(again.count, value.count);
        for (uint32_t i = 0; i < value.count; i++) {
            assert_int_equal(kvl_ipc_table.key_equal(&keys[i], &again.keys[i]), 1);
            assert_int_equal(kvl_ipc_table.key_hash(&keys[i], run),
                             kvl_ipc_table.key_hash(&again.keys[i], run));
        }
        ipc_rig_free(&again);
        free(bytes);
    }
}

static void test_random_ints_come_back(void **state)
{
    uint64_t seed = 7;
    int64_t ints[70];
    struct kvl_ipc_value value = {.size = sizeof(value), .kind = KVL_IPC_INTS, .ints = ints};

    (void)state;
    for (uint32_t count = 0; count <= 70; count++) {
        struct kvl_ipc_value again;
        size_t length;
        uint8_t *bytes;

        value.count = count;
        for (uint32_t i = 0; i < count; i++) {
            ints[i] = (int64_t)ipc_rig_random(&seed) >> ipc_rig_random(&seed) % 64;
        }
        bytes = ipc_rig_encode(NULL, &value, &length);
        assert_int_equal(ipc_rig_decode(NULL, KVL_IPC_INTS, bytes, length, &again, NULL), 0);
        assert_int_equal(again.count, count);
        assert_memory_equal(again.ints, ints, count * sizeof(ints[0]));
        ipc_rig_free(&again);
        free(bytes);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors_mean_what_the_index_says),
        cmocka_unit_test(test_vectors_are_written_again_byte_for_byte),
        cmocka_unit_test(test_no_frame_may_end_early),
        cmocka_unit_test(test_no_flipped_bit_leads_out_of_the_input),
        cmocka_unit_test(test_a_type_is_a_type),
        cmocka_unit_test(test_pairs_of_bytes_and_bools_come_back),
        cmocka_unit_test(test_counts_are_held_against_the_input),
        cmocka_unit_test(test_keys_have_fields_and_not_more),
        cmocka_unit_test(test_unknown_fields_are_passed_over_to_a_depth),
        cmocka_unit_test(test_the_last_of_double_fields_counts),
        cmocka_unit_test(test_room_is_asked_for),
        cmocka_unit_test(test_callers_are_held_to_the_contract),
        cmocka_unit_test(test_request_numbers_are_those_of_a_generation),
        cmocka_unit_test(test_random_keys_come_back),
        cmocka_unit_test(test_random_ints_come_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
