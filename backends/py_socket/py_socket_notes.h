/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file py_socket_notes.h
 * What backends tell their like in another process (kvl_host.offer) <-> bytes: the value of the key
 * `notes` in the offer of a handshake, a list of pairs of a backend's name and bytes that are
 * opaque here. No I/O, no allocation.
 */
#ifndef KVL_PY_SOCKET_NOTES_H
#define KVL_PY_SOCKET_NOTES_H

#include <kvlane/host.h>

#include "pack.h"

#define PY_SOCKET_NOTES_MAX 8u
#define PY_SOCKET_NOTE_NAME 63u /* bytes of a backend's name */

struct py_socket_note {
    struct kvl_text backend; /* 1 to PY_SOCKET_NOTE_NAME bytes */
    const void *bytes;
    uint32_t length; /* 1 to KVL_OFFER_MAX */
};

/** Names and bytes are borrowed: of the frame when it was read. */
struct py_socket_notes {
    struct py_socket_note notes[PY_SOCKET_NOTES_MAX];
    uint32_t count;
};

/**
 * Reads the list. Empty notes are left out.
 * @param what_out  why not; lives for ever
 * @return 0; -EPROTO, -EMSGSIZE and *what_out.
 */
int py_socket_notes_read(struct kvl_pack *in, struct py_socket_notes *notes_out,
                         const char **what_out);

void py_socket_notes_put(struct kvl_pack_out *out, const struct py_socket_notes *notes);

#endif /* KVL_PY_SOCKET_NOTES_H */
