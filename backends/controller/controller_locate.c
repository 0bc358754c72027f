/* SPDX-License-Identifier: Apache-2.0 */
#include "controller_locate.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* Of one question; LMCache asks for the chunks of one request. */
#define IDS_MAX (64u * 1024)

struct question {
    struct kvl_chunk_id *ids; /* owned */
    uint32_t count;
    uint64_t deadline_ms;
    kvl_locate_fn fn;
    void *ctx;
};

struct controller_locate {
    struct controller_locate_desc desc;
    uint64_t thread;
    bool has_thread;

    pthread_mutex_t lock; /* guards the rest of this block */
    pthread_cond_t changed;
    bool stopping;
    struct question waiting[CONTROLLER_LOCATE_MAX]; /* a ring */
    uint32_t head;
    uint32_t count;
    struct controller_locate_stats stats;

    struct controller_req *req; /* the thread's own */
};

int controller_locate_create(const struct controller_locate_desc *desc,
                             struct controller_locate **locate_out)
{
    struct controller_locate *locate = calloc(1, sizeof(*locate));
    int r;

    if (locate == NULL) {
        return -ENOMEM;
    }
    locate->desc = *desc;
    locate->stopping = true; /* until it is started */
    r = controller_req_create(&desc->req, &locate->req);
    if (r < 0) {
        free(locate);
        return r;
    }
    pthread_mutex_init(&locate->lock, NULL);
    pthread_cond_init(&locate->changed, NULL);
    *locate_out = locate;
    return 0;
}

void controller_locate_destroy(struct controller_locate *locate)
{
    if (locate == NULL) {
        return;
    }
    controller_req_destroy(locate->req);
    pthread_cond_destroy(&locate->changed);
    pthread_mutex_destroy(&locate->lock);
    free(locate);
}

/* ---- the answer ---- */

static void text_copy(char *out, struct kvl_text text)
{
    if (text.length > 0) {
        memcpy(out, text.text, text.length);
    }
    out[text.length] = '\0';
}

/* The wire tells neither the rank nor the address: the rank is ours, because that is whom a peer
 * channel pairs up with, and the address is the one in the URL.
 * @return 1 somebody has them; 0 nobody; -EPROTO. */
static int locate_read(const struct controller_locate *locate, const struct controller_msg *answer,
                       uint32_t asked, struct kvl_run *run)
{
    const struct controller_layout *at = answer->layout_info.at;
    const char *colon;

    if (answer->layout_info.count == 0 || at->count == 0) {
        return 0;
    }
    if (at->count < 0 || at->count > (int64_t)asked || at->instance_id.length > KVL_NAME_MAX ||
        at->location.length > KVL_NAME_MAX || at->peer_init_url.length > KVL_NAME_MAX) {
        return -EPROTO;
    }
    memset(run, 0, sizeof(*run));
    text_copy(run->instance, at->instance_id);
    text_copy(run->location, at->location);
    text_copy(run->peer_url, at->peer_init_url);
    colon = strrchr(run->peer_url, ':');
    if (colon != NULL) {
        memcpy(run->ip, run->peer_url, (size_t)(colon - run->peer_url));
    }
    run->worker_id = locate->desc.self->worker_id;
    run->length = (uint32_t)at->count;
    run->distance =
        strcmp(run->ip, locate->desc.self->ip) == 0 ? KVL_DISTANCE_HOST : KVL_DISTANCE_PEER;
    return 1;
}

static int locate_call(struct controller_locate *locate, const struct question *question,
                       struct kvl_run *run)
{
    struct controller_msg ask = {.type = CONTROLLER_P2P_LOOKUP};
    struct controller_msg answer;
    char why[CONTROLLER_WHY_MAX];
    int r;

