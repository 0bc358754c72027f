/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Events, those of other processes among them. Each record has a number; a wait is for the number
 * that was the latest when it was submitted.
 */
#include <stdlib.h>
#include <string.h>

#include "fake_cuda_objects.h"
#include "fake_cuda_state.h"

#define EVENT_TAG 0xe700000000000000ull
#define HANDLE_MAGIC 0x746e657665ull

struct event_handle {
    uint64_t magic;
    uint64_t id;
    struct fake_who owner;
    uint32_t slot;
    uint32_t reserved[5];
};
KVL_STATIC_ASSERT(sizeof(struct event_handle) == 64, "a handle has 64 bytes");

struct event_op {
    struct fake_op op;
    struct fake_event *event;
    uint64_t number;
};

static struct fake_event *event_find(cuda_event handle)
{
    for (struct fake_event *event = fake.events; event != NULL; event = event->next) {
        if (event->id == (uintptr_t)handle && !event->destroyed) {
            return event;
        }
    }
    return NULL;
}

static void event_put(struct fake_event *event)
{
    struct fake_event **at = &fake.events;

    if (--event->refs > 0) {
        return;
    }
    while (*at != event) {
        at = &(*at)->next;
    }
    *at = event->next;
    free(event);
}

static struct fake_event *event_make(unsigned int flags)
{
    struct fake_event *event = calloc(1, sizeof(*event));

    if (event != NULL) {
        event->id = EVENT_TAG | fake_new_id();
        event->context = fake_current();
        event->flags = flags;
        event->refs = 1;
        event->next = fake.events;
        fake.events = event;
    }
    return event;
}

static void event_destroy(struct fake_event *event)
{
    event->destroyed = 1;
    if (event->shared && !event->imported) {
        fake_state_event_remove(event->slot, event->slot_id);
    }
    event_put(event);
}

void fake_event_end_all(cuda_context context)
{
    struct fake_event *event = fake.events;

    while (event != NULL) {
        struct fake_event *next = event->next;

        if (event->context == context && !event->destroyed) {
            event_destroy(event);
        }
        event = next;
    }
}

void fake_event_count(uint32_t *own_out, uint32_t *imported_out)
{
    *own_out = 0;
    *imported_out = 0;
    for (const struct fake_event *event = fake.events; event != NULL; event = event->next) {
        *own_out += !event->destroyed && !event->imported;
        *imported_out += !event->destroyed && event->imported;
    }
}

/* ---- numbers ---- */

/* An event of another process that destroyed it must not be used; one of a dead process may. */
static cuda_result event_usable(const struct fake_event *event)
{
    struct fake_who owner;

    if (event->imported && fake_state_event_owner(event->slot, event->slot_id, &owner) < 0 &&
        fake_who_alive(&event->owner)) {
        return CUDA_E_INVALID_VALUE;
    }
    return CUDA_OK;
}

static uint64_t event_recorded(const struct fake_event *event)
{
    return event->shared ? fake_state_event_recorded(event->slot, event->slot_id) : event->recorded;
}

static int event_done(const struct fake_event *event, uint64_t number)
{
    if (event->completed >= number) {
        return 1;
    }
    if (!event->shared || (!event->imported && event->destroyed)) {
        return 0;
    }
    return fake_state_event_done(event->slot, event->slot_id, number);
}

static void event_reach(struct fake_event *event, uint64_t number)
{
    if (event->completed < number) {
        event->completed = number;
    }
    if (event->shared) {
        fake_state_event_reach(event->slot, event->slot_id, number);
    }
}

/* Waits until the record was reached. `stream` is the waiting one, or NULL for a thread. */
static void event_wait(const struct fake_event *event, uint64_t number,
                       const struct fake_stream *stream)
{
    while (stream == NULL || !stream->killed) {
        uint32_t tick = event->shared ? fake_state_tick() : 0;

        if (event_done(event, number)) {
            return;
        }
        if (!event->shared) {
            fake_wait(0);
        } else {
            fake_unlock();
            fake_state_event_wait(tick);
            fake_lock();
        }
    }
}

/* ---- in streams ---- */

