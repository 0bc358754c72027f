/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_ipc_op.h"

/* Chunks of one part, while it is put together. */
struct move_list {
    uint32_t count;
    uint32_t *items;
    uint64_t *bytes;
    cuda_ptr *addrs;
};

static int list_init(struct move_list *list, uint32_t room)
{
    char *memory = malloc((size_t)room * (sizeof(uint64_t) + sizeof(cuda_ptr) + sizeof(uint32_t)));

    *list = (struct move_list){0};
    if (memory == NULL) {
        return -ENOMEM;
    }
    list->bytes = (uint64_t *)(void *)memory;
    list->addrs = (cuda_ptr *)(void *)(memory + room * sizeof(uint64_t));
    list->items = (uint32_t *)(void *)(memory + room * (sizeof(uint64_t) + sizeof(cuda_ptr)));
    return 0;
}

static void list_fini(struct move_list *list)
{
    free(list->bytes);
}

static void list_add(struct move_list *list, const struct cuda_ipc *self,
                     const struct cuda_ipc_op *op, uint32_t item)
{
    list->items[list->count] = item;
    list->bytes[list->count] = op->items[item].bytes;
    list->addrs[list->count] = cuda_ipc_gpu_address(self, op->items[item].chunk);
    list->count++;
}

static int list_submit(const struct move_list *list, struct cuda_ipc_op *op, int device, int is_out,
                       void (*over)(struct cuda_ipc_haul *part))
{
    const struct cuda_ipc_far far = {.device = device, .addrs = list->addrs};
    struct cuda_ipc_haul *part = cuda_ipc_haul_create(op, list->items, list->count);
    int r;

    if (part == NULL) {
        return -ENOMEM;
    }
    r = cuda_ipc_haul_submit(part, list->bytes, &far, is_out, over);
    if (r < 0) {
        cuda_ipc_haul_destroy(part);
    }
    return r;
}

/* ---- gather, scatter ---- */

static void move_over(struct cuda_ipc_haul *part)
{
    struct cuda_ipc_op *op = part->op;

    cuda_ipc_haul_destroy(part);
    cuda_ipc_op_close(op);
}

static int move_host(struct cuda_ipc *self, enum cuda_ipc_kind kind, const struct kvl_batch *batch,
                     const void *const *hosts)
{
    const struct cuda_ipc_far far = {.device = KVL_DEVICE_HOST, .hosts = hosts};
    struct cuda_ipc_haul *part = NULL;
    struct cuda_ipc_op *op;
    uint64_t *bytes;
    uint32_t *items;
    int r = cuda_ipc_op_create(self, kind, batch, &op);

    if (r < 0) {
        return r;
    }
    bytes = malloc(batch->count * (sizeof(*bytes) + sizeof(*items)));
    if (bytes != NULL) {
        items = (uint32_t *)(void *)(bytes + batch->count);
        for (uint32_t i = 0; i < batch->count; i++) {
            bytes[i] = batch->chunks[i].bytes;
            items[i] = i;
        }
        part = cuda_ipc_haul_create(op, items, batch->count);
    }
    r = -ENOMEM;
    if (part != NULL) {
        cuda_ipc_op_spread(op);
        r = cuda_ipc_haul_submit(part, bytes, &far, kind == CUDA_IPC_OP_GATHER, move_over);
        if (r < 0) {
            cuda_ipc_haul_destroy(part);
        }
    }
    free(bytes);
    if (r < 0) {
        cuda_ipc_op_refuse(op);
        return r;
    }
    cuda_ipc_op_close_later(op);
    return 0;
}

int cuda_ipc_move_gather(struct cuda_ipc *self, const struct kvl_batch *batch, void *const *to)
{
    return move_host(self, CUDA_IPC_OP_GATHER, batch, (const void *const *)to);
}

int cuda_ipc_move_scatter(struct cuda_ipc *self, const struct kvl_batch *batch,
                          const void *const *from)
{
    return move_host(self, CUDA_IPC_OP_SCATTER, batch, from);
}

/* ---- write ---- */

static void write_over(struct cuda_ipc_haul *part)
{
    struct cuda_ipc_op *op = part->op;
    struct cuda_ipc_pool *pool = op->self->pool;

    for (uint32_t i = part->count; i-- > 0;) { /* so that the head of a prefix is evicted last */
        struct cuda_ipc_item *item = &op->items[part->items[i]];

        if (op->status[part->items[i]] == 0) {
            cuda_ipc_pool_commit(pool, item->chunk);
        } else {
            cuda_ipc_pool_abort(pool, item->chunk);
        }
        item->chunk = NULL;
    }
    cuda_ipc_haul_destroy(part);
    cuda_ipc_op_close(op);
}

