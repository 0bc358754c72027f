/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>

#include "ipc_key.h"
#include "ipc_names.h"
#include "ipc_pack.h"
#include "ipc_wrapper.h"
#include "pack.h"
#include "setting.h"

/* No key and no wrapper is shorter: so the room that a list asks for follows its bytes. */
#define UNPACK_KEY_MIN 48u
#define UNPACK_WRAPPER_MIN 100u

struct unpack {
    struct kvl_pack in;
    const struct kvl_ipc_options *options;
    struct kvl_ipc_value *value; /* a copy, taken over when all is well */
    struct kvl_err *err;
};

/* Says what was wanted when the reader did not find it. @return 0; a negative errno. */
static int unpack_want(struct unpack *u, int r, const char *what)
{
    const size_t at = kvl_pack_offset(&u->in);

    switch (r) {
    case 0:
        return 0;
    case -ENODATA:
        return kvl_fail(u->err, -EPROTO, "frame: the input ends in %s at byte %zu", what, at);
    case -ERANGE:
        return kvl_fail(u->err, -ERANGE, "frame: %s at byte %zu is out of range", what, at);
    case -EMSGSIZE:
        return kvl_fail(u->err, -EMSGSIZE, "frame: %s at byte %zu is nested too deep", what, at);
    default:
        return kvl_fail(u->err, -EPROTO, "frame: not %s at byte %zu", what, at);
    }
}

static int unpack_text(struct unpack *u, const char *what, struct kvl_ipc_bytes *text_out)
{
    const char *text;
    uint32_t length;
    int r = unpack_want(u, kvl_pack_read_text(&u->in, &text, &length), what);

    if (r == 0 && !kvl_pack_is_utf8(text, length)) {
        r = kvl_fail(u->err, -EPROTO, "frame: %s before byte %zu is not UTF-8", what,
                     kvl_pack_offset(&u->in));
    }
    if (r == 0) {
        *text_out = (struct kvl_ipc_bytes){text, length};
    }
    return r;
}

static int unpack_bytes(struct unpack *u, const char *what, struct kvl_ipc_bytes *bytes_out)
{
    const uint8_t *bytes;
    uint32_t length;
    int r = unpack_want(u, kvl_pack_read_bytes(&u->in, &bytes, &length), what);

    if (r == 0) {
        *bytes_out = (struct kvl_ipc_bytes){bytes, length};
    }
    return r;
}

static int unpack_int(struct unpack *u, const char *what, struct kvl_ipc_int *number_out)
{
    uint64_t bits;
    int negative;
    int r = unpack_want(u, kvl_pack_read_int(&u->in, &bits, &negative), what);

    if (r == 0) {
        *number_out = (struct kvl_ipc_int){.bits = bits, .negative = (uint32_t)negative};
    }
    return r;
}

/* The head of a list: its count, for which enough bytes are left. */
static int unpack_head(struct unpack *u, const char *what, size_t entry_min, uint32_t *count_out)
{
    const size_t at = kvl_pack_offset(&u->in);
    uint32_t count;
    int r = unpack_want(u, kvl_pack_read_array(&u->in, &count), what);

    if (r == 0 && count > kvl_pack_left(&u->in) / entry_min) {
        r = kvl_fail(u->err, -EPROTO, "frame: %s of %u entries at byte %zu does not fit in it",
                     what, count, at);
    }
    if (r == 0) {
        *count_out = count;
    }
    return r;
}

/* The head of the list of the value; there must be room for it. */
static int unpack_list(struct unpack *u, const char *what, size_t entry_min)
{
    uint32_t count = 0;
    int r = unpack_head(u, what, entry_min, &count);

    if (r < 0) {
        return r;
    }
    u->value->count = count;
    if (count > u->value->room) {
        return kvl_fail(u->err, -ENOSPC, "frame: %s of %u entries, there is room for %u", what,
                        count, u->value->room);
    }
    return 0;
}

/* A tuple of two. */
static int unpack_pair(struct unpack *u)
{
    const size_t at = kvl_pack_offset(&u->in);
    uint32_t count;
    int r = unpack_head(u, "a pair", 1, &count);

    if (r == 0 && count != 2) {
        r = kvl_fail(u->err, -EPROTO, "frame: not a pair at byte %zu", at);
    }
    return r;
}

/* ---- keys ---- */

static int unpack_tokens(struct unpack *u, struct kvl_ipc_bytes *tokens_out)
{
    const uint8_t *start = u->in.at;
    struct kvl_ipc_int token;
    uint32_t count = 0;
    int r = unpack_head(u, "token_ids", 1, &count);

    for (uint32_t i = 0; i < count && r == 0; i++) {
        r = unpack_int(u, "a token", &token);
    }
    if (r == 0) {
        *tokens_out = (struct kvl_ipc_bytes){start, (uint64_t)(u->in.at - start)};
    }
    return r;
}

