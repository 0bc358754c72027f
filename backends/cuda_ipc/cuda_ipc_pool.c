/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda_ipc_pool.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include <kvlane/registry.h>

#include "cuda_ipc_runs.h"

#define POOL_DEVICES_MAX 64u
#define POOL_FIRST_BUCKETS 1024u
/* Chunks tried as the first to go before a reservation gives up. */
#define POOL_TRIES 1024u

enum pool_state { POOL_WRITING, POOL_READY, POOL_DEAD };

struct pool_device {
    int32_t device;
    struct cuda_ipc_runs runs;
    struct cuda_ipc_chunk *newest; /* of those that may go */
    struct cuda_ipc_chunk *oldest;
    uint64_t room;
    uint64_t largest; /* segment */
};

struct pool_segment {
    struct cuda_ipc_run *first;
    int32_t device;
};

struct cuda_ipc_pool {
    pthread_mutex_t lock; /* guards everything below */
    cuda_ipc_pool_fn changed;
    void *ctx;
    struct pool_device devices[POOL_DEVICES_MAX];
    uint32_t device_count;
    struct pool_segment segments[CUDA_IPC_POOL_SEGMENTS_MAX];
    uint32_t segment_count;
    struct cuda_ipc_chunk **buckets;
    uint64_t bucket_count; /* a power of 2 */
    uint64_t ticks;
    struct cuda_ipc_pool_stats stats;
};

/* ---- keys ---- */

/* FNV-1a with a mix at its end. Nobody but the own engine chooses keys that are stored. */
uint64_t cuda_ipc_pool_hash(const struct kvl_key *key)
{
    uint64_t hash = 0xcbf29ce484222325ull;

    for (uint32_t i = 0; i < key->length; i++) {
        hash = (hash ^ (uint8_t)key->text[i]) * 0x100000001b3ull;
    }
    hash = (hash ^ hash >> 32) * 0xd6e8feb86659fd93ull;
    return hash ^ hash >> 32;
}

static int pool_is_key(const struct kvl_key *key)
{
    return key->text != NULL && key->length > 0 && key->length <= KVL_KEY_MAX;
}

/* Where the link to the chunk of that key stands; to NULL when there is none. */
static struct cuda_ipc_chunk **pool_seek(struct cuda_ipc_pool *pool, const struct kvl_key *key,
                                         uint64_t hash)
{
    struct cuda_ipc_chunk **at = &pool->buckets[hash & (pool->bucket_count - 1)];

    while (*at != NULL && ((*at)->hash != hash || !kvl_key_equal(&(*at)->key, key))) {
        at = &(*at)->bucket_next;
    }
    return at;
}

/* Longer chains do no harm, so having no memory for it is no failure. */
static void pool_grow(struct cuda_ipc_pool *pool)
{
    const uint64_t count = pool->bucket_count * 2;
    struct cuda_ipc_chunk **buckets;

    if (pool->stats.chunks < pool->bucket_count ||
        (buckets = calloc(count, sizeof(*buckets))) == NULL) {
        return;
    }
    for (uint64_t i = 0; i < pool->bucket_count; i++) {
        struct cuda_ipc_chunk *chunk = pool->buckets[i];

        while (chunk != NULL) {
            struct cuda_ipc_chunk *next = chunk->bucket_next;
            struct cuda_ipc_chunk **head = &buckets[chunk->hash & (count - 1)];

            chunk->bucket_next = *head;
            *head = chunk;
            chunk = next;
        }
    }
    free(pool->buckets);
    pool->buckets = buckets;
    pool->bucket_count = count;
}

/* ---- order of use ---- */

static struct pool_device *pool_device(struct cuda_ipc_pool *pool, int32_t device)
{
    for (uint32_t i = 0; i < pool->device_count; i++) {
        if (pool->devices[i].device == device) {
            return &pool->devices[i];
        }
    }
    return NULL;
}

static void pool_enlist(struct cuda_ipc_pool *pool, struct cuda_ipc_chunk *chunk)
{
    struct pool_device *device = pool_device(pool, chunk->device);

    chunk->used = ++pool->ticks;
    chunk->newer = NULL;
    chunk->older = device->newest;
    if (device->newest != NULL) {
        device->newest->newer = chunk;
    } else {
        device->oldest = chunk;
    }
    device->newest = chunk;
}

