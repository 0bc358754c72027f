/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda_ipc_copy.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_ipc_mover.h"
#include "setting.h"

#define PINS_MAX 16u

/** Host memory that is pinned, by us or by somebody before. */
struct copy_pin {
    uint64_t base;
    uint64_t bytes;
    bool is_ours;
};

struct cuda_ipc_copy {
    const struct kvl_host *host; /* borrowed */
    struct cuda_ipc_devices *devices; /* borrowed */
    struct cuda_ipc_copy_options options;
    pthread_mutex_t opening; /* held while a device is opened, before `lock` */
    pthread_rwlock_t lock; /* guards what is below */
    struct cuda_ipc_mover *movers[CUDA_IPC_DEVICES_MAX]; /* NULL: not open */
    struct copy_pin pins[PINS_MAX];
    uint32_t pin_count;
    bool is_stopped;
};

int cuda_ipc_copy_create(const struct kvl_host *host, struct cuda_ipc_devices *devices,
                         const struct cuda_ipc_copy_options *options,
                         struct cuda_ipc_copy **copy_out)
{
    struct cuda_ipc_copy *copy = calloc(1, sizeof(*copy));

    if (copy == NULL) {
        return -ENOMEM;
    }
    copy->host = host;
    copy->devices = devices;
    copy->options = *options;
    (void)pthread_mutex_init(&copy->opening, NULL);
    (void)pthread_rwlock_init(&copy->lock, NULL);
    *copy_out = copy;
    return 0;
}

void cuda_ipc_copy_destroy(struct cuda_ipc_copy *copy)
{
    if (copy == NULL) {
        return;
    }
    for (uint32_t i = 0; i < CUDA_IPC_DEVICES_MAX; i++) {
        if (copy->movers[i] != NULL) {
            cuda_ipc_mover_destroy(copy->movers[i]);
        }
    }
    (void)pthread_rwlock_destroy(&copy->lock);
    (void)pthread_mutex_destroy(&copy->opening);
    free(copy);
}

/* ---- devices ---- */

/* NULL when the device is not open; movers stay until destroy. */
static struct cuda_ipc_mover *copy_mover(struct cuda_ipc_copy *copy, int device)
{
    struct cuda_ipc_mover *mover = NULL;

    (void)pthread_rwlock_rdlock(&copy->lock);
    if (device >= 0 && (uint32_t)device < CUDA_IPC_DEVICES_MAX) {
        mover = copy->movers[device];
    }
    (void)pthread_rwlock_unlock(&copy->lock);
    return mover;
}

static bool copy_is_stopped(struct cuda_ipc_copy *copy)
{
    bool is_stopped;

    (void)pthread_rwlock_rdlock(&copy->lock);
    is_stopped = copy->is_stopped;
    (void)pthread_rwlock_unlock(&copy->lock);
    return is_stopped;
}

static int copy_open(struct cuda_ipc_copy *copy, int ordinal, struct kvl_err *err)
{
    struct cuda_ipc_device *device;
    struct cuda_ipc_mover *mover;
    int r = cuda_ipc_devices_open(copy->devices, ordinal, &device, err);

    if (r < 0 || copy_mover(copy, ordinal) != NULL) {
        return r;
    }
    if (copy_is_stopped(copy)) {
        return kvl_fail(err, -ECANCELED, "cuda_ipc: the instance is stopping");
    }
    r = cuda_ipc_mover_create(copy->host, device, &copy->options, &mover, err);
    if (r < 0) {
        return r;
    }
    (void)pthread_rwlock_wrlock(&copy->lock);
    copy->movers[ordinal] = mover;
    (void)pthread_rwlock_unlock(&copy->lock);
    return 0;
}

int cuda_ipc_copy_open(struct cuda_ipc_copy *copy, int device, struct kvl_err *err)
{
    int r;

    (void)pthread_mutex_lock(&copy->opening);
    r = copy_open(copy, device, err);
    (void)pthread_mutex_unlock(&copy->opening);
    return r;
}

