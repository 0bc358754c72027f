/* SPDX-License-Identifier: Apache-2.0 */
#include "controller_explain.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct judge {
    const struct controller_facts *facts;
    struct controller_finding *findings;
    unsigned count;
};

static const char *judge_s(uint64_t count)
{
    return count == 1 ? "" : "s";
}

static const char *judge_is(uint64_t count)
{
    return count == 1 ? "is" : "are";
}

KVL_PRINTF(3, 0)
static void judge_print(char *to, size_t size, const char *fmt, va_list args)
{
    if (vsnprintf(to, size, fmt, args) < 0) {
        to[0] = '\0';
    }
}

KVL_PRINTF(3, 4)
static void judge_find(struct judge *judge, const char *code, const char *fmt, ...)
{
    struct controller_finding *finding = &judge->findings[judge->count];
    va_list args;

    if (judge->count == CONTROLLER_FINDINGS) {
        return;
    }
    judge->count++;
    finding->code = code;
    finding->next[0] = '\0';
    va_start(args, fmt);
    judge_print(finding->text, sizeof(finding->text), fmt, args);
    va_end(args);
}

/* What to do about the finding just made. */
KVL_PRINTF(2, 3)
static void judge_next(struct judge *judge, const char *fmt, ...)
{
    struct controller_finding *finding = &judge->findings[judge->count - 1];
    va_list args;

    va_start(args, fmt);
    judge_print(finding->next, sizeof(finding->next), fmt, args);
    va_end(args);
}

/* ---- other ways of hashing ---- */

#define WAY_SIZES 8u
#define WAY_STARTS 10u
#define WAY_EXTRAS 2u

static const uint32_t way_seeds[] = {0, 42, 123, 1};

/* Where chains start: as we do; without vLLM; then usual seeds, each for both kinds of Python. */
static void way_start(const struct controller_hashing *ours, uint32_t index,
                      struct controller_way *way)
{
    if (index == 0) {
        way->hashing.none_hash = ours->none_hash;
    } else if (index == 1) {
        way->hashing.none_hash = 0;
    } else {
        way->has_seed = true;
        way->seed = way_seeds[(index - 2) / 2];
        way->sip = index % 2 == 0 ? CONTROLLER_SIP13 : CONTROLLER_SIP24;
        way->hashing.none_hash = controller_hash_none(way->sip, way->seed);
    }
}

bool controller_explain_way(const struct controller_hashing *ours, uint32_t index,
                            struct controller_way *way_out)
{
    static const uint32_t sizes[WAY_SIZES - 1] = {256, 16, 64, 128, 512, 1024, 32};
    struct controller_way way = {0};
    uint32_t start = index % WAY_STARTS;
    uint32_t extra = index / WAY_STARTS % WAY_EXTRAS;
    uint32_t size = index / (WAY_STARTS * WAY_EXTRAS);

    if (size >= WAY_SIZES) {
        return false;
    }
    way.hashing.chunk_size = size == 0 ? ours->chunk_size : sizes[size - 1];
    way.hashing.extra = extra == 0                              ? ours->extra
                        : ours->extra == CONTROLLER_EXTRA_EMPTY ? CONTROLLER_EXTRA_NONE
                                                                : CONTROLLER_EXTRA_EMPTY;
    way_start(ours, start, &way);
    *way_out = way;
    return true;
}

KVL_PRINTF(3, 4)
static void way_add(char *text, size_t size, const char *fmt, ...)
{
    size_t used = strlen(text);
    va_list args;

    if (used > 0) {
        (void)snprintf(text + used, size - used, ", ");
        used = strlen(text);
    }
    va_start(args, fmt);
    judge_print(text + used, size - used, fmt, args);
    va_end(args);
}

void controller_explain_options(const struct controller_hashing *ours,
                                const struct controller_way *way, char *text_out, size_t size)
{
    text_out[0] = '\0';
    if (way->hashing.chunk_size != ours->chunk_size) {
        way_add(text_out, size, "chunk_size = %u", way->hashing.chunk_size);
    }
    if (way->hashing.none_hash != ours->none_hash) {
        if (way->has_seed) {
            way_add(text_out, size, "hash_seed = %u, hash_sip = %d", way->seed,
                    way->sip == CONTROLLER_SIP13 ? 13 : 24);
        } else {
            way_add(text_out, size, "none_hash = %lld", (long long)way->hashing.none_hash);
        }
    }
    if (way->hashing.extra != ours->extra) {
        way_add(text_out, size, "hash_extra = %s",
                way->hashing.extra == CONTROLLER_EXTRA_NONE ? "none" : "empty");
    }
}

/* ---- the main reason ---- */

