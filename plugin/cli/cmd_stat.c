/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cmd_stat.c
 * Reads the text a process serves on `[kvlane] stats_socket` until the end of the stream, once or
 * again and again.
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

#include "stat_view.h"
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

/* @return an exit code, and the text of one answer to free. */
static int stat_ask(const char *path, uint64_t timeout_ms, char **text_out)
{
    char *text = malloc(STAT_LIMIT);
    int fd = -1;
    int r;

    if (text == NULL) {
        cli_error("stat: no memory");
        return CLI_OS;
    }
    r = stat_connect(path, &fd);
    if (r == CLI_OK) {
        r = stat_receive(fd, timeout_ms, text, STAT_LIMIT);
        close(fd);
    }
    if (r != CLI_OK) {
        free(text);
        return r;
    }
    *text_out = text;
    return CLI_OK;
}

/* Sleeps to the next full interval, so that a slow answer does not shift those after it. */
static void stat_pause(uint64_t start_ns, uint64_t watch_s)
{
    uint64_t every = watch_s * 1000000000ull;
    uint64_t next = start_ns + ((util_now_ns() - start_ns) / every + 1) * every;
    const struct timespec until = {.tv_sec = (time_t)(next / 1000000000ull),
                                   .tv_nsec = (long)(next % 1000000000ull)};

    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR) {
    }
}

static int stat_show(const char *path, uint64_t timeout_ms, uint64_t watch_s, enum stat_form form,
                     struct stat_sample samples[2])
{
    const uint64_t start_ns = util_now_ns();
    uint32_t turn = 0;
    int r;

    for (;;) {
        struct stat_sample *now = &samples[turn % 2];
        char *text = NULL;

        r = stat_ask(path, timeout_ms, &text);
        if (r != CLI_OK) {
            return r;
        }
        stat_sample_fini(now);
        stat_sample_parse(now, text, util_now_ns());
        if (turn == 0 && form == STAT_SCREEN) {
            printf("\033[2J");
        }
        stat_view_print(form, now, turn == 0 ? NULL : &samples[(turn + 1) % 2]);
        r = stat_sample_healthy(now) ? CLI_OK : CLI_NO;
        if (watch_s == 0 || ferror(stdout) != 0) {
            return r;
        }
        turn++;
        stat_pause(start_ns, watch_s);
    }
}

int cmd_stat(int argc, char **argv)
{
    const char *path = NULL;
    uint64_t watch = 0;
    uint64_t timeout_ms = 5000;
    enum stat_form form = STAT_LIST;
    bool json = false;
    const struct cli_option options[] = {
        {"socket", "PATH", "what [kvlane] stats_socket of that process names", CLI_TEXT, &path, 0,
         0},
        {"watch", "SECONDS", "again and again: a screen on a terminal, else a line each time",
         CLI_COUNT, &watch, 1, 86400},
        {"json", NULL, "all of it as one JSON object, each time", CLI_FLAG, &json, 0, 0},
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
    struct stat_sample *samples;
    int count;
    int r = cli_parse(&usage, argc, argv, &count);

    if (r != CLI_GO) {
        return r;
    }
    if (path == NULL) {
        cli_error("stat: --socket is missing; see: kvlane stat --help");
        return CLI_USAGE;
    }
    if (json) {
        form = STAT_JSON;
    } else if (watch != 0) {
        form = isatty(STDOUT_FILENO) == 1 ? STAT_SCREEN : STAT_LINES;
    }
    samples = calloc(2, sizeof(*samples));
    if (samples == NULL) {
        cli_error("stat: no memory");
        return CLI_OS;
    }
    r = stat_show(path, timeout_ms, watch, form, samples);
    stat_sample_fini(&samples[0]);
    stat_sample_fini(&samples[1]);
    free(samples);
    return r;
}