static int unpack_field(struct unpack *u, uint8_t field, struct kvl_ipc_key *key)
{
    const char *name = kvl_ipc_field_name(field);

    switch (field) {
    case KVL_IPC_FIELD_MODEL:
        return unpack_text(u, name, &key->model_name);
    case KVL_IPC_FIELD_WORLD:
        return unpack_int(u, name, &key->world_size);
    case KVL_IPC_FIELD_WORKER:
        return unpack_int(u, name, &key->worker_id);
    case KVL_IPC_FIELD_HASH:
        return unpack_bytes(u, name, &key->chunk_hash);
    case KVL_IPC_FIELD_TOKENS:
        return unpack_tokens(u, &key->token_ids);
    case KVL_IPC_FIELD_START:
        return unpack_int(u, name, &key->start);
    case KVL_IPC_FIELD_END:
        return unpack_int(u, name, &key->end);
    default:
        return unpack_text(u, name, &key->request_id);
    }
}

/* The value of a field, or nil where it may be. */
static int unpack_field_or_nil(struct unpack *u, const struct kvl_ipc_key_field *field,
                               struct kvl_ipc_key *key)
{
    int r;

    if (field->may_be_nil && kvl_pack_peek(&u->in) == KVL_PACK_NIL) {
        key->flags &= ~(uint32_t)field->flag; /* of several the last counts */
        return kvl_pack_read_nil(&u->in);
    }
    r = unpack_field(u, field->id, key);
    if (r == 0) {
        key->flags |= field->flag;
    }
    return r;
}

static const struct kvl_ipc_key_field *unpack_find(const struct kvl_ipc_key_form *form,
                                                   struct kvl_ipc_bytes name)
{
    for (uint32_t i = 0; i < form->count; i++) {
        if (kvl_ipc_bytes_are(name, kvl_ipc_field_name(form->fields[i].id))) {
            return &form->fields[i];
        }
    }
    return NULL;
}

static int unpack_pairs(struct unpack *u, const struct kvl_ipc_key_form *form, uint32_t count,
                        struct kvl_ipc_key *key, uint32_t *seen)
{
    const struct kvl_ipc_key_field *field;
    struct kvl_ipc_bytes name = {0};
    int r = 0;

    for (uint32_t i = 0; i < count && r == 0; i++) {
        r = unpack_text(u, "the name of a field", &name);
        if (r < 0) {
            break;
        }
        field = unpack_find(form, name);
        if (field != NULL) {
            *seen |= 1u << field->id;
            r = unpack_field_or_nil(u, field, key);
        } else { /* list and map around it count */
            r = unpack_want(u, kvl_pack_skip(&u->in, KVL_IPC_NESTING_MAX - 2), "an unknown field");
        }
    }
    return r;
}

static int unpack_key(struct unpack *u, struct kvl_ipc_key *key_out)
{
    const struct kvl_ipc_key_form *form = kvl_ipc_key_form(u->options->generation);
    struct kvl_ipc_key key = {.generation = u->options->generation};
    const size_t at = kvl_pack_offset(&u->in);
    uint32_t seen = 0;
    uint32_t count;
    int r = unpack_want(u, kvl_pack_read_map(&u->in, &count), "a key");

    if (r < 0) {
        return r;
    }
    r = unpack_pairs(u, form, count, &key, &seen); /* ends where the bytes do */
    for (uint32_t i = 0; i < form->count && r == 0; i++) {
        const struct kvl_ipc_key_field *field = &form->fields[i];

        if ((seen & 1u << field->id) == 0 && !field->may_lack) {
            r = kvl_fail(u->err, -EPROTO, "frame: the key at byte %zu has no '%s'", at,
                         kvl_ipc_field_name(field->id));
        }
    }
    if (r == 0) {
        *key_out = key;
    }
    return r;
}

/* ---- wrappers ---- */

static int unpack_wrapper(struct unpack *u, struct kvl_ipc_wrapper *wrapper_out)
{
    const size_t at = kvl_pack_offset(&u->in);
    const uint8_t *bytes;
    uint32_t length;
    int8_t type;
    int r = unpack_want(u, kvl_pack_read_ext(&u->in, &type, &bytes, &length), "a wrapper");

    if (r < 0) {
        return r;
    }
    if (type != KVL_IPC_EXT_WRAPPER) {
        return kvl_fail(u->err, -EPROTO, "frame: an extension of unknown code %d at byte %zu", type,
                        at);
    }
    return kvl_ipc_wrapper_unpickle(u->options, bytes, length, (size_t)(bytes - u->in.start),
                                    wrapper_out, u->err);
}

/* ---- kinds of values ---- */

static int unpack_kind_int(struct unpack *u)
{
    return unpack_int(u, "an int", &u->value->number);
}

static int unpack_kind_ints(struct unpack *u)
{
    int r = unpack_list(u, "a list of ints", 1);

    for (uint32_t i = 0; i < u->value->count && r == 0; i++) {
        r = unpack_want(u, kvl_pack_read_i64(&u->in, &u->value->ints[i]), "an int");
    }
    return r;
}

static int unpack_truth(struct unpack *u)
{
    int truth;
    int r = unpack_want(u, kvl_pack_read_bool(&u->in, &truth), "a bool");

    if (r == 0) {
        u->value->truth = truth;
    }
    return r;
}

