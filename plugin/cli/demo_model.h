/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file demo_model.h
 * A small transformer over bytes: embedding, RMSNorm, attention with RoPE, SwiGLU. Its weights are
 * made from a fixed seed, so it says nothing sensible, but it computes what a real one computes.
 *
 * The arithmetic of a token does not depend on how a prompt was split into calls, so keys and
 * values that were loaded give the same bits as those that were computed.
 */
#ifndef KVL_DEMO_MODEL_H
#define KVL_DEMO_MODEL_H

#include <stddef.h>
#include <stdint.h>

#define MODEL_LAYERS 8u
#define MODEL_HEADS 4u
#define MODEL_HEAD 32u
#define MODEL_HIDDEN (MODEL_HEADS * MODEL_HEAD)
#define MODEL_FFN 384u
#define MODEL_VOCAB 256u
#define MODEL_MAX_TOKENS 4096u

/** Changes with the weights or the arithmetic: chunks of other versions must not be found. */
#define MODEL_NAME "kvlane-demo-v1"

struct model;

/** Makes weights and room for keys and values. @return 0; -ENOMEM. */
int model_create(struct model **model_out);
void model_destroy(struct model *model);

/**
 * The cache of keys and values, [layer][2][MODEL_MAX_TOKENS][MODEL_HIDDEN] floats. What is at the
 * places of tokens 0 .. from - 1 is used by model_forward(), whoever wrote it.
 */
float *model_cache(struct model *model);

/** Makes every cached value unusable, so that one that was not loaded or computed shows. */
void model_forget(struct model *model);

/** Computes tokens from .. to - 1 and the logits after the last of them. from < to. */
void model_forward(struct model *model, const uint8_t *tokens, uint32_t from, uint32_t to,
                   float logits_out[MODEL_VOCAB]);

/** The most likely token; the lowest of equals. */
uint8_t model_pick(const float logits[MODEL_VOCAB]);

#endif /* KVL_DEMO_MODEL_H */
