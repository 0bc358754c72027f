/* SPDX-License-Identifier: Apache-2.0 */
#include "memory_rig.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STRIDE (RIG_TOKEN_BYTES * 2)

void rig_init(struct rig *rig, struct engine *engine, uint32_t mem)
{
    rig->engine = engine;
    rig->mem = mem;
    for (uint32_t row = 0; row < RIG_ROWS; row++) {
        rig->bases[row] =
            (uint64_t)(uintptr_t)rig->rows[row] + (mem == MOCK_MEM ? MOCK_MEM_OFFSET : 0);
    }
    rig->layout = (struct kvl_kv){
        .size = sizeof(rig->layout),
        .mem = mem,
        .device = mem == MOCK_MEM ? 0 : KVL_DEVICE_HOST,
        .layers = RIG_LAYERS,
        .planes = RIG_PLANES,
        .block_tokens = RIG_BLOCK_TOKENS,
        .block_count = RIG_BLOCKS,
        .token_bytes = RIG_TOKEN_BYTES,
        .token_stride = STRIDE,
        .block_stride = STRIDE * RIG_BLOCK_TOKENS,
        .bases = rig->bases,
    };
    rig_wipe(rig, 0);
}

void rig_register(struct rig *rig)
{
    struct kvl_err err = {.size = sizeof(err)};
    int r = rig->engine->plugin->register_kv(rig->engine->instance, &rig->layout, &rig->kv, &err);

    if (r != 0 || rig->kv == 0) {
        fprintf(stderr, "register_kv: %d, %s\n", r, err.text);
        abort();
    }
}

void rig_wipe(struct rig *rig, uint8_t byte)
{
    memset(rig->rows, byte, sizeof(rig->rows));
}

uint8_t *rig_token(struct rig *rig, uint32_t row, uint32_t block, uint32_t token)
{
    return rig->rows[row] + (block * RIG_BLOCK_TOKENS + token) * rig->layout.token_stride;
}

uint8_t rig_byte(uint32_t number, uint64_t at)
{
    return (uint8_t)((number * 2654435761u + at * 40503u) >> 8 | 1); /* never 0 */
}

/* Calls for each token of the chunk that lies in a block; counts what differs, or writes. */
static uint64_t walk(struct rig *rig, const uint32_t *blocks, uint32_t tokens, uint32_t number,
                     uint32_t layers, int writes)
{
    uint64_t wrong = 0;

    for (uint32_t row = 0; row < RIG_ROWS; row++) {
        for (uint32_t t = 0; t < tokens && row % RIG_LAYERS < layers; t++) {
            const uint32_t block = blocks[t / RIG_BLOCK_TOKENS];

            for (uint32_t i = 0; i < RIG_TOKEN_BYTES && block != KVL_BLOCK_SKIP; i++) {
                uint8_t *at = rig_token(rig, row, block, t % RIG_BLOCK_TOKENS) + i;
                const uint8_t byte =
                    rig_byte(number, ((uint64_t)row * tokens + t) * RIG_TOKEN_BYTES + i);

                wrong += *at != byte;
                if (writes) {
                    *at = byte;
                }
            }
        }
    }
    return wrong;
}

void rig_fill(struct rig *rig, const uint32_t *blocks, uint32_t tokens, uint32_t number)
{
    (void)walk(rig, blocks, tokens, number, RIG_LAYERS, 1);
}

uint64_t rig_differs(struct rig *rig, const uint32_t *blocks, uint32_t tokens, uint32_t number,
                     uint32_t layers)
{
    return walk(rig, blocks, tokens, number, layers, 0);
}

uint64_t rig_not(struct rig *rig, uint8_t byte)
{
    uint64_t count = 0;

    for (uint32_t row = 0; row < RIG_ROWS; row++) {
        for (uint32_t i = 0; i < RIG_ROW_BYTES; i++) {
            count += rig->rows[row][i] != byte;
        }
    }
    return count;
}

void rig_batch_init(struct rig_batch *batch, const struct rig *rig, uint64_t within_ms)
{
    memset(batch, 0, sizeof(*batch));
    engine_batch_init(&batch->engine, within_ms);
    batch->engine.batch.kv = rig->kv;
    batch->engine.batch.blocks = batch->blocks;
    batch->engine.batch.block_first = batch->block_first;
}

