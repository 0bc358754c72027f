/* SPDX-License-Identifier: Apache-2.0 */
#include "metrics_page.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "metrics_names.h"
#include "metrics_options.h"

#ifndef KVL_BUILD_ID
#define KVL_BUILD_ID "dev"
#endif

#define SECTIONS_MAX 64u
#define SAMPLES_MAX 16384u
#define LOCATION_FIRST 1u /* the own store, as in plugin.h */

struct page_sample {
    struct metrics_series series;
    uint64_t value;
    uint32_t order; /* keeps the sort stable, so that pages compare */
};

struct page {
    char sections[SECTIONS_MAX][METRICS_SECTION_MAX];
    size_t section_count;
    struct page_sample *samples; /* owned */
    uint32_t count;
    uint32_t size;
    bool failed;
};

static bool page_location(const struct kvl_host *host, uint32_t location,
                          struct kvl_health *health_out)
{
    *health_out = (struct kvl_health){.size = sizeof(*health_out)};
    if (host->health(host, location, health_out) < 0) {
        return false;
    }
    health_out->name[sizeof(health_out->name) - 1] = '\0';
    health_out->address[sizeof(health_out->address) - 1] = '\0';
    health_out->text[sizeof(health_out->text) - 1] = '\0';
    return true;
}

static struct page_sample *page_new_sample(struct page *page)
{
    struct page_sample *more;
    uint32_t size = page->size == 0 ? 256 : page->size * 2;

    if (page->count == page->size) {
        more = size > SAMPLES_MAX ? NULL : realloc(page->samples, size * sizeof(*more));
        if (more == NULL) {
            page->failed = true;
            return NULL;
        }
        page->samples = more;
        page->size = size;
    }
    page->samples[page->count].order = page->count;
    return &page->samples[page->count++];
}

static void page_add_counter(void *ctx, const char *name, uint64_t value)
{
    struct page *page = ctx;
    struct page_sample *sample = page_new_sample(page);

    if (sample != NULL) {
        metrics_names_map(name, (const char(*)[METRICS_SECTION_MAX])page->sections,
                          page->section_count, &sample->series);
        sample->value = value;
    }
}

static void page_add_state(struct page *page, const struct kvl_health *health)
{
    struct page_sample *sample = page_new_sample(page);

    if (sample == NULL) {
        return;
    }
    sample->series = (struct metrics_series){
        .name = "location_state",
        .is_gauge = true,
        .help = "0 down, 1 degraded, 2 ok",
    };
    memcpy(sample->series.section, health->name, sizeof(health->name));
    sample->value = health->state;
}

static void page_collect(struct page *page, const struct kvl_host *host)
{
    struct kvl_health health;

    for (uint32_t at = LOCATION_FIRST; page_location(host, at, &health); at++) {
        page_add_state(page, &health);
        if (at > LOCATION_FIRST && page->section_count < SECTIONS_MAX) {
            memcpy(page->sections[page->section_count++], health.name, sizeof(health.name));
        }
    }
    (void)host->stats(host, page_add_counter, page);
}

static int page_compare(const void *a, const void *b)
{
    const struct page_sample *left = a;
    const struct page_sample *right = b;
    int r = strcmp(left->series.name, right->series.name);

    r = r != 0 ? r : strcmp(left->series.section, right->series.section);
    return r != 0 ? r : left->order < right->order ? -1 : 1;
}

static bool page_same_name(const struct page_sample *a, const struct page_sample *b)
{
    return strcmp(a->series.name, b->series.name) == 0;
}

static void page_print_sample(const struct page_sample *sample, const char *prefix,
                              struct metrics_text *text)
{
    metrics_text_add(text, "%s_%s", prefix, sample->series.name);
    if (sample->series.section[0] != '\0') {
        metrics_text_add(text, "{section=\"");
        metrics_text_add_label(text, sample->series.section);
        metrics_text_add(text, "\"}");
    }
    metrics_text_add(text, " %" PRIu64 "\n", sample->value);
}

/* All samples of a name stand together under one HELP and one TYPE; a series stands there once, or
 * the reader refuses the page: two sections may differ in nothing but ':' and '-'. */
