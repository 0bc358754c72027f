/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda_ipc_op.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Longest wait for a device to let go of a cancelled batch. */
#define CANCEL_MS 15000u

static bool op_has_items(enum cuda_ipc_kind kind)
{
    return kind != CUDA_IPC_OP_GATHER && kind != CUDA_IPC_OP_SCATTER;
}

static bool op_moves_bytes(enum cuda_ipc_kind kind)
{
    return kind != CUDA_IPC_OP_LOOKUP && kind != CUDA_IPC_OP_REMOVE;
}

/* ---- the engine's side ---- */

static int op_check_first(const uint32_t *first, uint32_t count)
{
    for (uint32_t i = 0; first != NULL && i < count; i++) {
        if (first[i + 1] < first[i]) {
            return -EINVAL;
        }
    }
    return first != NULL ? 0 : -EINVAL;
}

static int op_take_kv(struct cuda_ipc_op *op, const struct kvl_batch *batch)
{
    struct cuda_ipc_engine *engine = &op->engine;
    const int r = op_check_first(batch->block_first, batch->count);

    if (r < 0 || batch->blocks == NULL) {
        return -EINVAL;
    }
    engine->kv = cuda_ipc_kv_get(&op->self->kvs, batch->kv);
    if (engine->kv == NULL) {
        return cuda_ipc_kvs_is_lost(&op->self->kvs, batch->kv) ? -ENODEV : -EINVAL;
    }
    engine->kind = CUDA_IPC_ENGINE_KV;
    engine->device = engine->kv->device->ordinal;
    engine->blocks = batch->blocks;
    engine->block_first = batch->block_first;
    return 0;
}

static int op_take_sg(struct cuda_ipc_op *op, const struct kvl_batch *batch)
{
    struct cuda_ipc_engine *engine = &op->engine;
    const struct kvl_sg *one = &batch->sg[batch->sg_first[0]];
    int r = op_check_first(batch->sg_first, batch->count);

    if (r < 0) {
        return r;
    }
    for (uint32_t i = batch->sg_first[0]; i < batch->sg_first[batch->count]; i++) {
        if (batch->sg[i].mem != one->mem || batch->sg[i].count == 0 ||
            (one->mem == KVL_MEM_CUDA && batch->sg[i].device != one->device)) {
            return -EINVAL;
        }
    }
    if (one->mem != KVL_MEM_HOST && one->mem != KVL_MEM_CUDA) {
        return -ENOTSUP;
    }
    engine->kind = one->mem == KVL_MEM_CUDA ? CUDA_IPC_ENGINE_RUNS : CUDA_IPC_ENGINE_HOST_RUNS;
    engine->device = one->mem == KVL_MEM_CUDA ? one->device : KVL_DEVICE_HOST;
    engine->sg = batch->sg;
    engine->sg_first = batch->sg_first;
    return engine->kind == CUDA_IPC_ENGINE_RUNS ? cuda_ipc_gpu_ready(op->self, engine->device, NULL)
                                                : 0;
}

static int op_take_engine(struct cuda_ipc_op *op, const struct kvl_batch *batch)
{
    int r = 0;

    op->engine.device = KVL_DEVICE_HOST;
    if (!op_moves_bytes(op->kind)) {
        return 0;
    }
    if (batch->size >= sizeof(*batch)) {
        op->engine.stream = (cuda_stream)(uintptr_t)batch->stream;
        if (batch->kv != 0) {
            return op_take_kv(op, batch);
        }
    }
    if (batch->sg != NULL && batch->sg_first != NULL &&
        batch->sg_first[0] < batch->sg_first[batch->count]) {
        r = op_take_sg(op, batch);
    }
    if (r == 0 && op->engine.kind == CUDA_IPC_ENGINE_NONE && op->kind != CUDA_IPC_OP_READ) {
        r = -EINVAL;
    }
    if (r == 0 && op->engine.kind == CUDA_IPC_ENGINE_HOST_RUNS && !op_has_items(op->kind)) {
        r = -ENOTSUP; /* host to host is not for us */
    }
    return r;
}

