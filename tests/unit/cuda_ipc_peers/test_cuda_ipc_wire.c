/* SPDX-License-Identifier: Apache-2.0 */
#include "cm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_ipc_wire.h"

struct bytes {
    uint8_t at[CUDA_IPC_WIRE_MAX];
    size_t length;
};

static struct bytes vector(const char *name)
{
    struct bytes bytes;
    char path[1024];
    FILE *file;

    (void)snprintf(path, sizeof(path), "%s/%s.bin", KVL_VECTORS, name);
    file = fopen(path, "rb");
    assert_non_null(file);
    bytes.length = fread(bytes.at, 1, sizeof(bytes.at), file);
    (void)fclose(file);
    return bytes;
}

static void check_bytes(const struct bytes *golden, const uint8_t *bytes, size_t length)
{
    assert_int_equal(length, golden->length);
    assert_memory_equal(bytes, golden->at, length);
}

static struct cuda_ipc_wire_message decoded(const struct bytes *bytes, uint32_t type)
{
    struct cuda_ipc_wire_message message;

    assert_int_equal(cuda_ipc_wire_decode(bytes->at, bytes->length, &message), 0);
    assert_int_equal(message.type, type);
    return message;
}

static struct cuda_ipc_wire_peer peer(void)
{
    struct cuda_ipc_wire_peer peer = {.who = {4242, 4026531836u, 987654}};

    for (uint8_t i = 0; i < 16; i++) {
        peer.instance[i] = i;
    }
    return peer;
}

static void test_hello(void **state)
{
    const struct bytes golden = vector("hello");
    const struct cuda_ipc_wire_message message = decoded(&golden, CUDA_IPC_HELLO);
    struct cuda_ipc_wire_hello hello = {
        .version = CUDA_IPC_WIRE_VERSION, .device_count = 2, .peer = peer()};
    struct cuda_ipc_wire_hello back;
    uint8_t bytes[CUDA_IPC_WIRE_MAX];

    (void)state;
    for (uint8_t i = 0; i < 16; i++) {
        hello.uuids[0].bytes[i] = (char)(0x10 + i);
        hello.uuids[1].bytes[i] = (char)(0x80 + i);
    }
    check_bytes(&golden, bytes, cuda_ipc_wire_put_hello(&hello, bytes));
    cuda_ipc_wire_get_hello(&message, &back);
    assert_memory_equal(&back, &hello, sizeof(hello));
}

/* Its rest may look any way, so that its sender can be told why. */
static void test_hello_of_another_version(void **state)
{
    struct bytes bytes = vector("hello");
    struct cuda_ipc_wire_message message;
    struct cuda_ipc_wire_hello hello;

    (void)state;
    bytes.at[20] = 2;
    bytes.at[24] = 0xff;
    assert_int_equal(cuda_ipc_wire_decode(bytes.at, bytes.length, &message), 0);
    cuda_ipc_wire_get_hello(&message, &hello);
    assert_int_equal(hello.version, 2);
    assert_int_equal(hello.device_count, 0);
}

static void test_small_ones(void **state)
{
    const struct bytes refused = vector("refused");
    const struct bytes bye = vector("bye");
    uint8_t bytes[CUDA_IPC_WIRE_MAX];

    (void)state;
    assert_int_equal(decoded(&refused, CUDA_IPC_REFUSED).code, -EACCES);
    check_bytes(&refused, bytes, cuda_ipc_wire_put_refused(-EACCES, bytes));
    (void)decoded(&bye, CUDA_IPC_BYE);
    check_bytes(&bye, bytes, cuda_ipc_wire_put_bye(bytes));
}

