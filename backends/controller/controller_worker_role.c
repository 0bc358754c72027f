/* SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>

#include "controller_role.h"
#include "controller_worker.h"

static int role_create(const struct kvl_host *host, const struct controller_options *options,
                       void **self_out, struct kvl_err *err)
{
    struct controller_worker *worker = NULL;
    int r = controller_worker_create(host, &options->worker, &worker, err);

    if (r == 0) {
        *self_out = worker;
    }
    return r;
}

static int role_start(void *self, struct kvl_err *err)
{
    return controller_worker_start(self, err);
}

/* Peers of a worker are told nothing before it leaves: control calls end with stop. */
static void role_quiesce(void *self)
{
    (void)self;
}

static void role_stop(void *self)
{
    controller_worker_stop(self);
}

static void role_destroy(void *self)
{
    controller_worker_destroy(self);
}

static void role_get_health(void *self, struct kvl_health *health_out)
{
    controller_worker_health(self, health_out);
}

static void role_get_stats(void *self, kvl_stat_fn fn, void *ctx)
{
    controller_worker_stats(self, fn, ctx);
}

static int role_locate(void *self, const struct kvl_chunk_id *ids, uint32_t count,
                       uint64_t deadline_ms, kvl_locate_fn fn, void *ctx)
{
    return controller_worker_locate(self, ids, count, deadline_ms, fn, ctx);
}

const struct controller_role controller_role_worker = {
    .create = role_create,
    .start = role_start,
    .quiesce = role_quiesce,
    .stop = role_stop,
    .destroy = role_destroy,
    .get_health = role_get_health,
    .get_stats = role_get_stats,
    .locate = role_locate,
};
