/* SPDX-License-Identifier: Apache-2.0 */
/*
 * LMCache's cache controller on the wire. Role controller: workers report to us who holds which
 * chunk, and ask us. The registry of the instance keeps the answers. Role worker: we report what
 * our store holds.
 */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>

#include <kvlane/backend.h>

#include "controller_role.h"
#include "setting.h"

#ifndef KVL_BUILD_ID
#define KVL_BUILD_ID "dev"
#endif

struct controller {
    const struct controller_role *role;
    void *self; /* of the role */
    struct controller_options options;
};

static const struct controller_role *const controller_roles[] = {
    [CONTROLLER_ROLE_CONTROLLER] = &controller_role_controller,
    [CONTROLLER_ROLE_WORKER] = &controller_role_worker,
};

static int controller_check(const struct kvl_host *host, struct kvl_err *err)
{
    struct controller_options options;

    return controller_options_read(host, &options, err);
}

static int controller_has_registry(const struct kvl_host *host)
{
    return host->size >= offsetof(struct kvl_host, registry) + sizeof(host->registry) &&
           host->registry != NULL;
}

static int controller_create(const struct kvl_host *host, void **self_out, struct kvl_err *err)
{
    struct controller *controller;
    int r;

    controller = calloc(1, sizeof(*controller));
    if (controller == NULL) {
        return kvl_fail(err, -ENOMEM, "controller: no memory");
    }
    r = controller_options_read(host, &controller->options, err);
    if (r == 0 && controller->options.role == CONTROLLER_ROLE_CONTROLLER &&
        !controller_has_registry(host)) {
        r = kvl_fail(err, -ENODEV, "controller: this libkvlane.so keeps no registry");
    }
    if (r == 0) {
        controller->role = controller_roles[controller->options.role];
        r = controller->role->create(host, &controller->options, &controller->self, err);
    }
    if (r < 0) {
        free(controller);
        return r;
    }
    *self_out = controller;
    return 0;
}

static int controller_start(void *self, struct kvl_err *err)
{
    struct controller *controller = self;

    return controller->role->start(controller->self, err);
}

static void controller_quiesce(void *self)
{
    struct controller *controller = self;

    controller->role->quiesce(controller->self);
}

static void controller_stop(void *self)
{
    struct controller *controller = self;

    controller->role->stop(controller->self);
}

static void controller_destroy(void *self)
{
    struct controller *controller = self;

    if (controller != NULL) {
        controller->role->destroy(controller->self);
        free(controller);
    }
}

static void controller_get_health(void *self, struct kvl_health *health_out)
{
    struct controller *controller = self;

    controller->role->get_health(controller->self, health_out);
}

static void controller_get_stats(void *self, kvl_stat_fn fn, void *ctx)
{
    struct controller *controller = self;

    controller->role->get_stats(controller->self, fn, ctx);
}

/* 0 would mean every bit of the description. */
static void controller_get_limits(void *self, struct kvl_limits *limits_out)
{
    const struct controller *controller = self;

    limits_out->caps = controller->role->locate != NULL ? KVL_CAP_LOCATE : ~KVL_CAP_LOCATE;
}

static int controller_locate(void *self, const struct kvl_chunk_id *ids, uint32_t count,
                             uint64_t deadline_ms, kvl_locate_fn fn, void *ctx)
{
    struct controller *controller = self;

    if (controller->role->locate == NULL) {
        return -ENOTSUP;
    }
    return controller->role->locate(controller->self, ids, count, deadline_ms, fn, ctx);
}

static const struct kvl_backend_ops controller_ops = {
    .size = sizeof(struct kvl_backend_ops),
    .check = controller_check,
    .create = controller_create,
    .start = controller_start,
    .quiesce = controller_quiesce,
    .stop = controller_stop,
    .destroy = controller_destroy,
    .get_health = controller_get_health,
    .get_stats = controller_get_stats,
    .get_limits = controller_get_limits,
    .locate = controller_locate,
};

static const struct kvl_backend_desc controller_desc = {
    .magic = KVL_BACKEND_MAGIC,
    .size = sizeof(struct kvl_backend_desc),
    .abi_major = KVL_BACKEND_ABI_MAJOR,
    .abi_minor = KVL_BACKEND_ABI_MINOR,
    .caps = KVL_CAP_LOCATE,
    .needs = KVL_NEED_STORE | KVL_NEED_REGISTRY,
    .name = "controller",
    .version = "0.1.0",
    .build_id = KVL_BUILD_ID,
    .options = controller_option_table,
    .option_count = CONTROLLER_OPTION_COUNT,
    .option_size = sizeof(struct kvl_option),
    .ops = &controller_ops,
};

KVL_EXPORT const struct kvl_backend_desc *kvlane_backend_v1(void)
{
    return &controller_desc;
}
