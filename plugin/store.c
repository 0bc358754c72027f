/* SPDX-License-Identifier: Apache-2.0 */
#include "store.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "arena.h"
#include "evict.h"
#include "hash.h"

#define NONE UINT32_MAX
#define BLOCK_BITS 12u
#define BLOCK_ENTRIES (1u << BLOCK_BITS)
#define MAX_BLOCKS 65536u
#define FIRST_BUCKETS 1024u

enum entry_state {
    ENTRY_UNUSED, /* in the list of unused entries */
    ENTRY_WRITING, /* reserved: not in the index, not in the order */
    ENTRY_LIVE,
    ENTRY_GONE, /* out of the index, kept by its leases */
};

/* Is the chunk in the tier below, if there is one? */
enum below_state { BELOW_NO, BELOW_TAKEN, BELOW_YES };

struct entry {
    uint64_t hash;
    uint64_t bytes;
    uint64_t checksum;
    void *data;
    struct kvl_attrs attrs;
    uint32_t generation; /* of this life; a handle of an earlier one does not match */
    uint32_t leases;
    uint32_t span;
    uint32_t next_hash; /* chain of the bucket; or list of unused entries */
    struct kvl_evict_node node;
    uint8_t state;
    uint8_t has_span;
    uint8_t has_checksum;
    uint8_t below; /* enum below_state */
    uint8_t key_length;
    char key[KVL_KEY_MAX];
};

struct kvl_store {
    pthread_mutex_t lock; /* guards everything below */
    struct kvl_arena arena;
    struct entry *blocks[MAX_BLOCKS]; /* entries never move: leased ones are read unlocked */
    uint32_t block_count;
    uint32_t unused;
    uint32_t *buckets;
    uint32_t bucket_mask;
    struct kvl_evict evict;
    uint64_t max_chunks;
    int checksum;
    struct kvl_store_events events;
    int spare_unwritten; /* evict only what the tier below has */
    struct kvl_store_stats stats;
};

static struct entry *entry_at(const struct kvl_store *store, uint32_t index)
{
    return &store->blocks[index >> BLOCK_BITS][index & (BLOCK_ENTRIES - 1)];
}

static uint64_t handle_of(const struct entry *entry, uint32_t index)
{
    return (uint64_t)entry->generation << 32 | index;
}

/* The entry a handle names when it is still in that life, else NULL. */
static struct entry *entry_of(const struct kvl_store *store, uint64_t handle, uint32_t *index_out)
{
    uint32_t index = (uint32_t)handle;
    struct entry *entry;

    if (index >> BLOCK_BITS >= store->block_count) {
        return NULL;
    }
    entry = entry_at(store, index);
    if (entry->generation != (uint32_t)(handle >> 32)) {
        return NULL;
    }
    *index_out = index;
    return entry;
}

static int add_block(struct kvl_store *store)
{
    struct entry *block;
    uint32_t first = store->block_count << BLOCK_BITS;

    if (store->block_count == MAX_BLOCKS) {
        return -ENOMEM;
    }
    block = calloc(BLOCK_ENTRIES, sizeof(*block));
    if (block == NULL) {
        return -ENOMEM;
    }
    store->blocks[store->block_count++] = block;
    for (uint32_t i = BLOCK_ENTRIES; i-- > 0;) {
        block[i].generation = 1;
        block[i].next_hash = store->unused;
        store->unused = first + i;
    }
    return 0;
}

/* ---- index ---- */

static uint32_t find(const struct kvl_store *store, const struct kvl_key *key, uint64_t hash)
{
    uint32_t at = store->buckets[hash & store->bucket_mask];

    while (at != NONE) {
        const struct entry *entry = entry_at(store, at);

        if (entry->hash == hash && entry->key_length == key->length &&
            memcmp(entry->key, key->text, key->length) == 0) {
            return at;
        }
        at = entry->next_hash;
    }
    return NONE;
}

static void index_add(struct kvl_store *store, uint32_t index)
{
    struct entry *entry = entry_at(store, index);
    uint32_t *bucket = &store->buckets[entry->hash & store->bucket_mask];

    entry->next_hash = *bucket;
    *bucket = index;
}

