/* SPDX-License-Identifier: Apache-2.0 */
#include "tier.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "core.h"
#include "drive.h"
#include "hash.h"
#include "move.h"
#include "thread.h"

#define FETCHERS 2
#define FETCH_BATCH 16u /* chunks asked for together: more would make the first wait for the last */
#define QUEUE_MAX 4096u
#define COLD_BATCH 32u
#define COLD_BYTES (16u << 20)
#define REMOVE_BATCH 256u

struct request {
    struct request *next;
    kvl_fetch_fn fn; /* NULL: remove it below */
    void *ctx;
    uint64_t number; /* of removes: 1, 2, .. as they came */
    uint32_t flags;
    uint32_t length;
    char key[KVL_KEY_MAX];
};

struct queue {
    struct request *first;
    struct request **last;
    uint32_t count;
};

struct kvl_tier {
    struct kvl_instance *instance; /* borrowed, outlives us */
    int writes; /* some backend has put_to = evicted */
    int fetches; /* some backend can be asked */
    int fetches_held; /* some that keeps chunks of this process itself */
    pthread_t writer;
    pthread_t fetchers[FETCHERS];
    int fetcher_count;
    int has_writer;

    pthread_mutex_t lock; /* guards what follows; taken with the store's lock held */
    pthread_cond_t cold; /* the writer */
    pthread_cond_t asked; /* the fetchers */
    struct queue wanted;
    struct queue removed;
    uint64_t last_remove; /* number of the newest */
    int removing; /* never while writing: what is written must not be older than what was removed */
    int writing; /* batches */
    int pressed;
    int stopping;

    atomic_uint_fast64_t written;
    atomic_uint_fast64_t written_bytes;
    atomic_uint_fast64_t write_failures;
    atomic_uint_fast64_t fetched;
    atomic_uint_fast64_t fetch_hits;
    atomic_uint_fast64_t removes;
};

/* ---- queues ---- */

static void queue_init(struct queue *queue)
{
    queue->first = NULL;
    queue->last = &queue->first;
    queue->count = 0;
}

static void queue_add(struct queue *queue, struct request *request)
{
    request->next = NULL;
    *queue->last = request;
    queue->last = &request->next;
    queue->count++;
}

static uint32_t queue_take(struct queue *queue, struct request **out, uint32_t room)
{
    uint32_t count = 0;

    while (count < room && queue->first != NULL) {
        out[count] = queue->first;
        queue->first = out[count]->next;
        count++;
    }
    if (queue->first == NULL) {
        queue->last = &queue->first;
    }
    queue->count -= count;
    return count;
}

static struct request *new_request(const struct kvl_key *key, uint32_t flags, kvl_fetch_fn fn,
                                   void *ctx)
{
    struct request *request = malloc(sizeof(*request));

    if (request != NULL) {
        request->fn = fn;
        request->ctx = ctx;
        request->flags = flags;
        request->length = key->length;
        memcpy(request->key, key->text, key->length);
    }
    return request;
}

/* ---- fetching and removing ---- */

/* One batch for all requests, which are of one kind; status_out has one entry each. */
static void run_batch(struct kvl_tier *tier, struct request **list, uint32_t count,
                      int32_t *status_out)
{
    struct kvl_chunk chunks[REMOVE_BATCH];
    const struct kvl_batch batch = {
        .size = sizeof(batch),
        .count = count,
        .chunks = chunks,
        .flags = (list[0]->flags & KVL_FETCH_HELD) != 0 ? KVL_BATCH_HELD : 0,
    };
    struct kvl_result result = {
        .size = sizeof(result),
        .item_count = count,
        .item_status = status_out,
    };
    int r;

    for (uint32_t i = 0; i < count; i++) {
        chunks[i] = (struct kvl_chunk){
            .key = {.text = list[i]->key, .length = list[i]->length},
        };
        status_out[i] = -ENOMEM;
    }
    if (list[0]->fn == NULL) {
        r = kvl_move_remove_below(tier->instance, &batch);
    } else {
        r = (list[0]->flags & KVL_FETCH_LOOKUP) != 0
                ? kvl_move_lookup(tier->instance, &batch, &result, NULL)
                : kvl_move_load(tier->instance, &batch, &result, NULL);
    }
    (void)r; /* the items say it */
}

/* Answers requests of one kind; those of other kinds are moved to `rest`. */
static uint32_t run_kind(struct kvl_tier *tier, struct request **list, uint32_t count,
                         uint32_t flags, struct request **rest)
{
    struct request *mine[FETCH_BATCH];
    int32_t status[FETCH_BATCH];
    uint32_t n = 0;
    uint32_t others = 0;

    for (uint32_t i = 0; i < count; i++) {
        if (list[i]->flags == flags) {
            mine[n++] = list[i];
        } else {
            rest[others++] = list[i];
        }
    }
    if (n > 0) {
        run_batch(tier, mine, n, status);
    }
    for (uint32_t i = 0; i < n; i++) {
        atomic_fetch_add(&tier->fetched, 1);
        atomic_fetch_add(&tier->fetch_hits, status[i] == 0);
        mine[i]->fn(mine[i]->ctx, status[i]);
        free(mine[i]);
    }
    return others;
}

