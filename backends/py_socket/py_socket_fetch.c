/* SPDX-License-Identifier: Apache-2.0 */
#include "py_socket_fetch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "py_socket_data.h"
#include "py_socket_job.h"

#define KEEP_EVERY_MS 500u

enum counter { LOOKUPS, FOUND, READS, READ_OK, READ_BYTES, QUESTIONS, LOCATES, STALE, COUNTERS };

static const char *const counter_names[COUNTERS] = {
    [LOOKUPS] = "fetch_lookups", [FOUND] = "fetch_found",      [READS] = "fetch_reads",
    [READ_OK] = "fetch_read_ok", [READ_BYTES] = "fetch_bytes", [QUESTIONS] = "fetch_questions",
    [LOCATES] = "fetch_locates", [STALE] = "fetch_stale",
};

struct py_socket_fetch {
    struct py_socket_fetch_config config;
    struct py_socket_who *who;
    uint64_t thread;
    int has_thread;
    atomic_uint_fast64_t counters[COUNTERS];

    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t changed;
    struct py_socket_job *jobs;
    struct py_socket_job *finished; /* done before their submit returned: the thread tells */
    uint32_t calls; /* handshakes and locates under way that come back to us */
    int quiet;
    int stopping;
};

static void count(struct py_socket_fetch *fetch, enum counter which, uint64_t by)
{
    atomic_fetch_add_explicit(&fetch->counters[which], by, memory_order_relaxed);
}

static uint64_t now_ms(const struct py_socket_fetch *fetch)
{
    return fetch->config.host->now_ms(fetch->config.host);
}

static void call_begins(struct py_socket_fetch *fetch)
{
    pthread_mutex_lock(&fetch->lock);
    fetch->calls++;
    pthread_mutex_unlock(&fetch->lock);
}

static void call_ends(struct py_socket_fetch *fetch)
{
    pthread_mutex_lock(&fetch->lock);
    fetch->calls--;
    pthread_cond_broadcast(&fetch->changed);
    pthread_mutex_unlock(&fetch->lock);
}

static void job_advance(struct py_socket_job *job, int in_submit);

/* ---- one question ---- */

static void question_over(struct py_socket_question *question, int32_t status)
{
    struct py_socket_job *job = question->job;

    pthread_mutex_lock(&job->lock);
    for (uint32_t i = 0; i < question->count; i++) {
        if (status < 0 && job->items[question->items[i]].status == -EINPROGRESS) {
            py_socket_job_end_item(job, question->items[i], status);
        }
    }
    question->op = 0;
    job->out--;
    pthread_mutex_unlock(&job->lock);
    job_advance(job, 0);
    py_socket_job_release(job);
}

static void on_looked_up(void *ctx, uint32_t at, int is_there)
{
    struct py_socket_question *question = ctx;
    struct py_socket_job *job = question->job;
    const uint32_t item = question->items[at];

    if (is_there) {
        py_socket_who_remember(job->fetch->who, job->items[item].hash, question->holder);
    } else {
        py_socket_who_forget(job->fetch->who, job->items[item].hash, question->holder);
    }
    pthread_mutex_lock(&job->lock);
    py_socket_job_end_item(job, item, is_there ? 0 : -ENOENT);
    pthread_mutex_unlock(&job->lock);
}

static uint64_t runs_bytes(const struct kvl_sg *sg, uint32_t runs)
{
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < runs; i++) {
        bytes += sg[i].length * sg[i].count;
    }
    return bytes;
}

/* The chunk the engine asked for, or another one under the same name? */
static int is_expected(const struct kvl_chunk *chunk, const struct py_socket_found *found)
{
    const uint32_t sums = chunk->flags & found->flags & KVL_CHUNK_HAS_CHECKSUM;

    return (chunk->bytes == 0 || chunk->bytes == found->bytes) &&
           (sums == 0 || chunk->checksum == found->checksum) &&
           ((chunk->flags & KVL_CHUNK_EXPECT_ATTRS) == 0 ||
            memcmp(&chunk->attrs, &found->attrs, sizeof(found->attrs)) == 0);
}

