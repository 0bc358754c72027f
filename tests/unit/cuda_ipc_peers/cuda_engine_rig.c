/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda_engine_rig.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK CUDA_RIG_CHECK

static void cuda_engine_keep_line(char *text, size_t size, const char *line)
{
    const size_t length = strlen(text);

    (void)snprintf(text + length, size - length, "%s\n", line);
}

static void cuda_engine_log(void *ctx, int32_t level, const char *component, const char *file,
                            int32_t line, const char *text)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    struct cuda_engine_rig *rig = ctx;

    (void)component;
    pthread_mutex_lock(&lock);
    if (level == KVL_LOG_ERROR) {
        cuda_engine_keep_line(rig->errors, sizeof(rig->errors), text);
    } else if (level == KVL_LOG_WARN) {
        cuda_engine_keep_line(rig->warnings, sizeof(rig->warnings), text);
    }
    if (getenv("KVL_TEST_LOG") != NULL) {
        fprintf(stderr, "%d %s:%d %s\n", level, file, line, text);
    }
    pthread_mutex_unlock(&lock);
}

void cuda_engine_init(struct cuda_engine_rig *rig, struct cuda_rig *cuda, const char *const *pairs)
{
    /* a machine that is busy with other tests is no peer that hangs */
    static const char *const defaults[] = {"pool",  "4194304", "segment", "2097152", "stage",
                                           "65536", "timeout", "20s",     NULL};
    const struct kvl_backend_desc *desc = kvlane_backend_v1();
    uint32_t n = 0;

    memset(rig, 0, sizeof(*rig));
    rig->cuda = cuda;
    rig->ops = desc->ops;
    rig->pairs[n++] = "driver";
    rig->pairs[n++] = cuda_rig_path();
    for (uint32_t i = 0; defaults[i] != NULL; i++) {
        rig->pairs[n++] = defaults[i];
    }
    for (uint32_t i = 0; pairs != NULL && pairs[i] != NULL; i++) {
        CHECK(n < 2 * ENGINE_PAIRS_MAX);
        rig->pairs[n++] = pairs[i]; /* the last one of a name counts */
    }
    rig->fake = fake_host_create(desc, rig->pairs);
    rig->table = *fake_host_table(rig->fake);
    rig->log = *rig->table.log;
    rig->log.write = cuda_engine_log;
    rig->log.ctx = rig;
    rig->table.log = &rig->log;
}

int cuda_engine_try_start(struct cuda_engine_rig *rig, struct kvl_err *err)
{
    void *self;

    CHECK(rig->ops->create(&rig->table, &self, err) == 0);
    rig->self = self;
    return rig->ops->start(self, err);
}

static void cuda_engine_register(struct cuda_engine_rig *rig)
{
    uint64_t bases[ENGINE_PLANES * ENGINE_LAYERS];
    struct kvl_err err = {.size = sizeof(err)};
    const struct kvl_kv kv = {
        .size = sizeof(kv),
        .mem = KVL_MEM_CUDA,
        .layers = ENGINE_LAYERS,
        .planes = ENGINE_PLANES,
        .block_tokens = ENGINE_BLOCK_TOKENS,
        .block_count = ENGINE_BLOCKS,
        .token_bytes = ENGINE_TOKEN_BYTES,
        .token_stride = ENGINE_TOKEN_BYTES,
        .block_stride = ENGINE_BLOCK_BYTES,
        .bases = bases,
    };

    CHECK(rig->cuda->api.mem_alloc(&rig->cache,
                                   ENGINE_PLANES * ENGINE_LAYERS * ENGINE_BASE_BYTES) == CUDA_OK);
    for (uint32_t i = 0; i < ENGINE_PLANES * ENGINE_LAYERS; i++) {
        bases[i] = rig->cache + i * ENGINE_BASE_BYTES;
    }
    if (rig->ops->kv_register(rig->self, &kv, &rig->kv, &err) < 0) {
        cuda_rig_die(__FILE__, __LINE__, err.text);
    }
}

void cuda_engine_start(struct cuda_engine_rig *rig)
{
    struct kvl_err err = {.size = sizeof(err)};

    if (cuda_engine_try_start(rig, &err) < 0) {
        cuda_rig_die(__FILE__, __LINE__, err.text);
    }
    cuda_engine_register(rig);
}

void cuda_engine_fini(struct cuda_engine_rig *rig)
{
    if (rig->kv != 0) {
        CHECK(rig->ops->kv_unregister(rig->self, rig->kv) == 0);
    }
    if (rig->self != NULL) {
        rig->ops->stop(rig->self);
        rig->ops->destroy(rig->self);
    }
    CHECK(fake_host_leaks(rig->fake) == 0);
    fake_host_destroy(rig->fake);
    if (rig->cache != 0) {
        CHECK(rig->cuda->api.mem_free(rig->cache) == CUDA_OK);
    }
}

