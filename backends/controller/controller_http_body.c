/* SPDX-License-Identifier: Apache-2.0 */
#include "controller_http_body.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Entries of one refusal; a list of a million wrong items needs no million lines. */
#define DETAILS_MAX 32u
/* What came is shown up to this size. */
#define INPUT_MAX ((size_t)16 * 1024)

struct reader {
    struct controller_body *body;
    void *record;
    struct controller_text *refusal;
    const struct controller_field *field;
    struct controller_json root;
    unsigned details;
};

void controller_body_fini(struct controller_body *body)
{
    free(body->room);
    for (unsigned i = 0; i < body->list_count; i++) {
        free(body->lists[i]);
    }
    *body = (struct controller_body){0};
}

/* ---- refusals ---- */

static void refuse_begin(struct controller_text *refusal, unsigned before, const char *type)
{
    controller_text_put(refusal, before == 0 ? "{\"detail\":[{" : ",{");
    controller_text_name(refusal, "type");
    controller_text_json0(refusal, type);
    controller_text_put(refusal, ",\"loc\":[");
}

static void refuse_msg(struct controller_text *refusal, const char *msg)
{
    controller_text_put(refusal, "],");
    controller_text_name(refusal, "msg");
    controller_text_json0(refusal, msg);
}

static void refuse_input(struct controller_text *refusal, const struct controller_json *input)
{
    if (input->length <= INPUT_MAX) {
        controller_text_put(refusal, ",\"input\":");
        controller_json_copy(refusal, input);
    }
}

/* One entry about a field, or about an item of it; left open. @return false beyond the bound. */
static bool reader_refuse_open(struct reader *reader, const char *type, const char *msg,
                               const struct controller_json *input, int64_t item)
{
    struct controller_text *refusal = reader->refusal;

    if (reader->details == DETAILS_MAX) {
        return false;
    }
    refuse_begin(refusal, reader->details++, type);
    controller_text_put(refusal, "\"body\",");
    controller_text_json0(refusal, reader->field->name);
    if (item >= 0) {
        controller_text_put(refusal, ",");
        controller_text_signed(refusal, item);
    }
    refuse_msg(refusal, msg);
    refuse_input(refusal, input);
    return true;
}

static void reader_refuse(struct reader *reader, const char *type, const char *msg,
                          const struct controller_json *input, int64_t item)
{
    if (reader_refuse_open(reader, type, msg, input, item)) {
        controller_text_put(reader->refusal, "}");
    }
}

void controller_body_refuse_raw(const char *text, size_t length, struct controller_text *refusal)
{
    refuse_begin(refusal, 0, length == 0 ? "missing" : "model_attributes_type");
    controller_text_put(refusal, "\"body\"");
    refuse_msg(refusal, length == 0 ? "Field required"
                                    : "Input should be a valid dictionary or object to extract "
                                      "fields from");
    controller_text_put(refusal, ",\"input\":");
    if (length == 0) {
        controller_text_put(refusal, "null");
    } else {
        controller_text_json(refusal, text, length <= INPUT_MAX ? length : INPUT_MAX);
    }
    controller_text_put(refusal, "}]}");
}

void controller_body_refuse_query(const char *name, const char *value,
                                  struct controller_text *refusal)
{
    refuse_begin(refusal, 0, "int_parsing");
    controller_text_put(refusal, "\"query\",");
    controller_text_json0(refusal, name);
    refuse_msg(refusal, "Input should be a valid integer, unable to parse string as an integer");
    controller_text_put(refusal, ",\"input\":");
    controller_text_json0(refusal, value);
    controller_text_put(refusal, "}]}");
}

static void refuse_json(const struct controller_json_error *error, struct controller_text *refusal)
{
    refuse_begin(refusal, 0, "json_invalid");
    controller_text_put(refusal, "\"body\",");
    controller_text_unsigned(refusal, error->at);
    refuse_msg(refusal, "JSON decode error");
    controller_text_put(refusal, ",\"input\":{},\"ctx\":{\"error\":");
    controller_text_json0(refusal, error->text);
    controller_text_put(refusal, "}}]}");
}

/* ---- fields ---- */

static void *reader_target(const struct reader *reader)
{
    return (char *)reader->record + reader->field->offset;
}

static void reader_text(struct reader *reader, const struct controller_json *value, int64_t item,
                        struct kvl_text *text_out)
{
    struct controller_body *body = reader->body;

