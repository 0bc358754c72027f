/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file mem.h
 * Memory as it crosses both ABIs: scatter-gather runs of the caller's memory, and leases on chunks
 * in the local store.
 */
#ifndef KVL_MEM_H
#define KVL_MEM_H

#include <kvlane/key.h>

KVL_EXTERN_C_BEGIN

/** `mem` of plain memory of this process. Other numbers name memory kinds of backends. */
#define KVL_MEM_HOST 0u
/** `device` of plain memory of this process. */
#define KVL_DEVICE_HOST (-1)

/**
 * `count` runs of `length` bytes, the first at `addr`, each `stride` bytes after the one before.
 * The bytes of a chunk are its runs in order, descriptor after descriptor. With count 1 the stride
 * is ignored. The sum of all length * count must be the size of the chunk.
 */
struct kvl_sg {
    uint64_t mem; /* KVL_MEM_HOST */
    uint64_t addr; /* address in that memory */
    uint64_t length; /* bytes of one run */
    uint64_t stride; /* bytes from one run to the next */
    uint32_t count; /* runs, at least 1 */
    int32_t device; /* KVL_DEVICE_HOST */
};
KVL_STATIC_ASSERT(sizeof(struct kvl_sg) == 40, "struct kvl_sg is part of the ABI");

/**
 * A lease on one chunk of the local store: the bytes at `data` neither move nor change until the
 * lease is given back, also when the chunk is overwritten, removed or evicted meanwhile. It has one
 * owner and is given back exactly once, from any thread.
 */
struct kvl_view {
    const void *data; /* NULL when length is 0 */
    uint64_t length; /* bytes */
    struct kvl_attrs attrs;
    uint64_t checksum; /* XXH3-64 of the bytes, 0 when the store keeps none */
    uint64_t lease; /* what release wants back; opaque */
};
KVL_STATIC_ASSERT(sizeof(struct kvl_view) == 56, "struct kvl_view is part of the ABI");

KVL_EXTERN_C_END

#endif /* KVL_MEM_H */
