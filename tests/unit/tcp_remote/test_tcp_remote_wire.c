/* SPDX-License-Identifier: Apache-2.0 */
#include "rig.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void check_request(const char *name, int32_t command, int32_t length, const char *key)
{
    struct rig_bytes bytes = rig_vector(name);
    struct tcp_remote_request request;
    uint8_t again[TCP_REMOTE_REQUEST_BYTES];

    tcp_remote_request_decode(bytes.data, &request);
    assert_int_equal(request.command, command);
    assert_int_equal(request.length, length);
    assert_int_equal(request.location, 0);
    assert_int_equal(request.key_length, strlen(key));
    assert_memory_equal(request.key, key, strlen(key));
    assert_int_equal(tcp_remote_request_encode(&request, again), 0);
    assert_memory_equal(again, bytes.data, sizeof(again));
    free(bytes.data);
}

static void test_requests_are_golden(void **state)
{
    (void)state;
    check_request("put_4d_bf16_req", TCP_REMOTE_PUT, 256,
                  "meta-llama/Llama-3.1-8B-Instruct@1@0@5d1b8de6da1b6d09@bfloat16");
    check_request("get_neg_hash_req", TCP_REMOTE_GET, 0,
                  "Qwen/Qwen3-4B@1@0@-5d1b8de6da1b6d09@bfloat16");
    check_request("health_req", TCP_REMOTE_HEALTH, 0, TCP_REMOTE_HEALTH_KEY);
    check_request("exist_req", TCP_REMOTE_EXIST, 0,
                  "meta-llama/Llama-3.1-8B-Instruct@1@0@5d1b8de6da1b6d09@bfloat16");
}

static void test_a_key_may_fill_its_field(void **state)
{
    struct rig_bytes bytes = rig_vector("get_key150_req");
    struct tcp_remote_request request;

    (void)state;
    tcp_remote_request_decode(bytes.data, &request);
    assert_int_equal(request.key_length, TCP_REMOTE_KEY_BYTES);
    free(bytes.data);
}

static void test_replies_are_golden(void **state)
{
    struct rig_bytes bytes = rig_vector("get_4d_bf16_reply");
    const int32_t shape[4] = {2, 2, 4, 8};
    struct tcp_remote_reply reply;
    uint8_t again[TCP_REMOTE_REPLY_BYTES];

    (void)state;
    assert_int_equal(tcp_remote_reply_decode(bytes.data, &reply), 0);
    assert_int_equal(reply.code, TCP_REMOTE_SUCCESS);
    assert_int_equal(reply.length, 256);
    assert_int_equal(reply.attrs.fmt, KVL_FMT_KV_2LTD);
    assert_int_equal(reply.attrs.dtype, KVL_DTYPE_BFLOAT16);
    assert_memory_equal(reply.attrs.shape, shape, sizeof(shape));
    tcp_remote_reply_encode(&reply, again);
    assert_memory_equal(again, bytes.data, sizeof(again));
    free(bytes.data);
}

static void test_reply_of_another_code_is_refused(void **state)
{
    struct tcp_remote_reply reply = {.code = 404};
    uint8_t bytes[TCP_REMOTE_REPLY_BYTES];

    (void)state;
    tcp_remote_reply_encode(&reply, bytes);
    assert_int_equal(tcp_remote_reply_decode(bytes, &reply), -EPROTO);
}

static void test_reply_of_negative_length_is_refused(void **state)
{
    struct tcp_remote_reply reply = {.code = TCP_REMOTE_SUCCESS, .length = -1};
    uint8_t bytes[TCP_REMOTE_REPLY_BYTES];

    (void)state;
    tcp_remote_reply_encode(&reply, bytes);
    assert_int_equal(tcp_remote_reply_decode(bytes, &reply), -EPROTO);
}

static void test_long_and_empty_keys_are_refused(void **state)
{
    char key[TCP_REMOTE_KEY_BYTES + 1];
    struct tcp_remote_request request = {.command = TCP_REMOTE_GET, .key = key};
    uint8_t bytes[TCP_REMOTE_REQUEST_BYTES];

    (void)state;
    memset(key, 'k', sizeof(key));
    request.key_length = sizeof(key);
    assert_int_equal(tcp_remote_request_encode(&request, bytes), -EINVAL);
    request.key_length = 0;
    assert_int_equal(tcp_remote_request_encode(&request, bytes), -EINVAL);
}

static void check_trim(const char *text, uint32_t length, const char *expected,
                       uint32_t expected_length)
{
    tcp_remote_key_trim(&text, &length);
    assert_int_equal(length, expected_length);
    assert_memory_equal(text, expected, expected_length);
}

static void test_trims_white_space_only(void **state)
{
    (void)state;
    check_trim(" \t\n\v\f\r k e y \r", 14, "k e y", 5);
    check_trim("k\0\0", 3, "k\0\0", 3);
    check_trim("\xa0k", 2, "\xa0k", 2);
    check_trim("      ", 6, "", 0);
}

static void check_metadata(const char *name, uint32_t groups)
{
    struct rig_bytes bytes = rig_vector(name);
    struct tcp_remote_metadata metadata;
    uint8_t again[128];

    assert_int_equal(tcp_remote_metadata_decode(bytes.data, bytes.length, &metadata), 0);
    assert_int_equal(metadata.group_count, groups);
    assert_int_equal(tcp_remote_metadata_encode(&metadata, again, sizeof(again)), bytes.length);
    assert_memory_equal(again, bytes.data, bytes.length);
    free(bytes.data);
}

