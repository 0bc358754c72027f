/* SPDX-License-Identifier: Apache-2.0 */
#include "disk_segment.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

void disk_segment_name(uint32_t number, char name_out[DISK_NAME_MAX])
{
    (void)snprintf(name_out, DISK_NAME_MAX, "%08u.seg", (unsigned)number);
}

bool disk_segment_parse(const char *name, uint32_t *number_out, bool *bad_out)
{
    const size_t digits = strspn(name, "0123456789");
    uint64_t number = 0;

    if (digits < 8 || digits > 10) {
        return false;
    }
    for (size_t i = 0; i < digits; i++) {
        number = number * 10 + (uint64_t)(name[i] - '0');
    }
    *bad_out = strcmp(name + digits, ".seg.bad") == 0;
    if (number == 0 || number >= UINT32_MAX || (!*bad_out && strcmp(name + digits, ".seg") != 0)) {
        return false;
    }
    *number_out = (uint32_t)number;
    return true;
}

static struct disk_segment *segment_alloc(uint32_t number, int fd)
{
    struct disk_segment *segment = calloc(1, sizeof(*segment));

    if (segment != NULL) {
        segment->number = number;
        segment->fd = fd;
        segment->end = DISK_FILE_HEAD_BYTES;
        atomic_init(&segment->refs, 1);
    }
    return segment;
}

static int segment_write_head(const struct disk_io *io, struct disk_segment *segment)
{
    const struct disk_file_head head = {.number = segment->number, .id = segment->id};
    uint8_t bytes[DISK_FILE_HEAD_BYTES];
    struct iovec iov = {bytes, sizeof(bytes)};

    disk_file_head_encode(&head, bytes);
    return disk_file_write(io, segment->fd, &iov, 1, 0);
}

int disk_segment_create(const struct disk_io *io, int dir_fd, uint32_t number,
                        struct disk_segment **segment_out)
{
    struct disk_segment *segment;
    char name[DISK_NAME_MAX];
    int r;
    int fd;

    disk_segment_name(number, name);
    fd = openat(dir_fd, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0) {
        return -errno;
    }
    segment = segment_alloc(number, fd);
    if (segment == NULL) {
        r = -ENOMEM;
        goto err_close;
    }
    if (getrandom(&segment->id, sizeof(segment->id), 0) != (ssize_t)sizeof(segment->id)) {
        r = -EIO;
        goto err_free;
    }
    r = segment_write_head(io, segment);
    if (r < 0) {
        goto err_free;
    }
    *segment_out = segment;
    return 0;

err_free:
    free(segment);
err_close:
    (void)close(fd);
    (void)unlinkat(dir_fd, name, 0);
    return r;
}

static int segment_read_head(const struct disk_io *io, struct disk_segment *segment, uint64_t size)
{
    struct disk_file_head head;
    uint8_t bytes[DISK_FILE_HEAD_BYTES];
    struct iovec iov = {bytes, sizeof(bytes)};
    int r;

    if (size == 0) {
        return -ENODATA;
    }
    if (size < sizeof(bytes)) {
        return -EBADMSG;
    }
    r = disk_file_read(io, segment->fd, &iov, 1, 0);
    if (r == 0) {
        r = disk_file_head_decode(bytes, &head);
    }
    if (r == 0 && head.number != segment->number) { /* a copy under another name */
        r = -EBADMSG;
    }
    if (r == 0) {
        segment->id = head.id;
    }
    return r;
}

int disk_segment_open(const struct disk_io *io, int dir_fd, uint32_t number, uint64_t *size_out,
                      struct disk_segment **segment_out)
{
    struct disk_segment *segment;
    struct stat st;
    char name[DISK_NAME_MAX];
    int r = 0;
    int fd;

    disk_segment_name(number, name);
    fd = openat(dir_fd, name, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) {
        return -errno;
    }
    if (fstat(fd, &st) != 0) {
        r = -errno;
    } else if (!S_ISREG(st.st_mode)) {
        r = -EBADMSG;
    }
    segment = r < 0 ? NULL : segment_alloc(number, fd);
    if (segment == NULL) {
        (void)close(fd);
        return r < 0 ? r : -ENOMEM;
    }
    r = segment_read_head(io, segment, (uint64_t)st.st_size);
    if (r < 0) {
        disk_segment_release(segment);
        return r;
    }
    *size_out = (uint64_t)st.st_size;
    *segment_out = segment;
    return 0;
}

int disk_segment_seal(const struct disk_io *io, struct disk_segment *segment, uint64_t sequence)
{
    const struct disk_record record = {.kind = DISK_END, .sequence = sequence};
    uint8_t bytes[DISK_HEAD_MAX];
    const int length = disk_record_encode(&record, segment->id, bytes);
    struct iovec iov = {bytes, (size_t)length};

    return disk_file_write(io, segment->fd, &iov, 1, segment->end);
}

bool disk_segment_is_sealed(const struct disk_io *io, const struct disk_segment *segment,
                            uint64_t size)
{
    struct disk_record record;
    uint8_t bytes[DISK_RECORD_HEAD_BYTES];

    if (size < DISK_FILE_HEAD_BYTES + sizeof(bytes) || size % DISK_ALIGN != 0) {
        return false;
    }
    return disk_file_peek(io, segment->fd, bytes, sizeof(bytes), size - sizeof(bytes)) ==
               (ssize_t)sizeof(bytes) &&
           disk_record_decode(bytes, sizeof(bytes), segment->id, &record) == 0 &&
           record.kind == DISK_END;
}

void disk_segment_retain(struct disk_segment *segment)
{
    (void)atomic_fetch_add_explicit(&segment->refs, 1, memory_order_relaxed);
}

void disk_segment_release(struct disk_segment *segment)
{
    if (segment != NULL &&
        atomic_fetch_sub_explicit(&segment->refs, 1, memory_order_acq_rel) == 1) {
        (void)close(segment->fd);
        free(segment);
    }
}
