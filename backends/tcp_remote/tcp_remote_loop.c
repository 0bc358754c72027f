/* SPDX-License-Identifier: Apache-2.0 */
#include "tcp_remote_loop.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "tcp_remote_peer.h"
#include "tcp_remote_server.h"

#define EVENTS_PER_TURN 64

int tcp_remote_loop_init(struct tcp_remote_loop *loop, struct tcp_remote_server *server,
                         uint32_t index)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = loop};

    loop->source = TCP_REMOTE_SOURCE_WAKE;
    loop->server = server;
    loop->host = tcp_remote_server_host(server);
    loop->options = tcp_remote_server_options(server);
    loop->index = index;
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (loop->epoll_fd < 0) {
        return -errno;
    }
    loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (loop->wake_fd < 0 || epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, loop->wake_fd, &event) < 0) {
        return -errno;
    }
    loop->scratch = malloc(TCP_REMOTE_SCRATCH_BYTES);
    return loop->scratch == NULL ? -ENOMEM : 0;
}

void tcp_remote_loop_count(struct tcp_remote_loop *loop, enum tcp_remote_counter counter,
                           uint64_t amount)
{
    /* one writer: a plain sum, no locked instruction */
    uint64_t sum = atomic_load_explicit(&loop->counters[counter], memory_order_relaxed) + amount;

    atomic_store_explicit(&loop->counters[counter], sum, memory_order_relaxed);
}

void tcp_remote_loop_wake(struct tcp_remote_loop *loop)
{
    const uint64_t one = 1;
    ssize_t n = write(loop->wake_fd, &one, sizeof(one));

    (void)n; /* a full counter wakes too */
}

void tcp_remote_loop_hand_over(struct tcp_remote_loop *loop, struct tcp_remote_peer *take_peer)
{
    take_peer->loop = loop;
    pthread_mutex_lock(&loop->lock);
    take_peer->next = loop->handed;
    loop->handed = take_peer;
    pthread_mutex_unlock(&loop->lock);
    tcp_remote_loop_wake(loop);
}

void tcp_remote_loop_fetched(struct tcp_remote_loop *loop, struct tcp_remote_peer *peer)
{
    pthread_mutex_lock(&loop->lock);
    peer->fetched_next = loop->fetched;
    loop->fetched = peer;
    pthread_mutex_unlock(&loop->lock);
    tcp_remote_loop_wake(loop);
}

/* ---- lists ---- */

static void loop_link(struct tcp_remote_loop *loop, struct tcp_remote_peer *peer)
{
    peer->prev = NULL;
    peer->next = loop->peers;
    if (loop->peers != NULL) {
        loop->peers->prev = peer;
    }
    loop->peers = peer;
    loop->peer_count++;
}

static void loop_unlink(struct tcp_remote_loop *loop, struct tcp_remote_peer *peer)
{
    if (peer->prev != NULL) {
        peer->prev->next = peer->next;
    } else {
        loop->peers = peer->next;
    }
    if (peer->next != NULL) {
        peer->next->prev = peer->prev;
    }
    loop->peer_count--;
}

static void loop_set_ready(struct tcp_remote_loop *loop, struct tcp_remote_peer *peer)
{
    if (peer->is_ready) {
        return;
    }
    peer->is_ready = true;
    peer->ready_prev = NULL;
    peer->ready_next = loop->ready;
    if (loop->ready != NULL) {
        loop->ready->ready_prev = peer;
    } else {
        loop->ready_last = peer;
    }
    loop->ready = peer;
}

static void loop_clear_ready(struct tcp_remote_loop *loop, struct tcp_remote_peer *peer)
{
    if (!peer->is_ready) {
        return;
    }
    peer->is_ready = false;
    if (peer->ready_prev != NULL) {
        peer->ready_prev->ready_next = peer->ready_next;
    } else {
        loop->ready = peer->ready_next;
    }
    if (peer->ready_next != NULL) {
        peer->ready_next->ready_prev = peer->ready_prev;
    } else {
        loop->ready_last = peer->ready_prev;
    }
}

/* ---- connections ---- */

static void loop_close(struct tcp_remote_loop *loop, struct tcp_remote_peer *peer)
{
    loop_clear_ready(loop, peer);
    loop_unlink(loop, peer);
    if (peer->events != 0) {
        /* close() alone ends nothing while a child of the engine is between fork() and exec() */
        (void)epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, peer->fd, NULL);
        peer->events = 0;
    }
    if (peer->fetching) {
        tcp_remote_peer_abandon(peer);
        return;
    }
    tcp_remote_peer_destroy(peer);
    tcp_remote_server_gone(loop->server);
}

