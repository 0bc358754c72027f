/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file controller_link.h
 * Keeps a worker known to its controller: registers, sends heartbeats, obeys the commands in their
 * answers, and asks for a full sync when the controller misses events. One thread, which goes on
 * for ever: LMCache's worker gives up when it is not registered within 30 s.
 *
 * LMCache's worker sends heartbeats only where the controller names a port for them and a time is
 * set; without both it never notices that its controller was restarted and knows nothing any more.
 * Here they are always sent, to the reply port where there is no other.
 */
#ifndef KVL_CONTROLLER_LINK_H
#define KVL_CONTROLLER_LINK_H

#include "controller_sync.h"

struct controller_link_desc {
    const struct kvl_host *host; /* borrowed */
    const struct controller_identity *self; /* borrowed */
    struct controller_events *events; /* borrowed */
    struct controller_sync *sync; /* borrowed */
    struct controller_req_desc req; /* of the reply port */
    uint64_t heartbeat_delay_ms;
    uint64_t heartbeat_ms;
};

struct controller_link_stats {
    int registered; /* once; from then on heartbeats keep it so */
    int answered; /* the last question was */
    uint64_t since_ms; /* the start, or when `answered` changed */
    uint64_t last_answer_ms; /* 0 = never */
    uint64_t registrations;
    uint64_t heartbeats; /* answered */
    uint64_t failures; /* questions without a good answer */
    uint64_t commands;
    uint64_t unknown_commands;
    char why[CONTROLLER_WHY_MAX]; /* there was no good answer; "" = there was */
};

struct controller_link;

int controller_link_create(const struct controller_link_desc *desc,
                           struct controller_link **link_out);
int controller_link_start(struct controller_link *link);
/** Joins the thread, once the stop descriptor is readable, and closes its sockets. */
void controller_link_stop(struct controller_link *link);
/** Takes NULL. */
void controller_link_destroy(struct controller_link *link);

/** Something broke: looks after the controller soon, not only when the next heartbeat is due. */
void controller_link_kick(struct controller_link *link);

/** RegisterMsg, HeartbeatMsg or DeRegisterMsg of a worker. */
void controller_link_describe(const struct controller_identity *self, enum controller_type type,
                              struct controller_msg *msg_out);

void controller_link_stats(struct controller_link *link, struct controller_link_stats *stats_out);

#endif /* KVL_CONTROLLER_LINK_H */
