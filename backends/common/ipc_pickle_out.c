/* SPDX-License-Identifier: Apache-2.0 */
#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <string.h>

#include "ipc_pickle.h"

/* CPython's _pickle: a frame ends before the next object once it has that many bytes, and byte
 * strings of that many stand outside frames. */
#define PICKLE_OUT_FRAME_TARGET 65536u
#define PICKLE_OUT_FRAME_HEAD 9u

static void pickle_out_raw(struct kvl_pickle_out *out, const void *bytes, size_t length)
{
    const size_t from = out->length;

    out->length += length;
    if (out->length <= out->room && length > 0) {
        memcpy(out->at + from, bytes, length);
    }
}

static void pickle_out_close_frame(struct kvl_pickle_out *out)
{
    uint8_t head[PICKLE_OUT_FRAME_HEAD] = {KVL_PICKLE_OP_FRAME};
    uint64_t length;

    if (!out->is_open) {
        return;
    }
    out->is_open = 0;
    length = htole64(out->length - out->frame - sizeof(head));
    assert(le64toh(length) >= 4); /* CPython puts no head before less; nothing here is so short */
    memcpy(head + 1, &length, sizeof(length));
    if (out->frame + sizeof(head) <= out->room) {
        memcpy(out->at + out->frame, head, sizeof(head));
    }
}

/* Into the open frame, or a new one. */
static void pickle_out_put(struct kvl_pickle_out *out, const void *bytes, size_t length)
{
    if (!out->is_open) {
        out->is_open = 1;
        out->frame = out->length;
        out->length += PICKLE_OUT_FRAME_HEAD; /* written when it closes */
    }
    pickle_out_raw(out, bytes, length);
}

void kvl_pickle_begin(struct kvl_pickle_out *out, void *bytes, size_t room, uint32_t protocol)
{
    const uint8_t head[] = {KVL_PICKLE_OP_PROTO, (uint8_t)protocol};

    *out = (struct kvl_pickle_out){.at = bytes, .room = room};
    pickle_out_raw(out, head, sizeof(head));
}

void kvl_pickle_put_op(struct kvl_pickle_out *out, uint8_t op)
{
    pickle_out_put(out, &op, sizeof(op));
}

void kvl_pickle_put_memoize(struct kvl_pickle_out *out)
{
    kvl_pickle_put_op(out, KVL_PICKLE_OP_MEMOIZE);
}

void kvl_pickle_put_object(struct kvl_pickle_out *out)
{
    if (out->is_open &&
        out->length - out->frame - PICKLE_OUT_FRAME_HEAD >= PICKLE_OUT_FRAME_TARGET) {
        pickle_out_close_frame(out);
    }
}

void kvl_pickle_put_none(struct kvl_pickle_out *out)
{
    kvl_pickle_put_object(out);
    kvl_pickle_put_op(out, KVL_PICKLE_OP_NONE);
}

void kvl_pickle_put_bool(struct kvl_pickle_out *out, int value)
{
    kvl_pickle_put_object(out);
    kvl_pickle_put_op(out, value ? KVL_PICKLE_OP_NEWTRUE : KVL_PICKLE_OP_NEWFALSE);
}

/* The fewest bytes that keep the sign. */
static void pickle_out_long(struct kvl_pickle_out *out, uint64_t bits, int negative)
{
    const uint64_t little = htole64(bits);
    const uint8_t fill = negative ? 0xff : 0;
    uint8_t bytes[11] = {KVL_PICKLE_OP_LONG1};
    uint8_t count = 9;

    memcpy(bytes + 2, &little, sizeof(little));
    bytes[10] = fill;
    while (count > 1 && bytes[1 + count] == fill && (bytes[count] & 0x80) == (fill & 0x80)) {
        count--;
    }
    bytes[1] = count;
    pickle_out_put(out, bytes, 2u + count);
}