static int ask_host(struct py_socket_job *job, uint32_t item, const struct py_socket_found *found)
{
    const struct kvl_host *host = job->fetch->config.host;
    const struct kvl_chunk chunk = {
        .attrs = found->attrs,
        .bytes = found->bytes,
        .checksum = found->checksum,
        .flags = found->flags & KVL_CHUNK_HAS_CHECKSUM,
    };
    struct kvl_sg *target = &job->items[item].target;
    void *addr;
    int r;

    if (target->count != 0) {
        return target->length == found->bytes ? 0 : -EBADMSG; /* asked for at the peer before */
    }
    r = host->read_target(host, job->cookie, item, &chunk, &addr);
    if (r == 0) {
        *target = (struct kvl_sg){
            .mem = KVL_MEM_HOST,
            .addr = (uint64_t)(uintptr_t)addr,
            .length = found->bytes,
            .stride = found->bytes,
            .count = 1,
            .device = KVL_DEVICE_HOST,
        };
    }
    return r;
}

static int on_found(void *ctx, uint32_t at, const struct py_socket_found *found,
                    const struct kvl_sg **sg_out, uint32_t *sg_count_out)
{
    struct py_socket_question *question = ctx;
    struct py_socket_job *job = question->job;
    const uint32_t number = question->items[at];
    struct py_socket_item *item = &job->items[number];
    int cancelled;
    int r;

    pthread_mutex_lock(&job->lock);
    cancelled = job->cancelled || item->status != -EINPROGRESS;
    pthread_mutex_unlock(&job->lock);
    if (cancelled) {
        return -ECANCELED;
    }
    if (!is_expected(&item->chunk, found)) {
        return -EBADMSG;
    }
    if (job->is_direct) {
        *sg_out = py_socket_job_runs(job, number, sg_count_out);
        r = runs_bytes(*sg_out, *sg_count_out) == found->bytes ? 0 : -EBADMSG;
    } else {
        r = ask_host(job, number, found);
        *sg_out = &item->target;
        *sg_count_out = found->bytes > 0;
    }
    item->checksum = (item->chunk.flags & KVL_CHUNK_HAS_CHECKSUM) != 0 ? item->chunk.checksum
                     : (found->flags & KVL_CHUNK_HAS_CHECKSUM) != 0    ? found->checksum
                                                                       : 0;
    item->chunk.bytes = r == 0 ? found->bytes : item->chunk.bytes;
    return r;
}

static void on_item(void *ctx, uint32_t at, int32_t status)
{
    struct py_socket_question *question = ctx;
    struct py_socket_job *job = question->job;
    const uint32_t item = question->items[at];

    if (status == 0 && !py_socket_job_is_right(job, item)) {
        status = -EBADMSG;
    }
    if (status < 0) {
        py_socket_who_forget(job->fetch->who, job->items[item].hash, question->holder);
        count(job->fetch, STALE, status == -ENOENT || status == -ESTALE);
    }
    pthread_mutex_lock(&job->lock);
    py_socket_job_end_item(job, item, status);
    pthread_mutex_unlock(&job->lock);
}

static void on_end(void *ctx, int32_t status)
{
    question_over(ctx, status < 0 ? status : -ENOENT);
}

static const struct py_socket_ask_ops ask_ops = {
    .looked_up = on_looked_up,
    .found = on_found,
    .item = on_item,
    .end = on_end,
};

static int submit_lookup(struct py_socket_question *question, uint64_t *op)
{
    struct py_socket_job *job = question->job;
    struct kvl_key *keys = malloc(question->count * sizeof(*keys));
    int r = -ENOMEM;

    for (uint32_t i = 0; keys != NULL && i < question->count; i++) {
        keys[i] = job->items[question->items[i]].chunk.key;
    }
    if (keys != NULL) {
        r = py_socket_ask_lookup(job->fetch->config.channel, question->holder->url, keys,
                                 question->count, job->deadline_ms, &ask_ops, question, op);
    }
    free(keys);
    return r;
}

static int submit_get(struct py_socket_question *question, uint64_t *op)
{
    struct py_socket_job *job = question->job;
    struct py_socket_wish *wishes = malloc(question->count * sizeof(*wishes));
    int r = -ENOMEM;

    for (uint32_t i = 0; wishes != NULL && i < question->count; i++) {
        const struct kvl_chunk *chunk = &job->items[question->items[i]].chunk;

        wishes[i] = (struct py_socket_wish){
            .key = chunk->key,
            .attrs = chunk->attrs,
            .bytes = chunk->bytes,
            .checksum = chunk->checksum,
            .flags = chunk->flags,
        };
    }
    if (wishes != NULL) {
        r = py_socket_ask_get(job->fetch->config.channel, question->holder->url, wishes,
                              question->count, job->deadline_ms, &ask_ops, question, op);
    }
    free(wishes);
    return r;
}

