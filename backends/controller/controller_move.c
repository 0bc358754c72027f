/* SPDX-License-Identifier: Apache-2.0 */
#include "controller_move.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOVE_CHUNKS_MAX (1u << 20)

/* The chunks to move, as keys that are ours. */
struct moving {
    const struct kvl_host *host;
    struct kvl_chunk_id *ids; /* sorted; NULL = every chunk */
    uint32_t id_count;
    struct kvl_key *keys;
    char (*texts)[KVL_KEY_MAX + 1]; /* length, then text */
    uint32_t count;
    uint32_t room;
    uint64_t tokens;
};

static int moving_grow(struct moving *moving)
{
    const uint32_t room = moving->room == 0 ? 64 : moving->room * 2;
    char(*texts)[KVL_KEY_MAX + 1];

    if (room > MOVE_CHUNKS_MAX) {
        return -E2BIG;
    }
    texts = realloc(moving->texts, room * sizeof(*texts));
    if (texts == NULL) {
        return -ENOMEM;
    }
    moving->texts = texts;
    moving->room = room;
    return 0;
}

static int moving_look(void *ctx, const struct kvl_key *key, uint64_t bytes)
{
    struct moving *moving = ctx;
    struct kvl_chunk_id id;

    (void)bytes;
    if (moving->ids != NULL &&
        (moving->host->chunk_id(moving->host, key, &id) < 0 ||
         bsearch(&id, moving->ids, moving->id_count, sizeof(id), controller_id_order) == NULL)) {
        return 0;
    }
    if (moving->count == moving->room) {
        int r = moving_grow(moving);

        if (r < 0) {
            return r;
        }
    }
    moving->texts[moving->count][0] = (char)key->length;
    memcpy(moving->texts[moving->count++] + 1, key->text, key->length);
    return 0;
}

static int moving_ids(struct moving *moving, const struct controller_move_order *order)
{
    if (!order->tokens->is_set) {
        return 0;
    }
    moving->id_count = controller_hash_chunks(order->hashing, order->tokens->count);
    moving->ids = calloc(moving->id_count + 1, sizeof(*moving->ids));
    if (moving->ids == NULL) {
        return -ENOMEM;
    }
    controller_hash_chain(order->hashing, order->tokens->at, order->tokens->count, moving->ids);
    qsort(moving->ids, moving->id_count, sizeof(*moving->ids), controller_id_order);
    return 0;
}

/* Names the chunks, once the texts move no more, and counts their tokens. */
static int moving_keys(struct moving *moving)
{
    struct kvl_view view;

    moving->keys = calloc(moving->count + 1, sizeof(*moving->keys));
    if (moving->keys == NULL) {
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < moving->count; i++) {
        moving->keys[i].text = moving->texts[i] + 1;
        moving->keys[i].length = (uint8_t)moving->texts[i][0];
        if (moving->host->store_get(moving->host, &moving->keys[i], &view) == 0) {
            moving->tokens += kvl_attrs_tokens(&view.attrs);
            (void)moving->host->store_release(moving->host, view.lease);
        }
    }
    return 0;
}

static int moving_push(struct moving *moving, const struct controller_move_order *order)
{
    char url[KVL_NAME_ROOM];
    uint32_t pushed = 0;
    int r;

    if (order->target_url.length > KVL_NAME_MAX) {
        return -EMSGSIZE;
    }
    (void)snprintf(url, sizeof(url), "%.*s", (int)order->target_url.length,
                   order->target_url.text != NULL ? order->target_url.text : "");
    r = moving->host->push(moving->host, url, moving->keys, moving->count,
                           moving->host->now_ms(moving->host) + order->timeout_ms, &pushed);
    for (uint32_t i = 0; r == 0 && !order->keep && pushed == moving->count && i < moving->count;
         i++) {
        (void)moving->host->store_remove(moving->host, &moving->keys[i]);
    }
    return r;
}

int controller_move(const struct kvl_host *host, const struct controller_move_order *order,
                    uint64_t *tokens_out, char *why_out, size_t room)
{
    struct moving moving = {.host = host};
    int r = moving_ids(&moving, order);

    if (r == 0) {
        r = host->store_list(host, moving_look, &moving);
    }
    if (r == 0) {
        r = moving_keys(&moving);
    }
    if (r == 0 && moving.count > 0) {
        r = moving_push(&moving, order);
    }
    if (r < 0) {
        (void)snprintf(why_out, room, "%s",
                       r == -ENOTSUP ? "this worker or the target has no peer channel with a "
                                       "lookup socket"
                                     : strerror(-r));
    } else {
        *tokens_out = moving.tokens;
    }
    free(moving.ids);
    free(moving.keys);
    free(moving.texts);
    return r;
}
