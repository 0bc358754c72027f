/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file disk_file.h
 * Reads and writes that end only when all is moved or the kernel says why not.
 */
#ifndef KVL_DISK_FILE_H
#define KVL_DISK_FILE_H

#include <stddef.h>
#include <stdint.h>

#include <sys/types.h>
#include <sys/uio.h>

/** pwritev and preadv; tests put failing disks in their place. */
struct disk_io {
    ssize_t (*write)(int fd, const struct iovec *iov, int count, off_t offset);
    ssize_t (*read)(int fd, const struct iovec *iov, int count, off_t offset);
};

extern const struct disk_io disk_io_kernel;

/** Writes all runs; `iov` is used up. @return 0; -ENOSPC, -EDQUOT, -EIO, .. */
int disk_file_write(const struct disk_io *io, int fd, struct iovec *iov, int count,
                    uint64_t offset);

/** Fills all runs; `iov` is used up. @return 0; -ENODATA the file ends before; -EIO, .. */
int disk_file_read(const struct disk_io *io, int fd, struct iovec *iov, int count, uint64_t offset);

/** Reads up to `length` bytes, fewer only at the end of the file. @return bytes; -EIO, .. */
ssize_t disk_file_peek(const struct disk_io *io, int fd, void *bytes_out, size_t length,
                       uint64_t offset);

#endif /* KVL_DISK_FILE_H */
