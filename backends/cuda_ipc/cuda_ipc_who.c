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

/* Fields of /proc/PID/stat, counted from 1; the name is the second. */
#define WHO_STATE 3
#define WHO_THREADS 20
#define WHO_START_TIME 22

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

/* Reads what is behind the name: state, and so on. @return 0; -ESRCH no such process; -EMFILE,
 * .. */
static int who_read(uint64_t pid, char *text, size_t size, const char **fields_out)
{
    char path[64];
    const char *name_end;
    ssize_t got;
    int fd;
    int r;

    snprintf(path, sizeof(path), "/proc/%" PRIu64 "/stat", pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return errno == ENOENT ? -ESRCH : -errno;
    }
    got = read(fd, text, size - 1);
    r = got < 0 ? -errno : 0;
    close(fd);
    if (r < 0) {
        return r;
    }
    text[got] = '\0';
    /* the name may hold anything, also blanks and brackets */
    name_end = strrchr(text, ')');
    if (name_end == NULL || name_end[1] != ' ') {
        return -EIO;
    }
    *fields_out = name_end + 2;
    return 0;
}

/* A number among the fields; the first one is WHO_STATE. 0 when there are not so many. */
static uint64_t who_field(const char *fields, int number)
{
    for (int i = WHO_STATE; fields != NULL && i < number; i++) {
        fields = strchr(fields, ' ');
        fields = fields == NULL ? NULL : fields + 1;
    }
    return fields == NULL ? 0 : strtoull(fields, NULL, 10);
}

int cuda_ipc_who_start_time(uint64_t pid, uint64_t *start_time_out)
{
    char text[1024];
    const char *fields;
    uint64_t start_time;

    if (who_read(pid, text, sizeof(text), &fields) < 0) {
        return -ESRCH;
    }
    start_time = who_field(fields, WHO_START_TIME);
    if (start_time == 0) {
        return -ESRCH;
    }
    *start_time_out = start_time;
    return 0;
}

int cuda_ipc_who_lives(const struct cuda_ipc_who *who)
{
    char text[1024];
    const char *fields;
    int r = who_read(who->pid, text, sizeof(text), &fields);

    if (r < 0) {
        return r != -ESRCH;
    }
    if (who_field(fields, WHO_START_TIME) != who->start_time) {
        return 0;
    }
    /* the first thread of a process may have ended before the others */
    return (*fields != 'Z' && *fields != 'X') || who_field(fields, WHO_THREADS) > 1;
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
