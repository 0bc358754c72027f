/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two ends of the talk between peers in one process, over real sockets; their pools are numbers.
 */
#include "cm.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cuda_engine_rig.h"
#include "cuda_ipc_net.h"
#include "fake_host.h"

#define UNIT ((uint64_t)CUDA_IPC_POOL_ALIGN)
#define WAIT_MS 15000u

static const struct kvl_backend_desc no_options;

struct end {
    struct fake_host *fake;
    struct cuda_ipc_self self;
    struct cuda_ipc_address address;
    struct cuda_ipc_pool *pool;
    struct cuda_ipc_net *net;
    uint32_t share_type;
    int share_fd;
    pthread_mutex_t lock; /* guards what is below */
    pthread_cond_t changed;
    struct cuda_ipc_link *link; /* the one that is up */
    uint32_t ups;
    uint32_t downs;
};

static uint64_t now_ms(const struct end *end)
{
    const struct kvl_host *host = fake_host_table(end->fake);

    return host->now_ms(host);
}

static int on_segment(void *ctx, uint32_t number, struct cuda_ipc_share *share_out, int *fd_out)
{
    const struct end *end = ctx;

    if (end->share_type == CUDA_IPC_SHARE_NONE) {
        return -ENOENT;
    }
    *share_out = (struct cuda_ipc_share){
        .type = end->share_type,
        .base = 0x700000000000ull + number,
        .length = 64 * UNIT,
        .buffer_id = 1000 + number,
        .who = end->self.hello.peer.who,
    };
    *fd_out = end->share_fd;
    return 0;
}

static void on_link(void *ctx, struct cuda_ipc_link *link, int is_up)
{
    struct end *end = ctx;

    pthread_mutex_lock(&end->lock);
    end->link = is_up ? link : NULL;
    end->ups += is_up != 0;
    end->downs += is_up == 0;
    pthread_cond_broadcast(&end->changed);
    pthread_mutex_unlock(&end->lock);
}

static void end_init(struct end *end, uint64_t timeout_ms)
{
    struct cuda_ipc_net_env env = {.max_peers = 4, .timeout_ms = timeout_ms, .retry_ms = 50};
    uint32_t segment;

    memset(end, 0, sizeof(*end));
    end->fake = fake_host_create(&no_options, NULL);
    end->share_type = CUDA_IPC_SHARE_LEGACY;
    end->share_fd = -1;
    pthread_mutex_init(&end->lock, NULL);
    pthread_cond_init(&end->changed, NULL);
    assert_int_equal(cuda_ipc_self_init(&end->self), 0);
    end->self.hello.device_count = 1; /* the same one for all */
    assert_int_equal(cuda_ipc_pool_create(NULL, NULL, &end->pool), 0);
    assert_int_equal(cuda_ipc_pool_add_segment(end->pool, 0, 64 * UNIT, &segment), 0);
    cuda_ipc_address_own(&end->self, &end->address);
    env.host = fake_host_table(end->fake);
    env.pool = end->pool;
    env.self = &end->self;
    env.segment = on_segment;
    env.link_changed = on_link;
    env.ctx = end;
    assert_int_equal(cuda_ipc_net_create(&env, &end->net), 0);
}

static void end_start(struct end *end)
{
    struct kvl_err err = {.size = sizeof(err)};

    assert_int_equal(cuda_ipc_net_start(end->net, &end->address, &err), 0);
}

static void end_fini(struct end *end)
{
    cuda_ipc_net_stop(end->net);
    cuda_ipc_net_destroy(end->net);
    cuda_ipc_pool_destroy(end->pool);
    assert_int_equal(fake_host_leaks(end->fake), 0);
    fake_host_destroy(end->fake);
    pthread_cond_destroy(&end->changed);
    pthread_mutex_destroy(&end->lock);
}

static void end_put(struct end *end, const char *key)
{
    const struct kvl_chunk from = {.key = kvl_key_from_text(key),
                                   .bytes = UNIT,
                                   .attrs = {KVL_FMT_KV_2LTD, KVL_DTYPE_HALF, {1, 2, 3, 4}}};
    struct cuda_ipc_chunk *chunk;

    assert_int_equal(cuda_ipc_pool_reserve(end->pool, 0, &from, &chunk), 0);
    cuda_ipc_pool_commit(end->pool, chunk);
}

static struct cuda_ipc_net_stats stats(struct end *end)
{
    struct cuda_ipc_net_stats stats;

