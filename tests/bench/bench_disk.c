/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the disk backend makes of a file system: chunks of three sizes written and read through its
 * table, beside plain pwrite and pread of the same sizes into files of the same size in the same
 * folder, with the page cache as it is. Written chunks have a checksum, as those of the core have;
 * what is read is checked. Then how long a start takes, with nothing in the page cache.
 *
 * The folder is made in KVL_BENCH_DISK, or TMPDIR, or /tmp.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <kvlane/backend.h>

#include "bench.h"
#include "fake_host.h"

#define KIB 1024ull
#define MIB (1024 * KIB)
#define ROUND (64 * MIB) /* moved by one case in one round */
#define SEGMENT (64 * MIB)
#define BATCH_BYTES (16 * MIB) /* in one batch */
#define BATCH_MAX 256u
#define FILES 16u /* of the reference, as many as the backend has segments */

static struct {
    char folder[256];
    char chunks[300]; /* the backend's */
    const struct kvl_backend_ops *ops;
    struct fake_host *fake;
    struct kvl_host host; /* the fake's, with a quick completion */
    void *self;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint32_t completed;
    uint64_t failures;
    uint8_t *from;
    uint8_t *to;
} rig = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

struct size {
    const char *name;
    uint64_t bytes;
    uint32_t batch; /* chunks in one batch */
    uint64_t checksums[BATCH_MAX]; /* of the places in a batch: the core's store keeps them */
    uint64_t next; /* number of the next chunk to write */
    uint64_t read_at; /* and to read, as plain_at */
    uint64_t plain_at;
    uint32_t plain_file;
    int fd;
    int read_fd;
    uint64_t plain_read_at;
};