static cuda_result record_run(struct fake_op *op)
{
    (void)op;
    return CUDA_OK;
}

static cuda_result wait_run(struct fake_op *op)
{
    const struct event_op *wait = (const struct event_op *)op;

    fake_lock();
    event_wait(wait->event, wait->number, op->stream);
    fake_unlock();
    return CUDA_OK;
}

static void event_op_drop(struct fake_op *op)
{
    event_put(((struct event_op *)op)->event);
    free(op);
}

/* Once it is counted as done: whoever sees the event finds nothing before it, itself included, still
 * under way. */
static void record_drop(struct fake_op *op)
{
    const struct event_op *record = (const struct event_op *)op;

    event_reach(record->event, record->number);
    event_op_drop(op);
}

static cuda_result event_push(struct fake_event *event, struct fake_stream *stream, uint64_t number,
                              cuda_result (*run)(struct fake_op *op))
{
    struct event_op *op = calloc(1, sizeof(*op));

    if (op == NULL) {
        return CUDA_E_OUT_OF_MEMORY;
    }
    op->op.run = run;
    op->op.drop = run == record_run ? record_drop : event_op_drop;
    op->op.always = run == record_run; /* nobody waits for ever for a broken context */
    op->event = event;
    op->number = number;
    event->refs++;
    fake_stream_push(stream, &op->op);
    return CUDA_OK;
}

static cuda_result event_record(cuda_event handle, cuda_stream stream_handle)
{
    struct fake_stream *stream = fake_stream_find(stream_handle);
    struct fake_event *event = event_find(handle);
    cuda_result code;
    uint64_t number;

    if (event == NULL || stream == NULL || event->context != stream->context) {
        return CUDA_E_INVALID_HANDLE;
    }
    code = event_usable(event);
    if (code != CUDA_OK) {
        return code;
    }
    number =
        event->shared ? fake_state_event_record(event->slot, event->slot_id) : ++event->recorded;
    return event_push(event, stream, number, record_run);
}

cuda_result cuEventRecord(cuda_event handle, cuda_stream stream)
{
    cuda_result code = fake_enter(__func__, FAKE_CONTEXT);

    if (code == CUDA_OK) {
        fake_lock();
        code = event_record(handle, stream);
        fake_unlock();
    }
    return code;
}

static cuda_result event_stream_wait(cuda_stream stream_handle, cuda_event handle)
{
    struct fake_stream *stream = fake_stream_find(stream_handle);
    struct fake_event *event = event_find(handle);
    cuda_result code;
    uint64_t number;

    if (event == NULL || stream == NULL) {
        return CUDA_E_INVALID_HANDLE;
    }
    code = event_usable(event);
    if (code != CUDA_OK) {
        return code;
    }
    number = event_recorded(event);
    return number == 0 ? CUDA_OK : event_push(event, stream, number, wait_run);
}

cuda_result cuStreamWaitEvent(cuda_stream stream, cuda_event handle, unsigned int flags)
{
    cuda_result code = fake_enter(__func__, FAKE_CONTEXT);

    if (code == CUDA_OK && flags > 1) {
        code = CUDA_E_INVALID_VALUE;
    }
    if (code == CUDA_OK) {
        fake_lock();
        code = event_stream_wait(stream, handle);
        fake_unlock();
    }
    return code;
}

/* ---- life ---- */

cuda_result cuEventCreate(cuda_event *event_out, unsigned int flags)
{
    cuda_result code = fake_enter(__func__, FAKE_CONTEXT);
    struct fake_event *event;

    if (code != CUDA_OK) {
        return code;
    }
    if (flags > (CUDA_EVENT_BLOCKING_SYNC | CUDA_EVENT_DISABLE_TIMING | CUDA_EVENT_INTERPROCESS) ||
        ((flags & CUDA_EVENT_INTERPROCESS) && !(flags & CUDA_EVENT_DISABLE_TIMING))) {
        return CUDA_E_INVALID_VALUE;
    }
    fake_lock();
    event = event_make(flags);
    if (event == NULL) {
        code = CUDA_E_OUT_OF_MEMORY;
    } else if (flags & CUDA_EVENT_INTERPROCESS) {
        event->shared = fake_state_event_add(&event->slot, &event->slot_id) == 0;
        if (!event->shared) {
            event_put(event);
            code = CUDA_E_OUT_OF_MEMORY;
        }
    }
    if (code == CUDA_OK) {
        *event_out = (cuda_event)(uintptr_t)event->id;
    }
    fake_unlock();
    return code;
}

