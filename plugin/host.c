/* SPDX-License-Identifier: Apache-2.0 */
#include "host.h"

#include <errno.h>
#include <pthread.h>

#include "chunk_id.h"
#include "route.h"
#include "thread.h"

static struct kvl_backend *backend_of(const struct kvl_host *host)
{
    return host->ctx;
}

static uint64_t host_now_ms(const struct kvl_host *host)
{
    (void)host;
    return kvl_now_ms();
}

static int host_setting(const struct kvl_host *host, const char *name, struct kvl_setting *out)
{
    const struct kvl_setting *setting = kvl_settings_get(&backend_of(host)->settings, name);

    if (setting == NULL) {
        return -ENOENT;
    }
    *out = *setting;
    return 0;
}

static int host_thread_create(const struct kvl_host *host, const char *name, void *(*fn)(void *),
                              void *arg, uint64_t *thread_out)
{
    pthread_t thread;
    int r;

    (void)host;
    _Static_assert(sizeof(pthread_t) == sizeof(uint64_t), "a thread fits its handle");
    r = kvl_thread_create(name, fn, arg, &thread);
    if (r == 0) {
        *thread_out = (uint64_t)thread;
    }
    return r;
}

static int host_thread_join(const struct kvl_host *host, uint64_t thread)
{
    (void)host;
    return -pthread_join((pthread_t)thread, NULL);
}

static void host_complete(const struct kvl_host *host, const struct kvl_completion *done)
{
    kvl_flights_complete(backend_of(host)->flights, backend_of(host), done);
}

static int host_read_target(const struct kvl_host *host, uint64_t cookie, uint32_t item,
                            const struct kvl_chunk *found, void **addr_out)
{
    return kvl_flights_read_target(backend_of(host)->flights, cookie, item, found, addr_out);
}

static void host_progress(const struct kvl_host *host, uint64_t cookie, uint32_t layers)
{
    kvl_flights_progress(backend_of(host)->flights, backend_of(host), cookie, layers);
}

static int host_store_range(const struct kvl_host *host, void **base_out, uint64_t *bytes_out)
{
    return kvl_store_range(backend_of(host)->store, base_out, bytes_out);
}

static int host_list_add(const struct kvl_host *host, uint64_t cookie, const struct kvl_key *keys,
                         uint32_t count)
{
    return kvl_flights_list_add(backend_of(host)->flights, cookie, keys, count);
}

static int host_store_get(const struct kvl_host *host, const struct kvl_key *key,
                          struct kvl_view *view_out)
{
    return kvl_store_get(backend_of(host)->store, key, view_out);
}

static int host_store_release(const struct kvl_host *host, uint64_t lease)
{
    return kvl_store_release(backend_of(host)->store, lease);
}

static int host_store_exists(const struct kvl_host *host, const struct kvl_key *key)
{
    return kvl_store_exists(backend_of(host)->store, key);
}

static int host_store_reserve(const struct kvl_host *host, const struct kvl_chunk *chunk,
                              uint64_t *slot_out, void **addr_out)
{
    return kvl_store_reserve(backend_of(host)->store, chunk, slot_out, addr_out);
}

static int host_store_commit(const struct kvl_host *host, uint64_t slot)
{
    struct kvl_store *store = backend_of(host)->store;
    int r = kvl_store_commit(store, slot, NULL);

    kvl_store_trim(store);
    return r;
}

static int host_store_abort(const struct kvl_host *host, uint64_t slot)
{
    return kvl_store_abort(backend_of(host)->store, slot);
}

static int host_store_remove(const struct kvl_host *host, const struct kvl_key *key)
{
    const struct kvl_watcher *watcher = backend_of(host)->watcher;
    int r = kvl_store_remove(backend_of(host)->store, key);

    watcher->removed(watcher->ctx, key);
    return r;
}

static int host_store_fetch(const struct kvl_host *host, const struct kvl_key *key, uint32_t flags,
                            kvl_fetch_fn fn, void *ctx)
{
    const struct kvl_watcher *watcher = backend_of(host)->watcher;

    return watcher->fetch(watcher->ctx, key, flags, fn, ctx);
}

static int host_store_list(const struct kvl_host *host, kvl_key_fn fn, void *ctx)
{
    return kvl_store_list(backend_of(host)->store, fn, ctx);
}

static uint64_t host_store_max_bytes(const struct kvl_host *host)
{
    return kvl_store_max_bytes(backend_of(host)->store);
}

static int host_store_export(const struct kvl_host *host, struct kvl_store_export *out)
{
    if (out->size < sizeof(*out)) {
        return -EINVAL;
    }
    return kvl_store_export(backend_of(host)->store, out);
}

