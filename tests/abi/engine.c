/* SPDX-License-Identifier: Apache-2.0 */
#include "engine.h"

#include <dlfcn.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "mock.h"

uint64_t engine_now_ms(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

const struct kvl_plugin *engine_plugin(void)
{
    const char *path = getenv("KVL_LIB");
    kvl_plugin_entry_fn entry = NULL;
    void *dl;

    if (path == NULL) {
        fprintf(stderr, "KVL_LIB must name libkvlane.so\n");
        exit(2);
    }
    dl = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (dl != NULL) {
        /* the cast that POSIX asks for */
        *(void **)&entry = dlsym(dl, KVL_PLUGIN_ENTRY);
    }
    if (entry == NULL) {
        fprintf(stderr, "cannot load '%s': %s\n", path, dlerror());
        exit(2);
    }
    return entry();
}

static void engine_log_line(void *ctx, int32_t level, const char *component, const char *file,
                            int32_t line, const char *text)
{
    static const char *const names[] = {"OFF", "ERROR", "WARN", "INFO", "DEBUG", "TRACE"};
    struct engine_log *log = ctx;
    int n;

    (void)file;
    (void)line;
    if (level < KVL_LOG_ERROR || level > KVL_LOG_TRACE) {
        fprintf(stderr, "log line of level %d: %s\n", level, text);
        abort();
    }
    (void)pthread_mutex_lock(&log->lock);
    log->lines[level]++;
    n = snprintf(log->text + log->used, sizeof(log->text) - log->used, "%s %s: %s\n", names[level],
                 component, text);
    log->used += (size_t)n < sizeof(log->text) - log->used ? (size_t)n : 0;
    (void)pthread_mutex_unlock(&log->lock);
}

void engine_init(struct engine *engine)
{
    memset(engine, 0, sizeof(*engine));
    engine->plugin = engine_plugin();
    engine->err.size = sizeof(engine->err);
    (void)pthread_mutex_init(&engine->log.lock, NULL);
}

void engine_catch_log(struct engine *engine, struct kvl_open_params *params)
{
    params->log = engine_log_line;
    params->log_ctx = &engine->log;
}

int engine_open(struct engine *engine, const char *ini)
{
    const char *mocks = getenv("KVL_MOCKS");
    struct kvl_open_params params = {.size = sizeof(params)};
    char *text = NULL;
    int r;

    engine_init(engine);
    if (asprintf(&text, "[kvlane]\nmodule_path = %s\n%s", mocks != NULL ? mocks : "/", ini) < 0) {
        abort();
    }
    params.config_text = text;
    engine_catch_log(engine, &params);
    r = engine->plugin->open(&params, &engine->instance, &engine->err);
    free(text);
    return r;
}

int engine_close(struct engine *engine, uint64_t within_ms)
{
    struct kvl_instance *instance = engine->instance;

    engine->instance = NULL;
    return engine->plugin->close(instance, engine_now_ms() + within_ms);
}

struct engine_wanted {
    const char *name;
    uint64_t value;
};

static void engine_stat_one(void *ctx, const char *name, uint64_t value)
{
    struct engine_wanted *wanted = ctx;

    if (strcmp(name, wanted->name) == 0) {
        wanted->value = value;
    }
}

uint64_t engine_stat(struct engine *engine, const char *name)
{
    struct engine_wanted wanted = {.name = name};

    (void)engine->plugin->stats(engine->instance, engine_stat_one, &wanted);
    return wanted.value;
}

int engine_await_stat(struct engine *engine, const char *name, uint64_t value)
{
    uint64_t limit = engine_now_ms() + 10000;

    while (engine_stat(engine, name) < value) {
        if (engine_now_ms() > limit) {
            return 0;
        }
        (void)poll(NULL, 0, 2);
    }
    return 1;
}

int engine_logged(struct engine *engine, const char *text)
{
    int found;

    (void)pthread_mutex_lock(&engine->log.lock);
    found = strstr(engine->log.text, text) != NULL;
    (void)pthread_mutex_unlock(&engine->log.lock);
    return found;
}

unsigned engine_lines(struct engine *engine, int level)
{
    unsigned lines;

    (void)pthread_mutex_lock(&engine->log.lock);
    lines = engine->log.lines[level];
    (void)pthread_mutex_unlock(&engine->log.lock);
    return lines;
}

void engine_batch_init(struct engine_batch *batch, uint64_t within_ms)
{
    memset(batch, 0, sizeof(*batch));
    batch->batch.size = sizeof(batch->batch);
    batch->batch.deadline_ms = within_ms == 0 ? 0 : engine_now_ms() + within_ms;
    batch->batch.chunks = batch->chunks;
    batch->result.size = sizeof(batch->result);
    batch->result.item_status = batch->status;
    batch->result.item_location = batch->location;
}

struct kvl_chunk *engine_batch_add(struct engine_batch *batch, const char *key, void *data,
                                   uint64_t bytes)
{
    uint32_t i = batch->batch.count;

    if (i == ENGINE_BATCH_MAX) {
        abort();
    }
    batch->chunks[i].key = kvl_key_from_text(key);
    batch->chunks[i].bytes = data != NULL ? bytes : 0;
    batch->status[i] = 1; /* no status of any outcome */
    batch->sg_first[i] = i;
    batch->sg_first[i + 1] = i + 1;
    if (data != NULL) {
        batch->sg[i] = (struct kvl_sg){.mem = KVL_MEM_HOST,
                                       .addr = (uint64_t)(uintptr_t)data,
                                       .length = bytes,
                                       .count = 1,
                                       .device = KVL_DEVICE_HOST};
        batch->batch.sg = batch->sg;
        batch->batch.sg_first = batch->sg_first;
    }
    batch->batch.count = i + 1;
    batch->result.item_count = i + 1;
    return &batch->chunks[i];
}

uint64_t engine_preload_differs(const char *key, const uint8_t *data, uint64_t bytes)
{
    uint64_t wrong = 0;
    uint64_t i;

    for (i = 0; i < bytes; i++) {
        wrong += data[i] != mock_byte(key, i);
    }
    return wrong;
}
