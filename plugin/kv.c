/* SPDX-License-Identifier: Apache-2.0 */
#include "kv.h"

#include <errno.h>
#include <stdlib.h>

#include "config.h"
#include "route.h"

/* Bounds what is copied of a record; no model comes near. */
#define MAX_LAYERS 65536u
#define MEM_KINDS 64u

/* ---- is the record sound? ---- */

static int bad_field(struct kvl_err *err, const char *field, uint64_t value, const char *expected)
{
    return kvl_err_set(err, -EINVAL, 0, "register_kv: %s is %llu, expected %s", field,
                       (unsigned long long)value, expected);
}

/* A record of LMCache's workers says all of this itself. */
static int check_kvcache(const struct kvl_kv *kv, struct kvl_err *err)
{
    const struct {
        const char *name;
        uint64_t value;
    } fields[] = {
        {"device", (uint64_t)(int64_t)kv->device},
        {"layers", kv->layers},
        {"planes", kv->planes},
        {"block_tokens", kv->block_tokens},
        {"block_count", kv->block_count},
        {"token_bytes", kv->token_bytes},
        {"token_stride", kv->token_stride},
        {"block_stride", kv->block_stride},
    };

    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        if (fields[i].value != 0) {
            return bad_field(err, fields[i].name, fields[i].value, "0 beside a kvcache");
        }
    }
    if (kv->kvcache_bytes == 0) {
        return bad_field(err, "kvcache_bytes", 0, "the size of the kvcache");
    }
    if (kv->mem == KVL_MEM_HOST) {
        return bad_field(err, "mem", kv->mem, "memory of a device beside a kvcache");
    }
    return 0;
}

static int check_counts(const struct kvl_kv *kv, struct kvl_err *err)
{
    if (kv->mem == KVL_MEM_HOST ? kv->device != KVL_DEVICE_HOST : kv->device < 0) {
        return kvl_err_set(err, -EINVAL, 0, "register_kv: device is %d, expected %s", kv->device,
                           kv->mem == KVL_MEM_HOST ? "-1 for host memory"
                                                   : "the ordinal of a device");
    }
    if (kv->layers == 0 || kv->layers > MAX_LAYERS) {
        return bad_field(err, "layers", kv->layers, "1 to 65536");
    }
    if (kv->planes != 1 && kv->planes != 2) {
        return bad_field(err, "planes", kv->planes, "2 (keys and values) or 1 (both in one)");
    }
    if (kv->block_tokens == 0) {
        return bad_field(err, "block_tokens", 0, "at least 1");
    }
    if (kv->block_count == 0) {
        return bad_field(err, "block_count", 0, "at least 1");
    }
    if (kv->token_bytes == 0) {
        return bad_field(err, "token_bytes", 0, "at least 1");
    }
    return 0;
}

/* From the first byte of `count` places to behind the last. @return 0 when that is no number. */
static uint64_t span_of(uint64_t count, uint64_t stride, uint64_t length)
{
    uint64_t span;

    if (__builtin_mul_overflow(count - 1, stride, &span) ||
        __builtin_add_overflow(span, length, &span)) {
        return 0;
    }
    return span;
}

static int bad_stride(const struct kvl_kv *kv, const char *field, uint64_t value,
                      struct kvl_err *err)
{
    return kvl_err_set(err, -EINVAL, 0,
                       "register_kv: %s is %llu, expected one that keeps %u blocks of %u tokens of "
                       "%llu bytes apart and inside the address space",
                       field, (unsigned long long)value, kv->block_count, kv->block_tokens,
                       (unsigned long long)kv->token_bytes);
}

/* Blocks lie one behind the other, or their tokens are interleaved; they never overlap. */
static int check_strides(const struct kvl_kv *kv, uint64_t *reach_out, struct kvl_err *err)
{
    const uint64_t block = span_of(kv->block_tokens, kv->token_stride, kv->token_bytes);
    const uint64_t token = span_of(kv->block_count, kv->block_stride, kv->token_bytes);
    uint64_t all;

    if (kv->token_stride < kv->token_bytes || block == 0) {
        return bad_stride(kv, "token_stride", kv->token_stride, err);
    }
    if (token == 0 || (kv->block_count > 1 && kv->block_stride < block &&
                       (kv->block_stride < kv->token_bytes || kv->token_stride < token))) {
        return bad_stride(kv, "block_stride", kv->block_stride, err);
    }
    if (__builtin_add_overflow(block, token, reach_out)) {
        return bad_stride(kv, "block_stride", kv->block_stride, err);
    }
    *reach_out -= kv->token_bytes;
    /* A chunk of all blocks is the largest there is: its size must be a number as well. */
    if (__builtin_mul_overflow(kv->token_bytes, (uint64_t)kv->layers * kv->planes, &all) ||
        __builtin_mul_overflow(all, (uint64_t)kv->block_tokens * kv->block_count, &all)) {
        return bad_field(err, "token_bytes", kv->token_bytes,
                         "so many that the whole cache has fewer than 2^64 bytes");
    }
    return 0;
}

