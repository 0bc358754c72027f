/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file demo_engine.c
 * The reference host engine: what an inference engine has to do to use kvlane. It owns the memory
 * of its KV cache and of its store, asks for chunks before prefill, computes what did not come, and
 * saves what it has.
 */
#include "cli.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "child.h"
#include "demo.h"
#include "demo_cache.h"
#include "engine.h"
#include "util.h"

#define DRAIN_MS 5000
#define INI_MAX 4096
#define PEER_MS 5000 /* longest wait for a peer; what it has then is computed */

struct demo_engine {
    struct engine engine;
    struct cli_common common;
    int fd;
    struct model *model;
    struct demo_cache *cache;
    void *arena;
    int arena_fd; /* memfd behind it, so that engines beside us can read it */
    uint64_t arena_bytes;
    char keys[DEMO_CHUNKS_MAX][DEMO_KEY_ROOM];
    struct kvl_chunk chunks[DEMO_CHUNKS_MAX];
    int32_t status[DEMO_CHUNKS_MAX];
    uint8_t location[DEMO_CHUNKS_MAX];
};

/* ---- chunks ---- */

void demo_chunk_keys(const uint8_t *tokens, uint32_t count, char (*keys_out)[DEMO_KEY_ROOM])
{
    uint64_t chain = 0;

    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *at = tokens + i * DEMO_CHUNK_TOKENS;

        for (uint32_t t = 0; t < DEMO_CHUNK_TOKENS; t++) {
            chain = util_mix(chain ^ at[t]);
        }
        (void)snprintf(keys_out[i], DEMO_KEY_ROOM, MODEL_NAME "@1@0@%016" PRIx64 "@float", chain);
    }
}

static void chunks_prepare(struct demo_engine *self, const uint8_t *tokens, uint32_t count)
{
    demo_chunk_keys(tokens, count, self->keys);
    memset(self->chunks, 0, sizeof(self->chunks));
    for (uint32_t i = 0; i < count; i++) {
        struct kvl_chunk *chunk = &self->chunks[i];

        chunk->key = kvl_key_from_text(self->keys[i]);
        chunk->attrs = (struct kvl_attrs){
            .fmt = KVL_FMT_KV_2LTD,
            .dtype = KVL_DTYPE_FLOAT32,
            .shape = {2, MODEL_LAYERS, DEMO_CHUNK_TOKENS, MODEL_HIDDEN},
        };
    }
}

static struct kvl_result result_of(struct demo_engine *self, uint32_t count)
{
    struct kvl_result result = {
        .size = sizeof(result),
        .item_count = count,
        .item_status = self->status,
        .item_location = self->location,
    };

    return result;
}

static int chunks_lookup(struct demo_engine *self, uint32_t count, struct demo_ran *ran)
{
    struct kvl_batch batch = engine_batch(&self->engine, self->chunks, count);
    struct kvl_result result = result_of(self, count);
    uint64_t begin = util_now_ns();
    int r = self->engine.ops.lookup(self->engine.instance, &batch, &result, NULL);

    ran->lookup_ns = util_now_ns() - begin;
    ran->found = r == 0 ? result.matched : 0;
    return r;
}

static void note_path(struct demo_engine *self, uint32_t location, struct demo_ran *ran)
{
    struct kvl_health health = {.size = sizeof(health)};

    engine_location_name(&self->engine, location, ran->path, sizeof(ran->path));
    if (self->engine.ops.health(self->engine.instance, location, &health) == 0) {
        (void)snprintf(ran->address, sizeof(ran->address), "%.*s", (int)sizeof(health.address),
                       health.address);
    }
}

/* Loads into the KV cache. Blocks behind a hole would be usable too; recomputing from the
 * first hole on is what keeps this engine simple. */
