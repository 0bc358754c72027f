/* SPDX-License-Identifier: Apache-2.0 */
#include "rig.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

void rig_start(struct rig *rig, const char *const *pairs)
{
    struct kvl_err err = {.size = sizeof(err)};
    struct kvl_health health = {.size = sizeof(health)};
    const char *colon;

    memset(rig, 0, sizeof(*rig));
    rig->desc = kvlane_backend_v1();
    rig->ops = rig->desc->ops;
    rig->fake = fake_host_create(rig->desc, pairs);
    assert_int_equal(rig->ops->create(fake_host_table(rig->fake), &rig->self, &err), 0);
    if (rig->ops->start(rig->self, &err) != 0) {
        fail_msg("start: %s", err.text);
    }
    rig->ops->get_health(rig->self, &health);
    snprintf(rig->url, sizeof(rig->url), "%s", health.address);
    colon = strrchr(health.address, ':');
    rig->port = colon == NULL ? 0 : (uint16_t)strtoul(colon + 1, NULL, 10);
}

void rig_stop(struct rig *rig)
{
    rig->ops->stop(rig->self);
    assert_int_equal(fake_host_leaks(rig->fake), 0);
    rig->ops->destroy(rig->self);
    fake_host_destroy(rig->fake);
}

struct stat_query {
    const char *name;
    uint64_t value;
    int found;
};

static void rig_take_stat(void *ctx, const char *name, uint64_t value)
{
    struct stat_query *query = ctx;

    if (strcmp(query->name, name) == 0) {
        query->value = value;
        query->found = 1;
    }
}

uint64_t rig_stat(struct rig *rig, const char *name)
{
    struct stat_query query = {.name = name};

    rig->ops->get_stats(rig->self, rig_take_stat, &query);
    assert_true(query.found);
    return query.value;
}

static void rig_limit(int fd)
{
    const struct timeval limit = {.tv_sec = 20};

    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)), 0);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)), 0);
}

void rig_connect_with(const struct rig *rig, int fd)
{
    const struct sockaddr_in addr = {
        .sin_family = AF_INET,
        .sin_port = htons(rig->port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };

    assert_true(fd >= 0);
    rig_limit(fd);
    assert_int_equal(connect(fd, (const struct sockaddr *)&addr, sizeof(addr)), 0);
}

int rig_connect(const struct rig *rig)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    rig_connect_with(rig, fd);
    return fd;
}

int rig_listen(char *url_out, size_t size)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof(addr);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    rig_limit(fd);
    assert_int_equal(bind(fd, (const struct sockaddr *)&addr, sizeof(addr)), 0);
    assert_int_equal(listen(fd, 8), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&addr, &length), 0);
    snprintf(url_out, size, "lm://127.0.0.1:%u", (unsigned)ntohs(addr.sin_port));
    return fd;
}

int rig_accept(int listen_fd)
{
    int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);

    assert_true(fd >= 0);
    rig_limit(fd);
    return fd;
}

void rig_send(int fd, const void *bytes, size_t length)
{
    const uint8_t *at = bytes;

    while (length > 0) {
        ssize_t n = send(fd, at, length, MSG_NOSIGNAL);

        assert_true(n > 0);
        at += n;
        length -= (size_t)n;
    }
}

void rig_recv(int fd, void *bytes_out, size_t length)
{
    uint8_t *at = bytes_out;

    while (length > 0) {
        ssize_t n = recv(fd, at, length, 0);

        assert_true(n > 0);
        at += n;
        length -= (size_t)n;
    }
}

void rig_expect_eof(int fd)
{
    char byte;
    ssize_t n = recv(fd, &byte, 1, 0);

    assert_true(n == 0 || (n < 0 && errno == ECONNRESET));
}

struct rig_bytes rig_vector(const char *name)
{
    struct rig_bytes bytes = {.data = malloc(65536)};
    char path[1024];
    FILE *file;

    snprintf(path, sizeof(path), "%s/remote_store/%s.bin", KVL_VECTORS, name);
    file = fopen(path, "rb");
    assert_non_null(file);
    bytes.length = fread(bytes.data, 1, 65536, file);
    fclose(file);
    return bytes;
}

void rig_header(uint8_t *header_out, int32_t command, int32_t length, const char *key)
{
    const struct tcp_remote_request request = {
        .command = command,
        .length = length,
        .attrs = tcp_remote_no_attrs,
        .key = key,
        .key_length = (uint32_t)strlen(key),
    };

    assert_int_equal(tcp_remote_request_encode(&request, header_out), 0);
}

void rig_send_request(int fd, int32_t command, int32_t length, const char *key)
{
    uint8_t header[TCP_REMOTE_REQUEST_BYTES];

    rig_header(header, command, length, key);
    rig_send(fd, header, sizeof(header));
}

void rig_expect_request(int fd, int32_t command, const char *key)
{
    uint8_t header[TCP_REMOTE_REQUEST_BYTES];
    struct tcp_remote_request request;

    rig_recv(fd, header, sizeof(header));
    tcp_remote_request_decode(header, &request);
    assert_int_equal(request.command, command);
    assert_int_equal(request.key_length, strlen(key));
    assert_memory_equal(request.key, key, request.key_length);
}

void rig_send_reply(int fd, int32_t code, int32_t length)
{
    const struct tcp_remote_reply reply = {
        .code = code, .length = length, .attrs = tcp_remote_no_attrs};
    uint8_t header[TCP_REMOTE_REPLY_BYTES];

    tcp_remote_reply_encode(&reply, header);
    rig_send(fd, header, sizeof(header));
}

void rig_expect_reply(int fd, int32_t code, int32_t length)
{
    uint8_t header[TCP_REMOTE_REPLY_BYTES];
    struct tcp_remote_reply reply;

    rig_recv(fd, header, sizeof(header));
    assert_int_equal(tcp_remote_reply_decode(header, &reply), 0);
    assert_int_equal(reply.code, code);
    assert_int_equal(reply.length, length);
}
