/* SPDX-License-Identifier: Apache-2.0 */
/* Both roles over TLS, and what comes to a TLS port that should not. */
#include "rig.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <openssl/ssl.h>

#include "certs.h"

#define BIG ((size_t)5 * 1000 * 1000 + 7)
#define KEY "k@1@0@ab@bfloat16"

static struct certs certs;

/* ---- both ends ---- */

struct ends {
    struct rig server;
    struct rig client;
    char url[80];
    const char *server_pairs[20];
    const char *client_pairs[24];
    struct fake_result *result;
};

static void serve(struct ends *ends, const char *const *more)
{
    const char *const first[] = {"role",       "server",         "listen",   "",
                                 "tls_listen", "127.0.0.1:0",    "tls_cert", certs.server_cert,
                                 "tls_key",    certs.server_key, NULL};
    struct kvl_health health = {.size = sizeof(health)};
    const char *at;
    size_t n = 0;

    memset(ends, 0, sizeof(*ends));
    ends->result = malloc(sizeof(*ends->result));
    for (const char *const *pair = first; *pair != NULL; pair++) {
        ends->server_pairs[n++] = *pair;
    }
    while (more != NULL && *more != NULL) {
        ends->server_pairs[n++] = *more++;
    }
    rig_start(&ends->server, ends->server_pairs);
    ends->server.ops->get_health(ends->server.self, &health);
    at = strstr(health.text, "lms://127.0.0.1:");
    assert_non_null(at);
    snprintf(ends->url, sizeof(ends->url), "%s", at);
    ends->server.port = (uint16_t)strtoul(at + strlen("lms://127.0.0.1:"), NULL, 10);
}

static void visit(struct ends *ends, const char *const *more)
{
    size_t n = 0;

    ends->client_pairs[n++] = "url";
    ends->client_pairs[n++] = ends->url;
    while (*more != NULL) {
        ends->client_pairs[n++] = *more++;
    }
    ends->client_pairs[n] = NULL;
    rig_start(&ends->client, ends->client_pairs);
}

static void part(struct ends *ends)
{
    rig_stop(&ends->client);
    memset(&ends->client, 0, sizeof(ends->client));
}

static void finish(struct ends *ends)
{
    if (ends->client.self != NULL) {
        rig_stop(&ends->client);
    }
    rig_stop(&ends->server);
    free(ends->result);
}

static void fill(uint8_t *bytes, size_t length, unsigned seed)
{
    for (size_t i = 0; i < length; i++) {
        seed = seed * 1103515245u + 12345u;
        bytes[i] = (uint8_t)(seed >> 16 & 0xff);
    }
}

typedef int (*submit_fn)(void *self, const struct kvl_batch *batch);

/* Moves `count` chunks of `length` bytes that stand behind each other. */
static int32_t move(struct ends *ends, submit_fn submit, uint64_t cookie, uint8_t *bytes,
                    size_t length, uint32_t count)
{
    struct kvl_chunk chunks[8];
    struct kvl_sg sg[8];
    char names[8][32];
    const uint32_t first[] = {0, 1, 2, 3, 4, 5, 6, 7, 8};
    struct kvl_batch batch = {.size = sizeof(batch),
                              .count = count,
                              .cookie = cookie,
                              .chunks = chunks,
                              .sg = sg,
                              .sg_first = first};
    int r;

    for (uint32_t i = 0; i < count; i++) {
        snprintf(names[i], sizeof(names[i]), "k@1@0@%x@half", i);
        chunks[i] = (struct kvl_chunk){
            .key = kvl_key_from_text(names[i]), .attrs = tcp_remote_no_attrs, .bytes = length};
        sg[i] = (struct kvl_sg){.addr = (uint64_t)(uintptr_t)(bytes + i * length),
                                .length = length,
                                .count = 1,
                                .device = KVL_DEVICE_HOST};
    }
    r = submit(ends->client.self, &batch);
    if (r < 0) {
        return r;
    }
    assert_int_equal(fake_host_wait(ends->client.fake, cookie, ends->result), 0);
    return ends->result->status;
}

