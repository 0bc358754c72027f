/* SPDX-License-Identifier: Apache-2.0 */
#include "controller_read.h"

#include <endian.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* ---- errors, in the words of msgspec ---- */

static const char *const read_type_names[] = {
    [KVL_PACK_NIL] = "None",    [KVL_PACK_BOOL] = "bool",  [KVL_PACK_INT] = "int",
    [KVL_PACK_FLOAT] = "float", [KVL_PACK_TEXT] = "str",   [KVL_PACK_BYTES] = "bytes",
    [KVL_PACK_ARRAY] = "array", [KVL_PACK_MAP] = "object", [KVL_PACK_EXT] = "ext",
    [KVL_PACK_BAD] = "unknown",
};

/* The text goes into an ErrorMsg, so a cut must not leave half a character. */
static void read_append(struct controller_reader *in, const char *text, size_t length)
{
    const size_t used = strlen(in->error);
    const size_t room = in->error_room - used - 1;

    if (length > room) {
        for (length = room; length > 0 && ((uint8_t)text[length] & 0xc0) == 0x80;) {
            length--;
        }
    }
    memcpy(in->error + used, text, length);
    in->error[used + length] = 0;
}

static void read_append_path(struct controller_reader *in, const struct controller_at *at)
{
    char number[32];

    if (at->up != NULL) {
        read_append_path(in, at->up);
    }
    if (at->field != NULL) {
        read_append(in, ".", 1);
        read_append(in, at->field, strlen(at->field));
    } else if (at->index >= 0) {
        (void)snprintf(number, sizeof(number), "[%lld]", (long long)at->index);
        read_append(in, number, strlen(number));
    } else if (at->index == CONTROLLER_AT_ENTRY) {
        read_append(in, "[...]", 5);
    }
}

/* What was said so far is about `at`. */
static void read_append_at(struct controller_reader *in, const struct controller_at *at)
{
    if (at == NULL) {
        return;
    }
    read_append(in, " - at ", 6);
    if (at->index == CONTROLLER_AT_KEY) {
        read_append(in, "`key` in ", 9);
    }
    read_append(in, "`$", 2);
    read_append_path(in, at);
    read_append(in, "`", 1);
}

int controller_read_fail(struct controller_reader *in, int r, const struct controller_at *at,
                         const char *format, ...)
{
    char text[256];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    in->error[0] = 0;
    read_append(in, text, strlen(text));
    read_append_at(in, at);
    return r;
}

int controller_read_invalid(struct controller_reader *in, const struct controller_at *at,
                            struct kvl_text value)
{
    in->error[0] = 0;
    read_append(in, "Invalid value '", 15);
    read_append(in, value.text, value.length);
    read_append(in, "'", 1);
    read_append_at(in, at);
    return -EPROTO;
}

/* Bytes of the character that begins here. */
static size_t read_character(const char *text)
{
    const uint8_t lead = (uint8_t)text[0];

    return lead < 0xc0 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
}

/* What repr() of Python writes for the characters that have a name there. */
static const char *read_escape(char c, char quote)
{
    switch (c) {
    case '\n':
        return "\\n";
    case '\r':
        return "\\r";
    case '\t':
        return "\\t";
    case '\\':
        return "\\\\";
    case '\'':
        return quote == '\'' ? "\\'" : NULL;
    default:
        return NULL;
    }
}

/* As repr(), but what it escapes beyond Latin-1 stays as it is. */
static void read_append_repr(struct controller_reader *in, struct kvl_text value)
{
    const int has_single = memchr(value.text, '\'', value.length) != NULL;
    const int has_double = memchr(value.text, '"', value.length) != NULL;
    const char quote = has_single && !has_double ? '"' : '\'';
    const char *escape;
    char number[8];
    size_t step;
    uint8_t code;

    read_append(in, &quote, 1);
    for (const char *at = value.text; at < value.text + value.length; at += step) {
        step = read_character(at);
        code = (uint8_t)*at == 0xc2 ? (uint8_t)at[1] : (uint8_t)*at;
        escape = read_escape(*at, quote);
        if (escape != NULL) {
            read_append(in, escape, 2);
        } else if (step < 3 && (code < 0x20 || (code >= 0x7f && code <= 0xa0) || code == 0xad)) {
            (void)snprintf(number, sizeof(number), "\\x%02x", code);
            read_append(in, number, 4);
        } else {
            read_append(in, at, step);
        }
    }
    read_append(in, &quote, 1);
}

