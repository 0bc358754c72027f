/* SPDX-License-Identifier: Apache-2.0 */
/* An engine: opens the plugin with a small store of its own, and the server behind it. */
#include "soak.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <kvlane/plugin.h>

#define BATCH 4u
#define DEADLINE_MS (SOAK_STUCK_S * 1000ull / 2)

struct engine {
    struct soak_shared *shared;
    struct soak_slot *slot;
    uint64_t random;
    const struct kvl_plugin *ops;
    struct kvl_instance *instance;
    uint8_t *data[BATCH]; /* SOAK_VALUE_MAX bytes each */

    /* of the batch at hand */
    uint32_t keys[BATCH];
    char texts[BATCH][SOAK_KEY_TEXT];
    struct kvl_chunk chunks[BATCH];
    struct kvl_sg sg[BATCH];
    uint32_t sg_first[BATCH + 1];
    int32_t status[BATCH];
};

static bool engine_open(struct engine *engine, const char *library)
{
    char ini[512];
    struct kvl_err err = {.size = sizeof(err)};
    struct kvl_open_params params = {.size = sizeof(params), .config_text = ini};
    void *dl = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    kvl_plugin_entry_fn entry = NULL;

    if (dl == NULL) {
        soak_error(engine->slot, "%s", dlerror());
        return false;
    }
    *(void **)&entry = dlsym(dl, KVL_PLUGIN_ENTRY);
    engine->ops = entry();
    (void)snprintf(ini, sizeof(ini),
                   "[kvlane]\nlog_level = off\n[store]\nmax_bytes = 40MiB\n[tcp_remote:peer]\n"
                   "url = lm://127.0.0.1:%u\nput_to = yes\nconnections = 2\n",
                   (unsigned)engine->shared->port);
    if (engine->ops->open(&params, &engine->instance, &err) < 0) {
        soak_error(engine->slot, "open: %.150s", err.text);
        return false;
    }
    for (uint32_t i = 0; i < BATCH; i++) {
        engine->data[i] = malloc(SOAK_VALUE_MAX);
        if (engine->data[i] == NULL) {
            soak_error(engine->slot, "no memory");
            return false;
        }
    }
    return true;
}

/* Up to BATCH keys, each once: an engine does not name a chunk twice. */
static uint32_t engine_pick(struct engine *engine)
{
    uint32_t count = 1 + (uint32_t)(soak_random(&engine->random) % BATCH);
    uint32_t space = (engine->shared->keys + 3) / 4;
    uint32_t first = (uint32_t)(soak_random(&engine->random) % space);

    for (uint32_t i = 0; i < count; i++) {
        uint32_t key = (first + i * 7) % space * 4;

        engine->keys[i] = key;
        soak_key_text(key, engine->texts[i]);
        engine->chunks[i] = (struct kvl_chunk){
            .key = kvl_key_from_text(engine->texts[i]),
            .attrs = soak_value_attrs(key, 0),
            .bytes = soak_value_size(key, 0),
        };
        engine->sg[i] = (struct kvl_sg){
            .addr = (uint64_t)(uintptr_t)engine->data[i],
            .length = engine->chunks[i].bytes,
            .count = 1,
            .device = KVL_DEVICE_HOST,
        };
        engine->sg_first[i] = i;
        engine->status[i] = -EIO;
    }
    engine->sg_first[count] = count;
    return count;
}

static struct kvl_batch engine_batch(struct engine *engine, uint32_t count, bool moves)
{
    return (struct kvl_batch){
        .size = sizeof(struct kvl_batch),
        .count = count,
        .deadline_ms = soak_now_ms() + DEADLINE_MS,
        .chunks = engine->chunks,
        .sg = moves ? engine->sg : NULL,
        .sg_first = moves ? engine->sg_first : NULL,
    };
}

static void engine_result(struct engine *engine, const char *what, int r)
{
    if (r < 0) {
        soak_error(engine->slot, "%s: %s", what, strerror(-r));
    }
}

static void engine_save(struct engine *engine)
{
    uint32_t count = engine_pick(engine);
    struct kvl_batch batch = engine_batch(engine, count, true);
    struct kvl_result result = {.size = sizeof(result)};

    for (uint32_t i = 0; i < count; i++) {
        soak_value_fill(engine->keys[i], soak_version_begin(engine->slot), engine->data[i]);
    }
    batch.flags = KVL_BATCH_OVERWRITE;
    atomic_store(&engine->slot->phase, SOAK_PUT_BODY);
    engine_result(engine, "save", engine->ops->save(engine->instance, &batch, &result, NULL));
    atomic_store(&engine->slot->phase, SOAK_IDLE);
    atomic_fetch_add(&engine->slot->puts, count);
    atomic_fetch_add(&engine->slot->bytes, result.bytes);
}

static void engine_load(struct engine *engine)
{
    uint32_t count = engine_pick(engine);
    struct kvl_batch batch = engine_batch(engine, count, true);
    struct kvl_result result = {
        .size = sizeof(result), .item_count = count, .item_status = engine->status};

    atomic_store(&engine->slot->phase, SOAK_GET_REPLY);
    engine_result(engine, "load", engine->ops->load(engine->instance, &batch, &result, NULL));
    atomic_store(&engine->slot->phase, SOAK_IDLE);
    atomic_fetch_add(&engine->slot->gets, count);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t version;

        if (engine->status[i] == 0 &&
            soak_value_check(engine->shared, engine->slot, engine->keys[i], engine->data[i],
                             engine->chunks[i].bytes, NULL, &version)) {
            atomic_fetch_add(&engine->slot->hits, 1);
            atomic_fetch_add(&engine->slot->bytes, engine->chunks[i].bytes);
        } else if (engine->status[i] == -EBADMSG) {
            soak_error(engine->slot, "key %u: the plugin refused what came", engine->keys[i]);
        }
    }
}

static void engine_lookup(struct engine *engine)
{
    uint32_t count = engine_pick(engine);
    struct kvl_batch batch = engine_batch(engine, count, false);
    struct kvl_result result = {.size = sizeof(result)};

    for (uint32_t i = 0; i < count; i++) {
        engine->chunks[i].bytes = 0;
    }
    engine_result(engine, "lookup", engine->ops->lookup(engine->instance, &batch, &result, NULL));
}

static void engine_loop(struct engine *engine)
{
    while (!atomic_load(&engine->shared->stop) && atomic_load(&engine->slot->errors) == 0) {
        uint64_t what = soak_random(&engine->random) % 10;

        atomic_fetch_add(&engine->slot->ops, 1);
        if (what < 3) {
            engine_save(engine);
        } else if (what < 8) {
            engine_load(engine);
        } else {
            engine_lookup(engine);
        }
    }
}

void soak_engine_run(struct soak_shared *shared, struct soak_slot *slot, const char *library)
{
    struct engine engine = {.shared = shared, .slot = slot};

    engine.random = shared->seed ^ ((uint64_t)getpid() << 20) ^ soak_now_ms() ^ 1;
    if (engine_open(&engine, library)) {
        engine_loop(&engine);
        engine_result(&engine, "close", engine.ops->close(engine.instance, soak_now_ms() + 10000));
    }
    for (uint32_t i = 0; i < BATCH; i++) {
        free(engine.data[i]);
    }
}
