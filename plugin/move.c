/* SPDX-License-Identifier: Apache-2.0 */
#include "move.h"

#include <errno.h>
#include <stdlib.h>

#include "drive.h"
#include "hash.h"
#include "scatter.h"

/* Batches up to this size are answered from the own store without an allocation. */
#define SMALL 512

/* Status and location of every chunk of a batch, in the caller's arrays where there are any. */
struct answer {
    int32_t *status;
    uint8_t *location;
    uint32_t count;
    uint64_t bytes;
    void *heap;
    int32_t small_status[SMALL];
    uint8_t small_location[SMALL];
};

static int answer_init(struct answer *answer, uint32_t count, const struct kvl_result *result)
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

static void answer_fini(struct answer *answer)
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

static uint32_t good_items(const int32_t *status, uint32_t count)
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
    result->matched = kind == KVL_OP_SAVE || kind == KVL_OP_REMOVE ? good_items(status, count)
                                                                   : leading_run(status, count);
    result->item_count = count;
    result->bytes = bytes;
    return overall;
}

/* Everything that may be wrong with a batch is found before anything is done. */
static int check_batch(const struct kvl_batch *batch, const struct kvl_result *result,
                       enum kvl_op_kind kind)
{
    if (batch->size < sizeof(*batch) || batch->count == 0 || batch->count > KVL_BATCH_MAX ||
        batch->chunks == NULL || (batch->sg_first != NULL && batch->sg == NULL) ||
        (result != NULL && result->size < sizeof(*result))) {
        return -EINVAL;
    }
    for (uint32_t i = 0; i < batch->count; i++) {
        const struct kvl_chunk *chunk = &batch->chunks[i];
        uint64_t bytes = 0;
        int r;

        if (chunk->key.text == NULL || chunk->key.length == 0 ||
            chunk->key.length > KVL_KEY_MAX) {
            return -EINVAL;
        }
        if (kind != KVL_OP_LOAD && kind != KVL_OP_SAVE) {
            continue;
        }
        if (batch->sg_first != NULL) {
            if (batch->sg_first[i] > batch->sg_first[i + 1]) {
                return -EINVAL;
            }
            r = kvl_sg_check(&batch->sg[batch->sg_first[i]],
                             batch->sg_first[i + 1] - batch->sg_first[i], &bytes);
            if (r < 0) {
                return r;
            }
        }
        if ((kind == KVL_OP_SAVE || batch->sg_first != NULL) && chunk->bytes != bytes) {
            return -EINVAL;
        }
    }
    return 0;
}

static uint64_t op_deadline(const struct kvl_instance *instance, const struct kvl_batch *batch)
{
    return batch->deadline_ms != 0 ? batch->deadline_ms
                                   : kvl_now_ms() + instance->default_deadline_ms;
}

