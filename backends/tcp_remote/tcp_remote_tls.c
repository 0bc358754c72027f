/* SPDX-License-Identifier: Apache-2.0 */
#include "tcp_remote_tls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include "setting.h"
#include "tcp_remote_options.h"

/* Payload of one record; larger ones do not exist. */
#define RECORD_BYTES ((size_t)16384)
/* Read from the socket at once, so that a record does not cost two system calls. */
#define READ_AHEAD_BYTES ((size_t)64 * 1024)
#define ERROR_BYTES 160u

struct tcp_remote_tls {
    OSSL_LIB_CTX *library;
    BIO_METHOD *method;
    SSL_CTX *ctx;
    bool is_server;
};

struct tcp_remote_session {
    SSL *ssl;
    int fd; /* borrowed */
    bool failed;
    bool closed; /* the peer said goodbye */
    bool starved; /* the last read found nothing */
    enum tcp_remote_want want;
    char error[ERROR_BYTES];
    uint8_t record[RECORD_BYTES]; /* small pieces leave together */
};

bool tcp_remote_tls_is_built(void)
{
    return true;
}

/* ---- the socket: as OpenSSL's own, but a peer that went away must not raise SIGPIPE ---- */

static int tls_bio_write(BIO *bio, const char *bytes, size_t length, size_t *written)
{
    const struct tcp_remote_session *session = BIO_get_data(bio);
    ssize_t n = send(session->fd, bytes, length, MSG_NOSIGNAL);

    BIO_clear_retry_flags(bio);
    if (n < 0) {
        if (errno == EAGAIN || errno == EINTR) {
            BIO_set_retry_write(bio);
        }
        return 0;
    }
    *written = (size_t)n;
    return 1;
}

static int tls_bio_read(BIO *bio, char *bytes, size_t length, size_t *read_out)
{
    const struct tcp_remote_session *session = BIO_get_data(bio);
    ssize_t n = recv(session->fd, bytes, length, 0);

    BIO_clear_retry_flags(bio);
    if (n <= 0) {
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
            BIO_set_retry_read(bio);
        } else if (n == 0) {
            BIO_set_flags(bio, BIO_FLAGS_IN_EOF);
        }
        return 0;
    }
    *read_out = (size_t)n;
    return 1;
}

static long tls_bio_ctrl(BIO *bio, int command, long number, void *pointer)
{
    (void)number;
    (void)pointer;
    switch (command) {
    case BIO_CTRL_FLUSH:
        return 1;
    case BIO_CTRL_EOF:
        return BIO_test_flags(bio, BIO_FLAGS_IN_EOF) != 0;
    default:
        return 0;
    }
}

static BIO_METHOD *tls_make_method(void)
{
    /* no number of its own: a process has 127 of them, and they are never given back */
    BIO_METHOD *method = BIO_meth_new(BIO_TYPE_SOURCE_SINK, "kvlane");

    if (method == NULL) {
        return NULL;
    }
    (void)BIO_meth_set_write_ex(method, tls_bio_write);
    (void)BIO_meth_set_read_ex(method, tls_bio_read);
    (void)BIO_meth_set_ctrl(method, tls_bio_ctrl);
    return method;
}

/* ---- contexts ---- */

/* Without it a key with a passphrase would ask for it on the terminal of the engine. */
static int tls_no_passphrase(char *out, int size, int is_write, void *ctx)
{
    (void)out;
    (void)size;
    (void)is_write;
    (void)ctx;
    return -1;
}

static int tls_complain(struct kvl_err *err, const char *what, const char *path)
{
    unsigned long code = ERR_peek_error();
    const char *reason =
        ERR_SYSTEM_ERROR(code) ? strerror(ERR_GET_REASON(code)) : ERR_reason_error_string(code);
    int r = kvl_fail(err, -EINVAL, "tcp_remote: %s '%s': %s", what, path,
                     reason != NULL ? reason : "cannot be used");

    ERR_clear_error();
    return r;
}

