/* SPDX-License-Identifier: Apache-2.0 */
#include "flight.h"

#include <errno.h>
#include <stdlib.h>

#include "route.h"

/* What a flight keeps of each of its chunks. */
struct cargo {
    struct kvl_chunk chunk; /* key in `key`; read: what is expected, until a target is given */
    char key[KVL_KEY_MAX];
    uint64_t hash;
    uint64_t slot; /* read: room in the store */
    struct kvl_view view; /* write: lease; read: lease on what came */
    uint32_t epoch; /* of the key in the store when it was asked for */
    uint32_t item; /* in op->items, while there is an op */
    int32_t status;
    uint8_t has_slot;
    uint8_t has_view;
};

struct kvl_flight {
    uint64_t cookie;
    enum kvl_op_kind kind;
    struct kvl_backend *backend; /* borrowed, outlives us */
    struct kvl_op *op; /* NULL once cut off */
    struct kvl_flight *next; /* of the same op */
    struct kvl_flight *prev;
    uint32_t count;
    int32_t status; /* list, probe */
    int is_landing; /* a completion is being worked on */
    int is_direct; /* read: into the engine's own memory */
    struct cargo cargo[];
};

/* A flight that was cut off, for telling its backend. */
struct cut {
    struct kvl_backend *backend;
    uint64_t cookie;
};

int kvl_flights_create(struct kvl_store *store, struct kvl_hints *hints, const struct kvl_log *log,
                       struct kvl_flights **flights_out)
{
    struct kvl_flights *flights = calloc(1, sizeof(*flights));

    if (flights == NULL) {
        return -ENOMEM;
    }
    pthread_mutex_init(&flights->lock, NULL);
    kvl_cond_init(&flights->idle);
    kvl_table_init(&flights->ops);
    kvl_table_init(&flights->flights);
    flights->store = store;
    flights->hints = hints;
    flights->log = log;
    *flights_out = flights;
    return 0;
}

uint64_t kvl_flights_destroy(struct kvl_flights *flights)
{
    struct kvl_flight *flight;
    uint64_t lost = 0;

    if (flights == NULL) {
        return 0;
    }
    while ((flight = kvl_table_any(&flights->flights)) != NULL) {
        /* Slots and leases stay out on purpose: the store then keeps its memory mapped. */
        kvl_table_drop(&flights->flights, flight->cookie);
        free(flight);
        lost++;
    }
    kvl_table_fini(&flights->flights);
    kvl_table_fini(&flights->ops);
    pthread_cond_destroy(&flights->idle);
    pthread_mutex_destroy(&flights->lock);
    free(flights);
    return lost;
}

void kvl_flights_get_stats(struct kvl_flights *flights, struct kvl_flight_stats *stats_out)
{
    pthread_mutex_lock(&flights->lock);
    stats_out->ops = flights->ops.count;
    stats_out->flights = flights->flights.count;
    stats_out->quarantined = flights->quarantined;
    pthread_mutex_unlock(&flights->lock);
}

/* ---- take-off ---- */

static void link_flight(struct kvl_op *op, struct kvl_flight *flight)
{
    flight->op = op;
    flight->prev = NULL;
    flight->next = op->first;
    if (op->first != NULL) {
        op->first->prev = flight;
    }
    op->first = flight;
    op->pending++;
}

/* The lock is held. */
static void unlink_flight(struct kvl_flight *flight)
{
    struct kvl_op *op = flight->op;

    if (op == NULL) {
        return;
    }
    if (flight->prev != NULL) {
        flight->prev->next = flight->next;
    } else {
        op->first = flight->next;
    }
    if (flight->next != NULL) {
        flight->next->prev = flight->prev;
    }
    flight->op = NULL;
    op->pending--;
}

