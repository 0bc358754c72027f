/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file controller_handle.h
 * One frame of a worker: decoded, applied to the registry, answered. No sockets.
 */
#ifndef KVL_CONTROLLER_HANDLE_H
#define KVL_CONTROLLER_HANDLE_H

#include "controller_count.h"
#include "controller_options.h"
#include "controller_quiet.h"
#include "controller_replica.h"

/** Kinds of log lines. */
enum controller_say {
    CONTROLLER_SAY_BAD,
    CONTROLLER_SAY_UNKNOWN,
    CONTROLLER_SAY_WORKER,
    CONTROLLER_SAY_GAP,
    CONTROLLER_SAY_SYNC,
    CONTROLLER_SAY_ROOM,
    CONTROLLER_SAY_URL,
    CONTROLLER_SAYS, /* how many */
};

/** What a thread that handles frames has for itself. */
struct controller_handle {
    const struct kvl_host *host; /* borrowed, as the two below */
    const struct controller_options *options;
    struct controller_counts *counts;
    struct controller_replica *replica; /* borrowed; NULL = none */
    int is_change; /* the registry took the frame at hand */
    int32_t heartbeat_port; /* told to workers; 0 = none */
    struct controller_arena *arena; /* owned */
    struct controller_msg msg;
    struct controller_quiet quiet[CONTROLLER_SAYS];
};

/** @return 0; -ENOMEM. */
int controller_handle_init(struct controller_handle *handle, const struct kvl_host *host,
                           const struct controller_options *options,
                           struct controller_counts *counts);
void controller_handle_fini(struct controller_handle *handle);

/** The worker of a RegisterMsg or HeartbeatMsg, for the registry. Borrows the texts. */
struct kvl_worker_desc controller_handle_worker(const struct controller_msg *msg);

/** Handles a frame of socket A. What is wrong with it is counted and logged, nothing else. */
void controller_handle_event(struct controller_handle *handle, const void *frame, size_t length);

/** Counts a message of socket B or C that has too few parts to be answered. */
void controller_handle_short(struct controller_handle *handle, int parts);

enum controller_door { CONTROLLER_DOOR_REPLY, CONTROLLER_DOOR_HEARTBEAT };

/**
 * Handles a frame of socket B or C and appends the answer, which may be an ErrorMsg, to `reply`.
 * @return 0; -ENOMEM nothing to send.
 */
int controller_handle_request(struct controller_handle *handle, enum controller_door door,
                              const void *frame, size_t length, struct controller_buf *reply);

#endif /* KVL_CONTROLLER_HANDLE_H */