/* The peer is connected: ask. While `submitting` counts us, cancel waits for the name of the op. */
static void question_submit(struct py_socket_question *question)
{
    struct py_socket_job *job = question->job;
    uint64_t op = 0;
    int r = -ECANCELED;

    pthread_mutex_lock(&job->lock);
    job->submitting += !job->cancelled;
    if (job->cancelled) {
        pthread_mutex_unlock(&job->lock);
        question_over(question, r);
        return;
    }
    pthread_mutex_unlock(&job->lock);
    py_socket_job_retain(job); /* the answer may be here before we are back */
    count(job->fetch, QUESTIONS, 1);
    r = job->is_read ? submit_get(question, &op) : submit_lookup(question, &op);
    pthread_mutex_lock(&job->lock);
    question->op = r == 0 ? op : 0;
    job->submitting--;
    pthread_cond_broadcast(&job->settled);
    pthread_mutex_unlock(&job->lock);
    if (r < 0) {
        question_over(question, r);
    }
    py_socket_job_release(job);
}

static void on_connected(void *ctx, int status, const char *side_reply)
{
    struct py_socket_question *question = ctx;
    struct py_socket_fetch *fetch = question->job->fetch;

    (void)side_reply;
    py_socket_who_tried(fetch->who, question->holder, status, now_ms(fetch));
    if (status == 0) {
        question_submit(question);
    } else {
        question_over(question, status);
    }
    call_ends(fetch);
}

static int connect_to(struct py_socket_fetch *fetch, const char *url, uint64_t deadline_ms,
                      py_socket_call_fn done, void *ctx)
{
    const uint64_t latest = now_ms(fetch) + fetch->config.options->handshake_timeout_ms;
    const struct py_socket_call call = {
        .what = PY_SOCKET_CALL_INIT,
        .url = url,
        .deadline_ms = deadline_ms < latest ? deadline_ms : latest,
    };

    return py_socket_link_call(fetch->config.link, &call, done, ctx, NULL, NULL);
}

static void question_start(struct py_socket_question *question)
{
    struct py_socket_fetch *fetch = question->job->fetch;
    int r;

    call_begins(fetch);
    r = connect_to(fetch, question->holder->url, question->job->deadline_ms, on_connected,
                   question);
    if (r == 0) {
        return;
    }
    if (r == -EALREADY) {
        question_submit(question);
    } else {
        question_over(question, r);
    }
    call_ends(fetch);
}

/* ---- whom to ask next ---- */

static void on_located(void *ctx, int32_t status, const struct kvl_run *runs, uint32_t run_count)
{
    struct py_socket_job *job = ctx;
    struct py_socket_fetch *fetch = job->fetch;
    uint32_t first = 0;

    pthread_mutex_lock(&job->lock);
    while (first < job->count && job->items[first].status != -EINPROGRESS) {
        first++;
    }
    for (uint32_t i = 0; status == 0 && i < run_count; i++) {
        struct py_socket_holder *holder = py_socket_who_holder(fetch->who, runs[i].peer_url, 0);

        if (holder != NULL && py_socket_who_may_try(fetch->who, holder, now_ms(fetch))) {
            py_socket_job_allow(job, holder, first, runs[i].length);
        }
    }
    job->out--;
    pthread_mutex_unlock(&job->lock);
    job_advance(job, 0);
    py_socket_job_release(job);
    call_ends(fetch);
}

/* Asks the controller from the first open item on. The lock of the job is not held. */
static void job_locate(struct py_socket_job *job, uint32_t first)
{
    const struct kvl_host *host = job->fetch->config.host;
    const uint32_t rest = job->count - first;
    struct kvl_chunk_id *ids = malloc(rest * sizeof(*ids));
    int r = ids != NULL ? 0 : -ENOMEM;

    for (uint32_t i = 0; r == 0 && i < rest; i++) {
        r = host->chunk_id(host, &job->items[first + i].chunk.key, &ids[i]);
    }
    py_socket_job_retain(job);
    call_begins(job->fetch);
    if (r == 0) {
        r = host->locate(host, ids, rest, job->deadline_ms, on_located, job);
    }
    free(ids);
    count(job->fetch, LOCATES, r == 0);
    if (r < 0) {
        on_located(job, r, NULL, 0); /* no controller, or it cannot be asked now: others may know */
    }
}

static void allow_remembered(struct py_socket_job *job)
{
    for (uint32_t i = 0; i < job->count; i++) {
        struct py_socket_holder *holder = py_socket_who_had(job->fetch->who, job->items[i].hash);

        if (holder != NULL) {
            py_socket_job_allow(job, holder, i, 1);
        }
    }
}

