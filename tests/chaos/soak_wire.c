/* SPDX-License-Identifier: Apache-2.0 */
#include "soak.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

int soak_connect(uint16_t port)
{
    const struct timeval limit = {.tv_sec = SOAK_STUCK_S};
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0) {
        return -1;
    }
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
    if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

/* Little endian, as every machine this runs on. */
static void wire_put(uint8_t *at, int32_t value)
{
    memcpy(at, &value, sizeof(value));
}

static int32_t wire_get(const uint8_t *at)
{
    int32_t value;

    memcpy(&value, at, sizeof(value));
    return value;
}

void soak_header(uint8_t header_out[SOAK_HEADER], int32_t command, int32_t length,
                 const struct kvl_attrs *attrs, const char *key)
{
    size_t key_length = strlen(key);

    memset(header_out, 0, SOAK_HEADER - KVL_KEY_MAX);
    memset(header_out + SOAK_HEADER - KVL_KEY_MAX, ' ', KVL_KEY_MAX);
    wire_put(header_out, command);
    wire_put(header_out + 4, length);
    wire_put(header_out + 8, attrs != NULL ? attrs->fmt : 1);
    wire_put(header_out + 12, attrs != NULL ? attrs->dtype : 2);
    for (size_t i = 0; attrs != NULL && i < 4; i++) {
        wire_put(header_out + 20 + 4 * i, attrs->shape[i]);
    }
    memcpy(header_out + SOAK_HEADER - KVL_KEY_MAX, key,
           key_length < KVL_KEY_MAX ? key_length : KVL_KEY_MAX);
}

int soak_send(int fd, const void *data, size_t size)
{
    const uint8_t *at = data;

    while (size > 0) {
        ssize_t n = send(fd, at, size, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return -1;
        }
        at += n;
        size -= (size_t)n;
    }
    return 0;
}

int soak_receive(int fd, void *data, size_t size)
{
    uint8_t *at = data;

    while (size > 0) {
        ssize_t n = recv(fd, at, size, 0);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            errno = n == 0 ? EPIPE : errno;
            return -1;
        }
        at += n;
        size -= (size_t)n;
    }
    return 0;
}

int soak_receive_reply(int fd, struct soak_reply *reply_out)
{
    uint8_t bytes[SOAK_REPLY];

    if (soak_receive(fd, bytes, sizeof(bytes)) < 0) {
        return -1;
    }
    reply_out->code = wire_get(bytes);
    reply_out->length = wire_get(bytes + 4);
    reply_out->attrs.fmt = wire_get(bytes + 8);
    reply_out->attrs.dtype = wire_get(bytes + 12);
    for (size_t i = 0; i < 4; i++) {
        reply_out->attrs.shape[i] = wire_get(bytes + 16 + 4 * i);
    }
    return 0;
}
