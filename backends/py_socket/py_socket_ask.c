/* SPDX-License-Identifier: Apache-2.0 */
<<<<<<< HEAD
/* The asking side of lookup sockets. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <zmq.h>

#include "py_socket_lookup_parts.h"
#include "py_socket_url.h"

#define LINES_MAX 256u

static void line_hang_up(struct lookup_line *line)
{
    if (line->req != NULL) {
        py_socket_zmq_hang_up(line->req, line->watch);
        line->req = NULL;
        line->watch = NULL;
    }
}

void lookup_hang_up(struct py_socket_lookup *lookup)
{
    while (lookup->lines != NULL) {
        struct lookup_line *line = lookup->lines;

        lookup->lines = line->next;
        line_hang_up(line);
        free(line);
    }
}

static struct lookup_line *lookup_find(struct py_socket_lookup *lookup, const char *url)
{
    struct lookup_line *line = lookup->lines;

    while (line != NULL && strcmp(line->url, url) != 0) {
        line = line->next;
    }
    return line;
}

/* The line unused for longest gives its room; NULL when all are busy. */
static struct lookup_line *lookup_oldest(struct py_socket_lookup *lookup)
{
    struct lookup_line *oldest = NULL;

    for (struct lookup_line *line = lookup->lines; line != NULL; line = line->next) {
        if (!line->is_busy && (oldest == NULL || line->used_ms < oldest->used_ms)) {
            oldest = line;
        }
    }
    return oldest;
}

/* A line for that peer, perhaps with a connection, perhaps busy. NULL: none for now. */
static struct lookup_line *lookup_line_for(struct py_socket_lookup *lookup, const char *url)
{
    struct lookup_line *line = lookup_find(lookup, url);

    if (line != NULL) {
        return line;
    }
    if (lookup->line_count == LINES_MAX) {
        line = lookup_oldest(lookup);
        if (line != NULL) {
            line_hang_up(line);
        }
    } else {
        line = calloc(1, sizeof(*line));
        if (line != NULL) {
            line->next = lookup->lines;
            lookup->lines = line;
            lookup->line_count++;
        }
    }
    if (line != NULL) {
        memcpy(line->url, url, strlen(url) + 1);
    }
    return line;
}

/* Waits for its turn on the line to that peer. @return 0; -ETIMEDOUT, -ECANCELED. */
static int lookup_take_line(struct py_socket_lookup *lookup, const char *url, uint64_t deadline_ms,
                            struct lookup_line **line_out)
{
    const struct timespec until = {
        .tv_sec = (time_t)(deadline_ms / 1000),
        .tv_nsec = (long)(deadline_ms % 1000) * 1000000,
    };
    struct lookup_line *line = NULL;
    int r = 0;

    pthread_mutex_lock(&lookup->lock);
    while (r == 0) {
        if (lookup->is_stopping) {
            r = -ECANCELED;
            break;
        }
        line = lookup_line_for(lookup, url);
        if (line != NULL && !line->is_busy) {
            line->is_busy = 1;
            break;
        }
        r = -pthread_cond_clockwait(&lookup->freed, &lookup->lock, CLOCK_MONOTONIC, &until);
    }
    pthread_mutex_unlock(&lookup->lock);
    *line_out = line;
    return r;
}

static void lookup_give_line(struct py_socket_lookup *lookup, struct lookup_line *line)
{
    const struct kvl_host *host = lookup->config.host;

    pthread_mutex_lock(&lookup->lock);
    line->is_busy = 0;
    line->used_ms = host->now_ms(host);
    pthread_cond_broadcast(&lookup->freed);
    pthread_mutex_unlock(&lookup->lock);
}

