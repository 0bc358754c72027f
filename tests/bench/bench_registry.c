/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The registry with the keys of a fleet, beside LMCache's RegistryTree. Lines that say "index" ask
 * the map inside, without what the registry knows about workers.
 *
 * `--holders N` and `--keys N` set the size: 100 workers with a million different ids each, less
 * when memory is short. Events come a hundred at a time from one worker after the other. Lookups
 * pick ids at random over all of them; what it costs to make up an id is in all figures.
 * Python keeps its keys as objects, so it is measured with up to 100 x 100,000; with more keys it
 * does not become faster.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"
#include "registry.h"
#include "registry_index.h"
#include "registry_peer.h"
#include "registry_tree.h"

#define BATCH 100u
#define CROWD 10000u /* holders of a hot prefix */

static struct kvl_registry *registry;
static const struct kvl_text location = {.text = "LocalCPUBackend", .length = 15};
static uint64_t holders = 100;
static uint64_t keys = 1000000;
static uint64_t failures;

static double now_s(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* The same numbers as in registry_peer.py. */
static struct kvl_chunk_id id_of(uint64_t number)
{
    uint64_t x = (number + 1) * 0x9e3779b97f4a7c15u;

    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    return (struct kvl_chunk_id){.bits = x ^ x >> 27};
}

static uint64_t rnd(uint64_t *seed, uint64_t below)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (*seed >> 32) * below >> 32;
}

/* Instances are named 0, 1, ... and have one worker each. `text` has room for the name. */
static struct kvl_worker_name name_of(uint64_t holder, char *text)
{
    int length = snprintf(text, KVL_NAME_ROOM, "%llu", (unsigned long long)holder);

    return (struct kvl_worker_name){.instance = {.text = text, .length = (uint32_t)length}};
}

static void open_all(void)
{
    const struct kvl_registry_params params = {.max_bytes = 0};
    char text[KVL_NAME_ROOM];

    if (kvl_registry_create(&params, &registry) != 0) {
        abort();
    }
    for (uint64_t i = 0; i < holders; i++) {
        struct kvl_worker_desc desc = {.size = sizeof(desc),
                                       .flags = KVL_WORKER_HAS_PEER_URL,
                                       .name = name_of(i, text),
                                       .ip = {.text = "127.0.0.1", .length = 9},
                                       .port = 9000,
                                       .peer_url = {.text = "127.0.0.1:9001", .length = 14}};

        failures += kvl_registry_register(registry, &desc, NULL) != 0;
    }
}

/* ---- filling ---- */

static void apply_batch(uint64_t holder, uint64_t from, struct kvl_key_op *ops)
{
    char text[KVL_NAME_ROOM];
    struct kvl_worker_name name = name_of(holder, text);

    for (uint64_t i = 0; i < BATCH; i++) {
        ops[i] = (struct kvl_key_op){.id = id_of(holder * keys + from + i),
                                     .seq = (int64_t)(from + i),
                                     .kind = KVL_KEY_ADMIT};
    }
    failures += kvl_registry_apply(registry, &name, location, ops, BATCH, NULL) != 0;
}

static double bytes_per_entry(void)
{
    struct kvl_registry_stats stats = {.size = sizeof(stats)};

    kvl_registry_stats(registry, &stats);
    return (double)stats.bytes / (double)stats.keys;
}

static double resident(void)
{
    FILE *file = fopen("/proc/self/statm", "r");
    unsigned long pages = 0;

    if (file != NULL) {
        failures += fscanf(file, "%*s %lu", &pages) != 1;
        (void)fclose(file);
    }
    return (double)pages * (double)sysconf(_SC_PAGESIZE);
}

static void fill(struct bench *bench)
{
    static struct kvl_key_op ops[BATCH];
    double before = resident();
    double spent = 0;
    double most = 0;

    for (uint64_t from = 0; from < keys; from += BATCH) {
        double start = now_s();

        for (uint64_t holder = 0; holder < holders; holder++) {
            apply_batch(holder, from, ops);
        }
        spent += now_s() - start;
        if ((from + BATCH) * holders >= 1000000 && bytes_per_entry() > most) {
            most = bytes_per_entry();
        }
    }
    bench_add(bench, "admit_mops_s", (double)(holders * keys) / spent * 1e-6);
    bench_add(bench, "bytes_per_key", bytes_per_entry());
    bench_add(bench, "bytes_per_key_worst", most == 0 ? -1 : most);
    bench_add(bench, "rss_per_key", (resident() - before) / (double)(holders * keys));
}

