/* SPDX-License-Identifier: Apache-2.0 */
#include "pack.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

#include "utf8.h"

/* What the first bytes 0xc0 .. 0xdf announce. `size` are bytes of a number, or of a length. */
struct pack_code {
    uint8_t type;
    uint8_t size;
    uint8_t fixed; /* length of a fixext, or the value of a bool */
};

static const struct pack_code pack_codes[32] = {
    {KVL_PACK_NIL, 0, 0},   {KVL_PACK_BAD, 0, 0},   {KVL_PACK_BOOL, 0, 0},  {KVL_PACK_BOOL, 0, 1},
    {KVL_PACK_BYTES, 1, 0}, {KVL_PACK_BYTES, 2, 0}, {KVL_PACK_BYTES, 4, 0}, {KVL_PACK_EXT, 1, 0},
    {KVL_PACK_EXT, 2, 0},   {KVL_PACK_EXT, 4, 0},   {KVL_PACK_FLOAT, 4, 0}, {KVL_PACK_FLOAT, 8, 0},
    {KVL_PACK_INT, 1, 0},   {KVL_PACK_INT, 2, 0},   {KVL_PACK_INT, 4, 0},   {KVL_PACK_INT, 8, 0},
    {KVL_PACK_INT, 1, 1},   {KVL_PACK_INT, 2, 1},   {KVL_PACK_INT, 4, 1},   {KVL_PACK_INT, 8, 1},
    {KVL_PACK_EXT, 0, 1},   {KVL_PACK_EXT, 0, 2},   {KVL_PACK_EXT, 0, 4},   {KVL_PACK_EXT, 0, 8},
    {KVL_PACK_EXT, 0, 16},  {KVL_PACK_TEXT, 1, 0},  {KVL_PACK_TEXT, 2, 0},  {KVL_PACK_TEXT, 4, 0},
    {KVL_PACK_ARRAY, 2, 0}, {KVL_PACK_ARRAY, 4, 0}, {KVL_PACK_MAP, 2, 0},   {KVL_PACK_MAP, 4, 0},
};

static uint64_t pack_get(const uint8_t *at, uint32_t size)
{
    uint16_t two;
    uint32_t four;
    uint64_t eight;

    switch (size) {
    case 1:
        return at[0];
    case 2:
        memcpy(&two, at, sizeof(two));
        return be16toh(two);
    case 4:
        memcpy(&four, at, sizeof(four));
        return be32toh(four);
    case 8:
        memcpy(&eight, at, sizeof(eight));
        return be64toh(eight);
    default:
        return 0;
    }
}

enum kvl_pack_type kvl_pack_peek(const struct kvl_pack *in)
{
    uint8_t byte;

    if (in->at == in->end) {
        return KVL_PACK_END;
    }
    byte = in->at[0];
    if (byte < 0x80 || byte >= 0xe0) {
        return KVL_PACK_INT;
    }
    if (byte < 0x90) {
        return KVL_PACK_MAP;
    }
    if (byte < 0xa0) {
        return KVL_PACK_ARRAY;
    }
    return byte < 0xc0 ? KVL_PACK_TEXT : (enum kvl_pack_type)pack_codes[byte - 0xc0].type;
}

static void pack_set_int(struct kvl_pack_item *item, uint64_t bits, uint32_t size, int is_signed)
{
    item->bits = bits;
    item->negative = is_signed && (bits >> (8 * size - 1)) != 0;
    if (item->negative && size < 8) {
        item->bits |= UINT64_MAX << (8 * size);
    }
}

static void pack_set_float(struct kvl_pack_item *item, uint64_t bits, uint32_t size)
{
    const uint32_t half = (uint32_t)bits;
    float narrow;

    if (size == 8) {
        memcpy(&item->real, &bits, sizeof(item->real));
        return;
    }
    memcpy(&narrow, &half, sizeof(narrow));
    item->real = (double)narrow;
}

/* Gives out `item->length` bytes behind the head of `head` bytes. */
static int pack_set_bytes(struct kvl_pack *in, struct kvl_pack_item *item, uint32_t head)
{
    if (kvl_pack_left(in) - head < item->length) {
        return -ENODATA;
    }
    item->bytes = in->at + head;
    in->at += head + item->length;
    return 0;
}

