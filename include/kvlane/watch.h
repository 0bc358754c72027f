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

/* What a backend can do; each bit goes with the slot of that name in backend.h. */
#define KVL_CAP_READ (1ull << 0) /* read */
#define KVL_CAP_WRITE (1ull << 1) /* write */
#define KVL_CAP_LOOKUP (1ull << 2) /* lookup */
#define KVL_CAP_REMOVE (1ull << 3) /* remove */
#define KVL_CAP_LIST (1ull << 4) /* list */
#define KVL_CAP_PROBE (1ull << 5) /* probe */
#define KVL_CAP_CANCEL                                                                             \
    (1ull << 6) /* cancel: after it no byte of the batch is written any more
                                      than the time to notice */
#define KVL_CAP_SERVE (1ull << 7) /* serves the local store to peers */
#define KVL_CAP_PERSISTENT (1ull << 8) /* what it holds outlives this process */
#define KVL_CAP_LOCATE (1ull << 9) /* locate: asks the fleet who holds a chunk */
#define KVL_CAP_CHANNEL (1ull << 10) /* channels */
/* read takes `sg` in the engine's memory, and when cancel(cookie) has returned no byte of the batch
 * is written any more. Goes with KVL_CAP_READ and KVL_CAP_CANCEL. */
#define KVL_CAP_DIRECT (1ull << 11)
#define KVL_CAP_PUSH (1ull << 12) /* push: has another engine take chunks */
/* Since 1.2: kv_register, kv_unregister, gather, scatter for the kinds in kvl_limits.memory; and
 * read and write, where it has them, take those kinds as well. Goes with KVL_CAP_CANCEL. */
#define KVL_CAP_MEMORY (1ull << 13)
#define KVL_CAP_CONNECT (1ull << 14) /* since 1.2: connect: is told what peers offer it */
#define KVL_CAP_IPC (1ull << 15) /* since 1.2: ipc: the codecs of kvlane/ipc.h */
#define KVL_CAP_HELD (1ull << 16) /* since 1.2: held: keeps chunks of this process itself */

#define KVL_HEALTH_DOWN 0u /* not started, stopped, or cannot work */
#define KVL_HEALTH_DEGRADED 1u /* works in part: a peer is away, a transfer is stuck */
#define KVL_HEALTH_OK 2u

struct kvl_health {
    uint32_t size; /* set by the caller */
    uint32_t state; /* KVL_HEALTH_ */
    char name[32]; /* INI section; filled by the core */
    char address[200]; /* where peers reach a server, or whom a client talks to */
    uint64_t caps; /* KVL_CAP_ that hold in its role; filled by the core */
    char text[264]; /* one sentence */
};
KVL_STATIC_ASSERT(sizeof(struct kvl_health) == 512, "struct kvl_health is part of the ABI");

/** Receives one counter: a snake_case name and its value since start, or a gauge. */
typedef void (*kvl_stat_fn)(void *ctx, const char *name, uint64_t value);

KVL_EXTERN_C_END

#endif /* KVL_WATCH_H */
