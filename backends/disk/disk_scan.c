/* SPDX-License-Identifier: Apache-2.0 */
/* How the index comes back at start: the folder is read, and nothing in it is believed. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "disk_log.h"
#include "setting.h"

struct scan {
    struct disk_log *log;
    uint32_t *numbers; /* owned */
    uint32_t count;
    uint32_t capacity;
    uint8_t *buffer; /* owned; DISK_SLICE bytes */
    bool appendable; /* the last segment is sound to its end */
    uint64_t size; /* of the file at hand */
    uint64_t sequence; /* of the last record in it */
    bool sealed; /* it says that it was closed */
};

/* ---- the folder ---- */

static int scan_make_folder(const char *path, struct kvl_err *err)
{
    char parent[PATH_MAX];
    const size_t length = strlen(path);

    if (length == 0 || length >= sizeof(parent)) {
        return kvl_fail(err, -ENAMETOOLONG, "disk: path is too long");
    }
    /* each part in turn; those that are there stay as they are */
    for (size_t i = 1; i <= length; i++) {
        if (path[i] != '/' && path[i] != '\0') {
            continue;
        }
        memcpy(parent, path, i);
        parent[i] = '\0';
        if (mkdir(parent, 0700) != 0 && errno != EEXIST) {
            return kvl_fail(err, -errno, "disk: cannot make folder '%s': %s", parent,
                            strerror(errno));
        }
    }
    return 0;
}

static int scan_lock_folder(struct disk_log *log, struct kvl_err *err)
{
    const char *path = log->options->path;
    struct stat st;
    int r = scan_make_folder(path, err);

    if (r < 0) {
        return r;
    }
    log->dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (log->dir_fd < 0) {
        return kvl_fail(err, -errno, "disk: cannot open folder '%s': %s", path, strerror(errno));
    }
    if (flock(log->dir_fd, LOCK_EX | LOCK_NB) != 0) {
        r = errno == EWOULDBLOCK ? -EBUSY : -errno;
        return kvl_fail(err, r,
                        r == -EBUSY ? "disk: folder '%s' is in use by another instance (%s)"
                                    : "disk: cannot lock folder '%s': %s",
                        path, strerror(-r));
    }
    if (fstat(log->dir_fd, &st) == 0 && (st.st_mode & S_IWOTH) != 0) {
        kvl_warn(log->host->log, "disk: everybody may write to '%s', and so put chunks there",
                 path);
    }
    if (faccessat(log->dir_fd, ".", W_OK | X_OK, AT_EACCESS) != 0) {
        return kvl_fail(err, -errno, "disk: cannot write to folder '%s': %s", path,
                        strerror(errno));
    }
    return 0;
}

static int scan_add_number(struct scan *scan, uint32_t number)
{
    if (scan->count == scan->capacity) {
        const uint32_t capacity = scan->capacity == 0 ? 64 : 2 * scan->capacity;
        uint32_t *numbers = realloc(scan->numbers, capacity * sizeof(*numbers));

        if (numbers == NULL) {
            return -ENOMEM;
        }
        scan->numbers = numbers;
        scan->capacity = capacity;
    }
    scan->numbers[scan->count++] = number;
    return 0;
}

