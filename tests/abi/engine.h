/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file engine.h
 * A small engine for tests and benchmarks: loads libkvlane.so with dlopen as any engine does, keeps
 * what is logged, and builds batches.
 */
#ifndef KVL_TESTS_ENGINE_H
#define KVL_TESTS_ENGINE_H

#include <kvlane/plugin.h>

#include <pthread.h>

#define ENGINE_BATCH_MAX 64u

/** What an instance logged. */
struct engine_log {
    pthread_mutex_t lock;
    size_t used;
    unsigned lines[KVL_LOG_TRACE + 1]; /* per level */
    char text[1 << 16]; /* "LEVEL component: text\n" per line */
};

struct engine {
    const struct kvl_plugin *plugin;
    struct kvl_instance *instance;
    struct kvl_err err; /* of the last open or start */
    struct engine_log log;
};

/** A batch with room for everything that belongs to it. */
struct engine_batch {
    struct kvl_batch batch;
    struct kvl_result result;
    struct kvl_chunk chunks[ENGINE_BATCH_MAX];
    struct kvl_sg sg[ENGINE_BATCH_MAX];
    uint32_t sg_first[ENGINE_BATCH_MAX + 1];
    int32_t status[ENGINE_BATCH_MAX];
    uint8_t location[ENGINE_BATCH_MAX];
};

uint64_t engine_now_ms(void);

/** The table of the library that KVL_LIB names; ends the program when there is none. */
const struct kvl_plugin *engine_plugin(void);

/** Prepares `engine` with an empty log, nothing open. */
void engine_init(struct engine *engine);

/** Gives the log lines of `params` to the engine. */
void engine_catch_log(struct engine *engine, struct kvl_open_params *params);

/**
 * Opens an instance with the INI text `[kvlane] module_path = $KVL_MOCKS` followed by `ini`.
 * @return what open() returned; engine->err is filled.
 */
int engine_open(struct engine *engine, const char *ini);

/** Closes what is open with a deadline of so many ms from now. */
int engine_close(struct engine *engine, uint64_t within_ms);

/** Value of a counter of the instance; 0 when there is none. */
uint64_t engine_stat(struct engine *engine, const char *name);

/** Looks until the counter is at least `value`. @return 1; 0 when that took too long. */
int engine_await_stat(struct engine *engine, const char *name, uint64_t value);

/** True when some line of the log holds `text`. */
int engine_logged(struct engine *engine, const char *text);

/** Lines of a level so far. */
unsigned engine_lines(struct engine *engine, int level);

/** An empty batch. within_ms 0 = the default deadline of the INI file. */
void engine_batch_init(struct engine_batch *batch, uint64_t within_ms);

/** Adds a chunk whose bytes are at `data`; NULL for operations that move none. */
struct kvl_chunk *engine_batch_add(struct engine_batch *batch, const char *key, void *data,
                                   uint64_t bytes);

/** The bytes that a mock preloads under `key`. @return the number of wrong ones in `data`. */
uint64_t engine_preload_differs(const char *key, const uint8_t *data, uint64_t bytes);

#endif /* KVL_TESTS_ENGINE_H */
