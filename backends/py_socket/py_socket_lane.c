/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "py_socket_copy.h"
#include "py_socket_core.h"

const char *py_socket_path_name(enum py_socket_path path)
{
    static const char *const names[] = {"none", "shm", "unix", "tcp"};

    return names[path];
}

/* ---- life ---- */

struct py_socket_lane *py_socket_lane_of(struct kvl_channel *channel, struct py_socket_peer *peer)
{
    struct py_socket_lane *lane = atomic_load(&peer->data);

    if (lane != NULL || atomic_load(&peer->gone) != 0 || channel->closing) {
        return lane;
    }
    lane = calloc(1, sizeof(*lane));
    if (lane == NULL) {
        return NULL;
    }
    lane->channel = channel;
    lane->peer = py_socket_peer_retain(peer);
    lane->refs = 1; /* of the list, until it is lost */
    lane->next = channel->lanes;
    channel->lanes = lane;
    atomic_store(&peer->data, lane);
    return lane;
}

void py_socket_lane_release(struct py_socket_lane *lane)
{
    if (--lane->refs > 0) {
        return;
    }
    py_socket_map_release(lane->map);
    py_socket_map_release(lane->control_map);
    py_socket_map_release(lane->store);
    py_socket_peer_release(lane->peer);
    free(lane);
}

static void lane_unlink(struct py_socket_lane *lane)
{
    for (struct py_socket_lane **at = &lane->channel->lanes; *at != NULL; at = &(*at)->next) {
        if (*at == lane) {
            *at = lane->next;
            return;
        }
    }
}

void py_socket_lane_opened(struct py_socket_lane *lane)
{
    struct kvl_channel *channel = lane->channel;

    lane->state = PY_SOCKET_LANE_OPEN;
    for (uint32_t i = 0; i < channel->op_count; i++) {
        struct py_socket_op *op = channel->ops[i];

        if (op->state == PY_SOCKET_OP_RUNNING && op->lane == lane &&
            op->kind == PY_SOCKET_OP_CONNECT) {
            py_socket_op_end(op, 0);
        }
    }
}

void py_socket_lane_lose(struct py_socket_lane *lane, int32_t status)
{
    struct kvl_channel *channel = lane->channel;

    if (lane->state == PY_SOCKET_LANE_GONE) {
        return;
    }
    lane->state = PY_SOCKET_LANE_GONE;
    lane->status = status;
    lane_unlink(lane);
    atomic_store(&lane->peer->data, NULL);
    for (uint32_t i = 0; i < lane->conn_count; i++) {
        py_socket_conn_kill(lane->conns[i], status);
    }
    /* connects and what is not under way on a connection; the rest ends as they close */
    for (uint32_t i = 0; i < channel->op_count; i++) {
        struct py_socket_op *op = channel->ops[i];

        if (op->state == PY_SOCKET_OP_RUNNING && op->lane == lane) {
            py_socket_op_stop(op, status);
        }
    }
    py_socket_pair_drop(lane, NULL);
    channel->bytes_in += lane->bytes_in;
    channel->bytes_out += lane->bytes_out;
    channel->errors += lane->errors;
    if (!channel->closing && atomic_load(&lane->peer->gone) == 0) {
        lane->next = channel->lost; /* py_socket_unlock tells the link */
        channel->lost = lane;
    } else {
        py_socket_lane_release(lane);
    }
}

void py_socket_lane_remove(struct py_socket_lane *lane, struct py_socket_conn *conn, int32_t status)
{
    for (uint32_t i = 0; i < lane->conn_count; i++) {
        if (lane->conns[i] == conn) {
            lane->conns[i] = lane->conns[--lane->conn_count];
            break;
        }
    }
    if (lane->send_conn == conn) {
        lane->send_conn = NULL;
    }
    py_socket_pair_drop(lane, conn);
    py_socket_lane_dial_failed(lane, conn, status);
    if (lane->conn_count == 0 && lane->state != PY_SOCKET_LANE_GONE) {
        py_socket_lane_lose(lane, status);
    }
}

/* ---- the queue ---- */

void py_socket_lane_queue(struct py_socket_lane *lane, struct py_socket_op *op)
{
    op->queued = true;
    op->next = NULL;
    op->prev = lane->queue_last;
    if (lane->queue_last != NULL) {
        lane->queue_last->next = op;
    } else {
        lane->queue = op;
    }
    lane->queue_last = op;
}

