/* SPDX-License-Identifier: Apache-2.0 */
#include "py_socket_offer.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

#define ALIGN_MIN 64u

enum offer_kind { OFFER_U32, OFFER_U64, OFFER_TEXT, OFFER_TOKEN };

struct offer_field {
    const char *name; /* short: they travel with every handshake */
    enum offer_kind kind;
    size_t at;
    size_t room; /* of a text, with its terminator */
    int is_required;
};

#define FIELD(member) offsetof(struct py_socket_offer, member)
#define TEXT(member) FIELD(member), sizeof(((struct py_socket_offer *)NULL)->member)

static const struct offer_field offer_fields[] = {
    {"v", OFFER_U32, FIELD(version), 0, 1},         {"min", OFFER_U32, FIELD(min_version), 0, 1},
    {"inc", OFFER_U64, FIELD(incarnation), 0, 1},   {"token", OFFER_TOKEN, FIELD(token), 0, 1},
    {"fp", OFFER_TEXT, TEXT(fingerprint), 0},       {"boot", OFFER_TEXT, TEXT(boot_id), 0},
    {"shm", OFFER_TEXT, TEXT(shm_name), 0},         {"tcp", OFFER_TEXT, TEXT(tcp), 0},
    {"size", OFFER_U64, FIELD(buffer_bytes), 0, 0}, {"align", OFFER_U64, FIELD(align_bytes), 0, 0},
};
#define OFFER_FIELDS (sizeof(offer_fields) / sizeof(offer_fields[0]))
#define OFFER_NOTES "notes"

static int offer_bad(const char **what_out, int code, const char *what)
{
    *what_out = what;
    return code;
}

static int offer_read_text(struct kvl_pack *in, char *text_out, size_t room, const char **what_out)
{
    const char *text;
    uint32_t length;

    if (kvl_pack_read_text(in, &text, &length) < 0) {
        return offer_bad(what_out, -EPROTO, "a value of the wrong type");
    }
    if (length >= room) {
        return offer_bad(what_out, -EMSGSIZE, "a text is too long");
    }
    if (!kvl_pack_is_utf8(text, length) || memchr(text, '\0', length) != NULL) {
        return offer_bad(what_out, -EPROTO, "a text is not UTF-8");
    }
    memset(text_out, 0, room); /* a key may come twice */
    memcpy(text_out, text, length);
    return 0;
}

static int offer_read_number(struct kvl_pack *in, const struct offer_field *field, void *at,
                             const char **what_out)
{
    uint64_t number;

    if (kvl_pack_read_u64(in, &number) < 0) {
        return offer_bad(what_out, -EPROTO, "a value of the wrong type");
    }
    if (field->kind == OFFER_U64) {
        memcpy(at, &number, sizeof(number));
    } else {
        /* A version from a far future is still one that is higher than ours. */
        uint32_t small = number > UINT32_MAX ? UINT32_MAX : (uint32_t)number;

        memcpy(at, &small, sizeof(small));
    }
    return 0;
}

static int offer_read_value(struct kvl_pack *in, const struct offer_field *field,
                            struct py_socket_offer *offer, const char **what_out)
{
    char *at = (char *)offer + field->at;
    const uint8_t *token;
    uint32_t length;

    switch (field->kind) {
    case OFFER_TEXT:
        return offer_read_text(in, at, field->room, what_out);
    case OFFER_TOKEN:
        if (kvl_pack_read_bytes(in, &token, &length) < 0 || length != PY_SOCKET_TOKEN) {
            return offer_bad(what_out, -EPROTO, "the token is not of its length");
        }
        memcpy(at, token, PY_SOCKET_TOKEN);
        return 0;
    default:
        return offer_read_number(in, field, at, what_out);
    }
}

