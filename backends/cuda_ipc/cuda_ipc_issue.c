/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>

#include "cuda_ipc_mover.h"

#define PIECES 64u
#define HALF_BYTES (CUDA_IPC_TABLE_BYTES / 2)
#define HALF_RUNS ((uint32_t)(HALF_BYTES / sizeof(struct cuda_ipc_kernel_run)))
/* Largest pitch that every device takes (CU_DEVICE_ATTRIBUTE_MAX_PITCH). */
#define PITCH_MAX 0x7fffffffull

int cuda_ipc_issue_check(struct cuda_ipc_mover *mover, struct cuda_ipc_task *task, const char *call,
                         cuda_result code)
{
    char text[CUDA_IPC_TEXT_MAX];
    int r;

    (void)atomic_fetch_add_explicit(&mover->calls, 1, memory_order_relaxed);
    if (code == CUDA_OK) {
        return 0;
    }
    r = cuda_ipc_device_fail(mover->device, call, code);
    if (task->status == 0) {
        task->status = r;
        task->driver_code = (int)code;
        cuda_ipc_api_explain(mover->device->api, call, code, text, sizeof(text));
        kvl_error(mover->device->log, "cuda_ipc: a copy on device %d failed: %s",
                  mover->device->ordinal, text);
    }
    return r;
}

static cuda_stream issue_stream(const struct cuda_ipc_mover *mover,
                                const struct cuda_ipc_task *task)
{
    return mover->device->streams[task->route.lane];
}

/* ---- kernels ---- */

static int issue_table(struct cuda_ipc_mover *mover, struct cuda_ipc_task *task)
{
    for (uint32_t i = 0; task->table == NULL && i < CUDA_IPC_TABLES; i++) {
        if (!mover->tables[i].is_used) {
            mover->tables[i].is_used = true;
            task->table = &mover->tables[i];
        }
    }
    return task->table == NULL ? -EAGAIN : 0;
}

/* The block tables go once, ahead of the first launch on the same stream. */
static int issue_upload(struct cuda_ipc_mover *mover, struct cuda_ipc_task *task)
{
    const struct cuda_ipc_side *side = task->route.is_scatter ? &task->dst : &task->src;
    const size_t bytes = task->block_total * sizeof(uint32_t);

    if (task->is_uploaded) {
        return 0;
    }
    memcpy(task->table->host, side->blocks, bytes);
    task->is_uploaded = true;
    return cuda_ipc_issue_check(mover, task, "cuMemcpyHtoDAsync",
                                mover->device->api->memcpy_htod_async(task->table->device,
                                                                      task->table->host, bytes,
                                                                      issue_stream(mover, task)));
}

static void paged_reset(struct cuda_ipc_mover *mover, const struct cuda_ipc_task *task)
{
    cuda_ipc_paged_init(&mover->basket.paged, &task->kv->layout, task->route.width,
                        task->kv->device_bases, task->table->device);
}

static int paged_flush(struct cuda_ipc_mover *mover, struct cuda_ipc_task *task)
{
    struct cuda_ipc_paged_args *args = &mover->basket.paged;
    int r;

    if (args->span_count == 0) {
        return 0;
    }
    (void)atomic_fetch_add_explicit(&mover->launches, 1, memory_order_relaxed);
    r = cuda_ipc_issue_check(
        mover, task, "cuLaunchKernel",
        cuda_ipc_image_launch(
            &mover->image, mover->device,
            task->route.is_scatter ? CUDA_IPC_ENTRY_SCATTER : CUDA_IPC_ENTRY_GATHER,
            task->route.width, args, cuda_ipc_paged_tiles(args), issue_stream(mover, task)));
    paged_reset(mover, task);
    return r;
}

static int paged_span(struct cuda_ipc_mover *mover, struct cuda_ipc_task *task,
                      const struct cuda_ipc_side *dst, const struct cuda_ipc_side *src,
                      struct cuda_ipc_span *span)
{
    const struct cuda_ipc_side *paged = task->route.is_scatter ? dst : src;
    const struct cuda_ipc_side *whole = task->route.is_scatter ? src : dst;
    const struct cuda_ipc_layout *layout = &task->kv->layout;
    const struct cuda_ipc_paged_chunk chunk = {
        .slab = task->bytes[span->chunk] / ((uint64_t)layout->planes * layout->layers),
        .id_first = paged->block_first[span->chunk],
    };
    const uint64_t base = whole->addrs != NULL ? whole->addrs[span->chunk] : whole->base;

