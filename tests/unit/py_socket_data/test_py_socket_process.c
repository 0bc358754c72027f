/* SPDX-License-Identifier: Apache-2.0 */
/* Peers in processes of their own: that stop, die, come back, and forks of ours. */
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "peer_rig.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
static const int sanitized = 1;
#else
static const int sanitized = 0;
#endif

#define BIG (16u * 1024 * 1024)

static const struct kvl_channel_ops *ops(void)
{
    return kvlane_backend_v1()->ops->channels;
}

struct world {
    const char *mode;
    struct rig_peer own;
    struct rig_child child;
};

static int setup_world(void **state, const char *mode)
{
    struct world *world = calloc(1, sizeof(*world));
    const struct rig_setup setup = {.pairs = strcmp(mode, "tcp") == 0 ? rig_tcp : NULL};

    world->mode = mode;
    rig_spawn(&world->child, mode, NULL);
    rig_start(&world->own, &setup);
    rig_connect(&world->own, world->child.url);
    *state = world;
    return 0;
}

static int setup_shm(void **state)
{
    return setup_world(state, "shm");
}

static int setup_tcp(void **state)
{
    return setup_world(state, "tcp");
}

static int teardown(void **state)
{
    struct world *world = *state;

    rig_stop(&world->own);
    if (world->child.pid != 0) {
        rig_kill(&world->child);
    }
    free(world);
    return 0;
}

static int read_page(struct world *world, uint64_t index, size_t bytes)
{
    const struct kvl_span span = {.addr = world->own.buffer, .length = bytes};

    return rig_move(&world->own, KVL_TRANSFER_READ, world->child.url, &span, &index, 1, NULL);
}

static void test_path(void **state)
{
    struct world *world = *state;

    assert_int_equal(read_page(world, 0, BIG), 0);
    assert_int_equal(rig_is(world->own.buffer, BIG, 7), 1);
    assert_int_equal(rig_counter(&world->own, "data_peers_shm"), strcmp(world->mode, "shm") == 0);
    assert_int_equal(rig_counter(&world->own, "data_peers_tcp"), strcmp(world->mode, "tcp") == 0);
    assert_true(rig_counter(&world->own, "data_bytes_in") >= BIG);
    rig_order(&world->child, RIG_ORDER_FILL);
    assert_int_equal(read_page(world, 0, BIG), 0);
    assert_int_equal(rig_is(world->own.buffer, BIG, 9), 1);
}

static void test_write_arrives(void **state)
{
    struct world *world = *state;
    const struct kvl_span span = {.addr = world->own.buffer, .length = RIG_PAGE};
    uint64_t index = 0;

    rig_fill(world->own.buffer, RIG_PAGE, 5);
    assert_int_equal(
        rig_move(&world->own, KVL_TRANSFER_WRITE, world->child.url, &span, &index, 1, NULL), 0);
    rig_order(&world->child, RIG_ORDER_CHECK);
}

/* ---- peers that go ---- */

static void test_killed_before(void **state)
{
    struct world *world = *state;
    struct rig_child again;
    char url[KVL_CHANNEL_URL_ROOM];

    snprintf(url, sizeof(url), "%s", world->child.url);
    rig_kill(&world->child);
    rig_until_connected(&world->own, url, 0);
    assert_int_equal(read_page(world, 0, RIG_PAGE), -ENOTCONN);

    /* the same URL, another incarnation */
    rig_spawn(&again, world->mode, url);
    rig_connect(&world->own, url);
    world->child = again;
    assert_int_equal(read_page(world, 0, RIG_PAGE), 0);
    assert_int_equal(rig_is(world->own.buffer, RIG_PAGE, 7), 1);
}

#define MANY 64u

