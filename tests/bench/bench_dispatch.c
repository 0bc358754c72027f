/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the host ABI costs: one lookup hit and one 4 KiB get in the local store, through the table
 * of libkvlane.so as an engine calls it, beside a direct call and a memcpy of 4 KiB.
 *
 * abi_ns is release() of a lease that is not out: the cheapest call that passes everything each
 * call passes (table, arguments, fork check, instance) and then has nothing to do but say -EINVAL.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "engine.h"

#define CHUNKS 1024u /* 4 MiB: a working set beyond the inner caches, for get and memcpy alike */
#define BYTES 4096u
#define BATCH 32u
#define COUNTED 20000u

static struct engine engine;
static struct engine_batch batch;
static char keys[CHUNKS][KVL_KEY_MAX + 1];
static uint8_t source[CHUNKS][BYTES];
static uint8_t target[BYTES];
static uint64_t failures;

/* ---- references ---- */

__attribute__((noinline)) static int direct(struct kvl_instance *instance, uint64_t lease)
{
    __asm__ volatile("" : : "r"(instance), "r"(lease) : "memory");
    return -EINVAL;
}

static int (*volatile direct_slot)(struct kvl_instance *, uint64_t) = direct;

static void run_direct(void *ctx, uint64_t n)
{
    uint64_t i;

    (void)ctx;
    for (i = 0; i < n; i++) {
        failures += direct(engine.instance, i) != -EINVAL;
    }
}

static void run_table(void *ctx, uint64_t n)
{
    uint64_t i;

    (void)ctx;
    for (i = 0; i < n; i++) {
        failures += direct_slot(engine.instance, i) != -EINVAL;
    }
}

static void run_memcpy(void *ctx, uint64_t n)
{
    uint64_t i;

    (void)ctx;
    for (i = 0; i < n; i++) {
        memcpy(target, source[i % CHUNKS], BYTES);
        __asm__ volatile("" : : "r"(target) : "memory");
    }
}

/* ---- through the host ABI ---- */

static void run_abi(void *ctx, uint64_t n)
{
    uint64_t i;

    (void)ctx;
    for (i = 0; i < n; i++) {
        failures += engine.plugin->release(engine.instance, 0) != -EINVAL;
    }
}

static void run_lookup(void *ctx, uint64_t n)
{
    uint64_t i;

    (void)ctx;
    for (i = 0; i < n; i++) {
        batch.chunks[0].key.text = keys[i % CHUNKS];
        failures += engine.plugin->lookup(engine.instance, &batch.batch, &batch.result, NULL) != 0;
        failures += batch.result.matched != 1;
    }
}

static void run_lookup_batch(void *ctx, uint64_t n)
{
    struct engine_batch *many = ctx;
    uint64_t i;
    uint32_t k;

    for (i = 0; i < n; i++) {
        for (k = 0; k < BATCH; k++) {
            many->chunks[k].key.text = keys[(i * BATCH + k) % CHUNKS];
        }
        failures += engine.plugin->lookup(engine.instance, &many->batch, &many->result, NULL) != 0;
        failures += many->result.matched != BATCH;
    }
}

static void get(uint64_t i, int copy)
{
    struct kvl_key key = {.text = keys[i % CHUNKS], .length = batch.chunks[0].key.length};
    struct kvl_view view;

    if (engine.plugin->get(engine.instance, &key, &view) != 0) {
        failures++;
        return;
    }
    if (copy) {
        memcpy(target, view.data, BYTES);
        __asm__ volatile("" : : "r"(target) : "memory");
    }
    failures += engine.plugin->release(engine.instance, view.lease) != 0;
}

static void run_get(void *ctx, uint64_t n)
{
    uint64_t i;

    (void)ctx;
    for (i = 0; i < n; i++) {
        get(i, 1);
    }
}

static void run_lease(void *ctx, uint64_t n)
{
    uint64_t i;

    (void)ctx;
    for (i = 0; i < n; i++) {
        get(i, 0);
    }
}

static void run_load(void *ctx, uint64_t n)
{
    struct engine_batch *one = ctx;
    uint64_t i;

    for (i = 0; i < n; i++) {
        one->chunks[0].key.text = keys[i % CHUNKS];
        failures += engine.plugin->load(engine.instance, &one->batch, &one->result, NULL) != 0;
        failures += one->result.matched != 1;
    }
}

/* ---- */

static void fill(void)
{
    struct engine_batch save;
    uint32_t i;

    for (i = 0; i < CHUNKS; i++) {
        (void)snprintf(keys[i], sizeof(keys[i]),
                       "meta-llama/Llama-3.1-8B-Instruct@1@0@%016llx@bfloat16",
                       0x9e3779b97f4a7c15ull * (i + 1));
        memset(source[i], (int)i, BYTES);
        engine_batch_init(&save, 0);
        (void)engine_batch_add(&save, keys[i], source[i], BYTES);
        failures += engine.plugin->save(engine.instance, &save.batch, &save.result, NULL) != 0;
        failures += save.status[0] != 0;
    }
}

