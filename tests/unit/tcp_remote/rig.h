/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file rig.h
 * What the tests of tcp_remote share: an instance with its fake host, raw sockets that never wait
 * for ever, golden bytes. Failures end the test.
 */
#ifndef KVL_RIG_H
#define KVL_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "fake_host.h"
#include "tcp_remote_wire.h"

struct rig {
    struct fake_host *fake;
    const struct kvl_backend_desc *desc;
    const struct kvl_backend_ops *ops;
    void *self;
    uint16_t port;
    char url[240];
};

struct rig_bytes {
    uint8_t *data; /* free() */
    size_t length;
};

/** Creates and starts an instance; `pairs` must outlive it. */
void rig_start(struct rig *rig, const char *const *pairs);
/** Stops and destroys it; checks that nothing is left over. */
void rig_stop(struct rig *rig);

/** Value of a counter; fails the test when there is none. */
uint64_t rig_stat(struct rig *rig, const char *name);

/** Raw sockets, 20 s at most per call. */
int rig_connect(const struct rig *rig);
void rig_connect_with(const struct rig *rig, int fd);
int rig_listen(char *url_out, size_t size);
int rig_accept(int listen_fd);
void rig_send(int fd, const void *bytes, size_t length);
void rig_recv(int fd, void *bytes_out, size_t length);
/** The peer closed; what it did not say before is not there either. */
void rig_expect_eof(int fd);

struct rig_bytes rig_vector(const char *name);
/** A request header. */
void rig_header(uint8_t *header_out, int32_t command, int32_t length, const char *key);
void rig_send_request(int fd, int32_t command, int32_t length, const char *key);
/** Takes a request header off a raw socket and checks command and key. */
void rig_expect_request(int fd, int32_t command, const char *key);
void rig_send_reply(int fd, int32_t code, int32_t length);
/** Receives one reply header and checks it. */
void rig_expect_reply(int fd, int32_t code, int32_t length);

#endif /* KVL_RIG_H */
