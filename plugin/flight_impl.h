/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file flight_impl.h
 * The inside of a flight: for flight.c (books, cutting off), flight_start.c (what a backend is
 * given) and flight_land.c (what it reports).
 */
#ifndef KVL_PLUGIN_FLIGHT_IMPL_H
#define KVL_PLUGIN_FLIGHT_IMPL_H

#include "flight.h"

/* What a flight keeps of each of its chunks. */
struct kvl_cargo {
    struct kvl_chunk chunk; /* key in `key`; read: what is expected, until a target is given */
    char key[KVL_KEY_MAX];
    uint64_t hash;
    uint64_t slot; /* read, gather: room in the store */
    void *to; /* gather: its memory */
    struct kvl_view view; /* write, scatter: lease; read, gather: lease on what came */
    uint32_t epoch; /* of the key in the store when it was asked for */
    uint32_t item; /* in op->items, while there is an op */
    int32_t status;
    uint8_t has_slot;
    uint8_t has_view;
    uint8_t is_wanted; /* gather: leased when it is in the store, for those that are to get it */
};

struct kvl_flight {
    uint64_t cookie;
    enum kvl_verb verb;
    struct kvl_backend *backend; /* borrowed, outlives us */
    struct kvl_op *op; /* NULL once cut off */
    struct kvl_flight *next; /* of the same op */
    struct kvl_flight *prev;
    uint32_t count;
    uint32_t layers; /* that have arrived, as far as the backend told */
    int32_t status; /* list, probe */
    int is_landing; /* a completion is being worked on */
    int is_cut; /* it was cut off before that */
    int is_relied; /* wait_layers() let an engine go on because of its layers */
    struct kvl_flight *next_arrived; /* in the queue of the hands */
    int is_direct; /* the backend reads or writes the engine's own memory */
    struct kvl_cargo cargo[];
};

/** Takes it off its op. The lock is held. */
void kvl_flight_unlink(struct kvl_flight *flight);

/** The flight is over and its op was told: takes it out of all books. The lock is held. */
void kvl_flight_retire(struct kvl_flights *flights, struct kvl_flight *flight);

/** Works on a completion whose status is noted: bytes, hints, op, books. It is gone then. */
void kvl_flight_land(struct kvl_flights *flights, struct kvl_flight *flight);

/** Leaves that to the hands. @return 1 it may be gone already; 0 there are none. */
int kvl_flight_hand_over(struct kvl_flights *flights, struct kvl_flight *flight);

void kvl_flight_free(struct kvl_flights *flights, struct kvl_flight *flight);

#endif /* KVL_PLUGIN_FLIGHT_IMPL_H */