/* Waits for `events` on the line. @return 0; -ETIMEDOUT, -ECANCELED, -EACCES, -ECONNRESET. */
static int line_wait(struct py_socket_lookup *lookup, struct lookup_line *line, short events,
                     uint64_t until_ms)
{
    const struct kvl_host *host = lookup->config.host;

    for (;;) {
        zmq_pollitem_t items[3] = {
            {.socket = line->req, .events = events},
            {.socket = line->watch, .events = ZMQ_POLLIN},
            {.fd = lookup->stop_fd, .events = ZMQ_POLLIN},
        };
        uint64_t now = host->now_ms(host);
        uint32_t seen;

        if (zmq_poll(items, 3, until_ms > now ? (long)(until_ms - now) : 0) < 0 && errno != EINTR) {
            return -EIO;
        }
        if (items[2].revents != 0) {
            return -ECANCELED;
        }
        if (items[0].revents != 0) {
            return 0;
        }
        seen = py_socket_zmq_watched(line->watch);
        if ((seen & PY_SOCKET_DENIED) != 0) {
            return -EACCES;
        }
        if ((seen & PY_SOCKET_LOST) != 0 && (events & ZMQ_POLLIN) != 0) {
            return -ECONNRESET;
        }
        if (now >= until_ms) {
            return -ETIMEDOUT;
        }
    }
}

/* Sends the question and receives the answer. -ETIMEDOUT and -ECONNRESET are worth another try. */
static int line_try(struct py_socket_lookup *lookup, struct lookup_line *line,
                    const struct kvl_pack_out *question, uint64_t until_ms, zmq_msg_t *answer)
{
    int r = 0;

    if (line->req == NULL) {
        r = py_socket_zmq_dial(lookup->config.zmq, line->url, PY_SOCKET_INIT_BYTES, &line->req,
                               &line->watch);
    }
    if (r == 0) {
        r = line_wait(lookup, line, ZMQ_POLLOUT, until_ms);
    }
    if (r == 0 && zmq_send(line->req, question->at, question->length, ZMQ_DONTWAIT) < 0) {
        r = -ECONNRESET;
    }
    if (r == 0) {
        r = line_wait(lookup, line, ZMQ_POLLIN, until_ms);
    }
    if (r == 0 && zmq_msg_recv(answer, line->req, ZMQ_DONTWAIT) < 0) {
        r = -ECONNRESET;
    }
    if (r < 0 || zmq_msg_more(answer)) {
        /* a late answer must not be taken for the one to a later question */
        line_hang_up(line);
    }
    return r;
}

static int lookup_tries(struct py_socket_lookup *lookup, struct lookup_line *line,
                        const struct kvl_pack_out *question, uint64_t deadline_ms,
                        zmq_msg_t *answer)
{
    const struct kvl_host *host = lookup->config.host;
    int r = -ETIMEDOUT;

    for (uint32_t left = PY_SOCKET_LOOKUP_TRIES; left > 0; left--) {
        uint64_t now = host->now_ms(host);
        uint64_t share = deadline_ms > now ? (deadline_ms - now) / left : 0;

        r = line_try(lookup, line, question, now + share, answer);
        if (r != -ETIMEDOUT && r != -ECONNRESET) {
            return r;
        }
    }
    return -ETIMEDOUT;
}

static int lookup_judge(zmq_msg_t *answer, enum py_socket_type wanted, uint32_t count,
                        uint32_t *number_out)
{
    char reason[PY_SOCKET_REASON_ROOM];
    struct py_socket_msg msg;

    if (py_socket_decode(zmq_msg_data(answer), zmq_msg_size(answer), &msg, reason) < 0) {
        return -EPROTO;
    }
    if (msg.type == PY_SOCKET_P2P_ERROR) {
        return msg.number == PY_SOCKET_ERROR_NO_HANDSHAKE ? -ENOTCONN : -EREMOTEIO;
    }
    if (msg.type != wanted || msg.number < 0 || msg.number > count) {
        return -EPROTO;
    }
    *number_out = (uint32_t)msg.number;
    return 0;
}

