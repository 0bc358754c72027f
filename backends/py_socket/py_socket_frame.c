/* SPDX-License-Identifier: Apache-2.0 */
#include "py_socket_frame.h"

#include <errno.h>
#include <string.h>

#include "cursor.h"

#define WISH_FLAGS (KVL_CHUNK_EXPECT_ATTRS | KVL_CHUNK_HAS_CHECKSUM)
#define FOUND_FLAGS (KVL_CHUNK_HAS_CHECKSUM | PY_SOCKET_FOUND_MAPPED)
/* Codes of Linux end below; what lies beyond is no errno. */
#define STATUS_MIN (-4095)

uint32_t py_socket_version_pick(uint32_t max_a, uint32_t min_a, uint32_t max_b, uint32_t min_b)
{
    uint32_t version = max_a < max_b ? max_a : max_b;

    return version < min_a || version < min_b ? 0 : version;
}

/* ---- the head ---- */

void py_socket_frame_encode(const struct py_socket_frame *frame, uint8_t *bytes_out)
{
    struct kvl_writer out;

    kvl_writer_init(&out, bytes_out, PY_SOCKET_FRAME_BYTES);
    kvl_writer_put_u8(&out, PY_SOCKET_FRAME_MAGIC & 0xff);
    kvl_writer_put_u8(&out, PY_SOCKET_FRAME_MAGIC >> 8);
    kvl_writer_put_u8(&out, frame->type);
    kvl_writer_put_u8(&out, frame->flags);
    kvl_writer_put_i32le(&out, frame->status);
    kvl_writer_put_u64le(&out, frame->id);
    kvl_writer_put_u32le(&out, frame->count);
    kvl_writer_put_u32le(&out, frame->table);
    kvl_writer_put_u64le(&out, frame->payload);
}

/* The table of `count` entries of between `least` and `most` bytes. */
static int frame_check_table(const struct py_socket_frame *frame, uint32_t max, uint32_t least,
                             uint32_t most)
{
    if (frame->count > max || frame->table > PY_SOCKET_TABLE_MAX) {
        return -EMSGSIZE;
    }
    if (frame->count == 0 || frame->table < frame->count * least ||
        frame->table > frame->count * most) {
        return -EPROTO;
    }
    return 0;
}

static int frame_check_request(const struct py_socket_frame *frame)
{
    const uint32_t key_most = 2 + KVL_KEY_MAX;

    if (frame->status != 0 && frame->type != PY_SOCKET_ERROR) {
        return frame->type == PY_SOCKET_SEND && frame->count == 0 && frame->table == 0 &&
                       frame->payload == 0
                   ? 0
                   : -EPROTO;
    }
    if (frame->payload != 0 && frame->type != PY_SOCKET_WRITE) {
        return -EPROTO;
    }
    switch (frame->type) {
    case PY_SOCKET_HELLO:
    case PY_SOCKET_WELCOME:
        return frame->count == 1 && frame->table == PY_SOCKET_HELLO_BYTES ? 0 : -EPROTO;
    case PY_SOCKET_READ:
    case PY_SOCKET_WRITE:
        return frame_check_table(frame, PY_SOCKET_RANGES_MAX, PY_SOCKET_RANGE_BYTES,
                                 PY_SOCKET_RANGE_BYTES);
    case PY_SOCKET_SEND:
        return frame_check_table(frame, PY_SOCKET_RANGES_MAX, PY_SOCKET_RANGE_BYTES,
                                 PY_SOCKET_RANGE_BYTES);
    case PY_SOCKET_LOOKUP:
        return frame_check_table(frame, PY_SOCKET_KEYS_MAX, 3, key_most);
    case PY_SOCKET_GET:
        return frame_check_table(frame, PY_SOCKET_KEYS_MAX, PY_SOCKET_WISH_BYTES + 3,
                                 PY_SOCKET_WISH_BYTES + key_most);
    case PY_SOCKET_RELEASE:
        return frame_check_table(frame, PY_SOCKET_KEYS_MAX, PY_SOCKET_SLOT_BYTES,
                                 PY_SOCKET_SLOT_BYTES);
    case PY_SOCKET_CANCEL:
    case PY_SOCKET_GOODBYE:
    case PY_SOCKET_ERROR:
        return frame->count == 0 && frame->table == 0 ? 0 : -EPROTO;
    default:
        return -EPROTO;
    }
}

