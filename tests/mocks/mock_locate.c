/* SPDX-License-Identifier: Apache-2.0 */
/* A fleet's controller that names one peer whatever it is asked, or says nothing until it stops. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <kvlane/backend.h>

struct question {
    struct question *next;
    kvl_locate_fn fn;
    void *ctx;
};

struct mock_locate {
    const struct kvl_host *host;
    const char *answer;
    uint32_t length;
    uint64_t thread;
    int has_thread;

    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t wake;
    struct question *questions;
    uint64_t asked;
    int stopping;
};

static const struct kvl_option locate_options[] = {
    {.name = "answer", .type = KVL_OPTION_STRING, .value = "", .help = "peer; never = none comes"},
    {.name = "length", .type = KVL_OPTION_INT, .value = "1", .min = 1, .max = 1000, .help = "run"},
};

static int locate_create(const struct kvl_host *host, void **self_out, struct kvl_err *err)
{
    struct mock_locate *mock = calloc(1, sizeof(*mock));
    struct kvl_setting setting;

    (void)err;
    if (mock == NULL) {
        return -ENOMEM;
    }
    mock->host = host;
    (void)host->setting(host, "answer", &setting);
    mock->answer = setting.text;
    (void)host->setting(host, "length", &setting);
    mock->length = (uint32_t)setting.number;
    pthread_mutex_init(&mock->lock, NULL);
    pthread_cond_init(&mock->wake, NULL);
    *self_out = mock;
    return 0;
}

static void locate_answer(const struct mock_locate *mock, struct question *question)
{
    struct kvl_run run = {.length = mock->length};

    snprintf(run.peer_url, sizeof(run.peer_url), "%s", mock->answer);
    question->fn(question->ctx, mock->stopping ? -ECANCELED : 0, &run, run.peer_url[0] != '\0');
    free(question);
}

static void *locate_run(void *arg)
{
    struct mock_locate *mock = arg;
    const int never = strcmp(mock->answer, "never") == 0;

    pthread_mutex_lock(&mock->lock);
    while (!mock->stopping || mock->questions != NULL) {
        struct question *question = mock->questions;

        if (question == NULL || (never && !mock->stopping)) {
            pthread_cond_wait(&mock->wake, &mock->lock);
            continue;
        }
        mock->questions = question->next;
        pthread_mutex_unlock(&mock->lock);
        locate_answer(mock, question);
        pthread_mutex_lock(&mock->lock);
    }
    pthread_mutex_unlock(&mock->lock);
    return NULL;
}

static int locate_start(void *self, struct kvl_err *err)
{
    struct mock_locate *mock = self;
    int r = mock->host->thread_create(mock->host, "mock-locate", locate_run, mock, &mock->thread);

    (void)err;
    mock->has_thread = r == 0;
    return r;
}

static void locate_stop(void *self)
{
    struct mock_locate *mock = self;

    pthread_mutex_lock(&mock->lock);
    mock->stopping = 1;
    pthread_cond_broadcast(&mock->wake);
    pthread_mutex_unlock(&mock->lock);
    if (mock->has_thread) {
        (void)mock->host->thread_join(mock->host, mock->thread);
        mock->has_thread = 0;
    }
}

static void locate_destroy(void *self)
{
    struct mock_locate *mock = self;

    if (mock != NULL) {
        pthread_cond_destroy(&mock->wake);
        pthread_mutex_destroy(&mock->lock);
        free(mock);
    }
}

static int locate_locate(void *self, const struct kvl_chunk_id *ids, uint32_t count,
                         uint64_t deadline_ms, kvl_locate_fn fn, void *ctx)
{
    struct mock_locate *mock = self;
    struct question *question = malloc(sizeof(*question));

    (void)ids;
    (void)count;
    (void)deadline_ms;
    if (question == NULL) {
        return -ENOMEM;
    }
    *question = (struct question){.fn = fn, .ctx = ctx};
    pthread_mutex_lock(&mock->lock);
    mock->asked++;
    question->next = mock->questions;
    mock->questions = question;
    pthread_cond_broadcast(&mock->wake);
    pthread_mutex_unlock(&mock->lock);
    return 0;
}

static void locate_stats(void *self, kvl_stat_fn fn, void *ctx)
{
    struct mock_locate *mock = self;

    pthread_mutex_lock(&mock->lock);
    fn(ctx, "asked", mock->asked);
    pthread_mutex_unlock(&mock->lock);
}

static const struct kvl_backend_ops locate_ops = {
    .size = sizeof(struct kvl_backend_ops),
    .create = locate_create,
    .start = locate_start,
    .stop = locate_stop,
    .destroy = locate_destroy,
    .get_stats = locate_stats,
    .locate = locate_locate,
};

static const struct kvl_backend_desc locate_desc = {
    .magic = KVL_BACKEND_MAGIC,
    .size = sizeof(struct kvl_backend_desc),
    .abi_major = KVL_BACKEND_ABI_MAJOR,
    .abi_minor = KVL_BACKEND_ABI_MINOR,
    .caps = KVL_CAP_LOCATE,
    .name = "mock_locate",
    .version = "0",
    .build_id = "mock",
    .options = locate_options,
    .option_count = 2,
    .option_size = sizeof(struct kvl_option),
    .ops = &locate_ops,
};

KVL_EXPORT const struct kvl_backend_desc *kvlane_backend_v1(void)
{
    return &locate_desc;
}
