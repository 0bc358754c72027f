/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file controller_ring.h
 * The last records that a standby may still need, in memory of a fixed size. Whoever adds never
 * waits for whoever reads: old records are written over, and a reader that needed them is told so.
 * Any thread may call; the lock is held for a copy of a record, or of what a read has room for.
 */
#ifndef KVL_CONTROLLER_RING_H
#define KVL_CONTROLLER_RING_H

#include <pthread.h>

#include "controller_replica_wire.h"

struct controller_ring {
    pthread_mutex_t lock; /* guards the rest */
    uint8_t *bytes; /* owned */
    size_t size;
    uint64_t tail; /* bytes before the oldest record, since the beginning */
    uint64_t head; /* bytes of all records */
    uint64_t tail_number; /* of the oldest record */
    uint64_t next_number; /* of the next record */
    uint32_t readers; /* nothing is kept without any */
};

/** Where a reader stands. */
struct controller_ring_place {
    uint64_t at;
    uint64_t number; /* of the next record to read */
};

/** @return 0; -ENOMEM. The memory is touched only as it is needed. */
int controller_ring_init(struct controller_ring *ring, size_t size);
void controller_ring_fini(struct controller_ring *ring);

/**
 * Adds a record when there is a reader. One that is larger than the ring is left out, and every
 * reader is too late then. @return 1 added; 0 nobody reads.
 */
int controller_ring_add(struct controller_ring *ring, enum controller_record_kind kind,
                        const void *bytes, size_t length);

/** Begins to keep records, for one reader more. @return where the next record will be. */
struct controller_ring_place controller_ring_join(struct controller_ring *ring);
void controller_ring_leave(struct controller_ring *ring);

/** Number of the next record. */
uint64_t controller_ring_next(struct controller_ring *ring);

/** 1 when everything from there on is still here, or will be. */
int controller_ring_has(struct controller_ring *ring, const struct controller_ring_place *place);

/**
 * Copies whole records, as many as there is room for and are there, and steps over them.
 * @param bytes_out  with the head of each record, as EVENTS has them
 * @return records; -ESTALE the next one is gone; -ENOSPC it needs *length_out bytes of room.
 */
int controller_ring_read(struct controller_ring *ring, struct controller_ring_place *place,
                         uint8_t *bytes_out, size_t room, size_t *length_out);

#endif /* KVL_CONTROLLER_RING_H */