static void index_drop(struct kvl_store *store, uint32_t index)
{
    uint32_t *at = &store->buckets[entry_at(store, index)->hash & store->bucket_mask];

    while (*at != index) {
        at = &entry_at(store, *at)->next_hash;
    }
    *at = entry_at(store, index)->next_hash;
}

/* Keeps chains short. Without memory they grow longer, that is all. */
static void index_grow(struct kvl_store *store)
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
    for (uint32_t at = 0; at < store->block_count << BLOCK_BITS; at++) {
        if (entry_at(store, at)->state == ENTRY_LIVE) {
            index_add(store, at);
        }
    }
}

/* ---- what eviction asks of an entry ---- */

static struct kvl_evict_node *evict_node(void *ctx, uint32_t index)
{
    return &entry_at(ctx, index)->node;
}

static uint64_t evict_weight(void *ctx, uint32_t index)
{
    return entry_at(ctx, index)->bytes + sizeof(struct entry);
}

static uint64_t evict_hash(void *ctx, uint32_t index)
{
    return entry_at(ctx, index)->hash;
}

static int evict_is_busy(void *ctx, uint32_t index)
{
    const struct kvl_store *store = ctx;
    const struct entry *entry = entry_at(store, index);

    return entry->leases > 0 || (store->spare_unwritten && entry->below != BELOW_YES);
}

/* ---- life of an entry ---- */

static void entry_free(struct kvl_store *store, uint32_t index)
{
    struct entry *entry = entry_at(store, index);

    if (entry->has_span) {
        kvl_arena_free(&store->arena, entry->span);
        entry->has_span = 0;
    }
    entry->state = ENTRY_UNUSED;
    entry->generation++;
    entry->next_hash = store->unused;
    store->unused = index;
    store->stats.used_bytes -= sizeof(*entry);
}

/* Takes a live entry out of sight; its memory goes when the last lease does. */
static void entry_hide(struct kvl_store *store, uint32_t index)
{
    struct entry *entry = entry_at(store, index);

    index_drop(store, index);
    kvl_evict_drop(&store->evict, index);
    entry->state = ENTRY_GONE;
    store->stats.chunks--;
    store->stats.bytes -= entry->bytes;
    if (entry->leases == 0) {
        entry_free(store, index);
    }
}

/* How far to look for one that is safe below before one is lost: the lock is held meanwhile. */
#define SPARE_LOOKS 256u

/* Leased chunks are passed over: evicting them would free nothing. */
static int evict_one(struct kvl_store *store)
{
    uint32_t at = NONE;

    if (store->events.lost != NULL) {
        store->spare_unwritten = 1;
        at = kvl_evict_victim(&store->evict, SPARE_LOOKS);
        store->spare_unwritten = 0;
    }
    at = at != NONE ? at : kvl_evict_victim(&store->evict, KVL_EVICT_ALL);
    if (at == NONE) {
        return -ENOMEM;
    }
    if (store->events.lost != NULL && entry_at(store, at)->below != BELOW_YES) {
        const struct entry *entry = entry_at(store, at);
        const struct kvl_key key = {.text = entry->key, .length = entry->key_length};

        store->stats.lost++;
        store->events.lost(store->events.ctx, &key);
    }
    entry_hide(store, at);
    store->stats.evictions++;
    return 0;
}

static uint64_t total_used(const struct kvl_store *store)
{
    return store->arena.used + store->stats.used_bytes;
}

