/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "controller_schema.h"
#include "pack.h"

#define BUF_FIRST_BYTES 512u

/* What an entry of `operations` has before its key and before its number. */
static const char op_admit[] = "\x83\xa7op_type\xa5"
                               "admit\xa3key";
static const char op_evict[] = "\x83\xa7op_type\xa5"
                               "evict\xa3key";
static const char op_seq[] = "\xa7seq_num";

void controller_buf_fini(struct controller_buf *buf)
{
    free(buf->at);
    *buf = (struct controller_buf){0};
}

static void encode_name(struct kvl_pack_out *out, const char *name, uint32_t length)
{
    kvl_pack_put_text(out, name, length);
}

static void encode_text(struct kvl_pack_out *out, struct kvl_text text)
{
    kvl_pack_put_text(out, text.text, text.length);
}

static void encode_opt_text(struct kvl_pack_out *out, const struct controller_opt_text *text)
{
    if (text->is_set) {
        encode_text(out, text->value);
    } else {
        kvl_pack_put_nil(out);
    }
}

static void encode_id(struct kvl_pack_out *out, const struct kvl_chunk_id *id)
{
    kvl_pack_put_int(out, id->bits, (int)id->negative);
}

static void encode_ids(struct kvl_pack_out *out, const struct controller_ids *ids)
{
    kvl_pack_put_array(out, ids->count);
    for (uint32_t i = 0; i < ids->count; i++) {
        encode_id(out, &ids->at[i]);
    }
}

static int encode_ops(struct kvl_pack_out *out, const struct kvl_key_op *ops, uint32_t count)
{
    kvl_pack_put_array(out, count);
    for (uint32_t i = 0; i < count; i++) {
        if (ops[i].kind != KVL_KEY_ADMIT && ops[i].kind != KVL_KEY_EVICT) {
            return -EINVAL;
        }
        kvl_pack_put_raw(out, ops[i].kind == KVL_KEY_ADMIT ? op_admit : op_evict,
                         sizeof(op_admit) - 1);
        encode_id(out, &ops[i].id);
        kvl_pack_put_raw(out, op_seq, sizeof(op_seq) - 1);
        kvl_pack_put_i64(out, ops[i].seq);
    }
    return 0;
}

static void encode_position(struct kvl_pack_out *out, const struct controller_position *position)
{
    kvl_pack_put_array(out, 2);
    encode_text(out, position->first);
    encode_text(out, position->location);
}

static void encode_layouts(struct kvl_pack_out *out, const struct controller_layout *layouts,
                           uint32_t count)
{
    kvl_pack_put_array(out, count);
    for (uint32_t i = 0; i < count; i++) {
        kvl_pack_put_array(out, 4);
        encode_text(out, layouts[i].instance_id);
        encode_text(out, layouts[i].location);
        kvl_pack_put_i64(out, layouts[i].count);
        encode_text(out, layouts[i].peer_init_url);
    }
}

static void encode_layout_map(struct kvl_pack_out *out, const struct controller_layout *layouts,
                              uint32_t count)
{
    kvl_pack_put_map(out, count);
    for (uint32_t i = 0; i < count; i++) {
        encode_text(out, layouts[i].instance_id);
        kvl_pack_put_array(out, 2);
        encode_text(out, layouts[i].location);
        kvl_pack_put_i64(out, layouts[i].count);
    }
}

static int encode_args(struct kvl_pack_out *out, struct kvl_text args)
{
    struct kvl_pack in;

    if (args.length == 0) {
        kvl_pack_put_nil(out);
        return 0;
    }
    kvl_pack_init(&in, args.text, args.length);
    if (kvl_pack_peek(&in) != KVL_PACK_MAP || kvl_pack_skip(&in, KVL_PACK_DEPTH_MAX) < 0 ||
        kvl_pack_left(&in) > 0) {
        return -EINVAL;
    }
    kvl_pack_put_raw(out, args.text, args.length);
    return 0;
}

static int encode_commands(struct kvl_pack_out *out, const struct controller_command *commands,
                           uint32_t count)
{
    int r;

    kvl_pack_put_array(out, count);
    for (uint32_t i = 0; i < count; i++) {
        kvl_pack_put_map(out, 3);
        encode_name(out, "command_type", 12);
        encode_text(out, commands[i].command_type);
        encode_name(out, "reason", 6);
        encode_opt_text(out, &commands[i].reason);
        encode_name(out, "args", 4);
        r = encode_args(out, commands[i].args);
        if (r < 0) {
            return r;
        }
    }
    return 0;
}

static int encode_record(struct kvl_pack_out *out, const struct controller_record *record,
                         const void *base);

static int encode_infos(struct kvl_pack_out *out, const struct controller_worker_info *infos,
                        uint32_t count)
{
    int r = 0;

    kvl_pack_put_array(out, count);
    for (uint32_t i = 0; i < count && r == 0; i++) {
        kvl_pack_put_map(out, controller_info_record.count);
        r = encode_record(out, &controller_info_record, &infos[i]);
    }
    return r;
}

static void encode_pairs(struct kvl_pack_out *out, const struct controller_pair *pairs,
                         uint32_t count)
{
    kvl_pack_put_map(out, count);
    for (uint32_t i = 0; i < count; i++) {
        encode_text(out, pairs[i].key);
        encode_text(out, pairs[i].value);
    }
}