static void test_keys(void **state)
{
    const struct bytes golden = vector("lookup");
    const struct bytes lease = vector("lease");
    const struct cuda_ipc_wire_message message = decoded(&golden, CUDA_IPC_LOOKUP);
    struct kvl_key back[CUDA_IPC_WIRE_KEYS_MAX];
    char longest[KVL_KEY_MAX + 1];
    uint8_t bytes[CUDA_IPC_WIRE_MAX];
    struct kvl_key keys[3];

    (void)state;
    memset(longest, 'k', KVL_KEY_MAX);
    longest[KVL_KEY_MAX] = '\0';
    keys[0] = kvl_key_from_text("m@1@0@-1f@half");
    keys[1] = kvl_key_from_text(longest);
    keys[2] = kvl_key_from_text("\nx");
    check_bytes(&golden, bytes, cuda_ipc_wire_put_keys(CUDA_IPC_LOOKUP, 7, keys, 3, bytes));
    check_bytes(&lease, bytes, cuda_ipc_wire_put_keys(CUDA_IPC_LEASE, 8, keys, 1, bytes));
    assert_int_equal(message.count, 3);
    assert_int_equal(message.request, 7);
    cuda_ipc_wire_get_keys(&message, back);
    for (size_t i = 0; i < 3; i++) {
        assert_true(kvl_key_equal(&keys[i], &back[i]));
    }
}

static void test_longest_messages_fit(void **state)
{
    static struct cuda_ipc_wire_lease leases[CUDA_IPC_WIRE_KEYS_MAX];
    static uint64_t numbers[CUDA_IPC_WIRE_RELEASE_MAX];
    struct kvl_key keys[CUDA_IPC_WIRE_KEYS_MAX];
    char longest[KVL_KEY_MAX];
    static struct bytes bytes;

    (void)state;
    memset(longest, 'k', sizeof(longest));
    for (size_t i = 0; i < CUDA_IPC_WIRE_KEYS_MAX; i++) {
        keys[i] = (struct kvl_key){.text = longest, .length = sizeof(longest)};
        leases[i] = (struct cuda_ipc_wire_lease){.bytes = 1, .lease = UINT64_MAX};
    }
    bytes.length =
        cuda_ipc_wire_put_keys(CUDA_IPC_LEASE, 1, keys, CUDA_IPC_WIRE_KEYS_MAX, bytes.at);
    assert_int_equal(decoded(&bytes, CUDA_IPC_LEASE).count, CUDA_IPC_WIRE_KEYS_MAX);
    bytes.length = cuda_ipc_wire_put_leased(1, leases, CUDA_IPC_WIRE_KEYS_MAX, bytes.at);
    assert_int_equal(decoded(&bytes, CUDA_IPC_LEASED).count, CUDA_IPC_WIRE_KEYS_MAX);
    bytes.length = cuda_ipc_wire_put_release(numbers, CUDA_IPC_WIRE_RELEASE_MAX, bytes.at);
    assert_int_equal(decoded(&bytes, CUDA_IPC_RELEASE).count, CUDA_IPC_WIRE_RELEASE_MAX);
}

static void test_found(void **state)
{
    const struct bytes golden = vector("found");
    const struct cuda_ipc_wire_message message = decoded(&golden, CUDA_IPC_FOUND);
    const uint8_t found[10] = {1, 0, 1, 0, 0, 1, 0, 1, 0, 1};
    uint8_t bytes[CUDA_IPC_WIRE_MAX];

    (void)state;
    check_bytes(&golden, bytes, cuda_ipc_wire_put_found(7, found, 10, bytes));
    assert_int_equal(message.count, 10);
    for (uint32_t i = 0; i < 10; i++) {
        assert_int_equal(message.bits[i / 8] >> i % 8 & 1, found[i]);
    }
}

static void test_segment(void **state)
{
    const struct bytes golden = vector("segment");
    const struct cuda_ipc_wire_message message = decoded(&golden, CUDA_IPC_SEGMENT);
    struct cuda_ipc_wire_segment segment = {
        .number = 3,
        .share = {.type = CUDA_IPC_SHARE_LEGACY,
                  .base = 0x7f0000000000ull,
                  .length = 0x10000000,
                  .buffer_id = 55},
    };
    struct cuda_ipc_wire_segment back;
    uint8_t bytes[CUDA_IPC_WIRE_MAX];

    (void)state;
    for (uint8_t i = 0; i < 16; i++) {
        segment.share.uuid.bytes[i] = (char)(0x10 + i);
    }
    for (uint8_t i = 0; i < 64; i++) {
        segment.share.handle[i] = (uint8_t)(0x40 + i);
    }
    check_bytes(&golden, bytes, cuda_ipc_wire_put_segment(&segment, bytes));
    cuda_ipc_wire_get_segment(&message, &back);
    assert_memory_equal(&back.share, &segment.share, sizeof(segment.share));
    assert_int_equal(back.number, 3);
}

