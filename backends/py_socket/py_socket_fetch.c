/* SPDX-License-Identifier: Apache-2.0 */
/* The asking side of chunks by key. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "py_socket_channel.h"
#include "py_socket_copy.h"

#define WASTE_BYTES ((uint64_t)64 * 1024)

struct fetch_item {
    struct py_socket_found found;
    bool told; /* ops->item was called */
};

struct py_socket_fetch {
    const struct py_socket_fetch_ops *ops;
    void *ctx;
    uint32_t count;
    struct fetch_item *items; /* GET: from when the answer is there */
    uint8_t *waste; /* GET: where bytes go that nobody takes; NULL until needed */
    struct py_socket_map *store; /* GET: retained while its bytes are copied */
};

/* ---- asking ---- */

static size_t fetch_encode(uint8_t type, const struct kvl_key *keys,
                           const struct py_socket_wish *wishes, uint32_t item, uint8_t *at,
                           size_t room)
{
    return type == PY_SOCKET_LOOKUP ? py_socket_key_encode(&keys[item], at, room)
                                    : py_socket_wish_encode(&wishes[item], at, room);
}

static struct py_socket_out *fetch_frame(uint8_t type, const struct kvl_key *keys,
                                         const struct py_socket_wish *wishes, uint32_t count,
                                         uint64_t id)
{
    struct py_socket_frame frame = {.type = type, .id = id, .count = count};
    struct py_socket_out *out;
    size_t at = 0;

    for (uint32_t i = 0; i < count; i++) {
        uint32_t key = type == PY_SOCKET_LOOKUP ? keys[i].length : wishes[i].key.length;

        frame.table += 2 + key + (type == PY_SOCKET_LOOKUP ? 0 : PY_SOCKET_WISH_BYTES);
    }
    out = py_socket_out_create(&frame, 0);
    for (uint32_t i = 0; out != NULL && i < count; i++) {
        at += fetch_encode(type, keys, wishes, i, py_socket_out_table(out) + at, frame.table - at);
    }
    return out;
}

static struct py_socket_conn *fetch_conn(struct py_socket_lane *lane)
{
    struct py_socket_conn *best = NULL;

    for (uint32_t i = 0; i < lane->conn_count; i++) {
        struct py_socket_conn *conn = lane->conns[i];

        if (conn->state == PY_SOCKET_CONN_OPEN && !conn->dead && conn->parts < PY_SOCKET_WINDOW &&
            (best == NULL || conn->parts < best->parts)) {
            best = conn;
        }
    }
    return best;
}

/* With the lock; the op is there. */
static int fetch_put(struct py_socket_lane *lane, struct py_socket_op *op, uint8_t type,
                     const struct kvl_key *keys, const struct py_socket_wish *wishes,
                     uint32_t count)
{
    struct py_socket_conn *conn = fetch_conn(lane);
    struct py_socket_part *part;
    struct py_socket_out *out;
    int r;

    if (conn == NULL) {
        return -EAGAIN;
    }
    r = py_socket_part_create(conn, op, type, &part);
    if (r < 0) {
        return r;
    }
    out = fetch_frame(type, keys, wishes, count, part->id);
    if (out == NULL) {
        py_socket_part_free(part);
        return -ENOMEM;
    }
    part->out = out;
    out->part = part;
    py_socket_conn_put(conn, out);
    return 0;
}

static int fetch_begin(struct kvl_channel *channel, struct py_socket_peer *peer, uint8_t type,
                       const struct kvl_key *keys, const struct py_socket_wish *wishes,
                       uint32_t count, uint64_t deadline_ms, struct py_socket_fetch *fetch,
                       uint64_t *op_out)
{
    struct py_socket_lane *lane = atomic_load(&peer->data);
    struct py_socket_op *op;
    int r;

    if (lane == NULL || lane->state != PY_SOCKET_LANE_OPEN || channel->closing) {
        return channel->closing ? -ECANCELED : -ENOTCONN;
    }
    if ((lane->hello.flags & PY_SOCKET_CHUNKS) == 0) {
        return -ENOTSUP;
    }
    r = py_socket_op_create(channel, PY_SOCKET_OP_FETCH, lane, &op);
    if (r < 0) {
        return r;
    }
    op->deadline_ms = deadline_ms;
    op->fetch = fetch;
    r = fetch_put(lane, op, type, keys, wishes, count);
    if (r < 0) {
        py_socket_op_undo(op);
        return r;
    }
    if (lane->store != NULL) {
        fetch->store = py_socket_map_retain(lane->store);
    }
    if (deadline_ms != KVL_NEVER) {
        py_socket_timer_at(&channel->timer, deadline_ms);
    }
    if (op_out != NULL) {
        *op_out = op->id;
    }
    return 0;
}

