/* SPDX-License-Identifier: Apache-2.0 */
#include "controller_wire.h"

#include <errno.h>
#include <string.h>

#include "controller_entry.h"
#include "controller_json.h"
#include "controller_read.h"
#include "controller_schema.h"
#include "controller_unique.h"

const struct controller_limits controller_default_limits = {
    .frame_bytes = 64u << 20,
    .list_items = 1u << 20,
    .text_bytes = 64u << 10,
    .depth = 32,
};

/* What msgspec calls the types of fields. */
static const char *const wire_expected[] = {
    [CONTROLLER_KIND_TEXT] = "str",
    [CONTROLLER_KIND_OPT_TEXT] = "str | null",
    [CONTROLLER_KIND_INT] = "int",
    [CONTROLLER_KIND_ID] = "int",
    [CONTROLLER_KIND_FLOAT] = "float",
    [CONTROLLER_KIND_BOOL] = "bool",
    [CONTROLLER_KIND_OPT_BOOL] = "bool | null",
    [CONTROLLER_KIND_IDS] = "array",
    [CONTROLLER_KIND_OPT_IDS] = "array | null",
    [CONTROLLER_KIND_OP_TYPE] = "str",
    [CONTROLLER_KIND_OPS] = "array",
    [CONTROLLER_KIND_POSITION] = "array",
    [CONTROLLER_KIND_PAIRS] = "object",
    [CONTROLLER_KIND_LAYOUTS] = "array",
    [CONTROLLER_KIND_LAYOUT_MAP] = "object",
    [CONTROLLER_KIND_CODES] = "object",
    [CONTROLLER_KIND_COMMANDS] = "array",
    [CONTROLLER_KIND_ARGS] = "object | null",
    [CONTROLLER_KIND_INFOS] = "array",
};

/* A key of a map that says which of several records it is. */
struct wire_tag {
    const char *name;
    struct kvl_text value;
};

static int wire_is(struct kvl_text text, const char *word)
{
    return text.length == strlen(word) && memcmp(text.text, word, text.length) == 0;
}

/* ---- records ---- */

static int wire_value(struct controller_reader *in, const struct controller_field *field,
                      const struct controller_at *at, void *value);

/* The tag once more, or a key that is in no table. */
static int wire_other(struct controller_reader *in, const struct wire_tag *tag,
                      struct kvl_text name, const struct controller_at *at)
{
    const struct controller_at place = {.up = at, .field = tag == NULL ? NULL : tag->name};
    struct kvl_text again;
    int r;

    if (tag == NULL || !wire_is(name, tag->name)) {
        return controller_read_skip(in);
    }
    r = controller_read_tag(in, &place, &again);
    if (r == 0 && (again.length != tag->value.length ||
                   memcmp(again.text, tag->value.text, again.length) != 0)) {
        return controller_read_invalid(in, &place, again);
    }
    return r;
}

/* Reads pairs of a map into a record that is all zero. */
static int wire_record(struct controller_reader *in, const struct controller_record *record,
                       uint32_t pairs, const struct wire_tag *tag, const struct controller_at *at,
                       void *base)
{
    const struct controller_field *field;
    struct controller_at place = {.up = at};
    struct kvl_text name;
    uint32_t seen = 0; /* a bit for each field */
    uint32_t hint = 0;
    int r = 0;

    for (uint32_t i = 0; i < pairs && r == 0; i++) {
        r = controller_read_name(in, at, &name);
        if (r < 0) {
            return r;
        }
        field = controller_field_find(record, name, &hint);
        if (field == NULL) {
            r = wire_other(in, tag, name, at);
            continue;
        }
        place.field = field->name;
        seen |= 1u << (field - record->fields);
        r = wire_value(in, field, &place, (uint8_t *)base + field->offset);
    }
    for (uint32_t i = 0; i < record->count && r == 0; i++) {
        field = &record->fields[i];
        if ((seen & 1u << i) != 0) {
            continue;
        }
        if (!field->has_default) {
            return controller_read_fail(in, -EPROTO, at, "Object missing required field `%s`",
                                        field->name);
        }
        if (field->kind == CONTROLLER_KIND_OPT_BOOL) {
            *(int *)((uint8_t *)base + field->offset) = (int)field->fallback;
        }
    }
    return r;
}

