/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>

#include "cuda_ipc_plan.h"
#include "setting.h"

#define ALIGNMENT_MAX 16u

/* a * b + c without overflow */
static bool mul_add(uint64_t a, uint64_t b, uint64_t c, uint64_t *sum_out)
{
    return !__builtin_mul_overflow(a, b, sum_out) && !__builtin_add_overflow(*sum_out, c, sum_out);
}

/* Bytes from the first to the end of the last of `count` things of `bytes` bytes. */
static bool side_extent(uint64_t count, uint64_t stride, uint64_t bytes, uint64_t *extent_out)
{
    return mul_add(count - 1, stride, bytes, extent_out);
}

/* ---- layouts ---- */

static int layout_check_strides(const struct cuda_ipc_layout *layout, struct kvl_err *err)
{
    uint64_t block;
    uint64_t blocks;
    uint64_t extent;

    if (layout->token_stride < layout->token_bytes) {
        return kvl_fail(
            err, -EINVAL, "cuda_ipc: token_stride %llu of a KV cache is below its token_bytes %llu",
            (unsigned long long)layout->token_stride, (unsigned long long)layout->token_bytes);
    }
    if (!side_extent(layout->block_tokens, layout->token_stride, layout->token_bytes, &block) ||
        !side_extent(layout->block_count, layout->block_stride, layout->token_bytes, &blocks) ||
        !side_extent(layout->block_count, layout->block_stride, block, &extent) ||
        extent > INT64_MAX) {
        return kvl_fail(err, -EINVAL, "cuda_ipc: the strides of a KV cache go beyond its memory");
    }
    /* tokens within blocks, or blocks within tokens */
    if (layout->block_count > 1 && layout->block_stride < block &&
        !(layout->block_stride >= layout->token_bytes &&
          (layout->block_tokens == 1 || layout->token_stride >= blocks))) {
        return kvl_fail(err, -EINVAL,
                        "cuda_ipc: block_stride %llu of a KV cache does not keep blocks of %llu "
                        "bytes apart",
                        (unsigned long long)layout->block_stride, (unsigned long long)block);
    }
    return 0;
}

int cuda_ipc_layout_check(const struct cuda_ipc_layout *layout, struct kvl_err *err)
{
    const struct {
        const char *name;
        uint64_t value;
    } fields[] = {
        {"layers", layout->layers},
        {"planes", layout->planes},
        {"block_tokens", layout->block_tokens},
        {"block_count", layout->block_count},
        {"token_bytes", layout->token_bytes},
    };
    uint64_t chunk;
    int r;

    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        if (fields[i].value == 0) {
            return kvl_fail(err, -EINVAL, "cuda_ipc: %s of a KV cache is 0", fields[i].name);
        }
    }
    if (layout->planes > 2) {
        return kvl_fail(err, -EINVAL, "cuda_ipc: planes of a KV cache is %u, it must be 1 or 2",
                        (unsigned int)layout->planes);
    }
    if (layout->block_count == KVL_BLOCK_SKIP) {
        return kvl_fail(err, -EINVAL, "cuda_ipc: block_count of a KV cache is too large");
    }
    r = layout_check_strides(layout, err);
    if (r < 0) {
        return r;
    }
    if (!mul_add((uint64_t)layout->planes * layout->layers, layout->token_bytes, 0, &chunk)) {
        return kvl_fail(err, -EINVAL, "cuda_ipc: token_bytes of a KV cache is too large");
    }
    for (uint64_t i = 0; i < (uint64_t)layout->planes * layout->layers; i++) {
        if (layout->bases[i] == 0 ||
            layout->bases[i] + cuda_ipc_layout_extent(layout) < layout->bases[i]) {
            return kvl_fail(err, -EINVAL, "cuda_ipc: base %llu of a KV cache is no address",
                            (unsigned long long)i);
        }
    }
    return 0;
}

uint64_t cuda_ipc_layout_extent(const struct cuda_ipc_layout *layout)
{
    return (layout->block_count - 1) * layout->block_stride +
           (layout->block_tokens - 1) * layout->token_stride + layout->token_bytes;
}

uint32_t cuda_ipc_layout_alignment(const struct cuda_ipc_layout *layout)
{
    uint64_t bits =
        ALIGNMENT_MAX | layout->token_bytes | layout->token_stride | layout->block_stride;

    for (uint64_t i = 0; i < (uint64_t)layout->planes * layout->layers; i++) {
        bits |= layout->bases[i];
    }
    return (uint32_t)(bits & -bits);
}

/* ---- sides ---- */

static bool side_is_contiguous(const struct kvl_sg *sg)
{
    return sg->count == 1 || sg->stride == sg->length;
}

static int side_check_paged(const struct cuda_ipc_side *side, const uint64_t *bytes, uint32_t count)
{
    const struct cuda_ipc_layout *layout = side->layout;
    const uint64_t per_token = (uint64_t)layout->planes * layout->layers * layout->token_bytes;

    for (uint32_t i = 0; i < count; i++) {
        const uint32_t first = side->block_first[i];
        const uint32_t end = side->block_first[i + 1];
        const uint64_t tokens = bytes[i] / per_token;

        if (end <= first || tokens == 0 || tokens * per_token != bytes[i]) {
            return -EINVAL;
        }
        if ((tokens - 1) / layout->block_tokens + 1 != end - first) {
            return -EINVAL;
        }
        for (uint32_t j = first; j < end; j++) {
            if (side->blocks[j] >= layout->block_count && side->blocks[j] != KVL_BLOCK_SKIP) {
                return -EINVAL;
            }
        }
    }
    return 0;
}

