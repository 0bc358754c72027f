/* SPDX-License-Identifier: Apache-2.0 */
#include "scripted.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <zmq.h>

#define BATCHES_MAX 1024u

/* What it was told of one location. */
struct scripted_place {
    const char *location;
    struct kvl_chunk_id keys[SCRIPTED_KEYS];
    uint32_t count;
    int64_t last_seq; /* -1 = none yet */
};

#define PLACES 2u

struct scripted {
    void *zmq;
    void *pull;
    void *reply;
    void *heart;
    bool with_heart;
    char pull_url[64];
    char reply_url[64];
    char heart_url[64];
    pthread_t thread;
    bool running;
    struct controller_arena *arena;
    struct controller_buf buf;

    pthread_mutex_t lock; /* guards the rest */
    bool stopping;
    bool dead;
    enum scripted_mood mood;
    const char *commands[2];
    uint32_t lose;
    uint32_t die_after; /* 0 = not */
    bool stuck;
    bool strict; /* End does not complete while batches are missing */
    struct scripted_view view;
    struct scripted_place places[PLACES]; /* the own store, memory of a GPU */
    bool received[BATCHES_MAX];
    uint32_t expected;
};

static void scripted_die(const char *what)
{
    fprintf(stderr, "scripted controller: %s\n", what);
    abort();
}

/* ---- what it knows; under the lock ---- */

static uint32_t keys_find(const struct scripted_place *place, const struct kvl_chunk_id *id)
{
    uint32_t i = 0;

    while (i < place->count &&
           (place->keys[i].bits != id->bits || place->keys[i].negative != id->negative)) {
        i++;
    }
    return i;
}

static void keys_apply(struct scripted_place *place, const struct kvl_chunk_id *id, uint32_t kind)
{
    uint32_t i = keys_find(place, id);

    if (kind == KVL_KEY_ADMIT && i == place->count) {
        if (i == SCRIPTED_KEYS) {
            scripted_die("too many keys");
        }
        place->keys[place->count++] = *id;
    } else if (kind == KVL_KEY_EVICT && i < place->count) {
        place->keys[i] = place->keys[--place->count];
    }
}

static void keys_clear(struct scripted_place *place)
{
    place->count = 0;
    place->last_seq = -1;
}

static void keys_clear_all(struct scripted *s)
{
    for (uint32_t i = 0; i < PLACES; i++) {
        keys_clear(&s->places[i]);
    }
}

static struct scripted_place *place_of(struct scripted *s, const struct controller_msg *msg)
{
    for (uint32_t i = 0; i < PLACES; i++) {
        const char *location = s->places[i].location;

        if (msg->location.length == strlen(location) &&
            memcmp(msg->location.text, location, msg->location.length) == 0) {
            return &s->places[i];
        }
    }
    scripted_die("a location that nobody knows");
    return NULL;
}

static void take_worker(struct scripted *s, const struct controller_msg *msg)
{
    s->view.known = true;
    keys_clear_all(s);
    s->view.port = msg->port;
    (void)snprintf(s->view.ip, sizeof(s->view.ip), "%.*s", (int)msg->ip.length, msg->ip.text);
    (void)snprintf(s->view.peer_url, sizeof(s->view.peer_url), "%.*s",
                   msg->peer_init_url.is_set ? (int)msg->peer_init_url.value.length : 3,
                   msg->peer_init_url.is_set ? msg->peer_init_url.value.text : "nil");
}

static bool is_current(const struct scripted *s, const struct controller_msg *msg)
{
    return msg->sync_id.length == strlen(s->view.sync_id) &&
           memcmp(msg->sync_id.text, s->view.sync_id, msg->sync_id.length) == 0;
}

static uint32_t missing(const struct scripted *s, struct kvl_chunk_id *ids_out)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < s->expected; i++) {
        if (!s->received[i]) {
            ids_out[count++] = (struct kvl_chunk_id){.bits = i};
        }
    }
    return count;
}