static void pool_unlist(struct cuda_ipc_pool *pool, struct cuda_ipc_chunk *chunk)
{
    struct pool_device *device = pool_device(pool, chunk->device);

    if (chunk->newer != NULL) {
        chunk->newer->older = chunk->older;
    } else {
        device->newest = chunk->older;
    }
    if (chunk->older != NULL) {
        chunk->older->newer = chunk->newer;
    } else {
        device->oldest = chunk->newer;
    }
}

/* ---- coming and going ---- */

static void pool_tell(struct cuda_ipc_pool *pool, const struct cuda_ipc_chunk *chunk, uint32_t kind)
{
    if (pool->changed != NULL) {
        pool->changed(pool->ctx, &chunk->key, kind == KVL_KEY_ADMIT ? chunk->bytes : 0, kind);
    }
}

static void pool_free(struct cuda_ipc_pool *pool, struct cuda_ipc_chunk *chunk)
{
    if (chunk->run != NULL) { /* else the device is lost */
        pool->stats.bytes -= chunk->run->bytes;
        cuda_ipc_runs_give(&pool_device(pool, chunk->device)->runs, chunk->run);
    }
    free(chunk);
}

/* Out of the index. Its room comes back now, or with the last reference. */
static void pool_unindex(struct cuda_ipc_pool *pool, struct cuda_ipc_chunk **at)
{
    struct cuda_ipc_chunk *chunk = *at;

    *at = chunk->bucket_next;
    chunk->state = POOL_DEAD;
    pool->stats.chunks--;
    if (chunk->refs == 0) {
        pool_unlist(pool, chunk);
        pool_free(pool, chunk);
    }
}

static void pool_evict(struct cuda_ipc_pool *pool, struct cuda_ipc_chunk *chunk)
{
    pool->stats.evicted++;
    pool_tell(pool, chunk, KVL_KEY_EVICT);
    pool_unindex(pool, pool_seek(pool, &chunk->key, chunk->hash));
}

/* ---- room ---- */

/* When a run may become free: 0 it is, else the time of its last use; UINT64_MAX never. */
static uint64_t pool_age(const struct cuda_ipc_run *run)
{
    const struct cuda_ipc_chunk *chunk = run == NULL ? NULL : run->owner;

    if (run == NULL) {
        return UINT64_MAX;
    }
    if (chunk == NULL) {
        return 0;
    }
    return chunk->refs == 0 && chunk->state == POOL_READY ? chunk->used : UINT64_MAX;
}

/* Widens a run by what may go beside it until it holds `bytes`. @return 1 when it does. */
static int pool_widen(struct cuda_ipc_run **first, struct cuda_ipc_run **last, uint64_t bytes)
{
    uint64_t total = (*first)->bytes;

    while (total < bytes) {
        const uint64_t before = pool_age((*first)->before);
        const uint64_t after = pool_age((*last)->after);

        if (before == UINT64_MAX && after == UINT64_MAX) {
            return 0;
        }
        if (before <= after) {
            *first = (*first)->before;
            total += (*first)->bytes;
        } else {
            *last = (*last)->after;
            total += (*last)->bytes;
        }
    }
    return 1;
}

/* Evicts what lies from `first` to `last`. The links are read before each chunk goes, as its run
 * joins free neighbours then. */
static void pool_clear(struct cuda_ipc_pool *pool, struct cuda_ipc_run *first,
                       const struct cuda_ipc_run *last)
{
    const uint64_t end = last->offset + last->bytes;

    while (first != NULL && first->offset < end) {
        struct cuda_ipc_run *after = first->after;

        if (after != NULL && after->owner == NULL) {
            after = after->after; /* the free run joins the one that goes */
        }
        if (first->owner != NULL) {
            pool_evict(pool, first->owner);
        }
        first = after;
    }
}

static struct cuda_ipc_run *pool_take(struct cuda_ipc_pool *pool, struct pool_device *device,
                                      uint64_t bytes, struct cuda_ipc_chunk *owner)
{
    struct cuda_ipc_run *run = cuda_ipc_runs_take(&device->runs, bytes, owner);
    struct cuda_ipc_chunk *chunk = device->oldest;

    for (uint32_t i = 0; run == NULL && chunk != NULL && i < POOL_TRIES; i++) {
        struct cuda_ipc_run *first = chunk->run;
        struct cuda_ipc_run *last = chunk->run;

        if (pool_widen(&first, &last, bytes)) {
            pool_clear(pool, first, last);
            return cuda_ipc_runs_take(&device->runs, bytes, owner);
        }
        chunk = chunk->newer;
    }
    return run;
}

