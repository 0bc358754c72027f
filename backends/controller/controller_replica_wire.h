/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file controller_replica_wire.h
 * What a controller and its standby say to each other <-> bytes. No I/O, no memory, no clock.
 *
 * ROUTER at the primary, DEALER at the standby, one part per message. All integers are little
 * endian.
 *
 *   head    "KVR" and the version (1), kind u8, three zero bytes, nonce u64
 *   HELLO   credit u64          standby: from the start, please; so many bytes may be on their way
 *   CREDIT  credit u64          standby: so many bytes more; 0 = still here
 *   BEGIN   bytes u64           a base follows, a saved registry of that size
 *   PART    offset u64, bytes   of the base
 *   END     first u64, exact u64  the base is complete; the stream goes on with record `first`;
 *                               from `exact` on the standby's registry must take every record
 *   EVENTS  first u64, count u32, count times: kind u8, length u32, bytes
 *   ALIVE   next u64            nothing new: the next record has this number
 *   RESET   reason u64          say HELLO again
 *
 * The standby makes up a nonce for each HELLO; what comes with another one belongs to an earlier
 * attempt. Records are numbered from 1 on, in the order in which the primary applied them to each
 * worker. A record is a frame of a worker as it came, or KVL's own DeRegisterMsg for one that was
 * taken out.
 */
#ifndef KVL_CONTROLLER_REPLICA_WIRE_H
#define KVL_CONTROLLER_REPLICA_WIRE_H

#include <kvlane/abi.h>

#include "cursor.h"

#define CONTROLLER_REPLICA_VERSION 1u
#define CONTROLLER_REPLICA_HEAD_BYTES 16u
/** Largest message that is taken from a standby: the handshake of ZMTP is one, to libzmq. */
#define CONTROLLER_REPLICA_ASK_BYTES 1024u
/** What a message has besides its pieces or records, at most. */
#define CONTROLLER_REPLICA_OVERHEAD 64u
/** In front of each record. */
#define CONTROLLER_RECORD_HEAD_BYTES 5u

enum controller_replica_kind {
    CONTROLLER_REPLICA_HELLO = 1,
    CONTROLLER_REPLICA_CREDIT,
    CONTROLLER_REPLICA_BEGIN,
    CONTROLLER_REPLICA_PART,
    CONTROLLER_REPLICA_END,
    CONTROLLER_REPLICA_EVENTS,
    CONTROLLER_REPLICA_ALIVE,
    CONTROLLER_REPLICA_RESET,
    CONTROLLER_REPLICA_KINDS,
};

enum controller_replica_reason {
    CONTROLLER_RESET_UNKNOWN = 1, /* the primary knows nothing of this standby */
    CONTROLLER_RESET_SLOW, /* the records it needs are gone */
    CONTROLLER_RESET_BASE, /* the base could not be made */
    CONTROLLER_RESET_FULL, /* there are as many standbys as there may be */
    CONTROLLER_RESET_STANDBY, /* whom it asks follows somebody itself */
    CONTROLLER_RESET_REASONS,
};

/** Which socket a record came in by: it decides what it may be. */
enum controller_record_kind {
    CONTROLLER_RECORD_EVENT = 1, /* A */
    CONTROLLER_RECORD_REQUEST, /* B and C */
};

struct controller_replica_msg {
    enum controller_replica_kind kind;
    uint64_t nonce;
    uint64_t number; /* credit, bytes, offset, first, next or reason */
    uint64_t exact; /* END */
    uint32_t count; /* EVENTS: records */
    const uint8_t *bytes; /* PART, EVENTS: borrowed from the message */
    size_t length;
};

struct controller_record {
    enum controller_record_kind kind;
    const uint8_t *bytes; /* borrowed */
    uint32_t length;
};

/**
 * Reads a message; of EVENTS the records are checked too, so controller_record_next() then gives
 * exactly `count` of them. @return 0; -EPROTO; -EPROTONOSUPPORT another version.
 */
int controller_replica_decode(const void *bytes, size_t length,
                              struct controller_replica_msg *msg_out);

/**
 * Writes everything but the bytes of PART and EVENTS, which the caller puts behind it.
 * @return bytes written, at most CONTROLLER_REPLICA_OVERHEAD.
 */
size_t controller_replica_encode(const struct controller_replica_msg *msg,
                                 uint8_t bytes_out[CONTROLLER_REPLICA_OVERHEAD]);

/** The next record. @return 1; 0 that was all; -EPROTO. */
int controller_record_next(struct kvl_cursor *in, struct controller_record *record_out);

void controller_record_head(enum controller_record_kind kind, uint32_t length,
                            uint8_t bytes_out[CONTROLLER_RECORD_HEAD_BYTES]);

#endif /* KVL_CONTROLLER_REPLICA_WIRE_H */