/* Last to first, for the same reason. */
static void write_reserve(struct cuda_ipc_op *op, int device, struct move_list *list)
{
    struct cuda_ipc *self = op->self;

    for (uint32_t i = op->count; i-- > 0;) {
        struct cuda_ipc_item *item = &op->items[i];

        item->bytes = item->want.bytes;
        op->status[i] = cuda_ipc_pool_reserve(self->pool, device, &item->want, &item->chunk);
    }
    for (uint32_t i = 0; i < op->count; i++) {
        if (op->status[i] == 0) {
            list_add(list, self, op, i);
        }
    }
}

int cuda_ipc_move_write(struct cuda_ipc *self, const struct kvl_batch *batch)
{
    struct move_list list = {0};
    struct cuda_ipc_op *op;
    int device;
    int r = cuda_ipc_op_create(self, CUDA_IPC_OP_WRITE, batch, &op);

    if (r < 0) {
        return r;
    }
    device = op->engine.device != KVL_DEVICE_HOST ? op->engine.device : cuda_ipc_gpu_home(self);
    r = cuda_ipc_gpu_ready(self, device, NULL);
    if (r == 0) {
        r = list_init(&list, op->count);
    }
    if (r == 0) {
        write_reserve(op, device, &list);
        r = list.count > 0 ? list_submit(&list, op, device, 1, write_over) : 0;
        for (uint32_t i = 0; r < 0 && i < list.count; i++) {
            cuda_ipc_pool_abort(self->pool, op->items[list.items[i]].chunk);
        }
    }
    list_fini(&list);
    if (r < 0) {
        cuda_ipc_op_refuse(op);
        return r;
    }
    cuda_ipc_op_close_later(op);
    return 0;
}

/* ---- read: the own pool ---- */

static void read_own_over(struct cuda_ipc_haul *part)
{
    struct cuda_ipc_op *op = part->op;
    uint32_t good = 0;

    for (uint32_t i = 0; i < part->count; i++) {
        struct cuda_ipc_item *item = &op->items[part->items[i]];

        good += op->status[part->items[i]] == 0;
        cuda_ipc_pool_put(op->self->pool, item->chunk);
        item->chunk = NULL;
    }
    cuda_ipc_count(op->self, CUDA_IPC_COUNT_READ_OWN, good);
    cuda_ipc_haul_destroy(part);
    cuda_ipc_op_close(op);
}

/* Bytes that the engine has room for; 0 = as many as come. */
static uint64_t move_room(const struct cuda_ipc_op *op, uint32_t index)
{
    const struct cuda_ipc_engine *engine = &op->engine;
    uint64_t bytes = 0;

    if (engine->sg == NULL) {
        return op->items[index].want.bytes;
    }
    for (uint32_t i = engine->sg_first[index]; i < engine->sg_first[index + 1]; i++) {
        bytes += engine->sg[i].length * engine->sg[i].count;
    }
    return bytes;
}

int cuda_ipc_move_fits(struct cuda_ipc_op *op, uint32_t index, uint64_t bytes,
                       const struct kvl_attrs *attrs, uint32_t flags, uint64_t checksum)
{
    const struct kvl_host *host = op->self->host;
    struct cuda_ipc_item *item = &op->items[index];
    const struct kvl_chunk *want = &item->want;
    const struct kvl_chunk found = {
        .bytes = bytes, .attrs = *attrs, .flags = flags, .checksum = checksum};

    if ((want->bytes != 0 && want->bytes != bytes) ||
        ((want->flags & KVL_CHUNK_EXPECT_ATTRS) != 0 &&
         memcmp(&want->attrs, attrs, sizeof(*attrs)) != 0) ||
        ((want->flags & flags & KVL_CHUNK_HAS_CHECKSUM) != 0 && want->checksum != checksum)) {
        return -EBADMSG;
    }
    item->bytes = bytes;
    if (op->engine.kind == CUDA_IPC_ENGINE_NONE) {
        return host->read_target(host, op->cookie, index, &found, &item->target);
    }
    return move_room(op, index) == bytes ? 0 : -EBADMSG;
}

