/* SPDX-License-Identifier: Apache-2.0 */
#include "exposition.h"

#include <ctype.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SERIES_MAX 512
#define TEXT_MAX 256

struct reader {
    char name[TEXT_MAX]; /* of the metric whose lines we are in */
    char type[16];
    char names[SERIES_MAX][TEXT_MAX];
    char series[SERIES_MAX][TEXT_MAX];
    unsigned name_count;
    unsigned series_count;
};

static size_t name_length(const char *at)
{
    size_t length = 0;

    while (isalnum((unsigned char)at[length]) || at[length] == '_' || at[length] == ':') {
        length++;
    }
    if (length == 0 || isdigit((unsigned char)at[0])) {
        fail_msg("no name: %s", at);
    }
    return length;
}

/* Behind the closing brace. */
static const char *skip_labels(const char *at)
{
    while (*at != '}') {
        at += name_length(at);
        assert_memory_equal(at, "=\"", 2);
        for (at += 2; *at != '"'; at++) {
            assert_true(*at != '\0' && *at != '\n');
            if (*at == '\\') {
                at++;
                assert_true(*at == '\\' || *at == '"' || *at == 'n');
            }
        }
        at++;
        assert_true(*at == ',' || *at == '}');
        at += *at == ',';
    }
    return at + 1;
}

static void begin_metric(struct reader *reader, const char *line)
{
    size_t length = name_length(line);

    assert_true(length < sizeof(reader->name));
    memcpy(reader->name, line, length);
    reader->name[length] = '\0';
    reader->type[0] = '\0';
    assert_int_equal(line[length], ' ');
    for (unsigned i = 0; i < reader->name_count; i++) {
        assert_string_not_equal(reader->names[i], reader->name);
    }
    assert_true(reader->name_count < SERIES_MAX);
    memcpy(reader->names[reader->name_count++], reader->name, sizeof(reader->name));
}

static void take_type(struct reader *reader, const char *line)
{
    size_t length = name_length(line);
    bool total = length > 6 && strncmp(line + length - 6, "_total", 6) == 0;

    assert_true(strlen(reader->name) == length && strncmp(line, reader->name, length) == 0);
    snprintf(reader->type, sizeof(reader->type), "%s", line + length + 1);
    assert_true(strcmp(reader->type, "counter") == 0 || strcmp(reader->type, "gauge") == 0);
    assert_int_equal(total, strcmp(reader->type, "counter") == 0);
}

static void take_sample(struct reader *reader, const char *line)
{
    size_t length = name_length(line);
    const char *end = line + length;
    char *behind;

    assert_true(reader->type[0] != '\0');
    assert_true(strlen(reader->name) == length && strncmp(line, reader->name, length) == 0);
    if (*end == '{') {
        end = skip_labels(end + 1);
    }
    assert_int_equal(*end, ' ');
    (void)strtod(end + 1, &behind);
    assert_true(behind > end + 1 && *behind == '\0');
    assert_true(reader->series_count < SERIES_MAX && end - line < TEXT_MAX);
    for (unsigned i = 0; i < reader->series_count; i++) {
        assert_true(strlen(reader->series[i]) != (size_t)(end - line) ||
                    strncmp(reader->series[i], line, (size_t)(end - line)) != 0);
    }
    snprintf(reader->series[reader->series_count++], TEXT_MAX, "%.*s", (int)(end - line), line);
}

unsigned exposition_check(const char *text)
{
    struct reader *reader = calloc(1, sizeof(*reader));
    unsigned count;

    while (*text != '\0') {
        size_t length = strcspn(text, "\n");
        char line[1024];

        assert_int_equal(text[length], '\n');
        assert_true(length > 0 && length < sizeof(line));
        snprintf(line, sizeof(line), "%.*s", (int)length, text);
        if (strncmp(line, "# HELP ", 7) == 0) {
            begin_metric(reader, line + 7);
        } else if (strncmp(line, "# TYPE ", 7) == 0) {
            take_type(reader, line + 7);
        } else {
            take_sample(reader, line);
        }
        text += length + 1;
    }
    count = reader->series_count;
    free(reader);
    return count;
}

uint64_t exposition_value(const char *text, const char *series)
{
    size_t length = strlen(series);

    for (const char *at = text; at != NULL; at = strchr(at, '\n')) {
        at += *at == '\n';
        if (strncmp(at, series, length) == 0 && at[length] == ' ') {
            return strtoull(at + length + 1, NULL, 10);
        }
    }
    fail_msg("no series %s", series);
    return 0;
}

/* ---- a little instance ---- */

static _Atomic uint32_t serve_state = KVL_HEALTH_OK;

void exposition_set_state(uint32_t state)
{
    atomic_store(&serve_state, state);
}

static int fake_stats(const struct kvl_host *host, kvl_stat_fn fn, void *ctx)
{
    (void)host;
    fn(ctx, "store_chunks", 3);
    fn(ctx, "store_hits", 7);
    fn(ctx, "store_unheard_of", 8);
    fn(ctx, "core_lookup_p50_ns", 250);
    fn(ctx, "core_lookups", 11);
    fn(ctx, "tcp_remote_serve_in_flight", 1);
    fn(ctx, "tcp_remote_serve_failures", 2);
    fn(ctx, "tcp_remote_serve_connections", 4);
    fn(ctx, "tcp_remote_serve_bytes_in", UINT64_MAX);
    fn(ctx, "tcp_remote_in_flight", 5);
    fn(ctx, "tcp_remote_bytes_in", 6);
    fn(ctx, "odd_a_b_in_flight", 12); /* sections [odd:a-b] and [odd:a:b] */
    fn(ctx, "odd_a_b_in_flight", 13);
    fn(ctx, "odd_a_b_we.ird na\nme", 14);
    fn(ctx, "nobody_knows", 15);
    return 0;
}

static int fake_health(const struct kvl_host *host, uint32_t location,
                       struct kvl_health *health_out)
{
    static const char *const names[] = {"LocalCPUBackend", "tcp_remote:serve", "tcp_remote",
                                        "odd:a-b", "odd:a:b"};

    (void)host;
    if (location < 1 || location > 5) {
        return -EINVAL;
    }
    snprintf(health_out->name, sizeof(health_out->name), "%s", names[location - 1]);
    snprintf(health_out->text, sizeof(health_out->text), "say \"\\\n\x01\xff\xc3\xa9");
    health_out->state = location == 2   ? atomic_load(&serve_state)
                        : location == 3 ? KVL_HEALTH_DEGRADED
                                        : KVL_HEALTH_OK;
    health_out->caps = location == 2 ? KVL_CAP_SERVE : 0;
    return 0;
}

void exposition_fake(struct kvl_host *host)
{
    host->stats = fake_stats;
    host->health = fake_health;
    host->size = sizeof(*host);
}
