/* SPDX-License-Identifier: Apache-2.0 */
#include "py_socket_seek.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "py_socket_seek_core.h"

#define KEEP_EVERY_MS 500u

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

int py_socket_seek_connect(struct py_socket_seek *seek, const char *url, uint64_t deadline_ms,
                           py_socket_connected_fn fn, void *ctx)
{
    const uint64_t latest = py_socket_seek_now(seek) + seek->config.options->handshake_timeout_ms;

    return py_socket_connect_call(seek->config.channel, url,
                                  deadline_ms < latest ? deadline_ms : latest, fn, ctx);
}

/* ---- whom to ask next ---- */

static void on_located(void *ctx, int32_t status, const struct kvl_run *runs, uint32_t run_count)
{
    struct py_socket_job *job = ctx;
    struct py_socket_seek *seek = job->seek;
    uint32_t first = 0;

    pthread_mutex_lock(&job->lock);
    while (first < job->count && job->items[first].status != -EINPROGRESS) {
        first++;
    }
    for (uint32_t i = 0; status == 0 && i < run_count; i++) {
        struct py_socket_holder *holder = py_socket_who_holder(seek->who, runs[i].peer_url);

        if (holder != NULL && py_socket_who_may_try(seek->who, holder, py_socket_seek_now(seek))) {
            py_socket_job_allow(job, holder, first, runs[i].length);
        }
    }
    job->out--;
    pthread_mutex_unlock(&job->lock);
    py_socket_job_advance(job, 0);
    py_socket_job_release(job);
    py_socket_seek_call_ends(seek);
}

/* Asks the controller from the first open item on. The lock of the job is not held. */
static void job_locate(struct py_socket_job *job, uint32_t first)
{
    const struct kvl_host *host = job->seek->config.host;
    const uint32_t rest = job->count - first;
    struct kvl_chunk_id *ids = malloc(rest * sizeof(*ids));
    int r = ids != NULL ? 0 : -ENOMEM;

    for (uint32_t i = 0; r == 0 && i < rest; i++) {
        r = host->chunk_id(host, &job->items[first + i].chunk.key, &ids[i]);
    }
    py_socket_job_retain(job);
    py_socket_seek_call_begins(job->seek);
    if (r == 0) {
        r = host->locate(host, ids, rest, job->deadline_ms, on_located, job);
    }
    free(ids);
    py_socket_seek_count(job->seek, PY_SOCKET_LOCATES, r == 0);
    if (r < 0) {
        on_located(job, r, NULL, 0); /* no controller, or it cannot be asked now: others may know */
    }
}

static void allow_remembered(struct py_socket_job *job)
{
    for (uint32_t i = 0; i < job->count; i++) {
        struct py_socket_holder *holder = py_socket_who_had(job->seek->who, job->items[i].hash);

        if (holder != NULL) {
            py_socket_job_allow(job, holder, i, 1);
        }
    }
}

/* Peers of the INI file that are there, or were never tried. One that could not be reached is left
 * to the thread that keeps them connected, so that a dead peer holds up one lookup and not all. */
static void allow_static(struct py_socket_job *job)
{
    struct py_socket_seek *seek = job->seek;
    const struct kvl_channel_ops *ops = &py_socket_channel_ops;
    struct py_socket_holder *holder;
    uint32_t at = 0;

    while ((holder = py_socket_who_next_static(seek->who, &at)) != NULL) {
        if (ops->is_connected(seek->config.channel, holder->url) == 1 ||
            py_socket_who_is_new(seek->who, holder)) {
            py_socket_job_allow(job, holder, 0, job->count);
        }
    }
}

static void job_finish(struct py_socket_job *job)
{
    const struct kvl_host *host = job->seek->config.host;
    struct py_socket_seek *seek = job->seek;
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
    py_socket_seek_count(seek, job->is_read ? PY_SOCKET_READ_OK : PY_SOCKET_FOUND, good);
    py_socket_seek_count(seek, PY_SOCKET_READ_BYTES, job->is_read ? job->bytes : 0);
    if (status == NULL) {
        done.status = -ENOMEM;
    }
    host->complete(host, &done);
    free(status);

    pthread_mutex_lock(&seek->lock);
    if (job->prev != NULL) {
        job->prev->next = job->next;
    } else {
        seek->jobs = job->next;
    }
    if (job->next != NULL) {
        job->next->prev = job->prev;
    }
    pthread_cond_broadcast(&seek->changed);
    pthread_mutex_unlock(&seek->lock);
    py_socket_job_release(job);
}

