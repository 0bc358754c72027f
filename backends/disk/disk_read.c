/* SPDX-License-Identifier: Apache-2.0 */
#include "disk_read.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "disk_sg.h"

/* The chunk is of no use any more; all of them are counted, the first is told. */
static int read_damaged(struct disk_log *log, const struct disk_found *found)
{
    char name[DISK_NAME_MAX];

    disk_log_forget(log, found);
    disk_log_count(log, DISK_COUNT_CORRUPT, 1);
    if (!atomic_exchange(&log->warned_corrupt, true)) {
        disk_segment_name(found->segment->number, name);
        kvl_warn(log->host->log,
                 "disk: a chunk in '%s/%s' at %llu is damaged and dropped; more of them are only "
                 "counted",
                 log->options->path, name, (unsigned long long)found->place.unit * DISK_ALIGN);
    }
    return -EBADMSG;
}

/* What cannot be read now will not be later: a miss is cheaper than another try. */
static int read_failed(struct disk_log *log, const struct disk_found *found, int code)
{
    if (code == -ENODATA) { /* somebody cut the file */
        return read_damaged(log, found);
    }
    disk_log_forget(log, found);
    disk_log_count(log, DISK_COUNT_READ_ERRORS, 1);
    if (!atomic_exchange(&log->warned_read, true)) {
        kvl_warn(log->host->log,
                 "disk: cannot read from '%s': %s; such chunks are dropped, more of them are only "
                 "counted",
                 log->options->path, strerror(-code));
    }
    return -EIO;
}

int disk_read_head(struct disk_log *log, const struct disk_found *found, const struct kvl_key *key,
                   uint8_t bytes_out[DISK_HEAD_MAX], struct disk_record *record_out)
{
    const uint64_t offset = (uint64_t)found->place.unit * DISK_ALIGN;
    struct disk_record record;
    const ssize_t n = disk_file_peek(&log->io, found->segment->fd, bytes_out,
                                     DISK_RECORD_HEAD_BYTES + KVL_KEY_MAX, offset);

    if (n < 0) {
        return read_failed(log, found, (int)n);
    }
    if (disk_record_decode(bytes_out, (size_t)n, found->segment->id, &record) < 0 ||
        record.kind != DISK_CHUNK || record.bytes != found->place.bytes) {
        return read_damaged(log, found);
    }
    if (key != NULL && !kvl_key_equal(&record.key, key)) {
        disk_log_count(log, DISK_COUNT_COLLISIONS, 1);
        return -ENOENT;
    }
    *record_out = record;
    return 0;
}

static int read_expectations(const struct disk_op *op, const struct disk_item *item,
                             const struct disk_record *record)
{
    if ((op->has_sg || item->bytes != 0) && record->bytes != item->bytes) {
        return -EBADMSG;
    }
    if ((item->flags & KVL_CHUNK_EXPECT_ATTRS) != 0 &&
        memcmp(&record->attrs, &item->attrs, sizeof(record->attrs)) != 0) {
        return -EBADMSG;
    }
    if ((item->flags & KVL_CHUNK_HAS_CHECKSUM) != 0 && record->checksum != item->checksum) {
        return -EBADMSG;
    }
    return 0;
}

/* Fills `target_out` for a batch that leaves the choice of memory to the core. */
static int read_target(const struct disk_op *op, uint32_t item, const struct disk_record *record,
                       struct kvl_sg *target_out)
{
    const struct kvl_chunk found = {
        .key = op->items[item].key,
        .attrs = record->attrs,
        .bytes = record->bytes,
        .checksum = record->checksum,
        .flags = KVL_CHUNK_HAS_CHECKSUM,
    };
    void *addr = NULL;
    const int r = op->host->read_target(op->host, op->cookie, item, &found, &addr);

    if (r < 0) {
        return r;
    }
    *target_out = (struct kvl_sg){
        .addr = (uint64_t)(uintptr_t)addr,
        .length = record->bytes,
        .count = 1,
        .device = KVL_DEVICE_HOST,
    };
    return 0;
}

/* Each slice is summed while it is in the CPU's cache. */
static int read_payload(struct disk_log *log, const struct disk_op *op,
                        const struct disk_found *found, uint64_t offset, struct disk_sg *at,
                        uint64_t *checksum_out)
{
    XXH3_state_t state;
    struct iovec iov[DISK_RUNS];
    struct iovec used[DISK_RUNS];
    uint64_t bytes;
    int n;

    (void)XXH3_64bits_reset(&state);
    while ((n = disk_sg_take(at, iov, DISK_RUNS, DISK_SLICE, &bytes)) > 0) {
        int r = disk_op_code(op);

        if (r < 0) {
            return r;
        }
        memcpy(used, iov, (size_t)n * sizeof(*iov));
        r = disk_file_read(&log->io, found->segment->fd, used, n, offset);
        if (r < 0) {
            return read_failed(log, found, r);
        }
        for (int i = 0; i < n; i++) {
            (void)XXH3_64bits_update(&state, iov[i].iov_base, iov[i].iov_len);
        }
        offset += bytes;
    }
    *checksum_out = XXH3_64bits_digest(&state);
    return 0;
}

