/* SPDX-License-Identifier: Apache-2.0 */
#include "tcp_remote_wire.h"

#include <errno.h>
#include <string.h>

#include "cursor.h"

#define SEAL_MAGIC 0x314c564bu /* "KVL1" */
#define METADATA_HEAD_INTS 2u
#define METADATA_GROUP_INTS 5u

const struct kvl_attrs tcp_remote_no_attrs = {.fmt = KVL_FMT_KV_2LTD, .dtype = KVL_DTYPE_FLOAT16};

static void wire_get_shape(struct kvl_cursor *in, int32_t shape[4])
{
    for (size_t i = 0; i < 4; i++) {
        shape[i] = kvl_cursor_get_i32le(in);
    }
}

static void wire_put_shape(struct kvl_writer *out, const int32_t shape[4])
{
    for (size_t i = 0; i < 4; i++) {
        kvl_writer_put_i32le(out, shape[i]);
    }
}

static int wire_is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

void tcp_remote_key_trim(const char **text, uint32_t *length)
{
    const char *at = *text;
    uint32_t left = *length;

    while (left > 0 && wire_is_space(at[0])) {
        at++;
        left--;
    }
    while (left > 0 && wire_is_space(at[left - 1])) {
        left--;
    }
    *text = at;
    *length = left;
}

void tcp_remote_request_decode(const uint8_t *bytes, struct tcp_remote_request *request_out)
{
    struct kvl_cursor in;

    kvl_cursor_init(&in, bytes, TCP_REMOTE_REQUEST_BYTES);
    request_out->command = kvl_cursor_get_i32le(&in);
    request_out->length = kvl_cursor_get_i32le(&in);
    request_out->attrs.fmt = kvl_cursor_get_i32le(&in);
    request_out->attrs.dtype = kvl_cursor_get_i32le(&in);
    request_out->location = kvl_cursor_get_i32le(&in);
    wire_get_shape(&in, request_out->attrs.shape);
    request_out->key = (const char *)kvl_cursor_get_bytes(&in, TCP_REMOTE_KEY_BYTES);
    request_out->key_length = TCP_REMOTE_KEY_BYTES;
    tcp_remote_key_trim(&request_out->key, &request_out->key_length);
}

int tcp_remote_request_encode(const struct tcp_remote_request *request, uint8_t *bytes_out)
{
    struct kvl_writer out;

    if (request->key_length == 0 || request->key_length > TCP_REMOTE_KEY_BYTES) {
        return -EINVAL;
    }
    kvl_writer_init(&out, bytes_out, TCP_REMOTE_REQUEST_BYTES);
    kvl_writer_put_i32le(&out, request->command);
    kvl_writer_put_i32le(&out, request->length);
    kvl_writer_put_i32le(&out, request->attrs.fmt);
    kvl_writer_put_i32le(&out, request->attrs.dtype);
    kvl_writer_put_i32le(&out, request->location);
    wire_put_shape(&out, request->attrs.shape);
    kvl_writer_put_bytes(&out, request->key, request->key_length);
    kvl_writer_put_fill(&out, ' ', TCP_REMOTE_KEY_BYTES - request->key_length);
    return 0;
}

int tcp_remote_reply_decode(const uint8_t *bytes, struct tcp_remote_reply *reply_out)
{
    struct tcp_remote_reply reply;
    struct kvl_cursor in;

    kvl_cursor_init(&in, bytes, TCP_REMOTE_REPLY_BYTES);
    reply.code = kvl_cursor_get_i32le(&in);
    reply.length = kvl_cursor_get_i32le(&in);
    reply.attrs.fmt = kvl_cursor_get_i32le(&in);
    reply.attrs.dtype = kvl_cursor_get_i32le(&in);
    wire_get_shape(&in, reply.attrs.shape);
    reply.location = kvl_cursor_get_i32le(&in);
    if ((reply.code != TCP_REMOTE_SUCCESS && reply.code != TCP_REMOTE_FAIL) || reply.length < 0) {
        return -EPROTO;
    }
    *reply_out = reply;
    return 0;
}

