/* SPDX-License-Identifier: Apache-2.0 */
#include "rig.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void rig_log(void *ctx, int32_t level, const char *component, const char *file, int32_t line,
                    const char *text)
{
    struct rig *rig = ctx;

    (void)component;
    if (getenv("KVL_TEST_LOG") != NULL) {
        fprintf(stderr, "%d %s:%d %s\n", level, file, line, text);
    }
    if (level <= KVL_LOG_WARN) {
        (void)snprintf(rig->last_warning, sizeof(rig->last_warning), "%s", text);
        atomic_fetch_add(&rig->warnings, 1);
    } else if (level == KVL_LOG_INFO) {
        atomic_fetch_add(&rig->infos, 1);
    }
}

void rig_init(struct rig *rig, const char *const *pairs)
{
    const char *tmp = getenv("TMPDIR");
    int n = 0;

    memset(rig, 0, sizeof(*rig));
    (void)snprintf(rig->folder, sizeof(rig->folder), "%s/kvl-disk-XXXXXX",
                   tmp == NULL ? "/tmp" : tmp);
    assert_non_null(mkdtemp(rig->folder));
    rig->pairs[n++] = "path";
    rig->pairs[n++] = rig->folder;
    for (int i = 0; pairs != NULL && pairs[i] != NULL; i++) {
        assert_true(n < 2 * RIG_PAIRS_MAX);
        rig->pairs[n++] = pairs[i];
    }
    rig->ops = kvlane_backend_v1()->ops;
    rig->io = disk_io_kernel;
}

void rig_fini(struct rig *rig)
{
    DIR *folder = opendir(rig->folder);
    const struct dirent *entry;

    while (folder != NULL && (entry = readdir(folder)) != NULL) {
        (void)unlinkat(dirfd(folder), entry->d_name, 0);
    }
    if (folder != NULL) {
        (void)closedir(folder);
    }
    assert_int_equal(rmdir(rig->folder), 0);
}

static void rig_destroy(struct rig *rig)
{
    assert_int_equal(fake_host_leaks(rig->fake), 0);
    rig->ops->destroy(rig->store);
    fake_host_destroy(rig->fake);
    rig->store = NULL;
    rig->fake = NULL;
}

int rig_try_start(struct rig *rig, struct kvl_err *err)
{
    void *self = NULL;
    int r;

    rig->fake = fake_host_create(kvlane_backend_v1(), rig->pairs);
    rig->log =
        (struct kvl_log){.write = rig_log, .ctx = rig, .component = "disk", .level = KVL_LOG_TRACE};
    rig->table = *fake_host_table(rig->fake);
    rig->table.log = &rig->log;
    assert_int_equal(rig->ops->create(&rig->table, &self, err), 0);
    rig->store = self;
    rig->store->log.io = rig->io;
    if (rig->hash != NULL) {
        rig->store->log.index.hash = rig->hash;
    }
    r = rig->ops->start(rig->store, err);
    if (r != 0) {
        rig_destroy(rig);
    }
    return r;
}

void rig_start(struct rig *rig)
{
    struct kvl_err err = {.size = sizeof(err)};

    if (rig_try_start(rig, &err) != 0) {
        fail_msg("start: %s", err.text);
    }
}

void rig_stop(struct rig *rig)
{
    rig->ops->stop(rig->store);
    rig_destroy(rig);
}

void rig_restart(struct rig *rig)
{
    rig_stop(rig);
    rig_start(rig);
}

void rig_crash(struct rig *rig)
{
    rig->store->log.active = NULL; /* so that stop() does not mark it as closed */
    rig_stop(rig);
}

int rig_batch(struct rig *rig, rig_submit_fn submit, struct kvl_batch *batch,
              struct fake_result *result_out)
{
    int r;

    batch->size = sizeof(*batch);
    batch->cookie = ++rig->cookie;
    r = submit(rig->store, batch);
    if (r == 0) {
        assert_int_equal(fake_host_wait(rig->fake, batch->cookie, result_out), 0);
        assert_int_equal(result_out->item_count, batch->count);
        assert_int_equal(fake_host_completions(rig->fake, batch->cookie), 1);
    }
    return r;
}

static int rig_one(struct rig *rig, rig_submit_fn submit, const char *key, const void *bytes,
                   size_t length)
{
    const struct kvl_sg sg = {
        .addr = (uint64_t)(uintptr_t)bytes, .length = length, .count = 1, .device = -1};
    const uint32_t first[] = {0, bytes != NULL && length > 0};
    struct kvl_chunk chunk = {.key = kvl_key_from_text(key), .bytes = length};
    struct kvl_batch batch = {.count = 1, .chunks = &chunk};
    struct fake_result *result = malloc(sizeof(*result));
    int r;

    chunk.attrs.shape[0] = (int32_t)length;
    if (submit == rig->ops->write) {
        batch.sg = &sg;
        batch.sg_first = first;
    }
    r = rig_batch(rig, submit, &batch, result);
    r = r < 0 ? r : result->items[0];
    free(result);
    return r;
}

