/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_host.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define WAIT_S 20
#define THREADS_MAX 4096 /* over the life of a host */

struct fake_chunk {
    struct fake_chunk *next;
    char key[KVL_KEY_MAX];
    uint32_t key_length;
    struct kvl_attrs attrs;
    uint64_t length;
    uint8_t *data;
    uint32_t refs;
    uint64_t id; /* of a slot or, for leases, of the chunk */
};

struct fake_done {
    struct fake_done *next;
    uint64_t cookie;
    uint32_t times;
    struct fake_result result;
};

struct fake_target {
    struct fake_target *next;
    uint64_t cookie;
    uint32_t item;
    struct kvl_chunk found;
    void *data;
};

struct fake_name {
    struct fake_name *next;
    char text[KVL_KEY_MAX + 1];
};

struct fake_host {
    struct kvl_host table;
    struct kvl_log log;
    const struct kvl_backend_desc *desc;
    const char *const *pairs;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct fake_chunk *chunks;
    struct fake_chunk *slots;
    struct fake_chunk *leased; /* gone from the index, still leased */
    struct fake_done *done;
    struct fake_target *targets;
    struct fake_name *names;
    pthread_t threads[THREADS_MAX];
    uint8_t joined[THREADS_MAX];
    uint32_t thread_count;
    uint32_t joined_count;
    uint32_t leases;
    uint32_t commits;
    uint32_t aborts;
    uint32_t removes;
    uint32_t reserves;
    uint32_t releases;
    uint64_t next_id;
    int reserve_code;
    int target_code;
    struct kvl_store_event *events; /* recorded and not taken */
    uint32_t event_count;
    uint32_t event_room;
    int recording;
    int events_lost;
    int events_woken;
    int events_code;
    struct fake_offer offer; /* the own one; length 0 = none */
    struct fake_offer offered; /* the last of a peer */
    uint32_t offered_count;
    struct fake_chunk *held; /* in memory of a GPU */
    uint64_t progress_cookie;
    uint32_t progress_layers;
    uint32_t progress_calls;
    void *range;
    uint64_t range_bytes;
    int keeps; /* there is a backend that keeps them */
};

static struct fake_host *fake_of(const struct kvl_host *host)
{
    return host->ctx;
}

static void fake_die(const char *what, const char *name)
{
    fprintf(stderr, "fake host: %s: '%s'\n", what, name);
    abort();
}

static void fake_log(void *ctx, int32_t level, const char *component, const char *file,
                     int32_t line, const char *text)
{
    (void)ctx;
    (void)component;
    if (getenv("KVL_TEST_LOG") != NULL) {
        fprintf(stderr, "%d %s:%d %s\n", level, file, line, text);
    }
}

