/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The reader of messages of py_socket: what decodes is within the limits, its lists can be walked,
 * and written again it decodes to the same.
 */
#include <stdlib.h>
#include <string.h>

#include "py_socket_wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int ok)
{
    if (!ok) {
        abort();
    }
}

static int is_text(const struct kvl_text *text, uint32_t max)
{
    return text->length <= max && kvl_pack_is_utf8(text->text, text->length);
}

static char *terminated(const struct kvl_text *text)
{
    char *copy = calloc(1, (size_t)text->length + 1);

    check(copy != NULL);
    if (text->length > 0) {
        memcpy(copy, text->text, text->length);
    }
    return copy;
}

static void check_offer(const struct py_socket_offer *offer)
{
    check(offer->min_version > 0 && offer->min_version <= offer->version);
    check(offer->incarnation != 0);
    check(memchr(offer->fingerprint, '\0', sizeof(offer->fingerprint)) != NULL);
    check(memchr(offer->boot_id, '\0', sizeof(offer->boot_id)) != NULL);
    check(memchr(offer->shm_name, '\0', sizeof(offer->shm_name)) != NULL);
    check(memchr(offer->tcp, '\0', sizeof(offer->tcp)) != NULL);
    if (offer->buffer_bytes != 0) {
        check(offer->align_bytes >= 64 && offer->buffer_bytes % offer->align_bytes == 0);
    }
}

static void check_notes(const struct py_socket_notes *notes)
{
    check(notes->count <= PY_SOCKET_NOTES_MAX);
    for (uint32_t i = 0; i < notes->count; i++) {
        const struct py_socket_note *note = &notes->notes[i];

        check(note->backend.length > 0 && is_text(&note->backend, PY_SOCKET_NOTE_NAME));
        check(note->length > 0 && note->length <= KVL_OFFER_MAX);
    }
}

static int same_notes(const struct py_socket_notes *a, const struct py_socket_notes *b)
{
    int same = a->count == b->count;

    for (uint32_t i = 0; same && i < a->count; i++) {
        const struct py_socket_note *x = &a->notes[i];
        const struct py_socket_note *y = &b->notes[i];

        same = x->backend.length == y->backend.length && x->length == y->length &&
               memcmp(x->backend.text, y->backend.text, x->backend.length) == 0 &&
               memcmp(x->bytes, y->bytes, x->length) == 0;
    }
    return same;
}

/* A list as an array; the numbers are of the list at `numbers` when there is none of keys. */
static struct kvl_text *walk_keys(struct py_socket_list list)
{
    uint32_t count = list.count;
    struct kvl_text *keys = calloc((size_t)count + 1, sizeof(*keys));

    check(keys != NULL && count <= PY_SOCKET_LIST_MAX);
    for (uint32_t i = 0; i < count; i++) {
        check(list.count == count - i);
        keys[i] = py_socket_list_text(&list);
        check(is_text(&keys[i], PY_SOCKET_KEY_MAX));
    }
    check(list.count == 0 && py_socket_list_text(&list).length == 0);
    return keys;
}

static uint64_t *walk_numbers(struct py_socket_list list)
{
    uint32_t count = list.count;
    uint64_t *numbers = calloc((size_t)count + 1, sizeof(*numbers));

    check(numbers != NULL && count <= PY_SOCKET_LIST_MAX);
    for (uint32_t i = 0; i < count; i++) {
        numbers[i] = py_socket_list_number(&list);
    }
    check(list.count == 0 && py_socket_list_number(&list) == 0);
    return numbers;
}