int cuda_ipc_pool_add_segment(struct cuda_ipc_pool *pool, int32_t device, uint64_t bytes,
                              uint32_t *segment_out)
{
    struct cuda_ipc_run *run = NULL;
    struct pool_device *place;
    int r = 0;

    if (bytes == 0 || bytes % CUDA_IPC_POOL_ALIGN != 0 || bytes > INT64_MAX) {
        return -EINVAL;
    }
    pthread_mutex_lock(&pool->lock);
    place = pool_device(pool, device);
    if (pool->segment_count == CUDA_IPC_POOL_SEGMENTS_MAX ||
        (place == NULL && pool->device_count == POOL_DEVICES_MAX)) {
        r = -ENOSPC;
    } else {
        if (place == NULL) {
            place = &pool->devices[pool->device_count++];
            place->device = device;
        }
        run = cuda_ipc_runs_add(&place->runs, pool->segment_count, bytes);
        r = run == NULL ? -ENOMEM : 0;
    }
    if (r == 0) {
        place->room += bytes;
        place->largest = bytes > place->largest ? bytes : place->largest;
        pool->stats.room += bytes;
        *segment_out = pool->segment_count;
        pool->segments[pool->segment_count++] =
            (struct pool_segment){.first = run, .device = device};
    }
    pthread_mutex_unlock(&pool->lock);
    return r;
}

uint64_t cuda_ipc_pool_room(struct cuda_ipc_pool *pool, int32_t device)
{
    const struct pool_device *place;
    uint64_t room;

    pthread_mutex_lock(&pool->lock);
    place = pool_device(pool, device);
    room = place == NULL ? 0 : place->room;
    pthread_mutex_unlock(&pool->lock);
    return room;
}

/* ---- chunks ---- */

static struct cuda_ipc_chunk *pool_new_chunk(int32_t device, const struct kvl_chunk *from)
{
    struct cuda_ipc_chunk *chunk = calloc(1, sizeof(*chunk) + from->key.length);
    char *text = (char *)(chunk + 1);

    if (chunk == NULL) {
        return NULL;
    }
    memcpy(text, from->key.text, from->key.length);
    chunk->key = (struct kvl_key){.text = text, .length = from->key.length};
    chunk->hash = cuda_ipc_pool_hash(&chunk->key);
    chunk->attrs = from->attrs;
    chunk->bytes = from->bytes;
    chunk->flags = from->flags & KVL_CHUNK_HAS_CHECKSUM;
    chunk->checksum = chunk->flags != 0 ? from->checksum : 0;
    chunk->device = device;
    chunk->state = POOL_WRITING;
    return chunk;
}

int cuda_ipc_pool_reserve(struct cuda_ipc_pool *pool, int32_t device, const struct kvl_chunk *from,
                          struct cuda_ipc_chunk **chunk_out)
{
    const uint64_t bytes =
        (from->bytes + CUDA_IPC_POOL_ALIGN - 1) / CUDA_IPC_POOL_ALIGN * CUDA_IPC_POOL_ALIGN;
    struct cuda_ipc_chunk *chunk;
    struct pool_device *place;
    int r = 0;

    if (!pool_is_key(&from->key)) {
        return -EINVAL;
    }
    if (from->bytes == 0 || from->bytes > INT64_MAX) {
        return -EMSGSIZE;
    }
    chunk = pool_new_chunk(device, from);
    if (chunk == NULL) {
        return -ENOMEM;
    }
    pthread_mutex_lock(&pool->lock);
    place = pool_device(pool, device);
    if (place == NULL || bytes > place->largest) {
        r = -EMSGSIZE;
    } else {
        chunk->run = pool_take(pool, place, bytes, chunk);
        r = chunk->run == NULL ? -ENOMEM : 0;
        pool->stats.full += chunk->run == NULL;
    }
    if (r == 0) {
        chunk->segment = chunk->run->segment;
        chunk->offset = chunk->run->offset;
        chunk->refs = 1;
        pool->stats.bytes += bytes;
    }
    pthread_mutex_unlock(&pool->lock);
    if (r < 0) {
        free(chunk);
        return r;
    }
    *chunk_out = chunk;
    return 0;
}