void rig_batch_add(struct rig_batch *batch, const char *key, const uint32_t *blocks,
                   uint32_t tokens)
{
    const uint32_t count = (tokens + RIG_BLOCK_TOKENS - 1) / RIG_BLOCK_TOKENS;
    const uint32_t i = batch->engine.batch.count;

    engine_batch_add(&batch->engine, key, NULL, 0)->bytes = RIG_BYTES(tokens);
    memcpy(&batch->blocks[batch->block_first[i]], blocks, count * sizeof(*blocks));
    batch->block_first[i + 1] = batch->block_first[i] + count;
}

static int move_one(struct rig *rig, const char *key, const uint32_t *blocks, uint32_t tokens,
                    int is_save, uint8_t *location_out)
{
    const struct kvl_plugin *plugin = rig->engine->plugin;
    struct rig_batch batch;
    int r;

    rig_batch_init(&batch, rig, 20000);
    rig_batch_add(&batch, key, blocks, tokens);
    r = (is_save ? plugin->save : plugin->load)(rig->engine->instance, &batch.engine.batch,
                                                &batch.engine.result, NULL);
    if (location_out != NULL) {
        *location_out = batch.engine.location[0];
    }
    return r < 0 ? r : batch.engine.status[0];
}

int rig_save(struct rig *rig, const char *key, const uint32_t *blocks, uint32_t tokens)
{
    return move_one(rig, key, blocks, tokens, 1, NULL);
}

int rig_load(struct rig *rig, const char *key, const uint32_t *blocks, uint32_t tokens,
             uint8_t *location_out)
{
    return move_one(rig, key, blocks, tokens, 0, location_out);
}

void rig_batch_add_many(struct rig_batch *batch, const struct rig *rig, char keys[][8],
                        uint32_t count, uint32_t number)
{
    rig_batch_init(batch, rig, 20000);
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t blocks[] = {2 * i % RIG_BLOCKS, (2 * i + 1) % RIG_BLOCKS};

        (void)snprintf(keys[i], sizeof(keys[i]), "k%u", number + i);
        rig_batch_add(batch, keys[i], blocks, 2 * RIG_BLOCK_TOKENS);
    }
}

int rig_start(struct rig *rig, struct rig_batch *batch, int is_save, uint64_t *op)
{
    const struct kvl_plugin *plugin = rig->engine->plugin;

    return (is_save ? plugin->save : plugin->load)(rig->engine->instance, &batch->engine.batch,
                                                   &batch->engine.result, op);
}

int rig_wait(struct rig *rig, struct rig_batch *batch, uint64_t op)
{
    return rig->engine->plugin->wait(rig->engine->instance, op, engine_now_ms() + 20000,
                                     &batch->engine.result);
}

int rig_lookup(struct rig *rig, const char *key)
{
    struct engine_batch look;
    int r;

    engine_batch_init(&look, 5000);
    (void)engine_batch_add(&look, key, NULL, 0);
    r = rig->engine->plugin->lookup(rig->engine->instance, &look.batch, &look.result, NULL);
    return r < 0 ? r : look.status[0];
}

static void must(int holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "rig: %s\n", what);
        abort();
    }
}

void rig_open(struct rig *rig, struct engine *engine, struct mock_memory_control *control,
              const char *more, const char *ini)
{
    char text[2048];

    memset(control, 0, sizeof(*control));
    (void)snprintf(text, sizeof(text), "[mock_memory]\ncontrol = %p\n%s\n%s", (void *)control, more,
                   ini);
    must(engine_open(engine, text) == 0, engine->err.text);
    rig_init(rig, engine, MOCK_MEM);
    rig_register(rig);
    must(atomic_load(&control->caches) == 1, "the backend was not told of the cache");
}

void rig_close(struct rig *rig, struct mock_memory_control *control)
{
    struct engine *engine = rig->engine;

    must(engine->plugin->unregister_kv(engine->instance, rig->kv) == 0, "unregister_kv failed");
    must(atomic_load(&control->caches) == 0, "the backend still has a cache");
    must(engine_stat(engine, "store_leases") == 0, "leases are still out");
    must(engine_stat(engine, "store_reserved") == 0, "slots are still out");
    must(engine_close(engine, 5000) == 0, "close failed");
}

int rig_await(atomic_uint *value, unsigned least)
{
    const uint64_t limit = engine_now_ms() + 20000;

    while (atomic_load(value) < least && engine_now_ms() < limit) {
        (void)poll(NULL, 0, 1);
    }
    return atomic_load(value) >= least;
}
