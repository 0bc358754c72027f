/* SPDX-License-Identifier: Apache-2.0 */
#include "tcp_remote_server.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "cond.h"
#include "setting.h"
#include "tcp_remote_door.h"
#include "tcp_remote_hold.h"
#include "tcp_remote_resp_peer.h"
#include "tcp_remote_tls.h"

#define ACCEPTS_PER_TURN 64
#define ASKING_LOOPS 2u
#define ACCEPT_PAUSE_MS 100
/* All LIST replies together; one peer asking again and again must not fill memory. */
#define LIST_BYTES_MAX ((size_t)512 * 1024 * 1024)
#define PEERS_REMEMBERED 64u
/* Chunks kept after an EXISTS: so many, and at most this part of the store. */
#define HELD_MAX 4096u
#define HELD_PART 4u

struct tcp_remote_server {
    const struct kvl_host *host; /* borrowed */
    struct tcp_remote_options options;
    struct tcp_remote_loop *loops; /* options.io_threads of them */
    struct tcp_remote_tls *tls; /* NULL = no listener wants it */
    struct tcp_remote_hold *hold; /* NULL = RESP is off, or holds nothing */

    /* loop 0 alone, once the threads run */
    struct tcp_remote_doors doors;
    int reserve_fd; /* given up for a moment when descriptors run out */
    uint64_t paused_until_ms; /* 0 = accepting */
    uint32_t next_loop;
    _Atomic uint32_t next_bulk; /* any loop */

    atomic_bool quiesced;
    atomic_bool draining;
    atomic_bool stopping;
    atomic_bool listening;
    _Atomic uint64_t connections;
    _Atomic uint64_t accepted;
    _Atomic uint64_t refused;
    _Atomic uint64_t denied;
    _Atomic size_t list_bytes;

    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t changed; /* a connection went, or the listeners */
    char address[KVL_SOCK_TEXT_MAX + 8];
    char others[160]; /* addresses of the other protocols, a comma before each */
    struct in6_addr seen[PEERS_REMEMBERED];
    uint32_t seen_count;
};

const struct kvl_host *tcp_remote_server_host(const struct tcp_remote_server *server)
{
    return server->host;
}

const struct tcp_remote_options *tcp_remote_server_options(const struct tcp_remote_server *server)
{
    return &server->options;
}

bool tcp_remote_server_stopping(const struct tcp_remote_server *server)
{
    return atomic_load(&server->stopping);
}

bool tcp_remote_server_draining(const struct tcp_remote_server *server)
{
    return atomic_load_explicit(&server->draining, memory_order_acquire);
}

static int server_make_hold(const struct kvl_host *host, const struct tcp_remote_options *options,
                            struct tcp_remote_hold **hold_out)
{
    if (options->resp_listen_count == 0 || options->resp_hold_ms == 0) {
        return 0;
    }
    return tcp_remote_hold_create(host, HELD_MAX, host->store_max_bytes(host) / HELD_PART,
                                  hold_out);
}

int tcp_remote_server_create(const struct kvl_host *host, const struct tcp_remote_options *options,
                             struct tcp_remote_server **server_out)
{
    struct tcp_remote_server *server = calloc(1, sizeof(*server));

    if (server == NULL) {
        return -ENOMEM;
    }
    server->loops = calloc(options->io_threads, sizeof(*server->loops));
    if (server->loops == NULL || server_make_hold(host, options, &server->hold) < 0) {
        free(server->loops);
        free(server);
        return -ENOMEM;
    }
    server->host = host;
    server->options = *options;
    server->reserve_fd = -1;
    for (uint32_t i = 0; i < options->io_threads; i++) {
        server->loops[i].epoll_fd = -1;
        server->loops[i].wake_fd = -1;
        pthread_mutex_init(&server->loops[i].lock, NULL);
    }
    pthread_mutex_init(&server->lock, NULL);
    (void)kvl_monotonic_cond_init(&server->changed);
    *server_out = server;
    return 0;
}

/* ---- listening ---- */

