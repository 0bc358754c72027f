/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>

#include "ipc_names.h"
#include "ipc_wrapper.h"
#include "setting.h"

#define TAKE_HANDLE_ITEMS 8u
/* Items of the handle that are None when the storage has no memory. */
#define TAKE_NULLABLE 4u

struct take {
    const struct kvl_pickle_tree *tree;
    const struct kvl_pickle_node *object;
    size_t base;
    struct kvl_ipc_wrapper *wrapper;
    struct kvl_ipc_places *places;
    struct kvl_err *err;
};

static int take_bad(const struct take *t, const struct kvl_pickle_node *node, const char *what)
{
    return kvl_fail(t->err, -EBADMSG, "wrapper: %s at byte %zu", what, t->base + node->offset);
}

static void take_place(struct take *t, enum kvl_ipc_place place, const struct kvl_pickle_node *node)
{
    t->places->at[place] = t->base + node->offset;
}

static int take_missing(const struct take *t, const char *name)
{
    return kvl_fail(t->err, -EBADMSG, "wrapper: the object at byte %zu has no '%s'",
                    t->base + t->object->offset, name);
}

static int take_i64(const struct kvl_pickle_node *node, int64_t *value_out)
{
    if (node->kind != KVL_PICKLE_INT || (!node->negative && node->bits > INT64_MAX)) {
        return -EBADMSG;
    }
    *value_out = (int64_t)node->bits;
    return 0;
}

static int take_u64(const struct kvl_pickle_node *node, uint64_t *value_out)
{
    if (node->kind != KVL_PICKLE_INT || node->negative) {
        return -EBADMSG;
    }
    *value_out = node->bits;
    return 0;
}

static int take_bytes(const struct kvl_pickle_node *node, struct kvl_ipc_bytes *bytes_out)
{
    if (node->kind != KVL_PICKLE_BYTES) {
        return -EBADMSG;
    }
    *bytes_out = (struct kvl_ipc_bytes){node->at, node->length};
    return 0;
}

/* ---- the handle ---- */

static int take_device(struct take *t, const struct kvl_pickle_node *node)
{
    int64_t device;

    if (take_i64(node, &device) < 0 || device < INT32_MIN || device > INT32_MAX) {
        return take_bad(t, node, "a device index that is no int of 32 bits");
    }
    t->wrapper->device = (int32_t)device;
    return 0;
}

static int take_sizes(struct take *t, const struct kvl_pickle_node *bytes,
                      const struct kvl_pickle_node *offset, const struct kvl_pickle_node *slot)
{
    if (take_u64(bytes, &t->wrapper->storage_bytes) < 0) {
        return take_bad(t, bytes, "a storage size that is no int from 0 to 2^64-1");
    }
    if (take_u64(offset, &t->wrapper->base_offset) < 0) {
        return take_bad(t, offset, "an offset that is no int from 0 to 2^64-1");
    }
    if (take_u64(slot, &t->wrapper->counter_slot) < 0) {
        return take_bad(t, slot, "a counter slot that is no int from 0 to 2^64-1");
    }
    return 0;
}

static int take_present(struct take *t, const struct kvl_pickle_node *const *items)
{
    if (take_bytes(items[1], &t->wrapper->handle) < 0) {
        return take_bad(t, items[1], "handle bytes that are no bytes");
    }
    if (take_bytes(items[4], &t->wrapper->counter_name) < 0) {
        return take_bad(t, items[4], "a counter name that is no bytes");
    }
    if (take_bytes(items[6], &t->wrapper->event) < 0) {
        return take_bad(t, items[6], "an event handle that is no bytes");
    }
    if (items[7]->kind != KVL_PICKLE_BOOL) {
        return take_bad(t, items[7], "an event flag that is no bool");
    }
    t->wrapper->flags |= items[7]->bits ? KVL_IPC_EVENT_SYNC : 0;
    return 0;
}

static int take_handle(struct take *t)
{
    static const uint8_t nullable[TAKE_NULLABLE] = {1, 4, 6, 7};
    const struct kvl_pickle_node *tuple = kvl_pickle_attr(t->tree, t->object, "handle");
    const struct kvl_pickle_node *items[TAKE_HANDLE_ITEMS];
    uint32_t none = 0;
    int r;

    if (tuple == NULL) {
        return take_missing(t, "handle");
    }
    take_place(t, KVL_IPC_AT_TUPLE, tuple);
    if (tuple->kind != KVL_PICKLE_TUPLE || tuple->length != TAKE_HANDLE_ITEMS) {
        return take_bad(t, tuple, "a handle that is no tuple of 8");
    }
    for (uint32_t i = 0; i < TAKE_HANDLE_ITEMS; i++) {
        items[i] = kvl_pickle_item(t->tree, tuple, i);
        take_place(t, (enum kvl_ipc_place)(KVL_IPC_AT_DEVICE + i), items[i]);
    }
    for (uint32_t i = 0; i < TAKE_NULLABLE; i++) {
        none += items[nullable[i]]->kind == KVL_PICKLE_NONE;
    }
    r = take_device(t, items[0]);
    if (r == 0) {
        r = take_sizes(t, items[2], items[3], items[5]);
    }
    if (r < 0) {
        return r;
    }
    if (none == TAKE_NULLABLE) {
        t->wrapper->flags |= KVL_IPC_NULL_STORAGE;
        return 0;
    }
    return none > 0 ? take_bad(t, tuple, "a handle with None and values mixed")
                    : take_present(t, items);
}

