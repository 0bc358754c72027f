/* SPDX-License-Identifier: Apache-2.0 */
#include "peer_rig.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "py_socket_data.h"

#define WAIT_MS 20000u

const char *const rig_tcp[] = {"shm", "no", NULL};
const char *const rig_remote[] = {"allow_remote", "yes", NULL};

static void rig_die(const char *what, int code)
{
    fprintf(stderr, "peer rig: %s: %s\n", what, strerror(code < 0 ? -code : code));
    abort();
}

static const struct kvl_channel_ops *rig_ops(void)
{
    return kvlane_backend_v1()->ops->channels;
}

/* ---- time ---- */

static uint64_t rig_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

uint64_t rig_in(uint64_t ms)
{
    return rig_now() + ms;
}

uint64_t rig_soon(void)
{
    return rig_in(WAIT_MS);
}

/* ---- peers ---- */

void rig_start(struct rig_peer *peer, const struct rig_setup *setup)
{
    const struct kvl_backend_desc *desc = kvlane_backend_v1();
    struct kvl_err err = {.size = sizeof(err)};
    struct kvl_channel_params params = {
        .size = sizeof(params),
        .role = setup->role != 0 ? setup->role : KVL_CHANNEL_BOTH,
        .flags = setup->flags,
        .buffer = setup->buffer,
        .buffer_bytes = setup->bytes != 0 ? setup->bytes : RIG_BYTES,
        .align_bytes = setup->align != 0 ? setup->align : RIG_PAGE,
        .buffer_fd = -1,
        .peer_init_url = setup->url != NULL ? setup->url : "127.0.0.1:0",
        .peer_lookup_url = "127.0.0.1:1",
    };
    int r;

    peer->fake = fake_host_create(desc, setup->pairs);
    r = desc->ops->create(fake_host_table(peer->fake), &peer->self, &err);
    if (r == 0) {
        r = desc->ops->start(peer->self, &err);
    }
    if (r == 0) {
        py_socket_data_of(peer->self)->serve = setup->serve;
        r = rig_ops()->open(peer->self, &params, &peer->channel, &err);
    }
    if (r < 0) {
        fprintf(stderr, "%s\n", err.text);
        rig_die("start", r);
    }
    peer->buffer = params.buffer_out;
    snprintf(peer->url, sizeof(peer->url), "%s", rig_ops()->url(peer->channel));
}

void rig_stop(struct rig_peer *peer)
{
    const struct kvl_backend_ops *ops = kvlane_backend_v1()->ops;

    if (peer->fake == NULL) {
        return;
    }
    rig_ops()->close(peer->channel);
    ops->stop(peer->self);
    ops->destroy(peer->self);
    if (fake_host_leaks(peer->fake) != 0) {
        rig_die("leases or threads are left", 0);
    }
    fake_host_destroy(peer->fake);
    peer->fake = NULL;
}

void rig_connect(struct rig_peer *from, const char *url)
{
    struct kvl_channel_peer peer = {.size = sizeof(peer), .peer_init_url = url};
    int r = rig_ops()->connect(from->channel, &peer, rig_soon(), NULL);

    if (r < 0) {
        rig_die("connect", r);
    }
}

void rig_until_connected(struct rig_peer *peer, const char *url, int connected)
{
    uint64_t until = rig_soon();

    while (rig_ops()->is_connected(peer->channel, url) != connected) {
        if (rig_now() > until) {
            rig_die(connected ? "never connected" : "connected for ever", 0);
        }
        (void)poll(NULL, 0, 1);
    }
}

void rig_join(struct rig_peer *a, struct rig_peer *b)
{
    rig_connect(a, b->url);
    rig_until_connected(a, b->url, 1);
    rig_until_connected(b, a->url, 1);
}

int rig_submit(struct rig_peer *peer, uint32_t kind, const char *url,
               const struct kvl_span *objects, const uint64_t *indexes, uint32_t count,
               uint64_t deadline_ms, uint64_t *op_out)
{
    const struct kvl_transfer transfer = {
        .size = sizeof(transfer),
        .kind = kind,
        .peer_id = url,
        .objects = objects,
        .remote_indexes = indexes,
        .count = count,
        .deadline_ms = deadline_ms,
    };

    return rig_ops()->submit(peer->channel, &transfer, op_out);
}

int rig_move(struct rig_peer *peer, uint32_t kind, const char *url, const struct kvl_span *objects,
             const uint64_t *indexes, uint32_t count, uint32_t *moved_out)
{
    uint64_t op = 0;
    uint32_t moved = 0;
    int r = rig_submit(peer, kind, url, objects, indexes, count, rig_soon(), &op);

    if (r == 0) {
        r = rig_ops()->wait(peer->channel, op, rig_soon(), &moved);
    }
    if (moved_out != NULL) {
        *moved_out = moved;
    }
    return r;
}

/* ---- bytes ---- */

__attribute__((no_sanitize("thread"))) static uint64_t rig_word(uint64_t at, uint32_t seed)
{
    uint64_t x = at * 0x9e3779b97f4a7c15u + seed * 0xc2b2ae3d27d4eb4fu;

    return x ^ x >> 29;
}

