/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_ipc_op.h"

/* Pieces of host memory in one part. */
#define PIECES_MAX 1048576u

/** What is allocated to describe a job, until it is submitted. */
struct haul_scratch {
    uint32_t *first;
    uint32_t *blocks;
    struct kvl_sg *sg;
    uint64_t *bytes;
    const void **hosts;
    cuda_ptr *addrs;
};

struct cuda_ipc_haul *cuda_ipc_haul_create(struct cuda_ipc_op *op, const uint32_t *items,
                                           uint32_t count)
{
    struct cuda_ipc_haul *part = calloc(1, sizeof(*part) + count * sizeof(part->items[0]));

    if (part != NULL) {
        part->op = op;
        part->count = count;
        part->job_count = count;
        memcpy(part->items, items, count * sizeof(part->items[0]));
    }
    return part;
}

/* The lock is held. */
static void haul_unlink(struct cuda_ipc_haul *part)
{
    struct cuda_ipc_haul **at = &part->op->parts;

    while (*at != NULL && *at != part) {
        at = &(*at)->next;
    }
    if (*at != NULL) {
        *at = part->next;
    }
}

void cuda_ipc_haul_destroy(struct cuda_ipc_haul *part)
{
    struct cuda_ipc *self = part->op->self;

    pthread_mutex_lock(&self->ops_lock);
    haul_unlink(part);
    pthread_mutex_unlock(&self->ops_lock);
    free(part->refs);
    free(part->map);
    free(part);
}

/* ---- sides ---- */

static void scratch_free(struct haul_scratch *scratch)
{
    free(scratch->first);
    free(scratch->blocks);
    free(scratch->sg);
    free(scratch->bytes);
    free(scratch->hosts);
    free(scratch->addrs);
}

/* With all chunks of the op in the part, its arrays serve as they are. */
static bool haul_is_whole(const struct cuda_ipc_haul *part)
{
    return part->count == part->op->count;
}

/* Entries of the part's chunks out of a list of the op, and where each chunk's begin. */
static int haul_subset(const struct cuda_ipc_haul *part, const void *all, const uint32_t *all_first,
                       size_t entry_bytes, void **list_out, uint32_t **first_out)
{
    uint32_t *first = calloc((size_t)part->count + 1, sizeof(*first));
    uint64_t total = 0;
    char *list;

    for (uint32_t i = 0; i < part->count; i++) {
        total += all_first[part->items[i] + 1] - all_first[part->items[i]];
    }
    list = malloc(total * entry_bytes + 1);
    if (first == NULL || list == NULL) {
        free(first);
        free(list);
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < part->count; i++) {
        const uint32_t from = all_first[part->items[i]];
        const uint32_t count = all_first[part->items[i] + 1] - from;

        memcpy(list + first[i] * entry_bytes, (const char *)all + from * entry_bytes,
               count * entry_bytes);
        first[i + 1] = first[i] + count;
    }
    *list_out = list;
    *first_out = first;
    return 0;
}

static int haul_paged(const struct cuda_ipc_haul *part, struct haul_scratch *scratch,
                      struct cuda_ipc_job_side *side)
{
    const struct cuda_ipc_engine *engine = &part->op->engine;
    void *blocks = NULL;
    int r = 0;

    side->kind = CUDA_IPC_SIDE_PAGED;
    side->device = engine->device;
    side->kv = engine->kv;
    side->blocks = engine->blocks;
    side->block_first = engine->block_first;
    if (!haul_is_whole(part)) {
        r = haul_subset(part, engine->blocks, engine->block_first, sizeof(*engine->blocks), &blocks,
                        &scratch->first);
        scratch->blocks = blocks;
        side->blocks = scratch->blocks;
        side->block_first = scratch->first;
    }
    return r;
}

static int haul_runs(const struct cuda_ipc_haul *part, struct haul_scratch *scratch,
                     struct cuda_ipc_job_side *side)
{
    const struct cuda_ipc_engine *engine = &part->op->engine;
    void *sg = NULL;
    int r = 0;

    side->kind = CUDA_IPC_SIDE_RUNS;
    side->device = engine->device;
    side->sg = engine->sg;
    side->sg_first = engine->sg_first;
    if (!haul_is_whole(part)) {
        r = haul_subset(part, engine->sg, engine->sg_first, sizeof(*engine->sg), &sg,
                        &scratch->first);
        scratch->sg = sg;
        side->sg = scratch->sg;
        side->sg_first = scratch->first;
    }
    return r;
}

static void haul_far(const struct cuda_ipc_far *far, struct cuda_ipc_job_side *side)
{
    side->device = far->device;
    side->addrs = far->addrs;
    side->hosts = far->hosts;
    side->kind = far->device == KVL_DEVICE_HOST ? CUDA_IPC_SIDE_HOST : CUDA_IPC_SIDE_DEVICE;
}

