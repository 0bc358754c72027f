/* SPDX-License-Identifier: Apache-2.0 */
#include "flight.h"

#include <errno.h>

#include "flight_impl.h"
#include "route.h"

static int cargo_status(const struct kvl_completion *done, uint32_t i)
{
    int status = done->status;

    if (done->item_status != NULL) {
        status = i < done->item_count ? done->item_status[i] : -EPROTO;
    }
    return status > 0 ? -EPROTO : status;
}

/* No lock is held in what follows: it may hash every byte. */

static void land_read(struct kvl_flights *flights, struct kvl_flight *flight,
                      struct kvl_cargo *cargo)
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
    if (cargo->has_view && atomic_load(&flight->backend->put_to) == KVL_PUT_EVICTED) {
        kvl_store_mark_written(flights->store, cargo->view.lease);
    }
}

/* @param is_cut  the engine may have used its memory for something else while we read it */
static void land_gather(struct kvl_flights *flights, struct kvl_cargo *cargo, int is_cut)
{
    cargo->has_slot = 0;
    if (is_cut) {
        cargo->status = -ECANCELED;
    }
    if (cargo->status != 0) {
        kvl_store_abort(flights->store, cargo->slot);
        return;
    }
    cargo->status =
        kvl_store_commit(flights->store, cargo->slot, cargo->is_wanted ? &cargo->view : NULL);
    cargo->has_view = cargo->status == 0 && cargo->is_wanted;
}

/* What the end says about who holds the chunk; copies within this process say nothing. */
static void land_hints(struct kvl_flights *flights, const struct kvl_flight *flight,
                       const struct kvl_cargo *cargo)
{
    const uint32_t index = flight->backend->index;
    const int is_copy = flight->verb == KVL_VERB_GATHER || flight->verb == KVL_VERB_SCATTER;

    if (cargo->status == 0 && (is_copy || (flight->is_cut && flight->verb == KVL_VERB_WRITE_OUT))) {
        return; /* or it was to forget what it was given: it is asked when somebody looks for it */
    }
    if (cargo->status == 0 && flight->verb != KVL_VERB_REMOVE) {
        kvl_hints_publish(flights->hints, cargo->hash, index);
    } else if (!is_copy && (cargo->status == 0 || cargo->status == -ENOENT ||
                            cargo->status == -ESTALE || cargo->status == -EBADMSG)) {
        kvl_hints_withdraw(flights->hints, cargo->hash, index);
    } else {
        atomic_fetch_add_explicit(&flight->backend->failures, 1, memory_order_relaxed);
    }
}

static void land_cargo(struct kvl_flights *flights, struct kvl_flight *flight)
{
    for (uint32_t i = 0; i < flight->count; i++) {
        struct kvl_cargo *cargo = &flight->cargo[i];

        if (flight->verb == KVL_VERB_READ && !flight->is_direct) {
            land_read(flights, flight, cargo);
        } else if (flight->verb == KVL_VERB_GATHER) {
            land_gather(flights, cargo, flight->is_cut);
        } else if (cargo->has_view && flight->verb == KVL_VERB_WRITE) {
            kvl_store_release(flights->store, cargo->view.lease); /* before the waiter is told */
            cargo->has_view = 0;
        }
        land_hints(flights, flight, cargo);
    }
    kvl_store_trim(flights->store);
}

/* ---- telling the op; the lock is held ---- */

static void take_view(struct kvl_op_item *item, struct kvl_cargo *cargo)
{
    if (cargo->has_view) {
        item->view = cargo->view;
        item->has_view = 1;
        cargo->has_view = 0;
    }
}

/* It is in the own store: done, or half way to the engine's memory. */
static void report_read(struct kvl_op *op, struct kvl_op_item *item, struct kvl_cargo *cargo,
                        int is_direct)
{
    if (cargo->has_view) {
        item->chunk.bytes = cargo->view.length;
    }
    take_view(item, cargo);
    if (!is_direct && kvl_op_has_memory(op, cargo->item)) {
        item->stage = KVL_ITEM_BRING;
    } else {
        item->status = 0;
    }
}

