/* SPDX-License-Identifier: Apache-2.0 */
#include "stat_sample.h"

#include <stdlib.h>
#include <string.h>

/* What another process wrote goes to a terminal. */
static void sample_clean(char *text)
{
    for (unsigned char *at = (unsigned char *)text; *at != '\0'; at++) {
        if (*at != '\n' && (*at < 32 || *at == 127)) {
            *at = '.';
        }
    }
}

/* Cuts the first word off and returns it; *at moves behind the blank. */
static const char *sample_word(char **at)
{
    char *word = *at;
    char *blank = word + strcspn(word, " ");

    *at = blank + (*blank != '\0');
    *blank = '\0';
    return word;
}

static void sample_take(struct stat_sample *sample, char *line)
{
    const char *name = sample_word(&line);

    if (strcmp(name, "health") == 0) {
        if (sample->location_count < STAT_LOCATIONS_MAX) {
            struct stat_location *location = &sample->locations[sample->location_count++];

            location->name = sample_word(&line);
            location->state = sample_word(&line);
            location->address = sample_word(&line);
            location->text = line;
        }
    } else if (name[0] != '\0' && sample->counter_count < STAT_COUNTERS_MAX) {
        sample->counters[sample->counter_count++] = (struct stat_counter){
            .name = name,
            .rest = name,
            .section = STAT_NOBODY,
            .value = strtoull(line, NULL, 10),
        };
    }
}

/* Behind "<section>_", where the core writes ':' and '-' of sections as underscores. */
static const char *sample_behind(const char *name, const char *section)
{
    size_t i;

    for (i = 0; section[i] != '\0'; i++) {
        if (name[i] != (section[i] == ':' || section[i] == '-' ? '_' : section[i])) {
            return NULL;
        }
    }
    return name[i] == '_' ? name + i + 1 : NULL;
}

static void sample_find_section(const struct stat_sample *sample, struct stat_counter *counter)
{
    if (strncmp(counter->name, "store_", 6) == 0 || strncmp(counter->name, "core_", 5) == 0 ||
        strncmp(counter->name, "registry_", 9) == 0) {
        return;
    }
    for (uint32_t i = 0; i < sample->location_count; i++) {
        const char *behind = sample_behind(counter->name, sample->locations[i].name);

        if (behind != NULL && behind > counter->rest) { /* [a:b] goes before [a] */
            counter->rest = behind;
            counter->section = i;
        }
    }
}

void stat_sample_parse(struct stat_sample *sample, char *take_text, uint64_t taken_ns)
{
    sample->text = take_text;
    sample->taken_ns = taken_ns;
    sample->counter_count = 0;
    sample->location_count = 0;
    sample_clean(take_text);
    for (char *line = take_text; *line != '\0';) {
        char *next = line + strcspn(line, "\n");

        if (*next != '\0') {
            *next++ = '\0';
        }
        sample_take(sample, line);
        line = next;
    }
    for (uint32_t i = 0; i < sample->counter_count; i++) {
        sample_find_section(sample, &sample->counters[i]);
    }
}

void stat_sample_fini(struct stat_sample *sample)
{
    free(sample->text);
    sample->text = NULL;
    sample->counter_count = 0;
    sample->location_count = 0;
}

uint64_t stat_sample_get(const struct stat_sample *sample, const char *name)
{
    for (uint32_t i = 0; i < sample->counter_count; i++) {
        if (strcmp(sample->counters[i].name, name) == 0) {
            return sample->counters[i].value;
        }
    }
    return 0;
}

const uint64_t *stat_sample_of(const struct stat_sample *sample, uint32_t section, const char *rest)
{
    for (uint32_t i = 0; section != STAT_NOBODY && i < sample->counter_count; i++) {
        if (sample->counters[i].section == section && strcmp(sample->counters[i].rest, rest) == 0) {
            return &sample->counters[i].value;
        }
    }
    return NULL;
}

uint64_t stat_sample_sum(const struct stat_sample *sample, const char *rest)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < sample->location_count; i++) {
        const uint64_t *value = stat_sample_of(sample, i, rest);

        sum += value != NULL ? *value : 0;
    }
    return sum;
}

bool stat_sample_healthy(const struct stat_sample *sample)
{
    for (uint32_t i = 0; i < sample->location_count; i++) {
        if (strcmp(sample->locations[i].state, "ok") != 0) {
            return false;
        }
    }
    return true;
}
