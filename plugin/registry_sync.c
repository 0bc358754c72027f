/* SPDX-License-Identifier: Apache-2.0 */
/* Full sync: a worker announces all keys of a location, in batches. */
#include "registry_tree.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void kvl_reg_free_sync(struct kvl_reg_sync *sync)
{
    if (sync != NULL) {
        free(sync->bits);
        free(sync);
    }
}

void kvl_reg_set_sync(struct kvl_registry *registry, struct kvl_reg_worker *worker, uint32_t state)
{
    const uint32_t old = atomic_exchange(&worker->sync_state, state);

    if (old == KVL_SYNC_SYNCING) {
        atomic_fetch_sub(&registry->syncing, 1);
    } else if (old == KVL_SYNC_COMPLETED) {
        atomic_fetch_sub(&registry->completed, 1);
    }
    if (state == KVL_SYNC_SYNCING) {
        atomic_fetch_add(&registry->syncing, 1);
    } else if (state == KVL_SYNC_COMPLETED) {
        atomic_fetch_add(&registry->completed, 1);
    }
}

uint32_t kvl_reg_sync_state(const struct kvl_registry *registry,
                            const struct kvl_reg_worker *worker, uint64_t now)
{
    const uint32_t state = atomic_load(&worker->sync_state);

    if (state == KVL_SYNC_SYNCING && kvl_reg_since(now, atomic_load(&worker->sync_ms)) >
                                         atomic_load(&registry->sync_timeout_ms)) {
        return KVL_SYNC_FAILED;
    }
    return state;
}

void kvl_reg_age_sync(struct kvl_registry *registry, struct kvl_reg_worker *worker, uint64_t now)
{
    const uint32_t state = kvl_reg_sync_state(registry, worker, now);

    if (state != atomic_load(&worker->sync_state)) {
        kvl_reg_set_sync(registry, worker, state);
    }
}

void kvl_reg_age_all(struct kvl_registry *registry)
{
    struct kvl_reg_seen *seen;
    uint64_t count;

    if (atomic_load(&registry->syncing) == 0 ||
        kvl_reg_see_all(registry, NULL, &seen, &count) < 0) {
        return;
    }
    for (uint64_t i = 0; i < count; i++) {
        const uint64_t now = kvl_reg_now(registry);

        /* A look at a record that is somebody else's by now does no harm. */
        if (kvl_reg_sync_state(registry, seen[i].worker, now) !=
                atomic_load(&seen[i].worker->sync_state) &&
            kvl_reg_enter_seen(&seen[i])) {
            kvl_reg_age_sync(registry, seen[i].worker, kvl_reg_now(registry));
            kvl_reg_leave(seen[i].worker);
        }
    }
    free(seen);
}

uint32_t kvl_reg_sync_because(const struct kvl_registry *registry,
                              const struct kvl_reg_worker *worker)
{
    const uint32_t state = atomic_load(&worker->sync_state);

    if (atomic_load(&registry->need_all) && state != KVL_SYNC_SYNCING &&
        state != KVL_SYNC_COMPLETED) {
        return KVL_SYNC_BECAUSE_RESTART;
    }
    if (state == KVL_SYNC_FAILED) {
        return KVL_SYNC_BECAUSE_FAILED;
    }
    if (worker->has_gap && state != KVL_SYNC_SYNCING && atomic_load(&registry->resync_after_gap)) {
        return KVL_SYNC_BECAUSE_GAP;
    }
    return 0;
}

double kvl_reg_progress(struct kvl_registry *registry, bool *reached_out)
{
    const uint64_t workers = atomic_load(&registry->worker_count);
    const uint64_t completed = atomic_load(&registry->completed);
    const bool reached =
        workers > 0 && completed * 100 >= workers * atomic_load(&registry->sync_threshold);

    if (reached && atomic_load_explicit(&registry->need_all, memory_order_relaxed)) {
        atomic_store(&registry->need_all, false);
    }
    if (reached_out != NULL) {
        *reached_out = reached;
    }
    return workers > 0 ? (double)completed / (double)workers : 0.0;
}

