/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "cuda_ipc_net_parts.h"

#define TURN 32u
#define BACKOFF_FIRST_MS 20u
/* Tries after which a peer that was offered is forgotten: it is offered again when it is there. */
#define TRIES_MAX 12u

/* ---- life ---- */

static void link_name(struct cuda_ipc_link *link)
{
    char address[CUDA_IPC_ADDRESS_TEXT];
    const uint64_t pid = link->epoch != 0 ? link->peer.who.pid : link->expected.who.pid;

    cuda_ipc_address_print(&link->address, address, sizeof(address));
    if (pid != 0) {
        (void)snprintf(link->name, sizeof(link->name), "pid %llu at %s", (unsigned long long)pid,
                       address);
    } else {
        (void)snprintf(link->name, sizeof(link->name), "%s", address);
    }
}

void cuda_ipc_link_begin(struct cuda_ipc_link *link, const struct cuda_ipc_address *address,
                         const struct cuda_ipc_wire_peer *peer)
{
    link->address = *address;
    link->is_static = peer == NULL;
    link->expected = peer == NULL ? (struct cuda_ipc_wire_peer){0} : *peer;
    link->state = CUDA_IPC_LINK_WAITING;
    link->until_ms = 0;
    link->backoff_ms = BACKOFF_FIRST_MS;
    link->tries = 0;
    link->has_failed = false;
    link_name(link);
}

static void link_take_out(struct cuda_ipc_link *link, struct cuda_ipc_ask *ask)
{
    if (ask->prev != NULL) {
        ask->prev->next = ask->next;
    } else {
        link->first = ask->next;
    }
    if (ask->next != NULL) {
        ask->next->prev = ask->prev;
    } else {
        link->last = ask->prev;
    }
    ask->link = NULL;
    link->ask_count--;
}

static void link_fail_asks(struct cuda_ipc_link *link, int status)
{
    while (link->first != NULL) {
        struct cuda_ipc_ask *ask = link->first;

        link_take_out(link, ask);
        ask->fn(ask, status, link, NULL);
    }
}

static void link_drop_segments(struct cuda_ipc_link *link)
{
    for (uint32_t i = 0; i < link->segment_room; i++) {
        if (link->segments[i].fd >= 0) {
            close(link->segments[i].fd);
        }
    }
    free(link->segments);
    link->segments = NULL;
    link->segment_room = 0;
}

/* Ends the connection, if there is one. */
static void link_disconnect(struct cuda_ipc_link *link, int status)
{
    struct cuda_ipc_net *net = link->net;
    const bool was_up = link->state == CUDA_IPC_LINK_READY || link->state == CUDA_IPC_LINK_LEAVING;

    if (was_up) {
        cuda_ipc_net_count(net, CUDA_IPC_NET_LINKS, -1);
        net->env.link_changed(net->env.ctx, link, 0);
    }
    link->epoch = 0;
    link->is_useless = false;
    link->is_broken = false;
    link->leases = 0;
    link->released_count = 0;
    link->generation++;
    cuda_ipc_port_close(&link->port);
    link->state = CUDA_IPC_LINK_WAITING;
    link_fail_asks(link, status);
    link_drop_segments(link);
}

void cuda_ipc_link_end(struct cuda_ipc_link *link, int status)
{
    if (link->state != CUDA_IPC_LINK_FREE) {
        link_disconnect(link, status);
        link->state = CUDA_IPC_LINK_FREE;
    }
}

/* Has the process that we were told of ended? Of other PID namespaces nobody can tell. */
static bool link_is_pointless(const struct cuda_ipc_link *link)
{
    const struct cuda_ipc_who *theirs = &link->expected.who;
    uint64_t start_time;

    return !link->is_static &&
           theirs->pid_namespace == link->net->env.self->hello.peer.who.pid_namespace &&
           (cuda_ipc_who_start_time(theirs->pid, &start_time) < 0 ||
            start_time != theirs->start_time);
}

