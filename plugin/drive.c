/* SPDX-License-Identifier: Apache-2.0 */
#include "drive.h"

#include <errno.h>
#include <stdlib.h>

#include "hash.h"
#include "save_device.h"

/* Answers to "who brings it?" beside the number of a backend. */
#define NOBODY KVL_ROUTE_MAX
#define OURSELVES (KVL_ROUTE_MAX + 1u)

/* What a round over the open items of an op works with. */
struct round {
    uint32_t *open;
    uint32_t open_count;
    uint32_t *items; /* of one batch */
    uint8_t *chosen; /* per open item */
};

int kvl_drive_any(const struct kvl_instance *instance, uint64_t caps)
{
    for (uint32_t i = 0; i < instance->route.count; i++) {
        if (kvl_drive_can(instance->route.backends[i], caps)) {
            return 1;
        }
    }
    return 0;
}

uint32_t kvl_drive_may_ask(const struct kvl_instance *instance, uint32_t flags)
{
    uint32_t mask = 0;

    if ((flags & KVL_BATCH_HELD) == 0) {
        return UINT32_MAX;
    }
    for (uint32_t i = 0; i < instance->route.count; i++) {
        mask |= (uint32_t)((instance->route.backends[i]->caps & KVL_CAP_HELD) != 0) << i;
    }
    return mask;
}

uint32_t kvl_drive_below(const struct kvl_instance *instance)
{
    uint32_t mask = 0;

    for (uint32_t i = 0; i < instance->route.count; i++) {
        struct kvl_backend *backend = instance->route.backends[i];

        mask |= (uint32_t)(atomic_load(&backend->put_to) == KVL_PUT_EVICTED) << i;
    }
    return mask;
}

static uint32_t first_of(const struct kvl_instance *instance, uint32_t mask, uint64_t caps)
{
    for (uint32_t i = 0; i < instance->route.count; i++) {
        if ((mask >> i & 1) != 0 && kvl_drive_can(instance->route.backends[i], caps)) {
            return i;
        }
    }
    return NOBODY;
}

static int chunk_fits(const struct kvl_chunk *chunk, const struct kvl_view *view)
{
    if (chunk->bytes != 0 && chunk->bytes != view->length) {
        return 0;
    }
    if ((chunk->flags & KVL_CHUNK_HAS_CHECKSUM) != 0 &&
        chunk->checksum !=
            (view->checksum != 0 ? view->checksum : kvl_hash_bytes(view->data, view->length))) {
        return 0;
    }
    return (chunk->flags & KVL_CHUNK_EXPECT_ATTRS) == 0 ||
           memcmp(&chunk->attrs, &view->attrs, sizeof(view->attrs)) == 0;
}

int kvl_drive_lease(struct kvl_instance *instance, const struct kvl_chunk *chunk,
                    struct kvl_view *view_out)
{
    struct kvl_view view;
    int r = kvl_store_get(instance->store, &chunk->key, &view);

    if (r < 0) {
        return r;
    }
    r = chunk_fits(chunk, &view) ? kvl_store_verify(instance->store, &view) : -EBADMSG;
    if (r < 0) {
        kvl_store_release(instance->store, view.lease);
        return r;
    }
    *view_out = view;
    return 0;
}

/* ---- whom to ask ---- */

/* Those that bring a chunk straight into the engine's memory of a device. */
static uint32_t device_readers(const struct kvl_instance *instance, const struct kvl_op *op)
{
    uint32_t mask = 0;

    for (uint32_t i = 0; i < instance->route.count; i++) {
        mask |= (uint32_t)kvl_backend_reads_direct(instance->route.backends[i], op->place.mem) << i;
    }
    return mask;
}

/* A load into the memory of a device looks into the own store only now. */
static int ask_own(struct kvl_instance *instance, struct kvl_op *op, struct kvl_op_item *item)
{
    int r;

    if (op->place.mover == NULL || item->has_asked_own) {
        return 0;
    }
    item->has_asked_own = 1;
    r = kvl_drive_lease(instance, &item->chunk, &item->view);
    if (r < 0) {
        kvl_op_item_failed(item, r);
        return 0;
    }
    item->has_view = 1;
    item->stage = KVL_ITEM_BRING;
    item->chunk.bytes = item->view.length;
    item->location = KVL_LOCATION_LOCAL;
    return 1;
}

/* Whom to ask next for an item. A load goes first to those that are said to hold the chunk, then to
 * the others, since a hint that is missing says nothing. Into the memory of a device those that get
 * it there without the host come before the own store, when they are said to hold it. */
