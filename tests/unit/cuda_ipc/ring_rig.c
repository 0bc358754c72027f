/* SPDX-License-Identifier: Apache-2.0 */
#include "ring_rig.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "setting.h"

struct ring_rig {
    struct cuda_ipc_place place;
    pthread_mutex_t lock; /* guards what is below, and keeps record and handle together */
    uint32_t next;
    cuda_event events[RING_RIG_EVENTS];
    struct cuda_ipc_event_handle handles[RING_RIG_EVENTS];
};

/* ---- exported ---- */

int ring_rig_create(const struct cuda_ipc_place *place, struct ring_rig **ring_out,
                    struct kvl_err *err)
{
    struct ring_rig *ring;
    int can = 0;
    cuda_result code = place->api->device_get_attribute(&can, CUDA_DEVICE_IPC_EVENT, place->device);

    /* drivers that do not know the question have the events */
    if (code == CUDA_OK && can == 0) {
        return kvl_fail(err, -ENOTSUP, "cuda_ipc: device %d cannot share events", place->ordinal);
    }
    ring = calloc(1, sizeof(*ring));
    if (ring == NULL) {
        return kvl_fail(err, -ENOMEM, "cuda_ipc: out of memory");
    }
    ring->place = *place;
    pthread_mutex_init(&ring->lock, NULL);
    *ring_out = ring;
    return 0;
}

static int ring_make(struct ring_rig *ring, uint32_t slot, struct kvl_err *err)
{
    const struct cuda_ipc_place *place = &ring->place;
    cuda_event event = NULL;
    cuda_result code = place->api->event_create(
        &event, CUDA_EVENT_INTERPROCESS | CUDA_EVENT_DISABLE_TIMING | CUDA_EVENT_BLOCKING_SYNC);

    if (code != CUDA_OK) {
        return cuda_ipc_place_fail(place, err, "cannot make an event to share", "cuEventCreate",
                                   code);
    }
    code = place->api->ipc_get_event_handle(&ring->handles[slot], event);
    if (code != CUDA_OK) {
        (void)place->api->event_destroy(event);
        return cuda_ipc_place_fail(place, err, "cannot share an event", "cuIpcGetEventHandle",
                                   code);
    }
    ring->events[slot] = event;
    return 0;
}

static int ring_record(struct ring_rig *ring, cuda_stream stream,
                       struct cuda_ipc_event_handle *handle_out, struct kvl_err *err)
{
    uint32_t slot = ring->next;
    cuda_result code;
    int r = ring->events[slot] != NULL ? 0 : ring_make(ring, slot, err);

    if (r < 0) {
        return r;
    }
    code = ring->place.api->event_record(ring->events[slot], stream);
    if (code != CUDA_OK) {
        return cuda_ipc_place_fail(&ring->place, err, "cannot record a shared event",
                                   "cuEventRecord", code);
    }
    ring->next = (slot + 1) % RING_RIG_EVENTS;
    *handle_out = ring->handles[slot];
    return 0;
}

int ring_rig_record(struct ring_rig *ring, cuda_stream stream,
                    struct cuda_ipc_event_handle *handle_out, struct kvl_err *err)
{
    struct cuda_ipc_stay stay;
    int r = cuda_ipc_place_enter(&ring->place, &stay, err);

    if (r < 0) {
        return r;
    }
    pthread_mutex_lock(&ring->lock);
    r = ring_record(ring, stream, handle_out, err);
    pthread_mutex_unlock(&ring->lock);
    cuda_ipc_place_leave(&ring->place, &stay);
    return r;
}

void ring_rig_destroy(struct ring_rig *ring)
{
    if (ring == NULL) {
        return;
    }
    for (uint32_t i = 0; i < RING_RIG_EVENTS; i++) {
        cuda_ipc_event_close(&ring->place, ring->events[i]);
    }
    pthread_mutex_destroy(&ring->lock);
    free(ring);
}
