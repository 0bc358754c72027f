/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file ipc_wrapper.h
 * CudaIPCWrapper between a pickle and its struct.
 *
 * Reading has two stages after the parser: take, which wants every attribute with its type and a
 * width that the struct has; and judge, which wants values that make sense. put writes any values:
 * ask ready before.
 */
#ifndef KVL_IPC_WRAPPER_H
#define KVL_IPC_WRAPPER_H

#include <kvlane/ipc.h>

#include "ipc_pickle.h"

/** Attributes, and items of the handle, as messages name them. */
enum kvl_ipc_place {
    KVL_IPC_AT_WRAPPER,
    KVL_IPC_AT_TUPLE,
    KVL_IPC_AT_DEVICE, /* the items of the tuple, in its order */
    KVL_IPC_AT_HANDLE,
    KVL_IPC_AT_STORAGE_BYTES,
    KVL_IPC_AT_BASE_OFFSET,
    KVL_IPC_AT_COUNTER_NAME,
    KVL_IPC_AT_COUNTER_SLOT,
    KVL_IPC_AT_EVENT,
    KVL_IPC_AT_SYNC,
    KVL_IPC_AT_DTYPE,
    KVL_IPC_AT_SHAPE,
    KVL_IPC_AT_STRIDE,
    KVL_IPC_AT_STORAGE_OFFSET,
    KVL_IPC_AT_UUID,
    KVL_IPC_AT_COUNT,
};

/** Where in the input each of them was. */
struct kvl_ipc_places {
    size_t at[KVL_IPC_AT_COUNT];
};

/**
 * Fills the struct from what was parsed. Views point into the input of the tree.
 * @param forms  KVL_IPC_FORM_BIT of those to take
 * @param base   as for kvl_pickle_parse()
 * @return 0; -EBADMSG; -EMSGSIZE.
 */
int kvl_ipc_wrapper_take(const struct kvl_pickle_tree *tree, uint32_t forms, size_t base,
                         struct kvl_ipc_wrapper *wrapper_out, struct kvl_ipc_places *places_out,
                         struct kvl_err *err);

/** @param places  NULL when the wrapper was not read. @return 0; -EBADMSG. */
int kvl_ipc_wrapper_judge(const struct kvl_ipc_wrapper *wrapper,
                          const struct kvl_ipc_places *places, struct kvl_err *err);

/** Writes the pickle, whatever the values are. @return 0 and *length_out; -ENOSPC with the same. */
int kvl_ipc_wrapper_put(const struct kvl_ipc_wrapper *wrapper, uint32_t protocol, void *bytes_out,
                        size_t room, size_t *length_out);

/** The options with their defaults filled in. @return 0; -EINVAL. */
int kvl_ipc_options_read(const struct kvl_ipc_options *options, struct kvl_ipc_options *options_out,
                         struct kvl_err *err);

/** parse, take, judge. @param options  from kvl_ipc_options_read() */
int kvl_ipc_wrapper_unpickle(const struct kvl_ipc_options *options, const void *bytes,
                             size_t length, size_t base, struct kvl_ipc_wrapper *wrapper_out,
                             struct kvl_err *err);

/**
 * May it be written? judge, and what form A demands of a writer.
 * @param options  from kvl_ipc_options_read()
 * @return 0; -EBADMSG; -EMSGSIZE.
 */
int kvl_ipc_wrapper_ready(const struct kvl_ipc_options *options,
                          const struct kvl_ipc_wrapper *wrapper, struct kvl_err *err);

/** 1 when Python calls them equal, else 0. */
int kvl_ipc_wrapper_equal(const struct kvl_ipc_wrapper *a, const struct kvl_ipc_wrapper *b);

#endif /* KVL_IPC_WRAPPER_H */