static int offer_check(const struct py_socket_offer *offer, uint32_t seen, const char **what_out)
{
    uint64_t align = offer->align_bytes;

    for (size_t i = 0; i < OFFER_FIELDS; i++) {
        if (offer_fields[i].is_required && (seen & 1u << i) == 0) {
            return offer_bad(what_out, -EPROTO, "a field is missing");
        }
    }
    if (offer->version == 0 || offer->min_version == 0 || offer->min_version > offer->version ||
        offer->incarnation == 0) {
        return offer_bad(what_out, -EPROTO, "versions or incarnation out of range");
    }
    if (offer->buffer_bytes != 0 &&
        (align < ALIGN_MIN || (align & (align - 1)) != 0 || offer->buffer_bytes % align != 0 ||
         offer->buffer_bytes > INT64_MAX)) {
        return offer_bad(what_out, -EPROTO, "the buffer does not fit its alignment");
    }
    return 0;
}

static int offer_is(const char *name, uint32_t length, const char *wanted)
{
    return strlen(wanted) == length && memcmp(wanted, name, length) == 0;
}

/* The field of that name; OFFER_FIELDS for none. */
static size_t offer_find(const char *name, uint32_t length)
{
    size_t f = 0;

    while (f < OFFER_FIELDS && !offer_is(name, length, offer_fields[f].name)) {
        f++;
    }
    return f;
}

int py_socket_offer_read(struct kvl_pack *in, struct py_socket_offer *offer_out,
                         struct py_socket_notes *notes_out, const char **what_out)
{
    struct py_socket_offer offer = {0};
    struct py_socket_notes notes = {.count = 0};
    uint32_t seen = 0;
    uint32_t pairs;
    int r;

    if (kvl_pack_read_map(in, &pairs) < 0) {
        return offer_bad(what_out, -EPROTO, "not a map");
    }
    if (pairs > PY_SOCKET_MAP_MAX) {
        return offer_bad(what_out, -EMSGSIZE, "too many keys");
    }
    for (uint32_t i = 0; i < pairs; i++) {
        const char *name;
        uint32_t length;
        size_t f;

        if (kvl_pack_read_text(in, &name, &length) < 0) {
            return offer_bad(what_out, -EPROTO, "a key that is no string");
        }
        f = offer_find(name, length);
        if (offer_is(name, length, OFFER_NOTES)) {
            r = py_socket_notes_read(in, &notes, what_out);
        } else if (f == OFFER_FIELDS) {
            r = kvl_pack_skip(in, PY_SOCKET_DEPTH) < 0
                    ? offer_bad(what_out, -EPROTO, "an unknown value is bad")
                    : 0;
        } else {
            seen |= 1u << f;
            r = offer_read_value(in, &offer_fields[f], &offer, what_out);
        }
        if (r < 0) {
            return r;
        }
    }
    r = offer_check(&offer, seen, what_out);
    if (r == 0) {
        *offer_out = offer;
        *notes_out = notes;
    }
    return r;
}

static void offer_put_name(struct kvl_pack_out *out, const char *name)
{
    kvl_pack_put_text(out, name, (uint32_t)strlen(name));
}

void py_socket_offer_put(struct kvl_pack_out *out, const struct py_socket_offer *offer,
                         const struct py_socket_notes *notes)
{
    const int has_notes = notes != NULL && notes->count > 0;

    kvl_pack_put_map(out, OFFER_FIELDS + (has_notes ? 1 : 0));
    for (size_t i = 0; i < OFFER_FIELDS; i++) {
        const struct offer_field *field = &offer_fields[i];
        const char *at = (const char *)offer + field->at;
        uint64_t wide;
        uint32_t small;

        offer_put_name(out, field->name);
        switch (field->kind) {
        case OFFER_U32:
            memcpy(&small, at, sizeof(small));
            kvl_pack_put_u64(out, small);
            break;
        case OFFER_U64:
            memcpy(&wide, at, sizeof(wide));
            kvl_pack_put_u64(out, wide);
            break;
        case OFFER_TEXT:
            kvl_pack_put_text(out, at, (uint32_t)strlen(at));
            break;
        case OFFER_TOKEN:
            kvl_pack_put_bytes(out, at, PY_SOCKET_TOKEN);
            break;
        }
    }
    if (has_notes) {
        offer_put_name(out, OFFER_NOTES);
        py_socket_notes_put(out, notes);
    }
}