static void round_trip(struct ends *ends, size_t length, uint32_t count)
{
    uint8_t *sent = malloc(length * count + 1);
    uint8_t *got = calloc(1, length * count + 1);

    fill(sent, length * count, (unsigned)length);
    assert_int_equal(move(ends, ends->client.ops->write, 1, sent, length, count), 0);
    assert_int_equal(move(ends, ends->client.ops->read, 2, got, length, count), 0);
    assert_memory_equal(got, sent, length * count);
    free(sent);
    free(got);
}

static void run_round_trips(const char *const *server_more, const char *const *client_more)
{
    static const size_t lengths[] = {1, 100, 16383, 16384, 16385, 65536 + 36, BIG};
    struct ends ends;

    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        serve(&ends, server_more);
        visit(&ends, client_more);
        round_trip(&ends, lengths[i], 8);
        assert_int_equal(rig_stat(&ends.server, "tls_failed"), 0);
        assert_int_equal(rig_stat(&ends.server, "protocol_errors"), 0);
        finish(&ends);
    }
}

static void test_bytes_arrive(void **state)
{
    const char *const more[] = {"tls_ca", certs.ca, NULL};

    (void)state;
    run_round_trips(NULL, more);
}

static void test_bytes_arrive_with_certificates_on_both_sides(void **state)
{
    const char *const server[] = {"tls_ca", certs.ca, NULL};
    const char *const client[] = {"tls_ca",      certs.ca,
                                  "tls_cert",    certs.client_cert,
                                  "tls_key",     certs.client_key,
                                  "connections", "1",
                                  "checksum",    "yes",
                                  NULL};

    (void)state;
    run_round_trips(server, client);
}

static void test_list_and_probe(void **state)
{
    const char *const more[] = {"tls_ca", certs.ca, "tls_name", "localhost", NULL};
    struct ends ends;
    char key[64];

    (void)state;
    serve(&ends, NULL);
    visit(&ends, more);
    for (int i = 0; i < 5000; i++) {
        snprintf(key, sizeof(key), "model@1@0@%08x@half", (unsigned)i);
        fake_host_put(ends.server.fake, key, "x", 1, &tcp_remote_no_attrs);
    }
    assert_int_equal(ends.client.ops->list(ends.client.self, 1, 0), 0);
    assert_int_equal(fake_host_wait(ends.client.fake, 1, ends.result), 0);
    assert_int_equal(ends.result->status, 0);
    assert_int_equal(fake_host_listed_count(ends.client.fake), 5000);
    assert_int_equal(ends.client.ops->probe(ends.client.self, 2, 0), 0);
    assert_int_equal(fake_host_wait(ends.client.fake, 2, ends.result), 0);
    assert_int_equal(ends.result->status, 0);
    finish(&ends);
}

/* ---- who is turned away ---- */

static void expect_refused(struct ends *ends, const char *const *more)
{
    uint8_t byte = 1;
    int32_t r;

    visit(ends, more);
    r = move(ends, ends->client.ops->write, 1, &byte, 1, 1);
    assert_true(r == -ENOTCONN || r == -ECONNRESET || r == -EPROTO);
    assert_int_equal(fake_host_stored(ends->server.fake), 0);
    part(ends);
}

static void test_clients_trust_nobody_else(void **state)
{
    const char *const wrong_ca[] = {"tls_ca", certs.other_ca, NULL};
    const char *const wrong_name[] = {"tls_ca", certs.ca, "tls_name", "example.org", NULL};
    const char *const wrong_address[] = {"tls_ca", certs.ca, "tls_name", "127.0.0.2", NULL};
    const char *const no_ca[] = {"connections", "1", NULL};
    struct ends ends;

    (void)state;
    serve(&ends, NULL);
    expect_refused(&ends, wrong_ca);
    expect_refused(&ends, wrong_name);
    expect_refused(&ends, wrong_address);
    expect_refused(&ends, no_ca);
    finish(&ends);
}

