/* SPDX-License-Identifier: Apache-2.0 */
#include "py_socket_seek.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cond.h"
#include "py_socket_seek_core.h"

#define KEEP_EVERY_MS 250u
#define LATER_MS 2u
/* Between questions to a controller that does not answer. */
#define PAUSE_FIRST_MS 1000u
#define PAUSE_MOST_MS 32000u

static const char *const counter_names[PY_SOCKET_SEEK_COUNTERS] = {
    [PY_SOCKET_LOOKUPS] = "seek_lookups",  [PY_SOCKET_FOUND] = "seek_found",
    [PY_SOCKET_READS] = "seek_reads",      [PY_SOCKET_READ_OK] = "seek_read_ok",
    [PY_SOCKET_READ_BYTES] = "seek_bytes", [PY_SOCKET_QUERIES] = "seek_queries",
    [PY_SOCKET_LOCATES] = "seek_locates",  [PY_SOCKET_STALE] = "seek_stale",
};

void py_socket_seek_call_begins(struct py_socket_seek *seek)
{
    pthread_mutex_lock(&seek->lock);
    seek->calls++;
    pthread_mutex_unlock(&seek->lock);
}

void py_socket_seek_call_ends(struct py_socket_seek *seek)
{
    pthread_mutex_lock(&seek->lock);
    seek->calls--;
    pthread_cond_broadcast(&seek->changed);
    pthread_mutex_unlock(&seek->lock);
}

int py_socket_seek_connect(struct py_socket_seek *seek, const char *url, py_socket_connected_fn fn,
                           void *ctx)
{
    return py_socket_connect_call(
        seek->config.channel, url,
        py_socket_seek_now(seek) + seek->config.options->handshake_timeout_ms, fn, ctx);
}

int py_socket_seek_may_locate(struct py_socket_seek *seek)
{
    int may;

    pthread_mutex_lock(&seek->lock);
    may = py_socket_seek_now(seek) >= seek->locate_from_ms;
    pthread_mutex_unlock(&seek->lock);
    return may;
}

void py_socket_seek_located(struct py_socket_seek *seek, int32_t status, uint64_t began_ms)
{
    const uint64_t now = py_socket_seek_now(seek);

    pthread_mutex_lock(&seek->lock);
    if (status != -ETIMEDOUT) {
        seek->locate_pause_ms = 0;
    } else if (now >= seek->locate_from_ms && now - began_ms >= PY_SOCKET_HANGS_MS) {
        seek->locate_pause_ms = seek->locate_pause_ms == 0              ? PAUSE_FIRST_MS
                                : seek->locate_pause_ms < PAUSE_MOST_MS ? seek->locate_pause_ms * 2
                                                                        : PAUSE_MOST_MS;
        seek->locate_from_ms = now + seek->locate_pause_ms;
    }
    pthread_mutex_unlock(&seek->lock);
}

void py_socket_seek_finish_later(struct py_socket_job *job)
{
    struct py_socket_seek *seek = job->seek;

    pthread_mutex_lock(&seek->lock);
    job->next_finished = seek->finished;
    seek->finished = job;
    pthread_cond_broadcast(&seek->changed);
    pthread_mutex_unlock(&seek->lock);
}

void py_socket_seek_advance_later(struct py_socket_job *take_job)
{
    struct py_socket_seek *seek = take_job->seek;

    pthread_mutex_lock(&seek->lock);
    take_job->next_queued = seek->queued;
    seek->queued = take_job;
    pthread_cond_broadcast(&seek->changed);
    pthread_mutex_unlock(&seek->lock);
}

void py_socket_seek_ask_later(struct py_socket_query *query)
{
    struct py_socket_seek *seek = query->job->seek;

    pthread_mutex_lock(&seek->lock);
    query->next_later = seek->later;
    seek->later = query;
    pthread_cond_broadcast(&seek->changed);
    pthread_mutex_unlock(&seek->lock);
}

/* ---- what the core calls ---- */

