/* SPDX-License-Identifier: Apache-2.0 */
#include "disk_sg.h"

#include <errno.h>

int disk_sg_total(const struct kvl_sg *sg, uint32_t count, uint64_t *bytes_out)
{
    uint64_t total = 0;

    for (uint32_t i = 0; i < count; i++) {
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

void disk_sg_init(struct disk_sg *at, const struct kvl_sg *sg, uint32_t count)
{
    *at = (struct disk_sg){.sg = sg, .left = count};
}

/* Bytes without a gap from here on; all runs of the descriptor where they touch each other. */
static uint64_t sg_ahead(const struct disk_sg *at)
{
    const struct kvl_sg *sg = at->sg;
    const uint64_t runs = sg->stride == sg->length ? sg->count - at->run : 1;

    return sg->length * runs - at->offset;
}

static void sg_advance(struct disk_sg *at, uint64_t bytes)
{
    const struct kvl_sg *sg = at->sg;

    at->offset += bytes;
    if (sg->length > 0 && at->offset >= sg->length) {
        at->run += (uint32_t)(at->offset / sg->length);
        at->offset %= sg->length;
    }
    if (sg->length == 0 || at->run >= sg->count) {
        at->sg++;
        at->left--;
        at->run = 0;
        at->offset = 0;
    }
}

int disk_sg_take(struct disk_sg *at, struct iovec *iov_out, int max, uint64_t max_bytes,
                 uint64_t *bytes_out)
{
    uint64_t total = 0;
    int n = 0;

    while (at->left > 0 && n < max && total < max_bytes) {
        uint64_t bytes = sg_ahead(at);

        if (bytes > max_bytes - total) {
            bytes = max_bytes - total;
        }
        if (bytes > 0) {
            iov_out[n].iov_base =
                (void *)(uintptr_t)(at->sg->addr + at->run * at->sg->stride + at->offset);
            iov_out[n].iov_len = bytes;
            n++;
            total += bytes;
        }
        sg_advance(at, bytes);
    }
    *bytes_out = total;
    return n;
}