void rig_fill(void *memory, size_t bytes, uint32_t seed)
{
    uint8_t *to = memory;

    for (size_t at = 0; at < bytes; at += 8) {
        uint64_t word = rig_word(at, seed);

        memcpy(to + at, &word, bytes - at < 8 ? bytes - at : 8);
    }
}

/* A peer in another process wrote it, and told by a pipe: no thread sanitizer can know. */
__attribute__((no_sanitize("thread"))) int rig_is(const void *memory, size_t bytes, uint32_t seed)
{
    const uint8_t *from = memory;

    for (size_t at = 0; at < bytes; at++) {
        if (from[at] != (uint8_t)(rig_word(at & ~(size_t)7, seed) >> 8 * (at & 7))) {
            return 0;
        }
    }
    return 1;
}

struct rig_find {
    const char *name;
    uint64_t value;
};

static void rig_find(void *ctx, const char *name, uint64_t value)
{
    struct rig_find *find = ctx;

    if (strcmp(find->name, name) == 0) {
        find->value = value;
    }
}

uint64_t rig_counter(struct rig_peer *peer, const char *name)
{
    struct rig_find find = {.name = name, .value = UINT64_MAX};

    kvlane_backend_v1()->ops->get_stats(peer->self, rig_find, &find);
    return find.value;
}

/* ---- children ---- */

void rig_spawn(struct rig_child *child, const char *mode, const char *url)
{
    /* A loopback address that no other process uses: a peer that comes back finds its port free. */
    const unsigned own = (unsigned)getpid();
    char fresh[32];
    int to[2];
    int from[2];
    char in[16];
    char out[16];
    size_t at = 0;

    if (pipe2(to, O_CLOEXEC) < 0 || pipe2(from, O_CLOEXEC) < 0) {
        rig_die("pipe", 0);
    }
    snprintf(fresh, sizeof(fresh), "127.%u.%u.%u:0", 64 + (own >> 14) % 64, (own >> 7) % 128,
             1 + own % 128);
    child->pid = fork();
    if (child->pid == 0) {
        snprintf(in, sizeof(in), "%d", to[0]);
        snprintf(out, sizeof(out), "%d", from[1]);
        (void)fcntl(to[0], F_SETFD, 0);
        (void)fcntl(from[1], F_SETFD, 0);
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        execl("/proc/self/exe", "peer", "--peer", mode, url != NULL ? url : fresh, in, out,
              (char *)NULL);
        _exit(127);
    }
    close(to[0]);
    close(from[1]);
    child->in = to[1];
    child->out = from[0];
    while (read(child->out, child->url + at, 1) == 1 && child->url[at] != '\n') {
        at++;
    }
    if (child->url[at] != '\n') {
        rig_die("a child did not start", 0);
    }
    child->url[at] = '\0';
}

void rig_order(struct rig_child *child, char order)
{
    char done = 0;

    if (write(child->in, &order, 1) != 1 || read(child->out, &done, 1) != 1) {
        rig_die("a child does not do what it is told", 0);
    }
}

void rig_kill(struct rig_child *child)
{
    (void)kill(child->pid, SIGKILL);
    (void)waitpid(child->pid, NULL, 0);
    close(child->in);
    close(child->out);
    child->pid = 0;
}

static void rig_obey(struct rig_peer *peer, char order)
{
    switch (order) {
    case RIG_ORDER_FILL:
        rig_fill(peer->buffer, RIG_BYTES, 9);
        break;
    case RIG_ORDER_CHECK:
        if (!rig_is(peer->buffer, RIG_PAGE, 5)) {
            rig_die("page 0 is not what it should be", 0);
        }
        break;
    case RIG_ORDER_CLOSE:
        rig_ops()->close(peer->channel);
        peer->channel = NULL;
        break;
    default:
        break;
    }
}

int rig_child_main(int argc, char **argv)
{
    struct rig_peer peer = {0};
    struct rig_setup setup = {0};
    int in;
    int out;
    char order;

    if (argc != 6 || strcmp(argv[1], "--peer") != 0) {
        return -1;
    }
    setup.pairs = strcmp(argv[2], "tcp") == 0 ? rig_tcp : NULL;
    setup.url = argv[3];
    if (strcmp(argv[2], "net") == 0) {
        setup.pairs = rig_remote;
        setup.url = strchr(argv[3], ',') + 1;
        if (setns((int)strtol(argv[3], NULL, 10), CLONE_NEWNET) < 0) {
            rig_die("setns", -errno);
        }
    }
    in = (int)strtol(argv[4], NULL, 10);
    out = (int)strtol(argv[5], NULL, 10);
    rig_start(&peer, &setup);
    rig_fill(peer.buffer, RIG_BYTES, 7);
    dprintf(out, "%s\n", peer.url);
    while (read(in, &order, 1) == 1 && order != RIG_ORDER_END) {
        rig_obey(&peer, order);
        if (write(out, &order, 1) != 1) {
            break;
        }
    }
    rig_stop(&peer);
    return 0;
}
