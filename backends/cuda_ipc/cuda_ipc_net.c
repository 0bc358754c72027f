/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda_ipc_net.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "cond.h"
#include "cuda_ipc_net_parts.h"
#include "setting.h"

#define EVENTS_PER_TURN 64
#define TAG_WAKE UINT64_MAX
#define TAG_LISTEN (UINT64_MAX - 2)
#define TAG_WATCHED (UINT64_MAX - 4)
#define REST_MS 100u

uint64_t cuda_ipc_net_now(const struct cuda_ipc_net *net)
{
    return net->env.host->now_ms(net->env.host);
}

void cuda_ipc_net_count(struct cuda_ipc_net *net, enum cuda_ipc_net_counter counter, int64_t by)
{
    /* one writer: a plain sum, no locked instruction */
    const uint64_t sum =
        atomic_load_explicit(&net->counters[counter], memory_order_relaxed) + (uint64_t)by;

    atomic_store_explicit(&net->counters[counter], sum, memory_order_relaxed);
}

uint64_t cuda_ipc_net_tag(bool is_link, uint32_t index, uint32_t generation)
{
    return (uint64_t)generation << 32 | (uint64_t)index << 2 | (uint64_t)is_link << 1;
}

/* ---- from other threads ---- */

static void net_wake(struct cuda_ipc_net *net)
{
    const uint64_t one = 1;
    const ssize_t n = write(net->wake_fd, &one, sizeof(one));

    (void)n; /* a full counter wakes too */
}

/* With the lock held. @return whether the thread has to be woken. */
static bool net_notice(struct cuda_ipc_net *net)
{
    const bool sleeps = !net->is_awake;

    net->is_awake = true;
    return sleeps;
}

int cuda_ipc_net_post(struct cuda_ipc_net *net, struct cuda_ipc_work *work)
{
    bool wake = false;
    int r = -ECANCELED;

    work->next = NULL;
    pthread_mutex_lock(&net->lock);
    if (!net->has_ended) {
        *net->works_end = work;
        net->works_end = &work->next;
        wake = net_notice(net);
        r = 0;
    }
    pthread_mutex_unlock(&net->lock);
    if (wake) {
        net_wake(net);
    }
    return r;
}

int cuda_ipc_net_connect(struct cuda_ipc_net *net, const struct cuda_ipc_address *address,
                         const struct cuda_ipc_wire_peer *peer)
{
    struct cuda_ipc_lead *lead = malloc(sizeof(*lead));
    bool wake = false;
    int r = 0;

    if (lead == NULL) {
        return -ENOMEM;
    }
    *lead = (struct cuda_ipc_lead){.address = *address, .is_static = peer == NULL};
    if (peer != NULL) {
        lead->peer = *peer;
    }
    pthread_mutex_lock(&net->lock);
    if (net->lead_count >= 2 * net->env.max_peers) { /* more than there is room for */
        r = -ENOSPC;
    } else {
        lead->next = net->leads;
        net->leads = lead;
        net->lead_count++;
        wake = net_notice(net);
    }
    pthread_mutex_unlock(&net->lock);
    if (r < 0) {
        free(lead);
    }
    if (wake) {
        net_wake(net);
    }
    return r;
}

void cuda_ipc_net_quiesce(struct cuda_ipc_net *net)
{
    atomic_store(&net->is_leaving, true);
    net_wake(net);
}

int cuda_ipc_net_drain(struct cuda_ipc_net *net, uint64_t deadline_ms)
{
    const struct timespec until = {
        .tv_sec = (time_t)(deadline_ms / 1000),
        .tv_nsec = (long)(deadline_ms % 1000) * 1000000,
    };
    int r = 0;

    pthread_mutex_lock(&net->lock);
    while (net->open_conns > 0 && r == 0) {
        r = pthread_cond_timedwait(&net->changed, &net->lock, &until);
    }
    r = net->open_conns > 0 ? -ETIMEDOUT : 0;
    pthread_mutex_unlock(&net->lock);
    return r;
}

