/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cond.h"
#include "cuda_ipc_export.h"
#include "cuda_ipc_map_core.h"
#include "cuda_ipc_table.h"
#include "setting.h"

#define MAP_ENTRIES_MAX (64u * CUDA_IPC_MAP_ENTRIES)
/* For another thread's open or close; the driver needs milliseconds. */
#define MAP_PATIENCE_S 30

/** The cache of the process. Counts include mappings that are being opened or closed. */
static struct {
    struct cuda_ipc_map *maps;
    struct cuda_ipc_table table;
    uint32_t closing;
    struct cuda_ipc_map_stats stats;
} map_all;
static pthread_mutex_t map_lock = PTHREAD_MUTEX_INITIALIZER; /* guards map_all */
static pthread_cond_t map_changed; /* a mapping was opened, or is gone */
static pthread_once_t map_once = PTHREAD_ONCE_INIT;
/* 1 + generation of the process that has maps; 0 = none. Read without the lock, which a fork may
 * have left taken. */
static _Atomic uint64_t map_owner;

static void map_prepare(void)
{
    (void)kvl_monotonic_cond_init(&map_changed);
}

/* ---- closing: taken out under the lock, closed without it ---- */

static void map_take_unused(struct cuda_ipc_mapping *mapping, struct cuda_ipc_mapping **list)
{
    cuda_ipc_table_wake(&map_all.table, mapping);
    cuda_ipc_table_unlink(&map_all.table, mapping);
    map_all.closing++;
    mapping->next = *list;
    *list = mapping;
}

/* Not found again; closed now when unused, else by its last user. */
static void map_retire(struct cuda_ipc_mapping *mapping, struct cuda_ipc_mapping **list)
{
    if (mapping->refs == 0) {
        map_take_unused(mapping, list);
    } else {
        cuda_ipc_table_unlink(&map_all.table, mapping);
    }
}

static void map_unref_locked(struct cuda_ipc_map *map)
{
    if (--map->refs == 0) {
        free(map);
    }
}

static void map_forget_locked(struct cuda_ipc_mapping *mapping)
{
    map_all.stats.entries--;
    map_all.stats.bytes -= mapping->charged;
    map_unref_locked(mapping->map);
    cuda_ipc_mapping_destroy(mapping);
    pthread_cond_broadcast(&map_changed);
}

/* Called without the lock. */
static void map_close_list(struct cuda_ipc_mapping *list)
{
    while (list != NULL) {
        struct cuda_ipc_mapping *mapping = list;

        list = mapping->next;
        cuda_ipc_mapping_close(mapping);
        pthread_mutex_lock(&map_lock);
        map_all.closing--;
        map_forget_locked(mapping);
        pthread_mutex_unlock(&map_lock);
    }
}

/* ---- taking part ---- */

static int map_fail_child(struct kvl_err *err)
{
    return kvl_fail(err, -ECHILD, "cuda_ipc: this is a fork of a process that uses the GPU");
}

int cuda_ipc_map_check_process(const struct cuda_ipc_map *map, struct kvl_err *err)
{
    return map->generation == cuda_ipc_who_generation() ? 0 : map_fail_child(err);
}

/* 1 in the process that has maps, 0 in its children too. */
static int map_is_ours(void)
{
    return atomic_load(&map_owner) == 1u + (uint64_t)cuda_ipc_who_generation();
}

int cuda_ipc_map_open(const struct cuda_ipc_api *api, uint32_t entries, uint64_t bytes,
                      struct cuda_ipc_map **map_out, struct kvl_err *err)
{
    uint32_t generation = cuda_ipc_who_generation();
    uint64_t owner = atomic_load(&map_owner);
    struct cuda_ipc_map *map;

    if (entries > MAP_ENTRIES_MAX) {
        return kvl_fail(err, -EINVAL, "cuda_ipc: at most %u mappings can be kept", MAP_ENTRIES_MAX);
    }
    pthread_once(&map_once, map_prepare);
    if (owner != 0 && owner != 1u + (uint64_t)generation) {
        return map_fail_child(err);
    }
    map = calloc(1, sizeof(*map));
    if (map == NULL) {
        return kvl_fail(err, -ENOMEM, "cuda_ipc: out of memory");
    }
    map->entries = entries == 0 ? CUDA_IPC_MAP_ENTRIES : entries;
    map->bytes = bytes;
    map->refs = 1;
    map->generation = generation;
    map->api = *api;
    cuda_ipc_who_self(&map->self);
    pthread_mutex_lock(&map_lock);
    map->next = map_all.maps;
    map_all.maps = map;
    atomic_store(&map_owner, 1u + (uint64_t)generation);
    pthread_mutex_unlock(&map_lock);
    *map_out = map;
    return 0;
}

