/* SPDX-License-Identifier: Apache-2.0 */
#include "disk_record.h"

#include <errno.h>
#include <stdbool.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "cursor.h"

#define DISK_FILE_MAGIC 0x53564b7fu /* "\x7fKVS" */
#define DISK_RECORD_MAGIC 0x5256u /* "VR", the rest of the first word is kind and key length */
#define DISK_VERSION 1u

/* Both heads end in a checksum of all before it. */
#define DISK_SUMMED 56u

void disk_file_head_encode(const struct disk_file_head *head,
                           uint8_t bytes_out[DISK_FILE_HEAD_BYTES])
{
    struct kvl_writer out;

    kvl_writer_init(&out, bytes_out, DISK_FILE_HEAD_BYTES);
    kvl_writer_put_u32le(&out, DISK_FILE_MAGIC);
    kvl_writer_put_u32le(&out, DISK_VERSION);
    kvl_writer_put_u64le(&out, head->id);
    kvl_writer_put_u32le(&out, head->number);
    kvl_writer_put_fill(&out, 0, DISK_SUMMED - kvl_writer_written(&out));
    kvl_writer_put_u64le(&out, XXH3_64bits(bytes_out, DISK_SUMMED));
}

int disk_file_head_decode(const uint8_t bytes[DISK_FILE_HEAD_BYTES],
                          struct disk_file_head *head_out)
{
    struct kvl_cursor in;
    struct kvl_cursor sum;
    uint32_t magic;
    uint32_t version;

    kvl_cursor_init(&in, bytes, DISK_SUMMED);
    kvl_cursor_init(&sum, bytes + DISK_SUMMED, DISK_FILE_HEAD_BYTES - DISK_SUMMED);
    magic = kvl_cursor_get_u32le(&in);
    version = kvl_cursor_get_u32le(&in);
    if (magic != DISK_FILE_MAGIC) {
        return -EBADMSG;
    }
    if (version != DISK_VERSION) { /* before the checksum: it may be another one */
        return -EPROTONOSUPPORT;
    }
    if (kvl_cursor_get_u64le(&sum) != XXH3_64bits(bytes, DISK_SUMMED)) {
        return -EBADMSG;
    }
    head_out->id = kvl_cursor_get_u64le(&in);
    head_out->number = kvl_cursor_get_u32le(&in);
    return 0;
}

static uint64_t record_fill(uint64_t bytes)
{
    return (bytes + DISK_ALIGN - 1) / DISK_ALIGN * DISK_ALIGN;
}

uint32_t disk_head_bytes(uint32_t key_length)
{
    return (uint32_t)record_fill(DISK_RECORD_HEAD_BYTES + key_length);
}

uint64_t disk_record_bytes(uint32_t key_length, uint64_t payload_bytes)
{
    return disk_head_bytes(key_length) + record_fill(payload_bytes);
}

static bool record_is_sound(const struct disk_record *record)
{
    switch (record->kind) {
    case DISK_CHUNK:
        return record->key.length >= 1 && record->key.length <= KVL_KEY_MAX &&
               record->bytes <= DISK_PAYLOAD_MAX;
    case DISK_REMOVED:
        return record->key.length >= 1 && record->key.length <= KVL_KEY_MAX && record->bytes == 0;
    case DISK_END:
        return record->key.length == 0 && record->bytes == 0;
    default:
        return false;
    }
}

/* The key follows the checksum, so they are summed in two steps. */
static uint64_t record_sum(const uint8_t *bytes, const void *key, uint32_t key_length, uint64_t id)
{
    const uint64_t seed = XXH3_64bits_withSeed(bytes, DISK_SUMMED, id);

    return key_length == 0 ? seed : XXH3_64bits_withSeed(key, key_length, seed);
}

int disk_record_encode(const struct disk_record *record, uint64_t id,
                       uint8_t bytes_out[DISK_HEAD_MAX])
{
    const struct kvl_key *key = &record->key;
    struct kvl_writer out;

    if (!record_is_sound(record)) {
        return -EINVAL;
    }
    kvl_writer_init(&out, bytes_out, DISK_HEAD_MAX);
    kvl_writer_put_u8(&out, DISK_RECORD_MAGIC & 0xff);
    kvl_writer_put_u8(&out, DISK_RECORD_MAGIC >> 8);
    kvl_writer_put_u8(&out, (uint8_t)record->kind);
    kvl_writer_put_u8(&out, (uint8_t)key->length);
    kvl_writer_put_u32le(&out, 0); /* flags: none yet */
    kvl_writer_put_i32le(&out, record->attrs.fmt);
    kvl_writer_put_i32le(&out, record->attrs.dtype);
    for (int i = 0; i < 4; i++) {
        kvl_writer_put_i32le(&out, record->attrs.shape[i]);
    }
    kvl_writer_put_u64le(&out, record->bytes);
    kvl_writer_put_u64le(&out, record->sequence);
    kvl_writer_put_u64le(&out, record->checksum);
    kvl_writer_put_u64le(&out, record_sum(bytes_out, key->text, key->length, id));
    kvl_writer_put_bytes(&out, key->text, key->length);
    kvl_writer_put_fill(&out, 0, disk_head_bytes(key->length) - kvl_writer_written(&out));
    return (int)disk_head_bytes(key->length);
}

int disk_record_decode(const uint8_t *bytes, size_t length, uint64_t id,
                       struct disk_record *record_out)
{
    struct disk_record record = {0};
    struct kvl_cursor in;
    uint32_t magic;
    uint32_t flags;
    uint64_t sum;

    kvl_cursor_init(&in, bytes, length);
    magic = kvl_cursor_get_u8(&in);
    magic |= (uint32_t)kvl_cursor_get_u8(&in) << 8;
    record.kind = (enum disk_kind)kvl_cursor_get_u8(&in);
    record.key.length = kvl_cursor_get_u8(&in);
    flags = kvl_cursor_get_u32le(&in);
    record.attrs.fmt = kvl_cursor_get_i32le(&in);
    record.attrs.dtype = kvl_cursor_get_i32le(&in);
    for (int i = 0; i < 4; i++) {
        record.attrs.shape[i] = kvl_cursor_get_i32le(&in);
    }
    record.bytes = kvl_cursor_get_u64le(&in);
    record.sequence = kvl_cursor_get_u64le(&in);
    record.checksum = kvl_cursor_get_u64le(&in);
    sum = kvl_cursor_get_u64le(&in);
    if (kvl_cursor_failed(&in)) {
        return -ENODATA;
    }
    if (magic != DISK_RECORD_MAGIC || flags != 0 || !record_is_sound(&record)) {
        return -EBADMSG;
    }
    record.key.text = (const char *)kvl_cursor_get_bytes(&in, record.key.length);
    if (kvl_cursor_failed(&in)) {
        return -ENODATA;
    }
    if (sum != record_sum(bytes, record.key.text, record.key.length, id)) {
        return -EBADMSG;
    }
    *record_out = record;
    return 0;
}