    if (value->kind != CONTROLLER_JSON_STRING) {
        reader_refuse(reader, "string_type", "Input should be a valid string", value, item);
        return;
    }
    /* Together the strings cannot be longer than the body, which is how much room there is. */
    *text_out = controller_json_string(value, body->room + body->room_used);
    if (text_out->text == body->room + body->room_used) {
        body->room_used += text_out->length;
    }
}

static void reader_refuse_int(struct reader *reader, enum controller_json_int why,
                              const struct controller_json *value, int64_t item)
{
    static const char *const types[] = {
        [CONTROLLER_INT_TYPE] = "int_type",
        [CONTROLLER_INT_PARSING] = "int_parsing",
        [CONTROLLER_INT_FRACTION] = "int_from_float",
        [CONTROLLER_INT_SIZE] = "int_parsing_size",
    };
    static const char *const texts[] = {
        [CONTROLLER_INT_TYPE] = "Input should be a valid integer",
        [CONTROLLER_INT_PARSING] =
            "Input should be a valid integer, unable to parse string as an integer",
        [CONTROLLER_INT_FRACTION] =
            "Input should be a valid integer, got a number with a fractional part",
        [CONTROLLER_INT_SIZE] = "Unable to parse input string as an integer, exceeded maximum size",
    };

    reader_refuse(reader, types[why], texts[why], value, item);
}

static int reader_ints(struct reader *reader, const struct controller_json *value)
{
    struct controller_json_walk walk;
    struct controller_json item;
    struct controller_ids *ids = reader_target(reader);
    struct kvl_chunk_id **list;
    uint32_t room = 0;
    uint32_t count = 0;

    if (value->kind != CONTROLLER_JSON_LIST) {
        reader_refuse(reader, "list_type", "Input should be a valid list", value, -1);
        return 0;
    }
    assert(reader->body->list_count < CONTROLLER_BODY_LISTS);
    list = &reader->body->lists[reader->body->list_count++];
    walk = controller_json_members(value);
    while (controller_json_next(&walk, NULL, &item)) {
        enum controller_json_int r;

        if (count == room) {
            uint32_t more = room == 0 ? 256 : room * 2;
            struct kvl_chunk_id *at = realloc(*list, (size_t)more * sizeof(*at));

            if (at == NULL) {
                return -ENOMEM;
            }
            *list = at;
            room = more;
        }
        r = controller_json_number(&item, &(*list)[count]);
        if (r != CONTROLLER_INT_OK) {
            reader_refuse_int(reader, r, &item, count);
        }
        count++;
    }
    *ids = (struct controller_ids){.at = *list, .count = count, .is_set = 1};
    return 0;
}

static void reader_place(struct reader *reader, const struct controller_json *value)
{
    struct controller_position *place = reader_target(reader);
    struct controller_json_walk walk;
    struct controller_json item;
    int64_t count = 0;

    if (value->kind != CONTROLLER_JSON_LIST) {
        reader_refuse(reader, "tuple_type", "Input should be a valid tuple", value, -1);
        return;
    }
    walk = controller_json_members(value);
    while (controller_json_next(&walk, NULL, &item)) {
        count++;
    }
    if (count > 2) {
        char msg[96];

        (void)snprintf(msg, sizeof(msg),
                       "Tuple should have at most 2 items after validation, not %lld",
                       (long long)count);
        if (reader_refuse_open(reader, "too_long", msg, value, -1)) {
            controller_text_add(reader->refusal,
                                ",\"ctx\":{\"field_type\":\"Tuple\",\"max_length\":2,"
                                "\"actual_length\":%lld}}",
                                (long long)count);
        }
        return;
    }
    walk = controller_json_members(value);
    for (int64_t i = 0; i < 2; i++) {
        if (controller_json_next(&walk, NULL, &item)) {
            reader_text(reader, &item, i, i == 0 ? &place->first : &place->location);
        } else {
            reader_refuse(reader, "missing", "Field required", value, i);
        }
    }
}

static bool json_is_word(const struct controller_json *value, const char *words)
{
    size_t length = value->length - 2;

    for (const char *word = words; *word != '\0'; word += strlen(word) + 1) {
        if (strlen(word) == length && strncasecmp(word, value->at + 1, length) == 0) {
            return true;
        }
    }
    return false;
}