/* What stopped the reader itself. */
static int read_broken(struct controller_reader *in, int r)
{
    if (r == -ENODATA) {
        return controller_read_fail(in, -EPROTO, NULL, "Input data was truncated");
    }
    if (r == -EMSGSIZE) {
        return controller_read_fail(in, r, NULL, "Nested deeper than %u levels", in->limits->depth);
    }
    return controller_read_fail(in, -EPROTO, NULL,
                                "MessagePack data is malformed: invalid opcode '\\xc1' (byte %zu)",
                                kvl_pack_offset(&in->pack));
}

/* Another type comes next. msgspec reads it before it complains. */
static int read_unexpected(struct controller_reader *in, const struct controller_at *at,
                           const char *expected)
{
    struct kvl_pack ahead = in->pack;
    struct kvl_pack_item item;
    int r = kvl_pack_read(&ahead, &item);

    if (r < 0) {
        return read_broken(in, r);
    }
    return controller_read_fail(in, -EPROTO, at, "Expected `%s`, got `%s`", expected,
                                read_type_names[item.type]);
}

/* A typed read said `r`. */
static int read_refused(struct controller_reader *in, int r, const struct controller_at *at,
                        const char *expected)
{
    if (r == -EINVAL) {
        return read_unexpected(in, at, expected);
    }
    if (r == -ERANGE) {
        return controller_read_fail(in, -EMSGSIZE, at, "Integer out of range");
    }
    return read_broken(in, r);
}

/* ---- values ---- */

static int read_raw_text(struct controller_reader *in, const struct controller_at *at,
                         const char *expected, struct kvl_text *text_out)
{
    struct kvl_text text = {0};
    int r = kvl_pack_read_text(&in->pack, &text.text, &text.length);

    if (r < 0) {
        return read_refused(in, r, at, expected);
    }
    if (text.length > in->limits->text_bytes) {
        return controller_read_fail(in, -EMSGSIZE, at, "String of %u bytes is over the limit of %u",
                                    text.length, in->limits->text_bytes);
    }
    *text_out = text;
    return 0;
}

static int read_check_utf8(struct controller_reader *in, const struct controller_at *at,
                           struct kvl_text text)
{
    if (!kvl_pack_is_utf8(text.text, text.length)) {
        return controller_read_fail(in, -EILSEQ, at, "String is not UTF-8");
    }
    return 0;
}

int controller_read_text(struct controller_reader *in, const struct controller_at *at,
                         const char *expected, struct kvl_text *text_out)
{
    struct kvl_text text = {0};
    int r = read_raw_text(in, at, expected, &text);

    if (r == 0) {
        r = read_check_utf8(in, at, text);
    }
    if (r == 0) {
        *text_out = text;
    }
    return r;
}

/* Where nothing but a text makes sense, msgspec does not read anything else, and says null. */
static int read_word(struct controller_reader *in, const struct controller_at *at,
                     struct kvl_text *word_out)
{
    const enum kvl_pack_type type = kvl_pack_peek(&in->pack);

    if (type != KVL_PACK_TEXT && type != KVL_PACK_END) {
        return controller_read_fail(in, -EPROTO, at, "Expected `str`, got `%s`",
                                    type == KVL_PACK_NIL ? "null" : read_type_names[type]);
    }
    return read_raw_text(in, at, "str", word_out);
}

/* Strange names are passed over, so their bytes are not checked. */
int controller_read_name(struct controller_reader *in, const struct controller_at *at,
                         struct kvl_text *name_out)
{
    const struct controller_at key = {.up = at, .index = CONTROLLER_AT_KEY};

    return read_word(in, &key, name_out);
}

int controller_read_tag(struct controller_reader *in, const struct controller_at *at,
                        struct kvl_text *tag_out)
{
    struct kvl_text tag = {0};
    int r = read_word(in, at, &tag);

    if (r == 0) {
        r = read_check_utf8(in, at, tag);
    }
    if (r == 0) {
        *tag_out = tag;
    }
    return r;
}

int controller_read_opt_text(struct controller_reader *in, const struct controller_at *at,
                             const char *expected, struct controller_opt_text *text_out)
{
    struct kvl_text text = {0};
    const int is_nil = kvl_pack_read_nil(&in->pack) == 0;
    int r = is_nil ? 0 : controller_read_text(in, at, expected, &text);

    if (r == 0) {
        *text_out = (struct controller_opt_text){.value = text, .is_set = !is_nil};
    }
    return r;
}

int controller_read_int(struct controller_reader *in, const struct controller_at *at,
                        int64_t *value_out)
{
    int r = kvl_pack_read_i64(&in->pack, value_out);

    return r < 0 ? read_refused(in, r, at, "int") : 0;
}

int controller_read_id(struct controller_reader *in, const struct controller_at *at,
                       struct kvl_chunk_id *id_out)
{
    struct kvl_chunk_id id = {0};
    const uint8_t *bytes = in->pack.at;
    uint64_t big;
    int negative;
    int r;

