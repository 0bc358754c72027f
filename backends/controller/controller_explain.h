/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file controller_explain.h
 * Why does a lookup find nothing, or less than hoped? Facts in, sentences out. Pure functions.
 */
#ifndef KVL_CONTROLLER_EXPLAIN_H
#define KVL_CONTROLLER_EXPLAIN_H

#include <stdbool.h>

#include "controller_hash.h"

/** One way to hash tokens, as the options of this backend say it. */
struct controller_way {
    struct controller_hashing hashing;
    enum controller_sip sip; /* when has_seed */
    uint32_t seed;
    bool has_seed; /* none_hash comes from a seed */
};

/** What is known about a question. */
struct controller_facts {
    /* the question */
    uint32_t ids;
    uint32_t tokens; /* they came from so many tokens; 0 = ids were given */
    struct controller_hashing hashing; /* of this controller */
    const char *instance; /* who asks; "" = nobody in particular */
    bool instance_known;
    const char *holder; /* instance with the longest run, "" = none */
    uint32_t held; /* ids of that run */
    struct kvl_explain registry; /* what the registry says to it */
    /* the fleet */
    struct kvl_registry_stats stats;
    uint32_t never_heartbeat; /* workers */
    uint32_t without_url;
    uint32_t failed_syncs;
    const char *silent_worker; /* the one that is silent longest, "" = none */
    uint64_t silent_ms;
    /* does the first chunk exist under another way of hashing? */
    bool has_way;
    struct controller_way way;
    struct kvl_chunk_id way_id;
};

struct controller_finding {
    const char *code; /* a word for machines */
    char text[480]; /* what is the case */
    char next[480]; /* what to do about it, "" = nothing */
};

/** Most findings there can be at once. */
#define CONTROLLER_FINDINGS 8u

/** The main reason first. @return how many, at least 1. */
unsigned controller_explain(const struct controller_facts *facts,
                            struct controller_finding findings_out[CONTROLLER_FINDINGS]);

/**
 * Other ways of hashing that are in use, likely ones first: other chunk sizes, seeds, Pythons,
 * releases. @return false when `index` is behind the last.
 */
bool controller_explain_way(const struct controller_hashing *ours, uint32_t index,
                            struct controller_way *way_out);

/** `chunk_size = 64, hash_seed = 0`: the options that differ between the two. */
void controller_explain_options(const struct controller_hashing *ours,
                                const struct controller_way *way, char *text_out, size_t size);

#endif /* KVL_CONTROLLER_EXPLAIN_H */