static int chunks_load(struct demo_engine *self, struct demo_ran *ran)
{
    struct kvl_batch batch = engine_batch(&self->engine, self->chunks, ran->found);
    struct kvl_result result = result_of(self, ran->found);
    uint8_t said[DEMO_CHUNKS_MAX];
    uint64_t begin;
    int r;

    memcpy(said, self->location, sizeof(said));
    begin = util_now_ns();
    for (uint32_t i = 0; i < ran->found; i++) {
        self->chunks[i].bytes = DEMO_CHUNK_BYTES;
        self->chunks[i].flags = KVL_CHUNK_EXPECT_ATTRS;
    }
    demo_cache_name(self->cache, &batch);
    r = demo_cache_load(self->cache, &batch, &result);
    ran->load_ns = util_now_ns() - begin;
    if (r < 0) {
        return r;
    }
    while (ran->loaded < ran->found && self->status[ran->loaded] == 0) {
        ran->healed += said[ran->loaded] != self->location[ran->loaded];
        ran->loaded++;
    }
    if (ran->loaded < ran->found) {
        ran->refused = (int32_t)ran->loaded;
        ran->refused_status = self->status[ran->loaded];
    }
    if (ran->loaded > 0) {
        note_path(self, self->location[0], ran);
    }
    return 0;
}

static int chunks_save(struct demo_engine *self, uint32_t count, uint32_t flags)
{
    struct kvl_batch batch = engine_batch(&self->engine, self->chunks, count);
    struct kvl_result result = result_of(self, count);
    int r = demo_cache_push(self->cache);

    if (r < 0) {
        return r;
    }
    for (uint32_t i = 0; i < count; i++) {
        self->chunks[i].bytes = DEMO_CHUNK_BYTES;
        self->chunks[i].flags = 0;
    }
    demo_cache_name(self->cache, &batch);
    batch.flags = flags;
    return self->engine.ops.save(self->engine.instance, &batch, &result, NULL);
}

/* ---- one prompt ---- */

static uint64_t digest(uint64_t seed, const void *data, size_t size)
{
    const uint8_t *at = data;

    for (size_t i = 0; i < size; i++) {
        seed = util_mix(seed ^ at[i]);
    }
    return seed;
}

/* Decodes greedily. The room behind the prompt takes what was decoded. */
static void decode(struct demo_engine *self, struct demo_run *run, float logits[MODEL_VOCAB],
                   struct demo_ran *ran)
{
    uint32_t at = run->token_count;

    for (uint32_t i = 0; i < run->decode; i++) {
        ran->steps = digest(ran->steps, logits, MODEL_VOCAB * sizeof(float));
        ran->tokens[i] = model_pick(logits);
        run->tokens[at] = ran->tokens[i];
        if (i + 1 < run->decode) {
            model_forward(self->model, run->tokens, at, at + 1, logits);
        }
        at++;
    }
}

static void demo_prompt_run(struct demo_engine *self, struct demo_run *run, struct demo_ran *ran)
{
    float logits[MODEL_VOCAB];
    uint64_t begin;

    *ran = (struct demo_ran){
        .chunks = demo_chunk_count(run->token_count), .refused = -1, .path = "cold"};
    ran->error = demo_cache_forget(self->cache);
    begin = util_now_ns();
    chunks_prepare(self, run->tokens, ran->chunks);
    if (ran->error == 0 && (run->flags & DEMO_USE) != 0 && ran->chunks > 0) {
        ran->error = chunks_lookup(self, ran->chunks, ran);
        if (ran->error == 0 && ran->found > 0) {
            ran->error = chunks_load(self, ran);
        }
    }
    model_forward(self->model, run->tokens, ran->loaded * DEMO_CHUNK_TOKENS, run->token_count,
                  logits);
    ran->ttft_ns = util_now_ns() - begin;
    memcpy(ran->logits, logits, sizeof(ran->logits));
    decode(self, run, logits, ran);
    if ((run->flags & DEMO_SAVE) != 0 && ran->chunks > 0) {
        int r = chunks_save(self, ran->chunks,
                            (run->flags & DEMO_SAVE_LOCAL) != 0 ? KVL_BATCH_LOCAL_ONLY : 0);

        ran->error = ran->error == 0 ? r : ran->error;
    }
}

/* ---- damage, to show that it is seen ---- */

/* The store lies in memory of ours, so a bit of it may fall over like any other. */
static int flip_own(struct demo_engine *self, const char *key_text)
{
    struct kvl_key key = kvl_key_from_text(key_text);
    struct kvl_view view = {0};
    int r = self->engine.ops.get(self->engine.instance, &key, &view);

    if (r < 0) {
        return r;
    }
    if (view.length > 0) {
        uint8_t *bytes = (uint8_t *)(uintptr_t)view.data;

        bytes[view.length / 2] ^= 0x10;
    }
    return self->engine.ops.release(self->engine.instance, view.lease);
}

