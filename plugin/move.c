/* SPDX-License-Identifier: Apache-2.0 */
#include "move.h"

#include <errno.h>

#include "answer.h"
#include "drive.h"
#include "hash.h"

/* ---- lookup ---- */

/* Holders that cannot be asked are believed. */
static void lookup_hints(struct kvl_instance *instance, const struct kvl_batch *batch,
                         struct kvl_answer *answer)
{
    const uint32_t may_ask = kvl_drive_may_ask(instance, batch->flags);

    for (uint32_t b = 0; b < instance->route.count; b++) {
        const struct kvl_backend *backend = instance->route.backends[b];

        if ((may_ask >> b & 1) == 0 || !kvl_drive_can(backend, KVL_CAP_READ) ||
            kvl_drive_can(backend, KVL_CAP_LOOKUP)) {
            continue;
        }
        for (uint32_t i = 0; i < batch->count; i++) {
            if (answer->status[i] != 0 &&
                (kvl_hints_find(instance->hints, kvl_hash_key(&batch->chunks[i].key)) >> b & 1) !=
                    0) {
                answer->status[i] = 0;
                answer->location[i] = (uint8_t)(KVL_LOCATION_BACKEND + b);
            }
        }
    }
}

static int lookup_local(struct kvl_instance *instance, const struct kvl_batch *batch,
                        struct kvl_answer *answer)
{
    uint32_t found = kvl_store_lookup(instance->store, batch->chunks, batch->count, answer->status);

    for (uint32_t i = 0; i < batch->count; i++) {
        answer->location[i] = answer->status[i] == 0 ? KVL_LOCATION_LOCAL : KVL_LOCATION_NONE;
    }
    kvl_count(&instance->counters, KVL_COUNT_LOOKUPS, 1);
    kvl_count(&instance->counters, KVL_COUNT_LOOKUP_CHUNKS, batch->count);
    kvl_count(&instance->counters, KVL_COUNT_LOOKUP_LOCAL, found);
    if (found < batch->count && instance->route.count > 0) {
        lookup_hints(instance, batch, answer);
        found = kvl_answer_good(answer->status, batch->count);
    }
    return found == batch->count || !kvl_drive_any(instance, KVL_CAP_LOOKUP);
}

int kvl_move_lookup(struct kvl_instance *instance, const struct kvl_batch *batch,
                    struct kvl_result *result, uint64_t *op_out)
{
    const uint64_t start = kvl_now_ns();
    struct kvl_answer answer;
    struct kvl_op *op;
    int r = kvl_answer_check(batch, result);

    if (r == 0) {
        r = kvl_answer_init(&answer, batch->count, result);
    }
    if (r < 0) {
        return r;
    }
    if (lookup_local(instance, batch, &answer)) {
        r = kvl_answer_done(&answer, KVL_OP_LOOKUP, result, op_out);
    } else {
        op = kvl_answer_op_for_rest(instance, KVL_OP_LOOKUP, batch, NULL, &answer);
        r = op != NULL ? kvl_answer_start(instance, op, result, op_out) : -ENOMEM;
    }
    kvl_answer_fini(&answer);
    kvl_hist_add(&instance->counters.lookup_ns, kvl_now_ns() - start);
    return r;
}

/* ---- load ---- */

/* @return 0 loaded; -ENOENT and -EBADMSG: another holder may have it. */
static int load_local(struct kvl_instance *instance, const struct kvl_place *place,
                      const struct kvl_batch *batch, uint32_t i, uint64_t *bytes)
{
    struct kvl_view view;
    int r = kvl_drive_lease(instance, &batch->chunks[i], &view);

    if (r < 0) {
        return r;
    }
    if (kvl_place_has(batch, i)) {
        kvl_place_scatter(place, batch, i, &view);
    }
    *bytes += view.length;
    kvl_store_release(instance->store, view.lease);
    return 0;
}

/* What the own store has goes into host memory at once. Copies into other memory are left to the
 * backend that moves it, so to the op. @return how many are done. */
static uint32_t load_all_local(struct kvl_instance *instance, const struct kvl_place *place,
                               const struct kvl_batch *batch, struct kvl_answer *answer)
{
    uint32_t good = 0;

    for (uint32_t i = 0; i < batch->count; i++) {
        answer->status[i] =
            place->mover == NULL ? load_local(instance, place, batch, i, &answer->bytes) : -ENOENT;
        answer->location[i] = answer->status[i] == 0 ? KVL_LOCATION_LOCAL : KVL_LOCATION_NONE;
        good += answer->status[i] == 0;
    }
    kvl_count(&instance->counters, KVL_COUNT_LOAD_LOCAL, good);
    return good;
}