/* Whatever was under way ends soon, and with a prefix. */
static void test_killed_in_a_batch(void **state)
{
    struct world *world = *state;
    uint64_t op[MANY];
    uint32_t begun = 0;

    for (; begun < MANY; begun++) {
        const struct kvl_span span = {.addr = world->own.buffer, .length = BIG};
        uint64_t index = 0;

        if (begun == 4) {
            (void)kill(world->child.pid, SIGKILL);
        }
        if (rig_submit(&world->own, KVL_TRANSFER_READ, world->child.url, &span, &index, 1,
                       rig_soon(), &op[begun]) < 0) {
            break;
        }
    }
    for (uint32_t i = 0; i < begun; i++) {
        uint32_t moved = 9;
        int r = ops()->wait(world->own.channel, op[i], rig_soon(), &moved);

        assert_true(r == 0 || r == -ECONNRESET);
        assert_int_equal(moved, r == 0);
    }
    rig_until_connected(&world->own, world->child.url, 0);
}

static void test_closed_by_the_peer(void **state)
{
    struct world *world = *state;

    rig_order(&world->child, RIG_ORDER_CLOSE);
    /* by the map this is seen in the control page, before any word of a socket */
    assert_int_not_equal(read_page(world, 0, RIG_PAGE), 0);
    rig_until_connected(&world->own, world->child.url, 0);
}

struct reader {
    struct world *world;
    _Atomic int stop;
    _Atomic uint32_t reads;
    int bad;
};

static void *read_on(void *arg)
{
    struct reader *reader = arg;
    int r = 0;

    while (!reader->stop && r != -ENOTCONN) {
        r = read_page(reader->world, 0, BIG);
        reader->bad |= r != 0 && r != -ECONNRESET && r != -ENOTCONN;
        reader->reads++;
    }
    return NULL;
}

/* Its memory goes while we copy it: the mapping of ours must hold. */
static void test_closed_under_a_reader(void **state)
{
    struct world *world = *state;
    struct reader reader = {.world = world};
    pthread_t thread;

    assert_int_equal(pthread_create(&thread, NULL, read_on, &reader), 0);
    while (reader.reads < 3) {
        sched_yield();
    }
    rig_order(&world->child, RIG_ORDER_CLOSE);
    rig_until_connected(&world->own, world->child.url, 0);
    reader.stop = 1;
    pthread_join(thread, NULL);
    assert_int_equal(reader.bad, 0);
}

/* ---- a peer that stops ---- */

static void test_stopped_peer(void **state)
{
    struct world *world = *state;
    const struct kvl_span span = {.addr = world->own.buffer, .length = BIG};
    uint64_t index = 0;
    uint64_t op;
    int r;

    assert_int_equal(kill(world->child.pid, SIGSTOP), 0);
    assert_int_equal(rig_submit(&world->own, KVL_TRANSFER_READ, world->child.url, &span, &index, 1,
                                rig_in(100), &op),
                     0);
    r = ops()->wait(world->own.channel, op, rig_soon(), NULL);
    if (strcmp(world->mode, "shm") == 0) {
        assert_int_equal(r, 0); /* needs nothing of the peer */
    } else {
        assert_int_equal(r, -ETIMEDOUT);
        memset(world->own.buffer, 0xee, BIG);
    }
    assert_int_equal(kill(world->child.pid, SIGCONT), 0);
    /* the answer comes late and must go nowhere */
    assert_int_equal(read_page(world, 500, RIG_PAGE), 0);
    for (size_t i = RIG_PAGE; i < BIG && r < 0; i++) {
        assert_int_equal(world->own.buffer[i], 0xee);
    }
}

/* After cancel no byte is written: the memory is filled anew at once and must stay so. */
static void test_cancel_promise(void **state)
{
    struct world *world = *state;

    for (int round = 0; round < 30; round++) {
        const struct kvl_span span = {.addr = world->own.buffer, .length = BIG};
        uint64_t index = 0;
        uint64_t op;

        assert_int_equal(rig_submit(&world->own, KVL_TRANSFER_READ, world->child.url, &span, &index,
                                    1, rig_soon(), &op),
                         0);
        if (round % 3 != 0) { /* somewhere in the middle */
            (void)ops()->wait(world->own.channel, op, rig_in((uint64_t)(round % 3)), NULL);
        }
        ops()->cancel(world->own.channel, op);
        memset(world->own.buffer, 0xee, BIG);
        (void)ops()->wait(world->own.channel, op, rig_soon(), NULL);
        /* another one behind it on the same connections: all late bytes have come by then */
        assert_int_equal(rig_counter(&world->own, "data_operations"), 0);
        {
            const struct kvl_span behind = {.addr = world->own.buffer + BIG, .length = BIG};

            assert_int_equal(rig_move(&world->own, KVL_TRANSFER_READ, world->child.url, &behind,
                                      &index, 1, NULL),
                             0);
        }
        for (size_t i = 0; i < BIG; i += 512) {
            assert_int_equal(world->own.buffer[i], 0xee);
        }
    }
}

