/* SPDX-License-Identifier: Apache-2.0 */
#include "tcp_raw.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "tcp_load.h"

static uint8_t *raw_memory;
static size_t raw_bytes;
static _Atomic size_t raw_next;
/* A GET is answered with as many bytes as the last PUT brought; it keeps no other record. */
static _Atomic uint32_t raw_length;

static bool raw_recv(int fd, void *data, size_t size)
{
    uint8_t *at = data;

    while (size > 0) {
        ssize_t n = recv(fd, at, size, 0);

        if (n <= 0) {
            return false;
        }
        at += n;
        size -= (size_t)n;
    }
    return true;
}

static bool raw_reply(int fd, uint32_t code, const uint8_t *body, uint32_t length)
{
    uint8_t head[TCP_LM_REPLY] = {(uint8_t)code};
    struct iovec iov[2] = {{.iov_base = head, .iov_len = sizeof(head)},
                           {.iov_base = (void *)(uintptr_t)body, .iov_len = length}};
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 2};
    size_t left = sizeof(head) + length;

    memcpy(head + 4, &length, sizeof(length));
    while (left > 0) {
        ssize_t n = sendmsg(fd, &msg, MSG_NOSIGNAL);

        if (n <= 0) {
            return false;
        }
        left -= (size_t)n;
        for (int i = 0; i < 2; i++) {
            size_t part = (size_t)n < iov[i].iov_len ? (size_t)n : iov[i].iov_len;

            iov[i].iov_base = (uint8_t *)iov[i].iov_base + part;
            iov[i].iov_len -= part;
            n -= (ssize_t)part;
        }
    }
    return true;
}

/* The next place in the ring, shared by all connections as a store is. */
static uint8_t *raw_place(uint32_t length)
{
    size_t at = atomic_fetch_add(&raw_next, length) % raw_bytes;

    return raw_memory + (at + length <= raw_bytes ? at : 0);
}

static void *raw_connection(void *arg)
{
    int fd = (int)(intptr_t)arg;
    const int on = 1;
    uint8_t head[TCP_LM_REQUEST];
    bool good = true;

    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    while (good && raw_recv(fd, head, sizeof(head))) {
        uint32_t length;

        memcpy(&length, head + 4, sizeof(length));
        if (head[0] == TCP_LM_PUT) {
            raw_length = length;
            good = length <= raw_bytes && raw_recv(fd, raw_place(length), length);
        } else if (head[0] == TCP_LM_GET) {
            length = raw_length;
            good = raw_reply(fd, 200, raw_place(length), length);
        } else {
            good = raw_reply(fd, 200, NULL, 0);
        }
    }
    close(fd);
    return NULL;
}

void tcp_raw_serve(int listen_fd, size_t memory)
{
    raw_bytes = memory;
    raw_memory = mmap(NULL, memory, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (raw_memory == MAP_FAILED) {
        abort();
    }
    (void)madvise(raw_memory, memory, MADV_HUGEPAGE);
    memset(raw_memory, 1, memory);
    for (;;) {
        int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
        pthread_t thread;

        if (fd >= 0 && pthread_create(&thread, NULL, raw_connection, (void *)(intptr_t)fd) == 0) {
            (void)pthread_detach(thread);
        }
    }
}
