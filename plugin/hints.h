/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file hints.h
 * Which backend may bring a chunk: hash of the key -> set of backends.
 *
 * Entries are hints and never pins: the holder is asked, and a wrong hint costs one question. So
 * the table has a fixed size and forgets by itself: a bucket is one cache line of five keys, and
 * the oldest goes. Two keys with one hash share their hints, which is harmless for the same reason.
 * Thread-safe; no call blocks for long or allocates.
 */
#ifndef KVL_PLUGIN_HINTS_H
#define KVL_PLUGIN_HINTS_H

#include <stdint.h>

struct kvl_hints;

/** Room for about `entries` keys; pages are taken when first used. @return 0; -ENOMEM. */
int kvl_hints_create(uint64_t entries, struct kvl_hints **hints_out);
void kvl_hints_destroy(struct kvl_hints *hints);

/** Backend `index` (0..31) has the chunk. */
void kvl_hints_publish(struct kvl_hints *hints, uint64_t hash, uint32_t index);

/** Backend `index` has it no more. */
void kvl_hints_withdraw(struct kvl_hints *hints, uint64_t hash, uint32_t index);

/** Bit i set: backend i may have it. */
uint32_t kvl_hints_find(struct kvl_hints *hints, uint64_t hash);

/**
 * From block to unblock the tiers below must not be asked for the key: older bytes that they may
 * have are about to be removed. Other keys may be blocked along with it. Counts: as many unblocks
 * as blocks.
 */
void kvl_hints_block(struct kvl_hints *hints, uint64_t hash);
void kvl_hints_unblock(struct kvl_hints *hints, uint64_t hash);
int kvl_hints_is_blocked(const struct kvl_hints *hints, uint64_t hash);

/** Keys known now. */
uint64_t kvl_hints_count(const struct kvl_hints *hints);

#endif /* KVL_PLUGIN_HINTS_H */
