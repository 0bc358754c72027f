/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file controller_worker.h
 * Role worker: announces the own store, and chunks that backends keep in memory of a GPU, to a
 * cache controller, LMCache's or ours, and serves its control calls. Five threads:
 *
 *   kvl-ctl-link     registers, sends heartbeats (controller_link.h)
 *   kvl-ctl-events   store events -> PUSH socket (controller_events.h)
 *   kvl-ctl-sync     sends a full sync when asked to (controller_sync.h)
 *   kvl-ctl-locate   asks for peers that hold chunks (controller_locate.h)
 *   kvl-ctl-serve    REP socket: control calls (controller_service.h)
 *
 * A controller that is away is no failure: the worker goes on trying until stop, and says so in its
 * health record.
 */
#ifndef KVL_CONTROLLER_WORKER_H
#define KVL_CONTROLLER_WORKER_H

#include <kvlane/backend.h>

#include "controller_hash.h"
#include "controller_wire.h"

/** Locations that are announced: KVL_WHERE_HOST, KVL_WHERE_GPU. */
#define CONTROLLER_PLACES 2u
#define CONTROLLER_GPU_LOCATION "LocalGPUBackend"

/** Texts are borrowed and outlive the worker; "" = unset. */
struct controller_worker_options {
    const char *instance_id;
    int64_t worker_id;
    const char *pull_url; /* host:port of the controller */
    const char *reply_url;
    int32_t port; /* of the control service; 0 = the kernel picks */
    const char *ip; /* what the controller is told; "" = found */
    const char *peer_init_url; /* "" = none */
    const char *location; /* name of the own store */
    int allow_remote; /* serve control calls of other hosts */
    uint64_t heartbeat_delay_ms; /* from the registration to the first one */
    uint64_t heartbeat_ms;
    uint32_t batch_size; /* events of one message */
    uint64_t batch_timeout_ms; /* longest wait of an event for its message */
    uint64_t recv_ms; /* longest wait for an answer */
    uint64_t send_ms;
    uint32_t sync_batch_size; /* keys of one batch of a full sync */
    uint64_t sync_startup_delay_ms; /* a full sync begins after a random part of it */
    uint64_t pin_ms; /* how long a pin lasts */
    uint64_t pin_bytes; /* most that pins keep from eviction */
    struct controller_hashing hashing; /* how tokens of control calls become chunks */
    struct controller_limits limits; /* of frames from outside */
};

/** Who we are on the wire; shared by all parts of a worker. Borrowed texts. */
struct controller_identity {
    const char *instance_id;
    int64_t worker_id;
    const char *ip;
    int64_t port;
    const char *peer_init_url;
};

struct controller_worker;

/** Makes no socket and no thread. `options` is copied. @return 0; -ENOMEM; -ENODEV and err. */
int controller_worker_create(const struct kvl_host *host,
                             const struct controller_worker_options *options,
                             struct controller_worker **worker_out, struct kvl_err *err);

/** @return 0; -EADDRINUSE, -EACCES, ... and err->text. Then only stop and destroy follow. */
int controller_worker_start(struct controller_worker *worker, struct kvl_err *err);

/**
 * Says farewell to the controller, which takes up to a second where it is there to hear it, and
 * joins every thread. Again, or without start, does nothing.
 */
void controller_worker_stop(struct controller_worker *worker);

/** Takes NULL. */
void controller_worker_destroy(struct controller_worker *worker);

/** As kvl_backend_ops.locate; -ENOTCONN while the controller does not answer. */
int controller_worker_locate(struct controller_worker *worker, const struct kvl_chunk_id *ids,
                             uint32_t count, uint64_t deadline_ms, kvl_locate_fn fn, void *ctx);

void controller_worker_health(struct controller_worker *worker, struct kvl_health *health_out);
void controller_worker_stats(struct controller_worker *worker, kvl_stat_fn fn, void *ctx);

#endif /* KVL_CONTROLLER_WORKER_H */
