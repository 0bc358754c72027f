/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file peer_rig.h
 * Instances of the backend with one channel each, in this process or in a child, for tests of the
 * data plane.
 */
#ifndef KVL_TESTS_PEER_RIG_H
#define KVL_TESTS_PEER_RIG_H

#include <sys/types.h>

#include <kvlane/channel.h>

#include "fake_host.h"

#define RIG_PAGE 65536u
#define RIG_BYTES (64u * 1024 * 1024)

struct rig_peer {
    struct fake_host *fake;
    void *self; /* instance of the backend */
    struct kvl_channel *channel;
    uint8_t *buffer;
    char url[KVL_CHANNEL_URL_ROOM];
};

struct rig_setup {
    const char *const *pairs; /* of the INI section; NULL */
    uint32_t role; /* 0 = both */
    uint32_t flags;
    uint64_t bytes; /* 0 = RIG_BYTES */
    uint64_t align; /* 0 = RIG_PAGE */
    const char *url; /* NULL = 127.0.0.1:0 */
    void *buffer; /* NULL = the channel maps one */
    const struct py_socket_serve_ops *serve; /* NULL = serves no chunks */
};

/** Options that force one path: NULL ends. */
extern const char *const rig_tcp[]; /* shm = no */

void rig_start(struct rig_peer *peer, const struct rig_setup *setup);
void rig_stop(struct rig_peer *peer);

/** Handshake and data connections; fails the test otherwise. */
void rig_connect(struct rig_peer *from, const char *url);
/** The same, and waits until the other side can transfer too. */
void rig_join(struct rig_peer *a, struct rig_peer *b);
/** Waits until is_connected is that. */
void rig_until_connected(struct rig_peer *peer, const char *url, int connected);

/** Deadline far enough for any test that goes well. */
uint64_t rig_soon(void);
uint64_t rig_in(uint64_t ms);

/** Submits one transfer and waits. @return status. */
int rig_move(struct rig_peer *peer, uint32_t kind, const char *url, const struct kvl_span *objects,
             const uint64_t *indexes, uint32_t count, uint32_t *moved_out);
int rig_submit(struct rig_peer *peer, uint32_t kind, const char *url,
               const struct kvl_span *objects, const uint64_t *indexes, uint32_t count,
               uint64_t deadline_ms, uint64_t *op_out);

/** Bytes that depend on the seed and their place. */
void rig_fill(void *memory, size_t bytes, uint32_t seed);
int rig_is(const void *memory, size_t bytes, uint32_t seed);

/** A counter of the instance. */
uint64_t rig_counter(struct rig_peer *peer, const char *name);

/* ---- a peer in a process of its own ---- */

struct rig_child {
    pid_t pid;
    int in; /* one byte per order */
    int out;
    char url[KVL_CHANNEL_URL_ROOM];
};

/** Options of a peer that listens beyond loopback: NULL ends. */
extern const char *const rig_remote[];

/**
 * Starts this program anew as a peer whose buffer is filled with seed 7 and that does what it is
 * told. @param mode  "shm", "tcp", or "net": as tcp, in the network namespace `url` begins with a
 * descriptor of, as "FD,host:port"; @param url  NULL = any port
 */
void rig_spawn(struct rig_child *child, const char *mode, const char *url);
/** Tells it to do something and waits until it has. */
void rig_order(struct rig_child *child, char order);
void rig_kill(struct rig_child *child);

#define RIG_ORDER_FILL 'f' /* the buffer with seed 9 */
#define RIG_ORDER_CHECK 'c' /* page 0 has seed 5, or it dies */
#define RIG_ORDER_CLOSE 'x' /* its channel */
#define RIG_ORDER_END 'e'

/** For main: becomes a peer when started by rig_spawn. */
int rig_child_main(int argc, char **argv);

#endif /* KVL_TESTS_PEER_RIG_H */
