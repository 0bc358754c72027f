/* SPDX-License-Identifier: Apache-2.0 */
#include "flight.h"

#include <errno.h>
#include <stdlib.h>

#include "flight_impl.h"
#include "route.h"

/* A block table told as runs takes 40 bytes for each; beyond this the store is the better way. */
#define MOST_RUNS (1u << 20)

/* How a backend is told where bytes are. */
enum telling {
    TELL_NOTHING, /* nothing to move, or it asks for targets */
    TELL_VIEWS, /* a run per chunk in the store */
    TELL_RUNS,
    TELL_BLOCKS, /* by the number that the backend gave the cache */
    TELL_BLOCKS_AS_RUNS,
};

/* What is lent to a backend for the submit call. */
struct manifest {
    struct kvl_batch batch;
    struct kvl_chunk *chunks;
    struct kvl_sg *sg;
    uint32_t *blocks;
    uint32_t *first_of;
    void **addresses; /* of gather and scatter */
};

static enum telling how_to_tell(const struct kvl_flight *flight)
{
    const struct kvl_op *op = flight->op;

    if (flight->verb == KVL_VERB_WRITE) {
        return TELL_VIEWS;
    }
    if (!flight->is_direct) {
        return TELL_NOTHING;
    }
    if (op->place.cache == NULL) {
        return TELL_RUNS;
    }
    return op->place.cache->backend == flight->backend ? TELL_BLOCKS : TELL_BLOCKS_AS_RUNS;
}

static uint32_t places_of(const struct kvl_op *op, uint32_t item)
{
    return op->first_of[item + 1] - op->first_of[item];
}

/* Runs or blocks of all chunks of the flight, at most. */
static uint64_t count_places(const struct kvl_flight *flight, enum telling telling)
{
    uint64_t count = 0;

    for (uint32_t i = 0; i < flight->count; i++) {
        const uint32_t item = flight->cargo[i].item;

        if (telling == TELL_BLOCKS_AS_RUNS) {
            count += kvl_kv_most_runs(flight->op->place.cache, places_of(flight->op, item));
        } else if (telling != TELL_NOTHING) {
            count += telling == TELL_VIEWS ? 1 : places_of(flight->op, item);
        }
    }
    return count;
}

static struct kvl_sg run_of_view(const struct kvl_view *view)
{
    return (struct kvl_sg){
        .mem = KVL_MEM_HOST,
        .addr = (uint64_t)(uintptr_t)view->data,
        .length = view->length,
        .stride = view->length,
        .count = 1,
        .device = KVL_DEVICE_HOST,
    };
}

/* Says where chunk `i` is, from place `at` on. @return places used. */
static uint32_t tell_one(struct manifest *manifest, const struct kvl_flight *flight, uint32_t i,
                         enum telling telling, uint32_t at)
{
    const struct kvl_op *op = flight->op;
    const struct kvl_cargo *cargo = &flight->cargo[i];
    const uint32_t first = telling > TELL_VIEWS ? op->first_of[cargo->item] : 0;
    const uint32_t count = telling > TELL_VIEWS ? places_of(op, cargo->item) : 1;

    switch (telling) {
    case TELL_VIEWS:
        manifest->sg[at] = run_of_view(&cargo->view);
        break;
    case TELL_RUNS:
        memcpy(&manifest->sg[at], &op->sg[first], count * sizeof(*op->sg));
        break;
    case TELL_BLOCKS:
        memcpy(&manifest->blocks[at], &op->blocks[first], count * sizeof(*op->blocks));
        break;
    case TELL_BLOCKS_AS_RUNS:
        return kvl_kv_runs(op->place.cache, &op->blocks[first], count, cargo->chunk.bytes,
                           &manifest->sg[at]);
    case TELL_NOTHING:
        return 0;
    }
    return count;
}

static void manifest_fini(struct manifest *manifest)
{
    free(manifest->chunks);
    free(manifest->sg);
    free(manifest->blocks);
    free(manifest->first_of);
    free(manifest->addresses);
}

