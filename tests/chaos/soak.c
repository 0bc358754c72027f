/* SPDX-License-Identifier: Apache-2.0 */
/*
 * usage: soak [--seconds N] [--budget-mib N] [--seed N] [--quick] [--no-disk]
 *             [--disk-seconds N] [--kvlane FILE] [--lib FILE]
 *
 * One `kvlane serve` under a key space three times its budget: clients as LMCache's, engines with
 * the plugin, and pests, all of them killed at random. Nothing that comes back may be wrong, memory
 * stays within its bound, nothing is left over at the end. The last line says how it went.
 */
#include "soak.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MIB ((uint64_t)1 << 20)
/* Executable, libraries, stacks, connections and whatever malloc keeps. */
#define RSS_BASE (48 * MIB)
#define TICK_MS 100
#define STATS_TEXT (256u << 10)

struct soak {
    struct soak_shared *shared;
    struct soak_setup setup;
    struct soak_server server;
    const char *library;
    uint64_t seconds;
    uint64_t disk_seconds;
    uint64_t random;
    bool quick;
    bool no_disk;

    uint64_t kills;
    uint64_t kills_inside; /* of these in the middle of a body or a reply */
    uint64_t errors; /* of our own checks */
    uint64_t rss_peak;
    uint64_t rss_limit;
    uint64_t rss_early; /* once the store was full */
    uint64_t rss_last;
    uint64_t connections_peak;
    uint64_t evictions;
    uint64_t slow_closed;
    struct soak_restart restart;
    bool restarted;
    char text[STATS_TEXT];
};

uint64_t soak_now_ms(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

uint64_t soak_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state * 0x2545f4914f6cdd1dull >> 8;
}

void soak_error(struct soak_slot *slot, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    if (atomic_fetch_add(&slot->errors, 1) == 0) {
        (void)vsnprintf(slot->text, sizeof(slot->text), fmt, args);
    }
    va_end(args);
}

static void fail(struct soak *soak, const char *fmt, ...) KVL_PRINTF(2, 3);

static void fail(struct soak *soak, const char *fmt, ...)
{
    va_list args;

    if (soak->errors++ < 10) {
        printf("error: ");
        va_start(args, fmt);
        (void)vprintf(fmt, args);
        va_end(args);
        printf("\n");
    }
}

/* ---- the processes ---- */

static void spawn(struct soak *soak, struct soak_slot *slot)
{
    pid_t parent = getpid();
    pid_t pid;

    atomic_store(&slot->phase, SOAK_IDLE);
    (void)fflush(stdout);
    pid = fork();
    if (pid < 0) {
        fail(soak, "fork: %s", strerror(errno));
        return;
    }
    if (pid > 0) {
        atomic_store(&slot->pid, pid);
        return;
    }
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) {
        _exit(1);
    }
    switch (slot->kind) {
    case SOAK_LM:
        soak_lm_run(soak->shared, slot);
        break;
    case SOAK_ENGINE:
        soak_engine_run(soak->shared, slot, soak->library);
        break;
    default:
        soak_pest_run(soak->shared, slot);
        break;
    }
    exit(0); /* so that a sanitizer looks for leaks */
}

/* Whoever ended without being told has an error to tell, or crashed. */
static void reap(struct soak *soak)
{
    for (uint32_t i = 0; i < soak->shared->slot_count; i++) {
        struct soak_slot *slot = &soak->shared->slots[i];
        int status = 0;
        int pid = atomic_load(&slot->pid);

        if (pid == 0 || waitpid(pid, &status, WNOHANG) != pid) {
            continue;
        }
        atomic_store(&slot->pid, 0);
        if (status != 0) {
            fail(soak, "process %u ended with status %x", i, (unsigned)status);
        }
    }
}

static void kill_slot(struct soak *soak, struct soak_slot *slot)
{
    int pid = atomic_load(&slot->pid);

    if (pid == 0) {
        return;
    }
    soak->kills_inside += atomic_load(&slot->phase) != SOAK_IDLE;
    (void)kill(pid, SIGKILL);
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) {
    }
    soak->kills++;
    spawn(soak, slot);
}