static void test_metadata_is_golden(void **state)
{
    struct rig_bytes bytes = rig_vector("remote_metadata_3groups");
    const int32_t last[4] = {9, 10, 11, 12};
    struct tcp_remote_metadata metadata;

    (void)state;
    check_metadata("remote_metadata_1group", 1);
    check_metadata("remote_metadata_3groups", 3);
    assert_int_equal(tcp_remote_metadata_decode(bytes.data, bytes.length, &metadata), 0);
    assert_int_equal(metadata.length, 448);
    assert_int_equal(metadata.fmt, 6);
    assert_int_equal(metadata.groups[2].dtype, 4);
    assert_memory_equal(metadata.groups[2].shape, last, sizeof(last));
    free(bytes.data);
}

static void test_metadata_of_another_size_is_refused(void **state)
{
    const uint8_t bytes[2048] = {0};
    struct tcp_remote_metadata metadata;

    (void)state;
    assert_int_equal(tcp_remote_metadata_decode(bytes, 0, &metadata), -EPROTO);
    assert_int_equal(tcp_remote_metadata_decode(bytes, 8, &metadata), -EPROTO);
    assert_int_equal(tcp_remote_metadata_decode(bytes, 27, &metadata), -EPROTO);
    assert_int_equal(tcp_remote_metadata_decode(bytes, 32, &metadata), -EPROTO);
    assert_int_equal(tcp_remote_metadata_decode(bytes, tcp_remote_metadata_bytes(65), &metadata),
                     -EMSGSIZE);
}

static void test_half_is_written_as_float16(void **state)
{
    int32_t dtype = -1;

    (void)state;
    assert_int_equal(tcp_remote_dtype_from_name("half", &dtype), 0);
    assert_int_equal(dtype, KVL_DTYPE_FLOAT16);
    assert_true(tcp_remote_dtype_equal(KVL_DTYPE_HALF, KVL_DTYPE_FLOAT16));
    assert_false(tcp_remote_dtype_equal(KVL_DTYPE_HALF, KVL_DTYPE_BFLOAT16));
    assert_int_equal(tcp_remote_dtype_from_name("int8", &dtype), -EINVAL);
}

static void test_names_know_their_numbers(void **state)
{
    int32_t number = -1;

    (void)state;
    assert_string_equal(tcp_remote_dtype_name(8), "float8_e5m2");
    assert_string_equal(tcp_remote_location_name(1), "LocalCPUBackend");
    assert_string_equal(tcp_remote_format_name(6), "KV_MLA_FMT");
    assert_null(tcp_remote_dtype_name(9));
    assert_null(tcp_remote_format_name(-1));
    assert_int_equal(tcp_remote_location_from_name("LocalDiskBackend", &number), 0);
    assert_int_equal(number, 2);
    assert_int_equal(tcp_remote_format_from_name("KV_T2D", &number), 0);
    assert_int_equal(number, 2);
    assert_int_equal(tcp_remote_dtype_bytes(KVL_DTYPE_FLOAT64), 8);
    assert_int_equal(tcp_remote_dtype_bytes(77), 0);
}

static void test_shapes_pad_and_strip(void **state)
{
    const int32_t dims[5] = {2, 4, 8, 1, 1};
    const int32_t zeros[4] = {0};
    const int32_t holes[4] = {3, 0, 5, 0};
    int32_t shape[4];

    (void)state;
    assert_int_equal(tcp_remote_shape_pad(dims, 3, shape), 0);
    assert_int_equal(shape[3], 0);
    assert_int_equal(tcp_remote_shape_dims(shape, KVL_FMT_KV_2TD), 3);
    assert_int_equal(tcp_remote_shape_dims(shape, KVL_FMT_BINARY_BUFFER), 4);
    assert_int_equal(tcp_remote_shape_dims(zeros, KVL_FMT_KV_2LTD), 1);
    assert_int_equal(tcp_remote_shape_dims(holes, KVL_FMT_KV_2LTD), 3);
    assert_int_equal(tcp_remote_shape_pad(dims, 5, shape), -EINVAL);
    assert_int_equal(tcp_remote_shape_pad(dims, 0, shape), -EINVAL);
}

static void test_a_seal_fits_one_payload(void **state)
{
    uint8_t seal[TCP_REMOTE_SEAL_BYTES];

    (void)state;
    tcp_remote_seal_encode(0x1122334455667788ull, 99, seal);
    assert_int_equal(tcp_remote_seal_check(seal, 0x1122334455667788ull, 99), 0);
    assert_int_equal(tcp_remote_seal_check(seal, 0x1122334455667789ull, 99), -EBADMSG);
    assert_int_equal(tcp_remote_seal_check(seal, 0x1122334455667788ull, 98), -EBADMSG);
    seal[15] ^= 1;
    assert_int_equal(tcp_remote_seal_check(seal, 0x1122334455667788ull, 99), -EBADMSG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_requests_are_golden),
        cmocka_unit_test(test_a_key_may_fill_its_field),
        cmocka_unit_test(test_replies_are_golden),
        cmocka_unit_test(test_reply_of_another_code_is_refused),
        cmocka_unit_test(test_reply_of_negative_length_is_refused),
        cmocka_unit_test(test_long_and_empty_keys_are_refused),
        cmocka_unit_test(test_trims_white_space_only),
        cmocka_unit_test(test_metadata_is_golden),
        cmocka_unit_test(test_metadata_of_another_size_is_refused),
        cmocka_unit_test(test_half_is_written_as_float16),
        cmocka_unit_test(test_names_know_their_numbers),
        cmocka_unit_test(test_shapes_pad_and_strip),
        cmocka_unit_test(test_a_seal_fits_one_payload),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
