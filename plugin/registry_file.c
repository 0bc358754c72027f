/* SPDX-License-Identifier: Apache-2.0 */
#include "registry_file.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "hash.h"
#include "registry.h"

#define MAGIC "KVLREG\r\n"
#define VERSION 1u

#define WORKER_HAS_URL 1u
#define WORKER_HAS_HEARTBEAT 2u
#define LOCATION_HAS_SEQ 1u
#define LOCATION_HAS_KEYS 2u

#define KEY_SAME 1u /* the id of the key before */
#define KEY_NEGATIVE 2u

/* ---- integers ---- */

static void put(uint8_t *at, uint64_t value, uint32_t bytes)
{
    for (uint32_t i = 0; i < bytes; i++) {
        at[i] = (uint8_t)(value >> 8 * i);
    }
}

static uint64_t get(const uint8_t *at, uint32_t bytes)
{
    uint64_t value = 0;

    for (uint32_t i = 0; i < bytes; i++) {
        value |= (uint64_t)at[i] << 8 * i;
    }
    return value;
}

/* Reads on; the end of the block is an error that sticks. */
static uint64_t take(struct kvl_regfile_cursor *cursor, uint32_t bytes, bool *ok)
{
    uint64_t value;

    if (!*ok || (size_t)(cursor->end - cursor->at) < bytes) {
        *ok = false;
        return 0;
    }
    value = get(cursor->at, bytes);
    cursor->at += bytes;
    return value;
}

static struct kvl_text take_text(struct kvl_regfile_cursor *cursor, bool *ok)
{
    const uint32_t length = (uint32_t)take(cursor, 1, ok);
    struct kvl_text text = {.text = (const char *)cursor->at, .length = length};

    if (!*ok || (size_t)(cursor->end - cursor->at) < length ||
        memchr(text.text, '\0', length) != NULL) {
        *ok = false;
        return (struct kvl_text){0};
    }
    cursor->at += length;
    return text;
}

static double take_time(struct kvl_regfile_cursor *cursor, bool *ok)
{
    const uint64_t bits = take(cursor, 8, ok);
    double time;

    memcpy(&time, &bits, sizeof(time));
    *ok = *ok && isfinite(time);
    return time;
}

/* A writer to memory that is large enough. */
struct writer {
    uint8_t *begin;
    uint8_t *at;
};

static void give(struct writer *writer, uint64_t value, uint32_t bytes)
{
    put(writer->at, value, bytes);
    writer->at += bytes;
}

static void give_text(struct writer *writer, struct kvl_text text)
{
    give(writer, text.length, 1);
    if (text.length > 0) {
        memcpy(writer->at, text.text, text.length);
        writer->at += text.length;
    }
}

static void give_time(struct writer *writer, double time)
{
    uint64_t bits;

    memcpy(&bits, &time, sizeof(bits));
    give(writer, bits, 8);
}

/* ---- head, blocks, end ---- */

void kvl_regfile_head_encode(double unix_time, uint8_t bytes_out[KVL_REGFILE_HEAD_BYTES])
{
    struct writer writer = {.begin = bytes_out, .at = bytes_out};

    memcpy(writer.at, MAGIC, 8);
    writer.at += 8;
    give(&writer, VERSION, 4);
    give(&writer, 0, 4);
    give_time(&writer, unix_time);
    give(&writer, kvl_hash_bytes(bytes_out, KVL_REGFILE_HEAD_BYTES - 8), 8);
}

int kvl_regfile_head_decode(const uint8_t bytes[KVL_REGFILE_HEAD_BYTES], uint64_t *checksum_out)
{
    const uint64_t checksum = get(bytes + KVL_REGFILE_HEAD_BYTES - 8, 8);

    if (memcmp(bytes, MAGIC, 8) != 0 || get(bytes + 8, 4) != VERSION || get(bytes + 12, 4) != 0 ||
        checksum != kvl_hash_bytes(bytes, KVL_REGFILE_HEAD_BYTES - 8)) {
        return -EBADMSG;
    }
    *checksum_out = checksum;
    return 0;
}

uint64_t kvl_regfile_checksum(uint64_t before, uint32_t kind, const uint8_t *payload,
                              uint32_t length)
{
    uint8_t head[24];

    put(head, before, 8);
    put(head + 8, kind, 4);
    put(head + 12, length, 4);
    put(head + 16, kvl_hash_bytes(payload, length), 8);
    return kvl_hash_bytes(head, sizeof(head));
}

