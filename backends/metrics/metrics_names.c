/* SPDX-License-Identifier: Apache-2.0 */
#include "metrics_names.h"

#include <stdio.h>
#include <string.h>

struct metrics_known {
    enum metrics_scope scope;
    bool is_gauge;
    const char *name;
    const char *help;
};

#define COUNTER false
#define GAUGE true

/* A counter that is missing here is shown too, as a counter with a plain help line. A gauge that is
 * missing would be shown as a counter: add it. Names of backends are shared by all of them. */
static const struct metrics_known known[] = {
    {METRICS_STORE, GAUGE, "chunks", "Chunks in the own store"},
    {METRICS_STORE, GAUGE, "bytes", "Payload of the chunks in the own store"},
    {METRICS_STORE, GAUGE, "used_bytes", "Budget in use, with chunks under way and bookkeeping"},
    {METRICS_STORE, GAUGE, "max_bytes", "Budget of the own store"},
    {METRICS_STORE, COUNTER, "hits", "Chunks asked for in the own store that were there"},
    {METRICS_STORE, COUNTER, "misses", "Chunks asked for in the own store that were not there"},
    {METRICS_STORE, COUNTER, "evictions", "Chunks that made room for others"},
    {METRICS_STORE, COUNTER, "refused", "Chunks that found no room"},
    {METRICS_STORE, COUNTER, "lost", "Chunks that made room before they were written below"},
    {METRICS_STORE, COUNTER, "corrupt", "Chunks whose checksum did not match"},
    {METRICS_STORE, GAUGE, "leases", "Leases on chunks that are out"},
    {METRICS_STORE, GAUGE, "reserved", "Chunks being written"},
    {METRICS_CORE, GAUGE, "uptime_ms", "Milliseconds since the instance was opened"},
    {METRICS_CORE, COUNTER, "lookups", "Lookup calls"},
    {METRICS_CORE, COUNTER, "lookup_chunks", "Chunks looked up"},
    {METRICS_CORE, COUNTER, "lookup_hits_local", "Chunks looked up and found in the own store"},
    {METRICS_CORE, COUNTER, "lookup_hits_remote", "Chunks looked up and found at a backend"},
    {METRICS_CORE, COUNTER, "loads", "Load calls"},
    {METRICS_CORE, COUNTER, "load_chunks", "Chunks asked for by load calls"},
    {METRICS_CORE, COUNTER, "load_hits_local", "Chunks loaded from the own store"},
    {METRICS_CORE, COUNTER, "load_hits_remote", "Chunks loaded from a backend"},
    {METRICS_CORE, COUNTER, "load_bytes", "Bytes loaded"},
    {METRICS_CORE, COUNTER, "saves", "Save calls"},
    {METRICS_CORE, COUNTER, "save_chunks", "Chunks given to save calls"},
    {METRICS_CORE, COUNTER, "save_bytes", "Bytes saved"},
    {METRICS_CORE, COUNTER, "timeouts", "Operations cut off at their deadline"},
    {METRICS_CORE, COUNTER, "cancels", "Operations cancelled"},
    {METRICS_BACKEND, COUNTER, "tier_written", "Chunks written below the own store"},
    {METRICS_BACKEND, COUNTER, "tier_written_bytes", "Bytes of these"},
    {METRICS_BACKEND, COUNTER, "tier_write_failures", "Chunks that could not be written below"},
    {METRICS_BACKEND, COUNTER, "tier_fetched", "Chunks asked for below the own store for a peer"},
    {METRICS_BACKEND, COUNTER, "tier_fetch_hits", "Of these, chunks that were there"},
    {METRICS_BACKEND, COUNTER, "tier_removes", "Older bytes removed below the own store"},
    {METRICS_CORE, GAUGE, "lookup_p50_ns", "Median time of a lookup in ns"},
    {METRICS_CORE, GAUGE, "lookup_p99_ns", "99th percentile of the time of a lookup in ns"},
    {METRICS_CORE, GAUGE, "load_p50_ns", "Median time of a load in ns"},
    {METRICS_CORE, GAUGE, "load_p99_ns", "99th percentile of the time of a load in ns"},
    {METRICS_CORE, GAUGE, "operations", "Operations under way"},
    {METRICS_CORE, GAUGE, "flights", "Batches at backends"},
    {METRICS_CORE, GAUGE, "quarantined", "Batches past their deadline whose memory is held back"},
    {METRICS_CORE, GAUGE, "hint_keys", "Chunks known to be at backends"},
    {METRICS_REGISTRY, GAUGE, "instances", "Instances registered"},
    {METRICS_REGISTRY, GAUGE, "workers", "Workers registered"},
    {METRICS_REGISTRY, GAUGE, "workers_syncing", "Of these, workers in a full sync"},
    {METRICS_REGISTRY, GAUGE, "workers_completed", "Of these, workers that ended a full sync"},
    {METRICS_REGISTRY, GAUGE, "workers_silent", "Of these, workers past their time-to-live"},
    {METRICS_REGISTRY, GAUGE, "keys", "Chunks held, counted once for each location"},
    {METRICS_REGISTRY, GAUGE, "chunks", "Different chunks held"},
    {METRICS_REGISTRY, GAUGE, "used_bytes", "Memory of the registry in use"},
    {METRICS_REGISTRY, GAUGE, "max_bytes", "Bound of the memory of the registry, 0 = none"},
    {METRICS_REGISTRY, COUNTER, "dropped", "Chunks announced that found no room"},
    {METRICS_REGISTRY, COUNTER, "gaps", "Messages of workers with a gap in their sequence"},
    {METRICS_REGISTRY, GAUGE, "missing_batches", "Batches not received of full syncs under way"},
    {METRICS_COMMON, GAUGE, "in_flight", "Batches accepted by the backend and not completed"},
    {METRICS_COMMON, GAUGE, "overdue", "Of these, batches past their deadline"},
    {METRICS_COMMON, COUNTER, "late_completions", "Batches completed past their deadline"},
    {METRICS_COMMON, COUNTER, "bogus_completions", "Completions of no batch"},
    {METRICS_COMMON, COUNTER, "failures", "Chunks that ended in an error other than a miss"},
    {METRICS_BACKEND, GAUGE, "connections", "Connections now"},
    {METRICS_BACKEND, GAUGE, "batches_in_flight", "Batches under way"},
    {METRICS_BACKEND, COUNTER, "connections_accepted", "Connections accepted"},
    {METRICS_BACKEND, COUNTER, "connections_refused", "Connections closed at once, over a limit"},
    {METRICS_BACKEND, COUNTER, "requests_put", "Requests to store a chunk"},
    {METRICS_BACKEND, COUNTER, "requests_get", "Requests for a chunk"},
    {METRICS_BACKEND, COUNTER, "requests_exist", "Requests whether a chunk is there"},
    {METRICS_BACKEND, COUNTER, "requests_list", "Requests for a list of keys"},
    {METRICS_BACKEND, COUNTER, "requests_health", "Requests for health"},
    {METRICS_BACKEND, COUNTER, "hits", "Chunks asked for that were there"},
    {METRICS_BACKEND, COUNTER, "misses", "Chunks asked for that were not there"},
    {METRICS_BACKEND, COUNTER, "stored", "Chunks stored for peers"},
    {METRICS_BACKEND, COUNTER, "puts_refused",
     "Chunks of peers that were too large or found no room"},
    {METRICS_BACKEND, COUNTER, "puts_truncated", "Chunks of peers that ended early"},
    {METRICS_BACKEND, COUNTER, "protocol_errors", "Peers that broke the protocol"},
    {METRICS_BACKEND, COUNTER, "slow_readers_closed", "Connections closed: reply not taken"},
    {METRICS_BACKEND, COUNTER, "stalled_closed", "Connections closed: request not finished"},
    {METRICS_BACKEND, COUNTER, "idle_closed", "Connections closed: no request"},
    {METRICS_BACKEND, COUNTER, "bytes_in", "Bytes received"},
    {METRICS_BACKEND, COUNTER, "bytes_out", "Bytes sent"},
    {METRICS_BACKEND, COUNTER, "connections_denied", "Connections closed at once, not allowed"},
    {METRICS_BACKEND, COUNTER, "tls_failed", "Connections that did not get through TLS"},
    {METRICS_BACKEND, COUNTER, "resp_set", "SET commands of Redis clients"},
    {METRICS_BACKEND, COUNTER, "resp_get", "GET commands of Redis clients"},
    {METRICS_BACKEND, COUNTER, "resp_exists", "EXISTS commands of Redis clients"},
    {METRICS_BACKEND, COUNTER, "resp_other", "Other commands of Redis clients"},
    {METRICS_BACKEND, COUNTER, "resp_errors", "Commands of Redis clients answered with an error"},
    {METRICS_BACKEND, COUNTER, "resp_auth_failed", "Wrong passwords of Redis clients"},
    {METRICS_BACKEND, GAUGE, "resp_held", "Chunks kept because EXISTS said that they are there"},
    {METRICS_BACKEND, GAUGE, "resp_held_bytes", "Bytes of these"},
    {METRICS_BACKEND, GAUGE, "chunks", "Chunks there"},
    {METRICS_BACKEND, GAUGE, "live_bytes", "Bytes of the chunks there"},
    {METRICS_BACKEND, GAUGE, "disk_bytes", "Bytes on disk"},
    {METRICS_BACKEND, GAUGE, "budget_bytes", "Budget on disk"},
    {METRICS_BACKEND, GAUGE, "segments", "Files on disk"},
};

