/* SPDX-License-Identifier: Apache-2.0 */
/* The bytes of the data plane: golden ones, and what no peer may send. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "py_socket_frame.h"

static uint8_t golden[512];

static size_t load(const char *name)
{
    char path[512];
    FILE *file;
    size_t bytes;

    snprintf(path, sizeof(path), "%s/py_socket/frame_%s.bin", KVL_VECTORS, name);
    file = fopen(path, "rb");
    assert_non_null(file);
    bytes = fread(golden, 1, sizeof(golden), file);
    fclose(file);
    return bytes;
}

/* Decodes the head of a golden frame and encodes it again. */
static struct py_socket_frame head(const char *name)
{
    size_t bytes = load(name);
    uint8_t again[PY_SOCKET_FRAME_BYTES];
    struct py_socket_frame frame;

    assert_int_equal(py_socket_frame_decode(golden, &frame), 0);
    py_socket_frame_encode(&frame, again);
    assert_memory_equal(again, golden, sizeof(again));
    if (frame.type != PY_SOCKET_READ) { /* whose payload is left out of the file */
        assert_int_equal(bytes, PY_SOCKET_FRAME_BYTES + frame.table + frame.payload);
    }
    return frame;
}

static const uint8_t *table(void)
{
    return golden + PY_SOCKET_FRAME_BYTES;
}

static void test_hello(void **state)
{
    const struct py_socket_frame frame = head("hello");
    uint8_t again[PY_SOCKET_HELLO_BYTES];
    struct py_socket_greeting hello;

    (void)state;
    assert_int_equal(frame.type, PY_SOCKET_HELLO);
    assert_int_equal(py_socket_greeting_decode(table(), &hello), 0);
    assert_int_equal(hello.version, 1);
    assert_int_equal(hello.flags, PY_SOCKET_HAS_BUFFER | PY_SOCKET_HAS_CONTROL |
                                      PY_SOCKET_HAS_STORE | PY_SOCKET_READABLE |
                                      PY_SOCKET_WRITABLE | PY_SOCKET_CHUNKS);
    assert_int_equal(hello.token[15], 15);
    assert_int_equal(hello.incarnation, 0x1122334455667788);
    assert_int_equal(hello.expected, 0x99aabbccddeeff01);
    assert_int_equal(hello.buffer_bytes, 1 << 30);
    assert_int_equal(hello.align_bytes, 65536);
    py_socket_greeting_encode(&hello, again);
    assert_memory_equal(again, table(), sizeof(again));
}

static void test_ranges(void **state)
{
    struct py_socket_frame frame = head("read");
    struct py_socket_range range;

    (void)state;
    assert_int_equal(frame.id, 0x40);
    assert_int_equal(frame.count, 2);
    py_socket_range_decode(table() + PY_SOCKET_RANGE_BYTES, &range);
    assert_int_equal(range.offset, 3 << 20);
    assert_int_equal(range.length, 100);
    frame = head("read_reply");
    assert_int_equal(frame.flags, PY_SOCKET_REPLY);
    assert_int_equal(frame.payload, 65636);
    frame = head("write");
    assert_int_equal(frame.payload, 8);
    frame = head("write_reply");
    assert_int_equal(frame.status, 0);
    frame = head("send");
    assert_int_equal(frame.count, 1);
    frame = head("send_given_up");
    assert_int_equal(frame.status, -ECANCELED);
    frame = head("send_reply");
    assert_int_equal(frame.status, -EINVAL);
}

static void test_small_ones(void **state)
{
    (void)state;
    assert_int_equal(head("cancel").id, 0x40);
    assert_int_equal(head("goodbye").type, PY_SOCKET_GOODBYE);
    assert_int_equal(head("error").status, -EACCES);
}

static void test_lookup(void **state)
{
    const struct py_socket_frame frame = head("lookup");
    uint8_t again[64];
    struct kvl_key key;
    size_t at = 0;

    (void)state;
    assert_int_equal(frame.count, 2);
    assert_int_equal(py_socket_key_decode(table(), frame.table, &at, &key), 0);
    assert_memory_equal(key.text, "model@1@0@abc@half", key.length);
    assert_int_equal(py_socket_key_encode(&key, again, sizeof(again)), at);
    assert_memory_equal(again, table(), at);
    assert_int_equal(py_socket_key_encode(&key, again, at - 1), 0);
    assert_int_equal(py_socket_key_decode(table(), frame.table, &at, &key), 0);
    assert_int_equal(at, frame.table);
    assert_int_equal(py_socket_key_decode(table(), frame.table, &at, &key), -EPROTO);
    assert_int_equal(head("lookup_reply").table, 1);
}

static void test_get(void **state)
{
    struct py_socket_frame frame = head("get");
    uint8_t again[PY_SOCKET_WISH_BYTES + 2 + KVL_KEY_MAX];
    struct py_socket_wish wish;
    struct py_socket_found found;
    size_t at = 0;

    (void)state;
    assert_int_equal(py_socket_wish_decode(table(), frame.table, &at, &wish), 0);
    assert_int_equal(wish.bytes, 1 << 20);
    assert_int_equal(wish.checksum, 0x0123456789abcdef);
    assert_int_equal(wish.attrs.shape[3], 16);
    assert_int_equal(wish.flags, KVL_CHUNK_EXPECT_ATTRS | KVL_CHUNK_HAS_CHECKSUM);
    assert_int_equal(py_socket_wish_encode(&wish, again, sizeof(again)), frame.table);
    assert_memory_equal(again, table(), frame.table);

    frame = head("get_reply");
    assert_int_equal(frame.count, 3);
    assert_int_equal(frame.payload, 5);
    assert_int_equal(py_socket_found_decode(table(), &found), 0);
    assert_int_equal(found.flags, KVL_CHUNK_HAS_CHECKSUM | PY_SOCKET_FOUND_MAPPED);
    assert_int_equal(found.slot, 7);
    assert_int_equal(found.generation, 5);
    assert_int_equal(found.offset, 65536);
    assert_int_equal(py_socket_found_decode(table() + PY_SOCKET_FOUND_BYTES, &found), 0);
    assert_int_equal(found.status, -ENOENT);
    assert_int_equal(py_socket_found_decode(table() + 2 * PY_SOCKET_FOUND_BYTES, &found), 0);
    assert_int_equal(found.bytes, 5);
    assert_int_equal(head("release").table, PY_SOCKET_SLOT_BYTES);
}