int cuda_ipc_op_keep(struct cuda_ipc_op *op)
{
    struct cuda_ipc_engine *engine = &op->engine;
    const bool is_kv = engine->kind == CUDA_IPC_ENGINE_KV;
    const uint32_t *first = is_kv ? engine->block_first : engine->sg_first;
    const size_t entry = is_kv ? sizeof(*engine->blocks) : sizeof(*engine->sg);
    uint32_t *first_copy;
    char *copy;

    if (engine->kind == CUDA_IPC_ENGINE_NONE) {
        return 0;
    }
    copy = malloc(first[op->count] * entry + ((size_t)op->count + 1) * sizeof(*first) + 8);
    if (copy == NULL) {
        return -ENOMEM;
    }
    memcpy(copy, is_kv ? (const void *)engine->blocks : (const void *)engine->sg,
           first[op->count] * entry);
    first_copy = (uint32_t *)(void *)(copy + first[op->count] * entry);
    memcpy(first_copy, first, ((size_t)op->count + 1) * sizeof(*first));
    op->kept = copy;
    if (is_kv) {
        engine->blocks = (const uint32_t *)(const void *)copy;
        engine->block_first = first_copy;
    } else {
        engine->sg = (const struct kvl_sg *)(const void *)copy;
        engine->sg_first = first_copy;
    }
    return 0;
}

/* ---- making ---- */

static int op_check(enum cuda_ipc_kind kind, const struct kvl_batch *batch)
{
    if (batch->count == 0 || batch->count > KVL_BATCH_MAX || batch->chunks == NULL) {
        return -EINVAL;
    }
    for (uint32_t i = 0; op_has_items(kind) && i < batch->count; i++) {
        const struct kvl_key *key = &batch->chunks[i].key;

        if (key->text == NULL || key->length == 0 || key->length > KVL_KEY_MAX) {
            return -EINVAL;
        }
    }
    return 0;
}

/* One allocation: the record, its items, status words and key text. */
static struct cuda_ipc_op *op_allocate(enum cuda_ipc_kind kind, const struct kvl_batch *batch)
{
    const size_t count = batch->count;
    const size_t head = (sizeof(struct cuda_ipc_op) + 15) / 16 * 16;
    const size_t items = op_has_items(kind) ? count * sizeof(struct cuda_ipc_item) : 0;
    size_t keys = 0;
    struct cuda_ipc_op *op;
    char *memory;
    char *text;

    for (uint32_t i = 0; items > 0 && i < count; i++) {
        keys += batch->chunks[i].key.length;
    }
    memory = calloc(1, head + items + count * sizeof(int32_t) + keys);
    if (memory == NULL) {
        return NULL;
    }
    op = (struct cuda_ipc_op *)(void *)memory;
    op->status = (int32_t *)(void *)(memory + head + items);
    op->count = batch->count;
    if (items == 0) {
        return op;
    }
    op->items = (struct cuda_ipc_item *)(void *)(memory + head);
    text = memory + head + items + count * sizeof(int32_t);
    for (uint32_t i = 0; i < count; i++) {
        struct kvl_chunk *want = &op->items[i].want;

        *want = batch->chunks[i];
        memcpy(text, want->key.text, want->key.length);
        want->key.text = text;
        text += want->key.length;
    }
    return op;
}

/* Takes an op into the books. @return 0; -ECANCELED; -EAGAIN. */
static int op_admit(struct cuda_ipc_op *op)
{
    struct cuda_ipc *self = op->self;
    int r = 0;

    pthread_mutex_lock(&self->ops_lock);
    if (atomic_load(&self->state) != CUDA_IPC_RUNNING) {
        r = -ECANCELED;
    } else if (self->op_count >= self->options.max_in_flight) {
        r = -EAGAIN;
    } else {
        op->next = self->ops;
        if (self->ops != NULL) {
            self->ops->prev = op;
        }
        self->ops = op;
        self->op_count++;
    }
    pthread_mutex_unlock(&self->ops_lock);
    return r;
}

static void op_unlink(struct cuda_ipc_op *op)
{
    struct cuda_ipc *self = op->self;

    pthread_mutex_lock(&self->ops_lock);
    if (op->prev != NULL) {
        op->prev->next = op->next;
    } else {
        self->ops = op->next;
    }
    if (op->next != NULL) {
        op->next->prev = op->prev;
    }
    self->op_count--;
    pthread_cond_broadcast(&self->ended);
    pthread_mutex_unlock(&self->ops_lock);
}

static void op_free(struct cuda_ipc_op *op)
{
    free(op->kept);
    free(op);
}

static void op_let_go(struct cuda_ipc_op *op)
{
    if (op->engine.kv != NULL) {
        if (cuda_ipc_kv_put(&op->self->kvs, op->engine.kv)) {
            cuda_ipc_reap_wake(op->self->reap);
        }
        op->engine.kv = NULL;
    }
}