/* Says once why a peer cannot be reached, and plans the next try or none. */
static void link_retry(struct cuda_ipc_link *link, int code)
{
    struct cuda_ipc_net *net = link->net;

    if (link_is_pointless(link)) {
        cuda_ipc_link_end(link, code);
        return;
    }
    link->tries++;
    if (link->tries == TRIES_MAX / 2 && !link->has_failed) {
        link->has_failed = true;
        kvl_warn(net->env.host->log,
                 "cuda_ipc: peer '%s' cannot be reached: %s; its chunks will come another way. A "
                 "peer that is there listens in the same network namespace, or at a path that both "
                 "see",
                 link->name, strerror(-code));
    }
    if (!link->is_static && link->tries >= TRIES_MAX) {
        cuda_ipc_link_end(link, code);
        return;
    }
    link->state = CUDA_IPC_LINK_WAITING;
    link->until_ms = cuda_ipc_net_now(net) + link->backoff_ms;
    link->backoff_ms *= 2;
    if (link->backoff_ms > net->env.retry_ms) {
        link->backoff_ms = net->env.retry_ms;
    }
}

/* The connection is of no use any more. */
static void link_lost(struct cuda_ipc_link *link, int code)
{
    struct cuda_ipc_net *net = link->net;
    const bool was_up = link->state == CUDA_IPC_LINK_READY;
    const bool was_leaving = link->state == CUDA_IPC_LINK_LEAVING;

    if (was_up) {
        cuda_ipc_net_count(net, CUDA_IPC_NET_LOST, 1);
        kvl_info(net->env.host->log, "cuda_ipc: lost the link to peer '%s': %s", link->name,
                 code == -ETIMEDOUT ? "it does not answer"
                 : code == -EPROTO  ? "it broke the protocol"
                                    : "it has gone");
        link->backoff_ms = BACKOFF_FIRST_MS;
        link->tries = 0;
        link->has_failed = false;
    }
    link_disconnect(link, code == -EPROTO || code == -ETIMEDOUT ? code : -ENOTCONN);
    if (was_leaving && !link->is_static) {
        cuda_ipc_link_end(link, -ENOTCONN);
        return;
    }
    link_retry(link, code);
}

static void link_try(struct cuda_ipc_link *link)
{
    struct cuda_ipc_net *net = link->net;
    const uint32_t index = (uint32_t)(link - net->links);
    int fd;
    int r = cuda_ipc_address_connect(&link->address, &fd);

    if (r == 0) {
        r = cuda_ipc_port_open(&link->port, net->epoll_fd, fd,
                               cuda_ipc_net_tag(true, index, link->generation));
    }
    if (r == 0) {
        r = cuda_ipc_port_send(&link->port, net->out,
                               cuda_ipc_wire_put_hello(&net->env.self->hello, net->out), -1);
    }
    if (r < 0) {
        cuda_ipc_port_close(&link->port);
        link_retry(link, r);
        return;
    }
    link->state = CUDA_IPC_LINK_GREETING;
    link->until_ms = cuda_ipc_net_now(net) + net->env.timeout_ms;
}

/* ---- time ---- */

/* @return when the next request is due. */
static uint64_t link_tick_asks(struct cuda_ipc_link *link, uint64_t now_ms)
{
    struct cuda_ipc_ask *ask = link->first;
    uint64_t next_ms = KVL_NEVER;

    if (ask != NULL && now_ms >= ask->until_ms) { /* the oldest is the first to be overdue */
        cuda_ipc_net_count(link->net, CUDA_IPC_NET_TIMEOUTS, 1);
        link_lost(link, -ETIMEDOUT);
        return link->state == CUDA_IPC_LINK_WAITING ? link->until_ms : KVL_NEVER;
    }
    while (ask != NULL) {
        const uint64_t due_ms = ask->deadline_ms < ask->until_ms ? ask->deadline_ms : ask->until_ms;

        if (now_ms >= ask->deadline_ms) {
            link_take_out(link, ask);
            ask->fn(ask, -ETIMEDOUT, link, NULL); /* may have others forgotten: from the start */
            ask = link->first;
            next_ms = KVL_NEVER;
            continue;
        }
        next_ms = due_ms < next_ms ? due_ms : next_ms;
        ask = ask->next;
    }
    return next_ms;
}

