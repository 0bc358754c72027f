/* SPDX-License-Identifier: Apache-2.0 */
/* Messages against golden bytes, both ways, and what a reader has to take and to refuse. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "py_socket_wire.h"

#define ROOM 65536u

static uint8_t golden[ROOM];
static size_t golden_length;
static uint8_t written[ROOM];
static struct kvl_pack_out out;
static struct py_socket_msg msg;
static char reason[PY_SOCKET_REASON_ROOM];

static void load(const char *name)
{
    char path[512];
    char line[512];
    FILE *file;

    snprintf(path, sizeof(path), KVL_VECTORS "/py_socket/%s.hex", name);
    file = fopen(path, "r");
    assert_non_null(file);
    golden_length = 0;
    while (fgets(line, sizeof(line), file) != NULL) {
        for (char *at = line; *at != '#' && *at != '\0';) {
            unsigned byte;

            if (sscanf(at, "%2x", &byte) != 1) {
                break;
            }
            golden[golden_length++] = (uint8_t)byte;
            at += strspn(at, " ") + 2;
        }
    }
    fclose(file);
    assert_true(golden_length > 0);
    memset(&msg, 0xa5, sizeof(msg));
    reason[0] = '\0';
    if (py_socket_decode(golden, golden_length, &msg, reason) != 0) {
        fail_msg("%s: %s", name, reason);
    }
    kvl_pack_out_init(&out, written, sizeof(written));
}

static void is_golden(void)
{
    assert_false(kvl_pack_out_failed(&out));
    assert_int_equal(out.length, golden_length);
    assert_memory_equal(written, golden, golden_length);
}

static void is_text(const struct kvl_text *text, const char *wanted)
{
    assert_int_equal(text->length, strlen(wanted));
    assert_memory_equal(text->text, wanted, text->length);
}

static struct py_socket_offer sample(void)
{
    struct py_socket_offer offer = {
        .version = 1,
        .min_version = 1,
        .incarnation = 0x1122334455667788,
        .fingerprint = "llama/fp16",
        .boot_id = "0a1b2c3d-0000-4000-8000-00112233aabb",
        .shm_name = "kvl-42",
        .tcp = "127.0.0.1:9000",
        .buffer_bytes = 1 << 20,
        .align_bytes = 4096,
    };

    for (uint8_t i = 0; i < PY_SOCKET_TOKEN; i++) {
        offer.token[i] = i;
    }
    return offer;
}

static void is_sample(const struct py_socket_offer *offer)
{
    const struct py_socket_offer wanted = sample();

    assert_int_equal(offer->version, wanted.version);
    assert_int_equal(offer->min_version, wanted.min_version);
    assert_true(offer->incarnation == wanted.incarnation);
    assert_memory_equal(offer->token, wanted.token, PY_SOCKET_TOKEN);
    assert_string_equal(offer->fingerprint, wanted.fingerprint);
    assert_string_equal(offer->boot_id, wanted.boot_id);
    assert_string_equal(offer->shm_name, wanted.shm_name);
    assert_string_equal(offer->tcp, wanted.tcp);
    assert_true(offer->buffer_bytes == wanted.buffer_bytes);
    assert_true(offer->align_bytes == wanted.align_bytes);
}

static void test_handshake_of_python(void **state)
{
    (void)state;
    load("init_request");
    assert_int_equal(msg.type, PY_SOCKET_INIT_REQUEST);
    is_text(&msg.text, "127.0.0.1:5555");
    assert_int_equal(msg.offer.version, 0);
    py_socket_put_init_request(&out, "127.0.0.1:5555", NULL, NULL);
    is_golden();
    load("init_response");
    assert_int_equal(msg.type, PY_SOCKET_INIT_RESPONSE);
    is_text(&msg.text, "ok");
    py_socket_put_init_response(&out, "ok", NULL, NULL);
    is_golden();
}

static void test_handshake_with_offer(void **state)
{
    const struct py_socket_offer offer = sample();

    (void)state;
    load("init_request_kvlane");
    is_text(&msg.text, "127.0.0.1:5555");
    is_sample(&msg.offer);
    py_socket_put_init_request(&out, "127.0.0.1:5555", &offer, NULL);
    is_golden();
    load("init_response_kvlane");
    is_text(&msg.text, "ok");
    is_sample(&msg.offer);
    py_socket_put_init_response(&out, "ok", &offer, NULL);
    is_golden();
}

static void test_handshake_with_notes(void **state)
{
    static uint8_t all[256];
    const struct py_socket_offer offer = sample();
    struct py_socket_notes notes;

    (void)state;
    for (unsigned i = 0; i < sizeof(all); i++) {
        all[i] = (uint8_t)i;
    }
    load("init_response_notes");
    is_sample(&msg.offer);
    assert_int_equal(msg.notes.count, 2);
    py_socket_put_init_response(&out, "ok", &offer, &msg.notes);
    is_golden();
    load("init_request_notes");
    is_sample(&msg.offer);
    assert_int_equal(msg.notes.count, 2);
    is_text(&msg.notes.notes[0].backend, "cuda_ipc");
    assert_int_equal(msg.notes.notes[0].length, 5);
    assert_memory_equal(msg.notes.notes[0].bytes, "\x00\x01\xfe\xff ", 5);
    is_text(&msg.notes.notes[1].backend, "mock_kept");
    assert_int_equal(msg.notes.notes[1].length, sizeof(all));
    assert_memory_equal(msg.notes.notes[1].bytes, all, sizeof(all));
    notes = msg.notes;
    py_socket_put_init_request(&out, "127.0.0.1:5555", &offer, &notes);
    is_golden();
    /* without any, the offer is as it was before there were notes */
    load("init_request_kvlane");
    assert_int_equal(msg.notes.count, 0);
    notes.count = 0;
    py_socket_put_init_request(&out, "127.0.0.1:5555", &offer, &notes);
    is_golden();
}