void kvl_pickle_put_i64(struct kvl_pickle_out *out, int64_t value)
{
    uint8_t bytes[5];
    const uint32_t little = htole32((uint32_t)value);
    size_t width = sizeof(little);

    kvl_pickle_put_object(out);
    if (value < INT32_MIN || value > INT32_MAX) {
        pickle_out_long(out, (uint64_t)value, value < 0);
        return;
    }
    bytes[0] = KVL_PICKLE_OP_BININT;
    if (value >= 0 && value <= UINT8_MAX) {
        bytes[0] = KVL_PICKLE_OP_BININT1;
        width = 1;
    } else if (value >= 0 && value <= UINT16_MAX) {
        bytes[0] = KVL_PICKLE_OP_BININT2;
        width = 2;
    }
    memcpy(bytes + 1, &little, sizeof(little));
    pickle_out_put(out, bytes, 1 + width);
}

void kvl_pickle_put_u64(struct kvl_pickle_out *out, uint64_t value)
{
    if (value <= INT64_MAX) {
        kvl_pickle_put_i64(out, (int64_t)value);
        return;
    }
    kvl_pickle_put_object(out);
    pickle_out_long(out, value, 0);
}

/* A length of one byte behind `short_op` where it fits, else of four behind `op`. */
static size_t pickle_out_head(uint8_t *head, uint64_t length, uint8_t short_op, uint8_t op)
{
    const uint32_t little = htole32((uint32_t)length);

    if (length <= UINT8_MAX) {
        head[0] = short_op;
        head[1] = (uint8_t)length;
        return 2;
    }
    head[0] = op;
    memcpy(head + 1, &little, sizeof(little));
    return 5;
}

void kvl_pickle_put_text(struct kvl_pickle_out *out, struct kvl_ipc_bytes text)
{
    uint8_t head[5];

    kvl_pickle_put_object(out);
    pickle_out_put(out, head,
                   pickle_out_head(head, text.length, KVL_PICKLE_OP_SHORT_BINUNICODE,
                                   KVL_PICKLE_OP_BINUNICODE));
    pickle_out_put(out, text.at, (size_t)text.length);
    kvl_pickle_put_memoize(out);
}

void kvl_pickle_put_bytes(struct kvl_pickle_out *out, struct kvl_ipc_bytes bytes)
{
    uint8_t head[5];
    const size_t width =
        pickle_out_head(head, bytes.length, KVL_PICKLE_OP_SHORT_BINBYTES, KVL_PICKLE_OP_BINBYTES);

    kvl_pickle_put_object(out);
    if (bytes.length >= PICKLE_OUT_FRAME_TARGET) {
        pickle_out_close_frame(out);
        pickle_out_raw(out, head, width);
        pickle_out_raw(out, bytes.at, (size_t)bytes.length);
    } else {
        pickle_out_put(out, head, width);
        pickle_out_put(out, bytes.at, (size_t)bytes.length);
    }
    kvl_pickle_put_memoize(out);
}

void kvl_pickle_put_global(struct kvl_pickle_out *out, const char *module, const char *name)
{
    kvl_pickle_put_object(out);
    kvl_pickle_put_text(out, (struct kvl_ipc_bytes){module, strlen(module)});
    kvl_pickle_put_text(out, (struct kvl_ipc_bytes){name, strlen(name)});
    kvl_pickle_put_op(out, KVL_PICKLE_OP_STACK_GLOBAL);
    kvl_pickle_put_memoize(out);
}

void kvl_pickle_put_empty_tuple(struct kvl_pickle_out *out)
{
    kvl_pickle_put_object(out);
    kvl_pickle_put_op(out, KVL_PICKLE_OP_EMPTY_TUPLE); /* the one object that is not memoized */
}

void kvl_pickle_open_tuple(struct kvl_pickle_out *out, uint32_t count)
{
    kvl_pickle_put_object(out);
    if (count > 3) {
        kvl_pickle_put_op(out, KVL_PICKLE_OP_MARK);
    }
}

void kvl_pickle_close_tuple(struct kvl_pickle_out *out, uint32_t count)
{
    kvl_pickle_put_op(out, count > 3 ? KVL_PICKLE_OP_TUPLE
                                     : (uint8_t)(KVL_PICKLE_OP_TUPLE1 + count - 1));
    kvl_pickle_put_memoize(out);
}

int kvl_pickle_end(struct kvl_pickle_out *out)
{
    kvl_pickle_put_op(out, KVL_PICKLE_OP_STOP);
    pickle_out_close_frame(out);
    return out->length <= out->room ? 0 : -ENOSPC;
}
