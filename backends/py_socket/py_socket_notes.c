/* SPDX-License-Identifier: Apache-2.0 */
#include "py_socket_notes.h"

#include <errno.h>

static int notes_bad(const char **what_out, int code, const char *what)
{
    *what_out = what;
    return code;
}

static int notes_read_one(struct kvl_pack *in, struct py_socket_note *note, const char **what_out)
{
    const uint8_t *bytes;
    uint32_t entries;

    if (kvl_pack_read_array(in, &entries) < 0 || entries != 2) {
        return notes_bad(what_out, -EPROTO, "a note that is no pair");
    }
    if (kvl_pack_read_text(in, &note->backend.text, &note->backend.length) < 0 ||
        kvl_pack_read_bytes(in, &bytes, &note->length) < 0) {
        return notes_bad(what_out, -EPROTO, "a note of the wrong types");
    }
    if (note->backend.length > PY_SOCKET_NOTE_NAME || note->length > KVL_OFFER_MAX) {
        return notes_bad(what_out, -EMSGSIZE, "a note is too long");
    }
    if (note->backend.length == 0 || !kvl_pack_is_utf8(note->backend.text, note->backend.length)) {
        return notes_bad(what_out, -EPROTO, "a note without a name");
    }
    note->bytes = bytes;
    return 0;
}

int py_socket_notes_read(struct kvl_pack *in, struct py_socket_notes *notes_out,
                         const char **what_out)
{
    struct py_socket_notes notes = {.count = 0};
    uint32_t count;

    if (kvl_pack_read_array(in, &count) < 0) {
        return notes_bad(what_out, -EPROTO, "notes are no list");
    }
    if (count > PY_SOCKET_NOTES_MAX) {
        return notes_bad(what_out, -EMSGSIZE, "too many notes");
    }
    for (uint32_t i = 0; i < count; i++) {
        struct py_socket_note *note = &notes.notes[notes.count];
        int r = notes_read_one(in, note, what_out);

        if (r < 0) {
            return r;
        }
        notes.count += note->length > 0;
    }
    *notes_out = notes;
    return 0;
}

void py_socket_notes_put(struct kvl_pack_out *out, const struct py_socket_notes *notes)
{
    kvl_pack_put_array(out, notes->count);
    for (uint32_t i = 0; i < notes->count; i++) {
        const struct py_socket_note *note = &notes->notes[i];

        kvl_pack_put_array(out, 2);
        kvl_pack_put_text(out, note->backend.text, note->backend.length);
        kvl_pack_put_bytes(out, note->bytes, note->length);
    }
}
