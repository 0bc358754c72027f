/* SPDX-License-Identifier: Apache-2.0 */
/* Reads the registry out of a file, block by block. What it says is believed only once its checksum
 * is right, and taken back when a later block is not. */
#include "registry_tree.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "registry_file.h"

/* A location of the file, and the holder that it is here. */
struct place {
    struct kvl_reg_seen seen;
    uint64_t birth; /* of the holder */
    uint32_t holder; /* KVL_INDEX_NONE = the location is not filled from the file */
};

struct loader {
    struct kvl_registry *registry;
    int fd;
    uint64_t checksum;
    struct kvl_regfile_end count;
    struct place *places; /* owned; by number of the location */
    uint64_t place_room;
    struct kvl_reg_seen *added; /* owned; workers that are here because of the file */
    uint64_t added_count;
    uint64_t added_room;
    uint64_t dropped; /* keys without room */
    uint8_t block[KVL_REGFILE_BLOCK_MAX];
};

/* @return 0; -EBADMSG the file ends before; -errno. */
static int read_all(int fd, uint8_t *bytes, size_t length)
{
    while (length > 0) {
        const ssize_t n = read(fd, bytes, length);

        if (n == 0) {
            return -EBADMSG;
        }
        if (n < 0 && errno != EINTR) {
            return -errno;
        }
        bytes += n > 0 ? n : 0;
        length -= n > 0 ? (size_t)n : 0;
    }
    return 0;
}

/* Room for one more of an array that grows. */
static int grow(void **array, uint64_t *room, uint64_t used, size_t item)
{
    const uint64_t more = *room * 2 + 64;
    void *grown;

    if (used < *room) {
        return 0;
    }
    grown = realloc(*array, more * item);
    if (grown == NULL) {
        return -ENOMEM;
    }
    *array = grown;
    *room = more;
    return 0;
}

/* ---- workers ---- */

/* The worker is locked. An order that the file had is kept: a location that has keys gets its place
 * now, not when the first of them comes. */
static int take_location(struct loader *loader, const struct kvl_reg_seen *seen,
                         const struct kvl_regfile_location *record)
{
    struct place place = {.seen = *seen, .holder = KVL_INDEX_NONE};
    struct kvl_reg_location *location = NULL;
    int r = grow((void **)&loader->places, &loader->place_room, loader->count.locations,
                 sizeof(*loader->places));

    if (r == 0 && seen->worker != NULL) {
        r = kvl_reg_location_make(loader->registry, seen->worker, record->name, &location);
        if (r == 0) {
            location->has_seq = record->has_seq;
            location->last_seq = record->last_seq;
            location->from_file = record->has_seq;
        }
        if (r == 0 && record->has_keys) {
            r = kvl_reg_location_ready(loader->registry, seen->worker, location);
            place.holder = atomic_load(&location->holder);
            place.birth = atomic_load(&loader->registry->births);
        }
    }
    if (r == 0) {
        loader->places[loader->count.locations++] = place;
    }
    return r;
}

static int take_locations(struct loader *loader, struct kvl_regfile_cursor *cursor,
                          const struct kvl_reg_seen *seen, uint32_t count)
{
    struct kvl_regfile_location record;
    int r = 0;

    for (uint32_t i = 0; r == 0 && i < count; i++) {
        r = kvl_regfile_location_next(cursor, &record) == 1 ? take_location(loader, seen, &record)
                                                            : -EBADMSG;
    }
    return r;
}

/* The worker is locked and new. */
static void take_state(struct kvl_registry *registry, struct kvl_reg_worker *worker,
                       const struct kvl_regfile_worker *record)
{
    pthread_rwlock_wrlock(&registry->members);
    worker->registration_time = record->registration_time;
    pthread_rwlock_unlock(&registry->members);
    atomic_store(&worker->heartbeat_time, record->heartbeat_time);
    atomic_store(&worker->has_heartbeat, record->has_heartbeat);
    atomic_store(&worker->gaps, record->gaps);
    if (record->sync_state == KVL_SYNC_COMPLETED) {
        atomic_store(&worker->has_keys, 1);
    }
    kvl_reg_set_sync(registry, worker, record->sync_state);
}

static int take_worker(struct loader *loader, struct kvl_regfile_cursor *cursor,
                       const struct kvl_regfile_worker *record)
{
    struct kvl_reg_seen seen = {0};
    int r = grow((void **)&loader->added, &loader->added_room, loader->added_count,
                 sizeof(*loader->added));

    if (r == 0) {
        r = kvl_reg_add(loader->registry, &record->desc, &seen.worker);
    }
    if (r == -EEXIST) { /* it has registered meanwhile, and knows better than the file */
        seen.worker = NULL;
        return take_locations(loader, cursor, &seen, record->location_count);
    }
    if (r < 0) {
        return r;
    }
    seen.life = seen.worker->life;
    loader->added[loader->added_count++] = seen;
    take_state(loader->registry, seen.worker, record);
    r = take_locations(loader, cursor, &seen, record->location_count);
    kvl_reg_leave(seen.worker);
    return r;
}

