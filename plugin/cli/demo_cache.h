/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file demo_cache.h
 * The paged KV cache of a demo engine, as it is registered with the plugin: blocks of 16 tokens, in
 * place over the memory the model computes in, or in the memory of a GPU, where its blocks lie in
 * an order of their own, as those of an engine that serves many requests. The model computes on the
 * CPU in both cases: what is on the GPU is copied there after the prompt was computed, and back
 * layer by layer while a load arrives.
 *
 * One thread at a time. Functions print their own errors.
 */
#ifndef KVL_DEMO_CACHE_H
#define KVL_DEMO_CACHE_H

#include "demo.h"
#include "engine.h"

struct demo_cache;

/**
 * Makes the memory and registers it. Starts the instance.
 * @param engine  borrowed, as is the model; both outlive the cache
 * @param where   DEMO_GPU_
 * @param driver  library of the CUDA driver, "" = the system's
 * @return an exit code.
 */
int demo_cache_create(struct engine *engine, struct model *model, uint32_t where,
                      const char *driver, struct demo_cache **cache_out);
/** Takes NULL. Before the instance is closed. */
void demo_cache_destroy(struct demo_cache *cache);

/** False when it is in host memory. */
bool demo_cache_is_on_gpu(const struct demo_cache *cache);

/** Makes every cached value unusable, here and in the model. @return 0; -EIO. */
int demo_cache_forget(struct demo_cache *cache);

/** Lets chunk i of a batch be the i-th DEMO_CHUNK_TOKENS of the prompt. */
void demo_cache_name(const struct demo_cache *cache, struct kvl_batch *batch);

/** Brings what the model computed to where it is saved from. May go on when it returns: a batch
 * that demo_cache_name() named waits for it. @return 0; -EIO. */
int demo_cache_push(struct demo_cache *cache);

/**
 * Loads the batch and brings it to where the model finds it, each layer as soon as it is there.
 * @return as the plugin's load; -EIO.
 */
int demo_cache_load(struct demo_cache *cache, const struct kvl_batch *batch,
                    struct kvl_result *result);

#endif /* KVL_DEMO_CACHE_H */