/*
 * Finds the tag of a map of `*pairs`. It nearly always comes first; then it counts as read,
 * otherwise the map is to be read from its beginning again.
 */
static int wire_find_tag(struct controller_reader *in, const struct controller_at *at,
                         struct wire_tag *tag, uint32_t *pairs)
{
    const struct controller_at place = {.up = at, .field = tag->name};
    const struct kvl_pack start = in->pack;
    struct kvl_text name;
    int r;

    for (uint32_t i = 0; i < *pairs; i++) {
        r = controller_read_name(in, at, &name);
        if (r == 0 && wire_is(name, tag->name)) {
            r = controller_read_tag(in, &place, &tag->value);
            if (r == 0 && i == 0) {
                --*pairs;
            } else if (r == 0) {
                in->pack = start;
            }
            return r;
        }
        if (r == 0) {
            r = controller_read_skip(in);
        }
        if (r < 0) {
            return r;
        }
    }
    return controller_read_fail(in, -EPROTO, at, "Object missing required field `%s`", tag->name);
}

/* ---- entries of lists and maps; each is written whole ---- */

static int wire_op(struct controller_reader *in, const struct controller_at *at, void *item)
{
    uint32_t pairs;
    int r;

    if (controller_entry_quick_op(in, item)) {
        return 0;
    }
    memset(item, 0, sizeof(struct kvl_key_op));
    r = controller_read_map(in, at, "object", &pairs);
    return r < 0 ? r : wire_record(in, &controller_op_record, pairs, NULL, at, item);
}

static int wire_info(struct controller_reader *in, const struct controller_at *at, void *item)
{
    uint32_t pairs;
    int r;

    memset(item, 0, sizeof(struct controller_worker_info));
    r = controller_read_map(in, at, "object", &pairs);
    return r < 0 ? r : wire_record(in, &controller_info_record, pairs, NULL, at, item);
}

/* Of a command with an unknown tag only the tag is read: the others may still be run. */
static int wire_command(struct controller_reader *in, const struct controller_at *at, void *item)
{
    struct controller_command *command = item;
    struct wire_tag tag = {.name = "command_type"};
    const struct kvl_pack start = in->pack;
    uint32_t pairs;
    int r;

    memset(command, 0, sizeof(*command));
    r = controller_read_map(in, at, "object", &pairs);
    if (r == 0) {
        r = wire_find_tag(in, at, &tag, &pairs);
    }
    if (r < 0) {
        return r;
    }
    command->command_type = tag.value;
    if (!wire_is(tag.value, "full_sync") && !wire_is(tag.value, "HeartbeatCommand")) {
        in->pack = start;
        return controller_read_skip(in);
    }
    return wire_record(in, &controller_command_record, pairs, &tag, at, item);
}

/* ---- lists and maps ---- */

struct wire_list_kind {
    size_t size; /* of an entry in memory */
    uint8_t least; /* bytes of an entry on the wire; more for records, see wire_least */
    uint8_t is_map;
    const struct controller_record *record;
    controller_entry_fn read;
    controller_unique_fn unique; /* maps: entries with the same key become one */
};

