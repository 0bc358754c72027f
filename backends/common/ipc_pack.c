/* SPDX-License-Identifier: Apache-2.0 */
#include "ipc_pack.h"

#include <errno.h>
#include <string.h>

#include "ipc_key.h"
#include "ipc_wrapper.h"
#include "pack.h"
#include "setting.h"

struct to_pack {
    struct kvl_pack_out out;
    const struct kvl_ipc_options *options;
    const struct kvl_ipc_value *value;
    struct kvl_err *err;
};

static int pack_text(struct to_pack *p, struct kvl_ipc_bytes text, const char *what)
{
    if (text.length > p->options->input_max || !kvl_pack_is_utf8(text.at, (size_t)text.length)) {
        return kvl_fail(p->err, -EINVAL, "frame: %s is too long, or not UTF-8", what);
    }
    kvl_pack_put_text(&p->out, text.at, (uint32_t)text.length);
    return 0;
}

static int pack_bytes(struct to_pack *p, struct kvl_ipc_bytes bytes, const char *what)
{
    if (bytes.length > p->options->input_max) {
        return kvl_fail(p->err, -EINVAL, "frame: %s is too long", what);
    }
    kvl_pack_put_bytes(&p->out, bytes.at, (uint32_t)bytes.length);
    return 0;
}

static int pack_int(struct to_pack *p, struct kvl_ipc_int number)
{
    kvl_pack_put_int(&p->out, number.bits, number.negative != 0);
    return 0;
}

/* ---- keys ---- */

/* The engine's list of ints, each in its smallest form. */
static int pack_tokens(struct to_pack *p, struct kvl_ipc_bytes list)
{
    struct kvl_pack in;
    uint64_t bits;
    uint32_t count;
    int negative;
    int r;

    kvl_pack_init(&in, list.at, (size_t)list.length);
    r = kvl_pack_read_array(&in, &count);
    if (r == 0) {
        kvl_pack_put_array(&p->out, count);
    }
    for (uint32_t i = 0; r == 0 && i < count; i++) {
        r = kvl_pack_read_int(&in, &bits, &negative);
        if (r == 0) {
            kvl_pack_put_int(&p->out, bits, negative);
        }
    }
    if (r < 0 || kvl_pack_left(&in) > 0) {
        return kvl_fail(p->err, -EINVAL, "frame: token_ids is no list of ints");
    }
    return 0;
}

static int pack_field(struct to_pack *p, const struct kvl_ipc_key *key, uint8_t field)
{
    const char *name = kvl_ipc_field_name(field);

    switch (field) {
    case KVL_IPC_FIELD_MODEL:
        return pack_text(p, key->model_name, name);
    case KVL_IPC_FIELD_WORLD:
        return pack_int(p, key->world_size);
    case KVL_IPC_FIELD_WORKER:
        return pack_int(p, key->worker_id);
    case KVL_IPC_FIELD_HASH:
        return pack_bytes(p, key->chunk_hash, name);
    case KVL_IPC_FIELD_TOKENS:
        return pack_tokens(p, key->token_ids);
    case KVL_IPC_FIELD_START:
        return pack_int(p, key->start);
    case KVL_IPC_FIELD_END:
        return pack_int(p, key->end);
    default:
        return pack_text(p, key->request_id, name);
    }
}

static int pack_key(struct to_pack *p, const struct kvl_ipc_key *key)
{
    const struct kvl_ipc_key_form *form = kvl_ipc_key_form(p->options->generation);
    int r = 0;

    if (key->generation != p->options->generation) {
        return kvl_fail(p->err, -EINVAL, "frame: a key of another generation");
    }
    kvl_pack_put_map(&p->out, form->count);
    for (uint32_t i = 0; i < form->count && r == 0; i++) {
        const struct kvl_ipc_key_field *field = &form->fields[i];
        const char *name = kvl_ipc_field_name(field->id);

        kvl_pack_put_text(&p->out, name, (uint32_t)strlen(name));
        if (kvl_ipc_key_has(key, field)) {
            r = pack_field(p, key, field->id);
        } else if (field->may_be_nil) {
            kvl_pack_put_nil(&p->out);
        } else {
            r = kvl_fail(p->err, -EINVAL, "frame: a key of that generation without '%s'", name);
        }
    }
    return r;
}

/* ---- wrappers ---- */

static int pack_wrapper(struct to_pack *p, const struct kvl_ipc_wrapper *wrapper)
{
    struct kvl_pack_out *out = &p->out;
    const uint32_t protocol = p->options->protocol;
    size_t length;
    size_t room;
    int r = kvl_ipc_wrapper_ready(p->options, wrapper, p->err);

    if (r < 0) {
        return r;
    }
    /* the length goes first; both runs are short, a handle of many bytes is copied once */
    (void)kvl_ipc_wrapper_put(wrapper, protocol, NULL, 0, &length);
    kvl_pack_put_ext_head(out, KVL_IPC_EXT_WRAPPER, (uint32_t)length);
    room = out->length < out->room ? out->room - out->length : 0;
    (void)kvl_ipc_wrapper_put(wrapper, protocol, room > 0 ? out->at + out->length : NULL, room,
                              &length);
    out->length += length;
    return 0;
}