void cuda_ipc_map_close(struct cuda_ipc_map *map)
{
    struct cuda_ipc_mapping *list = NULL;
    struct cuda_ipc_map **at = &map_all.maps;

    if (map == NULL || map->generation != cuda_ipc_who_generation()) {
        return;
    }
    pthread_mutex_lock(&map_lock);
    while (*at != map) {
        at = &(*at)->next;
    }
    *at = map->next;
    while (map_all.maps == NULL && map_all.table.oldest != NULL) {
        map_take_unused(map_all.table.oldest, &list);
    }
    if (map_all.maps == NULL) {
        atomic_store(&map_owner, 0);
    }
    pthread_mutex_unlock(&map_lock);
    map_close_list(list);
    pthread_mutex_lock(&map_lock);
    map_unref_locked(map);
    pthread_mutex_unlock(&map_lock);
}

/* ---- room ---- */

static int map_fits(uint32_t entries, uint64_t bytes)
{
    uint32_t entries_max = 0;
    uint64_t bytes_max = 0;

    for (const struct cuda_ipc_map *map = map_all.maps; map != NULL; map = map->next) {
        uint64_t wanted = map->bytes == 0 ? UINT64_MAX : map->bytes;

        entries_max = map->entries > entries_max ? map->entries : entries_max;
        bytes_max = wanted > bytes_max ? wanted : bytes_max;
    }
    return map_all.stats.entries + entries <= entries_max && bytes <= bytes_max &&
           map_all.stats.bytes <= bytes_max - bytes;
}

/* With the lock, which it may give up meanwhile. @return 0; -EAGAIN done that, look again. */
static int map_wait(const struct timespec *until, struct kvl_err *err)
{
    if (pthread_cond_timedwait(&map_changed, &map_lock, until) == ETIMEDOUT) {
        return kvl_fail(err, -ETIMEDOUT, "cuda_ipc: the driver has not come back for %d s",
                        MAP_PATIENCE_S);
    }
    return -EAGAIN;
}

/* Closes unused mappings until there is room. As map_wait. */
static int map_make_room(uint32_t entries, uint64_t bytes, const struct timespec *until,
                         struct kvl_err *err)
{
    struct cuda_ipc_mapping *list = NULL;

    if (map_fits(entries, bytes)) {
        return 0;
    }
    if (map_all.table.oldest != NULL) {
        map_all.stats.evicted++;
        map_take_unused(map_all.table.oldest, &list);
        pthread_mutex_unlock(&map_lock);
        map_close_list(list);
        pthread_mutex_lock(&map_lock);
        return -EAGAIN;
    }
    if (map_all.closing > 0) {
        return map_wait(until, err);
    }
    map_all.stats.refused++;
    return kvl_fail(err, -ENOMEM,
                    "cuda_ipc: %llu mappings with %llu bytes of other processes' memory are all in "
                    "use, and no more are allowed",
                    (unsigned long long)map_all.stats.entries,
                    (unsigned long long)map_all.stats.bytes);
}

/* ---- acquire ---- */

static void map_use(struct cuda_ipc_mapping *mapping, struct cuda_ipc_ref *ref_out)
{
    if (mapping->refs++ == 0) {
        cuda_ipc_table_wake(&map_all.table, mapping);
        map_all.stats.in_use++;
    }
    *ref_out =
        (struct cuda_ipc_ref){.base = mapping->base, .bytes = mapping->bytes, .mapping = mapping};
}

/*
 * Looks for an open mapping that fits, with the lock. @return 0 and a use of it; -ENOENT; -EAGAIN
 * look again; -ETIMEDOUT. Stale ones are put into `list`.
 */
static int map_look(const struct cuda_ipc_wish *wish, const struct timespec *until,
                    struct cuda_ipc_ref *ref_out, struct cuda_ipc_mapping **list,
                    struct kvl_err *err)
{
    struct cuda_ipc_mapping *mapping = cuda_ipc_table_find(&map_all.table, wish);

    if (mapping == NULL) {
        return -ENOENT;
    }
    if (mapping->state == CUDA_IPC_MAPPING_OPENING) {
        return map_wait(until, err);
    }
    if (!cuda_ipc_mapping_fits(mapping, wish)) {
        map_all.stats.stale++;
        map_retire(mapping, list);
        return -ENOENT;
    }
    map_all.stats.hits++;
    map_use(mapping, ref_out);
    return 0;
}