    while (!cuda_ipc_paged_add(&mover->basket.paged, task->route.width, &chunk, base, span)) {
        const int r = paged_flush(mover, task);

        if (r < 0) {
            return r;
        }
    }
    return 0;
}

static int runs_flush(struct cuda_ipc_mover *mover, struct cuda_ipc_task *task)
{
    struct cuda_ipc_basket *basket = &mover->basket;
    const uint64_t at = basket->half * HALF_BYTES;
    struct cuda_ipc_runs_args args = {
        .runs = task->table->device + at,
        .count = basket->used,
    };
    int r;

    if (basket->used == 0) {
        return 0;
    }
    args.split = cuda_ipc_runs_split(basket->used, basket->vecs_max);
    r = cuda_ipc_issue_check(
        mover, task, "cuMemcpyHtoDAsync",
        mover->device->api->memcpy_htod_async(args.runs, task->table->host + at,
                                              basket->used * sizeof(struct cuda_ipc_kernel_run),
                                              issue_stream(mover, task)));
    if (r < 0) {
        return r;
    }
    (void)atomic_fetch_add_explicit(&mover->launches, 1, memory_order_relaxed);
    return cuda_ipc_issue_check(
        mover, task, "cuLaunchKernel",
        cuda_ipc_image_launch(&mover->image, mover->device, CUDA_IPC_ENTRY_RUNS, task->route.width,
                              &args, (uint64_t)args.count * args.split, issue_stream(mover, task)));
}

static void runs_add(struct cuda_ipc_mover *mover, struct cuda_ipc_task *task,
                     struct cuda_ipc_piece *piece)
{
    struct cuda_ipc_basket *basket = &mover->basket;
    struct cuda_ipc_kernel_run run;

    cuda_ipc_run_take(piece, task->route.width, &run);
    memcpy(task->table->host + basket->half * HALF_BYTES + basket->used * sizeof(run), &run,
           sizeof(run));
    basket->used++;
    if (run.vecs > basket->vecs_max) {
        basket->vecs_max = run.vecs;
    }
}

/* ---- the driver's own copies ---- */

static int batch_flush(struct cuda_ipc_mover *mover, struct cuda_ipc_task *task)
{
    struct cuda_ipc_basket *basket = &mover->basket;
    const struct cuda_ipc_api *api = mover->device->api;
    struct cuda_copy_attrs attrs = {.src_access_order = CUDA_ORDER_STREAM};
    size_t attrs_at = 0;
    size_t failed = 0;
    cuda_result code;

    if (basket->used == 0) {
        return 0;
    }
    (void)atomic_fetch_add_explicit(&mover->batches, 1, memory_order_relaxed);
    if (api->memcpy_batch_async_13000 != NULL) {
        code =
            api->memcpy_batch_async_13000(basket->dsts, basket->srcs, basket->sizes, basket->used,
                                          &attrs, &attrs_at, 1, issue_stream(mover, task));
    } else {
        code =
            api->memcpy_batch_async_12080(basket->dsts, basket->srcs, basket->sizes, basket->used,
                                          &attrs, &attrs_at, 1, &failed, issue_stream(mover, task));
    }
    basket->used = 0;
    return cuda_ipc_issue_check(mover, task, "cuMemcpyBatchAsync", code);
}

static int batch_piece(struct cuda_ipc_mover *mover, struct cuda_ipc_task *task,
                       const struct cuda_ipc_piece *piece)
{
    struct cuda_ipc_basket *basket = &mover->basket;

    for (uint64_t row = 0; row < piece->rows; row++) {
        if (basket->used == CUDA_IPC_BATCH_MAX) {
            const int r = batch_flush(mover, task);

            if (r < 0) {
                return r;
            }
        }
        basket->dsts[basket->used] = piece->dst + row * piece->dst_pitch;
        basket->srcs[basket->used] = piece->src + row * piece->src_pitch;
        basket->sizes[basket->used++] = piece->bytes;
    }
    return 0;
}

