/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file memory_rig.h
 * An engine with a paged KV cache, in host memory or in that of mock_memory, and batches that name
 * its blocks. The pattern of a chunk follows from a number, so that any copy of it can be checked.
 */
#ifndef KVL_TESTS_MEMORY_RIG_H
#define KVL_TESTS_MEMORY_RIG_H

#include "engine.h"
#include "mock_memory.h"

#define RIG_LAYERS 3u
#define RIG_PLANES 2u
#define RIG_BLOCK_TOKENS 4u
#define RIG_BLOCKS 32u
#define RIG_TOKEN_BYTES 16u
#define RIG_ROWS (RIG_LAYERS * RIG_PLANES)
/** Bytes of a chunk of so many tokens. */
#define RIG_BYTES(tokens) ((uint64_t)RIG_ROWS * (tokens)*RIG_TOKEN_BYTES)
/** A whole chunk: two blocks. */
#define RIG_CHUNK RIG_BYTES(2 * RIG_BLOCK_TOKENS)
#define RIG_ROW_BYTES (RIG_BLOCKS * RIG_BLOCK_TOKENS * RIG_TOKEN_BYTES * 2)

/** A cache: rows (planes of layers) of blocks of tokens, with a hole behind each token. */
struct rig {
    struct engine *engine;
    uint32_t mem;
    uint8_t rows[RIG_ROWS][RIG_ROW_BYTES];
    uint64_t bases[RIG_ROWS];
    struct kvl_kv layout;
    uint64_t kv; /* as registered */
};

/** A batch that names blocks. */
struct rig_batch {
    struct engine_batch engine;
    uint32_t blocks[ENGINE_BATCH_MAX * 4];
    uint32_t block_first[ENGINE_BATCH_MAX + 1];
};

/** Prepares an empty cache, not registered. @param mem  KVL_MEM_HOST or MOCK_MEM */
void rig_init(struct rig *rig, struct engine *engine, uint32_t mem);
void rig_register(struct rig *rig);

/** Overwrites everything with one byte. */
void rig_wipe(struct rig *rig, uint8_t byte);

/** One token of a row of a block. */
uint8_t *rig_token(struct rig *rig, uint32_t row, uint32_t block, uint32_t token);

/** Byte `at` of chunk `number`. */
uint8_t rig_byte(uint32_t number, uint64_t at);

/** Writes the first `tokens` tokens of chunk `number` to blocks; skipped ones are left out. */
void rig_fill(struct rig *rig, const uint32_t *blocks, uint32_t tokens, uint32_t number);

/** @return bytes of the first `layers` layers of the blocks that are not those of the chunk. */
uint64_t rig_differs(struct rig *rig, const uint32_t *blocks, uint32_t tokens, uint32_t number,
                     uint32_t layers);

/** Bytes of the whole cache that are not `byte`. */
uint64_t rig_not(struct rig *rig, uint8_t byte);

void rig_batch_init(struct rig_batch *batch, const struct rig *rig, uint64_t within_ms);

/** Adds a chunk of so many tokens in as many blocks as that takes. */
void rig_batch_add(struct rig_batch *batch, const char *key, const uint32_t *blocks,
                   uint32_t tokens);

/** One chunk, waited for. @return the failure of the call, else the status of the item. */
int rig_save(struct rig *rig, const char *key, const uint32_t *blocks, uint32_t tokens);
int rig_load(struct rig *rig, const char *key, const uint32_t *blocks, uint32_t tokens,
             uint8_t *location_out);

/** Chunks "k<number>" and so on, two blocks each; `keys` has a place for each. */
void rig_batch_add_many(struct rig_batch *batch, const struct rig *rig, char keys[][8],
                        uint32_t count, uint32_t number);

/** A save or load. @param op  NULL = waited for */
int rig_start(struct rig *rig, struct rig_batch *batch, int is_save, uint64_t *op);
int rig_wait(struct rig *rig, struct rig_batch *batch, uint64_t op);

/** @return the status of the key. */
int rig_lookup(struct rig *rig, const char *key);

/**
 * Opens an engine with [mock_memory], which is steered by `control`, and registers the cache.
 * @param more  further keys of that section. @param ini  further sections
 */
void rig_open(struct rig *rig, struct engine *engine, struct mock_memory_control *control,
              const char *more, const char *ini);

/** Closes it; nothing may be left of it. */
void rig_close(struct rig *rig, struct mock_memory_control *control);

/** Looks until the counter is at least that. @return 1; 0 when that took too long. */
int rig_await(atomic_uint *value, unsigned least);

#endif /* KVL_TESTS_MEMORY_RIG_H */
