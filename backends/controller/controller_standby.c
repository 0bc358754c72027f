/* SPDX-License-Identifier: Apache-2.0 */
#include "controller_standby.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include <zmq.h>

#include "controller_base.h"
#include "controller_quiet.h"
#include "controller_replay.h"
#include "setting.h"
#include "sock.h"

/* Bytes that may be on their way to us, and how many are given back at a time. */
#define CREDIT_BYTES (8u * 1024 * 1024)
#define CREDIT_STEP (CREDIT_BYTES / 4)
#define LOOK_MS 100
#define BURST 64
/* A sign of life for the primary. */
#define CREDIT_MS 1000u
/* From one attempt to the next, doubled while they lead to nothing. */
#define HELLO_MS 500u
#define HELLO_MAX_MS 60000u
/* Who has followed for so long begins anew without delay. */
#define STEADY_MS 60000u
/* What a look at the clock adds to the silence at most: when we ourselves stood still, the primary
 * has not been silent. */
#define SILENCE_STEP_MS 500u
/* A connection is given up when the other side does not answer its pings. */
#define PING_MS 2000
#define PING_PATIENCE_MS 5000
#define RECONNECT_MS 100
#define RECONNECT_MAX_MS 1000

enum follow_state {
    FOLLOW_ASKS, /* says HELLO, or has said so */
    FOLLOW_LOADS,
    FOLLOW_FOLLOWS,
};

struct controller_standby {
    const struct kvl_host *host; /* borrowed, as the three below */
    const struct controller_options *options;
    struct controller_counts *counts;
    struct controller_replica *replica;
    atomic_int shown; /* enum follow_state, for those who look */
    atomic_int is_alone;
    void *socket;
    uint64_t thread;
    int has_thread;

    /* The thread's own. */
    struct controller_replay replay;
    struct controller_base base;
    struct controller_quiet quiet;
    enum follow_state state;
    uint64_t nonce;
    uint64_t hello_ms; /* when to say HELLO, or again */
    uint64_t pause_ms; /* from one attempt to the next */
    uint64_t began_ms; /* when it began to follow */
    uint64_t owed; /* credit to give back */
    uint64_t credit_ms; /* when it was given last */
    uint64_t next; /* number of the next record */
    uint64_t exact;
    uint64_t silence_ms;
    uint64_t look_ms;
    uint64_t direct; /* messages of workers when the primary fell silent */
};

static uint64_t standby_now(const struct controller_standby *standby)
{
    return standby->host->now_ms(standby->host);
}

static void standby_count(struct controller_standby *standby, enum controller_count which,
                          uint64_t n)
{
    controller_count_add(standby->counts, which, n);
}

static void standby_set(struct controller_standby *standby, enum follow_state state)
{
    standby->state = state;
    atomic_store(&standby->shown, (int)state);
    controller_count_set(standby->counts, CONTROLLER_COUNT_STANDBY_FOLLOWS,
                         state == FOLLOW_FOLLOWS);
}

/* What workers have sent to us rather than to the primary. */
static uint64_t standby_direct(const struct controller_standby *standby)
{
    return controller_count_get(standby->counts, CONTROLLER_COUNT_PULL_FRAMES) +
           controller_count_get(standby->counts, CONTROLLER_COUNT_REGISTRATIONS) +
           controller_count_get(standby->counts, CONTROLLER_COUNT_HEARTBEATS);
}

/* Our registry is what counts: nothing may replace it any more. */
static int standby_is_primary(const struct controller_standby *standby)
{
    return atomic_load(&standby->is_alone) && standby_direct(standby) != standby->direct;
}

/* ---- asking ---- */

static uint64_t standby_nonce(const struct controller_standby *standby)
{
    uint64_t nonce;

    if (getrandom(&nonce, sizeof(nonce), GRND_NONBLOCK) != (ssize_t)sizeof(nonce)) {
        nonce = standby->nonce + standby_now(standby) + 1;
    }
    return nonce;
}