static int frame_check_reply(const struct py_socket_frame *frame)
{
    uint32_t table = 0;

    if (frame->count > (frame->type == PY_SOCKET_LOOKUP || frame->type == PY_SOCKET_GET
                            ? PY_SOCKET_KEYS_MAX
                            : PY_SOCKET_RANGES_MAX)) {
        return -EMSGSIZE;
    }
    if (frame->type == PY_SOCKET_LOOKUP) {
        table = (frame->count + 7) / 8;
    } else if (frame->type == PY_SOCKET_GET) {
        table = frame->count * PY_SOCKET_FOUND_BYTES;
    } else if (frame->type != PY_SOCKET_READ && frame->type != PY_SOCKET_WRITE &&
               frame->type != PY_SOCKET_SEND) {
        return -EPROTO;
    }
    if (frame->table != table ||
        (frame->payload != 0 && frame->type != PY_SOCKET_READ && frame->type != PY_SOCKET_GET)) {
        return -EPROTO;
    }
    return 0;
}

int py_socket_frame_decode(const uint8_t *bytes, struct py_socket_frame *frame_out)
{
    struct py_socket_frame frame;
    struct kvl_cursor in;
    unsigned magic;
    int r;

    kvl_cursor_init(&in, bytes, PY_SOCKET_FRAME_BYTES);
    magic = kvl_cursor_get_u8(&in);
    magic |= (unsigned)kvl_cursor_get_u8(&in) << 8;
    frame.type = kvl_cursor_get_u8(&in);
    frame.flags = kvl_cursor_get_u8(&in);
    frame.status = kvl_cursor_get_i32le(&in);
    frame.id = kvl_cursor_get_u64le(&in);
    frame.count = kvl_cursor_get_u32le(&in);
    frame.table = kvl_cursor_get_u32le(&in);
    frame.payload = kvl_cursor_get_u64le(&in);
    if (magic != PY_SOCKET_FRAME_MAGIC || (frame.flags & ~PY_SOCKET_REPLY) != 0 ||
        frame.status > 0 || frame.status < STATUS_MIN) {
        return -EPROTO;
    }
    if (frame.payload > PY_SOCKET_PAYLOAD_MAX) {
        return -EMSGSIZE;
    }
    r = frame.flags == 0 ? frame_check_request(&frame) : frame_check_reply(&frame);
    if (r == 0) {
        *frame_out = frame;
    }
    return r;
}

/* ---- HELLO ---- */

void py_socket_greeting_encode(const struct py_socket_greeting *hello, uint8_t *bytes_out)
{
    struct kvl_writer out;

    kvl_writer_init(&out, bytes_out, PY_SOCKET_HELLO_BYTES);
    kvl_writer_put_u32le(&out, hello->version);
    kvl_writer_put_u32le(&out, hello->min_version);
    kvl_writer_put_u32le(&out, hello->flags);
    kvl_writer_put_u32le(&out, hello->lease_slots);
    kvl_writer_put_bytes(&out, hello->token, sizeof(hello->token));
    kvl_writer_put_u64le(&out, hello->incarnation);
    kvl_writer_put_u64le(&out, hello->expected);
    kvl_writer_put_u64le(&out, hello->buffer_bytes);
    kvl_writer_put_u64le(&out, hello->buffer_offset);
    kvl_writer_put_u64le(&out, hello->align_bytes);
    kvl_writer_put_u64le(&out, hello->store_bytes);
    kvl_writer_put_u64le(&out, hello->reserved[0]);
    kvl_writer_put_u64le(&out, hello->reserved[1]);
}

static int hello_check(const struct py_socket_greeting *hello)
{
    uint64_t end;

    if (hello->version == 0 || hello->min_version == 0 || hello->min_version > hello->version ||
        hello->incarnation == 0 || hello->expected == 0) {
        return -EPROTO;
    }
    if (__builtin_add_overflow(hello->buffer_bytes, hello->buffer_offset, &end) ||
        end > INT64_MAX || hello->store_bytes > INT64_MAX) {
        return -EPROTO;
    }
    if (hello->buffer_bytes != 0 &&
        (hello->align_bytes == 0 || hello->buffer_bytes % hello->align_bytes != 0)) {
        return -EPROTO;
    }
    return 0;
}

