/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda_ipc_vigil.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

/* Number of all architectures since Linux 5.3; older libc headers lack the name. */
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

/* How often /proc is looked at. */
#define VIGIL_LOOK_S 1

static int vigil_add(const struct cuda_ipc_vigil *vigil, int fd)
{
    struct epoll_event event = {.events = EPOLLIN};

    return epoll_ctl(vigil->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

int cuda_ipc_vigil_init(struct cuda_ipc_vigil *vigil)
{
    int r = 0;

    *vigil = (struct cuda_ipc_vigil){
        .epoll_fd = epoll_create1(EPOLL_CLOEXEC),
        .wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
        .timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK),
        .generation = cuda_ipc_who_generation(),
    };
    if (vigil->epoll_fd < 0 || vigil->wake_fd < 0 || vigil->timer_fd < 0) {
        r = -errno;
    }
    if (r == 0) {
        r = vigil_add(vigil, vigil->wake_fd);
    }
    if (r == 0) {
        r = vigil_add(vigil, vigil->timer_fd);
    }
    if (r < 0) {
        cuda_ipc_vigil_fini(vigil);
    }
    return r;
}

void cuda_ipc_vigil_fini(struct cuda_ipc_vigil *vigil)
{
    const int fds[] = {vigil->epoll_fd, vigil->wake_fd, vigil->timer_fd};

    for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++) {
        if (fds[i] >= 0) {
            close(fds[i]);
        }
    }
}

/* A child shares epoll and timer with its parent, who goes on using them. */
static bool vigil_is_ours(const struct cuda_ipc_vigil *vigil)
{
    return vigil->generation == cuda_ipc_who_generation();
}

static void vigil_set_timer(const struct cuda_ipc_vigil *vigil, time_t seconds)
{
    const struct itimerspec every = {.it_interval.tv_sec = seconds, .it_value.tv_sec = seconds};

    (void)timerfd_settime(vigil->timer_fd, 0, &every, NULL);
}

/* The pid that a process told of itself is another one's when the namespaces differ. Where that
 * cannot be seen the namespaces are the same: else its memory could not have been opened. */
static bool vigil_is_elsewhere(const struct cuda_ipc_who *who)
{
    char path[64];
    struct stat st;

    snprintf(path, sizeof(path), "/proc/%" PRIu64 "/ns/pid", who->pid);
    return stat(path, &st) == 0 && st.st_ino != who->pid_namespace;
}

int cuda_ipc_vigil_begin(struct cuda_ipc_vigil *vigil, const struct cuda_ipc_who *who,
                         struct cuda_ipc_life *life_out)
{
    int fd;

    *life_out = (struct cuda_ipc_life){.who = *who, .pidfd = -1};
    if (who->start_time == 0 || vigil_is_elsewhere(who)) {
        return -ENOTSUP;
    }
    /* the descriptor stays with its process: only behind it does the start time tell which */
    fd = (int)syscall(SYS_pidfd_open, (pid_t)who->pid, 0u);
    if (cuda_ipc_who_lives(who) == 0) {
        if (fd >= 0) {
            close(fd);
        }
        life_out->is_over = true;
        return -ESRCH;
    }
    if (fd >= 0 && vigil_add(vigil, fd) == 0) {
        life_out->pidfd = fd;
        return 0;
    }
    if (fd >= 0) {
        close(fd);
    }
    life_out->is_polled = true;
    if (vigil->polled++ == 0) {
        vigil_set_timer(vigil, VIGIL_LOOK_S);
    }
    return 0;
}

void cuda_ipc_vigil_end(struct cuda_ipc_vigil *vigil, struct cuda_ipc_life *life)
{
    if (life->pidfd >= 0) {
        /* taken out by name: a child of a fork may keep the file open, and with it the events */
        if (vigil_is_ours(vigil)) {
            (void)epoll_ctl(vigil->epoll_fd, EPOLL_CTL_DEL, life->pidfd, NULL);
        }
        close(life->pidfd);
        life->pidfd = -1;
    }
    if (life->is_polled && --vigil->polled == 0 && vigil_is_ours(vigil)) {
        vigil_set_timer(vigil, 0);
    }
    life->is_polled = false;
}

bool cuda_ipc_vigil_is_over(const struct cuda_ipc_life *life)
{
    struct pollfd poll_fd = {.fd = life->pidfd, .events = POLLIN};

    if (life->pidfd >= 0) {
        return poll(&poll_fd, 1, 0) > 0;
    }
    return life->is_over || (life->is_polled && cuda_ipc_who_lives(&life->who) == 0);
}

void cuda_ipc_vigil_wake(const struct cuda_ipc_vigil *vigil)
{
    const uint64_t one = 1;
    const ssize_t n = write(vigil->wake_fd, &one, sizeof(one));

    (void)n; /* a full counter wakes too */
}

void cuda_ipc_vigil_clear(const struct cuda_ipc_vigil *vigil)
{
    uint64_t count;
    ssize_t n = read(vigil->wake_fd, &count, sizeof(count));

    n += read(vigil->timer_fd, &count, sizeof(count));
    (void)n; /* nothing to read is no failure */
}
