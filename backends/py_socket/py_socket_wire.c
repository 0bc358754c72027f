/* SPDX-License-Identifier: Apache-2.0 */
#include "py_socket_wire.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "py_socket_offer.h"

#define FIELDS_MAX 4u

enum wire_kind { WIRE_TEXT, WIRE_TEXT_OR_NIL, WIRE_INT, WIRE_TEXTS, WIRE_NUMBERS };

enum wire_field_id {
    FIELD_TYPE,
    FIELD_PEER_INIT_URL,
    FIELD_STATUS,
    FIELD_PEER_LOOKUP_URL,
    FIELD_LOOKUP_ID,
    FIELD_RECEIVER_ID,
    FIELD_SENDER_ID,
    FIELD_KEYS,
    FIELD_OFFSETS,
    FIELD_MEM_INDEXES,
    FIELD_NUM_HIT_CHUNKS,
    FIELD_NUM_READ_CHUNKS,
    FIELD_ERROR_CODE,
    FIELD_KVL,
    FIELDS,
};

struct wire_field {
    const char *name;
    enum wire_kind kind;
    size_t at; /* in struct py_socket_msg */
};

#define AT(member) offsetof(struct py_socket_msg, member)

static const struct wire_field wire_fields[FIELDS] = {
    [FIELD_TYPE] = {"type", WIRE_TEXT, 0},
    [FIELD_PEER_INIT_URL] = {"peer_init_url", WIRE_TEXT, AT(text)},
    [FIELD_STATUS] = {"status", WIRE_TEXT, AT(text)},
    /* nil is what a channel of LMCache 0.3.13 sends that was given none */
    [FIELD_PEER_LOOKUP_URL] = {"peer_lookup_url", WIRE_TEXT_OR_NIL, AT(text)},
    [FIELD_LOOKUP_ID] = {"lookup_id", WIRE_TEXT, AT(lookup_id)},
    [FIELD_RECEIVER_ID] = {"receiver_id", WIRE_TEXT, AT(text)},
    [FIELD_SENDER_ID] = {"sender_id", WIRE_TEXT, AT(text)},
    [FIELD_KEYS] = {"keys", WIRE_TEXTS, AT(keys)},
    [FIELD_OFFSETS] = {"offsets", WIRE_NUMBERS, AT(offsets)},
    [FIELD_MEM_INDEXES] = {"mem_indexes", WIRE_NUMBERS, AT(mem_indexes)},
    [FIELD_NUM_HIT_CHUNKS] = {"num_hit_chunks", WIRE_INT, AT(number)},
    [FIELD_NUM_READ_CHUNKS] = {"num_read_chunks", WIRE_INT, AT(number)},
    [FIELD_ERROR_CODE] = {"error_code", WIRE_INT, AT(number)},
    [FIELD_KVL] = {"kvl", WIRE_TEXT, AT(offer)},
};

/* The fields of a type in the order of the wire; FIELD_TYPE, which is 0, ends them. */
struct wire_type {
    const char *name;
    enum wire_field_id fields[FIELDS_MAX + 1];
    int has_offer;
};

static const struct wire_type wire_types[PY_SOCKET_TYPES] = {
    [PY_SOCKET_INIT_REQUEST] = {"PySocketInitRequest", {FIELD_PEER_INIT_URL}, 1},
    [PY_SOCKET_INIT_RESPONSE] = {"PySocketInitResponse", {FIELD_STATUS}, 1},
    [PY_SOCKET_SIDE] = {"P2PInitSideMsg", {FIELD_TYPE}, 0},
    [PY_SOCKET_SIDE_RET] = {"P2PInitSideRetMsg", {FIELD_PEER_LOOKUP_URL}, 0},
    [PY_SOCKET_LOOKUP_GET] = {"BatchedLookupAndGetMsg",
                              {FIELD_LOOKUP_ID, FIELD_RECEIVER_ID, FIELD_KEYS, FIELD_MEM_INDEXES},
                              0},
    [PY_SOCKET_LOOKUP_GET_RET] = {"BatchedLookupAndGetRetMsg", {FIELD_NUM_HIT_CHUNKS}, 0},
    [PY_SOCKET_LOOKUP_PUT] = {"BatchedLookupAndPutMsg",
                              {FIELD_SENDER_ID, FIELD_KEYS, FIELD_OFFSETS, FIELD_MEM_INDEXES},
                              0},
    [PY_SOCKET_LOOKUP_PUT_RET] = {"BatchedLookupAndPutRetMsg", {FIELD_NUM_READ_CHUNKS}, 0},
    [PY_SOCKET_P2P_ERROR] = {"P2PErrorMsg", {FIELD_ERROR_CODE}, 0},
};