void cuda_ipc_pool_commit(struct cuda_ipc_pool *pool, struct cuda_ipc_chunk *chunk)
{
    struct cuda_ipc_chunk **at;

    pthread_mutex_lock(&pool->lock);
    chunk->refs = 0;
    if (chunk->run == NULL) {
        free(chunk);
    } else {
        at = pool_seek(pool, &chunk->key, chunk->hash);
        if (*at != NULL) {
            pool_unindex(pool, at);
        }
        chunk->state = POOL_READY;
        pool->stats.chunks++;
        pool->stats.stored++;
        pool_grow(pool);
        at = &pool->buckets[chunk->hash & (pool->bucket_count - 1)];
        chunk->bucket_next = *at;
        *at = chunk;
        pool_enlist(pool, chunk);
        pool_tell(pool, chunk, KVL_KEY_ADMIT);
    }
    pthread_mutex_unlock(&pool->lock);
}

void cuda_ipc_pool_abort(struct cuda_ipc_pool *pool, struct cuda_ipc_chunk *chunk)
{
    pthread_mutex_lock(&pool->lock);
    pool_free(pool, chunk);
    pthread_mutex_unlock(&pool->lock);
}

int cuda_ipc_pool_has(struct cuda_ipc_pool *pool, const struct kvl_key *key)
{
    const uint64_t hash = pool_is_key(key) ? cuda_ipc_pool_hash(key) : 0;
    int has;

    pthread_mutex_lock(&pool->lock);
    has = pool_is_key(key) && *pool_seek(pool, key, hash) != NULL;
    pthread_mutex_unlock(&pool->lock);
    return has;
}

int cuda_ipc_pool_get(struct cuda_ipc_pool *pool, const struct kvl_key *key,
                      struct cuda_ipc_chunk **chunk_out)
{
    const uint64_t hash = pool_is_key(key) ? cuda_ipc_pool_hash(key) : 0;
    struct cuda_ipc_chunk *chunk = NULL;

    pthread_mutex_lock(&pool->lock);
    if (pool_is_key(key)) {
        chunk = *pool_seek(pool, key, hash);
    }
    if (chunk != NULL && chunk->refs++ == 0) {
        pool_unlist(pool, chunk);
    }
    pthread_mutex_unlock(&pool->lock);
    if (chunk == NULL) {
        return -ENOENT;
    }
    *chunk_out = chunk;
    return 0;
}

void cuda_ipc_pool_put(struct cuda_ipc_pool *pool, struct cuda_ipc_chunk *chunk)
{
    pthread_mutex_lock(&pool->lock);
    if (--chunk->refs == 0) {
        if (chunk->state == POOL_DEAD) {
            pool_free(pool, chunk);
        } else {
            pool_enlist(pool, chunk);
        }
    }
    pthread_mutex_unlock(&pool->lock);
}

int cuda_ipc_pool_remove(struct cuda_ipc_pool *pool, const struct kvl_key *key)
{
    const uint64_t hash = pool_is_key(key) ? cuda_ipc_pool_hash(key) : 0;
    struct cuda_ipc_chunk **at;
    int r = -ENOENT;

    pthread_mutex_lock(&pool->lock);
    at = pool_is_key(key) ? pool_seek(pool, key, hash) : NULL;
    if (at != NULL && *at != NULL) {
        pool_tell(pool, *at, KVL_KEY_EVICT);
        pool_unindex(pool, at);
        r = 0;
    }
    pthread_mutex_unlock(&pool->lock);
    return r;
}

/* ---- everything ---- */

/* Takes the runs of a device away; chunks that are referenced stay as records without a place. */
static void pool_drop_segments(struct cuda_ipc_pool *pool, struct pool_device *place)
{
    for (uint32_t i = 0; i < pool->segment_count; i++) {
        struct pool_segment *segment = &pool->segments[i];

        if (segment->device != place->device || segment->first == NULL) {
            continue;
        }
        for (struct cuda_ipc_run *run = segment->first; run != NULL; run = run->after) {
            if (run->owner != NULL) {
                ((struct cuda_ipc_chunk *)run->owner)->run = NULL;
                pool->stats.bytes -= run->bytes;
            }
        }
        cuda_ipc_runs_drop(&place->runs, segment->first);
        segment->first = NULL;
    }
    pool->stats.room -= place->room;
    place->room = 0;
    place->largest = 0;
}