static int fetch_start(struct kvl_channel *channel, const char *peer_id, uint8_t type,
                       const struct kvl_key *keys, const struct py_socket_wish *wishes,
                       uint32_t count, uint64_t deadline_ms, const struct py_socket_fetch_ops *ops,
                       void *ctx, uint64_t *op_out)
{
    struct py_socket_peer *peer;
    struct py_socket_fetch *fetch;
    int r;

    if (py_socket_data_is_child(channel->data)) {
        return -ECHILD;
    }
    if (count == 0 || count > PY_SOCKET_KEYS_MAX) {
        return count == 0 ? -EINVAL : -EMSGSIZE;
    }
    fetch = calloc(1, sizeof(*fetch));
    if (fetch == NULL) {
        return -ENOMEM;
    }
    fetch->ops = ops;
    fetch->ctx = ctx;
    fetch->count = count;
    peer = py_socket_peers_find(py_socket_link_peers(channel->link), peer_id);
    r = peer == NULL ? -ENOTCONN : 0;
    if (r == 0) {
        pthread_mutex_lock(&channel->lock);
        r = fetch_begin(channel, peer, type, keys, wishes, count, deadline_ms, fetch, op_out);
        py_socket_unlock(channel);
        py_socket_peer_release(peer);
    }
    if (r < 0) {
        free(fetch);
    }
    return r;
}

int py_socket_fetch_lookup(struct kvl_channel *channel, const char *peer_id,
                           const struct kvl_key *keys, uint32_t count, uint64_t deadline_ms,
                           const struct py_socket_fetch_ops *ops, void *ctx, uint64_t *op_out)
{
    return fetch_start(channel, peer_id, PY_SOCKET_LOOKUP, keys, NULL, count, deadline_ms, ops, ctx,
                       op_out);
}

int py_socket_fetch_get(struct kvl_channel *channel, const char *peer_id,
                        const struct py_socket_wish *wishes, uint32_t count, uint64_t deadline_ms,
                        const struct py_socket_fetch_ops *ops, void *ctx, uint64_t *op_out)
{
    return fetch_start(channel, peer_id, PY_SOCKET_GET, NULL, wishes, count, deadline_ms, ops, ctx,
                       op_out);
}

/* ---- where bytes go ---- */

/* How many iovecs the runs of a chunk are. @return 0; -EINVAL they are not `bytes` in all. */
static int fetch_count_runs(const struct kvl_sg *sg, uint32_t sg_count, uint64_t bytes,
                            uint64_t *runs_io)
{
    uint64_t total = 0;

    for (uint32_t i = 0; i < sg_count; i++) {
        uint64_t part;

        if (sg[i].mem != KVL_MEM_HOST || sg[i].count == 0 ||
            __builtin_mul_overflow(sg[i].length, sg[i].count, &part) ||
            __builtin_add_overflow(total, part, &total)) {
            return -EINVAL;
        }
        *runs_io += sg[i].count;
    }
    return total == bytes ? 0 : -EINVAL;
}

/* Room for more iovecs. */
static int fetch_grow(struct py_socket_part *part, uint64_t more)
{
    struct iovec *iov;

    if (more == 0) {
        return 0;
    }
    if (more > UINT32_MAX / 2 - part->iov_count) {
        return -EMSGSIZE;
    }
    iov = realloc(part->iov, (part->iov_count + more) * sizeof(struct iovec));
    if (iov == NULL) {
        return -ENOMEM;
    }
    part->iov = iov;
    return 0;
}

