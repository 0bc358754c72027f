/* SPDX-License-Identifier: Apache-2.0 */
#include "ipc_rig.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ipc.h"
#include "ipc_text.h"

static const uint8_t rig_handle[66] = {1, 'c', 7};
static const uint8_t rig_event[64] = {9};
static const char rig_counter[] = "/torch_12345_987654321_0";
static const char rig_uuid[] = "d3b07384-d113-edec-49ea-a6238ad5ff00";

struct kvl_ipc_wrapper ipc_rig_wrapper(void)
{
    return (struct kvl_ipc_wrapper){
        .form = KVL_IPC_FORM_A,
        .flags = KVL_IPC_EVENT_SYNC,
        .dtype = KVL_IPC_DTYPE_FLOAT16,
        .handle = {rig_handle, sizeof(rig_handle)},
        .storage_bytes = 48,
        .counter_name = {rig_counter, sizeof(rig_counter) - 1},
        .counter_slot = 7,
        .event = {rig_event, sizeof(rig_event)},
        .device_uuid = {rig_uuid, sizeof(rig_uuid) - 1},
        .dims = 3,
        .shape = {2, 3, 4},
    };
}

struct kvl_ipc_key ipc_rig_key(void)
{
    return (struct kvl_ipc_key){
        .generation = KVL_IPC_GENERATION_A,
        .flags = KVL_IPC_KEY_HAS_WORKER | KVL_IPC_KEY_HAS_HASH,
        .model_name = {"m", 1},
        .world_size = kvl_ipc_int_of(2),
        .worker_id = kvl_ipc_int_of(1),
        .chunk_hash = {"\x01\x02\x03\x04", 4},
    };
}

struct kvl_err ipc_rig_err(void)
{
    return (struct kvl_err){.size = sizeof(struct kvl_err)};
}

static void rig_make_room(struct kvl_ipc_value *value, uint32_t room)
{
    /* one more, as calloc(0) may be NULL; what is beyond is poisoned by the sanitizer */
    value->room = room;
    switch (value->kind) {
    case KVL_IPC_INTS:
        value->ints = calloc(room + 1u, sizeof(*value->ints));
        break;
    case KVL_IPC_BOOLS:
    case KVL_IPC_BYTES_BOOLS:
        value->bools = calloc(room + 1u, sizeof(*value->bools));
        break;
    case KVL_IPC_KEY:
    case KVL_IPC_KEYS:
        value->keys = calloc(room + 1u, sizeof(*value->keys));
        break;
    case KVL_IPC_WRAPPER:
    case KVL_IPC_KV_CACHE:
        value->wrappers = calloc(room + 1u, sizeof(*value->wrappers));
        break;
    default:
        break;
    }
}

void ipc_rig_free(struct kvl_ipc_value *value)
{
    free(value->ints);
    free(value->bools);
    free(value->keys);
    free(value->wrappers);
    value->ints = NULL;
    value->bools = NULL;
    value->keys = NULL;
    value->wrappers = NULL;
}

int ipc_rig_decode(const struct kvl_ipc_options *options, uint32_t kind, const void *bytes,
                   size_t length, struct kvl_ipc_value *value_out, struct kvl_err *err)
{
    int r;

    *value_out = (struct kvl_ipc_value){.size = sizeof(*value_out), .kind = kind};
    rig_make_room(value_out, 0);
    r = kvl_ipc_table.decode(options, bytes, length, value_out, err);
    if (r == -ENOSPC) {
        const uint32_t count = value_out->count;

        assert_true(count <= length);
        ipc_rig_free(value_out);
        rig_make_room(value_out, count);
        r = kvl_ipc_table.decode(options, bytes, length, value_out, err);
        assert_int_not_equal(r, -ENOSPC);
        assert_true(r < 0 || value_out->count == count);
    }
    return r;
}

uint8_t *ipc_rig_encode(const struct kvl_ipc_options *options, const struct kvl_ipc_value *value,
                        size_t *length_out)
{
    struct kvl_err err = ipc_rig_err();
    size_t need = 0;
    uint8_t *bytes;

    assert_int_equal(kvl_ipc_table.encode(options, value, NULL, 0, &need, &err), -ENOSPC);
    bytes = malloc(need);
    assert_non_null(bytes);
    assert_int_equal(kvl_ipc_table.encode(options, value, bytes, need - 1, length_out, &err),
                     -ENOSPC);
    assert_int_equal(*length_out, need);
    assert_int_equal(kvl_ipc_table.encode(options, value, bytes, need, length_out, &err), 0);
    assert_int_equal(*length_out, need);
    return bytes;
}

static FILE *rig_open(char **text_out, size_t *length_out)
{
    FILE *out = open_memstream(text_out, length_out);

    assert_non_null(out);
    return out;
}

char *ipc_rig_text(const struct kvl_ipc_value *value)
{
    char *text;
    size_t length;
    FILE *out = rig_open(&text, &length);

    ipc_text_value(out, value);
    assert_int_equal(fclose(out), 0);
    return text;
}

char *ipc_rig_wrapper_text(const struct kvl_ipc_wrapper *wrapper)
{
    char *text;
    size_t length;
    FILE *out = rig_open(&text, &length);

    ipc_text_wrapper(out, wrapper);
    assert_int_equal(fclose(out), 0);
    return text;
}

static void rig_inside(struct kvl_ipc_bytes view, const void *bytes, size_t length)
{
    const uint8_t *from = bytes;
    const uint8_t *at = view.at;

    if (view.length > 0) {
        assert_true(at >= from && view.length <= length &&
                    (size_t)(at - from) <= length - view.length);
    }
}

void ipc_rig_wrapper_inside(const struct kvl_ipc_wrapper *wrapper, const void *bytes, size_t length)
{
    rig_inside(wrapper->handle, bytes, length);
    rig_inside(wrapper->counter_name, bytes, length);
    rig_inside(wrapper->event, bytes, length);
    rig_inside(wrapper->device_uuid, bytes, length);
    assert_true(wrapper->dims <= KVL_IPC_DIMS_MAX);
    assert_non_null(kvl_ipc_table.dtype_name(wrapper->dtype));
}

static void rig_key_inside(const struct kvl_ipc_key *key, const void *bytes, size_t length)
{
    rig_inside(key->model_name, bytes, length);
    rig_inside(key->chunk_hash, bytes, length);
    rig_inside(key->token_ids, bytes, length);
    rig_inside(key->request_id, bytes, length);
}

void ipc_rig_inside(const struct kvl_ipc_value *value, const void *bytes, size_t length)
{
    const uint32_t keys = value->kind == KVL_IPC_KEYS ? value->count : value->kind == KVL_IPC_KEY;
    const uint32_t wrappers =
        value->kind == KVL_IPC_KV_CACHE ? value->count : value->kind == KVL_IPC_WRAPPER;

    rig_inside(value->bytes, bytes, length);
    for (uint32_t i = 0; i < keys; i++) {
        rig_key_inside(&value->keys[i], bytes, length);
    }
    for (uint32_t i = 0; i < wrappers; i++) {
        ipc_rig_wrapper_inside(&value->wrappers[i], bytes, length);
    }
}

void ipc_rig_told(int r, const struct kvl_err *err)
{
    assert_true(r < 0);
    assert_int_equal(err->code, r);
    assert_non_null(strstr(err->text, "byte"));
    assert_null(strchr(err->text, '\n'));
}

uint64_t ipc_rig_random(uint64_t *state)
{
    uint64_t x = *state += 0x9e3779b97f4a7c15u;

    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}
