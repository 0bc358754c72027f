/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_host.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fake_host_parts.h"

#define WAIT_S 20

void fake_die(const char *what, const char *name)
{
    fprintf(stderr, "fake host: %s: '%s'\n", what, name);
    abort();
}

static void fake_log(void *ctx, int32_t level, const char *component, const char *file,
                     int32_t line, const char *text)
{
    (void)ctx;
    (void)component;
    if (getenv("KVL_TEST_LOG") != NULL) {
        fprintf(stderr, "%d %s:%d %s\n", level, file, line, text);
    }
}

static uint64_t fake_now_ms(const struct kvl_host *host)
{
    struct timespec now;

    (void)host;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- settings ---- */

static int64_t fake_scaled(const char *text, uint32_t type)
{
    char *end;
    int64_t value = strtoll(text, &end, 10);

    if (type == KVL_OPTION_DURATION && strcmp(end, "s") == 0) {
        return value * 1000;
    }
    if (type == KVL_OPTION_DURATION && strcmp(end, "m") == 0) {
        return value * 60000;
    }
    if (type == KVL_OPTION_SIZE && *end != '\0') {
        const char *units = "KMGT";
        const char *unit = strchr(units, *end);

        return unit == NULL ? value : value << (10 * (unit - units + 1));
    }
    return value;
}

static int64_t fake_choice(const char *choices, const char *text)
{
    size_t length = strlen(text);
    int64_t index = 0;

    for (const char *at = choices; at != NULL; index++) {
        if (strncmp(at, text, length) == 0 && (at[length] == '|' || at[length] == '\0')) {
            return index;
        }
        at = strchr(at, '|');
        at = at == NULL ? NULL : at + 1;
    }
    fake_die("no such choice", text);
    return -1;
}

static int64_t fake_number(const struct kvl_option *option, const char *text)
{
    switch (option->type) {
    case KVL_OPTION_BOOL:
        return strcmp(text, "yes") == 0 || strcmp(text, "1") == 0;
    case KVL_OPTION_ENUM:
        return fake_choice(option->choices, text);
    case KVL_OPTION_STRING:
    case KVL_OPTION_PATH:
    case KVL_OPTION_SECRET:
        return 0;
    default:
        return fake_scaled(text, option->type);
    }
}

static const struct kvl_option *fake_option(const struct fake_host *fake, const char *name)
{
    for (uint32_t i = 0; i < fake->desc->option_count; i++) {
        if (strcmp(fake->desc->options[i].name, name) == 0) {
            return &fake->desc->options[i];
        }
    }
    return NULL;
}

static int fake_setting(const struct kvl_host *host, const char *name, struct kvl_setting *out)
{
    const struct fake_host *fake = fake_of(host);
    const struct kvl_option *option = fake_option(fake, name);
    const char *text;

    if (option == NULL) {
        fake_die("the backend asks for an option it does not have", name);
        return -ENOENT;
    }
    text = option->value == NULL ? "" : option->value;
    out->is_set = 0;
    for (const char *const *pair = fake->pairs; pair != NULL && *pair != NULL; pair += 2) {
        if (strcmp(pair[0], name) == 0) {
            text = pair[1];
            out->is_set = 1;
        }
    }
    out->text = text;
    out->number = fake_number(option, text);
    return 0;
}

/* ---- threads ---- */

static int fake_thread_create(const struct kvl_host *host, const char *name, void *(*fn)(void *),
                              void *arg, uint64_t *thread_out)
{
    struct fake_host *fake = fake_of(host);
    uint32_t index = fake->thread_count;

    if (strlen(name) > 15) {
        fake_die("thread name too long", name);
    }
    if (index == sizeof(fake->threads) / sizeof(fake->threads[0]) ||
        pthread_create(&fake->threads[index], NULL, fn, arg) != 0) {
        return -EAGAIN;
    }
    fake->thread_count++;
    *thread_out = index + 1;
    return 0;
}

static int fake_thread_join(const struct kvl_host *host, uint64_t thread)
{
    struct fake_host *fake = fake_of(host);

    if (thread == 0 || thread > fake->thread_count || fake->joined[thread - 1]) {
        return -ESRCH;
    }
    fake->joined[thread - 1] = 1;
    fake->joined_count++;
    pthread_join(fake->threads[thread - 1], NULL);
    return 0;
}

/* ---- waiting ---- */

struct timespec fake_until(void)
{
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += WAIT_S;
    return until;
}

int fake_wait_count(struct fake_host *fake, const uint32_t *counter, uint32_t count)
{
    const struct timespec until = fake_until();
    int r = 0;

    pthread_mutex_lock(&fake->lock);
    while (*counter < count && r == 0) {
        r = pthread_cond_timedwait(&fake->changed, &fake->lock, &until);
    }
    r = *counter < count ? -ETIMEDOUT : 0;
    pthread_mutex_unlock(&fake->lock);
    return r;
}

/* ---- life ---- */

static void fake_fill_table(struct fake_host *fake)
{
    fake->log = (struct kvl_log){.write = fake_log, .component = "test", .level = KVL_LOG_TRACE};
    fake->table = (struct kvl_host){
        .size = sizeof(struct kvl_host),
        .abi_minor = KVL_BACKEND_ABI_MINOR,
        .ctx = fake,
        .log = &fake->log,
        .now_ms = fake_now_ms,
        .setting = fake_setting,
        .thread_create = fake_thread_create,
        .thread_join = fake_thread_join,
    };
    fake_batch_fill(&fake->table);
    fake_store_fill(&fake->table);
    fake_events_fill(&fake->table);
    fake_peers_fill(&fake->table);
}

struct fake_host *fake_host_create(const struct kvl_backend_desc *desc, const char *const *pairs)
{
    struct fake_host *fake = calloc(1, sizeof(*fake));
    pthread_condattr_t attr;

    fake->desc = desc;
    fake->pairs = pairs;
    pthread_mutex_init(&fake->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&fake->changed, &attr);
    pthread_condattr_destroy(&attr);
    fake_fill_table(fake);
    for (const char *const *pair = pairs; pair != NULL && *pair != NULL; pair += 2) {
        if (fake_option(fake, pair[0]) == NULL) {
            fake_die("no such option", pair[0]);
        }
    }
    return fake;
}

void fake_host_destroy(struct fake_host *fake)
{
    if (fake == NULL) {
        return;
    }
    fake_store_fini(fake);
    fake_batch_fini(fake);
    fake_events_fini(fake);
    pthread_cond_destroy(&fake->changed);
    pthread_mutex_destroy(&fake->lock);
    free(fake);
}

const struct kvl_host *fake_host_table(struct fake_host *fake)
{
    return &fake->table;
}

uint32_t fake_host_leaks(struct fake_host *fake)
{
    uint32_t leaks;

    pthread_mutex_lock(&fake->lock);
    leaks = fake->leases + fake->thread_count - fake->joined_count;
    for (const struct fake_chunk *slot = fake->slots; slot != NULL; slot = slot->next) {
        leaks++;
    }
    pthread_mutex_unlock(&fake->lock);
    return leaks;
}
