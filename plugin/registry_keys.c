/* SPDX-License-Identifier: Apache-2.0 */
/* Keys of one location of one worker. */
#include "registry_tree.h"

#include <errno.h>

/* Follows the sequence of a location; @return whether there was a gap. */
static bool follow_seq(struct kvl_reg_location *location, const struct kvl_key_op *ops,
                       uint32_t count, struct kvl_seq_gap *gap)
{
    for (uint32_t i = 0; i < count; i++) {
        const int64_t expected = (int64_t)((uint64_t)location->last_seq + 1);

        /* Events that are in the file already and are told again: nothing was missed. */
        const bool is_repeat = location->from_file && ops[i].seq <= location->last_seq;

        if (location->has_seq && ops[i].seq != expected && !is_repeat && !gap->found) {
            *gap = (struct kvl_seq_gap){.expected = expected, .actual = ops[i].seq, .found = 1};
        }
        location->has_seq = true;
        location->from_file = false;
        location->last_seq = ops[i].seq;
    }
    return gap->found;
}

static uint64_t count_admits(const struct kvl_key_op *ops, uint32_t count)
{
    uint64_t admits = 0;

    for (uint32_t i = 0; i < count; i++) {
        admits += ops[i].kind == KVL_KEY_ADMIT;
    }
    return admits;
}

static bool is_empty(const struct kvl_registry *registry, const struct kvl_reg_location *location)
{
    const uint32_t holder = atomic_load(&location->holder);

    return holder == KVL_INDEX_NONE || kvl_index_holder_keys(registry->index, holder) == 0;
}

/* @return admits dropped. */
static uint64_t apply_ops(struct kvl_registry *registry, struct kvl_reg_worker *worker,
                          struct kvl_reg_location *location, const struct kvl_key_op *ops,
                          uint32_t count)
{
    uint64_t dropped = 0;

    while (count > 0) {
        uint32_t used;

        /* To evict from an empty location changes nothing, and it needs no holder for that. */
        while (count > 0 && ops[0].kind == KVL_KEY_EVICT && is_empty(registry, location)) {
            ops++;
            count--;
        }
        if (count == 0) {
            break;
        }
        if (kvl_reg_location_ready(registry, worker, location) < 0) {
            return dropped + count_admits(ops, count);
        }
        used =
            kvl_index_apply(registry->index, atomic_load(&location->holder), ops, count, &dropped);
        ops += used;
        count -= used;
    }
    return dropped;
}

static int count_dropped(struct kvl_registry *registry, uint64_t dropped)
{
    atomic_fetch_add_explicit(&registry->dropped, dropped, memory_order_relaxed);
    return dropped > 0 ? -ENOMEM : 0;
}

static void note_gap(struct kvl_registry *registry, struct kvl_reg_worker *worker)
{
    atomic_fetch_add_explicit(&registry->gaps, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&worker->gaps, 1, memory_order_relaxed);
    worker->has_gap = true;
}

/* The worker is locked. */
static int apply_locked(struct kvl_registry *registry, struct kvl_reg_worker *worker,
                        struct kvl_text name, const struct kvl_key_op *ops, uint32_t count,
                        struct kvl_seq_gap *gap)
{
    struct kvl_reg_location *location;

    if (atomic_load(&worker->sync_state) == KVL_SYNC_SYNCING) {
        return -EBUSY;
    }
    if (count == 0) {
        return 0;
    }
    if (kvl_reg_location_make(registry, worker, name, &location) < 0) {
        count_dropped(registry, count_admits(ops, count));
        return -ENOMEM;
    }
    if (follow_seq(location, ops, count, gap)) {
        note_gap(registry, worker);
    }
    return count_dropped(registry, apply_ops(registry, worker, location, ops, count));
}

int kvl_registry_apply(struct kvl_registry *registry, const struct kvl_worker_name *name,
                       struct kvl_text location, const struct kvl_key_op *ops, uint32_t count,
                       struct kvl_seq_gap *gap_out)
{
    struct kvl_seq_gap gap = {0};
    struct kvl_reg_worker *worker;
    int r = kvl_reg_check_text(location);

