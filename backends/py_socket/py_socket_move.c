/* SPDX-License-Identifier: Apache-2.0 */
#include "py_socket_move.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "py_socket_data.h"

static uint64_t deadline_of(const struct py_socket_move *move)
{
    return move->host->now_ms(move->host) + move->timeout_ms;
}

/* ---- give: a peer wants chunks in its pages ---- */

/* Leases the leading run of chunks that are here. @return how many. */
static uint32_t lease_run(const struct py_socket_move *move, const struct py_socket_chunks *chunks,
                          struct kvl_view *views)
{
    uint32_t count = 0;

    while (count < chunks->count) {
        const struct kvl_key key = {
            .text = chunks->keys[count].text,
            .length = chunks->keys[count].length,
        };

        if (move->host->store_get(move->host, &key, &views[count]) < 0) {
            break;
        }
        count++;
    }
    return count;
}

static void release_run(const struct py_socket_move *move, const struct kvl_view *views,
                        uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        (void)move->host->store_release(move->host, views[i].lease);
    }
}

/* Writes leased chunks into the pages of the peer and waits. @return how many; a negative errno
 * when not even the first. */
static int write_run(const struct py_socket_move *move, const char *peer_id,
                     const struct kvl_view *views, const uint64_t *pages, uint32_t count)
{
    struct kvl_span *spans = malloc(count * sizeof(*spans));
    struct kvl_transfer transfer = {
        .size = sizeof(transfer),
        .kind = KVL_TRANSFER_WRITE,
        .peer_id = peer_id,
        .objects = spans,
        .remote_indexes = pages,
        .count = count,
        .deadline_ms = deadline_of(move),
    };
    uint32_t moved = 0;
    uint64_t op;
    int r = spans != NULL ? 0 : -ENOMEM;

    for (uint32_t i = 0; r == 0 && i < count; i++) {
        spans[i] = (struct kvl_span){
            .addr = (void *)(uintptr_t)views[i].data,
            .length = views[i].length,
        };
    }
    if (r == 0) {
        r = py_socket_channel_ops.submit(move->channel, &transfer, &op);
    }
    if (r == 0) {
        r = py_socket_channel_ops.wait(move->channel, op, KVL_NEVER, &moved);
    }
    free(spans);
    return moved > 0 ? (int)moved : r;
}

static int move_get(void *ctx, struct py_socket_peer *receiver,
                    const struct py_socket_chunks *chunks)
{
    const struct py_socket_move *move = ctx;
    struct kvl_view *views;
    uint32_t count;
    int r;

    if (receiver->version == 0 || move->base == NULL) {
        return -ENOTSUP; /* a Python peer has no data plane; without a memfd we have no pages */
    }
    views = malloc(chunks->count * sizeof(*views) + 1);
    if (views == NULL) {
        return -ENOMEM;
    }
    count = lease_run(move, chunks, views);
    r = count == 0 ? 0 : write_run(move, receiver->id, views, chunks->mem_indexes, count);
    release_run(move, views, count);
    free(views);
    return r;
}

/* ---- take: a peer wants us to have its chunks ---- */

/* Chunks that are on their way from a peer into the own store, and the thread that waits for
 * them. */
struct taking {
    const struct kvl_host *host;
    struct kvl_key *keys;
    struct slot {
        uint64_t slot;
        struct kvl_sg to;
        int is_reserved;
    } * slots;
    pthread_mutex_t lock; /* guards taken and is_over */
    pthread_cond_t over;
    uint32_t taken;
    int is_over;
};

static int take_found(void *ctx, uint32_t item, const struct py_socket_found *found,
                      const struct kvl_sg **sg_out, uint32_t *sg_count_out)
{
    struct taking *taking = ctx;
    struct slot *slot = &taking->slots[item];
    const struct kvl_chunk chunk = {
        .key = taking->keys[item],
        .attrs = found->attrs,
        .bytes = found->bytes,
        .checksum = found->checksum,
        .flags = found->flags & KVL_CHUNK_HAS_CHECKSUM,
    };
    void *addr;
    int r = taking->host->store_reserve(taking->host, &chunk, &slot->slot, &addr);

    if (r < 0) {
        return r;
    }
    slot->is_reserved = 1;
    slot->to = (struct kvl_sg){
        .mem = KVL_MEM_HOST,
        .addr = (uint64_t)(uintptr_t)addr,
        .length = found->bytes,
        .stride = found->bytes,
        .count = 1,
        .device = KVL_DEVICE_HOST,
    };
    *sg_out = &slot->to;
    *sg_count_out = found->bytes > 0;
    return 0;
}

