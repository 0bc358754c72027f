/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file watch.h
 * How both sides look at a running kvlane: health records, counters, lists of keys.
 */
#ifndef KVL_WATCH_H
#define KVL_WATCH_H

#include <kvlane/key.h>

KVL_EXTERN_C_BEGIN

/** Called for each chunk by a list call. Returns 0 to go on, anything else to stop. */
typedef int (*kvl_key_fn)(void *ctx, const struct kvl_key *key, uint64_t bytes);

#define KVL_HEALTH_DOWN 0u /* not started, stopped, or cannot work */
#define KVL_HEALTH_DEGRADED 1u /* works in part: a peer is away, a transfer is stuck */
#define KVL_HEALTH_OK 2u

struct kvl_health {
    uint32_t size; /* set by the caller */
    uint32_t state; /* KVL_HEALTH_ */
    char name[32]; /* INI section; filled by the core */
    char address[200]; /* where peers reach a server, or whom a client talks to */
    char text[272]; /* one sentence */
};
KVL_STATIC_ASSERT(sizeof(struct kvl_health) == 512, "struct kvl_health is part of the ABI");

/** Receives one counter: a snake_case name and its value since start, or a gauge. */
typedef void (*kvl_stat_fn)(void *ctx, const char *name, uint64_t value);

KVL_EXTERN_C_END

#endif /* KVL_WATCH_H */
