/* SPDX-License-Identifier: Apache-2.0 */
#include "mock_memory.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>

#include <kvlane/backend.h>

#define THREADS 2
#define MAX_CACHES 16u

struct shelved {
    struct shelved *next;
    struct kvl_attrs attrs;
    uint64_t bytes;
    uint32_t key_length;
    char key[KVL_KEY_MAX];
    uint8_t data[];
};

/* Shelves stay until the process ends, so that instances of one name share them. */
struct shelf {
    struct shelf *next;
    char name[32];
    struct shelved *chunks;
};

static struct {
    pthread_mutex_t lock;
    struct shelf *shelves;
} world = {.lock = PTHREAD_MUTEX_INITIALIZER};

struct cache {
    struct kvl_kv layout;
    uint64_t *bases;
    uint32_t users; /* batches */
};

struct job {
    struct job *next;
    enum mock_memory_verb verb;
    struct kvl_batch batch;
    struct kvl_chunk *chunks;
    char (*keys)[KVL_KEY_MAX];
    void *places; /* sg or blocks */
    uint32_t *first_of;
    void **addresses;
    int32_t *status;
    struct cache *cache;
    pthread_mutex_t lock; /* held while the engine's memory is touched */
    int is_cancelled; /* guarded by it */
};

struct mock_memory {
    const struct kvl_host *host;
    struct mock_memory_control *control; /* the test's */
    struct mock_memory_control own; /* for a test that needs none */
    struct shelf *shelf;
    uint32_t max_items;
    uint32_t streams;
    uint64_t kinds;
    uint64_t threads[THREADS];
    uint32_t thread_count;

    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t wake;
    struct job *first;
    struct job **last;
    struct job *running[THREADS];
    struct cache *caches[MAX_CACHES];
    int stopping;
};

static const struct kvl_option memory_options[] = {
    {.name = "control", .type = KVL_OPTION_STRING, .value = "", .help = "address of the record"},
    {.name = "shelf", .type = KVL_OPTION_STRING, .value = "", .help = "which shelf to use"},
    {.name = "max_items", .type = KVL_OPTION_INT, .value = "0", .max = 65536, .help = "of a batch"},
    {.name = "streams", .type = KVL_OPTION_INT, .value = "0", .max = 8, .help = "at a time"},
    {.name = "host", .type = KVL_OPTION_BOOL, .value = "no", .help = "works on host memory too"},
};

/* ---- the shelf; world.lock is held ---- */

static struct shelf *shelf_find(const char *name)
{
    struct shelf *shelf = world.shelves;

    while (shelf != NULL && strcmp(shelf->name, name) != 0) {
        shelf = shelf->next;
    }
    if (shelf == NULL && (shelf = calloc(1, sizeof(*shelf))) != NULL) {
        (void)snprintf(shelf->name, sizeof(shelf->name), "%s", name);
        shelf->next = world.shelves;
        world.shelves = shelf;
    }
    return shelf;
}

static struct shelved **shelf_slot(struct shelf *shelf, const struct kvl_key *key)
{
    struct shelved **slot = &shelf->chunks;

    while (*slot != NULL && ((*slot)->key_length != key->length ||
                             memcmp((*slot)->key, key->text, key->length) != 0)) {
        slot = &(*slot)->next;
    }
    return slot;
}

static int shelf_remove(struct shelf *shelf, const struct kvl_key *key)
{
    struct shelved **slot = shelf_slot(shelf, key);
    struct shelved *chunk = *slot;

    if (chunk == NULL) {
        return -ENOENT;
    }
    *slot = chunk->next;
    free(chunk);
    return 0;
}

/* ---- moving bytes ---- */

static uint8_t *real(uint64_t mem, uint64_t addr)
{
    return (uint8_t *)(uintptr_t)(mem == MOCK_MEM ? addr - MOCK_MEM_OFFSET : addr);
}

static void copy(uint8_t *engine, uint8_t *chunk, uint64_t bytes, int to_engine)
{
    memcpy(to_engine ? engine : chunk, to_engine ? chunk : engine, bytes);
}

static void copy_runs(const struct job *job, uint32_t item, uint8_t *data, int to_engine)
{
    const struct kvl_sg *sg = job->places;

    for (uint32_t i = job->first_of[item]; i < job->first_of[item + 1]; i++) {
        for (uint32_t run = 0; run < sg[i].count; run++) {
            copy(real(sg[i].mem, sg[i].addr + run * sg[i].stride), data, sg[i].length, to_engine);
            data += sg[i].length;
        }
    }
}

