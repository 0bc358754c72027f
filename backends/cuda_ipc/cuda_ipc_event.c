/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda_ipc_event.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "setting.h"

/* Between two looks at an event of another process. */
#define EVENT_PAUSE_NS 200000

struct cuda_ipc_ring {
    struct cuda_ipc_place place;
    pthread_mutex_t lock; /* guards what is below, and keeps record and handle together */
    uint32_t next;
    cuda_event events[CUDA_IPC_RING_EVENTS];
    struct cuda_ipc_event_handle handles[CUDA_IPC_RING_EVENTS];
};

/* ---- exported ---- */

int cuda_ipc_ring_create(const struct cuda_ipc_place *place, struct cuda_ipc_ring **ring_out,
                         struct kvl_err *err)
{
    struct cuda_ipc_ring *ring;
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

static int ring_make(struct cuda_ipc_ring *ring, uint32_t slot, struct kvl_err *err)
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

static int ring_record(struct cuda_ipc_ring *ring, cuda_stream stream,
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
    ring->next = (slot + 1) % CUDA_IPC_RING_EVENTS;
    *handle_out = ring->handles[slot];
    return 0;
}

int cuda_ipc_ring_record(struct cuda_ipc_ring *ring, cuda_stream stream,
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

void cuda_ipc_ring_destroy(struct cuda_ipc_ring *ring)
{
    if (ring == NULL) {
        return;
    }
    for (uint32_t i = 0; i < CUDA_IPC_RING_EVENTS; i++) {
        cuda_ipc_event_close(&ring->place, ring->events[i]);
    }
    pthread_mutex_destroy(&ring->lock);
    free(ring);
}

/* ---- imported ---- */

int cuda_ipc_event_open(const struct cuda_ipc_place *place,
                        const struct cuda_ipc_event_handle *handle, cuda_event *event_out,
                        struct kvl_err *err)
{
    struct cuda_ipc_stay stay;
    cuda_event event = NULL;
    cuda_result code;
    int r = cuda_ipc_place_enter(place, &stay, err);

    if (r < 0) {
        return r;
    }
    code = place->api->ipc_open_event_handle(&event, *handle);
    if (code == CUDA_OK) {
        *event_out = event;
    } else {
        r = cuda_ipc_place_fail(place, err, "cannot open an event of another process",
                                "cuIpcOpenEventHandle", code);
    }
    cuda_ipc_place_leave(place, &stay);
    return r;
}

static uint64_t event_now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000u + (uint64_t)now.tv_nsec / 1000000u;
}

/* cuEventSynchronize has no deadline, and the other process may never come to its event. */
static int event_poll(const struct cuda_ipc_place *place, cuda_event event, uint64_t deadline_ms,
                      struct kvl_err *err)
{
    const struct timespec pause = {.tv_nsec = EVENT_PAUSE_NS};
    cuda_result code = place->api->event_query(event);

    while (code == CUDA_E_NOT_READY) {
        if (event_now_ms() >= deadline_ms) {
            return kvl_fail(err, -ETIMEDOUT,
                            "cuda_ipc: the other process did not finish its work in time");
        }
        nanosleep(&pause, NULL);
        code = place->api->event_query(event);
    }
    return code == CUDA_OK ? 0
                           : cuda_ipc_place_fail(place, err, "cannot wait for another process",
                                                 "cuEventQuery", code);
}

int cuda_ipc_event_wait(const struct cuda_ipc_place *place, cuda_event event, uint64_t deadline_ms,
                        struct kvl_err *err)
{
    struct cuda_ipc_stay stay;
    int r = cuda_ipc_place_enter(place, &stay, err);

    if (r == 0) {
        r = event_poll(place, event, deadline_ms, err);
        cuda_ipc_place_leave(place, &stay);
    }
    return r;
}

void cuda_ipc_event_close(const struct cuda_ipc_place *place, cuda_event event)
{
    struct cuda_ipc_stay stay;

    if (event != NULL && cuda_ipc_place_enter(place, &stay, NULL) == 0) {
        (void)place->api->event_destroy(event);
        cuda_ipc_place_leave(place, &stay);
    }
}