static void report_item(struct kvl_flight *flight, struct kvl_cargo *cargo)
{
    struct kvl_op *op = flight->op;
    struct kvl_op_item *item = &op->items[cargo->item];

    item->is_flying = 0;
    if (flight->verb == KVL_VERB_SCATTER) {
        take_view(item, cargo); /* given back with the op: then none is out when the call returns */
    }
    if (cargo->status != 0) {
        kvl_op_item_failed(item, cargo->status);
        if (flight->verb == KVL_VERB_SCATTER || flight->is_relied) {
            /* The chunk is here and cannot be brought: no other holder would change that. Or the
             * engine has used layers of it: see layers.c. */
            item->status = cargo->status;
            item->location = KVL_LOCATION_NONE;
        } else if (flight->verb == KVL_VERB_GATHER) {
            item->stage = KVL_ITEM_LOST;
        }
    } else if (flight->verb == KVL_VERB_GATHER) {
        item->stage = KVL_ITEM_KEPT;
        item->status = 0;
        item->location = KVL_LOCATION_LOCAL;
        take_view(item, cargo);
    } else if (flight->verb == KVL_VERB_SCATTER) {
        item->status = 0;
    } else {
        item->location = (uint8_t)(KVL_LOCATION_BACKEND + flight->backend->index);
        if (flight->verb == KVL_VERB_READ) {
            report_read(op, item, cargo, flight->is_direct);
        } else {
            item->status = 0;
        }
    }
    op->idle += op->kind == KVL_OP_LOAD && item->status == -EINPROGRESS;
}

static void report(struct kvl_flight *flight)
{
    struct kvl_op *op = flight->op;

    if (op == NULL) {
        return;
    }
    op->outcome = flight->status;
    op->landed++;
    for (uint32_t i = 0; i < flight->count; i++) {
        report_item(flight, &flight->cargo[i]);
    }
    pthread_cond_signal(&op->changed);
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

void kvl_flight_land(struct kvl_flights *flights, struct kvl_flight *flight)
{
    if (flight->verb != KVL_VERB_LIST && flight->verb != KVL_VERB_PROBE) {
        land_cargo(flights, flight);
    }
    pthread_mutex_lock(&flights->lock);
    report(flight);
    if (flight->op == NULL) {
        atomic_fetch_add_explicit(&flight->backend->late, 1, memory_order_relaxed);
    }
    kvl_flight_retire(flights, flight);
    flights->landings++;
    kvl_flights_moved(flights);
    pthread_mutex_unlock(&flights->lock);
    kvl_flight_free(flights, flight);
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
        flight->is_cut = flight->op == NULL;
    }
    pthread_mutex_unlock(&flights->lock);
    if (flight == NULL) {
        refuse_completion(flights, backend, done->cookie);
        return;
    }

    flight->status = done->status > 0 ? -EPROTO : done->status;
    for (uint32_t i = 0; i < flight->count; i++) {
        flight->cargo[i].status = cargo_status(done, i);
    }
    if (flight->verb != KVL_VERB_GATHER || !kvl_flight_hand_over(flights, flight)) {
        kvl_flight_land(flights, flight);
    }
}

void kvl_flights_progress(struct kvl_flights *flights, struct kvl_backend *backend, uint64_t cookie,
                          uint32_t layers)
{
    struct kvl_flight *flight;

    pthread_mutex_lock(&flights->lock);
    flight = kvl_table_get(&flights->flights, cookie);
    if (flight != NULL && flight->backend == backend && flight->layers < layers) {
        flight->layers = layers;
        kvl_flights_moved(flights);
    }
    pthread_mutex_unlock(&flights->lock);
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
    if (flight != NULL && flight->verb == KVL_VERB_READ && !flight->is_direct &&
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
    if (flight != NULL && flight->verb == KVL_VERB_LIST && flight->op != NULL) {
        r = 0;
        for (uint32_t i = 0; r == 0 && i < count; i++) {
            r = kvl_op_list_key(flight->op, &keys[i]);
        }
    }
    pthread_mutex_unlock(&flights->lock);
    return r;
}