static void test_servers_want_a_certificate(void **state)
{
    const char *const server[] = {"tls_ca", certs.ca, NULL};
    const char *const none[] = {"tls_ca", certs.ca, NULL};
    const char *const stranger[] = {"tls_ca",  certs.ca,           "tls_cert", certs.stranger_cert,
                                    "tls_key", certs.stranger_key, NULL};
    const char *const late[] = {"tls_ca",  certs.ca,       "tls_cert", certs.late_cert,
                                "tls_key", certs.late_key, NULL};
    const char *const good[] = {"tls_ca",  certs.ca,         "tls_cert", certs.client_cert,
                                "tls_key", certs.client_key, NULL};
    struct ends ends;

    (void)state;
    serve(&ends, server);
    expect_refused(&ends, none);
    assert_true(rig_stat(&ends.server, "tls_failed") > 0);
    expect_refused(&ends, stranger);
    expect_refused(&ends, late);
    visit(&ends, good);
    round_trip(&ends, 1000, 1);
    finish(&ends);
}

static void test_plain_clients_and_garbage(void **state)
{
    const char *const more[] = {"tls_ca", certs.ca, NULL};
    uint8_t noise[4096];
    struct ends ends;

    (void)state;
    serve(&ends, NULL);
    visit(&ends, more);
    for (unsigned i = 0; i < 20; i++) {
        int fd = rig_connect(&ends.server);

        if (i == 0) {
            rig_send_request(fd, TCP_REMOTE_EXIST, 0, KEY);
        } else {
            fill(noise, sizeof(noise), i);
            rig_send(fd, noise, sizeof(noise));
        }
        shutdown(fd, SHUT_WR);
        while (recv(fd, noise, sizeof(noise), 0) > 0) { /* an alert, at most */
        }
        close(fd);
    }
    assert_int_equal(rig_stat(&ends.server, "requests_exist"), 0);
    round_trip(&ends, 1000, 1);
    finish(&ends);
}

/* The first bytes of a handshake, as a client of ours sends them. */
static size_t first_flight(uint8_t *bytes_out, size_t size)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    SSL *ssl = SSL_new(ctx);
    BIO *out = BIO_new(BIO_s_mem());
    int n;

    SSL_set_bio(ssl, BIO_new(BIO_s_mem()), out);
    SSL_set_connect_state(ssl);
    (void)SSL_do_handshake(ssl);
    n = BIO_read(out, bytes_out, (int)size);
    SSL_free(ssl);
    SSL_CTX_free(ctx);
    assert_true(n > 100);
    return (size_t)n;
}

static void test_handshakes_that_end_early(void **state)
{
    uint8_t hello[4096];
    size_t length = first_flight(hello, sizeof(hello));
    struct ends ends;

    (void)state;
    serve(&ends, NULL);
    for (size_t cut = 0; cut <= length; cut += 1 + length / 16) {
        int fd = rig_connect(&ends.server);

        rig_send(fd, hello, cut);
        close(fd);
    }
    while (rig_stat(&ends.server, "connections") > 0) {
        usleep(1000);
    }
    finish(&ends);
}

static void test_slow_handshakes_are_closed(void **state)
{
    const char *const server[] = {"stall_timeout", "150", NULL};
    uint8_t hello[4096];
    size_t length = first_flight(hello, sizeof(hello));
    struct ends ends;
    int silent;
    int fd;

    (void)state;
    serve(&ends, server);
    silent = rig_connect(&ends.server);
    fd = rig_connect(&ends.server);
    rig_send(fd, hello, length / 2);
    rig_expect_eof(fd);
    rig_expect_eof(silent);
    assert_int_equal(rig_stat(&ends.server, "stalled_closed"), 2);
    close(fd);
    close(silent);
    finish(&ends);
}

