/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file registry_map.h
 * A chained hash map of nodes that stand inside other records. Not thread-safe: the owner locks.
 * The caller compares: kvl_map_first and kvl_map_next give the nodes of one hash.
 */
#ifndef KVL_PLUGIN_REGISTRY_MAP_H
#define KVL_PLUGIN_REGISTRY_MAP_H

#include <stddef.h>
#include <stdint.h>

struct kvl_map_node {
    struct kvl_map_node *next;
    uint64_t hash;
};

struct kvl_map {
    struct kvl_map_node **buckets; /* owned */
    uint64_t mask;
    uint64_t count;
};

/** @return 0; -ENOMEM. */
int kvl_map_init(struct kvl_map *map);
void kvl_map_fini(struct kvl_map *map);

struct kvl_map_node *kvl_map_first(const struct kvl_map *map, uint64_t hash);
struct kvl_map_node *kvl_map_next(const struct kvl_map_node *node);

/** Cannot fail: without memory to grow its chains become longer. */
void kvl_map_add(struct kvl_map *map, struct kvl_map_node *node, uint64_t hash);
void kvl_map_drop(struct kvl_map *map, struct kvl_map_node *node);

/** Bytes of memory in use, without the nodes. */
uint64_t kvl_map_bytes(const struct kvl_map *map);

#endif /* KVL_PLUGIN_REGISTRY_MAP_H */
