/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file stats.h
 * Counters and latency histograms. Adding is one relaxed atomic each; reading needs no lock.
 */
#ifndef KVL_PLUGIN_STATS_H
#define KVL_PLUGIN_STATS_H

#include <stdatomic.h>
#include <stdint.h>

/** 64 powers of two in 4 steps each: a quantile is off by at most an eighth. */
#define KVL_HIST_BUCKETS 256

struct kvl_hist {
    atomic_uint_fast64_t buckets[KVL_HIST_BUCKETS];
};

/** What an instance counts by itself, in the order of kvl_counter_names. */
enum kvl_counter {
    KVL_COUNT_LOOKUPS,
    KVL_COUNT_LOOKUP_CHUNKS,
    KVL_COUNT_LOOKUP_LOCAL,
    KVL_COUNT_LOOKUP_REMOTE,
    KVL_COUNT_LOADS,
    KVL_COUNT_LOAD_CHUNKS,
    KVL_COUNT_LOAD_LOCAL,
    KVL_COUNT_LOAD_REMOTE,
    KVL_COUNT_LOAD_BYTES,
    KVL_COUNT_SAVES,
    KVL_COUNT_SAVE_CHUNKS,
    KVL_COUNT_SAVE_BYTES,
    KVL_COUNT_TIMEOUTS,
    KVL_COUNT_CANCELS,
    KVL_COUNTERS
};

extern const char *const kvl_counter_names[KVL_COUNTERS];

struct kvl_counters {
    atomic_uint_fast64_t values[KVL_COUNTERS];
    struct kvl_hist lookup_ns;
    struct kvl_hist load_ns;
};

static inline void kvl_count(struct kvl_counters *counters, enum kvl_counter which, uint64_t by)
{
    atomic_fetch_add_explicit(&counters->values[which], by, memory_order_relaxed);
}

void kvl_hist_add(struct kvl_hist *hist, uint64_t value);

/** Value below which `permille` of all lie; 0 when there is none. */
uint64_t kvl_hist_quantile(const struct kvl_hist *hist, unsigned permille);

/** Now, in ns of CLOCK_MONOTONIC. */
uint64_t kvl_now_ns(void);

#endif /* KVL_PLUGIN_STATS_H */
