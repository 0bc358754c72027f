/* SPDX-License-Identifier: Apache-2.0 */
#include "controller_base.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Workers may register while the old ones are taken out. */
#define LOAD_ATTEMPTS 10

/* A folder that nobody else can write to, and a name in it. */
static int base_name(const char *dir, char *folder, size_t folder_room, char *path,
                     size_t path_room)
{
    int n = snprintf(folder, folder_room, "%s/kvl-base.XXXXXX", dir);

    if (n < 0 || (size_t)n >= folder_room) {
        return -ENAMETOOLONG;
    }
    if (mkdtemp(folder) == NULL) {
        return -errno;
    }
    (void)snprintf(path, path_room, "%s/base", folder);
    return 0;
}

static void base_remove(const char *folder, const char *path)
{
    (void)unlink(path);
    (void)rmdir(folder);
}

static int base_open(const char *path, int *fd_out, uint64_t *bytes_out)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int r;

    if (fd < 0) {
        return -errno;
    }
    if (fstat(fd, &st) < 0) {
        r = -errno;
        close(fd);
        return r;
    }
    *fd_out = fd;
    *bytes_out = (uint64_t)st.st_size;
    return 0;
}

int controller_base_save(const struct kvl_host *host, const char *dir, int *fd_out,
                         uint64_t *bytes_out)
{
    char folder[CONTROLLER_BASE_PATH];
    char path[CONTROLLER_BASE_PATH + 8];
    int r = base_name(dir, folder, sizeof(folder), path, sizeof(path));

    if (r < 0) {
        return r;
    }
    r = host->registry_ops->save(host->registry, path);
    if (r == 0) {
        r = base_open(path, fd_out, bytes_out);
    }
    base_remove(folder, path);
    return r;
}

/* ---- coming in ---- */

void controller_base_init(struct controller_base *base)
{
    memset(base, 0, sizeof(*base));
    base->fd = -1;
}

void controller_base_drop(struct controller_base *base)
{
    if (base->fd >= 0) {
        close(base->fd);
        base_remove(base->folder, base->path);
        base->fd = -1;
    }
}

int controller_base_begin(struct controller_base *base, const char *dir, uint64_t expected)
{
    int r;

    controller_base_drop(base);
    r = base_name(dir, base->folder, sizeof(base->folder), base->path, sizeof(base->path));
    if (r < 0) {
        return r;
    }
    base->fd = open(base->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (base->fd < 0) {
        r = -errno;
        (void)rmdir(base->folder);
        return r;
    }
    base->bytes = 0;
    base->expected = expected;
    return 0;
}

int controller_base_add(struct controller_base *base, uint64_t offset, const void *bytes,
                        size_t length)
{
    const uint8_t *at = bytes;

    if (base->fd < 0 || offset != base->bytes || length > base->expected - base->bytes) {
        return -EPROTO;
    }
    while (length > 0) {
        const ssize_t n = write(base->fd, at, length);

        if (n < 0 && errno != EINTR) {
            return -errno;
        }
        if (n > 0) {
            at += n;
            length -= (size_t)n;
            base->bytes += (uint64_t)n;
        }
    }
    return 0;
}

/* ---- into the registry ---- */

struct base_names {
    struct base_name_entry {
        int64_t worker_id;
        uint32_t length;
        char instance[KVL_NAME_ROOM];
    } * at;
    size_t count;
    size_t room;
};

static int base_note(void *ctx, const struct kvl_worker_info *worker)
{
    struct base_names *names = ctx;
    struct base_name_entry *entry;

    if (names->count == names->room) {
        const size_t room = names->room * 2 + 64;

        entry = realloc(names->at, room * sizeof(*entry));
        if (entry == NULL) {
            return -ENOMEM;
        }
        names->at = entry;
        names->room = room;
    }
    entry = &names->at[names->count++];
    entry->worker_id = worker->worker_id;
    entry->length = (uint32_t)strlen(worker->instance);
    memcpy(entry->instance, worker->instance, sizeof(entry->instance));
    return 0;
}

static int base_clear(const struct kvl_host *host)
{
    struct base_names names = {0};
    int r =
        host->registry_ops->list_workers(host->registry, (struct kvl_text){0}, base_note, &names);

    for (size_t i = 0; i < names.count; i++) {
        const struct kvl_worker_name name = {
            .instance = {.text = names.at[i].instance, .length = names.at[i].length},
            .worker_id = names.at[i].worker_id,
        };

        (void)host->registry_ops->remove_worker(host->registry, &name);
    }
    free(names.at);
    return r == -ENOENT ? 0 : r;
}

int controller_base_load(struct controller_base *base, const struct kvl_host *host)
{
    int r = -EBUSY;

    if (base->fd < 0 || base->bytes != base->expected) {
        return -EPROTO;
    }
    for (int i = 0; r == -EBUSY && i < LOAD_ATTEMPTS; i++) {
        r = base_clear(host);
        if (r == 0) {
            r = host->registry_ops->load(host->registry, base->path);
        }
    }
    controller_base_drop(base);
    return r;
}
