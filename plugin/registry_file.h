/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file registry_file.h
 * The bytes of a saved registry, as pure functions. All integers are little endian.
 *
 *   head    32 bytes: magic, version, time, checksum
 *   blocks  16 bytes each (kind, length, checksum) and up to 256 KiB; workers first, then keys, and
 *           one that says how many of each there were, which is the end of the file
 *
 * The checksum of a block is seeded with that of what stands before it, so that a block that is
 * missing, doubled or of another file is found out like a flipped bit.
 */
#ifndef KVL_PLUGIN_REGISTRY_FILE_H
#define KVL_PLUGIN_REGISTRY_FILE_H

#include <kvlane/registry.h>

#define KVL_REGFILE_HEAD_BYTES 32u
#define KVL_REGFILE_BLOCK_HEAD_BYTES 16u
#define KVL_REGFILE_BLOCK_MAX (256u << 10)
#define KVL_REGFILE_END_BYTES 24u
/** Bytes of a worker without its locations, at most; of a location; of a key. */
#define KVL_REGFILE_WORKER_MAX (52u + 3u * KVL_NAME_ROOM)
#define KVL_REGFILE_LOCATION_MAX (16u + KVL_NAME_ROOM)
#define KVL_REGFILE_KEY_MAX 13u

enum kvl_regfile_kind {
    KVL_REGFILE_WORKERS = 1,
    KVL_REGFILE_KEYS = 2,
    KVL_REGFILE_END = 3,
};

struct kvl_regfile_block {
    uint32_t kind;
    uint32_t length;
    uint64_t checksum;
};

struct kvl_regfile_end {
    uint64_t workers;
    uint64_t locations;
    uint64_t keys;
};

struct kvl_regfile_worker {
    struct kvl_worker_desc desc; /* decoded: its texts point into the bytes that were given */
    double registration_time;
    double heartbeat_time;
    uint64_t gaps;
    uint32_t has_heartbeat;
    uint32_t sync_state; /* KVL_SYNC_, not SYNCING */
    uint32_t location_count; /* these follow, in the order of the worker */
};

struct kvl_regfile_location {
    struct kvl_text name;
    int64_t last_seq;
    uint32_t has_seq;
    uint32_t has_keys;
};

struct kvl_regfile_key {
    struct kvl_chunk_id id;
    uint32_t location; /* number: in the order in which they stand in the file, from 0 */
};

/** Where a decoder stands in a block, and the id of the key before. */
struct kvl_regfile_cursor {
    const uint8_t *at;
    const uint8_t *end;
    struct kvl_chunk_id id;
    uint32_t has_id;
};

void kvl_regfile_head_encode(double unix_time, uint8_t bytes_out[KVL_REGFILE_HEAD_BYTES]);

/** @param checksum_out  what the first block is seeded with. @return 0; -EBADMSG, also version. */
int kvl_regfile_head_decode(const uint8_t bytes[KVL_REGFILE_HEAD_BYTES], uint64_t *checksum_out);

/** Checksum of a block behind one (or a head) with checksum `before`. */
uint64_t kvl_regfile_checksum(uint64_t before, uint32_t kind, const uint8_t *payload,
                              uint32_t length);

void kvl_regfile_block_encode(const struct kvl_regfile_block *block,
                              uint8_t bytes_out[KVL_REGFILE_BLOCK_HEAD_BYTES]);

/** Does not look at the checksum. @return 0; -EBADMSG unknown kind, or over the limit. */
int kvl_regfile_block_decode(const uint8_t bytes[KVL_REGFILE_BLOCK_HEAD_BYTES],
                             struct kvl_regfile_block *block_out);

void kvl_regfile_end_encode(const struct kvl_regfile_end *end,
                            uint8_t bytes_out[KVL_REGFILE_END_BYTES]);
void kvl_regfile_end_decode(const uint8_t bytes[KVL_REGFILE_END_BYTES],
                            struct kvl_regfile_end *end_out);

/** The names must be within their limits. @return bytes written. */
uint32_t kvl_regfile_worker_encode(const struct kvl_regfile_worker *worker, uint8_t *bytes_out);
uint32_t kvl_regfile_location_encode(const struct kvl_regfile_location *location,
                                     uint8_t *bytes_out);

/** @param before  the key before in the same block, or NULL */
uint32_t kvl_regfile_key_encode(const struct kvl_regfile_key *key,
                                const struct kvl_chunk_id *before, uint8_t *bytes_out);

/* What follows in a block. @return 1; 0 the block ends here; -EBADMSG. */
int kvl_regfile_worker_next(struct kvl_regfile_cursor *cursor,
                            struct kvl_regfile_worker *worker_out);
int kvl_regfile_location_next(struct kvl_regfile_cursor *cursor,
                              struct kvl_regfile_location *location_out);

/** @param locations  numbers are below it */
int kvl_regfile_key_next(struct kvl_regfile_cursor *cursor, uint64_t locations,
                         struct kvl_regfile_key *key_out);

#endif /* KVL_PLUGIN_REGISTRY_FILE_H */
