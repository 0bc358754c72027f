/* SPDX-License-Identifier: Apache-2.0 */
#include "tcp_remote_sg.h"

#include <errno.h>

int tcp_remote_sg_total(const struct kvl_sg *sg, size_t count, uint64_t *bytes_out)
{
    uint64_t total = 0;

    for (size_t i = 0; i < count; i++) {
        uint64_t bytes;

        if (sg[i].mem != KVL_MEM_HOST) {
            return -ENOTSUP;
        }
        if (sg[i].count == 0 || (sg[i].addr == 0 && sg[i].length > 0) ||
            __builtin_mul_overflow(sg[i].length, sg[i].count, &bytes) ||
            __builtin_add_overflow(total, bytes, &total)) {
            return -EINVAL;
        }
    }
    *bytes_out = total;
    return 0;
}

void tcp_remote_sg_merge(struct kvl_sg *sg)
{
    if (sg->count > 1 && (sg->stride == sg->length || sg->length == 0)) {
        sg->length *= sg->count;
        sg->count = 1;
    }
}

static void sg_next_run(struct tcp_remote_sg_at *at)
{
    at->offset = 0;
    at->run++;
    if (at->run >= at->sg->count) {
        at->run = 0;
        at->sg++;
    }
}

static uint64_t sg_left_in_run(const struct tcp_remote_sg_at *at)
{
    return at->sg->length - at->offset;
}

size_t tcp_remote_sg_fill(const struct tcp_remote_sg_at *at, struct iovec *iov_out, size_t max,
                          uint64_t max_bytes, uint64_t *bytes_out)
{
    struct tcp_remote_sg_at here = *at;
    uint64_t total = 0;
    size_t n = 0;

    while (here.sg < here.end && n < max && total < max_bytes) {
        uint64_t bytes = sg_left_in_run(&here);

        if (bytes > max_bytes - total) {
            bytes = max_bytes - total;
        }
        if (bytes > 0) {
            uint64_t addr = here.sg->addr + here.run * here.sg->stride + here.offset;

            iov_out[n].iov_base = (void *)(uintptr_t)addr;
            iov_out[n].iov_len = bytes;
            n++;
            total += bytes;
        }
        sg_next_run(&here);
    }
    *bytes_out = total;
    return n;
}

void tcp_remote_sg_advance(struct tcp_remote_sg_at *at, uint64_t bytes)
{
    while (bytes > 0 && at->sg < at->end) {
        uint64_t left = sg_left_in_run(at);

        if (bytes < left) {
            at->offset += bytes;
            return;
        }
        bytes -= left;
        sg_next_run(at);
    }
}