int cuda_ipc_op_create(struct cuda_ipc *self, enum cuda_ipc_kind kind,
                       const struct kvl_batch *batch, struct cuda_ipc_op **op_out)
{
    struct cuda_ipc_op *op;
    int r = atomic_load(&self->state) == CUDA_IPC_RUNNING ? op_check(kind, batch) : -ECANCELED;

    if (r < 0) {
        return r;
    }
    op = op_allocate(kind, batch);
    if (op == NULL) {
        return -ENOMEM;
    }
    op->self = self;
    op->kind = kind;
    op->cookie = batch->cookie;
    op->deadline_ms = batch->deadline_ms == 0 ? KVL_NEVER : batch->deadline_ms;
    atomic_init(&op->open, 1);
    r = op_take_engine(op, batch);
    if (r == 0) {
        r = op_admit(op);
    }
    if (r < 0) {
        op_let_go(op);
        op_free(op);
        return r;
    }
    *op_out = op;
    return 0;
}

void cuda_ipc_op_refuse(struct cuda_ipc_op *op)
{
    op_let_go(op);
    op_unlink(op);
    op_free(op);
}

int cuda_ipc_op_code(const struct cuda_ipc_op *op)
{
    const struct kvl_host *host = op->self->host;
    const int cancel = atomic_load(&op->cancel);

    if (cancel != 0) {
        return cancel;
    }
    return op->deadline_ms != KVL_NEVER && host->now_ms(host) >= op->deadline_ms ? -ETIMEDOUT : 0;
}

/* ---- ending ---- */

static void op_count_done(struct cuda_ipc_op *op, uint64_t *bytes_out)
{
    static const enum cuda_ipc_counter chunks[] = {
        [CUDA_IPC_OP_WRITE] = CUDA_IPC_COUNT_WRITES,
        [CUDA_IPC_OP_GATHER] = CUDA_IPC_COUNT_GATHERS,
        [CUDA_IPC_OP_SCATTER] = CUDA_IPC_COUNT_SCATTERS,
    };
    static const enum cuda_ipc_counter bytes[] = {
        [CUDA_IPC_OP_READ] = CUDA_IPC_COUNT_READ_BYTES,
        [CUDA_IPC_OP_WRITE] = CUDA_IPC_COUNT_WRITE_BYTES,
        [CUDA_IPC_OP_GATHER] = CUDA_IPC_COUNT_GATHER_BYTES,
        [CUDA_IPC_OP_SCATTER] = CUDA_IPC_COUNT_SCATTER_BYTES,
    };
    uint64_t sum = 0;
    uint32_t good = 0;

    *bytes_out = 0;
    if (!op_moves_bytes(op->kind)) {
        return;
    }
    for (uint32_t i = 0; i < op->count; i++) {
        good += op->status[i] == 0;
        sum += op->status[i] == 0 && op->items != NULL ? op->items[i].bytes : 0;
    }
    *bytes_out = op->items != NULL ? sum : atomic_load(&op->bytes);
    cuda_ipc_count(op->self, bytes[op->kind], *bytes_out);
    if (op->kind != CUDA_IPC_OP_READ) { /* reads are counted where they come from */
        cuda_ipc_count(op->self, chunks[op->kind], good);
    }
}

static void op_complete(struct cuda_ipc_op *op)
{
    const struct kvl_host *host = op->self->host;
    struct kvl_completion done = {
        .size = sizeof(done),
        .cookie = op->cookie,
        .item_status = op->status,
        .item_count = op->count,
        .backend_code = op->driver_code,
    };

    op_count_done(op, &done.bytes);
    for (uint32_t i = 0; i < op->count && done.status == 0; i++) {
        done.status = op->status[i];
    }
    op_let_go(op); /* first: who hears of the end may forget the cache */
    op_unlink(op);
    host->complete(host, &done);
    op_free(op);
}

void cuda_ipc_op_close(struct cuda_ipc_op *op)
{
    if (atomic_fetch_sub(&op->open, 1) == 1) {
        op_complete(op);
    }
}

static void op_close_work(struct cuda_ipc_work *work)
{
    struct cuda_ipc_op *op =
        (struct cuda_ipc_op *)(void *)((char *)work - offsetof(struct cuda_ipc_op, work));

    cuda_ipc_op_close(op);
}

void cuda_ipc_op_close_later(struct cuda_ipc_op *op)
{
    unsigned open = atomic_load(&op->open);

    while (open > 1) {
        if (atomic_compare_exchange_weak(&op->open, &open, open - 1)) {
            return;
        }
    }
    op->work.fn = op_close_work;
    if (cuda_ipc_net_post(op->self->net, &op->work) < 0) {
        cuda_ipc_op_close(op); /* cannot be: the net ends after all ops */
    }
}