/* A client that takes the server's bytes as they are stands in for damage at the server. */
static int flip_sealed(struct demo_engine *self, const char *key_text)
{
    struct kvl_chunk chunk = {.key = kvl_key_from_text(key_text)};
    struct kvl_batch batch = engine_batch(&self->engine, &chunk, 1);
    struct kvl_result result = result_of(self, 1);
    struct kvl_sg sg = {.mem = KVL_MEM_HOST, .count = 1, .device = KVL_DEVICE_HOST};
    const uint32_t first[2] = {0, 1};
    struct kvl_view view = {0};
    uint8_t *copy;
    int r = self->engine.ops.load(self->engine.instance, &batch, &result, NULL);

    r = r < 0 ? r : self->status[0];
    if (r == 0) {
        r = self->engine.ops.get(self->engine.instance, &chunk.key, &view);
    }
    if (r < 0) {
        return r;
    }
    chunk.attrs = view.attrs;
    chunk.bytes = view.length;
    copy = malloc(view.length + 1);
    if (copy != NULL && view.data != NULL) {
        memcpy(copy, view.data, view.length);
        copy[view.length / 2] ^= 0x10;
    }
    (void)self->engine.ops.release(self->engine.instance, view.lease);
    if (copy == NULL) {
        return -ENOMEM;
    }
    sg.addr = (uint64_t)(uintptr_t)copy;
    sg.length = chunk.bytes;
    sg.stride = chunk.bytes;
    batch.sg = &sg;
    batch.sg_first = first;
    batch.flags = KVL_BATCH_OVERWRITE;
    r = self->engine.ops.save(self->engine.instance, &batch, &result, NULL);
    r = r < 0 ? r : self->status[0];
    free(copy);
    return r;
}

/* ---- the process ---- */