cuda_result cuEventDestroy_v2(cuda_event handle)
{
    cuda_result code = fake_enter(__func__, FAKE_CONTEXT);
    struct fake_event *event;

    if (code != CUDA_OK) {
        return code;
    }
    fake_lock();
    event = event_find(handle);
    if (event == NULL) {
        code = CUDA_E_INVALID_HANDLE;
    } else {
        event_destroy(event);
    }
    fake_unlock();
    return code;
}

static cuda_result event_state(cuda_event handle, int wait)
{
    struct fake_event *event = event_find(handle);
    cuda_result code;
    uint64_t number;

    if (event == NULL) {
        return CUDA_E_INVALID_HANDLE;
    }
    code = event_usable(event);
    if (code != CUDA_OK) {
        return code;
    }
    number = event_recorded(event);
    if (!wait && !event_done(event, number)) {
        return CUDA_E_NOT_READY;
    }
    event->refs++;
    event_wait(event, number, NULL);
    code = event->context->error;
    event_put(event);
    return code;
}

cuda_result cuEventQuery(cuda_event handle)
{
    cuda_result code = fake_enter(__func__, FAKE_CONTEXT);

    if (code == CUDA_OK) {
        fake_lock();
        code = event_state(handle, 0);
        fake_unlock();
    }
    return code;
}

cuda_result cuEventSynchronize(cuda_event handle)
{
    cuda_result code = fake_enter(__func__, FAKE_CONTEXT);

    if (code == CUDA_OK) {
        fake_lock();
        code = event_state(handle, 1);
        fake_unlock();
    }
    return code;
}

/* ---- between processes ---- */

cuda_result cuIpcGetEventHandle(struct cuda_ipc_event_handle *handle_out, cuda_event handle)
{
    cuda_result code = fake_enter(__func__, FAKE_CONTEXT);
    struct event_handle image = {.magic = HANDLE_MAGIC};
    const struct fake_event *event;

    if (code != CUDA_OK) {
        return code;
    }
    fake_lock();
    event = event_find(handle);
    if (event == NULL) {
        code = CUDA_E_INVALID_HANDLE;
    } else if (!event->shared || event->imported) {
        code = CUDA_E_INVALID_VALUE;
    } else {
        image.id = event->slot_id;
        image.owner = fake.self;
        image.slot = event->slot;
        memcpy(handle_out->bytes, &image, sizeof(image));
    }
    fake_unlock();
    return code;
}

static cuda_result event_open(const struct event_handle *image, cuda_event *event_out)
{
    struct fake_event *event;
    struct fake_who owner;

    if (image->magic != HANDLE_MAGIC) {
        return CUDA_E_INVALID_VALUE;
    }
    if (image->owner.space != fake.self.space || fake_who_same(&image->owner, &fake.self)) {
        return CUDA_E_INVALID_CONTEXT;
    }
    if (fake_state_event_owner(image->slot, image->id, &owner) < 0) {
        return CUDA_E_INVALID_VALUE;
    }
    event = event_make(CUDA_EVENT_DISABLE_TIMING);
    if (event == NULL) {
        return CUDA_E_OUT_OF_MEMORY;
    }
    event->imported = 1;
    event->shared = 1;
    event->slot = image->slot;
    event->slot_id = image->id;
    event->owner = owner;
    *event_out = (cuda_event)(uintptr_t)event->id;
    return CUDA_OK;
}

cuda_result cuIpcOpenEventHandle(cuda_event *event_out, struct cuda_ipc_event_handle handle)
{
    cuda_result code = fake_enter(__func__, FAKE_CONTEXT);
    struct event_handle image;

    if (code == CUDA_OK) {
        memcpy(&image, handle.bytes, sizeof(image));
        fake_lock();
        code = event_open(&image, event_out);
        fake_unlock();
    }
    return code;
}