/* @return 0; a code: nothing was sent, which another attempt makes good. */
static int standby_send(struct controller_standby *standby, enum controller_replica_kind kind,
                        uint64_t number)
{
    const struct controller_replica_msg msg = {
        .kind = kind, .nonce = standby->nonce, .number = number};
    uint8_t bytes[CONTROLLER_REPLICA_OVERHEAD];
    const size_t length = controller_replica_encode(&msg, bytes);

    return zmq_send(standby->socket, bytes, length, ZMQ_DONTWAIT) < 0 ? -zmq_errno() : 0;
}

/* Begins anew in a while. What the registry has stays until there is something better. */
static void standby_restart(struct controller_standby *standby, const char *why)
{
    const uint64_t now = standby_now(standby);

    if (standby->state == FOLLOW_FOLLOWS && now - standby->began_ms > STEADY_MS) {
        standby->pause_ms = HELLO_MS;
    }
    if (controller_quiet_may(&standby->quiet, standby->host, "the primary")) {
        kvl_warn(standby->host->log, "controller: %s, we begin anew in %" PRIu64 " ms", why,
                 standby->pause_ms);
    }
    standby_count(standby, CONTROLLER_COUNT_STANDBY_RESTARTS, 1);
    controller_base_drop(&standby->base);
    standby_set(standby, FOLLOW_ASKS);
    standby->nonce = standby_nonce(standby);
    standby->hello_ms = now + standby->pause_ms;
    standby->pause_ms = standby->pause_ms * 2 < HELLO_MAX_MS ? standby->pause_ms * 2 : HELLO_MAX_MS;
}

static void standby_ask(struct controller_standby *standby)
{
    const uint64_t now = standby_now(standby);

    if (standby->state == FOLLOW_ASKS && now >= standby->hello_ms && !standby_is_primary(standby)) {
        /* Said again as long as nobody answers; the primary knows the nonce. */
        (void)standby_send(standby, CONTROLLER_REPLICA_HELLO, CREDIT_BYTES);
        standby->hello_ms = now + HELLO_MS;
        standby->credit_ms = now;
        standby->owed = 0;
    }
    if (standby->state != FOLLOW_ASKS &&
        (standby->owed >= CREDIT_STEP || now - standby->credit_ms >= CREDIT_MS) &&
        standby_send(standby, CONTROLLER_REPLICA_CREDIT, standby->owed) == 0) {
        standby->owed = 0;
        standby->credit_ms = now;
    }
}

/* ---- what comes ---- */

static void standby_begin(struct controller_standby *standby,
                          const struct controller_replica_msg *msg)
{
    int r;

    if (standby_is_primary(standby)) {
        return;
    }
    r = controller_base_begin(&standby->base, standby->options->replica_dir, msg->number);
    if (r < 0) {
        kvl_warn(standby->host->log, "controller: cannot write in '%s': %s",
                 standby->options->replica_dir, strerror(-r));
        standby_restart(standby, "there is no room for what the primary sends");
        return;
    }
    standby_set(standby, FOLLOW_LOADS);
}

static void standby_part(struct controller_standby *standby,
                         const struct controller_replica_msg *msg)
{
    int r;

    if (standby->state != FOLLOW_LOADS) {
        return;
    }
    r = controller_base_add(&standby->base, msg->number, msg->bytes, msg->length);
    if (r < 0) {
        standby_restart(standby, r == -EPROTO ? "a part of the base is missing"
                                              : "there is no room for what the primary sends");
    }
}

