/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file table.h
 * Objects named by an index and a generation. Not thread-safe: the owner locks.
 */
#ifndef KVL_PLUGIN_TABLE_H
#define KVL_PLUGIN_TABLE_H

#include <stdint.h>

struct kvl_table_slot {
    void *object; /* NULL = free */
    uint32_t generation;
    uint32_t next_free;
};

struct kvl_table {
    struct kvl_table_slot *slots; /* owned */
    uint32_t room;
    uint32_t count; /* in use */
    uint32_t free; /* list */
};

void kvl_table_init(struct kvl_table *table);
void kvl_table_fini(struct kvl_table *table);

/** Names an object. Handles are never 0. @return 0; -ENOMEM. */
int kvl_table_add(struct kvl_table *table, void *object, uint64_t *handle_out);

/** The object, or NULL when the handle is of no object or of an earlier one. */
void *kvl_table_get(const struct kvl_table *table, uint64_t handle);

/** Takes the name away. Unknown handles are ignored. */
void kvl_table_drop(struct kvl_table *table, uint64_t handle);

/** Any object still there, for tearing down; NULL when empty. */
void *kvl_table_any(const struct kvl_table *table);

#endif /* KVL_PLUGIN_TABLE_H */
