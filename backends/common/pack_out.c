/* SPDX-License-Identifier: Apache-2.0 */
#include <endian.h>
#include <string.h>

#include "pack.h"

void kvl_pack_out_init(struct kvl_pack_out *out, void *bytes, size_t room)
{
    out->at = bytes;
    out->room = room;
    out->length = 0;
}

/* Where the next `length` bytes go; NULL when they do not fit. */
static uint8_t *pack_take(struct kvl_pack_out *out, size_t length)
{
    const size_t from = out->length;

    out->length += length;
    return out->length > out->room ? NULL : out->at + from;
}

/* A first byte and a big-endian number of `size` bytes behind it. */
static void pack_put(struct kvl_pack_out *out, uint8_t first, uint64_t number, uint32_t size)
{
    const uint64_t big = htobe64(size == 0 ? 0 : number << (64 - 8 * size));
    uint8_t *at = pack_take(out, 1 + size);

    if (at != NULL) {
        at[0] = first;
        memcpy(at + 1, &big, size);
    }
}

/* Index of the smallest of 1, 2, 4 and 8 bytes that holds the number. */
static uint32_t pack_width(uint64_t number)
{
    return number <= UINT8_MAX ? 0 : number <= UINT16_MAX ? 1 : number <= UINT32_MAX ? 2 : 3;
}

void kvl_pack_put_nil(struct kvl_pack_out *out)
{
    pack_put(out, 0xc0, 0, 0);
}

void kvl_pack_put_bool(struct kvl_pack_out *out, int value)
{
    pack_put(out, value ? 0xc3 : 0xc2, 0, 0);
}

void kvl_pack_put_u64(struct kvl_pack_out *out, uint64_t value)
{
    const uint32_t width = pack_width(value);

    if (value < 0x80) {
        pack_put(out, (uint8_t)value, 0, 0);
    } else {
        pack_put(out, (uint8_t)(0xcc + width), value, 1u << width);
    }
}

void kvl_pack_put_i64(struct kvl_pack_out *out, int64_t value)
{
    uint32_t width;

    if (value >= 0) {
        kvl_pack_put_u64(out, (uint64_t)value);
    } else if (value >= -32) {
        pack_put(out, (uint8_t)value, 0, 0);
    } else {
        width = value >= INT8_MIN ? 0 : value >= INT16_MIN ? 1 : value >= INT32_MIN ? 2 : 3;
        pack_put(out, (uint8_t)(0xd0 + width), (uint64_t)value, 1u << width);
    }
}

void kvl_pack_put_int(struct kvl_pack_out *out, uint64_t bits, int negative)
{
    if (negative) {
        kvl_pack_put_i64(out, (int64_t)bits);
    } else {
        kvl_pack_put_u64(out, bits);
    }
}

void kvl_pack_put_float(struct kvl_pack_out *out, double value)
{
    uint64_t bits;

    memcpy(&bits, &value, sizeof(bits));
    pack_put(out, 0xcb, bits, 8);
}

void kvl_pack_put_raw(struct kvl_pack_out *out, const void *bytes, size_t length)
{
    uint8_t *at = length == 0 ? NULL : pack_take(out, length);

    if (at != NULL) {
        memcpy(at, bytes, length);
    }
}

void kvl_pack_put_text_head(struct kvl_pack_out *out, uint32_t length)
{
    const uint32_t width = pack_width(length);

    if (length < 32) {
        pack_put(out, (uint8_t)(0xa0 | length), 0, 0);
    } else {
        pack_put(out, (uint8_t)(0xd9 + width), length, 1u << width);
    }
}

void kvl_pack_put_text(struct kvl_pack_out *out, const void *text, uint32_t length)
{
    kvl_pack_put_text_head(out, length);
    kvl_pack_put_raw(out, text, length);
}

void kvl_pack_put_bytes_head(struct kvl_pack_out *out, uint32_t length)
{
    const uint32_t width = pack_width(length);

    pack_put(out, (uint8_t)(0xc4 + width), length, 1u << width);
}

void kvl_pack_put_bytes(struct kvl_pack_out *out, const void *bytes, uint32_t length)
{
    kvl_pack_put_bytes_head(out, length);
    kvl_pack_put_raw(out, bytes, length);
}

void kvl_pack_put_ext(struct kvl_pack_out *out, int8_t type, const void *bytes, uint32_t length)
{
    const uint32_t width = pack_width(length);

    if (length > 0 && length <= 16 && (length & (length - 1)) == 0) {
        pack_put(out, (uint8_t)(0xd4 + __builtin_ctz(length)), 0, 0);
    } else {
        pack_put(out, (uint8_t)(0xc7 + width), length, 1u << width);
    }
    pack_put(out, (uint8_t)type, 0, 0);
    kvl_pack_put_raw(out, bytes, length);
}

/* Arrays and maps: up to 15 in the first byte, then 2 or 4 bytes; there is no form of 1. */
static void pack_put_count(struct kvl_pack_out *out, uint8_t fixed, uint8_t coded, uint32_t count)
{
    if (count < 16) {
        pack_put(out, (uint8_t)(fixed | count), 0, 0);
    } else if (count <= UINT16_MAX) {
        pack_put(out, coded, count, 2);
    } else {
        pack_put(out, (uint8_t)(coded + 1), count, 4);
    }
}

void kvl_pack_put_array(struct kvl_pack_out *out, uint32_t count)
{
    pack_put_count(out, 0x90, 0xdc, count);
}

void kvl_pack_put_map(struct kvl_pack_out *out, uint32_t count)
{
    pack_put_count(out, 0x80, 0xde, count);
}