    ask.instance_id = controller_text(locate->desc.self->instance_id);
    ask.worker_id = locate->desc.self->worker_id;
    ask.ids.at = question->ids;
    ask.ids.count = question->count;
    ask.ids.is_set = 1;
    r = controller_req_call_until(locate->req, &ask, CONTROLLER_P2P_LOOKUP_RET,
                                  question->deadline_ms, &answer, why);
    if (r == 0) {
        r = locate_read(locate, &answer, question->count, run);
    } else {
        kvl_debug(locate->desc.host->log, "controller: no peer for %u chunks: %s", question->count,
                  why);
    }
    return r;
}

/* ---- the thread ---- */

/* @return 1 a question was taken; 0 stopping, and none is left. */
static int locate_take(struct controller_locate *locate, struct question *question, bool *canceled)
{
    int taken;

    pthread_mutex_lock(&locate->lock);
    while (locate->count == 0 && !locate->stopping) {
        pthread_cond_wait(&locate->changed, &locate->lock);
    }
    taken = locate->count > 0;
    *canceled = locate->stopping;
    if (taken) {
        *question = locate->waiting[locate->head];
        locate->head = (locate->head + 1) % CONTROLLER_LOCATE_MAX;
        locate->count--;
    }
    pthread_mutex_unlock(&locate->lock);
    return taken;
}

static void *locate_main(void *arg)
{
    struct controller_locate *locate = arg;
    struct question question;
    bool canceled;

    while (locate_take(locate, &question, &canceled)) {
        struct kvl_run run;
        int r = canceled ? -ECANCELED : locate_call(locate, &question, &run);

        pthread_mutex_lock(&locate->lock);
        locate->stats.asked++;
        locate->stats.found += r > 0;
        locate->stats.failed += r < 0;
        pthread_mutex_unlock(&locate->lock);
        free(question.ids);
        question.fn(question.ctx, r < 0 ? r : 0, &run, r > 0);
    }
    return NULL;
}

int controller_locate_start(struct controller_locate *locate)
{
    const struct kvl_host *host = locate->desc.host;
    int r;

    pthread_mutex_lock(&locate->lock);
    locate->stopping = false;
    pthread_mutex_unlock(&locate->lock);
    r = host->thread_create(host, "kvl-ctl-locate", locate_main, locate, &locate->thread);
    locate->has_thread = r == 0;
    return r;
}

void controller_locate_stop(struct controller_locate *locate)
{
    pthread_mutex_lock(&locate->lock);
    locate->stopping = true;
    pthread_cond_broadcast(&locate->changed);
    pthread_mutex_unlock(&locate->lock);
    if (locate->has_thread) {
        (void)locate->desc.host->thread_join(locate->desc.host, locate->thread);
        locate->has_thread = false;
    }
    controller_req_close(locate->req);
}

int controller_locate_ask(struct controller_locate *locate, const struct kvl_chunk_id *ids,
                          uint32_t count, uint64_t deadline_ms, kvl_locate_fn fn, void *ctx)
{
    struct question question = {.count = count < IDS_MAX ? count : IDS_MAX,
                                .deadline_ms = deadline_ms,
                                .fn = fn,
                                .ctx = ctx};
    int r = 0;

    if (count == 0) {
        return -EINVAL;
    }
    question.ids = malloc(question.count * sizeof(*ids));
    if (question.ids == NULL) {
        return -ENOMEM;
    }
    memcpy(question.ids, ids, question.count * sizeof(*ids));
    pthread_mutex_lock(&locate->lock);
    if (locate->stopping) {
        r = -ECANCELED;
    } else if (locate->count == CONTROLLER_LOCATE_MAX) {
        r = -EAGAIN;
    } else {
        locate->waiting[(locate->head + locate->count) % CONTROLLER_LOCATE_MAX] = question;
        locate->count++;
        pthread_cond_signal(&locate->changed);
    }
    pthread_mutex_unlock(&locate->lock);
    if (r < 0) {
        free(question.ids);
    }
    return r;
}

void controller_locate_stats(struct controller_locate *locate,
                             struct controller_locate_stats *stats_out)
{
    pthread_mutex_lock(&locate->lock);
    *stats_out = locate->stats;
    pthread_mutex_unlock(&locate->lock);
}
