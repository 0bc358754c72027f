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

#include "engine.h"
#include "notify.h"
#include "util.h"

struct serve {
    struct engine engine;
    struct cli_common common;
    const char *ini;
    uint64_t drain_ms;
    uint64_t stats_s;
    uint64_t ready_fd; /* 0 = none */
    bool parent_death;
};

static int serve_parse(struct serve *serve, int argc, char **argv)
{
    const struct cli_option options[] = {
        {"ini", "TEXT", "INI text in place of a file", CLI_TEXT, &serve->ini, 0, 0},
        {"drain", "DURATION", "longest wait for work under way at the end (5s)", CLI_TIME,
         &serve->drain_ms, 0, 3600 * 1000},
        {"stats", "SECONDS", "print the counters each so many seconds", CLI_COUNT, &serve->stats_s,
         1, 86400},
        {"ready-fd", "N", "write the ready lines there too, and close it", CLI_COUNT,
         &serve->ready_fd, 3, 1 << 20},
        {"parent-death", NULL, "end when the parent process ends", CLI_FLAG, &serve->parent_death,
         0, 0},
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
        cli_error("serve: cannot block signals");
        return CLI_OS;
    }
    if (serve->parent_death) {
        if (prctl(PR_SET_PDEATHSIG, SIGTERM) != 0) {
            cli_error("serve: cannot ask for the parent's death: %s", strerror(errno));
            return CLI_OS;
        }
        /* It may have died before we asked. */
        if (getppid() != parent) {
            (void)kill(getpid(), SIGTERM);
        }
    }
    return CLI_OK;
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

        if ((health.caps & KVL_CAP_SERVE) == 0 || health.state != KVL_HEALTH_OK) {
            continue;
        }
        servers++;
        n = snprintf(line, sizeof(line), "ready: %.*s %.*s\n", (int)sizeof(health.name),
                     health.name, (int)sizeof(health.address), health.address);
        (void)fputs(line, stdout);
        if (serve->ready_fd != 0 && util_write_all((int)serve->ready_fd, line, (size_t)n) < 0) {
            cli_error("serve: cannot write to descriptor %u", (unsigned)serve->ready_fd);
            return CLI_OS;
        }
    }
    (void)fflush(stdout);
    if (serve->ready_fd != 0) {
        close((int)serve->ready_fd);
    }
    if (servers == 0) {
        cli_error("serve: no section of the INI file serves; give one 'role = server' and "
                  "'listen = ...'");
        return CLI_INPUT;
    }
    return CLI_OK;
}

static void serve_print_stat(void *ctx, const char *name, uint64_t value)
{
    (void)ctx;
    printf(" %s=%llu", name, (unsigned long long)value);
}

static void serve_reload(struct serve *serve, const struct engine_setup *setup)
{
    notify_reloading();
    if (engine_reload(&serve->engine, setup) == CLI_OK) {
        printf("reloaded: %u differences need a restart\n", (unsigned)serve->engine.restart);
    } else {
        printf("not reloaded: the old settings stay\n");
    }
    (void)fflush(stdout);
    notify_manager("READY=1");
}

static int serve_wait(struct serve *serve, const struct engine_setup *setup, const sigset_t *set)
{
    const struct timespec every = {.tv_sec = (time_t)serve->stats_s};

    for (;;) {
        int sig = serve->stats_s != 0 ? sigtimedwait(set, NULL, &every) : sigwaitinfo(set, NULL);

        if (sig == SIGHUP) {
            serve_reload(serve, setup);
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
            cli_error("serve: cannot wait for signals: %s", strerror(errno));
            return CLI_OS;
        }
    }
}

int cmd_serve(int argc, char **argv)
{
    struct serve serve = {.drain_ms = 5000};
    struct engine_setup setup = {.common = &serve.common};
    sigset_t set;
    int closed;
    int r = serve_parse(&serve, argc, argv);

    if (r != CLI_GO) {
        return r;
    }
    if (serve.ready_fd != 0 && fcntl((int)serve.ready_fd, F_SETFD, FD_CLOEXEC) < 0) {
        cli_error("serve: descriptor %u is not open", (unsigned)serve.ready_fd);
        return CLI_USAGE;
    }
    setup.config_text = serve.ini;
    r = serve_signals(&serve, &set);
    if (r != CLI_OK) {
        return r;
    }
    r = engine_open(&serve.engine, &setup);
    if (r == CLI_OK) {
        r = engine_start(&serve.engine);
    }
    if (r == CLI_OK) {
        r = serve_ready(&serve);
    }
    if (r == CLI_OK) {
        notify_manager("READY=1");
        r = serve_wait(&serve, &setup, &set);
    }
    notify_manager("STOPPING=1");
    closed = engine_close(&serve.engine, serve.drain_ms);
    /* A peer that was cut off at the end of a drain is no failure of ours: it was told. */
    (void)closed;
    return r;
}