static void run_removes(struct kvl_tier *tier, struct request **list, uint32_t count)
{
    int32_t status[REMOVE_BATCH];

    run_batch(tier, list, count, status);
    atomic_fetch_add(&tier->removes, count);
    for (uint32_t i = 0; i < count; i++) {
        const struct kvl_key key = {.text = list[i]->key, .length = list[i]->length};

        kvl_hints_unblock(tier->instance->hints, kvl_hash_key(&key));
        free(list[i]);
    }
}

static void *fetch_main(void *arg)
{
    struct kvl_tier *tier = arg;
    struct request *list[REMOVE_BATCH];
    uint32_t count;

    pthread_mutex_lock(&tier->lock);
    for (;;) {
        const int may_remove = !tier->removing && tier->writing == 0;

        if (tier->stopping) {
            break;
        }
        if (tier->wanted.count == 0 && (tier->removed.count == 0 || !may_remove)) {
            pthread_cond_wait(&tier->asked, &tier->lock);
            continue;
        }
        count = may_remove ? queue_take(&tier->removed, list, REMOVE_BATCH) : 0;
        if (count > 0) {
            tier->removing = 1;
            pthread_mutex_unlock(&tier->lock);
            run_removes(tier, list, count);
            pthread_mutex_lock(&tier->lock);
            tier->removing = 0;
            pthread_cond_broadcast(&tier->asked);
            pthread_cond_broadcast(&tier->cold);
            continue;
        }
        count = queue_take(&tier->wanted, list, FETCH_BATCH);
        pthread_mutex_unlock(&tier->lock);
        while (count > 0) {
            count = run_kind(tier, list, count, list[0]->flags, list);
        }
        pthread_mutex_lock(&tier->lock);
    }
    pthread_mutex_unlock(&tier->lock);
    return NULL;
}

int kvl_tier_fetch(struct kvl_tier *tier, const struct kvl_key *key, uint32_t flags,
                   kvl_fetch_fn fn, void *ctx)
{
    struct request *request;
    int r = 0;

    if (tier == NULL || !((flags & KVL_FETCH_HELD) != 0 ? tier->fetches_held : tier->fetches)) {
        return -ENOENT;
    }
    request = new_request(key, flags & (KVL_FETCH_LOOKUP | KVL_FETCH_HELD), fn, ctx);
    if (request == NULL) {
        return -ENOMEM;
    }
    pthread_mutex_lock(&tier->lock);
    if (tier->stopping) {
        r = -ECANCELED;
    } else if (tier->wanted.count >= QUEUE_MAX) {
        r = -EAGAIN;
    } else {
        queue_add(&tier->wanted, request);
        pthread_cond_signal(&tier->asked);
    }
    pthread_mutex_unlock(&tier->lock);
    if (r < 0) {
        free(request);
    }
    return r;
}

void kvl_tier_removed(struct kvl_tier *tier, const struct kvl_key *key)
{
    struct request *request;

    if (tier == NULL || !tier->writes) {
        return;
    }
    request = new_request(key, 0, NULL, NULL);
    pthread_mutex_lock(&tier->lock);
    if (request != NULL && !tier->stopping) {
        kvl_hints_block(tier->instance->hints, kvl_hash_key(key));
        request->number = ++tier->last_remove;
        queue_add(&tier->removed, request);
        request = NULL;
        pthread_cond_signal(&tier->asked);
    }
    pthread_mutex_unlock(&tier->lock);
    free(request);
}

/* ---- writing ---- */

static uint32_t tier_mask(const struct kvl_instance *instance)
{
    uint32_t mask = 0;

    for (uint32_t i = 0; i < instance->route.count; i++) {
        const struct kvl_backend *backend = instance->route.backends[i];

        mask |= (uint32_t)(kvl_drive_can(backend, KVL_CAP_WRITE) &&
                           kvl_backend_takes(backend, KVL_MEM_HOST))
                << i;
    }
    return mask & kvl_drive_below(instance);
}

