/* SPDX-License-Identifier: Apache-2.0 */
#include "disk_file.h"

#include <errno.h>

const struct disk_io disk_io_kernel = {.write = pwritev, .read = preadv};

/* Steps over `bytes` of the runs. */
static void file_advance(struct iovec **iov, int *count, size_t bytes)
{
    while (*count > 0 && bytes >= (*iov)->iov_len) {
        bytes -= (*iov)->iov_len;
        ++*iov;
        --*count;
    }
    if (*count > 0) {
        (*iov)->iov_base = (char *)(*iov)->iov_base + bytes;
        (*iov)->iov_len -= bytes;
    }
}

int disk_file_write(const struct disk_io *io, int fd, struct iovec *iov, int count, uint64_t offset)
{
    file_advance(&iov, &count, 0);
    while (count > 0) {
        const ssize_t n = io->write(fd, iov, count, (off_t)offset);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return n < 0 ? -errno : -EIO;
        }
        offset += (uint64_t)n;
        file_advance(&iov, &count, (size_t)n);
    }
    return 0;
}

int disk_file_read(const struct disk_io *io, int fd, struct iovec *iov, int count, uint64_t offset)
{
    file_advance(&iov, &count, 0);
    while (count > 0) {
        const ssize_t n = io->read(fd, iov, count, (off_t)offset);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return n < 0 ? -errno : -ENODATA;
        }
        offset += (uint64_t)n;
        file_advance(&iov, &count, (size_t)n);
    }
    return 0;
}

ssize_t disk_file_peek(const struct disk_io *io, int fd, void *bytes_out, size_t length,
                       uint64_t offset)
{
    size_t got = 0;

    while (got < length) {
        const struct iovec iov = {(char *)bytes_out + got, length - got};
        const ssize_t n = io->read(fd, &iov, 1, (off_t)(offset + got));

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return -errno;
        }
        if (n == 0) {
            break;
        }
        got += (size_t)n;
    }
    return (ssize_t)got;
}