/* Gives a connection that moves much to a thread for such. @return false: it stays. */
static bool loop_pass_on(struct tcp_remote_loop *loop, struct tcp_remote_peer *peer)
{
    struct tcp_remote_loop *other;

    if (!tcp_remote_peer_is_bulk(peer)) {
        return false;
    }
    other = tcp_remote_server_bulk_loop(loop->server, loop->index);
    if (other == NULL) {
        return false;
    }
    loop_clear_ready(loop, peer);
    loop_unlink(loop, peer);
    if (peer->events != 0) {
        (void)epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, peer->fd, NULL);
        peer->events = 0;
    }
    tcp_remote_loop_hand_over(other, peer);
    return true;
}

static int loop_watch(struct tcp_remote_loop *loop, struct tcp_remote_peer *peer, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = peer};
    int op = peer->events == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;

    if (peer->events == events) {
        return 0;
    }
    if (epoll_ctl(loop->epoll_fd, op, peer->fd, &event) < 0) {
        return -errno;
    }
    peer->events = events;
    return 0;
}

static void loop_run(struct tcp_remote_loop *loop, struct tcp_remote_peer *peer, size_t budget)
{
    int r = 0;

    loop_clear_ready(loop, peer);
    switch (tcp_remote_peer_run(peer, budget)) {
    case TCP_REMOTE_STEP_READ:
        r = loop_watch(loop, peer, EPOLLIN);
        break;
    case TCP_REMOTE_STEP_WRITE:
        /* not EPOLLIN: a client that sends on without reading must not fill our memory */
        r = loop_watch(loop, peer, EPOLLOUT);
        break;
    case TCP_REMOTE_STEP_PARK:
        /* only the end of the connection is told, and once */
        r = loop_watch(loop, peer, EPOLLONESHOT);
        break;
    case TCP_REMOTE_STEP_YIELD:
        if (!loop_pass_on(loop, peer)) {
            loop_set_ready(loop, peer);
        }
        break;
    default:
        r = -EPIPE;
        break;
    }
    if (r < 0) {
        loop_close(loop, peer);
    }
}

static void loop_take_fetched(struct tcp_remote_loop *loop, struct tcp_remote_peer *peer, bool run)
{
    while (peer != NULL) {
        struct tcp_remote_peer *next = peer->fetched_next;

        peer->fetching = false;
        if (peer->abandoned) {
            tcp_remote_peer_destroy(peer);
            tcp_remote_server_gone(loop->server);
        } else if (run) {
            peer->moved_ms = loop->now_ms;
            loop_run(loop, peer, TCP_REMOTE_TURN_SMALL);
        }
        peer = next;
    }
}

/* After the events of a turn: one of them may be of a peer that is closed here. */
static void loop_run_fetched(struct tcp_remote_loop *loop)
{
    struct tcp_remote_peer *fetched;

    if (!loop->woken) {
        return;
    }
    loop->woken = false;
    pthread_mutex_lock(&loop->lock);
    fetched = loop->fetched;
    loop->fetched = NULL;
    pthread_mutex_unlock(&loop->lock);
    loop_take_fetched(loop, fetched, true);
}

static void loop_take_handed(struct tcp_remote_loop *loop)
{
    struct tcp_remote_peer *peer;
    uint64_t ignored;
    ssize_t n = read(loop->wake_fd, &ignored, sizeof(ignored));

    (void)n;
    pthread_mutex_lock(&loop->lock);
    peer = loop->handed;
    loop->handed = NULL;
    pthread_mutex_unlock(&loop->lock);
    loop->woken = true;
    while (peer != NULL) {
        struct tcp_remote_peer *next = peer->next;

        loop_link(loop, peer);
        peer->moved_ms = loop->now_ms;
        loop_run(loop, peer, TCP_REMOTE_TURN_SMALL);
        peer = next;
    }
}

/* One per turn of the loop: small requests of others wait for one transfer at most. */
static void loop_run_ready(struct tcp_remote_loop *loop)
{
    if (loop->ready_last != NULL) {
        loop_run(loop, loop->ready_last, TCP_REMOTE_TURN_BULK);
    }
}

static void loop_run_all(struct tcp_remote_loop *loop)
{
    struct tcp_remote_peer *next;

    for (struct tcp_remote_peer *peer = loop->peers; peer != NULL; peer = next) {
        next = peer->next;
        loop_run(loop, peer, TCP_REMOTE_TURN_SMALL);
    }
}