static const struct wire_list_kind wire_lists[] = {
    [CONTROLLER_KIND_IDS] = {.size = sizeof(struct kvl_chunk_id),
                             .least = 1,
                             .read = controller_entry_id},
    [CONTROLLER_KIND_OPT_IDS] = {.size = sizeof(struct kvl_chunk_id),
                                 .least = 1,
                                 .read = controller_entry_id},
    [CONTROLLER_KIND_OPS] = {.size = sizeof(struct kvl_key_op),
                             .record = &controller_op_record,
                             .read = wire_op},
    [CONTROLLER_KIND_INFOS] = {.size = sizeof(struct controller_worker_info),
                               .record = &controller_info_record,
                               .read = wire_info},
    [CONTROLLER_KIND_COMMANDS] = {.size = sizeof(struct controller_command),
                                  .least = sizeof("xcommand_typex"),
                                  .read = wire_command},
    [CONTROLLER_KIND_LAYOUTS] = {.size = sizeof(struct controller_layout),
                                 .least = 5,
                                 .read = controller_entry_layout},
    [CONTROLLER_KIND_LAYOUT_MAP] = {.size = sizeof(struct controller_layout),
                                    .least = 4,
                                    .is_map = 1,
                                    .read = controller_entry_map_layout,
                                    .unique = controller_unique_layouts},
    [CONTROLLER_KIND_PAIRS] = {.size = sizeof(struct controller_pair),
                               .least = 2,
                               .is_map = 1,
                               .read = controller_entry_pair,
                               .unique = controller_unique_pairs},
    [CONTROLLER_KIND_CODES] = {.size = sizeof(struct controller_code),
                               .least = 2,
                               .is_map = 1,
                               .read = controller_entry_code,
                               .unique = controller_unique_codes},
};

/* All lists of struct controller_msg begin alike. */
struct wire_list {
    void *at;
    uint32_t count;
};

static int wire_list(struct controller_reader *in, enum controller_kind kind,
                     const struct controller_at *at, struct wire_list *list_out)
{
    const struct wire_list_kind *how = &wire_lists[kind];
    const size_t least = how->record == NULL ? how->least : controller_record_least(how->record);
    struct controller_at place = {.up = at, .index = CONTROLLER_AT_ENTRY};
    uint32_t count = 0;
    void *items = NULL;
    int r;

    r = how->is_map ? controller_read_map(in, at, wire_expected[kind], &count)
                    : controller_read_array(in, at, wire_expected[kind], &count);
    if (r == 0) {
        r = controller_read_take(in, at, count, how->size, least, &items);
    }
    for (uint32_t i = 0; i < count && r == 0; i++) {
        if (!how->is_map) {
            place.index = i;
        }
        r = how->read(in, &place, (uint8_t *)items + i * how->size);
    }
    if (r == 0 && how->unique != NULL) {
        r = how->unique(in->arena, items, &count);
        if (r < 0) {
            return controller_read_fail(in, r, NULL, "Out of memory");
        }
    }
    if (r == 0) {
        *list_out = (struct wire_list){.at = items, .count = count};
    }
    return r;
}

static int wire_list_value(struct controller_reader *in, enum controller_kind kind,
                           const struct controller_at *at, void *value)
{
    struct wire_list list;
    int r = wire_list(in, kind, at, &list);

    if (r == 0) {
        memcpy(value, &list, sizeof(list));
    }
    return r;
}

static int wire_ids(struct controller_reader *in, enum controller_kind kind,
                    const struct controller_at *at, struct controller_ids *ids_out)
{
    struct wire_list list;
    int r;

    if (kind == CONTROLLER_KIND_OPT_IDS && kvl_pack_read_nil(&in->pack) == 0) {
        *ids_out = (struct controller_ids){0};
        return 0;
    }
    r = wire_list(in, kind, at, &list);
    if (r == 0) {
        *ids_out = (struct controller_ids){.at = list.at, .count = list.count, .is_set = 1};
    }
    return r;
}

/* Keeps the map as it is; only the names in it are looked at. */
static int wire_args(struct controller_reader *in, const struct controller_at *at,
                     struct kvl_text *args_out)
{
    const struct controller_at key = {.up = at, .index = CONTROLLER_AT_KEY};
    const struct kvl_pack start = in->pack;
    struct kvl_text name;
    uint32_t pairs;
    int r;

    if (kvl_pack_read_nil(&in->pack) == 0) {
        *args_out = (struct kvl_text){0};
        return 0;
    }
    r = controller_read_map(in, at, wire_expected[CONTROLLER_KIND_ARGS], &pairs);
    if (r < 0) {
        return r;
    }
    for (uint32_t i = 0; i < pairs && r == 0; i++) {
        r = controller_read_text(in, &key, "str", &name);
        if (r == 0) {
            r = controller_read_skip(in);
        }
    }
    if (r == 0) {
        *args_out = (struct kvl_text){.text = (const char *)start.at,
                                      .length = (uint32_t)(in->pack.at - start.at)};
    }
    return r;
}

