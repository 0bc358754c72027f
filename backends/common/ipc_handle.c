/* SPDX-License-Identifier: Apache-2.0 */
#include "ipc_handle.h"

#include <errno.h>

#include "cursor.h"

#define HANDLE_BYTES 64u /* of a cudaIpcMemHandle_t and of a CUmemFabricHandle */
#define HANDLE_MALLOC_LENGTH (2u + HANDLE_BYTES)
#define HANDLE_FD_BYTES 4u

static int handle_bad(const char **why_out, const char *why)
{
    *why_out = why;
    return -EBADMSG;
}

/* The image of a struct of torch: its padding holds whatever was there. */
static int handle_read_segments(struct kvl_ipc_bytes bytes, struct kvl_ipc_handle *handle,
                                const char **why_out)
{
    struct kvl_cursor in;

    kvl_cursor_init(&in, bytes.at, (size_t)bytes.length);
    (void)kvl_cursor_get_bytes(&in, 2); /* version, letter */
    handle->pid = kvl_cursor_get_i32le(&in);
    (void)kvl_cursor_get_bytes(&in, 4); /* padding */
    handle->segment_bytes = kvl_cursor_get_u64le(&in);
    handle->count = kvl_cursor_get_u64le(&in);
    if (kvl_cursor_failed(&in)) {
        return handle_bad(why_out, "the handle of an expandable segment is cut off");
    }
    if (handle->count == 0 || handle->segment_bytes == 0) {
        return handle_bad(why_out, "the handle of an expandable segment is empty");
    }
    /* which of the two it is nothing says but its length */
    handle->items.length = kvl_cursor_left(&in);
    handle->items.at = kvl_cursor_get_bytes(&in, kvl_cursor_left(&in));
    if (handle->items.length % handle->count != 0) {
        return handle_bad(why_out, "the handle of an expandable segment has another length");
    }
    handle->item_bytes = (uint32_t)(handle->items.length / handle->count);
    if (handle->item_bytes != HANDLE_FD_BYTES && handle->item_bytes != HANDLE_BYTES) {
        return handle_bad(why_out, "the handle of an expandable segment has another length");
    }
    handle->kind =
        handle->item_bytes == HANDLE_FD_BYTES ? KVL_IPC_HANDLE_FDS : KVL_IPC_HANDLE_FABRIC;
    return 0;
}

int kvl_ipc_handle_read(struct kvl_ipc_bytes bytes, struct kvl_ipc_handle *handle_out,
                        const char **why_out)
{
    const uint8_t *at = bytes.at;
    struct kvl_ipc_handle handle = {.item_bytes = HANDLE_BYTES, .count = 1};
    int r = 0;

    if (bytes.length == HANDLE_BYTES) {
        handle.kind = KVL_IPC_HANDLE_RAW;
        handle.items = bytes;
        *handle_out = handle;
        return 0;
    }
    if (bytes.length < 2 || at[0] < 1 || at[0] > 2) {
        return handle_bad(why_out, "the handle has neither 64 bytes nor version 1 or 2");
    }
    handle.version = at[0];
    if (at[1] == 'e') { /* before the length: it may be that of the other */
        r = handle_read_segments(bytes, &handle, why_out);
    } else if (at[1] == 'c' && bytes.length == HANDLE_MALLOC_LENGTH) {
        handle.kind = KVL_IPC_HANDLE_MALLOC;
        handle.items = (struct kvl_ipc_bytes){at + 2, HANDLE_BYTES};
    } else {
        r = handle_bad(why_out, "the handle is of an unknown type, or of another length");
    }
    if (r == 0) {
        *handle_out = handle;
    }
    return r;
}

uint64_t kvl_ipc_handle_mapped(const struct kvl_ipc_handle *handle)
{
    uint64_t bytes;

    return __builtin_mul_overflow(handle->count, handle->segment_bytes, &bytes) ? 0 : bytes;
}

int32_t kvl_ipc_handle_fd(const struct kvl_ipc_handle *handle, uint64_t index)
{
    struct kvl_cursor in;

    if (handle->kind != KVL_IPC_HANDLE_FDS || index >= handle->count) {
        return -1;
    }
    kvl_cursor_init(&in, handle->items.at, (size_t)handle->items.length);
    (void)kvl_cursor_get_bytes(&in, (size_t)index * HANDLE_FD_BYTES);
    return kvl_cursor_get_i32le(&in);
}