static int check_bases(const struct kvl_kv *kv, struct kvl_err *err)
{
    uint64_t reach = 0;
    int r = check_counts(kv, err);

    if (r == 0) {
        r = check_strides(kv, &reach, err);
    }
    for (uint64_t i = 0; r == 0 && i < (uint64_t)kv->planes * kv->layers; i++) {
        uint64_t end;

        if (kv->bases[i] == 0 || __builtin_add_overflow(kv->bases[i], reach, &end)) {
            r = kvl_err_set(err, -EINVAL, 0,
                            "register_kv: bases[%llu] is 0x%llx, expected an address with %llu "
                            "bytes behind it",
                            (unsigned long long)i, (unsigned long long)kv->bases[i],
                            (unsigned long long)reach);
        }
    }
    return r;
}

static int check_record(const struct kvl_kv *kv, struct kvl_err *err)
{
    if (kv->size < sizeof(*kv)) {
        return bad_field(err, "size", kv->size, "sizeof(struct kvl_kv)");
    }
    if (kv->reserved != 0) {
        return bad_field(err, "reserved", kv->reserved, "0");
    }
    if ((kv->bases == NULL) == (kv->kvcache == NULL)) {
        return kvl_err_set(err, -EINVAL, 0,
                           "register_kv: bases and kvcache are both %s, expected one of them",
                           kv->bases == NULL ? "NULL" : "set");
    }
    return kv->kvcache != NULL ? check_kvcache(kv, err) : check_bases(kv, err);
}

/* ---- the table ---- */

void kvl_kv_init(struct kvl_kv_table *table)
{
    pthread_mutex_init(&table->lock, NULL);
    kvl_table_init(&table->caches);
}

static void free_cache(struct kvl_kv_cache *cache)
{
    free(cache->bases);
    free(cache);
}

void kvl_kv_fini(struct kvl_kv_table *table)
{
    struct kvl_kv_cache *cache;

    while ((cache = kvl_table_any(&table->caches)) != NULL) {
        kvl_table_drop(&table->caches, cache->handle);
        free_cache(cache);
    }
    kvl_table_fini(&table->caches);
    pthread_mutex_destroy(&table->lock);
}

struct kvl_backend *kvl_kv_mover(const struct kvl_route *route, uint64_t mem)
{
    for (uint32_t i = 0; mem < MEM_KINDS && i < route->count; i++) {
        struct kvl_backend *backend = route->backends[i];

        if ((backend->caps & KVL_CAP_MEMORY) != 0 && (backend->limits.memory >> mem & 1) != 0 &&
            kvl_backend_is_running(backend)) {
            return backend;
        }
    }
    return NULL;
}

static int nobody_serves(const struct kvl_kv *kv, struct kvl_err *err)
{
    if (kv->mem == KVL_MEM_CUDA) {
        return kvl_err_set(err, -ENOTSUP, 0,
                           "register_kv: no running backend serves memory of CUDA devices: the "
                           "INI file names none, or it was left out for want of a driver");
    }
    return kvl_err_set(err, -ENOTSUP, 0,
                       "register_kv: no running backend serves memory of kind %u; 0 is host "
                       "memory, %u that of CUDA devices",
                       kv->mem, KVL_MEM_CUDA);
}

static int new_cache(const struct kvl_kv *kv, struct kvl_kv_cache **cache_out)
{
    const size_t bytes = (size_t)kv->planes * kv->layers * sizeof(*kv->bases);
    struct kvl_kv_cache *cache = calloc(1, sizeof(*cache));

    if (cache == NULL) {
        return -ENOMEM;
    }
    cache->layout = *kv;
    cache->layout.kvcache = NULL;
    if (kv->bases != NULL) {
        cache->bases = malloc(bytes);
        if (cache->bases == NULL) {
            free(cache);
            return -ENOMEM;
        }
        memcpy(cache->bases, kv->bases, bytes);
        cache->layout.bases = cache->bases;
    }
    *cache_out = cache;
    return 0;
}

