/* SPDX-License-Identifier: Apache-2.0 */
#include "demo_cache.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gpu.h"
#include "util.h"

#define BLOCK_TOKENS 16u
#define BLOCKS (MODEL_MAX_TOKENS / BLOCK_TOKENS)
#define CHUNK_BLOCKS (DEMO_CHUNK_TOKENS / BLOCK_TOKENS)
#define BLOCK_FLOATS ((size_t)BLOCK_TOKENS * MODEL_HIDDEN)
#define BLOCK_BYTES (BLOCK_FLOATS * sizeof(float))
/* Keys and values of a layer: [2][BLOCKS][BLOCK_TOKENS][MODEL_HIDDEN] */
#define LAYER_FLOATS (2 * BLOCKS * BLOCK_FLOATS)
#define LAYER_BYTES (LAYER_FLOATS * sizeof(float))

struct demo_cache {
    struct engine *engine;
    struct model *model;
    struct gpu *gpu; /* NULL = in place */
    uint64_t layers[MODEL_LAYERS]; /* on the GPU, LAYER_BYTES each */
    float *stage; /* pinned: all layers as they are on the GPU */
    uint32_t blocks[BLOCKS]; /* block table of the prompt */
    uint32_t block_first[DEMO_CHUNKS_MAX + 1];
    uint64_t kv; /* 0 = not registered */
};

/* ---- making it ---- */

static int gpu_failed(const struct demo_cache *cache, int r)
{
    if (r < 0) {
        cli_error("demo: %s", gpu_error(cache->gpu));
    }
    return r;
}

/* Blocks of the GPU in an order that no two processes share; in place they are where they are. */
static void blocks_deal(struct demo_cache *cache)
{
    const uint64_t seed = (uint64_t)getpid() << 32;

    for (uint32_t i = 0; i < BLOCKS; i++) {
        cache->blocks[i] = i;
    }
    for (uint32_t i = BLOCKS - 1; cache->gpu != NULL && i > 0; i--) {
        const uint32_t other = (uint32_t)(util_mix(seed + i) % (i + 1));
        const uint32_t block = cache->blocks[i];

        cache->blocks[i] = cache->blocks[other];
        cache->blocks[other] = block;
    }
    for (uint32_t i = 0; i <= DEMO_CHUNKS_MAX; i++) {
        cache->block_first[i] = i * CHUNK_BLOCKS;
    }
}

static int gpu_memory(struct demo_cache *cache)
{
    void *stage = NULL;
    int r = 0;

    if (cache->gpu == NULL) {
        return 0;
    }
    for (uint32_t i = 0; r == 0 && i < MODEL_LAYERS; i++) {
        r = gpu_alloc(cache->gpu, LAYER_BYTES, &cache->layers[i]);
    }
    if (r == 0) {
        r = gpu_pinned_alloc(cache->gpu, MODEL_LAYERS * LAYER_BYTES, &stage);
        cache->stage = stage;
    }
    return gpu_failed(cache, r);
}

static int cache_register(struct demo_cache *cache)
{
    const uint64_t plane = BLOCKS * BLOCK_BYTES;
    uint64_t bases[2 * MODEL_LAYERS];
    struct kvl_err err = {.size = sizeof(err)};
    const struct kvl_kv kv = {
        .size = sizeof(kv),
        .mem = cache->gpu != NULL ? KVL_MEM_CUDA : KVL_MEM_HOST,
        .device = cache->gpu != NULL ? 0 : KVL_DEVICE_HOST,
        .layers = MODEL_LAYERS,
        .planes = 2,
        .block_tokens = BLOCK_TOKENS,
        .block_count = BLOCKS,
        .token_bytes = MODEL_HIDDEN * sizeof(float),
        .token_stride = MODEL_HIDDEN * sizeof(float),
        .block_stride = BLOCK_BYTES,
        .bases = bases,
    };
    int r;

    for (uint32_t i = 0; i < 2 * MODEL_LAYERS; i++) {
        const uint32_t layer = i % MODEL_LAYERS;
        const uint64_t base =
            cache->gpu != NULL
                ? cache->layers[layer]
                : (uint64_t)(uintptr_t)(model_cache(cache->model) + layer * LAYER_FLOATS);

        bases[i] = base + i / MODEL_LAYERS * plane;
    }
    if (cache->engine->ops.register_kv == NULL) {
        cli_error("demo: this plugin knows no paged KV caches");
        return -ENOTSUP;
    }
    r = cache->engine->ops.register_kv(cache->engine->instance, &kv, &cache->kv, &err);
    if (r < 0) {
        cli_error("demo: cannot register the KV cache: %s", err.text);
    }
    return r;
}

static int cache_make(struct engine *engine, struct model *model, bool on_gpu, const char *driver,
                      struct demo_cache **cache_out)
{
    struct demo_cache *cache = calloc(1, sizeof(*cache));
    char text[GPU_TEXT] = "no memory";
    int r = cache == NULL ? -ENOMEM : 0;

    if (r == 0 && on_gpu) {
        r = gpu_create(driver, &cache->gpu, text);
    }
    if (r < 0) {
        cli_error("demo: %s", text);
        free(cache);
        return r;
    }
    cache->engine = engine;
    cache->model = model;
    blocks_deal(cache);
    r = gpu_memory(cache);
    if (r == 0) {
        r = cache_register(cache);
    }
    if (r < 0) {
        demo_cache_destroy(cache);
        return r;
    }
    *cache_out = cache;
    return 0;
}