static void server_note_address(struct tcp_remote_server *server)
{
    static const char *const names[TCP_REMOTE_PROTOCOLS] = {"", " for RESP", " for TLS"};
    char text[KVL_SOCK_TEXT_MAX + 8];

    pthread_mutex_lock(&server->lock);
    tcp_remote_doors_print(&server->doors, TCP_REMOTE_LM, server->address, sizeof(server->address));
    for (int protocol = TCP_REMOTE_RESP; protocol < TCP_REMOTE_PROTOCOLS; protocol++) {
        size_t length = strlen(server->others);

        tcp_remote_doors_print(&server->doors, (enum tcp_remote_protocol)protocol, text,
                               sizeof(text));
        if (text[0] != '\0') {
            snprintf(server->others + length, sizeof(server->others) - length, ", %s", text);
        }
    }
    pthread_mutex_unlock(&server->lock);
    for (size_t i = 0; i < server->doors.count; i++) {
        kvl_sock_print(&server->doors.doors[i].addr, text, sizeof(text));
        kvl_info(server->host->log, "tcp_remote: listening on '%s'%s", text,
                 names[server->doors.doors[i].protocol]);
    }
}

static int server_watch_doors(struct tcp_remote_server *server, bool on)
{
    return tcp_remote_doors_watch(&server->doors, server->loops[0].epoll_fd, on);
}

static void server_close_doors(struct tcp_remote_server *server)
{
    (void)server_watch_doors(server, false); /* as with connections: a child may hold them */
    tcp_remote_doors_close(&server->doors);
    pthread_mutex_lock(&server->lock);
    atomic_store(&server->listening, false);
    pthread_cond_broadcast(&server->changed);
    pthread_mutex_unlock(&server->lock);
}

/* ---- life ---- */

static int server_start_threads(struct tcp_remote_server *server, struct kvl_err *err)
{
    char name[16];
    int r;

    for (uint32_t i = 0; i < server->options.io_threads; i++) {
        r = tcp_remote_loop_init(&server->loops[i], server, i);
        if (r < 0) {
            return kvl_fail(err, r, "tcp_remote: cannot set up an I/O thread: %s", strerror(-r));
        }
    }
    r = server_watch_doors(server, true);
    if (r < 0) {
        return kvl_fail(err, r, "tcp_remote: cannot watch a listener: %s", strerror(-r));
    }
    for (uint32_t i = 0; i < server->options.io_threads; i++) {
        snprintf(name, sizeof(name), "kvl-tcp-srv-%u", (unsigned)(i % 100));
        r = server->host->thread_create(server->host, name, tcp_remote_loop_main, &server->loops[i],
                                        &server->loops[i].thread);
        if (r < 0) {
            return kvl_fail(err, r, "tcp_remote: cannot start an I/O thread: %s", strerror(-r));
        }
        server->loops[i].running = true;
    }
    return 0;
}

static int server_load_tls(struct tcp_remote_server *server, struct kvl_err *err)
{
    if (server->options.tls_listen_count == 0 || server->tls != NULL) {
        return 0;
    }
    return tcp_remote_tls_create(true, &server->options.tls, &server->tls, err);
}

int tcp_remote_server_start(struct tcp_remote_server *server, struct kvl_err *err)
{
    int r = server_load_tls(server, err);

    if (r == 0) {
        r = tcp_remote_doors_open(&server->doors, &server->options, err);
    }
    if (r == 0) {
        server->reserve_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
        atomic_store(&server->listening, true);
        server_note_address(server);
        r = server_start_threads(server, err);
    }
    if (r < 0) {
        tcp_remote_server_stop(server);
    }
    return r;
}

static void server_wake(struct tcp_remote_server *server)
{
    for (uint32_t i = 0; i < server->options.io_threads; i++) {
        if (server->loops[i].running) {
            tcp_remote_loop_wake(&server->loops[i]);
        }
    }
}

int tcp_remote_server_reload(struct tcp_remote_server *server, struct kvl_err *err)
{
    struct tcp_remote_options fresh;
    int r = tcp_remote_options_read(server->host, &fresh, err);

    if (r == 0) {
        tcp_remote_options_apply(&server->options, &fresh);
        server_wake(server); /* a shorter limit may have passed already */
    }
    return r;
}

void tcp_remote_server_quiesce(struct tcp_remote_server *server)
{
    atomic_store(&server->quiesced, true);
    server_wake(server);
}

static bool server_is_empty(struct tcp_remote_server *server)
{
    return atomic_load(&server->connections) == 0 && !atomic_load(&server->listening);
}