void cuda_ipc_pool_drop_device(struct cuda_ipc_pool *pool, int32_t device)
{
    struct pool_device *place;

    pthread_mutex_lock(&pool->lock);
    for (uint64_t i = 0; i < pool->bucket_count; i++) {
        struct cuda_ipc_chunk **at = &pool->buckets[i];

        while (*at != NULL) {
            if ((*at)->device == device) {
                pool_tell(pool, *at, KVL_KEY_EVICT);
                pool_unindex(pool, at);
            } else {
                at = &(*at)->bucket_next;
            }
        }
    }
    place = pool_device(pool, device);
    if (place != NULL) {
        pool_drop_segments(pool, place);
    }
    pthread_mutex_unlock(&pool->lock);
}

/* Copies of all keys, one after the other, each behind its length and its size. */
static int pool_copy_keys(struct cuda_ipc_pool *pool, char **keys_out, uint64_t *count_out)
{
    const size_t room = sizeof(uint64_t) + 1 + KVL_KEY_MAX;
    char *keys;
    char *at;

    pthread_mutex_lock(&pool->lock);
    *count_out = pool->stats.chunks;
    keys = malloc(pool->stats.chunks * room + 1);
    at = keys;
    for (uint64_t i = 0; keys != NULL && i < pool->bucket_count; i++) {
        for (const struct cuda_ipc_chunk *c = pool->buckets[i]; c != NULL; c = c->bucket_next) {
            memcpy(at, &c->bytes, sizeof(c->bytes));
            at[sizeof(uint64_t)] = (char)c->key.length;
            memcpy(at + sizeof(uint64_t) + 1, c->key.text, c->key.length);
            at += room;
        }
    }
    pthread_mutex_unlock(&pool->lock);
    *keys_out = keys;
    return keys == NULL ? -ENOMEM : 0;
}

int cuda_ipc_pool_list(struct cuda_ipc_pool *pool, kvl_key_fn fn, void *ctx)
{
    uint64_t count;
    char *keys;
    int r = pool_copy_keys(pool, &keys, &count);

    for (uint64_t i = 0; r == 0 && i < count; i++) {
        const char *at = keys + i * (sizeof(uint64_t) + 1 + KVL_KEY_MAX);
        struct kvl_key key = {
            .text = at + sizeof(uint64_t) + 1,
            .length = (unsigned char)at[sizeof(uint64_t)],
        };
        uint64_t bytes;

        memcpy(&bytes, at, sizeof(bytes));
        r = fn(ctx, &key, bytes);
    }
    free(keys);
    return r;
}

void cuda_ipc_pool_get_stats(struct cuda_ipc_pool *pool, struct cuda_ipc_pool_stats *stats_out)
{
    pthread_mutex_lock(&pool->lock);
    *stats_out = pool->stats;
    pthread_mutex_unlock(&pool->lock);
}

int cuda_ipc_pool_create(cuda_ipc_pool_fn changed, void *ctx, struct cuda_ipc_pool **pool_out)
{
    struct cuda_ipc_pool *pool = calloc(1, sizeof(*pool));

    if (pool == NULL) {
        return -ENOMEM;
    }
    pool->bucket_count = POOL_FIRST_BUCKETS;
    pool->buckets = calloc(pool->bucket_count, sizeof(*pool->buckets));
    if (pool->buckets == NULL || pthread_mutex_init(&pool->lock, NULL) != 0) {
        free(pool->buckets);
        free(pool);
        return -ENOMEM;
    }
    pool->changed = changed;
    pool->ctx = ctx;
    *pool_out = pool;
    return 0;
}

void cuda_ipc_pool_destroy(struct cuda_ipc_pool *pool)
{
    if (pool == NULL) {
        return;
    }
    for (uint32_t i = 0; i < pool->segment_count; i++) {
        struct cuda_ipc_run *run = pool->segments[i].first;

        for (struct cuda_ipc_run *at = run; at != NULL; at = at->after) {
            free(at->owner);
        }
        if (run != NULL) {
            cuda_ipc_runs_drop(&pool_device(pool, pool->segments[i].device)->runs, run);
        }
    }
    pthread_mutex_destroy(&pool->lock);
    free(pool->buckets);
    free(pool);
}
