/* SPDX-License-Identifier: Apache-2.0 */
#include "rig.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "disk_record.h"

#define ID 0x1122334455667788ull

static size_t vector(const char *name, uint8_t bytes_out[DISK_HEAD_MAX])
{
    char path[1024];
    FILE *file;
    size_t n;

    (void)snprintf(path, sizeof(path), "%s/%s.bin", KVL_VECTORS, name);
    file = fopen(path, "rb");
    assert_non_null(file);
    n = fread(bytes_out, 1, DISK_HEAD_MAX, file);
    (void)fclose(file);
    return n;
}

static struct disk_record chunk_record(void)
{
    return (struct disk_record){
        .kind = DISK_CHUNK,
        .key = kvl_key_from_text("meta-llama/Llama-3.1-8B-Instruct@1@0@5d1b8de6da1b6d09@bfloat16"),
        .attrs = {KVL_FMT_KV_2LTD, KVL_DTYPE_BFLOAT16, {2, 32, 256, -1}},
        .bytes = 0x01020304,
        .sequence = 0x0102030405060708ull,
        .checksum = 0xa1a2a3a4a5a6a7a8ull,
    };
}

static void check_golden(const char *name, const struct disk_record *record)
{
    uint8_t golden[DISK_HEAD_MAX];
    uint8_t bytes[DISK_HEAD_MAX];
    struct disk_record decoded;
    const size_t n = vector(name, golden);

    assert_int_equal(disk_record_encode(record, ID, bytes), n);
    assert_memory_equal(bytes, golden, n);
    assert_int_equal(disk_record_decode(golden, n, ID, &decoded), 0);
    assert_int_equal(decoded.kind, record->kind);
    assert_int_equal(decoded.key.length, record->key.length);
    assert_true(record->key.length == 0 || kvl_key_equal(&decoded.key, &record->key));
    assert_memory_equal(&decoded.attrs, &record->attrs, sizeof(record->attrs));
    assert_true(decoded.bytes == record->bytes);
    assert_true(decoded.sequence == record->sequence);
    assert_true(decoded.checksum == record->checksum);
}

static void test_records_are_golden(void **state)
{
    const struct disk_record chunk = chunk_record();
    struct disk_record removed = {.kind = DISK_REMOVED, .key = kvl_key_from_text("k")};
    const struct disk_record end = {.kind = DISK_END, .sequence = 7};

    (void)state;
    removed.sequence = 8;
    check_golden("chunk", &chunk);
    check_golden("removed", &removed);
    check_golden("end", &end);
}

static void test_file_head_is_golden(void **state)
{
    const struct disk_file_head head = {.number = 42, .id = ID};
    struct disk_file_head decoded;
    uint8_t golden[DISK_HEAD_MAX];
    uint8_t bytes[DISK_FILE_HEAD_BYTES];

    (void)state;
    assert_int_equal(vector("file_head", golden), sizeof(bytes));
    disk_file_head_encode(&head, bytes);
    assert_memory_equal(bytes, golden, sizeof(bytes));
    assert_int_equal(disk_file_head_decode(golden, &decoded), 0);
    assert_int_equal(decoded.number, 42);
    assert_true(decoded.id == ID);
}

static void test_no_flipped_bit_of_a_file_head_passes(void **state)
{
    uint8_t bytes[DISK_HEAD_MAX];
    struct disk_file_head head;

    (void)state;
    (void)vector("file_head", bytes);
    for (uint32_t bit = 0; bit < 8 * DISK_FILE_HEAD_BYTES; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(disk_file_head_decode(bytes, &head),
                         bit >= 32 && bit < 64 ? -EPROTONOSUPPORT : -EBADMSG);
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
}

static void test_no_flipped_bit_of_a_record_passes(void **state)
{
    const struct disk_record record = chunk_record();
    uint8_t bytes[DISK_HEAD_MAX];
    struct disk_record decoded;
    const size_t n = vector("chunk", bytes);

    (void)state;
    for (uint32_t bit = 0; bit < 8 * (DISK_RECORD_HEAD_BYTES + record.key.length); bit++) {
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_true(disk_record_decode(bytes, n, ID, &decoded) < 0);
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    assert_int_equal(disk_record_decode(bytes, n, ID, &decoded), 0);
}

static void test_a_record_of_another_file_does_not_pass(void **state)
{
    uint8_t bytes[DISK_HEAD_MAX];
    struct disk_record decoded;
    const size_t n = vector("chunk", bytes);

    (void)state;
    assert_int_equal(disk_record_decode(bytes, n, ID + 1, &decoded), -EBADMSG);
}

static void test_half_a_record_is_told_from_a_wrong_one(void **state)
{
    const struct disk_record record = chunk_record();
    uint8_t bytes[DISK_HEAD_MAX];
    struct disk_record decoded;

    (void)state;
    (void)vector("chunk", bytes);
    for (size_t n = 0; n < DISK_RECORD_HEAD_BYTES + record.key.length; n++) {
        assert_int_equal(disk_record_decode(bytes, n, ID, &decoded), -ENODATA);
    }
    memset(bytes, 0, sizeof(bytes));
    assert_int_equal(disk_record_decode(bytes, sizeof(bytes), ID, &decoded), -EBADMSG);
}

static void test_what_decode_refuses_is_not_encoded(void **state)
{
    struct disk_record record = chunk_record();
    uint8_t bytes[DISK_HEAD_MAX];

    (void)state;
    record.key.length = KVL_KEY_MAX + 1;
    assert_int_equal(disk_record_encode(&record, ID, bytes), -EINVAL);
    record.key.length = 0;
    assert_int_equal(disk_record_encode(&record, ID, bytes), -EINVAL);
    record = chunk_record();
    record.bytes = DISK_PAYLOAD_MAX + 1;
    assert_int_equal(disk_record_encode(&record, ID, bytes), -EINVAL);
    record.kind = DISK_REMOVED;
    record.bytes = 1;
    assert_int_equal(disk_record_encode(&record, ID, bytes), -EINVAL);
    record.kind = DISK_END;
    record.bytes = 0;
    assert_int_equal(disk_record_encode(&record, ID, bytes), -EINVAL);
    record.kind = (enum disk_kind)4;
    assert_int_equal(disk_record_encode(&record, ID, bytes), -EINVAL);
}

static void test_the_longest_key_fits(void **state)
{
    struct disk_record record = chunk_record();
    struct disk_record decoded;
    char key[KVL_KEY_MAX];
    uint8_t bytes[DISK_HEAD_MAX];

    (void)state;
    memset(key, 'k', sizeof(key));
    record.key = (struct kvl_key){.text = key, .length = sizeof(key)};
    record.bytes = DISK_PAYLOAD_MAX;
    assert_int_equal(disk_record_encode(&record, ID, bytes), DISK_HEAD_MAX);
    assert_int_equal(disk_record_decode(bytes, sizeof(bytes), ID, &decoded), 0);
    assert_true(kvl_key_equal(&decoded.key, &record.key));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_records_are_golden),
        cmocka_unit_test(test_file_head_is_golden),
        cmocka_unit_test(test_no_flipped_bit_of_a_file_head_passes),
        cmocka_unit_test(test_no_flipped_bit_of_a_record_passes),
        cmocka_unit_test(test_a_record_of_another_file_does_not_pass),
        cmocka_unit_test(test_half_a_record_is_told_from_a_wrong_one),
        cmocka_unit_test(test_what_decode_refuses_is_not_encoded),
        cmocka_unit_test(test_the_longest_key_fits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