    /* nearly all hashes are of this form */
    if (kvl_pack_left(&in->pack) >= 9 && (bytes[0] == 0xcf || bytes[0] == 0xd3)) {
        memcpy(&big, bytes + 1, sizeof(big));
        id_out->bits = be64toh(big);
        id_out->negative = bytes[0] == 0xd3 && (bytes[1] & 0x80) != 0;
        id_out->reserved = 0;
        in->pack.at += 9;
        return 0;
    }
    r = kvl_pack_read_int(&in->pack, &id.bits, &negative);
    if (r < 0) {
        return read_refused(in, r, at, "int");
    }
    id.negative = (uint32_t)negative;
    *id_out = id;
    return 0;
}

int controller_read_float(struct controller_reader *in, const struct controller_at *at,
                          double *value_out)
{
    int r = kvl_pack_read_float(&in->pack, value_out);

    return r < 0 ? read_refused(in, r, at, "float") : 0;
}

int controller_read_bool(struct controller_reader *in, const struct controller_at *at,
                         const char *expected, int *value_out)
{
    int r = kvl_pack_read_bool(&in->pack, value_out);

    return r < 0 ? read_refused(in, r, at, expected) : 0;
}

int controller_read_opt_bool(struct controller_reader *in, const struct controller_at *at,
                             const char *expected, int *value_out)
{
    if (kvl_pack_read_nil(&in->pack) == 0) {
        *value_out = -1;
        return 0;
    }
    return controller_read_bool(in, at, expected, value_out);
}

int controller_read_op_type(struct controller_reader *in, const struct controller_at *at,
                            uint32_t *kind_out)
{
    struct kvl_text text = {0};
    int r = controller_read_text(in, at, "str", &text);

    if (r < 0) {
        return r;
    }
    if (text.length == 5 && memcmp(text.text, "admit", 5) == 0) {
        *kind_out = KVL_KEY_ADMIT;
    } else if (text.length == 5 && memcmp(text.text, "evict", 5) == 0) {
        *kind_out = KVL_KEY_EVICT;
    } else {
        in->error[0] = 0;
        read_append(in, "Invalid enum value ", 19);
        read_append_repr(in, text);
        read_append_at(in, at);
        return -EPROTO;
    }
    return 0;
}

int controller_read_array(struct controller_reader *in, const struct controller_at *at,
                          const char *expected, uint32_t *count_out)
{
    int r = kvl_pack_read_array(&in->pack, count_out);

    return r < 0 ? read_refused(in, r, at, expected) : 0;
}

int controller_read_map(struct controller_reader *in, const struct controller_at *at,
                        const char *expected, uint32_t *count_out)
{
    int r = kvl_pack_read_map(&in->pack, count_out);

    return r < 0 ? read_refused(in, r, at, expected) : 0;
}

int controller_read_tuple(struct controller_reader *in, const struct controller_at *at,
                          uint32_t length)
{
    uint32_t count;
    int r = controller_read_array(in, at, "array", &count);

    if (r == 0 && count != length) {
        return controller_read_fail(in, -EPROTO, at, "Expected `array` of length %u, got %u",
                                    length, count);
    }
    return r;
}

int controller_read_position(struct controller_reader *in, const struct controller_at *at,
                             struct controller_position *position_out)
{
    const struct controller_at first = {.up = at, .index = 0};
    const struct controller_at second = {.up = at, .index = 1};
    struct controller_position position;
    int r = controller_read_tuple(in, at, 2);

    if (r == 0) {
        r = controller_read_text(in, &first, "str", &position.first);
    }
    if (r == 0) {
        r = controller_read_text(in, &second, "str", &position.location);
    }
    if (r == 0) {
        *position_out = position;
    }
    return r;
}

int controller_read_skip(struct controller_reader *in)
{
    int r = kvl_pack_skip(&in->pack, in->limits->depth);

    return r < 0 ? read_broken(in, r) : 0;
}

int controller_read_take(struct controller_reader *in, const struct controller_at *at,
                         uint32_t count, size_t size, size_t least, void **list_out)
{
    const size_t most = kvl_pack_left(&in->pack) / least;
    const size_t room = count > most ? most + 1 : count;

    if (count > in->items_left) {
        return controller_read_fail(in, -EMSGSIZE, at, "List of %u is over the limit of %u", count,
                                    in->limits->list_items);
    }
    in->items_left -= count;
    *list_out = NULL;
    if (count == 0) {
        return 0;
    }
    *list_out = controller_arena_take(in->arena, room * size);
    return *list_out == NULL ? controller_read_fail(in, -ENOMEM, NULL, "Out of memory") : 0;
}