/* ---- lookups ---- */

static void run_has(void *ctx, uint64_t n)
{
    uint64_t seed = (uint64_t)(now_s() * 1e9);

    (void)ctx;
    for (uint64_t i = 0; i < n; i++) {
        struct kvl_chunk_id id = id_of(rnd(&seed, holders * keys));

        failures += kvl_registry_has(registry, &id) != 1;
    }
}

static void run_has_miss(void *ctx, uint64_t n)
{
    uint64_t seed = (uint64_t)(now_s() * 1e9);

    (void)ctx;
    for (uint64_t i = 0; i < n; i++) {
        struct kvl_chunk_id id = id_of(holders * keys + rnd(&seed, holders * keys));

        failures += kvl_registry_has(registry, &id) != 0;
    }
}

static int accept_all(void *ctx, uint32_t holder)
{
    (void)ctx;
    (void)holder;
    return 1;
}

/* A prompt whose first chunks, `count` of them, one worker has. */
static void find_prompt(uint64_t *seed, uint64_t first, uint32_t count)
{
    static const char *const own = "somebody else";
    struct kvl_chunk_id ids[BATCH];
    struct kvl_run run;
    struct kvl_find query = {.size = sizeof(query),
                             .flags = KVL_FIND_WITH_URL,
                             .ids = ids,
                             .count = BATCH,
                             .exclude_instance = {.text = own, .length = (uint32_t)strlen(own)}};
    uint64_t from = first + rnd(seed, holders) * keys + rnd(seed, keys - BATCH + 1);

    for (uint64_t k = 0; k < BATCH; k++) {
        ids[k] = id_of(from + k);
    }
    failures += kvl_registry_find(registry, &query, &run, 1, NULL) != (count != 0);
    failures += count != 0 && run.length != count;
}

static void run_prompt(void *ctx, uint64_t n)
{
    uint64_t seed = (uint64_t)(now_s() * 1e9);

    (void)ctx;
    for (uint64_t i = 0; i < n; i++) {
        find_prompt(&seed, 0, BATCH);
    }
}

static void run_prompt_miss(void *ctx, uint64_t n)
{
    uint64_t seed = (uint64_t)(now_s() * 1e9);

    (void)ctx;
    for (uint64_t i = 0; i < n; i++) {
        find_prompt(&seed, holders * keys, 0);
    }
}

static struct kvl_index *make_crowd(struct kvl_chunk_id *ids)
{
    struct kvl_index *crowd;
    uint32_t holder;

    for (uint64_t k = 0; k < BATCH; k++) {
        ids[k] = id_of(k);
    }
    if (kvl_index_create(0, &crowd) != 0) {
        abort();
    }
    for (uint32_t i = 0; i < CROWD; i++) {
        failures += kvl_index_holder_open(crowd, &holder) != 0;
        failures += kvl_index_add(crowd, holder, ids, BATCH);
    }
    return crowd;
}

static struct kvl_chunk_id hot[BATCH];

static void run_hot(void *ctx, uint64_t n)
{
    struct kvl_index_run *runs;

    for (uint64_t i = 0; i < n; i++) {
        failures += kvl_index_runs(ctx, hot, BATCH, accept_all, NULL, &runs) != CROWD;
        failures += runs == NULL || runs[0].length != BATCH;
        free(runs);
    }
}

static void lookups(struct bench *bench)
{
    struct kvl_index *crowd = make_crowd(hot);
    struct bench_case cases[] = {
        {.text = "find: 100 ids of one worker", .fn = run_prompt, .n = 3000},
        {.text = "find: 100 ids of nobody", .fn = run_prompt_miss, .n = 100000},
        {.text = "has: 1 id, hit", .fn = run_has, .n = 100000},
        {.text = "has: 1 id, miss", .fn = run_has_miss, .n = 100000},
        {.text = "index, runs of 100 ids that 10,000 have", .fn = run_hot, .ctx = crowd, .n = 500},
    };
    enum { FIND, FIND_MISS, HAS, HAS_MISS, HOT, CASES };

    bench_run(bench, cases, CASES, FIND);
    bench_add(bench, "find_mkeys_s", BATCH / cases[FIND].ns * 1e3);
    bench_add(bench, "find_ns_per_key", cases[FIND].ns / BATCH);
    bench_add(bench, "find_prompt_ns", cases[FIND].ns);
    bench_add(bench, "find_miss_ns", cases[FIND_MISS].ns);
    bench_add(bench, "has_ns", cases[HAS].ns);
    bench_add(bench, "has_miss_ns", cases[HAS_MISS].ns);
    bench_add(bench, "runs_hot_us", cases[HOT].ns / 1000);
    kvl_index_destroy(crowd);
}

