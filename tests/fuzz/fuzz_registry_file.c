/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every decoder of saved registries, with the input as what stands in a block. What decodes must be
 * within the limits and encode to the same bytes. As no fuzzer finds a checksum, the head is also
 * tried with the right one put in.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "hash.h"
#include "registry.h"
#include "registry_file.h"

#define LOCATIONS 1000u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int ok)
{
    if (!ok) {
        abort();
    }
}

static void check_text(struct kvl_text text)
{
    check(text.length <= KVL_NAME_MAX);
    check(text.length == 0 || memchr(text.text, '\0', text.length) == NULL);
}

static void check_same(const uint8_t *from, const struct kvl_regfile_cursor *cursor,
                       const uint8_t *encoded, uint32_t length)
{
    check((size_t)(cursor->at - from) == length && memcmp(from, encoded, length) == 0);
}

static int fuzz_locations(struct kvl_regfile_cursor *cursor, uint32_t count)
{
    uint8_t encoded[KVL_REGFILE_LOCATION_MAX];
    struct kvl_regfile_location location;
    int r = 1;

    while (r == 1 && count-- > 0) {
        const uint8_t *from = cursor->at;

        r = kvl_regfile_location_next(cursor, &location);
        if (r == 1) {
            check_text(location.name);
            check_same(from, cursor, encoded, kvl_regfile_location_encode(&location, encoded));
        }
    }
    return r;
}

static void fuzz_workers(const uint8_t *bytes, size_t size)
{
    struct kvl_regfile_cursor cursor = {.at = bytes, .end = bytes + size};
    uint8_t encoded[KVL_REGFILE_WORKER_MAX];
    struct kvl_regfile_worker worker;
    const uint8_t *from = cursor.at;

    while (kvl_regfile_worker_next(&cursor, &worker) == 1) {
        check_text(worker.desc.name.instance);
        check_text(worker.desc.ip);
        check_text(worker.desc.peer_url);
        check(worker.location_count <= KVL_REGISTRY_LOCATIONS_MAX);
        check(worker.sync_state <= KVL_SYNC_FAILED && worker.sync_state != KVL_SYNC_SYNCING);
        check(isfinite(worker.registration_time) && isfinite(worker.heartbeat_time));
        check_same(from, &cursor, encoded, kvl_regfile_worker_encode(&worker, encoded));
        if (fuzz_locations(&cursor, worker.location_count) != 1) {
            break;
        }
        from = cursor.at;
    }
    check(cursor.at >= bytes && cursor.at <= cursor.end);
}

static void fuzz_keys(const uint8_t *bytes, size_t size)
{
    struct kvl_regfile_cursor cursor = {.at = bytes, .end = bytes + size};
    uint8_t encoded[KVL_REGFILE_KEY_MAX];
    struct kvl_regfile_key key;
    struct kvl_chunk_id before;
    const uint8_t *from = cursor.at;
    int has_before = 0;

    while (kvl_regfile_key_next(&cursor, LOCATIONS, &key) == 1) {
        check(key.location < LOCATIONS && key.id.negative <= 1 && key.id.reserved == 0);
        check(!key.id.negative || key.id.bits >> 63 != 0);
        check_same(from, &cursor, encoded,
                   kvl_regfile_key_encode(&key, has_before ? &before : NULL, encoded));
        before = key.id;
        has_before = 1;
        from = cursor.at;
    }
    check(cursor.at >= bytes && cursor.at <= cursor.end);
}

static void fuzz_heads(const uint8_t *data, size_t size)
{
    uint8_t head[KVL_REGFILE_HEAD_BYTES] = {0};
    uint8_t encoded[KVL_REGFILE_BLOCK_HEAD_BYTES];
    struct kvl_regfile_block block;
    uint64_t sum;

    memcpy(head, data, size < sizeof(head) ? size : sizeof(head));
    (void)kvl_regfile_head_decode(head, &sum);
    if (kvl_regfile_block_decode(head, &block) == 0) {
        check(block.length > 0 && block.length <= KVL_REGFILE_BLOCK_MAX);
        kvl_regfile_block_encode(&block, encoded);
        check(memcmp(encoded, head, sizeof(encoded)) == 0);
    }
    sum = kvl_hash_bytes(head, sizeof(head) - 8);
    for (int i = 0; i < 8; i++) {
        head[sizeof(head) - 8 + i] = (uint8_t)(sum >> 8 * i);
    }
    if (kvl_regfile_head_decode(head, &sum) == 0) {
        check(memcmp(head, "KVLREG\r\n\1", 9) == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *bytes = malloc(size == 0 ? 1 : size); /* of just that size, for the sanitizer */

    if (bytes == NULL) {
        return 0;
    }
    if (size > 0) {
        memcpy(bytes, data, size);
    }
    fuzz_heads(bytes, size);
    fuzz_workers(bytes, size);
    fuzz_keys(bytes, size);
    free(bytes);
    return 0;
}