static void judge_no_workers(struct judge *judge)
{
    judge_find(judge, "no_workers", "No worker is registered, so nobody can hold anything.");
    judge_next(judge,
               "Give the engines enable_controller: true, a lmcache_instance_id, and both "
               "controller_pull_url and controller_reply_url as host:port without a scheme. A "
               "worker registers once, when it starts, over the reply port: that port must be "
               "reachable then, also through a Kubernetes service. If the controller was "
               "restarted, workers without heartbeats come back only when they are restarted too.");
}

static void judge_empty(struct judge *judge)
{
    const struct controller_facts *facts = judge->facts;

    judge_find(judge, "nothing_announced",
               "%u worker%s %s registered, but no chunk is known: nothing was announced yet, or "
               "all of it was evicted.",
               facts->stats.workers, judge_s(facts->stats.workers), judge_is(facts->stats.workers));
    judge_next(judge,
               "Send a prompt of at least one whole chunk (%u tokens here) to an engine. If "
               "the count of keys stays 0, check that controller_pull_url names the pull "
               "port, and that the engine stores to LocalCPUBackend (local_cpu: true).",
               facts->hashing.chunk_size);
}

static void judge_short_prompt(struct judge *judge)
{
    judge_find(judge, "prompt_too_short",
               "The prompt has %u tokens, less than one chunk of %u. Workers store whole chunks "
               "only, unless save_unfull_chunk is set.",
               judge->facts->tokens, judge->facts->hashing.chunk_size);
    judge_next(judge,
               "Ask with at least %u tokens, or use smaller chunks: the same chunk_size on "
               "all workers and here.",
               judge->facts->hashing.chunk_size);
}

static void judge_other_way(struct judge *judge)
{
    const struct controller_facts *facts = judge->facts;
    char options[160];

    controller_explain_options(&facts->hashing, &facts->way, options, sizeof(options));
    judge_find(
        judge, "other_hashing",
        "The workers cut or hash tokens in another way than this controller: with %s the "
        "first chunk has the id %s%llu, and that one is held.",
        options, facts->way_id.negative ? "-" : "",
        (unsigned long long)(facts->way_id.negative ? 0 - facts->way_id.bits : facts->way_id.bits));
    judge_next(judge,
               "Set %s in section [controller] and restart it, or bring the workers to the "
               "settings that this controller has.",
               options);
}

static void judge_no_such_hash(struct judge *judge)
{
    if (judge->facts->tokens > 0) {
        judge_find(judge, "no_such_chunk",
                   "Nobody holds the first chunk, under none of the usual ways to cut and hash "
                   "tokens (chunks of 16 to 1024, several seeds, both kinds of Python).");
        judge_next(judge,
                   "Either these tokens were never stored, or were evicted since; or workers start "
                   "with a random PYTHONHASHSEED (set the same number on all of them), or use a "
                   "pre_caching_hash_algorithm other than builtin, which this controller cannot "
                   "follow. Compare with the ids that a worker logs.");
        return;
    }
    judge_find(judge, "no_such_chunk", "Nobody holds the first chunk of these.");
    judge_next(judge, "If an engine has it for sure, its id there is another one: compare "
                      "PYTHONHASHSEED, chunk_size and pre_caching_hash_algorithm between the "
                      "engine that stored and the one that asks.");
}

static void judge_only_requester(struct judge *judge)
{
    judge_find(judge, "only_the_requester",
               "Only '%s' itself holds chunk %u. A worker's own instance is left out of its "
               "lookups.",
               judge->facts->instance, judge->facts->registry.known);
}

static void judge_without_url(struct judge *judge, uint32_t count)
{
    judge_find(judge, "no_peer_url",
               "%u holder%s of chunk %u registered without a peer_init_url, so nobody can fetch "
               "from there.",
               count, judge_s(count), judge->facts->registry.known);
    judge_next(judge, "Set enable_p2p: true, p2p_host and p2p_init_ports on these workers.");
}

static void judge_silent_holders(struct judge *judge)
{
    const uint32_t count = judge->facts->registry.silent;

    judge_find(judge, "holder_silent",
               "%u holder%s of chunk %u %s silent for longer than its time-to-live and not offered "
               "any more.",
               count, judge_s(count), judge->facts->registry.known, judge_is(count));
    judge_next(judge, "Check whether the engine still runs and reaches this controller; one that "
                      "comes back is offered again at its first message.");
}

