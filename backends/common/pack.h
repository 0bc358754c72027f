/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file pack.h
 * msgpack over memory that the caller owns: a reader that allocates nothing and a writer of the
 * smallest form. Pure functions.
 *
 * The reader gives out what a value is before anything is done about it, so limits are the
 * caller's and come before any allocation. A count or length is never trusted: a text, binary or
 * extension is given out only when all its bytes are there, and every entry of an array or map
 * takes at least one byte, so a count beyond kvl_pack_left() is a lie.
 */
#ifndef KVL_PACK_H
#define KVL_PACK_H

#include <kvlane/abi.h>

/** Deepest nesting that kvl_pack_skip() follows, whatever the caller allows. */
#define KVL_PACK_DEPTH_MAX 64u

/** Longest head of a value, and longest number. */
#define KVL_PACK_HEAD_MAX 9u

enum kvl_pack_type {
    KVL_PACK_END, /* no byte is left */
    KVL_PACK_NIL,
    KVL_PACK_BOOL,
    KVL_PACK_INT,
    KVL_PACK_FLOAT,
    KVL_PACK_TEXT,
    KVL_PACK_BYTES,
    KVL_PACK_ARRAY,
    KVL_PACK_MAP,
    KVL_PACK_EXT,
    KVL_PACK_BAD, /* 0xc1, which is never a value */
};

/** Reads memory from front to back. Borrowed; to go back, keep a copy of the struct. */
struct kvl_pack {
    const uint8_t *at;
    const uint8_t *end;
    const uint8_t *start;
};

/** One value; of an array or a map only its head. */
struct kvl_pack_item {
    enum kvl_pack_type type;
    uint32_t length; /* bytes of text, binary, extension; items of an array; pairs of a map */
    uint64_t bits; /* of an int in two's complement; 0 or 1 of a bool */
    int negative; /* int below 0 */
    int8_t ext_type;
    double real; /* of a float */
    const uint8_t *bytes; /* of text, binary, extension; in the memory that is read */
};

static inline void kvl_pack_init(struct kvl_pack *in, const void *bytes, size_t length)
{
    in->start = bytes;
    in->at = in->start;
    in->end = bytes == NULL ? in->start : in->start + length;
}

static inline size_t kvl_pack_left(const struct kvl_pack *in)
{
    return (size_t)(in->end - in->at);
}

/** Bytes read so far. */
static inline size_t kvl_pack_offset(const struct kvl_pack *in)
{
    return (size_t)(in->at - in->start);
}

/** What comes next, from its first byte alone: the rest may be missing. */
enum kvl_pack_type kvl_pack_peek(const struct kvl_pack *in);

/**
 * Reads the next value; of an array or a map its head, the entries come next.
 * @return 0; -ENODATA it is not all there; -EBADMSG 0xc1. Nothing is read then.
 */
int kvl_pack_read(struct kvl_pack *in, struct kvl_pack_item *item_out);

/**
 * Typed reads. Besides the errors of kvl_pack_read(): -EINVAL another type comes next. Nothing is
 * read in case of an error.
 */
int kvl_pack_read_nil(struct kvl_pack *in);
int kvl_pack_read_bool(struct kvl_pack *in, int *value_out);
/** From -2^63 to 2^64-1, as 64 bits and sign. */
int kvl_pack_read_int(struct kvl_pack *in, uint64_t *bits_out, int *negative_out);
/** -ERANGE when it does not fit. */
int kvl_pack_read_i64(struct kvl_pack *in, int64_t *value_out);
/** -ERANGE when it is negative. */
int kvl_pack_read_u64(struct kvl_pack *in, uint64_t *value_out);
/** Takes float32, float64 and ints. */
int kvl_pack_read_float(struct kvl_pack *in, double *value_out);
/** Not terminated, and not checked: see kvl_pack_is_utf8(). */
int kvl_pack_read_text(struct kvl_pack *in, const char **text_out, uint32_t *length_out);
int kvl_pack_read_bytes(struct kvl_pack *in, const uint8_t **bytes_out, uint32_t *length_out);
int kvl_pack_read_ext(struct kvl_pack *in, int8_t *type_out, const uint8_t **bytes_out,
                      uint32_t *length_out);
int kvl_pack_read_array(struct kvl_pack *in, uint32_t *count_out);
/** @param count_out  pairs */
int kvl_pack_read_map(struct kvl_pack *in, uint32_t *count_out);

/**
 * Passes over one value with all that is in it. Time follows the bytes passed, not the counts.
 * @param depth  arrays and maps inside one another, at most KVL_PACK_DEPTH_MAX; 0 = scalars only
 * @return 0; -ENODATA, -EBADMSG with the reader where it was found; -EMSGSIZE deeper than `depth`.
 */
int kvl_pack_skip(struct kvl_pack *in, uint32_t depth);

/** 1 when it is UTF-8 as Python takes it: no surrogates, nothing overlong. */
int kvl_pack_is_utf8(const void *text, size_t length);

/**
 * Writes into memory of the caller. Beyond its end nothing is written, but `length` goes on, so a
 * failed run says how much room the next one needs.
 */
struct kvl_pack_out {
    uint8_t *at; /* may be NULL without room */
    size_t room;
    size_t length; /* written, or needed when that is more than room */
};

void kvl_pack_out_init(struct kvl_pack_out *out, void *bytes, size_t room);

static inline int kvl_pack_out_failed(const struct kvl_pack_out *out)
{
    return out->length > out->room;
}

void kvl_pack_put_nil(struct kvl_pack_out *out);
void kvl_pack_put_bool(struct kvl_pack_out *out, int value);
void kvl_pack_put_int(struct kvl_pack_out *out, uint64_t bits, int negative);
void kvl_pack_put_i64(struct kvl_pack_out *out, int64_t value);
void kvl_pack_put_u64(struct kvl_pack_out *out, uint64_t value);
/** As float64. */
void kvl_pack_put_float(struct kvl_pack_out *out, double value);
void kvl_pack_put_text(struct kvl_pack_out *out, const void *text, uint32_t length);
void kvl_pack_put_bytes(struct kvl_pack_out *out, const void *bytes, uint32_t length);
void kvl_pack_put_ext(struct kvl_pack_out *out, int8_t type, const void *bytes, uint32_t length);
/** Heads of a text, binary, extension; the bytes follow by kvl_pack_put_raw() or are sent apart. */
void kvl_pack_put_text_head(struct kvl_pack_out *out, uint32_t length);
void kvl_pack_put_bytes_head(struct kvl_pack_out *out, uint32_t length);
void kvl_pack_put_ext_head(struct kvl_pack_out *out, int8_t type, uint32_t length);
/** Heads; the entries follow by further calls. */
void kvl_pack_put_array(struct kvl_pack_out *out, uint32_t count);
void kvl_pack_put_map(struct kvl_pack_out *out, uint32_t count);
/** Bytes that are msgpack already. */
void kvl_pack_put_raw(struct kvl_pack_out *out, const void *bytes, size_t length);

#endif /* KVL_PACK_H */