static void take_item(void *ctx, uint32_t item, int32_t status)
{
    struct taking *taking = ctx;
    struct slot *slot = &taking->slots[item];
    int r = status;

    if (!slot->is_reserved) {
        return;
    }
    slot->is_reserved = 0;
    if (status < 0) {
        (void)taking->host->store_abort(taking->host, slot->slot);
    } else {
        r = taking->host->store_commit(taking->host, slot->slot);
    }
    pthread_mutex_lock(&taking->lock);
    taking->taken += r == 0;
    pthread_mutex_unlock(&taking->lock);
}

static void take_end(void *ctx, int32_t status)
{
    struct taking *taking = ctx;

    (void)status;
    pthread_mutex_lock(&taking->lock);
    taking->is_over = 1;
    pthread_cond_signal(&taking->over);
    pthread_mutex_unlock(&taking->lock);
}

static const struct py_socket_fetch_ops take_ops = {
    .found = take_found,
    .item = take_item,
    .end = take_end,
};

/* Chunks that are not here yet. @return how many. */
static uint32_t choose_missing(const struct py_socket_move *move,
                               const struct py_socket_chunks *chunks, struct kvl_key *keys,
                               struct py_socket_wish *wishes)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < chunks->count; i++) {
        const struct kvl_key key = {
            .text = chunks->keys[i].text,
            .length = chunks->keys[i].length,
        };

        if (key.length == 0 || key.length > KVL_KEY_MAX ||
            move->host->store_exists(move->host, &key) == 0) {
            continue;
        }
        keys[count] = key;
        wishes[count++] = (struct py_socket_wish){.key = key};
    }
    return count;
}

/* Asks the sender for chunks by key: unlike its pages they say how long they are. Every byte of the
 * question and of the answer is over when this returns. */
static int take(const struct py_socket_move *move, const char *peer_id, struct taking *taking,
                const struct py_socket_wish *wishes, uint32_t count)
{
    int r;

    pthread_mutex_init(&taking->lock, NULL);
    pthread_cond_init(&taking->over, NULL);
    r = py_socket_fetch_get(move->channel, peer_id, wishes, count, deadline_of(move), &take_ops,
                            taking, NULL);
    if (r == 0) {
        pthread_mutex_lock(&taking->lock);
        while (!taking->is_over) {
            pthread_cond_wait(&taking->over, &taking->lock);
        }
        pthread_mutex_unlock(&taking->lock);
        r = (int)taking->taken;
    }
    pthread_cond_destroy(&taking->over);
    pthread_mutex_destroy(&taking->lock);
    return r;
}

static int move_put(void *ctx, struct py_socket_peer *sender, const struct py_socket_chunks *chunks)
{
    const struct py_socket_move *move = ctx;
    const uint32_t room = chunks->count < PY_SOCKET_KEYS_MAX ? chunks->count : PY_SOCKET_KEYS_MAX;
    struct py_socket_chunks some = *chunks;
    struct taking taking = {.host = move->host};
    struct py_socket_wish *wishes = calloc(room + 1, sizeof(*wishes));
    uint32_t count;
    int r = -ENOMEM;

    some.count = room;
    taking.keys = calloc(room + 1, sizeof(*taking.keys));
    taking.slots = calloc(room + 1, sizeof(*taking.slots));
    if (wishes != NULL && taking.keys != NULL && taking.slots != NULL) {
        count = choose_missing(move, &some, taking.keys, wishes);
        r = sender->version == 0 ? -ENOTSUP : 0;
        if (r == 0 && count > 0) {
            r = take(move, sender->id, &taking, wishes, count);
        }
    }
    free(wishes);
    free(taking.keys);
    free(taking.slots);
    return r;
}

