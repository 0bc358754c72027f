/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file link_rig.h
 * What the tests of py_socket's handshake share: a link with its host and context, raw ZMQ peers
 * that never wait for ever, and what the link told. Failures end the test.
 */
#ifndef KVL_LINK_RIG_H
#define KVL_LINK_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "fake_host.h"
#include "py_socket_counters.h"
#include "py_socket_link.h"
#include "py_socket_options.h"
#include "py_socket_zmq.h"

#define RIG_PATIENCE_MS 20000

struct rig {
    struct fake_host *fake;
    const struct kvl_host *host;
    struct py_socket_options options;
    struct py_socket_counters counters;
    struct py_socket_zmq *zmq;
    struct py_socket_link *link;
    /* what the link told */
    _Atomic uint32_t ups;
    _Atomic uint32_t gones;
    _Atomic int last_gone;
    _Atomic uint64_t last_gone_incarnation;
};

/** The keys, and the context; no link yet. */
void rig_open(struct rig *rig, const char *const *pairs);
/** A link at `url`, NULL = one that only initiates; with an offer of no endpoints. */
void rig_link(struct rig *rig, const char *url, const char *lookup_url, int is_async);
void rig_unlink(struct rig *rig);
/** Closes it all and checks that nothing is left over. */
void rig_close(struct rig *rig);
/** All of it with default keys at a free port of loopback. */
void rig_start(struct rig *rig);

/** Does the handshake. @return the code of py_socket_link_call_wait. */
int rig_shake(struct rig *rig, const char *url, uint64_t timeout_ms);

/** Waits until `counter` is at least `value`, driving the link when it is async. */
void rig_wait(struct rig *rig, const _Atomic uint64_t *counter, uint64_t value);
void rig_wait_gones(struct rig *rig, uint32_t value);

uint64_t rig_now(void);
uint32_t rig_descriptors(void);

/* ---- raw peers ---- */

extern void *raw_context; /* made by the first user, ended by raw_end */
void *raw_socket(int type);
void raw_connect(void *socket, const char *url);
/** Binds at a free port of loopback. */
void raw_bind(void *socket, char *url_out);
void raw_close(void *socket);
void raw_end(void);

/** Sends one frame; receives one into a buffer of that size. @return its length. */
void raw_send(void *socket, const void *bytes, size_t length);
size_t raw_recv(void *socket, void *bytes_out, size_t room);
/** Sends bytes to a link and decodes what it answers. Text of `msg` lives until the next ask. */
void raw_ask(void *req, const void *bytes, size_t length, struct py_socket_msg *msg_out);
/** An init request of that name, as a kvlane peer of that incarnation or, with 0, a Python one. */
void raw_hello(void *req, const char *name, uint64_t incarnation, struct py_socket_msg *msg_out);
/** An offer that decodes. */
struct py_socket_offer raw_offer(uint64_t incarnation);
int raw_text_is(const struct kvl_text *text, const char *wanted);

#endif /* KVL_LINK_RIG_H */
