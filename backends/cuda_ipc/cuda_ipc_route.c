/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda_ipc_mover.h"

/* A part should be long enough that its event does not matter, and short enough that a cancelled
 * task ends soon and others get their turn. */
#define PART_BYTES_MAX (256ull << 20)
#define PART_BYTES_MIN (1ull << 20)
#define PART_BATCH 4096u /* copies */
#define PART_LOOP 256u

/* Telling of layers costs an event each time, about 1 us of the device: 2 % of this. */
#define GROUP_US 50u
/* Host memory is read in stretches of at least this, or the gaps between them show: about 1 us. */
#define DMA_BYTES (2ull << 20)

static uint64_t clamp(uint64_t value, uint64_t least, uint64_t most)
{
    return value < least ? least : value > most ? most : value;
}

static bool is_structured(const struct cuda_ipc_side *side)
{
    return side->kind == CUDA_IPC_SIDE_PAGED || side->kind == CUDA_IPC_SIDE_RUNS;
}

static bool has_batch(const struct cuda_ipc_mover *mover)
{
    return mover->device->api->memcpy_batch_async_13000 != NULL ||
           mover->device->api->memcpy_batch_async_12080 != NULL;
}

/* How fragments of this size move on the device. */
static enum cuda_ipc_method route_method(const struct cuda_ipc_mover *mover, bool can_kernel,
                                         uint64_t fragment)
{
    const enum cuda_ipc_method wanted = mover->options.method;
    const enum cuda_ipc_method other = has_batch(mover) ? CUDA_IPC_BATCH : CUDA_IPC_LOOP;

    switch (wanted) {
    case CUDA_IPC_KERNEL:
        return can_kernel ? CUDA_IPC_KERNEL : other;
    case CUDA_IPC_BATCH:
        return other;
    case CUDA_IPC_LOOP:
        return CUDA_IPC_LOOP;
    default:
        return can_kernel && (fragment < mover->figures.crossover || other == CUDA_IPC_LOOP)
                   ? CUDA_IPC_KERNEL
                   : other;
    }
}

/* Memory of another device is not for kernels: whether they reach it is not known. */
static bool route_can_kernel(const struct cuda_ipc_mover *mover, const struct cuda_ipc_job *job)
{
    const struct cuda_ipc_job_side *sides[] = {&job->src, &job->dst};

    for (int i = 0; i < 2; i++) {
        const int device = sides[i]->kind == CUDA_IPC_SIDE_PAGED ? sides[i]->kv->device->ordinal
                                                                 : sides[i]->device;

        if (sides[i]->kind != CUDA_IPC_SIDE_HOST && device != mover->device->ordinal) {
            return false;
        }
    }
    return mover->image.module != NULL;
}

static bool route_skips(const struct cuda_ipc_task *task)
{
    return cuda_ipc_side_skips(&task->src, task->count) ||
           cuda_ipc_side_skips(&task->dst, task->count);
}

static void route_host(const struct cuda_ipc_mover *mover, bool can_kernel, bool is_pinned,
                       uint64_t fragment, struct cuda_ipc_task *task)
{
    struct cuda_ipc_route *route = &task->route;
    const enum cuda_ipc_method wanted = mover->options.method;
    const bool can_stage = is_structured(route->is_up ? &task->dst : &task->src);
    const bool is_small = wanted == CUDA_IPC_KERNEL || fragment < mover->figures.stage_below;

    route->has_mirror = !is_pinned;
    route->method = route_method(mover, can_kernel, fragment);
    if (!is_pinned) {
        route->has_stage = can_stage;
    } else if (can_stage && is_small && route->method == CUDA_IPC_KERNEL) {
        /* DMA from staging would also bring what lies there of blocks that are skipped */
        route->has_stage = route->is_up || !route_skips(task);
    }
    route->lane = route->is_up ? CUDA_IPC_LANE_UP : CUDA_IPC_LANE_DOWN;
    if (route->has_stage) {
        route->lane = route->is_up ? CUDA_IPC_LANE_IN : CUDA_IPC_LANE_OUT;
    } else {
        route->method =
            wanted == CUDA_IPC_LOOP || !has_batch(mover) ? CUDA_IPC_LOOP : CUDA_IPC_BATCH;
    }
}