/* Prefers one that is in the middle of something. */
static void kill_somebody(struct soak *soak)
{
    uint32_t count = soak->shared->slot_count;
    uint32_t first = (uint32_t)(soak_random(&soak->random) % count);

    for (uint32_t i = 0; i < count; i++) {
        struct soak_slot *slot = &soak->shared->slots[(first + i) % count];

        if (atomic_load(&slot->phase) != SOAK_IDLE && atomic_load(&slot->errors) == 0) {
            kill_slot(soak, slot);
            return;
        }
    }
    if (atomic_load(&soak->shared->slots[first].errors) == 0) {
        kill_slot(soak, &soak->shared->slots[first]);
    }
}

static void stop_all(struct soak *soak)
{
    uint64_t until = soak_now_ms() + SOAK_STUCK_S * 1000ull;
    bool alive = true;

    atomic_store(&soak->shared->stop, 1);
    while (alive && soak_now_ms() < until) {
        alive = false;
        reap(soak);
        for (uint32_t i = 0; i < soak->shared->slot_count; i++) {
            alive = alive || atomic_load(&soak->shared->slots[i].pid) != 0;
        }
        (void)poll(NULL, 0, alive ? 5 : 0);
    }
    for (uint32_t i = 0; i < soak->shared->slot_count; i++) {
        int pid = atomic_exchange(&soak->shared->slots[i].pid, 0);

        if (pid != 0) {
            fail(soak, "process %u does not end", i);
            (void)kill(pid, SIGKILL);
            (void)waitpid(pid, NULL, 0);
        }
    }
    atomic_store(&soak->shared->stop, 0);
}

/* ---- watching the server ---- */

static uint64_t stat_of(const struct soak *soak, const char *name)
{
    return soak_stat(soak->text, name);
}

static bool look(struct soak *soak)
{
    uint64_t connections;

    if (!soak_server_stats(&soak->server, soak->text, sizeof(soak->text))) {
        fail(soak, "the stats socket does not answer");
        return false;
    }
    connections = stat_of(soak, "tcp_remote_serve_connections");
    if (connections > soak->connections_peak) {
        soak->connections_peak = connections;
    }
    if (stat_of(soak, "store_used_bytes") > soak->setup.budget) {
        fail(soak, "%" PRIu64 " bytes in use, the budget is %" PRIu64,
             stat_of(soak, "store_used_bytes"), soak->setup.budget);
    }
    if (stat_of(soak, "store_corrupt") != 0) {
        fail(soak, "the store found wrong bytes");
    }
    return true;
}

static void look_at_memory(struct soak *soak)
{
    soak->rss_last = soak_server_rss(&soak->server);
    if (soak->rss_last > soak->rss_peak) {
        soak->rss_peak = soak->rss_last;
    }
    if (!SOAK_SANITIZED && soak->rss_last > soak->rss_limit) {
        fail(soak, "%" PRIu64 " MiB resident, the limit is %" PRIu64, soak->rss_last / MIB,
             soak->rss_limit / MIB);
    }
}

static bool server_is_alive(struct soak *soak)
{
    int status;

    if (waitpid(soak->server.pid, &status, WNOHANG) == soak->server.pid) {
        fail(soak, "the server ended with status %x", (unsigned)status);
        soak->server.pid = 0;
        return false;
    }
    return true;
}

/* All processes for so long, one killed now and then. */
static void load(void *ctx, uint64_t seconds)
{
    struct soak *soak = ctx;
    uint64_t start = soak_now_ms();
    uint64_t next_kill = start + 500;
    uint64_t next_look = start;

    for (uint32_t i = 0; i < soak->shared->slot_count; i++) {
        spawn(soak, &soak->shared->slots[i]);
    }
    while (soak_now_ms() < start + seconds * 1000 && server_is_alive(soak)) {
        uint64_t now = soak_now_ms();

        (void)poll(NULL, 0, TICK_MS);
        reap(soak);
        look_at_memory(soak);
        if (now >= next_kill) {
            kill_somebody(soak);
            next_kill = now + 50 + soak_random(&soak->random) % 400;
        }
        if (now >= next_look && !look(soak)) {
            break;
        }
        next_look = now >= next_look ? now + 1000 : next_look;
        if (soak->rss_early == 0 && (now - start) * 3 > seconds * 1000 &&
            stat_of(soak, "store_evictions") > 0) {
            soak->rss_early = soak->rss_last;
        }
    }
    stop_all(soak);
}