static void load_cargo(struct kvl_flight *flight, struct kvl_op *op, const uint32_t *items)
{
    for (uint32_t i = 0; i < flight->count; i++) {
        struct cargo *cargo = &flight->cargo[i];
        struct kvl_op_item *item = &op->items[items[i]];

        cargo->chunk = item->chunk;
        memcpy(cargo->key, item->chunk.key.text, item->chunk.key.length);
        cargo->chunk.key.text = cargo->key;
        cargo->hash = item->hash;
        cargo->epoch =
            op->kind == KVL_OP_LOAD ? kvl_store_epoch(op->flights->store, item->hash) : 0;
        cargo->item = items[i];
        item->is_flying = 1;
        item->tried |= 1u << flight->backend->index;
    }
}

/* Leases what is to be sent. Chunks evicted since they were saved are left out. */
static void pin_cargo(struct kvl_flights *flights, struct kvl_flight *flight)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < flight->count; i++) {
        struct cargo *cargo = &flight->cargo[i];

        if (kvl_store_pin(flights->store, &cargo->chunk.key, &cargo->view) < 0) {
            continue;
        }
        cargo->has_view = 1;
        cargo->chunk.bytes = cargo->view.length;
        cargo->chunk.attrs = cargo->view.attrs;
        cargo->chunk.checksum = cargo->view.checksum;
        cargo->chunk.flags = cargo->view.checksum != 0 ? KVL_CHUNK_HAS_CHECKSUM : 0;
        if (kept != i) {
            flight->cargo[kept] = *cargo;
            flight->cargo[kept].chunk.key.text = flight->cargo[kept].key;
        }
        kept++;
    }
    flight->count = kept;
}

static int submit_batch(struct kvl_flight *flight, const struct kvl_batch *batch)
{
    const struct kvl_backend_ops *ops = &flight->backend->module.ops;
    void *self = flight->backend->self;

    switch (flight->kind) {
    case KVL_OP_LOOKUP:
        return ops->lookup(self, batch);
    case KVL_OP_LOAD:
        return ops->read(self, batch);
    case KVL_OP_SAVE:
        return ops->write(self, batch);
    case KVL_OP_REMOVE:
        return ops->remove(self, batch);
    case KVL_OP_LIST:
        return ops->list(self, batch->cookie, batch->deadline_ms);
    case KVL_OP_PROBE:
        return ops->probe(self, batch->cookie, batch->deadline_ms);
    }
    return -ENOTSUP;
}

/* Runs of one chunk as the backend sees them: the lease's bytes, or the engine's own memory. */
static uint32_t put_runs(const struct kvl_flight *flight, uint32_t i, struct kvl_sg *sg)
{
    const struct cargo *cargo = &flight->cargo[i];
    const struct kvl_op *op = flight->op;
    uint32_t first;

    if (flight->kind == KVL_OP_SAVE) {
        *sg = (struct kvl_sg){
            .mem = KVL_MEM_HOST,
            .addr = (uint64_t)(uintptr_t)cargo->view.data,
            .length = cargo->view.length,
            .stride = cargo->view.length,
            .count = 1,
            .device = KVL_DEVICE_HOST,
        };
        return 1;
    }
    first = op->sg_first[cargo->item];
    memcpy(sg, &op->sg[first], (op->sg_first[cargo->item + 1] - first) * sizeof(*sg));
    return op->sg_first[cargo->item + 1] - first;
}

static uint32_t count_runs(const struct kvl_flight *flight)
{
    uint32_t runs = 0;

    for (uint32_t i = 0; i < flight->count; i++) {
        const uint32_t item = flight->cargo[i].item;

        runs += flight->kind == KVL_OP_SAVE
                    ? 1
                    : flight->op->sg_first[item + 1] - flight->op->sg_first[item];
    }
    return runs;
}

