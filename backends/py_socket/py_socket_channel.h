/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file py_socket_channel.h
 * The slots of kvl_channel_ops as the contract in channel.h has them.
 */
#ifndef KVL_PY_SOCKET_CHANNEL_H
#define KVL_PY_SOCKET_CHANNEL_H

#include "py_socket_core.h"

/** 1 in a forked child of the process that started the instance. */
int py_socket_data_is_child(const struct py_socket_data *data);

int py_socket_channel_open(void *self, struct kvl_channel_params *params,
                           struct kvl_channel **channel_out, struct kvl_err *err);
void py_socket_channel_close(struct kvl_channel *channel);
const char *py_socket_channel_url(struct kvl_channel *channel);

/* ---- py_socket_connect.c ---- */

int py_socket_channel_connect(struct kvl_channel *channel, struct kvl_channel_peer *peer,
                              uint64_t deadline_ms, uint64_t *op_out);
int py_socket_channel_is_connected(struct kvl_channel *channel, const char *peer_id);
int py_socket_channel_side(struct kvl_channel *channel, struct kvl_channel_peer *peer,
                           uint64_t deadline_ms);

/* ---- py_socket_transfer.c ---- */

int py_socket_channel_indexes(struct kvl_channel *channel, const struct kvl_span *objects,
                              uint32_t count, uint64_t *indexes_out);
int py_socket_channel_submit(struct kvl_channel *channel, const struct kvl_transfer *transfer,
                             uint64_t *op_out);

/* ---- py_socket_wait.c ---- */

int py_socket_channel_wait(struct kvl_channel *channel, uint64_t op, uint64_t deadline_ms,
                           uint32_t *moved_out);
void py_socket_channel_cancel(struct kvl_channel *channel, uint64_t op);
int py_socket_channel_poll(struct kvl_channel *channel, struct kvl_channel_done *done_out,
                           uint32_t room);
int py_socket_channel_event_fd(struct kvl_channel *channel);

#endif /* KVL_PY_SOCKET_CHANNEL_H */