static uint64_t fake_now_ms(const struct kvl_host *host)
{
    struct timespec now;

    (void)host;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- settings ---- */

static int64_t fake_scaled(const char *text, uint32_t type)
{
    char *end;
    int64_t value = strtoll(text, &end, 10);

    if (type == KVL_OPTION_DURATION && strcmp(end, "s") == 0) {
        return value * 1000;
    }
    if (type == KVL_OPTION_DURATION && strcmp(end, "m") == 0) {
        return value * 60000;
    }
    if (type == KVL_OPTION_SIZE && *end != '\0') {
        const char *units = "KMGT";
        const char *unit = strchr(units, *end);

        return unit == NULL ? value : value << (10 * (unit - units + 1));
    }
    return value;
}

static int64_t fake_choice(const char *choices, const char *text)
{
    size_t length = strlen(text);
    int64_t index = 0;

    for (const char *at = choices; at != NULL; index++) {
        if (strncmp(at, text, length) == 0 && (at[length] == '|' || at[length] == '\0')) {
            return index;
        }
        at = strchr(at, '|');
        at = at == NULL ? NULL : at + 1;
    }
    fake_die("no such choice", text);
    return -1;
}

static int64_t fake_number(const struct kvl_option *option, const char *text)
{
    switch (option->type) {
    case KVL_OPTION_BOOL:
        return strcmp(text, "yes") == 0 || strcmp(text, "1") == 0;
    case KVL_OPTION_ENUM:
        return fake_choice(option->choices, text);
    case KVL_OPTION_STRING:
    case KVL_OPTION_PATH:
    case KVL_OPTION_SECRET:
        return 0;
    default:
        return fake_scaled(text, option->type);
    }
}

static const struct kvl_option *fake_option(const struct fake_host *fake, const char *name)
{
    for (uint32_t i = 0; i < fake->desc->option_count; i++) {
        if (strcmp(fake->desc->options[i].name, name) == 0) {
            return &fake->desc->options[i];
        }
    }
    return NULL;
}

static int fake_setting(const struct kvl_host *host, const char *name, struct kvl_setting *out)
{
    const struct fake_host *fake = fake_of(host);
    const struct kvl_option *option = fake_option(fake, name);
    const char *text;

    if (option == NULL) {
        fake_die("the backend asks for an option it does not have", name);
        return -ENOENT;
    }
    text = option->value == NULL ? "" : option->value;
    out->is_set = 0;
    for (const char *const *pair = fake->pairs; pair != NULL && *pair != NULL; pair += 2) {
        if (strcmp(pair[0], name) == 0) {
            text = pair[1];
            out->is_set = 1;
        }
    }
    out->text = text;
    out->number = fake_number(option, text);
    return 0;
}

/* ---- threads ---- */

static int fake_thread_create(const struct kvl_host *host, const char *name, void *(*fn)(void *),
                              void *arg, uint64_t *thread_out)
{
    struct fake_host *fake = fake_of(host);
    uint32_t index = fake->thread_count;

    if (strlen(name) > 15) {
        fake_die("thread name too long", name);
    }
    if (index == sizeof(fake->threads) / sizeof(fake->threads[0]) ||
        pthread_create(&fake->threads[index], NULL, fn, arg) != 0) {
        return -EAGAIN;
    }
    fake->thread_count++;
    *thread_out = index + 1;
    return 0;
}

static int fake_thread_join(const struct kvl_host *host, uint64_t thread)
{
    struct fake_host *fake = fake_of(host);

    if (thread == 0 || thread > fake->thread_count || fake->joined[thread - 1]) {
        return -ESRCH;
    }
    fake->joined[thread - 1] = 1;
    fake->joined_count++;
    pthread_join(fake->threads[thread - 1], NULL);
    return 0;
}

/* ---- operations ---- */

static void fake_complete(const struct kvl_host *host, const struct kvl_completion *done)
{
    struct fake_host *fake = fake_of(host);
    struct fake_done *record;

    pthread_mutex_lock(&fake->lock);
    for (record = fake->done; record != NULL; record = record->next) {
        if (record->cookie == done->cookie) {
            break;
        }
    }
    if (record == NULL) {
        record = calloc(1, sizeof(*record));
        record->cookie = done->cookie;
        record->next = fake->done;
        fake->done = record;
    }
    record->times++;
    record->result.status = done->status;
    record->result.bytes = done->bytes;
    record->result.item_count = done->item_count;
    for (uint32_t i = 0; i < done->item_count && i < FAKE_ITEMS_MAX; i++) {
        record->result.items[i] = done->item_status[i];
    }
    pthread_cond_broadcast(&fake->changed);
    pthread_mutex_unlock(&fake->lock);
}

static int fake_read_target(const struct kvl_host *host, uint64_t cookie, uint32_t item,
                            const struct kvl_chunk *found, void **addr_out)
{
    struct fake_host *fake = fake_of(host);
    struct fake_target *target;
    int r;

    pthread_mutex_lock(&fake->lock);
    r = fake->target_code;
    if (r == 0) {
        target = calloc(1, sizeof(*target));
        target->cookie = cookie;
        target->item = item;
        target->found = *found;
        target->data = found->bytes == 0 ? NULL : aligned_alloc(64, (found->bytes + 63) / 64 * 64);
        target->next = fake->targets;
        fake->targets = target;
        *addr_out = target->data;
    }
    pthread_mutex_unlock(&fake->lock);
    return r;
}

static int fake_list_add(const struct kvl_host *host, uint64_t cookie, const struct kvl_key *keys,
                         uint32_t count)
{
    struct fake_host *fake = fake_of(host);

    (void)cookie;
    pthread_mutex_lock(&fake->lock);
    for (uint32_t i = 0; i < count; i++) {
        struct fake_name *name = calloc(1, sizeof(*name));

        memcpy(name->text, keys[i].text, keys[i].length);
        name->next = fake->names;
        fake->names = name;
    }
    pthread_mutex_unlock(&fake->lock);
    return 0;
}

/* ---- the store; all below with the lock held ---- */

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

static void fake_record(struct fake_host *fake, const struct fake_chunk *chunk, uint32_t kind)
{
    fake_record_at(fake, chunk, kind, KVL_WHERE_HOST);
}

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

static int fake_list(struct fake_host *fake, struct fake_chunk *const *list, kvl_key_fn fn,
                     void *ctx)
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

static int fake_held(const struct kvl_host *host, uint32_t where, kvl_key_fn fn, void *ctx)
{
    struct fake_host *fake = fake_of(host);

    return fake_list(fake, where == KVL_WHERE_HOST ? &fake->chunks : &fake->held, fn, ctx);
}

static uint64_t fake_store_max_bytes(const struct kvl_host *host)
{
    (void)host;
    return 1ull << 30;
}

/* ---- store events ---- */

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

/* Its chunks lie on the heap. */
static int fake_store_export(const struct kvl_host *host, struct kvl_store_export *out)
{
    (void)host;
    (void)out;
    return -ENOTSUP;
}

static int fake_push(const struct kvl_host *host, const char *peer_url, const struct kvl_key *keys,
                     uint32_t count, uint64_t deadline_ms, uint32_t *pushed_out)
{
    (void)host;
    (void)peer_url;
    (void)keys;
    (void)count;
    (void)deadline_ms;
    (void)pushed_out;
    return -ENOTSUP;
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

static int fake_locate(const struct kvl_host *host, const struct kvl_chunk_id *ids, uint32_t count,
                       uint64_t deadline_ms, kvl_locate_fn fn, void *ctx)
{
    (void)host;
    (void)ids;
    (void)count;
    (void)deadline_ms;
    (void)fn;
    (void)ctx;
    return -ENOTSUP;
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

/* ---- offers, and chunks that a backend keeps ---- */

static void fake_offers(const struct kvl_host *host, kvl_offer_fn fn, void *ctx)
{
    struct fake_host *fake = fake_of(host);
    struct fake_offer own;
    struct kvl_offer offer = {.size = sizeof(offer), .is_same_host = 1};

    pthread_mutex_lock(&fake->lock);
    own = fake->offer;
    pthread_mutex_unlock(&fake->lock);
    offer.backend = (struct kvl_text){.text = own.backend, .length = (uint32_t)strlen(own.backend)};
    offer.bytes = own.bytes;
    offer.length = own.length;
    if (own.length > 0) {
        fn(ctx, &offer);
    }
}

static void fake_offered(const struct kvl_host *host, const struct kvl_offer *offer)
{
    struct fake_host *fake = fake_of(host);
    struct fake_offer *last = &fake->offered;

    pthread_mutex_lock(&fake->lock);
    snprintf(last->backend, sizeof(last->backend), "%.*s", (int)offer->backend.length,
             offer->backend.text);
    snprintf(last->peer, sizeof(last->peer), "%.*s", (int)offer->peer.length, offer->peer.text);
    memcpy(last->bytes, offer->bytes, offer->length);
    last->length = offer->length;
    last->is_same_host = offer->is_same_host;
    fake->offered_count++;
    pthread_cond_broadcast(&fake->changed);
    pthread_mutex_unlock(&fake->lock);
}

void fake_host_set_offer(struct fake_host *fake, const char *backend, const void *bytes,
                         uint32_t length)
{
    pthread_mutex_lock(&fake->lock);
    snprintf(fake->offer.backend, sizeof(fake->offer.backend), "%s", backend);
    memcpy(fake->offer.bytes, bytes, length);
    fake->offer.length = length;
    pthread_mutex_unlock(&fake->lock);
}

uint32_t fake_host_offered(struct fake_host *fake, struct fake_offer *last_out)
{
    uint32_t count;

    pthread_mutex_lock(&fake->lock);
    count = fake->offered_count;
    if (last_out != NULL) {
        *last_out = fake->offered;
    }
    pthread_mutex_unlock(&fake->lock);
    return count;
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

/* ---- what a backend that keeps chunks, or copies for the core, tells ---- */

static int fake_offer_own(const struct kvl_host *host, const void *bytes, uint32_t length)
{
    struct fake_host *fake = fake_of(host);

    if (length > KVL_OFFER_MAX) {
        return -EMSGSIZE;
    }
    fake_host_set_offer(fake, fake->desc->name != NULL ? fake->desc->name : "",
                        length > 0 ? bytes : "", length);
    return 0;
}

uint32_t fake_host_offer(struct fake_host *fake, void *bytes_out)
{
    uint32_t length;

    pthread_mutex_lock(&fake->lock);
    length = fake->offer.length;
    memcpy(bytes_out, fake->offer.bytes, length);
    pthread_mutex_unlock(&fake->lock);
    return length;
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

static void fake_progress(const struct kvl_host *host, uint64_t cookie, uint32_t layers)
{
    struct fake_host *fake = fake_of(host);

    pthread_mutex_lock(&fake->lock);
    if (cookie == fake->progress_cookie && layers <= fake->progress_layers) {
        fake_die("progress that does not grow", "");
    }
    fake->progress_cookie = cookie;
    fake->progress_layers = layers;
    fake->progress_calls++;
    pthread_cond_broadcast(&fake->changed);
    pthread_mutex_unlock(&fake->lock);
}

uint32_t fake_host_progress(struct fake_host *fake, uint64_t *cookie_out, uint32_t *layers_out)
{
    uint32_t calls;

    pthread_mutex_lock(&fake->lock);
    calls = fake->progress_calls;
    *cookie_out = fake->progress_cookie;
    *layers_out = fake->progress_layers;
    pthread_mutex_unlock(&fake->lock);
    return calls;
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

void fake_host_set_range(struct fake_host *fake, void *base, uint64_t bytes)
{
    fake->range = base;
    fake->range_bytes = bytes;
}

/* ---- life and views ---- */

static void fake_fill_table(struct fake_host *fake)
{
    fake->log = (struct kvl_log){.write = fake_log, .component = "test", .level = KVL_LOG_TRACE};
    fake->table = (struct kvl_host){
        .size = sizeof(struct kvl_host),
        .abi_minor = KVL_BACKEND_ABI_MINOR,
        .ctx = fake,
        .log = &fake->log,
        .now_ms = fake_now_ms,
        .setting = fake_setting,
        .thread_create = fake_thread_create,
        .thread_join = fake_thread_join,
        .complete = fake_complete,
        .read_target = fake_read_target,
        .list_add = fake_list_add,
        .store_get = fake_store_get,
        .store_release = fake_store_release,
        .store_exists = fake_store_exists,
        .store_reserve = fake_store_reserve,
        .store_commit = fake_store_commit,
        .store_abort = fake_store_abort,
        .store_remove = fake_store_remove,
        .store_list = fake_store_list,
        .store_max_bytes = fake_store_max_bytes,
        .chunk_id = fake_chunk_id,
        .store_events = fake_store_events,
        .store_events_wake = fake_store_events_wake,
        .store_export = fake_store_export,
        .health = fake_health,
        .locate = fake_locate,
        .push = fake_push,
        .offers = fake_offers,
        .offered = fake_offered,
        .held = fake_held,
        .offer = fake_offer_own,
        .held_event = fake_held_event,
        .progress = fake_progress,
        .store_range = fake_store_range,
    };
}

struct fake_host *fake_host_create(const struct kvl_backend_desc *desc, const char *const *pairs)
{
    struct fake_host *fake = calloc(1, sizeof(*fake));
    pthread_condattr_t attr;

    fake->desc = desc;
    fake->pairs = pairs;
    pthread_mutex_init(&fake->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&fake->changed, &attr);
    pthread_condattr_destroy(&attr);
    fake_fill_table(fake);
    for (const char *const *pair = pairs; pair != NULL && *pair != NULL; pair += 2) {
        if (fake_option(fake, pair[0]) == NULL) {
            fake_die("no such option", pair[0]);
        }
    }
    return fake;
}

static void fake_free_chunks(struct fake_chunk *chunk)
{
    while (chunk != NULL) {
        struct fake_chunk *next = chunk->next;

        fake_free_chunk(chunk);
        chunk = next;
    }
}

void fake_host_destroy(struct fake_host *fake)
{
    if (fake == NULL) {
        return;
    }
    fake_free_chunks(fake->chunks);
    fake_free_chunks(fake->slots);
    fake_free_chunks(fake->leased);
    fake_free_chunks(fake->held);
    while (fake->done != NULL) {
        struct fake_done *next = fake->done->next;

        free(fake->done);
        fake->done = next;
    }
    while (fake->targets != NULL) {
        struct fake_target *next = fake->targets->next;

        free(fake->targets->data);
        free(fake->targets);
        fake->targets = next;
    }
    while (fake->names != NULL) {
        struct fake_name *next = fake->names->next;

        free(fake->names);
        fake->names = next;
    }
    pthread_cond_destroy(&fake->changed);
    pthread_mutex_destroy(&fake->lock);
    free(fake->events);
    free(fake);
}

const struct kvl_host *fake_host_table(struct fake_host *fake)
{
    return &fake->table;
}

static struct timespec fake_until(void)
{
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += WAIT_S;
    return until;
}

static struct fake_done *fake_done_of(struct fake_host *fake, uint64_t cookie)
{
    struct fake_done *record = fake->done;

    while (record != NULL && record->cookie != cookie) {
        record = record->next;
    }
    return record;
}

int fake_host_wait(struct fake_host *fake, uint64_t cookie, struct fake_result *result_out)
{
    const struct timespec until = fake_until();
    struct fake_done *record;
    int r = 0;

    pthread_mutex_lock(&fake->lock);
    while ((record = fake_done_of(fake, cookie)) == NULL && r == 0) {
        r = pthread_cond_timedwait(&fake->changed, &fake->lock, &until);
    }
    if (record != NULL && result_out != NULL) {
        *result_out = record->result;
    }
    pthread_mutex_unlock(&fake->lock);
    return record == NULL ? -ETIMEDOUT : 0;
}

static int fake_wait_count(struct fake_host *fake, const uint32_t *counter, uint32_t count)
{
    const struct timespec until = fake_until();
    int r = 0;

    pthread_mutex_lock(&fake->lock);
    while (*counter < count && r == 0) {
        r = pthread_cond_timedwait(&fake->changed, &fake->lock, &until);
    }
    r = *counter < count ? -ETIMEDOUT : 0;
    pthread_mutex_unlock(&fake->lock);
    return r;
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

uint32_t fake_host_completions(struct fake_host *fake, uint64_t cookie)
{
    const struct fake_done *record;
    uint32_t times;

    pthread_mutex_lock(&fake->lock);
    record = fake_done_of(fake, cookie);
    times = record == NULL ? 0 : record->times;
    pthread_mutex_unlock(&fake->lock);
    return times;
}

uint32_t fake_host_completions_all(struct fake_host *fake)
{
    uint32_t times = 0;

    pthread_mutex_lock(&fake->lock);
    for (const struct fake_done *record = fake->done; record != NULL; record = record->next) {
        times += record->times;
    }
    pthread_mutex_unlock(&fake->lock);
    return times;
}

const void *fake_host_target(struct fake_host *fake, uint64_t cookie, uint32_t item,
                             struct kvl_chunk *found_out)
{
    const struct fake_target *target;
    const void *data = NULL;

    pthread_mutex_lock(&fake->lock);
    for (target = fake->targets; target != NULL; target = target->next) {
        if (target->cookie == cookie && target->item == item) {
            data = target->data;
            if (found_out != NULL) {
                *found_out = target->found;
            }
        }
    }
    pthread_mutex_unlock(&fake->lock);
    return data;
}

void fake_host_set_target_code(struct fake_host *fake, int code)
{
    pthread_mutex_lock(&fake->lock);
    fake->target_code = code;
    pthread_mutex_unlock(&fake->lock);
}

void fake_host_set_reserve_code(struct fake_host *fake, int code)
{
    pthread_mutex_lock(&fake->lock);
    fake->reserve_code = code;
    pthread_mutex_unlock(&fake->lock);
}

int fake_host_listed(struct fake_host *fake, const char *key)
{
    int found = 0;

    pthread_mutex_lock(&fake->lock);
    for (const struct fake_name *name = fake->names; name != NULL; name = name->next) {
        found = found || strcmp(name->text, key) == 0;
    }
    pthread_mutex_unlock(&fake->lock);
    return found;
}

uint32_t fake_host_listed_count(struct fake_host *fake)
{
    uint32_t count = 0;

    pthread_mutex_lock(&fake->lock);
    for (const struct fake_name *name = fake->names; name != NULL; name = name->next) {
        count++;
    }
    pthread_mutex_unlock(&fake->lock);
    return count;
}

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

uint32_t fake_host_leaks(struct fake_host *fake)
{
    uint32_t leaks;

    pthread_mutex_lock(&fake->lock);
    leaks = fake->leases + fake->thread_count - fake->joined_count;
    for (const struct fake_chunk *slot = fake->slots; slot != NULL; slot = slot->next) {
        leaks++;
    }
    pthread_mutex_unlock(&fake->lock);
    return leaks;
}
