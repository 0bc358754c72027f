/* SPDX-License-Identifier: Apache-2.0 */
#include "controller_events.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <zmq.h>

#include "controller_req.h"

/* Events taken from the host at a time: what fits into one multipart of the default batch size. */
#define EVENTS_ROOM 2500u
#define MULTIPART_MAX 50u
#define QUEUE_FIRST 4096u
/* 16 MiB. More wait only while the controller takes nothing, and then a full sync is cheaper. */
#define QUEUE_MAX (512u * 1024)
/* Multiparts, of up to 50 messages each. */
#define SEND_HWM 64
#define TICK_MS 200u
#define RETRY_MS 20u
#define MONITOR "inproc://kvl-ctl-push"

/* Events of one location wait and are numbered by themselves. */
struct events_lane {
    const char *location; /* borrowed */
    struct kvl_store_event *queue; /* owned; oldest at head, a ring */
    uint32_t room; /* a power of two; 0 until the first event */
    uint32_t head;
    uint32_t count;
    uint64_t oldest_ms; /* when the queue stopped being empty */
    int64_t seq;
};

struct controller_events {
    struct controller_events_desc desc;
    uint64_t thread;
    bool running;
    _Atomic bool stopping;

    pthread_mutex_t lock; /* guards what follows; held for no wait */
    pthread_cond_t recording_began;
    void *push;
    struct controller_buf buf;
    struct kvl_key_op *ops; /* of one message */
    struct events_lane lanes[CONTROLLER_PLACES];
    bool recording;
    bool open; /* a full sync has begun once: events mean something to the controller */
    bool held;
    bool lost;
    struct controller_events_stats stats;

    /* The thread's own. */
    void *monitor;
    struct kvl_store_event taken[EVENTS_ROOM];
};

/* ---- life ---- */

int controller_events_create(const struct controller_events_desc *desc,
                             struct controller_events **events_out)
{
    struct controller_events *events = calloc(1, sizeof(*events));

    if (events == NULL) {
        return -ENOMEM;
    }
    events->desc = *desc;
    events->lost = true; /* nothing has been announced */
    events->ops = calloc(desc->batch_size, sizeof(*events->ops));
    for (uint32_t i = 0; i < CONTROLLER_PLACES; i++) {
        events->lanes[i].location = desc->locations[i];
    }
    if (events->ops == NULL) {
        free(events);
        return -ENOMEM;
    }
    pthread_mutex_init(&events->lock, NULL);
    pthread_cond_init(&events->recording_began, NULL);
    *events_out = events;
    return 0;
}

void controller_events_close(struct controller_events *events, int linger_ms)
{
    if (events->monitor != NULL) {
        (void)zmq_close(events->monitor);
        events->monitor = NULL;
    }
    if (events->push != NULL) {
        (void)zmq_setsockopt(events->push, ZMQ_LINGER, &linger_ms, sizeof(linger_ms));
        (void)zmq_close(events->push);
        events->push = NULL;
    }
}

void controller_events_destroy(struct controller_events *events)
{
    if (events == NULL) {
        return;
    }
    pthread_cond_destroy(&events->recording_began);
    pthread_mutex_destroy(&events->lock);
    controller_buf_fini(&events->buf);
    for (uint32_t i = 0; i < CONTROLLER_PLACES; i++) {
        free(events->lanes[i].queue);
    }
    free(events->ops);
    free(events);
}

/* Without a connection the socket takes nothing, so that events wait in our queue, where they can
 * be counted and given up, and not in one that a restarted controller would get in mid-air. */
