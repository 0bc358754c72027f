/* SPDX-License-Identifier: Apache-2.0 */
#include "mock.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

struct mock_chunk {
    struct mock_chunk *next;
    struct kvl_chunk chunk; /* its key points to `key` */
    char key[KVL_KEY_MAX + 1];
    uint8_t *data;
};

struct mock_shelf {
    struct mock_shelf *next;
    char name[64];
    struct mock_chunk *chunks;
};

/* Shelves stay until the process ends: that is what makes them a store on "the other side". */
static struct {
    pthread_mutex_t lock;
    struct mock_shelf *shelves;
} mock_world = {.lock = PTHREAD_MUTEX_INITIALIZER};

enum mock_verb { MOCK_LOOKUP, MOCK_READ, MOCK_WRITE, MOCK_REMOVE, MOCK_LIST, MOCK_PROBE };

struct mock_job {
    struct mock_job *next;
    enum mock_verb verb;
    uint64_t cookie;
    uint64_t deadline_ms;
    uint32_t count;
    struct kvl_chunk *chunks;
    char (*keys)[KVL_KEY_MAX + 1];
    struct kvl_sg *sg; /* NULL: host->read_target says where */
    uint32_t *sg_first;
    int32_t *status;
    void **targets; /* late: asked for in time, written to when nobody waits any more */
};

struct mock {
    const struct kvl_host *host;
    struct mock_shelf *shelf;
    uint64_t thread;
    int started;

    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t wake;
    struct mock_job *first;
    struct mock_job *last;
    int quiet;
    int stopping;
    uint64_t items[MOCK_PROBE + 1];
    uint64_t late;
    uint64_t completed;
    uint64_t lingering; /* cookie of a job that is late on purpose, 0 = none */
    uint64_t cancelled; /* cookie of it that is not wanted any more */
};

const struct kvl_option mock_options[MOCK_OPTION_COUNT] = {MOCK_OPTIONS};

static int mock_fail(struct kvl_err *err, int code, const char *text)
{
    if (code != 0 && err != NULL) {
        err->code = code;
        (void)snprintf(err->text, sizeof(err->text), "%s", text);
    }
    return code;
}

/* ---- the shelf; callers hold mock_world.lock ---- */

static struct mock_shelf *mock_shelf_find(const char *name)
{
    struct mock_shelf *shelf;

    for (shelf = mock_world.shelves; shelf != NULL; shelf = shelf->next) {
        if (strcmp(shelf->name, name) == 0) {
            return shelf;
        }
    }
    shelf = calloc(1, sizeof(*shelf));
    if (shelf != NULL) {
        (void)snprintf(shelf->name, sizeof(shelf->name), "%s", name);
        shelf->next = mock_world.shelves;
        mock_world.shelves = shelf;
    }
    return shelf;
}

static struct mock_chunk **mock_shelf_slot(struct mock_shelf *shelf, const struct kvl_key *key)
{
    struct mock_chunk **slot = &shelf->chunks;

    while (*slot != NULL && !kvl_key_equal(&(*slot)->chunk.key, key)) {
        slot = &(*slot)->next;
    }
    return slot;
}

static int mock_shelf_remove(struct mock_shelf *shelf, const struct kvl_key *key)
{
    struct mock_chunk **slot = mock_shelf_slot(shelf, key);
    struct mock_chunk *old = *slot;

    if (old == NULL) {
        return -ENOENT;
    }
    *slot = old->next;
    free(old->data);
    free(old);
    return 0;
}

/* Takes `data`. */
static int mock_shelf_add(struct mock_shelf *shelf, const struct kvl_chunk *chunk, uint8_t *data)
{
    struct mock_chunk *entry = calloc(1, sizeof(*entry));

    if (entry == NULL) {
        free(data);
        return -ENOMEM;
    }
    (void)mock_shelf_remove(shelf, &chunk->key);
    memcpy(entry->key, chunk->key.text, chunk->key.length);
    entry->chunk = *chunk;
    entry->chunk.key.text = entry->key;
    entry->data = data;
    entry->next = shelf->chunks;
    shelf->chunks = entry;
    return 0;
}

