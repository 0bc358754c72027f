/* SPDX-License-Identifier: Apache-2.0 */
#include "ipc_text.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "ipc.h"

static void text_hex(FILE *out, const char *name, struct kvl_ipc_bytes bytes)
{
    const uint8_t *at = bytes.at;

    fputs(name, out);
    for (uint64_t i = 0; i < bytes.length; i++) {
        fprintf(out, "%02x", at[i]);
    }
}

static void text_int(FILE *out, const char *name, struct kvl_ipc_int number)
{
    if (number.negative) {
        fprintf(out, "%s%" PRId64, name, (int64_t)number.bits);
    } else {
        fprintf(out, "%s%" PRIu64, name, number.bits);
    }
}

static void text_ints(FILE *out, const char *name, uint32_t count, const int64_t *ints)
{
    fprintf(out, "%s(", name);
    for (uint32_t i = 0; i < count; i++) {
        fprintf(out, "%s%" PRId64, i > 0 ? "," : "", ints[i]);
    }
    fputs(")", out);
}

static void text_tokens(FILE *out, struct kvl_ipc_bytes tokens)
{
    struct kvl_ipc_value value = {.size = sizeof(value), .kind = KVL_IPC_INTS};

    (void)kvl_ipc_table.decode(NULL, tokens.at, tokens.length, &value, NULL);
    value.room = value.count;
    value.ints = calloc(value.room + 1, sizeof(*value.ints));
    if (value.ints != NULL &&
        kvl_ipc_table.decode(NULL, tokens.at, tokens.length, &value, NULL) == 0) {
        text_ints(out, " tokens=", value.count, value.ints);
    }
    free(value.ints);
}

static void text_key_later(FILE *out, const struct kvl_ipc_key *key)
{
    if ((key->flags & KVL_IPC_KEY_HAS_TOKENS) != 0) {
        text_tokens(out, key->token_ids);
    } else {
        fputs(" tokens=nil", out);
    }
    text_int(out, " start=", key->start);
    text_int(out, " end=", key->end);
    if ((key->flags & KVL_IPC_KEY_HAS_REQUEST) != 0) {
        text_hex(out, " request=", key->request_id);
    } else {
        fputs(" request=nil", out);
    }
}

void ipc_text_key(FILE *out, const struct kvl_ipc_key *key)
{
    text_hex(out, "key model=", key->model_name);
    text_int(out, " world=", key->world_size);
    if ((key->flags & KVL_IPC_KEY_HAS_WORKER) != 0) {
        text_int(out, " worker=", key->worker_id);
    } else {
        fputs(" worker=nil", out);
    }
    if ((key->flags & KVL_IPC_KEY_HAS_HASH) != 0) {
        text_hex(out, " hash=", key->chunk_hash);
    } else {
        fputs(" hash=nil", out);
    }
    if (key->generation >= KVL_IPC_GENERATION_B) {
        text_key_later(out, key);
    }
}

void ipc_text_wrapper(FILE *out, const struct kvl_ipc_wrapper *wrapper)
{
    const int is_null = (wrapper->flags & KVL_IPC_NULL_STORAGE) != 0;
    const int is_tuple = (wrapper->flags & KVL_IPC_SHAPE_TUPLE) != 0;

    fprintf(out, "wrapper device=%" PRId32, wrapper->device);
    text_hex(out, is_null ? " handle=none" : " handle=", wrapper->handle);
    fprintf(out, " bytes=%" PRIu64 " offset=%" PRIu64, wrapper->storage_bytes,
            wrapper->base_offset);
    text_hex(out, is_null ? " counter=none" : " counter=", wrapper->counter_name);
    fprintf(out, " slot=%" PRIu64, wrapper->counter_slot);
    text_hex(out, is_null ? " event=none" : " event=", wrapper->event);
    fprintf(out, " sync=%s dtype=%s",
            is_null                                      ? "none"
            : (wrapper->flags & KVL_IPC_EVENT_SYNC) != 0 ? "1"
                                                         : "0",
            kvl_ipc_table.dtype_name(wrapper->dtype));
    text_ints(out, is_tuple ? " shape=" : " shape=size", wrapper->dims, wrapper->shape);
    if (wrapper->form == KVL_IPC_FORM_C) {
        text_ints(out, " stride=", wrapper->dims, wrapper->stride);
        fprintf(out, " storage_offset=%" PRId64, wrapper->storage_offset);
    }
    if (wrapper->form != KVL_IPC_FORM_PRE_UUID) {
        text_hex(out, " uuid=", wrapper->device_uuid);
    }
}

static void text_bools(FILE *out, const struct kvl_ipc_value *value)
{
    fputs("(", out);
    for (uint32_t i = 0; i < value->count; i++) {
        fprintf(out, "%s%u", i > 0 ? "," : "", value->bools[i]);
    }
    fputs(")", out);
}

static void text_lists(FILE *out, const struct kvl_ipc_value *value)
{
    const int is_single = value->kind == KVL_IPC_KEY || value->kind == KVL_IPC_WRAPPER;
    const uint32_t count = is_single ? 1 : value->count;

    fprintf(out, "%s", is_single ? "" : "(");
    for (uint32_t i = 0; i < count; i++) {
        fprintf(out, "%s", i > 0 ? "," : "");
        if (value->kind == KVL_IPC_KEY || value->kind == KVL_IPC_KEYS) {
            ipc_text_key(out, &value->keys[i]);
        } else {
            ipc_text_wrapper(out, &value->wrappers[i]);
        }
    }
    fprintf(out, "%s", is_single ? "" : ")");
}

void ipc_text_value(FILE *out, const struct kvl_ipc_value *value)
{
    switch (value->kind) {
    case KVL_IPC_INT:
    case KVL_IPC_REQUEST:
        text_int(out, "", value->number);
        break;
    case KVL_IPC_INTS:
        text_ints(out, "", value->count, value->ints);
        break;
    case KVL_IPC_BOOL_OR_NIL:
        fprintf(out, "%s", value->truth < 0 ? "nil" : value->truth ? "1" : "0");
        break;
    case KVL_IPC_BOOLS:
        text_bools(out, value);
        break;
    case KVL_IPC_TEXT:
    case KVL_IPC_BYTES:
        text_hex(out, "x", value->bytes);
        break;
    case KVL_IPC_BYTES_BOOL:
        text_hex(out, "x", value->bytes);
        fprintf(out, ",%d", value->truth);
        break;
    case KVL_IPC_BYTES_BOOLS:
        text_hex(out, "x", value->bytes);
        fputs(",", out);
        text_bools(out, value);
        break;
    default:
        text_lists(out, value);
        break;
    }
}

uint8_t *ipc_text_bytes(const char *hex, size_t *length_out)
{
    const size_t length = strlen(hex) / 2;
    uint8_t *bytes = malloc(length > 0 ? length : 1);
    char pair[3] = {0};

    for (size_t i = 0; bytes != NULL && i < length; i++) {
        memcpy(pair, hex + 2 * i, 2);
        bytes[i] = (uint8_t)strtoul(pair, NULL, 16);
    }
    *length_out = length;
    return bytes;
}