/* With the lock: enters the mapping as one that is being opened. As map_look. */
static int map_enter(struct cuda_ipc_map *map, struct cuda_ipc_mapping *mapping,
                     const struct timespec *until, struct kvl_err *err)
{
    int r = map_make_room(1, mapping->charged, until, err);

    if (r < 0) {
        return r;
    }
    mapping->map = map;
    map->refs++;
    mapping->refs = 1;
    cuda_ipc_table_link(&map_all.table, mapping);
    map_all.stats.entries++;
    map_all.stats.in_use++;
    map_all.stats.bytes += mapping->charged;
    map_all.stats.misses++;
    return 0;
}

/* Unused mappings of what may be the same memory. The driver maps no address twice. */
static void map_drop_overlaps(const struct cuda_ipc_mapping *mapping)
{
    struct cuda_ipc_mapping *list = NULL;
    struct cuda_ipc_mapping *at;
    struct cuda_ipc_mapping *newer;

    pthread_mutex_lock(&map_lock);
    for (at = map_all.table.oldest; at != NULL; at = newer) {
        newer = at->newer;
        if (cuda_ipc_mapping_overlaps(at, mapping)) {
            map_all.stats.stale++;
            map_take_unused(at, &list);
        }
    }
    pthread_mutex_unlock(&map_lock);
    map_close_list(list);
}

/* A bare handle's length is known only now. With the lock. */
static int map_charge(struct cuda_ipc_mapping *mapping, const struct timespec *until,
                      struct kvl_err *err)
{
    uint64_t more = mapping->bytes - mapping->charged;
    int r;

    if (mapping->bytes <= mapping->charged) {
        return 0;
    }
    do {
        r = map_make_room(0, more, until, err);
    } while (r == -EAGAIN);
    if (r == 0) {
        mapping->charged += more;
        map_all.stats.bytes += more;
    }
    return r;
}

static int map_open_entered(struct cuda_ipc_mapping *mapping, const struct cuda_ipc_wish *wish,
                            const struct timespec *until, struct cuda_ipc_ref *ref_out,
                            struct kvl_err *err)
{
    int r = cuda_ipc_mapping_open(mapping, wish, err);
    int is_open;

    if (r == -EBUSY) {
        map_drop_overlaps(mapping);
        r = cuda_ipc_mapping_open(mapping, wish, err);
    }
    is_open = r == 0;
    pthread_mutex_lock(&map_lock);
    if (is_open) {
        r = map_charge(mapping, until, err);
    } else {
        map_all.stats.failures++;
    }
    if (r == 0) {
        mapping->state = CUDA_IPC_MAPPING_OPEN;
        *ref_out = (struct cuda_ipc_ref){
            .base = mapping->base, .bytes = mapping->bytes, .mapping = mapping};
        pthread_cond_broadcast(&map_changed);
        pthread_mutex_unlock(&map_lock);
        return 0;
    }
    if (!mapping->is_dead) {
        cuda_ipc_table_unlink(&map_all.table, mapping);
    }
    map_all.stats.in_use--;
    pthread_mutex_unlock(&map_lock);
    if (is_open) {
        cuda_ipc_mapping_close(mapping);
    }
    pthread_mutex_lock(&map_lock);
    map_forget_locked(mapping);
    pthread_mutex_unlock(&map_lock);
    return r;
}

static struct timespec map_patience(void)
{
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += MAP_PATIENCE_S;
    return until;
}

/*
 * With the lock, which is given up now and then. @return 0 and a use, or *entered = 1 when the
 * caller must open.
 */
static int map_settle(struct cuda_ipc_map *map, const struct cuda_ipc_wish *wish,
                      struct cuda_ipc_mapping *mapping, const struct timespec *until,
                      struct cuda_ipc_ref *ref_out, int *entered, struct kvl_err *err)
{
    int r;

    do {
        struct cuda_ipc_mapping *list = NULL;

        r = map_look(wish, until, ref_out, &list, err);
        if (list != NULL) {
            pthread_mutex_unlock(&map_lock);
            map_close_list(list);
            pthread_mutex_lock(&map_lock);
            r = -EAGAIN;
        } else if (r == -ENOENT) {
            r = map_enter(map, mapping, until, err);
            *entered = r == 0;
        }
    } while (r == -EAGAIN);
    return r;
}