/* Peers of the INI file that are there, or were never tried. One that could not be reached is left
 * to the thread that keeps them connected, so that a dead peer holds up one lookup and not all. */
static void allow_static(struct py_socket_job *job)
{
    struct py_socket_fetch *fetch = job->fetch;
    const struct kvl_channel_ops *ops = &py_socket_channel_ops;

    for (uint32_t i = 0; i < fetch->config.options->peer_count; i++) {
        struct py_socket_holder *holder =
            py_socket_who_holder(fetch->who, fetch->config.options->peers[i], 1);

        if (holder != NULL && (ops->is_connected(fetch->config.channel, holder->url) == 1 ||
                               py_socket_who_is_new(fetch->who, holder))) {
            py_socket_job_allow(job, holder, 0, job->count);
        }
    }
}

static void job_finish(struct py_socket_job *job)
{
    const struct kvl_host *host = job->fetch->config.host;
    struct py_socket_fetch *fetch = job->fetch;
    int32_t *status = malloc(job->count * sizeof(*status));
    struct kvl_completion done = {
        .size = sizeof(done),
        .cookie = job->cookie,
        .bytes = job->bytes,
        .item_status = status,
        .item_count = status != NULL ? job->count : 0,
    };
    uint32_t good = 0;

    for (uint32_t i = 0; i < job->count; i++) {
        struct py_socket_item *item = &job->items[i];

        if (item->status == -EINPROGRESS) {
            item->status = job->cancelled       ? -ECANCELED
                           : item->failure != 0 ? item->failure
                                                : -ENOENT;
        }
        good += item->status == 0;
        done.status = done.status != 0 ? done.status : item->status;
        if (status != NULL) {
            status[i] = item->status;
        }
    }
    count(fetch, job->is_read ? READ_OK : FOUND, good);
    count(fetch, READ_BYTES, job->is_read ? job->bytes : 0);
    if (status == NULL) {
        done.status = -ENOMEM;
    }
    host->complete(host, &done);
    free(status);

    pthread_mutex_lock(&fetch->lock);
    if (job->prev != NULL) {
        job->prev->next = job->next;
    } else {
        fetch->jobs = job->next;
    }
    if (job->next != NULL) {
        job->next->prev = job->prev;
    }
    pthread_cond_broadcast(&fetch->changed);
    pthread_mutex_unlock(&fetch->lock);
    py_socket_job_release(job);
}

/* One step with the lock held, which is given up for a while. @return 0 nothing more to do now. */
static int job_step(struct py_socket_job *job)
{
    struct py_socket_question *before = job->questions;
    struct py_socket_question *round;
    uint32_t first = 0;

    if (job->out > 0) {
        return 0;
    }
    if (job->cancelled || !py_socket_job_is_open(job)) {
        job->done = 1;
        return 0;
    }
    round = py_socket_job_plan(job);
    if (round != NULL) {
        for (struct py_socket_question *at = round; at != before; at = at->next) {
            job->out++;
            py_socket_job_retain(job);
        }
        pthread_mutex_unlock(&job->lock);
        while (round != before) {
            struct py_socket_question *next = round->next;

            question_start(round);
            round = next;
        }
        pthread_mutex_lock(&job->lock);
        return 1;
    }
    switch (job->phase) {
    case PY_SOCKET_REMEMBERED:
        job->phase = PY_SOCKET_LOCATED;
        while (job->items[first].status != -EINPROGRESS) {
            first++;
        }
        job->out++;
        pthread_mutex_unlock(&job->lock);
        job_locate(job, first);
        pthread_mutex_lock(&job->lock);
        return 1;
    case PY_SOCKET_LOCATED:
        job->phase = PY_SOCKET_STATIC;
        allow_static(job);
        return 1;
    case PY_SOCKET_STATIC:
        break;
    }
    job->done = 1;
    return 0;
}

/* Whoever comes here while another thread is at it leaves word and goes. No completion may come
 * from inside a submit: the thread sends it then. */
