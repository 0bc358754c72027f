/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file bench_fleet.c
 * A fleet that is too large for one controller, simulated one shard at a time: 10,000 workers with
 * 100,000 chunks each, over 16 controllers. Two ways to cut it are measured with the same content:
 *
 *   by instance  a controller keeps every chunk of its share of the workers: a lookup asks all
 *                controllers and takes the best answer
 *   by chunk     a controller keeps its share of the chunk ids of all workers: a lookup is cut into
 *                one part per controller, and the answers are joined holder by holder
 *
 * Content: chains of 100 chunks, as prompts make them. A tenth of what a worker holds are chains
 * that many workers hold (system prompts, shared documents), the rest is its own.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench.h"
#include "registry.h"

#define CHAIN 100u /* chunks of a prompt */
#define POPULAR_CHAINS 1000u
#define POPULAR_SHARE 10u /* percent */
#define BATCH 50u /* events of a message, as workers send them */
#define LOOKUPS 20000u
/* Of what a worker holds, so much goes and comes in a minute. */
#define CHURN_PERCENT_PER_MINUTE 10.0

struct fleet {
    uint64_t workers;
    uint64_t chunks; /* of each worker */
    uint64_t shards;
    int by_chunk;
    struct kvl_registry *registry; /* of the one shard */
    uint64_t entries;
    double admit_s;
};

struct lookup_times {
    double p50_us;
    double p99_us;
    double holders; /* of the first chunk, on average */
};

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* ---- the content ---- */

static struct kvl_chunk_id chunk_at(uint64_t chain, uint64_t at)
{
    const uint64_t bits = mix(mix(chain) + at);

    return (struct kvl_chunk_id){.bits = bits, .negative = (uint32_t)(bits >> 63)};
}

/* The chain that a worker holds at place `n`. */
static uint64_t chain_of(const struct fleet *fleet, uint64_t worker, uint64_t n)
{
    const uint64_t popular = fleet->chunks / CHAIN * POPULAR_SHARE / 100;

    if (n < popular) {
        return mix(worker * 7919 + n) % POPULAR_CHAINS;
    }
    return POPULAR_CHAINS + worker * (fleet->chunks / CHAIN) + n;
}

static int is_ours(const struct fleet *fleet, uint64_t worker, struct kvl_chunk_id id)
{
    return fleet->by_chunk ? mix(id.bits) % fleet->shards == 0 : worker % fleet->shards == 0;
}

/* ---- filling the shard ---- */

static struct kvl_worker_name name_of(uint64_t worker, char *room, size_t size)
{
    const int length = snprintf(room, size, "engine-%" PRIu64, worker);

    return (struct kvl_worker_name){.instance = {.text = room, .length = (uint32_t)length}};
}

static void must(int r, const char *what)
{
    if (r < 0) {
        fprintf(stderr, "bench_fleet: %s: %s\n", what, strerror(-r));
        exit(1);
    }
}

static const struct kvl_text location = {.text = "LocalCPUBackend", .length = 15};

static void fill_worker(struct fleet *fleet, uint64_t worker)
{
    struct kvl_key_op ops[BATCH];
    char text[32];
    const struct kvl_worker_name name = name_of(worker, text, sizeof(text));
    const struct kvl_worker_desc desc = {
        .size = sizeof(desc),
        .flags = KVL_WORKER_HAS_PEER_URL,
        .name = name,
        .ip = {.text = "10.0.0.1", .length = 8},
        .peer_url = {.text = "10.0.0.1:8200", .length = 13},
    };
    uint32_t count = 0;
    int64_t seq = 0;
    uint64_t begin;

    must(kvl_registry_register(fleet->registry, &desc, NULL), "register");
    for (uint64_t n = 0; n < fleet->chunks / CHAIN; n++) {
        const uint64_t chain = chain_of(fleet, worker, n);

        for (uint64_t at = 0; at < CHAIN; at++) {
            const struct kvl_chunk_id id = chunk_at(chain, at);

            if (!is_ours(fleet, worker, id)) {
                continue;
            }
            ops[count++] = (struct kvl_key_op){.id = id, .seq = seq++, .kind = KVL_KEY_ADMIT};
            if (count == BATCH) {
                begin = now_ns();
                must(kvl_registry_apply(fleet->registry, &name, location, ops, count, NULL),
                     "apply");
                fleet->admit_s += (double)(now_ns() - begin) / 1e9;
                count = 0;
            }
        }
    }
    if (count > 0) {
        must(kvl_registry_apply(fleet->registry, &name, location, ops, count, NULL), "apply");
    }
    fleet->entries += (uint64_t)seq;
}

static void fill(struct fleet *fleet)
{
    const struct kvl_registry_params params = {
        .settings = {.sync_timeout_ms = 300000, .sync_threshold = 80},
    };

    must(kvl_registry_create(&params, &fleet->registry), "no memory");
    for (uint64_t worker = 0; worker < fleet->workers; worker++) {
        if (fleet->by_chunk || worker % fleet->shards == 0) {
            fill_worker(fleet, worker);
        }
    }
}

/* ---- lookups ---- */

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a;
    const double y = *(const double *)b;

    return (x > y) - (x < y);
}

/* The part of a chain that this shard answers for. */
static uint32_t part_of(const struct fleet *fleet, uint64_t chain, struct kvl_chunk_id *ids)
{
    uint32_t count = 0;

    for (uint64_t at = 0; at < CHAIN; at++) {
        const struct kvl_chunk_id id = chunk_at(chain, at);

        if (!fleet->by_chunk || is_ours(fleet, 0, id)) {
            ids[count++] = id;
        }
    }
    return count;
}