/* ---- content ---- */

uint8_t cuda_engine_byte(uint32_t seed, uint64_t at)
{
    uint64_t x = (uint64_t)seed << 32 ^ at;

    x *= 0x9e3779b97f4a7c15ull;
    return (uint8_t)(x >> 40 ^ x >> 17);
}

/* Calls for each block of each layer of each plane: where it is, and its place in the chunk. */
static void cuda_engine_each(struct cuda_engine_rig *rig, uint32_t first_block, uint8_t *chunk,
                             int is_write)
{
    for (uint32_t base = 0; base < ENGINE_PLANES * ENGINE_LAYERS; base++) {
        for (uint32_t b = 0; b < ENGINE_CHUNK_BLOCKS; b++) {
            const cuda_ptr addr =
                rig->cache + base * ENGINE_BASE_BYTES + (first_block + b) * ENGINE_BLOCK_BYTES;
            uint8_t *bytes = chunk + (base * ENGINE_CHUNK_BLOCKS + b) * ENGINE_BLOCK_BYTES;

            CHECK((is_write ? rig->cuda->control->poke(addr, bytes, ENGINE_BLOCK_BYTES)
                            : rig->cuda->control->peek(bytes, addr, ENGINE_BLOCK_BYTES)) == 0);
        }
    }
}

void cuda_engine_fill(struct cuda_engine_rig *rig, uint32_t first_block, uint32_t seed)
{
    uint8_t chunk[ENGINE_CHUNK_BYTES];

    for (uint64_t i = 0; i < sizeof(chunk); i++) {
        chunk[i] = cuda_engine_byte(seed, i);
    }
    cuda_engine_each(rig, first_block, chunk, 1);
}

int cuda_engine_holds(struct cuda_engine_rig *rig, uint32_t first_block, uint32_t seed)
{
    uint8_t chunk[ENGINE_CHUNK_BYTES];
    uint64_t i = 0;

    cuda_engine_each(rig, first_block, chunk, 0);
    while (i < sizeof(chunk) && chunk[i] == cuda_engine_byte(seed, i)) {
        i++;
    }
    return i == sizeof(chunk);
}

/* ---- operations ---- */

int cuda_engine_submit(struct cuda_engine_rig *rig, cuda_engine_submit_fn submit,
                       const char *prefix, uint32_t count, uint32_t first_block, uint64_t stream)
{
    struct kvl_chunk chunks[ENGINE_BLOCKS];
    char texts[ENGINE_BLOCKS][64];
    uint32_t blocks[ENGINE_BLOCKS * ENGINE_CHUNK_BLOCKS];
    uint32_t first[ENGINE_BLOCKS + 1] = {0};
    struct kvl_batch batch = {
        .size = sizeof(batch),
        .count = count,
        .cookie = ++rig->cookie,
        .deadline_ms = KVL_NEVER,
        .chunks = chunks,
        .kv = rig->kv,
        .blocks = blocks,
        .block_first = first,
        .flags = rig->flags,
        .stream = stream,
    };

    CHECK(count <= ENGINE_BLOCKS);
    for (uint32_t i = 0; i < count; i++) {
        (void)snprintf(texts[i], sizeof(texts[i]), "%s%u", prefix, i);
        chunks[i] = (struct kvl_chunk){
            .key = kvl_key_from_text(texts[i]),
            .attrs = {KVL_FMT_KV_2LTD,
                      KVL_DTYPE_HALF,
                      {ENGINE_PLANES, ENGINE_LAYERS, 16, ENGINE_TOKEN_BYTES / 2}},
            .bytes = ENGINE_CHUNK_BYTES,
            .flags = submit == rig->ops->read ? KVL_CHUNK_EXPECT_ATTRS : 0,
        };
        for (uint32_t b = 0; b < ENGINE_CHUNK_BLOCKS; b++) {
            blocks[first[i] + b] = first_block + i * ENGINE_CHUNK_BLOCKS + b;
        }
        first[i + 1] = first[i] + ENGINE_CHUNK_BLOCKS;
    }
    return submit(rig->self, &batch);
}