/* An entry with room for its bytes, and the budget kept. */
static int entry_new(struct kvl_store *store, uint64_t bytes, uint32_t *index_out)
{
    uint64_t grown = (bytes + KVL_ARENA_GRAIN - 1) / KVL_ARENA_GRAIN * KVL_ARENA_GRAIN;
    struct entry *entry;
    uint32_t index;

    while (total_used(store) + grown + sizeof(*entry) > store->arena.bytes) {
        if (evict_one(store) < 0) {
            return -ENOMEM;
        }
    }
    if (store->unused == NONE && add_block(store) < 0) {
        return -ENOMEM;
    }
    index = store->unused;
    entry = entry_at(store, index);
    store->unused = entry->next_hash;
    entry->has_span = 0;
    entry->data = NULL;
    store->stats.used_bytes += sizeof(*entry);
    while (bytes > 0 &&
           (entry->data = kvl_arena_alloc(&store->arena, bytes, &entry->span)) == NULL) {
        if (evict_one(store) < 0) {
            entry_free(store, index);
            return -ENOMEM;
        }
    }
    entry->has_span = bytes > 0;
    *index_out = index;
    return 0;
}

/* ---- the interface ---- */

int kvl_store_create(const struct kvl_store_params *params, struct kvl_store **store_out)
{
    struct kvl_store *store = calloc(1, sizeof(*store));
    int r;

    if (store == NULL) {
        return -ENOMEM;
    }
    store->buckets = malloc(FIRST_BUCKETS * sizeof(*store->buckets));
    if (store->buckets == NULL) {
        free(store);
        return -ENOMEM;
    }
    memset(store->buckets, 0xff, FIRST_BUCKETS * sizeof(*store->buckets));
    store->evict = (struct kvl_evict){
        .node = evict_node,
        .weight = evict_weight,
        .hash = evict_hash,
        .is_busy = evict_is_busy,
        .ctx = store,
    };
    r = kvl_evict_init(&store->evict, params->eviction);
    if (r == 0) {
        r = kvl_arena_init(&store->arena, params->arena, params->max_bytes);
    }
    if (r < 0) {
        kvl_evict_fini(&store->evict);
        free(store->buckets);
        free(store);
        return r;
    }
    pthread_mutex_init(&store->lock, NULL);
    store->bucket_mask = FIRST_BUCKETS - 1;
    store->unused = NONE;
    store->max_chunks = params->max_chunks;
    store->checksum = params->checksum;
    store->stats.max_bytes = params->max_bytes;
    *store_out = store;
    return 0;
}

uint64_t kvl_store_destroy(struct kvl_store *store)
{
    uint64_t out;

    if (store == NULL) {
        return 0;
    }
    out = store->stats.leases + store->stats.reserved;
    if (out > 0) {
        /* Somebody still reads or writes there: that memory is never given back. */
        store->arena.is_mapped = 0;
    }
    kvl_arena_fini(&store->arena);
    for (uint32_t i = 0; i < store->block_count; i++) {
        free(store->blocks[i]);
    }
    kvl_evict_fini(&store->evict);
    free(store->buckets);
    pthread_mutex_destroy(&store->lock);
    free(store);
    return out;
}

uint32_t kvl_store_lookup(struct kvl_store *store, const struct kvl_chunk *chunks, uint32_t count,
                          int32_t *status_out)
{
    uint32_t found = 0;

    pthread_mutex_lock(&store->lock);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t at = find(store, &chunks[i].key, kvl_hash_key(&chunks[i].key));

        status_out[i] = at == NONE ? -ENOENT : 0;
        found += at != NONE;
    }
    pthread_mutex_unlock(&store->lock);
    return found;
}

/* Finds and counts; the lock is held. */
static uint32_t find_used(struct kvl_store *store, const struct kvl_key *key, uint64_t hash)
{
    uint32_t at = find(store, key, hash);

    if (at == NONE) {
        store->stats.misses++;
    } else {
        store->stats.hits++;
        kvl_evict_touch(&store->evict, at);
    }
    return at;
}

int kvl_store_exists(struct kvl_store *store, const struct kvl_key *key)
{
    uint64_t hash = kvl_hash_key(key);
    uint32_t at;

    pthread_mutex_lock(&store->lock);
    at = find_used(store, key, hash);
    pthread_mutex_unlock(&store->lock);
    return at == NONE ? -ENOENT : 0;
}

