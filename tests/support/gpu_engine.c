/* SPDX-License-Identifier: Apache-2.0 */
#include "gpu_engine.h"

#include <dlfcn.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define PATIENCE_MS 20000u

static uint64_t now_ms(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static const struct kvl_plugin *plugin_load(void)
{
    const char *path = getenv("KVL_LIB");
    void *dl = dlopen(path != NULL ? path : KVL_LIB_DEFAULT, RTLD_NOW | RTLD_LOCAL);
    void *symbol = dl != NULL ? dlsym(dl, KVL_PLUGIN_ENTRY) : NULL;
    kvl_plugin_entry_fn entry;

    if (symbol == NULL) {
        fprintf(stderr, "%s: %s\n", program_invocation_short_name, dlerror());
        exit(1);
    }
    memcpy(&entry, &symbol, sizeof(entry)); /* ISO C has no cast to a function pointer */
    return entry();
}

static void ini_write(const struct gpu_engine *engine, const struct gpu_engine_setup *setup,
                      char *ini, size_t size)
{
    const uint64_t bytes = gpu_rig_chunk_bytes(engine->rig);
    /* Segments of two chunks, so that there are several. */
    int n = snprintf(ini, size,
                     "[kvlane]\nlog_level = warn\n[store]\nmax_bytes = %" PRIu64
                     "\n[cuda_ipc]\nrequired = yes\nkeep = no\nput_to = %s\npool = %" PRIu64
                     "\nsegment = %" PRIu64 "\n",
                     setup->store_chunks * bytes + (16u << 20),
                     setup->pool_chunks > 0 ? "yes" : "no", setup->pool_chunks * bytes, 2 * bytes);

    if (setup->listen[0] != '\0') {
        n += snprintf(ini + n, size - (size_t)n, "listen = %s\n", setup->listen);
    }
    if (setup->peers[0] != '\0') {
        n += snprintf(ini + n, size - (size_t)n, "peers = %s\n", setup->peers);
    }
    if (engine->rig->driver != NULL) {
        (void)snprintf(ini + n, size - (size_t)n, "driver = %s\n", engine->rig->driver);
    }
}

static void instance_open(struct gpu_engine *engine, const struct gpu_engine_setup *setup,
                          const struct kvl_kv *kv)
{
    char ini[2048];
    struct kvl_err err = {.size = sizeof(err)};
    struct kvl_open_params params = {.size = sizeof(params), .config_text = ini};
    int r;

    ini_write(engine, setup, ini, sizeof(ini));
    r = engine->plugin->open(&params, &engine->instance, &err);
    if (r == 0) {
        r = engine->plugin->start(engine->instance, &err);
    }
    if (r == 0) {
        r = engine->plugin->register_kv(engine->instance, kv, &engine->kv, &err);
    }
    if (r < 0) {
        fprintf(stderr, "%s: %s\n", program_invocation_short_name, err.text);
        gpu_rig_die("the plugin does not start", r);
    }
}

void gpu_engine_open(struct gpu_engine *engine, struct gpu_rig *rig,
                     const struct gpu_engine_setup *setup, const struct kvl_kv *kv)
{
    memset(engine, 0, sizeof(*engine));
    engine->rig = rig;
    engine->plugin = plugin_load();
    gpu_pages_init(rig, &engine->pages);
    gpu_view_init(rig, &engine->pages, setup->page, &engine->view);
    instance_open(engine, setup, kv != NULL ? kv : &engine->view.kv);
    for (uint32_t i = 0; i < GPU_RIG_CHUNKS; i++) {
        struct kvl_chunk *chunk = &engine->chunks[i];

        (void)snprintf(engine->keys[i], sizeof(engine->keys[i]), "model@1@0@%08x@half", i);
        chunk->key = kvl_key_from_text(engine->keys[i]);
        chunk->bytes = gpu_rig_chunk_bytes(rig);
        chunk->attrs = (struct kvl_attrs){
            .fmt = KVL_FMT_KV_2LTD,
            .dtype = KVL_DTYPE_FLOAT16,
            .shape = {GPU_RIG_PLANES, (int32_t)rig->layers, GPU_RIG_CHUNK_TOKENS,
                      GPU_RIG_TOKEN_BYTES / 2},
        };
    }
}

void gpu_engine_close(struct gpu_engine *engine)
{
    int r = engine->plugin->unregister_kv(engine->instance, engine->kv);

    if (r == 0) {
        r = engine->plugin->close(engine->instance, now_ms() + PATIENCE_MS);
    }
    if (r < 0) {
        gpu_rig_die("the plugin does not close", r);
    }
    gpu_pages_fini(engine->rig, &engine->pages);
}

/* ---- work ---- */

static struct kvl_batch batch_of(const struct gpu_engine *engine, uint32_t count)
{
    return (struct kvl_batch){
        .size = sizeof(struct kvl_batch),
        .count = count,
        .deadline_ms = now_ms() + PATIENCE_MS,
        .chunks = engine->chunks,
        .kv = engine->kv,
        .blocks = engine->view.blocks,
        .block_first = engine->view.block_first,
    };
}

static struct kvl_result result_of(struct gpu_engine *engine, uint32_t count)
{
    return (struct kvl_result){.size = sizeof(struct kvl_result),
                               .item_count = count,
                               .item_status = engine->status,
                               .item_location = engine->location};
}

int gpu_engine_save(struct gpu_engine *engine, uint32_t count)
{
    const struct kvl_batch batch = batch_of(engine, count);
    struct kvl_result result = result_of(engine, count);
    int r = engine->plugin->save(engine->instance, &batch, &result, NULL);

    return r < 0 ? r : (int)result.matched;
}

int gpu_engine_load(struct gpu_engine *engine, uint32_t count)
{
    const struct kvl_batch batch = batch_of(engine, count);
    struct kvl_result result = result_of(engine, count);
    int r = engine->plugin->load(engine->instance, &batch, &result, NULL);

    return r < 0 ? r : (int)result.matched;
}

int gpu_engine_load_layers(struct gpu_engine *engine, uint32_t count, uint64_t salt,
                           uint64_t *wrong_out)
{
    const struct kvl_batch batch = batch_of(engine, count);
    struct kvl_result result = result_of(engine, count);
    uint64_t op = 0;
    int r = engine->plugin->load(engine->instance, &batch, &result, &op);

    *wrong_out = 0;
    if (r != -EINPROGRESS) {
        return r < 0 ? r : -EALREADY; /* device memory is never there at once */
    }
    for (uint32_t layer = 0; layer < engine->rig->layers; layer++) {
        r = engine->plugin->wait_layers(engine->instance, op, layer + 1, batch.deadline_ms);
        for (uint32_t i = 0; r == 0 && i < count; i++) {
            *wrong_out += gpu_view_layer_differs(engine->rig, &engine->view, i, layer, salt);
        }
    }
    r = engine->plugin->wait(engine->instance, op, KVL_NEVER, &result);
    return r < 0 ? r : (int)result.matched;
}

int gpu_engine_remove(struct gpu_engine *engine, uint32_t count)
{
    struct kvl_batch batch = batch_of(engine, count);
    struct kvl_result result = result_of(engine, count);
    struct kvl_chunk chunks[GPU_RIG_CHUNKS];

    memcpy(chunks, engine->chunks, sizeof(chunks));
    for (uint32_t i = 0; i < count; i++) {
        chunks[i].bytes = 0;
    }
    batch.chunks = chunks;
    batch.kv = 0;
    batch.blocks = NULL;
    batch.block_first = NULL;
    return engine->plugin->remove(engine->instance, &batch, &result, NULL);
}

struct wanted {
    const char *name;
    uint64_t value;
};

static void take_stat(void *ctx, const char *name, uint64_t value)
{
    struct wanted *wanted = ctx;

    if (strcmp(name, wanted->name) == 0) {
        wanted->value = value;
    }
}

uint64_t gpu_engine_stat(struct gpu_engine *engine, const char *name)
{
    struct wanted wanted = {.name = name};

    (void)engine->plugin->stats(engine->instance, take_stat, &wanted);
    return wanted.value;
}

int gpu_engine_await(struct gpu_engine *engine, const char *name, uint64_t value)
{
    const struct timespec pause = {.tv_nsec = 1000000};
    const uint64_t limit = now_ms() + PATIENCE_MS;

    while (gpu_engine_stat(engine, name) < value) {
        if (now_ms() > limit) {
            return -ETIMEDOUT;
        }
        (void)nanosleep(&pause, NULL);
    }
    return 0;
}

void gpu_engine_address(struct gpu_engine *engine, char *address_out, size_t size)
{
    struct kvl_health health = {.size = sizeof(health)};
    int r = engine->plugin->health(engine->instance, KVL_LOCATION_BACKEND, &health);

    if (r < 0) {
        gpu_rig_die("the backend has no health", r);
    }
    (void)snprintf(address_out, size, "%s", health.address);
}