    cuda_ipc_net_get_stats(end->net, &stats);
    return stats;
}

/* Waits for a condition of the counters; there is nobody to tell us. */
#define UNTIL(end, condition)                                                                      \
    do {                                                                                           \
        const uint64_t until_ = now_ms(end) + WAIT_MS;                                             \
        while (!(condition)) {                                                                     \
            const struct timespec pause_ = {.tv_nsec = 1000000};                                   \
            assert_true(now_ms(end) < until_);                                                     \
            nanosleep(&pause_, NULL);                                                              \
        }                                                                                          \
    } while (0)

static void link_up(struct end *end, const struct end *to)
{
    const uint32_t ups = end->ups;

    assert_int_equal(cuda_ipc_net_connect(end->net, &to->address, &to->self.hello.peer), 0);
    pthread_mutex_lock(&end->lock);
    while (end->ups == ups) {
        pthread_cond_wait(&end->changed, &end->lock);
    }
    pthread_mutex_unlock(&end->lock);
}

/* ---- a request made in the thread, and waited for ---- */

struct request {
    struct cuda_ipc_work work;
    struct cuda_ipc_ask ask;
    struct end *end;
    const char *const *texts;
    uint64_t deadline_ms;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int is_sent;
    int is_done;
    int sent; /* what ask said */
    int status;
    int forget;
    uint64_t epoch;
    uint8_t found[CUDA_IPC_WIRE_KEYS_MAX];
    struct cuda_ipc_wire_lease leases[CUDA_IPC_WIRE_KEYS_MAX];
    struct cuda_ipc_share share; /* of the first lease's segment */
    int share_fd;
};

static struct request *request_of_ask(struct cuda_ipc_ask *ask)
{
    return (struct request *)(void *)((char *)ask - offsetof(struct request, ask));
}

static void on_answer(struct cuda_ipc_ask *ask, int status, struct cuda_ipc_link *link,
                      const struct cuda_ipc_wire_message *answer)
{
    struct request *request = request_of_ask(ask);
    const struct cuda_ipc_share *share;

    pthread_mutex_lock(&request->lock);
    request->status = status;
    request->epoch = cuda_ipc_link_epoch(link);
    for (uint32_t i = 0; status == 0 && ask->type == CUDA_IPC_LOOKUP && i < ask->count; i++) {
        request->found[i] = answer->bits[i / 8] >> i % 8 & 1;
    }
    if (status == 0 && ask->type == CUDA_IPC_LEASE) {
        cuda_ipc_wire_get_leases(answer, request->leases);
        share = cuda_ipc_link_segment(link, request->leases[0].segment, &request->share_fd);
        if (share != NULL) {
            request->share = *share;
        }
    }
    request->is_done = 1;
    pthread_cond_broadcast(&request->changed);
    pthread_mutex_unlock(&request->lock);
}

static void send_request(struct cuda_ipc_work *work)
{
    struct request *request = (struct request *)(void *)work;
    struct cuda_ipc_link *links[CUDA_IPC_PEERS_MAX];
    struct kvl_key keys[CUDA_IPC_WIRE_KEYS_MAX];

    for (uint32_t i = 0; i < request->ask.count; i++) {
        keys[i] = kvl_key_from_text(request->texts[i]);
    }
    request->ask.fn = on_answer;
    request->ask.deadline_ms = request->deadline_ms;
    request->sent = cuda_ipc_net_links(request->end->net, links) > 0
                        ? cuda_ipc_link_ask(links[0], &request->ask, keys)
                        : -ENOTCONN;
    if (request->sent == 0 && request->forget) {
        cuda_ipc_link_forget(&request->ask);
    }
    pthread_mutex_lock(&request->lock);
    request->is_sent = 1;
    request->is_done |= request->sent < 0 || request->forget;
    pthread_cond_broadcast(&request->changed);
    pthread_mutex_unlock(&request->lock);
}

static void request_init(struct request *request, struct end *end, uint32_t type,
                         const char *const *texts)
{
    memset(request, 0, sizeof(*request));
    request->end = end;
    request->texts = texts;
    request->deadline_ms = KVL_NEVER;
    request->ask.type = type;
    while (texts[request->ask.count] != NULL) {
        request->ask.count++;
    }
    request->work.fn = send_request;
    pthread_mutex_init(&request->lock, NULL);
    pthread_cond_init(&request->changed, NULL);
}

