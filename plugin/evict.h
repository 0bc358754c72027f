/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file evict.h
 * Who goes first. Not thread-safe: the store locks. Entries are named by their index; what is kept
 * of each is a node inside the entry. Nothing is allocated after init.
 *
 * - lru: least recently used. Strict, and what users expect.
 * - s3fifo: a small queue for newcomers, a main queue for those that were used again, and a memory
 *   of keys that left the small one too early. Resists scans; a hit writes one byte.
 */
#ifndef KVL_PLUGIN_EVICT_H
#define KVL_PLUGIN_EVICT_H

#include <stdint.h>

#define KVL_EVICT_NONE UINT32_MAX

enum kvl_evict_policy { KVL_EVICT_LRU, KVL_EVICT_S3FIFO };

struct kvl_evict_node {
    uint32_t newer;
    uint32_t older;
    uint8_t queue;
    uint8_t uses; /* since it came or was last spared */
};

struct kvl_evict_queue {
    uint32_t newest;
    uint32_t oldest;
    uint64_t weight;
};

struct kvl_evict {
    enum kvl_evict_policy policy;
    struct kvl_evict_node *(*node)(void *ctx, uint32_t index);
    uint64_t (*weight)(void *ctx, uint32_t index); /* bytes it occupies; constant while inside */
    uint64_t (*hash)(void *ctx, uint32_t index); /* of its key */
    int (*is_busy)(void *ctx, uint32_t index); /* evicting it would free nothing now */
    void *ctx;
    struct kvl_evict_queue queues[2];
    uint32_t count;
    uint64_t *ghosts; /* owned; s3fifo: tag and time of keys that left the small queue */
    uint32_t ghost_clock;
};

/** The functions are set by the caller before. @return 0; -ENOMEM. */
int kvl_evict_init(struct kvl_evict *evict, enum kvl_evict_policy policy);
void kvl_evict_fini(struct kvl_evict *evict);

/** A new entry, as most recently used. */
void kvl_evict_add(struct kvl_evict *evict, uint32_t index);

/** The entry leaves, evicted or not. */
void kvl_evict_drop(struct kvl_evict *evict, uint32_t index);

/** The entry was used. */
void kvl_evict_touch(struct kvl_evict *evict, uint32_t index);

/**
 * Who goes next; it is still inside. At most `looks` entries are looked at.
 * @return KVL_EVICT_NONE when all of these are busy.
 */
uint32_t kvl_evict_victim(struct kvl_evict *evict, uint32_t looks);

/** Enough looks to find whoever is not busy. */
#define KVL_EVICT_ALL UINT32_MAX

/**
 * The entry after `index` on the way to eviction, beginning with KVL_EVICT_NONE, for one that looks
 * ahead. Approximate where the policy decides late. KVL_EVICT_NONE at the end.
 */
uint32_t kvl_evict_ahead(struct kvl_evict *evict, uint32_t index);

#endif /* KVL_PLUGIN_EVICT_H */