static uint32_t choose(struct kvl_instance *instance, struct kvl_op *op, struct kvl_op_item *item)
{
    uint32_t untried = ~item->tried & kvl_drive_may_ask(instance, op->flags);
    uint32_t hinted;
    uint32_t who = NOBODY;

    if (kvl_hints_is_blocked(instance->hints, item->hash)) {
        untried &= ~kvl_drive_below(instance);
    }
    if (op->kind == KVL_OP_LOOKUP) {
        return first_of(instance, untried, KVL_CAP_LOOKUP);
    }
    if (item->stage == KVL_ITEM_BRING) {
        return OURSELVES;
    }
    hinted = untried & kvl_hints_find(instance->hints, item->hash);
    if (op->place.mover != NULL && hinted != 0) {
        who = first_of(instance, hinted & device_readers(instance, op), KVL_CAP_READ);
    }
    if (who == NOBODY && ask_own(instance, op, item)) {
        return OURSELVES;
    }
    if (who == NOBODY) {
        who = first_of(instance, hinted, KVL_CAP_READ);
    }
    return who != NOBODY ? who : first_of(instance, untried, KVL_CAP_READ);
}

/* ---- asking ---- */

uint32_t kvl_drive_share(const struct kvl_op *op, const struct kvl_backend *backend, uint32_t count)
{
    const uint32_t limit = backend->limits.max_items != 0 ? backend->limits.max_items : count;
    const uint32_t streams = backend->limits.streams;
    uint32_t share;

    if (streams < 2 || (op->kind != KVL_OP_LOAD && op->kind != KVL_OP_SAVE)) {
        return limit;
    }
    share = (count + streams - 1) / streams;
    return share < limit ? share : limit;
}

/* Gives items to a backend, in batches as large as it takes. */
static void fly(struct kvl_op *op, struct kvl_backend *backend, enum kvl_verb verb,
                const uint32_t *items, uint32_t count)
{
    const uint32_t most = kvl_drive_share(op, backend, count);

    for (uint32_t at = 0; at < count;) {
        const uint32_t n = count - at < most ? count - at : most;
        int r = kvl_op_fly(op, backend, verb, items + at, n);

        if (r < 0) {
            kvl_op_items_refused(op, backend->index, items + at, n, r);
        }
        at += n;
    }
}

void kvl_drive_spread_items(struct kvl_instance *instance, struct kvl_op *op, enum kvl_verb verb,
                            const uint32_t *items, uint32_t count)
{
    uint32_t *chosen = malloc((count + 1) * sizeof(*chosen));

    for (uint32_t b = 0; chosen != NULL && b < instance->route.count; b++) {
        uint32_t used = 0;

        for (uint32_t i = 0; i < count; i++) {
            struct kvl_op_item *item = &op->items[items[i]];

            if ((item->want >> b & 1) != 0) {
                item->want &= ~(1u << b);
                chosen[used++] = items[i];
            }
        }
        if (used > 0) {
            fly(op, instance->route.backends[b], verb, chosen, used);
        }
    }
    for (uint32_t i = 0; chosen == NULL && i < count; i++) {
        op->items[items[i]].want = 0; /* no memory: they do without */
    }
    free(chosen);
}

void kvl_drive_spread(struct kvl_instance *instance, struct kvl_op *op, enum kvl_verb verb,
                      uint32_t first)
{
    const uint32_t count = op->item_count - first;
    uint32_t *items = malloc((count + 1) * sizeof(*items));

    for (uint32_t i = 0; items != NULL && i < count; i++) {
        items[i] = first + i;
    }
    if (items != NULL) {
        kvl_drive_spread_items(instance, op, verb, items, count);
    }
    free(items);
}

/* Brings leased chunks into the engine's memory. @return how many of the items were dealt with: the
 * others wait for room. */
static uint32_t bring(struct kvl_op *op, const uint32_t *items, uint32_t count)
{
    struct kvl_backend *mover = op->place.mover;
    int r;

    if (count == 0) {
        return 0;
    }
    if (mover == NULL) {
        for (uint32_t i = 0; i < count; i++) {
            kvl_op_bring(op, items[i]);
        }
        return count;
    }
    r = kvl_op_fly(op, mover, KVL_VERB_SCATTER, items, count);
    if (kvl_op_wants_room(op, mover, r)) {
        return 0;
    }
    for (uint32_t i = 0; r < 0 && i < count; i++) {
        kvl_op_end_item(op, items[i], r);
    }
    return count;
}

/* Finds somebody for every open item. What we have ourselves goes off at once, a share after the
 * other, so that the first is copied while the next is checked. @return items dealt with. */
