/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file controller_bind.h
 * ZMQ sockets of role controller, and the addresses that workers are told.
 */
#ifndef KVL_CONTROLLER_BIND_H
#define KVL_CONTROLLER_BIND_H

#include "controller_options.h"

/** Room for `host:port` with its terminator. */
#define CONTROLLER_ADDRESS_ROOM 280u

/**
 * Makes a socket with the limits of the options, and binds it.
 * @param type        ZMQ_PULL, ZMQ_ROUTER
 * @param port        0 = the kernel picks
 * @param io_thread   of the context, from 0
 * @param port_out    the port in use
 * @return 0; -EACCES the address is open to others and allow_remote is not set; -EADDRINUSE, ...;
 *         with err->text.
 */
int controller_bind(void *zmq, const struct controller_options *options, int type, int32_t port,
                    unsigned io_thread, void **socket_out, int32_t *port_out, struct kvl_err *err);

/**
 * Refuses an address that is open to others when allow_remote is not set. Looks up no names: where
 * `host` is one, controller_bind() finds out. @return 0; -EINVAL and err->text.
 */
int controller_bind_check(const char *host, int allow_remote, struct kvl_err *err);

/** Prints `host:port` as a person would use it, with brackets around IPv6. */
void controller_bind_print(const char *host, int32_t port, char *text_out, size_t size);

/**
 * Prints the address where the worker with address `worker_ip` reaches `host`:`port`, without a
 * scheme. A host that stands for all addresses becomes that of this machine; the worker's own
 * becomes 127.0.0.1.
 */
void controller_bind_address_for(const char *host, int32_t port, struct kvl_text worker_ip,
                                 char *text_out, size_t size);

/** 1 when the host stands for all addresses: 0.0.0.0, `*`, `::`, "". */
int controller_bind_is_wide(const char *host);

#endif /* KVL_CONTROLLER_BIND_H */
