/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>

#include "cuda_ipc_mover.h"

/* ---- submission ---- */

/* Takes a place, and an event when the engine's stream is to be waited for. */
static int mover_admit(struct cuda_ipc_mover *mover, struct cuda_ipc_task *task, bool has_stream)
{
    int r = cuda_ipc_device_state(mover->device);

    (void)pthread_mutex_lock(&mover->lock);
    if (r == 0 && mover->is_closed) {
        r = -ECANCELED;
    }
    if (r == 0 && mover->count >= mover->options.max_jobs) {
        r = -EAGAIN;
    }
    if (r == 0) {
        mover->count++;
        if (has_stream) {
            task->begin = mover->events[--mover->event_count];
        }
    }
    (void)pthread_mutex_unlock(&mover->lock);
    return r;
}

static void mover_expel(struct cuda_ipc_mover *mover, struct cuda_ipc_task *task)
{
    (void)pthread_mutex_lock(&mover->lock);
    if (task->begin != NULL) {
        mover->events[mover->event_count++] = task->begin;
        task->begin = NULL;
    }
    mover->count--;
    if (mover->count == 0) {
        (void)pthread_cond_broadcast(&mover->idle);
        (void)pthread_cond_signal(&mover->more);
    }
    (void)pthread_mutex_unlock(&mover->lock);
}

/* Lists the task and wakes the thread. @return false: the instance was stopped meanwhile. */
static bool mover_enlist(struct cuda_ipc_mover *mover, struct cuda_ipc_task *task, bool is_incoming)
{
    bool is_open;

    (void)pthread_mutex_lock(&mover->lock);
    is_open = !mover->is_closed;
    if (is_open) {
        task->all_next = mover->all;
        if (task->all_next != NULL) {
            task->all_next->all_prev = task;
        }
        mover->all = task;
        if (is_incoming) {
            *(mover->incoming_tail != NULL ? &mover->incoming_tail->next : &mover->incoming_head) =
                task;
            mover->incoming_tail = task;
        }
        mover->woken++;
        (void)pthread_cond_signal(&mover->more);
    }
    (void)pthread_mutex_unlock(&mover->lock);
    return is_open;
}

/* Where nobody queues parts at the moment the caller does it for its own task: a thread need not
 * wake up first. Not where bytes are copied by the CPU. */
static bool mover_hand_over(struct cuda_ipc_mover *mover, struct cuda_ipc_task *task)
{
    bool is_taken;

    if (task->route.has_mirror || pthread_mutex_trylock(&mover->pump) != 0) {
        return mover_enlist(mover, task, true);
    }
    is_taken = mover_enlist(mover, task, false);
    if (is_taken) {
        cuda_ipc_mover_link(mover, task);
        while (cuda_ipc_mover_issue(mover, task)) {
        }
    }
    (void)pthread_mutex_unlock(&mover->pump);
    return is_taken;
}

int cuda_ipc_mover_submit(struct cuda_ipc_mover *mover, struct cuda_ipc_task *take_task,
                          cuda_stream stream)
{
    struct cuda_ipc_task *task = take_task;
    cuda_result code = CUDA_OK;
    int r = mover_admit(mover, task, stream != NULL);

    if (r < 0) {
        return r;
    }
    if (stream != NULL) {
        code = mover->device->api->event_record(task->begin, stream);
    }
    if (code != CUDA_OK) {
        r = cuda_ipc_device_fail(mover->device, "cuEventRecord", code);
    } else if (!mover_hand_over(mover, task)) {
        r = -ECANCELED;
    }
    if (r < 0) {
        mover_expel(mover, task);
    }
    return r;
}

void cuda_ipc_mover_cancel(struct cuda_ipc_mover *mover, uint64_t id)
{
    (void)pthread_mutex_lock(&mover->lock);
    for (struct cuda_ipc_task *task = mover->all; task != NULL; task = task->all_next) {
        if (task->id == id) {
            atomic_store(&task->ending, -ECANCELED);
            mover->woken++;
            (void)pthread_cond_signal(&mover->more);
        }
    }
    (void)pthread_mutex_unlock(&mover->lock);
}

int cuda_ipc_mover_drain(struct cuda_ipc_mover *mover, uint64_t deadline_ms)
{
    const struct timespec at = {.tv_sec = (time_t)(deadline_ms / 1000),
                                .tv_nsec = (long)(deadline_ms % 1000 * 1000000)};
    int r = 0;

    (void)pthread_mutex_lock(&mover->lock);
    while (mover->count > 0 && r == 0) {
        r = -pthread_cond_timedwait(&mover->idle, &mover->lock, &at);
    }
    r = mover->count == 0 ? 0 : -ETIMEDOUT;
    (void)pthread_mutex_unlock(&mover->lock);
    return r;
}

void cuda_ipc_mover_stop(struct cuda_ipc_mover *mover)
{
    (void)pthread_mutex_lock(&mover->lock);
    mover->is_closed = true;
    mover->is_stopping = true;
    for (struct cuda_ipc_task *task = mover->all; task != NULL; task = task->all_next) {
        atomic_store(&task->ending, -ECANCELED);
    }
    mover->woken++;
    (void)pthread_cond_signal(&mover->more);
    (void)pthread_mutex_unlock(&mover->lock);
    (void)mover->host->thread_join(mover->host, mover->thread);
}
