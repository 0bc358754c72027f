/* SPDX-License-Identifier: Apache-2.0 */
#include "py_socket_job.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

static int copy_chunks(struct py_socket_job *job, const struct kvl_batch *batch)
{
    job->items = calloc(batch->count, sizeof(*job->items));
    job->keys = malloc((size_t)batch->count * KVL_KEY_MAX);
    if (job->items == NULL || job->keys == NULL) {
        return -ENOMEM;
    }
    job->count = batch->count;
    for (uint32_t i = 0; i < batch->count; i++) {
        struct py_socket_item *item = &job->items[i];
        char *text = job->keys + (size_t)i * KVL_KEY_MAX;

        item->chunk = batch->chunks[i];
        memcpy(text, item->chunk.key.text, item->chunk.key.length);
        item->chunk.key.text = text;
        item->hash = XXH3_64bits(text, item->chunk.key.length);
        item->status = -EINPROGRESS;
    }
    return 0;
}

static int copy_runs(struct py_socket_job *job, const struct kvl_batch *batch)
{
    const uint32_t first = batch->sg_first[0];
    const uint32_t runs = batch->sg_first[batch->count] - first;

    job->sg = malloc((runs + 1) * sizeof(*job->sg));
    job->sg_first = malloc((batch->count + 1) * sizeof(*job->sg_first));
    if (job->sg == NULL || job->sg_first == NULL) {
        return -ENOMEM;
    }
    memcpy(job->sg, batch->sg + first, runs * sizeof(*job->sg));
    for (uint32_t i = 0; i <= batch->count; i++) {
        job->sg_first[i] = batch->sg_first[i] - first;
    }
    for (uint32_t i = 0; i < runs; i++) {
        if (job->sg[i].mem != KVL_MEM_HOST) {
            return -ENOTSUP;
        }
    }
    job->is_direct = 1;
    return 0;
}

static void job_free(struct py_socket_job *job)
{
    while (job->queries != NULL) {
        struct py_socket_query *next = job->queries->next;

        free(job->queries);
        job->queries = next;
    }
    pthread_cond_destroy(&job->settled);
    pthread_mutex_destroy(&job->lock);
    free(job->items);
    free(job->keys);
    free(job->sg);
    free(job->sg_first);
    free(job);
}

int py_socket_job_create(struct py_socket_seek *seek, const struct kvl_batch *batch, int is_read,
                         struct py_socket_job **job_out)
{
    struct py_socket_job *job = calloc(1, sizeof(*job));
    int r;

    if (job == NULL) {
        return -ENOMEM;
    }
    atomic_init(&job->refs, 1);
    job->seek = seek;
    job->is_read = is_read;
    job->cookie = batch->cookie;
    job->deadline_ms = batch->deadline_ms;
    pthread_mutex_init(&job->lock, NULL);
    pthread_cond_init(&job->settled, NULL);
    r = copy_chunks(job, batch);
    if (r == 0 && is_read && batch->sg_first != NULL) {
        r = copy_runs(job, batch);
    }
    if (r < 0) {
        job_free(job);
        return r;
    }
    *job_out = job;
    return 0;
}

void py_socket_job_retain(struct py_socket_job *job)
{
    atomic_fetch_add_explicit(&job->refs, 1, memory_order_relaxed);
}

void py_socket_job_release(struct py_socket_job *job)
{
    if (atomic_fetch_sub_explicit(&job->refs, 1, memory_order_acq_rel) == 1) {
        job_free(job);
    }
}

static uint32_t place_of(struct py_socket_job *job, struct py_socket_holder *holder)
{
    for (uint32_t i = 0; i < job->holder_count; i++) {
        if (job->holders[i] == holder) {
            return i;
        }
    }
    if (job->holder_count == PY_SOCKET_JOB_HOLDERS) {
        return PY_SOCKET_JOB_HOLDERS;
    }
    job->holders[job->holder_count] = holder;
    return job->holder_count++;
}

