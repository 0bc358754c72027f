/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file tier.h
 * The backends below the own store: what is about to be evicted is written to those with
 * `put_to = evicted`, and a serving backend may ask for what the store has not.
 *
 * Threads exist only where there is work for them: one that writes, two that fetch.
 *
 * Older bytes must not come back: when a chunk is lost before it was written, or a peer takes one
 * out, the tiers are told to remove theirs before the next fetch runs.
 */
#ifndef KVL_PLUGIN_TIER_H
#define KVL_PLUGIN_TIER_H

#include <kvlane/host.h>
#include <kvlane/watch.h>

struct kvl_instance;
struct kvl_tier;

/** Starts what the route needs; *tier_out stays NULL when that is nothing. @return 0; -EAGAIN */
int kvl_tier_start(struct kvl_instance *instance, struct kvl_tier **tier_out);

/** Writes what is not below yet, until the deadline. Takes NULL. */
void kvl_tier_flush(struct kvl_tier *tier, uint64_t deadline_ms);

/** Ends waiting fetches with -ECANCELED and joins the threads. Takes NULL. */
void kvl_tier_stop(struct kvl_tier *tier);

/** Frees; nobody asks for counters any more. Takes NULL. */
void kvl_tier_destroy(struct kvl_tier *tier);

/** As kvl_host.store_fetch. Takes NULL: nobody to ask. */
int kvl_tier_fetch(struct kvl_tier *tier, const struct kvl_key *key, uint32_t flags,
                   kvl_fetch_fn fn, void *ctx);

/** A peer took a chunk out of the store. Takes NULL. */
void kvl_tier_removed(struct kvl_tier *tier, const struct kvl_key *key);

/** Counters, each name as it is. Takes NULL. */
void kvl_tier_stats(struct kvl_tier *tier, kvl_stat_fn fn, void *ctx);

#endif /* KVL_PLUGIN_TIER_H */
