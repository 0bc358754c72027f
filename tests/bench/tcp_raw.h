/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file tcp_raw.h
 * What loopback TCP gives when nothing is done with the bytes: a responder that reads a header and
 * its body, or answers with bytes that lie ready. No index, no allocation, no store.
 */
#ifndef KVL_TESTS_TCP_RAW_H
#define KVL_TESTS_TCP_RAW_H

#include <stddef.h>
#include <stdint.h>

/**
 * Serves the listening socket until the process ends, one thread per connection.
 * @param memory  bytes that bodies are received into and sent from, walked through in a ring; as
 *                much as the stores hold, because nobody receives 256 MiB of values into a cache
 */
void tcp_raw_serve(int listen_fd, size_t memory);

#endif /* KVL_TESTS_TCP_RAW_H */