static void take_ops(struct scripted *s, const struct controller_msg *msg)
{
    struct scripted_place *place = place_of(s, msg);

    s->view.messages++;
    s->view.longest =
        msg->operations.count > s->view.longest ? msg->operations.count : s->view.longest;
    if (!s->view.known || s->view.syncing) {
        s->view.ops_dropped += msg->operations.count;
        return;
    }
    for (uint32_t i = 0; i < msg->operations.count; i++) {
        const struct kvl_key_op *op = &msg->operations.at[i];

        s->view.early += !s->view.completed;
        s->view.gaps += place->last_seq >= 0 && op->seq != place->last_seq + 1;
        place->last_seq = op->seq;
        keys_apply(place, &op->id, op->kind);
        s->view.ops++;
    }
}

static void take_batch(struct scripted *s, const struct controller_msg *msg)
{
    if (!s->view.syncing || !is_current(s, msg)) {
        return;
    }
    if (s->lose > 0) {
        s->lose--;
        return;
    }
    s->view.batches++;
    s->received[msg->number] = true;
    for (uint32_t i = 0; i < msg->ids.count; i++) {
        keys_apply(place_of(s, msg), &msg->ids.at[i], KVL_KEY_ADMIT);
    }
    if (s->die_after > 0 && --s->die_after == 0) {
        s->stopping = true;
        s->dead = true;
    }
}

static void take_end(struct scripted *s, const struct controller_msg *msg)
{
    struct kvl_chunk_id ids[BATCHES_MAX];

    s->view.ends++;
    if (s->view.syncing && is_current(s, msg) && (!s->strict || missing(s, ids) == 0)) {
        s->view.syncing = false;
        s->view.completed = true;
    }
}

static void take_pushed(struct scripted *s, const struct controller_msg *msg)
{
    switch (msg->type) {
    case CONTROLLER_KV_OPS:
        take_ops(s, msg);
        break;
    case CONTROLLER_SYNC_BATCH:
        take_batch(s, msg);
        break;
    case CONTROLLER_SYNC_END:
        take_end(s, msg);
        break;
    case CONTROLLER_DEREGISTER:
        s->view.deregisters++;
        s->view.known = false;
        keys_clear_all(s);
        s->view.syncing = false;
        s->view.completed = false;
        s->stuck = false;
        break;
    default:
        s->view.bad++;
        break;
    }
}

/* ---- answers; under the lock ---- */

static struct kvl_text text_of(const char *text)
{
    return (struct kvl_text){.text = text, .length = (uint32_t)strlen(text)};
}

static void answer_register(struct scripted *s, const struct controller_msg *ask,
                            struct controller_msg *answer, struct controller_pair *pair)
{
    s->view.registers++;
    take_worker(s, ask);
    answer->type = CONTROLLER_REGISTER_RET;
    if (s->with_heart) {
        pair->key = text_of("heartbeat_url");
        pair->value = text_of(s->heart_url); /* with a scheme, to be stripped */
        answer->extra_config.at = pair;
        answer->extra_config.count = 1;
    }
}

static void answer_heartbeat(struct scripted *s, const struct controller_msg *ask,
                             struct controller_msg *answer, struct controller_command *commands)
{
    answer->type = CONTROLLER_HEARTBEAT_RET;
    answer->commands.at = commands;
    s->view.heartbeats++;
    if (!s->view.known) {
        take_worker(s, ask);
        s->view.completed = false;
        commands[answer->commands.count++].command_type = text_of("full_sync");
    }
    for (int i = 0; i < 2; i++) {
        if (s->commands[i] != NULL) {
            commands[answer->commands.count++].command_type = text_of(s->commands[i]);
        }
        s->commands[i] = NULL;
    }
}

