/* SPDX-License-Identifier: Apache-2.0 */
#include "py_socket_lease.h"

#include <errno.h>
#include <stdlib.h>

struct lease {
    const void *owner; /* NULL = free */
    uint64_t lease;
    uint64_t end_ms;
    uint32_t next_free;
};

struct py_socket_leases {
    struct py_socket_control *control;
    const struct py_socket_serve_ops *serve;
    pthread_mutex_t lock;
    uint32_t free; /* first free slot; PY_SOCKET_LEASES = none */
    uint32_t out;
    struct lease slots[PY_SOCKET_LEASES];
};

int py_socket_leases_create(struct py_socket_control *control,
                            const struct py_socket_serve_ops *serve,
                            struct py_socket_leases **leases_out)
{
    struct py_socket_leases *leases = calloc(1, sizeof(*leases));

    if (leases == NULL) {
        return -ENOMEM;
    }
    leases->control = control;
    leases->serve = serve;
    pthread_mutex_init(&leases->lock, NULL);
    for (uint32_t i = 0; i < PY_SOCKET_LEASES; i++) {
        leases->slots[i].next_free = i + 1;
        control->generations[i] = 1;
    }
    *leases_out = leases;
    return 0;
}

int py_socket_lease_take(struct py_socket_leases *leases, const void *owner, uint64_t take_lease,
                         uint64_t now_ms, uint32_t *slot_out, uint32_t *generation_out)
{
    struct lease *slot;
    int r = -EAGAIN;

    pthread_mutex_lock(&leases->lock);
    if (leases->free < PY_SOCKET_LEASES) {
        *slot_out = leases->free;
        *generation_out = leases->control->generations[leases->free];
        slot = &leases->slots[leases->free];
        leases->free = slot->next_free;
        slot->owner = owner;
        slot->lease = take_lease;
        slot->end_ms = now_ms + PY_SOCKET_LEASE_MS;
        leases->out++;
        r = 0;
    }
    pthread_mutex_unlock(&leases->lock);
    return r;
}

/* With the lock. @return the lease of the store to give back. */
static uint64_t lease_end(struct py_socket_leases *leases, uint32_t index)
{
    struct lease *slot = &leases->slots[index];
    uint32_t next = leases->control->generations[index] + 1;

    /* seen by readers before anything that is written to the bytes afterwards */
    atomic_store(&leases->control->generations[index], next == 0 ? 1 : next);
    slot->owner = NULL;
    slot->next_free = leases->free;
    leases->free = index;
    leases->out--;
    return slot->lease;
}

void py_socket_lease_give(struct py_socket_leases *leases, const void *owner,
                          const struct py_socket_slot *slot)
{
    uint64_t lease = 0;
    int found = 0;

    if (slot->slot >= PY_SOCKET_LEASES) {
        return;
    }
    pthread_mutex_lock(&leases->lock);
    if (leases->slots[slot->slot].owner == owner &&
        leases->control->generations[slot->slot] == slot->generation) {
        lease = lease_end(leases, slot->slot);
        found = 1;
    }
    pthread_mutex_unlock(&leases->lock);
    if (found) {
        leases->serve->release(leases->serve->ctx, lease);
    }
}

/* Ends those of an owner (NULL = any) that are to end at `now_ms` or before. */
static uint64_t lease_give_if(struct py_socket_leases *leases, const void *owner, uint64_t now_ms)
{
    uint64_t next = KVL_NEVER;

    for (uint32_t i = 0; i < PY_SOCKET_LEASES; i++) {
        uint64_t lease = 0;
        int found = 0;

        pthread_mutex_lock(&leases->lock);
        if (leases->out == 0) {
            pthread_mutex_unlock(&leases->lock);
            break;
        }
        if (leases->slots[i].owner != NULL && (owner == NULL || leases->slots[i].owner == owner)) {
            if (leases->slots[i].end_ms <= now_ms) {
                lease = lease_end(leases, i);
                found = 1;
            } else if (leases->slots[i].end_ms < next) {
                next = leases->slots[i].end_ms;
            }
        }
        pthread_mutex_unlock(&leases->lock);
        if (found) {
            leases->serve->release(leases->serve->ctx, lease);
        }
    }
    return next;
}

uint64_t py_socket_leases_expire(struct py_socket_leases *leases, uint64_t now_ms)
{
    return lease_give_if(leases, NULL, now_ms);
}

void py_socket_lease_give_all(struct py_socket_leases *leases, const void *owner)
{
    (void)lease_give_if(leases, owner, KVL_NEVER);
}

void py_socket_leases_destroy(struct py_socket_leases *leases)
{
    if (leases != NULL) {
        (void)lease_give_if(leases, NULL, KVL_NEVER);
        pthread_mutex_destroy(&leases->lock);
        free(leases);
    }
}
