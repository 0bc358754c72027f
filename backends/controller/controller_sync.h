/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file controller_sync.h
 * Sends a full sync: everything the store holds, in batches; and behind it the same for what
 * backends keep in memory of a GPU, where there are such backends. For the controller these are two
 * syncs: it clears one location at a time. One thread, one sync at a time.
 *
 * LMCache's worker freezes its engine meanwhile, for at least five seconds. Here the store goes on:
 * changes are held back (controller_events_hold) from just before the store is listed until the
 * controller says that the sync is complete, and are sent then, because a controller drops events
 * of a worker that is syncing. Repeating a change that the list has already is harmless.
 *
 * Also unlike LMCache's, a sync that was accepted and did not complete is begun again under its old
 * id, because LMCache's controller refuses every other one for ever; and where it goes on refusing,
 * the worker is deregistered, so that the next heartbeat registers it afresh.
 */
#ifndef KVL_CONTROLLER_SYNC_H
#define KVL_CONTROLLER_SYNC_H

#include "controller_events.h"
#include "controller_req.h"

struct controller_sync_desc {
    const struct kvl_host *host; /* borrowed */
    const struct controller_identity *self; /* borrowed */
    struct controller_events *events; /* borrowed */
    struct controller_req_desc req;
    const char *const *locations; /* CONTROLLER_PLACES names, by KVL_WHERE_; borrowed */
    uint32_t batch_size;
    uint64_t startup_delay_ms;
};

struct controller_sync_stats {
    uint64_t done;
    uint64_t failed;
    uint64_t skipped; /* asked for while one was under way */
    uint64_t keys; /* of the last one that was done */
    uint64_t resent; /* batches */
    int running;
    char why[CONTROLLER_WHY_MAX]; /* of the last one that failed; "" once one was done */
};

struct controller_sync;

int controller_sync_create(const struct controller_sync_desc *desc,
                           struct controller_sync **sync_out);
int controller_sync_start(struct controller_sync *sync);
/** Joins the thread, once the stop descriptor is readable, and closes its socket. */
void controller_sync_stop(struct controller_sync *sync);
/** Takes NULL. */
void controller_sync_destroy(struct controller_sync *sync);

/** Asks for a sync; `reason` goes to the log. Counted and ignored while one is under way. */
void controller_sync_request(struct controller_sync *sync, const char *reason, size_t length);

void controller_sync_stats(struct controller_sync *sync, struct controller_sync_stats *stats_out);

#endif /* KVL_CONTROLLER_SYNC_H */
