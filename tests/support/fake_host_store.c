/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_host.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "fake_host_parts.h"

/* ---- chunks; all with the lock held ---- */

static struct fake_chunk **fake_find(struct fake_host *fake, const void *text, size_t length)
{
    struct fake_chunk **at = &fake->chunks;

    while (*at != NULL && ((*at)->key_length != length || memcmp((*at)->key, text, length) != 0)) {
        at = &(*at)->next;
    }
    return at;
}

static void fake_free_chunk(struct fake_chunk *chunk)
{
    free(chunk->data);
    free(chunk);
}

static void fake_unindex(struct fake_host *fake, struct fake_chunk **at)
{
    struct fake_chunk *chunk = *at;

    *at = chunk->next;
    if (chunk->refs > 0) {
        chunk->next = fake->leased;
        fake->leased = chunk;
    } else {
        fake_free_chunk(chunk);
    }
}

static void fake_index(struct fake_host *fake, struct fake_chunk *chunk)
{
    struct fake_chunk **old = fake_find(fake, chunk->key, chunk->key_length);

    if (*old != NULL) {
        fake_unindex(fake, old);
    }
    chunk->next = fake->chunks;
    fake->chunks = chunk;
    fake_record(fake, chunk, KVL_KEY_ADMIT);
}

static struct fake_chunk *fake_new_chunk(struct fake_host *fake, const struct kvl_key *key,
                                         uint64_t length, const struct kvl_attrs *attrs)
{
    struct fake_chunk *chunk = calloc(1, sizeof(*chunk));

    memcpy(chunk->key, key->text, key->length);
    chunk->key_length = key->length;
    chunk->attrs = *attrs;
    chunk->length = length;
    chunk->data = length == 0 ? NULL : aligned_alloc(64, (length + 63) / 64 * 64);
    chunk->id = ++fake->next_id;
    return chunk;
}

static struct fake_chunk *fake_take_slot(struct fake_host *fake, uint64_t id)
{
    for (struct fake_chunk **at = &fake->slots; *at != NULL; at = &(*at)->next) {
        if ((*at)->id == id) {
            struct fake_chunk *slot = *at;

            *at = slot->next;
            return slot;
        }
    }
    return NULL;
}

/* ---- what a backend calls ---- */

static int fake_store_get(const struct kvl_host *host, const struct kvl_key *key,
                          struct kvl_view *view_out)
{
    struct fake_host *fake = fake_of(host);
    struct fake_chunk *chunk;

    pthread_mutex_lock(&fake->lock);
    chunk = *fake_find(fake, key->text, key->length);
    if (chunk != NULL) {
        chunk->refs++;
        fake->leases++;
        memset(view_out, 0, sizeof(*view_out));
        view_out->data = chunk->data;
        view_out->length = chunk->length;
        view_out->attrs = chunk->attrs;
        view_out->lease = chunk->id;
    }
    pthread_mutex_unlock(&fake->lock);
    return chunk == NULL ? -ENOENT : 0;
}

static int fake_store_release(const struct kvl_host *host, uint64_t lease)
{
    struct fake_host *fake = fake_of(host);
    struct fake_chunk **at;
    int r = -EINVAL;

    pthread_mutex_lock(&fake->lock);
    for (at = &fake->chunks; *at != NULL && r < 0; at = &(*at)->next) {
        if ((*at)->id == lease && (*at)->refs > 0) {
            (*at)->refs--;
            r = 0;
            break;
        }
    }
    for (at = &fake->leased; *at != NULL && r < 0; at = &(*at)->next) {
        if ((*at)->id == lease) {
            struct fake_chunk *chunk = *at;

            chunk->refs--;
            if (chunk->refs == 0) {
                *at = chunk->next;
                fake_free_chunk(chunk);
            }
            r = 0;
            break;
        }
    }
    if (r == 0) {
        fake->leases--;
        fake->releases++;
        pthread_cond_broadcast(&fake->changed);
    }
    pthread_mutex_unlock(&fake->lock);
    return r;
}

