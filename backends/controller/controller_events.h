/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file controller_events.h
 * Changes of the store -> BatchedKVOperationMsg, and the PUSH socket that everything without an
 * answer goes through, so that its order is kept. One thread takes the events from the host.
 *
 * Events are numbered when they leave, from 0 per process and location. They are kept in a bounded
 * queue while the controller takes none. When that runs over, when the host lost some, or when the
 * connection broke with messages in it, the controller no longer knows the truth: the queues are
 * given up and controller_events_lost() says that a full sync is due.
 *
 * States. Before the first hold nothing is sent: nobody would know what it means. While held,
 * events wait; after a release they go out in order, behind what was pushed meanwhile.
 */
#ifndef KVL_CONTROLLER_EVENTS_H
#define KVL_CONTROLLER_EVENTS_H

#include "controller_worker.h"

struct controller_events_desc {
    const struct kvl_host *host; /* borrowed */
    void *zmq; /* context; borrowed */
    const struct controller_identity *self; /* borrowed */
    const char *url; /* host:port of the controller's pull socket */
    const char *const *locations; /* CONTROLLER_PLACES names, by KVL_WHERE_; borrowed */
    uint32_t batch_size;
    uint64_t batch_timeout_ms;
    void (*changed)(void *ctx); /* controller_events_lost() turned true; no lock is held */
    void *ctx;
};

struct controller_events_stats {
    uint64_t sent; /* events that went into the socket */
    uint64_t messages;
    uint64_t dropped; /* events given up; a full sync makes up for them */
    uint64_t queued; /* now */
    uint64_t breaks; /* connections lost */
    int connected;
    int refused; /* another section reads the store's events: none is told */
};

struct controller_events;

int controller_events_create(const struct controller_events_desc *desc,
                             struct controller_events **events_out);
/** Connects and starts the thread. @return 0; -EIO; what thread_create said. */
int controller_events_start(struct controller_events *events);
/** Joins the thread. The socket stays open. */
void controller_events_stop(struct controller_events *events);
/** Closes the socket; zmq_ctx_term goes on sending what is in it for up to `linger_ms`. */
void controller_events_close(struct controller_events *events, int linger_ms);
/** After close. Takes NULL. */
void controller_events_destroy(struct controller_events *events);

/**
 * From now on events wait for the release; those not yet sent are dropped, because the caller lists
 * the store after this, which covers them. Waits until the recording of events has begun.
 * @return 0; -ECANCELED stopping.
 */
int controller_events_hold(struct controller_events *events);

/**
 * Ends a hold. @param covered  1 when the controller has everything up to the hold; 0 when it has
 * not: controller_events_lost() is true again
 */
void controller_events_release(struct controller_events *events, int covered);

/** 1 when the controller misses events: a full sync is due. */
int controller_events_lost(struct controller_events *events);

/**
 * Puts one message into the PUSH socket, behind all before it. Never blocks.
 * @return 0; -EAGAIN no connection, or it takes no more; -ENOMEM; -EIO.
 */
int controller_events_push(struct controller_events *events, const struct controller_msg *msg);

void controller_events_stats(struct controller_events *events,
                             struct controller_events_stats *stats_out);

#endif /* KVL_CONTROLLER_EVENTS_H */