int kvl_store_touch(struct kvl_store *store, const struct kvl_key *key, uint64_t bytes)
{
    uint64_t hash = kvl_hash_key(key);
    int r = -ENOENT;
    uint32_t at;

    pthread_mutex_lock(&store->lock);
    at = find(store, key, hash);
    if (at != NONE && entry_at(store, at)->bytes == bytes) {
        kvl_evict_touch(&store->evict, at);
        r = 0;
    }
    pthread_mutex_unlock(&store->lock);
    return r;
}

static void lease(struct kvl_store *store, uint32_t index, struct kvl_view *view_out)
{
    struct entry *entry = entry_at(store, index);

    entry->leases++;
    store->stats.leases++;
    *view_out = (struct kvl_view){
        .data = entry->data,
        .length = entry->bytes,
        .attrs = entry->attrs,
        .checksum = entry->has_checksum ? entry->checksum : 0,
        .lease = handle_of(entry, index),
    };
}

int kvl_store_get(struct kvl_store *store, const struct kvl_key *key, struct kvl_view *view_out)
{
    uint64_t hash = kvl_hash_key(key);
    uint32_t at;

    pthread_mutex_lock(&store->lock);
    at = find_used(store, key, hash);
    if (at != NONE) {
        lease(store, at, view_out);
    }
    pthread_mutex_unlock(&store->lock);
    return at == NONE ? -ENOENT : 0;
}

int kvl_store_pin(struct kvl_store *store, const struct kvl_key *key, struct kvl_view *view_out)
{
    uint64_t hash = kvl_hash_key(key);
    uint32_t at;

    pthread_mutex_lock(&store->lock);
    at = find(store, key, hash);
    if (at != NONE) {
        lease(store, at, view_out);
    }
    pthread_mutex_unlock(&store->lock);
    return at == NONE ? -ENOENT : 0;
}

int kvl_store_verify(struct kvl_store *store, const struct kvl_view *view)
{
    struct entry *entry;
    uint32_t index;

    if (view->checksum == 0 || kvl_hash_bytes(view->data, view->length) == view->checksum) {
        return 0;
    }
    pthread_mutex_lock(&store->lock);
    store->stats.corrupt++;
    entry = entry_of(store, view->lease, &index);
    if (entry != NULL && entry->state == ENTRY_LIVE) {
        entry_hide(store, index);
    }
    pthread_mutex_unlock(&store->lock);
    return -EBADMSG;
}

int kvl_store_release(struct kvl_store *store, uint64_t handle)
{
    struct entry *entry;
    uint32_t index;
    int r = -EINVAL;

    pthread_mutex_lock(&store->lock);
    entry = entry_of(store, handle, &index);
    if (entry != NULL && entry->leases > 0) {
        entry->leases--;
        store->stats.leases--;
        if (entry->leases == 0 && entry->state == ENTRY_GONE) {
            entry_free(store, index);
        }
        r = 0;
    }
    pthread_mutex_unlock(&store->lock);
    return r;
}

int kvl_store_reserve(struct kvl_store *store, const struct kvl_chunk *chunk, uint64_t *slot_out,
                      void **addr_out)
{
    struct entry *entry;
    uint32_t index;
    uint64_t hash;
    int r;

    if (chunk->key.length == 0 || chunk->key.length > KVL_KEY_MAX) {
        return -EINVAL;
    }
    if (chunk->bytes > kvl_store_max_bytes(store)) {
        return -EMSGSIZE;
    }
    hash = kvl_hash_key(&chunk->key);
    pthread_mutex_lock(&store->lock);
    r = entry_new(store, chunk->bytes, &index);
    if (r < 0) {
        store->stats.refused++;
        pthread_mutex_unlock(&store->lock);
        return r;
    }
    entry = entry_at(store, index);
    entry->state = ENTRY_WRITING;
    entry->hash = hash;
    entry->bytes = chunk->bytes;
    entry->attrs = chunk->attrs;
    entry->checksum = chunk->checksum;
    entry->has_checksum = (chunk->flags & KVL_CHUNK_HAS_CHECKSUM) != 0;
    entry->leases = 0;
    entry->key_length = (uint8_t)chunk->key.length;
    memcpy(entry->key, chunk->key.text, chunk->key.length);
    store->stats.reserved++;
    *slot_out = handle_of(entry, index);
    *addr_out = entry->data;
    pthread_mutex_unlock(&store->lock);
    return 0;
}