int tcp_remote_server_drain(struct tcp_remote_server *server, uint64_t deadline_ms)
{
    struct timespec until = {.tv_sec = (time_t)(deadline_ms / 1000),
                             .tv_nsec = (long)(deadline_ms % 1000) * 1000000};
    bool empty;
    int r = 0;

    if (!server->loops[0].running) {
        return 0;
    }
    atomic_store(&server->draining, true);
    tcp_remote_server_quiesce(server);
    pthread_mutex_lock(&server->lock);
    while (!server_is_empty(server) && r == 0) {
        if (deadline_ms == KVL_NEVER) {
            r = pthread_cond_wait(&server->changed, &server->lock);
        } else {
            r = pthread_cond_timedwait(&server->changed, &server->lock, &until);
        }
    }
    empty = server_is_empty(server);
    pthread_mutex_unlock(&server->lock);
    return empty ? 0 : -ETIMEDOUT;
}

void tcp_remote_server_stop(struct tcp_remote_server *server)
{
    atomic_store(&server->stopping, true);
    server_wake(server);
    for (uint32_t i = 0; i < server->options.io_threads; i++) {
        if (server->loops[i].running) {
            server->loops[i].running = false;
            (void)server->host->thread_join(server->host, server->loops[i].thread);
        }
    }
    for (uint32_t i = 0; i < server->options.io_threads; i++) {
        tcp_remote_loop_fini(&server->loops[i]);
    }
    server_close_doors(server);
    (void)tcp_remote_server_drop_holds(server);
    if (server->reserve_fd >= 0) {
        close(server->reserve_fd);
        server->reserve_fd = -1;
    }
}

void tcp_remote_server_destroy(struct tcp_remote_server *server)
{
    if (server == NULL) {
        return;
    }
    for (uint32_t i = 0; i < server->options.io_threads; i++) {
        pthread_mutex_destroy(&server->loops[i].lock);
    }
    pthread_cond_destroy(&server->changed);
    pthread_mutex_destroy(&server->lock);
    tcp_remote_hold_destroy(server->hold);
    tcp_remote_tls_destroy(server->tls);
    free(server->loops);
    free(server);
}

/* ---- for the loops ---- */

void tcp_remote_server_gone(struct tcp_remote_server *server)
{
    if (atomic_fetch_sub(&server->connections, 1) == 1) {
        pthread_mutex_lock(&server->lock);
        pthread_cond_broadcast(&server->changed);
        pthread_mutex_unlock(&server->lock);
    }
}

static int server_set_protocol(const struct tcp_remote_server *server,
                               enum tcp_remote_protocol protocol, struct tcp_remote_peer *peer)
{
    switch (protocol) {
    case TCP_REMOTE_RESP:
        return tcp_remote_resp_peer_attach(peer);
    case TCP_REMOTE_LMS:
        return tcp_remote_session_create(server->tls, peer->fd, NULL, &peer->tls);
    default:
        return 0;
    }
}

static struct tcp_remote_peer *server_make_peer(const struct tcp_remote_server *server,
                                                const struct tcp_remote_door *door, int fd,
                                                const struct kvl_sock_addr *addr)
{
    struct tcp_remote_peer *peer = tcp_remote_peer_create(fd, addr);

    if (peer != NULL && server_set_protocol(server, door->protocol, peer) < 0) {
        peer->fd = -1; /* the caller's */
        tcp_remote_peer_destroy(peer);
        peer = NULL;
    }
    return peer;
}

/* Threads for connections that only ask; all of them where there are few. */
static uint32_t server_asking_loops(const struct tcp_remote_server *server)
{
    uint32_t all = server->options.io_threads;

    return all >= 2 * ASKING_LOOPS ? ASKING_LOOPS : all;
}

struct tcp_remote_loop *tcp_remote_server_bulk_loop(struct tcp_remote_server *server,
                                                    uint32_t index)
{
    uint32_t asking = server_asking_loops(server);
    uint32_t others = server->options.io_threads - asking;

    if (index >= asking || others == 0) {
        return NULL;
    }
    return &server->loops[asking + atomic_fetch_add(&server->next_bulk, 1) % others];
}

static void server_take(struct tcp_remote_server *server, const struct tcp_remote_door *door,
                        int fd, const struct kvl_sock_addr *addr)
{
    struct tcp_remote_peer *peer;

    atomic_fetch_add(&server->accepted, 1);
    if (atomic_load(&server->connections) >= server->options.max_connections) {
        if (atomic_fetch_add(&server->refused, 1) == 0) {
            kvl_warn(server->host->log,
                     "tcp_remote: max_connections of %u reached, more are closed at once",
                     (unsigned)server->options.max_connections);
        }
        close(fd);
        return;
    }
    peer = server_make_peer(server, door, fd, addr);
    if (peer == NULL) {
        atomic_fetch_add(&server->refused, 1);
        close(fd);
        return;
    }
    atomic_fetch_add(&server->connections, 1);
    tcp_remote_loop_hand_over(&server->loops[server->next_loop], peer);
    server->next_loop = (server->next_loop + 1) % server_asking_loops(server);
}