void kvl_regfile_block_encode(const struct kvl_regfile_block *block,
                              uint8_t bytes_out[KVL_REGFILE_BLOCK_HEAD_BYTES])
{
    put(bytes_out, block->kind, 4);
    put(bytes_out + 4, block->length, 4);
    put(bytes_out + 8, block->checksum, 8);
}

int kvl_regfile_block_decode(const uint8_t bytes[KVL_REGFILE_BLOCK_HEAD_BYTES],
                             struct kvl_regfile_block *block_out)
{
    const struct kvl_regfile_block block = {
        .kind = (uint32_t)get(bytes, 4),
        .length = (uint32_t)get(bytes + 4, 4),
        .checksum = get(bytes + 8, 8),
    };

    if (block.kind < KVL_REGFILE_WORKERS || block.kind > KVL_REGFILE_END ||
        block.length > KVL_REGFILE_BLOCK_MAX || block.length == 0 ||
        (block.kind == KVL_REGFILE_END && block.length != KVL_REGFILE_END_BYTES)) {
        return -EBADMSG;
    }
    *block_out = block;
    return 0;
}

void kvl_regfile_end_encode(const struct kvl_regfile_end *end,
                            uint8_t bytes_out[KVL_REGFILE_END_BYTES])
{
    put(bytes_out, end->workers, 8);
    put(bytes_out + 8, end->locations, 8);
    put(bytes_out + 16, end->keys, 8);
}

void kvl_regfile_end_decode(const uint8_t bytes[KVL_REGFILE_END_BYTES],
                            struct kvl_regfile_end *end_out)
{
    *end_out = (struct kvl_regfile_end){
        .workers = get(bytes, 8),
        .locations = get(bytes + 8, 8),
        .keys = get(bytes + 16, 8),
    };
}

/* ---- workers ---- */

uint32_t kvl_regfile_worker_encode(const struct kvl_regfile_worker *worker, uint8_t *bytes_out)
{
    const bool has_url = (worker->desc.flags & KVL_WORKER_HAS_PEER_URL) != 0;
    struct writer writer = {.begin = bytes_out, .at = bytes_out};

    give(&writer,
         (has_url ? WORKER_HAS_URL : 0) | (worker->has_heartbeat ? WORKER_HAS_HEARTBEAT : 0), 1);
    give(&writer, worker->sync_state, 1);
    give(&writer, worker->location_count, 2);
    give(&writer, (uint64_t)worker->desc.name.worker_id, 8);
    give(&writer, (uint64_t)worker->desc.port, 8);
    give(&writer, worker->desc.incarnation, 8);
    give_time(&writer, worker->registration_time);
    give_time(&writer, worker->heartbeat_time);
    give(&writer, worker->gaps, 8);
    give_text(&writer, worker->desc.name.instance);
    give_text(&writer, worker->desc.ip);
    if (has_url) {
        give_text(&writer, worker->desc.peer_url);
    }
    return (uint32_t)(writer.at - writer.begin);
}

static bool is_saved_state(uint32_t state)
{
    return state == KVL_SYNC_NONE || state == KVL_SYNC_COMPLETED || state == KVL_SYNC_FAILED;
}

int kvl_regfile_worker_next(struct kvl_regfile_cursor *cursor,
                            struct kvl_regfile_worker *worker_out)
{
    struct kvl_regfile_worker worker = {.desc = {.size = sizeof(worker.desc)}};
    bool ok = true;
    uint32_t flags;

    if (cursor->at == cursor->end) {
        return 0;
    }
    flags = (uint32_t)take(cursor, 1, &ok);
    worker.has_heartbeat = (flags & WORKER_HAS_HEARTBEAT) != 0;
    worker.sync_state = (uint32_t)take(cursor, 1, &ok);
    worker.location_count = (uint32_t)take(cursor, 2, &ok);
    worker.desc.name.worker_id = (int64_t)take(cursor, 8, &ok);
    worker.desc.port = (int64_t)take(cursor, 8, &ok);
    worker.desc.incarnation = take(cursor, 8, &ok);
    worker.registration_time = take_time(cursor, &ok);
    worker.heartbeat_time = take_time(cursor, &ok);
    worker.gaps = take(cursor, 8, &ok);
    worker.desc.name.instance = take_text(cursor, &ok);
    worker.desc.ip = take_text(cursor, &ok);
    if ((flags & WORKER_HAS_URL) != 0) {
        worker.desc.flags = KVL_WORKER_HAS_PEER_URL;
        worker.desc.peer_url = take_text(cursor, &ok);
    }
    if (!ok || (flags & ~(WORKER_HAS_URL | WORKER_HAS_HEARTBEAT)) != 0 ||
        !is_saved_state(worker.sync_state) || worker.location_count > KVL_REGISTRY_LOCATIONS_MAX) {
        return -EBADMSG;
    }
    *worker_out = worker;
    return 1;
}

