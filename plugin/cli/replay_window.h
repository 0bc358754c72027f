/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file replay_window.h
 * The memory in which a replay engine has the blocks of a trace that it moves at a time: in host
 * memory, one behind the other; or on a GPU, as a paged KV cache whose blocks of 16 tokens lie in
 * an order of their own. One thread at a time. Functions print their own errors.
 */
#ifndef KVL_REPLAY_WINDOW_H
#define KVL_REPLAY_WINDOW_H

#include "engine.h"

struct replay_window;

/** Most blocks of a window. */
#define REPLAY_WINDOW_MAX 64u

/**
 * @param engine  borrowed; with `on_gpu` its instance is open, and the cache is registered with it
 * @param bytes   of a block of the trace; on a GPU a multiple of its tokens
 * @param driver  library of the CUDA driver, "" = the system's
 * @return an exit code.
 */
int replay_window_create(struct engine *engine, uint64_t bytes, uint32_t count, bool on_gpu,
                         const char *driver, struct replay_window **window_out);
/** Takes NULL. Before the instance is closed. */
void replay_window_destroy(struct replay_window *window);

/** Makes block i the one of the trace with that id: its bytes follow from it. Before push. */
void replay_window_fill(struct replay_window *window, uint32_t i, uint64_t id);
/** After pull: is block i, byte by byte, the one with that id? */
bool replay_window_is_right(const struct replay_window *window, uint32_t i, uint64_t id);

/** Lets chunk i of the batch be block i. */
void replay_window_name(struct replay_window *window, struct kvl_batch *batch);

/** Brings the first `count` blocks to where they are saved from. @return 0; -EIO. */
int replay_window_push(struct replay_window *window, uint32_t count);

/** Brings them back from where they were loaded to. @return 0; -EIO. */
int replay_window_pull(struct replay_window *window, uint32_t count);

#endif /* KVL_REPLAY_WINDOW_H */