/* What becomes of an accepted socket; false closes it. */
static bool server_admits(struct tcp_remote_server *server, const struct tcp_remote_door *door,
                          int fd, const struct kvl_sock_addr *addr)
{
    char text[KVL_SOCK_TEXT_MAX];
    bool is_unix = kvl_sock_is_unix(&door->addr);

    if (tcp_remote_door_admits(door, &server->options.access, fd, addr)) {
        return true;
    }
    atomic_fetch_add(&server->denied, 1);
    if (tcp_remote_server_first(server, addr)) {
        kvl_sock_print(is_unix ? &door->addr : addr, text, sizeof(text));
        kvl_warn(server->host->log,
                 is_unix ? "tcp_remote: a user that allow_uid does not name came to '%s', closed; "
                           "counted from now on without a line"
                         : "tcp_remote: '%s' may not connect, closed; counted from now on without "
                           "a line",
                 text);
    }
    return false;
}

/* Out of descriptors the backlog stays readable for ever: close one peer, then look away. */
static void server_out_of_descriptors(struct tcp_remote_server *server, int listen_fd)
{
    int fd;

    if (server->reserve_fd >= 0) {
        close(server->reserve_fd);
        fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0) {
            close(fd);
        }
        server->reserve_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    }
    if (atomic_fetch_add(&server->refused, 1) == 0) {
        kvl_warn(server->host->log, "tcp_remote: out of descriptors or memory, peers are refused");
    }
    (void)server_watch_doors(server, false);
    server->paused_until_ms = server->loops[0].now_ms + ACCEPT_PAUSE_MS;
}

void tcp_remote_server_accept(struct tcp_remote_server *server, void *source)
{
    const struct tcp_remote_door *door = source;

    for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
        struct kvl_sock_addr addr = {.length = (socklen_t)sizeof(addr.sa)};
        int fd;

        if (door->fd < 0 || server->paused_until_ms > 0 || atomic_load(&server->quiesced)) {
            return;
        }
        fd = accept4(door->fd, (struct sockaddr *)&addr.sa, &addr.length,
                     SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            if (server_admits(server, door, fd, &addr)) {
                server_take(server, door, fd, &addr);
            } else {
                close(fd);
            }
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            server_out_of_descriptors(server, door->fd);
        } else if (errno == EAGAIN) {
            return;
        } /* else: that peer is gone already, the next one may not be */
    }
}

void tcp_remote_server_tend(struct tcp_remote_server *server, uint64_t now_ms)
{
    if (server->hold != NULL) {
        (void)tcp_remote_hold_expire(server->hold, now_ms);
    }
    if (atomic_load(&server->quiesced)) {
        if (atomic_load(&server->listening)) {
            server_close_doors(server);
        }
        return;
    }
    if (server->paused_until_ms > 0 && now_ms >= server->paused_until_ms) {
        server->paused_until_ms = 0;
        if (server_watch_doors(server, true) < 0) {
            (void)server_watch_doors(server, false);
            server->paused_until_ms = now_ms + ACCEPT_PAUSE_MS;
        }
    }
}

int tcp_remote_server_tend_in(const struct tcp_remote_server *server, uint64_t now_ms)
{
    uint64_t next = server->paused_until_ms == 0 ? KVL_NEVER : server->paused_until_ms;
    uint64_t held = server->hold == NULL ? KVL_NEVER : tcp_remote_hold_next(server->hold);

    next = held < next ? held : next;
    if (next == KVL_NEVER) {
        return -1;
    }
    next = next > now_ms ? next - now_ms : 0;
    return next < INT32_MAX ? (int)next : INT32_MAX;
}

void tcp_remote_server_hold(struct tcp_remote_server *server, const struct kvl_key *key,
                            const struct kvl_view *take_view, uint64_t now_ms)
{
    if (server->hold == NULL) {
        (void)server->host->store_release(server->host, take_view->lease);
        return;
    }
    if (tcp_remote_hold_keep(server->hold, key, take_view, now_ms + server->options.resp_hold_ms)) {
        tcp_remote_loop_wake(&server->loops[0]); /* may be waiting without a limit */
    }
}

