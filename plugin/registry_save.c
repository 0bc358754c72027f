/* SPDX-License-Identifier: Apache-2.0 */
/* Writes the registry to a file, block by block; no second copy of it is made. */
#include "registry_tree.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "registry_file.h"

/* Which location of the file a holder is, if it is still in the life in which it was noted. */
struct number {
    uint64_t birth; /* 0 = none */
    uint32_t location;
};

struct saver {
    struct kvl_registry *registry;
    int fd;
    uint64_t checksum; /* of the block before */
    uint32_t kind; /* of the block being filled */
    uint32_t used;
    struct kvl_chunk_id id; /* of the last key in it */
    bool has_id;
    struct kvl_regfile_end count;
    struct number *numbers; /* owned; by holder */
    uint64_t number_room;
    uint8_t block[KVL_REGFILE_BLOCK_MAX];
};

#define RECORD_MAX (KVL_REGFILE_WORKER_MAX + KVL_REGISTRY_LOCATIONS_MAX * KVL_REGFILE_LOCATION_MAX)
_Static_assert(RECORD_MAX <= KVL_REGFILE_BLOCK_MAX, "a worker fits into a block");

static int write_all(int fd, const uint8_t *bytes, size_t length)
{
    while (length > 0) {
        const ssize_t n = write(fd, bytes, length);

        if (n < 0 && errno != EINTR) {
            return -errno;
        }
        bytes += n > 0 ? n : 0;
        length -= n > 0 ? (size_t)n : 0;
    }
    return 0;
}

static int flush(struct saver *saver)
{
    uint8_t head[KVL_REGFILE_BLOCK_HEAD_BYTES];
    struct kvl_regfile_block block = {.kind = saver->kind, .length = saver->used};
    int r;

    if (saver->used == 0) {
        return 0;
    }
    block.checksum = kvl_regfile_checksum(saver->checksum, saver->kind, saver->block, saver->used);
    kvl_regfile_block_encode(&block, head);
    r = write_all(saver->fd, head, sizeof(head));
    r = r == 0 ? write_all(saver->fd, saver->block, saver->used) : r;
    saver->checksum = block.checksum;
    saver->used = 0;
    saver->has_id = false;
    return r;
}

/* Room for `bytes` in a block of that kind. */
static int make_room(struct saver *saver, uint32_t kind, uint32_t bytes)
{
    int r = 0;

    if (saver->kind != kind || saver->used + bytes > KVL_REGFILE_BLOCK_MAX) {
        r = flush(saver);
    }
    saver->kind = kind;
    return r;
}

/* ---- workers ---- */

static struct kvl_text text_of(const char *name)
{
    return (struct kvl_text){.text = name, .length = name != NULL ? (uint32_t)strlen(name) : 0};
}

static int note_holder(struct saver *saver, uint32_t holder)
{
    if (holder >= saver->number_room) {
        const uint64_t room = ((uint64_t)holder + 64) * 2;
        struct number *numbers = realloc(saver->numbers, room * sizeof(*numbers));

        if (numbers == NULL) {
            return -ENOMEM;
        }
        memset(numbers + saver->number_room, 0, (room - saver->number_room) * sizeof(*numbers));
        saver->numbers = numbers;
        saver->number_room = room;
    }
    saver->numbers[holder] = (struct number){
        .birth = atomic_load(&kvl_reg_holder(saver->registry, holder)->birth),
        .location = (uint32_t)saver->count.locations,
    };
    return 0;
}

/* The place of a location in the order; those without keys come last. */
static uint64_t order_of(const struct kvl_registry *registry,
                         const struct kvl_reg_location *location)
{
    const uint32_t holder = atomic_load(&location->holder);

    if (holder == KVL_INDEX_NONE || kvl_index_holder_keys(registry->index, holder) == 0) {
        return UINT64_MAX;
    }
    return atomic_load(&kvl_reg_holder(registry, holder)->location_order);
}

struct placed {
    const struct kvl_reg_location *location;
    uint64_t order;
};

static int compare_placed(const void *left, const void *right)
{
    const struct placed *a = left;
    const struct placed *b = right;

    return a->order == b->order ? 0 : a->order < b->order ? -1 : 1;
}

static int put_location(struct saver *saver, const struct placed *placed)
{
    const struct kvl_reg_location *location = placed->location;
    const struct kvl_regfile_location record = {
        .name = {.text = location->name, .length = location->length},
        .last_seq = location->last_seq,
        .has_seq = location->has_seq,
        .has_keys = placed->order != UINT64_MAX,
    };
    int r = record.has_keys ? note_holder(saver, atomic_load(&location->holder)) : 0;

    if (r == 0) {
        saver->used += kvl_regfile_location_encode(&record, saver->block + saver->used);
        saver->count.locations++;
    }
    return r;
}

static int put_locations(struct saver *saver, const struct kvl_reg_worker *worker)
{
    struct placed placed[KVL_REGISTRY_LOCATIONS_MAX];
    const struct kvl_reg_location *location = atomic_load(&worker->locations);
    uint32_t count = 0;
    int r = 0;

    for (; location != NULL; location = atomic_load(&location->next)) {
        placed[count++] = (struct placed){
            .location = location,
            .order = order_of(saver->registry, location),
        };
    }
    qsort(placed, count, sizeof(placed[0]), compare_placed);
    for (uint32_t i = 0; r == 0 && i < count; i++) {
        r = put_location(saver, &placed[i]);
    }
    return r;
}

