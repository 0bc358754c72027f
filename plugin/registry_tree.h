/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file registry_tree.h
 * The inside of the registry: instances, workers, locations and holders. What guards what is told
 * at the head of registry.c.
 */
#ifndef KVL_PLUGIN_REGISTRY_TREE_H
#define KVL_PLUGIN_REGISTRY_TREE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "registry.h"
#include "registry_index.h"
#include "registry_map.h"
#include "registry_pool.h"

/** A location that a worker has named. Its holder is there while it may have keys. */
struct kvl_reg_location {
    struct kvl_reg_location *_Atomic next;
    atomic_uint holder; /* KVL_INDEX_NONE = none */
    bool has_seq; /* worker's lock, like last_seq */
    int64_t last_seq;
    bool from_file; /* has_seq and last_seq are, and no event came since */
    uint32_t length;
    char name[]; /* terminated */
};

/** A full sync of a worker. Under its lock. */
struct kvl_reg_sync {
    uint64_t keys; /* received, each batch once */
    uint64_t batch_count;
    uint64_t received; /* batches */
    uint64_t *bits; /* owned; batches that came; NULL once it has ended */
    char id[KVL_NAME_ROOM];
};

struct kvl_reg_instance {
    struct kvl_map_node node;
    struct kvl_reg_instance *before;
    struct kvl_reg_instance *after;
    struct kvl_reg_worker *first;
    struct kvl_reg_worker *last;
    uint64_t order;
    uint32_t number; /* not that of another instance alive */
    uint32_t length;
    char name[KVL_NAME_ROOM];
};

struct kvl_reg_worker {
    pthread_mutex_t lock;
    bool has_lock; /* the lock was made; stays when the record is used again */
    uint32_t index; /* of this record */

    /* Changed under both locks, so read under either. */
    uint64_t life; /* 0 = nobody; no two workers ever have the same */
    struct kvl_reg_instance *instance;
    int64_t worker_id;
    struct kvl_map_node node; /* membership lock, like the next two */
    struct kvl_reg_worker *before;
    struct kvl_reg_worker *after;
    uint64_t order;
    char *ip; /* owned, terminated */
    char *peer_url; /* owned, terminated; NULL = none */
    uint64_t ip_hash;
    int64_t port;
    uint64_t incarnation;
    double registration_time;
    struct kvl_reg_location *_Atomic locations; /* added under the lock, dropped under both */
    uint32_t location_count;

    /* Under the lock. */
    struct kvl_reg_sync *sync; /* owned; NULL = never one */
    bool has_gap; /* since the last full sync began */

    /* For anybody. */
    atomic_uint_fast64_t last_ms; /* monotonic, of its last message */
    atomic_uint has_heartbeat;
    _Atomic double heartbeat_time; /* unix */
    atomic_uint sync_state; /* KVL_SYNC_; changed under the lock */
    atomic_uint_fast64_t sync_ms; /* monotonic, of its last activity */
    atomic_uint_fast64_t sync_received;
    atomic_uint_fast64_t sync_expected;
    atomic_uint_fast64_t gaps;
    atomic_uint has_keys; /* it has announced a key, or a full sync without any */
};

/**
 * What lookups know of a holder. Read without a lock: what they conclude counts only when the
 * holder is still in the same life at the end, see kvl_reg_holder_is.
 */
struct kvl_reg_holder {
    atomic_uint_fast64_t birth; /* grows with each holder opened */
    atomic_uint is_alive;
    atomic_uint worker; /* index of its record */
    atomic_uint instance; /* number */
    atomic_uint has_url;
    _Atomic int64_t worker_id;
    atomic_uint_fast64_t ip_hash;
    atomic_uint_fast64_t instance_order; /* scan order: these three */
    atomic_uint_fast64_t worker_order;
    atomic_uint_fast64_t location_order;
    struct kvl_reg_location *location; /* membership lock */
};

struct kvl_registry {
    struct kvl_index *index;
    struct kvl_registry_clock clock;
    uint64_t max_bytes;
    pthread_rwlock_t members;
    struct kvl_map instances; /* by name */
    struct kvl_map workers; /* by instance and worker id */
    struct kvl_reg_instance *first;
    struct kvl_reg_instance *last;
    struct kvl_pool worker_pool;
    struct kvl_pool holder_pool; /* the index gives the numbers out */
    struct kvl_pool instance_numbers;
    uint64_t lives;
    uint64_t instance_count;
    uint64_t text_bytes; /* membership lock; texts, instances, locations */

    atomic_uint_fast64_t order; /* the next place in any of the orders */
    atomic_uint_fast64_t births;
    atomic_uint_fast64_t worker_count;
    atomic_uint_fast64_t syncing;
    atomic_uint_fast64_t completed;
    atomic_uint_fast64_t dropped;
    atomic_uint_fast64_t gaps;
    atomic_bool need_all; /* everybody is asked for a full sync */
    atomic_uint_fast64_t sync_timeout_ms;
    atomic_uint_fast64_t worker_ttl_ms;
    atomic_uint sync_threshold;
    atomic_uint resync_after_gap;
};

/* ---- small things ---- */

uint64_t kvl_reg_now(const struct kvl_registry *registry);

/** 0; -EMSGSIZE too long; -EINVAL a zero byte inside. */
int kvl_reg_check_text(struct kvl_text text);

/** True when `text` is the terminated `name`. */
bool kvl_reg_text_is(struct kvl_text text, const char *name);