/* Sends leased chunks to all tiers and waits. */
static void write_cold(struct kvl_tier *tier, const struct kvl_store_cold *cold, uint32_t count,
                       int *written_out)
{
    struct kvl_instance *instance = tier->instance;
    const uint32_t mask = tier_mask(instance);
    struct kvl_chunk chunks[COLD_BATCH];
    const struct kvl_batch batch = {.size = sizeof(batch), .count = count, .chunks = chunks};
    struct kvl_op *op;

    for (uint32_t i = 0; i < count; i++) {
        chunks[i] = (struct kvl_chunk){.key = cold[i].key};
        written_out[i] = 0;
    }
    if (mask == 0 ||
        kvl_op_create(instance->flights, KVL_OP_SAVE, &batch, NULL,
                      kvl_now_ms() + atomic_load(&instance->default_deadline_ms), &op) < 0) {
        return;
    }
    for (uint32_t i = 0; i < count; i++) {
        struct kvl_op_item *item = kvl_op_add(op, &batch, i);

        item->status = 0;
        item->want = mask;
    }
    kvl_drive_spread(instance, op, KVL_VERB_WRITE, 0);
    if (kvl_drive(instance, op, KVL_NEVER) == 0) {
        for (uint32_t i = 0; i < count; i++) {
            written_out[i] = op->items[i].location != KVL_LOCATION_NONE;
        }
    }
    kvl_op_destroy(op);
}

/* @return the newest remove that is older than what is written now. */
static uint64_t begin_writing(struct kvl_tier *tier)
{
    uint64_t number;

    pthread_mutex_lock(&tier->lock);
    /* Removes run only between writes; a writer that never rests would let them pile up. */
    while (!tier->stopping && (tier->removing || tier->removed.count >= REMOVE_BATCH)) {
        pthread_cond_broadcast(&tier->asked);
        pthread_cond_wait(&tier->cold, &tier->lock);
    }
    tier->writing++;
    number = tier->last_remove;
    pthread_mutex_unlock(&tier->lock);
    return number;
}

/* What was to be removed has been overwritten: the remove, running later, would take the new bytes
 * for the old ones. One that came while we wrote means ours and stays. */
static void forget_removes(struct kvl_tier *tier, const struct kvl_key *key, uint64_t number)
{
    struct request **at;

    pthread_mutex_lock(&tier->lock);
    at = &tier->removed.first;
    while (*at != NULL && (*at)->number <= number) {
        struct request *request = *at;

        if (request->length != key->length || memcmp(request->key, key->text, key->length) != 0) {
            at = &request->next;
            continue;
        }
        *at = request->next;
        if (tier->removed.last == &request->next) {
            tier->removed.last = at;
        }
        tier->removed.count--;
        kvl_hints_unblock(tier->instance->hints, kvl_hash_key(key));
        free(request);
    }
    pthread_mutex_unlock(&tier->lock);
}

static void end_writing(struct kvl_tier *tier)
{
    pthread_mutex_lock(&tier->lock);
    tier->writing--;
    pthread_cond_broadcast(&tier->asked);
    pthread_mutex_unlock(&tier->lock);
}

/* @return chunks that were taken; 0 = nothing to do. */
static uint32_t write_some(struct kvl_tier *tier, int all)
{
    struct kvl_store *store = tier->instance->store;
    struct kvl_store_cold cold[COLD_BATCH];
    int written[COLD_BATCH];
    uint64_t number;
    uint32_t count;

    number = begin_writing(tier);
    count = kvl_store_take_cold(store, cold, COLD_BATCH, COLD_BYTES, all);
    if (count > 0) {
        write_cold(tier, cold, count, written);
    }
    for (uint32_t i = 0; i < count; i++) {
        if (written[i]) {
            forget_removes(tier, &cold[i].key, number);
            atomic_fetch_add(&tier->written, 1);
            atomic_fetch_add(&tier->written_bytes, cold[i].view.length);
        } else {
            atomic_fetch_add(&tier->write_failures, 1);
        }
        kvl_store_give_cold(store, &cold[i], written[i]);
    }
    end_writing(tier);
    return count;
}

static void *write_main(void *arg)
{
    struct kvl_tier *tier = arg;

    pthread_mutex_lock(&tier->lock);
    while (!tier->stopping) {
        if (!tier->pressed) {
            pthread_cond_wait(&tier->cold, &tier->lock);
            continue;
        }
        tier->pressed = 0;
        pthread_mutex_unlock(&tier->lock);
        while (write_some(tier, 0) > 0) {
        }
        pthread_mutex_lock(&tier->lock);
    }
    pthread_mutex_unlock(&tier->lock);
    return NULL;
}

/* A remove that is forgotten would let old bytes come back with the next start. */
static void finish_removes(struct kvl_tier *tier, uint64_t deadline_ms)
{
    const struct timespec until = {.tv_sec = (time_t)(deadline_ms / 1000),
                                   .tv_nsec = (long)(deadline_ms % 1000) * 1000000};
    int r = 0;

    pthread_mutex_lock(&tier->lock);
    while (r == 0 && (tier->removed.count > 0 || tier->removing)) {
        pthread_cond_broadcast(&tier->asked);
        r = pthread_cond_clockwait(&tier->cold, &tier->lock, CLOCK_MONOTONIC, &until);
    }
    pthread_mutex_unlock(&tier->lock);
}