static int loop_rows(struct cuda_ipc_mover *mover, struct cuda_ipc_task *task,
                     const struct cuda_ipc_piece *piece)
{
    const bool to_host = mover->basket.dst == CUDA_IPC_SIDE_HOST;
    const bool from_host = mover->basket.src == CUDA_IPC_SIDE_HOST;
    const struct cuda_copy_2d copy = {
        .src_type = from_host ? CUDA_MEMORY_HOST : CUDA_MEMORY_UNIFIED,
        .src_host = from_host ? (const void *)(uintptr_t)piece->src : NULL,
        .src_device = from_host ? 0 : piece->src,
        .src_pitch = piece->src_pitch,
        .dst_type = to_host ? CUDA_MEMORY_HOST : CUDA_MEMORY_UNIFIED,
        .dst_host = to_host ? (void *)(uintptr_t)piece->dst : NULL,
        .dst_device = to_host ? 0 : piece->dst,
        .dst_pitch = piece->dst_pitch,
        .width = piece->bytes,
        .height = piece->rows,
    };

    return cuda_ipc_issue_check(
        mover, task, "cuMemcpy2DAsync",
        mover->device->api->memcpy_2d_async(&copy, issue_stream(mover, task)));
}

static int loop_piece(struct cuda_ipc_mover *mover, struct cuda_ipc_task *task,
                      const struct cuda_ipc_piece *piece)
{
    int r = 0;

    if (piece->rows > 1 && piece->dst_pitch <= PITCH_MAX && piece->src_pitch <= PITCH_MAX &&
        piece->dst_pitch >= piece->bytes && piece->src_pitch >= piece->bytes) {
        return loop_rows(mover, task, piece);
    }
    for (uint64_t row = 0; row < piece->rows && r == 0; row++) {
        r = cuda_ipc_issue_check(
            mover, task, "cuMemcpyAsync",
            mover->device->api->memcpy_async(piece->dst + row * piece->dst_pitch,
                                             piece->src + row * piece->src_pitch, piece->bytes,
                                             issue_stream(mover, task)));
    }
    return r;
}

/* ---- what a part uses ---- */

int cuda_ipc_issue_begin(struct cuda_ipc_mover *mover, struct cuda_ipc_task *task)
{
    struct cuda_ipc_basket *basket = &mover->basket;
    const int r = task->route.method == CUDA_IPC_KERNEL ? issue_table(mover, task) : 0;

    basket->used = 0;
    basket->vecs_max = 1;
    if (r < 0 || task->route.method != CUDA_IPC_KERNEL) {
        return r;
    }
    if (task->route.is_runs) {
        basket->half = (task->halves & 1) == 0 ? 0 : 1;
        return task->halves == 3 ? -EAGAIN : 0;
    }
    paged_reset(mover, task);
    return issue_upload(mover, task);
}

int cuda_ipc_issue_span(struct cuda_ipc_mover *mover, struct cuda_ipc_task *task,
                        const struct cuda_ipc_side *dst, const struct cuda_ipc_side *src,
                        struct cuda_ipc_span *span)
{
    const enum cuda_ipc_method method = task->route.method;
    const bool is_runs = method == CUDA_IPC_KERNEL && task->route.is_runs;
    struct cuda_ipc_piece pieces[PIECES];
    struct cuda_ipc_plan plan;
    int r = 0;

    if (method == CUDA_IPC_KERNEL && !is_runs) {
        return paged_span(mover, task, dst, src, span);
    }
    mover->basket.dst = dst->kind;
    mover->basket.src = src->kind;
    cuda_ipc_plan_init(&plan, dst, src, task->bytes);
    while (r == 0 && span->bytes > 0) {
        const uint32_t left = is_runs ? HALF_RUNS - mover->basket.used : PIECES;
        const uint32_t n =
            left == 0 ? 0 : cuda_ipc_plan_next(&plan, span, pieces, left < PIECES ? left : PIECES);

        if (left == 0) {
            return -ENOBUFS;
        }
        for (uint32_t i = 0; i < n && r == 0; i++) {
            if (is_runs) {
                runs_add(mover, task, &pieces[i]);
            } else if (method == CUDA_IPC_BATCH) {
                r = batch_piece(mover, task, &pieces[i]);
            } else {
                r = loop_piece(mover, task, &pieces[i]);
            }
        }
    }
    return r;
}

int cuda_ipc_issue_flush(struct cuda_ipc_mover *mover, struct cuda_ipc_task *task)
{
    if (task->route.method == CUDA_IPC_KERNEL) {
        return task->route.is_runs ? runs_flush(mover, task) : paged_flush(mover, task);
    }
    return task->route.method == CUDA_IPC_BATCH ? batch_flush(mover, task) : 0;
}
