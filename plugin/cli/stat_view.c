/* SPDX-License-Identifier: Apache-2.0 */
#include "stat_view.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "util.h"

#define BAR_WIDTH 30

/* Both samples and the time between them. */
struct view {
    const struct stat_sample *now;
    const struct stat_sample *before; /* NULL = none, or of an earlier process */
    double seconds;
};

/* The commands whose rates are shown, where a section counts them. */
static const struct {
    const char *counter;
    const char *word;
} commands[] = {
    {"requests_put", "put"},       {"requests_get", "get"},
    {"requests_exist", "exist"},   {"requests_list", "list"},
    {"requests_health", "health"}, {"resp_set", "resp set"},
    {"resp_get", "resp get"},      {"resp_exists", "resp exists"},
    {"lookups", "lookup"},         {"reads", "read"},
    {"writes", "write"},           {"requests", "requests"},
};

/* A counter that went back belongs to a process that was started anew. */
static uint64_t view_grew(uint64_t now, uint64_t before)
{
    return now >= before ? now - before : now;
}

static uint64_t view_delta(const struct view *view, const char *name)
{
    return view->before == NULL
               ? 0
               : view_grew(stat_sample_get(view->now, name), stat_sample_get(view->before, name));
}

static double view_per_second(const struct view *view, uint64_t delta)
{
    return view->seconds > 0 ? (double)delta / view->seconds : 0;
}

static double view_rate(const struct view *view, const char *name)
{
    return view_per_second(view, view_delta(view, name));
}

static uint64_t view_section(const struct stat_sample *sample, uint32_t section, const char *rest)
{
    const uint64_t *value = stat_sample_of(sample, section, rest);

    return value != NULL ? *value : 0;
}

/* Sections stand in the same order in every answer of a process. */
static double view_section_rate(const struct view *view, uint32_t section, const char *rest)
{
    return view->before == NULL
               ? 0
               : view_per_second(view, view_grew(view_section(view->now, section, rest),
                                                 view_section(view->before, section, rest)));
}

static double view_sum_rate(const struct view *view, const char *rest)
{
    return view->before == NULL
               ? 0
               : view_per_second(view, view_grew(stat_sample_sum(view->now, rest),
                                                 stat_sample_sum(view->before, rest)));
}

/* @return below 0 when nothing was asked for. */
static double view_ratio(uint64_t hits, uint64_t misses)
{
    return hits + misses == 0 ? -1 : (double)hits / (double)(hits + misses);
}

static double view_ratio_total(const struct view *view)
{
    return view_ratio(stat_sample_get(view->now, "store_hits"),
                      stat_sample_get(view->now, "store_misses"));
}

static double view_ratio_now(const struct view *view)
{
    return view_ratio(view_delta(view, "store_hits"), view_delta(view, "store_misses"));
}

static const char *view_percent(double ratio, char *out, size_t size)
{
    (void)snprintf(out, size, ratio < 0 ? "-" : "%.1f %%", ratio * 100);
    return out;
}

/* Decimal units, as networks are measured. */
static const char *view_speed(double bytes, char *out, size_t size)
{
    static const char *const units[] = {"B/s", "kB/s", "MB/s", "GB/s", "TB/s"};
    size_t unit = 0;

    while (bytes >= 1000 && unit + 1 < sizeof(units) / sizeof(units[0])) {
        bytes /= 1000;
        unit++;
    }
    (void)snprintf(out, size, unit == 0 ? "%.0f %s" : "%.2f %s", bytes, units[unit]);
    return out;
}

static const char *view_uptime(uint64_t ms, char *out, size_t size)
{
    uint64_t s = ms / 1000;

    if (s < 3600) {
        (void)snprintf(out, size, "%" PRIu64 " min %02" PRIu64 " s", s / 60, s % 60);
    } else if (s < 48 * 3600) {
        (void)snprintf(out, size, "%" PRIu64 " h %02" PRIu64 " min", s / 3600, s / 60 % 60);
    } else {
        (void)snprintf(out, size, "%" PRIu64 " d %02" PRIu64 " h", s / 86400, s / 3600 % 24);
    }
    return out;
}

/* ---- a screen ---- */

/* Each line clears what was behind it, so that nothing flickers. */
#define EOL "\033[K\n"

