/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file tcp_peers.h
 * The servers that are compared, each a child of the benchmark that ends with it.
 */
#ifndef KVL_TESTS_TCP_PEERS_H
#define KVL_TESTS_TCP_PEERS_H

#include <sys/types.h>

#include "tcp_load.h"

enum tcp_peer_kind { TCP_PEER_RAW, TCP_PEER_KVLANE, TCP_PEER_PYTHON, TCP_PEER_REDIS };

struct tcp_peer {
    pid_t pid; /* 0 = not there */
    struct sockaddr_storage addr; /* TCP */
    socklen_t addr_length;
    struct sockaddr_storage local; /* Unix path; kvlane alone */
    socklen_t local_length;
    char folder[64]; /* of the Unix path, "" = none */
};

/**
 * Starts a server on a free port and waits until it can be reached. Call before any thread exists.
 * @param memory  bytes of values it is to hold
 * @return 0; -1 when it cannot be had here
 */
int tcp_peer_start(struct tcp_peer *peer, enum tcp_peer_kind kind, size_t memory);

/** Ends it. Takes one that was never started. */
void tcp_peer_stop(struct tcp_peer *peer);

/** Processor time it has used so far, in seconds. */
double tcp_peer_cpu(const struct tcp_peer *peer);

#endif /* KVL_TESTS_TCP_PEERS_H */