static void test_leased(void **state)
{
    const struct bytes golden = vector("leased");
    const struct cuda_ipc_wire_message message = decoded(&golden, CUDA_IPC_LEASED);
    const struct cuda_ipc_wire_lease leases[3] = {
        {.segment = 3,
         .offset = 4096,
         .bytes = 1048576,
         .attrs = {KVL_FMT_KV_2LTD, KVL_DTYPE_BFLOAT16, {2, 32, 256, 1024}},
         .flags = KVL_CHUNK_HAS_CHECKSUM,
         .checksum = 0x1122334455667788ull,
         .lease = 0x900000001ull},
        {.status = -ENOENT},
        {.status = -EAGAIN},
    };
    struct cuda_ipc_wire_lease back[CUDA_IPC_WIRE_KEYS_MAX];
    uint8_t bytes[CUDA_IPC_WIRE_MAX];

    (void)state;
    check_bytes(&golden, bytes, cuda_ipc_wire_put_leased(8, leases, 3, bytes));
    assert_int_equal(message.count, 3);
    cuda_ipc_wire_get_leases(&message, back);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(back[i].status, leases[i].status);
        assert_int_equal(back[i].segment, leases[i].segment);
        assert_int_equal(back[i].offset, leases[i].offset);
        assert_int_equal(back[i].bytes, leases[i].bytes);
        assert_memory_equal(&back[i].attrs, &leases[i].attrs, sizeof(struct kvl_attrs));
        assert_int_equal(back[i].flags, leases[i].flags);
        assert_true(back[i].checksum == leases[i].checksum);
        assert_true(back[i].lease == leases[i].lease);
    }
}

static void test_release(void **state)
{
    const struct bytes golden = vector("release");
    const struct cuda_ipc_wire_message message = decoded(&golden, CUDA_IPC_RELEASE);
    const uint64_t leases[2] = {0x900000001ull, 0x100000002ull};
    uint64_t back[CUDA_IPC_WIRE_RELEASE_MAX];
    uint8_t bytes[CUDA_IPC_WIRE_MAX];

    (void)state;
    check_bytes(&golden, bytes, cuda_ipc_wire_put_release(leases, 2, bytes));
    assert_int_equal(message.count, 2);
    cuda_ipc_wire_get_released(&message, back);
    assert_memory_equal(back, leases, sizeof(leases));
}

static void test_offer(void **state)
{
    const struct bytes golden = vector("offer");
    struct cuda_ipc_wire_offer offer = {.peer = peer(), .address_length = 7};
    struct cuda_ipc_wire_offer back;
    uint8_t bytes[KVL_OFFER_MAX];

    (void)state;
    memcpy(offer.address, "\0kvlane", 7);
    for (uint8_t i = 0; i < 16; i++) {
        offer.boot[i] = (uint8_t)(0xf0 + i);
    }
    check_bytes(&golden, bytes, cuda_ipc_wire_put_offer(&offer, bytes));
    assert_int_equal(cuda_ipc_wire_get_offer(golden.at, golden.length, &back), 0);
    assert_memory_equal(&back, &offer, sizeof(offer));
    for (size_t n = 0; n < golden.length; n++) {
        assert_true(cuda_ipc_wire_get_offer(golden.at, n, &back) < 0);
    }
    memcpy(bytes, golden.at, golden.length);
    bytes[4] = 2;
    assert_int_equal(cuda_ipc_wire_get_offer(bytes, golden.length, &back), -ENOTSUP);
}

