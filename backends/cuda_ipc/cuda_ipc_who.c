/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda_ipc_who.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Fields of /proc/PID/stat behind the name; the start time is number 22 of all. */
#define WHO_FIELDS_SKIPPED 19

static _Atomic uint32_t who_forks;

static void who_count_fork(void)
{
    atomic_fetch_add_explicit(&who_forks, 1, memory_order_relaxed);
}

static void who_watch_forks(void)
{
    (void)pthread_atfork(NULL, NULL, who_count_fork);
}

uint32_t cuda_ipc_who_generation(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, who_watch_forks);
    return atomic_load_explicit(&who_forks, memory_order_relaxed);
}

int cuda_ipc_who_start_time(uint64_t pid, uint64_t *start_time_out)
{
    char path[64];
    char text[1024];
    const char *at;
    ssize_t got;
    int fd;

    snprintf(path, sizeof(path), "/proc/%" PRIu64 "/stat", pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return -ESRCH;
    }
    got = read(fd, text, sizeof(text) - 1);
    close(fd);
    if (got <= 0) {
        return -ESRCH;
    }
    text[got] = '\0';
    /* the name may hold anything, also blanks and brackets */
    at = strrchr(text, ')');
    for (int i = 0; at != NULL && i <= WHO_FIELDS_SKIPPED; i++) {
        at = strchr(at + 1, ' ');
    }
    if (at == NULL) {
        return -ESRCH;
    }
    *start_time_out = strtoull(at + 1, NULL, 10);
    return 0;
}

void cuda_ipc_who_self(struct cuda_ipc_who *who_out)
{
    struct cuda_ipc_who who = {.pid = (uint64_t)getpid()};
    struct stat st;

    if (stat("/proc/self/ns/pid", &st) == 0) {
        who.pid_namespace = st.st_ino;
    }
    (void)cuda_ipc_who_start_time(who.pid, &who.start_time);
    *who_out = who;
}

int cuda_ipc_who_equal(const struct cuda_ipc_who *a, const struct cuda_ipc_who *b)
{
    return a->pid != 0 && memcmp(a, b, sizeof(*a)) == 0;
}
