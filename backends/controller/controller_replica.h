/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file controller_replica.h
 * The primary's side of a warm standby: what workers changed goes into a ring, and a thread of its
 * own sends it to the standbys, each of which first gets the saved registry.
 *
 *   kvl-ctl-replica  the socket, the standbys, the stream
 *   kvl-ctl-base     saves the registry for a standby that begins
 *
 * Nothing here waits for a standby: what one does not fetch in time is written over, and it begins
 * anew.
 */
#ifndef KVL_CONTROLLER_REPLICA_H
#define KVL_CONTROLLER_REPLICA_H

#include "controller_count.h"
#include "controller_options.h"
#include "controller_replica_wire.h"

struct controller_replica;

/** @return 0; -ENOMEM. */
int controller_replica_create(const struct kvl_host *host, const struct controller_options *options,
                              struct controller_counts *counts,
                              struct controller_replica **replica_out);

/** Takes NULL. After stop. */
void controller_replica_destroy(struct controller_replica *replica);

/** Binds. @return 0 and the port; see controller_bind(). */
int controller_replica_open(struct controller_replica *replica, void *zmq, int32_t *port_out,
                            struct kvl_err *err);

/** @return 0; -EAGAIN, -ENOMEM and err->text. */
int controller_replica_start(struct controller_replica *replica, struct kvl_err *err);

/** After the context was shut down. Joins, and closes the socket. May wait for a save to end. */
void controller_replica_stop(struct controller_replica *replica);

/** 1 = standbys are sent away, because we follow somebody ourselves. Any thread. */
void controller_replica_refuse(struct controller_replica *replica, int refuse);

/* ---- for who changes the registry; NULL = no replica, and nothing is done ---- */

/**
 * Between these two nobody else changes this worker, so that records come in the order in which
 * they were applied to it. Not for two workers at once.
 */
void controller_replica_enter(struct controller_replica *replica,
                              const struct kvl_worker_name *name);
void controller_replica_leave(struct controller_replica *replica,
                              const struct kvl_worker_name *name);

/** Tells the standbys of a frame that was applied. Copies it. Never blocks on one. */
void controller_replica_tell(struct controller_replica *replica, enum controller_record_kind kind,
                             const void *frame, size_t length);

/** The same for a worker that was taken out. */
void controller_replica_tell_removed(struct controller_replica *replica,
                                     const struct kvl_worker_name *name);

/* ---- watch ---- */

struct controller_replica_view {
    uint32_t standbys; /* that follow */
    uint32_t beginning; /* that wait for their base, or get it */
    uint64_t behind; /* records that the last of them has not been sent */
};
void controller_replica_look(const struct controller_replica *replica,
                             struct controller_replica_view *view_out);

#endif /* KVL_CONTROLLER_REPLICA_H */