static int pack_read_ext(struct kvl_pack *in, struct kvl_pack_item *item, uint32_t head)
{
    if (kvl_pack_left(in) < head + 1) {
        return -ENODATA;
    }
    item->ext_type = (int8_t)in->at[head];
    return pack_set_bytes(in, item, head + 1);
}

/* First bytes 0xc0 .. 0xdf. */
static int pack_read_coded(struct kvl_pack *in, struct kvl_pack_item *item)
{
    const struct pack_code *code = &pack_codes[in->at[0] - 0xc0];
    const uint32_t head = 1u + code->size;
    uint64_t number;

    if (kvl_pack_left(in) < head) {
        return -ENODATA;
    }
    number = pack_get(in->at + 1, code->size);
    item->type = (enum kvl_pack_type)code->type;
    item->length = (uint32_t)number;
    switch (item->type) {
    case KVL_PACK_BAD:
        return -EBADMSG;
    case KVL_PACK_BOOL:
        item->bits = code->fixed;
        break;
    case KVL_PACK_INT:
        pack_set_int(item, number, code->size, code->fixed);
        break;
    case KVL_PACK_FLOAT:
        pack_set_float(item, number, code->size);
        break;
    case KVL_PACK_EXT:
        item->length = code->size == 0 ? code->fixed : (uint32_t)number;
        return pack_read_ext(in, item, head);
    case KVL_PACK_TEXT:
    case KVL_PACK_BYTES:
        return pack_set_bytes(in, item, head);
    default: /* nil, array, map: the head is all */
        break;
    }
    in->at += head;
    return 0;
}

int kvl_pack_read(struct kvl_pack *in, struct kvl_pack_item *item_out)
{
    uint8_t byte;

    if (in->at == in->end) {
        return -ENODATA;
    }
    byte = in->at[0];
    item_out->type = kvl_pack_peek(in);
    if (byte < 0x80 || byte >= 0xe0) {
        item_out->negative = byte >= 0xe0;
        item_out->bits = (uint64_t)(int64_t)(int8_t)byte;
    } else if (byte < 0xa0) {
        item_out->length = byte & 0xf;
    } else if (byte < 0xc0) {
        item_out->length = byte & 0x1f;
        return pack_set_bytes(in, item_out, 1);
    } else {
        return pack_read_coded(in, item_out);
    }
    in->at++;
    return 0;
}

/* Reads a value of one type. */
static int pack_read_as(struct kvl_pack *in, enum kvl_pack_type type, struct kvl_pack_item *item)
{
    const enum kvl_pack_type found = kvl_pack_peek(in);

    if (found == type || found == KVL_PACK_END || found == KVL_PACK_BAD) {
        return kvl_pack_read(in, item);
    }
    return -EINVAL;
}

int kvl_pack_read_nil(struct kvl_pack *in)
{
    struct kvl_pack_item item = {0};

    return pack_read_as(in, KVL_PACK_NIL, &item);
}

int kvl_pack_read_bool(struct kvl_pack *in, int *value_out)
{
    struct kvl_pack_item item = {0};
    int r = pack_read_as(in, KVL_PACK_BOOL, &item);

    if (r == 0) {
        *value_out = (int)item.bits;
    }
    return r;
}

int kvl_pack_read_int(struct kvl_pack *in, uint64_t *bits_out, int *negative_out)
{
    struct kvl_pack_item item = {0};
    int r = pack_read_as(in, KVL_PACK_INT, &item);

    if (r == 0) {
        *bits_out = item.bits;
        *negative_out = item.negative;
    }
    return r;
}

int kvl_pack_read_i64(struct kvl_pack *in, int64_t *value_out)
{
    struct kvl_pack ahead = *in;
    struct kvl_pack_item item = {0};
    int r = pack_read_as(&ahead, KVL_PACK_INT, &item);

    if (r < 0) {
        return r;
    }
    if (!item.negative && item.bits > INT64_MAX) {
        return -ERANGE;
    }
    *value_out = (int64_t)item.bits;
    *in = ahead;
    return 0;
}

