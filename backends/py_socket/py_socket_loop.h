/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file py_socket_loop.h
 * The threads that wait for data connections, shared by all channels of an instance.
 *
 * A source is run by its loop's thread only. It is taken out by its own event or by a task of
 * py_socket_loop_call, so that none runs after it is gone.
 */
#ifndef KVL_PY_SOCKET_LOOP_H
#define KVL_PY_SOCKET_LOOP_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include <kvlane/host.h>

#define PY_SOCKET_LOOPS_MAX 4u

struct py_socket_loop;

/** Something with a descriptor; the first member of it. */
struct py_socket_source {
    void (*event)(struct py_socket_source *source, uint32_t events);
};

/** Calls `fn` at or after due_ms, which becomes KVL_NEVER before that. */
struct py_socket_timer {
    struct py_socket_timer *next;
    struct py_socket_loop *loop;
    _Atomic uint64_t due_ms; /* KVL_NEVER = not set */
    void (*fn)(struct py_socket_timer *timer, uint64_t now_ms);
};

struct py_socket_loop_task;

struct py_socket_loop {
    struct py_socket_source wake;
    const struct kvl_host *host; /* borrowed */
    int epoll_fd;
    int wake_fd;
    uint64_t thread;
    bool running;
    _Atomic bool stopping;
    _Atomic uint64_t sleeps_until_ms; /* when the wait ends by itself; 0 = awake */

    pthread_mutex_t lock; /* guards the rest */
    pthread_cond_t done; /* a task or a timer has been done */
    struct py_socket_loop_task *tasks;
    struct py_socket_timer *timers;
    struct py_socket_timer *runs; /* now */
};

struct py_socket_loops {
    uint32_t count;
    _Atomic uint32_t next;
    struct py_socket_loop loop[PY_SOCKET_LOOPS_MAX];
};

/** Starts `count` threads. @return 0; -EMFILE, -EAGAIN, -ENOMEM: then nothing is left. */
int py_socket_loops_start(struct py_socket_loops *loops, const struct kvl_host *host,
                          uint32_t count);
/** Ends and joins them. No source, timer or task may be left. */
void py_socket_loops_stop(struct py_socket_loops *loops);

/** The loops in turn. */
struct py_socket_loop *py_socket_loops_next(struct py_socket_loops *loops);

/** Runs fn in the loop's thread, between events, and waits for it. Not from that thread. */
void py_socket_loop_call(struct py_socket_loop *loop, void (*fn)(void *arg), void *arg);

/** Watches `fd`. Any thread. @return 0; -errno. */
int py_socket_loop_add(struct py_socket_loop *loop, int fd, uint32_t events,
                       struct py_socket_source *source);
/** Changes what is watched. Any thread, while the source is in. */
void py_socket_loop_modify(struct py_socket_loop *loop, int fd, uint32_t events,
                           struct py_socket_source *source);
/** Before the descriptor is closed: children may hold copies. The loop's thread only. */
void py_socket_loop_remove(struct py_socket_loop *loop, int fd);

void py_socket_timer_add(struct py_socket_loop *loop, struct py_socket_timer *timer,
                         void (*fn)(struct py_socket_timer *timer, uint64_t now_ms));
/** When this returns it does not run any more. Not from within a timer. */
void py_socket_timer_remove(struct py_socket_timer *timer);
/** Makes it due at the latest then. Any thread, also from within it. */
void py_socket_timer_at(struct py_socket_timer *timer, uint64_t due_ms);

#endif /* KVL_PY_SOCKET_LOOP_H */