static bool is_sync(const struct kvl_reg_worker *worker, struct kvl_text sync_id)
{
    return worker->sync != NULL && kvl_reg_text_is(sync_id, worker->sync->id);
}

static struct kvl_reg_sync *make_sync(struct kvl_text sync_id, uint64_t batch_count)
{
    struct kvl_reg_sync *sync = calloc(1, sizeof(*sync));

    if (sync == NULL) {
        return NULL;
    }
    sync->bits = calloc(batch_count / 64 + 1, sizeof(*sync->bits));
    if (sync->bits == NULL) {
        free(sync);
        return NULL;
    }
    sync->batch_count = batch_count;
    if (sync_id.length > 0) {
        memcpy(sync->id, sync_id.text, sync_id.length);
    }
    return sync;
}

/* The worker is locked. */
static int start_locked(struct kvl_registry *registry, struct kvl_reg_worker *worker,
                        struct kvl_text name, struct kvl_text sync_id, uint64_t batch_count)
{
    struct kvl_reg_location *location;
    struct kvl_reg_sync *sync;

    if (atomic_load(&worker->sync_state) == KVL_SYNC_SYNCING && !is_sync(worker, sync_id)) {
        return -EBUSY;
    }
    sync = make_sync(sync_id, batch_count);
    if (sync == NULL) {
        return -ENOMEM;
    }
    kvl_reg_free_sync(worker->sync);
    worker->sync = sync;
    worker->has_gap = false;
    atomic_store(&worker->sync_received, 0);
    atomic_store(&worker->sync_expected, batch_count);
    atomic_store(&worker->sync_ms, kvl_reg_now(registry));
    kvl_reg_set_sync(registry, worker, KVL_SYNC_SYNCING);
    location = kvl_reg_location(worker, name);
    if (location != NULL) {
        kvl_reg_location_clear(registry, location);
        location->has_seq = false;
    }
    return 0;
}

int kvl_registry_sync_start(struct kvl_registry *registry, const struct kvl_worker_name *name,
                            struct kvl_text location, struct kvl_text sync_id, uint64_t total_keys,
                            uint64_t batch_count)
{
    struct kvl_reg_worker *worker;
    int r = kvl_reg_check_text(location);

    (void)total_keys; /* what the worker means to send; only what comes counts */
    r = r == 0 ? kvl_reg_check_text(sync_id) : r;
    if (r < 0) {
        return r;
    }
    if (batch_count > KVL_REGISTRY_BATCHES_MAX) {
        return -EMSGSIZE;
    }
    worker = kvl_reg_enter_heard(registry, name);
    if (worker == NULL) {
        return -ENOENT;
    }
    r = start_locked(registry, worker, location, sync_id, batch_count);
    kvl_reg_leave(worker);
    return r;
}

/* The worker is locked. */
static int batch_locked(struct kvl_registry *registry, struct kvl_reg_worker *worker,
                        struct kvl_text name, int64_t batch_id, const struct kvl_chunk_id *ids,
                        uint32_t count)
{
    struct kvl_reg_sync *sync = worker->sync;
    struct kvl_reg_location *location;
    uint32_t dropped = count;
    uint64_t bit;

    if (batch_id < 0 || (uint64_t)batch_id >= sync->batch_count) {
        return -ERANGE;
    }
    bit = 1ull << (batch_id % 64);
    if ((sync->bits[batch_id / 64] & bit) == 0) {
        sync->bits[batch_id / 64] |= bit;
        sync->received++;
        sync->keys += count;
        atomic_store(&worker->sync_received, sync->received);
    }
    atomic_store(&worker->sync_ms, kvl_reg_now(registry));
    if (count == 0) {
        return 0;
    }
    if (kvl_reg_location_make(registry, worker, name, &location) == 0 &&
        kvl_reg_location_ready(registry, worker, location) == 0) {
        dropped = kvl_index_add(registry->index, atomic_load(&location->holder), ids, count);
    }
    atomic_fetch_add_explicit(&registry->dropped, dropped, memory_order_relaxed);
    return dropped > 0 ? -ENOMEM : 0;
}