void py_socket_lane_unqueue(struct py_socket_lane *lane, struct py_socket_op *op)
{
    op->queued = false;
    if (op->prev != NULL) {
        op->prev->next = op->next;
    } else {
        lane->queue = op->next;
    }
    if (op->next != NULL) {
        op->next->prev = op->prev;
    } else {
        lane->queue_last = op->prev;
    }
}

/* ---- requests ---- */

int py_socket_part_create(struct py_socket_conn *conn, struct py_socket_op *op, uint8_t type,
                          struct py_socket_part **part_out)
{
    struct py_socket_part *part = calloc(1, sizeof(*part));
    uint32_t slot = 0;

    if (part == NULL) {
        return -ENOMEM;
    }
    while (conn->slots[slot] != NULL) {
        slot++;
    }
    conn->next_id += PY_SOCKET_WINDOW;
    part->id = conn->next_id + slot;
    part->type = type;
    part->conn = conn;
    part->op = op;
    part->prev = op->last;
    if (op->last != NULL) {
        op->last->next = part;
    } else {
        op->first = part;
    }
    op->last = part;
    conn->slots[slot] = part;
    conn->parts++;
    *part_out = part;
    return 0;
}

/* The connection with least to do that takes one more request. */
static struct py_socket_conn *lane_pick(struct py_socket_lane *lane)
{
    struct py_socket_conn *best = NULL;

    for (uint32_t i = 0; i < lane->conn_count; i++) {
        struct py_socket_conn *conn = lane->conns[i];

        if (conn->state == PY_SOCKET_CONN_OPEN && !conn->dead && conn->parts < PY_SOCKET_WINDOW &&
            conn->parts_bytes < PY_SOCKET_WINDOW_BYTES &&
            (best == NULL || conn->parts_bytes < best->parts_bytes)) {
            best = conn;
        }
    }
    return best;
}

/* What one request asks for. */
struct lane_plan {
    uint32_t ranges;
    uint32_t runs; /* of local memory */
    uint64_t bytes;
    struct py_socket_range range[PY_SOCKET_PART_RANGES];
    struct iovec iov[PY_SOCKET_PART_RANGES];
};

/* Fills the plan from where the op stands, and lets it stand behind. */
static void lane_plan(struct py_socket_op *op, struct lane_plan *plan)
{
    plan->ranges = 0;
    plan->runs = 0;
    plan->bytes = 0;
    while (op->at_object < op->count && plan->bytes < PY_SOCKET_PART_BYTES &&
           plan->ranges < PY_SOCKET_PART_RANGES && plan->runs < PY_SOCKET_PART_RANGES) {
        const struct kvl_span *span = &op->spans[op->at_object];
        uint64_t left = span->length - op->at_offset;
        uint64_t take = PY_SOCKET_PART_BYTES - plan->bytes;
        uint64_t offset = op->offsets[op->at_object] + op->at_offset;
        struct py_socket_range *last = plan->ranges > 0 ? &plan->range[plan->ranges - 1] : NULL;

        take = left < take ? left : take;
        if (last != NULL && last->offset + last->length == offset) {
            last->length += take;
        } else {
            plan->range[plan->ranges++] =
                (struct py_socket_range){.offset = offset, .length = take};
        }
        py_socket_iov_add(plan->iov, &plan->runs, (uint8_t *)span->addr + op->at_offset, take);
        plan->bytes += take;
        op->at_offset += take;
        if (op->at_offset == span->length) {
            op->at_object++;
            op->at_offset = 0;
        }
    }
}

static int lane_ask(struct py_socket_conn *conn, struct py_socket_op *op, struct lane_plan *plan)
{
    bool writes = op->kind == KVL_TRANSFER_WRITE;
    struct py_socket_frame frame = {.type = writes ? PY_SOCKET_WRITE : PY_SOCKET_READ};
    size_t runs_bytes;
    struct py_socket_part *part;
    struct py_socket_out *out;
    int r;

    lane_plan(op, plan);
    r = py_socket_part_create(conn, op, frame.type, &part);
    if (r < 0) {
        return r;
    }
    runs_bytes = plan->runs * sizeof(struct iovec);
    frame.id = part->id;
    frame.count = plan->ranges;
    frame.table = plan->ranges * PY_SOCKET_RANGE_BYTES;
    frame.payload = writes ? plan->bytes : 0;
    out = py_socket_out_create(&frame, writes ? plan->runs : 0);
    part->iov = writes ? NULL : malloc(runs_bytes);
    if (out == NULL || (part->iov == NULL && !writes)) {
        free(out);
        py_socket_part_free(part);
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < plan->ranges; i++) {
        py_socket_range_encode(&plan->range[i],
                               py_socket_out_table(out) + (size_t)i * PY_SOCKET_RANGE_BYTES);
    }
    memcpy(writes ? out->iov : part->iov, plan->iov, runs_bytes);
    out->iov_count = writes ? plan->runs : 0;
    part->iov_count = writes ? 0 : plan->runs;
    part->bytes = plan->bytes;
    part->objects = op->at_object;
    part->out = out;
    out->part = part;
    conn->parts_bytes += plan->bytes;
    py_socket_conn_put(conn, out);
    return 0;
}

