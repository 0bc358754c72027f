/* SPDX-License-Identifier: Apache-2.0 */
#include "layers.h"

#include <errno.h>

#include "drive.h"
#include "flight_impl.h"

/* Every chunk that is not done is on its way with so many layers there; the lock is held. */
static int have_come(const struct kvl_op *op, uint32_t layers)
{
    if (op->cut != 0) {
        return 1;
    }
    if (op->idle > 0) {
        return 0;
    }
    for (const struct kvl_flight *flight = op->first; flight != NULL; flight = flight->next) {
        if (!flight->is_direct || flight->layers < layers) {
            return 0;
        }
    }
    return 1;
}

/* The engine computes with what it was told is there: a chunk that fails now has failed, also if
 * another holder could still bring it. */
static void rely_on(struct kvl_op *op)
{
    for (struct kvl_flight *flight = op->first; flight != NULL; flight = flight->next) {
        flight->is_relied = 1;
    }
}

/* Moves it on as its waiter would, without waiting. Taken off the lock, which is held before and
 * after. A waiter that comes meanwhile lets us finish; nobody else ends the op. */
static void nudge(struct kvl_instance *instance, struct kvl_op *op)
{
    struct kvl_flights *flights = op->flights;

    op->is_nudged = 1;
    pthread_mutex_unlock(&flights->lock);
    (void)kvl_drive(instance, op, 0); /* how it ended is kept for wait() */
    pthread_mutex_lock(&flights->lock);
    op->is_nudged = 0;
    kvl_flights_moved(flights);
}

/* Waits for something to happen to some op; the lock is held. */
static int wait_moved(struct kvl_flights *flights, uint64_t deadline_ms)
{
    int r;

    flights->watchers++;
    r = kvl_cond_wait(&flights->moved, &flights->lock, deadline_ms);
    flights->watchers--;
    return r;
}

int kvl_layers_wait(struct kvl_instance *instance, uint64_t handle, uint32_t layers,
                    uint64_t deadline_ms)
{
    struct kvl_flights *flights = instance->flights;
    int r = -EINPROGRESS;
    int is_known = 0;

    pthread_mutex_lock(&flights->lock);
    for (;;) {
        /* Looked up each time: it may end while we wait. */
        struct kvl_op *op = kvl_table_get(&flights->ops, handle);
        uint64_t until = deadline_ms;

        if (op == NULL || op->kind != KVL_OP_LOAD) {
            r = is_known ? 0 : -EINVAL;
            break;
        }
        is_known = 1;
        if (have_come(op, layers)) {
            rely_on(op);
            r = 0;
            break;
        }
        if (!op->waiting && !op->is_nudged) {
            if (kvl_op_is_due(op) || kvl_now_ms() >= op->deadline_ms) {
                nudge(instance, op);
                continue;
            }
            until = deadline_ms < op->deadline_ms ? deadline_ms : op->deadline_ms;
        }
        if (wait_moved(flights, until) == ETIMEDOUT && kvl_now_ms() >= deadline_ms) {
            break;
        }
    }
    pthread_mutex_unlock(&flights->lock);
    return r;
}