/* Cut short or with a byte too many nothing is taken, and nothing is written. */
static void test_every_length_but_the_right_one_is_refused(void **state)
{
    static const char *const names[] = {"hello", "refused", "bye",    "lookup", "found",
                                        "lease", "segment", "leased", "release"};
    struct cuda_ipc_wire_message message = {.type = 77};

    (void)state;
    for (size_t v = 0; v < sizeof(names) / sizeof(names[0]); v++) {
        struct bytes bytes = vector(names[v]);

        for (size_t n = 0; n <= bytes.length + 1; n++) {
            uint8_t *copy = malloc(n == 0 ? 1 : n); /* just as long, for the sanitizer */

            memset(copy, 0, n == 0 ? 1 : n);
            memcpy(copy, bytes.at, n < bytes.length ? n : bytes.length);
            if (n >= 8) {
                copy[4] = (uint8_t)n; /* also when the head agrees */
                copy[5] = (uint8_t)(n >> 8);
            }
            if (n != bytes.length) {
                assert_true(cuda_ipc_wire_decode(copy, n, &message) < 0);
                assert_int_equal(message.type, 77);
            }
            free(copy);
        }
    }
}

static int flipped(const char *name, size_t at, uint8_t value)
{
    struct bytes bytes = vector(name);
    struct cuda_ipc_wire_message message;

    assert_true(at < bytes.length);
    bytes.at[at] = value;
    return cuda_ipc_wire_decode(bytes.at, bytes.length, &message);
}

static void test_limits(void **state)
{
    (void)state;
    assert_int_equal(flipped("bye", 0, 10), -EPROTO); /* no such type */
    assert_int_equal(flipped("bye", 8, 1), -EPROTO); /* a request number */
    assert_int_equal(flipped("hello", 16, 0), -EPROTO); /* magic */
    assert_int_equal(flipped("hello", 24, 65), -EMSGSIZE); /* devices */
    assert_int_equal(flipped("refused", 16, 0), -EPROTO); /* no code */
    assert_int_equal(flipped("refused", 19, 0x80), -EPROTO); /* a negative one */
    assert_int_equal(flipped("lookup", 16, 0), -EPROTO); /* no keys */
    assert_int_equal(flipped("lookup", 17, 2), -EMSGSIZE); /* too many */
    assert_int_equal(flipped("lookup", 24, 0), -EPROTO); /* an empty one */
    assert_int_equal(flipped("lookup", 24, 151), -EPROTO); /* too long a one */
    assert_int_equal(flipped("found", 25, 0xfe), -EPROTO); /* bits of no key */
    assert_int_equal(flipped("segment", 17, 4), -EMSGSIZE); /* number 1027 */
    assert_int_equal(flipped("segment", 20, 0), -EPROTO); /* not shared */
    assert_int_equal(flipped("segment", 20, 3), -EPROTO); /* no such type */
    assert_int_equal(flipped("segment", 39, 0x80), -EPROTO); /* length */
    assert_int_equal(flipped("leased", 27, 0x80), -EPROTO); /* a negative code */
    assert_int_equal(flipped("leased", 39, 0xff), -EPROTO); /* offset + bytes */
    assert_int_equal(flipped("leased", 42, 0), -EPROTO); /* 0 bytes */
    assert_int_equal(flipped("leased", 72, 3), -EPROTO); /* an unknown flag */
    assert_int_equal(flipped("release", 17, 8), -EMSGSIZE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hello),
        cmocka_unit_test(test_hello_of_another_version),
        cmocka_unit_test(test_small_ones),
        cmocka_unit_test(test_keys),
        cmocka_unit_test(test_longest_messages_fit),
        cmocka_unit_test(test_found),
        cmocka_unit_test(test_segment),
        cmocka_unit_test(test_leased),
        cmocka_unit_test(test_release),
        cmocka_unit_test(test_offer),
        cmocka_unit_test(test_every_length_but_the_right_one_is_refused),
        cmocka_unit_test(test_limits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