static void request_wait(struct request *request)
{
    pthread_mutex_lock(&request->lock);
    while (!request->is_sent || !request->is_done) {
        pthread_cond_wait(&request->changed, &request->lock);
    }
    pthread_mutex_unlock(&request->lock);
    pthread_cond_destroy(&request->changed);
    pthread_mutex_destroy(&request->lock);
}

static void ask(struct request *request, struct end *end, uint32_t type, const char *const *texts)
{
    request_init(request, end, type, texts);
    assert_int_equal(cuda_ipc_net_post(end->net, &request->work), 0);
    request_wait(request);
}

struct giving {
    struct cuda_ipc_work work;
    struct end *end;
    uint64_t epoch;
    uint64_t lease;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int is_done;
};

static void give(struct cuda_ipc_work *work)
{
    struct giving *giving = (struct giving *)(void *)work;
    struct cuda_ipc_link *links[CUDA_IPC_PEERS_MAX];

    if (cuda_ipc_net_links(giving->end->net, links) > 0) {
        cuda_ipc_link_release(links[0], giving->epoch, giving->lease);
    }
    pthread_mutex_lock(&giving->lock);
    giving->is_done = 1;
    pthread_cond_broadcast(&giving->changed);
    pthread_mutex_unlock(&giving->lock);
}

static void release(struct end *end, uint64_t epoch, uint64_t lease)
{
    struct giving giving = {.work = {.fn = give}, .end = end, .epoch = epoch, .lease = lease};

    pthread_mutex_init(&giving.lock, NULL);
    pthread_cond_init(&giving.changed, NULL);
    assert_int_equal(cuda_ipc_net_post(end->net, &giving.work), 0);
    pthread_mutex_lock(&giving.lock);
    while (!giving.is_done) {
        pthread_cond_wait(&giving.changed, &giving.lock);
    }
    pthread_mutex_unlock(&giving.lock);
    pthread_cond_destroy(&giving.changed);
    pthread_mutex_destroy(&giving.lock);
}

/* ---- tests ---- */

static void test_lookup_and_lease(void **state)
{
    static const char *const keys[] = {"k1", "nobody has this", "k2", NULL};
    static struct request request;
    struct end a;
    struct end b;

    (void)state;
    end_init(&a, 5000);
    end_init(&b, 5000);
    end_put(&a, "k1");
    end_put(&a, "k2");
    end_start(&a);
    end_start(&b);
    link_up(&b, &a);
    ask(&request, &b, CUDA_IPC_LOOKUP, keys);
    assert_int_equal(request.status, 0);
    assert_int_equal(request.found[0], 1);
    assert_int_equal(request.found[1], 0);
    assert_int_equal(request.found[2], 1);
    assert_int_equal(stats(&a).leases, 0);

    ask(&request, &b, CUDA_IPC_LEASE, keys);
    assert_int_equal(request.status, 0);
    assert_int_equal(request.leases[0].status, 0);
    assert_int_equal(request.leases[0].bytes, UNIT);
    assert_int_equal(request.leases[0].attrs.shape[2], 3);
    assert_int_equal(request.leases[1].status, -ENOENT);
    assert_int_equal(request.leases[2].status, 0);
    assert_int_equal(request.share.buffer_id, 1000);
    assert_memory_equal(&request.share.who, &a.self.hello.peer.who, sizeof(request.share.who));
    assert_int_equal(request.share_fd, -1);
    assert_int_equal(stats(&a).leases, 2);

    release(&b, request.epoch, request.leases[0].lease);
    release(&b, request.epoch + 1, request.leases[2].lease); /* of another connection: ignored */
    UNTIL(&a, stats(&a).leases == 1);
    end_fini(&b); /* and so ends the other one */
    UNTIL(&a, stats(&a).leases == 0);
    assert_int_equal(stats(&a).conns, 0);
    assert_int_equal(stats(&a).protocol_errors, 0);
    end_fini(&a);
}

