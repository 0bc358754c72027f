/* SPDX-License-Identifier: Apache-2.0 */
#include "scatter.h"

#include <errno.h>

int kvl_sg_check(const struct kvl_sg *sg, uint32_t count, uint64_t *bytes_out)
{
    uint64_t total = 0;

    for (uint32_t i = 0; i < count; i++) {
        uint64_t bytes;
        uint64_t reach;

        if (sg[i].mem == KVL_MEM_HOST && sg[i].device != KVL_DEVICE_HOST) {
            return -ENOTSUP;
        }
        if (sg[i].mem != sg[0].mem || sg[i].device != sg[0].device ||
            (sg[i].mem != KVL_MEM_HOST && sg[i].device < 0)) {
            return -EINVAL;
        }
        if (sg[i].addr == 0 || sg[i].length == 0 || sg[i].count == 0 ||
            __builtin_mul_overflow(sg[i].length, (uint64_t)sg[i].count, &bytes) ||
            __builtin_add_overflow(total, bytes, &total) ||
            __builtin_mul_overflow(sg[i].stride, (uint64_t)sg[i].count - 1, &reach) ||
            __builtin_add_overflow(reach, sg[i].length, &reach) ||
            __builtin_add_overflow(reach, sg[i].addr, &reach)) {
            return -EINVAL;
        }
    }
    *bytes_out = total;
    return 0;
}

static unsigned char *run_at(const struct kvl_sg *sg, uint32_t run)
{
    return (unsigned char *)(uintptr_t)(sg->addr + (uint64_t)run * sg->stride);
}

void kvl_sg_gather(const struct kvl_sg *sg, uint32_t count, void *to)
{
    unsigned char *out = to;

    for (uint32_t i = 0; i < count; i++) {
        for (uint32_t run = 0; run < sg[i].count; run++) {
            memcpy(out, run_at(&sg[i], run), sg[i].length);
            out += sg[i].length;
        }
    }
}

void kvl_sg_scatter(const struct kvl_sg *sg, uint32_t count, const void *from)
{
    const unsigned char *in = from;

    for (uint32_t i = 0; i < count; i++) {
        for (uint32_t run = 0; run < sg[i].count; run++) {
            memcpy(run_at(&sg[i], run), in, sg[i].length);
            in += sg[i].length;
        }
    }
}
