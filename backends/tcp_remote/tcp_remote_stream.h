/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file tcp_remote_stream.h
 * Bytes of a connection, plain or through TLS: one comparison more than the system call itself.
 * `session` is NULL where there is no TLS.
 */
#ifndef KVL_TCP_REMOTE_STREAM_H
#define KVL_TCP_REMOTE_STREAM_H

#include <sys/socket.h>

#include "tcp_remote_tls.h"

static inline ssize_t tcp_remote_stream_recv(int fd, struct tcp_remote_session *session,
                                             void *bytes_out, size_t length)
{
    const struct iovec iov = {.iov_base = bytes_out, .iov_len = length};

    return session == NULL ? recv(fd, bytes_out, length, 0)
                           : tcp_remote_session_readv(session, &iov, 1);
}

static inline ssize_t tcp_remote_stream_readv(int fd, struct tcp_remote_session *session,
                                              const struct iovec *iov, size_t count)
{
    return session == NULL ? readv(fd, iov, (int)count)
                           : tcp_remote_session_readv(session, iov, count);
}

/** Never raises SIGPIPE. Uses only the iovecs of `msg`. */
static inline ssize_t tcp_remote_stream_send(int fd, struct tcp_remote_session *session,
                                             const struct msghdr *msg)
{
    return session == NULL ? sendmsg(fd, msg, MSG_NOSIGNAL)
                           : tcp_remote_session_writev(session, msg->msg_iov, msg->msg_iovlen);
}

#endif /* KVL_TCP_REMOTE_STREAM_H */
