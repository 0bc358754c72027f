/* SPDX-License-Identifier: Apache-2.0 */
/* An engine with a small store; whatever is not in there comes from the others. */
#include "peers.h"

#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <kvlane/plugin.h>

#define BATCH 4u
#define CLOSE_MS 10000u

struct engine {
    struct peers_shared *shared;
    struct peers_slot *slot;
    uint64_t random;
    const struct kvl_plugin *ops;
    struct kvl_instance *instance;
    uint8_t *data[BATCH];

    /* of the batch at hand */
    uint32_t keys[BATCH];
    char texts[BATCH][32];
    struct kvl_chunk chunks[BATCH];
    struct kvl_sg sg[BATCH];
    uint32_t sg_first[BATCH + 1];
    int32_t status[BATCH];
    uint8_t location[BATCH];
};

static void note(struct engine *engine, const char *what, const char *why)
{
    if (atomic_fetch_add(&engine->slot->errors, 1) == 0) {
        (void)snprintf(engine->slot->text, sizeof(engine->slot->text), "%s: %.150s", what, why);
    }
}

/* ---- content follows from the key ---- */

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

/* From one byte to 4 MiB, small ones more often. */
static size_t size_of(uint32_t key)
{
    const uint64_t bits = mix(key + 77);

    return 1 + (size_t)(mix(bits) % ((size_t)1 << (6 + bits % 17)));
}

static void fill(uint32_t key, uint8_t *out)
{
    const size_t bytes = size_of(key);

    for (size_t at = 0; at < bytes; at += 8) {
        const uint64_t word = mix(((uint64_t)key << 32) + at + 1);

        memcpy(out + at, &word, bytes - at < 8 ? bytes - at : 8);
    }
}

static bool is_right(uint32_t key, const uint8_t *in)
{
    const size_t bytes = size_of(key);

    for (size_t at = 0; at < bytes; at += 8) {
        const uint64_t word = mix(((uint64_t)key << 32) + at + 1);

        if (memcmp(in + at, &word, bytes - at < 8 ? bytes - at : 8) != 0) {
            return false;
        }
    }
    return true;
}

/* ---- one batch ---- */

static struct kvl_batch pick(struct engine *engine, bool moves)
{
    const uint32_t count = 1 + (uint32_t)(peers_random(&engine->random) % BATCH);
    const uint32_t first = (uint32_t)(peers_random(&engine->random) % PEERS_KEYS);

    for (uint32_t i = 0; i < count; i++) {
        const uint32_t key = (first + i * 7) % PEERS_KEYS;

        engine->keys[i] = key;
        (void)snprintf(engine->texts[i], sizeof(engine->texts[i]), "chunk-%u", key);
        engine->chunks[i] = (struct kvl_chunk){.key = kvl_key_from_text(engine->texts[i]),
                                               .bytes = moves ? size_of(key) : 0};
        engine->sg[i] = (struct kvl_sg){.addr = (uint64_t)(uintptr_t)engine->data[i],
                                        .length = size_of(key),
                                        .count = 1,
                                        .device = KVL_DEVICE_HOST};
        engine->sg_first[i] = i;
        engine->status[i] = -EIO;
    }
    engine->sg_first[count] = count;
    return (struct kvl_batch){
        .size = sizeof(struct kvl_batch),
        .count = count,
        .deadline_ms = peers_now_ms() + 5 + peers_random(&engine->random) % 1000,
        .chunks = engine->chunks,
        .sg = moves ? engine->sg : NULL,
        .sg_first = moves ? engine->sg_first : NULL,
    };
}

/* Whoever was stopped meanwhile cannot say what time it took. */
static void judge_time(struct engine *engine, const struct kvl_batch *batch, uint32_t stops)
{
    const uint64_t now = peers_now_ms();
    const uint64_t late = now > batch->deadline_ms ? now - batch->deadline_ms : 0;

    if (stops % 2 != 0 || atomic_load(&engine->slot->stops) != stops) {
        return;
    }
    if (late > atomic_load(&engine->slot->late_ms)) {
        atomic_store(&engine->slot->late_ms, late);
    }
    if (late > PEERS_SLACK_MS) {
        atomic_fetch_add(&engine->slot->late, 1);
    }
}

static void judge_load(struct engine *engine, const struct kvl_batch *batch)
{
    for (uint32_t i = 0; i < batch->count; i++) {
        if (engine->status[i] == -EBADMSG ||
            (engine->status[i] == 0 && !is_right(engine->keys[i], engine->data[i]))) {
            atomic_fetch_add(&engine->slot->wrong, 1);
        }
        if (engine->status[i] == 0 && engine->location[i] >= KVL_LOCATION_BACKEND) {
            atomic_fetch_add(&engine->slot->hits, 1);
        }
    }
}

