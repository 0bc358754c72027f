/* SPDX-License-Identifier: Apache-2.0 */
#include "py_socket_loop.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define EVENTS_PER_TURN 32

struct py_socket_loop_task {
    struct py_socket_loop_task *next;
    void (*fn)(void *arg);
    void *arg;
    bool done;
};

static void loop_wake(struct py_socket_loop *loop)
{
    const uint64_t one = 1;
    ssize_t n = write(loop->wake_fd, &one, sizeof(one));

    (void)n; /* a full counter wakes too */
}

static void loop_woken(struct py_socket_source *source, uint32_t events)
{
    struct py_socket_loop *loop = (struct py_socket_loop *)(void *)source;
    uint64_t ignored;
    ssize_t n = read(loop->wake_fd, &ignored, sizeof(ignored));

    (void)events;
    (void)n;
}

/* ---- sources ---- */

static int loop_control(struct py_socket_loop *loop, int op, int fd, uint32_t events,
                        struct py_socket_source *source)
{
    struct epoll_event event = {.events = events, .data.ptr = source};

    return epoll_ctl(loop->epoll_fd, op, fd, &event) < 0 ? -errno : 0;
}

int py_socket_loop_add(struct py_socket_loop *loop, int fd, uint32_t events,
                       struct py_socket_source *source)
{
    return loop_control(loop, EPOLL_CTL_ADD, fd, events, source);
}

void py_socket_loop_modify(struct py_socket_loop *loop, int fd, uint32_t events,
                           struct py_socket_source *source)
{
    (void)loop_control(loop, EPOLL_CTL_MOD, fd, events, source);
}

void py_socket_loop_remove(struct py_socket_loop *loop, int fd)
{
    (void)loop_control(loop, EPOLL_CTL_DEL, fd, 0, NULL);
}

/* ---- tasks ---- */

void py_socket_loop_call(struct py_socket_loop *loop, void (*fn)(void *arg), void *arg)
{
    struct py_socket_loop_task task = {.fn = fn, .arg = arg};

    pthread_mutex_lock(&loop->lock);
    task.next = loop->tasks;
    loop->tasks = &task;
    loop_wake(loop);
    while (!task.done) {
        pthread_cond_wait(&loop->done, &loop->lock);
    }
    pthread_mutex_unlock(&loop->lock);
}

static void loop_run_tasks(struct py_socket_loop *loop)
{
    struct py_socket_loop_task *task;

    pthread_mutex_lock(&loop->lock);
    while ((task = loop->tasks) != NULL) {
        loop->tasks = task->next;
        pthread_mutex_unlock(&loop->lock);
        task->fn(task->arg);
        pthread_mutex_lock(&loop->lock);
        task->done = true;
        pthread_cond_broadcast(&loop->done);
    }
    pthread_mutex_unlock(&loop->lock);
}

/* ---- timers ---- */

void py_socket_timer_add(struct py_socket_loop *loop, struct py_socket_timer *timer,
                         void (*fn)(struct py_socket_timer *timer, uint64_t now_ms))
{
    timer->loop = loop;
    timer->due_ms = KVL_NEVER;
    timer->fn = fn;
    pthread_mutex_lock(&loop->lock);
    timer->next = loop->timers;
    loop->timers = timer;
    pthread_mutex_unlock(&loop->lock);
}

void py_socket_timer_remove(struct py_socket_timer *timer)
{
    struct py_socket_loop *loop = timer->loop;

    pthread_mutex_lock(&loop->lock);
    for (struct py_socket_timer **at = &loop->timers; *at != NULL; at = &(*at)->next) {
        if (*at == timer) {
            *at = timer->next;
            break;
        }
    }
    while (loop->runs == timer) {
        pthread_cond_wait(&loop->done, &loop->lock);
    }
    pthread_mutex_unlock(&loop->lock);
}

void py_socket_timer_at(struct py_socket_timer *timer, uint64_t due_ms)
{
    uint64_t due = atomic_load(&timer->due_ms);

    while (due_ms < due) {
        if (atomic_compare_exchange_weak(&timer->due_ms, &due, due_ms)) {
            /* the thread looks at all timers after it said until when it sleeps */
            if (due_ms < atomic_load(&timer->loop->sleeps_until_ms)) {
                loop_wake(timer->loop);
            }
            return;
        }
    }
}