static int mock_preload_one(struct mock_shelf *shelf, const char *key, uint64_t bytes)
{
    struct kvl_chunk chunk = {.key = kvl_key_from_text(key),
                              .attrs = {.fmt = KVL_FMT_BINARY, .shape = {(int32_t)bytes}},
                              .bytes = bytes};
    uint8_t *data = malloc(bytes);
    uint64_t i;

    if (data == NULL) {
        return -ENOMEM;
    }
    for (i = 0; i < bytes; i++) {
        data[i] = mock_byte(key, i);
    }
    return mock_shelf_add(shelf, &chunk, data);
}

/* `keys` are separated by blanks. */
static int mock_preload(struct mock_shelf *shelf, const char *keys, uint64_t bytes)
{
    char key[KVL_KEY_MAX + 1];
    size_t length;
    int r = 0;

    while (r == 0 && *(keys += strspn(keys, " ")) != '\0') {
        length = strcspn(keys, " ");
        if (length > KVL_KEY_MAX) {
            return -EINVAL;
        }
        memcpy(key, keys, length);
        key[length] = '\0';
        keys += length;
        r = mock_preload_one(shelf, key, bytes);
    }
    return r;
}

/* ---- life ---- */

int mock_create(const struct kvl_host *host, void **self_out, struct kvl_err *err)
{
    struct kvl_setting preload;
    struct kvl_setting bytes;
    struct kvl_setting shelf;
    pthread_condattr_t attr;
    struct mock *mock;

    if (mock_fault.create_code != 0) {
        return mock_fail(err, mock_fault.create_code, "the mock refuses to be created");
    }
    if (host->setting(host, "preload", &preload) < 0 ||
        host->setting(host, "preload_bytes", &bytes) < 0 ||
        host->setting(host, "shelf", &shelf) < 0) {
        return mock_fail(err, -EINVAL, "the host does not know the settings of the mock");
    }
    mock = calloc(1, sizeof(*mock));
    if (mock == NULL) {
        return -ENOMEM;
    }
    mock->host = host;

    (void)pthread_mutex_lock(&mock_world.lock);
    mock->shelf = mock_shelf_find(shelf.text);
    if (mock->shelf == NULL ||
        mock_preload(mock->shelf, preload.text, (uint64_t)bytes.number) < 0) {
        (void)pthread_mutex_unlock(&mock_world.lock);
        free(mock);
        return mock_fail(err, -ENOMEM, "the mock has no room for its shelf");
    }
    (void)pthread_mutex_unlock(&mock_world.lock);

    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&mock->wake, &attr);
    (void)pthread_condattr_destroy(&attr);
    (void)pthread_mutex_init(&mock->lock, NULL);
    *self_out = mock;
    return 0;
}

void mock_destroy(void *self)
{
    struct mock *mock = self;

    if (mock == NULL) {
        return;
    }
    (void)pthread_mutex_destroy(&mock->lock);
    (void)pthread_cond_destroy(&mock->wake);
    free(mock);
}

void mock_quiesce(void *self)
{
    struct mock *mock = self;

    (void)pthread_mutex_lock(&mock->lock);
    mock->quiet = 1;
    (void)pthread_mutex_unlock(&mock->lock);
}

/* ---- what the thread does ---- */

static void mock_job_free(struct mock_job *job)
{
    if (job != NULL) {
        free(job->chunks);
        free(job->keys);
        free(job->sg);
        free(job->sg_first);
        free(job->status);
        free(job->targets);
        free(job);
    }
}

static uint64_t mock_sg_bytes(const struct mock_job *job, uint32_t item)
{
    uint64_t sum = 0;
    uint32_t i;

    for (i = job->sg_first[item]; i < job->sg_first[item + 1]; i++) {
        sum += job->sg[i].length * job->sg[i].count;
    }
    return sum;
}

static void mock_sg_copy(const struct mock_job *job, uint32_t item, uint8_t *data, int to_sg)
{
    const struct kvl_sg *sg;
    uint32_t run;
    uint32_t i;

    for (i = job->sg_first[item]; i < job->sg_first[item + 1]; i++) {
        sg = &job->sg[i];
        for (run = 0; run < sg->count; run++) {
            void *at = (void *)(uintptr_t)(sg->addr + run * sg->stride);

            memcpy(to_sg ? at : data, to_sg ? data : at, sg->length);
            data += sg->length;
        }
    }
}

