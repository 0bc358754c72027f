/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda_ipc_event.h"

#include <errno.h>
#include <time.h>

#include "setting.h"

/* Between two looks at an event of another process. */
#define EVENT_PAUSE_NS 200000

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