static void put(struct kvl_pack_out *out, const struct py_socket_msg *msg, const char *text,
                const struct py_socket_lookup_msg *lookup)
{
    switch (msg->type) {
    case PY_SOCKET_INIT_REQUEST:
        py_socket_put_init_request(out, text, &msg->offer, &msg->notes);
        break;
    case PY_SOCKET_INIT_RESPONSE:
        py_socket_put_init_response(out, text, &msg->offer, &msg->notes);
        break;
    case PY_SOCKET_SIDE:
        py_socket_put_side(out);
        break;
    case PY_SOCKET_SIDE_RET:
        py_socket_put_side_ret(out, text);
        break;
    case PY_SOCKET_LOOKUP_GET:
        py_socket_put_lookup_get(out, lookup);
        break;
    case PY_SOCKET_LOOKUP_PUT:
        py_socket_put_lookup_put(out, lookup);
        break;
    case PY_SOCKET_LOOKUP_GET_RET:
        py_socket_put_lookup_get_ret(out, msg->number);
        break;
    case PY_SOCKET_LOOKUP_PUT_RET:
        py_socket_put_lookup_put_ret(out, msg->number);
        break;
    default:
        py_socket_put_error(out, msg->number);
        break;
    }
}

/* Writes the message anew and compares what that decodes to. */
static void check_again(const struct py_socket_msg *msg, const char *text, const char *lookup_id,
                        const struct py_socket_lookup_msg *lookup)
{
    char reason[PY_SOCKET_REASON_ROOM];
    struct py_socket_msg again;
    struct kvl_pack_out out;

    kvl_pack_out_init(&out, NULL, 0);
    put(&out, msg, text, lookup);
    kvl_pack_out_init(&out, malloc(out.length), out.length);
    check(out.at != NULL);
    put(&out, msg, text, lookup);
    check(!kvl_pack_out_failed(&out));
    check(py_socket_decode(out.at, out.length, &again, reason) == 0);
    check(again.type == msg->type && again.number == msg->number);
    check(again.text.length == strlen(text) && again.lookup_id.length == strlen(lookup_id));
    check(again.keys.count == msg->keys.count);
    check(again.mem_indexes.count == msg->mem_indexes.count);
    check(memcmp(&again.offer, &msg->offer, sizeof(again.offer)) == 0);
    check(same_notes(&again.notes, &msg->notes));
    free(out.at);
}

static void fuzz_message(const struct py_socket_msg *msg)
{
    struct kvl_text *keys = walk_keys(msg->keys);
    uint64_t *indexes = walk_numbers(msg->mem_indexes);
    uint64_t *offsets = walk_numbers(msg->offsets);
    char *text = terminated(&msg->text);
    char *lookup_id = terminated(&msg->lookup_id);
    const struct py_socket_lookup_msg lookup = {
        .lookup_id = lookup_id,
        .peer_id = text,
        .keys = keys,
        .offsets = offsets,
        .mem_indexes = indexes,
        .count = msg->keys.count,
    };

    check(msg->type > PY_SOCKET_NONE && msg->type < PY_SOCKET_TYPES);
    check(is_text(&msg->text, PY_SOCKET_TEXT_MAX) && is_text(&msg->lookup_id, PY_SOCKET_TEXT_MAX));
    if (msg->offer.version != 0) {
        check_offer(&msg->offer);
    } else {
        check(msg->notes.count == 0);
    }
    check_notes(&msg->notes);
    /* a lookup whose lists do not go together is for its user to refuse */
    if (msg->keys.count == msg->mem_indexes.count &&
        (msg->type != PY_SOCKET_LOOKUP_PUT || msg->keys.count == msg->offsets.count)) {
        check_again(msg, text, lookup_id, &lookup);
    }
    free(lookup_id);
    free(text);
    free(offsets);
    free(indexes);
    free(keys);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char reason[PY_SOCKET_REASON_ROOM] = "";
    uint8_t *frame = malloc(size == 0 ? 1 : size); /* of just that size, for the sanitizer */
    struct py_socket_msg msg;

    if (frame == NULL) {
        return 0;
    }
    memcpy(frame, data, size);
    if (py_socket_decode(frame, size, &msg, reason) == 0) {
        fuzz_message(&msg);
    } else {
        check(reason[0] != '\0' && strlen(reason) < sizeof(reason));
    }
    free(frame);
    return 0;
}
