/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file py_socket_lookup_parts.h
 * The inside of a lookup socket: py_socket_lookup.c answers, py_socket_ask.c asks.
 */
#ifndef KVL_PY_SOCKET_LOOKUP_PARTS_H
#define KVL_PY_SOCKET_LOOKUP_PARTS_H

#include <pthread.h>

#include "py_socket_lookup.h"

/* A connection to a peer. With the lock held, or by the one whose question is under way. */
struct lookup_line {
    struct lookup_line *next;
    char url[KVL_CHANNEL_URL_ROOM];
    void *req; /* NULL = to be made */
    void *watch;
    int is_busy;
    uint64_t used_ms;
};

struct py_socket_lookup {
    struct py_socket_lookup_config config;
    struct py_socket_peers *peers;
    const struct py_socket_chunks_ops *ops;
    void *rep;
    char url[KVL_CHANNEL_URL_ROOM];
    int stop_fd; /* readable for ever once it is to stop */
    uint64_t thread;
    int has_thread;
    uint64_t complained_ms;

    pthread_mutex_t lock; /* guards what is below */
    pthread_cond_t freed; /* a line is not busy any more */
    int is_stopping;
    struct lookup_line *lines;
    uint32_t line_count;
};

/* ---- py_socket_ask.c ---- */

/** Closes every connection; none is busy. */
void lookup_hang_up(struct py_socket_lookup *lookup);

#endif /* KVL_PY_SOCKET_LOOKUP_PARTS_H */