/* The slot's entry, which only its owner touches until it is committed. */
static struct entry *slot_entry(struct kvl_store *store, uint64_t slot, uint32_t *index_out)
{
    struct entry *entry;

    pthread_mutex_lock(&store->lock);
    entry = entry_of(store, slot, index_out);
    if (entry != NULL && entry->state != ENTRY_WRITING) {
        entry = NULL;
    }
    pthread_mutex_unlock(&store->lock);
    return entry;
}

/* Outside the lock: this reads every byte. */
static int slot_checksum(const struct kvl_store *store, struct entry *entry)
{
    uint64_t sum;

    if (!store->checksum && !entry->has_checksum) {
        return 0;
    }
    sum = kvl_hash_bytes(entry->data, entry->bytes);
    if (entry->has_checksum && sum != entry->checksum) {
        return -EBADMSG;
    }
    entry->checksum = sum;
    entry->has_checksum = 1;
    return 0;
}

int kvl_store_commit(struct kvl_store *store, uint64_t slot, struct kvl_view *view_out)
{
    uint32_t index;
    struct entry *entry = slot_entry(store, slot, &index);
    struct kvl_key key;
    uint32_t old;

    if (entry == NULL) {
        return -EINVAL;
    }
    if (slot_checksum(store, entry) < 0) {
        pthread_mutex_lock(&store->lock);
        store->stats.corrupt++;
        pthread_mutex_unlock(&store->lock);
        kvl_store_abort(store, slot);
        return -EBADMSG;
    }
    key = (struct kvl_key){.text = entry->key, .length = entry->key_length};
    pthread_mutex_lock(&store->lock);
    old = find(store, &key, entry->hash);
    if (old != NONE) {
        entry_hide(store, old);
    }
    entry->state = ENTRY_LIVE;
    entry->below = BELOW_NO;
    store->stats.reserved--;
    store->stats.chunks++;
    store->stats.bytes += entry->bytes;
    index_add(store, index);
    kvl_evict_add(&store->evict, index);
    index_grow(store);
    if (view_out != NULL) {
        lease(store, index, view_out);
    }
    if (store->events.pressure != NULL && total_used(store) > store->arena.bytes / 4 * 3) {
        store->events.pressure(store->events.ctx);
    }
    pthread_mutex_unlock(&store->lock);
    return 0;
}

int kvl_store_abort(struct kvl_store *store, uint64_t slot)
{
    uint32_t index;

    if (slot_entry(store, slot, &index) == NULL) {
        return -EINVAL;
    }
    pthread_mutex_lock(&store->lock);
    store->stats.reserved--;
    entry_free(store, index);
    pthread_mutex_unlock(&store->lock);
    return 0;
}

int kvl_store_remove(struct kvl_store *store, const struct kvl_key *key)
{
    uint64_t hash = kvl_hash_key(key);
    uint32_t at;

    pthread_mutex_lock(&store->lock);
    at = find(store, key, hash);
    if (at != NONE) {
        entry_hide(store, at);
    }
    pthread_mutex_unlock(&store->lock);
    return at == NONE ? -ENOENT : 0;
}

void kvl_store_set_max_chunks(struct kvl_store *store, uint64_t max_chunks)
{
    pthread_mutex_lock(&store->lock);
    store->max_chunks = max_chunks;
    pthread_mutex_unlock(&store->lock);
}

void kvl_store_trim(struct kvl_store *store)
{
    pthread_mutex_lock(&store->lock);
    while (store->max_chunks != 0 && store->stats.chunks > store->max_chunks &&
           evict_one(store) == 0) {
    }
    pthread_mutex_unlock(&store->lock);
}

/* ---- the tier below ---- */

/* Entries looked at in one go, so that the lock is not held for long. */
#define COLD_LOOKS 4096u

