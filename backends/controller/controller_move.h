/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file controller_move.h
 * MoveWorkerMsg: chunks of the own store go to another engine, through whichever backend of ours
 * has a peer channel.
 */
#ifndef KVL_CONTROLLER_MOVE_H
#define KVL_CONTROLLER_MOVE_H

#include <kvlane/backend.h>

#include "controller_hash.h"
#include "controller_wire.h"

struct controller_move_order {
    struct kvl_text target_url; /* peer_init_url of the other engine */
    const struct controller_hashing *hashing;
    const struct controller_ids *tokens; /* nil = all chunks */
    int keep; /* copy: ours stay */
    uint64_t timeout_ms;
};

/**
 * Blocks. @return 0 and the tokens of the chunks that both or the other one have now; a negative
 * errno and a sentence.
 */
int controller_move(const struct kvl_host *host, const struct controller_move_order *order,
                    uint64_t *tokens_out, char *why_out, size_t room);

#endif /* KVL_CONTROLLER_MOVE_H */
