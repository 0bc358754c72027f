/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file py_socket_offer.h
 * The offer inside the two init messages <-> bytes: a map whose keys may come in any order, and
 * where unknown ones are passed over. No I/O, no allocation.
 */
#ifndef KVL_PY_SOCKET_OFFER_H
#define KVL_PY_SOCKET_OFFER_H

#include "py_socket_wire.h"

/**
 * Reads an offer that is all there, and the notes in it.
 * @param what_out  why not; lives for ever
 * @return 0 and version, min_version, incarnation that are none of them 0, and a buffer that is a
 *         multiple of its alignment; -EPROTO, -EMSGSIZE and *what_out.
 */
int py_socket_offer_read(struct kvl_pack *in, struct py_socket_offer *offer_out,
                         struct py_socket_notes *notes_out, const char **what_out);

/** @param notes  NULL = none */
void py_socket_offer_put(struct kvl_pack_out *out, const struct py_socket_offer *offer,
                         const struct py_socket_notes *notes);

#endif /* KVL_PY_SOCKET_OFFER_H */