/* ---- readers ---- */

struct reader {
    pthread_t thread;
    uint64_t found;
    double longest; /* seconds that one round of 100 lookups took */
    uint64_t missing;
};

static _Atomic int reading;

/* Ids of the first half of the holders, which stay. */
static void *read_on(void *arg)
{
    struct reader *reader = arg;
    struct kvl_chunk_id ids[BATCH];
    uint64_t seed = (uintptr_t)arg;
    double last = now_s();

    while (atomic_load_explicit(&reading, memory_order_relaxed)) {
        double now;

        for (uint64_t k = 0; k < BATCH; k++) {
            ids[k] = id_of(rnd(&seed, holders / 2 * keys));
        }
        for (uint64_t k = 0; k < BATCH; k++) {
            reader->missing += kvl_registry_has(registry, &ids[k]) != 1;
        }
        now = now_s();
        if (now - last > reader->longest) {
            reader->longest = now - last;
        }
        last = now;
        reader->found += BATCH;
    }
    return NULL;
}

static void wait_s(double seconds)
{
    struct timespec time = {.tv_sec = (time_t)seconds,
                            .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9)};

    (void)nanosleep(&time, NULL);
}

static void start(struct reader *readers, uint32_t count)
{
    memset(readers, 0, count * sizeof(*readers));
    atomic_store(&reading, 1);
    for (uint32_t i = 0; i < count; i++) {
        if (pthread_create(&readers[i].thread, NULL, read_on, &readers[i]) != 0) {
            abort();
        }
    }
}

/* @return ids looked up by all */
static double stop(struct reader *readers, uint32_t count)
{
    uint64_t found = 0;

    atomic_store(&reading, 0);
    for (uint32_t i = 0; i < count; i++) {
        (void)pthread_join(readers[i].thread, NULL);
        found += readers[i].found;
        failures += readers[i].missing;
    }
    return (double)found;
}

static void scaling(struct bench *bench)
{
    double seconds = bench->quick ? 0.05 : 0.5;
    struct reader readers[2];
    double sums[2] = {0, 0};

    for (int round = 0; round < (bench->quick ? 1 : 5); round++) {
        for (uint32_t count = 1; count <= 2; count++) {
            start(readers, count);
            wait_s(seconds);
            sums[count - 1] += stop(readers, count);
        }
    }
    bench_add(bench, "readers_scale_2", sums[1] / sums[0]);
}

/* ---- taking a holder out, with a reader beside ---- */

static void deregister(struct bench *bench)
{
    struct reader reader;
    double idle;
    double before;
    double took;
    double cleared;
    char text[KVL_NAME_ROOM];
    struct kvl_worker_name gone = name_of(holders - 1, text);

    start(&reader, 1);
    wait_s(bench->quick ? 0.05 : 1);
    (void)stop(&reader, 1);
    idle = reader.longest;

    start(&reader, 1);
    before = now_s();
    failures += kvl_registry_remove(registry, &gone) != 0;
    took = now_s() - before;
    while (kvl_registry_tidy(registry, 1000) == 1) {
    }
    cleared = now_s() - before;
    (void)stop(&reader, 1);
    bench_add(bench, "deregister_1m_ms", took * 1e3);
    bench_add(bench, "reclaim_1m_ms", cleared * 1e3);
    bench_add(bench, "find_max_stall_ms_idle", idle * 1e3);
    bench_add(bench, "find_max_stall_ms_during_deregister", reader.longest * 1e3);
}

/* ---- reading it all and filling another one ---- */

struct copy {
    struct kvl_index *to;
    uint32_t holder;
    uint32_t count;
    struct kvl_chunk_id ids[BATCH];
    uint64_t done;
};

