/* SPDX-License-Identifier: Apache-2.0 */
#include "disk_write.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "disk_append.h"
#include "disk_read.h"
#include "disk_sg.h"

/* How far back pages are looked for that the disk has by now. */
#define WRITE_BEHIND ((uint64_t)64 * 1024 * 1024)

/* ---- one record ---- */

struct write {
    struct disk_log *log;
    const struct disk_op *op; /* NULL for a removal */
    const struct disk_item *item; /* NULL likewise */
    struct disk_record record;
    bool summed; /* record.checksum is known */
};

static void write_sum(XXH3_state_t *state, const struct iovec *iov, int n)
{
    for (int i = 0; i < n; i++) {
        (void)XXH3_64bits_update(state, iov[i].iov_base, iov[i].iov_len);
    }
}

static uint64_t write_sum_chunk(const struct disk_item *item)
{
    XXH3_state_t state;
    struct iovec iov[DISK_RUNS];
    struct disk_sg at;
    uint64_t bytes;
    int n;

    (void)XXH3_64bits_reset(&state);
    disk_sg_init(&at, item->sg, item->sg_count);
    while ((n = disk_sg_take(&at, iov, DISK_RUNS, UINT64_MAX, &bytes)) > 0) {
        write_sum(&state, iov, n);
    }
    return XXH3_64bits_digest(&state);
}

/* Payload first and its head last: half a record of a process that was killed has no head. */
static int write_slices(struct write *write, uint64_t offset)
{
    struct disk_log *log = write->log;
    XXH3_state_t state;
    struct iovec iov[DISK_RUNS];
    struct disk_sg at;
    uint64_t bytes;
    int n;

    (void)XXH3_64bits_reset(&state);
    disk_sg_init(&at, write->item->sg, write->item->sg_count);
    while ((n = disk_sg_take(&at, iov, DISK_RUNS, DISK_SLICE, &bytes)) > 0) {
        int r = disk_op_code(write->op);

        if (!write->summed) {
            write_sum(&state, iov, n);
        }
        r = r < 0 ? r : disk_file_write(&log->io, log->active->fd, iov, n, offset);
        if (r < 0) {
            return r;
        }
        offset += bytes;
    }
    if (!write->summed) {
        write->record.checksum = XXH3_64bits_digest(&state);
    }
    return 0;
}

/* Writes the head, and the payload with it when it is a single slice. */
static int write_record(struct write *write)
{
    struct disk_log *log = write->log;
    struct disk_segment *active = log->active;
    struct iovec iov[1 + DISK_RUNS];
    struct disk_sg at;
    uint8_t head[DISK_HEAD_MAX];
    uint64_t bytes = 0;
    int n = 0;
    int r;

    if (write->item != NULL) {
        disk_sg_init(&at, write->item->sg, write->item->sg_count);
        n = disk_sg_take(&at, iov + 1, DISK_RUNS, DISK_SLICE, &bytes);
    }
    if (bytes != write->record.bytes) {
        r = write_slices(write, active->end + disk_head_bytes(write->record.key.length));
        n = 0;
    } else {
        r = 0;
        if (!write->summed) {
            write->record.checksum = write_sum_chunk(write->item);
        }
    }
    if (r == 0) {
        r = disk_record_encode(&write->record, active->id, head);
        iov[0] = (struct iovec){head, r < 0 ? 0 : (size_t)r};
    }
    if (r > 0) {
        r = disk_file_write(&log->io, active->fd, iov, 1 + n, active->end);
    }
    if (r == 0 && log->options->sync == DISK_SYNC_WRITE && fdatasync(active->fd) != 0) {
        r = -errno;
    }
    if (r < 0) { /* what was written of it takes room; the next record overwrites it anyway */
        (void)ftruncate(active->fd, (off_t)active->end);
    }
    return r;
}

/* ---- a disk that is full or fails ---- */

static int write_failed(struct disk_log *log, int code)
{
    const int r = code == -ENOSPC || code == -EDQUOT ? -ENOSPC : -EIO;

    disk_log_count(log, DISK_COUNT_WRITE_ERRORS, 1);
    if (atomic_exchange(&log->write_code, code) == 0) {
        kvl_warn(log->host->log,
                 "disk: cannot write to '%s': %s; what does not fit in memory is dropped until it "
                 "works again",
                 log->options->path, strerror(-code));
    }
    return r;
}

static void write_worked(struct disk_log *log)
{
    if (atomic_load_explicit(&log->write_code, memory_order_relaxed) != 0 &&
        atomic_exchange(&log->write_code, 0) != 0) {
        kvl_info(log->host->log, "disk: writing to '%s' works again", log->options->path);
    }
}

static bool write_is_full(int code)
{
    return code == -ENOSPC || code == -EDQUOT;
}

static int write_try(struct write *write, uint64_t need)
{
    int r = disk_append_make_room(write->log, need);

    /* only now: what was kept meanwhile stands before it, and sequences grow along the file */
    write->record.sequence = ++write->log->sequence;
    return r < 0 ? r : write_record(write);
}

