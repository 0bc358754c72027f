/* SPDX-License-Identifier: Apache-2.0 */
#include "controller_ask.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <zmq.h>

#include "cond.h"
#include "sock.h"

#define POLL_MAX_MS 60000

/* A caller and the workers it has orders for. */
struct controller_turn {
    struct controller_turn *next;
    struct kvl_text instance;
    const struct controller_ask *each;
    uint32_t count;
};

int controller_asks_init(struct controller_asks *asks)
{
    memset(asks, 0, sizeof(*asks));
    if (pthread_mutex_init(&asks->lock, NULL) != 0) {
        return -ENOMEM;
    }
    if (kvl_monotonic_cond_init(&asks->changed) != 0) {
        pthread_mutex_destroy(&asks->lock);
        return -ENOMEM;
    }
    return 0;
}

void controller_asks_fini(struct controller_asks *asks)
{
    pthread_cond_destroy(&asks->changed);
    pthread_mutex_destroy(&asks->lock);
}

void controller_asks_stop(struct controller_asks *asks)
{
    pthread_mutex_lock(&asks->lock);
    asks->stopping = 1;
    pthread_cond_broadcast(&asks->changed);
    pthread_mutex_unlock(&asks->lock);
}

void controller_asks_wait(struct controller_asks *asks)
{
    pthread_mutex_lock(&asks->lock);
    while (asks->under_way > 0) {
        pthread_cond_wait(&asks->changed, &asks->lock);
    }
    pthread_mutex_unlock(&asks->lock);
}

/* ---- turns ---- */

static int turns_meet(const struct controller_turn *a, const struct controller_turn *b)
{
    if (a->instance.length != b->instance.length ||
        memcmp(a->instance.text, b->instance.text, a->instance.length) != 0) {
        return 0;
    }
    for (uint32_t i = 0; i < a->count; i++) {
        for (uint32_t j = 0; j < b->count; j++) {
            if (a->each[i].worker_id == b->each[j].worker_id) {
                return 1;
            }
        }
    }
    return 0;
}

/* Nobody overtakes another one who wants the same worker, so that each gets its turn. */
static int turn_has_come(const struct controller_asks *asks, const struct controller_turn *turn)
{
    for (const struct controller_turn *at = asks->first; at != turn; at = at->next) {
        if (turns_meet(at, turn)) {
            return 0;
        }
    }
    return 1;
}

static int turn_begin(struct controller_asks *asks, struct controller_turn *turn,
                      uint64_t deadline_ms)
{
    const struct timespec until = {
        .tv_sec = (time_t)(deadline_ms / 1000),
        .tv_nsec = (long)(deadline_ms % 1000) * 1000000,
    };
    struct controller_turn **end;
    int r = 0;

    pthread_mutex_lock(&asks->lock);
    for (end = &asks->first; *end != NULL; end = &(*end)->next) {
    }
    *end = turn;
    asks->under_way++;
    while (r == 0 && !asks->stopping && !turn_has_come(asks, turn)) {
        r = -pthread_cond_timedwait(&asks->changed, &asks->lock, &until);
    }
    r = asks->stopping ? -ECANCELED : r;
    pthread_mutex_unlock(&asks->lock);
    return r;
}

static void turn_end(struct controller_asks *asks, struct controller_turn *turn)
{
    struct controller_turn **at;

    pthread_mutex_lock(&asks->lock);
    for (at = &asks->first; *at != turn; at = &(*at)->next) {
    }
    *at = turn->next;
    asks->under_way--;
    pthread_cond_broadcast(&asks->changed);
    pthread_mutex_unlock(&asks->lock);
}

/* ---- one order ---- */

/* Names are resolved here: left to ZMQ, a slow resolver would hold up the answers to workers. */
static int ask_endpoint(const struct controller_ask *ask, char *endpoint_out, size_t size)
{
    struct kvl_sock_name name = {0};
    struct kvl_sock_addr addr;
    char text[KVL_SOCK_TEXT_MAX];
    size_t count = 0;
    int r;

    if (ask->port <= 0 || ask->port > 65535 || ask->ip[0] == '\0') {
        return -EINVAL;
    }
    (void)snprintf(name.host, sizeof(name.host), "%s", ask->ip);
    name.port = (uint16_t)ask->port;
    r = kvl_sock_resolve(&name, 0, &addr, 1, &count);
    if (r < 0 || count == 0) {
        return r < 0 ? r : -EHOSTUNREACH;
    }
    kvl_sock_print(&addr, text, sizeof(text));
    (void)snprintf(endpoint_out, size, "tcp://%s", text);
    return 0;
}