static struct lookup_times look(const struct fleet *fleet, int popular, uint32_t lookups)
{
    static struct kvl_run runs[4];
    struct lookup_times times = {0};
    double *us = calloc(lookups, sizeof(*us));
    uint32_t done = 0;

    for (uint32_t i = 0; us != NULL && i < lookups; i++) {
        struct kvl_chunk_id ids[CHAIN];
        const uint64_t worker = mix(i) % fleet->workers / fleet->shards * fleet->shards;
        const uint64_t chain = popular ? mix(i * 31) % POPULAR_CHAINS
                                       : chain_of(fleet, worker, fleet->chunks / CHAIN - 1);
        const struct kvl_find query = {
            .size = sizeof(query),
            .flags = KVL_FIND_WITH_URL | KVL_FIND_SAME_WORKER,
            .ids = ids,
            .count = part_of(fleet, chain, ids),
        };
        uint32_t total = 0;
        uint64_t begin;

        if (query.count == 0) {
            continue;
        }
        begin = now_ns();
        must(kvl_registry_find(fleet->registry, &query, runs, 4, &total), "find");
        us[done++] = (double)(now_ns() - begin) / 1e3;
        times.holders += total;
    }
    if (done > 0) {
        qsort(us, done, sizeof(*us), compare);
        times.p50_us = us[done / 2];
        times.p99_us = us[(uint64_t)done * 99 / 100];
        times.holders /= done;
    }
    free(us);
    return times;
}

/* A worker goes: the call, and until its memory is back. */
static void deregister(const struct fleet *fleet, double *call_us, double *tidy_ms)
{
    char text[32];
    const struct kvl_worker_name name = name_of(0, text, sizeof(text));
    uint64_t begin = now_ns();

    must(kvl_registry_remove(fleet->registry, &name), "remove");
    *call_us = (double)(now_ns() - begin) / 1e3;
    begin = now_ns();
    while (kvl_registry_tidy(fleet->registry, 1000) == 1) {
    }
    *tidy_ms = (double)(now_ns() - begin) / 1e6;
}

/* ---- the report ---- */

static void measure(struct bench *bench, struct fleet *fleet, const char *suffix)
{
    const uint32_t lookups = bench->quick ? 500 : LOOKUPS;
    const double churn = CHURN_PERCENT_PER_MINUTE / 100 / 60;
    const double fleet_events = 2.0 * (double)(fleet->workers * fleet->chunks) * churn;
    struct kvl_registry_stats stats = {.size = sizeof(stats)};
    struct lookup_times own;
    struct lookup_times shared;
    double call_us;
    double tidy_ms;
    double rate;
    static char keys[2][6][32];

    fill(fleet);
    kvl_registry_stats(fleet->registry, &stats);
    rate = (double)fleet->entries / fleet->admit_s;
    own = look(fleet, 0, lookups);
    shared = look(fleet, 1, lookups);
    deregister(fleet, &call_us, &tidy_ms);

    printf("\none of %" PRIu64 " controllers, cut %s\n", fleet->shards,
           fleet->by_chunk ? "by chunk" : "by instance");
    printf("  %-44s %14.1f M\n", "entries", (double)fleet->entries / 1e6);
    printf("  %-44s %14.2f GiB, %.1f bytes an entry\n", "memory", (double)stats.bytes / (1u << 30),
           (double)stats.bytes / (double)fleet->entries);
    printf("  %-44s %14.2f M/s\n", "admits, one thread", rate / 1e6);
    printf("  %-44s %14.2f M/s, %.1f times under what one thread takes\n",
           "events at 10 % churn a minute", fleet_events / (double)fleet->shards / 1e6,
           rate * (double)fleet->shards / fleet_events);
    printf("  %-44s %14.1f us, p99 %.1f us\n", "lookup of what one worker holds", own.p50_us,
           own.p99_us);
    printf("  %-44s %14.1f us, p99 %.1f us, %.0f holders\n", "lookup of what many hold",
           shared.p50_us, shared.p99_us, shared.holders);
    printf("  %-44s %14.1f us, memory back after %.0f ms\n", "a worker goes", call_us, tidy_ms);

    const double values[] = {
        (double)stats.bytes / (1u << 30),
        rate / 1e6,
        rate * (double)fleet->shards / fleet_events,
        own.p50_us,
        shared.p50_us,
        shared.p99_us,
    };
    const char *const names[] = {"gib",    "admit_mops_s", "headroom",
                                 "own_us", "shared_us",    "shared_p99_us"};

    for (int i = 0; i < 6; i++) {
        char *key = keys[fleet->by_chunk][i];

        snprintf(key, sizeof(keys[0][0]), "%s_%s", names[i], suffix);
        bench_add(bench, key, values[i]);
    }
    kvl_registry_destroy(fleet->registry);
}

int main(int argc, char **argv)
{
    struct bench bench;
    struct fleet fleet = {.workers = 10000, .chunks = 100000, .shards = 16};

    bench_init(&bench, "fleet", argc, argv);
    if (bench.quick) {
        fleet = (struct fleet){.workers = 100, .chunks = 2000, .shards = 4};
    }
    printf("%" PRIu64 " workers with %" PRIu64 " chunks each: %.0f M entries\n", fleet.workers,
           fleet.chunks, (double)(fleet.workers * fleet.chunks) / 1e6);
    measure(&bench, &fleet, "by_instance");
    fleet.by_chunk = 1;
    fleet.entries = 0;
    fleet.admit_s = 0;
    measure(&bench, &fleet, "by_chunk");
    return bench_end(&bench);
}
