/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file py_socket_lease.h
 * Leases on chunks that peers copy by themselves out of the mapped store. Each has a slot of the
 * control page, whose generation changes when the lease ends: before the bytes may change.
 */
#ifndef KVL_PY_SOCKET_LEASE_H
#define KVL_PY_SOCKET_LEASE_H

#include "py_socket_data.h"
#include "py_socket_shm.h"

/** A peer that has stopped must not keep a chunk for ever. */
#define PY_SOCKET_LEASE_MS 10000u

struct py_socket_leases;

/** @param control  borrowed, as `serve`; their slots are used from now on */
int py_socket_leases_create(struct py_socket_control *control,
                            const struct py_socket_serve_ops *serve,
                            struct py_socket_leases **leases_out);
/** Ends all leases. Takes NULL. */
void py_socket_leases_destroy(struct py_socket_leases *leases);

/**
 * Takes a lease of the store over for one peer, for PY_SOCKET_LEASE_MS at most.
 * @param owner  whose it is; never looked into
 * @return 0; -EAGAIN no slot is free: the lease stays the caller's.
 */
int py_socket_lease_take(struct py_socket_leases *leases, const void *owner, uint64_t take_lease,
                         uint64_t now_ms, uint32_t *slot_out, uint32_t *generation_out);

/** Ends a lease of that owner; ignores one that is not. */
void py_socket_lease_give(struct py_socket_leases *leases, const void *owner,
                          const struct py_socket_slot *slot);

/** Ends those whose time is over. @return when the next one's is; KVL_NEVER: none is out. */
uint64_t py_socket_leases_expire(struct py_socket_leases *leases, uint64_t now_ms);

/** Ends all leases of an owner. */
void py_socket_lease_give_all(struct py_socket_leases *leases, const void *owner);

#endif /* KVL_PY_SOCKET_LEASE_H */
