/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file disk_queue.h
 * Accepted operations on their way to the threads: three lanes, so that nothing quick waits behind
 * something slow, and what must stay in order has one thread. Thread-safe; never blocks on I/O.
 */
#ifndef KVL_DISK_QUEUE_H
#define KVL_DISK_QUEUE_H

#include <pthread.h>

#include "disk_op.h"

enum disk_lane { DISK_LANE_LOOKUP, DISK_LANE_READ, DISK_LANE_WRITE, DISK_LANES };

struct disk_queue {
    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t more[DISK_LANES];
    pthread_cond_t idle; /* in_flight fell to 0 */
    struct disk_op *head[DISK_LANES];
    struct disk_op *tail[DISK_LANES];
    struct disk_op *known;
    uint32_t in_flight;
    uint32_t max_in_flight;
    bool running;
    bool quiet; /* takes no more */
};

void disk_queue_init(struct disk_queue *queue, uint32_t max_in_flight);
void disk_queue_fini(struct disk_queue *queue);

void disk_queue_start(struct disk_queue *queue);
/** Refuses new operations from now on. */
void disk_queue_quiesce(struct disk_queue *queue);
/** Cancels all that is there and sends the threads home once the lanes are empty. */
void disk_queue_stop(struct disk_queue *queue);

/** @return 0 and the op is the queue's; -EAGAIN; -ECANCELED stopping; -ENOTCONN not started. */
int disk_queue_add(struct disk_queue *queue, struct disk_op *op);

/** Waits for work in a lane. @return an op and an item of it; NULL = go home. */
struct disk_op *disk_queue_take(struct disk_queue *queue, enum disk_lane lane, uint32_t *item_out);

/** Ends one item; with the last one completes and frees the op. */
void disk_queue_end(struct disk_queue *queue, struct disk_op *op, uint32_t item, int32_t status);

void disk_queue_cancel(struct disk_queue *queue, uint64_t cookie);

/** @return 0; -ETIMEDOUT. */
int disk_queue_drain(struct disk_queue *queue, uint64_t deadline_ms);

uint32_t disk_queue_in_flight(struct disk_queue *queue);

#endif /* KVL_DISK_QUEUE_H */