static int job_begin(struct py_socket_seek *seek, const struct kvl_batch *batch, int is_read)
{
    struct py_socket_job *job;
    int r = py_socket_job_create(seek, batch, is_read, &job);

    if (r < 0) {
        return r;
    }
    pthread_mutex_lock(&seek->lock);
    if (seek->quiet) {
        pthread_mutex_unlock(&seek->lock);
        py_socket_job_release(job);
        return -ECANCELED;
    }
    job->next = seek->jobs;
    if (seek->jobs != NULL) {
        seek->jobs->prev = job;
    }
    seek->jobs = job;
    pthread_mutex_unlock(&seek->lock);
    py_socket_seek_count(seek, is_read ? PY_SOCKET_READS : PY_SOCKET_LOOKUPS, batch->count);
    py_socket_job_retain(job); /* its end may come before we are back */
    py_socket_job_allow_remembered(job);
    py_socket_job_advance(job, 1);
    py_socket_job_release(job);
    return 0;
}

int py_socket_seek_lookup(struct py_socket_seek *seek, const struct kvl_batch *batch)
{
    return job_begin(seek, batch, 0);
}

int py_socket_seek_read(struct py_socket_seek *seek, const struct kvl_batch *batch)
{
    return job_begin(seek, batch, 1);
}

/* No question is sent after this, and no byte of those that were is written any more. */
static void job_cancel(struct py_socket_job *job)
{
    struct kvl_channel *channel = job->seek->config.channel;
    struct py_socket_query *at;

    pthread_mutex_lock(&job->lock);
    if (!job->done) { /* else it is being told how it ended */
        job->cancelled = 1;
    }
    while (job->submitting > 0) {
        pthread_cond_wait(&job->settled, &job->lock);
    }
    for (at = job->queries; at != NULL; at = at->next) {
        const uint64_t op = at->op;

        if (op != 0) {
            pthread_mutex_unlock(&job->lock);
            py_socket_channel_ops.cancel(channel, op);
            pthread_mutex_lock(&job->lock);
        }
    }
    pthread_mutex_unlock(&job->lock);
    py_socket_job_advance(job, 1);
}

void py_socket_seek_cancel(struct py_socket_seek *seek, uint64_t cookie)
{
    struct py_socket_job *job;

    pthread_mutex_lock(&seek->lock);
    for (job = seek->jobs; job != NULL && job->cookie != cookie; job = job->next) {
    }
    if (job != NULL) {
        py_socket_job_retain(job);
    }
    pthread_mutex_unlock(&seek->lock);
    if (job != NULL) {
        job_cancel(job);
        py_socket_job_release(job);
    }
}

/* ---- life ---- */

/* A peer that nobody asks just now: is it there? Connects, and asks one that hung for something. */
struct
try {
    struct py_socket_seek *seek;
    struct py_socket_holder *holder;
};

static void try_over(struct try *try, int32_t status)
{
    struct py_socket_seek *seek = try->seek;

    py_socket_who_try_ends(seek->who, try->holder, status, py_socket_seek_now(seek));
    free(try);
    py_socket_seek_call_ends(seek);
}

static void on_try_looked_up(void *ctx, uint32_t item, int is_there)
{
    (void)ctx;
    (void)item;
    (void)is_there;
}

static void on_try_end(void *ctx, int32_t status)
{
    try_over(ctx, status);
}

static void try_ask(struct try *try)
{
    static const struct py_socket_fetch_ops ops = {
        .looked_up = on_try_looked_up,
        .end = on_try_end,
    };
    const struct py_socket_seek *seek = try->seek;
    const struct kvl_key key = {.text = "?", .length = 1};
    const uint64_t deadline_ms =
        py_socket_seek_now(seek) + seek->config.options->handshake_timeout_ms;
    int r = py_socket_fetch_lookup(seek->config.channel, try->holder->url, &key, 1, deadline_ms,
                                   &ops, try, NULL);

    if (r < 0) {
        try_over(try, r);
    }
}

static void on_try_connected(void *ctx, int32_t status)
{
    try_over(ctx, status);
}

