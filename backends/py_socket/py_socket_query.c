/* SPDX-License-Identifier: Apache-2.0 */
#include "py_socket_seek_core.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* The channel is about to be used. @return 0 nobody wants that any more. Else cancel waits.
 * @param moves  1 = bytes may come: the job does not end before the query */
static int query_enters(struct py_socket_query *query, int moves)
{
    struct py_socket_job *job = query->job;
    int may;

    pthread_mutex_lock(&job->lock);
    may = !job->cancelled && !job->done;
    job->submitting += (uint32_t)may;
    query->is_moving = may && moves;
    job->moving += (uint32_t)query->is_moving;
    pthread_mutex_unlock(&job->lock);
    return may;
}

static void query_leaves(struct py_socket_job *job)
{
    pthread_mutex_lock(&job->lock);
    job->submitting--;
    pthread_cond_broadcast(&job->settled);
    pthread_mutex_unlock(&job->lock);
}

/* A peer that has said nothing for long hangs, whoever lost patience. */
static void query_judge(const struct py_socket_query *query, int32_t status)
{
    struct py_socket_seek *seek = query->job->seek;
    const uint64_t now = py_socket_seek_now(seek);

    if (!query->is_answered && query->began_ms != 0 &&
        (status == -ETIMEDOUT || status == -ECANCELED) &&
        now - query->began_ms >= PY_SOCKET_HANGS_MS) {
        py_socket_who_tried(seek->who, query->holder, -ETIMEDOUT, now);
    }
}

/* With the lock. @return 1 when the job has to ask somebody else now. */
static int query_leaves_work(const struct py_socket_job *job)
{
    return !job->done && !job->cancelled && py_socket_job_is_open(job) &&
           (job->is_read || job->out == 0);
}

/* @param from_channel  1 = in a call of the channel about a question that has ended. There may be
 *                      thousands of them when a peer is lost, each called when the one before asks
 *                      somebody else: the thread does that, or the stack would hold them all */
static void query_over(struct py_socket_query *query, int32_t status, int from_channel)
{
    struct py_socket_job *job = query->job;
    int is_later;

    query_judge(query, status);
    pthread_mutex_lock(&job->lock);
    for (uint32_t i = 0; i < query->count; i++) {
        job->items[query->items[i]].out--;
        if (status < 0) {
            py_socket_job_end_item(job, query->items[i], status);
        }
    }
    query->op = 0;
    job->out--;
    job->moving -= (uint32_t)query->is_moving;
    query->is_moving = 0;
    is_later = from_channel && query_leaves_work(job) && !job->is_queued;
    job->is_queued |= is_later;
    pthread_mutex_unlock(&job->lock);
    if (is_later) {
        py_socket_seek_advance_later(job); /* with our reference */
        return;
    }
    py_socket_job_advance(job, 0);
    py_socket_job_release(job);
}