/* With nobody there, everything is given back. */
static void check_rest(struct soak *soak, int fds)
{
    uint64_t until = soak_now_ms() + (SOAK_STALL_S + 15) * 1000ull;
    bool quiet = false;

    while (!quiet && server_is_alive(soak) && soak_now_ms() < until && look(soak)) {
        quiet = stat_of(soak, "tcp_remote_serve_connections") == 0 &&
                stat_of(soak, "store_reserved") == 0 && stat_of(soak, "store_leases") == 0 &&
                soak_server_fds(&soak->server) <= fds;
        (void)poll(NULL, 0, quiet ? 0 : 20);
    }
    soak->evictions = stat_of(soak, "store_evictions");
    soak->slow_closed = stat_of(soak, "tcp_remote_serve_slow_readers_closed") +
                        stat_of(soak, "tcp_remote_serve_stalled_closed");
    if (!quiet) {
        fail(soak,
             "left over: %" PRIu64 " connections, %" PRIu64 " reserved, %" PRIu64
             " leases, %d descriptors of %d",
             stat_of(soak, "tcp_remote_serve_connections"), stat_of(soak, "store_reserved"),
             stat_of(soak, "store_leases"), soak_server_fds(&soak->server), fds);
    }
    if (!soak->quick && (soak->evictions == 0 || soak->slow_closed == 0)) {
        fail(soak, "nothing was evicted, or nobody was too slow: that was no load");
    }
    if (!SOAK_SANITIZED && soak->rss_early != 0 && soak->seconds >= 60 &&
        soak->rss_last > soak->rss_early + soak->setup.budget / 20 + 8 * MIB) {
        fail(soak, "memory grew from %" PRIu64 " to %" PRIu64 " MiB", soak->rss_early / MIB,
             soak->rss_last / MIB);
    }
}

static struct soak_slot *own_slot(struct soak *soak)
{
    return &soak->shared->slots[SOAK_SLOTS - 1];
}

static void run_memory(struct soak *soak)
{
    int fds;
    int status;

    if (soak_server_start(&soak->server, &soak->setup) < 0) {
        fail(soak, "no server");
        return;
    }
    soak->shared->port = soak->server.port;
    /* Once it has answered it has closed the pipe of its ready line, too. */
    fds = look(soak) ? soak_server_fds(&soak->server) : 0;
    load(soak, soak->seconds);
    check_rest(soak, fds);
    if (soak->server.pid > 0) {
        (void)soak_lm_sweep(soak->shared, own_slot(soak), NULL);
        status = soak_server_end(&soak->server, SIGTERM);
        if (status != 0) {
            fail(soak, "the server ended with %d", status);
        }
    }
}

static void run_restart(struct soak *soak)
{
    struct soak_setup setup = soak->setup;
    char disk[96];

    (void)snprintf(disk, sizeof(disk), "%s/disk", soak->server.folder);
    setup.disk = disk;
    /* Room for all that is ever written: what an older version leaves behind counts, too, and when
     * a file has to go for it chunks go along. */
    setup.disk_budget = soak->setup.budget * 64;
    soak_restart_run(soak->shared, own_slot(soak), &soak->server, &setup, soak->disk_seconds, load,
                     soak, &soak->restart);
    soak->restarted = true;
    if (soak->restart.failed) {
        fail(soak, "the restart did not go well");
    }
}

/* ---- setting up, telling ---- */