static void answer_start(struct scripted *s, const struct controller_msg *ask,
                         struct controller_msg *answer)
{
    s->view.starts++;
    answer->type = CONTROLLER_SYNC_START_RET;
    answer->sync_id = ask->sync_id;
    if (!s->view.known || s->stuck || (s->view.syncing && !is_current(s, ask))) {
        answer->error_msg.is_set = 1;
        answer->error_msg.value = text_of("Failed to start sync: not now");
        return;
    }
    answer->accepted = 1;
    s->view.syncing = true;
    s->view.completed = false;
    keys_clear(place_of(s, ask));
    s->expected = (uint32_t)ask->batch_count;
    memset(s->received, 0, sizeof(s->received));
    (void)snprintf(s->view.sync_id, sizeof(s->view.sync_id), "%.*s", (int)ask->sync_id.length,
                   ask->sync_id.text);
}

static void answer_status(struct scripted *s, const struct controller_msg *ask,
                          struct controller_msg *answer, struct kvl_chunk_id *ids)
{
    s->view.statuses++;
    answer->type = CONTROLLER_SYNC_STATUS_RET;
    answer->sync_id = ask->sync_id;
    answer->accepted = s->view.completed && is_current(s, ask);
    answer->ids.at = ids;
    answer->ids.is_set = 1;
    if (s->view.syncing && is_current(s, ask)) {
        answer->ids.count = missing(s, ids);
    }
}

static void answer_lookup(struct scripted *s, const struct controller_msg *ask,
                          struct controller_msg *answer, struct controller_layout *layout)
{
    s->view.lookups++;
    answer->type = CONTROLLER_P2P_LOOKUP_RET;
    answer->layout_info.at = layout;
    answer->layout_info.count = 1;
    while (layout->count < ask->ids.count &&
           keys_find(&s->places[0], &ask->ids.at[layout->count]) < s->places[0].count) {
        layout->count++;
    }
    if (s->mood == SCRIPTED_LIAR) {
        layout->count = (int64_t)ask->ids.count + 1;
    }
    if (layout->count > 0) {
        layout->instance_id = text_of(SCRIPTED_HOLDER);
        layout->location = text_of("LocalCPUBackend");
        layout->peer_init_url = text_of(SCRIPTED_HOLDER_URL);
    }
}

static void send_answer(struct scripted *s, void *socket, zmq_msg_t *identity,
                        const struct controller_msg *answer)
{
    zmq_msg_t copy;

    (void)zmq_msg_init(&copy);
    (void)zmq_msg_copy(&copy, identity);
    s->buf.length = 0;
    if (controller_encode(answer, &s->buf) < 0) {
        scripted_die("cannot write an answer");
    }
    if (s->mood == SCRIPTED_GARBAGE) {
        memset(s->buf.at, 0xc1, s->buf.length);
    }
    (void)zmq_msg_send(&copy, socket, ZMQ_SNDMORE | ZMQ_DONTWAIT);
    (void)zmq_send(socket, "", 0, ZMQ_SNDMORE | ZMQ_DONTWAIT);
    (void)zmq_send(socket, s->buf.at, s->buf.length, ZMQ_DONTWAIT);
}

static void answer_one(struct scripted *s, void *socket, zmq_msg_t *identity,
                       const struct controller_msg *ask)
{
    static struct kvl_chunk_id ids[BATCHES_MAX];
    struct controller_msg answer = {.type = CONTROLLER_ERROR};
    struct controller_command commands[3] = {0};
    struct controller_pair pair = {0};
    struct controller_layout layout = {0};

    if (s->mood == SCRIPTED_SILENT) {
        return;
    }
    answer.error = text_of("not in the mood");
    if (s->mood == SCRIPTED_WRONG) {
        answer.type = CONTROLLER_P2P_LOOKUP_RET;
    } else if (s->mood == SCRIPTED_ERROR) {
        answer.type = CONTROLLER_ERROR;
    } else if (ask->type == CONTROLLER_REGISTER) {
        answer_register(s, ask, &answer, &pair);
    } else if (ask->type == CONTROLLER_HEARTBEAT) {
        s->view.heartbeats_own += socket == s->heart;
        answer_heartbeat(s, ask, &answer, commands);
    } else if (ask->type == CONTROLLER_SYNC_START) {
        answer_start(s, ask, &answer);
    } else if (ask->type == CONTROLLER_SYNC_STATUS) {
        answer_status(s, ask, &answer, ids);
    } else if (ask->type == CONTROLLER_P2P_LOOKUP) {
        answer_lookup(s, ask, &answer, &layout);
    }
    send_answer(s, socket, identity, &answer);
    if (s->mood == SCRIPTED_TWICE) {
        send_answer(s, socket, identity, &answer);
    }
}

