/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file py_socket_chunks.h
 * The own store as peers see it: what the data plane asks when a peer looks up or gets chunks.
 */
#ifndef KVL_PY_SOCKET_CHUNKS_H
#define KVL_PY_SOCKET_CHUNKS_H

#include "py_socket_data.h"

/** Fills the record; `host` is borrowed and outlives it. Where the store cannot be mapped by other
 *  processes its bytes go through sockets. */
void py_socket_chunks_serve(const struct kvl_host *host, struct py_socket_serve_ops *ops_out);

#endif /* KVL_PY_SOCKET_CHUNKS_H */
