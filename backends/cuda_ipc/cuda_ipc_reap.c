/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda_ipc_reap.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "cuda_ipc_vigil.h"

/** A process that caches came from. */
struct reap_producer {
    struct reap_producer *next;
    struct cuda_ipc_life life;
    uint32_t caches;
    bool is_dead;
};

struct reap_cache {
    struct reap_cache *next;
    uint64_t kv;
    struct cuda_ipc_torch *torch; /* owned; NULL = closed, as it was lost */
    struct reap_producer *producer;
};

/** What is said of a producer that has ended. */
struct reap_loss {
    struct cuda_ipc_who who;
    uint32_t caches;
    uint32_t layers; /* of one of them */
    int32_t device;
};

struct cuda_ipc_reap {
    const struct kvl_host *host;
    struct cuda_ipc_kvs *kvs;
    _Atomic uint64_t *producers_lost;
    _Atomic uint32_t lost; /* caches */
    pthread_mutex_t lock; /* guards what is below; the lock of kvs comes behind it */
    struct cuda_ipc_vigil vigil;
    struct reap_producer *producers;
    struct reap_cache *caches;
    bool has_told; /* that one cannot be watched */
};

int cuda_ipc_reap_create(const struct kvl_host *host, struct cuda_ipc_kvs *kvs,
                         _Atomic uint64_t *producers_lost, struct cuda_ipc_reap **reap_out)
{
    struct cuda_ipc_reap *reap = calloc(1, sizeof(*reap));
    int r;

    if (reap == NULL) {
        return -ENOMEM;
    }
    reap->host = host;
    reap->kvs = kvs;
    reap->producers_lost = producers_lost;
    r = cuda_ipc_vigil_init(&reap->vigil);
    if (r < 0) {
        free(reap);
        return r;
    }
    (void)pthread_mutex_init(&reap->lock, NULL);
    *reap_out = reap;
    return 0;
}

int cuda_ipc_reap_fd(const struct cuda_ipc_reap *reap)
{
    return reap->vigil.epoll_fd;
}

void cuda_ipc_reap_wake(const struct cuda_ipc_reap *reap)
{
    cuda_ipc_vigil_wake(&reap->vigil);
}

uint32_t cuda_ipc_reap_lost(const struct cuda_ipc_reap *reap)
{
    return atomic_load_explicit(&reap->lost, memory_order_relaxed);
}

/* ---- producers; with the lock held ---- */

static struct reap_producer *producer_find(const struct cuda_ipc_reap *reap,
                                           const struct cuda_ipc_who *who)
{
    struct reap_producer *producer = reap->producers;

    while (producer != NULL && !cuda_ipc_who_equal(&producer->life.who, who)) {
        producer = producer->next;
    }
    return producer;
}

static void producer_watch(struct cuda_ipc_reap *reap, struct reap_producer *producer,
                           const struct cuda_ipc_who *who)
{
    const int r = cuda_ipc_vigil_begin(&reap->vigil, who, &producer->life);

    if (r == -ESRCH) {
        cuda_ipc_vigil_wake(&reap->vigil);
    } else if (r < 0 && !reap->has_told) {
        reap->has_told = true;
        kvl_debug(reap->host->log,
                  "cuda_ipc: the end of process %" PRIu64 " will not be noticed, its start time "
                  "or its PID namespace is not known here: its KV caches stay mapped until they "
                  "are unregistered",
                  who->pid);
    }
}

static struct reap_producer *producer_get(struct cuda_ipc_reap *reap,
                                          const struct cuda_ipc_who *who)
{
    struct reap_producer *producer = producer_find(reap, who);

    if (producer == NULL) {
        producer = calloc(1, sizeof(*producer));
        if (producer == NULL) {
            return NULL;
        }
        producer_watch(reap, producer, who);
        producer->next = reap->producers;
        reap->producers = producer;
    }
    producer->caches++;
    return producer;
}

static void producer_put(struct cuda_ipc_reap *reap, struct reap_producer *producer)
{
    struct reap_producer **at = &reap->producers;

    if (--producer->caches > 0) {
        return;
    }
    while (*at != producer) {
        at = &(*at)->next;
    }
    *at = producer->next;
    cuda_ipc_vigil_end(&reap->vigil, &producer->life);
    free(producer);
}

/* All its caches are lost from now on. */
static void producer_die(struct cuda_ipc_reap *reap, struct reap_producer *producer,
                         struct reap_loss *loss_out)
{
    *loss_out = (struct reap_loss){.who = producer->life.who, .caches = producer->caches};
    producer->is_dead = true;
    cuda_ipc_vigil_end(&reap->vigil, &producer->life);
    for (const struct reap_cache *cache = reap->caches; cache != NULL; cache = cache->next) {
        if (cache->producer == producer) {
            const struct kvl_kv *kv = cuda_ipc_torch_kv(cache->torch);

            loss_out->layers = kv->layers;
            loss_out->device = kv->device;
            (void)cuda_ipc_kvs_lose(reap->kvs, cache->kv);
        }
    }
    atomic_fetch_add(&reap->lost, producer->caches);
    atomic_fetch_add_explicit(reap->producers_lost, 1, memory_order_relaxed);
}