int py_socket_greeting_decode(const uint8_t *bytes, struct py_socket_greeting *hello_out)
{
    struct py_socket_greeting hello;
    struct kvl_cursor in;
    int r;

    kvl_cursor_init(&in, bytes, PY_SOCKET_HELLO_BYTES);
    hello.version = kvl_cursor_get_u32le(&in);
    hello.min_version = kvl_cursor_get_u32le(&in);
    hello.flags = kvl_cursor_get_u32le(&in);
    hello.lease_slots = kvl_cursor_get_u32le(&in);
    memcpy(hello.token, kvl_cursor_get_bytes(&in, sizeof(hello.token)), sizeof(hello.token));
    hello.incarnation = kvl_cursor_get_u64le(&in);
    hello.expected = kvl_cursor_get_u64le(&in);
    hello.buffer_bytes = kvl_cursor_get_u64le(&in);
    hello.buffer_offset = kvl_cursor_get_u64le(&in);
    hello.align_bytes = kvl_cursor_get_u64le(&in);
    hello.store_bytes = kvl_cursor_get_u64le(&in);
    hello.reserved[0] = kvl_cursor_get_u64le(&in);
    hello.reserved[1] = kvl_cursor_get_u64le(&in);
    r = hello_check(&hello);
    if (r == 0) {
        *hello_out = hello;
    }
    return r;
}

/* ---- tables ---- */

void py_socket_range_encode(const struct py_socket_range *range, uint8_t *bytes_out)
{
    struct kvl_writer out;

    kvl_writer_init(&out, bytes_out, PY_SOCKET_RANGE_BYTES);
    kvl_writer_put_u64le(&out, range->offset);
    kvl_writer_put_u64le(&out, range->length);
}

void py_socket_range_decode(const uint8_t *bytes, struct py_socket_range *range_out)
{
    struct kvl_cursor in;

    kvl_cursor_init(&in, bytes, PY_SOCKET_RANGE_BYTES);
    range_out->offset = kvl_cursor_get_u64le(&in);
    range_out->length = kvl_cursor_get_u64le(&in);
}

void py_socket_slot_encode(const struct py_socket_slot *slot, uint8_t *bytes_out)
{
    struct kvl_writer out;

    kvl_writer_init(&out, bytes_out, PY_SOCKET_SLOT_BYTES);
    kvl_writer_put_u32le(&out, slot->slot);
    kvl_writer_put_u32le(&out, slot->generation);
}

void py_socket_slot_decode(const uint8_t *bytes, struct py_socket_slot *slot_out)
{
    struct kvl_cursor in;

    kvl_cursor_init(&in, bytes, PY_SOCKET_SLOT_BYTES);
    slot_out->slot = kvl_cursor_get_u32le(&in);
    slot_out->generation = kvl_cursor_get_u32le(&in);
}

static void frame_put_key(struct kvl_writer *out, const struct kvl_key *key)
{
    kvl_writer_put_u8(out, (uint8_t)(key->length & 0xff));
    kvl_writer_put_u8(out, (uint8_t)(key->length >> 8));
    kvl_writer_put_bytes(out, key->text, key->length);
}

static int frame_get_key(struct kvl_cursor *in, struct kvl_key *key_out)
{
    uint32_t length = kvl_cursor_get_u8(in);
    const uint8_t *text;

    length |= (uint32_t)kvl_cursor_get_u8(in) << 8;
    if (length == 0 || length > KVL_KEY_MAX) {
        return -EPROTO;
    }
    text = kvl_cursor_get_bytes(in, length);
    if (kvl_cursor_failed(in)) {
        return -EPROTO;
    }
    *key_out = (struct kvl_key){.text = (const char *)text, .length = length};
    return 0;
}

size_t py_socket_key_encode(const struct kvl_key *key, uint8_t *bytes_out, size_t room)
{
    struct kvl_writer out;

    kvl_writer_init(&out, bytes_out, room);
    frame_put_key(&out, key);
    return kvl_writer_failed(&out) ? 0 : kvl_writer_written(&out);
}

int py_socket_key_decode(const uint8_t *table, size_t size, size_t *at_io, struct kvl_key *key_out)
{
    struct kvl_cursor in;
    int r;

    kvl_cursor_init(&in, table + *at_io, size - *at_io);
    r = frame_get_key(&in, key_out);
    if (r == 0) {
        *at_io = size - kvl_cursor_left(&in);
    }
    return r;
}

