/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda_ipc_mover.h"

#include <errno.h>
#include <sched.h>
#include <sys/prctl.h>

/*
 * The thread asks for the ends of parts instead of sleeping in cuEventSynchronize(): one that
 * sleeps there can neither queue the next part of another task nor be stopped when the device
 * hangs. It asks without a pause at first, then the less often the longer nothing has moved.
 */
#define SPIN_NS 40000ull
#define POLL_MIN_NS 20000ull
#define POLL_MAX_NS 200000ull
/* How long stop() waits for a device. */
#define STOP_NS 10000000000ull
/* Parts of each task that one turn queues, so that ended ones are seen in between. */
#define TURN_ROUNDS 4
#define NOTICES 32u

/* ---- tasks, with `pump` held ---- */

static void task_end_with(struct cuda_ipc_task *task, int code)
{
    if (task->status == 0) {
        task->status = code;
    }
}

/* The event of the engine's stream can serve the next task. */
static void task_drop_begin(struct cuda_ipc_mover *mover, struct cuda_ipc_task *task)
{
    if (task->begin != NULL) {
        (void)pthread_mutex_lock(&mover->lock);
        mover->events[mover->event_count++] = task->begin;
        (void)pthread_mutex_unlock(&mover->lock);
        task->begin = NULL;
    }
}

/* Whether all that the task waits for has come. */
static bool task_is_ready(struct cuda_ipc_mover *mover, struct cuda_ipc_task *task)
{
    while (task->begin != NULL || task->waited < task->wait_count) {
        cuda_event event = task->begin != NULL ? task->begin : task->waits[task->waited];
        const cuda_result code = mover->device->api->event_query(event);

        if (code == CUDA_E_NOT_READY) {
            return false;
        }
        if (code != CUDA_OK) {
            (void)cuda_ipc_issue_check(mover, task, "cuEventQuery", code);
            return false;
        }
        if (task->begin != NULL) {
            task_drop_begin(mover, task);
        } else {
            task->waited++;
        }
    }
    return true;
}

static void task_look(struct cuda_ipc_mover *mover, struct cuda_ipc_task *task)
{
    const int ending = atomic_load(&task->ending);

    if (cuda_ipc_device_state(mover->device) < 0) {
        task_end_with(task, -EIO);
    } else if (ending != 0) {
        task_end_with(task, ending);
    } else if (task->deadline_ms != 0 && task->deadline_ms != KVL_NEVER && !task->is_issued &&
               cuda_ipc_now_ns() / 1000000 >= task->deadline_ms) {
        task_end_with(task, -ETIMEDOUT);
    }
}

static bool task_is_done(const struct cuda_ipc_task *task)
{
    return task->parts == 0 && (task->is_issued || task->status < 0);
}

bool cuda_ipc_mover_issue(struct cuda_ipc_mover *mover, struct cuda_ipc_task *task)
{
    if (task->status < 0 || task->is_issued || task->parts >= CUDA_IPC_TASK_PARTS ||
        !task_is_ready(mover, task)) {
        return false;
    }
    return cuda_ipc_part_issue(mover, task) != -EAGAIN;
}

void cuda_ipc_mover_link(struct cuda_ipc_mover *mover, struct cuda_ipc_task *task)
{
    struct cuda_ipc_task **at = &mover->tasks;

    while (*at != NULL) {
        at = &(*at)->next;
    }
    *at = task;
}

static void mover_take_in(struct cuda_ipc_mover *mover)
{
    struct cuda_ipc_task *task;

    (void)pthread_mutex_lock(&mover->lock);
    task = mover->incoming_head;
    mover->incoming_head = NULL;
    mover->incoming_tail = NULL;
    (void)pthread_mutex_unlock(&mover->lock);
    if (task != NULL) {
        cuda_ipc_mover_link(mover, task);
    }
}