/* ---- the thread ---- */

static bool decode(struct scripted *s, zmq_msg_t *frame, struct controller_msg *msg_out)
{
    char why[200];
    bool ok =
        controller_decode(zmq_msg_data(frame), zmq_msg_size(frame), &controller_default_limits,
                          s->arena, msg_out, why, sizeof(why)) == 0;

    if (!ok) {
        pthread_mutex_lock(&s->lock);
        s->view.bad++;
        pthread_mutex_unlock(&s->lock);
    }
    return ok;
}

static void read_pushed(struct scripted *s)
{
    struct controller_msg msg;
    zmq_msg_t frame;

    (void)zmq_msg_init(&frame);
    while (zmq_msg_recv(&frame, s->pull, ZMQ_DONTWAIT) >= 0) {
        if (decode(s, &frame, &msg)) {
            pthread_mutex_lock(&s->lock);
            if (!s->dead) {
                take_pushed(s, &msg);
            }
            pthread_mutex_unlock(&s->lock);
        }
    }
    (void)zmq_msg_close(&frame);
}

static void read_asked(struct scripted *s, void *socket)
{
    struct controller_msg msg;
    zmq_msg_t identity;
    zmq_msg_t frame;

    (void)zmq_msg_init(&identity);
    (void)zmq_msg_init(&frame);
    while (zmq_msg_recv(&identity, socket, ZMQ_DONTWAIT) >= 0) {
        do {
            (void)zmq_msg_recv(&frame, socket, 0);
        } while (zmq_msg_more(&frame));
        if (decode(s, &frame, &msg)) {
            pthread_mutex_lock(&s->lock);
            answer_one(s, socket, &identity, &msg);
            pthread_mutex_unlock(&s->lock);
        }
    }
    (void)zmq_msg_close(&frame);
    (void)zmq_msg_close(&identity);
}

static void *scripted_main(void *arg)
{
    struct scripted *s = arg;
    bool stopping = false;

    while (!stopping) {
        zmq_pollitem_t items[3] = {
            {.socket = s->pull, .events = ZMQ_POLLIN},
            {.socket = s->reply, .events = ZMQ_POLLIN},
            {.socket = s->heart, .events = ZMQ_POLLIN},
        };

        (void)zmq_poll(items, s->with_heart ? 3 : 2, 10);
        read_pushed(s);
        read_asked(s, s->reply);
        if (s->with_heart) {
            read_asked(s, s->heart);
        }
        pthread_mutex_lock(&s->lock);
        stopping = s->stopping;
        pthread_mutex_unlock(&s->lock);
    }
    (void)zmq_close(s->pull);
    (void)zmq_close(s->reply);
    if (s->with_heart) {
        (void)zmq_close(s->heart);
    }
    return NULL;
}

/* ---- life ---- */

static void *open_socket(struct scripted *s, int type, char *url, size_t room)
{
    const int no_linger = 0;
    const int tries_max = 2000;
    void *socket = zmq_socket(s->zmq, type);
    size_t size = room;
    int tries = 0;

    (void)zmq_setsockopt(socket, ZMQ_LINGER, &no_linger, sizeof(no_linger));
    /* the port of the one before is given back by a thread of the library */
    while (zmq_bind(socket, url[0] != '\0' ? url : "tcp://127.0.0.1:*") < 0) {
        if (++tries == tries_max) {
            scripted_die(zmq_strerror(zmq_errno()));
        }
        (void)zmq_poll(NULL, 0, 5);
    }
    if (url[0] == '\0') {
        (void)zmq_getsockopt(socket, ZMQ_LAST_ENDPOINT, url, &size);
    }
    return socket;
}