/* ---- a client of another kind ---- */

struct other {
    SSL_CTX *ctx;
    SSL *ssl;
    int fd;
};

static void other_connect(struct other *other, const struct rig *server, int version)
{
    other->ctx = SSL_CTX_new(TLS_client_method());
    assert_int_equal(SSL_CTX_set_max_proto_version(other->ctx, version), 1);
    other->ssl = SSL_new(other->ctx);
    other->fd = rig_connect(server);
    SSL_set_fd(other->ssl, other->fd);
}

static void other_close(struct other *other)
{
    SSL_free(other->ssl);
    SSL_CTX_free(other->ctx);
    close(other->fd);
}

static void other_recv(struct other *other, uint8_t *bytes_out, size_t length, size_t piece)
{
    size_t n = 0;

    for (size_t at = 0; at < length; at += n) {
        size_t want = length - at < piece ? length - at : piece;

        assert_int_equal(SSL_read_ex(other->ssl, bytes_out + at, want, &n), 1);
    }
}

/* Every byte a record of its own; big replies taken in small pieces; both versions. */
static void run_other(int version)
{
    uint8_t header[TCP_REMOTE_REQUEST_BYTES];
    uint8_t *value = malloc(BIG);
    uint8_t *got = malloc(BIG);
    struct tcp_remote_reply reply;
    struct other other;
    struct ends ends;
    size_t n;

    serve(&ends, NULL);
    fill(value, BIG, 3);
    fake_host_put(ends.server.fake, KEY, value, BIG, &tcp_remote_no_attrs);
    other_connect(&other, &ends.server, version);
    assert_int_equal(SSL_connect(other.ssl), 1);
    rig_header(header, TCP_REMOTE_GET, 0, KEY);
    for (size_t i = 0; i < sizeof(header); i++) {
        assert_int_equal(SSL_write_ex(other.ssl, header + i, 1, &n), 1);
    }
    for (int i = 0; i < 3; i++) { /* pipelined, in one record */
        assert_int_equal(SSL_write_ex(other.ssl, header, sizeof(header), &n), 1);
    }
    for (int i = 0; i < 4; i++) {
        other_recv(&other, header, TCP_REMOTE_REPLY_BYTES, 7);
        assert_int_equal(tcp_remote_reply_decode(header, &reply), 0);
        assert_int_equal(reply.length, BIG);
        other_recv(&other, got, BIG, i == 0 ? 1000 : BIG);
        assert_memory_equal(got, value, BIG);
    }
    (void)SSL_shutdown(other.ssl);
    other_close(&other);
    while (rig_stat(&ends.server, "connections") > 0) {
        usleep(1000);
    }
    assert_int_equal(rig_stat(&ends.server, "tls_failed"), 0);
    free(value);
    free(got);
    finish(&ends);
}

static void test_clients_of_tls_1_3(void **state)
{
    (void)state;
    run_other(TLS1_3_VERSION);
}

static void test_clients_of_tls_1_2(void **state)
{
    (void)state;
    run_other(TLS1_2_VERSION);
}

static void test_older_versions_are_refused(void **state)
{
    struct other other;
    struct ends ends;

    (void)state;
    serve(&ends, NULL);
    other_connect(&other, &ends.server, TLS1_1_VERSION);
    SSL_set_security_level(other.ssl, 0);
    assert_true(SSL_connect(other.ssl) != 1);
    other_close(&other);
    finish(&ends);
}