void cuda_ipc_net_get_stats(struct cuda_ipc_net *net, struct cuda_ipc_net_stats *stats_out)
{
    uint64_t all[CUDA_IPC_NET_COUNTERS];

    for (size_t i = 0; i < CUDA_IPC_NET_COUNTERS; i++) {
        all[i] = atomic_load_explicit(&net->counters[i], memory_order_relaxed);
    }
    *stats_out = (struct cuda_ipc_net_stats){
        .links = all[CUDA_IPC_NET_LINKS],
        .conns = all[CUDA_IPC_NET_CONNS],
        .leases = all[CUDA_IPC_NET_LEASES],
        .leased = all[CUDA_IPC_NET_LEASED],
        .asked = all[CUDA_IPC_NET_ASKED],
        .lost_links = all[CUDA_IPC_NET_LOST],
        .timeouts = all[CUDA_IPC_NET_TIMEOUTS],
        .protocol_errors = all[CUDA_IPC_NET_PROTOCOL_ERRORS],
        .refused = all[CUDA_IPC_NET_REFUSED],
    };
}

/* ---- the thread ---- */

static void net_listen_for(struct cuda_ipc_net *net, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.u64 = TAG_LISTEN};

    (void)epoll_ctl(net->epoll_fd, EPOLL_CTL_MOD, net->listen_fd, &event);
}

void cuda_ipc_net_rest(struct cuda_ipc_net *net)
{
    net->deaf_until_ms = cuda_ipc_net_now(net) + REST_MS;
    net_listen_for(net, 0);
}

/* Does the link lead where the lead does? */
static bool net_is_same(const struct cuda_ipc_link *link, const struct cuda_ipc_lead *lead)
{
    const size_t length = sizeof(lead->peer.instance);

    if (link->state == CUDA_IPC_LINK_FREE) {
        return false;
    }
    if (lead->is_static) {
        return link->is_static && link->address.length == lead->address.length &&
               memcmp(&link->address.un, &lead->address.un, lead->address.length) == 0;
    }
    if (link->epoch != 0) {
        return memcmp(link->peer.instance, lead->peer.instance, length) == 0;
    }
    return !link->is_static && memcmp(link->expected.instance, lead->peer.instance, length) == 0;
}

static bool net_is_known(const struct cuda_ipc_net *net, const struct cuda_ipc_lead *lead)
{
    for (uint32_t i = 0; i < net->env.max_peers; i++) {
        if (net_is_same(&net->links[i], lead)) {
            return true;
        }
    }
    return false;
}

static void net_follow(struct cuda_ipc_net *net, const struct cuda_ipc_lead *lead)
{
    uint32_t i = 0;

    if (net_is_known(net, lead)) {
        return;
    }
    while (i < net->env.max_peers && net->links[i].state != CUDA_IPC_LINK_FREE) {
        i++;
    }
    if (i == net->env.max_peers) {
        cuda_ipc_net_count(net, CUDA_IPC_NET_REFUSED, 1);
        kvl_warn(net->env.host->log,
                 "cuda_ipc: no room for a link to pid %llu: max_peers is %u, its chunks will come "
                 "another way",
                 (unsigned long long)lead->peer.who.pid, net->env.max_peers);
        return;
    }
    cuda_ipc_link_begin(&net->links[i], &lead->address, lead->is_static ? NULL : &lead->peer);
}

/* What others handed over. */
static void net_take(struct cuda_ipc_net *net)
{
    struct cuda_ipc_lead *leads;
    struct cuda_ipc_work *works;
    uint64_t count;
    const ssize_t n = read(net->wake_fd, &count, sizeof(count));

    (void)n;
    pthread_mutex_lock(&net->lock);
    net->is_awake = false;
    works = net->works;
    net->works = NULL;
    net->works_end = &net->works;
    leads = net->leads;
    net->leads = NULL;
    net->lead_count = 0;
    pthread_mutex_unlock(&net->lock);
    while (leads != NULL) {
        struct cuda_ipc_lead *next = leads->next;

        net_follow(net, leads);
        free(leads);
        leads = next;
    }
    while (works != NULL) {
        struct cuda_ipc_work *next = works->next;

        works->fn(works);
        works = next;
    }
}

