/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file remote_engine.h
 * Engines in processes of their own, each one a cuda_engine_rig, told what to do over a socket.
 * Failures on either side end the test.
 */
#ifndef KVL_REMOTE_ENGINE_H
#define KVL_REMOTE_ENGINE_H

#include "cuda_engine_rig.h"

enum remote_what {
    REMOTE_SAVE, /* count chunks of prefix with content seed, seed + 1, .. */
    REMOTE_LOAD, /* answers the status of the batch; bytes are compared */
    REMOTE_HAS, /* answers 1 or 0 */
    REMOTE_BEGIN_LOAD, /* submits only */
    REMOTE_END_LOAD, /* waits for it; answers as LOAD */
    REMOTE_HOLD, /* all streams of the driver */
    REMOTE_RELEASE,
    REMOTE_PENDING, /* operations queued on the device */
    REMOTE_CANCEL, /* what BEGIN_LOAD began */
    REMOTE_MEET, /* bytes: an offer */
    REMOTE_STAT, /* prefix: name of a counter */
    REMOTE_CALLS, /* prefix: function of the driver */
    REMOTE_HEALTH, /* value: state; text: text */
    REMOTE_ERRORS, /* value: lines of level error; text: the first ones */
    REMOTE_STOP, /* stops and destroys, checks that nothing is left over */
    REMOTE_STOP_READ, /* the same under a peer's read: the pool stays, and that is said */
};

struct remote_order {
    enum remote_what what;
    char prefix[64];
    uint32_t count;
    uint32_t seed;
    uint32_t length;
    uint8_t bytes[KVL_OFFER_MAX];
};

struct remote_answer {
    int64_t value;
    uint32_t length; /* of an offer */
    uint8_t bytes[KVL_OFFER_MAX];
    char text[1024];
};

struct remote_engine {
    struct cuda_rig_peer peer;
    uint32_t length;
    uint8_t offer[KVL_OFFER_MAX];
};

/** The role for cuda_rig_main(). */
int remote_engine_run(int fd);
#define REMOTE_ENGINE_ROLE "engine"

/** Starts one, with settings as a text "name=value name=value". */
void remote_start(struct remote_engine *remote, const char *settings);
/** Stops it in order, and waits for its end. */
void remote_stop(struct remote_engine *remote);
void remote_kill(struct remote_engine *remote);

struct remote_answer remote_ask(struct remote_engine *remote, enum remote_what what,
                                const char *prefix, uint32_t count, uint32_t seed);
int64_t remote_stat(struct remote_engine *remote, const char *name);
/** Waits until a counter has that value. */
void remote_await(struct remote_engine *remote, const char *name, int64_t value);
/** Has one told of the other, and waits until they are linked. */
void remote_meet(struct remote_engine *remote, const struct remote_engine *other);

#endif /* KVL_REMOTE_ENGINE_H */