static void open_all(struct scripted *s)
{
    s->pull = open_socket(s, ZMQ_PULL, s->pull_url, sizeof(s->pull_url));
    s->reply = open_socket(s, ZMQ_ROUTER, s->reply_url, sizeof(s->reply_url));
    if (s->with_heart) {
        s->heart = open_socket(s, ZMQ_ROUTER, s->heart_url, sizeof(s->heart_url));
    }
    keys_clear_all(s);
    if (pthread_create(&s->thread, NULL, scripted_main, s) != 0) {
        scripted_die("no thread");
    }
    s->running = true;
}

struct scripted *scripted_start(bool heartbeat)
{
    struct scripted *s = calloc(1, sizeof(*s));

    s->zmq = zmq_ctx_new();
    s->with_heart = heartbeat;
    s->places[0].location = "LocalCPUBackend";
    s->places[1].location = "LocalGPUBackend";
    pthread_mutex_init(&s->lock, NULL);
    (void)controller_arena_create(&s->arena);
    open_all(s);
    return s;
}

void scripted_kill(struct scripted *s)
{
    pthread_mutex_lock(&s->lock);
    s->stopping = true;
    pthread_mutex_unlock(&s->lock);
    if (s->running) {
        pthread_join(s->thread, NULL);
        s->running = false;
    }
}

void scripted_revive(struct scripted *s)
{
    scripted_kill(s);
    pthread_mutex_lock(&s->lock);
    s->stopping = false;
    s->dead = false;
    s->stuck = false;
    s->lose = 0;
    memset(&s->view, 0, sizeof(s->view));
    keys_clear_all(s);
    pthread_mutex_unlock(&s->lock);
    open_all(s);
}

void scripted_end(struct scripted *s)
{
    scripted_kill(s);
    (void)zmq_ctx_term(s->zmq);
    controller_buf_fini(&s->buf);
    controller_arena_destroy(s->arena);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

/* ---- knobs and views ---- */

const char *scripted_pull_url(const struct scripted *s)
{
    return s->pull_url;
}

const char *scripted_reply_url(const struct scripted *s)
{
    return s->reply_url;
}

void scripted_set_mood(struct scripted *s, enum scripted_mood mood)
{
    pthread_mutex_lock(&s->lock);
    s->mood = mood;
    pthread_mutex_unlock(&s->lock);
}

void scripted_command(struct scripted *s, const char *first, const char *second)
{
    pthread_mutex_lock(&s->lock);
    s->commands[0] = first;
    s->commands[1] = second;
    pthread_mutex_unlock(&s->lock);
}

void scripted_lose_batches(struct scripted *s, uint32_t count)
{
    pthread_mutex_lock(&s->lock);
    s->lose = count;
    s->strict = true;
    pthread_mutex_unlock(&s->lock);
}

void scripted_die_after_batches(struct scripted *s, uint32_t count)
{
    pthread_mutex_lock(&s->lock);
    s->die_after = count;
    pthread_mutex_unlock(&s->lock);
}

bool scripted_is_dead(struct scripted *s)
{
    bool dead;

    pthread_mutex_lock(&s->lock);
    dead = s->dead;
    pthread_mutex_unlock(&s->lock);
    return dead;
}

void scripted_be_stuck(struct scripted *s)
{
    pthread_mutex_lock(&s->lock);
    s->stuck = true;
    pthread_mutex_unlock(&s->lock);
}

void scripted_view(struct scripted *s, struct scripted_view *view_out)
{
    pthread_mutex_lock(&s->lock);
    *view_out = s->view;
    view_out->keys = s->places[0].count;
    view_out->gpu_keys = s->places[1].count;
    pthread_mutex_unlock(&s->lock);
}

bool scripted_has(struct scripted *s, uint64_t bits, bool negative)
{
    const struct kvl_chunk_id id = {.bits = bits, .negative = negative};
    bool has;

    pthread_mutex_lock(&s->lock);
    has = keys_find(&s->places[0], &id) < s->places[0].count;
    pthread_mutex_unlock(&s->lock);
    return has;
}