/* ---- threads ---- */

struct worker {
    struct world *world;
    uint32_t number;
    int bad;
};

#define WORKERS 4u

static void *work(void *arg)
{
    struct worker *worker = arg;
    struct rig_peer *own = &worker->world->own;
    uint8_t *mine = own->buffer + (size_t)worker->number * 8 * RIG_PAGE;

    for (uint32_t i = 0; i < 200 && !worker->bad; i++) {
        const struct kvl_span spans[2] = {{mine, RIG_PAGE}, {mine + 3 * RIG_PAGE, 1 + i * 100}};
        uint64_t indexes[2] = {i % 500, 600 + i % 100};
        uint8_t expected[64];

        worker->bad = rig_move(own, KVL_TRANSFER_READ, worker->world->child.url, spans, indexes, 2,
                               NULL) != 0;
        rig_fill(expected, sizeof(expected), 7);
        worker->bad |= i % 500 == 0 && memcmp(mine, expected, sizeof(expected)) != 0;
    }
    return NULL;
}

static void test_threads(void **state)
{
    struct worker workers[WORKERS];
    pthread_t threads[WORKERS];

    for (uint32_t i = 0; i < WORKERS; i++) {
        workers[i] = (struct worker){.world = *state, .number = i};
        assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    }
    for (uint32_t i = 0; i < WORKERS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(workers[i].bad, 0);
    }
}

/* ---- fork ---- */

