/* SPDX-License-Identifier: Apache-2.0 */
#include "py_socket_link.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "py_socket_link_parts.h"
#include "py_socket_url.h"
#include "setting.h"

#define EVENTS 64

/* ---- small things ---- */

uint64_t link_now(const struct py_socket_link *link)
{
    return link->config.host->now_ms(link->config.host);
}

void link_wake(struct py_socket_link *link)
{
    const uint64_t one = 1;

    /* fails only when it is awake many times over */
    if (write(link->wake_fd, &one, sizeof(one)) < 0) {
        return;
    }
}

void link_due(struct py_socket_link *link, uint64_t due_ms)
{
    struct itimerspec when = {{0, 0}, {0, 0}};

    if (due_ms >= link->due_ms) {
        return;
    }
    link->due_ms = due_ms;
    when.it_value.tv_sec = (time_t)(due_ms / 1000);
    when.it_value.tv_nsec = (long)(due_ms % 1000 * 1000000 + 1); /* 0 would be "off" */
    (void)timerfd_settime(link->timer_fd, TFD_TIMER_ABSTIME, &when, NULL);
}

static int link_poll_fd(struct py_socket_link *link, int fd, void *who)
{
    struct epoll_event event = {.events = EPOLLIN, .data = {.ptr = who}};

    return epoll_ctl(link->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

int link_poll_add(struct py_socket_link *link, void *socket, void *who)
{
    return link_poll_fd(link, py_socket_zmq_fd(socket), who);
}

void link_poll_remove(struct py_socket_link *link, void *socket)
{
    (void)epoll_ctl(link->epoll_fd, EPOLL_CTL_DEL, py_socket_zmq_fd(socket), NULL);
}

const char *link_quote(const char *text, size_t length, char *quote_out)
{
    size_t n = length < LINK_QUOTE_ROOM - 1 ? length : LINK_QUOTE_ROOM - 1;

    for (size_t i = 0; i < n; i++) {
        quote_out[i] = text[i] >= ' ' && text[i] <= '~' && text[i] != '\'' ? text[i] : '?';
    }
    quote_out[n] = '\0';
    return quote_out;
}

int link_agree(const struct py_socket_link *link, const struct py_socket_offer *offer,
               uint32_t *version_out, char *why_out, size_t room)
{
    const struct py_socket_offer *own = &link->offer;
    uint32_t version = offer->version < own->version ? offer->version : own->version;

    if (offer->version == 0) {
        *version_out = 0;
        return 0;
    }
    if (version < offer->min_version || version < own->min_version) {
        snprintf(why_out, room, "data plane versions %u to %u and %u to %u have none in common",
                 own->min_version, own->version, offer->min_version, offer->version);
        return -EPROTO;
    }
    if (own->fingerprint[0] != '\0' && offer->fingerprint[0] != '\0' &&
        strcmp(own->fingerprint, offer->fingerprint) != 0) {
        snprintf(why_out, room, "fingerprint '%s' and yours '%s' differ", own->fingerprint,
                 offer->fingerprint);
        return -EPROTO;
    }
    *version_out = version;
    return 0;
}

/* ---- what the data plane is told ---- */

void link_tell_gone(struct py_socket_link *link, struct py_socket_peer *gone)
{
    const struct py_socket_link_events *events = &link->config.events;
    struct py_socket_counters *counters = link->config.counters;
    char quote[LINK_QUOTE_ROOM];

    while (gone != NULL) {
        struct py_socket_peer *next = gone->next_gone;
        int reason = atomic_load(&gone->gone);

        py_socket_uncount(&counters->peers_now);
        if (reason == -ESTALE) {
            py_socket_count(&counters->peers_replaced);
            kvl_info(link->config.host->log,
                     "py_socket: peer '%s' replaced, old incarnation %" PRIx64,
                     link_quote(gone->id, strlen(gone->id), quote), gone->offer.incarnation);
        } else if (reason == -ENOTCONN) {
            py_socket_count(&counters->peers_forgotten);
            kvl_info(link->config.host->log, "py_socket: peer '%s' forgotten",
                     link_quote(gone->id, strlen(gone->id), quote));
        }
        if (events->peer_gone != NULL) {
            events->peer_gone(events->ctx, gone);
        }
        py_socket_peer_release(gone);
        gone = next;
    }
}

void link_tell(struct py_socket_link *link, const struct py_socket_learned *learned)
{
    const struct py_socket_link_events *events = &link->config.events;
    struct py_socket_peer *peer = learned->peer;
    char quote[LINK_QUOTE_ROOM];

    link_tell_gone(link, learned->gone);
    if (peer == NULL || !learned->is_new) {
        return;
    }
    py_socket_count(&link->config.counters->peers_now);
    link_quote(peer->id, strlen(peer->id), quote);
    if (peer->version == 0) {
        kvl_info(link->config.host->log,
                 "py_socket: peer '%s' is known; it has no data plane: handshake only", quote);
    } else {
        kvl_info(link->config.host->log,
                 "py_socket: peer '%s' is known, data plane %u, incarnation %" PRIx64, quote,
                 peer->version, peer->offer.incarnation);
    }
    if (events->peer_up != NULL) {
        events->peer_up(events->ctx, peer);
    }
}

/* ---- the driver ---- */

/* Takes over what other threads have asked for. */
static void link_take_orders(struct py_socket_link *link)
{
    struct py_socket_peer *forgotten;
    struct link_call *fresh;
    int is_cancelling;

    pthread_mutex_lock(&link->lock);
    fresh = link->fresh;
    link->fresh = NULL;
    link->fresh_end = &link->fresh;
    forgotten = link->forgotten;
    link->forgotten = NULL;
    is_cancelling = link->is_cancelling;
    link->is_cancelling = 0;
    pthread_mutex_unlock(&link->lock);

    link_tell_gone(link, forgotten);
    while (fresh != NULL) {
        struct link_call *call = fresh;

        fresh = call->next;
        call->next = NULL;
        *link->waiting_end = call;
        link->waiting_end = &call->next;
        link_due(link, call->deadline_ms);
    }
    if (is_cancelling) {
        link_calls_cancel(link, 0);
    }
}

static void link_free_ended(struct py_socket_link *link)
{
    while (link->ended != NULL) {
        struct link_call *call = link->ended;

        link->ended = call->next;
        free(call);
    }
}

void link_drive(struct py_socket_link *link, int timeout_ms)
{
    struct epoll_event events[EVENTS];
    uint64_t value;
    int count = epoll_wait(link->epoll_fd, events, EVENTS, timeout_ms);

    for (int i = 0; i < count; i++) {
        void *who = events[i].data.ptr;

        if (who == &link->wake_fd) {
            if (read(link->wake_fd, &value, sizeof(value)) > 0) {
                link_answer(link);
            }
        } else if (who == &link->timer_fd) {
            if (read(link->timer_fd, &value, sizeof(value)) > 0) {
                link->due_ms = KVL_NEVER;
                link_calls_check(link);
            }
        } else if (who == &link->rep) {
            link_answer(link);
        } else {
            link_call_run(link, who);
        }
    }
    link_take_orders(link);
    link_calls_begin(link);
    link_free_ended(link);
}

static int link_is_closing(struct py_socket_link *link)
{
    int is_closing;

    pthread_mutex_lock(&link->lock);
    is_closing = link->is_closing;
    pthread_mutex_unlock(&link->lock);
    return is_closing;
}

static void *link_thread(void *arg)
{
    struct py_socket_link *link = arg;

    while (!link_is_closing(link)) {
        link_drive(link, -1);
    }
    return NULL;
}

/* ---- life ---- */

static int link_make_fds(struct py_socket_link *link)
{
    link->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    link->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    link->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (link->epoll_fd < 0 || link->wake_fd < 0 || link->timer_fd < 0 ||
        link_poll_fd(link, link->wake_fd, &link->wake_fd) < 0 ||
        link_poll_fd(link, link->timer_fd, &link->timer_fd) < 0) {
        return -errno;
    }
    return 0;
}

int link_copy_url(const char *what, const char *url, char *url_out, struct kvl_err *err)
{
    if (url != NULL && strlen(url) > KVL_CHANNEL_URL_MAX) {
        return kvl_fail(err, -EINVAL, "py_socket: %s is longer than %u bytes", what,
                        KVL_CHANNEL_URL_MAX);
    }
    snprintf(url_out, KVL_CHANNEL_URL_ROOM, "%s", url == NULL ? "" : url);
    return 0;
}

int py_socket_link_create(const struct py_socket_link_config *config,
                          struct py_socket_link **link_out, struct kvl_err *err)
{
    struct py_socket_link *link = calloc(1, sizeof(*link));
    int r;

    if (link == NULL) {
        return kvl_fail(err, -ENOMEM, "py_socket: no memory");
    }
    link->config = *config;
    link->config.peer_init_url = NULL; /* copied below */
    link->config.peer_lookup_url = NULL;
    link->epoll_fd = -1;
    link->wake_fd = -1;
    link->timer_fd = -1;
    link->due_ms = KVL_NEVER;
    link->fresh_end = &link->fresh;
    link->waiting_end = &link->waiting;
    pthread_mutex_init(&link->lock, NULL);
    pthread_cond_init(&link->changed, NULL);
    py_socket_count(&config->counters->channels_now);
    r = link_copy_url("peer_init_url", config->peer_init_url, link->bind, err);
    if (r == 0) {
        r = link_copy_url("peer_lookup_url", config->peer_lookup_url, link->lookup_url, err);
    }
    if (r == 0) {
        r = py_socket_peers_create(config->options->max_peers, &link->peers);
    }
    while (r == 0 && link->offer.incarnation == 0) {
        r = py_socket_random(&link->offer.incarnation, sizeof(link->offer.incarnation));
    }
    if (r == 0) {
        *link_out = link;
        return 0;
    }
    py_socket_link_close(link);
    return r == -EINVAL ? r : kvl_fail(err, r, "py_socket: %s", strerror(-r));
}

uint64_t py_socket_link_incarnation(const struct py_socket_link *link)
{
    return link->offer.incarnation;
}

static void link_set_offer(struct py_socket_link *link, const struct py_socket_offer *offer)
{
    uint64_t incarnation = link->offer.incarnation;

    link->offer = *offer;
    link->offer.version = PY_SOCKET_VERSION;
    link->offer.min_version = PY_SOCKET_MIN_VERSION;
    link->offer.incarnation = incarnation;
    memset(link->offer.token, 0, sizeof(link->offer.token));
    snprintf(link->offer.fingerprint, sizeof(link->offer.fingerprint), "%s",
             link->config.options->fingerprint);
}

int py_socket_link_start(struct py_socket_link *link, const struct py_socket_offer *offer,
                         struct kvl_err *err)
{
    const struct kvl_host *host = link->config.host;
    int r = link_make_fds(link);

    link_set_offer(link, offer);
    if (r == 0 && link->bind[0] != '\0') {
        r = py_socket_zmq_serve(link->config.zmq, "peer_init_url", link->bind, PY_SOCKET_INIT_BYTES,
                                &link->rep, link->url, err);
        if (r < 0) {
            return r;
        }
        r = link_poll_add(link, link->rep, &link->rep);
    }
    if (r == 0 && !link->config.is_async) {
        r = host->thread_create(host, "kvl-ps-link", link_thread, link, &link->thread);
        link->has_thread = r == 0;
    }
    if (r < 0) {
        return kvl_fail(err, r, "py_socket: cannot start a channel: %s", strerror(-r));
    }
    if (link->rep != NULL) {
        kvl_info(host->log, "py_socket: peers are let in at '%s', incarnation %" PRIx64, link->url,
                 link->offer.incarnation);
        link_wake(link); /* what came while nobody polled */
    }
    return 0;
}

/* Nobody else drives when this returns. */
static void link_stop_driving(struct py_socket_link *link)
{
    pthread_mutex_lock(&link->lock);
    link->is_closing = 1;
    if (link->wake_fd >= 0) {
        link_wake(link);
    }
    while (link->is_driven) {
        pthread_cond_wait(&link->changed, &link->lock);
    }
    pthread_mutex_unlock(&link->lock);
    if (link->has_thread) {
        (void)link->config.host->thread_join(link->config.host, link->thread);
    }
}

static void link_close_fd(int fd)
{
    if (fd >= 0) {
        close(fd);
    }
}

void py_socket_link_close(struct py_socket_link *link)
{
    if (link == NULL) {
        return;
    }
    link_stop_driving(link);
    if (link->epoll_fd >= 0) {
        link_take_orders(link);
        link_calls_cancel(link, 1);
        link_free_ended(link);
    }
    if (link->peers != NULL) {
        link_tell_gone(link, py_socket_peers_drop_all(link->peers, -ECANCELED));
    }
    py_socket_zmq_close(link->config.zmq, link->rep);
    link_close_fd(link->epoll_fd);
    link_close_fd(link->wake_fd);
    link_close_fd(link->timer_fd);
    py_socket_peers_destroy(link->peers);
    py_socket_uncount(&link->config.counters->channels_now);
    pthread_cond_destroy(&link->changed);
    pthread_mutex_destroy(&link->lock);
    free(link);
}

const char *py_socket_link_url(const struct py_socket_link *link)
{
    return link->url;
}

int py_socket_link_fd(const struct py_socket_link *link)
{
    return link->config.is_async ? link->epoll_fd : -1;
}

int link_grab(struct py_socket_link *link)
{
    if (link->is_driven || link->is_closing) {
        return 0;
    }
    link->is_driven = 1;
    return 1;
}

void link_let_go(struct py_socket_link *link)
{
    link->is_driven = 0;
    pthread_cond_broadcast(&link->changed);
}

void py_socket_link_poll(struct py_socket_link *link)
{
    int is_mine = 0;

    if (!link->config.is_async) {
        return;
    }
    pthread_mutex_lock(&link->lock);
    is_mine = link_grab(link);
    pthread_mutex_unlock(&link->lock);
    if (!is_mine) {
        return;
    }
    link_drive(link, 0);
    pthread_mutex_lock(&link->lock);
    link_let_go(link);
    pthread_mutex_unlock(&link->lock);
}

/* ---- peers ---- */

struct py_socket_peers *py_socket_link_peers(struct py_socket_link *link)
{
    return link->peers;
}

void py_socket_link_forget(struct py_socket_link *link, struct py_socket_peer *peer)
{
    pthread_mutex_lock(&link->lock);
    (void)py_socket_peers_drop(link->peers, peer, -ENOTCONN, &link->forgotten);
    pthread_mutex_unlock(&link->lock);
    link_wake(link);
}