static uint32_t choose_all(struct kvl_instance *instance, struct kvl_op *op, struct round *round)
{
    const struct kvl_backend *mover = op->place.mover;
    const uint32_t share =
        mover != NULL ? kvl_drive_share(op, mover, round->open_count) : round->open_count;
    uint32_t count = 0;
    uint32_t done = 0;

    for (uint32_t i = 0; i < round->open_count; i++) {
        struct kvl_op_item *item = &op->items[round->open[i]];

        round->chosen[i] = (uint8_t)choose(instance, op, item);
        if (round->chosen[i] == NOBODY) {
            kvl_op_end_item(op, round->open[i], item->failure != 0 ? item->failure : -ENOENT);
        } else if (round->chosen[i] == OURSELVES) {
            round->items[count++] = round->open[i];
        }
        if (count == share) {
            done += bring(op, round->items, count);
            count = 0;
        }
    }
    return done + bring(op, round->items, count);
}

/* One round: every open item is given to somebody or ends. @return items that were given. */
static uint32_t ask_round(struct kvl_instance *instance, struct kvl_op *op, struct round *round)
{
    const enum kvl_verb verb = op->kind == KVL_OP_LOOKUP ? KVL_VERB_LOOKUP : KVL_VERB_READ;
    uint32_t asked;

    round->open_count = kvl_op_open_items(op, round->open, op->item_count);
    asked = choose_all(instance, op, round);
    for (uint32_t b = 0; b < instance->route.count; b++) {
        uint32_t count = 0;

        for (uint32_t i = 0; i < round->open_count; i++) {
            if (round->chosen[i] == b) {
                round->items[count++] = round->open[i];
            }
        }
        if (count > 0) {
            fly(op, instance->route.backends[b], verb, round->items, count);
            asked += count;
        }
    }
    return asked;
}

/* Nothing more can be asked: what is open ends. */
static void give_up(struct kvl_op *op, int status)
{
    uint32_t open[64];
    uint32_t count;

    do {
        count = kvl_op_open_items(op, open, sizeof(open) / sizeof(open[0]));
        for (uint32_t i = 0; i < count; i++) {
            kvl_op_end_item(op, open[i], status);
        }
    } while (count > 0);
}

uint32_t kvl_drive_advance(struct kvl_instance *instance, struct kvl_op *op)
{
    const uint32_t count = op->item_count;
    struct round round;
    uint32_t pending;
    uint32_t open;

    kvl_op_look(op);
    if (op->kind == KVL_OP_SAVE && op->place.mover != NULL) {
        return kvl_save_device_advance(instance, op);
    }
    if ((op->kind != KVL_OP_LOOKUP && op->kind != KVL_OP_LOAD) || count == 0) {
        return kvl_op_pending(op);
    }
    round.open = malloc(count * (2 * sizeof(*round.open) + 1));
    if (round.open == NULL) {
        give_up(op, -ENOMEM);
        return kvl_op_pending(op);
    }
    round.items = round.open + count;
    round.chosen = (uint8_t *)(round.items + count);
    /* A refusal leaves items open for the next backend: each round rules out at least one. And a
     * flight may land with a failure right after the last round looked: the op is done only when
     * nothing is under way and nothing is open. */
    do {
        while (ask_round(instance, op, &round) > 0) {
        }
        pending = kvl_op_pending(op);
    } while (pending == 0 && !op->wants_room && kvl_op_open_items(op, &open, 1) > 0);
    free(round.open);
    return pending;
}

int kvl_drive(struct kvl_instance *instance, struct kvl_op *op, uint64_t deadline_ms)
{
    for (;;) {
        const uint64_t until = deadline_ms < op->deadline_ms ? deadline_ms : op->deadline_ms;
        int r;

        if (op->cut != 0) {
            return op->cut;
        }
        if (kvl_drive_advance(instance, op) == 0 && !op->wants_room) {
            return 0;
        }
        r = kvl_op_wait(op, until);
        if (r == -ECANCELED) {
            kvl_count(&instance->counters, KVL_COUNT_CANCELS, 1);
            kvl_op_cut(op, r);
        } else if (r == -ETIMEDOUT && kvl_now_ms() >= op->deadline_ms) {
            kvl_count(&instance->counters, KVL_COUNT_TIMEOUTS, 1);
            kvl_op_cut(op, r);
        } else if (r == -ETIMEDOUT) {
            return -EINPROGRESS;
        }
    }
}

void kvl_drive_saves(struct kvl_instance *instance, uint64_t deadline_ms)
{
    struct kvl_op *op;

    /* Claimed for good: each is found once, and nobody else waits any more. */
    while ((op = kvl_op_claim_save(instance->flights)) != NULL) {
        (void)kvl_drive(instance, op, deadline_ms);
    }
}
