/* SPDX-License-Identifier: Apache-2.0 */
#include "controller_http_json.h"
#include "utf8.h"

#include <errno.h>
#include <string.h>

struct check {
    const char *start;
    const char *at;
    const char *end;
    struct controller_json_error error;
    unsigned depth;
    int code;
};

static bool json_is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static bool json_is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static int json_hex(char c)
{
    if (json_is_digit(c)) {
        return c - '0';
    }
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* ---- check ---- */

/* Offsets are told in characters. */
static bool check_fail(struct check *check, const char *at, const char *text)
{
    size_t characters = 0;

    for (const char *c = check->start; c < at; c++) {
        characters += ((unsigned char)*c & 0xc0) != 0x80;
    }
    check->error = (struct controller_json_error){.at = characters, .text = text};
    check->code = -EPROTO;
    return false;
}

static void check_blanks(struct check *check)
{
    while (check->at < check->end && json_is_blank(*check->at)) {
        check->at++;
    }
}

static bool check_is(const struct check *check, char c)
{
    return check->at < check->end && *check->at == c;
}

/* The four digits behind `\u`, or -1. */
static int32_t check_unit(const struct check *check, const char *at)
{
    int32_t unit = 0;

    if (check->end - at < 4) {
        return -1;
    }
    for (int i = 0; i < 4; i++) {
        int digit = json_hex(at[i]);

        if (digit < 0) {
            return -1;
        }
        unit = unit * 16 + digit;
    }
    return unit;
}

/* Behind the backslash. A lone surrogate has no form in UTF-8. */
static bool check_escape(struct check *check)
{
    const char *at = check->at;
    int32_t unit;

    if (at < check->end && *at != '\0' && strchr("\"\\/bfnrt", *at) != NULL) {
        check->at++;
        return true;
    }
    if (at == check->end || *at != 'u') {
        return check_fail(check, at - 1, "Invalid \\escape");
    }
    unit = check_unit(check, at + 1);
    if (unit < 0 || (unit >= 0xdc00 && unit <= 0xdfff)) {
        return check_fail(check, at, "Invalid \\uXXXX escape");
    }
    check->at += 5;
    if (unit >= 0xd800 && unit <= 0xdbff) {
        at = check->at;
        unit =
            check->end - at >= 6 && at[0] == '\\' && at[1] == 'u' ? check_unit(check, at + 2) : -1;
        if (unit < 0xdc00 || unit > 0xdfff) {
            return check_fail(check, at, "Invalid \\uXXXX escape");
        }
        check->at += 6;
    }
    return true;
}

static bool check_string(struct check *check)
{
    const char *start = check->at++;

    while (check->at < check->end && *check->at != '"') {
        unsigned char c = (unsigned char)*check->at;
        size_t step = kvl_utf8_sequence(check->at, (size_t)(check->end - check->at));

        if (step == 0) {
            check->code = -EILSEQ;
            return false;
        }
        if (c < 0x20) {
            return check_fail(check, check->at, "Invalid control character at");
        }
        check->at += step;
        if (c == '\\' && !check_escape(check)) {
            return false;
        }
    }
    if (check->at == check->end) {
        return check_fail(check, start, "Unterminated string starting at");
    }
    check->at++;
    return true;
}

static size_t check_digits(struct check *check)
{
    const char *start = check->at;

    while (check->at < check->end && json_is_digit(*check->at)) {
        check->at++;
    }
    return (size_t)(check->at - start);
}

static bool check_number(struct check *check)
{
    const char *start = check->at;
    const char *mark;

    check->at += check_is(check, '-');
    if (check_is(check, '0')) {
        check->at++;
    } else if (check_digits(check) == 0) {
        return check_fail(check, start, "Expecting value");
    }
    /* A point or an exponent without digits is no part of the number. */
    mark = check->at;
    if (check_is(check, '.')) {
        check->at++;
        if (check_digits(check) == 0) {
            check->at = mark;
            return true;
        }
    }
    mark = check->at;
    if (check_is(check, 'e') || check_is(check, 'E')) {
        check->at++;
        check->at += check_is(check, '+') || check_is(check, '-');
        if (check_digits(check) == 0) {
            check->at = mark;
        }
    }
    return true;
}

static bool check_word(struct check *check, const char *word)
{
    size_t length = strlen(word);

    if ((size_t)(check->end - check->at) < length || memcmp(check->at, word, length) != 0) {
        return check_fail(check, check->at, "Expecting value");
    }
    check->at += length;
    return true;
}

static bool check_value(struct check *check);

static bool check_member(struct check *check, bool is_object)
{
    if (is_object) {
        if (!check_is(check, '"')) {
            return check_fail(check, check->at,
                              "Expecting property name enclosed in double quotes");
        }
        if (!check_string(check)) {
            return false;
        }
        check_blanks(check);
        if (!check_is(check, ':')) {
            return check_fail(check, check->at, "Expecting ':' delimiter");
        }
        check->at++;
        check_blanks(check);
    }
    return check_value(check);
}

static bool check_members(struct check *check)
{
    const bool is_object = *check->at == '{';
    const char close = is_object ? '}' : ']';

    if (++check->depth > CONTROLLER_JSON_DEPTH) {
        return check_fail(check, check->at, "Nested too deeply");
    }
    check->at++;
    check_blanks(check);
    if (check_is(check, close)) {
        check->at++;
        check->depth--;
        return true;
    }
    for (;;) {
        if (!check_member(check, is_object)) {
            return false;
        }
        check_blanks(check);
        if (check_is(check, close)) {
            check->at++;
            check->depth--;
            return true;
        }
        if (!check_is(check, ',')) {
            return check_fail(check, check->at, "Expecting ',' delimiter");
        }
        check->at++;
        check_blanks(check);
    }
}

static bool check_value(struct check *check)
{
    if (check->at == check->end) {
        return check_fail(check, check->at, "Expecting value");
    }
    switch (*check->at) {
    case '{':
    case '[':
        return check_members(check);
    case '"':
        return check_string(check);
    case 'n':
        return check_word(check, "null");
    case 't':
        return check_word(check, "true");
    case 'f':
        return check_word(check, "false");
    default:
        return check_number(check);
    }
}

static enum controller_json_kind json_kind(char c)
{
    switch (c) {
    case '{':
        return CONTROLLER_JSON_OBJECT;
    case '[':
        return CONTROLLER_JSON_LIST;
    case '"':
        return CONTROLLER_JSON_STRING;
    case 'n':
        return CONTROLLER_JSON_NULL;
    case 't':
        return CONTROLLER_JSON_TRUE;
    case 'f':
        return CONTROLLER_JSON_FALSE;
    default:
        return CONTROLLER_JSON_NUMBER;
    }
}

int controller_json_check(const char *text, size_t length, struct controller_json *value_out,
                          struct controller_json_error *error_out)
{
    struct check check = {.start = text, .at = text, .end = text + length};
    const char *first;
    const char *last;

    check_blanks(&check);
    first = check.at;
    if (check_value(&check)) {
        last = check.at;
        check_blanks(&check);
        if (check.at == check.end) {
            *value_out = (struct controller_json){
                .at = first,
                .length = (size_t)(last - first),
                .kind = json_kind(*first),
            };
            return 0;
        }
        (void)check_fail(&check, check.at, "Extra data");
    }
    *error_out = check.error;
    return check.code;
}

/* ---- walk: the text is known to be right ---- */

static const char *walk_string(const char *at)
{
    for (at++; *at != '"'; at++) {
        at += *at == '\\';
    }
    return at + 1;
}

static const char *walk_value(const char *at, const char *end)
{
    unsigned depth = 0;

    while (at < end) {
        char c = *at;

        if (c == '"') {
            at = walk_string(at);
        } else if (c == '[' || c == '{') {
            depth++;
            at++;
            continue;
        } else if (c == ']' || c == '}') {
            if (depth == 0) {
                return at;
            }
            depth--;
            at++;
        } else if (depth == 0 && (c == ',' || c == ':' || json_is_blank(c))) {
            return at;
        } else {
            at++;
            continue;
        }
        if (depth == 0) {
            return at;
        }
    }
    return at;
}

struct controller_json_walk controller_json_members(const struct controller_json *value)
{
    return (struct controller_json_walk){
        .at = value->at + 1,
        .end = value->at + value->length - 1,
        .is_object = value->kind == CONTROLLER_JSON_OBJECT,
    };
}

static struct controller_json walk_take(struct controller_json_walk *walk)
{
    const char *start;

    while (walk->at < walk->end &&
           (json_is_blank(*walk->at) || *walk->at == ',' || *walk->at == ':')) {
        walk->at++;
    }
    start = walk->at;
    if (start == walk->end) {
        return (struct controller_json){0};
    }
    walk->at = walk_value(start, walk->end);
    return (struct controller_json){
        .at = start,
        .length = (size_t)(walk->at - start),
        .kind = json_kind(*start),
    };
}

bool controller_json_next(struct controller_json_walk *walk, struct controller_json *key_out,
                          struct controller_json *value_out)
{
    struct controller_json first = walk_take(walk);

    if (first.at == NULL) {
        return false;
    }
    if (walk->is_object) {
        *key_out = first;
        first = walk_take(walk);
    }
    *value_out = first;
    return true;
}

/* ---- strings ---- */

static size_t json_put_utf8(char *to, uint32_t point)
{
    if (point < 0x80) {
        to[0] = (char)point;
        return 1;
    }
    if (point < 0x800) {
        to[0] = (char)(0xc0 | point >> 6);
        to[1] = (char)(0x80 | (point & 0x3f));
        return 2;
    }
    if (point < 0x10000) {
        to[0] = (char)(0xe0 | point >> 12);
        to[1] = (char)(0x80 | (point >> 6 & 0x3f));
        to[2] = (char)(0x80 | (point & 0x3f));
        return 3;
    }
    to[0] = (char)(0xf0 | point >> 18);
    to[1] = (char)(0x80 | (point >> 12 & 0x3f));
    to[2] = (char)(0x80 | (point >> 6 & 0x3f));
    to[3] = (char)(0x80 | (point & 0x3f));
    return 4;
}

static uint32_t json_unit(const char *at)
{
    uint32_t unit = 0;

    for (int i = 0; i < 4; i++) {
        unit = unit * 16 + (uint32_t)json_hex(at[i]);
    }
    return unit;
}

static char json_plain_escape(char c)
{
    static const char from[] = "bfnrt";
    static const char to[] = "\b\f\n\r\t";
    const char *at = strchr(from, c);

    return at != NULL ? to[at - from] : c;
}

struct kvl_text controller_json_string(const struct controller_json *value, char *room)
{
    const char *at = value->at + 1;
    const char *end = value->at + value->length - 1;
    size_t used = 0;

    if (memchr(at, '\\', (size_t)(end - at)) == NULL) {
        return (struct kvl_text){.text = at, .length = (uint32_t)(end - at)};
    }
    while (at < end) {
        uint32_t point;

        if (*at != '\\') {
            room[used++] = *at++;
        } else if (at[1] != 'u') {
            room[used++] = json_plain_escape(at[1]);
            at += 2;
        } else {
            point = json_unit(at + 2);
            at += 6;
            if (point >= 0xd800 && point <= 0xdbff) {
                point = 0x10000 + ((point - 0xd800) << 10) + (json_unit(at + 2) - 0xdc00);
                at += 6;
            }
            used += json_put_utf8(room + used, point);
        }
    }
    return (struct kvl_text){.text = room, .length = (uint32_t)used};
}

/* ---- numbers ---- */

/* `digits` times 10^exponent, where the caller has seen that it is whole. */
static enum controller_json_int json_whole(const char *digits, size_t count, int64_t exponent,
                                           bool negative, struct kvl_chunk_id *number_out)
{
    uint64_t bits = 0;

    for (size_t i = 0; i < count; i++) {
        if (json_is_digit(digits[i]) && (__builtin_mul_overflow(bits, 10, &bits) ||
                                         __builtin_add_overflow(bits, digits[i] - '0', &bits))) {
            return CONTROLLER_INT_SIZE;
        }
    }
    for (; exponent > 0 && bits != 0; exponent--) {
        if (__builtin_mul_overflow(bits, 10, &bits)) {
            return CONTROLLER_INT_SIZE;
        }
    }
    if (negative && bits > (uint64_t)1 << 63) {
        return CONTROLLER_INT_SIZE;
    }
    *number_out = (struct kvl_chunk_id){
        .bits = negative ? 0 - bits : bits,
        .negative = negative && bits != 0,
    };
    return CONTROLLER_INT_OK;
}

static int64_t json_exponent(const char *at, const char *end)
{
    int64_t exponent = 0;
    bool negative = at < end && *at == '-';

    at += at < end && (*at == '-' || *at == '+');
    for (; at < end; at++) {
        exponent = exponent < 100000000 ? exponent * 10 + (*at - '0') : exponent;
    }
    return negative ? -exponent : exponent;
}

/* A checked JSON number: is it whole? Told from its digits, so that no float is in between. */
static enum controller_json_int json_number(const char *at, size_t length,
                                            struct kvl_chunk_id *number_out)
{
    const char *end = at + length;
    const bool negative = *at == '-';
    const char *point;
    const char *mark = at;
    int64_t exponent = 0;
    size_t count;

    at += negative;
    while (mark < end && *mark != 'e' && *mark != 'E') {
        mark++;
    }
    if (mark < end) {
        exponent = json_exponent(mark + 1, end);
    }
    point = memchr(at, '.', (size_t)(mark - at));
    if (point != NULL) {
        exponent -= mark - point - 1;
    }
    /* Zeros at the end move into the exponent: 1.50e1 is 15. */
    for (count = (size_t)(mark - at); count > 0 && exponent < 0; count--) {
        if (at[count - 1] == '.') {
            continue;
        }
        if (at[count - 1] != '0') {
            return CONTROLLER_INT_FRACTION;
        }
        exponent++;
    }
    return json_whole(at, count, exponent, negative, number_out);
}

enum controller_json_int controller_json_digits(const char *text, size_t length,
                                                struct kvl_chunk_id *number_out)
{
    const char *at = text;
    const char *end = text + length;
    const char *start;
    bool negative;

    while (at < end && json_is_blank(*at)) {
        at++;
    }
    while (end > at && json_is_blank(end[-1])) {
        end--;
    }
    negative = at < end && *at == '-';
    at += at < end && (*at == '-' || *at == '+');
    start = at;
    while (at < end && (json_is_digit(*at) || (*at == '_' && at > start && at[-1] != '_' &&
                                               at + 1 < end && json_is_digit(at[1])))) {
        at++;
    }
    if (at == start) {
        return CONTROLLER_INT_PARSING;
    }
    length = (size_t)(at - start);
    if (at < end && *at == '.') {
        for (at++; at < end && *at == '0'; at++) {
        }
    }
    return at != end ? CONTROLLER_INT_PARSING : json_whole(start, length, 0, negative, number_out);
}

enum controller_json_int controller_json_number(const struct controller_json *value,
                                                struct kvl_chunk_id *number_out)
{
    switch (value->kind) {
    case CONTROLLER_JSON_NUMBER:
        return json_number(value->at, value->length, number_out);
    case CONTROLLER_JSON_STRING:
        return controller_json_digits(value->at + 1, value->length - 2, number_out);
    case CONTROLLER_JSON_TRUE:
    case CONTROLLER_JSON_FALSE:
        *number_out = (struct kvl_chunk_id){.bits = value->kind == CONTROLLER_JSON_TRUE};
        return CONTROLLER_INT_OK;
    default:
        return CONTROLLER_INT_TYPE;
    }
}

void controller_json_copy(struct controller_text *text, const struct controller_json *value)
{
    const char *end = value->at + value->length;
    const char *at = value->at;

    while (at < end) {
        const char *start = at;

        while (at < end && !json_is_blank(*at)) {
            at = *at == '"' ? walk_string(at) : at + 1;
        }
        controller_text_bytes(text, start, (size_t)(at - start));
        while (at < end && json_is_blank(*at)) {
            at++;
        }
    }
}