/* In place of host memory a kernel sees staging memory, which is well aligned. */
static uint32_t route_alignment(const struct cuda_ipc_side *side, const struct cuda_ipc_task *task)
{
    return side->kind == CUDA_IPC_SIDE_HOST
               ? 16
               : cuda_ipc_side_alignment(side, task->bytes, task->count);
}

static void route_kernel(struct cuda_ipc_task *task)
{
    struct cuda_ipc_route *route = &task->route;
    const uint32_t src = route_alignment(&task->src, task);
    const uint32_t dst = route_alignment(&task->dst, task);

    route->width = cuda_ipc_width(src < dst ? src : dst);
    route->is_scatter = task->dst.kind == CUDA_IPC_SIDE_PAGED;
    route->is_runs =
        task->kv == NULL || (is_structured(&task->src) && is_structured(&task->dst)) ||
        (uint64_t)task->block_total * sizeof(uint32_t) > CUDA_IPC_TABLE_BYTES ||
        !cuda_ipc_paged_fits(&task->kv->layout, route->width, task->bytes, task->count);
}

static uint32_t route_group(const struct cuda_ipc_mover *mover, const struct cuda_ipc_task *task)
{
    const bool is_host = task->src.kind == CUDA_IPC_SIDE_HOST;
    const uint64_t rate = is_host ? mover->figures.host_rate : mover->figures.device_rate;
    uint64_t bytes = mover->options.layer_bytes;
    uint64_t per_layer;
    uint64_t group;

    /* runs know no layers: going through them in another order means searching */
    if (task->progress == NULL || task->dst.kind != CUDA_IPC_SIDE_PAGED ||
        task->src.kind == CUDA_IPC_SIDE_RUNS) {
        return 0;
    }
    per_layer = task->total / task->kv->layout.layers;
    if (bytes == 0) {
        const uint64_t stretches = (uint64_t)task->count * task->kv->layout.planes;

        bytes = rate / 1000000 * GROUP_US;
        if (is_host && bytes < stretches * DMA_BYTES) {
            bytes = stretches * DMA_BYTES;
        }
    }
    group = (bytes - 1) / per_layer + 1;
    return group < task->kv->layout.layers ? (uint32_t)group : 0;
}

static uint64_t route_part_bytes(const struct cuda_ipc_route *route, uint64_t fragment)
{
    uint64_t bytes = PART_BYTES_MAX;

    if (route->method == CUDA_IPC_BATCH) {
        bytes = clamp(fragment, 1, PART_BYTES_MAX) * PART_BATCH;
    } else if (route->method == CUDA_IPC_LOOP) {
        bytes = clamp(fragment, 1, PART_BYTES_MAX) * PART_LOOP;
    }
    /* a multiple of what cuts keep aligned */
    return clamp(bytes, PART_BYTES_MIN, PART_BYTES_MAX) & ~255ull;
}

void cuda_ipc_route_find(const struct cuda_ipc_mover *mover, const struct cuda_ipc_job *job,
                         bool is_pinned, struct cuda_ipc_task *task)
{
    struct cuda_ipc_route *route = &task->route;
    const bool can_kernel = route_can_kernel(mover, job);
    const uint64_t src = cuda_ipc_side_fragment(&task->src, task->bytes, task->count);
    const uint64_t dst = cuda_ipc_side_fragment(&task->dst, task->bytes, task->count);
    const uint64_t fragment = src < dst ? src : dst;

    route->is_up = task->src.kind == CUDA_IPC_SIDE_HOST;
    if (route->is_up || task->dst.kind == CUDA_IPC_SIDE_HOST) {
        route_host(mover, can_kernel, is_pinned, fragment, task);
    } else {
        route->method = route_method(mover, can_kernel, fragment);
        route->lane = is_structured(&task->dst) ? CUDA_IPC_LANE_IN : CUDA_IPC_LANE_OUT;
    }
    if (route->method == CUDA_IPC_KERNEL) {
        route_kernel(task);
    }
    route->group = route_group(mover, task);
    route->part_bytes = route_part_bytes(route, fragment);
}
