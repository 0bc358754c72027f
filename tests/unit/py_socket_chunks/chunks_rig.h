/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file chunks_rig.h
 * Engines with py_socket, in this process or in children, and chunks whose bytes follow from their
 * key. Whatever goes wrong in here ends the test.
 */
#ifndef KVL_CHUNKS_RIG_H
#define KVL_CHUNKS_RIG_H

#include "engine.h"

#include <stddef.h>
#include <sys/types.h>

#define RIG_PEER KVL_LOCATION_BACKEND /* where py_socket is in the file */
#define RIG_URL 200

struct rig_node {
    struct engine engine;
    char url[RIG_URL]; /* its peer_init_url */
};

/** Opens and starts; the text is what stands in the file, py_socket first. */
void rig_open(struct rig_node *node, const char *ini, ...) KVL_PRINTF(2, 3);
void rig_close(struct rig_node *node);

/** A port for this test alone: others are not given it until the process ends. */
unsigned rig_port(void);

/** The bytes of a chunk. */
void rig_fill(const char *key, void *bytes, size_t length);
/** @return bytes that are not those. */
size_t rig_differs(const char *key, const void *bytes, size_t length);

/** Stores a chunk in the engine's own store. */
void rig_save(struct rig_node *node, const char *key, size_t length);
/** The same with attributes, or with the bytes of another key. */
void rig_save_as(struct rig_node *node, const char *key, const char *content, size_t length,
                 const struct kvl_attrs *attrs);

/** Loads into `bytes`. @return status of the item. */
int rig_load(struct rig_node *node, const char *key, void *bytes, size_t length,
             uint64_t within_ms);
/** Loads and compares: must be there. @return where it came from. */
uint8_t rig_expect(struct rig_node *node, const char *key, size_t length);

/** @return 0 or what the item has; the time it took, when asked for. */
int rig_lookup(struct rig_node *node, const char *key, uint64_t within_ms, uint64_t *took_ms_out);
/** Looks until the lookup says that, for 20 s. */
void rig_await(struct rig_node *node, const char *key, int status);

/**
 * Backends and mocks lie in different folders, and an engine looks into one: makes one with the
 * backends that are named, NULL ends, where engines look until rig_scatter.
 */
void rig_gather(const char *const *words);
void rig_scatter(void);

/* ---- engines in processes of their own ---- */

struct rig_child {
    pid_t pid;
    int to;
    int from;
    char url[RIG_URL];
};

/** For main: becomes a child when it was started as one. */
void rig_be_child(int argc, char **argv);
void rig_spawn(struct rig_child *child, const char *ini, ...) KVL_PRINTF(2, 3);
void rig_child_save(struct rig_child *child, const char *key, size_t length);
/** Value of a counter there. */
uint64_t rig_child_stat(struct rig_child *child, const char *name);
/** Ends it in order; after rig_signal(SIGKILL) only clears up. */
void rig_reap(struct rig_child *child);
/** After SIGSTOP it has stopped. */
void rig_signal(struct rig_child *child, int number);

#endif /* KVL_CHUNKS_RIG_H */