/* Runs that lie side by side are one piece. */
static uint32_t run_pieces(const struct kvl_sg *sg)
{
    return sg->count <= 1 || sg->stride == sg->length ? 1 : sg->count;
}

static int haul_count_pieces(struct cuda_ipc_haul *part)
{
    const struct cuda_ipc_engine *engine = &part->op->engine;
    uint64_t pieces = 0;

    for (uint32_t i = 0; i < part->count; i++) {
        const uint32_t item = part->items[i];

        for (uint32_t k = engine->sg_first[item]; k < engine->sg_first[item + 1]; k++) {
            pieces += run_pieces(&engine->sg[k]);
        }
    }
    if (pieces > PIECES_MAX) {
        return -EMSGSIZE;
    }
    part->job_count = (uint32_t)pieces;
    return 0;
}

/* The copy engine takes host memory in one piece per chunk only, so each run of it becomes a chunk
 * of the job, and its bytes on the device go with it. */
static int haul_host_runs(struct cuda_ipc_haul *part, const struct cuda_ipc_far *far,
                          struct haul_scratch *scratch)
{
    const struct cuda_ipc_engine *engine = &part->op->engine;
    uint32_t n = 0;
    int r = haul_count_pieces(part);

    if (r < 0) {
        return r;
    }
    scratch->bytes = calloc((size_t)part->job_count + 1, sizeof(*scratch->bytes));
    scratch->hosts = calloc((size_t)part->job_count + 1, sizeof(*scratch->hosts));
    scratch->addrs = calloc((size_t)part->job_count + 1, sizeof(*scratch->addrs));
    part->map = calloc((size_t)part->job_count + 1, sizeof(*part->map));
    if (scratch->bytes == NULL || scratch->hosts == NULL || scratch->addrs == NULL ||
        part->map == NULL) {
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < part->count; i++) {
        const uint32_t item = part->items[i];
        uint64_t done = 0;

        for (uint32_t k = engine->sg_first[item]; k < engine->sg_first[item + 1]; k++) {
            const struct kvl_sg *sg = &engine->sg[k];
            const uint32_t pieces = run_pieces(sg);
            const uint64_t length = pieces == 1 ? sg->length * sg->count : sg->length;

            for (uint32_t piece = 0; piece < pieces; piece++, n++) {
                scratch->hosts[n] = (const void *)(uintptr_t)(sg->addr + piece * sg->stride);
                scratch->addrs[n] = far->addrs[i] + done;
                scratch->bytes[n] = length;
                part->map[n] = item;
                done += length;
            }
        }
    }
    return 0;
}

/* ---- under way ---- */

/* How far all parts together are. The lock is held, so that what the host is told only grows; the
 * host's function neither blocks nor comes back here. Once the engine goes on with layers of a
 * chunk, no other holder may serve that chunk any more: so nothing is told while one of them may
 * still be a miss. */
static void haul_tell(struct cuda_ipc_op *op)
{
    const struct kvl_host *host = op->self->host;
    uint32_t layers = UINT32_MAX;

    for (const struct cuda_ipc_haul *part = op->parts; part != NULL; part = part->next) {
        if (!part->is_over && part->layers < layers) {
            layers = part->layers;
        }
    }
    if (!op->is_spread || op->has_failed || op->covered != op->count) {
        return;
    }
    if (layers != UINT32_MAX && layers > op->layers) {
        op->layers = layers;
        if (KVL_HAS_OP(host, progress)) {
            host->progress(host, op->cookie, layers);
        }
    }
}

static void haul_progress(void *ctx, uint32_t layers)
{
    struct cuda_ipc_haul *part = ctx;
    struct cuda_ipc *self = part->op->self;

    pthread_mutex_lock(&self->ops_lock);
    part->layers = layers;
    haul_tell(part->op);
    pthread_mutex_unlock(&self->ops_lock);
}

static void haul_done(void *ctx, const struct cuda_ipc_copy_end *end)
{
    struct cuda_ipc_haul *part = ctx;
    struct cuda_ipc_op *op = part->op;
    struct cuda_ipc *self = op->self;
    bool has_failed = false;

    for (uint32_t i = 0; i < end->count; i++) {
        const uint32_t item = part->map != NULL ? part->map[i] : part->items[i];

        if (end->item_status[i] != 0 && op->status[item] == 0) {
            op->status[item] = end->item_status[i];
        }
        has_failed = has_failed || end->item_status[i] != 0;
    }
    atomic_fetch_add(&op->bytes, end->bytes);
    pthread_mutex_lock(&self->ops_lock);
    part->is_over = true;
    op->has_failed = op->has_failed || has_failed;
    if (op->driver_code == 0) {
        op->driver_code = end->driver_code;
    }
    haul_tell(op);
    pthread_mutex_unlock(&self->ops_lock);
    if (end->status == -EIO) {
        cuda_ipc_gpu_check(self, part->device);
    }
    part->over(part);
}

