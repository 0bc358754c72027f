/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file py_socket_frame.h
 * kvlane's own data plane between two channels, version 1: frames <-> bytes. No I/O.
 *
 * A connection (TCP, or a Unix stream on one host) carries frames both ways, each a head of 32
 * bytes, a table of `table` bytes and a payload of `payload` bytes. All integers are little-endian.
 *
 *   0  u16 magic 0x564b   2  u8 type    3  u8 flags    4  i32 status
 *   8  u64 id            16  u32 count 20  u32 table   24  u64 payload
 *
 * The first frame of the side that connects is HELLO, the first of the other WELCOME. After that
 * both may send requests, numbered by themselves, and answer those of the other in any order; an
 * answer bears the id of its request and PY_SOCKET_REPLY. A byte that does not fit what this file
 * says, or a range outside the buffer, ends the connection and nothing else.
 *
 *   HELLO    table: struct py_socket_greeting             WELCOME  the same
 *   READ     table: ranges of the receiver's buffer    reply    payload: their bytes, in order
 *   WRITE    table: likewise; payload: their bytes     reply
 *   SEND     table: ranges of the sender's buffer,     reply    when the receiver has taken them
 *            one per object; status < 0 and no table:           (by a READ, or by itself where it
 *            the sender gave this one up                        has mapped the buffer)
 *   CANCEL   id: of a request that may be given up     none
 *   LOOKUP   table: keys                               reply    table: bits, item i = bit i % 8 of
 *                                                               byte i / 8, 1 = is there
 *   GET      table: struct py_socket_wish each         reply    table: struct py_socket_found each;
 *                                                               payload: bytes of those found
 *                                                               inline, in order
 *   RELEASE  table: struct py_socket_slot each         none
 *   GOODBYE  no more requests come from this side      none
 *   ERROR    status: why this side ends it             none
 *
 * `count` of a request is the number of entries in its table; of a reply the number of entries
 * done: all of them with status 0, else the leading ones. Status is a negative errno, 0 in
 * requests.
 */
#ifndef KVL_PY_SOCKET_FRAME_H
#define KVL_PY_SOCKET_FRAME_H

#include <kvlane/io.h>

#include "py_socket_wire.h"

#define PY_SOCKET_FRAME_MAGIC 0x564bu
#define PY_SOCKET_FRAME_BYTES 32u
#define PY_SOCKET_HELLO_BYTES 96u
#define PY_SOCKET_RANGE_BYTES 16u
#define PY_SOCKET_WISH_BYTES 48u /* without the key behind it */
#define PY_SOCKET_FOUND_BYTES 64u
#define PY_SOCKET_SLOT_BYTES 8u

/** Limits, checked before anything is allocated. */
#define PY_SOCKET_TABLE_MAX (1024u * 1024)
#define PY_SOCKET_RANGES_MAX KVL_BATCH_MAX
#define PY_SOCKET_KEYS_MAX 1024u
#define PY_SOCKET_PAYLOAD_MAX (UINT64_C(1) << 40)

enum py_socket_frame_type {
    PY_SOCKET_HELLO = 1,
    PY_SOCKET_WELCOME = 2,
    PY_SOCKET_READ = 3,
    PY_SOCKET_WRITE = 4,
    PY_SOCKET_SEND = 5,
    PY_SOCKET_CANCEL = 6,
    PY_SOCKET_LOOKUP = 7,
    PY_SOCKET_GET = 8,
    PY_SOCKET_RELEASE = 9,
    PY_SOCKET_GOODBYE = 10,
    PY_SOCKET_ERROR = 11,
};

/** Frame flag: the answer to a request. */
#define PY_SOCKET_REPLY (1u << 0)

struct py_socket_frame {
    uint8_t type; /* enum py_socket_frame_type */
    uint8_t flags; /* PY_SOCKET_REPLY */
    int32_t status; /* 0 or a negative errno */
    uint64_t id;
    uint32_t count;
    uint32_t table; /* bytes */
    uint64_t payload; /* bytes */
};

/* ---- HELLO and WELCOME ---- */

/** Descriptors that come along on a Unix stream, in this order. */
#define PY_SOCKET_HAS_BUFFER (1u << 0) /* memfd of the registered buffer */
#define PY_SOCKET_HAS_CONTROL (1u << 1) /* memfd of the control page */
#define PY_SOCKET_HAS_STORE (1u << 2) /* memfd of the chunk store */
#define PY_SOCKET_HELLO_FDS 3u
/** What the other side may do with the buffer of the one who says hello. */
#define PY_SOCKET_READABLE (1u << 8)
#define PY_SOCKET_WRITABLE (1u << 9)
/** LOOKUP, GET and RELEASE are answered. */
#define PY_SOCKET_CHUNKS (1u << 10)