static int tls_load_own(SSL_CTX *ctx, const struct tcp_remote_tls_files *files, struct kvl_err *err)
{
    if (files->cert[0] == '\0') {
        return 0;
    }
    if (SSL_CTX_use_certificate_chain_file(ctx, files->cert) != 1) {
        return tls_complain(err, "cannot load tls_cert", files->cert);
    }
    if (SSL_CTX_use_PrivateKey_file(ctx, files->key, SSL_FILETYPE_PEM) != 1) {
        return tls_complain(err, "cannot load tls_key", files->key);
    }
    if (SSL_CTX_check_private_key(ctx) != 1) {
        return tls_complain(err, "tls_cert does not go with tls_key", files->key);
    }
    return 0;
}

static int tls_load_ca(const struct tcp_remote_tls *tls, const struct tcp_remote_tls_files *files,
                       struct kvl_err *err)
{
    STACK_OF(X509_NAME) * names;

    if (files->ca[0] == '\0') {
        if (tls->is_server || SSL_CTX_set_default_verify_paths(tls->ctx) == 1) {
            return 0;
        }
        return tls_complain(err, "cannot load", "the roots of this machine");
    }
    if (SSL_CTX_load_verify_file(tls->ctx, files->ca) != 1) {
        return tls_complain(err, "cannot load tls_ca", files->ca);
    }
    if (tls->is_server) {
        names = SSL_load_client_CA_file_ex(files->ca, tls->library, NULL);
        if (names == NULL) {
            return tls_complain(err, "cannot load tls_ca", files->ca);
        }
        SSL_CTX_set_client_CA_list(tls->ctx, names);
        SSL_CTX_set_verify(tls->ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    }
    return 0;
}

static void tls_set_up(const struct tcp_remote_tls *tls)
{
    SSL_CTX *ctx = tls->ctx;

    (void)SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
    (void)SSL_CTX_set_cipher_list(ctx, "ECDHE+AESGCM:ECDHE+CHACHA20");
    /* every connection shows its certificate: nobody resumes what he was given earlier */
    (void)SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                                       SSL_OP_NO_TICKET | SSL_OP_IGNORE_UNEXPECTED_EOF);
    (void)SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    (void)SSL_CTX_set_num_tickets(ctx, 0);
    (void)SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_RELEASE_BUFFERS |
                                    SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_read_ahead(ctx, 1);
    SSL_CTX_set_default_read_buffer_len(ctx, READ_AHEAD_BYTES);
    SSL_CTX_set_default_passwd_cb(ctx, tls_no_passphrase);
    if (!tls->is_server) {
        SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
    }
}

int tcp_remote_tls_create(bool is_server, const struct tcp_remote_tls_files *files,
                          struct tcp_remote_tls **tls_out, struct kvl_err *err)
{
    struct tcp_remote_tls *tls = calloc(1, sizeof(*tls));
    int r;

    if (tls == NULL) {
        return kvl_fail(err, -ENOMEM, "tcp_remote: no memory");
    }
    /* whoever comes first decides for the process: leave its exit and its files alone */
    (void)OPENSSL_init_ssl(OPENSSL_INIT_NO_LOAD_CONFIG | OPENSSL_INIT_NO_ATEXIT, NULL);
    ERR_clear_error();
    tls->is_server = is_server;
    tls->library = OSSL_LIB_CTX_new();
    tls->method = tls_make_method();
    if (tls->library != NULL) {
        tls->ctx = SSL_CTX_new_ex(tls->library, NULL,
                                  is_server ? TLS_server_method() : TLS_client_method());
    }
    if (tls->ctx == NULL || tls->method == NULL) {
        tcp_remote_tls_destroy(tls);
        return kvl_fail(err, -ENOMEM, "tcp_remote: cannot set up TLS");
    }
    tls_set_up(tls);
    r = tls_load_own(tls->ctx, files, err);
    if (r == 0) {
        r = tls_load_ca(tls, files, err);
    }
    if (r < 0) {
        tcp_remote_tls_destroy(tls);
        return r;
    }
    *tls_out = tls;
    return 0;
}

