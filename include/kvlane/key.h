/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file key.h
 * The name of a chunk and what its bytes mean.
 *
 * A key is opaque text of 1 to 150 bytes. The bound is that of the LMCache remote store wire, where
 * a key is a field of 150 bytes; every other transport can carry that much. Keys written for or by
 * LMCache have the form `model@world_size@worker_id@hash@dtype[@layer][@tag%value...]`. The core
 * compares bytes and never parses a key.
 *
 * Two forms are taken by the backend tcp_remote: keys that begin with a newline are those of Redis
 * clients, and keys that end in `@kvl%1` hold chunks with a checksum behind them.
 *
 * Keys must be the same in every process for the same tokens: derive them from a fixed hash, never
 * from a per-process seed.
 */
#ifndef KVL_KEY_H
#define KVL_KEY_H

#include <kvlane/abi.h>

#include <string.h>

KVL_EXTERN_C_BEGIN

/** Longest key, in bytes. */
#define KVL_KEY_MAX 150u

/** A borrowed key: `length` bytes at `text`, not terminated, valid for the call it is given to. */
struct kvl_key {
    const char *text;
    uint32_t length; /* 1 .. KVL_KEY_MAX */
    uint32_t reserved; /* 0 */
};
KVL_STATIC_ASSERT(sizeof(struct kvl_key) == 16, "struct kvl_key is part of the ABI");

/** Memory formats, numbers of the LMCache wire. Peers disagree from 7 on; the core never looks. */
#define KVL_FMT_UNDEFINED 0
#define KVL_FMT_KV_2LTD 1 /* [2, layers, tokens, hidden] */
#define KVL_FMT_KV_T2D 2 /* [tokens, 2, hidden] */
#define KVL_FMT_KV_2TD 3 /* [2, tokens, hidden] */
#define KVL_FMT_BINARY 4 /* opaque bytes */
#define KVL_FMT_BINARY_BUFFER 5 /* opaque bytes, serialised */
#define KVL_FMT_KV_MLA 6 /* [1, layers, tokens, hidden] */

/** Element types, numbers of the LMCache wire. float16 is always written as 2. */
#define KVL_DTYPE_NONE 0
#define KVL_DTYPE_HALF 1
#define KVL_DTYPE_FLOAT16 2
#define KVL_DTYPE_BFLOAT16 3
#define KVL_DTYPE_FLOAT32 4
#define KVL_DTYPE_FLOAT64 5
#define KVL_DTYPE_UINT8 6
#define KVL_DTYPE_FLOAT8_E4M3FN 7
#define KVL_DTYPE_FLOAT8_E5M2 8

/** What the bytes of a chunk mean to its users. Stored and given back as they are. */
struct kvl_attrs {
    int32_t fmt; /* KVL_FMT_ */
    int32_t dtype; /* KVL_DTYPE_ */
    int32_t shape[4]; /* unused trailing dimensions are 0 */
};
KVL_STATIC_ASSERT(sizeof(struct kvl_attrs) == 24, "struct kvl_attrs is part of the ABI");

/** Tokens that a chunk covers, as far as format and shape say; 0 for opaque bytes. */
static inline uint64_t kvl_attrs_tokens(const struct kvl_attrs *attrs)
{
    int32_t tokens = 0;

    if (attrs->fmt == KVL_FMT_KV_2LTD || attrs->fmt == KVL_FMT_KV_MLA) {
        tokens = attrs->shape[2];
    } else if (attrs->fmt == KVL_FMT_KV_T2D) {
        tokens = attrs->shape[0];
    } else if (attrs->fmt == KVL_FMT_KV_2TD) {
        tokens = attrs->shape[1];
    }
    return tokens > 0 ? (uint64_t)tokens : 0;
}

/** Wraps terminated text. The text must outlive the key. */
static inline struct kvl_key kvl_key_from_text(const char *text)
{
    struct kvl_key key;

    key.text = text;
    key.length = (uint32_t)strlen(text);
    key.reserved = 0;
    return key;
}

/** True when both keys have the same bytes. */
static inline int kvl_key_equal(const struct kvl_key *a, const struct kvl_key *b)
{
    return a->length == b->length && memcmp(a->text, b->text, a->length) == 0;
}

KVL_EXTERN_C_END

#endif /* KVL_KEY_H */
