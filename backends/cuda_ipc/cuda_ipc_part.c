/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>

#include "cuda_ipc_mover.h"

/* Where spans begin in a staging buffer: good for every vector, and for DMA. */
#define SLOT_ALIGN 256u

static uint64_t align_up(uint64_t value)
{
    return (value + SLOT_ALIGN - 1) & ~(uint64_t)(SLOT_ALIGN - 1);
}

/* ---- the end of parts ---- */

/* Copies from pinned memory of ours to where the engine wants it. What is skipped stays. */
static void mirror_out(const struct cuda_ipc_task *task, const struct cuda_ipc_slot *slot)
{
    struct cuda_ipc_plan plan;

    cuda_ipc_plan_init(&plan, &task->dst, &task->src, task->bytes);
    for (uint32_t i = 0; i < slot->span_count; i++) {
        struct cuda_ipc_span span = slot->spans[i];
        /* a byte at `host` is in the mirror at `host - from` */
        const uint64_t from = task->dst.addrs[span.chunk] + span.offset - slot->at[i];
        struct cuda_ipc_piece pieces[32];

        while (span.bytes > 0) {
            const uint32_t n = cuda_ipc_plan_next(&plan, &span, pieces, 32);

            for (uint32_t j = 0; j < n; j++) {
                memcpy((void *)(uintptr_t)pieces[j].dst, slot->mirror + (pieces[j].dst - from),
                       pieces[j].bytes * pieces[j].rows);
            }
        }
    }
}

static void part_free(struct cuda_ipc_mover *mover, struct cuda_ipc_part *part)
{
    struct cuda_ipc_task *task = part->task;

    if (part->slot != NULL) {
        part->slot->is_used = false;
        part->slot = NULL;
    }
    task->halves &= ~part->half;
    task->parts--;
    part->task = NULL;
    part->next = mover->parts_free;
    mover->parts_free = part;
}

static void part_end(struct cuda_ipc_mover *mover, struct cuda_ipc_part *part)
{
    struct cuda_ipc_task *task = part->task;

    if (task->status == 0) {
        if (part->slot != NULL && task->route.has_mirror && !task->route.is_up) {
            mirror_out(task, part->slot);
        }
        if (part->layers_done > task->layers_done) {
            task->layers_done = part->layers_done;
        }
        task->chunks_done = part->chunks_done;
    }
    part_free(mover, part);
}

/* The only way left to learn that a stream is done with what it was given. */
static void lane_settle(struct cuda_ipc_mover *mover, enum cuda_ipc_lane lane)
{
    const cuda_result code = mover->device->api->stream_synchronize(mover->device->streams[lane]);

    if (code != CUDA_OK) {
        cuda_ipc_device_lose(mover->device, "cuStreamSynchronize", code);
    }
}

static void lane_push(struct cuda_ipc_mover *mover, struct cuda_ipc_part *part,
                      enum cuda_ipc_lane lane)
{
    part->next = NULL;
    if (mover->lanes_tail[lane] == NULL) {
        mover->lanes_head[lane] = part;
    } else {
        mover->lanes_tail[lane]->next = part;
    }
    mover->lanes_tail[lane] = part;
}

static struct cuda_ipc_part *lane_pop(struct cuda_ipc_mover *mover, int lane)
{
    struct cuda_ipc_part *part = mover->lanes_head[lane];

    if (part != NULL) {
        mover->lanes_head[lane] = part->next;
        if (part->next == NULL) {
            mover->lanes_tail[lane] = NULL;
        }
    }
    return part;
}

uint32_t cuda_ipc_part_retire(struct cuda_ipc_mover *mover)
{
    uint32_t ended = 0;

    for (int lane = 0; lane < CUDA_IPC_LANES; lane++) {
        while (mover->lanes_head[lane] != NULL) {
            struct cuda_ipc_part *part = mover->lanes_head[lane];
            const cuda_result code = mover->device->api->event_query(part->end);

            if (code == CUDA_E_NOT_READY) {
                break;
            }
            if (code != CUDA_OK) {
                (void)cuda_ipc_issue_check(mover, part->task, "cuEventQuery", code);
                lane_settle(mover, (enum cuda_ipc_lane)lane);
            }
            if (cuda_ipc_device_state(mover->device) < 0) {
                return ended; /* the event says nothing any more */
            }
            part_end(mover, lane_pop(mover, lane));
            ended++;
        }
    }
    return ended;
}