static void copy_layer(const struct job *job, uint32_t item, uint32_t layer, uint8_t *data,
                       int to_engine)
{
    const struct kvl_kv *kv = &job->cache->layout;
    const uint32_t *blocks = job->places;
    const uint64_t tokens = job->chunks[item].bytes / (kv->token_bytes * kv->planes * kv->layers);

    for (uint32_t plane = 0; plane < kv->planes; plane++) {
        const uint64_t row = (uint64_t)plane * kv->layers + layer;

        for (uint64_t t = 0; t < tokens; t++) {
            const uint32_t block = blocks[job->first_of[item] + t / kv->block_tokens];
            const uint64_t at = job->cache->bases[row] + block * kv->block_stride +
                                t % kv->block_tokens * kv->token_stride;

            if (block != KVL_BLOCK_SKIP) {
                copy(real(MOCK_MEM, at), data + (row * tokens + t) * kv->token_bytes,
                     kv->token_bytes, to_engine);
            }
        }
    }
}

static uint32_t layers_of(const struct job *job)
{
    return job->cache != NULL ? job->cache->layout.layers : 1;
}

/* One layer of a chunk; runs have no layers and are moved with the first. */
static void copy_some(const struct job *job, uint32_t item, uint32_t layer, uint8_t *data,
                      int to_engine)
{
    if (job->cache != NULL) {
        copy_layer(job, item, layer, data, to_engine);
    } else if (layer == 0) {
        copy_runs(job, item, data, to_engine);
    }
}

/* ---- what the threads do ---- */

static int is_stopping(struct mock_memory *mock)
{
    int stopping;

    pthread_mutex_lock(&mock->lock);
    stopping = mock->stopping;
    pthread_mutex_unlock(&mock->lock);
    return stopping;
}

static int is_cancelled(struct job *job)
{
    int cancelled;

    pthread_mutex_lock(&job->lock);
    cancelled = job->is_cancelled;
    pthread_mutex_unlock(&job->lock);
    return cancelled;
}

/* Waits while the test holds it up. @return 0; -ECANCELED. */
static int pass(struct mock_memory *mock, struct job *job, uint32_t layer)
{
    const int is_deaf = job->verb == MOCK_MEMORY_GATHER && atomic_load(&mock->control->deaf);

    while (atomic_load(&mock->control->hold[job->verb]) &&
           layer >= atomic_load(&mock->control->layers)) {
        if (is_stopping(mock) || (is_cancelled(job) && !is_deaf)) {
            return -ECANCELED;
        }
        (void)poll(NULL, 0, 1);
    }
    return 0;
}

/* The bytes of an item of a read, as a copy of what is on the shelf. @return 0; -ENOENT; .. */
static int fetch(struct mock_memory *mock, struct job *job, uint32_t item, void **data_out)
{
    const struct shelved *chunk;
    int r = -ENOENT;

    pthread_mutex_lock(&world.lock);
    chunk = *shelf_slot(mock->shelf, &job->chunks[item].key);
    if (chunk != NULL) {
        *data_out = malloc(chunk->bytes + 1);
        r = *data_out != NULL ? 0 : -ENOMEM;
        if (job->chunks[item].bytes != 0 && job->chunks[item].bytes != chunk->bytes) {
            r = -EBADMSG;
        }
        job->chunks[item].bytes = chunk->bytes;
        job->chunks[item].attrs = chunk->attrs;
    }
    if (r == 0) {
        memcpy(*data_out, chunk->data, chunk->bytes);
    }
    pthread_mutex_unlock(&world.lock);
    return r;
}

/* Where the core wants it. */
static int to_target(struct mock_memory *mock, struct job *job, uint32_t item, const void *data)
{
    void *target;
    int r =
        mock->host->read_target(mock->host, job->batch.cookie, item, &job->chunks[item], &target);

    if (r == 0) {
        memcpy(target, data, job->chunks[item].bytes);
    }
    return r;
}

/* Layers are those of all chunks of the batch. */
static int is_whole(const struct job *job)
{
    for (uint32_t i = 0; i < job->batch.count; i++) {
        if (job->status[i] != 0) {
            return 0;
        }
    }
    return 1;
}

