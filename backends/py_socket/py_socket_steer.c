/* SPDX-License-Identifier: Apache-2.0 */
/* Whom a job asks next, and its end. */
#include "py_socket_seek_core.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- the controller ---- */

/* The lock of the job is held. */
static void allow(struct py_socket_job *job, struct py_socket_holder *holder, uint32_t first,
                  uint32_t count)
{
    struct py_socket_seek *seek = job->seek;

    if (holder != NULL && strcmp(holder->url, seek->own) != 0 &&
        py_socket_who_may_ask(seek->who, holder)) {
        py_socket_job_allow(job, holder, first, count);
    }
}

static void on_located(void *ctx, int32_t status, const struct kvl_run *runs, uint32_t run_count)
{
    struct py_socket_job *job = ctx;
    struct py_socket_seek *seek = job->seek;

    py_socket_seek_located(seek, status, job->locate_ms);
    pthread_mutex_lock(&job->lock);
    for (uint32_t i = 0; status == 0 && !job->done && !job->cancelled && i < run_count; i++) {
        allow(job, py_socket_who_holder(seek->who, runs[i].peer_url), job->located - 1,
              runs[i].length);
    }
    job->out--;
    pthread_mutex_unlock(&job->lock);
    py_socket_job_advance(job, 0);
    py_socket_job_release(job);
    py_socket_seek_call_ends(seek);
}

/* Asks the controller from the first open item on. The lock of the job is not held; job->out counts
 * the answer. */
static void job_locate(struct py_socket_job *job, uint32_t first)
{
    struct py_socket_seek *seek = job->seek;
    const struct kvl_host *host = seek->config.host;
    const uint32_t rest = job->count - first;
    const uint64_t latest = job->locate_ms + seek->config.options->handshake_timeout_ms;
    struct kvl_chunk_id *ids = malloc(rest * sizeof(*ids));
    int r = ids != NULL ? 0 : -ENOMEM;

    for (uint32_t i = 0; r == 0 && i < rest; i++) {
        r = host->chunk_id(host, &job->items[first + i].chunk.key, &ids[i]);
    }
    py_socket_job_retain(job);
    py_socket_seek_call_begins(seek);
    if (r == 0) {
        r = host->locate(host, ids, rest, job->deadline_ms < latest ? job->deadline_ms : latest,
                         on_located, job);
    }
    free(ids);
    py_socket_seek_count(seek, PY_SOCKET_LOCATES, r == 0);
    if (r < 0) {
        on_located(job, r, NULL, 0); /* no controller, or it cannot be asked now: others may know */
    }
}

/* ---- peers of the INI file, and what is remembered ---- */

void py_socket_job_allow_remembered(struct py_socket_job *job)
{
    pthread_mutex_lock(&job->lock);
    for (uint32_t i = 0; i < job->count; i++) {
        allow(job, py_socket_who_had(job->seek->who, job->items[i].hash), i, 1);
    }
    pthread_mutex_unlock(&job->lock);
}

static void allow_static(struct py_socket_job *job)
{
    struct py_socket_who *who = job->seek->who;
    struct py_socket_holder *holder;
    uint32_t at = 0;

    while ((holder = py_socket_who_next_static(who, &at)) != NULL) {
        allow(job, holder, 0, job->count);
    }
}

/* ---- the end ---- */

/* Status of every item. @return how many are good. */
static uint32_t finish_items(struct py_socket_job *job, int32_t *status_out)
{
    uint32_t good = 0;

    for (uint32_t i = 0; i < job->count; i++) {
        const struct py_socket_item *item = &job->items[i];
        int32_t status = item->status;

        if (status == -EINPROGRESS) {
            status = job->cancelled ? -ECANCELED : item->failure != 0 ? item->failure : -ENOENT;
        }
        good += status == 0;
        status_out[i] = status;
    }
    return good;
}

static void finish_unlink(struct py_socket_job *job)
{
    struct py_socket_seek *seek = job->seek;

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
}

/* Nothing changes a job that is done, so no lock is needed. */
void py_socket_job_finish(struct py_socket_job *job)
{
    const struct kvl_host *host = job->seek->config.host;
    struct py_socket_seek *seek = job->seek;
    int32_t *status = malloc(job->count * sizeof(*status));
    struct kvl_completion done = {
        .size = sizeof(done),
        .status = status == NULL ? -ENOMEM : 0,
        .cookie = job->cookie,
        .bytes = job->bytes,
        .item_status = status,
        .item_count = status != NULL ? job->count : 0,
    };
    uint32_t good = status != NULL ? finish_items(job, status) : 0;

    for (uint32_t i = 0; status != NULL && done.status == 0 && i < job->count; i++) {
        done.status = status[i];
    }
    py_socket_seek_count(seek, job->is_read ? PY_SOCKET_READ_OK : PY_SOCKET_FOUND, good);
    py_socket_seek_count(seek, PY_SOCKET_READ_BYTES, job->is_read ? job->bytes : 0);
    host->complete(host, &done);
    free(status);
    finish_unlink(job);
    py_socket_job_release(job);
}

/* ---- step by step ---- */

static void start_round(struct py_socket_job *job, struct py_socket_query *round,
                        const struct py_socket_query *before)
{
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
}

/* Asks the controller, also once more about what lies behind those that it brought. @return 0 there
 * is nothing to ask it. */
static int start_locate(struct py_socket_job *job)
{
    const uint32_t first = py_socket_job_first_open(job);

    if (first < job->located || !py_socket_seek_may_locate(job->seek)) {
        return 0;
    }
    job->located = first + 1;
    job->locate_ms = py_socket_seek_now(job->seek);
    job->out++;
    pthread_mutex_unlock(&job->lock);
    job_locate(job, first);
    pthread_mutex_lock(&job->lock);
    return 1;
}

/* One step with the lock held, which is given up for a while. @return 0 nothing more to do now. */
static int job_step(struct py_socket_job *job)
{
    const struct py_socket_query *before = job->queries;
    struct py_socket_query *round;

    if (job->cancelled || !py_socket_job_is_open(job)) {
        /* Handshakes, lookups and locates may come back later, to nobody. Bytes may not. */
        job->done = job->moving == 0;
        return 0;
    }
    round = py_socket_job_plan(job);
    if (round != NULL) {
        start_round(job, round, before);
        return 1;
    }
    if (job->out > 0) {
        return 0;
    }
    switch (job->phase) {
    case PY_SOCKET_REMEMBERED:
        if (start_locate(job)) {
            return 1;
        }
        job->phase = PY_SOCKET_STATIC;
        allow_static(job);
        return 1;
    case PY_SOCKET_STATIC:
        break;
    }
    job->done = 1;
    return 0;
}

void py_socket_job_advance(struct py_socket_job *job, int from_core)
{
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
    if (finish && from_core) {
        py_socket_seek_finish_later(job);
    } else if (finish) {
        py_socket_job_finish(job);
    }
}
