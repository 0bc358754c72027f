/* SPDX-License-Identifier: Apache-2.0 */
#include "cursor.h"

#include <string.h>

void kvl_cursor_init(struct kvl_cursor *in, const void *bytes, size_t length)
{
    in->at = bytes;
    in->left = length;
    in->failed = 0;
}

const uint8_t *kvl_cursor_get_bytes(struct kvl_cursor *in, size_t length)
{
    const uint8_t *bytes = in->at;

    if (in->failed || length > in->left) {
        in->failed = 1;
        in->left = 0;
        return NULL;
    }
    if (length > 0) { /* `at` may be NULL for an empty buffer, and NULL + 0 is not C */
        in->at += length;
        in->left -= length;
    }
    return bytes;
}

uint8_t kvl_cursor_get_u8(struct kvl_cursor *in)
{
    const uint8_t *b = kvl_cursor_get_bytes(in, 1);

    return b == NULL ? (uint8_t)0 : b[0];
}

uint32_t kvl_cursor_get_u32le(struct kvl_cursor *in)
{
    const uint8_t *b = kvl_cursor_get_bytes(in, 4);

    if (b == NULL) {
        return 0;
    }
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

int32_t kvl_cursor_get_i32le(struct kvl_cursor *in)
{
    return (int32_t)kvl_cursor_get_u32le(in);
}

uint64_t kvl_cursor_get_u64le(struct kvl_cursor *in)
{
    struct kvl_cursor ahead;
    const uint8_t *b = kvl_cursor_get_bytes(in, 8);
    uint64_t low;

    if (b == NULL) {
        return 0;
    }
    kvl_cursor_init(&ahead, b, 8);
    low = kvl_cursor_get_u32le(&ahead);
    return low | (uint64_t)kvl_cursor_get_u32le(&ahead) << 32;
}

size_t kvl_cursor_left(const struct kvl_cursor *in)
{
    return in->left;
}

int kvl_cursor_failed(const struct kvl_cursor *in)
{
    return in->failed;
}

void kvl_writer_init(struct kvl_writer *out, void *bytes, size_t capacity)
{
    out->at = bytes;
    out->left = capacity;
    out->written = 0;
    out->failed = 0;
}

static uint8_t *kvl_writer_take(struct kvl_writer *out, size_t length)
{
    uint8_t *at = out->at;

    if (out->failed || length > out->left) {
        out->failed = 1;
        return NULL;
    }
    if (length > 0) {
        out->at += length;
        out->left -= length;
        out->written += length;
    }
    return at;
}

void kvl_writer_put_u8(struct kvl_writer *out, uint8_t value)
{
    uint8_t *b = kvl_writer_take(out, 1);

    if (b != NULL) {
        b[0] = value;
    }
}

void kvl_writer_put_u32le(struct kvl_writer *out, uint32_t value)
{
    uint8_t *b = kvl_writer_take(out, 4);

    if (b != NULL) {
        b[0] = (uint8_t)(value & 0xff);
        b[1] = (uint8_t)(value >> 8 & 0xff);
        b[2] = (uint8_t)(value >> 16 & 0xff);
        b[3] = (uint8_t)(value >> 24);
    }
}

void kvl_writer_put_i32le(struct kvl_writer *out, int32_t value)
{
    kvl_writer_put_u32le(out, (uint32_t)value);
}

void kvl_writer_put_u64le(struct kvl_writer *out, uint64_t value)
{
    struct kvl_writer ahead;
    uint8_t *b = kvl_writer_take(out, 8);

    if (b != NULL) {
        kvl_writer_init(&ahead, b, 8);
        kvl_writer_put_u32le(&ahead, (uint32_t)(value & UINT32_MAX));
        kvl_writer_put_u32le(&ahead, (uint32_t)(value >> 32));
    }
}

void kvl_writer_put_bytes(struct kvl_writer *out, const void *bytes, size_t length)
{
    uint8_t *b = kvl_writer_take(out, length);

    if (b != NULL && length > 0) {
        memcpy(b, bytes, length);
    }
}

void kvl_writer_put_fill(struct kvl_writer *out, uint8_t value, size_t count)
{
    uint8_t *b = kvl_writer_take(out, count);

    if (b != NULL && count > 0) {
        memset(b, value, count);
    }
}

size_t kvl_writer_written(const struct kvl_writer *out)
{
    return out->written;
}

int kvl_writer_failed(const struct kvl_writer *out)
{
    return out->failed;
}
