/* SPDX-License-Identifier: Apache-2.0 */
#include "registry_map.h"

#include <errno.h>
#include <stdlib.h>

#define FIRST_BUCKETS 64u

int kvl_map_init(struct kvl_map *map)
{
    *map = (struct kvl_map){.mask = FIRST_BUCKETS - 1};
    map->buckets = calloc(FIRST_BUCKETS, sizeof(struct kvl_map_node *));
    return map->buckets == NULL ? -ENOMEM : 0;
}

void kvl_map_fini(struct kvl_map *map)
{
    free(map->buckets);
    map->buckets = NULL;
}

static struct kvl_map_node *skip(struct kvl_map_node *node, uint64_t hash)
{
    while (node != NULL && node->hash != hash) {
        node = node->next;
    }
    return node;
}

struct kvl_map_node *kvl_map_first(const struct kvl_map *map, uint64_t hash)
{
    return skip(map->buckets[hash & map->mask], hash);
}

struct kvl_map_node *kvl_map_next(const struct kvl_map_node *node)
{
    return skip(node->next, node->hash);
}

static void grow(struct kvl_map *map)
{
    const uint64_t room = (map->mask + 1) * 2;
    struct kvl_map_node **buckets = calloc(room, sizeof(struct kvl_map_node *));

    if (buckets == NULL) {
        return;
    }
    for (uint64_t i = 0; i <= map->mask; i++) {
        struct kvl_map_node *node = map->buckets[i];

        while (node != NULL) {
            struct kvl_map_node *next = node->next;

            node->next = buckets[node->hash & (room - 1)];
            buckets[node->hash & (room - 1)] = node;
            node = next;
        }
    }
    free(map->buckets);
    map->buckets = buckets;
    map->mask = room - 1;
}

void kvl_map_add(struct kvl_map *map, struct kvl_map_node *node, uint64_t hash)
{
    if (map->count > map->mask) {
        grow(map);
    }
    node->hash = hash;
    node->next = map->buckets[hash & map->mask];
    map->buckets[hash & map->mask] = node;
    map->count++;
}

void kvl_map_drop(struct kvl_map *map, struct kvl_map_node *node)
{
    struct kvl_map_node **at = &map->buckets[node->hash & map->mask];

    while (*at != node) {
        at = &(*at)->next;
    }
    *at = node->next;
    map->count--;
}

uint64_t kvl_map_bytes(const struct kvl_map *map)
{
    return (map->mask + 1) * sizeof(struct kvl_map_node *);
}