static void test_side_messages(void **state)
{
    (void)state;
    load("side");
    assert_int_equal(msg.type, PY_SOCKET_SIDE);
    py_socket_put_side(&out);
    is_golden();
    load("side_ret");
    assert_int_equal(msg.type, PY_SOCKET_SIDE_RET);
    is_text(&msg.text, "127.0.0.1:7777");
    py_socket_put_side_ret(&out, "127.0.0.1:7777");
    is_golden();
    load("side_ret_none");
    is_text(&msg.text, "");
    py_socket_put_side_ret(&out, "");
    is_golden();
    load("side_ret_nil"); /* read, never written */
    assert_int_equal(msg.type, PY_SOCKET_SIDE_RET);
    is_text(&msg.text, "");
}

static void test_lookup_messages(void **state)
{
    static const struct kvl_text keys[2] = {{"m@1@0@-2a", 9, 0},
                                            {"kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk", 32, 0}};
    static const uint64_t offsets[1] = {256};
    static const uint64_t indexes[2] = {7, 65536};
    static const uint64_t other[1] = {200};
    const struct py_socket_lookup_msg get = {"id-1", "127.0.0.1:5555", keys, NULL, indexes, 2};
    const struct py_socket_lookup_msg put = {NULL, "127.0.0.1:5555", keys, offsets, other, 1};

    (void)state;
    load("lookup_get");
    assert_int_equal(msg.type, PY_SOCKET_LOOKUP_GET);
    is_text(&msg.lookup_id, "id-1");
    is_text(&msg.text, "127.0.0.1:5555");
    assert_int_equal(msg.keys.count, 2);
    assert_int_equal(msg.mem_indexes.count, 2);
    for (int i = 0; i < 2; i++) {
        struct kvl_text key = py_socket_list_text(&msg.keys);

        assert_int_equal(key.length, keys[i].length);
        assert_memory_equal(key.text, keys[i].text, key.length);
        assert_true(py_socket_list_number(&msg.mem_indexes) == indexes[i]);
    }
    assert_int_equal(py_socket_list_text(&msg.keys).length, 0); /* at the end there is nothing */
    assert_int_equal(py_socket_list_number(&msg.mem_indexes), 0);
    py_socket_put_lookup_get(&out, &get);
    is_golden();

    load("lookup_put");
    assert_int_equal(msg.type, PY_SOCKET_LOOKUP_PUT);
    is_text(&msg.text, "127.0.0.1:5555");
    assert_int_equal(py_socket_list_number(&msg.offsets), 256);
    assert_int_equal(py_socket_list_number(&msg.mem_indexes), 200);
    py_socket_put_lookup_put(&out, &put);
    is_golden();
}

