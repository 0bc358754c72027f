/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file rig.h
 * Role controller on a real registry and real sockets, and workers to play with.
 */
#ifndef KVL_CONTROLLER_RIG_H
#define KVL_CONTROLLER_RIG_H

#include "controller_orchestrate.h"
#include "controller_server.h"

struct rig;

/** Starts a controller on ports of the kernel's choice; `pairs` are more settings, or NULL. */
struct rig *rig_start(const char *const *pairs);
/** Ends it; again is harmless. The counters stay readable. */
void rig_stop(struct rig *rig);
void rig_free(struct rig *rig);

struct controller_server *rig_server(struct rig *rig);
const struct kvl_host *rig_host(struct rig *rig);

/** Sockets of a client, with a time limit of 20 s: DEALER to B or C, REQ to B, PUSH to A. */
void *rig_dealer(struct rig *rig);
void *rig_heartbeat(struct rig *rig);
void *rig_req(struct rig *rig);
void *rig_push(struct rig *rig);
void rig_close(void *socket);

/** Sends a request, `dealer` = with the empty part in front. */
void rig_send(void *socket, int dealer, const void *bytes, size_t length);
/** Reads the last part of an answer into `bytes`. @return its length. */
size_t rig_receive(void *socket, void *bytes, size_t room);
/** Sends a message and reads the answer; its texts and lists live until the next call. */
const struct controller_msg *rig_ask(struct rig *rig, void *dealer,
                                     const struct controller_msg *msg);
/** Sends a message as one frame. */
void rig_push_msg(void *push, const struct controller_msg *msg);

/** Waits until a counter has at least that value; fails the test after 20 s. */
void rig_wait(struct rig *rig, enum controller_count which, uint64_t least);

struct kvl_text rig_text(const char *text);

/* ---- workers that answer orders ---- */

enum rig_mood {
    RIG_ANSWERS, /* what was asked for, with `number` */
    RIG_ERROR, /* ErrorMsg */
    RIG_GARBAGE,
    RIG_OTHER, /* a message of another kind */
    RIG_SILENT, /* takes the order and does not answer until told otherwise */
};

struct rig_worker;

/** Registers a worker whose control socket is served by a thread. */
struct rig_worker *rig_worker_start(struct rig *rig, const char *instance, int64_t worker_id,
                                    enum rig_mood mood, int64_t number);
void rig_worker_set(struct rig_worker *worker, enum rig_mood mood, int64_t number);
/** Orders it has taken. */
uint32_t rig_worker_orders(const struct rig_worker *worker);
/** Waits until it has taken so many. */
void rig_worker_wait(const struct rig_worker *worker, uint32_t orders);
/** The text of the last order: `TYPE event_id location ...` as the test wants to see it. */
void rig_worker_last(struct rig_worker *worker, char *text_out, size_t size);
void rig_worker_stop(struct rig_worker *worker);

#endif /* KVL_CONTROLLER_RIG_H */