int rig_put(struct rig *rig, const char *key, const void *bytes, size_t length)
{
    return rig_one(rig, rig->ops->write, key, bytes, length);
}

int rig_get(struct rig *rig, const char *key, const void *bytes, size_t length)
{
    struct kvl_chunk found;
    const void *got;
    int r = rig_one(rig, rig->ops->read, key, NULL, 0);

    if (r == 0) {
        got = fake_host_target(rig->fake, rig->cookie, 0, &found);
        assert_int_equal(found.bytes, length);
        assert_int_equal(found.attrs.shape[0], (int32_t)length);
        if (length > 0) {
            assert_memory_equal(got, bytes, length);
        }
    }
    return r;
}

int rig_has(struct rig *rig, const char *key)
{
    return rig_one(rig, rig->ops->lookup, key, NULL, 0);
}

int rig_remove(struct rig *rig, const char *key)
{
    return rig_one(rig, rig->ops->remove, key, NULL, 0);
}

struct stat_query {
    const char *name;
    uint64_t value;
    int found;
};

static void rig_take_stat(void *ctx, const char *name, uint64_t value)
{
    struct stat_query *query = ctx;

    if (strcmp(query->name, name) == 0) {
        query->value = value;
        query->found = 1;
    }
}

uint64_t rig_stat(struct rig *rig, const char *name)
{
    struct stat_query query = {.name = name};

    rig->ops->get_stats(rig->store, rig_take_stat, &query);
    assert_true(query.found);
    return query.value;
}

struct kvl_health rig_health(struct rig *rig)
{
    struct kvl_health health = {.size = sizeof(health)};

    rig->ops->get_health(rig->store, &health);
    return health;
}

void rig_fill(void *bytes_out, size_t length, uint64_t seed)
{
    uint8_t *at = bytes_out;
    uint64_t x = seed * 0x9e3779b97f4a7c15ull + 1;

    for (size_t i = 0; i < length; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        at[i] = (uint8_t)(x >> 24);
    }
}

static int rig_ends_in(const char *name, const char *suffix)
{
    const size_t length = strlen(name);
    const size_t end = strlen(suffix);

    return length >= end && strcmp(name + length - end, suffix) == 0;
}

uint32_t rig_files(const struct rig *rig, const char *suffix, uint64_t *bytes_out)
{
    DIR *folder = opendir(rig->folder);
    const struct dirent *entry;
    struct stat st;
    uint64_t bytes = 0;
    uint32_t count = 0;

    assert_non_null(folder);
    while ((entry = readdir(folder)) != NULL) {
        if (rig_ends_in(entry->d_name, suffix) &&
            fstatat(dirfd(folder), entry->d_name, &st, 0) == 0 && S_ISREG(st.st_mode)) {
            count++;
            bytes += (uint64_t)st.st_size;
        }
    }
    (void)closedir(folder);
    if (bytes_out != NULL) {
        *bytes_out = bytes;
    }
    return count;
}

uint64_t rig_newest(const struct rig *rig, char *path_out, size_t size)
{
    DIR *folder = opendir(rig->folder);
    const struct dirent *entry;
    char newest[256] = "";
    struct stat st;

    assert_non_null(folder);
    while ((entry = readdir(folder)) != NULL) {
        if (rig_ends_in(entry->d_name, ".seg") && strcmp(entry->d_name, newest) > 0) {
            (void)snprintf(newest, sizeof(newest), "%s", entry->d_name);
        }
    }
    (void)closedir(folder);
    (void)snprintf(path_out, size, "%s/%s", rig->folder, newest);
    assert_int_equal(stat(path_out, &st), 0);
    return (uint64_t)st.st_size;
}

void rig_flip(const char *path, uint64_t at)
{
    const int fd = open(path, O_RDWR | O_CLOEXEC);
    uint8_t byte;

    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, (off_t)at), 1);
    byte ^= 0x10;
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
    (void)close(fd);
}

void rig_copy(const char *from, const char *to, uint64_t length)
{
    const int in = open(from, O_RDONLY | O_CLOEXEC);
    const int out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    void *bytes = malloc(length + 1);

    assert_true(in >= 0 && out >= 0);
    assert_int_equal(pread(in, bytes, length, 0), (ssize_t)length);
    assert_int_equal(pwrite(out, bytes, length, 0), (ssize_t)length);
    free(bytes);
    (void)close(in);
    (void)close(out);
}
