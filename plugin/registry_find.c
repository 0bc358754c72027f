/* SPDX-License-Identifier: Apache-2.0 */
/* Lookups. They read the index and the holders' records without a lock, and take the membership
 * lock only to name those who are in the answer. */
#include "registry_tree.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* What a lookup knows when it begins. */
struct asker {
    const struct kvl_registry *registry;
    uint64_t birth; /* who is younger is left out: he held nothing when the call began */
    uint64_t now; /* 0 when nobody can be silent */
    uint32_t flags; /* KVL_FIND_ */
    uint32_t excluded; /* number of an instance, or KVL_POOL_NONE */
    uint32_t own; /* likewise */
    uint64_t own_ip_hash; /* 0 = not known */
    int64_t worker_id;
};

static struct kvl_reg_worker *worker_of(const struct kvl_registry *registry,
                                        const struct kvl_reg_holder *holder)
{
    return kvl_pool_at(&registry->worker_pool, atomic_load(&holder->worker));
}

static uint32_t instance_number(const struct kvl_registry *registry, struct kvl_text name)
{
    const struct kvl_reg_instance *instance =
        name.length > 0 ? kvl_reg_find_instance(registry, name) : NULL;

    return instance != NULL ? instance->number : KVL_POOL_NONE;
}

static void asker_init(struct asker *asker, struct kvl_registry *registry)
{
    *asker = (struct asker){
        .registry = registry,
        .excluded = KVL_POOL_NONE,
        .own = KVL_POOL_NONE,
    };
    if (atomic_load_explicit(&registry->worker_ttl_ms, memory_order_relaxed) > 0) {
        asker->now = kvl_reg_now(registry);
    }
    asker->birth = atomic_load(&registry->births);
}

/* @return 0; -EINVAL. */
static int asker_take(struct asker *asker, struct kvl_registry *registry,
                      const struct kvl_find *query)
{
    struct kvl_find own = {0};

    if (query->size < offsetof(struct kvl_find, exclude_instance)) {
        return -EINVAL;
    }
    memcpy(&own, query, query->size < sizeof(own) ? query->size : sizeof(own));
    asker_init(asker, registry);
    asker->flags = own.flags;
    asker->worker_id = own.worker_id;
    asker->own_ip_hash = own.own_ip.length > 0 ? kvl_reg_hash_text(own.own_ip) : 0;
    if (own.exclude_instance.length > 0 || own.own_instance.length > 0) {
        pthread_rwlock_rdlock(&registry->members);
        asker->excluded = instance_number(registry, own.exclude_instance);
        asker->own = instance_number(registry, own.own_instance);
        /* Numbers are used again: whoever has one of them from now on is younger than this. */
        asker->birth = atomic_load(&registry->births);
        pthread_rwlock_unlock(&registry->members);
    }
    return 0;
}

static bool is_silent(const struct asker *asker, const struct kvl_reg_holder *holder)
{
    return asker->now > 0 &&
           kvl_reg_is_silent(asker->registry, worker_of(asker->registry, holder), asker->now);
}

static bool is_usable(const struct asker *asker, const struct kvl_reg_holder *holder)
{
    if (atomic_load(&holder->birth) > asker->birth) {
        return false;
    }
    if (asker->excluded != KVL_POOL_NONE && atomic_load(&holder->instance) == asker->excluded) {
        return false;
    }
    if ((asker->flags & KVL_FIND_WITH_URL) != 0 && !atomic_load(&holder->has_url)) {
        return false;
    }
    return !is_silent(asker, holder);
}

static int accept_holder(void *ctx, uint32_t holder)
{
    const struct asker *asker = ctx;

    return is_usable(asker, kvl_reg_holder(asker->registry, holder));
}

int kvl_registry_has(struct kvl_registry *registry, const struct kvl_chunk_id *id)
{
    return kvl_index_has(registry->index, id);
}

/* ---- find ---- */

/* A run with what decides its place, read once. */
struct candidate {
    uint32_t holder;
    uint32_t length;
    uint32_t other_worker; /* 1 = asked for the same worker id and this is another */
    uint32_t distance;
    uint64_t order[3];
};

