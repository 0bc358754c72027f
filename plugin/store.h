/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file store.h
 * The chunks this process holds: bytes in an arena, key and attributes beside it, least recently
 * used order, leases. Registry location "LocalCPUBackend".
 *
 * Every function is thread-safe. One lock guards index and order; it is never held while bytes are
 * copied or hashed, nor across a call out of this file. A hit allocates nothing and makes no system
 * call. Handles are an index and a generation, so a stale one is found out.
 */
#ifndef KVL_PLUGIN_STORE_H
#define KVL_PLUGIN_STORE_H

#include <kvlane/host.h>
#include <kvlane/io.h>
#include <kvlane/watch.h>

#include "evict.h"

struct kvl_store;

/** How the store tells of what it does. Called with its lock held: be quick, do not call back. */
struct kvl_store_events {
    void *ctx;
    void (*pressure)(void *ctx); /* more than three quarters are used */
    void (*lost)(void *ctx, const struct kvl_key *key); /* evicted before it was written below */
};

struct kvl_store_params {
    void *arena; /* the engine's memory, or NULL */
    uint64_t max_bytes; /* chunks and what is kept about them; size of the arena */
    uint64_t max_chunks; /* 0 = no limit; kept by kvl_store_trim */
    enum kvl_evict_policy eviction;
    uint64_t quota; /* bytes of one namespace, 0 = no limit */
    const char *quotas; /* "name=size, .."; NULL = none */
    int checksum; /* 1 = hash every chunk that comes in, check it on the way out */
};

struct kvl_store_stats {
    uint64_t chunks;
    uint64_t bytes; /* payload */
    uint64_t used_bytes; /* payload rounded up, keys and records; <= max_bytes */
    uint64_t max_bytes;
    uint64_t hits; /* of get and exists */
    uint64_t misses;
    uint64_t evictions;
    uint64_t refused; /* reserve found no room */
    uint64_t corrupt; /* chunks dropped because their checksum did not match */
    uint64_t leases; /* out now */
    uint64_t reserved; /* slots not yet committed */
    uint64_t lost; /* evicted before they were written below */
};

/** @return 0; -EINVAL sizes; -ENOMEM. */
int kvl_store_create(const struct kvl_store_params *params, struct kvl_store **store_out);

/**
 * Makes the memory mappable for other processes, for kvl_store_export. Only while nothing is
 * stored.
 * @param fd  of the engine's memory, -1 = none. @return as kvl_arena_share.
 */
int kvl_store_share(struct kvl_store *store, int fd);

/** What other processes can map. @return 0; -ENOTSUP the store is not shared. */
int kvl_store_export(struct kvl_store *store, struct kvl_store_export *out);

/**
 * The memory that views and slots point into, for one that prepares it for a device.
 * @return 0; -ENOTSUP there is none.
 */
int kvl_store_range(const struct kvl_store *store, void **base_out, uint64_t *bytes_out);

/** Frees all. With leases or slots out the arena stays mapped. Takes NULL. @return how many out. */
uint64_t kvl_store_destroy(struct kvl_store *store);

/** Which chunks are there? Fills 0 or -ENOENT per chunk; use is not counted. @return found. */
uint32_t kvl_store_lookup(struct kvl_store *store, const struct kvl_chunk *chunks, uint32_t count,
                          int32_t *status_out);

/** 0 or -ENOENT; counts as use. */
int kvl_store_exists(struct kvl_store *store, const struct kvl_key *key);

/**
 * Counts as use when the chunk is there with that size. @return 0; -ENOENT absent, or of another
 * size.
 */
int kvl_store_touch(struct kvl_store *store, const struct kvl_key *key, uint64_t bytes);

/** Leases a chunk; counts as use. @return 0 and a lease; -ENOENT. The bytes are not checked. */
int kvl_store_get(struct kvl_store *store, const struct kvl_key *key, struct kvl_view *view_out);

/** Leases a chunk for one that only sends it on; does not count as use. */
int kvl_store_pin(struct kvl_store *store, const struct kvl_key *key, struct kvl_view *view_out);

/**
 * Hashes the leased bytes. A chunk that fails is dropped from the store; the lease stays out.
 * @return 0, also without a checksum; -EBADMSG.
 */