/* Takes the chunk off the shelf as a copy, so that no lock is held while the host is called. */
static int mock_copy_out(struct mock *mock, const struct kvl_key *key, struct kvl_chunk *found_out,
                         uint8_t **data_out)
{
    struct mock_chunk *entry;
    int r = 0;

    (void)pthread_mutex_lock(&mock_world.lock);
    entry = *mock_shelf_slot(mock->shelf, key);
    if (entry == NULL) {
        r = -ENOENT;
    } else if ((*data_out = malloc(entry->chunk.bytes + 1)) == NULL) {
        r = -ENOMEM;
    } else {
        *found_out = entry->chunk;
        memcpy(*data_out, entry->data, entry->chunk.bytes);
    }
    (void)pthread_mutex_unlock(&mock_world.lock);
    return r;
}

static int mock_read_item(struct mock *mock, struct mock_job *job, uint32_t item)
{
    struct kvl_chunk found;
    void *target = NULL;
    uint8_t *data = NULL;
    int r;

    if (mock_fault.read_code != 0) {
        return mock_fault.read_code;
    }
    r = mock_copy_out(mock, &job->chunks[item].key, &found, &data);
    if (r < 0) {
        return r;
    }
    if (mock_fault.flip && found.bytes > 0) {
        data[found.bytes / 2] ^= 1;
    }
    if (job->sg == NULL) {
        if (job->targets != NULL) {
            target = job->targets[item];
            r = target != NULL ? 0 : -ECANCELED;
        } else {
            r = mock->host->read_target(mock->host, job->cookie, item, &found, &target);
        }
        if (r == 0) {
            memcpy(target, data, found.bytes);
        }
    } else if (mock_sg_bytes(job, item) == found.bytes) {
        mock_sg_copy(job, item, data, 1);
    } else {
        r = -EBADMSG;
    }
    free(data);
    return r;
}

static void mock_tell(const struct mock *mock, const struct kvl_chunk *chunk, uint32_t kind, int r)
{
    if (mock_fault.changed != NULL && r == 0) {
        mock_fault.changed(mock->host, &chunk->key, chunk->bytes, kind);
    }
}

static int mock_write_item(struct mock *mock, struct mock_job *job, uint32_t item)
{
    uint64_t bytes = mock_sg_bytes(job, item);
    uint8_t *data;
    int r;

    if (bytes != job->chunks[item].bytes) {
        return -EINVAL;
    }
    data = malloc(bytes + 1);
    if (data == NULL) {
        return -ENOMEM;
    }
    mock_sg_copy(job, item, data, 0);
    (void)pthread_mutex_lock(&mock_world.lock);
    r = mock_shelf_add(mock->shelf, &job->chunks[item], data);
    (void)pthread_mutex_unlock(&mock_world.lock);
    mock_tell(mock, &job->chunks[item], KVL_KEY_ADMIT, r);
    return r;
}

static int mock_item(struct mock *mock, struct mock_job *job, uint32_t item)
{
    const struct kvl_key *key = &job->chunks[item].key;
    int r;

    if (job->verb == MOCK_READ) {
        return mock_read_item(mock, job, item);
    }
    if (job->verb == MOCK_WRITE) {
        return mock_write_item(mock, job, item);
    }
    (void)pthread_mutex_lock(&mock_world.lock);
    if (job->verb == MOCK_REMOVE) {
        r = mock_shelf_remove(mock->shelf, key);
    } else {
        r = *mock_shelf_slot(mock->shelf, key) != NULL ? 0 : -ENOENT;
    }
    (void)pthread_mutex_unlock(&mock_world.lock);
    if (job->verb == MOCK_REMOVE) {
        mock_tell(mock, &job->chunks[item], KVL_KEY_EVICT, r);
    }
    return r;
}

struct mock_name {
    char text[KVL_KEY_MAX + 1];
    struct kvl_key key; /* points to `text` */
    uint64_t bytes;
};

