/* SPDX-License-Identifier: Apache-2.0 */
#include "answer.h"

#include <errno.h>
#include <stdlib.h>

#include "drive.h"

int kvl_answer_check(const struct kvl_batch *batch, const struct kvl_result *result)
{
    if (batch->size < sizeof(*batch) || batch->count == 0 || batch->count > KVL_BATCH_MAX ||
        batch->chunks == NULL || (batch->sg_first != NULL && batch->sg == NULL) ||
        (result != NULL && result->size < sizeof(*result))) {
        return -EINVAL;
    }
    for (uint32_t i = 0; i < batch->count; i++) {
        const struct kvl_key *key = &batch->chunks[i].key;

        if (key->text == NULL || key->length == 0 || key->length > KVL_KEY_MAX) {
            return -EINVAL;
        }
    }
    return 0;
}

int kvl_answer_init(struct kvl_answer *answer, uint32_t count, const struct kvl_result *result)
{
    const int fits = result != NULL && result->item_count >= count;

    answer->count = count;
    answer->bytes = 0;
    answer->heap = NULL;
    answer->status = fits ? result->item_status : NULL;
    answer->location = fits ? result->item_location : NULL;
    if (count <= SMALL) {
        answer->status = answer->status != NULL ? answer->status : answer->small_status;
        answer->location = answer->location != NULL ? answer->location : answer->small_location;
        return 0;
    }
    if (answer->status == NULL || answer->location == NULL) {
        answer->heap = malloc(count * (sizeof(int32_t) + 1));
        if (answer->heap == NULL) {
            return -ENOMEM;
        }
        if (answer->status == NULL) {
            answer->status = answer->heap;
        }
        if (answer->location == NULL) {
            answer->location = (uint8_t *)answer->heap + count * sizeof(int32_t);
        }
    }
    return 0;
}

void kvl_answer_fini(struct kvl_answer *answer)
{
    free(answer->heap);
}

static uint32_t leading_run(const int32_t *status, uint32_t count)
{
    uint32_t run = 0;

    while (run < count && status[run] == 0) {
        run++;
    }
    return run;
}

uint32_t kvl_answer_good(const int32_t *status, uint32_t count)
{
    uint32_t good = 0;

    for (uint32_t i = 0; i < count; i++) {
        good += status[i] == 0;
    }
    return good;
}

/* Tells the engine. Arrays that are too short are left alone. */
static int tell(struct kvl_result *result, enum kvl_op_kind kind, const int32_t *status,
                const uint8_t *location, uint32_t count, uint64_t bytes, int overall)
{
    if (result == NULL) {
        return overall;
    }
    if (result->item_count >= count) {
        if (result->item_status != NULL && result->item_status != status) {
            memcpy(result->item_status, status, count * sizeof(*status));
        }
        if (result->item_location != NULL && result->item_location != location) {
            memcpy(result->item_location, location, count * sizeof(*location));
        }
    }
    result->status = overall;
    result->matched = kind == KVL_OP_SAVE || kind == KVL_OP_REMOVE ? kvl_answer_good(status, count)
                                                                   : leading_run(status, count);
    result->item_count = count;
    result->bytes = bytes;
    return overall;
}

int kvl_answer_done(const struct kvl_answer *answer, enum kvl_op_kind kind,
                    struct kvl_result *result, uint64_t *op_out)
{
    if (op_out != NULL) {
        *op_out = 0;
    }
    return tell(result, kind, answer->status, answer->location, answer->count, answer->bytes, 0);
}

static uint64_t op_deadline(const struct kvl_instance *instance, const struct kvl_batch *batch)
{
    return batch->deadline_ms != 0 ? batch->deadline_ms
                                   : kvl_now_ms() + instance->default_deadline_ms;
}