static int take_workers(struct loader *loader, uint32_t length)
{
    struct kvl_regfile_cursor cursor = {.at = loader->block, .end = loader->block + length};
    struct kvl_regfile_worker record;
    int r;

    while ((r = kvl_regfile_worker_next(&cursor, &record)) == 1) {
        r = take_worker(loader, &cursor, &record);
        if (r < 0) {
            break;
        }
        loader->count.workers++;
    }
    return r;
}

/* ---- keys ---- */

static void take_key(struct loader *loader, const struct kvl_regfile_key *key)
{
    const struct place *place = &loader->places[key->location];

    if (place->holder == KVL_INDEX_NONE || !kvl_reg_enter_seen(&place->seen)) {
        return;
    }
    /* A full sync that began meanwhile has given the location another holder. */
    if (kvl_reg_holder_is(kvl_reg_holder(loader->registry, place->holder), place->birth)) {
        loader->dropped += kvl_index_add(loader->registry->index, place->holder, &key->id, 1);
    }
    kvl_reg_leave(place->seen.worker);
}

static int take_keys(struct loader *loader, uint32_t length)
{
    struct kvl_regfile_cursor cursor = {.at = loader->block, .end = loader->block + length};
    struct kvl_regfile_key key;
    int r;

    while ((r = kvl_regfile_key_next(&cursor, loader->count.locations, &key)) == 1) {
        take_key(loader, &key);
        loader->count.keys++;
    }
    return r;
}

/* ---- the file ---- */

static int take_end(const struct loader *loader)
{
    struct kvl_regfile_end end;
    uint8_t more;
    ssize_t n;

    kvl_regfile_end_decode(loader->block, &end);
    if (end.workers != loader->count.workers || end.locations != loader->count.locations ||
        end.keys != loader->count.keys) {
        return -EBADMSG;
    }
    do {
        n = read(loader->fd, &more, 1);
    } while (n < 0 && errno == EINTR);
    return n == 0 ? 0 : n > 0 ? -EBADMSG : -errno;
}

static int read_block(struct loader *loader, struct kvl_regfile_block *block)
{
    uint8_t head[KVL_REGFILE_BLOCK_HEAD_BYTES];
    int r = read_all(loader->fd, head, sizeof(head));

    r = r == 0 ? kvl_regfile_block_decode(head, block) : r;
    r = r == 0 ? read_all(loader->fd, loader->block, block->length) : r;
    if (r == 0 && block->checksum != kvl_regfile_checksum(loader->checksum, block->kind,
                                                          loader->block, block->length)) {
        r = -EBADMSG;
    }
    loader->checksum = r == 0 ? block->checksum : loader->checksum;
    return r;
}

static int take_all(struct loader *loader)
{
    uint8_t head[KVL_REGFILE_HEAD_BYTES];
    struct kvl_regfile_block block = {0};
    uint32_t kind = KVL_REGFILE_WORKERS;
    int r = read_all(loader->fd, head, sizeof(head));

    r = r == 0 ? kvl_regfile_head_decode(head, &loader->checksum) : r;
    while (r == 0 && block.kind != KVL_REGFILE_END) {
        r = read_block(loader, &block);
        if (r < 0) {
            break;
        }
        if (block.kind < kind) {
            return -EBADMSG; /* keys of workers that come later */
        }
        kind = block.kind;
        r = kind == KVL_REGFILE_WORKERS ? take_workers(loader, block.length)
            : kind == KVL_REGFILE_KEYS  ? take_keys(loader, block.length)
                                        : take_end(loader);
    }
    return r;
}

static void take_back(struct loader *loader)
{
    for (uint64_t i = 0; i < loader->added_count; i++) {
        if (kvl_reg_enter_seen(&loader->added[i])) {
            kvl_reg_drop(loader->registry, loader->added[i].worker);
            kvl_reg_leave(loader->added[i].worker);
        }
    }
}

static int open_file(const char *path)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    int r;

    if (fd < 0) {
        return -errno;
    }
    r = fstat(fd, &st) < 0    ? -errno
        : S_ISREG(st.st_mode) ? 0
        : S_ISDIR(st.st_mode) ? -EISDIR
                              : -EINVAL;
    if (r < 0) {
        close(fd);
        return r;
    }
    return fd;
}

int kvl_registry_load(struct kvl_registry *registry, const char *path)
{
    struct loader *loader;
    int r;

    if (atomic_load(&registry->worker_count) > 0) {
        return -EBUSY;
    }
    loader = malloc(sizeof(*loader));
    if (loader == NULL) {
        return -ENOMEM;
    }
    memset(loader, 0, offsetof(struct loader, block));
    loader->registry = registry;
    loader->fd = open_file(path);
    r = loader->fd < 0 ? loader->fd : take_all(loader);
    if (loader->fd >= 0) {
        close(loader->fd);
    }
    if (r < 0) {
        take_back(loader);
    } else {
        atomic_store(&registry->need_all, false);
        atomic_fetch_add_explicit(&registry->dropped, loader->dropped, memory_order_relaxed);
        r = loader->dropped > 0 ? -ENOMEM : 0;
    }
    free(loader->places);
    free(loader->added);
    free(loader);
    return r;
}