    for (uint32_t i = 0; r == 0 && i < count; i++) {
        r = ops[i].kind == KVL_KEY_ADMIT || ops[i].kind == KVL_KEY_EVICT ? 0 : -EINVAL;
    }
    if (r < 0) {
        return r;
    }
    worker = kvl_reg_enter_heard(registry, name);
    if (worker == NULL) {
        return -ENOENT;
    }
    r = apply_locked(registry, worker, location, ops, count, &gap);
    kvl_reg_leave(worker);
    if (gap_out != NULL && (r == 0 || r == -ENOMEM)) {
        *gap_out = gap;
    }
    return r;
}

int kvl_registry_withdraw(struct kvl_registry *registry, const struct kvl_worker_name *name,
                          struct kvl_text location, const struct kvl_chunk_id *ids, uint32_t count)
{
    struct kvl_reg_worker *worker = kvl_reg_enter(registry, name);
    struct kvl_reg_location *found;

    if (worker == NULL) {
        return -ENOENT;
    }
    found = kvl_reg_location(worker, location);
    if (found != NULL && !is_empty(registry, found)) {
        kvl_index_remove(registry->index, atomic_load(&found->holder), ids, count);
    }
    kvl_reg_leave(worker);
    return 0;
}

int kvl_registry_clear(struct kvl_registry *registry, const struct kvl_worker_name *name,
                       struct kvl_text location)
{
    struct kvl_reg_worker *worker = kvl_reg_enter(registry, name);
    struct kvl_reg_location *at;

    if (worker == NULL) {
        return -ENOENT;
    }
    for (at = atomic_load(&worker->locations); at != NULL; at = atomic_load(&at->next)) {
        if (location.length == 0 || kvl_reg_text_is(location, at->name)) {
            kvl_reg_location_clear(registry, at);
        }
    }
    kvl_reg_leave(worker);
    return 0;
}

#define LIST_AT_ONCE 512u

/* Picks the entries of one holder out of the walk. */
struct lister {
    kvl_chunk_id_fn fn;
    void *ctx;
    const struct kvl_reg_holder *record;
    uint64_t birth;
    uint32_t holder;
    uint32_t count;
    struct kvl_chunk_id ids[LIST_AT_ONCE];
};

static int list_flush(struct lister *lister)
{
    const uint32_t count = lister->count;

    lister->count = 0;
    return count > 0 ? lister->fn(lister->ctx, lister->ids, count) : 0;
}

static int list_entry(void *ctx, const struct kvl_chunk_id *id, uint32_t holder)
{
    struct lister *lister = ctx;

    /* The number may have gone over to another location meanwhile. */
    if (holder != lister->holder || !kvl_reg_holder_is(lister->record, lister->birth)) {
        return 0;
    }
    lister->ids[lister->count++] = *id;
    return lister->count == LIST_AT_ONCE ? list_flush(lister) : 0;
}

int kvl_registry_list_keys(struct kvl_registry *registry, const struct kvl_worker_name *name,
                           struct kvl_text location, kvl_chunk_id_fn fn, void *ctx)
{
    struct lister lister = {.fn = fn, .ctx = ctx, .holder = KVL_INDEX_NONE};
    struct kvl_reg_worker *worker = kvl_reg_enter(registry, name);
    const struct kvl_reg_location *found;
    int r;

    if (worker == NULL) {
        return -ENOENT;
    }
    found = kvl_reg_location(worker, location);
    if (found != NULL) {
        lister.holder = atomic_load(&found->holder);
        lister.birth = atomic_load(&registry->births);
    }
    kvl_reg_leave(worker);
    if (lister.holder == KVL_INDEX_NONE) {
        return 0;
    }
    lister.record = kvl_reg_holder(registry, lister.holder);
    r = kvl_index_walk(registry->index, list_entry, &lister);
    return r == 0 ? list_flush(&lister) : r;
}