static void job_advance(struct py_socket_job *job, int in_submit)
{
    struct py_socket_fetch *fetch = job->fetch;
    int finish;

    pthread_mutex_lock(&job->lock);
    job->again = 1;
    if (job->advancing || job->done) {
        pthread_mutex_unlock(&job->lock);
        return;
    }
    job->advancing = 1;
    while (job->again && !job->done) {
        job->again = 0;
        while (job_step(job)) {
        }
    }
    job->advancing = 0;
    finish = job->done;
    pthread_mutex_unlock(&job->lock);
    if (finish && in_submit) {
        pthread_mutex_lock(&fetch->lock);
        job->next_finished = fetch->finished;
        fetch->finished = job;
        pthread_cond_broadcast(&fetch->changed);
        pthread_mutex_unlock(&fetch->lock);
    } else if (finish) {
        job_finish(job);
    }
}

/* ---- what the core calls ---- */

static int job_begin(struct py_socket_fetch *fetch, const struct kvl_batch *batch, int is_read)
{
    struct py_socket_job *job;
    int r = py_socket_job_create(fetch, batch, is_read, &job);

    if (r < 0) {
        return r;
    }
    pthread_mutex_lock(&fetch->lock);
    if (fetch->quiet) {
        pthread_mutex_unlock(&fetch->lock);
        py_socket_job_release(job);
        return -ECANCELED;
    }
    job->next = fetch->jobs;
    if (fetch->jobs != NULL) {
        fetch->jobs->prev = job;
    }
    fetch->jobs = job;
    pthread_mutex_unlock(&fetch->lock);
    count(fetch, is_read ? READS : LOOKUPS, batch->count);
    py_socket_job_retain(job); /* its end may come before we are back */
    allow_remembered(job);
    job_advance(job, 1);
    py_socket_job_release(job);
    return 0;
}

int py_socket_fetch_lookup(struct py_socket_fetch *fetch, const struct kvl_batch *batch)
{
    return job_begin(fetch, batch, 0);
}

int py_socket_fetch_read(struct py_socket_fetch *fetch, const struct kvl_batch *batch)
{
    return job_begin(fetch, batch, 1);
}

/* No question is sent after this, and no byte of those that were is written any more. */
static void job_cancel(struct py_socket_job *job)
{
    struct kvl_channel *channel = job->fetch->config.channel;
    struct py_socket_question *at;

    pthread_mutex_lock(&job->lock);
    job->cancelled = 1;
    while (job->submitting > 0) {
        pthread_cond_wait(&job->settled, &job->lock);
    }
    for (at = job->questions; at != NULL; at = at->next) {
        const uint64_t op = at->op;

        if (op != 0) {
            pthread_mutex_unlock(&job->lock);
            py_socket_channel_ops.cancel(channel, op);
            pthread_mutex_lock(&job->lock);
        }
    }
    pthread_mutex_unlock(&job->lock);
}

void py_socket_fetch_cancel(struct py_socket_fetch *fetch, uint64_t cookie)
{
    struct py_socket_job *job;

    pthread_mutex_lock(&fetch->lock);
    for (job = fetch->jobs; job != NULL && job->cookie != cookie; job = job->next) {
    }
    if (job != NULL) {
        py_socket_job_retain(job);
    }
    pthread_mutex_unlock(&fetch->lock);
    if (job != NULL) {
        job_cancel(job);
        py_socket_job_release(job);
    }
}

/* ---- life ---- */

/* A handshake with a peer of the INI file that nobody asks for yet. */
struct kept {
    struct py_socket_fetch *fetch;
    struct py_socket_holder *holder;
};

static void on_kept(void *ctx, int status, const char *side_reply)
{
    struct kept *kept = ctx;

    (void)side_reply;
    py_socket_who_tried(kept->fetch->who, kept->holder, status, now_ms(kept->fetch));
    call_ends(kept->fetch);
    free(kept);
}

static void keep_one(struct py_socket_fetch *fetch, struct py_socket_holder *holder)
{
    struct kept *kept;
    int r;

    if (py_socket_channel_ops.is_connected(fetch->config.channel, holder->url) == 1 ||
        !py_socket_who_try(fetch->who, holder, now_ms(fetch))) {
        return;
    }
    kept = malloc(sizeof(*kept));
    call_begins(fetch);
    if (kept == NULL) {
        r = -ENOMEM;
    } else {
        kept->fetch = fetch;
        kept->holder = holder;
        r = connect_to(fetch, holder->url, KVL_NEVER, on_kept, kept);
    }
    if (r != 0) {
        py_socket_who_tried(fetch->who, holder, r == -EALREADY ? 0 : r, now_ms(fetch));
        free(kept);
        call_ends(fetch);
    }
}