static void one_batch(struct engine *engine)
{
    const uint64_t what = peers_random(&engine->random) % 10;
    const uint32_t stops = atomic_load(&engine->slot->stops);
    struct kvl_batch batch = pick(engine, what != 0);
    struct kvl_result result = {.size = sizeof(result),
                                .item_count = batch.count,
                                .item_status = engine->status,
                                .item_location = engine->location};

    if (what < 2) {
        batch.sg = NULL;
        batch.sg_first = NULL;
        atomic_store(&engine->slot->phase, PEERS_LOOKUP);
        (void)engine->ops->lookup(engine->instance, &batch, &result, NULL);
    } else if (what < 5) {
        for (uint32_t i = 0; i < batch.count; i++) {
            fill(engine->keys[i], engine->data[i]);
        }
        batch.flags = KVL_BATCH_LOCAL_ONLY | KVL_BATCH_OVERWRITE;
        atomic_store(&engine->slot->phase, PEERS_SAVE);
        (void)engine->ops->save(engine->instance, &batch, &result, NULL);
    } else {
        atomic_store(&engine->slot->phase, PEERS_LOAD);
        (void)engine->ops->load(engine->instance, &batch, &result, NULL);
        judge_load(engine, &batch);
    }
    judge_time(engine, &batch, stops);
    atomic_store(&engine->slot->phase, PEERS_IDLE);
    atomic_fetch_add(&engine->slot->ops, 1);
}

/* ---- life ---- */

/* Every second one does without shared memory; every third keeps what it reads. */
static bool engine_open(struct engine *engine)
{
    const struct peers_shared *shared = engine->shared;
    const struct peers_slot *slot = engine->slot;
    char ini[2048];
    struct kvl_err err = {.size = sizeof(err)};
    struct kvl_open_params params = {.size = sizeof(params), .config_text = ini};
    void *dl = dlopen(shared->library, RTLD_NOW | RTLD_LOCAL);
    kvl_plugin_entry_fn entry = NULL;
    int n;

    if (dl == NULL) {
        note(engine, "dlopen", dlerror());
        return false;
    }
    *(void **)&entry = dlsym(dl, KVL_PLUGIN_ENTRY);
    engine->ops = entry();
    n = snprintf(ini, sizeof(ini),
                 "[kvlane]\nlog_level = off\nmodule_path = %s\n[store]\nmax_bytes = 24MiB\n"
                 "[py_socket]\nbind = 127.0.0.1:%u\ndata_port = %u\nshm = %s\nkeep = %s\n"
                 "handshake_timeout = 500ms\npeers = ",
                 shared->modules, (unsigned)slot->port, (unsigned)slot->data_port,
                 slot->index % 2 == 0 ? "yes" : "no", slot->index % 3 == 2 ? "yes" : "no");
    for (uint32_t i = 0; i < shared->count; i++) { /* itself among them: all have one file */
        n += snprintf(ini + n, sizeof(ini) - (size_t)n, "%s127.0.0.1:%u", i > 0 ? ", " : "",
                      (unsigned)shared->slots[i].port);
    }
    (void)snprintf(ini + n, sizeof(ini) - (size_t)n, "\n");
    if (engine->ops->open(&params, &engine->instance, &err) < 0) {
        note(engine, "open", err.text);
        return false;
    }
    /* the port of one that was killed may be in use for a moment */
    for (uint64_t until = peers_now_ms() + 10000;;) {
        if (engine->ops->start(engine->instance, &err) == 0) {
            return true;
        }
        (void)engine->ops->close(engine->instance, peers_now_ms() + CLOSE_MS);
        (void)poll(NULL, 0, 20);
        if (peers_now_ms() > until || engine->ops->open(&params, &engine->instance, &err) < 0) {
            note(engine, "start", err.text);
            return false;
        }
    }
}

int peers_engine_run(struct peers_shared *shared, struct peers_slot *slot)
{
    struct engine engine = {.shared = shared, .slot = slot};
    uint8_t *memory;
    int r;

    engine.random = shared->seed ^ ((uint64_t)getpid() << 20) ^ peers_now_ms() ^ 1;
    memory = malloc(BATCH * PEERS_CHUNK_MAX);
    if (memory == NULL) {
        note(&engine, "malloc", "no memory");
        return 1;
    }
    for (uint32_t i = 0; i < BATCH; i++) {
        engine.data[i] = memory + i * PEERS_CHUNK_MAX;
    }
    if (!engine_open(&engine)) {
        free(memory);
        return 1;
    }
    atomic_store(&slot->is_open, 1);
    while (!atomic_load(&shared->stop)) {
        if (atomic_load(&shared->rest)) {
            (void)poll(NULL, 0, 10);
        } else {
            one_batch(&engine);
        }
    }
    atomic_store(&slot->is_open, 0);
    r = engine.ops->close(engine.instance, peers_now_ms() + CLOSE_MS);
    if (r < 0) {
        note(&engine, "close", strerror(-r));
    }
    free(memory);
    return r < 0;
}
