/* SPDX-License-Identifier: Apache-2.0 */
#include "tcp_remote_client.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "cond.h"
#include "setting.h"
#include "tcp_remote_pool.h"

/* Copies of keys and runs; the payload is never ours. */
#define MEMORY_MAX ((size_t)256 * 1024 * 1024)

static int client_alloc(struct tcp_remote_client *client)
{
    size_t bytes = client->options.connections * sizeof(*client->conns);

    /* the hash states in it want their alignment */
    client->conns = aligned_alloc(_Alignof(struct tcp_remote_conn), bytes);
    client->scratch = malloc(TCP_REMOTE_POOL_SCRATCH);
    if (client->conns == NULL || client->scratch == NULL) {
        return -ENOMEM;
    }
    memset(client->conns, 0, bytes);
    for (uint32_t i = 0; i < client->options.connections; i++) {
        client->conns[i].client = client;
        client->conns[i].fd = -1;
    }
    return 0;
}

int tcp_remote_client_create(const struct kvl_host *host, const struct tcp_remote_options *options,
                             struct tcp_remote_client **client_out)
{
    struct tcp_remote_client *client = calloc(1, sizeof(*client));

    if (client == NULL) {
        return -ENOMEM;
    }
    client->host = host;
    client->options = *options;
    client->epoll_fd = -1;
    client->wake_fd = -1;
    client->resolve = true;
    client->next_deadline_ms = KVL_NEVER;
    client->backoff_ms = options->backoff_min_ms;
    pthread_mutex_init(&client->lock, NULL);
    (void)kvl_monotonic_cond_init(&client->changed);
    if (client_alloc(client) < 0) {
        tcp_remote_client_destroy(client);
        return -ENOMEM;
    }
    *client_out = client;
    return 0;
}

void tcp_remote_client_destroy(struct tcp_remote_client *client)
{
    if (client == NULL) {
        return;
    }
    if (client->wake_fd >= 0) {
        close(client->wake_fd);
    }
    if (client->epoll_fd >= 0) {
        close(client->epoll_fd);
    }
    pthread_cond_destroy(&client->changed);
    pthread_mutex_destroy(&client->lock);
    free(client->conns);
    free(client->scratch);
    tcp_remote_tls_destroy(client->tls);
    free(client);
}

int tcp_remote_client_start(struct tcp_remote_client *client, struct kvl_err *err)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = client};
    int r = 0;

    if (client->options.url_is_tls && client->tls == NULL) {
        r = tcp_remote_tls_create(false, &client->options.tls, &client->tls, err);
    }
    if (r < 0) {
        return r;
    }
    client->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    client->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (client->epoll_fd < 0 || client->wake_fd < 0 ||
        epoll_ctl(client->epoll_fd, EPOLL_CTL_ADD, client->wake_fd, &event) < 0) {
        r = -errno;
        return kvl_fail(err, r, "tcp_remote: cannot set up the I/O thread: %s", strerror(-r));
    }
    atomic_store(&client->started, true);
    r = client->host->thread_create(client->host, "kvl-tcp-cli", tcp_remote_pool_main, client,
                                    &client->thread);
    if (r < 0) {
        atomic_store(&client->started, false);
        return kvl_fail(err, r, "tcp_remote: cannot start the I/O thread: %s", strerror(-r));
    }
    client->running = true;
    return 0;
}

int tcp_remote_client_reload(struct tcp_remote_client *client, struct kvl_err *err)
{
    struct tcp_remote_options fresh;
    int r = tcp_remote_options_read(client->host, &fresh, err);

    if (r == 0) {
        tcp_remote_options_apply(&client->options, &fresh);
        tcp_remote_pool_wake(client);
    }
    return r;
}

void tcp_remote_client_quiesce(struct tcp_remote_client *client)
{
    pthread_mutex_lock(&client->lock);
    client->closed = true;
    pthread_mutex_unlock(&client->lock);
}

