/* SPDX-License-Identifier: Apache-2.0 */
#include "save_device.h"

#include <errno.h>
#include <stdlib.h>

#include "drive.h"
#include "hash.h"

/* ---- the call ---- */

/* Bit per backend that saved chunks go to; of these in *out_of_memory those that take them from the
 * engine's own memory. */
static uint32_t save_targets(const struct kvl_instance *instance, const struct kvl_batch *batch,
                             const struct kvl_place *place, uint32_t *out_of_memory)
{
    uint32_t mask = 0;

    *out_of_memory = 0;
    for (uint32_t i = 0; (batch->flags & KVL_BATCH_LOCAL_ONLY) == 0 && i < instance->route.count;
         i++) {
        const struct kvl_backend *backend = instance->route.backends[i];

        if (atomic_load_explicit(&backend->put_to, memory_order_relaxed) != KVL_PUT_YES ||
            !kvl_drive_can(backend, KVL_CAP_WRITE)) {
            continue;
        }
        if (kvl_backend_takes(backend, place->mem)) {
            *out_of_memory |= 1u << i;
            mask |= 1u << i;
        } else if (kvl_backend_takes(backend, KVL_MEM_HOST)) {
            mask |= 1u << i;
        }
    }
    return mask;
}

/* One chunk: already here, or to be taken; and who else is to get it. @return its item, or NULL. */
static struct kvl_op_item *add_item(struct kvl_instance *instance, struct kvl_op *op,
                                    const struct kvl_batch *batch, uint32_t i, uint32_t want)
{
    const struct kvl_chunk *chunk = &batch->chunks[i];
    struct kvl_op_item *item;
    int is_here = 0;

    if ((batch->flags & KVL_BATCH_OVERWRITE) == 0) {
        is_here = kvl_store_touch(instance->store, &chunk->key, chunk->bytes) == 0;
        want &= ~kvl_hints_find(instance->hints, kvl_hash_key(&chunk->key));
    }
    if (is_here) {
        op->status[i] = 0;
        op->location[i] = KVL_LOCATION_LOCAL;
        kvl_count(&instance->counters, KVL_COUNT_SAVE_CHUNKS, 1);
    }
    if (is_here && want == 0) {
        return NULL;
    }
    item = kvl_op_add(op, batch, i);
    item->want = want;
    item->is_moved = !is_here;
    item->stage = is_here ? KVL_ITEM_KEPT : KVL_ITEM_TAKE;
    item->status = is_here ? 0 : -EINPROGRESS;
    return item;
}

/* Those that work on the engine's memory get all chunks they are to have at once. */
static void write_out(struct kvl_instance *instance, struct kvl_op *op, const uint32_t *others)
{
    kvl_drive_spread(instance, op, KVL_VERB_WRITE_OUT, 0);
    for (uint32_t i = 0; i < op->item_count; i++) {
        op->items[i].want = others[i];
    }
}

int kvl_save_device(struct kvl_instance *instance, const struct kvl_batch *batch,
                    const struct kvl_place *place, struct kvl_answer *answer,
                    struct kvl_result *result, uint64_t *op_out)
{
    uint32_t *others = malloc(batch->count * sizeof(*others));
    uint32_t out_of_memory;
    const uint32_t targets = save_targets(instance, batch, place, &out_of_memory);
    struct kvl_op *op = NULL;

    if (others != NULL) {
        memset(answer->status, 0, batch->count * sizeof(*answer->status));
        memset(answer->location, KVL_LOCATION_NONE, batch->count);
        op = kvl_answer_op(instance, KVL_OP_SAVE, batch, place);
    }
    if (op == NULL) {
        free(others);
        return -ENOMEM;
    }
    kvl_count(&instance->counters, KVL_COUNT_SAVES, 1);
    /* Last to first, so that the head of a prefix is evicted last. */
    for (uint32_t i = batch->count; i-- > 0;) {
        struct kvl_op_item *item = add_item(instance, op, batch, i, targets);

        if (item != NULL) {
            others[item - op->items] = item->want & ~out_of_memory;
            item->want &= out_of_memory;
        }
    }
    write_out(instance, op, others);
    free(others);
    return kvl_answer_start(instance, op, result, op_out);
}

/* ---- moving it on ---- */

static void lose(struct kvl_op *op, uint32_t i, int status)
{
    struct kvl_op_item *item = &op->items[i];

    pthread_mutex_lock(&op->flights->lock); /* it may be flying to others */
    item->stage = KVL_ITEM_LOST;
    kvl_op_item_failed(item, status);
    pthread_mutex_unlock(&op->flights->lock);
}

/* A chunk of no bytes: there is nothing to take. */
static void keep_empty(struct kvl_store *store, struct kvl_op *op, uint32_t i)
{
    struct kvl_op_item *item = &op->items[i];
    int r = kvl_store_commit(store, item->slot, NULL);

    item->has_slot = 0;
    if (r < 0) {
        lose(op, i, r);
        return;
    }
    pthread_mutex_lock(&op->flights->lock);
    item->stage = KVL_ITEM_KEPT;
    item->status = 0;
    item->location = KVL_LOCATION_LOCAL;
    pthread_mutex_unlock(&op->flights->lock);
}