void py_socket_job_allow(struct py_socket_job *job, struct py_socket_holder *holder, uint32_t first,
                         uint32_t count)
{
    const uint32_t place = place_of(job, holder);

    for (uint32_t i = first; place < PY_SOCKET_JOB_HOLDERS && i < first + count && i < job->count;
         i++) {
        job->items[i].eligible |= 1u << place;
    }
}

uint32_t py_socket_job_first_open(const struct py_socket_job *job)
{
    uint32_t first = 0;

    while (first < job->count && job->items[first].status != -EINPROGRESS) {
        first++;
    }
    return first;
}

int py_socket_job_is_open(const struct py_socket_job *job)
{
    return py_socket_job_first_open(job) < job->count;
}

void py_socket_job_end_item(struct py_socket_job *job, uint32_t item, int32_t status)
{
    struct py_socket_item *it = &job->items[item];

    if (it->status != -EINPROGRESS || job->done) {
        return; /* another peer was quicker, or the core */
    }
    if (status == 0) {
        it->status = 0;
        job->bytes += it->chunk.bytes;
    } else if (it->failure == 0 || it->failure == -ENOENT) {
        it->failure = status;
    }
}

static int wants(const struct py_socket_job *job, const struct py_socket_item *item, uint32_t place)
{
    const uint32_t left = item->eligible & ~item->asked;

    if (item->status != -EINPROGRESS || (left >> place & 1) == 0 ||
        (job->is_read && item->out > 0)) {
        return 0;
    }
    return !job->is_read || (left & ((1u << place) - 1)) == 0;
}

static struct py_socket_query *plan_for(struct py_socket_job *job, uint32_t place)
{
    struct py_socket_query *query;
    uint32_t count = 0;

    for (uint32_t i = 0; i < job->count; i++) {
        count += (uint32_t)wants(job, &job->items[i], place);
    }
    if (count == 0) {
        return NULL;
    }
    query = calloc(1, sizeof(*query) + count * sizeof(query->items[0]));
    if (query == NULL) {
        return NULL;
    }
    query->job = job;
    query->holder = job->holders[place];
    query->place = place;
    for (uint32_t i = 0; i < job->count; i++) {
        if (wants(job, &job->items[i], place)) {
            query->items[query->count++] = i;
        }
    }
    return query;
}

struct py_socket_query *py_socket_job_plan(struct py_socket_job *job)
{
    struct py_socket_query *before = job->queries;

    for (uint32_t place = 0; place < job->holder_count; place++) {
        struct py_socket_query *query = plan_for(job, place);

        if (query != NULL) {
            query->next = job->queries;
            job->queries = query;
        }
    }
    /* Marked only now: a read must not find its first choice taken by the round it plans. */
    for (const struct py_socket_query *at = job->queries; at != before; at = at->next) {
        for (uint32_t i = 0; i < at->count; i++) {
            job->items[at->items[i]].asked |= 1u << at->place;
            job->items[at->items[i]].out++;
        }
    }
    return job->queries != before ? job->queries : NULL;
}

const struct kvl_sg *py_socket_job_runs(const struct py_socket_job *job, uint32_t item,
                                        uint32_t *count_out)
{
    *count_out = job->sg_first[item + 1] - job->sg_first[item];
    return &job->sg[job->sg_first[item]];
}

int py_socket_job_is_right(const struct py_socket_job *job, uint32_t item)
{
    const uint64_t expected = job->items[item].checksum;
    const struct kvl_sg *sg;
    XXH3_state_t state;
    uint32_t count;

    if (expected == 0 || !job->is_direct) {
        return 1; /* the host checks what lands in its store */
    }
    XXH3_64bits_reset(&state);
    sg = py_socket_job_runs(job, item, &count);
    for (uint32_t i = 0; i < count; i++) {
        for (uint32_t run = 0; run < sg[i].count; run++) {
            XXH3_64bits_update(&state, (const void *)(uintptr_t)(sg[i].addr + run * sg[i].stride),
                               sg[i].length);
        }
    }
    return XXH3_64bits_digest(&state) == expected;
}
