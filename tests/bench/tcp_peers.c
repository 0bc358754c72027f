/* SPDX-License-Identifier: Apache-2.0 */
#include "tcp_peers.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tcp_raw.h"

#define START_MS 60000

/* ---- addresses ---- */

static int listen_loopback(struct sockaddr_in *addr)
{
    socklen_t length = sizeof(*addr);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    *addr = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (fd < 0 || bind(fd, (struct sockaddr *)addr, sizeof(*addr)) != 0 || listen(fd, 128) != 0 ||
        getsockname(fd, (struct sockaddr *)addr, &length) != 0) {
        return -1;
    }
    return fd;
}

/* For servers that want to be told a port. Somebody else may take it first: then they say so. */
static uint16_t free_port(void)
{
    struct sockaddr_in addr;
    int fd = listen_loopback(&addr);

    if (fd >= 0) {
        close(fd);
    }
    return fd >= 0 ? ntohs(addr.sin_port) : 0;
}

static void set_port(struct tcp_peer *peer, uint16_t port)
{
    struct sockaddr_in addr = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(port)};

    memcpy(&peer->addr, &addr, sizeof(addr));
    peer->addr_length = sizeof(addr);
}

/* ---- children ---- */

static void child_setup(pid_t parent)
{
    int fd = open("/dev/null", O_WRONLY);

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent || fd < 0 || dup2(fd, STDERR_FILENO) < 0) {
        _exit(127);
    }
}

static pid_t child_exec(char *const *argv, int *out_fd)
{
    pid_t parent = getpid();
    int pipe_fds[2];
    pid_t pid;

    if (pipe2(pipe_fds, O_CLOEXEC) != 0) {
        return -1;
    }
    pid = fork();
    if (pid == 0) {
        child_setup(parent);
        (void)dup2(pipe_fds[1], STDOUT_FILENO);
        (void)execvp(argv[0], argv);
        _exit(127);
    }
    close(pipe_fds[1]);
    *out_fd = pipe_fds[0];
    return pid;
}

static bool child_is_gone(pid_t pid)
{
    int status;

    return waitpid(pid, &status, WNOHANG) == pid;
}

/* Servers without a ready line are asked until they answer. */
static int await_connect(struct tcp_peer *peer)
{
    for (int waited = 0; waited < START_MS; waited += 20) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        int r = connect(fd, (struct sockaddr *)&peer->addr, peer->addr_length);

        close(fd);
        if (r == 0) {
            return 0;
        }
        if (child_is_gone(peer->pid)) {
            peer->pid = 0;
            return -1;
        }
        (void)poll(NULL, 0, 20);
    }
    tcp_peer_stop(peer);
    return -1;
}

/* ---- the servers ---- */

static int start_raw(struct tcp_peer *peer, size_t memory)
{
    struct sockaddr_in addr;
    pid_t parent = getpid();
    int fd = listen_loopback(&addr);

    if (fd < 0) {
        return -1;
    }
    peer->pid = fork();
    if (peer->pid == 0) {
        child_setup(parent);
        tcp_raw_serve(fd, memory);
    }
    close(fd);
    set_port(peer, ntohs(addr.sin_port));
    return 0;
}

static int read_ready(struct tcp_peer *peer, int fd)
{
    char line[512];
    size_t used = 0;
    const char *colon;

    while (used < sizeof(line) - 1 && memchr(line, '\n', used) == NULL) {
        ssize_t n = read(fd, line + used, sizeof(line) - 1 - used);

        if (n <= 0) {
            return -1;
        }
        used += (size_t)n;
    }
    line[used] = '\0';
    colon = strrchr(line, ':'); /* ready: tcp_remote lm://127.0.0.1:PORT */
    if (strncmp(line, "ready:", 6) != 0 || colon == NULL) {
        return -1;
    }
    set_port(peer, (uint16_t)strtoul(colon + 1, NULL, 10));
    return 0;
}

