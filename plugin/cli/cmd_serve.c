/* SPDX-License-Identifier: Apache-2.0 */
#include "cli.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "notify.h"
#include "serve.h"
#include "util.h"

void serve_options(struct serve *serve, struct cli_option options_out[SERVE_OPTION_COUNT])
{
    const struct cli_option options[SERVE_OPTION_COUNT] = {
        {"drain", "DURATION", "longest wait for work under way at the end (5s)", CLI_TIME,
         &serve->drain_ms, 0, 3600 * 1000},
        {"stats", "SECONDS", "print the counters each so many seconds", CLI_COUNT, &serve->stats_s,
         1, 86400},
        {"ready-fd", "N", "write the ready lines there too, and close it", CLI_COUNT,
         &serve->ready_fd, 3, 1 << 20},
        {"parent-death", NULL, "end when the parent process ends", CLI_FLAG, &serve->parent_death,
         0, 0},
    };

    serve->drain_ms = 5000;
    memcpy(options_out, options, sizeof(options));
}

static int serve_parse(struct serve *serve, int argc, char **argv)
{
    struct cli_option options[1 + SERVE_OPTION_COUNT] = {
        {"ini", "TEXT", "INI text in place of a file", CLI_TEXT, &serve->setup.config_text, 0, 0},
    };
    const struct cli_usage usage = {
        .command = "serve",
        .args = "",
        .about = "Runs the serving backends of an INI file until SIGTERM or SIGINT. Prints one "
                 "line each when\nthey can be reached: ready: SECTION ADDRESS. SIGHUP reads the "
                 "file again.",
        .options = options,
        .option_count = sizeof(options) / sizeof(options[0]),
        .common = &serve->common,
    };
    int count;

    serve_options(serve, options + 1);
    return cli_parse(&usage, argc, argv, &count);
}

/* Blocked before any thread exists, so that every thread inherits it and only we see them. */
static int serve_signals(const struct serve *serve, sigset_t *set)
{
    pid_t parent = getppid();

    sigemptyset(set);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGHUP);
    if (pthread_sigmask(SIG_BLOCK, set, NULL) != 0) {
        cli_error("%s: cannot block signals", serve->command);
        return CLI_OS;
    }
    if (serve->parent_death) {
        if (prctl(PR_SET_PDEATHSIG, SIGTERM) != 0) {
            cli_error("%s: cannot ask for the parent's death: %s", serve->command, strerror(errno));
            return CLI_OS;
        }
        /* It may have died before we asked. */
        if (getppid() != parent) {
            (void)kill(getpid(), SIGTERM);
        }
    }
    return CLI_OK;
}

/* Sections are `word` or `word:label`. */
static bool serve_is_ready(const struct serve *serve, const struct kvl_health *health)
{
    size_t length;

    if (health->state != KVL_HEALTH_OK || serve->word == NULL) {
        return health->state == KVL_HEALTH_OK && (health->caps & KVL_CAP_SERVE) != 0;
    }
    length = strlen(serve->word);
    return strncmp(health->name, serve->word, length) == 0 &&
           (health->name[length] == '\0' || health->name[length] == ':');
}

static int serve_ready(const struct serve *serve)
{
    const struct kvl_plugin *ops = &serve->engine.ops;
    struct kvl_health health = {.size = sizeof(health)};
    uint32_t servers = 0;

    for (uint32_t at = KVL_LOCATION_BACKEND; ops->health(serve->engine.instance, at, &health) == 0;
         at++) {
        char line[512];
        int n;

        if (!serve_is_ready(serve, &health)) {
            continue;
        }
        servers++;
        n = snprintf(line, sizeof(line), "ready: %.*s %.*s\n", (int)sizeof(health.name),
                     health.name, (int)sizeof(health.address), health.address);
        (void)fputs(line, stdout);
        if (serve->ready_fd != 0 && util_write_all((int)serve->ready_fd, line, (size_t)n) < 0) {
            cli_error("%s: cannot write to descriptor %u", serve->command,
                      (unsigned)serve->ready_fd);
            return CLI_OS;
        }
    }
    (void)fflush(stdout);
    if (serve->ready_fd != 0) {
        close((int)serve->ready_fd);
    }
    if (servers == 0) {
        cli_error("%s: no section of the INI file serves; %s", serve->command,
                  serve->word == NULL ? "give one 'role = server' and 'listen = ...'"
                                      : "the backend's section is missing or down");
        return CLI_INPUT;
    }
    return CLI_OK;
}

static void serve_print_stat(void *ctx, const char *name, uint64_t value)
{
    (void)ctx;
    printf(" %s=%llu", name, (unsigned long long)value);
}

static void serve_reload(struct serve *serve)
{
    notify_reloading();
    if (engine_reload(&serve->engine, &serve->setup) == CLI_OK) {
        printf("reloaded: %u differences need a restart\n", (unsigned)serve->engine.restart);
    } else {
        printf("not reloaded: the old settings stay\n");
    }
    (void)fflush(stdout);
    notify_manager("READY=1");
}

static int serve_wait(struct serve *serve, const sigset_t *set)
{
    const struct timespec every = {.tv_sec = (time_t)serve->stats_s};

    for (;;) {
        int sig = serve->stats_s != 0 ? sigtimedwait(set, NULL, &every) : sigwaitinfo(set, NULL);

        if (sig == SIGHUP) {
            serve_reload(serve);
            continue;
        }
        if (sig > 0) {
            return CLI_OK;
        }
        if (errno == EAGAIN) {
            printf("stats:");
            (void)serve->engine.ops.stats(serve->engine.instance, serve_print_stat, NULL);
            printf("\n");
            (void)fflush(stdout);
        } else if (errno != EINTR) {
            cli_error("%s: cannot wait for signals: %s", serve->command, strerror(errno));
            return CLI_OS;
        }
    }
}

int serve_run(struct serve *serve)
{
    sigset_t set;
    int closed;
    int r;

    serve->setup.common = &serve->common;
    if (serve->ready_fd != 0 && fcntl((int)serve->ready_fd, F_SETFD, FD_CLOEXEC) < 0) {
        cli_error("%s: descriptor %u is not open", serve->command, (unsigned)serve->ready_fd);
        return CLI_USAGE;
    }
    r = serve_signals(serve, &set);
    if (r != CLI_OK) {
        return r;
    }
    r = engine_open(&serve->engine, &serve->setup);
    if (r == CLI_OK) {
        r = engine_start(&serve->engine);
    }
    if (r == CLI_OK) {
        r = serve_ready(serve);
    }
    if (r == CLI_OK) {
        notify_manager("READY=1");
        r = serve_wait(serve, &set);
    }
    notify_manager("STOPPING=1");
    closed = engine_close(&serve->engine, serve->drain_ms);
    /* A peer that was cut off at the end of a drain is no failure of ours: it was told. */
    (void)closed;
    return r;
}

int cmd_serve(int argc, char **argv)
{
    struct serve serve = {.command = "serve"};
    int r = serve_parse(&serve, argc, argv);

    return r == CLI_GO ? serve_run(&serve) : r;
}