static int read_found(struct disk_log *log, const struct disk_op *op, uint32_t index,
                      const struct disk_found *found)
{
    const struct disk_item *item = &op->items[index];
    const uint64_t start = (uint64_t)found->place.unit * DISK_ALIGN;
    struct disk_record record;
    struct disk_sg at;
    struct kvl_sg target;
    uint8_t head[DISK_HEAD_MAX];
    uint64_t checksum;
    int r = disk_read_head(log, found, &item->key, head, &record);

    r = r < 0 ? r : read_expectations(op, item, &record);
    if (r < 0) {
        return r;
    }
    if (op->has_sg) {
        disk_sg_init(&at, item->sg, item->sg_count);
    } else {
        r = read_target(op, index, &record, &target);
        if (r < 0) {
            return r;
        }
        disk_sg_init(&at, &target, 1);
    }
    r = read_payload(log, op, found, start + disk_head_bytes(item->key.length), &at, &checksum);
    if (r < 0) {
        return r;
    }
    if (!log->options->page_cache) { /* who asked has it in memory now */
        (void)posix_fadvise(found->segment->fd, (off_t)start,
                            (off_t)disk_record_bytes(item->key.length, record.bytes),
                            POSIX_FADV_DONTNEED);
    }
    return checksum == record.checksum ? 0 : read_damaged(log, found);
}

int disk_read_chunk(struct disk_log *log, const struct disk_op *op, uint32_t item,
                    uint64_t *bytes_out)
{
    struct disk_found found;
    int r = disk_op_code(op);

    r = r < 0 ? r : disk_log_find(log, &op->items[item].key, &found);
    if (r == 0) {
        r = read_found(log, op, item, &found);
        disk_log_put_back(&found);
    }
    if (r == 0) {
        *bytes_out = found.place.bytes;
        disk_log_count(log, DISK_COUNT_HITS, 1);
        disk_log_count(log, DISK_COUNT_READ_BYTES, found.place.bytes);
    } else if (r == -ENOENT) {
        disk_log_count(log, DISK_COUNT_MISSES, 1);
    }
    return r;
}

/* ---- list ---- */

#define READ_KEYS 64u

struct read_keys {
    struct kvl_key keys[READ_KEYS];
    uint8_t heads[READ_KEYS][DISK_HEAD_MAX]; /* what the keys point into */
    uint32_t count;
};

static int read_keys_flush(const struct disk_op *op, struct read_keys *keys)
{
    int r = 0;

    if (keys->count > 0) {
        r = op->host->list_add(op->host, op->cookie, keys->keys, keys->count);
        keys->count = 0;
    }
    return r;
}

static int read_key(struct disk_log *log, const struct disk_op *op, const struct disk_place *place,
                    struct read_keys *keys)
{
    const ssize_t length = DISK_RECORD_HEAD_BYTES + KVL_KEY_MAX;
    uint8_t *head = keys->heads[keys->count];
    struct disk_segment *segment = disk_log_segment(log, place->segment);
    struct disk_record record;
    ssize_t n;

    if (segment == NULL) { /* expired meanwhile */
        return 0;
    }
    n = disk_file_peek(&log->io, segment->fd, head, (size_t)length,
                       (uint64_t)place->unit * DISK_ALIGN);
    if (n > 0 && disk_record_decode(head, (size_t)n, segment->id, &record) == 0) {
        keys->keys[keys->count++] = record.key;
    }
    disk_segment_release(segment);
    return keys->count == READ_KEYS ? read_keys_flush(op, keys) : 0;
}

int disk_read_list(struct disk_log *log, const struct disk_op *op)
{
    struct read_keys *keys = calloc(1, sizeof(*keys));
    struct disk_place *places = NULL;
    uint64_t count = 0;
    int r = keys == NULL ? -ENOMEM : disk_log_places(log, &places, &count);

    for (uint64_t i = 0; i < count && r == 0; i++) {
        r = disk_op_code(op);
        r = r < 0 ? r : read_key(log, op, &places[i], keys);
    }
    if (r == 0) {
        r = read_keys_flush(op, keys);
    }
    free(places);
    free(keys);
    return r;
}
