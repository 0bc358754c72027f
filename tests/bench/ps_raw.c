/* SPDX-License-Identifier: Apache-2.0 */
#include "ps_raw.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define PIECES 256u

struct raw_server {
    int fd;
    uint8_t *memory;
    uint64_t bytes;
};

static void raw_die(void)
{
    abort();
}

static void raw_advance(struct iovec **iov, uint32_t *count, size_t n)
{
    while (n > 0 && n >= (*iov)->iov_len) {
        n -= (*iov)->iov_len;
        (*iov)++;
        (*count)--;
    }
    if (n > 0) {
        (*iov)->iov_base = (uint8_t *)(*iov)->iov_base + n;
        (*iov)->iov_len -= n;
    }
}

static int raw_send_all(int fd, struct iovec *iov, uint32_t count)
{
    while (count > 0) {
        struct msghdr msg = {.msg_iov = iov, .msg_iovlen = count < PIECES ? count : PIECES};
        ssize_t n = sendmsg(fd, &msg, MSG_NOSIGNAL);

        if (n <= 0) {
            return -1;
        }
        raw_advance(&iov, &count, (size_t)n);
    }
    return 0;
}

static int raw_receive_all(int fd, struct iovec *iov, uint32_t count)
{
    while (count > 0) {
        struct msghdr msg = {.msg_iov = iov, .msg_iovlen = count < PIECES ? count : PIECES};
        ssize_t n = recvmsg(fd, &msg, 0);

        if (n <= 0) {
            return -1;
        }
        raw_advance(&iov, &count, (size_t)n);
    }
    return 0;
}

uint32_t ps_raw_pieces(uint8_t *memory, uint64_t bytes, uint64_t *at_io, uint64_t length,
                       uint32_t count, struct iovec *iov)
{
    for (uint32_t i = 0; i < count; i++) {
        /* every other piece, so that none lies next to the one before */
        uint64_t step = count > 1 ? 2 * length : length;

        if (*at_io + step > bytes) {
            *at_io = 0;
        }
        iov[i] = (struct iovec){.iov_base = memory + *at_io, .iov_len = length};
        *at_io += step;
    }
    return count;
}

static void *raw_serve_one(void *arg)
{
    struct raw_server server = *(struct raw_server *)arg;
    struct ps_raw_request request;
    struct iovec iov[PIECES];
    struct iovec head;
    const uint8_t answer = 1;
    uint64_t at = 0;
    int r = 0;

    free(arg);
    while (r == 0) {
        head = (struct iovec){.iov_base = &request, .iov_len = sizeof(request)};
        if (raw_receive_all(server.fd, &head, 1) < 0 || request.count > PIECES) {
            break;
        }
        (void)ps_raw_pieces(server.memory, server.bytes, &at, request.length,
                            (uint32_t)request.count, iov);
        if (request.kind == PS_RAW_READ) {
            r = raw_send_all(server.fd, iov, (uint32_t)request.count);
        } else {
            r = raw_receive_all(server.fd, iov, (uint32_t)request.count);
            head = (struct iovec){.iov_base = (void *)(uintptr_t)&answer, .iov_len = 1};
            r = r < 0 ? r : raw_send_all(server.fd, &head, 1);
        }
    }
    close(server.fd);
    return NULL;
}

void ps_raw_serve(int listen_fd, uint8_t *memory, uint64_t bytes)
{
    const int on = 1;

    for (;;) {
        struct raw_server *server = malloc(sizeof(*server));
        pthread_t thread;

        if (server == NULL) {
            raw_die();
            return;
        }
        *server = (struct raw_server){.memory = memory, .bytes = bytes};
        server->fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
        if (server->fd < 0) {
            raw_die();
        }
        (void)setsockopt(server->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        if (pthread_create(&thread, NULL, raw_serve_one, server) != 0) {
            raw_die();
        }
        (void)pthread_detach(thread);
    }
}

int ps_raw_connect(uint16_t port)
{
    struct sockaddr_in addr = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const int on = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0) {
        raw_die();
    }
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    return fd;
}

void ps_raw_send(int fd, const struct ps_raw_request *request)
{
    struct iovec head = {.iov_base = (void *)(uintptr_t)request, .iov_len = sizeof(*request)};

    if (raw_send_all(fd, &head, 1) < 0) {
        raw_die();
    }
}

void ps_raw_receive(int fd, struct iovec *iov, uint32_t count)
{
    if (raw_receive_all(fd, iov, count) < 0) {
        raw_die();
    }
}

void ps_raw_write(int fd, const struct ps_raw_request *request, struct iovec *iov, uint32_t count)
{
    uint8_t answer;
    struct iovec back = {.iov_base = &answer, .iov_len = 1};

    ps_raw_send(fd, request);
    if (raw_send_all(fd, iov, count) < 0 || raw_receive_all(fd, &back, 1) < 0) {
        raw_die();
    }
}