void cuda_ipc_op_spread(struct cuda_ipc_op *op)
{
    pthread_mutex_lock(&op->self->ops_lock);
    op->is_spread = true;
    haul_tell(op);
    pthread_mutex_unlock(&op->self->ops_lock);
}

/* From now on a cancel finds it. @return 0; -ECANCELED. */
static int haul_link(struct cuda_ipc_haul *part)
{
    struct cuda_ipc_op *op = part->op;
    struct cuda_ipc *self = op->self;
    int r;

    pthread_mutex_lock(&self->ops_lock);
    r = atomic_load(&op->cancel);
    if (r == 0) {
        part->id = atomic_fetch_add(&self->next_part, 1) + 1;
        part->next = op->parts;
        op->parts = part;
        op->covered += part->count;
    }
    pthread_mutex_unlock(&self->ops_lock);
    return r;
}

static int haul_describe(struct cuda_ipc_haul *part, const struct cuda_ipc_far *far, int is_out,
                         struct cuda_ipc_job *job, struct haul_scratch *scratch)
{
    struct cuda_ipc_job_side *near_side = is_out ? &job->src : &job->dst;
    struct cuda_ipc_job_side *far_side = is_out ? &job->dst : &job->src;
    int r = 0;

    haul_far(far, far_side);
    switch (part->op->engine.kind) {
    case CUDA_IPC_ENGINE_KV:
        return haul_paged(part, scratch, near_side);
    case CUDA_IPC_ENGINE_RUNS:
        return haul_runs(part, scratch, near_side);
    case CUDA_IPC_ENGINE_HOST_RUNS:
        r = haul_host_runs(part, far, scratch);
        near_side->kind = CUDA_IPC_SIDE_HOST;
        near_side->device = KVL_DEVICE_HOST;
        near_side->hosts = scratch->hosts;
        far_side->addrs = scratch->addrs;
        job->bytes = scratch->bytes;
        job->count = part->job_count;
        return r;
    case CUDA_IPC_ENGINE_NONE:
        break;
    }
    scratch->hosts = calloc(part->count, sizeof(*scratch->hosts));
    if (scratch->hosts == NULL) {
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < part->count; i++) {
        scratch->hosts[i] = part->op->items[part->items[i]].target;
    }
    near_side->kind = CUDA_IPC_SIDE_HOST;
    near_side->device = KVL_DEVICE_HOST;
    near_side->hosts = scratch->hosts;
    return 0;
}

static int haul_launch(struct cuda_ipc_haul *part, struct cuda_ipc_job *job)
{
    struct cuda_ipc_op *op = part->op;
    struct cuda_ipc *self = op->self;
    const uint64_t id = part->id; /* once submitted the part may be gone, but not the op */
    int r;

    atomic_fetch_add(&op->open, 1);
    job->id = id;
    r = cuda_ipc_copy_submit(self->copy, job);
    if (r < 0) {
        atomic_fetch_sub(&op->open, 1); /* never the last: the caller holds it */
        pthread_mutex_lock(&self->ops_lock);
        op->covered -= part->count;
        pthread_mutex_unlock(&self->ops_lock);
        return r;
    }
    if (atomic_load(&op->cancel) != 0) { /* it came before the job could be found */
        cuda_ipc_copy_cancel(self->copy, id);
    }
    return 0;
}

int cuda_ipc_haul_submit(struct cuda_ipc_haul *part, const uint64_t *bytes,
                         const struct cuda_ipc_far *far, int is_out,
                         void (*over)(struct cuda_ipc_haul *part))
{
    struct cuda_ipc_op *op = part->op;
    struct haul_scratch scratch = {0};
    struct cuda_ipc_job job = {
        .count = part->count,
        .bytes = bytes,
        .stream = op->engine.stream,
        .deadline_ms = op->deadline_ms,
        .progress = op->engine.kind == CUDA_IPC_ENGINE_KV && !is_out ? haul_progress : NULL,
        .done = haul_done,
        .ctx = part,
    };
    int r;

    part->over = over;
    r = haul_describe(part, far, is_out, &job, &scratch);
    if (r == 0) {
        part->device = job.dst.kind != CUDA_IPC_SIDE_HOST ? job.dst.device : job.src.device;
        r = haul_link(part);
    }
    if (r == 0) {
        r = haul_launch(part, &job);
    }
    scratch_free(&scratch);
    return r;
}
