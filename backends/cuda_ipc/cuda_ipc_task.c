/* SPDX-License-Identifier: Apache-2.0 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_ipc_mover.h"

/* ---- what a job needs, and room for it in one allocation ---- */

static bool job_side_is_complete(const struct cuda_ipc_job_side *side)
{
    switch (side->kind) {
    case CUDA_IPC_SIDE_PAGED:
        return side->kv != NULL && side->blocks != NULL && side->block_first != NULL;
    case CUDA_IPC_SIDE_RUNS:
        return side->sg != NULL && side->sg_first != NULL;
    case CUDA_IPC_SIDE_DEVICE:
        return side->addrs != NULL;
    case CUDA_IPC_SIDE_HOST:
        return side->hosts != NULL;
    }
    return false;
}

/* Entries behind `first`; -1 when it does not grow. */
static int64_t job_entries(const uint32_t *first, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (first[i + 1] < first[i]) {
            return -1;
        }
    }
    return (int64_t)first[count] - first[0];
}

static int64_t job_side_entries(const struct cuda_ipc_job_side *side, uint32_t count)
{
    if (side->kind == CUDA_IPC_SIDE_PAGED) {
        return job_entries(side->block_first, count);
    }
    return side->kind == CUDA_IPC_SIDE_RUNS ? job_entries(side->sg_first, count) : 0;
}

static size_t job_side_bytes(const struct cuda_ipc_job_side *side, uint32_t count, int64_t entries)
{
    const size_t unit = side->kind == CUDA_IPC_SIDE_RUNS ? sizeof(struct kvl_sg) : sizeof(uint32_t);

    return (size_t)entries * unit + (count + 1) * sizeof(uint64_t) + 16;
}

/* Takes the next `bytes` of the room, aligned. */
static void *carve(uint8_t **room, size_t bytes)
{
    void *at = *room;

    *room += (bytes + 7) / 8 * 8;
    return at;
}

static uint32_t *carve_first(uint8_t **room, const uint32_t *first, uint32_t count)
{
    uint32_t *copy = carve(room, (count + 1) * sizeof(*copy));

    for (uint32_t i = 0; i <= count; i++) {
        copy[i] = first[i] - first[0];
    }
    return copy;
}

static void side_copy(struct cuda_ipc_side *side, const struct cuda_ipc_job_side *from,
                      uint32_t count, uint8_t **room)
{
    side->kind = from->kind;
    if (from->kind == CUDA_IPC_SIDE_PAGED) {
        const size_t bytes =
            (from->block_first[count] - from->block_first[0]) * sizeof(from->blocks[0]);

        side->layout = &from->kv->layout;
        side->block_first = carve_first(room, from->block_first, count);
        side->blocks = memcpy(carve(room, bytes), from->blocks + from->block_first[0], bytes);
    } else if (from->kind == CUDA_IPC_SIDE_RUNS) {
        const size_t bytes = (from->sg_first[count] - from->sg_first[0]) * sizeof(from->sg[0]);

        side->sg_first = carve_first(room, from->sg_first, count);
        side->sg = memcpy(carve(room, bytes), from->sg + from->sg_first[0], bytes);
    } else {
        uint64_t *addrs = carve(room, count * sizeof(*addrs));

        for (uint32_t i = 0; i < count; i++) {
            addrs[i] = from->kind == CUDA_IPC_SIDE_HOST ? (uint64_t)(uintptr_t)from->hosts[i]
                                                        : from->addrs[i];
        }
        side->addrs = addrs;
    }
}

static void task_copy(struct cuda_ipc_task *task, const struct cuda_ipc_job *job)
{
    uint8_t *room = (uint8_t *)(task + 1);

    task->id = job->id;
    task->count = job->count;
    task->deadline_ms = job->deadline_ms;
    task->progress = job->progress;
    task->done = job->done;
    task->ctx = job->ctx;
    task->bytes = memcpy(carve(&room, job->count * sizeof(task->bytes[0])), job->bytes,
                         job->count * sizeof(task->bytes[0]));
    task->item_status = carve(&room, job->count * sizeof(task->item_status[0]));
    task->wait_count = job->wait_count;
    task->waits = carve(&room, job->wait_count * sizeof(task->waits[0]));
    if (job->wait_count > 0) {
        memcpy(task->waits, job->waits, job->wait_count * sizeof(task->waits[0]));
    }
    side_copy(&task->src, &job->src, job->count, &room);
    side_copy(&task->dst, &job->dst, job->count, &room);
}