/* What an item that ended well is counted as. */
static void count_item(struct kvl_instance *instance, struct kvl_op *op,
                       const struct kvl_op_item *item)
{
    if (op->kind == KVL_OP_LOAD) {
        op->bytes += item->chunk.bytes;
        kvl_count(
            &instance->counters,
            item->location == KVL_LOCATION_LOCAL ? KVL_COUNT_LOAD_LOCAL : KVL_COUNT_LOAD_REMOTE, 1);
    } else if (op->kind == KVL_OP_SAVE && item->is_moved) {
        op->bytes += item->chunk.bytes;
        kvl_count(&instance->counters, KVL_COUNT_SAVE_CHUNKS, 1);
        kvl_count(&instance->counters, KVL_COUNT_SAVE_BYTES, item->chunk.bytes);
    } else if (op->kind == KVL_OP_LOOKUP) {
        kvl_count(&instance->counters, KVL_COUNT_LOOKUP_REMOTE, 1);
    }
}

static void deliver(struct kvl_instance *instance, struct kvl_op *op)
{
    for (uint32_t i = 0; i < op->item_count; i++) {
        struct kvl_op_item *item = &op->items[i];

        if (item->status == 0) {
            count_item(instance, op, item);
        }
        if (item->status == -EINPROGRESS) {
            item->status = item->failure != 0 ? item->failure : -ENOENT;
        }
        op->status[item->index] = item->status;
        if (item->location != KVL_LOCATION_NONE) {
            op->location[item->index] = item->location;
        }
    }
    kvl_count(&instance->counters, KVL_COUNT_LOAD_BYTES, op->kind == KVL_OP_LOAD ? op->bytes : 0);
}

/* A slow backend is no failure of a save that the own store has; one that was cut off on the way
 * there is. */
static int save_outcome(const struct kvl_op *op, int r)
{
    for (uint32_t i = 0; r == -ETIMEDOUT && i < op->item_count; i++) {
        if (op->items[i].status == -ETIMEDOUT) {
            return r;
        }
    }
    return r == -ETIMEDOUT ? 0 : r;
}

/* The engine's side of the end: waits as it may, then delivers or hands out the handle. */
int kvl_answer_finish(struct kvl_instance *instance, struct kvl_op *op, uint64_t deadline_ms,
                      struct kvl_result *result)
{
    int r = kvl_drive(instance, op, deadline_ms);

    if (r == -EINPROGRESS) {
        kvl_op_unclaim(op);
        return r;
    }
    deliver(instance, op);
    if (op->kind == KVL_OP_SAVE) {
        r = save_outcome(op, r);
    }
    r = tell(result, op->kind, op->status, op->location, op->count, op->bytes, r);
    kvl_op_destroy(op);
    return r;
}

int kvl_answer_start(struct kvl_instance *instance, struct kvl_op *op, struct kvl_result *result,
                     uint64_t *op_out)
{
    uint64_t handle = op->handle;
    int r = kvl_answer_finish(instance, op, op_out != NULL ? 0 : KVL_NEVER, result);

    if (op_out != NULL) {
        *op_out = r == -EINPROGRESS ? handle : 0;
    }
    return r;
}

struct kvl_op *kvl_answer_op(struct kvl_instance *instance, enum kvl_op_kind kind,
                             const struct kvl_batch *batch, const struct kvl_place *place)
{
    struct kvl_op *op;
    int r = kvl_op_create(instance->flights, kind, batch, place, op_deadline(instance, batch), &op);

    return r == 0 ? op : NULL;
}

void kvl_answer_give(struct kvl_op *op, const struct kvl_answer *answer)
{
    memcpy(op->status, answer->status, answer->count * sizeof(*op->status));
    memcpy(op->location, answer->location, answer->count * sizeof(*op->location));
    op->bytes = answer->bytes;
}

/* An op for what the own process could not answer. */
struct kvl_op *kvl_answer_op_for_rest(struct kvl_instance *instance, enum kvl_op_kind kind,
                                      const struct kvl_batch *batch, const struct kvl_place *place,
                                      const struct kvl_answer *answer)
{
    struct kvl_op *op = kvl_answer_op(instance, kind, batch, place);

    if (op == NULL) {
        return NULL;
    }
    kvl_answer_give(op, answer);
    for (uint32_t i = 0; i < batch->count; i++) {
        if (answer->status[i] != 0) {
            kvl_op_add(op, batch, i);
        }
    }
    return op;
}
