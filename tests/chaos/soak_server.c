/* SPDX-License-Identifier: Apache-2.0 */
#include "soak.h"

#include <dirent.h>
#include <errno.h>
#include <ftw.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static void server_ini(const struct soak_server *server, const struct soak_setup *setup,
                       char *ini_out, size_t size)
{
    int n = snprintf(ini_out, size,
                     "[kvlane]\nlog_level = error\nstats_socket = %s\n"
                     "[store]\nmax_bytes = %" PRIu64 "\n"
                     "[tcp_remote:serve]\nrole = server\nlisten = 127.0.0.1:0\n"
                     "max_value = 32MiB\nstall_timeout = %ds\nsend_timeout = %ds\n",
                     server->socket, setup->budget, SOAK_STALL_S, SOAK_STALL_S);

    if (setup->disk != NULL && n > 0 && (size_t)n < size) {
        (void)snprintf(ini_out + n, size - (size_t)n,
                       "[disk]\nput_to = evicted\npath = %s\nbudget = %" PRIu64 "\n", setup->disk,
                       setup->disk_budget);
    }
}

static void server_exec(const struct soak_setup *setup, const char *ini, int ready_fd)
{
    char fd_text[16];

    (void)snprintf(fd_text, sizeof(fd_text), "%d", ready_fd);
    execl(setup->kvlane, "kvlane", "serve", "--parent-death", "--drain", "60s", "--ready-fd",
          fd_text, "--ini", ini, (char *)NULL);
    perror(setup->kvlane);
    _exit(127);
}

int soak_server_start(struct soak_server *server, const struct soak_setup *setup)
{
    char ini[2048];
    char line[512];
    const char *colon;
    int pipe_fds[2];
    FILE *ready;

    if (server->folder[0] == '\0') {
        (void)snprintf(server->folder, sizeof(server->folder), "/tmp/kvl-soak-XXXXXX");
        if (mkdtemp(server->folder) == NULL) {
            perror("mkdtemp");
            return -1;
        }
        (void)snprintf(server->socket, sizeof(server->socket), "%s/stats", server->folder);
    }
    server_ini(server, setup, ini, sizeof(ini));
    if (pipe(pipe_fds) < 0) {
        perror("pipe");
        return -1;
    }
    server->pid = fork();
    if (server->pid == 0) {
        close(pipe_fds[0]);
        (void)freopen("/dev/null", "w", stdout);
        server_exec(setup, ini, pipe_fds[1]);
    }
    close(pipe_fds[1]);
    ready = fdopen(pipe_fds[0], "r");
    if (server->pid < 0 || ready == NULL || fgets(line, sizeof(line), ready) == NULL) {
        fprintf(stderr, "soak: the server did not start\n");
        return -1;
    }
    (void)fclose(ready);
    colon = strrchr(line, ':');
    server->port = colon != NULL ? (uint16_t)strtoul(colon + 1, NULL, 10) : 0;
    return server->port != 0 ? 0 : -1;
}

int soak_server_end(struct soak_server *server, int signal_number)
{
    int status = 0;

    if (server->pid <= 0) {
        return 0;
    }
    (void)kill(server->pid, signal_number);
    while (waitpid(server->pid, &status, 0) < 0 && errno == EINTR) {
    }
    server->pid = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int server_remove(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st;
    (void)flag;
    (void)ftw;
    return remove(path);
}

void soak_server_clean(struct soak_server *server)
{
    if (server->folder[0] != '\0') {
        (void)nftw(server->folder, server_remove, 16, FTW_DEPTH | FTW_PHYS);
        server->folder[0] = '\0';
    }
}

bool soak_server_stats(const struct soak_server *server, char *text_out, size_t size)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const struct timeval limit = {.tv_sec = SOAK_STUCK_S};
    size_t used = 0;
    ssize_t n = -1;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0) {
        return false;
    }
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    (void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", server->socket);
    if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) == 0) {
        while ((n = read(fd, text_out + used, size - 1 - used)) > 0) {
            used += (size_t)n;
        }
    }
    text_out[used] = '\0';
    close(fd);
    return n == 0 && used > 0;
}

uint64_t soak_stat(const char *text, const char *name)
{
    size_t length = strlen(name);

    for (const char *at = text; at != NULL; at = strchr(at, '\n')) {
        at += *at == '\n';
        if (strncmp(at, name, length) == 0 && at[length] == ' ') {
            return strtoull(at + length, NULL, 10);
        }
    }
    return 0;
}

uint64_t soak_server_rss(const struct soak_server *server)
{
    unsigned long long pages = 0;
    char path[64];
    FILE *file;

    (void)snprintf(path, sizeof(path), "/proc/%d/statm", (int)server->pid);
    file = fopen(path, "r");
    if (file == NULL || fscanf(file, "%*u %llu", &pages) != 1) {
        pages = 0;
    }
    if (file != NULL) {
        (void)fclose(file);
    }
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

int soak_server_fds(const struct soak_server *server)
{
    char path[64];
    int count = 0;
    DIR *dir;

    (void)snprintf(path, sizeof(path), "/proc/%d/fd", (int)server->pid);
    dir = opendir(path);
    if (dir == NULL) {
        return -1;
    }
    while (readdir(dir) != NULL) {
        count++;
    }
    (void)closedir(dir);
    return count - 2;
}