static void die(const char *what)
{
    fprintf(stderr, "bench_disk: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* ---- the backend ---- */

static void take_completion(const struct kvl_host *host, const struct kvl_completion *done)
{
    (void)host;
    pthread_mutex_lock(&rig.lock);
    rig.completed++;
    rig.failures += done->status != 0;
    pthread_cond_signal(&rig.changed);
    pthread_mutex_unlock(&rig.lock);
}

static void submit(struct size *size, int (*fn)(void *, const struct kvl_batch *), uint8_t *memory,
                   uint64_t first, uint32_t count)
{
    static struct kvl_chunk chunks[BATCH_MAX];
    static struct kvl_sg sg[BATCH_MAX];
    static uint32_t sg_first[BATCH_MAX + 1];
    static char keys[BATCH_MAX][64];
    const struct kvl_batch batch = {.size = sizeof(batch),
                                    .count = count,
                                    .cookie = 1,
                                    .deadline_ms = KVL_NEVER,
                                    .chunks = chunks,
                                    .sg = sg,
                                    .sg_first = sg_first};

    for (uint32_t i = 0; i < count; i++) {
        const unsigned long long number = first + i;

        (void)snprintf(keys[i], sizeof(keys[i]), "model@1@0@%s%016llx@half", size->name, number);
        chunks[i] = (struct kvl_chunk){.key = kvl_key_from_text(keys[i]), .bytes = size->bytes};
        sg[i] = (struct kvl_sg){.addr = (uint64_t)(uintptr_t)(memory + i * size->bytes),
                                .length = size->bytes,
                                .count = 1,
                                .device = KVL_DEVICE_HOST};
        sg_first[i] = i;
        if (fn == rig.ops->write) {
            chunks[i].checksum = size->checksums[i];
            chunks[i].flags = KVL_CHUNK_HAS_CHECKSUM;
        }
    }
    sg_first[count] = count;
    pthread_mutex_lock(&rig.lock);
    rig.completed = 0;
    pthread_mutex_unlock(&rig.lock);
    if (fn(rig.self, &batch) != 0) {
        die("submit");
    }
    pthread_mutex_lock(&rig.lock);
    while (rig.completed == 0) {
        pthread_cond_wait(&rig.changed, &rig.lock);
    }
    pthread_mutex_unlock(&rig.lock);
}

static void run_write(void *ctx, uint64_t n)
{
    struct size *size = ctx;

    while (n > 0) {
        const uint32_t count = n < size->batch ? (uint32_t)n : size->batch;

        submit(size, rig.ops->write, rig.from, size->next, count);
        size->next += count;
        n -= count;
    }
}

/* Chunks of the last round. */
static void run_read(void *ctx, uint64_t n)
{
    struct size *size = ctx;
    const uint64_t span = size->next < ROUND / size->bytes ? size->next : ROUND / size->bytes;

    while (n > 0) {
        const uint32_t room = n < size->batch ? (uint32_t)n : size->batch;
        const uint64_t at = size->read_at % span;
        const uint32_t count = at + room > span ? (uint32_t)(span - at) : room;

        submit(size, rig.ops->read, rig.to, size->next - span + at, count);
        size->read_at += count;
        n -= count;
    }
}

static void start(void)
{
    struct kvl_err err = {.size = sizeof(err)};
    static const char *pairs[] = {"path", rig.chunks, "budget", "1G", "segment", "64M", NULL};

    rig.fake = fake_host_create(kvlane_backend_v1(), pairs);
    rig.host = *fake_host_table(rig.fake);
    rig.host.complete = take_completion;
    rig.ops = kvlane_backend_v1()->ops;
    if (rig.ops->create(&rig.host, &rig.self, &err) != 0 || rig.ops->start(rig.self, &err) != 0) {
        fprintf(stderr, "bench_disk: %s\n", err.text);
        exit(1);
    }
}

static void stop(void)
{
    rig.ops->stop(rig.self);
    rig.ops->destroy(rig.self);
    fake_host_destroy(rig.fake);
}

/* ---- plain files ---- */

static void plain_next_file(struct size *size)
{
    char path[400];

    if (size->fd >= 0) {
        (void)close(size->fd);
    }
    (void)snprintf(path, sizeof(path), "%s/plain-%s-%u", rig.folder, size->name,
                   size->plain_file++ % FILES);
    (void)unlink(path); /* as the backend does: a new file in place of the oldest */
    size->fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (size->fd < 0) {
        die(path);
    }
    size->plain_at = 0;
}

static void run_pwrite(void *ctx, uint64_t n)
{
    struct size *size = ctx;

    for (uint64_t i = 0; i < n; i++) {
        if (size->fd < 0 || size->plain_at + size->bytes > SEGMENT) {
            plain_next_file(size);
        }
        if (pwrite(size->fd, rig.from + i % size->batch * size->bytes, size->bytes,
                   (off_t)size->plain_at) != (ssize_t)size->bytes) {
            die("pwrite");
        }
        size->plain_at += size->bytes;
    }
}

static void run_pread(void *ctx, uint64_t n)
{
    struct size *size = ctx;

    for (uint64_t i = 0; i < n; i++) {
        const uint64_t chunks = SEGMENT / size->bytes;

        if (pread(size->read_fd, rig.to + i % size->batch * size->bytes, size->bytes,
                  (off_t)(size->plain_read_at++ % chunks * size->bytes)) != (ssize_t)size->bytes) {
            die("pread");
        }
    }
}

static void plain_read_file(struct size *size)
{
    char path[400];

    (void)snprintf(path, sizeof(path), "%s/plain-%s-read", rig.folder, size->name);
    size->read_fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    for (uint64_t at = 0; at < SEGMENT; at += BATCH_BYTES) {
        if (pwrite(size->read_fd, rig.from, BATCH_BYTES, (off_t)at) != (ssize_t)BATCH_BYTES) {
            die(path);
        }
    }
}

/* ---- the start ---- */

static double now_ms(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

static uint64_t stat_bytes;

static void take_stat(void *ctx, const char *name, uint64_t value)
{
    (void)ctx;
    if (strcmp(name, "disk_bytes") == 0) {
        stat_bytes = value;
    }
}

/* Writes all out and drops it from the page cache. */
static void forget_files(void)
{
    char path[400];

    for (uint32_t i = 1; i < 1000; i++) {
        int fd;

        (void)snprintf(path, sizeof(path), "%s/%08u.seg", rig.chunks, (unsigned)i);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd >= 0) {
            (void)fdatasync(fd);
            (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
            (void)close(fd);
        }
    }
}

static double start_ms_per_gib(struct size *size, uint64_t chunks)
{
    double before;

    run_write(size, chunks);
    rig.ops->get_stats(rig.self, take_stat, NULL);
    stop();
    forget_files();
    before = now_ms();
    start();
    return (now_ms() - before) / ((double)stat_bytes / (double)(1024 * MIB));
}

/* ---- */

static void measure(struct bench *bench, struct size *size, struct bench_case *write,
                    struct bench_case *read)
{
    const uint64_t n = ROUND / size->bytes;
    char text[4][64];
    const char *const names[] = {"pwrite", "write", "pread", "read"};
    struct bench_case cases[4];
    const bench_fn fns[] = {run_pwrite, run_write, run_pread, run_read};

    for (int i = 0; i < 4; i++) {
        (void)snprintf(text[i], sizeof(text[i]), "%s %s", names[i], size->name);
        cases[i] = (struct bench_case){.text = text[i], .fn = fns[i], .ctx = size, .n = n};
    }
    for (uint32_t i = 0; i < size->batch; i++) {
        size->checksums[i] = XXH3_64bits(rig.from + i * size->bytes, size->bytes);
    }
    plain_read_file(size);
    bench_run(bench, cases, 2, 0);
    bench_run(bench, cases + 2, 2, 0);
    for (int i = 0; i < 4; i++) {
        printf("%-12s %6.2f GB/s\n", text[i], (double)size->bytes / cases[i].ns);
    }
    printf("\n");
    write[0] = cases[0];
    write[1] = cases[1];
    read[0] = cases[2];
    read[1] = cases[3];
}

static void clean_up(void)
{
    char command[400];

    stop();
    (void)snprintf(command, sizeof(command), "rm -rf '%s'", rig.folder);
    if (system(command) != 0) {
        fprintf(stderr, "bench_disk: cannot remove '%s'\n", rig.folder);
    }
}

static void make_folder(void)
{
    const char *base = getenv("KVL_BENCH_DISK");

    if (base == NULL) {
        base = getenv("TMPDIR");
    }
    (void)snprintf(rig.folder, sizeof(rig.folder), "%s/kvl-bench-XXXXXX",
                   base == NULL ? "/tmp" : base);
    if (mkdtemp(rig.folder) == NULL) {
        die(rig.folder);
    }
    (void)snprintf(rig.chunks, sizeof(rig.chunks), "%s/chunks", rig.folder);
    rig.from = aligned_alloc(4096, BATCH_BYTES);
    rig.to = aligned_alloc(4096, BATCH_BYTES);
    if (rig.from == NULL || rig.to == NULL) {
        die("memory");
    }
    for (uint64_t i = 0; i < BATCH_BYTES; i++) {
        rig.from[i] = (uint8_t)(i * 2654435761u >> 13);
    }
    memset(rig.to, 1, BATCH_BYTES);
}

int main(int argc, char **argv)
{
    struct size sizes[] = {
        {.name = "64k", .bytes = 64 * KIB, .batch = 256, .fd = -1},
        {.name = "1m", .bytes = MIB, .batch = 16, .fd = -1},
        {.name = "16m", .bytes = 16 * MIB, .batch = 1, .fd = -1},
    };
    static char keys[6][32];
    struct bench_case write[3][2];
    struct bench_case read[3][2];
    struct bench bench;
    double start_ms;

    bench_init(&bench, "disk", argc, argv);
    make_folder();
    start();
    for (int i = 0; i < 3; i++) {
        measure(&bench, &sizes[i], write[i], read[i]);
    }
    start_ms = start_ms_per_gib(&sizes[1], bench.quick ? 8 : 900);
    clean_up();
    bench_add(&bench, "write_vs_pwrite", write[1][0].ns / write[1][1].ns);
    bench_add(&bench, "read_vs_pread", read[1][0].ns / read[1][1].ns);
    bench_add(&bench, "start_ms_per_gib", start_ms);
    for (int i = 0; i < 3; i++) {
        (void)snprintf(keys[2 * i], sizeof(keys[0]), "write_gbps_%s", sizes[i].name);
        (void)snprintf(keys[2 * i + 1], sizeof(keys[0]), "read_gbps_%s", sizes[i].name);
        bench_add(&bench, keys[2 * i], (double)sizes[i].bytes / write[i][1].ns);
        bench_add(&bench, keys[2 * i + 1], (double)sizes[i].bytes / read[i][1].ns);
    }
    return bench_end(&bench) | (rig.failures != 0);
}
