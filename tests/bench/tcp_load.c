/* SPDX-License-Identifier: Apache-2.0 */
#include "tcp_load.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define SAMPLES_MAX (1u << 16)
/* Before the clock runs: receive windows have to grow on a new connection. */
#define WARM_BYTES ((size_t)4 << 20)
#define WARM_OPS 8u
#define HEAD_MAX 512u

struct load_thread {
    const struct tcp_load *load;
    pthread_barrier_t *barrier;
    atomic_bool *stop; /* NULL = by the clock */
    pthread_t thread;
    int fd;
    uint32_t first;
    uint32_t keys;
    uint8_t *memory; /* source and target, `room` bytes of it */
    size_t room;
    uint8_t *value; /* place of the next one in it */
    uint64_t ops;
    double started;
    double ended;
    uint32_t samples;
    float *us;
    bool failed;
    uint8_t head[HEAD_MAX];
};

double tcp_load_now(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

size_t tcp_load_key(char *out, size_t room, uint32_t number)
{
    return (size_t)snprintf(out, room, "bench@1@0@%08x@half", number + 0x10000000u);
}

uint8_t *tcp_load_memory(void)
{
    static uint8_t *memory;

    if (memory == NULL) {
        memory =
            mmap(NULL, TCP_LOAD_MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) {
            abort();
        }
        (void)madvise(memory, TCP_LOAD_MEMORY, MADV_HUGEPAGE);
        memset(memory, 'k', TCP_LOAD_MEMORY);
    }
    return memory;
}

/* ---- moving bytes ---- */

static bool send_all(int fd, const void *data, size_t size)
{
    const uint8_t *at = data;

    while (size > 0) {
        ssize_t n = send(fd, at, size, MSG_NOSIGNAL);

        if (n <= 0) {
            return false;
        }
        at += n;
        size -= (size_t)n;
    }
    return true;
}

static bool recv_all(int fd, void *data, size_t size)
{
    uint8_t *at = data;

    while (size > 0) {
        ssize_t n = recv(fd, at, size, 0);

        if (n <= 0) {
            return false;
        }
        at += n;
        size -= (size_t)n;
    }
    return true;
}

/* ---- lm:// ---- */

static void put_i32(uint8_t *out, int32_t value)
{
    for (int i = 0; i < 4; i++) {
        out[i] = (uint8_t)((uint32_t)value >> (8 * i));
    }
}

static int32_t get_i32(const uint8_t *in)
{
    return (int32_t)((uint32_t)in[0] | (uint32_t)in[1] << 8 | (uint32_t)in[2] << 16 |
                     (uint32_t)in[3] << 24);
}

static void lm_head(struct load_thread *t, int32_t command, uint32_t key, size_t length)
{
    char text[64];
    size_t n = tcp_load_key(text, sizeof(text), key);

    memset(t->head, 0, TCP_LM_KEY_AT);
    put_i32(t->head, command);
    put_i32(t->head + 4, (int32_t)length);
    put_i32(t->head + 8, command == TCP_LM_PUT ? 4 : 1);
    put_i32(t->head + 12, command == TCP_LM_PUT ? 6 : 2);
    put_i32(t->head + 20, (int32_t)length);
    memcpy(t->head + TCP_LM_KEY_AT, text, n);
    memset(t->head + TCP_LM_KEY_AT + n, ' ', TCP_LM_KEY - n);
}

static bool lm_put(struct load_thread *t, uint32_t key)
{
    lm_head(t, TCP_LM_PUT, key, t->load->size);
    return send_all(t->fd, t->head, TCP_LM_REQUEST) && send_all(t->fd, t->value, t->load->size);
}

static bool lm_ask(struct load_thread *t, int32_t command, uint32_t key, size_t length)
{
    uint8_t reply[TCP_LM_REPLY];

    lm_head(t, command, key, 0);
    return send_all(t->fd, t->head, TCP_LM_REQUEST) && recv_all(t->fd, reply, sizeof(reply)) &&
           get_i32(reply) == 200 && get_i32(reply + 4) == (int32_t)length &&
           recv_all(t->fd, t->value, length);
}

/* ---- RESP2, as Redis ---- */

static size_t resp_head(struct load_thread *t, const char *word, uint32_t key, size_t length)
{
    char text[64];
    size_t n = tcp_load_key(text, sizeof(text), key);
    int used;

    if (length > 0) {
        used = snprintf((char *)t->head, HEAD_MAX, "*3\r\n$%zu\r\n%s\r\n$%zu\r\n%s\r\n$%zu\r\n",
                        strlen(word), word, n, text, length);
    } else {
        used = snprintf((char *)t->head, HEAD_MAX, "*2\r\n$%zu\r\n%s\r\n$%zu\r\n%s\r\n",
                        strlen(word), word, n, text);
    }
    return (size_t)used;
}

static bool resp_put(struct load_thread *t, uint32_t key)
{
    size_t used = resp_head(t, "SET", key, t->load->size);
    char reply[5];

    return send_all(t->fd, t->head, used) && send_all(t->fd, t->value, t->load->size) &&
           send_all(t->fd, "\r\n", 2) && recv_all(t->fd, reply, sizeof(reply)) &&
           memcmp(reply, "+OK\r\n", 5) == 0;
}

static bool resp_get(struct load_thread *t, uint32_t key)
{
    char want[32];
    char reply[32];
    size_t n = (size_t)snprintf(want, sizeof(want), "$%zu\r\n", t->load->size);

    return send_all(t->fd, t->head, resp_head(t, "GET", key, 0)) && recv_all(t->fd, reply, n) &&
           memcmp(reply, want, n) == 0 && recv_all(t->fd, t->value, t->load->size) &&
           recv_all(t->fd, reply, 2);
}

static bool resp_exists(struct load_thread *t, uint32_t key)
{
    char reply[4];

    return send_all(t->fd, t->head, resp_head(t, "EXISTS", key, 0)) &&
           recv_all(t->fd, reply, sizeof(reply)) && memcmp(reply, ":1\r\n", 4) == 0;
}

/* ---- one thread ---- */

static bool thread_op(struct load_thread *t, enum tcp_load_kind kind, uint32_t key)
{
    bool lm = t->load->wire == TCP_LOAD_LM;

    t->value += t->load->size;
    if (t->value + t->load->size > t->memory + t->room) {
        t->value = t->memory;
    }
    switch (kind) {
    case TCP_LOAD_PUT:
        return lm ? lm_put(t, key) : resp_put(t, key);
    case TCP_LOAD_GET:
        return lm ? lm_ask(t, TCP_LM_GET, key, t->load->size) : resp_get(t, key);
    case TCP_LOAD_EXIST:
        return lm ? lm_ask(t, TCP_LM_EXIST, key, 0) : resp_exists(t, key);
    default:
        return thread_op(t, TCP_LOAD_PUT, key) && thread_op(t, TCP_LOAD_EXIST, key);
    }
}

static void set_nodelay(int fd)
{
    const int on = 1;

    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

static int connect_to(const struct tcp_load *load)
{
    int fd = socket(load->addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd >= 0 && connect(fd, (const struct sockaddr *)&load->addr, load->addr_length) != 0) {
        close(fd);
        return -1;
    }
    if (fd >= 0 && load->wire == TCP_LOAD_RESP) {
        set_nodelay(fd); /* as its clients do */
    }
    return fd;
}

static uint32_t thread_key(const struct load_thread *t, uint64_t i)
{
    return t->first + (uint32_t)(i % t->keys);
}

static void thread_warm(struct load_thread *t)
{
    size_t bytes = 0;

    for (uint32_t i = 0; i < WARM_OPS && !t->failed && (i == 0 || bytes < WARM_BYTES); i++) {
        t->failed = !thread_op(t, t->load->kind, thread_key(t, i));
        bytes += t->load->kind == TCP_LOAD_EXIST ? 0 : t->load->size;
    }
    /* what was sent has arrived when the clock starts to run */
    if (!t->failed && t->load->kind == TCP_LOAD_PUT) {
        t->failed = !thread_op(t, TCP_LOAD_EXIST, thread_key(t, 0));
    }
}

static bool thread_goes_on(const struct load_thread *t, double now)
{
    if (t->load->run_ms == 0) {
        return t->ops < t->keys;
    }
    if (t->stop != NULL) {
        return !atomic_load(t->stop);
    }
    return now - t->started < t->load->run_ms / 1000.0;
}

static void thread_measure(struct load_thread *t)
{
    double before = tcp_load_now();
    double now = before;

    t->started = before;
    while (!t->failed && thread_goes_on(t, now)) {
        t->failed = !thread_op(t, t->load->kind, thread_key(t, t->ops));
        now = tcp_load_now();
        t->us[t->ops % SAMPLES_MAX] = (float)((now - before) * 1e6);
        t->ops++;
        before = now;
    }
    if (!t->failed && t->load->kind == TCP_LOAD_PUT) {
        /* the end of the stream is no part of the stall that TCP_LOAD_PUT_EXIST measures */
        set_nodelay(t->fd);
        t->failed = !thread_op(t, TCP_LOAD_EXIST, thread_key(t, t->ops - (t->ops > 0)));
    }
    t->ended = tcp_load_now();
    t->samples = t->ops < SAMPLES_MAX ? (uint32_t)t->ops : SAMPLES_MAX;
}

static void *thread_main(void *arg)
{
    struct load_thread *t = arg;

    t->fd = connect_to(t->load);
    t->us = malloc(SAMPLES_MAX * sizeof(*t->us));
    t->failed = t->fd < 0 || t->us == NULL;
    if (!t->failed && t->load->run_ms > 0) {
        thread_warm(t);
    }
    (void)pthread_barrier_wait(t->barrier);
    if (!t->failed) {
        thread_measure(t);
    }
    if (t->fd >= 0) {
        close(t->fd);
    }
    return NULL;
}

/* ---- all threads of a load ---- */

static void load_start(const struct tcp_load *load, struct load_thread *threads,
                       pthread_barrier_t *barrier, atomic_bool *stop)
{
    size_t room = TCP_LOAD_MEMORY / load->conns;
    uint8_t *memory = tcp_load_memory();
    pthread_attr_t attr;

    (void)pthread_attr_init(&attr);
    (void)pthread_attr_setstacksize(&attr, 256 * 1024);
    for (uint32_t i = 0; i < load->conns; i++) {
        uint32_t from = (uint32_t)((uint64_t)load->keys * i / load->conns);
        uint32_t to = (uint32_t)((uint64_t)load->keys * (i + 1) / load->conns);

        threads[i] = (struct load_thread){.load = load,
                                          .barrier = barrier,
                                          .stop = stop,
                                          .memory = memory + i * room,
                                          .room = room,
                                          .value = memory + i * room,
                                          .first = load->first_key + from,
                                          .keys = to > from ? to - from : 1};
        if (pthread_create(&threads[i].thread, &attr, thread_main, &threads[i]) != 0) {
            abort();
        }
    }
    (void)pthread_attr_destroy(&attr);
}

static int order_floats(const void *a, const void *b)
{
    float x = *(const float *)a;
    float y = *(const float *)b;

    return (x > y) - (x < y);
}

static void load_percentiles(struct load_thread *threads, uint32_t conns,
                             struct tcp_load_result *result)
{
    size_t count = 0;
    float *all;

    for (uint32_t i = 0; i < conns; i++) {
        count += threads[i].samples;
    }
    all = malloc((count + 1) * sizeof(*all));
    if (all == NULL || count == 0) {
        free(all);
        return;
    }
    count = 0;
    for (uint32_t i = 0; i < conns; i++) {
        memcpy(all + count, threads[i].us, threads[i].samples * sizeof(*all));
        count += threads[i].samples;
    }
    qsort(all, count, sizeof(*all), order_floats);
    result->p50_us = (double)all[count / 2];
    result->p99_us = (double)all[count * 99 / 100];
    free(all);
}

static int load_join(const struct tcp_load *load, struct load_thread *threads,
                     struct tcp_load_result *result_out)
{
    struct tcp_load_result result = {0};
    double started = 0;
    double ended = 0;
    int r = 0;

    for (uint32_t i = 0; i < load->conns; i++) {
        struct load_thread *t = &threads[i];

        (void)pthread_join(t->thread, NULL);
        r = t->failed ? -1 : r;
        result.ops += t->ops;
        started = i == 0 || t->started < started ? t->started : started;
        ended = t->ended > ended ? t->ended : ended;
    }
    if (r == 0) {
        result.seconds = ended - started;
        result.ops_per_s = (double)result.ops / result.seconds;
        result.gb_per_s = result.ops_per_s * (double)load->size / 1e9;
        load_percentiles(threads, load->conns, &result);
        *result_out = result;
    } else {
        fprintf(stderr, "a connection failed or was answered wrongly\n");
    }
    for (uint32_t i = 0; i < load->conns; i++) {
        free(threads[i].us);
    }
    return r;
}

int tcp_load_run(const struct tcp_load *load, struct tcp_load_result *result_out)
{
    struct load_thread threads[TCP_LOAD_CONNS_MAX];
    pthread_barrier_t barrier;
    int r;

    (void)pthread_barrier_init(&barrier, NULL, load->conns);
    load_start(load, threads, &barrier, NULL);
    r = load_join(load, threads, result_out);
    (void)pthread_barrier_destroy(&barrier);
    return r;
}

int tcp_load_run_beside(const struct tcp_load *front, const struct tcp_load *back,
                        struct tcp_load_result *front_out, struct tcp_load_result *back_out)
{
    struct load_thread fronts[TCP_LOAD_CONNS_MAX];
    struct load_thread backs[TCP_LOAD_CONNS_MAX];
    pthread_barrier_t barrier;
    atomic_bool stop = false;
    int r;

    (void)pthread_barrier_init(&barrier, NULL, front->conns + back->conns);
    load_start(back, backs, &barrier, &stop);
    load_start(front, fronts, &barrier, NULL);
    r = load_join(front, fronts, front_out);
    atomic_store(&stop, true);
    r = load_join(back, backs, back_out) < 0 ? -1 : r;
    (void)pthread_barrier_destroy(&barrier);
    return r;
}