static int unpack_kind_bool_or_nil(struct unpack *u)
{
    if (kvl_pack_peek(&u->in) == KVL_PACK_NIL) {
        u->value->truth = -1;
        return kvl_pack_read_nil(&u->in);
    }
    return unpack_truth(u);
}

static int unpack_kind_bools(struct unpack *u)
{
    int truth;
    int r = unpack_list(u, "a list of bools", 1);

    for (uint32_t i = 0; i < u->value->count && r == 0; i++) {
        r = unpack_want(u, kvl_pack_read_bool(&u->in, &truth), "a bool");
        u->value->bools[i] = r == 0 ? (uint8_t)truth : 0;
    }
    return r;
}

static int unpack_kind_text(struct unpack *u)
{
    return unpack_text(u, "a str", &u->value->bytes);
}

static int unpack_kind_bytes(struct unpack *u)
{
    return unpack_bytes(u, "bytes", &u->value->bytes);
}

static int unpack_kind_bytes_bool(struct unpack *u)
{
    int r = unpack_pair(u);

    r = r == 0 ? unpack_kind_bytes(u) : r;
    return r == 0 ? unpack_truth(u) : r;
}

static int unpack_kind_bytes_bools(struct unpack *u)
{
    int r = unpack_pair(u);

    r = r == 0 ? unpack_kind_bytes(u) : r;
    return r == 0 ? unpack_kind_bools(u) : r;
}

static int unpack_kind_request(struct unpack *u)
{
    const struct kvl_ipc_int *number = &u->value->number;
    int r;

    if (u->options->generation > KVL_IPC_GENERATION_A) {
        return kvl_fail(u->err, -ENOTSUP, "frame: the request numbers of that generation");
    }
    r = unpack_kind_int(u);
    if (r == 0 && (number->negative || number->bits < KVL_IPC_REGISTER_KV_CACHE ||
                   number->bits > KVL_IPC_NOOP)) {
        r = kvl_fail(u->err, -EPROTO, "frame: an unknown request type at byte 0");
    }
    return r;
}

static int unpack_kind_key(struct unpack *u)
{
    return unpack_key(u, u->value->keys);
}

static int unpack_kind_keys(struct unpack *u)
{
    int r = unpack_list(u, "a list of keys", UNPACK_KEY_MIN);

    for (uint32_t i = 0; i < u->value->count && r == 0; i++) {
        r = unpack_key(u, &u->value->keys[i]);
    }
    return r;
}

static int unpack_kind_wrapper(struct unpack *u)
{
    return unpack_wrapper(u, u->value->wrappers);
}

static int unpack_kind_kv_cache(struct unpack *u)
{
    int r = unpack_list(u, "a list of wrappers", UNPACK_WRAPPER_MIN);

    for (uint32_t i = 0; i < u->value->count && r == 0; i++) {
        r = unpack_wrapper(u, &u->value->wrappers[i]);
    }
    return r;
}

typedef int (*unpack_fn)(struct unpack *u);

static const unpack_fn unpack_kinds[] = {
    [KVL_IPC_INT] = unpack_kind_int,
    [KVL_IPC_INTS] = unpack_kind_ints,
    [KVL_IPC_BOOL_OR_NIL] = unpack_kind_bool_or_nil,
    [KVL_IPC_BOOLS] = unpack_kind_bools,
    [KVL_IPC_TEXT] = unpack_kind_text,
    [KVL_IPC_BYTES] = unpack_kind_bytes,
    [KVL_IPC_BYTES_BOOL] = unpack_kind_bytes_bool,
    [KVL_IPC_BYTES_BOOLS] = unpack_kind_bytes_bools,
    [KVL_IPC_REQUEST] = unpack_kind_request,
    [KVL_IPC_KEY] = unpack_kind_key,
    [KVL_IPC_KEYS] = unpack_kind_keys,
    [KVL_IPC_WRAPPER] = unpack_kind_wrapper,
    [KVL_IPC_KV_CACHE] = unpack_kind_kv_cache,
};

int kvl_ipc_decode(const struct kvl_ipc_options *options, const void *bytes, size_t length,
                   struct kvl_ipc_value *value, struct kvl_err *err)
{
    struct kvl_ipc_value read = *value;
    struct unpack u = {.options = options, .value = &read, .err = err};
    int r;

    if (value->kind == 0 || value->kind >= sizeof(unpack_kinds) / sizeof(unpack_kinds[0])) {
        return kvl_fail(err, -EINVAL, "frame: unknown kind of value %u", value->kind);
    }
    if (length > options->input_max) {
        return kvl_fail(err, -EMSGSIZE, "frame: %zu bytes, the limit is %llu", length,
                        (unsigned long long)options->input_max);
    }
    kvl_pack_init(&u.in, bytes, length);
    read.count = 0;
    r = unpack_kinds[value->kind](&u);
    if (r == 0 && kvl_pack_left(&u.in) > 0) {
        r = kvl_fail(err, -EPROTO, "frame: bytes behind the value at byte %zu",
                     kvl_pack_offset(&u.in));
    }
    if (r == 0) {
        *value = read;
    } else if (r == -ENOSPC) {
        value->count = read.count;
    }
    return r;
}