/** Copies a terminated name of up to KVL_NAME_MAX bytes; NULL as "". */
void kvl_reg_copy_name(char out[KVL_NAME_ROOM], const char *name);

uint64_t kvl_reg_hash_text(struct kvl_text text);

static inline uint64_t kvl_reg_since(uint64_t now, uint64_t then)
{
    return now > then ? now - then : 0;
}

uint64_t kvl_reg_worker_hash(const struct kvl_reg_instance *instance, int64_t worker_id);

/* ---- finding and entering workers ---- */

/** Under the membership lock. @return NULL when there is none. */
struct kvl_reg_instance *kvl_reg_find_instance(const struct kvl_registry *registry,
                                               struct kvl_text name);
struct kvl_reg_worker *kvl_reg_find(const struct kvl_registry *registry,
                                    const struct kvl_worker_name *name);

/** Locks the worker of that name; no membership lock may be held. @return NULL = unknown. */
struct kvl_reg_worker *kvl_reg_enter(struct kvl_registry *registry,
                                     const struct kvl_worker_name *name);
void kvl_reg_leave(struct kvl_reg_worker *worker);

/** As kvl_reg_enter, for a message that the worker itself sent: a sign of life. */
struct kvl_reg_worker *kvl_reg_enter_heard(struct kvl_registry *registry,
                                           const struct kvl_worker_name *name);

/** A worker at some moment: it may be gone, and its record somebody else's. */
struct kvl_reg_seen {
    struct kvl_reg_worker *worker;
    uint64_t life;
};

/** Locks it if it is still there. */
bool kvl_reg_enter_seen(const struct kvl_reg_seen *seen);

/**
 * Notes all workers in scan order, of one instance unless NULL. Malloced.
 * @return 0; -ENOENT no such instance; -ENOMEM.
 */
int kvl_reg_see_all(struct kvl_registry *registry, const struct kvl_text *instance,
                    struct kvl_reg_seen **seen_out, uint64_t *count_out);

bool kvl_reg_is_silent(const struct kvl_registry *registry, const struct kvl_reg_worker *worker,
                       uint64_t now);

/** Under the membership lock or the worker's. */
void kvl_reg_fill_info(const struct kvl_registry *registry, const struct kvl_reg_worker *worker,
                       uint64_t now, struct kvl_worker_info *info_out);

/* ---- changing workers ---- */

/**
 * Adds a worker and leaves it locked.
 * @return 0; -EEXIST it is there already; -ENOMEM.
 */
int kvl_reg_add(struct kvl_registry *registry, const struct kvl_worker_desc *desc,
                struct kvl_reg_worker **worker_out);

/** Takes a new address over and drops keys, sequences and a sync under way; it is locked. */
int kvl_reg_renew(struct kvl_registry *registry, struct kvl_reg_worker *worker,
                  const struct kvl_worker_desc *desc);

/** Takes it out; it is locked and stays so, but is nobody any more. */
void kvl_reg_drop(struct kvl_registry *registry, struct kvl_reg_worker *worker);

/* ---- locations, under the worker's lock ---- */

/** @return NULL when the worker has none of that name. */
struct kvl_reg_location *kvl_reg_location(const struct kvl_reg_worker *worker,
                                          struct kvl_text name);

/** As kvl_reg_location, but makes it. @return 0; -ENOMEM. */
int kvl_reg_location_make(struct kvl_registry *registry, struct kvl_reg_worker *worker,
                          struct kvl_text name, struct kvl_reg_location **location_out);

/** Before keys are added: opens a holder; an empty one goes to the end of the order. 0; -ENOMEM. */
int kvl_reg_location_ready(struct kvl_registry *registry, struct kvl_reg_worker *worker,
                           struct kvl_reg_location *location);

/** Takes all its keys away. */
void kvl_reg_location_clear(struct kvl_registry *registry, struct kvl_reg_location *location);

/** Forgets all of them, with their sequences. The membership lock is held for writing too. */
void kvl_reg_drop_locations(struct kvl_registry *registry, struct kvl_reg_worker *worker);

/* ---- holders ---- */

struct kvl_reg_holder *kvl_reg_holder(const struct kvl_registry *registry, uint32_t holder);

/** Under the membership lock: is it alive and no younger than `birth`? */
bool kvl_reg_holder_is(const struct kvl_reg_holder *holder, uint64_t birth);

/* ---- full sync, under the worker's lock ---- */

void kvl_reg_set_sync(struct kvl_registry *registry, struct kvl_reg_worker *worker, uint32_t state);

/** A sync that has been quiet for too long fails now. */
void kvl_reg_age_sync(struct kvl_registry *registry, struct kvl_reg_worker *worker, uint64_t now);

/** What state it is in, also when nobody has looked since it timed out. From any thread. */
uint32_t kvl_reg_sync_state(const struct kvl_registry *registry,
                            const struct kvl_reg_worker *worker, uint64_t now);

/** Why a heartbeat asks for a full sync; 0 = it does not. */
uint32_t kvl_reg_sync_because(const struct kvl_registry *registry,
                              const struct kvl_reg_worker *worker);

/** completed / all workers; reaching the threshold ends the asking of everybody for good. */
double kvl_reg_progress(struct kvl_registry *registry, bool *reached_out);

/** Fails what has timed out, in all workers. */
void kvl_reg_age_all(struct kvl_registry *registry);

void kvl_reg_free_sync(struct kvl_reg_sync *sync);

#endif /* KVL_PLUGIN_REGISTRY_TREE_H */