/* ---- cancel, drain ---- */

static bool op_is_known(const struct cuda_ipc *self, uint64_t cookie)
{
    const struct cuda_ipc_op *op = self->ops;

    while (op != NULL && op->cookie != cookie) {
        op = op->next;
    }
    return op != NULL;
}

static struct cuda_ipc_op *op_to_sweep(struct cuda_ipc *self)
{
    struct cuda_ipc_op *op;

    pthread_mutex_lock(&self->ops_lock);
    for (op = self->ops; op != NULL; op = op->next) {
        if (op->is_searching && atomic_load(&op->cancel) != 0) {
            break;
        }
    }
    if (op == NULL) {
        self->is_sweeping = false;
    }
    pthread_mutex_unlock(&self->ops_lock);
    return op;
}

/* Searches belong to the net's thread: it ends those of cancelled ops. They cannot go meanwhile. */
static void op_sweep(struct cuda_ipc_work *work)
{
    struct cuda_ipc *self =
        (struct cuda_ipc *)(void *)((char *)work - offsetof(struct cuda_ipc, sweep));
    struct cuda_ipc_op *op;

    while ((op = op_to_sweep(self)) != NULL) {
        cuda_ipc_search_stop(op);
    }
}

/* The lock is held; the copy engine's cancel calls nobody. @return whether to sweep. */
static bool op_cancel_locked(struct cuda_ipc_op *op)
{
    struct cuda_ipc *self = op->self;
    bool sweep = false;

    atomic_store(&op->cancel, -ECANCELED);
    for (const struct cuda_ipc_haul *part = op->parts; part != NULL; part = part->next) {
        if (!part->is_over) {
            cuda_ipc_copy_cancel(self->copy, part->id);
        }
    }
    if (op->is_searching && !self->is_sweeping) {
        self->is_sweeping = true;
        sweep = true;
    }
    return sweep;
}

static void op_post_sweep(struct cuda_ipc *self)
{
    self->sweep.fn = op_sweep;
    (void)cuda_ipc_net_post(self->net, &self->sweep);
}

static struct timespec op_time(uint64_t deadline_ms)
{
    return (struct timespec){
        .tv_sec = (time_t)(deadline_ms / 1000),
        .tv_nsec = (long)(deadline_ms % 1000) * 1000000,
    };
}

void cuda_ipc_op_cancel(struct cuda_ipc *self, uint64_t cookie)
{
    const struct timespec until = op_time(self->host->now_ms(self->host) + CANCEL_MS);
    bool is_known = false;
    bool sweep = false;
    int r = 0;

    pthread_mutex_lock(&self->ops_lock);
    for (struct cuda_ipc_op *op = self->ops; op != NULL; op = op->next) {
        if (op->cookie == cookie) {
            is_known = true;
            sweep = op_cancel_locked(op) || sweep;
        }
    }
    pthread_mutex_unlock(&self->ops_lock);
    if (sweep) {
        op_post_sweep(self);
    }
    if (!is_known) {
        return;
    }
    pthread_mutex_lock(&self->ops_lock);
    while (r == 0 && op_is_known(self, cookie)) {
        r = pthread_cond_timedwait(&self->ended, &self->ops_lock, &until);
    }
    pthread_mutex_unlock(&self->ops_lock);
    if (r != 0) {
        kvl_error(self->host->log, "cuda_ipc: a device does not let go of a cancelled batch; its "
                                   "memory may still be written");
    }
}

void cuda_ipc_op_cancel_all(struct cuda_ipc *self)
{
    bool sweep = false;

    pthread_mutex_lock(&self->ops_lock);
    for (struct cuda_ipc_op *op = self->ops; op != NULL; op = op->next) {
        sweep = op_cancel_locked(op) || sweep;
    }
    pthread_mutex_unlock(&self->ops_lock);
    if (sweep) {
        op_post_sweep(self);
    }
}

int cuda_ipc_op_drain(struct cuda_ipc *self, uint64_t deadline_ms)
{
    const struct timespec until = op_time(deadline_ms);
    int r = 0;

    pthread_mutex_lock(&self->ops_lock);
    while (self->ops != NULL && r == 0) {
        r = deadline_ms == KVL_NEVER
                ? pthread_cond_wait(&self->ended, &self->ops_lock)
                : pthread_cond_timedwait(&self->ended, &self->ops_lock, &until);
    }
    r = self->ops != NULL ? -ETIMEDOUT : 0;
    pthread_mutex_unlock(&self->ops_lock);
    return r;
}
