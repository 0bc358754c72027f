/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file controller_count.h
 * What role controller counts. Any thread may count and read.
 */
#ifndef KVL_CONTROLLER_COUNT_H
#define KVL_CONTROLLER_COUNT_H

#include <stdatomic.h>
#include <stdint.h>

enum controller_count {
    CONTROLLER_COUNT_PULL_FRAMES, /* frames on A */
    CONTROLLER_COUNT_REPLY_MESSAGES, /* on B and C together */
    CONTROLLER_COUNT_PULL_PENDING, /* gauge: 1 = more waited when last looked */
    CONTROLLER_COUNT_REPLY_PENDING, /* gauge */
    CONTROLLER_COUNT_PULL_ACTIVE, /* gauge: being handled now */
    CONTROLLER_COUNT_REPLY_ACTIVE, /* gauge */
    CONTROLLER_COUNT_KEY_OPS, /* admits and evicts applied */
    CONTROLLER_COUNT_SYNC_KEYS, /* keys of sync batches applied */
    CONTROLLER_COUNT_LOOKUPS, /* of peers */
    CONTROLLER_COUNT_LOOKUP_HITS,
    CONTROLLER_COUNT_REGISTRATIONS,
    CONTROLLER_COUNT_HEARTBEATS,
    CONTROLLER_COUNT_SYNC_REQUESTS, /* heartbeats answered with full_sync */
    CONTROLLER_COUNT_SYNC_STARTS, /* accepted */
    CONTROLLER_COUNT_SYNC_REFUSED,
    CONTROLLER_COUNT_SYNC_ENDS, /* completed */
    CONTROLLER_COUNT_BAD_FRAMES, /* that do not decode */
    CONTROLLER_COUNT_SHORT_MESSAGES, /* B and C: fewer than three frames */
    CONTROLLER_COUNT_UNKNOWN_MESSAGES, /* decode, and do not belong on their socket */
    CONTROLLER_COUNT_DROPPED_UNKNOWN_WORKER, /* messages on A */
    CONTROLLER_COUNT_DROPPED_SYNCING, /* messages with key events */
    CONTROLLER_COUNT_DROPPED_SYNC, /* batches and ends of no sync under way */
    CONTROLLER_COUNT_DROPPED_MEMORY, /* messages of which not everything found room */
    CONTROLLER_COUNT_REAPED, /* silent workers taken out */
    CONTROLLER_COUNT_CONTROL_CALLS, /* orders sent to workers */
    CONTROLLER_COUNT_CONTROL_TIMEOUTS,
    CONTROLLER_COUNT_SNAPSHOTS, /* written */
    CONTROLLER_COUNT_SNAPSHOT_FAILURES,
    CONTROLLER_COUNT_REPLICA_RECORDS, /* kept for standbys */
    CONTROLLER_COUNT_REPLICA_BASES, /* sent to standbys */
    CONTROLLER_COUNT_REPLICA_OVERRUNS, /* standbys that were too slow */
    CONTROLLER_COUNT_REPLICA_BAD, /* messages on the replica socket that are of no standby */
    CONTROLLER_COUNT_REPLICA_STANDBYS, /* gauge: that follow */
    CONTROLLER_COUNT_STANDBY_FOLLOWS, /* gauge: 1 = as the primary has it */
    CONTROLLER_COUNT_STANDBY_RECORDS, /* applied */
    CONTROLLER_COUNT_STANDBY_BASES, /* loaded */
    CONTROLLER_COUNT_STANDBY_RESTARTS, /* times it had to begin anew */
    CONTROLLER_COUNT_STANDBY_TAKEOVERS, /* times the primary fell silent */
    CONTROLLER_COUNTS, /* how many */
};

/** snake_case, by enum controller_count. */
extern const char *const controller_count_names[CONTROLLER_COUNTS];

struct controller_counts {
    _Atomic uint64_t at[CONTROLLER_COUNTS];
};

static inline void controller_count_add(struct controller_counts *counts,
                                        enum controller_count which, uint64_t n)
{
    atomic_fetch_add_explicit(&counts->at[which], n, memory_order_relaxed);
}

static inline void controller_count_set(struct controller_counts *counts,
                                        enum controller_count which, uint64_t value)
{
    atomic_store_explicit(&counts->at[which], value, memory_order_relaxed);
}

static inline uint64_t controller_count_get(const struct controller_counts *counts,
                                            enum controller_count which)
{
    return atomic_load_explicit(&counts->at[which], memory_order_relaxed);
}

#endif /* KVL_CONTROLLER_COUNT_H */