static void net_event(struct cuda_ipc_net *net, const struct epoll_event *event)
{
    const uint64_t tag = event->data.u64;
    const uint32_t index = (uint32_t)(tag & UINT32_MAX) >> 2;
    const uint32_t generation = (uint32_t)(tag >> 32);

    if (tag == TAG_WAKE) {
        net_take(net);
    } else if (tag == TAG_LISTEN) {
        cuda_ipc_conn_accept(net, net->listen_fd);
    } else if (tag == TAG_WATCHED) {
        net->env.watched(net->env.ctx);
    } else if ((tag & 2) != 0) {
        struct cuda_ipc_link *link = &net->links[index];

        if (link->generation == generation && link->port.fd >= 0) {
            cuda_ipc_link_event(link, event->events, (tag & 1) != 0);
        }
    } else {
        struct cuda_ipc_conn *conn = &net->conns[index];

        if (conn->generation == generation && conn->port.fd >= 0) {
            cuda_ipc_conn_event(conn, event->events, (tag & 1) != 0);
        }
    }
}

static void net_leave(struct cuda_ipc_net *net)
{
    net->has_left = true;
    for (uint32_t i = 0; i < net->env.max_peers; i++) {
        cuda_ipc_conn_bye(&net->conns[i]);
    }
}

/* Everything that has to do with time, and what was collected. @return when it is due again. */
static uint64_t net_tick(struct cuda_ipc_net *net)
{
    const uint64_t now_ms = cuda_ipc_net_now(net);
    uint64_t next_ms = KVL_NEVER;

    if (atomic_load(&net->is_leaving) && !net->has_left) {
        net_leave(net);
    }
    if (net->deaf_until_ms != 0 && now_ms >= net->deaf_until_ms) {
        net->deaf_until_ms = 0;
        net_listen_for(net, EPOLLIN);
    } else if (net->deaf_until_ms != 0) {
        next_ms = net->deaf_until_ms;
    }
    for (uint32_t i = 0; i < net->env.max_peers; i++) {
        uint64_t due_ms = cuda_ipc_conn_tick(&net->conns[i], now_ms);

        next_ms = due_ms < next_ms ? due_ms : next_ms;
        due_ms = cuda_ipc_link_tick(&net->links[i], now_ms);
        next_ms = due_ms < next_ms ? due_ms : next_ms;
        cuda_ipc_link_flush(&net->links[i]);
    }
    return next_ms;
}

static int net_pause(const struct cuda_ipc_net *net, uint64_t next_ms)
{
    const uint64_t now_ms = cuda_ipc_net_now(net);

    if (next_ms == KVL_NEVER) {
        return -1;
    }
    if (next_ms <= now_ms) {
        return 0;
    }
    return next_ms - now_ms > 60000 ? 60000 : (int)(next_ms - now_ms);
}

static void net_end(struct cuda_ipc_net *net)
{
    for (uint32_t i = 0; i < net->env.max_peers; i++) {
        cuda_ipc_link_end(&net->links[i], -ECANCELED);
        cuda_ipc_conn_close(&net->conns[i]);
    }
    pthread_mutex_lock(&net->lock);
    net->has_ended = true;
    pthread_mutex_unlock(&net->lock);
    net_take(net); /* what was posted before */
}

static void *net_main(void *arg)
{
    struct cuda_ipc_net *net = arg;
    struct epoll_event events[EVENTS_PER_TURN];

    while (!atomic_load(&net->is_stopping)) {
        const uint64_t next_ms = net_tick(net);
        const int n = epoll_wait(net->epoll_fd, events, EVENTS_PER_TURN, net_pause(net, next_ms));

        for (int i = 0; i < n; i++) {
            net_event(net, &events[i]);
        }
    }
    net_end(net);
    return NULL;
}

/* ---- life ---- */