/* Appends a record; a disk that others filled gets room once, from the oldest segment. */
static int write_append(struct write *write)
{
    struct disk_log *log = write->log;
    const uint64_t need = disk_record_bytes(write->record.key.length, write->record.bytes);
    int r;

    r = write_try(write, need);
    if (write_is_full(r) && atomic_load(&log->write_code) == 0 && disk_log_expire(log)) {
        r = write_try(write, need);
    }
    if (r == -ECANCELED || r == -ETIMEDOUT || r == -ENOMEM) {
        return r;
    }
    if (r < 0) {
        return write_failed(log, r);
    }
    write_worked(log);
    return 0;
}

/* ---- */

/* Memory evicts again what it got from here: that counts as use, and nothing is written. */
static bool write_is_there(struct disk_log *log, const struct disk_item *item, uint64_t checksum)
{
    struct disk_found found;
    struct disk_record record;
    uint8_t head[DISK_HEAD_MAX];
    bool same = false;

    if (disk_log_find(log, &item->key, &found) < 0) {
        return false;
    }
    if (found.place.bytes == item->bytes &&
        disk_read_head(log, &found, &item->key, head, &record) == 0) {
        same = record.checksum == checksum &&
               memcmp(&record.attrs, &item->attrs, sizeof(record.attrs)) == 0;
    }
    disk_log_put_back(&found);
    return same;
}

static void write_done(struct disk_log *log, uint64_t offset, uint64_t bytes)
{
    const uint64_t behind = offset < WRITE_BEHIND ? offset : WRITE_BEHIND;

    if (log->options->page_cache) {
        return;
    }
    /* only clean pages can be dropped: start this one, drop what was started before */
    (void)sync_file_range(log->active->fd, (off_t)offset, (off_t)bytes, SYNC_FILE_RANGE_WRITE);
    (void)posix_fadvise(log->active->fd, (off_t)(offset - behind), (off_t)behind,
                        POSIX_FADV_DONTNEED);
}

static int write_chunk(struct disk_log *log, const struct disk_op *op, const struct disk_item *item,
                       const struct disk_name *name, uint64_t *bytes_out)
{
    struct write write = {.log = log, .op = op, .item = item};
    uint64_t offset;
    int r = disk_op_code(op);

    if (r < 0) {
        return r;
    }
    write.record = (struct disk_record){
        .kind = DISK_CHUNK,
        .key = item->key,
        .attrs = item->attrs,
        .bytes = item->bytes,
        .checksum = item->checksum,
    };
    write.summed = (item->flags & KVL_CHUNK_HAS_CHECKSUM) != 0;
    if (!write.summed && disk_log_has(log, &item->key)) {
        write.record.checksum = write_sum_chunk(item);
        write.summed = true;
    }
    if (write.summed && write_is_there(log, item, write.record.checksum)) {
        disk_log_count(log, DISK_COUNT_UNCHANGED, 1);
        return 0;
    }
    r = write_append(&write);
    if (r < 0) {
        return r;
    }
    offset = log->active->end;
    disk_log_set_end(log, log->active, offset + disk_record_bytes(item->key.length, item->bytes));
    r = disk_log_index_chunk(log, log->active, name, offset, item->bytes);
    if (r < 0) {
        return r;
    }
    disk_log_count(log, DISK_COUNT_WRITTEN, 1);
    disk_log_count(log, DISK_COUNT_WRITTEN_BYTES, item->bytes);
    write_done(log, offset, item->bytes);
    *bytes_out = item->bytes;
    return 0;
}

int disk_write_chunk(struct disk_log *log, const struct disk_op *op, const struct disk_item *item,
                     uint64_t *bytes_out)
{
    const struct disk_name name = disk_index_name(&log->index, &item->key);
    const int r = write_chunk(log, op, item, &name, bytes_out);

    if (r < 0) { /* rather nothing than what was there before */
        (void)disk_log_index_remove(log, &name);
    }
    return r;
}

int disk_write_removal(struct disk_log *log, const struct disk_item *item)
{
    struct write write = {.log = log, .summed = true};
    struct disk_record record;
    struct disk_found found;
    uint8_t head[DISK_HEAD_MAX];
    int r = disk_log_find(log, &item->key, &found);

    if (r < 0) {
        return r;
    }
    r = disk_read_head(log, &found, &item->key, head, &record);
    if (r == -ENOENT) { /* another key under this hash */
        disk_log_put_back(&found);
        return r;
    }
    disk_log_forget(log, &found);
    disk_log_put_back(&found);
    write.record = (struct disk_record){.kind = DISK_REMOVED, .key = item->key};
    r = write_append(&write);
    if (r == 0) {
        disk_log_set_end(log, log->active,
                         log->active->end + disk_record_bytes(item->key.length, 0));
        disk_log_count(log, DISK_COUNT_REMOVED, 1);
    }
    return r;
}
