/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file tcp_remote_hold.h
 * Leases that keep chunks from eviction for a while. LMCache's resp:// client waits for ever when
 * the answer to its GET is a miss, so it asks EXISTS first; a chunk evicted between the two would
 * hang it. The table is bounded in number and bytes, the longest held go first. Thread-safe; no
 * lock is held across a call of the host.
 */
#ifndef KVL_TCP_REMOTE_HOLD_H
#define KVL_TCP_REMOTE_HOLD_H

#include <stdbool.h>

#include <kvlane/host.h>

struct tcp_remote_hold;

/** @return 0; -ENOMEM. The host is borrowed. */
int tcp_remote_hold_create(const struct kvl_host *host, uint32_t max_count, uint64_t max_bytes,
                           struct tcp_remote_hold **hold_out);

/** Gives everything back and frees. Takes NULL. */
void tcp_remote_hold_destroy(struct tcp_remote_hold *hold);

/**
 * Takes the lease in `take_view` on the chunk `key` and keeps it until `until_ms`, in place of an
 * older one of that key. Times must not go back. A chunk over the bound is given back at once.
 * @return true when nothing was held before: whoever watches the time has to look again.
 */
bool tcp_remote_hold_keep(struct tcp_remote_hold *hold, const struct kvl_key *key,
                          const struct kvl_view *take_view, uint64_t until_ms);

/** Gives back the lease on `key`, if there is one. */
void tcp_remote_hold_forget(struct tcp_remote_hold *hold, const struct kvl_key *key);

/** Gives back what was kept until `now_ms`, or everything with KVL_NEVER. @return how many. */
uint32_t tcp_remote_hold_expire(struct tcp_remote_hold *hold, uint64_t now_ms);

/** When the first one expires, KVL_NEVER when nothing is held. */
uint64_t tcp_remote_hold_next(struct tcp_remote_hold *hold);

/** Chunks and bytes held. */
void tcp_remote_hold_stats(struct tcp_remote_hold *hold, uint32_t *count_out, uint64_t *bytes_out);

#endif /* KVL_TCP_REMOTE_HOLD_H */
