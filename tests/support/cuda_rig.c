/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda_rig.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define WAIT_S 60
#define PEER "--cuda-rig-peer"

extern char **environ;

static char rig_state[64];
static pid_t rig_owner; /* of the state file */

void cuda_rig_die(const char *file, int line, const char *what)
{
    fprintf(stderr, "%s:%d: %s (process %d)\n", file, line, what, getpid());
    abort();
}

const char *cuda_rig_path(void)
{
    const char *path = getenv("KVL_FAKE_CUDA");

    CUDA_RIG_CHECK(path != NULL);
    return path;
}

static void rig_remove_state(void)
{
    if (rig_owner == getpid()) {
        unlink(rig_state);
    }
}

void cuda_rig_machine(void)
{
    int fd;

    snprintf(rig_state, sizeof(rig_state), "/tmp/kvl-fake-cuda-XXXXXX");
    fd = mkostemp(rig_state, O_CLOEXEC);
    CUDA_RIG_CHECK(fd >= 0);
    close(fd);
    rig_owner = getpid();
    CUDA_RIG_CHECK(setenv("KVLANE_FAKE_CUDA_STATE", rig_state, 1) == 0);
    CUDA_RIG_CHECK(atexit(rig_remove_state) == 0);
}

void cuda_rig_open(struct cuda_rig *rig)
{
    struct kvl_err err = {.size = sizeof(err)};
    cuda_device device;

    if (cuda_ipc_api_open(cuda_rig_path(), &rig->api, &err) < 0) {
        cuda_rig_die(__FILE__, __LINE__, err.text);
    }
    rig->control = fake_cuda_of(rig->api.library);
    CUDA_RIG_CHECK(rig->control != NULL);
    CUDA_RIG_CHECK(rig->api.device_get(&device, 0) == CUDA_OK);
    CUDA_RIG_CHECK(rig->api.device_primary_ctx_retain(&rig->context, device) == CUDA_OK);
    CUDA_RIG_CHECK(cuda_ipc_api_enter(&rig->api, rig->context) == 0);
}

void cuda_rig_close(struct cuda_rig *rig)
{
    const struct fake_cuda_live none = {.contexts = 0};
    struct fake_cuda_live live;
    cuda_device device;

    CUDA_RIG_CHECK(rig->api.device_get(&device, 0) == CUDA_OK);
    rig->control->live(&live);
    CUDA_RIG_CHECK(live.contexts == 1);
    live.contexts = 0;
    CUDA_RIG_CHECK(memcmp(&live, &none, sizeof(live)) == 0);
    CUDA_RIG_CHECK(rig->api.ctx_set_current(NULL) == CUDA_OK);
    CUDA_RIG_CHECK(rig->api.device_primary_ctx_release(device) == CUDA_OK);
}

cuda_stream cuda_rig_stream(const struct cuda_rig *rig)
{
    cuda_stream stream;

    CUDA_RIG_CHECK(rig->api.stream_create_with_priority(&stream, CUDA_STREAM_NON_BLOCKING, 0) ==
                   CUDA_OK);
    return stream;
}

cuda_ptr cuda_rig_memory(const struct cuda_rig *rig, size_t bytes)
{
    cuda_ptr ptr;

    CUDA_RIG_CHECK(rig->api.mem_alloc(&ptr, bytes) == CUDA_OK);
    return ptr;
}

void cuda_rig_until(int (*done)(void *ctx), void *ctx)
{
    const struct timespec pause = {.tv_nsec = 200000};
    time_t end = time(NULL) + WAIT_S;

    while (!done(ctx)) {
        CUDA_RIG_CHECK(time(NULL) < end);
        nanosleep(&pause, NULL);
    }
}

/* ---- peers ---- */

static void rig_limit(int fd)
{
    struct timeval limit = {.tv_sec = WAIT_S};

    CUDA_RIG_CHECK(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) == 0);
    CUDA_RIG_CHECK(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) == 0);
}

