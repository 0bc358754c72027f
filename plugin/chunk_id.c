/* SPDX-License-Identifier: Apache-2.0 */
#include "chunk_id.h"

#include <errno.h>
#include <stdbool.h>

#include "hash.h"

#define FIELDS 5
#define DIGITS_OF_NUMBER 16u
#define DIGITS_OF_DIGEST 64u

struct field {
    const char *text;
    size_t length;
};

/* The first five fields; what follows is of no interest here. */
static bool split(const struct kvl_key *key, struct field fields[FIELDS])
{
    const char *at = key->text;
    const char *end = key->text + key->length;

    for (int i = 0; i < FIELDS; i++) {
        const char *stop;

        if (at > end) {
            return false;
        }
        stop = memchr(at, '@', (size_t)(end - at));
        stop = stop != NULL ? stop : end;
        fields[i] = (struct field){.text = at, .length = (size_t)(stop - at)};
        at = stop + 1;
    }
    return true;
}

static bool is_integer(const struct field *field)
{
    size_t at = field->length > 0 && field->text[0] == '-';

    if (at == field->length) {
        return false;
    }
    while (at < field->length && field->text[at] >= '0' && field->text[at] <= '9') {
        at++;
    }
    return at == field->length;
}

static int digit(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* All of `length` must be digits; the value is that of the first 16. */
static bool read_hex(const char *text, size_t length, uint64_t *value_out)
{
    uint64_t value = 0;

    for (size_t i = 0; i < length; i++) {
        const int d = digit(text[i]);

        if (d < 0) {
            return false;
        }
        value = i < DIGITS_OF_NUMBER ? value << 4 | (uint64_t)d : value;
    }
    *value_out = value;
    return length > 0;
}

static bool read_hash(const struct field *field, struct kvl_chunk_id *id_out)
{
    const bool negative = field->length > 0 && field->text[0] == '-';
    const size_t length = field->length - negative;
    uint64_t value;

    if (!read_hex(field->text + negative, length, &value) ||
        (length > DIGITS_OF_NUMBER && (negative || length != DIGITS_OF_DIGEST)) ||
        (negative && value > 1ull << 63)) {
        return false;
    }
    *id_out = (struct kvl_chunk_id){
        .bits = negative ? -value : value,
        .negative = negative && value != 0,
    };
    return true;
}

int kvl_chunk_id_of(const struct kvl_key *key, struct kvl_chunk_id *id_out)
{
    struct field fields[FIELDS];

    if (key->length == 0 || key->length > KVL_KEY_MAX) {
        return -EINVAL;
    }
    if (!split(key, fields) || !is_integer(&fields[1]) || !is_integer(&fields[2]) ||
        fields[4].length == 0 || !read_hash(&fields[3], id_out)) {
        *id_out = (struct kvl_chunk_id){.bits = kvl_hash_key(key)};
    }
    return 0;
}