/* Reads and scatters: layer by layer into the engine's memory. */
static int bring(struct mock_memory *mock, struct job *job, void **data)
{
    const uint32_t lie = atomic_load(&mock->control->lie);
    int r = 0;

    if (lie > 0) {
        mock->host->progress(mock->host, job->batch.cookie, lie);
    }
    for (uint32_t layer = 0; r == 0 && layer < layers_of(job); layer++) {
        r = pass(mock, job, layer);
        pthread_mutex_lock(&job->lock);
        if (job->is_cancelled) {
            r = -ECANCELED;
        }
        for (uint32_t i = 0; r == 0 && i < job->batch.count; i++) {
            if (job->status[i] == 0) {
                copy_some(job, i, layer, data[i], 1);
            }
        }
        pthread_mutex_unlock(&job->lock);
        if (r == 0 && is_whole(job)) {
            mock->host->progress(mock->host, job->batch.cookie, layer + 1);
        }
    }
    return r;
}

static int do_read(struct mock_memory *mock, struct job *job)
{
    void **data = calloc(job->batch.count + 1, sizeof(*data));
    int r = data != NULL ? pass(mock, job, job->places != NULL ? 0 : UINT32_MAX) : -ENOMEM;

    for (uint32_t i = 0; r == 0 && i < job->batch.count; i++) {
        job->status[i] = job->status[i] == 0 ? fetch(mock, job, i, &data[i]) : job->status[i];
        if (job->status[i] == 0 && job->places == NULL) {
            job->status[i] = to_target(mock, job, i, data[i]);
        }
    }
    if (r == 0 && job->places != NULL) {
        r = bring(mock, job, data);
    }
    for (uint32_t i = 0; data != NULL && i < job->batch.count; i++) {
        free(data[i]);
    }
    free(data);
    return r;
}

static int gather_item(struct job *job, uint32_t item, uint8_t *to)
{
    for (uint32_t layer = 0; layer < layers_of(job); layer++) {
        copy_some(job, item, layer, to, 0);
    }
    return 0;
}

static int write_item(struct mock_memory *mock, struct job *job, uint32_t item)
{
    const struct kvl_chunk *chunk = &job->chunks[item];
    struct shelved *entry = calloc(1, sizeof(*entry) + chunk->bytes);

    if (entry == NULL) {
        return -ENOMEM;
    }
    entry->attrs = chunk->attrs;
    entry->bytes = chunk->bytes;
    entry->key_length = chunk->key.length;
    memcpy(entry->key, chunk->key.text, chunk->key.length);
    gather_item(job, item, entry->data);
    pthread_mutex_lock(&world.lock);
    (void)shelf_remove(mock->shelf, &chunk->key);
    entry->next = mock->shelf->chunks;
    mock->shelf->chunks = entry;
    pthread_mutex_unlock(&world.lock);
    return 0;
}

static int do_item(struct mock_memory *mock, struct job *job, uint32_t item)
{
    const struct kvl_key *key = &job->chunks[item].key;
    int r;

    if (job->verb == MOCK_MEMORY_GATHER) {
        return gather_item(job, item, job->addresses[item]);
    }
    if (job->verb == MOCK_MEMORY_WRITE) {
        return write_item(mock, job, item);
    }
    pthread_mutex_lock(&world.lock);
    r = job->verb == MOCK_MEMORY_REMOVE         ? shelf_remove(mock->shelf, key)
        : *shelf_slot(mock->shelf, key) != NULL ? 0
                                                : -ENOENT;
    pthread_mutex_unlock(&world.lock);
    return r;
}

static int do_job(struct mock_memory *mock, struct job *job)
{
    int r;

    for (uint32_t i = 0; i < job->batch.count; i++) {
        job->status[i] = atomic_load(&mock->control->code[job->verb]);
    }
    if (job->verb == MOCK_MEMORY_READ) {
        return do_read(mock, job);
    }
    if (job->verb == MOCK_MEMORY_SCATTER) {
        return bring(mock, job, job->addresses);
    }
    r = pass(mock, job, UINT32_MAX);
    for (uint32_t i = 0; r == 0 && i < job->batch.count; i++) {
        job->status[i] = job->status[i] == 0 ? do_item(mock, job, i) : job->status[i];
    }
    return r;
}

static void free_job(struct job *job)
{
    pthread_mutex_destroy(&job->lock);
    free(job->chunks);
    free(job->keys);
    free(job->places);
    free(job->first_of);
    free(job->addresses);
    free(job->status);
    free(job);
}

