/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "ipc_names.h"
#include "ipc_pickle.h"
#include "ipc_wrapper.h"

static void put_name(struct kvl_pickle_out *out, const char *name)
{
    kvl_pickle_put_text(out, (struct kvl_ipc_bytes){name, strlen(name)});
}

static void put_ints(struct kvl_pickle_out *out, uint32_t count, const int64_t *ints)
{
    if (count == 0) {
        kvl_pickle_put_empty_tuple(out);
        return;
    }
    kvl_pickle_open_tuple(out, count);
    for (uint32_t i = 0; i < count; i++) {
        kvl_pickle_put_i64(out, ints[i]);
    }
    kvl_pickle_close_tuple(out, count);
}

/* torch.Size((..)): a call with one argument. */
static void put_size(struct kvl_pickle_out *out, uint32_t count, const int64_t *ints)
{
    kvl_pickle_put_object(out);
    kvl_pickle_put_global(out, KVL_IPC_TORCH_MODULE, KVL_IPC_TORCH_SIZE);
    kvl_pickle_open_tuple(out, 1);
    put_ints(out, count, ints);
    kvl_pickle_close_tuple(out, 1);
    kvl_pickle_put_op(out, KVL_PICKLE_OP_REDUCE);
    kvl_pickle_put_memoize(out);
}

static void put_bytes_or_none(struct kvl_pickle_out *out, int is_none, struct kvl_ipc_bytes bytes)
{
    if (is_none) {
        kvl_pickle_put_none(out);
    } else {
        kvl_pickle_put_bytes(out, bytes);
    }
}

static void put_handle(struct kvl_pickle_out *out, const struct kvl_ipc_wrapper *wrapper)
{
    const int is_null = (wrapper->flags & KVL_IPC_NULL_STORAGE) != 0;

    kvl_pickle_open_tuple(out, 8);
    kvl_pickle_put_i64(out, wrapper->device);
    put_bytes_or_none(out, is_null, wrapper->handle);
    kvl_pickle_put_u64(out, wrapper->storage_bytes);
    kvl_pickle_put_u64(out, wrapper->base_offset);
    put_bytes_or_none(out, is_null, wrapper->counter_name);
    kvl_pickle_put_u64(out, wrapper->counter_slot);
    put_bytes_or_none(out, is_null, wrapper->event);
    if (is_null) {
        kvl_pickle_put_none(out);
    } else {
        kvl_pickle_put_bool(out, (wrapper->flags & KVL_IPC_EVENT_SYNC) != 0);
    }
    kvl_pickle_close_tuple(out, 8);
}

/* In the order in which the Python class assigns them. */
static void put_attributes(struct kvl_pickle_out *out, const struct kvl_ipc_wrapper *wrapper)
{
    put_name(out, "handle");
    put_handle(out, wrapper);
    put_name(out, "dtype");
    kvl_pickle_put_global(out, KVL_IPC_TORCH_MODULE, kvl_ipc_dtype_name(wrapper->dtype));
    put_name(out, "shape");
    if ((wrapper->flags & KVL_IPC_SHAPE_TUPLE) != 0) {
        put_ints(out, wrapper->dims, wrapper->shape);
    } else {
        put_size(out, wrapper->dims, wrapper->shape);
    }
    if (wrapper->form == KVL_IPC_FORM_C) {
        put_name(out, "stride");
        put_ints(out, wrapper->dims, wrapper->stride);
        put_name(out, "storage_offset");
        kvl_pickle_put_i64(out, wrapper->storage_offset);
    }
    if (wrapper->form != KVL_IPC_FORM_PRE_UUID) {
        put_name(out, "device_uuid");
        kvl_pickle_put_text(out, wrapper->device_uuid);
    }
}

int kvl_ipc_wrapper_put(const struct kvl_ipc_wrapper *wrapper, uint32_t protocol, void *bytes_out,
                        size_t room, size_t *length_out)
{
    struct kvl_pickle_out out;
    int r;

    kvl_pickle_begin(&out, bytes_out, room, protocol);
    kvl_pickle_put_object(&out);
    kvl_pickle_put_global(&out, KVL_IPC_WRAPPER_MODULE, KVL_IPC_WRAPPER_CLASS);
    kvl_pickle_put_empty_tuple(&out);
    kvl_pickle_put_op(&out, KVL_PICKLE_OP_NEWOBJ);
    kvl_pickle_put_memoize(&out);
    kvl_pickle_put_object(&out);
    kvl_pickle_put_op(&out, KVL_PICKLE_OP_EMPTY_DICT);
    kvl_pickle_put_memoize(&out);
    kvl_pickle_put_op(&out, KVL_PICKLE_OP_MARK);
    put_attributes(&out, wrapper);
    kvl_pickle_put_op(&out, KVL_PICKLE_OP_SETITEMS);
    kvl_pickle_put_op(&out, KVL_PICKLE_OP_BUILD);
    r = kvl_pickle_end(&out);
    *length_out = out.length;
    return r;
}
