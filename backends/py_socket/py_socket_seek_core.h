/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file py_socket_seek_core.h
 * The parts of the asking side and how they hang together; used by its files only.
 *
 *   seek      of the instance: jobs, peers, the thread
 *   job       one lookup or read of the core
 *   query     to one peer about some chunks of a job
 *
 * Locks: job->lock may be held when seek->lock or that of the peers is taken, never the other way
 * round. None is held across a call into the link, the channel or the host.
 *
 * The channel is closed before the record goes. Nobody may touch it then: jobs count who is about
 * to (`submitting`), and so does the thread (`busy`); the end waits for both.
 */
#ifndef KVL_PY_SOCKET_SEEK_CORE_H
#define KVL_PY_SOCKET_SEEK_CORE_H

#include <pthread.h>
#include <stdatomic.h>

#include "py_socket_data.h"
#include "py_socket_job.h"
#include "py_socket_seek.h"

enum py_socket_seek_counter {
    PY_SOCKET_LOOKUPS,
    PY_SOCKET_FOUND,
    PY_SOCKET_READS,
    PY_SOCKET_READ_OK,
    PY_SOCKET_READ_BYTES,
    PY_SOCKET_QUERIES,
    PY_SOCKET_LOCATES,
    PY_SOCKET_STALE,
    PY_SOCKET_SEEK_COUNTERS,
};

struct py_socket_seek {
    struct py_socket_seek_config config;
    char own[KVL_CHANNEL_URL_ROOM]; /* the channel's */
    struct py_socket_who *who;
    uint64_t thread;
    int has_thread;
    atomic_uint_fast64_t counters[PY_SOCKET_SEEK_COUNTERS];

    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t changed;
    struct py_socket_job *jobs;
    struct py_socket_job *finished; /* done in a call of the core: the thread tells */
    struct py_socket_job *queued; /* to be moved on by the thread; retained */
    struct py_socket_query *later; /* found no room; the thread asks again */
    uint64_t locate_from_ms; /* the controller hung: not asked before */
    uint64_t locate_pause_ms;
    uint32_t calls; /* handshakes and locates under way that come back to us */
    int peers_changed; /* the thread is to look at them now */
    int busy; /* the thread uses the channel */
    int quiet;
    int stopping;
};

static inline void py_socket_seek_count(struct py_socket_seek *seek,
                                        enum py_socket_seek_counter which, uint64_t by)
{
    atomic_fetch_add_explicit(&seek->counters[which], by, memory_order_relaxed);
}

static inline uint64_t py_socket_seek_now(const struct py_socket_seek *seek)
{
    return seek->config.host->now_ms(seek->config.host);
}

/** A callback will come back to us: the end has to wait for it. */
void py_socket_seek_call_begins(struct py_socket_seek *seek);
void py_socket_seek_call_ends(struct py_socket_seek *seek);

/** A handshake with the peer at `url`, as py_socket_connect_call, within handshake_timeout. It does
 *  not end with the job that wants it: others profit, and a short deadline says nothing about the
 *  peer. */
int py_socket_seek_connect(struct py_socket_seek *seek, const char *url, py_socket_connected_fn fn,
                           void *ctx);

/** One that says nothing for so long hangs. */
#define PY_SOCKET_HANGS_MS 500u

/** Whether the controller may be asked; how it ended. A pause after one that hung. */
int py_socket_seek_may_locate(struct py_socket_seek *seek);
void py_socket_seek_located(struct py_socket_seek *seek, int32_t status, uint64_t began_ms);

/** Left to the thread: the end of a job; its next step, with a reference that is taken over; a
 *  question that found no room. */
void py_socket_seek_finish_later(struct py_socket_job *job);
void py_socket_seek_advance_later(struct py_socket_job *take_job);
void py_socket_seek_ask_later(struct py_socket_query *query);

/* ---- py_socket_steer.c ---- */

/** First those that had the chunks when somebody looked. */
void py_socket_job_allow_remembered(struct py_socket_job *job);

/**
 * Moves a job on as far as it goes now. Whoever comes while another thread is at it leaves word.
 * @param from_core  1 = in a call of the core, from which no completion may come
 */
void py_socket_job_advance(struct py_socket_job *job, int from_core);

/** Tells the core. Once per job, by whoever made it done. */
void py_socket_job_finish(struct py_socket_job *job);

/* ---- py_socket_query.c ---- */

/**
 * Asks: connects where needed, sends the query, takes the answers. job->out and a reference to
 * the job count it; both are given back, and the job is moved on, when it is over.
 */
void py_socket_query_start(struct py_socket_query *query);

/** Goes on with one whose peer is connected. */
void py_socket_query_submit(struct py_socket_query *query);

#endif /* KVL_PY_SOCKET_SEEK_CORE_H */
