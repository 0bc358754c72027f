/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file sides.h
 * Random descriptions of chunks, all legal, and a plain reference for copies between them: one byte
 * after the other, by the formula in the header that describes the layout.
 */
#ifndef KVL_TEST_SIDES_H
#define KVL_TEST_SIDES_H

#include "cuda_ipc_plan.h"

#define SIDES_CHUNKS 6u
#define SIDES_BASES 16u
#define SIDES_BLOCKS 128u
#define SIDES_RUNS 128u

/** A range of addresses that a side is made in. */
struct sides_arena {
    uint64_t base;
    uint64_t size;
    uint64_t used;
};

/** The sizes of a batch. Both of its sides can hold them. */
struct sides_shape {
    uint32_t count;
    uint32_t planes;
    uint32_t layers;
    uint32_t align; /* every address and length is a multiple of it */
    uint64_t token_bytes;
    uint64_t bytes[SIDES_CHUNKS];
};

struct sides {
    struct cuda_ipc_side side;
    struct cuda_ipc_layout layout;
    uint64_t bases[SIDES_BASES];
    uint32_t blocks[SIDES_BLOCKS];
    uint32_t block_first[SIDES_CHUNKS + 1];
    struct kvl_sg sg[SIDES_RUNS];
    uint32_t sg_first[SIDES_CHUNKS + 1];
    uint64_t addrs[SIDES_CHUNKS];
};

/** The same numbers for the same seed on every machine. */
uint32_t sides_random(uint64_t *seed, uint32_t below);
void sides_fill(uint64_t *seed, void *bytes, size_t length);

/** @param align  a power of two up to 16 */
void sides_shape_make(struct sides_shape *shape, uint32_t align, uint64_t *seed);

/**
 * Puts a side into the arena; its memory does not overlap itself.
 * @param skips  1 = some blocks of a paged side are skipped
 */
void sides_make(struct sides *sides, enum cuda_ipc_side_kind kind, const struct sides_shape *shape,
                struct sides_arena *arena, int skips, uint64_t *seed);

/** Where byte `offset` of a chunk is; 0 when it is skipped. */
uint64_t sides_address(const struct sides *sides, const struct sides_shape *shape, uint32_t chunk,
                       uint64_t offset);

/** Copies the batch in images of two arenas, one byte after the other. */
void sides_copy(const struct sides_shape *shape, const struct sides *dst, uint8_t *dst_image,
                uint64_t dst_base, const struct sides *src, const uint8_t *src_image,
                uint64_t src_base);

#endif /* KVL_TEST_SIDES_H */
