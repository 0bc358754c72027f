/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cuda_ipc_self.h
 * Who we are to peers on this host, where we listen, and whether a peer is who it says it is.
 */
#ifndef KVL_CUDA_IPC_SELF_H
#define KVL_CUDA_IPC_SELF_H

#include <sys/socket.h>
#include <sys/un.h>

#include "cuda_ipc_wire.h"

/** Room for a printed address, with its terminator. */
#define CUDA_IPC_ADDRESS_TEXT 128u

/** A Unix address: a path, or an abstract name. */
struct cuda_ipc_address {
    struct sockaddr_un un;
    socklen_t length;
};

struct cuda_ipc_self {
    struct cuda_ipc_wire_hello hello;
    uint8_t boot[16]; /* id of the running kernel; zeros where it does not say */
    uint32_t uid;
};

/** Finds out who we are. Devices are left to the caller. @return 0; -EIO no random numbers. */
int cuda_ipc_self_init(struct cuda_ipc_self *self);

/** An address as people write it: `/path`, or `@name` for an abstract one. @return 0; -EINVAL. */
int cuda_ipc_address_parse(const char *text, struct cuda_ipc_address *address_out);
/** The same out of an offer. @return 0; -EINVAL. */
int cuda_ipc_address_from_bytes(const uint8_t *bytes, uint32_t length,
                                struct cuda_ipc_address *address_out);
/** An abstract name of our own that nobody else has. */
void cuda_ipc_address_own(const struct cuda_ipc_self *self, struct cuda_ipc_address *address_out);
void cuda_ipc_address_print(const struct cuda_ipc_address *address, char *text_out, size_t size);

/**
 * Listens. A path gets mode 0600, and one left behind by a dead process is replaced.
 * @return 0 and a socket, close-on-exec, not blocking; -EADDRINUSE, -EACCES, ...
 */
int cuda_ipc_address_listen(const struct cuda_ipc_address *address, int *fd_out);

/** Connects at once or not at all. @return as listen; -ECONNREFUSED, -EAGAIN, ... */
int cuda_ipc_address_connect(const struct cuda_ipc_address *address, int *fd_out);

/** The offer that leads a peer to `address`. @return its length. */
size_t cuda_ipc_self_offer(const struct cuda_ipc_self *self, const struct cuda_ipc_address *address,
                           uint8_t *bytes_out);

/** Whether the user at the other end of a socket may talk to us. @return 0; -EACCES; -EIO. */
int cuda_ipc_self_admits(const struct cuda_ipc_self *self, int fd);

/**
 * Whether the process at the other end of a socket may talk to us, and is the one its HELLO names:
 * same user or root; in our own PID namespace also its pid and start time.
 * @param pidfd_out  becomes readable when that process ends; -1 where the kernel gives none
 * @return 0; -EACCES another user; -EPROTO another process; -EIO the kernel does not tell.
 */
int cuda_ipc_self_check(const struct cuda_ipc_self *self, int fd,
                        const struct cuda_ipc_wire_hello *hello, int *pidfd_out);

#endif /* KVL_CUDA_IPC_SELF_H */
