/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A good one that needs the registry. It registers itself there as a worker when it is created; the
 * first one that runs announces in it what comes and goes in the own store, and elsewhere.
 */
#include "mock.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

const struct mock_fault mock_fault = {0};

#define EVENTS 16u

struct announcer {
    const struct kvl_host *host;
    void *mock; /* what the other slots work on */
    int64_t worker_id;
    uint64_t thread;
    atomic_int stopping;
    atomic_int is_reader;
};

static atomic_int announcer_count;

static struct kvl_worker_name announcer_name(const struct announcer *announcer)
{
    return (struct kvl_worker_name){
        .instance = {.text = "mock", .length = 4},
        .worker_id = announcer->worker_id,
    };
}

static int announcer_create(const struct kvl_host *host, void **self_out, struct kvl_err *err)
{
    struct announcer *announcer = calloc(1, sizeof(*announcer));
    struct kvl_worker_desc desc = {.size = sizeof(desc)};
    int r;

    if (announcer == NULL) {
        return -ENOMEM;
    }
    announcer->host = host;
    announcer->worker_id = atomic_fetch_add(&announcer_count, 1);
    desc.name = announcer_name(announcer);
    r = host->registry_ops->register_worker(host->registry, &desc, NULL);
    if (r == 0) {
        r = mock_create(host, &announcer->mock, err);
    }
    if (r < 0) {
        free(announcer);
        return r;
    }
    *self_out = announcer;
    return 0;
}

static void *announcer_main(void *arg)
{
    struct announcer *announcer = arg;
    const struct kvl_host *host = announcer->host;
    const struct kvl_worker_name name = announcer_name(announcer);
    const struct kvl_text locations[] = {
        [KVL_WHERE_HOST] = {.text = "LocalCPUBackend", .length = 15},
        [KVL_WHERE_GPU] = {.text = "LocalGPUBackend", .length = 15},
    };
    struct kvl_store_event events[EVENTS];
    struct kvl_key_op op;
    int64_t seqs[2] = {0, 0};
    int n = 0;

    while (!atomic_load(&announcer->stopping) && n >= 0) {
        n = host->store_events(host, events, EVENTS, UINT64_MAX);
        for (int i = 0; i < n; i++) {
            const uint32_t where = events[i].where;

            op = (struct kvl_key_op){
                .id = events[i].id, .seq = seqs[where]++, .kind = events[i].kind};
            host->registry_ops->apply(host->registry, &name, locations[where], &op, 1, NULL);
        }
        atomic_store(&announcer->is_reader, n >= 0);
    }
    return NULL;
}

static int announcer_start(void *self, struct kvl_err *err)
{
    struct announcer *announcer = self;
    const struct kvl_host *host = announcer->host;
    struct kvl_store_event event;
    int r = mock_start(announcer->mock, err);

    if (r < 0) {
        return r;
    }
    /* Recording begins here, so that nothing is missed until the thread runs. */
    if (host->store_events(host, &event, 1, 0) == -EBUSY) {
        return 0;
    }
    atomic_store(&announcer->is_reader, 1);
    return host->thread_create(host, "announcer", announcer_main, announcer, &announcer->thread);
}

static void announcer_stop(void *self)
{
    struct announcer *announcer = self;

    atomic_store(&announcer->stopping, 1);
    announcer->host->store_events_wake(announcer->host);
    if (announcer->thread != 0) {
        announcer->host->thread_join(announcer->host, announcer->thread);
    }
    mock_stop(announcer->mock);
}

static void announcer_destroy(void *self)
{
    struct announcer *announcer = self;

    mock_destroy(announcer->mock);
    free(announcer);
}

static void announcer_get_stats(void *self, kvl_stat_fn fn, void *ctx)
{
    const struct announcer *announcer = self;

    fn(ctx, "is_reader", (uint64_t)atomic_load(&((struct announcer *)self)->is_reader));
    fn(ctx, "worker_id", (uint64_t)announcer->worker_id);
}

static const struct kvl_backend_ops announcer_ops = {
    .size = sizeof(struct kvl_backend_ops),
    .create = announcer_create,
    .start = announcer_start,
    .stop = announcer_stop,
    .destroy = announcer_destroy,
    .get_stats = announcer_get_stats,
};

static const struct kvl_backend_desc announcer_desc = {
    .magic = KVL_BACKEND_MAGIC,
    .size = sizeof(struct kvl_backend_desc),
    .abi_major = KVL_BACKEND_ABI_MAJOR,
    .abi_minor = KVL_BACKEND_ABI_MINOR,
    .needs = KVL_NEED_STORE | KVL_NEED_REGISTRY,
    .name = "mock_registry",
    .version = "0",
    .build_id = "mock",
    .options = mock_options,
    .option_count = MOCK_OPTION_COUNT,
    .option_size = sizeof(struct kvl_option),
    .ops = &announcer_ops,
};

MOCK_ENTRY(&announcer_desc)
