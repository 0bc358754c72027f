/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file ipc.h
 * The table of LMCache's IPC types and codecs.
 */
#ifndef KVL_COMMON_IPC_H
#define KVL_COMMON_IPC_H

#include <kvlane/ipc.h>

extern const struct kvl_ipc_ops kvl_ipc_table;

#endif /* KVL_COMMON_IPC_H */
