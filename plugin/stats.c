/* SPDX-License-Identifier: Apache-2.0 */
#include "stats.h"

#include <time.h>

#define STEP_BITS 2u
#define STEPS (1u << STEP_BITS)

const char *const kvl_counter_names[KVL_COUNTERS] = {
    "lookups",    "lookup_chunks", "lookup_hits_local", "lookup_hits_remote",
    "loads",      "load_chunks",   "load_hits_local",   "load_hits_remote",
    "load_bytes", "saves",         "save_chunks",       "save_bytes",
    "timeouts",   "cancels",
};

static uint32_t bucket_of(uint64_t value)
{
    uint32_t power;

    if (value < STEPS) {
        return (uint32_t)value;
    }
    power = 63u - (uint32_t)__builtin_clzll(value);
    return (power - STEP_BITS + 1) * STEPS + (uint32_t)((value >> (power - STEP_BITS)) - STEPS);
}

/* Middle of the bucket. */
static uint64_t value_of(uint32_t bucket)
{
    uint32_t shift;

    if (bucket < STEPS) {
        return bucket;
    }
    shift = bucket / STEPS - 1;
    return ((uint64_t)(bucket % STEPS + STEPS) << shift) + ((1ull << shift) >> 1);
}

void kvl_hist_add(struct kvl_hist *hist, uint64_t value)
{
    atomic_fetch_add_explicit(&hist->buckets[bucket_of(value)], 1, memory_order_relaxed);
}

uint64_t kvl_hist_quantile(const struct kvl_hist *hist, unsigned permille)
{
    uint64_t total = 0;
    uint64_t below = 0;

    for (uint32_t i = 0; i < KVL_HIST_BUCKETS; i++) {
        total += atomic_load_explicit(&hist->buckets[i], memory_order_relaxed);
    }
    if (total == 0) {
        return 0;
    }
    for (uint32_t i = 0; i < KVL_HIST_BUCKETS; i++) {
        below += atomic_load_explicit(&hist->buckets[i], memory_order_relaxed);
        if (below * 1000 >= total * permille) {
            return value_of(i);
        }
    }
    return value_of(KVL_HIST_BUCKETS - 1);
}

uint64_t kvl_now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}
