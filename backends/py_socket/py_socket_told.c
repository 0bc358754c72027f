/* SPDX-License-Identifier: Apache-2.0 */
/* What backends of this instance and of a peer tell each other by the handshakes of a link. */
#include "py_socket_link_parts.h"

#include <string.h>

static void told_add(void *ctx, const struct kvl_offer *offer)
{
    struct link_told *told = ctx;
    const uint32_t at = told->notes.count;

    if (at == PY_SOCKET_NOTES_MAX || offer->backend.length > PY_SOCKET_NOTE_NAME ||
        offer->length > KVL_OFFER_MAX) {
        told->left_out++;
        return;
    }
    memcpy(told->names[at], offer->backend.text, offer->backend.length);
    memcpy(told->bytes[at], offer->bytes, offer->length);
    told->notes.notes[at] = (struct py_socket_note){
        .backend = {.text = told->names[at], .length = offer->backend.length},
        .bytes = told->bytes[at],
        .length = offer->length,
    };
    told->notes.count++;
}

void link_told_collect(const struct py_socket_link *link, struct link_told *told)
{
    const struct kvl_host *host = link->config.host;

    told->notes.count = 0;
    told->left_out = 0;
    if (KVL_HAS_OP(host, offers)) {
        host->offers(host, told_add, told);
    }
    if (told->left_out > 0) {
        kvl_debug(host->log, "py_socket: what %u backends offer does not fit into a handshake",
                  told->left_out);
    }
}

void link_told_give(const struct py_socket_link *link, const char *url,
                    const struct py_socket_msg *msg)
{
    const struct kvl_host *host = link->config.host;
    const char *boot_id = link->offer.boot_id;

    if (!KVL_HAS_OP(host, offered)) {
        return;
    }
    for (uint32_t i = 0; i < msg->notes.count; i++) {
        const struct py_socket_note *note = &msg->notes.notes[i];
        const struct kvl_offer offer = {
            .size = sizeof(offer),
            .is_same_host = boot_id[0] != '\0' && strcmp(boot_id, msg->offer.boot_id) == 0,
            .backend = note->backend,
            .peer = {.text = url, .length = (uint32_t)strlen(url)},
            .bytes = note->bytes,
            .length = note->length,
        };

        host->offered(host, &offer);
    }
}