static void keep_one(struct py_socket_seek *seek, struct py_socket_holder *holder)
{
    struct kvl_channel *channel = seek->config.channel;
    struct try *try;
    int is_connected;
    int r;

    if (!py_socket_who_is_kept(seek->who, holder)) {
        return;
    }
    is_connected = py_socket_channel_ops.is_connected(channel, holder->url) == 1;
    if (!py_socket_who_try(seek->who, holder, is_connected, py_socket_seek_now(seek))) {
        return;
    }
    try = malloc(sizeof(*try));
    if (try == NULL) {
        py_socket_who_try_ends(seek->who, holder, -ENOMEM, py_socket_seek_now(seek));
        return;
    }
    try->seek = seek;
    try->holder = holder;
    py_socket_seek_call_begins(seek);
    if (is_connected) {
        try_ask(try);
        return;
    }
    r = py_socket_seek_connect(seek, holder->url, on_try_connected, try);
    if (r < 0) {
        try_over(try, r);
    }
}

static void keep_peers(struct py_socket_seek *seek)
{
    struct py_socket_holder *holder;

    for (uint32_t i = 0; (holder = py_socket_who_at(seek->who, i)) != NULL; i++) {
        if (strcmp(holder->url, seek->own) != 0) {
            keep_one(seek, holder);
        }
    }
}

/* ---- the thread ---- */

static void wait_until(struct py_socket_seek *seek, uint64_t until_ms)
{
    const struct timespec at = {
        .tv_sec = (time_t)(until_ms / 1000),
        .tv_nsec = (long)(until_ms % 1000) * 1000000,
    };

    (void)pthread_cond_timedwait(&seek->changed, &seek->lock, &at);
}

/* Questions that found no room: it comes with the answers to others. */
static void ask_again(struct py_socket_query *later)
{
    while (later != NULL) {
        struct py_socket_query *next = later->next_later;

        py_socket_query_submit(later);
        later = next;
    }
}

static void advance_queued(struct py_socket_job *job)
{
    pthread_mutex_lock(&job->lock);
    job->is_queued = 0;
    pthread_mutex_unlock(&job->lock);
    py_socket_job_advance(job, 0);
    py_socket_job_release(job);
}

/* What there is to do now; the lock is given up for it. @return 0 nothing. */
static int seek_work(struct py_socket_seek *seek, uint64_t *keep_ms, uint64_t *later_ms)
{
    const uint64_t now = py_socket_seek_now(seek);
    struct py_socket_job *job = seek->finished;
    struct py_socket_query *later = seek->later;

    if (job != NULL) {
        seek->finished = job->next_finished;
        pthread_mutex_unlock(&seek->lock);
        py_socket_job_finish(job);
    } else if ((job = seek->queued) != NULL) {
        seek->queued = job->next_queued;
        seek->busy = 1;
        pthread_mutex_unlock(&seek->lock);
        advance_queued(job);
    } else if (later != NULL && (seek->stopping || now >= *later_ms)) {
        seek->later = NULL;
        seek->busy = 1;
        pthread_mutex_unlock(&seek->lock);
        ask_again(later);
        *later_ms = now + LATER_MS;
    } else if (!seek->stopping && (seek->peers_changed || now >= *keep_ms)) {
        seek->peers_changed = 0;
        seek->busy = 1;
        pthread_mutex_unlock(&seek->lock);
        keep_peers(seek);
        *keep_ms = now + KEEP_EVERY_MS;
    } else {
        return 0;
    }
    pthread_mutex_lock(&seek->lock);
    if (seek->busy) {
        seek->busy = 0;
        pthread_cond_broadcast(&seek->changed);
    }
    return 1;
}

static void *seek_run(void *arg)
{
    struct py_socket_seek *seek = arg;
    uint64_t keep_ms = 0;
    uint64_t later_ms = 0;

    pthread_mutex_lock(&seek->lock);
    while (!seek->stopping || seek->finished != NULL || seek->jobs != NULL ||
           seek->queued != NULL || seek->later != NULL) {
        if (!seek_work(seek, &keep_ms, &later_ms)) {
            wait_until(seek, seek->stopping ? py_socket_seek_now(seek) + KEEP_EVERY_MS
                             : seek->later != NULL && later_ms < keep_ms ? later_ms
                                                                         : keep_ms);
        }
    }
    pthread_mutex_unlock(&seek->lock);
    return NULL;
}