static int map_miss(struct cuda_ipc_map *map, const struct cuda_ipc_wish *wish,
                    struct cuda_ipc_ref *ref_out, struct kvl_err *err)
{
    struct timespec until = map_patience();
    struct cuda_ipc_mapping *mapping;
    int entered = 0;
    int r;

    if (wish->share != NULL && wish->share->type == CUDA_IPC_SHARE_FD && wish->fd < 0) {
        return kvl_fail(err, -EBADF, "cuda_ipc: the descriptor of the memory did not come along");
    }
    mapping = cuda_ipc_mapping_create(&map->api, wish);
    if (mapping == NULL) {
        return kvl_fail(err, -ENOMEM, "cuda_ipc: out of memory");
    }
    pthread_mutex_lock(&map_lock);
    r = map_settle(map, wish, mapping, &until, ref_out, &entered, err);
    pthread_mutex_unlock(&map_lock);
    if (entered) {
        return map_open_entered(mapping, wish, &until, ref_out, err);
    }
    cuda_ipc_mapping_destroy(mapping);
    return r;
}

int cuda_ipc_map_take(struct cuda_ipc_map *map, const struct cuda_ipc_wish *wish,
                      struct cuda_ipc_ref *ref_out, struct kvl_err *err)
{
    struct cuda_ipc_mapping *mapping;
    int found = 0;
    int r = cuda_ipc_map_check_process(map, err);

    if (r < 0) {
        return r;
    }
    pthread_mutex_lock(&map_lock);
    mapping = cuda_ipc_table_find(&map_all.table, wish);
    if (mapping != NULL && mapping->state == CUDA_IPC_MAPPING_OPEN &&
        cuda_ipc_mapping_fits(mapping, wish)) {
        map_all.stats.hits++;
        map_use(mapping, ref_out);
        found = 1;
    }
    pthread_mutex_unlock(&map_lock);
    return found ? 0 : map_miss(map, wish, ref_out, err);
}

void cuda_ipc_map_count_own(void)
{
    pthread_mutex_lock(&map_lock);
    map_all.stats.own++;
    pthread_mutex_unlock(&map_lock);
}

/* ---- giving back ---- */

/* What came from torch is not kept: its exporter waits, and its names are not unique for ever. */
static int map_is_kept(const struct cuda_ipc_mapping *mapping)
{
    return !mapping->is_dead && mapping->name.kind == CUDA_IPC_MAPPING_SHARE &&
           map_all.maps != NULL;
}

void cuda_ipc_map_release(struct cuda_ipc_ref *ref)
{
    struct cuda_ipc_mapping *mapping = ref->mapping;
    struct cuda_ipc_mapping *list = NULL;

    cuda_ipc_export_return(ref->own);
    *ref = (struct cuda_ipc_ref){.base = 0};
    if (mapping == NULL || mapping->map->generation != cuda_ipc_who_generation()) {
        return;
    }
    pthread_mutex_lock(&map_lock);
    if (--mapping->refs == 0) {
        map_all.stats.in_use--;
        if (map_is_kept(mapping)) {
            cuda_ipc_table_rest(&map_all.table, mapping);
        } else {
            if (!mapping->is_dead) {
                cuda_ipc_table_unlink(&map_all.table, mapping);
            }
            map_all.closing++;
            list = mapping;
        }
    }
    pthread_mutex_unlock(&map_lock);
    map_close_list(list);
}

void cuda_ipc_map_drop(const struct cuda_ipc_who *who)
{
    struct cuda_ipc_mapping *list = NULL;

    if (!map_is_ours()) {
        return;
    }
    pthread_mutex_lock(&map_lock);
    for (uint32_t i = 0; i < CUDA_IPC_TABLE_BUCKETS; i++) {
        struct cuda_ipc_mapping *next;

        for (struct cuda_ipc_mapping *at = map_all.table.buckets[i]; at != NULL; at = next) {
            next = at->next;
            if (cuda_ipc_who_equal(&at->exporter, who)) {
                map_all.stats.dropped++;
                map_retire(at, &list);
            }
        }
    }
    pthread_mutex_unlock(&map_lock);
    map_close_list(list);
}

void cuda_ipc_map_get_stats(struct cuda_ipc_map_stats *stats_out)
{
    if (!map_is_ours()) {
        *stats_out = (struct cuda_ipc_map_stats){.hits = 0};
        return;
    }
    pthread_mutex_lock(&map_lock);
    *stats_out = map_all.stats;
    pthread_mutex_unlock(&map_lock);
}
