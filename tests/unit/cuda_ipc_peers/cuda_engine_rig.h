/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cuda_engine_rig.h
 * An engine on the fake driver: a paged KV cache in device memory, and an instance of the backend
 * that is driven through its table. Several may live in one process. Failures end the process.
 */
#ifndef KVL_ENGINE_RIG_H
#define KVL_ENGINE_RIG_H

#include <kvlane/backend.h>

#include "cuda_ipc_core.h"
#include "cuda_rig.h"
#include "fake_host.h"

#define ENGINE_LAYERS 3u
#define ENGINE_PLANES 2u
#define ENGINE_BLOCK_TOKENS 4u
#define ENGINE_BLOCKS 64u
#define ENGINE_TOKEN_BYTES 96u
/** A chunk is so many blocks. */
#define ENGINE_CHUNK_BLOCKS 4u
#define ENGINE_CHUNK_BYTES                                                                         \
    ((uint64_t)ENGINE_PLANES * ENGINE_LAYERS * ENGINE_CHUNK_BLOCKS * ENGINE_BLOCK_TOKENS *         \
     ENGINE_TOKEN_BYTES)
#define ENGINE_BLOCK_BYTES ((uint64_t)ENGINE_BLOCK_TOKENS * ENGINE_TOKEN_BYTES)
#define ENGINE_BASE_BYTES (ENGINE_BLOCKS * ENGINE_BLOCK_BYTES)
#define ENGINE_PAIRS_MAX 24

struct cuda_engine_rig {
    struct cuda_rig *cuda; /* borrowed */
    const char *pairs[2 * ENGINE_PAIRS_MAX + 1];
    struct fake_host *fake;
    struct kvl_host table; /* the fake's, with a log that is kept */
    struct kvl_log log;
    char errors[4096]; /* lines of level error */
    char warnings[4096];
    const struct kvl_backend_ops *ops;
    struct cuda_ipc *self; /* the instance: tests may look inside */
    cuda_ptr cache; /* all bases, one after the other */
    uint64_t kv; /* its number; 0 = not registered */
    uint64_t cookie;
    uint32_t flags; /* of batches */
};

/** @param pairs  settings beside the defaults of the rig, NULL at the end; they win */
void cuda_engine_init(struct cuda_engine_rig *rig, struct cuda_rig *cuda, const char *const *pairs);
/** Starts the instance. @return what start said, with err. */
int cuda_engine_try_start(struct cuda_engine_rig *rig, struct kvl_err *err);
/** Starts it, and registers a new cache. */
void cuda_engine_start(struct cuda_engine_rig *rig);
/** Stops, checks that nothing is left over, and frees. */
void cuda_engine_fini(struct cuda_engine_rig *rig);

/** Byte of a chunk's content: differs from seed to seed. */
uint8_t cuda_engine_byte(uint32_t seed, uint64_t at);
/** Puts the content of a chunk into its blocks, first, first + 1, .. */
void cuda_engine_fill(struct cuda_engine_rig *rig, uint32_t first_block, uint32_t seed);
/** 1 when the blocks hold that content. */
int cuda_engine_holds(struct cuda_engine_rig *rig, uint32_t first_block, uint32_t seed);

typedef int (*cuda_engine_submit_fn)(void *self, const struct kvl_batch *batch);

/**
 * `count` chunks with keys `prefix`0, `prefix`1, ..; chunk i in the blocks from
 * first_block + i * ENGINE_CHUNK_BLOCKS on. Submits and waits.
 * @return what submit said, else the status of the batch; result_out may be NULL.
 */
int cuda_engine_batch(struct cuda_engine_rig *rig, cuda_engine_submit_fn submit, const char *prefix,
                      uint32_t count, uint32_t first_block, struct fake_result *result_out);
/** The same without waiting. @return what submit said; the cookie is rig->cookie. */
int cuda_engine_submit(struct cuda_engine_rig *rig, cuda_engine_submit_fn submit,
                       const char *prefix, uint32_t count, uint32_t first_block, uint64_t stream);

/** Fills blocks with content (seed + i) and writes it to the pool. */
void cuda_engine_save(struct cuda_engine_rig *rig, const char *prefix, uint32_t count,
                      uint32_t seed);
/** Reads to other blocks and compares. @return the status of the batch. */
int cuda_engine_load(struct cuda_engine_rig *rig, const char *prefix, uint32_t count,
                     uint32_t seed);
/** Looks one chunk up. */
int cuda_engine_has(struct cuda_engine_rig *rig, const char *key);

/** Has `rig` told of `other`, as channels do. */
void cuda_engine_meet(struct cuda_engine_rig *rig, struct cuda_engine_rig *other);
/** Waits until it has so many links. */
void cuda_engine_await_links(struct cuda_engine_rig *rig, uint64_t count);

uint64_t cuda_engine_stat(struct cuda_engine_rig *rig, const char *name);
struct kvl_health cuda_engine_health(struct cuda_engine_rig *rig);

#endif /* KVL_ENGINE_RIG_H */
