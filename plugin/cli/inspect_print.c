/* SPDX-License-Identifier: Apache-2.0 */
#include "inspect.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util.h"

/* What is shown of longer byte strings. */
#define SHOWN_BYTES 64u

static void print_name(const char *name)
{
    printf("  %-15s ", name);
}

/* Controls, also the two-byte ones of UTF-8, would reach the terminal. */
static void print_text(const char *name, struct kvl_ipc_bytes text)
{
    const uint8_t *at = text.at;

    print_name(name);
    for (uint64_t i = 0; i < text.length; i++) {
        const int is_c1 = at[i] == 0xc2 && i + 1 < text.length && at[i + 1] < 0xa0;

        if (is_c1) {
            printf("\\xc2\\x%02x", at[++i]);
        } else if (at[i] < 0x20 || at[i] == 0x7f) {
            printf("\\x%02x", at[i]);
        } else {
            (void)putchar(at[i]);
        }
    }
    printf("\n");
}

static void print_hex(struct kvl_ipc_bytes bytes)
{
    const uint8_t *at = bytes.at;
    const uint64_t shown = bytes.length < SHOWN_BYTES ? bytes.length : SHOWN_BYTES;

    for (uint64_t i = 0; i < shown; i++) {
        printf("%02x", at[i]);
    }
    printf("%s (%" PRIu64 " bytes)\n", shown < bytes.length ? ".." : "", bytes.length);
}

static void print_int(const char *name, struct kvl_ipc_int number)
{
    print_name(name);
    if (number.negative) {
        printf("%" PRId64 "\n", (int64_t)number.bits);
    } else {
        printf("%" PRIu64 "\n", number.bits);
    }
}

static void print_dims(const char *name, uint32_t count, const int64_t *dims)
{
    print_name(name);
    printf("(");
    for (uint32_t i = 0; i < count; i++) {
        printf("%s%" PRId64, i > 0 ? ", " : "", dims[i]);
    }
    printf(")\n");
}

/* ---- keys ---- */

static void print_tokens(const struct kvl_ipc_ops *ipc, struct kvl_ipc_bytes tokens)
{
    struct kvl_ipc_value list = {.size = sizeof(list), .kind = KVL_IPC_INTS};

    /* only its length: without room it is asked for */
    (void)ipc->decode(NULL, tokens.at, (size_t)tokens.length, &list, NULL);
    print_name("token_ids");
    printf("%" PRIu32 " tokens\n", list.count);
}

static void print_key_later(const struct kvl_ipc_ops *ipc, const struct kvl_ipc_key *key)
{
    if ((key->flags & KVL_IPC_KEY_HAS_TOKENS) != 0) {
        print_tokens(ipc, key->token_ids);
    }
    print_int("start", key->start);
    print_int("end", key->end);
    if ((key->flags & KVL_IPC_KEY_HAS_REQUEST) != 0) {
        print_text("request_id", key->request_id);
    }
}

void inspect_print_key(const struct kvl_ipc_ops *ipc, const struct kvl_ipc_key *key)
{
    print_text("model_name", key->model_name);
    print_int("world_size", key->world_size);
    if ((key->flags & KVL_IPC_KEY_HAS_WORKER) != 0) {
        print_int("worker_id", key->worker_id);
    } else {
        print_name("worker_id");
        printf("none: all workers\n");
    }
    if ((key->flags & KVL_IPC_KEY_HAS_HASH) != 0) {
        print_name("chunk_hash");
        print_hex(key->chunk_hash);
    }
    if (key->generation >= KVL_IPC_GENERATION_B) {
        print_key_later(ipc, key);
    }
}

/* ---- wrappers ---- */

static void print_segments(const struct kvl_ipc_handle *handle)
{
    char text[32];

    printf("expandable segment of process %" PRId32 ": %" PRIu64 " %s of %s (version %" PRIu32
           ")\n",
           handle->pid, handle->count,
           handle->kind == KVL_IPC_HANDLE_FDS ? "descriptors" : "fabric handles",
           util_bytes_text(handle->segment_bytes, text, sizeof(text)), handle->version);
}

static void print_handle(const struct kvl_ipc_ops *ipc, const struct kvl_ipc_wrapper *wrapper)
{
    struct kvl_ipc_handle handle;

    print_name("handle");
    if (ipc->handle_parse(wrapper, &handle, NULL) < 0) {
        printf("none: a storage without memory\n");
    } else if (handle.kind == KVL_IPC_HANDLE_RAW) {
        printf("raw ");
        print_hex(handle.items);
    } else if (handle.kind == KVL_IPC_HANDLE_MALLOC) {
        printf("cudaMalloc block, version %" PRIu32 ", ", handle.version);
        print_hex(handle.items);
    } else {
        print_segments(&handle);
    }
}

static void print_tensor(const struct kvl_ipc_ops *ipc, const struct kvl_ipc_wrapper *wrapper)
{
    print_name("dtype");
    printf("%s\n", ipc->dtype_name(wrapper->dtype));
    print_dims("shape", wrapper->dims, wrapper->shape);
    if (wrapper->form == KVL_IPC_FORM_C) {
        print_dims("stride", wrapper->dims, wrapper->stride);
        print_name("storage_offset");
        printf("%" PRId64 " elements\n", wrapper->storage_offset);
    }
}

static void print_bytes(const char *name, uint64_t bytes)
{
    char text[32];

    print_name(name);
    printf("%" PRIu64 " (%s)\n", bytes, util_bytes_text(bytes, text, sizeof(text)));
}

void inspect_print_wrapper(const struct kvl_ipc_ops *ipc, const struct kvl_ipc_wrapper *wrapper)
{
    print_tensor(ipc, wrapper);
    if (wrapper->form != KVL_IPC_FORM_PRE_UUID) {
        print_text("device_uuid", wrapper->device_uuid);
    }
    print_name("device");
    printf("%" PRId32 " at the producer\n", wrapper->device);
    print_bytes("storage_bytes", wrapper->storage_bytes);
    print_bytes("base_offset", wrapper->base_offset);
    print_handle(ipc, wrapper);
    if ((wrapper->flags & KVL_IPC_NULL_STORAGE) != 0) {
        return;
    }
    print_text("counter", wrapper->counter_name);
    print_name("counter_slot");
    printf("%" PRIu64 "\n", wrapper->counter_slot);
    print_name("event");
    if ((wrapper->flags & KVL_IPC_EVENT_SYNC) != 0) {
        print_hex(wrapper->event);
    } else {
        printf("none to wait for\n");
    }
}