/* The paged side whose block tables the kernel gets; the target's when there are two. */
static void task_find_kv(struct cuda_ipc_task *task, const struct cuda_ipc_job *job)
{
    const struct cuda_ipc_side *side = NULL;

    if (job->dst.kind == CUDA_IPC_SIDE_PAGED) {
        task->kv = job->dst.kv;
        side = &task->dst;
    } else if (job->src.kind == CUDA_IPC_SIDE_PAGED) {
        task->kv = job->src.kv;
        side = &task->src;
    }
    if (side != NULL) {
        task->block_total = side->block_first[job->count];
    }
}

static int task_check(struct cuda_ipc_task *task)
{
    for (uint32_t i = 0; i < task->count; i++) {
        if (__builtin_add_overflow(task->total, task->bytes[i], &task->total)) {
            return -EINVAL;
        }
    }
    if (cuda_ipc_side_check(&task->src, task->bytes, task->count, false) < 0 ||
        cuda_ipc_side_check(&task->dst, task->bytes, task->count, true) < 0) {
        return -EINVAL;
    }
    return 0;
}

int cuda_ipc_task_create(const struct cuda_ipc_mover *mover, const struct cuda_ipc_job *job,
                         bool is_pinned, struct cuda_ipc_task **task_out)
{
    struct cuda_ipc_task *task;
    int64_t src;
    int64_t dst;
    int r;

    if (job->count == 0 || job->count > KVL_BATCH_MAX || job->bytes == NULL || job->done == NULL ||
        job->wait_count > KVL_BATCH_MAX || (job->wait_count > 0 && job->waits == NULL) ||
        !job_side_is_complete(&job->src) || !job_side_is_complete(&job->dst)) {
        return -EINVAL;
    }
    src = job_side_entries(&job->src, job->count);
    dst = job_side_entries(&job->dst, job->count);
    if (src < 0 || dst < 0) {
        return -EINVAL;
    }
    task = calloc(1, sizeof(*task) + job->count * (sizeof(uint64_t) + sizeof(int)) + 32 +
                         job->wait_count * sizeof(cuda_event) +
                         job_side_bytes(&job->src, job->count, src) +
                         job_side_bytes(&job->dst, job->count, dst));
    if (task == NULL) {
        return -ENOMEM;
    }
    task_copy(task, job);
    task_find_kv(task, job);
    r = task_check(task);
    if (r < 0) {
        free(task);
        return r;
    }
    cuda_ipc_route_find(mover, job, is_pinned, task);
    cuda_ipc_walk_init(&task->walk, task->kv == NULL ? NULL : &task->kv->layout, task->route.group,
                       task->bytes, task->count);
    *task_out = task;
    return 0;
}

void cuda_ipc_task_destroy(struct cuda_ipc_task *task)
{
    free(task);
}

/* ---- spans ---- */

bool cuda_ipc_task_span(struct cuda_ipc_task *task, uint64_t limit, struct cuda_ipc_span *span_out)
{
    if (task->rest.bytes == 0) {
        return cuda_ipc_walk_next(&task->walk, limit, span_out);
    }
    /* parts have the same limit each, so what one left over fits into the next */
    assert(task->rest.bytes <= limit);
    *span_out = task->rest;
    task->rest.bytes = 0;
    return true;
}

void cuda_ipc_task_return(struct cuda_ipc_task *task, const struct cuda_ipc_span *span)
{
    task->rest = *span;
}

bool cuda_ipc_task_is_over(const struct cuda_ipc_task *task)
{
    return task->rest.bytes == 0 && task->walk.chunk == task->walk.count;
}

uint32_t cuda_ipc_task_chunks(const struct cuda_ipc_task *task)
{
    if (cuda_ipc_task_is_over(task)) {
        return task->count;
    }
    if (task->walk.group > 0) {
        return 0;
    }
    return task->rest.bytes > 0 ? task->rest.chunk : task->walk.chunk;
}