void tcp_remote_tls_destroy(struct tcp_remote_tls *tls)
{
    if (tls == NULL) {
        return;
    }
    SSL_CTX_free(tls->ctx);
    BIO_meth_free(tls->method);
    OSSL_LIB_CTX_free(tls->library);
    free(tls);
}

/* ---- sessions ---- */

static int session_expect_name(SSL *ssl, const char *name)
{
    uint8_t address[16];

    if (inet_pton(AF_INET, name, address) == 1 || inet_pton(AF_INET6, name, address) == 1) {
        return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name) == 1 ? 0 : -EINVAL;
    }
    SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    if (SSL_set1_host(ssl, name) != 1) {
        return -EINVAL;
    }
    /* what SSL_set_tlsext_host_name() says, but that casts const away in a way compilers mind */
    return SSL_ctrl(ssl, SSL_CTRL_SET_TLSEXT_HOSTNAME, TLSEXT_NAMETYPE_host_name,
                    (void *)(uintptr_t)name) == 1
               ? 0
               : -EINVAL;
}

int tcp_remote_session_create(struct tcp_remote_tls *tls, int fd, const char *name,
                              struct tcp_remote_session **session_out)
{
    struct tcp_remote_session *session = calloc(1, sizeof(*session));
    BIO *bio = BIO_new(tls->method);
    int r = -ENOMEM;

    ERR_clear_error();
    if (session != NULL && bio != NULL) {
        session->fd = fd;
        session->ssl = SSL_new(tls->ctx);
    }
    if (session == NULL || session->ssl == NULL) {
        BIO_free(bio);
        free(session);
        return r;
    }
    BIO_set_data(bio, session);
    BIO_set_init(bio, 1);
    SSL_set_bio(session->ssl, bio, bio);
    if (tls->is_server) {
        SSL_set_accept_state(session->ssl);
        r = 0;
    } else {
        SSL_set_connect_state(session->ssl);
        r = session_expect_name(session->ssl, name);
    }
    if (r < 0) {
        tcp_remote_session_destroy(session);
        return r;
    }
    *session_out = session;
    return 0;
}

void tcp_remote_session_destroy(struct tcp_remote_session *session)
{
    if (session == NULL) {
        return;
    }
    ERR_clear_error();
    if (!session->failed && SSL_is_init_finished(session->ssl)) {
        (void)SSL_shutdown(session->ssl); /* one small record; it leaves or it does not */
    }
    SSL_free(session->ssl);
    ERR_clear_error();
    free(session);
}

bool tcp_remote_session_is_up(const struct tcp_remote_session *session)
{
    return SSL_is_init_finished(session->ssl) != 0;
}

enum tcp_remote_want tcp_remote_session_want(const struct tcp_remote_session *session)
{
    return session->want;
}

bool tcp_remote_session_has_more(const struct tcp_remote_session *session)
{
    if (session->closed || session->failed) {
        return true; /* the news stood behind bytes that were read; the socket may stay silent */
    }
    return !session->starved && SSL_has_pending(session->ssl) != 0;
}

const char *tcp_remote_session_error(const struct tcp_remote_session *session)
{
    return session->error;
}

static void session_note_error(struct tcp_remote_session *session, const char *fallback)
{
    const char *reason = ERR_reason_error_string(ERR_peek_last_error());
    long verdict = SSL_get_verify_result(session->ssl);

    if (verdict != X509_V_OK) {
        reason = X509_verify_cert_error_string(verdict);
    }
    snprintf(session->error, sizeof(session->error), "%s", reason != NULL ? reason : fallback);
    session->failed = true;
}