static void judge_partial(struct judge *judge)
{
    const struct controller_facts *facts = judge->facts;

    if (facts->registry.known > facts->held) {
        judge_find(judge, "split_over_holders",
                   "No single holder has more than the first %u of %u chunks; several together "
                   "have the first %u. A lookup answers with one holder's run.",
                   facts->held, facts->ids, facts->registry.known);
        judge_next(judge, "Route requests with the same prefix to the same engine.");
        return;
    }
    judge_find(judge, "partly_held",
               "'%s' holds the first %u of %u chunks; nobody holds the next one.", facts->holder,
               facts->held, facts->ids);
    if (facts->tokens > 0 && facts->held + 1 == facts->ids &&
        facts->tokens % facts->hashing.chunk_size != 0) {
        judge_next(judge,
                   "The last chunk is not whole (%u of %u tokens); workers store such ones "
                   "only with save_unfull_chunk. This is as good as it gets.",
                   facts->tokens % facts->hashing.chunk_size, facts->hashing.chunk_size);
    } else {
        judge_next(judge, "The rest was never computed there, or was evicted since: give the "
                          "engines more room (max_local_cpu_size), or ask sooner.");
    }
}

/* About the first chunk that is missing, when there are holders that do not count. */
static bool judge_holders(struct judge *judge)
{
    const struct kvl_explain *said = &judge->facts->registry;
    const unsigned before = judge->count;

    if (said->holders == 0) {
        return false;
    }
    if (said->excluded == said->holders) {
        judge_only_requester(judge);
        return true;
    }
    if (said->without_url > 0) {
        judge_without_url(judge, said->without_url);
    }
    if (said->silent > 0) {
        judge_silent_holders(judge);
    }
    return judge->count > before;
}

static void judge_main(struct judge *judge)
{
    const struct controller_facts *facts = judge->facts;

    if (facts->ids == 0) {
        judge_find(judge, "nothing_asked",
                   "No chunk was asked for: there are no tokens and no ids.");
    } else if (facts->held == facts->ids) {
        judge_find(judge, "found", "All chunks that were asked for are held by '%s'.",
                   facts->holder);
    } else if (facts->stats.workers == 0) {
        judge_no_workers(judge);
    } else if (facts->has_way) {
        judge_other_way(judge);
    } else if (facts->held == 0 && facts->tokens > 0 && facts->tokens < facts->hashing.chunk_size) {
        judge_short_prompt(judge);
    } else if (facts->stats.keys == 0) {
        judge_empty(judge);
    } else if (judge_holders(judge)) {
        return;
    } else if (facts->held == 0) {
        judge_no_such_hash(judge);
    } else {
        judge_partial(judge);
    }
}

/* ---- what makes it worse ---- */

static void judge_fleet(struct judge *judge)
{
    const struct controller_facts *facts = judge->facts;
    const struct kvl_registry_stats *stats = &facts->stats;

    if (facts->instance[0] != '\0' && !facts->instance_known) {
        judge_find(judge, "unknown_instance",
                   "The instance that asks, '%s', is not registered here.", facts->instance);
        judge_next(judge, "Its own events are dropped until it registers. Compare its "
                          "lmcache_instance_id with the list of instances.");
    }
    if (stats->syncing > 0) {
        judge_find(
            judge, "syncing",
            "%u worker%s %s in a full sync. Events that come meanwhile are dropped, so that what "
            "was stored just now may be missing.",
            stats->syncing, judge_s(stats->syncing), judge_is(stats->syncing));
        judge_next(judge, "Ask again when sync progress is complete.");
    }
    if (facts->silent_worker[0] != '\0') {
        judge_find(judge, "silent_workers", "%u worker%s %s silent, the longest '%s' for %llu s.",
                   stats->silent, judge_s(stats->silent), judge_is(stats->silent),
                   facts->silent_worker, (unsigned long long)(facts->silent_ms / 1000));
    }
    if (facts->never_heartbeat > 0) {
        judge_find(judge, "no_heartbeats",
                   "%u of %u worker%s never sent a heartbeat. After a restart of the controller "
                   "such workers stay unknown, and they are never asked for a full sync.",
                   facts->never_heartbeat, stats->workers, judge_s(stats->workers));
        judge_next(judge, "Set heartbeat_port here, and lmcache_worker_heartbeat_time (10, say) on "
                          "the workers.");
    }
    if (stats->dropped > 0) {
        judge_find(judge, "out_of_memory",
                   "%llu announced chunk%s found no room in the registry and %s not known.",
                   (unsigned long long)stats->dropped, judge_s(stats->dropped),
                   judge_is(stats->dropped));
        judge_next(judge, "Raise memory in section [registry].");
    }
}

unsigned controller_explain(const struct controller_facts *facts,
                            struct controller_finding findings_out[CONTROLLER_FINDINGS])
{
    struct judge judge = {.facts = facts, .findings = findings_out};

    judge_main(&judge);
    if (facts->ids > 0 && facts->held < facts->ids && facts->stats.workers > 0) {
        judge_fleet(&judge);
    }
    return judge.count;
}
