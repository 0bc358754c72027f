/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file controller_order.h
 * Orders that an instance's workers all get, and one answer made of theirs.
 */
#ifndef KVL_CONTROLLER_ORDER_H
#define KVL_CONTROLLER_ORDER_H

#include "controller_wire.h"

struct controller_server;

/**
 * Executes ClearMsg, PinMsg, CompressMsg, DecompressMsg, MoveMsg or HealthMsg; arguments and result
 * are those of controller_orchestrate().
 */
int controller_order_run(struct controller_server *server, const struct controller_msg *request,
                         struct controller_arena *arena, struct controller_msg *reply_out);

/** Fills reply_out with an ErrorMsg whose text lies in the arena. @return 0; -ENOMEM. */
int controller_order_error(struct controller_arena *arena, struct controller_msg *reply_out,
                           const char *fmt, ...) KVL_PRINTF(3, 4);

#endif /* KVL_CONTROLLER_ORDER_H */