void tcp_remote_reply_encode(const struct tcp_remote_reply *reply, uint8_t *bytes_out)
{
    struct kvl_writer out;

    kvl_writer_init(&out, bytes_out, TCP_REMOTE_REPLY_BYTES);
    kvl_writer_put_i32le(&out, reply->code);
    kvl_writer_put_i32le(&out, reply->length);
    kvl_writer_put_i32le(&out, reply->attrs.fmt);
    kvl_writer_put_i32le(&out, reply->attrs.dtype);
    wire_put_shape(&out, reply->attrs.shape);
    kvl_writer_put_i32le(&out, reply->location);
}

size_t tcp_remote_metadata_bytes(uint32_t group_count)
{
    return sizeof(int32_t) * (METADATA_HEAD_INTS + METADATA_GROUP_INTS * (size_t)group_count);
}

int tcp_remote_metadata_decode(const void *bytes, size_t size,
                               struct tcp_remote_metadata *metadata_out)
{
    const size_t head = tcp_remote_metadata_bytes(0);
    const size_t group = tcp_remote_metadata_bytes(1) - head;
    struct kvl_cursor in;

    if (size < head + group || (size - head) % group != 0) {
        return -EPROTO;
    }
    if ((size - head) / group > TCP_REMOTE_GROUPS_MAX) {
        return -EMSGSIZE;
    }
    kvl_cursor_init(&in, bytes, size);
    metadata_out->length = kvl_cursor_get_i32le(&in);
    metadata_out->fmt = kvl_cursor_get_i32le(&in);
    metadata_out->group_count = (uint32_t)((size - head) / group);
    for (uint32_t i = 0; i < metadata_out->group_count; i++) {
        metadata_out->groups[i].dtype = kvl_cursor_get_i32le(&in);
        wire_get_shape(&in, metadata_out->groups[i].shape);
    }
    return 0;
}

int tcp_remote_metadata_encode(const struct tcp_remote_metadata *metadata, void *bytes_out,
                               size_t size)
{
    struct kvl_writer out;

    if (metadata->group_count == 0 || metadata->group_count > TCP_REMOTE_GROUPS_MAX) {
        return -EINVAL;
    }
    if (size < tcp_remote_metadata_bytes(metadata->group_count)) {
        return -EMSGSIZE;
    }
    kvl_writer_init(&out, bytes_out, size);
    kvl_writer_put_i32le(&out, metadata->length);
    kvl_writer_put_i32le(&out, metadata->fmt);
    for (uint32_t i = 0; i < metadata->group_count; i++) {
        kvl_writer_put_i32le(&out, metadata->groups[i].dtype);
        wire_put_shape(&out, metadata->groups[i].shape);
    }
    return (int)kvl_writer_written(&out);
}

/* ---- names ---- */

static const char *const dtype_names[] = {
    "None",    "half",  "float16",       "bfloat16",    "float32",
    "float64", "uint8", "float8_e4m3fn", "float8_e5m2",
};
static const uint8_t dtype_sizes[] = {0, 2, 2, 2, 4, 8, 1, 1, 1};
static const char *const location_names[] = {"None", "LocalCPUBackend", "LocalDiskBackend"};
static const char *const format_names[] = {
    "UNDEFINED",     "KV_2LTD",    "KV_T2D", "KV_2TD", "BINARY",
    "BINARY_BUFFER", "KV_MLA_FMT", "EC_TD",  "HS_TD",
};
static const char *const command_names[] = {"NONE", "PUT", "GET", "EXIST", "LIST", "HEALTH"};

#define COUNT_OF(table) (sizeof(table) / sizeof((table)[0]))

static const char *wire_name(const char *const *names, size_t count, int32_t number)
{
    return number >= 0 && (size_t)number < count ? names[number] : NULL;
}

