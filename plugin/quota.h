/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file quota.h
 * How much of the store one namespace may use. A namespace is what stands before the first '@' of a
 * key, the model; a key without '@' is of the namespace "". Not thread-safe: the store locks.
 *
 * Each namespace keeps its own order of use, so that one that is over its quota pays itself.
 */
#ifndef KVL_PLUGIN_QUOTA_H
#define KVL_PLUGIN_QUOTA_H

#include <kvlane/key.h>

/** Most namespaces told apart; the keys of any further ones share the last place. */
#define KVL_QUOTA_GROUPS 1024u
#define KVL_QUOTA_NONE UINT32_MAX

struct kvl_quota_node {
    uint32_t newer;
    uint32_t older;
    uint32_t group;
};

struct kvl_quota_group {
    uint64_t hash; /* of the name */
    uint64_t used; /* bytes charged */
    uint64_t limit;
    uint32_t newest;
    uint32_t oldest;
};

struct kvl_quota {
    struct kvl_quota_node *(*node)(void *ctx, uint32_t index);
    int (*is_busy)(void *ctx, uint32_t index);
    void *ctx;
    uint64_t each; /* limit of a namespace that has none of its own */
    uint32_t count;
    struct kvl_quota_group groups[KVL_QUOTA_GROUPS];
    uint16_t places[2 * KVL_QUOTA_GROUPS]; /* hash table: group + 1, 0 = free */
};

/**
 * @param each  bytes of every namespace, 0 = no limit
 * @param list  "name=size, name=size" for some of them; may be empty
 * @param why_out  on failure: what is wrong with the list
 * @return 0; -EINVAL.
 */
int kvl_quota_init(struct kvl_quota *quota, uint64_t each, const char *list, char *why_out,
                   size_t why_size);

/** The namespace of a key. */
uint32_t kvl_quota_group(struct kvl_quota *quota, const struct kvl_key *key);

/** The entry is used; it is in the order of its group until dropped. */
void kvl_quota_add(struct kvl_quota *quota, uint32_t index);
void kvl_quota_drop(struct kvl_quota *quota, uint32_t index);
void kvl_quota_touch(struct kvl_quota *quota, uint32_t index);

/** Who of a group goes first; KVL_QUOTA_NONE when all are busy. */
uint32_t kvl_quota_victim(struct kvl_quota *quota, uint32_t group);

#endif /* KVL_PLUGIN_QUOTA_H */
