/* SPDX-License-Identifier: Apache-2.0 */
#include "controller_json.h"

#include <assert.h>
#include <errno.h>
#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define JSON_NUMBER_MAX 512u /* the largest double takes 309 digits */
#define JSON_OWN_LEVELS 3u /* of a message above what it may skip */
#define JSON_HEAD_MAX 5u /* of a text, array or map */

struct json {
    struct controller_reader *in;
    const char *start;
    const char *at;
    const char *end;
    struct kvl_pack_out out;
};

static int json_fail(struct json *json, const char *what)
{
    if (json->at == json->end) {
        return controller_read_fail(json->in, -EPROTO, NULL, "Input data was truncated");
    }
    return controller_read_fail(json->in, -EPROTO, NULL, "JSON is malformed: %s (byte %zu)", what,
                                (size_t)(json->at - json->start));
}

static void json_blanks(struct json *json)
{
    while (json->at < json->end &&
           (*json->at == ' ' || *json->at == '\n' || *json->at == '\r' || *json->at == '\t')) {
        json->at++;
    }
}

/* The next character after blanks; 0 at the end. */
static char json_peek(struct json *json)
{
    json_blanks(json);
    return json->at < json->end ? *json->at : 0;
}

/* ---- texts ---- */

static int json_hex4(struct json *json, uint32_t *code_out)
{
    uint32_t code = 0;
    char c;

    for (int i = 0; i < 4; i++, json->at++) {
        c = json->at < json->end ? *json->at : 0;
        if (c >= '0' && c <= '9') {
            code = code << 4 | (uint32_t)(c - '0');
        } else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f') {
            code = code << 4 | (uint32_t)((c | 0x20) - 'a' + 10);
        } else {
            return json_fail(json, "invalid character in unicode escape");
        }
    }
    *code_out = code;
    return 0;
}

/* Behind `\u`. */
static int json_code_point(struct json *json, uint32_t *code_out)
{
    uint32_t high = 0;
    uint32_t low = 0;
    int r = json_hex4(json, &high);

    if (r < 0 || high < 0xd800 || high > 0xdfff) {
        *code_out = high;
        return r;
    }
    if (high > 0xdbff || json->end - json->at < 2 || json->at[0] != '\\' || json->at[1] != 'u') {
        return json_fail(json, "half a surrogate pair");
    }
    json->at += 2;
    r = json_hex4(json, &low);
    if (r < 0) {
        return r;
    }
    if (low < 0xdc00 || low > 0xdfff) {
        return json_fail(json, "half a surrogate pair");
    }
    *code_out = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
    return 0;
}

static size_t json_put_code_point(uint8_t *at, uint32_t code)
{
    if (code < 0x80) {
        at[0] = (uint8_t)code;
        return 1;
    }
    if (code < 0x800) {
        at[0] = (uint8_t)(0xc0 | code >> 6);
        at[1] = (uint8_t)(0x80 | (code & 0x3f));
        return 2;
    }
    if (code < 0x10000) {
        at[0] = (uint8_t)(0xe0 | code >> 12);
        at[1] = (uint8_t)(0x80 | (code >> 6 & 0x3f));
        at[2] = (uint8_t)(0x80 | (code & 0x3f));
        return 3;
    }
    at[0] = (uint8_t)(0xf0 | code >> 18);
    at[1] = (uint8_t)(0x80 | (code >> 12 & 0x3f));
    at[2] = (uint8_t)(0x80 | (code >> 6 & 0x3f));
    at[3] = (uint8_t)(0x80 | (code & 0x3f));
    return 4;
}

/* Behind a backslash. */
static int json_escape(struct json *json, uint8_t *at, size_t *length_out)
{
    static const char names[] = "\"\\/bfnrt";
    static const char values[] = "\"\\/\b\f\n\r\t";
    const char c = json->at < json->end ? *json->at : 0;
    const char *name = c == 0 ? NULL : strchr(names, c);
    uint32_t code = 0;
    int r;

    if (c == 'u') {
        json->at++;
        r = json_code_point(json, &code);
        if (r == 0) {
            *length_out = json_put_code_point(at, code);
        }
        return r;
    }
    if (name == NULL) {
        return json_fail(json, "invalid escape character in string");
    }
    json->at++;
    at[0] = (uint8_t)values[name - names];
    *length_out = 1;
    return 0;
}

/* The end of a stretch of characters that stand for themselves. */
static const char *json_plain(const struct json *json)
{
    const char *at = json->at;

    while (at < json->end && *at != '"' && *at != '\\' && (uint8_t)*at >= 0x20) {
        at++;
    }
    return at;
}