/* ---- what no peer may send ---- */

static int decode(const char *name, size_t at, uint8_t value)
{
    struct py_socket_frame frame = {.type = 99};
    int r;

    (void)load(name);
    golden[at] = value;
    r = py_socket_frame_decode(golden, &frame);
    if (r < 0) {
        assert_int_equal(frame.type, 99);
    }
    return r;
}

static void test_bad_heads(void **state)
{
    (void)state;
    assert_int_equal(decode("read", 0, 'X'), -EPROTO); /* magic */
    assert_int_equal(decode("read", 2, 0), -EPROTO); /* type */
    assert_int_equal(decode("read", 2, 12), -EPROTO);
    assert_int_equal(decode("read", 3, 2), -EPROTO); /* flags */
    assert_int_equal(decode("read", 4, 1), -EPROTO); /* a positive status */
    assert_int_equal(decode("read_reply", 7, 0x80), -EPROTO); /* no errno */
    assert_int_equal(decode("read", 16, 3), -EPROTO); /* more entries than the table holds */
    assert_int_equal(decode("read", 16, 1), -EPROTO);
    assert_int_equal(decode("read", 18, 2), -EMSGSIZE); /* more entries than any frame */
    assert_int_equal(decode("read", 20, 31), -EPROTO); /* half an entry */
    assert_int_equal(decode("read", 24, 1), -EPROTO); /* a payload it has not */
    assert_int_equal(decode("write", 31, 1), -EMSGSIZE); /* more than any payload */
    assert_int_equal(decode("lookup", 17, 8), -EMSGSIZE);
    assert_int_equal(decode("lookup", 22, 1), -EPROTO);
    assert_int_equal(decode("lookup_reply", 20, 2), -EPROTO);
    assert_int_equal(decode("get_reply", 20, 65), -EPROTO);
    assert_int_equal(decode("cancel", 16, 1), -EPROTO);
    assert_int_equal(decode("hello", 16, 2), -EPROTO);
    assert_int_equal(decode("hello", 20, 95), -EPROTO);
}

static int decode_hello(size_t at, uint8_t value)
{
    struct py_socket_greeting hello;

    (void)load("hello");
    golden[PY_SOCKET_FRAME_BYTES + at] = value;
    return py_socket_greeting_decode(table(), &hello);
}

static void test_bad_tables(void **state)
{
    struct py_socket_found found;
    struct py_socket_wish wish;
    size_t at = 0;

    (void)state;
    assert_int_equal(decode_hello(0, 0), -EPROTO); /* version 0 */
    assert_int_equal(decode_hello(4, 2), -EPROTO); /* lowest above highest */
    assert_int_equal(decode_hello(55, 0xff), -EPROTO); /* a buffer beyond any memory */
    assert_int_equal(decode_hello(63, 0xff), -EPROTO);
    assert_int_equal(decode_hello(48, 1), -EPROTO); /* no multiple of the alignment */
    assert_int_equal(decode_hello(66, 0), -EPROTO); /* no alignment */

    (void)load("get");
    golden[PY_SOCKET_FRAME_BYTES + 40] = 0x80; /* flags */
    assert_int_equal(py_socket_wish_decode(table(), 68, &at, &wish), -EPROTO);
    (void)load("get");
    golden[PY_SOCKET_FRAME_BYTES + 48] = 151; /* longer than a key */
    assert_int_equal(py_socket_wish_decode(table(), 68, &at, &wish), -EPROTO);
    assert_int_equal(at, 0);

    (void)load("get_reply");
    golden[PY_SOCKET_FRAME_BYTES + 52] = 0; /* mapped without a generation */
    assert_int_equal(py_socket_found_decode(table(), &found), -EPROTO);
    (void)load("get_reply");
    golden[PY_SOCKET_FRAME_BYTES + PY_SOCKET_FOUND_BYTES + 8] = 1; /* a miss with bytes */
    assert_int_equal(py_socket_found_decode(table() + PY_SOCKET_FOUND_BYTES, &found), -EPROTO);
}

static void test_versions(void **state)
{
    (void)state;
    assert_int_equal(py_socket_version_pick(1, 1, 1, 1), 1);
    assert_int_equal(py_socket_version_pick(3, 1, 2, 2), 2);
    assert_int_equal(py_socket_version_pick(5, 2, 3, 1), 3);
    assert_int_equal(py_socket_version_pick(3, 3, 2, 1), 0);
    assert_int_equal(py_socket_version_pick(1, 1, 3, 2), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hello),      cmocka_unit_test(test_ranges),
        cmocka_unit_test(test_small_ones), cmocka_unit_test(test_lookup),
        cmocka_unit_test(test_get),        cmocka_unit_test(test_bad_heads),
        cmocka_unit_test(test_bad_tables), cmocka_unit_test(test_versions),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