/* Everything that can be done now. @return whether something was. */
static bool mover_turn(struct cuda_ipc_mover *mover)
{
    bool has_moved = cuda_ipc_part_retire(mover) > 0;
    bool again = true;

    mover_take_in(mover);
    for (struct cuda_ipc_task *task = mover->tasks; task != NULL; task = task->next) {
        task_look(mover, task);
    }
    for (int round = 0; again && round < TURN_ROUNDS; round++) {
        again = false;
        for (struct cuda_ipc_task *task = mover->tasks; task != NULL; task = task->next) {
            again |= cuda_ipc_mover_issue(mover, task);
        }
        has_moved |= again;
    }
    if (cuda_ipc_device_state(mover->device) < 0) {
        cuda_ipc_part_drop(mover);
        for (struct cuda_ipc_task *task = mover->tasks; task != NULL; task = task->next) {
            task_end_with(task, -EIO);
        }
    }
    return has_moved;
}

static struct cuda_ipc_task *mover_take_done(struct cuda_ipc_mover *mover)
{
    struct cuda_ipc_task *done = NULL;
    struct cuda_ipc_task **tail = &done;
    struct cuda_ipc_task **at = &mover->tasks;

    while (*at != NULL) {
        struct cuda_ipc_task *task = *at;

        if (!task_is_done(task)) {
            at = &task->next;
            continue;
        }
        *at = task->next;
        task->next = NULL;
        *tail = task;
        tail = &task->next;
        task_drop_begin(mover, task);
        if (task->table != NULL) {
            task->table->is_used = false;
        }
    }
    return done;
}

/* ---- callbacks, without a lock ---- */

struct mover_notice {
    struct cuda_ipc_task *task;
    uint32_t layers;
};

static uint32_t mover_take_notices(struct cuda_ipc_mover *mover, struct mover_notice *notices)
{
    uint32_t count = 0;

    for (struct cuda_ipc_task *task = mover->tasks; task != NULL && count < NOTICES;
         task = task->next) {
        if (task->progress != NULL && task->status == 0 && task->layers_done > task->layers_told) {
            task->layers_told = task->layers_done;
            notices[count++] = (struct mover_notice){.task = task, .layers = task->layers_done};
        }
    }
    return count;
}

static void task_count(struct cuda_ipc_mover *mover, const struct cuda_ipc_task *task,
                       uint64_t bytes)
{
    atomic_ullong *counter = &mover->bytes_device;

    if (task->src.kind == CUDA_IPC_SIDE_HOST) {
        counter = &mover->bytes_up;
    } else if (task->dst.kind == CUDA_IPC_SIDE_HOST) {
        counter = &mover->bytes_down;
    }
    (void)atomic_fetch_add(counter, bytes);
    if (task->route.has_mirror) {
        (void)atomic_fetch_add(&mover->bytes_mirrored, bytes);
    }
    (void)atomic_fetch_add(&mover->jobs, 1);
    (void)atomic_fetch_add(&mover->chunks, task->count);
    if (task->status < 0) {
        (void)atomic_fetch_add(&mover->jobs_failed, 1);
    }
}

static void mover_unlist(struct cuda_ipc_mover *mover, struct cuda_ipc_task *task)
{
    (void)pthread_mutex_lock(&mover->lock);
    *(task->all_prev != NULL ? &task->all_prev->all_next : &mover->all) = task->all_next;
    if (task->all_next != NULL) {
        task->all_next->all_prev = task->all_prev;
    }
    (void)pthread_mutex_unlock(&mover->lock);
}

static void mover_finish(struct cuda_ipc_mover *mover, struct cuda_ipc_task *task)
{
    const uint32_t good = task->status == 0 ? task->count : task->chunks_done;
    struct cuda_ipc_copy_end end = {
        .status = task->status,
        .count = task->count,
        .item_status = task->item_status,
        .driver_code = task->driver_code,
    };

    for (uint32_t i = 0; i < task->count; i++) {
        task->item_status[i] = i < good ? 0 : task->status;
        end.bytes += i < good ? task->bytes[i] : 0;
    }
    mover_unlist(mover, task);
    task_count(mover, task, end.bytes);
    task->done(task->ctx, &end);
    cuda_ipc_task_destroy(task);

    (void)pthread_mutex_lock(&mover->lock);
    mover->count--;
    if (mover->count == 0) {
        (void)pthread_cond_broadcast(&mover->idle);
    }
    (void)pthread_mutex_unlock(&mover->lock);
}