void py_socket_lane_pump(struct py_socket_lane *lane)
{
    struct lane_plan plan;
    struct py_socket_conn *conn;
    struct py_socket_op *op;

    while ((op = lane->queue) != NULL && (conn = lane_pick(lane)) != NULL) {
        int r = lane_ask(conn, op, &plan);

        py_socket_lane_unqueue(lane, op);
        if (r < 0) {
            py_socket_op_stop(op, r);
        } else if (op->at_object < op->count) {
            py_socket_lane_queue(lane, op); /* others get their turn */
        }
    }
}

/* ---- by the map ---- */

/* What tells, after a copy, that the peer was there all the time. Taken under the lock: a second
 * connection of the peer says its hello anew. */
struct lane_pulse {
    const struct py_socket_control *control; /* NULL = it has none */
    uint64_t incarnation;
};

static struct lane_pulse lane_feel(const struct py_socket_lane *lane)
{
    return (struct lane_pulse){
        .control = lane->control,
        .incarnation = lane->hello.incarnation,
    };
}

/* Checked after the copy: what was read may be of a peer that had closed before. */
static int lane_lived(const struct lane_pulse *pulse)
{
    py_socket_read_barrier();
    if (pulse->control != NULL &&
        atomic_load_explicit(&pulse->control->incarnation, memory_order_acquire) !=
            pulse->incarnation) {
        return -ECONNRESET;
    }
    return 0;
}

static void lane_copy_run(const struct py_socket_op *op, uint8_t *local, uint8_t *remote,
                          uint64_t bytes)
{
    if (op->kind == KVL_TRANSFER_WRITE) {
        py_socket_copy(remote, local, bytes);
    } else {
        py_socket_copy(local, remote, bytes);
    }
}

/* Bytes from object `at` on that lie next to each other on both sides; `at` steps over them. */
static uint64_t lane_run(const struct kvl_span *spans, const uint64_t *offsets, uint32_t count,
                         uint32_t *at_io)
{
    uint32_t i = *at_io;
    uint64_t bytes = spans[i].length;

    for (i++; i < count; i++) {
        if (offsets[i] != offsets[*at_io] + bytes ||
            (uint8_t *)spans[i].addr != (uint8_t *)spans[*at_io].addr + bytes) {
            break;
        }
        bytes += spans[i].length;
    }
    *at_io = i;
    return bytes;
}

void py_socket_lane_copy(struct py_socket_lane *lane, struct py_socket_op *op,
                         const struct kvl_span *spans, const uint64_t *offsets)
{
    struct kvl_channel *channel = lane->channel;
    const struct kvl_host *host = channel->host;
    const struct lane_pulse pulse = lane_feel(lane);
    struct py_socket_map *map = py_socket_map_retain(lane->map);
    uint64_t moved = 0;
    int32_t status = 0;
    uint32_t at = 0;

    op->held = true;
    pthread_mutex_unlock(&channel->lock);
    while (at < op->count && status == 0) {
        uint32_t first = at;
        uint64_t bytes = lane_run(spans, offsets, op->count, &at);

        if (op->deadline_ms != KVL_NEVER && host->now_ms(host) >= op->deadline_ms) {
            status = -ETIMEDOUT;
            at = first;
            break;
        }
        lane_copy_run(op, spans[first].addr, map->base + offsets[first], bytes);
        moved += bytes;
    }
    if (lane_lived(&pulse) < 0) {
        status = -ECONNRESET;
        at = 0;
    }
    py_socket_map_release(map);
    pthread_mutex_lock(&channel->lock);
    op->held = false;
    op->moved = at;
    if (op->kind == KVL_TRANSFER_WRITE) {
        lane->bytes_out += moved;
    } else {
        lane->bytes_in += moved;
    }
    /* one that was to be stopped meanwhile has been faster */
    py_socket_op_end(op, status != 0 ? status : op->end_status);
}