/* @return 0; -ENOMEM. */
static int manifest_room(struct manifest *manifest, const struct kvl_flight *flight,
                         enum telling telling)
{
    const size_t places = count_places(flight, telling) + 1;
    const int has_addresses = flight->verb == KVL_VERB_GATHER || flight->verb == KVL_VERB_SCATTER;

    manifest->chunks = malloc((flight->count + 1) * sizeof(*manifest->chunks));
    if (telling == TELL_BLOCKS) {
        manifest->blocks = malloc(places * sizeof(*manifest->blocks));
    } else if (telling != TELL_NOTHING) {
        manifest->sg = malloc(places * sizeof(*manifest->sg));
    }
    if (telling != TELL_NOTHING) {
        manifest->first_of = calloc(flight->count + 1, sizeof(*manifest->first_of));
    }
    if (has_addresses) {
        manifest->addresses = malloc(flight->count * sizeof(*manifest->addresses));
    }
    if (manifest->chunks == NULL || (has_addresses && manifest->addresses == NULL) ||
        (telling != TELL_NOTHING &&
         (manifest->first_of == NULL || (manifest->blocks == NULL && manifest->sg == NULL)))) {
        return -ENOMEM;
    }
    return 0;
}

/* Builds the record the backend sees. */
static int manifest_init(struct manifest *manifest, const struct kvl_flight *flight)
{
    const enum telling telling = how_to_tell(flight);
    struct kvl_batch *batch = &manifest->batch;

    if (manifest_room(manifest, flight, telling) < 0) {
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < flight->count; i++) {
        const struct kvl_cargo *cargo = &flight->cargo[i];

        manifest->chunks[i] = cargo->chunk;
        if (telling != TELL_NOTHING) {
            manifest->first_of[i + 1] =
                manifest->first_of[i] +
                tell_one(manifest, flight, i, telling, manifest->first_of[i]);
        }
        if (manifest->addresses != NULL) {
            manifest->addresses[i] =
                flight->verb == KVL_VERB_GATHER ? cargo->to : (void *)(uintptr_t)cargo->view.data;
        }
    }
    *batch = (struct kvl_batch){
        .size = sizeof(*batch),
        .count = flight->count,
        .cookie = flight->cookie,
        .deadline_ms = flight->op->deadline_ms,
        .chunks = manifest->chunks,
        .sg = manifest->sg,
        .sg_first = manifest->sg != NULL ? manifest->first_of : NULL,
        .blocks = manifest->blocks,
        .block_first = manifest->blocks != NULL ? manifest->first_of : NULL,
        .kv = telling == TELL_BLOCKS ? flight->op->place.cache->number : 0,
        .stream =
            flight->is_direct && flight->op->place.mover != NULL ? flight->op->memory.stream : 0,
        .flags = flight->op->flags,
    };
    return 0;
}

static int submit_manifest(struct kvl_backend *backend, enum kvl_verb verb,
                           const struct manifest *manifest)
{
    const struct kvl_backend_ops *ops = &backend->module.ops;
    const struct kvl_batch *batch = &manifest->batch;
    void *self = backend->self;

    switch (verb) {
    case KVL_VERB_LOOKUP:
        return ops->lookup(self, batch);
    case KVL_VERB_READ:
        return ops->read(self, batch);
    case KVL_VERB_WRITE:
    case KVL_VERB_WRITE_OUT:
        return ops->write(self, batch);
    case KVL_VERB_REMOVE:
        return ops->remove(self, batch);
    case KVL_VERB_LIST:
        return ops->list(self, batch->cookie, batch->deadline_ms);
    case KVL_VERB_PROBE:
        return ops->probe(self, batch->cookie, batch->deadline_ms);
    case KVL_VERB_GATHER:
        return ops->gather(self, batch, manifest->addresses);
    case KVL_VERB_SCATTER:
        return ops->scatter(self, batch, (const void *const *)manifest->addresses);
    }
    return -ENOTSUP;
}