/* Takes references of what is here. @return items that are not. */
static uint32_t read_find_own(struct cuda_ipc_op *op)
{
    struct cuda_ipc *self = op->self;
    uint32_t missing = 0;

    for (uint32_t i = 0; i < op->count; i++) {
        struct cuda_ipc_item *item = &op->items[i];
        struct cuda_ipc_chunk *chunk;

        if (cuda_ipc_pool_get(self->pool, &item->want.key, &chunk) < 0) {
            item->is_open = true;
            missing++;
            continue;
        }
        op->status[i] =
            cuda_ipc_move_fits(op, i, chunk->bytes, &chunk->attrs, chunk->flags, chunk->checksum);
        if (op->status[i] == 0) {
            item->chunk = chunk;
        } else {
            cuda_ipc_pool_put(self->pool, chunk);
        }
    }
    return missing;
}

/* Copies what is here, device by device; all ends in status words. */
static void read_own(struct cuda_ipc_op *op, struct move_list *list)
{
    struct cuda_ipc *self = op->self;

    for (uint32_t d = 0; d < self->devices.count; d++) {
        int r = 0;

        list->count = 0;
        for (uint32_t i = 0; i < op->count; i++) {
            if (op->items[i].chunk != NULL && op->items[i].chunk->device == (int32_t)d) {
                list_add(list, self, op, i);
            }
        }
        if (list->count > 0) {
            r = list_submit(list, op, (int)d, 0, read_own_over);
        }
        for (uint32_t i = 0; r < 0 && i < list->count; i++) {
            cuda_ipc_pool_put(self->pool, op->items[list->items[i]].chunk);
            op->items[list->items[i]].chunk = NULL;
            op->status[list->items[i]] = r;
        }
    }
}

static void read_search(struct cuda_ipc_work *work)
{
    cuda_ipc_search_begin(
        (struct cuda_ipc_op *)(void *)((char *)work - offsetof(struct cuda_ipc_op, work)));
}

/* Gives an op with items that are open to the net's thread, or says that nobody has them. */
static void move_search(struct cuda_ipc_op *op, uint32_t missing, uint32_t flags)
{
    if (missing > 0 && (flags & KVL_BATCH_HELD) == 0 && atomic_load(&op->self->links) > 0) {
        op->work.fn = read_search;
        if (cuda_ipc_net_post(op->self->net, &op->work) == 0) {
            return;
        }
    }
    for (uint32_t i = 0; i < op->count; i++) {
        if (op->items[i].is_open) {
            op->status[i] = -ENOENT;
        }
    }
    cuda_ipc_op_spread(op);
    cuda_ipc_op_close_later(op);
}

int cuda_ipc_move_read(struct cuda_ipc *self, const struct kvl_batch *batch)
{
    struct move_list list;
    struct cuda_ipc_op *op;
    uint32_t missing;
    int r = cuda_ipc_op_create(self, CUDA_IPC_OP_READ, batch, &op);

    if (r < 0) {
        return r;
    }
    r = list_init(&list, op->count);
    if (r == 0) {
        r = cuda_ipc_op_keep(op);
    }
    if (r < 0) {
        list_fini(&list);
        cuda_ipc_op_refuse(op);
        return r;
    }
    missing = read_find_own(op);
    read_own(op, &list);
    list_fini(&list);
    move_search(op, missing, batch->flags);
    return 0;
}

/* ---- without bytes ---- */

int cuda_ipc_move_lookup(struct cuda_ipc *self, const struct kvl_batch *batch)
{
    struct cuda_ipc_op *op;
    uint32_t missing = 0;
    int r = cuda_ipc_op_create(self, CUDA_IPC_OP_LOOKUP, batch, &op);

    if (r < 0) {
        return r;
    }
    for (uint32_t i = 0; i < op->count; i++) {
        op->items[i].is_open = !cuda_ipc_pool_has(self->pool, &op->items[i].want.key);
        missing += op->items[i].is_open;
    }
    cuda_ipc_count(self, CUDA_IPC_COUNT_LOOKUPS, op->count);
    cuda_ipc_count(self, CUDA_IPC_COUNT_LOOKUP_OWN, op->count - missing);
    move_search(op, missing, batch->flags);
    return 0;
}

int cuda_ipc_move_remove(struct cuda_ipc *self, const struct kvl_batch *batch)
{
    struct cuda_ipc_op *op;
    int r = cuda_ipc_op_create(self, CUDA_IPC_OP_REMOVE, batch, &op);

    if (r < 0) {
        return r;
    }
    for (uint32_t i = 0; i < op->count; i++) {
        op->status[i] = cuda_ipc_pool_remove(self->pool, &op->items[i].want.key);
    }
    cuda_ipc_op_close_later(op);
    return 0;
}
