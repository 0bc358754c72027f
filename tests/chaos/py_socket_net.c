/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two hosts with a cable between them: network namespaces and a veth pair. Bytes move over it, with
 * delay and loss where the kernel has netem; then the cable is cut and put back. Skipped (77) where
 * namespaces or iproute2 are not to be had.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "peer_rig.h"

#define BIG (8u * 1024 * 1024)
#define SKIP 77

static const struct kvl_channel_ops *ops(void)
{
    return kvlane_backend_v1()->ops->channels;
}

static void check(int ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "py_socket_net: failed: %s\n", what);
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

/* @return descriptor of the other namespace; we are in a new one of our own. */
static int make_hosts(void)
{
    int there;

    if (unshare(CLONE_NEWNET) < 0) {
        return -errno;
    }
    there = open("/proc/self/ns/net", O_RDONLY); /* inherited by the peer on purpose */
    if (there < 0 || unshare(CLONE_NEWNET) < 0 ||
        command("PATH=$PATH:/usr/sbin:/sbin; "
                "ip link add kvl0 type veth peer name kvl1 netns /proc/%d/fd/%d && "
                "ip addr add 10.77.0.1/24 dev kvl0 && ip link set kvl0 up && ip link set lo up && "
                "nsenter --net=/proc/%d/fd/%d sh -c 'ip addr add 10.77.0.2/24 dev kvl1 && "
                "ip link set kvl1 up && ip link set lo up'",
                getpid(), there, getpid(), there) != 0) {
        return -ENOTSUP;
    }
    return there;
}

static int cable(const char *state)
{
    return command("PATH=$PATH:/usr/sbin:/sbin; ip link set kvl0 %s", state);
}

static int transfer(struct rig_peer *own, const char *url, uint64_t deadline_ms)
{
    const struct kvl_span span = {.addr = own->buffer, .length = BIG};
    uint64_t index = 0;
    uint64_t op;
    int r = rig_submit(own, KVL_TRANSFER_READ, url, &span, &index, 1, deadline_ms, &op);

    return r < 0 ? r : ops()->wait(own->channel, op, rig_soon(), NULL);
}

static void check_bytes(struct rig_peer *own, const char *url, const char *what)
{
    memset(own->buffer, 0, BIG);
    check(transfer(own, url, rig_soon()) == 0 && rig_is(own->buffer, BIG, 7), what);
}

/* Ends in time, and what ended stays untouched when the cable is back. */
static void cut_for_a_moment(struct rig_peer *own, const char *url)
{
    check(cable("down") == 0, "cut");
    check(transfer(own, url, rig_in(300)) == -ETIMEDOUT,
          "a transfer over a cut cable ends in time");
    memset(own->buffer, 0xee, BIG);
    check(cable("up") == 0, "put back");
    {
        const struct kvl_span span = {.addr = own->buffer + BIG, .length = BIG};
        uint64_t index = 0;

        check(rig_move(own, KVL_TRANSFER_READ, url, &span, &index, 1, NULL) == 0,
              "the same connection goes on");
    }
    for (size_t i = 0; i < BIG; i++) {
        check(own->buffer[i] == 0xee, "no late byte");
    }
}

static void cut_for_good(struct rig_peer *own, const char *url)
{
    uint64_t until = rig_in(60000);

    check(cable("down") == 0, "cut");
    while (ops()->is_connected(own->channel, url) == 1) {
        check(rig_in(0) < until, "a host that is gone is given up");
        (void)transfer(own, url, rig_in(500));
    }
    check(cable("up") == 0, "put back");
    rig_connect(own, url);
    check_bytes(own, url, "after a new handshake");
}

int main(int argc, char **argv)
{
    const struct rig_setup setup = {.pairs = rig_remote, .url = "10.77.0.1:0"};
    struct rig_child child;
    struct rig_peer own;
    char url[64];
    int there;
    int r = rig_child_main(argc, argv);

    if (r >= 0) {
        return r;
    }
    there = make_hosts();
    if (there < 0) {
        fprintf(stderr, "py_socket_net: skipped: no network namespaces: %s\n", strerror(-there));
        return SKIP;
    }
    snprintf(url, sizeof(url), "%d,10.77.0.2:0", there);
    rig_spawn(&child, "net", url);
    rig_start(&own, &setup);
    rig_connect(&own, child.url);
    check(rig_counter(&own, "data_peers_tcp") == 1, "abstract sockets do not cross: TCP");
    check_bytes(&own, child.url, "over the cable");
    cut_for_a_moment(&own, child.url);
    if (command("PATH=$PATH:/usr/sbin:/sbin; "
                "tc qdisc add dev kvl0 root netem delay 3ms loss 2%% 2>/dev/null") == 0) {
        for (int i = 0; i < 5; i++) {
            check_bytes(&own, child.url, "with delay and loss");
        }
    } else {
        printf("py_socket_net: this kernel has no netem: no delay, no loss\n");
    }
    if (argc > 1 && strcmp(argv[1], "--quick") == 0) {
        printf("py_socket_net: a cable that stays cut is left out: --quick\n");
    } else {
        cut_for_good(&own, child.url);
    }
    rig_stop(&own);
    rig_kill(&child);
    printf("py_socket_net: ok\n");
    return 0;
}
