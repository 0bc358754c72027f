/* SPDX-License-Identifier: Apache-2.0 */
#include "py_socket_shm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <kvlane/abi.h>

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif
#define SIZE_SEALS (F_SEAL_SHRINK | F_SEAL_GROW)

KVL_STATIC_ASSERT(offsetof(struct py_socket_control, generations) == 64, "shared with peers");

/* ---- own memory ---- */

static int memfd_seal(int fd, int peers_write)
{
    /* FUTURE_WRITE leaves our own mapping writable; kernels before 5.1 do not know it */
    if (!peers_write) {
        (void)fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE);
    }
    return fcntl(fd, F_ADD_SEALS, SIZE_SEALS | F_SEAL_SEAL) < 0 ? -errno : 0;
}

int py_socket_memfd_create(const char *name, uint64_t bytes, int peers_write,
                           struct py_socket_memfd *memfd_out)
{
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    void *base;
    int r;

    if (fd < 0) {
        return -errno;
    }
    if (bytes > INT64_MAX || ftruncate(fd, (off_t)bytes) < 0) {
        close(fd);
        return -ENOMEM;
    }
    base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED) {
        close(fd);
        return -ENOMEM;
    }
    r = memfd_seal(fd, peers_write);
    if (r < 0) {
        munmap(base, bytes);
        close(fd);
        return r;
    }
    (void)madvise(base, bytes, MADV_HUGEPAGE);
    (void)madvise(base, bytes, MADV_DONTFORK);
    *memfd_out = (struct py_socket_memfd){.fd = fd, .base = base, .bytes = bytes};
    return 0;
}

void py_socket_memfd_destroy(struct py_socket_memfd *memfd)
{
    if (memfd->fd >= 0) {
        munmap(memfd->base, memfd->bytes);
        close(memfd->fd);
        memfd->fd = -1;
    }
}

static int memfd_has_size(int fd, uint64_t end)
{
    struct stat st;

    return fstat(fd, &st) == 0 && st.st_size >= 0 && (uint64_t)st.st_size >= end;
}

int py_socket_memfd_lend(int fd, uint64_t bytes, int peers_write)
{
    char path[64];
    int seals = fcntl(fd, F_GET_SEALS);
    int lent;

    if (seals < 0) {
        return -EPERM;
    }
    if (!memfd_has_size(fd, bytes)) {
        return -EINVAL;
    }
    if ((seals & SIZE_SEALS) != SIZE_SEALS && fcntl(fd, F_ADD_SEALS, SIZE_SEALS) < 0) {
        return -EPERM;
    }
    /* a new open file: a duplicate would share its access mode */
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    lent = open(path, (peers_write ? O_RDWR : O_RDONLY) | O_CLOEXEC);
    return lent < 0 ? -errno : lent;
}

/* ---- memory of a peer ---- */

int py_socket_map_create(int fd, uint64_t offset, uint64_t bytes, int writable,
                         struct py_socket_map **map_out)
{
    int seals = fcntl(fd, F_GET_SEALS);
    struct py_socket_map *map;
    uint64_t end;
    void *base;

    if (seals < 0 || (seals & SIZE_SEALS) != SIZE_SEALS) {
        return -EPERM;
    }
    if (bytes == 0 || offset % (uint64_t)sysconf(_SC_PAGESIZE) != 0 ||
        __builtin_add_overflow(offset, bytes, &end) || !memfd_has_size(fd, end)) {
        return -EINVAL;
    }
    map = calloc(1, sizeof(*map));
    if (map == NULL) {
        return -ENOMEM;
    }
    base =
        mmap(NULL, bytes, PROT_READ | (writable ? PROT_WRITE : 0), MAP_SHARED, fd, (off_t)offset);
    if (base == MAP_FAILED) {
        free(map);
        return -ENOMEM;
    }
    (void)madvise(base, bytes, MADV_HUGEPAGE);
    (void)madvise(base, bytes, MADV_DONTFORK);
    map->refs = 1;
    map->base = base;
    map->bytes = bytes;
    map->writable = writable;
    *map_out = map;
    return 0;
}

struct py_socket_map *py_socket_map_retain(struct py_socket_map *map)
{
    atomic_fetch_add_explicit(&map->refs, 1, memory_order_relaxed);
    return map;
}

void py_socket_map_release(struct py_socket_map *map)
{
    if (map != NULL && atomic_fetch_sub_explicit(&map->refs, 1, memory_order_acq_rel) == 1) {
        munmap(map->base, map->bytes);
        free(map);
    }
}

const struct py_socket_control *py_socket_map_control(const struct py_socket_map *map)
{
    const struct py_socket_control *control = (const void *)map->base;

    if (map->bytes != sizeof(*control) || control->magic != PY_SOCKET_CONTROL_MAGIC ||
        control->slots != PY_SOCKET_LEASES) {
        return NULL;
    }
    return control;
}