/* Calls with at least one of it, per call; the counted part has no clock and no output in it. */
static double syscalls_per_op(bench_fn fn, void *ctx)
{
    int64_t count = bench_calls_with_syscall(fn, ctx, COUNTED);

    return count < 0 ? -1 : (double)count / COUNTED;
}

static double allocs_per_op(bench_fn fn, void *ctx)
{
    int64_t before = bench_allocs();

    fn(ctx, COUNTED);
    return before < 0 ? -1 : (double)(bench_allocs() - before) / COUNTED;
}

int main(int argc, char **argv)
{
    static struct engine_batch many;
    static struct engine_batch load;
    struct kvl_open_params params = {.size = sizeof(params),
                                     .config_text = "[store]\nmax_bytes = 64MiB\n"};
    struct bench bench;
    uint32_t i;

    bench_init(&bench, "dispatch", argc, argv);
    (void)setenv("KVL_LIB", KVL_LIB_DEFAULT, 0);
    engine_init(&engine);
    engine_catch_log(&engine, &params);
    if (engine.plugin->open(&params, &engine.instance, &engine.err) != 0) {
        fprintf(stderr, "%s\n", engine.err.text);
        return 1;
    }
    fill();
    engine_batch_init(&batch, 0);
    (void)engine_batch_add(&batch, keys[0], NULL, 0);
    engine_batch_init(&load, 0);
    (void)engine_batch_add(&load, keys[0], target, BYTES);
    engine_batch_init(&many, 0);
    for (i = 0; i < BATCH; i++) {
        (void)engine_batch_add(&many, keys[i], NULL, 0);
    }

    struct bench_case cases[] = {
        {.text = "direct call", .fn = run_direct, .n = 4000000},
        {.text = "call through a table", .fn = run_table, .n = 4000000},
        {.text = "abi: release of no lease", .fn = run_abi, .n = 2000000},
        {.text = "lookup, 1 key, hit", .fn = run_lookup, .n = 200000},
        {.text = "lookup, 32 keys, hits (per batch)",
         .fn = run_lookup_batch,
         .ctx = &many,
         .n = 10000},
        {.text = "memcpy 4 KiB", .fn = run_memcpy, .n = 200000},
        {.text = "get 4 KiB: lease, copy, release", .fn = run_get, .n = 200000},
        {.text = "lease and release, no copy", .fn = run_lease, .n = 200000},
        {.text = "load 4 KiB into sg", .fn = run_load, .ctx = &load, .n = 100000},
    };
    enum { DIRECT, TABLE, ABI, LOOKUP, LOOKUP_BATCH, MEMCPY, GET, LEASE, LOAD, CASES };
    bench_run(&bench, cases, CASES, DIRECT);

    bench_add(&bench, "lookup_ns", cases[LOOKUP].ns);
    bench_add(&bench, "get4k_ns", cases[GET].ns);
    bench_add(&bench, "abi_ns", cases[ABI].ns);
    bench_add(&bench, "lookup_batch_ns_per_key", cases[LOOKUP_BATCH].ns / BATCH);
    bench_add(&bench, "lease_ns", cases[LEASE].ns);
    bench_add(&bench, "load4k_ns", cases[LOAD].ns);
    bench_add(&bench, "direct_ns", cases[DIRECT].ns);
    bench_add(&bench, "table_ns", cases[TABLE].ns);
    bench_add(&bench, "memcpy4k_ns", cases[MEMCPY].ns);
    bench_add(&bench, "abi_vs_direct", cases[ABI].ns / cases[DIRECT].ns);
    bench_add(&bench, "get4k_vs_memcpy", cases[GET].ns / cases[MEMCPY].ns);
    bench_add(&bench, "load4k_vs_memcpy", cases[LOAD].ns / cases[MEMCPY].ns);
    bench_add(&bench, "lookup_allocs_per_op", allocs_per_op(run_lookup, NULL));
    bench_add(&bench, "get_allocs_per_op", allocs_per_op(run_get, NULL));
    bench_add(&bench, "load_allocs_per_op", allocs_per_op(run_load, &load));
    bench_add(&bench, "lookup_syscalls_per_op", syscalls_per_op(run_lookup, NULL));
    bench_add(&bench, "get_syscalls_per_op", syscalls_per_op(run_get, NULL));
    bench_add(&bench, "load_syscalls_per_op", syscalls_per_op(run_load, &load));

    if (engine_close(&engine, 1000) != 0 || failures != 0) {
        fprintf(stderr, "%llu calls did not do what they should\n", (unsigned long long)failures);
        return 1;
    }
    return bench_end(&bench);
}