/* ---- kinds of values ---- */

static int pack_kind_int(struct to_pack *p)
{
    return pack_int(p, p->value->number);
}

static int pack_kind_ints(struct to_pack *p)
{
    kvl_pack_put_array(&p->out, p->value->count);
    for (uint32_t i = 0; i < p->value->count; i++) {
        kvl_pack_put_i64(&p->out, p->value->ints[i]);
    }
    return 0;
}

static int pack_kind_bool_or_nil(struct to_pack *p)
{
    if (p->value->truth < 0) {
        kvl_pack_put_nil(&p->out);
    } else {
        kvl_pack_put_bool(&p->out, p->value->truth);
    }
    return 0;
}

static int pack_kind_bools(struct to_pack *p)
{
    kvl_pack_put_array(&p->out, p->value->count);
    for (uint32_t i = 0; i < p->value->count; i++) {
        kvl_pack_put_bool(&p->out, p->value->bools[i]);
    }
    return 0;
}

static int pack_kind_text(struct to_pack *p)
{
    return pack_text(p, p->value->bytes, "the text");
}

static int pack_kind_bytes(struct to_pack *p)
{
    return pack_bytes(p, p->value->bytes, "the value");
}

static int pack_kind_bytes_bool(struct to_pack *p)
{
    int r;

    kvl_pack_put_array(&p->out, 2);
    r = pack_kind_bytes(p);
    kvl_pack_put_bool(&p->out, p->value->truth > 0);
    return r;
}

static int pack_kind_bytes_bools(struct to_pack *p)
{
    int r;

    kvl_pack_put_array(&p->out, 2);
    r = pack_kind_bytes(p);
    return r == 0 ? pack_kind_bools(p) : r;
}

static int pack_kind_request(struct to_pack *p)
{
    const struct kvl_ipc_int number = p->value->number;

    if (p->options->generation > KVL_IPC_GENERATION_A) {
        return kvl_fail(p->err, -ENOTSUP, "frame: the request numbers of that generation");
    }
    if (number.negative || number.bits < KVL_IPC_REGISTER_KV_CACHE || number.bits > KVL_IPC_NOOP) {
        return kvl_fail(p->err, -EINVAL, "frame: an unknown request type");
    }
    return pack_int(p, number);
}

static int pack_kind_key(struct to_pack *p)
{
    return pack_key(p, p->value->keys);
}

static int pack_kind_keys(struct to_pack *p)
{
    int r = 0;

    kvl_pack_put_array(&p->out, p->value->count);
    for (uint32_t i = 0; i < p->value->count && r == 0; i++) {
        r = pack_key(p, &p->value->keys[i]);
    }
    return r;
}

static int pack_kind_wrapper(struct to_pack *p)
{
    return pack_wrapper(p, p->value->wrappers);
}

static int pack_kind_kv_cache(struct to_pack *p)
{
    int r = 0;

    kvl_pack_put_array(&p->out, p->value->count);
    for (uint32_t i = 0; i < p->value->count && r == 0; i++) {
        r = pack_wrapper(p, &p->value->wrappers[i]);
    }
    return r;
}

typedef int (*pack_fn)(struct to_pack *p);

static const pack_fn pack_kinds[] = {
    [KVL_IPC_INT] = pack_kind_int,
    [KVL_IPC_INTS] = pack_kind_ints,
    [KVL_IPC_BOOL_OR_NIL] = pack_kind_bool_or_nil,
    [KVL_IPC_BOOLS] = pack_kind_bools,
    [KVL_IPC_TEXT] = pack_kind_text,
    [KVL_IPC_BYTES] = pack_kind_bytes,
    [KVL_IPC_BYTES_BOOL] = pack_kind_bytes_bool,
    [KVL_IPC_BYTES_BOOLS] = pack_kind_bytes_bools,
    [KVL_IPC_REQUEST] = pack_kind_request,
    [KVL_IPC_KEY] = pack_kind_key,
    [KVL_IPC_KEYS] = pack_kind_keys,
    [KVL_IPC_WRAPPER] = pack_kind_wrapper,
    [KVL_IPC_KV_CACHE] = pack_kind_kv_cache,
};

int kvl_ipc_encode(const struct kvl_ipc_options *options, const struct kvl_ipc_value *value,
                   void *bytes_out, size_t room, size_t *length_out, struct kvl_err *err)
{
    struct to_pack p = {.options = options, .value = value, .err = err};
    int r;

    if (value->kind == 0 || value->kind >= sizeof(pack_kinds) / sizeof(pack_kinds[0])) {
        return kvl_fail(err, -EINVAL, "frame: unknown kind of value %u", value->kind);
    }
    kvl_pack_out_init(&p.out, bytes_out, room);
    r = pack_kinds[value->kind](&p);
    if (r < 0) {
        return r;
    }
    *length_out = p.out.length;
    if (kvl_pack_out_failed(&p.out)) {
        return kvl_fail(err, -ENOSPC, "frame: %zu bytes do not fit in %zu", p.out.length, room);
    }
    return 0;
}
