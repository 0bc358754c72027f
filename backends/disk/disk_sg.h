/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file disk_sg.h
 * Walks the runs of a chunk in slices of iovecs. Pure.
 */
#ifndef KVL_DISK_SG_H
#define KVL_DISK_SG_H

#include <stddef.h>

#include <sys/uio.h>

#include <kvlane/mem.h>

/** A place between two bytes of a chunk. Fields are private. */
struct disk_sg {
    const struct kvl_sg *sg; /* borrowed */
    uint32_t left; /* descriptors from `sg` on */
    uint32_t run; /* of *sg */
    uint64_t offset; /* in the run */
};

/**
 * Adds up descriptors.
 * @return 0; -ENOTSUP memory of another kind; -EINVAL no address, no run or a sum beyond 64 bits.
 */
int disk_sg_total(const struct kvl_sg *sg, uint32_t count, uint64_t *bytes_out);

/** Begins at the first byte of `count` descriptors, which must have passed disk_sg_total(). */
void disk_sg_init(struct disk_sg *at, const struct kvl_sg *sg, uint32_t count);

/**
 * Takes up to `max_bytes` in up to `max` runs and moves on behind them.
 * @return iovecs filled, 0 at the end; their sum in *bytes_out.
 */
int disk_sg_take(struct disk_sg *at, struct iovec *iov_out, int max, uint64_t max_bytes,
                 uint64_t *bytes_out);

#endif /* KVL_DISK_SG_H */