static void reader_bool(struct reader *reader, const struct controller_json *value)
{
    int *flag = reader_target(reader);
    struct kvl_chunk_id number;
    enum controller_json_int r;

    switch (value->kind) {
    case CONTROLLER_JSON_TRUE:
    case CONTROLLER_JSON_FALSE:
        *flag = value->kind == CONTROLLER_JSON_TRUE;
        return;
    case CONTROLLER_JSON_STRING:
        if (json_is_word(value, "1\0on\0t\0true\0y\0yes\0")) {
            *flag = 1;
        } else if (json_is_word(value, "0\0off\0f\0false\0n\0no\0")) {
            *flag = 0;
        } else {
            break;
        }
        return;
    case CONTROLLER_JSON_NUMBER:
        r = controller_json_number(value, &number);
        if (r == CONTROLLER_INT_OK && number.bits <= 1 && !number.negative) {
            *flag = number.bits == 1;
            return;
        }
        if (r == CONTROLLER_INT_FRACTION) {
            reader_refuse(reader, "bool_type", "Input should be a valid boolean", value, -1);
            return;
        }
        break;
    default:
        reader_refuse(reader, "bool_type", "Input should be a valid boolean", value, -1);
        return;
    }
    reader_refuse(reader, "bool_parsing",
                  "Input should be a valid boolean, unable to interpret input", value, -1);
}

/* The field is missing, or null where it may be. */
static void reader_default(struct reader *reader, bool is_null)
{
    struct controller_ids *ids = reader_target(reader);
    int *flag = reader_target(reader);

    if (reader->field->kind == CONTROLLER_FIELD_INTS) {
        *ids = (struct controller_ids){.is_set = !is_null};
    } else if (reader->field->kind == CONTROLLER_FIELD_BOOL) {
        *flag = is_null ? -1 : 0;
    }
}

/* Of duplicates the last. */
static bool reader_find(const struct reader *reader, struct controller_json *value_out)
{
    struct controller_json_walk walk = controller_json_members(&reader->root);
    const size_t length = strlen(reader->field->name);
    struct controller_json key;
    struct controller_json value;
    bool found = false;

    /* Names are plain letters; nobody escapes them. */
    while (controller_json_next(&walk, &key, &value)) {
        if (key.length == length + 2 && memcmp(key.at + 1, reader->field->name, length) == 0) {
            *value_out = value;
            found = true;
        }
    }
    return found;
}

static int reader_field(struct reader *reader)
{
    const unsigned flags = reader->field->flags;
    struct controller_json value;

    if (!reader_find(reader, &value)) {
        if ((flags & CONTROLLER_FIELD_OPTIONAL) != 0) {
            reader_default(reader, (flags & CONTROLLER_FIELD_NULL) != 0);
        } else {
            reader_refuse(reader, "missing", "Field required", &reader->root, -1);
        }
        return 0;
    }
    if (value.kind == CONTROLLER_JSON_NULL && (flags & CONTROLLER_FIELD_NULLABLE) != 0) {
        reader_default(reader, true);
        return 0;
    }
    switch (reader->field->kind) {
    case CONTROLLER_FIELD_TEXT:
        reader_text(reader, &value, -1, reader_target(reader));
        return 0;
    case CONTROLLER_FIELD_INTS:
        return reader_ints(reader, &value);
    case CONTROLLER_FIELD_PLACE:
        reader_place(reader, &value);
        return 0;
    case CONTROLLER_FIELD_BOOL:
        reader_bool(reader, &value);
        return 0;
    }
    return 0;
}

int controller_body_read(const struct controller_field *fields, const char *text, size_t length,
                         struct controller_body *body, void *record,
                         struct controller_text *refusal)
{
    struct reader reader = {.body = body, .record = record, .refusal = refusal};
    struct controller_json_error error;
    int r;

    if (length == 0) {
        controller_body_refuse_raw(text, 0, refusal);
        return -EPROTO;
    }
    r = controller_json_check(text, length, &reader.root, &error);
    if (r == -EPROTO) {
        refuse_json(&error, refusal);
    }
    if (r < 0) {
        return r;
    }
    if (reader.root.kind != CONTROLLER_JSON_OBJECT) {
        refuse_begin(refusal, 0, "model_attributes_type");
        controller_text_put(refusal, "\"body\"");
        refuse_msg(refusal, "Input should be a valid dictionary or object to extract fields from");
        refuse_input(refusal, &reader.root);
        controller_text_put(refusal, "}]}");
        return -EPROTO;
    }
    body->room = malloc(length);
    if (body->room == NULL) {
        return -ENOMEM;
    }
    for (reader.field = fields; reader.field->name != NULL && r == 0; reader.field++) {
        r = reader_field(&reader);
    }
    if (r == 0 && reader.details > 0) {
        controller_text_put(refusal, "]}");
        return -EPROTO;
    }
    return r;
}