uint64_t cuda_ipc_link_tick(struct cuda_ipc_link *link, uint64_t now_ms)
{
    switch (link->state) {
    case CUDA_IPC_LINK_WAITING:
    case CUDA_IPC_LINK_DOUBLE:
        if (now_ms >= link->until_ms && !atomic_load(&link->net->is_leaving)) {
            link_try(link);
        }
        break;
    case CUDA_IPC_LINK_GREETING:
        if (now_ms >= link->until_ms) {
            cuda_ipc_net_count(link->net, CUDA_IPC_NET_TIMEOUTS, 1);
            link_lost(link, -ETIMEDOUT);
        }
        break;
    case CUDA_IPC_LINK_READY:
    case CUDA_IPC_LINK_LEAVING:
        return link_tick_asks(link, now_ms);
    case CUDA_IPC_LINK_FREE:
        return KVL_NEVER;
    }
    return link->state == CUDA_IPC_LINK_FREE || link->state == CUDA_IPC_LINK_READY ? KVL_NEVER
                                                                                   : link->until_ms;
}

/* ---- messages; all return 0 or a code that ends the connection ---- */

static bool link_is_double(const struct cuda_ipc_link *link,
                           const struct cuda_ipc_wire_peer *theirs)
{
    const struct cuda_ipc_net *net = link->net;

    if (memcmp(theirs->instance, net->env.self->hello.peer.instance, sizeof(theirs->instance)) ==
        0) {
        return true;
    }
    for (uint32_t i = 0; i < net->env.max_peers; i++) {
        const struct cuda_ipc_link *other = &net->links[i];

        if (other != link && other->state == CUDA_IPC_LINK_READY &&
            memcmp(other->peer.instance, theirs->instance, sizeof(theirs->instance)) == 0) {
            return true;
        }
    }
    return false;
}

static bool link_is_expected(const struct cuda_ipc_link *link,
                             const struct cuda_ipc_wire_peer *theirs)
{
    return link->is_static ||
           (cuda_ipc_who_equal(&theirs->who, &link->expected.who) &&
            memcmp(theirs->instance, link->expected.instance, sizeof(theirs->instance)) == 0);
}

/* Closes without a word: the same peer is linked already. */
static void link_stand_back(struct cuda_ipc_link *link)
{
    link_disconnect(link, -ENOTCONN);
    if (!link->is_static) {
        link->state = CUDA_IPC_LINK_FREE;
        return;
    }
    link->state = CUDA_IPC_LINK_DOUBLE;
    link->until_ms = cuda_ipc_net_now(link->net) + link->net->env.retry_ms;
}

static int link_on_hello(struct cuda_ipc_link *link, const struct cuda_ipc_wire_message *message)
{
    struct cuda_ipc_net *net = link->net;
    struct cuda_ipc_wire_hello hello;
    int pidfd = -1;
    int r;

    cuda_ipc_wire_get_hello(message, &hello);
    if (hello.version != CUDA_IPC_WIRE_VERSION) {
        return -ENOTSUP;
    }
    r = cuda_ipc_self_check(net->env.self, link->port.fd, &hello, &pidfd);
    if (r < 0) {
        return r;
    }
    cuda_ipc_port_watch(&link->port, pidfd);
    if (!link_is_expected(link, &hello.peer)) {
        cuda_ipc_net_count(net, CUDA_IPC_NET_REFUSED, 1);
        return -ESTALE;
    }
    if (link_is_double(link, &hello.peer)) {
        link_stand_back(link);
        return 0;
    }
    link->peer = hello.peer;
    link->epoch = ++net->epochs;
    link->state = CUDA_IPC_LINK_READY;
    link->backoff_ms = BACKOFF_FIRST_MS;
    link->tries = 0;
    link->has_failed = false;
    link_name(link);
    cuda_ipc_net_count(net, CUDA_IPC_NET_LINKS, 1);
    kvl_info(net->env.host->log, "cuda_ipc: linked to peer '%s'", link->name);
    net->env.link_changed(net->env.ctx, link, 1);
    return 0;
}

static int link_on_segment(struct cuda_ipc_link *link, const struct cuda_ipc_wire_message *message,
                           int *fd)
{
    struct cuda_ipc_wire_segment segment;
    struct cuda_ipc_link_segment *slot;

    cuda_ipc_wire_get_segment(message, &segment);
    if ((segment.share.type == CUDA_IPC_SHARE_FD) != (*fd >= 0)) {
        return -EPROTO;
    }
    if (segment.number >= link->segment_room) {
        const uint32_t room = (segment.number + 16) / 16 * 16;
        struct cuda_ipc_link_segment *more = realloc(link->segments, room * sizeof(*more));

        if (more == NULL) {
            return -ENOMEM;
        }
        for (uint32_t i = link->segment_room; i < room; i++) {
            more[i] = (struct cuda_ipc_link_segment){.fd = -1};
        }
        link->segments = more;
        link->segment_room = room;
    }
    slot = &link->segments[segment.number];
    if (slot->share.type != CUDA_IPC_SHARE_NONE) {
        return -EPROTO; /* once per connection */
    }
    slot->share = segment.share;
    slot->share.who = link->peer.who;
    slot->fd = *fd;
    *fd = -1;
    return 0;
}

