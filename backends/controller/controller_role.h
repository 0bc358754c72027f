/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file controller_role.h
 * What a role of this backend is: one table each, picked by the option `role`. The calls come in
 * the order that backend.h promises, and mean what the slots of that name mean there.
 */
#ifndef KVL_CONTROLLER_ROLE_H
#define KVL_CONTROLLER_ROLE_H

#include "controller_options.h"

struct controller_role {
    /** Makes the role's object; `options` is borrowed and outlives it. */
    int (*create)(const struct kvl_host *host, const struct controller_options *options,
                  void **self_out, struct kvl_err *err);
    int (*start)(void *self, struct kvl_err *err);
    void (*quiesce)(void *self);
    void (*stop)(void *self); /* also after a start that failed, and again */
    void (*destroy)(void *self);
    void (*get_health)(void *self, struct kvl_health *health_out);
    void (*get_stats)(void *self, kvl_stat_fn fn, void *ctx);
    /** Optional. */
    int (*locate)(void *self, const struct kvl_chunk_id *ids, uint32_t count, uint64_t deadline_ms,
                  kvl_locate_fn fn, void *ctx);
};

/** Role controller: controller_server.c. */
extern const struct controller_role controller_role_controller;

/** Role worker: controller_worker_role.c. */
extern const struct controller_role controller_role_worker;

#endif /* KVL_CONTROLLER_ROLE_H */