static int wire_number(const char *const *names, size_t count, const char *name,
                       int32_t *number_out)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(names[i], name) == 0) {
            *number_out = (int32_t)i;
            return 0;
        }
    }
    return -EINVAL;
}

const char *tcp_remote_dtype_name(int32_t dtype)
{
    return wire_name(dtype_names, COUNT_OF(dtype_names), dtype);
}

const char *tcp_remote_location_name(int32_t location)
{
    return wire_name(location_names, COUNT_OF(location_names), location);
}

const char *tcp_remote_format_name(int32_t fmt)
{
    return wire_name(format_names, COUNT_OF(format_names), fmt);
}

const char *tcp_remote_command_name(int32_t command)
{
    return wire_name(command_names, COUNT_OF(command_names), command);
}

int tcp_remote_dtype_from_name(const char *name, int32_t *dtype_out)
{
    int r = wire_number(dtype_names, COUNT_OF(dtype_names), name, dtype_out);

    if (r == 0 && *dtype_out == KVL_DTYPE_HALF) {
        *dtype_out = KVL_DTYPE_FLOAT16;
    }
    return r;
}

int tcp_remote_location_from_name(const char *name, int32_t *location_out)
{
    return wire_number(location_names, COUNT_OF(location_names), name, location_out);
}

int tcp_remote_format_from_name(const char *name, int32_t *fmt_out)
{
    return wire_number(format_names, COUNT_OF(format_names), name, fmt_out);
}

uint32_t tcp_remote_dtype_bytes(int32_t dtype)
{
    return dtype >= 0 && (size_t)dtype < COUNT_OF(dtype_sizes) ? dtype_sizes[dtype] : 0;
}

int tcp_remote_dtype_equal(int32_t a, int32_t b)
{
    int32_t x = a == KVL_DTYPE_HALF ? KVL_DTYPE_FLOAT16 : a;
    int32_t y = b == KVL_DTYPE_HALF ? KVL_DTYPE_FLOAT16 : b;

    return x == y;
}

int tcp_remote_attrs_equal(const struct kvl_attrs *a, const struct kvl_attrs *b)
{
    return a->fmt == b->fmt && tcp_remote_dtype_equal(a->dtype, b->dtype) &&
           memcmp(a->shape, b->shape, sizeof(a->shape)) == 0;
}

int tcp_remote_shape_pad(const int32_t *dims, uint32_t count, int32_t shape_out[4])
{
    if (count == 0 || count > 4) {
        return -EINVAL;
    }
    for (uint32_t i = 0; i < 4; i++) {
        shape_out[i] = i < count ? dims[i] : 0;
    }
    return 0;
}

uint32_t tcp_remote_shape_dims(const int32_t shape[4], int32_t fmt)
{
    uint32_t count = 4;

    if (fmt == KVL_FMT_BINARY || fmt == KVL_FMT_BINARY_BUFFER) {
        return count;
    }
    while (count > 1 && shape[count - 1] == 0) {
        count--;
    }
    return count;
}

/* ---- the sealed form ---- */

void tcp_remote_seal_encode(uint64_t hash, uint64_t length, uint8_t *bytes_out)
{
    struct kvl_writer out;

    kvl_writer_init(&out, bytes_out, TCP_REMOTE_SEAL_BYTES);
    kvl_writer_put_u64le(&out, hash);
    kvl_writer_put_u32le(&out, (uint32_t)(length & UINT32_MAX));
    kvl_writer_put_u32le(&out, SEAL_MAGIC);
}

int tcp_remote_seal_check(const uint8_t *bytes, uint64_t hash, uint64_t length)
{
    uint8_t expected[TCP_REMOTE_SEAL_BYTES];

    tcp_remote_seal_encode(hash, length, expected);
    return memcmp(bytes, expected, sizeof(expected)) == 0 ? 0 : -EBADMSG;
}