/* Leases that nobody waits for any more go back. */
static void link_give_back(struct cuda_ipc_link *link, const struct cuda_ipc_wire_message *message)
{
    struct cuda_ipc_wire_lease *leases = link->net->leases;

    cuda_ipc_wire_get_leases(message, leases);
    for (uint32_t i = 0; i < message->count; i++) {
        if (leases[i].status == 0) {
            cuda_ipc_link_release(link, link->epoch, leases[i].lease);
        }
    }
}

static void link_count_leases(struct cuda_ipc_link *link,
                              const struct cuda_ipc_wire_message *message)
{
    cuda_ipc_wire_get_leases(message, link->net->leases);
    for (uint32_t i = 0; i < message->count; i++) {
        link->leases += link->net->leases[i].status == 0;
    }
}

static int link_on_answer(struct cuda_ipc_link *link, const struct cuda_ipc_wire_message *message)
{
    const uint32_t type = message->type == CUDA_IPC_FOUND ? CUDA_IPC_LOOKUP : CUDA_IPC_LEASE;
    struct cuda_ipc_ask *ask = link->first;

    while (ask != NULL && ask->request != message->request) {
        ask = ask->next;
    }
    if (message->request == 0 || message->request > link->next_request ||
        (ask != NULL && (ask->type != type || ask->count != message->count))) {
        return -EPROTO;
    }
    if (type == CUDA_IPC_LEASE) {
        link_count_leases(link, message);
    }
    if (ask != NULL) {
        link_take_out(link, ask);
        ask->fn(ask, 0, link, message);
    } else if (type == CUDA_IPC_LEASE) {
        link_give_back(link, message);
    }
    return 0;
}

static int link_on_refused(struct cuda_ipc_link *link, const struct cuda_ipc_wire_message *message)
{
    struct cuda_ipc_net *net = link->net;

    cuda_ipc_net_count(net, CUDA_IPC_NET_REFUSED, 1);
    if (!link->has_failed) {
        link->has_failed = true;
        kvl_warn(net->env.host->log, "cuda_ipc: peer '%s' turns us away: %s", link->name,
                 strerror(-message->code));
    }
    return message->code;
}

static int link_take(struct cuda_ipc_link *link, const struct cuda_ipc_wire_message *message,
                     int *fd)
{
    if (message->type == CUDA_IPC_REFUSED) {
        return link_on_refused(link, message);
    }
    if ((link->state == CUDA_IPC_LINK_GREETING) != (message->type == CUDA_IPC_HELLO)) {
        return -EPROTO;
    }
    switch (message->type) {
    case CUDA_IPC_HELLO:
        return link_on_hello(link, message);
    case CUDA_IPC_BYE:
        link->state = CUDA_IPC_LINK_LEAVING;
        return 0;
    case CUDA_IPC_SEGMENT:
        return link_on_segment(link, message, fd);
    case CUDA_IPC_FOUND:
    case CUDA_IPC_LEASED:
        return link_on_answer(link, message);
    default:
        return -EPROTO; /* a listener says nothing else */
    }
}

/* @return 1 went on; 0 there is nothing; a code that ends the connection. */
static int link_step(struct cuda_ipc_link *link)
{
    struct cuda_ipc_net *net = link->net;
    struct cuda_ipc_wire_message message;
    size_t length;
    int fd;
    int r = cuda_ipc_port_receive(&link->port, net->buffer, &length, &fd);

    if (r <= 0) {
        return r;
    }
    r = cuda_ipc_wire_decode(net->buffer, length, &message);
    if (r == 0) {
        r = link_take(link, &message, &fd);
    }
    if (fd >= 0) { /* nobody took it */
        close(fd);
        r = r == 0 ? -EPROTO : r;
    }
    return r < 0 ? r : 1;
}

