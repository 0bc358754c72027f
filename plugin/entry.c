/* SPDX-License-Identifier: Apache-2.0 */
#include "entry.h"

#include <errno.h>
#include <stdlib.h>

struct kvl_entry *kvl_entry_at(const struct kvl_store *store, uint32_t index)
{
    return &store->blocks[index >> KVL_ENTRY_BLOCK_BITS][index & (KVL_ENTRY_BLOCK - 1)];
}

uint64_t kvl_entry_handle(const struct kvl_entry *entry, uint32_t index)
{
    return (uint64_t)entry->generation << 32 | index;
}

struct kvl_entry *kvl_entry_of(const struct kvl_store *store, uint64_t handle, uint32_t *index_out)
{
    uint32_t index = (uint32_t)handle;
    struct kvl_entry *entry;

    if (index >> KVL_ENTRY_BLOCK_BITS >= store->block_count) {
        return NULL;
    }
    entry = kvl_entry_at(store, index);
    if (entry->generation != (uint32_t)(handle >> 32)) {
        return NULL;
    }
    *index_out = index;
    return entry;
}

static int add_block(struct kvl_store *store)
{
    struct kvl_entry *block;
    uint32_t first = store->block_count << KVL_ENTRY_BLOCK_BITS;

    if (store->block_count == KVL_ENTRY_MAX_BLOCKS) {
        return -ENOMEM;
    }
    block = calloc(KVL_ENTRY_BLOCK, sizeof(*block));
    if (block == NULL) {
        return -ENOMEM;
    }
    store->blocks[store->block_count++] = block;
    for (uint32_t i = KVL_ENTRY_BLOCK; i-- > 0;) {
        block[i].generation = 1;
        block[i].next_hash = store->unused;
        store->unused = first + i;
    }
    return 0;
}

/* ---- index ---- */

uint32_t kvl_entry_find(const struct kvl_store *store, const struct kvl_key *key, uint64_t hash)
{
    uint32_t at = store->buckets[hash & store->bucket_mask];

    while (at != KVL_ENTRY_NONE) {
        const struct kvl_entry *entry = kvl_entry_at(store, at);

        if (entry->hash == hash && entry->key_length == key->length &&
            memcmp(entry->key, key->text, key->length) == 0) {
            return at;
        }
        at = entry->next_hash;
    }
    return KVL_ENTRY_NONE;
}

void kvl_entry_index(struct kvl_store *store, uint32_t index)
{
    struct kvl_entry *entry = kvl_entry_at(store, index);
    uint32_t *bucket = &store->buckets[entry->hash & store->bucket_mask];

    entry->next_hash = *bucket;
    *bucket = index;
}

static void index_drop(struct kvl_store *store, uint32_t index)
{
    uint32_t *at = &store->buckets[kvl_entry_at(store, index)->hash & store->bucket_mask];

    while (*at != index) {
        at = &kvl_entry_at(store, *at)->next_hash;
    }
    *at = kvl_entry_at(store, index)->next_hash;
}

/* Keeps chains short. Without memory they grow longer, that is all. */
void kvl_entry_index_grow(struct kvl_store *store)
{
    uint64_t room = ((uint64_t)store->bucket_mask + 1) * 2;
    uint32_t *buckets;

    if (store->stats.chunks < room / 2 || room > 1u << 30) {
        return;
    }
    buckets = malloc(room * sizeof(*buckets));
    if (buckets == NULL) {
        return;
    }
    memset(buckets, 0xff, room * sizeof(*buckets));
    free(store->buckets);
    store->buckets = buckets;
    store->bucket_mask = (uint32_t)room - 1;
    for (uint32_t at = 0; at < store->block_count << KVL_ENTRY_BLOCK_BITS; at++) {
        if (kvl_entry_at(store, at)->state == KVL_ENTRY_LIVE) {
            kvl_entry_index(store, at);
        }
    }
}

/* ---- what eviction asks of an entry ---- */

static struct kvl_evict_node *evict_node(void *ctx, uint32_t index)
{
    return &kvl_entry_at(ctx, index)->node;
}

uint64_t kvl_entry_weight(void *ctx, uint32_t index)
{
    return kvl_entry_at(ctx, index)->bytes + sizeof(struct kvl_entry);
}

static struct kvl_quota_node *quota_node(void *ctx, uint32_t index)
{
    return &kvl_entry_at(ctx, index)->quota;
}

static uint64_t evict_hash(void *ctx, uint32_t index)
{
    return kvl_entry_at(ctx, index)->hash;
}

static int evict_is_busy(void *ctx, uint32_t index)
{
    const struct kvl_store *store = ctx;
    const struct kvl_entry *entry = kvl_entry_at(store, index);

    return entry->leases > 0 || (store->spare_unwritten && entry->below != KVL_BELOW_YES);
}

void kvl_entry_touch(struct kvl_store *store, uint32_t index)
{
    kvl_evict_touch(&store->evict, index);
    if (store->quota != NULL) {
        kvl_quota_touch(store->quota, index);
    }
}

/* ---- life of an entry ---- */

void kvl_entry_free(struct kvl_store *store, uint32_t index)
{
    struct kvl_entry *entry = kvl_entry_at(store, index);

    if (entry->has_span) {
        kvl_arena_free(&store->arena, entry->span);
        entry->has_span = 0;
    }
    if (store->quota != NULL) {
        store->quota->groups[entry->quota.group].used -= kvl_entry_weight(store, index);
    }
    entry->state = KVL_ENTRY_UNUSED;
    entry->generation++;
    entry->next_hash = store->unused;
    store->unused = index;
    store->stats.used_bytes -= sizeof(*entry);
}