void kvl_store_listen(struct kvl_store *store, const struct kvl_store_events *events)
{
    pthread_mutex_lock(&store->lock);
    store->events = events != NULL ? *events : (struct kvl_store_events){0};
    pthread_mutex_unlock(&store->lock);
}

uint32_t kvl_store_take_cold(struct kvl_store *store, struct kvl_store_cold *cold_out, uint32_t room,
                             uint64_t max_bytes, int all)
{
    const uint64_t reach = all ? UINT64_MAX : store->arena.bytes / 4;
    uint32_t count = 0;
    uint32_t looks = 0;
    uint64_t passed = 0;
    uint64_t taken = 0;
    uint32_t at = NONE;

    pthread_mutex_lock(&store->lock);
    if (!all && total_used(store) <= store->arena.bytes / 4 * 3) {
        pthread_mutex_unlock(&store->lock);
        return 0;
    }
    while (count < room && taken < max_bytes && passed < reach && (all || looks < COLD_LOOKS) &&
           (at = kvl_evict_ahead(&store->evict, at)) != NONE) {
        struct entry *entry = entry_at(store, at);

        looks++;
        passed += evict_weight(store, at);
        if (entry->below != BELOW_NO) {
            continue;
        }
        entry->below = BELOW_TAKEN;
        cold_out[count].key = (struct kvl_key){.text = entry->key, .length = entry->key_length};
        lease(store, at, &cold_out[count].view);
        taken += entry->bytes;
        count++;
    }
    pthread_mutex_unlock(&store->lock);
    return count;
}

static void set_below(struct kvl_store *store, uint64_t lease_handle, enum below_state state)
{
    struct entry *entry;
    uint32_t index;

    pthread_mutex_lock(&store->lock);
    entry = entry_of(store, lease_handle, &index);
    if (entry != NULL) {
        entry->below = (uint8_t)state;
    }
    pthread_mutex_unlock(&store->lock);
}

void kvl_store_give_cold(struct kvl_store *store, const struct kvl_store_cold *cold, int written)
{
    /* What could not be written stays marked: trying the same again and again would help nobody. */
    if (written) {
        set_below(store, cold->view.lease, BELOW_YES);
    }
    kvl_store_release(store, cold->view.lease);
}

void kvl_store_mark_written(struct kvl_store *store, uint64_t lease_handle)
{
    set_below(store, lease_handle, BELOW_YES);
}

struct listed {
    uint64_t bytes;
    uint8_t length;
    char text[KVL_KEY_MAX];
};

int kvl_store_list(struct kvl_store *store, kvl_key_fn fn, void *ctx)
{
    struct listed *list;
    uint64_t room;
    uint64_t count = 0;
    int r = 0;

    pthread_mutex_lock(&store->lock);
    room = store->stats.chunks;
    pthread_mutex_unlock(&store->lock);
    list = malloc((room + 1) * sizeof(*list));
    if (list == NULL) {
        return -ENOMEM;
    }
    pthread_mutex_lock(&store->lock);
    for (uint32_t at = 0; at < store->block_count << BLOCK_BITS && count < room; at++) {
        const struct entry *entry = entry_at(store, at);

        if (entry->state == ENTRY_LIVE) {
            list[count].bytes = entry->bytes;
            list[count].length = entry->key_length;
            memcpy(list[count].text, entry->key, entry->key_length);
            count++;
        }
    }
    pthread_mutex_unlock(&store->lock);
    for (uint64_t i = 0; r == 0 && i < count; i++) {
        struct kvl_key key = {.text = list[i].text, .length = list[i].length};

        r = fn(ctx, &key, list[i].bytes);
    }
    free(list);
    return r;
}

uint64_t kvl_store_max_bytes(const struct kvl_store *store)
{
    return (store->arena.bytes - sizeof(struct entry)) / KVL_ARENA_GRAIN * KVL_ARENA_GRAIN;
}

void kvl_store_get_stats(struct kvl_store *store, struct kvl_store_stats *stats_out)
{
    pthread_mutex_lock(&store->lock);
    *stats_out = store->stats;
    stats_out->used_bytes = total_used(store);
    pthread_mutex_unlock(&store->lock);
}