static void test_lookup_answers(void **state)
{
    (void)state;
    load("lookup_get_ret");
    assert_int_equal(msg.type, PY_SOCKET_LOOKUP_GET_RET);
    assert_int_equal(msg.number, 2);
    py_socket_put_lookup_get_ret(&out, 2);
    is_golden();
    load("lookup_put_ret");
    assert_int_equal(msg.type, PY_SOCKET_LOOKUP_PUT_RET);
    assert_int_equal(msg.number, 0);
    py_socket_put_lookup_put_ret(&out, 0);
    is_golden();
    load("p2p_error");
    assert_int_equal(msg.type, PY_SOCKET_P2P_ERROR);
    assert_int_equal(msg.number, PY_SOCKET_ERROR_NO_HANDSHAKE);
    py_socket_put_error(&out, PY_SOCKET_ERROR_NO_HANDSHAKE);
    is_golden();
}

static int decode(const char *bytes, size_t length)
{
    reason[0] = '\0';
    return py_socket_decode(bytes, length, &msg, reason);
}

#define DECODE(bytes) decode(bytes, sizeof(bytes) - 1)

static void test_order_length_and_strangers_do_not_matter(void **state)
{
    (void)state;
    /* tag last, map16, str8, an unknown key with a nested value, one with nil, a repeated key */
    assert_int_equal(DECODE("\xde\x00\x05"
                            "\xa6status\xa2no"
                            "\xa1x\x92\x81\x01\xc0\xc4\x02zz"
                            "\xa3kvl\xc0"
                            "\xa6status\xd9\x02ok"
                            "\xa4type\xd9\x14PySocketInitResponse"),
                     0);
    assert_int_equal(msg.type, PY_SOCKET_INIT_RESPONSE);
    is_text(&msg.text, "ok");
    assert_int_equal(msg.offer.version, 0);
    /* numbers longer than needed */
    assert_int_equal(DECODE("\x82\xa4type\xabP2PErrorMsg\xaa"
                            "error_code\xd3\x00\x00\x00\x00\x00\x00\x00\x02"),
                     0);
    assert_int_equal(msg.number, 2);
}

static void test_types_are_strict(void **state)
{
    (void)state;
    assert_int_equal(DECODE("\x82\xa4type\xabP2PErrorMsg\xaa"
                            "error_code\xa1"
                            "2"),
                     -EPROTO);
    assert_string_equal(reason, "error_code: not an integer");
    assert_int_equal(DECODE("\x82\xa4type\xabP2PErrorMsg\xaa"
                            "error_code\xc3"),
                     -EPROTO);
    assert_int_equal(DECODE("\x82\xa4type\xb1P2PInitSideRetMsg\xafpeer_lookup_url\xc2"), -EPROTO);
    assert_int_equal(DECODE("\x82\xa4type\xb1P2PInitSideRetMsg\xafpeer_lookup_url\xc4\x01z"),
                     -EPROTO);
    assert_string_equal(reason, "peer_lookup_url: not a string");
    assert_int_equal(DECODE("\x81\x01\x02"), -EPROTO);
    assert_int_equal(DECODE("\x90"), -EPROTO);
    assert_int_equal(DECODE("\x81\xa4type\xa3"
                            "Foo"),
                     -ENOTSUP);
}

