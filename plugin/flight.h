/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file flight.h
 * Batches under way: a flight is one batch given to one backend on behalf of an op.
 *
 * Deadlines are kept here, whatever a backend does: when an op ends early its flights are cut off
 * from it and live on alone (quarantine), with the store memory they read into or write from, until
 * the backend reports the end. So a late transfer writes where nothing else is.
 *
 * One lock guards ops and flights. It is not held while a backend, the store or the hints are
 * called.
 */
#ifndef KVL_PLUGIN_FLIGHT_H
#define KVL_PLUGIN_FLIGHT_H

#include <kvlane/backend.h>

#include <pthread.h>

#include "hints.h"
#include "kv.h"
#include "op.h"
#include "store.h"
#include "table.h"

struct kvl_backend;

/** What a flight asks of its backend. */
enum kvl_verb {
    KVL_VERB_LOOKUP,
    KVL_VERB_READ, /* into the own store, or into the engine's memory */
    KVL_VERB_WRITE, /* from the own store */
    KVL_VERB_WRITE_OUT, /* from the engine's memory */
    KVL_VERB_REMOVE,
    KVL_VERB_LIST,
    KVL_VERB_PROBE,
    KVL_VERB_GATHER, /* the engine's memory -> the own store */
    KVL_VERB_SCATTER, /* the own store -> the engine's memory */
};

/** Threads that check what gathers brought: one hashes slower than a bus copies. */
#define KVL_HANDS 2u

struct kvl_flights {
    pthread_mutex_t lock; /* guards ops, their items in flight, flights and the count below */
    struct kvl_table ops;
    struct kvl_table flights;
    uint64_t quarantined;
    pthread_cond_t idle; /* only quarantined flights are left */
    pthread_cond_t moved; /* something happened to some op; told when there are watchers */
    uint32_t watchers; /* threads that wait for `moved` */
    uint64_t landings; /* flights that were completed */
    struct kvl_kv_table kvs; /* has a lock of its own, never taken together with ours */
    struct kvl_flight *arrived; /* gathers that are to be landed by the hands, oldest first */
    struct kvl_flight **arrived_last;
    pthread_cond_t work; /* for the hands */
    pthread_t hands[KVL_HANDS];
    uint32_t hand_count; /* 0 = completions are landed where they are reported */
    int hands_stop;
    struct kvl_store *store; /* borrowed */
    struct kvl_hints *hints; /* borrowed */
    const struct kvl_log *log; /* borrowed */
};

struct kvl_flight_stats {
    uint64_t ops; /* now */
    uint64_t flights; /* now */
    uint64_t quarantined; /* flights cut off and not yet completed */
};

int kvl_flights_create(struct kvl_store *store, struct kvl_hints *hints, const struct kvl_log *log,
                       struct kvl_flights **flights_out);

/** Takes NULL. All backends have stopped. @return flights that were never completed. */
uint64_t kvl_flights_destroy(struct kvl_flights *flights);

/**
 * Starts threads that land gathers, so that backends report layers and ends while bytes are hashed.
 * Once. @return 0; -EAGAIN, -ENOMEM: it works without them.
 */
int kvl_flights_start_hands(struct kvl_flights *flights);

/** Lands what has arrived and ends the threads, if there are any. All backends have stopped. */
void kvl_flights_stop_hands(struct kvl_flights *flights);

void kvl_flights_get_stats(struct kvl_flights *flights, struct kvl_flight_stats *stats_out);

/** Wakes those that wait for `moved`. The lock is held. */
static inline void kvl_flights_moved(struct kvl_flights *flights)
{
    if (flights->watchers > 0) {
        pthread_cond_broadcast(&flights->moved);
    }
}

/**
 * Gives items to a backend as one batch. A scatter takes the items' leases along, a gather their
 * room in the store; after a refusal they are the items' again.
 * @param items  indices into op->items
 * @return 0 accepted, and the items are flying; the refusal.
 */
int kvl_op_fly(struct kvl_op *op, struct kvl_backend *backend, enum kvl_verb verb,
               const uint32_t *items, uint32_t count);

/** Cuts the op off from its flights: what is not done ends with `status`; they are cancelled. */
void kvl_op_cut(struct kvl_op *op, int status);

/** kvl_op_cut for an op somebody else waits for. @return 0; -EINVAL no such op. */
int kvl_flights_cancel(struct kvl_flights *flights, uint64_t handle);

/** Waits until no flight of a living op is under way. @return 0; -ETIMEDOUT. */
int kvl_flights_drain(struct kvl_flights *flights, uint64_t deadline_ms);

/** Ends every op, for close(). */
void kvl_flights_cut_all(struct kvl_flights *flights);

/* ---- what a backend reports ---- */

void kvl_flights_complete(struct kvl_flights *flights, struct kvl_backend *backend,
                          const struct kvl_completion *done);
int kvl_flights_read_target(struct kvl_flights *flights, uint64_t cookie, uint32_t item,
                            const struct kvl_chunk *found, void **addr_out);
/** As kvl_host.progress. */
void kvl_flights_progress(struct kvl_flights *flights, struct kvl_backend *backend, uint64_t cookie,
                          uint32_t layers);
int kvl_flights_list_add(struct kvl_flights *flights, uint64_t cookie, const struct kvl_key *keys,
                         uint32_t count);

#endif /* KVL_PLUGIN_FLIGHT_H */
