/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda_ipc_tensor.h"

#include <errno.h>
#include <string.h>

#include "setting.h"

#define TENSOR_DIMS_PAIR 5u /* [2, blocks, block_tokens, heads, head_size] */
#define TENSOR_DIMS_ONE 3u /* [blocks, block_tokens, hidden] */
/* LMCache moves tokens in units of this many bytes and drops the rest. */
#define TENSOR_UNIT 8u

/** Shape and stride without the form; stride in bytes. */
struct tensor_view {
    uint32_t dims;
    uint64_t shape[TENSOR_DIMS_PAIR];
    uint64_t stride[TENSOR_DIMS_PAIR];
};

static int tensor_too_large(struct kvl_err *err)
{
    return kvl_fail(err, -EBADMSG, "cuda_ipc: the KV tensor does not lie inside its storage");
}

static int tensor_check_shape(const struct kvl_ipc_wrapper *wrapper, struct kvl_err *err)
{
    if (wrapper->dims != TENSOR_DIMS_PAIR && wrapper->dims != TENSOR_DIMS_ONE) {
        return kvl_fail(err, -ENOTSUP,
                        "cuda_ipc: a KV tensor of %u dimensions: [2, blocks, block_tokens, heads, "
                        "head_size] and [blocks, block_tokens, hidden] are known",
                        wrapper->dims);
    }
    if (wrapper->dims == TENSOR_DIMS_PAIR && wrapper->shape[0] != 2) {
        return kvl_fail(err, -ENOTSUP,
                        "cuda_ipc: a KV tensor whose first dimension is %lld: keys and values, 2, "
                        "are expected there",
                        (long long)wrapper->shape[0]);
    }
    for (uint32_t i = 0; i < wrapper->dims; i++) {
        if (wrapper->shape[i] <= 0) {
            return kvl_fail(err, -EBADMSG, "cuda_ipc: an empty KV tensor");
        }
    }
    return 0;
}

/*
 * A dimension of one element is never stepped over, so its stride may be anything: the one that a
 * contiguous tensor has is taken.
 */
static int tensor_view(const struct kvl_ipc_wrapper *wrapper, uint64_t item,
                       struct tensor_view *view_out)
{
    struct tensor_view view = {.dims = wrapper->dims};
    uint64_t next = item;

    for (uint32_t i = view.dims; i-- > 0;) {
        view.shape[i] = (uint64_t)wrapper->shape[i];
        view.stride[i] = next;
        if (wrapper->form == KVL_IPC_FORM_C && view.shape[i] > 1 &&
            __builtin_mul_overflow((uint64_t)wrapper->stride[i], item, &view.stride[i])) {
            return -EBADMSG;
        }
        if (__builtin_mul_overflow(next, view.shape[i], &next)) {
            return -EBADMSG;
        }
    }
    *view_out = view;
    return 0;
}

/* Bytes from the first element to behind the last one. */
static int tensor_extent(const struct tensor_view *view, uint64_t item, uint64_t *extent_out)
{
    uint64_t extent = item;

    for (uint32_t i = 0; i < view->dims; i++) {
        uint64_t step;

        if (__builtin_mul_overflow(view->shape[i] - 1, view->stride[i], &step) ||
            __builtin_add_overflow(extent, step, &extent)) {
            return -EBADMSG;
        }
    }
    *extent_out = extent;
    return 0;
}

/* The dimensions from `from` on as one run of bytes: a token must be in one piece. */
static int tensor_token_bytes(const struct tensor_view *view, uint32_t from, uint64_t item,
                              uint64_t *bytes_out, struct kvl_err *err)
{
    uint64_t bytes = item;

    for (uint32_t i = view->dims; i-- > from;) {
        if (view->shape[i] > 1 && view->stride[i] != bytes) {
            return kvl_fail(err, -ENOTSUP,
                            "cuda_ipc: the tokens of the KV tensor are not in one piece: heads "
                            "before tokens, or padding between them");
        }
        bytes *= view->shape[i];
    }
    if (bytes % TENSOR_UNIT != 0) {
        return kvl_fail(err, -ENOTSUP,
                        "cuda_ipc: tokens of %llu bytes: multiples of %u can be moved",
                        (unsigned long long)bytes, TENSOR_UNIT);
    }
    *bytes_out = bytes;
    return 0;
}

static int tensor_fill(const struct tensor_view *view, uint64_t item, uint64_t offset,
                       uint64_t storage, struct cuda_ipc_tensor *tensor_out, struct kvl_err *err)
{
    uint32_t at = view->dims == TENSOR_DIMS_PAIR ? 1 : 0; /* of the blocks */
    struct cuda_ipc_tensor tensor = {
        .planes = at + 1,
        .token_stride = view->stride[at + 1],
        .block_stride = view->stride[at],
        .plane_stride = at == 1 ? view->stride[0] : 0,
        .offset = offset,
    };
    int r;

    if (view->shape[at] >= KVL_BLOCK_SKIP || view->shape[at + 1] > UINT32_MAX) {
        return kvl_fail(err, -EMSGSIZE, "cuda_ipc: a KV tensor of %llu blocks of %llu tokens",
                        (unsigned long long)view->shape[at],
                        (unsigned long long)view->shape[at + 1]);
    }
    tensor.block_count = (uint32_t)view->shape[at];
    tensor.block_tokens = (uint32_t)view->shape[at + 1];
    if (tensor_extent(view, item, &tensor.extent) < 0 || offset > storage ||
        tensor.extent > storage - offset) {
        return tensor_too_large(err);
    }
    r = tensor_token_bytes(view, at + 2, item, &tensor.token_bytes, err);
    if (r < 0) {
        return r;
    }
    *tensor_out = tensor;
    return 0;
}

int cuda_ipc_tensor_read(const struct kvl_ipc_ops *ipc, const struct kvl_ipc_wrapper *wrapper,
                         struct cuda_ipc_tensor *tensor_out, struct kvl_err *err)
{
    uint64_t item = ipc->dtype_bytes(wrapper->dtype);
    struct tensor_view view;
    uint64_t offset = 0;
    int r = tensor_check_shape(wrapper, err);

    if (r < 0) {
        return r;
    }
    if (item == 0) {
        return kvl_fail(err, -EBADMSG, "cuda_ipc: a KV tensor of an unknown type");
    }
    if (tensor_view(wrapper, item, &view) < 0) {
        return tensor_too_large(err);
    }
    if (wrapper->form == KVL_IPC_FORM_C &&
        (wrapper->storage_offset < 0 ||
         __builtin_mul_overflow((uint64_t)wrapper->storage_offset, item, &offset))) {
        return tensor_too_large(err);
    }
    return tensor_fill(&view, item, offset, wrapper->storage_bytes, tensor_out, err);
}

int cuda_ipc_tensor_alike(const struct cuda_ipc_tensor *a, const struct cuda_ipc_tensor *b)
{
    struct cuda_ipc_tensor moved = *b;

    moved.offset = a->offset;
    return memcmp(a, &moved, sizeof(*a)) == 0;
}
