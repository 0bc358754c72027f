/* SPDX-License-Identifier: Apache-2.0 */
#include "disk_queue.h"

#include <errno.h>
#include <time.h>

#include "cond.h"

void disk_queue_init(struct disk_queue *queue, uint32_t max_in_flight)
{
    *queue = (struct disk_queue){.max_in_flight = max_in_flight};
    (void)pthread_mutex_init(&queue->lock, NULL);
    for (int lane = 0; lane < DISK_LANES; lane++) {
        (void)pthread_cond_init(&queue->more[lane], NULL);
    }
    (void)kvl_monotonic_cond_init(&queue->idle);
}

void disk_queue_fini(struct disk_queue *queue)
{
    for (int lane = 0; lane < DISK_LANES; lane++) {
        (void)pthread_cond_destroy(&queue->more[lane]);
    }
    (void)pthread_cond_destroy(&queue->idle);
    (void)pthread_mutex_destroy(&queue->lock);
}

void disk_queue_start(struct disk_queue *queue)
{
    (void)pthread_mutex_lock(&queue->lock);
    queue->running = true;
    queue->quiet = false;
    (void)pthread_mutex_unlock(&queue->lock);
}

void disk_queue_quiesce(struct disk_queue *queue)
{
    (void)pthread_mutex_lock(&queue->lock);
    queue->quiet = true;
    (void)pthread_mutex_unlock(&queue->lock);
}

void disk_queue_stop(struct disk_queue *queue)
{
    (void)pthread_mutex_lock(&queue->lock);
    queue->running = false;
    queue->quiet = true;
    for (struct disk_op *op = queue->known; op != NULL; op = op->known_next) {
        atomic_store(&op->cancel, true);
    }
    for (int lane = 0; lane < DISK_LANES; lane++) {
        (void)pthread_cond_broadcast(&queue->more[lane]);
    }
    (void)pthread_mutex_unlock(&queue->lock);
}

/* ---- the lanes and the list of all, with the lock held ---- */

static enum disk_lane queue_lane(const struct disk_op *op)
{
    switch (op->kind) {
    case DISK_LOOKUP:
        return DISK_LANE_LOOKUP;
    case DISK_READ:
    case DISK_LIST:
        return DISK_LANE_READ;
    default:
        return DISK_LANE_WRITE;
    }
}

static void lane_remove(struct disk_queue *queue, struct disk_op *op)
{
    const enum disk_lane lane = queue_lane(op);

    *(op->prev != NULL ? &op->prev->next : &queue->head[lane]) = op->next;
    *(op->next != NULL ? &op->next->prev : &queue->tail[lane]) = op->prev;
    op->next = NULL;
    op->prev = NULL;
    op->waiting = false;
}

static void lane_push(struct disk_queue *queue, struct disk_op *op)
{
    const enum disk_lane lane = queue_lane(op);

    op->prev = queue->tail[lane];
    *(op->prev != NULL ? &op->prev->next : &queue->head[lane]) = op;
    queue->tail[lane] = op;
    op->waiting = true;
}

static void lane_push_front(struct disk_queue *queue, struct disk_op *op)
{
    const enum disk_lane lane = queue_lane(op);

    op->next = queue->head[lane];
    *(op->next != NULL ? &op->next->prev : &queue->tail[lane]) = op;
    queue->head[lane] = op;
    op->waiting = true;
}

static void known_add(struct disk_queue *queue, struct disk_op *op)
{
    op->known_next = queue->known;
    if (op->known_next != NULL) {
        op->known_next->known_prev = op;
    }
    queue->known = op;
    queue->in_flight++;
}

static void known_remove(struct disk_queue *queue, struct disk_op *op)
{
    *(op->known_prev != NULL ? &op->known_prev->known_next : &queue->known) = op->known_next;
    if (op->known_next != NULL) {
        op->known_next->known_prev = op->known_prev;
    }
    queue->in_flight--;
    if (queue->in_flight == 0) {
        (void)pthread_cond_broadcast(&queue->idle);
    }
}

/* ---- */

int disk_queue_add(struct disk_queue *queue, struct disk_op *op)
{
    const enum disk_lane lane = queue_lane(op);
    int r = 0;

    (void)pthread_mutex_lock(&queue->lock);
    if (queue->quiet) {
        r = -ECANCELED;
    } else if (!queue->running) {
        r = -ENOTCONN;
    } else if (queue->in_flight >= queue->max_in_flight) {
        r = -EAGAIN;
    } else {
        known_add(queue, op);
        lane_push(queue, op);
        /* one thread per item at most has something to do */
        (void)(op->count > 1 ? pthread_cond_broadcast(&queue->more[lane])
                             : pthread_cond_signal(&queue->more[lane]));
    }
    (void)pthread_mutex_unlock(&queue->lock);
    return r;
}

struct disk_op *disk_queue_take(struct disk_queue *queue, enum disk_lane lane, uint32_t *item_out)
{
    struct disk_op *op;

    (void)pthread_mutex_lock(&queue->lock);
    while ((op = queue->head[lane]) == NULL && queue->running) {
        (void)pthread_cond_wait(&queue->more[lane], &queue->lock);
    }
    if (op != NULL) {
        *item_out = op->taken++;
        if (op->taken == op->count) {
            lane_remove(queue, op);
        }
    }
    (void)pthread_mutex_unlock(&queue->lock);
    return op;
}

void disk_queue_end(struct disk_queue *queue, struct disk_op *op, uint32_t item, int32_t status)
{
    op->status[item] = status;
    if (atomic_fetch_sub_explicit(&op->open, 1, memory_order_acq_rel) != 1) {
        return;
    }
    disk_op_complete(op);
    (void)pthread_mutex_lock(&queue->lock);
    known_remove(queue, op);
    (void)pthread_mutex_unlock(&queue->lock);
    disk_op_destroy(op);
}

void disk_queue_cancel(struct disk_queue *queue, uint64_t cookie)
{
    (void)pthread_mutex_lock(&queue->lock);
    for (struct disk_op *op = queue->known; op != NULL; op = op->known_next) {
        if (op->cookie != cookie) {
            continue;
        }
        atomic_store(&op->cancel, true);
        if (op->waiting) { /* its memory is wanted back: do not wait for those before it */
            lane_remove(queue, op);
            lane_push_front(queue, op);
        }
        break;
    }
    (void)pthread_mutex_unlock(&queue->lock);
}

int disk_queue_drain(struct disk_queue *queue, uint64_t deadline_ms)
{
    const struct timespec until = {
        .tv_sec = (time_t)(deadline_ms / 1000),
        .tv_nsec = (long)(deadline_ms % 1000) * 1000000,
    };
    int r = 0;

    (void)pthread_mutex_lock(&queue->lock);
    while (queue->in_flight > 0 && r == 0) {
        r = deadline_ms == KVL_NEVER ? pthread_cond_wait(&queue->idle, &queue->lock)
                                     : pthread_cond_timedwait(&queue->idle, &queue->lock, &until);
    }
    r = queue->in_flight > 0 ? -ETIMEDOUT : 0;
    (void)pthread_mutex_unlock(&queue->lock);
    return r;
}

uint32_t disk_queue_in_flight(struct disk_queue *queue)
{
    uint32_t in_flight;

    (void)pthread_mutex_lock(&queue->lock);
    in_flight = queue->in_flight;
    (void)pthread_mutex_unlock(&queue->lock);
    return in_flight;
}
