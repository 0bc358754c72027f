/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file controller_entry.h
 * Entries of the lists and maps of messages, as far as they are no records. Internal to the codec.
 */
#ifndef KVL_CONTROLLER_ENTRY_H
#define KVL_CONTROLLER_ENTRY_H

#include "controller_read.h"

/**
 * Reads one entry and writes all of it. In maps the key comes first, and `at` is the entry: what
 * is wrong with a key is told of the map.
 * @return 0, or a negative errno after the error text.
 */
typedef int (*controller_entry_fn)(struct controller_reader *in, const struct controller_at *at,
                                   void *item);

int controller_entry_id(struct controller_reader *in, const struct controller_at *at, void *item);
int controller_entry_layout(struct controller_reader *in, const struct controller_at *at,
                            void *item);
int controller_entry_map_layout(struct controller_reader *in, const struct controller_at *at,
                                void *item);
int controller_entry_pair(struct controller_reader *in, const struct controller_at *at, void *item);
int controller_entry_code(struct controller_reader *in, const struct controller_at *at, void *item);

/**
 * A key event in the form in which all workers write it: one look per name, no table.
 * @return 1; 0 when it is in another form, right or wrong, and nothing was read.
 */
int controller_entry_quick_op(struct controller_reader *in, struct kvl_key_op *op);

#endif /* KVL_CONTROLLER_ENTRY_H */