static void put_name(const char *name)
{
    kvl_pack_put_text(&out, name, (uint32_t)strlen(name));
}

/* A get with `count` times the key and `number` as its pages. */
static int decode_get(uint32_t count, const char *key, uint32_t key_length, int64_t number)
{
    size_t room = 1024 + (size_t)count * (key_length + 16u);
    uint8_t *bytes = malloc(room);
    int r;

    kvl_pack_out_init(&out, bytes, room);
    kvl_pack_put_map(&out, 5);
    put_name("type");
    put_name("BatchedLookupAndGetMsg");
    put_name("lookup_id");
    put_name("x");
    put_name("receiver_id");
    put_name("y");
    put_name("keys");
    kvl_pack_put_array(&out, count);
    for (uint32_t i = 0; i < count; i++) {
        kvl_pack_put_text(&out, key, key_length);
    }
    put_name("mem_indexes");
    kvl_pack_put_array(&out, 1);
    kvl_pack_put_i64(&out, number);
    assert_false(kvl_pack_out_failed(&out));
    r = decode((const char *)bytes, out.length);
    free(bytes);
    return r;
}

static void test_limits(void **state)
{
    static char key[PY_SOCKET_KEY_MAX + 1];

    (void)state;
    memset(key, 'k', sizeof(key));
    assert_int_equal(decode_get(PY_SOCKET_LIST_MAX, key, 4, 0), 0);
    assert_int_equal(decode_get(PY_SOCKET_LIST_MAX + 1, key, 4, 0), -EMSGSIZE);
    assert_string_equal(reason, "keys: too many entries");
    assert_int_equal(decode_get(1, key, PY_SOCKET_KEY_MAX, 0), 0);
    assert_int_equal(decode_get(1, key, PY_SOCKET_KEY_MAX + 1, 0), -EMSGSIZE);
    assert_int_equal(decode_get(1, key, 4, -1), -EPROTO);
    assert_string_equal(reason, "mem_indexes: not all are integers from 0");
    /* a count that is a lie is no loop */
    assert_int_equal(DECODE("\x82\xa4type\xabP2PErrorMsg\xa1x\xdd\xff\xff\xff\xff"), -EPROTO);
}

static void test_nesting_is_limited(void **state)
{
    char bytes[256] = "\x81\xa1x";

    (void)state;
    memset(bytes + 3, '\x91', PY_SOCKET_DEPTH + 1);
    bytes[3 + PY_SOCKET_DEPTH + 1] = '\x01';
    assert_int_equal(decode(bytes, 3 + PY_SOCKET_DEPTH + 2), -EMSGSIZE);
    assert_string_equal(reason, "nested too deep");
}

static void test_every_cut_is_refused(void **state)
{
    static const char *const names[] = {"init_request_notes", "init_response", "side",
                                        "lookup_get",         "lookup_put",    "p2p_error"};

    (void)state;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        load(names[i]);
        for (size_t length = 0; length < golden_length; length++) {
            uint8_t *copy = malloc(length + 1); /* of just that size, for the sanitizer */

            memcpy(copy, golden, length);
            assert_true(decode((const char *)copy, length) < 0);
            assert_true(reason[0] != '\0');
            free(copy);
        }
    }
}

/* ---- offers ---- */

static int decode_offer(const struct py_socket_offer *offer)
{
    kvl_pack_out_init(&out, written, sizeof(written));
    py_socket_put_init_request(&out, "a:1", offer, NULL);
    return decode((const char *)written, out.length);
}