int tcp_remote_client_drain(struct tcp_remote_client *client, uint64_t deadline_ms)
{
    struct timespec until = {.tv_sec = (time_t)(deadline_ms / 1000),
                             .tv_nsec = (long)(deadline_ms % 1000) * 1000000};
    int r = 0;

    pthread_mutex_lock(&client->lock);
    while (client->in_flight > 0 && r == 0) {
        if (deadline_ms == KVL_NEVER) {
            r = pthread_cond_wait(&client->changed, &client->lock);
        } else {
            r = pthread_cond_timedwait(&client->changed, &client->lock, &until);
        }
    }
    r = client->in_flight > 0 ? -ETIMEDOUT : 0;
    pthread_mutex_unlock(&client->lock);
    return r;
}

void tcp_remote_client_stop(struct tcp_remote_client *client)
{
    tcp_remote_client_quiesce(client);
    if (!client->running) {
        return;
    }
    client->running = false;
    atomic_store(&client->stopping, true);
    tcp_remote_pool_wake(client);
    (void)client->host->thread_join(client->host, client->thread);
    atomic_store(&client->started, false);
}

/* ---- submit ---- */

/* Takes one of the places for batches. */
static int client_enter(struct tcp_remote_client *client)
{
    int r = 0;

    if (!atomic_load(&client->started) || atomic_load(&client->away)) {
        r = -ENOTCONN;
    }
    pthread_mutex_lock(&client->lock);
    if (client->closed) {
        r = -ECANCELED;
    } else if (client->in_flight >= client->options.max_in_flight || client->memory > MEMORY_MAX) {
        r = r < 0 ? r : -EAGAIN;
    }
    if (r == 0) {
        client->in_flight++;
    }
    pthread_mutex_unlock(&client->lock);
    return r;
}

static void client_leave(struct tcp_remote_client *client)
{
    pthread_mutex_lock(&client->lock);
    client->in_flight--;
    if (client->in_flight == 0) {
        pthread_cond_broadcast(&client->changed);
    }
    pthread_mutex_unlock(&client->lock);
}

static int client_accept(struct tcp_remote_client *client, struct tcp_remote_op *take_op)
{
    bool wake = false;
    int r = -ECANCELED;

    pthread_mutex_lock(&client->lock);
    if (!client->closed) {
        wake = client->inbox == NULL;
        take_op->next = client->inbox;
        client->inbox = take_op;
        take_op->known_next = client->known;
        if (client->known != NULL) {
            client->known->known_prev = take_op;
        }
        client->known = take_op;
        client->memory += take_op->memory;
        r = 0;
    }
    pthread_mutex_unlock(&client->lock);
    if (wake) {
        tcp_remote_pool_wake(client);
    }
    if (r < 0) {
        tcp_remote_op_destroy(take_op);
        client_leave(client);
    }
    return r;
}

static void client_log_long_keys(struct tcp_remote_client *client, const struct kvl_batch *batch)
{
    for (uint32_t i = 0; client->options.checksum && i < batch->count; i++) {
        const struct kvl_key *key = &batch->chunks[i].key;

        if (key->length > KVL_KEY_MAX - TCP_REMOTE_SEAL_TAG_BYTES &&
            !atomic_exchange(&client->long_key_said, true)) {
            kvl_error(client->host->log,
                      "tcp_remote: key '%.*s' has %u bytes, with checksum = yes at most %u fit: "
                      "such chunks are not shared",
                      (int)key->length, key->text, (unsigned)key->length,
                      (unsigned)(KVL_KEY_MAX - TCP_REMOTE_SEAL_TAG_BYTES));
        }
    }
}

int tcp_remote_client_submit(struct tcp_remote_client *client, enum tcp_remote_kind kind,
                             const struct kvl_batch *batch)
{
    static const enum tcp_remote_client_counter counters[] = {
        [TCP_REMOTE_LOOKUP] = TCP_REMOTE_CLIENT_LOOKUPS,
        [TCP_REMOTE_READ] = TCP_REMOTE_CLIENT_READS,
        [TCP_REMOTE_WRITE] = TCP_REMOTE_CLIENT_WRITES,
    };
    struct tcp_remote_op *op = NULL;
    uint32_t count = batch->count;
    int r = client_enter(client);

    if (r < 0) {
        return r;
    }
    r = tcp_remote_op_create(kind, batch, &client->options, client->host->now_ms(client->host),
                             &op);
    if (r < 0) {
        client_leave(client);
        return r;
    }
    client_log_long_keys(client, batch);
    r = client_accept(client, op);
    if (r == 0) {
        tcp_remote_client_count(client, counters[kind], count);
    }
    return r;
}

