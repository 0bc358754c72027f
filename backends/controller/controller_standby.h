/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file controller_standby.h
 * The standby's side: a thread, kvl-ctl-standby, that keeps the registry as the primary has it.
 * When the primary falls silent nothing is to be done: the registry is there, and so are our ports.
 */
#ifndef KVL_CONTROLLER_STANDBY_H
#define KVL_CONTROLLER_STANDBY_H

#include "controller_count.h"
#include "controller_options.h"
#include "controller_replica.h"

struct controller_standby;

/** @param replica  that of our own standbys, sent away while we follow; may be NULL. 0; -ENOMEM. */
int controller_standby_create(const struct kvl_host *host, const struct controller_options *options,
                              struct controller_counts *counts, struct controller_replica *replica,
                              struct controller_standby **standby_out);

/** Takes NULL. After stop. */
void controller_standby_destroy(struct controller_standby *standby);

/**
 * Starts the thread, which goes on trying.
 * @return 0; -EACCES the primary is another machine and allow_remote is not set, ...; err->text.
 */
int controller_standby_start(struct controller_standby *standby, void *zmq, struct kvl_err *err);

/** After the context was shut down. Joins, and closes the socket. */
void controller_standby_stop(struct controller_standby *standby);

/** 1 = the primary is there, or was a moment ago: it decides who is taken out. Any thread. */
int controller_standby_is_passive(const struct controller_standby *standby);

/** For a person: what we are doing. Any thread. */
void controller_standby_print(const struct controller_standby *standby, char *text_out,
                              size_t size);

#endif /* KVL_CONTROLLER_STANDBY_H */