/* ---- the tensor ---- */

static int take_dtype(struct take *t)
{
    const struct kvl_pickle_node *dtype = kvl_pickle_attr(t->tree, t->object, "dtype");

    if (dtype == NULL) {
        return take_missing(t, "dtype");
    }
    take_place(t, KVL_IPC_AT_DTYPE, dtype);
    if (dtype->kind != KVL_PICKLE_DTYPE) {
        return take_bad(t, dtype, "a dtype that is no torch.dtype");
    }
    t->wrapper->dtype = (uint32_t)dtype->bits;
    return 0;
}

/* The ints of a shape or stride. */
static int take_dims(struct take *t, const struct kvl_pickle_node *node, int64_t *dims_out)
{
    if (node->length > KVL_IPC_DIMS_MAX) {
        return kvl_fail(t->err, -EMSGSIZE, "wrapper: %u dimensions at byte %zu, the limit is %u",
                        node->length, t->base + node->offset, KVL_IPC_DIMS_MAX);
    }
    for (uint32_t i = 0; i < node->length; i++) {
        const struct kvl_pickle_node *dim = kvl_pickle_item(t->tree, node, i);

        if (take_i64(dim, &dims_out[i]) < 0) {
            return take_bad(t, dim, "a dimension that is no int of 64 bits");
        }
    }
    return 0;
}

static int take_shape(struct take *t)
{
    const struct kvl_pickle_node *shape = kvl_pickle_attr(t->tree, t->object, "shape");

    if (shape == NULL) {
        return take_missing(t, "shape");
    }
    take_place(t, KVL_IPC_AT_SHAPE, shape);
    if (shape->kind != KVL_PICKLE_SIZE && shape->kind != KVL_PICKLE_TUPLE) {
        return take_bad(t, shape, "a shape that is no torch.Size and no tuple");
    }
    t->wrapper->flags |= shape->kind == KVL_PICKLE_TUPLE ? KVL_IPC_SHAPE_TUPLE : 0;
    t->wrapper->dims = shape->length;
    return take_dims(t, shape, t->wrapper->shape);
}

static int take_stride(struct take *t)
{
    const struct kvl_pickle_node *stride = kvl_pickle_attr(t->tree, t->object, "stride");
    const struct kvl_pickle_node *offset = kvl_pickle_attr(t->tree, t->object, "storage_offset");

    if (stride == NULL && offset == NULL) {
        return 0;
    }
    if (stride == NULL || offset == NULL) {
        return take_missing(t, stride == NULL ? "stride" : "storage_offset");
    }
    take_place(t, KVL_IPC_AT_STRIDE, stride);
    take_place(t, KVL_IPC_AT_STORAGE_OFFSET, offset);
    if (stride->kind != KVL_PICKLE_TUPLE || stride->length != t->wrapper->dims) {
        return take_bad(t, stride, "a stride that is no tuple of as many ints as the shape");
    }
    if (take_i64(offset, &t->wrapper->storage_offset) < 0) {
        return take_bad(t, offset, "a storage offset that is no int of 64 bits");
    }
    t->wrapper->form = KVL_IPC_FORM_C;
    return take_dims(t, stride, t->wrapper->stride);
}

static int take_uuid(struct take *t, uint32_t forms)
{
    const struct kvl_pickle_node *uuid = kvl_pickle_attr(t->tree, t->object, "device_uuid");
    const int may_lack = (forms & KVL_IPC_FORM_BIT(KVL_IPC_FORM_PRE_UUID)) != 0 &&
                         t->wrapper->form == KVL_IPC_FORM_A;

    if (uuid == NULL && may_lack) {
        t->wrapper->form = KVL_IPC_FORM_PRE_UUID;
        return 0;
    }
    if (uuid == NULL) {
        return take_missing(t, "device_uuid");
    }
    take_place(t, KVL_IPC_AT_UUID, uuid);
    if (uuid->kind != KVL_PICKLE_TEXT) {
        return take_bad(t, uuid, "a device_uuid that is no str");
    }
    t->wrapper->device_uuid = (struct kvl_ipc_bytes){uuid->at, uuid->length};
    return 0;
}

int kvl_ipc_wrapper_take(const struct kvl_pickle_tree *tree, uint32_t forms, size_t base,
                         struct kvl_ipc_wrapper *wrapper_out, struct kvl_ipc_places *places_out,
                         struct kvl_err *err)
{
    struct kvl_ipc_wrapper wrapper = {.form = KVL_IPC_FORM_A};
    struct take t = {tree, &tree->nodes[tree->root], base, &wrapper, places_out, err};
    int r;

    take_place(&t, KVL_IPC_AT_WRAPPER, t.object);
    if (t.object->kind != KVL_PICKLE_OBJECT) {
        return take_bad(&t, t.object, "an object that is no " KVL_IPC_WRAPPER_CLASS);
    }
    r = take_handle(&t);
    if (r == 0) {
        r = take_dtype(&t);
    }
    if (r == 0) {
        r = take_shape(&t);
    }
    if (r == 0) {
        r = take_stride(&t);
    }
    if (r == 0) {
        r = take_uuid(&t, forms);
    }
    if (r == 0 && (forms & KVL_IPC_FORM_BIT(wrapper.form)) == 0) {
        r = take_bad(&t, t.object, "a form of " KVL_IPC_WRAPPER_CLASS " that is not taken");
    }
    if (r == 0) {
        *wrapper_out = wrapper;
    }
    return r;
}