int demo_cache_create(struct engine *engine, struct model *model, uint32_t where,
                      const char *driver, struct demo_cache **cache_out)
{
    int r = cache_make(engine, model, where != DEMO_GPU_NO, driver, cache_out);

    if (r < 0 && where == DEMO_GPU_TRY) {
        cli_error("demo: the KV cache is in host memory, for what is told above");
        r = cache_make(engine, model, false, driver, cache_out);
    }
    return r == 0 ? CLI_OK : r == -ENOMEM ? CLI_OS : CLI_PEER;
}

bool demo_cache_is_on_gpu(const struct demo_cache *cache)
{
    return cache->gpu != NULL;
}

void demo_cache_destroy(struct demo_cache *cache)
{
    if (cache == NULL) {
        return;
    }
    if (cache->kv != 0) {
        (void)cache->engine->ops.unregister_kv(cache->engine->instance, cache->kv);
    }
    if (cache->gpu != NULL) {
        (void)gpu_wait(cache->gpu);
        gpu_pinned_free(cache->gpu, cache->stage);
        for (uint32_t i = 0; i < MODEL_LAYERS; i++) {
            gpu_free(cache->gpu, cache->layers[i]);
        }
        gpu_destroy(cache->gpu);
    }
    free(cache);
}

/* ---- between the model and the GPU ---- */

/* Where a block of the prompt lies in a layer as it is on the GPU. */
static float *staged(const struct demo_cache *cache, uint32_t layer, uint32_t plane, uint32_t block)
{
    return cache->stage + layer * LAYER_FLOATS +
           (plane * BLOCKS + cache->blocks[block]) * BLOCK_FLOATS;
}

static float *computed(const struct demo_cache *cache, uint32_t layer, uint32_t plane,
                       uint32_t block)
{
    return model_cache(cache->model) + layer * LAYER_FLOATS +
           (plane * BLOCKS + block) * BLOCK_FLOATS;
}

int demo_cache_push(struct demo_cache *cache)
{
    int r = cache->gpu == NULL ? 0 : gpu_wait(cache->gpu); /* the stage is free */

    for (uint32_t layer = 0; cache->gpu != NULL && r == 0 && layer < MODEL_LAYERS; layer++) {
        for (uint32_t i = 0; i < 2 * BLOCKS; i++) {
            memcpy(staged(cache, layer, i / BLOCKS, i % BLOCKS),
                   computed(cache, layer, i / BLOCKS, i % BLOCKS), BLOCK_BYTES);
        }
        r = gpu_put(cache->gpu, cache->layers[layer], cache->stage + layer * LAYER_FLOATS,
                    LAYER_BYTES);
    }
    return r < 0 ? gpu_failed(cache, r) : 0;
}

/* Brings a layer of the first `blocks` blocks to the model. */
static int layer_pull(struct demo_cache *cache, uint32_t layer, uint32_t blocks)
{
    int r =
        gpu_get(cache->gpu, cache->stage + layer * LAYER_FLOATS, cache->layers[layer], LAYER_BYTES);

    if (r == 0) {
        r = gpu_wait(cache->gpu);
    }
    for (uint32_t i = 0; r == 0 && i < 2 * blocks; i++) {
        memcpy(computed(cache, layer, i / blocks, i % blocks),
               staged(cache, layer, i / blocks, i % blocks), BLOCK_BYTES);
    }
    return gpu_failed(cache, r);
}

int demo_cache_forget(struct demo_cache *cache)
{
    model_forget(cache->model);
    return demo_cache_push(cache);
}

/* ---- batches ---- */

void demo_cache_name(const struct demo_cache *cache, struct kvl_batch *batch)
{
    batch->kv = cache->kv;
    batch->blocks = cache->blocks;
    batch->block_first = cache->block_first;
    batch->stream = cache->gpu != NULL ? gpu_stream(cache->gpu) : 0;
}

/* What a chunk is worth is known at the end only: one that is lost half way leaves bytes in the
 * model's memory that nobody uses. */
int demo_cache_load(struct demo_cache *cache, const struct kvl_batch *batch,
                    struct kvl_result *result)
{
    const struct kvl_plugin *ops = &cache->engine->ops;
    struct kvl_instance *instance = cache->engine->instance;
    uint64_t op = 0;
    int pulled = 0;
    int r;

    if (cache->gpu == NULL) {
        return ops->load(instance, batch, result, NULL);
    }
    r = ops->load(instance, batch, result, &op);
    if (r < 0 && r != -EINPROGRESS) {
        return r;
    }
    for (uint32_t layer = 0; pulled == 0 && layer < MODEL_LAYERS; layer++) {
        if (op != 0) {
            pulled = ops->wait_layers(instance, op, layer + 1, KVL_NEVER);
        }
        if (pulled == 0) {
            pulled = layer_pull(cache, layer, batch->count * CHUNK_BLOCKS);
        }
    }
    if (op != 0) {
        r = ops->wait(instance, op, KVL_NEVER, result);
    }
    return r < 0 ? r : pulled;
}
