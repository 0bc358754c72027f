/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file peers.h
 * Engines that share chunks by py_socket, each a process of its own that is killed or stopped at
 * any moment. What they have to say is in memory that all share, so that it outlives them.
 */
#ifndef KVL_PEERS_H
#define KVL_PEERS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <kvlane/key.h>

#define PEERS_MAX 8u
#define PEERS_KEYS 400u
#define PEERS_CHUNK_MAX ((size_t)4 << 20)

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define PEERS_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define PEERS_SANITIZED 1
#endif
#endif
#ifndef PEERS_SANITIZED
#define PEERS_SANITIZED 0
#endif

/** So much after its deadline a request is late. Sanitizers and a busy machine stretch time. */
#define PEERS_SLACK_MS (PEERS_SANITIZED ? 15000u : 3000u)

enum peers_phase { PEERS_IDLE, PEERS_SAVE, PEERS_LOOKUP, PEERS_LOAD };

struct peers_slot {
    uint32_t index;
    uint16_t port;
    uint16_t data_port;
    _Atomic int pid; /* 0 = none */
    _Atomic int phase;
    _Atomic uint32_t stops; /* grows before it is stopped and after it goes on */
    _Atomic uint32_t is_open;
    _Atomic uint64_t ops;
    _Atomic uint64_t hits; /* chunks that came from others */
    _Atomic uint64_t wrong;
    _Atomic uint64_t late;
    _Atomic uint64_t late_ms; /* the longest past its deadline */
    _Atomic uint64_t errors; /* could not open, could not close */
    char text[200]; /* the first of them */
};

struct peers_shared {
    _Atomic int stop;
    _Atomic int rest; /* engines do nothing */
    uint64_t seed;
    uint32_t count;
    const char *library;
    const char *modules;
    struct peers_slot slots[PEERS_MAX];
};

uint64_t peers_now_ms(void);
/** A generator of its own for each process; any state but 0. */
uint64_t peers_random(uint64_t *state);

/** Runs an engine until shared->stop. @return its exit status. */
int peers_engine_run(struct peers_shared *shared, struct peers_slot *slot);

/** Throws at the doors of the engines what does not belong there, once. */
void peers_pest(const struct peers_shared *shared, uint64_t *random);

#endif /* KVL_PEERS_H */