struct py_socket_greeting {
    uint32_t version; /* HELLO: highest spoken; WELCOME: the one to speak */
    uint32_t min_version; /* lowest */
    uint32_t flags;
    uint32_t lease_slots; /* entries of the control page */
    uint8_t token[PY_SOCKET_TOKEN]; /* that the other one offered in the handshake */
    uint64_t incarnation; /* of the sender */
    uint64_t expected; /* of the receiver; another one is refused */
    uint64_t buffer_bytes; /* 0 = none */
    uint64_t buffer_offset; /* of the buffer in its memfd */
    uint64_t align_bytes;
    uint64_t store_bytes; /* 0 = no memfd of the store */
    uint64_t reserved[2]; /* 0 */
};

/**
 * The version two peers speak: the highest that both know.
 * @return 0 when there is none.
 */
uint32_t py_socket_version_pick(uint32_t max_a, uint32_t min_a, uint32_t max_b, uint32_t min_b);

/* ---- tables ---- */

/** Bytes of a registered buffer. */
struct py_socket_range {
    uint64_t offset;
    uint64_t length; /* at least 1 */
};

/** One chunk of a GET. */
struct py_socket_wish {
    struct kvl_key key; /* borrowed from the table */
    struct kvl_attrs attrs; /* with KVL_CHUNK_EXPECT_ATTRS */
    uint64_t bytes; /* expected, 0 = any */
    uint64_t checksum; /* with KVL_CHUNK_HAS_CHECKSUM */
    uint32_t flags; /* KVL_CHUNK_ */
};

/** Bytes of the chunk are at `offset` of the store's memfd while the lease slot holds. */
#define PY_SOCKET_FOUND_MAPPED (1u << 8)

/** The answer for one chunk of a GET. */
struct py_socket_found {
    int32_t status; /* 0; -ENOENT, -EBADMSG, -EMSGSIZE, -EAGAIN, ..: then all else is 0 */
    uint32_t flags; /* KVL_CHUNK_HAS_CHECKSUM, PY_SOCKET_FOUND_MAPPED */
    uint64_t bytes;
    uint64_t checksum;
    struct kvl_attrs attrs;
    uint32_t slot; /* of the lease, mapped only */
    uint32_t generation; /* likewise; never 0 */
    uint64_t offset; /* likewise */
};

/** A lease to give back. */
struct py_socket_slot {
    uint32_t slot;
    uint32_t generation;
};

/* ---- coding ---- */

void py_socket_frame_encode(const struct py_socket_frame *frame, uint8_t *bytes_out);

/**
 * Reads PY_SOCKET_FRAME_BYTES. What passes has a known type, only flags that the type knows, a
 * count and a table that fit each other, and nothing beyond the limits.
 * @return 0; -EPROTO; -EMSGSIZE over a limit.
 */
int py_socket_frame_decode(const uint8_t *bytes, struct py_socket_frame *frame_out);

void py_socket_greeting_encode(const struct py_socket_greeting *hello, uint8_t *bytes_out);

/** Reads PY_SOCKET_HELLO_BYTES. @return 0; -EPROTO numbers that cannot be. */
int py_socket_greeting_decode(const uint8_t *bytes, struct py_socket_greeting *hello_out);

void py_socket_range_encode(const struct py_socket_range *range, uint8_t *bytes_out);
void py_socket_range_decode(const uint8_t *bytes, struct py_socket_range *range_out);

void py_socket_slot_encode(const struct py_socket_slot *slot, uint8_t *bytes_out);
void py_socket_slot_decode(const uint8_t *bytes, struct py_socket_slot *slot_out);

/** @return bytes written, u16 length and text; 0 when `room` is too small. */
size_t py_socket_key_encode(const struct kvl_key *key, uint8_t *bytes_out, size_t room);

/** Takes one key at *at_io of a table and steps over it. @return 0; -EPROTO. */
int py_socket_key_decode(const uint8_t *table, size_t size, size_t *at_io, struct kvl_key *key_out);

size_t py_socket_wish_encode(const struct py_socket_wish *wish, uint8_t *bytes_out, size_t room);
int py_socket_wish_decode(const uint8_t *table, size_t size, size_t *at_io,
                          struct py_socket_wish *wish_out);

void py_socket_found_encode(const struct py_socket_found *found, uint8_t *bytes_out);

/** Reads PY_SOCKET_FOUND_BYTES. @return 0; -EPROTO. */
int py_socket_found_decode(const uint8_t *bytes, struct py_socket_found *found_out);

#endif /* KVL_PY_SOCKET_FRAME_H */