static void test_a_descriptor_comes_along(void **state)
{
    static const char *const keys[] = {"k1", NULL};
    static struct request request;
    struct stat sent;
    struct stat got;
    struct end a;
    struct end b;
    int pipes[2];

    (void)state;
    assert_int_equal(pipe(pipes), 0);
    end_init(&a, 5000);
    end_init(&b, 5000);
    a.share_type = CUDA_IPC_SHARE_FD;
    a.share_fd = pipes[0];
    end_put(&a, "k1");
    end_start(&a);
    end_start(&b);
    link_up(&b, &a);
    ask(&request, &b, CUDA_IPC_LEASE, keys);
    assert_int_equal(request.leases[0].status, 0);
    assert_int_equal(request.share.type, CUDA_IPC_SHARE_FD);
    assert_true(request.share_fd >= 0);
    assert_int_not_equal(request.share_fd, pipes[0]);
    assert_int_equal(fstat(pipes[0], &sent), 0);
    assert_int_equal(fstat(request.share_fd, &got), 0);
    assert_int_equal(sent.st_ino, got.st_ino);
    end_fini(&b);
    assert_int_equal(fstat(request.share_fd, &got), -1); /* closed with the link */
    end_fini(&a);
    close(pipes[0]);
    close(pipes[1]);
}

static void test_memory_that_cannot_be_shared_is_a_miss(void **state)
{
    static const char *const keys[] = {"k1", NULL};
    static struct request request;
    struct end a;
    struct end b;

    (void)state;
    end_init(&a, 5000);
    end_init(&b, 5000);
    a.share_type = CUDA_IPC_SHARE_NONE;
    end_put(&a, "k1");
    end_start(&a);
    end_start(&b);
    link_up(&b, &a);
    ask(&request, &b, CUDA_IPC_LEASE, keys);
    assert_int_equal(request.leases[0].status, -ENOENT);
    assert_int_equal(stats(&a).leases, 0);
    end_fini(&b);
    end_fini(&a);
}

static void test_an_answer_that_nobody_waits_for(void **state)
{
    static const char *const keys[] = {"k1", NULL};
    static struct request request;
    struct end a;
    struct end b;

    (void)state;
    end_init(&a, 5000);
    end_init(&b, 5000);
    end_put(&a, "k1");
    end_start(&a);
    end_start(&b);
    link_up(&b, &a);
    request_init(&request, &b, CUDA_IPC_LEASE, keys);
    request.forget = 1;
    assert_int_equal(cuda_ipc_net_post(b.net, &request.work), 0);
    request_wait(&request);
    UNTIL(&a, stats(&a).leased == 1);
    UNTIL(&a, stats(&a).leases == 0); /* it was given back all the same */
    end_fini(&b);
    end_fini(&a);
}

static void test_leases_have_a_limit(void **state)
{
    const char *keys[CUDA_IPC_WIRE_KEYS_MAX + 1];
    static struct request request;
    uint32_t refused = 0;
    struct end a;
    struct end b;

    (void)state;
    end_init(&a, 5000);
    end_init(&b, 5000);
    end_put(&a, "k1");
    for (size_t i = 0; i < CUDA_IPC_WIRE_KEYS_MAX; i++) {
        keys[i] = "k1";
    }
    keys[CUDA_IPC_WIRE_KEYS_MAX] = NULL;
    end_start(&a);
    end_start(&b);
    link_up(&b, &a);
    for (uint32_t i = 0; i <= CUDA_IPC_LEASES_MAX / CUDA_IPC_WIRE_KEYS_MAX; i++) {
        ask(&request, &b, CUDA_IPC_LEASE, keys);
        assert_int_equal(request.status, 0);
        refused += request.leases[0].status == -EAGAIN;
    }
    assert_int_equal(refused, 1);
    assert_int_equal(stats(&a).leases, CUDA_IPC_LEASES_MAX);
    end_fini(&b);
    UNTIL(&a, stats(&a).leases == 0);
    end_fini(&a);
}

static void test_a_peer_that_comes_back_is_linked_anew(void **state)
{
    static const char *const keys[] = {"k1", NULL};
    static struct request request;
    struct end a;
    struct end b;
    struct end again;

    (void)state;
    end_init(&a, 5000);
    end_init(&b, 5000);
    end_put(&a, "k1");
    end_start(&a);
    end_start(&b);
    /* as in the INI file: whoever listens there */
    assert_int_equal(cuda_ipc_net_connect(b.net, &a.address, NULL), 0);
    UNTIL(&b, stats(&b).links == 1);
    end_init(&again, 5000);
    again.address = a.address;
    end_put(&again, "k1");
    end_fini(&a);
    UNTIL(&b, stats(&b).links == 0);
    end_start(&again);
    UNTIL(&b, stats(&b).links == 1);
    ask(&request, &b, CUDA_IPC_LEASE, keys);
    assert_int_equal(request.leases[0].status, 0);
    assert_int_equal(b.ups, 2);
    end_fini(&b);
    end_fini(&again);
}

