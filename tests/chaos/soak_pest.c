/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A peer that means no good: it leaves in the middle, stops in the middle, talks nonsense, or asks
 * for megabytes and does not take them. What it holds must be closed by the server in time.
 */
#include "soak.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define HELD 6u
/* The server looks at its clocks about once a second. */
#define CLOSED_WITHIN_MS ((uint64_t)SOAK_STALL_S * 1000 + 15000)

struct pest {
    struct soak_shared *shared;
    struct soak_slot *slot;
    uint64_t random;
    struct pollfd held[HELD]; /* connections that the server has to close */
    uint64_t until_ms[HELD];
    bool must_close[HELD];
    uint8_t scratch[65536];
};

static uint32_t pest_key(struct pest *pest)
{
    return (uint32_t)(soak_random(&pest->random) % pest->shared->keys);
}

static void pest_send_header(struct pest *pest, int fd, int32_t command, int32_t length)
{
    uint8_t header[SOAK_HEADER];
    char text[SOAK_KEY_TEXT];

    soak_key_text(pest_key(pest), text);
    soak_header(header, command, length, NULL, text);
    (void)soak_send(fd, header, sizeof(header));
}

/* Goes without a word, or with a reset. */
static void pest_leave(struct pest *pest, int fd)
{
    const struct linger reset = {.l_onoff = 1, .l_linger = 0};

    if (soak_random(&pest->random) % 2 == 0) {
        (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
    }
    close(fd);
}

static void pest_garbage(struct pest *pest, int fd)
{
    size_t size = 1 + soak_random(&pest->random) % 4096;

    for (size_t i = 0; i < size; i++) {
        pest->scratch[i] = (uint8_t)soak_random(&pest->random);
    }
    pest->scratch[0] |= 8; /* no command: it must not store what follows */
    (void)soak_send(fd, pest->scratch, size);
    pest_leave(pest, fd);
}

static void pest_half_header(struct pest *pest, int fd)
{
    uint8_t header[SOAK_HEADER];

    soak_header(header, SOAK_CMD_PUT, 1 << 20, NULL, "half");
    (void)soak_send(fd, header, 1 + soak_random(&pest->random) % (SOAK_HEADER - 1));
    pest_leave(pest, fd);
}

/* The value must not appear, and an older one must stay. */
static void pest_half_body(struct pest *pest, int fd)
{
    int32_t length = 1 + (int32_t)(soak_random(&pest->random) % SOAK_VALUE_MAX);
    size_t left = soak_random(&pest->random) % (size_t)length;

    pest_send_header(pest, fd, SOAK_CMD_PUT, length);
    while (left > 0) {
        size_t part = left < sizeof(pest->scratch) ? left : sizeof(pest->scratch);

        if (soak_send(fd, pest->scratch, part) < 0) {
            break;
        }
        left -= part;
    }
    pest_leave(pest, fd);
}

static void pest_bad_length(struct pest *pest, int fd)
{
    static const int32_t lengths[] = {-1, INT32_MIN, INT32_MAX, 512 << 20};

    pest_send_header(pest, fd, SOAK_CMD_PUT, lengths[soak_random(&pest->random) % 4]);
    (void)soak_send(fd, pest->scratch, sizeof(pest->scratch));
    pest_leave(pest, fd);
}

static void pest_leave_reply(struct pest *pest, int fd)
{
    for (int i = 0; i < 8; i++) {
        pest_send_header(pest, fd, SOAK_CMD_GET, 0);
    }
    (void)recv(fd, pest->scratch, sizeof(pest->scratch), 0);
    pest_leave(pest, fd);
}

static void pest_hold(struct pest *pest, int fd, bool must_close)
{
    for (uint32_t i = 0; i < HELD; i++) {
        if (pest->held[i].fd < 0) {
            pest->held[i] = (struct pollfd){.fd = fd};
            pest->until_ms[i] = soak_now_ms() + CLOSED_WITHIN_MS;
            pest->must_close[i] = must_close;
            return;
        }
    }
    pest_leave(pest, fd);
}

static void pest_stall(struct pest *pest, int fd)
{
    pest_send_header(pest, fd, SOAK_CMD_PUT, 4 << 20);
    (void)soak_send(fd, pest->scratch, 1000);
    pest_hold(pest, fd, true);
}

/* Asks for much and reads nothing. Where most are misses all replies fit the socket, so that the
 * server has nothing to complain about. */
static void pest_slow_reader(struct pest *pest, int fd)
{
    const int small = 4096;

    (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
    for (int i = 0; i < 64; i++) {
        pest_send_header(pest, fd, SOAK_CMD_GET, 0);
    }
    pest_hold(pest, fd, false);
}

/* ---- what is held ---- */

static void pest_drop(struct pest *pest, uint32_t i)
{
    close(pest->held[i].fd);
    pest->held[i].fd = -1;
}

/* Takes what came. @return true when the connection is still open behind it. A close is not seen
 * before: the kernel of the other side keeps what we did not take. */
static bool pest_is_open(struct pest *pest, int fd)
{
    ssize_t n;

    do {
        n = recv(fd, pest->scratch, sizeof(pest->scratch), MSG_DONTWAIT);
    } while (n > 0);
    return n < 0 && errno == EAGAIN;
}

static void pest_tend(struct pest *pest, int timeout_ms)
{
    struct pollfd all[HELD];
    uint64_t now;

    /* Only ends and errors: what can be read is not to be. */
    memcpy(all, pest->held, sizeof(all));
    (void)poll(all, HELD, timeout_ms);
    now = soak_now_ms();
    for (uint32_t i = 0; i < HELD; i++) {
        const struct pollfd *held = &all[i];

        if (held->fd < 0) {
            continue;
        }
        if ((held->revents & (POLLHUP | POLLERR | POLLNVAL)) != 0) {
            pest_drop(pest, i);
        } else if (now >= pest->until_ms[i]) {
            if (pest_is_open(pest, held->fd) && pest->must_close[i]) {
                soak_error(pest->slot, "a PUT that stopped is still open");
            }
            pest_drop(pest, i);
        }
    }
}

static bool pest_is_full(const struct pest *pest)
{
    for (uint32_t i = 0; i < HELD; i++) {
        if (pest->held[i].fd < 0) {
            return false;
        }
    }
    return true;
}

static void pest_step(struct pest *pest)
{
    static void (*const tricks[])(struct pest *, int) = {
        pest_garbage,     pest_half_header, pest_half_body,   pest_bad_length,
        pest_leave_reply, pest_stall,       pest_slow_reader,
    };
    uint64_t trick = soak_random(&pest->random) % (sizeof(tricks) / sizeof(tricks[0]));
    int fd;

    if (pest_is_full(pest) && trick >= 5) {
        trick -= 5;
    }
    fd = soak_connect(pest->shared->port);
    if (fd < 0) {
        soak_error(pest->slot, "connect: %s", strerror(errno));
        return;
    }
    tricks[trick](pest, fd);
    atomic_fetch_add(&pest->slot->ops, 1);
}

void soak_pest_run(struct soak_shared *shared, struct soak_slot *slot)
{
    struct pest *pest = calloc(1, sizeof(*pest));

    if (pest == NULL) {
        soak_error(slot, "no memory");
        return;
    }
    pest->shared = shared;
    pest->slot = slot;
    pest->random = shared->seed ^ ((uint64_t)getpid() << 20) ^ soak_now_ms() ^ 1;
    for (uint32_t i = 0; i < HELD; i++) {
        pest->held[i].fd = -1;
    }
    while (!atomic_load(&shared->stop) && atomic_load(&slot->errors) == 0) {
        pest_step(pest);
        pest_tend(pest, (int)(soak_random(&pest->random) % 30));
    }
    for (uint32_t i = 0; i < HELD; i++) {
        if (pest->held[i].fd >= 0) {
            pest_drop(pest, i);
        }
    }
    free(pest);
}
