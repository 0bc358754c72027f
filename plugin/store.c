/* SPDX-License-Identifier: Apache-2.0 */
#include "store.h"

#include <errno.h>
#include <stdlib.h>

#include "entry.h"
#include "hash.h"

#define FIRST_BUCKETS 1024u

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
    r = kvl_entry_policies(store, params);
    if (r == 0) {
        r = kvl_arena_init(&store->arena, params->arena, params->max_bytes);
    }
    if (r < 0) {
        kvl_evict_fini(&store->evict);
        free(store->quota);
        free(store->buckets);
        free(store);
        return r;
    }
    pthread_mutex_init(&store->lock, NULL);
    kvl_feed_init(&store->feed);
    store->bucket_mask = FIRST_BUCKETS - 1;
    store->unused = KVL_ENTRY_NONE;
    store->max_chunks = params->max_chunks;
    store->checksum = params->checksum;
    store->stats.max_bytes = params->max_bytes;
    *store_out = store;
    return 0;
}

int kvl_store_share(struct kvl_store *store, int fd)
{
    int r;

    pthread_mutex_lock(&store->lock);
    r = kvl_arena_share(&store->arena, fd);
    pthread_mutex_unlock(&store->lock);
    return r;
}

int kvl_store_export(struct kvl_store *store, struct kvl_store_export *out)
{
    if (store->arena.fd < 0) {
        return -ENOTSUP;
    }
    out->fd = store->arena.fd;
    out->base = store->arena.base;
    out->bytes = store->arena.range;
    return 0;
}

int kvl_store_range(const struct kvl_store *store, void **base_out, uint64_t *bytes_out)
{
    if (store == NULL || store->arena.base == NULL) {
        return -ENOTSUP;
    }
    *base_out = store->arena.base;
    *bytes_out = store->arena.range;
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
    free(store->quota);
    free(store->buckets);
    kvl_feed_fini(&store->feed);
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
        uint32_t at = kvl_entry_find(store, &chunks[i].key, kvl_hash_key(&chunks[i].key));

        status_out[i] = at == KVL_ENTRY_NONE ? -ENOENT : 0;
        found += at != KVL_ENTRY_NONE;
    }
    pthread_mutex_unlock(&store->lock);
    return found;
}