static int scan_compare(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a;
    const uint32_t y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

static int scan_read_folder(struct scan *scan)
{
    const int fd = openat(scan->log->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *folder = fd < 0 ? NULL : fdopendir(fd);
    const struct dirent *entry;
    int r = 0;

    if (folder == NULL) {
        r = -errno;
        if (fd >= 0) {
            (void)close(fd);
        }
        return r;
    }
    while (r == 0 && (errno = 0, entry = readdir(folder)) != NULL) {
        uint32_t number;
        bool bad;

        if (!disk_segment_parse(entry->d_name, &number, &bad)) {
            continue; /* not ours */
        }
        if (number > scan->log->number) { /* a number is never used twice */
            scan->log->number = number;
        }
        r = bad ? 0 : scan_add_number(scan, number);
    }
    r = r == 0 && entry == NULL ? -errno : r;
    (void)closedir(folder);
    if (scan->count > 0) {
        qsort(scan->numbers, scan->count, sizeof(*scan->numbers), scan_compare);
    }
    return r;
}

/* ---- one file ---- */

static void scan_set_aside(struct scan *scan, uint32_t number, int code)
{
    struct disk_log *log = scan->log;
    const char *why = code == -EPROTONOSUPPORT ? "was written by another version of kvlane"
                      : code == -EBADMSG       ? "is no segment, or its head is damaged"
                                               : strerror(-code);
    char name[DISK_NAME_MAX];
    char bad[DISK_NAME_MAX + 4];

    disk_segment_name(number, name);
    (void)snprintf(bad, sizeof(bad), "%s.bad", name);
    disk_log_count(log, DISK_COUNT_BAD_SEGMENTS, 1);
    if (renameat(log->dir_fd, name, log->dir_fd, bad) == 0) {
        kvl_warn(log->host->log, "disk: '%s/%s' %s; it is set aside as '%s'", log->options->path,
                 name, why, bad);
    } else {
        kvl_warn(log->host->log, "disk: '%s/%s' %s; it is left alone", log->options->path, name,
                 why);
    }
}

/* Is the payload what its record says? @return 0; -EBADMSG; why it cannot be read. */
static int scan_verify(struct scan *scan, const struct disk_segment *segment, uint64_t offset,
                       const struct disk_record *record)
{
    XXH3_state_t state;
    uint64_t left = record->bytes;

    (void)XXH3_64bits_reset(&state);
    while (left > 0) {
        const size_t slice = left < DISK_SLICE ? (size_t)left : (size_t)DISK_SLICE;
        const ssize_t n = disk_file_peek(&scan->log->io, segment->fd, scan->buffer, slice, offset);

        if (n != (ssize_t)slice) {
            return n < 0 ? (int)n : -EBADMSG;
        }
        (void)XXH3_64bits_update(&state, scan->buffer, slice);
        offset += slice;
        left -= slice;
    }
    return XXH3_64bits_digest(&state) == record->checksum ? 0 : -EBADMSG;
}

/* Takes the record at `offset` over. @return 0 and its size; -EBADMSG, -ENODATA there is none to be
 * believed; why it cannot be read; -ENOMEM. */
static int scan_record(struct scan *scan, struct disk_segment *segment, uint64_t offset,
                       uint64_t *bytes_out)
{
    struct disk_log *log = scan->log;
    struct disk_record record;
    struct disk_name name;
    uint8_t head[DISK_HEAD_MAX];
    const ssize_t n = disk_file_peek(&log->io, segment->fd, head, sizeof(head), offset);
    uint64_t payload;
    int r = n < 0 ? (int)n : disk_record_decode(head, (size_t)n, segment->id, &record);

    if (r < 0) {
        return r;
    }
    payload = offset + disk_head_bytes(record.key.length);
    if (record.kind == DISK_END || record.sequence <= scan->sequence ||
        payload + record.bytes > scan->size) {
        return -EBADMSG;
    }
    if (!scan->sealed && record.kind == DISK_CHUNK) {
        r = scan_verify(scan, segment, payload, &record);
    }
    if (r == 0) {
        name = disk_index_name(&log->index, &record.key);
        if (record.kind == DISK_CHUNK) {
            r = disk_log_index_chunk(log, segment, &name, offset, record.bytes);
        } else {
            (void)disk_log_index_remove(log, &name);
        }
        scan->sequence = record.sequence;
        *bytes_out = disk_record_bytes(record.key.length, record.bytes);
    }
    return r;
}

/* What follows the last sound record of a file that was not closed. */
static void scan_cut_off(struct scan *scan, struct disk_segment *segment, const char *name,
                         uint64_t end)
{
    struct disk_log *log = scan->log;

    if (scan->size > end) {
        kvl_warn(log->host->log,
                 "disk: '%s/%s' was not closed and ends in half a chunk: %llu bytes cut off",
                 log->options->path, name, (unsigned long long)(scan->size - end));
        disk_log_count(log, DISK_COUNT_TORN_BYTES, scan->size - end);
    }
    scan->appendable = ftruncate(segment->fd, (off_t)end) == 0;
}

/* All that comes before the first record that is not sound. What follows it is cut off, unless the
 * file was closed or cannot be read: then the disk, and no crash, is to blame: the file stays. */
static int scan_records(struct scan *scan, struct disk_segment *segment)
{
    struct disk_log *log = scan->log;
    uint64_t end = segment->end;
    uint64_t bytes;
    char name[DISK_NAME_MAX];
    int r;

    scan->sequence = 0;
    while ((r = scan_record(scan, segment, end, &bytes)) == 0) {
        end += bytes;
    }
    if (scan->sequence > log->sequence) {
        log->sequence = scan->sequence;
    }
    if (r == -ENOMEM) {
        return r;
    }
    disk_segment_name(segment->number, name);
    if (scan->sealed && end + DISK_RECORD_HEAD_BYTES == scan->size) {
        scan->appendable = true;
    } else if (scan->sealed || (r != -EBADMSG && r != -ENODATA)) {
        kvl_warn(log->host->log,
                 "disk: '%s/%s' is damaged at %llu, its chunks from there on are "
                 "lost",
                 log->options->path, name, (unsigned long long)end);
        end = scan->size;
    } else {
        scan_cut_off(scan, segment, name, end);
    }
    disk_log_set_end(log, segment, end);
    return 0;
}

static int scan_segment(struct scan *scan, uint32_t number)
{
    struct disk_log *log = scan->log;
    struct disk_segment *segment;
    char name[DISK_NAME_MAX];
    int r = disk_segment_open(&log->io, log->dir_fd, number, &scan->size, &segment);

    scan->appendable = false;
    if (r == -EMFILE || r == -ENFILE || r == -ENOMEM) {
        return r;
    }
    if (r == -ENODATA) { /* killed between making the file and writing its head */
        disk_segment_name(number, name);
        (void)unlinkat(log->dir_fd, name, 0);
        return 0;
    }
    if (r < 0) {
        scan_set_aside(scan, number, r);
        return 0;
    }
    r = disk_log_add_segment(log, segment);
    if (r < 0) {
        disk_segment_release(segment);
        return r;
    }
    scan->sealed = disk_segment_is_sealed(&log->io, segment, scan->size);
    /* heads lie far apart: what stands between them would be read for nothing */
    (void)posix_fadvise(segment->fd, 0, 0,
                        scan->sealed ? POSIX_FADV_RANDOM : POSIX_FADV_SEQUENTIAL);
    r = scan_records(scan, segment);
    (void)posix_fadvise(segment->fd, 0, 0, POSIX_FADV_NORMAL);
    disk_log_trim(log, 0);
    return r;
}

/* ---- all ---- */

/* The last file goes on where it ended; another one that was not closed is closed now, so that it
 * is not read as a whole again. */
static void scan_finish_segment(struct scan *scan, bool is_last)
{
    struct disk_log *log = scan->log;
    struct disk_segment *segment = log->count == 0 ? NULL : log->segments[log->count - 1];

    if (segment == NULL || !scan->appendable) {
        return;
    }
    if (is_last && segment->end < log->options->segment) {
        log->active = segment;
    } else {
        if (!scan->sealed) {
            (void)disk_segment_seal(&log->io, segment, ++log->sequence);
        }
        disk_log_set_end(log, segment, segment->end + DISK_RECORD_HEAD_BYTES);
    }
}

static int scan_all(struct scan *scan)
{
    int r = scan_read_folder(scan);

    for (uint32_t i = 0; i < scan->count && r == 0; i++) {
        r = scan_segment(scan, scan->numbers[i]);
        if (r == 0) {
            scan_finish_segment(scan, i + 1 == scan->count);
        }
    }
    return r;
}

int disk_log_open(struct disk_log *log, struct kvl_err *err)
{
    struct scan scan = {.log = log};
    struct disk_log_totals totals;
    uint64_t began;
    int r = scan_lock_folder(log, err);

    if (r < 0) {
        return r;
    }
    began = log->host->now_ms(log->host);
    if (getrandom(&log->index.seed, sizeof(log->index.seed), 0) < 0) {
        log->index.seed = began; /* a weak seed only makes collisions easier to find */
    }
    scan.buffer = malloc(DISK_SLICE);
    r = scan.buffer == NULL ? -ENOMEM : scan_all(&scan);
    free(scan.buffer);
    free(scan.numbers);
    if (r < 0) {
        return kvl_fail(err, r, "disk: cannot read folder '%s': %s", log->options->path,
                        strerror(-r));
    }
    disk_log_totals(log, &totals);
    kvl_info(log->host->log, "disk: '%s' holds %llu chunks in %u files, read in %llu ms",
             log->options->path, (unsigned long long)totals.chunks, (unsigned)totals.segments,
             (unsigned long long)(log->host->now_ms(log->host) - began));
    return 0;
}