static int ask_send(struct controller_ask *ask, void *zmq, int64_t frame_bytes)
{
    const int now = 0;
    const int yes = 1;
    char endpoint[KVL_SOCK_TEXT_MAX + 8];
    int r = ask_endpoint(ask, endpoint, sizeof(endpoint));

    if (r < 0) {
        return r;
    }
    ask->socket = zmq_socket(zmq, ZMQ_REQ);
    if (ask->socket == NULL || zmq_setsockopt(ask->socket, ZMQ_LINGER, &now, sizeof(now)) != 0 ||
        zmq_setsockopt(ask->socket, ZMQ_IPV6, &yes, sizeof(yes)) != 0 ||
        zmq_setsockopt(ask->socket, ZMQ_MAXMSGSIZE, &frame_bytes, sizeof(frame_bytes)) != 0 ||
        zmq_connect(ask->socket, endpoint) != 0 ||
        zmq_send(ask->socket, ask->request, ask->request_length, ZMQ_DONTWAIT) < 0) {
        return zmq_errno() == ETERM ? -ECANCELED : -zmq_errno();
    }
    return -EINPROGRESS;
}

/* The payload is one part; of several the last one counts, as for the other requesters here. */
static int ask_receive(struct controller_ask *ask)
{
    zmq_msg_t part;
    int r = 0;
    int more = 1;

    (void)zmq_msg_init(&part);
    while (r == 0 && more) {
        if (zmq_msg_recv(&part, ask->socket, ZMQ_DONTWAIT) < 0) {
            r = zmq_errno() == EAGAIN || zmq_errno() == EINTR ? -EINPROGRESS : -zmq_errno();
        } else {
            more = zmq_msg_more(&part);
        }
    }
    if (r == 0) {
        ask->reply_length = zmq_msg_size(&part);
        ask->reply = malloc(ask->reply_length + 1);
        if (ask->reply == NULL) {
            r = -ENOMEM;
        } else {
            memcpy(ask->reply, zmq_msg_data(&part), ask->reply_length);
        }
    }
    (void)zmq_msg_close(&part);
    return r;
}

static void ask_close(struct controller_ask *ask)
{
    if (ask->socket != NULL) {
        (void)zmq_close(ask->socket);
        ask->socket = NULL;
    }
}

/* ---- all of them ---- */

static uint64_t asks_now_ms(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static int asks_timeout(uint64_t deadline_ms)
{
    uint64_t now = asks_now_ms();

    if (now >= deadline_ms) {
        return 0;
    }
    return deadline_ms - now < POLL_MAX_MS ? (int)(deadline_ms - now) : POLL_MAX_MS;
}

static void asks_fail(struct controller_ask *each, uint32_t count, int status)
{
    for (uint32_t i = 0; i < count; i++) {
        if (each[i].status == -EINPROGRESS) {
            each[i].status = status;
        }
    }
}

/* Waits for one round. @return how many are still open. */
static uint32_t asks_poll(struct controller_ask *each, uint32_t count, zmq_pollitem_t *items,
                          uint64_t deadline_ms)
{
    uint32_t open = 0;
    int timeout = asks_timeout(deadline_ms);
    int n;

    for (uint32_t i = 0; i < count; i++) {
        if (each[i].status == -EINPROGRESS) {
            items[open++] = (zmq_pollitem_t){.socket = each[i].socket, .events = ZMQ_POLLIN};
        }
    }
    if (open == 0) {
        return 0;
    }
    n = zmq_poll(items, (int)open, timeout);
    if (n < 0 && zmq_errno() != EINTR) {
        asks_fail(each, count, -ECANCELED);
        return 0;
    }
    open = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (each[i].status == -EINPROGRESS) {
            each[i].status = ask_receive(&each[i]);
            open += each[i].status == -EINPROGRESS;
        }
    }
    if (open > 0 && asks_timeout(deadline_ms) == 0) {
        asks_fail(each, count, -ETIMEDOUT);
        open = 0;
    }
    return open;
}

static int asks_exchange(void *zmq, struct controller_ask *each, uint32_t count,
                         int64_t frame_bytes, uint64_t deadline_ms)
{
    zmq_pollitem_t *items = calloc(count, sizeof(*items));
    int canceled = 0;

    if (items == NULL) {
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < count; i++) {
        each[i].status = ask_send(&each[i], zmq, frame_bytes);
    }
    while (asks_poll(each, count, items, deadline_ms) > 0) {
    }
    for (uint32_t i = 0; i < count; i++) {
        ask_close(&each[i]);
        canceled |= each[i].status == -ECANCELED || each[i].status == -ETERM;
    }
    free(items);
    return canceled ? -ECANCELED : 0;
}

int controller_asks_run(struct controller_asks *asks, void *zmq, struct kvl_text instance,
                        struct controller_ask *each, uint32_t count, int64_t frame_bytes,
                        uint64_t deadline_ms)
{
    struct controller_turn turn = {.instance = instance, .each = each, .count = count};
    int r;

    if (count == 0) {
        return 0;
    }
    for (uint32_t i = 0; i < count; i++) {
        each[i].reply = NULL;
        each[i].socket = NULL;
    }
    r = turn_begin(asks, &turn, deadline_ms);
    if (r == 0) {
        r = asks_exchange(zmq, each, count, frame_bytes, deadline_ms);
    }
    turn_end(asks, &turn);
    return r;
}
