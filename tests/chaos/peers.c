/* SPDX-License-Identifier: Apache-2.0 */
/*
 * usage: peers [--seconds N] [--engines N] [--seed N] [--lib FILE] [--modules DIR]
 *
 * Engines that share chunks by py_socket, over shared memory and over TCP. They are killed and come
 * back under the same address, stopped and let go on, before, in and after a batch; their stores
 * are so small that chunks go while others read them; noise and old frames come to their ports.
 * Every request ends by its deadline with the right bytes or a miss. One engine is never killed:
 * when the others are gone at the end it has the descriptors that it had before they came, and its
 * memory does not grow. The last line says how it went.
 */
#include "peers.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define WITNESS 0u
#define MIB ((uint64_t)1 << 20)
/* What malloc keeps, and pages of the store and of buffers that were not touched early on. */
#define RSS_ROOM (24 * MIB)
#define FDS_ROOM 4
#define SETTLE_MS 20000u

struct peers {
    struct peers_shared *shared;
    uint64_t seconds;
    uint64_t random;
    uint64_t kills;
    uint64_t kills_inside; /* of these in the middle of a batch */
    uint64_t stops;
    uint64_t rounds;
    uint64_t pests;
    uint64_t errors;
    int fds_before;
    int fds_after;
    uint64_t rss_early;
    uint64_t rss_late;
    uint64_t rss_limit;
    uint64_t go_on_ms[PEERS_MAX]; /* 0 = it is not stopped */
};

uint64_t peers_now_ms(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

uint64_t peers_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state * 0x2545f4914f6cdd1dull >> 8;
}

static void wrong(struct peers *peers, const char *what, const char *why)
{
    peers->errors++;
    fprintf(stderr, "peers: %s: %s\n", what, why);
}

/* ---- processes ---- */

/* The socket stays bound until we end, so that nobody else is given the port; with SO_REUSEADDR on
 * both sides a peer can listen there all the same. */
static uint16_t free_port(void)
{
    const int on = 1;
    struct sockaddr_in at = {.sin_family = AF_INET};
    socklen_t length = sizeof(at);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
        bind(fd, (struct sockaddr *)&at, sizeof(at)) < 0 ||
        getsockname(fd, (struct sockaddr *)&at, &length) < 0) {
        perror("peers: no port");
        exit(1);
    }
    return ntohs(at.sin_port);
}

static void spawn(struct peers *peers, uint32_t index)
{
    struct peers_slot *slot = &peers->shared->slots[index];
    pid_t pid;

    atomic_store(&slot->is_open, 0);
    atomic_store(&slot->phase, PEERS_IDLE);
    pid = fork();
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        exit(peers_engine_run(peers->shared, slot));
    }
    if (pid < 0) {
        wrong(peers, "fork", strerror(errno));
    }
    atomic_store(&slot->pid, pid > 0 ? pid : 0);
}

/* Waits for the end; how = 0: in order, else by that signal. */
static void reap(struct peers *peers, uint32_t index, int how)
{
    struct peers_slot *slot = &peers->shared->slots[index];
    const pid_t pid = atomic_load(&slot->pid);
    uint64_t until = peers_now_ms() + SETTLE_MS + PEERS_SLACK_MS;
    int status = 0;
    pid_t r = 0;

    if (pid == 0) {
        return;
    }
    if (how != 0) {
        (void)kill(pid, how);
    }
    while ((r = waitpid(pid, &status, WNOHANG)) == 0 && peers_now_ms() < until) {
        (void)poll(NULL, 0, 2);
    }
    if (r == 0) {
        wrong(peers, "an engine", "does not end");
        (void)kill(pid, SIGKILL);
        (void)waitpid(pid, &status, 0);
    } else if (how == 0 ? !WIFEXITED(status) || WEXITSTATUS(status) != 0
                        : !WIFSIGNALED(status) || WTERMSIG(status) != how) {
        fprintf(stderr, "peers: engine %u ended with %d: %s\n", index, status, slot->text);
        peers->errors++;
    }
    atomic_store(&slot->pid, 0);
}

static bool await_open(struct peers *peers, uint32_t index)
{
    const uint64_t until = peers_now_ms() + SETTLE_MS + PEERS_SLACK_MS;

    while (!atomic_load(&peers->shared->slots[index].is_open)) {
        if (peers_now_ms() > until) {
            wrong(peers, "an engine does not start", peers->shared->slots[index].text);
            return false;
        }
        (void)poll(NULL, 0, 5);
    }
    return true;
}

/* ---- the witness ---- */

static int count_fds(pid_t pid)
{
    char path[64];
    DIR *folder;
    int count = -3; /* ., .. and the folder's own */

    (void)snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
    folder = opendir(path);
    while (folder != NULL && readdir(folder) != NULL) {
        count++;
    }
    if (folder != NULL) {
        (void)closedir(folder);
    }
    return count + 1; /* another process: none of it is ours */
}

