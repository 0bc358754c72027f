/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file py_socket_job.h
 * One lookup or read of the core under way: its chunks, whom they were asked from, what is known.
 * Driven by py_socket_steer.c.
 */
#ifndef KVL_PY_SOCKET_JOB_H
#define KVL_PY_SOCKET_JOB_H

#include <pthread.h>
#include <stdatomic.h>

#include <kvlane/backend.h>

#include "py_socket_who.h"

/** Peers that one job asks at most. */
#define PY_SOCKET_JOB_HOLDERS 32u

struct py_socket_seek;
struct py_socket_job;

struct py_socket_item {
    struct kvl_chunk chunk; /* key text in job->keys */
    uint64_t hash; /* of the key */
    uint32_t eligible; /* bit per job->holders */
    uint32_t asked; /* likewise */
    uint32_t out; /* questions about it without an answer */
    int32_t status; /* -EINPROGRESS = open */
    int32_t failure; /* the one that says most; 0 = none yet */
    struct kvl_sg target; /* read: where the host wants it, when it is not direct */
    struct kvl_chunk told; /* and what it was told that comes there */
    uint64_t checksum; /* of what is coming, 0 = not known */
};

/** A question to one peer about some of the items. Lives as long as the job. */
struct py_socket_query {
    struct py_socket_job *job;
    struct py_socket_holder *holder;
    uint32_t place; /* of it in job->holders */
    struct py_socket_query *next;
    struct py_socket_query *next_later; /* of the seek: no room to ask now */
    uint64_t op; /* while it is out */
    uint64_t began_ms;
    int is_moving; /* counted in job->moving */
    int is_answered;
    uint32_t count;
    uint32_t items[]; /* indexes into job->items */
};

/** Who may be asked so far. */
enum py_socket_phase_of_job {
    PY_SOCKET_REMEMBERED, /* and those that the controller named */
    PY_SOCKET_STATIC, /* and those of the INI file */
};

struct py_socket_job {
    struct py_socket_seek *seek;
    struct py_socket_job *next; /* of the seek */
    struct py_socket_job *prev;
    int is_swept; /* by the end of the seek */
    struct py_socket_job *next_finished;
    struct py_socket_job *next_queued;
    atomic_uint refs;
    int is_read;
    int is_direct; /* read into the engine's own memory */
    uint64_t cookie;
    uint64_t deadline_ms;
    uint32_t count;
    struct py_socket_item *items;
    char *keys;
    struct kvl_sg *sg; /* direct: the engine's runs */
    uint32_t *sg_first;

    pthread_mutex_t lock; /* guards all below, and the items while questions are out */
    pthread_cond_t settled; /* nothing is being submitted */
    uint32_t out; /* questions and locates without an answer */
    uint32_t submitting; /* threads that use the channel for it */
    uint32_t moving; /* questions after which bytes may come */
    int advancing;
    int again;
    int is_queued; /* the thread will move it on */
    int cancelled;
    int done;
    enum py_socket_phase_of_job phase;
    uint32_t located; /* the first item that was open then, and one more; 0 = not yet */
    uint64_t locate_ms; /* when that was asked */
    uint32_t holder_count;
    struct py_socket_holder *holders[PY_SOCKET_JOB_HOLDERS];
    struct py_socket_query *queries; /* owned */
    uint64_t bytes;
};

/** Copies the batch; one reference is the caller's. @return 0; -ENOTSUP memory of no known kind;
 *  -EINVAL; -ENOMEM. */
int py_socket_job_create(struct py_socket_seek *seek, const struct kvl_batch *batch, int is_read,
                         struct py_socket_job **job_out);
void py_socket_job_retain(struct py_socket_job *job);
void py_socket_job_release(struct py_socket_job *job);

/** `count` items from `first` on may be asked from the holder. The lock is held. */
void py_socket_job_allow(struct py_socket_job *job, struct py_socket_holder *holder, uint32_t first,
                         uint32_t count);

/** 1 when an item is still open. The lock is held. */
int py_socket_job_is_open(const struct py_socket_job *job);

/** The first open one; job->count when none is. The lock is held. */
uint32_t py_socket_job_first_open(const struct py_socket_job *job);

/** An item ends well, or is to be asked from somebody else. Nothing happens any more to a job that
 *  is done. The lock is held. */
void py_socket_job_end_item(struct py_socket_job *job, uint32_t item, int32_t status);

/**
 * The questions of the next round, in a list; each open item is asked from all who may be asked
 * (lookup) or from the first of them (read). NULL = nobody is left. The lock is held.
 */
struct py_socket_query *py_socket_job_plan(struct py_socket_job *job);

/** Runs of an item in the engine's memory. */
const struct kvl_sg *py_socket_job_runs(const struct py_socket_job *job, uint32_t item,
                                        uint32_t *count_out);

/** Bytes of an item have the checksum they should. */
int py_socket_job_is_right(const struct py_socket_job *job, uint32_t item);

#endif /* KVL_PY_SOCKET_JOB_H */