static void encode_codes(struct kvl_pack_out *out, const struct controller_code *codes,
                         uint32_t count)
{
    kvl_pack_put_map(out, count);
    for (uint32_t i = 0; i < count; i++) {
        kvl_pack_put_i64(out, codes[i].worker_id);
        kvl_pack_put_i64(out, codes[i].code);
    }
}

static void encode_opt_bool(struct kvl_pack_out *out, int value)
{
    if (value < 0) {
        kvl_pack_put_nil(out);
    } else {
        kvl_pack_put_bool(out, value);
    }
}

/* All lists of struct controller_msg begin alike. */
struct encode_list {
    const void *at;
    uint32_t count;
};

static int encode_list(struct kvl_pack_out *out, enum controller_kind kind, const void *value)
{
    struct encode_list list;

    memcpy(&list, value, sizeof(list));
    switch (kind) {
    case CONTROLLER_KIND_OPS:
        return encode_ops(out, list.at, list.count);
    case CONTROLLER_KIND_PAIRS:
        encode_pairs(out, list.at, list.count);
        return 0;
    case CONTROLLER_KIND_LAYOUTS:
        encode_layouts(out, list.at, list.count);
        return 0;
    case CONTROLLER_KIND_LAYOUT_MAP:
        encode_layout_map(out, list.at, list.count);
        return 0;
    case CONTROLLER_KIND_CODES:
        encode_codes(out, list.at, list.count);
        return 0;
    case CONTROLLER_KIND_COMMANDS:
        return encode_commands(out, list.at, list.count);
    case CONTROLLER_KIND_INFOS:
        return encode_infos(out, list.at, list.count);
    default:
        return -EINVAL;
    }
}

static int encode_value(struct kvl_pack_out *out, enum controller_kind kind, const void *value)
{
    const struct controller_ids *ids = value;

    switch (kind) {
    case CONTROLLER_KIND_TEXT:
        encode_text(out, *(const struct kvl_text *)value);
        return 0;
    case CONTROLLER_KIND_OPT_TEXT:
        encode_opt_text(out, value);
        return 0;
    case CONTROLLER_KIND_INT:
        kvl_pack_put_i64(out, *(const int64_t *)value);
        return 0;
    case CONTROLLER_KIND_ID:
        encode_id(out, value);
        return 0;
    case CONTROLLER_KIND_FLOAT:
        kvl_pack_put_float(out, *(const double *)value);
        return 0;
    case CONTROLLER_KIND_BOOL:
        kvl_pack_put_bool(out, *(const int *)value);
        return 0;
    case CONTROLLER_KIND_OPT_BOOL:
        encode_opt_bool(out, *(const int *)value);
        return 0;
    case CONTROLLER_KIND_OPT_IDS:
        if (!ids->is_set) {
            kvl_pack_put_nil(out);
            return 0;
        }
        encode_ids(out, ids);
        return 0;
    case CONTROLLER_KIND_IDS:
        encode_ids(out, ids);
        return 0;
    case CONTROLLER_KIND_POSITION:
        encode_position(out, value);
        return 0;
    default:
        return encode_list(out, kind, value);
    }
}

static int encode_record(struct kvl_pack_out *out, const struct controller_record *record,
                         const void *base)
{
    const struct controller_field *field;
    int r = 0;

    for (uint32_t i = 0; i < record->count && r == 0; i++) {
        field = &record->fields[i];
        encode_name(out, field->name, field->name_length);
        r = encode_value(out, (enum controller_kind)field->kind,
                         (const uint8_t *)base + field->offset);
    }
    return r;
}

static int encode_message(struct kvl_pack_out *out, const struct controller_msg *msg)
{
    const struct controller_record *record = &controller_records[msg->type];

    kvl_pack_put_map(out, 1 + record->count);
    encode_name(out, "type", 4);
    encode_name(out, record->name, (uint32_t)strlen(record->name));
    return encode_record(out, record, msg);
}

int controller_buf_reserve(struct controller_buf *buf, size_t bytes)
{
    size_t room = buf->room > BUF_FIRST_BYTES / 2 ? buf->room : BUF_FIRST_BYTES / 2;
    uint8_t *at;

    if (bytes <= buf->room - buf->length) {
        return 0;
    }
    if (bytes > SIZE_MAX / 4 - buf->length) {
        return -ENOMEM;
    }
    while (room < buf->length + bytes) {
        room *= 2;
    }
    at = realloc(buf->at, room);
    if (at == NULL) {
        return -ENOMEM;
    }
    buf->at = at;
    buf->room = room;
    return 0;
}

int controller_encode(const struct controller_msg *msg, struct controller_buf *buf)
{
    struct kvl_pack_out out;
    int r;

    if (controller_type_name(msg->type) == NULL) {
        return -EINVAL;
    }
    r = controller_buf_reserve(buf, 1); /* never NULL below */
    if (r < 0) {
        return r;
    }
    /* the first run is the last one, unless the message is larger than any before it */
    for (;;) {
        kvl_pack_out_init(&out, buf->at + buf->length, buf->room - buf->length);
        r = encode_message(&out, msg);
        if (r < 0) {
            return r;
        }
        if (!kvl_pack_out_failed(&out)) {
            buf->length += out.length;
            return 0;
        }
        r = controller_buf_reserve(buf, out.length);
        if (r < 0) {
            return r;
        }
    }
}
