/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file fake_host_parts.h
 * What the files of the fake host share; tests see fake_host.h only. Each subject puts its services
 * into the table (`fill`) and frees what it keeps in the host (`fini`).
 */
#ifndef KVL_FAKE_HOST_PARTS_H
#define KVL_FAKE_HOST_PARTS_H

#include <pthread.h>
#include <time.h>

#include <kvlane/backend.h>

#include "fake_host.h"

#define FAKE_THREADS_MAX 4096 /* over the life of a host */

struct fake_done;
struct fake_target;
struct fake_name;

struct fake_chunk {
    struct fake_chunk *next;
    char key[KVL_KEY_MAX];
    uint32_t key_length;
    struct kvl_attrs attrs;
    uint64_t length;
    uint8_t *data;
    uint32_t refs;
    uint64_t id; /* of a slot or, for leases, of the chunk */
};

struct fake_host {
    struct kvl_host table;
    struct kvl_log log;
    const struct kvl_backend_desc *desc; /* borrowed, like the pairs */
    const char *const *pairs;
    pthread_mutex_t lock; /* guards what follows, but for threads and range */
    pthread_cond_t changed; /* on the monotonic clock */

    /* fake_host.c */
    pthread_t threads[FAKE_THREADS_MAX];
    uint8_t joined[FAKE_THREADS_MAX];
    uint32_t thread_count;
    uint32_t joined_count;

    /* fake_host_batch.c */
    struct fake_done *done;
    struct fake_target *targets;
    struct fake_name *names;
    int target_code;
    uint64_t progress_cookie;
    uint32_t progress_layers;
    uint32_t progress_calls;

    /* fake_host_store.c */
    struct fake_chunk *chunks;
    struct fake_chunk *slots;
    struct fake_chunk *leased; /* gone from the index, still leased */
    uint64_t next_id;
    uint32_t leases;
    uint32_t commits;
    uint32_t aborts;
    uint32_t removes;
    uint32_t reserves;
    uint32_t releases;
    int reserve_code;
    void *range;
    uint64_t range_bytes;

    /* fake_host_events.c */
    struct kvl_store_event *events; /* recorded and not taken */
    uint32_t event_count;
    uint32_t event_room;
    int recording;
    int events_lost;
    int events_woken;
    int events_code;
    struct fake_chunk *held; /* in memory of a GPU */
    int keeps; /* there is a backend that keeps them */

    /* fake_host_peers.c */
    struct fake_offer offer; /* the own one; length 0 = none */
    struct fake_offer offered; /* the last of a peer */
    uint32_t offered_count;
};

static inline struct fake_host *fake_of(const struct kvl_host *host)
{
    return host->ctx;
}

/** Ends the test: the backend, or the test, broke the contract. */
void fake_die(const char *what, const char *name);

/** When a wait that begins now gives up, so that tests end. */
struct timespec fake_until(void);
/** Waits until a counter of the host reaches `count`. Takes the lock. @return 0; -ETIMEDOUT. */
int fake_wait_count(struct fake_host *fake, const uint32_t *counter, uint32_t count);

void fake_batch_fill(struct kvl_host *table);
void fake_batch_fini(struct fake_host *fake);

void fake_store_fill(struct kvl_host *table);
void fake_store_fini(struct fake_host *fake);
/**
 * Calls `fn` for each chunk of a list of the host, without the lock: it may call the host.
 * @return 0, or the first code other than 0 that `fn` returned
 */
int fake_list(struct fake_host *fake, struct fake_chunk *const *list, kvl_key_fn fn, void *ctx);
/** Frees a whole list. */
void fake_free_chunks(struct fake_chunk *chunk);

void fake_events_fill(struct kvl_host *table);
void fake_events_fini(struct fake_host *fake);
/** Records an event of a chunk in host memory, once events are asked for. With the lock held. */
void fake_record(struct fake_host *fake, const struct fake_chunk *chunk, uint32_t kind);

void fake_peers_fill(struct kvl_host *table);

#endif /* KVL_FAKE_HOST_PARTS_H */
