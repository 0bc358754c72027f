/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file op.h
 * What an engine asked for and this process cannot answer at once: an op, with one item per chunk
 * that is still open. Named by an index and a generation, never by a pointer.
 *
 * An op is moved on by one thread at a time, the one that waits for it (drive.h). An item belongs
 * to that thread, except while it is flying: then it belongs to its flights. What both look at
 * (`is_flying`, `status`, `stage`, `idle`) is guarded by the lock of the flights.
 */
#ifndef KVL_PLUGIN_OP_H
#define KVL_PLUGIN_OP_H

#include <kvlane/backend.h>

#include <pthread.h>

#include "place.h"
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

/** What an item waits for, while its status is -EINPROGRESS. */
enum kvl_item_stage {
    KVL_ITEM_ASK, /* lookup, load: the next holder is to be asked */
    KVL_ITEM_BRING, /* load: leased in the own store, to be copied into the engine's memory */
    KVL_ITEM_TAKE, /* save: to be copied from a device's memory into the own store */
    KVL_ITEM_TAKING, /* save: that is under way */
    KVL_ITEM_KEPT, /* save: the own store has it */
    KVL_ITEM_LOST, /* save: the own store did not take it; others may still */
};

/** A chunk of an op that this process could not answer by itself. */
struct kvl_op_item {
    struct kvl_chunk chunk; /* key text in op->keys */
    uint64_t hash; /* of the key */
    uint32_t index; /* in the engine's batch */
    uint32_t tried; /* bit per backend that was asked */
    uint32_t want; /* save, remove: bit per backend that is to get it and was not given it yet */
    int32_t status; /* 0 done; -EINPROGRESS under way or not yet asked; else why not */
    int32_t failure; /* the one of all failures that says most; 0 = none yet */
    uint8_t is_flying;
    uint8_t stage; /* enum kvl_item_stage */
    uint8_t has_asked_own; /* load: the own store was looked at */
    uint8_t is_moved; /* save: its bytes are to be read from the memory of a device */
    uint8_t has_view;
    uint8_t has_slot;
    uint8_t location;
    struct kvl_view view; /* the chunk in the own store, leased until it went where it is to go */
    uint64_t slot; /* save: room in the own store, between making it and the flight */
    void *to; /* its memory */
};

struct kvl_op {
    uint64_t handle;
    enum kvl_op_kind kind;
    uint32_t flags; /* KVL_BATCH_HELD, for the backends */
    uint64_t deadline_ms;
    struct kvl_flights *flights; /* borrowed */
    pthread_cond_t changed;
    uint32_t pending; /* flights not completed */
    uint32_t landed; /* flights completed */
    uint32_t seen; /* of these, noticed by kvl_op_wait */
    int32_t outcome; /* list, probe: what the backend said */
    int cancelled;
    int cut; /* 0, or what ended it early */
    int waiting; /* a thread is in wait(), or made it */
    int is_nudged; /* a thread in wait_layers() moves it on, without waiting */
    int wants_room; /* a backend had none: go on when any flight has landed since.. */
    uint64_t landings; /* ..this many had */
    struct kvl_flight *first; /* list of its flights */

    uint32_t item_count;
    struct kvl_op_item *items;
    char *keys;
    uint32_t idle; /* load: items that are open and not flying */

    /* The engine's memory, where bytes move there later than in the call: place and, by item,
     * copies of its runs or blocks. */
    struct kvl_place place;
    struct kvl_batch memory; /* sg, blocks, stream; its arrays are the ones below */
    struct kvl_sg *sg;
    uint32_t *blocks;
    uint32_t *first_of; /* sg_first or block_first */

    uint32_t count; /* chunks of the engine's batch */
    int32_t *status; /* one per chunk */
    uint8_t *location;
    uint64_t bytes;

    char *listed; /* list: keys as length byte + text */
    size_t listed_length;
    size_t listed_room;
};

/**
 * An op with room for the chunks of a batch; kvl_op_add copies their keys and where they lie.
 * @param place  of the batch; NULL = no memory of the engine's
 * @return 0; -ENOMEM.
 */
int kvl_op_create(struct kvl_flights *flights, enum kvl_op_kind kind, const struct kvl_batch *batch,
                  const struct kvl_place *place, uint64_t deadline_ms, struct kvl_op **op_out);

/** Notes a failure of an item: one that is no plain miss is kept. */
void kvl_op_item_failed(struct kvl_op_item *item, int status);

/** A backend refused these items: it is not asked again. */
void kvl_op_items_refused(struct kvl_op *op, uint32_t backend, const uint32_t *items,
                          uint32_t count, int status);

/** Adds chunk `index` of the batch that the op was created for. */
struct kvl_op_item *kvl_op_add(struct kvl_op *op, const struct kvl_batch *batch, uint32_t index);

/** The op of a handle for the one thread that may wait for it. NULL: unknown, or being waited. */
struct kvl_op *kvl_op_claim(struct kvl_flights *flights, uint64_t handle);

/** Ends the claim without ending the op. */
void kvl_op_unclaim(struct kvl_op *op);

/** Claims a save that nobody waits for and nobody claimed, for close(). NULL = there is none. */
struct kvl_op *kvl_op_claim_save(struct kvl_flights *flights);

/** True when item `i` has a place in the engine's memory that the op still has to do with. */
static inline int kvl_op_has_memory(const struct kvl_op *op, uint32_t i)
{
    return kvl_place_has(&op->memory, i);
}

/** Ends an open item that is not flying; its lease is given back. */
void kvl_op_end_item(struct kvl_op *op, uint32_t i, int status);

/** Copies a leased chunk into the engine's host memory and ends the item. */
void kvl_op_bring(struct kvl_op *op, uint32_t i);

/** Frees an op and names no handle any more. Its flights were landed or cut off. */
void kvl_op_destroy(struct kvl_op *op);

/** Indices of up to `room` items that are neither done nor flying. @return how many. */
uint32_t kvl_op_open_items(struct kvl_op *op, uint32_t *items_out, uint32_t room);

/** Indices of all items of a stage. @return how many. */
uint32_t kvl_op_staged_items(struct kvl_op *op, enum kvl_item_stage stage, uint32_t *items_out);

/**
 * Waits until there is something to do: a flight of the op has landed since the last call, or any
 * flight when the op wants room.
 * @return 0 one has, or nothing is pending; -ETIMEDOUT; -ECANCELED.
 */
int kvl_op_wait(struct kvl_op *op, uint64_t deadline_ms);

/** Flights that have not landed. */
uint32_t kvl_op_pending(struct kvl_op *op);

/** The driver is about to ask: from now on room is a matter of landings to come. */
void kvl_op_look(struct kvl_op *op);

/** True when there is something to do for the op's driver; the lock is held. */
int kvl_op_is_due(const struct kvl_op *op);

/**
 * A backend refused with -EAGAIN. @return 1 there is somebody to wait for, and the op wants room;
 * 0.
 */
int kvl_op_wants_room(struct kvl_op *op, const struct kvl_backend *backend, int refusal);

/** Keeps a key for the answer of a list op; the lock of the flights is held. @return 0; -ENOMEM. */
int kvl_op_list_key(struct kvl_op *op, const struct kvl_key *key);

#endif /* KVL_PLUGIN_OP_H */
