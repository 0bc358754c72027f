/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file controller_orchestrate.h
 * What orchestrators ask for: who has these tokens, which workers are there, and orders that go on
 * to workers (clear, pin, compress, decompress, move, health). The HTTP API calls this.
 */
#ifndef KVL_CONTROLLER_ORCHESTRATE_H
#define KVL_CONTROLLER_ORCHESTRATE_H

#include "controller_wire.h"

struct controller_server;

/**
 * Executes LookupMsg, QueryInstMsg, ClearMsg, PinMsg, CompressMsg, DecompressMsg, MoveMsg,
 * HealthMsg, CheckFinishMsg or QueryWorkerInfoMsg. From any thread, several at once; an order that
 * goes to workers blocks until all have answered, or up to the option control_timeout.
 *
 * @param request  outlives the reply, which borrows event_id from it
 * @param arena    holds what else reply_out points to; not reset by this call
 * @param reply_out  the ...RetMsg that goes with the request, or CONTROLLER_ERROR with the text
 * @return 0 also for CONTROLLER_ERROR; -EINVAL not such a message; -ECANCELED the server stops;
 *         -ENOMEM.
 */
int controller_orchestrate(struct controller_server *server, const struct controller_msg *request,
                           struct controller_arena *arena, struct controller_msg *reply_out);

/** A random UUID of version 4 as text, with its terminator, for event ids. */
#define CONTROLLER_UUID_ROOM 37u
void controller_orchestrate_uuid(char text_out[CONTROLLER_UUID_ROOM]);

#endif /* KVL_CONTROLLER_ORCHESTRATE_H */
