/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file stat_sample.h
 * One answer of a stats socket, taken apart: lines "name value" and "health section state address
 * text". It comes from another process, so anything may stand there.
 */
#ifndef KVL_STAT_SAMPLE_H
#define KVL_STAT_SAMPLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STAT_COUNTERS_MAX 4096u
#define STAT_LOCATIONS_MAX 64u
/** `section` of counters of the store and the core. */
#define STAT_NOBODY UINT32_MAX

struct stat_counter {
    const char *name; /* all pointers go into the text */
    const char *rest; /* behind "<section>_"; the name where there is no section */
    uint32_t section; /* index of a location, or STAT_NOBODY */
    uint64_t value;
};

struct stat_location {
    const char *name;
    const char *state;
    const char *address;
    const char *text;
};

struct stat_sample {
    char *text; /* owned */
    uint64_t taken_ns;
    struct stat_counter counters[STAT_COUNTERS_MAX];
    struct stat_location locations[STAT_LOCATIONS_MAX];
    uint32_t counter_count;
    uint32_t location_count;
};

/** Takes a text apart in place and owns it from now on. Control bytes become dots. */
void stat_sample_parse(struct stat_sample *sample, char *take_text, uint64_t taken_ns);

/** Frees what is in it. Takes a zeroed sample. */
void stat_sample_fini(struct stat_sample *sample);

/** A counter of the store or the core by its whole name; 0 when there is none. */
uint64_t stat_sample_get(const struct stat_sample *sample, const char *name);

/** A counter of a section; NULL when it has none. STAT_NOBODY sums nothing. */
const uint64_t *stat_sample_of(const struct stat_sample *sample, uint32_t section,
                               const char *rest);

/** Sum over all sections. */
uint64_t stat_sample_sum(const struct stat_sample *sample, const char *rest);

/** True when every location is ok. */
bool stat_sample_healthy(const struct stat_sample *sample);

#endif /* KVL_STAT_SAMPLE_H */
