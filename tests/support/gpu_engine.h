/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file gpu_engine.h
 * An engine whose KV cache lies on a device, with the plugin and its backend cuda_ipc: in this
 * process, or in another one that takes orders. What fails and has no answer ends the program.
 */
#ifndef KVL_TESTS_GPU_ENGINE_H
#define KVL_TESTS_GPU_ENGINE_H

#include <kvlane/plugin.h>

#include "gpu_rig.h"

#define GPU_ENGINE_ROOM 256

/** What an engine has. Zero: no pool, no store, no peer. */
struct gpu_engine_setup {
    uint32_t layers;
    uint32_t page; /* tokens of a block */
    uint32_t pool_chunks; /* room on the device for what it saves */
    uint32_t store_chunks; /* room in host memory */
    char listen[GPU_ENGINE_ROOM]; /* socket of the backend; "" = as it likes */
    char peers[GPU_ENGINE_ROOM]; /* sockets of others */
};

struct gpu_engine {
    struct gpu_rig *rig; /* borrowed */
    const struct kvl_plugin *plugin;
    struct kvl_instance *instance;
    struct gpu_pages pages;
    struct gpu_view view;
    uint64_t kv;
    char keys[GPU_RIG_CHUNKS][48];
    struct kvl_chunk chunks[GPU_RIG_CHUNKS];
    int32_t status[GPU_RIG_CHUNKS];
    uint8_t location[GPU_RIG_CHUNKS];
};

/** @param kv  the KV cache it registers; NULL = engine->view, on memory of its own */
void gpu_engine_open(struct gpu_engine *engine, struct gpu_rig *rig,
                     const struct gpu_engine_setup *setup, const struct kvl_kv *kv);
void gpu_engine_close(struct gpu_engine *engine);

/**
 * Saves or loads the first `count` chunks. engine->status and, for a load, engine->location say
 * what became of each. @return how many leading ones are saved, or loaded; negative errno.
 */
int gpu_engine_save(struct gpu_engine *engine, uint32_t count);
int gpu_engine_load(struct gpu_engine *engine, uint32_t count);

/**
 * As gpu_engine_load(), and looks at each layer as soon as the plugin says that it is there.
 * @param wrong_out  words that were wrong then; they should be as gpu_view_fill() with `salt` makes
 */
int gpu_engine_load_layers(struct gpu_engine *engine, uint32_t count, uint64_t salt,
                           uint64_t *wrong_out);

/** Takes the first `count` chunks out of wherever they are. @return 0; negative errno. */
int gpu_engine_remove(struct gpu_engine *engine, uint32_t count);

/** A counter of the instance; 0 when there is none. */
uint64_t gpu_engine_stat(struct gpu_engine *engine, const char *name);

/** Waits until a counter is at least so much. @return 0; -ETIMEDOUT after 20 s. */
int gpu_engine_await(struct gpu_engine *engine, const char *name, uint64_t value);

/** Where its backend listens. */
void gpu_engine_address(struct gpu_engine *engine, char *address_out, size_t size);

/* ---- in another process ---- */

enum gpu_order_op {
    GPU_ORDER_OPEN,
    GPU_ORDER_FILL, /* the blocks of `count` chunks, with `salt` */
    GPU_ORDER_DIFFERS, /* value: wrong words of those whose bit is in `chunks` */
    GPU_ORDER_SAVE,
    GPU_ORDER_LOAD,
    GPU_ORDER_LAYERS, /* load; value: wrong words of layers that were said to be there */
    GPU_ORDER_REMOVE,
    GPU_ORDER_STAT, /* value of `name` */
    GPU_ORDER_AWAIT, /* `name` to be at least `value` */
    GPU_ORDER_CLOSE,
};

struct gpu_order {
    enum gpu_order_op op;
    uint32_t count;
    uint32_t chunks; /* a bit each */
    uint64_t salt;
    uint64_t value;
    char name[64];
    struct gpu_engine_setup setup;
};

struct gpu_answer {
    int32_t r;
    uint32_t chunks; /* save, load: a bit for each with status 0 */
    uint32_t near; /* load: a bit for each that came from the own store */
    uint64_t value;
    char address[GPU_ENGINE_ROOM];
};

struct gpu_remote {
    pid_t pid;
    int fd;
};

/** Starts a process of this program that is an engine; main() must give `--peer engine` to
 * gpu_engine_serve(). */
void gpu_remote_start(struct gpu_remote *remote, const struct gpu_engine_setup *setup,
                      struct gpu_answer *answer_out);
/** @return 0; -ECONNRESET the process is gone. */
int gpu_remote_order(const struct gpu_remote *remote, const struct gpu_order *order,
                     struct gpu_answer *answer_out);
/** Sends an order without waiting for its answer, which gpu_remote_answer() takes. */
int gpu_remote_send(const struct gpu_remote *remote, const struct gpu_order *order);
int gpu_remote_answer(const struct gpu_remote *remote, struct gpu_answer *answer_out);
/** Closes its instance and ends it well. Takes one that was killed. */
void gpu_remote_end(struct gpu_remote *remote);
/** SIGKILL. */
void gpu_remote_kill(struct gpu_remote *remote);

/** Does as it is told on descriptor 3 until the other end is closed. @return exit code. */
int gpu_engine_serve(void);

#endif /* KVL_TESTS_GPU_ENGINE_H */