int tcp_remote_client_submit_single(struct tcp_remote_client *client, enum tcp_remote_kind kind,
                                    uint64_t cookie, uint64_t deadline_ms)
{
    struct tcp_remote_op *op = NULL;
    int r = client_enter(client);

    if (r < 0) {
        return r;
    }
    if (deadline_ms == 0) {
        deadline_ms = client->host->now_ms(client->host) + client->options.request_timeout_ms;
    }
    r = tcp_remote_op_create_single(kind, cookie, deadline_ms, TCP_REMOTE_HEALTH_KEY, &op);
    if (r < 0) {
        client_leave(client);
        return r;
    }
    return client_accept(client, op);
}

void tcp_remote_client_cancel(struct tcp_remote_client *client, uint64_t cookie)
{
    struct tcp_remote_op *op;

    pthread_mutex_lock(&client->lock);
    for (op = client->known; op != NULL && op->cookie != cookie; op = op->known_next) {
    }
    if (op != NULL) {
        atomic_store(&op->cancel, true);
        atomic_store(&client->cancels, true);
    }
    pthread_mutex_unlock(&client->lock);
    if (op != NULL) {
        tcp_remote_pool_wake(client);
    }
}

/* ---- watch ---- */

void tcp_remote_client_count(struct tcp_remote_client *client,
                             enum tcp_remote_client_counter counter, uint64_t amount)
{
    atomic_fetch_add_explicit(&client->counters[counter], amount, memory_order_relaxed);
}

void tcp_remote_client_limits(struct tcp_remote_client *client, struct kvl_limits *limits_out)
{
    limits_out->max_items = KVL_BATCH_MAX;
    limits_out->max_bytes =
        (uint64_t)INT32_MAX - (client->options.checksum ? TCP_REMOTE_SEAL_BYTES : 0);
    limits_out->max_in_flight = client->options.max_in_flight;
    limits_out->caps = KVL_CAP_READ | KVL_CAP_WRITE | KVL_CAP_LOOKUP | KVL_CAP_LIST |
                       KVL_CAP_PROBE | KVL_CAP_CANCEL;
}

void tcp_remote_client_health(struct tcp_remote_client *client, struct kvl_health *health_out)
{
    uint32_t up = atomic_load(&client->up);

    snprintf(health_out->address, sizeof(health_out->address), "%s", client->options.url_text);
    if (!atomic_load(&client->started)) {
        health_out->state = KVL_HEALTH_DOWN;
        snprintf(health_out->text, sizeof(health_out->text), "not running");
    } else if (up > 0) {
        health_out->state = KVL_HEALTH_OK;
        snprintf(health_out->text, sizeof(health_out->text), "%u of %u connections are up",
                 (unsigned)up, (unsigned)client->options.connections);
    } else {
        health_out->state = KVL_HEALTH_DEGRADED;
        snprintf(health_out->text, sizeof(health_out->text), "%s",
                 atomic_load(&client->away) ? "peer is away" : "connecting");
    }
}

void tcp_remote_client_stats(struct tcp_remote_client *client, kvl_stat_fn fn, void *ctx)
{
    static const char *const names[TCP_REMOTE_CLIENT_COUNTERS] = {
        "lookups",         "reads",
        "writes",          "hits",
        "misses",          "unconfirmed_puts",
        "bad_checksums",   "connected",
        "connect_failed",  "connections_lost",
        "retries",         "timeouts",
        "protocol_errors", "bytes_in",
        "bytes_out",
    };
    uint32_t in_flight;

    pthread_mutex_lock(&client->lock);
    in_flight = client->in_flight;
    pthread_mutex_unlock(&client->lock);
    fn(ctx, "connections", atomic_load(&client->up));
    fn(ctx, "batches_in_flight", in_flight);
    for (size_t c = 0; c < TCP_REMOTE_CLIENT_COUNTERS; c++) {
        fn(ctx, names[c], atomic_load_explicit(&client->counters[c], memory_order_relaxed));
    }
}
