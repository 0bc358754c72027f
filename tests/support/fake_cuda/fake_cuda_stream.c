/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Streams: queues with a thread each, which begins an operation some time after its submission.
 */
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

#include "fake_cuda_objects.h"

#define STREAM_TAG 0x5700000000000000ull

/* ---- the thread ---- */

/* The next operation to run, NULL when the stream has ended. Lock held. */
static struct fake_op *stream_next(struct fake_stream *stream)
{
    for (;;) {
        const struct fake_op *op = stream->head;

        if (op == NULL && (stream->destroyed || stream->killed)) {
            return NULL;
        }
        if (op == NULL || ((stream->held || fake.held) && !stream->killed)) {
            fake_wait(0);
        } else if (!stream->killed && fake_now_ns() < op->not_before_ns) {
            fake_wait(op->not_before_ns);
        } else {
            return stream->head;
        }
    }
}

static void stream_unlink(struct fake_stream *stream)
{
    struct fake_stream **at = &fake.streams;

    while (*at != stream) {
        at = &(*at)->next;
    }
    *at = stream->next;
}

static void *stream_main(void *arg)
{
    struct fake_stream *stream = arg;
    struct fake_op *op;

    fake_lock();
    while ((op = stream_next(stream)) != NULL) {
        int skip = stream->killed || (stream->context->error != CUDA_OK && !op->always);
        cuda_result code;

        fake_unlock();
        code = skip && !op->always ? CUDA_OK : op->run(op);
        fake_lock();
        if (code != CUDA_OK) {
            fake_break(stream->context, code);
        }
        stream->head = op->next;
        if (stream->head == NULL) {
            stream->tail = NULL;
        }
        stream->done++;
        op->drop(op);
        pthread_cond_broadcast(&fake.changed);
    }
    stream_unlink(stream);
    free(stream);
    pthread_cond_broadcast(&fake.changed);
    fake_unlock();
    return NULL;
}

static int stream_start(struct fake_stream *stream)
{
    pthread_attr_t attr;
    pthread_t thread;
    sigset_t all;
    sigset_t old;
    int r;

    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    r = pthread_create(&thread, &attr, stream_main, stream);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attr);
    return -r;
}

/* ---- for the other files ---- */

static struct fake_stream *stream_make(cuda_context context)
{
    struct fake_stream *stream = calloc(1, sizeof(*stream));

    if (stream == NULL) {
        return NULL;
    }
    stream->id = STREAM_TAG | fake_new_id();
    stream->context = context;
    if (stream_start(stream) < 0) {
        free(stream);
        return NULL;
    }
    stream->next = fake.streams;
    fake.streams = stream;
    return stream;
}

static struct fake_stream *stream_default(int which)
{
    cuda_context context = fake_current();

    if (context->defaults[which] == NULL) {
        context->defaults[which] = stream_make(context);
        if (context->defaults[which] != NULL) {
            context->defaults[which]->is_default = 1;
        }
    }
    return context->defaults[which];
}

struct fake_stream *fake_stream_find(cuda_stream handle)
{
    if (handle == NULL || handle == CUDA_STREAM_LEGACY) {
        return stream_default(0);
    }
    if (handle == CUDA_STREAM_PER_THREAD) {
        return stream_default(1);
    }
    for (struct fake_stream *stream = fake.streams; stream != NULL; stream = stream->next) {
        if (stream->id == (uintptr_t)handle && !stream->destroyed) {
            return stream;
        }
    }
    return NULL;
}

void fake_stream_push(struct fake_stream *stream, struct fake_op *op)
{
    op->next = NULL;
    op->stream = stream;
    op->not_before_ns = fake_now_ns() + fake.delay_ns;
    if (stream->tail == NULL) {
        stream->head = op;
    } else {
        stream->tail->next = op;
    }
    stream->tail = op;
    stream->submitted++;
    pthread_cond_broadcast(&fake.changed);
}

/* By id, because a destroyed stream goes away by itself. */
static struct fake_stream *stream_by_id(uint64_t id)
{
    struct fake_stream *stream = fake.streams;

    while (stream != NULL && stream->id != id) {
        stream = stream->next;
    }
    return stream;
}

void fake_stream_finish(struct fake_stream *stream)
{
    uint64_t until = stream->submitted;
    uint64_t id = stream->id;

    while ((stream = stream_by_id(id)) != NULL && stream->done < until) {
        fake_wait(0);
    }
}

static struct fake_stream *stream_of(cuda_context context)
{
    struct fake_stream *stream = fake.streams;

    while (stream != NULL && stream->context != context) {
        stream = stream->next;
    }
    return stream;
}

void fake_stream_end_all(cuda_context context)
{
    for (struct fake_stream *stream = fake.streams; stream != NULL; stream = stream->next) {
        if (stream->context == context) {
            stream->killed = 1;
        }
    }
    pthread_cond_broadcast(&fake.changed);
    while (stream_of(context) != NULL) {
        fake_wait(0);
    }
    context->defaults[0] = NULL;
    context->defaults[1] = NULL;
}

