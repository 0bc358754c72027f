/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file tcp_remote_wire.h
 * The bytes of the lm:// protocol, LMCache v1: request and reply headers, RemoteMetadata, the
 * numbers behind names, and the trailer of our sealed form. Pure functions: no I/O, no allocation.
 * All integers are signed 32-bit little endian.
 */
#ifndef KVL_TCP_REMOTE_WIRE_H
#define KVL_TCP_REMOTE_WIRE_H

#include <kvlane/key.h>

#define TCP_REMOTE_REQUEST_BYTES 186u
#define TCP_REMOTE_REPLY_BYTES 36u
#define TCP_REMOTE_KEY_BYTES 150u /* the key field, padded with spaces */

#define TCP_REMOTE_PUT 1
#define TCP_REMOTE_GET 2
#define TCP_REMOTE_EXIST 3
#define TCP_REMOTE_LIST 4
#define TCP_REMOTE_HEALTH 5

#define TCP_REMOTE_SUCCESS 200
#define TCP_REMOTE_FAIL 400

/** Key of a health probe: the newest key form with an empty model. */
#define TCP_REMOTE_HEALTH_KEY "@0@0@0@half"

struct tcp_remote_request {
    int32_t command;
    int32_t length; /* PUT: payload bytes that follow */
    int32_t location;
    struct kvl_attrs attrs;
    const char *key; /* borrowed; after decoding it points into the header, trimmed */
    uint32_t key_length; /* 0 = nothing but white space */
};

struct tcp_remote_reply {
    int32_t code;
    int32_t length; /* payload bytes that follow */
    int32_t location;
    struct kvl_attrs attrs;
};

/** Dummies of a request or reply that describes no chunk: fmt 1, dtype 2, shape zeros. */
extern const struct kvl_attrs tcp_remote_no_attrs;

/** Decodes TCP_REMOTE_REQUEST_BYTES bytes. Every header decodes; judging it is the server's. */
void tcp_remote_request_decode(const uint8_t *bytes, struct tcp_remote_request *request_out);

/**
 * Encodes into TCP_REMOTE_REQUEST_BYTES bytes.
 * @return 0; -EINVAL when the key is empty or over 150 bytes.
 */
int tcp_remote_request_encode(const struct tcp_remote_request *request, uint8_t *bytes_out);

/** Decodes TCP_REMOTE_REPLY_BYTES bytes. @return 0; -EPROTO another code or a negative length. */
int tcp_remote_reply_decode(const uint8_t *bytes, struct tcp_remote_reply *reply_out);

/** Encodes into TCP_REMOTE_REPLY_BYTES bytes. */
void tcp_remote_reply_encode(const struct tcp_remote_reply *reply, uint8_t *bytes_out);

/** Narrows `text` to what is left between leading and trailing ASCII white space. */
void tcp_remote_key_trim(const char **text, uint32_t *length);

/* ---- RemoteMetadata: Redis, file and other connectors of LMCache, never on lm:// ---- */

#define TCP_REMOTE_GROUPS_MAX 64u

struct tcp_remote_group {
    int32_t dtype;
    int32_t shape[4];
};

struct tcp_remote_metadata {
    int32_t length;
    int32_t fmt;
    uint32_t group_count; /* 1 .. TCP_REMOTE_GROUPS_MAX */
    struct tcp_remote_group groups[TCP_REMOTE_GROUPS_MAX];
};

/** Bytes of metadata for `group_count` groups. */
size_t tcp_remote_metadata_bytes(uint32_t group_count);

/**
 * Decodes; the number of groups follows from the size.
 * @return 0; -EPROTO a size that fits no number of groups; -EMSGSIZE too many groups.
 */
int tcp_remote_metadata_decode(const void *bytes, size_t size,
                               struct tcp_remote_metadata *metadata_out);

/** @return bytes written; -EINVAL bad group count; -EMSGSIZE `size` is too small. */
int tcp_remote_metadata_encode(const struct tcp_remote_metadata *metadata, void *bytes_out,
                               size_t size);

/* ---- numbers and names; NULL or -EINVAL for one that the wire does not know ---- */

const char *tcp_remote_dtype_name(int32_t dtype);
const char *tcp_remote_location_name(int32_t location);
const char *tcp_remote_format_name(int32_t fmt);
const char *tcp_remote_command_name(int32_t command);

/** "half" is 2 like "float16": on output the number 1 does not exist. */
int tcp_remote_dtype_from_name(const char *name, int32_t *dtype_out);
int tcp_remote_location_from_name(const char *name, int32_t *location_out);
int tcp_remote_format_from_name(const char *name, int32_t *fmt_out);

/** Bytes of one element, 0 for None and unknown numbers. */
uint32_t tcp_remote_dtype_bytes(int32_t dtype);

/** 1 when both numbers name one element type: half and float16 do. */
int tcp_remote_dtype_equal(int32_t a, int32_t b);

/** 1 when fmt, dtype and the padded shape agree. */
int tcp_remote_attrs_equal(const struct kvl_attrs *a, const struct kvl_attrs *b);

/* ---- shapes ---- */

/** Pads 1 .. 4 dimensions with trailing zeros. @return 0; -EINVAL another count. */
int tcp_remote_shape_pad(const int32_t *dims, uint32_t count, int32_t shape_out[4]);

/** Dimensions a reader sees: without trailing zeros, at least one; all 4 for fmt 4 and 5. */
uint32_t tcp_remote_shape_dims(const int32_t shape[4], int32_t fmt);

/* ---- the sealed form: payload, then this trailer; ours alone ---- */

#define TCP_REMOTE_SEAL_BYTES 16u
#define TCP_REMOTE_SEAL_TAG "@kvl%1" /* ends the key of a sealed chunk */
#define TCP_REMOTE_SEAL_TAG_BYTES 6u

/** Encodes the trailer of a payload of `length` bytes whose XXH3-64 is `hash`. */
void tcp_remote_seal_encode(uint64_t hash, uint64_t length, uint8_t *bytes_out);

/** @return 0; -EBADMSG when the trailer does not belong to such a payload. */
int tcp_remote_seal_check(const uint8_t *bytes, uint64_t hash, uint64_t length);

#endif /* KVL_TCP_REMOTE_WIRE_H */
