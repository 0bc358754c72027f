/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file chunk.h
 * What put, get, exists, list and health have in common.
 */
#ifndef KVL_CHUNK_H
#define KVL_CHUNK_H

#include "cli.h"
#include "engine.h"

struct chunk {
    struct engine engine;
    struct cli_common common;
    const char *server; /* short for an INI file with one client */
    char ini[512];
};

/** Longest wait at the end, for what a backend still has under way. */
#define CHUNK_DRAIN_MS 5000

#define CHUNK_SERVER_OPTION(chunk)                                                                 \
    {                                                                                              \
        "server", "lm://HOST:PORT", "talk to this tcp_remote server; in place of --config",        \
            CLI_TEXT, &(chunk)->server, 0, 0                                                       \
    }

/** cli_parse(), then what --server stands for. */
int chunk_parse(struct chunk *chunk, const struct cli_usage *usage, int argc, char **argv,
                int *count_out);

/** Opens and starts the instance. @return an exit code; engine_close() follows in any case. */
int chunk_open(struct chunk *chunk);

/** A chunk with this key and nothing else. @return an exit code. */
int chunk_key(const char *text, struct kvl_chunk *chunk_out);

/** Looks one chunk up. @return 0 and its location; -ENOENT; another negative errno. */
int chunk_lookup(const struct chunk *chunk, const struct kvl_chunk *item, uint8_t *location_out);

#endif /* KVL_CHUNK_H */
