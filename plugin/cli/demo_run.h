/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file demo_run.h
 * The parts of the driving process of demo. Functions print their own errors and return exit codes.
 */
#ifndef KVL_DEMO_RUN_H
#define KVL_DEMO_RUN_H

#include "child.h"
#include "demo.h"
#include "gpu.h"
#include "util.h"

#define DEMO_PATHS_MAX 8u

/** Times of one path over all prompts. */
struct demo_path {
    char name[32];
    uint64_t ttft_ns;
    uint32_t runs;
};

struct demo {
    struct cli_common common; /* of the engines: with the server's address */
    const char *text;
    const char *server_config;
    uint64_t prompts;
    uint64_t tokens;
    uint64_t decode;
    const char *gpu_word; /* auto, yes, no */
    const char *driver; /* NULL = libcuda.so.1 */
    bool no_server;
    bool progress;

    char set_url[320];
    struct child server;
    struct child a; /* computes and saves */
    struct child b; /* asks A, then the server */
    struct child c; /* asks the server only; there when A can be asked */
    struct child g; /* KV cache on a GPU, asks A for what is on that GPU */
    uint32_t gpu; /* DEMO_GPU_ of A; 0 = there is no GPU, or it is not wanted */
    char gpu_name[GPU_TEXT];
    char gpu_peer[DEMO_ADDRESS_ROOM]; /* where cuda_ipc of A listens */
    char peer[DEMO_ADDRESS_ROOM]; /* where A can be asked, "" = it cannot */
    struct demo_prompt *prompt;
    struct demo_ran *reference; /* one per prompt: what A computed */
    struct demo_path paths[DEMO_PATHS_MAX]; /* [0] is "cold", [1] is "local" */
    uint32_t path_count;
    char remote[32]; /* the path that led to a server, "" = none */
    char address[DEMO_ADDRESS_ROOM]; /* of that server */
    bool differs; /* something was not as it must be */
    struct progress bar;
    uint64_t steps_done;
};

/** Starts a server when the engines' INI file has a client for it, and gives it to that client. */
int demo_server_start(struct demo *self);

/** True when the engines run with the demo's own INI text. */
bool demo_is_own_ini(const struct demo *self);

/** Looks for a GPU as the options say. */
int demo_gpu_find(struct demo *self);

/** Starts an engine process with that INI file. `peer`: in our own text, whom it asks before the
 * server, "" = nobody. `gpu`: DEMO_GPU_; an engine on a GPU also asks cuda_ipc of A, which tells of
 * itself by py_socket where there is such a peer. */
int demo_engine_new(const struct demo *self, struct child *child, const char *peer, uint32_t gpu,
                    struct demo_ready *ready_out);

/** Starts an engine process. `ini` "" = as the common options say; init->arena_bytes 0 = the
 * plugin's own. */
int demo_engine_begin(struct child *child, const struct cli_common *common, const char *ini,
                      const struct demo_init *init, struct demo_ready *ready_out);

/** Lets an engine answer a prompt; `flags` are those of struct demo_run. */
int demo_engine_prompt(struct demo *self, const struct child *child, uint32_t prompt,
                       uint32_t flags, struct demo_ran *ran_out);

/** True when both computed the same bits and decoded the same tokens. */
bool demo_same(const struct demo *self, const struct demo_ran *one, const struct demo_ran *two);

/** Flips a bit in the memory of engine A, whose chunks others read without asking it to check them,
 * and lets a new engine find out. */
int demo_flip_peer(struct demo *self);

/** Flips a bit at the server and lets a new engine C find out. */
int demo_flip_remote(struct demo *self);

/** Flips a bit in the own store of engine B and lets it find out. After the one at the server. */
int demo_flip_local(struct demo *self);

#endif /* KVL_DEMO_RUN_H */
