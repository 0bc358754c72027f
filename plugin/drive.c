/* SPDX-License-Identifier: Apache-2.0 */
#include "drive.h"

#include <errno.h>
#include <stdlib.h>

#define NOBODY KVL_ROUTE_MAX

int kvl_drive_any(const struct kvl_instance *instance, uint64_t caps)
{
    for (uint32_t i = 0; i < instance->route.count; i++) {
        if (kvl_drive_can(instance->route.backends[i], caps)) {
            return 1;
        }
    }
    return 0;
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

/* Whom to ask next for an item. A load goes first to those that are said to hold the chunk, then to
 * the others, since a hint that is missing says nothing. */
static uint32_t choose(const struct kvl_instance *instance, const struct kvl_op *op,
                       const struct kvl_op_item *item)
{
    uint32_t untried = ~item->tried;
    uint32_t who;

    if (kvl_hints_is_blocked(instance->hints, item->hash)) {
        untried &= ~kvl_drive_below(instance);
    }

    if (op->kind == KVL_OP_LOOKUP) {
        return first_of(instance, untried, KVL_CAP_LOOKUP);
    }
    who = first_of(instance, untried & kvl_hints_find(instance->hints, item->hash), KVL_CAP_READ);
    return who != NOBODY ? who : first_of(instance, untried, KVL_CAP_READ);
}

/* Chunks of one batch: as many as the backend takes, and for payload a share per stream. */
static uint32_t fly_most(const struct kvl_op *op, const struct kvl_backend *backend, uint32_t count)
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
static void fly(struct kvl_op *op, struct kvl_backend *backend, const uint32_t *items,
                uint32_t count)
{
    const uint32_t most = fly_most(op, backend, count);

    for (uint32_t at = 0; at < count;) {
        const uint32_t n = count - at < most ? count - at : most;
        int r = kvl_op_fly(op, backend, items + at, n);

        for (uint32_t i = 0; r < 0 && i < n; i++) {
            struct kvl_op_item *item = &op->items[items[at + i]];

            item->tried |= 1u << backend->index;
            item->is_flying = 0;
            kvl_op_item_failed(item, r);
        }
        at += n;
    }
}

void kvl_drive_spread(struct kvl_instance *instance, struct kvl_op *op, uint32_t first)
{
    uint32_t *items = malloc((op->item_count - first + 1) * sizeof(*items));

    for (uint32_t b = 0; items != NULL && b < instance->route.count; b++) {
        uint32_t count = 0;

        for (uint32_t i = first; i < op->item_count; i++) {
            if ((op->items[i].want >> b & 1) != 0) {
                items[count++] = i;
            }
        }
        if (count > 0) {
            fly(op, instance->route.backends[b], items, count);
        }
    }
    free(items);
}

/* One round: every open item is given to somebody or ends. @return items that were given. */
static uint32_t ask_round(struct kvl_instance *instance, struct kvl_op *op, uint32_t *open,
                          uint32_t *items, uint8_t *chosen)
{
    const uint32_t open_count = kvl_op_open_items(op, open, op->item_count);
    uint32_t asked = 0;

    for (uint32_t i = 0; i < open_count; i++) {
        struct kvl_op_item *item = &op->items[open[i]];

        chosen[i] = (uint8_t)choose(instance, op, item);
        if (chosen[i] == NOBODY) {
            item->status = item->failure != 0 ? item->failure : -ENOENT;
        }
    }
    for (uint32_t b = 0; b < instance->route.count; b++) {
        uint32_t count = 0;

        for (uint32_t i = 0; i < open_count; i++) {
            if (chosen[i] == b) {
                items[count++] = open[i];
            }
        }
        if (count > 0) {
            fly(op, instance->route.backends[b], items, count);
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
            op->items[open[i]].status = status;
        }
    } while (count > 0);
}

uint32_t kvl_drive_advance(struct kvl_instance *instance, struct kvl_op *op)
{
    const uint32_t count = op->item_count;
    uint32_t *lists;
    uint32_t pending;
    uint32_t open;

    if ((op->kind != KVL_OP_LOOKUP && op->kind != KVL_OP_LOAD) || count == 0) {
        return kvl_op_pending(op);
    }
    lists = malloc(count * (2 * sizeof(*lists) + 1));
    if (lists == NULL) {
        give_up(op, -ENOMEM);
        return kvl_op_pending(op);
    }
    /* A refusal leaves items open for the next backend: each round rules out at least one. And a
     * flight may land with a failure right after the last round looked: the op is done only when
     * nothing is under way and nothing is open. */
    do {
        while (ask_round(instance, op, lists, lists + count,
                         (uint8_t *)(lists + 2 * (size_t)count)) > 0) {
        }
        pending = kvl_op_pending(op);
    } while (pending == 0 && kvl_op_open_items(op, &open, 1) > 0);
    free(lists);
    return pending;
}

int kvl_drive(struct kvl_instance *instance, struct kvl_op *op, uint64_t deadline_ms)
{
    for (;;) {
        const uint64_t until = deadline_ms < op->deadline_ms ? deadline_ms : op->deadline_ms;
        int r;

        if (kvl_drive_advance(instance, op) == 0) {
            return 0;
        }
        r = kvl_op_wait(op, until);
        if (r == -ECANCELED) {
            kvl_count(&instance->counters, KVL_COUNT_CANCELS, 1);
            kvl_op_cut(op, r);
            return r;
        }
        if (r == -ETIMEDOUT && kvl_now_ms() >= op->deadline_ms) {
            kvl_count(&instance->counters, KVL_COUNT_TIMEOUTS, 1);
            kvl_op_cut(op, r);
            return r;
        }
        if (r == -ETIMEDOUT) {
            return -EINPROGRESS;
        }
    }
}
