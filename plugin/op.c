/* SPDX-License-Identifier: Apache-2.0 */
#include "op.h"

#include <errno.h>
#include <stdlib.h>

#include <kvlane/plugin.h>

#include "flight.h"
#include "hash.h"
#include "route.h"

static int copies_memory(enum kvl_op_kind kind, const struct kvl_batch *batch,
                         const struct kvl_place *place)
{
    return place != NULL && (batch->kv != 0 || batch->sg_first != NULL) &&
           (kind == KVL_OP_LOAD || (kind == KVL_OP_SAVE && place->mover != NULL));
}

/* Room for where all chunks of the batch lie; kvl_op_add fills it. */
static int prepare_memory(struct kvl_op *op, const struct kvl_batch *batch,
                          const struct kvl_place *place)
{
    const uint32_t *first_of = batch->kv != 0 ? batch->block_first : batch->sg_first;
    const size_t room = (size_t)(first_of[batch->count] - first_of[0]) + 1;

    op->place = *place;
    if (place->cache != NULL) {
        op->place.cache = kvl_kv_use(&op->flights->kvs, place->cache);
    }
    op->memory.stream = batch->stream;
    op->first_of = calloc(batch->count + 1, sizeof(*op->first_of));
    if (batch->kv != 0) {
        op->memory.kv = batch->kv;
        op->blocks = malloc(room * sizeof(*op->blocks));
        op->memory.blocks = op->blocks;
        op->memory.block_first = op->first_of;
    } else {
        op->sg = malloc(room * sizeof(*op->sg));
        op->memory.sg = op->sg;
        op->memory.sg_first = op->first_of;
    }
    return op->first_of != NULL && (op->blocks != NULL || op->sg != NULL) ? 0 : -ENOMEM;
}

