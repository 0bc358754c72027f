/* SPDX-License-Identifier: Apache-2.0 */
/* tcp_remote_tls.h where OpenSSL was missing: no context, hence no session. */
#include "tcp_remote_tls.h"

#include <errno.h>
#include <stddef.h>

#include "setting.h"
#include "tcp_remote_options.h"

bool tcp_remote_tls_is_built(void)
{
    return false;
}

int tcp_remote_tls_create(bool is_server, const struct tcp_remote_tls_files *files,
                          struct tcp_remote_tls **tls_out, struct kvl_err *err)
{
    (void)is_server;
    (void)files;
    (void)tls_out;
    return kvl_fail(err, -EINVAL, "tcp_remote: " TCP_REMOTE_NO_TLS);
}

void tcp_remote_tls_destroy(struct tcp_remote_tls *tls)
{
    (void)tls;
}

int tcp_remote_session_create(struct tcp_remote_tls *tls, int fd, const char *name,
                              struct tcp_remote_session **session_out)
{
    (void)tls;
    (void)fd;
    (void)name;
    (void)session_out;
    return -ENOTSUP;
}

void tcp_remote_session_destroy(struct tcp_remote_session *session)
{
    (void)session;
}

int tcp_remote_session_shake(struct tcp_remote_session *session)
{
    (void)session;
    return -EPROTO;
}

bool tcp_remote_session_is_up(const struct tcp_remote_session *session)
{
    (void)session;
    return false;
}

ssize_t tcp_remote_session_readv(struct tcp_remote_session *session, const struct iovec *iov,
                                 size_t count)
{
    (void)session;
    (void)iov;
    (void)count;
    errno = EPROTO;
    return -1;
}

ssize_t tcp_remote_session_writev(struct tcp_remote_session *session, const struct iovec *iov,
                                  size_t count)
{
    return tcp_remote_session_readv(session, iov, count);
}

enum tcp_remote_want tcp_remote_session_want(const struct tcp_remote_session *session)
{
    (void)session;
    return TCP_REMOTE_WANT_NONE;
}

bool tcp_remote_session_has_more(const struct tcp_remote_session *session)
{
    (void)session;
    return false;
}

const char *tcp_remote_session_error(const struct tcp_remote_session *session)
{
    (void)session;
    return "";
}