void cuda_ipc_link_event(struct cuda_ipc_link *link, uint32_t events, bool is_pidfd)
{
    int r = is_pidfd ? -ENOTCONN : 1;

    if (r > 0 && (events & EPOLLOUT) != 0) {
        r = cuda_ipc_port_flush(&link->port);
        r = r == 0 ? 1 : r;
    }
    for (uint32_t i = 0; i < TURN && r > 0 && link->port.fd >= 0; i++) {
        r = link_step(link);
    }
    if (r == -EPROTO || r == -EMSGSIZE) {
        cuda_ipc_net_count(link->net, CUDA_IPC_NET_PROTOCOL_ERRORS, 1);
        r = -EPROTO;
    }
    if (r < 0 && link->port.fd >= 0) {
        link_lost(link, r);
    }
}

/* ---- for those who ask ---- */

int cuda_ipc_link_ask(struct cuda_ipc_link *link, struct cuda_ipc_ask *ask,
                      const struct kvl_key *keys)
{
    struct cuda_ipc_net *net = link->net;
    int r;

    if (link->state != CUDA_IPC_LINK_READY) {
        return -ENOTCONN;
    }
    if (link->ask_count == CUDA_IPC_ASKS_MAX) {
        return -EAGAIN;
    }
    ask->request = link->next_request + 1;
    r = cuda_ipc_port_send(
        &link->port, net->out,
        cuda_ipc_wire_put_keys(ask->type, ask->request, keys, ask->count, net->out), -1);
    if (r < 0) { /* that it is lost is told by its own event */
        return r == -EMSGSIZE ? -EAGAIN : -ENOTCONN;
    }
    link->next_request++;
    ask->link = link;
    ask->until_ms = cuda_ipc_net_now(net) + net->env.timeout_ms;
    ask->next = NULL;
    ask->prev = link->last;
    if (link->last != NULL) {
        link->last->next = ask;
    } else {
        link->first = ask;
    }
    link->last = ask;
    link->ask_count++;
    return 0;
}

void cuda_ipc_link_forget(struct cuda_ipc_ask *ask)
{
    if (ask->link != NULL) {
        link_take_out(ask->link, ask);
    }
}

static void link_send_released(struct cuda_ipc_link *link)
{
    const size_t length =
        cuda_ipc_wire_put_release(link->released, link->released_count, link->net->out);

    link->released_count = 0;
    if (cuda_ipc_port_send(&link->port, link->net->out, length, -1) < 0) {
        link->is_broken = true; /* it never learns that they are free, unless we disconnect */
    }
}

void cuda_ipc_link_flush(struct cuda_ipc_link *link)
{
    if (link->released_count > 0) {
        link_send_released(link);
    }
    if (link->is_broken) {
        link_lost(link, -ENOTCONN);
    } else if (link->state == CUDA_IPC_LINK_LEAVING && link->ask_count == 0 && link->leases == 0) {
        kvl_info(link->net->env.host->log, "cuda_ipc: peer '%s' is closing", link->name);
        link_lost(link, -ENOTCONN);
    }
}

void cuda_ipc_link_release(struct cuda_ipc_link *link, uint64_t epoch, uint64_t lease)
{
    if (epoch == 0 || link->epoch != epoch) {
        return;
    }
    link->leases--;
    link->released[link->released_count++] = lease;
    if (link->released_count == CUDA_IPC_WIRE_RELEASE_MAX) {
        link_send_released(link);
    }
}

uint64_t cuda_ipc_link_epoch(const struct cuda_ipc_link *link)
{
    return link->epoch;
}

const struct cuda_ipc_wire_peer *cuda_ipc_link_peer(const struct cuda_ipc_link *link)
{
    return &link->peer;
}

const char *cuda_ipc_link_name(const struct cuda_ipc_link *link)
{
    return link->name;
}

const struct cuda_ipc_share *cuda_ipc_link_segment(const struct cuda_ipc_link *link,
                                                   uint32_t number, int *fd_out)
{
    if (number >= link->segment_room || link->segments[number].share.type == CUDA_IPC_SHARE_NONE) {
        return NULL;
    }
    *fd_out = link->segments[number].fd;
    return &link->segments[number].share;
}

void cuda_ipc_link_give_up(struct cuda_ipc_link *link)
{
    link->is_useless = true;
}

int cuda_ipc_link_is_useless(const struct cuda_ipc_link *link)
{
    return link->is_useless;
}

uint32_t cuda_ipc_link_index(const struct cuda_ipc_link *link)
{
    return (uint32_t)(link - link->net->links);
}