void py_socket_move_ops(struct py_socket_move *move, struct py_socket_chunks_ops *ops_out)
{
    *ops_out = (struct py_socket_chunks_ops){.ctx = move, .get = move_get, .put = move_put};
}

/* ---- push: a peer shall have our chunks ---- */

/* Everything that one question takes, in one piece of memory. */
struct pushing {
    uint32_t count;
    struct kvl_view *views;
    struct kvl_text *keys;
    uint64_t *offsets;
    uint64_t *pages;
};

static int pushing_init(struct pushing *pushing, uint32_t room)
{
    pushing->count = 0;
    pushing->views = calloc(room + 1, sizeof(*pushing->views));
    pushing->keys = calloc(room + 1, sizeof(*pushing->keys));
    pushing->offsets = calloc(room + 1, sizeof(*pushing->offsets));
    pushing->pages = calloc(room + 1, sizeof(*pushing->pages));
    return pushing->views != NULL && pushing->keys != NULL && pushing->offsets != NULL &&
                   pushing->pages != NULL
               ? 0
               : -ENOMEM;
}

static void pushing_fini(struct pushing *pushing)
{
    free(pushing->views);
    free(pushing->keys);
    free(pushing->offsets);
    free(pushing->pages);
}

static void pushing_add(const struct py_socket_move *move, struct pushing *pushing,
                        const struct kvl_key *key)
{
    struct kvl_view *view = &pushing->views[pushing->count];

    if (move->host->store_get(move->host, key, view) < 0) {
        return;
    }
    pushing->keys[pushing->count] = (struct kvl_text){.text = key->text, .length = key->length};
    pushing->offsets[pushing->count] = kvl_attrs_tokens(&view->attrs);
    pushing->pages[pushing->count] =
        move->base != NULL && view->data != NULL
            ? (uint64_t)((const char *)view->data - (const char *)move->base) / move->page
            : 0;
    pushing->count++;
}

/* At most PY_SOCKET_KEYS_MAX keys. @return how many the peer took; a negative errno. */
static int push_some(struct py_socket_move *move, struct py_socket_question *question,
                     const struct kvl_key *keys, uint32_t count)
{
    struct pushing pushing;
    uint32_t taken = 0;
    int r = pushing_init(&pushing, count);

    for (uint32_t i = 0; r == 0 && i < count; i++) {
        pushing_add(move, &pushing, &keys[i]);
    }
    if (r == 0 && pushing.count > 0) {
        question->chunks = (struct py_socket_chunks){
            .keys = pushing.keys,
            .offsets = pushing.offsets,
            .mem_indexes = pushing.pages,
            .count = pushing.count,
        };
        r = py_socket_lookup_put(move->lookup, question, &taken);
    }
    if (pushing.views != NULL) {
        release_run(move, pushing.views, pushing.count);
    }
    pushing_fini(&pushing);
    return r < 0 ? r : (int)taken;
}

int py_socket_move_push(struct py_socket_move *move, const char *peer_url,
                        const struct kvl_key *keys, uint32_t count, uint64_t deadline_ms,
                        uint32_t *pushed_out)
{
    struct kvl_channel_peer peer = {
        .size = sizeof(peer),
        .with_side_message = 1,
        .peer_init_url = peer_url,
    };
    struct py_socket_question question = {
        .lookup_url = peer.side_reply,
        .own_id = py_socket_channel_ops.url(move->channel),
        .deadline_ms = deadline_ms,
    };
    uint32_t pushed = 0;
    int r = py_socket_channel_ops.connect(move->channel, &peer, deadline_ms, NULL);

    if (r == 0 && peer.side_reply[0] == '\0') {
        r = -ENOTSUP; /* it has no lookup socket */
    }
    for (uint32_t at = 0; r >= 0 && at < count; at += PY_SOCKET_KEYS_MAX) {
        const uint32_t left = count - at;

        r = push_some(move, &question, keys + at,
                      left < PY_SOCKET_KEYS_MAX ? left : PY_SOCKET_KEYS_MAX);
        pushed += r > 0 ? (uint32_t)r : 0;
    }
    if (r < 0) {
        return r;
    }
    *pushed_out = pushed;
    return 0;
}