static void finish(struct mock_memory *mock, struct job *job, int r)
{
    struct kvl_completion done = {
        .size = sizeof(done),
        .status = r,
        .cookie = job->batch.cookie,
        .item_status = r == 0 ? job->status : NULL,
        .item_count = r == 0 ? job->batch.count : 0,
    };

    if (job->cache != NULL) {
        pthread_mutex_lock(&mock->lock);
        job->cache->users--;
        pthread_mutex_unlock(&mock->lock);
    }
    atomic_fetch_add(&mock->control->done[job->verb], 1);
    mock->host->complete(mock->host, &done);
    free_job(job);
}

/* Which of the threads it is follows from who finds a free place. */
static void *run(void *arg)
{
    struct mock_memory *mock = arg;

    pthread_mutex_lock(&mock->lock);
    for (;;) {
        struct job *job = mock->first;
        int place = 0;
        int r;

        if (job == NULL && mock->stopping) {
            break;
        }
        if (job == NULL) {
            pthread_cond_wait(&mock->wake, &mock->lock);
            continue;
        }
        mock->first = job->next;
        mock->last = mock->first == NULL ? &mock->first : mock->last;
        while (mock->running[place] != NULL) {
            place++;
        }
        mock->running[place] = job;
        r = mock->stopping ? -ECANCELED : 0;
        pthread_mutex_unlock(&mock->lock);
        r = r == 0 ? do_job(mock, job) : r;
        pthread_mutex_lock(&mock->lock);
        mock->running[place] = NULL;
        pthread_mutex_unlock(&mock->lock);
        finish(mock, job, r);
        pthread_mutex_lock(&mock->lock);
    }
    pthread_mutex_unlock(&mock->lock);
    return NULL;
}

/* ---- submit ---- */

static void *keep(const void *from, size_t bytes)
{
    void *to = malloc(bytes + 1);

    if (to != NULL) {
        memcpy(to, from, bytes);
    }
    return to;
}

static int keep_places(struct job *job, const struct kvl_batch *batch)
{
    const uint32_t *first_of = batch->blocks != NULL ? batch->block_first : batch->sg_first;
    const size_t size = batch->blocks != NULL ? sizeof(*batch->blocks) : sizeof(*batch->sg);

    if (first_of == NULL) {
        return 0;
    }
    job->first_of = keep(first_of, (batch->count + 1) * sizeof(*first_of));
    job->places = keep(batch->blocks != NULL ? (const void *)batch->blocks : batch->sg,
                       first_of[batch->count] * size);
    return job->first_of != NULL && job->places != NULL ? 0 : -ENOMEM;
}

static struct job *new_job(enum mock_memory_verb verb, const struct kvl_batch *batch,
                           const void *addresses)
{
    struct job *job = calloc(1, sizeof(*job));

    if (job == NULL) {
        return NULL;
    }
    pthread_mutex_init(&job->lock, NULL);
    job->verb = verb;
    job->batch = *batch;
    job->chunks = keep(batch->chunks, batch->count * sizeof(*job->chunks));
    job->keys = calloc(batch->count + 1, sizeof(*job->keys));
    job->status = calloc(batch->count + 1, sizeof(*job->status));
    if (addresses != NULL) {
        job->addresses = keep(addresses, batch->count * sizeof(*job->addresses));
    }
    if (job->chunks == NULL || job->keys == NULL || job->status == NULL ||
        (addresses != NULL && job->addresses == NULL) || keep_places(job, batch) < 0) {
        free_job(job);
        return NULL;
    }
    for (uint32_t i = 0; i < batch->count; i++) {
        memcpy(job->keys[i], batch->chunks[i].key.text, batch->chunks[i].key.length);
        job->chunks[i].key.text = job->keys[i];
    }
    return job;
}