/* ---- the thread ---- */

/* Waits for something new, or for a moment when parts are under way. @return false: time to end. */
static bool mover_wait(struct cuda_ipc_mover *mover, uint32_t *woken, uint64_t *moved_ns,
                       bool has_tasks)
{
    const uint64_t quiet_ns = cuda_ipc_now_ns() - *moved_ns;
    uint64_t pause = quiet_ns / 8;
    uint64_t until;
    struct timespec at;
    bool goes_on;

    if (has_tasks && quiet_ns < SPIN_NS) {
        (void)sched_yield();
        return true;
    }
    pause = pause < POLL_MIN_NS ? POLL_MIN_NS : pause > POLL_MAX_NS ? POLL_MAX_NS : pause;
    until = cuda_ipc_now_ns() + pause;
    at = (struct timespec){.tv_sec = (time_t)(until / 1000000000u),
                           .tv_nsec = (long)(until % 1000000000u)};
    (void)pthread_mutex_lock(&mover->lock);
    if (has_tasks) {
        if (mover->woken == *woken) {
            (void)pthread_cond_timedwait(&mover->more, &mover->lock, &at);
        }
    } else {
        while (mover->woken == *woken && !mover->is_stopping) {
            (void)pthread_cond_wait(&mover->more, &mover->lock);
        }
    }
    if (mover->woken != *woken) {
        *woken = mover->woken;
        *moved_ns = cuda_ipc_now_ns();
    }
    goes_on = has_tasks || mover->count > 0 || !mover->is_stopping;
    (void)pthread_mutex_unlock(&mover->lock);
    return goes_on;
}

static bool mover_is_stopping(struct cuda_ipc_mover *mover)
{
    bool is_stopping;

    (void)pthread_mutex_lock(&mover->lock);
    is_stopping = mover->is_stopping;
    (void)pthread_mutex_unlock(&mover->lock);
    return is_stopping;
}

/* One round of work and of telling. @return whether something moved. */
static bool mover_round(struct cuda_ipc_mover *mover, bool *has_tasks_out)
{
    struct mover_notice notices[NOTICES];
    struct cuda_ipc_task *done;
    uint32_t count;
    bool has_moved;

    (void)pthread_mutex_lock(&mover->pump);
    has_moved = mover_turn(mover);
    count = mover_take_notices(mover, notices);
    done = mover_take_done(mover);
    *has_tasks_out = mover->tasks != NULL;
    (void)pthread_mutex_unlock(&mover->pump);

    for (uint32_t i = 0; i < count; i++) {
        notices[i].task->progress(notices[i].task->ctx, notices[i].layers);
    }
    while (done != NULL) {
        struct cuda_ipc_task *task = done;

        done = task->next;
        mover_finish(mover, task);
        has_moved = true;
    }
    return has_moved;
}

void *cuda_ipc_mover_main(void *arg)
{
    struct cuda_ipc_mover *mover = arg;
    struct cuda_ipc_stay visit;
    uint64_t moved_ns = cuda_ipc_now_ns();
    uint64_t stopping_ns = 0;
    uint32_t woken = 0;
    bool has_tasks = false;

    /* timers of a thread are late by 50 us unless it says otherwise */
    (void)prctl(PR_SET_TIMERSLACK, 1000ul, 0ul, 0ul, 0ul);
    (void)cuda_ipc_device_enter(mover->device, &visit);
    do {
        if (mover_round(mover, &has_tasks)) {
            moved_ns = cuda_ipc_now_ns();
        }
        if (stopping_ns == 0 && mover_is_stopping(mover)) {
            stopping_ns = cuda_ipc_now_ns();
        }
        if (stopping_ns != 0 && cuda_ipc_now_ns() - stopping_ns > STOP_NS) {
            cuda_ipc_device_lose(mover->device, "cuEventQuery", CUDA_E_TIMEOUT);
        }
    } while (mover_wait(mover, &woken, &moved_ns, has_tasks));
    cuda_ipc_device_leave(mover->device, &visit);
    return NULL;
}