static uint32_t distance_of(const struct asker *asker, const struct kvl_reg_holder *holder)
{
    if (asker->own != KVL_POOL_NONE && atomic_load(&holder->instance) == asker->own) {
        return KVL_DISTANCE_OWN;
    }
    if (asker->own_ip_hash != 0 && atomic_load(&holder->ip_hash) == asker->own_ip_hash) {
        return KVL_DISTANCE_HOST;
    }
    return KVL_DISTANCE_PEER;
}

static void make_candidate(const struct asker *asker, const struct kvl_index_run *run,
                           struct candidate *out)
{
    const struct kvl_reg_holder *holder = kvl_reg_holder(asker->registry, run->holder);

    out->holder = run->holder;
    out->length = run->length;
    out->other_worker = (asker->flags & KVL_FIND_SAME_WORKER) != 0 &&
                        atomic_load(&holder->worker_id) != asker->worker_id;
    out->distance = distance_of(asker, holder);
    out->order[0] = atomic_load(&holder->instance_order);
    out->order[1] = atomic_load(&holder->worker_order);
    out->order[2] = atomic_load(&holder->location_order);
}

static bool is_better(const struct asker *asker, const struct candidate *a,
                      const struct candidate *b)
{
    if (a->other_worker != b->other_worker) {
        return a->other_worker < b->other_worker;
    }
    if (a->length != b->length) {
        return a->length > b->length;
    }
    if ((asker->flags & KVL_FIND_NEAR) != 0 && a->distance != b->distance) {
        return a->distance < b->distance;
    }
    for (int i = 0; i < 2; i++) {
        if (a->order[i] != b->order[i]) {
            return a->order[i] < b->order[i];
        }
    }
    return a->order[2] < b->order[2];
}

/* Restores the heap below `at`. Most callers want the first one or two of many. */
static void sift(const struct asker *asker, struct candidate *heap, uint32_t count, uint32_t at)
{
    for (;;) {
        uint32_t best = at;
        struct candidate moved;

        for (uint32_t child = 2 * at + 1; child <= 2 * at + 2 && child < count; child++) {
            best = is_better(asker, &heap[child], &heap[best]) ? child : best;
        }
        if (best == at) {
            return;
        }
        moved = heap[at];
        heap[at] = heap[best];
        heap[best] = moved;
        at = best;
    }
}

/* Under the membership lock. @return false when the holder has gone meanwhile. */
static bool write_run(const struct asker *asker, const struct candidate *candidate,
                      struct kvl_run *out)
{
    const struct kvl_reg_holder *holder = kvl_reg_holder(asker->registry, candidate->holder);
    const struct kvl_reg_worker *worker;

    if (!kvl_reg_holder_is(holder, asker->birth)) {
        return false;
    }
    worker = worker_of(asker->registry, holder);
    kvl_reg_copy_name(out->instance, worker->instance->name);
    kvl_reg_copy_name(out->location, holder->location->name);
    kvl_reg_copy_name(out->peer_url, worker->peer_url);
    kvl_reg_copy_name(out->ip, worker->ip);
    out->worker_id = worker->worker_id;
    out->incarnation = worker->incarnation;
    out->length = candidate->length;
    out->distance = candidate->distance;
    return true;
}

/* Takes the best ones off the heap; *total becomes less by those that have gone. */
static uint32_t write_runs(struct kvl_registry *registry, const struct asker *asker,
                           struct candidate *heap, uint32_t *total, struct kvl_run *runs_out,
                           uint32_t room)
{
    uint32_t count = *total;
    uint32_t written = 0;

    for (uint32_t i = count / 2; i-- > 0;) {
        sift(asker, heap, count, i);
    }
    pthread_rwlock_rdlock(&registry->members);
    while (count > 0 && written < room) {
        if (write_run(asker, &heap[0], &runs_out[written])) {
            written++;
        } else {
            --*total;
        }
        heap[0] = heap[--count];
        sift(asker, heap, count, 0);
    }
    pthread_rwlock_unlock(&registry->members);
    return written;
}

