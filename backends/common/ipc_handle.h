/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file ipc_handle.h
 * The handle bytes of a wrapper, as torch makes them.
 */
#ifndef KVL_IPC_HANDLE_H
#define KVL_IPC_HANDLE_H

#include <kvlane/ipc.h>

/**
 * Takes handle bytes apart; handle_out->items points into them.
 * @return 0; -EBADMSG, with why in *why_out.
 */
int kvl_ipc_handle_read(struct kvl_ipc_bytes bytes, struct kvl_ipc_handle *handle_out,
                        const char **why_out);

/** Bytes of all segments of an expandable one; 0 when the handle does not say, or on overflow. */
uint64_t kvl_ipc_handle_mapped(const struct kvl_ipc_handle *handle);

/** Descriptor `index` of a KVL_IPC_HANDLE_FDS; -1 beyond the last. */
int32_t kvl_ipc_handle_fd(const struct kvl_ipc_handle *handle, uint64_t index);

#endif /* KVL_IPC_HANDLE_H */