static void standby_end(struct controller_standby *standby,
                        const struct controller_replica_msg *msg)
{
    struct kvl_registry_stats stats = {.size = sizeof(stats)};
    int r;

    if (standby->state != FOLLOW_LOADS || standby_is_primary(standby)) {
        return;
    }
    r = controller_base_load(&standby->base, standby->host);
    if (r < 0 && r != -ENOMEM) {
        standby_restart(standby, r == -EPROTO ? "a part of the base is missing"
                                              : "the base cannot be loaded");
        return;
    }
    standby->next = msg->number;
    standby->exact = msg->exact;
    standby->began_ms = standby_now(standby);
    standby_count(standby, CONTROLLER_COUNT_STANDBY_BASES, 1);
    standby_set(standby, FOLLOW_FOLLOWS);
    atomic_store(&standby->is_alone, 0);
    controller_replica_refuse(standby->replica, 1);
    standby->host->registry_ops->stats(standby->host->registry, &stats);
    kvl_info(standby->host->log,
             "controller: standby of '%s', begins with %u workers and %" PRIu64 " keys%s",
             standby->options->standby_of, stats.workers, stats.keys,
             r == -ENOMEM ? "; not all of them found room" : "");
}

static void standby_events(struct controller_standby *standby,
                           const struct controller_replica_msg *msg)
{
    struct controller_record record;
    struct kvl_cursor in;

    if (standby->state != FOLLOW_FOLLOWS || standby_is_primary(standby)) {
        return;
    }
    if (msg->number != standby->next) {
        standby_restart(standby, "records of the primary are missing");
        return;
    }
    kvl_cursor_init(&in, msg->bytes, msg->length);
    while (controller_record_next(&in, &record) == 1) {
        int r = controller_replay(&standby->replay, &record);

        /* Before `exact` the base is ahead of the record. */
        if (r < 0 && r != -ENOMEM && standby->next >= standby->exact) {
            standby_restart(standby, "we are no longer as the primary is");
            return;
        }
        standby->next++;
        standby_count(standby, CONTROLLER_COUNT_STANDBY_RECORDS, 1);
    }
}

static const char *standby_reason(uint64_t reason)
{
    switch (reason) {
    case CONTROLLER_RESET_UNKNOWN:
        return "the primary does not know us";
    case CONTROLLER_RESET_SLOW:
        return "we were too slow, or replica_buffer of the primary is too small";
    case CONTROLLER_RESET_BASE:
        return "the primary could not send what it has";
    case CONTROLLER_RESET_FULL:
        return "the primary has too many standbys";
    case CONTROLLER_RESET_STANDBY:
        return "whom we are to follow is a standby itself";
    default:
        return "the primary sent us away";
    }
}

static void standby_take(struct controller_standby *standby,
                         const struct controller_replica_msg *msg)
{
    switch (msg->kind) {
    case CONTROLLER_REPLICA_BEGIN:
        standby_begin(standby, msg);
        break;
    case CONTROLLER_REPLICA_PART:
        standby_part(standby, msg);
        break;
    case CONTROLLER_REPLICA_END:
        standby_end(standby, msg);
        break;
    case CONTROLLER_REPLICA_EVENTS:
        standby_events(standby, msg);
        break;
    case CONTROLLER_REPLICA_ALIVE:
        if (standby->state == FOLLOW_FOLLOWS && msg->number != standby->next) {
            standby_restart(standby, "records of the primary are missing");
        }
        break;
    case CONTROLLER_REPLICA_RESET:
        standby_restart(standby, standby_reason(msg->number));
        break;
    default:
        break; /* what standbys say */
    }
}

static void standby_message(struct controller_standby *standby, zmq_msg_t *frame)
{
    struct controller_replica_msg msg;
    int r = controller_replica_decode(zmq_msg_data(frame), zmq_msg_size(frame), &msg);

    if (r < 0) {
        if (controller_quiet_may(&standby->quiet, standby->host, "the primary")) {
            kvl_warn(standby->host->log, "controller: '%s' sends what is not of a %s",
                     standby->options->standby_of,
                     r == -EPROTONOSUPPORT ? "primary of this version" : "primary");
        }
        return;
    }
    if (msg.nonce != standby->nonce) {
        return; /* of an earlier attempt */
    }
    standby->silence_ms = 0;
    if (msg.kind == CONTROLLER_REPLICA_PART || msg.kind == CONTROLLER_REPLICA_EVENTS) {
        standby->owed += zmq_msg_size(frame);
    }
    standby_take(standby, &msg);
    standby->look_ms = standby_now(standby); /* a load may have taken long */
}

