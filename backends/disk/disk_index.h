/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file disk_index.h
 * Where each chunk lies: an open-addressed table from the hash of a key to a place on disk, 24
 * bytes per slot, 28 to 77 bytes per chunk. It holds no keys: who reads a record compares the whole
 * key. Not thread-safe.
 */
#ifndef KVL_DISK_INDEX_H
#define KVL_DISK_INDEX_H

#include <stdbool.h>

#include <kvlane/key.h>

#include "disk_record.h"

/** What stands for a key: 96 bits of its hash. */
struct disk_name {
    uint64_t hash;
    uint32_t check;
};

struct disk_place {
    uint32_t segment; /* number of the file, from 1 */
    uint32_t unit; /* offset of the record, in DISK_ALIGN */
    uint32_t bytes : 31; /* payload */
    uint32_t used : 1; /* since it was put there */
};

struct disk_slot {
    uint64_t hash;
    uint32_t check;
    struct disk_place place; /* segment 0 = free slot */
};
_Static_assert(sizeof(struct disk_slot) == 24, "memory per chunk is promised in the README");

typedef struct disk_name (*disk_hash_fn)(const void *key, size_t length, uint64_t seed);

/** Fields are private; `hash` may be replaced before first use. */
struct disk_index {
    disk_hash_fn hash;
    uint64_t seed; /* random, so that nobody can choose keys that collide */
    struct disk_slot *slots;
    uint64_t capacity; /* a power of 2, or 0 */
    uint64_t used; /* slots, with those below the floor */
    uint64_t live; /* chunks */
    uint32_t floor; /* places in older segments are void */
};

void disk_index_init(struct disk_index *index, uint64_t seed);
void disk_index_fini(struct disk_index *index);

struct disk_name disk_index_name(const struct disk_index *index, const struct kvl_key *key);

/** True when the chunk is known; its place in *place_out. */
bool disk_index_find(const struct disk_index *index, const struct disk_name *name,
                     struct disk_place *place_out);

/** As disk_index_find(), and remembers that the chunk was used. */
bool disk_index_use(struct disk_index *index, const struct disk_name *name,
                    struct disk_place *place_out);

/**
 * Sets the place of a chunk.
 * @return 0 a new one; 1 in place of *old_out; -ENOMEM.
 */
int disk_index_put(struct disk_index *index, const struct disk_name *name,
                   const struct disk_place *place, struct disk_place *old_out);

/** Takes a chunk out. @return true when it was there, at *old_out. */
bool disk_index_remove(struct disk_index *index, const struct disk_name *name,
                       struct disk_place *old_out);

/** Voids all places in segments below `floor`, which were `live` chunks. Takes no time. */
void disk_index_raise_floor(struct disk_index *index, uint32_t floor, uint64_t live);

/** Copies the places of all chunks, at most `max`. @return how many. */
uint64_t disk_index_places(const struct disk_index *index, struct disk_place *places_out,
                           uint64_t max);

#endif /* KVL_DISK_INDEX_H */