int kvl_op_create(struct kvl_flights *flights, enum kvl_op_kind kind, const struct kvl_batch *batch,
                  const struct kvl_place *place, uint64_t deadline_ms, struct kvl_op **op_out)
{
    const uint32_t count = batch != NULL ? batch->count : 0;
    struct kvl_op *op = calloc(1, sizeof(*op));
    int r = 0;

    if (op == NULL) {
        return -ENOMEM;
    }
    op->kind = kind;
    op->flags = batch != NULL ? batch->flags & KVL_BATCH_HELD : 0;
    op->deadline_ms = deadline_ms;
    op->flights = flights;
    op->count = count;
    op->status = calloc(count + 1, sizeof(*op->status));
    op->location = calloc(count + 1, sizeof(*op->location));
    op->items = calloc(count + 1, sizeof(*op->items));
    op->keys = malloc((size_t)count * KVL_KEY_MAX + 1);
    if (batch != NULL && copies_memory(kind, batch, place)) {
        r = prepare_memory(op, batch, place);
    }
    kvl_cond_init(&op->changed);
    if (r < 0 || op->status == NULL || op->location == NULL || op->items == NULL ||
        op->keys == NULL) {
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

void kvl_op_items_refused(struct kvl_op *op, uint32_t backend, const uint32_t *items,
                          uint32_t count, int status)
{
    pthread_mutex_lock(&op->flights->lock); /* of a save they may be flying elsewhere */
    for (uint32_t i = 0; i < count; i++) {
        op->items[items[i]].tried |= 1u << backend;
        kvl_op_item_failed(&op->items[items[i]], status);
    }
    pthread_mutex_unlock(&op->flights->lock);
}

/* Takes along where chunk `index` lies. */
static void add_memory(struct kvl_op *op, const struct kvl_batch *batch, uint32_t index)
{
    const uint32_t *first_of = batch->kv != 0 ? batch->block_first : batch->sg_first;
    const uint32_t to = op->first_of[op->item_count];
    const uint32_t count = first_of[index + 1] - first_of[index];

    if (op->blocks != NULL) {
        memcpy(&op->blocks[to], &batch->blocks[first_of[index]], count * sizeof(*op->blocks));
    } else {
        memcpy(&op->sg[to], &batch->sg[first_of[index]], count * sizeof(*op->sg));
    }
    op->first_of[op->item_count + 1] = to + count;
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
    if (op->first_of != NULL) {
        add_memory(op, batch, index);
    }
    op->idle += op->kind == KVL_OP_LOAD;
    op->item_count++;
    return item;
}

void kvl_op_end_item(struct kvl_op *op, uint32_t i, int status)
{
    struct kvl_op_item *item = &op->items[i];

    if (item->has_view) {
        kvl_store_release(op->flights->store, item->view.lease);
        item->has_view = 0;
    }
    if (status < 0) {
        item->location = KVL_LOCATION_NONE;
    }
    pthread_mutex_lock(&op->flights->lock);
    item->status = status;
    op->idle -= op->kind == KVL_OP_LOAD;
    pthread_mutex_unlock(&op->flights->lock);
}

void kvl_op_bring(struct kvl_op *op, uint32_t i)
{
    kvl_place_scatter(&op->place, &op->memory, i, &op->items[i].view);
    kvl_op_end_item(op, i, 0);
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
        flights->watchers++;
        while (op->is_nudged) {
            pthread_cond_wait(&flights->moved, &flights->lock);
        }
        flights->watchers--;
    }
    pthread_mutex_unlock(&flights->lock);
    return op;
}

struct kvl_op *kvl_op_claim_save(struct kvl_flights *flights)
{
    struct kvl_op *found = NULL;

    pthread_mutex_lock(&flights->lock);
    for (uint32_t i = 0; found == NULL && i < flights->ops.room; i++) {
        struct kvl_op *op = flights->ops.slots[i].object;

        if (op != NULL && op->kind == KVL_OP_SAVE && !op->waiting) {
            op->waiting = 1;
            found = op;
        }
    }
    pthread_mutex_unlock(&flights->lock);
    return found;
}

void kvl_op_unclaim(struct kvl_op *op)
{
    struct kvl_flights *flights = op->flights;

    pthread_mutex_lock(&flights->lock);
    op->waiting = 0;
    kvl_flights_moved(flights);
    pthread_mutex_unlock(&flights->lock);
}

void kvl_op_destroy(struct kvl_op *op)
{
    if (op->handle != 0) {
        pthread_mutex_lock(&op->flights->lock);
        kvl_table_drop(&op->flights->ops, op->handle);
        kvl_flights_moved(op->flights);
        pthread_mutex_unlock(&op->flights->lock);
    }
    for (uint32_t i = 0; i < op->item_count; i++) {
        if (op->items[i].has_view) {
            kvl_store_release(op->flights->store, op->items[i].view.lease);
        }
    }
    kvl_kv_put(&op->flights->kvs, op->place.cache);
    pthread_cond_destroy(&op->changed);
    free(op->status);
    free(op->location);
    free(op->items);
    free(op->keys);
    free(op->sg);
    free(op->blocks);
    free(op->first_of);
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

uint32_t kvl_op_staged_items(struct kvl_op *op, enum kvl_item_stage stage, uint32_t *items_out)
{
    uint32_t count = 0;

    pthread_mutex_lock(&op->flights->lock);
    for (uint32_t i = 0; i < op->item_count; i++) {
        if (op->items[i].stage == stage) {
            items_out[count++] = i;
        }
    }
    pthread_mutex_unlock(&op->flights->lock);
    return count;
}

int kvl_op_is_due(const struct kvl_op *op)
{
    return op->landed != op->seen || op->cancelled ||
           (op->wants_room && op->flights->landings != op->landings);
}

void kvl_op_look(struct kvl_op *op)
{
    pthread_mutex_lock(&op->flights->lock);
    op->wants_room = 0;
    op->landings = op->flights->landings;
    pthread_mutex_unlock(&op->flights->lock);
}

int kvl_op_wants_room(struct kvl_op *op, const struct kvl_backend *backend, int refusal)
{
    pthread_mutex_lock(&op->flights->lock);
    /* With nothing of its under way, and nothing that landed since we asked, it never has room. */
    op->wants_room = refusal == -EAGAIN &&
                     (atomic_load(&((struct kvl_backend *)(uintptr_t)backend)->in_flight) > 0 ||
                      op->flights->landings != op->landings);
    pthread_mutex_unlock(&op->flights->lock);
    return op->wants_room;
}

/* The lock is held. @return 0; ETIMEDOUT. */
static int wait_once(struct kvl_op *op, uint64_t deadline_ms)
{
    struct kvl_flights *flights = op->flights;
    int r;

    if (!op->wants_room) {
        return kvl_cond_wait(&op->changed, &flights->lock, deadline_ms);
    }
    flights->watchers++;
    r = kvl_cond_wait(&flights->moved, &flights->lock, deadline_ms);
    flights->watchers--;
    return r;
}

int kvl_op_wait(struct kvl_op *op, uint64_t deadline_ms)
{
    struct kvl_flights *flights = op->flights;
    int r = 0;

    pthread_mutex_lock(&flights->lock);
    while (r == 0 && (op->pending > 0 || op->wants_room) && !kvl_op_is_due(op)) {
        if (wait_once(op, deadline_ms) == ETIMEDOUT) {
            r = kvl_op_is_due(op) ? 0 : -ETIMEDOUT;
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