static int events_connect(struct controller_events *events)
{
    const int yes = 1;
    const int hwm = SEND_HWM;
    char endpoint[KVL_NAME_ROOM + 8];

    events->push = zmq_socket(events->desc.zmq, ZMQ_PUSH);
    events->monitor = zmq_socket(events->desc.zmq, ZMQ_PAIR);
    if (events->push == NULL || events->monitor == NULL) {
        return -EIO;
    }
    controller_socket_defaults(events->push);
    controller_socket_defaults(events->monitor);
    (void)zmq_setsockopt(events->push, ZMQ_IMMEDIATE, &yes, sizeof(yes));
    (void)zmq_setsockopt(events->push, ZMQ_SNDHWM, &hwm, sizeof(hwm));
    if (zmq_socket_monitor(events->push, MONITOR,
                           ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_DISCONNECTED) < 0 ||
        zmq_connect(events->monitor, MONITOR) < 0) {
        return -EIO;
    }
    controller_endpoint(events->desc.url, endpoint, sizeof(endpoint));
    return zmq_connect(events->push, endpoint) < 0 ? -EIO : 0;
}

/* ---- the queues; under the lock ---- */

static uint64_t queue_count(const struct controller_events *events)
{
    uint64_t count = 0;

    for (uint32_t i = 0; i < CONTROLLER_PLACES; i++) {
        count += events->lanes[i].count;
    }
    return count;
}

static void queue_drop(struct controller_events *events)
{
    for (uint32_t i = 0; i < CONTROLLER_PLACES; i++) {
        events->lanes[i].head = 0;
        events->lanes[i].count = 0;
    }
}

static void queue_give_up(struct controller_events *events)
{
    events->stats.dropped += queue_count(events);
    queue_drop(events);
    events->lost = true;
}

static int queue_grow(struct events_lane *lane)
{
    const uint32_t room = lane->room == 0 ? QUEUE_FIRST : lane->room * 2;
    struct kvl_store_event *wider;

    if (room > QUEUE_MAX) {
        return -ENOSPC;
    }
    wider = malloc((size_t)room * sizeof(*wider));
    if (wider == NULL) {
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < lane->count; i++) {
        wider[i] = lane->queue[(lane->head + i) & (lane->room - 1)];
    }
    free(lane->queue);
    lane->queue = wider;
    lane->room = room;
    lane->head = 0;
    return 0;
}

static void queue_add(struct controller_events *events, const struct kvl_store_event *event)
{
    struct events_lane *lane = &events->lanes[event->where];

    if (lane->count == lane->room && queue_grow(lane) < 0) {
        queue_give_up(events);
        if (lane->room == 0) {
            events->stats.dropped++;
            return;
        }
    }
    if (lane->count == 0) {
        lane->oldest_ms = events->desc.host->now_ms(events->desc.host);
    }
    lane->queue[(lane->head + lane->count) & (lane->room - 1)] = *event;
    lane->count++;
}

static void queue_add_all(struct controller_events *events, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (events->taken[i].where < CONTROLLER_PLACES) {
            queue_add(events, &events->taken[i]);
        }
    }
}

/* Copies up to `room` ops from the queue behind the first `skip`; numbers them from the next. */
static uint32_t queue_peek(const struct events_lane *lane, uint32_t skip, struct kvl_key_op *ops,
                           uint32_t room)
{
    uint32_t count = lane->count - skip < room ? lane->count - skip : room;

    for (uint32_t i = 0; i < count; i++) {
        const struct kvl_store_event *event =
            &lane->queue[(lane->head + skip + i) & (lane->room - 1)];

        ops[i] =
            (struct kvl_key_op){.id = event->id, .seq = lane->seq + skip + i, .kind = event->kind};
    }
    return count;
}

/* ---- the PUSH socket; under the lock ---- */

static bool push_takes(const struct controller_events *events)
{
    int ready = 0;
    size_t size = sizeof(ready);

    return events->push != NULL && zmq_getsockopt(events->push, ZMQ_EVENTS, &ready, &size) == 0 &&
           (ready & ZMQ_POLLOUT) != 0;
}

static int push_frame(struct controller_events *events, const struct controller_msg *msg,
                      zmq_msg_t *frame_out)
{
    int r;

    events->buf.length = 0;
    r = controller_encode(msg, &events->buf);
    if (r < 0) {
        return r;
    }
    if (zmq_msg_init_size(frame_out, events->buf.length) < 0) {
        return -ENOMEM;
    }
    memcpy(zmq_msg_data(frame_out), events->buf.at, events->buf.length);
    return 0;
}