const char *py_socket_type_name(enum py_socket_type type)
{
    return type > PY_SOCKET_NONE && type < PY_SOCKET_TYPES ? wire_types[type].name : NULL;
}

/* ---- reading ---- */

static int wire_bad(char *reason_out, int code, const char *field, const char *what)
{
    snprintf(reason_out, PY_SOCKET_REASON_ROOM, "%s%s%s", field, field[0] == '\0' ? "" : ": ",
             what);
    return code;
}

static int wire_is(const char *text, uint32_t length, const char *name)
{
    return strlen(name) == length && memcmp(text, name, length) == 0;
}

static int wire_text(struct kvl_pack *in, const char *field, uint32_t max, struct kvl_text *text,
                     char *reason_out)
{
    if (kvl_pack_read_text(in, &text->text, &text->length) < 0) {
        return wire_bad(reason_out, -EPROTO, field, "not a string");
    }
    if (text->length > max) {
        return wire_bad(reason_out, -EMSGSIZE, field, "too long");
    }
    if (!kvl_pack_is_utf8(text->text, text->length)) {
        return wire_bad(reason_out, -EPROTO, field, "not UTF-8");
    }
    return 0;
}

static int wire_list(struct kvl_pack *in, const struct wire_field *field,
                     struct py_socket_list *list, char *reason_out)
{
    struct kvl_pack entries;
    uint32_t count;

    if (kvl_pack_read_array(in, &count) < 0) {
        return wire_bad(reason_out, -EPROTO, field->name, "not a list");
    }
    if (count > PY_SOCKET_LIST_MAX) {
        return wire_bad(reason_out, -EMSGSIZE, field->name, "too many entries");
    }
    entries = *in;
    for (uint32_t i = 0; i < count; i++) {
        struct kvl_text text;
        uint64_t number;
        int r = 0;

        if (field->kind == WIRE_TEXTS) {
            r = wire_text(in, field->name, PY_SOCKET_KEY_MAX, &text, reason_out);
        } else if (kvl_pack_read_u64(in, &number) < 0) {
            r = wire_bad(reason_out, -EPROTO, field->name, "not all are integers from 0");
        }
        if (r < 0) {
            return r;
        }
    }
    *list = (struct py_socket_list){.at = entries, .count = count};
    return 0;
}

static int wire_value(struct kvl_pack *in, const struct wire_field *field,
                      struct py_socket_msg *msg, char *reason_out)
{
    void *at = (char *)msg + field->at;

    switch (field->kind) {
    case WIRE_TEXT_OR_NIL:
        if (kvl_pack_peek(in) == KVL_PACK_NIL) {
            *(struct kvl_text *)at = (struct kvl_text){.text = ""};
            return 0;
        }
        return wire_text(in, field->name, PY_SOCKET_TEXT_MAX, at, reason_out);
    case WIRE_TEXT:
        return wire_text(in, field->name, PY_SOCKET_TEXT_MAX, at, reason_out);
    case WIRE_INT:
        return kvl_pack_read_i64(in, at) < 0
                   ? wire_bad(reason_out, -EPROTO, field->name, "not an integer")
                   : 0;
    default:
        return wire_list(in, field, at, reason_out);
    }
}