/* Builds the record the backend sees. `cookie` is a copy: once submitted the flight may be gone. */
static int submit(struct kvl_flight *flight, uint64_t cookie, uint64_t deadline_ms)
{
    const uint32_t count = flight->count;
    const int has_runs = flight->kind == KVL_OP_SAVE || flight->is_direct;
    struct kvl_chunk *chunks = malloc((count + 1) * sizeof(*chunks));
    struct kvl_sg *sg = has_runs ? malloc((count_runs(flight) + 1) * sizeof(*sg)) : NULL;
    uint32_t *sg_first = has_runs ? calloc(count + 1, sizeof(*sg_first)) : NULL;
    struct kvl_batch batch = {
        .size = sizeof(batch),
        .count = count,
        .cookie = cookie,
        .deadline_ms = deadline_ms,
        .chunks = chunks,
        .sg = sg,
        .sg_first = sg_first,
    };
    int r = -ENOMEM;

    if (chunks != NULL && (!has_runs || (sg != NULL && sg_first != NULL))) {
        for (uint32_t i = 0; i < count; i++) {
            chunks[i] = flight->cargo[i].chunk;
            if (has_runs) {
                sg_first[i + 1] = sg_first[i] + put_runs(flight, i, &sg[sg_first[i]]);
            }
        }
        r = submit_batch(flight, &batch);
    }
    free(chunks);
    free(sg);
    free(sg_first);
    return r;
}

static void free_flight(struct kvl_flights *flights, struct kvl_flight *flight)
{
    for (uint32_t i = 0; i < flight->count; i++) {
        if (flight->cargo[i].has_view) {
            kvl_store_release(flights->store, flight->cargo[i].view.lease);
        }
        if (flight->cargo[i].has_slot) {
            kvl_store_abort(flights->store, flight->cargo[i].slot);
        }
    }
    free(flight);
}

/* The flight is over and its op was told: takes it out of all books. The lock is held. */
static void retire(struct kvl_flights *flights, struct kvl_flight *flight)
{
    struct kvl_backend *backend = flight->backend;

    if (flight->op == NULL) {
        flights->quarantined--;
        atomic_fetch_sub_explicit(&backend->overdue, 1, memory_order_relaxed);
    }
    unlink_flight(flight);
    kvl_table_drop(&flights->flights, flight->cookie);
    atomic_fetch_sub_explicit(&backend->in_flight, 1, memory_order_relaxed);
    if (flights->flights.count == flights->quarantined) {
        pthread_cond_broadcast(&flights->idle);
    }
}

/* The backend refused: as if it had never been asked, except that it is not asked again. */
static void ground(struct kvl_flights *flights, struct kvl_flight *flight, uint64_t cookie)
{
    pthread_mutex_lock(&flights->lock);
    if (kvl_table_get(&flights->flights, cookie) != flight || flight->is_landing) {
        /* It refused and completed it as well: the completion was here first and ended it. */
        pthread_mutex_unlock(&flights->lock);
        return;
    }
    for (uint32_t i = 0; flight->op != NULL && i < flight->count; i++) {
        flight->op->items[flight->cargo[i].item].is_flying = 0;
    }
    retire(flights, flight);
    pthread_mutex_unlock(&flights->lock);
    free_flight(flights, flight);
}

/* Without a place of the engine's for each chunk they go into the store, like all others. */
static int all_have_runs(const struct kvl_op *op, const uint32_t *items, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (op->sg_first[items[i] + 1] == op->sg_first[items[i]]) {
            return 0;
        }
    }
    return 1;
}

int kvl_op_fly(struct kvl_op *op, struct kvl_backend *backend, const uint32_t *items,
               uint32_t count)
{
    struct kvl_flights *flights = op->flights;
    struct kvl_flight *flight;
    uint64_t cookie = 0;
    int r;

    flight = calloc(1, sizeof(*flight) + count * sizeof(flight->cargo[0]));
    if (flight == NULL) {
        return -ENOMEM;
    }
    flight->kind = op->kind;
    flight->backend = backend;
    flight->count = count;
    flight->is_direct = op->kind == KVL_OP_LOAD && kvl_backend_reads_direct(backend) &&
                        all_have_runs(op, items, count);
    load_cargo(flight, op, items);
    if (op->kind == KVL_OP_SAVE) {
        pin_cargo(flights, flight);
        if (flight->count == 0) {
            free(flight);
            return 0;
        }
    }
    pthread_mutex_lock(&flights->lock);
    r = kvl_table_add(&flights->flights, flight, &cookie);
    if (r == 0) {
        flight->cookie = cookie;
        link_flight(op, flight);
    }
    pthread_mutex_unlock(&flights->lock);
    if (r < 0) {
        free_flight(flights, flight);
        return r;
    }
    atomic_fetch_add_explicit(&backend->in_flight, 1, memory_order_relaxed);
    r = submit(flight, cookie, op->deadline_ms);
    if (r != 0) {
        ground(flights, flight, cookie);
        r = r > 0 ? -EPROTO : r;
    }
    return r;
}