static int side_check_run(const struct kvl_sg *sg, bool is_target, uint64_t *sum)
{
    uint64_t bytes;
    uint64_t extent;
    uint64_t end;

    if (sg->count == 0 || !mul_add(sg->length, sg->count, *sum, &bytes)) {
        return -EINVAL;
    }
    *sum = bytes;
    if (sg->length == 0) {
        return 0;
    }
    if (is_target && sg->count > 1 && sg->stride < sg->length) {
        return -EINVAL;
    }
    extent = sg->length;
    if (sg->count > 1 && !side_extent(sg->count, sg->stride, sg->length, &extent)) {
        return -EINVAL;
    }
    return sg->addr == 0 || __builtin_add_overflow(sg->addr, extent, &end) ? -EINVAL : 0;
}

static int side_check_runs(const struct cuda_ipc_side *side, const uint64_t *bytes, uint32_t count,
                           bool is_target)
{
    for (uint32_t i = 0; i < count; i++) {
        uint64_t sum = 0;

        if (side->sg_first[i + 1] < side->sg_first[i]) {
            return -EINVAL;
        }
        for (uint32_t j = side->sg_first[i]; j < side->sg_first[i + 1]; j++) {
            const int r = side_check_run(&side->sg[j], is_target, &sum);

            if (r < 0) {
                return r;
            }
        }
        if (sum != bytes[i]) {
            return -EINVAL;
        }
    }
    return 0;
}

static int side_check_whole(const struct cuda_ipc_side *side, const uint64_t *bytes, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (bytes[i] > 0 && (side->addrs[i] == 0 || side->addrs[i] + bytes[i] < bytes[i])) {
            return -EINVAL;
        }
    }
    return 0;
}

int cuda_ipc_side_check(const struct cuda_ipc_side *side, const uint64_t *bytes, uint32_t count,
                        bool is_target)
{
    switch (side->kind) {
    case CUDA_IPC_SIDE_PAGED:
        if (side->layout == NULL || side->blocks == NULL || side->block_first == NULL) {
            return -EINVAL;
        }
        return side_check_paged(side, bytes, count);
    case CUDA_IPC_SIDE_RUNS:
        if (side->sg == NULL || side->sg_first == NULL) {
            return -EINVAL;
        }
        return side_check_runs(side, bytes, count, is_target);
    case CUDA_IPC_SIDE_DEVICE:
    case CUDA_IPC_SIDE_HOST:
        return side->addrs == NULL ? -EINVAL : side_check_whole(side, bytes, count);
    }
    return -EINVAL;
}

bool cuda_ipc_side_skips(const struct cuda_ipc_side *side, uint32_t count)
{
    if (side->kind != CUDA_IPC_SIDE_PAGED) {
        return false;
    }
    for (uint32_t i = side->block_first[0]; i < side->block_first[count]; i++) {
        if (side->blocks[i] == KVL_BLOCK_SKIP) {
            return true;
        }
    }
    return false;
}

uint32_t cuda_ipc_side_alignment(const struct cuda_ipc_side *side, const uint64_t *bytes,
                                 uint32_t count)
{
    uint64_t bits = ALIGNMENT_MAX;

    for (uint32_t i = 0; i < count; i++) {
        bits |= bytes[i];
    }
    if (side->kind == CUDA_IPC_SIDE_PAGED) {
        bits |= cuda_ipc_layout_alignment(side->layout);
    } else if (side->kind == CUDA_IPC_SIDE_RUNS) {
        for (uint32_t i = side->sg_first[0]; i < side->sg_first[count]; i++) {
            const struct kvl_sg *sg = &side->sg[i];

            bits |= sg->length == 0 ? 0 : sg->addr | sg->length;
            bits |= sg->count > 1 && sg->length > 0 ? sg->stride : 0;
        }
    } else {
        for (uint32_t i = 0; i < count; i++) {
            bits |= side->addrs[i];
        }
    }
    return (uint32_t)(bits & -bits);
}

static uint64_t side_fragments_of_runs(const struct cuda_ipc_side *side, uint32_t count)
{
    uint64_t fragments = 0;

    for (uint32_t i = side->sg_first[0]; i < side->sg_first[count]; i++) {
        if (side->sg[i].length > 0) {
            fragments += side_is_contiguous(&side->sg[i]) ? 1 : side->sg[i].count;
        }
    }
    return fragments;
}

uint64_t cuda_ipc_side_fragment(const struct cuda_ipc_side *side, const uint64_t *bytes,
                                uint32_t count)
{
    uint64_t sum = 0;
    uint64_t fragments = count;

    for (uint32_t i = 0; i < count; i++) {
        sum += bytes[i];
    }
    if (side->kind == CUDA_IPC_SIDE_RUNS) {
        fragments = side_fragments_of_runs(side, count);
    } else if (side->kind == CUDA_IPC_SIDE_PAGED) {
        const struct cuda_ipc_layout *layout = side->layout;
        const uint64_t slabs = (uint64_t)layout->planes * layout->layers;

        fragments = layout->token_stride == layout->token_bytes
                        ? slabs * (side->block_first[count] - side->block_first[0])
                        : sum / layout->token_bytes;
    }
    return fragments == 0 ? sum : sum / fragments;
}