/* More requests in one go than a turn answers: none waits for a byte that never comes. */
static void test_many_requests_at_once(void **state)
{
    enum { COUNT = 600 };
    uint8_t *headers = malloc(COUNT * TCP_REMOTE_REQUEST_BYTES);
    uint8_t reply[TCP_REMOTE_REPLY_BYTES];
    struct other other;
    struct ends ends;
    size_t n = 0;

    (void)state;
    serve(&ends, NULL);
    other_connect(&other, &ends.server, TLS1_3_VERSION);
    assert_int_equal(SSL_connect(other.ssl), 1);
    for (size_t i = 0; i < COUNT; i++) {
        rig_header(headers + i * TCP_REMOTE_REQUEST_BYTES, TCP_REMOTE_EXIST, 0, KEY);
    }
    for (int round = 0; round < 20; round++) {
        for (size_t at = 0; at < COUNT * TCP_REMOTE_REQUEST_BYTES; at += n) {
            assert_int_equal(
                SSL_write_ex(other.ssl, headers + at, COUNT * TCP_REMOTE_REQUEST_BYTES - at, &n),
                1);
        }
        for (size_t i = 0; i < COUNT; i++) {
            other_recv(&other, reply, sizeof(reply), sizeof(reply));
        }
    }
    other_close(&other);
    free(headers);
    finish(&ends);
}

/* The goodbye of TLS comes with a request, and the socket stays open. */
static void test_goodbye_behind_a_request(void **state)
{
    uint8_t bytes[4096];
    struct other other;
    struct ends ends;
    size_t n = 0;
    BIO *flight;

    (void)state;
    serve(&ends, NULL);
    other_connect(&other, &ends.server, TLS1_3_VERSION);
    assert_int_equal(SSL_connect(other.ssl), 1);
    flight = BIO_new(BIO_s_mem());
    SSL_set0_wbio(other.ssl, flight);
    rig_header(bytes, TCP_REMOTE_EXIST, 0, KEY);
    assert_int_equal(SSL_write_ex(other.ssl, bytes, TCP_REMOTE_REQUEST_BYTES, &n), 1);
    (void)SSL_shutdown(other.ssl);
    n = (size_t)BIO_read(flight, bytes, sizeof(bytes));
    rig_send(other.fd, bytes, n);
    other_recv(&other, bytes, TCP_REMOTE_REPLY_BYTES, TCP_REMOTE_REPLY_BYTES);
    do { /* its own goodbye, then the end */
        n = (size_t)recv(other.fd, bytes, sizeof(bytes), 0);
        assert_true(n <= sizeof(bytes));
    } while (n > 0);
    assert_int_equal(rig_stat(&ends.server, "tls_failed"), 0);
    other_close(&other);
    finish(&ends);
}

/* ---- our client before peers that are no TLS servers ---- */

static void test_peers_that_do_not_answer(void **state)
{
    const char *const more[] = {"tls_ca", certs.ca, "connect_timeout", "100", NULL};
    struct ends ends = {.result = malloc(sizeof(struct fake_result))};
    uint8_t byte = 1;
    char url[64];
    int listen_fd;
    int fd;

    (void)state;
    listen_fd = rig_listen(url, sizeof(url));
    snprintf(ends.url, sizeof(ends.url), "lms://%s", url + strlen("lm://"));
    visit(&ends, more);
    fd = rig_accept(listen_fd);
    assert_int_equal(move(&ends, ends.client.ops->write, 1, &byte, 1, 1), -ENOTCONN);
    while (rig_stat(&ends.client, "connect_failed") == 0) {
        usleep(1000);
    }
    close(fd);
    fd = rig_accept(listen_fd);
    rig_send(fd, "-ERR what do you want?\r\n", 24);
    while (rig_stat(&ends.client, "connect_failed") < 2) {
        usleep(1000);
    }
    close(fd);
    rig_stop(&ends.client);
    close(listen_fd);
    free(ends.result);
}

/* ---- settings ---- */

