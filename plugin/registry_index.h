/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file registry_index.h
 * The big map of the registry: chunk id -> set of holders. A holder is a small number that stands
 * for one location of one worker; what that is, only registry.c knows.
 *
 * Threads: everything from any thread. Lookups take no lock; they read cache lines that carry a
 * sequence number and read again when a writer was there. Calls that change one holder must not run
 * together with others for the same holder; its owner's lock in registry.c sees to that.
 */
#ifndef KVL_PLUGIN_REGISTRY_INDEX_H
#define KVL_PLUGIN_REGISTRY_INDEX_H

#include <kvlane/registry.h>

struct kvl_index;

/** No holder, no group. */
#define KVL_INDEX_NONE UINT32_MAX

/** @param max_bytes  admits beyond are refused; 0 = no bound. @return 0; -ENOMEM. */
int kvl_index_create(uint64_t max_bytes, struct kvl_index **index_out);
void kvl_index_destroy(struct kvl_index *index);

/* ---- holders ---- */

/** A new holder without keys. The number is not in use anywhere. @return 0; -ENOMEM. */
int kvl_index_holder_open(struct kvl_index *index, uint32_t *holder_out);

/**
 * Takes a holder out: from now on no lookup sees it. O(1); what it leaves in the map is cleared
 * away by tidy and by updates on their way, and only then the number is used again.
 */
void kvl_index_holder_retire(struct kvl_index *index, uint32_t holder);

/** Keys of a living holder. */
uint64_t kvl_index_holder_keys(const struct kvl_index *index, uint32_t holder);

/* ---- updates ---- */

/**
 * Applies ops in order; their seq is not looked at. Stops behind an op that took the last key of
 * the holder, so that the caller can note it.
 * @param dropped_out  grows by the admits that found no room
 * @return ops used up, `count` when it went through.
 */
uint32_t kvl_index_apply(struct kvl_index *index, uint32_t holder, const struct kvl_key_op *ops,
                         uint32_t count, uint64_t *dropped_out);

/** Adds ids. @return how many found no room. */
uint32_t kvl_index_add(struct kvl_index *index, uint32_t holder, const struct kvl_chunk_id *ids,
                       uint32_t count);

/** Takes ids away. */
void kvl_index_remove(struct kvl_index *index, uint32_t holder, const struct kvl_chunk_id *ids,
                      uint32_t count);

/* ---- lookups ---- */

/** 1 when a living holder has it. */
int kvl_index_has(const struct kvl_index *index, const struct kvl_chunk_id *id);

struct kvl_index_run {
    uint32_t holder;
    uint32_t length; /* leading ids that it has without a hole, at least 1 */
};

/** Is this holder to be considered? Asked about holders of ids[0] only. */
typedef int (*kvl_index_accept_fn)(void *ctx, uint32_t holder);

/**
 * Runs of every accepted living holder of ids[0], in no order.
 * @param runs_out  allocated with malloc, owned by the caller; NULL when there are none
 * @return how many; -ENOMEM.
 */
int kvl_index_runs(const struct kvl_index *index, const struct kvl_chunk_id *ids, uint32_t count,
                   kvl_index_accept_fn accept, void *ctx, struct kvl_index_run **runs_out);

struct kvl_index_prefix {
    uint32_t group;
    uint32_t length; /* leading ids of which each has some holder in the group, at least 1 */
    uint32_t holder; /* one that has the last of them: the first by `before` */
};

/** The group of a holder, KVL_INDEX_NONE to leave it out; and which of two comes first. */
struct kvl_index_grouping {
    void *ctx;
    uint32_t (*group)(void *ctx, uint32_t holder);
    int (*before)(void *ctx, uint32_t a, uint32_t b);
};

/** Like kvl_index_runs, for groups of holders that complete each other. */
int kvl_index_prefixes(const struct kvl_index *index, const struct kvl_chunk_id *ids,
                       uint32_t count, const struct kvl_index_grouping *grouping,
                       struct kvl_index_prefix **prefixes_out);

/** Living holders of one id. @return as kvl_index_runs. */
int kvl_index_holders(const struct kvl_index *index, const struct kvl_chunk_id *id,
                      uint32_t **holders_out);

/* ---- the whole map ---- */

typedef int (*kvl_index_entry_fn)(void *ctx, const struct kvl_chunk_id *id, uint32_t holder);

/**
 * Calls `fn` for each entry of living holders, no lock held, in an order that suits adding them
 * again. Entries that come or go meanwhile may be in or not; no other is left out or told twice.
 */
int kvl_index_walk(const struct kvl_index *index, kvl_index_entry_fn fn, void *ctx);

/** Clears away what retired holders left, for about `budget_us`. @return 1 when more is left. */
int kvl_index_tidy(struct kvl_index *index, uint64_t budget_us);

struct kvl_index_stats {
    uint64_t entries; /* (id, living holder) */
    uint64_t ids; /* different ones, also of retired holders not yet cleared away */
    uint64_t retired; /* entries of retired holders not yet cleared away */
    uint64_t bytes; /* of memory in use */
};

void kvl_index_get_stats(const struct kvl_index *index, struct kvl_index_stats *stats_out);

#endif /* KVL_PLUGIN_REGISTRY_INDEX_H */
