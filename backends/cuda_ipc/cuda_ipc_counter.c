/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda_ipc_counter.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define COUNTER_PREFIX "/torch_"
#define COUNTER_FIRST_SLOT 64u

/* One or more digits at *at, and their value. @return 0 when there are none, or too many. */
static int counter_skip_number(const char **at, const char *end, uint64_t *value_out)
{
    const char *begin = *at;
    uint64_t value = 0;

    while (*at < end && **at >= '0' && **at <= '9') {
        if (__builtin_mul_overflow(value, 10u, &value) ||
            __builtin_add_overflow(value, (uint64_t)(**at - '0'), &value)) {
            return 0;
        }
        (*at)++;
    }
    *value_out = value;
    return *at > begin;
}

static int counter_skip(const char **at, const char *end, char wanted)
{
    if (*at == end || **at != wanted) {
        return 0;
    }
    (*at)++;
    return 1;
}

int cuda_ipc_counter_check(const void *name, size_t length, uint64_t *pid_out)
{
    const char *at = name;
    const char *end = at + length;
    uint64_t pid;
    uint64_t number;

    if (length > CUDA_IPC_COUNTER_NAME_MAX || length < strlen(COUNTER_PREFIX) ||
        memcmp(at, COUNTER_PREFIX, strlen(COUNTER_PREFIX)) != 0) {
        return -EBADMSG;
    }
    at += strlen(COUNTER_PREFIX);
    if (!counter_skip_number(&at, end, &pid) || !counter_skip(&at, end, '_') ||
        !counter_skip_number(&at, end, &number) || !counter_skip(&at, end, '_') ||
        !counter_skip_number(&at, end, &number) || at != end) {
        return -EBADMSG;
    }
    *pid_out = pid;
    return 0;
}

/* A file that is too short would fault when it is touched, so its size is looked at first. */
static int counter_map(const char *name, uint64_t slot, void **file_out)
{
    struct stat st;
    void *file;
    int fd;
    int r = 0;

    if (slot >= CUDA_IPC_COUNTER_SLOTS) {
        return -EBADMSG;
    }
    fd = shm_open(name, O_RDWR, 0); /* close-on-exec by itself */
    if (fd < 0) {
        return -errno;
    }
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size < (off_t)CUDA_IPC_COUNTER_BYTES) {
        r = -EBADMSG;
    }
    if (r == 0) {
        file = mmap(NULL, CUDA_IPC_COUNTER_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        r = file == MAP_FAILED ? -errno : 0;
    }
    close(fd);
    if (r == 0) {
        *file_out = file;
    }
    return r;
}

static int64_t *counter_slot(void *file, uint64_t slot)
{
    return (int64_t *)((char *)file + COUNTER_FIRST_SLOT) + slot;
}

int cuda_ipc_counter_probe(const char *name, uint64_t slot)
{
    void *file = NULL;
    int r = counter_map(name, slot, &file);

    if (r < 0) {
        return r;
    }
    if (__atomic_load_n(counter_slot(file, slot), __ATOMIC_ACQUIRE) <= 0) {
        r = -ERANGE;
    }
    (void)munmap(file, CUDA_IPC_COUNTER_BYTES);
    return r;
}

/* Release: what was done with the memory comes before its exporter may use it again. */
static int counter_decrement(int64_t *counter)
{
    int64_t value = __atomic_load_n(counter, __ATOMIC_RELAXED);

    do {
        if (value <= 0) {
            return -ERANGE;
        }
    } while (!__atomic_compare_exchange_n(counter, &value, value - 1, 0, __ATOMIC_RELEASE,
                                          __ATOMIC_RELAXED));
    return 0;
}

int cuda_ipc_counter_drop(const char *name, uint64_t slot)
{
    void *file = NULL;
    int32_t *users;
    int r = counter_map(name, slot, &file);

    if (r < 0) {
        return r;
    }
    /* torch's users of the file count themselves; the last one takes its name away */
    users = file;
    (void)__atomic_add_fetch(users, 1, __ATOMIC_ACQ_REL);
    r = counter_decrement(counter_slot(file, slot));
    if (__atomic_sub_fetch(users, 1, __ATOMIC_ACQ_REL) == 0) {
        (void)shm_unlink(name);
    }
    (void)munmap(file, CUDA_IPC_COUNTER_BYTES);
    return r;
}