/* What a call that did not work means. @return 0 the peer has closed; a negative errno. */
static int session_judge(struct tcp_remote_session *session, int result)
{
    int os_errno = errno;

    switch (SSL_get_error(session->ssl, result)) {
    case SSL_ERROR_WANT_READ:
        session->want = TCP_REMOTE_WANT_READ;
        return -EAGAIN;
    case SSL_ERROR_WANT_WRITE:
        session->want = TCP_REMOTE_WANT_WRITE;
        return -EAGAIN;
    case SSL_ERROR_ZERO_RETURN:
        session->closed = true;
        return 0;
    case SSL_ERROR_SYSCALL:
        session_note_error(session, os_errno != 0 ? strerror(os_errno) : "the peer has closed");
        return -ECONNRESET;
    default:
        session_note_error(session, "broken");
        return -EPROTO;
    }
}

static int session_begin(struct tcp_remote_session *session)
{
    session->want = TCP_REMOTE_WANT_NONE;
    if (session->failed) { /* asking OpenSSL again would give another, worse answer */
        errno = EPROTO;
        return -EPROTO;
    }
    ERR_clear_error();
    errno = 0;
    return 0;
}

int tcp_remote_session_shake(struct tcp_remote_session *session)
{
    int r = session_begin(session);

    if (r < 0) {
        return r;
    }
    r = SSL_do_handshake(session->ssl);
    if (r == 1) {
        return 0;
    }
    r = session_judge(session, r);
    return r == 0 ? -ECONNRESET : r;
}

ssize_t tcp_remote_session_readv(struct tcp_remote_session *session, const struct iovec *iov,
                                 size_t count)
{
    ssize_t total = 0;
    size_t n = 0;
    int r = session_begin(session);

    if (r < 0) {
        return -1;
    }
    for (size_t i = 0; i < count && !session->closed; i++) {
        for (size_t at = 0; at < iov[i].iov_len; at += n) {
            r = SSL_read_ex(session->ssl, (uint8_t *)iov[i].iov_base + at, iov[i].iov_len - at, &n);
            if (r != 1) {
                r = session_judge(session, r);
                session->starved = true;
                if (total > 0) { /* what was wrong is told next time */
                    session->want = TCP_REMOTE_WANT_NONE;
                    return total;
                }
                errno = -r;
                return r == 0 ? 0 : -1;
            }
            total += (ssize_t)n;
        }
    }
    session->starved = false;
    return total;
}

/* The next record: from where the bytes are when they lie together, else gathered. */
static size_t session_record(struct tcp_remote_session *session, const struct iovec *iov,
                             size_t count, size_t skip, const void **bytes_out)
{
    size_t length = 0;

    *bytes_out = session->record;
    for (size_t i = 0; i < count && length < RECORD_BYTES; i++) {
        size_t left = iov[i].iov_len > skip ? iov[i].iov_len - skip : 0;
        const uint8_t *at = (const uint8_t *)iov[i].iov_base + (left > 0 ? skip : 0);
        size_t n = left < RECORD_BYTES - length ? left : RECORD_BYTES - length;

        skip = left > 0 ? 0 : skip - iov[i].iov_len;
        if (n == RECORD_BYTES) {
            *bytes_out = at;
            return n;
        }
        if (n > 0) {
            memcpy(session->record + length, at, n);
            length += n;
        }
    }
    return length;
}

ssize_t tcp_remote_session_writev(struct tcp_remote_session *session, const struct iovec *iov,
                                  size_t count)
{
    const void *bytes = NULL;
    size_t total = 0;
    size_t length;
    int r = session_begin(session);

    if (r < 0) {
        return -1;
    }
    while ((length = session_record(session, iov, count, total, &bytes)) > 0) {
        size_t n = 0;

        r = SSL_write_ex(session->ssl, bytes, length, &n);
        if (r != 1) {
            r = session_judge(session, r);
            if (total > 0 && r == -EAGAIN) {
                session->want = TCP_REMOTE_WANT_NONE;
                return (ssize_t)total;
            }
            errno = r == 0 ? ECONNRESET : -r;
            return -1;
        }
        total += n;
    }
    return (ssize_t)total;
}