static int wire_value(struct controller_reader *in, const struct controller_field *field,
                      const struct controller_at *at, void *value)
{
    const enum controller_kind kind = (enum controller_kind)field->kind;
    const char *expected = wire_expected[kind];

    switch (kind) {
    case CONTROLLER_KIND_TEXT:
        return controller_read_text(in, at, expected, value);
    case CONTROLLER_KIND_OPT_TEXT:
        return controller_read_opt_text(in, at, expected, value);
    case CONTROLLER_KIND_INT:
        return controller_read_int(in, at, value);
    case CONTROLLER_KIND_ID:
        return controller_read_id(in, at, value);
    case CONTROLLER_KIND_FLOAT:
        return controller_read_float(in, at, value);
    case CONTROLLER_KIND_BOOL:
        return controller_read_bool(in, at, expected, value);
    case CONTROLLER_KIND_OPT_BOOL:
        return controller_read_opt_bool(in, at, expected, value);
    case CONTROLLER_KIND_OP_TYPE:
        return controller_read_op_type(in, at, value);
    case CONTROLLER_KIND_POSITION:
        return controller_read_position(in, at, value);
    case CONTROLLER_KIND_ARGS:
        return wire_args(in, at, value);
    case CONTROLLER_KIND_IDS:
    case CONTROLLER_KIND_OPT_IDS:
        return wire_ids(in, kind, at, value);
    default:
        return wire_list_value(in, kind, at, value);
    }
}

/* ---- messages ---- */

static int wire_message(struct controller_reader *in, struct controller_msg *msg)
{
    const struct controller_at place = {.field = "type"};
    struct wire_tag tag = {.name = "type"};
    uint32_t pairs;
    int r;

    r = controller_read_map(in, NULL, "object", &pairs);
    if (r == 0) {
        r = wire_find_tag(in, NULL, &tag, &pairs);
    }
    if (r < 0) {
        return r;
    }
    msg->type = controller_type_find(tag.value);
    if (msg->type == CONTROLLER_NONE) {
        return controller_read_invalid(in, &place, tag.value);
    }
    r = wire_record(in, &controller_records[msg->type], pairs, &tag, NULL, msg);
    if (r == 0 && kvl_pack_left(&in->pack) > 0) {
        return controller_read_fail(in, -EPROTO, NULL,
                                    "MessagePack data is malformed: trailing characters (byte %zu)",
                                    kvl_pack_offset(&in->pack));
    }
    return r;
}

int controller_decode(const void *frame, size_t length, const struct controller_limits *limits,
                      struct controller_arena *arena, struct controller_msg *msg_out,
                      char *error_out, size_t error_room)
{
    struct controller_reader in = {.limits = limits, .arena = arena};
    struct controller_msg msg = {0};
    const void *pack = frame;
    size_t pack_length = length;
    char nowhere[1];
    int r;

    in.items_left = limits->list_items;
    in.error = error_room > 0 ? error_out : nowhere;
    in.error_room = error_room > 0 ? error_room : sizeof(nowhere);
    in.error[0] = 0;
    controller_arena_reset(arena);
    if (length > limits->frame_bytes) {
        return controller_read_fail(&in, -EMSGSIZE, NULL,
                                    "Message of %zu bytes is over the limit of %u", length,
                                    limits->frame_bytes);
    }
    if (length > 0 && *(const uint8_t *)frame == '{') {
        r = controller_json_to_pack(&in, frame, length, &pack, &pack_length);
        if (r < 0) {
            return r;
        }
    }
    kvl_pack_init(&in.pack, pack, pack_length);
    r = wire_message(&in, &msg);
    if (r == 0) {
        *msg_out = msg;
    }
    return r;
}