void cuda_ipc_part_drop(struct cuda_ipc_mover *mover)
{
    struct cuda_ipc_part *part;

    for (int lane = 0; lane < CUDA_IPC_LANES; lane++) {
        while ((part = lane_pop(mover, lane)) != NULL) {
            part->task->status = -EIO; /* whatever else it was to end with */
            part_free(mover, part);
        }
    }
}

/* Marks where the part ends. Also after a failure: what was queued by then is under way. */
static int part_close(struct cuda_ipc_mover *mover, struct cuda_ipc_part *part,
                      enum cuda_ipc_lane lane)
{
    struct cuda_ipc_task *task = part->task;
    int r;

    part->chunks_done = cuda_ipc_task_chunks(task);
    if (cuda_ipc_task_is_over(task)) {
        task->is_issued = true;
    }
    (void)atomic_fetch_add_explicit(&mover->parts_issued, 1, memory_order_relaxed);
    r = cuda_ipc_issue_check(
        mover, task, "cuEventRecord",
        mover->device->api->event_record(part->end, mover->device->streams[lane]));
    if (r == 0) {
        lane_push(mover, part, lane);
        return 0;
    }
    /* both, since a staged part may have come only as far as the first of its lanes */
    lane_settle(mover, lane);
    lane_settle(mover, task->route.lane);
    part_end(mover, part);
    return r;
}

/* ---- direct parts ---- */

static int direct_fill(struct cuda_ipc_mover *mover, struct cuda_ipc_part *part)
{
    struct cuda_ipc_task *task = part->task;
    uint64_t left = task->route.part_bytes;
    struct cuda_ipc_span span;

    while (cuda_ipc_task_span(task, left, &span)) {
        const uint32_t layers_done = span.layers_done;
        const uint64_t bytes = span.bytes;
        const int r = cuda_ipc_issue_span(mover, task, &task->dst, &task->src, &span);

        left -= bytes - span.bytes;
        if (r == -ENOBUFS) {
            cuda_ipc_task_return(task, &span);
            return 0;
        }
        if (r < 0) {
            return r;
        }
        if (layers_done > 0) {
            part->layers_done = layers_done;
            if (task->route.group > 0) {
                return 0;
            }
        }
    }
    return 0;
}

static int part_direct(struct cuda_ipc_mover *mover, struct cuda_ipc_part *part)
{
    struct cuda_ipc_task *task = part->task;
    int r = direct_fill(mover, part);

    if (task->route.method == CUDA_IPC_KERNEL && task->route.is_runs) {
        part->half = 1u << mover->basket.half;
        task->halves |= part->half;
    }
    if (r == 0) {
        (void)cuda_ipc_issue_flush(mover, task); /* a failure is noted in the task */
    }
    return part_close(mover, part, task->route.lane);
}

/* ---- staged parts ---- */

static void stage_fill(struct cuda_ipc_mover *mover, struct cuda_ipc_part *part)
{
    struct cuda_ipc_slot *slot = part->slot;
    struct cuda_ipc_task *task = part->task;
    uint64_t used = 0;

    slot->span_count = 0;
    while (slot->span_count < CUDA_IPC_SLOT_SPANS && used < mover->options.stage_bytes) {
        struct cuda_ipc_span *span = &slot->spans[slot->span_count];

        if (!cuda_ipc_task_span(task, mover->options.stage_bytes - used, span)) {
            break;
        }
        slot->at[slot->span_count] = used;
        slot->walks[slot->span_count++] = task->walk;
        used = align_up(used + span->bytes);
        if (span->layers_done > 0 && task->route.group > 0) {
            break;
        }
    }
}

static uint64_t stage_used(const struct cuda_ipc_slot *slot)
{
    return slot->at[slot->span_count - 1] + slot->spans[slot->span_count - 1].bytes;
}