void kvl_tier_flush(struct kvl_tier *tier, uint64_t deadline_ms)
{
    if (tier == NULL || !tier->writes) {
        return;
    }
    while (kvl_now_ms() < deadline_ms && write_some(tier, 1) > 0) {
    }
    finish_removes(tier, deadline_ms);
}

/* ---- what the store tells, with its lock held ---- */

static void on_pressure(void *ctx)
{
    struct kvl_tier *tier = ctx;

    pthread_mutex_lock(&tier->lock);
    if (!tier->pressed) {
        tier->pressed = 1;
        pthread_cond_signal(&tier->cold);
    }
    pthread_mutex_unlock(&tier->lock);
}

static void on_lost(void *ctx, const struct kvl_key *key)
{
    kvl_tier_removed(ctx, key);
}

/* ---- life ---- */

static int start_threads(struct kvl_tier *tier)
{
    int r = 0;

    if (tier->writes) {
        r = kvl_thread_create("kvl-tier-write", write_main, tier, &tier->writer);
        tier->has_writer = r == 0;
    }
    for (int i = 0; r == 0 && i < FETCHERS; i++) {
        r = kvl_thread_create("kvl-tier-fetch", fetch_main, tier, &tier->fetchers[i]);
        tier->fetcher_count += r == 0;
    }
    return r;
}

int kvl_tier_start(struct kvl_instance *instance, struct kvl_tier **tier_out)
{
    const int serves = kvl_drive_any(instance, KVL_CAP_SERVE);
    const int fetches = serves && kvl_drive_any(instance, KVL_CAP_READ);
    const int writes = tier_mask(instance) != 0;
    struct kvl_tier *tier;
    int r;

    if (!fetches && !writes) {
        return 0;
    }
    tier = calloc(1, sizeof(*tier));
    if (tier == NULL) {
        return -ENOMEM;
    }
    tier->instance = instance;
    tier->writes = writes;
    tier->fetches = fetches;
    tier->fetches_held = fetches && kvl_drive_any(instance, KVL_CAP_READ | KVL_CAP_HELD);
    pthread_mutex_init(&tier->lock, NULL);
    pthread_cond_init(&tier->cold, NULL);
    pthread_cond_init(&tier->asked, NULL);
    queue_init(&tier->wanted);
    queue_init(&tier->removed);
    r = start_threads(tier);
    if (r < 0) {
        kvl_tier_stop(tier);
        kvl_tier_destroy(tier);
        return r;
    }
    if (writes) {
        const struct kvl_store_events events = {tier, on_pressure, on_lost};

        kvl_store_listen(instance->store, &events);
    }
    *tier_out = tier;
    return 0;
}

void kvl_tier_stop(struct kvl_tier *tier)
{
    struct request *request;

    if (tier == NULL) {
        return;
    }
    kvl_store_listen(tier->instance->store, NULL);
    pthread_mutex_lock(&tier->lock);
    tier->stopping = 1;
    pthread_cond_broadcast(&tier->cold);
    pthread_cond_broadcast(&tier->asked);
    pthread_mutex_unlock(&tier->lock);
    if (tier->has_writer) {
        pthread_join(tier->writer, NULL);
    }
    for (int i = 0; i < tier->fetcher_count; i++) {
        pthread_join(tier->fetchers[i], NULL);
    }
    while (queue_take(&tier->wanted, &request, 1) > 0) {
        request->fn(request->ctx, -ECANCELED);
        free(request);
    }
    while (queue_take(&tier->removed, &request, 1) > 0) {
        free(request);
    }
}

void kvl_tier_destroy(struct kvl_tier *tier)
{
    if (tier == NULL) {
        return;
    }
    pthread_mutex_destroy(&tier->lock);
    pthread_cond_destroy(&tier->cold);
    pthread_cond_destroy(&tier->asked);
    free(tier);
}

void kvl_tier_stats(struct kvl_tier *tier, kvl_stat_fn fn, void *ctx)
{
    if (tier == NULL) {
        return;
    }
    fn(ctx, "tier_written", atomic_load(&tier->written));
    fn(ctx, "tier_written_bytes", atomic_load(&tier->written_bytes));
    fn(ctx, "tier_write_failures", atomic_load(&tier->write_failures));
    fn(ctx, "tier_fetched", atomic_load(&tier->fetched));
    fn(ctx, "tier_fetch_hits", atomic_load(&tier->fetch_hits));
    fn(ctx, "tier_removes", atomic_load(&tier->removes));
}