static int fake_store_exists(const struct kvl_host *host, const struct kvl_key *key)
{
    return fake_host_has(fake_of(host), key->text, key->length) ? 0 : -ENOENT;
}

static int fake_store_reserve(const struct kvl_host *host, const struct kvl_chunk *chunk,
                              uint64_t *slot_out, void **addr_out)
{
    struct fake_host *fake = fake_of(host);
    struct fake_chunk *slot;
    int r;

    pthread_mutex_lock(&fake->lock);
    r = fake->reserve_code;
    if (r == 0) {
        slot = fake_new_chunk(fake, &chunk->key, chunk->bytes, &chunk->attrs);
        slot->next = fake->slots;
        fake->slots = slot;
        *slot_out = slot->id;
        *addr_out = slot->data;
        fake->reserves++;
        pthread_cond_broadcast(&fake->changed);
    }
    pthread_mutex_unlock(&fake->lock);
    return r;
}

static int fake_store_commit(const struct kvl_host *host, uint64_t id)
{
    struct fake_host *fake = fake_of(host);
    struct fake_chunk *slot;

    pthread_mutex_lock(&fake->lock);
    slot = fake_take_slot(fake, id);
    if (slot != NULL) {
        fake_index(fake, slot);
        fake->commits++;
        pthread_cond_broadcast(&fake->changed);
    }
    pthread_mutex_unlock(&fake->lock);
    return slot == NULL ? -EINVAL : 0;
}

static int fake_store_abort(const struct kvl_host *host, uint64_t id)
{
    struct fake_host *fake = fake_of(host);
    struct fake_chunk *slot;

    pthread_mutex_lock(&fake->lock);
    slot = fake_take_slot(fake, id);
    if (slot != NULL) {
        fake_free_chunk(slot);
        fake->aborts++;
        pthread_cond_broadcast(&fake->changed);
    }
    pthread_mutex_unlock(&fake->lock);
    return slot == NULL ? -EINVAL : 0;
}

static int fake_store_remove(const struct kvl_host *host, const struct kvl_key *key)
{
    struct fake_host *fake = fake_of(host);
    struct fake_chunk **at;
    int r = -ENOENT;

    pthread_mutex_lock(&fake->lock);
    at = fake_find(fake, key->text, key->length);
    if (*at != NULL) {
        fake_record(fake, *at, KVL_KEY_EVICT);
        fake_unindex(fake, at);
        r = 0;
    }
    fake->removes++;
    pthread_cond_broadcast(&fake->changed);
    pthread_mutex_unlock(&fake->lock);
    return r;
}

int fake_list(struct fake_host *fake, struct fake_chunk *const *list, kvl_key_fn fn, void *ctx)
{
    struct fake_chunk *copies = NULL;
    struct fake_chunk *copy;
    int r = 0;

    pthread_mutex_lock(&fake->lock);
    for (const struct fake_chunk *chunk = *list; chunk != NULL; chunk = chunk->next) {
        copy = malloc(sizeof(*copy));
        *copy = *chunk;
        copy->next = copies;
        copies = copy;
    }
    pthread_mutex_unlock(&fake->lock);
    while (copies != NULL) {
        struct kvl_key key = {.text = copies->key, .length = copies->key_length};

        copy = copies;
        copies = copy->next;
        r = r == 0 ? fn(ctx, &key, copy->length) : r;
        free(copy);
    }
    return r;
}

static int fake_store_list(const struct kvl_host *host, kvl_key_fn fn, void *ctx)
{
    struct fake_host *fake = fake_of(host);

    return fake_list(fake, &fake->chunks, fn, ctx);
}

static uint64_t fake_store_max_bytes(const struct kvl_host *host)
{
    (void)host;
    return 1ull << 30;
}

/* Its chunks lie on the heap. */
static int fake_store_export(const struct kvl_host *host, struct kvl_store_export *out)
{
    (void)host;
    (void)out;
    return -ENOTSUP;
}

