/* SPDX-License-Identifier: Apache-2.0 */
/* The asking side of chunks by key. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "py_socket_channel.h"
#include "py_socket_copy.h"

#define WASTE_BYTES ((uint64_t)64 * 1024)

struct ask_item {
    struct py_socket_found found;
    bool told; /* ops->item was called */
};

struct py_socket_ask {
    const struct py_socket_ask_ops *ops;
    void *ctx;
    uint32_t count;
    struct ask_item *items; /* GET: from when the answer is there */
    uint8_t *waste; /* GET: where bytes go that nobody takes; NULL until needed */
    struct py_socket_map *store; /* GET: retained while its bytes are copied */
};

/* ---- asking ---- */

static size_t ask_encode(uint8_t type, const struct kvl_key *keys,
                         const struct py_socket_wish *wishes, uint32_t item, uint8_t *at,
                         size_t room)
{
    return type == PY_SOCKET_LOOKUP ? py_socket_key_encode(&keys[item], at, room)
                                    : py_socket_wish_encode(&wishes[item], at, room);
}

static struct py_socket_out *ask_frame(uint8_t type, const struct kvl_key *keys,
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
        at += ask_encode(type, keys, wishes, i, py_socket_out_table(out) + at, frame.table - at);
    }
    return out;
}

static struct py_socket_conn *ask_conn(struct py_socket_lane *lane)
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
static int ask_put(struct py_socket_lane *lane, struct py_socket_op *op, uint8_t type,
                   const struct kvl_key *keys, const struct py_socket_wish *wishes, uint32_t count)
{
    struct py_socket_conn *conn = ask_conn(lane);
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
    out = ask_frame(type, keys, wishes, count, part->id);
    if (out == NULL) {
        py_socket_part_free(part);
        return -ENOMEM;
    }
    part->out = out;
    out->part = part;
    py_socket_conn_put(conn, out);
    return 0;
}

static int ask_begin(struct kvl_channel *channel, struct py_socket_peer *peer, uint8_t type,
                     const struct kvl_key *keys, const struct py_socket_wish *wishes,
                     uint32_t count, uint64_t deadline_ms, struct py_socket_ask *ask,
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
    r = py_socket_op_create(channel, PY_SOCKET_OP_ASK, lane, &op);
    if (r < 0) {
        return r;
    }
    op->deadline_ms = deadline_ms;
    op->ask = ask;
    r = ask_put(lane, op, type, keys, wishes, count);
    if (r < 0) {
        py_socket_op_undo(op);
        return r;
    }
    if (lane->store != NULL) {
        ask->store = py_socket_map_retain(lane->store);
    }
    if (deadline_ms != KVL_NEVER) {
        py_socket_timer_at(&channel->timer, deadline_ms);
    }
    if (op_out != NULL) {
        *op_out = op->id;
    }
    return 0;
}

static int ask(struct kvl_channel *channel, const char *peer_id, uint8_t type,
               const struct kvl_key *keys, const struct py_socket_wish *wishes, uint32_t count,
               uint64_t deadline_ms, const struct py_socket_ask_ops *ops, void *ctx,
               uint64_t *op_out)
{
    struct py_socket_peer *peer;
    struct py_socket_ask *asked;
    int r;

    if (py_socket_data_is_child(channel->data)) {
        return -ECHILD;
    }
    if (count == 0 || count > PY_SOCKET_KEYS_MAX) {
        return count == 0 ? -EINVAL : -EMSGSIZE;
    }
    asked = calloc(1, sizeof(*asked));
    if (asked == NULL) {
        return -ENOMEM;
    }
    asked->ops = ops;
    asked->ctx = ctx;
    asked->count = count;
    peer = py_socket_peers_find(py_socket_link_peers(channel->link), peer_id);
    r = peer == NULL ? -ENOTCONN : 0;
    if (r == 0) {
        pthread_mutex_lock(&channel->lock);
        r = ask_begin(channel, peer, type, keys, wishes, count, deadline_ms, asked, op_out);
        py_socket_unlock(channel);
        py_socket_peer_release(peer);
    }
    if (r < 0) {
        free(asked);
    }
    return r;
}

int py_socket_ask_lookup(struct kvl_channel *channel, const char *peer_id,
                         const struct kvl_key *keys, uint32_t count, uint64_t deadline_ms,
                         const struct py_socket_ask_ops *ops, void *ctx, uint64_t *op_out)
{
    return ask(channel, peer_id, PY_SOCKET_LOOKUP, keys, NULL, count, deadline_ms, ops, ctx,
               op_out);
}