/* All frames or none: a socket that takes the first takes the rest. Ends the frames. */
static int push_frames(struct controller_events *events, zmq_msg_t *frames, uint32_t count)
{
    int r = 0;

    for (uint32_t i = 0; i < count; i++) {
        if (r == 0 && zmq_msg_send(&frames[i], events->push,
                                   ZMQ_DONTWAIT | (i + 1 < count ? ZMQ_SNDMORE : 0)) < 0) {
            r = zmq_errno() == EAGAIN ? -EAGAIN : -EIO;
        }
        if (r < 0) {
            (void)zmq_msg_close(&frames[i]);
        }
    }
    return r;
}

/* One multipart from the head of a queue. @return events sent, 0 = the socket takes none now. */
static uint32_t push_from_queue(struct controller_events *events, struct events_lane *lane)
{
    zmq_msg_t frames[MULTIPART_MAX];
    struct controller_msg msg = {.type = CONTROLLER_KV_OPS};
    uint32_t parts = 0;
    uint32_t taken = 0;

    msg.instance_id = controller_text(events->desc.self->instance_id);
    msg.worker_id = events->desc.self->worker_id;
    msg.location = controller_text(lane->location);
    msg.operations.at = events->ops;
    while (taken < lane->count && parts < MULTIPART_MAX && push_takes(events)) {
        msg.operations.count = queue_peek(lane, taken, events->ops, events->desc.batch_size);
        if (push_frame(events, &msg, &frames[parts]) < 0) {
            break; /* no memory; what there is goes now, the rest with the next attempt */
        }
        taken += msg.operations.count;
        parts++;
    }
    if (parts == 0 || push_frames(events, frames, parts) < 0) {
        return 0;
    }
    lane->head = (lane->head + taken) & (lane->room - 1);
    lane->count -= taken;
    lane->seq += taken;
    events->stats.sent += taken;
    events->stats.messages += parts;
    return taken;
}

int controller_events_push(struct controller_events *events, const struct controller_msg *msg)
{
    zmq_msg_t frame;
    int r;

    pthread_mutex_lock(&events->lock);
    r = push_takes(events) ? push_frame(events, msg, &frame) : -EAGAIN;
    if (r == 0) {
        r = push_frames(events, &frame, 1);
    }
    pthread_mutex_unlock(&events->lock);
    return r;
}

/* ---- the thread ---- */

/* What was in the connection when it broke may be lost, and whoever is there next may be
 * another. */
static bool events_watch_connection(struct controller_events *events)
{
    uint8_t event[6];
    uint16_t what;
    bool broke = false;

    /* a monitor event is two frames: number and value, then the endpoint */
    while (zmq_recv(events->monitor, event, sizeof(event), ZMQ_DONTWAIT) == sizeof(event)) {
        memcpy(&what, event, sizeof(what));
        (void)zmq_recv(events->monitor, NULL, 0, ZMQ_DONTWAIT);
        pthread_mutex_lock(&events->lock);
        events->stats.connected = what == ZMQ_EVENT_HANDSHAKE_SUCCEEDED;
        if (what == ZMQ_EVENT_DISCONNECTED) {
            events->stats.breaks++;
            events->lost = true;
            broke = true;
        }
        pthread_mutex_unlock(&events->lock);
    }
    return broke;
}

/* @return what the controller now misses. */
static bool events_store(struct controller_events *events, int taken)
{
    bool was_lost;
    bool is_lost;

    pthread_mutex_lock(&events->lock);
    was_lost = events->lost;
    if (taken == -EOVERFLOW) {
        queue_give_up(events);
        kvl_warn(events->desc.host->log,
                 "controller: store events came faster than they were read, a full sync is due");
    } else if (taken == -EBUSY && !events->stats.refused) {
        events->stats.refused = 1;
        kvl_error(events->desc.host->log,
                  "controller: another section reads the store's events, none is announced here");
    } else if (taken > 0 && events->open) {
        queue_add_all(events, (uint32_t)taken);
    }
    is_lost = events->lost;
    pthread_mutex_unlock(&events->lock);
    return is_lost && !was_lost;
}

