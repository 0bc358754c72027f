/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cuda_ipc_wire.h
 * What two cuda_ipc backends on one host say to each other over a Unix socket that keeps message
 * boundaries (SOCK_SEQPACKET), and the offer by which one finds the other. Pure functions: no I/O,
 * no allocation; what is decoded points into the message.
 *
 * All integers are little-endian. A message is a head of 16 bytes (type, length of the whole
 * message, number of the request) and a body, whole or refused: bytes behind the body are an error.
 * Who connects asks, who listens answers; both begin with a HELLO. Then
 *
 *   LOOKUP  keys          -> FOUND   a bit per key
 *   LEASE   keys          -> LEASED  per key: where it lies, and a lease on it
 *   RELEASE leases        (no answer)
 *   BYE                   from the listener: it is closing, finish and give leases back
 *
 * A SEGMENT describes memory that a later LEASED refers to, once per connection; its descriptor, if
 * it has one, travels beside it. A lease belongs to its connection and ends with it.
 */
#ifndef KVL_CUDA_IPC_WIRE_H
#define KVL_CUDA_IPC_WIRE_H

#include <kvlane/host.h>

#include "cuda_ipc_share.h"

#define CUDA_IPC_WIRE_VERSION 1u
#define CUDA_IPC_WIRE_HEAD_BYTES 16u
/** Longest message. */
#define CUDA_IPC_WIRE_MAX 49152u
/** Most keys in a LOOKUP or LEASE. */
#define CUDA_IPC_WIRE_KEYS_MAX 256u
/** Most leases in a RELEASE. */
#define CUDA_IPC_WIRE_RELEASE_MAX 1024u
#define CUDA_IPC_WIRE_DEVICES_MAX 64u
/** Longest address: as in sockaddr_un, where a leading 0 marks an abstract name. */
#define CUDA_IPC_WIRE_ADDRESS_MAX 107u

enum cuda_ipc_wire_type {
    CUDA_IPC_HELLO = 1,
    CUDA_IPC_REFUSED = 2,
    CUDA_IPC_BYE = 3,
    CUDA_IPC_LOOKUP = 4,
    CUDA_IPC_FOUND = 5,
    CUDA_IPC_LEASE = 6,
    CUDA_IPC_SEGMENT = 7,
    CUDA_IPC_LEASED = 8,
    CUDA_IPC_RELEASE = 9,
};

/** An instance of the backend in a process. */
struct cuda_ipc_wire_peer {
    struct cuda_ipc_who who;
    uint8_t instance[16]; /* random */
};

/** HELLO, without devices when `device_count` is 0. */
struct cuda_ipc_wire_hello {
    uint32_t version;
    uint32_t device_count; /* visible ones */
    struct cuda_ipc_wire_peer peer;
    struct cuda_uuid uuids[CUDA_IPC_WIRE_DEVICES_MAX];
};

/** SEGMENT. `share.who` is not on the wire: it is that of the HELLO. */
struct cuda_ipc_wire_segment {
    uint32_t number; /* what LEASED calls it */
    struct cuda_ipc_share share; /* of type LEGACY, or FD: its descriptor travels beside it */
};

/** Answer for one key of a LEASE. */
struct cuda_ipc_wire_lease {
    int32_t status; /* 0; -ENOENT; -EAGAIN too many leases are out; of others the rest is 0 */
    uint32_t segment;
    uint64_t offset; /* in the segment */
    uint64_t bytes;
    struct kvl_attrs attrs;
    uint32_t flags; /* KVL_CHUNK_HAS_CHECKSUM */
    uint64_t checksum;
    uint64_t lease; /* what RELEASE wants */
};

/** How to reach a listener. */
struct cuda_ipc_wire_offer {
    struct cuda_ipc_wire_peer peer;
    uint8_t boot[16]; /* id of the running kernel */
    uint32_t address_length; /* 2 .. CUDA_IPC_WIRE_ADDRESS_MAX */
    uint8_t address[CUDA_IPC_WIRE_ADDRESS_MAX];
};

/** A decoded message. Which members count follows from `type`. */
struct cuda_ipc_wire_message {
    uint32_t type; /* enum cuda_ipc_wire_type */
    uint32_t count; /* keys, bits, leases */
    uint64_t request; /* LOOKUP, FOUND, LEASE, LEASED; else 0 */
    int32_t code; /* REFUSED: a negative errno */
    const uint8_t *bits; /* FOUND: key i is bit i % 8 of byte i / 8 */
    const uint8_t *body; /* of what has a function of its own below */
    uint32_t body_bytes;
};

/**
 * Decodes one message, all of it but the entries that have functions of their own. Everything is
 * checked here: those functions cannot fail on what this one took.
 * @return 0; -EPROTO; -EMSGSIZE a count beyond its limit.
 */
int cuda_ipc_wire_decode(const void *bytes, size_t length,
                         struct cuda_ipc_wire_message *message_out);

/** Entries of a decoded HELLO, SEGMENT, LOOKUP or LEASE, LEASED, RELEASE. */
void cuda_ipc_wire_get_hello(const struct cuda_ipc_wire_message *message,
                             struct cuda_ipc_wire_hello *hello_out);
void cuda_ipc_wire_get_segment(const struct cuda_ipc_wire_message *message,
                               struct cuda_ipc_wire_segment *segment_out);
void cuda_ipc_wire_get_keys(const struct cuda_ipc_wire_message *message, struct kvl_key *keys_out);
void cuda_ipc_wire_get_leases(const struct cuda_ipc_wire_message *message,
                              struct cuda_ipc_wire_lease *leases_out);
void cuda_ipc_wire_get_released(const struct cuda_ipc_wire_message *message, uint64_t *leases_out);

/* Encoders write into CUDA_IPC_WIRE_MAX bytes and return the length of the message. What they are
 * given is within the limits, else it is our bug. */
size_t cuda_ipc_wire_put_hello(const struct cuda_ipc_wire_hello *hello, uint8_t *bytes_out);
size_t cuda_ipc_wire_put_refused(int32_t code, uint8_t *bytes_out);
size_t cuda_ipc_wire_put_bye(uint8_t *bytes_out);
/** @param type  CUDA_IPC_LOOKUP or CUDA_IPC_LEASE */
size_t cuda_ipc_wire_put_keys(uint32_t type, uint64_t request, const struct kvl_key *keys,
                              uint32_t count, uint8_t *bytes_out);
/** @param found  one byte per key, 0 or 1 */
size_t cuda_ipc_wire_put_found(uint64_t request, const uint8_t *found, uint32_t count,
                               uint8_t *bytes_out);
size_t cuda_ipc_wire_put_segment(const struct cuda_ipc_wire_segment *segment, uint8_t *bytes_out);
size_t cuda_ipc_wire_put_leased(uint64_t request, const struct cuda_ipc_wire_lease *leases,
                                uint32_t count, uint8_t *bytes_out);
size_t cuda_ipc_wire_put_release(const uint64_t *leases, uint32_t count, uint8_t *bytes_out);

/** @return the length, at most KVL_OFFER_MAX. */
size_t cuda_ipc_wire_put_offer(const struct cuda_ipc_wire_offer *offer, uint8_t *bytes_out);
/** @return 0; -EPROTO; -ENOTSUP another version. */
int cuda_ipc_wire_get_offer(const void *bytes, size_t length,
                            struct cuda_ipc_wire_offer *offer_out);

#endif /* KVL_CUDA_IPC_WIRE_H */