static const struct metrics_known *names_find(enum metrics_scope scope, const char *name)
{
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        if (known[i].scope == scope && strcmp(known[i].name, name) == 0) {
            return &known[i];
        }
    }
    return NULL;
}

static bool names_ends_with(const char *name, const char *end)
{
    size_t length = strlen(name);
    size_t tail = strlen(end);

    return length >= tail && strcmp(name + length - tail, end) == 0;
}

/* Of what the table does not know: times are gauges, and what says that it is about now. */
static bool names_looks_like_gauge(const char *name)
{
    static const char *const ends[] = {"_ns",        "_ms",   "_now",   "_max_bytes",
                                       "used_bytes", "_keys", "_chunks"};

    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
        if (names_ends_with(name, ends[i])) {
            return true;
        }
    }
    return false;
}

/* The rest of a counter behind "<section>_", as the core writes sections there: ':' and '-' are
 * underscores. NULL when it is not of that section. */
static const char *names_behind(const char *counter, const char *section)
{
    size_t i;

    for (i = 0; section[i] != '\0'; i++) {
        char c = section[i] == ':' || section[i] == '-' ? '_' : section[i];

        if (counter[i] != c) {
            return NULL;
        }
    }
    return counter[i] == '_' ? counter + i + 1 : NULL;
}

