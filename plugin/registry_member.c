/* SPDX-License-Identifier: Apache-2.0 */
/* Workers come and go. */
#include "registry_tree.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* The texts of a worker, made before a lock is taken. */
struct texts {
    char *ip;
    char *peer_url; /* NULL = none */
};

static char *copy_text(struct kvl_text text)
{
    char *copy = malloc((size_t)text.length + 1);

    if (copy != NULL) {
        if (text.length > 0) {
            memcpy(copy, text.text, text.length);
        }
        copy[text.length] = '\0';
    }
    return copy;
}

static void free_texts(struct texts *texts)
{
    free(texts->ip);
    free(texts->peer_url);
}

static int copy_texts(const struct kvl_worker_desc *desc, struct texts *texts)
{
    const bool has_url = (desc->flags & KVL_WORKER_HAS_PEER_URL) != 0;

    texts->ip = copy_text(desc->ip);
    texts->peer_url = has_url ? copy_text(desc->peer_url) : NULL;
    if (texts->ip == NULL || (has_url && texts->peer_url == NULL)) {
        free_texts(texts);
        return -ENOMEM;
    }
    return 0;
}

static uint64_t text_bytes(const struct kvl_reg_worker *worker)
{
    return (worker->ip != NULL ? strlen(worker->ip) + 1 : 0) +
           (worker->peer_url != NULL ? strlen(worker->peer_url) + 1 : 0);
}

/* Both locks are held. Leaves the old texts to the caller. */
static void take_desc(struct kvl_registry *registry, struct kvl_reg_worker *worker,
                      const struct kvl_worker_desc *desc, struct texts *texts)
{
    const struct texts old = {.ip = worker->ip, .peer_url = worker->peer_url};

    registry->text_bytes -= text_bytes(worker);
    worker->ip = texts->ip;
    worker->peer_url = texts->peer_url;
    registry->text_bytes += text_bytes(worker);
    *texts = old;
    worker->ip_hash = kvl_reg_hash_text(desc->ip);
    worker->port = desc->port;
    worker->incarnation = desc->incarnation;
    worker->registration_time = registry->clock.unix_time(registry->clock.ctx);
    atomic_store(&worker->heartbeat_time, worker->registration_time);
    atomic_store(&worker->last_ms, kvl_reg_now(registry));
    atomic_store(&worker->has_heartbeat, 0);
}

/* ---- instances, under the membership lock ---- */

static struct kvl_reg_instance *make_instance(struct kvl_registry *registry, struct kvl_text name)
{
    struct kvl_reg_instance *instance = calloc(1, sizeof(*instance));

    if (instance == NULL || kvl_pool_take(&registry->instance_numbers, &instance->number) < 0) {
        free(instance);
        return NULL;
    }
    instance->length = name.length;
    if (name.length > 0) {
        memcpy(instance->name, name.text, name.length);
    }
    instance->order = atomic_fetch_add(&registry->order, 1);
    instance->before = registry->last;
    if (registry->last != NULL) {
        registry->last->after = instance;
    } else {
        registry->first = instance;
    }
    registry->last = instance;
    kvl_map_add(&registry->instances, &instance->node, kvl_reg_hash_text(name));
    registry->text_bytes += sizeof(*instance);
    return instance;
}

static void free_instance(struct kvl_registry *registry, struct kvl_reg_instance *instance)
{
    if (instance->before != NULL) {
        instance->before->after = instance->after;
    } else {
        registry->first = instance->after;
    }
    if (instance->after != NULL) {
        instance->after->before = instance->before;
    } else {
        registry->last = instance->before;
    }
    kvl_map_drop(&registry->instances, &instance->node);
    kvl_pool_give(&registry->instance_numbers, instance->number);
    registry->text_bytes -= sizeof(*instance);
    free(instance);
}

/* ---- workers ---- */

/* A record that is nobody's, locked. */
static struct kvl_reg_worker *take_record(struct kvl_registry *registry)
{
    struct kvl_reg_worker *worker = NULL;
    uint32_t index;

    pthread_rwlock_wrlock(&registry->members);
    if (registry->workers.count < KVL_REGISTRY_WORKERS_MAX &&
        kvl_pool_take(&registry->worker_pool, &index) == 0) {
        worker = kvl_pool_at(&registry->worker_pool, index);
        if (!worker->has_lock) {
            pthread_mutex_init(&worker->lock, NULL);
            worker->has_lock = true;
            worker->index = index;
        }
    }
    pthread_rwlock_unlock(&registry->members);
    if (worker != NULL) {
        pthread_mutex_lock(&worker->lock); /* somebody late may still look whether it is his */
    }
    return worker;
}