uint32_t kvl_regfile_location_encode(const struct kvl_regfile_location *location,
                                     uint8_t *bytes_out)
{
    struct writer writer = {.begin = bytes_out, .at = bytes_out};

    give(&writer,
         (location->has_seq ? LOCATION_HAS_SEQ : 0) | (location->has_keys ? LOCATION_HAS_KEYS : 0),
         1);
    give(&writer, (uint64_t)location->last_seq, 8);
    give_text(&writer, location->name);
    return (uint32_t)(writer.at - writer.begin);
}

int kvl_regfile_location_next(struct kvl_regfile_cursor *cursor,
                              struct kvl_regfile_location *location_out)
{
    struct kvl_regfile_location location;
    bool ok = true;
    uint32_t flags;

    if (cursor->at == cursor->end) {
        return 0;
    }
    flags = (uint32_t)take(cursor, 1, &ok);
    location.has_seq = (flags & LOCATION_HAS_SEQ) != 0;
    location.has_keys = (flags & LOCATION_HAS_KEYS) != 0;
    location.last_seq = (int64_t)take(cursor, 8, &ok);
    location.name = take_text(cursor, &ok);
    if (!ok || (flags & ~(LOCATION_HAS_SEQ | LOCATION_HAS_KEYS)) != 0) {
        return -EBADMSG;
    }
    *location_out = location;
    return 1;
}

/* ---- keys ---- */

static bool same_id(const struct kvl_chunk_id *a, const struct kvl_chunk_id *b)
{
    return a->bits == b->bits && a->negative == b->negative;
}

/* A number of 7 bits a byte, the lowest first, then the id unless it is the one before. */
uint32_t kvl_regfile_key_encode(const struct kvl_regfile_key *key,
                                const struct kvl_chunk_id *before, uint8_t *bytes_out)
{
    const bool same = before != NULL && same_id(before, &key->id);
    struct writer writer = {.begin = bytes_out, .at = bytes_out};
    uint64_t tag = (uint64_t)key->location << 2;

    tag |= same ? KEY_SAME : key->id.negative ? KEY_NEGATIVE : 0;
    while (tag >= 0x80) {
        give(&writer, tag | 0x80, 1);
        tag >>= 7;
    }
    give(&writer, tag, 1);
    if (!same) {
        give(&writer, key->id.bits, 8);
    }
    return (uint32_t)(writer.at - writer.begin);
}

static uint64_t take_tag(struct kvl_regfile_cursor *cursor, bool *ok)
{
    uint64_t tag = 0;

    for (uint32_t shift = 0; shift < 35; shift += 7) {
        const uint64_t byte = take(cursor, 1, ok);

        tag |= (byte & 0x7f) << shift;
        if (byte < 0x80) {
            *ok = *ok && (byte > 0 || shift == 0); /* the shortest form is the only one */
            return tag;
        }
    }
    *ok = false;
    return 0;
}

int kvl_regfile_key_next(struct kvl_regfile_cursor *cursor, uint64_t locations,
                         struct kvl_regfile_key *key_out)
{
    struct kvl_chunk_id id = cursor->id;
    bool ok = true;
    uint64_t tag;

    if (cursor->at == cursor->end) {
        return 0;
    }
    tag = take_tag(cursor, &ok);
    if ((tag & KEY_SAME) != 0) {
        ok = ok && cursor->has_id && (tag & KEY_NEGATIVE) == 0;
    } else {
        id.bits = take(cursor, 8, &ok);
        id.negative = (tag & KEY_NEGATIVE) != 0;
        ok = ok && (!id.negative || id.bits >> 63 != 0) &&
             !(cursor->has_id && same_id(&id, &cursor->id));
    }
    if (!ok || tag >> 2 >= locations) {
        return -EBADMSG;
    }
    cursor->id = id;
    cursor->has_id = 1;
    *key_out = (struct kvl_regfile_key){.id = id, .location = (uint32_t)(tag >> 2)};
    return 1;
}
