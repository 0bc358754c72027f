/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Both decoders of segment files; what decodes must be within the limits and encode to the same
 * bytes. As no fuzzer finds a checksum, each input is also tried with the right one put in.
 */
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "disk_record.h"

#define ID 0x1122334455667788ull
#define SUM_AT 56u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int ok)
{
    if (!ok) {
        abort();
    }
}

static void put_sum(uint8_t *bytes, uint64_t sum)
{
    for (int i = 0; i < 8; i++) {
        bytes[SUM_AT + i] = (uint8_t)(sum >> 8 * i);
    }
}

static void fuzz_file_head(const uint8_t *bytes)
{
    struct disk_file_head head;
    struct disk_file_head again;
    uint8_t encoded[DISK_FILE_HEAD_BYTES];

    if (disk_file_head_decode(bytes, &head) == 0) {
        disk_file_head_encode(&head, encoded);
        check(disk_file_head_decode(encoded, &again) == 0);
        check(again.number == head.number && again.id == head.id);
    }
}

static void fuzz_record(const uint8_t *data, size_t size)
{
    struct disk_record record;
    uint8_t encoded[DISK_HEAD_MAX];
    int n;

    if (disk_record_decode(data, size, ID, &record) < 0) {
        return;
    }
    check(record.key.length <= KVL_KEY_MAX && record.bytes <= DISK_PAYLOAD_MAX);
    check(record.kind == DISK_CHUNK || record.bytes == 0);
    check((record.kind == DISK_END) == (record.key.length == 0));
    check(DISK_RECORD_HEAD_BYTES + record.key.length <= size);
    n = disk_record_encode(&record, ID, encoded);
    check(n == (int)disk_head_bytes(record.key.length));
    check(memcmp(encoded, data, DISK_RECORD_HEAD_BYTES + record.key.length) == 0);
    check(disk_record_bytes(record.key.length, record.bytes) >= (uint64_t)n + record.bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *bytes = malloc(size == 0 ? 1 : size); /* of just that size, for the sanitizer */
    uint64_t sum;

    if (bytes == NULL) {
        return 0;
    }
    memcpy(bytes, data, size);
    fuzz_record(bytes, size);
    if (size >= DISK_RECORD_HEAD_BYTES) {
        fuzz_file_head(bytes);
        put_sum(bytes, XXH3_64bits(bytes, SUM_AT));
        fuzz_file_head(bytes);
        sum = XXH3_64bits_withSeed(bytes, SUM_AT, ID);
        if (bytes[3] > 0 && DISK_RECORD_HEAD_BYTES + (size_t)bytes[3] <= size) {
            sum = XXH3_64bits_withSeed(bytes + DISK_RECORD_HEAD_BYTES, bytes[3], sum);
        }
        put_sum(bytes, sum);
        fuzz_record(bytes, size);
    }
    free(bytes);
    return 0;
}