/* Room for as many of the items as there is. @return how many were dealt with; those that have room
 * now are in `taken_out`. */
static uint32_t make_room(struct kvl_instance *instance, struct kvl_op *op, const uint32_t *items,
                          uint32_t count, uint32_t *taken_out, uint32_t *taken_count_out)
{
    uint32_t taken = 0;
    uint32_t i;

    for (i = 0; i < count; i++) {
        struct kvl_op_item *item = &op->items[items[i]];
        int r = kvl_store_reserve(instance->store, &item->chunk, &item->slot, &item->to);

        if (r == -ENOMEM && (taken > 0 || kvl_op_pending(op) > 0)) {
            break; /* when what is under way has landed there may be some */
        }
        if (r < 0) {
            lose(op, items[i], r);
            continue;
        }
        item->has_slot = 1;
        if (item->chunk.bytes == 0) {
            keep_empty(instance->store, op, items[i]);
        } else {
            taken_out[taken++] = items[i];
        }
    }
    *taken_count_out = taken;
    return i;
}

/* The mover refused: they wait for room there, or are lost. @return 1 they wait. */
static int refused(struct kvl_instance *instance, struct kvl_op *op, const uint32_t *items,
                   uint32_t count, int status)
{
    const int waits = kvl_op_wants_room(op, op->place.mover, status);

    for (uint32_t i = 0; i < count; i++) {
        struct kvl_op_item *item = &op->items[items[i]];

        kvl_store_abort(instance->store, item->slot);
        item->has_slot = 0;
        if (!waits) {
            lose(op, items[i], status);
        }
    }
    return waits;
}

/* Takes chunks off the engine's memory, in batches, as long as there is room for them. */
static void take(struct kvl_instance *instance, struct kvl_op *op, uint32_t *items, uint32_t count)
{
    const uint32_t most = kvl_drive_share(op, op->place.mover, count);
    uint32_t *taken = items + op->item_count;

    for (uint32_t at = 0; at < count;) {
        const uint32_t n = count - at < most ? count - at : most;
        uint32_t taken_count;
        const uint32_t done = make_room(instance, op, items + at, n, taken, &taken_count);
        int r = taken_count > 0
                    ? kvl_op_fly(op, op->place.mover, KVL_VERB_GATHER, taken, taken_count)
                    : 0;

        if (r < 0 && refused(instance, op, taken, taken_count, r)) {
            return;
        }
        if (done < n) {
            return;
        }
        at += n;
    }
}

/* What the store has by now. @return how many; *is_wanted_out: others are to get some of them. */
static uint32_t kept_items(struct kvl_op *op, uint32_t *items_out, int *is_wanted_out)
{
    const uint32_t count = kvl_op_staged_items(op, KVL_ITEM_KEPT, items_out);

    *is_wanted_out = 0;
    for (uint32_t i = 0; i < count; i++) {
        *is_wanted_out |= op->items[items_out[i]].want != 0;
    }
    return count;
}

/* Sends on what the store has by now. The leases, which kept it there, are given back. */
static void send_on(struct kvl_instance *instance, struct kvl_op *op, uint32_t *items)
{
    int is_wanted;
    const uint32_t count = kept_items(op, items, &is_wanted);

    if (!is_wanted) {
        return;
    }
    kvl_drive_spread_items(instance, op, KVL_VERB_WRITE, items, count);
    for (uint32_t i = 0; i < count; i++) {
        struct kvl_op_item *item = &op->items[items[i]];

        if (item->has_view) {
            kvl_store_release(instance->store, item->view.lease);
            item->has_view = 0;
        }
    }
}

static void lose_all(struct kvl_op *op, int status)
{
    for (uint32_t i = 0; i < op->item_count; i++) {
        if (op->items[i].stage == KVL_ITEM_TAKE) { /* only we take it out of that stage */
            lose(op, i, status);
        }
    }
}

uint32_t kvl_save_device_advance(struct kvl_instance *instance, struct kvl_op *op)
{
    uint32_t *items = malloc((size_t)op->item_count * 2 * sizeof(*items) + 1);
    uint32_t pending;
    uint32_t count;
    int is_wanted;

    if (items == NULL) {
        lose_all(op, -ENOMEM);
        return kvl_op_pending(op);
    }
    do {
        send_on(instance, op, items);
        count = kvl_op_staged_items(op, KVL_ITEM_TAKE, items);
        if (count > 0) {
            take(instance, op, items, count);
        }
        pending = kvl_op_pending(op);
        (void)kept_items(op, items, &is_wanted);
        /* Something may have landed since we looked. */
    } while (pending == 0 && !op->wants_room &&
             (is_wanted || kvl_op_staged_items(op, KVL_ITEM_TAKE, items) > 0));
    free(items);
    return pending;
}