void tcp_remote_server_forget(struct tcp_remote_server *server, const struct kvl_key *key)
{
    if (server->hold != NULL) {
        tcp_remote_hold_forget(server->hold, key);
    }
}

bool tcp_remote_server_drop_holds(struct tcp_remote_server *server)
{
    return server->hold != NULL && tcp_remote_hold_expire(server->hold, KVL_NEVER) > 0;
}

bool tcp_remote_server_first(struct tcp_remote_server *server, const struct kvl_sock_addr *addr)
{
    struct in6_addr host = {0};
    struct sockaddr_in6 v6;
    struct sockaddr_in v4;
    bool first = true;

    if (addr->sa.ss_family == AF_INET) {
        memcpy(&v4, &addr->sa, sizeof(v4));
        memcpy(&host, &v4.sin_addr, sizeof(v4.sin_addr));
    } else if (addr->sa.ss_family == AF_INET6) {
        memcpy(&v6, &addr->sa, sizeof(v6));
        host = v6.sin6_addr;
    }
    pthread_mutex_lock(&server->lock);
    for (uint32_t i = 0; i < server->seen_count && i < PEERS_REMEMBERED && first; i++) {
        first = memcmp(&server->seen[i], &host, sizeof(host)) != 0;
    }
    if (first) {
        server->seen[server->seen_count % PEERS_REMEMBERED] = host;
        server->seen_count++;
    }
    pthread_mutex_unlock(&server->lock);
    return first;
}

bool tcp_remote_server_take_list(struct tcp_remote_server *server, size_t bytes)
{
    if (atomic_fetch_add(&server->list_bytes, bytes) + bytes <= LIST_BYTES_MAX) {
        return true;
    }
    tcp_remote_server_give_list(server, bytes);
    return false;
}

void tcp_remote_server_give_list(struct tcp_remote_server *server, size_t bytes)
{
    atomic_fetch_sub(&server->list_bytes, bytes);
}

/* ---- watch ---- */

void tcp_remote_server_health(struct tcp_remote_server *server, struct kvl_health *health_out)
{
    bool listening = atomic_load(&server->listening);

    health_out->state = listening ? KVL_HEALTH_OK : KVL_HEALTH_DOWN;
    pthread_mutex_lock(&server->lock);
    snprintf(health_out->address, sizeof(health_out->address), "%s", server->address);
    if (listening) {
        snprintf(health_out->text, sizeof(health_out->text), "serving %" PRIu64 " connections%s",
                 atomic_load(&server->connections), server->others);
    } else {
        snprintf(health_out->text, sizeof(health_out->text), "not listening");
    }
    pthread_mutex_unlock(&server->lock);
}

void tcp_remote_server_stats(struct tcp_remote_server *server, kvl_stat_fn fn, void *ctx)
{
    static const char *const names[TCP_REMOTE_COUNTERS] = {
        "requests_put",     "requests_get",    "requests_exist",
        "requests_list",    "requests_health", "hits",
        "misses",           "stored",          "puts_refused",
        "puts_truncated",   "protocol_errors", "slow_readers_closed",
        "stalled_closed",   "idle_closed",     "bytes_in",
        "bytes_out",        "resp_set",        "resp_get",
        "resp_exists",      "resp_other",      "resp_errors",
        "resp_auth_failed", "tls_failed",
    };
    uint64_t held_bytes = 0;
    uint32_t held = 0;

    fn(ctx, "connections", atomic_load(&server->connections));
    fn(ctx, "connections_accepted", atomic_load(&server->accepted));
    fn(ctx, "connections_refused", atomic_load(&server->refused));
    fn(ctx, "connections_denied", atomic_load(&server->denied));
    for (size_t c = 0; c < TCP_REMOTE_COUNTERS; c++) {
        uint64_t sum = 0;

        for (uint32_t i = 0; i < server->options.io_threads; i++) {
            sum += atomic_load_explicit(&server->loops[i].counters[c], memory_order_relaxed);
        }
        fn(ctx, names[c], sum);
    }
    if (server->options.resp_listen_count > 0) {
        if (server->hold != NULL) {
            tcp_remote_hold_stats(server->hold, &held, &held_bytes);
        }
        fn(ctx, "resp_held", held);
        fn(ctx, "resp_held_bytes", held_bytes);
    }
}
