/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cuda_ipc_pool.h
 * Which chunk lies where in the memory of the pool: keys, places, leases, order of use. Pure
 * bookkeeping: it knows segments by number and size, never their memory, and calls no driver.
 *
 * A segment belongs to one device and is cut into runs, free or taken by one chunk, in the order of
 * their addresses. A chunk gets the smallest free run of the next size class that has one, at a
 * multiple of CUDA_IPC_POOL_ALIGN. When there is none, the least recently used chunk goes, and with
 * it as many of its neighbours as the new one needs: no more are ever evicted than lie in the room
 * that is then taken. Chunks of one size leave no gaps.
 *
 * A chunk with references is neither evicted nor moved; one that is removed or replaced meanwhile
 * can no longer be found, and its room comes back with the last reference. Thread-safe.
 */
#ifndef KVL_CUDA_IPC_POOL_H
#define KVL_CUDA_IPC_POOL_H

#include <kvlane/io.h>
#include <kvlane/watch.h>

#define CUDA_IPC_POOL_ALIGN 512u
/** Segments of all devices together. */
#define CUDA_IPC_POOL_SEGMENTS_MAX 1024u

struct cuda_ipc_pool;
struct cuda_ipc_run;

/** One chunk. Constant while a reference is held, but for the fields marked private. */
struct cuda_ipc_chunk {
    struct kvl_key key; /* text in the record's own memory */
    struct kvl_attrs attrs;
    uint64_t bytes;
    uint64_t checksum; /* where flags say so */
    uint32_t flags; /* KVL_CHUNK_HAS_CHECKSUM */
    int32_t device; /* as given with the segment */
    uint32_t segment;
    uint64_t offset; /* in the segment */

    /* private, guarded by the pool's lock */
    uint64_t hash;
    struct cuda_ipc_chunk *bucket_next;
    struct cuda_ipc_chunk *newer; /* order of use, of those without references */
    struct cuda_ipc_chunk *older;
    struct cuda_ipc_run *run;
    uint64_t used; /* greater = later */
    uint32_t refs;
    uint32_t state;
};

/**
 * Told of each chunk that can be found from now on, or no longer. Called with the pool's lock held,
 * so that the order is that of the changes: it must not call the pool.
 * @param kind  KVL_KEY_ADMIT, or KVL_KEY_EVICT with 0 bytes
 */
typedef void (*cuda_ipc_pool_fn)(void *ctx, const struct kvl_key *key, uint64_t bytes,
                                 uint32_t kind);

struct cuda_ipc_pool_stats {
    uint64_t chunks; /* that can be found */
    uint64_t bytes; /* taken, by any chunk */
    uint64_t room; /* bytes of all segments */
    uint64_t stored; /* since start, as are those below */
    uint64_t evicted;
    uint64_t full; /* reservations refused because everything was in use */
};

/** Of a key, for tables of this process. Pure. */
uint64_t cuda_ipc_pool_hash(const struct kvl_key *key);

/** @param changed  may be NULL. @return 0; -ENOMEM. */
int cuda_ipc_pool_create(cuda_ipc_pool_fn changed, void *ctx, struct cuda_ipc_pool **pool_out);

/** Frees it with every chunk, referenced or not, and tells nobody. Takes NULL. */
void cuda_ipc_pool_destroy(struct cuda_ipc_pool *pool);

/**
 * Adds room on a device.
 * @param bytes  a multiple of CUDA_IPC_POOL_ALIGN, not 0
 * @return 0; -ENOSPC too many segments; -EINVAL; -ENOMEM.
 */
int cuda_ipc_pool_add_segment(struct cuda_ipc_pool *pool, int32_t device, uint64_t bytes,
                              uint32_t *segment_out);

/** Bytes of all segments on the device. */
uint64_t cuda_ipc_pool_room(struct cuda_ipc_pool *pool, int32_t device);

/** 1 when the chunk can be found, else 0. Does not count as use. */
int cuda_ipc_pool_has(struct cuda_ipc_pool *pool, const struct kvl_key *key);

/** Finds a chunk and takes a reference. Counts as use. @return 0; -ENOENT. */
int cuda_ipc_pool_get(struct cuda_ipc_pool *pool, const struct kvl_key *key,
                      struct cuda_ipc_chunk **chunk_out);

/** Gives a reference of get back. */
void cuda_ipc_pool_put(struct cuda_ipc_pool *pool, struct cuda_ipc_chunk *chunk);

/**
 * Room for a chunk on a device. It cannot be found before the commit; an older one of its key can
 * be meanwhile. Ended by commit or abort.
 * @param chunk  key, bytes, attrs; checksum where the flag says so
 * @return 0; -EMSGSIZE larger than any segment there, or 0 bytes; -ENOMEM what could go is in use;
 *         -EINVAL a bad key.
 */
int cuda_ipc_pool_reserve(struct cuda_ipc_pool *pool, int32_t device, const struct kvl_chunk *chunk,
                          struct cuda_ipc_chunk **chunk_out);

/** From now on it is found, in place of an older one of its key. Ends the reservation. */
void cuda_ipc_pool_commit(struct cuda_ipc_pool *pool, struct cuda_ipc_chunk *chunk);

/** Nothing is stored. Ends the reservation. */
void cuda_ipc_pool_abort(struct cuda_ipc_pool *pool, struct cuda_ipc_chunk *chunk);

/** Takes a chunk out; references on it stay valid. @return 0; -ENOENT. */
int cuda_ipc_pool_remove(struct cuda_ipc_pool *pool, const struct kvl_key *key);

/** Takes out what lies on a device and gives it no room any more: its memory is lost. */
void cuda_ipc_pool_drop_device(struct cuda_ipc_pool *pool, int32_t device);

/**
 * Calls `fn` for every chunk that was there when the call began, with no lock held; the keys are
 * copies. @return 0; -ENOMEM; what `fn` returned.
 */
int cuda_ipc_pool_list(struct cuda_ipc_pool *pool, kvl_key_fn fn, void *ctx);

void cuda_ipc_pool_get_stats(struct cuda_ipc_pool *pool, struct cuda_ipc_pool_stats *stats_out);

#endif /* KVL_CUDA_IPC_POOL_H */