/* One step with the lock held, which is given up for a while. @return 0 nothing more to do now. */
static int job_step(struct py_socket_job *job)
{
    struct py_socket_query *before = job->queries;
    struct py_socket_query *round;
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
        for (struct py_socket_query *at = round; at != before; at = at->next) {
            job->out++;
            py_socket_job_retain(job);
        }
        pthread_mutex_unlock(&job->lock);
        while (round != before) {
            struct py_socket_query *next = round->next;

            py_socket_query_start(round);
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
void py_socket_job_advance(struct py_socket_job *job, int in_submit)
{
    struct py_socket_seek *seek = job->seek;
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
        pthread_mutex_lock(&seek->lock);
        job->next_finished = seek->finished;
        seek->finished = job;
        pthread_cond_broadcast(&seek->changed);
        pthread_mutex_unlock(&seek->lock);
    } else if (finish) {
        job_finish(job);
    }
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
    allow_remembered(job);
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
    job->cancelled = 1;
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

/* A handshake with a peer of the INI file that nobody asks for yet. */
struct kept {
    struct py_socket_seek *seek;
    struct py_socket_holder *holder;
};

static void on_kept(void *ctx, int32_t status)
{
    struct kept *kept = ctx;

    py_socket_who_tried(kept->seek->who, kept->holder, status, py_socket_seek_now(kept->seek));
    py_socket_seek_call_ends(kept->seek);
    free(kept);
}

static void keep_one(struct py_socket_seek *seek, struct py_socket_holder *holder)
{
    struct kept *kept;
    int r;

    if (py_socket_channel_ops.is_connected(seek->config.channel, holder->url) == 1 ||
        !py_socket_who_try(seek->who, holder, py_socket_seek_now(seek))) {
        return;
    }
    kept = malloc(sizeof(*kept));
    py_socket_seek_call_begins(seek);
    if (kept == NULL) {
        r = -ENOMEM;
    } else {
        kept->seek = seek;
        kept->holder = holder;
        r = py_socket_seek_connect(seek, holder->url, KVL_NEVER, on_kept, kept);
    }
    if (r < 0) {
        py_socket_who_tried(seek->who, holder, r, py_socket_seek_now(seek));
        free(kept);
        py_socket_seek_call_ends(seek);
    }
}

static void keep_peers(struct py_socket_seek *seek)
{
    struct py_socket_holder *holder;
    uint32_t at = 0;

    while ((holder = py_socket_who_next_static(seek->who, &at)) != NULL) {
        keep_one(seek, holder);
    }
}

static void wait_a_moment(struct py_socket_seek *seek)
{
    const uint64_t until = py_socket_seek_now(seek) + KEEP_EVERY_MS;
    const struct timespec at = {
        .tv_sec = (time_t)(until / 1000),
        .tv_nsec = (long)(until % 1000) * 1000000,
    };

    while (!seek->stopping && !seek->peers_changed && seek->finished == NULL &&
           pthread_cond_timedwait(&seek->changed, &seek->lock, &at) == 0) {
    }
}

static void *seek_run(void *arg)
{
    struct py_socket_seek *seek = arg;

    pthread_mutex_lock(&seek->lock);
    while (!seek->stopping || seek->finished != NULL || seek->jobs != NULL) {
        struct py_socket_job *job = seek->finished;

        if (job != NULL) {
            seek->finished = job->next_finished;
        } else {
            seek->peers_changed = 0;
        }
        pthread_mutex_unlock(&seek->lock);
        if (job != NULL) {
            job_finish(job);
        } else if (!seek->stopping) {
            keep_peers(seek);
        }
        pthread_mutex_lock(&seek->lock);
        if (seek->finished == NULL && !seek->stopping) {
            wait_a_moment(seek);
        } else if (seek->finished == NULL && seek->jobs != NULL) {
            pthread_cond_wait(&seek->changed, &seek->lock);
        }
    }
    pthread_mutex_unlock(&seek->lock);
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

int py_socket_seek_start(const struct py_socket_seek_config *config,
                         struct py_socket_seek **seek_out)
{
    struct py_socket_seek *seek = calloc(1, sizeof(*seek));
    int r;

    if (seek == NULL) {
        return -ENOMEM;
    }
    seek->config = *config;
    pthread_mutex_init(&seek->lock, NULL);
    cond_init(&seek->changed);
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
        for (job = seek->jobs; job != NULL && job->cancelled; job = job->next) {
        }
        if (job == NULL) {
            break;
        }
        py_socket_job_retain(job);
        pthread_mutex_unlock(&seek->lock);
        job_cancel(job);
        py_socket_job_release(job);
        pthread_mutex_lock(&seek->lock);
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
