/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file controller_ask.h
 * Orders to workers, over their control sockets (D). A REQ socket lives for one order: a worker
 * that does not answer, or comes back at another address, leaves nothing behind that could spoil
 * the next one.
 */
#ifndef KVL_CONTROLLER_ASK_H
#define KVL_CONTROLLER_ASK_H

#include <pthread.h>

#include <kvlane/registry.h>

/** One order to one worker. */
struct controller_ask {
    /* by the caller; borrowed for the call */
    int64_t worker_id;
    const char *ip; /* of its control socket: an address or a name, terminated */
    int64_t port;
    const void *request;
    size_t request_length;
    /* by controller_asks_run */
    int status; /* 0 answered; -ETIMEDOUT; -EHOSTUNREACH, -EINVAL bad address; -EMFILE, .. */
    uint8_t *reply; /* owned, free with free(); NULL unless status is 0 */
    size_t reply_length;
    void *socket; /* private */
};

/** Who is waiting for whom. */
struct controller_asks {
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t changed; /* on CLOCK_MONOTONIC */
    struct controller_turn *first; /* in the order in which they came */
    uint32_t under_way; /* callers inside */
    int stopping;
};

/** @return 0; -ENOMEM. */
int controller_asks_init(struct controller_asks *asks);
void controller_asks_fini(struct controller_asks *asks);

/**
 * Sends one order to each of the workers of an instance, all at once, and waits for the answers.
 * A worker has one order at a time: those who come later wait for their turn, and the deadline runs
 * meanwhile. From any thread.
 * @param zmq          context
 * @param frame_bytes  largest answer
 * @param deadline_ms  absolute
 * @return 0, and each call has its status; -ECANCELED the end has begun; -ETIMEDOUT the turn did
 *         not come: no order was sent.
 */
int controller_asks_run(struct controller_asks *asks, void *zmq, struct kvl_text instance,
                        struct controller_ask *each, uint32_t count, int64_t frame_bytes,
                        uint64_t deadline_ms);

/** Wakes those who wait for their turn. The context must be shut down to wake the others. */
void controller_asks_stop(struct controller_asks *asks);
/** Waits until nobody is inside any more. */
void controller_asks_wait(struct controller_asks *asks);

#endif /* KVL_CONTROLLER_ASK_H */
