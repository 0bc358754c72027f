/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as the handle of a wrapper, behind the offset of the storage in it. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ipc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int ok)
{
    if (!ok) {
        abort();
    }
}

/* The parts make up the whole again. */
static void check_parts(const struct kvl_ipc_handle *handle, struct kvl_ipc_bytes bytes)
{
    const uint8_t *end = (const uint8_t *)bytes.at + bytes.length;
    const uint8_t *at = handle->items.at;

    check(handle->count > 0 && handle->items.length % handle->count == 0 &&
          handle->items.length / handle->count == handle->item_bytes);
    check(at + handle->items.length == end && at >= (const uint8_t *)bytes.at);
    switch (handle->kind) {
    case KVL_IPC_HANDLE_RAW:
        check(handle->version == 0 && bytes.length == 64 && handle->segment_bytes == 0);
        break;
    case KVL_IPC_HANDLE_MALLOC:
        check(handle->version >= 1 && bytes.length == 66 && handle->segment_bytes == 0);
        break;
    default:
        check(handle->version >= 1 && bytes.length == 26 + handle->items.length &&
              handle->segment_bytes > 0);
        break;
    }
    (void)kvl_ipc_table.handle_fd(handle, handle->count - 1);
    check(kvl_ipc_table.handle_fd(handle, handle->count) == -1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t event[64];
    struct kvl_ipc_wrapper wrapper = {
        .form = KVL_IPC_FORM_A,
        .dtype = KVL_IPC_DTYPE_UINT8,
        .counter_name = {"/torch_1_2_3", 12},
        .event = {event, sizeof(event)},
        .storage_bytes = 1,
    };
    struct kvl_ipc_handle handle;
    uint64_t room;
    int r;

    if (size < sizeof(wrapper.base_offset)) {
        return 0;
    }
    memcpy(&wrapper.base_offset, data, sizeof(wrapper.base_offset));
    wrapper.handle = (struct kvl_ipc_bytes){data + sizeof(wrapper.base_offset),
                                            size - sizeof(wrapper.base_offset)};
    r = kvl_ipc_table.handle_parse(&wrapper, &handle, NULL);
    if (r < 0) {
        check(r == -EBADMSG && kvl_ipc_table.wrapper_check(NULL, &wrapper, NULL) == -EBADMSG);
        return 0;
    }
    check_parts(&handle, wrapper.handle);
    r = kvl_ipc_table.wrapper_check(NULL, &wrapper, NULL);
    if (handle.segment_bytes == 0) {
        check(r == (wrapper.base_offset == UINT64_MAX ? -EBADMSG : 0));
    } else if (!__builtin_mul_overflow(handle.segment_bytes, handle.count, &room)) {
        check(r == (wrapper.base_offset < room ? 0 : -EBADMSG));
    } else {
        check(r == -EBADMSG);
    }
    return 0;
}