static int submit(struct mock_memory *mock, enum mock_memory_verb verb,
                  const struct kvl_batch *batch, const void *addresses)
{
    struct mock_memory_control *control = mock->control;
    struct job *job;
    int r = atomic_load(&control->refuse[verb]);

    if (r != 0) {
        return r;
    }
    job = new_job(verb, batch, addresses);
    if (job == NULL) {
        return -ENOMEM;
    }
    if (batch->stream != 0) {
        atomic_store(&control->stream, batch->stream);
    }
    pthread_mutex_lock(&mock->lock);
    if (batch->kv != 0 && (batch->kv > MAX_CACHES || mock->caches[batch->kv - 1] == NULL)) {
        r = -EINVAL;
    } else if (mock->stopping) {
        r = -ECANCELED;
    } else {
        if (batch->kv != 0) {
            job->cache = mock->caches[batch->kv - 1];
            job->cache->users++;
        }
        atomic_fetch_add(&control->batches[verb], 1);
        atomic_fetch_add(&control->items[verb], batch->count);
        *mock->last = job;
        mock->last = &job->next;
        pthread_cond_signal(&mock->wake);
    }
    pthread_mutex_unlock(&mock->lock);
    if (r < 0) {
        free_job(job);
    }
    return r;
}

static int memory_lookup(void *self, const struct kvl_batch *batch)
{
    return submit(self, MOCK_MEMORY_LOOKUP, batch, NULL);
}

static int memory_read(void *self, const struct kvl_batch *batch)
{
    return submit(self, MOCK_MEMORY_READ, batch, NULL);
}

static int memory_write(void *self, const struct kvl_batch *batch)
{
    return submit(self, MOCK_MEMORY_WRITE, batch, NULL);
}

static int memory_remove(void *self, const struct kvl_batch *batch)
{
    return submit(self, MOCK_MEMORY_REMOVE, batch, NULL);
}

static int memory_gather(void *self, const struct kvl_batch *batch, void *const *to)
{
    return submit(self, MOCK_MEMORY_GATHER, batch, to);
}

static int memory_scatter(void *self, const struct kvl_batch *batch, const void *const *from)
{
    return submit(self, MOCK_MEMORY_SCATTER, batch, from);
}

static int cancel_one(struct job *job, uint64_t cookie)
{
    if (job == NULL || job->batch.cookie != cookie) {
        return 0;
    }
    pthread_mutex_lock(&job->lock); /* after this no byte is written to the engine's memory */
    job->is_cancelled = 1;
    pthread_mutex_unlock(&job->lock);
    return 1;
}

static void memory_cancel(void *self, uint64_t cookie)
{
    struct mock_memory *mock = self;
    int found = 0;

    pthread_mutex_lock(&mock->lock);
    for (int i = 0; !found && i < THREADS; i++) {
        found = cancel_one(mock->running[i], cookie);
    }
    for (struct job *job = mock->first; !found && job != NULL; job = job->next) {
        found = cancel_one(job, cookie);
    }
    pthread_mutex_unlock(&mock->lock);
}

/* ---- caches ---- */

static int memory_kv_register(void *self, const struct kvl_kv *kv, uint64_t *kv_out,
                              struct kvl_err *err)
{
    struct mock_memory *mock = self;
    struct cache *cache = calloc(1, sizeof(*cache));
    int r = -EMSGSIZE;

    if (kv->bases == NULL || cache == NULL) {
        (void)snprintf(err->text, sizeof(err->text), "the mock reads no kvcache");
        free(cache);
        return -ENOTSUP;
    }
    cache->layout = *kv;
    cache->bases = keep(kv->bases, (size_t)kv->planes * kv->layers * sizeof(*kv->bases));
    pthread_mutex_lock(&mock->lock);
    for (uint32_t i = 0; r < 0 && cache->bases != NULL && i < MAX_CACHES; i++) {
        if (mock->caches[i] == NULL) {
            mock->caches[i] = cache;
            *kv_out = i + 1;
            r = 0;
        }
    }
    pthread_mutex_unlock(&mock->lock);
    if (r < 0) {
        free(cache->bases);
        free(cache);
        return r;
    }
    atomic_fetch_add(&mock->control->caches, 1);
    return 0;
}

static int memory_kv_unregister(void *self, uint64_t kv)
{
    struct mock_memory *mock = self;
    struct cache *cache = NULL;
    int r = -EBUSY;

    pthread_mutex_lock(&mock->lock);
    if (mock->caches[kv - 1]->users == 0) {
        cache = mock->caches[kv - 1];
        mock->caches[kv - 1] = NULL;
        r = 0;
    }
    pthread_mutex_unlock(&mock->lock);
    if (r == 0) {
        free(cache->bases);
        free(cache);
        atomic_fetch_sub(&mock->control->caches, 1);
    }
    return r;
}

/* ---- life ---- */