int py_socket_seek_start(const struct py_socket_seek_config *config,
                         struct py_socket_seek **seek_out)
{
    struct py_socket_seek *seek = calloc(1, sizeof(*seek));
    int r;

    if (seek == NULL) {
        return -ENOMEM;
    }
    seek->config = *config;
    snprintf(seek->own, sizeof(seek->own), "%s", py_socket_channel_ops.url(config->channel));
    pthread_mutex_init(&seek->lock, NULL);
    (void)kvl_monotonic_cond_init(&seek->changed);
    r = py_socket_who_create(&seek->who);
    if (r == 0) {
        py_socket_who_set_static(seek->who, config->options->peers, config->options->peer_count);
        r = config->host->thread_create(config->host, "ps-seek", seek_run, seek, &seek->thread);
        seek->has_thread = r == 0;
    }
    if (r < 0) {
        py_socket_seek_destroy(seek);
        return r;
    }
    *seek_out = seek;
    return 0;
}

void py_socket_seek_set_peers(struct py_socket_seek *seek, char (*urls)[KVL_CHANNEL_URL_ROOM],
                              uint32_t count)
{
    py_socket_who_set_static(seek->who, urls, count);
    pthread_mutex_lock(&seek->lock);
    seek->peers_changed = 1;
    pthread_cond_broadcast(&seek->changed);
    pthread_mutex_unlock(&seek->lock);
}

void py_socket_seek_quiesce(struct py_socket_seek *seek)
{
    pthread_mutex_lock(&seek->lock);
    seek->quiet = 1;
    pthread_mutex_unlock(&seek->lock);
}

void py_socket_seek_stop(struct py_socket_seek *seek)
{
    struct py_socket_job *job;

    if (seek == NULL || !seek->has_thread) {
        return;
    }
    pthread_mutex_lock(&seek->lock);
    seek->quiet = 1;
    seek->stopping = 1;
    pthread_cond_broadcast(&seek->changed);
    for (;;) {
        for (job = seek->jobs; job != NULL && job->is_swept; job = job->next) {
        }
        if (job == NULL) {
            break;
        }
        job->is_swept = 1;
        py_socket_job_retain(job);
        pthread_mutex_unlock(&seek->lock);
        job_cancel(job);
        py_socket_job_release(job);
        pthread_mutex_lock(&seek->lock);
    }
    while (seek->busy) {
        pthread_cond_wait(&seek->changed, &seek->lock); /* the thread is in the channel */
    }
    pthread_mutex_unlock(&seek->lock);
}

void py_socket_seek_destroy(struct py_socket_seek *seek)
{
    if (seek == NULL) {
        return;
    }
    if (seek->has_thread) {
        pthread_mutex_lock(&seek->lock);
        while (seek->calls > 0) {
            pthread_cond_wait(&seek->changed, &seek->lock);
        }
        pthread_mutex_unlock(&seek->lock);
        seek->config.host->thread_join(seek->config.host, seek->thread);
    }
    while (seek->queued != NULL) { /* one that ended by itself while it was put there */
        struct py_socket_job *next = seek->queued->next_queued;

        py_socket_job_release(seek->queued);
        seek->queued = next;
    }
    py_socket_who_destroy(seek->who);
    pthread_cond_destroy(&seek->changed);
    pthread_mutex_destroy(&seek->lock);
    free(seek);
}

void py_socket_seek_stats(struct py_socket_seek *seek, kvl_stat_fn fn, void *ctx)
{
    for (int i = 0; i < PY_SOCKET_SEEK_COUNTERS; i++) {
        fn(ctx, counter_names[i], atomic_load_explicit(&seek->counters[i], memory_order_relaxed));
    }
}