/* An offer of one that has gone leads to nobody else at its place. */
static void test_another_one_at_the_place_of_an_offer(void **state)
{
    struct end a;
    struct end b;
    struct cuda_ipc_wire_peer gone;

    (void)state;
    end_init(&a, 5000);
    end_init(&b, 5000);
    gone = a.self.hello.peer;
    gone.instance[0] ^= 1;
    end_start(&a);
    end_start(&b);
    assert_int_equal(cuda_ipc_net_connect(b.net, &a.address, &gone), 0);
    UNTIL(&b, stats(&b).refused >= 2);
    assert_int_equal(b.ups, 0);
    end_fini(&b);
    end_fini(&a);
}

static void test_one_link_per_peer_and_none_to_ourselves(void **state)
{
    struct end a;
    struct end b;

    (void)state;
    end_init(&a, 5000);
    end_init(&b, 5000);
    end_start(&a);
    end_start(&b);
    link_up(&b, &a);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(cuda_ipc_net_connect(b.net, &a.address, &a.self.hello.peer), 0);
    }
    assert_int_equal(cuda_ipc_net_connect(b.net, &a.address, NULL), 0);
    assert_int_equal(cuda_ipc_net_connect(b.net, &b.address, NULL), 0);
    UNTIL(&b, stats(&b).conns == 0 && stats(&a).conns == 1);
    assert_int_equal(stats(&b).links, 1);
    end_fini(&b);
    end_fini(&a);
}

static void test_closing_waits_for_leases(void **state)
{
    static const char *const keys[] = {"k1", NULL};
    static struct request request;
    static struct request late;
    struct end a;
    struct end b;

    (void)state;
    end_init(&a, 5000);
    end_init(&b, 5000);
    end_put(&a, "k1");
    end_start(&a);
    end_start(&b);
    link_up(&b, &a);
    ask(&request, &b, CUDA_IPC_LEASE, keys);
    assert_int_equal(request.leases[0].status, 0);
    cuda_ipc_net_quiesce(a.net);
    assert_int_equal(cuda_ipc_net_drain(a.net, now_ms(&a) + 50), -ETIMEDOUT);
    do { /* until it has heard of it */
        ask(&late, &b, CUDA_IPC_LEASE, keys);
    } while (late.sent == 0 && late.status == 0);
    assert_int_equal(late.sent, -ENOTCONN);
    assert_int_equal(b.downs, 0);
    assert_int_equal(stats(&a).leases, 1);
    end_fini(&b); /* the lease ends with it */
    assert_int_equal(cuda_ipc_net_drain(a.net, now_ms(&a) + WAIT_MS), 0);
    end_fini(&a);
}

static void test_closing_with_an_idle_peer(void **state)
{
    struct end a;
    struct end b;

    (void)state;
    end_init(&a, 5000);
    end_init(&b, 5000);
    end_start(&a);
    end_start(&b);
    link_up(&b, &a);
    cuda_ipc_net_quiesce(a.net);
    assert_int_equal(cuda_ipc_net_drain(a.net, now_ms(&a) + WAIT_MS), 0);
    UNTIL(&b, stats(&b).links == 0);
    end_fini(&a);
    end_fini(&b);
}

/* ---- strangers ---- */

static int dial(const struct end *end)
{
    int fd = -1;

    assert_int_equal(cuda_ipc_address_connect(&end->address, &fd), 0);
    return fd;
}

static ssize_t receive(int fd, uint8_t *bytes)
{
    struct timeval limit = {.tv_sec = WAIT_MS / 1000};

    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    (void)fcntl(fd, F_SETFL, 0);
    return recv(fd, bytes, CUDA_IPC_WIRE_MAX, 0);
}

static void test_bad_messages_end_the_connection(void **state)
{
    static const char *const bad[] = {"", "x", "\1\0\0\0\20\0\0\0\0\0\0\0\0\0\0\0",
                                      "\3\0\0\0\20\0\0\0\0\0\0\0\0\0\0\0"};
    static const size_t lengths[] = {1, 1, 16, 16};
    static uint8_t bytes[CUDA_IPC_WIRE_MAX];
    struct end a;

    (void)state;
    end_init(&a, 5000);
    end_start(&a);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        const int fd = dial(&a);

        assert_int_equal(send(fd, bad[i], lengths[i], MSG_NOSIGNAL), lengths[i]);
        assert_true(receive(fd, bytes) <= 0);
        close(fd);
    }
    UNTIL(&a, stats(&a).conns == 0);
    assert_int_equal(stats(&a).protocol_errors, 4);
    end_fini(&a);
}

