/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cuda_ipc_plan.h
 * Which bytes go where: from two descriptions of the same chunks to copies. Pure functions; nothing
 * is allocated, everything is written into the caller's arrays.
 *
 * A chunk is [planes][layers][tokens][token_bytes]; one layer of one plane of it is a slab. A side
 * says where the bytes of chunks lie, a span names a range of one chunk, a walk gives the spans of
 * a batch in the order in which they are to be copied, and a plan turns spans into pieces.
 */
#ifndef KVL_CUDA_IPC_PLAN_H
#define KVL_CUDA_IPC_PLAN_H

#include <stdbool.h>

#include <kvlane/io.h>

/** A paged KV cache: see struct kvl_kv. */
struct cuda_ipc_layout {
    uint32_t layers;
    uint32_t planes;
    uint32_t block_tokens;
    uint32_t block_count;
    uint64_t token_bytes;
    uint64_t token_stride;
    uint64_t block_stride;
    const uint64_t *bases; /* planes * layers */
};

enum cuda_ipc_side_kind {
    CUDA_IPC_SIDE_PAGED = 1, /* blocks of a paged KV cache */
    CUDA_IPC_SIDE_RUNS = 2, /* strided runs: struct kvl_sg */
    CUDA_IPC_SIDE_DEVICE = 3, /* each chunk without gaps, in device memory */
    CUDA_IPC_SIDE_HOST = 4, /* each chunk without gaps, in memory of this process */
};

/** Where the bytes of a batch's chunks are, or go. Everything is borrowed. */
struct cuda_ipc_side {
    enum cuda_ipc_side_kind kind;
    uint32_t reserved;
    /* PAGED; as in struct kvl_batch */
    const struct cuda_ipc_layout *layout;
    const uint32_t *blocks;
    const uint32_t *block_first;
    /* RUNS; as in struct kvl_batch */
    const struct kvl_sg *sg;
    const uint32_t *sg_first;
    /* DEVICE and HOST: chunk i begins at addrs[i]; NULL: at `base`, which may have wrapped around
     * so that the sum with an offset is right */
    const uint64_t *addrs;
    uint64_t base;
};

/** `bytes` bytes of chunk `chunk` from `offset` on. */
struct cuda_ipc_span {
    uint32_t chunk;
    uint32_t
        layers_done; /* all bytes of so many layers are in this and earlier spans; 0 = as before */
    uint64_t offset;
    uint64_t bytes;
};

/** `rows` rows of `bytes` bytes; a row begins `.._pitch` bytes after the one before it. */
struct cuda_ipc_piece {
    uint64_t dst;
    uint64_t src;
    uint64_t dst_pitch;
    uint64_t src_pitch;
    uint64_t bytes;
    uint64_t rows;
};

/**
 * Checks the fields of a layout against overflow, and that no two tokens of a layer share bytes.
 * @return 0; -EINVAL and err->text, which names the field.
 */
int cuda_ipc_layout_check(const struct cuda_ipc_layout *layout, struct kvl_err *err);

/** Bytes from a base to the end of its last token. Of a layout that was checked. */
uint64_t cuda_ipc_layout_extent(const struct cuda_ipc_layout *layout);

/** Largest power of two, up to 16, that divides bases, strides and token_bytes. */
uint32_t cuda_ipc_layout_alignment(const struct cuda_ipc_layout *layout);

/**
 * Checks a side against the sizes of its chunks: every block id, the number of blocks, the sum of
 * runs, whole numbers of tokens. After it no plan leaves the memory the side describes.
 * @param is_target  bytes are written there: a run must not overlap the next one
 * @return 0; -EINVAL.
 */
int cuda_ipc_side_check(const struct cuda_ipc_side *side, const uint64_t *bytes, uint32_t count,
                        bool is_target);

/** Whether a block table has KVL_BLOCK_SKIP: some bytes of the chunks are not copied. */
bool cuda_ipc_side_skips(const struct cuda_ipc_side *side, uint32_t count);

/** Largest power of two, up to 16, that divides all addresses, steps and lengths of a side. */
uint32_t cuda_ipc_side_alignment(const struct cuda_ipc_side *side, const uint64_t *bytes,
                                 uint32_t count);

/** Bytes that lie together, on average. Of a side that was checked. */
uint64_t cuda_ipc_side_fragment(const struct cuda_ipc_side *side, const uint64_t *bytes,
                                uint32_t count);

/** The order of spans, and how far it is. */
struct cuda_ipc_walk {
    const uint64_t *bytes; /* of each chunk; borrowed */
    uint32_t count;
    uint32_t planes; /* 0 = not known, as layers */
    uint32_t layers;
    uint32_t group; /* layers that are done together; 0 = chunk after chunk, whole */
    uint64_t token_bytes; /* 0 = not known */
    uint32_t layer;
    uint32_t plane;
    uint32_t chunk;
    uint32_t reserved;
    uint64_t done; /* bytes of the current range */
};

/**
 * @param layout  of the paged side; NULL when there is none
 * @param group   layers that all chunks have before the next ones begin; 0 or without a layout:
 *                one chunk after the other
 */
void cuda_ipc_walk_init(struct cuda_ipc_walk *walk, const struct cuda_ipc_layout *layout,
                        uint32_t group, const uint64_t *bytes, uint32_t count);

/**
 * The next span, of at most `limit` bytes. A span that is cut is cut after a slab, else after a
 * token, else anywhere.
 * @return false when there is none any more.
 */
bool cuda_ipc_walk_next(struct cuda_ipc_walk *walk, uint64_t limit, struct cuda_ipc_span *span_out);

/** The two sides, and where each was when it was last looked at: runs are searched from there. */
struct cuda_ipc_plan {
    const struct cuda_ipc_side *dst;
    const struct cuda_ipc_side *src;
    const uint64_t *bytes;
    struct cuda_ipc_plan_hint {
        uint32_t chunk;
        uint32_t index; /* in sg */
        uint64_t offset; /* of the chunk, where sg[index] begins */
    } hints[2];
};

/** @param bytes  of each chunk; everything is borrowed, both sides were checked */
void cuda_ipc_plan_init(struct cuda_ipc_plan *plan, const struct cuda_ipc_side *dst,
                        const struct cuda_ipc_side *src, const uint64_t *bytes);

/**
 * Turns a span into pieces, in order; neighbours on both sides become one. Skipped blocks give
 * none.
 * @param span  shortened by what was written; 0 bytes left = done
 * @return pieces written, at most `room`; may be 0 with nothing left.
 */
uint32_t cuda_ipc_plan_next(struct cuda_ipc_plan *plan, struct cuda_ipc_span *span,
                            struct cuda_ipc_piece *pieces_out, uint32_t room);

#endif /* KVL_CUDA_IPC_PLAN_H */
