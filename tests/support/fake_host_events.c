/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_host.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fake_host_parts.h"

/* ---- events of the store ---- */

/* The hash in a key of LMCache, `model@world@worker@hash@dtype`; for others a sum of the bytes. */
static void fake_number_key(const char *text, size_t length, struct kvl_chunk_id *id_out)
{
    char copy[KVL_KEY_MAX + 1];
    const char *at = copy;
    char *end;

    memcpy(copy, text, length);
    copy[length] = '\0';
    memset(id_out, 0, sizeof(*id_out));
    for (int i = 0; i < 3 && at != NULL; i++) {
        at = strchr(at, '@');
        at = at == NULL ? NULL : at + 1;
    }
    if (at != NULL) {
        id_out->negative = *at == '-';
        id_out->bits = strtoull(at + id_out->negative, &end, 16);
        id_out->bits = id_out->negative ? 0 - id_out->bits : id_out->bits;
        if (*end == '@') {
            return;
        }
    }
    id_out->negative = 0;
    id_out->bits = 14695981039346656037ull;
    for (size_t i = 0; i < length; i++) {
        id_out->bits = (id_out->bits ^ (uint8_t)text[i]) * 1099511628211ull;
    }
}

static void fake_record_at(struct fake_host *fake, const struct fake_chunk *chunk, uint32_t kind,
                           uint32_t where)
{
    struct kvl_store_event *event;

    if (!fake->recording) {
        return;
    }
    if (fake->event_count == fake->event_room) {
        fake->event_room = fake->event_room == 0 ? 64 : fake->event_room * 2;
        fake->events = realloc(fake->events, fake->event_room * sizeof(*fake->events));
    }
    event = &fake->events[fake->event_count++];
    *event = (struct kvl_store_event){
        .kind = kind, .where = where, .bytes = kind == KVL_KEY_ADMIT ? chunk->length : 0};
    fake_number_key(chunk->key, chunk->key_length, &event->id);
    pthread_cond_broadcast(&fake->changed);
}

void fake_record(struct fake_host *fake, const struct fake_chunk *chunk, uint32_t kind)
{
    fake_record_at(fake, chunk, kind, KVL_WHERE_HOST);
}

static int fake_chunk_id(const struct kvl_host *host, const struct kvl_key *key,
                         struct kvl_chunk_id *id_out)
{
    (void)host;
    if (key->length == 0 || key->length > KVL_KEY_MAX) {
        return -EINVAL;
    }
    fake_number_key(key->text, key->length, id_out);
    return 0;
}

static int fake_store_events(const struct kvl_host *host, struct kvl_store_event *events_out,
                             uint32_t room, uint64_t deadline_ms)
{
    struct fake_host *fake = fake_of(host);
    const struct timespec until = {.tv_sec = (time_t)(deadline_ms / 1000),
                                   .tv_nsec = (long)(deadline_ms % 1000) * 1000000};
    uint32_t count = 0;
    int r = 0;

    pthread_mutex_lock(&fake->lock);
    fake->recording = 1;
    while (r == 0 && fake->event_count == 0 && !fake->events_lost && !fake->events_woken &&
           fake->events_code == 0) {
        r = pthread_cond_timedwait(&fake->changed, &fake->lock, &until);
    }
    r = fake->events_code;
    if (r == 0 && fake->events_lost) {
        fake->events_lost = 0;
        fake->event_count = 0;
        r = -EOVERFLOW;
    } else if (r == 0) {
        count = fake->event_count < room ? fake->event_count : room;
        if (count > 0) {
            memcpy(events_out, fake->events, count * sizeof(*events_out));
            memmove(fake->events, fake->events + count,
                    (fake->event_count - count) * sizeof(*fake->events));
        }
        fake->event_count -= count;
        fake->events_woken = 0;
        r = (int)count;
    }
    pthread_mutex_unlock(&fake->lock);
    return r;
}

static void fake_store_events_wake(const struct kvl_host *host)
{
    struct fake_host *fake = fake_of(host);

    pthread_mutex_lock(&fake->lock);
    fake->events_woken = 1;
    pthread_cond_broadcast(&fake->changed);
    pthread_mutex_unlock(&fake->lock);
}

