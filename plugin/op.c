/* SPDX-License-Identifier: Apache-2.0 */
#include "op.h"

#include <errno.h>
#include <stdlib.h>

#include "flight.h"
#include "hash.h"

static uint32_t batch_runs(const struct kvl_batch *batch)
{
    return batch->sg_first != NULL ? batch->sg_first[batch->count] - batch->sg_first[0] : 0;
}

int kvl_op_create(struct kvl_flights *flights, enum kvl_op_kind kind, const struct kvl_batch *batch,
                  uint64_t deadline_ms, struct kvl_op **op_out)
{
    const uint32_t count = batch != NULL ? batch->count : 0;
    struct kvl_op *op = calloc(1, sizeof(*op));

    if (op == NULL) {
        return -ENOMEM;
    }
    op->kind = kind;
    op->deadline_ms = deadline_ms;
    op->flights = flights;
    op->count = count;
    op->status = calloc(count + 1, sizeof(*op->status));
    op->location = calloc(count + 1, sizeof(*op->location));
    op->items = calloc(count + 1, sizeof(*op->items));
    op->keys = malloc((size_t)count * KVL_KEY_MAX + 1);
    if (kind == KVL_OP_LOAD) {
        op->sg = malloc((batch_runs(batch) + 1) * sizeof(*op->sg));
        op->sg_first = calloc(count + 2, sizeof(*op->sg_first));
    }
    kvl_cond_init(&op->changed);
    if (op->status == NULL || op->location == NULL || op->items == NULL || op->keys == NULL ||
        (kind == KVL_OP_LOAD && (op->sg == NULL || op->sg_first == NULL))) {
        kvl_op_destroy(op);
        return -ENOMEM;
    }
    pthread_mutex_lock(&flights->lock);
    if (kvl_table_add(&flights->ops, op, &op->handle) < 0) {
        op->handle = 0;
    }
    op->waiting = 1; /* its maker; handed out by kvl_op_unclaim */
    pthread_mutex_unlock(&flights->lock);
    if (op->handle == 0) {
        kvl_op_destroy(op);
        return -ENOMEM;
    }
    *op_out = op;
    return 0;
}

void kvl_op_item_failed(struct kvl_op_item *item, int status)
{
    if (item->failure == 0 || item->failure == -ENOENT) {
        item->failure = status;
    }
}

struct kvl_op_item *kvl_op_add(struct kvl_op *op, const struct kvl_batch *batch, uint32_t index)
{
    struct kvl_op_item *item = &op->items[op->item_count];
    char *text = op->keys + (size_t)op->item_count * KVL_KEY_MAX;

    item->chunk = batch->chunks[index];
    memcpy(text, item->chunk.key.text, item->chunk.key.length);
    item->chunk.key.text = text;
    item->hash = kvl_hash_key(&item->chunk.key);
    item->index = index;
    item->status = -EINPROGRESS;
    item->failure = op->status[index];
    if (op->kind == KVL_OP_LOAD) {
        uint32_t to = op->sg_first[op->item_count];
        uint32_t runs = 0;

        if (batch->sg_first != NULL) {
            runs = batch->sg_first[index + 1] - batch->sg_first[index];
            memcpy(&op->sg[to], &batch->sg[batch->sg_first[index]], runs * sizeof(*op->sg));
        }
        op->sg_first[op->item_count + 1] = to + runs;
    }
    op->item_count++;
    return item;
}

struct kvl_op *kvl_op_claim(struct kvl_flights *flights, uint64_t handle)
{
    struct kvl_op *op;

    pthread_mutex_lock(&flights->lock);
    op = kvl_table_get(&flights->ops, handle);
    if (op != NULL && op->waiting) {
        op = NULL;
    }
    if (op != NULL) {
        op->waiting = 1;
    }
    pthread_mutex_unlock(&flights->lock);
    return op;
}

void kvl_op_unclaim(struct kvl_op *op)
{
    struct kvl_flights *flights = op->flights;

    pthread_mutex_lock(&flights->lock);
    op->waiting = 0;
    pthread_mutex_unlock(&flights->lock);
}

void kvl_op_destroy(struct kvl_op *op)
{
    if (op->handle != 0) {
        pthread_mutex_lock(&op->flights->lock);
        kvl_table_drop(&op->flights->ops, op->handle);
        pthread_mutex_unlock(&op->flights->lock);
    }
    for (uint32_t i = 0; i < op->item_count; i++) {
        if (op->items[i].has_view) {
            kvl_store_release(op->flights->store, op->items[i].view.lease);
        }
    }
    pthread_cond_destroy(&op->changed);
    free(op->status);
    free(op->location);
    free(op->items);
    free(op->keys);
    free(op->sg);
    free(op->sg_first);
    free(op->listed);
    free(op);
}

uint32_t kvl_op_open_items(struct kvl_op *op, uint32_t *items_out, uint32_t room)
{
    uint32_t count = 0;

    pthread_mutex_lock(&op->flights->lock);
    for (uint32_t i = 0; i < op->item_count && count < room; i++) {
        if (!op->items[i].is_flying && op->items[i].status == -EINPROGRESS) {
            items_out[count++] = i;
        }
    }
    pthread_mutex_unlock(&op->flights->lock);
    return count;
}

int kvl_op_wait(struct kvl_op *op, uint64_t deadline_ms)
{
    struct kvl_flights *flights = op->flights;
    int r = 0;

    pthread_mutex_lock(&flights->lock);
    while (r == 0 && op->pending > 0 && op->landed == op->seen && !op->cancelled) {
        if (kvl_cond_wait(&op->changed, &flights->lock, deadline_ms) == ETIMEDOUT) {
            r = op->landed == op->seen ? -ETIMEDOUT : 0;
            break;
        }
    }
    op->seen = op->landed;
    if (op->cancelled) {
        r = -ECANCELED;
    }
    pthread_mutex_unlock(&flights->lock);
    return r;
}

uint32_t kvl_op_pending(struct kvl_op *op)
{
    uint32_t pending;

    pthread_mutex_lock(&op->flights->lock);
    pending = op->pending;
    pthread_mutex_unlock(&op->flights->lock);
    return pending;
}

int kvl_op_list_key(struct kvl_op *op, const struct kvl_key *key)
{
    if (key->length == 0 || key->length > KVL_KEY_MAX) {
        return 0;
    }
    if (op->listed_length + 1 + key->length > op->listed_room) {
        size_t room = op->listed_room * 2 + 65536;
        char *listed = realloc(op->listed, room);

        if (listed == NULL) {
            return -ENOMEM;
        }
        op->listed = listed;
        op->listed_room = room;
    }
    op->listed[op->listed_length] = (char)key->length;
    memcpy(op->listed + op->listed_length + 1, key->text, key->length);
    op->listed_length += 1 + key->length;
    return 0;
}
