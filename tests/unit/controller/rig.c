/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "rig.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <zmq.h>

#include "controller_role.h"
#include "fake_host.h"
#include "registry.h"

#define PATIENCE_MS 20000
#define PAIRS_MAX 64

struct rig {
    struct fake_host *fake;
    struct kvl_host host;
    struct kvl_registry *registry;
    struct controller_options options;
    void *self;
    void *zmq;
    int pull, reply, heartbeat;
    struct controller_arena *arena;
    struct controller_msg answer;
    uint8_t bytes[65536];
    const char *pairs[PAIRS_MAX];
    int running;
};

struct rig_worker {
    struct rig *rig;
    pthread_t thread;
    void *socket;
    _Atomic int mood;
    _Atomic int64_t number;
    _Atomic uint32_t orders;
    _Atomic int ending;
    pthread_mutex_t lock; /* guards last */
    char last[512];
};

struct kvl_text rig_text(const char *text)
{
    return (struct kvl_text){.text = text, .length = (uint32_t)strlen(text)};
}

static void rig_pause(void)
{
    const struct timespec moment = {.tv_nsec = 1000000};

    nanosleep(&moment, NULL);
}

static void rig_settings(struct rig *rig, const char *const *pairs)
{
    static const char *const own[] = {"pull_port",      "0",  "reply_port", "0",
                                      "heartbeat_port", "-1", "http",       "no"};
    size_t n = 0;

    for (size_t i = 0; i < sizeof(own) / sizeof(own[0]); i++) {
        rig->pairs[n++] = own[i];
    }
    for (size_t i = 0; pairs != NULL && pairs[i] != NULL; i++) {
        rig->pairs[n++] = pairs[i];
    }
    rig->pairs[n] = NULL;
}

struct rig *rig_start(const char *const *pairs)
{
    const struct kvl_registry_params params = {
        .settings = {.sync_timeout_ms = 300000, .sync_threshold = 80},
    };
    struct kvl_err err = {.size = sizeof(err)};
    struct kvl_health health = {.size = sizeof(health)};
    struct rig *rig = calloc(1, sizeof(*rig));

    assert_non_null(rig);
    rig_settings(rig, pairs);
    rig->fake = fake_host_create(kvlane_backend_v1(), rig->pairs);
    rig->host = *fake_host_table(rig->fake);
    assert_int_equal(kvl_registry_create(&params, &rig->registry), 0);
    rig->host.size = sizeof(rig->host);
    rig->host.registry_ops = &kvl_registry_table;
    rig->host.registry = rig->registry;
    assert_int_equal(controller_options_read(&rig->host, &rig->options, &err), 0);
    assert_int_equal(controller_role_controller.create(&rig->host, &rig->options, &rig->self, &err),
                     0);
    assert_int_equal(controller_role_controller.start(rig->self, &err), 0);
    rig->running = 1;
    controller_role_controller.get_health(rig->self, &health);
    assert_int_equal(sscanf(health.address, "pull 127.0.0.1:%d reply %d heartbeat %d", &rig->pull,
                            &rig->reply, &rig->heartbeat),
                     3);
    rig->zmq = zmq_ctx_new();
    assert_non_null(rig->zmq);
    assert_int_equal(controller_arena_create(&rig->arena), 0);
    return rig;
}

void rig_stop(struct rig *rig)
{
    if (rig->running) {
        controller_role_controller.quiesce(rig->self);
        controller_role_controller.stop(rig->self);
        rig->running = 0;
    }
}

void rig_free(struct rig *rig)
{
    rig_stop(rig);
    controller_role_controller.destroy(rig->self);
    assert_int_equal(fake_host_leaks(rig->fake), 0);
    fake_host_destroy(rig->fake);
    kvl_registry_destroy(rig->registry);
    controller_arena_destroy(rig->arena);
    zmq_ctx_term(rig->zmq);
    free(rig);
}

struct controller_server *rig_server(struct rig *rig)
{
    return rig->self;
}

const struct kvl_host *rig_host(struct rig *rig)
{
    return &rig->host;
}

/* ---- clients ---- */