void fake_host_lose_events(struct fake_host *fake)
{
    pthread_mutex_lock(&fake->lock);
    fake->events_lost = 1;
    pthread_cond_broadcast(&fake->changed);
    pthread_mutex_unlock(&fake->lock);
}

void fake_host_set_events_code(struct fake_host *fake, int code)
{
    pthread_mutex_lock(&fake->lock);
    fake->events_code = code;
    pthread_cond_broadcast(&fake->changed);
    pthread_mutex_unlock(&fake->lock);
}

/* ---- chunks that a backend keeps in memory of a GPU ---- */

static int fake_held(const struct kvl_host *host, uint32_t where, kvl_key_fn fn, void *ctx)
{
    struct fake_host *fake = fake_of(host);

    return fake_list(fake, where == KVL_WHERE_HOST ? &fake->chunks : &fake->held, fn, ctx);
}

/* There is nobody beside the backend under test, or one that keeps chunks. */
static int fake_health(const struct kvl_host *host, uint32_t location,
                       struct kvl_health *health_out)
{
    struct fake_host *fake = fake_of(host);
    int keeps;

    pthread_mutex_lock(&fake->lock);
    keeps = fake->keeps;
    pthread_mutex_unlock(&fake->lock);
    if (!keeps || location != 2) {
        return -EINVAL;
    }
    health_out->caps = KVL_CAP_HELD;
    return 0;
}

void fake_host_hold(struct fake_host *fake, const char *key, uint64_t bytes)
{
    struct fake_chunk *chunk = calloc(1, sizeof(*chunk));

    chunk->key_length = (uint32_t)strlen(key);
    memcpy(chunk->key, key, chunk->key_length);
    chunk->length = bytes;
    pthread_mutex_lock(&fake->lock);
    fake->keeps = 1;
    chunk->next = fake->held;
    fake->held = chunk;
    fake_record_at(fake, chunk, KVL_KEY_ADMIT, KVL_WHERE_GPU);
    pthread_mutex_unlock(&fake->lock);
}

void fake_host_drop(struct fake_host *fake, const char *key)
{
    struct fake_chunk **at = &fake->held;
    struct fake_chunk *chunk;

    pthread_mutex_lock(&fake->lock);
    while (*at != NULL &&
           ((*at)->key_length != strlen(key) || memcmp((*at)->key, key, strlen(key)) != 0)) {
        at = &(*at)->next;
    }
    chunk = *at;
    if (chunk == NULL) {
        fake_die("nothing to drop", key);
    } else {
        *at = chunk->next;
        fake_record_at(fake, chunk, KVL_KEY_EVICT, KVL_WHERE_GPU);
        free(chunk);
    }
    pthread_mutex_unlock(&fake->lock);
}

int fake_host_holds(struct fake_host *fake, const char *key)
{
    int found = 0;

    pthread_mutex_lock(&fake->lock);
    for (const struct fake_chunk *chunk = fake->held; chunk != NULL; chunk = chunk->next) {
        found |= chunk->key_length == strlen(key) && memcmp(chunk->key, key, strlen(key)) == 0;
    }
    pthread_mutex_unlock(&fake->lock);
    return found;
}

static void fake_held_event(const struct kvl_host *host, const struct kvl_key *key, uint64_t bytes,
                            uint32_t kind)
{
    struct fake_host *fake = fake_of(host);
    char text[KVL_KEY_MAX + 1] = "";

    memcpy(text, key->text, key->length);
    if (kind == KVL_KEY_EVICT || fake_host_holds(fake, text)) {
        fake_host_drop(fake, text);
    }
    if (kind == KVL_KEY_ADMIT) {
        fake_host_hold(fake, text, bytes);
    }
}

void fake_events_fill(struct kvl_host *table)
{
    table->chunk_id = fake_chunk_id;
    table->store_events = fake_store_events;
    table->store_events_wake = fake_store_events_wake;
    table->held = fake_held;
    table->health = fake_health;
    table->held_event = fake_held_event;
}

void fake_events_fini(struct fake_host *fake)
{
    fake_free_chunks(fake->held);
    free(fake->events);
}
