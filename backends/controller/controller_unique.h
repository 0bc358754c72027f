/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file controller_unique.h
 * Maps as Python's dict reads them: of entries with the same key the first keeps its place and gets
 * the value of the last. Sorts, so no choice of keys makes it slow. Internal to the codec.
 */
#ifndef KVL_CONTROLLER_UNIQUE_H
#define KVL_CONTROLLER_UNIQUE_H

#include "controller_wire.h"

/** Works on `*count` entries in place. @return 0; -ENOMEM. */
typedef int (*controller_unique_fn)(struct controller_arena *arena, void *items, uint32_t *count);

int controller_unique_pairs(struct controller_arena *arena, void *items, uint32_t *count);
int controller_unique_layouts(struct controller_arena *arena, void *items, uint32_t *count);
int controller_unique_codes(struct controller_arena *arena, void *items, uint32_t *count);

#endif /* KVL_CONTROLLER_UNIQUE_H */
