/* SPDX-License-Identifier: Apache-2.0 */
#include "disk_op.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "disk_sg.h"

static bool op_moves_bytes(enum disk_op_kind kind)
{
    return kind == DISK_READ || kind == DISK_WRITE;
}

static int op_check_sg(const struct kvl_batch *batch, uint32_t i, uint64_t *bytes_out)
{
    const uint32_t first = batch->sg_first[i];
    const uint32_t end = batch->sg_first[i + 1];

    if (end < first || (end > first && batch->sg == NULL)) {
        return -EINVAL;
    }
    return disk_sg_total(batch->sg == NULL ? NULL : batch->sg + first, end - first, bytes_out);
}

static int op_check_chunk(enum disk_op_kind kind, const struct kvl_batch *batch, uint32_t i,
                          uint64_t max_bytes)
{
    const struct kvl_chunk *chunk = &batch->chunks[i];
    uint64_t bytes;
    int r;

    if (chunk->key.text == NULL || chunk->key.length == 0 || chunk->key.length > KVL_KEY_MAX) {
        return -EINVAL;
    }
    if (!op_moves_bytes(kind)) {
        return 0;
    }
    if (kind == DISK_WRITE && chunk->bytes > max_bytes) {
        return -EMSGSIZE;
    }
    if (batch->sg_first == NULL) {
        return kind == DISK_WRITE && chunk->bytes > 0 ? -EINVAL : 0;
    }
    r = op_check_sg(batch, i, &bytes);
    if (r == 0 && bytes != chunk->bytes && (kind == DISK_WRITE || chunk->bytes != 0)) {
        r = -EINVAL;
    }
    return r;
}

static int op_check(enum disk_op_kind kind, const struct kvl_batch *batch, uint64_t max_bytes)
{
    if (batch->count == 0 || batch->count > KVL_BATCH_MAX || batch->chunks == NULL) {
        return -EINVAL;
    }
    for (uint32_t i = 0; i < batch->count; i++) {
        const int r = op_check_chunk(kind, batch, i, max_bytes);

        if (r < 0) {
            return r;
        }
    }
    return 0;
}

/* One allocation: the record, its items, runs, status words and key text. */
static struct disk_op *op_alloc(uint32_t count, size_t sg_count, size_t key_bytes,
                                struct kvl_sg **sg_out, char **keys_out)
{
    const size_t items = (sizeof(struct disk_op) + 15) / 16 * 16;
    const size_t sg = items + count * sizeof(struct disk_item);
    const size_t status = sg + sg_count * sizeof(struct kvl_sg);
    const size_t keys = status + count * sizeof(int32_t);
    uint8_t *memory = calloc(1, keys + key_bytes);
    struct disk_op *op = (struct disk_op *)(void *)memory;

    if (op == NULL) {
        return NULL;
    }
    op->count = count;
    atomic_init(&op->open, count);
    op->items = (struct disk_item *)(void *)(memory + items);
    op->status = (int32_t *)(void *)(memory + status);
    *sg_out = (struct kvl_sg *)(void *)(memory + sg);
    *keys_out = (char *)memory + keys;
    return op;
}

static void op_take_chunk(struct disk_item *item, const struct kvl_chunk *chunk, char *key)
{
    memcpy(key, chunk->key.text, chunk->key.length);
    item->key = (struct kvl_key){.text = key, .length = chunk->key.length};
    item->attrs = chunk->attrs;
    item->bytes = chunk->bytes;
    item->checksum = chunk->checksum;
    item->flags = chunk->flags;
}

int disk_op_create(enum disk_op_kind kind, const struct kvl_host *host,
                   const struct kvl_batch *batch, uint64_t max_bytes, struct disk_op **op_out)
{
    const int r = op_check(kind, batch, max_bytes);
    const bool has_sg = op_moves_bytes(kind) && batch->sg_first != NULL;
    size_t key_bytes = 0;
    size_t sg_count = 0;
    struct disk_op *op;
    struct kvl_sg *sg;
    char *keys;

    if (r < 0) {
        return r;
    }
    for (uint32_t i = 0; i < batch->count; i++) {
        key_bytes += batch->chunks[i].key.length;
        sg_count += has_sg ? batch->sg_first[i + 1] - batch->sg_first[i] : 0;
    }
    op = op_alloc(batch->count, sg_count, key_bytes, &sg, &keys);
    if (op == NULL) {
        return -ENOMEM;
    }
    op->kind = kind;
    op->host = host;
    op->cookie = batch->cookie;
    op->deadline_ms = batch->deadline_ms == 0 ? KVL_NEVER : batch->deadline_ms;
    op->has_sg = has_sg;
    for (uint32_t i = 0; i < batch->count; i++) {
        struct disk_item *item = &op->items[i];

        op_take_chunk(item, &batch->chunks[i], keys);
        keys += item->key.length;
        if (has_sg) {
            item->sg = sg;
            item->sg_count = batch->sg_first[i + 1] - batch->sg_first[i];
            if (item->sg_count > 0) {
                memcpy(sg, batch->sg + batch->sg_first[i], item->sg_count * sizeof(*sg));
            }
            sg += item->sg_count;
            (void)disk_sg_total(item->sg, item->sg_count, &item->bytes); /* checked before */
        }
    }
    *op_out = op;
    return 0;
}

int disk_op_create_list(const struct kvl_host *host, uint64_t cookie, uint64_t deadline_ms,
                        struct disk_op **op_out)
{
    struct kvl_sg *sg;
    char *keys;
    struct disk_op *op = op_alloc(1, 0, 0, &sg, &keys);

    if (op == NULL) {
        return -ENOMEM;
    }
    op->kind = DISK_LIST;
    op->host = host;
    op->cookie = cookie;
    op->deadline_ms = deadline_ms == 0 ? KVL_NEVER : deadline_ms;
    *op_out = op;
    return 0;
}

void disk_op_destroy(struct disk_op *op)
{
    free(op);
}

int disk_op_code(const struct disk_op *op)
{
    if (atomic_load_explicit(&op->cancel, memory_order_relaxed)) {
        return -ECANCELED;
    }
    if (op->deadline_ms != KVL_NEVER && op->host->now_ms(op->host) >= op->deadline_ms) {
        return -ETIMEDOUT;
    }
    return 0;
}

void disk_op_complete(struct disk_op *op)
{
    struct kvl_completion done = {
        .size = sizeof(done),
        .cookie = op->cookie,
        .bytes = op->bytes,
        .item_status = op->kind == DISK_LIST ? NULL : op->status,
        .item_count = op->kind == DISK_LIST ? 0 : op->count,
    };

    for (uint32_t i = 0; i < op->count && done.status == 0; i++) {
        done.status = op->status[i];
    }
    op->host->complete(op->host, &done);
}
