/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda_torch.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *torch_python(void)
{
    const char *python = getenv("KVLANE_TORCH_PYTHON");

    if (python != NULL) {
        return python;
    }
    return access(KVL_VENV_PYTHON, X_OK) == 0 ? KVL_VENV_PYTHON : "python3";
}

/* One line, without its end. @return 0; -EIO the process is gone. */
static int torch_line(const struct cuda_torch *torch, char *line, size_t size)
{
    size_t length = 0;

    for (;;) {
        char one;

        if (read(torch->fd, &one, 1) != 1) {
            return -EIO;
        }
        if (one == '\n') {
            line[length] = '\0';
            return 0;
        }
        if (length + 1 < size) {
            line[length++] = one;
        }
    }
}

static void torch_exec(int fd, pid_t parent, uint64_t chunk_bytes, uint32_t chunks)
{
    const char *python = torch_python();
    char bytes[24];
    char count[24];
    int null = open("/dev/null", O_WRONLY | O_CLOEXEC);

    (void)snprintf(bytes, sizeof(bytes), "%" PRIu64, chunk_bytes);
    (void)snprintf(count, sizeof(count), "%u", chunks);
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && getppid() == parent && dup2(fd, 0) == 0 &&
        dup2(fd, 1) == 1 && dup2(null, 2) == 2) {
        (void)execlp(python, python, KVL_CUDA_TORCH, bytes, count, (char *)NULL);
    }
    _exit(127);
}

int cuda_torch_start(struct cuda_torch *torch, uint64_t chunk_bytes, uint32_t chunks)
{
    const pid_t parent = getpid();
    char line[sizeof(torch->text)];
    int pair[2];

    *torch = (struct cuda_torch){.fd = -1};
    (void)snprintf(torch->text, sizeof(torch->text), "'%s' does not run", torch_python());
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        return -ENOENT;
    }
    (void)fflush(NULL);
    torch->fd = pair[0];
    torch->pid = fork();
    if (torch->pid == 0) {
        torch_exec(pair[1], parent, chunk_bytes, chunks);
    }
    close(pair[1]);
    if (torch->pid > 0 && torch_line(torch, line, sizeof(line)) == 0) {
        const char *rest = strchr(line, ' ');

        (void)snprintf(torch->text, sizeof(torch->text), "%s", rest != NULL ? rest + 1 : line);
        if (strncmp(line, "ready ", 6) == 0) {
            return 0;
        }
    }
    cuda_torch_stop(torch);
    return -ENOENT;
}

/* Sends a line and takes one. */
static int torch_ask(const struct cuda_torch *torch, const char *line, char *answer, size_t size)
{
    const size_t length = strlen(line);

    if (send(torch->fd, line, length, MSG_NOSIGNAL) != (ssize_t)length) {
        return -EIO;
    }
    return torch_line(torch, answer, size);
}

int cuda_torch_move(struct cuda_torch *torch, uint64_t n)
{
    char line[32];
    char answer[32];

    (void)snprintf(line, sizeof(line), "%" PRIu64 "\n", n);
    return torch_ask(torch, line, answer, sizeof(answer));
}

int cuda_torch_check(struct cuda_torch *torch)
{
    char answer[32];
    int r = torch_ask(torch, "check\n", answer, sizeof(answer));

    return r < 0 ? r : strcmp(answer, "right") == 0 ? 0 : -EBADMSG;
}

void cuda_torch_stop(struct cuda_torch *torch)
{
    if (torch->fd >= 0) {
        close(torch->fd);
        torch->fd = -1;
    }
    if (torch->pid > 0) {
        (void)waitpid(torch->pid, NULL, 0);
        torch->pid = 0;
    }
}