/* Finds and counts; the lock is held. */
static uint32_t find_used(struct kvl_store *store, const struct kvl_key *key, uint64_t hash)
{
    uint32_t at = kvl_entry_find(store, key, hash);

    if (at == KVL_ENTRY_NONE) {
        store->stats.misses++;
    } else {
        store->stats.hits++;
        kvl_entry_touch(store, at);
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
    return at == KVL_ENTRY_NONE ? -ENOENT : 0;
}

int kvl_store_touch(struct kvl_store *store, const struct kvl_key *key, uint64_t bytes)
{
    uint64_t hash = kvl_hash_key(key);
    int r = -ENOENT;
    uint32_t at;

    pthread_mutex_lock(&store->lock);
    at = kvl_entry_find(store, key, hash);
    if (at != KVL_ENTRY_NONE && kvl_entry_at(store, at)->bytes == bytes) {
        kvl_entry_touch(store, at);
        r = 0;
    }
    pthread_mutex_unlock(&store->lock);
    return r;
}

static void lease(struct kvl_store *store, uint32_t index, struct kvl_view *view_out)
{
    struct kvl_entry *entry = kvl_entry_at(store, index);

    entry->leases++;
    store->stats.leases++;
    *view_out = (struct kvl_view){
        .data = entry->data,
        .length = entry->bytes,
        .attrs = entry->attrs,
        .checksum = entry->has_checksum ? entry->checksum : 0,
        .lease = kvl_entry_handle(entry, index),
    };
}

int kvl_store_get(struct kvl_store *store, const struct kvl_key *key, struct kvl_view *view_out)
{
    uint64_t hash = kvl_hash_key(key);
    uint32_t at;

    pthread_mutex_lock(&store->lock);
    at = find_used(store, key, hash);
    if (at != KVL_ENTRY_NONE) {
        lease(store, at, view_out);
    }
    pthread_mutex_unlock(&store->lock);
    return at == KVL_ENTRY_NONE ? -ENOENT : 0;
}

int kvl_store_pin(struct kvl_store *store, const struct kvl_key *key, struct kvl_view *view_out)
{
    uint64_t hash = kvl_hash_key(key);
    uint32_t at;

    pthread_mutex_lock(&store->lock);
    at = kvl_entry_find(store, key, hash);
    if (at != KVL_ENTRY_NONE) {
        lease(store, at, view_out);
    }
    pthread_mutex_unlock(&store->lock);
    return at == KVL_ENTRY_NONE ? -ENOENT : 0;
}

int kvl_store_verify(struct kvl_store *store, const struct kvl_view *view)
{
    struct kvl_entry *entry;
    uint32_t index;

    if (view->checksum == 0 || kvl_hash_bytes(view->data, view->length) == view->checksum) {
        return 0;
    }
    pthread_mutex_lock(&store->lock);
    store->stats.corrupt++;
    entry = kvl_entry_of(store, view->lease, &index);
    if (entry != NULL && entry->state == KVL_ENTRY_LIVE) {
        kvl_entry_tell(store, index, KVL_KEY_EVICT);
        kvl_entry_hide(store, index);
    }
    pthread_mutex_unlock(&store->lock);
    return -EBADMSG;
}

int kvl_store_release(struct kvl_store *store, uint64_t handle)
{
    struct kvl_entry *entry;
    uint32_t index;
    int r = -EINVAL;

    pthread_mutex_lock(&store->lock);
    entry = kvl_entry_of(store, handle, &index);
    if (entry != NULL && entry->leases > 0) {
        entry->leases--;
        store->stats.leases--;
        if (entry->leases == 0 && entry->state == KVL_ENTRY_GONE) {
            kvl_entry_free(store, index);
        }
        r = 0;
    }
    pthread_mutex_unlock(&store->lock);
    return r;
}

int kvl_store_reserve(struct kvl_store *store, const struct kvl_chunk *chunk, uint64_t *slot_out,
                      void **addr_out)
{
    struct kvl_entry *entry;
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
    r = kvl_entry_new(store, &chunk->key, chunk->bytes, &index);
    if (r < 0) {
        store->stats.refused++;
        pthread_mutex_unlock(&store->lock);
        return r;
    }
    entry = kvl_entry_at(store, index);
    entry->state = KVL_ENTRY_WRITING;
    entry->hash = hash;
    entry->attrs = chunk->attrs;
    entry->checksum = chunk->checksum;
    entry->has_checksum = (chunk->flags & KVL_CHUNK_HAS_CHECKSUM) != 0;
    entry->leases = 0;
    entry->key_length = (uint8_t)chunk->key.length;
    memcpy(entry->key, chunk->key.text, chunk->key.length);
    store->stats.reserved++;
    *slot_out = kvl_entry_handle(entry, index);
    *addr_out = entry->data;
    pthread_mutex_unlock(&store->lock);
    return 0;
}

/* The slot's entry, which only its owner touches until it is committed. */
static struct kvl_entry *slot_entry(struct kvl_store *store, uint64_t slot, uint32_t *index_out)
{
    struct kvl_entry *entry;

    pthread_mutex_lock(&store->lock);
    entry = kvl_entry_of(store, slot, index_out);
    if (entry != NULL && entry->state != KVL_ENTRY_WRITING) {
        entry = NULL;
    }
    pthread_mutex_unlock(&store->lock);
    return entry;
}

/* Outside the lock: this reads every byte. */
static int slot_checksum(const struct kvl_store *store, struct kvl_entry *entry)
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

static uint32_t *epoch_of(struct kvl_store *store, uint64_t hash)
{
    return &store->epochs[(hash >> 32) % KVL_ENTRY_EPOCHS];
}

/* @param read  NULL for a new value, else the epoch in which these bytes were asked for */
static int commit(struct kvl_store *store, uint64_t slot, const uint32_t *read,
                  struct kvl_view *view_out)
{
    uint32_t index;
    struct kvl_entry *entry = slot_entry(store, slot, &index);
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
    if (read != NULL && *read != *epoch_of(store, entry->hash)) {
        store->stats.reserved--;
        kvl_entry_free(store, index);
        pthread_mutex_unlock(&store->lock);
        return -ESTALE;
    }
    *epoch_of(store, entry->hash) += read == NULL;
    old = kvl_entry_find(store, &key, entry->hash);
    if (old != KVL_ENTRY_NONE) {
        kvl_entry_hide(store, old);
    }
    if (old == KVL_ENTRY_NONE) {
        kvl_entry_tell(store, index, KVL_KEY_ADMIT);
    }
    entry->state = KVL_ENTRY_LIVE;
    entry->below = KVL_BELOW_NO;
    store->stats.reserved--;
    store->stats.chunks++;
    store->stats.bytes += entry->bytes;
    kvl_entry_index(store, index);
    kvl_evict_add(&store->evict, index);
    if (store->quota != NULL) {
        kvl_quota_add(store->quota, index);
    }
    kvl_entry_index_grow(store);
    if (view_out != NULL) {
        lease(store, index, view_out);
    }
    if (store->events.pressure != NULL &&
        kvl_entry_total_used(store) > store->arena.bytes / 4 * 3) {
        store->events.pressure(store->events.ctx);
    }
    pthread_mutex_unlock(&store->lock);
    return 0;
}

int kvl_store_commit(struct kvl_store *store, uint64_t slot, struct kvl_view *view_out)
{
    return commit(store, slot, NULL, view_out);
}

uint32_t kvl_store_epoch(struct kvl_store *store, uint64_t hash)
{
    uint32_t epoch;

    pthread_mutex_lock(&store->lock);
    epoch = *epoch_of(store, hash);
    pthread_mutex_unlock(&store->lock);
    return epoch;
}

int kvl_store_commit_read(struct kvl_store *store, uint64_t slot, uint32_t epoch,
                          struct kvl_view *view_out)
{
    return commit(store, slot, &epoch, view_out);
}

int kvl_store_abort(struct kvl_store *store, uint64_t slot)
{
    uint32_t index;

    if (slot_entry(store, slot, &index) == NULL) {
        return -EINVAL;
    }
    pthread_mutex_lock(&store->lock);
    store->stats.reserved--;
    kvl_entry_free(store, index);
    pthread_mutex_unlock(&store->lock);
    return 0;
}

int kvl_store_remove(struct kvl_store *store, const struct kvl_key *key)
{
    uint64_t hash = kvl_hash_key(key);
    uint32_t at;

    pthread_mutex_lock(&store->lock);
    ++*epoch_of(store, hash);
    at = kvl_entry_find(store, key, hash);
    if (at != KVL_ENTRY_NONE) {
        kvl_entry_tell(store, at, KVL_KEY_EVICT);
        kvl_entry_hide(store, at);
    }
    pthread_mutex_unlock(&store->lock);
    return at == KVL_ENTRY_NONE ? -ENOENT : 0;
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
           kvl_entry_evict_one(store) == 0) {
    }
    pthread_mutex_unlock(&store->lock);
}