static void deliver(struct kvl_instance *instance, struct kvl_op *op)
{
    for (uint32_t i = 0; i < op->item_count; i++) {
        struct kvl_op_item *item = &op->items[i];

        if (op->kind == KVL_OP_LOAD && item->status == 0) {
            kvl_sg_scatter(&op->sg[op->sg_first[i]], op->sg_first[i + 1] - op->sg_first[i],
                           item->view.data);
            op->bytes += item->view.length;
            kvl_count(&instance->counters, KVL_COUNT_LOAD_REMOTE, 1);
        }
        if (op->kind == KVL_OP_LOOKUP && item->status == 0) {
            kvl_count(&instance->counters, KVL_COUNT_LOOKUP_REMOTE, 1);
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

/* The engine's side of the end: waits as it may, then delivers or hands out the handle. */
static int finish(struct kvl_instance *instance, struct kvl_op *op, uint64_t deadline_ms,
                  struct kvl_result *result)
{
    int r = kvl_drive(instance, op, deadline_ms);

    if (r == -EINPROGRESS) {
        kvl_op_unclaim(op);
        return r;
    }
    deliver(instance, op);
    r = tell(result, op->kind, op->status, op->location, op->count, op->bytes, r);
    kvl_op_destroy(op);
    return r;
}

static int start_op(struct kvl_instance *instance, struct kvl_op *op, struct kvl_result *result,
                    uint64_t *op_out)
{
    uint64_t handle = op->handle;
    int r = finish(instance, op, op_out != NULL ? 0 : KVL_NEVER, result);

    if (op_out != NULL) {
        *op_out = r == -EINPROGRESS ? handle : 0;
    }
    return r;
}

static struct kvl_op *new_op(struct kvl_instance *instance, enum kvl_op_kind kind,
                             const struct kvl_batch *batch)
{
    struct kvl_op *op;
    int r = kvl_op_create(instance->flights, kind, batch, op_deadline(instance, batch), &op);

    return r == 0 ? op : NULL;
}

static void take_answer(struct kvl_op *op, const struct answer *answer)
{
    memcpy(op->status, answer->status, answer->count * sizeof(*op->status));
    memcpy(op->location, answer->location, answer->count * sizeof(*op->location));
    op->bytes = answer->bytes;
}

/* An op for what the own process could not answer. */
static struct kvl_op *op_for_rest(struct kvl_instance *instance, enum kvl_op_kind kind,
                                  const struct kvl_batch *batch, const struct answer *answer)
{
    struct kvl_op *op = new_op(instance, kind, batch);

    if (op == NULL) {
        return NULL;
    }
    take_answer(op, answer);
    for (uint32_t i = 0; i < batch->count; i++) {
        if (answer->status[i] != 0) {
            kvl_op_add(op, batch, i);
        }
    }
    return op;
}

/* ---- lookup ---- */

/* Holders that cannot be asked are believed. */
static void lookup_hints(struct kvl_instance *instance, const struct kvl_batch *batch,
                         struct answer *answer)
{
    for (uint32_t b = 0; b < instance->route.count; b++) {
        const struct kvl_backend *backend = instance->route.backends[b];

        if (!kvl_drive_can(backend, KVL_CAP_READ) || kvl_drive_can(backend, KVL_CAP_LOOKUP)) {
            continue;
        }
        for (uint32_t i = 0; i < batch->count; i++) {
            if (answer->status[i] != 0 &&
                (kvl_registry_find(instance->registry, kvl_hash_key(&batch->chunks[i].key)) >> b &
                 1) != 0) {
                answer->status[i] = 0;
                answer->location[i] = (uint8_t)(KVL_LOCATION_BACKEND + b);
            }
        }
    }
}

static int lookup_local(struct kvl_instance *instance, const struct kvl_batch *batch,
                        struct answer *answer)
{
    uint32_t found =
        kvl_store_lookup(instance->store, batch->chunks, batch->count, answer->status);

    for (uint32_t i = 0; i < batch->count; i++) {
        answer->location[i] =
            answer->status[i] == 0 ? KVL_LOCATION_LOCAL : KVL_LOCATION_NONE;
    }
    kvl_count(&instance->counters, KVL_COUNT_LOOKUPS, 1);
    kvl_count(&instance->counters, KVL_COUNT_LOOKUP_CHUNKS, batch->count);
    kvl_count(&instance->counters, KVL_COUNT_LOOKUP_LOCAL, found);
    if (found < batch->count && instance->route.count > 0) {
        lookup_hints(instance, batch, answer);
        found = good_items(answer->status, batch->count);
    }
    return found == batch->count || !kvl_drive_any(instance, KVL_CAP_LOOKUP);
}

int kvl_move_lookup(struct kvl_instance *instance, const struct kvl_batch *batch,
                    struct kvl_result *result, uint64_t *op_out)
{
    const uint64_t start = kvl_now_ns();
    struct answer answer;
    struct kvl_op *op;
    int r = check_batch(batch, result, KVL_OP_LOOKUP);

    if (r == 0) {
        r = answer_init(&answer, batch->count, result);
    }
    if (r < 0) {
        return r;
    }
    if (lookup_local(instance, batch, &answer)) {
        if (op_out != NULL) {
            *op_out = 0;
        }
        r = tell(result, KVL_OP_LOOKUP, answer.status, answer.location, answer.count, 0, 0);
    } else {
        op = op_for_rest(instance, KVL_OP_LOOKUP, batch, &answer);
        r = op != NULL ? start_op(instance, op, result, op_out) : -ENOMEM;
    }
    answer_fini(&answer);
    kvl_hist_add(&instance->counters.lookup_ns, kvl_now_ns() - start);
    return r;
}

/* ---- load ---- */

static int chunk_fits(const struct kvl_chunk *chunk, const struct kvl_view *view)
{
    if (chunk->bytes != 0 && chunk->bytes != view->length) {
        return 0;
    }
    return (chunk->flags & KVL_CHUNK_EXPECT_ATTRS) == 0 ||
           memcmp(&chunk->attrs, &view->attrs, sizeof(view->attrs)) == 0;
}

/* @return 0 loaded; -ENOENT and -EBADMSG: another holder may have it. */
static int load_local(struct kvl_instance *instance, const struct kvl_batch *batch, uint32_t i,
                      uint64_t *bytes)
{
    const struct kvl_chunk *chunk = &batch->chunks[i];
    struct kvl_view view;
    int r = kvl_store_get(instance->store, &chunk->key, &view);

    if (r < 0) {
        return r;
    }
    r = chunk_fits(chunk, &view) ? kvl_store_verify(instance->store, &view) : -EBADMSG;
    if (r == 0 && batch->sg_first != NULL) {
        kvl_sg_scatter(&batch->sg[batch->sg_first[i]],
                       batch->sg_first[i + 1] - batch->sg_first[i], view.data);
    }
    *bytes += r == 0 ? view.length : 0;
    kvl_store_release(instance->store, view.lease);
    return r;
}

int kvl_move_load(struct kvl_instance *instance, const struct kvl_batch *batch,
                  struct kvl_result *result, uint64_t *op_out)
{
    const uint64_t start = kvl_now_ns();
    struct answer answer;
    struct kvl_op *op;
    uint32_t good = 0;
    int r = check_batch(batch, result, KVL_OP_LOAD);

    if (r == 0) {
        r = answer_init(&answer, batch->count, result);
    }
    if (r < 0) {
        return r;
    }
    for (uint32_t i = 0; i < batch->count; i++) {
        answer.status[i] = load_local(instance, batch, i, &answer.bytes);
        answer.location[i] = answer.status[i] == 0 ? KVL_LOCATION_LOCAL : KVL_LOCATION_NONE;
        good += answer.status[i] == 0;
    }
    kvl_count(&instance->counters, KVL_COUNT_LOADS, 1);
    kvl_count(&instance->counters, KVL_COUNT_LOAD_CHUNKS, batch->count);
    kvl_count(&instance->counters, KVL_COUNT_LOAD_LOCAL, good);
    if (good == batch->count || !kvl_drive_any(instance, KVL_CAP_READ)) {
        kvl_count(&instance->counters, KVL_COUNT_LOAD_BYTES, answer.bytes);
        if (op_out != NULL) {
            *op_out = 0;
        }
        r = tell(result, KVL_OP_LOAD, answer.status, answer.location, answer.count, answer.bytes,
                 0);
    } else {
        op = op_for_rest(instance, KVL_OP_LOAD, batch, &answer);
        r = op != NULL ? start_op(instance, op, result, op_out) : -ENOMEM;
    }
    answer_fini(&answer);
    kvl_hist_add(&instance->counters.load_ns, kvl_now_ns() - start);
    return r;
}

/* ---- save ---- */

/* What a save carries from chunk to chunk. */
struct saving {
    struct kvl_instance *instance;
    const struct kvl_batch *batch;
    struct kvl_op *op; /* made when the first chunk has to travel */
    struct answer *answer;
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

        if (backend->put_to && kvl_drive_can(backend, KVL_CAP_WRITE)) {
            mask |= 1u << i;
        }
    }
    return mask;
}

static void save_spread(struct saving *saving)
{
    if (saving->op != NULL && saving->spread < saving->op->item_count) {
        kvl_drive_spread(saving->instance, saving->op, saving->spread);
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
        kvl_sg_gather(&batch->sg[batch->sg_first[i]],
                      batch->sg_first[i + 1] - batch->sg_first[i], addr);
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
        want &= ~kvl_registry_find(instance->registry, kvl_hash_key(&chunk->key));
    }
    if (want == 0) {
        return 0;
    }
    if (saving->op == NULL) {
        saving->op = new_op(instance, KVL_OP_SAVE, saving->batch);
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

int kvl_move_save(struct kvl_instance *instance, const struct kvl_batch *batch,
                  struct kvl_result *result, uint64_t *op_out)
{
    struct answer answer;
    struct saving saving = {
        .instance = instance,
        .batch = batch,
        .answer = &answer,
        .may_wait = op_out == NULL,
    };
    int r = check_batch(batch, result, KVL_OP_SAVE);

    if (r == 0) {
        r = answer_init(&answer, batch->count, result);
    }
    if (r < 0) {
        return r;
    }
    saving.targets = save_targets(instance, batch->flags);
    save_all(&saving);
    if (saving.op == NULL) {
        if (op_out != NULL) {
            *op_out = 0;
        }
        r = tell(result, KVL_OP_SAVE, answer.status, answer.location, answer.count, answer.bytes,
                 0);
    } else {
        take_answer(saving.op, &answer);
        r = start_op(instance, saving.op, result, op_out);
    }
    answer_fini(&answer);
    return r;
}

/* ---- remove ---- */

int kvl_move_remove(struct kvl_instance *instance, const struct kvl_batch *batch,
                    struct kvl_result *result, uint64_t *op_out)
{
    struct answer answer;
    struct kvl_op *op;
    uint32_t want = 0;
    int r = check_batch(batch, result, KVL_OP_REMOVE);

    if (r == 0) {
        r = answer_init(&answer, batch->count, result);
    }
    if (r < 0) {
        return r;
    }
    for (uint32_t i = 0; i < batch->count; i++) {
        answer.status[i] = kvl_store_remove(instance->store, &batch->chunks[i].key);
        answer.location[i] = KVL_LOCATION_NONE;
    }
    for (uint32_t b = 0; b < instance->route.count; b++) {
        want |= (uint32_t)kvl_drive_can(instance->route.backends[b], KVL_CAP_REMOVE) << b;
    }
    if (want == 0) {
        if (op_out != NULL) {
            *op_out = 0;
        }
        r = tell(result, KVL_OP_REMOVE, answer.status, answer.location, answer.count, 0, 0);
    } else if ((op = new_op(instance, KVL_OP_REMOVE, batch)) == NULL) {
        r = -ENOMEM;
    } else {
        take_answer(op, &answer);
        for (uint32_t i = 0; i < batch->count; i++) {
            struct kvl_op_item *item = kvl_op_add(op, batch, i);

            item->want = want;
            item->status = answer.status[i] == 0 ? 0 : -EINPROGRESS;
        }
        kvl_drive_spread(instance, op, 0);
        r = start_op(instance, op, result, op_out);
    }
    answer_fini(&answer);
    return r;
}

/* ---- wait, list, probe ---- */

int kvl_move_wait(struct kvl_instance *instance, uint64_t handle, uint64_t deadline_ms,
                  struct kvl_result *result)
{
    struct kvl_op *op;

    if (result != NULL && result->size < sizeof(*result)) {
        return -EINVAL;
    }
    op = kvl_op_claim(instance->flights, handle);
    return op != NULL ? finish(instance, op, deadline_ms, result) : -EINVAL;
}

/* An operation of one backend without chunks. @return its outcome; on 0 the op is the caller's. */
static int ask_one(struct kvl_instance *instance, enum kvl_op_kind kind, uint64_t cap,
                   uint32_t location, uint64_t deadline_ms, struct kvl_op **op_out)
{
    const uint32_t index = location - KVL_LOCATION_BACKEND;
    struct kvl_backend *backend;
    struct kvl_op *op;
    int r;

    if (location < KVL_LOCATION_BACKEND || index >= instance->route.count) {
        return -EINVAL;
    }
    backend = instance->route.backends[index];
    if ((backend->caps & cap) == 0) {
        return -ENOTSUP;
    }
    if (!kvl_backend_is_running(backend)) {
        return -ENOTCONN;
    }
    deadline_ms = deadline_ms != 0 ? deadline_ms : kvl_now_ms() + instance->default_deadline_ms;
    r = kvl_op_create(instance->flights, kind, NULL, deadline_ms, &op);
    if (r < 0) {
        return r;
    }
    r = kvl_op_fly(op, backend, NULL, 0);
    if (r == 0) {
        r = kvl_drive(instance, op, KVL_NEVER);
    }
    if (r == 0) {
        r = op->outcome;
    }
    if (r < 0) {
        kvl_op_destroy(op);
        return r;
    }
    *op_out = op;
    return 0;
}

int kvl_move_list(struct kvl_instance *instance, uint32_t location, uint64_t deadline_ms,
                  kvl_key_fn fn, void *ctx)
{
    struct kvl_op *op;
    int r;

    if (location == KVL_LOCATION_LOCAL) {
        return kvl_store_list(instance->store, fn, ctx);
    }
    r = ask_one(instance, KVL_OP_LIST, KVL_CAP_LIST, location, deadline_ms, &op);
    if (r < 0) {
        return r;
    }
    for (size_t at = 0; r == 0 && at < op->listed_length;) {
        struct kvl_key key = {
            .text = op->listed + at + 1,
            .length = (unsigned char)op->listed[at],
        };

        r = fn(ctx, &key, 0);
        at += 1 + key.length;
    }
    kvl_op_destroy(op);
    return r;
}

int kvl_move_probe(struct kvl_instance *instance, uint32_t location, uint64_t deadline_ms)
{
    struct kvl_op *op;
    int r;

    if (location == KVL_LOCATION_LOCAL) {
        return 0;
    }
    r = ask_one(instance, KVL_OP_PROBE, KVL_CAP_PROBE, location, deadline_ms, &op);
    if (r == 0) {
        kvl_op_destroy(op);
    }
    return r;
}
