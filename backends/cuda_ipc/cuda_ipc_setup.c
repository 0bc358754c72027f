/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>

#include "cond.h"
#include "cuda_ipc_mover.h"
#include "setting.h"

#define STAGE_BYTES (8ull << 20)
#define STAGE_BYTES_MIN 4096u
#define STAGE_COUNT 3u
#define JOBS 64u

static struct cuda_ipc_copy_options setup_options(const struct cuda_ipc_copy_options *from)
{
    struct cuda_ipc_copy_options options = *from;

    if (options.max_jobs == 0) {
        options.max_jobs = JOBS;
    } else if (options.max_jobs > CUDA_IPC_JOBS_MAX) {
        options.max_jobs = CUDA_IPC_JOBS_MAX;
    }
    if (options.stage_bytes == 0) {
        options.stage_bytes = STAGE_BYTES;
    } else if (options.stage_bytes < STAGE_BYTES_MIN) {
        options.stage_bytes = STAGE_BYTES_MIN;
    }
    options.stage_bytes &= ~255ull;
    if (options.stage_count == 0) {
        options.stage_count = STAGE_COUNT;
    } else if (options.stage_count < 2 || options.stage_count > CUDA_IPC_SLOTS_MAX) {
        options.stage_count = options.stage_count < 2 ? 2 : CUDA_IPC_SLOTS_MAX;
    }
    return options;
}

/* ---- memory and events; with the context current ---- */

static cuda_result setup_slots(struct cuda_ipc_mover *mover)
{
    const struct cuda_ipc_copy_options *options = &mover->options;
    const cuda_result code = mover->device->api->mem_alloc(
        &mover->slot_memory, 2 * options->stage_count * options->stage_bytes);

    if (code != CUDA_OK) {
        mover->slot_memory = 0;
        return code;
    }
    for (uint32_t i = 0; i < 2 * options->stage_count; i++) {
        mover->slots[i % 2][i / 2].device = mover->slot_memory + i * options->stage_bytes;
    }
    return CUDA_OK;
}

static cuda_result setup_tables(struct cuda_ipc_mover *mover)
{
    const struct cuda_ipc_api *api = mover->device->api;
    cuda_result code =
        api->mem_host_alloc(&mover->table_host, CUDA_IPC_TABLES * CUDA_IPC_TABLE_BYTES, 0);

    if (code != CUDA_OK) {
        mover->table_host = NULL;
        return code;
    }
    code = api->mem_alloc(&mover->table_device, CUDA_IPC_TABLES * CUDA_IPC_TABLE_BYTES);
    if (code != CUDA_OK) {
        mover->table_device = 0;
        return code;
    }
    for (uint32_t i = 0; i < CUDA_IPC_TABLES; i++) {
        mover->tables[i].host = (uint8_t *)mover->table_host + i * CUDA_IPC_TABLE_BYTES;
        mover->tables[i].device = mover->table_device + i * CUDA_IPC_TABLE_BYTES;
    }
    return CUDA_OK;
}

static cuda_result setup_event(struct cuda_ipc_mover *mover, cuda_event *event_out)
{
    const cuda_result code = mover->device->api->event_create(event_out, CUDA_EVENT_DISABLE_TIMING);

    if (code != CUDA_OK) {
        *event_out = NULL;
    }
    return code;
}

static cuda_result setup_events(struct cuda_ipc_mover *mover)
{
    cuda_result code = CUDA_OK;

    for (uint32_t i = 0; i < CUDA_IPC_PARTS && code == CUDA_OK; i++) {
        code = setup_event(mover, &mover->parts[i].end);
        if (code == CUDA_OK) {
            code = setup_event(mover, &mover->parts[i].middle);
        }
        mover->parts[i].next = mover->parts_free;
        mover->parts_free = &mover->parts[i];
    }
    while (code == CUDA_OK && mover->event_count < mover->options.max_jobs) {
        code = setup_event(mover, &mover->events[mover->event_count]);
        mover->event_count += code == CUDA_OK;
    }
    return code;
}

static void teardown_events(struct cuda_ipc_mover *mover)
{
    const struct cuda_ipc_api *api = mover->device->api;

    for (uint32_t i = 0; i < CUDA_IPC_PARTS; i++) {
        if (mover->parts[i].end != NULL) {
            (void)api->event_destroy(mover->parts[i].end);
        }
        if (mover->parts[i].middle != NULL) {
            (void)api->event_destroy(mover->parts[i].middle);
        }
    }
    while (mover->event_count > 0) {
        (void)api->event_destroy(mover->events[--mover->event_count]);
    }
}