static void lookup_write(const struct py_socket_question *question, enum py_socket_type type,
                         struct kvl_pack_out *out)
{
    const struct py_socket_lookup_msg msg = {
        .lookup_id = question->lookup_id != NULL ? question->lookup_id : "",
        .peer_id = question->own_id,
        .keys = question->chunks.keys,
        .offsets = question->chunks.offsets,
        .mem_indexes = question->chunks.mem_indexes,
        .count = question->chunks.count,
    };

    if (type == PY_SOCKET_LOOKUP_GET) {
        py_socket_put_lookup_get(out, &msg);
    } else {
        py_socket_put_lookup_put(out, &msg);
    }
}

static int lookup_exchange(struct py_socket_lookup *lookup, const char *url, uint64_t deadline_ms,
                           const struct kvl_pack_out *out, zmq_msg_t *answer)
{
    struct lookup_line *line;
    int r = lookup_take_line(lookup, url, deadline_ms, &line);

    if (r < 0) {
        return r;
    }
    r = lookup_tries(lookup, line, out, deadline_ms, answer);
    lookup_give_line(lookup, line);
    return r;
}

/* @return 0 and the bytes of the question, to be freed; -EMSGSIZE, -ENOMEM. */
static int lookup_encode(const struct py_socket_question *question, enum py_socket_type type,
                         struct kvl_pack_out *out)
{
    kvl_pack_out_init(out, NULL, 0);
    lookup_write(question, type, out);
    if (out->length > PY_SOCKET_LOOKUP_BYTES) {
        return -EMSGSIZE;
    }
    kvl_pack_out_init(out, malloc(out->length), out->length);
    if (out->at == NULL) {
        return -ENOMEM;
    }
    lookup_write(question, type, out);
    return 0;
}

static int lookup_ask(struct py_socket_lookup *lookup, const struct py_socket_question *question,
                      enum py_socket_type type, enum py_socket_type wanted, uint32_t *number_out)
{
    const struct kvl_host *host = lookup->config.host;
    uint64_t deadline_ms = question->deadline_ms;
    char url[KVL_CHANNEL_URL_ROOM];
    struct kvl_pack_out out;
    zmq_msg_t answer;
    int r = py_socket_url_normal(question->lookup_url, url);

    if (r < 0 || question->own_id == NULL || question->chunks.count > PY_SOCKET_LIST_MAX) {
        return r < 0 || question->own_id == NULL ? -EINVAL : -EMSGSIZE;
    }
    r = lookup_encode(question, type, &out);
    if (r < 0) {
        return r;
    }
    if (deadline_ms == 0 || deadline_ms == KVL_NEVER) {
        deadline_ms = host->now_ms(host) + lookup->config.options->handshake_timeout_ms;
    }
    (void)zmq_msg_init(&answer);
    r = lookup_exchange(lookup, url, deadline_ms, &out, &answer);
    if (r == 0) {
        r = lookup_judge(&answer, wanted, question->chunks.count, number_out);
    }
    (void)zmq_msg_close(&answer);
    free(out.at);
    py_socket_count(&lookup->config.counters->lookups_out);
    if (r < 0) {
        py_socket_count(&lookup->config.counters->lookups_out_failed);
=======
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
>>>>>>> ps-data
    }
    return r;
}

<<<<<<< HEAD
int py_socket_lookup_get(struct py_socket_lookup *lookup, const struct py_socket_question *question,
                         uint32_t *hits_out)
{
    return lookup_ask(lookup, question, PY_SOCKET_LOOKUP_GET, PY_SOCKET_LOOKUP_GET_RET, hits_out);
}

int py_socket_lookup_put(struct py_socket_lookup *lookup, const struct py_socket_question *question,
                         uint32_t *read_out)
{
    if (question->chunks.offsets == NULL && question->chunks.count > 0) {
        return -EINVAL;
    }
    return lookup_ask(lookup, question, PY_SOCKET_LOOKUP_PUT, PY_SOCKET_LOOKUP_PUT_RET, read_out);
=======
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
    atomic_thread_fence(memory_order_acquire);
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
>>>>>>> ps-data
}
