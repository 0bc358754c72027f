/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file io.h
 * Batches, completions and the error record. One operation is a batch of one.
 */
#ifndef KVL_IO_H
#define KVL_IO_H

#include <kvlane/key.h>
#include <kvlane/mem.h>

KVL_EXTERN_C_BEGIN

/** `attrs` are what the reader expects; a chunk with others is -EBADMSG. Reads only. */
#define KVL_CHUNK_EXPECT_ATTRS (1u << 0)
/** `checksum` holds the XXH3-64 of the bytes. */
#define KVL_CHUNK_HAS_CHECKSUM (1u << 1)

/** One chunk of a batch. The array of them is borrowed for the call. */
struct kvl_chunk {
    struct kvl_key key;
    struct kvl_attrs attrs; /* write: stored with the bytes; read: see flags */
    uint64_t bytes; /* write: size; read: size expected, 0 = any; lookup, remove: 0 */
    uint64_t checksum; /* see flags; on a read what the reader expects: others are -EBADMSG */
    uint32_t flags; /* KVL_CHUNK_ */
    uint32_t reserved; /* 0 */
};
KVL_STATIC_ASSERT(sizeof(struct kvl_chunk) == 64, "struct kvl_chunk is part of the ABI");

/** save: replace a chunk that is already stored. Without it such a chunk only counts as used. */
#define KVL_BATCH_OVERWRITE (1u << 0)
/** save: keep the chunks in the local store only, whatever `put_to` says. */
#define KVL_BATCH_LOCAL_ONLY (1u << 1)
/**
 * Since 1.2. lookup, load: only what this process keeps itself: the own store, and backends with
 * KVL_CAP_HELD, which are passed the flag and do not ask their peers.
 */
#define KVL_BATCH_HELD (1u << 2)

/** Most chunks in one batch. */
#define KVL_BATCH_MAX 65536u

/**
 * A batch of chunks. Chunk i owns the runs sg[sg_first[i]] up to, not including,
 * sg[sg_first[i + 1]]; so `sg_first` has count + 1 entries. Both are NULL where an operation moves
 * no bytes, and on reads whose target the reader of the batch is to ask for.
 */
struct kvl_batch {
    uint32_t size; /* sizeof(struct kvl_batch) of the writer */
    uint32_t count; /* chunks, 1 .. KVL_BATCH_MAX */
    uint64_t cookie; /* backend ABI: names the batch in its completion; host ABI: 0 */
    uint64_t deadline_ms; /* absolute; 0 = the default of the INI file, KVL_NEVER = none */
    const struct kvl_chunk *chunks;
    const struct kvl_sg *sg;
    const uint32_t *sg_first;
    uint32_t flags; /* KVL_BATCH_ */
    uint32_t reserved; /* 0 */
    /* Since 1.2: loads and saves may name blocks of a paged KV cache in place of `sg`. Chunk i owns
     * blocks[block_first[i]] up to, not including, blocks[block_first[i + 1]]; its `bytes` say how
     * many tokens, which must need all of its blocks. */
    uint64_t kv; /* host ABI: of register_kv; backend ABI: of kv_register; 0 = none */
    const uint32_t *blocks;
    const uint32_t *block_first; /* count + 1 entries */
    /* The engine's stream (a CUstream, as a number), for memory of a device; 0 = none, the memory
     * is at rest. Bytes are read, or written, after what was queued there when the call was
     * made. */
    uint64_t stream;
};
/** Size of the record before 1.2; the reader takes the rest as 0. */
#define KVL_BATCH_SIZE_1_0 56u
KVL_STATIC_ASSERT(sizeof(struct kvl_batch) == 88, "append fields, bump the minor version");

/**
 * The end of one accepted batch, reported once.
 * Per item: 0; -ENOENT a miss; -EBADMSG bytes of another size, other attributes, or a failed check;
 * -ECANCELED; -ETIMEDOUT; -ENOTCONN, -ECONNRESET peer gone; -EMSGSIZE beyond a limit; -EIO.
 */
struct kvl_completion {
    uint32_t size; /* sizeof(struct kvl_completion) of the writer */
    int32_t status; /* 0, or the first failure; holds for every item when item_status is NULL */
    uint64_t cookie; /* of the batch */
    uint64_t bytes; /* payload moved */
    const int32_t *item_status; /* one per chunk, valid during the call; or NULL */
    uint32_t item_count; /* entries of item_status */
    int32_t backend_code; /* the transport's own code of the first failure, 0 if none */
};
KVL_STATIC_ASSERT(sizeof(struct kvl_completion) == 40, "struct kvl_completion is part of the ABI");

/** Why a call failed, for people. The caller sets `size`; the callee fills what fits. */
struct kvl_err {
    uint32_t size; /* sizeof(struct kvl_err) of the caller */
    int32_t code; /* the negative errno that was returned */
    int32_t os_errno; /* positive errno of the system call behind it, or 0 */
    int32_t backend_code; /* the backend's own code, or 0 */
    uint32_t retryable; /* 1 = the same call may succeed later */
    uint32_t reserved; /* 0 */
    char text[1000]; /* terminated; one sentence, or one line per error of an INI file */
};
KVL_STATIC_ASSERT(sizeof(struct kvl_err) == 1024, "struct kvl_err is part of the ABI");

KVL_EXTERN_C_END

#endif /* KVL_IO_H */