static void teardown(struct cuda_ipc_mover *mover)
{
    const struct cuda_ipc_api *api = mover->device->api;

    teardown_events(mover);
    for (uint32_t i = 0; i < 2 * CUDA_IPC_SLOTS_MAX; i++) {
        if (mover->slots[i % 2][i / 2].mirror != NULL) {
            (void)api->mem_free_host(mover->slots[i % 2][i / 2].mirror);
        }
    }
    if (mover->table_host != NULL) {
        (void)api->mem_free_host(mover->table_host);
    }
    if (mover->table_device != 0) {
        (void)api->mem_free(mover->table_device);
    }
    if (mover->slot_memory != 0) {
        (void)api->mem_free(mover->slot_memory);
    }
    cuda_ipc_image_unload(&mover->image, mover->device);
}

static int setup(struct cuda_ipc_mover *mover, struct kvl_err *err)
{
    const char *call = "cuMemAlloc";
    char text[CUDA_IPC_TEXT_MAX];
    cuda_result code = setup_slots(mover);

    if (code == CUDA_OK) {
        call = "cuMemHostAlloc";
        code = setup_tables(mover);
    }
    if (code == CUDA_OK) {
        call = "cuEventCreate";
        code = setup_events(mover);
    }
    if (code == CUDA_OK) {
        cuda_ipc_image_load(&mover->image, mover->device, mover->options.image);
        cuda_ipc_measure(mover);
        if (cuda_ipc_device_state(mover->device) < 0) {
            return kvl_fail(err, -EIO, "cuda_ipc: device %d '%s' was lost when it was tried out",
                            mover->device->ordinal, mover->device->name);
        }
        return 0;
    }
    cuda_ipc_api_explain(mover->device->api, call, code, text, sizeof(text));
    return kvl_fail(err, cuda_ipc_device_fail(mover->device, call, code),
                    "cuda_ipc: device %d '%s' cannot be used for copies: %s",
                    mover->device->ordinal, mover->device->name, text);
}

/* ---- one device ---- */

int cuda_ipc_mover_create(const struct kvl_host *host, struct cuda_ipc_device *device,
                          const struct cuda_ipc_copy_options *options,
                          struct cuda_ipc_mover **mover_out, struct kvl_err *err)
{
    struct cuda_ipc_mover *mover = calloc(1, sizeof(*mover));
    struct cuda_ipc_stay visit;
    int r;

    if (mover == NULL) {
        return kvl_fail(err, -ENOMEM, "cuda_ipc: no memory for the copies of device %d",
                        device->ordinal);
    }
    mover->host = host;
    mover->device = device;
    mover->options = setup_options(options);
    (void)pthread_mutex_init(&mover->lock, NULL);
    (void)pthread_mutex_init(&mover->pump, NULL);
    (void)kvl_monotonic_cond_init(&mover->more);
    (void)kvl_monotonic_cond_init(&mover->idle);

    r = cuda_ipc_device_enter(device, &visit);
    if (r == 0) {
        r = setup(mover, err);
    } else {
        (void)kvl_fail(err, r, "cuda_ipc: the context of device %d cannot be entered",
                       device->ordinal);
    }
    cuda_ipc_device_leave(device, &visit);
    if (r == 0) {
        r = host->thread_create(host, "kvl-cuda-copy", cuda_ipc_mover_main, mover, &mover->thread);
        if (r < 0) {
            (void)kvl_fail(err, r, "cuda_ipc: no thread for the copies of device %d",
                           device->ordinal);
        }
    }
    if (r < 0) {
        cuda_ipc_mover_destroy(mover);
        return r;
    }
    *mover_out = mover;
    return 0;
}

void cuda_ipc_mover_destroy(struct cuda_ipc_mover *mover)
{
    struct cuda_ipc_stay visit;

    /* a device that hangs may still write to the buffers, and would hold up whoever frees them */
    if (atomic_load(&mover->device->lost) != CUDA_E_TIMEOUT) {
        if (cuda_ipc_device_enter(mover->device, &visit) == 0) {
            teardown(mover);
        }
        cuda_ipc_device_leave(mover->device, &visit);
    }
    (void)pthread_cond_destroy(&mover->idle);
    (void)pthread_cond_destroy(&mover->more);
    (void)pthread_mutex_destroy(&mover->pump);
    (void)pthread_mutex_destroy(&mover->lock);
    free(mover);
}
