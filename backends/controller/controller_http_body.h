/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file controller_http_body.h
 * Body of a POST -> the record it asks for. Takes what FastAPI's models take, also "1" for 1, and
 * refuses in the same words: users' scripts read these lists. Pure functions.
 */
#ifndef KVL_CONTROLLER_HTTP_BODY_H
#define KVL_CONTROLLER_HTTP_BODY_H

#include "controller_http_json.h"
#include "controller_wire.h"

enum controller_field_kind {
    CONTROLLER_FIELD_TEXT, /* struct kvl_text */
    CONTROLLER_FIELD_INTS, /* struct controller_ids */
    CONTROLLER_FIELD_PLACE, /* struct controller_position: [instance, location] */
    CONTROLLER_FIELD_BOOL, /* int; -1 = null */
};

#define CONTROLLER_FIELD_OPTIONAL (1u << 0) /* may be missing: then [] or false */
#define CONTROLLER_FIELD_NULLABLE (1u << 1) /* may be null */
#define CONTROLLER_FIELD_NULL (1u << 2) /* missing means null */

struct controller_field {
    const char *name; /* NULL ends a list of fields */
    enum controller_field_kind kind;
    unsigned flags;
    size_t offset; /* in the record that is filled */
};

#define CONTROLLER_BODY_LISTS 2u /* most of one route */

/** Memory that a record read from a body points into, besides the body. */
struct controller_body {
    char *room;
    size_t room_used;
    struct kvl_chunk_id *lists[CONTROLLER_BODY_LISTS];
    unsigned list_count;
};

/** Frees. Takes a zeroed one. */
void controller_body_fini(struct controller_body *body);

/**
 * Reads the fields into `record`, mostly a struct controller_msg; keys that are no field are
 * ignored, of duplicates the last counts.
 * @param text    outlives the record
 * @param refusal gets the JSON of an answer 422
 * @return 0; -EPROTO with the refusal; -EILSEQ the body is not UTF-8; -ENOMEM.
 */
int controller_body_read(const struct controller_field *fields, const char *text, size_t length,
                         struct controller_body *body, void *record,
                         struct controller_text *refusal);

/** The refusal of a body that is not JSON: it comes as something else, or not at all. */
void controller_body_refuse_raw(const char *text, size_t length, struct controller_text *refusal);

/** The refusal of a query parameter that is no integer. */
void controller_body_refuse_query(const char *name, const char *value,
                                  struct controller_text *refusal);

#endif /* KVL_CONTROLLER_HTTP_BODY_H */