/* One that works, else one whose context is dead but which answers; NULL when there is none. */
static struct cuda_ipc_mover *copy_any_mover(struct cuda_ipc_copy *copy)
{
    struct cuda_ipc_mover *found = NULL;

    for (int i = 0; i < (int)CUDA_IPC_DEVICES_MAX; i++) {
        struct cuda_ipc_mover *mover = copy_mover(copy, i);

        if (mover != NULL && cuda_ipc_device_state(mover->device) == 0) {
            return mover;
        }
        if (mover != NULL && atomic_load(&mover->device->lost) != CUDA_E_TIMEOUT) {
            found = mover;
        }
    }
    return found;
}

/* ---- pinned memory ---- */

static int copy_pin(struct cuda_ipc_copy *copy, struct cuda_ipc_device *device, void *base,
                    uint64_t bytes, struct kvl_err *err)
{
    struct copy_pin *pin = &copy->pins[copy->pin_count];
    char text[CUDA_IPC_TEXT_MAX];
    cuda_result code;

    if (copy->pin_count == PINS_MAX) {
        return kvl_fail(err, -ENOMEM, "cuda_ipc: %u ranges of host memory are pinned, no more",
                        PINS_MAX);
    }
    code = device->api->mem_host_register(base, bytes, CUDA_HOST_PORTABLE);
    if (code != CUDA_OK && code != CUDA_E_HOST_MEMORY_ALREADY_REGISTERED) {
        cuda_ipc_api_explain(device->api, "cuMemHostRegister", code, text, sizeof(text));
        return kvl_fail(err, cuda_ipc_device_fail(device, "cuMemHostRegister", code),
                        "cuda_ipc: %llu bytes of host memory cannot be pinned: %s",
                        (unsigned long long)bytes, text);
    }
    *pin = (struct copy_pin){
        .base = (uint64_t)(uintptr_t)base, .bytes = bytes, .is_ours = code == CUDA_OK};
    copy->pin_count++;
    return code == CUDA_OK ? 0 : -EEXIST;
}

int cuda_ipc_copy_pin(struct cuda_ipc_copy *copy, void *base, uint64_t bytes, struct kvl_err *err)
{
    struct cuda_ipc_mover *mover = copy_any_mover(copy);
    struct cuda_ipc_stay visit;
    int r;

    if (mover == NULL) {
        return kvl_fail(err, -ENODEV,
                        "cuda_ipc: no device is open that memory is to be pinned for");
    }
    r = cuda_ipc_device_enter(mover->device, &visit);
    if (r == 0) {
        (void)pthread_rwlock_wrlock(&copy->lock);
        r = copy_pin(copy, mover->device, base, bytes, err);
        (void)pthread_rwlock_unlock(&copy->lock);
    } else {
        (void)kvl_fail(err, r, "cuda_ipc: the context of device %d cannot be entered",
                       mover->device->ordinal);
    }
    cuda_ipc_device_leave(mover->device, &visit);
    return r;
}

static void copy_unpin_all(struct cuda_ipc_copy *copy)
{
    struct cuda_ipc_mover *mover = copy_any_mover(copy);
    struct cuda_ipc_stay visit;

    if (mover == NULL) {
        copy->pin_count = 0; /* devices that hang hold them for ever */
        return;
    }
    if (cuda_ipc_device_enter(mover->device, &visit) == 0) {
        while (copy->pin_count > 0) {
            const struct copy_pin *pin = &copy->pins[--copy->pin_count];

            if (pin->is_ours) {
                (void)mover->device->api->mem_host_unregister((void *)(uintptr_t)pin->base);
            }
        }
    }
    cuda_ipc_device_leave(mover->device, &visit);
}

