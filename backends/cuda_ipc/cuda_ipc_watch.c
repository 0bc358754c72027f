/* SPDX-License-Identifier: Apache-2.0 */
/* What the copy engine tells people and machines about itself. */
#include <stdio.h>

#include "cuda_ipc_mover.h"

static const char *const watch_methods[] = {"auto", "kernel", "batch", "loop"};

static const char *watch_batch(const struct cuda_ipc_mover *mover)
{
    if (mover->device->api->memcpy_batch_async_13000 != NULL) {
        return "batch (13.0)";
    }
    return mover->device->api->memcpy_batch_async_12080 != NULL ? "batch (12.8)" : "loop";
}

static void watch_size(uint64_t bytes, char *text_out, size_t size)
{
    if (bytes == UINT64_MAX) {
        (void)snprintf(text_out, size, "any size");
    } else {
        (void)snprintf(text_out, size, "less than %llu KiB", (unsigned long long)bytes >> 10);
    }
}

void cuda_ipc_mover_describe(const struct cuda_ipc_mover *mover, char *text_out, size_t size)
{
    const struct cuda_ipc_figures *figures = &mover->figures;
    char kernel[CUDA_IPC_TEXT_MAX + 32];
    char below[32];
    char stage[32];

    watch_size(figures->crossover, below, sizeof(below));
    watch_size(figures->stage_below, stage, sizeof(stage));
    if (mover->image.module == NULL) {
        (void)snprintf(kernel, sizeof(kernel), "no kernel (%s), %s", mover->image.why,
                       watch_batch(mover));
    } else {
        (void)snprintf(kernel, sizeof(kernel),
                       "kernel for fragments of %s, else %s; staging to host for %s", below,
                       watch_batch(mover), stage);
    }
    (void)snprintf(text_out, size, "device %d '%s'%s: copy %s: %s; %.1f GB/s, to host %.1f GB/s",
                   mover->device->ordinal, mover->device->name,
                   cuda_ipc_device_state(mover->device) < 0 ? " LOST" : "",
                   watch_methods[mover->options.method], kernel, (double)figures->device_rate / 1e9,
                   (double)figures->host_rate / 1e9);
}

void cuda_ipc_mover_stats(struct cuda_ipc_mover *mover, struct cuda_ipc_counts *counts)
{
    counts->jobs += atomic_load(&mover->jobs);
    counts->jobs_failed += atomic_load(&mover->jobs_failed);
    counts->chunks += atomic_load(&mover->chunks);
    counts->bytes_device += atomic_load(&mover->bytes_device);
    counts->bytes_up += atomic_load(&mover->bytes_up);
    counts->bytes_down += atomic_load(&mover->bytes_down);
    counts->bytes_mirrored += atomic_load(&mover->bytes_mirrored);
    counts->parts += atomic_load(&mover->parts_issued);
    counts->calls += atomic_load(&mover->calls);
    counts->launches += atomic_load(&mover->launches);
    counts->batches += atomic_load(&mover->batches);
    if (counts->crossover == 0 || mover->figures.crossover < counts->crossover) {
        counts->crossover = mover->figures.crossover;
        counts->stage_below = mover->figures.stage_below;
    }
    (void)pthread_mutex_lock(&mover->lock);
    counts->in_flight += mover->count;
    (void)pthread_mutex_unlock(&mover->lock);
}
