/* SPDX-License-Identifier: Apache-2.0 */
#include "tcp_remote_key.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cursor.h"
#include "tcp_remote_wire.h"

/* fmt, model, world size, worker, hash, dtype, layer and the tags */
#define PARTS_MAX (7u + TCP_REMOTE_KEY_TAGS_MAX)

static const char *const key_dtypes[] = {
    "half",         "bfloat16",     "float", "double",   "int8",       "uint8",
    "int16",        "int32",        "int64", "bool",     "fp8_e4m3fn", "fp8_e5m2",
    "fp8_e4m3fnuz", "fp8_e5m2fnuz", "fp8",   "fp8_e4m3",
};

static int key_is_dtype(const struct tcp_remote_text *text)
{
    for (size_t i = 0; i < sizeof(key_dtypes) / sizeof(key_dtypes[0]); i++) {
        if (strlen(key_dtypes[i]) == text->length &&
            memcmp(key_dtypes[i], text->at, text->length) == 0) {
            return 1;
        }
    }
    return 0;
}

static unsigned key_digit(char c)
{
    if (c >= '0' && c <= '9') {
        return (unsigned)(c - '0');
    }
    if (c >= 'a' && c <= 'f') {
        return (unsigned)(c - 'a') + 10;
    }
    return c >= 'A' && c <= 'F' ? (unsigned)(c - 'A') + 10 : UINT32_MAX;
}

/* @return 0; -EINVAL no digits of that base; -ERANGE over `max`. */
static int key_number(const struct tcp_remote_text *text, unsigned base, uint64_t max,
                      uint64_t *value_out)
{
    uint64_t value = 0;
    int r = text->length == 0 ? -EINVAL : 0;

    for (uint32_t i = 0; i < text->length; i++) {
        unsigned digit = key_digit(text->at[i]);

        if (digit >= base) {
            return -EINVAL;
        }
        if (value > (max - digit) / base) {
            r = -ERANGE; /* go on: a digit that is none is the better answer */
        }
        value = value * base + digit;
    }
    if (r == 0) {
        *value_out = value;
    }
    return r;
}

static int key_u32(const struct tcp_remote_text *text, uint32_t *value_out)
{
    uint64_t value;
    int r = key_number(text, 10, UINT32_MAX, &value);

    if (r == 0) {
        *value_out = (uint32_t)value;
    }
    return r;
}

static int key_set_hash(struct tcp_remote_key *key, struct tcp_remote_text text)
{
    uint64_t ignored;

    key->negative = text.length > 0 && text.at[0] == '-';
    if (key->negative) {
        text.at++;
        text.length--;
    }
    key->hash = text;
    /* sha256 gives 64 digits: only their being digits counts here */
    return key_number(&text, 16, UINT64_MAX, &ignored) == -EINVAL ? -EINVAL : 0;
}

static int key_split(const char *text, size_t length, struct tcp_remote_text *parts_out,
                     size_t *count_out)
{
    const char *end = text + length;
    size_t count = 0;

    for (;;) {
        const char *at = memchr(text, '@', (size_t)(end - text));
        const char *stop = at == NULL ? end : at;

        if (count == PARTS_MAX) {
            return -EMSGSIZE;
        }
        parts_out[count++] = (struct tcp_remote_text){text, (uint32_t)(stop - text)};
        if (at == NULL) {
            *count_out = count;
            return 0;
        }
        text = at + 1;
    }
}

static int key_take_tags(struct tcp_remote_key *key, const struct tcp_remote_text *parts,
                         size_t count)
{
    if (count > TCP_REMOTE_KEY_TAGS_MAX) {
        return -EMSGSIZE;
    }
    for (size_t i = 0; i < count; i++) {
        const char *at = memchr(parts[i].at, '%', parts[i].length);
        struct tcp_remote_tag *tag = &key->tags[i];

        if (at == NULL) {
            return -EINVAL;
        }
        tag->name = (struct tcp_remote_text){parts[i].at, (uint32_t)(at - parts[i].at)};
        tag->value = (struct tcp_remote_text){at + 1, parts[i].length - tag->name.length - 1};
    }
    key->tag_count = (uint8_t)count;
    return 0;
}

/* Model, world size, worker and hash stand in a row in every form. */
static int key_take_core(struct tcp_remote_key *key, const struct tcp_remote_text *parts)
{
    key->model = parts[0];
    if (key_u32(&parts[1], &key->world_size) < 0 || key_u32(&parts[2], &key->worker_id) < 0) {
        return -EINVAL;
    }
    return key_set_hash(key, parts[3]);
}

/* @return parts used; -EINVAL. */
static int key_take_form(struct tcp_remote_key *key, const struct tcp_remote_text *parts,
                         size_t count)
{
    if (count < 5) {
        return -EINVAL;
    }
    if (key_is_dtype(&parts[4]) && key_take_core(key, parts) == 0) {
        key->form = TCP_REMOTE_KEY_NEWEST;
        key->dtype = parts[4];
        return 5;
    }
    if (key_take_core(key, parts + 1) < 0) {
        return -EINVAL;
    }
    key->fmt = parts[0];
    if (count > 5 && key_is_dtype(&parts[5])) {
        key->form = TCP_REMOTE_KEY_FMT_DTYPE;
        key->dtype = parts[5];
        return 6;
    }
    key->form = count > 5 || key->negative ? TCP_REMOTE_KEY_TAGGED : TCP_REMOTE_KEY_PLAIN;
    return 5;
}

