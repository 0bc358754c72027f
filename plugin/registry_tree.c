/* SPDX-License-Identifier: Apache-2.0 */
#include "registry_tree.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "hash.h"

uint64_t kvl_reg_now(const struct kvl_registry *registry)
{
    return registry->clock.now_ms(registry->clock.ctx);
}

int kvl_reg_check_text(struct kvl_text text)
{
    if (text.length > KVL_NAME_MAX) {
        return -EMSGSIZE;
    }
    return text.length > 0 && memchr(text.text, '\0', text.length) != NULL ? -EINVAL : 0;
}

bool kvl_reg_text_is(struct kvl_text text, const char *name)
{
    return strlen(name) == text.length &&
           (text.length == 0 || memcmp(text.text, name, text.length) == 0);
}

void kvl_reg_copy_name(char out[KVL_NAME_ROOM], const char *name)
{
    const size_t length = name != NULL ? strlen(name) : 0;

    if (length > 0) {
        memcpy(out, name, length);
    }
    out[length] = '\0';
}

uint64_t kvl_reg_hash_text(struct kvl_text text)
{
    return kvl_hash_bytes(text.length > 0 ? text.text : "", text.length);
}

/* ---- finding ---- */

uint64_t kvl_reg_worker_hash(const struct kvl_reg_instance *instance, int64_t worker_id)
{
    const uint64_t key[2] = {instance->order, (uint64_t)worker_id};

    return kvl_hash_bytes(key, sizeof(key));
}

#define OF_NODE(type, pointer) ((type *)(void *)((char *)(pointer)-offsetof(type, node)))

struct kvl_reg_instance *kvl_reg_find_instance(const struct kvl_registry *registry,
                                               struct kvl_text name)
{
    struct kvl_map_node *node;

    node = kvl_map_first(&registry->instances, kvl_reg_hash_text(name));
    while (node != NULL) {
        struct kvl_reg_instance *instance = OF_NODE(struct kvl_reg_instance, node);

        if (kvl_reg_text_is(name, instance->name)) {
            return instance;
        }
        node = kvl_map_next(node);
    }
    return NULL;
}

static struct kvl_reg_worker *find_in(const struct kvl_registry *registry,
                                      const struct kvl_reg_instance *instance, int64_t worker_id)
{
    struct kvl_map_node *node =
        kvl_map_first(&registry->workers, kvl_reg_worker_hash(instance, worker_id));

    while (node != NULL) {
        struct kvl_reg_worker *worker = OF_NODE(struct kvl_reg_worker, node);

        if (worker->instance == instance && worker->worker_id == worker_id) {
            return worker;
        }
        node = kvl_map_next(node);
    }
    return NULL;
}

struct kvl_reg_worker *kvl_reg_find(const struct kvl_registry *registry,
                                    const struct kvl_worker_name *name)
{
    const struct kvl_reg_instance *instance = kvl_reg_find_instance(registry, name->instance);

    return instance != NULL ? find_in(registry, instance, name->worker_id) : NULL;
}

bool kvl_reg_enter_seen(const struct kvl_reg_seen *seen)
{
    pthread_mutex_lock(&seen->worker->lock);
    if (seen->worker->life == seen->life) {
        return true;
    }
    pthread_mutex_unlock(&seen->worker->lock);
    return false;
}

struct kvl_reg_worker *kvl_reg_enter(struct kvl_registry *registry,
                                     const struct kvl_worker_name *name)
{
    struct kvl_reg_seen seen;

    do {
        pthread_rwlock_rdlock(&registry->members);
        seen.worker = kvl_reg_find(registry, name);
        seen.life = seen.worker != NULL ? seen.worker->life : 0;
        pthread_rwlock_unlock(&registry->members);
        if (seen.worker == NULL) {
            return NULL;
        }
    } while (!kvl_reg_enter_seen(&seen)); /* it went in between; another may have come */
    return seen.worker;
}

void kvl_reg_leave(struct kvl_reg_worker *worker)
{
    pthread_mutex_unlock(&worker->lock);
}

struct kvl_reg_worker *kvl_reg_enter_heard(struct kvl_registry *registry,
                                           const struct kvl_worker_name *name)
{
    struct kvl_reg_worker *worker = kvl_reg_enter(registry, name);
    uint64_t now;

    if (worker != NULL) {
        now = kvl_reg_now(registry);
        atomic_store_explicit(&worker->last_ms, now, memory_order_relaxed);
        kvl_reg_age_sync(registry, worker, now);
    }
    return worker;
}

static void see_instance(const struct kvl_reg_instance *instance, struct kvl_reg_seen *seen,
                         uint64_t *count)
{
    for (struct kvl_reg_worker *worker = instance->first; worker != NULL; worker = worker->after) {
        seen[(*count)++] = (struct kvl_reg_seen){.worker = worker, .life = worker->life};
    }
}

int kvl_reg_see_all(struct kvl_registry *registry, const struct kvl_text *instance,
                    struct kvl_reg_seen **seen_out, uint64_t *count_out)
{
    const struct kvl_reg_instance *one;
    struct kvl_reg_seen *seen;
    uint64_t count = 0;
    int r = 0;

    pthread_rwlock_rdlock(&registry->members);
    seen = malloc((registry->workers.count + 1) * sizeof(*seen));
    if (seen == NULL) {
        r = -ENOMEM;
    } else if (instance == NULL) {
        for (one = registry->first; one != NULL; one = one->after) {
            see_instance(one, seen, &count);
        }
    } else if ((one = kvl_reg_find_instance(registry, *instance)) == NULL) {
        r = -ENOENT;
    } else {
        see_instance(one, seen, &count);
    }
    pthread_rwlock_unlock(&registry->members);
    if (r < 0) {
        free(seen);
        return r;
    }
    *seen_out = seen;
    *count_out = count;
    return 0;
}