/* Remembers where the value of each known key begins; `at` is NULL for those that are not there. */
static int wire_scan(struct kvl_pack *in, struct kvl_pack *slots, char *reason_out)
{
    uint32_t pairs;

    if (kvl_pack_read_map(in, &pairs) < 0) {
        return wire_bad(reason_out, -EPROTO, "", "not a map");
    }
    if (pairs > PY_SOCKET_MAP_MAX) {
        return wire_bad(reason_out, -EMSGSIZE, "", "too many keys");
    }
    for (uint32_t i = 0; i < pairs; i++) {
        const char *name;
        uint32_t length;
        struct kvl_pack value;
        int r;

        if (kvl_pack_read_text(in, &name, &length) < 0) {
            return wire_bad(reason_out, -EPROTO, "", "a key that is no string, or cut off");
        }
        value = *in;
        r = kvl_pack_skip(in, PY_SOCKET_DEPTH);
        if (r < 0) {
            return wire_bad(reason_out, r == -EMSGSIZE ? r : -EPROTO, "",
                            r == -EMSGSIZE ? "nested too deep" : "bad msgpack, or cut off");
        }
        for (uint32_t field = 0; field < FIELDS; field++) {
            if (wire_is(name, length, wire_fields[field].name)) {
                slots[field] = value;
                break;
            }
        }
    }
    return kvl_pack_left(in) == 0 ? 0 : wire_bad(reason_out, -EPROTO, "", "bytes left over");
}

static int wire_type_of(struct kvl_pack *slot, enum py_socket_type *type_out, char *reason_out)
{
    struct kvl_text text;
    int r;

    if (slot->at == NULL) {
        return wire_bad(reason_out, -EPROTO, "type", "missing");
    }
    r = wire_text(slot, "type", PY_SOCKET_TEXT_MAX, &text, reason_out);
    if (r < 0) {
        return r;
    }
    for (int type = PY_SOCKET_NONE + 1; type < PY_SOCKET_TYPES; type++) {
        if (wire_is(text.text, text.length, wire_types[type].name)) {
            *type_out = (enum py_socket_type)type;
            return 0;
        }
    }
    return wire_bad(reason_out, -ENOTSUP, "type", "unknown");
}

int py_socket_decode(const void *frame, size_t length, struct py_socket_msg *msg_out,
                     char *reason_out)
{
    struct kvl_pack slots[FIELDS] = {{0}};
    struct py_socket_msg msg = {0};
    const struct wire_type *type;
    struct kvl_pack in;
    int r;

    kvl_pack_init(&in, frame, length);
    r = wire_scan(&in, slots, reason_out);
    if (r == 0) {
        r = wire_type_of(&slots[FIELD_TYPE], &msg.type, reason_out);
    }
    if (r < 0) {
        return r;
    }
    type = &wire_types[msg.type];
    for (const enum wire_field_id *id = type->fields; *id != FIELD_TYPE; id++) {
        if (slots[*id].at == NULL) {
            return wire_bad(reason_out, -EPROTO, wire_fields[*id].name, "missing");
        }
        r = wire_value(&slots[*id], &wire_fields[*id], &msg, reason_out);
        if (r < 0) {
            return r;
        }
    }
    if (type->has_offer && slots[FIELD_KVL].at != NULL &&
        kvl_pack_peek(&slots[FIELD_KVL]) != KVL_PACK_NIL) {
        const char *what = "";

        r = py_socket_offer_read(&slots[FIELD_KVL], &msg.offer, &msg.notes, &what);
        if (r < 0) {
            return wire_bad(reason_out, r, "kvl", what);
        }
    }
    *msg_out = msg;
    return 0;
}

struct kvl_text py_socket_list_text(struct py_socket_list *list)
{
    struct kvl_text text = {0};

    if (list->count > 0 && kvl_pack_read_text(&list->at, &text.text, &text.length) == 0) {
        list->count--;
    }
    return text;
}

uint64_t py_socket_list_number(struct py_socket_list *list)
{
    uint64_t number = 0;

    if (list->count > 0 && kvl_pack_read_u64(&list->at, &number) == 0) {
        list->count--;
    }
    return number;
}

/* ---- writing ---- */

static void wire_put_str(struct kvl_pack_out *out, const char *text)
{
    kvl_pack_put_text(out, text, (uint32_t)strlen(text));
}

static void wire_put_name(struct kvl_pack_out *out, enum wire_field_id field)
{
    wire_put_str(out, wire_fields[field].name);
}

/* @param extra  pairs besides `type` */
static void wire_put_head(struct kvl_pack_out *out, enum py_socket_type type, uint32_t extra)
{
    kvl_pack_put_map(out, 1 + extra);
    wire_put_name(out, FIELD_TYPE);
    wire_put_str(out, wire_types[type].name);
}