/* ---- the primary falls silent ---- */

static void standby_listen(struct controller_standby *standby)
{
    const uint64_t now = standby_now(standby);
    const uint64_t step = now - standby->look_ms;
    struct kvl_registry_stats stats = {.size = sizeof(stats)};

    standby->look_ms = now;
    standby->silence_ms += step < SILENCE_STEP_MS ? step : SILENCE_STEP_MS;
    if (standby->silence_ms <= standby->options->standby_takeover_ms) {
        return;
    }
    standby->silence_ms = 0;
    if (!atomic_load(&standby->is_alone)) {
        standby->direct = standby_direct(standby);
        atomic_store(&standby->is_alone, 1);
        controller_replica_refuse(standby->replica, 0);
        standby_count(standby, CONTROLLER_COUNT_STANDBY_TAKEOVERS, 1);
        standby->host->registry_ops->stats(standby->host->registry, &stats);
        kvl_warn(standby->host->log,
                 "controller: '%s' is silent for %" PRIu64
                 " ms, we are on our own, with %u workers and %" PRIu64 " keys",
                 standby->options->standby_of, standby->options->standby_takeover_ms, stats.workers,
                 stats.keys);
    }
    controller_base_drop(&standby->base);
    standby_set(standby, FOLLOW_ASKS);
    standby->nonce = standby_nonce(standby);
    standby->pause_ms = HELLO_MS;
    standby->hello_ms = now;
}

/* ---- the thread ---- */

static void *standby_run(void *arg)
{
    struct controller_standby *standby = arg;
    zmq_pollitem_t item = {.socket = standby->socket, .events = ZMQ_POLLIN};
    zmq_msg_t frame;
    int r = 0;

    (void)zmq_msg_init(&frame);
    standby->look_ms = standby_now(standby);
    while (r >= 0 || zmq_errno() == EAGAIN || zmq_errno() == EINTR) {
        standby_ask(standby);
        if (zmq_poll(&item, 1, LOOK_MS) < 0 && zmq_errno() != EINTR) {
            break;
        }
        r = 0;
        for (int i = 0; r >= 0 && i < BURST; i++) {
            r = zmq_msg_recv(&frame, standby->socket, ZMQ_DONTWAIT);
            if (r >= 0) {
                standby_message(standby, &frame);
                standby_ask(standby);
            }
        }
        if (r < 0 && zmq_errno() == EAGAIN) { /* else there is more to read before it is silence */
            standby_listen(standby);
            r = 0;
        }
    }
    (void)zmq_msg_close(&frame);
    controller_base_drop(&standby->base);
    return NULL;
}

/* ---- life ---- */

int controller_standby_create(const struct kvl_host *host, const struct controller_options *options,
                              struct controller_counts *counts, struct controller_replica *replica,
                              struct controller_standby **standby_out)
{
    struct controller_standby *standby = calloc(1, sizeof(*standby));

    if (standby == NULL || controller_replay_init(&standby->replay, host, &options->limits) < 0) {
        free(standby);
        return -ENOMEM;
    }
    standby->host = host;
    standby->options = options;
    standby->counts = counts;
    standby->replica = replica;
    standby->pause_ms = HELLO_MS;
    controller_base_init(&standby->base);
    *standby_out = standby;
    return 0;
}

void controller_standby_destroy(struct controller_standby *standby)
{
    if (standby != NULL) {
        controller_replay_fini(&standby->replay);
        free(standby);
    }
}