/* ---- who is told what changes ---- */

int kvl_store_read_events(struct kvl_store *store, const void *reader,
                          struct kvl_store_event *events_out, uint32_t room, uint64_t deadline_ms)
{
    int r = kvl_feed_open(&store->feed, reader);

    if (r < 0) {
        return r;
    }
    pthread_mutex_lock(&store->lock);
    store->is_told = true;
    pthread_mutex_unlock(&store->lock);
    return kvl_feed_read(&store->feed, events_out, room, deadline_ms);
}

int kvl_store_tell(struct kvl_store *store, uint32_t where, const struct kvl_key *key,
                   uint64_t bytes, uint32_t kind)
{
    return kvl_feed_add(&store->feed, where, key, bytes, kind);
}

void kvl_store_wake_reader(struct kvl_store *store, const void *reader)
{
    kvl_feed_wake(&store->feed, reader);
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

uint32_t kvl_store_take_cold(struct kvl_store *store, struct kvl_store_cold *cold_out,
                             uint32_t room, uint64_t max_bytes, int all)
{
    const uint64_t reach = all ? UINT64_MAX : store->arena.bytes / 4;
    uint32_t count = 0;
    uint32_t looks = 0;
    uint64_t passed = 0;
    uint64_t taken = 0;
    uint32_t at = KVL_ENTRY_NONE;

    pthread_mutex_lock(&store->lock);
    if (!all && kvl_entry_total_used(store) <= store->arena.bytes / 4 * 3) {
        pthread_mutex_unlock(&store->lock);
        return 0;
    }
    while (count < room && taken < max_bytes && passed < reach && (all || looks < COLD_LOOKS) &&
           (at = kvl_evict_ahead(&store->evict, at)) != KVL_ENTRY_NONE) {
        struct kvl_entry *entry = kvl_entry_at(store, at);

        looks++;
        passed += kvl_entry_weight(store, at);
        if (entry->below != KVL_BELOW_NO) {
            continue;
        }
        entry->below = KVL_BELOW_TAKEN;
        cold_out[count].key = (struct kvl_key){.text = entry->key, .length = entry->key_length};
        lease(store, at, &cold_out[count].view);
        taken += entry->bytes;
        count++;
    }
    pthread_mutex_unlock(&store->lock);
    return count;
}

static void set_below(struct kvl_store *store, uint64_t lease_handle, enum kvl_below_state state)
{
    struct kvl_entry *entry;
    uint32_t index;

    pthread_mutex_lock(&store->lock);
    entry = kvl_entry_of(store, lease_handle, &index);
    if (entry != NULL) {
        entry->below = (uint8_t)state;
    }
    pthread_mutex_unlock(&store->lock);
}

void kvl_store_give_cold(struct kvl_store *store, const struct kvl_store_cold *cold, int written)
{
    /* What could not be written stays marked: trying the same again and again would help nobody. */
    if (written) {
        set_below(store, cold->view.lease, KVL_BELOW_YES);
    }
    kvl_store_release(store, cold->view.lease);
}

void kvl_store_mark_written(struct kvl_store *store, uint64_t lease_handle)
{
    set_below(store, lease_handle, KVL_BELOW_YES);
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
    for (uint32_t at = 0; at < store->block_count << KVL_ENTRY_BLOCK_BITS && count < room; at++) {
        const struct kvl_entry *entry = kvl_entry_at(store, at);

        if (entry->state == KVL_ENTRY_LIVE) {
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
    return (store->arena.bytes - sizeof(struct kvl_entry)) / KVL_ARENA_GRAIN * KVL_ARENA_GRAIN;
}

void kvl_store_get_stats(struct kvl_store *store, struct kvl_store_stats *stats_out)
{
    pthread_mutex_lock(&store->lock);
    *stats_out = store->stats;
    stats_out->used_bytes = kvl_entry_total_used(store);
    pthread_mutex_unlock(&store->lock);
}