/* ---- landing ---- */

static int cargo_status(const struct kvl_completion *done, uint32_t i)
{
    int status = done->status;

    if (done->item_status != NULL) {
        status = i < done->item_count ? done->item_status[i] : -EPROTO;
    }
    return status > 0 ? -EPROTO : status;
}

/* No lock is held: this may hash every byte. */
static void land_read(struct kvl_flights *flights, struct cargo *cargo)
{
    if (cargo->status == 0 && !cargo->has_slot) {
        cargo->status = -EPROTO; /* it says the bytes are here, but never asked where to put them */
    }
    if (!cargo->has_slot) {
        return;
    }
    cargo->has_slot = 0;
    if (cargo->status != 0) {
        kvl_store_abort(flights->store, cargo->slot);
        return;
    }
    cargo->status = kvl_store_commit_read(flights->store, cargo->slot, cargo->epoch, &cargo->view);
    cargo->has_view = cargo->status == 0;
}

static void land_cargo(struct kvl_flights *flights, struct kvl_flight *flight,
                       const struct kvl_completion *done)
{
    const uint32_t index = flight->backend->index;

    for (uint32_t i = 0; i < flight->count; i++) {
        struct cargo *cargo = &flight->cargo[i];

        cargo->status = cargo_status(done, i);
        if (flight->kind == KVL_OP_LOAD && !flight->is_direct) {
            land_read(flights, cargo);
            if (cargo->has_view && atomic_load(&flight->backend->put_to) == KVL_PUT_EVICTED) {
                kvl_store_mark_written(flights->store, cargo->view.lease);
            }
        }
        if (cargo->status == 0 && flight->kind != KVL_OP_REMOVE) {
            kvl_hints_publish(flights->hints, cargo->hash, index);
        } else if (cargo->status == 0 || cargo->status == -ENOENT || cargo->status == -ESTALE ||
                   cargo->status == -EBADMSG) {
            kvl_hints_withdraw(flights->hints, cargo->hash, index);
        } else {
            atomic_fetch_add_explicit(&flight->backend->failures, 1, memory_order_relaxed);
        }
    }
    kvl_store_trim(flights->store);
}

/* Tells the op, the lock is held. */
static void report(struct kvl_flight *flight)
{
    struct kvl_op *op = flight->op;

    if (op == NULL) {
        return;
    }
    op->outcome = flight->status;
    op->landed++;
    for (uint32_t i = 0; i < flight->count; i++) {
        struct cargo *cargo = &flight->cargo[i];
        struct kvl_op_item *item = &op->items[cargo->item];

        item->is_flying = 0;
        if (cargo->status == 0) {
            item->status = 0;
            item->location = (uint8_t)(KVL_LOCATION_BACKEND + flight->backend->index);
        } else {
            kvl_op_item_failed(item, cargo->status);
        }
        if (cargo->has_view && flight->kind == KVL_OP_LOAD) {
            item->view = cargo->view;
            item->has_view = 1;
            cargo->has_view = 0;
        }
    }
}

static void refuse_completion(struct kvl_flights *flights, struct kvl_backend *backend,
                              uint64_t cookie)
{
    if (atomic_fetch_add_explicit(&backend->bogus, 1, memory_order_relaxed) == 0) {
        kvl_warn(flights->log,
                 "core: backend '%s' completed batch %llx that is not in flight (twice, or never "
                 "submitted), ignored; further ones are only counted",
                 backend->name, (unsigned long long)cookie);
    }
}

