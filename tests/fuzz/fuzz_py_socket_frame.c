/* SPDX-License-Identifier: Apache-2.0 */
/* Every decoder of the data plane; what decodes must encode to the same bytes. */
#include <stdlib.h>
#include <string.h>

#include "py_socket_frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int ok)
{
    if (!ok) {
        abort();
    }
}

static void fuzz_keys(const uint8_t *table, size_t size, uint32_t count)
{
    size_t at = 0;

    for (uint32_t i = 0; i < count; i++) {
        uint8_t bytes[2 + KVL_KEY_MAX];
        struct kvl_key key;
        size_t before = at;

        if (py_socket_key_decode(table, size, &at, &key) < 0) {
            check(at == before);
            return;
        }
        check(at <= size && key.length >= 1 && key.length <= KVL_KEY_MAX);
        check(py_socket_key_encode(&key, bytes, sizeof(bytes)) == at - before);
        check(memcmp(bytes, table + before, at - before) == 0);
    }
}

static void fuzz_wishes(const uint8_t *table, size_t size, uint32_t count)
{
    size_t at = 0;

    for (uint32_t i = 0; i < count; i++) {
        uint8_t bytes[PY_SOCKET_WISH_BYTES + 2 + KVL_KEY_MAX];
        struct py_socket_wish wish;
        size_t before = at;

        if (py_socket_wish_decode(table, size, &at, &wish) < 0) {
            check(at == before);
            return;
        }
        check(py_socket_wish_encode(&wish, bytes, sizeof(bytes)) == at - before);
        check(memcmp(bytes, table + before, at - before) == 0);
    }
}

static void fuzz_found(const uint8_t *table, size_t size)
{
    for (size_t at = 0; at + PY_SOCKET_FOUND_BYTES <= size; at += PY_SOCKET_FOUND_BYTES) {
        uint8_t bytes[PY_SOCKET_FOUND_BYTES];
        struct py_socket_found found;

        if (py_socket_found_decode(table + at, &found) == 0) {
            py_socket_found_encode(&found, bytes);
            check(memcmp(bytes, table + at, sizeof(bytes)) == 0);
        }
    }
}

static void fuzz_ranges(const uint8_t *table, size_t size)
{
    for (size_t at = 0; at + PY_SOCKET_RANGE_BYTES <= size; at += PY_SOCKET_RANGE_BYTES) {
        uint8_t bytes[PY_SOCKET_RANGE_BYTES];
        struct py_socket_range range;

        py_socket_range_decode(table + at, &range);
        py_socket_range_encode(&range, bytes);
        check(memcmp(bytes, table + at, sizeof(bytes)) == 0);
    }
}

static void fuzz_slots(const uint8_t *table, size_t size)
{
    for (size_t at = 0; at + PY_SOCKET_SLOT_BYTES <= size; at += PY_SOCKET_SLOT_BYTES) {
        uint8_t bytes[PY_SOCKET_SLOT_BYTES];
        struct py_socket_slot slot;

        py_socket_slot_decode(table + at, &slot);
        py_socket_slot_encode(&slot, bytes);
        check(memcmp(bytes, table + at, sizeof(bytes)) == 0);
    }
}

static void fuzz_hello(const uint8_t *table, size_t size)
{
    uint8_t bytes[PY_SOCKET_HELLO_BYTES];
    struct py_socket_greeting hello;

    if (size >= PY_SOCKET_HELLO_BYTES && py_socket_greeting_decode(table, &hello) == 0) {
        py_socket_greeting_encode(&hello, bytes);
        check(memcmp(bytes, table, sizeof(bytes)) == 0);
    }
}

static void fuzz_table(const struct py_socket_frame *frame, const uint8_t *table, size_t size)
{
    int is_reply = (frame->flags & PY_SOCKET_REPLY) != 0;

    switch (frame->type) {
    case PY_SOCKET_HELLO:
    case PY_SOCKET_WELCOME:
        fuzz_hello(table, size);
        break;
    case PY_SOCKET_LOOKUP:
        fuzz_keys(table, size, is_reply ? 0 : frame->count);
        break;
    case PY_SOCKET_GET:
        if (is_reply) {
            fuzz_found(table, size);
        } else {
            fuzz_wishes(table, size, frame->count);
        }
        break;
    case PY_SOCKET_RELEASE:
        fuzz_slots(table, size);
        break;
    default:
        fuzz_ranges(table, size);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t bytes[PY_SOCKET_FRAME_BYTES];
    struct py_socket_frame frame;

    if (size < PY_SOCKET_FRAME_BYTES || py_socket_frame_decode(data, &frame) < 0) {
        return 0;
    }
    check(frame.table <= PY_SOCKET_TABLE_MAX && frame.count <= PY_SOCKET_RANGES_MAX);
    check(frame.payload <= PY_SOCKET_PAYLOAD_MAX);
    py_socket_frame_encode(&frame, bytes);
    check(memcmp(bytes, data, sizeof(bytes)) == 0);
    size -= PY_SOCKET_FRAME_BYTES;
    fuzz_table(&frame, data + PY_SOCKET_FRAME_BYTES, frame.table < size ? frame.table : size);
    return 0;
}
