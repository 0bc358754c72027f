/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file tcp_remote_tls.h
 * TLS 1.3 and 1.2 for connections of both roles, without blocking: a context per instance, a
 * session per connection. Where the build has no OpenSSL, no context can be made.
 *
 * OpenSSL is used through a library context of our own: no configuration file of the machine, no
 * state shared with an engine that uses OpenSSL itself, nothing at exit. A session belongs to one
 * thread at a time.
 */
#ifndef KVL_TCP_REMOTE_TLS_H
#define KVL_TCP_REMOTE_TLS_H

#include <stdbool.h>
#include <sys/types.h>
#include <sys/uio.h>

#include <kvlane/io.h>

struct tcp_remote_session;
struct tcp_remote_tls;

/** Paths of PEM files; "" = none. */
struct tcp_remote_tls_files {
    const char *cert; /* own certificate, then the ones between it and a root */
    const char *key; /* of it, without a passphrase */
    const char *ca; /* who may sign the peer's; client: "" = the roots of the machine */
};

/** What a session waits for after EAGAIN. */
enum tcp_remote_want { TCP_REMOTE_WANT_NONE, TCP_REMOTE_WANT_READ, TCP_REMOTE_WANT_WRITE };

/** True when this build can do TLS. */
bool tcp_remote_tls_is_built(void);

/**
 * Loads certificates. A server asks its peers for one when `ca` is given, and refuses who has none.
 * @return 0; -EINVAL a file that does not load, or a build without TLS; -ENOMEM. err->text.
 */
int tcp_remote_tls_create(bool is_server, const struct tcp_remote_tls_files *files,
                          struct tcp_remote_tls **tls_out, struct kvl_err *err);

/** Frees; its sessions must be gone. Takes NULL. */
void tcp_remote_tls_destroy(struct tcp_remote_tls *tls);

/**
 * Begins TLS on a connected socket, which stays the caller's and must outlive the session.
 * @param name  client: host name or address that the certificate of the peer must bear
 * @return 0; -ENOMEM; -EINVAL a name that cannot be one.
 */
int tcp_remote_session_create(struct tcp_remote_tls *tls, int fd, const char *name,
                              struct tcp_remote_session **session_out);

/** Says goodbye when that does not block, and frees. Takes NULL. */
void tcp_remote_session_destroy(struct tcp_remote_session *session);

/** Shakes hands. The calls below do so, too. @return 0 done; -EAGAIN; -EPROTO, -ECONNRESET. */
int tcp_remote_session_shake(struct tcp_remote_session *session);

/** True once the peer has shown what it must. */
bool tcp_remote_session_is_up(const struct tcp_remote_session *session);

/**
 * As readv() and writev() on a non-blocking socket; errno is EAGAIN, EPROTO or ECONNRESET. After
 * EAGAIN a writev must be tried again with the same bytes in front.
 */
ssize_t tcp_remote_session_readv(struct tcp_remote_session *session, const struct iovec *iov,
                                 size_t count);
ssize_t tcp_remote_session_writev(struct tcp_remote_session *session, const struct iovec *iov,
                                  size_t count);

/** What the last call waits for; NONE when it did not say EAGAIN. */
enum tcp_remote_want tcp_remote_session_want(const struct tcp_remote_session *session);

/** True when there may be more to read, or an end to be told, although the socket has nothing. */
bool tcp_remote_session_has_more(const struct tcp_remote_session *session);

/** Why it failed, for people. */
const char *tcp_remote_session_error(const struct tcp_remote_session *session);

#endif /* KVL_TCP_REMOTE_TLS_H */
