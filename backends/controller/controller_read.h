/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file controller_read.h
 * Typed values from msgpack, with limits, and with the error texts of msgspec. Internal to the
 * codec. All functions return 0, or a negative errno after they wrote the error text.
 */
#ifndef KVL_CONTROLLER_READ_H
#define KVL_CONTROLLER_READ_H

#include "controller_wire.h"
#include "pack.h"

#define CONTROLLER_AT_ENTRY (-1) /* a value of a map */
#define CONTROLLER_AT_KEY (-2) /* a key of a map */

/** Where in a message a value is. On the stack of who reads, told from the inside out. */
struct controller_at {
    const struct controller_at *up; /* NULL = the message itself */
    const char *field; /* NULL = `index` says which entry */
    int64_t index; /* or CONTROLLER_AT_ */
};

struct controller_reader {
    struct kvl_pack pack;
    const struct controller_limits *limits;
    struct controller_arena *arena;
    uint32_t items_left; /* of limits->list_items */
    char *error; /* terminated */
    size_t error_room; /* at least 1 */
};

/** Writes an error text and the place (NULL = none is told). @return r */
__attribute__((format(printf, 4, 5))) int controller_read_fail(struct controller_reader *in, int r,
                                                               const struct controller_at *at,
                                                               const char *format, ...);

/** A tag is none of those known. @return -EPROTO */
int controller_read_invalid(struct controller_reader *in, const struct controller_at *at,
                            struct kvl_text value);

/** `expected`: what msgspec calls the type, also with ` | null`. */
int controller_read_text(struct controller_reader *in, const struct controller_at *at,
                         const char *expected, struct kvl_text *text_out);
int controller_read_opt_text(struct controller_reader *in, const struct controller_at *at,
                             const char *expected, struct controller_opt_text *text_out);
int controller_read_int(struct controller_reader *in, const struct controller_at *at,
                        int64_t *value_out);
int controller_read_id(struct controller_reader *in, const struct controller_at *at,
                       struct kvl_chunk_id *id_out);
int controller_read_float(struct controller_reader *in, const struct controller_at *at,
                          double *value_out);
int controller_read_bool(struct controller_reader *in, const struct controller_at *at,
                         const char *expected, int *value_out);
int controller_read_opt_bool(struct controller_reader *in, const struct controller_at *at,
                             const char *expected, int *value_out);
/** KVL_KEY_ADMIT or KVL_KEY_EVICT. */
int controller_read_op_type(struct controller_reader *in, const struct controller_at *at,
                            uint32_t *kind_out);
int controller_read_array(struct controller_reader *in, const struct controller_at *at,
                          const char *expected, uint32_t *count_out);
int controller_read_map(struct controller_reader *in, const struct controller_at *at,
                        const char *expected, uint32_t *count_out);
/** Head of an array of just this length. */
int controller_read_tuple(struct controller_reader *in, const struct controller_at *at,
                          uint32_t length);
int controller_read_position(struct controller_reader *in, const struct controller_at *at,
                             struct controller_position *position_out);

/** Name of a field of the map at `at`; not checked to be UTF-8, a strange one matches none. */
int controller_read_name(struct controller_reader *in, const struct controller_at *at,
                         struct kvl_text *name_out);
/** Value of a field that says which record this is. */
int controller_read_tag(struct controller_reader *in, const struct controller_at *at,
                        struct kvl_text *tag_out);
int controller_read_skip(struct controller_reader *in);

/**
 * Memory for `count` entries of `size` bytes, of which each takes at least `least` on the wire.
 * When the frame is too short for so many, there is room up to the entry at which that shows.
 * @param list_out  NULL when count is 0
 */
int controller_read_take(struct controller_reader *in, const struct controller_at *at,
                         uint32_t count, size_t size, size_t least, void **list_out);

#endif /* KVL_CONTROLLER_READ_H */