static void screen_store(const struct view *view)
{
    uint64_t used = stat_sample_get(view->now, "store_used_bytes");
    uint64_t budget = stat_sample_get(view->now, "store_max_bytes");
    double share = budget == 0 ? 0 : (double)used / (double)budget;
    char bar[BAR_WIDTH + 1];
    char a[32];
    char b[32];

    for (int i = 0; i < BAR_WIDTH; i++) {
        bar[i] = i < (int)(share * BAR_WIDTH + 0.5) ? '#' : '.';
    }
    bar[BAR_WIDTH] = '\0';
    printf("store    [%s] %3.0f %%  %s of %s, %" PRIu64 " chunks" EOL, bar, share * 100,
           util_bytes_text(used, a, sizeof(a)), util_bytes_text(budget, b, sizeof(b)),
           stat_sample_get(view->now, "store_chunks"));
    printf("hits     %s now, %s since start" EOL, view_percent(view_ratio_now(view), a, sizeof(a)),
           view_percent(view_ratio_total(view), b, sizeof(b)));
    printf("evicted  %.1f/s   refused %.1f/s (%" PRIu64 ")   corrupt %" PRIu64
           "   being written %" PRIu64 "   leased %" PRIu64 EOL,
           view_rate(view, "store_evictions"), view_rate(view, "store_refused"),
           stat_sample_get(view->now, "store_refused"), stat_sample_get(view->now, "store_corrupt"),
           stat_sample_get(view->now, "store_reserved"),
           stat_sample_get(view->now, "store_leases"));
}

static void screen_engine(const struct view *view)
{
    char a[32];
    char b[32];

    printf("engine   lookups %.0f/s, loads %.0f/s %s, saves %.0f/s %s" EOL,
           view_rate(view, "core_lookups"), view_rate(view, "core_loads"),
           view_speed(view_rate(view, "core_load_bytes"), a, sizeof(a)),
           view_rate(view, "core_saves"),
           view_speed(view_rate(view, "core_save_bytes"), b, sizeof(b)));
}

static void screen_section(const struct view *view, uint32_t section)
{
    const struct stat_sample *now = view->now;
    char in[32];
    char out[32];

    printf("%-20.20s %-9.9s %7" PRIu64 " %11s %11s %6" PRIu64 " %8" PRIu64 " ",
           now->locations[section].name, now->locations[section].state,
           view_section(now, section, "connections"),
           view_speed(view_section_rate(view, section, "bytes_in"), in, sizeof(in)),
           view_speed(view_section_rate(view, section, "bytes_out"), out, sizeof(out)),
           view_section(now, section, "slow_readers_closed") +
               view_section(now, section, "stalled_closed"),
           view_section(now, section, "connections_refused") +
               view_section(now, section, "puts_refused"));
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        const uint64_t *total = stat_sample_of(now, section, commands[i].counter);

        if (total != NULL && *total > 0) {
            printf(" %s %.0f", commands[i].word,
                   view_section_rate(view, section, commands[i].counter));
        }
    }
    printf(EOL);
}

static void view_screen(const struct view *view)
{
    const struct stat_sample *now = view->now;
    char text[64];

    printf("\033[H");
    printf("kvlane   up %s" EOL,
           view_uptime(stat_sample_get(now, "core_uptime_ms"), text, sizeof(text)));
    screen_store(view);
    screen_engine(view);
    printf(EOL "%-20s %-9s %7s %11s %11s %6s %8s  %s" EOL, "SECTION", "STATE", "CONNS", "IN", "OUT",
           "SLOW", "REFUSED", "REQUESTS/S");
    for (uint32_t i = 0; i < now->location_count; i++) {
        if (stat_sample_of(now, i, "in_flight") != NULL) { /* not the own store */
            screen_section(view, i);
        }
    }
    for (uint32_t i = 0; i < now->location_count; i++) {
        if (strcmp(now->locations[i].state, "ok") != 0) {
            printf("%s is %s: %s" EOL, now->locations[i].name, now->locations[i].state,
                   now->locations[i].text);
        }
    }
    printf("\033[J");
}

/* ---- lines ---- */