static void wire_put_init(struct kvl_pack_out *out, enum py_socket_type type, const char *text,
                          const struct py_socket_offer *offer, const struct py_socket_notes *notes)
{
    int has_offer = offer != NULL && offer->version != 0;

    wire_put_head(out, type, has_offer ? 2 : 1);
    wire_put_name(out, wire_types[type].fields[0]);
    wire_put_str(out, text);
    if (has_offer) {
        wire_put_name(out, FIELD_KVL);
        py_socket_offer_put(out, offer, notes);
    }
}

void py_socket_put_init_request(struct kvl_pack_out *out, const char *peer_init_url,
                                const struct py_socket_offer *offer,
                                const struct py_socket_notes *notes)
{
    wire_put_init(out, PY_SOCKET_INIT_REQUEST, peer_init_url, offer, notes);
}

void py_socket_put_init_response(struct kvl_pack_out *out, const char *status,
                                 const struct py_socket_offer *offer,
                                 const struct py_socket_notes *notes)
{
    wire_put_init(out, PY_SOCKET_INIT_RESPONSE, status, offer, notes);
}

void py_socket_put_side(struct kvl_pack_out *out)
{
    wire_put_head(out, PY_SOCKET_SIDE, 0);
}

void py_socket_put_side_ret(struct kvl_pack_out *out, const char *peer_lookup_url)
{
    wire_put_init(out, PY_SOCKET_SIDE_RET, peer_lookup_url, NULL, NULL);
}

static void wire_put_numbers(struct kvl_pack_out *out, enum wire_field_id field,
                             const uint64_t *numbers, uint32_t count)
{
    wire_put_name(out, field);
    kvl_pack_put_array(out, count);
    for (uint32_t i = 0; i < count; i++) {
        kvl_pack_put_u64(out, numbers[i]);
    }
}

static void wire_put_keys(struct kvl_pack_out *out, const struct py_socket_lookup_msg *msg)
{
    wire_put_name(out, FIELD_KEYS);
    kvl_pack_put_array(out, msg->count);
    for (uint32_t i = 0; i < msg->count; i++) {
        kvl_pack_put_text(out, msg->keys[i].text, msg->keys[i].length);
    }
}

void py_socket_put_lookup_get(struct kvl_pack_out *out, const struct py_socket_lookup_msg *msg)
{
    wire_put_head(out, PY_SOCKET_LOOKUP_GET, 4);
    wire_put_name(out, FIELD_LOOKUP_ID);
    wire_put_str(out, msg->lookup_id);
    wire_put_name(out, FIELD_RECEIVER_ID);
    wire_put_str(out, msg->peer_id);
    wire_put_keys(out, msg);
    wire_put_numbers(out, FIELD_MEM_INDEXES, msg->mem_indexes, msg->count);
}

void py_socket_put_lookup_put(struct kvl_pack_out *out, const struct py_socket_lookup_msg *msg)
{
    wire_put_head(out, PY_SOCKET_LOOKUP_PUT, 4);
    wire_put_name(out, FIELD_SENDER_ID);
    wire_put_str(out, msg->peer_id);
    wire_put_keys(out, msg);
    wire_put_numbers(out, FIELD_OFFSETS, msg->offsets, msg->count);
    wire_put_numbers(out, FIELD_MEM_INDEXES, msg->mem_indexes, msg->count);
}

static void wire_put_number(struct kvl_pack_out *out, enum py_socket_type type, int64_t number)
{
    wire_put_head(out, type, 1);
    wire_put_name(out, wire_types[type].fields[0]);
    kvl_pack_put_i64(out, number);
}

void py_socket_put_lookup_get_ret(struct kvl_pack_out *out, int64_t num_hit_chunks)
{
    wire_put_number(out, PY_SOCKET_LOOKUP_GET_RET, num_hit_chunks);
}

void py_socket_put_lookup_put_ret(struct kvl_pack_out *out, int64_t num_read_chunks)
{
    wire_put_number(out, PY_SOCKET_LOOKUP_PUT_RET, num_read_chunks);
}

void py_socket_put_error(struct kvl_pack_out *out, int64_t error_code)
{
    wire_put_number(out, PY_SOCKET_P2P_ERROR, error_code);
}