#define CANDIDATES_ON_STACK 64u

int kvl_registry_find(struct kvl_registry *registry, const struct kvl_find *query,
                      struct kvl_run *runs_out, uint32_t room, uint32_t *total_out)
{
    struct candidate on_stack[CANDIDATES_ON_STACK];
    struct candidate *heap = on_stack;
    struct kvl_index_run *runs = NULL;
    struct asker asker;
    uint32_t total;
    int r = asker_take(&asker, registry, query);

    if (r == 0 && query->count > 0) {
        r = kvl_index_runs(registry->index, query->ids, query->count, accept_holder, &asker, &runs);
    }
    if (r < 0) {
        return r;
    }
    total = (uint32_t)r;
    if (total > CANDIDATES_ON_STACK) {
        heap = malloc(total * sizeof(*heap));
        if (heap == NULL) {
            free(runs);
            return -ENOMEM;
        }
    }
    for (uint32_t i = 0; i < total; i++) {
        make_candidate(&asker, &runs[i], &heap[i]);
    }
    free(runs);
    r = (int)write_runs(registry, &asker, heap, &total, runs_out, room);
    if (heap != on_stack) {
        free(heap);
    }
    if (total_out != NULL) {
        *total_out = total;
    }
    return r;
}

/* ---- prefix ---- */

static uint32_t group_of(void *ctx, uint32_t index)
{
    const struct asker *asker = ctx;
    const struct kvl_reg_holder *holder = kvl_reg_holder(asker->registry, index);

    return is_usable(asker, holder) ? atomic_load(&holder->instance) : KVL_INDEX_NONE;
}

static int stands_before(void *ctx, uint32_t a, uint32_t b)
{
    const struct asker *asker = ctx;
    const struct kvl_reg_holder *one = kvl_reg_holder(asker->registry, a);
    const struct kvl_reg_holder *two = kvl_reg_holder(asker->registry, b);
    const uint64_t order_one = atomic_load(&one->worker_order);
    const uint64_t order_two = atomic_load(&two->worker_order);

    return order_one != order_two
               ? order_one < order_two
               : atomic_load(&one->location_order) < atomic_load(&two->location_order);
}

/* An instance with the order that decides between equally long ones. */
struct ranked {
    struct kvl_index_prefix found;
    uint64_t order;
};

static int compare_ranked(const void *left, const void *right)
{
    const struct ranked *a = left;
    const struct ranked *b = right;

    if (a->found.length != b->found.length) {
        return a->found.length > b->found.length ? -1 : 1;
    }
    return a->order == b->order ? 0 : a->order < b->order ? -1 : 1;
}

/* @return entries written; -ESTALE when one of them has gone meanwhile. */
static int write_prefixes(struct kvl_registry *registry, const struct asker *asker,
                          const struct ranked *ranked, uint32_t count, struct kvl_prefix *out)
{
    int r = (int)count;

    pthread_rwlock_rdlock(&registry->members);
    for (uint32_t i = 0; i < count; i++) {
        const struct kvl_reg_holder *holder = kvl_reg_holder(registry, ranked[i].found.holder);

        if (!kvl_reg_holder_is(holder, asker->birth)) {
            r = -ESTALE;
            break;
        }
        kvl_reg_copy_name(out[i].instance, worker_of(registry, holder)->instance->name);
        kvl_reg_copy_name(out[i].location, holder->location->name);
        out[i].length = ranked[i].found.length;
        out[i].reserved = 0;
    }
    pthread_rwlock_unlock(&registry->members);
    return r;
}