static void *rig_socket(struct rig *rig, int type, int port)
{
    const int patience = PATIENCE_MS;
    const int linger = 1000;
    char url[64];
    void *socket = zmq_socket(rig->zmq, type);

    assert_non_null(socket);
    zmq_setsockopt(socket, ZMQ_RCVTIMEO, &patience, sizeof(patience));
    zmq_setsockopt(socket, ZMQ_SNDTIMEO, &patience, sizeof(patience));
    zmq_setsockopt(socket, ZMQ_LINGER, &linger, sizeof(linger));
    (void)snprintf(url, sizeof(url), "tcp://127.0.0.1:%d", port);
    assert_int_equal(zmq_connect(socket, url), 0);
    return socket;
}

void *rig_dealer(struct rig *rig)
{
    return rig_socket(rig, ZMQ_DEALER, rig->reply);
}

void *rig_heartbeat(struct rig *rig)
{
    return rig_socket(rig, ZMQ_DEALER, rig->heartbeat);
}

void *rig_req(struct rig *rig)
{
    return rig_socket(rig, ZMQ_REQ, rig->reply);
}

void *rig_push(struct rig *rig)
{
    return rig_socket(rig, ZMQ_PUSH, rig->pull);
}

void rig_close(void *socket)
{
    assert_int_equal(zmq_close(socket), 0);
}

void rig_send(void *socket, int dealer, const void *bytes, size_t length)
{
    if (dealer) {
        assert_int_equal(zmq_send(socket, "", 0, ZMQ_SNDMORE), 0);
    }
    assert_int_equal(zmq_send(socket, bytes, length, 0), (int)length);
}

size_t rig_receive(void *socket, void *bytes, size_t room)
{
    int more = 1;
    int n = 0;

    while (more) {
        size_t size = sizeof(more);

        n = zmq_recv(socket, bytes, room, 0);
        assert_true(n >= 0 && (size_t)n <= room);
        assert_int_equal(zmq_getsockopt(socket, ZMQ_RCVMORE, &more, &size), 0);
    }
    return (size_t)n;
}

const struct controller_msg *rig_ask(struct rig *rig, void *dealer,
                                     const struct controller_msg *msg)
{
    struct controller_buf buf = {0};
    char error[256];
    size_t n;

    assert_int_equal(controller_encode(msg, &buf), 0);
    rig_send(dealer, 1, buf.at, buf.length);
    controller_buf_fini(&buf);
    n = rig_receive(dealer, rig->bytes, sizeof(rig->bytes));
    assert_int_equal(controller_decode(rig->bytes, n, &controller_default_limits, rig->arena,
                                       &rig->answer, error, sizeof(error)),
                     0);
    return &rig->answer;
}

void rig_push_msg(void *push, const struct controller_msg *msg)
{
    struct controller_buf buf = {0};

    assert_int_equal(controller_encode(msg, &buf), 0);
    rig_send(push, 0, buf.at, buf.length);
    controller_buf_fini(&buf);
}

void rig_wait(struct rig *rig, enum controller_count which, uint64_t least)
{
    for (int i = 0; controller_server_count(rig->self, which) < least; i++) {
        assert_true(i < PATIENCE_MS);
        rig_pause();
    }
}

/* ---- workers ---- */

static enum controller_type worker_reply_to(enum controller_type type)
{
    /* Each reply stands behind its request. */
    return (enum controller_type)(type + 1);
}

static void worker_note(struct rig_worker *worker, const struct controller_msg *msg)
{
    pthread_mutex_lock(&worker->lock);
    (void)snprintf(worker->last, sizeof(worker->last), "%s %.*s %.*s %.*s %.*s %.*s %u",
                   controller_type_name(msg->type), (int)msg->event_id.length, msg->event_id.text,
                   (int)msg->location.length, msg->location.text,
                   (int)msg->old_position.location.length, msg->old_position.location.text,
                   (int)msg->new_position.first.length, msg->new_position.first.text,
                   (int)msg->new_position.location.length, msg->new_position.location.text,
                   msg->ids.count);
    pthread_mutex_unlock(&worker->lock);
}

