/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file ipc_pack.h
 * Frames of LMCache's multiprocess messages: msgpack <-> kvl_ipc_value. Options come from
 * kvl_ipc_options_read(); the rest is as the slots of kvl_ipc_ops say.
 */
#ifndef KVL_IPC_PACK_H
#define KVL_IPC_PACK_H

#include <kvlane/ipc.h>

/** Code of the extension that holds a wrapper. */
#define KVL_IPC_EXT_WRAPPER 1

/** Arrays and maps inside one another, at most. */
#define KVL_IPC_NESTING_MAX 32u

int kvl_ipc_decode(const struct kvl_ipc_options *options, const void *bytes, size_t length,
                   struct kvl_ipc_value *value, struct kvl_err *err);

int kvl_ipc_encode(const struct kvl_ipc_options *options, const struct kvl_ipc_value *value,
                   void *bytes_out, size_t room, size_t *length_out, struct kvl_err *err);

#endif /* KVL_IPC_PACK_H */
