/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file engine.h
 * The host engine's side of plugin.h: finds and opens libkvlane.so, opens an instance, prints its
 * log lines. Functions print their own errors and return exit codes.
 */
#ifndef KVL_ENGINE_H
#define KVL_ENGINE_H

#include <stdatomic.h>

#include <kvlane/plugin.h>

#include "cli.h"

struct engine {
    struct kvl_plugin ops; /* a full copy; slots the plugin lacks are NULL */
    void *dl;
    struct kvl_instance *instance;
    uint64_t timeout_ms;
    int32_t log_level; /* highest that is printed */
    uint32_t restart; /* what the last reload left as it was */
    atomic_uint errors_shown; /* error lines printed by the sink */
};

/** What goes to open() beyond the common options. All borrowed for the call. */
struct engine_setup {
    const struct cli_common *common;
    const char *config_text; /* INI text; goes before common->config */
    const char *const *extra; /* overrides, applied before those of the user */
    uint32_t extra_count;
    void *arena; /* until engine_close() */
    int arena_fd; /* memfd behind it; 0 or less = none */
    uint64_t arena_bytes;
};

/** Opens the shared object and checks its table. On any failure engine_close() is still right. */
int engine_load(struct engine *engine, const struct cli_common *common);

/** kvlane's check: validates and starts nothing. After engine_load(). */
int engine_check(struct engine *engine, const struct engine_setup *setup);

/** Loads and opens an instance, without start. */
int engine_open(struct engine *engine, const struct engine_setup *setup);

/** Starts threads and connections; optional, as in plugin.h. */
int engine_start(struct engine *engine);

/** Reads the INI file again and takes over what can change; engine->restart counts the rest. */
int engine_reload(struct engine *engine, const struct engine_setup *setup);

/** Closes the instance and the object. drain_ms 0 = do not wait for work that is under way. */
int engine_close(struct engine *engine, uint64_t drain_ms);

/** The deadline of an operation that begins now. */
uint64_t engine_deadline(const struct engine *engine);

/** An empty batch of `count` chunks with that deadline. */
struct kvl_batch engine_batch(const struct engine *engine, const struct kvl_chunk *chunks,
                              uint32_t count);

/** Name of a location for people: "local", or the INI section. */
void engine_location_name(const struct engine *engine, uint32_t location, char *name_out,
                          size_t size);

/** Address of the location with this name; "" when there is none, or it is not reachable. */
void engine_location_address(const struct engine *engine, const char *name, char *address_out,
                             size_t size);

/** Exit code for a negative errno of an operation; prints what failed. */
int engine_failed(const char *what, int r);

#endif /* KVL_ENGINE_H */
