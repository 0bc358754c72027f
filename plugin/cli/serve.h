/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file serve.h
 * A process that runs the plugin until it is told to stop: serve, and those that serve one thing.
 */
#ifndef KVL_SERVE_H
#define KVL_SERVE_H

#include "engine.h"

struct serve {
    struct engine engine;
    struct cli_common common;
    struct engine_setup setup; /* .common is set by serve_run */
    const char *command; /* the subcommand, for errors */
    const char *word; /* sections of this backend are told as ready; NULL = those that serve */
    uint64_t drain_ms;
    uint64_t stats_s; /* 0 = never */
    uint64_t ready_fd; /* 0 = none */
    bool parent_death;
};

/** The options of such a command that set the last four fields, for its table. */
#define SERVE_OPTION_COUNT 4
void serve_options(struct serve *serve, struct cli_option options_out[SERVE_OPTION_COUNT]);

/**
 * Opens, starts, prints a ready line for each section that serves, and runs until SIGTERM or
 * SIGINT. SIGHUP reads the INI file again. @return the exit code.
 */
int serve_run(struct serve *serve);

#endif /* KVL_SERVE_H */