void cuda_rig_main(int argc, char **argv, const struct cuda_rig_role *roles, size_t count)
{
    if (argc != 4 || strcmp(argv[1], PEER) != 0) {
        return;
    }
    for (size_t i = 0; i < count; i++) {
        if (strcmp(roles[i].name, argv[2]) == 0) {
            int fd = (int)strtol(argv[3], NULL, 10);

            rig_limit(fd);
            exit(roles[i].run(fd));
        }
    }
    cuda_rig_die(__FILE__, __LINE__, argv[2]);
}

void cuda_rig_start(struct cuda_rig_peer *peer, const char *role)
{
    char program[] = "/proc/self/exe";
    char option[] = PEER;
    char name[64];
    char number[16];
    char *argv[] = {program, option, name, number, NULL};
    int fds[2];

    CUDA_RIG_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
    CUDA_RIG_CHECK(fcntl(fds[1], F_SETFD, 0) == 0);
    snprintf(name, sizeof(name), "%s", role);
    snprintf(number, sizeof(number), "%d", fds[1]);
    CUDA_RIG_CHECK(posix_spawn(&peer->pid, program, NULL, NULL, argv, environ) == 0);
    close(fds[1]);
    rig_limit(fds[0]);
    peer->fd = fds[0];
}

static int rig_wait(struct cuda_rig_peer *peer)
{
    int status;

    while (waitpid(peer->pid, &status, 0) < 0) {
        CUDA_RIG_CHECK(errno == EINTR);
    }
    close(peer->fd);
    peer->fd = -1;
    return status;
}

void cuda_rig_end(struct cuda_rig_peer *peer)
{
    int status = rig_wait(peer);

    CUDA_RIG_CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

void cuda_rig_kill(struct cuda_rig_peer *peer)
{
    CUDA_RIG_CHECK(kill(peer->pid, SIGKILL) == 0);
    (void)rig_wait(peer);
}

/* ---- sockets ---- */

void cuda_rig_send(int fd, const void *data, size_t bytes)
{
    const char *at = data;

    while (bytes > 0) {
        ssize_t n = send(fd, at, bytes, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        CUDA_RIG_CHECK(n > 0);
        at += n;
        bytes -= (size_t)n;
    }
}

void cuda_rig_recv(int fd, void *data_out, size_t bytes)
{
    char *at = data_out;

    while (bytes > 0) {
        ssize_t n = recv(fd, at, bytes, 0);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        CUDA_RIG_CHECK(n > 0);
        at += n;
        bytes -= (size_t)n;
    }
}

void cuda_rig_step(int fd)
{
    cuda_rig_send(fd, "+", 1);
}

void cuda_rig_await(int fd)
{
    char byte;

    cuda_rig_recv(fd, &byte, 1);
}

union rig_control {
    struct cmsghdr head;
    char room[CMSG_SPACE(sizeof(int))];
};

void cuda_rig_send_fd(int fd, int passed)
{
    union rig_control control = {.room = {0}};
    char byte = '+';
    struct iovec iov = {.iov_base = &byte, .iov_len = 1};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control.room,
                         .msg_controllen = sizeof(control.room)};
    struct cmsghdr *head = CMSG_FIRSTHDR(&msg);

    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(head), &passed, sizeof(passed));
    CUDA_RIG_CHECK(sendmsg(fd, &msg, MSG_NOSIGNAL) == 1);
}

int cuda_rig_recv_fd(int fd)
{
    union rig_control control = {.room = {0}};
    char byte;
    struct iovec iov = {.iov_base = &byte, .iov_len = 1};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control.room,
                         .msg_controllen = sizeof(control.room)};
    const struct cmsghdr *head;
    int passed;

    CUDA_RIG_CHECK(recvmsg(fd, &msg, MSG_CMSG_CLOEXEC) == 1);
    head = CMSG_FIRSTHDR(&msg);
    CUDA_RIG_CHECK(head != NULL && head->cmsg_type == SCM_RIGHTS);
    memcpy(&passed, CMSG_DATA(head), sizeof(passed));
    return passed;
}
