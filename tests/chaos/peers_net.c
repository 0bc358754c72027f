/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two engines on two hosts with a cable between them: network namespaces and a veth pair. Chunks
 * are found and loaded over it, with delay and loss where the kernel has netem; with the cable cut
 * every request ends by its deadline and soon nobody waits any more; with the cable back all is
 * found again. Skipped (77) where namespaces or iproute2 are not to be had.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "chunks_rig.h"

#define SKIP 77
#define BIG ((size_t)8 << 20)
#define TIMEOUT_MS 1000u
#define HEAD                                                                                       \
    "log_level = off\n[store]\nmax_bytes = 64MiB\n[py_socket]\nallow_remote = yes\n"               \
    "handshake_timeout = 1s\n"

static void check(int ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "peers_net: failed: %s\n", what);
        exit(1);
    }
}

static int command(const char *fmt, ...) KVL_PRINTF(1, 2);

static int command(const char *fmt, ...)
{
    char text[512];
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    return system(text);
}

/* Makes two hosts; we are on the first one. @return 0; -errno. */
static int make_hosts(int *here_out, int *there_out)
{
    int here = -1;
    int there = -1;

    if (unshare(CLONE_NEWNET) < 0) {
        return -errno;
    }
    there = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    if (there < 0 || unshare(CLONE_NEWNET) < 0) {
        return -errno;
    }
    here = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    if (here < 0 ||
        command("PATH=$PATH:/usr/sbin:/sbin; "
                "ip link add kvl0 type veth peer name kvl1 netns /proc/%d/fd/%d && "
                "ip addr add 10.78.0.1/24 dev kvl0 && ip link set kvl0 up && ip link set lo up && "
                "nsenter --net=/proc/%d/fd/%d sh -c 'ip addr add 10.78.0.2/24 dev kvl1 && "
                "ip link set kvl1 up && ip link set lo up'",
                getpid(), there, getpid(), there) != 0) {
        return -ENOTSUP;
    }
    *here_out = here;
    *there_out = there;
    return 0;
}

static void cable(const char *state)
{
    check(command("PATH=$PATH:/usr/sbin:/sbin; ip link set kvl0 %s", state) == 0, state);
}

/* Loads until it is there, for 40 s: a host that was gone is looked for with pauses. */
static void comes_back(struct rig_node *own, const char *key)
{
    const uint64_t until = engine_now_ms() + 40000;

    while (rig_lookup(own, key, 5000, NULL) != 0) {
        check(engine_now_ms() < until, "with the cable back it is found again");
        (void)poll(NULL, 0, 50);
    }
    (void)rig_expect(own, key, BIG);
}

static void cut(struct rig_node *own)
{
    static uint8_t bytes[BIG];
    static uint8_t seen[BIG];
    uint32_t slow = 0;
    uint64_t took;

    cable("down");
    for (int i = 0; i < 5; i++) {
        const uint64_t start = engine_now_ms();

        check(rig_load(own, "k", bytes, BIG, 300) < 0, "nothing comes over a cut cable");
        check(engine_now_ms() - start < 300 + TIMEOUT_MS, "a load ends by its deadline");
    }
    for (int i = 0; i < 20; i++) {
        check(rig_lookup(own, "k", 5000, &took) < 0, "nothing is found over a cut cable");
        slow += took > TIMEOUT_MS / 2;
        (void)poll(NULL, 0, 50);
    }
    check(slow <= 1, "one lookup may wait for a host that is gone");
    memcpy(seen, bytes, BIG);
    cable("up");
    comes_back(own, "k");
    check(memcmp(seen, bytes, BIG) == 0, "no late byte");
}

/* Cut in the middle of a load, again and again. */
static void cut_inside(struct rig_node *own)
{
    static uint8_t bytes[BIG];

    for (int round = 0; round < 5; round++) {
        struct engine_batch batch;
        uint64_t op;
        int r;

        engine_batch_init(&batch, 500);
        (void)engine_batch_add(&batch, "k", bytes, BIG);
        r = own->engine.plugin->load(own->engine.instance, &batch.batch, &batch.result, &op);
        (void)poll(NULL, 0, round);
        cable("down");
        if (r == -EINPROGRESS) {
            (void)own->engine.plugin->wait(own->engine.instance, op, engine_now_ms() + 10000,
                                           &batch.result);
        }
        check(batch.status[0] != 0 || rig_differs("k", bytes, BIG) == 0, "right bytes or none");
        cable("up");
        comes_back(own, "k");
    }
}

int main(int argc, char **argv)
{
    struct rig_child child;
    struct rig_node own;
    int here = -1;
    int there = -1;
    int r;

    rig_be_child(argc, argv);
    r = make_hosts(&here, &there);
    if (r < 0) {
        fprintf(stderr, "peers_net: skipped: no network namespaces: %s\n", strerror(-r));
        return SKIP;
    }
    check(setns(there, CLONE_NEWNET) == 0, "the other host");
    rig_spawn(&child, HEAD "bind = 10.78.0.2:0\n");
    check(setns(here, CLONE_NEWNET) == 0, "back");
    rig_open(&own, HEAD "bind = 10.78.0.1:0\npeers = %s\n", child.url);
    rig_child_save(&child, "k", BIG);
    rig_await(&own, "k", 0);
    (void)rig_expect(&own, "k", BIG);
    check(engine_stat(&own.engine, "py_socket_data_peers_tcp") == 1, "TCP");
    cut(&own);
    cut_inside(&own);
    if (command("PATH=$PATH:/usr/sbin:/sbin; "
                "tc qdisc add dev kvl0 root netem delay 3ms loss 2%% 2>/dev/null") == 0) {
        for (int i = 0; i < 5; i++) {
            (void)rig_expect(&own, "k", BIG);
        }
        cut(&own);
    } else {
        printf("peers_net: this kernel has no netem: no delay, no loss\n");
    }
    rig_close(&own);
    rig_reap(&child);
    printf("peers_net: ok\n");
    return 0;
}
