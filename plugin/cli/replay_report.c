/* SPDX-License-Identifier: Apache-2.0 */
#include "replay.h"

#include <inttypes.h>
#include <stdio.h>

void replay_merge(struct replay_report *sum, const struct replay_report *one)
{
    struct replay_counts *to = &sum->counts;
    const struct replay_counts *from = &one->counts;

    to->requests += from->requests;
    to->blocks += from->blocks;
    to->hits_own += from->hits_own;
    to->hits_engine += from->hits_engine;
    to->hits_remote += from->hits_remote;
    to->lost += from->lost;
    to->saved += from->saved;
    to->not_saved += from->not_saved;
    to->bytes_loaded += from->bytes_loaded;
    to->bytes_saved += from->bytes_saved;
    to->bytes_engine += from->bytes_engine;
    to->bytes_gpu += from->bytes_gpu;
    to->bytes_remote += from->bytes_remote;
    to->load_ns += from->load_ns;
    to->save_ns += from->save_ns;
    to->wrong_blocks += from->wrong_blocks;
    to->failed_ops += from->failed_ops;
    hist_merge(&sum->lookup, &one->lookup);
    hist_merge(&sum->load, &one->load);
}

static void print_share(const char *name, uint64_t value, uint64_t of)
{
    printf("%-24s %12" PRIu64 "  %6.2f %%\n", name, value,
           of == 0 ? 0.0 : 100.0 * (double)value / (double)of);
}

static void print_moved(const char *name, uint64_t bytes, uint64_t ns)
{
    printf("%-24s %12" PRIu64 "  %6.2f GB/s\n", name, bytes,
           ns == 0 ? 0.0 : (double)bytes / (double)ns);
}

static void print_latency(const char *name, const struct hist *hist)
{
    printf("%-24s p50 %9.1f us   p99 %9.1f us\n", name, (double)hist_percentile(hist, 0.50) / 1000,
           (double)hist_percentile(hist, 0.99) / 1000);
}

void replay_print(const struct replay_report *sum, bool metadata_only, double seconds)
{
    const struct replay_counts *counts = &sum->counts;
    uint64_t elsewhere = counts->hits_engine + counts->hits_remote;
    uint64_t hits = counts->hits_own + elsewhere;

    printf("%-24s %12" PRIu64 "  %6.2f s\n", "requests", counts->requests, seconds);
    printf("%-24s %12" PRIu64 "\n", "blocks looked up", counts->blocks);
    print_share("prefix hits", hits, counts->blocks);
    print_share("  own store", counts->hits_own, counts->blocks);
    print_share("  another engine", counts->hits_engine, counts->blocks);
    print_share("  server", counts->hits_remote, counts->blocks);
    print_share("recompute", counts->blocks - hits, counts->blocks);
    print_share("hits only elsewhere", elsewhere, hits);
    print_share("  in another engine", counts->hits_engine, hits);
    if (!metadata_only) {
        printf("%-24s %12" PRIu64 "\n", "found but not loaded", counts->lost);
        print_moved("bytes loaded", counts->bytes_loaded, counts->load_ns);
        printf("%-24s %12" PRIu64 "\n", "  from other engines", counts->bytes_engine);
        if (counts->bytes_gpu != 0) {
            printf("%-24s %12" PRIu64 "\n", "  from a GPU's memory", counts->bytes_gpu);
        }
        printf("%-24s %12" PRIu64 "\n", "  from the server", counts->bytes_remote);
        print_moved("bytes saved", counts->bytes_saved, counts->save_ns);
    }
    printf("%-24s %12" PRIu64 "\n", "blocks not stored", counts->not_saved);
    print_latency("lookup of a request", &sum->lookup);
    if (!metadata_only) {
        print_latency("load of a request", &sum->load);
    }
}

bool replay_print_memory(const struct replay_process *processes, uint32_t count)
{
    bool kept = true;
    char budget[32];
    char peak[32];

    for (uint32_t i = 0; i < count; i++) {
        const struct replay_process *one = &processes[i];
        bool within = one->budget == 0 || one->peak_rss <= one->budget + REPLAY_SLACK;

        kept = kept && within;
        (void)util_bytes_text(one->budget, budget, sizeof(budget));
        (void)util_bytes_text(one->peak_rss, peak, sizeof(peak));
        printf("memory of %-14s peak %12s   budget %12s   %s", one->name, peak,
               one->budget == 0 ? "?" : budget,
               one->budget == 0 ? "budget not known"
               : within         ? "within budget + 32 MiB"
                                : "OVER budget + 32 MiB");
        if (one->peer_rss != 0) {
            printf("; maps %s of others", util_bytes_text(one->peer_rss, peak, sizeof(peak)));
        }
        printf("\n");
    }
    return kept;
}