/* The worker is locked, and there is room in the block. Its sequence numbers are written before its
 * keys are: what comes between is then told again as a gap, and never passes unnoticed. */
static int put_worker(struct saver *saver, const struct kvl_reg_worker *worker)
{
    const uint32_t state = atomic_load(&worker->sync_state);
    const struct kvl_regfile_worker record = {
        .desc =
            {
                .flags = worker->peer_url != NULL ? KVL_WORKER_HAS_PEER_URL : 0,
                .name = {.instance = text_of(worker->instance->name),
                         .worker_id = worker->worker_id},
                .ip = text_of(worker->ip),
                .port = worker->port,
                .peer_url = text_of(worker->peer_url),
                .incarnation = worker->incarnation,
            },
        .registration_time = worker->registration_time,
        .heartbeat_time = atomic_load(&worker->heartbeat_time),
        .gaps = atomic_load(&worker->gaps),
        .has_heartbeat = atomic_load(&worker->has_heartbeat),
        .sync_state = state == KVL_SYNC_SYNCING ? KVL_SYNC_FAILED : state, /* half of it is lost */
        .location_count = worker->location_count,
    };

    saver->used += kvl_regfile_worker_encode(&record, saver->block + saver->used);
    saver->count.workers++;
    return put_locations(saver, worker);
}

static int put_workers(struct saver *saver)
{
    struct kvl_reg_seen *seen;
    uint64_t count;
    int r = kvl_reg_see_all(saver->registry, NULL, &seen, &count);

    if (r < 0) {
        return r;
    }
    for (uint64_t i = 0; r == 0 && i < count; i++) {
        r = make_room(saver, KVL_REGFILE_WORKERS, RECORD_MAX); /* not while it is locked */
        if (r == 0 && kvl_reg_enter_seen(&seen[i])) {
            r = put_worker(saver, seen[i].worker);
            kvl_reg_leave(seen[i].worker);
        }
    }
    free(seen);
    return r;
}

/* ---- keys ---- */

static int put_key(void *ctx, const struct kvl_chunk_id *id, uint32_t holder)
{
    struct saver *saver = ctx;
    struct kvl_regfile_key key = {.id = *id};
    int r;

    if (holder >= saver->number_room || saver->numbers[holder].birth == 0 ||
        atomic_load(&kvl_reg_holder(saver->registry, holder)->birth) !=
            saver->numbers[holder].birth) {
        return 0; /* came after the workers were written */
    }
    key.location = saver->numbers[holder].location;
    r = make_room(saver, KVL_REGFILE_KEYS, KVL_REGFILE_KEY_MAX);
    saver->used +=
        kvl_regfile_key_encode(&key, saver->has_id ? &saver->id : NULL, saver->block + saver->used);
    saver->id = *id;
    saver->has_id = true;
    saver->count.keys++;
    return r;
}

static int put_all(struct saver *saver)
{
    uint8_t head[KVL_REGFILE_HEAD_BYTES];
    int r;

    kvl_regfile_head_encode(saver->registry->clock.unix_time(saver->registry->clock.ctx), head);
    (void)kvl_regfile_head_decode(head, &saver->checksum);
    r = write_all(saver->fd, head, sizeof(head));
    r = r == 0 ? put_workers(saver) : r;
    r = r == 0 ? kvl_index_walk(saver->registry->index, put_key, saver) : r;
    r = r == 0 ? make_room(saver, KVL_REGFILE_END, KVL_REGFILE_END_BYTES) : r;
    if (r == 0) {
        kvl_regfile_end_encode(&saver->count, saver->block);
        saver->used = KVL_REGFILE_END_BYTES;
        r = flush(saver);
    }
    return r;
}

/* ---- the file ---- */

/* The name lasts only once its folder is written. */
static int sync_folder(const char *path)
{
    char folder[PATH_MAX];
    const char *slash = strrchr(path, '/');
    const int length = slash == NULL ? 1 : slash == path ? 1 : (int)(slash - path);
    int r = 0;
    int fd;

    snprintf(folder, sizeof(folder), "%.*s", length, slash == NULL ? "." : path);
    fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return -errno;
    }
    if (fsync(fd) < 0 && errno != EINVAL) { /* some file systems cannot, and need not */
        r = -errno;
    }
    close(fd);
    return r;
}

static int finish(int fd, const char *temporary, const char *path, int r)
{
    if (r == 0 && fsync(fd) < 0) {
        r = -errno;
    }
    if (close(fd) < 0 && r == 0) {
        r = -errno;
    }
    if (r == 0 && rename(temporary, path) < 0) {
        r = -errno;
    }
    if (r < 0) {
        unlink(temporary);
        return r;
    }
    return sync_folder(path);
}

int kvl_registry_save(struct kvl_registry *registry, const char *path)
{
    char temporary[PATH_MAX];
    struct saver *saver;
    int r;

    if ((size_t)snprintf(temporary, sizeof(temporary), "%s.XXXXXX", path) >= sizeof(temporary)) {
        return -ENAMETOOLONG;
    }
    saver = malloc(sizeof(*saver));
    if (saver == NULL) {
        return -ENOMEM;
    }
    memset(saver, 0, offsetof(struct saver, block));
    saver->registry = registry;
    saver->fd = mkostemp(temporary, O_CLOEXEC);
    if (saver->fd < 0) {
        r = -errno;
    } else {
        r = finish(saver->fd, temporary, path, put_all(saver));
    }
    free(saver->numbers);
    free(saver);
    return r;
}
