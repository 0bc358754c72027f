/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file controller_replica_state.h
 * What is behind struct controller_replica, for the files that make up the primary's side.
 */
#ifndef KVL_CONTROLLER_REPLICA_STATE_H
#define KVL_CONTROLLER_REPLICA_STATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "controller_quiet.h"
#include "controller_replica.h"
#include "controller_ring.h"

#define CONTROLLER_REPLICA_STRIPES 64u
#define CONTROLLER_STANDBYS_MAX 8u
#define CONTROLLER_IDENTITY_MAX 255u
/** Of a base or of records in one message. */
#define CONTROLLER_PIECE_BYTES (256u * 1024)

enum standby_state {
    STANDBY_NONE,
    STANDBY_WAITS, /* for its base */
    STANDBY_LOADS, /* gets it */
    STANDBY_FOLLOWS,
};

/** Of the thread of the socket. */
struct standby {
    enum standby_state state;
    uint8_t identity[CONTROLLER_IDENTITY_MAX];
    size_t identity_length;
    uint64_t nonce;
    uint64_t credit; /* bytes that may be sent */
    uint64_t heard_ms;
    uint64_t sent_ms;
    struct controller_ring_place place;
    int fd; /* of the base; -1 = none */
    uint64_t bytes; /* of the base */
    uint64_t offset; /* sent */
    uint64_t exact;
};

/** What the thread of the bases does. */
struct controller_saver {
    pthread_mutex_t lock; /* guards the rest */
    pthread_cond_t wake;
    int is_wanted;
    int is_done;
    int stopping;
    int code;
    int fd;
    uint64_t bytes;
    uint64_t exact;
};

struct controller_replica {
    const struct kvl_host *host; /* borrowed, as the two below */
    const struct controller_options *options;
    struct controller_counts *counts;
    pthread_mutex_t stripes[CONTROLLER_REPLICA_STRIPES];
    struct controller_ring ring;
    struct controller_saver saver;
    atomic_int refuse;
    atomic_uint followers; /* for those who look */
    atomic_uint beginners;
    _Atomic uint64_t behind;
    void *socket;
    uint64_t threads[2];
    uint32_t thread_count;

    /* Of the thread of the socket. */
    struct standby standbys[CONTROLLER_STANDBYS_MAX];
    struct standby *saving_for; /* NULL = nobody */
    uint64_t save_began_ms;
    uint64_t save_next_ms;
    struct controller_quiet quiet;
    uint8_t *piece; /* owned; room for the head of a message before it */
    size_t piece_room; /* without that */
};

/** Makes room for larger pieces. Of the thread of the socket. @return 0; -ENOMEM. */
int controller_replica_grow(struct controller_replica *replica, size_t room);

/** The threads. The first until `saver.stopping`, the second until the context is shut down. */
void *controller_replica_save(void *replica);
void *controller_replica_serve(void *replica);

/** Asks for a base. */
void controller_saver_ask(struct controller_saver *saver);

/** @return 1 and the answer, which is taken; 0 not yet. */
int controller_saver_take(struct controller_saver *saver, struct controller_saver *answer_out);

#endif /* KVL_CONTROLLER_REPLICA_STATE_H */