static int engine_arena(struct demo_engine *self)
{
    self->arena_fd = memfd_create("kvlane-demo", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (self->arena_fd < 0 || ftruncate(self->arena_fd, (off_t)self->arena_bytes) < 0) {
        return -1;
    }
    self->arena =
        mmap(NULL, self->arena_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, self->arena_fd, 0);
    if (self->arena == MAP_FAILED) {
        self->arena = NULL;
        return -1;
    }
    return 0;
}

static void take_peers(void *ctx, const char *name, uint64_t value)
{
    if (strcmp(name, "cuda_ipc_peer_links") == 0) {
        *(uint64_t *)ctx = value;
    }
}

/* Engines find each other by py_socket's greeting, so a moment after the start. */
static void await_peer(struct demo_engine *self)
{
    const uint64_t limit = util_now_ms() + PEER_MS;
    const struct timespec pause = {.tv_nsec = 2000000};
    uint64_t peers = 0;

    while (peers == 0 && util_now_ms() < limit) {
        (void)self->engine.ops.stats(self->engine.instance, take_peers, &peers);
        if (peers == 0) {
            (void)nanosleep(&pause, NULL);
        }
    }
}

static int engine_begin(struct demo_engine *self)
{
    struct {
        struct demo_init init;
        char text[INI_MAX];
    } message;
    struct engine_setup setup = {.common = &self->common};
    size_t size = 0;
    int r;

    if (child_receive(self->fd, DEMO_INIT, &message, sizeof(message) - 1, &size) < 0 ||
        size < sizeof(message.init)) {
        return CLI_OS;
    }
    message.text[size - sizeof(message.init)] = '\0';
    message.init.driver[sizeof(message.init.driver) - 1] = '\0';
    setup.config_text = message.text[0] != '\0' ? message.text : NULL;
    if (message.init.arena_bytes != 0) {
        self->arena_bytes = message.init.arena_bytes;
        if (engine_arena(self) < 0) {
            cli_error("demo: no memory for a store of %" PRIu64 " bytes: %s", self->arena_bytes,
                      strerror(errno));
            return CLI_OS;
        }
    }
    if (model_create(&self->model) < 0) {
        cli_error("demo: no memory for the model");
        return CLI_OS;
    }
    setup.arena = self->arena;
    setup.arena_fd = self->arena_fd;
    setup.arena_bytes = self->arena != NULL ? self->arena_bytes : 0;
    r = engine_open(&self->engine, &setup);
    if (r == CLI_OK) {
        r = engine_start(&self->engine);
    }
    if (r == CLI_OK) {
        r = demo_cache_create(&self->engine, self->model, message.init.gpu, message.init.driver,
                              &self->cache);
    }
    if (r == CLI_OK && demo_cache_is_on_gpu(self->cache) && message.init.await_peer != 0) {
        await_peer(self);
    }
    return r;
}

/* One message. @return 0; negative errno when the socket failed or the message is none of ours. */
static int engine_handle(struct demo_engine *self, uint32_t type, void *data, size_t size)
{
    static struct demo_ran ran;
    struct demo_run *run = data;
    const char *key = data;
    int32_t r;

    switch (type) {
    case DEMO_RUN:
        if (size != sizeof(*run) || run->token_count == 0 || run->decode > DEMO_DECODE_MAX ||
            run->token_count + run->decode > MODEL_MAX_TOKENS) {
            return -EPROTO;
        }
        demo_prompt_run(self, run, &ran);
        return child_send(self->fd, DEMO_RAN, &ran, sizeof(ran));
    case DEMO_FLIP:
    case DEMO_FLIP_SEALED:
        if (size == 0 || key[size - 1] != '\0') {
            return -EPROTO;
        }
        r = type == DEMO_FLIP ? flip_own(self, key) : flip_sealed(self, key);
        return child_send(self->fd, DEMO_FLIPPED, &r, sizeof(r));
    default:
        return -EPROTO;
    }
}

static int engine_serve_runs(struct demo_engine *self)
{
    void *data = NULL;
    size_t room = 0;
    size_t size = 0;
    uint32_t type = 0;
    int r = 0;

    while (r == 0) {
        r = child_receive_any(self->fd, &type, &data, &room, &size);
        if (r == 0) {
            r = engine_handle(self, type, data, size);
        }
    }
    free(data);
    return r == -ECONNRESET ? CLI_OK : CLI_OS;
}

static int engine_run(struct demo_engine *self)
{
    struct demo_ready ready = {.exit_code = engine_begin(self)};
    int closed;
    int r;

    if (ready.exit_code == CLI_OK) {
        ready.is_on_gpu = demo_cache_is_on_gpu(self->cache);
        engine_location_address(&self->engine, "py_socket", ready.peer_address,
                                sizeof(ready.peer_address));
        engine_location_address(&self->engine, "cuda_ipc", ready.gpu_address,
                                sizeof(ready.gpu_address));
    }
    r = child_send(self->fd, DEMO_READY, &ready, sizeof(ready)) < 0 ? CLI_OS : ready.exit_code;
    if (r == CLI_OK) {
        r = engine_serve_runs(self);
    }
    demo_cache_destroy(self->cache);
    closed = engine_close(&self->engine, DRAIN_MS);
    model_destroy(self->model);
    if (self->arena != NULL && closed == CLI_OK) {
        (void)munmap(self->arena, self->arena_bytes);
    }
    if (self->arena_fd > 0) {
        (void)close(self->arena_fd);
    }
    return r;
}

int cmd_demo_engine(int argc, char **argv)
{
    struct demo_engine *self = calloc(1, sizeof(*self));
    uint64_t fd = 0;
    const struct cli_option options[] = {
        {"fd", "N", "the socket of the demo", CLI_COUNT, &fd, 3, 3},
    };
    struct cli_usage usage = {
        .command = "demo-engine",
        .args = "",
        .about = "One engine process of 'kvlane demo', which starts it.",
        .options = options,
        .option_count = 1,
    };
    int count;
    int r;

    if (self == NULL) {
        return CLI_OS;
    }
    usage.common = &self->common;
    r = cli_parse(&usage, argc, argv, &count);
    if (r == CLI_GO && fd == 0) {
        cli_error("demo-engine is started by 'kvlane demo'");
        r = CLI_USAGE;
    }
    if (r == CLI_GO) {
        self->fd = (int)fd;
        r = engine_run(self);
    }
    free(self);
    return r;
}