bool kvl_reg_is_silent(const struct kvl_registry *registry, const struct kvl_reg_worker *worker,
                       uint64_t now)
{
    const uint64_t ttl = atomic_load_explicit(&registry->worker_ttl_ms, memory_order_relaxed);

    return ttl > 0 && atomic_load_explicit(&worker->has_heartbeat, memory_order_relaxed) &&
           kvl_reg_since(now, atomic_load_explicit(&worker->last_ms, memory_order_relaxed)) > ttl;
}

/* ---- holders ---- */

struct kvl_reg_holder *kvl_reg_holder(const struct kvl_registry *registry, uint32_t holder)
{
    return kvl_pool_at(&registry->holder_pool, holder);
}

bool kvl_reg_holder_is(const struct kvl_reg_holder *holder, uint64_t birth)
{
    return atomic_load_explicit(&holder->is_alive, memory_order_acquire) &&
           atomic_load_explicit(&holder->birth, memory_order_acquire) <= birth;
}

static int open_holder(struct kvl_registry *registry, struct kvl_reg_worker *worker,
                       struct kvl_reg_location *location)
{
    struct kvl_reg_holder *holder;
    uint32_t index;
    int r = kvl_index_holder_open(registry->index, &index);

    if (r < 0) {
        return r;
    }
    pthread_rwlock_wrlock(&registry->members);
    r = kvl_pool_reach(&registry->holder_pool, index);
    if (r == 0) {
        holder = kvl_reg_holder(registry, index);
        /* First: a lookup that began earlier must not take what follows for what was before. */
        atomic_store(&holder->birth, atomic_fetch_add(&registry->births, 1) + 1);
        atomic_store(&holder->worker, worker->index);
        atomic_store(&holder->instance, worker->instance->number);
        atomic_store(&holder->has_url, worker->peer_url != NULL);
        atomic_store(&holder->worker_id, worker->worker_id);
        atomic_store(&holder->ip_hash, worker->ip_hash);
        atomic_store(&holder->instance_order, worker->instance->order);
        atomic_store(&holder->worker_order, worker->order);
        holder->location = location;
        atomic_store(&holder->is_alive, 1);
        atomic_store(&location->holder, index);
    }
    pthread_rwlock_unlock(&registry->members);
    if (r < 0) {
        kvl_index_holder_retire(registry->index, index);
    }
    return r;
}

/* Both locks are held. */
static void retire_holder(struct kvl_registry *registry, struct kvl_reg_location *location)
{
    const uint32_t index = atomic_load(&location->holder);

    if (index != KVL_INDEX_NONE) {
        kvl_index_holder_retire(registry->index, index);
        atomic_store(&kvl_reg_holder(registry, index)->is_alive, 0);
        atomic_store(&location->holder, KVL_INDEX_NONE);
    }
}

/* ---- locations ---- */

struct kvl_reg_location *kvl_reg_location(const struct kvl_reg_worker *worker, struct kvl_text name)
{
    struct kvl_reg_location *location = atomic_load(&worker->locations);

    while (location != NULL && !kvl_reg_text_is(name, location->name)) {
        location = atomic_load(&location->next);
    }
    return location;
}

int kvl_reg_location_make(struct kvl_registry *registry, struct kvl_reg_worker *worker,
                          struct kvl_text name, struct kvl_reg_location **location_out)
{
    struct kvl_reg_location *location = kvl_reg_location(worker, name);

    if (location == NULL) {
        if (worker->location_count == KVL_REGISTRY_LOCATIONS_MAX) {
            return -ENOMEM;
        }
        location = calloc(1, sizeof(*location) + name.length + 1);
        if (location == NULL) {
            return -ENOMEM;
        }
        location->length = name.length;
        if (name.length > 0) {
            memcpy(location->name, name.text, name.length);
        }
        atomic_store(&location->holder, KVL_INDEX_NONE);
        pthread_rwlock_wrlock(&registry->members);
        atomic_store(&location->next, atomic_load(&worker->locations));
        atomic_store(&worker->locations, location);
        worker->location_count++;
        registry->text_bytes += sizeof(*location) + name.length + 1;
        pthread_rwlock_unlock(&registry->members);
    }
    *location_out = location;
    return 0;
}

int kvl_reg_location_ready(struct kvl_registry *registry, struct kvl_reg_worker *worker,
                           struct kvl_reg_location *location)
{
    uint32_t index = atomic_load(&location->holder);

    if (index == KVL_INDEX_NONE) {
        int r = open_holder(registry, worker, location);

        if (r < 0) {
            return r;
        }
        index = atomic_load(&location->holder);
    }
    if (kvl_index_holder_keys(registry->index, index) == 0) {
        atomic_store(&kvl_reg_holder(registry, index)->location_order,
                     atomic_fetch_add(&registry->order, 1));
        atomic_store_explicit(&worker->has_keys, 1, memory_order_relaxed);
    }
    return 0;
}

void kvl_reg_location_clear(struct kvl_registry *registry, struct kvl_reg_location *location)
{
    pthread_rwlock_wrlock(&registry->members);
    retire_holder(registry, location);
    pthread_rwlock_unlock(&registry->members);
}

void kvl_reg_drop_locations(struct kvl_registry *registry, struct kvl_reg_worker *worker)
{
    struct kvl_reg_location *location = atomic_load(&worker->locations);

    atomic_store(&worker->locations, NULL);
    worker->location_count = 0;
    while (location != NULL) {
        struct kvl_reg_location *next = atomic_load(&location->next);

        retire_holder(registry, location);
        registry->text_bytes -= sizeof(*location) + location->length + 1;
        free(location);
        location = next;
    }
}
