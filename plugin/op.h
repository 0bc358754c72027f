/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file op.h
 * What an engine asked for and this process cannot answer at once: an op, with one item per chunk
 * that is still open. Named by an index and a generation, never by a pointer.
 *
 * An item belongs to the thread that waits for the op, except while it is flying: then it belongs
 * to the flight, and `is_flying` itself is guarded by the lock of the flights.
 */
#ifndef KVL_PLUGIN_OP_H
#define KVL_PLUGIN_OP_H

#include <kvlane/backend.h>

#include <pthread.h>

#include "thread.h"

struct kvl_flight;
struct kvl_flights;

enum kvl_op_kind {
    KVL_OP_LOOKUP,
    KVL_OP_LOAD,
    KVL_OP_SAVE,
    KVL_OP_REMOVE,
    KVL_OP_LIST,
    KVL_OP_PROBE,
};

/** A chunk of an op that this process could not answer by itself. */
struct kvl_op_item {
    struct kvl_chunk chunk; /* key text in op->keys */
    uint64_t hash; /* of the key */
    uint32_t index; /* in the engine's batch */
    uint32_t tried; /* bit per backend that was asked */
    uint32_t want; /* save: bit per backend that is to get it */
    int32_t status; /* 0 done; -EINPROGRESS under way or not yet asked; else why not */
    int32_t failure; /* the one of all failures that says most; 0 = none yet */
    uint8_t is_flying;
    uint8_t has_view;
    uint8_t location;
    struct kvl_view view; /* load: the chunk in the own store; none when read directly */
};

struct kvl_op {
    uint64_t handle;
    enum kvl_op_kind kind;
    uint64_t deadline_ms;
    struct kvl_flights *flights; /* borrowed */
    pthread_cond_t changed;
    uint32_t pending; /* flights not completed */
    uint32_t landed; /* flights completed */
    uint32_t seen; /* of these, noticed by kvl_op_wait */
    int32_t outcome; /* list, probe: what the backend said */
    int cancelled;
    int waiting; /* a thread is in wait() */
    struct kvl_flight *first; /* list of its flights */

    uint32_t item_count;
    struct kvl_op_item *items;
    char *keys;
    struct kvl_sg *sg; /* load: copy of the engine's runs, of the items only */
    uint32_t *sg_first;

    uint32_t count; /* chunks of the engine's batch */
    int32_t *status; /* one per chunk */
    uint8_t *location;
    uint64_t bytes;

    char *listed; /* list: keys as length byte + text */
    size_t listed_length;
    size_t listed_room;
};

/**
 * An op with room for `items` of a batch of `count` chunks whose keys and runs are copied by
 * kvl_op_add. @return 0; -ENOMEM.
 */
int kvl_op_create(struct kvl_flights *flights, enum kvl_op_kind kind, const struct kvl_batch *batch,
                  uint64_t deadline_ms, struct kvl_op **op_out);

/** Notes a failure of an item: one that is no plain miss is kept. */
void kvl_op_item_failed(struct kvl_op_item *item, int status);

/** Adds chunk `index` of the batch that the op was created for. */
struct kvl_op_item *kvl_op_add(struct kvl_op *op, const struct kvl_batch *batch, uint32_t index);

/** The op of a handle for the one thread that may wait for it. NULL: unknown, or being waited. */
struct kvl_op *kvl_op_claim(struct kvl_flights *flights, uint64_t handle);

/** Ends the claim without ending the op. */
void kvl_op_unclaim(struct kvl_op *op);

/** Frees an op and names no handle any more. Its flights were landed or cut off. */
void kvl_op_destroy(struct kvl_op *op);

/** Indices of up to `room` items that are neither done nor flying. @return how many. */
uint32_t kvl_op_open_items(struct kvl_op *op, uint32_t *items_out, uint32_t room);

/**
 * Waits until a flight of the op has landed since the last call.
 * @return 0 one has, or nothing is pending; -ETIMEDOUT; -ECANCELED.
 */
int kvl_op_wait(struct kvl_op *op, uint64_t deadline_ms);

/** Flights that have not landed. */
uint32_t kvl_op_pending(struct kvl_op *op);

/** Keeps a key for the answer of a list op; the lock of the flights is held. @return 0; -ENOMEM. */
int kvl_op_list_key(struct kvl_op *op, const struct kvl_key *key);

#endif /* KVL_PLUGIN_OP_H */