static void link_worker(struct kvl_registry *registry, struct kvl_reg_worker *worker,
                        struct kvl_reg_instance *instance, int64_t worker_id)
{
    worker->life = ++registry->lives;
    worker->instance = instance;
    worker->worker_id = worker_id;
    worker->order = atomic_fetch_add(&registry->order, 1);
    worker->after = NULL;
    worker->before = instance->last;
    if (instance->last != NULL) {
        instance->last->after = worker;
    } else {
        instance->first = worker;
    }
    instance->last = worker;
    kvl_map_add(&registry->workers, &worker->node, kvl_reg_worker_hash(instance, worker_id));
    atomic_store(&worker->has_keys, 0);
    atomic_store(&worker->gaps, 0);
    worker->has_gap = false;
    atomic_fetch_add(&registry->worker_count, 1);
}

/* The membership lock is held. */
static int insert(struct kvl_registry *registry, struct kvl_reg_worker *worker,
                  const struct kvl_worker_desc *desc, struct texts *texts)
{
    struct kvl_reg_instance *instance;

    if (kvl_reg_find(registry, &desc->name) != NULL) {
        return -EEXIST;
    }
    instance = kvl_reg_find_instance(registry, desc->name.instance);
    if (instance == NULL) {
        instance = make_instance(registry, desc->name.instance);
    }
    if (instance == NULL) {
        return -ENOMEM;
    }
    link_worker(registry, worker, instance, desc->name.worker_id);
    take_desc(registry, worker, desc, texts);
    return 0;
}

int kvl_reg_add(struct kvl_registry *registry, const struct kvl_worker_desc *desc,
                struct kvl_reg_worker **worker_out)
{
    struct kvl_reg_worker *worker;
    struct texts texts;
    int r = copy_texts(desc, &texts);

    if (r < 0) {
        return r;
    }
    worker = take_record(registry);
    if (worker == NULL) {
        free_texts(&texts);
        return -ENOMEM;
    }
    pthread_rwlock_wrlock(&registry->members);
    r = insert(registry, worker, desc, &texts);
    if (r < 0) {
        kvl_pool_give(&registry->worker_pool, worker->index);
    }
    pthread_rwlock_unlock(&registry->members);
    free_texts(&texts);
    if (r < 0) {
        kvl_reg_leave(worker);
        return r;
    }
    *worker_out = worker;
    return 0;
}

int kvl_reg_renew(struct kvl_registry *registry, struct kvl_reg_worker *worker,
                  const struct kvl_worker_desc *desc)
{
    struct texts texts;
    int r = copy_texts(desc, &texts);

    if (r < 0) {
        return r;
    }
    pthread_rwlock_wrlock(&registry->members);
    kvl_reg_drop_locations(registry, worker);
    take_desc(registry, worker, desc, &texts);
    pthread_rwlock_unlock(&registry->members);
    if (atomic_load(&worker->sync_state) == KVL_SYNC_SYNCING) {
        kvl_reg_set_sync(registry, worker, KVL_SYNC_NONE);
        kvl_reg_free_sync(worker->sync);
        worker->sync = NULL;
    }
    worker->has_gap = false;
    atomic_store(&worker->has_keys, 0);
    free_texts(&texts);
    return 0;
}

void kvl_reg_drop(struct kvl_registry *registry, struct kvl_reg_worker *worker)
{
    struct kvl_reg_instance *instance = worker->instance;
    struct texts texts;

    kvl_reg_set_sync(registry, worker, KVL_SYNC_NONE);
    kvl_reg_free_sync(worker->sync);
    worker->sync = NULL;
    pthread_rwlock_wrlock(&registry->members);
    kvl_reg_drop_locations(registry, worker);
    registry->text_bytes -= text_bytes(worker);
    texts = (struct texts){.ip = worker->ip, .peer_url = worker->peer_url};
    worker->ip = NULL;
    worker->peer_url = NULL;
    worker->life = 0;
    kvl_map_drop(&registry->workers, &worker->node);
    if (worker->before != NULL) {
        worker->before->after = worker->after;
    } else {
        instance->first = worker->after;
    }
    if (worker->after != NULL) {
        worker->after->before = worker->before;
    } else {
        instance->last = worker->before;
    }
    if (instance->first == NULL) {
        free_instance(registry, instance);
    }
    worker->instance = NULL;
    kvl_pool_give(&registry->worker_pool, worker->index);
    atomic_fetch_sub(&registry->worker_count, 1);
    pthread_rwlock_unlock(&registry->members);
    free_texts(&texts);
}