static int start_kvlane(struct tcp_peer *peer, size_t memory)
{
    const char *extra = getenv("KVL_BENCH_INI"); /* more lines of [tcp_remote], to try settings */
    const char *program = getenv("KVL_PROGRAM");
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    char ini[1024];
    char *argv[] = {(char *)(uintptr_t)(program != NULL ? program : KVL_PROGRAM_DEFAULT),
                    (char *)(uintptr_t) "serve",
                    (char *)(uintptr_t) "--parent-death",
                    (char *)(uintptr_t) "--ini",
                    ini,
                    NULL};
    int out = -1;
    int r;

    snprintf(peer->folder, sizeof(peer->folder), "/tmp/kvlane-bench-XXXXXX");
    if (mkdtemp(peer->folder) == NULL) {
        return -1;
    }
    snprintf(un.sun_path, sizeof(un.sun_path), "%s/socket", peer->folder);
    memcpy(&peer->local, &un, sizeof(un));
    peer->local_length = sizeof(un);
    snprintf(ini, sizeof(ini),
             "[store]\nmax_bytes = %zu\nchecksum = no\n"
             "[tcp_remote]\nrole = server\nlisten = 127.0.0.1:0,unix:%s\n%s\n",
             memory * 4, un.sun_path, extra != NULL ? extra : "");
    peer->pid = child_exec(argv, &out);
    r = peer->pid > 0 ? read_ready(peer, out) : -1;
    close(out);
    return r;
}

static int start_python(struct tcp_peer *peer)
{
    const char *program = getenv("KVL_LMCACHE_PYTHON");
    char port[8];
    char *argv[] = {(char *)(uintptr_t)(program != NULL ? program : KVL_VENV_PYTHON),
                    (char *)(uintptr_t)KVL_LMCACHE_SERVER,
                    (char *)(uintptr_t) "server",
                    (char *)(uintptr_t) "127.0.0.1",
                    port,
                    NULL};
    int out;

    if (access(argv[0], X_OK) != 0) {
        return -1;
    }
    snprintf(port, sizeof(port), "%u", (unsigned)free_port());
    set_port(peer, (uint16_t)strtoul(port, NULL, 10));
    peer->pid = child_exec(argv, &out);
    if (peer->pid <= 0) {
        return -1;
    }
    /* its pipe stays open: a line of log must not end it */
    return await_connect(peer);
}

static int start_redis(struct tcp_peer *peer)
{
    char port[8];
    char *argv[] = {(char *)(uintptr_t) "redis-server",
                    (char *)(uintptr_t) "--port",
                    port,
                    (char *)(uintptr_t) "--bind",
                    (char *)(uintptr_t) "127.0.0.1",
                    (char *)(uintptr_t) "--save",
                    (char *)(uintptr_t) "",
                    (char *)(uintptr_t) "--appendonly",
                    (char *)(uintptr_t) "no",
                    (char *)(uintptr_t) "--logfile",
                    (char *)(uintptr_t) "/dev/null",
                    NULL};
    int out;

    snprintf(port, sizeof(port), "%u", (unsigned)free_port());
    set_port(peer, (uint16_t)strtoul(port, NULL, 10));
    peer->pid = child_exec(argv, &out);
    if (peer->pid <= 0) {
        return -1;
    }
    return await_connect(peer);
}

int tcp_peer_start(struct tcp_peer *peer, enum tcp_peer_kind kind, size_t memory)
{
    int r;

    *peer = (struct tcp_peer){0};
    switch (kind) {
    case TCP_PEER_RAW:
        r = start_raw(peer, memory);
        break;
    case TCP_PEER_KVLANE:
        r = start_kvlane(peer, memory);
        break;
    case TCP_PEER_PYTHON:
        r = start_python(peer);
        break;
    default:
        r = start_redis(peer);
        break;
    }
    if (r < 0) {
        tcp_peer_stop(peer);
    }
    return r;
}

void tcp_peer_stop(struct tcp_peer *peer)
{
    int status;

    if (peer->pid > 0) {
        (void)kill(peer->pid, SIGKILL);
        (void)waitpid(peer->pid, &status, 0);
        peer->pid = 0;
    }
    if (peer->folder[0] != '\0') {
        struct sockaddr_un un;

        memcpy(&un, &peer->local, sizeof(un));
        (void)unlink(un.sun_path);
        (void)rmdir(peer->folder);
        peer->folder[0] = '\0';
    }
}

double tcp_peer_cpu(const struct tcp_peer *peer)
{
    struct timespec used;
    clockid_t clock;

    if (peer->pid <= 0 || clock_getcpuclockid(peer->pid, &clock) != 0 ||
        clock_gettime(clock, &used) != 0) {
        return -1;
    }
    return (double)used.tv_sec + (double)used.tv_nsec / 1e9;
}