static void test_who_lies_about_itself_is_turned_away(void **state)
{
    static uint8_t bytes[CUDA_IPC_WIRE_MAX];
    struct cuda_ipc_wire_message message;
    struct cuda_ipc_wire_hello hello;
    struct end a;
    ssize_t n;
    int fd;

    (void)state;
    end_init(&a, 5000);
    end_start(&a);
    for (int i = 0; i < 3; i++) {
        hello = a.self.hello;
        hello.peer.who.pid += i == 0;
        hello.peer.who.start_time += i == 1;
        hello.version += i == 2;
        fd = dial(&a);
        assert_true(send(fd, bytes, cuda_ipc_wire_put_hello(&hello, bytes), MSG_NOSIGNAL) > 0);
        n = receive(fd, bytes);
        assert_true(n > 0);
        assert_int_equal(cuda_ipc_wire_decode(bytes, (size_t)n, &message), 0);
        assert_int_equal(message.type, CUDA_IPC_REFUSED);
        assert_int_equal(message.code, i == 2 ? -ENOTSUP : -EPROTO);
        assert_true(receive(fd, bytes) <= 0);
        close(fd);
    }
    assert_int_equal(stats(&a).refused, 3);
    end_fini(&a);
}

static void test_silent_ones_and_too_many(void **state)
{
    static uint8_t bytes[CUDA_IPC_WIRE_MAX];
    struct cuda_ipc_wire_message message;
    int fds[5];
    struct end a;
    ssize_t n;

    (void)state;
    end_init(&a, 300);
    end_start(&a);
    for (int i = 0; i < 5; i++) {
        fds[i] = dial(&a);
    }
    n = receive(fds[4], bytes); /* max_peers is 4 */
    assert_true(n > 0);
    assert_int_equal(cuda_ipc_wire_decode(bytes, (size_t)n, &message), 0);
    assert_int_equal(message.type, CUDA_IPC_REFUSED);
    for (int i = 0; i < 5; i++) {
        assert_true(receive(fds[i], bytes) <= 0); /* who says nothing is let go */
        close(fds[i]);
    }
    UNTIL(&a, stats(&a).conns == 0);
    assert_int_equal(stats(&a).timeouts, 4);
    end_fini(&a);
}

/* Someone who listens, takes the greeting, and says nothing more. */
static void test_a_peer_that_hangs(void **state)
{
    static const char *const keys[] = {"k1", NULL};
    static uint8_t bytes[CUDA_IPC_WIRE_MAX];
    static struct request request;
    struct cuda_ipc_address address;
    struct cuda_ipc_self self;
    struct end b;
    int listener = -1;
    int fd;

    (void)state;
    end_init(&b, 1500);
    assert_int_equal(cuda_ipc_self_init(&self), 0);
    self.hello.device_count = 1;
    cuda_ipc_address_own(&self, &address);
    assert_int_equal(cuda_ipc_address_listen(&address, &listener), 0);
    (void)fcntl(listener, F_SETFL, 0);
    end_start(&b);
    assert_int_equal(cuda_ipc_net_connect(b.net, &address, &self.hello.peer), 0);
    fd = accept(listener, NULL, NULL);
    assert_true(fd >= 0);
    assert_true(receive(fd, bytes) > 0);
    assert_true(send(fd, bytes, cuda_ipc_wire_put_hello(&self.hello, bytes), MSG_NOSIGNAL) > 0);
    UNTIL(&b, stats(&b).links == 1);

    request_init(&request, &b, CUDA_IPC_LOOKUP, keys);
    request.deadline_ms = now_ms(&b) + 20; /* the engine's, before the peer's */
    assert_int_equal(cuda_ipc_net_post(b.net, &request.work), 0);
    request_wait(&request);
    assert_int_equal(request.status, -ETIMEDOUT);
    assert_int_equal(stats(&b).links, 1);
    ask(&request, &b, CUDA_IPC_LOOKUP, keys);
    assert_int_equal(request.status, -ETIMEDOUT);
    UNTIL(&b, stats(&b).links == 0);
    assert_true(stats(&b).timeouts >= 1); /* it is tried again */
    close(fd);
    close(listener);
    end_fini(&b);
}

