/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A short calibration when a device is opened: which fragments are better off with the kernel, and
 * how fast copies are. Staging buffers and tables are there and not yet in use, so it copies
 * between them. Whatever fails leaves the figure at its guess.
 */
#include <stdlib.h>

#include "cuda_ipc_mover.h"

/* Guesses, about those of a data centre's device on PCI Express 5. */
#define GUESS_CROSSOVER (4ull << 20)
#define GUESS_STAGE (512ull << 10)
#define GUESS_DEVICE_RATE 1000000000000ull
#define GUESS_HOST_RATE 25000000000ull

#define SIZES 6u
#define ROUNDS 3
/* Copies in one measurement: long enough against the time that a launch takes. */
#define COPIES_MAX 2048u
#define BYTES_MAX (64ull << 20)
/* A first try is short; what is slow then is not measured longer, and all of it has an end. */
#define TRY_COPIES 64u
#define TRY_BYTES (1ull << 20)
#define TRY_NS 5000000u
#define ALL_NS 200000000u

static const uint64_t measure_sizes[SIZES] = {4096, 16384, 65536, 262144, 1048576, 4194304};

/** Copies of one size, side by side, between two stretches of memory. */
struct measure {
    struct cuda_ipc_mover *mover;
    struct cuda_ipc_task *task; /* stands for one; nothing but its route is used */
    enum cuda_ipc_side_kind dst_kind;
    uint64_t dst;
    uint64_t src;
    uint64_t room; /* bytes of each */
    uint64_t fragment;
    uint64_t copies_max;
    uint64_t bytes_max;
    uint64_t until_ns; /* the end of all measurements */
};

/* All fragments once. A batch ends with them, since its copies have no order and the next ones
 * write to the same places. */
static int measure_pass(const struct measure *measure, uint32_t *copies)
{
    const struct cuda_ipc_side dst = {.kind = measure->dst_kind, .base = measure->dst};
    const struct cuda_ipc_side src = {.kind = CUDA_IPC_SIDE_DEVICE, .base = measure->src};
    const uint64_t fragments = measure->room / measure->fragment;
    int r = 0;

    /* from the last to the first, or they would be taken together */
    for (uint64_t i = fragments; i-- > 0 && r == 0 && *copies < measure->copies_max; (*copies)++) {
        struct cuda_ipc_span span = {.offset = i * measure->fragment, .bytes = measure->fragment};

        r = cuda_ipc_issue_span(measure->mover, measure->task, &dst, &src, &span);
    }
    if (r == 0 && measure->task->route.method == CUDA_IPC_BATCH) {
        r = cuda_ipc_issue_flush(measure->mover, measure->task);
    }
    return r;
}

/* Queues as many copies as one measurement has. @return bytes; 0 on failure. */
static uint64_t measure_queue(const struct measure *measure)
{
    uint32_t copies = 0;
    int r = cuda_ipc_issue_begin(measure->mover, measure->task);

    while (r == 0 && copies < measure->copies_max &&
           copies * measure->fragment < measure->bytes_max) {
        r = measure_pass(measure, &copies);
    }
    if (r == 0) {
        r = cuda_ipc_issue_flush(measure->mover, measure->task);
    }
    return r == 0 ? copies * measure->fragment : 0;
}

/* Bytes per second of one round, and how long it took; 0 when it cannot be done. */
static uint64_t measure_round(const struct measure *measure, uint64_t *took_ns_out)
{
    const struct cuda_ipc_device *device = measure->mover->device;
    cuda_stream stream = device->streams[measure->task->route.lane];
    const uint64_t begin = cuda_ipc_now_ns();
    const uint64_t bytes = measure_queue(measure);
    cuda_result code;

    code = device->api->stream_synchronize(stream);
    if (code != CUDA_OK) {
        cuda_ipc_device_lose(measure->mover->device, "cuStreamSynchronize", code);
    }
    if (code != CUDA_OK || bytes == 0) {
        return 0;
    }
    *took_ns_out = cuda_ipc_now_ns() - begin + 1;
    return (uint64_t)((double)bytes * 1e9 / (double)*took_ns_out);
}

