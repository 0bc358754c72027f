/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file controller_server.h
 * Role controller: sockets for workers, the threads that serve them, and upkeep of the registry.
 *
 *   kvl-ctl-pull    socket A: events of workers, no answer
 *   kvl-ctl-reply   sockets B and C: questions and heartbeats, answered in the order of arrival
 *   kvl-ctl-timer   silent workers, syncs that got stuck, memory, the snapshot
 *
 * and those of controller_replica.h and controller_standby.h, where there is a standby.
 *
 * A has a thread and an I/O thread of its own, so that no flood of events delays an answer.
 * What is declared here may be called from any thread between create and destroy.
 */
#ifndef KVL_CONTROLLER_SERVER_H
#define KVL_CONTROLLER_SERVER_H

#include "controller_count.h"
#include "controller_options.h"

struct controller_server;

/** Borrowed by those who serve other doors to the same registry; live as long as the server. */
const struct kvl_host *controller_server_host(const struct controller_server *server);
const struct controller_options *controller_server_options(const struct controller_server *server);

/** 1 once stop has begun: blocking calls end with -ECANCELED. */
int controller_server_stopping(const struct controller_server *server);

uint64_t controller_server_count(const struct controller_server *server,
                                 enum controller_count which);

#endif /* KVL_CONTROLLER_SERVER_H */