static void view_line(const struct view *view)
{
    char hit[32];
    char used[32];
    char budget[32];
    char in[32];
    char out[32];
    double requests = 0;

    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        requests += view_sum_rate(view, commands[i].counter);
    }
    printf("up %" PRIu64 " s, hits %s, %s of %s, %" PRIu64 " chunks, in %s, out %s, "
           "%.0f requests/s, %" PRIu64 " connections, %.1f evictions/s, %" PRIu64 " slow, %" PRIu64
           " refused, %" PRIu64 " corrupt%s\n",
           stat_sample_get(view->now, "core_uptime_ms") / 1000,
           view_percent(view->before != NULL ? view_ratio_now(view) : view_ratio_total(view), hit,
                        sizeof(hit)),
           util_bytes_text(stat_sample_get(view->now, "store_used_bytes"), used, sizeof(used)),
           util_bytes_text(stat_sample_get(view->now, "store_max_bytes"), budget, sizeof(budget)),
           stat_sample_get(view->now, "store_chunks"),
           view_speed(view_sum_rate(view, "bytes_in"), in, sizeof(in)),
           view_speed(view_sum_rate(view, "bytes_out"), out, sizeof(out)), requests,
           stat_sample_sum(view->now, "connections"), view_rate(view, "store_evictions"),
           stat_sample_sum(view->now, "slow_readers_closed") +
               stat_sample_sum(view->now, "stalled_closed"),
           stat_sample_get(view->now, "store_refused") +
               stat_sample_sum(view->now, "connections_refused"),
           stat_sample_get(view->now, "store_corrupt"),
           stat_sample_healthy(view->now) ? "" : ", NOT HEALTHY");
}

static void view_list(const struct stat_sample *now)
{
    for (uint32_t i = 0; i < now->counter_count; i++) {
        printf("%-40s %20" PRIu64 "\n", now->counters[i].name, now->counters[i].value);
    }
    for (uint32_t i = 0; i < now->location_count; i++) {
        const struct stat_location *location = &now->locations[i];

        printf("health %s %s %s %s\n", location->name, location->state, location->address,
               location->text);
    }
}

/* ---- JSON ---- */

/* Control bytes are gone already; what is no ASCII may be no UTF-8. */
static void json_text(const char *text)
{
    (void)putchar('"');
    for (const unsigned char *at = (const unsigned char *)text; *at != '\0'; at++) {
        if (*at == '"' || *at == '\\') {
            (void)putchar('\\');
        }
        (void)putchar(*at < 128 ? *at : '?');
    }
    (void)putchar('"');
}

static void json_ratio(const char *name, double ratio)
{
    printf(ratio < 0 ? ", \"%s\": null" : ", \"%s\": %.6f", name, ratio);
}

static void json_rates(const struct view *view)
{
    bool first = true;

    printf(", \"rates\": {");
    for (uint32_t i = 0; view->before != NULL && i < view->now->counter_count; i++) {
        const struct stat_counter *counter = &view->now->counters[i];
        uint64_t before = stat_sample_get(view->before, counter->name);

        if (counter->value > before) {
            printf("%s", first ? "" : ", ");
            json_text(counter->name);
            printf(": %.3f", view_per_second(view, counter->value - before));
            first = false;
        }
    }
    printf("}");
}

static void view_json(const struct view *view)
{
    const struct stat_sample *now = view->now;

    printf("{\"uptime_ms\": %" PRIu64 ", \"interval_s\": %.3f, \"healthy\": %s",
           stat_sample_get(now, "core_uptime_ms"), view->seconds,
           stat_sample_healthy(now) ? "true" : "false");
    json_ratio("hit_ratio", view_ratio_now(view));
    json_ratio("hit_ratio_total", view_ratio_total(view));
    json_rates(view);
    printf(", \"counters\": {");
    for (uint32_t i = 0; i < now->counter_count; i++) {
        printf("%s", i == 0 ? "" : ", ");
        json_text(now->counters[i].name);
        printf(": %" PRIu64, now->counters[i].value);
    }
    printf("}, \"locations\": [");
    for (uint32_t i = 0; i < now->location_count; i++) {
        printf("%s{\"name\": ", i == 0 ? "" : ", ");
        json_text(now->locations[i].name);
        printf(", \"state\": ");
        json_text(now->locations[i].state);
        printf(", \"address\": ");
        json_text(now->locations[i].address);
        printf(", \"text\": ");
        json_text(now->locations[i].text);
        printf("}");
    }
    printf("]}\n");
}

void stat_view_print(enum stat_form form, const struct stat_sample *now,
                     const struct stat_sample *before)
{
    struct view view = {.now = now, .before = before};

    if (before != NULL) {
        view.seconds = (double)(now->taken_ns - before->taken_ns) / 1e9;
    }
    switch (form) {
    case STAT_SCREEN:
        view_screen(&view);
        break;
    case STAT_LINES:
        view_line(&view);
        break;
    case STAT_JSON:
        view_json(&view);
        break;
    default:
        view_list(now);
        break;
    }
    (void)fflush(stdout);
}