int kvl_move_load(struct kvl_instance *instance, const struct kvl_batch *batch,
                  struct kvl_result *result, uint64_t *op_out)
{
    const uint64_t start = kvl_now_ns();
    struct kvl_answer answer;
    struct kvl_place place;
    struct kvl_op *op;
    uint32_t good;
    int r = kvl_answer_check(batch, result);

    if (r == 0) {
        r = kvl_place_init(&place, instance, batch, 0);
    }
    if (r < 0) {
        return r;
    }
    r = kvl_answer_init(&answer, batch->count, result);
    if (r < 0) {
        kvl_place_fini(&place, instance);
        return r;
    }
    kvl_count(&instance->counters, KVL_COUNT_LOADS, 1);
    kvl_count(&instance->counters, KVL_COUNT_LOAD_CHUNKS, batch->count);
    good = load_all_local(instance, &place, batch, &answer);
    if (good == batch->count || (place.mover == NULL && !kvl_drive_any(instance, KVL_CAP_READ))) {
        kvl_count(&instance->counters, KVL_COUNT_LOAD_BYTES, answer.bytes);
        r = kvl_answer_done(&answer, KVL_OP_LOAD, result, op_out);
    } else {
        op = kvl_answer_op_for_rest(instance, KVL_OP_LOAD, batch, &place, &answer);
        r = op != NULL ? kvl_answer_start(instance, op, result, op_out) : -ENOMEM;
    }
    kvl_answer_fini(&answer);
    kvl_place_fini(&place, instance);
    kvl_hist_add(&instance->counters.load_ns, kvl_now_ns() - start);
    return r;
}

/* ---- remove ---- */

int kvl_move_remove(struct kvl_instance *instance, const struct kvl_batch *batch,
                    struct kvl_result *result, uint64_t *op_out)
{
    struct kvl_answer answer;
    struct kvl_op *op;
    uint32_t want = 0;
    int r = kvl_answer_check(batch, result);

    if (r == 0) {
        r = kvl_answer_init(&answer, batch->count, result);
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
        r = kvl_answer_done(&answer, KVL_OP_REMOVE, result, op_out);
    } else if ((op = kvl_answer_op(instance, KVL_OP_REMOVE, batch, NULL)) == NULL) {
        r = -ENOMEM;
    } else {
        kvl_answer_give(op, &answer);
        for (uint32_t i = 0; i < batch->count; i++) {
            struct kvl_op_item *item = kvl_op_add(op, batch, i);

            item->want = want;
            item->status = answer.status[i] == 0 ? 0 : -EINPROGRESS;
        }
        kvl_drive_spread(instance, op, KVL_VERB_REMOVE, 0);
        r = kvl_answer_start(instance, op, result, op_out);
    }
    kvl_answer_fini(&answer);
    return r;
}

int kvl_move_remove_below(struct kvl_instance *instance, const struct kvl_batch *batch)
{
    struct kvl_op *op;
    uint32_t want = 0;
    int r;

    for (uint32_t b = 0; b < instance->route.count; b++) {
        want |= (uint32_t)kvl_drive_can(instance->route.backends[b], KVL_CAP_REMOVE) << b;
    }
    want &= kvl_drive_below(instance);
    op = want != 0 ? kvl_answer_op(instance, KVL_OP_REMOVE, batch, NULL) : NULL;
    if (op == NULL) {
        return want != 0 ? -ENOMEM : 0;
    }
    for (uint32_t i = 0; i < batch->count; i++) {
        kvl_op_add(op, batch, i)->want = want;
    }
    kvl_drive_spread(instance, op, KVL_VERB_REMOVE, 0);
    r = kvl_drive(instance, op, KVL_NEVER);
    kvl_op_destroy(op);
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
    return op != NULL ? kvl_answer_finish(instance, op, deadline_ms, result) : -EINVAL;
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
    r = kvl_op_create(instance->flights, kind, NULL, NULL, deadline_ms, &op);
    if (r < 0) {
        return r;
    }
    r = kvl_op_fly(op, backend, kind == KVL_OP_LIST ? KVL_VERB_LIST : KVL_VERB_PROBE, NULL, 0);
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