static void worker_answer(struct rig_worker *worker, const struct controller_msg *msg)
{
    struct controller_msg out = {.type = worker_reply_to(msg->type), .number = worker->number};
    struct controller_buf buf = {0};

    while (worker->mood == RIG_SILENT && !worker->ending) {
        rig_pause();
    }
    if (worker->mood == RIG_ERROR) {
        out = (struct controller_msg){.type = CONTROLLER_ERROR,
                                      .error = rig_text("Worker error: no such thing")};
    } else if (worker->mood == RIG_OTHER) {
        out = (struct controller_msg){.type = CONTROLLER_SYNC_START_RET};
    }
    assert_int_equal(controller_encode(&out, &buf), 0);
    if (worker->mood == RIG_GARBAGE) {
        buf.at[0] = 0xc1;
    }
    (void)zmq_send(worker->socket, buf.at, buf.length, 0);
    controller_buf_fini(&buf);
}

static void *worker_run(void *arg)
{
    struct rig_worker *worker = arg;
    struct controller_arena *arena;
    struct controller_msg msg;
    uint8_t bytes[4096];
    char error[256];

    assert_int_equal(controller_arena_create(&arena), 0);
    while (!worker->ending) {
        int n = zmq_recv(worker->socket, bytes, sizeof(bytes), 0);

        if (n >= 0 && controller_decode(bytes, (size_t)n, &controller_default_limits, arena, &msg,
                                        error, sizeof(error)) == 0) {
            worker_note(worker, &msg);
            worker->orders++;
            worker_answer(worker, &msg);
        }
    }
    controller_arena_destroy(arena);
    return NULL;
}

struct rig_worker *rig_worker_start(struct rig *rig, const char *instance, int64_t worker_id,
                                    enum rig_mood mood, int64_t number)
{
    const int look_ms = 20;
    struct rig_worker *worker = calloc(1, sizeof(*worker));
    char endpoint[128];
    size_t size = sizeof(endpoint);
    char url[64];
    struct kvl_worker_desc desc = {
        .size = sizeof(desc),
        .flags = KVL_WORKER_HAS_PEER_URL,
        .name = {.instance = rig_text(instance), .worker_id = worker_id},
        .ip = rig_text("127.0.0.1"),
    };
    int port;

    assert_non_null(worker);
    worker->rig = rig;
    worker->mood = mood;
    worker->number = number;
    pthread_mutex_init(&worker->lock, NULL);
    worker->socket = zmq_socket(rig->zmq, ZMQ_REP);
    zmq_setsockopt(worker->socket, ZMQ_RCVTIMEO, &look_ms, sizeof(look_ms));
    assert_int_equal(zmq_bind(worker->socket, "tcp://127.0.0.1:*"), 0);
    assert_int_equal(zmq_getsockopt(worker->socket, ZMQ_LAST_ENDPOINT, endpoint, &size), 0);
    assert_int_equal(sscanf(endpoint, "tcp://127.0.0.1:%d", &port), 1);
    desc.port = port;
    (void)snprintf(url, sizeof(url), "10.0.0.%d:8200", (int)worker_id);
    desc.peer_url = rig_text(url);
    assert_int_equal(rig->host.registry_ops->register_worker(rig->registry, &desc, NULL), 0);
    assert_int_equal(pthread_create(&worker->thread, NULL, worker_run, worker), 0);
    return worker;
}

void rig_worker_set(struct rig_worker *worker, enum rig_mood mood, int64_t number)
{
    worker->number = number;
    worker->mood = (int)mood;
}

uint32_t rig_worker_orders(const struct rig_worker *worker)
{
    return worker->orders;
}

void rig_worker_wait(const struct rig_worker *worker, uint32_t orders)
{
    for (int i = 0; worker->orders < orders; i++) {
        assert_true(i < PATIENCE_MS);
        rig_pause();
    }
}

void rig_worker_last(struct rig_worker *worker, char *text_out, size_t size)
{
    pthread_mutex_lock(&worker->lock);
    (void)snprintf(text_out, size, "%s", worker->last);
    pthread_mutex_unlock(&worker->lock);
}

void rig_worker_stop(struct rig_worker *worker)
{
    const int now = 0;

    worker->ending = 1;
    pthread_join(worker->thread, NULL);
    zmq_setsockopt(worker->socket, ZMQ_LINGER, &now, sizeof(now));
    zmq_close(worker->socket);
    pthread_mutex_destroy(&worker->lock);
    free(worker);
}
