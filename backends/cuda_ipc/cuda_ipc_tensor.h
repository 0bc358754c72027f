/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cuda_ipc_tensor.h
 * Where the tokens of a KV cache's layer lie in its tensor. Pure.
 */
#ifndef KVL_CUDA_IPC_TENSOR_H
#define KVL_CUDA_IPC_TENSOR_H

#include <kvlane/ipc.h>

/** One layer, as struct kvl_kv counts it; bytes. Equal layers are equal as bytes. */
struct cuda_ipc_tensor {
    uint32_t planes; /* 2 keys and values; 1 both in one */
    uint32_t block_tokens;
    uint32_t block_count;
    uint32_t reserved; /* 0 */
    uint64_t token_bytes;
    uint64_t token_stride;
    uint64_t block_stride;
    uint64_t plane_stride; /* from keys to values */
    uint64_t offset; /* of the first token in the storage */
    uint64_t extent; /* from there to behind the last token */
};
KVL_STATIC_ASSERT(sizeof(struct cuda_ipc_tensor) == 64, "struct cuda_ipc_tensor has no padding");

/**
 * Reads [2, blocks, block_tokens, heads, head_size] or [blocks, block_tokens, hidden].
 * @param wrapper  that wrapper_check() took
 * @return 0; -ENOTSUP a layout that cannot be copied by tokens, such as heads before tokens;
 *         -EBADMSG empty, or not inside its storage; -EMSGSIZE too many blocks or tokens.
 */
int cuda_ipc_tensor_read(const struct kvl_ipc_ops *ipc, const struct kvl_ipc_wrapper *wrapper,
                         struct cuda_ipc_tensor *tensor_out, struct kvl_err *err);

/** 1 when two layers can be one KV cache, else 0. Their offsets may differ. */
int cuda_ipc_tensor_alike(const struct cuda_ipc_tensor *a, const struct cuda_ipc_tensor *b);

#endif /* KVL_CUDA_IPC_TENSOR_H */
