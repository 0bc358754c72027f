/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file demo.h
 * What the demo and its engine processes tell each other, and the prompts.
 */
#ifndef KVL_DEMO_H
#define KVL_DEMO_H

#include <stdbool.h>

#include <kvlane/key.h>

#include "demo_model.h"

/** Tokens of one chunk. */
#define DEMO_CHUNK_TOKENS 256u
#define DEMO_CHUNK_BYTES                                                                           \
    ((uint64_t)2 * MODEL_LAYERS * DEMO_CHUNK_TOKENS * MODEL_HIDDEN * sizeof(float))
#define DEMO_CHUNKS_MAX (MODEL_MAX_TOKENS / DEMO_CHUNK_TOKENS)
#define DEMO_DECODE_MAX 256u
#define DEMO_KEY_ROOM 64

/* Messages: INIT -> READY; RUN -> RAN; FLIP, FLIP_SEALED -> FLIPPED; the end of the socket ends the
 * engine. */
#define DEMO_INIT 1u /* struct demo_init, then INI text with its terminator or nothing */
#define DEMO_READY 2u /* struct demo_ready */
#define DEMO_RUN 3u /* struct demo_run */
#define DEMO_RAN 4u /* struct demo_ran */
#define DEMO_FLIP 5u /* key: flip a bit in the own store's memory */
#define DEMO_FLIP_SEALED 6u /* key: fetch the chunk, flip a bit, store it again */
#define DEMO_FLIPPED 7u /* int32_t: 0 or a negative errno */

#define DEMO_ADDRESS_ROOM 200
#define DEMO_PATH_ROOM 256

/* Where an engine keeps its KV cache. */
#define DEMO_GPU_NO 0u
#define DEMO_GPU_TRY 1u /* on a GPU; in host memory where that fails */
#define DEMO_GPU_MUST 2u

struct demo_init {
    uint64_t arena_bytes;
    uint32_t gpu; /* DEMO_GPU_ */
    uint32_t await_peer; /* 1 = ready once cuda_ipc has found a peer, or after some seconds */
    char driver[DEMO_PATH_ROOM]; /* library of the CUDA driver; "" = the system's */
};

struct demo_ready {
    int32_t exit_code;
    uint32_t is_on_gpu;
    char peer_address[DEMO_ADDRESS_ROOM]; /* of py_socket; "" = there is none */
    char gpu_address[DEMO_ADDRESS_ROOM]; /* of cuda_ipc; "" = there is none */
};

#define DEMO_USE (1u << 0) /* look up and load chunks first */
#define DEMO_SAVE (1u << 1) /* save chunks afterwards */
#define DEMO_SAVE_LOCAL (1u << 2) /* but to the own store only */

struct demo_run {
    uint32_t flags; /* DEMO_ */
    uint32_t token_count;
    uint32_t decode; /* tokens to decode, the first included */
    uint32_t reserved;
    uint8_t tokens[MODEL_MAX_TOKENS];
};

struct demo_ran {
    int32_t error; /* 0, or the negative errno of a plugin call that failed */
    uint32_t chunks; /* the prompt has, of those one may ask for */
    uint32_t found; /* by lookup, leading */
    uint32_t loaded; /* leading */
    int32_t refused; /* first chunk that was found and did not pass the load, -1 = none */
    int32_t refused_status; /* its errno */
    uint32_t healed; /* loaded from another holder than the one lookup named */
    uint32_t reserved;
    uint64_t ttft_ns; /* from the prompt to the logits of the first token */
    uint64_t lookup_ns;
    uint64_t load_ns;
    char path[32]; /* where the chunks came from: "cold", "local", an INI section */
    char address[DEMO_ADDRESS_ROOM]; /* of that path, when it has one */
    uint64_t steps; /* digest of the logits of all decoded tokens */
    uint8_t tokens[DEMO_DECODE_MAX]; /* decoded */
    uint32_t logits[MODEL_VOCAB]; /* of the first token, the bits of each float */
};

/** Chunks one may ask for: those that end before the last token, which must be computed. */
static inline uint32_t demo_chunk_count(uint32_t tokens)
{
    return (tokens - 1) / DEMO_CHUNK_TOKENS;
}

/** Names of the first `count` chunks of a prompt; each covers all tokens up to its end. */
void demo_chunk_keys(const uint8_t *tokens, uint32_t count, char (*keys_out)[DEMO_KEY_ROOM]);

/* ---- prompts ---- */

#define DEMO_PROMPTS_MAX 16u

struct demo_prompt {
    char name[64];
    uint32_t token_count;
    uint8_t tokens[MODEL_MAX_TOKENS];
};

/**
 * Reads the prompt from a file; its first `tokens` bytes. @return 0; negative errno, -ENODATA when
 * the file has fewer than two chunks.
 */
int demo_prompt_read(struct demo_prompt *prompt, const char *path, uint32_t tokens);

/** Fills up to `count` prompts from the project's own documents, else from built-in text. */
void demo_prompts_find(struct demo_prompt *prompts, uint32_t count, uint32_t tokens);

/* ---- the INI file of the engines ---- */

/**
 * Looks for a section of tcp_remote in its client role, whose address the demo replaces by that of
 * its own server. @return true and the name of the section.
 */
bool demo_config_client(const char *text, char *section_out, size_t size);

#endif /* KVL_DEMO_H */