static int copy_entry(void *ctx, const struct kvl_chunk_id *id, uint32_t holder)
{
    struct copy *copy = ctx;

    (void)holder;
    copy->ids[copy->count++] = *id;
    if (copy->count == BATCH) {
        failures += kvl_index_add(copy->to, copy->holder, copy->ids, BATCH);
        copy->done += BATCH;
        copy->count = 0;
    }
    return 0;
}

static void recover(struct bench *bench)
{
    struct copy copy = {.done = 0};
    double before = now_s();

    if (kvl_index_create(0, &copy.to) != 0) {
        abort();
    }
    failures += kvl_index_holder_open(copy.to, &copy.holder) != 0;
    failures += kvl_index_walk(registry->index, copy_entry, &copy) != 0;
    bench_add(bench, "walk_and_add_mkeys_s", (double)copy.done / (now_s() - before) * 1e-6);
    kvl_index_destroy(copy.to);
}

/* ---- Python ---- */

static double value_of(const struct bench *bench, const char *key)
{
    for (uint32_t i = 0; i < bench->count; i++) {
        if (strcmp(bench->values[i].key, key) == 0) {
            return bench->values[i].value;
        }
    }
    abort();
}

static void compare(struct bench *bench)
{
    struct registry_peer peer;
    int r;

    printf("\n%-12s %-15s %12s %12s %12s %12s %12s\n", "registry", "workers x keys", "admit Mops/s",
           "1 hit ns", "1 miss ns", "prompt ns", "remove ms");
    r = registry_peer_run(&peer, 100, bench->quick ? 100 : 10000);
    if (r == 0 && !bench->quick) {
        r = registry_peer_run(&peer, 100, 100000);
    }
    printf("%-12s %4llu x %-8llu %12.2f %12.0f %12.0f %12.0f %12.3f\n\n", "kvlane",
           (unsigned long long)holders, (unsigned long long)keys, value_of(bench, "admit_mops_s"),
           value_of(bench, "has_ns"), value_of(bench, "has_miss_ns"),
           value_of(bench, "find_prompt_ns"), value_of(bench, "deregister_1m_ms"));
    bench_add(bench, "find_vs_python",
              r < 0 ? -1 : peer.find_100_ns / value_of(bench, "find_prompt_ns"));
    bench_add(bench, "find_1_vs_python", r < 0 ? -1 : peer.find_1_ns / value_of(bench, "has_ns"));
    bench_add(bench, "admit_vs_python",
              r < 0 ? -1 : value_of(bench, "admit_mops_s") * 1e6 / peer.admit_ops_s);
    bench_add(bench, "python_is_stand_in", r < 0 ? -1 : strcmp(peer.name, "stand-in") == 0);
}

/* ---- */

/* Takes `name NUMBER` out of the arguments. */
static void option(int *argc, char **argv, const char *name, uint64_t *value_out)
{
    for (int i = 1; i + 1 < *argc; i++) {
        if (strcmp(argv[i], name) == 0) {
            *value_out = strtoull(argv[i + 1], NULL, 10);
            memmove(&argv[i], &argv[i + 2], (size_t)(*argc - i - 1) * sizeof(*argv));
            *argc -= 2;
            return;
        }
    }
}

static void limit_size(void)
{
    double room = (double)sysconf(_SC_AVPHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);

    /* twice: the copy of it all at the end */
    while ((double)(holders * keys) * 2 * 24 > room && keys > BATCH) {
        keys /= 2;
    }
    keys = keys / BATCH * BATCH;
    if (holders < 2 || keys < BATCH) {
        fprintf(stderr, "at least 2 holders with %u keys\n", BATCH);
        exit(2);
    }
}

int main(int argc, char **argv)
{
    struct bench bench;

    option(&argc, argv, "--holders", &holders);
    option(&argc, argv, "--keys", &keys);
    bench_init(&bench, "registry", argc, argv);
    if (bench.quick) {
        keys = 1000;
    }
    limit_size();
    open_all();
    printf("%llu workers with %llu keys each\n", (unsigned long long)holders,
           (unsigned long long)keys);
    fill(&bench);
    lookups(&bench);
    scaling(&bench);
    deregister(&bench);
    recover(&bench);
    compare(&bench);
    kvl_registry_destroy(registry);
    if (failures != 0) {
        fprintf(stderr, "%llu answers were wrong\n", (unsigned long long)failures);
        return 1;
    }
    return bench_end(&bench);
}