static void test_offers_out_of_range(void **state)
{
    struct py_socket_offer offer = sample();

    (void)state;
    assert_int_equal(decode_offer(&offer), 0);
    offer.min_version = 2;
    assert_int_equal(decode_offer(&offer), -EPROTO);
    assert_string_equal(reason, "kvl: versions or incarnation out of range");
    offer.min_version = 0;
    assert_int_equal(decode_offer(&offer), -EPROTO);
    offer = sample();
    offer.incarnation = 0;
    assert_int_equal(decode_offer(&offer), -EPROTO);
    offer = sample();
    offer.align_bytes = 4095;
    assert_int_equal(decode_offer(&offer), -EPROTO);
    assert_string_equal(reason, "kvl: the buffer does not fit its alignment");
    offer.align_bytes = 32;
    assert_int_equal(decode_offer(&offer), -EPROTO);
    offer.align_bytes = 0;
    assert_int_equal(decode_offer(&offer), -EPROTO);
    offer = sample();
    offer.buffer_bytes = UINT64_MAX - 4095;
    assert_int_equal(decode_offer(&offer), -EPROTO);
    offer.buffer_bytes = 0;
    offer.align_bytes = 0;
    assert_int_equal(decode_offer(&offer), 0);
}

/* The golden request with one key of its offer renamed: missing there, unknown too. */
static int decode_without(const char *key)
{
    uint8_t pattern[16];
    size_t length = strlen(key);

    load("init_request_kvlane");
    pattern[0] = (uint8_t)(0xa0 + length);
    memcpy(pattern + 1, key, length);
    for (size_t i = 60; i + length < golden_length; i++) {
        if (memcmp(golden + i, pattern, length + 1) == 0) {
            golden[i + 1] = 'Z';
            return decode((const char *)golden, golden_length);
        }
    }
    fail_msg("no %s", key);
    return 0;
}

static void test_offers_that_lack_something(void **state)
{
    (void)state;
    assert_int_equal(decode_without("v"), -EPROTO);
    assert_int_equal(decode_without("min"), -EPROTO);
    assert_int_equal(decode_without("inc"), -EPROTO);
    assert_int_equal(decode_without("token"), -EPROTO);
    assert_string_equal(reason, "kvl: a field is missing");
    assert_int_equal(decode_without("tcp"), 0);
    assert_string_equal(msg.offer.tcp, "");
    assert_int_equal(decode_without("fp"), 0);
    assert_string_equal(msg.offer.fingerprint, "");
    assert_int_equal(decode_without("size"), 0);
    assert_int_equal(msg.offer.buffer_bytes, 0);
}

static void test_offers_of_wrong_shape(void **state)
{
    (void)state;
    assert_int_equal(DECODE("\x83\xa4type\xb3PySocketInitRequest\xadpeer_init_url\xa1x\xa3kvl\x01"),
                     -EPROTO);
    assert_string_equal(reason, "kvl: not a map");
    assert_int_equal(
        DECODE("\x83\xa4type\xb3PySocketInitRequest\xadpeer_init_url\xa1x\xa3kvl\x81\x01\x01"),
        -EPROTO);
    assert_int_equal(
        DECODE("\x83\xa4type\xb3PySocketInitRequest\xadpeer_init_url\xa1x\xa3kvl\x81\xa5token\xc4"
               "\x01x"),
        -EPROTO);
    assert_string_equal(reason, "kvl: the token is not of its length");
    assert_int_equal(
        DECODE("\x83\xa4type\xb3PySocketInitRequest\xadpeer_init_url\xa1x\xa3kvl\x81\xa2"
               "fp\xa1\x00"),
        -EPROTO);
}

