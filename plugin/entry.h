/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file entry.h
 * The inside of the store: entries, their index, who is evicted. The caller of every function holds
 * the store's lock.
 */
#ifndef KVL_PLUGIN_ENTRY_H
#define KVL_PLUGIN_ENTRY_H

#include <pthread.h>

#include "arena.h"
#include "evict.h"
#include "feed.h"
#include "quota.h"
#include "store.h"

#define KVL_ENTRY_NONE UINT32_MAX
#define KVL_ENTRY_BLOCK_BITS 12u
#define KVL_ENTRY_BLOCK (1u << KVL_ENTRY_BLOCK_BITS)
#define KVL_ENTRY_MAX_BLOCKS 65536u
#define KVL_ENTRY_EPOCHS 65536u

enum kvl_entry_state {
    KVL_ENTRY_UNUSED, /* in the list of unused entries */
    KVL_ENTRY_WRITING, /* reserved: not in the index, not in the order */
    KVL_ENTRY_LIVE,
    KVL_ENTRY_GONE, /* out of the index, kept by its leases */
};

/* Is the chunk in the tier below, if there is one? */
enum kvl_below_state { KVL_BELOW_NO, KVL_BELOW_TAKEN, KVL_BELOW_YES };

struct kvl_entry {
    uint64_t hash;
    uint64_t bytes;
    uint64_t checksum;
    void *data;
    struct kvl_attrs attrs;
    uint32_t generation; /* of this life; a handle of an earlier one does not match */
    uint32_t leases;
    uint32_t span;
    uint32_t next_hash; /* chain of the bucket; or list of unused entries */
    struct kvl_evict_node node;
    struct kvl_quota_node quota;
    uint8_t state;
    uint8_t has_span;
    uint8_t has_checksum;
    uint8_t below; /* enum kvl_below_state */
    uint8_t key_length;
    char key[KVL_KEY_MAX];
};

struct kvl_store {
    pthread_mutex_t lock; /* guards everything below */
    struct kvl_arena arena;
    struct kvl_entry
        *blocks[KVL_ENTRY_MAX_BLOCKS]; /* entries never move: leased ones are read unlocked */
    uint32_t block_count;
    uint32_t unused;
    uint32_t *buckets;
    uint32_t bucket_mask;
    struct kvl_evict evict;
    struct kvl_quota *quota; /* owned; NULL = no quotas */
    uint64_t max_chunks;
    int checksum;
    struct kvl_store_events events;
    struct kvl_feed feed; /* has a lock of its own, taken behind this one */
    bool is_told; /* feed has a reader */
    int spare_unwritten; /* evict only what the tier below has */
    uint32_t epochs[KVL_ENTRY_EPOCHS]; /* by hash of the key: grows with each new value */
    struct kvl_store_stats stats;
};

/** Sets up eviction and quotas. @return 0; -ENOMEM, -EINVAL. */
int kvl_entry_policies(struct kvl_store *store, const struct kvl_store_params *params);

struct kvl_entry *kvl_entry_at(const struct kvl_store *store, uint32_t index);
uint64_t kvl_entry_handle(const struct kvl_entry *entry, uint32_t index);

/** The entry a handle names when it is still in that life, else NULL. */
struct kvl_entry *kvl_entry_of(const struct kvl_store *store, uint64_t handle, uint32_t *index_out);

/** Bytes and record: what an entry costs. */
uint64_t kvl_entry_weight(void *store, uint32_t index);
uint64_t kvl_entry_total_used(const struct kvl_store *store);

/** @return a live entry; KVL_ENTRY_NONE. */
uint32_t kvl_entry_find(const struct kvl_store *store, const struct kvl_key *key, uint64_t hash);

/**
 * An entry with room for its bytes; budget and quota are kept by evicting others.
 * @return 0; -EMSGSIZE over the quota; -ENOMEM.
 */
int kvl_entry_new(struct kvl_store *store, const struct kvl_key *key, uint64_t bytes,
                  uint32_t *index_out);
void kvl_entry_free(struct kvl_store *store, uint32_t index);

/** Puts an entry into the index, which may grow. */
void kvl_entry_index(struct kvl_store *store, uint32_t index);
void kvl_entry_index_grow(struct kvl_store *store);

/** Counts as use. */
void kvl_entry_touch(struct kvl_store *store, uint32_t index);

/** Tells the reader of the store's changes, if there is one: KVL_KEY_ADMIT, KVL_KEY_EVICT. */
void kvl_entry_tell(struct kvl_store *store, uint32_t index, uint32_t kind);

/** Takes a live entry out of sight; its memory goes when the last lease does. */
void kvl_entry_hide(struct kvl_store *store, uint32_t index);

/** @return 0; -ENOMEM nobody can go. */
int kvl_entry_evict_one(struct kvl_store *store);

#endif /* KVL_PLUGIN_ENTRY_H */
