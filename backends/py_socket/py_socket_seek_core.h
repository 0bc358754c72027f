/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file py_socket_seek_core.h
 * The parts of the asking side and how they hang together; used by its files only.
 *
 *   seek      of the instance: jobs, peers, the thread
 *   job       one lookup or read of the core
 *   query     to one peer about some chunks of a job
 *
 * Locks: seek->lock and job->lock are never held together, nor across a call into the link, the
 * channel or the host, except that a job may ask the channel whether a peer is connected.
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
    struct py_socket_who *who;
    uint64_t thread;
    int has_thread;
    atomic_uint_fast64_t counters[PY_SOCKET_SEEK_COUNTERS];

    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t changed;
    struct py_socket_job *jobs;
    struct py_socket_job *finished; /* done before their submit returned: the thread tells */
    uint32_t calls; /* handshakes and locates under way that come back to us */
    int peers_changed; /* the thread is to look at them now */
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

/** A handshake with the peer at `url`, as py_socket_connect_call, within handshake_timeout. */
int py_socket_seek_connect(struct py_socket_seek *seek, const char *url, uint64_t deadline_ms,
                           py_socket_connected_fn fn, void *ctx);

/**
 * Moves a job on as far as it goes now. Whoever comes while another thread is at it leaves word.
 * @param in_submit  1 = from the core's own call, from which no completion may come
 */
void py_socket_job_advance(struct py_socket_job *job, int in_submit);

/**
 * Asks: connects where needed, sends the query, takes the answers. job->out and a reference to
 * the job count it; both are given back, and the job is moved on, when it is over.
 */
void py_socket_query_start(struct py_socket_query *query);

#endif /* KVL_PY_SOCKET_SEEK_CORE_H */
