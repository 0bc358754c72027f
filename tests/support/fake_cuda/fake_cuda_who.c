/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which process is which, and whether it lives.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fake_cuda_core.h"

static int who_read_start(int32_t pid, char *life_out, uint64_t *start_out)
{
    char path[64];
    char text[1024];
    const char *rest;
    unsigned long long start;
    size_t n;
    FILE *file;

    snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    file = fopen(path, "re");
    if (file == NULL) {
        return -ESRCH;
    }
    n = fread(text, 1, sizeof(text) - 1, file);
    fclose(file);
    text[n] = '\0';
    /* the name may hold anything, so the fields are counted from its end */
    rest = strrchr(text, ')');
    if (rest == NULL ||
        sscanf(rest + 1,
               " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d "
               "%*d %llu",
               life_out, &start) != 2) {
        return -ESRCH;
    }
    *start_out = start;
    return 0;
}

int fake_who_alive(const struct fake_who *who)
{
    uint64_t start;
    char life;

    /* another namespace cannot be looked into: nothing speaks for its death */
    if (who->space != fake.self.space) {
        return 1;
    }
    return who_read_start(who->pid, &life, &start) == 0 && start == who->start && life != 'Z' &&
           life != 'X';
}

int fake_who_same(const struct fake_who *a, const struct fake_who *b)
{
    return a->pid == b->pid && a->start == b->start && a->space == b->space;
}

void fake_who_am_i(void)
{
    const char *pretended = getenv("KVLANE_FAKE_CUDA_PID_SPACE");
    struct stat space;
    char life;

    fake.self = (struct fake_who){.pid = getpid()};
    (void)who_read_start(fake.self.pid, &life, &fake.self.start);
    if (pretended != NULL && pretended[0] != '\0') {
        fake.self.space = strtoull(pretended, NULL, 10);
    } else if (stat("/proc/self/ns/pid", &space) == 0) {
        fake.self.space = space.st_ino;
    }
}