/* A listener may say only what was asked for. */
static void check_lie(const uint8_t *lie, size_t length)
{
    static const char *const keys[] = {"k1", NULL};
    static uint8_t bytes[CUDA_IPC_WIRE_MAX];
    static struct request request;
    struct cuda_ipc_address address;
    struct cuda_ipc_self self;
    struct end b;
    int listener = -1;
    int fd;

    end_init(&b, 5000);
    assert_int_equal(cuda_ipc_self_init(&self), 0);
    self.hello.device_count = 1;
    cuda_ipc_address_own(&self, &address);
    assert_int_equal(cuda_ipc_address_listen(&address, &listener), 0);
    (void)fcntl(listener, F_SETFL, 0);
    end_start(&b);
    assert_int_equal(cuda_ipc_net_connect(b.net, &address, &self.hello.peer), 0);
    fd = accept(listener, NULL, NULL);
    assert_true(receive(fd, bytes) > 0);
    assert_true(send(fd, bytes, cuda_ipc_wire_put_hello(&self.hello, bytes), MSG_NOSIGNAL) > 0);
    UNTIL(&b, stats(&b).links == 1);
    request_init(&request, &b, CUDA_IPC_LEASE, keys);
    assert_int_equal(cuda_ipc_net_post(b.net, &request.work), 0);
    assert_true(receive(fd, bytes) > 0);
    assert_int_equal(send(fd, lie, length, MSG_NOSIGNAL), length);
    request_wait(&request);
    assert_int_equal(request.status, -EPROTO);
    assert_int_equal(stats(&b).protocol_errors, 1);
    close(fd);
    close(listener);
    end_fini(&b);
}

static void test_answers_that_are_lies(void **state)
{
    const struct cuda_ipc_wire_lease leases[2] = {{.status = -ENOENT}, {.status = -ENOENT}};
    const struct cuda_ipc_wire_segment segment = {
        .share = {.type = CUDA_IPC_SHARE_FD, .length = 4096}};
    const struct kvl_key key = kvl_key_from_text("k1");
    static uint8_t bytes[CUDA_IPC_WIRE_MAX];
    const uint8_t found[1] = {1};

    (void)state;
    check_lie(bytes, cuda_ipc_wire_put_leased(1, leases, 2, bytes)); /* for more keys */
    check_lie(bytes, cuda_ipc_wire_put_leased(2, leases, 1, bytes)); /* not asked yet */
    check_lie(bytes, cuda_ipc_wire_put_found(1, found, 1, bytes)); /* to another question */
    check_lie(bytes, cuda_ipc_wire_put_keys(CUDA_IPC_LOOKUP, 1, &key, 1, bytes));
    check_lie(bytes, cuda_ipc_wire_put_segment(&segment, bytes)); /* without its descriptor */
}

/* The socket lives on in a child; the process does not. */
static void test_a_killed_asker_loses_its_leases(void **state)
{
    static const char *const keys[] = {"k1", NULL};
    static struct request request;
    struct end a;
    struct end b;
    int ready[2];
    int hold[2];
    char byte = 0;
    pid_t pid;
    int how;

    (void)state;
    assert_int_equal(pipe(ready), 0);
    assert_int_equal(pipe(hold), 0);
    end_init(&a, 5000);
    end_put(&a, "k1");
    pid = fork(); /* before there are threads */
    if (pid == 0) {
        end_init(&b, 5000);
        end_start(&b);
        while (cuda_ipc_net_connect(b.net, &a.address, NULL) == 0 && stats(&b).links == 0) {
            const struct timespec pause = {.tv_nsec = 1000000};

            nanosleep(&pause, NULL);
        }
        ask(&request, &b, CUDA_IPC_LEASE, keys);
        if (fork() == 0) { /* holds a copy of the socket until the test ends */
            close(hold[1]);
            _exit(read(hold[0], &byte, 1) == 0 ? 0 : 1);
        }
        _exit(write(ready[1], "r", 1) == 1 && pause() == 0);
    }
    close(hold[0]);
    close(ready[1]); /* so that a child that failed is an end of file */
    end_start(&a);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    assert_int_equal(stats(&a).leases, 1);
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, &how, 0), pid);
    UNTIL(&a, stats(&a).leases == 0);
    close(hold[1]);
    close(ready[0]);
    end_fini(&a);
}