int py_socket_ask_get(struct kvl_channel *channel, const char *peer_id,
                      const struct py_socket_wish *wishes, uint32_t count, uint64_t deadline_ms,
                      const struct py_socket_ask_ops *ops, void *ctx, uint64_t *op_out)
{
    return ask(channel, peer_id, PY_SOCKET_GET, NULL, wishes, count, deadline_ms, ops, ctx,
               op_out);
}

/* ---- where bytes go ---- */

/* How many iovecs the runs of a chunk are. @return 0; -EINVAL they are not `bytes` in all. */
static int ask_count_runs(const struct kvl_sg *sg, uint32_t sg_count, uint64_t bytes,
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
static int ask_grow(struct py_socket_part *part, uint64_t more)
{
    struct iovec *iov;

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

static void ask_add_runs(struct py_socket_part *part, const struct kvl_sg *sg, uint32_t sg_count)
{
    for (uint32_t i = 0; i < sg_count; i++) {
        for (uint32_t run = 0; run < sg[i].count && sg[i].length > 0; run++) {
            uint64_t addr = sg[i].addr + run * sg[i].stride;

            py_socket_iov_add(part->iov, &part->iov_count, (void *)(uintptr_t)addr,
                              sg[i].length);
        }
    }
}

/* The bytes of a chunk that nobody takes must be read all the same. */
static int ask_add_waste(struct py_socket_ask *ask, struct py_socket_part *part, uint64_t bytes)
{
    uint64_t pieces = (bytes + WASTE_BYTES - 1) / WASTE_BYTES;
    int r = ask_grow(part, pieces);

    if (r == 0 && ask->waste == NULL) {
        ask->waste = malloc(WASTE_BYTES);
        r = ask->waste == NULL ? -ENOMEM : 0;
    }
    for (uint64_t i = 0; r == 0 && i < pieces; i++) {
        uint64_t n = bytes < WASTE_BYTES ? bytes : WASTE_BYTES;

        part->iov[part->iov_count++] = (struct iovec){.iov_base = ask->waste, .iov_len = n};
        bytes -= n;
    }
    return r;
}

/* ---- the answer ---- */

static int ask_looked_up(struct py_socket_conn *conn, const struct py_socket_ask *ask)
{
    if (conn->frame.status == 0 && conn->frame.count != ask->count) {
        return -EPROTO;
    }
    for (uint32_t i = 0; i < conn->frame.count && i < ask->count; i++) {
        ask->ops->looked_up(ask->ctx, i, conn->table[i / 8] >> i % 8 & 1);
    }
    return 0;
}

/* Copies a chunk out of the mapped store. @return 0; -ESTALE the lease did not hold. */
static int ask_copy(const struct py_socket_lane *lane, const struct py_socket_ask *ask,
                    const struct py_socket_found *found, const struct kvl_sg *sg, uint32_t sg_count)
{
    const uint8_t *from = ask->store->base + found->offset;

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

static bool ask_is_mapped(const struct py_socket_lane *lane, const struct py_socket_ask *ask,
                          const struct py_socket_found *found)
{
    return ask->store != NULL && lane->control != NULL && found->slot < PY_SOCKET_LEASES &&
           found->offset <= ask->store->bytes && found->bytes <= ask->store->bytes - found->offset;
}

static void ask_tell(struct py_socket_ask *ask, uint32_t item, int32_t status)
{
    ask->items[item].told = true;
    ask->ops->item(ask->ctx, item, status);
}

/* One chunk that is there: where its bytes go, or the copy of them. @return -errno: close it. */
static int ask_take(const struct py_socket_lane *lane, struct py_socket_part *part,
                    struct py_socket_ask *ask, uint32_t item)
{
    struct py_socket_found *found = &ask->items[item].found;
    bool mapped = (found->flags & PY_SOCKET_FOUND_MAPPED) != 0;
    const struct kvl_sg *sg = NULL;
    uint32_t sg_count = 0;
    uint64_t runs = 0;
    int r;

    if (mapped && !ask_is_mapped(lane, ask, found)) {
        return -EPROTO;
    }
    r = ask->ops->found(ask->ctx, item, found, &sg, &sg_count);
    if (r == 0) {
        r = ask_count_runs(sg, sg_count, found->bytes, &runs);
    }
    if (mapped) {
        r = r < 0 ? r : ask_copy(lane, ask, found, sg, sg_count);
        ask_tell(ask, item, r);
        return 0;
    }
    if (r == 0) {
        r = ask_grow(part, runs);
        if (r == 0) {
            ask_add_runs(part, sg, sg_count);
            return 0;
        }
    }
    found->status = r; /* told when its bytes are through */
    return ask_add_waste(ask, part, found->bytes);
}

static void ask_release(struct py_socket_conn *conn, const struct py_socket_ask *ask,
                        uint32_t mapped)
{
    const struct py_socket_frame frame = {.type = PY_SOCKET_RELEASE,
                                          .count = mapped,
                                          .table = mapped * PY_SOCKET_SLOT_BYTES};
    struct py_socket_out *out = py_socket_out_create(&frame, 0);
    uint8_t *at;

    if (out == NULL) {
        return; /* their time will end them */
    }
    at = py_socket_out_table(out);
    for (uint32_t i = 0; i < ask->count; i++) {
        const struct py_socket_found *found = &ask->items[i].found;

        if ((found->flags & PY_SOCKET_FOUND_MAPPED) != 0) {
            const struct py_socket_slot slot = {.slot = found->slot,
                                                .generation = found->generation};

            py_socket_slot_encode(&slot, at);
            at += PY_SOCKET_SLOT_BYTES;
        }
    }
    pthread_mutex_lock(&conn->channel->lock);
    py_socket_conn_put(conn, out);
    py_socket_unlock(conn->channel);
}

/* Reads the table. @return -EPROTO. */
static int ask_decode(struct py_socket_conn *conn, struct py_socket_ask *ask, uint32_t *mapped_out)
{
    uint64_t inlined = 0;
    uint32_t mapped = 0;

    if (conn->frame.count != ask->count) {
        return -EPROTO;
    }
    ask->items = calloc(ask->count, sizeof(*ask->items));
    if (ask->items == NULL) {
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < ask->count; i++) {
        struct py_socket_found *found = &ask->items[i].found;
        int r = py_socket_found_decode(conn->table + (size_t)i * PY_SOCKET_FOUND_BYTES, found);

        if (r < 0) {
            return r;
        }
        if ((found->flags & PY_SOCKET_FOUND_MAPPED) != 0) {
            mapped++;
        } else if (__builtin_add_overflow(inlined, found->bytes, &inlined)) {
            return -EPROTO;
        }
    }
    *mapped_out = mapped;
    return inlined == conn->frame.payload ? 0 : -EPROTO;
}

int py_socket_ask_answer(struct py_socket_conn *conn, struct py_socket_part *part)
{
    struct py_socket_ask *ask = part->op->ask;
    uint32_t mapped = 0;
    int r;

    if (part->type == PY_SOCKET_LOOKUP) {
        return ask_looked_up(conn, ask);
    }
    if (conn->frame.status < 0) {
        return conn->frame.payload == 0 ? 0 : -EPROTO;
    }
    r = ask_decode(conn, ask, &mapped);
    for (uint32_t i = 0; r == 0 && i < ask->count; i++) {
        if (ask->items[i].found.status < 0) {
            ask_tell(ask, i, ask->items[i].found.status);
        } else {
            r = ask_take(part->op->lane, part, ask, i);
        }
    }
    if (mapped > 0 && r == 0) {
        ask_release(conn, ask, mapped);
    }
    return r;
}

void py_socket_ask_filled(struct py_socket_part *part)
{
    struct py_socket_ask *ask = part->op->ask;

    for (uint32_t i = 0; ask->items != NULL && i < ask->count; i++) {
        if (!ask->items[i].told) {
            ask_tell(ask, i, ask->items[i].found.status);
        }
    }
}

void py_socket_ask_ended(struct py_socket_op *op)
{
    struct kvl_channel *channel = op->channel;
    struct py_socket_ask *ask = op->ask;

    ask->ops->end(ask->ctx, op->status);
    py_socket_map_release(ask->store);
    free(ask->items);
    free(ask->waste);
    free(ask);
    pthread_mutex_lock(&channel->lock);
    op->ask = NULL;
    py_socket_op_free(op);
    pthread_mutex_unlock(&channel->lock);
}