uint32_t fake_stream_count(void)
{
    uint32_t count = 0;

    for (const struct fake_stream *stream = fake.streams; stream != NULL; stream = stream->next) {
        count += !stream->is_default && !stream->destroyed;
    }
    return count;
}

/* Control needs no context, so the default streams are not for it. */
static struct fake_stream *stream_for_control(cuda_stream handle)
{
    return stream_by_id((uintptr_t)handle);
}

void fake_stream_hold(cuda_stream handle, int held)
{
    struct fake_stream *stream = handle == NULL ? NULL : stream_for_control(handle);

    if (handle == NULL) {
        fake.held = held;
    } else if (stream != NULL) {
        stream->held = held;
    }
    pthread_cond_broadcast(&fake.changed);
}

uint32_t fake_stream_pending(cuda_stream handle)
{
    uint64_t pending = 0;

    for (const struct fake_stream *stream = fake.streams; stream != NULL; stream = stream->next) {
        if (handle == NULL || stream->id == (uintptr_t)handle) {
            pending += stream->submitted - stream->done;
        }
    }
    return (uint32_t)pending;
}

/* ---- the driver's functions ---- */

cuda_result cuStreamCreateWithPriority(cuda_stream *stream_out, unsigned int flags, int priority)
{
    cuda_result code = fake_enter(__func__, FAKE_CONTEXT);
    struct fake_stream *stream;

    (void)priority; /* out of range is not refused, it is taken to the nearest */
    if (code != CUDA_OK) {
        return code;
    }
    if (flags > CUDA_STREAM_NON_BLOCKING) {
        return CUDA_E_INVALID_VALUE;
    }
    fake_lock();
    stream = stream_make(fake_current());
    if (stream != NULL) {
        *stream_out = (cuda_stream)(uintptr_t)stream->id;
    }
    fake_unlock();
    return stream == NULL ? CUDA_E_OUT_OF_MEMORY : CUDA_OK;
}

cuda_result cuStreamDestroy_v2(cuda_stream handle)
{
    cuda_result code = fake_enter(__func__, FAKE_CONTEXT);
    struct fake_stream *stream;

    if (code != CUDA_OK) {
        return code;
    }
    fake_lock();
    stream = fake_stream_find(handle);
    if (stream == NULL || stream->is_default) {
        code = CUDA_E_INVALID_HANDLE;
    } else {
        stream->destroyed = 1; /* its thread does what is left */
        pthread_cond_broadcast(&fake.changed);
    }
    fake_unlock();
    return code;
}

cuda_result cuStreamSynchronize(cuda_stream handle)
{
    cuda_result code = fake_enter(__func__, FAKE_CONTEXT);
    struct fake_stream *stream;
    cuda_context context;

    if (code != CUDA_OK) {
        return code;
    }
    fake_lock();
    stream = fake_stream_find(handle);
    if (stream == NULL) {
        code = CUDA_E_INVALID_HANDLE;
    } else {
        context = stream->context;
        fake_stream_finish(stream);
        code = context->error;
    }
    fake_unlock();
    return code;
}

cuda_result cuStreamQuery(cuda_stream handle)
{
    cuda_result code = fake_enter(__func__, FAKE_CONTEXT);
    const struct fake_stream *stream;

    if (code != CUDA_OK) {
        return code;
    }
    fake_lock();
    stream = fake_stream_find(handle);
    if (stream == NULL) {
        code = CUDA_E_INVALID_HANDLE;
    } else if (stream->done < stream->submitted) {
        code = CUDA_E_NOT_READY;
    } else {
        code = stream->context->error;
    }
    fake_unlock();
    return code;
}

/* ---- callbacks ---- */

struct fake_call_op {
    struct fake_op op;
    cuda_host_fn fn;
    void *arg;
};

static cuda_result call_run(struct fake_op *op)
{
    const struct fake_call_op *call = (const struct fake_call_op *)op;

    fake_forbid_calls(1);
    call->fn(call->arg);
    fake_forbid_calls(0);
    return CUDA_OK;
}

static void call_drop(struct fake_op *op)
{
    free(op);
}

cuda_result cuLaunchHostFunc(cuda_stream handle, cuda_host_fn fn, void *arg)
{
    cuda_result code = fake_enter(__func__, FAKE_CONTEXT);
    struct fake_call_op *call;
    struct fake_stream *stream;

    if (code != CUDA_OK) {
        return code;
    }
    if (fn == NULL) {
        return CUDA_E_INVALID_VALUE;
    }
    call = calloc(1, sizeof(*call));
    if (call == NULL) {
        return CUDA_E_OUT_OF_MEMORY;
    }
    *call = (struct fake_call_op){.op = {.run = call_run, .drop = call_drop}, .fn = fn, .arg = arg};
    fake_lock();
    stream = fake_stream_find(handle);
    if (stream == NULL) {
        free(call);
        code = CUDA_E_INVALID_HANDLE;
    } else {
        fake_stream_push(stream, &call->op);
    }
    fake_unlock();
    return code;
}
