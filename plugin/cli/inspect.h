/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file inspect.h
 * How inspect prints what it has decoded. Text of peers is made harmless for a terminal.
 */
#ifndef KVL_CLI_INSPECT_H
#define KVL_CLI_INSPECT_H

#include <kvlane/ipc.h>

/** One line per field. */
void inspect_print_key(const struct kvl_ipc_ops *ipc, const struct kvl_ipc_key *key);
void inspect_print_wrapper(const struct kvl_ipc_ops *ipc, const struct kvl_ipc_wrapper *wrapper);

#endif /* KVL_CLI_INSPECT_H */
