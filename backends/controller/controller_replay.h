/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file controller_replay.h
 * Does to the registry of a standby what a record says the primary did to its own. No sockets.
 */
#ifndef KVL_CONTROLLER_REPLAY_H
#define KVL_CONTROLLER_REPLAY_H

#include <kvlane/host.h>

#include "controller_replica_wire.h"
#include "controller_wire.h"

struct controller_replay {
    const struct kvl_host *host; /* borrowed */
    const struct controller_limits *limits; /* borrowed */
    struct controller_arena *arena; /* owned */
    struct controller_msg msg;
};

/** @return 0; -ENOMEM. */
int controller_replay_init(struct controller_replay *replay, const struct kvl_host *host,
                           const struct controller_limits *limits);
void controller_replay_fini(struct controller_replay *replay);

/**
 * Applies one record. A full sync that began before the base is taken up where it stands: what it
 * brought until then is in the base.
 * @return 0; -ENOMEM it did not all find room; another code when the registry does not take what
 *         the primary's took, or the record does not decode: the two are not alike.
 */
int controller_replay(struct controller_replay *replay, const struct controller_record *record);

#endif /* KVL_CONTROLLER_REPLAY_H */
