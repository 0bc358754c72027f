/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file py_socket_zap.h
 * Says to ZMQ whose CURVE keys may connect (ZAP, RFC 27), by a thread of its own: ZMQ asks in the
 * middle of a connection's handshake, whoever is at work in the channels then.
 */
#ifndef KVL_PY_SOCKET_ZAP_H
#define KVL_PY_SOCKET_ZAP_H

#include "py_socket_counters.h"
#include "py_socket_options.h"

struct py_socket_zap;

/** Before the first socket of the context is bound. Everything is borrowed. */
int py_socket_zap_start(const struct kvl_host *host, const struct py_socket_options *options,
                        struct py_socket_counters *counters, void *context,
                        struct py_socket_zap **zap_out);

/** After zmq_ctx_shutdown. Takes NULL. */
void py_socket_zap_stop(struct py_socket_zap *zap);

#endif /* KVL_PY_SOCKET_ZAP_H */