static void fetch_add_runs(struct py_socket_part *part, const struct kvl_sg *sg, uint32_t sg_count)
{
    for (uint32_t i = 0; i < sg_count; i++) {
        for (uint32_t run = 0; run < sg[i].count && sg[i].length > 0; run++) {
            uint64_t addr = sg[i].addr + run * sg[i].stride;

            py_socket_iov_add(part->iov, &part->iov_count, (void *)(uintptr_t)addr, sg[i].length);
        }
    }
}

/* The bytes of a chunk that nobody takes must be read all the same. */
static int fetch_add_waste(struct py_socket_fetch *fetch, struct py_socket_part *part,
                           uint64_t bytes)
{
    uint64_t pieces = (bytes + WASTE_BYTES - 1) / WASTE_BYTES;
    int r = fetch_grow(part, pieces);

    if (r == 0 && fetch->waste == NULL) {
        fetch->waste = malloc(WASTE_BYTES);
        r = fetch->waste == NULL ? -ENOMEM : 0;
    }
    for (uint64_t i = 0; r == 0 && i < pieces; i++) {
        uint64_t n = bytes < WASTE_BYTES ? bytes : WASTE_BYTES;

        part->iov[part->iov_count++] = (struct iovec){.iov_base = fetch->waste, .iov_len = n};
        bytes -= n;
    }
    return r;
}

/* ---- the answer ---- */

static int fetch_looked_up(struct py_socket_conn *conn, const struct py_socket_fetch *fetch)
{
    if (conn->frame.status == 0 && conn->frame.count != fetch->count) {
        return -EPROTO;
    }
    for (uint32_t i = 0; i < conn->frame.count && i < fetch->count; i++) {
        fetch->ops->looked_up(fetch->ctx, i, conn->table[i / 8] >> i % 8 & 1);
    }
    return 0;
}

/* Copies a chunk out of the mapped store. @return 0; -ESTALE the lease did not hold. */
static int fetch_copy(const struct py_socket_lane *lane, const struct py_socket_fetch *fetch,
                      const struct py_socket_found *found, const struct kvl_sg *sg,
                      uint32_t sg_count)
{
    const uint8_t *from = fetch->store->base + found->offset;

    for (uint32_t i = 0; i < sg_count; i++) {
        for (uint32_t run = 0; run < sg[i].count; run++) {
            py_socket_copy((void *)(uintptr_t)(sg[i].addr + run * sg[i].stride), from,
                           sg[i].length);
            from += sg[i].length;
        }
    }
    py_socket_read_barrier();
    if (atomic_load_explicit(&lane->control->generations[found->slot], memory_order_acquire) !=
            found->generation ||
        atomic_load_explicit(&lane->control->incarnation, memory_order_acquire) !=
            lane->peer->offer.incarnation) {
        return -ESTALE;
    }
    return 0;
}

static bool fetch_is_mapped(const struct py_socket_lane *lane, const struct py_socket_fetch *fetch,
                            const struct py_socket_found *found)
{
    return fetch->store != NULL && lane->control != NULL && found->slot < PY_SOCKET_LEASES &&
           found->offset <= fetch->store->bytes &&
           found->bytes <= fetch->store->bytes - found->offset;
}

static void fetch_tell(struct py_socket_fetch *fetch, uint32_t item, int32_t status)
{
    fetch->items[item].told = true;
    fetch->ops->item(fetch->ctx, item, status);
}

/* One chunk that is there: where its bytes go, or the copy of them. @return -errno: close it. */
static int fetch_take(const struct py_socket_lane *lane, struct py_socket_part *part,
                      struct py_socket_fetch *fetch, uint32_t item)
{
    struct py_socket_found *found = &fetch->items[item].found;
    bool mapped = (found->flags & PY_SOCKET_FOUND_MAPPED) != 0;
    const struct kvl_sg *sg = NULL;
    uint32_t sg_count = 0;
    uint64_t runs = 0;
    int r;

    if (mapped && !fetch_is_mapped(lane, fetch, found)) {
        return -EPROTO;
    }
    r = fetch->ops->found(fetch->ctx, item, found, &sg, &sg_count);
    if (r == 0) {
        r = fetch_count_runs(sg, sg_count, found->bytes, &runs);
    }
    if (mapped) {
        r = r < 0 ? r : fetch_copy(lane, fetch, found, sg, sg_count);
        fetch_tell(fetch, item, r);
        return 0;
    }
    if (r == 0) {
        r = fetch_grow(part, runs);
        if (r == 0) {
            fetch_add_runs(part, sg, sg_count);
            return 0;
        }
    }
    found->status = r; /* told when its bytes are through */
    return fetch_add_waste(fetch, part, found->bytes);
}