/* Bytes per second, the best of some rounds; 0 when it cannot be done, or the time is up. */
static uint64_t measure_rate(struct measure *measure)
{
    uint64_t took_ns = 0;
    uint64_t best;

    if (measure->fragment > measure->room || cuda_ipc_now_ns() > measure->until_ns) {
        return 0;
    }
    measure->copies_max = TRY_COPIES;
    measure->bytes_max = TRY_BYTES;
    best = measure_round(measure, &took_ns);
    measure->copies_max = COPIES_MAX;
    measure->bytes_max = BYTES_MAX;
    for (int round = 0; round < ROUNDS && best > 0 && took_ns < TRY_NS; round++) {
        const uint64_t rate = measure_round(measure, &took_ns);

        best = rate > best ? rate : best;
    }
    return best;
}

static bool measure_has_batch(const struct cuda_ipc_mover *mover)
{
    return mover->device->api->memcpy_batch_async_13000 != NULL ||
           mover->device->api->memcpy_batch_async_12080 != NULL;
}

/* The smallest fragment from which on batches are not slower. */
static void measure_device(struct cuda_ipc_mover *mover, struct measure *measure)
{
    struct cuda_ipc_route *route = &measure->task->route;
    uint64_t crossover = UINT64_MAX;
    uint64_t best = 0;

    measure->dst_kind = CUDA_IPC_SIDE_DEVICE;
    measure->src = mover->slots[0][0].device;
    measure->dst = mover->slots[1][0].device;
    measure->room = mover->options.stage_bytes;
    for (uint32_t i = SIZES; i-- > 0;) {
        uint64_t kernel;
        uint64_t batch;

        measure->fragment = measure_sizes[i];
        *route = (struct cuda_ipc_route){
            .method = CUDA_IPC_KERNEL, .lane = CUDA_IPC_LANE_OUT, .is_runs = true, .width = 16};
        kernel = measure_rate(measure);
        route->method = CUDA_IPC_BATCH;
        batch = measure_rate(measure);
        best = kernel > best ? kernel : best;
        best = batch > best ? batch : best;
        if (kernel > batch) {
            break;
        }
        if (kernel > 0) {
            crossover = measure_sizes[i];
        }
    }
    if (best > 0) {
        mover->figures.crossover = crossover;
        mover->figures.device_rate = best;
    }
}

/* The smallest fragment from which on batches are about as fast as one long copy. */
static void measure_host(struct cuda_ipc_mover *mover, struct measure *measure)
{
    struct cuda_ipc_route *route = &measure->task->route;
    uint64_t whole;

    *route = (struct cuda_ipc_route){.method = CUDA_IPC_BATCH, .lane = CUDA_IPC_LANE_DOWN};
    measure->dst_kind = CUDA_IPC_SIDE_HOST;
    measure->src = mover->table_device;
    measure->dst = (uint64_t)(uintptr_t)mover->table_host;
    measure->room = CUDA_IPC_TABLES * CUDA_IPC_TABLE_BYTES;
    measure->fragment = measure->room;
    whole = measure_rate(measure);
    if (whole == 0) {
        return;
    }
    mover->figures.host_rate = whole;
    mover->figures.stage_below = UINT64_MAX;
    for (uint32_t i = SIZES; i-- > 0;) {
        measure->fragment = measure_sizes[i];
        if (measure->fragment >= measure->room) {
            continue;
        }
        if (measure_rate(measure) < whole / 100 * 97) {
            break;
        }
        mover->figures.stage_below = measure->fragment;
    }
}

void cuda_ipc_measure(struct cuda_ipc_mover *mover)
{
    struct measure measure = {.mover = mover, .until_ns = cuda_ipc_now_ns() + ALL_NS};

    mover->figures = (struct cuda_ipc_figures){
        .crossover = GUESS_CROSSOVER,
        .stage_below = GUESS_STAGE,
        .device_rate = GUESS_DEVICE_RATE,
        .host_rate = GUESS_HOST_RATE,
    };
    measure.task = mover->options.calibrate != 0 ? calloc(1, sizeof(*measure.task)) : NULL;
    if (measure.task == NULL) {
        return;
    }
    if (mover->image.module != NULL && measure_has_batch(mover)) {
        measure_device(mover, &measure);
    }
    if (measure_has_batch(mover)) {
        measure_host(mover, &measure);
    }
    if (measure.task->table != NULL) {
        measure.task->table->is_used = false;
    }
    free(measure.task);
}
