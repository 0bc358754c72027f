/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file fake_cuda_copy.h
 * Copies as they wait in a stream.
 */
#ifndef KVL_FAKE_CUDA_COPY_H
#define KVL_FAKE_CUDA_COPY_H

#include "fake_cuda_objects.h"

/** `rows` rows of `bytes` bytes. */
struct fake_copy {
    cuda_ptr dst;
    cuda_ptr src;
    size_t bytes;
    size_t rows;
    size_t dst_pitch;
    size_t src_pitch;
    enum fake_place dst_place; /* at submission */
    enum fake_place src_place;
    uint8_t *staged; /* the source as it was at submission, packed; owned. NULL: read it later */
};

/** What may stand on one side of a copy. */
#define FAKE_ON_DEVICE 1u
#define FAKE_ON_HOST 2u

/** Bytes from the first to the last that one side of a copy touches. */
static inline size_t fake_copy_span(size_t bytes, size_t rows, size_t pitch)
{
    return (rows - 1) * pitch + bytes;
}

struct fake_copies {
    struct fake_op op;
    uint32_t count;
    int shuffle; /* order of chance */
    int waits; /* writes to pageable memory: the call returns when it is done */
    struct fake_copy items[];
};

struct fake_copies *fake_copies_create(uint32_t count);
/** Takes NULL. */
void fake_copies_destroy(struct fake_copies *copies);

/**
 * Checks both sides of a copy, and takes the bytes of its source now if `stage` is set.
 * With fake.lock, which it drops while it copies.
 */
cuda_result fake_copy_prepare(struct fake_copies *copies, uint32_t item, unsigned int dst_on,
                              unsigned int src_on, int stage);

/** Puts prepared copies into a stream; takes them, also when it fails. With fake.lock. */
cuda_result fake_copies_submit(struct fake_copies *copies, cuda_stream stream);

#endif /* KVL_FAKE_CUDA_COPY_H */