/* Names of Prometheus are narrower than what a backend may say. */
static void names_clean(char *name)
{
    for (char *c = name; *c != '\0'; c++) {
        bool fine = (*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') ||
                    (*c >= '0' && *c <= '9') || *c == '_';

        *c = fine ? *c : '_';
    }
}

static void names_fill(struct metrics_series *series, enum metrics_scope scope, const char *word,
                       size_t word_length, const char *name)
{
    const struct metrics_known *found = names_find(scope, name);
    const char *end;

    series->is_gauge = found != NULL ? found->is_gauge : names_looks_like_gauge(name);
    series->help = found != NULL ? found->help : "See the README of the backend";
    end = series->is_gauge || names_ends_with(name, "_total") ? "" : "_total";
    (void)snprintf(series->name, sizeof(series->name), "%.*s%s%s%s", (int)word_length, word,
                   word_length > 0 ? "_" : "", name, end);
    names_clean(series->name);
}

void metrics_names_map(const char *counter, const char (*sections)[METRICS_SECTION_MAX],
                       size_t section_count, struct metrics_series *series_out)
{
    const char *section = NULL;
    const char *rest = NULL;

    *series_out = (struct metrics_series){0};
    /* [a] and [a:b] both fit a_b_hits: the longer one says more */
    for (size_t i = 0; i < section_count; i++) {
        const char *behind = names_behind(counter, sections[i]);

        if (behind != NULL && (rest == NULL || behind > rest)) {
            rest = behind;
            section = sections[i];
        }
    }
    if (strncmp(counter, "store_", 6) == 0) {
        names_fill(series_out, METRICS_STORE, "store", 5, counter + 6);
    } else if (strncmp(counter, "core_", 5) == 0) {
        names_fill(series_out, METRICS_CORE, "core", 4, counter + 5);
    } else if (strncmp(counter, "registry_", 9) == 0) {
        names_fill(series_out, METRICS_REGISTRY, "registry", 8, counter + 9);
    } else if (section == NULL) {
        names_fill(series_out, METRICS_BACKEND, "", 0, counter);
    } else {
        (void)snprintf(series_out->section, sizeof(series_out->section), "%s", section);
        if (names_find(METRICS_COMMON, rest) != NULL) {
            names_fill(series_out, METRICS_COMMON, "backend", 7, rest);
        } else {
            names_fill(series_out, METRICS_BACKEND, section, strcspn(section, ":"), rest);
        }
    }
}