/* Copies a text up to and with its closing quote, escapes resolved. */
static int json_text_body(struct json *json, uint8_t *bytes, size_t *length_out)
{
    size_t length = 0;
    const char *stop;
    size_t step;
    int r;

    for (;;) {
        stop = json_plain(json);
        step = (size_t)(stop - json->at);
        memcpy(bytes + length, json->at, step);
        length += step;
        json->at = stop;
        if (stop == json->end || (uint8_t)*stop < 0x20) {
            return json_fail(json, "invalid character");
        }
        json->at++;
        if (*stop == '"') {
            *length_out = length;
            return 0;
        }
        r = json_escape(json, bytes + length, &step);
        if (r < 0) {
            return r;
        }
        length += step;
    }
}

static int json_text(struct json *json)
{
    struct kvl_pack_out *out = &json->out;
    uint8_t *bytes = out->at + out->length + JSON_HEAD_MAX;
    size_t length = 0;
    int r;

    if (json_peek(json) != '"') {
        return json_fail(json, "expected '\"'");
    }
    json->at++;
    assert(out->room - out->length >= JSON_HEAD_MAX + (size_t)(json->end - json->at));
    r = json_text_body(json, bytes, &length);
    if (r < 0) {
        return r;
    }
    kvl_pack_put_text_head(out, (uint32_t)length);
    memmove(out->at + out->length, bytes, length);
    out->length += length;
    return 0;
}

/* ---- numbers ---- */

static size_t json_digits(struct json *json)
{
    const char *from = json->at;

    while (json->at < json->end && *json->at >= '0' && *json->at <= '9') {
        json->at++;
    }
    return (size_t)(json->at - from);
}

/* Passes over a number; says whether it is a float. */
static int json_scan_number(struct json *json, int *is_float_out)
{
    size_t digits;
    int leading_zero;

    *is_float_out = 0;
    json->at += *json->at == '-';
    leading_zero = json->at < json->end && *json->at == '0';
    digits = json_digits(json);
    if (digits == 0 || (leading_zero && digits > 1)) {
        return json_fail(json, "invalid number");
    }
    if (json->at < json->end && *json->at == '.') {
        json->at++;
        *is_float_out = 1;
        if (json_digits(json) == 0) {
            return json_fail(json, "invalid number");
        }
    }
    if (json->at < json->end && (*json->at == 'e' || *json->at == 'E')) {
        json->at++;
        *is_float_out = 1;
        json->at += json->at < json->end && (*json->at == '+' || *json->at == '-');
        if (json_digits(json) == 0) {
            return json_fail(json, "invalid number");
        }
    }
    return 0;
}

static int json_out_of_range(struct json *json, const char *from)
{
    return controller_read_fail(json->in, -EPROTO, NULL, "Number out of range (byte %zu)",
                                (size_t)(from - json->start));
}

static int json_int(struct json *json, const char *from)
{
    const int negative = *from == '-';
    const uint64_t most = negative ? (uint64_t)1 << 63 : UINT64_MAX;
    uint64_t value = 0;
    uint64_t digit;

    for (const char *at = from + negative; at < json->at; at++) {
        digit = (uint64_t)(*at - '0');
        if (value > (most - digit) / 10) {
            return json_out_of_range(json, from);
        }
        value = value * 10 + digit;
    }
    kvl_pack_put_int(&json->out, negative ? 0 - value : value, negative && value > 0);
    return 0;
}

static int json_float(struct json *json, const char *from)
{
    const size_t length = (size_t)(json->at - from);
    char text[JSON_NUMBER_MAX + 1];
    locale_t c_locale;
    double value;

    if (length > JSON_NUMBER_MAX) {
        return json_out_of_range(json, from);
    }
    memcpy(text, from, length);
    text[length] = 0;
    /* the engine's own locale may want a comma */
    c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    if (c_locale == (locale_t)0) {
        return controller_read_fail(json->in, -ENOMEM, NULL, "Out of memory");
    }
    value = strtod_l(text, NULL, c_locale);
    freelocale(c_locale);
    if (!isfinite(value)) {
        return json_out_of_range(json, from);
    }
    kvl_pack_put_float(&json->out, value);
    return 0;
}

static int json_number(struct json *json)
{
    const char *from = json->at;
    int is_float;
    int r = json_scan_number(json, &is_float);

    if (r < 0) {
        return r;
    }
    return is_float ? json_float(json, from) : json_int(json, from);
}