int tcp_remote_key_parse(const char *text, size_t length, struct tcp_remote_key *key_out)
{
    struct tcp_remote_text parts[PARTS_MAX];
    struct tcp_remote_key key = {0};
    uint32_t trimmed = (uint32_t)length;
    size_t count;
    size_t used;
    int r;

    if (length == 0 || length > TCP_REMOTE_KEY_BYTES) {
        return -EINVAL;
    }
    tcp_remote_key_trim(&text, &trimmed);
    r = key_split(text, trimmed, parts, &count);
    if (r < 0) {
        return r;
    }
    r = key_take_form(&key, parts, count);
    if (r < 0) {
        return r;
    }
    used = (size_t)r;
    if (used < count && key_u32(&parts[used], &key.layer) == 0) {
        key.has_layer = 1;
        used++;
    }
    r = key_take_tags(&key, parts + used, count - used);
    if (r == 0) {
        *key_out = key;
    }
    return r;
}

static void key_put_text(struct kvl_writer *out, const struct tcp_remote_text *text, char end)
{
    kvl_writer_put_bytes(out, text->at, text->length);
    if (end != '\0') {
        kvl_writer_put_u8(out, (uint8_t)end);
    }
}

static void key_put_u32(struct kvl_writer *out, uint32_t value, char end)
{
    char text[16];
    int n = snprintf(text, sizeof(text), "%" PRIu32 "%c", value, end);

    kvl_writer_put_bytes(out, text, end == '\0' ? (size_t)n - 1 : (size_t)n);
}

static int key_is_printable(const struct tcp_remote_key *key)
{
    const struct tcp_remote_text *parts[] = {&key->fmt, &key->model, &key->hash, &key->dtype};
    int wants_dtype = key->form >= TCP_REMOTE_KEY_FMT_DTYPE;

    if (key->form < TCP_REMOTE_KEY_PLAIN || key->form > TCP_REMOTE_KEY_NEWEST ||
        key->hash.length == 0 || (wants_dtype && key->dtype.length == 0) ||
        key->tag_count > TCP_REMOTE_KEY_TAGS_MAX ||
        (key->form == TCP_REMOTE_KEY_PLAIN && (key->has_layer || key->tag_count > 0))) {
        return 0;
    }
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        if (parts[i]->length > 0 && memchr(parts[i]->at, '@', parts[i]->length) != NULL) {
            return 0;
        }
    }
    return 1;
}

int tcp_remote_key_print(const struct tcp_remote_key *key, char *text_out, size_t size)
{
    struct kvl_writer out;

    if (!key_is_printable(key)) {
        return -EINVAL;
    }
    kvl_writer_init(&out, text_out, size < TCP_REMOTE_KEY_BYTES ? size : TCP_REMOTE_KEY_BYTES);
    if (key->form != TCP_REMOTE_KEY_NEWEST) {
        key_put_text(&out, &key->fmt, '@');
    }
    key_put_text(&out, &key->model, '@');
    key_put_u32(&out, key->world_size, '@');
    key_put_u32(&out, key->worker_id, '@');
    if (key->negative) {
        kvl_writer_put_u8(&out, '-');
    }
    key_put_text(&out, &key->hash, '\0');
    if (key->form >= TCP_REMOTE_KEY_FMT_DTYPE) {
        kvl_writer_put_u8(&out, '@');
        key_put_text(&out, &key->dtype, '\0');
    }
    if (key->has_layer) {
        kvl_writer_put_u8(&out, '@');
        key_put_u32(&out, key->layer, '\0');
    }
    for (size_t i = 0; i < key->tag_count; i++) {
        kvl_writer_put_u8(&out, '@');
        key_put_text(&out, &key->tags[i].name, '%');
        key_put_text(&out, &key->tags[i].value, '\0');
    }
    return kvl_writer_failed(&out) ? -EMSGSIZE : (int)kvl_writer_written(&out);
}

int tcp_remote_key_hash(const struct tcp_remote_key *key, unsigned base, uint64_t *magnitude_out)
{
    return key_number(&key->hash, base, UINT64_MAX, magnitude_out);
}

int tcp_remote_hash_from_int(int64_t hash, char *text_out, size_t size)
{
    /* negating as unsigned: INT64_MIN has no positive twin */
    uint64_t magnitude = hash < 0 ? 0 - (uint64_t)hash : (uint64_t)hash;
    int n = snprintf(text_out, size, "%s%" PRIx64, hash < 0 ? "-" : "", magnitude);

    return (size_t)n >= size ? -EMSGSIZE : n;
}

int tcp_remote_hash_from_bytes(const uint8_t *hash, size_t length, char *text_out, size_t size)
{
    if (length > TCP_REMOTE_KEY_BYTES / 2 || size < 2 * length + 1) {
        return -EMSGSIZE;
    }
    text_out[0] = '\0';
    for (size_t i = 0; i < length; i++) {
        snprintf(text_out + 2 * i, 3, "%02x", (unsigned)hash[i]);
    }
    return (int)(2 * length);
}
