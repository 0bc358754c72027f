/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file controller_pins.h
 * Chunks that a controller asked to keep: leases on the own store with an end, because a controller
 * has no message that gives a pin back. Bounded in bytes and in number. One thread.
 */
#ifndef KVL_CONTROLLER_PINS_H
#define KVL_CONTROLLER_PINS_H

#include <kvlane/backend.h>

#include "controller_hash.h"

/** Most chunks that are pinned at a time. */
#define CONTROLLER_PINS_MAX 65536u

struct controller_pins;

/** @param bytes_max most that the pinned chunks may add up to */
int controller_pins_create(const struct kvl_host *host, uint64_t pin_ms, uint64_t bytes_max,
                           struct controller_pins **pins_out);
/** Gives every lease back. Takes NULL. */
void controller_pins_destroy(struct controller_pins *pins);

/**
 * Pins the chunks of `tokens` up to the first that the store has not, or that goes over a bound.
 * What is pinned already lasts anew.
 * @return 0 and how many leading tokens are pinned; -ENOMEM.
 */
int controller_pins_add(struct controller_pins *pins, const struct controller_hashing *hashing,
                        const struct kvl_chunk_id *tokens, uint32_t count, int64_t *tokens_out);

/** 1 when the chunk is pinned. */
int controller_pins_has(const struct controller_pins *pins, const struct kvl_key *key);

/**
 * Gives back what has lasted long enough. @return when to come back; UINT64_MAX nothing is pinned.
 */
uint64_t controller_pins_expire(struct controller_pins *pins, uint64_t now_ms);

uint32_t controller_pins_count(const struct controller_pins *pins);

#endif /* KVL_CONTROLLER_PINS_H */
