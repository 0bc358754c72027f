/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file disk_record.h
 * The bytes of a segment file, as pure functions. All integers are little endian.
 *
 * A file is a head of 64 bytes and records, each at a multiple of 64. A record is a head of 64
 * bytes, the key, zeros up to a multiple of 64, the payload, zeros again. The checksum of a
 * record's head covers the key too and is seeded with the id of the file, so that neither bytes of
 * another file nor a payload that looks like a record can pass for one.
 */
#ifndef KVL_DISK_RECORD_H
#define KVL_DISK_RECORD_H

#include <kvlane/key.h>

#define DISK_ALIGN 64u
#define DISK_FILE_HEAD_BYTES 64u
#define DISK_RECORD_HEAD_BYTES 64u
/** Head and longest key, filled up. */
#define DISK_HEAD_MAX 256u
/** Longest payload: what the other transports can carry, too. */
#define DISK_PAYLOAD_MAX ((uint64_t)INT32_MAX)

enum disk_kind {
    DISK_CHUNK = 1,
    DISK_REMOVED = 2, /* a key, no payload: older records of it are void */
    DISK_END = 3 /* nothing but a sequence: the last record of a file that was closed */
};

struct disk_file_head {
    uint32_t number; /* as in the name of the file */
    uint64_t id; /* random */
};

struct disk_record {
    enum disk_kind kind;
    struct kvl_key key; /* decoded: points into the bytes that were given */
    struct kvl_attrs attrs;
    uint64_t bytes; /* of the payload */
    uint64_t sequence; /* grows from record to record */
    uint64_t checksum; /* XXH3-64 of the payload */
};

void disk_file_head_encode(const struct disk_file_head *head,
                           uint8_t bytes_out[DISK_FILE_HEAD_BYTES]);

/** @return 0; -EBADMSG not a segment, or damaged; -EPROTONOSUPPORT of another version. */
int disk_file_head_decode(const uint8_t bytes[DISK_FILE_HEAD_BYTES],
                          struct disk_file_head *head_out);

/** Bytes from the start of a record to its payload. */
uint32_t disk_head_bytes(uint32_t key_length);

/** Bytes of a record with all that fills it up. */
uint64_t disk_record_bytes(uint32_t key_length, uint64_t payload_bytes);

/**
 * Encodes what stands before the payload.
 * @param id  of the file
 * @return bytes written: disk_head_bytes(key length); -EINVAL when it breaks a rule of decode.
 */
int disk_record_encode(const struct disk_record *record, uint64_t id,
                       uint8_t bytes_out[DISK_HEAD_MAX]);

/**
 * Decodes what stands before the payload; holds it to the limits of keys and payloads.
 * @return 0; -ENODATA when `length` ends inside; -EBADMSG no record of this file.
 */
int disk_record_decode(const uint8_t *bytes, size_t length, uint64_t id,
                       struct disk_record *record_out);

#endif /* KVL_DISK_RECORD_H */