/* Fragments between engine memory and staging memory. */
static int stage_issue(struct cuda_ipc_mover *mover, struct cuda_ipc_part *part)
{
    struct cuda_ipc_slot *slot = part->slot;
    struct cuda_ipc_task *task = part->task;
    struct cuda_ipc_side stage = {.kind = CUDA_IPC_SIDE_DEVICE};
    int r = 0;

    for (uint32_t i = 0; i < slot->span_count && r == 0; i++) {
        struct cuda_ipc_span span = slot->spans[i];

        stage.base = slot->device + slot->at[i] - span.offset;
        r = task->route.is_up ? cuda_ipc_issue_span(mover, task, &task->dst, &stage, &span)
                              : cuda_ipc_issue_span(mover, task, &stage, &task->src, &span);
        if (r == -ENOBUFS) {
            /* the rest of this span, and all after it, are for a later part */
            task->walk = slot->walks[i];
            cuda_ipc_task_return(task, &span);
            slot->spans[i].bytes -= span.bytes;
            slot->spans[i].layers_done = 0;
            slot->span_count = slot->spans[i].bytes > 0 ? i + 1 : i;
        }
    }
    if (task->route.method == CUDA_IPC_KERNEL && task->route.is_runs) {
        part->half = 1u << mover->basket.half;
        task->halves |= part->half;
    }
    return r == 0 || r == -ENOBUFS ? cuda_ipc_issue_flush(mover, task) : r;
}

/* One stretch of DMA between a device address and a host address. */
static int stage_dma(struct cuda_ipc_mover *mover, struct cuda_ipc_task *task, uint64_t host,
                     cuda_ptr device, uint64_t bytes)
{
    const struct cuda_ipc_api *api = mover->device->api;
    void *at = (void *)(uintptr_t)host;

    if (task->route.is_up) {
        return cuda_ipc_issue_check(
            mover, task, "cuMemcpyHtoDAsync",
            api->memcpy_htod_async(device, at, bytes, mover->device->streams[CUDA_IPC_LANE_UP]));
    }
    return cuda_ipc_issue_check(
        mover, task, "cuMemcpyDtoHAsync",
        api->memcpy_dtoh_async(at, device, bytes, mover->device->streams[CUDA_IPC_LANE_DOWN]));
}

static uint64_t host_of(const struct cuda_ipc_task *task, const struct cuda_ipc_span *span)
{
    const struct cuda_ipc_side *side = task->route.is_up ? &task->src : &task->dst;

    return side->addrs[span->chunk] + span->offset;
}

/* All DMA of a part, as few stretches as there are. */
static int stage_transfer(struct cuda_ipc_mover *mover, struct cuda_ipc_part *part)
{
    const struct cuda_ipc_slot *slot = part->slot;
    struct cuda_ipc_task *task = part->task;
    const uint64_t mirror = (uint64_t)(uintptr_t)slot->mirror;
    int r = 0;

    if (task->route.has_mirror && task->route.has_stage) {
        return stage_dma(mover, task, mirror, slot->device, stage_used(slot));
    }
    for (uint32_t i = 0; i < slot->span_count && r == 0;) {
        const struct cuda_ipc_side *whole = task->route.is_up ? &task->dst : &task->src;
        const struct cuda_ipc_span *span = &slot->spans[i];
        uint64_t bytes = span->bytes;
        uint32_t next = i + 1;

        if (task->route.has_mirror) {
            r = stage_dma(mover, task, mirror + slot->at[i],
                          whole->addrs[span->chunk] + span->offset, bytes);
        } else {
            while (next < slot->span_count && slot->at[next] == slot->at[i] + bytes &&
                   host_of(task, &slot->spans[next]) == host_of(task, span) + bytes) {
                bytes += slot->spans[next++].bytes;
            }
            r = stage_dma(mover, task, host_of(task, span), slot->device + slot->at[i], bytes);
        }
        i = next;
    }
    return r;
}

/* What comes second on its lane waits for what comes first on the other. */
static int stage_join(struct cuda_ipc_mover *mover, struct cuda_ipc_part *part,
                      enum cuda_ipc_lane first, enum cuda_ipc_lane second)
{
    const struct cuda_ipc_api *api = mover->device->api;
    const int r =
        cuda_ipc_issue_check(mover, part->task, "cuEventRecord",
                             api->event_record(part->middle, mover->device->streams[first]));

    if (r < 0) {
        return r;
    }
    return cuda_ipc_issue_check(
        mover, part->task, "cuStreamWaitEvent",
        api->stream_wait_event(mover->device->streams[second], part->middle, 0));
}