static uint64_t number(const struct kvl_host *host, const char *name)
{
    struct kvl_setting setting = {0};

    (void)host->setting(host, name, &setting);
    return (uint64_t)setting.number;
}

static int memory_create(const struct kvl_host *host, void **self_out, struct kvl_err *err)
{
    struct mock_memory *mock = calloc(1, sizeof(*mock));
    struct kvl_setting setting;

    (void)err;
    if (mock == NULL) {
        return -ENOMEM;
    }
    mock->host = host;
    mock->last = &mock->first;
    mock->max_items = (uint32_t)number(host, "max_items");
    mock->streams = (uint32_t)number(host, "streams");
    mock->kinds = 1ull << MOCK_MEM | (number(host, "host") != 0 ? 1ull << KVL_MEM_HOST : 0);
    mock->control = &mock->own;
    (void)host->setting(host, "control", &setting);
    if (setting.is_set) {
        mock->control = (void *)(uintptr_t)strtoull(setting.text, NULL, 16);
    }
    (void)host->setting(host, "shelf", &setting);
    pthread_mutex_lock(&world.lock);
    mock->shelf = shelf_find(setting.text);
    pthread_mutex_unlock(&world.lock);
    if (mock->shelf == NULL) {
        free(mock);
        return -ENOMEM;
    }
    pthread_mutex_init(&mock->lock, NULL);
    pthread_cond_init(&mock->wake, NULL);
    *self_out = mock;
    return 0;
}

static int memory_start(void *self, struct kvl_err *err)
{
    struct mock_memory *mock = self;
    int r = 0;

    (void)err;
    while (r == 0 && mock->thread_count < THREADS) {
        r = mock->host->thread_create(mock->host, "mock-memory", run, mock,
                                      &mock->threads[mock->thread_count]);
        mock->thread_count += r == 0;
    }
    return r;
}

static void memory_stop(void *self)
{
    struct mock_memory *mock = self;

    pthread_mutex_lock(&mock->lock);
    mock->stopping = 1;
    pthread_cond_broadcast(&mock->wake);
    pthread_mutex_unlock(&mock->lock);
    while (mock->thread_count > 0) {
        (void)mock->host->thread_join(mock->host, mock->threads[--mock->thread_count]);
    }
}

static void memory_destroy(void *self)
{
    struct mock_memory *mock = self;

    for (uint32_t i = 0; mock != NULL && i < MAX_CACHES; i++) {
        if (mock->caches[i] != NULL) {
            free(mock->caches[i]->bases);
            free(mock->caches[i]);
        }
    }
    if (mock != NULL) {
        pthread_mutex_destroy(&mock->lock);
        pthread_cond_destroy(&mock->wake);
        free(mock);
    }
}

static void memory_get_limits(void *self, struct kvl_limits *limits_out)
{
    const struct mock_memory *mock = self;

    limits_out->max_items = mock->max_items;
    limits_out->streams = mock->streams;
    limits_out->memory = mock->kinds;
}

static const struct kvl_backend_ops memory_ops = {
    .size = sizeof(struct kvl_backend_ops),
    .create = memory_create,
    .start = memory_start,
    .stop = memory_stop,
    .destroy = memory_destroy,
    .lookup = memory_lookup,
    .read = memory_read,
    .write = memory_write,
    .remove = memory_remove,
    .cancel = memory_cancel,
    .get_limits = memory_get_limits,
    .kv_register = memory_kv_register,
    .kv_unregister = memory_kv_unregister,
    .gather = memory_gather,
    .scatter = memory_scatter,
};

static const struct kvl_backend_desc memory_desc = {
    .magic = KVL_BACKEND_MAGIC,
    .size = sizeof(struct kvl_backend_desc),
    .abi_major = KVL_BACKEND_ABI_MAJOR,
    .abi_minor = KVL_BACKEND_ABI_MINOR,
    .caps = KVL_CAP_READ | KVL_CAP_WRITE | KVL_CAP_LOOKUP | KVL_CAP_REMOVE | KVL_CAP_CANCEL |
            KVL_CAP_MEMORY,
    .name = "mock_memory",
    .version = "0",
    .build_id = "mock",
    .options = memory_options,
    .option_count = sizeof(memory_options) / sizeof(memory_options[0]),
    .option_size = sizeof(struct kvl_option),
    .ops = &memory_ops,
};

KVL_EXPORT const struct kvl_backend_desc *kvlane_backend_v1(void)
{
    return &memory_desc;
}