void kvl_flights_complete(struct kvl_flights *flights, struct kvl_backend *backend,
                          const struct kvl_completion *done)
{
    struct kvl_flight *flight;

    pthread_mutex_lock(&flights->lock);
    flight = kvl_table_get(&flights->flights, done->cookie);
    if (flight != NULL && (flight->backend != backend || flight->is_landing)) {
        flight = NULL;
    }
    if (flight != NULL) {
        flight->is_landing = 1;
    }
    pthread_mutex_unlock(&flights->lock);
    if (flight == NULL) {
        refuse_completion(flights, backend, done->cookie);
        return;
    }

    if (flight->kind == KVL_OP_LIST || flight->kind == KVL_OP_PROBE) {
        flight->status = done->status > 0 ? -EPROTO : done->status;
    } else {
        land_cargo(flights, flight, done);
    }

    pthread_mutex_lock(&flights->lock);
    report(flight);
    if (flight->op == NULL) {
        atomic_fetch_add_explicit(&backend->late, 1, memory_order_relaxed);
    } else {
        pthread_cond_signal(&flight->op->changed);
    }
    retire(flights, flight);
    pthread_mutex_unlock(&flights->lock);
    free_flight(flights, flight);
}

static int target_fits(const struct kvl_chunk *expected, const struct kvl_chunk *found)
{
    const uint32_t sums = expected->flags & found->flags & KVL_CHUNK_HAS_CHECKSUM;

    if ((expected->bytes != 0 && expected->bytes != found->bytes) ||
        (sums != 0 && expected->checksum != found->checksum)) {
        return 0;
    }
    return (expected->flags & KVL_CHUNK_EXPECT_ATTRS) == 0 ||
           memcmp(&expected->attrs, &found->attrs, sizeof(found->attrs)) == 0;
}

int kvl_flights_read_target(struct kvl_flights *flights, uint64_t cookie, uint32_t item,
                            const struct kvl_chunk *found, void **addr_out)
{
    struct kvl_flight *flight;
    struct kvl_chunk chunk;
    char key[KVL_KEY_MAX];
    uint64_t slot;
    void *addr;
    int r = -ECANCELED;

    pthread_mutex_lock(&flights->lock);
    flight = kvl_table_get(&flights->flights, cookie);
    if (flight != NULL && flight->kind == KVL_OP_LOAD && !flight->is_direct &&
        !flight->is_landing && flight->op != NULL && item < flight->count &&
        !flight->cargo[item].has_slot) {
        chunk = *found;
        chunk.key.length = flight->cargo[item].chunk.key.length;
        memcpy(key, flight->cargo[item].key, chunk.key.length);
        r = target_fits(&flight->cargo[item].chunk, found) ? 0 : -EBADMSG;
        if ((chunk.flags & KVL_CHUNK_HAS_CHECKSUM) == 0) {
            /* what the engine knows is checked when the bytes are in */
            chunk.checksum = flight->cargo[item].chunk.checksum;
            chunk.flags |= flight->cargo[item].chunk.flags & KVL_CHUNK_HAS_CHECKSUM;
        }
    }
    pthread_mutex_unlock(&flights->lock);
    if (r < 0) {
        return r;
    }
    chunk.key.text = key;
    chunk.flags &= KVL_CHUNK_HAS_CHECKSUM;
    r = kvl_store_reserve(flights->store, &chunk, &slot, &addr);
    if (r < 0) {
        return r;
    }
    /* The flight cannot end while its backend is in here, but a broken one is not to hurt us. */
    pthread_mutex_lock(&flights->lock);
    flight = kvl_table_get(&flights->flights, cookie);
    if (flight != NULL && !flight->is_landing && !flight->cargo[item].has_slot) {
        flight->cargo[item].slot = slot;
        flight->cargo[item].has_slot = 1;
    } else {
        flight = NULL;
    }
    pthread_mutex_unlock(&flights->lock);
    if (flight == NULL) {
        kvl_store_abort(flights->store, slot);
        return -ECANCELED;
    }
    *addr_out = addr;
    return 0;
}

