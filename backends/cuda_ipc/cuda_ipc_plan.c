/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda_ipc_plan.h"

/* ---- the order ---- */

void cuda_ipc_walk_init(struct cuda_ipc_walk *walk, const struct cuda_ipc_layout *layout,
                        uint32_t group, const uint64_t *bytes, uint32_t count)
{
    *walk = (struct cuda_ipc_walk){.bytes = bytes, .count = count};
    if (layout != NULL) {
        walk->planes = layout->planes;
        walk->layers = layout->layers;
        walk->group = group < layout->layers ? group : layout->layers;
        walk->token_bytes = layout->token_bytes;
    }
}

static uint32_t walk_group(const struct cuda_ipc_walk *walk)
{
    const uint32_t left = walk->layers - walk->layer;

    return walk->group < left ? walk->group : left;
}

static uint64_t walk_slab(const struct cuda_ipc_walk *walk)
{
    const uint64_t slabs = (uint64_t)walk->planes * walk->layers;

    return slabs == 0 ? 0 : walk->bytes[walk->chunk] / slabs;
}

/* How much of `bytes` to take, which is less than the range has left. */
static uint64_t walk_cut(const struct cuda_ipc_walk *walk, uint64_t bytes)
{
    const uint64_t units[] = {walk_slab(walk), walk->token_bytes};

    for (int i = 0; i < 2; i++) {
        if (units[i] > 0) {
            const uint64_t over = (walk->done + bytes) % units[i];

            if (over < bytes) {
                return bytes - over;
            }
        }
    }
    return bytes;
}

/* Goes on to the next range. @return layers that are done with it, 0 when none are. */
static uint32_t walk_advance(struct cuda_ipc_walk *walk)
{
    uint32_t done = 0;

    walk->done = 0;
    if (walk->group == 0) {
        walk->chunk++;
        return walk->chunk == walk->count ? walk->layers : 0;
    }
    if (++walk->plane == walk->planes) {
        walk->plane = 0;
        if (++walk->chunk == walk->count) {
            walk->layer += walk_group(walk);
            done = walk->layer;
            walk->chunk = walk->layer < walk->layers ? 0 : walk->count;
        }
    }
    return done;
}

bool cuda_ipc_walk_next(struct cuda_ipc_walk *walk, uint64_t limit, struct cuda_ipc_span *span_out)
{
    while (walk->chunk < walk->count && limit > 0) {
        const uint64_t slab = walk_slab(walk);
        const uint64_t range =
            walk->group == 0 ? walk->bytes[walk->chunk] : walk_group(walk) * slab;
        const uint64_t first =
            walk->group == 0 ? 0 : ((uint64_t)walk->plane * walk->layers + walk->layer) * slab;
        uint64_t bytes = range - walk->done;

        if (bytes == 0) {
            (void)walk_advance(walk);
            continue;
        }
        if (bytes > limit) {
            bytes = walk_cut(walk, limit);
        }
        *span_out = (struct cuda_ipc_span){
            .chunk = walk->chunk, .offset = first + walk->done, .bytes = bytes};
        walk->done += bytes;
        if (walk->done == range) {
            span_out->layers_done = walk_advance(walk);
        }
        return true;
    }
    return false;
}

/* ---- pieces ---- */

/* Longer rows are pieces of their own: neither kernel nor driver takes pitches without end. */
#define ROW_MAX (1ull << 30)

/** What a side has at an offset: rows of the same length. */
struct plan_extent {
    uint64_t addr;
    uint64_t bytes; /* of a row */
    uint64_t pitch;
    uint64_t rows;
    bool is_skipped; /* then one row */
};

void cuda_ipc_plan_init(struct cuda_ipc_plan *plan, const struct cuda_ipc_side *dst,
                        const struct cuda_ipc_side *src, const uint64_t *bytes)
{
    *plan = (struct cuda_ipc_plan){.dst = dst, .src = src, .bytes = bytes};
    plan->hints[0].chunk = UINT32_MAX;
    plan->hints[1].chunk = UINT32_MAX;
}

static struct plan_extent extent_paged(const struct cuda_ipc_side *side,
                                       const struct cuda_ipc_span *span, uint64_t chunk_bytes)
{
    const struct cuda_ipc_layout *layout = side->layout;
    const uint64_t slab = chunk_bytes / ((uint64_t)layout->planes * layout->layers);
    const uint64_t in_slab = span->offset % slab;
    const uint64_t token = in_slab / layout->token_bytes;
    const uint64_t in_token = in_slab % layout->token_bytes;
    const uint64_t in_block = token % layout->block_tokens;
    const uint64_t tokens_left = slab / layout->token_bytes - token;
    const uint64_t block_left = layout->block_tokens - in_block;
    const uint64_t tokens = tokens_left < block_left ? tokens_left : block_left;
    const uint32_t id = side->blocks[side->block_first[span->chunk] + token / layout->block_tokens];
    struct plan_extent extent = {.rows = 1};

    extent.is_skipped = id == KVL_BLOCK_SKIP;
    extent.addr = layout->bases[span->offset / slab] + id * layout->block_stride +
                  in_block * layout->token_stride + in_token;
    if (extent.is_skipped || layout->token_stride == layout->token_bytes) {
        extent.bytes = tokens * layout->token_bytes - in_token;
    } else if (in_token > 0) {
        extent.bytes = layout->token_bytes - in_token;
    } else {
        extent.bytes = layout->token_bytes;
        extent.pitch = layout->token_stride;
        extent.rows = tokens;
    }
    return extent;
}

