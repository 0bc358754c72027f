/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file controller_json.h
 * A frame of JSON as the same message in msgpack, so that one decoder serves both. Internal to the
 * codec.
 */
#ifndef KVL_CONTROLLER_JSON_H
#define KVL_CONTROLLER_JSON_H

#include "controller_read.h"

/**
 * JSON of RFC 8259, strictly: UTF-8, no NaN, no half surrogates. Integers are exact and must fit
 * -2^63 to 2^64-1; what has a point or an exponent is a float. Objects keep their order and
 * repeated keys. Takes 9/4 of the frame from the arena.
 * @param pack_out  in the arena
 * @return 0; -EPROTO, -EILSEQ, -EMSGSIZE nested too deeply, -ENOMEM, with the error text.
 */
int controller_json_to_pack(struct controller_reader *in, const void *frame, size_t length,
                            const void **pack_out, size_t *length_out);

#endif /* KVL_CONTROLLER_JSON_H */