/* ---- time ---- */

static uint64_t loop_period(const struct tcp_remote_options *options)
{
    uint64_t least = options->stall_timeout_ms < options->send_timeout_ms
                         ? options->stall_timeout_ms
                         : options->send_timeout_ms;

    if (options->idle_timeout_ms > 0 && options->idle_timeout_ms < least) {
        least = options->idle_timeout_ms;
    }
    least /= 4;
    return least < 10 ? 10 : least > 1000 ? 1000 : least;
}

static void loop_scan(struct tcp_remote_loop *loop)
{
    struct tcp_remote_peer *next;

    if (loop->now_ms < loop->scan_ms) {
        return;
    }
    loop->scan_ms = loop->now_ms + loop_period(loop->options);
    for (struct tcp_remote_peer *peer = loop->peers; peer != NULL; peer = next) {
        next = peer->next;
        if (tcp_remote_peer_is_late(peer)) {
            loop_close(loop, peer);
        }
    }
}

static int loop_timeout(const struct tcp_remote_loop *loop)
{
    int timeout = loop->index == 0 ? tcp_remote_server_tend_in(loop->server, loop->now_ms) : -1;

    if (loop->ready != NULL) {
        return 0;
    }
    if (loop->peer_count > 0) {
        int scan = loop->scan_ms > loop->now_ms ? (int)(loop->scan_ms - loop->now_ms) : 0;

        timeout = timeout < 0 || scan < timeout ? scan : timeout;
    }
    return timeout;
}

static void loop_peer_event(struct tcp_remote_loop *loop, struct tcp_remote_peer *peer,
                            uint32_t events)
{
    if (peer->fetching) {
        if ((events & (EPOLLHUP | EPOLLERR)) != 0) {
            loop_close(loop, peer);
        }
    } else if (peer->is_ready) {
        return;
    } else if (tcp_remote_peer_is_bulk(peer)) {
        if (!loop_pass_on(loop, peer)) {
            loop_set_ready(loop, peer);
        }
    } else {
        loop_run(loop, peer, TCP_REMOTE_TURN_SMALL);
    }
}

static void loop_event(struct tcp_remote_loop *loop, void *source, uint32_t happened)
{
    switch (*(const enum tcp_remote_source *)source) {
    case TCP_REMOTE_SOURCE_WAKE:
        loop_take_handed(loop);
        break;
    case TCP_REMOTE_SOURCE_LISTENER:
        tcp_remote_server_accept(loop->server, source);
        break;
    case TCP_REMOTE_SOURCE_PEER:
        loop_peer_event(loop, source, happened);
        break;
    default:
        break;
    }
}

void *tcp_remote_loop_main(void *arg)
{
    struct tcp_remote_loop *loop = arg;
    struct epoll_event events[EVENTS_PER_TURN];
    bool drained = false;

    loop->now_ms = loop->host->now_ms(loop->host);
    while (!tcp_remote_server_stopping(loop->server)) {
        int n = epoll_wait(loop->epoll_fd, events, EVENTS_PER_TURN, loop_timeout(loop));

        loop->now_ms = loop->host->now_ms(loop->host);
        for (int i = 0; i < n; i++) {
            loop_event(loop, events[i].data.ptr, events[i].events);
        }
        loop_run_fetched(loop);
        loop_run_ready(loop);
        if (!drained && tcp_remote_server_draining(loop->server)) {
            drained = true;
            loop_run_all(loop);
        }
        if (loop->index == 0) {
            tcp_remote_server_tend(loop->server, loop->now_ms);
        }
        loop_scan(loop);
    }
    return NULL;
}

void tcp_remote_loop_fini(struct tcp_remote_loop *loop)
{
    struct tcp_remote_peer *next;

    for (struct tcp_remote_peer *peer = loop->handed; peer != NULL; peer = next) {
        next = peer->next;
        tcp_remote_peer_destroy(peer);
        tcp_remote_server_gone(loop->server);
    }
    loop->handed = NULL;
    loop_take_fetched(loop, loop->fetched, false);
    loop->fetched = NULL;
    while (loop->peers != NULL) {
        loop_close(loop, loop->peers);
    }
    if (loop->wake_fd >= 0) {
        close(loop->wake_fd);
        loop->wake_fd = -1;
    }
    if (loop->epoll_fd >= 0) {
        close(loop->epoll_fd);
        loop->epoll_fd = -1;
    }
    free(loop->scratch);
    loop->scratch = NULL;
}