static void test_paths(void **state)
{
    char path[128];
    struct end a;
    struct end b;
    struct stat found;
    struct kvl_err err = {.size = sizeof(err)};
    int fd = -1;

    (void)state;
    (void)snprintf(path, sizeof(path), "/tmp/cuda_ipc-%d.sock", (int)getpid());
    end_init(&a, 5000);
    end_init(&b, 5000);
    assert_int_equal(cuda_ipc_address_parse(path, &a.address), 0);
    assert_int_equal(cuda_ipc_address_listen(&a.address, &fd), 0); /* left behind by a dead one */
    close(fd);
    end_start(&a);
    assert_int_equal(stat(path, &found), 0);
    assert_int_equal(found.st_mode & 0777, 0600);
    b.address = a.address;
    assert_int_equal(cuda_ipc_net_start(b.net, &b.address, &err), -EADDRINUSE);
    assert_non_null(strstr(err.text, path));
    cuda_ipc_net_destroy(b.net);
    cuda_ipc_pool_destroy(b.pool);
    fake_host_destroy(b.fake);
    end_fini(&a);
    assert_int_equal(stat(path, &found), -1);
}

static void test_addresses(void **state)
{
    struct cuda_ipc_address address;
    char text[CUDA_IPC_ADDRESS_TEXT];
    char longest[CUDA_IPC_WIRE_ADDRESS_MAX + 2];

    (void)state;
    assert_int_equal(cuda_ipc_address_parse("relative", &address), -EINVAL);
    assert_int_equal(cuda_ipc_address_parse("/", &address), -EINVAL);
    assert_int_equal(cuda_ipc_address_parse("", &address), -EINVAL);
    assert_int_equal(cuda_ipc_address_parse("@name", &address), 0);
    cuda_ipc_address_print(&address, text, sizeof(text));
    assert_string_equal(text, "@name");
    memset(longest, 'a', sizeof(longest) - 1);
    longest[0] = '/';
    longest[sizeof(longest) - 1] = '\0';
    assert_int_equal(cuda_ipc_address_parse(longest, &address), -EINVAL);
    longest[CUDA_IPC_WIRE_ADDRESS_MAX] = '\0';
    assert_int_equal(cuda_ipc_address_parse(longest, &address), 0);
    cuda_ipc_address_print(&address, text, sizeof(text));
    assert_string_equal(text, longest);
    assert_int_equal(cuda_ipc_address_from_bytes((const uint8_t *)"/a\0b", 4, &address), -EINVAL);
    assert_int_equal(cuda_ipc_address_from_bytes((const uint8_t *)"a/b", 3, &address), -EINVAL);
}

static uint32_t descriptors_before;

static int note_descriptors(void **state)
{
    (void)state;
    descriptors_before = cuda_engine_descriptors();
    return 0;
}

/* Of sockets, processes and memory of peers: none is left over, whatever the tests before did. */
static void test_no_descriptor_is_left(void **state)
{
    (void)state;
    assert_int_equal(cuda_engine_descriptors(), descriptors_before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_killed_asker_loses_its_leases), /* forks: before all threads */
        cmocka_unit_test(test_lookup_and_lease),
        cmocka_unit_test(test_a_descriptor_comes_along),
        cmocka_unit_test(test_memory_that_cannot_be_shared_is_a_miss),
        cmocka_unit_test(test_an_answer_that_nobody_waits_for),
        cmocka_unit_test(test_leases_have_a_limit),
        cmocka_unit_test(test_a_peer_that_comes_back_is_linked_anew),
        cmocka_unit_test(test_another_one_at_the_place_of_an_offer),
        cmocka_unit_test(test_one_link_per_peer_and_none_to_ourselves),
        cmocka_unit_test(test_closing_waits_for_leases),
        cmocka_unit_test(test_closing_with_an_idle_peer),
        cmocka_unit_test(test_bad_messages_end_the_connection),
        cmocka_unit_test(test_who_lies_about_itself_is_turned_away),
        cmocka_unit_test(test_silent_ones_and_too_many),
        cmocka_unit_test(test_a_peer_that_hangs),
        cmocka_unit_test(test_answers_that_are_lies),
        cmocka_unit_test(test_paths),
        cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_no_descriptor_is_left), /* the last one */
    };

    return cmocka_run_group_tests(tests, note_descriptors, NULL);
}
