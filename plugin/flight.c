/* SPDX-License-Identifier: Apache-2.0 */
#include "flight.h"

#include <errno.h>
#include <stdlib.h>

#include "flight_impl.h"
#include "route.h"

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
    kvl_cond_init(&flights->moved);
    kvl_cond_init(&flights->work);
    flights->arrived_last = &flights->arrived;
    kvl_kv_init(&flights->kvs);
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
    kvl_kv_fini(&flights->kvs);
    pthread_cond_destroy(&flights->work);
    pthread_cond_destroy(&flights->moved);
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

/* ---- the books ---- */

void kvl_flight_unlink(struct kvl_flight *flight)
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

void kvl_flight_free(struct kvl_flights *flights, struct kvl_flight *flight)
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

void kvl_flight_retire(struct kvl_flights *flights, struct kvl_flight *flight)
{
    struct kvl_backend *backend = flight->backend;

    if (flight->op == NULL) {
        flights->quarantined--;
        atomic_fetch_sub_explicit(&backend->overdue, 1, memory_order_relaxed);
    }
    kvl_flight_unlink(flight);
    kvl_table_drop(&flights->flights, flight->cookie);
    atomic_fetch_sub_explicit(&backend->in_flight, 1, memory_order_relaxed);
    if (flights->flights.count == flights->quarantined) {
        pthread_cond_broadcast(&flights->idle);
    }
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
        kvl_flight_unlink(flight);
        flights->quarantined++;
        atomic_fetch_add_explicit(&flight->backend->overdue, 1, memory_order_relaxed);
    }
    return count;
}

/* Cuts an op off from its flights and asks their backends to stop. No lock is held in the calls.
 * When this returns nothing writes to the engine's memory any more (KVL_CAP_DIRECT,
 * KVL_CAP_MEMORY). What is still read there comes to nothing: see kvl_flights_complete. */
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
    struct kvl_flights *flights = op->flights;

    cut_flights(flights, op);
    pthread_mutex_lock(&flights->lock);
    for (uint32_t i = 0; i < op->item_count; i++) {
        struct kvl_op_item *item = &op->items[i];

        op->idle += op->kind == KVL_OP_LOAD && item->is_flying && item->status == -EINPROGRESS;
        item->is_flying = 0;
    }
    pthread_mutex_unlock(&flights->lock);
    for (uint32_t i = 0; i < op->item_count; i++) {
        if (op->items[i].status != -EINPROGRESS) {
            continue;
        }
        if (op->items[i].stage == KVL_ITEM_BRING && op->place.mover == NULL) {
            kvl_op_bring(op, i); /* it came in time */
        } else {
            kvl_op_end_item(op, i, status);
        }
    }
    pthread_mutex_lock(&flights->lock);
    op->cut = status;
    pthread_mutex_unlock(&flights->lock);
}

int kvl_flights_cancel(struct kvl_flights *flights, uint64_t handle)
{
    struct kvl_op *op;

    pthread_mutex_lock(&flights->lock);
    op = kvl_table_get(&flights->ops, handle);
    if (op != NULL) {
        op->cancelled = 1;
        pthread_cond_broadcast(&op->changed);
        kvl_flights_moved(flights);
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