/* Once submitted the flight may be gone at any time: only copies are touched after that. */
static int submit(struct kvl_flight *flight)
{
    struct kvl_backend *backend = flight->backend;
    const enum kvl_verb verb = flight->verb;
    struct manifest manifest = {0};
    int r = manifest_init(&manifest, flight);

    if (r == 0) {
        r = submit_manifest(backend, verb, &manifest);
    }
    manifest_fini(&manifest);
    return r;
}

/* ---- loading and unloading ---- */

static void load_cargo(struct kvl_flight *flight, struct kvl_op *op, const uint32_t *items)
{
    for (uint32_t i = 0; i < flight->count; i++) {
        struct kvl_cargo *cargo = &flight->cargo[i];
        struct kvl_op_item *item = &op->items[items[i]];

        cargo->chunk = item->chunk;
        memcpy(cargo->key, item->chunk.key.text, item->chunk.key.length);
        cargo->chunk.key.text = cargo->key;
        cargo->hash = item->hash;
        cargo->epoch =
            flight->verb == KVL_VERB_READ ? kvl_store_epoch(op->flights->store, item->hash) : 0;
        cargo->item = items[i];
        if (flight->verb == KVL_VERB_SCATTER) {
            cargo->view = item->view;
            cargo->has_view = 1;
            item->has_view = 0;
            cargo->chunk.bytes = item->view.length;
            cargo->chunk.attrs = item->view.attrs;
        } else if (flight->verb == KVL_VERB_GATHER) {
            cargo->slot = item->slot;
            cargo->to = item->to;
            cargo->has_slot = 1;
            cargo->is_wanted = item->want != 0;
            item->has_slot = 0;
        } else {
            item->tried |= 1u << flight->backend->index;
        }
    }
}

/* What load_cargo took is the items' again. */
static void unload_cargo(struct kvl_flight *flight, struct kvl_op *op)
{
    for (uint32_t i = 0; i < flight->count; i++) {
        struct kvl_cargo *cargo = &flight->cargo[i];
        struct kvl_op_item *item = &op->items[cargo->item];

        if (flight->verb == KVL_VERB_SCATTER) {
            item->has_view = 1;
            cargo->has_view = 0;
        } else if (flight->verb == KVL_VERB_GATHER) {
            item->has_slot = 1;
            cargo->has_slot = 0;
        }
    }
}

/* Leases what is to be sent. Chunks evicted since they were saved are left out. */
static void pin_cargo(struct kvl_flights *flights, struct kvl_flight *flight)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < flight->count; i++) {
        struct kvl_cargo *cargo = &flight->cargo[i];

        if (kvl_store_pin(flights->store, &cargo->chunk.key, &cargo->view) < 0) {
            continue;
        }
        cargo->has_view = 1;
        cargo->chunk.bytes = cargo->view.length;
        cargo->chunk.attrs = cargo->view.attrs;
        cargo->chunk.checksum = cargo->view.checksum;
        cargo->chunk.flags = cargo->view.checksum != 0 ? KVL_CHUNK_HAS_CHECKSUM : 0;
        if (kept != i) {
            flight->cargo[kept] = *cargo;
            flight->cargo[kept].chunk.key.text = flight->cargo[kept].key;
        }
        kept++;
    }
    flight->count = kept;
}

/* ---- take-off ---- */

/* The lock is held. */
static void link_flight(struct kvl_op *op, struct kvl_flight *flight)
{
    flight->op = op;
    flight->prev = NULL;
    flight->next = op->first;
    if (op->first != NULL) {
        op->first->prev = flight;
    }
    op->first = flight;
    op->pending++;
    op->idle -= op->kind == KVL_OP_LOAD ? flight->count : 0;
    for (uint32_t i = 0; i < flight->count; i++) {
        struct kvl_op_item *item = &op->items[flight->cargo[i].item];

        item->is_flying = 1;
        if (flight->verb == KVL_VERB_GATHER) {
            item->stage = KVL_ITEM_TAKING;
        }
    }
}