/* An offer with `count` notes of a name and so many bytes. */
static int decode_notes(uint32_t count, uint32_t name_length, uint32_t length)
{
    static const char name[PY_SOCKET_NOTE_NAME + 1] =
        "0123456789012345678901234567890123456789012345678901234567890123";
    static const uint8_t bytes[KVL_OFFER_MAX + 1];
    static uint8_t frame[16384];
    const struct py_socket_offer offer = sample();
    struct kvl_pack_out list;
    struct py_socket_notes one = {.count = 1};

    one.notes[0] =
        (struct py_socket_note){.backend = {.text = "a", .length = 1}, .bytes = "b", .length = 1};
    kvl_pack_out_init(&list, frame, sizeof(frame));
    py_socket_put_init_request(&list, "a:1", &offer, &one);
    assert_memory_equal(frame + list.length - 7, "\x91\x92\xa1\x61\xc4\x01\x62", 7);
    list.length -= 7; /* the list comes last: another in its place */
    kvl_pack_put_array(&list, count);
    for (uint32_t i = 0; i < count; i++) {
        kvl_pack_put_array(&list, 2);
        kvl_pack_put_text(&list, name, name_length);
        kvl_pack_put_bytes(&list, bytes, length);
    }
    assert_false(kvl_pack_out_failed(&list));
    return decode((const char *)frame, list.length);
}

static void test_notes_have_limits(void **state)
{
    (void)state;
    assert_int_equal(decode_notes(PY_SOCKET_NOTES_MAX, PY_SOCKET_NOTE_NAME, KVL_OFFER_MAX), 0);
    assert_int_equal(msg.notes.count, PY_SOCKET_NOTES_MAX);
    assert_int_equal(decode_notes(PY_SOCKET_NOTES_MAX + 1, 1, 1), -EMSGSIZE);
    assert_string_equal(reason, "kvl: too many notes");
    assert_int_equal(decode_notes(1, PY_SOCKET_NOTE_NAME + 1, 1), -EMSGSIZE);
    assert_int_equal(decode_notes(1, 1, KVL_OFFER_MAX + 1), -EMSGSIZE);
    assert_string_equal(reason, "kvl: a note is too long");
    assert_int_equal(decode_notes(1, 0, 1), -EPROTO);
    assert_string_equal(reason, "kvl: a note without a name");
    assert_int_equal(decode_notes(2, 1, 0), 0);
    assert_int_equal(msg.notes.count, 0);
}

static void test_versions_of_the_future(void **state)
{
    struct py_socket_offer offer = sample();

    (void)state;
    offer.version = 70000;
    assert_int_equal(decode_offer(&offer), 0);
    assert_int_equal(msg.offer.version, 70000);
}

static void test_writing_says_how_much_room_it_needs(void **state)
{
    (void)state;
    load("init_request");
    kvl_pack_out_init(&out, written, golden_length - 1);
    py_socket_put_init_request(&out, "127.0.0.1:5555", NULL, NULL);
    assert_true(kvl_pack_out_failed(&out));
    assert_int_equal(out.length, golden_length);
}

static void test_names(void **state)
{
    (void)state;
    assert_string_equal(py_socket_type_name(PY_SOCKET_SIDE), "P2PInitSideMsg");
    assert_null(py_socket_type_name(PY_SOCKET_NONE));
    assert_null(py_socket_type_name(PY_SOCKET_TYPES));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_handshake_of_python),
        cmocka_unit_test(test_handshake_with_offer),
        cmocka_unit_test(test_handshake_with_notes),
        cmocka_unit_test(test_side_messages),
        cmocka_unit_test(test_lookup_messages),
        cmocka_unit_test(test_lookup_answers),
        cmocka_unit_test(test_order_length_and_strangers_do_not_matter),
        cmocka_unit_test(test_types_are_strict),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_nesting_is_limited),
        cmocka_unit_test(test_every_cut_is_refused),
        cmocka_unit_test(test_offers_out_of_range),
        cmocka_unit_test(test_offers_that_lack_something),
        cmocka_unit_test(test_offers_of_wrong_shape),
        cmocka_unit_test(test_notes_have_limits),
        cmocka_unit_test(test_versions_of_the_future),
        cmocka_unit_test(test_writing_says_how_much_room_it_needs),
        cmocka_unit_test(test_names),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
