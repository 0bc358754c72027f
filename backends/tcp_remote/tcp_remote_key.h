/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file tcp_remote_key.h
 * LMCache's key text, CacheEngineKey and LayerCacheEngineKey, in its newest form and the historical
 * ones. Only tools and people need the parts: both roles treat a key as opaque bytes. Pure
 * functions: no I/O, no allocation.
 */
#ifndef KVL_TCP_REMOTE_KEY_H
#define KVL_TCP_REMOTE_KEY_H

#include <kvlane/key.h>

#define TCP_REMOTE_KEY_PLAIN 1 /* fmt@model@ws@wid@hash; hash hex or decimal */
#define TCP_REMOTE_KEY_TAGGED 2 /* form 1 with a hex hash, maybe negative, [@layer][@tag%value] */
#define TCP_REMOTE_KEY_FMT_DTYPE 3 /* fmt@model@ws@wid@hash@dtype[@layer][@tag%value] */
#define TCP_REMOTE_KEY_NEWEST 4 /* form 3 without fmt */

#define TCP_REMOTE_KEY_TAGS_MAX 16u

/** Borrowed text, not terminated. */
struct tcp_remote_text {
    const char *at;
    uint32_t length;
};

struct tcp_remote_tag {
    struct tcp_remote_text name;
    struct tcp_remote_text value;
};

struct tcp_remote_key {
    uint8_t form; /* TCP_REMOTE_KEY_ */
    uint8_t has_layer;
    uint8_t negative; /* the hash had a minus sign */
    uint8_t tag_count;
    uint32_t layer;
    uint32_t world_size;
    uint32_t worker_id;
    struct tcp_remote_text fmt; /* empty in the newest form */
    struct tcp_remote_text model; /* may be empty */
    struct tcp_remote_text hash; /* digits as written, without the sign */
    struct tcp_remote_text dtype; /* empty in forms 1 and 2 */
    struct tcp_remote_tag tags[TCP_REMOTE_KEY_TAGS_MAX];
};

/**
 * Takes a key apart; the parts point into `text`. A five-part form 1 key does not say whether its
 * hash is hex or decimal: the digits are kept as they are.
 * @return 0; -EINVAL no known form; -EMSGSIZE more tags than fit.
 */
int tcp_remote_key_parse(const char *text, size_t length, struct tcp_remote_key *key_out);

/**
 * Prints a key in the form it names, without a terminator.
 * @return bytes; -EINVAL a part is missing or holds `@`; -EMSGSIZE over `size` or 150 bytes.
 */
int tcp_remote_key_print(const struct tcp_remote_key *key, char *text_out, size_t size);

/**
 * The hash as a number.
 * @param base  16, or 10 for the form 1 keys of 0.3.5
 * @return 0 and the magnitude (the sign stands in key->negative); -ERANGE over 64 bits;
 *         -EINVAL digits of another base.
 */
int tcp_remote_key_hash(const struct tcp_remote_key *key, unsigned base, uint64_t *magnitude_out);

/** Prints an int hash as LMCache does: lower-case hex, no leading zeros, "-" in front. */
int tcp_remote_hash_from_int(int64_t hash, char *text_out, size_t size);

/** Prints a bytes hash: plain hex, leading zeros kept. @return bytes; -EMSGSIZE. */
int tcp_remote_hash_from_bytes(const uint8_t *hash, size_t length, char *text_out, size_t size);

#endif /* KVL_TCP_REMOTE_KEY_H */
