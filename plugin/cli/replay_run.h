/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file replay_run.h
 * The parts of the driving process of replay. Functions print their own errors and return exit
 * codes.
 */
#ifndef KVL_REPLAY_RUN_H
#define KVL_REPLAY_RUN_H

#include "child.h"
#include "cli.h"
#include "replay.h"

#define REPLAY_ENGINES_MAX 64u
#define REPLAY_SERVER_BUDGET (2ull << 30)

struct replay {
    struct cli_common common;
    const char *path;
    const char *capacity;
    const char *bad_lines;
    const char *share; /* NULL = not said */
    uint64_t engines;
    uint64_t bytes_per_token;
    uint64_t requests; /* 0 = all */
    uint64_t server_bytes;
    const char *driver; /* NULL = libcuda.so.1 */
    bool on_gpu;
    bool metadata_only;
    bool serve;
    bool with_server;
    bool with_peers; /* engines ask each other */
    bool parallel;
    bool progress;

    uint64_t max_chunks; /* 0 = no limit */
    uint64_t max_bytes; /* 0 = not given */
    char sets[2][64]; /* capacity as overrides, with --config */

    struct child server;
    struct child children[REPLAY_ENGINES_MAX];
    bool busy[REPLAY_ENGINES_MAX]; /* a DONE is still to come */
    char peers[REPLAY_ENGINES_MAX][REPLAY_ADDRESS_ROOM]; /* where each is asked by the others */
    struct replay_report sum;
    struct replay_process processes[REPLAY_ENGINES_MAX + 1];
    uint32_t process_count;
    uint64_t bad_line_count;
};

/** Starts the server, if there is to be one, then all engines; tells each where the others are. */
int replay_engines_start(struct replay *self);

/** Waits until an engine has done what it was given; returns at once when it has nothing. */
int replay_engine_await(struct replay *self, uint32_t at);

/** Takes the report of an engine into the sum. After its last request. */
int replay_engine_report(struct replay *self, uint32_t at);

#endif /* KVL_REPLAY_RUN_H */
