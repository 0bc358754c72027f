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

/** `mem` of plain memory of this process. */
#define KVL_MEM_HOST 0u
/**
 * Since 1.2: memory of a CUDA device, as a CUdeviceptr; `device` is its ordinal in this process.
 * The core never touches such memory: it asks the backend that has the kind in its limits.
 */
#define KVL_MEM_CUDA 1u
/** `device` of plain memory of this process. */
#define KVL_DEVICE_HOST (-1)

/**
 * `count` runs of `length` bytes, the first at `addr`, each `stride` bytes after the one before.
 * The bytes of a chunk are its runs in order, descriptor after descriptor. With count 1 the stride
 * is ignored. The sum of all length * count must be the size of the chunk.
 */
struct kvl_sg {
    uint64_t mem; /* KVL_MEM_; one kind and one device for all runs of a batch */
    uint64_t addr; /* address in that memory */
    uint64_t length; /* bytes of one run */
    uint64_t stride; /* bytes from one run to the next */
    uint32_t count; /* runs, at least 1 */
    int32_t device; /* KVL_DEVICE_HOST */
};
KVL_STATIC_ASSERT(sizeof(struct kvl_sg) == 40, "struct kvl_sg is part of the ABI");

/**
 * An id in a block table of a load that names no block: its tokens are left out of the copy. A save
 * refuses it, since a chunk with a hole must not be shared under its key.
 */
#define KVL_BLOCK_SKIP 0xffffffffu

/**
 * A paged KV cache of an engine, since 1.2. Token t of block b in layer l lies at
 *
 *   bases[p * layers + l] + b * block_stride + t * token_stride      p = 0 keys, 1 values
 *
 * with `token_bytes` bytes. A chunk of n blocks is [planes][layers][n * block_tokens][token_bytes],
 * without gaps; a chunk whose size is a smaller number of tokens takes the first tokens of its last
 * block. Layers and values may lie in allocations of their own, all on one device.
 *
 * Instead of `bases` an engine in another process may be named by what LMCache's workers send: a
 * KVCache, the msgpack array of CudaIPCWrapper (section 5 of LMCache's multiprocess wire). Then
 * device, layers, planes, block_tokens, block_count, token_bytes and both strides must be 0: they
 * follow from shape and dtype of the tensors, [2, blocks, block_tokens, heads, head_size] or
 * [blocks, block_tokens, hidden].
 */
struct kvl_kv {
    uint32_t size; /* sizeof(struct kvl_kv) of the writer */
    uint32_t mem; /* KVL_MEM_ */
    int32_t device;
    uint32_t layers;
    uint32_t planes; /* 2 keys and values; 1 both in one (MLA) */
    uint32_t block_tokens;
    uint32_t block_count; /* ids in block tables are below it */
    uint32_t reserved; /* 0 */
    uint64_t token_bytes; /* one token, one plane, one layer */
    uint64_t token_stride; /* bytes; at least token_bytes */
    uint64_t block_stride; /* bytes; any that keeps blocks apart, also interleaved layers */
    const uint64_t *bases; /* planes * layers addresses; borrowed for the call */
    const void *kvcache; /* in place of bases; borrowed for the call */
    uint64_t kvcache_bytes;
};
KVL_STATIC_ASSERT(sizeof(struct kvl_kv) == 80, "append fields, bump the minor version");

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
