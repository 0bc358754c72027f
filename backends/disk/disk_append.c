/* SPDX-License-Identifier: Apache-2.0 */
#include "disk_append.h"

#include <errno.h>
#include <unistd.h>

static void append_close(struct disk_log *log)
{
    struct disk_segment *active = log->active;

    /* a segment without its last record is only slower to open */
    (void)disk_segment_seal(&log->io, active, ++log->sequence);
    if (log->options->sync != DISK_SYNC_NO) {
        (void)fdatasync(active->fd);
    }
    disk_log_set_end(log, active, active->end + DISK_RECORD_HEAD_BYTES);
    log->active = NULL;
}

/* An empty segment takes a record of any size. */
static void append_close_full(struct disk_log *log, uint64_t need)
{
    if (log->active != NULL && log->active->end > DISK_FILE_HEAD_BYTES &&
        log->active->end + need > log->options->segment) {
        append_close(log);
    }
}

static int append_open(struct disk_log *log)
{
    struct disk_segment *segment;
    int r;

    if (log->active != NULL) {
        return 0;
    }
    r = disk_segment_create(&log->io, log->dir_fd, log->number + 1, &segment);
    if (r < 0) {
        return r;
    }
    log->number++;
    r = disk_log_add_segment(log, segment);
    if (r < 0) {
        disk_segment_release(segment);
        return r; /* a file without records is left, until the next start */
    }
    log->active = segment;
    if (log->options->sync != DISK_SYNC_NO) { /* the name, too, must survive a power loss */
        (void)fsync(log->dir_fd);
    }
    return 0;
}

/* ---- a second life for what is used ---- */

/* In the kernel: what is damaged on the way is seen when it is read. */
static int append_copy_bytes(int from, uint64_t from_at, int to, uint64_t to_at, uint64_t bytes)
{
    off_t in = (off_t)from_at;
    off_t out = (off_t)to_at;

    while (bytes > 0) {
        const ssize_t n = copy_file_range(from, &in, to, &out, bytes, 0);

        if (n <= 0) {
            return n < 0 ? -errno : -ENODATA;
        }
        bytes -= (uint64_t)n;
    }
    return 0;
}

static int append_copy(struct disk_log *log, const struct disk_segment *from, uint64_t offset,
                       const struct disk_record *record, const struct disk_name *name)
{
    const uint64_t size = disk_record_bytes(record->key.length, record->bytes);
    const uint32_t head_bytes = disk_head_bytes(record->key.length);
    struct disk_record copy = *record;
    uint8_t head[DISK_HEAD_MAX];
    struct iovec iov = {head, head_bytes};
    uint64_t end;
    int r;

    append_close_full(log, size);
    r = append_open(log);
    if (r < 0) {
        return r;
    }
    end = log->active->end;
    copy.sequence = ++log->sequence;
    r = append_copy_bytes(from->fd, offset + head_bytes, log->active->fd, end + head_bytes,
                          record->bytes);
    if (r == 0) {
        r = disk_record_encode(&copy, log->active->id, head);
    }
    if (r >= 0) {
        r = disk_file_write(&log->io, log->active->fd, &iov, 1, end);
    }
    if (r < 0) {
        (void)ftruncate(log->active->fd, (off_t)end);
        return r;
    }
    disk_log_set_end(log, log->active, end + size);
    disk_log_count(log, DISK_COUNT_KEPT, 1);
    return disk_log_index_chunk(log, log->active, name, end, record->bytes);
}

static void append_keep_used(struct disk_log *log, const struct disk_segment *from)
{
    uint64_t room = from->end / 2; /* so that there always is progress */
    uint64_t offset = DISK_FILE_HEAD_BYTES;

    while (offset < from->end) {
        struct disk_record record;
        struct disk_name name;
        uint8_t head[DISK_HEAD_MAX];
        const ssize_t n = disk_file_peek(&log->io, from->fd, head, sizeof(head), offset);
        uint64_t size;

        if (n < 0 || disk_record_decode(head, (size_t)n, from->id, &record) < 0) {
            return;
        }
        size = disk_record_bytes(record.key.length, record.bytes);
        name = disk_index_name(&log->index, &record.key);
        if (record.kind == DISK_CHUNK && size <= room &&
            disk_log_is_used(log, &name, from->number, offset)) {
            if (append_copy(log, from, offset, &record, &name) < 0) {
                return;
            }
            room -= size;
        }
        offset += size;
    }
}

static bool append_expire(struct disk_log *log)
{
    bool used;
    struct disk_segment *oldest = disk_log_oldest(log, &used);

    if (oldest == NULL) {
        return false;
    }
    if (used) {
        append_keep_used(log, oldest);
    }
    disk_segment_release(oldest);
    return disk_log_expire(log);
}

int disk_append_make_room(struct disk_log *log, uint64_t need)
{
    append_close_full(log, need);
    while (disk_log_is_over(log, need + DISK_FILE_HEAD_BYTES + DISK_RECORD_HEAD_BYTES) &&
           append_expire(log)) {
    }
    append_close_full(log, need); /* it may have got what was kept */
    return append_open(log);
}