void kvl_entry_hide(struct kvl_store *store, uint32_t index)
{
    struct kvl_entry *entry = kvl_entry_at(store, index);

    index_drop(store, index);
    kvl_evict_drop(&store->evict, index);
    if (store->quota != NULL) {
        kvl_quota_drop(store->quota, index);
    }
    entry->state = KVL_ENTRY_GONE;
    store->stats.chunks--;
    store->stats.bytes -= entry->bytes;
    if (entry->leases == 0) {
        kvl_entry_free(store, index);
    }
}

void kvl_entry_tell(struct kvl_store *store, uint32_t index, uint32_t kind)
{
    if (store->is_told) {
        const struct kvl_entry *entry = kvl_entry_at(store, index);
        const struct kvl_key key = {.text = entry->key, .length = entry->key_length};

        /* what is in the store is a key */
        (void)kvl_feed_add(&store->feed, KVL_WHERE_HOST, &key, entry->bytes, kind);
    }
}

static void evict_entry(struct kvl_store *store, uint32_t at)
{
    const struct kvl_entry *entry = kvl_entry_at(store, at);

    if (store->events.lost != NULL && entry->below != KVL_BELOW_YES) {
        const struct kvl_key key = {.text = entry->key, .length = entry->key_length};

        store->stats.lost++;
        store->events.lost(store->events.ctx, &key);
    }
    kvl_entry_tell(store, at, KVL_KEY_EVICT);
    kvl_entry_hide(store, at);
    store->stats.evictions++;
}

/* How far to look for one that is safe below before one is lost: the lock is held meanwhile. */
#define SPARE_LOOKS 256u

/* Leased chunks are passed over: evicting them would free nothing. */
int kvl_entry_evict_one(struct kvl_store *store)
{
    uint32_t at = KVL_ENTRY_NONE;

    if (store->events.lost != NULL) {
        store->spare_unwritten = 1;
        at = kvl_evict_victim(&store->evict, SPARE_LOOKS);
        store->spare_unwritten = 0;
    }
    at = at != KVL_ENTRY_NONE ? at : kvl_evict_victim(&store->evict, KVL_EVICT_ALL);
    if (at == KVL_ENTRY_NONE) {
        return -ENOMEM;
    }
    evict_entry(store, at);
    return 0;
}

/* Room under the quota of the key's namespace, which pays for it itself. */
static int quota_reserve(struct kvl_store *store, const struct kvl_key *key, uint64_t weight,
                         uint32_t *group_out)
{
    struct kvl_quota_group *group;

    *group_out = 0;
    if (store->quota == NULL) {
        return 0;
    }
    *group_out = kvl_quota_group(store->quota, key);
    group = &store->quota->groups[*group_out];
    if (weight > group->limit) {
        return -EMSGSIZE;
    }
    while (group->used + weight > group->limit) {
        uint32_t at = kvl_quota_victim(store->quota, *group_out);

        if (at == KVL_QUOTA_NONE) {
            return -ENOMEM;
        }
        evict_entry(store, at);
    }
    return 0;
}

uint64_t kvl_entry_total_used(const struct kvl_store *store)
{
    return store->arena.used + store->stats.used_bytes;
}

/* An entry with room for its bytes, and the budget kept. */
int kvl_entry_new(struct kvl_store *store, const struct kvl_key *key, uint64_t bytes,
                  uint32_t *index_out)
{
    uint64_t grown = (bytes + KVL_ARENA_GRAIN - 1) / KVL_ARENA_GRAIN * KVL_ARENA_GRAIN;
    struct kvl_entry *entry;
    uint32_t index;
    uint32_t group;
    int r = quota_reserve(store, key, bytes + sizeof(*entry), &group);

    if (r < 0) {
        return r;
    }
    while (kvl_entry_total_used(store) + grown + sizeof(*entry) > store->arena.bytes) {
        if (kvl_entry_evict_one(store) < 0) {
            return -ENOMEM;
        }
    }
    if (store->unused == KVL_ENTRY_NONE && add_block(store) < 0) {
        return -ENOMEM;
    }
    index = store->unused;
    entry = kvl_entry_at(store, index);
    store->unused = entry->next_hash;
    entry->has_span = 0;
    entry->data = NULL;
    entry->bytes = bytes;
    entry->quota.group = group;
    if (store->quota != NULL) {
        store->quota->groups[group].used += kvl_entry_weight(store, index);
    }
    store->stats.used_bytes += sizeof(*entry);
    while (bytes > 0 &&
           (entry->data = kvl_arena_alloc(&store->arena, bytes, &entry->span)) == NULL) {
        if (kvl_entry_evict_one(store) < 0) {
            kvl_entry_free(store, index);
            return -ENOMEM;
        }
    }
    entry->has_span = bytes > 0;
    *index_out = index;
    return 0;
}

static int make_quota(struct kvl_store *store, const struct kvl_store_params *params)
{
    const char *list = params->quotas != NULL ? params->quotas : "";
    char why[200];

    if (params->quota == 0 && *list == '\0') {
        return 0;
    }
    store->quota = calloc(1, sizeof(*store->quota));
    if (store->quota == NULL) {
        return -ENOMEM;
    }
    store->quota->node = quota_node;
    store->quota->is_busy = evict_is_busy;
    store->quota->ctx = store;
    return kvl_quota_init(store->quota, params->quota, list, why, sizeof(why));
}

int kvl_entry_policies(struct kvl_store *store, const struct kvl_store_params *params)
{
    int r;

    store->evict = (struct kvl_evict){
        .node = evict_node,
        .weight = kvl_entry_weight,
        .hash = evict_hash,
        .is_busy = evict_is_busy,
        .ctx = store,
    };
    r = kvl_evict_init(&store->evict, params->eviction);
    return r == 0 ? make_quota(store, params) : r;
}