/* The backend refused: as if it had never been asked. @return 0 when it completed it all the same:
 * the completion was here first and ended it. */
static int ground(struct kvl_flights *flights, struct kvl_flight *flight, uint64_t cookie,
                  int refusal)
{
    struct kvl_op *op;

    pthread_mutex_lock(&flights->lock);
    if (kvl_table_get(&flights->flights, cookie) != flight || flight->is_landing) {
        pthread_mutex_unlock(&flights->lock);
        return 0;
    }
    op = flight->op;
    for (uint32_t i = 0; i < flight->count; i++) {
        struct kvl_op_item *item = &op->items[flight->cargo[i].item];

        item->is_flying = 0;
        if (flight->verb == KVL_VERB_GATHER) {
            item->stage = KVL_ITEM_TAKE;
        }
    }
    op->idle += op->kind == KVL_OP_LOAD ? flight->count : 0;
    kvl_flight_retire(flights, flight);
    pthread_mutex_unlock(&flights->lock);
    unload_cargo(flight, op);
    kvl_flight_free(flights, flight);
    return refusal;
}

/* Can all of them be read into the engine's memory, or written from there, without the store? */
static int is_direct(const struct kvl_op *op, const struct kvl_backend *backend,
                     const uint32_t *items, uint32_t count)
{
    const struct kvl_kv_cache *cache = op->place.cache;
    uint64_t runs = 0;

    for (uint32_t i = 0; i < count; i++) {
        const uint32_t item = items[i];

        if (!kvl_op_has_memory(op, item)) {
            return 0;
        }
        if (cache == NULL || cache->backend == backend) {
            continue;
        }
        if (!kvl_kv_has_runs(cache, &op->blocks[op->first_of[item]], places_of(op, item))) {
            return 0;
        }
        runs += kvl_kv_most_runs(cache, places_of(op, item));
    }
    return runs <= MOST_RUNS;
}

static int is_direct_flight(const struct kvl_op *op, const struct kvl_backend *backend,
                            enum kvl_verb verb, const uint32_t *items, uint32_t count)
{
    switch (verb) {
    case KVL_VERB_READ:
        return kvl_backend_reads_direct(backend, op->place.mem) &&
               is_direct(op, backend, items, count);
    case KVL_VERB_WRITE_OUT:
        return is_direct(op, backend, items, count);
    case KVL_VERB_GATHER:
    case KVL_VERB_SCATTER:
        return 1;
    default:
        return 0;
    }
}

int kvl_op_fly(struct kvl_op *op, struct kvl_backend *backend, enum kvl_verb verb,
               const uint32_t *items, uint32_t count)
{
    struct kvl_flights *flights = op->flights;
    struct kvl_flight *flight;
    uint64_t cookie = 0;
    int r;

    flight = calloc(1, sizeof(*flight) + count * sizeof(flight->cargo[0]));
    if (flight == NULL) {
        return -ENOMEM;
    }
    flight->verb = verb;
    flight->backend = backend;
    flight->count = count;
    flight->is_direct = is_direct_flight(op, backend, verb, items, count);
    if (verb == KVL_VERB_WRITE_OUT && !flight->is_direct) {
        free(flight);
        return -ENOTSUP;
    }
    load_cargo(flight, op, items);
    if (verb == KVL_VERB_WRITE) {
        pin_cargo(flights, flight);
        if (flight->count == 0) {
            free(flight);
            return 0;
        }
    }
    pthread_mutex_lock(&flights->lock);
    r = kvl_table_add(&flights->flights, flight, &cookie);
    if (r == 0) {
        flight->cookie = cookie;
        link_flight(op, flight);
    }
    pthread_mutex_unlock(&flights->lock);
    if (r < 0) {
        unload_cargo(flight, op);
        kvl_flight_free(flights, flight);
        return r;
    }
    atomic_fetch_add_explicit(&backend->in_flight, 1, memory_order_relaxed);
    r = submit(flight);
    return r != 0 ? ground(flights, flight, cookie, r > 0 ? -EPROTO : r) : 0;
}