/* Anonymous memory; what is shared is the store's and the peers'. */
static uint64_t rss_of(pid_t pid)
{
    char path[64];
    char line[256];
    uint64_t kib = 0;
    FILE *file;

    (void)snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    file = fopen(path, "re");
    while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
        if (sscanf(line, "RssAnon: %" SCNu64, &kib) == 1) {
            break;
        }
    }
    if (file != NULL) {
        (void)fclose(file);
    }
    return kib * 1024;
}

/* The fewest it has within some time, or as soon as it has no more than `enough`. */
static int settled_fds(const struct peers *peers, uint64_t within_ms, int enough)
{
    const uint64_t until = peers_now_ms() + within_ms;
    int fewest = INT32_MAX;

    do {
        const int now = count_fds(atomic_load(&peers->shared->slots[WITNESS].pid));

        fewest = now < fewest ? now : fewest;
        (void)poll(NULL, 0, 10);
    } while (fewest > enough && peers_now_ms() < until);
    return fewest;
}

/* ---- the killer ---- */

/* Waits a little for the engine to be where it is wanted. */
static bool await_phase(const struct peers_slot *slot, int phase)
{
    for (int i = 0; i < 2000; i++) {
        if (atomic_load(&slot->phase) == phase) {
            return true;
        }
        if (i % 100 == 99) {
            (void)poll(NULL, 0, 1);
        }
    }
    return false;
}

static void let_go_on(struct peers *peers, uint32_t index)
{
    struct peers_slot *slot = &peers->shared->slots[index];

    if (peers->go_on_ms[index] != 0) {
        (void)kill(atomic_load(&slot->pid), SIGCONT);
        atomic_fetch_add(&slot->stops, 1);
        peers->go_on_ms[index] = 0;
    }
}

static void stop_one(struct peers *peers, uint32_t index, uint64_t for_ms)
{
    struct peers_slot *slot = &peers->shared->slots[index];

    if (peers->go_on_ms[index] == 0) {
        atomic_fetch_add(&slot->stops, 1);
        (void)kill(atomic_load(&slot->pid), SIGSTOP);
        peers->go_on_ms[index] = peers_now_ms() + for_ms;
        peers->stops++;
    }
}

static void kill_one(struct peers *peers, uint32_t index, bool inside)
{
    if (peers->go_on_ms[index] != 0) { /* one that is stopped may die, too */
        atomic_fetch_add(&peers->shared->slots[index].stops, 1);
        peers->go_on_ms[index] = 0;
    }
    reap(peers, index, SIGKILL);
    peers->kills++;
    peers->kills_inside += inside;
    spawn(peers, index);
}

static void one_round(struct peers *peers)
{
    const uint32_t count = peers->shared->count;
    const uint32_t victim = 1 + (uint32_t)(peers_random(&peers->random) % (count - 1));
    const int phase = (int)(peers_random(&peers->random) % (PEERS_LOAD + 1));
    const uint64_t what = peers_random(&peers->random) % 10;

    for (uint32_t i = 0; i < count; i++) {
        if (peers->go_on_ms[i] != 0 && peers_now_ms() >= peers->go_on_ms[i]) {
            let_go_on(peers, i);
        }
    }
    if (what < 4 && atomic_load(&peers->shared->slots[victim].is_open)) {
        const bool there = await_phase(&peers->shared->slots[victim], phase);

        kill_one(peers, victim, there && phase != PEERS_IDLE);
    } else if (what < 6) {
        (void)await_phase(&peers->shared->slots[victim], phase);
        stop_one(peers, what == 4 ? victim : (uint32_t)(peers_random(&peers->random) % count),
                 20 + peers_random(&peers->random) % 1000);
    } else {
        peers_pest(peers->shared, &peers->random);
        peers->pests++;
    }
    peers->rounds++;
    (void)poll(NULL, 0, (int)(peers_random(&peers->random) % (PEERS_SANITIZED ? 400 : 100)));
}

static void check_running(struct peers *peers)
{
    for (uint32_t i = 0; i < peers->shared->count; i++) {
        const pid_t pid = atomic_load(&peers->shared->slots[i].pid);
        int status;

        if (pid > 0 && waitpid(pid, &status, WNOHANG) == pid) {
            fprintf(stderr, "peers: engine %u ended with %d: %s\n", i, status,
                    peers->shared->slots[i].text);
            peers->errors++;
            atomic_store(&peers->shared->slots[i].pid, 0);
        }
    }
}

static void chaos(struct peers *peers)
{
    const uint64_t start = peers_now_ms();
    const uint64_t until = start + peers->seconds * 1000;
    const pid_t witness = atomic_load(&peers->shared->slots[WITNESS].pid);

    while (peers_now_ms() < until && peers->errors == 0) {
        one_round(peers);
        check_running(peers);
        if (peers->rss_early == 0 && peers_now_ms() > start + (until - start) * 2 / 5) {
            peers->rss_early = rss_of(witness);
        }
    }
    for (uint32_t i = 0; i < peers->shared->count; i++) {
        let_go_on(peers, i);
    }
    peers->rss_late = rss_of(witness);
}

/* ---- all of it ---- */