static struct py_socket_timer *loop_due(struct py_socket_loop *loop, uint64_t now_ms)
{
    for (struct py_socket_timer *timer = loop->timers; timer != NULL; timer = timer->next) {
        if (atomic_load(&timer->due_ms) <= now_ms) {
            return timer;
        }
    }
    return NULL;
}

static void loop_run_timers(struct py_socket_loop *loop, uint64_t now_ms)
{
    pthread_mutex_lock(&loop->lock);
    while ((loop->runs = loop_due(loop, now_ms)) != NULL) {
        atomic_store(&loop->runs->due_ms, KVL_NEVER);
        pthread_mutex_unlock(&loop->lock);
        loop->runs->fn(loop->runs, now_ms);
        pthread_mutex_lock(&loop->lock);
        loop->runs = NULL;
        pthread_cond_broadcast(&loop->done);
    }
    pthread_mutex_unlock(&loop->lock);
}

static uint64_t loop_next_timer(struct py_socket_loop *loop)
{
    uint64_t next = KVL_NEVER;

    pthread_mutex_lock(&loop->lock);
    for (struct py_socket_timer *timer = loop->timers; timer != NULL; timer = timer->next) {
        uint64_t due = atomic_load(&timer->due_ms);

        next = due < next ? due : next;
    }
    pthread_mutex_unlock(&loop->lock);
    return next;
}

/* ---- the thread ---- */

static int loop_timeout(struct py_socket_loop *loop)
{
    uint64_t now = loop->host->now_ms(loop->host);
    uint64_t next;

    loop_run_timers(loop, now);
    /* one that is set from here on wakes us, one that was is seen below */
    atomic_store(&loop->sleeps_until_ms, KVL_NEVER);
    next = loop_next_timer(loop);
    if (next == KVL_NEVER) {
        return -1;
    }
    return next <= now ? 0 : next - now > INT_MAX ? INT_MAX : (int)(next - now);
}

static void *loop_main(void *arg)
{
    struct py_socket_loop *loop = arg;
    struct epoll_event events[EVENTS_PER_TURN];

    while (!atomic_load(&loop->stopping)) {
        int n = epoll_wait(loop->epoll_fd, events, EVENTS_PER_TURN, loop_timeout(loop));

        atomic_store(&loop->sleeps_until_ms, 0);
        for (int i = 0; i < n; i++) {
            struct py_socket_source *source = events[i].data.ptr;

            source->event(source, events[i].events);
        }
        loop_run_tasks(loop);
    }
    return NULL;
}

static void loop_fini(struct py_socket_loop *loop)
{
    if (loop->running) {
        atomic_store(&loop->stopping, true);
        loop_wake(loop);
        (void)loop->host->thread_join(loop->host, loop->thread);
        loop->running = false;
    }
    if (loop->wake_fd >= 0) {
        close(loop->wake_fd);
    }
    if (loop->epoll_fd >= 0) {
        close(loop->epoll_fd);
    }
    pthread_cond_destroy(&loop->done);
    pthread_mutex_destroy(&loop->lock);
}

static int loop_init(struct py_socket_loop *loop, const struct kvl_host *host)
{
    int r;

    memset(loop, 0, sizeof(*loop));
    loop->wake.event = loop_woken;
    loop->host = host;
    pthread_mutex_init(&loop->lock, NULL);
    pthread_cond_init(&loop->done, NULL);
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (loop->epoll_fd < 0 || loop->wake_fd < 0) {
        return -errno;
    }
    r = py_socket_loop_add(loop, loop->wake_fd, EPOLLIN, &loop->wake);
    if (r < 0) {
        return r;
    }
    r = host->thread_create(host, "kvl-ps-data", loop_main, loop, &loop->thread);
    loop->running = r == 0;
    return r;
}

int py_socket_loops_start(struct py_socket_loops *loops, const struct kvl_host *host,
                          uint32_t count)
{
    loops->count = 0;
    while (loops->count < count) {
        int r = loop_init(&loops->loop[loops->count], host);

        loops->count++;
        if (r < 0) {
            py_socket_loops_stop(loops);
            return r;
        }
    }
    return 0;
}

void py_socket_loops_stop(struct py_socket_loops *loops)
{
    for (uint32_t i = 0; i < loops->count; i++) {
        loop_fini(&loops->loop[i]);
    }
    loops->count = 0;
}

struct py_socket_loop *py_socket_loops_next(struct py_socket_loops *loops)
{
    return &loops->loop[atomic_fetch_add(&loops->next, 1) % loops->count];
}
