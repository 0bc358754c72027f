/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file registry_peer.h
 * LMCache's RegistryTree in a Python process of its own, or a stand-in for it.
 */
#ifndef KVL_TESTS_REGISTRY_PEER_H
#define KVL_TESTS_REGISTRY_PEER_H

#include <stdint.h>

struct registry_peer {
    char name[32]; /* "RegistryTree" or "stand-in" */
    double admit_ops_s;
    double find_1_ns;
    double miss_1_ns;
    double find_100_ns; /* a prompt of 100 ids */
    double remove_ns;
};

/**
 * Fills one with `count` holders of `each` keys, measures it and prints a line of the table.
 * @return 0; -ENOENT without any Python.
 */
int registry_peer_run(struct registry_peer *peer, uint64_t count, uint64_t each);

#endif /* KVL_TESTS_REGISTRY_PEER_H */
