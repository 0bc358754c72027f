/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file tcp_remote_sg.h
 * A position in scatter-gather runs of host memory, and the iovecs from there on. Pure.
 */
#ifndef KVL_TCP_REMOTE_SG_H
#define KVL_TCP_REMOTE_SG_H

#include <sys/uio.h>

#include <kvlane/mem.h>

struct tcp_remote_sg_at {
    const struct kvl_sg *sg; /* borrowed */
    const struct kvl_sg *end;
    uint32_t run;
    uint64_t offset; /* in the run */
};

/**
 * Sums up descriptors.
 * @return 0; -ENOTSUP memory of another kind; -EINVAL no address, no run or a sum beyond 64 bits.
 */
int tcp_remote_sg_total(const struct kvl_sg *sg, size_t count, uint64_t *bytes_out);

/** Writes runs that follow each other without a gap as one. */
void tcp_remote_sg_merge(struct kvl_sg *sg);

/**
 * Fills iovecs with at most `max_bytes` from the position on, which stays.
 * @return iovecs filled; their sum in *bytes_out.
 */
size_t tcp_remote_sg_fill(const struct tcp_remote_sg_at *at, struct iovec *iov_out, size_t max,
                          uint64_t max_bytes, uint64_t *bytes_out);

/** Moves the position; it ends behind the last run at most. */
void tcp_remote_sg_advance(struct tcp_remote_sg_at *at, uint64_t bytes);

#endif /* KVL_TCP_REMOTE_SG_H */