void py_socket_fetch_release(struct py_socket_conn *conn)
{
    struct py_socket_frame frame = {.type = PY_SOCKET_RELEASE};
    struct py_socket_slot slots[PY_SOCKET_KEYS_MAX];
    struct py_socket_out *out;

    for (uint32_t i = 0; i < conn->frame.count; i++) {
        struct py_socket_found found;

        if (py_socket_found_decode(conn->table + (size_t)i * PY_SOCKET_FOUND_BYTES, &found) == 0 &&
            (found.flags & PY_SOCKET_FOUND_MAPPED) != 0) {
            slots[frame.count++] =
                (struct py_socket_slot){.slot = found.slot, .generation = found.generation};
        }
    }
    frame.table = frame.count * PY_SOCKET_SLOT_BYTES;
    out = frame.count == 0 ? NULL : py_socket_out_create(&frame, 0);
    if (out == NULL) {
        return; /* without memory their time will end them */
    }
    for (uint32_t i = 0; i < frame.count; i++) {
        py_socket_slot_encode(&slots[i], py_socket_out_table(out) + i * PY_SOCKET_SLOT_BYTES);
    }
    pthread_mutex_lock(&conn->channel->lock);
    py_socket_conn_put(conn, out);
    py_socket_unlock(conn->channel);
}

/* Reads the table. @return -EPROTO. */
static int fetch_decode(struct py_socket_conn *conn, struct py_socket_fetch *fetch)
{
    uint64_t inlined = 0;

    if (conn->frame.count != fetch->count) {
        return -EPROTO;
    }
    fetch->items = calloc(fetch->count, sizeof(*fetch->items));
    if (fetch->items == NULL) {
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < fetch->count; i++) {
        struct py_socket_found *found = &fetch->items[i].found;
        int r = py_socket_found_decode(conn->table + (size_t)i * PY_SOCKET_FOUND_BYTES, found);

        if (r < 0) {
            return r;
        }
        if ((found->flags & PY_SOCKET_FOUND_MAPPED) == 0 &&
            __builtin_add_overflow(inlined, found->bytes, &inlined)) {
            return -EPROTO;
        }
    }
    return inlined == conn->frame.payload ? 0 : -EPROTO;
}

int py_socket_fetch_answer(struct py_socket_conn *conn, struct py_socket_part *part)
{
    struct py_socket_fetch *fetch = part->op->fetch;
    int r;

    if (part->type == PY_SOCKET_LOOKUP) {
        return fetch_looked_up(conn, fetch);
    }
    if (conn->frame.status < 0) {
        return conn->frame.payload == 0 ? 0 : -EPROTO;
    }
    r = fetch_decode(conn, fetch);
    for (uint32_t i = 0; r == 0 && i < fetch->count; i++) {
        if (fetch->items[i].found.status < 0) {
            fetch_tell(fetch, i, fetch->items[i].found.status);
        } else {
            r = fetch_take(part->op->lane, part, fetch, i);
        }
    }
    if (r == 0) {
        py_socket_fetch_release(conn);
    }
    return r;
}

void py_socket_fetch_filled(struct py_socket_part *part)
{
    struct py_socket_fetch *fetch = part->op->fetch;

    for (uint32_t i = 0; fetch->items != NULL && i < fetch->count; i++) {
        if (!fetch->items[i].told) {
            fetch_tell(fetch, i, fetch->items[i].found.status);
        }
    }
}

void py_socket_fetch_ended(struct py_socket_op *op)
{
    struct kvl_channel *channel = op->channel;
    struct py_socket_fetch *fetch = op->fetch;

    fetch->ops->end(fetch->ctx, op->status);
    py_socket_map_release(fetch->store);
    free(fetch->items);
    free(fetch->waste);
    free(fetch);
    pthread_mutex_lock(&channel->lock);
    op->fetch = NULL;
    py_socket_op_free(op);
    pthread_mutex_unlock(&channel->lock);
}