int kvl_store_verify(struct kvl_store *store, const struct kvl_view *view);

/** @return 0; -EINVAL for a lease that is not out. */
int kvl_store_release(struct kvl_store *store, uint64_t lease);

/**
 * Room for a chunk. Evicts least recently used chunks that nobody leases.
 * @return 0, a slot, and memory for chunk->bytes (NULL for 0); -EINVAL key; -EMSGSIZE larger than
 *         the store; -ENOMEM.
 */
int kvl_store_reserve(struct kvl_store *store, const struct kvl_chunk *chunk, uint64_t *slot_out,
                      void **addr_out);

/**
 * Makes a slot visible in place of an older chunk of its key, as most recently used. Ends the slot.
 * @param view_out  NULL, or a lease on it
 * @return 0; -EBADMSG the checksum given to reserve does not match; -EINVAL.
 */
int kvl_store_commit(struct kvl_store *store, uint64_t slot, struct kvl_view *view_out);

/** Changes when the key, or another that shares its place, gets a new value or is removed. */
uint32_t kvl_store_epoch(struct kvl_store *store, uint64_t hash);

/**
 * As kvl_store_commit, for bytes that were asked for at `epoch`.
 * @return also -ESTALE: the key has got a newer value since, which these must not replace.
 */
int kvl_store_commit_read(struct kvl_store *store, uint64_t slot, uint32_t epoch,
                          struct kvl_view *view_out);
int kvl_store_abort(struct kvl_store *store, uint64_t slot);

/** 0 or -ENOENT. Leases stay valid. */
int kvl_store_remove(struct kvl_store *store, const struct kvl_key *key);

/** Changes the limit that kvl_store_trim keeps; 0 = none. */
void kvl_store_set_max_chunks(struct kvl_store *store, uint64_t max_chunks);

/** Evicts until there are at most max_chunks. */
void kvl_store_trim(struct kvl_store *store);

/** Calls `fn` with copies of all keys, no lock held. @return 0; -ENOMEM; what `fn` returned. */
int kvl_store_list(struct kvl_store *store, kvl_key_fn fn, void *ctx);

/**
 * As store_events of <kvlane/host.h>: waits for chunks that came (not those that replace one of the
 * same key) or went, and takes them in the order in which that happened to each key. `reader` tells
 * readers apart. @return as there; -ENOMEM.
 */
int kvl_store_read_events(struct kvl_store *store, const void *reader,
                          struct kvl_store_event *events_out, uint32_t room, uint64_t deadline_ms);

/**
 * Adds to these events one of a chunk that lies elsewhere (KVL_WHERE_) in this process.
 * @return 0; -EINVAL bad key.
 */
int kvl_store_tell(struct kvl_store *store, uint32_t where, const struct kvl_key *key,
                   uint64_t bytes, uint32_t kind);

/** As store_events_wake. */
void kvl_store_wake_reader(struct kvl_store *store, const void *reader);

/** Sets or, with NULL, clears the listener. With one, chunks are written below before they go. */
void kvl_store_listen(struct kvl_store *store, const struct kvl_store_events *events);

/** A chunk that should be written below, leased; key and view stay valid until it is given back. */
struct kvl_store_cold {
    struct kvl_key key;
    struct kvl_view view;
};

/**
 * Leases up to `room` chunks of the coldest quarter (of all, with `all`) that are not written below
 * yet, up to about max_bytes. @return how many.
 */
uint32_t kvl_store_take_cold(struct kvl_store *store, struct kvl_store_cold *cold_out,
                             uint32_t room, uint64_t max_bytes, int all);

/** Gives one back; with `written` the chunk may be evicted without loss. */
void kvl_store_give_cold(struct kvl_store *store, const struct kvl_store_cold *cold, int written);

/** The leased chunk came from below: it is there already. */
void kvl_store_mark_written(struct kvl_store *store, uint64_t lease);

/** Largest chunk. */
uint64_t kvl_store_max_bytes(const struct kvl_store *store);

void kvl_store_get_stats(struct kvl_store *store, struct kvl_store_stats *stats_out);

#endif /* KVL_PLUGIN_STORE_H */