static void test_forked_child(void **state)
{
    struct world *world = *state;
    struct kvl_channel *channel = world->own.channel;
    const struct kvl_span span = {.addr = world->own.buffer, .length = 1};
    pid_t pid = fork();
    int status = 0;

    if (pid == 0) {
        struct kvl_channel_peer peer = {.size = sizeof(peer), .peer_init_url = world->child.url};
        struct kvl_channel_done done;
        uint64_t index = 0;
        uint64_t op = 0;
        int good = rig_submit(&world->own, KVL_TRANSFER_READ, world->child.url, &span, &index, 1,
                              KVL_NEVER, &op) == -ECHILD;

        good = good && ops()->connect(channel, &peer, KVL_NEVER, NULL) == -ECHILD;
        good = good && ops()->is_connected(channel, world->child.url) == -ECHILD;
        good = good && ops()->send_side_message(channel, &peer, KVL_NEVER) == -ECHILD;
        good = good && ops()->indexes(channel, &span, 1, &index) == -ECHILD;
        good = good && ops()->wait(channel, 1, KVL_NEVER, NULL) == -ECHILD;
        good = good && ops()->poll(channel, &done, 1) == -ECHILD;
        good = good && ops()->event_fd(channel) == -ECHILD;
        ops()->cancel(channel, 1);
        ops()->close(channel);
        _exit(good ? 0 : 1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_int_equal(read_page(world, 0, RIG_PAGE), 0);
}

/* The child holds copies of all sockets: closing here must still be seen there. */
static void test_close_with_a_forked_child(void **state)
{
    struct world *world = *state;
    const struct rig_setup setup = {.pairs = strcmp(world->mode, "tcp") == 0 ? rig_tcp : NULL};
    struct rig_peer second;
    int gate[2];
    pid_t pid;

    rig_start(&second, &setup);
    rig_connect(&second, world->own.url);
    rig_until_connected(&world->own, second.url, 1);
    assert_int_equal(pipe(gate), 0);
    pid = fork();
    if (pid == 0) {
        char byte;

        close(gate[1]);
        _exit(read(gate[0], &byte, 1) == 0 ? 0 : 1);
    }
    ops()->close(second.channel);
    rig_until_connected(&world->own, second.url, 0);
    second.channel = NULL;
    close(gate[0]);
    close(gate[1]);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    rig_stop(&second);
}

/* ---- leaks ---- */

static uint32_t open_files(void)
{
    DIR *dir = opendir("/proc/self/fd");
    uint32_t count = 0;

    while (readdir(dir) != NULL) {
        count++;
    }
    closedir(dir);
    return count;
}

static long resident_kib(void)
{
    FILE *file = fopen("/proc/self/status", "r");
    char line[256];
    long kib = 0;

    while (fgets(line, sizeof(line), file) != NULL) {
        if (sscanf(line, "RssAnon: %ld", &kib) == 1) {
            break;
        }
    }
    fclose(file);
    return kib;
}

/* A channel that is opened, reads from the peer and is closed. */
static void round_trip(struct world *world, uint64_t index)
{
    struct kvl_channel_params params = {.size = sizeof(params),
                                        .role = KVL_CHANNEL_BOTH,
                                        .buffer_bytes = 4 * RIG_PAGE,
                                        .align_bytes = RIG_PAGE,
                                        .buffer_fd = -1,
                                        .peer_init_url = "127.0.0.1:0"};
    struct kvl_channel_peer peer = {.size = sizeof(peer), .peer_init_url = world->child.url};
    struct kvl_err err = {.size = sizeof(err)};
    struct rig_peer second = {0};
    struct kvl_span span = {.length = RIG_PAGE};

    assert_int_equal(ops()->open(world->own.self, &params, &second.channel, &err), 0);
    assert_int_equal(ops()->connect(second.channel, &peer, rig_soon(), NULL), 0);
    span.addr = params.buffer_out;
    assert_int_equal(rig_move(&second, KVL_TRANSFER_READ, world->child.url, &span, &index, 1, NULL),
                     0);
    ops()->close(second.channel);
}

static void test_rounds(void **state)
{
    struct world *world = *state;
    const char *text = getenv("KVL_ROUNDS");
    int rounds = text != NULL ? atoi(text) : 150;
    uint32_t files;
    long kib;

    for (int i = 0; i < 20; i++) {
        round_trip(world, (uint64_t)i % 100);
    }
    files = open_files();
    kib = resident_kib();
    for (int i = 0; i < rounds; i++) {
        round_trip(world, (uint64_t)i % 100);
    }
    /* what libzmq closes in its own time is not counted exactly */
    assert_in_range(open_files(), 0, files + 8);
    if (!sanitized) { /* they keep what is freed */
        assert_in_range(resident_kib(), 0, kib + 4096);
    }
    assert_int_equal(read_page(world, 0, RIG_PAGE), 0);
}

#define CASES(setup)                                                                               \
    cmocka_unit_test_setup_teardown(test_path, setup, teardown),                                   \
        cmocka_unit_test_setup_teardown(test_write_arrives, setup, teardown),                      \
        cmocka_unit_test_setup_teardown(test_killed_before, setup, teardown),                      \
        cmocka_unit_test_setup_teardown(test_killed_in_a_batch, setup, teardown),                  \
        cmocka_unit_test_setup_teardown(test_closed_by_the_peer, setup, teardown),                 \
        cmocka_unit_test_setup_teardown(test_closed_under_a_reader, setup, teardown),              \
        cmocka_unit_test_setup_teardown(test_stopped_peer, setup, teardown),                       \
        cmocka_unit_test_setup_teardown(test_cancel_promise, setup, teardown),                     \
        cmocka_unit_test_setup_teardown(test_threads, setup, teardown),                            \
        cmocka_unit_test_setup_teardown(test_forked_child, setup, teardown),                       \
        cmocka_unit_test_setup_teardown(test_close_with_a_forked_child, setup, teardown),          \
        cmocka_unit_test_setup_teardown(test_rounds, setup, teardown)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        CASES(setup_shm),
        CASES(setup_tcp),
    };
    int r = rig_child_main(argc, argv);

    return r >= 0 ? r : cmocka_run_group_tests(tests, NULL, NULL);
}
