/* SPDX-License-Identifier: Apache-2.0 */
#include "controller_calls.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "controller_http.h"

struct controller_calls {
    const struct kvl_host *host; /* borrowed */
    void (*done)(struct controller_call *call);
    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t changed;
    struct controller_call *first;
    struct controller_call **last;
    uint32_t waiting; /* calls */
    uint32_t idle; /* threads */
    uint32_t count; /* threads */
    bool stopping;
    uint64_t threads[CONTROLLER_HTTP_CALLS];
};

int controller_calls_create(const struct kvl_host *host, void (*done)(struct controller_call *call),
                            struct controller_calls **calls_out)
{
    struct controller_calls *calls = calloc(1, sizeof(*calls));

    if (calls == NULL) {
        return -ENOMEM;
    }
    calls->host = host;
    calls->done = done;
    calls->last = &calls->first;
    pthread_mutex_init(&calls->lock, NULL);
    pthread_cond_init(&calls->changed, NULL);
    *calls_out = calls;
    return 0;
}

/* With the lock held. */
static struct controller_call *calls_take(struct controller_calls *calls)
{
    struct controller_call *call = calls->first;

    calls->first = call->next;
    if (calls->first == NULL) {
        calls->last = &calls->first;
    }
    calls->waiting--;
    return call;
}

static void calls_run(struct controller_call *call, struct controller_arena *arena, bool stopping)
{
    if (stopping) {
        controller_answer_detail(&call->answer, 503, "the controller stops");
        return;
    }
    if (arena == NULL) {
        controller_answer_detail(&call->answer, 503, "no memory");
        return;
    }
    controller_arena_reset(arena);
    call->request.arena = arena;
    call->request.route->run(&call->request, &call->answer);
}

static void *calls_main(void *arg)
{
    struct controller_calls *calls = arg;
    struct controller_arena *arena = NULL;

    (void)controller_arena_create(&arena);
    pthread_mutex_lock(&calls->lock);
    for (;;) {
        while (calls->first == NULL && !calls->stopping) {
            calls->idle++;
            pthread_cond_wait(&calls->changed, &calls->lock);
            calls->idle--;
        }
        if (calls->first == NULL) {
            break;
        }
        struct controller_call *call = calls_take(calls);
        bool stopping = calls->stopping;

        pthread_mutex_unlock(&calls->lock);
        calls_run(call, arena, stopping);
        calls->done(call);
        pthread_mutex_lock(&calls->lock);
    }
    pthread_mutex_unlock(&calls->lock);
    controller_arena_destroy(arena);
    return NULL;
}

/* With the lock held. @return 0 when some thread will take the call. */
static int calls_staff(struct controller_calls *calls)
{
    int r = 0;

    if (calls->idle <= calls->waiting && calls->count < CONTROLLER_HTTP_CALLS) {
        r = calls->host->thread_create(calls->host, "kvl-ctl-call", calls_main, calls,
                                       &calls->threads[calls->count]);
        calls->count += r == 0;
    }
    return calls->count > 0 ? 0 : r;
}

int controller_calls_add(struct controller_calls *calls, struct controller_call *call)
{
    int r;

    pthread_mutex_lock(&calls->lock);
    if (calls->stopping) {
        r = -ECANCELED;
    } else if (calls->waiting >= CONTROLLER_HTTP_CALLS_WAITING) {
        r = -EAGAIN;
    } else {
        r = calls_staff(calls);
    }
    if (r == 0) {
        call->next = NULL;
        *calls->last = call;
        calls->last = &call->next;
        calls->waiting++;
        pthread_cond_signal(&calls->changed);
    }
    pthread_mutex_unlock(&calls->lock);
    return r;
}

void controller_calls_stop(struct controller_calls *calls)
{
    if (calls == NULL) {
        return;
    }
    pthread_mutex_lock(&calls->lock);
    calls->stopping = true;
    pthread_cond_broadcast(&calls->changed);
    pthread_mutex_unlock(&calls->lock);
    for (uint32_t i = 0; i < calls->count; i++) {
        (void)calls->host->thread_join(calls->host, calls->threads[i]);
    }
    calls->count = 0;
}

void controller_calls_destroy(struct controller_calls *calls)
{
    if (calls != NULL) {
        pthread_cond_destroy(&calls->changed);
        pthread_mutex_destroy(&calls->lock);
        free(calls);
    }
}
