/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cmd_stat.c
 * Reads the text a process serves on `[kvlane] stats_socket`: lines "name value" and
 * "health section state address text", until the end of the stream.
 */
#include "cli.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "util.h"

#define STAT_LIMIT (1u << 20) /* a peer that never ends is no stats socket */

static int stat_connect(const char *path, int *fd_out)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = strlen(path);
    int fd;

    if (length >= sizeof(address.sun_path)) {
        cli_error("stat: socket path is over %zu bytes", sizeof(address.sun_path) - 1);
        return CLI_USAGE;
    }
    memcpy(address.sun_path, path, length);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        cli_error("stat: cannot make a socket: %s", strerror(errno));
        return CLI_OS;
    }
    if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0) {
        cli_error("stat: cannot connect to '%s': %s", path, strerror(errno));
        close(fd);
        return CLI_PEER;
    }
    *fd_out = fd;
    return CLI_OK;
}

static int stat_receive(int fd, uint64_t timeout_ms, char *text, size_t room)
{
    uint64_t deadline = util_now_ms() + timeout_ms;
    size_t size = 0;

    for (;;) {
        uint64_t now = util_now_ms();
        struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
        ssize_t n;

        if (now >= deadline || poll(&poll_fd, 1, (int)(deadline - now)) == 0) {
            cli_error("stat: no full answer in %llu ms", (unsigned long long)timeout_ms);
            return CLI_PEER;
        }
        n = read(fd, text + size, room - size - 1);
        if (n == 0) {
            text[size] = '\0';
            return CLI_OK;
        }
        if (n < 0 && (errno == EINTR || errno == EAGAIN)) {
            continue;
        }
        size += n > 0 ? (size_t)n : 0;
        if (n < 0 || size + 1 >= room) {
            cli_error("stat: %s", n < 0 ? strerror(errno) : "the answer does not end");
            return CLI_PEER;
        }
    }
}

/* What another process wrote goes to a terminal: show control bytes as dots. */
static void stat_clean(char *text)
{
    for (unsigned char *at = (unsigned char *)text; *at != '\0'; at++) {
        if (*at != '\n' && (*at < 32 || *at == 127)) {
            *at = '.';
        }
    }
}

/* Health first, counters after; returns true when every location is ok. */
static bool stat_print(char *text)
{
    bool healthy = true;

    stat_clean(text);
    for (char *line = text; *line != '\0';) {
        char *next = line + strcspn(line, "\n");
        char *space;

        if (*next != '\0') {
            *next++ = '\0';
        }
        space = strchr(line, ' ');
        if (space == NULL) {
            printf("%s\n", line);
        } else if (strncmp(line, "health ", 7) == 0) {
            const char *state = strchr(space + 1, ' ');

            healthy = healthy && state != NULL && strncmp(state, " ok", 3) == 0;
            printf("%s\n", line);
        } else {
            *space = '\0';
            printf("%-40s %20s\n", line, space + 1);
        }
        line = next;
    }
    (void)fflush(stdout);
    return healthy;
}

int cmd_stat(int argc, char **argv)
{
    const char *path = NULL;
    uint64_t watch = 0;
    uint64_t timeout_ms = 5000;
    const struct cli_option options[] = {
        {"socket", "PATH", "what [kvlane] stats_socket of that process names", CLI_TEXT, &path, 0,
         0},
        {"watch", "SECONDS", "again and again", CLI_COUNT, &watch, 1, 86400},
        {"timeout", "DURATION", "longest wait for an answer (5s)", CLI_TIME, &timeout_ms, 1,
         3600 * 1000},
    };
    const struct cli_usage usage = {
        .command = "stat",
        .args = "",
        .about = "Shows counters and health of a running process. Exit code 1: a location is not "
                 "healthy.",
        .options = options,
        .option_count = sizeof(options) / sizeof(options[0]),
    };
    char *text;
    int count;
    int r = cli_parse(&usage, argc, argv, &count);

    if (r != CLI_GO) {
        return r;
    }
    if (path == NULL) {
        cli_error("stat: --socket is missing; see: kvlane stat --help");
        return CLI_USAGE;
    }
    text = malloc(STAT_LIMIT);
    if (text == NULL) {
        cli_error("stat: no memory");
        return CLI_OS;
    }
    do {
        int fd = -1;

        r = stat_connect(path, &fd);
        if (r == CLI_OK) {
            r = stat_receive(fd, timeout_ms, text, STAT_LIMIT);
            close(fd);
        }
        if (r == CLI_OK) {
            r = stat_print(text) ? CLI_OK : CLI_NO;
        }
        if (watch != 0 && r <= CLI_NO) {
            printf("\n");
            (void)nanosleep(&(struct timespec){.tv_sec = (time_t)watch}, NULL);
        }
    } while (watch != 0 && r <= CLI_NO);
    free(text);
    return r;
}
