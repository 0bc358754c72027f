/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cuda_ipc_port.h
 * One connected socket of the net: whole messages in both directions, descriptors beside them, and
 * a bounded queue of what the other side does not take yet. Only the net's thread touches it.
 */
#ifndef KVL_CUDA_IPC_PORT_H
#define KVL_CUDA_IPC_PORT_H

#include <stdbool.h>

#include "cuda_ipc_wire.h"

/** Messages that wait until the other side takes them. */
#define CUDA_IPC_PORT_QUEUE 1280u

struct cuda_ipc_packet;

struct cuda_ipc_port {
    int epoll_fd; /* borrowed */
    int fd; /* -1 = closed */
    int pidfd; /* of the process at the other end; -1 = none */
    uint64_t tag; /* of its events; that of pidfd has the lowest bit set */
    struct cuda_ipc_packet *first; /* waiting */
    struct cuda_ipc_packet *last;
    uint32_t waiting;
    bool is_paused; /* nothing is read for now */
};

/** Takes a socket and has it watched. @param tag  even. @return 0; -ENOMEM, ..: closed then. */
int cuda_ipc_port_open(struct cuda_ipc_port *port, int epoll_fd, int take_fd, uint64_t tag);

/** Watches the life of the process at the other end. @param take_pidfd  -1 = none */
void cuda_ipc_port_watch(struct cuda_ipc_port *port, int take_pidfd);

/** Closes and drops what waits. Of a closed one nothing. */
void cuda_ipc_port_close(struct cuda_ipc_port *port);

/**
 * Sends, or lets wait.
 * @param fd  descriptor that goes along; -1 = none
 * @return 0; -EMSGSIZE too many wait; -ENOTCONN, -EPIPE, ..; -ENOMEM.
 */
int cuda_ipc_port_send(struct cuda_ipc_port *port, const uint8_t *bytes, size_t length, int fd);

/** Sends what waits, as far as it is taken. @return 0; -ENOTCONN, .. */
int cuda_ipc_port_flush(struct cuda_ipc_port *port);

/**
 * Takes a message.
 * @param bytes_out  CUDA_IPC_WIRE_MAX bytes
 * @param fd_out     descriptor that came along, the caller's; -1 = none
 * @return 1; 0 there is none; -ENOTCONN the other side has closed; -EMSGSIZE; -EPROTO; -ECONNRESET.
 */
int cuda_ipc_port_receive(struct cuda_ipc_port *port, uint8_t *bytes_out, size_t *length_out,
                          int *fd_out);

/** Stops or goes on reading. */
void cuda_ipc_port_pause(struct cuda_ipc_port *port, bool is_paused);

#endif /* KVL_CUDA_IPC_PORT_H */
