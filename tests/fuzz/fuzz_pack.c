/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as msgpack: values are read alike by all readers, and come back when written. */
#include <stdlib.h>
#include <string.h>

#include "pack.h"

#define FUZZ_DEPTH 16u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int ok)
{
    if (!ok) {
        abort();
    }
}

static void put(struct kvl_pack_out *out, const struct kvl_pack_item *item)
{
    switch (item->type) {
    case KVL_PACK_NIL:
        kvl_pack_put_nil(out);
        break;
    case KVL_PACK_BOOL:
        kvl_pack_put_bool(out, (int)item->bits);
        break;
    case KVL_PACK_INT:
        kvl_pack_put_int(out, item->bits, item->negative);
        break;
    case KVL_PACK_FLOAT:
        kvl_pack_put_float(out, item->real);
        break;
    case KVL_PACK_TEXT:
        kvl_pack_put_text(out, item->bytes, item->length);
        break;
    case KVL_PACK_BYTES:
        kvl_pack_put_bytes(out, item->bytes, item->length);
        break;
    case KVL_PACK_ARRAY:
        kvl_pack_put_array(out, item->length);
        break;
    case KVL_PACK_MAP:
        kvl_pack_put_map(out, item->length);
        break;
    case KVL_PACK_EXT:
        kvl_pack_put_ext(out, item->ext_type, item->bytes, item->length);
        break;
    default:
        check(0);
    }
}

static int same_bytes(const struct kvl_pack_item *a, const struct kvl_pack_item *b)
{
    return a->length == b->length && (a->length == 0 || memcmp(a->bytes, b->bytes, a->length) == 0);
}

static void check_same(const struct kvl_pack_item *a, const struct kvl_pack_item *b)
{
    check(a->type == b->type);
    switch (a->type) {
    case KVL_PACK_INT:
        check(a->bits == b->bits && a->negative == b->negative);
        break;
    case KVL_PACK_FLOAT:
        check(memcmp(&a->real, &b->real, sizeof(a->real)) == 0);
        break;
    case KVL_PACK_TEXT:
    case KVL_PACK_BYTES:
        check(same_bytes(a, b));
        break;
    case KVL_PACK_EXT:
        check(a->ext_type == b->ext_type && same_bytes(a, b));
        break;
    default:
        check(a->length == b->length || a->type == KVL_PACK_NIL || a->type == KVL_PACK_BOOL);
        break;
    }
}

/* Written in the smallest form: never longer, unless a float32 became a float64. */
static void check_written(const struct kvl_pack_item *item, size_t read)
{
    struct kvl_pack_item again;
    struct kvl_pack_out need;
    struct kvl_pack_out out;
    struct kvl_pack in;
    uint8_t small[64];
    uint8_t *bytes;

    kvl_pack_out_init(&need, NULL, 0);
    put(&need, item);
    check(kvl_pack_out_failed(&need));
    check(need.length <= read || item->type == KVL_PACK_FLOAT);
    bytes = need.length <= sizeof(small) ? small : malloc(need.length);
    check(bytes != NULL);
    kvl_pack_out_init(&out, bytes, need.length);
    put(&out, item);
    check(!kvl_pack_out_failed(&out) && out.length == need.length);
    kvl_pack_init(&in, bytes, out.length);
    check(kvl_pack_read(&in, &again) == 0 && kvl_pack_left(&in) == 0);
    check_same(item, &again);
    if (bytes != small) {
        free(bytes);
    }
}

static void read_all(const uint8_t *data, size_t size)
{
    struct kvl_pack_item item;
    struct kvl_pack in;
    size_t from;

    kvl_pack_init(&in, data, size);
    for (;;) {
        const enum kvl_pack_type next = kvl_pack_peek(&in);

        from = kvl_pack_offset(&in);
        if (kvl_pack_read(&in, &item) < 0) {
            check(kvl_pack_offset(&in) == from);
            return;
        }
        check(item.type == next);
        check(kvl_pack_offset(&in) > from && kvl_pack_offset(&in) <= size);
        check_written(&item, kvl_pack_offset(&in) - from);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct kvl_pack in;

    read_all(data, size);
    kvl_pack_init(&in, data, size);
    while (kvl_pack_skip(&in, FUZZ_DEPTH) == 0) {
        check(kvl_pack_offset(&in) <= size);
    }
    return 0;
}