static bool copy_is_pinned(struct cuda_ipc_copy *copy, const struct cuda_ipc_job *job)
{
    const struct cuda_ipc_job_side *side =
        job->src.kind == CUDA_IPC_SIDE_HOST ? &job->src : &job->dst;
    bool is_pinned = true;

    if (side->kind != CUDA_IPC_SIDE_HOST || side->hosts == NULL || job->bytes == NULL) {
        return true;
    }
    (void)pthread_rwlock_rdlock(&copy->lock);
    for (uint32_t i = 0; i < job->count && is_pinned; i++) {
        const uint64_t at = (uint64_t)(uintptr_t)side->hosts[i];

        is_pinned = false;
        for (uint32_t j = 0; j < copy->pin_count && !is_pinned; j++) {
            is_pinned = at - copy->pins[j].base <= copy->pins[j].bytes &&
                        job->bytes[i] <= copy->pins[j].bytes - (at - copy->pins[j].base);
        }
    }
    (void)pthread_rwlock_unlock(&copy->lock);
    return is_pinned;
}

/* ---- jobs ---- */

static int side_device(const struct cuda_ipc_job_side *side)
{
    if (side->kind == CUDA_IPC_SIDE_PAGED) {
        return side->kv == NULL ? -1 : side->kv->device->ordinal;
    }
    return side->kind == CUDA_IPC_SIDE_HOST ? -1 : side->device;
}

/* Runs come from the engine as they are: an address that is no memory would cost it its context. */
static int copy_check_runs(struct cuda_ipc_device *device, const struct cuda_ipc_job_side *side,
                           uint32_t count)
{
    struct cuda_ipc_ranges ranges = {0};

    if (side->kind != CUDA_IPC_SIDE_RUNS) {
        return 0;
    }
    for (uint32_t i = side->sg_first[0]; i < side->sg_first[count]; i++) {
        const struct kvl_sg *sg = &side->sg[i];
        const uint64_t bytes = (sg->count - 1) * sg->stride + sg->length;

        if (sg->mem != KVL_MEM_CUDA || sg->device != side->device ||
            (sg->length > 0 && cuda_ipc_device_covers(device, &ranges, sg->addr, bytes) < bytes)) {
            return -EINVAL;
        }
    }
    return 0;
}

static int copy_submit(struct cuda_ipc_copy *copy, struct cuda_ipc_mover *mover,
                       const struct cuda_ipc_job *job)
{
    struct cuda_ipc_task *task;
    int r = cuda_ipc_task_create(mover, job, copy_is_pinned(copy, job), &task);

    if (r < 0) {
        return r;
    }
    r = copy_check_runs(mover->device, &job->src, job->count);
    if (r == 0) {
        r = copy_check_runs(mover->device, &job->dst, job->count);
    }
    if (r == 0) {
        r = cuda_ipc_mover_submit(mover, task, job->stream);
    }
    if (r < 0) {
        cuda_ipc_task_destroy(task);
    }
    return r;
}

int cuda_ipc_copy_submit(struct cuda_ipc_copy *copy, const struct cuda_ipc_job *job)
{
    const bool is_to_host = job->dst.kind == CUDA_IPC_SIDE_HOST;
    struct cuda_ipc_mover *mover;
    struct cuda_ipc_stay visit;
    int r;

    if (is_to_host && job->src.kind == CUDA_IPC_SIDE_HOST) {
        return -ENOTSUP;
    }
    mover = copy_mover(copy, side_device(is_to_host ? &job->src : &job->dst));
    if (mover == NULL) {
        return -ENODEV;
    }
    r = cuda_ipc_device_state(mover->device);
    if (r < 0) {
        return r;
    }
    r = cuda_ipc_device_enter(mover->device, &visit);
    if (r == 0) {
        r = copy_submit(copy, mover, job);
    }
    cuda_ipc_device_leave(mover->device, &visit);
    return r;
}