/* Copies, so that no lock is held while the host is called. NULL without memory. */
static struct mock_name *mock_names(struct mock *mock, uint32_t *count_out)
{
    struct mock_chunk *entry;
    struct mock_name *names;
    uint32_t count = 0;

    (void)pthread_mutex_lock(&mock_world.lock);
    for (entry = mock->shelf->chunks; entry != NULL; entry = entry->next) {
        count++;
    }
    names = calloc(count + 1, sizeof(*names));
    *count_out = 0;
    for (entry = mock->shelf->chunks; entry != NULL && names != NULL; entry = entry->next) {
        struct mock_name *name = &names[(*count_out)++];

        memcpy(name->text, entry->key, sizeof(name->text));
        name->key = (struct kvl_key){.text = name->text, .length = entry->chunk.key.length};
        name->bytes = entry->chunk.bytes;
    }
    (void)pthread_mutex_unlock(&mock_world.lock);
    return names;
}

static int mock_list_all(struct mock *mock, struct mock_job *job)
{
    uint32_t count;
    struct mock_name *names = mock_names(mock, &count);
    int r = names != NULL ? 0 : -ENOMEM;

    for (uint32_t i = 0; i < count && r == 0; i++) {
        r = mock->host->list_add(mock->host, job->cookie, &names[i].key, 1);
    }
    free(names);
    return r;
}

int mock_held(void *self, kvl_key_fn fn, void *ctx)
{
    uint32_t count;
    struct mock_name *names = mock_names(self, &count);
    int r = names != NULL ? 0 : -ENOMEM;

    for (uint32_t i = 0; i < count && r == 0; i++) {
        r = fn(ctx, &names[i].key, names[i].bytes);
    }
    free(names);
    return r;
}

static void mock_complete(struct mock *mock, struct mock_job *job, int cancelled)
{
    struct kvl_completion done = {.size = sizeof(done), .cookie = job->cookie};
    uint32_t i;

    for (i = 0; i < job->count && !cancelled; i++) {
        job->status[i] = mock_item(mock, job, i);
        if (job->status[i] == 0 && job->verb == MOCK_READ) {
            done.bytes += job->chunks[i].bytes;
        }
        if (done.status == 0) {
            done.status = job->status[i];
        }
    }
    if (cancelled) {
        done.status = -ECANCELED;
    } else if (job->count > 0) {
        done.item_status = job->status;
        done.item_count = job->count;
    } else if (job->verb == MOCK_LIST) {
        done.status = mock_list_all(mock, job);
    }

    /* Counted first, so that whoever waited for the completion sees it. */
    (void)pthread_mutex_lock(&mock->lock);
    mock->completed++;
    (void)pthread_mutex_unlock(&mock->lock);
    mock->host->complete(mock->host, &done);
    if (mock_fault.twice) {
        done.status = -EIO;
        done.item_status = NULL;
        done.item_count = 0;
        mock->host->complete(mock->host, &done);
    }
}