/* Makes it known to its backend, which says itself what is wrong. */
static int tell_backend(struct kvl_kv_cache *cache, struct kvl_backend *backend,
                        const struct kvl_kv *kv, struct kvl_err *err)
{
    struct kvl_err why = {.size = sizeof(why)};
    int r = backend->module.ops.kv_register(backend->self, kv, &cache->number, &why);

    if (r < 0) {
        return kvl_err_set(err, r, why.os_errno, "%s%s",
                           why.text[0] != '\0' ? why.text : "register_kv: refused by backend ",
                           why.text[0] != '\0' ? "" : backend->name);
    }
    cache->backend = backend;
    return 0;
}

int kvl_kv_register(struct kvl_kv_table *table, const struct kvl_route *route,
                    const struct kvl_kv *kv, uint64_t *kv_out, struct kvl_err *err)
{
    struct kvl_backend *backend;
    struct kvl_kv_cache *cache;
    int r = check_record(kv, err);

    if (r < 0) {
        return r;
    }
    backend = kv->mem != KVL_MEM_HOST ? kvl_kv_mover(route, kv->mem) : NULL;
    if (kv->mem != KVL_MEM_HOST && backend == NULL) {
        return nobody_serves(kv, err);
    }
    if (new_cache(kv, &cache) < 0) {
        return kvl_err_set(err, -ENOMEM, 0, "register_kv: no memory");
    }
    r = backend != NULL ? tell_backend(cache, backend, kv, err) : 0;
    if (r < 0) {
        free_cache(cache);
        return r;
    }
    pthread_mutex_lock(&table->lock);
    r = kvl_table_add(&table->caches, cache, &cache->handle);
    pthread_mutex_unlock(&table->lock);
    if (r < 0) {
        if (backend != NULL) {
            (void)backend->module.ops.kv_unregister(backend->self, cache->number);
        }
        free_cache(cache);
        return kvl_err_set(err, r, 0, "register_kv: no memory");
    }
    *kv_out = cache->handle;
    return 0;
}

/* No new user comes once it leaves. @return 0; -EINVAL; -EBUSY. */
static int begin_leaving(struct kvl_kv_table *table, uint64_t handle,
                         struct kvl_kv_cache **cache_out)
{
    struct kvl_kv_cache *cache;
    int r = 0;

    pthread_mutex_lock(&table->lock);
    cache = kvl_table_get(&table->caches, handle);
    if (cache == NULL || cache->is_leaving) {
        r = -EINVAL;
    } else if (cache->users > 0) {
        r = -EBUSY;
    } else {
        cache->is_leaving = 1;
        *cache_out = cache;
    }
    pthread_mutex_unlock(&table->lock);
    return r;
}

int kvl_kv_unregister(struct kvl_kv_table *table, uint64_t handle)
{
    struct kvl_kv_cache *cache;
    int r = begin_leaving(table, handle, &cache);

    if (r < 0) {
        return r;
    }
    if (cache->backend != NULL) {
        r = cache->backend->module.ops.kv_unregister(cache->backend->self, cache->number);
    }
    pthread_mutex_lock(&table->lock);
    if (r == 0) {
        kvl_table_drop(&table->caches, handle);
    } else {
        cache->is_leaving = 0; /* a copy that was cut off still runs: ask again later */
    }
    pthread_mutex_unlock(&table->lock);
    if (r == 0) {
        free_cache(cache);
    }
    return r;
}

struct kvl_kv_cache *kvl_kv_get(struct kvl_kv_table *table, uint64_t handle)
{
    struct kvl_kv_cache *cache;

    pthread_mutex_lock(&table->lock);
    cache = kvl_table_get(&table->caches, handle);
    if (cache != NULL && cache->is_leaving) {
        cache = NULL;
    }
    if (cache != NULL) {
        cache->users++;
    }
    pthread_mutex_unlock(&table->lock);
    return cache;
}

struct kvl_kv_cache *kvl_kv_use(struct kvl_kv_table *table, struct kvl_kv_cache *cache)
{
    pthread_mutex_lock(&table->lock);
    cache->users++;
    pthread_mutex_unlock(&table->lock);
    return cache;
}

void kvl_kv_put(struct kvl_kv_table *table, struct kvl_kv_cache *cache)
{
    if (cache != NULL) {
        pthread_mutex_lock(&table->lock);
        cache->users--;
        pthread_mutex_unlock(&table->lock);
    }
}
