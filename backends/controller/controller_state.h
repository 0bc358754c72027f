/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file controller_state.h
 * What is behind struct controller_server, for the files that make up role controller.
 */
#ifndef KVL_CONTROLLER_STATE_H
#define KVL_CONTROLLER_STATE_H

#include <pthread.h>

#include "controller_ask.h"
#include "controller_bind.h"
#include "controller_handle.h"
#include "controller_replica.h"
#include "controller_server.h"
#include "controller_standby.h"

#define CONTROLLER_THREADS_MAX 3u

struct controller_server {
    struct controller_http *http; /* NULL = none */
    const struct kvl_host *host; /* borrowed */
    const struct controller_options *options; /* borrowed */
    void *zmq; /* context; each socket below belongs to the thread that serves it */
    void *pull;
    void *reply;
    void *heartbeat; /* NULL = none */
    int32_t pull_port;
    int32_t reply_port;
    int32_t heartbeat_port;
    struct controller_replica *replica; /* NULL = none */
    struct controller_standby *standby; /* NULL = nobody's */
    int32_t replica_port;
    struct controller_handle events; /* of the thread of A */
    struct controller_handle requests; /* of the thread of B and C */
    struct controller_buf answer; /* likewise */
    struct controller_asks asks; /* orders to workers */
    uint64_t threads[CONTROLLER_THREADS_MAX];
    uint32_t thread_count;
    pthread_mutex_t lock; /* guards nothing but the wait of the timer */
    pthread_cond_t wake; /* on CLOCK_MONOTONIC: the timer is to look at `stopping` */
    uint64_t saved_changes; /* of the registry, when the snapshot was written last */
    atomic_int stopping;
    char address[200];
    struct controller_counts counts;
};

/** Threads: sockets until the context is shut down, the timer until `stopping`. */
void *controller_loop_pull(void *server);
void *controller_loop_reply(void *server);
void *controller_upkeep_run(void *server);

/** Reads the snapshot, if one is set and there. What is wrong is logged: we go on empty. */
void controller_upkeep_load(struct controller_server *server);

/** Writes the snapshot, if one is set and something changed. A failure is counted and logged. */
void controller_upkeep_save(struct controller_server *server);

#endif /* KVL_CONTROLLER_STATE_H */