static void keep_peers(struct py_socket_fetch *fetch)
{
    for (uint32_t i = 0; i < fetch->config.options->peer_count; i++) {
        struct py_socket_holder *holder =
            py_socket_who_holder(fetch->who, fetch->config.options->peers[i], 1);

        if (holder != NULL) {
            keep_one(fetch, holder);
        }
    }
}

static void wait_a_moment(struct py_socket_fetch *fetch)
{
    const uint64_t until = now_ms(fetch) + KEEP_EVERY_MS;
    const struct timespec at = {
        .tv_sec = (time_t)(until / 1000),
        .tv_nsec = (long)(until % 1000) * 1000000,
    };

    while (!fetch->stopping && fetch->finished == NULL &&
           pthread_cond_timedwait(&fetch->changed, &fetch->lock, &at) == 0) {
    }
}

static void *fetch_run(void *arg)
{
    struct py_socket_fetch *fetch = arg;

    pthread_mutex_lock(&fetch->lock);
    while (!fetch->stopping || fetch->finished != NULL || fetch->jobs != NULL) {
        struct py_socket_job *job = fetch->finished;

        if (job != NULL) {
            fetch->finished = job->next_finished;
        }
        pthread_mutex_unlock(&fetch->lock);
        if (job != NULL) {
            job_finish(job);
        } else if (!fetch->stopping) {
            keep_peers(fetch);
        }
        pthread_mutex_lock(&fetch->lock);
        if (fetch->finished == NULL && !fetch->stopping) {
            wait_a_moment(fetch);
        } else if (fetch->finished == NULL && fetch->jobs != NULL) {
            pthread_cond_wait(&fetch->changed, &fetch->lock);
        }
    }
    pthread_mutex_unlock(&fetch->lock);
    return NULL;
}

static void cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attr;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
}

int py_socket_fetch_start(const struct py_socket_fetch_config *config,
                          struct py_socket_fetch **fetch_out)
{
    struct py_socket_fetch *fetch = calloc(1, sizeof(*fetch));
    int r;

    if (fetch == NULL) {
        return -ENOMEM;
    }
    fetch->config = *config;
    pthread_mutex_init(&fetch->lock, NULL);
    cond_init(&fetch->changed);
    r = py_socket_who_create(&fetch->who);
    if (r == 0) {
        r = config->host->thread_create(config->host, "ps-fetch", fetch_run, fetch, &fetch->thread);
        fetch->has_thread = r == 0;
    }
    if (r < 0) {
        py_socket_fetch_destroy(fetch);
        return r;
    }
    *fetch_out = fetch;
    return 0;
}

void py_socket_fetch_quiesce(struct py_socket_fetch *fetch)
{
    pthread_mutex_lock(&fetch->lock);
    fetch->quiet = 1;
    pthread_mutex_unlock(&fetch->lock);
}

void py_socket_fetch_stop(struct py_socket_fetch *fetch)
{
    struct py_socket_job *job;

    if (fetch == NULL || !fetch->has_thread) {
        return;
    }
    pthread_mutex_lock(&fetch->lock);
    fetch->quiet = 1;
    fetch->stopping = 1;
    pthread_cond_broadcast(&fetch->changed);
    for (;;) {
        for (job = fetch->jobs; job != NULL && job->cancelled; job = job->next) {
        }
        if (job == NULL) {
            break;
        }
        py_socket_job_retain(job);
        pthread_mutex_unlock(&fetch->lock);
        job_cancel(job);
        py_socket_job_release(job);
        pthread_mutex_lock(&fetch->lock);
    }
    pthread_mutex_unlock(&fetch->lock);
}

void py_socket_fetch_destroy(struct py_socket_fetch *fetch)
{
    if (fetch == NULL) {
        return;
    }
    if (fetch->has_thread) {
        pthread_mutex_lock(&fetch->lock);
        while (fetch->calls > 0) {
            pthread_cond_wait(&fetch->changed, &fetch->lock);
        }
        pthread_mutex_unlock(&fetch->lock);
        fetch->config.host->thread_join(fetch->config.host, fetch->thread);
    }
    py_socket_who_destroy(fetch->who);
    pthread_cond_destroy(&fetch->changed);
    pthread_mutex_destroy(&fetch->lock);
    free(fetch);
}

void py_socket_fetch_stats(struct py_socket_fetch *fetch, kvl_stat_fn fn, void *ctx)
{
    for (int i = 0; i < COUNTERS; i++) {
        fn(ctx, counter_names[i], atomic_load_explicit(&fetch->counters[i], memory_order_relaxed));
    }
}