static int try_start(const char *const *pairs, const char *text)
{
    const struct kvl_backend_ops *ops = kvlane_backend_v1()->ops;
    struct fake_host *fake = fake_host_create(kvlane_backend_v1(), pairs);
    struct kvl_err err = {.size = sizeof(err)};
    void *self = NULL;
    int r = ops->create(fake_host_table(fake), &self, &err);

    if (r == 0) {
        r = ops->start(self, &err);
        if (r == 0) {
            ops->stop(self);
        }
        ops->destroy(self);
    }
    if (strstr(err.text, text) == NULL) {
        fail_msg("'%s' does not say '%s'", err.text, text);
    }
    fake_host_destroy(fake);
    return r;
}

static void test_settings_that_cannot_be(void **state)
{
    const char *const no_cert[] = {"role", "server", "tls_listen", "127.0.0.1:0", NULL};
    const char *const no_key[] = {"role",     "server",          "tls_listen", "127.0.0.1:0",
                                  "tls_cert", certs.server_cert, NULL};
    const char *const no_use[] = {"role", "server", "tls_ca", certs.ca, NULL};
    const char *const plain_url[] = {"url", "lm://localhost:1", "tls_ca", certs.ca, NULL};
    const char *const absent[] = {"url", "lms://localhost:1", "tls_ca", "/nowhere/ca.pem", NULL};
    const char *const mixed[] = {"role",        "server",         "tls_listen",
                                 "127.0.0.1:0", "tls_cert",       certs.server_cert,
                                 "tls_key",     certs.client_key, NULL};
    const char *const locked[] = {"role",        "server",         "tls_listen",
                                  "127.0.0.1:0", "tls_cert",       certs.server_cert,
                                  "tls_key",     certs.locked_key, NULL};
    const char *const far[] = {"role",      "server",         "tls_listen",
                               "0.0.0.0:0", "tls_cert",       certs.server_cert,
                               "tls_key",   certs.server_key, NULL};

    (void)state;
    assert_int_equal(try_start(no_cert, "tls_cert"), -EINVAL);
    assert_int_equal(try_start(no_key, "go together"), -EINVAL);
    assert_int_equal(try_start(no_use, "without tls_listen"), -EINVAL);
    assert_int_equal(try_start(plain_url, "without url = lms://"), -EINVAL);
    assert_int_equal(try_start(absent, "No such file"), -EINVAL);
    assert_int_equal(try_start(mixed, "tls_key"), -EINVAL);
    assert_int_equal(try_start(locked, "tls_key"), -EINVAL);
    assert_int_equal(try_start(far, "allow_remote"), -EACCES);
}

static void test_client_certificates_open_the_door_to_others(void **state)
{
    const char *const pairs[] = {"role",       "server",         "listen",   "",
                                 "tls_listen", "0.0.0.0:0",      "tls_cert", certs.server_cert,
                                 "tls_key",    certs.server_key, "tls_ca",   certs.ca,
                                 NULL};

    (void)state;
    assert_int_equal(try_start(pairs, ""), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes_arrive),
        cmocka_unit_test(test_bytes_arrive_with_certificates_on_both_sides),
        cmocka_unit_test(test_list_and_probe),
        cmocka_unit_test(test_clients_trust_nobody_else),
        cmocka_unit_test(test_servers_want_a_certificate),
        cmocka_unit_test(test_plain_clients_and_garbage),
        cmocka_unit_test(test_handshakes_that_end_early),
        cmocka_unit_test(test_slow_handshakes_are_closed),
        cmocka_unit_test(test_clients_of_tls_1_3),
        cmocka_unit_test(test_clients_of_tls_1_2),
        cmocka_unit_test(test_older_versions_are_refused),
        cmocka_unit_test(test_many_requests_at_once),
        cmocka_unit_test(test_goodbye_behind_a_request),
        cmocka_unit_test(test_peers_that_do_not_answer),
        cmocka_unit_test(test_settings_that_cannot_be),
        cmocka_unit_test(test_client_certificates_open_the_door_to_others),
    };
    int r;

    certs_make(&certs);
    r = cmocka_run_group_tests(tests, NULL, NULL);
    certs_remove(&certs);
    return r;
}