/* @return when to be back at the latest. The lock is held. */
static uint64_t events_flush_lane(struct controller_events *events, struct events_lane *lane,
                                  uint64_t now)
{
    while (!events->held && lane->count > 0) {
        uint64_t due = lane->oldest_ms + events->desc.batch_timeout_ms;

        if (lane->count < events->desc.batch_size && now < due) {
            return due;
        }
        if (push_from_queue(events, lane) == 0) {
            return now + RETRY_MS;
        }
        lane->oldest_ms = now;
    }
    return now + TICK_MS;
}

/* @return when to be back at the latest. */
static uint64_t events_flush(struct controller_events *events)
{
    uint64_t now = events->desc.host->now_ms(events->desc.host);
    uint64_t next = now + TICK_MS;

    pthread_mutex_lock(&events->lock);
    for (uint32_t i = 0; i < CONTROLLER_PLACES; i++) {
        uint64_t due = events_flush_lane(events, &events->lanes[i], now);

        next = due < next ? due : next;
    }
    pthread_mutex_unlock(&events->lock);
    return next;
}

static void *events_main(void *arg)
{
    struct controller_events *events = arg;
    const struct kvl_host *host = events->desc.host;
    uint64_t deadline = 0; /* the first call only starts the recording */

    while (!atomic_load(&events->stopping)) {
        int taken = host->store_events(host, events->taken, EVENTS_ROOM, deadline);
        bool is_lost;

        pthread_mutex_lock(&events->lock);
        if (!events->recording) {
            events->recording = true;
            pthread_cond_broadcast(&events->recording_began);
        }
        pthread_mutex_unlock(&events->lock);
        is_lost = events_store(events, taken);
        is_lost = events_watch_connection(events) || is_lost;
        if (is_lost) {
            events->desc.changed(events->desc.ctx);
        }
        if (taken == -EBUSY) {
            break;
        }
        deadline = events_flush(events);
    }
    return NULL;
}

int controller_events_start(struct controller_events *events)
{
    const struct kvl_host *host = events->desc.host;
    int r = events_connect(events);

    if (r == 0) {
        r = host->thread_create(host, "kvl-ctl-events", events_main, events, &events->thread);
        events->running = r == 0;
    }
    return r;
}

void controller_events_stop(struct controller_events *events)
{
    const struct kvl_host *host = events->desc.host;

    atomic_store(&events->stopping, true);
    pthread_mutex_lock(&events->lock);
    pthread_cond_broadcast(&events->recording_began);
    pthread_mutex_unlock(&events->lock);
    if (events->running) {
        host->store_events_wake(host);
        (void)host->thread_join(host, events->thread);
        events->running = false;
    }
}

/* ---- full sync ---- */

int controller_events_hold(struct controller_events *events)
{
    int r;

    pthread_mutex_lock(&events->lock);
    while (!events->recording && !atomic_load(&events->stopping)) {
        pthread_cond_wait(&events->recording_began, &events->lock);
    }
    r = events->recording ? 0 : -ECANCELED;
    if (r == 0) {
        queue_drop(events);
        events->held = true;
        events->open = true;
        events->lost = false;
    }
    pthread_mutex_unlock(&events->lock);
    return r;
}

void controller_events_release(struct controller_events *events, int covered)
{
    pthread_mutex_lock(&events->lock);
    events->held = false;
    if (!covered) {
        events->lost = true;
    }
    pthread_mutex_unlock(&events->lock);
    events->desc.host->store_events_wake(events->desc.host);
}

int controller_events_lost(struct controller_events *events)
{
    int lost;

    pthread_mutex_lock(&events->lock);
    lost = events->lost;
    pthread_mutex_unlock(&events->lock);
    return lost;
}

void controller_events_stats(struct controller_events *events,
                             struct controller_events_stats *stats_out)
{
    pthread_mutex_lock(&events->lock);
    *stats_out = events->stats;
    stats_out->queued = queue_count(events);
    pthread_mutex_unlock(&events->lock);
}