static int net_watch(const struct cuda_ipc_net *net, int fd, uint64_t tag)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = tag};

    return epoll_ctl(net->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

static int net_allocate(struct cuda_ipc_net *net)
{
    net->buffer = malloc(CUDA_IPC_WIRE_MAX);
    net->out = malloc(CUDA_IPC_WIRE_MAX);
    net->leases = calloc(CUDA_IPC_WIRE_KEYS_MAX, sizeof(*net->leases));
    net->conns = calloc(net->env.max_peers, sizeof(*net->conns));
    net->links = calloc(net->env.max_peers, sizeof(*net->links));
    if (net->buffer == NULL || net->out == NULL || net->leases == NULL || net->conns == NULL ||
        net->links == NULL) {
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < net->env.max_peers; i++) {
        net->conns[i].net = net;
        net->conns[i].port = (struct cuda_ipc_port){.fd = -1, .pidfd = -1};
        net->links[i].net = net;
        net->links[i].port = (struct cuda_ipc_port){.fd = -1, .pidfd = -1};
    }
    return 0;
}

int cuda_ipc_net_create(const struct cuda_ipc_net_env *env, struct cuda_ipc_net **net_out)
{
    struct cuda_ipc_net *net = calloc(1, sizeof(*net));
    int r;

    if (net == NULL) {
        return -ENOMEM;
    }
    net->env = *env;
    net->listen_fd = -1;
    net->works_end = &net->works;
    pthread_mutex_init(&net->lock, NULL);
    (void)kvl_monotonic_cond_init(&net->changed);
    net->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    net->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    r = net->wake_fd < 0 || net->epoll_fd < 0 ? -errno : net_allocate(net);
    if (r == 0) {
        r = net_watch(net, net->wake_fd, TAG_WAKE);
    }
    if (r == 0 && net->env.watched != NULL) {
        r = net_watch(net, net->env.watched_fd, TAG_WATCHED);
    }
    if (r < 0) {
        cuda_ipc_net_destroy(net);
        return r;
    }
    *net_out = net;
    return 0;
}

static int net_listen(struct cuda_ipc_net *net, const struct cuda_ipc_address *address,
                      struct kvl_err *err)
{
    char text[CUDA_IPC_ADDRESS_TEXT];
    int r = cuda_ipc_address_listen(address, &net->listen_fd);

    if (r == 0 && address->un.sun_path[0] != '\0') {
        memcpy(net->path, address->un.sun_path, sizeof(net->path));
    }
    if (r == 0) {
        r = net_watch(net, net->listen_fd, TAG_LISTEN);
    }
    if (r < 0) {
        cuda_ipc_address_print(address, text, sizeof(text));
        return kvl_fail(err, r, "cuda_ipc: cannot listen at '%s': %s", text, strerror(-r));
    }
    return 0;
}

int cuda_ipc_net_start(struct cuda_ipc_net *net, const struct cuda_ipc_address *address,
                       struct kvl_err *err)
{
    const struct kvl_host *host = net->env.host;
    int r = address != NULL ? net_listen(net, address, err) : 0;

    if (r < 0) {
        return r;
    }
    r = host->thread_create(host, "cuda_ipc-peers", net_main, net, &net->thread);
    if (r < 0) {
        return kvl_fail(err, r, "cuda_ipc: cannot start a thread: %s", strerror(-r));
    }
    net->has_thread = true;
    return 0;
}

void cuda_ipc_net_stop(struct cuda_ipc_net *net)
{
    const struct kvl_host *host = net->env.host;

    atomic_store(&net->is_leaving, true);
    atomic_store(&net->is_stopping, true);
    net_wake(net);
    if (net->has_thread) {
        (void)host->thread_join(host, net->thread);
        net->has_thread = false;
    }
    if (net->path[0] != '\0') {
        (void)unlink(net->path);
        net->path[0] = '\0';
    }
}

void cuda_ipc_net_destroy(struct cuda_ipc_net *net)
{
    if (net == NULL) {
        return;
    }
    while (net->leads != NULL) {
        struct cuda_ipc_lead *next = net->leads->next;

        free(net->leads);
        net->leads = next;
    }
    if (net->listen_fd >= 0) {
        close(net->listen_fd);
    }
    if (net->wake_fd >= 0) {
        close(net->wake_fd);
    }
    if (net->epoll_fd >= 0) {
        close(net->epoll_fd);
    }
    free(net->buffer);
    free(net->out);
    free(net->leases);
    free(net->conns);
    free(net->links);
    pthread_cond_destroy(&net->changed);
    pthread_mutex_destroy(&net->lock);
    free(net);
}

uint32_t cuda_ipc_net_links(struct cuda_ipc_net *net, struct cuda_ipc_link **links_out)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < net->env.max_peers; i++) {
        struct cuda_ipc_link *link = &net->links[i];

        if (link->state == CUDA_IPC_LINK_READY && !link->is_useless) {
            links_out[count++] = link;
        }
    }
    return count;
}
