/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file ipc_names.h
 * The closed list of names that a pickle may use, and what they stand for.
 */
#ifndef KVL_IPC_NAMES_H
#define KVL_IPC_NAMES_H

#include <kvlane/ipc.h>

/** Where LMCache keeps its wrapper class, as pickles name it. */
#define KVL_IPC_WRAPPER_MODULE "lmcache.v1.multiprocess.custom_types"
#define KVL_IPC_WRAPPER_CLASS "CudaIPCWrapper"

/** Module of torch.Size and of the element types. */
#define KVL_IPC_TORCH_MODULE "torch"
#define KVL_IPC_TORCH_SIZE "Size"

enum kvl_ipc_symbol {
    KVL_IPC_SYMBOL_NONE, /* not on the list */
    KVL_IPC_SYMBOL_LATER, /* of a later LMCache: known, not supported */
    KVL_IPC_SYMBOL_WRAPPER,
    KVL_IPC_SYMBOL_SIZE,
    KVL_IPC_SYMBOL_DTYPE,
};

/** What a name stands for; whole names only. @param dtype_out  set for KVL_IPC_SYMBOL_DTYPE */
enum kvl_ipc_symbol kvl_ipc_symbol_find(struct kvl_ipc_bytes module, struct kvl_ipc_bytes name,
                                        uint32_t *dtype_out);

/** "float16"; NULL for an unknown one. */
const char *kvl_ipc_dtype_name(uint32_t dtype);

/** Bytes of an element; 0 for an unknown one. */
uint32_t kvl_ipc_dtype_bytes(uint32_t dtype);

/** 1 when the bytes are those of the terminated text. */
int kvl_ipc_bytes_are(struct kvl_ipc_bytes bytes, const char *text);

/** 1 when both have the same bytes. */
int kvl_ipc_bytes_equal(struct kvl_ipc_bytes a, struct kvl_ipc_bytes b);

/** Bytes that kvl_ipc_show() needs at most. */
#define KVL_IPC_SHOW_ROOM 65u

/** A text of a peer as it may stand in a message: shortened, one line. Returns `out`. */
const char *kvl_ipc_show(struct kvl_ipc_bytes text, char *out);

#endif /* KVL_IPC_NAMES_H */
