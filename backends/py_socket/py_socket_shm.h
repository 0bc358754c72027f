/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file py_socket_shm.h
 * Memory that peers on one host share: sealed memfds, what is mapped of a peer, and the page by
 * which a channel tells its peers that it lives and which leases hold.
 */
#ifndef KVL_PY_SOCKET_SHM_H
#define KVL_PY_SOCKET_SHM_H

#include <stdatomic.h>
#include <stdint.h>

/** Leases that can be out at a time. */
#define PY_SOCKET_LEASES 4096u
#define PY_SOCKET_CONTROL_MAGIC UINT64_C(0x314c54434c564b00)

/**
 * The control page, read by peers while it is written. A lease of a slot holds as long as the slot
 * has its generation; who copies bytes under a lease looks at it after the copy.
 */
struct py_socket_control {
    uint64_t magic; /* PY_SOCKET_CONTROL_MAGIC */
    uint32_t slots; /* PY_SOCKET_LEASES */
    uint32_t reserved;
    _Atomic uint64_t incarnation; /* of the channel; 0 = closed */
    uint8_t pad[40];
    _Atomic uint32_t generations[PY_SOCKET_LEASES];
};

/* ---- own memory ---- */

struct py_socket_memfd {
    int fd; /* -1 = none */
    void *base;
    uint64_t bytes;
};

/**
 * Makes a memfd of zeros, maps it and seals its size. It is not inherited by forked children.
 * @param peers_write  0: nobody else can ever map it writable, or write to it
 * @return 0; -ENOMEM, -ENOSYS, -EMFILE.
 */
int py_socket_memfd_create(const char *name, uint64_t bytes, int peers_write,
                           struct py_socket_memfd *memfd_out);
void py_socket_memfd_destroy(struct py_socket_memfd *memfd);

/**
 * A descriptor of `fd`, a memfd, to be passed to peers; its size gets sealed.
 * @param peers_write  0: it is read-only
 * @return the descriptor; -EINVAL shorter than `bytes`; -EPERM it cannot be sealed.
 */
int py_socket_memfd_lend(int fd, uint64_t bytes, int peers_write);

/* ---- memory of a peer ---- */

struct py_socket_map {
    _Atomic uint32_t refs;
    int writable;
    uint8_t *base;
    uint64_t bytes;
};

/**
 * Maps `bytes` at `offset` of what a peer passed. Its size must be sealed, so that no access
 * faults.
 * @return 0; -EPERM not sealed; -EINVAL too short, not at a page; -ENOMEM.
 */
int py_socket_map_create(int fd, uint64_t offset, uint64_t bytes, int writable,
                         struct py_socket_map **map_out);
struct py_socket_map *py_socket_map_retain(struct py_socket_map *map);
/** Takes NULL. */
void py_socket_map_release(struct py_socket_map *map);

/** A peer's control page, of the size and shape it must have. @return NULL when it is none. */
const struct py_socket_control *py_socket_map_control(const struct py_socket_map *map);

/** Keeps what is read of the control page next behind all that was read before. */
static inline void py_socket_read_barrier(void)
{
    __sync_synchronize();
}

#endif /* KVL_PY_SOCKET_SHM_H */