static void set_up(struct soak *soak)
{
    static const enum soak_kind kinds[] = {SOAK_LM,     SOAK_LM,   SOAK_LM,   SOAK_LM,
                                           SOAK_ENGINE, SOAK_PEST, SOAK_PEST, SOAK_ENGINE};
    uint64_t bytes = 0;

    soak->shared = mmap(NULL, sizeof(*soak->shared), PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (soak->shared == MAP_FAILED) {
        perror("mmap");
        exit(2);
    }
    soak->shared->seed = soak->random;
    soak->shared->slot_count = sizeof(kinds) / sizeof(kinds[0]);
    for (uint32_t i = 0; i < SOAK_SLOTS; i++) {
        soak->shared->slots[i].index = i;
        soak->shared->slots[i].kind = i < soak->shared->slot_count ? kinds[i] : SOAK_LM;
    }
    while (bytes < 3 * soak->setup.budget && soak->shared->keys < SOAK_KEYS_MAX) {
        bytes += soak_value_size(soak->shared->keys++, 1);
    }
    soak->rss_limit = soak->setup.budget + soak->setup.budget / 20 + RSS_BASE;
    (void)signal(SIGPIPE, SIG_IGN);
}

static int tell(struct soak *soak)
{
    static const char *const kinds[] = {"lm", "engine", "pest"};
    uint64_t ops = 0;
    uint64_t bytes = 0;

    printf("%-8s %10s %10s %10s %10s %10s %8s\n", "process", "ops", "puts", "gets", "hits", "MiB",
           "errors");
    for (uint32_t i = 0; i < SOAK_SLOTS; i++) {
        const struct soak_slot *slot = &soak->shared->slots[i];

        soak->errors += slot->errors;
        if (i < soak->shared->slot_count) {
            printf("%-8s %10" PRIu64 " %10" PRIu64 " %10" PRIu64 " %10" PRIu64 " %10" PRIu64
                   " %8" PRIu64 "\n",
                   kinds[slot->kind], slot->ops, slot->puts, slot->gets, slot->hits,
                   slot->bytes / MIB, slot->errors);
        }
        if (slot->errors != 0) {
            printf("error: process %u: %s\n", i, slot->text);
        }
        ops += slot->ops;
        bytes += slot->bytes;
    }
    printf("keys %u, budget %" PRIu64 " MiB, evictions %" PRIu64 ", most connections %" PRIu64
           ", closed for stopping %" PRIu64 ", killed inside a transfer %" PRIu64 "\n",
           soak->shared->keys, soak->setup.budget / MIB, soak->evictions, soak->connections_peak,
           soak->slow_closed, soak->kills_inside);
    if (soak->restarted) {
        printf("restart: %" PRIu64 " chunks, %" PRIu64 " after SIGTERM, %" PRIu64
               " after SIGKILL\n",
               soak->restart.before, soak->restart.after_term, soak->restart.after_kill);
    }
    printf("soak: %s seconds=%" PRIu64 " ops=%" PRIu64 " bytes=%" PRIu64 " kills=%" PRIu64
           " rss_peak_mib=%" PRIu64 " rss_limit_mib=%" PRIu64 " errors=%" PRIu64 "\n",
           soak->errors == 0 ? "ok" : "FAILED", soak->seconds, ops, bytes, soak->kills,
           soak->rss_peak / MIB, soak->rss_limit / MIB, soak->errors);
    return soak->errors == 0 ? 0 : 1;
}

static void parse(struct soak *soak, int argc, char **argv)
{
    static const struct option options[] = {
        {"seconds", required_argument, NULL, 's'},
        {"budget-mib", required_argument, NULL, 'b'},
        {"seed", required_argument, NULL, 'r'},
        {"kvlane", required_argument, NULL, 'k'},
        {"lib", required_argument, NULL, 'l'},
        {"quick", no_argument, NULL, 'q'},
        {"no-disk", no_argument, NULL, 'd'},
        {"disk-seconds", required_argument, NULL, 't'},
        {0},
    };
    int c;

    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (c) {
        case 's':
            soak->seconds = strtoull(optarg, NULL, 10);
            break;
        case 'b':
            soak->setup.budget = strtoull(optarg, NULL, 10) * MIB;
            break;
        case 'r':
            soak->random = strtoull(optarg, NULL, 10) | 1;
            break;
        case 'k':
            soak->setup.kvlane = optarg;
            break;
        case 'l':
            soak->library = optarg;
            break;
        case 'q':
            soak->quick = true;
            soak->disk_seconds = 1;
            break;
        case 't':
            soak->disk_seconds = strtoull(optarg, NULL, 10);
            break;
        case 'd':
            soak->no_disk = true;
            break;
        default:
            exit(2);
        }
    }
    if (soak->seconds == 0 || soak->setup.budget < 64 * MIB || optind != argc) {
        fprintf(stderr, "usage: soak [--seconds N] [--budget-mib N, from 64] [--seed N] [--quick] "
                        "[--no-disk] [--disk-seconds N] [--kvlane FILE] [--lib FILE]\n");
        exit(2);
    }
}

int main(int argc, char **argv)
{
    static struct soak soak = {
        .setup = {.kvlane = SOAK_KVLANE, .budget = 256 * MIB},
        .library = SOAK_LIB,
        .seconds = 60,
        .disk_seconds = 8,
    };

    soak.random = soak_now_ms() | 1;
    parse(&soak, argc, argv);
    printf("soak: seed %" PRIu64 ", %" PRIu64 " s\n", soak.random, soak.seconds);
    (void)fflush(stdout);
    set_up(&soak);
    run_memory(&soak);
    if (SOAK_HAS_DISK && !soak.no_disk && soak.errors == 0) {
        run_restart(&soak);
    }
    soak_server_clean(&soak.server);
    return tell(&soak);
}
