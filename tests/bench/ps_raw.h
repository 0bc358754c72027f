/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file ps_raw.h
 * What loopback TCP gives with nothing around it: a request of 24 bytes, and as many bytes as it
 * names one way or the other, straight from and into scattered pages.
 */
#ifndef KVL_TESTS_PS_RAW_H
#define KVL_TESTS_PS_RAW_H

#include <stdint.h>
#include <sys/uio.h>

#define PS_RAW_READ 1u
#define PS_RAW_WRITE 2u

struct ps_raw_request {
    uint64_t kind;
    uint64_t length; /* of one piece */
    uint64_t count; /* pieces, each in another place */
};

/** In the other process: serves one connection after the other, each with a thread, for ever. */
void ps_raw_serve(int listen_fd, uint8_t *memory, uint64_t bytes);

/** A connection to it. */
int ps_raw_connect(uint16_t port);
void ps_raw_send(int fd, const struct ps_raw_request *request);
/** Receives into the pieces; changes them. */
void ps_raw_receive(int fd, struct iovec *iov, uint32_t count);
/** Sends the request and the pieces, and waits for the answer. */
void ps_raw_write(int fd, const struct ps_raw_request *request, struct iovec *iov, uint32_t count);

/** Fills pieces of `length`: one after the other, or far from each other. @return how many. */
uint32_t ps_raw_pieces(uint8_t *memory, uint64_t bytes, uint64_t *at_io, uint64_t length,
                       uint32_t count, struct iovec *iov);

#endif /* KVL_TESTS_PS_RAW_H */
