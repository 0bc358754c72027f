/* SPDX-License-Identifier: Apache-2.0 */
/* The thread of the replica socket: standbys, their bases, the stream. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include <zmq.h>

#include "controller_replica_state.h"

#define CREDIT_MAX (16u * 1024 * 1024)
/* Messages for one standby, and from all, before the others get their turn. */
#define BURST 16
/* How long new records may wait while somebody follows; nobody is woken for each of them. */
#define TICK_MS 10
#define IDLE_MS 500
#define ALIVE_MS 500u
/* One that said nothing for so long is forgotten; it reads no messages while it loads its base. */
#define FORGET_MS (10u * 60 * 1000)
/* From one save to the next: so long, and so many times what the last one took. */
#define SAVE_PAUSE_MS 500u
#define SAVE_PAUSE_TIMES 3u

static uint64_t replica_now(const struct controller_replica *replica)
{
    return replica->host->now_ms(replica->host);
}

static void replica_count(struct controller_replica *replica, enum controller_count which,
                          uint64_t n)
{
    controller_count_add(replica->counts, which, n);
}

/* ---- sending ---- */

/* @return 0; -EAGAIN later; -EHOSTUNREACH it has gone. */
static int replica_send(struct controller_replica *replica, const uint8_t *identity,
                        size_t identity_length, const void *bytes, size_t length)
{
    if (zmq_send(replica->socket, identity, identity_length, ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0 ||
        zmq_send(replica->socket, bytes, length, ZMQ_DONTWAIT) < 0) {
        return -zmq_errno();
    }
    return 0;
}

static int standby_send(struct controller_replica *replica, struct standby *standby,
                        const void *bytes, size_t length)
{
    int r = replica_send(replica, standby->identity, standby->identity_length, bytes, length);

    if (r == 0) {
        standby->sent_ms = replica_now(replica);
    }
    return r;
}

static int standby_send_short(struct controller_replica *replica, struct standby *standby,
                              enum controller_replica_kind kind, uint64_t number, uint64_t exact)
{
    const struct controller_replica_msg msg = {
        .kind = kind, .nonce = standby->nonce, .number = number, .exact = exact};
    uint8_t bytes[CONTROLLER_REPLICA_OVERHEAD];

    return standby_send(replica, standby, bytes, controller_replica_encode(&msg, bytes));
}

static void replica_reset(struct controller_replica *replica, const uint8_t *identity,
                          size_t identity_length, uint64_t nonce,
                          enum controller_replica_reason reason)
{
    const struct controller_replica_msg msg = {
        .kind = CONTROLLER_REPLICA_RESET, .nonce = nonce, .number = reason};
    uint8_t bytes[CONTROLLER_REPLICA_OVERHEAD];

    (void)replica_send(replica, identity, identity_length, bytes,
                       controller_replica_encode(&msg, bytes));
}

/* ---- standbys ---- */

static void standby_forget(struct controller_replica *replica, struct standby *standby)
{
    if (standby->state == STANDBY_NONE) {
        return;
    }
    if (standby->fd >= 0) {
        close(standby->fd);
    }
    if (replica->saving_for == standby) {
        replica->saving_for = NULL; /* what is being saved will be thrown away */
    }
    controller_ring_leave(&replica->ring);
    memset(standby, 0, sizeof(*standby));
    standby->fd = -1;
}

static void standby_restart(struct controller_replica *replica, struct standby *standby,
                            enum controller_replica_reason reason)
{
    replica_reset(replica, standby->identity, standby->identity_length, standby->nonce, reason);
    standby_forget(replica, standby);
}

static void standby_too_slow(struct controller_replica *replica, struct standby *standby)
{
    replica_count(replica, CONTROLLER_COUNT_REPLICA_OVERRUNS, 1);
    if (controller_quiet_may(&replica->quiet, replica->host, "standbys")) {
        kvl_warn(replica->host->log,
                 "controller: a standby is too slow, or replica_buffer too small: it begins anew");
    }
    standby_restart(replica, standby, CONTROLLER_RESET_SLOW);
}

static struct standby *replica_find(struct controller_replica *replica, zmq_msg_t *identity)
{
    for (uint32_t i = 0; i < CONTROLLER_STANDBYS_MAX; i++) {
        struct standby *standby = &replica->standbys[i];

        if (standby->state != STANDBY_NONE && standby->identity_length == zmq_msg_size(identity) &&
            memcmp(standby->identity, zmq_msg_data(identity), standby->identity_length) == 0) {
            return standby;
        }
    }
    return NULL;
}

static struct standby *replica_free_place(struct controller_replica *replica)
{
    for (uint32_t i = 0; i < CONTROLLER_STANDBYS_MAX; i++) {
        if (replica->standbys[i].state == STANDBY_NONE) {
            return &replica->standbys[i];
        }
    }
    return NULL;
}

/* What one asks for is not what it gets: all of it may have to wait in our memory. */
static void standby_add_credit(struct standby *standby, uint64_t credit)
{
    credit = credit < CREDIT_MAX ? credit : CREDIT_MAX;
    standby->credit += credit;
    standby->credit = standby->credit < CREDIT_MAX ? standby->credit : CREDIT_MAX;
}

static void replica_hello(struct controller_replica *replica, zmq_msg_t *identity,
                          const struct controller_replica_msg *msg)
{
    struct standby *standby = replica_find(replica, identity);

    if (standby != NULL && standby->nonce == msg->nonce) {
        return; /* said twice */
    }
    if (standby != NULL) {
        standby_forget(replica, standby);
    }
    standby = replica_free_place(replica);
    if (standby == NULL || atomic_load(&replica->refuse)) {
        replica_reset(replica, zmq_msg_data(identity), zmq_msg_size(identity), msg->nonce,
                      standby == NULL ? CONTROLLER_RESET_FULL : CONTROLLER_RESET_STANDBY);
        return;
    }
    standby->state = STANDBY_WAITS;
    memcpy(standby->identity, zmq_msg_data(identity), zmq_msg_size(identity));
    standby->identity_length = zmq_msg_size(identity);
    standby->nonce = msg->nonce;
    standby_add_credit(standby, msg->number);
    standby->heard_ms = replica_now(replica);
    standby->fd = -1;
    standby->place = controller_ring_join(&replica->ring);
    kvl_info(replica->host->log, "controller: a standby begins");
}

static void replica_credit(struct controller_replica *replica, zmq_msg_t *identity,
                           const struct controller_replica_msg *msg)
{
    struct standby *standby = replica_find(replica, identity);

    if (standby == NULL || standby->nonce != msg->nonce) {
        replica_reset(replica, zmq_msg_data(identity), zmq_msg_size(identity), msg->nonce,
                      CONTROLLER_RESET_UNKNOWN);
        return;
    }
    standby->heard_ms = replica_now(replica);
    standby_add_credit(standby, msg->number);
}

/* ---- bases ---- */

/* @return 1 when there was an answer of the saver. */
static int replica_take_base(struct controller_replica *replica)
{
    struct standby *standby = replica->saving_for;
    const uint64_t now = replica_now(replica);
    struct controller_saver answer;

    if (!controller_saver_take(&replica->saver, &answer)) {
        return 0;
    }
    replica->saving_for = NULL;
    replica->save_next_ms = now + SAVE_PAUSE_MS + SAVE_PAUSE_TIMES * (now - replica->save_began_ms);
    if (answer.code < 0) {
        kvl_warn(replica->host->log, "controller: cannot save a base for a standby in '%s': %s",
                 replica->options->replica_dir, strerror(-answer.code));
        if (standby != NULL) {
            standby_restart(replica, standby, CONTROLLER_RESET_BASE);
        }
        return 1;
    }
    if (standby == NULL) {
        close(answer.fd);
        return 1;
    }
    standby->fd = answer.fd;
    standby->bytes = answer.bytes;
    standby->exact = answer.exact;
    standby->offset = 0;
    if (standby_send_short(replica, standby, CONTROLLER_REPLICA_BEGIN, answer.bytes, 0) < 0) {
        standby_restart(replica, standby, CONTROLLER_RESET_BASE);
        return 1;
    }
    standby->state = STANDBY_LOADS;
    return 1;
}

static void replica_want_bases(struct controller_replica *replica, int *is_saving)
{
    const uint64_t now = replica_now(replica);

    if (*is_saving || now < replica->save_next_ms) {
        return;
    }
    for (uint32_t i = 0; i < CONTROLLER_STANDBYS_MAX; i++) {
        if (replica->standbys[i].state == STANDBY_WAITS) {
            replica->saving_for = &replica->standbys[i];
            replica->save_began_ms = now;
            controller_saver_ask(&replica->saver);
            *is_saving = 1;
            return;
        }
    }
}

/* ---- the stream ---- */

/* A message of the piece, with the head right before it. */
static int standby_send_piece(struct controller_replica *replica, struct standby *standby,
                              struct controller_replica_msg *msg, size_t length)
{
    uint8_t head[CONTROLLER_REPLICA_OVERHEAD];
    size_t head_length;
    uint8_t *bytes;
    int r;

    msg->nonce = standby->nonce;
    head_length = controller_replica_encode(msg, head);
    bytes = replica->piece + CONTROLLER_REPLICA_OVERHEAD - head_length;
    memcpy(bytes, head, head_length);
    r = standby_send(replica, standby, bytes, head_length + length);
    if (r == 0) {
        length += head_length;
        standby->credit -= length < standby->credit ? length : standby->credit;
    }
    return r;
}

/* @return 1 more may follow; 0; a code. */
static int standby_feed_base(struct controller_replica *replica, struct standby *standby)
{
    struct controller_replica_msg msg = {
        .kind = CONTROLLER_REPLICA_PART,
        .number = standby->offset,
    };
    ssize_t n;
    int r;

    if (standby->offset == standby->bytes) {
        r = standby_send_short(replica, standby, CONTROLLER_REPLICA_END, standby->place.number,
                               standby->exact);
        if (r == 0) {
            close(standby->fd);
            standby->fd = -1;
            standby->state = STANDBY_FOLLOWS;
            replica_count(replica, CONTROLLER_COUNT_REPLICA_BASES, 1);
        }
        return r == 0 ? 1 : r;
    }
    n = pread(standby->fd, replica->piece + CONTROLLER_REPLICA_OVERHEAD, CONTROLLER_PIECE_BYTES,
              (off_t)standby->offset);
    if (n <= 0) {
        return n < 0 ? -errno : -EIO;
    }
    r = standby_send_piece(replica, standby, &msg, (size_t)n);
    if (r == 0) {
        standby->offset += (uint64_t)n;
    }
    return r == 0 ? 1 : r;
}

static int standby_feed_records(struct controller_replica *replica, struct standby *standby)
{
    struct controller_replica_msg msg = {.kind = CONTROLLER_REPLICA_EVENTS,
                                         .number = standby->place.number};
    struct controller_ring_place place = standby->place;
    size_t length = 0;
    int count =
        controller_ring_read(&replica->ring, &place, replica->piece + CONTROLLER_REPLICA_OVERHEAD,
                             replica->piece_room, &length);
    int r;

    if (count == -ENOSPC) {
        /* A single record may be larger than a piece; none is larger than the ring. */
        r = controller_replica_grow(replica, length);
        return r == 0 ? 1 : r;
    }
    if (count <= 0) {
        return count;
    }
    msg.count = (uint32_t)count;
    r = standby_send_piece(replica, standby, &msg, length);
    if (r == 0) {
        standby->place = place;
    }
    return r == 0 ? 1 : r;
}

static int standby_feed(struct controller_replica *replica, struct standby *standby)
{
    if (!controller_ring_has(&replica->ring, &standby->place)) {
        return -ESTALE;
    }
    if (standby->credit == 0) {
        return 0;
    }
    switch (standby->state) {
    case STANDBY_LOADS:
        return standby_feed_base(replica, standby);
    case STANDBY_FOLLOWS:
        return standby_feed_records(replica, standby);
    default:
        return 0;
    }
}

/* @return 1 when there is more to send at once. */
static int standby_serve(struct controller_replica *replica, struct standby *standby)
{
    const uint64_t now = replica_now(replica);
    int r = 1;

    if (now - standby->heard_ms > FORGET_MS) {
        standby_restart(replica, standby, CONTROLLER_RESET_UNKNOWN);
        return 0;
    }
    for (int i = 0; r == 1 && i < BURST; i++) {
        r = standby_feed(replica, standby);
    }
    if (r == 0 && now - standby->sent_ms >= ALIVE_MS) {
        r = standby_send_short(replica, standby, CONTROLLER_REPLICA_ALIVE, standby->place.number,
                               0);
    }
    if (r == -ESTALE) {
        standby_too_slow(replica, standby);
    } else if (r == -EHOSTUNREACH) {
        kvl_info(replica->host->log, "controller: a standby has gone");
        standby_forget(replica, standby);
    } else if (r < 0 && r != -EAGAIN) {
        standby_restart(replica, standby, CONTROLLER_RESET_BASE);
    }
    return r == 1;
}

static int replica_feed(struct controller_replica *replica)
{
    uint32_t followers = 0;
    uint32_t beginners = 0;
    uint64_t next = controller_ring_next(&replica->ring);
    uint64_t behind = 0;
    int more = 0;

    for (uint32_t i = 0; i < CONTROLLER_STANDBYS_MAX; i++) {
        struct standby *standby = &replica->standbys[i];

        if (standby->state == STANDBY_NONE) {
            continue;
        }
        more |= standby_serve(replica, standby);
        followers += standby->state == STANDBY_FOLLOWS;
        beginners += standby->state == STANDBY_WAITS || standby->state == STANDBY_LOADS;
        if (standby->state == STANDBY_FOLLOWS && next > standby->place.number &&
            next - standby->place.number > behind) {
            behind = next - standby->place.number;
        }
    }
    atomic_store(&replica->followers, followers);
    atomic_store(&replica->beginners, beginners);
    atomic_store(&replica->behind, behind);
    controller_count_set(replica->counts, CONTROLLER_COUNT_REPLICA_STANDBYS, followers);
    return more;
}

/* ---- the thread of the socket ---- */

static void replica_handle(struct controller_replica *replica, zmq_msg_t *identity, zmq_msg_t *part)
{
    struct controller_replica_msg msg;
    int r = controller_replica_decode(zmq_msg_data(part), zmq_msg_size(part), &msg);

    if (r == 0 && zmq_msg_size(identity) <= CONTROLLER_IDENTITY_MAX) {
        if (msg.kind == CONTROLLER_REPLICA_HELLO) {
            replica_hello(replica, identity, &msg);
            return;
        }
        if (msg.kind == CONTROLLER_REPLICA_CREDIT) {
            replica_credit(replica, identity, &msg);
            return;
        }
    }
    replica_count(replica, CONTROLLER_COUNT_REPLICA_BAD, 1);
    if (controller_quiet_may(&replica->quiet, replica->host, "standbys")) {
        kvl_warn(replica->host->log, "controller: what came on the replica socket is not of a %s",
                 r == -EPROTONOSUPPORT ? "standby of this version" : "standby");
    }
}

/* One message: identity and one part; what is behind is thrown away. @return as zmq. */
static int replica_receive(struct controller_replica *replica)
{
    zmq_msg_t identity;
    zmq_msg_t part;
    zmq_msg_t rest;
    int parts = 0;
    int r;

    (void)zmq_msg_init(&identity);
    (void)zmq_msg_init(&part);
    (void)zmq_msg_init(&rest);
    r = zmq_msg_recv(&identity, replica->socket, ZMQ_DONTWAIT);
    for (zmq_msg_t *last = &identity; r >= 0 && zmq_msg_more(last);) {
        last = parts++ == 0 ? &part : &rest;
        r = zmq_msg_recv(last, replica->socket, 0);
    }
    r = r < 0 ? -zmq_errno() : 0;
    if (r == 0) {
        replica_handle(replica, &identity, &part);
    }
    (void)zmq_msg_close(&identity);
    (void)zmq_msg_close(&part);
    (void)zmq_msg_close(&rest);
    return r;
}

void *controller_replica_serve(void *arg)
{
    struct controller_replica *replica = arg;
    zmq_pollitem_t item = {.socket = replica->socket, .events = ZMQ_POLLIN};
    int is_saving = 0;
    int more = 0;
    int r = 0;

    while (r == 0 || r == -EAGAIN || r == -EINTR) {
        const int is_busy = is_saving || atomic_load(&replica->followers) > 0 ||
                            atomic_load(&replica->beginners) > 0;

        if (zmq_poll(&item, 1,
                     more      ? 0
                     : is_busy ? TICK_MS
                               : IDLE_MS) < 0 &&
            zmq_errno() != EINTR) {
            break;
        }
        r = 0;
        for (int i = 0; r == 0 && i < BURST; i++) {
            r = replica_receive(replica);
        }
        if (is_saving && replica_take_base(replica)) {
            is_saving = 0;
        }
        replica_want_bases(replica, &is_saving);
        more = replica_feed(replica);
    }
    for (uint32_t i = 0; i < CONTROLLER_STANDBYS_MAX; i++) {
        standby_forget(replica, &replica->standbys[i]);
    }
    return NULL;
}