static void set_up(struct peers *peers)
{
    struct peers_shared *shared = peers->shared;

    shared->seed = peers->random;
    for (uint32_t i = 0; i < shared->count; i++) {
        shared->slots[i].index = i;
        shared->slots[i].port = free_port();
        shared->slots[i].data_port = free_port();
    }
    atomic_store(&shared->rest, 1);
    spawn(peers, WITNESS);
    if (!await_open(peers, WITNESS)) {
        return;
    }
    peers->fds_before = settled_fds(peers, 1500, 0);
    for (uint32_t i = 1; i < shared->count; i++) {
        spawn(peers, i);
    }
    for (uint32_t i = 1; i < shared->count; i++) {
        (void)await_open(peers, i);
    }
    atomic_store(&shared->rest, 0);
}

/* The others go, the witness stays for a look at what it has left, and ends in order. */
static void wind_up(struct peers *peers)
{
    struct peers_shared *shared = peers->shared;

    atomic_store(&shared->rest, 1);
    for (uint32_t i = 1; i < shared->count; i++) {
        reap(peers, i, SIGKILL);
    }
    peers->fds_after = settled_fds(peers, SETTLE_MS, peers->fds_before);
    if (peers->fds_after > peers->fds_before + FDS_ROOM) {
        wrong(peers, "the witness", "has descriptors left");
    }
    peers->rss_limit = peers->rss_early + RSS_ROOM;
    if (!PEERS_SANITIZED && peers->rss_late > peers->rss_limit) {
        wrong(peers, "the witness", "grows");
    }
    atomic_store(&shared->stop, 1);
    reap(peers, WITNESS, 0);
}

static int tell(struct peers *peers)
{
    struct peers_slot sum = {0};

    for (uint32_t i = 0; i < peers->shared->count; i++) {
        struct peers_slot *slot = &peers->shared->slots[i];

        sum.ops += slot->ops;
        sum.hits += slot->hits;
        sum.wrong += slot->wrong;
        sum.late += slot->late;
        sum.late_ms = slot->late_ms > sum.late_ms ? slot->late_ms : sum.late_ms;
        peers->errors += slot->errors;
        if (slot->errors > 0) {
            fprintf(stderr, "peers: engine %u: %s\n", i, slot->text);
        }
    }
    if (sum.hits == 0 || peers->kills == 0) {
        wrong(peers, "nothing", "came from a peer, or nobody was killed");
    }
    peers->errors += sum.wrong + sum.late;
    printf("peers: %s seconds=%" PRIu64 " ops=%" PRIu64 " hits=%" PRIu64 " rounds=%" PRIu64
           " kills=%" PRIu64 " kills_inside=%" PRIu64 " stops=%" PRIu64 " pests=%" PRIu64
           " wrong=%" PRIu64 " late=%" PRIu64 " latest_ms=%" PRIu64 " fds=%d/%d rss_mib=%" PRIu64
           "/%" PRIu64 " errors=%" PRIu64 "\n",
           peers->errors == 0 ? "ok" : "FAILED", peers->seconds, sum.ops, sum.hits, peers->rounds,
           peers->kills, peers->kills_inside, peers->stops, peers->pests, sum.wrong, sum.late,
           sum.late_ms, peers->fds_before, peers->fds_after, peers->rss_early / MIB,
           peers->rss_late / MIB, peers->errors);
    return peers->errors == 0 ? 0 : 1;
}

static void parse(struct peers *peers, int argc, char **argv)
{
    static const struct option options[] = {
        {"seconds", required_argument, NULL, 's'}, {"engines", required_argument, NULL, 'e'},
        {"seed", required_argument, NULL, 'r'},    {"lib", required_argument, NULL, 'l'},
        {"modules", required_argument, NULL, 'm'}, {0},
    };
    struct peers_shared *shared = peers->shared;
    int c;

    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (c) {
        case 's':
            peers->seconds = strtoull(optarg, NULL, 10);
            break;
        case 'e':
            shared->count = (uint32_t)strtoul(optarg, NULL, 10);
            break;
        case 'r':
            peers->random = strtoull(optarg, NULL, 10) | 1;
            break;
        case 'l':
            shared->library = optarg;
            break;
        case 'm':
            shared->modules = optarg;
            break;
        default:
            exit(2);
        }
    }
    if (peers->seconds == 0 || shared->count < 2 || shared->count > PEERS_MAX || optind != argc) {
        fprintf(stderr,
                "usage: peers [--seconds N] [--engines N, 2 to %u] [--seed N] [--lib FILE] "
                "[--modules DIR]\n",
                PEERS_MAX);
        exit(2);
    }
}

int main(int argc, char **argv)
{
    struct peers peers = {.seconds = 60, .random = peers_now_ms() | 1};

    peers.shared = mmap(NULL, sizeof(*peers.shared), PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (peers.shared == MAP_FAILED) {
        perror("peers");
        return 1;
    }
    peers.shared->count = 4;
    peers.shared->library = PEERS_LIB;
    peers.shared->modules = PEERS_MODULES;
    parse(&peers, argc, argv);
    printf("peers: seed %" PRIu64 ", %" PRIu64 " s\n", peers.random, peers.seconds);
    (void)fflush(stdout);
    set_up(&peers);
    if (peers.errors == 0) {
        chaos(&peers);
    }
    wind_up(&peers);
    return tell(&peers);
}
