/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda_ipc_table.h"

#include <string.h>

static uint64_t table_bucket(const struct cuda_ipc_mapping_name *name)
{
    uint64_t words[sizeof(*name) / sizeof(uint64_t)];
    uint64_t hash = 0;

    memcpy(words, name, sizeof(words));
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        hash = (hash ^ words[i]) * 0x9e3779b97f4a7c15ull;
        hash ^= hash >> 32;
    }
    return hash & (CUDA_IPC_TABLE_BUCKETS - 1);
}

struct cuda_ipc_mapping *cuda_ipc_table_find(const struct cuda_ipc_table *table,
                                             const struct cuda_ipc_wish *wish)
{
    struct cuda_ipc_mapping *mapping = table->buckets[table_bucket(&wish->name)];

    while (mapping != NULL && !cuda_ipc_mapping_is(mapping, wish)) {
        mapping = mapping->next;
    }
    return mapping;
}

void cuda_ipc_table_link(struct cuda_ipc_table *table, struct cuda_ipc_mapping *mapping)
{
    struct cuda_ipc_mapping **bucket = &table->buckets[table_bucket(&mapping->name)];

    mapping->next = *bucket;
    *bucket = mapping;
}

void cuda_ipc_table_unlink(struct cuda_ipc_table *table, struct cuda_ipc_mapping *mapping)
{
    struct cuda_ipc_mapping **at = &table->buckets[table_bucket(&mapping->name)];

    while (*at != mapping) {
        at = &(*at)->next;
    }
    *at = mapping->next;
    mapping->next = NULL;
    mapping->is_dead = 1;
}

void cuda_ipc_table_rest(struct cuda_ipc_table *table, struct cuda_ipc_mapping *mapping)
{
    mapping->newer = NULL;
    mapping->older = table->newest;
    if (table->newest != NULL) {
        table->newest->newer = mapping;
    } else {
        table->oldest = mapping;
    }
    table->newest = mapping;
}

void cuda_ipc_table_wake(struct cuda_ipc_table *table, struct cuda_ipc_mapping *mapping)
{
    if (mapping->newer != NULL) {
        mapping->newer->older = mapping->older;
    } else {
        table->newest = mapping->older;
    }
    if (mapping->older != NULL) {
        mapping->older->newer = mapping->newer;
    } else {
        table->oldest = mapping->newer;
    }
    mapping->newer = NULL;
    mapping->older = NULL;
}