static int host_locate(const struct kvl_host *host, const struct kvl_chunk_id *ids, uint32_t count,
                       uint64_t deadline_ms, kvl_locate_fn fn, void *ctx)
{
    const struct kvl_watcher *watcher = backend_of(host)->watcher;

    return watcher->locate(watcher->ctx, ids, count, deadline_ms, fn, ctx);
}

static int host_push(const struct kvl_host *host, const char *peer_url, const struct kvl_key *keys,
                     uint32_t count, uint64_t deadline_ms, uint32_t *pushed_out)
{
    const struct kvl_watcher *watcher = backend_of(host)->watcher;

    return watcher->push(watcher->ctx, peer_url, keys, count, deadline_ms, pushed_out);
}

static int host_stats(const struct kvl_host *host, kvl_stat_fn fn, void *ctx)
{
    const struct kvl_watcher *watcher = backend_of(host)->watcher;

    watcher->stats(watcher->ctx, fn, ctx);
    return 0;
}

static int host_health(const struct kvl_host *host, uint32_t location,
                       struct kvl_health *health_out)
{
    const struct kvl_watcher *watcher = backend_of(host)->watcher;

    if (health_out->size < sizeof(uint32_t)) {
        return -EINVAL;
    }
    return watcher->health(watcher->ctx, location, health_out);
}

static int host_chunk_id(const struct kvl_host *host, const struct kvl_key *key,
                         struct kvl_chunk_id *id_out)
{
    (void)host;
    return kvl_chunk_id_of(key, id_out);
}

static int host_offer(const struct kvl_host *host, const void *bytes, uint32_t length)
{
    return kvl_offer_box_put(&backend_of(host)->offer, bytes, length);
}

static void host_offers(const struct kvl_host *host, kvl_offer_fn fn, void *ctx)
{
    const struct kvl_watcher *watcher = backend_of(host)->watcher;

    watcher->offers(watcher->ctx, fn, ctx);
}

static void host_offered(const struct kvl_host *host, const struct kvl_offer *offer)
{
    const struct kvl_watcher *watcher = backend_of(host)->watcher;

    watcher->offered(watcher->ctx, offer);
}

static void host_held_event(const struct kvl_host *host, const struct kvl_key *key, uint64_t bytes,
                            uint32_t kind)
{
    const struct kvl_backend *backend = backend_of(host);
    int r = -EINVAL;

    if ((backend->caps & KVL_CAP_HELD) != 0 && (kind == KVL_KEY_ADMIT || kind == KVL_KEY_EVICT)) {
        r = kvl_store_tell(backend->store, backend->limits.where, key, bytes, kind);
    }
    if (r < 0) {
        kvl_debug(&backend->log, "%s: told of a chunk that it cannot hold", backend->name);
    }
}

static int host_held(const struct kvl_host *host, uint32_t where, kvl_key_fn fn, void *ctx)
{
    const struct kvl_watcher *watcher = backend_of(host)->watcher;

    return watcher->held(watcher->ctx, where, fn, ctx);
}

static int host_store_events(const struct kvl_host *host, struct kvl_store_event *events_out,
                             uint32_t room, uint64_t deadline_ms)
{
    return kvl_store_read_events(backend_of(host)->store, host->ctx, events_out, room, deadline_ms);
}

static void host_store_events_wake(const struct kvl_host *host)
{
    kvl_store_wake_reader(backend_of(host)->store, host->ctx);
}

void kvl_host_init(struct kvl_backend *backend)
{
    backend->host = (struct kvl_host){
        .size = sizeof(struct kvl_host),
        .abi_minor = KVL_BACKEND_ABI_MINOR,
        .ctx = backend,
        .log = &backend->log,
        .now_ms = host_now_ms,
        .setting = host_setting,
        .thread_create = host_thread_create,
        .thread_join = host_thread_join,
        .complete = host_complete,
        .read_target = host_read_target,
        .list_add = host_list_add,
        .store_get = host_store_get,
        .store_release = host_store_release,
        .store_exists = host_store_exists,
        .store_reserve = host_store_reserve,
        .store_commit = host_store_commit,
        .store_abort = host_store_abort,
        .store_remove = host_store_remove,
        .store_list = host_store_list,
        .store_max_bytes = host_store_max_bytes,
        .store_fetch = host_store_fetch,
        .stats = host_stats,
        .health = host_health,
        .store_export = host_store_export,
        .locate = host_locate,
        .push = host_push,
        .chunk_id = host_chunk_id,
        .store_events = host_store_events,
        .store_events_wake = host_store_events_wake,
        .progress = host_progress,
        .store_range = host_store_range,
        .offer = host_offer,
        .offers = host_offers,
        .offered = host_offered,
        .held_event = host_held_event,
        .held = host_held,
    };
}