int kvl_registry_sync_batch(struct kvl_registry *registry, const struct kvl_worker_name *name,
                            struct kvl_text location, struct kvl_text sync_id, int64_t batch_id,
                            const struct kvl_chunk_id *ids, uint32_t count)
{
    struct kvl_reg_worker *worker;
    int r = kvl_reg_check_text(location);

    if (r < 0) {
        return r;
    }
    worker = kvl_reg_enter_heard(registry, name);
    if (worker == NULL) {
        return -ENOENT;
    }
    if (atomic_load(&worker->sync_state) == KVL_SYNC_SYNCING && is_sync(worker, sync_id)) {
        r = batch_locked(registry, worker, location, batch_id, ids, count);
    } else {
        r = -ESTALE;
    }
    kvl_reg_leave(worker);
    return r;
}

/* The worker is locked. One that timed out with every batch in still completes: its keys are here,
 * and what was announced since then was applied. */
static int end_locked(struct kvl_registry *registry, struct kvl_reg_worker *worker,
                      struct kvl_text sync_id, uint64_t *keys_out)
{
    struct kvl_reg_sync *sync = worker->sync;

    if (!is_sync(worker, sync_id)) {
        return -ESTALE;
    }
    if (sync->received < sync->batch_count) {
        return atomic_load(&worker->sync_state) == KVL_SYNC_SYNCING ? -EAGAIN : -ESTALE;
    }
    if (atomic_load(&worker->sync_state) != KVL_SYNC_COMPLETED) {
        kvl_reg_set_sync(registry, worker, KVL_SYNC_COMPLETED);
        atomic_store_explicit(&worker->has_keys, 1, memory_order_relaxed);
        free(sync->bits);
        sync->bits = NULL;
        kvl_reg_progress(registry, NULL);
    }
    if (keys_out != NULL) {
        *keys_out = sync->keys;
    }
    return 0;
}

int kvl_registry_sync_end(struct kvl_registry *registry, const struct kvl_worker_name *name,
                          struct kvl_text sync_id, uint64_t *keys_out)
{
    struct kvl_reg_worker *worker = kvl_reg_enter_heard(registry, name);
    int r;

    if (worker == NULL) {
        return -ENOENT;
    }
    r = end_locked(registry, worker, sync_id, keys_out);
    kvl_reg_leave(worker);
    return r;
}

/* Ids of batches not received, up to `room`. */
static void list_missing(const struct kvl_reg_sync *sync, int64_t *missing_out, uint32_t room)
{
    uint32_t count = 0;

    for (uint64_t id = 0; id < sync->batch_count && count < room; id++) {
        if ((sync->bits[id / 64] >> (id % 64) & 1) == 0) {
            missing_out[count++] = (int64_t)id;
        }
    }
}

int kvl_registry_sync_status(struct kvl_registry *registry, const struct kvl_worker_name *name,
                             struct kvl_text sync_id, struct kvl_sync_status *status_out,
                             int64_t *missing_out, uint32_t room)
{
    struct kvl_sync_status status = {.size = sizeof(status)};
    struct kvl_reg_worker *worker = kvl_reg_enter_heard(registry, name);
    bool reached;

    if (worker != NULL) {
        const uint32_t state = atomic_load(&worker->sync_state);

        if (is_sync(worker, sync_id) && state == KVL_SYNC_COMPLETED) {
            status.is_complete = 1;
        } else if (is_sync(worker, sync_id) && state == KVL_SYNC_SYNCING) {
            status.missing_count = (uint32_t)(worker->sync->batch_count - worker->sync->received);
            list_missing(worker->sync, missing_out, room);
        }
        kvl_reg_leave(worker);
    }
    status.global_progress = kvl_reg_progress(registry, &reached);
    status.can_exit_freeze = reached;
    status.size = status_out->size < sizeof(status) ? status_out->size : sizeof(status);
    memcpy(status_out, &status, status.size);
    return 0;
}