static int fake_store_range(const struct kvl_host *host, void **base_out, uint64_t *bytes_out)
{
    struct fake_host *fake = fake_of(host);

    if (fake->range == NULL) {
        return -ENOTSUP;
    }
    *base_out = fake->range;
    *bytes_out = fake->range_bytes;
    return 0;
}

void fake_store_fill(struct kvl_host *table)
{
    table->store_get = fake_store_get;
    table->store_release = fake_store_release;
    table->store_exists = fake_store_exists;
    table->store_reserve = fake_store_reserve;
    table->store_commit = fake_store_commit;
    table->store_abort = fake_store_abort;
    table->store_remove = fake_store_remove;
    table->store_list = fake_store_list;
    table->store_max_bytes = fake_store_max_bytes;
    table->store_export = fake_store_export;
    table->store_range = fake_store_range;
}

void fake_free_chunks(struct fake_chunk *chunk)
{
    while (chunk != NULL) {
        struct fake_chunk *next = chunk->next;

        fake_free_chunk(chunk);
        chunk = next;
    }
}

void fake_store_fini(struct fake_host *fake)
{
    fake_free_chunks(fake->chunks);
    fake_free_chunks(fake->slots);
    fake_free_chunks(fake->leased);
}

/* ---- what a test does and asks ---- */

void fake_host_put(struct fake_host *fake, const char *key, const void *bytes, size_t length,
                   const struct kvl_attrs *attrs)
{
    const struct kvl_key name = kvl_key_from_text(key);
    struct fake_chunk *chunk;

    pthread_mutex_lock(&fake->lock);
    chunk = fake_new_chunk(fake, &name, length, attrs);
    if (length > 0) {
        memcpy(chunk->data, bytes, length);
    }
    fake_index(fake, chunk);
    pthread_mutex_unlock(&fake->lock);
}

int fake_host_has(struct fake_host *fake, const void *key, size_t length)
{
    int has;

    pthread_mutex_lock(&fake->lock);
    has = *fake_find(fake, key, length) != NULL;
    pthread_mutex_unlock(&fake->lock);
    return has;
}

uint32_t fake_host_stored(struct fake_host *fake)
{
    uint32_t count = 0;

    pthread_mutex_lock(&fake->lock);
    for (const struct fake_chunk *chunk = fake->chunks; chunk != NULL; chunk = chunk->next) {
        count++;
    }
    pthread_mutex_unlock(&fake->lock);
    return count;
}

void fake_host_flip(struct fake_host *fake, const char *key, size_t at)
{
    struct fake_chunk *chunk;

    pthread_mutex_lock(&fake->lock);
    chunk = *fake_find(fake, key, strlen(key));
    if (chunk == NULL || at >= chunk->length) {
        fake_die("nothing to flip", key);
    } else {
        chunk->data[at] ^= 1;
    }
    pthread_mutex_unlock(&fake->lock);
}

void fake_host_set_reserve_code(struct fake_host *fake, int code)
{
    pthread_mutex_lock(&fake->lock);
    fake->reserve_code = code;
    pthread_mutex_unlock(&fake->lock);
}

void fake_host_set_range(struct fake_host *fake, void *base, uint64_t bytes)
{
    fake->range = base;
    fake->range_bytes = bytes;
}

int fake_host_wait_commits(struct fake_host *fake, uint32_t count)
{
    return fake_wait_count(fake, &fake->commits, count);
}

int fake_host_wait_aborts(struct fake_host *fake, uint32_t count)
{
    return fake_wait_count(fake, &fake->aborts, count);
}

int fake_host_wait_removes(struct fake_host *fake, uint32_t count)
{
    return fake_wait_count(fake, &fake->removes, count);
}

int fake_host_wait_reserves(struct fake_host *fake, uint32_t count)
{
    return fake_wait_count(fake, &fake->reserves, count);
}

int fake_host_wait_releases(struct fake_host *fake, uint32_t count)
{
    return fake_wait_count(fake, &fake->releases, count);
}