/* ---- caches ---- */

int cuda_ipc_reap_add(struct cuda_ipc_reap *reap, uint64_t kv, struct cuda_ipc_torch *take_torch)
{
    struct reap_cache *cache = calloc(1, sizeof(*cache));
    struct reap_producer *producer = NULL;

    if (cache == NULL) {
        return -ENOMEM;
    }
    pthread_mutex_lock(&reap->lock);
    producer = producer_get(reap, cuda_ipc_torch_who(take_torch));
    if (producer != NULL) {
        *cache = (struct reap_cache){
            .next = reap->caches, .kv = kv, .torch = take_torch, .producer = producer};
        reap->caches = cache;
        if (producer->is_dead) { /* after the others of the same producer were lost */
            (void)cuda_ipc_kvs_lose(reap->kvs, kv);
            atomic_fetch_add(&reap->lost, 1);
            cuda_ipc_vigil_wake(&reap->vigil);
        }
    }
    pthread_mutex_unlock(&reap->lock);
    if (producer == NULL) {
        free(cache);
        return -ENOMEM;
    }
    return 0;
}

/* Takes a cache out. @return what is still mapped of it. */
static struct cuda_ipc_torch *cache_take(struct cuda_ipc_reap *reap, struct reap_cache **at)
{
    struct reap_cache *cache = *at;
    struct cuda_ipc_torch *torch = cache->torch;

    *at = cache->next;
    if (cache->producer->is_dead) {
        atomic_fetch_sub(&reap->lost, 1);
    }
    producer_put(reap, cache->producer);
    free(cache);
    return torch;
}

void cuda_ipc_reap_remove(struct cuda_ipc_reap *reap, uint64_t kv)
{
    struct cuda_ipc_torch *torch = NULL;
    struct reap_cache **at;

    pthread_mutex_lock(&reap->lock);
    at = &reap->caches;
    while (*at != NULL && (*at)->kv != kv) {
        at = &(*at)->next;
    }
    if (*at != NULL) {
        torch = cache_take(reap, at);
    }
    pthread_mutex_unlock(&reap->lock);
    cuda_ipc_torch_close(torch);
}

/* ---- a turn ---- */

/* The next producer that has ended unnoticed. @return false: there is none. */
static bool reap_next_dead(struct cuda_ipc_reap *reap, struct reap_loss *loss_out)
{
    struct reap_producer *producer;

    pthread_mutex_lock(&reap->lock);
    producer = reap->producers;
    while (producer != NULL && (producer->is_dead || !cuda_ipc_vigil_is_over(&producer->life))) {
        producer = producer->next;
    }
    if (producer != NULL) {
        producer_die(reap, producer, loss_out);
    }
    pthread_mutex_unlock(&reap->lock);
    return producer != NULL;
}

/* The mappings of a lost cache that nobody uses; those of one that is being removed are left to who
 * does that. */
static struct cuda_ipc_torch *reap_next_unused(struct cuda_ipc_reap *reap)
{
    struct cuda_ipc_torch *torch = NULL;

    pthread_mutex_lock(&reap->lock);
    for (struct reap_cache *cache = reap->caches; cache != NULL; cache = cache->next) {
        if (cache->producer->is_dead && cache->torch != NULL &&
            cuda_ipc_kvs_lose(reap->kvs, cache->kv) == 0) {
            torch = cache->torch;
            cache->torch = NULL;
            break;
        }
    }
    pthread_mutex_unlock(&reap->lock);
    return torch;
}

void cuda_ipc_reap_turn(struct cuda_ipc_reap *reap)
{
    struct cuda_ipc_torch *torch;
    struct reap_loss loss;

    cuda_ipc_vigil_clear(&reap->vigil);
    while (reap_next_dead(reap, &loss)) {
        kvl_warn(reap->host->log,
                 "cuda_ipc: process %" PRIu64 " has ended without unregistering its KV cache of %u "
                 "layers on device %d (%u caches of it in all): no batches are taken for it any "
                 "more, and it is unmapped",
                 loss.who.pid, loss.layers, loss.device, loss.caches);
        cuda_ipc_map_drop(&loss.who);
    }
    while ((torch = reap_next_unused(reap)) != NULL) {
        cuda_ipc_torch_close(torch);
    }
}

/* ---- the end ---- */

void cuda_ipc_reap_close(struct cuda_ipc_reap *reap)
{
    while (reap != NULL && reap->caches != NULL) {
        cuda_ipc_torch_close(cache_take(reap, &reap->caches));
    }
}

void cuda_ipc_reap_destroy(struct cuda_ipc_reap *reap)
{
    if (reap == NULL) {
        return;
    }
    cuda_ipc_vigil_fini(&reap->vigil);
    pthread_mutex_destroy(&reap->lock);
    free(reap);
}
