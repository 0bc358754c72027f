/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include <msgpack/pack.h>

#include "pack.h"

void kvl_pack_out_init(struct kvl_pack_out *out, void *bytes, size_t room)
{
    out->at = bytes;
    out->room = room;
    out->length = 0;
}

/* What msgpack-c calls with the bytes it made. */
static int pack_append(void *data, const char *bytes, size_t length)
{
    struct kvl_pack_out *out = data;
    const size_t from = out->length;

    out->length += length;
    if (out->length <= out->room && length > 0) {
        memcpy(out->at + from, bytes, length);
    }
    return 0; /* that it did not fit shows in the length */
}

static msgpack_packer pack_to(struct kvl_pack_out *out)
{
    return (msgpack_packer){.data = out, .callback = pack_append};
}

void kvl_pack_put_nil(struct kvl_pack_out *out)
{
    msgpack_packer to = pack_to(out);

    msgpack_pack_nil(&to);
}

void kvl_pack_put_bool(struct kvl_pack_out *out, int value)
{
    msgpack_packer to = pack_to(out);

    if (value) {
        msgpack_pack_true(&to);
    } else {
        msgpack_pack_false(&to);
    }
}

void kvl_pack_put_u64(struct kvl_pack_out *out, uint64_t value)
{
    msgpack_packer to = pack_to(out);

    msgpack_pack_uint64(&to, value);
}

void kvl_pack_put_i64(struct kvl_pack_out *out, int64_t value)
{
    msgpack_packer to = pack_to(out);

    msgpack_pack_int64(&to, value);
}

void kvl_pack_put_int(struct kvl_pack_out *out, uint64_t bits, int negative)
{
    if (negative) {
        kvl_pack_put_i64(out, (int64_t)bits);
    } else {
        kvl_pack_put_u64(out, bits);
    }
}

void kvl_pack_put_float(struct kvl_pack_out *out, double value)
{
    msgpack_packer to = pack_to(out);

    msgpack_pack_double(&to, value);
}

void kvl_pack_put_raw(struct kvl_pack_out *out, const void *bytes, size_t length)
{
    pack_append(out, bytes, length);
}

void kvl_pack_put_text_head(struct kvl_pack_out *out, uint32_t length)
{
    msgpack_packer to = pack_to(out);

    msgpack_pack_str(&to, length);
}

void kvl_pack_put_text(struct kvl_pack_out *out, const void *text, uint32_t length)
{
    kvl_pack_put_text_head(out, length);
    kvl_pack_put_raw(out, text, length);
}

void kvl_pack_put_bytes_head(struct kvl_pack_out *out, uint32_t length)
{
    msgpack_packer to = pack_to(out);

    msgpack_pack_bin(&to, length);
}

void kvl_pack_put_bytes(struct kvl_pack_out *out, const void *bytes, uint32_t length)
{
    kvl_pack_put_bytes_head(out, length);
    kvl_pack_put_raw(out, bytes, length);
}

void kvl_pack_put_ext_head(struct kvl_pack_out *out, int8_t type, uint32_t length)
{
    msgpack_packer to = pack_to(out);

    msgpack_pack_ext(&to, length, type);
}

void kvl_pack_put_ext(struct kvl_pack_out *out, int8_t type, const void *bytes, uint32_t length)
{
    kvl_pack_put_ext_head(out, type, length);
    kvl_pack_put_raw(out, bytes, length);
}

void kvl_pack_put_array(struct kvl_pack_out *out, uint32_t count)
{
    msgpack_packer to = pack_to(out);

    msgpack_pack_array(&to, count);
}

void kvl_pack_put_map(struct kvl_pack_out *out, uint32_t count)
{
    msgpack_packer to = pack_to(out);

    msgpack_pack_map(&to, count);
}