static struct plan_extent extent_runs(const struct cuda_ipc_side *side,
                                      const struct cuda_ipc_span *span,
                                      struct cuda_ipc_plan_hint *hint)
{
    const struct kvl_sg *sg;
    uint64_t in_sg;
    uint64_t in_row;
    struct plan_extent extent = {.rows = 1};

    if (hint->chunk != span->chunk || span->offset < hint->offset) {
        *hint =
            (struct cuda_ipc_plan_hint){.chunk = span->chunk, .index = side->sg_first[span->chunk]};
    }
    sg = &side->sg[hint->index];
    while (span->offset - hint->offset >= sg->length * sg->count) {
        hint->offset += sg->length * sg->count;
        sg = &side->sg[++hint->index];
    }
    in_sg = span->offset - hint->offset;
    if (sg->count == 1 || sg->stride == sg->length) {
        extent.addr = sg->addr + in_sg;
        extent.bytes = sg->length * sg->count - in_sg;
        return extent;
    }
    in_row = in_sg % sg->length;
    extent.addr = sg->addr + in_sg / sg->length * sg->stride + in_row;
    extent.bytes = sg->length - in_row;
    if (in_row == 0) {
        extent.pitch = sg->stride;
        extent.rows = sg->count - in_sg / sg->length;
    }
    return extent;
}

static struct plan_extent plan_extent(struct cuda_ipc_plan *plan, int which,
                                      const struct cuda_ipc_span *span)
{
    const struct cuda_ipc_side *side = which == 0 ? plan->dst : plan->src;

    switch (side->kind) {
    case CUDA_IPC_SIDE_PAGED:
        return extent_paged(side, span, plan->bytes[span->chunk]);
    case CUDA_IPC_SIDE_RUNS:
        return extent_runs(side, span, &plan->hints[which]);
    default:
        return (struct plan_extent){
            .addr = (side->addrs != NULL ? side->addrs[span->chunk] : side->base) + span->offset,
            .bytes = span->bytes,
            .rows = 1,
        };
    }
}

static uint64_t min_of(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* What both sides have from here on, at most `limit` bytes. */
static struct cuda_ipc_piece plan_meet(const struct plan_extent *dst, const struct plan_extent *src,
                                       uint64_t limit)
{
    struct cuda_ipc_piece piece = {
        .dst = dst->addr,
        .src = src->addr,
        .bytes = min_of(limit, min_of(dst->bytes, src->bytes)),
        .rows = 1,
    };
    const uint64_t row = dst->rows > 1 ? dst->bytes : src->bytes;

    /* rows against rows of the same length, or against a stretch of at least one row */
    if ((dst->rows > 1 || src->rows > 1) && piece.bytes == row) {
        const uint64_t dst_rows = dst->rows > 1 ? dst->rows : dst->bytes / row;
        const uint64_t src_rows = src->rows > 1 ? src->rows : src->bytes / row;

        if ((dst->rows == 1 || dst->bytes == row) && (src->rows == 1 || src->bytes == row) &&
            row <= ROW_MAX) {
            piece.rows = min_of(limit / row, min_of(dst_rows, src_rows));
            piece.dst_pitch = dst->rows > 1 ? dst->pitch : row;
            piece.src_pitch = src->rows > 1 ? src->pitch : row;
        }
    }
    return piece;
}

/* Whether a piece goes on where the last one ends; then it is part of it. */
static bool plan_merge(struct cuda_ipc_piece *last, const struct cuda_ipc_piece *piece)
{
    if (last->rows != 1 || piece->rows != 1 || last->dst + last->bytes != piece->dst ||
        last->src + last->bytes != piece->src) {
        return false;
    }
    last->bytes += piece->bytes;
    return true;
}

uint32_t cuda_ipc_plan_next(struct cuda_ipc_plan *plan, struct cuda_ipc_span *span,
                            struct cuda_ipc_piece *pieces_out, uint32_t room)
{
    uint32_t n = 0;

    while (span->bytes > 0) {
        const struct plan_extent dst = plan_extent(plan, 0, span);
        const struct plan_extent src = plan_extent(plan, 1, span);
        struct cuda_ipc_piece piece = plan_meet(&dst, &src, span->bytes);
        uint64_t bytes = piece.bytes * piece.rows;

        if (dst.is_skipped || src.is_skipped) {
            /* not less than that is skipped, whatever the other side has here */
            bytes = min_of(span->bytes, dst.is_skipped ? dst.bytes : src.bytes);
        } else if (n == 0 || !plan_merge(&pieces_out[n - 1], &piece)) {
            if (n == room) {
                break;
            }
            pieces_out[n++] = piece;
        }
        span->offset += bytes;
        span->bytes -= bytes;
    }
    return n;
}
