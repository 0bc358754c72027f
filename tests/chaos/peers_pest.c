/* SPDX-License-Identifier: Apache-2.0 */
/* What comes to an open port: noise, half a greeting, frames of the data plane that somebody else
 * sent once, with the token of then. */
#include "peers.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef PEERS_VECTORS
#define PEERS_VECTORS "tests/vectors/py_socket"
#endif

#define FRAMES_MAX 128u
#define FRAME_ROOM 2048u
#define OPEN 6u

static struct {
    uint32_t count;
    size_t bytes[FRAMES_MAX];
    uint8_t at[FRAMES_MAX][FRAME_ROOM];
} frames;

/* The golden frames, each with a token of its own making. */
static void read_frames(void)
{
    DIR *folder = opendir(PEERS_VECTORS);
    struct dirent *entry;
    char path[1024];

    while (folder != NULL && frames.count < FRAMES_MAX && (entry = readdir(folder)) != NULL) {
        const char *end = strrchr(entry->d_name, '.');
        FILE *file;

        if (end == NULL || strcmp(end, ".bin") != 0) {
            continue;
        }
        (void)snprintf(path, sizeof(path), "%s/%s", PEERS_VECTORS, entry->d_name);
        file = fopen(path, "re");
        if (file != NULL) {
            frames.bytes[frames.count] = fread(frames.at[frames.count], 1, FRAME_ROOM, file);
            frames.count += frames.bytes[frames.count] > 0;
            (void)fclose(file);
        }
    }
    if (folder != NULL) {
        (void)closedir(folder);
    }
}

static int dial(uint16_t port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct pollfd wait = {.events = POLLOUT};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&at, sizeof(at)) < 0) {
        wait.fd = fd;
        (void)poll(&wait, 1, 20);
    }
    return fd;
}

static void throw_something(int fd, uint64_t *random)
{
    static const uint8_t zmtp[] = {0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3};
    uint8_t noise[512];

    switch (peers_random(random) % 4) {
    case 0:
        for (size_t i = 0; i < sizeof(noise); i++) {
            noise[i] = (uint8_t)peers_random(random);
        }
        (void)send(fd, noise, 1 + peers_random(random) % sizeof(noise), MSG_NOSIGNAL);
        break;
    case 1:
        (void)send(fd, zmtp, 1 + peers_random(random) % sizeof(zmtp), MSG_NOSIGNAL);
        break;
    default:
        for (uint32_t i = 0; frames.count > 0 && i < 1 + peers_random(random) % 3; i++) {
            const uint32_t which = (uint32_t)(peers_random(random) % frames.count);
            size_t bytes = frames.bytes[which];

            /* whole more often than cut */
            bytes = peers_random(random) % 3 != 0 ? bytes : 1 + peers_random(random) % bytes;
            (void)send(fd, frames.at[which], bytes, MSG_NOSIGNAL);
        }
        break;
    }
}

void peers_pest(const struct peers_shared *shared, uint64_t *random)
{
    static int open_fds[OPEN]; /* 0 = none; some stay and say nothing more */
    const struct peers_slot *slot = &shared->slots[peers_random(random) % shared->count];
    const uint32_t place = (uint32_t)(peers_random(random) % OPEN);
    int fd;

    if (frames.count == 0) {
        read_frames();
    }
    if (open_fds[place] > 0) {
        close(open_fds[place]);
        open_fds[place] = 0;
    }
    fd = dial(peers_random(random) % 3 == 0 ? slot->port : slot->data_port);
    if (fd < 0) {
        return;
    }
    throw_something(fd, random);
    if (peers_random(random) % 2 == 0) {
        open_fds[place] = fd;
    } else {
        close(fd);
    }
}