static void page_print(struct page *page, const char *prefix, struct metrics_text *text)
{
    qsort(page->samples, page->count, sizeof(*page->samples), page_compare);
    for (uint32_t i = 0; i < page->count; i++) {
        const struct page_sample *sample = &page->samples[i];
        const struct page_sample *before = i == 0 ? NULL : sample - 1;

        if (before == NULL || !page_same_name(before, sample)) {
            metrics_text_add(text, "# HELP %s_%s %s.\n# TYPE %s_%s %s\n", prefix,
                             sample->series.name, sample->series.help, prefix, sample->series.name,
                             sample->series.is_gauge ? "gauge" : "counter");
        } else if (strcmp(before->series.section, sample->series.section) == 0) {
            continue;
        }
        page_print_sample(sample, prefix, text);
    }
}

unsigned metrics_page_metrics(const struct metrics_view *view, struct metrics_text *text)
{
    struct page *page = calloc(1, sizeof(*page));
    bool failed;

    if (page == NULL) {
        return 500;
    }
    page_collect(page, view->host);
    failed = page->failed;
    if (!failed) {
        metrics_text_add(text, "# HELP %s_build_info Always 1.\n# TYPE %s_build_info gauge\n",
                         view->prefix, view->prefix);
        metrics_text_add(text, "%s_build_info{build_id=\"", view->prefix);
        metrics_text_add_label(text, KVL_BUILD_ID);
        metrics_text_add(text, "\"} 1\n");
        page_print(page, view->prefix, text);
    }
    free(page->samples);
    free(page);
    return failed || text->failed ? 500 : 200;
}

/* ---- health ---- */

static bool page_is_needed(const struct metrics_view *view, uint32_t location,
                           const struct kvl_health *health)
{
    if (view->needs[0] != '\0') {
        return metrics_list_has(view->needs, health->name);
    }
    return location == LOCATION_FIRST || (health->caps & KVL_CAP_SERVE) != 0;
}

static const char *page_state(uint32_t state)
{
    static const char *const states[] = {"down", "degraded", "ok"};

    return state < 3 ? states[state] : "down";
}

static void page_add_location(struct metrics_text *text, const struct kvl_health *health,
                              bool needed)
{
    metrics_text_add(text, "%s\n    {\"name\": ", text->used > 0 ? "," : "");
    metrics_text_add_json(text, health->name);
    metrics_text_add(text, ", \"state\": \"%s\", \"needed\": %s, \"address\": ",
                     page_state(health->state), needed ? "true" : "false");
    metrics_text_add_json(text, health->address);
    metrics_text_add(text, ", \"text\": ");
    metrics_text_add_json(text, health->text);
    metrics_text_add(text, "}");
}

unsigned metrics_page_health(const struct metrics_view *view, struct metrics_text *text)
{
    struct metrics_text list = {0};
    uint32_t worst = view->stopping ? KVL_HEALTH_DOWN : KVL_HEALTH_OK;
    struct kvl_health health;

    for (uint32_t at = LOCATION_FIRST; page_location(view->host, at, &health); at++) {
        bool needed = page_is_needed(view, at, &health);
        /* what is not needed takes nothing down */
        uint32_t state =
            needed || health.state > KVL_HEALTH_DOWN ? health.state : KVL_HEALTH_DEGRADED;

        worst = state < worst ? state : worst;
        page_add_location(&list, &health, needed);
    }
    metrics_text_add(
        text, "{\n  \"status\": \"%s\",\n  \"stopping\": %s,\n  \"locations\": [%s\n  ]\n}\n",
        page_state(worst), view->stopping ? "true" : "false", list.at != NULL ? list.at : "");
    text->failed = text->failed || list.failed;
    metrics_text_fini(&list);
    return text->failed ? 500 : worst == KVL_HEALTH_DOWN ? 503 : 200;
}

unsigned metrics_page_index(const struct metrics_view *view, struct metrics_text *text)
{
    (void)view;
    metrics_text_add(text, "kvlane\n\n/metrics  counters for Prometheus\n/health   state of every "
                           "location: 200, or 503 when one that is needed is down\n");
    return text->failed ? 500 : 200;
}

const char *metrics_page_unknown_need(const struct metrics_view *view, char *name_out, size_t size)
{
    const char *at = view->needs;

    while (*at != '\0') {
        struct kvl_health health;
        bool found = false;
        size_t length;

        at += strspn(at, " \t,");
        length = strcspn(at, ", \t");
        (void)snprintf(name_out, size, "%.*s", (int)length, at);
        for (uint32_t i = LOCATION_FIRST; !found && page_location(view->host, i, &health); i++) {
            found = strcmp(health.name, name_out) == 0;
        }
        if (length > 0 && !found) {
            return name_out;
        }
        at += length;
    }
    return NULL;
}