/* Not host->now_ms: it may not be called with our lock held. */
static uint64_t mock_now_ms(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Asks for the targets while the deadline is not over, as a transfer that is only slow would. */
static void mock_ask_targets(struct mock *mock, struct mock_job *job)
{
    struct kvl_chunk found;
    uint8_t *data = NULL;
    uint32_t i;

    job->targets = calloc(job->count, sizeof(*job->targets));
    for (i = 0; i < job->count && job->targets != NULL && job->sg == NULL; i++) {
        if (mock_copy_out(mock, &job->chunks[i].key, &found, &data) == 0) {
            free(data);
            (void)mock->host->read_target(mock->host, job->cookie, i, &found, &job->targets[i]);
        }
    }
}

/* Waits until the job is late enough, or the mock is stopped. */
static void mock_linger(struct mock *mock, const struct mock_job *job)
{
    uint64_t due = job->deadline_ms + mock_fault.late_ms;
    struct timespec until = {.tv_sec = (time_t)(due / 1000),
                             .tv_nsec = (long)(due % 1000) * 1000000};

    (void)pthread_mutex_lock(&mock->lock);
    mock->lingering = job->cookie;
    while (!mock->stopping && mock->cancelled != job->cookie && mock_now_ms() < due) {
        (void)pthread_cond_timedwait(&mock->wake, &mock->lock, &until);
    }
    mock->lingering = 0;
    (void)pthread_mutex_unlock(&mock->lock);
}

/* Waits for the next job. NULL when stopping and nothing is left. */
static struct mock_job *mock_take(struct mock *mock, int *cancelled_out)
{
    struct mock_job *job;

    (void)pthread_mutex_lock(&mock->lock);
    while (mock->first == NULL && !mock->stopping) {
        (void)pthread_cond_wait(&mock->wake, &mock->lock);
    }
    job = mock->first;
    if (job != NULL) {
        mock->first = job->next;
        mock->last = mock->first == NULL ? NULL : mock->last;
    }
    *cancelled_out = mock->stopping;
    (void)pthread_mutex_unlock(&mock->lock);
    return job;
}

static void mock_serve(struct mock *mock, struct mock_job *job, int cancelled)
{
    int is_move = job->verb == MOCK_READ || job->verb == MOCK_WRITE;
    int is_late = mock_fault.late_ms != 0 && job->verb == MOCK_READ &&
                  job->deadline_ms != KVL_NEVER && !cancelled;

    if (mock_fault.never && is_move) {
        return;
    }
    if (is_late) {
        mock_ask_targets(mock, job);
        mock_linger(mock, job);
        (void)pthread_mutex_lock(&mock->lock);
        cancelled = mock->cancelled == job->cookie;
        (void)pthread_mutex_unlock(&mock->lock);
    }
    mock_complete(mock, job, cancelled);
    if (is_late) {
        (void)pthread_mutex_lock(&mock->lock);
        mock->late++;
        (void)pthread_mutex_unlock(&mock->lock);
    }
}

static void *mock_run(void *arg)
{
    struct mock *mock = arg;
    struct mock_job *job;
    int cancelled;

    while ((job = mock_take(mock, &cancelled)) != NULL) {
        mock_serve(mock, job, cancelled);
        mock_job_free(job);
    }
    return NULL;
}

int mock_start(void *self, struct kvl_err *err)
{
    struct mock *mock = self;
    int r;

    if (mock_fault.start_code != 0) {
        return mock_fail(err, mock_fault.start_code, "the mock refuses to start");
    }
    r = mock->host->thread_create(mock->host, "mock", mock_run, mock, &mock->thread);
    mock->started = r == 0;
    return mock_fail(err, r, "the mock got no thread");
}

void mock_stop(void *self)
{
    struct mock *mock = self;

    (void)pthread_mutex_lock(&mock->lock);
    mock->quiet = 1;
    mock->stopping = 1;
    (void)pthread_cond_signal(&mock->wake);
    (void)pthread_mutex_unlock(&mock->lock);
    if (mock->started) {
        (void)mock->host->thread_join(mock->host, mock->thread);
        mock->started = 0;
    }
}

/* ---- submit ---- */

static int mock_job_copy(struct mock_job *job, const struct kvl_batch *batch)
{
    uint32_t runs = batch->sg != NULL ? batch->sg_first[batch->count] : 0;
    uint32_t i;

    job->count = batch->count;
    job->chunks = calloc(batch->count, sizeof(*job->chunks));
    job->keys = calloc(batch->count, sizeof(*job->keys));
    job->status = calloc(batch->count, sizeof(*job->status));
    if (job->chunks == NULL || job->keys == NULL || job->status == NULL) {
        return -ENOMEM;
    }
    for (i = 0; i < batch->count; i++) {
        job->chunks[i] = batch->chunks[i];
        memcpy(job->keys[i], batch->chunks[i].key.text, batch->chunks[i].key.length);
        job->chunks[i].key.text = job->keys[i];
    }
    if (batch->sg != NULL) {
        job->sg = calloc(runs + 1, sizeof(*job->sg));
        job->sg_first = calloc(batch->count + 1, sizeof(*job->sg_first));
        if (job->sg == NULL || job->sg_first == NULL) {
            return -ENOMEM;
        }
        memcpy(job->sg, batch->sg, runs * sizeof(*job->sg));
        memcpy(job->sg_first, batch->sg_first, (batch->count + 1) * sizeof(*job->sg_first));
    }
    return 0;
}

/* Takes `job`, also on failure. */
static int mock_submit(struct mock *mock, struct mock_job *job)
{
    int r = 0;

    (void)pthread_mutex_lock(&mock->lock);
    if (mock->quiet) {
        r = -ECANCELED;
    } else {
        mock->items[job->verb] += job->count;
        if (mock->last != NULL) {
            mock->last->next = job;
        } else {
            mock->first = job;
        }
        mock->last = job;
        (void)pthread_cond_signal(&mock->wake);
    }
    (void)pthread_mutex_unlock(&mock->lock);
    if (r < 0) {
        mock_job_free(job);
    }
    return r;
}

static int mock_submit_batch(struct mock *mock, enum mock_verb verb, const struct kvl_batch *batch)
{
    struct mock_job *job = calloc(1, sizeof(*job));

    if (job == NULL) {
        return -ENOMEM;
    }
    job->verb = verb;
    job->cookie = batch->cookie;
    job->deadline_ms = batch->deadline_ms;
    if (mock_job_copy(job, batch) < 0) {
        mock_job_free(job);
        return -ENOMEM;
    }
    return mock_submit(mock, job);
}

static int mock_submit_bare(struct mock *mock, enum mock_verb verb, uint64_t cookie)
{
    struct mock_job *job = calloc(1, sizeof(*job));

    if (job == NULL) {
        return -ENOMEM;
    }
    job->verb = verb;
    job->cookie = cookie;
    return mock_submit(mock, job);
}

int mock_lookup(void *self, const struct kvl_batch *batch)
{
    return mock_submit_batch(self, MOCK_LOOKUP, batch);
}

int mock_read(void *self, const struct kvl_batch *batch)
{
    return mock_submit_batch(self, MOCK_READ, batch);
}

int mock_write(void *self, const struct kvl_batch *batch)
{
    return mock_submit_batch(self, MOCK_WRITE, batch);
}

int mock_remove(void *self, const struct kvl_batch *batch)
{
    return mock_submit_batch(self, MOCK_REMOVE, batch);
}

int mock_list(void *self, uint64_t cookie, uint64_t deadline_ms)
{
    (void)deadline_ms;
    return mock_submit_bare(self, MOCK_LIST, cookie);
}

int mock_probe(void *self, uint64_t cookie, uint64_t deadline_ms)
{
    (void)deadline_ms;
    return mock_submit_bare(self, MOCK_PROBE, cookie);
}

void mock_cancel(void *self, uint64_t cookie)
{
    struct mock *mock = self;

    (void)pthread_mutex_lock(&mock->lock);
    if (mock->lingering == cookie) {
        mock->cancelled = cookie;
        (void)pthread_cond_signal(&mock->wake);
    }
    (void)pthread_mutex_unlock(&mock->lock);
}

/* ---- watch ---- */

void mock_get_health(void *self, struct kvl_health *health_out)
{
    struct mock *mock = self;

    health_out->state = mock->started ? KVL_HEALTH_OK : KVL_HEALTH_DOWN;
    (void)snprintf(health_out->address, sizeof(health_out->address), "shelf:%s", mock->shelf->name);
    (void)snprintf(health_out->text, sizeof(health_out->text), "as well as a mock can be");
}

void mock_get_stats(void *self, kvl_stat_fn fn, void *ctx)
{
    static const char *const names[] = {
        [MOCK_LOOKUP] = "lookup_items", [MOCK_READ] = "read_items", [MOCK_WRITE] = "write_items",
        [MOCK_REMOVE] = "remove_items", [MOCK_LIST] = NULL,         [MOCK_PROBE] = NULL,
    };
    struct mock *mock = self;
    uint64_t items[MOCK_PROBE + 1];
    uint64_t completed;
    uint64_t late;
    int i;

    (void)pthread_mutex_lock(&mock->lock);
    memcpy(items, mock->items, sizeof(items));
    completed = mock->completed;
    late = mock->late;
    (void)pthread_mutex_unlock(&mock->lock);
    for (i = 0; i <= MOCK_PROBE; i++) {
        if (names[i] != NULL) {
            fn(ctx, names[i], items[i]);
        }
    }
    fn(ctx, "completed", completed);
    fn(ctx, "late", late);
}
