/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file controller_locate.h
 * Asks the controller which peer has the chunks that are looked for: BatchedP2PLookupMsg. One
 * thread with a connection of its own, one question at a time in the order in which they came.
 */
#ifndef KVL_CONTROLLER_LOCATE_H
#define KVL_CONTROLLER_LOCATE_H

#include "controller_req.h"
#include "controller_worker.h"

/** Questions that wait at a time. */
#define CONTROLLER_LOCATE_MAX 256u

struct controller_locate_desc {
    const struct kvl_host *host; /* borrowed */
    const struct controller_identity *self; /* borrowed */
    struct controller_req_desc req;
};

struct controller_locate_stats {
    uint64_t asked;
    uint64_t found;
    uint64_t failed;
};

struct controller_locate;

int controller_locate_create(const struct controller_locate_desc *desc,
                             struct controller_locate **locate_out);
int controller_locate_start(struct controller_locate *locate);
/**
 * Joins the thread, once the stop descriptor is readable, and ends what waits with -ECANCELED.
 */
void controller_locate_stop(struct controller_locate *locate);
/** Takes NULL. */
void controller_locate_destroy(struct controller_locate *locate);

/** As kvl_backend_ops.locate. @return 0; -EAGAIN; -ECANCELED not running; -ENOMEM; -EINVAL. */
int controller_locate_ask(struct controller_locate *locate, const struct kvl_chunk_id *ids,
                          uint32_t count, uint64_t deadline_ms, kvl_locate_fn fn, void *ctx);

void controller_locate_stats(struct controller_locate *locate,
                             struct controller_locate_stats *stats_out);

#endif /* KVL_CONTROLLER_LOCATE_H */