static void mirror_in(const struct cuda_ipc_task *task, const struct cuda_ipc_slot *slot)
{
    for (uint32_t i = 0; i < slot->span_count; i++) {
        memcpy(slot->mirror + slot->at[i], (const void *)(uintptr_t)host_of(task, &slot->spans[i]),
               slot->spans[i].bytes);
    }
}

static int stage_up(struct cuda_ipc_mover *mover, struct cuda_ipc_part *part)
{
    const struct cuda_ipc_task *task = part->task;
    int r;

    if (task->route.has_mirror) {
        mirror_in(task, part->slot);
    }
    r = stage_transfer(mover, part);
    if (r == 0 && task->route.has_stage) {
        r = stage_join(mover, part, CUDA_IPC_LANE_UP, CUDA_IPC_LANE_IN);
        if (r == 0) {
            r = stage_issue(mover, part);
        }
    }
    return r;
}

static int stage_down(struct cuda_ipc_mover *mover, struct cuda_ipc_part *part)
{
    int r = 0;

    if (part->task->route.has_stage) {
        r = stage_issue(mover, part);
        if (r == 0) {
            r = stage_join(mover, part, CUDA_IPC_LANE_OUT, CUDA_IPC_LANE_DOWN);
        }
    }
    return r == 0 ? stage_transfer(mover, part) : r;
}

static int part_staged(struct cuda_ipc_mover *mover, struct cuda_ipc_part *part)
{
    struct cuda_ipc_task *task = part->task;
    struct cuda_ipc_slot *slot = part->slot;
    enum cuda_ipc_lane lane = task->route.is_up ? CUDA_IPC_LANE_UP : CUDA_IPC_LANE_DOWN;
    int r;

    stage_fill(mover, part);
    if (slot->span_count == 0) {
        task->is_issued = true;
        part_free(mover, part);
        return 0;
    }
    r = task->route.is_up ? stage_up(mover, part) : stage_down(mover, part);
    for (uint32_t i = 0; i < slot->span_count; i++) {
        if (slot->spans[i].layers_done > 0) {
            part->layers_done = slot->spans[i].layers_done;
        }
    }
    if (task->route.is_up && task->route.has_stage) {
        lane = CUDA_IPC_LANE_IN;
    }
    if (r < 0) {
        /* it may have come only as far as its first lane, which the event does not cover */
        lane_settle(mover, task->route.lane);
        lane_settle(mover, task->route.is_up ? CUDA_IPC_LANE_UP : CUDA_IPC_LANE_DOWN);
    }
    return part_close(mover, part, lane);
}

/* ---- the next part ---- */

static int part_take_slot(struct cuda_ipc_mover *mover, struct cuda_ipc_task *task,
                          struct cuda_ipc_slot **slot_out)
{
    struct cuda_ipc_slot *slots = mover->slots[task->route.is_up];
    void *mirror;
    int r;

    for (uint32_t i = 0; i < mover->options.stage_count; i++) {
        if (slots[i].is_used) {
            continue;
        }
        if (task->route.has_mirror && slots[i].mirror == NULL) {
            r = cuda_ipc_issue_check(
                mover, task, "cuMemHostAlloc",
                mover->device->api->mem_host_alloc(&mirror, mover->options.stage_bytes, 0));
            if (r < 0) {
                return r;
            }
            slots[i].mirror = mirror;
        }
        slots[i].is_used = true;
        *slot_out = &slots[i];
        return 0;
    }
    return -EAGAIN;
}

int cuda_ipc_part_issue(struct cuda_ipc_mover *mover, struct cuda_ipc_task *task)
{
    const bool is_staged = task->route.has_stage || task->route.has_mirror;
    struct cuda_ipc_part *part = mover->parts_free;
    struct cuda_ipc_slot *slot = NULL;
    int r;

    if (cuda_ipc_task_is_over(task)) {
        task->is_issued = true;
        return 0;
    }
    if (part == NULL) {
        return -EAGAIN;
    }
    r = is_staged ? part_take_slot(mover, task, &slot) : 0;
    if (r == 0) {
        r = cuda_ipc_issue_begin(mover, task);
        if (r < 0 && slot != NULL) {
            slot->is_used = false;
        }
    }
    if (r < 0) {
        return r;
    }
    mover->parts_free = part->next;
    part->task = task;
    part->slot = slot;
    part->half = 0;
    part->layers_done = 0;
    task->parts++;
    return is_staged ? part_staged(mover, part) : part_direct(mover, part);
}
