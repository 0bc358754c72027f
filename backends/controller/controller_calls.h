/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file controller_calls.h
 * Threads for requests that wait for workers. They come when there is work and stay until stop.
 */
#ifndef KVL_CONTROLLER_CALLS_H
#define KVL_CONTROLLER_CALLS_H

#include "controller_routes.h"

struct controller_calls;

/** One request. Owned by who added it; not touched again once `done` was called. */
struct controller_call {
    struct controller_call *next;
    struct controller_request request; /* its arena is set by the thread */
    struct controller_answer answer;
};

/** @param done  called once per call that was added, from another thread, without a lock */
int controller_calls_create(const struct kvl_host *host, void (*done)(struct controller_call *call),
                            struct controller_calls **calls_out);

/** @return 0; -EAGAIN too many wait; -ECANCELED stopping; then `done` is not called. */
int controller_calls_add(struct controller_calls *calls, struct controller_call *call);

/** Answers what waits with 503, and joins the threads. Takes NULL. Again is harmless. */
void controller_calls_stop(struct controller_calls *calls);

/** Frees. Takes NULL. */
void controller_calls_destroy(struct controller_calls *calls);

#endif /* KVL_CONTROLLER_CALLS_H */