static void on_looked_up(void *ctx, uint32_t at, int is_there)
{
    struct py_socket_query *query = ctx;
    struct py_socket_job *job = query->job;
    const uint32_t item = query->items[at];

    query->is_answered = 1;
    if (is_there) {
        py_socket_who_remember(job->seek->who, job->items[item].hash, query->holder);
    } else {
        py_socket_who_forget(job->seek->who, job->items[item].hash, query->holder);
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
    const struct kvl_host *host = job->seek->config.host;
    const struct kvl_chunk chunk = {
        .attrs = found->attrs,
        .bytes = found->bytes,
        .checksum = found->checksum,
        .flags = found->flags & KVL_CHUNK_HAS_CHECKSUM,
    };
    struct kvl_chunk *told = &job->items[item].told;
    struct kvl_sg *target = &job->items[item].target;
    void *addr;
    int r;

    if (target->count != 0) { /* it was asked for the peer before: once per item */
        return memcmp(told, &chunk, sizeof(chunk)) == 0 ? 0 : -EBADMSG;
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
        *told = chunk;
    }
    return r;
}

static int on_found(void *ctx, uint32_t at, const struct py_socket_found *found,
                    const struct kvl_sg **sg_out, uint32_t *sg_count_out)
{
    struct py_socket_query *query = ctx;
    struct py_socket_job *job = query->job;
    const uint32_t number = query->items[at];
    struct py_socket_item *item = &job->items[number];
    int cancelled;
    int r;

    query->is_answered = 1;
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
    struct py_socket_query *query = ctx;
    struct py_socket_job *job = query->job;
    const uint32_t item = query->items[at];

    query->is_answered = 1;
    if (status == 0 && !py_socket_job_is_right(job, item)) {
        status = -EBADMSG;
    }
    if (status == 0) {
        py_socket_who_remember(job->seek->who, job->items[item].hash, query->holder);
    } else {
        py_socket_who_forget(job->seek->who, job->items[item].hash, query->holder);
        py_socket_seek_count(job->seek, PY_SOCKET_STALE, status == -ENOENT || status == -ESTALE);
    }
    pthread_mutex_lock(&job->lock);
    py_socket_job_end_item(job, item, status);
    pthread_mutex_unlock(&job->lock);
}

static void on_end(void *ctx, int32_t status)
{
    query_over(ctx, status < 0 ? status : -ENOENT, 1);
}

static const struct py_socket_fetch_ops ask_ops = {
    .looked_up = on_looked_up,
    .found = on_found,
    .item = on_item,
    .end = on_end,
};

/* A peer that does not answer is not waited for as long as a job may. */
static int submit_lookup(struct py_socket_query *query, uint64_t *op)
{
    struct py_socket_job *job = query->job;
    const uint64_t latest = query->began_ms + job->seek->config.options->handshake_timeout_ms;
    struct kvl_key *keys = malloc(query->count * sizeof(*keys));
    int r = -ENOMEM;

    for (uint32_t i = 0; keys != NULL && i < query->count; i++) {
        keys[i] = job->items[query->items[i]].chunk.key;
    }
    if (keys != NULL) {
        r = py_socket_fetch_lookup(
            job->seek->config.channel, query->holder->url, keys, query->count,
            job->deadline_ms < latest ? job->deadline_ms : latest, &ask_ops, query, op);
    }
    free(keys);
    return r;
}

static int submit_get(struct py_socket_query *query, uint64_t *op)
{
    struct py_socket_job *job = query->job;
    struct py_socket_wish *wishes = malloc(query->count * sizeof(*wishes));
    int r = -ENOMEM;

    for (uint32_t i = 0; wishes != NULL && i < query->count; i++) {
        const struct kvl_chunk *chunk = &job->items[query->items[i]].chunk;

        wishes[i] = (struct py_socket_wish){
            .key = chunk->key,
            .attrs = chunk->attrs,
            .bytes = chunk->bytes,
            .checksum = chunk->checksum,
            .flags = chunk->flags,
        };
    }
    if (wishes != NULL) {
        r = py_socket_fetch_get(job->seek->config.channel, query->holder->url, wishes, query->count,
                                job->deadline_ms, &ask_ops, query, op);
    }
    free(wishes);
    return r;
}

void py_socket_query_submit(struct py_socket_query *query)
{
    struct py_socket_job *job = query->job;
    uint64_t op = 0;
    int r;

    if (!query_enters(query, job->is_read)) {
        query_over(query, -ECANCELED, 0);
        return;
    }
    py_socket_job_retain(job); /* the answer may be here before we are back */
    query->began_ms = py_socket_seek_now(job->seek);
    r = job->is_read ? submit_get(query, &op) : submit_lookup(query, &op);
    pthread_mutex_lock(&job->lock);
    if (r < 0) {
        job->moving -= (uint32_t)query->is_moving;
        query->is_moving = 0;
    } else {
        query->op = op; /* which may be over already: its number is not used again */
    }
    pthread_mutex_unlock(&job->lock);
    py_socket_seek_count(job->seek, PY_SOCKET_QUERIES, r == 0);
    if (r == -EAGAIN) {
        py_socket_seek_ask_later(query);
    } else if (r < 0) {
        query_over(query, r, 0);
    }
    query_leaves(job);
    py_socket_job_release(job);
}

static void on_connected(void *ctx, int32_t status)
{
    struct py_socket_query *query = ctx;
    struct py_socket_seek *seek = query->job->seek;

    if (status != -ECANCELED) {
        py_socket_who_tried(seek->who, query->holder, status, py_socket_seek_now(seek));
    }
    if (status == 0) {
        py_socket_query_submit(query);
    } else {
        query_over(query, status, 0);
    }
    py_socket_seek_call_ends(seek);
}

void py_socket_query_start(struct py_socket_query *query)
{
    struct py_socket_job *job = query->job;
    struct py_socket_seek *seek = job->seek;
    int r;

    if (!query_enters(query, 0)) {
        query_over(query, -ECANCELED, 0);
        return;
    }
    py_socket_job_retain(job);
    if (py_socket_channel_ops.is_connected(seek->config.channel, query->holder->url) == 1) {
        py_socket_query_submit(query);
    } else {
        py_socket_seek_call_begins(seek);
        r = py_socket_seek_connect(seek, query->holder->url, on_connected, query);
        if (r < 0) {
            query_over(query, r, 0);
            py_socket_seek_call_ends(seek);
        }
    }
    query_leaves(job);
    py_socket_job_release(job);
}
