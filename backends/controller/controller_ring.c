/* SPDX-License-Identifier: Apache-2.0 */
#include "controller_ring.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

int controller_ring_init(struct controller_ring *ring, size_t size)
{
    memset(ring, 0, sizeof(*ring));
    ring->bytes = malloc(size);
    if (ring->bytes == NULL) {
        return -ENOMEM;
    }
    ring->size = size;
    ring->tail_number = 1;
    ring->next_number = 1;
    (void)pthread_mutex_init(&ring->lock, NULL);
    return 0;
}

void controller_ring_fini(struct controller_ring *ring)
{
    if (ring->bytes != NULL) {
        (void)pthread_mutex_destroy(&ring->lock);
        free(ring->bytes);
        ring->bytes = NULL;
    }
}

/* ---- bytes, which may go over the end ---- */

static void ring_put(struct controller_ring *ring, uint64_t at, const void *bytes, size_t length)
{
    const size_t from = (size_t)(at % ring->size);
    const size_t first = length < ring->size - from ? length : ring->size - from;

    memcpy(ring->bytes + from, bytes, first);
    memcpy(ring->bytes, (const uint8_t *)bytes + first, length - first);
}

static void ring_get(const struct controller_ring *ring, uint64_t at, void *bytes_out,
                     size_t length)
{
    const size_t from = (size_t)(at % ring->size);
    const size_t first = length < ring->size - from ? length : ring->size - from;

    memcpy(bytes_out, ring->bytes + from, first);
    memcpy((uint8_t *)bytes_out + first, ring->bytes, length - first);
}

/* Bytes of the record there, with its head. */
static size_t ring_record_bytes(const struct controller_ring *ring, uint64_t at)
{
    uint8_t head[CONTROLLER_RECORD_HEAD_BYTES];
    struct kvl_cursor in;

    ring_get(ring, at, head, sizeof(head));
    kvl_cursor_init(&in, head, sizeof(head));
    (void)kvl_cursor_get_u8(&in);
    return sizeof(head) + kvl_cursor_get_u32le(&in);
}

/* ---- writing ---- */

static void ring_forget(struct controller_ring *ring)
{
    ring->tail = ring->head;
    ring->tail_number = ring->next_number;
}

static void ring_make_room(struct controller_ring *ring, size_t bytes)
{
    while (ring->head - ring->tail + bytes > ring->size) {
        ring->tail += ring_record_bytes(ring, ring->tail);
        ring->tail_number++;
    }
}

int controller_ring_add(struct controller_ring *ring, enum controller_record_kind kind,
                        const void *bytes, size_t length)
{
    uint8_t head[CONTROLLER_RECORD_HEAD_BYTES];
    int added = 0;

    pthread_mutex_lock(&ring->lock);
    if (ring->readers > 0) {
        if (length > UINT32_MAX || length + sizeof(head) > ring->size) {
            ring->next_number++;
            ring_forget(ring);
        } else {
            controller_record_head(kind, (uint32_t)length, head);
            ring_make_room(ring, sizeof(head) + length);
            ring_put(ring, ring->head, head, sizeof(head));
            ring_put(ring, ring->head + sizeof(head), bytes, length);
            ring->head += sizeof(head) + length;
            ring->next_number++;
        }
        added = 1;
    }
    pthread_mutex_unlock(&ring->lock);
    return added;
}

/* ---- reading ---- */

struct controller_ring_place controller_ring_join(struct controller_ring *ring)
{
    struct controller_ring_place place;

    pthread_mutex_lock(&ring->lock);
    if (ring->readers == 0) {
        ring_forget(ring); /* there is a hole behind these */
        ring->next_number++;
        ring->tail_number = ring->next_number;
    }
    ring->readers++;
    place = (struct controller_ring_place){.at = ring->head, .number = ring->next_number};
    pthread_mutex_unlock(&ring->lock);
    return place;
}

void controller_ring_leave(struct controller_ring *ring)
{
    pthread_mutex_lock(&ring->lock);
    ring->readers--;
    pthread_mutex_unlock(&ring->lock);
}

uint64_t controller_ring_next(struct controller_ring *ring)
{
    uint64_t next;

    pthread_mutex_lock(&ring->lock);
    next = ring->next_number;
    pthread_mutex_unlock(&ring->lock);
    return next;
}

int controller_ring_has(struct controller_ring *ring, const struct controller_ring_place *place)
{
    int has;

    pthread_mutex_lock(&ring->lock);
    has = place->number >= ring->tail_number;
    pthread_mutex_unlock(&ring->lock);
    return has;
}

/* The lock is held. */
static int ring_copy(const struct controller_ring *ring, struct controller_ring_place *place,
                     uint8_t *bytes_out, size_t room, size_t *length_out)
{
    uint64_t at = place->at;
    int count = 0;

    if (place->number < ring->tail_number) {
        return -ESTALE;
    }
    while (at < ring->head && count < INT_MAX) {
        const size_t bytes = ring_record_bytes(ring, at);

        if (at - place->at + bytes > room) {
            if (count > 0) {
                break;
            }
            *length_out = bytes;
            return -ENOSPC;
        }
        at += bytes;
        count++;
    }
    *length_out = (size_t)(at - place->at);
    ring_get(ring, place->at, bytes_out, *length_out);
    place->at = at;
    place->number += (uint64_t)count;
    return count;
}

int controller_ring_read(struct controller_ring *ring, struct controller_ring_place *place,
                         uint8_t *bytes_out, size_t room, size_t *length_out)
{
    int count;

    pthread_mutex_lock(&ring->lock);
    count = ring_copy(ring, place, bytes_out, room, length_out);
    pthread_mutex_unlock(&ring->lock);
    return count;
}