static void frame_put_attrs(struct kvl_writer *out, const struct kvl_attrs *attrs)
{
    kvl_writer_put_i32le(out, attrs->fmt);
    kvl_writer_put_i32le(out, attrs->dtype);
    for (int i = 0; i < 4; i++) {
        kvl_writer_put_i32le(out, attrs->shape[i]);
    }
}

static void frame_get_attrs(struct kvl_cursor *in, struct kvl_attrs *attrs_out)
{
    attrs_out->fmt = kvl_cursor_get_i32le(in);
    attrs_out->dtype = kvl_cursor_get_i32le(in);
    for (int i = 0; i < 4; i++) {
        attrs_out->shape[i] = kvl_cursor_get_i32le(in);
    }
}

size_t py_socket_wish_encode(const struct py_socket_wish *wish, uint8_t *bytes_out, size_t room)
{
    struct kvl_writer out;

    kvl_writer_init(&out, bytes_out, room);
    kvl_writer_put_u64le(&out, wish->bytes);
    kvl_writer_put_u64le(&out, wish->checksum);
    frame_put_attrs(&out, &wish->attrs);
    kvl_writer_put_u32le(&out, wish->flags);
    kvl_writer_put_u32le(&out, 0);
    frame_put_key(&out, &wish->key);
    return kvl_writer_failed(&out) ? 0 : kvl_writer_written(&out);
}

int py_socket_wish_decode(const uint8_t *table, size_t size, size_t *at_io,
                          struct py_socket_wish *wish_out)
{
    struct py_socket_wish wish;
    struct kvl_cursor in;

    kvl_cursor_init(&in, table + *at_io, size - *at_io);
    wish.bytes = kvl_cursor_get_u64le(&in);
    wish.checksum = kvl_cursor_get_u64le(&in);
    frame_get_attrs(&in, &wish.attrs);
    wish.flags = kvl_cursor_get_u32le(&in);
    if (kvl_cursor_get_u32le(&in) != 0 || (wish.flags & ~WISH_FLAGS) != 0 ||
        frame_get_key(&in, &wish.key) < 0) {
        return -EPROTO;
    }
    *at_io = size - kvl_cursor_left(&in);
    *wish_out = wish;
    return 0;
}

void py_socket_found_encode(const struct py_socket_found *found, uint8_t *bytes_out)
{
    struct kvl_writer out;

    kvl_writer_init(&out, bytes_out, PY_SOCKET_FOUND_BYTES);
    kvl_writer_put_i32le(&out, found->status);
    kvl_writer_put_u32le(&out, found->flags);
    kvl_writer_put_u64le(&out, found->bytes);
    kvl_writer_put_u64le(&out, found->checksum);
    frame_put_attrs(&out, &found->attrs);
    kvl_writer_put_u32le(&out, found->slot);
    kvl_writer_put_u32le(&out, found->generation);
    kvl_writer_put_u64le(&out, found->offset);
}

int py_socket_found_decode(const uint8_t *bytes, struct py_socket_found *found_out)
{
    struct py_socket_found found;
    struct kvl_cursor in;
    uint64_t end;

    kvl_cursor_init(&in, bytes, PY_SOCKET_FOUND_BYTES);
    found.status = kvl_cursor_get_i32le(&in);
    found.flags = kvl_cursor_get_u32le(&in);
    found.bytes = kvl_cursor_get_u64le(&in);
    found.checksum = kvl_cursor_get_u64le(&in);
    frame_get_attrs(&in, &found.attrs);
    found.slot = kvl_cursor_get_u32le(&in);
    found.generation = kvl_cursor_get_u32le(&in);
    found.offset = kvl_cursor_get_u64le(&in);
    if (found.status > 0 || found.status < STATUS_MIN || (found.flags & ~FOUND_FLAGS) != 0 ||
        found.bytes > PY_SOCKET_PAYLOAD_MAX ||
        __builtin_add_overflow(found.offset, found.bytes, &end)) {
        return -EPROTO;
    }
    if (found.status != 0 && (found.bytes != 0 || found.flags != 0)) {
        return -EPROTO;
    }
    if ((found.flags & PY_SOCKET_FOUND_MAPPED) != 0 && found.generation == 0) {
        return -EPROTO;
    }
    *found_out = found;
    return 0;
}