void cuda_ipc_copy_cancel(struct cuda_ipc_copy *copy, uint64_t id)
{
    for (int i = 0; i < (int)CUDA_IPC_DEVICES_MAX; i++) {
        struct cuda_ipc_mover *mover = copy_mover(copy, i);

        if (mover != NULL) {
            cuda_ipc_mover_cancel(mover, id);
        }
    }
}

int cuda_ipc_copy_drain(struct cuda_ipc_copy *copy, uint64_t deadline_ms)
{
    int r = 0;

    for (int i = 0; i < (int)CUDA_IPC_DEVICES_MAX && r == 0; i++) {
        struct cuda_ipc_mover *mover = copy_mover(copy, i);

        if (mover != NULL) {
            r = cuda_ipc_mover_drain(mover, deadline_ms);
        }
    }
    return r;
}

void cuda_ipc_copy_stop(struct cuda_ipc_copy *copy)
{
    bool was_stopped;

    (void)pthread_mutex_lock(&copy->opening);
    (void)pthread_rwlock_wrlock(&copy->lock);
    was_stopped = copy->is_stopped;
    copy->is_stopped = true;
    (void)pthread_rwlock_unlock(&copy->lock);
    for (int i = 0; i < (int)CUDA_IPC_DEVICES_MAX && !was_stopped; i++) {
        struct cuda_ipc_mover *mover = copy_mover(copy, i);

        if (mover != NULL) {
            cuda_ipc_mover_stop(mover);
        }
    }
    if (!was_stopped) {
        copy_unpin_all(copy);
    }
    (void)pthread_mutex_unlock(&copy->opening);
}

/* ---- watch ---- */

void cuda_ipc_copy_describe(struct cuda_ipc_copy *copy, char *text_out, size_t size)
{
    size_t used = 0;

    text_out[0] = '\0';
    for (int i = 0; i < (int)CUDA_IPC_DEVICES_MAX && used + 3 < size; i++) {
        const struct cuda_ipc_mover *mover = copy_mover(copy, i);

        if (mover != NULL) {
            if (used > 0) {
                used += (size_t)snprintf(text_out + used, size - used, "; ");
            }
            cuda_ipc_mover_describe(mover, text_out + used, size - used);
            used = strlen(text_out);
        }
    }
}

void cuda_ipc_copy_stats(struct cuda_ipc_copy *copy, kvl_stat_fn fn, void *ctx)
{
    struct cuda_ipc_counts counts = {0};

    for (int i = 0; i < (int)CUDA_IPC_DEVICES_MAX; i++) {
        struct cuda_ipc_mover *mover = copy_mover(copy, i);

        if (mover != NULL) {
            cuda_ipc_mover_stats(mover, &counts);
        }
    }
    fn(ctx, "copy_jobs", counts.jobs);
    fn(ctx, "copy_jobs_failed", counts.jobs_failed);
    fn(ctx, "copy_in_flight", counts.in_flight);
    fn(ctx, "copy_chunks", counts.chunks);
    fn(ctx, "copy_bytes_device", counts.bytes_device);
    fn(ctx, "copy_bytes_up", counts.bytes_up);
    fn(ctx, "copy_bytes_down", counts.bytes_down);
    fn(ctx, "copy_bytes_unpinned", counts.bytes_mirrored);
    fn(ctx, "copy_parts", counts.parts);
    fn(ctx, "copy_driver_calls", counts.calls);
    fn(ctx, "copy_launches", counts.launches);
    fn(ctx, "copy_batches", counts.batches);
    fn(ctx, "copy_crossover_bytes", counts.crossover);
    fn(ctx, "copy_stage_below_bytes", counts.stage_below);
}

bool cuda_ipc_copy_is_well(struct cuda_ipc_copy *copy)
{
    bool is_well = true;

    for (int i = 0; i < (int)CUDA_IPC_DEVICES_MAX && is_well; i++) {
        const struct cuda_ipc_mover *mover = copy_mover(copy, i);

        is_well = mover == NULL || cuda_ipc_device_state(mover->device) == 0;
    }
    return is_well;
}