static int standby_set_up(struct controller_standby *standby)
{
    const struct {
        int option;
        int value;
    } settings[] = {
        {ZMQ_LINGER, 0},
        {ZMQ_IPV6, 1},
        {ZMQ_IMMEDIATE, 1}, /* nothing waits for a primary that is not there */
        {ZMQ_RECONNECT_IVL, RECONNECT_MS},
        {ZMQ_RECONNECT_IVL_MAX, RECONNECT_MAX_MS},
        {ZMQ_HEARTBEAT_IVL, PING_MS},
        {ZMQ_HEARTBEAT_TIMEOUT, PING_PATIENCE_MS},
    };
    const int64_t most =
        (int64_t)standby->options->limits.frame_bytes * 2 + CONTROLLER_REPLICA_OVERHEAD;

    for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++) {
        if (zmq_setsockopt(standby->socket, settings[i].option, &settings[i].value,
                           sizeof(settings[i].value)) != 0) {
            return -zmq_errno();
        }
    }
    return zmq_setsockopt(standby->socket, ZMQ_MAXMSGSIZE, &most, sizeof(most)) != 0 ? -zmq_errno()
                                                                                     : 0;
}

static int standby_check(const struct controller_standby *standby, struct kvl_err *err)
{
    const char *primary = standby->options->standby_of;
    struct kvl_sock_name name;
    struct kvl_sock_addr addr;
    size_t count = 0;

    if (kvl_sock_parse(primary, &name) < 0 || name.is_unix) {
        return kvl_fail(err, -EINVAL, "controller: standby_of '%s' is no host:port", primary);
    }
    if (!standby->options->allow_remote &&
        (kvl_sock_resolve(&name, 0, &addr, 1, &count) < 0 || !kvl_sock_is_loopback(&addr))) {
        return kvl_fail(err, -EACCES,
                        "controller: '%s' is on another machine and says what we believe: set "
                        "allow_remote = yes",
                        primary);
    }
    return 0;
}

int controller_standby_start(struct controller_standby *standby, void *zmq, struct kvl_err *err)
{
    char endpoint[300];
    int r = standby_check(standby, err);

    if (r < 0) {
        return r;
    }
    standby->socket = zmq_socket(zmq, ZMQ_DEALER);
    if (standby->socket == NULL || standby_set_up(standby) < 0) {
        return kvl_fail(err, -ENOMEM, "controller: cannot make a socket: %s",
                        zmq_strerror(zmq_errno()));
    }
    (void)snprintf(endpoint, sizeof(endpoint), "tcp://%s", standby->options->standby_of);
    if (zmq_connect(standby->socket, endpoint) != 0) {
        return kvl_fail(err, -zmq_errno(), "controller: cannot connect to '%s': %s",
                        standby->options->standby_of, zmq_strerror(zmq_errno()));
    }
    standby->nonce = standby_nonce(standby);
    controller_replica_refuse(standby->replica, 1);
    r = standby->host->thread_create(standby->host, "kvl-ctl-standby", standby_run, standby,
                                     &standby->thread);
    if (r < 0) {
        return kvl_fail(err, r, "controller: cannot start a thread: %s", strerror(-r));
    }
    standby->has_thread = 1;
    return 0;
}

void controller_standby_stop(struct controller_standby *standby)
{
    if (standby->has_thread) {
        (void)standby->host->thread_join(standby->host, standby->thread);
        standby->has_thread = 0;
    }
    if (standby->socket != NULL) {
        (void)zmq_close(standby->socket);
        standby->socket = NULL;
    }
}

/* ---- watch ---- */

int controller_standby_is_passive(const struct controller_standby *standby)
{
    return standby != NULL && !atomic_load(&standby->is_alone);
}

void controller_standby_print(const struct controller_standby *standby, char *text_out, size_t size)
{
    static const char *const words[] = {
        [FOLLOW_ASKS] = "begins anew",
        [FOLLOW_LOADS] = "gets what it has",
        [FOLLOW_FOLLOWS] = "follows",
    };

    if (atomic_load(&standby->is_alone)) {
        (void)snprintf(text_out, size, "on our own, '%s' is silent", standby->options->standby_of);
        return;
    }
    (void)snprintf(text_out, size, "standby of '%s', %s", standby->options->standby_of,
                   words[atomic_load(&standby->shown)]);
}
