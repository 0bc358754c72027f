/* SPDX-License-Identifier: Apache-2.0 */
#include "child.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "util.h"

#define CHILD_FD 3
#define CHILD_ARGS 256
#define CHILD_READY_MS 30000
#define CHILD_END_MS 10000

struct args {
    const char *at[CHILD_ARGS];
    uint32_t count;
};

static void args_add(struct args *args, const char *arg)
{
    if (args->count + 1 < CHILD_ARGS) {
        args->at[args->count++] = arg;
    }
}

static void args_add_pair(struct args *args, const char *option, const char *value)
{
    if (value != NULL) {
        args_add(args, option);
        args_add(args, value);
    }
}

/* Between fork and exec: only what is safe there. Does not return. */
static void child_exec(int fd, pid_t parent, bool silent, char *const *argv)
{
    sigset_t none;

    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    if (prctl(PR_SET_PDEATHSIG, SIGTERM) != 0 || getppid() != parent) {
        _exit(CLI_OS);
    }
    /* dup2 clears close-on-exec, but not when both are the same. */
    if (fd == CHILD_FD ? fcntl(fd, F_SETFD, 0) < 0 : dup2(fd, CHILD_FD) < 0) {
        _exit(CLI_OS);
    }
    if (silent) {
        int null = open("/dev/null", O_WRONLY | O_CLOEXEC);

        if (null < 0 || dup2(null, STDOUT_FILENO) < 0) {
            _exit(CLI_OS);
        }
    }
    execv("/proc/self/exe", argv);
    _exit(CLI_OS);
}

static int child_spawn(struct child *child, const struct args *args, bool silent)
{
    char *argv[CHILD_ARGS + 1];
    pid_t parent = getpid();
    int pair[2];
    pid_t pid;

    for (uint32_t i = 0; i < args->count; i++) {
        /* execv takes pointers to non-const for historical reasons and writes to none. */
        memcpy(&argv[i], &args->at[i], sizeof(argv[i]));
    }
    argv[args->count] = NULL;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        cli_error("cannot make a socket pair: %s", strerror(errno));
        return CLI_OS;
    }
    (void)fflush(NULL);
    pid = fork();
    if (pid == 0) {
        child_exec(pair[1], parent, silent, argv);
    }
    close(pair[1]);
    if (pid < 0) {
        cli_error("cannot start a process: %s", strerror(errno));
        close(pair[0]);
        return CLI_OS;
    }
    *child = (struct child){.pid = pid, .fd = pair[0]};
    return CLI_OK;
}

static void args_begin(struct args *args, const char *word, const struct cli_common *common)
{
    args->count = 0;
    args_add(args, "kvlane");
    args_add(args, word);
    args_add_pair(args, "--plugin", common->plugin);
    args_add_pair(args, "--log", common->log);
}

int child_start(struct child *child, const char *word, const struct cli_common *common)
{
    struct args args;
    char timeout[32];

    args_begin(&args, word, common);
    args_add_pair(&args, "--fd", "3");
    args_add_pair(&args, "--config", common->config);
    if (common->timeout_ms != 0) {
        (void)snprintf(timeout, sizeof(timeout), "%llu", (unsigned long long)common->timeout_ms);
        args_add_pair(&args, "--timeout", timeout);
    }
    for (uint32_t i = 0; i < common->set_count; i++) {
        args_add_pair(&args, "--set", common->sets[i]);
    }
    return child_spawn(child, &args, false);
}

static int child_wait(struct child *child)
{
    uint64_t deadline = util_now_ms() + CHILD_END_MS;
    int status = 0;

    for (;;) {
        pid_t pid = waitpid(child->pid, &status, util_now_ms() < deadline ? WNOHANG : 0);

        if (pid == child->pid) {
            break;
        }
        if (pid < 0 && errno != EINTR) {
            return CLI_OS;
        }
        (void)nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
        if (util_now_ms() >= deadline) {
            (void)kill(child->pid, SIGKILL);
        }
    }
    child->pid = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : CLI_OS;
}

int child_end(struct child *child)
{
    if (child->pid == 0) {
        return CLI_OK;
    }
    if (child->fd >= 0) {
        close(child->fd);
        child->fd = -1;
    }
    return child_wait(child);
}

