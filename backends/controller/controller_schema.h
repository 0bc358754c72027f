/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file controller_schema.h
 * Which fields each message has on the wire, in wire order, and where they are in the record.
 * Constant tables; reading and writing follow the same ones.
 */
#ifndef KVL_CONTROLLER_SCHEMA_H
#define KVL_CONTROLLER_SCHEMA_H

#include "controller_wire.h"

enum controller_kind {
    CONTROLLER_KIND_TEXT, /* struct kvl_text */
    CONTROLLER_KIND_OPT_TEXT, /* struct controller_opt_text */
    CONTROLLER_KIND_INT, /* int64_t */
    CONTROLLER_KIND_ID, /* struct kvl_chunk_id */
    CONTROLLER_KIND_FLOAT, /* double */
    CONTROLLER_KIND_BOOL, /* int */
    CONTROLLER_KIND_OPT_BOOL, /* int, -1 = nil */
    CONTROLLER_KIND_IDS, /* struct controller_ids */
    CONTROLLER_KIND_OPT_IDS, /* struct controller_ids */
    CONTROLLER_KIND_OP_TYPE, /* uint32_t: KVL_KEY_ADMIT, KVL_KEY_EVICT */
    CONTROLLER_KIND_OPS, /* list of struct kvl_key_op */
    CONTROLLER_KIND_POSITION, /* struct controller_position */
    CONTROLLER_KIND_PAIRS, /* list of struct controller_pair; a map on the wire */
    CONTROLLER_KIND_LAYOUTS, /* list of struct controller_layout */
    CONTROLLER_KIND_LAYOUT_MAP, /* the same, without the URL; a map on the wire */
    CONTROLLER_KIND_CODES, /* list of struct controller_code; a map on the wire */
    CONTROLLER_KIND_COMMANDS, /* list of struct controller_command */
    CONTROLLER_KIND_ARGS, /* struct kvl_text: the msgpack of a map */
    CONTROLLER_KIND_INFOS, /* list of struct controller_worker_info */
};

struct controller_field {
    const char *name;
    uint8_t name_length;
    uint8_t kind; /* enum controller_kind */
    uint8_t has_default; /* otherwise it must be there */
    uint8_t fallback; /* of CONTROLLER_KIND_OPT_BOOL; the default of all others is zero bytes */
    uint32_t offset; /* in the record */
};

struct controller_record {
    const char *name; /* what the tag says; NULL without tag */
    const struct controller_field *fields;
    uint32_t count; /* of fields, at most 32 */
    uint32_t size; /* of the C record */
};

/** By enum controller_type; the one of CONTROLLER_NONE has no name. */
extern const struct controller_record controller_records[CONTROLLER_TYPES];

extern const struct controller_record controller_op_record; /* struct kvl_key_op */
extern const struct controller_record controller_command_record; /* struct controller_command */
extern const struct controller_record controller_info_record; /* struct controller_worker_info */

/** The message with this name, or CONTROLLER_NONE. */
enum controller_type controller_type_find(struct kvl_text name);

/** The field with this name, looked for from `*hint` on, which then is the next; or NULL. */
const struct controller_field *controller_field_find(const struct controller_record *record,
                                                     struct kvl_text name, uint32_t *hint);

/** Fewest bytes that a record with all its required fields takes on the wire. */
size_t controller_record_least(const struct controller_record *record);

#endif /* KVL_CONTROLLER_SCHEMA_H */