/* ---- values ---- */

static int json_word(struct json *json, const char *word)
{
    for (const char *at = word; *at != 0; at++, json->at++) {
        if (json->at == json->end || *json->at != *at) {
            return json_fail(json, "invalid character");
        }
    }
    switch (word[0]) {
    case 'n':
        kvl_pack_put_nil(&json->out);
        break;
    default:
        kvl_pack_put_bool(&json->out, word[0] == 't');
        break;
    }
    return 0;
}

static int json_value(struct json *json, uint32_t levels);

/* Writes the head of what was written since `from`, one byte before it was kept free. */
static void json_close(struct json *json, size_t from, uint32_t count, int is_map)
{
    struct kvl_pack_out *out = &json->out;
    const size_t length = out->length - from;
    struct kvl_pack_out head;
    uint8_t bytes[JSON_HEAD_MAX];

    kvl_pack_out_init(&head, bytes, sizeof(bytes));
    if (is_map) {
        kvl_pack_put_map(&head, count);
    } else {
        kvl_pack_put_array(&head, count);
    }
    assert(out->room - out->length >= head.length);
    memmove(out->at + from - 1 + head.length, out->at + from, length);
    memcpy(out->at + from - 1, bytes, head.length);
    out->length = from - 1 + head.length + length;
}

static int json_member(struct json *json, uint32_t levels, int is_map)
{
    int r;

    if (is_map) {
        r = json_text(json);
        if (r < 0) {
            return r;
        }
        if (json_peek(json) != ':') {
            return json_fail(json, "expected ':'");
        }
        json->at++;
    }
    return json_value(json, levels);
}

static int json_container(struct json *json, uint32_t levels)
{
    const int is_map = *json->at == '{';
    const char end = is_map ? '}' : ']';
    uint32_t count = 0;
    size_t from;
    int r;

    if (levels == 0) {
        return controller_read_fail(json->in, -EMSGSIZE, NULL, "Nested deeper than %u levels",
                                    json->in->limits->depth);
    }
    json->at++;
    kvl_pack_put_nil(&json->out); /* the head, until the count is known */
    from = json->out.length;
    while (json_peek(json) != end || count > 0) {
        r = json_member(json, levels - 1, is_map);
        if (r < 0) {
            return r;
        }
        count++;
        if (json_peek(json) == end) {
            break;
        }
        if (json_peek(json) != ',') {
            return json_fail(json, is_map ? "expected ',' or '}'" : "expected ',' or ']'");
        }
        json->at++;
    }
    json->at++;
    json_close(json, from, count, is_map);
    return 0;
}

static int json_value(struct json *json, uint32_t levels)
{
    switch (json_peek(json)) {
    case '{':
    case '[':
        return json_container(json, levels);
    case '"':
        return json_text(json);
    case 'n':
        return json_word(json, "null");
    case 't':
        return json_word(json, "true");
    case 'f':
        return json_word(json, "false");
    case '-':
    case '0':
    case '1':
    case '2':
    case '3':
    case '4':
    case '5':
    case '6':
    case '7':
    case '8':
    case '9':
        return json_number(json);
    default:
        return json_fail(json, "invalid character");
    }
}

int controller_json_to_pack(struct controller_reader *in, const void *frame, size_t length,
                            const void **pack_out, size_t *length_out)
{
    const uint32_t depth =
        in->limits->depth < KVL_PACK_DEPTH_MAX ? in->limits->depth : KVL_PACK_DEPTH_MAX;
    /* a float takes four characters, with what parts it from the next, and nine bytes */
    const size_t room = length / 2 * 5 + 32;
    struct json json = {.in = in, .start = frame, .at = frame};
    void *bytes;
    int r;

    json.end = json.start + length;
    if (!kvl_pack_is_utf8(frame, length)) {
        return controller_read_fail(in, -EILSEQ, NULL, "JSON is not UTF-8");
    }
    bytes = controller_arena_take(in->arena, room);
    if (bytes == NULL) {
        return controller_read_fail(in, -ENOMEM, NULL, "Out of memory");
    }
    kvl_pack_out_init(&json.out, bytes, room);
    r = json_value(&json, depth + JSON_OWN_LEVELS);
    if (r < 0) {
        return r;
    }
    json_blanks(&json);
    if (json.at < json.end) {
        return json_fail(&json, "trailing characters");
    }
    *pack_out = bytes;
    *length_out = json.out.length;
    return 0;
}