static int prefix_once(struct kvl_registry *registry, const struct kvl_chunk_id *ids,
                       uint32_t count, struct kvl_prefix *out, uint32_t room)
{
    struct kvl_index_prefix *found = NULL;
    struct ranked *ranked;
    struct asker asker;
    const struct kvl_index_grouping grouping = {
        .ctx = &asker,
        .group = group_of,
        .before = stands_before,
    };
    int r;

    asker_init(&asker, registry);
    r = kvl_index_prefixes(registry->index, ids, count, &grouping, &found);
    if (r <= 0) {
        return r;
    }
    ranked = malloc((size_t)r * sizeof(*ranked));
    if (ranked == NULL) {
        free(found);
        return -ENOMEM;
    }
    for (int i = 0; i < r; i++) {
        ranked[i].found = found[i];
        ranked[i].order = atomic_load(&kvl_reg_holder(registry, found[i].holder)->instance_order);
    }
    free(found);
    qsort(ranked, (size_t)r, sizeof(*ranked), compare_ranked);
    r = write_prefixes(registry, &asker, ranked, (uint32_t)r < room ? (uint32_t)r : room, out);
    free(ranked);
    return r;
}

int kvl_registry_prefix(struct kvl_registry *registry, const struct kvl_chunk_id *ids,
                        uint32_t count, struct kvl_prefix *out, uint32_t room)
{
    int r;

    if (count == 0 || room == 0) {
        return 0;
    }
    do {
        r = prefix_once(registry, ids, count, out, room);
    } while (r == -ESTALE); /* each time somebody else got further */
    return r;
}

/* ---- explain ---- */

/* Counts the holders of one id. @return 1 when one of them is usable; 0; -ENOMEM. */
static int explain_id(struct kvl_registry *registry, const struct asker *asker,
                      const struct kvl_chunk_id *id, struct kvl_explain *out)
{
    uint32_t *holders = NULL;
    int count = kvl_index_holders(registry->index, id, &holders);
    int usable = 0;

    out->holders = 0;
    out->excluded = 0;
    out->without_url = 0;
    out->silent = 0;
    for (int i = 0; i < count; i++) {
        const struct kvl_reg_holder *holder = kvl_reg_holder(registry, holders[i]);

        if (atomic_load(&holder->birth) > asker->birth) {
            continue;
        }
        out->holders++;
        out->excluded += atomic_load(&holder->instance) == asker->excluded;
        out->without_url += !atomic_load(&holder->has_url);
        out->silent += is_silent(asker, holder);
        usable = usable || is_usable(asker, holder);
    }
    free(holders);
    return count < 0 ? count : usable;
}

static void explain_workers(struct kvl_registry *registry, struct kvl_explain *out)
{
    const uint64_t now = kvl_reg_now(registry);

    pthread_rwlock_rdlock(&registry->members);
    for (const struct kvl_reg_instance *instance = registry->first; instance != NULL;
         instance = instance->after) {
        for (const struct kvl_reg_worker *worker = instance->first; worker != NULL;
             worker = worker->after) {
            out->workers++;
            out->syncing += kvl_reg_sync_state(registry, worker, now) == KVL_SYNC_SYNCING;
            out->never_synced += !atomic_load(&worker->has_keys);
        }
    }
    pthread_rwlock_unlock(&registry->members);
}

int kvl_registry_explain(struct kvl_registry *registry, const struct kvl_find *query,
                         struct kvl_explain *out)
{
    struct kvl_explain explain = {.size = sizeof(explain)};
    struct kvl_index_stats stats;
    struct asker asker;
    int r = asker_take(&asker, registry, query);

    if (r < 0 || out->size < sizeof(uint32_t)) {
        return -EINVAL;
    }
    while (explain.known < query->count) {
        r = explain_id(registry, &asker, &query->ids[explain.known], &explain);
        if (r <= 0) {
            break;
        }
        explain.known++;
    }
    if (r < 0) {
        return r;
    }
    if (explain.known == query->count) { /* everything is known: there is no such id */
        explain.holders = explain.excluded = explain.without_url = explain.silent = 0;
    }
    explain_workers(registry, &explain);
    kvl_index_get_stats(registry->index, &stats);
    explain.keys = stats.entries;
    explain.size = out->size < sizeof(explain) ? out->size : sizeof(explain);
    memcpy(out, &explain, explain.size);
    return 0;
}