int kvl_flights_list_add(struct kvl_flights *flights, uint64_t cookie, const struct kvl_key *keys,
                         uint32_t count)
{
    struct kvl_flight *flight;
    int r = -ECANCELED;

    pthread_mutex_lock(&flights->lock);
    flight = kvl_table_get(&flights->flights, cookie);
    if (flight != NULL && flight->kind == KVL_OP_LIST && flight->op != NULL) {
        r = 0;
        for (uint32_t i = 0; r == 0 && i < count; i++) {
            r = kvl_op_list_key(flight->op, &keys[i]);
        }
    }
    pthread_mutex_unlock(&flights->lock);
    return r;
}

/* ---- cutting off ---- */

/* Cuts flights off and notes whom to tell. @return how many; some may be left. The lock is held. */
static uint32_t cut_some(struct kvl_flights *flights, struct kvl_op *op, struct cut *cuts,
                         uint32_t room)
{
    uint32_t count = 0;

    while (op->first != NULL && count < room) {
        struct kvl_flight *flight = op->first;

        cuts[count++] = (struct cut){flight->backend, flight->cookie};
        unlink_flight(flight);
        flights->quarantined++;
        atomic_fetch_add_explicit(&flight->backend->overdue, 1, memory_order_relaxed);
    }
    return count;
}

/* Cuts an op off from its flights and asks their backends to stop. No lock is held in the calls.
 * When this returns, reads straight into the engine's memory have stopped (KVL_CAP_DIRECT). */
static void cut_flights(struct kvl_flights *flights, struct kvl_op *op)
{
    struct cut cuts[64];
    uint32_t count;

    do {
        pthread_mutex_lock(&flights->lock);
        count = cut_some(flights, op, cuts, sizeof(cuts) / sizeof(cuts[0]));
        pthread_mutex_unlock(&flights->lock);
        for (uint32_t i = 0; i < count; i++) {
            if ((cuts[i].backend->caps & KVL_CAP_CANCEL) != 0) {
                cuts[i].backend->module.ops.cancel(cuts[i].backend->self, cuts[i].cookie);
            }
        }
    } while (count > 0);
}

void kvl_op_cut(struct kvl_op *op, int status)
{
    cut_flights(op->flights, op);
    for (uint32_t i = 0; i < op->item_count; i++) {
        if (op->items[i].status == -EINPROGRESS) {
            op->items[i].status = status;
            op->items[i].is_flying = 0;
        }
    }
}

int kvl_flights_cancel(struct kvl_flights *flights, uint64_t handle)
{
    struct kvl_op *op;

    pthread_mutex_lock(&flights->lock);
    op = kvl_table_get(&flights->ops, handle);
    if (op != NULL) {
        op->cancelled = 1;
        pthread_cond_broadcast(&op->changed);
    }
    pthread_mutex_unlock(&flights->lock);
    return op != NULL ? 0 : -EINVAL;
}

int kvl_flights_drain(struct kvl_flights *flights, uint64_t deadline_ms)
{
    int r = 0;

    pthread_mutex_lock(&flights->lock);
    while (r == 0 && flights->flights.count > flights->quarantined) {
        r = kvl_cond_wait(&flights->idle, &flights->lock, deadline_ms);
    }
    r = flights->flights.count > flights->quarantined ? -ETIMEDOUT : 0;
    pthread_mutex_unlock(&flights->lock);
    return r;
}

void kvl_flights_cut_all(struct kvl_flights *flights)
{
    struct kvl_op *op;

    for (;;) {
        pthread_mutex_lock(&flights->lock);
        op = kvl_table_any(&flights->ops);
        pthread_mutex_unlock(&flights->lock);
        if (op == NULL) {
            return;
        }
        kvl_op_cut(op, -ECANCELED);
        kvl_op_destroy(op);
    }
}