int child_stop_server(struct child *child)
{
    if (child->pid != 0) {
        (void)kill(child->pid, SIGTERM);
    }
    return child_end(child);
}

/* Reads the first "ready: SECTION ADDRESS" line; more of them may follow and do not matter. */
static int serve_address(const struct child *child, char *address_out, size_t address_size)
{
    char text[4096];
    size_t size = 0;
    uint64_t deadline = util_now_ms() + CHILD_READY_MS;
    char *space;

    do {
        struct pollfd poll_fd = {.fd = child->fd, .events = POLLIN};
        uint64_t now = util_now_ms();
        ssize_t n;

        if (now >= deadline || poll(&poll_fd, 1, (int)(deadline - now)) == 0) {
            return -ETIMEDOUT;
        }
        n = read(child->fd, text + size, sizeof(text) - size - 1);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return -ECONNRESET;
        }
        size += (size_t)n;
        text[size] = '\0';
    } while (strchr(text, '\n') == NULL && size + 1 < sizeof(text));
    text[strcspn(text, "\n")] = '\0';
    space = strrchr(text, ' ');
    if (strncmp(text, "ready: ", 7) != 0 || space == NULL || strlen(space + 1) >= address_size) {
        return -EPROTO;
    }
    (void)snprintf(address_out, address_size, "%s", space + 1);
    return 0;
}

int child_serve(struct child *child, const struct cli_common *common, const char *option,
                const char *value, char *address_out, size_t address_size)
{
    struct args args;
    int r;

    args_begin(&args, "serve", common);
    args_add(&args, "--parent-death");
    args_add_pair(&args, "--ready-fd", "3");
    args_add_pair(&args, option, value);
    /* The rest of --set is about the engines; where modules lie is about both. */
    for (uint32_t i = 0; i < common->set_count; i++) {
        if (strncmp(common->sets[i], "kvlane.module_path=", 19) == 0) {
            args_add_pair(&args, "--set", common->sets[i]);
        }
    }
    r = child_spawn(child, &args, true);
    if (r != CLI_OK) {
        return r;
    }
    r = serve_address(child, address_out, address_size);
    if (r < 0) {
        int ended = child_stop_server(child);

        cli_error("the server process did not get ready: %s", strerror(-r));
        return ended != CLI_OK ? ended : CLI_PEER;
    }
    return CLI_OK;
}

/* ---- messages ---- */

struct message_head {
    uint32_t type;
    uint32_t size;
};

int child_send(int fd, uint32_t type, const void *data, size_t size)
{
    struct message_head head = {.type = type, .size = (uint32_t)size};
    int r;

    if (size > CHILD_MESSAGE_MAX) {
        return -EMSGSIZE;
    }
    r = util_write_all(fd, &head, sizeof(head));
    return r < 0 ? r : util_write_all(fd, data, size);
}

static int read_all(int fd, void *data, size_t size)
{
    uint8_t *at = data;

    while (size > 0) {
        ssize_t n = read(fd, at, size);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return n == 0 ? -ECONNRESET : -errno;
        }
        at += n;
        size -= (size_t)n;
    }
    return 0;
}

int child_receive_any(int fd, uint32_t *type_out, void **data, size_t *room, size_t *size_out)
{
    struct message_head head;
    int r = read_all(fd, &head, sizeof(head));

    if (r < 0) {
        return r;
    }
    if (head.size > CHILD_MESSAGE_MAX) {
        return -EMSGSIZE;
    }
    if (head.size > *room) {
        void *more = realloc(*data, head.size);

        if (more == NULL) {
            return -ENOMEM;
        }
        *data = more;
        *room = head.size;
    }
    r = read_all(fd, *data, head.size);
    if (r == 0) {
        *type_out = head.type;
        *size_out = head.size;
    }
    return r;
}

int child_receive(int fd, uint32_t type, void *data, size_t room, size_t *size_out)
{
    struct message_head head;
    int r = read_all(fd, &head, sizeof(head));

    if (r < 0) {
        return r;
    }
    if (head.type != type) {
        return -EPROTO;
    }
    if (head.size > room) {
        return -EMSGSIZE;
    }
    *size_out = head.size;
    return read_all(fd, data, head.size);
}