int cuda_engine_batch(struct cuda_engine_rig *rig, cuda_engine_submit_fn submit, const char *prefix,
                      uint32_t count, uint32_t first_block, struct fake_result *result_out)
{
    struct fake_result *result = result_out != NULL ? result_out : malloc(sizeof(*result));
    int r = cuda_engine_submit(rig, submit, prefix, count, first_block, 0);

    if (r == 0) {
        CHECK(fake_host_wait(rig->fake, rig->cookie, result) == 0);
        CHECK(fake_host_completions(rig->fake, rig->cookie) == 1);
        r = result->status;
    }
    if (result_out == NULL) {
        free(result);
    }
    return r;
}

void cuda_engine_save(struct cuda_engine_rig *rig, const char *prefix, uint32_t count,
                      uint32_t seed)
{
    for (uint32_t i = 0; i < count; i++) {
        cuda_engine_fill(rig, i * ENGINE_CHUNK_BLOCKS, seed + i);
    }
    CHECK(cuda_engine_batch(rig, rig->ops->write, prefix, count, 0, NULL) == 0);
    for (uint32_t i = 0; i < count; i++) { /* so that nobody finds it there */
        cuda_engine_fill(rig, i * ENGINE_CHUNK_BLOCKS, 0xffff);
    }
}

int cuda_engine_load(struct cuda_engine_rig *rig, const char *prefix, uint32_t count, uint32_t seed)
{
    const uint32_t first = ENGINE_BLOCKS - count * ENGINE_CHUNK_BLOCKS;
    int r;

    for (uint32_t i = 0; i < count; i++) {
        cuda_engine_fill(rig, first + i * ENGINE_CHUNK_BLOCKS, 0xfffe);
    }
    r = cuda_engine_batch(rig, rig->ops->read, prefix, count, first, NULL);
    for (uint32_t i = 0; r == 0 && i < count; i++) {
        CHECK(cuda_engine_holds(rig, first + i * ENGINE_CHUNK_BLOCKS, seed + i));
    }
    return r;
}

int cuda_engine_has(struct cuda_engine_rig *rig, const char *key)
{
    const struct kvl_chunk chunk = {.key = kvl_key_from_text(key)};
    const struct kvl_batch batch = {
        .size = sizeof(batch),
        .count = 1,
        .cookie = ++rig->cookie,
        .deadline_ms = KVL_NEVER,
        .chunks = &chunk,
    };
    struct fake_result *result = malloc(sizeof(*result));
    int status;

    CHECK(result != NULL && rig->ops->lookup(rig->self, &batch) == 0);
    CHECK(fake_host_wait(rig->fake, batch.cookie, result) == 0);
    status = result->status;
    free(result);
    CHECK(status == 0 || status == -ENOENT);
    return status == 0;
}

/* ---- peers ---- */

void cuda_engine_meet(struct cuda_engine_rig *rig, struct cuda_engine_rig *other)
{
    uint8_t bytes[KVL_OFFER_MAX];
    const struct kvl_offer offer = {
        .size = sizeof(offer),
        .is_same_host = 1,
        .backend = {.text = "cuda_ipc", .length = 8},
        .bytes = bytes,
        .length = fake_host_offer(other->fake, bytes),
    };

    rig->ops->connect(rig->self, &offer);
}

struct cuda_engine_links {
    struct cuda_engine_rig *rig;
    uint64_t count;
};

static int cuda_engine_is_linked(void *ctx)
{
    const struct cuda_engine_links *links = ctx;

    return cuda_engine_stat(links->rig, "peer_links") == links->count;
}

void cuda_engine_await_links(struct cuda_engine_rig *rig, uint64_t count)
{
    struct cuda_engine_links links = {rig, count};

    cuda_rig_until(cuda_engine_is_linked, &links);
}

uint32_t cuda_engine_descriptors(void)
{
    DIR *folder = opendir("/proc/self/fd");
    uint32_t count = 0;

    CHECK(folder != NULL);
    while (readdir(folder) != NULL) {
        count++;
    }
    closedir(folder);
    return count;
}

struct cuda_engine_wish {
    const char *name;
    uint64_t value;
    int found;
};

static void cuda_engine_on_stat(void *ctx, const char *name, uint64_t value)
{
    struct cuda_engine_wish *wish = ctx;

    if (strcmp(name, wish->name) == 0) {
        wish->value = value;
        wish->found = 1;
    }
}

uint64_t cuda_engine_stat(struct cuda_engine_rig *rig, const char *name)
{
    struct cuda_engine_wish wish = {.name = name};

    rig->ops->get_stats(rig->self, cuda_engine_on_stat, &wish);
    if (!wish.found) {
        cuda_rig_die(__FILE__, __LINE__, name);
    }
    return wish.value;
}

struct kvl_health cuda_engine_health(struct cuda_engine_rig *rig)
{
    struct kvl_health health = {.size = sizeof(health)};

    rig->ops->get_health(rig->self, &health);
    return health;
}
