/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>

#include "answer.h"
#include "drive.h"
#include "hash.h"
#include "move.h"
#include "save_device.h"

/* What a save carries from chunk to chunk. */
struct saving {
    struct kvl_instance *instance;
    const struct kvl_batch *batch;
    const struct kvl_place *place;
    struct kvl_op *op; /* made when the first chunk has to travel */
    struct kvl_answer *answer;
    uint32_t targets; /* bit per backend with put_to */
    uint32_t spread; /* items of op already under way */
    uint64_t window; /* bytes of items not yet under way */
    int may_wait;
};

static uint32_t save_targets(const struct kvl_instance *instance, uint32_t flags)
{
    uint32_t mask = 0;

    for (uint32_t i = 0; (flags & KVL_BATCH_LOCAL_ONLY) == 0 && i < instance->route.count; i++) {
        const struct kvl_backend *backend = instance->route.backends[i];

        if (atomic_load_explicit(&backend->put_to, memory_order_relaxed) == KVL_PUT_YES &&
            kvl_drive_can(backend, KVL_CAP_WRITE) && kvl_backend_takes(backend, KVL_MEM_HOST)) {
            mask |= 1u << i;
        }
    }
    return mask;
}

static void save_spread(struct saving *saving)
{
    if (saving->op != NULL && saving->spread < saving->op->item_count) {
        kvl_drive_spread(saving->instance, saving->op, KVL_VERB_WRITE, saving->spread);
        saving->spread = saving->op->item_count;
        saving->window = 0;
    }
}

/* Room in the own store. When all of it is being sent, a caller that may wait does. */
static int save_reserve(struct saving *saving, const struct kvl_chunk *chunk, uint64_t *slot_out,
                        void **addr_out)
{
    struct kvl_store *store = saving->instance->store;
    int r = kvl_store_reserve(store, chunk, slot_out, addr_out);

    while (r == -ENOMEM && saving->may_wait && saving->op != NULL) {
        save_spread(saving);
        if (kvl_op_pending(saving->op) == 0 ||
            kvl_op_wait(saving->op, saving->op->deadline_ms) < 0) {
            break;
        }
        r = kvl_store_reserve(store, chunk, slot_out, addr_out);
    }
    return r;
}

static int save_local(struct saving *saving, uint32_t i)
{
    const struct kvl_batch *batch = saving->batch;
    const struct kvl_chunk *chunk = &batch->chunks[i];
    uint64_t slot;
    void *addr;
    int r;

    if ((batch->flags & KVL_BATCH_OVERWRITE) == 0 &&
        kvl_store_touch(saving->instance->store, &chunk->key, chunk->bytes) == 0) {
        return 0;
    }
    r = save_reserve(saving, chunk, &slot, &addr);
    if (r < 0) {
        return r;
    }
    if (chunk->bytes > 0) {
        kvl_place_gather(saving->place, batch, i, addr);
    }
    saving->answer->bytes += chunk->bytes;
    return kvl_store_commit(saving->instance->store, slot, NULL);
}

/* Queues a stored chunk for the backends that are not known to have it. */
static int save_remote(struct saving *saving, uint32_t i)
{
    struct kvl_instance *instance = saving->instance;
    const struct kvl_chunk *chunk = &saving->batch->chunks[i];
    struct kvl_op_item *item;
    uint32_t want = saving->targets;

    if ((saving->batch->flags & KVL_BATCH_OVERWRITE) == 0) {
        want &= ~kvl_hints_find(instance->hints, kvl_hash_key(&chunk->key));
    }
    if (want == 0) {
        return 0;
    }
    if (saving->op == NULL) {
        saving->op = kvl_answer_op(instance, KVL_OP_SAVE, saving->batch, NULL);
        if (saving->op == NULL) {
            return -ENOMEM;
        }
    }
    item = kvl_op_add(saving->op, saving->batch, i);
    item->status = 0; /* the own store has it, whatever the others say */
    item->want = want;
    saving->window += chunk->bytes;
    /* Before the head of a large batch is evicted by its own tail. */
    if (saving->window >= kvl_store_max_bytes(instance->store) / 4) {
        save_spread(saving);
    }
    return 0;
}

static void save_all(struct saving *saving)
{
    const struct kvl_batch *batch = saving->batch;
    uint32_t good = 0;

    for (uint32_t i = batch->count; i-- > 0;) {
        int r = save_local(saving, i);

        saving->answer->status[i] = r;
        saving->answer->location[i] = r == 0 ? KVL_LOCATION_LOCAL : KVL_LOCATION_NONE;
        good += r == 0;
        if (r == 0 && saving->targets != 0) {
            (void)save_remote(saving, i); /* -ENOMEM: stored here all the same */
        }
    }
    save_spread(saving);
    kvl_store_trim(saving->instance->store);
    kvl_count(&saving->instance->counters, KVL_COUNT_SAVES, 1);
    kvl_count(&saving->instance->counters, KVL_COUNT_SAVE_CHUNKS, good);
    kvl_count(&saving->instance->counters, KVL_COUNT_SAVE_BYTES, saving->answer->bytes);
}

static int save_host(struct saving *saving, struct kvl_result *result, uint64_t *op_out)
{
    saving->targets = save_targets(saving->instance, saving->batch->flags);
    save_all(saving);
    if (saving->op == NULL) {
        return kvl_answer_done(saving->answer, KVL_OP_SAVE, result, op_out);
    }
    kvl_answer_give(saving->op, saving->answer);
    return kvl_answer_start(saving->instance, saving->op, result, op_out);
}

int kvl_move_save(struct kvl_instance *instance, const struct kvl_batch *batch,
                  struct kvl_result *result, uint64_t *op_out)
{
    struct kvl_answer answer;
    struct kvl_place place;
    struct saving saving = {
        .instance = instance,
        .batch = batch,
        .place = &place,
        .answer = &answer,
        .may_wait = op_out == NULL,
    };
    int r = kvl_answer_check(batch, result);

    if (r == 0) {
        r = kvl_place_init(&place, instance, batch, 1);
    }
    if (r < 0) {
        return r;
    }
    r = kvl_answer_init(&answer, batch->count, result);
    if (r == 0) {
        r = place.mover == NULL ? save_host(&saving, result, op_out)
                                : kvl_save_device(instance, batch, &place, &answer, result, op_out);
        kvl_answer_fini(&answer);
    }
    kvl_place_fini(&place, instance);
    return r;
}