int kvl_pack_read_u64(struct kvl_pack *in, uint64_t *value_out)
{
    struct kvl_pack ahead = *in;
    struct kvl_pack_item item = {0};
    int r = pack_read_as(&ahead, KVL_PACK_INT, &item);

    if (r < 0) {
        return r;
    }
    if (item.negative) {
        return -ERANGE;
    }
    *value_out = item.bits;
    *in = ahead;
    return 0;
}

int kvl_pack_read_float(struct kvl_pack *in, double *value_out)
{
    struct kvl_pack_item item = {0};
    int r;

    if (kvl_pack_peek(in) != KVL_PACK_INT) {
        r = pack_read_as(in, KVL_PACK_FLOAT, &item);
        if (r == 0) {
            *value_out = item.real;
        }
        return r;
    }
    r = kvl_pack_read(in, &item);
    if (r == 0) {
        *value_out = item.negative ? (double)(int64_t)item.bits : (double)item.bits;
    }
    return r;
}

int kvl_pack_read_text(struct kvl_pack *in, const char **text_out, uint32_t *length_out)
{
    struct kvl_pack_item item = {0};
    int r = pack_read_as(in, KVL_PACK_TEXT, &item);

    if (r == 0) {
        *text_out = (const char *)item.bytes;
        *length_out = item.length;
    }
    return r;
}

int kvl_pack_read_bytes(struct kvl_pack *in, const uint8_t **bytes_out, uint32_t *length_out)
{
    struct kvl_pack_item item = {0};
    int r = pack_read_as(in, KVL_PACK_BYTES, &item);

    if (r == 0) {
        *bytes_out = item.bytes;
        *length_out = item.length;
    }
    return r;
}

int kvl_pack_read_ext(struct kvl_pack *in, int8_t *type_out, const uint8_t **bytes_out,
                      uint32_t *length_out)
{
    struct kvl_pack_item item = {0};
    int r = pack_read_as(in, KVL_PACK_EXT, &item);

    if (r == 0) {
        *type_out = item.ext_type;
        *bytes_out = item.bytes;
        *length_out = item.length;
    }
    return r;
}

static int pack_read_count(struct kvl_pack *in, enum kvl_pack_type type, uint32_t *count_out)
{
    struct kvl_pack_item item = {0};
    int r = pack_read_as(in, type, &item);

    if (r == 0) {
        *count_out = item.length;
    }
    return r;
}

int kvl_pack_read_array(struct kvl_pack *in, uint32_t *count_out)
{
    return pack_read_count(in, KVL_PACK_ARRAY, count_out);
}

int kvl_pack_read_map(struct kvl_pack *in, uint32_t *count_out)
{
    return pack_read_count(in, KVL_PACK_MAP, count_out);
}

int kvl_pack_skip(struct kvl_pack *in, uint32_t depth)
{
    uint64_t pending[KVL_PACK_DEPTH_MAX]; /* values left on each level */
    const uint32_t limit = depth < KVL_PACK_DEPTH_MAX ? depth : KVL_PACK_DEPTH_MAX;
    uint32_t level = 0;
    struct kvl_pack_item item = {0};
    int r;

    for (;;) {
        r = kvl_pack_read(in, &item);
        if (r < 0) {
            return r;
        }
        if (item.type == KVL_PACK_ARRAY || item.type == KVL_PACK_MAP) {
            if (level == limit) {
                return -EMSGSIZE;
            }
            pending[level++] = (uint64_t)item.length << (item.type == KVL_PACK_MAP);
        }
        while (level > 0 && pending[level - 1] == 0) {
            level--;
        }
        if (level == 0) {
            return 0;
        }
        pending[level - 1]--;
    }
}

int kvl_pack_is_utf8(const void *text, size_t length)
{
    const uint8_t *at = text;
    size_t left = length;
    uint64_t eight;
    size_t step;

    while (left > 0) {
        if (left >= sizeof(eight)) {
            memcpy(&eight, at, sizeof(eight));
            if ((eight & 0x8080808080808080u) == 0) {
                at += sizeof(eight);
                left -= sizeof(eight);
                continue;
            }
        }
        step = kvl_utf8_sequence(at, left);
        if (step == 0) {
            return 0;
        }
        at += step;
        left -= step;
    }
    return 1;
}
